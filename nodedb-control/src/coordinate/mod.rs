//! Writes: in one turn of one core where that is possible, else by two phases over several.
//!
//! A write whose rows all lie on one core and fit one frame of its log is one [`Op::Write`]. Any
//! other write is staged by core in chunks, prepared everywhere, decided on the lowest shard's
//! core, acknowledged, and concluded everywhere ([`transaction`]). Both forms are atomic over the
//! statement. A participant that votes no because another statement was in the way makes the
//! whole statement run again at a new snapshot, with backoff, a bounded number of times.
//!
//! [`Op::Write`]: nodedb_bridge::request::Op::Write

mod transaction;

use std::sync::Arc;

use arrow::array::RecordBatch;
use nodedb_bridge::plan::{Get, RowAction, RowWrite, StagedRow, WriteBatch};
use nodedb_bridge::request::{Op, Statement};
use nodedb_query::plan::{Folded, Plan, Staged, WritePlan, WriteSource, existing_output, stage};
use nodedb_types::limits::{STATEMENT_RETRIES_MAX, WAL_FRAME_BYTES_MAX};
use nodedb_types::{Failure, Result, SqlState};

use crate::node::Counters;
use crate::session::{Caller, read};

/// Rows of one turn's write: they fit one frame of the log, with their before images beside them.
const ONE_TURN_BYTES_MAX: usize = WAL_FRAME_BYTES_MAX / 2 - 4096;

/// First pause before a statement is tried again, nanoseconds; it doubles with each try.
const BACKOFF_NS: u64 = 500_000;

/// How often a statement with ON CONFLICT is tried again when a key is there at its Prepare that was
/// not when it was looked for.
const CONFLICT_RETRIES_MAX: u32 = 4;

/// What a write did.
#[derive(Debug, Default)]
pub struct Done {
    pub affected: u64,
    /// The rows of `RETURNING`, projected.
    pub returning: Vec<RecordBatch>,
}

/// Runs a write until it is durable or has failed. `again` makes the plan anew for another try.
pub async fn write(
    caller: &Caller,
    first: WritePlan,
    again: impl Fn() -> Result<WritePlan>,
) -> Result<Done> {
    let takes_conflicts = first.takes_conflicts();
    // With ON CONFLICT a key is there already only if it came since it was looked for, or if the
    // statement itself changes another row's key to it.
    let came_between = |failure: &Failure, tries| {
        takes_conflicts
            && failure.code() == SqlState::UniqueViolation
            && tries < CONFLICT_RETRIES_MAX
    };
    let mut plan = first;
    let mut tries = 0;
    loop {
        caller.limits.check()?;
        let failure = match attempt(caller, plan).await {
            Err(failure) if failure.retry() && tries < STATEMENT_RETRIES_MAX => failure,
            Err(failure) if came_between(&failure, tries) => failure,
            other => return other,
        };
        // A changed schema is the session's to deal with: it binds the statement again.
        if caller.stale() {
            return Err(failure);
        }
        tries += 1;
        Counters::add(&caller.worker.node.counters.retries, 1);
        Box::pin(pause(caller, tries)).await?;
        plan = again()?;
    }
}

/// Waits longer with each try; the session's number sets colliding statements apart.
async fn pause(caller: &Caller, tries: u32) -> Result<()> {
    let spread = caller.session.0 % 7 + 1;
    let ns = (BACKOFF_NS << tries.min(8)) * (8 + spread) / 16;
    let at = caller.worker.runtime.now_ns() + ns;
    let sleep = caller.worker.runtime.sleep_until(at);
    caller.limits.guard(sleep).await
}

async fn attempt(caller: &Caller, plan: WritePlan) -> Result<Done> {
    match plan.source {
        WriteSource::Keyed(rows) => {
            keyed(
                caller,
                Target {
                    collection: plan.collection,
                    returning: plan.returning,
                },
                rows,
            )
            .await
        }
        WriteSource::Read { read, sink } => {
            let target = Target {
                collection: plan.collection,
                returning: plan.returning,
            };
            // On the heap like all that is longer than a write by key, which most writes are: their
            // future is moved, and should have no room for the others.
            Box::pin(from_read(caller, target, *read, &sink)).await
        }
    }
}

/// What is written.
struct Target {
    collection: Arc<nodedb_types::Collection>,
    returning: Option<Arc<nodedb_query::plan::Returning>>,
}

async fn from_read(
    caller: &Caller,
    target: Target,
    plan: Plan,
    sink: &nodedb_query::plan::Sink,
) -> Result<Done> {
    let batches = read::collect(caller.clone(), plan).await?;
    let mut writes = Vec::new();
    let mut staged = Staged::default();
    let mut returning = Vec::new();
    let mut bytes = 0;
    for batch in batches {
        match sink.fold(&batch)? {
            Folded::Writes(rows) => {
                bytes += rows.iter().map(write_bytes).sum::<usize>();
                writes.extend(rows);
            }
            Folded::Staged(part) => {
                bytes += part
                    .rows
                    .iter()
                    .map(transaction::staged_bytes)
                    .sum::<usize>();
                staged.rows.extend(part.rows);
                staged.affected += part.affected;
                returning.extend(part.returning);
            }
        }
        check_size(caller, bytes)?;
    }
    if !writes.is_empty() {
        let writes = sink.check_distinct(writes)?;
        return keyed(caller, target, writes).await;
    }
    commit(caller, &target, staged.rows).await?;
    Ok(Done {
        affected: staged.affected,
        returning,
    })
}

/// Writes by full key.
async fn keyed(caller: &Caller, target: Target, rows: Vec<RowWrite>) -> Result<Done> {
    if rows.is_empty() {
        return Ok(Done::default());
    }
    let bytes: usize = rows.iter().map(write_bytes).sum();
    check_size(caller, bytes)?;
    let dispatcher = &caller.worker.dispatcher;
    let core = dispatcher.core_of(rows[0].shard);
    let one_core = rows.iter().all(|r| dispatcher.core_of(r.shard) == core);
    if one_core && bytes <= ONE_TURN_BYTES_MAX {
        return one_turn(caller, target, rows).await;
    }
    Box::pin(over_cores(caller, target, rows)).await
}

/// Writes by full key that one turn of one core does not take.
async fn over_cores(caller: &Caller, target: Target, rows: Vec<RowWrite>) -> Result<Done> {
    let (statement, _guard) = caller.snapshot();
    let existing = existing(caller, &statement, &target, &rows).await?;
    let staged = stage(
        &target.collection,
        rows,
        &existing,
        target.returning.as_deref(),
    )?;
    commit(caller, &target, staged.rows).await?;
    Ok(Done {
        affected: staged.affected,
        returning: staged.returning.into_iter().collect(),
    })
}

async fn one_turn(caller: &Caller, target: Target, rows: Vec<RowWrite>) -> Result<Done> {
    let dispatcher = &caller.worker.dispatcher;
    let core = dispatcher.core_of(rows[0].shard);
    let statement = caller.write_statement();
    let op = Op::Write(WriteBatch {
        collection: target.collection.id,
        rows,
        returning: target.returning.as_ref().map(|r| r.output.clone()),
    });
    // Not given up once it is sent: what became of it must be known. The core ends it at its
    // deadline if it has not begun by then.
    let reader = dispatcher.send(core, &statement, op).await;
    let (batches, affected) = dispatcher.written(reader).await?;
    let returning = match &target.returning {
        None => Vec::new(),
        Some(returning) => batches
            .iter()
            .map(|batch| returning.projection.apply(batch))
            .collect::<Result<_>>()?,
    };
    Ok(Done {
        affected,
        returning,
    })
}

/// The rows that are there already under the keys of `writes`. Plain inserts need not know them:
/// that their keys are free is checked when they are prepared.
async fn existing(
    caller: &Caller,
    statement: &Arc<Statement>,
    target: &Target,
    writes: &[RowWrite],
) -> Result<Vec<RecordBatch>> {
    let keys: Vec<_> = writes
        .iter()
        .filter(|write| {
            !matches!(
                write.action,
                RowAction::Insert {
                    on_conflict: nodedb_bridge::plan::OnConflict::Fail,
                    ..
                }
            )
        })
        .map(|write| (write.shard, write.key.clone()))
        .collect();
    let get = Get {
        collection: target.collection.id,
        keys,
        filter: None,
        output: existing_output(&target.collection),
    };
    let fetch = read::fetch(caller, statement, get);
    caller.limits.guard(fetch).await?
}

/// Commits staged rows in a task of its own: a client that goes away stops it only before the
/// first Prepare.
async fn commit(caller: &Caller, target: &Target, rows: Vec<StagedRow>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let task = transaction::commit(caller.clone(), target.collection.id, rows);
    crate::runtime::spawn(&*caller.worker.runtime, task)
        .await
        .unwrap_or_else(|| {
            Err(Failure::new(
                SqlState::AdminShutdown,
                "terminating connection due to administrator command",
            ))
        })
}

pub(crate) fn write_bytes(write: &RowWrite) -> usize {
    let row = match &write.action {
        RowAction::Insert { row, .. } | RowAction::Put { row } => row.len(),
        RowAction::Rewrite(_) => 0,
    };
    write.key.len() + row + 64
}

fn check_size(caller: &Caller, bytes: usize) -> Result<()> {
    let max = caller.worker.node.facts.statement_bytes_max;
    if bytes <= max {
        return Ok(());
    }
    Err(Failure::new(
        SqlState::ProgramLimitExceeded,
        format!("the statement writes more than {max} bytes"),
    )
    .with_hint("split the statement; each part is atomic"))
}

impl Caller {
    /// A statement that writes by key: it reads the newest versions, so it holds no snapshot.
    pub(crate) fn write_statement(&self) -> Arc<Statement> {
        self.worker.statement(
            self.session,
            self.worker.node.clock.now(),
            self.limits.deadline_ns,
            self.pins.clone(),
        )
    }

    /// Whether one of the collections has another schema version by now.
    fn stale(&self) -> bool {
        let catalog = self.worker.node.catalog.load();
        self.pins.iter().any(|(id, version)| {
            !id.is_system() && catalog.collection_by_id(*id).map(|c| c.version) != Some(*version)
        })
    }
}
