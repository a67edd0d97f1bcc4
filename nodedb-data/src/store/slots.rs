//! Room in a shard's file: which slots are free, and who still needs the others.
//!
//! The file is cut into slots of [`SLOT_BYTES`]. A [`Piece`] is a run of slots with some bytes and
//! their checksum. Whoever refers to a piece in memory owns a [`Stored`]; when the last owner lets
//! go of it (the page was changed, the run was merged away), the piece goes onto the [`Shelf`], not
//! to the free slots: the last checkpoint may name it. The next checkpoint takes what is on the
//! shelf when it begins, and frees that once its own manifest is durable, for then nothing names it
//! any more. So no slot that a manifest names is ever written over.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::file::OpenFile;

/// Bytes of a slot: one page.
pub const SLOT_BYTES: usize = 8192;
/// Largest piece, bytes: a row of the largest size with its key and header.
pub const PIECE_BYTES_MAX: usize = 1 << 20;
/// Slots before the first piece: the two roots.
pub const FIRST_SLOT: u32 = 2;
/// Free runs that are looked at for a fit before the file is made longer.
const RUNS_TRIED: usize = 64;

/// Some bytes in a shard's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub slot: u32,
    /// Above 0.
    pub bytes: u32,
    pub crc: u32,
}

impl Piece {
    /// Bytes of an encoded piece: slot (4), bytes (4), CRC-32C (4).
    pub const ENCODED: usize = 12;

    pub fn slots(self) -> u32 {
        self.bytes.div_ceil(SLOT_BYTES as u32)
    }

    /// Whether these are its bytes.
    pub fn holds(self, bytes: &[u8]) -> bool {
        crc32c::crc32c(bytes) == self.crc
    }

    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.slot.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
    }

    /// `None` for bytes that cannot be a piece.
    pub fn decode(bytes: &[u8]) -> Option<Piece> {
        let (slot, rest) = bytes.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (crc, []) = rest.split_first_chunk()? else {
            return None;
        };
        let piece = Piece {
            slot: u32::from_le_bytes(*slot),
            bytes: u32::from_le_bytes(*len),
            crc: u32::from_le_bytes(*crc),
        };
        let fits = (1..=PIECE_BYTES_MAX as u32).contains(&piece.bytes)
            && piece.slot.checked_add(piece.slots()).is_some();
        (fits && piece.slot >= FIRST_SLOT).then_some(piece)
    }
}

/// Pieces of a file that memory refers to no more.
#[derive(Default)]
pub struct Shelf {
    pieces: RefCell<Vec<Piece>>,
    file: Option<OpenFile>,
}

impl Shelf {
    pub fn of(file: OpenFile) -> Shelf {
        Shelf {
            pieces: RefCell::default(),
            file: Some(file),
        }
    }

    /// The file; none in tests that need none.
    pub fn file(&self) -> Option<&OpenFile> {
        self.file.as_ref()
    }

    pub fn take(&self) -> Vec<Piece> {
        self.pieces.take()
    }

    pub fn put_back(&self, pieces: Vec<Piece>) {
        self.pieces.borrow_mut().extend(pieces);
    }
}

/// A piece that is needed as long as this lives.
pub struct Stored {
    piece: Piece,
    shelf: Rc<Shelf>,
}

impl Stored {
    pub fn new(piece: Piece, shelf: &Rc<Shelf>) -> Stored {
        Stored {
            piece,
            shelf: shelf.clone(),
        }
    }

    pub fn piece(&self) -> Piece {
        self.piece
    }

    pub fn shelf(&self) -> &Rc<Shelf> {
        &self.shelf
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.shelf.pieces.borrow_mut().push(self.piece);
    }
}

/// The free slots of a file.
#[derive(Debug)]
pub struct SlotMap {
    /// Runs by their first slot, with their lengths; no two of them touch.
    free: BTreeMap<u32, u32>,
    /// Slots from here on have never been used.
    end: u32,
}

impl Default for SlotMap {
    fn default() -> SlotMap {
        SlotMap {
            free: BTreeMap::new(),
            end: FIRST_SLOT,
        }
    }
}

impl SlotMap {
    /// The free slots of a file in which these pieces are. `None` when two of them overlap.
    pub fn around(mut pieces: Vec<Piece>) -> Option<SlotMap> {
        pieces.sort_unstable_by_key(|p| p.slot);
        let mut map = SlotMap::default();
        for piece in pieces {
            let gap = piece.slot.checked_sub(map.end)?;
            if gap > 0 {
                map.free.insert(map.end, gap);
            }
            map.end = piece.slot + piece.slots();
        }
        Some(map)
    }

    /// Takes `count` slots in a row. `None` when the file cannot grow any more.
    pub fn allocate(&mut self, count: u32) -> Option<u32> {
        let fit = self
            .free
            .iter()
            .take(RUNS_TRIED)
            .find(|(_, l)| **l >= count);
        if let Some((&first, &len)) = fit {
            self.free.remove(&first);
            if len > count {
                self.free.insert(first + count, len - count);
            }
            return Some(first);
        }
        let first = self.end;
        self.end = first.checked_add(count)?;
        Some(first)
    }

    pub fn release(&mut self, piece: Piece) {
        let (mut first, mut len) = (piece.slot, piece.slots());
        if let Some((&before, &before_len)) = self.free.range(..first).next_back() {
            assert!(before + before_len <= first, "a slot is freed once");
            if before + before_len == first {
                self.free.remove(&before);
                (first, len) = (before, before_len + len);
            }
        }
        if let Some(after_len) = self.free.remove(&(first + len)) {
            len += after_len;
        }
        if first + len == self.end {
            self.end = first;
        } else {
            self.free.insert(first, len);
        }
    }

    /// Slots of the file in use or free before the last one in use, the roots among them.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Free slots among them.
    pub fn free(&self) -> u64 {
        self.free.values().map(|&len| u64::from(len)).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(slot: u32, slots: u32) -> Piece {
        Piece {
            slot,
            bytes: slots * SLOT_BYTES as u32,
            crc: 0,
        }
    }

    proptest! {
        #[test]
        fn no_slot_is_given_twice(steps in prop::collection::vec((0u32..6, 0usize..30), 1..200)) {
            let mut map = SlotMap::default();
            let mut held: Vec<Piece> = Vec::new();
            for (count, at) in steps {
                if count == 0 && !held.is_empty() {
                    map.release(held.swap_remove(at % held.len()));
                } else {
                    let count = count.max(1);
                    held.push(piece(map.allocate(count).unwrap(), count));
                }
                let again = SlotMap::around(held.clone()).expect("pieces do not overlap");
                prop_assert_eq!(&again.free, &map.free);
                prop_assert_eq!(again.end, map.end);
            }
            held.into_iter().for_each(|p| map.release(p));
            prop_assert_eq!((map.end(), map.free()), (FIRST_SLOT, 0));
        }
    }

    #[test]
    fn pieces_are_read_back_and_nonsense_is_refused() {
        let one = piece(7, 3);
        let mut bytes = Vec::new();
        one.encode(&mut bytes);
        assert_eq!(Piece::decode(&bytes), Some(one));
        assert_eq!(Piece::decode(&bytes[..11]), None);
        for wrong in [piece(1, 1), piece(u32::MAX, 2), piece(9, 0), piece(9, 200)] {
            let mut bytes = Vec::new();
            wrong.encode(&mut bytes);
            assert_eq!(Piece::decode(&bytes), None, "{wrong:?}");
        }
        assert!(SlotMap::around(vec![piece(2, 2), piece(3, 1)]).is_none());
    }

    #[test]
    fn what_nobody_refers_to_lies_on_the_shelf() {
        let shelf = Rc::new(Shelf::default());
        let stored = Stored::new(piece(4, 1), &shelf);
        assert!(shelf.take().is_empty());
        drop(stored);
        assert_eq!(shelf.take(), [piece(4, 1)]);
    }
}
