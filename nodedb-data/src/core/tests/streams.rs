//! Events read back from the logs: everything once, in order, whatever page size and restarts.

use std::num::NonZeroU64;
use std::path::PathBuf;

use nodedb_bridge::event::Emitted;
use nodedb_bridge::plan::{Outcome, SchemaStep};
use nodedb_bridge::port::{EventLog, EventPosition, LogQuery};
use nodedb_types::{CommitTs, ShardId, SqlState};

use super::machine::{COLLECTION, Machine, Node, encode, with_collection};
use crate::emit::log::{EventLogConfig, LogReader};
use crate::io::sim::TearVariant;

/// An event by what tells it from others.
type Seen = (CommitTs, ShardId, Vec<u8>, bool, bool);

fn emitted(node: &mut Node, seen: &mut Vec<Seen>) {
    for ring in &mut node.events.events {
        while let Ok(event) = ring.pop() {
            let Emitted::Batch(batch) = event else {
                panic!("the ring has room")
            };
            for e in batch.events {
                let images = (e.before.is_some(), e.after.is_some());
                seen.push((e.commit_ts, batch.shard, e.key.to_vec(), images.0, images.1));
            }
        }
    }
}

fn work(node: &mut Node, seen: &mut Vec<Seen>, round: i32) {
    for id in 0..30 {
        let row = node.put(id, Some(round), &"x".repeat(1000));
        node.write(vec![row]).unwrap().result.unwrap();
        if id % 5 == 0 {
            let text = format!("{round}");
            let rows: Vec<_> = (100..110)
                .map(|id| (id, Some(encode(id, Some(round), &text))))
                .collect();
            let staged = node.stage(&rows).unwrap();
            node.prepare(&staged).unwrap().unwrap();
            let ts = node.decide(&staged).unwrap();
            node.conclude(&staged, Outcome::Committed(ts)).unwrap();
        }
        emitted(node, seen);
    }
    for _ in 0..20 {
        node.step();
    }
    emitted(node, seen);
}

fn read_back(machine: &Machine, node: &Node, query: &LogQuery) -> Vec<Seen> {
    let config = EventLogConfig {
        data_dir: PathBuf::from("/"),
        database: 0,
        epoch: machine.epoch(),
        log_ends: node.events.log_ends.clone(),
    };
    let mut log = LogReader::open(config, Box::new(machine.disk.io())).unwrap();
    let mut query = query.clone();
    let mut seen = Vec::new();
    loop {
        let page = log.page(&query).unwrap();
        for batch in page.batches {
            for e in batch.events {
                let images = (e.before.is_some(), e.after.is_some());
                seen.push((e.commit_ts, batch.shard, e.key.to_vec(), images.0, images.1));
            }
        }
        match page.next {
            Some(next) => {
                assert!(query.from.is_none_or(|from| next > from), "it goes on");
                query.from = Some(next);
            }
            None => return seen,
        }
    }
}

#[test]
fn the_log_gives_every_event_once_and_in_order() {
    let mut machine = Machine::new(31, 4);
    let mut node = with_collection(&mut machine, 2);
    let emit = SchemaStep::SetEmit {
        collection: COLLECTION,
        retention_bytes: NonZeroU64::new(1 << 30),
    };
    node.schema(emit).unwrap().unwrap();
    let since = node.shared.clock.next();
    let mut seen = Vec::new();
    work(&mut node, &mut seen, 1);
    drop(node);
    machine.restart(TearVariant::LoseUnsynced);
    let mut node = machine.start(1).unwrap();
    work(&mut node, &mut seen, 2);
    seen.sort_by_key(|e| (e.0, e.1));
    let query = LogQuery {
        collection: COLLECTION,
        from: None,
        since,
        before: node.shared.clock.next(),
        retention_bytes: u64::MAX,
        bytes_max: 64 << 10,
    };
    let total = seen.len();
    assert!(total > 150);
    assert_eq!(read_back(&machine, &node, &query), seen);
    for bytes_max in [1, 3000] {
        let small = LogQuery {
            bytes_max,
            ..query.clone()
        };
        assert_eq!(read_back(&machine, &node, &small), seen);
    }
    // From the middle of the history on.
    let middle = seen[total / 2].0;
    let from = Some(EventPosition::at(middle));
    let later = LogQuery {
        from,
        ..query.clone()
    };
    let expected: Vec<Seen> = seen.iter().filter(|e| e.0 >= middle).cloned().collect();
    assert_eq!(read_back(&machine, &node, &later), expected);
    // What is not kept is refused, with the oldest position.
    let config = EventLogConfig {
        data_dir: PathBuf::from("/"),
        database: 0,
        epoch: machine.epoch(),
        log_ends: node.events.log_ends.clone(),
    };
    let mut log = LogReader::open(config, Box::new(machine.disk.io())).unwrap();
    let short = LogQuery {
        from: Some(EventPosition::at(seen[0].0)),
        retention_bytes: 300_000,
        ..query
    };
    let failure = log.page(&short).unwrap_err();
    assert_eq!(failure.code(), SqlState::ObjectNotInPrerequisiteState);
    assert!(failure.detail().unwrap().contains("oldest position"));
}
