//! What a shard keeps its rows in: the row log, the location table, the key index.
//!
//! * [`row_log`]: every version of every row, appended.
//! * [`location`]: surrogate to newest version.
//! * [`key_index`] over [`page`]s: key to surrogate.
//! * [`history`]: the versions that old snapshots may still read, and when they may go.
//! * [`extent`]: the surrogates that a table may give out.
//! * [`directory`]: which collection and shard own a surrogate.
//!
//! All of that is plain data of one core; nothing of it logs, waits or replies (see `crate::shard`).
//! What a checkpoint writes and a restart reads back:
//!
//! * [`leaves`]: pages, chunks of locations and segments of rows, shared with a frozen state.
//! * [`residency`]: which of them are in memory, and how the others come back.
//! * [`slots`]: the room in a shard's file, and what is still needed of it.
//! * [`file`]: the shard's file: roots, and pieces written and read in order.

pub mod directory;
pub mod extent;
pub mod file;
pub mod history;
pub mod key_index;
pub mod leaves;
pub mod location;
mod node;
pub mod page;
pub mod residency;
#[cfg(test)]
mod residency_tests;
pub mod row_log;
pub mod slots;
