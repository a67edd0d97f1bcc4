//! Disks that fill up and fail.

use nodedb_bridge::plan::{OnConflict, Outcome};
use nodedb_types::SqlState;

use super::machine::{Machine, encode, fails, with_collection};
use crate::io::sim::{Fault, TearVariant};

#[test]
fn a_full_disk_refuses_writes_and_nothing_else_until_there_is_space() {
    let mut machine = Machine::new(21, 4);
    let mut node = with_collection(&mut machine, 1);
    let row = node.put(1, Some(1), "kept");
    node.write(vec![row]).unwrap().result.unwrap();
    let used: u64 = machine.disk.files().iter().map(|(_, len)| len).sum();
    machine.disk.set_capacity(Some(used));
    let text = "x".repeat(100_000);
    let mut refused = 0;
    for id in 2..60 {
        let row = node.insert(id, None, &text, OnConflict::Fail);
        let answer = node.write(vec![row]).unwrap();
        if answer.result.is_err() {
            fails(&answer, SqlState::DiskFull);
            refused += 1;
            assert_eq!(node.get(id).unwrap(), None);
        }
    }
    assert!(refused > 0, "the log's segments are used up");
    assert_eq!(node.get(1).unwrap(), Some((Some(1), "kept".into())));
    machine.disk.set_capacity(None);
    let mut tries = 0;
    loop {
        let row = node.put(100, None, &text);
        if node.write(vec![row]).unwrap().result.is_ok() {
            break;
        }
        tries += 1;
        assert!(tries < 20, "writes resume when there is space");
    }
    let before = node.all().unwrap();
    drop(node);
    machine.restart(TearVariant::LoseUnsynced);
    let mut node = machine.start(2).unwrap();
    assert_eq!(node.all().unwrap(), before);
    assert!(node.check().unwrap().is_empty());
}

#[test]
fn a_failed_sync_makes_the_node_read_only_until_it_is_restarted() {
    let mut machine = Machine::new(22, 4);
    let mut node = with_collection(&mut machine, 2);
    let row = node.put(1, Some(1), "kept");
    let other = (2..50).find(|&id| node.core_of(node.place(id).0) != node.core_of(row.shard));
    node.write(vec![row]).unwrap().result.unwrap();
    for operation in 1..4 {
        machine
            .disk
            .fail_at(machine.disk.operations() + operation, Fault::Eio);
    }
    let (first, second) = (node.put(1, Some(2), "lost"), node.put(1, Some(3), "lost"));
    let writes = [
        node.start_write(vec![first]),
        node.start_write(vec![second]),
    ];
    for write in writes {
        let answer = node.finish(write).unwrap();
        let failure = answer.result.unwrap_err();
        assert!(
            matches!(failure.code(), SqlState::IoError | SqlState::ReadOnly),
            "{failure:?}"
        );
    }
    assert_eq!(
        node.get(1).unwrap(),
        Some((Some(1), "kept".into())),
        "reads go on"
    );
    // The other core is read-only too.
    let row = node.put(other.unwrap(), None, "late");
    fails(&node.write(vec![row]).unwrap(), SqlState::ReadOnly);
    drop(node);
    machine.restart(TearVariant::LoseUnsynced);
    let mut node = machine.start(2).unwrap();
    let row = node.put(1, Some(4), "again");
    node.write(vec![row]).unwrap().result.unwrap();
}

#[test]
fn a_decided_transaction_takes_effect_though_its_core_has_latched() {
    let mut machine = Machine::new(23, 4);
    let mut node = with_collection(&mut machine, 2);
    let rows: Vec<_> = (0..8)
        .map(|id| (id, Some(encode(id, Some(1), "t"))))
        .collect();
    let staged = node.stage(&rows).unwrap();
    node.prepare(&staged).unwrap().unwrap();
    let ts = node.decide(&staged).unwrap();
    for operation in 1..8 {
        machine
            .disk
            .fail_at(machine.disk.operations() + operation, Fault::Eio);
    }
    node.conclude(&staged, Outcome::Committed(ts)).unwrap();
    assert_eq!(node.all().unwrap().len(), 8);
    drop(node);
    machine.restart(TearVariant::LoseUnsynced);
    let mut node = machine.start(1).unwrap();
    assert_eq!(node.all().unwrap().len(), 8);
}

#[test]
fn a_flipped_bit_in_the_log_is_found_and_the_core_does_not_start() {
    let mut machine = Machine::new(24, 4);
    let mut node = with_collection(&mut machine, 1);
    for id in 0..20 {
        let row = node.put(id, None, "row");
        node.write(vec![row]).unwrap().result.unwrap();
    }
    drop(node);
    machine.restart(TearVariant::LoseUnsynced);
    let (log, _) = machine.disk.files()[0].clone();
    // The sixth block of 4 KiB holds a frame that later ones name as durable.
    assert!(machine.disk.flip_bit(log, 5 * 4096 + 100, 3));
    let mut node = machine.boot(1);
    let broken = (0..10_000).find_map(|n| match node.cores[0].step(n * 50_000) {
        crate::core::Progress::Broken(failure) => Some(failure),
        _ => None,
    });
    assert_eq!(broken.unwrap().code(), SqlState::DataCorrupted);
}
