//! The values of an ordered index: a sorted list cut into leaves of some hundred, each value with
//! its rows.
//!
//! A checkpoint shares the leaves it writes, and a leaf is copied before it changes; within it the
//! larger sets of rows are shared in the same way. A leaf that has not changed since it was
//! written keeps its id and is not written again. Leaves split when they are full and take their
//! neighbour in when both are small.
//!
//! Looking for a value would mostly be waiting for the bytes of others, so beside the leaves, and
//! beside the entries of each, stand the first eight bytes of their values as numbers: only where
//! those are equal the values themselves are read.

use std::cmp::Ordering;
use std::ops::{Bound, Range};
use std::rc::Rc;

use super::postings::Postings;

/// Values of a leaf.
pub(super) const LEAF_MAX: usize = 128;

/// Heap bytes of an entry beside its value's bytes and its postings.
const ENTRY_BYTES: usize = (size_of::<Entry>() + size_of::<u64>()) * 3 / 2;

/// A value's order bytes and its rows.
pub(super) type Entry = (Box<[u8]>, Postings);

#[derive(Clone)]
pub(super) struct Leaf {
    /// What it is called in images; 0 once it has changed.
    pub(super) id: u64,
    /// Of the values of the entries.
    heads: Vec<u64>,
    /// Ascending, never empty.
    entries: Vec<Entry>,
}

/// The first eight bytes as a number, zeros for those that are missing. Of two values with
/// different heads the one with the smaller head is the smaller.
fn head(value: &[u8]) -> u64 {
    let mut first = [0; 8];
    let len = value.len().min(8);
    first[..len].copy_from_slice(&value[..len]);
    u64::from_be_bytes(first)
}

/// The places with this head.
fn with_head(heads: &[u64], wanted: u64) -> Range<usize> {
    let start = heads.partition_point(|head| *head < wanted);
    let equal = heads[start..].partition_point(|head| *head == wanted);
    start..start + equal
}

impl Leaf {
    /// `entries`: ascending, not none.
    pub(super) fn new(id: u64, entries: Vec<Entry>) -> Leaf {
        Leaf {
            id,
            heads: entries.iter().map(|(value, _)| head(value)).collect(),
            entries,
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn first(&self) -> &[u8] {
        &self.entries[0].0
    }

    fn search(&self, value: &[u8]) -> Result<usize, usize> {
        let same = with_head(&self.heads, head(value));
        let found = self.entries[same.clone()].binary_search_by(|(other, _)| (**other).cmp(value));
        found
            .map(|at| same.start + at)
            .map_err(|at| same.start + at)
    }

    fn insert(&mut self, at: usize, entry: Entry) {
        self.heads.insert(at, head(&entry.0));
        self.entries.insert(at, entry);
    }

    fn remove(&mut self, at: usize) -> Entry {
        self.heads.remove(at);
        self.entries.remove(at)
    }

    fn split_off(&mut self, at: usize) -> Leaf {
        Leaf {
            id: 0,
            heads: self.heads.split_off(at),
            entries: self.entries.split_off(at),
        }
    }

    fn append(&mut self, mut other: Leaf) {
        self.heads.append(&mut other.heads);
        self.entries.append(&mut other.entries);
    }
}

pub(super) struct Values {
    leaf_max: usize,
    /// Of the first value of each leaf.
    heads: Vec<u64>,
    /// Ascending.
    leaves: Vec<Rc<Leaf>>,
    /// Rows of all values.
    rows: u64,
    /// Heap bytes of all entries, roughly.
    bytes: usize,
}

/// Where an entry stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    leaf: usize,
    entry: usize,
}

impl Values {
    /// `leaf_max`: values of a leaf, at least two.
    pub(super) fn new(leaf_max: usize) -> Values {
        Values {
            leaf_max,
            heads: Vec::new(),
            leaves: Vec::new(),
            rows: 0,
            bytes: 0,
        }
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn leaves(&self) -> &[Rc<Leaf>] {
        &self.leaves
    }

    /// Names the leaves that have changed, from `next` on.
    pub(super) fn name_leaves(&mut self, next: &mut u64) {
        // One without a name is nowhere shared, so nothing is copied.
        for leaf in self.leaves.iter_mut().filter(|leaf| leaf.id == 0) {
            Rc::make_mut(leaf).id = *next;
            *next += 1;
        }
    }

    /// Adds a leaf of an image behind all others; its values are in order. False if they do not
    /// come behind those that are there.
    pub(super) fn push_leaf(&mut self, leaf: Leaf) -> bool {
        let last = self.leaves.last().and_then(|leaf| leaf.entries.last());
        if last.is_some_and(|(value, _)| **value >= *leaf.first()) {
            return false;
        }
        for (value, rows) in &leaf.entries {
            self.rows += rows.len();
            self.bytes += value.len() + ENTRY_BYTES + rows.heap_bytes();
        }
        self.put_leaf(self.leaves.len(), leaf);
        true
    }

    /// Drops the last leaf, of an index that nobody reads any more; false when there is none.
    pub(super) fn drop_leaf(&mut self) -> bool {
        self.leaves.pop().is_some()
    }

    /// The leaf in which a value stands or would stand; 0 where there is none yet.
    fn leaf_of(&self, value: &[u8]) -> usize {
        let same = with_head(&self.heads, head(value));
        let leaves = &self.leaves[same.clone()];
        let behind = same.start + leaves.partition_point(|leaf| leaf.first() <= value);
        behind.saturating_sub(1)
    }

    fn put_leaf(&mut self, at: usize, leaf: Leaf) {
        self.heads.insert(at, head(leaf.first()));
        self.leaves.insert(at, Rc::new(leaf));
    }

    fn take_leaf(&mut self, at: usize) -> Rc<Leaf> {
        self.heads.remove(at);
        self.leaves.remove(at)
    }

    pub(super) fn get(&self, value: &[u8]) -> Option<&Postings> {
        let leaf = self.leaves.get(self.leaf_of(value))?;
        let at = leaf.search(value).ok()?;
        Some(&leaf.entries[at].1)
    }

    /// A leaf to be changed.
    fn change(&mut self, at: usize) -> &mut Leaf {
        let leaf = Rc::make_mut(&mut self.leaves[at]);
        leaf.id = 0;
        leaf
    }

    pub(super) fn insert(&mut self, value: Box<[u8]>, surrogate: u32) {
        let at = self.leaf_of(&value);
        let Some(leaf) = self.leaves.get(at) else {
            self.bytes += value.len() + ENTRY_BYTES;
            self.rows += 1;
            let entries = vec![(value, Postings::One(surrogate))];
            self.put_leaf(at, Leaf::new(0, entries));
            return;
        };
        match leaf.search(&value) {
            Ok(entry) => {
                if leaf.entries[entry].1.contains(surrogate) {
                    return;
                }
                let rows = &mut self.change(at).entries[entry].1;
                let before = rows.heap_bytes();
                rows.insert(surrogate);
                let after = rows.heap_bytes();
                self.rows += 1;
                self.bytes = self.bytes - before + after;
            }
            Err(entry) => {
                self.bytes += value.len() + ENTRY_BYTES;
                self.rows += 1;
                let new = (value, Postings::One(surrogate));
                self.change(at).insert(entry, new);
                self.first_changed(at, entry);
                self.split_full(at, entry);
            }
        }
    }

    /// Splits a leaf that became too large by an entry. One that grows at its end keeps nearly
    /// all, so that ascending values fill their leaves.
    fn split_full(&mut self, at: usize, entry: usize) {
        let leaf_max = self.leaf_max;
        let leaf = self.change(at);
        let len = leaf.entries.len();
        if len <= leaf_max {
            return;
        }
        let keep = if entry + 1 == len { len - 1 } else { len / 2 };
        let right = leaf.split_off(keep);
        self.put_leaf(at + 1, right);
    }

    /// An entry of a leaf has come or gone.
    fn first_changed(&mut self, at: usize, entry: usize) {
        if let Some(first) = self.leaves[at].heads.first()
            && entry == 0
        {
            self.heads[at] = *first;
        }
    }

    /// Takes a row of a value out if it is there.
    pub(super) fn remove(&mut self, value: &[u8], surrogate: u32) {
        let at = self.leaf_of(value);
        let Some(leaf) = self.leaves.get(at) else {
            return;
        };
        let Ok(entry) = leaf.search(value) else {
            return;
        };
        if !leaf.entries[entry].1.contains(surrogate) {
            return;
        }
        self.rows -= 1;
        let leaf = self.change(at);
        let rows = &mut leaf.entries[entry].1;
        let before = rows.heap_bytes();
        if rows.remove(surrogate) {
            let after = rows.heap_bytes();
            self.bytes = self.bytes - before + after;
            return;
        }
        let (value, _) = leaf.remove(entry);
        self.bytes -= value.len() + ENTRY_BYTES;
        self.first_changed(at, entry);
        self.join_small(at);
    }

    /// Drops an empty leaf, and joins a small one with the next.
    fn join_small(&mut self, at: usize) {
        let len = self.leaves[at].entries.len();
        if len == 0 {
            self.take_leaf(at);
            return;
        }
        let next = self
            .leaves
            .get(at + 1)
            .map_or(usize::MAX, |leaf| leaf.entries.len());
        if len < self.leaf_max / 8 && next < self.leaf_max / 2 {
            let next = Rc::unwrap_or_clone(self.take_leaf(at + 1));
            self.change(at).append(next);
        }
    }

    fn entry(&self, at: Position) -> Option<(&[u8], &Postings)> {
        let (value, rows) = self.leaves.get(at.leaf)?.entries.get(at.entry)?;
        Some((value, rows))
    }

    /// The first entry that stands behind `bound`, a lower one.
    fn first_from(&self, bound: Bound<&[u8]>) -> Position {
        let (value, included) = match bound {
            Bound::Unbounded => return Position { leaf: 0, entry: 0 },
            Bound::Included(value) => (value, true),
            Bound::Excluded(value) => (value, false),
        };
        let leaf = self.leaf_of(value);
        let entry = match self.leaves.get(leaf).map(|found| found.search(value)) {
            None => 0,
            Some(Ok(entry)) => entry + usize::from(!included),
            Some(Err(entry)) => entry,
        };
        self.forwards(Position { leaf, entry })
    }

    /// The same place, not behind the end of a leaf.
    fn forwards(&self, at: Position) -> Position {
        match self.leaves.get(at.leaf) {
            Some(leaf) if at.entry >= leaf.entries.len() => Position {
                leaf: at.leaf + 1,
                entry: 0,
            },
            _ => at,
        }
    }

    /// The entries between two bounds, ascending.
    pub(super) fn range<'a>(
        &'a self,
        low: Bound<&[u8]>,
        high: Bound<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a Postings)> + use<'a> {
        let mut at = self.first_from(low);
        std::iter::from_fn(move || {
            let (value, rows) = self.entry(at)?;
            let is_inside = match high {
                Bound::Unbounded => true,
                Bound::Included(high) => value.cmp(high) != Ordering::Greater,
                Bound::Excluded(high) => value.cmp(high) == Ordering::Less,
            };
            at = self.forwards(Position {
                entry: at.entry + 1,
                ..at
            });
            is_inside.then_some((value, rows))
        })
    }

    /// The last entry below `bound`, an upper one.
    pub(super) fn last_below(&self, bound: Bound<&[u8]>) -> Option<(&[u8], &Postings)> {
        // The first entry that is not below it follows the wanted one.
        let Position { leaf, entry } = match bound {
            Bound::Unbounded => Position {
                leaf: self.leaves.len(),
                entry: 0,
            },
            Bound::Included(value) => self.first_from(Bound::Excluded(value)),
            Bound::Excluded(value) => self.first_from(Bound::Included(value)),
        };
        match entry.checked_sub(1) {
            Some(entry) => self.entry(Position { leaf, entry }),
            None => {
                let leaf = self.leaves.get(leaf.checked_sub(1)?)?;
                leaf.entries.last().map(|(value, rows)| (&**value, rows))
            }
        }
    }
}
