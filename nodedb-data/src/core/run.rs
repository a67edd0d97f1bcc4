//! The thread around a core.
//!
//! It steps the core while there is something to do and parks in the wait of its files otherwise,
//! where a finished I/O and a ring's wake-up end the sleep alike. Where there are processors enough
//! it spins a little before it parks; an idle core uses no CPU either way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nodedb_bridge::schedule;
use nodedb_bridge::wake::Wake;
use nodedb_bridge::wiring::CoreEnds;
use nodedb_types::Failure;

use super::ffi::{pin_to, thread_cpu_ns};
use super::{Core, CoreConfig, Progress, Shared};
use crate::io::Io;
use crate::io::threads::ThreadIo;
use crate::io::uring::UringIo;

/// How long a core spins before it parks, where it may.
const SPIN_NS: u64 = 20_000;
/// How long a core that was woken ahead of a request looks out for it.
const AHEAD_NS: u64 = 100_000;
/// Pauses of the processor between two looks, together about a microsecond.
const SPINS: usize = 16;
/// Longest time that a stopping core waits for its last writes.
const DRAIN_NS: u64 = 2_000_000_000;

/// Which backend a core's files use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoChoice {
    Uring,
    Threads,
}

/// How a core's thread behaves.
#[derive(Clone, Debug)]
pub struct ThreadConfig {
    pub io: IoChoice,
    /// Processors are plenty (cpus >= cores + workers + 1): pin to this one and spin briefly.
    pub pin_to: Option<usize>,
}

/// A running core.
pub struct CoreThread {
    thread: JoinHandle<Result<(), Failure>>,
    stop: Arc<AtomicBool>,
    ready: Arc<AtomicBool>,
    wake: Arc<Wake>,
}

impl CoreThread {
    /// Starts the thread. `notify` is called once from it: when requests are taken, or when it
    /// ended before that.
    pub fn start(
        config: CoreConfig,
        thread: ThreadConfig,
        ends: CoreEnds,
        shared: Shared,
        notify: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<CoreThread> {
        let stop = Arc::new(AtomicBool::new(false));
        let ready = Arc::new(AtomicBool::new(false));
        let wake = ends.wake.clone();
        let (stopped, is_ready) = (stop.clone(), ready.clone());
        // reason: this is the core's own thread, started before its first turn.
        let thread = std::thread::Builder::new()
            .name(format!("ndb-core-{}", config.core))
            .spawn(move || {
                let mut notify = Some(notify);
                let ended = run(config, &thread, ends, shared, &stopped, || {
                    is_ready.store(true, Ordering::Release);
                    if let Some(notify) = notify.take() {
                        notify();
                    }
                });
                if let Some(notify) = notify.take() {
                    notify();
                }
                ended
            })?;
        Ok(CoreThread {
            thread,
            stop,
            ready,
            wake,
        })
    }

    /// True once the recovery is over and requests are taken.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// True when the thread has ended, which before [`CoreThread::stop`] is a failure.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets the core finish what it has begun and ends its thread.
    pub fn stop(self) -> Result<(), Failure> {
        self.stop.store(true, Ordering::SeqCst);
        self.wake.force();
        match self.thread.join() {
            Ok(ended) => ended,
            Err(_) => Err(Failure::internal("a core's thread panicked")),
        }
    }
}

fn run(
    config: CoreConfig,
    thread: &ThreadConfig,
    ends: CoreEnds,
    shared: Shared,
    stop: &AtomicBool,
    mut on_ready: impl FnMut(),
) -> Result<(), Failure> {
    schedule::steady();
    let wake = ends.wake.clone();
    match thread.pin_to {
        Some(cpu) => pin_to(cpu),
        None => wake.may_be_moved(),
    }
    let io = open_io(thread.io, Some(wake.clone()))?;
    let time = shared.clock.time().clone();
    let mut core = Core::new(config, ends, io, shared, Box::new(thread_cpu_ns));
    core.io().warm();
    let mut told = false;
    let mut idle_since: Option<u64> = None;
    let mut stopping_since: Option<u64> = None;
    loop {
        let now = time.monotonic_ns();
        let progress = core.step(now);
        if !told && core.is_recovered() {
            told = true;
            on_ready();
        }
        if stop.load(Ordering::Relaxed) {
            core.stop_accepting();
            let since = *stopping_since.get_or_insert(now);
            if core.is_drained() || now - since > DRAIN_NS {
                return Ok(());
            }
        }
        let until_ns = match progress {
            Progress::Busy => {
                idle_since = None;
                give_way(thread);
                continue;
            }
            Progress::Broken(failure) => return Err(failure),
            Progress::Idle { until_ns, worked } => {
                if worked {
                    idle_since = None;
                    // Who hears of the answers asks for more, and does not have to wake the core.
                    give_way(thread);
                    if core.has_news() {
                        continue;
                    }
                }
                until_ns
            }
        };
        if thread.pin_to.is_some() && now - *idle_since.get_or_insert(now) < SPIN_NS {
            std::hint::spin_loop();
            continue;
        }
        idle_since = None;
        wake.prepare_sleep();
        if !core.has_news() && !stop.load(Ordering::SeqCst) {
            let wait = until_ns.map(|at| Duration::from_nanos(at.saturating_sub(now)));
            core.io().wait(wait);
        } else if stopping_since.is_some() {
            // Nothing rings while the last writes are on their way but their completion.
            core.io().wait(Some(Duration::from_millis(1)));
        }
        wake.awake();
        if wake.was_ahead() {
            look_out(&core, time.monotonic_ns() + AHEAD_NS, || {
                time.monotonic_ns()
            });
        }
    }
}

/// Waits for news without sleeping, until then at the latest. It does not offer its processor: that
/// would cost it its place behind others, and whoever is prompt interrupts it anyway.
fn look_out(core: &Core, until_ns: u64, now_ns: impl Fn() -> u64) {
    while !core.has_news() && core.io().in_flight() == 0 && now_ns() < until_ns {
        for _ in 0..SPINS {
            std::hint::spin_loop();
        }
    }
}

/// Where the processor is shared with those who wait for this core's answers, they get it between
/// two turns and not when a time slice is over.
fn give_way(thread: &ThreadConfig) {
    if thread.pin_to.is_none() {
        std::thread::yield_now();
    }
}

/// Files of the kind asked for; a write to `wake` ends their wait.
pub fn open_io(choice: IoChoice, wake: Option<Arc<Wake>>) -> Result<Box<dyn Io>, Failure> {
    let opened: std::io::Result<Box<dyn Io>> = match choice {
        IoChoice::Uring => UringIo::new(wake).map(|io| Box::new(io) as Box<dyn Io>),
        IoChoice::Threads => ThreadIo::new(wake).map(|io| Box::new(io) as Box<dyn Io>),
    };
    opened.map_err(|error| {
        Failure::new(
            nodedb_types::SqlState::IoError,
            format!("a core's files could not be set up: {error}"),
        )
    })
}
