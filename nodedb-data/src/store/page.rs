//! Fixed-size pages addressed by id: what indexes are made of.
//!
//! A reader asks for a page and either gets it in the same turn or a [`Missing`]; the caller then
//! waits for [`Missing::fetch`] and repeats what it was doing from the start (nothing is changed
//! before every page that a change needs has been read). Which pages are in memory is the business
//! of [`super::residency`].
//!
//! **In a checkpoint.** [`PageStore::freeze`] gives the pages as they are now and costs a pointer
//! for each 512 of them; from then on a page is copied before it is changed. The checkpoint writes
//! the pages that changed since the one before, and [`PageStore::thaw`] makes the store again. An
//! engine whose index is made of pages gives them with [`crate::engine::Frozen::with_pages`] and
//! keeps the ids that lead into them (the root of its tree) in its header. Ids stay the same.

use std::cell::{Ref, RefMut};
use std::rc::Rc;

use super::leaves::{Leaf, Leaves};
use super::residency::{Missing, Owner, Residency};
use super::slots::SLOT_BYTES;

/// Bytes of a page: several keys of the longest kind fit.
pub const PAGE_BYTES: usize = 8192;

const _: () = assert!(PAGE_BYTES == SLOT_BYTES);

/// Names a page within its store. Given again after the page was freed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageId(pub u32);

/// One page's bytes. The first four are not the owner's: they are zero.
pub type Page = [u8; PAGE_BYTES];

impl Leaf for Box<Page> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&**self);
    }

    fn of_bytes(bytes: &[u8]) -> Option<Box<Page>> {
        let bytes: Box<[u8]> = bytes.into();
        bytes.try_into().ok()
    }

    fn memory(&self) -> usize {
        PAGE_BYTES
    }
}

/// Pages of one owner at the moment of a freeze.
#[derive(Clone)]
pub struct FrozenPages(pub(crate) Leaves<Box<Page>>);

/// Pages of one owner.
pub struct PageStore {
    pages: Leaves<Box<Page>>,
    free: Vec<PageId>,
    /// Ids from here on have not been given.
    next: u32,
}

impl PageStore {
    pub fn new(residency: &Rc<Residency>, owner: Owner) -> PageStore {
        PageStore {
            pages: Leaves::new(residency, owner),
            free: Vec::new(),
            next: 0,
        }
    }

    /// The store whose pages these were.
    pub fn thaw(frozen: FrozenPages) -> PageStore {
        let pages = frozen.0;
        let next = pages.numbers().last().map_or(0, |id| id + 1);
        let free = (0..next).filter(|&id| !pages.contains(id));
        PageStore {
            free: free.map(PageId).collect(),
            next,
            pages,
        }
    }

    /// The pages as they are now; those of the store go on changing.
    pub fn freeze(&self) -> FrozenPages {
        FrozenPages(self.pages.clone())
    }

    /// Bytes of the pages, in memory or not.
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
        self.pages.put(id.0, Box::new([0; PAGE_BYTES]), 0);
        id
    }

    /// Gives the page back. Its id may be given again.
    pub fn release(&mut self, id: PageId) {
        assert!(self.pages.contains(id.0), "a page is freed once");
        self.pages.remove(id.0);
        self.free.push(id);
    }

    /// Gives up to `max` pages back, the one that is kept aside; false when there were none.
    pub fn release_some(&mut self, kept: PageId, max: usize) -> bool {
        let others = self.pages.numbers().filter(|id| *id != kept.0);
        let gone: Vec<u32> = others.take(max).collect();
        for id in &gone {
            self.release(PageId(*id));
        }
        !gone.is_empty()
    }

    /// False for an id that names no page.
    pub fn holds(&self, id: PageId) -> bool {
        self.pages.contains(id.0)
    }

    pub fn read(&self, id: PageId) -> Result<Ref<'_, Page>, Missing> {
        Ok(Ref::map(self.pages.read(id.0)?, |page| &**page))
    }

    /// The page to be changed. It must have been read, or made, in this turn.
    pub fn change(&mut self, id: PageId) -> RefMut<'_, Page> {
        RefMut::map(self.pages.change(id.0), |page| &mut **page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_reused_and_faults_make_old_ones_missing() {
        let residency = Residency::alone(usize::MAX, true);
        let mut store = PageStore::new(&residency, Owner::Keys);
        let first = store.allocate();
        store.change(first)[100] = 7;
        for _ in 0..100 {
            store.allocate();
        }
        let missing = store.read(first).unwrap_err();
        drop(missing.fetch());
        assert_eq!(store.read(first).unwrap()[100], 7);
        store.release(first);
        assert_eq!(store.allocate(), first);
        assert_eq!(store.read(first).unwrap()[100], 0);
    }

    #[test]
    fn a_thawed_store_is_the_frozen_one() {
        let residency = Residency::alone(usize::MAX, false);
        let mut store = PageStore::new(&residency, Owner::Keys);
        let ids: Vec<PageId> = (0..4).map(|_| store.allocate()).collect();
        store.change(ids[2])[9] = 1;
        store.release(ids[1]);
        let frozen = store.freeze();
        store.change(ids[2])[9] = 2;
        store.release(ids[3]);
        let mut again = PageStore::thaw(frozen);
        assert_eq!(again.read(ids[2]).unwrap()[9], 1);
        assert!(again.holds(ids[3]) && !again.holds(ids[1]));
        assert_eq!(again.allocate(), ids[1], "free ids are found again");
        assert_eq!(again.allocate(), PageId(4));
    }
}
