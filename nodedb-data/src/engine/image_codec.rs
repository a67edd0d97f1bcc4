//! The bytes of images: little-endian numbers, read with bounds, and sets of rows.
//!
//! Sets are written as entries, one for each block of each set, by ascending (set, block):
//!
//! | bytes | content |
//! |---|---|
//! | 2 | number of the set |
//! | 2 | block: the high half of the surrogates |
//! | 2 | ids in it, less one |
//! | 2 each, or 8192 | up to 4096 ids as their low halves, ascending; more as a bitmap |

use std::task::Poll;

use nodedb_types::{Result, limits::BLOCK_IDS};

use super::image::{FrozenPart, PART_PIECE_BYTES, malformed};
use crate::pace::Turn;
use crate::set::{BlockSet, RowSet};

/// More ids than this stand as a bitmap.
const LIST_MAX: usize = 4096;
const BITMAP_BYTES: usize = BLOCK_IDS as usize / 8;
/// Bytes that are copied for a unit.
const BYTES_PER_UNIT: usize = 512;
/// Ids that are read or written for a unit.
const IDS_PER_UNIT: usize = 64;

/// Units for copying so many bytes.
pub fn copy_units(bytes: usize) -> u32 {
    1 + (bytes / BYTES_PER_UNIT) as u32
}

/// Reads the bytes of an image; what is missing is XX001.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// From `cursor` on, which must have come from [`Reader::cursor`] or be 0.
    pub fn new(bytes: &'a [u8], cursor: u64) -> Reader<'a> {
        let at = usize::try_from(cursor).unwrap_or(usize::MAX);
        Reader {
            bytes,
            at: at.min(bytes.len()),
        }
    }

    /// The same bytes from another place on.
    pub fn at(&self, cursor: u64) -> Reader<'a> {
        Reader::new(self.bytes, cursor)
    }

    /// Where to go on in a later turn.
    pub fn cursor(&self) -> u64 {
        self.at as u64
    }

    pub fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Bytes that are left: nothing can be counted that exceeds them.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let Some(bytes) = rest.get(..len) else {
            return Err(malformed("it ends early"));
        };
        self.at += len;
        Ok(bytes)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("as many as were taken"))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Fails when there is more.
    pub fn end(&self) -> Result<()> {
        match self.is_at_end() {
            true => Ok(()),
            false => Err(malformed("it goes on behind its end")),
        }
    }
}

/// Some sets as a part.
pub struct SetsPart {
    id: u64,
    sets: Vec<RowSet>,
}

impl SetsPart {
    pub fn new(id: u64, sets: Vec<RowSet>) -> SetsPart {
        SetsPart { id, sets }
    }
}

impl FrozenPart for SetsPart {
    fn id(&self) -> u64 {
        self.id
    }

    /// The cursor counts entries.
    fn poll_write(
        &self,
        cursor: &mut u64,
        out: &mut Vec<u8>,
        turn: &Turn<'_>,
    ) -> Poll<Result<bool>> {
        let end = out.len() + PART_PIECE_BYTES;
        let numbered = (0u16..).zip(&self.sets);
        let entries = numbered.flat_map(|(set, rows)| rows.blocks().map(move |entry| (set, entry)));
        for (set, (block, ids)) in entries.skip(*cursor as usize) {
            if out.len() >= end {
                return Poll::Ready(Ok(true));
            }
            let units = write_entry(set, block, ids, out);
            *cursor += 1;
            if !turn.spend(units) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(false))
    }
}

fn write_entry(set: u16, block: u16, ids: &BlockSet, out: &mut Vec<u8>) -> u32 {
    out.extend(set.to_le_bytes());
    write_block(block, ids, out)
}

/// Appends a block of a set. Gives the units.
pub fn write_block(block: u16, ids: &BlockSet, out: &mut Vec<u8>) -> u32 {
    out.extend(block.to_le_bytes());
    out.extend(((ids.len() - 1) as u16).to_le_bytes());
    if ids.len() <= LIST_MAX {
        out.extend(ids.iter().flat_map(u16::to_le_bytes));
    } else {
        let at = out.len();
        out.resize(at + BITMAP_BYTES, 0);
        for low in ids.iter() {
            out[at + usize::from(low) / 8] |= 1 << (low % 8);
        }
    }
    1 + (ids.len() / IDS_PER_UNIT) as u32
}

/// Reads what [`SetsPart`] wrote into `sets`, which are empty at first and as many as there were.
pub fn poll_read_sets(
    bytes: &[u8],
    cursor: &mut u64,
    sets: &mut [RowSet],
    turn: &Turn<'_>,
) -> Poll<Result<()>> {
    let mut reader = Reader::new(bytes, *cursor);
    while !reader.is_at_end() {
        let units = match read_entry(&mut reader, sets) {
            Ok(units) => units,
            Err(failure) => return Poll::Ready(Err(failure)),
        };
        *cursor = reader.cursor();
        if !turn.spend(units) {
            return Poll::Pending;
        }
    }
    Poll::Ready(Ok(()))
}

fn read_entry(reader: &mut Reader<'_>, sets: &mut [RowSet]) -> Result<u32> {
    let set = reader.u16()?;
    let (block, ids, units) = read_block(reader)?;
    let Some(rows) = sets.get_mut(usize::from(set)) else {
        return Err(malformed("a set too many"));
    };
    if rows.next_block(block).is_some() {
        return Err(malformed("blocks of a set are not in order"));
    }
    rows.union_block(block, &ids);
    Ok(units)
}

/// Reads a block of a set, and gives the units of that.
pub fn read_block(reader: &mut Reader<'_>) -> Result<(u16, BlockSet, u32)> {
    let block = reader.u16()?;
    let len = usize::from(reader.u16()?) + 1;
    if len <= LIST_MAX {
        let (lows, _) = reader.take(len * 2)?.as_chunks();
        let lows: Vec<u16> = lows.iter().map(|low| u16::from_le_bytes(*low)).collect();
        if !lows.is_sorted_by(|a, b| a < b) {
            return Err(malformed("ids of a set are not in order"));
        }
        let units = 1 + (len / IDS_PER_UNIT) as u32;
        return Ok((block, BlockSet::from_sorted(lows), units));
    }
    let bitmap = reader.take(BITMAP_BYTES)?;
    let holds = |low: &u16| bitmap[usize::from(*low) / 8] >> (low % 8) & 1 == 1;
    let ids = BlockSet::from_sorted((0..=u16::MAX).filter(holds));
    match ids.len() == len {
        true => Ok((block, ids, (BLOCK_IDS as usize / IDS_PER_UNIT) as u32)),
        false => Err(malformed("a block of a set holds another number of ids")),
    }
}

#[cfg(test)]
pub mod tests {
    use std::rc::Rc;
    use std::task::Waker;

    use nodedb_types::SqlState;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{Engine, Frozen, ThawPart};
    use crate::pace::{Budget, OVERDRAFT_MAX};

    /// An image as it lies on disk: the header, and each part's id and bytes.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Image {
        pub header: Vec<u8>,
        pub parts: Vec<(u64, Rc<Vec<u8>>)>,
    }

    fn with_turn<T>(units: u32, mut step: impl FnMut(&Turn<'_>) -> Poll<T>) -> T {
        loop {
            let budget = Budget::new(units);
            let waker = Waker::noop();
            let turn = Turn {
                budget: &budget,
                waker,
            };
            let polled = step(&turn);
            assert!(budget.overdrawn() <= OVERDRAFT_MAX, "a piece is too long");
            match polled {
                Poll::Ready(value) => return value,
                Poll::Pending => assert!(budget.is_spent(), "it stopped with units left"),
            }
        }
    }

    pub fn write_part(part: &dyn FrozenPart, units: u32) -> Vec<u8> {
        let (mut cursor, mut out) = (0, Vec::new());
        while with_turn(units, |turn| part.poll_write(&mut cursor, &mut out, turn)).unwrap() {}
        out
    }

    /// What a checkpoint would have on disk after this freeze. Parts that `before` has are taken
    /// from there, and must be what would have been written.
    pub fn write(frozen: &Frozen, before: Option<&Image>, units: u32) -> Image {
        let parts = frozen.parts.iter().map(|part| {
            let bytes = write_part(&**part, units);
            let known = before.and_then(|b| b.parts.iter().find(|(id, _)| *id == part.id()));
            match known {
                Some((id, known)) => {
                    assert_eq!(**known, bytes, "an id stands for its bytes");
                    (*id, known.clone())
                }
                None => (part.id(), Rc::new(bytes)),
            }
        });
        let image = Image {
            header: frozen.header.clone(),
            parts: parts.collect(),
        };
        let mut ids: Vec<u64> = image.parts.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), image.parts.len(), "ids differ");
        image
    }

    pub fn thaw<E: Engine>(mut engine: E, image: &Image, units: u32) -> Result<E> {
        engine.thaw(&image.header, image.parts.len())?;
        for (number, (id, bytes)) in image.parts.iter().enumerate() {
            let part = ThawPart {
                number,
                id: *id,
                bytes,
            };
            let mut cursor = 0;
            with_turn(units, |turn| {
                engine.poll_thaw_part(&part, &mut cursor, turn)
            })?;
        }
        Ok(engine)
    }

    /// Damages an image in many ways; thawing it must fail with XX001 or give some index, and
    /// cutting a part short must fail.
    pub fn refuses_damage<E: Engine>(open: impl Fn() -> E, image: &Image) {
        let try_thaw = |image: &Image| match thaw(open(), image, 10_000) {
            Ok(_) => true,
            Err(failure) => {
                assert_eq!(failure.code(), SqlState::DataCorrupted, "{failure:?}");
                false
            }
        };
        assert!(try_thaw(image));
        for len in 0..image.header.len() {
            let mut short = image.clone();
            short.header.truncate(len);
            assert!(!try_thaw(&short), "a header of {len} bytes");
        }
        for (at, (_, bytes)) in image.parts.iter().enumerate() {
            let step = (bytes.len() / 40).max(1);
            for len in (0..bytes.len()).step_by(step) {
                let mut short = image.clone();
                short.parts[at].1 = Rc::new(bytes[..len].to_vec());
                try_thaw(&short);
                let mut flipped = image.clone();
                let mut other = bytes.to_vec();
                other[len] ^= 1 << (len % 8);
                flipped.parts[at].1 = Rc::new(other);
                try_thaw(&flipped);
            }
        }
        for at in 0..image.header.len() {
            let mut flipped = image.clone();
            flipped.header[at] ^= 1 << (at % 8);
            try_thaw(&flipped);
        }
    }

    fn read(bytes: &[u8], count: usize, units: u32) -> Result<Vec<RowSet>> {
        let (mut cursor, mut sets) = (0, vec![RowSet::new(); count]);
        with_turn(units, |turn| {
            poll_read_sets(bytes, &mut cursor, &mut sets, turn)
        })?;
        Ok(sets)
    }

    proptest! {
        #[test]
        fn sets_come_back(
            sets in prop::collection::vec(prop::collection::btree_set((0u32..3, 0u32..70), 0..30), 0..4),
            dense in prop::option::of(0usize..4),
            units in prop_oneof![Just(1u32), Just(10_000)],
        ) {
            let set = |(at, ids): (usize, std::collections::BTreeSet<(u32, u32)>)| {
                let many = if dense == Some(at) { 0..9000u32 } else { 0..0 };
                let ids = ids.into_iter().map(|(block, low)| block << 16 | low);
                ids.chain(many.map(|n| (5 << 16) + n * 7)).collect::<RowSet>()
            };
            let sets: Vec<RowSet> = sets.into_iter().enumerate().map(set).collect();
            let bytes = write_part(&SetsPart::new(1, sets.clone()), units);
            prop_assert_eq!(&read(&bytes, sets.len(), units).unwrap(), &sets);
            for len in (0..bytes.len()).step_by(1 + bytes.len() / 50) {
                if let Ok(short) = read(&bytes[..len], sets.len(), units) {
                    prop_assert!(short != sets);
                }
                let mut flipped = bytes.clone();
                flipped[len] ^= 4;
                prop_assert!(read(&flipped, sets.len(), units).map_or(true, |other| other != sets));
            }
        }
    }
}
