//! How long the turns of a core take, by CPU time and by wall time (P2).

/// Upper bounds of the classes, microseconds; the last class is above them all.
const BOUNDS_US: [u64; 5] = [100, 250, 500, 1000, 2000];

/// What a thread may have used since it asked for its CPU time before a turn asks again,
/// nanoseconds.
const UNTOLD_NS: u64 = 50_000;
/// What giving the processor away or a sleep between two turns takes, nanoseconds: a guess, usually ample.
const BETWEEN_NS: u64 = 5_000;

/// Counts of turns by length.
#[derive(Clone, Copy, Default, Debug)]
pub struct Turns {
    pub cpu: [u64; 6],
    pub wall: [u64; 6],
}

impl Turns {
    pub fn record(&mut self, cpu_ns: u64, wall_ns: u64) {
        self.cpu[class(cpu_ns)] += 1;
        self.wall[class(wall_ns)] += 1;
    }
}

fn class(ns: u64) -> usize {
    BOUNDS_US.partition_point(|bound| ns > bound * 1000)
}

/// Tells a turn's CPU time and asks for the thread's seldom, for to ask is a system call.
///
/// A turn that is in the first class by its wall time is there by its CPU time too, and nothing is
/// asked. Of a longer one it is told what the thread has used since it asked last, or its wall time
/// if that is less: never less than the turn has used. What is told too much, for short turns before
/// it, is [`UNTOLD_NS`] at the most, provided that what the thread does between turns takes no
/// more than [`BETWEEN_NS`], which nobody measures.
#[derive(Debug, Default)]
pub struct Meter {
    /// CPU time when it was asked for last.
    told_ns: Option<u64>,
    /// What may have been used since.
    untold_ns: u64,
}

impl Meter {
    /// A turn begins. `clock`: the thread's CPU time, nanoseconds.
    pub fn begin(&mut self, clock: impl FnOnce() -> u64) {
        if self.told_ns.is_none() || self.untold_ns > UNTOLD_NS {
            self.told_ns = Some(clock());
            self.untold_ns = 0;
        }
    }

    /// The turn has ended after `wall_ns`; gives its CPU time.
    pub fn end(&mut self, wall_ns: u64, clock: impl FnOnce() -> u64) -> u64 {
        if class(wall_ns) == 0 {
            self.untold_ns += wall_ns;
            return wall_ns;
        }
        let now = clock();
        let used = self
            .told_ns
            .map_or(wall_ns, |told| now.saturating_sub(told));
        self.told_ns = Some(now);
        self.untold_ns = 0;
        used.min(wall_ns)
    }

    /// The thread does something else before the next turn.
    pub fn pause(&mut self) {
        self.untold_ns += BETWEEN_NS;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn turns_fall_into_their_classes() {
        let mut turns = Turns::default();
        for (cpu, wall) in [(0, 100_000), (100_001, 500_000), (2_000_000, 2_000_001)] {
            turns.record(cpu, wall);
        }
        assert_eq!(turns.cpu, [1, 1, 0, 0, 1, 0]);
        assert_eq!(turns.wall, [1, 0, 1, 0, 0, 1]);
    }

    #[test]
    fn a_turn_is_never_told_shorter_and_hardly_longer_than_it_was() {
        let (used, asked) = (Cell::new(7), Cell::new(0));
        let clock = || {
            asked.set(asked.get() + 1);
            used.get()
        };
        let mut meter = Meter::default();
        let mut turn = |cpu: u64, wall: u64, pause: bool| {
            meter.begin(clock);
            used.set(used.get() + cpu);
            let told = meter.end(wall, clock);
            assert!(cpu <= told && told <= wall);
            assert!(
                class(wall) == 0 || told <= cpu + UNTOLD_NS,
                "{told} for {cpu}"
            );
            if pause {
                used.set(used.get() + BETWEEN_NS);
                meter.pause();
            }
        };
        for _ in 0..1000 {
            turn(5_000, 8_000, true);
        }
        let seldom = asked.get();
        assert!((100..300).contains(&seldom), "{seldom}");
        // Long ones, and ones that were interrupted, behind short ones and each other.
        for _ in 0..3 {
            turn(150_000, 150_000, false);
            turn(9_000, 4_000_000, true);
            turn(40_000, 100_000, false);
            turn(700_000, 710_000, true);
            turn(1_000, 1_000, true);
        }
    }
}
