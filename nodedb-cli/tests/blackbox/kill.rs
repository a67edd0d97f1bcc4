//! `kill -9` under load, again and again.
//!
//! After each kill the directory is opened with another number of cores and, in turn, with
//! another way of doing I/O. Then every writer's rows, tables and indexes must be exactly what was
//! acknowledged, or that and the whole of its one unanswered statement; `CHECK COLLECTION` must
//! find nothing; and the directory must have opened in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

use crate::load::{Acknowledgements, Writer, read_sums, rows};

use crate::server::{Folder, Server, Start};
use crate::workload::model::{Model, Work};
use crate::workload::random::{Random, setting};

const WRITERS: i64 = 8;
const READERS: usize = 2;

/// Statements between two kills, at most.
const STATEMENTS_MAX: u64 = 120;

/// A directory opens within this, however it was left.
const OPEN_MAX: Duration = Duration::from_secs(2);

/// The short form runs beside other tests on a machine that is busy with them.
const OPEN_MAX_SHARED: Duration = Duration::from_secs(10);

fn start(round: u64) -> Start {
    Start {
        cores: [2, 4, 1, 3][(round % 4) as usize],
        io: ["auto", "threads"][(round / 4 % 2) as usize],
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_kills() {
    let long = std::env::var_os("NODEDB_TEST_KILLS").is_some();
    let kills = setting("NODEDB_TEST_KILLS", 10);
    let seed = setting("NODEDB_TEST_SEED", 1);
    let folder = Folder::new("kill");
    let mut random = Random::new(seed);
    let mut writers: Vec<Writer> = (0..WRITERS).map(|n| Writer::new(n, seed)).collect();
    let mut hit = 0;
    let mut reads = 0;
    let mut slowest = Duration::ZERO;
    let mut server = Server::start(folder.path(), start(0));
    let ledger =
        "CREATE TABLE ledger (id BIGINT PRIMARY KEY, writer BIGINT, value BIGINT, note TEXT)";
    let client = server.connect().await;
    client.simple_query(ledger).await.expect("a table");
    for round in 1..=kills {
        let more = 1 + random.below(STATEMENTS_MAX);
        let (after, read) = load_and_kill(server, writers, more).await;
        writers = after;
        reads += read;
        hit += u64::from(writers.iter().any(|w| w.known.in_flight.is_some()));
        server = Server::start(folder.path(), start(round));
        slowest = slowest.max(server.opened_in);
        let client = server.connect().await;
        for writer in &mut writers {
            let found = found(&client, writer.number).await;
            if let Err(problem) = writer.known.settle(found) {
                panic!(
                    "kill {round}, seed {seed}, writer {}: {problem}",
                    writer.number
                );
            }
        }
        check_collections(&client).await;
    }
    eprintln!("{kills} kills, {hit} with writes in flight, {reads} sums, opened in {slowest:?}");
    assert!(2 * hit >= kills, "{hit} of {kills} kills hit a write");
    let limit = if long { OPEN_MAX } else { OPEN_MAX_SHARED };
    assert!(slowest < limit, "opened in {slowest:?}");
}

/// Lets everybody work until so many statements have been acknowledged, and kills the server.
async fn load_and_kill(server: Server, writers: Vec<Writer>, more: u64) -> (Vec<Writer>, u64) {
    let acknowledged = Arc::new(Acknowledgements::default());
    let mut writing = Vec::new();
    for writer in writers {
        let client = server.connect().await;
        writing.push(tokio::spawn(writer.run(client, acknowledged.clone())));
    }
    let mut reading = Vec::new();
    for _ in 0..READERS {
        reading.push(tokio::spawn(read_sums(server.connect().await)));
    }
    acknowledged.wait(more).await;
    server.kill();
    let mut back = Vec::new();
    for writer in writing {
        back.push(writer.await.expect("a writer ends with the server"));
    }
    let mut reads = 0;
    for reader in reading {
        reads += reader.await.expect("a reader ends with the server");
    }
    (back, reads)
}

/// What the server has of a writer.
async fn found(client: &Client, writer: i64) -> Model {
    let mut model = Model::default();
    match Work::of(writer) {
        Work::Rows => {
            let sql = "SELECT id, value, note FROM ledger WHERE writer = $1";
            let rows = client.query(sql, &[&writer]).await.expect("its rows");
            model.rows = rows
                .iter()
                .map(|row| (row.get(0), (row.get(1), row.get(2))))
                .collect();
            assert_eq!(model.rows.len(), rows.len(), "a key is there twice");
            for (key, row) in &model.rows {
                let sql = "SELECT value, note FROM ledger WHERE id = $1";
                let by_key = client.query_one(sql, &[key]).await.expect("its row");
                assert_eq!((by_key.get(0), by_key.get(1)), *row, "by key and by scan");
            }
        }
        Work::Tables => model.tables = tables(client).await,
        Work::Indexes => {
            let described = rows(client, "DESCRIBE ledger").await;
            model.indexes = described
                .iter()
                .flat_map(|row| row[4].as_deref().unwrap_or_default().split(", "))
                .filter_map(|index| index.split_whitespace().next())
                .map(str::to_owned)
                .collect();
        }
    }
    model
}

/// The scratch tables with their sizes, by a count and by their rows.
async fn tables(client: &Client) -> BTreeMap<String, i64> {
    let mut tables = BTreeMap::new();
    for row in rows(client, "SHOW COLLECTIONS").await {
        let name = row[0].clone().expect("a name");
        if name.starts_with("scratch_") {
            let counted = client
                .query_one(&format!("SELECT count(*) FROM {name}"), &[])
                .await
                .expect("a count");
            let rows = rows(client, &format!("SELECT id, word FROM {name}")).await;
            let count: i64 = counted.get(0);
            assert_eq!(count, rows.len() as i64, "rows of {name}");
            tables.insert(name, count);
        }
    }
    tables
}

/// Every index of every collection against the rows.
async fn check_collections(client: &Client) {
    for row in rows(client, "SHOW COLLECTIONS").await {
        let name = row[0].clone().expect("a name");
        let problems = rows(client, &format!("CHECK COLLECTION {name}")).await;
        assert!(problems.is_empty(), "{name}: {problems:?}");
    }
}
