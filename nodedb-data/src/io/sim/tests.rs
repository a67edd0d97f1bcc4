//! What the simulated disk promises to harnesses.

use std::rc::Rc;

use super::*;
use crate::io::{AlignedBuf, IoError, IoErrorKind, IoHandle, OpenMode, Stage, drive};

fn handle(disk: &SimDisk) -> Rc<IoHandle> {
    IoHandle::new(Box::new(disk.io()))
}

fn filled(len: usize, byte: u8) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(len);
    buf.fill(byte);
    buf
}

/// Makes `/f` with four sectors of ones, durable with its name.
async fn durable_ones(io: &IoHandle) -> Result<(), IoError> {
    let file = io.open("/f", OpenMode::CREATE_NEW).await?;
    io.write_synced(file, 0, filled(4 * SECTOR, 1)).await.0?;
    io.sync_dir("/").await
}

fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let io = handle(disk);
    drive::run(&io, async {
        let file = io.open(path, OpenMode::READ).await.ok()?;
        let size = io.size(file).await.unwrap() as usize;
        let (read, buf) = io.read(file, 0, AlignedBuf::zeroed(size)).await;
        assert_eq!(read, Ok(size));
        Some(buf.to_vec())
    })
    .expect("the disk is up")
}

#[test]
fn crash_variants_resolve_unsynced_writes() {
    let mut torn_lengths = std::collections::BTreeSet::new();
    let mut subsets = std::collections::BTreeSet::new();
    for seed in 0..40 {
        for variant in TearVariant::ALL {
            let disk = SimDisk::new(seed);
            let io = handle(&disk);
            drive::run(&io, async {
                durable_ones(&io).await.unwrap();
                let file = io.open("/f", OpenMode::WRITE).await.unwrap();
                io.write(file, 0, filled(4 * SECTOR, 2)).await.0.unwrap();
            });
            disk.crash_now();
            disk.restart(variant);
            let found = content(&disk, "/f").expect("the name was synced");
            let sectors: Vec<u8> = found.chunks(SECTOR).map(|sector| sector[0]).collect();
            assert!(
                found
                    .chunks(SECTOR)
                    .all(|sector| sector.iter().all(|&b| b == sector[0]))
            );
            match variant {
                TearVariant::LoseUnsynced => assert_eq!(sectors, [1; 4]),
                TearVariant::Subset => {
                    subsets.insert(sectors);
                }
                TearVariant::TearLast => {
                    assert!(sectors.is_sorted_by(|a, b| a >= b));
                    torn_lengths.insert(sectors.iter().filter(|&&b| b == 2).count());
                }
            }
        }
    }
    assert_eq!(torn_lengths.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(subsets.len() > 8);
}

#[test]
fn names_need_their_directory_synced() {
    let disk = SimDisk::new(1);
    let io = handle(&disk);
    drive::run(&io, async {
        durable_ones(&io).await.unwrap();
        io.create_dir("/d").await.unwrap();
        io.rename("/f", "/g").await.unwrap();
        let file = io.open("/h", OpenMode::CREATE_NEW).await.unwrap();
        io.write_synced(file, 0, filled(SECTOR, 3)).await.0.unwrap();
        assert_eq!(io.list_dir("/").await.unwrap(), ["d", "g", "h"]);
        let missing = io.open("/no/f", OpenMode::CREATE_NEW).await;
        assert_eq!(
            missing,
            Err(IoError::new(IoErrorKind::NotFound, Stage::Open))
        );
    });
    disk.crash_now();
    disk.restart(TearVariant::LoseUnsynced);
    assert_eq!(disk.files(), [(PathBuf::from("/f"), 4 * SECTOR as u64)]);
    assert!(content(&disk, "/h").is_none());
}

#[test]
fn crash_point_stops_everything_and_kills_the_run() {
    for number in 1..=4 {
        let disk = SimDisk::new(7);
        disk.crash_at(number);
        let io = handle(&disk);
        assert!(
            drive::run(&io, durable_ones(&io)).is_none(),
            "operation {number} completed"
        );
        assert!(disk.halted());
        assert_eq!(disk.operations(), number);
        disk.restart(TearVariant::TearLast);
        assert!(io.halted(), "an old run stays dead");
        assert!(drive::run(&io, io.list_dir("/")).is_none());
        assert!(drive::run(&handle(&disk), async {}).is_some());
    }
    let disk = SimDisk::new(7);
    disk.crash_at(5);
    let io = handle(&disk);
    assert_eq!(drive::run(&io, durable_ones(&io)), Some(Ok(())));
}

#[test]
fn failed_sync_stays_failed_until_restart() {
    let disk = SimDisk::new(3);
    let io = handle(&disk);
    drive::run(&io, async {
        durable_ones(&io).await.unwrap();
        let file = io.open("/f", OpenMode::WRITE).await.unwrap();
        io.write(file, 0, filled(SECTOR, 9)).await.0.unwrap();
        disk.fail_at(disk.operations() + 1, Fault::Eio);
        assert_eq!(
            io.sync(file).await,
            Err(IoError::from_errno(libc::EIO, Stage::Sync))
        );
        assert_eq!(
            io.sync(file).await,
            Err(IoError::from_errno(libc::EIO, Stage::Sync))
        );
        let (result, _) = io.write_synced(file, 0, filled(SECTOR, 9)).await;
        assert_eq!(result, Err(IoError::from_errno(libc::EIO, Stage::Sync)));
    });
    disk.crash_now();
    disk.restart(TearVariant::LoseUnsynced);
    assert_eq!(content(&disk, "/f").unwrap()[0], 1);
    let io = handle(&disk);
    drive::run(&io, async {
        let file = io.open("/f", OpenMode::WRITE).await.unwrap();
        assert_eq!(io.sync(file).await, Ok(()));
    });
}

#[test]
fn full_disk_takes_what_fits_and_overwriting_needs_no_space() {
    let disk = SimDisk::new(5);
    disk.set_capacity(Some(6 * SECTOR as u64));
    let io = handle(&disk);
    let full = Err(IoError::from_errno(libc::ENOSPC, Stage::Write));
    drive::run(&io, async {
        durable_ones(&io).await.unwrap();
        let file = io.open("/f", OpenMode::WRITE).await.unwrap();
        assert_eq!(
            io.write(file, 4 * SECTOR as u64, filled(4 * SECTOR, 2))
                .await
                .0,
            full
        );
        assert_eq!(io.size(file).await, Ok(6 * SECTOR as u64));
        assert_eq!(io.write(file, 0, filled(6 * SECTOR, 3)).await.0, Ok(()));
        let other = io.open("/g", OpenMode::CREATE_NEW).await.unwrap();
        assert!(io.allocate(other, 1).await.unwrap_err().is_no_space());
        io.unlink("/f").await.unwrap();
        assert_eq!(io.allocate(other, SECTOR as u64).await, Ok(()));
    });
}

#[test]
fn stalls_bit_flips_and_failing_reads() {
    let disk = SimDisk::new(6);
    let io = handle(&disk);
    drive::run(&io, durable_ones(&io)).unwrap().unwrap();
    assert!(disk.flip_bit("/f", 100, 2));
    assert!(!disk.flip_bit("/f", 1 << 20, 2));
    assert_eq!(content(&disk, "/f").unwrap()[100], 1 ^ 4);
    disk.stall(50);
    let pending = io.submit(IoOp::ListDir { path: "/".into() });
    for _ in 0..50 {
        assert_eq!(io.poll(), 0);
    }
    assert!(drive::run(&io, pending).unwrap().result.is_ok());
    disk.fail_read(2);
    drive::run(&io, async {
        let file = io.open("/f", OpenMode::READ).await.unwrap();
        assert!(io.read(file, 0, AlignedBuf::zeroed(10)).await.0.is_ok());
        assert!(io.read(file, 0, AlignedBuf::zeroed(10)).await.0.is_err());
        assert!(io.read(file, 0, AlignedBuf::zeroed(10)).await.0.is_ok());
    });
}

#[test]
fn equal_seeds_give_equal_runs() {
    let trace = |seed| {
        let disk = SimDisk::new(seed);
        let io = handle(&disk);
        let mut order = Vec::new();
        drive::run(&io, durable_ones(&io)).unwrap().unwrap();
        drive::run(&io, async {
            let file = io.open("/f", OpenMode::READ).await.unwrap();
            let op = |offset| IoOp::Read {
                file,
                offset,
                buf: AlignedBuf::zeroed(8),
            };
            let mut reads: Vec<_> = (0..8).map(|i| Some(io.submit(op(i)))).collect();
            std::future::poll_fn(|context| {
                for (index, read) in reads.iter_mut().enumerate() {
                    if let Some(future) = read
                        && std::pin::Pin::new(future).poll(context).is_ready()
                    {
                        order.push(index);
                        *read = None;
                    }
                }
                let done = reads.iter().all(Option::is_none);
                if done {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            })
            .await;
        });
        order
    };
    assert_eq!(trace(11), trace(11));
    assert!((0..20).any(|seed| trace(seed) != trace(seed + 20)));
}
