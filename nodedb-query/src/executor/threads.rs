//! The executor's own threads.
//!
//! Each is a plain thread with a single-threaded Tokio runtime; a query is given to the thread with
//! the fewest and stays there. Operators that compute for long inside one poll delay other queries of
//! that thread, never a core or a session. Results go back through a small channel; dropping its
//! reading end ends the query, and with it the leaves' streams.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use futures::channel::mpsc as bounded;
use futures::{SinkExt, Stream, StreamExt};
use nodedb_types::{Failure, Result, SqlState};
use tokio::sync::mpsc;

use super::session::{self, Spill};
use super::{RelationalPlan, RunContext};

/// Batches that wait between a query and its reader.
const RESULT_BATCHES: usize = 2;
/// Queries that one thread holds at a time; more are refused.
const QUERIES_PER_THREAD_MAX: usize = 256;

#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    pub threads: usize,
    /// Where sorts and joins may spill; they fail with 53200 instead when there is none.
    pub spill_directory: Option<PathBuf>,
    /// Bytes that one query may spill.
    pub spill_bytes_max: u64,
}

struct Job {
    plan: RelationalPlan,
    context: RunContext,
    results: bounded::Sender<Result<RecordBatch>>,
    slot: Slot,
}

/// Counts a query of a thread while it lives.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Worker {
    jobs: mpsc::Sender<Job>,
    running: Arc<AtomicUsize>,
}

/// Runs relational plans. Its threads end when it is dropped and their queries have ended.
pub struct Executor {
    workers: Vec<Worker>,
}

impl Executor {
    /// Starts the threads. Fails when the machine gives none.
    pub fn new(config: ExecutorConfig) -> std::io::Result<Executor> {
        let spill = config.spill_directory.map(|directory| Spill {
            directory,
            bytes_max: config.spill_bytes_max,
        });
        let mut workers = Vec::new();
        for number in 0..config.threads.max(1) {
            let (jobs, queue) = mpsc::channel(QUERIES_PER_THREAD_MAX);
            let spill = spill.clone();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()?;
            std::thread::Builder::new()
                .name(format!("query-{number}"))
                .spawn(move || runtime.block_on(serve(queue, spill)))?;
            workers.push(Worker {
                jobs,
                running: Arc::default(),
            });
        }
        Ok(Executor { workers })
    }

    /// Runs a plan; dropping the stream cancels it. Fails with 53300 when every thread is full.
    pub fn run(&self, plan: RelationalPlan, context: RunContext) -> Result<RowStream> {
        if let Some(row) = session::constant(&plan) {
            let (mut results, rows) = bounded::channel(RESULT_BATCHES);
            // The channel was just made and has room.
            let _ = results.try_send(row);
            return Ok(RowStream { rows });
        }
        let worker = self
            .workers
            .iter()
            .min_by_key(|w| w.running.load(Ordering::Relaxed))
            .ok_or_else(|| Failure::internal("an executor without threads"))?;
        let (results, rows) = bounded::channel(RESULT_BATCHES);
        worker.running.fetch_add(1, Ordering::Relaxed);
        let job = Job {
            plan,
            context,
            results,
            slot: Slot(worker.running.clone()),
        };
        worker.jobs.try_send(job).map_err(|_| {
            Failure::new(
                SqlState::TooManyConnections,
                "too many queries are running at a time",
            )
        })?;
        Ok(RowStream { rows })
    }
}

async fn serve(mut queue: mpsc::Receiver<Job>, spill: Option<Spill>) {
    while let Some(job) = queue.recv().await {
        tokio::spawn(run(job, spill.clone()));
    }
}

async fn run(job: Job, spill: Option<Spill>) {
    let Job {
        plan,
        context,
        mut results,
        slot,
    } = job;
    let mut rows = session::run(plan, context, spill);
    let mut closed = results.clone();
    loop {
        // Whoever reads may go away while the next batch is being waited for.
        let gone = std::future::poll_fn(|cx| match closed.poll_ready(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ if closed.is_closed() => Poll::Ready(()),
            _ => Poll::Pending,
        });
        let next = tokio::select! {
            next = rows.next() => next,
            () = gone => break,
        };
        match next {
            Some(batch) => {
                let failed = batch.is_err();
                if results.send(batch).await.is_err() || failed {
                    break;
                }
            }
            None => break,
        }
    }
    drop(slot);
}

/// The rows of a running query. It may be polled on any thread.
pub struct RowStream {
    rows: bounded::Receiver<Result<RecordBatch>>,
}

impl Stream for RowStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.rows.poll_next_unpin(cx)
    }
}
