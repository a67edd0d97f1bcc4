//! Steps of schema changes on this core.
//!
//! A step is a record in the log of each shard and takes effect when that is durable, in log
//! order with the rows around it. An index is maintained from the step that adds it on, as far as
//! its build has come: the build walks the rows alive in ascending surrogates and every change of
//! a row behind it is the index's business, while a row still ahead will be found by the walk as it
//! then is. So no snapshot is needed and no change is missed or taken twice.

use std::rc::Rc;
use std::sync::Arc;

use nodedb_bridge::plan::{Extent, SchemaStep};
use nodedb_bridge::reply::Frame;
use nodedb_types::row::RowView;
use nodedb_types::schema::IndexState;
use nodedb_types::{CollectionId, Failure, Index, IndexId, Result, ShardId, SqlState, Surrogate};

use super::commit::{Draft, RECORDS_BYTES_MAX, What};
use super::executor::first_of;
use super::reply::{Reply, cancelled};
use super::state::{State, stale_schema};
use crate::engine;
use crate::shard::schema_codec::{SchemaRecord, encode_lease, encode_step};
use crate::shard::table::{Table, TableIndex};
use crate::wal::RecordKind;

/// Rows of a piece of a build.
const BUILD_ROWS: usize = 64;
/// Bytes of a row that cost a unit to index.
const INDEX_BYTES_PER_UNIT: usize = 8;
/// Rows on a core from which on an index is in a checkpoint before it is public.
const PUBLISH_ROWS: u64 = 1_000;
/// Rows between two words about the progress.
const PROGRESS_ROWS: u64 = 1024;

impl State {
    /// Answers `Op::Schema`.
    pub async fn schema(&self, step: SchemaStep, reply: &Reply) -> Result<()> {
        let record = match step {
            SchemaStep::CreateCollection(collection) => SchemaRecord::Collection(collection),
            SchemaStep::DropCollection(id) => SchemaRecord::DropCollection(id),
            SchemaStep::AddIndex(index) => {
                self.check_index(&index)?;
                SchemaRecord::AddIndex(index)
            }
            SchemaStep::BuildIndex { index, .. } => return self.build(index, reply).await,
            SchemaStep::PublishIndex(id) => {
                let complete = |(_, i): &(Rc<Table>, TableIndex)| i.built.get() == u32::MAX;
                let parts = self.index_parts(id)?;
                if !parts.iter().all(complete) {
                    return Err(Failure::new(
                        SqlState::ObjectNotInPrerequisiteState,
                        "the index has not been built",
                    ));
                }
                // A start loads it from the checkpoint, and builds it only when that takes no time.
                let rows: u64 = parts.iter().map(|(t, _)| t.rows()).sum();
                if rows >= PUBLISH_ROWS {
                    self.await_checkpoint(reply).await?;
                }
                SchemaRecord::PublishIndex(id)
            }
            SchemaStep::DropIndex(id) => SchemaRecord::DropIndex(id),
            SchemaStep::SetEmit {
                collection,
                retention_bytes,
            } => {
                let record = SchemaRecord::SetEmit(collection, retention_bytes);
                self.log_schema(record).await?;
                return self.await_open_work(reply).await;
            }
        };
        self.log_schema(record).await
    }

    /// Waits until what is logged or prepared now has been applied or given up: it may have been
    /// drafted without before images.
    async fn await_open_work(&self, reply: &Reply) -> Result<()> {
        let open = self.active.borrow().clone();
        let is_open = || {
            let active = self.active.borrow();
            open.iter().any(|o| active.iter().any(|a| Rc::ptr_eq(o, a)))
        };
        while is_open() {
            if !first_of(self.changed.wait(), reply.cancelled()).await {
                return Err(cancelled());
            }
        }
        Ok(())
    }

    /// Fails for an index whose engine or collection there is not.
    fn check_index(&self, index: &Index) -> Result<()> {
        let collection = self.catalog.borrow().get(&index.collection).cloned();
        let collection = collection.ok_or_else(|| stale_schema(index.collection))?;
        engine::open(index, &collection).map(drop)
    }

    /// Logs a step for every shard and applies it. A step too large for one frame goes in several;
    /// then a crash may leave it on some of the shards, and control makes it whole or undoes it.
    pub async fn log_schema(&self, record: SchemaRecord) -> Result<()> {
        let mut payload = Vec::new();
        encode_step(&record, &mut payload);
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        let draft = |&shard: &ShardId| Draft::new(RecordKind::Schema, shard, payload.clone());
        let bytes = shards.first().map_or(1, |s| draft(s).bytes());
        for chunk in shards.chunks((RECORDS_BYTES_MAX / bytes).max(1)) {
            let drafts: Vec<Draft> = chunk.iter().map(draft).collect();
            self.reserve(drafts.iter().map(Draft::bytes).sum()).await?;
            let ticket = self.append(&drafts, What::Schema(chunk.to_vec(), record.clone()))?;
            self.finished(&ticket).await?;
        }
        Ok(())
    }

    /// A step takes effect in some shards.
    pub fn apply_schema(&self, shards: &[ShardId], record: &SchemaRecord) -> Result<()> {
        let mut catalog = self.catalog.borrow_mut();
        match record {
            SchemaRecord::Collection(collection) => {
                catalog.insert(collection.id, collection.clone());
            }
            SchemaRecord::DropCollection(id) => {
                catalog.remove(id);
            }
            _ => {}
        }
        drop(catalog);
        for &shard in shards {
            self.apply_schema_to(shard, record)?;
        }
        Ok(())
    }

    fn apply_schema_to(&self, shard: ShardId, record: &SchemaRecord) -> Result<()> {
        let shard = self.shard(shard)?;
        let each_index = |id: IndexId, change: &dyn Fn(&Table, IndexId)| {
            shard.tables().iter().for_each(|t| change(t, id));
        };
        match record {
            SchemaRecord::Collection(collection) => {
                shard.create(collection);
            }
            SchemaRecord::DropCollection(id) => {
                if let Some(table) = shard.remove(*id) {
                    self.upkeep.dropped(table);
                }
            }
            SchemaRecord::AddIndex(index) => {
                if let Some(table) = shard.table(index.collection) {
                    table.add_index(index.clone())?;
                }
            }
            SchemaRecord::PublishIndex(id) => each_index(*id, &|t, id| t.publish_index(id)),
            SchemaRecord::DropIndex(id) => each_index(*id, &|t, id| {
                if let Some(engine) = t.drop_index(id) {
                    self.upkeep.index_dropped(engine);
                }
            }),
            SchemaRecord::SetEmit(id, retention_bytes) => {
                if let Some(table) = shard.table(*id) {
                    table.emit.set(*retention_bytes);
                }
            }
        }
        Ok(())
    }

    /// The index on every shard of this core.
    pub fn index_parts(&self, id: IndexId) -> Result<Vec<(Rc<Table>, TableIndex)>> {
        let tables = self.shards.values().flat_map(|s| s.tables());
        let parts: Vec<_> = tables
            .filter_map(|t| Some((t.clone(), t.find_index(id)?)))
            .collect();
        if parts.is_empty() {
            return Err(Failure::new(
                SqlState::UndefinedObject,
                format!("index {id} does not exist"),
            ));
        }
        Ok(parts)
    }

    async fn build(&self, id: IndexId, reply: &Reply) -> Result<()> {
        let parts = self.index_parts(id)?;
        let total: u64 = parts.iter().map(|(t, _)| t.rows()).sum();
        let mut done = 0;
        for (table, index) in &parts {
            while self.build_piece(table, index, &mut done).await? {
                if reply.is_cancelled() {
                    return Err(super::reply::cancelled());
                }
                if done % PROGRESS_ROWS < BUILD_ROWS as u64 {
                    reply
                        .send(Frame::Progress {
                            done,
                            total: total.max(done),
                        })
                        .await?;
                }
            }
        }
        reply.send(Frame::Progress { done, total: done }).await
    }

    /// Brings the next rows into the index; false when it is complete.
    pub async fn build_piece(
        &self,
        table: &Rc<Table>,
        index: &TableIndex,
        done: &mut u64,
    ) -> Result<bool> {
        for _ in 0..BUILD_ROWS {
            self.indexes_ready(table).await;
            // From here to `built` one turn: a row that is not found now, though its surrogate may
            // be lower than others that are there already, finds the index covering it.
            let Some(from) = index.built.get().checked_add(1) else {
                return Ok(false);
            };
            let Some(&surrogate) = table.alive_from(from, 1).first() else {
                index.built.set(u32::MAX);
                return Ok(false);
            };
            let row = match table.latest(surrogate, |version| version.row.to_vec()) {
                Ok(row) => row.expect("a row alive has a version"),
                Err(missing) => {
                    missing.fetch().await?;
                    continue;
                }
            };
            let units = build_row(index, surrogate, &row)?;
            index.built.set(surrogate.get());
            *done += 1;
            self.spend_large(units).await;
            if table.find_index(index.definition.id).is_none() {
                return Err(Failure::new(
                    SqlState::UndefinedObject,
                    "the index was dropped while it was being built",
                ));
            }
        }
        Ok(true)
    }

    /// Answers `Op::Lease`, on the core of shard 0.
    pub async fn lease(
        &self,
        collection: CollectionId,
        shard: ShardId,
        big: bool,
        reply: &Reply,
    ) -> Result<()> {
        self.shard(ShardId::CATALOG)?;
        self.latch.check()?;
        let (first, len) = self.leases.borrow().next(big)?;
        let extent = Extent {
            collection,
            shard,
            first,
            len,
        };
        // Taken at once, so that two leases under way differ; one that fails is never used.
        self.leases.borrow_mut().record(extent);
        let mut payload = Vec::new();
        encode_lease(extent, &mut payload);
        let draft = Draft {
            collection,
            ..Draft::new(RecordKind::Lease, ShardId::CATALOG, payload)
        };
        self.reserve(draft.bytes()).await?;
        let ticket = self.append(&[draft], What::Lease(extent))?;
        self.finished(&ticket).await?;
        reply.send(Frame::Leased(extent)).await
    }

    /// Answers `Op::Deny`.
    pub fn deny(&self, collection: CollectionId, shard: ShardId, why: Failure) -> Result<()> {
        if let Some(table) = self.shard(shard)?.table(collection) {
            table.extents.borrow_mut().deny(why);
            self.granted.notify();
        }
        Ok(())
    }

    /// Answers `Op::Grant`. A table that was dropped meanwhile needs no ids.
    pub fn grant(&self, extent: Extent) -> Result<()> {
        let Some(table) = self.shard(extent.shard)?.table(extent.collection) else {
            return Ok(());
        };
        if !self.directory.borrow_mut().enter(extent) {
            return Err(Failure::internal("an extent was leased to two tables"));
        }
        table.extents.borrow_mut().grant(extent);
        self.granted.notify();
        Ok(())
    }

    /// Collections, indexes, and leases for `Op::Report`. An index is public when it is so on every
    /// shard here.
    pub fn known_indexes(&self) -> Vec<Arc<Index>> {
        let mut known: Vec<Arc<Index>> = Vec::new();
        for table in self.shards.values().flat_map(|s| s.tables()) {
            for index in table.indexes() {
                let same = known.iter_mut().find(|k| k.id == index.definition.id);
                match same {
                    None => known.push(index.definition),
                    Some(k) if index.definition.state == IndexState::WriteOnly => {
                        *k = index.definition;
                    }
                    Some(_) => {}
                }
            }
        }
        known
    }
}

/// Brings one row, as it is now, into an index. Gives the units that it took.
fn build_row(index: &TableIndex, surrogate: Surrogate, row: &[u8]) -> Result<u32> {
    let view = RowView::new(row)?;
    let mut engine = index.engine.borrow_mut();
    engine.check_row(&view)?;
    engine.apply(surrogate, None, Some(&view))?;
    Ok((row.len() / INDEX_BYTES_PER_UNIT) as u32 + 10)
}
