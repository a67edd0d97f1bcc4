//! The versions that old snapshots may still read, and when they may go.
//!
//! Every applied version is an entry, in the order of applying. Timestamps are nearly ascending
//! (a transaction's may be below that of a write applied before it), so each entry carries the
//! largest timestamp so far. When no reader is below an entry's running maximum, the version that
//! it superseded is unreachable and is released; so is a deletion itself. Until then the key of a
//! deleted row leads to it from here, because the key index holds live rows only.
//!
//! An entry holds all that its end needs, so that no row has to be read for it.
//!
//! Which rows changed above a snapshot (U) is kept by `crate::set`.

use std::collections::BTreeMap;
use std::sync::Arc;

use nodedb_types::{CommitTs, Surrogate};

use super::row_log::Location;
use crate::chunks::Chunks;

/// One applied version: what can be released once nobody reads what was before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The largest commit timestamp of this entry and all before it.
    pub running_max: CommitTs,
    pub surrogate: Surrogate,
    /// The version that it superseded, if there was one.
    pub older: Location,
    /// It deleted the row.
    pub grave: Option<Box<Grave>>,
}

/// The end of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grave {
    pub key: Arc<[u8]>,
    /// The version that says so.
    pub location: Location,
}

impl Entry {
    /// Bytes that go when the entry does.
    fn bytes(&self) -> usize {
        let grave = self.grave.as_ref();
        self.older.bytes() + grave.map_or(0, |g| g.location.bytes())
    }
}

#[derive(Default)]
pub struct History {
    entries: Chunks<Entry>,
    running_max: CommitTs,
    /// Entries dropped so far reached up to here: older snapshots cannot be read.
    floor: CommitTs,
    graves: BTreeMap<Arc<[u8]>, Vec<Surrogate>>,
    bytes: usize,
}

impl History {
    /// Snapshots below this find no history: it begins with a checkpoint.
    pub fn begin_at(&mut self, floor: CommitTs) {
        self.floor = floor;
    }

    /// Notes an applied version. The key of a row that it deleted leads to the row from here until
    /// the entry goes.
    pub fn push(
        &mut self,
        commit_ts: CommitTs,
        surrogate: Surrogate,
        older: Location,
        grave: Option<Grave>,
    ) {
        self.running_max = self.running_max.max(commit_ts);
        if let Some(grave) = &grave {
            let rows = self.graves.entry(grave.key.clone()).or_default();
            rows.push(surrogate);
        }
        let entry = Entry {
            running_max: self.running_max,
            surrogate,
            older,
            grave: grave.map(Box::new),
        };
        self.bytes += entry.bytes();
        self.entries.push(entry);
    }

    /// Rows that had the key and were deleted, as far as somebody may still read them.
    pub fn buried(&self, key: &[u8]) -> &[Surrogate] {
        self.graves.get(key).map_or(&[], Vec::as_slice)
    }

    fn unbury(&mut self, key: &[u8], surrogate: Surrogate) {
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
        self.bytes -= entry.bytes();
        self.floor = self.floor.max(entry.running_max);
        if let Some(grave) = &entry.grave {
            self.unbury(&grave.key, entry.surrogate);
        }
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
            history.push(
                CommitTs(ts),
                surrogate(s),
                Location::new(0, 0, 8, false),
                None,
            );
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
        for (ts, s) in [(5, 2), (6, 3)] {
            let grave = Grave {
                key: b"k"[..].into(),
                location: Location::new(0, 64, 56, true),
            };
            history.push(CommitTs(ts), surrogate(s), Location::NONE, Some(grave));
        }
        assert_eq!(history.buried(b"k"), [surrogate(2), surrogate(3)]);
        assert_eq!(history.bytes(), 112);
        history.pop_below(CommitTs(5)).unwrap();
        assert_eq!(history.buried(b"k"), [surrogate(3)]);
        history.pop_below(CommitTs(6)).unwrap();
        assert!(history.buried(b"k").is_empty() && history.bytes() == 0);
    }
}
