//! Prepared statements and the cache of them.
//!
//! A statement is cached by its text, the types that the client declared, and the session's user.
//! What is found was made for one version of the catalog and is made again when that has moved on.
//! The cache belongs to a worker and is bounded in entries and in what they weigh, which no
//! statement is charged for; the entry used longest ago goes first.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use nodedb_query::Bound;
use nodedb_query::catalog::{CatalogType, ResultColumn};
use nodedb_types::DataType;
use nodedb_types::limits::{PLAN_CACHE_BYTES, PLAN_CACHE_ENTRIES, PLAN_CACHE_ENTRY_BYTES_MAX};

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

/// What the syntax tree of a text takes for each of its bytes, about: a number of three digits in a
/// list is a node of some two hundred.
const TREE_BYTES_PER_TEXT_BYTE: usize = 64;

impl Prepared {
    /// About how much memory it takes, bytes: its text, the tree of it, and what it was bound to.
    fn weight(&self) -> usize {
        let bound = match &self.kind {
            Kind::Bound(bound) | Kind::Explain { bound, .. } => bound.bytes(),
            Kind::Utility => 0,
        };
        let hints = self.hints.len() * size_of::<Option<DataType>>();
        self.parsed.text.len() * (TREE_BYTES_PER_TEXT_BYTE + 1) + hints + bound
    }

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

struct Entry {
    prepared: Rc<Prepared>,
    /// The use, counted over the cache, that was its last.
    used: Cell<u64>,
    /// With its key, bytes.
    weight: usize,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<Key, Entry>,
    /// The sum of their weights.
    weight: usize,
}

impl Entries {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.by_key.remove(key) {
            self.weight -= entry.weight;
        }
    }

    /// Drops what was used longest ago until one more of this weight has room.
    fn make_room(&mut self, weight: usize) {
        while self.by_key.len() >= PLAN_CACHE_ENTRIES || self.weight + weight > PLAN_CACHE_BYTES {
            let Some(oldest) = self.by_key.values().map(|e| e.used.get()).min() else {
                return;
            };
            let Entries { by_key, weight } = self;
            by_key.retain(|_, entry| {
                let stays = entry.used.get() != oldest;
                if !stays {
                    *weight -= entry.weight;
                }
                stays
            });
        }
    }
}

#[derive(Default)]
pub struct PlanCache {
    entries: RefCell<Entries>,
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
        let entry = entries.by_key.get(&key)?;
        if entry.prepared.catalog_version != catalog_version {
            return None;
        }
        entry.used.set(self.tick());
        Some(entry.prepared.clone())
    }

    /// Keeps a statement, unless it is too heavy for that.
    pub fn put(&self, text: Arc<str>, user: Arc<str>, prepared: &Rc<Prepared>) {
        let mut entries = self.entries.borrow_mut();
        let key = Key {
            text,
            hints: prepared.hints.clone(),
            user,
        };
        entries.remove(&key);
        let weight = key.text.len() + prepared.weight();
        if weight > PLAN_CACHE_ENTRY_BYTES_MAX {
            return;
        }
        entries.make_room(weight);
        let entry = Entry {
            prepared: prepared.clone(),
            used: Cell::new(self.tick()),
            weight,
        };
        entries.weight += weight;
        entries.by_key.insert(key, entry);
    }

    fn tick(&self) -> u64 {
        self.uses.set(self.uses.get() + 1);
        self.uses.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    fn put(cache: &PlanCache, text: &str) {
        let Ok(mut all) = parse::parse(text) else {
            panic!("{text} is not parsed");
        };
        let prepared = Prepared {
            parsed: Rc::new(all.remove(0)),
            hints: Vec::new(),
            kind: Kind::Utility,
            parameters: Vec::new(),
            columns: None,
            catalog_version: 1,
        };
        cache.put(text.into(), "u".into(), &Rc::new(prepared));
    }

    fn has(cache: &PlanCache, text: &str) -> bool {
        cache.get(&text.into(), &[], &"u".into(), 1).is_some()
    }

    fn numbered(at: usize, length: usize) -> String {
        format!("SELECT '{at:0>length$}'")
    }

    #[test]
    fn entries_are_bounded_in_number() {
        let cache = PlanCache::default();
        for at in 0..=PLAN_CACHE_ENTRIES {
            put(&cache, &numbered(at, 4));
            assert!(has(&cache, &numbered(0, 4)));
        }
        assert_eq!(cache.entries.borrow().by_key.len(), PLAN_CACHE_ENTRIES);
        assert!(!has(&cache, &numbered(1, 4)));
    }

    #[test]
    fn entries_are_bounded_in_weight() {
        let cache = PlanCache::default();
        let length = PLAN_CACHE_ENTRY_BYTES_MAX / (TREE_BYTES_PER_TEXT_BYTE + 2) / 2;
        for at in 0..100 {
            put(&cache, &numbered(at, length));
            put(&cache, &numbered(at, length));
            let entries = cache.entries.borrow();
            let sum: usize = entries.by_key.values().map(|e| e.weight).sum();
            assert_eq!(sum, entries.weight);
            assert!(sum <= PLAN_CACHE_BYTES);
        }
        let kept = cache.entries.borrow().by_key.len();
        assert!((25..40).contains(&kept), "{kept}");
        assert!(has(&cache, &numbered(99, length)) && !has(&cache, &numbered(0, length)));
    }

    #[test]
    fn what_is_too_heavy_is_not_kept_and_drives_out_nothing() {
        let cache = PlanCache::default();
        put(&cache, "SELECT 1");
        let zeros = "0".repeat(PLAN_CACHE_ENTRY_BYTES_MAX / TREE_BYTES_PER_TEXT_BYTE);
        let heavy = format!("SELECT '{zeros}'");
        put(&cache, &heavy);
        assert!(!has(&cache, &heavy) && has(&cache, "SELECT 1"));
    }
}
