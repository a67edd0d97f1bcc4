//! Replies are streams with credits.
//!
//! Opening one allocates a small SPSC ring; its capacity is the credits. The consumer end is
//! `Send` and moves with its task. The header's atomics carry what flows the other way: that the
//! reader went away, and that a producer waits for room. A producer without credit parks its task,
//! never its core. A core never calls a waker (it may take a lock): it queues the stream in the
//! [`Doorbell`] of the worker that opened it, at most once, and that worker's [`Pump`] wakes the
//! reader.
//!
//! A stream ends with [`Frame::End`] or [`Frame::Failed`]; a writer that is dropped before makes
//! the reader see the end of the stream without either, which only a panic can cause.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use futures::task::AtomicWaker;
use nodedb_types::{CommitTs, Failure};

use crate::plan::{Extent, LeafReport, TextStatistics};
use crate::wake::Wake;

/// One message of a reply.
#[derive(Debug)]
pub enum Frame {
    /// Rows, at most `FRAME_BYTES_MAX` or one row.
    Batch(RecordBatch),
    /// One row of the columns asked for, encoded by `nodedb_types::row`.
    Row(Box<[u8]>),
    /// The size of a set.
    Count(u64),
    /// Rows that a write changed.
    Written(u64),
    /// A shard group's part of the statistics that scores need.
    Statistics(TextStatistics),
    /// A participant is ready to commit; it will not vote again.
    Vote { prepare_ts: CommitTs },
    /// A lease of surrogates that is durable.
    Leased(Extent),
    /// Free text about a core, such as its state after recovery.
    Report(Box<crate::request::CoreReport>),
    /// How far a long work has come: done and total units.
    Progress { done: u64, total: u64 },
    /// The last frame of a stream that succeeded.
    End(Option<Box<LeafReport>>),
    /// The last frame of a stream that failed.
    Failed(Failure),
}

/// Shared by both ends and by the doorbell.
pub struct Header {
    cancelled: AtomicBool,
    writer_gone: AtomicBool,
    writer_waits: AtomicBool,
    queued: AtomicBool,
    waker: AtomicWaker,
    core: Arc<Wake>,
}

/// Opens a stream of `credits` frames towards the core that sleeps on `core`, for a reader on
/// worker `worker`.
pub fn open(credits: usize, worker: u16, core: Arc<Wake>) -> (ReplyWriter, ReplyReader) {
    let (tx, rx) = rtrb::RingBuffer::new(credits);
    let header = Arc::new(Header {
        cancelled: AtomicBool::new(false),
        writer_gone: AtomicBool::new(false),
        writer_waits: AtomicBool::new(false),
        queued: AtomicBool::new(false),
        waker: AtomicWaker::new(),
        core,
    });
    (
        ReplyWriter {
            ring: tx,
            header: header.clone(),
            worker,
        },
        ReplyReader { ring: rx, header },
    )
}

/// The core's end.
pub struct ReplyWriter {
    ring: rtrb::Producer<Frame>,
    header: Arc<Header>,
    worker: u16,
}

impl ReplyWriter {
    /// Puts a frame into the stream, or gives it back when there is no credit. The caller then
    /// tries again after the core's wake; the reader rings it when it has taken a frame.
    /// After a success the caller rings the [`Doorbell`] of [`ReplyWriter::worker`].
    // The frame is handed back, and boxing it would cost every send an allocation.
    #[allow(clippy::result_large_err)]
    pub fn try_send(&mut self, frame: Frame) -> Result<(), Frame> {
        let rtrb::PushError::Full(frame) = match self.ring.push(frame) {
            Ok(()) => return Ok(()),
            Err(full) => full,
        };
        self.header.writer_waits.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // The reader may have made room before it could see that somebody waits.
        self.ring
            .push(frame)
            .map_err(|rtrb::PushError::Full(frame)| frame)
    }

    /// True when a frame would be taken now.
    pub fn has_credit(&self) -> bool {
        self.ring.slots() > 0
    }

    /// The reader has gone; the work may stop.
    pub fn is_cancelled(&self) -> bool {
        self.header.cancelled.load(Ordering::Relaxed)
    }

    /// The worker whose doorbell announces this stream.
    pub fn worker(&self) -> u16 {
        self.worker
    }

    pub fn header(&self) -> &Arc<Header> {
        &self.header
    }
}

impl Drop for ReplyWriter {
    fn drop(&mut self) {
        self.header.writer_gone.store(true, Ordering::Release);
    }
}

/// The reader's end: `Send`, so that it moves with its task.
pub struct ReplyReader {
    ring: rtrb::Consumer<Frame>,
    header: Arc<Header>,
}

impl ReplyReader {
    /// The next frame; `None` when the writer has gone.
    pub async fn next(&mut self) -> Option<Frame> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        if let Some(frame) = self.take() {
            return Poll::Ready(Some(frame));
        }
        self.header.waker.register(cx.waker());
        // Looked at in this order: what a gone writer left behind must still be read.
        let gone = self.header.writer_gone.load(Ordering::Acquire);
        match self.take() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if gone => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// A frame that is there already.
    pub fn take(&mut self) -> Option<Frame> {
        let frame = self.ring.pop().ok()?;
        fence(Ordering::SeqCst);
        if self.header.writer_waits.load(Ordering::Relaxed)
            && self.header.writer_waits.swap(false, Ordering::AcqRel)
        {
            self.header.core.notify();
        }
        Some(frame)
    }
}

impl Drop for ReplyReader {
    fn drop(&mut self) {
        // After the last frame the writer has gone as a rule, and a sleeping core is not woken to
        // hear that its answer was read.
        if !self.header.writer_gone.load(Ordering::Acquire) {
            self.header.cancelled.store(true, Ordering::SeqCst);
            self.header.core.notify();
        }
    }
}

/// A core's end of the ring that tells one worker which of its streams have news.
pub struct Doorbell {
    ring: rtrb::Producer<Arc<Header>>,
    wake: Arc<Wake>,
    rung: bool,
}

impl Doorbell {
    /// Queues a stream, at most once until the pump has seen it.
    pub fn queue(&mut self, stream: &Arc<Header>) {
        if !stream.queued.swap(true, Ordering::AcqRel) {
            let pushed = self.ring.push(stream.clone());
            // Each open stream stands here at most once and their number is limited (B1).
            assert!(pushed.is_ok(), "the doorbell ring holds every open stream");
            self.rung = true;
        }
    }

    /// Wakes the worker if anything was queued since the last call: once per batch.
    pub fn ring(&mut self) {
        if std::mem::take(&mut self.rung) {
            self.wake.notify();
        }
    }
}

/// A worker's end: wakes the readers of its streams.
pub struct Pump {
    rings: Vec<rtrb::Consumer<Arc<Header>>>,
    wake: Arc<Wake>,
}

impl Pump {
    /// Wakes every reader whose stream has news; gives their number.
    pub fn run(&mut self) -> usize {
        let mut woken = 0;
        for ring in &mut self.rings {
            while let Ok(stream) = ring.pop() {
                stream.queued.store(false, Ordering::SeqCst);
                stream.waker.wake();
                woken += 1;
            }
        }
        woken
    }

    /// What the worker sleeps on.
    pub fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }
}

/// Makes the pump of one worker and the doorbells of `cores` cores towards it.
pub(crate) fn doorbells(
    cores: usize,
    streams_max: usize,
    wake: Arc<Wake>,
) -> (Pump, Vec<Doorbell>) {
    let (mut rings, mut bells) = (Vec::new(), Vec::new());
    for _ in 0..cores {
        let (tx, rx) = rtrb::RingBuffer::new(streams_max);
        rings.push(rx);
        bells.push(Doorbell {
            ring: tx,
            wake: wake.clone(),
            rung: false,
        });
    }
    (Pump { rings, wake }, bells)
}
