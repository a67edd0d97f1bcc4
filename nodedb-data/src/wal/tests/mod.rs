//! The log as a whole: what is written is read back, on every backend and after every crash.

mod crash;
mod plain;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nodedb_types::{ActorId, CollectionId, CommitTs, CoreId, Lsn, SchemaVersion, ShardId, TxnId};

use super::*;
use crate::io::drive::Background;
use crate::io::sim::Rng;
use crate::io::{Io, IoHandle};

const DATABASE: u64 = 0x0123_4567_89ab_cdef;

/// A statement of the tests: its number decides how many records it has and what is in them.
fn statement(number: u64) -> Vec<(RecordHeader, Vec<u8>)> {
    let mut rng = Rng::new(number);
    let records = 1 + rng.below(4);
    let record = |index| {
        let header = RecordHeader {
            kind: RecordKind::Rows,
            shard: ShardId(index as u16),
            lsn: Lsn(number),
            commit_ts: CommitTs(number << 16),
            txn: TxnId(records),
            actor: ActorId(1),
            schema_version: SchemaVersion(2),
            collection: CollectionId(1024),
        };
        let bytes = if rng.chance(1, 8) { 3000 } else { 200 };
        let payload = (0..rng.below(bytes)).map(|i| (i ^ number) as u8).collect();
        (header, payload)
    };
    (0..records).map(record).collect()
}

fn append(wal: &Wal<u64>, number: u64) -> Result<(), WalError> {
    let records = statement(number);
    let records: Vec<_> = records
        .iter()
        .map(|(header, payload)| Record {
            header: *header,
            payload,
        })
        .collect();
    wal.append(&records, number)
        .map_err(|refused| refused.error)
}

/// The statements in a frame, each checked to be whole.
fn statements_of(frame: &Frame) -> Vec<u64> {
    let mut found = Vec::new();
    let mut records = frame
        .records()
        .filter(|record| record.header.kind == RecordKind::Rows);
    while let Some(first) = records.next() {
        let number = first.header.lsn.0;
        let mut expected = statement(number).into_iter();
        let mut seen = Some(first);
        for (header, payload) in expected.by_ref() {
            let record = seen
                .take()
                .or_else(|| records.next())
                .expect("a statement is whole");
            assert_eq!((record.header, record.payload), (header, &payload[..]));
        }
        found.push(number);
    }
    found
}

/// Reads every chain and begins a new one.
struct Recovered {
    statements: Vec<u64>,
    wal: Rc<Wal<u64>>,
}

fn handle(io: impl Io + 'static) -> Rc<IoHandle> {
    IoHandle::new(Box::new(io))
}

fn config(dir: PathBuf, chain: ChainId, first_segment_bytes: u32) -> WalConfig {
    let segment_bytes_max = first_segment_bytes * 8;
    WalConfig {
        first_segment_bytes,
        segment_bytes_max,
        ..WalConfig::new(dir, DATABASE, chain)
    }
}

async fn read_all(
    io: &Rc<IoHandle>,
    dir: &Path,
) -> Result<(Vec<u64>, Vec<ChainEnd>, Vec<Chain>), WalError> {
    let mut chains = scan_chains(io, dir, DATABASE).await?;
    let mut statements = Vec::new();
    let mut ends = Vec::new();
    for chain in &mut chains {
        let mut reader = ChainReader::new(Rc::clone(io), dir, DATABASE, chain, None);
        while let Some(frame) = reader.next().await? {
            statements.extend(statements_of(&frame));
        }
        chain.end = Some(reader.end());
        ends.push(ChainEnd {
            chain: chain.id,
            end: reader.end(),
        });
    }
    Ok((statements, ends, chains))
}

async fn recover(
    io: &Rc<IoHandle>,
    data_dir: &Path,
    first_segment_bytes: u32,
) -> Result<Recovered, WalError> {
    let dir = open_dir(io, data_dir).await?;
    let (statements, ends, mut chains) = read_all(io, &dir).await?;
    let id = ChainId {
        epoch: next_epoch(&chains),
        core: CoreId(0),
    };
    let config = config(dir.clone(), id, first_segment_bytes);
    let wal = Wal::create(Rc::clone(io), config, &ends).await?;
    for chain in &mut chains {
        chain.trim(io, &dir).await?;
    }
    Ok(Recovered { statements, wal })
}

/// What the flushing task has seen.
#[derive(Default, Clone, Debug)]
struct Outcome {
    acknowledged: Vec<u64>,
    abandoned: Vec<u64>,
    /// Their outcome is unknown: the log latched.
    unknown: Vec<u64>,
}

/// The two tasks of a log: flushing and preparing.
fn tasks(wal: &Rc<Wal<u64>>, outcome: &Rc<RefCell<Outcome>>) -> Vec<Background> {
    let prepare = Rc::clone(wal).prepare_segments();
    let (wal, outcome) = (Rc::clone(wal), Rc::clone(outcome));
    let flush = async move {
        loop {
            wal.ready().await;
            match wal.flush().await {
                Ok(durable) => {
                    let numbers = durable.into_iter().map(Durable::into_value);
                    outcome.borrow_mut().acknowledged.extend(numbers);
                }
                Err(FlushFailed {
                    error: WalError::NoSpace,
                    abandoned,
                }) => {
                    outcome.borrow_mut().abandoned.extend(abandoned);
                }
                Err(FlushFailed { abandoned, .. }) => {
                    outcome.borrow_mut().unknown.extend(abandoned);
                    return;
                }
            }
        }
    };
    vec![Box::pin(prepare), Box::pin(flush)]
}

/// Lets the other futures run once.
async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut paused, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
