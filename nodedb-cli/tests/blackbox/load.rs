//! Eight writers and two readers at a server that is killed under them.
//!
//! What the server has acknowledged is kept here, outside of it. A statement that was sent and
//! not answered may have been done or not, as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::workload::model::Known;
use crate::workload::random::Random;

/// A writer between two kills.
pub struct Writer {
    pub number: i64,
    pub random: Random,
    pub known: Known,
}

/// Counts acknowledgements, so that the kill comes after a number of them that the seed has drawn
/// and not after a time.
#[derive(Default)]
pub struct Acknowledgements {
    count: AtomicU64,
    target: AtomicU64,
    reached: Notify,
}

impl Acknowledgements {
    /// Waits until there have been `more` of them from now on.
    pub async fn wait(&self, more: u64) {
        let target = self.count.load(Ordering::SeqCst) + more;
        self.target.store(target, Ordering::SeqCst);
        self.reached.notified().await;
    }

    fn add(&self) {
        let count = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if count == self.target.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }
}

/// Ends the wait when a writer ends, since one that has failed acknowledges nothing more.
struct Ending(Arc<Acknowledgements>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.reached.notify_one();
    }
}

impl Writer {
    pub fn new(number: i64, seed: u64) -> Writer {
        Writer {
            number,
            random: Random::new(seed.wrapping_mul(31).wrapping_add(number as u64)),
            known: Known::default(),
        }
    }

    /// Writes until the server is gone.
    pub async fn run(mut self, client: Client, acknowledged: Arc<Acknowledgements>) -> Writer {
        assert!(self.known.in_flight.is_none());
        let _ending = Ending(acknowledged.clone());
        loop {
            let step = self.known.model.next(self.number, &mut self.random);
            match client.simple_query(&step.sql).await {
                Ok(_) => {
                    self.known.model = step.after;
                    acknowledged.add();
                }
                Err(error) => match error.code() {
                    // Refused as a whole; the next statement is another one.
                    Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {}
                    Some(_) => panic!("{}: {error:?}", step.sql),
                    None => {
                        self.known.in_flight = Some((step.sql, step.after));
                        return self;
                    }
                },
            }
        }
    }
}

/// Adds the ledger up until the server is gone; gives how often. Every second time through an
/// expression that no index can serve, so that indexes and rows are both read.
pub async fn read_sums(client: Client) -> u64 {
    let mut reads = 0;
    for round in 0u64.. {
        let sql = match round % 2 {
            0 => "SELECT sum(value)::bigint FROM ledger",
            _ => "SELECT sum(value)::bigint FROM ledger WHERE value <> 0 OR value + id > 0",
        };
        match client.query_one(sql, &[]).await {
            Ok(row) => {
                let sum: Option<i64> = row.get(0);
                assert_eq!(sum.unwrap_or(0), 0, "half of a statement was seen: {sql}");
                reads += 1;
            }
            Err(error) => match error.code() {
                // The plan's schema or snapshot went away; the statement may be sent again.
                Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {}
                Some(code) if code.code() == "72000" => {}
                Some(_) => panic!("{sql}: {error:?}"),
                None => return reads,
            },
        }
    }
    reads
}

/// Rows of a simple query, as texts.
pub async fn rows(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let messages = client
        .simple_query(sql)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|i| row.get(i).map(str::to_owned))
                    .collect(),
            ),
            _ => None,
        })
        .collect()
}
