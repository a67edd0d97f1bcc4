//! What a shard keeps its rows in: the row log, the location table, the key index.
//!
//! * [`row_log`]: every version of every row, appended.
//! * [`location`]: surrogate to newest version.
//! * [`key_index`] over [`page`]s: key to surrogate.
//! * [`history`]: the versions that old snapshots may still read, and when they may go.
//! * [`extent`]: the surrogates that a table may give out.
//! * [`directory`]: which collection and shard own a surrogate.
//!
//! All of it is plain data of one core; nothing here logs, waits or replies (see `crate::shard`).

pub mod directory;
pub mod extent;
pub mod history;
pub mod key_index;
pub mod location;
mod node;
pub mod page;
pub mod row_log;
