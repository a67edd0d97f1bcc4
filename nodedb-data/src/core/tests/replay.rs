//! What is read back from the logs is what the cores emitted.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;

use nodedb_bridge::event::{Emitted, WriteEvent};
use nodedb_bridge::plan::{Outcome, SchemaStep};
use nodedb_bridge::port::{EventLog, EventPosition, LogQuery};
use nodedb_types::{CollectionId, CommitTs, SqlState};

use super::checkpoints::checkpoint;
use super::machine::{COLLECTION, Machine, Node, encode, with_collection};
use crate::emit::log::{EventLogConfig, LogReader};
use crate::io::sim::TearVariant;

type Events = BTreeMap<EventPosition, Vec<WriteEvent>>;

fn emit(node: &mut Node, retention_bytes: u64) {
    let step = SchemaStep::SetEmit {
        collection: COLLECTION,
        retention_bytes: NonZeroU64::new(retention_bytes),
    };
    node.schema(step).unwrap().unwrap();
}

/// Takes what the cores have emitted.
fn collect(node: &mut Node, events: &mut Events) {
    node.step();
    for ring in &mut node.events.events {
        while let Ok(emitted) = ring.pop() {
            let Emitted::Batch(batch) = emitted else {
                panic!("the ring has room")
            };
            let place = EventPosition {
                commit_ts: batch.commit_ts,
                shard: batch.shard,
                lsn: batch.lsn,
                part: 0,
            };
            assert!(events.insert(place, batch.events).is_none());
        }
    }
}

fn transaction(node: &mut Node, rows: &[(i64, Option<Vec<u8>>)]) {
    let staged = node.stage(rows).unwrap();
    node.prepare(&staged).unwrap().unwrap();
    let ts = node.decide(&staged).unwrap();
    node.conclude(&staged, Outcome::Committed(ts)).unwrap();
}

fn reader(machine: &Machine, node: &Node) -> LogReader {
    let config = &node.cores[0].state.config;
    let config = EventLogConfig {
        data_dir: config.data_dir.clone(),
        database: config.database,
        epoch: config.epoch,
        log_ends: node.events.log_ends.clone(),
    };
    LogReader::open(config, Box::new(machine.disk.io())).unwrap()
}

fn query(node: &mut Node, since: CommitTs, bytes_max: usize) -> LogQuery {
    // The marks pass what is done.
    node.step();
    LogQuery {
        collection: COLLECTION,
        from: None,
        since,
        before: CommitTs(node.shared.clock.now().0 + 1),
        retention_bytes: u64::MAX,
        bytes_max,
    }
}

fn read(log: &mut LogReader, mut query: LogQuery) -> Events {
    let mut events = Events::new();
    let mut last: Option<EventPosition> = None;
    for _ in 0..10_000 {
        let page = log.page(&query).unwrap();
        if page.again {
            assert!(page.batches.is_empty() && page.bytes_read > 0);
            continue;
        }
        for batch in page.batches {
            let mut place = EventPosition {
                commit_ts: batch.commit_ts,
                shard: batch.shard,
                lsn: batch.lsn,
                part: batch.part,
            };
            let before = last.replace(place);
            assert!(before.is_none_or(|before| place > before), "in order");
            place.part = 0;
            events.entry(place).or_default().extend(batch.events);
        }
        match page.next {
            None => return events,
            Some(at) => {
                assert!(Some(at) > last);
                query.from = Some(at);
            }
        }
    }
    panic!("it does not end");
}

#[test]
fn the_log_gives_back_what_was_emitted() {
    for (cores, then) in [(1, 2), (2, 1), (4, 2)] {
        let mut machine = Machine::new(21, 4);
        // Checkpoints leave what streams keep.
        machine.checkpoint_units = 400;
        let mut node = with_collection(&mut machine, cores);
        emit(&mut node, 1 << 30);
        let mut emitted = Events::new();
        for id in 0..60 {
            let row = node.put(id % 20, Some(id as i32), &"x".repeat(id as usize * 90));
            node.write(vec![row]).unwrap().result.unwrap();
            if id % 7 == 0 {
                let row = |id| (id, Some(encode(id, Some(7), "moved")));
                transaction(&mut node, &[row(id), row(id + 1), (id + 2, None)]);
            }
            collect(&mut node, &mut emitted);
        }
        // More than a frame in some shard: several Prepare records, in several blocks.
        let big: Vec<_> = (100..116)
            .map(|id| (id, Some(encode(id, None, &"y".repeat(300_000)))))
            .collect();
        transaction(&mut node, &big);
        collect(&mut node, &mut emitted);
        let mut log = reader(&machine, &node);
        for bytes_max in [1, 4_000, 10 << 20] {
            let query = query(&mut node, CommitTs(1), bytes_max);
            assert_eq!(read(&mut log, query), emitted);
        }
        // What is committed while the log is open, and from the middle.
        let row = node.put(200, None, "later");
        node.write(vec![row]).unwrap().result.unwrap();
        collect(&mut node, &mut emitted);
        let middle = *emitted.keys().nth(emitted.len() / 2).unwrap();
        let rest = query(&mut node, CommitTs(1), 4_000);
        let from = Some(middle);
        let rest = read(&mut log, LogQuery { from, ..rest });
        assert_eq!(rest, emitted.split_off(&middle));
        emitted.extend(rest);
        let other = query(&mut node, CommitTs(1), 1);
        let collection = CollectionId(4000);
        assert!(
            read(
                &mut log,
                LogQuery {
                    collection,
                    ..other
                }
            )
            .is_empty()
        );
        // A commit that was decided and not concluded, over a crash and other cores.
        let staged = node.stage(&[(1, None), (2, None), (3, None)]).unwrap();
        node.prepare(&staged).unwrap().unwrap();
        node.decide(&staged).unwrap();
        collect(&mut node, &mut emitted);
        drop((node, log));
        machine.restart(TearVariant::LoseUnsynced);
        let mut node = machine.start(then).unwrap();
        let before = emitted.len();
        collect(&mut node, &mut emitted);
        assert!(emitted.len() > before, "the recovery concludes it");
        let row = node.put(1, None, "again");
        node.write(vec![row]).unwrap().result.unwrap();
        collect(&mut node, &mut emitted);
        let query = query(&mut node, CommitTs(1), 4_000);
        assert_eq!(read(&mut reader(&machine, &node), query), emitted);
    }
}

#[test]
fn what_retention_drops_is_refused_by_name() {
    let mut machine = Machine::new(22, 4);
    let mut node = with_collection(&mut machine, 2);
    emit(&mut node, 1 << 30);
    let mut emitted = Events::new();
    for id in 0..40 {
        let row = node.put(id, None, &"z".repeat(100_000));
        node.write(vec![row]).unwrap().result.unwrap();
        collect(&mut node, &mut emitted);
    }
    let first = emitted.keys().next().unwrap().commit_ts;
    let last = emitted.keys().last().unwrap().commit_ts;
    let mut log = reader(&machine, &node);
    let all = query(&mut node, first, 1 << 20);
    let kept = LogQuery {
        retention_bytes: 1 << 20,
        ..all
    };
    let from = Some(EventPosition::at(first));
    let refused = log
        .page(&LogQuery {
            from,
            ..kept.clone()
        })
        .unwrap_err();
    assert_eq!(refused.code(), SqlState::ObjectNotInPrerequisiteState);
    let newest = read(&mut log, kept);
    let oldest = newest.keys().next().unwrap().commit_ts;
    assert!(refused.detail().unwrap().contains(&oldest.to_string()) || oldest > first);
    assert!(newest.len() > 3 && newest.len() < 15);
    assert_eq!(newest.keys().last().unwrap().commit_ts, last);
    assert_eq!(newest, emitted.split_off(newest.keys().next().unwrap()));
}

/// Releases what streams do not need of the cores' own chains; the segments that go.
fn release(node: &mut Node) -> u32 {
    let released = Rc::new(Cell::new(0));
    let mut gone = 0;
    for core in &node.cores {
        let need = core.state.streams_need_from();
        gone += need.segment();
        let (wal, released) = (core.state.wal().clone(), released.clone());
        core.state.spawner.spawn(async move {
            wal.release_before(need).await.unwrap();
            released.set(released.get() + 1);
        });
    }
    node.until(|node| released.get() == node.cores.len());
    gone
}

fn refused(log: &mut LogReader, query: &LogQuery, from: CommitTs) -> bool {
    let from = Some(EventPosition::at(from));
    let page = log.page(&LogQuery {
        from,
        ..query.clone()
    });
    page.is_err_and(|f| f.code() == SqlState::ObjectNotInPrerequisiteState)
}

#[test]
fn released_segments_are_refused_and_the_rest_is_whole() {
    for cores in [1, 2] {
        let mut machine = Machine::new(23, 4);
        let mut node = with_collection(&mut machine, cores);
        emit(&mut node, 1_500_000);
        let mut emitted = Events::new();
        let big = |id: i64| (id % 50, Some(encode(id % 50, None, &"w".repeat(60_000))));
        let mut log = None;
        for id in 0..60 {
            if id % 3 == 0 {
                transaction(&mut node, &[big(id), big(id + 7), big(id + 19)]);
            } else {
                let row = node.put(id % 50, None, &"v".repeat(60_000));
                node.write(vec![row]).unwrap().result.unwrap();
            }
            collect(&mut node, &mut emitted);
            if id == 30 {
                // One reader knows the log from before the release, another does not.
                let mut early = reader(&machine, &node);
                let all = query(&mut node, CommitTs(1), 200_000);
                assert_eq!(read(&mut early, all), emitted);
                log = Some(early);
            }
        }
        let mut log = log.unwrap();
        let all = query(&mut node, CommitTs(1), 200_000);
        let first = emitted.keys().next().unwrap().commit_ts;
        log.page(&all).unwrap();
        assert!(release(&mut node) >= 2);
        for log in [&mut log, &mut reader(&machine, &node)] {
            assert!(refused(log, &all, first));
            let left = read(log, all.clone());
            let from = *left.keys().next().unwrap();
            assert_eq!(left, emitted.clone().split_off(&from));
            let image = |image: &Option<Arc<[u8]>>| image.as_ref().map_or(0, |i| i.len());
            let images = left
                .values()
                .flatten()
                .map(|e| image(&e.before) + image(&e.after));
            let bytes: usize = images.sum();
            assert!(bytes > 1_000_000, "{bytes} bytes are left");
            assert!(left.len() < emitted.len());
        }
    }
}

#[test]
fn what_is_kept_is_whole_through_checkpoints_and_restarts() {
    let mut machine = Machine::new(24, 4);
    machine.checkpoint_units = 3_000;
    let mut node = with_collection(&mut machine, 2);
    emit(&mut node, 1_500_000);
    let mut emitted = Events::new();
    let big = |id: i64| (id % 50, Some(encode(id % 50, None, &"w".repeat(60_000))));
    for (round, cores) in [(0, 2), (1, 4), (2, 1), (3, 2), (4, 2)] {
        if round > 0 {
            drop(node);
            machine.restart(TearVariant::LoseUnsynced);
            node = machine.start(cores).unwrap();
            collect(&mut node, &mut emitted);
        }
        for id in 0..30 {
            if id % 3 == 0 {
                transaction(&mut node, &[big(id), big(id + 7), big(id + 19)]);
            } else {
                let row = node.put(id % 50, None, &"v".repeat(60_000));
                node.write(vec![row]).unwrap().result.unwrap();
            }
            collect(&mut node, &mut emitted);
        }
        for _ in 0..2 {
            checkpoint(&mut node).unwrap();
        }
        let mut log = reader(&machine, &node);
        let all = query(&mut node, CommitTs(1), 200_000);
        let left = read(&mut log, all.clone());
        let from = *left.keys().next().unwrap();
        assert_eq!(left, emitted.clone().split_off(&from), "round {round}");
        let image = |image: &Option<Arc<[u8]>>| image.as_ref().map_or(0, |i| i.len());
        let images = left
            .values()
            .flatten()
            .map(|e| image(&e.before) + image(&e.after));
        let bytes: usize = images.sum();
        assert!(bytes > 1_000_000, "round {round}: {bytes} bytes are left");
        if left.len() < emitted.len() {
            let first = emitted.keys().next().unwrap().commit_ts;
            assert!(refused(&mut log, &all, first));
        }
        let files = machine.disk.files();
        let log_files = files.iter().filter(|(path, _)| path.starts_with("/wal"));
        let on_disk: u64 = log_files.map(|(_, len)| len).sum();
        // What is kept, and of each core the segment in use, the next, and one kept in part.
        let most = 3 << 20;
        assert!(
            on_disk < most + 4 * (3 << 20),
            "round {round}: {on_disk} bytes of log"
        );
        assert!(round < 3 || left.len() < emitted.len());
    }
}
