//! Control workers: one thread, one current-thread Tokio runtime, its own rings.
//!
//! A worker runs the pump that turns doorbells into wake-ups, answers the cores' upcalls (the
//! first worker only), and serves the sessions handed to it. Sessions never move between workers.
//! An idle worker sleeps in epoll on its eventfd and its sockets.

pub mod polls;
pub mod pool;
mod pump;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use nodedb_bridge::clock::TimeSource;

use crate::runtime::Runtime;
use polls::{Polls, Timed};

pub use pump::pump;

/// Stack of a worker's thread, bytes. Parsing and planning recurse with the statement; its limits
/// (`sql::limits`) were measured to fit. Only pages that are touched take memory.
pub const STACK_BYTES: usize = 256 << 20;

/// [`Runtime`] over the present thread's local Tokio runtime.
pub struct TokioRuntime {
    time: Arc<dyn TimeSource>,
    polls: Arc<Polls>,
}

impl TokioRuntime {
    pub fn new(time: Arc<dyn TimeSource>, polls: Arc<Polls>) -> Rc<TokioRuntime> {
        Rc::new(TokioRuntime { time, polls })
    }
}

impl Runtime for TokioRuntime {
    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        let (time, polls) = (self.time.clone(), self.polls.clone());
        tokio::task::spawn_local(Timed::new(task, time, polls));
    }

    fn sleep_until(&self, ns: u64) -> LocalBoxFuture<'static, ()> {
        let left = ns.saturating_sub(self.time.monotonic_ns());
        // reason: this is how a worker sleeps until a deadline.
        Box::pin(tokio::time::sleep(Duration::from_nanos(left)))
    }

    fn now_ns(&self) -> u64 {
        self.time.monotonic_ns()
    }
}
