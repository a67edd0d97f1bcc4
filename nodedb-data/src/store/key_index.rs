//! The key index of a (collection, shard): a B+tree from canonical key bytes to surrogates.
//!
//! Every operation runs within one turn: it reads the pages of its path first and either ends with
//! [`Missing`], having changed nothing, or does its work. Leaves are not chained: a walk goes on by
//! asking for the keys after the last one it got, so it never holds a position that a split could
//! move. A leaf is removed when it is empty; pages are not merged before (keys are mostly added,
//! and B-trees that free only empty pages stay well filled under random deletes).

use std::cell::Ref;
use std::ops::Bound;

use super::node;
use super::page::{Page, PageId, PageStore};
use super::residency::Missing;

/// Deepest tree: with at least two cells a page, 2^32 keys need no more; usual ones have four.
const DEPTH_MAX: usize = 40;

/// A key and its surrogate.
pub type KeyEntry = (Box<[u8]>, u32);

pub struct KeyIndex {
    root: PageId,
    len: usize,
}

/// An entry on its way down: the page and the child taken.
type Path = Vec<(PageId, usize)>;

impl KeyIndex {
    pub fn new(store: &mut PageStore) -> KeyIndex {
        let root = store.allocate();
        node::init(&mut store.change(root), 0, 0);
        KeyIndex { root, len: 0 }
    }

    /// The index in pages that are there already.
    pub fn at(root: PageId, len: usize) -> KeyIndex {
        KeyIndex { root, len }
    }

    /// The root and the number of keys: what [`KeyIndex::at`] needs.
    pub fn parts(&self) -> (PageId, usize) {
        (self.root, self.len)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, store: &PageStore, key: &[u8]) -> Result<Option<u32>, Missing> {
        let (_, page) = self.leaf(store, key)?;
        let slot = node::search(&page, key).ok();
        Ok(slot.map(|slot| node::value(&page, slot)))
    }

    /// The leaf where the key stands or would stand.
    fn leaf<'a>(
        &self,
        store: &'a PageStore,
        key: &[u8],
    ) -> Result<(PageId, Ref<'a, Page>), Missing> {
        let mut id = self.root;
        let mut page = store.read(id)?;
        while node::level(&page) > 0 {
            id = PageId(node::child(&page, node::child_slot(&page, key)));
            page = store.read(id)?;
        }
        Ok((id, page))
    }

    /// Adds the key or replaces its value; gives the value that was there.
    pub fn insert(
        &mut self,
        store: &mut PageStore,
        key: &[u8],
        value: u32,
    ) -> Result<Option<u32>, Missing> {
        assert!(
            key.len() <= node::KEY_MAX,
            "keys are bounded before they come here"
        );
        let (leaf, page) = self.leaf(store, key)?;
        let place = node::search(&page, key);
        drop(page);
        match place {
            Ok(slot) => {
                let mut page = store.change(leaf);
                let before = node::value(&page, slot);
                node::set_value(&mut page, slot, value);
                Ok(Some(before))
            }
            Err(slot) => {
                // The way down is only noted where the page is full and has to be split.
                if !node::insert(&mut store.change(leaf), slot, key, value) {
                    let (path, leaf) = self.descend(store, key)?;
                    self.insert_cell(store, path, leaf, slot, key, value);
                }
                self.len += 1;
                Ok(None)
            }
        }
    }

    /// Removes the key; gives its value.
    pub fn remove(&mut self, store: &mut PageStore, key: &[u8]) -> Result<Option<u32>, Missing> {
        let (mut path, leaf) = self.descend(store, key)?;
        let place = node::search(&*store.read(leaf)?, key);
        let Ok(slot) = place else {
            return Ok(None);
        };
        let (before, mut empty) = {
            let mut page = store.change(leaf);
            let before = node::value(&page, slot);
            node::remove(&mut page, slot);
            (before, node::count(&page) == 0)
        };
        self.len -= 1;
        let mut child = leaf;
        while empty && let Some((parent, taken)) = path.pop() {
            store.release(child);
            let page = &mut *store.change(parent);
            empty = false;
            match taken {
                0 if node::count(page) == 0 => empty = true,
                0 => {
                    let next = node::value(page, 0);
                    node::set_first_child(page, next);
                    node::remove(page, 0);
                }
                n => node::remove(page, n - 1),
            }
            child = parent;
        }
        if empty && child == self.root {
            node::init(&mut store.change(self.root), 0, 0);
        }
        self.shrink_root(store);
        Ok(Some(before))
    }

    /// Up to `max` entries from `from` on in ascending order, or from `from` downwards, appended
    /// to `out`. Fewer only when there are no more.
    pub fn scan(
        &self,
        store: &PageStore,
        from: Bound<&[u8]>,
        ascending: bool,
        max: usize,
        out: &mut Vec<KeyEntry>,
    ) -> Result<(), Missing> {
        let before = out.len();
        let done = self.scan_page(store, self.root, from, ascending, max + before, out);
        if done.is_err() {
            out.truncate(before);
        }
        done
    }

    fn scan_page(
        &self,
        store: &PageStore,
        id: PageId,
        from: Bound<&[u8]>,
        ascending: bool,
        end: usize,
        out: &mut Vec<KeyEntry>,
    ) -> Result<(), Missing> {
        let page = &*store.read(id)?;
        let cells = node::count(page);
        if node::level(page) == 0 {
            let take = |slot: usize, out: &mut Vec<KeyEntry>| {
                out.push((node::key(page, slot).into(), node::value(page, slot)));
            };
            let (start, stop) = leaf_range(page, from, ascending);
            let room = end - out.len();
            if ascending {
                (start..stop).take(room).for_each(|s| take(s, out));
            } else {
                (start..stop).rev().take(room).for_each(|s| take(s, out));
            }
            return Ok(());
        }
        let start = match from {
            Bound::Included(key) | Bound::Excluded(key) => node::child_slot(page, key),
            Bound::Unbounded if ascending => 0,
            Bound::Unbounded => cells,
        };
        let children: Vec<usize> = match ascending {
            true => (start..=cells).collect(),
            false => (0..=start).rev().collect(),
        };
        for slot in children {
            if out.len() >= end {
                break;
            }
            let child = PageId(node::child(page, slot));
            self.scan_page(store, child, from, ascending, end, out)?;
        }
        Ok(())
    }

    fn descend(&self, store: &PageStore, key: &[u8]) -> Result<(Path, PageId), Missing> {
        let mut path = Vec::new();
        let mut id = self.root;
        loop {
            let page = &*store.read(id)?;
            if node::level(page) == 0 {
                return Ok((path, id));
            }
            assert!(path.len() < DEPTH_MAX, "a cycle in the key index");
            let slot = node::child_slot(page, key);
            path.push((id, slot));
            id = PageId(node::child(page, slot));
        }
    }

    /// Puts a cell into a page that the path leads to, splitting upwards as needed.
    fn insert_cell(
        &mut self,
        store: &mut PageStore,
        mut path: Path,
        mut id: PageId,
        mut slot: usize,
        key: &[u8],
        value: u32,
    ) {
        let (mut key, mut value) = (key.to_vec(), value);
        while !node::insert(&mut store.change(id), slot, &key, value) {
            let (separator, right) = split(store, id, slot, &key, value);
            (key, value) = (separator, right.0);
            match path.pop() {
                Some((parent, taken)) => (id, slot) = (parent, taken),
                None => {
                    let level = node::level(&store.change(id)) + 1;
                    self.root = store.allocate();
                    node::init(&mut store.change(self.root), level, id.0);
                    (id, slot) = (self.root, 0);
                }
            }
        }
    }

    /// A root with one child gives its place to it.
    fn shrink_root(&mut self, store: &mut PageStore) {
        loop {
            // The root may be a child off the path and missing; then a later remove does it.
            let Ok(page) = store.read(self.root) else {
                return;
            };
            if node::level(&page) == 0 || node::count(&page) > 0 {
                return;
            }
            let child = PageId(node::first_child(&page));
            drop(page);
            store.release(self.root);
            self.root = child;
        }
    }
}

/// The slots of a leaf on the asked side of `from`.
fn leaf_range(page: &Page, from: Bound<&[u8]>, ascending: bool) -> (usize, usize) {
    let cells = node::count(page);
    let (key, included) = match from {
        Bound::Unbounded => return (0, cells),
        Bound::Included(key) => (key, true),
        Bound::Excluded(key) => (key, false),
    };
    match (node::search(page, key), ascending) {
        (Ok(slot), true) => (slot + usize::from(!included), cells),
        (Ok(slot), false) => (0, slot + usize::from(included)),
        (Err(slot), true) => (slot, cells),
        (Err(slot), false) => (0, slot),
    }
}

/// Splits a full page and puts the cell into the half it belongs to. Gives the separator and the
/// new right page; of an inner page the separator's cell moves up.
fn split(
    store: &mut PageStore,
    id: PageId,
    slot: usize,
    key: &[u8],
    value: u32,
) -> (Vec<u8>, PageId) {
    let right = store.allocate();
    let mut left_page = *store.change(id);
    let level = node::level(&left_page);
    let at = node::split_point(&left_page, slot);
    let mut right_page = [0; super::page::PAGE_BYTES];
    node::init(&mut right_page, level, 0);
    node::split_off(&mut left_page, at, &mut right_page);
    let fits = match slot.checked_sub(at) {
        Some(beyond) if beyond > 0 || level > 0 => {
            node::insert(&mut right_page, beyond, key, value)
        }
        _ => node::insert(&mut left_page, slot, key, value),
    };
    assert!(fits, "a cell fits half a page");
    if level == 0 && node::count(&right_page) == 0 {
        unreachable!("a split leaves cells on both sides");
    }
    let separator = node::key(&right_page, 0).to_vec();
    if level > 0 {
        let first = node::value(&right_page, 0);
        node::set_first_child(&mut right_page, first);
        node::remove(&mut right_page, 0);
    }
    *store.change(id) = left_page;
    *store.change(right) = right_page;
    (separator, right)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::future::Future;
    use std::task::{Context, Waker};

    use proptest::prelude::*;

    use super::*;
    use crate::store::residency::{Owner, Residency};

    fn store(faults: bool) -> PageStore {
        PageStore::new(&Residency::alone(usize::MAX, faults), Owner::Keys)
    }

    /// Repeats an operation as a core would, loading what is missing.
    fn retry<T>(
        store: &RefCell<PageStore>,
        mut operation: impl FnMut(&mut PageStore) -> Result<T, Missing>,
    ) -> T {
        for _ in 0..10_000 {
            let result = operation(&mut store.borrow_mut());
            match result {
                Ok(value) => return value,
                Err(missing) => {
                    let fetch = std::pin::pin!(missing.fetch());
                    let mut context = Context::from_waker(Waker::noop());
                    assert!(fetch.poll(&mut context).is_ready());
                }
            }
        }
        panic!("the operation never found its pages");
    }

    fn key_strategy() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => prop::collection::vec(0u8..4, 1..4),
            2 => (0u8..20, 200usize..1024).prop_map(|(b, n)| vec![b; n]),
            2 => (0u32..3000).prop_map(|n| n.to_be_bytes().to_vec()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn equals_a_map(ops in prop::collection::vec((key_strategy(), 0u8..3), 1..600), faults: bool) {
            let store = RefCell::new(store(faults));
            let mut index = KeyIndex::new(&mut store.borrow_mut());
            let mut model = BTreeMap::new();
            for (n, (key, kind)) in ops.iter().enumerate() {
                if *kind == 0 {
                    let removed = retry(&store, |s| index.remove(s, key));
                    prop_assert_eq!(removed, model.remove(key));
                } else {
                    let before = retry(&store, |s| index.insert(s, key, n as u32));
                    prop_assert_eq!(before, model.insert(key.clone(), n as u32));
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for (key, _) in &ops {
                prop_assert_eq!(retry(&store, |s| index.get(s, key)), model.get(key).copied());
            }
            if !faults {
                check_scans(&index, &store.borrow(), &model);
            }
        }
    }

    fn check_scans(index: &KeyIndex, store: &PageStore, model: &BTreeMap<Vec<u8>, u32>) {
        for ascending in [true, false] {
            let mut expected: Vec<_> = model
                .iter()
                .map(|(k, v)| (k.clone().into_boxed_slice(), *v))
                .collect();
            if !ascending {
                expected.reverse();
            }
            let mut seen: Vec<(Box<[u8]>, u32)> = Vec::new();
            loop {
                let last = seen.last().map(|(k, _)| k.clone());
                let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                let before = seen.len();
                index.scan(store, from, ascending, 7, &mut seen).unwrap();
                if seen.len() == before {
                    break;
                }
            }
            assert_eq!(seen, expected);
            if let Some((middle, _)) = expected.get(expected.len() / 2) {
                let mut from = Vec::new();
                index
                    .scan(store, Bound::Included(middle), ascending, 3, &mut from)
                    .unwrap();
                let tail = &expected[expected.len() / 2..];
                assert_eq!(from, tail[..tail.len().min(3)]);
            }
        }
    }

    #[test]
    fn ascending_keys_fill_their_pages_and_all_can_go() {
        let mut store = store(false);
        let mut index = KeyIndex::new(&mut store);
        for n in 0u32..20_000 {
            index.insert(&mut store, &n.to_be_bytes(), n).unwrap();
        }
        // 12 bytes a key with its slot, 8,176 a page.
        assert!(
            store.bytes() < 20_000 * 12 * 11 / 10 + 4 * 8192,
            "{}",
            store.bytes()
        );
        for n in 0u32..20_000 {
            assert_eq!(index.remove(&mut store, &n.to_be_bytes()).unwrap(), Some(n));
        }
        assert!(index.is_empty());
        assert_eq!(store.bytes(), 8192);
    }
}
