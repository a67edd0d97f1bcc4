//! A statement's reader never sees half of another statement.
//!
//! Writers move amounts between accounts that lie on different cores, all over the same few rows,
//! so that they also meet each other; readers add them up by every road: all rows, an index, the
//! rows by key, a join of the collection with itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::server::{Folder, Server, Start};
use crate::workload::random::{Random, setting};

const ACCOUNTS: i64 = 40;
const OPENING: i64 = 1_000;
const WRITERS: u64 = 4;

/// Sums that each reader takes.
const READS: u64 = 60;

const QUERIES: [&str; 4] = [
    "SELECT sum(balance)::bigint FROM accounts",
    "SELECT sum(balance)::bigint FROM accounts WHERE balance > 0 OR balance <= 0",
    "SELECT sum(balance)::bigint FROM accounts WHERE kind IN (0, 1)",
    "SELECT sum(a.balance)::bigint FROM accounts a JOIN accounts b ON a.id = b.id \
     WHERE a.balance = b.balance",
];

#[tokio::test]
async fn a_reader_never_sees_half_of_a_statement() {
    for cores in [2, 4] {
        moves_at(cores).await;
    }
}

async fn moves_at(cores: u32) {
    let folder = Folder::new("sums");
    let server = Server::start(folder.path(), Start { cores, io: "auto" });
    let client = server.connect().await;
    open_accounts(&client).await;
    let over = Arc::new(AtomicBool::new(false));
    let moved = Arc::new(AtomicU64::new(0));
    let seed = setting("NODEDB_TEST_SEED", 1);
    let mut writing = Vec::new();
    for writer in 0..WRITERS {
        let random = Random::new(seed + writer);
        let client = server.connect().await;
        writing.push(tokio::spawn(move_amounts(
            client,
            random,
            over.clone(),
            moved.clone(),
        )));
    }
    let mut reading = Vec::new();
    for sql in QUERIES {
        reading.push(tokio::spawn(add_up(server.connect().await, sql)));
    }
    for reader in reading {
        reader.await.expect("every sum is whole");
    }
    over.store(true, Ordering::SeqCst);
    for writer in writing {
        writer.await.expect("a writer ends");
    }
    let moved = moved.load(Ordering::SeqCst);
    assert!(moved >= WRITERS, "{moved} moves were made meanwhile");
    let found = client.query("CHECK COLLECTION accounts", &[]).await;
    assert!(found.expect("a check").is_empty(), "indexes and rows agree");
}

async fn open_accounts(client: &Client) {
    let rows: Vec<String> = (0..ACCOUNTS)
        .map(|id| format!("({id}, {}, {OPENING})", id % 2))
        .collect();
    for sql in [
        "CREATE TABLE accounts (id BIGINT PRIMARY KEY, kind INT, balance BIGINT)",
        "CREATE INDEX accounts_balance ON accounts (balance)",
        "CREATE INDEX accounts_kind ON accounts (kind)",
        &format!("INSERT INTO accounts VALUES {}", rows.join(", ")),
    ] {
        client.simple_query(sql).await.expect(sql);
    }
}

async fn move_amounts(
    client: Client,
    mut random: Random,
    over: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
) {
    while !over.load(Ordering::SeqCst) {
        let a = random.below(ACCOUNTS as u64) as i64;
        let b = (a + 1 + random.below(ACCOUNTS as u64 - 1) as i64) % ACCOUNTS;
        let x = random.below(50) as i64;
        let sql = match random.below(4) {
            // All of one kind give to all of the other: twenty rows each, on every core.
            0 => format!("UPDATE accounts SET balance = balance + {x} * (1 - 2 * kind)"),
            _ => format!(
                "UPDATE accounts SET balance = balance + CASE WHEN id = {a} THEN {x} ELSE {} END \
                 WHERE id IN ({a}, {b})",
                -x
            ),
        };
        match client.simple_query(&sql).await {
            Ok(_) => {
                moved.fetch_add(1, Ordering::SeqCst);
            }
            // Another writer was first: nothing was done.
            Err(e) if e.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {}
            Err(e) => panic!("{sql}: {e:?}"),
        }
    }
}

async fn add_up(client: Client, sql: &'static str) {
    let statement = client.prepare(sql).await.expect(sql);
    for _ in 0..READS {
        let row = client.query_one(&statement, &[]).await.expect(sql);
        let sum: Option<i64> = row.get(0);
        assert_eq!(sum, Some(ACCOUNTS * OPENING), "{sql}");
    }
}

/// Upserts over all cores while their rows are deleted and inserted anew: a key that comes between
/// the look and the Prepare is a conflict like any other.
#[tokio::test]
async fn an_upsert_never_fails_for_a_key_that_exists() {
    let folder = Folder::new("upserts");
    let server = Server::start(
        folder.path(),
        Start {
            cores: 2,
            io: "auto",
        },
    );
    let client = server.connect().await;
    open_accounts(&client).await;
    let over = Arc::new(AtomicBool::new(false));
    let deleting = server.connect().await;
    let until = over.clone();
    let deleter = tokio::spawn(async move {
        while !until.load(Ordering::SeqCst) {
            for sql in ["DELETE FROM accounts WHERE kind = 0", UPSERT] {
                may_be_late(deleting.simple_query(sql).await, sql);
            }
        }
    });
    for _ in 0..400 {
        may_be_late(client.simple_query(UPSERT).await, UPSERT);
    }
    over.store(true, Ordering::SeqCst);
    deleter.await.expect("no upsert met a duplicate");
}

const UPSERT: &str = "INSERT INTO accounts SELECT i, i % 2, 1 FROM generate_series(0, 39) AS g(i) \
     ON CONFLICT (id) DO UPDATE SET balance = accounts.balance + 1";

fn may_be_late<T>(result: Result<T, tokio_postgres::Error>, sql: &str) {
    match result {
        Err(e) if e.code() != Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {
            panic!("{sql}: {e:?}")
        }
        _ => {}
    }
}
