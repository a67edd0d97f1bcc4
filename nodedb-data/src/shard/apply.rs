//! Applying what is durable: the one way in which a table's rows change.
//!
//! Replay goes the same way as the running server. A row enters U (`Changes`) before the first of
//! its structures is touched, so a reader at an older snapshot never trusts an index about it; the
//! readers at newer snapshots wait until its whole commit is applied. Within a commit the core may
//! serve others between two rows.

use std::sync::Arc;

use nodedb_bridge::event::EventOp;
use nodedb_types::row::RowView;
use nodedb_types::{ActorId, CommitTs, Result, SchemaVersion, Surrogate};

use super::effect::RowEffect;
use super::fields::malformed;
use super::table::Table;
use crate::core::executor::Critical;
use crate::store::history::{Entry, Grave};
use crate::store::residency::Missing;
use crate::store::row_log::{Location, Version};

/// What the effects of one commit share.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    pub commit_ts: CommitTs,
    pub actor: ActorId,
    pub schema: SchemaVersion,
}

/// Units for writing a row and its key.
const ROW_UNITS: u32 = 10;
/// Bytes of a row that cost a unit to copy, and to bring into an index.
const COPY_BYTES_PER_UNIT: usize = 512;
const INDEX_BYTES_PER_UNIT: usize = 8;

/// Giving a page's memory back costs as much as releasing so many rows.
const ROWS_PER_PAGE: usize = 16;

/// What a piece of releasing has come to.
#[derive(Clone, Copy, Debug)]
pub struct Released {
    /// What it cost, in versions released.
    pub versions: usize,
    /// There may be more.
    pub more: bool,
}

impl Table {
    /// Applies one effect as a whole, or nothing of it as long as something that it needs is
    /// missing. Gives the units of work that it took.
    pub fn try_apply(&self, effect: &RowEffect, commit: Commit) -> Result<Result<u32>, Missing> {
        let _whole = Critical;
        let surrogate = effect.surrogate;
        let before = self.before(surrogate)?;
        self.change_key(effect)?;
        // From here on nothing is missing. Nobody looks before this turn of the task is over.
        self.changes
            .borrow_mut()
            .record(commit.commit_ts, surrogate);
        self.put_version(effect, commit);
        let indexed = self.maintain_indexes(surrogate, before.as_deref(), effect);
        let indexes = self.indexes.borrow().len();
        let bytes = effect.after.len() + before.map_or(0, |b| b.len());
        let units = ROW_UNITS
            + (bytes / COPY_BYTES_PER_UNIT + indexes * bytes / INDEX_BYTES_PER_UNIT) as u32;
        Ok(indexed.map(|()| units))
    }

    /// The row as it is, if indexes need it.
    fn before(&self, surrogate: Surrogate) -> Result<Option<Arc<[u8]>>, Missing> {
        if self.indexes.borrow().is_empty() {
            return Ok(None);
        }
        self.latest(surrogate, |version| version.row.into())
    }

    /// Brings an effect into the key index: as a whole, or not at all while pages are missing.
    fn change_key(&self, effect: &RowEffect) -> Result<(), Missing> {
        let id = effect.surrogate.get();
        let mut keys = self.keys.borrow_mut();
        let pages = &mut self.pages.borrow_mut();
        match effect.op {
            EventOp::Insert => {
                let replaced = keys.insert(pages, &effect.key, id)?;
                assert!(replaced.is_none(), "a key is given to one row at a time");
            }
            EventOp::Delete => {
                let removed = keys.remove(pages, &effect.key)?;
                assert_eq!(removed, Some(id), "a deleted row has its key");
            }
            EventOp::Update => {}
        }
        Ok(())
    }

    /// Whether an effect read from the log follows from the rows as they are: what
    /// [`Table::try_apply`] asserts of effects that this run has checked itself.
    pub async fn check_replayed(&self, effect: &RowEffect) -> Result<()> {
        let known = self.paged(|t| t.surrogate_of(&effect.key)).await?;
        let right = match effect.op {
            EventOp::Insert => {
                known.is_none() && self.locations.borrow().get(effect.surrogate).is_none()
            }
            EventOp::Update | EventOp::Delete => known == Some(effect.surrogate),
        };
        match right {
            true => Ok(()),
            false => Err(malformed(
                "a change of a row that does not follow from those before",
            )),
        }
    }

    /// Appends the version and makes it the newest.
    fn put_version(&self, effect: &RowEffect, commit: Commit) {
        let surrogate = effect.surrogate;
        let deleted = effect.op == EventOp::Delete;
        let mut locations = self.locations.borrow_mut();
        let older = locations.get(surrogate);
        assert_eq!(
            older.is_none(),
            effect.op == EventOp::Insert,
            "an insert begins a row"
        );
        let mut log = self.log.borrow_mut();
        if !older.is_none() {
            assert!(!older.is_deletion(), "a deleted row does not come back");
            log.supersede(older);
        }
        let version = Version {
            commit_ts: commit.commit_ts,
            birth: effect.birth.unwrap_or(commit.commit_ts),
            older,
            surrogate,
            collection: self.id,
            schema: commit.schema,
            actor: commit.actor,
            shard: self.shard,
            deleted,
            key: &effect.key,
            row: if deleted { &[] } else { &effect.after },
        };
        let location = log.append(&version);
        locations.set(surrogate, location);
        let mut alive = self.alive.borrow_mut();
        if deleted {
            alive.remove(surrogate.get());
        } else {
            alive.insert(surrogate.get());
        }
        let grave = deleted.then(|| Grave {
            key: effect.key.clone(),
            location,
        });
        let mut history = self.history.borrow_mut();
        history.push(commit.commit_ts, surrogate, older, grave);
        self.extents.borrow_mut().observe(surrogate);
    }

    fn maintain_indexes(
        &self,
        surrogate: Surrogate,
        before: Option<&[u8]>,
        effect: &RowEffect,
    ) -> Result<()> {
        let indexes = self.indexes.borrow();
        if indexes.is_empty() || self.loses_updates.get() && effect.op == EventOp::Update {
            return Ok(());
        }
        let before = before.map(RowView::new).transpose()?;
        let after = match effect.op {
            EventOp::Delete => None,
            EventOp::Insert | EventOp::Update => Some(RowView::new(&effect.after)?),
        };
        for index in indexes.iter().filter(|i| i.covers(surrogate)) {
            index
                .engine
                .borrow_mut()
                .apply(surrogate, before.as_ref(), after.as_ref())?;
        }
        Ok(())
    }

    /// Releases versions that no reader at or above `oldest` reaches, at most `max` of them.
    /// `forced` gives up history that somebody may still read: those readers then fail with 72000,
    /// and what changed above them stays known.
    pub fn trim(&self, oldest: CommitTs, forced: Option<CommitTs>, max: usize) -> Released {
        let mut changes = self.changes.borrow_mut();
        let remembered = changes.remembered();
        let more = changes.trim(oldest, max);
        let forgotten = remembered - changes.remembered();
        drop(changes);
        let bound = forced.map_or(oldest, |f| f.max(oldest));
        for released in 0..max {
            let Some(entry) = self.history.borrow_mut().pop_below(bound) else {
                return Released {
                    versions: forgotten.max(released),
                    more,
                };
            };
            self.forget(&entry);
        }
        Released {
            versions: max,
            more: true,
        }
    }

    /// Releases what an entry of the history superseded, and the row itself if that deleted it.
    fn forget(&self, entry: &Entry) {
        let mut log = self.log.borrow_mut();
        if !entry.older.is_none() {
            log.release(entry.older);
        }
        if let Some(grave) = &entry.grave {
            let mut locations = self.locations.borrow_mut();
            locations.set(entry.surrogate, Location::NONE);
            log.release(grave.location);
        }
    }

    /// Whether there is anything that a later trim could release.
    pub fn has_history(&self) -> bool {
        self.history.borrow().oldest().is_some()
    }

    /// Bytes kept for old snapshots, and the timestamp that giving up the oldest would make the
    /// lowest readable one.
    pub fn history(&self) -> (usize, Option<CommitTs>) {
        let history = self.history.borrow();
        (history.bytes(), history.oldest())
    }

    /// Releases the rows of a dropped table that nobody reads any more, then the pages of its
    /// keys, what costs as much as `max` rows at a time. The root of the keys stays: a checkpoint
    /// may still name it.
    pub fn free(&self, max: usize) -> Released {
        let trimmed = self.trim(CommitTs(u64::MAX), None, max);
        if trimmed.more {
            return trimmed;
        }
        let left = (max - trimmed.versions).max(1);
        let Some(taken) = self.locations.borrow_mut().take_some(left) else {
            let (root, _) = self.keys.borrow().parts();
            let pages = (left / ROWS_PER_PAGE).max(1);
            return Released {
                versions: trimmed.versions + pages * ROWS_PER_PAGE,
                more: self.pages.borrow_mut().release_some(root, pages),
            };
        };
        let mut log = self.log.borrow_mut();
        let versions = trimmed.versions + taken.len().max(1);
        for location in taken {
            log.supersede(location);
            log.release(location);
        }
        Released {
            versions,
            more: true,
        }
    }
}
