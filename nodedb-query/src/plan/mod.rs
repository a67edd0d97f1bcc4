//! Plans as control runs them.
//!
//! [`crate::bind`] makes a [`crate::Bound`] from a statement; [`crate::Bound::instantiate`] fills in
//! parameters and folds `now()` and the like, and gives one of these. Get, Set and Write name what
//! the cores are asked; a relational plan is run by [`crate::Executor`], which asks the cores through
//! [`crate::Leaves`].

mod merge;
mod projection;
mod write;

use std::sync::Arc;

use nodedb_bridge::plan::{Get, SetQuery};
use nodedb_types::Collection;

use crate::catalog::SessionInfo;

pub use crate::executor::RelationalPlan;
pub use merge::{Merge, MergeKey};
pub use projection::Projection;
pub use write::{
    Command, Folded, Returning, Sink, Staged, WritePlan, WriteSource, duplicate_key,
    existing_output, stage,
};
pub(crate) use write::{
    ROW_IDENTITY, SinkKind, check_not_null, distinct, insert_row, key_bytes, shard_of, types,
};

/// What a statement's values may depend on besides its parameters.
#[derive(Clone)]
pub struct Environment {
    /// Microseconds since 1970-01-01 UTC: `now()` of the whole statement.
    pub now_us: i64,
    /// Seed of `random()` and `gen_random_uuid()` in this statement.
    pub random_seed: u64,
    /// Seed of the key hash and number of shards, as the data directory's manifest says.
    pub key_seed: u64,
    pub shards: u16,
    /// Gives hidden row ids: each call another one, never given before in this data directory.
    pub row_ids: RowIds,
    pub session: Arc<SessionInfo>,
}

/// A source of hidden row ids; the commit clock is one.
pub type RowIds = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A statement ready to run.
pub enum Plan {
    Get(GetPlan),
    Set(SetPlan),
    Relational(RelationalPlan),
    Write(Box<WritePlan>),
}

/// Rows by full key: split `get.keys` by core, concatenate what comes back in the order of the
/// keys (any order will do when there is no single key), then project.
pub struct GetPlan {
    pub collection: Arc<Collection>,
    pub get: Get,
    pub projection: Arc<Projection>,
}

/// A set query to every core: merge by `merge`, drop `offset` rows, take `limit`, project. With
/// [`nodedb_bridge::plan::Output::Count`] the counts are added up and given to
/// [`Projection::apply_count`] instead.
pub struct SetPlan {
    pub collection: Arc<Collection>,
    pub query: Arc<SetQuery>,
    /// Over the columns of the query's output, in this order; `None` when any order will do.
    pub merge: Option<Merge>,
    pub offset: u64,
    pub limit: Option<u64>,
    pub projection: Arc<Projection>,
}
