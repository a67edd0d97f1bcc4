//! Measures the bridge: `cargo run --release -p nodedb-server --example bridge [SECONDS]
//! [OUTSTANDING]`.
//!
//! A node's real parts, one core and one control worker, and the allocator of `ndb`: each task of
//! the worker sends the read of a row by its key through the dispatcher, as a session does for a
//! point select, awaits the answer, and sends the next. There is no such key, and nothing of SQL
//! is in the way, so what is measured is the request ring, the core's turn, the reply stream and
//! the doorbell. It runs twice: both sides parking when they have nothing to do, and both spinning
//! a little first, which is what a server does where each thread can have a processor of its own.
//!
//! Per run it prints requests a second, the median and the 99th percentile of the round trip, and
//! the processor time per request.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use futures::StreamExt;
use nodedb_bridge::clock::{Clock, Snapshots, TimeSource};
use nodedb_bridge::plan::GetRow;
use nodedb_bridge::request::{Op, Statement};
use nodedb_bridge::wiring::{self, Depths};
use nodedb_control::catalog::{boot, system};
use nodedb_control::node::{Facts, Node, Worker};
use nodedb_control::worker::pool::{self, PoolConfig};
use nodedb_data::core::run::{CoreThread, IoChoice, ThreadConfig};
use nodedb_data::core::{CoreConfig, Covered, NodeLatch, Shared};
use nodedb_data::io::uring::probe_uring;
use nodedb_server::time::MachineTime;
use nodedb_types::{CoreId, Failure, Result, ShardId, limits};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SHARDS: u16 = limits::SHARDS_MIN;
/// How long each side polls before it parks when it spins.
const SPIN_NS: u64 = 20_000;

/// What a run gave.
struct Measured {
    /// Nanoseconds of each round trip, ascending.
    trips_ns: Vec<u64>,
    seconds: f64,
    cpu_seconds: f64,
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| match arguments.next() {
        None => Ok(default),
        Some(text) => text.parse(),
    };
    let (seconds, outstanding) = (number(3)?, number(16)?);
    let processors = std::thread::available_parallelism()?;
    let mut out = std::io::stdout();
    writeln!(out, "{processors} processors, {outstanding} outstanding")?;
    writeln!(
        out,
        "| waiting | requests/s | median µs | p99 µs | processor µs/request |"
    )?;
    writeln!(out, "|---|---|---|---|---|")?;
    for (name, spins) in [("parks", false), ("spins", true)] {
        let measured = run(spins, Duration::from_secs(seconds), outstanding as usize)?;
        let trips = &measured.trips_ns;
        let at = |share: f64| trips[((trips.len() - 1) as f64 * share) as usize] as f64 / 1e3;
        let count = trips.len() as f64;
        writeln!(
            out,
            "| {name} | {:.0} | {:.1} | {:.1} | {:.2} |",
            count / measured.seconds,
            at(0.5),
            at(0.99),
            measured.cpu_seconds * 1e6 / count
        )?;
    }
    Ok(())
}

fn run(spins: bool, length: Duration, outstanding: usize) -> Result<Measured> {
    let dir = std::env::temp_dir().join(format!("ndb-bridge-{}-{spins}", std::process::id()));
    let made = std::fs::create_dir_all(&dir);
    made.map_err(|e| Failure::internal(format!("cannot make {}: {e}", dir.display())))?;
    let measured = measure(&dir, spins, length, outstanding);
    // A folder that stays behind in the place for such does no harm.
    let _ = std::fs::remove_dir_all(&dir);
    measured
}

/// A node of one core and one worker, put together as the server does it.
fn measure(dir: &Path, spins: bool, length: Duration, outstanding: usize) -> Result<Measured> {
    let system = |e: std::io::Error| Failure::internal(e.to_string());
    let time: Arc<dyn TimeSource> = Arc::new(MachineTime::new());
    let clock = Arc::new(Clock::new(time));
    let snapshots = Snapshots::new(1, clock.clone());
    let depths = Depths::default();
    let (mut cores, workers, _events) = wiring::wire(1, 1, depths).map_err(system)?;
    let io = match probe_uring() {
        Ok(()) => IoChoice::Uring,
        Err(_) => IoChoice::Threads,
    };
    let shared = Shared {
        clock: clock.clone(),
        snapshots: snapshots.clone(),
        latch: NodeLatch::default(),
        covered: Covered::new(1),
    };
    let (tx, rx) = mpsc::channel();
    let core = CoreThread::start(
        CoreConfig::new(CoreId(0), 1, SHARDS, dir.to_owned()),
        ThreadConfig {
            io,
            pin_to: spins.then_some(0),
        },
        cores.remove(0),
        shared,
        move || {
            // The receiver waits below.
            let _ = tx.send(());
        },
    )
    .map_err(system)?;
    rx.recv()
        .map_err(|_| Failure::internal("the core ended before it began"))?;
    let facts = Facts {
        cores: 1,
        shards: SHARDS,
        key_seed: 0,
        statement_bytes_max: limits::STATEMENT_BYTES_MAX,
        statement_memory_max: limits::STATEMENT_BYTES_MAX,
    };
    let fatal = Box::new(|_: &Failure| std::process::abort());
    let node = Node::new(facts, clock, None, fatal);
    let config = PoolConfig {
        streams_max: depths.streams,
        spin_ns: if spins { SPIN_NS } else { 0 },
        spreads: false,
    };
    let (pool, threads) = pool::start(workers, &node, &snapshots, config).map_err(system)?;
    let (tx, rx) = mpsc::channel();
    pool.submit_to_first(Box::new(move |worker| {
        Box::pin(async move {
            let measured = session(&worker, length, outstanding).await;
            // The receiver waits below.
            let _ = tx.send(measured);
        })
    }))?;
    let measured = rx
        .recv()
        .unwrap_or_else(|_| Err(Failure::internal("the worker ended before it was done")));
    threads.stop();
    core.stop()?;
    measured
}

/// The worker's part: tasks that each keep one request under way until the time is up.
async fn session(worker: &Rc<Worker>, length: Duration, outstanding: usize) -> Result<Measured> {
    boot::boot(worker).await?;
    let warm_until = worker.runtime.now_ns() + 200_000_000;
    let asking = Rc::new(Asking {
        worker: worker.clone(),
        // The same for all, as the requests of one statement; its cost is not the bridge's.
        statement: worker.system_statement(worker.node.clock.now()),
        columns: Arc::from([0]),
        warm_until,
        until: warm_until + length.as_nanos() as u64,
        trips: RefCell::new(Vec::with_capacity(8 << 20)),
        cpu_before: Cell::new(None),
    });
    let (tx, mut rx) = futures::channel::mpsc::unbounded();
    for _ in 0..outstanding {
        let (asking, tx) = (asking.clone(), tx.clone());
        worker.runtime.spawn(Box::pin(async move {
            // The receiver waits below.
            let _ = tx.unbounded_send(asking.ask().await);
        }));
    }
    drop(tx);
    while let Some(done) = rx.next().await {
        done?;
    }
    let cpu_seconds = cpu_seconds() - asking.cpu_before.get().unwrap_or_default();
    let mut trips_ns = asking.trips.take();
    trips_ns.sort_unstable();
    Ok(Measured {
        trips_ns,
        seconds: length.as_secs_f64(),
        cpu_seconds,
    })
}

/// What the tasks share.
struct Asking {
    worker: Rc<Worker>,
    statement: Arc<Statement>,
    columns: Arc<[usize]>,
    warm_until: u64,
    until: u64,
    trips: RefCell<Vec<u64>>,
    cpu_before: Cell<Option<f64>>,
}

impl Asking {
    /// One request after the other, as a session does it.
    async fn ask(&self) -> Result<()> {
        let dispatcher = &self.worker.dispatcher;
        let mut began = self.worker.runtime.now_ns();
        while began < self.until {
            let is_counted = began >= self.warm_until;
            if is_counted && self.cpu_before.get().is_none() {
                self.cpu_before.set(Some(cpu_seconds()));
            }
            let get = GetRow {
                collection: system::COUNTERS,
                shard: ShardId(0),
                key: Box::from(*b"a key that is not there"),
                columns: self.columns.clone(),
            };
            let reader = match dispatcher.try_send(CoreId(0), &self.statement, Op::GetRow(get)) {
                Ok(reader) => reader,
                Err(op) => Box::pin(dispatcher.send(CoreId(0), &self.statement, op)).await,
            };
            dispatcher.row(reader).await?;
            let ended = self.worker.runtime.now_ns();
            if is_counted {
                self.trips.borrow_mut().push(ended - began);
            }
            began = ended;
        }
        Ok(())
    }
}

/// Processor time of this process with all its threads, the kernel's for it included.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the name in parentheses; user and system time are the 14th and 15th, in
    // hundredths of a second.
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}
