//! What change streams may ask of writers: nothing, but before images from one moment on.

use std::num::NonZeroU64;

use nodedb_bridge::event::{Emitted, EventOp};
use nodedb_bridge::plan::{Outcome, SchemaStep};
use nodedb_bridge::reply::{Frame, ReplyReader};
use nodedb_bridge::request::Op;
use nodedb_types::{CommitTs, CoreId};

use super::machine::{COLLECTION, Machine, Node, encode, with_collection};

fn set_emit() -> SchemaStep {
    SchemaStep::SetEmit {
        collection: COLLECTION,
        retention_bytes: NonZeroU64::new(1 << 30),
    }
}

/// When each of many writes was answered, with the rings emptied after each or never.
fn answered(drained: bool) -> (Node, Vec<u64>) {
    let mut machine = Machine::new(31, 4);
    machine.depths.events = 2;
    let mut node = with_collection(&mut machine, 2);
    node.schema(set_emit()).unwrap().unwrap();
    let mut times = Vec::new();
    for id in 0..150 {
        let row = node.put(id % 40, Some(id as i32), "t");
        node.write(vec![row]).unwrap().result.unwrap();
        if id % 10 == 0 {
            let row = |id| (id, Some(encode(id, None, "moved")));
            let staged = node.stage(&[row(id), row(id + 1), row(id + 2)]).unwrap();
            node.prepare(&staged).unwrap().unwrap();
            let ts = node.decide(&staged).unwrap();
            node.conclude(&staged, Outcome::Committed(ts)).unwrap();
        }
        times.push(node.shared.clock.time().monotonic_ns());
        for ring in node.events.events.iter_mut().filter(|_| drained) {
            while ring.pop().is_ok() {}
        }
    }
    (node, times)
}

#[test]
fn no_write_waits_for_a_subscriber() {
    let (_, beside_a_live_one) = answered(true);
    let (mut node, beside_a_dead_one) = answered(false);
    assert_eq!(beside_a_live_one, beside_a_dead_one);
    // The mark stays down until it has been said what was left out.
    node.step();
    for core in 0..2 {
        let low = node.events.low[core]
            .low
            .load(std::sync::atomic::Ordering::SeqCst);
        let mut newest = CommitTs(0);
        while let Ok(Emitted::Batch(batch)) = node.events.events[core].pop() {
            newest = newest.max(batch.commit_ts);
        }
        assert!(low > newest.0 && low < node.shared.clock.now().0);
        node.step();
        let word = node.events.events[core].pop();
        assert!(
            matches!(word, Ok(Emitted::Overflow { from }) if from.0 == low),
            "{word:?}"
        );
    }
}

fn is_answered(node: &mut Node, reader: &mut ReplyReader) -> bool {
    for _ in 0..200 {
        node.step();
        if let Some(frame) = reader.take() {
            assert!(matches!(frame, Frame::End(_)), "{frame:?}");
            return true;
        }
    }
    false
}

#[test]
fn a_stream_begins_when_nothing_is_open_that_lacks_before_images() {
    let mut machine = Machine::new(32, 4);
    let mut node = with_collection(&mut machine, 1);
    let row = node.put(1, Some(1), "old");
    node.write(vec![row]).unwrap().result.unwrap();
    // Drafted without before images, and prepared.
    let early = node.stage(&[(1, None)]).unwrap();
    node.prepare(&early).unwrap().unwrap();
    let late = node.stage(&[(2, Some(encode(2, None, "late")))]).unwrap();
    let statement = node.statement();
    let mut begun = node.send(CoreId(0), statement, Op::Schema(set_emit()));
    assert!(!is_answered(&mut node, &mut begun));
    // What is staged only is not waited for: it will be drafted with them.
    let ts = node.decide(&early).unwrap();
    node.conclude(&early, Outcome::Committed(ts)).unwrap();
    assert!(is_answered(&mut node, &mut begun));
    let created = node.shared.clock.next();
    node.prepare(&late).unwrap().unwrap();
    let ts = node.decide(&late).unwrap();
    node.conclude(&late, Outcome::Committed(ts)).unwrap();
    let delete = node.stage(&[(2, None)]).unwrap();
    node.prepare(&delete).unwrap().unwrap();
    let ts = node.decide(&delete).unwrap();
    node.conclude(&delete, Outcome::Committed(ts)).unwrap();
    node.step();
    let mut shown = Vec::new();
    while let Ok(Emitted::Batch(batch)) = node.events.events[0].pop() {
        let of_stream = batch.events.into_iter().filter(|e| e.commit_ts > created);
        shown.extend(of_stream.map(|e| (e.op, e.before.is_some())));
    }
    assert_eq!(shown, [(EventOp::Insert, false), (EventOp::Delete, true)]);
}
