//! Fixed-size pages addressed by id: what indexes are made of.
//!
//! A reader asks for a page and either gets it in the same turn or a [`Missing`] that names it; the
//! caller then lets a turn pass, calls [`PageStore::fetch`] and repeats what it was doing from the
//! start (nothing is changed before every page that a change needs has been read). Pages live in
//! memory; with [`PageStore::with_faults`] all but the last few are taken for missing once at their
//! next read, so that every caller's way through a missing page runs in tests.
//!
//! **In a checkpoint.** [`PageStore::freeze`] gives the pages as they are now and costs a pointer
//! for each 512 of them; from then on a page is copied before it is changed. The checkpoint writes
//! the pages that changed since the one before, and [`PageStore::thaw`] makes the store again. An
//! engine whose index is made of pages gives them with [`crate::engine::Frozen::with_pages`] and
//! keeps the ids that lead into them (the root of its tree) in its header. Ids stay the same.

use std::borrow::Cow;
use std::collections::VecDeque;

use nodedb_types::Result;

use super::leaves::{Leaf, Leaves};
use super::slots::SLOT_BYTES;

/// Bytes of a page: several keys of the longest kind fit.
pub const PAGE_BYTES: usize = 8192;

const _: () = assert!(PAGE_BYTES == SLOT_BYTES);

/// Pages that stay readable when faults are on: more than the deepest path of a tree.
const RESIDENT_UNDER_FAULTS: usize = 16;

/// Names a page within its store. Given again after the page was freed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageId(pub u32);

/// One page's bytes. The first four are not the owner's: they are zero.
pub type Page = [u8; PAGE_BYTES];

/// The page must be loaded before the read can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing(pub PageId);

impl Leaf for Page {
    fn bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self)
    }

    fn of_bytes(bytes: &[u8]) -> Option<Page> {
        bytes.try_into().ok()
    }
}

/// Pages of one owner at the moment of a freeze.
#[derive(Clone, Default)]
pub struct FrozenPages(pub(crate) Leaves<Page>);

/// Pages of one owner.
#[derive(Default)]
pub struct PageStore {
    pages: Leaves<Page>,
    free: Vec<PageId>,
    /// Ids from here on have not been given.
    next: u32,
    /// With faults: the pages that are readable, oldest first.
    faults: Option<VecDeque<PageId>>,
}

impl PageStore {
    /// A store in which only the last few pages read stay readable.
    pub fn with_faults() -> PageStore {
        PageStore {
            faults: Some(VecDeque::new()),
            ..PageStore::default()
        }
    }

    /// The store whose pages these were.
    pub fn thaw(frozen: FrozenPages, faults: bool) -> PageStore {
        let pages = frozen.0;
        let next = pages.iter().last().map_or(0, |(id, _)| id + 1);
        let free = (0..next).filter(|&id| pages.get(id).is_none());
        PageStore {
            free: free.map(PageId).collect(),
            next,
            faults: faults.then(VecDeque::new),
            pages,
        }
    }

    /// The pages as they are now; those of the store go on changing.
    pub fn freeze(&self) -> FrozenPages {
        FrozenPages(self.pages.clone())
    }

    /// Bytes of memory that the pages take.
    pub fn bytes(&self) -> usize {
        (self.next as usize - self.free.len()) * PAGE_BYTES
    }

    /// A page of zeros.
    pub fn allocate(&mut self) -> PageId {
        let id = self.free.pop().unwrap_or_else(|| {
            let id = PageId(self.next);
            self.next = self.next.checked_add(1).expect("page ids are 32 bits");
            id
        });
        self.pages.put(id.0, [0; PAGE_BYTES], 0);
        self.admit(id);
        id
    }

    /// Gives the page back. Its id may be given again.
    pub fn release(&mut self, id: PageId) {
        assert!(self.pages.get(id.0).is_some(), "a page is freed once");
        self.pages.remove(id.0);
        if let Some(resident) = &mut self.faults {
            resident.retain(|&r| r != id);
        }
        self.free.push(id);
    }

    /// False for an id that names no page.
    pub fn holds(&self, id: PageId) -> bool {
        self.pages.get(id.0).is_some()
    }

    fn is_resident(&self, id: PageId) -> bool {
        self.faults.as_ref().is_none_or(|f| f.contains(&id))
    }

    pub fn read(&self, id: PageId) -> Result<&Page, Missing> {
        if !self.is_resident(id) {
            return Err(Missing(id));
        }
        Ok(self.pages.get(id.0).expect("a page in use has bytes"))
    }

    /// The page to be changed. It must have been read in this turn.
    pub fn change(&mut self, id: PageId) -> &mut Page {
        assert!(self.is_resident(id), "a page is read before it is changed");
        self.pages.change(id.0)
    }

    /// Makes a missing page readable. A page that was freed while its reader waited stays missing:
    /// the repeated read finds its way without it.
    pub fn fetch(&mut self, missing: Missing) -> Result<()> {
        let Missing(id) = missing;
        if self.holds(id) && !self.is_resident(id) {
            self.admit(id);
        }
        Ok(())
    }

    fn admit(&mut self, id: PageId) {
        let Some(resident) = &mut self.faults else {
            return;
        };
        resident.push_back(id);
        if resident.len() > RESIDENT_UNDER_FAULTS {
            resident.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_reused_and_faults_make_old_ones_missing() {
        let mut store = PageStore::with_faults();
        let first = store.allocate();
        store.change(first)[100] = 7;
        for _ in 0..RESIDENT_UNDER_FAULTS {
            store.allocate();
        }
        assert_eq!(store.read(first), Err(Missing(first)));
        store.fetch(Missing(first)).unwrap();
        assert_eq!(store.read(first).unwrap()[100], 7);
        store.release(first);
        assert_eq!(store.allocate(), first);
        assert_eq!(store.read(first).unwrap()[100], 0);
    }

    #[test]
    fn a_thawed_store_is_the_frozen_one() {
        let mut store = PageStore::default();
        let ids: Vec<PageId> = (0..4).map(|_| store.allocate()).collect();
        store.change(ids[2])[9] = 1;
        store.release(ids[1]);
        let frozen = store.freeze();
        store.change(ids[2])[9] = 2;
        store.release(ids[3]);
        let mut again = PageStore::thaw(frozen, false);
        assert_eq!(again.read(ids[2]).unwrap()[9], 1);
        assert!(again.holds(ids[3]) && !again.holds(ids[1]));
        assert_eq!(again.allocate(), ids[1], "free ids are found again");
        assert_eq!(again.allocate(), PageId(4));
    }
}
