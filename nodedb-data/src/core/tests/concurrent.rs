//! Several clients at once: money moves between accounts, and every reader sees all of it.

use std::cell::RefCell;
use std::future::Future;
use std::ops::Bound;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nodedb_bridge::expression::{Rewrite, RowRewrite};
use nodedb_bridge::op::{EngineOp, ordered};
use nodedb_bridge::plan::{
    Conclude, Decide, Expected, Get, GetRow, Outcome, Output, OutputColumn, Prepare, RowAction,
    RowWrite, SchemaStep, SetExpr, Source, StageRows, StagedRow, WriteBatch,
};
use nodedb_bridge::reply::{Frame, ReplyReader};
use nodedb_bridge::request::Op;
use nodedb_types::row::{RowView, ValueRef};
use nodedb_types::{
    CommitTs, CoreId, DataType, IndexId, Result, SqlState, Surrogate, TxnId, Value,
};

use super::machine::{
    Answer, COLLECTION, Machine, Node, TYPES, encode, index_on_n, query, seeds, with_collection,
};
use crate::io::sim::{Rng, TearVariant};

const ACCOUNTS: i64 = 12;
const EACH: i32 = 100;

type Shared = Rc<RefCell<Node>>;

/// Adds to n.
#[derive(Debug)]
struct Add(i32);

impl RowRewrite for Add {
    fn rewrite(&self, current: &[u8], _: Option<&[u8]>) -> Result<Rewrite> {
        let view = RowView::new(current)?;
        let (ValueRef::Int8(id), ValueRef::Int4(n)) =
            (view.column(0, &TYPES[0])?, view.column(1, &TYPES[1])?)
        else {
            panic!("accounts have an id and a sum")
        };
        Ok(Rewrite::Replace(encode(id, Some(n + self.0), "account")))
    }
}

async fn read_all(mut reader: ReplyReader) -> Answer {
    let mut frames = Vec::new();
    loop {
        match reader.next().await.expect("a reply has a last frame") {
            Frame::End(_) => {
                return Answer {
                    frames,
                    result: Ok(()),
                };
            }
            Frame::Failed(failure) => {
                return Answer {
                    frames,
                    result: Err(failure),
                };
            }
            frame => frames.push(frame),
        }
    }
}

async fn call(node: &Shared, core: CoreId, at: CommitTs, op: Op) -> Answer {
    let reader = {
        let mut node = node.borrow_mut();
        let statement = node.statement_at(at);
        node.send(core, statement, op)
    };
    read_all(reader).await
}

/// Lets some steps of the machine pass.
async fn pause(mut steps: u64) {
    std::future::poll_fn(|_| {
        if steps == 0 {
            return Poll::Ready(());
        }
        steps -= 1;
        Poll::Pending
    })
    .await;
}

fn now(node: &Shared) -> CommitTs {
    node.borrow().shared.clock.now()
}

/// Moves a sum between two accounts of one shard in one write.
async fn move_in_shard(node: &Shared, from: i64, to: i64, sum: i32) {
    let (core, rows) = {
        let node = node.borrow();
        let add = |id: i64, by: i32| {
            let (shard, key) = node.place(id);
            let action = RowAction::Rewrite(Arc::new(Add(by)));
            RowWrite { shard, key, action }
        };
        let rows = vec![add(from, -sum), add(to, sum)];
        (node.core_of(rows[0].shard), rows)
    };
    let batch = WriteBatch {
        collection: COLLECTION,
        rows,
        returning: None,
    };
    let answer = call(node, core, now(node), Op::Write(batch)).await;
    answer.result.as_ref().unwrap();
    assert_eq!(answer.written(), 2);
}

/// Reads an account with its version.
async fn account(node: &Shared, id: i64, at: CommitTs) -> (Surrogate, CommitTs, i32) {
    let (shard, key) = node.borrow().place(id);
    let core = node.borrow().core_of(shard);
    let get = Get {
        collection: COLLECTION,
        keys: vec![(shard, key)],
        filter: None,
        output: Arc::from([
            OutputColumn::Surrogate,
            OutputColumn::Version,
            OutputColumn::Column(1),
        ]),
    };
    let answer = call(node, core, at, Op::Get(get)).await;
    answer.result.as_ref().unwrap();
    let rows = answer.rows(&[DataType::Int8, DataType::Int8, DataType::Int4]);
    match rows[0][..] {
        [Value::Int8(surrogate), Value::Int8(version), Value::Int4(n)] => (
            Surrogate::new(surrogate as u32).unwrap(),
            CommitTs(version as u64),
            n,
        ),
        _ => panic!("an account is there"),
    }
}

/// One try of a move by a transaction; false when it has to be tried again.
async fn try_move(node: &Shared, from: i64, to: i64, sum: i32) -> bool {
    let guard = node.borrow().slot.acquire();
    let at = guard.snapshot();
    let txn = TxnId(node.borrow().shared.clock.next().0);
    let mut staged: Vec<(CoreId, StagedRow)> = Vec::new();
    for (id, by) in [(from, -sum), (to, sum)] {
        let (surrogate, version, n) = account(node, id, at).await;
        let node = node.borrow();
        let (shard, key) = node.place(id);
        let row = encode(id, Some(n + by), "account");
        let expected = Expected::Version { surrogate, version };
        let row = StagedRow {
            shard,
            key,
            expected,
            row: Some(row.into()),
        };
        staged.push((node.core_of(shard), row));
    }
    let mut participants: Vec<_> = staged.iter().map(|(_, row)| row.shard).collect();
    participants.sort_unstable();
    participants.dedup();
    let participants: Arc<[_]> = participants.into();
    let mut cores: Vec<CoreId> = staged.iter().map(|(core, _)| *core).collect();
    cores.sort_unstable();
    cores.dedup();
    for (core, row) in staged {
        let chunk = StageRows {
            txn,
            collection: COLLECTION,
            rows: vec![row],
        };
        call(node, core, at, Op::Stage(chunk)).await.result.unwrap();
    }
    let mut outcome = None;
    for &core in &cores {
        let participants = participants.clone();
        let prepare = Op::Prepare(Prepare { txn, participants });
        if let Err(failure) = call(node, core, at, prepare).await.result {
            assert_eq!(
                failure.code(),
                SqlState::SerializationFailure,
                "{failure:?}"
            );
            outcome = Some(Outcome::Aborted);
            break;
        }
    }
    if outcome.is_none() {
        let commit_ts = node.borrow().shared.clock.next();
        let core = node.borrow().core_of(participants[0]);
        let decide = Op::Decide(Decide {
            txn,
            commit_ts,
            participants: participants.clone(),
        });
        call(node, core, at, decide).await.result.unwrap();
        outcome = Some(Outcome::Committed(commit_ts));
    }
    let outcome = outcome.expect("it ends one way or the other");
    for &core in &cores {
        let conclude = Op::Conclude(Conclude { txn, outcome });
        call(node, core, at, conclude).await.result.unwrap();
    }
    matches!(outcome, Outcome::Committed(_))
}

async fn writer(node: Shared, mut rng: Rng, moves: u32) {
    for _ in 0..moves {
        let from = rng.below(ACCOUNTS as u64) as i64;
        let to = (from + 1 + rng.below(ACCOUNTS as u64 - 1) as i64) % ACCOUNTS;
        let sum = rng.below(20) as i32;
        let same = {
            let node = node.borrow();
            node.core_of(node.place(from).0) == node.core_of(node.place(to).0)
        };
        if same && rng.chance(2, 3) {
            move_in_shard(&node, from, to, sum).await;
        } else {
            while !try_move(&node, from, to, sum).await {
                pause(rng.below(20)).await;
            }
        }
        pause(rng.below(3)).await;
    }
}

async fn reader(node: Shared, mut rng: Rng, looks: u32) {
    for _ in 0..looks {
        let guard = node.borrow().slot.acquire();
        pause(rng.below(30)).await;
        let at = guard.snapshot();
        let columns = vec![OutputColumn::Column(1)];
        let set = Arc::new(query(SetExpr::All, Vec::new(), Output::Rows(columns)));
        let (mut sum, mut rows) = (0, 0);
        let cores = node.borrow().cores.len();
        for core in 0..cores {
            pause(rng.below(5)).await;
            let core = CoreId(core as u16);
            let answer = call(&node, core, at, Op::Query(set.clone())).await;
            answer.result.as_ref().unwrap();
            for row in answer.rows(&[DataType::Int4]) {
                let Value::Int4(n) = row[0] else {
                    panic!("a sum is a number")
                };
                sum += n;
                rows += 1;
            }
        }
        assert_eq!(
            (rows, sum),
            (ACCOUNTS, ACCOUNTS as i32 * EACH),
            "as of {at}"
        );
    }
}

/// Builds an index under the load, counts by it at its snapshots, and checks it.
async fn indexer(node: Shared, mut rng: Rng) {
    let index = IndexId(3);
    let every_core = |step: SchemaStep| {
        let node = node.clone();
        async move {
            let cores = node.borrow().cores.len();
            for core in 0..cores {
                let core = CoreId(core as u16);
                let answer = call(&node, core, now(&node), Op::Schema(step.clone())).await;
                answer.result.unwrap();
            }
        }
    };
    pause(rng.below(50)).await;
    every_core(SchemaStep::AddIndex(index_on_n(index))).await;
    let snapshot = now(&node);
    every_core(SchemaStep::BuildIndex { index, snapshot }).await;
    every_core(SchemaStep::PublishIndex(index)).await;
    let op = EngineOp::Ordered(ordered::Op::Range {
        low: Bound::Unbounded,
        high: Bound::Included(Value::Int4(i32::MAX)),
    });
    let sources = vec![Source::Index { index, op }];
    let set = Arc::new(query(SetExpr::Source(0), sources, Output::Count));
    for _ in 0..15 {
        let guard = node.borrow().slot.acquire();
        pause(rng.below(20)).await;
        let cores = node.borrow().cores.len();
        let mut count = 0;
        for core in 0..cores {
            let core = CoreId(core as u16);
            let answer = call(&node, core, guard.snapshot(), Op::Query(set.clone())).await;
            let [Frame::Count(n)] = answer.frames[..] else {
                panic!("{answer:?} is no count")
            };
            count += n;
            let check = Op::Check {
                collection: COLLECTION,
            };
            let found = call(&node, core, now(&node), check).await;
            found.result.unwrap();
            assert!(found.frames.is_empty(), "the index differs from the rows");
        }
        assert_eq!(count, ACCOUNTS as u64);
    }
}

fn run(seed: u64, cores: u16) {
    let mut machine = Machine::new(seed, 8);
    machine.page_faults = seed.is_multiple_of(2);
    machine.checkpoint_units = 500;
    machine.leaf_bytes_max = 64 << 10;
    let mut node = with_collection(&mut machine, cores);
    for id in 0..ACCOUNTS {
        let row = node.put(id, Some(EACH), "account");
        node.write(vec![row]).unwrap().result.unwrap();
    }
    let shared = Rc::new(RefCell::new(node));
    let mut clients: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for n in 0..4 {
        clients.push(Box::pin(writer(
            shared.clone(),
            Rng::new(seed * 100 + n),
            25,
        )));
    }
    for n in 4..7 {
        clients.push(Box::pin(reader(
            shared.clone(),
            Rng::new(seed * 100 + n),
            25,
        )));
    }
    clients.push(Box::pin(indexer(shared.clone(), Rng::new(seed * 100 + 50))));
    let mut context = Context::from_waker(Waker::noop());
    let mut steps = 0;
    while !clients.is_empty() {
        clients.retain_mut(|client| client.as_mut().poll(&mut context).is_pending());
        shared.borrow_mut().step();
        steps += 1;
        assert!(steps < 200_000, "somebody waits for ever");
    }
    let mut node = Rc::into_inner(shared)
        .expect("the clients are gone")
        .into_inner();
    let sum = |node: &mut Node| {
        let all = node.all().unwrap();
        all.values().map(|(n, _)| n.unwrap()).sum::<i32>()
    };
    assert_eq!(sum(&mut node), ACCOUNTS as i32 * EACH);
    assert!(node.check().unwrap().is_empty());
    drop(node);
    machine.restart(TearVariant::LoseUnsynced);
    let mut node = machine.start(1).unwrap();
    assert_eq!(sum(&mut node), ACCOUNTS as i32 * EACH);
}

#[test]
fn no_reader_sees_half_of_a_statement() {
    for seed in seeds(6) {
        run(seed, [2, 1, 4][(seed % 3) as usize]);
    }
}

/// Fills the core's ring with reads of rows.
fn flood(node: &mut Node, reads: &mut Vec<ReplyReader>) {
    while node.worker.requests[0].slots() > 0 {
        let (shard, key) = node.place(reads.len() as i64 % ACCOUNTS);
        let get = GetRow {
            collection: COLLECTION,
            shard,
            key,
            columns: [1, 2].into(),
        };
        let read = node.send(CoreId(0), node.statement(), Op::GetRow(get));
        reads.push(read);
    }
}

/// Turns until the reader's answer is whole, each of which finds a full ring of reads.
fn turns_under_reads(node: &mut Node, mut reader: ReplyReader) -> Answer {
    let (mut reads, mut frames) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        flood(node, &mut reads);
        node.step();
        while let Some(frame) = reader.take() {
            if matches!(frame, Frame::End(_)) {
                let result = Ok(());
                let answered = reads.iter_mut().filter_map(ReplyReader::take).count();
                assert!(answered > 0, "reads get on too");
                return Answer { frames, result };
            }
            frames.push(frame);
        }
    }
    panic!("reads by key leave nothing to other tasks");
}

#[test]
fn reads_that_fill_every_turn_do_not_stop_other_tasks() {
    let mut machine = Machine::new(5, 4);
    machine.depths.requests = 256;
    machine.depths.streams = 1 << 16;
    let mut node = with_collection(&mut machine, 1);
    for first in (0..1000).step_by(100) {
        let mut by_shard = std::collections::BTreeMap::<_, Vec<_>>::new();
        for id in first..first + 100 {
            let row = node.put(id, Some(1), "account");
            by_shard.entry(row.shard).or_default().push(row);
        }
        for rows in by_shard.into_values() {
            node.write(rows).unwrap().result.unwrap();
        }
    }
    // A long query, begun in a turn of its own.
    let columns = (0..3).map(OutputColumn::Column).collect();
    let all = query(SetExpr::All, Vec::new(), Output::Rows(columns));
    let reader = node.send(CoreId(0), node.statement(), Op::Query(Arc::new(all)));
    let answer = turns_under_reads(&mut node, reader);
    assert_eq!(answer.rows(&TYPES).len(), 1000);
    // A write, which waits for the disk and is applied by a task.
    let row = node.put(3, Some(7), "account");
    let reader = node.start_write(vec![row]);
    assert_eq!(turns_under_reads(&mut node, reader).written(), 1);
}

/// Checking and applying 2,000 rows takes 20 units each, so 80 turns; what is done for all rows in
/// between has to be cut as well.
#[test]
fn a_statement_of_many_rows_has_no_long_piece() {
    let mut machine = Machine::new(6, 4);
    machine.depths.streams = 1 << 16;
    let mut node = with_collection(&mut machine, 1);
    let rows: Vec<_> = (0..2000).map(|id| node.put(id, Some(1), "x")).collect();
    let mut reader = node.start_write(rows);
    let (mut turns, mut over) = (0, false);
    while !over {
        node.step();
        turns += 1;
        while let Some(frame) = reader.take() {
            assert!(!matches!(frame, Frame::Failed(_)), "{frame:?}");
            over |= matches!(frame, Frame::End(_));
        }
        assert!(turns < 10_000, "the write does not end");
    }
    assert!(turns > 2000 * 26 / 500, "{turns}");
    assert_eq!(node.all().unwrap().len(), 2000);
}
