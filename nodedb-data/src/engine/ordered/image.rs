//! The image of an ordered index (`docs/format/engines.md`): the rows with NULL, and the leaves.

use std::rc::Rc;
use std::task::Poll;

use nodedb_types::limits::KEY_BYTES_MAX;
use nodedb_types::{Failure, Result};

use super::Ordered;
use super::postings::Postings;
use super::values::{Entry, Leaf};
use crate::engine::image::{Frozen, FrozenPart, PART_PIECE_BYTES, ThawPart, malformed};
use crate::engine::image_codec::{
    Reader, SetsPart, copy_units, poll_read_sets, read_block, write_block,
};
use crate::pace::Turn;
use crate::set::RowSet;

const VERSION: u16 = 1;

/// Ids of parts.
pub(super) struct Names {
    next: u64,
    /// Of the rows with NULL; 0 once they have changed.
    nulls: u64,
}

impl Default for Names {
    fn default() -> Names {
        Names { next: 1, nulls: 0 }
    }
}

impl Names {
    pub(super) fn nulls_changed(&mut self) {
        self.nulls = 0;
    }
}

/// In the cursor of a leaf: entries are counted above these bits, blocks of an entry in them.
const BLOCK_BITS: u32 = 20;

impl FrozenPart for Leaf {
    fn id(&self) -> u64 {
        self.id
    }

    fn poll_write(
        &self,
        cursor: &mut u64,
        out: &mut Vec<u8>,
        turn: &Turn<'_>,
    ) -> Poll<Result<bool>> {
        let end = out.len() + PART_PIECE_BYTES;
        while let Some((value, rows)) = self.entries().get((*cursor >> BLOCK_BITS) as usize) {
            if out.len() >= end {
                return Poll::Ready(Ok(true));
            }
            let block = *cursor & ((1 << BLOCK_BITS) - 1);
            let (units, is_last) = write_entry(value, rows, block as usize, out);
            *cursor = match is_last {
                true => ((*cursor >> BLOCK_BITS) + 1) << BLOCK_BITS,
                false => *cursor + 1,
            };
            if !turn.spend(units) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(false))
    }
}

/// Writes the rows of a value in a block, before the first the value. Gives the units, and whether
/// it was the last block.
fn write_entry(value: &[u8], rows: &Postings, block: usize, out: &mut Vec<u8>) -> (u32, bool) {
    if block == 0 {
        out.extend((value.len() as u16).to_le_bytes());
        out.extend_from_slice(value);
    }
    match rows {
        Postings::One(row) => {
            out.extend(0u32.to_le_bytes());
            out.extend(row.to_le_bytes());
            (1, true)
        }
        Postings::Many(rows) => {
            let blocks = rows.blocks().count();
            if block == 0 {
                out.extend((blocks as u32).to_le_bytes());
            }
            let units = rows.blocks().nth(block);
            let units = units.map_or(1, |(block, ids)| write_block(block, ids, out));
            (units, block + 1 >= blocks)
        }
    }
}

/// An index on its way back.
pub(super) struct Thawing {
    next: u64,
    /// The leaf under way.
    entries: Vec<Entry>,
    /// The value under way, its rows so far, and how many blocks are still to come.
    open: Option<(Box<[u8]>, RowSet, u32)>,
}

impl Ordered {
    pub(super) fn frozen(&mut self) -> Frozen {
        let Names { next, nulls } = &mut self.names;
        if *nulls == 0 {
            *nulls = *next;
            *next += 1;
        }
        let nulls = SetsPart::new(*nulls, vec![self.nulls.clone()]);
        self.values.name_leaves(next);
        let mut parts: Vec<Rc<dyn FrozenPart>> = Vec::new();
        parts.push(Rc::new(nulls));
        for leaf in self.values.leaves() {
            parts.push(leaf.clone());
        }
        let mut header = Vec::new();
        header.extend(VERSION.to_le_bytes());
        header.extend([0, 0]);
        header.extend((parts.len() as u32 - 1).to_le_bytes());
        header.extend(self.names.next.to_le_bytes());
        Frozen::new(header, parts)
    }
}

impl Thawing {
    pub(super) fn new(header: &[u8], parts: usize) -> Result<Thawing> {
        let mut reader = Reader::new(header, 0);
        if reader.u16()? != VERSION || reader.u16()? != 0 {
            return Err(malformed("a version that is not known"));
        }
        let (leaves, next) = (reader.u32()? as usize, reader.u64()?);
        reader.end()?;
        if leaves + 1 != parts {
            return Err(malformed("another number of parts"));
        }
        if next > u64::MAX >> 1 {
            return Err(malformed("no id is left"));
        }
        Ok(Thawing {
            next,
            entries: Vec::new(),
            open: None,
        })
    }
}

impl Ordered {
    pub(super) fn poll_thaw(
        &mut self,
        part: &ThawPart<'_>,
        cursor: &mut u64,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        let Some(thawing) = &mut self.thawing else {
            return Poll::Ready(Err(Failure::internal("a part of no image")));
        };
        if part.id == 0 || part.id >= thawing.next {
            return Poll::Ready(Err(malformed("a part's id that was not given")));
        }
        if part.number == 0 {
            self.names = Names {
                next: thawing.next,
                nulls: part.id,
            };
            let nulls = std::slice::from_mut(&mut self.nulls);
            return poll_read_sets(part.bytes, cursor, nulls, turn);
        }
        let mut reader = Reader::new(part.bytes, *cursor);
        while !reader.is_at_end() {
            let units = match thawing.step(&mut reader, &self.null) {
                Ok(units) => units,
                Err(failure) => return Poll::Ready(Err(failure)),
            };
            *cursor = reader.cursor();
            if !turn.spend(units) {
                return Poll::Pending;
            }
        }
        let entries = std::mem::take(&mut thawing.entries);
        let is_whole = thawing.open.is_none() && !entries.is_empty();
        let leaf = Leaf::new(part.id, entries);
        Poll::Ready(match is_whole && self.values.push_leaf(leaf) {
            true => Ok(()),
            false => Err(malformed("a leaf that does not follow the one before")),
        })
    }
}

impl Thawing {
    /// Reads a value, or a block of one. Gives the units.
    fn step(&mut self, reader: &mut Reader<'_>, null: &[u8]) -> Result<u32> {
        let Some((_, rows, left)) = &mut self.open else {
            return self.begin(reader, null);
        };
        let (block, ids, units) = read_block(reader)?;
        if rows.next_block(block).is_some() {
            return Err(malformed("blocks of a value are not in order"));
        }
        rows.union_block(block, &ids);
        *left -= 1;
        if *left == 0
            && let Some((value, rows, _)) = self.open.take()
        {
            if rows.len() < 2 {
                return Err(malformed("a value with too few rows"));
            }
            self.entries.push((value, Postings::Many(Rc::new(rows))));
        }
        Ok(units)
    }

    /// Begins with a value.
    fn begin(&mut self, reader: &mut Reader<'_>, null: &[u8]) -> Result<u32> {
        let len = usize::from(reader.u16()?);
        let value: Box<[u8]> = reader.take(len)?.into();
        let last = self.entries.last();
        let follows = last.is_none_or(|(last, _)| *last < value);
        if value.is_empty() || len > KEY_BYTES_MAX || *value == *null || !follows {
            return Err(malformed("a value that cannot stand here"));
        }
        match reader.u32()? {
            0 => self.entries.push((value, Postings::One(reader.u32()?))),
            blocks => self.open = Some((value, RowSet::new(), blocks)),
        }
        Ok(copy_units(len))
    }
}
