//! A running node: cores, workers, listeners, put together and taken apart.
//!
//! [`Node::open`] takes the lock of the data directory, starts a thread per core and per worker,
//! lets the cores replay their logs, reads the catalog, and only then lets clients in.
//! [`Node::stop`] does the reverse. Dropping a node stops it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::available_parallelism;

use nodedb_bridge::clock::{Clock, Snapshots, TimeSource};
use nodedb_bridge::port::{EventLog, OpenEventLog};
use nodedb_bridge::wiring::{self, CoreEnds, Depths, WorkerEnds};
use nodedb_control::catalog::boot;
use nodedb_control::listen::{self, http, pgwire};
use nodedb_control::node::Facts;
use nodedb_control::worker::pool::{self, Pool, PoolConfig, Threads};
use nodedb_data::core::run::{self, CoreThread, IoChoice, ThreadConfig};
use nodedb_data::core::{CoreConfig, Covered, NodeLatch, Shared};
use nodedb_data::emit::log::{EventLogConfig, LogReader};
use nodedb_data::io::uring::probe_uring;
use nodedb_event::EventPlane;
use nodedb_query::{Executor, ExecutorConfig};
use nodedb_types::{CoreId, Failure, Result, SqlState, limits};

use crate::config::{Config, IoSetting};
use crate::data_dir::DataDir;
use crate::memory;
use crate::time::MachineTime;

/// How long a worker without work polls before it parks, nanoseconds, where processors are many.
const SPIN_NS: u64 = 5_000;

/// Where clients reach a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub pg: SocketAddr,
    pub http: SocketAddr,
    pub native: SocketAddr,
}

/// A node of this process.
pub struct Node {
    addresses: Addresses,
    /// What the operator should know about how it runs, one line each.
    remarks: Vec<String>,
    parts: Option<Parts>,
}

/// In the order in which they are taken apart.
struct Parts {
    workers: Threads,
    /// Ends with the workers that read from it, before the cores whose logs it reads.
    events: EventPlane,
    cores: Vec<CoreThread>,
    _data_dir: DataDir,
}

fn cannot(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(SqlState::IoError, format!("{what}: {error}"))
}

/// How many threads of each kind run, and whether they may spin.
struct Layout {
    processors: u16,
    cores: u16,
    workers: u16,
}

impl Layout {
    fn of(config: &Config, shards: u16, processors: u16) -> Result<Layout> {
        let cores = config.cores.unwrap_or(processors).max(1);
        if config.cores.is_some() && cores > shards {
            return Err(Failure::new(
                SqlState::InvalidParameterValue,
                format!("{cores} cores are more than the {shards} shards of the data directory"),
            ));
        }
        Ok(Layout {
            processors,
            cores: cores.min(shards),
            workers: (processors / 4).max(1),
        })
    }

    /// Whether each thread can have a processor of its own.
    fn is_roomy(&self) -> bool {
        self.processors > self.cores + self.workers
    }

    /// Whether there is a processor for each core and none besides.
    fn is_filled(&self) -> bool {
        self.cores > 1 && self.processors == self.cores
    }
}

fn processors() -> u16 {
    available_parallelism().map_or(1, |n| n.get().min(usize::from(u16::MAX)) as u16)
}

impl Node {
    /// Opens the data directory, making it if needed, and serves. Returns when clients are let in.
    pub fn open(config: &Config) -> Result<Node> {
        let processors = processors();
        let data_dir = DataDir::open(
            &config.data_dir,
            config.shards,
            processors,
            [random_word()?, random_word()?],
        )?;
        let manifest = &data_dir.manifest;
        let layout = Layout::of(config, manifest.shards, processors)?;
        let sockets = Sockets::bind(config)?;
        let time: Arc<dyn TimeSource> = Arc::new(MachineTime::new());
        let clock = Arc::new(Clock::new(time));
        let snapshots = Snapshots::new(usize::from(layout.workers), clock.clone());
        let depths = Depths::default();
        let (core_ends, worker_ends, events) =
            wiring::wire(layout.cores, layout.workers, depths)
                .map_err(|e| cannot("cannot set up the rings", &e))?;
        let mut remarks = Vec::new();
        let io = io_choice(config.io, &mut remarks)?;
        let shared = Shared {
            clock: clock.clone(),
            snapshots: snapshots.clone(),
            latch: NodeLatch::default(),
            covered: Covered::new(layout.cores),
        };
        let template = core_template(&data_dir, &layout, config)?;
        let cores = start_cores(&layout, io, &template, core_ends, &shared)?;
        let facts = facts(config, manifest.shards, manifest.key_seed()?, &layout);
        let executor = executor(config)?;
        let log = EventLogConfig {
            data_dir: template.data_dir.clone(),
            database: template.database,
            epoch: template.epoch,
            log_ends: events.log_ends.clone(),
        };
        let events = EventPlane::start(events, clock.clone(), open_log(log, io))
            .map_err(|e| cannot("cannot start the event plane", &e))?;
        let node = nodedb_control::node::Node::new(facts, clock, Some(executor), Box::new(die));
        // The node was just made, so nobody has plugged anything in.
        let _ = node.streams.set(Arc::new(events.streams()));
        let (pool, workers) = start_workers(worker_ends, &node, &snapshots, &layout, depths)?;
        let served = sockets.serve(&pool, &node);
        let parts = Parts {
            workers,
            events,
            cores,
            _data_dir: data_dir,
        };
        match served {
            Ok(addresses) => Ok(Node {
                addresses,
                remarks,
                parts: Some(parts),
            }),
            Err(failure) => {
                parts.stop()?;
                Err(failure)
            }
        }
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Whether a core has ended on its own, which nothing recovers from but a restart.
    pub fn is_broken(&self) -> bool {
        let parts = self.parts.as_ref();
        parts.is_some_and(|parts| parts.cores.iter().any(CoreThread::is_over))
    }

    /// Ends sessions, lets cores finish what they have begun, and gives the lock back.
    pub fn stop(mut self) -> Result<()> {
        match self.parts.take() {
            Some(parts) => parts.stop(),
            None => Ok(()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            // Whoever wants to know calls `stop`.
            let _ = parts.stop();
        }
    }
}

impl Parts {
    fn stop(self) -> Result<()> {
        self.workers.stop();
        self.events.stop();
        let ends: Vec<Result<()>> = self.cores.into_iter().map(CoreThread::stop).collect();
        ends.into_iter().collect()
    }
}

/// A decision that may or may not be durable must not be outlived: the log tells after a restart.
fn die(failure: &Failure) {
    eprintln!("ndb: stopping, the outcome of a commit is unknown: {failure}");
    std::process::abort();
}

fn random_word() -> Result<u64> {
    listen::random().map(u64::from_le_bytes)
}

fn facts(config: &Config, shards: u16, key_seed: u64, layout: &Layout) -> Facts {
    // A quarter of the node's memory is the most that one statement may hold.
    let memory = usize::try_from(memory::of_node(config) / 4).unwrap_or(usize::MAX);
    Facts {
        cores: layout.cores,
        shards,
        key_seed,
        statement_bytes_max: limits::STATEMENT_BYTES_MAX.min(memory),
        statement_memory_max: (4 * limits::STATEMENT_BYTES_MAX).min(memory),
    }
}

/// Bytes that one query may spill.
const SPILL_BYTES_MAX: u64 = 16 << 30;

/// Threads for relational plans. What a run that was killed left behind there is of no use; the
/// folder itself stays, since on a full disk it could not be made again.
fn executor(config: &Config) -> Result<Executor> {
    let spill = config.data_dir.join("spill");
    match std::fs::create_dir(&spill) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            clear(&spill).map_err(|e| cannot("cannot clear the folder for spilled rows", &e))?;
        }
        made => made.map_err(|e| cannot("cannot make the folder for spilled rows", &e))?,
    }
    let config = ExecutorConfig {
        threads: usize::from((processors() / 2).clamp(1, 16)),
        spill_directory: Some(spill),
        spill_bytes_max: SPILL_BYTES_MAX,
    };
    Executor::new(config).map_err(|e| cannot("cannot start the executor", &e))
}

fn clear(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn io_choice(setting: IoSetting, remarks: &mut Vec<String>) -> Result<IoChoice> {
    match (setting, probe_uring()) {
        (IoSetting::Threads, _) => Ok(IoChoice::Threads),
        (IoSetting::Uring | IoSetting::Auto, Ok(())) => Ok(IoChoice::Uring),
        (IoSetting::Uring, Err(e)) => Err(cannot("io_uring cannot be used here", &e)
            .with_hint("run with --io auto or --io threads")),
        (IoSetting::Auto, Err(e)) => {
            remarks.push(format!("io_uring cannot be used here ({e}); using threads"));
            Ok(IoChoice::Threads)
        }
    }
}

/// How the event plane opens the logs: with files of its own, on its own thread.
fn open_log(config: EventLogConfig, io: IoChoice) -> OpenEventLog {
    Box::new(move || {
        let io = run::open_io(io, None)?;
        let log = LogReader::open(config.clone(), io)?;
        Ok(Box::new(log) as Box<dyn EventLog>)
    })
}

/// The settings that all cores share.
fn core_template(data_dir: &DataDir, layout: &Layout, settings: &Config) -> Result<CoreConfig> {
    let manifest = &data_dir.manifest;
    let mut config = CoreConfig::new(
        CoreId(0),
        layout.cores,
        manifest.shards,
        data_dir.path.clone(),
    );
    config.database = manifest.database_id()?;
    config.epoch = next_epoch(&data_dir.path.join("wal"))?;
    if let Some(bytes) = settings.checkpoint_log {
        config.checkpoint_log_bytes = bytes;
    }
    // The half that statements do not have.
    let leaves = memory::of_node(settings) / 2 / u64::from(layout.cores);
    config.leaf_bytes_max = usize::try_from(leaves)
        .unwrap_or(usize::MAX)
        .max(limits::LEAF_BYTES_MIN);
    Ok(config)
}

/// The number of this start: above that of every log there is.
fn next_epoch(wal: &Path) -> Result<u32> {
    let unreadable = |e: &std::io::Error| cannot("cannot read the folder of the log", e);
    let names = match std::fs::read_dir(wal) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(unreadable(&e)),
        Ok(entries) => entries
            .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|e| unreadable(&e))?,
    };
    Ok(nodedb_data::wal::epoch_after(&names))
}

fn start_cores(
    layout: &Layout,
    io: IoChoice,
    template: &CoreConfig,
    ends: Vec<CoreEnds>,
    shared: &Shared,
) -> Result<Vec<CoreThread>> {
    let (tx, rx) = mpsc::channel();
    let mut threads = Vec::new();
    for ends in ends {
        let core = ends.core;
        let config = CoreConfig {
            core,
            ..template.clone()
        };
        let thread = ThreadConfig {
            io,
            pin_to: layout.is_roomy().then_some(usize::from(core.0)),
        };
        let tx = tx.clone();
        let started = CoreThread::start(config, thread, ends, shared.clone(), move || {
            // The receiver waits for every core.
            let _ = tx.send(());
        });
        threads.push(started.map_err(|e| cannot("cannot start a core", &e))?);
    }
    for _ in &threads {
        rx.recv()
            .map_err(|_| Failure::internal("a core ended before it began"))?;
    }
    if threads.iter().all(CoreThread::is_ready) {
        return Ok(threads);
    }
    // One of them says why it ended.
    let ends: Vec<Result<()>> = threads.into_iter().map(CoreThread::stop).collect();
    let end: Result<()> = ends.into_iter().collect();
    Err(end
        .err()
        .unwrap_or_else(|| Failure::internal("a core ended before it began")))
}

fn start_workers(
    ends: Vec<WorkerEnds>,
    node: &Arc<nodedb_control::node::Node>,
    snapshots: &Arc<Snapshots>,
    layout: &Layout,
    depths: Depths,
) -> Result<(Pool, Threads)> {
    let config = PoolConfig {
        streams_max: depths.streams,
        spin_ns: if layout.is_roomy() { SPIN_NS } else { 0 },
        spreads: layout.is_filled(),
    };
    let (pool, threads) = pool::start(ends, node, snapshots, config)
        .map_err(|e| cannot("cannot start the control plane", &e))?;
    let (tx, rx) = mpsc::channel();
    pool.submit_to_first(Box::new(move |worker| {
        Box::pin(async move {
            // The receiver waits below.
            let _ = tx.send(boot::boot(&worker).await);
        })
    }))?;
    let booted = rx.recv().unwrap_or_else(|_| {
        Err(Failure::internal(
            "the control plane ended while it started",
        ))
    });
    match booted {
        Ok(()) => Ok((pool, threads)),
        Err(failure) => {
            threads.stop();
            Err(failure)
        }
    }
}

/// Sockets that are bound and not yet served, so that a port in use is found before anything else
/// is done.
struct Sockets {
    pg: TcpListener,
    http: TcpListener,
    native: TcpListener,
}

impl Sockets {
    fn bind(config: &Config) -> Result<Sockets> {
        let bind = |port: u16, flag: &str| -> Result<TcpListener> {
            let address = SocketAddr::new(config.listen, port);
            let socket = TcpListener::bind(address).map_err(|e| {
                cannot(&format!("cannot listen on {address}"), &e).with_hint(format!(
                    "choose another port with {flag}; 0 takes a free one"
                ))
            })?;
            socket
                .set_nonblocking(true)
                .map_err(|e| cannot("cannot set up a socket", &e))?;
            Ok(socket)
        };
        Ok(Sockets {
            pg: bind(config.pg_port, "--pg-port")?,
            http: bind(config.http_port, "--http-port")?,
            native: bind(config.native_port, "--native-port")?,
        })
    }

    /// Lets clients in.
    fn serve(self, pool: &Pool, node: &Arc<nodedb_control::node::Node>) -> Result<Addresses> {
        let local = |socket: &TcpListener| {
            let address = socket.local_addr();
            address.map_err(|e| cannot("cannot tell a socket's address", &e))
        };
        let addresses = Addresses {
            pg: local(&self.pg)?,
            http: local(&self.http)?,
            native: local(&self.native)?,
        };
        let (pg, accepting, stopping) = (self.pg, pool.clone(), node.clone());
        pool.submit_to_first(Box::new(move |_| {
            Box::pin(async move {
                let listener = tokio::net::TcpListener::from_std(pg)
                    .expect("the worker's runtime can watch a socket");
                let serve = |stream, worker| async move {
                    if let Ok(secret) = listen::random() {
                        pgwire::connection::serve(stream, worker, secret).await;
                    }
                };
                listen::accept(listener, accepting, stopping, serve).await;
            })
        }))?;
        let (native, accepting, stopping) = (self.native, pool.clone(), node.clone());
        pool.submit_to_first(Box::new(move |_| {
            Box::pin(async move {
                let listener = tokio::net::TcpListener::from_std(native)
                    .expect("the worker's runtime can watch a socket");
                listen::accept(listener, accepting, stopping, listen::native::serve).await;
            })
        }))?;
        let (http, serving, node) = (self.http, pool.clone(), node.clone());
        pool.submit_to_first(Box::new(move |_| {
            Box::pin(async move {
                let listener = tokio::net::TcpListener::from_std(http)
                    .expect("the worker's runtime can watch a socket");
                // It ends when the node stops.
                let _ = http::serve(listener, serving, node).await;
            })
        }))?;
        Ok(addresses)
    }
}
