//! What the workers of a node share ([`Node`]), and what one worker works with ([`Worker`]).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use nodedb_bridge::account::MemoryAccount;
use nodedb_bridge::clock::{Clock, SnapshotSlot};
use nodedb_bridge::port::StreamReader;
use nodedb_bridge::request::Statement;
use nodedb_query::catalog::SessionInfo;
use nodedb_query::plan::{Environment, RowIds};
use nodedb_types::{ActorId, CollectionId, CommitTs, Failure, SchemaVersion, SessionId, TraceId};

use crate::catalog::Published;
use crate::catalog::job::Jobs;
use crate::dispatch::Dispatcher;
use crate::runtime::Runtime;
use crate::session::plans::PlanCache;
use crate::session::registry::Registry;
use crate::shutdown::Shutdown;
use crate::worker::polls::Polls;

/// What is fixed for the life of a node.
#[derive(Clone)]
pub struct Facts {
    pub cores: u16,
    pub shards: u16,
    /// Seed of the hash that places keys on shards.
    pub key_seed: u64,
    /// Most bytes that one statement's new rows and held replies may take.
    pub statement_bytes_max: usize,
    /// Most bytes that one statement may hold in memory.
    pub statement_memory_max: usize,
}

/// Shared by all workers.
pub struct Node {
    pub facts: Facts,
    pub clock: Arc<Clock>,
    pub catalog: Published,
    /// Held by the one schema change that runs.
    pub changes: futures::lock::Mutex<()>,
    pub jobs: Jobs,
    pub sessions: Arc<Registry>,
    pub counters: Counters,
    pub polls: Arc<Polls>,
    pub shutdown: Shutdown,
    /// Threads for relational plans; without them such a plan runs where its rows are read.
    pub executor: Option<nodedb_query::Executor>,
    pub row_ids: RowIds,
    /// Serves change streams; plugged in by whoever runs the event plane.
    pub streams: OnceLock<Arc<dyn StreamReader>>,
    /// Called when a decision may or may not be durable: the process must not go on.
    pub fatal: Box<dyn Fn(&Failure) + Send + Sync>,
}

/// Counts of this run, for `/metrics`.
#[derive(Default)]
pub struct Counters {
    pub statements: AtomicU64,
    pub failures: AtomicU64,
    pub rows_sent: AtomicU64,
    pub rows_written: AtomicU64,
    pub retries: AtomicU64,
    pub connections: AtomicU64,
    /// 1 when a core is read-only until restart.
    pub latched: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

impl Node {
    pub fn new(
        facts: Facts,
        clock: Arc<Clock>,
        executor: Option<nodedb_query::Executor>,
        fatal: Box<dyn Fn(&Failure) + Send + Sync>,
    ) -> Arc<Node> {
        let ids = clock.clone();
        Arc::new(Node {
            facts,
            catalog: Published::default(),
            changes: futures::lock::Mutex::new(()),
            jobs: Jobs::default(),
            sessions: Arc::new(Registry::default()),
            counters: Counters::default(),
            polls: Arc::default(),
            shutdown: Shutdown::default(),
            executor,
            streams: OnceLock::new(),
            // A row without a key is named by a timestamp, which no other row ever gets.
            row_ids: Arc::new(move || ids.next().0),
            clock,
            fatal,
        })
    }
}

/// One worker's context; shared by its sessions, never by threads.
pub struct Worker {
    pub node: Arc<Node>,
    pub dispatcher: Dispatcher,
    pub slot: SnapshotSlot,
    pub runtime: Rc<dyn Runtime>,
    pub plans: PlanCache,
    traces: Cell<u64>,
}

impl Worker {
    pub fn new(
        node: Arc<Node>,
        index: u16,
        dispatcher: Dispatcher,
        slot: SnapshotSlot,
    ) -> Rc<Worker> {
        Rc::new(Worker {
            runtime: dispatcher.runtime().clone(),
            node,
            dispatcher,
            slot,
            plans: PlanCache::default(),
            traces: Cell::new(u64::from(index) << 48),
        })
    }

    /// A number that follows one statement across the planes.
    pub fn trace(&self) -> TraceId {
        self.traces.set(self.traces.get() + 1);
        TraceId(self.traces.get())
    }

    /// A request on the server's own account, which reads as of `snapshot`.
    pub fn system_statement(&self, snapshot: CommitTs) -> Arc<Statement> {
        Arc::new(Statement {
            session: SessionId(0),
            actor: ActorId::SYSTEM,
            trace: self.trace(),
            deadline_ns: None,
            snapshot,
            pins: [].into(),
            account: Arc::new(MemoryAccount::new(self.node.facts.statement_memory_max)),
        })
    }

    pub fn statement(
        &self,
        session: SessionId,
        snapshot: CommitTs,
        deadline_ns: Option<u64>,
        pins: Arc<[(CollectionId, SchemaVersion)]>,
    ) -> Arc<Statement> {
        Arc::new(Statement {
            session,
            actor: ActorId::SYSTEM,
            trace: self.trace(),
            deadline_ns,
            snapshot,
            pins,
            account: Arc::new(MemoryAccount::new(self.node.facts.statement_memory_max)),
        })
    }

    /// What a statement's values depend on besides its parameters, for one execution.
    pub fn environment(&self, session: &Arc<SessionInfo>) -> Environment {
        let now_ms = self.node.clock.time().unix_ms();
        Environment {
            now_us: now_ms as i64 * 1000,
            random_seed: self.node.clock.next().0,
            key_seed: self.node.facts.key_seed,
            shards: self.node.facts.shards,
            row_ids: self.node.row_ids.clone(),
            session: session.clone(),
        }
    }
}
