//! A request's reply as its task sees it: frames out, credit and cancellation in.
//!
//! A task without credit leaves its waker in [`Waiters`]; the core looks there once a turn, a few
//! entries at a time, and at all of them before it parks. A reply that is dropped before its last
//! frame (its task panicked) fails with an internal error.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use nodedb_bridge::plan::LeafReport;
use nodedb_bridge::reply::{Doorbell, Frame, ReplyWriter, Sent};
use nodedb_types::{Failure, Result, SqlState};

use crate::set::Sink;

/// Entries looked at per turn.
const LOOKS_PER_TURN: usize = 64;

/// The doorbells of a core, by worker.
pub type Doorbells = Rc<RefCell<Vec<Doorbell>>>;

/// One stream's writer and its way to the reader's doorbell.
struct Stream {
    writer: RefCell<ReplyWriter>,
    doorbells: Doorbells,
    /// Its place among the [`Waiters`]: one task writes to it, so one is enough.
    place: Cell<Option<u64>>,
}

impl Stream {
    fn try_send(&self, frame: Frame) -> std::result::Result<(), Box<Frame>> {
        let mut writer = self.writer.borrow_mut();
        if writer.try_send(frame).map_err(Box::new)? == Sent::News {
            let worker = usize::from(writer.worker());
            self.doorbells.borrow_mut()[worker].queue(writer.header());
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The reader must also learn of an end without a last frame; it looks when it is told.
        let mut writer = self.writer.borrow_mut();
        writer.leave();
        if writer.has_ended() {
            return;
        }
        let worker = usize::from(writer.worker());
        self.doorbells.borrow_mut()[worker].queue(writer.header());
    }
}

/// Tasks that wait for credit or for their reader to go away; at most one a stream.
#[derive(Default)]
pub struct Waiters {
    by_place: RefCell<BTreeMap<u64, Waiter>>,
    next_place: Cell<u64>,
    /// Where the next look begins.
    cursor: Cell<u64>,
}

struct Waiter {
    stream: Weak<Stream>,
    /// Credit wakes it too, not cancellation alone.
    credit: bool,
    waker: Waker,
}

impl Waiter {
    /// Whether its wait is over; a stream that is gone has nobody to wake.
    fn is_due(&self) -> bool {
        self.stream.upgrade().is_none_or(|stream| {
            let writer = stream.writer.borrow();
            writer.is_cancelled() || (self.credit && writer.has_credit())
        })
    }
}

impl Waiters {
    fn add(&self, stream: &Rc<Stream>, credit: bool, waker: &Waker) {
        let place = stream.place.get().unwrap_or_else(|| {
            let place = self.next_place.get();
            self.next_place.set(place + 1);
            stream.place.set(Some(place));
            place
        });
        let waiter = Waiter {
            stream: Rc::downgrade(stream),
            credit,
            waker: waker.clone(),
        };
        self.by_place.borrow_mut().insert(place, waiter);
    }

    fn look_at(&self, from: u64, count: usize) -> bool {
        let due: Vec<u64> = {
            let waiters = self.by_place.borrow();
            let mut looked = waiters.range(from..).take(count);
            let mut due = Vec::new();
            let mut last = None;
            for (&place, waiter) in looked.by_ref() {
                last = Some(place);
                if waiter.is_due() {
                    due.push(place);
                }
            }
            // Behind the last one the next look begins again at the first.
            self.cursor.set(last.map_or(0, |place| place + 1));
            due
        };
        for place in &due {
            let waiter = self.by_place.borrow_mut().remove(place);
            if let Some(waiter) = waiter {
                waiter.waker.wake();
            }
        }
        !due.is_empty()
    }

    /// Wakes some whose wait is over; each gets a look every few turns.
    pub fn look(&self) -> bool {
        self.look_at(self.cursor.get(), LOOKS_PER_TURN)
    }

    /// Wakes all whose wait is over; before the core parks.
    pub fn look_at_all(&self) -> bool {
        self.look_at(0, usize::MAX)
    }
}

/// A request's reply. It ends with [`Reply::finish`].
pub struct Reply {
    stream: Rc<Stream>,
    waiters: Rc<Waiters>,
    finished: bool,
}

impl Reply {
    pub fn new(writer: ReplyWriter, doorbells: Doorbells, waiters: Rc<Waiters>) -> Reply {
        Reply {
            stream: Rc::new(Stream {
                writer: RefCell::new(writer),
                doorbells,
                place: Cell::new(None),
            }),
            waiters,
            finished: false,
        }
    }

    /// The same stream for a set query. The reply itself still sends the last frame.
    pub fn sink(&self) -> Box<dyn Sink> {
        Box::new(ReplySink {
            stream: self.stream.clone(),
            waiters: self.waiters.clone(),
        })
    }

    pub fn is_cancelled(&self) -> bool {
        self.stream.writer.borrow().is_cancelled()
    }

    /// Ends when the reader has gone.
    pub async fn cancelled(&self) {
        poll_fn(|context| {
            if self.is_cancelled() {
                return Poll::Ready(());
            }
            self.waiters.add(&self.stream, false, context.waker());
            Poll::Pending
        })
        .await;
    }

    /// Sends a frame, waiting for credit. Fails with 57014 when the reader has gone.
    pub async fn send(&self, frame: Frame) -> Result<()> {
        let mut sink = ReplySink {
            stream: self.stream.clone(),
            waiters: self.waiters.clone(),
        };
        let mut frame = Some(frame);
        poll_fn(|context| {
            if sink.is_cancelled() {
                return Poll::Ready(Err(cancelled()));
            }
            sink.poll_send(&mut frame, context).map(Ok)
        })
        .await
    }

    /// Sends the last frame.
    pub async fn finish(mut self, result: Result<Option<Box<LeafReport>>>) {
        let last = match result {
            Ok(report) => Frame::End(report),
            Err(failure) => Frame::Failed(failure),
        };
        // A reader that has gone needs no last frame.
        let _ = self.send(last).await;
        self.finished = true;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.finished {
            let failure = Failure::internal("the request's task failed");
            // Without credit the reader sees the stream end without a last frame.
            let _ = self.stream.try_send(Frame::Failed(failure));
        }
    }
}

/// What a statement is told whose reader went away.
pub fn cancelled() -> Failure {
    Failure::new(
        SqlState::QueryCanceled,
        "canceling statement due to user request",
    )
}

/// What a statement is told whose time is up.
pub fn timed_out() -> Failure {
    Failure::new(
        SqlState::QueryCanceled,
        "canceling statement due to statement timeout",
    )
}

struct ReplySink {
    stream: Rc<Stream>,
    waiters: Rc<Waiters>,
}

impl Sink for ReplySink {
    fn poll_send(&mut self, frame: &mut Option<Frame>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(next) = frame.take() else {
            return Poll::Ready(());
        };
        match self.stream.try_send(next) {
            Ok(()) => Poll::Ready(()),
            Err(back) => {
                *frame = Some(*back);
                self.waiters.add(&self.stream, true, cx.waker());
                Poll::Pending
            }
        }
    }

    fn is_cancelled(&self) -> bool {
        self.stream.writer.borrow().is_cancelled()
    }
}
