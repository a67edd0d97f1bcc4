//! Memory is charged to an owner: a statement's account, from its first held byte on.

use std::sync::atomic::{AtomicUsize, Ordering};

use nodedb_types::{Failure, Result, SqlState};

/// Bytes held for one statement, on whatever thread. Charges beyond the limit fail with 53200.
#[derive(Debug)]
pub struct MemoryAccount {
    used: AtomicUsize,
    limit: usize,
}

impl MemoryAccount {
    /// `limit`: bytes that the owner may hold at a time.
    pub fn new(limit: usize) -> MemoryAccount {
        MemoryAccount {
            used: AtomicUsize::new(0),
            limit,
        }
    }

    /// Charges `bytes`; nothing is charged when it fails.
    pub fn charge(&self, bytes: usize) -> Result<()> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Failure::new(SqlState::OutOfMemory, "out of memory")
                .with_detail(format!("the statement may hold {} bytes", self.limit))
                .with_hint("fetch fewer rows at a time, or raise the memory of a statement"));
        }
        Ok(())
    }

    /// Gives back what was charged before.
    pub fn release(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "released more than was charged");
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}
