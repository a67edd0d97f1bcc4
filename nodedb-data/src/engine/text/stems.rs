//! The tokens of each stem.
//!
//! Stems are found by their hash first, so that a search compares numbers that stand side by side
//! and follows one text, and not one for each comparison. Equal hashes are told apart by the texts.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

/// Ids by stem.
#[derive(Default)]
pub(super) struct Stems(BTreeMap<(u64, Box<str>), Vec<u32>>);

impl Stems {
    /// The ids of a stem, in the order in which they were added.
    pub(super) fn get(&self, stem: &str) -> &[u32] {
        let hash = xxh3_64(stem.as_bytes());
        // The empty text is before all others.
        let same = self.0.range((hash, Box::default())..);
        let mut same = same.take_while(|((other, _), _)| *other == hash);
        same.find(|((_, text), _)| **text == *stem)
            .map_or(&[], |(_, ids)| ids)
    }

    pub(super) fn push(&mut self, stem: &str, id: u32) {
        let key = (xxh3_64(stem.as_bytes()), stem.into());
        self.0.entry(key).or_default().push(id);
    }

    pub(super) fn remove(&mut self, stem: &str, id: u32) {
        let key = (xxh3_64(stem.as_bytes()), stem.into());
        if let Some(ids) = self.0.get_mut(&key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// Drops one of the stems; false when there is none.
    pub(super) fn drop_one(&mut self) -> bool {
        self.0.pop_first().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_come_and_go_with_their_ids() {
        let mut stems = Stems::default();
        for (id, stem) in (0..).zip(["run", "walk", "run", "", "zoo", "walk"]) {
            stems.push(stem, id);
        }
        assert_eq!(stems.get("run"), [0, 2]);
        assert_eq!(stems.get("walk"), [1, 5]);
        assert_eq!(stems.get(""), [3]);
        assert!(stems.get("ru").is_empty());
        stems.remove("run", 0);
        stems.remove("zoo", 4);
        stems.remove("zoo", 4);
        assert_eq!(stems.get("run"), [2]);
        assert!(stems.get("zoo").is_empty());
        let dropped = std::iter::from_fn(|| stems.drop_one().then_some(()));
        assert_eq!(dropped.count(), 3);
    }

    #[test]
    fn equal_hashes_are_told_apart() {
        let hash = xxh3_64(b"run");
        let mut stems = Stems::default();
        for (id, text) in (0..).zip(["other", "run", "sun"]) {
            stems.0.insert((hash, text.into()), vec![id]);
        }
        assert_eq!(stems.get("run"), [1]);
        assert!(stems.get("sun").is_empty());
    }
}
