//! Rows and keys that do not fit the memory there is for them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use nodedb_bridge::event::EventOp;
use nodedb_bridge::plan::{Output, OutputColumn, SchemaStep, SetExpr};
use nodedb_types::{ActorId, CommitTs, IndexId, SchemaVersion, ShardId, SqlState, Surrogate};

use super::checkpoints::{checkpoint, deletion, index_steps};
use super::machine::{Cells, Machine, Node, collection, fails, index_on_n, query, with_collection};
use crate::io::sim::TearVariant;
use crate::shard::apply::Commit;
use crate::shard::effect::RowEffect;
use crate::shard::table::Table;
use crate::store::residency::Residency;
use crate::store::row_log::{Location, RowLog};

const INDEX: IndexId = IndexId(5);
/// Rows of 4 KB on average.
const ROWS: i64 = 1600;
const LIMIT: usize = 1 << 20;

type Rows = BTreeMap<i64, Cells>;

fn cells(id: i64, round: usize) -> Cells {
    let text = format!("{round} {}", "x".repeat(2000 + id as usize % 7 * 700));
    (Some(id as i32 % 100), text)
}

/// Writes these rows, batch by batch of one core.
fn put(node: &mut Node, rows: &mut Rows, ids: impl Iterator<Item = i64>, round: usize) {
    let mut batches = BTreeMap::new();
    for id in ids {
        let (n, text) = cells(id, round);
        let write = node.put(id, n, &text);
        let batch: &mut Vec<_> = batches.entry(node.core_of(write.shard)).or_default();
        batch.push(write);
        if batch.len() == 20 {
            let batch = std::mem::take(batch);
            node.write(batch).unwrap().result.unwrap();
        }
        rows.insert(id, (n, text));
    }
    for batch in batches.into_values().filter(|b| !b.is_empty()) {
        node.write(batch).unwrap().result.unwrap();
    }
}

/// Everything reads back as it was written, and memory keeps to its limit.
fn holds(node: &mut Node, rows: &Rows) {
    for (id, cells) in rows {
        assert_eq!(node.get(*id).unwrap().as_ref(), Some(cells), "row {id}");
    }
    assert!(node.all().unwrap() == *rows, "a set query gives other rows");
    assert_eq!(node.count(INDEX, 0, 1000).unwrap(), rows.len() as u64);
    assert!(node.check().unwrap().is_empty());
    node.until(|node| {
        let mut cores = node.cores.iter().map(|core| core.leaves());
        cores.all(|l| l.bytes <= l.unwritten_bytes + LIMIT as u64)
    })
    .unwrap();
}

fn total(node: &Node) -> (u64, u64) {
    let leaves = node.cores.iter().map(|core| core.leaves());
    leaves.fold((0, 0), |(read, evicted), l| {
        (read + l.read, evicted + l.evicted)
    })
}

fn outgrow(seed: u64, faults: bool) {
    let mut machine = Machine::new(seed, 4);
    machine.page_faults = faults;
    machine.leaf_bytes_max = LIMIT;
    machine.history_bytes_max = 64 << 20;
    let mut node = with_collection(&mut machine, 2);
    for step in index_steps(index_on_n(INDEX)) {
        node.schema(step).unwrap().unwrap();
    }
    let mut rows = Rows::new();
    put(&mut node, &mut rows, 0..ROWS, 0);
    let stored: usize = rows.values().map(|(_, text)| text.len()).sum();
    assert!(stored > 3 * 2 * LIMIT, "several times what both cores hold");
    let ended: u64 = node.cores.iter().map(|c| c.checkpoints().ended).sum();
    assert!(ended > 0, "what nobody has written asks for a checkpoint");
    checkpoint(&mut node).unwrap();
    holds(&mut node, &rows);
    let (read, evicted) = total(&node);
    assert!(read > 20 && evicted > 20, "{read} read, {evicted} evicted");
    // Rows that are not in memory are changed and go.
    let old = node.slot.acquire();
    let before = rows.clone();
    put(&mut node, &mut rows, (0..ROWS).step_by(3), 1);
    for id in (0..ROWS).step_by(50) {
        let write = deletion(&node, id);
        node.write(vec![write]).unwrap().result.unwrap();
        rows.remove(&id);
    }
    checkpoint(&mut node).unwrap();
    holds(&mut node, &rows);
    for id in (0..ROWS).step_by(75) {
        let seen = node.get_at(id, old.snapshot()).unwrap().unwrap();
        assert_eq!(
            seen.as_ref(),
            before.get(&id),
            "row {id} at the old snapshot"
        );
    }
    drop(old);
    holds(&mut node, &rows);
    for cores in [1, 4] {
        drop(node);
        machine.restart(TearVariant::LoseUnsynced);
        node = machine.start(cores).unwrap();
        holds(&mut node, &rows);
        put(&mut node, &mut rows, ROWS - 10..ROWS + 10, 2);
        checkpoint(&mut node).unwrap();
        holds(&mut node, &rows);
    }
    // An index is built from rows that are not in memory.
    node.schema(SchemaStep::DropIndex(INDEX)).unwrap().unwrap();
    for step in index_steps(index_on_n(INDEX)) {
        node.schema(step).unwrap().unwrap();
    }
    holds(&mut node, &rows);
}

#[test]
fn rows_and_keys_outgrow_memory() {
    outgrow(41, false);
}

#[test]
fn rows_and_keys_outgrow_memory_with_faults() {
    outgrow(42, true);
}

/// A node with rows of which nothing is in memory.
fn cold(machine: &mut Machine, rows: &mut Rows) -> Node {
    let mut node = with_collection(machine, 1);
    put(&mut node, rows, 0..40, 0);
    checkpoint(&mut node).unwrap();
    drop(node);
    machine.restart(TearVariant::LoseUnsynced);
    machine.leaf_bytes_max = 0;
    machine.start(1).unwrap()
}

#[test]
fn readers_of_one_leaf_share_its_reading() {
    let (mut machine, mut rows) = (Machine::new(43, 4), Rows::new());
    let mut node = cold(&mut machine, &mut rows);
    assert_eq!((total(&node).0, node.cores[0].leaves().bytes), (0, 0));
    let get = |id| {
        let (shard, key) = node.place(id);
        (shard, (shard, key))
    };
    let (shard, key) = get(7);
    let op = || {
        nodedb_bridge::request::Op::Get(nodedb_bridge::plan::Get {
            collection: super::machine::COLLECTION,
            keys: vec![key.clone()],
            filter: None,
            output: [OutputColumn::Column(1)].into(),
        })
    };
    let core = node.core_of(shard);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let statement = node.statement();
            node.send(core, statement, op())
        })
        .collect();
    for reader in readers {
        let answer = node.finish(reader).unwrap();
        assert_eq!(answer.rows(&[nodedb_types::DataType::Int4]).len(), 1);
    }
    assert_eq!(total(&node).0, 2, "a page and a segment, each once");
}

#[test]
fn a_row_that_cannot_be_read_fails_its_statement_and_nothing_else() {
    let (mut machine, mut rows) = (Machine::new(44, 4), Rows::new());
    let mut node = cold(&mut machine, &mut rows);
    let now = node.shared.clock.now();
    for nth in 1..=2 {
        machine.disk.fail_read(nth);
        let failure = node.get_at(7, now).unwrap().unwrap_err();
        assert_eq!(failure.code(), SqlState::IoError, "read {nth}");
        assert_eq!(node.get(7).unwrap().as_ref(), rows.get(&7), "it can be had");
        drop(node);
        machine.restart(TearVariant::LoseUnsynced);
        node = machine.start(1).unwrap();
    }
    machine.disk.fail_read(1);
    let write = node.put(7, None, "new");
    fails(&node.write(vec![write]).unwrap(), SqlState::IoError);
    let columns = (0..3).map(OutputColumn::Column).collect();
    let everything = query(SetExpr::All, Vec::new(), Output::Rows(columns));
    machine.disk.fail_read(3);
    let answers = node.query(everything, now).unwrap();
    fails(&answers[0], SqlState::IoError);
    assert!(node.all().unwrap() == rows);
    put(&mut node, &mut rows, 0..40, 1);
    checkpoint(&mut node).unwrap();
    assert!(node.all().unwrap() == rows);
}

#[test]
fn a_flipped_bit_in_a_row_that_is_not_in_memory_is_noticed_when_it_is_read() {
    let (mut machine, mut rows) = (Machine::new(45, 4), Rows::new());
    drop(cold(&mut machine, &mut rows));
    machine.restart(TearVariant::LoseUnsynced);
    let files = machine.disk.files();
    let is_second = |(path, _): &&(std::path::PathBuf, u64)| path.ends_with("store/shard-002.data");
    let (path, len) = files.iter().find(is_second).unwrap();
    let (mut refused, mut noticed) = (0, 0);
    for slot in 2..len / 8192 {
        let at = slot * 8192 + 500;
        assert!(machine.disk.flip_bit(path, at, 3));
        let mut node = machine.boot(1);
        let broken = (0..5_000).find_map(|n| match node.cores[0].step(n * 50_000) {
            crate::core::Progress::Broken(failure) => Some(Some(failure)),
            _ if node.cores[0].is_recovered() => Some(None),
            _ => None,
        });
        if let Some(failure) = broken.expect("it ends") {
            assert_eq!(failure.code(), SqlState::DataCorrupted, "slot {slot}");
            refused += 1;
            drop(node);
            machine.restart(TearVariant::LoseUnsynced);
            machine.disk.flip_bit(path, at, 3);
            continue;
        }
        let now = node.shared.clock.now();
        let failed = read_each(&mut node, &rows, now);
        let in_shard = rows.keys().filter(|id| node.place(**id).0.0 == 2).count();
        assert!(failed <= in_shard, "slot {slot}");
        noticed += usize::from(failed > 0);
        // The medium was right after all: nothing of what was wrong is kept.
        machine.disk.flip_bit(path, at, 3);
        assert_eq!(read_each(&mut node, &rows, now), 0, "slot {slot}");
        assert!(node.check().unwrap().is_empty());
        drop(node);
        machine.restart(TearVariant::LoseUnsynced);
    }
    assert!(
        refused > 0 && noticed > 1,
        "{refused} starts, {noticed} reads"
    );
}

/// Reads every row by key: how many fail. Those that do not are right.
fn read_each(node: &mut Node, rows: &Rows, at: CommitTs) -> usize {
    let mut failed = 0;
    for (id, cells) in rows {
        match node.get_at(*id, at).unwrap() {
            Ok(found) => assert_eq!(found.as_ref(), Some(cells)),
            Err(failure) => {
                assert_eq!(failure.code(), SqlState::DataCorrupted);
                failed += 1;
            }
        }
    }
    failed
}

/// A reader waits for what says that a row is gone while the last snapshot that saw the row ends.
#[test]
fn a_deletion_may_go_while_it_is_on_its_way_to_a_reader() {
    let residency = Residency::alone(usize::MAX, true);
    let log = Rc::new(RefCell::new(RowLog::new(&residency)));
    let table = Table::new(ShardId(0), collection(), log, &residency);
    let apply = |op, id: u32, ts, row: &[u8]| {
        let effect = RowEffect {
            op,
            key: id.to_be_bytes()[..].into(),
            surrogate: Surrogate::new(id).unwrap(),
            birth: (op != EventOp::Insert).then_some(CommitTs(1)),
            before: None,
            after: row.into(),
        };
        let commit = Commit {
            commit_ts: CommitTs(ts),
            actor: ActorId(1),
            schema: SchemaVersion(1),
        };
        while let Err(missing) = table.try_apply(&effect, commit) {
            drop(missing.fetch());
        }
    };
    apply(EventOp::Insert, 1, 1, b"row");
    apply(EventOp::Delete, 1, 2, b"");
    // Each takes a segment.
    let long = vec![0; 65_500];
    (2..42).for_each(|id| apply(EventOp::Insert, id, 3, &long));
    let (row, snapshot) = (Surrogate::new(1).unwrap(), CommitTs(4));
    let mut at = Location::NONE;
    let missing = table
        .visible_from(row, snapshot, &mut at, |_| ())
        .unwrap_err();
    while table.trim(snapshot, None, 100).more {}
    drop(missing.fetch());
    table.check_snapshot(snapshot).unwrap();
    let seen = table.visible_from(row, snapshot, &mut at, |_| ());
    assert_eq!(seen.unwrap(), None);
}
