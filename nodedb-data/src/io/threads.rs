//! I/O by a few threads, for hosts where io_uring is forbidden (container profiles do that).
//!
//! The threads are started with the backend, before the core runs. Each has a queue of its own and
//! an operation goes to the one with the fewest, so that a slow sync holds up little else. A thread
//! sends the outcome through a channel and writes the backend's eventfd; the core waits on that one
//! and on its own with poll(2).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nodedb_bridge::wake::Wake;

use super::posix::{self, Done};
use super::{AlignedBuf, Completion, FileId, Io, IoError, IoErrorKind, IoOp, IoValue, Token};

/// Threads of one core: enough that a read does not wait for a sync.
const THREADS: usize = 4;

/// The backend; see the module.
pub struct ThreadIo {
    workers: Vec<Worker>,
    outcomes: Receiver<Outcome>,
    /// Written by the threads after an outcome was sent.
    finished: Arc<Wake>,
    /// The core's own eventfd.
    wake: Option<Arc<Wake>>,
    files: BTreeMap<FileId, Arc<File>>,
    next_file: u32,
    in_flight: usize,
    /// Completions that needed no thread.
    ready: Vec<Completion>,
}

struct Worker {
    /// None only while the backend is dropped.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    in_flight: usize,
}

struct Job {
    token: Token,
    op: IoOp,
    file: Option<Arc<File>>,
}

struct Outcome {
    worker: usize,
    token: Token,
    result: Result<Done, IoError>,
    buf: Option<AlignedBuf>,
}

impl ThreadIo {
    /// `wake` is what the core is woken by.
    pub fn new(wake: Option<Arc<Wake>>) -> std::io::Result<ThreadIo> {
        let finished = Wake::new()?;
        let (sender, outcomes) = channel();
        let mut workers = Vec::with_capacity(THREADS);
        for index in 0..THREADS {
            workers.push(Worker::start(index, sender.clone(), Arc::clone(&finished))?);
        }
        Ok(ThreadIo {
            workers,
            outcomes,
            finished,
            wake,
            files: BTreeMap::new(),
            next_file: 0,
            in_flight: 0,
            ready: Vec::new(),
        })
    }

    fn finish(&mut self, outcome: Outcome) -> Completion {
        self.workers[outcome.worker].in_flight -= 1;
        self.in_flight -= 1;
        let result = outcome.result.map(|done| match done {
            Done::Value(value) => value,
            Done::Opened(file) => {
                let id = FileId(self.next_file);
                self.next_file += 1;
                self.files.insert(id, Arc::new(file));
                IoValue::File(id)
            }
        });
        Completion {
            token: outcome.token,
            result,
            buf: outcome.buf,
        }
    }
}

impl Io for ThreadIo {
    fn submit(&mut self, token: Token, op: IoOp) {
        let mut file = None;
        if let Some(id) = op.file() {
            file = match op {
                IoOp::Close { .. } => self.files.remove(&id),
                _ => self.files.get(&id).map(Arc::clone),
            };
            if file.is_none() {
                let error = IoError::new(IoErrorKind::NotOpen, op.stage());
                self.ready.push(Completion {
                    token,
                    result: Err(error),
                    buf: op.take_buf(),
                });
                return;
            }
        }
        let least = self
            .workers
            .iter_mut()
            .min_by_key(|worker| worker.in_flight);
        let worker = least.expect("there are threads");
        worker.in_flight += 1;
        self.in_flight += 1;
        let jobs = worker
            .jobs
            .as_ref()
            .expect("the backend is not being dropped");
        jobs.send(Job { token, op, file })
            .expect("the threads live as long as the backend");
    }

    fn reap(&mut self, out: &mut Vec<Completion>) -> usize {
        let before = out.len();
        out.append(&mut self.ready);
        while let Ok(outcome) = self.outcomes.try_recv() {
            out.push(self.finish(outcome));
        }
        out.len() - before
    }

    fn wait(&mut self, timeout: Option<Duration>) {
        if self.ready.is_empty() {
            let wake = self.wake.as_ref().map(|wake| wake.fd());
            poll_readable(self.finished.fd(), wake, timeout);
            self.finished.drain();
            if let Some(wake) = &self.wake {
                wake.drain();
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight + self.ready.len()
    }
}

impl Drop for ThreadIo {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.jobs = None;
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A thread that panicked has said so; there is nobody left to tell.
                let _ = thread.join();
            }
        }
    }
}

impl Worker {
    fn start(
        index: usize,
        outcomes: Sender<Outcome>,
        finished: Arc<Wake>,
    ) -> std::io::Result<Worker> {
        let (jobs, queue) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .name(format!("ndb-io-{index}"))
            .spawn(move || {
                while let Ok(Job { token, op, file }) = queue.recv() {
                    let (result, buf) = posix::run(op, file.as_deref());
                    // The last reference may be this one: the file is closed here, not on a core.
                    drop(file);
                    if outcomes
                        .send(Outcome {
                            worker: index,
                            token,
                            result,
                            buf,
                        })
                        .is_err()
                    {
                        return;
                    }
                    finished.force();
                }
            })?;
        Ok(Worker {
            jobs: Some(jobs),
            thread: Some(thread),
            in_flight: 0,
        })
    }
}

/// Blocks until one of the descriptors is readable, a signal arrives, or `timeout` has passed.
fn poll_readable(first: RawFd, second: Option<RawFd>, timeout: Option<Duration>) {
    // poll(2) ignores a negative descriptor.
    let entry = |fd: RawFd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds = [entry(first), entry(second.unwrap_or(-1))];
    let limit = timeout.map(|timeout| libc::timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the array has two entries; `limit` is null or points to a timespec that lives on.
    unsafe { libc::ppoll(fds.as_mut_ptr(), 2, limit, std::ptr::null()) };
}
