//! How much of the logs change streams still need.
//!
//! The logs are the store of all streams: a segment that every shard has checkpointed stays for as
//! long as a stream may read it back. A stream keeps the newest bytes of log, counted over all
//! cores. All that a segment holds is older than the moment at which its core went on to the next,
//! so once that many bytes were logged since then, by whichever core, the segment is of no use.
//!
//! For the chain being written this is counted by [`Retention`], at a few bytes per segment. Chains
//! of earlier starts count the bytes of what came after them for certain: their own later segments,
//! all later starts, and what was logged since this one.
//!
//! How much streams keep is in the logs of their collection's shards (`SchemaStep::SetEmit`) and so
//! is known again after a restart; nothing else needs to be stored. Who reads back finds out from
//! the segments that are left what is complete (`emit::log`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::state::State;
use crate::wal::{Chain, Position};

/// What streams need of the chain that a core writes.
pub struct Retention {
    /// Bytes that all cores have logged since the start.
    logged: Arc<AtomicU64>,
    /// Bytes of this core in `logged`.
    counted: Cell<u64>,
    /// The segment that is being written.
    segment: Cell<u32>,
    /// Segments behind which the core has gone on, with `logged` at that moment.
    closed: RefCell<VecDeque<(u32, u64)>>,
}

impl Retention {
    pub fn new(logged: Arc<AtomicU64>) -> Retention {
        Retention {
            logged,
            counted: Cell::new(0),
            segment: Cell::new(0),
            closed: RefCell::default(),
        }
    }

    /// Notes how far the chain is: its durable end and the bytes logged in it so far.
    pub fn note(&self, end: Position, bytes: u64) {
        let more = bytes - self.counted.replace(bytes);
        let logged = match more {
            0 => return,
            _ => self.logged.fetch_add(more, Ordering::Relaxed) + more,
        };
        for segment in self.segment.get()..end.segment() {
            self.closed.borrow_mut().push_back((segment, logged));
        }
        self.segment.set(end.segment());
    }

    /// The first segment that holds something of the newest `kept` bytes. What lies before it is
    /// forgotten: it is not asked for again, however much is kept later.
    fn first_needed(&self, kept: u64) -> u32 {
        let logged = self.logged.load(Ordering::Relaxed);
        let mut closed = self.closed.borrow_mut();
        while closed.front().is_some_and(|(_, at)| logged - at >= kept) {
            closed.pop_front();
        }
        closed.front().map_or(self.segment.get(), |(s, _)| *s)
    }
}

impl State {
    /// The most bytes of log that a stream over a collection of this core keeps; 0 without one.
    pub fn kept_for_streams(&self) -> u64 {
        let tables = self.shards.values().flat_map(|shard| shard.tables());
        let kept = tables.filter_map(|table| table.emit.get());
        kept.max().map_or(0, NonZeroU64::get)
    }

    /// Where the part of this core's present chain begins that change streams need: segments that
    /// end before it may be released as far as they are concerned. With several collections and
    /// cores each core keeps what streams of its own tables want; every collection has tables on
    /// every core.
    pub fn streams_need_from(&self) -> Position {
        let first = self.retention.first_needed(self.kept_for_streams());
        Position::new(first, 0)
    }

    /// The same for each of the chains of earlier starts that exist (those of all cores), whose
    /// ends are known.
    pub fn streams_need_of_older(&self, chains: &[Chain]) -> Vec<Position> {
        let kept = self.kept_for_streams();
        let logged = self.retention.logged.load(Ordering::Relaxed);
        let bytes_of = |chain: &Chain| -> u64 {
            let segments = chain.segments.iter();
            segments.map(|&s| self.used_bytes(chain, s)).sum()
        };
        let needed = |chain: &Chain| {
            let later = chains.iter().filter(|c| c.id.epoch > chain.id.epoch);
            let mut after = logged + later.map(bytes_of).sum::<u64>();
            for &segment in chain.segments.iter().rev() {
                if after >= kept {
                    return Position::new(segment + 1, 0);
                }
                after += self.used_bytes(chain, segment);
            }
            Position::START
        };
        chains.iter().map(needed).collect()
    }

    /// Bytes of a segment of an older chain that hold frames.
    fn used_bytes(&self, chain: &Chain, segment: u32) -> u64 {
        let end = chain.end.unwrap_or(Position::START);
        match segment.cmp(&end.segment()) {
            std::cmp::Ordering::Less => u64::from(self.wal().segment_bytes(segment)),
            std::cmp::Ordering::Equal => u64::from(end.offset()),
            std::cmp::Ordering::Greater => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_needed_until_enough_was_logged_after_it_by_any_core() {
        let logged = Arc::new(AtomicU64::new(0));
        let one = Retention::new(logged.clone());
        let other = Retention::new(logged);
        one.note(Position::new(0, 4096), 1000);
        assert_eq!(one.first_needed(0), 0, "it is being written");
        one.note(Position::new(1, 4096), 1500);
        assert_eq!(one.first_needed(600), 0);
        other.note(Position::new(0, 8192), 600);
        assert_eq!(one.first_needed(601), 0);
        assert_eq!(one.first_needed(600), 1);
        one.note(Position::new(3, 0), 2000);
        assert_eq!((one.first_needed(1), one.first_needed(0)), (1, 3));
        assert_eq!(other.first_needed(10), 0);
    }
}
