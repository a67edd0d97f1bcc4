//! Rows by key: write, read, crash, recover.

use nodedb_bridge::plan::{OnConflict, Output, SetExpr};
use nodedb_bridge::reply::Frame;
use nodedb_types::{CommitTs, SqlState};

use super::machine::{Machine, fails, query, with_collection};
use crate::io::sim::TearVariant;

#[test]
fn what_was_acknowledged_is_there_after_a_crash_on_any_number_of_cores() {
    let mut machine = Machine::new(1, 4);
    let mut node = with_collection(&mut machine, 2);
    for id in 0..50 {
        let row = node.insert(id, Some(id as i32 * 2), "first", OnConflict::Fail);
        let answer = node.write(vec![row]).unwrap();
        answer.result.as_ref().unwrap();
        assert_eq!(answer.written(), 1);
    }
    for id in 0..10 {
        let row = node.put(id, None, "second");
        node.write(vec![row]).unwrap().result.unwrap();
    }
    let last = node.shared.clock.now();
    for cores in [1, 4, 2] {
        drop(node);
        machine.restart(TearVariant::LoseUnsynced);
        node = machine.start(cores).unwrap();
        assert!(node.shared.clock.now() >= last);
        for id in 0..50 {
            let expected = match id {
                0..10 => (None, "second".to_owned()),
                _ => (Some(id as i32 * 2), "first".to_owned()),
            };
            assert_eq!(
                node.get(id).unwrap(),
                Some(expected),
                "row {id} on {cores} cores"
            );
        }
        assert_eq!(node.get(50).unwrap(), None);
    }
}

#[test]
fn a_key_exists_once_and_the_failure_names_it() {
    let mut machine = Machine::new(2, 4);
    let mut node = with_collection(&mut machine, 1);
    let row = node.insert(7, None, "a", OnConflict::Fail);
    node.write(vec![row.clone()]).unwrap().result.unwrap();
    let answer = node.write(vec![row]).unwrap();
    let failure = fails(&answer, SqlState::UniqueViolation);
    assert_eq!(
        failure.message(),
        "duplicate key value violates unique constraint \"things_pkey\""
    );
    assert_eq!(failure.detail(), Some("Key (id)=(7) already exists."));
    assert_eq!(failure.object().constraint.as_deref(), Some("things_pkey"));
    let row = node.insert(7, None, "b", OnConflict::Nothing);
    assert_eq!(node.write(vec![row]).unwrap().written(), 0);
    // All rows of a batch or none.
    let rows = vec![
        node.insert(8, None, "a", OnConflict::Fail),
        node.insert(7, None, "a", OnConflict::Fail),
    ];
    fails(&node.write(rows).unwrap(), SqlState::UniqueViolation);
    assert_eq!(node.get(8).unwrap(), None);
    let rows = vec![
        node.insert(8, None, "a", OnConflict::Fail),
        node.insert(8, None, "b", OnConflict::Fail),
    ];
    fails(&node.write(rows).unwrap(), SqlState::UniqueViolation);
}

#[test]
fn writers_of_one_row_share_a_flush_and_readers_wait_for_what_is_below_them() {
    let mut machine = Machine::new(3, 4);
    let mut node = with_collection(&mut machine, 1);
    let row = node.put(1, Some(0), "a");
    node.write(vec![row]).unwrap().result.unwrap();
    let before = node.shared.clock.now();
    let held = node.slot.acquire();
    let writes: Vec<_> = (1..=3)
        .map(|n| {
            let row = node.put(1, Some(n), "a");
            node.start_write(vec![row])
        })
        .collect();
    for write in writes {
        assert_eq!(node.finish(write).unwrap().written(), 1);
    }
    assert_eq!(node.get(1).unwrap(), Some((Some(3), "a".into())));
    let old = node.get_at(1, before).unwrap().unwrap();
    assert_eq!(
        old,
        Some((Some(0), "a".into())),
        "an old snapshot sees the old row"
    );
    let gone = node.get_at(1, CommitTs(1)).unwrap().unwrap_err();
    assert_eq!(
        gone.code(),
        SqlState::SnapshotTooOld,
        "nobody held history that far back"
    );
    drop(held);
}

#[test]
fn history_beyond_its_limit_fails_the_oldest_reader_and_only_that() {
    let mut machine = Machine::new(15, 4);
    machine.history_bytes_max = 200_000;
    let mut node = with_collection(&mut machine, 1);
    for id in 0..10 {
        let row = node.put(id, Some(0), "first");
        node.write(vec![row]).unwrap().result.unwrap();
    }
    let old = node.slot.acquire();
    for n in 1..60 {
        let row = node.put(1, Some(n), &"x".repeat(10_000));
        node.write(vec![row]).unwrap().result.unwrap();
    }
    let failure = node.get_at(1, old.snapshot()).unwrap().unwrap_err();
    assert_eq!(failure.code(), SqlState::SnapshotTooOld);
    // A count needs no rows but must not be wrong either.
    let count = query(SetExpr::All, Vec::new(), Output::Count);
    let answer = node.query(count.clone(), old.snapshot()).unwrap();
    fails(&answer[0], SqlState::SnapshotTooOld);
    let now = node.slot.acquire();
    let answer = node.query(count, now.snapshot()).unwrap();
    assert!(matches!(answer[0].frames[..], [Frame::Count(10)]));
    assert!(node.cores[0].row_bytes() < 400_000, "history is bounded");
}

#[test]
fn missing_pages_change_nothing() {
    let mut machine = Machine::new(4, 4);
    machine.page_faults = true;
    let mut node = with_collection(&mut machine, 1);
    for piece in 0..20 {
        let rows = (0..100)
            .map(|n| node.put(piece * 100 + n, Some(n as i32), "x"))
            .collect();
        node.write(rows).unwrap().result.unwrap();
    }
    drop(node);
    machine.restart(TearVariant::Subset);
    let mut node = machine.start(2).unwrap();
    for id in (0..2000).step_by(37) {
        assert_eq!(
            node.get(id).unwrap(),
            Some((Some((id % 100) as i32), "x".into()))
        );
    }
}
