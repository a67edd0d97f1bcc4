//! A value for each of many surrogates, found in constant time.
//!
//! Surrogates are leased in aligned extents and used up from the start, so a dense array per
//! small extent wastes little. The few extents of a shard are kept in ascending order. An extent
//! that a checkpoint shares is copied before it changes.

use std::cell::Cell;
use std::rc::Rc;

use nodedb_types::limits::EXTENT_SMALL;

const SLOTS: usize = EXTENT_SMALL as usize;
const WORDS: usize = SLOTS / 64;

/// Values by surrogate.
pub struct SurrogateMap<T> {
    extents: Vec<(u32, Rc<Extent<T>>)>,
    /// Where the last extent was found: neighbours are mostly asked for one after another.
    hint: Cell<usize>,
    len: u64,
}

/// Values of the surrogates of one small extent.
#[derive(Clone)]
pub struct Extent<T> {
    /// A bit for each slot that has a value.
    present: [u64; WORDS],
    count: u32,
    values: [T; SLOTS],
}

fn split(surrogate: u32) -> (u32, usize) {
    (
        surrogate / EXTENT_SMALL,
        (surrogate % EXTENT_SMALL) as usize,
    )
}

impl<T: Copy> Extent<T> {
    fn has(&self, slot: usize) -> bool {
        self.present[slot / 64] >> (slot % 64) & 1 == 1
    }

    pub fn get(&self, slot: usize) -> Option<T> {
        self.has(slot).then(|| self.values[slot])
    }

    /// 64 slots at once, the `word`th of the 16 rows: a bit for each that has a value, the lowest
    /// for the first, and the values, some other where there is none.
    #[inline]
    pub fn row(&self, word: usize) -> (u64, &[T; 64]) {
        (self.present[word], &self.values.as_chunks().0[word])
    }

    /// The first slot at or above `from` that has a value.
    pub fn next(&self, from: usize) -> Option<usize> {
        let mut word = from / 64;
        let mut bits = self.present.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.present.get(word)?;
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }
}

impl<T: Copy + Default> SurrogateMap<T> {
    pub fn new() -> SurrogateMap<T> {
        SurrogateMap {
            extents: Vec::new(),
            hint: Cell::new(0),
            len: 0,
        }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    fn position(&self, number: u32) -> Result<usize, usize> {
        let hint = self.hint.get();
        if self.extents.get(hint).is_some_and(|(n, _)| *n == number) {
            return Ok(hint);
        }
        let found = self.extents.binary_search_by_key(&number, |(n, _)| *n);
        if let Ok(at) = found {
            self.hint.set(at);
        }
        found
    }

    pub fn get(&self, surrogate: u32) -> Option<T> {
        let (number, slot) = split(surrogate);
        self.extents[self.position(number).ok()?].1.get(slot)
    }

    /// Appends those of `ascending` that have a value to `found`, each with it.
    pub fn get_all(&self, ascending: &[u32], found: &mut Vec<(u32, T)>) {
        let mut rest = ascending;
        found.reserve(ascending.len());
        while let Some(first) = rest.first() {
            let number = first / EXTENT_SMALL;
            let same = rest.iter().take_while(|id| **id / EXTENT_SMALL == number);
            let (these, others) = rest.split_at(same.count());
            rest = others;
            if let Ok(at) = self.position(number) {
                let extent = &self.extents[at].1;
                let value = |id: &u32| Some((*id, extent.get(split(*id).1)?));
                found.extend(these.iter().filter_map(value));
            }
        }
    }

    /// The extent of this number (surrogate / 1024), if it has values.
    pub fn extent(&self, number: u32) -> Option<&Extent<T>> {
        let at = self.position(number).ok()?;
        Some(&self.extents[at].1)
    }

    /// The extents that have values, by ascending surrogate / 1024.
    pub fn extents(&self) -> impl Iterator<Item = (u32, &Rc<Extent<T>>)> {
        self.extents
            .iter()
            .map(|(number, extent)| (*number, extent))
    }

    /// Gives the value that was there.
    pub fn insert(&mut self, surrogate: u32, value: T) -> Option<T> {
        let (number, slot) = split(surrogate);
        let at = self.position(number).unwrap_or_else(|at| {
            let extent = Extent {
                present: [0; WORDS],
                count: 0,
                values: [T::default(); SLOTS],
            };
            self.extents.insert(at, (number, Rc::new(extent)));
            at
        });
        let extent = Rc::make_mut(&mut self.extents[at].1);
        let old = extent.get(slot);
        extent.values[slot] = value;
        extent.present[slot / 64] |= 1 << (slot % 64);
        if old.is_none() {
            extent.count += 1;
            self.len += 1;
        }
        old
    }

    /// Gives the value that was there.
    pub fn remove(&mut self, surrogate: u32) -> Option<T> {
        let (number, slot) = split(surrogate);
        let at = self.position(number).ok()?;
        if !self.extents[at].1.has(slot) {
            return None;
        }
        let extent = Rc::make_mut(&mut self.extents[at].1);
        let old = extent.values[slot];
        extent.present[slot / 64] &= !(1 << (slot % 64));
        extent.count -= 1;
        self.len -= 1;
        if extent.count == 0 {
            self.extents.remove(at);
        }
        Some(old)
    }

    /// Drops one of the extents; false when there is none.
    pub fn drop_extent(&mut self) -> bool {
        let dropped = self.extents.pop();
        if let Some((_, extent)) = &dropped {
            self.len -= u64::from(extent.count);
        }
        dropped.is_some()
    }

    /// The first entry at or above `from`.
    pub fn next(&self, from: u32) -> Option<(u32, T)> {
        let (number, slot) = split(from);
        let (mut at, mut slot) = match self.position(number) {
            Ok(at) => (at, slot),
            Err(at) => (at, 0),
        };
        loop {
            let (number, extent) = self.extents.get(at)?;
            if let Some(slot) = extent.next(slot) {
                return Some((number * EXTENT_SMALL + slot as u32, extent.values[slot]));
            }
            (at, slot) = (at + 1, 0);
        }
    }

    /// Bytes held on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.extents.capacity() * size_of::<(u32, Rc<Extent<T>>)>()
            + self.extents.len() * size_of::<Extent<T>>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_equals_the_model(
            steps in prop::collection::vec((any::<bool>(), 0u32..6, 0u32..8, any::<u32>()), 0..120),
            from in 0u32..8192,
        ) {
            let (mut map, mut model) = (SurrogateMap::new(), BTreeMap::new());
            for (add, extent, slot, value) in steps {
                // Slots at both ends of an extent and around a word's border.
                let id = extent * 1024 + [0, 1, 63, 64, 500, 959, 1022, 1023][slot as usize];
                if add {
                    prop_assert_eq!(map.insert(id, value), model.insert(id, value));
                } else {
                    prop_assert_eq!(map.remove(id), model.remove(&id));
                }
                prop_assert_eq!(map.get(id), model.get(&id).copied());
                let slot = (id % 1024) as usize;
                let row = map.extent(id / 1024).map(|e| e.row(slot / 64));
                let row = row.filter(|(present, _)| present >> (slot % 64) & 1 == 1);
                prop_assert_eq!(row.map(|(_, values)| values[slot % 64]), map.get(id));
                prop_assert_eq!(map.len(), model.len() as u64);
            }
            let all: Vec<u32> = (0..6144).collect();
            let mut found = Vec::new();
            map.get_all(&all, &mut found);
            prop_assert!(found.iter().copied().eq(model.iter().map(|(id, value)| (*id, *value))));
            let next = model.range(from..).next().map(|(id, value)| (*id, *value));
            prop_assert_eq!(map.next(from), next);
        }
    }

    #[test]
    fn the_last_extent_has_an_end() {
        let mut map = SurrogateMap::new();
        map.insert(u32::MAX, 7u8);
        assert_eq!(map.next(0), Some((u32::MAX, 7)));
        assert_eq!(map.remove(u32::MAX), Some(7));
        assert_eq!((map.next(0), map.len()), (None, 0));
    }
}
