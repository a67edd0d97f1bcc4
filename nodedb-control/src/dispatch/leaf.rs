//! Leaves for the relational executor: its threads own no request ring, so a worker asks for them.
//!
//! Each relational statement has a task on its worker that opens leaves for it and keeps its
//! snapshot. The executor's threads reach it over a bounded channel and get the reply streams
//! back, which they read themselves. When the query ends or is dropped, its channel closes and the
//! task with it.

use arrow::array::RecordBatch;
use futures::channel::{mpsc, oneshot};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, SinkExt, StreamExt};
use nodedb_bridge::plan::{Get, SetQuery};
use nodedb_bridge::reply::{Frame, ReplyReader};
use nodedb_query::{LeafItem, LeafStream, Leaves, RelationalPlan, Reports, RunContext};
use nodedb_types::{Failure, Result};

use super::collect::{broken_off, unexpected};
use crate::session::Caller;
use crate::session::read::{self, Rows};

/// Leaves of one query that wait for the worker.
const ASKS: usize = 8;

enum Ask {
    Query(Box<SetQuery>),
    Get(Get),
}

type Answer = oneshot::Sender<Result<Vec<ReplyReader>>>;

/// The executor's end.
struct Port {
    asks: mpsc::Sender<(Ask, Answer)>,
}

impl Port {
    fn open(&self, ask: Ask) -> BoxFuture<'static, Result<Vec<LeafStream>>> {
        let mut asks = self.asks.clone();
        async move {
            let gone = || Failure::internal("the statement's worker is gone");
            let (tx, rx) = oneshot::channel();
            asks.send((ask, tx)).await.map_err(|_| gone())?;
            let readers = rx.await.map_err(|_| gone())??;
            let leaf = |reader| leaf(reader, asks.clone());
            Ok(readers.into_iter().map(leaf).collect())
        }
        .boxed()
    }
}

impl Leaves for Port {
    fn query(&self, query: SetQuery) -> BoxFuture<'static, Result<Vec<LeafStream>>> {
        self.open(Ask::Query(Box::new(query)))
    }

    fn get(&self, get: Get) -> BoxFuture<'static, Result<Vec<LeafStream>>> {
        self.open(Ask::Get(get))
    }
}

/// A core's reply as the executor reads it. It keeps the way to the worker open, and the snapshot
/// with it: an executor forgets its plan when the last leaf has been opened.
fn leaf(reader: ReplyReader, asks: mpsc::Sender<(Ask, Answer)>) -> LeafStream {
    let items = futures::stream::unfold(Some((reader, asks)), |state| async move {
        let (mut reader, asks) = state?;
        let item = match reader.next().await {
            Some(Frame::Batch(batch)) => Ok(LeafItem::Batch(batch)),
            Some(Frame::Count(count)) => Ok(LeafItem::Count(count)),
            Some(Frame::End(Some(report))) => return Some((Ok(LeafItem::Report(report)), None)),
            Some(Frame::End(None)) => return None,
            Some(Frame::Failed(failure)) => Err(failure),
            Some(other) => Err(unexpected(&other)),
            None => Err(broken_off()),
        };
        let rest = item.is_ok().then_some((reader, asks));
        Some((item, rest))
    });
    items.boxed()
}

/// Begins a relational plan. Its first rows are there when this returns.
pub async fn relational(
    caller: Caller,
    plan: RelationalPlan,
    explain: Option<Reports>,
) -> Result<Rows> {
    let (statement, guard) = caller.snapshot();
    let (asks, mut waiting) = mpsc::channel(ASKS);
    let context = RunContext {
        leaves: std::sync::Arc::new(Port { asks }),
        account: statement.account.clone(),
        explain,
    };
    let worker = caller.worker.clone();
    let runtime = worker.runtime.clone();
    runtime.spawn(Box::pin(async move {
        // The snapshot's versions stay readable for as long as leaves may be opened or read.
        let _guard = guard;
        while let Some((ask, answer)) = waiting.next().await {
            let opened = match ask {
                Ask::Query(query) => {
                    match read::with_statistics(&caller, &statement, (*query).into()).await {
                        Ok(query) => Ok(read::ask(&caller, &statement, &query).await),
                        Err(failure) => Err(failure),
                    }
                }
                Ask::Get(get) => Ok(read::ask_keys(&caller, &statement, get).await),
            };
            // A query that ended meanwhile does not want it any more.
            let _ = answer.send(opened);
        }
    }));
    let mut rows: BoxStream<'static, Result<RecordBatch>> = match &worker.node.executor {
        Some(executor) => executor.run(plan, context)?.boxed(),
        None => nodedb_query::run_inline(plan, context),
    };
    let first = rows.next().await.transpose()?;
    let first = futures::stream::iter(first.map(Ok));
    Ok(first.chain(rows).boxed_local())
}
