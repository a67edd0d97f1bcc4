//! Indexes built while rows change, dropped when unfinished, checked against the rows.

use std::num::NonZeroU64;

use nodedb_bridge::event::{Emitted, EventOp};
use nodedb_bridge::plan::{Conclude, OnConflict, Outcome, SchemaStep};
use nodedb_bridge::request::Op;
use nodedb_types::{CommitTs, CoreId, IndexId, SqlState};

use super::machine::{
    COLLECTION, Machine, Node, collection, encode, fails, index_on_n, with_collection,
};
use crate::io::sim::TearVariant;

const INDEX: IndexId = IndexId(5);

fn fill(node: &mut Node, rows: i64) {
    for from in (0..rows).step_by(50) {
        let row = |id: i64| node.put(id, Some(id as i32), "t");
        let rows = (from..from + 50).map(row).collect();
        node.write(rows).unwrap().result.unwrap();
    }
}

#[test]
fn an_index_is_right_though_rows_change_while_it_is_built() {
    let mut machine = Machine::new(11, 4);
    let mut node = with_collection(&mut machine, 1);
    fill(&mut node, 600);
    node.schema(SchemaStep::AddIndex(index_on_n(INDEX)))
        .unwrap()
        .unwrap();
    let early = node
        .schema(SchemaStep::PublishIndex(INDEX))
        .unwrap()
        .unwrap_err();
    assert_eq!(early.code(), SqlState::ObjectNotInPrerequisiteState);
    let build = Op::Schema(SchemaStep::BuildIndex {
        index: INDEX,
        snapshot: CommitTs(0),
    });
    let statement = node.statement();
    let build = node.send(CoreId(0), statement, build);
    for id in (0..1000).step_by(7) {
        let row = node.put(id, Some(-1), "changed");
        node.write(vec![row]).unwrap().result.unwrap();
    }
    node.finish(build).unwrap().result.unwrap();
    node.schema(SchemaStep::PublishIndex(INDEX))
        .unwrap()
        .unwrap();
    let changed = (0..1000).step_by(7).count() as u64;
    assert_eq!(node.count(INDEX, -1, -1).unwrap(), changed);
    let kept = (0..600).filter(|id| id % 7 != 0).count() as u64;
    assert_eq!(node.count(INDEX, 0, 10_000).unwrap(), kept);
    assert!(node.check().unwrap().is_empty());
    drop(node);
    machine.restart(TearVariant::Subset);
    let mut node = machine.start(2).unwrap();
    assert_eq!(node.count(INDEX, -1, -1).unwrap(), changed);
    assert_eq!(node.count(INDEX, 0, 10_000).unwrap(), kept);
    assert!(node.check().unwrap().is_empty());
}

/// A prepared transaction has its surrogates already; rows with larger ones are there before its
/// own. Decided at any moment of the build, its row is in the index once.
#[test]
fn a_build_finds_rows_that_come_late_with_lower_surrogates() {
    let text = "large ".repeat(4000);
    for steps in 0..24 {
        let mut machine = Machine::new(15, 1);
        let mut node = with_collection(&mut machine, 1);
        let fill = |node: &mut Node, ids: std::ops::Range<i64>| {
            for id in ids {
                let row = node.put(id, Some(1), &text);
                node.write(vec![row]).unwrap().result.unwrap();
            }
        };
        fill(&mut node, 0..5);
        let late = [(100, Some(encode(100, Some(1), "late")))];
        let staged = node.stage(&late).unwrap();
        node.prepare(&staged).unwrap().unwrap();
        fill(&mut node, 5..10);
        node.schema(SchemaStep::AddIndex(index_on_n(INDEX)))
            .unwrap()
            .unwrap();
        let ts = node.decide(&staged).unwrap();
        let conclude = Op::Conclude(Conclude {
            txn: staged.txn,
            outcome: Outcome::Committed(ts),
        });
        let conclude = node.send(CoreId(0), node.statement(), conclude);
        (0..steps).for_each(|_| node.step());
        let build = Op::Schema(SchemaStep::BuildIndex {
            index: INDEX,
            snapshot: CommitTs(0),
        });
        let build = node.send(CoreId(0), node.statement(), build);
        node.finish(conclude).unwrap().result.unwrap();
        node.finish(build).unwrap().result.unwrap();
        node.schema(SchemaStep::PublishIndex(INDEX))
            .unwrap()
            .unwrap();
        assert_eq!(node.count(INDEX, 1, 1).unwrap(), 11, "after {steps} steps");
        assert!(node.check().unwrap().is_empty());
    }
}

#[test]
fn an_unfinished_index_is_gone_after_a_restart() {
    let mut machine = Machine::new(12, 4);
    let mut node = with_collection(&mut machine, 1);
    fill(&mut node, 100);
    node.schema(SchemaStep::AddIndex(index_on_n(INDEX)))
        .unwrap()
        .unwrap();
    for _ in 0..2 {
        drop(node);
        machine.restart(TearVariant::LoseUnsynced);
        node = machine.start(2).unwrap();
        let report = node.call(CoreId(1), Op::Report).unwrap();
        let report = format!("{report:?}");
        assert!(
            report.contains("things") && !report.contains("things_n"),
            "{report}"
        );
    }
}

#[test]
fn a_dropped_collection_takes_no_more_writes_and_frees_its_rows() {
    let mut machine = Machine::new(13, 4);
    let mut node = with_collection(&mut machine, 1);
    fill(&mut node, 100);
    node.schema(SchemaStep::DropCollection(COLLECTION))
        .unwrap()
        .unwrap();
    let row = node.put(1, None, "late");
    fails(
        &node.write(vec![row]).unwrap(),
        SqlState::SerializationFailure,
    );
    for _ in 0..50 {
        node.step();
    }
    assert_eq!(node.cores[0].row_bytes(), 0);
    drop(node);
    machine.restart(TearVariant::LoseUnsynced);
    let mut node = machine.start(1).unwrap();
    node.schema(SchemaStep::CreateCollection(collection()))
        .unwrap()
        .unwrap();
    let row = node.insert(1, None, "again", OnConflict::Fail);
    node.write(vec![row]).unwrap().result.unwrap();
    assert_eq!(node.all().unwrap().len(), 1);
}

#[test]
fn changes_become_events_in_order_and_the_mark_follows() {
    let mut machine = Machine::new(14, 4);
    let mut node = with_collection(&mut machine, 1);
    let row = node.put(1, Some(1), "quiet");
    node.write(vec![row]).unwrap().result.unwrap();
    let emit = SchemaStep::SetEmit {
        collection: COLLECTION,
        retention_bytes: NonZeroU64::new(1 << 30),
    };
    node.schema(emit).unwrap().unwrap();
    for n in 2..5 {
        let row = node.put(1, Some(n), "loud");
        node.write(vec![row]).unwrap().result.unwrap();
    }
    let row = node.put(2, Some(9), "new");
    node.write(vec![row]).unwrap().result.unwrap();
    let mut seen = Vec::new();
    let mut last = CommitTs(0);
    while let Ok(emitted) = node.events.events[0].pop() {
        let Emitted::Batch(batch) = emitted else {
            panic!("the ring has room")
        };
        assert!(batch.commit_ts > last);
        last = batch.commit_ts;
        for event in batch.events {
            assert_eq!(event.before.is_some(), event.op == EventOp::Update);
            assert!(event.after.is_some());
            seen.push(event.op);
        }
    }
    assert_eq!(
        seen,
        [
            EventOp::Update,
            EventOp::Update,
            EventOp::Update,
            EventOp::Insert
        ]
    );
    node.step();
    let low = node.events.low[0]
        .low
        .load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(low, u64::MAX, "nothing is under way");
}
