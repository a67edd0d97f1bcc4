//! The versions that old snapshots may still read, and when they may go.
//!
//! Every applied version is an entry, in the order of applying. Timestamps are nearly ascending
//! (a transaction's may be below that of a write applied before it), so each entry carries the
//! largest timestamp so far. When no reader is below an entry's running maximum, the version that
//! it superseded is unreachable and is released; so is a deletion itself. Until then the key of a
//! deleted row leads to it from here, because the key index holds live rows only.
//!
//! Which rows changed above a snapshot (U) is kept by `crate::set`.

use std::collections::{BTreeMap, VecDeque};

use nodedb_types::{CommitTs, Surrogate};

use super::row_log::Location;

/// One applied version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The largest commit timestamp of this entry and all before it.
    pub running_max: CommitTs,
    pub surrogate: Surrogate,
    pub location: Location,
    /// Bytes that go when the entry does.
    history_bytes: u32,
}

#[derive(Default)]
pub struct History {
    entries: VecDeque<Entry>,
    running_max: CommitTs,
    /// Entries dropped so far reached up to here: older snapshots cannot be read.
    floor: CommitTs,
    graves: BTreeMap<Box<[u8]>, Vec<Surrogate>>,
    bytes: usize,
}

impl History {
    /// Snapshots below this find no history: it begins with a checkpoint.
    pub fn begin_at(&mut self, floor: CommitTs) {
        self.floor = floor;
    }

    /// Notes an applied version; `history_bytes`: what can be freed once its entry goes.
    pub fn push(
        &mut self,
        commit_ts: CommitTs,
        surrogate: Surrogate,
        location: Location,
        history_bytes: usize,
    ) {
        self.running_max = self.running_max.max(commit_ts);
        self.bytes += history_bytes;
        self.entries.push_back(Entry {
            running_max: self.running_max,
            surrogate,
            location,
            history_bytes: history_bytes as u32,
        });
    }

    /// Remembers the key of a row that was deleted, until its entry goes.
    pub fn bury(&mut self, key: &[u8], surrogate: Surrogate) {
        self.graves.entry(key.into()).or_default().push(surrogate);
    }

    /// Rows that had the key and were deleted, as far as somebody may still read them.
    pub fn buried(&self, key: &[u8]) -> &[Surrogate] {
        self.graves.get(key).map_or(&[], Vec::as_slice)
    }

    pub fn unbury(&mut self, key: &[u8], surrogate: Surrogate) {
        if let Some(rows) = self.graves.get_mut(key) {
            rows.retain(|&s| s != surrogate);
            if rows.is_empty() {
                self.graves.remove(key);
            }
        }
    }

    /// Snapshots below this cannot be read any more.
    pub fn floor(&self) -> CommitTs {
        self.floor
    }

    /// Bytes kept for old snapshots.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest entry's running maximum: what a forced trim would make the floor.
    pub fn oldest(&self) -> Option<CommitTs> {
        self.entries.front().map(|e| e.running_max)
    }

    /// Takes the oldest entry out, if no reader at or above `oldest` needs what it keeps.
    pub fn pop_below(&mut self, oldest: CommitTs) -> Option<Entry> {
        if self.entries.front()?.running_max > oldest {
            return None;
        }
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.history_bytes as usize;
        self.floor = self.floor.max(entry.running_max);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surrogate(n: u32) -> Surrogate {
        Surrogate::new(n).unwrap()
    }

    #[test]
    fn entries_go_in_order_and_raise_the_floor() {
        let mut history = History::default();
        for (ts, s) in [(10, 1), (30, 2), (20, 3)] {
            history.push(CommitTs(ts), surrogate(s), Location::NONE, 8);
        }
        assert_eq!(history.bytes(), 24);
        assert_eq!(history.pop_below(CommitTs(9)), None);
        assert_eq!(
            history.pop_below(CommitTs(20)).unwrap().surrogate,
            surrogate(1)
        );
        assert_eq!(history.pop_below(CommitTs(20)), None, "20 stands behind 30");
        assert_eq!(
            (history.floor(), history.oldest()),
            (CommitTs(10), Some(CommitTs(30)))
        );
        assert_eq!(history.bytes(), 16);
    }

    #[test]
    fn a_key_leads_to_its_deleted_rows() {
        let mut history = History::default();
        history.bury(b"k", surrogate(2));
        history.bury(b"k", surrogate(3));
        history.unbury(b"k", surrogate(2));
        assert_eq!(history.buried(b"k"), [surrogate(3)]);
        history.unbury(b"k", surrogate(3));
        assert!(history.buried(b"k").is_empty());
    }
}
