//! A server process: started on free ports, found by its ready line, killed without warning.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

/// How long a server may take until it accepts connections, before the test gives up on it.
const READY_WAIT_MAX: Duration = Duration::from_secs(30);

/// A directory that is gone when the test is.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ndb-{name}-{}-{number}", std::process::id()));
        // Left behind by a process of the same number, if at all.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the data directory is kept: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// How a server is started.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub cores: u32,
    /// `auto`, `uring` or `threads`.
    pub io: &'static str,
}

/// A running server.
pub struct Server {
    child: Child,
    pub pg: SocketAddr,
    pub http: SocketAddr,
    pub native: SocketAddr,
    /// The line that it prints when it lets clients in.
    pub ready: String,
    /// From the start of the process to its ready line.
    pub opened_in: Duration,
}

impl Server {
    /// Starts a server over `folder` and waits until it lets clients in.
    pub fn start(folder: &Path, start: Start) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ndb"));
        command
            .arg("serve")
            .args(["--pg-port", "0", "--http-port", "0", "--native-port", "0"])
            .args(["--shards", "4", "--cores", &start.cores.to_string()])
            .args(["--io", start.io, "--checkpoint-log", "64kB"])
            .arg("--data-dir")
            .arg(folder)
            .stdin(Stdio::null());
        Server::launch(&mut command).unwrap_or_else(|problem| panic!("{start:?}: {problem}"))
    }

    /// Runs a command that serves and waits until it lets clients in.
    pub fn launch(command: &mut Command) -> Result<Server, String> {
        let begun = Instant::now();
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let out = child.stdout.take().expect("its output is a pipe");
        let (tx, rx) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(out).lines();
            let first = lines.find_map(|line| line.ok().filter(|l| l.starts_with("ready ")));
            let _ = tx.send(first);
            // The pipe is read to its end, so that the server never waits for it.
            for _ in lines {}
        });
        match rx.recv_timeout(READY_WAIT_MAX) {
            Ok(Some(line)) => Ok(Server {
                child,
                pg: address(&line, "pg="),
                http: address(&line, "http="),
                native: address(&line, "native="),
                ready: line,
                opened_in: begun.elapsed(),
            }),
            other => {
                let _ = child.kill();
                let status = child.wait();
                Err(format!("the server is not ready: {other:?}, {status:?}"))
            }
        }
    }

    /// SIGKILL: nothing of the process runs after this.
    pub fn kill(mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }

    /// SIGTERM; gives how the process has ended.
    pub fn terminate(mut self) -> ExitStatus {
        let told = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(told.expect("a signal").success());
        self.child.wait().expect("the process ends")
    }

    /// Memory of the process that is resident, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = line.and_then(|l| l.trim().strip_suffix("kB"));
        kib.and_then(|n| n.trim().parse::<u64>().ok())
            .expect("its size")
            << 10
    }

    /// A connection whose task runs beside the test.
    pub async fn connect(&self) -> Client {
        connect(self.pg).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already where the test has killed it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(ready: &str, name: &str) -> SocketAddr {
    ready
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name} in {ready:?}"))
        .parse()
        .expect("an address")
}

pub async fn connect(address: SocketAddr) -> Client {
    let config = format!(
        "host={} port={} user=test dbname=nodedb",
        address.ip(),
        address.port()
    );
    let (client, connection) = tokio_postgres::connect(&config, NoTls)
        .await
        .expect("the server lets clients in");
    tokio::spawn(async move {
        // It ends with the client or with the server; whoever waits for an answer is told.
        let _ = connection.await;
    });
    client
}
