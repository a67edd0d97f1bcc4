//! Two phases over several cores.
//!
//! Rows are staged by core in chunks; then every participant prepares: it checks, locks, logs and
//! votes. With all votes in, the commit timestamp is drawn and the decision made durable on the
//! lowest participating shard; that is the commit. The statement is acknowledged then; the
//! participants hear the outcome from a task of its own, and until a participant has applied it
//! its readers wait for it.
//!
//! Before the decision anything that fails aborts, and so does a decision that was refused: the
//! disk was full or the node read-only, so it is not in the log. A decision whose fate is unknown
//! must not be outlived (`Node::fatal`): after a restart the log tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use nodedb_bridge::plan::{Conclude, Decide, Expected, Outcome, Prepare, StageRows, StagedRow};
use nodedb_bridge::request::{Op, Statement};
use nodedb_types::limits::STAGE_CHUNK_BYTES_MAX;
use nodedb_types::{CollectionId, CoreId, Failure, Result, ShardId, SqlState, TxnId};

use crate::dispatch::Dispatcher;
use crate::session::Caller;

/// What a staged row takes of a chunk.
pub(super) fn staged_bytes(row: &StagedRow) -> usize {
    let expected = match row.expected {
        Expected::Absent => 0,
        Expected::Version { .. } => 16,
    };
    row.key.len() + row.row.as_ref().map_or(0, |r| r.len()) + expected + 64
}

/// Who takes part: the cores that own the rows' shards.
struct Transaction {
    dispatcher: Dispatcher,
    statement: Arc<Statement>,
    /// For the decision and the outcome: no deadline and no schema version may stop these.
    outcome: Arc<Statement>,
    txn: TxnId,
    shards: Arc<[ShardId]>,
    cores: Vec<CoreId>,
}

pub(super) async fn commit(
    caller: Caller,
    collection: CollectionId,
    rows: Vec<StagedRow>,
) -> Result<()> {
    let dispatcher = caller.worker.dispatcher.clone();
    let mut shards: Vec<ShardId> = rows.iter().map(|row| row.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    let mut cores: Vec<CoreId> = shards.iter().map(|s| dispatcher.core_of(*s)).collect();
    cores.sort_unstable();
    cores.dedup();
    let transaction = Transaction {
        dispatcher,
        statement: caller.write_statement(),
        outcome: caller
            .worker
            .system_statement(caller.worker.node.clock.now()),
        txn: TxnId(caller.worker.node.clock.next().0),
        shards: shards.into(),
        cores,
    };
    let staged = transaction.stage(collection, rows).await;
    // The last moment at which a client that went away, or ran out of time, stops it.
    if let Err(failure) = staged.and_then(|()| caller.limits.check()) {
        return transaction.abort(&caller, failure).await;
    }
    if let Err(failure) = transaction.prepare().await {
        return transaction.abort(&caller, failure).await;
    }
    let commit_ts = caller.worker.node.clock.next();
    if let Err(failure) = transaction.decide(commit_ts).await {
        if [SqlState::DiskFull, SqlState::ReadOnly].contains(&failure.code()) {
            return transaction.abort(&caller, failure).await;
        }
        (caller.worker.node.fatal)(&failure);
        return Err(failure);
    }
    transaction.conclude_later(&caller, Outcome::Committed(commit_ts));
    Ok(())
}

impl Transaction {
    /// Brings every row to its core; one chunk a core is under way at a time.
    async fn stage(&self, collection: CollectionId, rows: Vec<StagedRow>) -> Result<()> {
        let mut by_core: BTreeMap<CoreId, Vec<StagedRow>> = BTreeMap::new();
        for row in rows {
            let core = self.dispatcher.core_of(row.shard);
            by_core.entry(core).or_default().push(row);
        }
        let lanes = by_core.into_iter().map(|(core, rows)| async move {
            for rows in chunks(rows) {
                let op = Op::Stage(StageRows {
                    txn: self.txn,
                    collection,
                    rows,
                });
                let reader = self.dispatcher.send(core, &self.statement, op).await;
                self.dispatcher.done(reader).await?;
            }
            Ok(())
        });
        futures::future::join_all(lanes).await.into_iter().collect()
    }

    /// Asks for every vote and waits for all of them, so that none is under way when the outcome
    /// is told. Gives the failure that says most: one that another try may cure comes last.
    async fn prepare(&self) -> Result<()> {
        let mut readers = Vec::new();
        for core in &self.cores {
            let op = Op::Prepare(Prepare {
                txn: self.txn,
                participants: self.shards.clone(),
            });
            readers.push(self.dispatcher.send(*core, &self.statement, op).await);
        }
        let votes = readers.into_iter().map(|r| self.dispatcher.vote(r));
        let failures: Vec<Failure> = futures::future::join_all(votes)
            .await
            .into_iter()
            .filter_map(Result::err)
            .collect();
        match failures.into_iter().min_by_key(Failure::retry) {
            None => Ok(()),
            Some(failure) => Err(failure),
        }
    }

    async fn decide(&self, commit_ts: nodedb_types::CommitTs) -> Result<()> {
        let core = self.dispatcher.core_of(self.shards[0]);
        let op = Op::Decide(Decide {
            txn: self.txn,
            commit_ts,
            participants: self.shards.clone(),
        });
        let reader = self.dispatcher.send(core, &self.outcome, op).await;
        self.dispatcher.done(reader).await
    }

    /// Aborts and gives the failure that was the reason. While the disk is full a participant that
    /// has voted cannot log the outcome; the statement's end does not wait for that.
    async fn abort(self, caller: &Caller, why: Failure) -> Result<()> {
        match why.code() {
            SqlState::DiskFull => self.conclude_later(caller, Outcome::Aborted),
            _ => self.conclude(Outcome::Aborted).await,
        }
        Err(why)
    }

    /// Tells every participant in a task of its own.
    fn conclude_later(self, caller: &Caller, outcome: Outcome) {
        let runtime = caller.worker.runtime.clone();
        runtime.spawn(Box::pin(async move {
            self.conclude(outcome).await;
        }));
    }

    /// Tells every participant. One that cannot log the outcome is read-only from then on and
    /// learns it from the log at its next start.
    async fn conclude(&self, outcome: Outcome) {
        let mut readers = Vec::new();
        for core in &self.cores {
            let op = Op::Conclude(Conclude {
                txn: self.txn,
                outcome,
            });
            readers.push(self.dispatcher.send(*core, &self.outcome, op).await);
        }
        let _ = self.dispatcher.all_done(readers).await;
    }
}

/// Cuts rows into chunks that a core takes in one request.
fn chunks(rows: Vec<StagedRow>) -> Vec<Vec<StagedRow>> {
    let mut chunks = Vec::new();
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let size = staged_bytes(&row);
        if bytes + size > STAGE_CHUNK_BYTES_MAX && !chunk.is_empty() {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        bytes += size;
        chunk.push(row);
    }
    chunks.push(chunk);
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_keep_order_and_size() {
        let row = |n: u8, size: usize| StagedRow {
            shard: ShardId(0),
            key: vec![n].into(),
            expected: Expected::Absent,
            row: Some(vec![n; size].into()),
        };
        let rows: Vec<_> = (0..10).map(|n| row(n, 300 << 10)).collect();
        let cut = chunks(rows);
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3, 1]);
        for chunk in &cut {
            assert!(chunk.iter().map(staged_bytes).sum::<usize>() <= STAGE_CHUNK_BYTES_MAX);
        }
        let order: Vec<u8> = cut.iter().flatten().map(|r| r.key[0]).collect();
        assert_eq!(order, (0..10).collect::<Vec<_>>());
        // A row above the chunk's size still goes, alone.
        assert_eq!(chunks(vec![row(0, 2 << 20), row(1, 1)]).len(), 2);
    }
}
