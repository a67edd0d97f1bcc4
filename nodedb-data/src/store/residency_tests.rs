//! Leaves in a real file (of the simulated disk) that are away, on their way and gone.

use std::cell::RefCell;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use nodedb_types::{Result, ShardId, SqlState};

use super::file::{PieceWriter, StoreFile};
use super::leaves::Leaves;
use super::leaves::tests::BYTES;
use super::residency::{Fetch, Owner, Residency};
use crate::core::executor::LocalFuture;
use crate::io::sim::SimDisk;
use crate::io::{IoHandle, drive};
use crate::pace::Budget;

type Tasks = Rc<RefCell<Vec<LocalFuture>>>;

struct Shelved {
    disk: SimDisk,
    io: Rc<IoHandle>,
    file: StoreFile,
    residency: Rc<Residency>,
    /// Readings that were begun.
    tasks: Tasks,
    leaves: Leaves<u32>,
}

/// Leaves 0 to 3, stored and not in memory.
fn shelved() -> Shelved {
    let disk = SimDisk::new(1);
    let io = IoHandle::new(Box::new(disk.io()));
    let budget = Rc::new(Budget::new(u32::MAX));
    let tasks = Tasks::default();
    let begun = tasks.clone();
    let spawn = Box::new(move |task| begun.borrow_mut().push(task));
    let residency = Residency::new(0, false, budget.clone(), spawn);
    let mut leaves = Leaves::new(&residency, Owner::Rows);
    (0..4u32).for_each(|n| leaves.put(n, n * 10, 0));
    let file: Option<Result<StoreFile>> = drive::run(&io, async {
        let file = StoreFile::create(&io, Path::new("/"), ShardId(0)).await?;
        let mut writer = PieceWriter::new(&file, &budget);
        writer.put_leaves(&leaves).await?;
        writer.flush().await?;
        drop(writer);
        Ok(file)
    });
    residency.drop_clean();
    assert_eq!((residency.bytes(), residency.stats().evicted), (0, 4));
    Shelved {
        file: file.unwrap().unwrap(),
        disk,
        io,
        residency,
        tasks,
        leaves,
    }
}

impl Shelved {
    fn fetch(&self, number: u32) -> Fetch {
        self.leaves.read(number).unwrap_err().fetch()
    }

    /// Runs what was begun to its end.
    fn finish(&self) {
        for task in self.tasks.take() {
            drive::run(&self.io, task).unwrap();
        }
    }
}

fn poll(fetch: Fetch) -> Poll<Result<()>> {
    pin!(fetch).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn who_misses_one_leaf_shares_its_reading() {
    let mut all = shelved();
    let (first, second) = (all.fetch(2), all.fetch(2));
    assert_eq!(all.tasks.borrow().len(), 1);
    assert!(poll(first.clone()).is_pending());
    all.finish();
    assert_eq!(
        (poll(first), poll(second)),
        (Poll::Ready(Ok(())), Poll::Ready(Ok(())))
    );
    assert_eq!(*all.leaves.read(2).unwrap(), 20);
    assert_eq!(
        (all.residency.bytes(), all.residency.stats().read),
        (BYTES, 1)
    );
    // Read and changed, it stays until it is stored again.
    *all.leaves.change(2) = 21;
    all.residency.drop_clean();
    assert_eq!(*all.leaves.read(2).unwrap(), 21);
}

#[test]
fn what_is_freed_on_its_way_does_not_come_back_and_keeps_its_place_until_then() {
    let mut all = shelved();
    let fetch = all.fetch(1);
    all.leaves.remove(1);
    let on_shelf = |all: &Shelved| all.file.take_shelf().len();
    assert_eq!(on_shelf(&all), 1, "the table of the group");
    all.finish();
    assert_eq!(poll(fetch), Poll::Ready(Ok(())));
    assert!(!all.leaves.contains(1));
    assert_eq!((on_shelf(&all), all.residency.bytes()), (1, 0));
    // Another leaf in its place is not touched by a reading of the old one.
    let fetch = all.fetch(0);
    all.leaves.remove(0);
    all.leaves.put(0, 7, 0);
    all.finish();
    drop(fetch);
    assert_eq!(*all.leaves.read(0).unwrap(), 7);
    assert_eq!(all.residency.bytes(), BYTES);
}

#[test]
fn a_frozen_state_of_what_is_away_needs_only_its_place() {
    let mut all = shelved();
    let fetch = all.fetch(3);
    all.finish();
    drop(fetch);
    *all.leaves.change(3) = 31;
    let frozen = all.leaves.clone();
    *all.leaves.change(3) = 32;
    let budget = Budget::new(u32::MAX);
    let mut writer = PieceWriter::new(&all.file, &budget);
    let written: Option<Result<u64>> = drive::run(&all.io, async {
        writer.put_leaves(&frozen).await?;
        writer.flush().await?;
        Ok(writer.written())
    });
    assert_eq!(written.unwrap(), Ok(4 + 4 * 16), "one leaf and the table");
    assert_eq!(frozen.piece(3).map(|p| p.bytes), Some(4));
    assert_eq!(all.leaves.piece(3), None, "it changed since");
    assert_eq!(all.leaves.piece(0), frozen.piece(0));
    drop(frozen);
    assert_eq!(
        (all.residency.bytes(), all.residency.dirty()),
        (BYTES, BYTES)
    );
}

#[test]
fn a_reading_that_fails_tells_those_who_wait_and_the_next_one_tries_again() {
    let all = shelved();
    let fetch = all.fetch(1);
    all.disk.fail_read(1);
    all.finish();
    let Poll::Ready(Err(failure)) = poll(fetch) else {
        panic!("the disk does not give it")
    };
    assert_eq!(failure.code(), SqlState::IoError);
    let at = u64::from(all.leaves.piece(1).unwrap().slot) * 8192;
    let path = all.disk.files()[0].0.clone();
    for expected in [Some(SqlState::DataCorrupted), None] {
        assert!(all.disk.flip_bit(&path, at, 0));
        if expected.is_none() {
            assert!(all.leaves.read(1).is_err());
        }
        let fetch = all.fetch(1);
        all.finish();
        let code = match poll(fetch) {
            Poll::Ready(result) => result.err().map(|f| f.code()),
            Poll::Pending => panic!("the reading has ended"),
        };
        assert_eq!(code, expected);
    }
    assert_eq!(*all.leaves.read(1).unwrap(), 10);
}
