//! Schema changes: one at a time, each with one row as its commit point.
//!
//! Creating goes bottom up (every core has made its step durable, then the catalog's row, then the
//! snapshot); dropping goes top down. So a crash or a failed step leaves on the cores at most what
//! no row names, which is swept away: by a task of its own, else by the next start. A change
//! runs as a task of its own: a client that goes away does not leave half of one. A client that
//! asks for it stops a change that still waits for its turn or builds ([`Stop`]); what that leaves
//! on the cores is swept away as after a failure, and from the catalog's row on it is too late.

use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;

use nodedb_bridge::plan::SchemaStep;
use nodedb_bridge::reply::Frame;
use nodedb_bridge::request::Op;
use nodedb_types::schema::{IndexState, Stream};
use nodedb_types::{
    Collection, CollectionId, CommitTs, Failure, Index, IndexId, Result, SqlState, StreamId, Value,
};

use super::job::Job;
use super::stop::Stop;
use super::{Snapshot, boot, store, system};
use crate::dispatch::collect::{broken_off, unexpected};
use crate::node::Worker;

/// What a `CREATE … IF NOT EXISTS` or `DROP … IF EXISTS` did.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Nothing, for this reason; sent to the client as a notice.
    Skipped(Failure),
}

fn duplicate(code: SqlState, what: &str, name: &str) -> Failure {
    Failure::new(code, format!("{what} \"{name}\" already exists"))
}

/// Fails with `failure`, or skips with it as a notice.
fn exists(failure: Failure, if_not_exists: bool) -> Result<Outcome> {
    match if_not_exists {
        true => Ok(Outcome::Skipped(Failure::new(
            failure.code(),
            format!("{}, skipping", failure.message()),
        ))),
        false => Err(failure),
    }
}

fn missing(code: SqlState, what: &str, name: &str, if_exists: bool) -> Result<Outcome> {
    let message = format!("{what} \"{name}\" does not exist");
    match if_exists {
        true => Ok(Outcome::Skipped(Failure::new(
            code,
            format!("{message}, skipping"),
        ))),
        false => Err(Failure::new(code, message)),
    }
}

async fn everywhere(worker: &Worker, step: &SchemaStep) -> Result<()> {
    let statement = worker.system_statement(worker.node.clock.now());
    let readers = worker
        .dispatcher
        .broadcast(&statement, |_| Op::Schema(step.clone()))
        .await;
    worker.dispatcher.all_done(readers).await
}

fn publish(worker: &Worker, next: Snapshot) {
    worker.node.catalog.publish(next);
}

/// `collection` without its id, which is drawn here.
pub async fn create_collection(
    worker: &Rc<Worker>,
    mut collection: Collection,
    if_not_exists: bool,
    stop: &mut Stop,
) -> Result<Outcome> {
    let _lock = stop.unless(worker.node.changes.lock()).await?;
    let now = worker.node.catalog.load();
    if now.has_relation(&collection.name) {
        let failure = duplicate(SqlState::DuplicateTable, "relation", &collection.name);
        return exists(failure, if_not_exists);
    }
    let first = CollectionId::FIRST_USER.0;
    collection.id = CollectionId(boot::next_id(worker, "collection", first).await?);
    let collection = Arc::new(collection);
    let create = SchemaStep::CreateCollection(collection.clone());
    if let Err(failure) = everywhere(worker, &create).await {
        sweep(worker, SchemaStep::DropCollection(collection.id)).await;
        return Err(failure);
    }
    let row = system::collection_row(&collection)?;
    store::put(worker, system::COLLECTIONS, row).await?;
    publish(worker, now.with_collection(collection));
    Ok(Outcome::Done)
}

/// Pause before a sweep that found the disk full tries again, nanoseconds.
const SWEEP_AGAIN_NS: u64 = 1_000_000_000;

/// Takes from the cores what no row of the catalog names any more. The change itself is over
/// already, so nobody hears of a failure: a full disk is waited for, all else is left to the next
/// start.
pub(super) async fn sweep(worker: &Rc<Worker>, step: SchemaStep) {
    let full = |swept: Result<()>| swept.is_err_and(|f| f.code() == SqlState::DiskFull);
    if !full(everywhere(worker, &step).await) {
        return;
    }
    let worker = worker.clone();
    let runtime = worker.runtime.clone();
    runtime.spawn(Box::pin(async move {
        loop {
            let at = worker.runtime.now_ns() + SWEEP_AGAIN_NS;
            worker.runtime.sleep_until(at).await;
            if !full(everywhere(&worker, &step).await) {
                return;
            }
        }
    }));
}

/// Deletes a row that only belonged to the object that was dropped; the next start deletes it
/// where that fails.
async fn forget(worker: &Worker, system: CollectionId, id: u32) {
    let _ = store::delete(worker, system, &Value::Int8(i64::from(id))).await;
}

pub async fn drop_collection(
    worker: &Rc<Worker>,
    name: &str,
    if_exists: bool,
    cascade: bool,
    stop: &mut Stop,
) -> Result<Outcome> {
    let _lock = stop.unless(worker.node.changes.lock()).await?;
    let now = worker.node.catalog.load();
    let Some(collection) = now.collection(name).cloned() else {
        if now.index(name).is_some() {
            return Err(Failure::new(
                SqlState::WrongObjectType,
                format!("\"{name}\" is not a table"),
            )
            .with_hint("Use DROP INDEX to remove an index."));
        }
        return missing(SqlState::UndefinedTable, "table", name, if_exists);
    };
    if let Some(stream) = now.streams_of(collection.id).next()
        && !cascade
    {
        return Err(Failure::new(
            SqlState::DependentObjectsStillExist,
            format!("cannot drop table {name} because other objects depend on it"),
        )
        .with_detail(format!(
            "change stream {} depends on table {name}",
            stream.name
        ))
        .with_hint("Use DROP ... CASCADE to drop the dependent objects too."));
    }
    let id = Value::Int8(i64::from(collection.id.0));
    store::delete(worker, system::COLLECTIONS, &id).await?;
    publish(worker, now.without_collection(collection.id));
    for index in now.indexes_of(collection.id) {
        forget(worker, system::INDEXES, index.id.0).await;
    }
    for stream in now.streams_of(collection.id) {
        forget(worker, system::STREAMS, stream.id.0).await;
    }
    sweep(worker, SchemaStep::DropCollection(collection.id)).await;
    Ok(Outcome::Done)
}

/// `index` without its id, which is drawn here. Rows that are there already are added while writes
/// go on; the index is public when this returns.
pub async fn create_index(
    worker: &Rc<Worker>,
    mut index: Index,
    if_not_exists: bool,
    stop: &mut Stop,
) -> Result<Outcome> {
    let _lock = stop.unless(worker.node.changes.lock()).await?;
    let now = worker.node.catalog.load();
    if now.has_relation(&index.name) {
        let failure = duplicate(SqlState::DuplicateTable, "relation", &index.name);
        return exists(failure, if_not_exists);
    }
    if now.collection_by_id(index.collection).is_none() {
        return Err(Failure::new(
            SqlState::UndefinedTable,
            "the collection was dropped meanwhile",
        ));
    }
    index.state = IndexState::WriteOnly;
    // Seen from its first step on: drawing the id waits for what the catalog's core is busy with.
    let job = worker.node.jobs.start(
        "create index",
        index.name.clone(),
        worker.node.clock.now(),
        worker.node.facts.cores,
    );
    let built = draw_and_build(worker, index, &job, stop).await;
    job.finish(built.as_ref().map(|_| ()));
    publish(worker, now.with_index(Arc::new(built?)));
    Ok(Outcome::Done)
}

/// Gives the index an id and builds it; what a failed build leaves behind is swept away.
async fn draw_and_build(
    worker: &Rc<Worker>,
    mut index: Index,
    job: &Arc<Job>,
    stop: &mut Stop,
) -> Result<Index> {
    index.id = IndexId(boot::next_id(worker, "index", 1).await?);
    let id = index.id;
    let built = build(worker, index, job, stop).await;
    if built.is_err() {
        sweep(worker, SchemaStep::DropIndex(id)).await;
    }
    built
}

async fn build(
    worker: &Rc<Worker>,
    mut index: Index,
    job: &Arc<Job>,
    stop: &mut Stop,
) -> Result<Index> {
    everywhere(worker, &SchemaStep::AddIndex(Arc::new(index.clone()))).await?;
    // Every row committed up to here is added by the build, every later one by its write.
    let snapshot = worker.slot.acquire();
    let filled = backfill(worker, index.id, snapshot.snapshot(), job);
    stop.unless(filled).await??;
    drop(snapshot);
    // The cores write a large index into a checkpoint first. One that is stopped here may log this
    // step still, before or behind the one that drops the index: there it says nothing.
    let public = SchemaStep::PublishIndex(index.id);
    stop.unless(everywhere(worker, &public)).await??;
    index.state = IndexState::Public;
    store::put(worker, system::INDEXES, system::index_row(&index)?).await?;
    Ok(index)
}

async fn backfill(
    worker: &Rc<Worker>,
    index: IndexId,
    snapshot: CommitTs,
    job: &Arc<Job>,
) -> Result<()> {
    let statement = worker.system_statement(snapshot);
    let step = SchemaStep::BuildIndex { index, snapshot };
    let readers = worker
        .dispatcher
        .broadcast(&statement, |_| Op::Schema(step.clone()))
        .await;
    let builds = readers
        .into_iter()
        .enumerate()
        .map(|(core, mut reader)| async move {
            loop {
                match reader.next().await {
                    Some(Frame::Progress { done, total }) => job.report(core, done, total),
                    Some(Frame::End(_)) => return Ok(()),
                    Some(Frame::Failed(failure)) => return Err(failure),
                    Some(other) => return Err(unexpected(&other)),
                    None => return Err(broken_off()),
                }
            }
        });
    futures::future::join_all(builds)
        .await
        .into_iter()
        .collect()
}

pub async fn drop_index(
    worker: &Rc<Worker>,
    name: &str,
    if_exists: bool,
    stop: &mut Stop,
) -> Result<Outcome> {
    let _lock = stop.unless(worker.node.changes.lock()).await?;
    let now = worker.node.catalog.load();
    let Some(index) = now.index(name).cloned() else {
        if now.collection(name).is_some() {
            return Err(Failure::new(
                SqlState::WrongObjectType,
                format!("\"{name}\" is not an index"),
            )
            .with_hint("Use DROP TABLE to remove a table."));
        }
        return missing(SqlState::UndefinedObject, "index", name, if_exists);
    };
    let id = Value::Int8(i64::from(index.id.0));
    store::delete(worker, system::INDEXES, &id).await?;
    publish(worker, now.without_index(index.id));
    sweep(worker, SchemaStep::DropIndex(index.id)).await;
    Ok(Outcome::Done)
}

pub async fn create_stream(
    worker: &Rc<Worker>,
    name: String,
    collection: &str,
    retention_bytes: u64,
    if_not_exists: bool,
    stop: &mut Stop,
) -> Result<Outcome> {
    let _lock = stop.unless(worker.node.changes.lock()).await?;
    let now = worker.node.catalog.load();
    if now.stream(&name).is_some() {
        let failure = duplicate(SqlState::DuplicateObject, "change stream", &name);
        return exists(failure, if_not_exists);
    }
    let collection = now.require(collection)?.clone();
    let id = StreamId(boot::next_id(worker, "stream", 1).await?);
    let others = now.streams_of(collection.id).map(|s| s.retention_bytes);
    let retained = others.chain([retention_bytes]).max();
    everywhere(worker, &emit_step(collection.id, retained)).await?;
    // From here on every commit of every core is logged with what the stream shows of it.
    let stream = Stream {
        id,
        name,
        collection: collection.id,
        created: worker.node.clock.next(),
        retention_bytes,
    };
    if let Err(failure) = store::put(worker, system::STREAMS, system::stream_row(&stream)).await {
        let others = now.streams_of(collection.id).map(|s| s.retention_bytes);
        sweep(worker, emit_step(collection.id, others.max())).await;
        return Err(failure);
    }
    publish(worker, now.with_stream(Arc::new(stream)));
    Ok(Outcome::Done)
}

pub async fn drop_stream(
    worker: &Rc<Worker>,
    name: &str,
    if_exists: bool,
    stop: &mut Stop,
) -> Result<Outcome> {
    let _lock = stop.unless(worker.node.changes.lock()).await?;
    let now = worker.node.catalog.load();
    let Some(stream) = now.stream(name).cloned() else {
        return missing(SqlState::UndefinedObject, "change stream", name, if_exists);
    };
    let id = Value::Int8(i64::from(stream.id.0));
    store::delete(worker, system::STREAMS, &id).await?;
    let next = now.without_stream(name);
    let others = next.streams_of(stream.collection);
    let retention_bytes = others.map(|s| s.retention_bytes).max();
    publish(worker, next);
    sweep(worker, emit_step(stream.collection, retention_bytes)).await;
    Ok(Outcome::Done)
}

/// Tells the cores how much of the log the streams of a collection keep; `None`: it has none.
pub(super) fn emit_step(collection: CollectionId, retention_bytes: Option<u64>) -> SchemaStep {
    SchemaStep::SetEmit {
        collection,
        retention_bytes: retention_bytes.and_then(NonZeroU64::new),
    }
}
