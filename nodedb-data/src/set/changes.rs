//! U: the rows that a shard's collection has committed lately.
//!
//! Indexes hold the latest applied version only. A reader at snapshot `s` therefore asks which
//! rows have a version above `s`, takes them out of what the indexes say and looks at the version
//! it may see. Versions of one row have ascending timestamps, so its newest one decides.
//! A ranking that runs over several turns asks instead which rows changed since a [`Mark`].

use std::collections::BTreeMap;

use nodedb_types::{CommitTs, Surrogate};

use super::block::BlockSet;
use super::row_set::RowSet;
use crate::chunks::Chunks;

/// A position in the order in which changes were recorded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mark(u64);

/// A change of one row of a block.
#[derive(Clone, Copy)]
struct Change {
    commit: CommitTs,
    /// The highest commit up to here, so that a reader finds where its changes begin although
    /// transactions over several shards may be applied after later ones.
    ceiling: CommitTs,
    mark: Mark,
    low: u16,
}

/// Above this many changes a block keeps only the newest of each row.
const BLOCK_CHANGES: usize = 1 << 16;

/// Rows with a version above the oldest snapshot that anybody reads.
#[derive(Default)]
pub struct Changes {
    /// In the order of recording.
    blocks: BTreeMap<u16, Chunks<Change>>,
    /// All of them in the order of recording; positions count from `first`.
    log: Chunks<(CommitTs, Surrogate)>,
    first: u64,
    /// No change above this is known, so most readers need not look.
    newest: CommitTs,
}

impl Changes {
    /// A row gets a version of `commit` (or ends then). Called before the first of its
    /// structures is touched.
    pub fn record(&mut self, commit: CommitTs, surrogate: Surrogate) {
        let mark = self.mark();
        self.log.push((commit, surrogate));
        self.newest = self.newest.max(commit);
        let block = self.blocks.entry(surrogate.block()).or_default();
        push(block, commit, mark, surrogate.get() as u16);
        // Each row stands there once afterwards, so this happens every so many changes at most.
        if block.len() >= 2 * BLOCK_CHANGES {
            keep_newest(block);
        }
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
        let Some(changes) = self.blocks.get(&block) else {
            return BlockSet::new();
        };
        let begin = changes.partition_point(|change| change.ceiling <= snapshot);
        let above = changes
            .iter_from(begin)
            .filter(|change| change.commit > snapshot);
        above.map(|change| change.low).collect()
    }

    /// The first block at or above `from` with a row that has a version above `snapshot`.
    pub fn next_block(&self, snapshot: CommitTs, from: u16) -> Option<u16> {
        if self.newest <= snapshot {
            return None;
        }
        let above = |changes: &Chunks<Change>| {
            changes
                .back()
                .is_some_and(|change| change.ceiling > snapshot)
        };
        let mut blocks = self.blocks.range(from..);
        blocks
            .find(|(_, changes)| above(changes))
            .map(|(block, _)| *block)
    }

    /// Rows changed at or after `mark`, however high their timestamps. Changes that a trim took
    /// away since are missing, and a reader that holds its snapshot cannot need them.
    pub fn after(&self, mark: Mark) -> RowSet {
        let skip = (mark.0.saturating_sub(self.first) as usize).min(self.log.len());
        let rows = self.log.iter_from(skip);
        rows.map(|(_, surrogate)| surrogate.get()).collect()
    }

    /// How many changes it remembers.
    pub fn remembered(&self) -> usize {
        self.log.len()
    }

    /// Forgets changes at or below `oldest`, which every reader sees, but no more than `max` of
    /// them; true when there may be more.
    pub fn trim(&mut self, oldest: CommitTs, max: usize) -> bool {
        for _ in 0..max {
            match self.log.front() {
                Some((commit, surrogate)) if *commit <= oldest => {
                    let block = surrogate.block();
                    self.log.pop_front();
                    self.forget(block, Mark(self.first));
                    self.first += 1;
                }
                _ => return false,
            }
        }
        true
    }

    /// Takes the change at `mark` out of its block, where it is the oldest if it is still there.
    fn forget(&mut self, block: u16, mark: Mark) {
        let Some(changes) = self.blocks.get_mut(&block) else {
            return;
        };
        if changes.front().is_some_and(|change| change.mark == mark) {
            changes.pop_front();
        }
        if changes.is_empty() {
            self.blocks.remove(&block);
        }
    }

    /// Bytes held on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        let each = size_of::<(CommitTs, Surrogate)>() + size_of::<Change>();
        self.log.len() * each
    }
}

fn push(block: &mut Chunks<Change>, commit: CommitTs, mark: Mark, low: u16) {
    let ceiling = block.back().map_or(commit, |last| last.ceiling.max(commit));
    block.push(Change {
        commit,
        ceiling,
        mark,
        low,
    });
}

/// Of the changes of one row only the newest is needed: a row is in U when that lies above the
/// snapshot.
fn keep_newest(block: &mut Chunks<Change>) {
    let mut seen = BlockSet::new();
    let mut kept = Vec::new();
    while let Some(change) = block.pop() {
        if seen.insert(change.low) {
            kept.push(change);
        }
    }
    for change in kept.into_iter().rev() {
        push(block, change.commit, change.mark, change.low);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    proptest! {
        #[test]
        fn equal_to_a_plain_list(
            steps in prop::collection::vec((1u64..60, 1u32..9, 0u32..3), 1..80),
            trims in prop::collection::vec((0u64..60, 0usize..20), 0..4),
            compact in any::<bool>(),
            mark in 0usize..80,
        ) {
            let mut changes = Changes::default();
            let mut list: Vec<(u64, u32)> = Vec::new();
            let mut at = None;
            for (n, (commit, low, block)) in steps.into_iter().enumerate() {
                if n == mark {
                    at = Some((changes.mark(), list.len()));
                }
                let id = block << 16 | low;
                // Versions of one row ascend.
                let newest = list.iter().filter(|(_, row)| *row == id).map(|(ts, _)| *ts).max();
                let commit = commit.max(newest.unwrap_or(0) + 1);
                changes.record(CommitTs(commit), row(id));
                list.push((commit, id));
            }
            if let Some((mark, from)) = at {
                let after: RowSet = list[from..].iter().map(|(_, id)| *id).collect();
                prop_assert_eq!(changes.after(mark), after);
            }
            if compact {
                changes.blocks.values_mut().for_each(keep_newest);
            }
            let mut oldest = 0;
            for (ts, max) in trims {
                oldest = oldest.max(ts);
                changes.trim(CommitTs(oldest), max);
            }
            for snapshot in oldest..62 {
                for block in 0..3u16 {
                    let above = list.iter().filter(|(ts, id)| *ts > snapshot && (id >> 16) as u16 == block);
                    let above: BlockSet = above.map(|(_, id)| *id as u16).collect();
                    let next = list.iter().filter(|(ts, id)| *ts > snapshot && (id >> 16) as u16 >= block);
                    let next = next.map(|(_, id)| (id >> 16) as u16).min();
                    prop_assert_eq!(changes.since(CommitTs(snapshot), block), above);
                    prop_assert_eq!(changes.next_block(CommitTs(snapshot), block), next);
                }
            }
        }
    }

    #[test]
    fn a_row_written_again_and_again_takes_bounded_room() {
        let mut changes = Changes::default();
        for ts in 1..=(2 * BLOCK_CHANGES as u64 + 10) {
            changes.record(CommitTs(ts), row(7));
        }
        assert!(changes.blocks[&0].len() <= 11);
        assert_eq!(ids(&changes.since(CommitTs(5), 0)), [7]);
        changes.trim(CommitTs(u64::MAX), usize::MAX);
        assert!(changes.blocks.is_empty() && changes.log.is_empty());
    }
}
