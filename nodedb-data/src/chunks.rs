//! Lists and maps that grow and go piece by piece.
//!
//! A `Vec` or `HashMap` of megabytes that is full moves all of itself into memory that is touched
//! for the first time, and one that goes gives everything back, both within one turn of a core: for
//! a hundred thousand rows, milliseconds (P2). [`Chunks`] leaves full chunks where they are and
//! begins another; a [`SplitMap`] consists of small maps, of which one at a time is split in two
//! (linear hashing: Litwin, "Linear Hashing: A New Tool for File and Table Addressing", 1980).

use std::borrow::Borrow;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash};

/// Items of a chunk.
const CHUNK: usize = 256;
/// Entries of a map, on average, above which one is split.
const MAP_ENTRIES: usize = 256;

/// Items in the order in which they were pushed, taken from either end.
#[derive(Debug)]
pub struct Chunks<T> {
    /// All but the first and the last have [`CHUNK`] items. None is empty but an only one.
    chunks: VecDeque<VecDeque<T>>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Chunks<T> {
        Chunks {
            chunks: VecDeque::new(),
        }
    }
}

impl<T> Chunks<T> {
    pub fn len(&self) -> usize {
        let between = self.chunks.len().saturating_sub(2) * CHUNK;
        let last = self.chunks.iter().skip(1).next_back();
        let ends = self.chunks.front().into_iter().chain(last);
        between + ends.map(VecDeque::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.front().is_none()
    }

    pub fn push(&mut self, item: T) {
        match self.chunks.back_mut() {
            Some(last) if last.len() < CHUNK => last.push_back(item),
            _ => self.chunks.push_back(VecDeque::from([item])),
        }
    }

    /// Takes out the last item.
    pub fn pop(&mut self) -> Option<T> {
        let last = self.chunks.back_mut()?;
        let item = last.pop_back();
        if last.is_empty() && self.chunks.len() > 1 {
            self.chunks.pop_back();
        }
        item
    }

    /// Takes out the first item.
    pub fn pop_front(&mut self) -> Option<T> {
        let first = self.chunks.front_mut()?;
        let item = first.pop_front();
        if first.is_empty() && self.chunks.len() > 1 {
            self.chunks.pop_front();
        }
        item
    }

    pub fn front(&self) -> Option<&T> {
        self.chunks.front()?.front()
    }

    pub fn back(&self) -> Option<&T> {
        self.chunks.back()?.back()
    }

    /// The chunk of an item and its place there.
    fn split(&self, at: usize) -> (usize, usize) {
        let first = self.chunks.front().map_or(0, VecDeque::len);
        match at.checked_sub(first) {
            None => (0, at),
            Some(behind) => (1 + behind / CHUNK, behind % CHUNK),
        }
    }

    /// The items from place `at` on.
    pub fn iter_from(&self, at: usize) -> impl Iterator<Item = &T> {
        let (chunk, place) = self.split(at);
        let first = self.chunks.get(chunk);
        let first = first.into_iter().flat_map(move |c| c.iter().skip(place));
        first.chain(self.chunks.iter().skip(chunk + 1).flatten())
    }

    /// How many items at the beginning satisfy `before`, behind which none does.
    pub fn partition_point(&self, before: impl Fn(&T) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match before(&self[middle]) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }
}

impl<T> std::ops::Index<usize> for Chunks<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        let (chunk, place) = self.split(at);
        &self.chunks[chunk][place]
    }
}

impl<T> std::ops::IndexMut<usize> for Chunks<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        let (chunk, place) = self.split(at);
        &mut self.chunks[chunk][place]
    }
}

/// A hash map whose growth moves few entries at a time.
pub struct SplitMap<K, V, S = RandomState> {
    /// By the middle bits of an entry's hash; the maps themselves use the others.
    maps: Vec<HashMap<K, V, S>>,
    hasher: S,
    len: usize,
}

impl<K, V, S: Default> Default for SplitMap<K, V, S> {
    fn default() -> SplitMap<K, V, S> {
        SplitMap {
            maps: Vec::new(),
            hasher: S::default(),
            len: 0,
        }
    }
}

/// Which of `maps` maps, one at least, has what has this hash.
fn place(hash: u64, maps: usize) -> usize {
    let mask = maps.next_power_of_two() - 1;
    let place = (hash >> 24) as usize & mask;
    match place < maps {
        true => place,
        false => place & (mask >> 1),
    }
}

impl<K: Hash + Eq, V, S: BuildHasher + Clone> SplitMap<K, V, S> {
    fn map<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<usize> {
        let maps = self.maps.len();
        (maps > 0).then(|| place(self.hasher.hash_one(key), maps))
    }

    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.maps[self.map(key)?].get(key)
    }

    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let at = self.map(key)?;
        self.maps[at].get_mut(key)
    }

    /// Gives the value that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.len >= self.maps.len() * MAP_ENTRIES {
            self.split();
        }
        let at = self.map(&key).expect("there is a map");
        let old = self.maps[at].insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let at = self.map(key)?;
        let old = self.maps[at].remove(key)?;
        self.len -= 1;
        if self.len == 0 {
            self.maps.truncate(1);
        }
        Some(old)
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Drops some of the entries; false when there is none.
    pub fn drop_some(&mut self) -> bool {
        let dropped = self.maps.pop();
        self.len -= dropped.as_ref().map_or(0, HashMap::len);
        dropped.is_some()
    }

    /// Makes another map, which takes from one of the others.
    fn split(&mut self) {
        let new = self.maps.len();
        let map = || HashMap::with_hasher(self.hasher.clone());
        let mut entries = map();
        if new > 0 {
            let from = new - (1 << new.ilog2());
            let moved = std::mem::replace(&mut self.maps[from], map());
            for (key, value) in moved {
                let stays = place(self.hasher.hash_one(&key), new + 1) != new;
                let to = if stays {
                    &mut self.maps[from]
                } else {
                    &mut entries
                };
                to.insert(key, value);
            }
        }
        self.maps.push(entries);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn items_stay_where_they_are_however_many_come() {
        let mut list = Chunks::default();
        let n = 3 * CHUNK + 1;
        (0..n).for_each(|item| list.push(item));
        let place = |list: &Chunks<usize>, at: usize| std::ptr::from_ref(&list[at]);
        let before = place(&list, CHUNK);
        (n..4 * n).for_each(|item| list.push(item));
        assert_eq!(before, place(&list, CHUNK));
        list[CHUNK] += 7;
        assert_eq!(list[CHUNK], CHUNK + 7);
    }

    proptest! {
        #[test]
        fn equal_to_a_plain_list(steps in prop::collection::vec((0u8..3, 0usize..700), 1..30)) {
            let (mut list, mut plain, mut next) = (Chunks::default(), VecDeque::new(), 0);
            for (what, count) in steps {
                for _ in 0..count {
                    match what {
                        0 => {
                            list.push(next);
                            plain.push_back(next);
                            next += 1;
                        }
                        1 => prop_assert_eq!(list.pop(), plain.pop_back()),
                        _ => prop_assert_eq!(list.pop_front(), plain.pop_front()),
                    }
                }
                prop_assert_eq!((list.len(), list.is_empty()), (plain.len(), plain.is_empty()));
                prop_assert_eq!((list.front(), list.back()), (plain.front(), plain.back()));
                for at in [0, 1, plain.len() / 2, plain.len().saturating_sub(1), plain.len()] {
                    let rest = plain.iter().skip(at);
                    prop_assert!(list.iter_from(at).eq(rest));
                    if let Some(item) = plain.get(at) {
                        prop_assert_eq!(&list[at], item);
                        prop_assert_eq!(list.partition_point(|other| other < item), at);
                    }
                }
            }
        }
    }

    #[test]
    fn a_map_of_many_keeps_them_in_small_ones() {
        let mut map: SplitMap<String, usize> = SplitMap::default();
        assert!(map.is_empty() && map.remove("1").is_none());
        let n = 40 * MAP_ENTRIES;
        for item in 0..n {
            assert_eq!(map.insert(item.to_string(), item), None);
            let largest = map.maps.iter().map(HashMap::len).max();
            assert!(item % 997 > 0 || largest < Some(4 * MAP_ENTRIES));
        }
        assert_eq!(map.maps.len(), n / MAP_ENTRIES);
        for item in 0..n {
            let key = item.to_string();
            assert_eq!(map.get(&*key), Some(&item));
            *map.get_mut(&*key).unwrap() += 1;
            assert_eq!(map.insert(key, item), Some(item + 1));
        }
        for item in 0..n / 2 {
            assert_eq!(map.remove(&*item.to_string()), Some(item));
            assert_eq!(map.get(&*item.to_string()), None);
        }
        assert_eq!(map.len, n / 2);
        while map.drop_some() {}
        assert!(map.is_empty() && map.get("1").is_none());
    }
}
