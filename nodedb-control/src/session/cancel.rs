//! Stopping a statement: by its client, by its deadline.
//!
//! A [`Cancel`] belongs to a session; any thread may raise it. What a statement awaits is awaited
//! through [`Limits::guard`], which ends it with 57014; dropping the statement's reply readers
//! then stops the work on every core. A write that has been sent is not abandoned like that: its
//! outcome would be unknown, so its waiters look at [`Cancel::is_raised`] before they send.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures::task::AtomicWaker;
use nodedb_types::{Failure, Result, SqlState};

use crate::runtime::Runtime;

/// A session's stop sign.
#[derive(Default)]
pub struct Cancel {
    raised: AtomicBool,
    waker: AtomicWaker,
}

impl Cancel {
    /// Stops the statement that runs now, if there is one.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// A statement begins: what was raised before it does not concern it.
    pub fn clear(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }

    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    fn poll_raised(&self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        if self.is_raised() {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        match self.is_raised() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// What ends a statement before its time.
#[derive(Clone)]
pub struct Limits {
    pub cancel: Arc<Cancel>,
    /// Nanoseconds of the monotone clock.
    pub deadline_ns: Option<u64>,
    pub runtime: Rc<dyn Runtime>,
}

impl Limits {
    /// Awaits `work` unless the statement is cancelled or out of time first (57014).
    pub async fn guard<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        let mut alarm = self.deadline_ns.map(|ns| self.runtime.sleep_until(ns));
        poll_fn(|cx| {
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if self.cancel.poll_raised(cx).is_ready() {
                return Poll::Ready(Err(cancelled()));
            }
            let late = alarm
                .as_mut()
                .is_some_and(|a| a.as_mut().poll(cx).is_ready());
            match late {
                true => Poll::Ready(Err(timed_out())),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Fails if the statement was cancelled or is out of time.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_raised() {
            return Err(cancelled());
        }
        match self.deadline_ns {
            Some(ns) if self.runtime.now_ns() >= ns => Err(timed_out()),
            _ => Ok(()),
        }
    }
}

fn cancelled() -> Failure {
    Failure::new(
        SqlState::QueryCanceled,
        "canceling statement due to user request",
    )
}

pub(crate) fn timed_out() -> Failure {
    Failure::new(
        SqlState::QueryCanceled,
        "canceling statement due to statement timeout",
    )
}
