//! Requests: what a control worker puts into a core's ring.

use std::num::NonZeroU64;
use std::sync::Arc;

use nodedb_types::{
    ActorId, Collection, CollectionId, CommitTs, Failure, Index, SchemaVersion, SessionId, ShardId,
    TraceId,
};

use crate::account::MemoryAccount;
use crate::op::EngineRank;
use crate::plan::{
    Conclude, Decide, Extent, Get, GetRow, Prepare, SchemaStep, SetQuery, StageRows, WriteBatch,
};
use crate::reply::ReplyWriter;

/// What all requests of one statement share.
#[derive(Debug)]
pub struct Statement {
    pub session: SessionId,
    pub actor: ActorId,
    pub trace: TraceId,
    /// In nanoseconds of `TimeSource::monotonic_ns`; later the work is dropped with 57014.
    pub deadline_ns: Option<u64>,
    /// The statement reads as of this; writes by key read the newest.
    pub snapshot: CommitTs,
    /// Collections it names, each with the schema version it was planned for. A core refuses
    /// with 40001 (retry) when one of them has changed, and control plans again.
    pub pins: Arc<[(CollectionId, SchemaVersion)]>,
    pub account: Arc<MemoryAccount>,
}

pub struct Request {
    pub statement: Arc<Statement>,
    pub op: Op,
    pub reply: ReplyWriter,
}

/// What a core can be asked to do. The comment names the frames before `End`.
#[derive(Debug)]
pub enum Op {
    /// `Batch*`.
    Get(Get),
    /// `Row` if there is one.
    GetRow(GetRow),
    /// `Batch*` if rows are to be returned, then `Written`.
    Write(WriteBatch),
    /// `Batch*` or `Count`.
    Query(Arc<SetQuery>),
    /// The first round of a ranking by text: `Statistics` over this core's shards.
    RankStatistics {
        collection: CollectionId,
        index: nodedb_types::IndexId,
        rank: EngineRank,
    },
    /// Nothing.
    Stage(StageRows),
    /// `Vote`.
    Prepare(Prepare),
    /// Nothing: the decision is durable.
    Decide(Decide),
    /// Nothing: logged, applied, and durable.
    Conclude(Conclude),
    /// `Progress*` for a build; durable at the end.
    Schema(SchemaStep),
    /// To shard 0's core: `Leased`.
    Lease {
        collection: CollectionId,
        shard: ShardId,
        big: bool,
    },
    /// Nothing: the shard may give these ids out. The lease is durable already.
    Grant(Extent),
    /// Nothing: the shard gets no ids; inserts that wait for them fail with `why`.
    Deny {
        collection: CollectionId,
        shard: ShardId,
        why: Failure,
    },
    /// `CHECK COLLECTION` over this core's shards: `Batch*` of findings, with columns
    /// `shard int4, index text, problem text`; none when all is well.
    Check { collection: CollectionId },
    /// `Report`.
    Report,
}

/// Bytes of memory of a core, by owner. What was dropped from memory is not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Versions of rows.
    pub rows: u64,
    /// Keys and locations of rows.
    pub keys: u64,
    /// Engines.
    pub indexes: u64,
}

/// Rows and pages of key indexes, which checkpoints write and which need not all be in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeafReport {
    /// Bytes of them in memory.
    pub bytes: u64,
    /// Bytes of those that no checkpoint has written yet, which therefore stay.
    pub unwritten_bytes: u64,
    /// Bytes of them that there is memory for.
    pub bytes_max: u64,
    /// Read back from the shards' files since the start.
    pub read: u64,
    /// Dropped from memory since the start.
    pub evicted: u64,
}

/// Checkpoints of a core's shards since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Checkpoints of single shards that ended.
    pub ended: u64,
    /// Rounds over the shards that were put off, for want of space.
    pub abandoned: u64,
    /// Bytes written by them.
    pub written_bytes: u64,
    /// Bytes of the shards' files, and how many of those are free for the next ones.
    pub store_bytes: u64,
    pub store_free_bytes: u64,
    /// What a start would spend on applying the log, estimated, microseconds.
    pub replay_us: u64,
}

/// A core's state, as asked for by `Op::Report`.
#[derive(Debug, Clone, Default)]
pub struct CoreReport {
    /// Collections that the core's shards know, with their schema.
    pub collections: Vec<Arc<Collection>>,
    pub indexes: Vec<Arc<Index>>,
    /// What bytes of log the core's shards keep for the streams of a user collection, `None` where
    /// they emit nothing; one entry when they agree.
    pub emitting: Vec<(CollectionId, Option<NonZeroU64>)>,
    /// Extents leased so far; complete on the core of shard 0 only.
    pub leases: Vec<Extent>,
    /// Live rows of user collections.
    pub rows: u64,
    /// Turns by CPU time: counts of turns up to 100, 250, 500, 1000, 2000 microseconds, and longer.
    pub turns_cpu: [u64; 6],
    /// The same by wall time.
    pub turns_wall: [u64; 6],
    /// Bytes of log that exist: what a restart reads, what streams keep, and what is prepared.
    pub wal_bytes: u64,
    /// Commits in one shard that found the event ring full: streams read them from the log.
    pub events_left_to_log: u64,
    /// Bytes of memory by what they are for.
    pub memory: MemoryReport,
    pub leaves: LeafReport,
    pub checkpoints: CheckpointReport,
    /// Set when the core is read-only until restart.
    pub latched: Option<nodedb_types::Failure>,
}
