//! A node inside this process, reached by its own client over loopback.

use std::path::Path;

use anyhow::Result;
use nodedb_client::{Client, SqlState};
use nodedb_server::{Addresses, Config, Node};

use crate::serve::explained;

pub struct Embedded {
    node: Node,
    client: Client,
}

impl Embedded {
    /// Opens a data directory, making it if needed, on free ports of 127.0.0.1.
    pub async fn open(data_dir: &Path) -> Result<Embedded> {
        let config = Config {
            data_dir: data_dir.to_owned(),
            pg_port: 0,
            http_port: 0,
            native_port: 0,
            ..Config::default()
        };
        let node = Node::open(&config).map_err(|failure| {
            let failure = match failure.code() {
                SqlState::ObjectInUse => failure.with_hint(
                    "if that is a server, ask it: ndb sql, or ndb import --url ndb://127.0.0.1:6433",
                ),
                _ => failure,
            };
            explained(&failure)
        })?;
        let client = Client::connect(&format!("ndb://{}", node.addresses().native)).await?;
        Ok(Embedded { node, client })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn addresses(&self) -> Addresses {
        self.node.addresses()
    }

    /// Ends its sessions and closes its files.
    pub fn close(self) -> Result<()> {
        drop(self.client);
        self.node.stop().map_err(|failure| explained(&failure))
    }
}
