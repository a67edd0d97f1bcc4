//! One collection on one shard: its rows with their history, key index, engines and claims.
//!
//! Owned by the core of the shard and shared by its tasks; nothing borrowed from it is held over
//! an await. Changes come only through [`super::apply`], in log order.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU64;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

use nodedb_types::schema::IndexState;
use nodedb_types::{
    Collection, CollectionId, CommitTs, Failure, Index, IndexId, Result, ShardId, SqlState,
    Surrogate,
};

use super::claim::{Claims, Found, Newest, Owner};
use crate::engine::{self, SharedIndex};
use crate::set::{Changes, RowSet};
use crate::store::extent::Extents;
use crate::store::history::History;
use crate::store::key_index::{KeyEntry, KeyIndex};
use crate::store::location::LocationTable;
use crate::store::page::PageStore;
use crate::store::residency::{Missing, Owner as Memory, Residency};
use crate::store::row_log::{Location, RowLog, Version};

/// An index of the table.
#[derive(Clone)]
pub struct TableIndex {
    pub definition: Arc<Index>,
    pub engine: SharedIndex,
    /// Rows up to this surrogate are in it; the build brings in those behind. 0 before the build
    /// begins, the largest id once it is complete.
    pub built: Rc<Cell<u32>>,
}

impl TableIndex {
    /// Whether changes of the row are the index's business already.
    pub fn covers(&self, surrogate: Surrogate) -> bool {
        surrogate.get() <= self.built.get()
    }
}

pub struct Table {
    pub shard: ShardId,
    pub id: CollectionId,
    pub(super) collection: RefCell<Arc<Collection>>,
    /// Changes are logged with before images and become events, which streams want to read back
    /// from the newest so many bytes of log.
    pub emit: Cell<Option<NonZeroU64>>,
    pub(super) log: Rc<RefCell<RowLog>>,
    pub(super) pages: RefCell<PageStore>,
    pub(super) keys: RefCell<KeyIndex>,
    pub(super) locations: RefCell<LocationTable>,
    pub(super) alive: RefCell<RowSet>,
    pub(super) changes: RefCell<Changes>,
    pub(super) history: RefCell<History>,
    pub extents: RefCell<Extents>,
    pub claims: RefCell<Claims>,
    pub(super) indexes: RefCell<Vec<TableIndex>>,
    pub(super) dropped: Cell<bool>,
    /// It stands in the core's list of tables with history.
    pub is_aged: Cell<bool>,
    /// It stands in the core's list of tables whose engines may merge.
    pub is_unmerged: Cell<bool>,
    /// Test: updates of rows are left out of the indexes.
    pub loses_updates: Cell<bool>,
}

impl Table {
    /// An empty table.
    pub fn new(
        shard: ShardId,
        collection: Arc<Collection>,
        log: Rc<RefCell<RowLog>>,
        residency: &Rc<Residency>,
    ) -> Table {
        let mut pages = PageStore::new(residency, Memory::Keys);
        let keys = KeyIndex::new(&mut pages);
        Table {
            shard,
            id: collection.id,
            collection: RefCell::new(collection),
            emit: Cell::new(None),
            log,
            pages: RefCell::new(pages),
            keys: RefCell::new(keys),
            locations: RefCell::new(LocationTable::new(residency)),
            alive: RefCell::default(),
            changes: RefCell::default(),
            history: RefCell::default(),
            extents: RefCell::default(),
            claims: RefCell::default(),
            indexes: RefCell::default(),
            dropped: Cell::new(false),
            is_aged: Cell::new(false),
            is_unmerged: Cell::new(false),
            loses_updates: Cell::new(false),
        }
    }

    pub fn collection(&self) -> Arc<Collection> {
        self.collection.borrow().clone()
    }

    /// A new schema version.
    pub fn set_collection(&self, collection: Arc<Collection>) {
        *self.collection.borrow_mut() = collection;
    }

    /// Rows of the latest applied state.
    pub fn rows(&self) -> u64 {
        self.alive.borrow().len()
    }

    /// Runs a step that needs pages or versions, bringing in what is missing: as often as it takes
    /// to find everything in memory in one go.
    pub async fn paged<T>(&self, mut step: impl FnMut(&Table) -> Result<T, Missing>) -> Result<T> {
        loop {
            match step(self) {
                Ok(value) => return Ok(value),
                Err(missing) => missing.fetch().await?,
            }
        }
    }

    /// The newest applied version of the row with this key, if it is alive.
    pub fn applied(&self, key: &[u8]) -> Result<Option<Newest>, Missing> {
        let Some(surrogate) = self.surrogate_of(key)? else {
            return Ok(None);
        };
        let log = self.log.borrow();
        let held = log.read(self.locations.borrow().get(surrogate))?;
        let version = held.version();
        Ok(Some(Newest {
            surrogate,
            version: version.commit_ts,
            birth: version.birth,
            row: version.row.into(),
        }))
    }

    /// The row as `writer` finds it: [`Found::Applied`] is resolved to the applied row.
    pub fn newest(&self, key: &[u8], writer: &Rc<Owner>) -> Result<Found, Missing> {
        match self.claims.borrow().find(key, writer) {
            Found::Applied => Ok(Found::Pending(self.applied(key)?)),
            found => Ok(found),
        }
    }

    /// The surrogate of the row alive that has the key.
    pub fn surrogate_of(&self, key: &[u8]) -> Result<Option<Surrogate>, Missing> {
        let found = self.keys.borrow().get(&self.pages.borrow(), key)?;
        Ok(found.and_then(Surrogate::new))
    }

    /// Surrogates that the key has or had, as far as a snapshot may still reach.
    pub fn surrogates_of(&self, key: &[u8]) -> Result<Vec<Surrogate>, Missing> {
        let mut all = self.history.borrow().buried(key).to_vec();
        all.extend(self.surrogate_of(key)?);
        Ok(all)
    }

    /// Up to `max` entries of the key index from `from` on, or downwards, appended to `entries`.
    pub fn scan(
        &self,
        from: Bound<&[u8]>,
        ascending: bool,
        max: usize,
        entries: &mut Vec<KeyEntry>,
    ) -> Result<(), Missing> {
        let (keys, pages) = (self.keys.borrow(), self.pages.borrow());
        keys.scan(&pages, from, ascending, max, entries)
    }

    /// Shows `see` the version of the row that is visible at `snapshot` and gives its answer;
    /// `None` when there is no such version.
    pub async fn visible<T>(
        &self,
        surrogate: Surrogate,
        snapshot: CommitTs,
        mut see: impl FnMut(Version<'_>) -> T,
    ) -> Result<Option<T>> {
        let mut at = Location::NONE;
        loop {
            self.check_snapshot(snapshot)?;
            match self.visible_from(surrogate, snapshot, &mut at, &mut see) {
                Ok(seen) => return Ok(seen),
                Err(missing) => missing.fetch().await?,
            }
        }
    }

    /// One step of [`Table::visible`], at a snapshot that was just checked. `at`: the version to
    /// begin with, none for the newest; where to go on when something is missing, so that a long
    /// history need not be in memory as a whole. It stays good as long as the snapshot does: what
    /// stands below a version that the snapshot does not see is not released before. The newest
    /// one is looked up each time: when it deletes its row, and the snapshot sees that, it may go
    /// while it is on its way.
    pub fn visible_from<T>(
        &self,
        surrogate: Surrogate,
        snapshot: CommitTs,
        at: &mut Location,
        see: impl FnOnce(Version<'_>) -> T,
    ) -> Result<Option<T>, Missing> {
        let mut next = match at.is_none() {
            true => self.locations.borrow().get(surrogate),
            false => *at,
        };
        let log = self.log.borrow();
        while !next.is_none() {
            let held = log.read(next)?;
            let version = held.version();
            if version.commit_ts <= snapshot {
                *at = Location::NONE;
                return Ok((!version.deleted).then(|| see(version)));
            }
            next = version.older;
            *at = next;
        }
        Ok(None)
    }

    /// Fails with 72000 when the snapshot's history is gone.
    pub fn check_snapshot(&self, snapshot: CommitTs) -> Result<()> {
        if snapshot >= self.history.borrow().floor() {
            return Ok(());
        }
        Err(Failure::new(SqlState::SnapshotTooOld, "snapshot too old").with_hint(
            "The statement ran for so long that the rows it reads were changed too often since.",
        ))
    }

    /// Shows `see` the newest applied version of a row that is alive.
    pub fn latest<T>(
        &self,
        surrogate: Surrogate,
        see: impl FnOnce(Version<'_>) -> T,
    ) -> Result<Option<T>, Missing> {
        let location = self.locations.borrow().get(surrogate);
        if location.is_none() || location.is_deletion() {
            return Ok(None);
        }
        let log = self.log.borrow();
        let held = log.read(location)?;
        Ok(Some(see(held.version())))
    }

    /// Whether the latest applied state has the row.
    pub fn is_alive(&self, surrogate: Surrogate) -> bool {
        self.alive.borrow().contains(surrogate.get())
    }

    /// Up to `max` rows alive from `from` on, ascending.
    pub fn alive_from(&self, from: u32, max: usize) -> Vec<Surrogate> {
        let alive = self.alive.borrow();
        let mut rows = Vec::new();
        let mut next = match from.checked_sub(1) {
            Some(before) => alive.next_after(Some(before)),
            None => alive.next_after(None),
        };
        while let Some(id) = next
            && rows.len() < max
        {
            rows.extend(Surrogate::new(id));
            next = alive.next_after(Some(id));
        }
        rows
    }

    /// Indexes of the table, in the order in which they were added.
    pub fn indexes(&self) -> Vec<TableIndex> {
        self.indexes.borrow().clone()
    }

    pub fn find_index(&self, id: IndexId) -> Option<TableIndex> {
        self.indexes
            .borrow()
            .iter()
            .find(|i| i.definition.id == id)
            .cloned()
    }

    /// Adds an empty index. One that is there already stays as it is.
    pub fn add_index(&self, definition: Arc<Index>) -> Result<()> {
        if self.find_index(definition.id).is_some() {
            return Ok(());
        }
        let engine = engine::open(&definition, &self.collection())?;
        self.indexes.borrow_mut().push(TableIndex {
            definition,
            engine,
            built: Rc::new(Cell::new(0)),
        });
        Ok(())
    }

    /// Readers may use the index from here on.
    pub fn publish_index(&self, id: IndexId) {
        for index in self.indexes.borrow_mut().iter_mut() {
            if index.definition.id == id {
                let mut definition = Index::clone(&index.definition);
                definition.state = IndexState::Public;
                index.definition = Arc::new(definition);
            }
        }
    }

    /// Takes the index out; who holds it goes on.
    pub fn drop_index(&self, id: IndexId) -> Option<SharedIndex> {
        let mut indexes = self.indexes.borrow_mut();
        let at = indexes.iter().position(|i| i.definition.id == id)?;
        Some(indexes.remove(at).engine)
    }

    /// Takes an index of a dropped table out.
    pub fn take_index(&self) -> Option<SharedIndex> {
        self.indexes.borrow_mut().pop().map(|index| index.engine)
    }

    /// Nobody will write here again; readers that began before go on.
    pub fn set_dropped(&self) {
        self.dropped.set(true);
    }

    pub fn is_dropped(&self) -> bool {
        self.dropped.get()
    }

    /// Memory of the indexes, bytes.
    pub fn index_bytes(&self) -> usize {
        let indexes = self.indexes.borrow();
        indexes.iter().map(|i| i.engine.borrow().bytes()).sum()
    }

    /// Memory of sets of rows, bytes.
    pub fn set_bytes(&self) -> usize {
        self.alive.borrow().heap_bytes() + self.changes.borrow().heap_bytes()
    }
}
