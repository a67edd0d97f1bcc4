//! Statements of many rows, in pieces: giving new rows their ids, gathering effects by table,
//! encoding them, and giving the memory back. Each of these takes a millisecond for some thousand
//! rows, so none is done in one turn (P2); only the append itself is, which copies the payloads.

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use nodedb_bridge::request::Statement;
use nodedb_types::{Result, SchemaVersion, Surrogate};

use super::commit::Part;
use super::reply::Reply;
use super::state::State;
use crate::chunks::SplitMap;
use crate::shard::claim::Owner;
use crate::shard::effect::{self, RowEffect};
use crate::shard::table::Table;

/// Units for a row that is placed or claimed, and for one whose memory is given back.
const ROW_UNITS: u32 = 2;
/// Units for giving back one of the maps of a [`SplitMap`], were it full.
const MAP_UNITS: u32 = 100;
/// Bytes that cost a unit to encode.
const COPY_BYTES_PER_UNIT: usize = 1024;
/// Bytes encoded between two looks at the budget.
const ENCODED_AT_ONCE: usize = 8 << 10;
/// So few rows are given back at once.
const FEW: usize = 16;
/// Up to so many tables are looked through one by one.
const TABLES_IN_A_ROW: usize = 8;

/// A row that was checked and claimed.
pub trait CheckedRow {
    fn table(&self) -> &Rc<Table>;
    fn schema(&self) -> SchemaVersion;
    /// None while a new row has none.
    fn surrogate(&self) -> Option<Surrogate>;
    /// Gives a new row its id and renews the claim, which then says so.
    fn name(&mut self, surrogate: Surrogate, owner: &Rc<Owner>);
    fn effect(&self) -> RowEffect;
}

/// The tables of a statement in the order in which they came; one of each shard and collection.
#[derive(Default)]
struct Tables {
    list: Vec<(Rc<Table>, usize)>,
    places: HashMap<*const Table, usize>,
}

impl Tables {
    fn find(&self, table: &Rc<Table>) -> Option<usize> {
        let mut first = self.list.iter().take(TABLES_IN_A_ROW);
        let place = || self.places.get(&Rc::as_ptr(table)).copied();
        first
            .position(|(known, _)| Rc::ptr_eq(known, table))
            .or_else(place)
    }

    /// Counts a row of the table.
    fn count(&mut self, table: &Rc<Table>) {
        match self.find(table) {
            Some(at) => self.list[at].1 += 1,
            None => {
                if self.list.len() >= TABLES_IN_A_ROW {
                    self.places.insert(Rc::as_ptr(table), self.list.len());
                }
                self.list.push((table.clone(), 1));
            }
        }
    }
}

impl State {
    async fn tables_of<R: CheckedRow>(&self, rows: &[R], counts: impl Fn(&R) -> bool) -> Tables {
        let mut tables = Tables::default();
        for row in rows {
            if counts(row) {
                tables.count(row.table());
            }
            if rows.len() > FEW {
                self.spend(1).await;
            }
        }
        tables
    }

    /// Gives each new row its id, waiting for extents when there are none.
    pub async fn give_surrogates<R: CheckedRow>(
        &self,
        rows: &mut [R],
        owner: &Rc<Owner>,
        statement: &Statement,
        reply: &Reply,
    ) -> Result<()> {
        let tables = self.tables_of(rows, |r| r.surrogate().is_none()).await;
        self.await_surrogates(&tables.list, statement, reply)
            .await?;
        // In the turn in which there are enough.
        let ids = |(table, count): &(Rc<Table>, usize)| {
            let mut extents = table.extents.borrow_mut();
            let ids: Vec<Surrogate> = (0..*count).map_while(|_| extents.take()).collect();
            ids.into_iter()
        };
        let mut ids: Vec<_> = tables.list.iter().map(ids).collect();
        for (table, _) in &tables.list {
            self.ask_for_surrogates(table, 0);
        }
        let many = rows.len() > FEW;
        for row in rows.iter_mut().filter(|r| r.surrogate().is_none()) {
            let at = tables.find(row.table()).expect("it was counted");
            let id = ids[at].next().expect("there are as many as were counted");
            row.name(id, owner);
            if many {
                self.spend(ROW_UNITS).await;
            }
        }
        Ok(())
    }

    /// The effects of the rows, by table. Nobody else changes the rows, which are claimed.
    pub async fn parts_of<R: CheckedRow>(&self, rows: &[R]) -> Vec<Part> {
        let tables = self.tables_of(rows, |_| true).await;
        let mut parts: Vec<Option<Part>> = tables.list.iter().map(|_| None).collect();
        for row in rows {
            let at = tables.find(row.table()).expect("it was counted");
            let part = parts[at].get_or_insert_with(|| Part {
                table: row.table().clone(),
                schema: row.schema(),
                effects: Vec::with_capacity(tables.list[at].1),
            });
            part.effects.push(row.effect());
            if rows.len() > FEW {
                self.spend(ROW_UNITS).await;
            }
        }
        parts.into_iter().flatten().collect()
    }

    /// Appends the effects to a payload.
    pub async fn encode(&self, effects: &[RowEffect], payload: &mut Vec<u8>) {
        effect::encode_count(effects.len(), payload);
        let mut looked = payload.len();
        for effect in effects {
            effect::encode(effect, payload);
            let bytes = payload.len() - looked;
            if bytes >= ENCODED_AT_ONCE {
                looked = payload.len();
                self.spend((bytes / COPY_BYTES_PER_UNIT) as u32).await;
            }
        }
    }

    /// Gives back the memory of rows.
    pub async fn drop_rows<R>(&self, rows: Vec<R>) {
        if rows.len() <= FEW {
            return;
        }
        for row in rows {
            drop(row);
            self.spend(ROW_UNITS).await;
        }
    }

    /// Gives back the memory of a map.
    pub async fn drop_map<K: Hash + Eq, V>(&self, mut map: SplitMap<K, V>) {
        while map.drop_some() {
            self.spend(MAP_UNITS).await;
        }
    }

    /// Gives back the memory of effects.
    pub async fn drop_parts(&self, parts: Vec<Part>) {
        for part in parts {
            self.drop_rows(part.effects).await;
        }
    }
}
