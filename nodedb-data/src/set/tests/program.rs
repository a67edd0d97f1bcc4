//! Random programs and what they must answer.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

use nodedb_bridge::op::{EngineOp, EngineRank, ordered, text};
use nodedb_bridge::plan::{
    Direction, Order, Output, OutputColumn, RankSpec, SetExpr, SetQuery, Source, TextStatistics,
};
use nodedb_bridge::reply::Frame;
use nodedb_types::arrow_map::value_at;
use nodedb_types::vector::{Metric, distance};
use nodedb_types::{CommitTs, DataType, Value, key};
use proptest::prelude::*;

use super::shard::{BY_N, BY_T, Fields, NEAREST, Shard, WORDS, key_bytes};
use super::{Divisible, Session, flat, query};

/// A write by key: `None` deletes.
#[derive(Clone, Debug)]
struct Write {
    id: i64,
    new: Option<Fields>,
}

#[derive(Clone, Debug)]
enum Predicate {
    N(ordered::Op),
    T(ordered::Op),
    /// A full text query over `t`.
    Words(text::Query),
    Divisible(i32),
    /// A condition on the key.
    Key(ordered::Op),
}

#[derive(Clone, Debug)]
enum By {
    Any,
    Key(Direction),
    N(Direction),
    T(Direction),
    Nearest {
        indexed: bool,
        to: [i8; 2],
    },
    /// By BM25 of one word.
    Relevant(&'static str),
}

#[derive(Clone, Debug)]
struct Program {
    shards: u16,
    past: Vec<Write>,
    /// Committed above the snapshot, before the query begins.
    recent: Vec<Write>,
    /// Committed while the query runs.
    meanwhile: Vec<Write>,
    predicates: Vec<Predicate>,
    set: SetExpr,
    by: By,
    limit: Option<u64>,
    count: bool,
    units: u32,
    pend_every: u32,
    slow_every: u32,
}

fn fields() -> impl Strategy<Value = Fields> {
    let n = prop::option::weighted(0.8, -3i32..4);
    let t = prop::option::weighted(
        0.8,
        prop::sample::select(vec!["", "a", "ab", "b", "a b", "ab a a"]),
    );
    let v = prop::option::weighted(0.8, (-1i8..2, -1i8..2));
    (n, t, v).prop_map(|(n, t, v)| Fields {
        n,
        t,
        v: v.map(|(x, y)| [f32::from(x), f32::from(y)]),
    })
}

fn writes(most: usize) -> impl Strategy<Value = Vec<Write>> {
    let write = (0i64..40, prop::option::weighted(0.75, fields()));
    prop::collection::vec(write.prop_map(|(id, new)| Write { id, new }), 0..most)
}

fn bound(
    value: impl Strategy<Value = Value> + Clone + 'static,
) -> impl Strategy<Value = Bound<Value>> {
    prop_oneof![
        Just(Bound::Unbounded),
        value.clone().prop_map(Bound::Included),
        value.prop_map(Bound::Excluded),
    ]
}

fn op(value: impl Strategy<Value = Value> + Clone + 'static) -> impl Strategy<Value = ordered::Op> {
    prop_oneof![
        3 => prop::collection::vec(value.clone(), 1..4).prop_map(ordered::Op::In),
        2 => prop::collection::vec(value.clone(), 1..40)
            .prop_map(|values| ordered::Op::Listed(ordered::List::new(values).unwrap())),
        3 => (bound(value.clone()), bound(value)).prop_map(|(low, high)| ordered::Op::Range { low, high }),
        1 => Just(ordered::Op::IsNull),
    ]
}

fn predicate() -> impl Strategy<Value = Predicate> {
    let text = prop::sample::select(vec!["", "a", "ab", "b", "c"]);
    prop_oneof![
        op((-4i32..5).prop_map(Value::Int4)).prop_map(Predicate::N),
        op(text.prop_map(|t| Value::Text(t.to_owned()))).prop_map(Predicate::T),
        words().prop_map(Predicate::Words),
        (1i32..4).prop_map(Predicate::Divisible),
        op((-3i64..43).prop_map(Value::Int8)).prop_map(Predicate::Key),
    ]
}

fn words() -> impl Strategy<Value = text::Query> {
    let word = || prop::sample::select(vec!["a", "ab", "b", "c"]).prop_map(str::to_owned);
    let leaf = prop_oneof![
        3 => word().prop_map(text::Query::Word),
        1 => word().prop_map(text::Query::Prefix),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..3).prop_map(text::Query::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(text::Query::Or),
            inner.prop_map(|query| text::Query::Not(Box::new(query))),
        ]
    })
}

fn set(sources: usize) -> impl Strategy<Value = SetExpr> {
    let leaf = prop_oneof![
        6 => (0..sources).prop_map(SetExpr::Source),
        1 => Just(SetExpr::All),
        1 => Just(SetExpr::Nothing),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(SetExpr::And),
            prop::collection::vec(inner.clone(), 0..4).prop_map(SetExpr::Or),
            inner.clone().prop_map(|term| SetExpr::Not(Box::new(term))),
            inner.prop_map(|term| SetExpr::IsUnknown(Box::new(term))),
        ]
    })
}

fn by() -> impl Strategy<Value = By> {
    let direction = prop::sample::select(vec![Direction::Ascending, Direction::Descending]);
    prop_oneof![
        Just(By::Any),
        direction.clone().prop_map(By::Key),
        direction.clone().prop_map(By::N),
        direction.prop_map(By::T),
        (any::<bool>(), -1i8..2, -1i8..2).prop_map(|(indexed, x, y)| By::Nearest {
            indexed,
            to: [x, y]
        }),
        prop::sample::select(vec!["a", "ab", "c"]).prop_map(By::Relevant),
    ]
}

fn program() -> impl Strategy<Value = Program> {
    let data = (1u16..4, writes(120), writes(20), writes(40));
    let asked = (
        prop::collection::vec(predicate(), 1..4),
        by(),
        prop::option::of(prop_oneof![4 => 0u64..12, 1 => 12u64..60]),
        prop::bool::weighted(0.2),
    );
    let pace = (
        prop_oneof![Just(1), 2u32..60, 200u32..5000],
        0u32..9,
        0u32..4,
    );
    (data, asked, pace).prop_flat_map(|(data, (predicates, by, limit, count), pace)| {
        set(predicates.len()).prop_map(move |set| Program {
            shards: data.0,
            past: data.1.clone(),
            recent: data.2.clone(),
            meanwhile: data.3.clone(),
            predicates: predicates.clone(),
            set,
            by: by.clone(),
            limit,
            count,
            units: pace.0,
            // A read that pends each time would never end.
            pend_every: if pace.1 == 1 { 0 } else { pace.1 },
            slow_every: if pace.2 == 1 { 0 } else { pace.2 },
        })
    })
}

/// Commits writes by key, each at the next timestamp.
struct Writer {
    shards: Vec<Rc<Shard>>,
    clock: u64,
    given: u32,
}

impl Writer {
    fn apply(&mut self, write: &Write) {
        self.clock += 1;
        let shard = &self.shards[write.id as usize % self.shards.len()];
        let row = match (shard.find(write.id), &write.new) {
            (Some(row), _) => row,
            (None, None) => return,
            (None, Some(_)) => {
                // New rows spread over blocks that shards share.
                self.given += 1;
                (self.given % 3) << 16 | self.given
            }
        };
        shard.commit(CommitTs(self.clock), row, write.id, write.new.clone());
    }
}

impl Predicate {
    fn source(&self) -> Source {
        let index = |index, op: &ordered::Op| Source::Index {
            index,
            op: EngineOp::Ordered(op.clone()),
        };
        match self {
            Predicate::N(op) => index(BY_N, op),
            Predicate::T(op) => index(BY_T, op),
            Predicate::Key(op) => Source::Keys(op.clone()),
            Predicate::Words(query) => Source::Index {
                index: WORDS,
                op: EngineOp::Text(text::Op {
                    query: Arc::new(query.clone()),
                }),
            },
            Predicate::Divisible(divisor) => Source::Expression(Arc::new(Divisible {
                divisor: *divisor,
                least: i32::MIN,
            })),
        }
    }

    fn value(&self, id: i64, row: &Fields) -> Option<bool> {
        match self {
            Predicate::Key(op) => holds(op, Value::Int8(id)),
            Predicate::N(op) => holds(op, row.n.map_or(Value::Null, Value::Int4)),
            Predicate::T(op) => holds(op, row.t.map_or(Value::Null, |t| Value::Text(t.to_owned()))),
            Predicate::Words(query) => row.t.map(|t| says(query, t)),
            Predicate::Divisible(divisor) => row.n.map(|n| n % divisor == 0),
        }
    }
}

/// Whether a text answers a query.
fn says(query: &text::Query, t: &str) -> bool {
    match query {
        text::Query::Word(word) => t.split(' ').any(|token| token == word),
        text::Query::Prefix(start) => t.split(' ').any(|token| token.starts_with(start)),
        text::Query::Phrase(_) => unreachable!("not generated"),
        text::Query::And(terms) => terms.iter().all(|term| says(term, t)),
        text::Query::Or(terms) => terms.iter().any(|term| says(term, t)),
        text::Query::Not(term) => !says(term, t),
    }
}

/// What all shards are said to hold, whatever they do hold: a score takes it from the statement.
fn statistics() -> TextStatistics {
    TextStatistics {
        documents: 50,
        tokens: 80,
        document_frequency: vec![7],
    }
}

/// BM25 of one word with k1 1.2 and b 0.75.
fn bm25(word: &str, t: &str) -> f64 {
    let tokens = t.split(' ').filter(|token| !token.is_empty());
    let (length, times) = (
        tokens.clone().count() as f64,
        tokens.filter(|t| *t == word).count(),
    );
    let (documents, mean, df) = (50.0, 80.0 / 50.0, 7.0);
    let idf = f64::ln(1.0 + (documents - df + 0.5) / (df + 0.5));
    let norm = 1.2 * (1.0 - 0.75 + 0.75 * length / mean);
    match times {
        0 => 0.0,
        times => idf * times as f64 * (1.2 + 1.0) / (times as f64 + norm),
    }
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Int4(a), Value::Int4(b)) => a.cmp(b),
        (Value::Int8(a), Value::Int8(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        // NULL is the largest.
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Greater,
        (_, Value::Null) => Ordering::Less,
        other => panic!("{other:?}"),
    }
}

fn holds(op: &ordered::Op, value: Value) -> Option<bool> {
    if let ordered::Op::IsNull = op {
        return Some(value.is_null());
    }
    if value.is_null() {
        return None;
    }
    Some(match op {
        ordered::Op::In(list) => list.contains(&value),
        ordered::Op::Listed(list) => {
            let bytes = key::of(&value).unwrap();
            list.bytes().iter().any(|item| **item == *bytes)
        }
        ordered::Op::Range { low, high } => {
            let above = match low {
                Bound::Included(low) => compare(&value, low).is_ge(),
                Bound::Excluded(low) => compare(&value, low).is_gt(),
                Bound::Unbounded => true,
            };
            let below = match high {
                Bound::Included(high) => compare(&value, high).is_le(),
                Bound::Excluded(high) => compare(&value, high).is_lt(),
                Bound::Unbounded => true,
            };
            above && below
        }
        ordered::Op::IsNull => unreachable!(),
    })
}

fn truth(set: &SetExpr, predicates: &[Predicate], id: i64, row: &Fields) -> Option<bool> {
    let of = |term: &SetExpr| truth(term, predicates, id, row);
    match set {
        SetExpr::All => Some(true),
        SetExpr::Nothing => Some(false),
        SetExpr::Source(at) => predicates[*at].value(id, row),
        SetExpr::And(terms) => {
            let values: Vec<_> = terms.iter().map(of).collect();
            match values.contains(&Some(false)) {
                true => Some(false),
                false => (!values.contains(&None)).then_some(true),
            }
        }
        SetExpr::Or(terms) => {
            let values: Vec<_> = terms.iter().map(of).collect();
            match values.contains(&Some(true)) {
                true => Some(true),
                false => (!values.contains(&None)).then_some(false),
            }
        }
        SetExpr::Not(term) => of(term).map(|value| !value),
        SetExpr::IsUnknown(term) => Some(of(term).is_none()),
    }
}

/// A row that the query must give.
#[derive(Clone, Debug)]
struct Wanted {
    shard: u16,
    surrogate: u32,
    id: i64,
    version: CommitTs,
    fields: Fields,
}

impl By {
    fn order(&self) -> Order {
        match self {
            By::Any => Order::Any,
            By::Key(direction) => Order::Key(*direction),
            By::N(direction) => Order::Index {
                index: BY_N,
                direction: *direction,
            },
            By::T(direction) => Order::Index {
                index: BY_T,
                direction: *direction,
            },
            By::Nearest { indexed, .. } => Order::Rank(RankSpec {
                index: indexed.then_some(NEAREST),
                rank: self.rank(),
            }),
            By::Relevant(_) => Order::Rank(RankSpec {
                index: Some(WORDS),
                rank: self.rank(),
            }),
        }
    }

    fn rank(&self) -> EngineRank {
        match self {
            By::Nearest { to: [x, y], .. } => flat::rank([f32::from(*x), f32::from(*y)]),
            By::Relevant(word) => EngineRank::Text(text::Rank {
                query: Arc::new(text::Query::Word((*word).to_owned())),
                statistics: Some(Arc::new(statistics())),
            }),
            other => panic!("{other:?}"),
        }
    }

    fn is_ranking(&self) -> bool {
        matches!(self, By::Nearest { .. } | By::Relevant(_))
    }

    fn score(&self, row: &Fields) -> Option<f64> {
        match self {
            By::Nearest { to: [x, y], .. } => {
                let to = [f32::from(*x), f32::from(*y)];
                row.v.map(|v| distance(Metric::L2, &to, &v))
            }
            By::Relevant(word) => row.t.map(|t| bm25(word, t)),
            _ => None,
        }
    }

    fn compare(&self, a: &Wanted, b: &Wanted) -> Ordering {
        let turned = |order: Ordering, direction: &Direction| match direction {
            Direction::Ascending => order,
            Direction::Descending => order.reverse(),
        };
        let n = |row: &Wanted| row.fields.n.map_or(Value::Null, Value::Int4);
        let t = |row: &Wanted| {
            row.fields
                .t
                .map_or(Value::Null, |t| Value::Text(t.to_owned()))
        };
        let first = match self {
            By::Any => Ordering::Equal,
            By::Key(direction) => return turned(a.id.cmp(&b.id), direction),
            By::N(direction) => turned(compare(&n(a), &n(b)), direction),
            By::T(direction) => turned(compare(&t(a), &t(b)), direction),
            By::Nearest { .. } => {
                let score = |row| self.score(row).unwrap_or(f64::INFINITY);
                score(&a.fields).total_cmp(&score(&b.fields))
            }
            By::Relevant(_) => {
                let score = |row| self.score(row).unwrap_or(f64::NEG_INFINITY);
                score(&b.fields).total_cmp(&score(&a.fields))
            }
        };
        first.then(key_bytes(a.id).cmp(&key_bytes(b.id)))
    }
}

fn wanted(program: &Program, shards: &[Rc<Shard>], snapshot: CommitTs) -> Vec<Wanted> {
    let mut rows = Vec::new();
    for (at, shard) in shards.iter().enumerate() {
        for (surrogate, id, version, fields) in shard.visible(snapshot) {
            if truth(&program.set, &program.predicates, id, &fields) == Some(true) {
                rows.push(Wanted {
                    shard: at as u16,
                    surrogate,
                    id,
                    version,
                    fields,
                });
            }
        }
    }
    rows.sort_by(|a, b| program.by.compare(a, b));
    rows
}

fn columns(program: &Program) -> Vec<OutputColumn> {
    let mut columns = vec![
        OutputColumn::Surrogate,
        OutputColumn::Column(0),
        OutputColumn::Column(3),
        OutputColumn::Key,
        OutputColumn::Version,
        OutputColumn::Shard,
    ];
    columns.extend((0..program.predicates.len()).map(OutputColumn::Truth));
    if program.by.is_ranking() {
        columns.push(OutputColumn::Score);
    }
    columns
}

/// A row as it must come out.
fn line(program: &Program, row: &Wanted) -> Vec<Value> {
    let boolean = |value: Option<bool>| value.map_or(Value::Null, Value::Bool);
    let mut cells = vec![
        Value::Int8(i64::from(row.surrogate)),
        Value::Int8(row.id),
        row.fields
            .v
            .map_or(Value::Null, |v| Value::Vector(v.to_vec())),
        Value::Bytea(key::of(&Value::Int8(row.id)).unwrap()),
        Value::Int8(row.version.0 as i64),
        Value::Int4(i32::from(row.shard)),
    ];
    cells.extend(
        program
            .predicates
            .iter()
            .map(|p| boolean(p.value(row.id, &row.fields))),
    );
    if program.by.is_ranking() {
        cells.push(
            program
                .by
                .score(&row.fields)
                .map_or(Value::Null, Value::Float8),
        );
    }
    cells
}

fn lines(program: &Program, session: &Session) -> Vec<Vec<Value>> {
    let mut types = vec![
        DataType::Int8,
        DataType::Int8,
        DataType::Vector(Some(2)),
        DataType::Bytea,
        DataType::Int8,
        DataType::Int4,
    ];
    types.extend(program.predicates.iter().map(|_| DataType::Bool));
    types.push(DataType::Float8);
    let mut lines = Vec::new();
    for batch in session.batches() {
        assert!(batch.num_rows() > 0, "an empty batch");
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().zip(&types);
            lines.push(
                cells
                    .map(|(column, ty)| value_at(column, row, ty).unwrap())
                    .collect(),
            );
        }
    }
    lines
}

fn check(program: &Program) -> Result<(), TestCaseError> {
    let shards: Vec<_> = (0..program.shards).map(Shard::new).collect();
    let mut writer = Writer {
        shards: shards.clone(),
        clock: 0,
        given: 0,
    };
    program.past.iter().for_each(|write| writer.apply(write));
    let snapshot = CommitTs(writer.clock);
    program.recent.iter().for_each(|write| writer.apply(write));
    let expected = wanted(program, &shards, snapshot);

    let session = Session::new(snapshot, 1 << 20);
    session.reader.borrow_mut().slow_every = program.slow_every;
    shards
        .iter()
        .for_each(|shard| shard.pend_every.set(program.pend_every));
    let output = match program.count {
        true => Output::Count,
        false => Output::Rows(columns(program)),
    };
    let sources = program.predicates.iter().map(Predicate::source).collect();
    let asked = SetQuery {
        limit: program.limit,
        ..query(sources, program.set.clone(), program.by.order(), output)
    };
    let mut meanwhile = program.meanwhile.iter();
    let report = session.run(&asked, &shards, program.units, || {
        if let Some(write) = meanwhile.next() {
            writer.apply(write);
        }
    });
    let report = report.unwrap().unwrap();

    let limit = program.limit.unwrap_or(u64::MAX).min(expected.len() as u64) as usize;
    if program.count {
        let frames = &session.reader.borrow().frames;
        let counted = matches!(frames[..], [Frame::Count(n)] if n == limit as u64);
        prop_assert!(counted, "{:?} instead of {}", frames, limit);
        prop_assert_eq!(report.rows_fetched, 0);
        return Ok(());
    }
    let got = lines(program, &session);
    let expected: Vec<_> = expected.iter().map(|row| line(program, row)).collect();
    prop_assert_eq!(got.len(), limit);
    if let By::Any = program.by {
        let surrogates: BTreeSet<_> = got.iter().map(|line| format!("{:?}", line[0])).collect();
        prop_assert_eq!(surrogates.len(), got.len(), "a row came twice");
        for line in &got {
            prop_assert!(expected.contains(line), "{:?} is not wanted", line);
        }
        prop_assert_eq!(report.rows_fetched, limit as u64);
    } else {
        prop_assert_eq!(&got[..], &expected[..limit]);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn answers_equal_brute_force(program in program()) {
        check(&program)?;
    }

    /// A row among the ranker's best that changes before the ranker is done is scored as it was,
    /// and another takes the place that the ranker had given it for its new version.
    #[test]
    fn rankings_stand_while_their_rows_change(
        program in program(),
        past in writes(120),
        meanwhile in writes(150),
        limit in 1u64..6,
        by in by().prop_filter("only rankings", By::is_ranking),
    ) {
        check(&Program {
            past,
            meanwhile,
            set: SetExpr::All,
            by,
            limit: Some(limit),
            count: false,
            units: 5,
            ..program
        })?;
    }

    /// A walk along an index gives each row once and in the place of its visible version, though
    /// rows move in the index, leave it and come back.
    #[test]
    fn walks_stand_while_their_rows_move(
        program in program(),
        past in writes(120),
        recent in writes(10),
        meanwhile in writes(150),
        limit in 1u64..4,
        by in by(),
    ) {
        check(&Program {
            past,
            recent,
            meanwhile,
            set: SetExpr::Or(vec![SetExpr::Source(0), SetExpr::Not(Box::new(SetExpr::Source(0)))]),
            by,
            limit: Some(limit),
            count: false,
            units: 5,
            ..program
        })?;
    }

    /// A row is asked by an expression only where the terms before it hold for the version that
    /// the statement sees, whatever is committed meanwhile.
    #[test]
    fn expressions_meet_no_row_that_an_index_refuses(
        past in writes(80),
        recent in writes(20),
        meanwhile in writes(40),
        units in 1u32..200,
    ) {
        let shards = [Shard::new(0)];
        let mut writer = Writer { shards: shards.to_vec(), clock: 0, given: 0 };
        past.iter().for_each(|write| writer.apply(write));
        let session = Session::new(CommitTs(writer.clock), 1 << 20);
        recent.iter().for_each(|write| writer.apply(write));
        let positive = ordered::Op::Range {
            low: Bound::Excluded(Value::Int4(0)),
            high: Bound::Unbounded,
        };
        let sources = vec![
            Source::Expression(Arc::new(Divisible { divisor: 2, least: 1 })),
            Predicate::N(positive).source(),
        ];
        let both = SetExpr::And(vec![SetExpr::Source(0), SetExpr::Source(1)]);
        let asked = query(sources, both, Order::Any, Output::Count);
        let mut meanwhile = meanwhile.iter();
        let answer = session.run(&asked, &shards, units, || {
            if let Some(write) = meanwhile.next() {
                writer.apply(write);
            }
        });
        prop_assert!(answer.is_ok(), "{:?}", answer);
    }
}
