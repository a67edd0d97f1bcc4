//! U: the rows that a shard's collection has committed lately.
//!
//! Indexes hold the latest applied version only. A reader at snapshot `s` therefore asks which
//! rows have a version above `s`, takes them out of what the indexes say and looks at the version
//! it may see. Versions of one row have ascending timestamps, so its newest one decides.
//! A ranking that runs over several turns asks instead which rows changed since a [`Mark`].

use std::collections::{BTreeMap, VecDeque};

use nodedb_types::{CommitTs, Surrogate};

use super::block::BlockSet;
use super::row_set::RowSet;

/// A position in the order in which changes were recorded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mark(u64);

/// The newest change of one row.
#[derive(Clone, Copy)]
struct Newest {
    commit: CommitTs,
    mark: Mark,
}

/// Rows with a version above the oldest snapshot that anybody reads.
#[derive(Default)]
pub struct Changes {
    blocks: BTreeMap<u16, BTreeMap<u16, Newest>>,
    /// In the order of recording; positions count from `first`.
    log: VecDeque<(CommitTs, Surrogate)>,
    first: u64,
    /// No change above this is known, so most readers need not look.
    newest: CommitTs,
}

impl Changes {
    /// A row gets a version of `commit` (or ends then). Called before the first of its
    /// structures is touched.
    pub fn record(&mut self, commit: CommitTs, surrogate: Surrogate) {
        let mark = self.mark();
        self.log.push_back((commit, surrogate));
        self.newest = self.newest.max(commit);
        let newest = Newest { commit, mark };
        self.blocks
            .entry(surrogate.block())
            .or_default()
            .insert(surrogate.get() as u16, newest);
    }

    /// What is recorded from now on comes at or after this.
    pub fn mark(&self) -> Mark {
        Mark(self.first + self.log.len() as u64)
    }

    /// Rows of a block with a version above `snapshot`.
    pub fn since(&self, snapshot: CommitTs, block: u16) -> BlockSet {
        if self.newest <= snapshot {
            return BlockSet::new();
        }
        let Some(rows) = self.blocks.get(&block) else {
            return BlockSet::new();
        };
        let above = rows.iter().filter(|(_, newest)| newest.commit > snapshot);
        BlockSet::from_sorted(above.map(|(low, _)| *low))
    }

    /// The first block at or above `from` with a row that has a version above `snapshot`.
    pub fn next_block(&self, snapshot: CommitTs, from: u16) -> Option<u16> {
        if self.newest <= snapshot {
            return None;
        }
        let above = |rows: &BTreeMap<u16, Newest>| rows.values().any(|n| n.commit > snapshot);
        let mut blocks = self.blocks.range(from..);
        blocks
            .find(|(_, rows)| above(rows))
            .map(|(block, _)| *block)
    }

    /// Rows changed at or after `mark`, however high their timestamps. Changes that a trim took
    /// away since are missing, and a reader that holds its snapshot cannot need them.
    pub fn after(&self, mark: Mark) -> RowSet {
        let skip = mark.0.saturating_sub(self.first) as usize;
        let rows = self.log.iter().skip(skip);
        rows.map(|(_, surrogate)| surrogate.get()).collect()
    }

    /// Forgets changes at or below `oldest`, which every reader sees, but no more than `max` of
    /// them; true when there may be more.
    pub fn trim(&mut self, oldest: CommitTs, max: usize) -> bool {
        for _ in 0..max {
            match self.log.front() {
                Some((commit, surrogate)) if *commit <= oldest => {
                    let (block, low) = (surrogate.block(), surrogate.get() as u16);
                    self.forget(block, low, Mark(self.first));
                    self.log.pop_front();
                    self.first += 1;
                }
                _ => return false,
            }
        }
        true
    }

    fn forget(&mut self, block: u16, low: u16, mark: Mark) {
        let Some(rows) = self.blocks.get_mut(&block) else {
            return;
        };
        if rows.get(&low).is_some_and(|newest| newest.mark == mark) {
            rows.remove(&low);
            if rows.is_empty() {
                self.blocks.remove(&block);
            }
        }
    }

    /// Bytes held on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        self.log.capacity() * size_of::<(CommitTs, Surrogate)>() + self.log.len() * 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(raw: u32) -> Surrogate {
        Surrogate::new(raw).unwrap()
    }

    fn ids(set: &BlockSet) -> Vec<u16> {
        set.iter().collect()
    }

    #[test]
    fn readers_see_what_lies_above_their_snapshot() {
        let mut changes = Changes::default();
        changes.record(CommitTs(10), row(1));
        // A transaction over several shards may be applied after a later one.
        changes.record(CommitTs(8), row(2));
        changes.record(CommitTs(12), row(0x2_0001));
        assert_eq!(ids(&changes.since(CommitTs(9), 0)), [1]);
        assert_eq!(ids(&changes.since(CommitTs(7), 0)), [1, 2]);
        assert!(changes.since(CommitTs(12), 2).is_empty());
        assert_eq!(changes.next_block(CommitTs(10), 0), Some(2));
        assert_eq!(changes.next_block(CommitTs(7), 0), Some(0));
        assert_eq!(changes.next_block(CommitTs(7), 1), Some(2));
        assert_eq!(changes.next_block(CommitTs(7), 3), None);
    }

    #[test]
    fn marks_and_trims() {
        let mut changes = Changes::default();
        changes.record(CommitTs(1), row(1));
        let mark = changes.mark();
        changes.record(CommitTs(2), row(2));
        changes.record(CommitTs(3), row(1));
        assert!(changes.after(mark).iter().eq([1, 2]));
        assert!(!changes.trim(CommitTs(2), 10));
        // The newer change of row 1 outlives its older one.
        assert_eq!(ids(&changes.since(CommitTs(0), 0)), [1]);
        assert!(changes.after(mark).iter().eq([1]));
        assert!(changes.trim(CommitTs(3), 1));
        assert!(!changes.trim(CommitTs(3), 1));
        assert_eq!(changes.next_block(CommitTs(0), 0), None);
        assert!(changes.after(changes.mark()).is_empty());
    }
}
