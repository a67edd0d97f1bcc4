//! A simulated disk: deterministic, seeded, and able to lose power between any two operations.
//!
//! A [`SimDisk`] is the machine's disk and outlives crashes; each core of each run has its own
//! [`SimIo`] on it. The disk keeps what is durable apart from what a crash may take: writes since
//! the file's last sync, and names since the last sync of their directory. Operations take effect
//! when they complete, and complete in an order drawn from the seed, some of them later than the
//! core looks ([`SimDisk::stall`] makes all of them late).
//!
//! **Crashing.** Every operation that changes the disk has a number, counted from 1 over all runs.
//! [`SimDisk::crash_at`] names the one during which power is lost: that operation may leave traces
//! (a write is among the unsynced ones), but neither it nor any later one completes, and nothing is
//! acknowledged any more. The harness sees [`SimDisk::halted`], drops the run, and calls
//! [`SimDisk::restart`] with the variant of what the medium is found to hold. A write with `sync`
//! counts twice: the write and the sync.
//!
//! **Faults.** An error at the n-th operation; a sync that failed once fails for that file until
//! the restart, and what it should have made durable stays at the mercy of the next crash; a
//! capacity that makes writes fail part-way; a bit flipped at rest.

mod disk;
mod rng;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::{Completion, Io, IoOp, Token};
pub use disk::SECTOR;
use disk::{Disk, Opened};
pub use rng::Rng;

/// What a crash leaves of the writes and names that were not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TearVariant {
    /// Nothing.
    LoseUnsynced,
    /// A random subset of sectors and of changes to names: torn and reordered.
    Subset,
    /// Everything, but the last write stops at a random sector.
    TearLast,
}

impl TearVariant {
    pub const ALL: [TearVariant; 3] = [
        TearVariant::LoseUnsynced,
        TearVariant::Subset,
        TearVariant::TearLast,
    ];
}

/// A fault that hits one numbered operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The operation fails with EIO. For a sync that means: and so does every later one of the
    /// file, until the restart.
    Eio,
    /// The operation reports a full disk. For a write: after half of it was written.
    NoSpace,
    /// A sync that reports success and does nothing: what a harness must be able to notice.
    LostSync,
}

/// The disk, shared by everything that runs on the simulated machine.
#[derive(Clone)]
pub struct SimDisk {
    disk: Rc<RefCell<Disk>>,
}

impl SimDisk {
    /// An empty disk. Equal seeds and equal operations give equal runs.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            disk: Rc::new(RefCell::new(Disk::new(seed))),
        }
    }

    /// A core's access to the disk, valid until the next [`SimDisk::restart`].
    pub fn io(&self) -> SimIo {
        let run = self.disk.borrow().run;
        SimIo {
            disk: Rc::clone(&self.disk),
            run,
            queue: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Operations that changed the disk so far.
    pub fn operations(&self) -> u64 {
        self.disk.borrow().operations
    }

    /// Power fails during operation `number` (counted as [`SimDisk::operations`] does).
    pub fn crash_at(&self, number: u64) {
        self.disk.borrow_mut().crash_at = Some(number);
    }

    /// Power fails now.
    pub fn crash_now(&self) {
        self.disk.borrow_mut().halted = true;
    }

    /// True after power was lost, until [`SimDisk::restart`].
    pub fn halted(&self) -> bool {
        self.disk.borrow().halted
    }

    /// Starts the machine again: unsynced state is resolved as `variant` says, faults of the last
    /// run are forgotten and its [`SimIo`]s stay dead.
    pub fn restart(&self, variant: TearVariant) {
        self.disk.borrow_mut().restart(variant);
    }

    /// Ends the run as a kill of the process does: operations in flight do not happen, everything
    /// else stays as it is, synced or not.
    pub fn kill(&self) {
        self.disk.borrow_mut().new_run();
    }

    /// `fault` hits operation `number`.
    pub fn fail_at(&self, number: u64, fault: Fault) {
        self.disk.borrow_mut().faults.insert(number, fault);
    }

    /// The `nth` read from now on (1 is the next) fails with EIO.
    pub fn fail_read(&self, nth: u64) {
        let mut disk = self.disk.borrow_mut();
        disk.failing_read = Some(disk.reads + nth);
    }

    /// Bytes of file content that fit, None for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.borrow_mut().capacity = bytes;
    }

    /// No operation completes in the next `reaps` looks at the disk.
    pub fn stall(&self, reaps: u64) {
        self.disk.borrow_mut().stalled = reaps;
    }

    /// Flips one bit of a file, durably. False when the file has no such byte.
    pub fn flip_bit(&self, path: impl AsRef<Path>, byte: u64, bit: u8) -> bool {
        self.disk.borrow_mut().flip_bit(path.as_ref(), byte, bit)
    }

    /// Files that exist now, with their lengths, in ascending order.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.disk.borrow().list_files()
    }
}

/// One core's backend on a [`SimDisk`].
pub struct SimIo {
    disk: Rc<RefCell<Disk>>,
    /// The run of the machine that it belongs to.
    run: u64,
    queue: Vec<Queued>,
    /// Inode of each open file by its [`FileId`]; None after it was closed.
    files: Vec<Option<Opened>>,
}

struct Queued {
    token: Token,
    op: IoOp,
    /// The write half of a synced write has been done.
    written: bool,
}

impl SimIo {
    /// Runs queued operation `index`, or its next half. None when it goes on or power was lost.
    fn run_one(&mut self, index: usize) -> Option<Completion> {
        let disk = &mut *self.disk.borrow_mut();
        let Queued { op, written, .. } = &mut self.queue[index];
        let result = match op {
            IoOp::Write {
                file, sync: true, ..
            } if *written => disk.sync(&self.files, *file)?,
            _ => disk.execute(op, &mut self.files)?,
        };
        if let (IoOp::Write { sync: true, .. }, Ok(_), false) = (&op, &result, *written) {
            *written = true;
            return None;
        }
        let Queued { token, op, .. } = self.queue.swap_remove(index);
        Some(Completion {
            token,
            result,
            buf: op.take_buf(),
        })
    }
}

impl Io for SimIo {
    fn submit(&mut self, token: Token, op: IoOp) {
        self.queue.push(Queued {
            token,
            op,
            written: false,
        });
    }

    fn reap(&mut self, out: &mut Vec<Completion>) -> usize {
        let before = out.len();
        let steps = {
            let disk = &mut *self.disk.borrow_mut();
            if disk.stalled > 0 {
                disk.stalled -= 1;
                return 0;
            }
            disk.rng.below(self.queue.len() as u64 + 1)
        };
        for _ in 0..steps {
            if self.queue.is_empty() || self.halted() {
                break;
            }
            let index = self.disk.borrow_mut().rng.below(self.queue.len() as u64) as usize;
            out.extend(self.run_one(index));
        }
        out.len() - before
    }

    /// Simulated time does not pass here: the caller looks again, and some operation completes
    /// sooner or later.
    fn wait(&mut self, _timeout: Option<Duration>) {}

    fn in_flight(&self) -> usize {
        self.queue.len()
    }

    fn halted(&self) -> bool {
        let disk = self.disk.borrow();
        disk.halted || disk.run != self.run
    }
}

#[cfg(test)]
mod tests;
