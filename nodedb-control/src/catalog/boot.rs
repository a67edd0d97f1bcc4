//! The catalog at start, before sessions are let in.
//!
//! The system collections are made on a core that does not know them yet (a first start that was
//! cut short leaves some of them). Then the catalog's rows say what exists; what cores hold beyond
//! that is left from a schema change without its commit point and is dropped. On a full disk that
//! waits until there is space; sessions are let in before, since nobody can name what is left.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::rc::Rc;

use nodedb_bridge::plan::SchemaStep;
use nodedb_bridge::request::{CoreReport, Op};
use nodedb_types::{CollectionId, CoreId, Failure, IndexId, Result, SqlState, Value};

use super::change::{emit_step, sweep};
use super::snapshot::Snapshot;
use super::{store, system};
use crate::node::Worker;

/// Reads the catalog, drops what has no row in it, and publishes it.
pub async fn boot(worker: &Rc<Worker>) -> Result<()> {
    let reports = reports(worker).await?;
    make_system_collections(worker, &reports).await?;
    let catalog = read(worker).await?;
    drop_orphans(worker, &reports, &catalog).await?;
    settle_streams(worker, &reports, &catalog).await?;
    worker.node.catalog.publish(catalog);
    Ok(())
}

async fn reports(worker: &Worker) -> Result<Vec<CoreReport>> {
    let statement = worker.system_statement(worker.node.clock.now());
    let readers = worker
        .dispatcher
        .broadcast(&statement, |_| Op::Report)
        .await;
    let reports = readers.into_iter().map(|r| worker.dispatcher.report(r));
    futures::future::join_all(reports)
        .await
        .into_iter()
        .collect()
}

async fn step(worker: &Worker, core: CoreId, step: SchemaStep) -> Result<()> {
    let statement = worker.system_statement(worker.node.clock.now());
    let reader = worker
        .dispatcher
        .send(core, &statement, Op::Schema(step))
        .await;
    worker.dispatcher.done(reader).await
}

async fn make_system_collections(worker: &Worker, reports: &[CoreReport]) -> Result<()> {
    for collection in system::all() {
        for core in worker.dispatcher.all_cores() {
            let known = &reports[core.0 as usize].collections;
            if !known.iter().any(|c| c.id == collection.id) {
                let create = SchemaStep::CreateCollection(collection.clone());
                step(worker, core, create).await?;
            }
        }
    }
    Ok(())
}

/// The catalog as its rows say. Rows of indexes and streams whose collection is gone are left
/// from a `DROP` that was cut short after its commit point; they are deleted.
async fn read(worker: &Worker) -> Result<Snapshot> {
    let collections = store::scan(worker, system::COLLECTIONS)
        .await?
        .iter()
        .map(|row| system::read_collection(row))
        .collect::<Result<Vec<_>>>()?;
    let exists = |id: CollectionId| collections.iter().any(|c| c.id == id);
    let mut indexes = Vec::new();
    for row in store::scan(worker, system::INDEXES).await? {
        let index = system::read_index(&row)?;
        match exists(index.collection) {
            true => indexes.push(index),
            false => forget(worker, system::INDEXES, &row[0]).await?,
        }
    }
    let mut streams = Vec::new();
    for row in store::scan(worker, system::STREAMS).await? {
        let stream = system::read_stream(&row)?;
        match exists(stream.collection) {
            true => streams.push(stream),
            false => forget(worker, system::STREAMS, &row[0]).await?,
        }
    }
    Ok(Snapshot::new(collections, indexes, streams))
}

/// Deletes a row that is left; a full disk leaves it to a later start.
async fn forget(worker: &Worker, collection: CollectionId, id: &Value) -> Result<()> {
    match store::delete(worker, collection, id).await {
        Err(failure) if failure.code() != SqlState::DiskFull => Err(failure),
        _ => Ok(()),
    }
}

/// A step that undoes what is left on a core; on a full disk it is taken when there is space.
async fn undo(worker: &Rc<Worker>, core: CoreId, undone: SchemaStep) -> Result<()> {
    match step(worker, core, undone.clone()).await {
        Err(failure) if failure.code() == SqlState::DiskFull => {
            sweep(worker, undone).await;
            Ok(())
        }
        done => done,
    }
}

async fn drop_orphans(
    worker: &Rc<Worker>,
    reports: &[CoreReport],
    catalog: &Snapshot,
) -> Result<()> {
    let indexes: BTreeSet<IndexId> = catalog.all_indexes().map(|i| i.id).collect();
    for (core, report) in reports.iter().enumerate() {
        let core = CoreId(core as u16);
        for index in &report.indexes {
            let orphan = !indexes.contains(&index.id);
            if orphan && catalog.collection_by_id(index.collection).is_some() {
                undo(worker, core, SchemaStep::DropIndex(index.id)).await?;
            }
        }
        for collection in &report.collections {
            let user = !collection.id.is_system();
            if user && catalog.collection_by_id(collection.id).is_none() {
                undo(worker, core, SchemaStep::DropCollection(collection.id)).await?;
            }
        }
        for collection in catalog.all_collections() {
            if !report.collections.iter().any(|c| c.id == collection.id) {
                return Err(Failure::new(
                    SqlState::DataCorrupted,
                    format!(
                        "core {core} does not know the collection \"{}\"",
                        collection.name
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Streams are told to the cores before they have their row, and their row goes before the cores
/// are told, so a start may find a core that emits for no stream, or for one that is gone.
async fn settle_streams(
    worker: &Rc<Worker>,
    reports: &[CoreReport],
    catalog: &Snapshot,
) -> Result<()> {
    for (core, report) in reports.iter().enumerate() {
        for collection in catalog.all_collections() {
            let streams = catalog.streams_of(collection.id);
            let wanted = streams.map(|s| s.retention_bytes).max();
            let mut emitting = report
                .emitting
                .iter()
                .filter(|(id, _)| *id == collection.id);
            let is_settled = emitting.all(|(_, bytes)| bytes.map(NonZeroU64::get) == wanted);
            if !is_settled {
                let settle = emit_step(collection.id, wanted);
                undo(worker, CoreId(core as u16), settle).await?;
            }
        }
    }
    Ok(())
}

/// The next id of a kind, durable before it is used, so that no id names two objects in turn.
/// The caller holds the lock of schema changes.
pub(super) async fn next_id(worker: &Worker, kind: &str, first: u32) -> Result<u32> {
    let rows = store::scan(worker, system::COUNTERS).await?;
    let mut last = first - 1;
    for row in &rows {
        let (name, value) = system::read_counter(row)?;
        if name == kind {
            last = value;
        }
    }
    let id = last.checked_add(1).ok_or_else(|| {
        Failure::new(
            SqlState::ProgramLimitExceeded,
            format!("no {kind} id is left"),
        )
    })?;
    let row = vec![Value::Text(kind.to_owned()), Value::Int8(i64::from(id))];
    store::put(worker, system::COUNTERS, row).await?;
    Ok(id)
}
