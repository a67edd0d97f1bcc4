//! The machine's clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nodedb_bridge::clock::TimeSource;

/// Wall clock and monotonic clock of this machine.
pub struct MachineTime {
    start: Instant,
}

impl MachineTime {
    pub fn new() -> MachineTime {
        MachineTime {
            start: Instant::now(),
        }
    }
}

impl Default for MachineTime {
    fn default() -> MachineTime {
        MachineTime::new()
    }
}

impl TimeSource for MachineTime {
    fn unix_ms(&self) -> u64 {
        // A clock before 1970 counts as 1970; the commit clock stays monotone regardless.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64)
    }

    fn monotonic_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}
