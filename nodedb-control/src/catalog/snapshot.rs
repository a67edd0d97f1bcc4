//! One immutable state of the catalog, and the cell that holds the newest.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use nodedb_query::catalog::{Catalog, Setting, VirtualTable};
use nodedb_types::schema::Stream;
use nodedb_types::{Collection, CollectionId, Failure, Index, IndexId, SqlState};

/// The catalog as of one moment. Cheap to share; changed by making another.
#[derive(Clone, Default, Debug)]
pub struct Snapshot {
    /// One up with every change; the plan cache's key.
    version: u64,
    collections: BTreeMap<String, Arc<Collection>>,
    names: HashMap<CollectionId, String>,
    indexes: BTreeMap<String, Arc<Index>>,
    streams: BTreeMap<String, Arc<Stream>>,
}

impl Snapshot {
    pub fn new(collections: Vec<Collection>, indexes: Vec<Index>, streams: Vec<Stream>) -> Self {
        let mut snapshot = Snapshot::default();
        for collection in collections {
            snapshot = snapshot.with_collection(Arc::new(collection));
        }
        for index in indexes {
            snapshot = snapshot.with_index(Arc::new(index));
        }
        for stream in streams {
            snapshot = snapshot.with_stream(Arc::new(stream));
        }
        snapshot
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    fn next(&self) -> Snapshot {
        let mut next = self.clone();
        next.version += 1;
        next
    }

    #[must_use]
    pub fn with_collection(&self, collection: Arc<Collection>) -> Snapshot {
        let mut next = self.next();
        next.names.insert(collection.id, collection.name.clone());
        next.collections.insert(collection.name.clone(), collection);
        next
    }

    /// Without the collection, its indexes and its streams.
    #[must_use]
    pub fn without_collection(&self, id: CollectionId) -> Snapshot {
        let mut next = self.next();
        if let Some(name) = next.names.remove(&id) {
            next.collections.remove(&name);
        }
        next.indexes.retain(|_, index| index.collection != id);
        next.streams.retain(|_, stream| stream.collection != id);
        next
    }

    #[must_use]
    pub fn with_index(&self, index: Arc<Index>) -> Snapshot {
        let mut next = self.next();
        next.indexes.insert(index.name.clone(), index);
        next
    }

    #[must_use]
    pub fn without_index(&self, id: IndexId) -> Snapshot {
        let mut next = self.next();
        next.indexes.retain(|_, index| index.id != id);
        next
    }

    #[must_use]
    pub fn with_stream(&self, stream: Arc<Stream>) -> Snapshot {
        let mut next = self.next();
        next.streams.insert(stream.name.clone(), stream);
        next
    }

    #[must_use]
    pub fn without_stream(&self, name: &str) -> Snapshot {
        let mut next = self.next();
        next.streams.remove(name);
        next
    }

    pub fn collection(&self, name: &str) -> Option<&Arc<Collection>> {
        self.collections.get(name)
    }

    pub fn collection_by_id(&self, id: CollectionId) -> Option<&Arc<Collection>> {
        self.names.get(&id).and_then(|name| self.collection(name))
    }

    /// The collection, or 42P01 with the closest name as hint.
    pub fn require(&self, name: &str) -> nodedb_types::Result<&Arc<Collection>> {
        self.collection(name).ok_or_else(|| {
            let failure = Failure::new(
                SqlState::UndefinedTable,
                format!("relation \"{name}\" does not exist"),
            );
            let names = self.collections.keys().map(String::as_str);
            match nodedb_query::catalog::similar(name, names) {
                Some(similar) => failure.with_hint(format!("did you mean \"{similar}\"?")),
                None => failure,
            }
        })
    }

    pub fn index(&self, name: &str) -> Option<&Arc<Index>> {
        self.indexes.get(name)
    }

    pub fn indexes_of(&self, collection: CollectionId) -> impl Iterator<Item = &Arc<Index>> {
        self.indexes
            .values()
            .filter(move |index| index.collection == collection)
    }

    pub fn stream(&self, name: &str) -> Option<&Arc<Stream>> {
        self.streams.get(name)
    }

    pub fn streams_of(&self, collection: CollectionId) -> impl Iterator<Item = &Arc<Stream>> {
        self.streams
            .values()
            .filter(move |stream| stream.collection == collection)
    }

    pub fn all_collections(&self) -> impl Iterator<Item = &Arc<Collection>> {
        self.collections.values()
    }

    pub fn all_indexes(&self) -> impl Iterator<Item = &Arc<Index>> {
        self.indexes.values()
    }

    pub fn all_streams(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.streams.values()
    }

    /// Whether a relation (collection, index, or the index behind a primary key) has this name.
    pub fn has_relation(&self, name: &str) -> bool {
        self.collections.contains_key(name)
            || self.indexes.contains_key(name)
            || name
                .strip_suffix("_pkey")
                .is_some_and(|table| self.collection(table).is_some_and(|c| c.key.is_some()))
    }
}

/// The newest snapshot.
#[derive(Default, Debug)]
pub struct Published {
    newest: RwLock<Arc<Snapshot>>,
    version: AtomicU64,
}

impl Published {
    pub fn load(&self) -> Arc<Snapshot> {
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        newest.clone()
    }

    /// The newest snapshot's version, without taking it.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Called by whoever holds the lock of schema changes.
    pub fn publish(&self, snapshot: Snapshot) {
        let version = snapshot.version;
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        *newest = Arc::new(snapshot);
        self.version.store(version, Ordering::Release);
    }
}

/// A snapshot as one session sees it.
pub struct SessionCatalog {
    pub snapshot: Arc<Snapshot>,
    pub settings: Vec<Setting>,
}

impl Catalog for SessionCatalog {
    fn collection(&self, name: &str) -> Option<Arc<Collection>> {
        self.snapshot.collection(name).cloned()
    }

    fn indexes(&self, collection: CollectionId) -> Vec<Arc<Index>> {
        self.snapshot.indexes_of(collection).cloned().collect()
    }

    fn collections(&self) -> Vec<Arc<Collection>> {
        self.snapshot.all_collections().cloned().collect()
    }

    fn streams(&self) -> Vec<Arc<Stream>> {
        self.snapshot.all_streams().cloned().collect()
    }

    fn settings(&self) -> Vec<Setting> {
        self.settings.clone()
    }

    fn virtual_table(&self, _schema: &str, _name: &str) -> Option<Arc<dyn VirtualTable>> {
        // Jobs and streams are read by statements of their own.
        None
    }
}
