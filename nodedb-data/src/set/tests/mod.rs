//! Set queries against a brute-force oracle: random rows with NULLs on several shards, random
//! predicates, orders, limits and snapshots, commits between any two steps, budgets down to one
//! unit a turn, reads that pend and readers that are slow.

mod flat;
mod program;
mod shard;

use std::cell::RefCell;
use std::rc::Rc;
use std::slice::from_ref;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use nodedb_bridge::account::MemoryAccount;
use nodedb_bridge::expression::BatchExpression;
use nodedb_bridge::plan::{
    Direction, LeafReport, Order, Output, OutputColumn, SetExpr, SetQuery, Source,
};
use nodedb_bridge::reply::Frame;
use nodedb_bridge::request::Statement;
use nodedb_types::{
    ActorId, CollectionId, CommitTs, CoreId, DataType, Failure, Result, SessionId, SqlState,
    TraceId,
};

use self::shard::{Fields, Shard};
use super::{Context, Host, Rows, Sink, run};
use crate::pace::Budget;

struct TestHost {
    budget: Budget,
    now: std::cell::Cell<u64>,
}

impl Host for TestHost {
    fn core(&self) -> CoreId {
        CoreId(0)
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn monotonic_ns(&self) -> u64 {
        self.now.get()
    }

    fn cpu_ns(&self) -> u64 {
        self.now.set(self.now.get() + 1);
        self.now.get()
    }
}

#[derive(Default)]
struct Reader {
    frames: Vec<Frame>,
    gone: bool,
    /// Every so many frames there is no credit at first; 0 for never.
    slow_every: u32,
    asked: u32,
}

struct TestSink(Rc<RefCell<Reader>>);

impl Sink for TestSink {
    fn poll_send(&mut self, frame: &mut Option<Frame>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let mut reader = self.0.borrow_mut();
        reader.asked += 1;
        if reader.slow_every > 0 && reader.asked.is_multiple_of(reader.slow_every) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        reader.frames.extend(frame.take());
        Poll::Ready(())
    }

    fn is_cancelled(&self) -> bool {
        self.0.borrow().gone
    }
}

/// One query under way.
struct Session {
    host: Rc<TestHost>,
    reader: Rc<RefCell<Reader>>,
    statement: Arc<Statement>,
}

type Answer = Result<Option<Box<LeafReport>>>;

impl Session {
    fn new(snapshot: CommitTs, memory: usize) -> Session {
        Session {
            host: Rc::new(TestHost {
                budget: Budget::new(0),
                now: std::cell::Cell::new(0),
            }),
            reader: Rc::default(),
            statement: Arc::new(Statement {
                session: SessionId(1),
                actor: ActorId::SYSTEM,
                trace: TraceId(1),
                deadline_ns: Some(1_000_000_000),
                snapshot,
                pins: [].into(),
                account: Arc::new(MemoryAccount::new(memory)),
            }),
        }
    }

    /// Runs a query with `units` a turn, and `between` before each turn.
    fn run(
        &self,
        query: &SetQuery,
        shards: &[Rc<Shard>],
        units: u32,
        mut between: impl FnMut(),
    ) -> Answer {
        let host = self.host.clone();
        let sink = Box::new(TestSink(self.reader.clone()));
        let cx = Context::new(self.statement.clone(), host, sink);
        let rows = shards
            .iter()
            .map(|shard| shard.clone() as Rc<dyn Rows>)
            .collect();
        let mut task = Box::pin(run(query, rows, &cx));
        let mut waiting = TaskContext::from_waker(Waker::noop());
        let answer = loop {
            between();
            self.host.budget.refill(units);
            if let Poll::Ready(answer) = task.as_mut().poll(&mut waiting) {
                break answer;
            }
            assert!(
                self.host.budget.overdrawn() < 2_000,
                "a piece that is too long"
            );
        };
        drop(task);
        assert_eq!(self.statement.account.used(), 0, "memory is given back");
        answer
    }

    fn batches(&self) -> Vec<RecordBatch> {
        let frames = std::mem::take(&mut self.reader.borrow_mut().frames);
        let batch = |frame| match frame {
            Frame::Batch(batch) => batch,
            other => panic!("{other:?}"),
        };
        frames.into_iter().map(batch).collect()
    }
}

/// `n > 0 AND n % divisor = 0` of column `n`; it fails for an `n` below `least`.
#[derive(Debug)]
struct Divisible {
    divisor: i32,
    least: i32,
}

impl Divisible {
    fn value(&self, n: Option<i32>) -> Option<bool> {
        n.map(|n| n % self.divisor == 0)
    }
}

impl BatchExpression for Divisible {
    fn columns(&self) -> &[usize] {
        &[1]
    }

    fn output(&self) -> DataType {
        DataType::Bool
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        assert!(batch.num_rows() <= nodedb_types::limits::EXPRESSION_ROWS_MAX);
        let n = batch.column(0).as_primitive::<Int32Type>();
        if n.iter().flatten().any(|n| n < self.least) {
            return Err(Failure::new(SqlState::DivisionByZero, "division by zero"));
        }
        let values = n.iter().map(|n| self.value(n));
        Ok(Arc::new(values.collect::<BooleanArray>()))
    }
}

fn query(sources: Vec<Source>, set: SetExpr, order: Order, output: Output) -> SetQuery {
    SetQuery {
        collection: CollectionId::FIRST_USER,
        shard: None,
        sources,
        set,
        order,
        limit: None,
        output,
        explain: true,
    }
}

fn shard_of(rows: u32) -> Rc<Shard> {
    let shard = Shard::new(0);
    for row in 1..=rows {
        let fields = Fields {
            n: Some(row as i32),
            t: None,
            v: None,
        };
        shard.commit(CommitTs(u64::from(row)), row, i64::from(row), Some(fields));
    }
    shard
}

fn by_n(direction: Direction) -> Order {
    Order::Index {
        index: shard::BY_N,
        direction,
    }
}

fn ids() -> Output {
    Output::Rows(vec![OutputColumn::Column(0)])
}

#[test]
fn a_count_fetches_nothing() {
    let shard = shard_of(100);
    let session = Session::new(CommitTs(1000), 1 << 20);
    let all = query(Vec::new(), SetExpr::All, Order::Any, Output::Count);
    let report = session
        .run(&all, from_ref(&shard), 5, || {})
        .unwrap()
        .unwrap();
    assert!(matches!(
        session.reader.borrow().frames[..],
        [Frame::Count(100)]
    ));
    assert_eq!(
        (
            report.rows_fetched,
            report.rows_examined,
            shard.rows_read.get()
        ),
        (0, 0, 0)
    );
    assert_eq!(report.set_rows, Some(100));
    assert!(report.cpu_ns > 0);
}

#[test]
fn a_limit_stops_the_work() {
    let shard = shard_of(5000);
    let session = Session::new(CommitTs(10_000), 1 << 20);
    let expression = Source::Expression(Arc::new(Divisible {
        divisor: 2,
        least: 0,
    }));
    let mut some = query(vec![expression], SetExpr::Source(0), Order::Any, ids());
    some.limit = Some(3);
    let report = session.run(&some, &[shard], 1000, || {}).unwrap().unwrap();
    assert_eq!(
        session
            .batches()
            .iter()
            .map(RecordBatch::num_rows)
            .sum::<usize>(),
        3
    );
    assert_eq!(report.rows_fetched, 3);
    assert!(report.rows_examined <= 1024, "{}", report.rows_examined);
}

#[test]
fn a_reader_that_left_and_a_deadline_stop_the_work() {
    let shard = shard_of(500);
    for late in [false, true] {
        let session = Session::new(CommitTs(1000), 1 << 20);
        let mut turns = 0;
        let all = query(Vec::new(), SetExpr::All, Order::Any, ids());
        let failure = session
            .run(&all, from_ref(&shard), 50, || {
                turns += 1;
                if turns == 3 {
                    session.reader.borrow_mut().gone = !late;
                    session.host.now.set(if late { 2_000_000_000 } else { 0 });
                }
            })
            .unwrap_err();
        assert_eq!(failure.code(), SqlState::QueryCanceled);
        assert!(turns <= 5);
    }
}

#[test]
fn a_sort_that_is_too_big_fails_for_want_of_memory() {
    let shard = shard_of(500);
    let session = Session::new(CommitTs(1000), 10_000);
    let order = Order::Key(Direction::Descending);
    let mut sorted = query(Vec::new(), SetExpr::All, order, ids());
    let failure = session
        .run(&sorted, from_ref(&shard), 500, || {})
        .unwrap_err();
    assert_eq!(failure.code(), SqlState::OutOfMemory);
    sorted.limit = Some(5);
    session.run(&sorted, &[shard], 500, || {}).unwrap();
    let batches = session.batches();
    let ids = batches[0].column(0).as_primitive::<Int64Type>();
    assert!(ids.values().iter().eq(&[500, 499, 498, 497, 496]));
}

#[test]
fn frames_are_of_bounded_size() {
    let shard = shard_of(40_000);
    let session = Session::new(CommitTs(100_000), 1 << 20);
    let columns = vec![
        OutputColumn::Column(0),
        OutputColumn::Key,
        OutputColumn::Version,
    ];
    let all = query(Vec::new(), SetExpr::All, Order::Any, Output::Rows(columns));
    session.run(&all, &[shard], 5000, || {}).unwrap();
    let batches = session.batches();
    assert!(batches.len() > 1);
    let mut rows = 0;
    for batch in &batches {
        let bytes: usize = batch
            .columns()
            .iter()
            .map(|column| column.to_data().get_slice_memory_size().unwrap())
            .sum();
        assert!(bytes <= nodedb_types::limits::FRAME_BYTES_MAX);
        rows += batch.num_rows();
    }
    assert_eq!(rows, 40_000);
}

#[test]
fn the_first_of_many_are_found_along_the_index() {
    let shard = shard_of(3000);
    let session = Session::new(CommitTs(10_000), 1 << 20);
    for (order, first) in [
        (Order::Key(Direction::Ascending), 1),
        (Order::Key(Direction::Descending), 3000),
        (by_n(Direction::Ascending), 1),
        (by_n(Direction::Descending), 3000),
    ] {
        let mut some = query(Vec::new(), SetExpr::All, order, ids());
        some.limit = Some(5);
        let report = session
            .run(&some, from_ref(&shard), 1000, || {})
            .unwrap()
            .unwrap();
        let batches = session.batches();
        let ids = batches[0].column(0).as_primitive::<Int64Type>();
        assert_eq!((ids.len(), ids.value(0)), (5, first));
        assert_eq!(report.rows_fetched, 5);
        assert!(report.rows_examined < 100, "{}", report.rows_examined);
    }
}

#[test]
fn deep_predicates_run_and_deeper_ones_are_refused() {
    let shard = shard_of(10);
    let limit = nodedb_types::limits::STATEMENT_DEPTH_MAX;
    let nested = |levels: usize| {
        (1..levels).fold(SetExpr::All, |term, level| match level % 3 {
            0 => SetExpr::And(vec![term]),
            1 => SetExpr::Or(vec![SetExpr::Nothing, term]),
            _ => SetExpr::Not(Box::new(SetExpr::Not(Box::new(term)))),
        })
    };
    let session = Session::new(CommitTs(1000), 1 << 20);
    let deep = query(Vec::new(), nested(limit * 3 / 4), Order::Any, Output::Count);
    session.run(&deep, from_ref(&shard), 100, || {}).unwrap();
    assert!(matches!(
        session.reader.borrow().frames[..],
        [Frame::Count(10)]
    ));
    let deeper = query(Vec::new(), nested(limit + 1), Order::Any, Output::Count);
    let failure = session
        .run(&deeper, from_ref(&shard), 100, || {})
        .unwrap_err();
    assert_eq!(failure.code(), SqlState::StatementTooComplex);
}

#[test]
fn a_score_needs_a_ranking() {
    let session = Session::new(CommitTs(1000), 1 << 20);
    let output = Output::Rows(vec![OutputColumn::Score]);
    let asked = query(Vec::new(), SetExpr::All, Order::Any, output);
    assert!(session.run(&asked, &[shard_of(1)], 100, || {}).is_err());
}
