//! A core: one thread's share of the data plane, as a plain struct with a step (P2).
//!
//! [`Core::step`] is one turn: take requests, run ready tasks for a budget, submit and reap I/O,
//! do a piece of upkeep, publish what is final, ring the doorbells. It never blocks. [`run`] puts a
//! thread around it; a simulation calls it in any order it likes.
//!
//! Each request is a task. What the tasks share is in [`state`]; the life of a write is in
//! [`write`], [`transaction`] and [`commit`], that of a read in [`read`], schema changes in
//! [`schema`], that of a checkpoint in [`checkpoint`]. Before the first request is taken, the
//! shards are loaded and the log is replayed (`crate::recover`).

pub mod check;
pub mod checkpoint;
pub mod commit;
pub mod config;
pub mod covered;
pub mod executor;
mod ffi;
mod gather;
pub mod latch;
mod output;
mod read;
pub mod reply;
pub mod run;
pub mod schema;
pub mod state;
pub mod transaction;
mod turns;
pub mod upkeep;
mod write;

#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;

use nodedb_bridge::clock::{Clock, Snapshots};
use nodedb_bridge::reply::Frame;
use nodedb_bridge::request::{CoreReport, LeafReport, MemoryReport, Op, Request};
use nodedb_bridge::wake::Wake;
use nodedb_bridge::wiring::CoreEnds;
use nodedb_types::{CollectionId, Failure, Result};

pub use config::{CoreConfig, Faults};
pub use covered::Covered;
use executor::{Executor, LocalFuture};
pub use ffi::thread_cpu_ns;
pub use latch::NodeLatch;
use reply::Reply;
use state::State;
use turns::{Meter, Turns};

use crate::emit::Emitter;
use crate::emit::retention::Retention;
use crate::io::{Io, IoHandle};
use crate::pace::{Budget, LOOK_UNITS, UNITS_PER_TURN};
use crate::recover;
use crate::shard::Shard;
use crate::store::residency::{Owner, Residency};

/// Requests taken per turn at the most.
const REQUESTS_PER_TURN: usize = 128;
/// Units for taking a request.
const REQUEST_UNITS: u32 = 3;
/// What taking requests may spend of a turn, with all that they do at once; the rest is the tasks'.
const REQUESTS_SHARE: u32 = UNITS_PER_TURN / 2;
const _: () = assert!(
    REQUEST_UNITS < REQUESTS_SHARE && REQUESTS_SHARE + 2 * LOOK_UNITS <= UNITS_PER_TURN,
    "both requests and tasks get on in a turn, and tasks before an arrival may end it"
);

/// What a turn has come to.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// There is more to do at once.
    Busy,
    /// Nothing to do before something arrives, an I/O ends, or this time (nanoseconds) comes;
    /// [`Core::has_news`] tells what has arrived meanwhile. `worked`: the turn did something.
    Idle { until_ns: Option<u64>, worked: bool },
    /// The core cannot go on; the process must not either.
    Broken(Failure),
}

/// What a core shares with the rest of the process.
#[derive(Clone)]
pub struct Shared {
    pub clock: Arc<Clock>,
    pub snapshots: Arc<Snapshots>,
    pub latch: NodeLatch,
    pub covered: Covered,
}

/// The ring of each worker.
type Requests = Rc<RefCell<Vec<rtrb::Consumer<Request>>>>;

/// One core.
pub struct Core {
    state: Rc<State>,
    executor: Executor,
    requests: Requests,
    /// The worker whose ring is looked at first.
    first_worker: usize,
    wake: Arc<Wake>,
    turns: Rc<Cell<Turns>>,
    meter: Meter,
    /// Requests took the tasks' share of the last turn too; in the next one none is taken.
    owes_tasks: bool,
    accepting: bool,
}

impl Core {
    /// A core that begins with its recovery. `cpu_clock`: CPU time of the calling thread, in
    /// nanoseconds.
    pub fn new(
        config: CoreConfig,
        ends: CoreEnds,
        io: Box<dyn Io>,
        shared: Shared,
        cpu_clock: Box<dyn Fn() -> u64>,
    ) -> Core {
        let executor = Executor::default();
        let requests: Requests = Rc::new(RefCell::new(ends.requests));
        let waiting = requests.clone();
        let budget = Rc::new(Budget::cut_short_by(UNITS_PER_TURN, move || {
            waiting.borrow().iter().any(|ring| !ring.is_empty())
        }));
        let spawner = executor.spawner();
        let residency = Residency::new(
            config.leaf_bytes_max,
            config.page_faults,
            budget.clone(),
            Box::new(move |task| spawner.spawn(task)),
        );
        let shards = config
            .own_shards()
            .map(|id| (id, Shard::new(id, &residency)));
        let shards: BTreeMap<_, _> = shards.collect();
        let state = Rc::new(State {
            clock: shared.clock,
            snapshots: shared.snapshots,
            latch: shared.latch,
            covered: shared.covered,
            checkpoint: checkpoint::Checkpoint::default(),
            io: IoHandle::new(io),
            budget,
            residency,
            timers: executor::Timers::default(),
            spawner: executor.spawner(),
            waiters: Rc::default(),
            doorbells: Rc::new(RefCell::new(ends.doorbells)),
            retention: Retention::new(ends.logged),
            emitter: Emitter::new(ends.events, ends.event_wake, ends.low, ends.log_end),
            upcalls: RefCell::new(ends.upcalls),
            upcall_wake: ends.upcall_wake,
            upcalls_waiting: RefCell::default(),
            shards,
            catalog: RefCell::default(),
            wal: OnceCell::new(),
            to_apply: RefCell::default(),
            to_apply_signal: executor::Signal::default(),
            changed: executor::Signal::default(),
            granted: executor::Signal::default(),
            active: RefCell::default(),
            transactions: RefCell::default(),
            directory: RefCell::default(),
            leases: RefCell::default(),
            upkeep: upkeep::Upkeep::default(),
            apply_held: Cell::new(0),
            apply_released: executor::Signal::default(),
            cpu_clock,
            broken: RefCell::default(),
            recovered: Cell::new(false),
            config,
        });
        state.spawner.spawn(recover::recover(state.clone()));
        Core {
            executor,
            requests,
            first_worker: 0,
            wake: ends.wake,
            turns: Rc::default(),
            meter: Meter::default(),
            owes_tasks: false,
            accepting: true,
            state,
        }
    }

    /// True once requests are taken.
    pub fn is_recovered(&self) -> bool {
        self.state.recovered.get()
    }

    /// Units that the last turn spent beyond its budget (P2).
    pub fn overdrawn(&self) -> u32 {
        self.state.budget.overdrawn()
    }

    /// Bytes of row versions that are held.
    pub fn row_bytes(&self) -> usize {
        self.state.shards.values().map(Shard::row_bytes).sum()
    }

    /// Which rows and pages are in memory.
    pub fn leaves(&self) -> LeafReport {
        leaves(&self.state.residency)
    }

    /// Checkpoints of the core's shards so far.
    pub fn checkpoints(&self) -> checkpoint::CheckpointStats {
        self.state.checkpoint.stats.get()
    }

    /// Units of applying since the last checkpoints, those of the replay among them.
    pub fn replay_units(&self) -> u64 {
        self.state.checkpoint.replay_units()
    }

    /// What wakes this core.
    pub fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }

    /// Takes no more requests; what was begun goes on.
    pub fn stop_accepting(&mut self) {
        if std::mem::replace(&mut self.accepting, false) && self.is_recovered() {
            self.state.checkpoint_at_stop();
        }
    }

    /// Asks for checkpoints of all shards here. [`Core::checkpoints`] counts them when they end.
    pub fn checkpoint(&self) {
        self.state.want_checkpoint();
    }

    /// True when nothing is under way but what waits for more.
    pub fn is_drained(&self) -> bool {
        let state = &self.state;
        state.to_apply.borrow().is_empty()
            && state.active.borrow().is_empty()
            && state.checkpoint.is_idle()
            && state
                .wal
                .get()
                .is_none_or(|wal| !wal.needs_seal() || wal.latched().is_some())
    }

    /// One turn at `now_ns` of the monotonic clock.
    pub fn step(&mut self, now_ns: u64) -> Progress {
        let state = self.state.clone();
        self.meter.begin(&state.cpu_clock);
        state.timers.advance(now_ns);
        state.budget.refill(REQUESTS_SHARE);
        let io = &state.io;
        let mut worked = io.in_flight() > 0 && io.poll() > 0;
        worked |= state.waiters.look();
        let is_tasks_turn = std::mem::take(&mut self.owes_tasks);
        if !is_tasks_turn && self.take_requests() {
            worked = true;
            // What was answered at once does not wait for the rest of the turn.
            self.ring_doorbells();
        }
        // However much arrives, the tasks have the rest, of which an arrival leaves them
        // `LOOK_UNITS`. One piece that could not be cut may have taken that as well: then they
        // have the next turn.
        state.budget.extend(UNITS_PER_TURN - REQUESTS_SHARE);
        self.owes_tasks = state.budget.is_spent() && self.executor.has_ready();
        // Looked for only now, and only if it could be taken, so that the tasks get on.
        if self.takes_requests() {
            state.budget.look_for_arrivals();
        }
        // What the tasks submit is on its way before others run.
        worked |= self.executor.run(&state.budget, || {
            if io.in_flight() > 0 {
                io.poll();
            }
        });
        worked |= io.in_flight() > 0 && io.poll() > 0;
        let more = state.upkeep_piece().unwrap_or_else(|failure| {
            state.break_with(failure);
            false
        });
        self.publish();
        worked |= more;
        if worked {
            let wall = state.clock.time().monotonic_ns().saturating_sub(now_ns);
            let cpu = self.meter.end(wall, &state.cpu_clock);
            let mut turns = self.turns.get();
            turns.record(cpu, wall);
            self.turns.set(turns);
        }
        if let Some(failure) = state.broken.borrow().clone() {
            return Progress::Broken(failure);
        }
        self.meter.pause();
        if more || self.executor.has_ready() {
            return Progress::Busy;
        }
        Progress::Idle {
            until_ns: state.timers.next_ns(),
            worked,
        }
    }

    /// Whether something arrived since the last step that the core would sleep over: looked at
    /// after `Wake::prepare_sleep`.
    pub fn has_news(&self) -> bool {
        (self.takes_requests() && self.requests.borrow().iter().any(|ring| !ring.is_empty()))
            || self.state.waiters.look_at_all()
            || self.executor.has_ready()
            || self.state.emitter.can_settle()
    }

    /// The core's files; a thread parks in their wait.
    pub fn io(&self) -> &Rc<IoHandle> {
        &self.state.io
    }

    fn publish(&self) {
        let state = &self.state;
        state.emitter.settle();
        if state.recovered.get() {
            state.publish_low();
            let transactions = state.transactions.borrow();
            let oldest = transactions.keys().next().copied();
            state.covered.publish_open(state.config.core, oldest);
        }
        state.emitter.ring();
        state.send_upcalls();
        self.ring_doorbells();
    }

    fn ring_doorbells(&self) {
        for bell in self.state.doorbells.borrow_mut().iter_mut() {
            bell.ring();
        }
    }

    fn takes_requests(&self) -> bool {
        self.accepting && self.is_recovered() && self.executor.has_room()
    }

    fn take_requests(&mut self) -> bool {
        if !self.takes_requests() {
            return false;
        }
        let workers = self.requests.borrow().len();
        let mut taken = 0;
        let mut empty = 0;
        let mut worker = self.first_worker;
        while taken < REQUESTS_PER_TURN
            && empty < workers
            && !self.state.budget.is_spent()
            && self.executor.has_room()
        {
            let request = self.requests.borrow_mut()[worker].pop();
            match request {
                Ok(request) => {
                    taken += 1;
                    empty = 0;
                    self.start(request);
                }
                Err(_) => empty += 1,
            }
            worker = (worker + 1) % workers;
        }
        self.first_worker = worker;
        taken > 0
    }

    fn start(&mut self, request: Request) {
        let state = self.state.clone();
        state.budget.spend(REQUEST_UNITS);
        let turns = self.turns.clone();
        let reply = Reply::new(
            request.reply,
            state.doorbells.clone(),
            state.waiters.clone(),
        );
        let statement = request.statement;
        // The commonest requests have tasks of their own, which are much smaller than the others'.
        let task: LocalFuture = match request.op {
            Op::GetRow(get) => Box::pin(async move {
                let result = state.get_row(&statement, &get, &reply).await;
                reply.finish(result.map(|()| None)).await;
            }),
            Op::Write(batch) => Box::pin(async move {
                let result = state.write(&statement, &batch, &reply).await;
                reply.finish(result.map(|()| None)).await;
            }),
            op => Box::pin(async move {
                let result = match op {
                    Op::Query(query) => state.query(&statement, &query, &reply).await,
                    op => answer(&state, &statement, op, &turns, &reply)
                        .await
                        .map(|()| None),
                };
                reply.finish(result).await;
            }),
        };
        self.executor.start(task);
    }
}

/// Answers every request but those that have tasks of their own, up to its last frame.
async fn answer(
    state: &Rc<State>,
    statement: &Arc<nodedb_bridge::request::Statement>,
    op: Op,
    turns: &Cell<Turns>,
    reply: &Reply,
) -> Result<()> {
    match op {
        Op::Query(_) | Op::GetRow(_) | Op::Write(_) => {
            Err(Failure::internal("it is answered elsewhere"))
        }
        Op::Get(get) => state.get(statement, &get, reply).await,
        Op::RankStatistics {
            collection,
            index,
            rank,
        } => {
            state
                .rank_statistics(statement, collection, index, &rank, reply)
                .await
        }
        Op::Stage(rows) => state.stage(statement, rows).await,
        Op::Prepare(prepare) => state.prepare(statement, &prepare, reply).await,
        Op::Decide(decide) => state.decide(statement, &decide).await,
        Op::Conclude(conclude) => state.conclude(conclude).await,
        Op::Schema(step) => state.schema(step, reply).await,
        Op::Lease {
            collection,
            shard,
            big,
        } => state.lease(collection, shard, big, reply).await,
        Op::Grant(extent) => state.grant(extent),
        Op::Deny {
            collection,
            shard,
            why,
        } => state.deny(collection, shard, why),
        Op::Check { collection } => state.check(statement, collection, reply).await,
        Op::Report => {
            let report = Box::new(report(state, turns.get()));
            reply.send(Frame::Report(report)).await
        }
    }
}

fn report(state: &State, turns: Turns) -> CoreReport {
    let tables = state.shards.values().flat_map(|s| s.tables());
    CoreReport {
        events_left_to_log: state.emitter.left_to_log(),
        collections: state.catalog.borrow().values().cloned().collect(),
        indexes: state.known_indexes(),
        emitting: emitting(state),
        leases: state.leases.borrow().all().to_vec(),
        rows: tables.filter(|t| !t.id.is_system()).map(|t| t.rows()).sum(),
        turns_cpu: turns.cpu,
        turns_wall: turns.wall,
        wal_bytes: state.wal().bytes_live(),
        memory: memory(state),
        leaves: leaves(&state.residency),
        checkpoints: state.checkpoint_report(),
        latched: state.latch.why().cloned(),
    }
}

fn leaves(residency: &Residency) -> LeafReport {
    let stats = residency.stats();
    LeafReport {
        bytes: residency.bytes() as u64,
        unwritten_bytes: residency.dirty() as u64,
        bytes_max: residency.limit() as u64,
        read: stats.read,
        evicted: stats.evicted,
    }
}

/// What the shards keep for streams, each difference once.
fn emitting(state: &State) -> Vec<(CollectionId, Option<NonZeroU64>)> {
    let tables = state.shards.values().flat_map(|s| s.tables());
    let mut all: Vec<_> = tables
        .filter(|t| !t.id.is_system())
        .map(|t| (t.id, t.emit.get()))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn memory(state: &State) -> MemoryReport {
    let mut memory = MemoryReport::default();
    let residency = &state.residency;
    let held = |owner| residency.held(owner) as u64;
    memory.rows = held(Owner::Rows);
    memory.keys = held(Owner::Keys) + held(Owner::Locations);
    memory.indexes = held(Owner::Indexes);
    for table in state.shards.values().flat_map(|s| s.tables()) {
        memory.keys += table.set_bytes() as u64;
        memory.indexes += table.index_bytes() as u64;
    }
    memory
}
