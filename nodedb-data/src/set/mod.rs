//! Set queries: Boolean algebra over the engines' sets, then order, limit and output.
//!
//! Evaluation goes block by block of 65,536 surrogates, over pairs of sets (true, unknown), and
//! is as of the statement's snapshot although indexes hold the latest applied version only:
//! `(E(latest) − U) ∪ { r ∈ U : the visible version satisfies the whole predicate }` with U the
//! rows committed after the snapshot, taken once the block's last set was read.

mod block;
mod changes;
mod context;
mod evaluate;
mod keys;
mod ordered;
mod output;
mod part;
mod rank;
mod row_set;
mod rows;
mod run;
mod scan;
mod send;
mod sorter;
#[cfg(test)]
mod tests;
mod walk;

pub use block::{BlockBuilder, BlockSet, Gather, Ids};
pub use changes::{Changes, Mark};
pub use context::{Context, Host, Sink};
pub use row_set::{RowSet, RowSetBuilder};
pub use rows::{KeyCursor, Rows, Version};
pub use run::{run, statistics};
