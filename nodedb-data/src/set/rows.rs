//! What a query task needs of one collection on one shard.
//!
//! The shard changes between turns, so nothing here lends out more than a call lasts. Two times
//! meet: the *applied* state, which indexes, `alive` and the key order show, and the *visible*
//! version at the statement's snapshot, which `poll_read` shows. [`Rows::changed_since`] names
//! the rows for which they may differ.

use std::sync::Arc;
use std::task::Poll;

use nodedb_bridge::plan::Direction;
use nodedb_types::{Collection, CommitTs, IndexId, Result, ShardId, Surrogate};

use super::block::BlockSet;
use super::changes::Mark;
use super::row_set::RowSet;
use crate::engine::SharedIndex;
use crate::pace::Turn;
use crate::store::residency::Reading;

/// One version of a row, lent for the length of a call.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    /// Encoded by `nodedb_types::row`.
    pub row: &'a [u8],
    /// Canonical key bytes; of a hidden key its eight bytes.
    pub key: &'a [u8],
    pub surrogate: Surrogate,
    /// When this version was committed.
    pub version: CommitTs,
    /// When the row's first version was committed.
    pub birth: CommitTs,
}

/// A position in the key order, which stays good while rows come and go.
#[derive(Clone, Debug)]
pub struct KeyCursor {
    pub direction: Direction,
    /// The last key that was given.
    pub after: Option<Box<[u8]>>,
    /// What the next entries wait for.
    pub reading: Reading,
}

impl KeyCursor {
    pub fn new(direction: Direction) -> KeyCursor {
        KeyCursor {
            direction,
            after: None,
            reading: Reading::default(),
        }
    }
}

/// One collection on one shard. Owned by a core's thread; a query holds it as `Rc<dyn Rows>`.
pub trait Rows {
    fn shard(&self) -> ShardId;

    fn collection(&self) -> Arc<Collection>;

    /// The index, if this shard has it. A reader may keep it beyond a drop: rows that change
    /// after that are in [`Rows::changed_since`].
    fn index(&self, index: IndexId) -> Option<SharedIndex>;

    /// Rows of the latest applied state.
    fn rows_alive(&self) -> u64;

    /// Rows of a block alive in the latest applied state.
    fn alive(&self, block: u16) -> BlockSet;

    /// The first block at or above `from` with rows alive.
    fn next_alive_block(&self, from: u16) -> Option<u16>;

    /// U of a block: rows with a version, or an end, committed above `snapshot`. A row is in it
    /// before the first of its structures is touched.
    fn changed_since(&self, snapshot: CommitTs, block: u16) -> BlockSet;

    /// The first block at or above `from` in which [`Rows::changed_since`] is not empty.
    fn next_changed_block(&self, snapshot: CommitTs, from: u16) -> Option<u16>;

    /// What is applied from now on is in `changed_after(mark)`.
    fn mark(&self) -> Mark;

    /// Rows that changed at or after `mark`.
    fn changed_after(&self, mark: Mark) -> RowSet;

    /// Shows `see` the version of a row that is visible at `snapshot`; false when there is none.
    /// Charging [`crate::pace::ROW_READ`] is the caller's business, as it knows what it does
    /// with the row; the shard charges what it does beyond, such as walking old versions. Fails with 72000 when
    /// the history that far back is gone. `see` is called at the most once, in the call that
    /// returns `Ready`. `reading` is the row's own, new at the first call and the same at those
    /// that follow `Pending`.
    fn poll_read(
        &self,
        surrogate: Surrogate,
        snapshot: CommitTs,
        reading: &mut Reading,
        turn: &Turn<'_>,
        see: &mut dyn FnMut(Version<'_>) -> Result<()>,
    ) -> Poll<Result<bool>>;

    /// Appends the next at most `max` entries of the applied key index in the cursor's direction
    /// to `entries`, and moves the cursor behind them; none at the end.
    fn poll_keys(
        &self,
        cursor: &mut KeyCursor,
        max: usize,
        entries: &mut Vec<(Box<[u8]>, Surrogate)>,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>>;
}
