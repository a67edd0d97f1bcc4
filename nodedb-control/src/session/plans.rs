//! Prepared statements and the cache of them.
//!
//! A statement is cached by its text, the types that the client declared, and the session's user.
//! What is found was made for one version of the catalog and is made again when that has moved on.
//! The cache belongs to a worker and is bounded; the entry used longest ago goes first.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use nodedb_query::Bound;
use nodedb_query::catalog::{CatalogType, ResultColumn};
use nodedb_types::DataType;
use nodedb_types::limits::PLAN_CACHE_ENTRIES;

use crate::sql::parse::Parsed;

/// A statement that is ready to be given parameters.
pub struct Prepared {
    pub parsed: Rc<Parsed>,
    /// As the client declared them.
    pub hints: Vec<Option<DataType>>,
    pub kind: Kind,
    pub parameters: Vec<DataType>,
    /// `None` when it gives no rows.
    pub columns: Option<Arc<[ResultColumn]>>,
    /// The catalog it was bound to.
    pub catalog_version: u64,
}

pub enum Kind {
    /// A query or a write, bound.
    Bound(Arc<Bound>),
    /// `EXPLAIN` of one.
    Explain { bound: Arc<Bound>, analyze: bool },
    /// Everything else; it is told apart when it runs.
    Utility,
}

impl Prepared {
    /// Whether running it changes anything durable. At most one such statement may be in a
    /// message.
    pub fn writes(&self) -> bool {
        self.parsed.statement.writes()
    }

    /// What clients see a parameter as, if not as its own type.
    pub fn parameter_shown(&self, at: usize) -> Option<CatalogType> {
        match &self.kind {
            Kind::Bound(bound) | Kind::Explain { bound, .. } => {
                bound.parameters_shown().get(at).copied().flatten()
            }
            Kind::Utility => None,
        }
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    text: Arc<str>,
    hints: Vec<Option<DataType>>,
    user: Arc<str>,
}

/// A statement and the use, counted over the cache, that was its last.
type Entry = (Rc<Prepared>, Cell<u64>);

#[derive(Default)]
pub struct PlanCache {
    entries: RefCell<HashMap<Key, Entry>>,
    uses: Cell<u64>,
}

impl PlanCache {
    /// The statement as it was prepared for this version of the catalog.
    pub fn get(
        &self,
        text: &Arc<str>,
        hints: &[Option<DataType>],
        user: &Arc<str>,
        catalog_version: u64,
    ) -> Option<Rc<Prepared>> {
        let key = Key {
            text: text.clone(),
            hints: hints.to_vec(),
            user: user.clone(),
        };
        let entries = self.entries.borrow();
        let (prepared, used) = entries.get(&key)?;
        if prepared.catalog_version != catalog_version {
            return None;
        }
        used.set(self.tick());
        Some(prepared.clone())
    }

    pub fn put(&self, text: Arc<str>, user: Arc<str>, prepared: &Rc<Prepared>) {
        let mut entries = self.entries.borrow_mut();
        let key = Key {
            text,
            hints: prepared.hints.clone(),
            user,
        };
        if entries.len() >= PLAN_CACHE_ENTRIES && !entries.contains_key(&key) {
            let oldest = entries.values().map(|(_, used)| used.get()).min();
            entries.retain(|_, (_, used)| Some(used.get()) != oldest);
        }
        entries.insert(key, (prepared.clone(), Cell::new(self.tick())));
    }

    fn tick(&self) -> u64 {
        self.uses.set(self.uses.get() + 1);
        self.uses.get()
    }
}
