//! Reading back from the logs: one thread for all readers, at a limited rate.
//!
//! The thread opens the log when something is read for the first time and answers one page at a
//! time, so readers share the disk in turn. After a page it rests for as long as the bytes that
//! were read take at the rate. A failed log is opened anew for the next page.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::channel::oneshot;
use nodedb_bridge::port::{EventLog, LogPage, LogQuery, OpenEventLog};
use nodedb_types::limits::{STREAM_LOG_BYTES_PER_SECOND, STREAM_LOG_READERS_MAX};
use nodedb_types::{Failure, Result, SqlState};

use crate::plane::Turn;

type Answer = oneshot::Sender<Result<(LogPage, Turn)>>;
type Job = (LogQuery, Turn, Answer);
/// Every turn has at most one page asked for: it goes with the question and returns with the page,
/// so a reader that goes away meanwhile leaves none before its place in the queue is free.
const QUEUE: usize = STREAM_LOG_READERS_MAX;

/// The readers' way to whoever reads the log for them.
pub struct LogClient {
    jobs: SyncSender<Job>,
}

/// Reads the log, one page after the other, on the thread that owns it.
pub struct LogServer {
    queue: Receiver<Job>,
    open: OpenLog,
    log: Option<Box<dyn EventLog>>,
}

/// [`OpenEventLog`] for a thread that keeps it.
pub type OpenLog = Box<dyn Fn() -> Result<Box<dyn EventLog>>>;

impl LogClient {
    /// Starts the thread, which ends with the client. Fails when the process is out of threads.
    pub fn start(open: OpenEventLog) -> std::io::Result<(LogClient, JoinHandle<()>)> {
        let (jobs, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("ndb-event-log".into())
            .spawn(move || LogServer::new(queue, open).run())?;
        Ok((LogClient { jobs }, thread))
    }

    /// A client of a log that is read on the caller's thread, whenever it says so.
    pub fn beside(open: OpenLog) -> (LogClient, LogServer) {
        let (jobs, queue) = sync_channel(QUEUE);
        (LogClient { jobs }, LogServer::new(queue, open))
    }

    /// One page, held by a turn.
    pub async fn page(&self, query: LogQuery, turn: Turn) -> Result<(LogPage, Turn)> {
        let (answer, answered) = oneshot::channel();
        self.jobs
            .try_send((query, turn, answer))
            .map_err(|_| Failure::internal("the thread that reads the logs back takes no more"))?;
        answered
            .await
            .unwrap_or_else(|_| Err(Failure::internal("the thread that reads logs back ended")))
    }
}

impl LogServer {
    fn new(queue: Receiver<Job>, open: OpenLog) -> LogServer {
        LogServer {
            queue,
            open,
            log: None,
        }
    }

    fn run(mut self) {
        while let Ok(job) = self.queue.recv() {
            let read = self.answer(job);
            // reason: this is how reading is held to its rate.
            std::thread::sleep(rest(read));
        }
    }

    /// Answers the next page that is asked for, if any.
    pub fn step(&mut self) {
        if let Ok(job) = self.queue.try_recv() {
            self.answer(job);
        }
    }

    /// Gives the bytes that were read.
    fn answer(&mut self, (query, turn, answer): Job) -> u64 {
        if answer.is_canceled() {
            return 0;
        }
        let page = self.read(&query);
        let read = page.as_ref().map_or(0, |page| page.bytes_read);
        // The reader may be gone.
        let _ = answer.send(page.map(|page| (page, turn)));
        read
    }

    fn read(&mut self, query: &LogQuery) -> Result<LogPage> {
        if self.log.is_none() {
            self.log = Some((self.open)()?);
        }
        let page = self.log.as_mut().expect("it is open").page(query);
        // What a reader asked wrongly leaves the log as it is.
        let asked_wrongly = |f: &Failure| f.code() == SqlState::ObjectNotInPrerequisiteState;
        if page.as_ref().is_err_and(|f| !asked_wrongly(f)) {
            self.log = None;
        }
        page
    }
}

/// How long reading `bytes` takes at the rate.
fn rest(bytes: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000) / STREAM_LOG_BYTES_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_held_to_its_rate() {
        assert_eq!(rest(0), Duration::ZERO);
        assert_eq!(rest(STREAM_LOG_BYTES_PER_SECOND), Duration::from_secs(1));
        assert_eq!(rest(STREAM_LOG_BYTES_PER_SECOND / 1024).as_micros(), 976);
    }
}
