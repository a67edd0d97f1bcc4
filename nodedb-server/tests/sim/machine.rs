//! A simulated machine: its disk, its clock, and a server that is stepped on one thread.
//!
//! Everything from the session down is the real code: SQL text goes in, rows come out, and between
//! them lie the real catalog, dispatch, coordinator, rings, cores, log and engines. The order in
//! which cores and tasks take their turns is drawn from the seed; the rings hold a few entries, so
//! that the paths for full rings run all the time. Listeners and threads have tests of their own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nodedb_bridge::clock::{Clock, Snapshots, TimeSource};
use nodedb_bridge::port::EventLog;
use nodedb_bridge::reply::Pump;
use nodedb_bridge::request::Op;
use nodedb_bridge::upcall::Upcall;
use nodedb_bridge::wiring::{Depths, EventEnds, wire};
use nodedb_control::catalog::boot;
use nodedb_control::dispatch::{Dispatcher, upcall};
use nodedb_control::node::{Facts, Node, Worker};
use nodedb_control::runtime::Runtime;
use nodedb_control::session::Session;
use nodedb_control::session::execution::Execution;
use nodedb_data::core::{Core, CoreConfig, Covered, Faults, NodeLatch, Progress, Shared};
use nodedb_data::emit::log::{EventLogConfig, LogReader};
use nodedb_data::io::sim::{SimDisk, TearVariant};
use nodedb_event::log::LogServer;
use nodedb_event::{LogClient, Plane};
use nodedb_types::{CollectionId, Failure, Value, arrow_map, text};

use crate::tasks::{Tasks, Time};
use crate::workload::random::Random;

/// Steps after which a statement that is not done never will be.
const STEPS_MAX: u64 = 2_000_000;

/// Time that one step takes.
const STEP_NS: u64 = 20_000;

const SHARDS: u16 = 4;

/// Rows of texts; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// The power has failed, or the process had to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Down;

/// The machine's disk and what outlives a start of the server.
pub struct Machine {
    pub disk: SimDisk,
    pub faults: Faults,
    time: Arc<Time>,
    starts: u32,
    seed: u64,
    /// What has happened so far, as a hash.
    trace: Rc<RefCell<DefaultHasher>>,
}

impl Machine {
    pub fn new(seed: u64) -> Machine {
        Machine {
            disk: SimDisk::new(seed),
            faults: Faults::default(),
            time: Arc::default(),
            starts: 0,
            seed,
            trace: Rc::default(),
        }
    }

    /// Two runs of one seed give the same.
    pub fn trace(&self) -> u64 {
        self.trace.borrow().finish()
    }

    /// Starts a server and waits until sessions are let in.
    pub fn start(&mut self, cores: u16) -> Result<Server, Down> {
        let server = self.try_start(cores)?;
        Ok(server.unwrap_or_else(|e| panic!("the server does not start: {e:?}")))
    }

    /// Starts a server, which may find that its disk does not work.
    pub fn try_start(&mut self, cores: u16) -> Result<Result<Server, Failure>, Down> {
        let mut server = match self.recovered(cores)? {
            Ok(server) => server,
            Err(failure) => return Ok(Err(failure)),
        };
        let booted = server.boot()?;
        Ok(booted.map(|()| server))
    }

    /// A server whose cores have recovered, and whose catalog was not looked at.
    pub fn recovered(&mut self, cores: u16) -> Result<Result<Server, Failure>, Down> {
        self.starts += 1;
        let mut server = self.assemble(cores);
        server.until(|server| {
            server.broken.is_some() || server.cores.iter().all(Core::is_recovered)
        })?;
        if let Some(failure) = server.broken.take() {
            return Ok(Err(failure));
        }
        server.begin_events(self.starts);
        Ok(Ok(server))
    }

    fn assemble(&self, cores: u16) -> Server {
        let depths = Depths {
            requests: 2,
            streams: 64,
            upcalls: 1,
            events: 4,
        };
        let (core_ends, workers, events) = wire(cores, 1, depths).expect("rings");
        let mut ends = workers.into_iter().next().expect("a worker");
        let clock = Arc::new(Clock::new(self.time.clone()));
        let snapshots = Snapshots::new(1, clock.clone());
        let shared = Shared {
            clock: clock.clone(),
            snapshots: snapshots.clone(),
            latch: NodeLatch::default(),
            covered: Covered::new(cores),
        };
        let cores_of = core_ends.into_iter().map(|ends| {
            let config = CoreConfig {
                epoch: self.starts,
                page_faults: true,
                checkpoint_units: 400,
                small_segments: true,
                faults: self.faults,
                ..CoreConfig::new(ends.core, cores, SHARDS, PathBuf::from("/"))
            };
            let io = Box::new(self.disk.io());
            Core::new(config, ends, io, shared.clone(), Box::new(|| 0))
        });
        let cores_of: Vec<Core> = cores_of.collect();
        let facts = Facts {
            cores,
            shards: SHARDS,
            key_seed: 7,
            statement_bytes_max: 16 << 20,
            statement_memory_max: 64 << 20,
        };
        let over = Arc::new(AtomicBool::new(false));
        let fatal = over.clone();
        let fatal = Box::new(move |_: &Failure| fatal.store(true, Ordering::Relaxed));
        let node = Node::new(facts, clock, None, fatal);
        let tasks = Tasks::new(self.time.clone());
        let upcalls = std::mem::take(&mut ends.upcalls);
        let dispatcher = Dispatcher::of_ends(&mut ends, depths.streams, tasks.clone());
        let worker = Worker::new(node, ends.worker, dispatcher, snapshots.slot(0));
        Server {
            cores: cores_of,
            pump: ends.pump,
            upcalls,
            worker,
            tasks,
            over,
            broken: None,
            event_ends: Some(events),
            events: None,
            disk: self.disk.clone(),
            time: self.time.clone(),
            random: Random::new(self.seed ^ u64::from(self.starts) << 32),
            trace: self.trace.clone(),
        }
    }

    /// The power fails now, if it has not, and comes back.
    pub fn restart(&self, variant: TearVariant) {
        self.disk.crash_now();
        self.disk.restart(variant);
    }
}

/// A running server.
pub struct Server {
    cores: Vec<Core>,
    pump: Pump,
    upcalls: Vec<rtrb::Consumer<Upcall>>,
    worker: Rc<Worker>,
    tasks: Rc<Tasks>,
    /// The process must end: an outcome is unknown.
    over: Arc<AtomicBool>,
    /// A core could not recover.
    broken: Option<Failure>,
    /// Takes a turn now and then, so the cores' rings are often full: writers must not care.
    events: Option<(Plane, LogServer)>,
    /// Until the plane begins.
    event_ends: Option<EventEnds>,
    disk: SimDisk,
    time: Arc<Time>,
    random: Random,
    trace: Rc<RefCell<DefaultHasher>>,
}

impl Server {
    /// Reads the catalog and puts right what a schema change has left; sessions may come then.
    pub fn boot(&mut self) -> Result<Result<(), Failure>, Down> {
        let worker = self.worker.clone();
        self.run(async move { boot::boot(&worker).await })
    }

    /// What the cores keep of the log for the streams of their collections, each difference once.
    pub fn emitting(&mut self) -> Result<BTreeSet<(CollectionId, Option<u64>)>, Down> {
        let worker = self.worker.clone();
        self.run(async move {
            let statement = worker.system_statement(worker.node.clock.now());
            let ask = |_| Op::Report;
            let mut all = BTreeSet::new();
            for reader in worker.dispatcher.broadcast(&statement, ask).await {
                let report = worker.dispatcher.report(reader).await.expect("a report");
                let kept = report.emitting.into_iter();
                all.extend(kept.map(|(id, bytes)| (id, bytes.map(NonZeroU64::get))));
            }
            all
        })
    }

    /// One turn of some core or of some task.
    fn step(&mut self) {
        self.time.0.fetch_add(STEP_NS, Ordering::Relaxed);
        let turn = self.random.below(self.cores.len() as u64 + 2) as usize;
        match self.cores.get_mut(turn) {
            Some(core) => {
                let now = self.time.monotonic_ns();
                if let Progress::Broken(failure) = core.step(now) {
                    assert!(!core.is_recovered(), "core {turn} is broken: {failure:?}");
                    self.broken = Some(failure);
                }
            }
            None => {
                if self.pump.run() > 0 {
                    self.worker.dispatcher.on_news();
                }
                for ring in &mut self.upcalls {
                    while let Ok(call) = ring.pop() {
                        upcall::answer(&self.worker, call);
                    }
                }
                self.step_events();
                while self.tasks.step(&mut self.random) {}
            }
        }
        (turn, self.disk.operations()).hash(&mut *self.trace.borrow_mut());
    }

    /// The plane begins behind what the recovery has concluded.
    fn begin_events(&mut self, epoch: u32) {
        let ends = self.event_ends.take().expect("it begins once");
        let config = EventLogConfig {
            data_dir: PathBuf::from("/"),
            database: 0,
            epoch,
            log_ends: ends.log_ends.clone(),
        };
        let disk = self.disk.clone();
        let (client, log) = LogClient::beside(Box::new(move || {
            let log = LogReader::open(config.clone(), Box::new(disk.io()))?;
            Ok(Box::new(log) as Box<dyn EventLog>)
        }));
        let node = &self.worker.node;
        let (plane, streams) = Plane::new(ends, node.clock.clone(), client);
        // The node was just made, so nobody has plugged anything in.
        let _ = node.streams.set(Arc::new(streams));
        self.events = Some((plane, log));
    }

    fn step_events(&mut self) {
        let Some((plane, log)) = &mut self.events else {
            return;
        };
        while let Some(read) = plane.accept() {
            self.tasks.spawn(Box::pin(read));
        }
        if plane.is_read() || self.random.below(8) == 0 {
            plane.drain();
        }
        log.step();
    }

    /// Steps until `done`.
    pub fn until(&mut self, mut done: impl FnMut(&Server) -> bool) -> Result<(), Down> {
        for _ in 0..STEPS_MAX {
            if self.disk.halted() || self.over.load(Ordering::Relaxed) {
                return Err(Down);
            }
            if done(self) {
                return Ok(());
            }
            self.step();
        }
        panic!("nothing comes of it");
    }

    /// Runs a future on the worker to its end.
    pub fn run<T: 'static>(
        &mut self,
        future: impl Future<Output = T> + 'static,
    ) -> Result<T, Down> {
        let output = Rc::new(Cell::new(None));
        let filled = Rc::new(Cell::new(false));
        let (into, done) = (output.clone(), filled.clone());
        self.spawn(async move {
            into.set(Some(future.await));
            done.set(true);
        });
        self.until(|_| filled.get())?;
        Ok(output.take().expect("the task is done"))
    }

    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(Box::pin(future));
    }

    /// A client's session.
    pub fn connect(&self) -> Client {
        let session = Session::new(&self.worker, "test", [], Vec::new());
        Client {
            session: session.expect("a session"),
            trace: self.trace.clone(),
        }
    }

    /// One statement on a session of its own.
    pub fn sql(&mut self, sql: &str) -> Result<Result<Rows, Failure>, Down> {
        let mut client = self.connect();
        let sql = sql.to_owned();
        self.run(async move { client.sql(&sql).await })
    }

    /// One statement that must succeed.
    pub fn rows(&mut self, sql: &str) -> Result<Rows, Down> {
        let rows = self.sql(sql)?;
        Ok(rows.unwrap_or_else(|e| panic!("{sql}: {e:?}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Tasks hold the worker, and the worker its runtime.
        self.tasks.clear();
    }
}

/// A session and its client in one.
pub struct Client {
    session: Session,
    trace: Rc<RefCell<DefaultHasher>>,
}

impl Client {
    pub async fn sql(&mut self, sql: &str) -> Result<Rows, Failure> {
        let answer = self.answer(sql).await;
        let mut trace = self.trace.borrow_mut();
        match &answer {
            Ok(rows) => rows.hash(&mut *trace),
            Err(failure) => failure.message().hash(&mut *trace),
        }
        answer
    }

    /// A COPY whose data is sent line by line.
    async fn copy(&self, sql: &str, data: &str) -> Result<Execution, Failure> {
        let statement = self.session.parse(sql)?.remove(0);
        let copy = self.session.copy_in(&statement.statement)?;
        let mut copy = copy.expect("a COPY");
        for line in data.split_inclusive('\n') {
            copy.feed(line.as_bytes())?;
        }
        copy.finish().await
    }

    async fn answer(&mut self, sql: &str) -> Result<Rows, Failure> {
        let mut execution = match sql.split_once(" FROM STDIN\n") {
            Some((copy, data)) => self.copy(&format!("{copy} FROM STDIN"), data).await?,
            None => {
                let Some(prepared) = self.session.prepare_text(sql, &[])? else {
                    return Ok(Vec::new());
                };
                self.session.run(&prepared, &Arc::default()).await?
            }
        };
        let batches = execution.collect().await?;
        let columns = execution.columns.clone().unwrap_or_else(|| [].into());
        let mut rows = Vec::new();
        for batch in batches {
            for row in 0..batch.num_rows() {
                let mut cells = Vec::new();
                for (i, column) in columns.iter().enumerate() {
                    let value = arrow_map::value_at(batch.column(i), row, &column.data_type)?;
                    cells.push(shown(&value));
                }
                rows.push(cells);
            }
        }
        Ok(rows)
    }
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        value => {
            let mut out = String::new();
            text::format(value, &mut out);
            Some(out)
        }
    }
}
