//! A flat array of vectors, each with its surrogate and code.
//!
//! The codes ([`nodedb_types::vector::code`]) stand in arrays of their own, one for each half, so
//! that a scan which needs few of the vectors reads an eighth of their bytes. They follow from the
//! vectors and are in no image.

use std::rc::Rc;

use nodedb_types::simd::distance as kernel;
use nodedb_types::vector::code::{Halves, Scale, encode, half_bytes};

use crate::set::BlockSet;

/// Bytes of the vectors of a full run: large enough for a scan to run on, small enough that to copy
/// it is no long piece, which happens when it changes while a checkpoint writes it. An image says
/// how many slots its runs have, so those of other sizes are read as well.
pub(super) const RUN_BYTES: usize = 256 << 10;
/// Most vectors of a run, for few dimensions.
const SLOTS_MAX: usize = 4096;
/// Slots for which a run has memory at first. When they are full it gets memory for all: more steps
/// would copy what is there again and again, and memory that nothing is written to costs nothing.
const SLOTS_AT_FIRST: usize = 16;

// A slot is named by 16 bits among the dead.
const _: () = assert!(SLOTS_MAX <= 1 << 16);

/// Bytes of vectors that a unit of work reads.
const UNIT_BYTES: usize = 1024;
/// Bytes of coarse halves that it reads: they are asked for ahead, and little is done with each.
const UNIT_CODE_BYTES: usize = 2048;

/// The layout that all runs of an index have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    dimensions: usize,
    /// Bytes of half of a code.
    half_bytes: usize,
    /// Slots of a run, as a power of two.
    slot_bits: u32,
}

impl Shape {
    /// Runs of about `run_bytes` bytes of vectors.
    pub(super) fn new(dimensions: usize, run_bytes: usize) -> Shape {
        let slots = (run_bytes / (dimensions.max(1) * 4)).clamp(1, SLOTS_MAX);
        Shape {
            dimensions,
            half_bytes: half_bytes(dimensions),
            slot_bits: slots.ilog2(),
        }
    }

    /// Runs as an image has them; none where that cannot be.
    pub(super) fn with_slots(&self, slots: u32) -> Option<Shape> {
        let is_possible = slots.is_power_of_two() && slots as usize <= SLOTS_MAX;
        is_possible.then(|| Shape {
            slot_bits: slots.ilog2(),
            ..*self
        })
    }

    pub(super) fn dimensions(&self) -> usize {
        self.dimensions
    }

    pub(super) fn vector_bytes(&self) -> usize {
        self.dimensions * 4
    }

    pub(super) fn slots(&self) -> u32 {
        1 << self.slot_bits
    }

    /// A run and a slot in it as one number.
    pub(super) fn place(&self, run: u32, slot: u32) -> u32 {
        assert!(run >> (32 - self.slot_bits.max(1)) == 0 && slot < self.slots());
        run << self.slot_bits | slot
    }

    pub(super) fn split(&self, place: u32) -> (u32, u32) {
        (place >> self.slot_bits, place & (self.slots() - 1))
    }

    /// Units of work of one distance, copy or hash.
    pub(super) fn units(&self) -> u32 {
        1 + (self.vector_bytes() / UNIT_BYTES) as u32
    }

    /// Units of looking at half of so many codes.
    pub(super) fn code_units(&self, codes: usize) -> u32 {
        1 + (codes * self.half_bytes / UNIT_CODE_BYTES) as u32
    }

    /// Codes of which half can be looked at for so many units, one at least.
    pub(super) fn codes_for(&self, units: u32) -> usize {
        (units as usize * UNIT_CODE_BYTES / self.half_bytes.max(1)).max(1)
    }
}

/// Vectors with their surrogates and what is known of them. A checkpoint shares the slots, so they
/// are copied before they change while it writes.
#[derive(Default)]
pub(super) struct Run {
    slots: Rc<Slots>,
    /// Slots whose row has died or moved away.
    dead: BlockSet,
    /// What the slots are called in images; none once they have changed.
    id: Option<u64>,
}

#[derive(Clone, Default)]
pub(super) struct Slots {
    pub(super) surrogates: Vec<u32>,
    pub(super) vectors: Vec<u8>,
    codes: Halves,
    scales: Vec<Scale>,
}

impl Slots {
    /// Slots of an image; as many vectors as surrogates.
    pub(super) fn new(surrogates: Vec<u32>, vectors: &[u8], shape: &Shape) -> Slots {
        let mut slots = Slots {
            vectors: vectors.to_vec(),
            codes: Halves::default(),
            scales: Vec::with_capacity(surrogates.len()),
            surrogates,
        };
        slots.reserve_codes(slots.surrogates.len(), shape);
        for vector in vectors.chunks_exact(shape.vector_bytes()) {
            slots.push_code(vector);
        }
        slots
    }

    fn reserve_codes(&mut self, more: usize, shape: &Shape) {
        self.codes.coarse.reserve_exact(more * shape.half_bytes);
        self.codes.fine.reserve_exact(more * shape.half_bytes);
    }

    fn reserve(&mut self, more: usize, shape: &Shape) {
        self.surrogates.reserve_exact(more);
        self.vectors.reserve_exact(more * shape.vector_bytes());
        self.reserve_codes(more, shape);
        self.scales.reserve_exact(more);
    }

    /// A copy with room for so many more.
    fn copy(&self, more: usize, shape: &Shape) -> Slots {
        let mut copy = Slots::default();
        copy.reserve(self.surrogates.len() + more, shape);
        copy.surrogates.extend_from_slice(&self.surrogates);
        copy.vectors.extend_from_slice(&self.vectors);
        copy.codes.coarse.extend_from_slice(&self.codes.coarse);
        copy.codes.fine.extend_from_slice(&self.codes.fine);
        copy.scales.extend_from_slice(&self.scales);
        copy
    }

    fn push_code(&mut self, vector: &[u8]) {
        let scale = encode(vector, kernel::squared_norm(vector), &mut self.codes);
        self.scales.push(scale);
    }
}

impl Run {
    /// A run of an image.
    pub(super) fn restored(slots: Slots, dead: BlockSet, id: u64) -> Run {
        Run {
            slots: Rc::new(slots),
            dead,
            id: Some(id),
        }
    }

    /// The slots for an image and their id, `next` if they have none.
    pub(super) fn freeze(&mut self, next: &mut u64) -> (u64, Rc<Slots>) {
        let id = *self.id.get_or_insert_with(|| {
            *next += 1;
            *next - 1
        });
        (id, self.slots.clone())
    }

    /// To be changed.
    fn slots(&mut self) -> &mut Slots {
        self.id = None;
        Rc::make_mut(&mut self.slots)
    }

    /// Slots in use, by the living and the dead.
    pub(super) fn len(&self) -> u32 {
        self.slots.surrogates.len() as u32
    }

    pub(super) fn live(&self) -> u32 {
        self.len() - self.dead.len() as u32
    }

    pub(super) fn dead(&self) -> &BlockSet {
        &self.dead
    }

    pub(super) fn is_sparse(&self) -> bool {
        self.live() * 2 <= self.len()
    }

    /// Whose vector the slot holds or held.
    pub(super) fn surrogate(&self, slot: u32) -> u32 {
        self.slots.surrogates[slot as usize]
    }

    /// The vector of a slot and its squared norm.
    pub(super) fn at(&self, slot: u32, shape: &Shape) -> (&[u8], f32) {
        let (slot, bytes) = (slot as usize, shape.vector_bytes());
        let vector = &self.slots.vectors[slot * bytes..][..bytes];
        (vector, self.slots.scales[slot].squared_norm())
    }

    /// The coarse half of a code.
    #[inline]
    pub(super) fn coarse_at(&self, slot: u32, shape: &Shape) -> (&[u8], &Scale) {
        let (slot, bytes) = (slot as usize, shape.half_bytes);
        let code = &self.slots.codes.coarse[slot * bytes..][..bytes];
        (code, &self.slots.scales[slot])
    }

    /// The fine half.
    pub(super) fn fine_at(&self, slot: u32, shape: &Shape) -> &[u8] {
        let (slot, bytes) = (slot as usize, shape.half_bytes);
        &self.slots.codes.fine[slot * bytes..][..bytes]
    }

    /// Gives the slot.
    pub(super) fn push(&mut self, surrogate: u32, vector: &[u8], shape: &Shape) -> u32 {
        let slot = self.len();
        assert!(slot < shape.slots() && vector.len() == shape.vector_bytes());
        let all = (shape.slots() - slot) as usize;
        let more = match slot as usize {
            0 => all.min(SLOTS_AT_FIRST),
            _ => all,
        };
        if Rc::get_mut(&mut self.slots).is_none() {
            self.slots = Rc::new(self.slots.copy(more, shape));
        }
        let slots = self.slots();
        if slots.surrogates.len() == slots.surrogates.capacity() {
            slots.reserve(more, shape);
        }
        slots.surrogates.push(surrogate);
        slots.vectors.extend_from_slice(vector);
        slots.push_code(vector);
        slot
    }

    pub(super) fn overwrite(&mut self, slot: u32, vector: &[u8], shape: &Shape) {
        let (slot, bytes) = (slot as usize, shape.vector_bytes());
        let slots = self.slots();
        slots.vectors[slot * bytes..][..bytes].copy_from_slice(vector);
        let mut code = Halves::default();
        slots.scales[slot] = encode(vector, kernel::squared_norm(vector), &mut code);
        let (bytes, codes) = (shape.half_bytes, &mut slots.codes);
        codes.coarse[slot * bytes..][..bytes].copy_from_slice(&code.coarse);
        codes.fine[slot * bytes..][..bytes].copy_from_slice(&code.fine);
    }

    /// The row of a slot has died or moved away.
    pub(super) fn forget(&mut self, slot: u32) {
        let was_live = self.dead.insert(slot as u16);
        assert!(was_live, "a row goes once");
    }

    /// Starts anew once none is left.
    pub(super) fn clear(&mut self) {
        assert_eq!(self.live(), 0);
        *self = Run::default();
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let slots = &self.slots;
        slots.surrogates.capacity() * 4
            + slots.scales.capacity() * size_of::<Scale>()
            + slots.vectors.capacity()
            + slots.codes.coarse.capacity()
            + slots.codes.fine.capacity()
    }
}
