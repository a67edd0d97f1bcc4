//! A shard that keeps every version in a map, and stores nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use nodedb_bridge::plan::Direction;
use nodedb_types::row::{self, RowView};
use nodedb_types::schema::{Engine as Storage, IndexState};
use nodedb_types::{
    Collection, CollectionId, Column, CommitTs, DataType, Index, IndexId, Result, SchemaVersion,
    ShardId, Surrogate, Value, key,
};

use super::flat;
use crate::engine::{self, SharedIndex};
use crate::pace::Turn;
use crate::set::{BlockSet, Changes, KeyCursor, Mark, RowSet, Rows, Version};
use crate::store::residency::Reading;

pub(super) const TYPES: [DataType; 4] = [
    DataType::Int8,
    DataType::Int4,
    DataType::Text(None),
    DataType::Vector(Some(2)),
];
pub(super) const BY_N: IndexId = IndexId(1);
pub(super) const BY_T: IndexId = IndexId(2);
pub(super) const NEAREST: IndexId = IndexId(3);
pub(super) const WORDS: IndexId = IndexId(4);

pub(super) fn collection() -> Collection {
    let columns = ["id", "n", "t", "v"].into_iter().zip(TYPES);
    Collection {
        id: CollectionId::FIRST_USER,
        name: "c".to_owned(),
        engine: Storage::DocumentStrict,
        version: SchemaVersion(1),
        columns: columns
            .map(|(name, data_type)| Column {
                name: name.to_owned(),
                data_type,
                not_null: false,
            })
            .collect(),
        key: Some(0),
    }
}

pub(super) fn index(id: IndexId, method: &str, column: usize) -> Index {
    Index {
        id,
        name: format!("c_{column}"),
        collection: CollectionId::FIRST_USER,
        method: method.to_owned(),
        columns: vec![column],
        operator_class: None,
        options: Vec::new(),
        state: IndexState::Public,
    }
}

/// Everything but the key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fields {
    pub(super) n: Option<i32>,
    pub(super) t: Option<&'static str>,
    pub(super) v: Option<[f32; 2]>,
}

impl Fields {
    pub(super) fn values(&self, id: i64) -> Vec<Value> {
        vec![
            Value::Int8(id),
            self.n.map_or(Value::Null, Value::Int4),
            self.t.map_or(Value::Null, |t| Value::Text(t.to_owned())),
            self.v.map_or(Value::Null, |v| Value::Vector(v.to_vec())),
        ]
    }
}

/// One row's life: its key, and its versions by ascending commit; `None` ends it.
pub(super) struct Life {
    pub(super) id: i64,
    pub(super) versions: Vec<(CommitTs, Option<Fields>)>,
}

impl Life {
    pub(super) fn at(&self, snapshot: CommitTs) -> Option<(CommitTs, &Fields)> {
        let seen = self.versions.iter().rev().find(|(ts, _)| *ts <= snapshot)?;
        Some((seen.0, seen.1.as_ref()?))
    }

    fn encoded(&self, fields: &Fields) -> Vec<u8> {
        row::encode(&fields.values(self.id), &TYPES).unwrap()
    }
}

#[derive(Default)]
struct State {
    lives: BTreeMap<u32, Life>,
    /// Key bytes of the rows alive.
    keys: BTreeMap<Vec<u8>, u32>,
    changes: Changes,
}

pub(super) struct Shard {
    id: ShardId,
    state: RefCell<State>,
    indexes: BTreeMap<IndexId, SharedIndex>,
    /// Every so many reads one pends first; 0 for never.
    pub(super) pend_every: Cell<u32>,
    reads: Cell<u32>,
    pub(super) rows_read: Cell<u64>,
}

pub(super) fn key_bytes(id: i64) -> Vec<u8> {
    key::of(&Value::Int8(id)).unwrap()
}

impl Shard {
    pub(super) fn new(id: u16) -> Rc<Shard> {
        let collection = collection();
        let ordered = [(BY_N, 1), (BY_T, 2)].map(|(id, column)| {
            let index = index(id, "btree", column);
            (id, engine::open(&index, &collection).unwrap())
        });
        let mut indexes: BTreeMap<_, _> = ordered.into_iter().collect();
        let mut words = index(WORDS, "fulltext", 2);
        words.options = vec![("analyzer".to_owned(), "simple".to_owned())];
        indexes.insert(WORDS, engine::open(&words, &collection).unwrap());
        indexes.insert(NEAREST, flat::open(&index(NEAREST, "flat", 3)));
        Rc::new(Shard {
            id: ShardId(id),
            state: RefCell::default(),
            indexes,
            pend_every: Cell::new(0),
            reads: Cell::new(0),
            rows_read: Cell::new(0),
        })
    }

    /// The row that holds a key now.
    pub(super) fn find(&self, id: i64) -> Option<u32> {
        self.state.borrow().keys.get(&key_bytes(id)).copied()
    }

    /// Applies a commit: U first, then the structures, as a shard does.
    pub(super) fn commit(&self, ts: CommitTs, surrogate: u32, id: i64, new: Option<Fields>) {
        let state = &mut *self.state.borrow_mut();
        let named = Surrogate::new(surrogate).unwrap();
        state.changes.record(ts, named);
        let life = state.lives.entry(surrogate).or_insert_with(|| Life {
            id,
            versions: Vec::new(),
        });
        assert_eq!(life.id, id);
        let latest = life.versions.last().and_then(|(_, fields)| fields.as_ref());
        let before = latest.map(|fields| life.encoded(fields));
        let after = new.as_ref().map(|fields| life.encoded(fields));
        match &after {
            Some(_) => state.keys.insert(key_bytes(id), surrogate),
            None => state.keys.remove(&key_bytes(id)),
        };
        life.versions.push((ts, new));
        let before = before.as_ref().map(|row| RowView::new(row).unwrap());
        let after = after.as_ref().map(|row| RowView::new(row).unwrap());
        for engine in self.indexes.values() {
            let mut engine = engine.borrow_mut();
            engine
                .apply(named, before.as_ref(), after.as_ref())
                .unwrap();
        }
    }

    pub(super) fn visible(&self, snapshot: CommitTs) -> Vec<(u32, i64, CommitTs, Fields)> {
        let state = self.state.borrow();
        let lives = state.lives.iter();
        lives
            .filter_map(|(surrogate, life)| {
                let (ts, fields) = life.at(snapshot)?;
                Some((*surrogate, life.id, ts, fields.clone()))
            })
            .collect()
    }

    fn alive_in(&self, block: u16) -> Vec<u16> {
        let state = self.state.borrow();
        let alive = state
            .keys
            .values()
            .filter(|row| (**row >> 16) as u16 == block);
        alive.map(|row| *row as u16).collect()
    }
}

impl Rows for Shard {
    fn shard(&self) -> ShardId {
        self.id
    }

    fn collection(&self) -> Arc<Collection> {
        Arc::new(collection())
    }

    fn index(&self, index: IndexId) -> Option<SharedIndex> {
        self.indexes.get(&index).cloned()
    }

    fn rows_alive(&self) -> u64 {
        self.state.borrow().keys.len() as u64
    }

    fn alive(&self, block: u16) -> BlockSet {
        self.alive_in(block).into_iter().collect()
    }

    fn next_alive_block(&self, from: u16) -> Option<u16> {
        let state = self.state.borrow();
        let blocks = state.keys.values().map(|row| (row >> 16) as u16);
        blocks.filter(|block| *block >= from).min()
    }

    fn changed_since(&self, snapshot: CommitTs, block: u16) -> BlockSet {
        self.state.borrow().changes.since(snapshot, block)
    }

    fn next_changed_block(&self, snapshot: CommitTs, from: u16) -> Option<u16> {
        self.state.borrow().changes.next_block(snapshot, from)
    }

    fn mark(&self) -> Mark {
        self.state.borrow().changes.mark()
    }

    fn changed_after(&self, mark: Mark) -> RowSet {
        self.state.borrow().changes.after(mark)
    }

    fn poll_read(
        &self,
        surrogate: Surrogate,
        snapshot: CommitTs,
        _reading: &mut Reading,
        turn: &Turn<'_>,
        see: &mut dyn FnMut(Version<'_>) -> Result<()>,
    ) -> Poll<Result<bool>> {
        self.reads.set(self.reads.get() + 1);
        if self.pend_every.get() > 0 && self.reads.get().is_multiple_of(self.pend_every.get()) {
            turn.waker.wake_by_ref();
            return Poll::Pending;
        }
        self.rows_read.set(self.rows_read.get() + 1);
        let state = self.state.borrow();
        let Some(life) = state.lives.get(&surrogate.get()) else {
            return Poll::Ready(Ok(false));
        };
        let Some((version, fields)) = life.at(snapshot) else {
            return Poll::Ready(Ok(false));
        };
        let shown = see(Version {
            row: &life.encoded(fields),
            key: &key_bytes(life.id),
            surrogate,
            version,
            birth: life.versions[0].0,
        });
        Poll::Ready(shown.map(|()| true))
    }

    fn poll_keys(
        &self,
        cursor: &mut KeyCursor,
        max: usize,
        entries: &mut Vec<(Box<[u8]>, Surrogate)>,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        let state = self.state.borrow();
        let beyond = |key: &Vec<u8>| match (&cursor.after, cursor.direction) {
            (None, _) => true,
            (Some(after), Direction::Ascending) => key[..] > after[..],
            (Some(after), Direction::Descending) => key[..] < after[..],
        };
        let keys = state.keys.iter().filter(|(key, _)| beyond(key));
        let mut keys: Vec<_> = keys.collect();
        if cursor.direction == Direction::Descending {
            keys.reverse();
        }
        for (key, surrogate) in keys.into_iter().take(max) {
            entries.push((key.as_slice().into(), Surrogate::new(*surrogate).unwrap()));
            cursor.after = Some(key.as_slice().into());
            if !turn.spend(1) {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
