//! A node inside the test's own process, on free ports and a folder of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use nodedb_server::{Config, Node};

pub struct Served {
    pub pg: SocketAddr,
    pub http: SocketAddr,
    node: Option<Node>,
    folder: PathBuf,
}

impl Served {
    pub fn start(cores: u16) -> Served {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("ndb-slt-{}-{number}", std::process::id()));
        // Left behind by a process of the same number, if at all.
        let _ = std::fs::remove_dir_all(&folder);
        let settings = [
            ("data_dir", folder.display().to_string()),
            ("shards", "4".to_owned()),
            ("cores", cores.to_string()),
            ("pg_port", "0".to_owned()),
            ("http_port", "0".to_owned()),
            ("native_port", "0".to_owned()),
        ];
        let flags = settings.map(|(name, value)| (name.to_owned(), value));
        let config = Config::load(None, std::iter::empty(), flags.into_iter())
            .unwrap_or_else(|e| panic!("the settings are right: {e}"));
        let node = Node::open(&config).unwrap_or_else(|e| panic!("a node opens: {e}"));
        let addresses = node.addresses();
        Served {
            pg: addresses.pg,
            http: addresses.http,
            node: Some(node),
            folder,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.node.take());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
