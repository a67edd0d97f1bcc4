//! Writes: by full key in one turn of one core, or staged, prepared and decided over several.

use std::sync::Arc;

use nodedb_types::{CollectionId, CommitTs, ShardId, Surrogate, TxnId};

use crate::expression::{BatchExpression, RowRewrite};
use crate::plan::OutputColumn;

/// Reads rows by key on one core. Missing keys give no row; order follows `keys`.
#[derive(Debug, Clone)]
pub struct Get {
    pub collection: CollectionId,
    /// Each with the shard that its bytes hash to.
    pub keys: Vec<(ShardId, Box<[u8]>)>,
    /// Rows for which it is not true are left out.
    pub filter: Option<Arc<dyn BatchExpression>>,
    pub output: Arc<[OutputColumn]>,
}

/// Reads one row by its key, for whoever takes it as it is encoded.
#[derive(Debug, Clone)]
pub struct GetRow {
    pub collection: CollectionId,
    /// The shard that the key's bytes hash to.
    pub shard: ShardId,
    pub key: Box<[u8]>,
    /// Positions of the wanted columns in the collection.
    pub columns: Arc<[usize]>,
}

/// Writes by full key, all on one core: all of them happen or none does, in one turn.
#[derive(Debug, Clone)]
pub struct WriteBatch {
    pub collection: CollectionId,
    pub rows: Vec<RowWrite>,
    /// Columns of the changed rows to send back: the new row, or the old one of a delete.
    pub returning: Option<Arc<[OutputColumn]>>,
}

#[derive(Debug, Clone)]
pub struct RowWrite {
    pub shard: ShardId,
    /// Canonical key bytes; the hidden row id (8 bytes, big-endian) where there is no key.
    pub key: Box<[u8]>,
    pub action: RowAction,
}

#[derive(Debug, Clone)]
pub enum RowAction {
    /// `row`: encoded by `nodedb_types::row`.
    Insert {
        row: Box<[u8]>,
        on_conflict: OnConflict,
    },
    /// Insert or replace.
    Put { row: Box<[u8]> },
    /// Update or delete the row if there is one.
    Rewrite(Arc<dyn RowRewrite>),
}

#[derive(Debug, Clone)]
pub enum OnConflict {
    /// 23505.
    Fail,
    Nothing,
    Rewrite(Arc<dyn RowRewrite>),
}

/// A chunk of a statement's new rows for one core. Staged rows have no timestamp, are invisible,
/// and nobody waits for them.
#[derive(Debug, Clone)]
pub struct StageRows {
    pub txn: TxnId,
    pub collection: CollectionId,
    pub rows: Vec<StagedRow>,
}

#[derive(Debug, Clone)]
pub struct StagedRow {
    pub shard: ShardId,
    pub key: Box<[u8]>,
    pub expected: Expected,
    /// The new encoded row; `None` deletes.
    pub row: Option<Box<[u8]>>,
}

/// What Prepare must find, or it votes no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// No row with this key; else 23505.
    Absent,
    /// The newest version is the one that was read; else 40001 with retry.
    Version {
        surrogate: Surrogate,
        version: CommitTs,
    },
}

/// Check, lock keys, log, flush, vote. Voting no discards what was staged there.
#[derive(Debug, Clone)]
pub struct Prepare {
    pub txn: TxnId,
    /// Every shard of the transaction; the lowest holds the decision.
    pub participants: Arc<[ShardId]>,
}

/// Makes the decision to commit durable. Sent to the core of the lowest participating shard.
#[derive(Debug, Clone)]
pub struct Decide {
    pub txn: TxnId,
    pub commit_ts: CommitTs,
    pub participants: Arc<[ShardId]>,
}

/// Tells a participating core how a transaction ended; it logs that for its shards.
#[derive(Debug, Clone, Copy)]
pub struct Conclude {
    pub txn: TxnId,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Committed(CommitTs),
    Aborted,
}
