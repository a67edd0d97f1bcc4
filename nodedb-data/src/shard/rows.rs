//! A table as set queries see it.

use std::ops::Bound;
use std::sync::Arc;
use std::task::{Poll, ready};

use nodedb_bridge::plan::Direction;
use nodedb_types::{Collection, CommitTs, IndexId, Result, ShardId, Surrogate};

use super::table::Table;
use crate::engine::SharedIndex;
use crate::pace::{INDEX_STEP, Turn};
use crate::set::{BlockSet, KeyCursor, Mark, RowSet, Rows, Version};
use crate::store::residency::Reading;

impl Rows for Table {
    fn shard(&self) -> ShardId {
        self.shard
    }

    fn collection(&self) -> Arc<Collection> {
        Table::collection(self)
    }

    fn index(&self, index: IndexId) -> Option<SharedIndex> {
        self.find_index(index).map(|i| i.engine)
    }

    fn rows_alive(&self) -> u64 {
        self.rows()
    }

    fn alive(&self, block: u16) -> BlockSet {
        self.alive
            .borrow()
            .block(block)
            .cloned()
            .unwrap_or_default()
    }

    fn next_alive_block(&self, from: u16) -> Option<u16> {
        self.alive.borrow().next_block(from)
    }

    fn changed_since(&self, snapshot: CommitTs, block: u16) -> BlockSet {
        self.changes.borrow().since(snapshot, block)
    }

    fn next_changed_block(&self, snapshot: CommitTs, from: u16) -> Option<u16> {
        self.changes.borrow().next_block(snapshot, from)
    }

    fn mark(&self) -> Mark {
        self.changes.borrow().mark()
    }

    fn changed_after(&self, mark: Mark) -> RowSet {
        self.changes.borrow().after(mark)
    }

    fn poll_read(
        &self,
        surrogate: Surrogate,
        snapshot: CommitTs,
        reading: &mut Reading,
        turn: &Turn<'_>,
        see: &mut dyn FnMut(Version<'_>) -> Result<()>,
    ) -> Poll<Result<bool>> {
        ready!(reading.poll(turn.waker))?;
        loop {
            self.check_snapshot(snapshot)?;
            let seen = self.visible_from(surrogate, snapshot, &mut reading.at, |version| {
                see(Version {
                    row: version.row,
                    key: version.key,
                    surrogate,
                    version: version.commit_ts,
                    birth: version.birth,
                })
            });
            match seen {
                Ok(Some(seen)) => return Poll::Ready(seen.map(|()| true)),
                Ok(None) => return Poll::Ready(Ok(false)),
                Err(missing) => ready!(reading.poll_fetch(missing, turn.waker))?,
            }
        }
    }

    fn poll_keys(
        &self,
        cursor: &mut KeyCursor,
        max: usize,
        entries: &mut Vec<(Box<[u8]>, Surrogate)>,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        ready!(cursor.reading.poll(turn.waker))?;
        let ascending = cursor.direction == Direction::Ascending;
        let mut found = Vec::new();
        loop {
            let from = cursor
                .after
                .as_deref()
                .map_or(Bound::Unbounded, Bound::Excluded);
            let scanned = self.scan(from, ascending, max, &mut found);
            match scanned {
                Ok(()) => break,
                Err(missing) => ready!(cursor.reading.poll_fetch(missing, turn.waker))?,
            }
        }
        if let Some((last, _)) = found.last() {
            cursor.after = Some(last.clone());
        }
        turn.budget.spend(INDEX_STEP * found.len() as u32);
        entries.extend(
            found
                .into_iter()
                .filter_map(|(key, id)| Some((key, Surrogate::new(id)?))),
        );
        Poll::Ready(Ok(()))
    }
}
