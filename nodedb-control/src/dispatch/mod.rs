//! How a worker talks to the cores: requests out, reply streams back.
//!
//! A [`Dispatcher`] belongs to one worker thread and owns that worker's ends of the request rings.
//! A full ring or too many open streams makes the sender wait until the worker's pump has seen
//! news or a short time has passed (a core that takes requests without answering rings no bell).
//! The number of open streams is kept exactly: the dispatcher holds every stream's header, and one
//! that nobody else holds any more is closed, so the doorbell rings can never overflow (B1).
//!
//! Cores are woken in batches: a send notes that its core is owed a wake, and a task of the worker
//! wakes those cores when the tasks that were ready before it have run. Statements that arrived
//! together thus reach a sleeping core together, at the price of one wake.
//!
//! Cores that are asked one question together are woken on processors of their own where each core
//! has one ([`Dispatcher::spread_over`]), and the one that is to run where the worker runs last, as it
//! may run at once. Whoever is woken alone runs where the system sees fit, mostly beside the worker.
//!
//! [`collect`] reads answers whole, [`leaf`] serves threads that own no ring, [`upcall`] answers
//! what cores ask for.

pub mod collect;
pub mod leaf;
pub mod upcall;

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};

use nodedb_bridge::reply::{self, Gathering, Header, ReplyReader};
use nodedb_bridge::request::{Op, Request, Statement};
use nodedb_bridge::schedule;
use nodedb_bridge::wake::Wake;
use nodedb_bridge::wiring::WorkerEnds;
use nodedb_types::{CoreId, ShardId, limits};

use self::collect::Gathered;
use crate::runtime::{self, Runtime};

/// How long a sender waits before it looks at a full ring again without having been told,
/// nanoseconds.
const FULL_RETRY_NS: u64 = 100_000;

/// A worker's way to the cores. Clones share it; it stays on its thread.
#[derive(Clone)]
pub struct Dispatcher(Rc<Inner>);

struct Inner {
    worker: u16,
    lanes: Vec<Lane>,
    /// Streams that may be open towards one core.
    streams_max: usize,
    /// Those who wait for room.
    waiting: RefCell<Vec<Waker>>,
    /// The task that wakes cores, while no core is owed a wake.
    ringer: Cell<Option<Waker>>,
    /// Counts the pump's runs that woke somebody.
    news: Cell<u64>,
    /// Those on which cores that are asked together are woken, by core.
    processors: OnceCell<Vec<usize>>,
    runtime: Rc<dyn Runtime>,
}

/// One core as this worker sees it.
struct Lane {
    requests: RefCell<rtrb::Producer<Request>>,
    wake: Arc<Wake>,
    /// Something was sent since the core was last woken.
    owes_wake: Cell<bool>,
    /// It was sent to others as well.
    is_apart: Cell<bool>,
    streams: RefCell<Streams>,
}

/// Every stream that may still be open towards a core.
#[derive(Default)]
struct Streams {
    headers: Vec<Arc<Header>>,
    sweep_at: usize,
}

impl Streams {
    /// Forgets streams that nobody but this list holds, when it has grown enough to be worth it.
    fn sweep(&mut self, max: usize) {
        if self.headers.len() >= self.sweep_at.max(64) || self.headers.len() >= max {
            self.headers.retain(|h| Arc::strong_count(h) > 1);
            self.sweep_at = self.headers.len() * 2;
        }
    }
}

impl Dispatcher {
    /// `ends`: the worker's rings, of which the pump and the upcalls stay with the caller.
    pub fn new(
        worker: u16,
        requests: Vec<rtrb::Producer<Request>>,
        core_wakes: Vec<Arc<Wake>>,
        streams_max: usize,
        runtime: Rc<dyn Runtime>,
    ) -> Dispatcher {
        assert_eq!(requests.len(), core_wakes.len(), "one wake per core");
        let lanes = requests
            .into_iter()
            .zip(core_wakes)
            .map(|(requests, wake)| Lane {
                requests: RefCell::new(requests),
                wake,
                owes_wake: Cell::new(false),
                is_apart: Cell::new(false),
                streams: RefCell::default(),
            })
            .collect();
        let inner = Rc::new(Inner {
            worker,
            lanes,
            streams_max,
            waiting: RefCell::default(),
            ringer: Cell::default(),
            news: Cell::new(0),
            processors: OnceCell::new(),
            runtime,
        });
        inner.runtime.spawn(Box::pin(ring(Rc::downgrade(&inner))));
        Dispatcher(inner)
    }

    /// Tells once on which processors cores are kept that are asked together. Unless there is one
    /// for each core and no more, they go where the system sends them: a share of many processors
    /// is not for us to choose from.
    pub fn spread_over(&self, processors: Vec<usize>) {
        if processors.len() == self.0.lanes.len() {
            // Whoever says it first is right.
            let _ = self.0.processors.set(processors);
        }
    }

    /// Requests to all cores are about to be made: cores that sleep and are to be woken on another
    /// processor than this wake already. An idle processor takes 20 to 50 µs to do so, about as long
    /// as a question takes to be read and planned.
    pub fn wake_ahead(&self) {
        let Some(processors) = self.0.processors.get() else {
            return;
        };
        let here = schedule::here();
        for (lane, own) in self.0.lanes.iter().zip(processors) {
            if Some(*own) != here {
                lane.wake.notify_ahead(*own);
            }
        }
    }

    /// What is sent next is for several cores.
    fn keep_apart(&self) {
        if self.0.lanes.len() > 1 {
            self.0.lanes.iter().for_each(|lane| lane.is_apart.set(true));
        }
    }

    /// Takes the request rings out of `ends`; what is left is the worker's pump and upcalls.
    pub fn of_ends(
        ends: &mut WorkerEnds,
        streams_max: usize,
        runtime: Rc<dyn Runtime>,
    ) -> Dispatcher {
        Dispatcher::new(
            ends.worker,
            std::mem::take(&mut ends.requests),
            ends.core_wakes.clone(),
            streams_max,
            runtime,
        )
    }

    pub fn cores(&self) -> u16 {
        self.0.lanes.len() as u16
    }

    pub fn all_cores(&self) -> impl Iterator<Item = CoreId> + use<> {
        (0..self.cores()).map(CoreId)
    }

    /// The core that owns `shard` in this run.
    pub fn core_of(&self, shard: ShardId) -> CoreId {
        shard.core(self.cores())
    }

    pub fn runtime(&self) -> &Rc<dyn Runtime> {
        &self.0.runtime
    }

    /// Sends a request and opens its reply stream. Waits while the core's ring is full.
    pub async fn send(&self, core: CoreId, statement: &Arc<Statement>, op: Op) -> ReplyReader {
        self.send_within(core, statement, op, None).await
    }

    async fn send_within(
        &self,
        core: CoreId,
        statement: &Arc<Statement>,
        mut op: Op,
        gathering: Option<&Arc<Gathering>>,
    ) -> ReplyReader {
        loop {
            op = match self.try_send_within(core, statement, op, gathering) {
                Ok(reader) => return reader,
                Err(op) => op,
            };
            self.room().await;
        }
    }

    /// Sends a request if there is room for it and its stream; else gives the op back.
    // The op is handed back on a path that is rare, so its size does not matter.
    #[allow(clippy::result_large_err)]
    pub fn try_send(
        &self,
        core: CoreId,
        statement: &Arc<Statement>,
        op: Op,
    ) -> Result<ReplyReader, Op> {
        self.try_send_within(core, statement, op, None)
    }

    // As above.
    #[allow(clippy::result_large_err)]
    fn try_send_within(
        &self,
        core: CoreId,
        statement: &Arc<Statement>,
        op: Op,
        gathering: Option<&Arc<Gathering>>,
    ) -> Result<ReplyReader, Op> {
        let lane = &self.0.lanes[core.0 as usize];
        let mut streams = lane.streams.borrow_mut();
        streams.sweep(self.0.streams_max);
        let mut requests = lane.requests.borrow_mut();
        if streams.headers.len() >= self.0.streams_max || requests.is_full() {
            return Err(op);
        }
        let (writer, reader) = reply::open(
            limits::REPLY_CREDITS,
            self.0.worker,
            lane.wake.clone(),
            gathering.cloned(),
        );
        streams.headers.push(writer.header().clone());
        let pushed = requests.push(Request {
            statement: statement.clone(),
            op,
            reply: writer,
        });
        assert!(pushed.is_ok(), "the ring had a slot and has one producer");
        // Whoever is owed one already has the ringer on its way.
        if !lane.owes_wake.replace(true)
            && let Some(ringer) = self.0.ringer.take()
        {
            ringer.wake();
        }
        Ok(reader)
    }

    /// Sends one request to each core; the readers are in the cores' order.
    pub async fn broadcast(
        &self,
        statement: &Arc<Statement>,
        mut op: impl FnMut(CoreId) -> Op,
    ) -> Vec<ReplyReader> {
        let mut readers = Vec::with_capacity(self.0.lanes.len());
        self.keep_apart();
        for core in self.all_cores() {
            readers.push(self.send(core, statement, op(core)).await);
        }
        readers
    }

    /// Sends one request to each core, for answers that are of use together: whoever reads them is
    /// woken once.
    pub async fn gather(
        &self,
        statement: &Arc<Statement>,
        mut op: impl FnMut(CoreId) -> Op,
    ) -> Gathered {
        let gathering = Gathering::new(self.0.lanes.len());
        self.keep_apart();
        let mut readers = Vec::with_capacity(self.0.lanes.len());
        for core in self.all_cores() {
            let sent = self.send_within(core, statement, op(core), Some(&gathering));
            readers.push(sent.await);
        }
        Gathered::new(readers)
    }

    /// Called by the worker's pump when it has woken readers: whoever waits for room looks again.
    pub fn on_news(&self) {
        self.0.news.set(self.0.news.get() + 1);
        for waker in self.0.waiting.take() {
            waker.wake();
        }
    }

    /// Waits until there may be room again.
    async fn room(&self) {
        let seen = self.0.news.get();
        let told = poll_fn(|cx| {
            if self.0.news.get() != seen {
                return Poll::Ready(());
            }
            self.0.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        });
        let deadline = self.0.runtime.now_ns() + FULL_RETRY_NS;
        let _ = runtime::until(&*self.0.runtime, Some(deadline), told).await;
    }
}

impl Inner {
    /// Wakes the cores that are owed a wake.
    fn wake_cores(&self) {
        let Some(processors) = self.processors.get() else {
            for lane in &self.lanes {
                if lane.owes_wake.replace(false) {
                    lane.wake.notify();
                }
            }
            return;
        };
        let here = schedule::here();
        for is_here in [false, true] {
            for (lane, own) in self.lanes.iter().zip(processors) {
                if (Some(*own) == here) == is_here && lane.owes_wake.replace(false) {
                    let apart = lane.is_apart.replace(false).then_some(*own);
                    lane.wake.notify_on(apart, processors);
                }
            }
        }
    }
}

/// Wakes the cores that are owed a wake, whenever there are some; ends with the dispatcher.
async fn ring(inner: Weak<Inner>) {
    poll_fn(|cx| {
        let Some(inner) = inner.upgrade() else {
            return Poll::Ready(());
        };
        inner.wake_cores();
        inner.ringer.set(Some(cx.waker().clone()));
        Poll::Pending
    })
    .await;
}
