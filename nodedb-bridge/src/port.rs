//! Ports: services that one plane declares a need of and another one provides.
//!
//! * [`EventLog`]: the event plane reads committed changes back from the logs, which the data plane
//!   writes. The logs are the store of all change streams; nothing else keeps events for long.
//! * [`StreamReader`]: control reads change streams, which the event plane serves.
//!
//! The server plugs them together (P1).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::channel::{mpsc, oneshot};
use nodedb_types::schema::Stream;
use nodedb_types::{
    Collection, CollectionId, CommitTs, DataType, Failure, Lsn, Result, ShardId, SqlState,
};

use crate::event::EventBatch;

/// A place in the order of all events: (commit timestamp, shard, LSN), and within that the part,
/// for a commit whose rows in one shard are read back in pieces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct EventPosition {
    pub commit_ts: CommitTs,
    pub shard: ShardId,
    pub lsn: Lsn,
    pub part: u32,
}

impl EventPosition {
    /// Before every event of commits at or after `commit_ts`.
    pub fn at(commit_ts: CommitTs) -> EventPosition {
        EventPosition {
            commit_ts,
            ..EventPosition::default()
        }
    }
}

/// What is to be read back.
#[derive(Clone, PartialEq, Debug)]
pub struct LogQuery {
    pub collection: CollectionId,
    /// The first event wanted. `None`: the oldest that is kept.
    pub from: Option<EventPosition>,
    /// Nothing before this belongs to the stream, whatever is kept.
    pub since: CommitTs,
    /// Only commits below this, all of which are final: their cores have published that their
    /// logs hold them.
    pub before: CommitTs,
    /// The newest bytes of log that are kept; what lies before them is gone for this reader.
    pub retention_bytes: u64,
    /// About how many bytes of rows one page may hold; it holds at least one record's.
    pub bytes_max: usize,
}

/// A piece of what was asked for, in the order of [`EventPosition`].
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LogPage {
    pub batches: Vec<EventBatch>,
    /// Where to go on. `None`: everything before [`LogQuery::before`] has been read.
    pub next: Option<EventPosition>,
    /// The log is still being looked through and nothing was read yet: ask the same again.
    pub again: bool,
    /// Bytes of log that were read for this page, for limiting the rate.
    pub bytes_read: u64,
}

/// Reads committed changes back from the logs of all cores, old and present.
///
/// Calls block for the time of the reading, so a thread of its own makes them. A page without
/// batches that names where to go on is progress too.
pub trait EventLog {
    /// Errors: 55000 when `query.from` lies before what is kept, with the oldest position;
    /// XX001, 58030 from the log.
    fn page(&mut self, query: &LogQuery) -> Result<LogPage>;
}

/// Opens the log where it will be used. It is called when something is read for the first time,
/// and again after a failure.
pub type OpenEventLog = Box<dyn Fn() -> Result<Box<dyn EventLog>> + Send>;

/// One change as a stream shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamEvent {
    pub commit_ts: CommitTs,
    /// `insert`, `update` or `delete`.
    pub op: &'static str,
    /// The key column as a JSON object; for a row without one, the hidden id as a number.
    pub key: String,
    /// The whole row before, as canonical JSON; `None` for an insert.
    pub before: Option<String>,
    /// The whole row after; `None` for a delete.
    pub after: Option<String>,
}

/// The columns of `SELECT * FROM STREAM`, in order.
pub const STREAM_COLUMNS: [(&str, DataType); 5] = [
    ("commit_ts", DataType::Int8),
    ("op", DataType::Text(None)),
    ("key", DataType::Jsonb),
    ("before", DataType::Jsonb),
    ("after", DataType::Jsonb),
];

/// How a stream is read.
#[derive(Clone, Debug)]
pub struct StreamRequest {
    pub stream: Arc<Stream>,
    /// The collection that the stream is over.
    pub collection: Arc<Collection>,
    /// From this commit on, itself included. `None`: from the oldest that is kept.
    pub since: Option<CommitTs>,
    /// Go on with what is committed later; otherwise the rows end with what was committed when
    /// the read began.
    pub follow: bool,
}

/// The event plane as control sees it.
pub trait StreamReader: Send + Sync {
    /// Begins a read; its errors come with the rows. 53300 when too many streams are being read,
    /// 57P01 when the plane has stopped.
    fn open(&self, request: StreamRequest) -> Result<StreamRows>;
}

/// Rows of a stream in commit order, in pieces of bounded size. The plane waits for the reader
/// with one piece made ahead; dropping this ends the read.
pub struct StreamRows {
    pieces: mpsc::Receiver<Piece>,
    /// The end or a failure was seen.
    over: bool,
    /// Dropped with the rows, which tells the plane at once.
    _open: oneshot::Sender<()>,
}

enum Piece {
    Events(Result<Vec<StreamEvent>>),
    End,
}

/// The plane's end of [`StreamRows`].
pub struct StreamSender(mpsc::Sender<Piece>);

/// Ready once the rows have been dropped.
pub struct ReaderGone(oneshot::Receiver<()>);

/// Connects the two ends of a read.
pub fn stream_rows() -> (StreamSender, ReaderGone, StreamRows) {
    let (tx, rx) = mpsc::channel(0);
    let (open, gone) = oneshot::channel();
    let rows = StreamRows {
        pieces: rx,
        over: false,
        _open: open,
    };
    (StreamSender(tx), ReaderGone(gone), rows)
}

impl StreamRows {
    /// The next piece; `None` at the end of a read that does not follow. A failure is the last;
    /// 57P01 when the plane stopped before the end.
    pub async fn next(&mut self) -> Option<Result<Vec<StreamEvent>>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`StreamRows::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<StreamEvent>>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let piece = std::task::ready!(futures::Stream::poll_next(Pin::new(&mut self.pieces), cx));
        Poll::Ready(match piece {
            Some(Piece::Events(Ok(events))) => Some(Ok(events)),
            Some(Piece::Events(Err(failure))) => {
                self.over = true;
                Some(Err(failure))
            }
            Some(Piece::End) => {
                self.over = true;
                None
            }
            None => {
                self.over = true;
                let message = "the server is shutting down";
                Some(Err(Failure::new(SqlState::AdminShutdown, message)))
            }
        })
    }
}

impl StreamSender {
    /// Hands over a piece when there is room. False: the reader has gone.
    pub async fn send(&mut self, piece: Result<Vec<StreamEvent>>) -> bool {
        self.put(Piece::Events(piece)).await
    }

    /// Says that the read is over. Without it the reader sees a shutdown.
    pub async fn end(mut self) {
        self.put(Piece::End).await;
    }

    async fn put(&mut self, piece: Piece) -> bool {
        let ready = poll_fn(|cx| self.0.poll_ready(cx)).await;
        ready.is_ok() && self.0.start_send(piece).is_ok()
    }
}

impl Future for ReaderGone {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}
