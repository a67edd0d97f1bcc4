//! Committed writes on their way to the event plane (E1).
//!
//! A core emits a batch per commit and shard, after the commit is durable, in log order. When the
//! ring is full it notes where it stopped and the rest is read back from the log.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use nodedb_types::{ActorId, CollectionId, CommitTs, CoreId, Lsn, ShardId, Surrogate};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventOp {
    Insert,
    Update,
    Delete,
}

/// One row's change. A row is named by (surrogate, birth), so that subscribers hold no ids back.
#[derive(Clone, PartialEq, Debug)]
pub struct WriteEvent {
    pub collection: CollectionId,
    pub surrogate: Surrogate,
    /// Commit timestamp of the row's insert.
    pub birth: CommitTs,
    pub op: EventOp,
    /// Canonical key bytes.
    pub key: Arc<[u8]>,
    /// The stored row before the change.
    pub before: Option<Arc<[u8]>>,
    /// The stored row after the change.
    pub after: Option<Arc<[u8]>>,
    pub commit_ts: CommitTs,
    pub actor: ActorId,
}

/// The changes of one commit in one shard, or a part of them.
#[derive(Clone, PartialEq, Debug)]
pub struct EventBatch {
    pub shard: ShardId,
    pub lsn: Lsn,
    /// Which part it is, counted from 0 by whoever hands the batches on in their order: the log by
    /// the frame that holds it, the bus by the collection. A core says 0.
    pub part: u32,
    pub commit_ts: CommitTs,
    pub events: Vec<WriteEvent>,
}

/// What a core sends: a batch, or word that batches were left out of the ring.
#[derive(Debug)]
pub enum Emitted {
    Batch(EventBatch),
    /// Commits from this timestamp on were not sent; they are in the log.
    Overflow {
        from: CommitTs,
    },
}

/// A core's promise: every commit of this core below `low` has been emitted.
#[derive(Debug)]
pub struct LowMark {
    pub core: CoreId,
    pub low: AtomicU64,
}
