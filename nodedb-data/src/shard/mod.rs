//! A shard: the unit of everything durable. Its tables share one row log and one sequence of LSNs.

pub mod apply;
pub mod claim;
pub mod effect;
pub mod fields;
pub mod image;
pub mod manifest;
mod rows;
pub mod schema_codec;
pub mod table;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use nodedb_types::{Collection, CollectionId, Lsn, ShardId};

use crate::store::residency::Residency;
use crate::store::row_log::RowLog;
use image::Store;
use table::Table;

/// One shard of a core.
pub struct Shard {
    pub id: ShardId,
    log: Rc<RefCell<RowLog>>,
    tables: RefCell<BTreeMap<CollectionId, Rc<Table>>>,
    /// The last LSN given to a record.
    last_lsn: Cell<Lsn>,
    /// The last LSN that is durable.
    durable_lsn: Cell<Lsn>,
    /// The last LSN that is applied.
    applied_lsn: Cell<Lsn>,
    /// Dropped tables whose rows may not be freed yet.
    dropping: RefCell<Vec<Weak<Table>>>,
    store: Store,
    residency: Rc<Residency>,
}

impl Shard {
    pub fn new(id: ShardId, residency: &Rc<Residency>) -> Shard {
        Shard {
            id,
            log: Rc::new(RefCell::new(RowLog::new(residency))),
            tables: RefCell::default(),
            last_lsn: Cell::default(),
            durable_lsn: Cell::default(),
            applied_lsn: Cell::default(),
            dropping: RefCell::default(),
            store: Store::default(),
            residency: residency.clone(),
        }
    }

    /// The LSN of the next record.
    pub fn take_lsn(&self) -> Lsn {
        let lsn = Lsn(self.last_lsn.get().0 + 1);
        self.last_lsn.set(lsn);
        lsn
    }

    /// The record that was to have the last LSN was not appended.
    pub fn return_lsn(&self) {
        self.last_lsn.set(Lsn(self.last_lsn.get().0 - 1));
    }

    /// A record is durable, or was read back from the log. False when it does not follow the one
    /// before it.
    pub fn advance(&self, lsn: Lsn) -> bool {
        let follows = lsn.0 == self.durable_lsn.get().0 + 1;
        self.durable_lsn.set(lsn);
        self.last_lsn.set(self.last_lsn.get().max(lsn));
        follows
    }

    /// The record took effect.
    pub fn note_applied(&self, lsn: Lsn) {
        debug_assert!(lsn > self.applied_lsn.get(), "records are applied in order");
        self.applied_lsn.set(lsn);
    }

    /// Records up to this one are in the checkpoint that was loaded.
    fn restore_lsn(&self, lsn: Lsn) {
        self.last_lsn.set(lsn);
        self.durable_lsn.set(lsn);
        self.applied_lsn.set(lsn);
    }

    /// What was appended and is not durable was abandoned; its LSNs are free again.
    pub fn rewind(&self) {
        self.last_lsn.set(self.durable_lsn.get());
    }

    pub fn table(&self, id: CollectionId) -> Option<Rc<Table>> {
        self.tables.borrow().get(&id).cloned()
    }

    pub fn tables(&self) -> Vec<Rc<Table>> {
        self.tables.borrow().values().cloned().collect()
    }

    /// Makes the collection's table, or brings its new schema version.
    pub fn create(&self, collection: &Arc<Collection>) -> Rc<Table> {
        let mut tables = self.tables.borrow_mut();
        let table = tables.entry(collection.id).or_insert_with(|| {
            let log = self.log.clone();
            let collection = collection.clone();
            Rc::new(Table::new(self.id, collection, log, &self.residency))
        });
        table.set_collection(collection.clone());
        table.clone()
    }

    /// Takes the collection's table out; readers that hold it go on.
    pub fn remove(&self, id: CollectionId) -> Option<Rc<Table>> {
        let table = self.tables.borrow_mut().remove(&id)?;
        table.set_dropped();
        self.add_dropping(&table);
        Some(table)
    }

    fn add_dropping(&self, table: &Rc<Table>) {
        self.dropping.borrow_mut().push(Rc::downgrade(table));
    }

    /// Bytes of row versions held.
    pub fn row_bytes(&self) -> usize {
        self.log.borrow().live_bytes()
    }
}
