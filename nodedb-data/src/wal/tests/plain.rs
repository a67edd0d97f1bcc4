//! Without crashes: rolling over segments, sealing, releasing, refusals, and the real backends.

use super::*;
use crate::io::drive;
use crate::io::sim::{Fault, SimDisk, TearVariant};
use crate::io::tests::{TempDir, backends};

/// Appends statements `from..to` in random groups and waits until all are acknowledged.
async fn write(wal: &Wal<u64>, outcome: &RefCell<Outcome>, from: u64, to: u64) {
    let mut rng = Rng::new(from);
    for number in from..to {
        wal.room(64 << 10).await;
        append(wal, number).unwrap();
        if rng.chance(1, 3) {
            pause().await;
        }
    }
    while outcome.borrow().acknowledged.last() != Some(&(to - 1)) {
        pause().await;
    }
}

#[test]
fn real_backends_read_back_what_was_acknowledged() {
    for (name, io) in backends(None) {
        let data_dir = TempDir::new(name);
        let mut all = Vec::new();
        for run in 0..3 {
            let recovered = drive::run(&io, recover(&io, &data_dir.0, 64 << 10))
                .unwrap()
                .unwrap();
            assert_eq!(recovered.statements, all, "{name}, run {run}");
            let outcome = Rc::default();
            let wal = recovered.wal;
            let (from, to) = (run * 1000, run * 1000 + 400);
            let background = tasks(&wal, &outcome);
            drive::run_with(&io, write(&wal, &outcome, from, to), background);
            drive::run(&io, wal.close()).unwrap().unwrap();
            assert_eq!(
                outcome.borrow().acknowledged,
                (from..to).collect::<Vec<_>>()
            );
            assert!(wal.stats().flushes <= 400 + 1 && wal.durable_end().segment() > 0);
            all.extend(from..to);
        }
    }
}

#[test]
fn positions_and_live_reading() {
    let disk = SimDisk::new(1);
    let io = handle(disk.io());
    drive::run(&io, async {
        let wal = recover(&io, Path::new("/"), 1 << 20).await.unwrap().wal;
        let mut positions = Vec::new();
        for number in 0..20 {
            append(&wal, number).unwrap();
            append(&wal, number + 100).unwrap();
            let durable = wal.flush().await.unwrap();
            assert_eq!(
                durable.iter().map(|d| *d.value()).collect::<Vec<_>>(),
                [number, number + 100]
            );
            assert_eq!(durable[0].position(), durable[1].position());
            assert_eq!(durable[0].end(), wal.durable_end());
            positions.push((durable[0].position(), durable[0].end()));
        }
        assert!(positions.windows(2).all(|pair| pair[0].1 == pair[1].0));
        assert!(wal.flush().await.unwrap().is_empty());
        // Beside the writer, from the middle on, up to what is durable.
        append(&wal, 999).unwrap();
        let (dir, from) = (Path::new("/wal"), positions[9].1);
        let mut reader = ChainReader::new(Rc::clone(&io), dir, DATABASE, &wal.chain(), Some(from));
        let mut found = Vec::new();
        while let Some(frame) = reader.next().await.unwrap() {
            assert_eq!(
                (frame.position(), frame.end()),
                positions[10 + found.len() / 2]
            );
            found.extend(statements_of(&frame));
        }
        assert_eq!(
            found,
            (10..20).flat_map(|n| [n, n + 100]).collect::<Vec<_>>()
        );
        assert_eq!(reader.end(), wal.durable_end());
    })
    .unwrap();
}

#[test]
fn idle_log_is_sealed_once() {
    let disk = SimDisk::new(2);
    let io = handle(disk.io());
    drive::run(&io, async {
        let wal = recover(&io, Path::new("/"), 1 << 20).await.unwrap().wal;
        assert!(!wal.needs_seal(), "an empty chain has nothing to name");
        append(&wal, 1).unwrap();
        assert!(!wal.needs_seal());
        assert!(wal.seal().await.unwrap().is_empty());
        let _ = wal.flush().await.unwrap();
        assert!(wal.needs_seal());
        assert!(wal.seal().await.unwrap().is_empty());
        assert!(!wal.needs_seal());
        append(&wal, 2).unwrap();
        assert_eq!(wal.flush().await.unwrap().len(), 1);
        assert!(wal.needs_seal());
        let before = wal.durable_end();
        assert!(wal.seal().await.unwrap().is_empty());
        assert!(wal.durable_end() > before);
    })
    .unwrap();
}

#[test]
fn refusals_say_why_and_leave_nothing() {
    let disk = SimDisk::new(3);
    let io = handle(disk.io());
    drive::run(&io, async {
        let wal = recover(&io, Path::new("/"), 1 << 20).await.unwrap().wal;
        let header = RecordHeader::of_log(RecordKind::Rows);
        let payload = vec![1; 1 << 20];
        let refused = wal
            .append(
                &[Record {
                    header,
                    payload: &payload,
                }],
                1,
            )
            .unwrap_err();
        assert!(matches!(refused.error, WalError::TooLarge { .. }) && refused.value == 1);
        // The largest that fits, until the group is full.
        let largest = (1 << 20) - codec::FRAME_HEADER_BYTES - codec::RECORD_HEADER_BYTES;
        let record = Record {
            header,
            payload: &payload[..largest],
        };
        let mut appended = 0;
        while wal.has_room(record.encoded_bytes()) {
            wal.append(&[record], appended).unwrap();
            appended += 1;
        }
        assert_eq!(appended, 4);
        assert_eq!(wal.append(&[record], 9).unwrap_err().error, WalError::Full);
        // Four frames fill the first segment and go on in the next two.
        let outcome = Rc::new(RefCell::new(Outcome::default()));
        let mut background = tasks(&wal, &outcome);
        while outcome.borrow().acknowledged.len() < 4 {
            std::future::poll_fn(|context| {
                background.retain_mut(|task| task.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            pause().await;
        }
        assert_eq!(outcome.borrow().acknowledged, [0, 1, 2, 3]);
        assert_eq!(wal.durable_end(), Position::new(2, 1 << 20));
    })
    .unwrap();
}

#[test]
fn release_keeps_what_is_needed() {
    let disk = SimDisk::new(4);
    let io = handle(disk.io());
    let first = drive::run(&io, recover(&io, Path::new("/"), 64 << 10))
        .unwrap()
        .unwrap()
        .wal;
    let outcome = Rc::default();
    drive::run_with(
        &io,
        write(&first, &outcome, 0, 500),
        tasks(&first, &outcome),
    );
    let files = || {
        disk.files()
            .into_iter()
            .map(|(path, _)| path)
            .collect::<Vec<_>>()
    };
    let before = first.bytes_live();
    assert_eq!(
        before,
        disk.files().iter().map(|(_, bytes)| bytes).sum::<u64>()
    );
    drive::run(&io, first.release_before(first.durable_end()))
        .unwrap()
        .unwrap();
    assert!(first.bytes_live() < before && !files().contains(&first_segment(1)));
    drive::run(&io, first.close()).unwrap().unwrap();

    // A second run: its first segment stays while the first chain exists.
    let io = handle(disk.io());
    let (second, mut chains) = drive::run(&io, async {
        let chains = scan_chains(&io, Path::new("/wal"), DATABASE).await.unwrap();
        assert_eq!(chains.len(), 1);
        let id = ChainId {
            epoch: 2,
            core: CoreId(0),
        };
        let ends = [ChainEnd {
            chain: chains[0].id,
            end: first.durable_end(),
        }];
        let config = config("/wal".into(), id, 64 << 10);
        (
            Wal::<u64>::create(Rc::clone(&io), config, &ends)
                .await
                .unwrap(),
            chains,
        )
    })
    .unwrap();
    let outcome = Rc::default();
    drive::run_with(
        &io,
        write(&second, &outcome, 500, 900),
        tasks(&second, &outcome),
    );
    drive::run(&io, async {
        second.release_before(second.durable_end()).await.unwrap();
        assert!(files().contains(&first_segment(2)));
        let found = scan_chains(&io, Path::new("/wal"), DATABASE).await.unwrap();
        assert_eq!(found[0].end, Some(first.durable_end()));
        // What the reader is asked for is gone, and it says so.
        let mut reader = ChainReader::new(
            Rc::clone(&io),
            Path::new("/wal"),
            DATABASE,
            &second.chain(),
            None,
        );
        assert!(
            reader.next().await.unwrap().is_some(),
            "the ends are still there"
        );
        let rest = async {
            while reader.next().await?.is_some() {}
            Ok(())
        };
        assert!(matches!(rest.await, Err(WalError::Corrupt { .. })));

        chains[0].release(&io, Path::new("/wal")).await.unwrap();
        second.older_chains_released();
        second.release_before(second.durable_end()).await.unwrap();
        assert!(!files().contains(&first_segment(2)));
    })
    .unwrap();
}

fn first_segment(epoch: u32) -> PathBuf {
    Path::new("/wal").join(segment::segment_name(
        ChainId {
            epoch,
            core: CoreId(0),
        },
        0,
    ))
}

#[test]
fn full_disk_refuses_then_goes_on() {
    let disk = SimDisk::new(5);
    disk.set_capacity(Some(300 << 10));
    let io = handle(disk.io());
    let wal = drive::run(&io, recover(&io, Path::new("/"), 32 << 10))
        .unwrap()
        .unwrap()
        .wal;
    let outcome: Rc<RefCell<Outcome>> = Rc::default();
    let script = async {
        let mut number = 0;
        while outcome.borrow().abandoned.is_empty() {
            append(&wal, number).unwrap();
            number += 1;
            pause().await;
        }
        // Nothing fits until there is space; then the next statement goes through.
        disk.set_capacity(None);
        while outcome.borrow().acknowledged.last() != Some(&number) {
            append(&wal, number).unwrap();
            let seen =
                |o: &Outcome| o.acknowledged.contains(&number) || o.abandoned.contains(&number);
            while !seen(&outcome.borrow()) {
                pause().await;
            }
        }
    };
    drive::run_with(&io, script, tasks(&wal, &outcome)).unwrap();
    disk.crash_now();
    disk.restart(TearVariant::TearLast);
    let io = handle(disk.io());
    let recovered = drive::run(&io, recover(&io, Path::new("/"), 32 << 10))
        .unwrap()
        .unwrap();
    assert_eq!(recovered.statements, outcome.borrow().acknowledged);
}

#[test]
fn frames_of_an_abandoned_group_do_not_come_back_behind_later_ones() {
    let header = RecordHeader::of_log(RecordKind::Lease);
    let payload = vec![5; 40 << 10];
    let record = Record {
        header,
        payload: &payload,
    };
    for seed in 0..12 {
        let disk = SimDisk::new(seed);
        let io = handle(disk.io());
        let wal = drive::run(&io, recover(&io, Path::new("/"), 64 << 10));
        let wal = wal.unwrap().unwrap().wal;
        let script = async {
            // On to a segment that takes several of the longest frames.
            while wal.durable_end().segment() < 2 {
                wal.append(&[record], 0).unwrap();
                let _ = wal.flush().await.unwrap();
            }
            for number in 1..=3 {
                wal.append(&[record], number).unwrap();
            }
            disk.fail_at(disk.operations() + 1 + seed % 3, Fault::NoSpace);
            let failed = wal.flush().await.unwrap_err();
            assert_eq!(
                (failed.error, failed.abandoned),
                (WalError::NoSpace, vec![1, 2, 3])
            );
            // As long as the first that was abandoned, so it ends where the second began.
            wal.append(&[record], 4).unwrap();
            wal.flush().await.unwrap()[0].end()
        };
        let prepare = Box::pin(Rc::clone(&wal).prepare_segments());
        let end = drive::run_with(&io, script, vec![prepare]).unwrap();
        disk.crash_now();
        disk.restart(TearVariant::TearLast);
        let io = handle(disk.io());
        let (_, ends, _) = drive::run(&io, read_all(&io, Path::new("/wal")))
            .unwrap()
            .unwrap();
        assert_eq!(ends[0].end, end);
    }
}

#[test]
fn failed_sync_latches() {
    let disk = SimDisk::new(6);
    let io = handle(disk.io());
    drive::run(&io, async {
        let wal = recover(&io, Path::new("/"), 1 << 20).await.unwrap().wal;
        append(&wal, 1).unwrap();
        let _ = wal.flush().await.unwrap();
        disk.fail_at(disk.operations() + 2, Fault::Eio);
        append(&wal, 2).unwrap();
        let failed = wal.flush().await.unwrap_err();
        assert!(matches!(failed.error, WalError::Latched(_)) && failed.abandoned == [2]);
        assert!(matches!(append(&wal, 3), Err(WalError::Latched(_))));
        assert!(matches!(
            wal.flush().await.unwrap_err().error,
            WalError::Latched(_)
        ));
        wal.ready().await;
        assert!(wal.latched().is_some() && !wal.needs_seal());
    })
    .unwrap();
}

#[test]
fn foreign_files_and_databases_are_not_read() {
    let disk = SimDisk::new(7);
    let io = handle(disk.io());
    drive::run(&io, async {
        let wal = recover(&io, Path::new("/"), 64 << 10).await.unwrap().wal;
        append(&wal, 1).unwrap();
        let _ = wal.flush().await.unwrap();
        io.open("/wal/notes.txt", crate::io::OpenMode::CREATE_NEW)
            .await
            .unwrap();
        let chains = scan_chains(&io, Path::new("/wal"), DATABASE).await.unwrap();
        assert_eq!(chains.len(), 1);
        let mut reader = ChainReader::new(
            Rc::clone(&io),
            Path::new("/wal"),
            DATABASE + 1,
            &chains[0],
            None,
        );
        assert_eq!(reader.next().await, Ok(None));
        assert_eq!(reader.end(), Position::START);
    })
    .unwrap();
}
