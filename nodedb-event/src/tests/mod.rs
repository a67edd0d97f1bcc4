//! The bus, the plane and its readers over cores and a log that are made up.

pub mod node;

use nodedb_types::limits::{STREAM_LOG_READERS_MAX, STREAM_PAGE_BYTES, STREAM_READERS_MAX};
use nodedb_types::{CommitTs, SqlState};

use crate::bus::{Bus, BusLimits, Next};
use node::{COLLECTION, Node, all, delete, ids, insert, open, some, to_end, update, wait};
use nodedb_bridge::port::EventPosition;

#[test]
fn rows_show_what_changed() {
    let (mut node, plane) = Node::start(64);
    let ts = node.begin(0);
    node.finish(
        0,
        ts,
        vec![insert(ts, 1), update(ts, 2, "x\"y"), delete(ts, 3)],
    );
    let rows = all(&mut open(&plane, None, false).unwrap()).unwrap();
    let shown: Vec<_> = rows
        .iter()
        .map(|e| (e.op, &*e.key, e.before.as_deref(), e.after.as_deref()))
        .collect();
    assert_eq!(
        shown,
        [
            (
                "insert",
                r#"{"id": 1}"#,
                None,
                Some(r#"{"id": 1, "name": "n"}"#)
            ),
            (
                "update",
                r#"{"id": 2}"#,
                Some(r#"{"id": 2, "name": "n"}"#),
                Some(r#"{"id": 2, "name": "x\"y"}"#)
            ),
            (
                "delete",
                r#"{"id": 3}"#,
                Some(r#"{"id": 3, "name": "n"}"#),
                None
            ),
        ]
    );
    assert!(rows.iter().all(|e| e.commit_ts == ts));
    plane.stop();
}

#[test]
fn only_what_no_core_can_come_before_is_shown() {
    let (mut node, events) = Node::new(64);
    let mut bus = Bus::new(events, node.clock.clone(), BusLimits::default());
    let slow = node.begin(1);
    let fast = node.insert(0, 1);
    assert!(slow < fast);
    bus.drain();
    assert!(bus.final_before() <= slow);
    let from = EventPosition::at(CommitTs(1));
    let end = CommitTs(u64::MAX);
    match bus.next(COLLECTION, from, end, 1 << 20) {
        Next::Window(batches, _) => assert!(batches.is_empty()),
        Next::Wait => {}
        other => panic!("{other:?}"),
    }
    node.finish(1, slow, vec![insert(slow, 2)]);
    assert!(bus.has_news() && bus.drain() && !bus.has_news());
    let Next::Window(batches, next) = bus.next(COLLECTION, from, end, 1 << 20) else {
        panic!("it is in the window");
    };
    let order: Vec<_> = batches.iter().map(|b| b.commit_ts).collect();
    assert_eq!(order, [slow, fast]);
    assert_eq!(next, EventPosition::at(bus.final_before()));
    assert!(matches!(bus.next(COLLECTION, next, end, 1), Next::Wait));
}

#[test]
fn a_reader_that_begins_sees_what_was_committed_and_ends() {
    let (mut node, plane) = Node::start(64);
    for id in 0..10 {
        node.insert(id as usize % 2, id);
    }
    assert_eq!(
        ids(&all(&mut open(&plane, None, false).unwrap()).unwrap()),
        (0..10).collect::<Vec<_>>()
    );
    // An open commit on another core holds the read up, not for ever.
    let slow = node.begin(1);
    let since = node.insert(0, 10);
    let mut rows = open(&plane, Some(since.0 - 2), false).unwrap();
    node.finish(1, slow, vec![insert(slow, 11)]);
    assert_eq!(ids(&all(&mut rows).unwrap()), [9, 11, 10]);
    let mut rows = open(&plane, Some(u64::MAX >> 1), false).unwrap();
    assert!(all(&mut rows).unwrap().is_empty());
    plane.stop();
}

#[test]
fn what_a_core_left_out_comes_from_the_log_in_order() {
    let (mut node, plane) = Node::start(4);
    let mut rows = open(&plane, None, true).unwrap();
    let count = 3_000;
    for id in 0..count {
        node.insert(id as usize % 2, id);
    }
    let mut got = Vec::new();
    while got.len() < count as usize {
        node.step();
        got.extend(ids(&some(&mut rows, 1)));
    }
    assert_eq!(got, (0..count).collect::<Vec<_>>());
    assert!(node.log.pages.load(std::sync::atomic::Ordering::Relaxed) > 0);
    // And the live way goes on behind it.
    node.step();
    node.insert(0, count);
    node.step();
    assert_eq!(ids(&some(&mut rows, 1)), [count]);
    plane.stop();
}

#[test]
fn memory_is_bounded_and_a_slow_reader_misses_nothing() {
    let (mut node, events) = Node::new(64);
    let limits = BusLimits {
        window_bytes: 2_000,
        pending_bytes_max: 2_000,
    };
    let mut bus = Bus::new(events, node.clock.clone(), limits);
    let first = node.insert(0, 0);
    for id in 1..50 {
        node.insert(0, id);
        bus.drain();
    }
    let from = EventPosition::at(first);
    let Next::Log { before } = bus.next(COLLECTION, from, CommitTs(u64::MAX), 1 << 20) else {
        panic!("the window has moved on");
    };
    let (from, end) = (EventPosition::at(before), CommitTs(u64::MAX));
    let Next::Window(batches, _) = bus.next(COLLECTION, from, end, 1 << 20) else {
        panic!("the window begins there");
    };
    assert!(batches.len() < 20 && !batches.is_empty());
    // A core that never finishes: what waits for it is left to the log, all of it.
    node.begin(1);
    for id in 50..100 {
        node.insert(0, id);
        bus.drain();
    }
    let final_before = bus.final_before();
    let newest = node.insert(1, 100);
    bus.drain();
    assert!(bus.final_before() > final_before && bus.final_before() > newest);
    let from = EventPosition::at(final_before);
    assert!(matches!(
        bus.next(COLLECTION, from, end, 1),
        Next::Log { .. }
    ));
}

#[test]
fn a_failure_of_the_log_reaches_the_reader() {
    let (mut node, events) = Node::new(64);
    let first = node.insert(0, 0);
    // What was committed before the plane began is in the log only.
    let plane = node.plane(events);
    node.log
        .oldest
        .store(first.0 + 5, std::sync::atomic::Ordering::Relaxed);
    let failure = all(&mut open(&plane, Some(1), false).unwrap());
    assert_eq!(
        failure.unwrap_err().code(),
        SqlState::ObjectNotInPrerequisiteState
    );
    plane.stop();
}

#[test]
fn readers_are_counted_and_a_stop_is_told() {
    let (mut node, plane) = Node::start(64);
    let mut waiting: Vec<_> = (0..STREAM_READERS_MAX)
        .map(|_| open(&plane, None, true).unwrap())
        .collect();
    let refused = open(&plane, None, true).err().unwrap();
    assert_eq!(refused.code(), SqlState::TooManyConnections);
    waiting.truncate(STREAM_LOG_READERS_MAX + 1);
    // Once the plane has served the first of those that have gone, all that are left wait.
    while open(&plane, None, true).is_err() {
        std::thread::yield_now();
    }
    node.insert(0, 1);
    for rows in &mut waiting {
        assert_eq!(ids(&some(rows, 1)), [1]);
    }
    plane.stop();
    let end = all(&mut waiting[0]).unwrap_err();
    assert_eq!(end.code(), SqlState::AdminShutdown);
    drop(node);
}

/// As many readers as there are turns at the log take one piece and no more, in the middle of a
/// commit: others get their turns, and those who stalled get all the rest, once.
#[test]
fn readers_that_stall_give_their_turns_back() {
    let (mut node, events) = Node::new(64);
    let wide = "x".repeat(STREAM_PAGE_BYTES / 3);
    let rows = |ts, from: i64| (from..from + 20).map(move |id| (ts, id));
    for from in [0, 20] {
        let ts = node.begin(0);
        let changed = rows(ts, from).map(|(ts, id)| update(ts, id, &wide));
        node.finish(0, ts, changed.collect());
    }
    // What was committed before the plane began is in the log only.
    let plane = node.plane(events);
    let mut stalled: Vec<_> = (0..STREAM_LOG_READERS_MAX)
        .map(|nth| {
            let mut rows = open(&plane, None, nth % 2 == 0).unwrap();
            let first = some(&mut rows, 1);
            (rows, first)
        })
        .collect();
    let expected: Vec<i64> = (0..40).collect();
    for _ in 0..2 {
        assert_eq!(
            ids(&all(&mut open(&plane, None, false).unwrap()).unwrap()),
            expected
        );
    }
    for (rows, events) in &mut stalled {
        let rest = some(rows, expected.len() - events.len());
        events.extend(rest);
        assert_eq!(ids(events), expected);
    }
    plane.stop();
}

/// Far more than there are turns: all catch up, none is refused.
#[test]
fn readers_that_catch_up_wait_for_one_another() {
    let (mut node, events) = Node::new(64);
    for id in 0..10 {
        node.insert(id as usize % 2, id);
    }
    // What was committed before the plane began is in the log only.
    let plane = node.plane(events);
    let mut reads: Vec<_> = (0..STREAM_READERS_MAX)
        .map(|_| open(&plane, None, false).unwrap())
        .collect();
    let reading = futures::future::join_all(reads.iter_mut().map(to_end));
    for rows in wait(reading) {
        assert_eq!(ids(&rows.unwrap()), (0..10).collect::<Vec<_>>());
    }
    plane.stop();
}
