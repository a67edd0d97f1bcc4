//! A set of surrogates over all blocks: what a ranker may choose from, what a source has gathered.

use super::block::{BlockBuilder, BlockSet};

/// Sets of blocks by ascending block; no empty one is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowSet {
    blocks: Vec<(u16, BlockSet)>,
    len: u64,
}

fn split(surrogate: u32) -> (u16, u16) {
    ((surrogate >> 16) as u16, surrogate as u16)
}

impl RowSet {
    pub fn new() -> RowSet {
        RowSet::default()
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn position(&self, block: u16) -> Result<usize, usize> {
        match self.blocks.last() {
            Some((last, _)) if *last < block => Err(self.blocks.len()),
            _ => self
                .blocks
                .binary_search_by_key(&block, |(block, _)| *block),
        }
    }

    pub fn contains(&self, surrogate: u32) -> bool {
        let (block, low) = split(surrogate);
        self.block(block).is_some_and(|set| set.contains(low))
    }

    /// True when it was not there.
    pub fn insert(&mut self, surrogate: u32) -> bool {
        let (block, low) = split(surrogate);
        let at = self.position(block).unwrap_or_else(|at| {
            self.blocks.insert(at, (block, BlockSet::new()));
            at
        });
        let new = self.blocks[at].1.insert(low);
        self.len += u64::from(new);
        new
    }

    /// True when it was there.
    pub fn remove(&mut self, surrogate: u32) -> bool {
        let (block, low) = split(surrogate);
        let Ok(at) = self.position(block) else {
            return false;
        };
        let set = &mut self.blocks[at].1;
        let was = set.remove(low);
        if set.is_empty() {
            self.blocks.remove(at);
        }
        self.len -= u64::from(was);
        was
    }

    /// The ids of one block.
    pub fn block(&self, block: u16) -> Option<&BlockSet> {
        let at = self.position(block).ok()?;
        Some(&self.blocks[at].1)
    }

    /// The first block at or above `from` that has ids.
    pub fn next_block(&self, from: u16) -> Option<u16> {
        let at = self.blocks.partition_point(|(block, _)| *block < from);
        self.blocks.get(at).map(|(block, _)| *block)
    }

    /// Adds ids of one block.
    pub fn union_block(&mut self, block: u16, ids: &BlockSet) {
        if ids.is_empty() {
            return;
        }
        match self.position(block) {
            Ok(at) => {
                let set = &mut self.blocks[at].1;
                let before = set.len();
                set.union(ids);
                self.len += (set.len() - before) as u64;
            }
            Err(at) => {
                self.len += ids.len() as u64;
                self.blocks.insert(at, (block, ids.clone()));
            }
        }
    }

    /// Adds ids of one block, which mostly is not there yet.
    pub fn add_block(&mut self, block: u16, ids: BlockSet) {
        match self.position(block) {
            Err(at) if !ids.is_empty() => {
                self.len += ids.len() as u64;
                self.blocks.insert(at, (block, ids));
            }
            _ => self.union_block(block, &ids),
        }
    }

    pub fn union(&mut self, other: &RowSet) {
        for (block, ids) in &other.blocks {
            self.union_block(*block, ids);
        }
    }

    /// Takes out what is in the other.
    pub fn subtract(&mut self, other: &RowSet) {
        if other.is_empty() {
            return;
        }
        self.blocks.retain_mut(|(block, set)| {
            if let Some(ids) = other.block(*block) {
                set.subtract(ids);
            }
            !set.is_empty()
        });
        self.len = self.blocks.iter().map(|(_, set)| set.len() as u64).sum();
    }

    /// Keeps what is in both.
    pub fn intersect(&mut self, other: &RowSet) {
        self.blocks.retain_mut(|(block, set)| {
            match other.block(*block) {
                Some(ids) => set.intersect(ids),
                None => return false,
            }
            !set.is_empty()
        });
        self.len = self.blocks.iter().map(|(_, set)| set.len() as u64).sum();
    }

    pub fn blocks(&self) -> impl Iterator<Item = (u16, &BlockSet)> {
        self.blocks.iter().map(|(block, set)| (*block, set))
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.blocks
            .iter()
            .flat_map(|(block, set)| set.surrogates(*block))
    }

    /// The first id above `after`; `None` starts at the first of all.
    pub fn next_after(&self, after: Option<u32>) -> Option<u32> {
        let from = match after {
            Some(after) => after.checked_add(1)?,
            None => 0,
        };
        let (block, low) = split(from);
        let at = self.blocks.partition_point(|(b, _)| *b < block);
        self.blocks[at..].iter().find_map(|(b, set)| {
            let first = if *b == block { low } else { 0 };
            let low = set.iter_from(first).next()?;
            Some(u32::from(*b) << 16 | u32::from(low))
        })
    }

    /// Bytes held on the heap.
    pub fn heap_bytes(&self) -> usize {
        let entries = self.blocks.capacity() * size_of::<(u16, BlockSet)>();
        entries
            + self
                .blocks
                .iter()
                .map(|(_, set)| set.heap_bytes())
                .sum::<usize>()
    }
}

impl FromIterator<u32> for RowSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> RowSet {
        let mut set = RowSet::new();
        for id in ids {
            set.insert(id);
        }
        set
    }
}

/// Gathers a set piece by piece. Adding to it costs the same however large it has grown, for
/// 8 KiB a block.
#[derive(Default)]
pub struct RowSetBuilder {
    /// By ascending block.
    blocks: Vec<(u16, BlockBuilder)>,
    /// Where the last id went: neighbours mostly come one after another.
    hint: usize,
}

impl RowSetBuilder {
    pub fn insert(&mut self, surrogate: u32) {
        let (block, low) = split(surrogate);
        self.block(block).insert(low);
    }

    pub fn union(&mut self, rows: &RowSet) {
        for (block, ids) in rows.blocks() {
            self.block(block).union(ids);
        }
    }

    fn block(&mut self, block: u16) -> &mut BlockBuilder {
        if self.blocks.get(self.hint).is_none_or(|b| b.0 != block) {
            let found = self.blocks.binary_search_by_key(&block, |b| b.0);
            self.hint = found.unwrap_or_else(|at| {
                self.blocks.insert(at, (block, BlockBuilder::default()));
                at
            });
        }
        &mut self.blocks[self.hint].1
    }

    /// The set; the builder is empty afterwards.
    pub fn finish(&mut self) -> RowSet {
        let blocks = std::mem::take(&mut self.blocks).into_iter();
        let blocks: Vec<_> = blocks.map(|(block, ids)| (block, ids.finish())).collect();
        RowSet {
            len: blocks.iter().map(|(_, ids)| ids.len() as u64).sum(),
            blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ids() -> impl Strategy<Value = BTreeSet<u32>> {
        prop::collection::btree_set(
            (0u32..4, 0u32..20).prop_map(|(b, low)| b << 16 | low),
            0..40,
        )
    }

    proptest! {
        #[test]
        fn algebra_equals_the_model(a in ids(), b in ids(), at in 0u32..300_000) {
            let make = |ids: &BTreeSet<u32>| ids.iter().copied().collect::<RowSet>();
            let mut set = make(&a);
            set.union(&make(&b));
            prop_assert_eq!(&set, &make(&a.union(&b).copied().collect()));
            prop_assert_eq!(set.len(), a.union(&b).count() as u64);
            set.subtract(&make(&b));
            prop_assert_eq!(&set, &make(&a.difference(&b).copied().collect()));
            let mut set = make(&a);
            set.intersect(&make(&b));
            prop_assert_eq!(&set, &make(&a.intersection(&b).copied().collect()));
            prop_assert!(make(&a).iter().eq(a.iter().copied()));
            let mut builder = RowSetBuilder::default();
            builder.union(&make(&a));
            b.iter().for_each(|id| builder.insert(*id));
            prop_assert_eq!(builder.finish(), make(&a.union(&b).copied().collect()));
            prop_assert_eq!(builder.finish(), RowSet::new());
            prop_assert_eq!(make(&a).next_after(Some(at)), a.range(at + 1..).next().copied());
            prop_assert_eq!(make(&a).next_after(None), a.first().copied());
            for id in &a {
                prop_assert!(set.contains(*id) == b.contains(id));
            }
            let mut emptied = make(&a);
            for id in &a {
                prop_assert!(emptied.remove(*id));
                prop_assert!(!emptied.remove(*id));
            }
            prop_assert_eq!(emptied, RowSet::new());
        }
    }
}
