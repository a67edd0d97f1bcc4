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
//!
//! A reader that can do nothing before all of several streams have ended opens them as one
//! [`Gathering`]. It is then woken once, by the last to end, and not for each; and before that when
//! a stream fails or half of its credits are used up. A failure is an end, and so is a writer that
//! is dropped: the reader may wait for the others to know which of several failures counts.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
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
    gathering: Option<Arc<Gathering>>,
    core: Arc<Wake>,
}

impl Header {
    /// Whom news of the stream wakes.
    fn waker(&self) -> &AtomicWaker {
        match &self.gathering {
            Some(gathering) => &gathering.waker,
            None => &self.waker,
        }
    }
}

/// Streams that one task reads and that are of no use to it before the last has ended.
pub struct Gathering {
    /// Streams that have not ended.
    left: AtomicUsize,
    waker: AtomicWaker,
}

impl Gathering {
    /// Of exactly so many streams.
    pub fn new(streams: usize) -> Arc<Gathering> {
        Arc::new(Gathering {
            left: AtomicUsize::new(streams),
            waker: AtomicWaker::new(),
        })
    }
}

/// Opens a stream of `credits` frames towards the core that sleeps on `core`, for a reader on
/// worker `worker`. The streams of a `gathering` are read by one task.
pub fn open(
    credits: usize,
    worker: u16,
    core: Arc<Wake>,
    gathering: Option<Arc<Gathering>>,
) -> (ReplyWriter, ReplyReader) {
    let (tx, rx) = rtrb::RingBuffer::new(credits);
    let header = Arc::new(Header {
        cancelled: AtomicBool::new(false),
        writer_gone: AtomicBool::new(false),
        writer_waits: AtomicBool::new(false),
        queued: AtomicBool::new(false),
        waker: AtomicWaker::new(),
        gathering,
        core,
    });
    (
        ReplyWriter {
            ring: tx,
            header: header.clone(),
            worker,
            ended: false,
            left: false,
        },
        ReplyReader { ring: rx, header },
    )
}

/// The core's end.
pub struct ReplyWriter {
    ring: rtrb::Producer<Frame>,
    header: Arc<Header>,
    worker: u16,
    /// The last frame has been sent.
    ended: bool,
    /// See [`ReplyWriter::leave`].
    left: bool,
}

/// What becomes of a frame that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The reader is to be told of it through the [`Doorbell`] of [`ReplyWriter::worker`].
    News,
    /// It is told with a later one.
    Quietly,
}

impl ReplyWriter {
    /// Puts a frame into the stream, or gives it back when there is no credit. The caller then
    /// tries again after the core's wake; the reader rings it when it has taken a frame.
    // The frame is handed back, and boxing it would cost every send an allocation.
    #[allow(clippy::result_large_err)]
    pub fn try_send(&mut self, frame: Frame) -> Result<Sent, Frame> {
        let is_over = matches!(frame, Frame::End(_) | Frame::Failed(_));
        let is_failure = matches!(frame, Frame::Failed(_));
        if let Err(rtrb::PushError::Full(frame)) = self.ring.push(frame) {
            self.header.writer_waits.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            // The reader may have made room before it could see that somebody waits.
            self.ring
                .push(frame)
                .map_err(|rtrb::PushError::Full(frame)| frame)?;
        }
        let was_ended = self.ended;
        self.ended |= is_over;
        let Some(gathering) = &self.header.gathering else {
            return Ok(Sent::News);
        };
        // Each adds its frames before it takes itself off, so the last has seen all of them.
        let is_last = is_over && !was_ended && gathering.left.fetch_sub(1, Ordering::AcqRel) == 1;
        let is_short = self.ring.slots() <= self.ring.buffer().capacity() / 2;
        match is_last || is_failure || is_short {
            true => Ok(Sent::News),
            false => Ok(Sent::Quietly),
        }
    }

    /// The last frame has been sent: the reader need not be told that the writer goes.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Nothing more will be sent. Where no last frame was, the reader is to be told afterwards.
    pub fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        if !self.ended
            && let Some(gathering) = &self.header.gathering
        {
            gathering.left.fetch_sub(1, Ordering::AcqRel);
        }
        self.header.writer_gone.store(true, Ordering::Release);
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
        self.leave();
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
        self.header.waker().register(cx.waker());
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
                stream.waker().wake();
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures::task::{ArcWake, waker};

    use super::*;

    const CREDITS: usize = 8;

    /// Counts how often the reading task is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl ArcWake for Task {
        fn wake_by_ref(task: &Arc<Task>) {
            task.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Streams of one worker to as many cores, with what rings them.
    struct Streams {
        writers: Vec<ReplyWriter>,
        readers: Vec<ReplyReader>,
        bells: Vec<Doorbell>,
        pump: Pump,
        task: Arc<Task>,
        waker: Waker,
    }

    fn gathered(streams: usize) -> Streams {
        let gathering = Gathering::new(streams);
        let (writers, readers) = (0..streams)
            .map(|_| open(CREDITS, 0, Wake::new().unwrap(), Some(gathering.clone())))
            .unzip();
        let (pump, bells) = doorbells(streams, CREDITS, Wake::new().unwrap());
        let task = Arc::new(Task::default());
        Streams {
            writers,
            readers,
            bells,
            pump,
            waker: waker(task.clone()),
            task,
        }
    }

    impl Streams {
        fn send(&mut self, at: usize, frame: Frame) {
            let sent = self.writers[at].try_send(frame);
            if sent.unwrap_or_else(|_| panic!("there is credit")) == Sent::News {
                self.bells[at].queue(self.writers[at].header());
            }
        }

        /// Frames that are there; the task waits for more.
        fn read(&mut self) -> usize {
            let mut cx = Context::from_waker(&self.waker);
            let readers = self.readers.iter_mut();
            readers
                .map(|reader| {
                    std::iter::from_fn(|| match reader.poll_next(&mut cx) {
                        Poll::Ready(frame) => frame,
                        Poll::Pending => None,
                    })
                    .count()
                })
                .sum()
        }

        fn wakes(&mut self) -> usize {
            self.pump.run();
            self.task.0.swap(0, Ordering::SeqCst)
        }
    }

    #[test]
    fn the_last_of_a_gathering_wakes_its_reader() {
        let mut streams = gathered(3);
        assert_eq!(streams.read(), 0);
        for at in [1, 0] {
            streams.send(at, Frame::Count(1));
            streams.send(at, Frame::End(None));
            assert!(streams.writers[at].has_ended());
            assert_eq!(streams.wakes(), 0);
        }
        streams.send(2, Frame::Count(1));
        assert_eq!(streams.wakes(), 0);
        streams.send(2, Frame::End(None));
        assert_eq!(streams.wakes(), 1);
        assert_eq!(streams.read(), 6);
    }

    #[test]
    fn a_failure_and_many_frames_are_told_at_once() {
        let mut streams = gathered(2);
        streams.read();
        for _ in 1..CREDITS / 2 {
            streams.send(0, Frame::Count(1));
        }
        assert_eq!(streams.wakes(), 0);
        streams.send(0, Frame::Count(1));
        assert_eq!(streams.wakes(), 1);
        assert_eq!(streams.read(), CREDITS / 2);
        streams.send(1, Frame::Failed(Failure::internal("")));
        assert_eq!(streams.wakes(), 1);
        // Who waits for the other, too, is told of its end.
        streams.read();
        streams.send(0, Frame::End(None));
        assert_eq!(streams.wakes(), 1);
    }

    #[test]
    fn who_leaves_without_a_word_is_not_waited_for() {
        let mut streams = gathered(3);
        streams.read();
        streams.writers[2].leave();
        streams.writers[2].leave();
        streams.send(0, Frame::End(None));
        assert_eq!(streams.wakes(), 0);
        streams.send(1, Frame::End(None));
        assert_eq!(streams.wakes(), 1);
    }

    #[test]
    fn a_stream_by_itself_tells_of_each_frame() {
        let (mut writer, mut reader) = open(CREDITS, 0, Wake::new().unwrap(), None);
        let news = |sent: Result<Sent, Frame>| sent.is_ok_and(|sent| sent == Sent::News);
        assert!(news(writer.try_send(Frame::Count(1))));
        assert!(!writer.has_ended());
        assert!(news(writer.try_send(Frame::End(None))));
        assert!(writer.has_ended());
        assert!(matches!(reader.take(), Some(Frame::Count(1))));
    }
}
