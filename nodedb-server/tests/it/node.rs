//! A node in a folder of its own, and clients of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nodedb_server::{Config, Node};
use tokio_postgres::{Client, NoTls};

/// A data directory that goes away with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let n = LAST.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ndb-it-{}-{n}", std::process::id()));
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn open(folder: &Folder, cores: u16) -> Node {
    let config = Config {
        data_dir: folder.path().to_owned(),
        pg_port: 0,
        http_port: 0,
        native_port: 0,
        cores: Some(cores),
        ..Config::default()
    };
    Node::open(&config).expect("the node starts")
}

/// Connects; the connection runs until the client is dropped.
pub async fn connect(node: &Node) -> Client {
    let address = node.addresses().pg;
    let url = format!(
        "host={} port={} user=me dbname=nodedb",
        address.ip(),
        address.port()
    );
    let (client, connection) = tokio_postgres::connect(&url, NoTls)
        .await
        .expect("connects");
    tokio::spawn(async move {
        // Its end is the client's.
        let _ = connection.await;
    });
    client
}

/// Runs a test's clients.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// The SQLSTATE of a failure that the server reported.
pub fn code<T: std::fmt::Debug>(result: Result<T, tokio_postgres::Error>) -> String {
    let error = result.expect_err("is refused");
    match error.as_db_error() {
        Some(error) => error.code().code().to_owned(),
        None => panic!("not from the server: {error}"),
    }
}
