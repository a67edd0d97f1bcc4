//! The executor's own threads.
//!
//! Each is a plain thread with a single-threaded Tokio runtime, at a lower priority than those that
//! answer clients; a query is given to the thread with the fewest and stays there. Operators that
//! compute for long inside one poll delay other queries of that thread, never a core or a session.
//! Results go back through a small channel; dropping its reading end ends the query, and with it the
//! leaves' streams. What a session would compute for too long at a stretch runs beside them, on as
//! many threads of a lower priority still, so that no operator delays it ([`Executor::compute`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use futures::channel::{mpsc as bounded, oneshot};
use futures::{SinkExt, Stream, StreamExt};
use nodedb_bridge::schedule;
use nodedb_types::{Failure, Result, SqlState};
use tokio::sync::mpsc;

use super::session::{self, Spill};
use super::{RelationalPlan, RunContext};

/// Batches that wait between a query and its reader.
const RESULT_BATCHES: usize = 2;
/// Queries that one thread holds at a time; more are refused.
const QUERIES_PER_THREAD_MAX: usize = 256;
/// Computations that wait for one thread; those who have more wait for room.
const COMPUTATIONS_PER_THREAD_MAX: usize = 64;
/// Stack of a thread, bytes: as a session's worker has it, because what is computed here in its
/// place recurses with the statement. Only pages that are touched take memory.
const STACK_BYTES: usize = 256 << 20;

#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    pub threads: usize,
    /// Where sorts and joins may spill; they fail with 53200 instead when there is none.
    pub spill_directory: Option<PathBuf>,
    /// Bytes that one query may spill.
    pub spill_bytes_max: u64,
}

type Work = Box<dyn FnOnce() + Send>;

struct Job {
    plan: RelationalPlan,
    context: RunContext,
    results: bounded::Sender<Result<RecordBatch>>,
    slot: Slot,
}

/// Counts what a thread has to do while it lives.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn of(thread: &Arc<AtomicUsize>) -> Slot {
        thread.fetch_add(1, Ordering::Relaxed);
        Slot(thread.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A thread, as those see it who have something for it.
struct Worker<T> {
    jobs: mpsc::Sender<T>,
    running: Arc<AtomicUsize>,
}

impl<T> Worker<T> {
    fn of(jobs: mpsc::Sender<T>) -> Worker<T> {
        Worker {
            jobs,
            running: Arc::default(),
        }
    }
}

/// Runs relational plans. Its threads end when it is dropped and their queries have ended.
pub struct Executor {
    queries: Vec<Worker<Job>>,
    computations: Vec<Worker<(Work, Slot)>>,
}

impl Executor {
    /// Starts the threads. Fails when the machine gives none.
    pub fn new(config: ExecutorConfig) -> std::io::Result<Executor> {
        let spill = config.spill_directory.map(|directory| Spill {
            directory,
            bytes_max: config.spill_bytes_max,
        });
        let (mut queries, mut computations) = (Vec::new(), Vec::new());
        for number in 0..config.threads.max(1) {
            let (jobs, queue) = mpsc::channel(QUERIES_PER_THREAD_MAX);
            let spill = spill.clone();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()?;
            start(format!("query-{number}"), schedule::give_way, move || {
                runtime.block_on(serve(queue, spill));
            })?;
            queries.push(Worker::of(jobs));
            let (jobs, queue) = mpsc::channel(COMPUTATIONS_PER_THREAD_MAX);
            start(format!("bulk-{number}"), schedule::stand_back, || {
                compute(queue);
            })?;
            computations.push(Worker::of(jobs));
        }
        Ok(Executor {
            queries,
            computations,
        })
    }

    /// Runs a plan; dropping the stream cancels it. Fails with 53300 when every thread is full.
    pub fn run(&self, plan: RelationalPlan, context: RunContext) -> Result<RowStream> {
        if let Some(row) = session::constant(&plan) {
            let (mut results, rows) = bounded::channel(RESULT_BATCHES);
            // The channel was just made and has room.
            let _ = results.try_send(row);
            return Ok(RowStream { rows });
        }
        let worker = least_busy(&self.queries)?;
        let (results, rows) = bounded::channel(RESULT_BATCHES);
        let job = Job {
            plan,
            context,
            results,
            slot: Slot::of(&worker.running),
        };
        worker.jobs.try_send(job).map_err(|_| {
            Failure::new(
                SqlState::TooManyConnections,
                "too many queries are running at a time",
            )
        })?;
        Ok(RowStream { rows })
    }

    /// Computes something in one go, milliseconds at the most. Waits for room; once it is begun it
    /// ends, also when nobody waits for it any more.
    pub async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let worker = least_busy(&self.computations)?;
        let (done, result) = oneshot::channel();
        let work: Work = Box::new(move || {
            // Nobody may be left to hear it.
            let _ = done.send(work());
        });
        let slot = Slot::of(&worker.running);
        // Refused only when the thread is gone; the result's sender is dropped with the work then.
        let _ = worker.jobs.send((work, slot)).await;
        result
            .await
            .map_err(|_| Failure::internal("a computation broke off"))
    }
}

fn least_busy<T>(workers: &[Worker<T>]) -> Result<&Worker<T>> {
    workers
        .iter()
        .min_by_key(|w| w.running.load(Ordering::Relaxed))
        .ok_or_else(|| Failure::internal("an executor without threads"))
}

fn start(
    name: String,
    priority: fn(),
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name(name);
    thread.stack_size(STACK_BYTES).spawn(move || {
        priority();
        body();
    })?;
    Ok(())
}

/// One computation after the other. One that panics was reported; its result never comes.
fn compute(mut queue: mpsc::Receiver<(Work, Slot)>) {
    while let Some((work, slot)) = queue.blocking_recv() {
        let _ = catch_unwind(AssertUnwindSafe(work));
        drop(slot);
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;

    #[test]
    fn a_computation_that_panics_fails_alone() {
        let config = ExecutorConfig {
            threads: 1,
            spill_directory: None,
            spill_bytes_max: 0,
        };
        let executor = Executor::new(config).expect("threads");
        assert_eq!(block_on(executor.compute(|| 1 + 1)), Ok(2));
        let broken = block_on(executor.compute(|| -> u32 { panic!("on purpose") }));
        assert_eq!(broken.unwrap_err().code(), SqlState::Internal);
        let name = || std::thread::current().name().map(str::to_owned);
        assert_eq!(
            block_on(executor.compute(name)),
            Ok(Some("bulk-0".to_owned()))
        );
    }
}
