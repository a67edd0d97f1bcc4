//! Buffers that direct I/O accepts, and a pool of them.
//!
//! Memory, file offset and length of direct I/O are multiples of the device's logical block, at
//! most 4 KiB in practice. A buffer is always initialised memory; one from the pool holds what its
//! last user left there.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::num::NonZero;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment of every buffer, and of offsets and lengths in files opened `direct`, bytes.
pub const ALIGNMENT: usize = 4096;

/// Most buffers of one size that the pool keeps.
const KEPT_COUNT_MAX: usize = 64;
/// Most bytes of one size that the pool keeps; larger buffers are not kept.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// Buffers of each of the largest sizes that are kept from the beginning: one is written to the
/// disk while the next is filled.
const WARMED: usize = 2;
/// Power-of-two sizes from [`ALIGNMENT`] to [`KEPT_BYTES_MAX`].
const CLASSES: usize = (KEPT_BYTES_MAX / ALIGNMENT).ilog2() as usize + 1;

/// `len` rounded up to whole blocks of [`ALIGNMENT`] bytes.
pub const fn round_up(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

/// Owned bytes at an address that is a multiple of [`ALIGNMENT`].
pub struct AlignedBuf {
    data: NonNull<u8>,
    capacity: usize,
    len: usize,
}

// SAFETY: the memory is owned by this value alone, as a Vec's is.
unsafe impl Send for AlignedBuf {}

impl Default for AlignedBuf {
    /// No bytes and no memory: what a buffer leaves behind while an operation has it.
    fn default() -> AlignedBuf {
        AlignedBuf {
            data: NonNull::without_provenance(NonZero::new(ALIGNMENT).expect("it is not zero")),
            capacity: 0,
            len: 0,
        }
    }
}

impl AlignedBuf {
    /// `len` zero bytes; the capacity is `len` in whole blocks, at least one.
    pub fn zeroed(len: usize) -> AlignedBuf {
        let capacity = round_up(len.max(1));
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is at least ALIGNMENT, so not zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(data) = NonNull::new(raw) else {
            handle_alloc_error(layout)
        };
        AlignedBuf {
            data,
            capacity,
            len,
        }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGNMENT).expect("a buffer's size fits an address space")
    }

    /// Bytes that [`AlignedBuf::set_len`] accepts at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes how many bytes are read or written; the bytes themselves stay as they are.
    pub fn set_len(&mut self, len: usize) {
        assert!(
            len <= self.capacity,
            "length {len} beyond the capacity {}",
            self.capacity
        );
        self.len = len;
    }

    /// A buffer of at least `capacity` bytes with the same length and content.
    #[must_use]
    pub fn grown(self, capacity: usize) -> AlignedBuf {
        if capacity <= self.capacity {
            return self;
        }
        let mut bigger = AlignedBuf::zeroed(capacity);
        bigger[..self.len].copy_from_slice(&self);
        bigger.set_len(self.len);
        bigger
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `capacity` bytes at `data` are allocated and initialised, and len <= capacity.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.capacity == 0 {
            return;
        }
        // SAFETY: `data` came from the allocator with this very layout.
        unsafe { dealloc(self.data.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity)
    }
}

/// Buffers of one core, kept by power-of-two size for the next operation.
#[derive(Default)]
pub struct BufPool {
    classes: [Vec<AlignedBuf>; CLASSES],
}

impl BufPool {
    /// A buffer of `len` bytes with any content.
    pub fn take(&mut self, len: usize) -> AlignedBuf {
        let capacity = round_up(len.max(1)).next_power_of_two();
        let kept = self
            .class(capacity)
            .and_then(|class| self.classes[class].pop());
        let mut buf = kept.unwrap_or_else(|| AlignedBuf::zeroed(capacity));
        buf.set_len(len);
        buf
    }

    /// Keeps a buffer for later, or frees it when enough of its size are kept.
    pub fn give(&mut self, buf: AlignedBuf) {
        // An empty buffer has no class: zero is no power of two.
        if let Some(class) = self.class(buf.capacity())
            && self.classes[class].len() < kept_max(buf.capacity())
        {
            self.classes[class].push(buf);
        }
    }

    /// Keeps buffers of the largest sizes from the beginning. To get the memory of one from the
    /// system, page by page as it is written to, takes half a millisecond, which a core has not
    /// got once it serves (P2).
    pub fn warm(&mut self) {
        for capacity in [KEPT_BYTES_MAX / 4, KEPT_BYTES_MAX / 2, KEPT_BYTES_MAX] {
            for _ in 0..kept_max(capacity).min(WARMED) {
                let mut buf = AlignedBuf::zeroed(capacity);
                buf.iter_mut().step_by(ALIGNMENT).for_each(|byte| *byte = 1);
                self.give(buf);
            }
        }
    }

    fn class(&self, capacity: usize) -> Option<usize> {
        let usual = capacity.is_power_of_two() && capacity <= KEPT_BYTES_MAX;
        usual.then(|| (capacity / ALIGNMENT).ilog2() as usize)
    }
}

fn kept_max(capacity: usize) -> usize {
    (KEPT_BYTES_MAX / capacity).min(KEPT_COUNT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_zeroed_and_grown() {
        let mut buf = AlignedBuf::zeroed(5000);
        assert_eq!(buf.as_ptr() as usize % ALIGNMENT, 0);
        assert_eq!((buf.len(), buf.capacity()), (5000, 8192));
        assert!(buf.iter().all(|&b| b == 0));
        buf[4999] = 7;
        let buf = buf.grown(10_000);
        assert_eq!((buf.len(), buf.capacity(), buf[4999]), (5000, 12_288, 7));
        assert_eq!(AlignedBuf::zeroed(0).capacity(), ALIGNMENT);
        assert_eq!(AlignedBuf::default().len(), 0);
    }

    #[test]
    #[should_panic(expected = "beyond the capacity")]
    fn length_stays_within_capacity() {
        AlignedBuf::zeroed(1).set_len(ALIGNMENT + 1);
    }

    #[test]
    fn pool_reuses_by_size_and_is_bounded() {
        let mut pool = BufPool::default();
        let buf = pool.take(6000);
        assert_eq!(buf.capacity(), 8192);
        let address = buf.as_ptr();
        pool.give(buf);
        assert_eq!(pool.take(8000).as_ptr(), address);
        for _ in 0..100 {
            pool.give(AlignedBuf::zeroed(ALIGNMENT));
        }
        assert_eq!(pool.classes[0].len(), KEPT_COUNT_MAX);
        pool.warm();
        assert_eq!(pool.classes.map(|c| c.len())[CLASSES - 3..], [2, 2, 1]);
        let mut pool = BufPool::default();
        (0..100).for_each(|_| pool.give(AlignedBuf::zeroed(ALIGNMENT)));
        pool.give(AlignedBuf::zeroed(3 * ALIGNMENT));
        pool.give(AlignedBuf::zeroed(4 << 20));
        for _ in 0..2 {
            pool.give(AlignedBuf::zeroed(1 << 20));
        }
        assert_eq!(
            pool.classes.iter().map(Vec::len).sum::<usize>(),
            KEPT_COUNT_MAX + 1
        );
    }
}
