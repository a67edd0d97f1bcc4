//! The newest final events, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use nodedb_bridge::event::EventBatch;
use nodedb_bridge::port::EventPosition;
use nodedb_types::{CollectionId, CommitTs};

use super::{batch_bytes, position};

/// Every batch of the commits from [`Window::start`] up to the final mark of the bus.
pub struct Window {
    start: CommitTs,
    batches: VecDeque<Arc<EventBatch>>,
    bytes: usize,
    bytes_max: usize,
}

impl Window {
    pub fn new(start: CommitTs, bytes_max: usize) -> Window {
        Window {
            start,
            batches: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Commits before this are in the log only.
    pub fn start(&self) -> CommitTs {
        self.start
    }

    /// Adds the next batch in order and forgets whole commits, the oldest first, while there is
    /// too much.
    pub fn push(&mut self, batch: EventBatch) {
        debug_assert!(
            self.batches
                .back()
                .is_none_or(|last| position(last) < position(&batch))
        );
        self.bytes += batch_bytes(&batch);
        self.batches.push_back(Arc::new(batch));
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.batches.front().map(|b| b.commit_ts) else {
                return;
            };
            while self.batches.front().is_some_and(|b| b.commit_ts == oldest) {
                let gone = self.batches.pop_front().expect("it was looked at");
                self.bytes -= batch_bytes(&gone);
            }
            self.start = CommitTs(oldest.0 + 1);
        }
    }

    /// Forgets everything: what comes before `start` is in the log only.
    pub fn restart(&mut self, start: CommitTs) {
        self.batches.clear();
        self.bytes = 0;
        self.start = self.start.max(start);
    }

    /// Batches with changes of `collection` from `from` on and below `before`, about `bytes_max`
    /// bytes of them, and the position behind the last; `None` when there are no more. The position
    /// never lies between two parts: the log counts those in its own way, and may be asked to go on
    /// from there.
    pub fn read(
        &self,
        collection: CollectionId,
        from: EventPosition,
        before: CommitTs,
        bytes_max: usize,
    ) -> (Vec<Arc<EventBatch>>, Option<EventPosition>) {
        let first = self.batches.partition_point(|b| position(b) < from);
        let mut found = Vec::new();
        let mut bytes = 0;
        for batch in self.batches.range(first..) {
            if batch.commit_ts >= before {
                break;
            }
            if bytes >= bytes_max && batch.part == 0 {
                return (found, Some(position(batch)));
            }
            if batch.events.iter().any(|e| e.collection == collection) {
                bytes += batch_bytes(batch);
                found.push(batch.clone());
            }
        }
        (found, None)
    }
}

#[cfg(test)]
mod tests {
    use nodedb_bridge::event::WriteEvent;
    use nodedb_types::{Lsn, ShardId};

    use super::*;
    use crate::tests::node::{COLLECTION, insert};

    /// A commit that changed two collections in one shard is two parts of one place.
    #[test]
    fn a_read_goes_on_behind_all_parts_of_a_place() {
        let other = CollectionId(COLLECTION.0 + 1);
        let batch = |ts: u64, part: u32, collection| EventBatch {
            shard: ShardId(0),
            lsn: Lsn(ts),
            part,
            commit_ts: CommitTs(ts),
            events: vec![WriteEvent {
                collection,
                ..insert(CommitTs(ts), ts as i64)
            }],
        };
        let mut window = Window::new(CommitTs(1), 1 << 20);
        for ts in 1..=3 {
            window.push(batch(ts, 0, COLLECTION));
            window.push(batch(ts, 1, other));
        }
        for of in [COLLECTION, other] {
            let mut at = EventPosition::at(CommitTs(1));
            let mut seen = Vec::new();
            loop {
                let (found, next) = window.read(of, at, CommitTs(9), 1);
                seen.extend(found.iter().map(|b| b.commit_ts.0));
                match next {
                    Some(next) => at = next,
                    None => break,
                }
                assert!(seen.len() < 9, "it reads the same again");
            }
            assert_eq!(seen, [1, 2, 3]);
        }
    }
}
