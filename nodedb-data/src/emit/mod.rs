//! Committed writes on their way out of the core (E1), and the mark below which all have left.
//!
//! A commit is emitted after it was applied, hence after it was durable, in log order. When the
//! ring to the event plane is full, batches are left out until a word about it fits in; they are
//! in the log. Nothing here waits, so a slow subscriber never slows a write.

pub mod index;
pub mod log;
pub mod retention;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nodedb_bridge::event::{Emitted, EventBatch, LowMark};
use nodedb_bridge::wake::Wake;
use nodedb_types::CommitTs;

use crate::wal::Position;

/// A core's end of its event ring.
pub struct Emitter {
    ring: RefCell<rtrb::Producer<Emitted>>,
    wake: Arc<Wake>,
    low: Arc<LowMark>,
    /// Up to where the log is durable, for who reads it beside the writer.
    log_end: Arc<AtomicU64>,
    /// The first commit that was left out and not spoken of yet.
    left_out: Cell<Option<CommitTs>>,
    /// Batches left out so far.
    left_to_log: Cell<u64>,
    /// Something was put into the ring since the last wake.
    rung: Cell<bool>,
}

impl Emitter {
    pub fn new(
        ring: rtrb::Producer<Emitted>,
        wake: Arc<Wake>,
        low: Arc<LowMark>,
        log_end: Arc<AtomicU64>,
    ) -> Emitter {
        Emitter {
            log_end,
            ring: RefCell::new(ring),
            wake,
            low,
            left_out: Cell::new(None),
            left_to_log: Cell::new(0),
            rung: Cell::new(false),
        }
    }

    /// Sends a commit's changes, or notes that they were left out.
    pub fn emit(&self, batch: EventBatch) {
        let commit_ts = batch.commit_ts;
        if !self.settle() || !self.push(Emitted::Batch(batch)) {
            let first = self.left_out.get().map_or(commit_ts, |f| f.min(commit_ts));
            self.left_out.set(Some(first));
            self.left_to_log.set(self.left_to_log.get() + 1);
        }
    }

    /// Tries to say what was left out; true when nothing is left to be said.
    pub fn settle(&self) -> bool {
        let Some(from) = self.left_out.get() else {
            return true;
        };
        let said = self.push(Emitted::Overflow { from });
        if said {
            self.left_out.set(None);
        }
        said
    }

    /// Batches left out so far.
    pub fn left_to_log(&self) -> u64 {
        self.left_to_log.get()
    }

    /// Whether there is room for a word that waits; looked at before sleeping. The event plane
    /// wakes a core whose ring it found full.
    pub fn can_settle(&self) -> bool {
        self.left_out.get().is_some() && self.ring.borrow().slots() > 0
    }

    fn push(&self, emitted: Emitted) -> bool {
        let pushed = self.ring.borrow_mut().push(emitted).is_ok();
        self.rung.set(self.rung.get() | pushed);
        pushed
    }

    /// Publishes that every commit below `low` has left, and that the log is durable up to
    /// `log_end`. The mark is stored after the batches were pushed and after the log's end, so who
    /// sees it finds them in the ring or in the log.
    pub fn publish(&self, low: CommitTs, log_end: Position) {
        self.log_end.store(log_end.to_bits(), Ordering::SeqCst);
        // What was left out and not spoken of holds it down, or its absence would look final.
        let low = self.left_out.get().map_or(low, |from| low.min(from));
        if self.low.low.load(Ordering::Relaxed) != low.0 {
            self.low.low.store(low.0, Ordering::SeqCst);
            self.rung.set(true);
        }
    }

    /// Before a timestamp is taken or a vote is given at `now`: nothing above it is final yet.
    pub fn hold_low(&self, now: CommitTs) {
        if self.low.low.load(Ordering::Relaxed) > now.0 {
            self.low.low.store(now.0, Ordering::SeqCst);
        }
    }

    /// Wakes the event plane if there is news since the last call.
    pub fn ring(&self) {
        if self.rung.take() {
            self.wake.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use nodedb_types::{CoreId, Lsn, ShardId};

    use super::*;

    #[test]
    fn a_full_ring_leaves_out_and_says_so() {
        let (tx, mut rx) = rtrb::RingBuffer::new(2);
        let low = Arc::new(LowMark {
            core: CoreId(0),
            low: AtomicU64::new(0),
        });
        let log_end = Arc::new(AtomicU64::new(0));
        let emitter = Emitter::new(tx, Wake::new().unwrap(), low.clone(), log_end.clone());
        let batch = |ts| EventBatch {
            shard: ShardId(1),
            lsn: Lsn(ts),
            part: 0,
            commit_ts: CommitTs(ts),
            events: Vec::new(),
        };
        for ts in 1..=5 {
            emitter.emit(batch(ts));
        }
        assert_eq!(emitter.left_to_log(), 3);
        assert!(matches!(rx.pop(), Ok(Emitted::Batch(b)) if b.commit_ts == CommitTs(1)));
        assert!(matches!(rx.pop(), Ok(Emitted::Batch(b)) if b.commit_ts == CommitTs(2)));
        assert!(emitter.settle());
        emitter.emit(batch(6));
        assert!(matches!(
            rx.pop(),
            Ok(Emitted::Overflow { from: CommitTs(3) })
        ));
        assert!(matches!(rx.pop(), Ok(Emitted::Batch(b)) if b.commit_ts == CommitTs(6)));
        emitter.publish(CommitTs(9), Position::new(1, 4096));
        assert_eq!(log_end.load(Ordering::SeqCst), (1 << 32) | 4096);
        emitter.hold_low(CommitTs(7));
        assert_eq!(low.low.load(Ordering::SeqCst), 7);
        emitter.hold_low(CommitTs(8));
        assert_eq!(low.low.load(Ordering::SeqCst), 7);
    }
}
