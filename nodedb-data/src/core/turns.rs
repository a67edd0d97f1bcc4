//! How long the turns of a core take, by CPU time and by wall time (P2).

/// Upper bounds of the classes, microseconds; the last class is above them all.
const BOUNDS_US: [u64; 5] = [100, 250, 500, 1000, 2000];

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

#[cfg(test)]
mod tests {
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
}
