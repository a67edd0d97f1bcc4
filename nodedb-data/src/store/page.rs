//! Fixed-size pages addressed by id: what indexes are made of.
//!
//! A reader asks for a page and either gets it in the same turn or a [`Missing`] that names it; the
//! caller then lets a turn pass, calls [`PageStore::fetch`] and repeats what it was doing from the
//! start (nothing is changed before every page that a change needs has been read). Pages live
//! in memory here; with [`PageStore::with_faults`] all but the last few are sealed as if they had
//! been written out, and the next read of each is `Missing` once, so that every caller's way
//! through a missing page runs in tests.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of the rest, set when the page is sealed, checked when it is loaded (W3) |
//! | 4 | 8188 | the owner's content |

use std::collections::VecDeque;

use nodedb_types::{Failure, Result, SqlState};

/// Bytes of a page: several keys of the longest kind fit.
pub const PAGE_BYTES: usize = 8192;

/// Pages that stay readable when faults are on: more than the deepest path of a tree.
const RESIDENT_UNDER_FAULTS: usize = 16;

/// Names a page within its store. Given again after the page was freed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageId(pub u32);

/// One page's bytes.
pub type Page = [u8; PAGE_BYTES];

/// The page must be loaded before the read can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing(pub PageId);

/// Pages of one owner.
#[derive(Default)]
pub struct PageStore {
    pages: Vec<Slot>,
    free: Vec<PageId>,
    faults: Option<VecDeque<PageId>>,
}

struct Slot {
    bytes: Option<Box<Page>>,
    resident: bool,
}

impl PageStore {
    /// A store in which only the last few pages read stay readable.
    pub fn with_faults() -> PageStore {
        PageStore {
            faults: Some(VecDeque::new()),
            ..PageStore::default()
        }
    }

    /// Bytes of memory that the pages take.
    pub fn bytes(&self) -> usize {
        (self.pages.len() - self.free.len()) * PAGE_BYTES
    }

    /// A page of zeros.
    pub fn allocate(&mut self) -> PageId {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.pages.push(Slot {
                    bytes: None,
                    resident: false,
                });
                PageId(u32::try_from(self.pages.len() - 1).expect("page ids are 32 bits"))
            }
        };
        self.pages[id.0 as usize].bytes = Some(Box::new([0; PAGE_BYTES]));
        self.admit(id);
        id
    }

    /// Gives the page back. Its id may be given again.
    pub fn release(&mut self, id: PageId) {
        let slot = &mut self.pages[id.0 as usize];
        assert!(slot.bytes.take().is_some(), "a page is freed once");
        slot.resident = false;
        if let Some(resident) = &mut self.faults {
            resident.retain(|&r| r != id);
        }
        self.free.push(id);
    }

    pub fn read(&self, id: PageId) -> Result<&Page, Missing> {
        let slot = &self.pages[id.0 as usize];
        if !slot.resident {
            return Err(Missing(id));
        }
        Ok(slot.bytes.as_ref().expect("a page in use has bytes"))
    }

    /// The page to be changed. It must have been read in this turn.
    pub fn change(&mut self, id: PageId) -> &mut Page {
        let slot = &mut self.pages[id.0 as usize];
        assert!(slot.resident, "a page is read before it is changed");
        slot.bytes.as_mut().expect("a page in use has bytes")
    }

    /// Makes a missing page readable. In memory this only checks the page that was sealed before.
    pub fn fetch(&mut self, missing: Missing) -> Result<()> {
        let Missing(id) = missing;
        let slot = &self.pages[id.0 as usize];
        // A page that was freed while its reader waited has no bytes; the repeated read finds its
        // way without it.
        let Some(bytes) = &slot.bytes else {
            return Ok(());
        };
        if slot.resident {
            return Ok(());
        }
        if checksum(bytes) != stored_checksum(bytes) {
            return Err(Failure::new(
                SqlState::DataCorrupted,
                format!("page {} of an index failed its check", id.0),
            ));
        }
        self.admit(id);
        Ok(())
    }

    fn admit(&mut self, id: PageId) {
        self.pages[id.0 as usize].resident = true;
        let Some(resident) = &mut self.faults else {
            return;
        };
        resident.push_back(id);
        if resident.len() > RESIDENT_UNDER_FAULTS {
            let out = resident.pop_front().expect("there are several");
            let slot = &mut self.pages[out.0 as usize];
            let bytes = slot.bytes.as_mut().expect("a resident page has bytes");
            let sum = checksum(bytes);
            bytes[..4].copy_from_slice(&sum.to_le_bytes());
            slot.resident = false;
        }
    }
}

fn checksum(page: &Page) -> u32 {
    crc32c::crc32c(&page[4..])
}

fn stored_checksum(page: &Page) -> u32 {
    u32::from_le_bytes(page[..4].try_into().expect("four bytes"))
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
    fn a_flipped_bit_is_detected() {
        let mut store = PageStore::with_faults();
        let first = store.allocate();
        for _ in 0..RESIDENT_UNDER_FAULTS {
            store.allocate();
        }
        store.pages[first.0 as usize].bytes.as_mut().unwrap()[5000] ^= 1;
        assert_eq!(
            store.fetch(Missing(first)).unwrap_err().code(),
            SqlState::DataCorrupted
        );
    }
}
