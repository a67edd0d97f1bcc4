//! What the tasks of one core share.
//!
//! Everything here belongs to the core's thread. Tasks hold it as `Rc<State>` and borrow its parts
//! for the length of a call, never over an await.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use nodedb_bridge::clock::{Clock, Snapshots};
use nodedb_bridge::request::Statement;
use nodedb_bridge::upcall::Upcall;
use nodedb_bridge::wake::Wake;
use nodedb_types::{
    Collection, CollectionId, CommitTs, CoreId, Failure, Result, ShardId, SqlState, TxnId,
};

use super::checkpoint::Checkpoint;
use super::commit::{Ticket, Work};
use super::config::CoreConfig;
use super::covered::Covered;
use super::executor::{Signal, Spawner, Timers, first_of};
use super::latch::NodeLatch;
use super::reply::{Doorbells, Reply, Waiters, cancelled, timed_out};
use super::transaction::Transaction;
use super::upkeep::Upkeep;
use crate::emit::Emitter;
use crate::emit::retention::Retention;
use crate::io::IoHandle;
use crate::pace::{Budget, Turn, UNITS_PER_TURN};
use crate::set::Host;
use crate::shard::Shard;
use crate::shard::claim::Owner;
use crate::shard::table::Table;
use crate::store::directory::Directory;
use crate::store::extent::Leases;
use crate::store::residency::Residency;
use crate::wal::Wal;

pub struct State {
    pub config: CoreConfig,
    pub clock: Arc<Clock>,
    pub snapshots: Arc<Snapshots>,
    pub latch: NodeLatch,
    pub covered: Covered,
    pub checkpoint: Checkpoint,
    pub io: Rc<IoHandle>,
    pub budget: Rc<Budget>,
    pub residency: Rc<Residency>,
    pub timers: Timers,
    pub spawner: Spawner,
    pub waiters: Rc<Waiters>,
    pub doorbells: Doorbells,
    pub emitter: Emitter,
    /// What change streams need of the log that is being written.
    pub retention: Retention,
    pub upcalls: RefCell<rtrb::Producer<Upcall>>,
    pub upcall_wake: Arc<Wake>,
    /// Upcalls that found the ring full.
    pub upcalls_waiting: RefCell<Vec<Upcall>>,
    pub shards: BTreeMap<ShardId, Shard>,
    pub catalog: RefCell<BTreeMap<CollectionId, Arc<Collection>>>,
    /// Set at the end of the recovery.
    pub wal: OnceCell<Rc<Wal<Work>>>,
    /// Durable work in log order, with who waits for it.
    pub to_apply: RefCell<std::collections::VecDeque<crate::wal::Durable<Work>>>,
    pub to_apply_signal: Signal,
    /// Something was applied or discarded, a claim was given up, a transaction was decided.
    pub changed: Signal,
    /// An extent was granted.
    pub granted: Signal,
    /// Owners that are logged, prepared or decided and not yet emitted: they hold `low` down.
    pub active: RefCell<Vec<Rc<Owner>>>,
    pub transactions: RefCell<BTreeMap<TxnId, Rc<Transaction>>>,
    pub directory: RefCell<Directory>,
    /// On the core of shard 0.
    pub leases: RefCell<Leases>,
    pub upkeep: Upkeep,
    /// Checks under way that need rows and indexes to hold still.
    pub apply_held: Cell<u32>,
    pub apply_released: Signal,
    pub cpu_clock: Box<dyn Fn() -> u64>,
    /// Set when the core cannot go on.
    pub broken: RefCell<Option<Failure>>,
    pub recovered: Cell<bool>,
}

impl State {
    pub fn wal(&self) -> &Rc<Wal<Work>> {
        self.wal
            .get()
            .expect("the log is open once the recovery is over")
    }

    /// The shard, which this core owns; else the request was sent to the wrong core.
    pub fn shard(&self, id: ShardId) -> Result<&Shard> {
        self.shards.get(&id).ok_or_else(|| {
            Failure::internal(format!("shard {id} is not on core {}", self.config.core))
        })
    }

    pub fn table(&self, shard: ShardId, collection: CollectionId) -> Result<Rc<Table>> {
        self.shard(shard)?
            .table(collection)
            .ok_or_else(|| stale_schema(collection))
    }

    /// The tables of a collection on this core, by shard, or the one of `only`.
    pub fn tables(
        &self,
        collection: CollectionId,
        only: Option<ShardId>,
    ) -> Result<Vec<Rc<Table>>> {
        match only {
            Some(shard) => Ok(vec![self.table(shard, collection)?]),
            None => self
                .shards
                .keys()
                .map(|&s| self.table(s, collection))
                .collect(),
        }
    }

    /// Fails with 40001 (retry) when a collection that the statement names has changed.
    pub fn check_pins(&self, statement: &Statement) -> Result<()> {
        let catalog = self.catalog.borrow();
        for (id, version) in &*statement.pins {
            if catalog.get(id).is_none_or(|c| c.version != *version) {
                return Err(stale_schema(*id));
            }
        }
        Ok(())
    }

    /// A timestamp for a commit; `low` is held below it first.
    pub fn next_ts(&self) -> CommitTs {
        self.emitter.hold_low(self.clock.now());
        self.clock.next()
    }

    /// Waits for `event`, the reader's departure or the statement's deadline.
    pub async fn wait_for(
        &self,
        event: impl Future<Output = ()>,
        statement: &Statement,
        reply: &Reply,
    ) -> Result<()> {
        let end = async {
            first_of(reply.cancelled(), self.timers.until(statement.deadline_ns)).await;
        };
        if !first_of(event, end).await {
            return Err(if reply.is_cancelled() {
                cancelled()
            } else {
                timed_out()
            });
        }
        Ok(())
    }

    /// Sends an upcall now or when there is room.
    pub fn upcall(&self, upcall: Upcall) {
        self.upcalls_waiting.borrow_mut().push(upcall);
        self.send_upcalls();
    }

    pub fn send_upcalls(&self) {
        let mut waiting = self.upcalls_waiting.borrow_mut();
        let mut ring = self.upcalls.borrow_mut();
        let mut sent = false;
        while let Some(upcall) = waiting.pop() {
            if let Err(rtrb::PushError::Full(back)) = ring.push(upcall) {
                waiting.push(back);
                break;
            }
            sent = true;
        }
        if sent {
            self.upcall_wake.notify();
        }
    }

    /// Asks for surrogates ahead of need; `need` more are wanted now.
    pub fn ask_for_surrogates(&self, table: &Table, need: usize) {
        if let Some(big) = table.extents.borrow_mut().ask(need) {
            self.upcall(Upcall::NeedExtent {
                core: self.config.core,
                collection: table.id,
                shard: table.shard,
                big,
            });
        }
    }

    /// Makes the node read-only.
    pub fn latch_node(&self, why: &Failure) {
        if self.latch.set(why.clone()) {
            self.upcall(Upcall::Latched {
                core: self.config.core,
                why: why.clone(),
            });
        }
    }

    /// The core stops with this failure.
    pub fn break_with(&self, failure: Failure) {
        self.broken.borrow_mut().get_or_insert(failure);
    }

    /// Enters an owner whose rows are in the log.
    pub fn enter(&self, owner: &Rc<Owner>) {
        self.active.borrow_mut().push(owner.clone());
    }

    /// The owner's rows have been emitted or discarded.
    pub fn leave(&self, owner: &Rc<Owner>) {
        self.active.borrow_mut().retain(|o| !Rc::ptr_eq(o, owner));
    }

    /// Publishes the timestamp below which every commit of this core was emitted, and how far its
    /// log is durable.
    pub fn publish_low(&self) {
        let active = self.active.borrow();
        let low = active.iter().filter_map(|o| o.lower_bound()).min();
        let low = low.unwrap_or(CommitTs(u64::MAX));
        let end = self.wal().durable_end();
        self.retention.note(end, self.wal().stats().bytes);
        self.emitter.publish(low, end);
    }

    /// Waits for the end of a logged piece of work.
    pub async fn finished(&self, ticket: &Rc<Ticket>) -> Result<()> {
        ticket.wait().await
    }

    /// Waits while a check holds rows and indexes still.
    pub async fn apply_allowed(&self) {
        while self.apply_held.get() > 0 {
            self.apply_released.wait().await;
        }
    }

    /// Waits until the table's indexes may be given another row.
    pub async fn indexes_ready(&self, table: &Table) {
        for index in table.indexes() {
            let ready = |turn: &Turn<'_>| index.engine.borrow().poll_ready(turn);
            self.budget.drive(ready).await;
        }
    }

    /// Spends units of the turn and lets the next one begin when they are gone.
    pub async fn spend(&self, units: u32) {
        if !self.budget.spend(units) {
            self.budget.turn().await;
        }
    }

    /// Spends units on work that must go on, whoever waits: a large piece spreads over turns.
    pub async fn spend_large(&self, mut units: u32) {
        while units > UNITS_PER_TURN {
            self.spend(UNITS_PER_TURN).await;
            units -= UNITS_PER_TURN;
        }
        self.spend(units).await;
    }
}

impl Host for State {
    fn core(&self) -> CoreId {
        self.config.core
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn monotonic_ns(&self) -> u64 {
        self.clock.time().monotonic_ns()
    }

    fn cpu_ns(&self) -> u64 {
        (self.cpu_clock)()
    }
}

/// A plan that was made for another schema: control plans again.
pub fn stale_schema(collection: CollectionId) -> Failure {
    Failure::new(
        SqlState::SerializationFailure,
        "the schema changed while the statement ran",
    )
    .with_detail(format!("collection {collection} has another version now"))
    .retryable()
}
