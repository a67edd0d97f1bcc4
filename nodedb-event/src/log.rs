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
use nodedb_types::limits::{STREAM_LOG_BYTES_PER_SECOND, STREAM_READERS_MAX};
use nodedb_types::{Failure, Result, SqlState};

type Answer = oneshot::Sender<Result<LogPage>>;

/// The readers' way to the thread, which ends with the last of these.
pub struct LogClient {
    jobs: SyncSender<(LogQuery, Answer)>,
}

impl LogClient {
    /// Starts the thread. Fails when the process is out of threads.
    pub fn start(open: OpenEventLog) -> std::io::Result<(LogClient, JoinHandle<()>)> {
        // Every reader has at most one page asked for.
        let (jobs, queue) = sync_channel(STREAM_READERS_MAX);
        let thread = std::thread::Builder::new()
            .name("ndb-event-log".into())
            .spawn(move || run(&open, &queue))?;
        Ok((LogClient { jobs }, thread))
    }

    /// One page, when its turn has come.
    pub async fn page(&self, query: LogQuery) -> Result<LogPage> {
        let (answer, answered) = oneshot::channel();
        self.jobs
            .try_send((query, answer))
            .map_err(|_| Failure::internal("the thread that reads the logs back takes no more"))?;
        answered
            .await
            .unwrap_or_else(|_| Err(Failure::internal("the thread that reads logs back ended")))
    }
}

fn run(open: &OpenEventLog, queue: &Receiver<(LogQuery, Answer)>) {
    let mut log: Option<Box<dyn EventLog>> = None;
    while let Ok((query, answer)) = queue.recv() {
        if answer.is_canceled() {
            continue;
        }
        let page = read(open, &mut log, &query);
        let read = page.as_ref().map_or(0, |page| page.bytes_read);
        // The reader may be gone.
        let _ = answer.send(page);
        // reason: this is how reading is held to its rate.
        std::thread::sleep(rest(read));
    }
}

fn read(
    open: &OpenEventLog,
    log: &mut Option<Box<dyn EventLog>>,
    query: &LogQuery,
) -> Result<LogPage> {
    if log.is_none() {
        *log = Some(open()?);
    }
    let page = log.as_mut().expect("it is open").page(query);
    // What a reader asked wrongly leaves the log as it is.
    let asked_wrongly = |f: &Failure| f.code() == SqlState::ObjectNotInPrerequisiteState;
    if page.as_ref().is_err_and(|f| !asked_wrongly(f)) {
        *log = None;
    }
    page
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
