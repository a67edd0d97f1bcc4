//! The vocabulary that every crate of NodeDB shares.
//!
//! Ids, values and their codecs, schema objects, failures with their SQLSTATE, limits, and the
//! frames of the native protocol. Nothing here does I/O, reads a clock or knows a plane; what
//! crosses between planes lives in `nodedb-bridge`.

pub mod arrow_map;
pub mod breath;
pub mod datetime;
pub mod failure;
pub mod geo;
pub mod id;
pub mod json;
pub mod key;
pub mod limits;
pub mod numeric;
pub mod row;
pub mod schema;
pub mod simd;
pub mod sqlstate;
pub mod text;
pub mod value;
pub mod vector;
pub mod wire;

pub use failure::{Failure, Result};
pub use id::{
    ActorId, CollectionId, CommitTs, CoreId, IndexId, Lsn, SchemaVersion, SessionId, ShardId,
    StreamId, Surrogate, TraceId, TxnId,
};
pub use schema::{Collection, Column, Engine, Index};
pub use sqlstate::SqlState;
pub use value::{DataType, Value};
