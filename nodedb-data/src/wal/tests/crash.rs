//! Power lost at every operation, in three variants, with and without faults before: what is read
//! back is always a prefix of what was appended that holds everything acknowledged.

use super::*;
use crate::io::drive;
use crate::io::sim::{Fault, SimDisk, TearVariant};

/// Small segments, so that a short script enters several.
const SEGMENT_BYTES: u32 = 16 << 10;
const STATEMENTS: u64 = 60;

/// A machine with a log, and what its statements may and must have become.
struct Machine {
    disk: SimDisk,
    /// Read back by an earlier recovery: there for ever.
    settled: Vec<u64>,
    /// Appended in this run, in order.
    appended: Rc<RefCell<Vec<u64>>>,
    outcome: Rc<RefCell<Outcome>>,
    next_number: u64,
}

impl Machine {
    fn new(seed: u64) -> Machine {
        Machine {
            disk: SimDisk::new(seed),
            settled: Vec::new(),
            appended: Rc::default(),
            outcome: Rc::default(),
            next_number: 0,
        }
    }

    /// Starts, checks what is read back, and appends statements in random groups until all have
    /// an outcome. None when the power went first.
    fn run(&mut self, seed: u64) -> Option<()> {
        let io = handle(self.disk.io());
        let recovered = drive::run(&io, recover(&io, Path::new("/"), SEGMENT_BYTES))?;
        let recovered = recovered.expect("the log is intact");
        self.check(&recovered.statements);
        let wal = recovered.wal;
        self.outcome.take();
        self.appended.take();
        let (outcome, appended) = (&*self.outcome, &*self.appended);
        let first = self.next_number;
        self.next_number += STATEMENTS;
        let script = async {
            let mut rng = Rng::new(seed);
            for number in first..first + STATEMENTS {
                if append(&wal, number).is_err() {
                    break;
                }
                appended.borrow_mut().push(number);
                for _ in 0..rng.below(6) * rng.below(3) {
                    pause().await;
                }
            }
            let done = || {
                let outcome = outcome.borrow();
                let seen = outcome.acknowledged.len() + outcome.abandoned.len();
                seen + outcome.unknown.len() == appended.borrow().len()
            };
            while !done() {
                pause().await;
            }
        };
        drive::run_with(&io, script, tasks(&wal, &self.outcome))
    }

    /// What a recovery has read: everything settled, then a prefix of what was appended and not
    /// abandoned, with everything acknowledged.
    fn check(&mut self, found: &[u64]) {
        let outcome = self.outcome.borrow();
        let (old, new) = found.split_at(self.settled.len().min(found.len()));
        assert_eq!(old, self.settled, "what was read once is always there");
        let appended = self.appended.borrow();
        let kept: Vec<u64> = appended
            .iter()
            .copied()
            .filter(|number| !outcome.abandoned.contains(number))
            .collect();
        assert!(kept.starts_with(new), "{new:?} is no prefix of {kept:?}");
        assert!(
            new.len() >= outcome.acknowledged.len(),
            "lost acknowledged statements: {new:?} of {:?}",
            outcome.acknowledged
        );
        self.settled = found.to_vec();
    }

    /// Restarts after a crash and checks, without writing.
    fn restart(&mut self, variant: TearVariant) {
        self.disk.restart(variant);
        self.read();
    }

    fn read(&mut self) {
        let io = handle(self.disk.io());
        let (found, _, _) = drive::run(&io, read_all(&io, Path::new("/wal")))
            .unwrap()
            .unwrap_or_else(|error| match error {
                // The crash came before the directory was made.
                WalError::Io(_) => Default::default(),
                error => panic!("{error}"),
            });
        let settled = self.settled.clone();
        self.check(&found);
        // Reading alone settles nothing that a crash could still take.
        self.settled = settled;
    }
}

/// Operations of a run without faults.
fn operations(seed: u64) -> u64 {
    let mut machine = Machine::new(seed);
    machine.run(seed).unwrap();
    assert_eq!(
        machine.outcome.borrow().acknowledged.len() as u64,
        STATEMENTS
    );
    machine.disk.operations()
}

#[test]
fn every_crash_point_in_every_variant() {
    let mut torn_in_flight = 0;
    for seed in 0..2 {
        let operations = operations(seed);
        assert!(operations > 60, "only {operations} operations");
        for crash_at in 1..=operations {
            for variant in TearVariant::ALL {
                let mut machine = Machine::new(seed);
                machine.disk.crash_at(crash_at);
                assert!(machine.run(seed).is_none());
                machine.restart(variant);
                let acknowledged = machine.outcome.borrow().acknowledged.len();
                // The machine starts again, writes more, and loses power once more on the way.
                let again = machine.disk.operations() + 1 + (crash_at * 7) % 40;
                machine.disk.crash_at(again);
                assert!(machine.run(seed + 100).is_none());
                torn_in_flight += usize::from(machine.settled.len() > acknowledged);
                machine.restart(variant);
                machine.run(seed + 200).unwrap();
                machine.disk.crash_now();
                machine.restart(variant);
            }
        }
    }
    assert!(
        torn_in_flight > 10,
        "unacknowledged frames were found and kept: {torn_in_flight}"
    );
}

#[test]
fn full_disk_at_every_point_then_a_crash() {
    let mut abandoned = 0;
    for seed in 1..2 {
        let operations = operations(seed);
        // The first operations make the log itself.
        for fault_at in 8..=operations {
            for variant in TearVariant::ALL {
                let mut machine = Machine::new(seed);
                machine.disk.fail_at(fault_at, Fault::NoSpace);
                machine.disk.crash_at(fault_at + 1 + (fault_at * 5) % 30);
                let _ = machine.run(seed);
                machine.disk.crash_now();
                abandoned += machine.outcome.borrow().abandoned.len();
                machine.restart(variant);
                machine.run(seed + 100).unwrap();
                machine.disk.crash_now();
                machine.restart(variant);
            }
        }
    }
    assert!(
        abandoned > 250,
        "only {abandoned} statements met the full disk"
    );
}

#[test]
fn any_other_failure_latches_and_loses_nothing() {
    let seed = 5;
    let mut latched = 0;
    for fault_at in 8..=operations(seed) {
        for variant in TearVariant::ALL {
            let mut machine = Machine::new(seed);
            machine.disk.fail_at(fault_at, Fault::Eio);
            machine.run(seed).unwrap();
            latched += usize::from(!machine.outcome.borrow().unknown.is_empty());
            assert!(machine.outcome.borrow().abandoned.is_empty());
            machine.disk.crash_now();
            machine.restart(variant);
            machine.run(seed + 100).unwrap();
        }
    }
    assert!(latched > 50, "only {latched} runs latched");
}

#[test]
fn killed_process_then_power_lost_after_the_next_start() {
    for seed in 0..4 {
        for kill_at in 8..operations(seed) {
            let mut machine = Machine::new(seed);
            machine.disk.crash_at(kill_at);
            assert!(machine.run(seed).is_none());
            machine.disk.kill();
            // What this start reads was perhaps never synced; it must be before it is built on.
            let io = handle(machine.disk.io());
            let found = drive::run(&io, recover(&io, Path::new("/"), SEGMENT_BYTES));
            machine.check(&found.unwrap().unwrap().statements);
            machine.outcome.take();
            machine.appended.take();
            machine.disk.crash_now();
            machine.restart(TearVariant::LoseUnsynced);
        }
    }
}

#[test]
fn lost_sync_is_noticed() {
    let seed = 9;
    let noticed = |fault_at: u64| {
        let mut machine = Machine::new(seed);
        machine.disk.fail_at(fault_at, Fault::LostSync);
        // The sync lies; then the next operation is the last.
        machine.disk.crash_at(fault_at + 1);
        let _ = machine.run(seed);
        machine.disk.crash_now();
        let check = std::panic::AssertUnwindSafe(|| machine.restart(TearVariant::LoseUnsynced));
        std::panic::catch_unwind(check).is_err()
    };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = (1..operations(seed))
        .filter(|&fault_at| noticed(fault_at))
        .count();
    std::panic::set_hook(hook);
    assert!(caught >= 10, "only {caught} lost syncs were noticed");
}

#[test]
fn flipped_bits_are_found_and_never_change_the_answer() {
    let mut machine = Machine::new(11);
    machine.run(11).unwrap();
    machine.run(12).unwrap();
    let io = handle(machine.disk.io());
    // A third start binds the ends of both chains, so nothing of them may be missing.
    let all = drive::run(&io, recover(&io, Path::new("/"), SEGMENT_BYTES))
        .unwrap()
        .unwrap();
    machine.check(&all.statements);
    let mut rng = Rng::new(1);
    let (mut found, mut harmless) = (0, 0);
    for (path, bytes) in machine.disk.files() {
        let last_chain = path.to_str().unwrap().contains("wal-00000003");
        for block in 0..bytes / 4096 {
            let (byte, bit) = (block * 4096 + rng.below(4096), rng.below(8) as u8);
            assert!(machine.disk.flip_bit(&path, byte, bit));
            let io = handle(machine.disk.io());
            match drive::run(&io, read_all(&io, Path::new("/wal"))).unwrap() {
                Ok((statements, _, _)) => {
                    // Unused bytes; or the ends themselves, which nothing names yet.
                    assert_eq!(statements, all.statements);
                    harmless += usize::from(!last_chain);
                }
                Err(WalError::Corrupt { .. }) => found += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(machine.disk.flip_bit(&path, byte, bit));
        }
    }
    assert!(
        found > 20 && harmless < found,
        "{found} found, {harmless} harmless"
    );
}

#[test]
fn sealed_chain_notices_damage_in_its_last_frames() {
    let disk = SimDisk::new(13);
    let io = handle(disk.io());
    let (path, end) = drive::run(&io, async {
        let wal = recover(&io, Path::new("/"), 64 << 10).await.unwrap().wal;
        for number in 0..5 {
            append(&wal, number).unwrap();
            let _ = wal.flush().await.unwrap();
        }
        let end = wal.durable_end();
        let _ = wal.seal().await.unwrap();
        (disk.files()[0].0.clone(), end)
    })
    .unwrap();
    for block in 0..end.offset() / 4096 {
        disk.flip_bit(&path, u64::from(block) * 4096 + 70, 3);
        let result = drive::run(&io, read_all(&io, Path::new("/wal"))).unwrap();
        assert!(
            matches!(result, Err(WalError::Corrupt { .. })),
            "block {block}: {result:?}"
        );
        disk.flip_bit(&path, u64::from(block) * 4096 + 70, 3);
    }
    // The seal itself holds nothing: without it the log ends before it.
    disk.flip_bit(&path, u64::from(end.offset()) + 70, 3);
    let (statements, ends, _) = drive::run(&io, read_all(&io, Path::new("/wal")))
        .unwrap()
        .unwrap();
    assert_eq!((statements.len(), ends[0].end), (5, end));
}

#[test]
fn damaged_segments_never_panic() {
    let mut machine = Machine::new(17);
    machine.run(17).unwrap();
    let files = machine.disk.files();
    let mut rng = Rng::new(2);
    for _ in 0..150 {
        let mut flips = Vec::new();
        for _ in 0..1 + rng.below(6) {
            let (path, bytes) = &files[rng.below(files.len() as u64) as usize];
            // Headers more often than payloads.
            let within = if rng.chance(1, 2) { 128 } else { 4096 };
            let byte = rng.below(bytes / 4096) * 4096 + rng.below(within);
            flips.push((path, byte, rng.below(8) as u8));
        }
        for &(path, byte, bit) in &flips {
            machine.disk.flip_bit(path, byte, bit);
        }
        let io = handle(machine.disk.io());
        let _ = drive::run(&io, read_all(&io, Path::new("/wal"))).unwrap();
        for &(path, byte, bit) in &flips {
            machine.disk.flip_bit(path, byte, bit);
        }
    }
}
