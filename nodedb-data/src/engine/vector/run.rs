//! A flat array of vectors, each with its surrogate and squared norm.

use nodedb_types::simd::distance as kernel;

/// Bytes of the vectors of a full run: large enough for a scan to run on, small enough that its
/// growth by doubling is no long piece.
pub(super) const RUN_BYTES: usize = 1 << 20;
/// Most vectors of a run, for few dimensions.
const SLOTS_MAX: usize = 4096;
/// Bytes of vectors that a unit of work reads.
const UNIT_BYTES: usize = 1024;

/// The layout that all runs of an index have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    dimensions: usize,
    /// Slots of a run, as a power of two.
    slot_bits: u32,
}

impl Shape {
    /// Runs of about `run_bytes` bytes of vectors.
    pub(super) fn new(dimensions: usize, run_bytes: usize) -> Shape {
        let slots = (run_bytes / (dimensions.max(1) * 4)).clamp(1, SLOTS_MAX);
        Shape {
            dimensions,
            slot_bits: slots.ilog2(),
        }
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
}

#[derive(Default)]
pub(super) struct Run {
    surrogates: Vec<u32>,
    squared_norms: Vec<f32>,
    vectors: Vec<u8>,
    live: u32,
}

fn squared_norm(vector: &[u8]) -> f32 {
    kernel::squared_norm(vector)
}

impl Run {
    /// Slots in use, by the living and the dead.
    pub(super) fn len(&self) -> u32 {
        self.surrogates.len() as u32
    }

    pub(super) fn live(&self) -> u32 {
        self.live
    }

    pub(super) fn is_sparse(&self) -> bool {
        self.live * 2 <= self.len()
    }

    /// Whose vector the slot holds or held.
    pub(super) fn surrogate(&self, slot: u32) -> u32 {
        self.surrogates[slot as usize]
    }

    pub(super) fn at(&self, slot: u32, shape: &Shape) -> (&[u8], f32) {
        let (slot, bytes) = (slot as usize, shape.vector_bytes());
        let vector = &self.vectors[slot * bytes..][..bytes];
        (vector, self.squared_norms[slot])
    }

    /// Gives the slot.
    pub(super) fn push(&mut self, surrogate: u32, vector: &[u8], shape: &Shape) -> u32 {
        let slot = self.len();
        assert!(slot < shape.slots() && vector.len() == shape.vector_bytes());
        if self.surrogates.len() == self.surrogates.capacity() {
            // Doubling from a power of two ends exactly at the slots of a run.
            let more = self.surrogates.len().max(4).min(shape.slots() as usize);
            self.surrogates.reserve_exact(more);
            self.squared_norms.reserve_exact(more);
            self.vectors.reserve_exact(more * vector.len());
        }
        self.surrogates.push(surrogate);
        self.squared_norms.push(squared_norm(vector));
        self.vectors.extend_from_slice(vector);
        self.live += 1;
        slot
    }

    pub(super) fn overwrite(&mut self, slot: u32, vector: &[u8], shape: &Shape) {
        let (slot, bytes) = (slot as usize, shape.vector_bytes());
        self.vectors[slot * bytes..][..bytes].copy_from_slice(vector);
        self.squared_norms[slot] = squared_norm(vector);
    }

    /// One of its rows has died or moved away.
    pub(super) fn forget_one(&mut self) {
        self.live -= 1;
    }

    /// Starts anew once none is left.
    pub(super) fn clear(&mut self) {
        assert_eq!(self.live, 0);
        self.surrogates.clear();
        self.squared_norms.clear();
        self.vectors.clear();
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.surrogates.capacity() * 4 + self.squared_norms.capacity() * 4 + self.vectors.capacity()
    }
}
