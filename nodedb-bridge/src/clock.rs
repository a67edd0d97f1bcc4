//! The commit clock and the snapshots that are being read.
//!
//! One process-wide monotone u64 (`max(previous + 1, unix_ms << 16)`). A statement reads at the
//! clock's value when it began. So that a core never trims a version somebody still reads, each
//! worker publishes the oldest snapshot of its statements in a slot: first a lower bound, then it
//! loads the clock, then keeps that value until the statement ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nodedb_types::CommitTs;

/// Where time comes from. The server hands in the machine's clock, the simulation its own.
pub trait TimeSource: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;
    /// Nanoseconds of a clock that never goes back, from an arbitrary start.
    fn monotonic_ns(&self) -> u64;
}

/// The process-wide commit clock.
pub struct Clock {
    last: AtomicU64,
    time: Arc<dyn TimeSource>,
}

impl Clock {
    pub fn new(time: Arc<dyn TimeSource>) -> Clock {
        Clock {
            last: AtomicU64::new(0),
            time,
        }
    }

    /// A timestamp above every one given before.
    pub fn next(&self) -> CommitTs {
        let wall = self.time.unix_ms() << 16;
        let previous = self
            .last
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| {
                Some(wall.max(last + 1))
            })
            .unwrap_or_else(|unchanged| unchanged);
        CommitTs(wall.max(previous + 1))
    }

    /// The last timestamp given: everything committed so far is at or below it.
    pub fn now(&self) -> CommitTs {
        CommitTs(self.last.load(Ordering::SeqCst))
    }

    /// Raises the clock above what a log holds; called at start.
    pub fn observe(&self, seen: CommitTs) {
        self.last.fetch_max(seen.0, Ordering::SeqCst);
    }

    pub fn time(&self) -> &Arc<dyn TimeSource> {
        &self.time
    }
}

/// One slot per reading thread; `u64::MAX` when it reads nothing.
pub struct Snapshots {
    slots: Box<[AtomicU64]>,
    clock: Arc<Clock>,
}

impl Snapshots {
    pub fn new(threads: usize, clock: Arc<Clock>) -> Arc<Snapshots> {
        let slots = (0..threads).map(|_| AtomicU64::new(u64::MAX)).collect();
        Arc::new(Snapshots { slots, clock })
    }

    /// No statement reads below this: history at or below it may be trimmed. With no statement
    /// running it is the clock itself.
    pub fn oldest(&self) -> CommitTs {
        let now = self.clock.now().0;
        let held = self.slots.iter().map(|s| s.load(Ordering::SeqCst)).min();
        CommitTs(held.unwrap_or(u64::MAX).min(now))
    }

    /// The slot of thread `index`, to be used by that thread only.
    pub fn slot(self: &Arc<Self>, index: usize) -> SnapshotSlot {
        assert!(index < self.slots.len());
        SnapshotSlot(Rc::new(SlotState {
            shared: self.clone(),
            index,
            held: RefCell::new(BTreeMap::new()),
        }))
    }
}

struct SlotState {
    shared: Arc<Snapshots>,
    index: usize,
    held: RefCell<BTreeMap<u64, u32>>,
}

impl SlotState {
    fn publish(&self, held: &BTreeMap<u64, u32>) {
        let oldest = held.keys().next().copied().unwrap_or(u64::MAX);
        self.shared.slots[self.index].store(oldest, Ordering::SeqCst);
    }
}

/// A thread's end of its slot; clones share it.
#[derive(Clone)]
pub struct SnapshotSlot(Rc<SlotState>);

impl SnapshotSlot {
    /// Begins a statement's read at the clock's present value.
    pub fn acquire(&self) -> SnapshotGuard {
        let state = &self.0;
        let mut held = state.held.borrow_mut();
        if held.is_empty() {
            // The lower bound comes first: a core that looks between the two loads sees it.
            let bound = state.shared.clock.now().0;
            state.shared.slots[state.index].store(bound, Ordering::SeqCst);
        }
        let snapshot = state.shared.clock.now();
        *held.entry(snapshot.0).or_insert(0) += 1;
        state.publish(&held);
        SnapshotGuard {
            slot: self.clone(),
            snapshot,
        }
    }
}

/// Keeps a snapshot readable until it is dropped.
pub struct SnapshotGuard {
    slot: SnapshotSlot,
    snapshot: CommitTs,
}

impl SnapshotGuard {
    pub fn snapshot(&self) -> CommitTs {
        self.snapshot
    }
}

impl Drop for SnapshotGuard {
    fn drop(&mut self) {
        let state = &self.slot.0;
        let mut held = state.held.borrow_mut();
        if let Some(count) = held.get_mut(&self.snapshot.0) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.snapshot.0);
            }
        }
        state.publish(&held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(AtomicU64);
    impl TimeSource for Fixed {
        fn unix_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
        fn monotonic_ns(&self) -> u64 {
            self.0.load(Ordering::Relaxed) * 1_000_000
        }
    }

    #[test]
    fn the_clock_never_repeats_or_goes_back() {
        let time = Arc::new(Fixed(AtomicU64::new(5)));
        let clock = Clock::new(time.clone());
        let a = clock.next();
        assert_eq!(a.unix_ms(), 5);
        time.0.store(3, Ordering::Relaxed);
        assert_eq!(clock.next(), CommitTs(a.0 + 1));
        clock.observe(CommitTs(1 << 40));
        assert_eq!(clock.next(), CommitTs((1 << 40) + 1));
    }

    #[test]
    fn the_oldest_snapshot_is_held_until_dropped() {
        let clock = Arc::new(Clock::new(Arc::new(Fixed(AtomicU64::new(1)))));
        let all = Snapshots::new(2, clock.clone());
        let slot = all.slot(1);
        clock.next();
        let first = slot.acquire();
        clock.next();
        let second = slot.acquire();
        assert_eq!(all.oldest(), first.snapshot());
        drop(first);
        assert_eq!(all.oldest(), second.snapshot());
        clock.next();
        drop(second);
        assert_eq!(all.oldest(), clock.now());
    }
}
