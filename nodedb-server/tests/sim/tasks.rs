//! Tasks and virtual time: what a session needs of the thread it runs on, stepped by hand.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::LocalBoxFuture;
use nodedb_bridge::clock::TimeSource;
use nodedb_control::runtime::Runtime;

use crate::workload::random::Random;

/// The machine's clocks, moved by hand.
#[derive(Default)]
pub struct Time(pub AtomicU64);

impl TimeSource for Time {
    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.monotonic_ns() / 1_000_000
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task {
    future: LocalBoxFuture<'static, ()>,
    ready: Arc<Ready>,
}

/// The tasks of one worker.
pub struct Tasks {
    tasks: RefCell<Vec<Task>>,
    sleepers: Rc<RefCell<Vec<(u64, Waker)>>>,
    time: Arc<Time>,
}

impl Tasks {
    pub fn new(time: Arc<Time>) -> Rc<Tasks> {
        Rc::new(Tasks {
            tasks: RefCell::default(),
            sleepers: Rc::default(),
            time,
        })
    }

    /// Wakes those whose time has come and polls one task that is ready, drawn at random; false
    /// when there is none.
    pub fn step(&self, random: &mut Random) -> bool {
        let now = self.time.monotonic_ns();
        self.sleepers.borrow_mut().retain(|(at, waker)| {
            if *at <= now {
                waker.wake_by_ref();
            }
            *at > now
        });
        let ready: Vec<usize> = {
            let tasks = self.tasks.borrow();
            let is_ready = |i: &usize| tasks[*i].ready.0.load(Ordering::Relaxed);
            (0..tasks.len()).filter(is_ready).collect()
        };
        if ready.is_empty() {
            return false;
        }
        // Taken out while it is polled, since it may spawn others.
        let mut task = self.tasks.borrow_mut().swap_remove(*random.pick(&ready));
        task.ready.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(task.ready.clone());
        if task
            .future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            self.tasks.borrow_mut().push(task);
        }
        true
    }

    /// Ends every task where it stands, as a power cut does.
    pub fn clear(&self) {
        let tasks = self.tasks.take();
        drop(tasks);
        self.sleepers.take();
    }
}

impl Runtime for Tasks {
    fn spawn(&self, future: LocalBoxFuture<'static, ()>) {
        let ready = Arc::new(Ready(AtomicBool::new(true)));
        self.tasks.borrow_mut().push(Task { future, ready });
    }

    fn sleep_until(&self, ns: u64) -> LocalBoxFuture<'static, ()> {
        let (sleepers, time) = (self.sleepers.clone(), self.time.clone());
        Box::pin(poll_fn(move |cx| {
            if time.monotonic_ns() >= ns {
                return Poll::Ready(());
            }
            sleepers.borrow_mut().push((ns, cx.waker().clone()));
            Poll::Pending
        }))
    }

    fn now_ns(&self) -> u64 {
        self.time.monotonic_ns()
    }
}
