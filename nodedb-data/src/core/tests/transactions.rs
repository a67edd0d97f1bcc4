//! Transactions over several shards, with crashes between their steps.

use nodedb_bridge::plan::{OnConflict, Outcome};
use nodedb_bridge::request::Op;
use nodedb_types::{CoreId, SqlState};

use super::machine::{Machine, Node, encode, with_collection};
use crate::io::sim::TearVariant;

/// Moves one unit from each of the rows 0..4 to each of the rows 4..8, which stand on several
/// shards.
fn rows(by: i32) -> Vec<(i64, Option<Vec<u8>>)> {
    let n = |id: i64| if id < 4 { 10 - by } else { 10 + by };
    (0..8)
        .map(|id| (id, Some(encode(id, Some(n(id)), "t"))))
        .collect()
}

fn filled(machine: &mut Machine, cores: u16) -> Node {
    let mut node = with_collection(machine, cores);
    let staged = node.stage(&rows(0)).unwrap();
    assert!(staged.participants.len() > 1, "the rows are spread");
    node.prepare(&staged).unwrap().unwrap();
    let ts = node.decide(&staged).unwrap();
    node.conclude(&staged, Outcome::Committed(ts)).unwrap();
    node
}

fn sum(node: &mut Node) -> (i32, i32) {
    let all = node.all().unwrap();
    assert_eq!(all.len(), 8);
    let of = |ids: std::ops::Range<i64>| ids.map(|id| all[&id].0.unwrap()).sum();
    (of(0..4), of(4..8))
}

#[test]
fn a_crash_after_the_decision_commits_and_before_it_aborts() {
    for (decided, cores, after) in [(true, 2, 1), (false, 2, 1), (true, 1, 4), (false, 4, 2)] {
        for variant in TearVariant::ALL {
            let mut machine = Machine::new(5, 4);
            let mut node = filled(&mut machine, cores);
            let staged = node.stage(&rows(1)).unwrap();
            node.prepare(&staged).unwrap().unwrap();
            if decided {
                node.decide(&staged).unwrap();
            }
            drop(node);
            machine.restart(variant);
            let expected = if decided { (36, 44) } else { (40, 40) };
            for _ in 0..2 {
                let mut node = machine.start(after).unwrap();
                assert_eq!(sum(&mut node), expected);
                // The keys are free.
                let row = node.put(100, None, "new");
                node.write(vec![row]).unwrap().result.unwrap();
                let (_, key) = node.place(100);
                assert!(!key.is_empty());
                let rows = vec![(100, None)];
                let staged = node.stage(&rows).unwrap();
                node.prepare(&staged).unwrap().unwrap();
                let ts = node.decide(&staged).unwrap();
                node.conclude(&staged, Outcome::Committed(ts)).unwrap();
                drop(node);
                machine.restart(variant);
            }
        }
    }
}

#[test]
fn readers_wait_for_a_prepared_transaction_and_writers_for_its_keys() {
    let mut machine = Machine::new(6, 4);
    let mut node = filled(&mut machine, 2);
    let staged = node.stage(&rows(1)).unwrap();
    node.prepare(&staged).unwrap().unwrap();
    // A second transaction on the same keys gives up at once, to be tried again.
    let other = node.stage(&rows(2)).unwrap();
    let failure = node.prepare(&other).unwrap().unwrap_err();
    assert_eq!(failure.code(), SqlState::SerializationFailure);
    assert!(failure.retry());
    // A write by key and a reader above the votes wait.
    let row = node.put(0, Some(7), "later");
    let mut write = node.start_write(vec![row]);
    let at = node.shared.clock.now();
    let (shard, key) = node.place(5);
    let get = nodedb_bridge::plan::Get {
        collection: super::machine::COLLECTION,
        keys: vec![(shard, key)],
        filter: None,
        output: std::sync::Arc::from([nodedb_bridge::plan::OutputColumn::Column(1)]),
    };
    let core = node.core_of(shard);
    let statement = node.statement_at(at);
    let mut read = node.send(core, statement, Op::Get(get));
    for _ in 0..50 {
        node.step();
    }
    assert!(write.take().is_none() && read.take().is_none());
    let ts = node.decide(&staged).unwrap();
    assert!(ts > at);
    node.conclude(&staged, Outcome::Committed(ts)).unwrap();
    let answer = node.finish(read).unwrap();
    let rows = answer.rows(&[nodedb_types::DataType::Int4]);
    assert_eq!(
        rows,
        [[nodedb_types::Value::Int4(10)]],
        "decided above the reader"
    );
    node.finish(write).unwrap().result.unwrap();
    assert_eq!(node.get(0).unwrap(), Some((Some(7), "later".into())));
    assert_eq!(node.get(5).unwrap(), Some((Some(11), "t".into())));
}

#[test]
fn stale_versions_and_taken_keys_vote_no() {
    let mut machine = Machine::new(8, 4);
    let mut node = filled(&mut machine, 2);
    let staged = node.stage(&rows(1)).unwrap();
    let row = node.put(3, Some(0), "meanwhile");
    node.write(vec![row]).unwrap().result.unwrap();
    let failure = node.prepare(&staged).unwrap().unwrap_err();
    assert_eq!(failure.code(), SqlState::SerializationFailure);
    let staged = node.stage(&[
        (50, Some(encode(50, None, "x"))),
        (51, Some(encode(51, None, "x"))),
    ]);
    let row = node.insert(51, None, "first", OnConflict::Fail);
    node.write(vec![row]).unwrap().result.unwrap();
    let failure = node.prepare(&staged.unwrap()).unwrap().unwrap_err();
    assert_eq!(failure.code(), SqlState::UniqueViolation);
    assert_eq!(node.get(50).unwrap(), None);
    // Nothing stays locked or counted.
    for core in 0..2 {
        let report = node.call(CoreId(core), Op::Report).unwrap();
        report.result.unwrap();
    }
    let row = node.put(50, None, "y");
    node.write(vec![row]).unwrap().result.unwrap();
}

#[test]
fn a_key_moves_to_another_row_in_one_statement() {
    let mut machine = Machine::new(9, 4);
    let mut node = filled(&mut machine, 2);
    // UPDATE … SET id = id + 1 over the rows 0..8: each is deleted, its successor inserted.
    let mut rows: Vec<(i64, Option<Vec<u8>>)> = (0..8).map(|id| (id, None)).collect();
    rows.extend((1..9).map(|id| (id, Some(encode(id, Some(id as i32), "moved")))));
    let mut staged = node.stage(&rows[..8]).unwrap();
    let inserted = rows[8..].to_vec();
    for (id, row) in inserted {
        let (shard, key) = node.place(id);
        let core = node.core_of(shard);
        let chunk = nodedb_bridge::plan::StageRows {
            txn: staged.txn,
            collection: super::machine::COLLECTION,
            rows: vec![nodedb_bridge::plan::StagedRow {
                shard,
                key,
                expected: nodedb_bridge::plan::Expected::Absent,
                row: row.map(Into::into),
            }],
        };
        node.call(core, Op::Stage(chunk)).unwrap().result.unwrap();
        if !staged.cores.contains(&core) {
            staged.cores.push(core);
        }
        let mut participants = staged.participants.to_vec();
        participants.push(shard);
        participants.sort_unstable();
        participants.dedup();
        staged.participants = participants.into();
    }
    node.prepare(&staged).unwrap().unwrap();
    let ts = node.decide(&staged).unwrap();
    node.conclude(&staged, Outcome::Committed(ts)).unwrap();
    let all = node.all().unwrap();
    let expected = (1..9).map(|id| (id, (Some(id as i32), "moved".to_owned())));
    assert!(all.into_iter().eq(expected));
    assert_eq!(node.check().unwrap(), Vec::<Vec<_>>::new());
}
