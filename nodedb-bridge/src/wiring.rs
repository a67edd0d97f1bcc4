//! Makes every ring of a run and hands out the ends.
//!
//! One bounded request ring per (control worker, core), one doorbell ring per (core, worker), one
//! upcall ring and one event ring per core. Nobody shares an end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use nodedb_types::{CoreId, limits};

use crate::event::{Emitted, LowMark};
use crate::reply::{Doorbell, Pump, doorbells};
use crate::request::Request;
use crate::upcall::Upcall;
use crate::wake::Wake;

/// What a core holds of the bridge.
pub struct CoreEnds {
    pub core: CoreId,
    /// By worker.
    pub requests: Vec<rtrb::Consumer<Request>>,
    /// By worker.
    pub doorbells: Vec<Doorbell>,
    pub upcalls: rtrb::Producer<Upcall>,
    /// Wakes worker 0, which reads the upcalls.
    pub upcall_wake: Arc<Wake>,
    pub events: rtrb::Producer<Emitted>,
    pub event_wake: Arc<Wake>,
    pub low: Arc<LowMark>,
    /// Up to where the core's log is durable, in the data plane's own terms; stored before `low`
    /// is raised, so that whoever has seen the mark finds the commits below it in the log.
    pub log_end: Arc<AtomicU64>,
    /// Bytes that all cores together have logged since the start.
    pub logged: Arc<AtomicU64>,
    pub wake: Arc<Wake>,
}

/// What a control worker holds.
pub struct WorkerEnds {
    pub worker: u16,
    /// By core.
    pub requests: Vec<rtrb::Producer<Request>>,
    /// By core.
    pub core_wakes: Vec<Arc<Wake>>,
    pub pump: Pump,
    /// By core; only on worker 0.
    pub upcalls: Vec<rtrb::Consumer<Upcall>>,
}

/// What the event plane holds.
pub struct EventEnds {
    /// By core.
    pub events: Vec<rtrb::Consumer<Emitted>>,
    /// By core.
    pub low: Vec<Arc<LowMark>>,
    /// By core; for whoever implements `port::EventLog`.
    pub log_ends: Vec<Arc<AtomicU64>>,
    /// By core; a core may wait for room in its ring to say what it left out.
    pub core_wakes: Vec<Arc<Wake>>,
    pub wake: Arc<Wake>,
}

/// Sizes of the rings; the simulation makes them tiny so that the full path runs all the time.
#[derive(Clone, Copy, Debug)]
pub struct Depths {
    pub requests: usize,
    pub streams: usize,
    pub upcalls: usize,
    pub events: usize,
}

impl Default for Depths {
    fn default() -> Depths {
        Depths {
            requests: limits::REQUEST_RING,
            streams: limits::STREAMS_PER_WORKER_MAX,
            upcalls: limits::REQUEST_RING,
            events: limits::EVENT_RING,
        }
    }
}

/// Makes the rings of `cores` cores, `workers` control workers and one event plane.
/// Fails when the process is out of file descriptors.
pub fn wire(
    cores: u16,
    workers: u16,
    depths: Depths,
) -> io::Result<(Vec<CoreEnds>, Vec<WorkerEnds>, EventEnds)> {
    let event_wake = Wake::new()?;
    let mut core_ends = Vec::new();
    let mut upcall_consumers = Vec::new();
    let mut event_ends = EventEnds {
        events: Vec::new(),
        low: Vec::new(),
        log_ends: Vec::new(),
        core_wakes: Vec::new(),
        wake: event_wake.clone(),
    };
    let logged = Arc::new(AtomicU64::new(0));
    let worker_wakes = (0..workers)
        .map(|_| Wake::new())
        .collect::<io::Result<Vec<_>>>()?;
    for core in 0..cores {
        let (upcalls, upcalls_rx) = rtrb::RingBuffer::new(depths.upcalls);
        let (events, events_rx) = rtrb::RingBuffer::new(depths.events);
        let low = Arc::new(LowMark {
            core: CoreId(core),
            low: AtomicU64::new(0),
        });
        upcall_consumers.push(upcalls_rx);
        event_ends.events.push(events_rx);
        event_ends.low.push(low.clone());
        let log_end = Arc::new(AtomicU64::new(0));
        event_ends.log_ends.push(log_end.clone());
        let wake = Wake::new()?;
        event_ends.core_wakes.push(wake.clone());
        core_ends.push(CoreEnds {
            core: CoreId(core),
            requests: Vec::new(),
            doorbells: Vec::new(),
            upcalls,
            upcall_wake: worker_wakes[0].clone(),
            events,
            event_wake: event_wake.clone(),
            low,
            log_end,
            logged: logged.clone(),
            wake,
        });
    }
    let mut worker_ends = Vec::new();
    for (worker, wake) in worker_wakes.into_iter().enumerate() {
        let (pump, bells) = doorbells(cores as usize, depths.streams, wake);
        let mut requests = Vec::new();
        for (core, bell) in core_ends.iter_mut().zip(bells) {
            let (tx, rx) = rtrb::RingBuffer::new(depths.requests);
            requests.push(tx);
            core.requests.push(rx);
            core.doorbells.push(bell);
        }
        worker_ends.push(WorkerEnds {
            worker: worker as u16,
            requests,
            core_wakes: core_ends.iter().map(|c| c.wake.clone()).collect(),
            pump,
            upcalls: if worker == 0 {
                std::mem::take(&mut upcall_consumers)
            } else {
                Vec::new()
            },
        });
    }
    Ok((core_ends, worker_ends, event_ends))
}
