//! The image of a vector index (`docs/format/engines.md`): the runs, the tail among them, and the
//! dead slots of each. Where the vector of a row is, and the norms, follow from them.

use std::rc::Rc;
use std::task::Poll;

use nodedb_types::{Failure, Result};

use super::Vectors;
use super::run::{Run, Slots};
use crate::engine::image::{Frozen, FrozenPart, PART_PIECE_BYTES, ThawPart, malformed};
use crate::engine::image_codec::{Reader, SetsPart, copy_units, poll_read_sets};
use crate::pace::Turn;
use crate::set::{BlockSet, RowSet};

const VERSION: u16 = 1;
/// Runs are numbered in 16 bits among the sets of the dead: 16 GiB of vectors on a shard. Beyond
/// them there is no image.
const RUNS_MAX: usize = u16::MAX as usize;

/// Ids of parts.
pub(super) struct Names {
    next: u64,
    /// Of the dead; none once they have changed.
    dead: Option<u64>,
}

impl Default for Names {
    fn default() -> Names {
        Names {
            next: 1,
            dead: None,
        }
    }
}

impl Names {
    /// A slot has died, or runs have come or gone.
    pub(super) fn dead_changed(&mut self) {
        self.dead = None;
    }
}

/// The slots of a run.
struct SlotsPart {
    id: u64,
    slots: Rc<Slots>,
}

impl FrozenPart for SlotsPart {
    fn id(&self) -> u64 {
        self.id
    }

    /// The cursor is behind the surrogates from 1 on, where it counts bytes of vectors.
    fn poll_write(
        &self,
        cursor: &mut u64,
        out: &mut Vec<u8>,
        turn: &Turn<'_>,
    ) -> Poll<Result<bool>> {
        let Slots {
            surrogates,
            vectors,
            ..
        } = &*self.slots;
        if *cursor == 0 {
            out.extend((surrogates.len() as u32).to_le_bytes());
            out.extend(surrogates.iter().flat_map(|row| row.to_le_bytes()));
            *cursor = 1;
        }
        let from = (*cursor - 1) as usize;
        let rest = &vectors[from..];
        let piece = &rest[..rest.len().min(PART_PIECE_BYTES)];
        out.extend_from_slice(piece);
        *cursor += piece.len() as u64;
        // The next piece is stopped by what this one spent.
        let _ = turn.spend(copy_units(piece.len()));
        Poll::Ready(Ok(piece.len() < rest.len()))
    }
}

/// An index on its way back.
pub(super) struct Thawing {
    runs: usize,
    has_tail: bool,
    next: u64,
    /// Dead slots by run.
    dead: Vec<RowSet>,
}

impl Vectors {
    pub(super) fn frozen(&mut self) -> Option<Frozen> {
        // The tail comes last.
        let tail = self.tail;
        let numbers = (0u32..).take(self.runs.len());
        let numbers = numbers.filter(|number| Some(*number) != tail).chain(tail);
        let numbers: Vec<u32> = numbers.collect();
        let (mut sets, mut slots) = (Vec::new(), Vec::new());
        for number in numbers {
            let Some(run) = &mut self.runs[number as usize] else {
                continue;
            };
            let mut dead = RowSet::new();
            dead.union_block(0, run.dead());
            sets.push(dead);
            slots.push(run.freeze(&mut self.names.next));
        }
        if slots.len() >= RUNS_MAX {
            return None;
        }
        let Names { next, dead } = &mut self.names;
        let dead = *dead.get_or_insert_with(|| {
            *next += 1;
            *next - 1
        });
        let mut header = Vec::new();
        header.extend(VERSION.to_le_bytes());
        header.extend([u8::from(tail.is_some()), 0]);
        header.extend((self.shape.dimensions() as u32).to_le_bytes());
        header.extend(self.shape.slots().to_le_bytes());
        header.extend((slots.len() as u32).to_le_bytes());
        header.extend(self.names.next.to_le_bytes());
        let mut parts: Vec<Rc<dyn FrozenPart>> = vec![Rc::new(SetsPart::new(dead, sets))];
        for (id, slots) in slots {
            parts.push(Rc::new(SlotsPart { id, slots }));
        }
        Some(Frozen::new(header, parts))
    }

    /// The index, which is empty, gets runs as large as the image has them.
    pub(super) fn begin_thaw(&mut self, header: &[u8], parts: usize) -> Result<Thawing> {
        let mut reader = Reader::new(header, 0);
        if reader.u16()? != VERSION {
            return Err(malformed("a version that is not known"));
        }
        let (has_tail, _) = (reader.u8()?, reader.u8()?);
        let (dimensions, slots) = (reader.u32()?, reader.u32()?);
        let (runs, next) = (reader.u32()? as usize, reader.u64()?);
        reader.end()?;
        let shape = self.shape.with_slots(slots);
        let shape = shape.filter(|shape| shape.dimensions() == dimensions as usize);
        self.shape = shape.ok_or_else(|| malformed("its vectors have another shape"))?;
        if runs + 1 != parts || runs >= RUNS_MAX || has_tail > 1 || usize::from(has_tail) > runs {
            return Err(malformed("another number of parts"));
        }
        Ok(Thawing {
            runs,
            has_tail: has_tail == 1,
            next,
            dead: vec![RowSet::new(); runs],
        })
    }

    pub(super) fn poll_thaw(
        &mut self,
        part: &ThawPart<'_>,
        cursor: &mut u64,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        let Some(thawing) = &mut self.thawing else {
            return Poll::Ready(Err(Failure::internal("a part of no image")));
        };
        if part.id >= thawing.next {
            return Poll::Ready(Err(malformed("a part's id is too large")));
        }
        if part.number == 0 {
            self.names = Names {
                next: thawing.next,
                dead: Some(part.id),
            };
            return poll_read_sets(part.bytes, cursor, &mut thawing.dead, turn);
        }
        let is_tail = thawing.has_tail && part.number == thawing.runs;
        let dead = std::mem::take(&mut thawing.dead[part.number - 1]);
        let restored = self.restore_run(part, dead, is_tail);
        let _ = turn.spend(2 * copy_units(part.bytes.len()));
        Poll::Ready(restored)
    }

    /// Brings back a run, which is small enough for one piece.
    fn restore_run(&mut self, part: &ThawPart<'_>, dead: RowSet, is_tail: bool) -> Result<()> {
        let shape = self.shape;
        let mut reader = Reader::new(part.bytes, 0);
        let len = reader.u32()?;
        if len > shape.slots() || len == 0 && !is_tail {
            return Err(malformed("a run of another length"));
        }
        let (surrogates, _) = reader.take(len as usize * 4)?.as_chunks();
        let surrogates: Vec<u32> = surrogates.iter().map(|s| u32::from_le_bytes(*s)).collect();
        let vectors = reader.take(len as usize * shape.vector_bytes())?;
        reader.end()?;
        let dead_slots = dead.block(0).cloned().unwrap_or_default();
        if dead.iter().any(|slot| slot >= len) || !is_tail && dead_slots.len() == len as usize {
            return Err(malformed("dead slots that do not fit their run"));
        }
        let number = self.runs.len() as u32;
        for (slot, surrogate) in (0..len).zip(&surrogates) {
            if is_dead(&dead_slots, slot) {
                continue;
            }
            let place = shape.place(number, slot);
            if *surrogate == 0 || self.places.insert(*surrogate, place).is_some() {
                return Err(malformed("a row has two vectors"));
            }
        }
        let slots = Slots::new(surrogates, vectors, &shape);
        self.runs
            .push(Some(Run::restored(slots, dead_slots, part.id)));
        match is_tail {
            true => self.tail = Some(number),
            false => self.seal(number),
        }
        Ok(())
    }
}

fn is_dead(dead: &BlockSet, slot: u32) -> bool {
    dead.contains(slot as u16)
}
