//! The threads of the workers, and how work is handed to them.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use futures::future::LocalBoxFuture;
use nodedb_bridge::clock::Snapshots;
use nodedb_bridge::schedule;
use nodedb_bridge::wiring::WorkerEnds;
use nodedb_types::limits::CONNECTIONS_MAX;
use nodedb_types::{Failure, Result, SqlState};
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::{STACK_BYTES, TokioRuntime, pump};
use crate::dispatch::{Dispatcher, upcall};
use crate::node::{Node, Worker};
use crate::shutdown::{self, FAREWELL, GRACE, Shutdown, Stage};

/// Work for one worker: it runs there to its end, on that thread alone.
pub type Job = Box<dyn FnOnce(Rc<Worker>) -> LocalBoxFuture<'static, ()> + Send>;

/// How workers reach the cores.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Streams that a worker may have open towards one core; what its doorbell ring holds.
    pub streams_max: usize,
    /// How long a worker without work polls before it parks, nanoseconds; 0 where processors are
    /// few.
    pub spin_ns: u64,
    /// Cores that are asked together are kept on processors of their own: there is one for each, and
    /// no more.
    pub spreads: bool,
}

struct Member {
    jobs: mpsc::Sender<Job>,
    load: Arc<Load>,
}

/// Sessions and other jobs that a worker has.
#[derive(Default)]
struct Load {
    jobs: AtomicUsize,
    /// The last of them has ended.
    none_left: Notify,
}

/// A way to hand work to the workers. Clones share it.
#[derive(Clone)]
pub struct Pool(Arc<[Member]>);

/// The workers' threads, to be joined when the pool is given up.
pub struct Threads {
    threads: Vec<JoinHandle<()>>,
    node: Arc<Node>,
}

/// Starts a worker for each of `ends`.
pub fn start(
    ends: Vec<WorkerEnds>,
    node: &Arc<Node>,
    snapshots: &Arc<Snapshots>,
    config: PoolConfig,
) -> io::Result<(Pool, Threads)> {
    let mut members = Vec::new();
    let mut threads = Vec::new();
    for ends in ends {
        let (tx, jobs) = mpsc::channel(CONNECTIONS_MAX);
        let load = Arc::new(Load::default());
        members.push(Member {
            jobs: tx,
            load: load.clone(),
        });
        let (node, snapshots) = (node.clone(), snapshots.clone());
        let name = format!("ndb-control-{}", ends.worker);
        let body = move || run(ends, node, &snapshots, config, jobs, load);
        let thread = std::thread::Builder::new()
            .name(name)
            .stack_size(STACK_BYTES)
            .spawn(body)?;
        threads.push(thread);
    }
    let node = node.clone();
    Ok((Pool(members.into()), Threads { threads, node }))
}

impl Pool {
    /// Hands work to the worker that has least of it. 53300 when its queue is full, 57P01 when it
    /// has stopped.
    pub fn submit(&self, job: Job) -> Result<()> {
        let least = self
            .0
            .iter()
            .min_by_key(|m| m.load.jobs.load(Ordering::Relaxed))
            .ok_or_else(|| Failure::internal("a node without workers"))?;
        Pool::submit_to(least, job)
    }

    /// Hands work to the first worker, which has the node's own tasks.
    pub fn submit_to_first(&self, job: Job) -> Result<()> {
        Pool::submit_to(&self.0[0], job)
    }

    fn submit_to(member: &Member, job: Job) -> Result<()> {
        member.load.jobs.fetch_add(1, Ordering::Relaxed);
        member.jobs.try_send(job).map_err(|error| {
            member.load.jobs.fetch_sub(1, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(_) => Failure::new(
                    SqlState::TooManyConnections,
                    "sorry, too many clients already",
                ),
                mpsc::error::TrySendError::Closed(_) => shutdown::stopping(),
            }
        })
    }
}

impl Threads {
    /// Ends every session, as [`crate::shutdown`] says, and joins the threads.
    pub fn stop(self) {
        self.node.shutdown.advance(Stage::Stopping);
        for thread in self.threads {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

fn run(
    mut ends: WorkerEnds,
    node: Arc<Node>,
    snapshots: &Arc<Snapshots>,
    config: PoolConfig,
    mut jobs: mpsc::Receiver<Job>,
    load: Arc<Load>,
) {
    schedule::prompt();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a worker needs its runtime");
    runtime.block_on(async move {
        let tasks = TokioRuntime::new(node.clock.time().clone(), node.polls.clone());
        let (index, upcalls) = (ends.worker, std::mem::take(&mut ends.upcalls));
        let dispatcher = Dispatcher::of_ends(&mut ends, config.streams_max, tasks);
        if config.spreads {
            dispatcher.spread_over(schedule::processors());
        }
        let slot = snapshots.slot(index as usize);
        let worker = Worker::new(node.clone(), index, dispatcher.clone(), slot);
        let asked = worker.clone();
        let pump = pump(
            ends.pump,
            upcalls,
            dispatcher,
            config.spin_ns,
            move |call| {
                upcall::answer(&asked, call);
            },
        );
        tokio::task::spawn_local(async move {
            pump.await.expect("a worker can watch its eventfd");
        });
        let mut stopping = pin!(stop(&node.shutdown, &load));
        loop {
            tokio::select! {
                job = jobs.recv() => {
                    let Some(job) = job else {
                        // The listeners have closed; the sessions are still to be told.
                        (&mut stopping).await;
                        return;
                    };
                    let (work, busy) = (job(worker.clone()), Busy(load.clone()));
                    worker.runtime.spawn(Box::pin(async move {
                        let _busy = busy;
                        work.await;
                    }));
                }
                () = &mut stopping => return,
            }
        }
    });
}

/// Waits until the node has stopped: until all jobs have ended, or their time is over.
async fn stop(shutdown: &Shutdown, load: &Load) {
    shutdown.reached(Stage::Stopping).await;
    let none_left = async {
        while load.jobs.load(Ordering::SeqCst) > 0 {
            load.none_left.notified().await;
        }
    };
    let mut none_left = pin!(none_left);
    // reason: a statement may run for long, and a client may not read.
    if timeout(GRACE, &mut none_left).await.is_err() {
        shutdown.advance(Stage::Over);
        // reason: as above; what was not said by then is not said.
        let _ = timeout(FAREWELL, &mut none_left).await;
    }
}

/// Counts a job for as long as it lives, also when it panics.
struct Busy(Arc<Load>);

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.jobs.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.none_left.notify_one();
        }
    }
}
