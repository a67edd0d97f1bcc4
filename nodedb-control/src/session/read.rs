//! Queries: rows by key, set queries over the cores, and the relational executor.

use std::sync::Arc;
use std::task::Poll;

use arrow::array::RecordBatch;
use futures::StreamExt;
use futures::stream::LocalBoxStream;
use nodedb_bridge::op::{EngineRank, text};
use nodedb_bridge::plan::{Get, GetRow, Order, Output, RankSpec, SetQuery};
use nodedb_bridge::reply::{Frame, ReplyReader};
use nodedb_bridge::request::{Op, Statement};
use nodedb_query::plan::{GetPlan, Plan, SetPlan};
use nodedb_types::{Failure, Result};

use super::Caller;
use crate::dispatch::collect::{Gathered, broken_off, unexpected};
use crate::dispatch::leaf;

pub type Rows = LocalBoxStream<'static, Result<RecordBatch>>;

/// Begins a query. Its first rows are there when this returns, so that a plan that turns out to be
/// stale can still be made again. The rows keep the snapshot they are read at.
pub async fn start(caller: Caller, plan: Plan) -> Result<Rows> {
    let limits = caller.limits.clone();
    limits.guard(begin(caller, plan)).await?
}

async fn begin(caller: Caller, plan: Plan) -> Result<Rows> {
    match plan {
        Plan::Get(get) => {
            let batches = get_rows(&caller, get).await?;
            Ok(futures::stream::iter(batches.into_iter().map(Ok)).boxed_local())
        }
        Plan::Set(set) => set_rows(caller, set).await,
        Plan::Relational(plan) => leaf::relational(caller, plan, None).await,
        Plan::Write(_) => Err(Failure::internal("a write was run as a query")),
    }
}

/// Everything a query gives, for those who need all of it before they go on.
pub async fn collect(caller: Caller, plan: Plan) -> Result<Vec<RecordBatch>> {
    let limits = caller.limits.clone();
    let mut rows = start(caller, plan).await?;
    let mut batches = Vec::new();
    while let Some(batch) = limits.guard(rows.next()).await? {
        batches.push(batch?);
    }
    Ok(batches)
}

/// One row by its key, as it is encoded.
pub async fn row(caller: &Caller, get: GetRow) -> Result<Option<Box<[u8]>>> {
    let (statement, _guard) = caller.snapshot();
    let dispatcher = &caller.worker.dispatcher;
    let core = dispatcher.core_of(get.shard);
    let reader = match dispatcher.try_send(core, &statement, Op::GetRow(get)) {
        Ok(reader) => reader,
        Err(op) => Box::pin(dispatcher.send(core, &statement, op)).await,
    };
    dispatcher.row(reader).await
}

async fn get_rows(caller: &Caller, plan: GetPlan) -> Result<Vec<RecordBatch>> {
    let (statement, _guard) = caller.snapshot();
    let batches = fetch(caller, &statement, plan.get).await?;
    batches.iter().map(|b| plan.projection.apply(b)).collect()
}

/// Rows by key from every core that owns some of them.
pub async fn fetch(
    caller: &Caller,
    statement: &Arc<Statement>,
    get: Get,
) -> Result<Vec<RecordBatch>> {
    let dispatcher = &caller.worker.dispatcher;
    let mut readers = ask_keys(caller, statement, get).await;
    if readers.len() == 1 {
        return dispatcher.batches(readers.remove(0)).await;
    }
    let parts = readers.into_iter().map(|r| dispatcher.batches(r));
    let parts: Result<Vec<_>> = futures::future::join_all(parts).await.into_iter().collect();
    Ok(parts?.into_iter().flatten().collect())
}

/// Asks each core for those of the keys that it owns.
pub async fn ask_keys(caller: &Caller, statement: &Arc<Statement>, get: Get) -> Vec<ReplyReader> {
    let dispatcher = &caller.worker.dispatcher;
    if get.keys.is_empty() {
        return Vec::new();
    }
    let first = dispatcher.core_of(get.keys[0].0);
    if get
        .keys
        .iter()
        .all(|(s, _)| dispatcher.core_of(*s) == first)
    {
        return vec![dispatcher.send(first, statement, Op::Get(get)).await];
    }
    let mut by_core = vec![Vec::new(); dispatcher.cores() as usize];
    for (shard, key) in get.keys {
        by_core[dispatcher.core_of(shard).0 as usize].push((shard, key));
    }
    let mut readers = Vec::new();
    for (core, keys) in dispatcher.all_cores().zip(by_core) {
        if keys.is_empty() {
            continue;
        }
        let part = Get {
            collection: get.collection,
            keys,
            filter: get.filter.clone(),
            output: get.output.clone(),
        };
        readers.push(dispatcher.send(core, statement, Op::Get(part)).await);
    }
    readers
}

/// The query with the statistics of all cores in its ranking, if that scores by text: scores do
/// not depend on where rows are placed.
pub async fn with_statistics(
    caller: &Caller,
    statement: &Arc<Statement>,
    query: Arc<SetQuery>,
) -> Result<Arc<SetQuery>> {
    let Order::Rank(RankSpec {
        index: Some(index),
        rank: EngineRank::Text(rank),
    }) = &query.order
    else {
        return Ok(query);
    };
    if rank.statistics.is_some() {
        return Ok(query);
    }
    let dispatcher = &caller.worker.dispatcher;
    let gathered = dispatcher
        .gather(statement, |_| Op::RankStatistics {
            collection: query.collection,
            index: *index,
            rank: EngineRank::Text(rank.clone()),
        })
        .await;
    let statistics = gathered.statistics().await?;
    let mut query = (*query).clone();
    if let Order::Rank(RankSpec {
        rank: EngineRank::Text(text::Rank {
            statistics: slot, ..
        }),
        ..
    }) = &mut query.order
    {
        *slot = Some(Arc::new(statistics));
    }
    Ok(Arc::new(query))
}

/// Sends a set query to every core that can hold rows of it.
pub async fn ask(
    caller: &Caller,
    statement: &Arc<Statement>,
    query: &Arc<SetQuery>,
) -> Vec<ReplyReader> {
    let dispatcher = &caller.worker.dispatcher;
    match query.shard {
        Some(shard) => {
            let core = dispatcher.core_of(shard);
            let op = Op::Query(query.clone());
            vec![dispatcher.send(core, statement, op).await]
        }
        None => {
            dispatcher
                .broadcast(statement, |_| Op::Query(query.clone()))
                .await
        }
    }
}

/// The same where the cores' answers are of use together only.
async fn ask_together(
    caller: &Caller,
    statement: &Arc<Statement>,
    query: &Arc<SetQuery>,
) -> Gathered {
    match query.shard {
        Some(_) => Gathered::new(ask(caller, statement, query).await),
        None => {
            caller.asked_all.set(true);
            let dispatcher = &caller.worker.dispatcher;
            dispatcher
                .gather(statement, |_| Op::Query(query.clone()))
                .await
        }
    }
}

async fn set_rows(caller: Caller, plan: SetPlan) -> Result<Rows> {
    let (statement, guard) = caller.snapshot();
    let query = with_statistics(&caller, &statement, plan.query).await?;
    if matches!(query.output, Output::Count) {
        let gathered = ask_together(&caller, &statement, &query).await;
        let count = gathered.count().await?;
        let batch = plan.projection.apply_count(count)?;
        let kept = window(batch, plan.offset, plan.limit);
        return Ok(futures::stream::iter(kept.map(Ok)).boxed_local());
    }
    let Some(merge) = plan.merge else {
        let mut source = Unordered {
            readers: ask(&caller, &statement, &query).await,
            failed: None,
            skip: plan.offset,
            left: plan.limit.unwrap_or(u64::MAX),
            next: 0,
        };
        // The first rows decide whether the plan still fits the schema.
        let first = source.next().await?;
        let projection = plan.projection;
        let state = (first, source, guard);
        let rows = futures::stream::try_unfold(state, move |(ready, mut source, guard)| {
            let projection = projection.clone();
            async move {
                let Some(batch) = ready else {
                    return Ok(None);
                };
                let shown = projection.apply(&batch)?;
                let following = source.next().await?;
                Ok::<_, Failure>(Some((shown, (following, source, guard))))
            }
        });
        return Ok(rows.boxed_local());
    };
    let gathered = ask_together(&caller, &statement, &query).await;
    let parts = gathered.batches().await?;
    let bytes = parts
        .iter()
        .flatten()
        .map(RecordBatch::get_array_memory_size)
        .sum();
    statement.account.charge(bytes)?;
    let wanted = plan.limit.map(|limit| limit.saturating_add(plan.offset));
    let wanted = wanted.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let merged = merge.merge(parts, wanted)?;
    let mut skip = plan.offset;
    let mut shown = Vec::new();
    for batch in merged {
        let drop = skip.min(batch.num_rows() as u64) as usize;
        skip -= drop as u64;
        let rest = batch.slice(drop, batch.num_rows() - drop);
        if rest.num_rows() > 0 {
            shown.push(plan.projection.apply(&rest)?);
        }
    }
    Ok(futures::stream::iter(shown.into_iter().map(Ok)).boxed_local())
}

/// One batch cut by OFFSET and LIMIT; none when nothing is left.
fn window(batch: RecordBatch, offset: u64, limit: Option<u64>) -> Option<RecordBatch> {
    let rows = batch.num_rows() as u64;
    let from = offset.min(rows);
    let kept = (rows - from).min(limit.unwrap_or(u64::MAX));
    (kept > 0).then(|| batch.slice(from as usize, kept as usize))
}

/// Streams of several cores, in the order in which their rows arrive.
struct Unordered {
    readers: Vec<ReplyReader>,
    skip: u64,
    left: u64,
    /// Where the next look begins, so that no core is favoured.
    next: usize,
    /// What the rows have made a core fail with. It counts when the cores before have ended, so
    /// that which of several does is no matter of time; there are no more rows meanwhile.
    failed: Option<Failure>,
}

impl Unordered {
    /// The next rows within OFFSET and LIMIT. Readers that are not needed any more are dropped,
    /// which stops their cores.
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if self.left == 0 {
                self.readers.clear();
            }
            let Some(batch) = self.arrival().await? else {
                return Ok(None);
            };
            let skipped = self.skip.min(batch.num_rows() as u64);
            self.skip -= skipped;
            let rest = batch.slice(skipped as usize, batch.num_rows() - skipped as usize);
            let kept = self.left.min(rest.num_rows() as u64);
            self.left -= kept;
            if kept > 0 {
                return Ok(Some(rest.slice(0, kept as usize)));
            }
        }
    }

    async fn arrival(&mut self) -> Result<Option<RecordBatch>> {
        std::future::poll_fn(|cx| {
            let mut looked = 0;
            while looked < self.readers.len() {
                let at = self.next % self.readers.len();
                match self.readers[at].poll_next(cx) {
                    Poll::Ready(Some(Frame::Batch(_))) if self.failed.is_some() => {}
                    Poll::Ready(Some(Frame::Batch(batch))) => {
                        self.next += 1;
                        return Poll::Ready(Ok(Some(batch)));
                    }
                    Poll::Ready(Some(Frame::End(_))) => {
                        self.readers.remove(at);
                        looked = 0;
                    }
                    Poll::Ready(Some(Frame::Failed(failure))) if failure.is_of_values() => {
                        self.readers.truncate(at);
                        self.failed = Some(failure);
                        looked = 0;
                    }
                    Poll::Ready(Some(Frame::Failed(failure))) => {
                        return Poll::Ready(Err(failure));
                    }
                    Poll::Ready(Some(other)) => return Poll::Ready(Err(unexpected(&other))),
                    Poll::Ready(None) => return Poll::Ready(Err(broken_off())),
                    Poll::Pending => {
                        self.next += 1;
                        looked += 1;
                    }
                }
            }
            match (self.readers.is_empty(), self.failed.take()) {
                (true, None) => Poll::Ready(Ok(None)),
                (true, Some(failure)) => Poll::Ready(Err(failure)),
                (false, failed) => {
                    self.failed = failed;
                    Poll::Pending
                }
            }
        })
        .await
    }
}
