//! Reads: what they wait for on arrival, reads by key, and set queries.

use std::rc::Rc;
use std::sync::Arc;

use nodedb_bridge::op::EngineRank;
use nodedb_bridge::plan::{Get, GetRow, LeafReport, SetQuery};
use nodedb_bridge::reply::Frame;
use nodedb_bridge::request::Statement;
use nodedb_types::limits::EXPRESSION_ROWS_MAX;
use nodedb_types::{CollectionId, CommitTs, IndexId, Result, ShardId, Surrogate, row};

use super::output::{Output, OutputRow, filter};
use super::reply::Reply;
use super::state::State;
use crate::pace::ROW_READ;
use crate::set::{self, Context, Rows};
use crate::shard::table::Table;

/// Bytes of rows that a filter is evaluated over in one piece.
const FILTER_BYTES: usize = 64 << 10;
/// Units for finding a key.
const KEY_UNITS: u32 = 5;

/// A row read by key, on its way through the filter.
struct Held {
    shard: ShardId,
    surrogate: Surrogate,
    version: CommitTs,
    key: Box<[u8]>,
    row: Box<[u8]>,
}

impl State {
    /// Waits until nothing that the statement must see in these tables is still to be applied.
    async fn settle(
        &self,
        tables: &[Rc<Table>],
        statement: &Statement,
        reply: &Reply,
    ) -> Result<()> {
        loop {
            let changed = self.changed.wait();
            let delayed = |t: &Rc<Table>| t.claims.borrow().delay_all(statement.snapshot);
            if !tables.iter().any(delayed) {
                return Ok(());
            }
            self.wait_for(changed, statement, reply).await?;
        }
    }

    /// Answers `Op::Get`.
    pub async fn get(&self, statement: &Statement, get: &Get, reply: &Reply) -> Result<()> {
        self.check_pins(statement)?;
        let Some((first, _)) = get.keys.first() else {
            return Ok(());
        };
        let collection = self.table(*first, get.collection)?.collection();
        let mut output = Output::new(collection.clone(), get.output.clone())?;
        let mut held: Vec<Held> = Vec::new();
        let mut held_bytes = 0;
        for (n, (shard, key)) in get.keys.iter().enumerate() {
            let table = self.table(*shard, get.collection)?;
            self.settle_key(&table, key, statement, reply).await?;
            self.find(&table, key, statement, |row| match get.filter {
                None => output.push(row),
                Some(_) => {
                    held_bytes += row.row.len();
                    held.push(Held {
                        shard: row.shard,
                        surrogate: row.surrogate,
                        version: row.version,
                        key: row.key.into(),
                        row: row.row.into(),
                    });
                    Ok(())
                }
            })
            .await?;
            let last = n + 1 == get.keys.len();
            let many = held.len() >= EXPRESSION_ROWS_MAX || held_bytes >= FILTER_BYTES;
            if let Some(expression) = &get.filter
                && !held.is_empty()
                && (last || many)
            {
                let rows: Vec<&[u8]> = held.iter().map(|h| &h.row[..]).collect();
                let kept = filter(&collection, &**expression, &rows)?;
                self.spend(rows.len() as u32 * crate::pace::EXPRESSION_ROW)
                    .await;
                for (held, _) in held.iter().zip(kept).filter(|(_, kept)| *kept) {
                    output.push(&held.output())?;
                }
                held.clear();
                held_bytes = 0;
            }
            if last || output.is_full() {
                self.send_output(&mut output, reply).await?;
            }
        }
        Ok(())
    }

    /// Answers `Op::GetRow`.
    pub async fn get_row(&self, statement: &Statement, get: &GetRow, reply: &Reply) -> Result<()> {
        self.check_pins(statement)?;
        let table = self.table(get.shard, get.collection)?;
        self.settle_key(&table, &get.key, statement, reply).await?;
        let mut found = None;
        self.find(&table, &get.key, statement, |row| {
            found = Some(row::project(row.row, &get.columns)?);
            Ok(())
        })
        .await?;
        match found {
            Some(row) => reply.send(Frame::Row(row)).await,
            None => Ok(()),
        }
    }

    /// Waits until nothing that the statement must see at this key is still to be applied.
    async fn settle_key(
        &self,
        table: &Table,
        key: &[u8],
        statement: &Statement,
        reply: &Reply,
    ) -> Result<()> {
        loop {
            let changed = self.changed.wait();
            if !table.claims.borrow().delay_key(key, statement.snapshot) {
                return Ok(());
            }
            self.wait_for(changed, statement, reply).await?;
        }
    }

    async fn send_output(&self, output: &mut Output, reply: &Reply) -> Result<()> {
        match output.take()? {
            Some(batch) => reply.send(Frame::Batch(batch)).await,
            None => Ok(()),
        }
    }

    /// Shows `see` the row with this key that the statement's snapshot sees, if there is one.
    async fn find(
        &self,
        table: &Table,
        key: &[u8],
        statement: &Statement,
        mut see: impl FnMut(&OutputRow<'_>) -> Result<()>,
    ) -> Result<()> {
        let rows = table.paged(|t| t.surrogates_of(key)).await?;
        for surrogate in rows {
            let seen = table.visible(surrogate, statement.snapshot, |version| {
                see(&OutputRow {
                    shard: table.shard,
                    surrogate,
                    version: version.commit_ts,
                    key: version.key,
                    row: version.row,
                })
            });
            if let Some(seen) = seen.await? {
                seen?;
                break;
            }
        }
        self.spend(KEY_UNITS + ROW_READ).await;
        Ok(())
    }

    /// Answers `Op::Query`.
    pub async fn query(
        self: &Rc<State>,
        statement: &Arc<Statement>,
        query: &SetQuery,
        reply: &Reply,
    ) -> Result<Option<Box<LeafReport>>> {
        let tables = self
            .readable(statement, query.collection, query.shard, reply)
            .await?;
        let context = Context::new(statement.clone(), self.clone(), reply.sink());
        set::run(query, tables, &context).await
    }

    /// Answers `Op::RankStatistics`.
    pub async fn rank_statistics(
        self: &Rc<State>,
        statement: &Arc<Statement>,
        collection: CollectionId,
        index: IndexId,
        rank: &EngineRank,
        reply: &Reply,
    ) -> Result<()> {
        let tables = self.readable(statement, collection, None, reply).await?;
        let context = Context::new(statement.clone(), self.clone(), reply.sink());
        let statistics = set::statistics(index, rank, &tables, &context).await?;
        reply.send(Frame::Statistics(statistics)).await
    }

    /// The tables of a collection, once what the statement must see is applied.
    async fn readable(
        &self,
        statement: &Statement,
        collection: CollectionId,
        shard: Option<ShardId>,
        reply: &Reply,
    ) -> Result<Vec<Rc<dyn Rows>>> {
        self.check_pins(statement)?;
        let tables = self.tables(collection, shard)?;
        self.settle(&tables, statement, reply).await?;
        self.check_pins(statement)?;
        Ok(tables.into_iter().map(|t| t as Rc<dyn Rows>).collect())
    }
}

impl Held {
    fn output(&self) -> OutputRow<'_> {
        OutputRow {
            shard: self.shard,
            surrogate: self.surrogate,
            version: self.version,
            key: &self.key,
            row: &self.row,
        }
    }
}
