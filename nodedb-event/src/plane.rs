//! The plane's thread, and the handle that control reads streams through.
//!
//! While a stream is being read the thread sleeps on its eventfd like any consumer of a ring and
//! every commit wakes it. While none is, nobody waits for events: it looks at the rings a few
//! times a second instead, which costs the cores nothing.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nodedb_bridge::clock::Clock;
use nodedb_bridge::port::{
    OpenEventLog, ReaderGone, StreamReader, StreamRequest, StreamRows, StreamSender, stream_rows,
};
use nodedb_bridge::wake::Wake;
use nodedb_bridge::wiring::EventEnds;
use nodedb_types::limits::{STREAM_LOG_READERS_MAX, STREAM_LOG_STALL_MS_MAX, STREAM_READERS_MAX};
use nodedb_types::{Failure, Result, SqlState};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::bus::{Bus, BusLimits};
use crate::log::LogClient;
use crate::stream;
use crate::watch::watch;

/// How often the rings are emptied while nobody reads.
const UNREAD_DRAIN: Duration = Duration::from_millis(250);

/// What the readers of a plane share.
pub struct Shared {
    pub bus: RefCell<Bus>,
    /// More is final than before.
    pub news: Notify,
    pub log: LogClient,
    /// Turns to hold a page of the log.
    turns: Arc<Semaphore>,
    /// Reads that wait for a turn.
    waiting: Cell<usize>,
    /// One more waits.
    wanted: Notify,
}

/// A read's turn to hold a page of the log: [`STREAM_LOG_READERS_MAX`] have one at a time.
pub type Turn = OwnedSemaphorePermit;

/// The plane without its thread: for the thread, and for whoever steps it by hand.
pub struct Plane {
    shared: Rc<Shared>,
    requests: mpsc::Receiver<Opened>,
    readers: Arc<AtomicUsize>,
}

impl Shared {
    /// Takes what is in the rings and tells the readers; true when more is final than before.
    pub fn drain(&self) -> bool {
        let advanced = self.bus.borrow_mut().drain();
        if advanced {
            self.news.notify_waiters();
        }
        advanced
    }

    /// A turn to read back from the log, in the order of asking. Each read asks for one page at a
    /// time and waits behind all others for the next, so all go on at the same pace however many
    /// they are; their number is limited, and so is the time for which a turn is kept.
    pub async fn turn(&self) -> Turn {
        if let Ok(turn) = self.turns.clone().try_acquire_owned() {
            return turn;
        }
        let _waits = Waits::new(&self.waiting);
        self.wanted.notify_waiters();
        let turn = self.turns.clone().acquire_owned().await;
        turn.expect("nobody closes the turns")
    }

    /// Ready once others have waited for a turn for so long that one whose reader takes nothing
    /// gives its own back.
    pub async fn wanted(&self) {
        loop {
            // Taken before the look, so that one who comes in between is not missed.
            let wanted = self.wanted.notified();
            if self.waiting.get() == 0 {
                wanted.await;
            }
            // reason: a reader on a slow line takes its piece within this time.
            tokio::time::sleep(Duration::from_millis(STREAM_LOG_STALL_MS_MAX)).await;
            if self.waiting.get() > 0 {
                return;
            }
        }
    }
}

/// Counts a read for as long as it waits for a turn.
struct Waits<'a>(&'a Cell<usize>);

impl<'a> Waits<'a> {
    fn new(count: &'a Cell<usize>) -> Waits<'a> {
        count.set(count.get() + 1);
        Waits(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A read that was asked for.
pub struct Opened {
    request: StreamRequest,
    to: StreamSender,
    gone: ReaderGone,
    seat: Seat,
}

/// Counts a reader for as long as it is served.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The handle by which streams are read. Clones share the plane.
#[derive(Clone)]
pub struct Streams {
    opened: mpsc::Sender<Opened>,
    readers: Arc<AtomicUsize>,
}

impl StreamReader for Streams {
    fn open(&self, request: StreamRequest) -> Result<StreamRows> {
        let taken = self.readers.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(self.readers.clone());
        let full = || {
            let message = "too many change streams are being read";
            Failure::new(SqlState::TooManyConnections, message)
                .with_detail(format!("At most {STREAM_READERS_MAX} are at a time."))
        };
        if taken >= STREAM_READERS_MAX {
            return Err(full());
        }
        let (to, gone, rows) = stream_rows();
        let opened = Opened {
            request,
            to,
            gone,
            seat,
        };
        self.opened.try_send(opened).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full(),
            mpsc::error::TrySendError::Closed(_) => {
                Failure::new(SqlState::AdminShutdown, "the server is shutting down")
            }
        })?;
        Ok(rows)
    }
}

/// The two ends by which reads are opened.
fn opening() -> (Streams, mpsc::Receiver<Opened>) {
    let (opened, requests) = mpsc::channel(STREAM_READERS_MAX);
    let streams = Streams {
        opened,
        readers: Arc::new(AtomicUsize::new(0)),
    };
    (streams, requests)
}

impl Plane {
    /// A plane over cores that have recovered, and the handle for control.
    pub fn new(ends: EventEnds, clock: Arc<Clock>, log: LogClient) -> (Plane, Streams) {
        let (streams, requests) = opening();
        (Plane::of(ends, clock, log, requests, &streams), streams)
    }

    fn of(
        ends: EventEnds,
        clock: Arc<Clock>,
        log: LogClient,
        requests: mpsc::Receiver<Opened>,
        streams: &Streams,
    ) -> Plane {
        Plane {
            shared: Rc::new(Shared {
                bus: RefCell::new(Bus::new(ends, clock, BusLimits::default())),
                news: Notify::new(),
                log,
                turns: Arc::new(Semaphore::new(STREAM_LOG_READERS_MAX)),
                waiting: Cell::new(0),
                wanted: Notify::new(),
            }),
            requests,
            readers: streams.readers.clone(),
        }
    }

    /// What the readers share, for a test that is one of them.
    #[cfg(test)]
    pub fn shared(&self) -> Rc<Shared> {
        self.shared.clone()
    }

    /// Whether a stream is being read.
    pub fn is_read(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Takes what is in the rings and tells the readers; true when more is final than before.
    pub fn drain(&self) -> bool {
        self.shared.drain()
    }

    /// The next read that was asked for, as a task; none when there is none now.
    pub fn accept(&mut self) -> Option<impl Future<Output = ()> + 'static + use<>> {
        let opened = self.requests.try_recv().ok()?;
        Some(serve(self.shared.clone(), opened))
    }
}

async fn serve(shared: Rc<Shared>, opened: Opened) {
    let Opened {
        request,
        to,
        gone,
        seat,
    } = opened;
    stream::serve(shared, request, to, gone).await;
    drop(seat);
}

/// The running plane.
pub struct EventPlane {
    streams: Streams,
    threads: Vec<JoinHandle<()>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl EventPlane {
    /// Starts the plane over cores that have recovered. Fails when the process is out of threads
    /// or file descriptors.
    pub fn start(ends: EventEnds, clock: Arc<Clock>, open_log: OpenEventLog) -> io::Result<Self> {
        let (log, log_thread) = LogClient::start(open_log)?;
        let (streams, requests) = opening();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = streams.clone();
        let thread = std::thread::Builder::new()
            .name("ndb-event".into())
            .spawn(move || {
                let wake = ends.wake.clone();
                let plane = Plane::of(ends, clock, log, requests, &handle);
                // What the plane waits for must not keep its own queue open.
                drop(handle);
                let tasks = tokio::task::LocalSet::new();
                tasks
                    .block_on(&runtime, run(plane, wake, stopped))
                    .expect("the plane can watch its eventfd");
            })?;
        Ok(EventPlane {
            streams,
            threads: vec![thread, log_thread],
            stop,
        })
    }

    /// The handle for control.
    pub fn streams(&self) -> Streams {
        self.streams.clone()
    }

    /// Ends every read and joins the threads.
    pub fn stop(self) {
        // Without a receiver the plane has ended already.
        let _ = self.stop.send(true);
        for thread in self.threads {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

async fn run(
    mut plane: Plane,
    wake: Arc<Wake>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> io::Result<()> {
    let watched = watch(wake.clone())?;
    loop {
        if plane.drain() {
            // The readers that were woken run before the next look.
            tokio::task::yield_now().await;
        }
        let read = plane.is_read();
        if read {
            wake.prepare_sleep();
            if plane.shared.bus.borrow().has_news() {
                wake.awake();
                continue;
            }
        }
        tokio::select! {
            ready = watched.readable(), if read => {
                // Readiness is cleared before the counter, so a wake between the two is seen.
                ready?.clear_ready();
            }
            // reason: nobody waits for events, so cores need not wake the plane; it empties their
            // rings now and then.
            () = tokio::time::sleep(UNREAD_DRAIN), if !read => {}
            opened = plane.requests.recv() => {
                if let Some(opened) = opened {
                    tokio::task::spawn_local(serve(plane.shared.clone(), opened));
                }
            }
            _ = stopped.changed() => return Ok(()),
        }
        if read {
            wake.awake();
            wake.drain();
        }
    }
}
