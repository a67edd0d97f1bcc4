//! What surrounds a query task: its statement, the core that runs it, and where rows go.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use nodedb_bridge::reply::Frame;
use nodedb_bridge::request::Statement;
use nodedb_types::{CommitTs, CoreId, Failure, Result, SqlState};

use crate::pace::{Budget, Turn};

/// The core as its tasks see it.
pub trait Host {
    fn core(&self) -> CoreId;

    fn budget(&self) -> &Budget;

    /// As `TimeSource::monotonic_ns`.
    fn monotonic_ns(&self) -> u64;

    /// CPU time of this thread, nanoseconds.
    fn cpu_ns(&self) -> u64;
}

/// Where the frames of one reply go.
pub trait Sink {
    /// Takes the frame out of `frame` when there is credit; else `Pending`, and the task is woken
    /// when there may be some.
    fn poll_send(&mut self, frame: &mut Option<Frame>, cx: &mut TaskContext<'_>) -> Poll<()>;

    /// The reader has gone.
    fn is_cancelled(&self) -> bool;
}

/// All of it for one query.
pub struct Context {
    statement: Arc<Statement>,
    host: Rc<dyn Host>,
    sink: RefCell<Box<dyn Sink>>,
    cpu_ns: Cell<u64>,
}

impl Context {
    pub fn new(statement: Arc<Statement>, host: Rc<dyn Host>, sink: Box<dyn Sink>) -> Context {
        Context {
            statement,
            host,
            sink: RefCell::new(sink),
            cpu_ns: Cell::new(0),
        }
    }

    pub fn statement(&self) -> &Arc<Statement> {
        &self.statement
    }

    pub fn snapshot(&self) -> CommitTs {
        self.statement.snapshot
    }

    pub fn core(&self) -> CoreId {
        self.host.core()
    }

    pub fn budget(&self) -> &Budget {
        self.host.budget()
    }

    /// CPU time measured by [`Context::metered`].
    pub fn cpu_ns(&self) -> u64 {
        self.cpu_ns.get()
    }

    /// Fails with 57014 when the reader has gone or the statement's time is up.
    pub fn check(&self) -> Result<()> {
        if self.sink.borrow().is_cancelled() {
            return Err(Failure::new(
                SqlState::QueryCanceled,
                "canceling statement due to user request",
            ));
        }
        match self.statement.deadline_ns {
            Some(deadline) if self.host.monotonic_ns() > deadline => Err(Failure::new(
                SqlState::QueryCanceled,
                "canceling statement due to statement timeout",
            )),
            _ => Ok(()),
        }
    }

    /// Pays `units` for what was done; waits for the next turn when nothing is left, and looks
    /// then whether the work is still wanted.
    pub async fn spend(&self, units: u32) -> Result<()> {
        if self.budget().spend(units) {
            return Ok(());
        }
        self.budget().turn().await;
        self.check()
    }

    /// Drives a pollable step to its end. Each turn begins with a look whether the work is still
    /// wanted.
    pub async fn drive<T>(&self, mut step: impl FnMut(&Turn<'_>) -> Poll<Result<T>>) -> Result<T> {
        let mut first = true;
        self.budget()
            .drive(|turn| {
                if !std::mem::take(&mut first) {
                    self.check()?;
                }
                step(turn)
            })
            .await
    }

    /// Sends a frame, waiting for credit.
    pub async fn send(&self, frame: Frame) -> Result<()> {
        let mut frame = Some(frame);
        poll_fn(|cx| {
            self.check()?;
            self.sink.borrow_mut().poll_send(&mut frame, cx).map(Ok)
        })
        .await
    }

    /// Runs `work` and adds up the CPU time of its pieces where `measure` says so.
    pub async fn metered<T>(&self, measure: bool, work: impl Future<Output = T>) -> T {
        let mut work: Pin<Box<dyn Future<Output = T> + '_>> = Box::pin(work);
        poll_fn(|cx| {
            if !measure {
                return work.as_mut().poll(cx);
            }
            let began = self.host.cpu_ns();
            let polled = work.as_mut().poll(cx);
            let spent = self.host.cpu_ns().saturating_sub(began);
            self.cpu_ns.set(self.cpu_ns.get() + spent);
            polled
        })
        .await
    }
}
