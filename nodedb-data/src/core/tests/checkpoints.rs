//! Checkpoints: cut off anywhere, damaged, out of space, and what goes of the log after them.

use std::collections::BTreeMap;
use std::sync::Arc;

use nodedb_bridge::expression::{Rewrite, RowRewrite};
use nodedb_bridge::plan::{OnConflict, Outcome, RowAction, RowWrite, SchemaStep};
use nodedb_types::{CommitTs, Index, IndexId, Result, SqlState};

use super::machine::{
    COLLECTION, Cells, Machine, Node, collection, encode, fails, index_on_n, index_on_t,
    with_collection,
};
use crate::core::Progress;
use crate::io::sim::{Fault, TearVariant};

const INDEX: IndexId = IndexId(5);

#[derive(Debug)]
struct DeleteIt;

impl RowRewrite for DeleteIt {
    fn rewrite(&self, _: &[u8], _: Option<&[u8]>) -> Result<Rewrite> {
        Ok(Rewrite::Delete)
    }
}

pub(super) fn deletion(node: &Node, id: i64) -> RowWrite {
    let (shard, key) = node.place(id);
    let action = RowAction::Rewrite(Arc::new(DeleteIt));
    RowWrite { shard, key, action }
}

fn put(node: &mut Node, id: i64, text: &str) -> Option<()> {
    let row = node.put(id, Some(id as i32), text);
    node.write(vec![row])?.result.unwrap();
    Some(())
}

/// Checkpoints of all shards.
pub(super) fn checkpoint(node: &mut Node) -> Option<()> {
    let ended = |node: &Node| -> u64 { node.cores.iter().map(|c| c.checkpoints().ended).sum() };
    let wanted = ended(node) + 4;
    node.cores.iter().for_each(|core| core.checkpoint());
    node.until(|node| ended(node) >= wanted)
}

pub(super) fn index_steps(definition: Arc<Index>) -> [SchemaStep; 3] {
    let index = definition.id;
    let snapshot = CommitTs(0);
    [
        SchemaStep::AddIndex(definition),
        SchemaStep::BuildIndex { index, snapshot },
        SchemaStep::PublishIndex(index),
    ]
}

/// An ordered index and one whose parts are merged.
fn build_indexes(node: &mut Node) -> Option<()> {
    for definition in [index_on_n(INDEX), index_on_t(IndexId(6))] {
        for step in index_steps(definition) {
            node.schema(step)?.unwrap();
        }
    }
    Some(())
}

type Model = BTreeMap<i64, Cells>;

/// What was acknowledged, and what the step under way would make of it.
#[derive(Default)]
struct Known {
    now: Model,
    next: Model,
    is_indexed: bool,
}

impl Known {
    fn acknowledge(&mut self) {
        self.now = self.next.clone();
    }
}

/// Rows come, change and go around several checkpoints, an index and a transaction.
fn script(node: &mut Node, known: &mut Known) -> Option<()> {
    node.schema(SchemaStep::CreateCollection(collection()))?
        .unwrap();
    for round in 0..3i64 {
        for id in 0..6 {
            let text = format!("{round} {}", "x".repeat(id as usize * 700));
            let id = id + round * 4;
            known.next.insert(id, (Some(id as i32), text.clone()));
            put(node, id, &text)?;
            known.acknowledge();
        }
        if round == 1 {
            build_indexes(node)?;
            known.is_indexed = true;
        }
        let moved: Vec<_> = (0..5)
            .map(|id| (id, Some(encode(id, Some(round as i32), "moved"))))
            .collect();
        for (id, _) in &moved {
            let cells = (Some(round as i32), "moved".to_owned());
            known.next.insert(*id, cells);
        }
        let staged = node.stage(&moved)?;
        node.prepare(&staged)?.unwrap();
        if round == 2 {
            checkpoint(node)?;
        }
        let ts = node.decide(&staged)?;
        known.acknowledge();
        node.conclude(&staged, Outcome::Committed(ts))?;
        checkpoint(node)?;
        known.next.remove(&(round + 1));
        let row = deletion(node, round + 1);
        node.write(vec![row])?.result.unwrap();
        known.acknowledge();
    }
    checkpoint(node)
}

fn holds(node: &mut Node, known: &Known, what: &str) {
    let found = node.all().unwrap();
    assert!(found == known.now || found == known.next, "{what}");
    assert!(node.check().unwrap().is_empty(), "{what}");
    if known.is_indexed {
        let indexed = node.count(INDEX, -1, 1000).unwrap();
        assert_eq!(indexed, found.len() as u64, "{what}");
    }
}

#[test]
fn a_checkpoint_may_be_cut_off_anywhere() {
    let mut whole = Machine::new(31, 4);
    let mut node = whole.start(2).unwrap();
    script(&mut node, &mut Known::default()).unwrap();
    let operations = whole.disk.operations();
    // Every operation is a point; a usual run takes each tenth, shifting through the variants.
    let all = std::env::var("NODEDB_TEST_SEEDS").is_ok();
    for point in (1..=operations).filter(|p| all || p % 10 == operations % 10) {
        let variants = TearVariant::ALL.into_iter().enumerate();
        for (_, variant) in variants.filter(|(n, _)| all || *n as u64 == point / 10 % 3) {
            let what = format!("operation {point} of {operations}, {variant:?}");
            let mut machine = Machine::new(31, 4);
            machine.disk.crash_at(point);
            let mut known = Known::default();
            if let Some(mut node) = machine.start(2) {
                let _ = script(&mut node, &mut known);
            }
            machine.restart(variant);
            machine.disk.crash_at(u64::MAX);
            let cores = [1, 4, 2][(point % 3) as usize];
            let mut node = machine.start(cores).unwrap();
            if node
                .schema(SchemaStep::CreateCollection(collection()))
                .is_none()
            {
                panic!("{what}");
            }
            holds(&mut node, &known, &what);
            let found = node.all().unwrap();
            put(&mut node, 1000, "new").unwrap();
            checkpoint(&mut node).unwrap();
            drop(node);
            machine.restart(TearVariant::LoseUnsynced);
            let mut node = machine.start(3 - cores % 3).unwrap();
            let mut again = node.all().unwrap();
            assert!(again.remove(&1000).is_some(), "{what}");
            assert_eq!(again, found, "{what}");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_store_is_never_a_wrong_answer() {
    let mut machine = Machine::new(32, 4);
    let mut node = with_collection(&mut machine, 1);
    for id in 0..200 {
        put(&mut node, id, &"row".repeat(100)).unwrap();
    }
    checkpoint(&mut node).unwrap();
    let before = node.all().unwrap();
    drop(node);
    machine.restart(TearVariant::LoseUnsynced);
    let files = machine.disk.files();
    let (path, len) = files
        .iter()
        .find(|(path, _)| path.ends_with("store/shard-002.data"))
        .unwrap();
    let mut found = 0;
    for slot in 0..len / 8192 {
        let at = slot * 8192 + 8 * (slot + 1);
        assert!(machine.disk.flip_bit(path, at, 3));
        let mut node = machine.boot(1);
        let broken = (0..5_000).find_map(|n| match node.cores[0].step(n * 50_000) {
            Progress::Broken(failure) => Some(Some(failure)),
            _ if node.cores[0].is_recovered() => Some(None),
            _ => None,
        });
        match broken.expect("it ends") {
            Some(failure) => {
                assert_eq!(failure.code(), SqlState::DataCorrupted, "slot {slot}");
                found += 1;
            }
            None => assert_eq!(node.all().unwrap(), before, "slot {slot}"),
        }
        drop(node);
        machine.restart(TearVariant::LoseUnsynced);
        machine.disk.flip_bit(path, at, 3);
    }
    assert!(found > 4, "{found} of {} slots matter", len / 8192);
}

fn bytes_in(machine: &Machine, folder: &str) -> u64 {
    let files = machine.disk.files();
    let within = files.iter().filter(|(path, _)| path.starts_with(folder));
    within.map(|(_, len)| len).sum()
}

#[test]
fn log_and_store_stay_small_under_updates() {
    let mut machine = Machine::new(33, 4);
    machine.checkpoint_units = 3_000;
    let mut node = with_collection(&mut machine, 2);
    let text = "x".repeat(20_000);
    for n in 0..400 {
        put(&mut node, n % 10, &text).unwrap();
    }
    checkpoint(&mut node).unwrap();
    assert!(bytes_in(&machine, "/wal") < 8 << 20, "8 MB went through it");
    let store = bytes_in(&machine, "/store");
    assert!(store < 4 << 20, "200 kB of rows take {store} bytes");
    // The chains of older starts go with the first round of a new one.
    for cores in [4, 1] {
        drop(node);
        machine.restart(TearVariant::LoseUnsynced);
        node = machine.start(cores).unwrap();
        put(&mut node, 3, "new").unwrap();
        checkpoint(&mut node).unwrap();
        checkpoint(&mut node).unwrap();
        let old = format!("/wal/wal-{:08}", machine.epoch() - 1);
        let disk = machine.disk.clone();
        let is_old = |path: &std::path::Path| path.to_string_lossy().starts_with(&old);
        node.until(|_| !disk.files().iter().any(|(path, _)| is_old(path)))
            .unwrap();
        assert_eq!(node.all().unwrap().len(), 10);
    }
}

/// Its first segment stays for the ends that it names, those behind it go, and the shards of the
/// other core have no checkpoint of that start.
#[test]
fn a_core_that_idled_does_not_keep_the_node_from_starting() {
    for (seed, cores_then) in [(35, 2), (36, 4), (37, 1)] {
        let mut machine = Machine::new(seed, 4);
        machine.checkpoint_units = 3_000;
        let mut node = with_collection(&mut machine, 2);
        put(&mut node, 1, "first").unwrap();
        drop(node);
        machine.restart(TearVariant::LoseUnsynced);
        let mut node = machine.start(2).unwrap();
        let busy = node.core_of(node.place(1).0);
        let text = "x".repeat(20_000);
        for _ in 0..400 {
            put(&mut node, 1, &text).unwrap();
        }
        let chain = format!("/wal/wal-{:08}-{:05}", machine.epoch(), busy.0);
        let disk = machine.disk.clone();
        let kept = || {
            let files = disk.files().into_iter();
            let names = files.map(|(path, _)| path.to_string_lossy().into_owned());
            let mut segments: Vec<String> = names.filter(|n| n.starts_with(&chain)).collect();
            segments.sort();
            segments
        };
        node.until(|_| kept().len() < 8).unwrap();
        assert!(kept()[0].ends_with("-00000000.log"), "{:?}", kept());
        assert!(!kept()[1].ends_with("-00000001.log"), "{:?}", kept());
        let before = node.all().unwrap();
        drop(node);
        machine.restart(TearVariant::LoseUnsynced);
        let mut node = machine.start(cores_then).unwrap();
        assert_eq!(node.all().unwrap(), before, "with {cores_then} cores");
        put(&mut node, 2, "and on").unwrap();
    }
}

#[test]
fn a_dropped_collection_gives_its_room_back() {
    let mut machine = Machine::new(34, 4);
    let mut node = with_collection(&mut machine, 1);
    let text = "x".repeat(30_000);
    let mut largest = 0;
    for round in 0..6 {
        for id in 0..20 {
            put(&mut node, id, &text).unwrap();
        }
        checkpoint(&mut node).unwrap();
        node.schema(SchemaStep::DropCollection(COLLECTION))
            .unwrap()
            .unwrap();
        // The next checkpoint finds it dropped, and its rows freed or not.
        checkpoint(&mut node).unwrap();
        if round % 2 == 0 {
            drop(node);
            machine.restart(TearVariant::LoseUnsynced);
            node = machine.start(2).unwrap();
        }
        node.schema(SchemaStep::CreateCollection(collection()))
            .unwrap()
            .unwrap();
        node.until(|node| node.cores.iter().all(|c| c.row_bytes() == 0))
            .unwrap();
        checkpoint(&mut node).unwrap();
        let store = bytes_in(&machine, "/store");
        match round {
            0..3 => largest = store.max(largest),
            _ => assert!(store <= largest, "round {round}: {store} of {largest}"),
        }
    }
}

#[test]
fn a_large_index_is_in_a_checkpoint_before_it_is_public() {
    let mut machine = Machine::new(38, 4);
    let mut node = with_collection(&mut machine, 1);
    for from in (0..1200).step_by(50) {
        let rows = (from..from + 50).map(|id| node.put(id, Some(7), "row"));
        let rows = rows.collect();
        node.write(rows).unwrap().result.unwrap();
    }
    build_indexes(&mut node).unwrap();
    drop(node);
    machine.restart(TearVariant::LoseUnsynced);
    let mut node = machine.start(2).unwrap();
    let images: u64 = node.cores.iter().map(|c| c.checkpoints().images).sum();
    assert_eq!(images, 8, "two a shard");
    assert_eq!(node.count(INDEX, 7, 7).unwrap(), 1200);
    assert!(node.check().unwrap().is_empty());
    // Without space for the checkpoint there is no index, and the rows are as they were.
    node.schema(SchemaStep::DropIndex(INDEX)).unwrap().unwrap();
    let used: u64 = machine.disk.files().iter().map(|(_, len)| len).sum();
    machine.disk.set_capacity(Some(used));
    for id in 0..1200 {
        let row = node.put(id, Some(8), "row");
        if node.write(vec![row]).unwrap().result.is_err() {
            break;
        }
    }
    let ended = index_steps(index_on_n(INDEX)).map(|step| node.schema(step).unwrap());
    let refused = ended.into_iter().find_map(Result::err);
    assert_eq!(refused.unwrap().code(), SqlState::DiskFull);
    machine.disk.set_capacity(None);
    assert_eq!(node.all().unwrap().len(), 1200);
}

#[test]
fn a_full_disk_puts_a_checkpoint_off() {
    let mut machine = Machine::new(35, 4);
    let mut node = with_collection(&mut machine, 1);
    for id in 0..30 {
        put(&mut node, id, &"x".repeat(20_000)).unwrap();
    }
    let used: u64 = machine.disk.files().iter().map(|(_, len)| len).sum();
    machine.disk.set_capacity(Some(used + 100_000));
    node.cores[0].checkpoint();
    node.until(|node| node.cores[0].checkpoints().abandoned > 0)
        .unwrap();
    assert!(node.shared.latch.why().is_none());
    put(&mut node, 1, "a write goes on").unwrap();
    machine.disk.set_capacity(None);
    checkpoint(&mut node).unwrap();
    let before = node.all().unwrap();
    drop(node);
    machine.restart(TearVariant::Subset);
    let mut node = machine.start(2).unwrap();
    assert_eq!(node.all().unwrap(), before);
}

#[test]
fn a_failed_write_of_a_checkpoint_latches_the_node() {
    let mut machine = Machine::new(36, 4);
    let mut node = with_collection(&mut machine, 1);
    put(&mut node, 1, "kept").unwrap();
    let next = machine.disk.operations() + 3;
    machine.disk.fail_at(next, Fault::Eio);
    node.cores[0].checkpoint();
    node.until(|node| node.shared.latch.why().is_some())
        .unwrap();
    let row = node.insert(2, None, "late", OnConflict::Fail);
    fails(&node.write(vec![row]).unwrap(), SqlState::ReadOnly);
    drop(node);
    machine.restart(TearVariant::TearLast);
    let mut node = machine.start(1).unwrap();
    assert_eq!(node.all().unwrap().len(), 1);
}

#[test]
fn a_stopped_core_leaves_nothing_to_replay() {
    let mut machine = Machine::new(37, 4);
    let mut node = with_collection(&mut machine, 2);
    for id in 0..50 {
        put(&mut node, id, "row").unwrap();
    }
    let before = node.all().unwrap();
    node.cores.iter_mut().for_each(|c| c.stop_accepting());
    node.until(|node| node.cores.iter().all(|c| c.is_drained()))
        .unwrap();
    drop(node);
    machine.restart(TearVariant::LoseUnsynced);
    let mut node = machine.start(4).unwrap();
    assert!(node.cores.iter().all(|c| c.replay_units() == 0));
    assert_eq!(node.all().unwrap(), before);
}
