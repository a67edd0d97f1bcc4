//! The set query: the one shape of read that a core answers.
//!
//! One collection; a Boolean of source predicates; an order by one ranker, the key or an ordered
//! index; a limit; columns and scores, or a count. The short path and the leaves of the
//! relational executor are both made of it. A core evaluates it block by block over all of its
//! shards and answers as of the request's snapshot.

use std::sync::Arc;

use nodedb_types::{CollectionId, IndexId, Result, ShardId, Value, key};

use crate::expression::BatchExpression;
use crate::op::{EngineOp, EngineRank, ordered};

/// A read of one collection.
#[derive(Debug, Clone)]
pub struct SetQuery {
    pub collection: CollectionId,
    /// Only this shard, where the key is known; else all shards of the core.
    pub shard: Option<ShardId>,
    pub sources: Vec<Source>,
    /// Over positions of `sources`.
    pub set: SetExpr,
    pub order: Order,
    /// Rows that this core need send at the most.
    pub limit: Option<u64>,
    pub output: Output,
    /// Report the size of every set and the time spent, in the stream's last frame.
    pub explain: bool,
}

/// A predicate with SQL's three values: a source knows which rows are true and which unknown.
#[derive(Debug, Clone)]
pub enum Source {
    /// Answered by an index.
    Index { index: IndexId, op: EngineOp },
    /// A condition on the key, answered by the key index. Values have the key column's type.
    Keys(ordered::Op),
    /// The key is one of a list.
    KeyList(Arc<KeyList>),
    /// Evaluated over rows; bool-valued. It is asked only about rows that other terms left over.
    Expression(Arc<dyn BatchExpression>),
}

/// Keys that a condition names. A shard looks up its own ones only: no other can hold them.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyList {
    op: ordered::Op,
    by_shard: Vec<Arc<[Box<[u8]>]>>,
}

impl KeyList {
    /// `values` have the key column's type; NULLs among them equal no key. `shards` and `seed` are
    /// those of the data directory.
    pub fn new(values: Vec<Value>, shards: u16, seed: u64) -> Result<KeyList> {
        let mut by_shard = vec![Vec::new(); usize::from(shards)];
        for value in values.iter().filter(|value| !value.is_null()) {
            let bytes = key::of(value)?.into_boxed_slice();
            let shard = key::shard_of(&bytes, seed, shards);
            by_shard[usize::from(shard.0)].push(bytes);
        }
        let ordered = |mut keys: Vec<Box<[u8]>>| {
            keys.sort_unstable();
            keys.dedup();
            keys.into()
        };
        Ok(KeyList {
            op: ordered::Op::In(values),
            by_shard: by_shard.into_iter().map(ordered).collect(),
        })
    }

    /// The keys that a shard may hold, as bytes, ascending, none twice.
    pub fn of_shard(&self, shard: ShardId) -> Arc<[Box<[u8]>]> {
        let keys = self.by_shard.get(usize::from(shard.0)).cloned();
        keys.unwrap_or_default()
    }

    /// The condition as an index would be asked it.
    pub fn op(&self) -> &ordered::Op {
        &self.op
    }
}

/// A Boolean over sources. `Not` is relative to the rows alive and keeps unknown unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetExpr {
    /// Every row alive.
    All,
    /// No row.
    Nothing,
    Source(usize),
    And(Vec<SetExpr>),
    Or(Vec<SetExpr>),
    Not(Box<SetExpr>),
    /// True where the operand is unknown; never unknown itself.
    IsUnknown(Box<SetExpr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

/// The order in which a core sends rows; control merges the streams of the cores by it.
#[derive(Debug, Clone)]
pub enum Order {
    Any,
    /// By canonical key bytes.
    Key(Direction),
    /// By an ordered index, then by the key ascending. NULLs sort as the largest value.
    Index {
        index: IndexId,
        direction: Direction,
    },
    /// Best first by a ranker (smallest distance or largest score), then by the key ascending.
    /// Rows without a score come last.
    Rank(RankSpec),
}

#[derive(Debug, Clone)]
pub struct RankSpec {
    /// The index that may answer; `None` scores every allowed row from its columns.
    pub index: Option<IndexId>,
    pub rank: EngineRank,
}

#[derive(Debug, Clone)]
pub enum Output {
    Rows(Vec<OutputColumn>),
    /// One `Frame::Count`; nothing is fetched.
    Count,
}

/// A column of the batches that come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputColumn {
    /// A column of the collection, typed as `nodedb_types::arrow_map` says.
    Column(usize),
    /// Canonical key bytes (Binary): the tie-breaker of every order.
    Key,
    /// `Int64`; names the row to a later staged write.
    Surrogate,
    /// `Int64`: commit timestamp of the version read.
    Version,
    /// `Int32`.
    Shard,
    /// Boolean, NULL where unknown: a source's value for the row.
    Truth(usize),
    /// `Float64`: the ranker's distance or score.
    Score,
}

/// Statistics that BM25 needs from all shards, so that scores do not depend on placement.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TextStatistics {
    /// Live documents.
    pub documents: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Live documents that hold each scored term, in the order the ranker lists its terms.
    pub document_frequency: Vec<u64>,
}

impl TextStatistics {
    /// Adds another core's part.
    pub fn merge(&mut self, other: &TextStatistics) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        if self.document_frequency.len() < other.document_frequency.len() {
            self.document_frequency
                .resize(other.document_frequency.len(), 0);
        }
        for (mine, theirs) in self
            .document_frequency
            .iter_mut()
            .zip(&other.document_frequency)
        {
            *mine += theirs;
        }
    }
}

/// What one core did for a set query; sent with the last frame when asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LeafReport {
    pub core: u16,
    /// In the order of the query's sources.
    pub sources: Vec<SourceReport>,
    /// Rows in the final set, where it was built whole.
    pub set_rows: Option<u64>,
    /// How the ranking was done, such as `scan of 120 rows (35 scored)`.
    pub ranking: Option<String>,
    /// Rows whose stored bytes were read for output.
    pub rows_fetched: u64,
    /// Rows whose stored bytes were read to decide a predicate or a score.
    pub rows_examined: u64,
    /// CPU time of this query's work on the core, nanoseconds.
    pub cpu_ns: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceReport {
    /// What answered, such as `packages_text (fulltext)`.
    pub source: String,
    /// Rows for which the predicate was found true, in the blocks that were visited.
    pub rows: u64,
    pub blocks: u64,
}
