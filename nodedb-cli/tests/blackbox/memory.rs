//! Rows outgrow the memory that the server may use for them.
//!
//! Four times the memory in rows is written and then read by key, by a scan and through an index,
//! changed, checked, and read again after the server was killed and has another number of cores.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use tokio_postgres::Client;

use crate::server::{Folder, Server};

const MEMORY: &str = "32MB";
/// Bytes of rows and keys that a core keeps, whatever the server was told.
const LEAST: u64 = 16 << 20;
const ROW_BYTES: i64 = 32 << 10;
const STATEMENTS: i64 = 32;
const ROWS_EACH: i64 = 64;
const ROWS: i64 = STATEMENTS * ROWS_EACH;
/// What a turn may bring in before the next takes as much away.
const SLACK: u64 = 4 << 20;
/// Rounds of reads until a checkpoint must have ended.
const READS_MAX: u32 = 50;

#[tokio::test]
async fn rows_outgrow_memory() {
    let folder = Folder::new("memory");
    let server = start(folder.path(), 1);
    let client = server.connect().await;
    for sql in [
        "CREATE TABLE big (id BIGINT PRIMARY KEY, grp INT, payload TEXT NOT NULL)",
        "CREATE INDEX big_grp ON big (grp)",
    ] {
        run(&client, sql).await;
    }
    for n in 0..STATEMENTS {
        let (from, to) = (n * ROWS_EACH, (n + 1) * ROWS_EACH - 1);
        let sql = format!(
            "INSERT INTO big SELECT g, (g % 100)::int, repeat(lpad(g::text, 8, '0'), {}) \
             FROM generate_series({from}, {to}) AS s(g)",
            ROW_BYTES / 8
        );
        run(&client, &sql).await;
    }
    // Nothing can go before a checkpoint, which comes beside the writes, has written it.
    let mut leaves = Leaves::of(&server);
    for _ in 0..READS_MAX {
        reads(&client, ROWS, 0).await;
        leaves = Leaves::of(&server);
        if leaves.read > 0 {
            break;
        }
    }
    assert!(leaves.evicted > 0 && leaves.read > 0, "{leaves:?}");
    assert_eq!(leaves.max, LEAST);
    assert!(leaves.held <= leaves.most(), "{leaves:?}");

    run(
        &client,
        "UPDATE big SET payload = payload || 'changed' WHERE grp = 7",
    )
    .await;
    run(&client, "DELETE FROM big WHERE grp = 8").await;
    let (changed, deleted) = (in_group(7), in_group(8));
    reads(&client, ROWS - deleted, changed).await;
    server.kill();

    let server = start(folder.path(), 2);
    let client = server.connect().await;
    reads(&client, ROWS - deleted, changed).await;
    let again = Leaves::of(&server);
    assert!(again.read > 0, "{again:?}");
    assert!(again.held <= again.most(), "{again:?}");
}

/// Rows with this `grp`.
fn in_group(grp: i64) -> i64 {
    (0..ROWS).filter(|id| id % 100 == grp).count() as i64
}

fn start(folder: &Path, cores: u32) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ndb"));
    command
        .arg("serve")
        .args(["--pg-port", "0", "--http-port", "0", "--native-port", "0"])
        .args(["--shards", "4", "--cores", &cores.to_string()])
        .args(["--memory", MEMORY])
        .arg("--data-dir")
        .arg(folder)
        .stdin(Stdio::null());
    Server::launch(&mut command).expect("a server with little memory")
}

async fn run(client: &Client, sql: &str) {
    client.simple_query(sql).await.expect(sql);
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.expect(sql).get(0)
}

/// All rows by a scan, some by key, some through the index, and the check. `changed` of them are
/// seven characters longer.
async fn reads(client: &Client, rows: i64, changed: i64) {
    let sql = "SELECT sum(length(payload))::bigint FROM big";
    assert_eq!(
        number(client, sql).await,
        rows * ROW_BYTES + changed * "changed".len() as i64
    );
    let by_key = client
        .prepare("SELECT payload FROM big WHERE id = $1")
        .await
        .expect("a statement");
    for id in (0..ROWS)
        .step_by(37)
        .filter(|id| ![7, 8].contains(&(id % 100)))
    {
        let row = client.query_one(&by_key, &[&id]).await.expect("the row");
        let payload: &str = row.get(0);
        assert_eq!(payload, format!("{id:08}").repeat(ROW_BYTES as usize / 8));
    }
    let sql = "SELECT count(*) FROM big WHERE grp = 5 AND length(payload) > 8";
    assert_eq!(number(client, sql).await, in_group(5));
    let found = client.query("CHECK COLLECTION big", &[]).await;
    assert!(found.expect("a check").is_empty(), "indexes and rows agree");
}

/// What the server says of rows and keys in memory, all cores together.
#[derive(Debug)]
struct Leaves {
    held: u64,
    unwritten: u64,
    max: u64,
    read: u64,
    evicted: u64,
}

impl Leaves {
    fn most(&self) -> u64 {
        self.max + self.unwritten + SLACK
    }

    fn of(server: &Server) -> Leaves {
        let metrics = metrics(server.http);
        let sum = |name: &str| {
            let lines = metrics.lines().filter(|l| {
                l.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            let values: Vec<f64> = lines
                .map(|l| l.rsplit(' ').next().expect("a value"))
                .map(|v| v.parse().expect("a number"))
                .collect();
            assert!(!values.is_empty(), "{name} is told");
            values.iter().sum::<f64>() as u64
        };
        Leaves {
            held: sum("ndb_leaf_bytes"),
            unwritten: sum("ndb_leaf_unwritten_bytes"),
            max: sum("ndb_leaf_max_bytes"),
            read: sum("ndb_leaf_reads_total"),
            evicted: sum("ndb_leaf_evictions_total"),
        }
    }
}

fn metrics(http: SocketAddr) -> String {
    let mut stream = TcpStream::connect(http).expect("the server listens");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
