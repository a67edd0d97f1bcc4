//! The core's own executor: local futures, a ready set, a budget of work per turn.
//!
//! A task is polled when its bit in a ready set is on. [`Executor::run`] takes the bits that are on,
//! polls those tasks, and does so again for those that they woke, a few times: what is durable is
//! applied and answered in one turn. A task that wakes itself (`next_turn`) runs again in the next
//! turn, after the rings and the disk were looked at; its bit is in a second set. Wakers must be
//! `Send + Sync`, so the sets are made of atomics; only this thread touches them, and nothing locks.
//!
//! Work is charged to the turn's [`Budget`]. A task asks [`Budget::turn`] between pieces of its
//! work and lets the next turn begin when the budget is spent (P2).
//!
//! A task that panics is dropped and reported; what may not be left half done runs under
//! [`Critical`], which ends the process instead.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::pace::Budget;

pub type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks of one core at a time; requests wait in their rings beyond half of it (B1).
pub const TASKS_MAX: usize = 1 << 16;
const WORDS: usize = TASKS_MAX / 64;
/// How often a turn looks for tasks that became ready in it: from a flush over applying to the
/// answers takes three rounds.
const ROUNDS_PER_TURN: usize = 4;

/// Bits of tasks to poll, with a summary bit per word.
struct ReadySet {
    words: Vec<AtomicU64>,
    summary: Vec<AtomicU64>,
}

impl ReadySet {
    fn new() -> ReadySet {
        let words = |n| (0..n).map(|_| AtomicU64::new(0)).collect();
        ReadySet {
            words: words(WORDS),
            summary: words(WORDS / 64),
        }
    }

    fn set(&self, slot: usize) {
        self.words[slot / 64].fetch_or(1 << (slot % 64), Ordering::Relaxed);
        self.summary[slot / 4096].fetch_or(1 << (slot / 64 % 64), Ordering::Relaxed);
    }

    fn has(&self, slot: usize) -> bool {
        self.words[slot / 64].load(Ordering::Relaxed) & 1 << (slot % 64) != 0
    }

    fn any(&self) -> bool {
        self.summary.iter().any(|s| s.load(Ordering::Relaxed) != 0)
    }

    fn take(&self, out: &mut VecDeque<usize>) {
        for (s, summary) in self.summary.iter().enumerate() {
            if summary.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut words = summary.swap(0, Ordering::Relaxed);
            while words != 0 {
                let word = s * 64 + words.trailing_zeros() as usize;
                words &= words - 1;
                let mut bits = self.words[word].swap(0, Ordering::Relaxed);
                while bits != 0 {
                    out.push_back(word * 64 + bits.trailing_zeros() as usize);
                    bits &= bits - 1;
                }
            }
        }
    }
}

/// Which tasks are to be polled.
struct Woken {
    /// In this turn, if there is a round left.
    now: ReadySet,
    /// In the next turn: they woke themselves.
    later: ReadySet,
    /// The task that is being polled.
    polled: AtomicUsize,
}

struct TaskWaker {
    slot: usize,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        let Woken { now, later, polled } = &*self.woken;
        if polled.load(Ordering::Relaxed) == self.slot {
            later.set(self.slot);
        } else if !later.has(self.slot) {
            now.set(self.slot);
        }
    }
}

/// No task's slot.
const NOBODY: usize = usize::MAX;

struct Slot {
    task: Option<LocalFuture>,
    waker: Waker,
}

/// Runs the tasks of one core.
pub struct Executor {
    slots: Vec<Slot>,
    free: Vec<usize>,
    woken: Arc<Woken>,
    queue: VecDeque<usize>,
    spawned: Rc<RefCell<Vec<LocalFuture>>>,
    panics: u64,
}

/// Starts tasks from within tasks.
#[derive(Clone)]
pub struct Spawner(Rc<RefCell<Vec<LocalFuture>>>);

impl Spawner {
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.borrow_mut().push(Box::pin(task));
    }
}

impl Default for Executor {
    fn default() -> Executor {
        Executor {
            slots: Vec::new(),
            free: Vec::new(),
            woken: Arc::new(Woken {
                now: ReadySet::new(),
                later: ReadySet::new(),
                polled: AtomicUsize::new(NOBODY),
            }),
            queue: VecDeque::new(),
            spawned: Rc::default(),
            panics: 0,
        }
    }
}

impl Executor {
    pub fn spawner(&self) -> Spawner {
        Spawner(self.spawned.clone())
    }

    /// Tasks that have not ended.
    pub fn tasks(&self) -> usize {
        self.slots.len() - self.free.len() + self.spawned.borrow().len()
    }

    /// True when another request may be taken: each may start a task of its own, a reading.
    pub fn has_room(&self) -> bool {
        self.tasks() < TASKS_MAX / 2
    }

    /// Tasks that panicked so far.
    pub fn panics(&self) -> u64 {
        self.panics
    }

    /// True when `run` has something to poll.
    pub fn has_ready(&self) -> bool {
        !self.queue.is_empty()
            || !self.spawned.borrow().is_empty()
            || self.woken.now.any()
            || self.woken.later.any()
    }

    /// Starts a task and polls it once.
    pub fn start(&mut self, task: LocalFuture) {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = self.slots.len();
            assert!(
                slot < TASKS_MAX,
                "tasks are started only where there is room"
            );
            self.slots.push(Slot {
                task: None,
                waker: Waker::from(Arc::new(TaskWaker {
                    slot,
                    woken: self.woken.clone(),
                })),
            });
            slot
        });
        self.slots[slot].task = Some(task);
        self.poll(slot);
    }

    /// Polls the tasks that are ready, and those that become ready by it, for some rounds or until
    /// the budget is spent; calls `between` after each round. True when it did anything.
    pub fn run(&mut self, budget: &Budget, mut between: impl FnMut()) -> bool {
        self.start_spawned();
        let is_behind = !self.queue.is_empty();
        // Behind what the last turn left, but before what others woke since: it has waited longest.
        self.woken.later.take(&mut self.queue);
        if !is_behind {
            self.woken.now.take(&mut self.queue);
        }
        let mut ran = false;
        for _ in 0..ROUNDS_PER_TURN {
            if self.queue.is_empty() || budget.is_spent() {
                break;
            }
            ran = true;
            while !budget.is_spent()
                && let Some(slot) = self.queue.pop_front()
            {
                self.poll(slot);
            }
            self.start_spawned();
            between();
            if self.queue.is_empty() {
                self.woken.now.take(&mut self.queue);
            }
        }
        ran
    }

    fn start_spawned(&mut self) {
        while let Some(task) = { self.spawned.borrow_mut().pop() } {
            self.start(task);
        }
    }

    fn poll(&mut self, slot: usize) {
        let Slot { task, waker } = &mut self.slots[slot];
        let Some(future) = task else {
            return;
        };
        let mut context = Context::from_waker(waker);
        self.woken.polled.store(slot, Ordering::Relaxed);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        self.woken.polled.store(NOBODY, Ordering::Relaxed);
        match polled {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) => self.finish(slot),
            Err(_) => {
                self.panics += 1;
                self.finish(slot);
            }
        }
    }

    fn finish(&mut self, slot: usize) {
        // Dropping a task that panicked may panic again; its parts are lost then, the core is not.
        let task = self.slots[slot].task.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
        self.free.push(slot);
    }
}

/// Ends the process if it is dropped by a panic: what it guards changes rows or the log, and must
/// never be left half done.
pub struct Critical;

impl Drop for Critical {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Goes on in the next turn.
pub fn next_turn() -> impl Future<Output = ()> {
    let mut waited = false;
    std::future::poll_fn(move |context| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Something that several tasks wait for: each [`Signal::notify`] wakes all of them.
#[derive(Default)]
pub struct Signal {
    generation: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    pub fn notify(&self) {
        self.generation.set(self.generation.get() + 1);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits for the first `notify` after this call (not after the first poll).
    pub fn wait(&self) -> impl Future<Output = ()> + '_ {
        let since = self.generation.get();
        let mut registered = false;
        std::future::poll_fn(move |context| {
            if self.generation.get() != since {
                return Poll::Ready(());
            }
            // A task has one waker all its life.
            if !std::mem::replace(&mut registered, true) {
                self.waiting.borrow_mut().push(context.waker().clone());
            }
            Poll::Pending
        })
    }
}

/// Deadlines of tasks, fired by the core's clock.
#[derive(Default)]
pub struct Timers {
    now_ns: Cell<u64>,
    next_id: Cell<u64>,
    waiting: RefCell<BTreeMap<(u64, u64), Waker>>,
}

impl Timers {
    pub fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Sets the clock and wakes whose time has come.
    pub fn advance(&self, now_ns: u64) {
        self.now_ns.set(now_ns);
        let mut waiting = self.waiting.borrow_mut();
        while let Some(first) = waiting.first_entry()
            && first.key().0 <= now_ns
        {
            first.remove().wake();
        }
    }

    /// The next deadline.
    pub fn next_ns(&self) -> Option<u64> {
        self.waiting
            .borrow()
            .first_key_value()
            .map(|(key, _)| key.0)
    }

    /// Ends at `at_ns`, or never for `None`.
    pub fn until(&self, at_ns: Option<u64>) -> Sleep<'_> {
        Sleep {
            timers: self,
            at_ns,
            entry: None,
        }
    }
}

/// See [`Timers::until`].
pub struct Sleep<'a> {
    timers: &'a Timers,
    at_ns: Option<u64>,
    entry: Option<(u64, u64)>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(at_ns) = self.at_ns else {
            return Poll::Pending;
        };
        if at_ns <= self.timers.now_ns.get() {
            return Poll::Ready(());
        }
        let key = self.entry.unwrap_or_else(|| {
            let id = self.timers.next_id.get();
            self.timers.next_id.set(id + 1);
            (at_ns, id)
        });
        self.entry = Some(key);
        self.timers
            .waiting
            .borrow_mut()
            .insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.entry {
            self.timers.waiting.borrow_mut().remove(&key);
        }
    }
}

/// Waits for either; true when the first ended (it is looked at first).
pub async fn first_of(a: impl Future<Output = ()>, b: impl Future<Output = ()>) -> bool {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    std::future::poll_fn(|context| {
        if a.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        b.as_mut().poll(context).map(|()| false)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(executor: &mut Executor, budget: &Budget, n: usize) {
        for _ in 0..n {
            budget.refill(10);
            executor.run(budget, || {});
        }
    }

    #[test]
    fn a_spent_budget_ends_the_turn_for_every_task() {
        let (mut executor, budget) = (Executor::default(), Rc::new(Budget::new(10)));
        let done = Rc::new(Cell::new(0));
        budget.refill(10);
        for _ in 0..3 {
            let (budget, done) = (budget.clone(), done.clone());
            executor.start(Box::pin(async move {
                for _ in 0..4 {
                    budget.spend(10);
                    budget.turn().await;
                }
                done.set(done.get() + 1);
            }));
        }
        turns(&mut executor, &budget, 8);
        assert!(done.get() < 3, "one piece a turn");
        turns(&mut executor, &budget, 4);
        assert_eq!(done.get(), 3);
        assert_eq!(executor.tasks(), 0);
        assert!(!executor.has_ready());
    }

    #[test]
    fn whoever_waits_for_the_next_turn_has_it_however_many_are_woken() {
        let (mut executor, budget) = (Executor::default(), Rc::new(Budget::new(10)));
        // Two that wake each other and spend a turn each time.
        let bells: [Rc<Signal>; 2] = Default::default();
        budget.refill(10);
        for at in 0..2 {
            let (budget, bells) = (budget.clone(), bells.clone());
            executor.start(Box::pin(async move {
                loop {
                    let rung = bells[at].wait();
                    bells[1 - at].notify();
                    rung.await;
                    budget.spend(10);
                }
            }));
        }
        let done = Rc::new(Cell::new(false));
        executor.start(Box::pin({
            let done = done.clone();
            async move {
                next_turn().await;
                next_turn().await;
                done.set(true);
            }
        }));
        turns(&mut executor, &budget, 8);
        assert!(done.get());
    }

    #[test]
    fn signals_timers_and_panics() {
        let (mut executor, budget) = (Executor::default(), Budget::new(10));
        let (signal, timers) = (Rc::new(Signal::default()), Rc::new(Timers::default()));
        let log = Rc::new(RefCell::new(Vec::new()));
        for (name, at) in [("timer", Some(5)), ("signal", None)] {
            let (signal, timers, log) = (signal.clone(), timers.clone(), log.clone());
            executor.start(Box::pin(async move {
                let fired = first_of(timers.until(at), signal.wait()).await;
                log.borrow_mut().push((name, fired));
            }));
        }
        executor.start(Box::pin(async { panic!("a query's own fault") }));
        assert_eq!(executor.panics(), 1);
        assert_eq!(timers.next_ns(), Some(5));
        timers.advance(5);
        turns(&mut executor, &budget, 1);
        signal.notify();
        turns(&mut executor, &budget, 1);
        assert_eq!(*log.borrow(), [("timer", true), ("signal", false)]);
        assert_eq!((executor.tasks(), timers.next_ns()), (0, None));
    }
}
