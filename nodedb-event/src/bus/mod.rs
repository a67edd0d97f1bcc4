//! From the cores' rings to one order of final events.
//!
//! [`Bus::drain`] loads the clock, then every core's low mark, then takes what is in the rings. A
//! commit below all of these has been emitted: a core holds its mark down from before it takes a
//! timestamp until the commit is in its ring, and gives timestamps above the clock that was loaded
//! if it did not hold it yet. So what is below the marks is final, and only that is shown, in
//! order of (commit timestamp, shard, LSN).
//!
//! The bus never waits and holds bounded memory. When a core left batches out, or too much waits
//! for a slower core, what is missing is read from the log instead: the window begins behind it.

mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nodedb_bridge::clock::Clock;
use nodedb_bridge::event::{Emitted, EventBatch};
use nodedb_bridge::port::EventPosition;
use nodedb_bridge::wiring::EventEnds;
use nodedb_types::limits::{STREAM_PENDING_BYTES_MAX, STREAM_WINDOW_BYTES};
use nodedb_types::{CollectionId, CommitTs};

pub use window::Window;

/// Bytes of a change beside its key and images, in memory.
const EVENT_OVERHEAD: usize = 128;

/// How much the bus holds, bytes as stored.
#[derive(Clone, Copy, Debug)]
pub struct BusLimits {
    pub window_bytes: usize,
    pub pending_bytes_max: usize,
}

impl Default for BusLimits {
    fn default() -> BusLimits {
        BusLimits {
            window_bytes: STREAM_WINDOW_BYTES,
            pending_bytes_max: STREAM_PENDING_BYTES_MAX,
        }
    }
}

/// Where a reader finds what it wants next.
#[derive(Debug)]
pub enum Next {
    /// Here, and where to go on.
    Window(Vec<Arc<EventBatch>>, EventPosition),
    /// In the log, as far as this.
    Log { before: CommitTs },
    /// Nothing is final from there on yet.
    Wait,
}

/// The rings' ends and what came out of them.
pub struct Bus {
    ends: EventEnds,
    clock: Arc<Clock>,
    limits: BusLimits,
    /// Emitted and not final.
    pending: BTreeMap<EventPosition, EventBatch>,
    pending_bytes: usize,
    window: Window,
    /// Every commit below it is final.
    final_before: CommitTs,
}

impl Bus {
    /// A bus over cores that have recovered: what was committed before is in the log.
    pub fn new(ends: EventEnds, clock: Arc<Clock>, limits: BusLimits) -> Bus {
        let start = CommitTs(clock.now().0 + 1);
        Bus {
            ends,
            clock,
            limits,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            window: Window::new(start, limits.window_bytes),
            final_before: CommitTs(0),
        }
    }

    /// Every commit below this is final.
    pub fn final_before(&self) -> CommitTs {
        self.final_before
    }

    /// The last timestamp given.
    pub fn now(&self) -> CommitTs {
        self.clock.now()
    }

    /// Takes what is in the rings. True when more is final than before.
    pub fn drain(&mut self) -> bool {
        let final_before = self.mark();
        for core in 0..self.ends.events.len() {
            self.take(core);
        }
        if self.pending_bytes > self.limits.pending_bytes_max {
            self.leave_to_log();
        }
        let advanced = final_before > self.final_before;
        self.final_before = self.final_before.max(final_before);
        while let Some(entry) = self.pending.first_entry() {
            if entry.key().commit_ts >= self.final_before {
                break;
            }
            let batch = entry.remove();
            self.pending_bytes -= batch_bytes(&batch);
            self.window.push(batch);
        }
        advanced
    }

    /// Whether a drain would do anything; looked at before sleeping.
    pub fn has_news(&self) -> bool {
        self.mark() > self.final_before || self.ends.events.iter().any(|ring| !ring.is_empty())
    }

    /// What a reader of `collection` gets at `from`, below `before`.
    pub fn next(
        &self,
        collection: CollectionId,
        from: EventPosition,
        before: CommitTs,
        bytes_max: usize,
    ) -> Next {
        let before = before.min(self.final_before);
        if from.commit_ts >= before {
            return Next::Wait;
        }
        if from.commit_ts < self.window.start() {
            let before = before.min(self.window.start());
            return Next::Log { before };
        }
        let (batches, next) = self.window.read(collection, from, before, bytes_max);
        Next::Window(batches, next.unwrap_or(EventPosition::at(before)))
    }

    /// The clock first, then the marks: see the module's header.
    fn mark(&self) -> CommitTs {
        let now = self.clock.now().0;
        let lows = self.ends.low.iter().map(|m| m.low.load(Ordering::SeqCst));
        CommitTs(lows.fold(now.saturating_add(1), u64::min))
    }

    fn take(&mut self, core: usize) {
        // As many as there are now: whatever the marks cover was pushed before they were loaded.
        let count = self.ends.events[core].slots();
        for _ in 0..count {
            match self.ends.events[core].pop() {
                Ok(Emitted::Batch(batch)) => self.keep(batch),
                Ok(Emitted::Overflow { .. }) => self.leave_to_log(),
                Err(_) => break,
            }
        }
        // A core that found its ring full may sleep until there is room to say so. All that the
        // ring held then is taken in this drain and the next, so one of them took half of it.
        if count * 2 >= self.ends.events[core].buffer().capacity() {
            self.ends.core_wakes[core].notify();
        }
    }

    fn keep(&mut self, mut batch: EventBatch) {
        if batch.commit_ts < self.window.start() || batch.events.is_empty() {
            return;
        }
        self.pending_bytes += batch_bytes(&batch);
        // A core may emit a commit's changes in one shard as several batches, one per collection.
        while self.pending.contains_key(&position(&batch)) {
            batch.part += 1;
        }
        self.pending.insert(position(&batch), batch);
    }

    /// Everything committed so far is in the log only. What a core left out was committed before
    /// it said so, hence before the clock's present value.
    fn leave_to_log(&mut self) {
        let start = CommitTs(self.clock.now().0 + 1);
        self.window.restart(start);
        self.pending.retain(|place, _| place.commit_ts >= start);
        self.pending_bytes = self.pending.values().map(batch_bytes).sum();
    }
}

/// Where a batch stands in the order.
pub fn position(batch: &EventBatch) -> EventPosition {
    EventPosition {
        commit_ts: batch.commit_ts,
        shard: batch.shard,
        lsn: batch.lsn,
        part: batch.part,
    }
}

/// Bytes that a batch keeps in memory.
pub fn batch_bytes(batch: &EventBatch) -> usize {
    let image = |image: &Option<Arc<[u8]>>| image.as_ref().map_or(0, |i| i.len());
    let event = |e: &nodedb_bridge::event::WriteEvent| {
        EVENT_OVERHEAD + e.key.len() + image(&e.before) + image(&e.after)
    };
    batch.events.iter().map(event).sum()
}
