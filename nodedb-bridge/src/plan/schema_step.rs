//! Steps of schema changes and leases, as every shard's log records them.

use std::num::NonZeroU64;
use std::sync::Arc;

use nodedb_types::{Collection, CollectionId, CommitTs, Index, IndexId, ShardId};

/// One step of a schema change. A core logs it for each of its shards and answers when durable.
#[derive(Debug, Clone)]
pub enum SchemaStep {
    /// Also the step that brings a new schema version of a known collection.
    CreateCollection(Arc<Collection>),
    DropCollection(CollectionId),
    /// From here on writes maintain the index.
    AddIndex(Arc<Index>),
    /// Adds the rows that were there at the snapshot, in budgeted pieces; answers with progress.
    BuildIndex {
        index: IndexId,
        snapshot: CommitTs,
    },
    /// Readers may use the index.
    PublishIndex(IndexId),
    DropIndex(IndexId),
    /// Whether writes to the collection are logged with before images and emitted as events, and
    /// how much of the log its streams keep for reading them back, bytes. Answered when no write
    /// without a before image can be committed any more.
    SetEmit {
        collection: CollectionId,
        retention_bytes: Option<NonZeroU64>,
    },
}

/// A lease of surrogates: ids `first .. first + len`, aligned to `len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub collection: CollectionId,
    pub shard: ShardId,
    pub first: u32,
    pub len: u32,
}
