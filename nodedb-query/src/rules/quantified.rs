//! `IN`, `ANY` and `ALL` over a query, with SQL's three truth values.
//!
//! A semi join cannot tell false from unknown, so only an `IN` that is a condition of its own stays
//! one, where unknown counts as false. `NOT IN` as a condition of its own becomes an anti join and a
//! question to the whole query: is it empty, does it hold a NULL? Anywhere else (under OR, NOT or
//! CASE, in a select list) the comparison becomes a value computed from aggregates of the query:
//! how many of its rows there are, how many of them NULL, how many equal the operand, and for `<`
//! and its like the least and the greatest, which decide for all others.

use std::convert::Infallible;

use nodedb_types::{DataType, Value};

use crate::expr::{CompareOp, Expr};
use crate::rel::{AggregateCall, AggregateKind, ColumnId, JoinKind, Rel, Subquery, SubqueryKind};

/// Ids given here lie above those of [`super::scalar`] and below those of the lowering.
const FIRST_ID: u32 = u32::MAX / 3;

/// The query has no rows; else it has a NULL among them; else it has none.
const EMPTY: i32 = 0;
const WITH_NULL: i32 = 1;

/// Rewrites every quantified comparison of a query.
pub(crate) fn rewrite_quantified(rel: &mut Rel) {
    Rewriter { next: FIRST_ID }.rel(rel);
}

struct Rewriter {
    next: u32,
}

fn int(n: i32) -> Expr {
    Expr::Constant(Value::Int4(n), DataType::Int4)
}

fn null() -> Expr {
    Expr::Constant(Value::Null, DataType::Bool)
}

fn compare(op: CompareOp, l: Expr, r: Expr) -> Expr {
    Expr::Compare(op, Box::new(l), Box::new(r))
}

fn call(kind: AggregateKind, arguments: Vec<Expr>, returns: DataType) -> AggregateCall {
    AggregateCall {
        kind,
        arguments,
        distinct: false,
        filter: None,
        order: Vec::new(),
        returns,
    }
}

fn scalar(rel: Rel, id: ColumnId, data_type: DataType) -> Expr {
    Expr::Subquery(Box::new(Subquery {
        kind: SubqueryKind::Scalar,
        rel,
        columns: vec![(id, data_type)],
        operand: None,
    }))
}

/// The operand as a query inside the one that it belongs to sees it.
fn seen_from_inside(e: &Expr) -> Expr {
    e.clone().replace(&|part| match part {
        Expr::Column { id, data_type, .. } => Some(Expr::Column {
            id: *id,
            data_type: *data_type,
            outer: true,
        }),
        _ => None,
    })
}

fn opposite(op: CompareOp) -> CompareOp {
    match op {
        CompareOp::Eq => CompareOp::NotEq,
        CompareOp::NotEq => CompareOp::Eq,
        CompareOp::Lt => CompareOp::GtEq,
        CompareOp::LtEq => CompareOp::Gt,
        CompareOp::Gt => CompareOp::LtEq,
        CompareOp::GtEq => CompareOp::Lt,
    }
}

fn has_extremes(data_type: DataType) -> bool {
    matches!(
        data_type,
        DataType::Int2
            | DataType::Int4
            | DataType::Int8
            | DataType::Float4
            | DataType::Float8
            | DataType::Numeric(_)
            | DataType::Text(_)
            | DataType::Date
            | DataType::Timestamp
            | DataType::TimestampTz
    )
}

/// A term that as a condition of its own is never true: it may be left out of an OR there.
fn is_never_true(e: &Expr) -> bool {
    match e {
        Expr::Constant(Value::Null | Value::Bool(false), _) => true,
        Expr::And(terms) => terms.iter().any(is_never_true),
        _ => false,
    }
}

impl Rewriter {
    fn fresh(&mut self) -> ColumnId {
        self.next += 1;
        ColumnId(self.next)
    }

    fn rel(&mut self, rel: &mut Rel) {
        for input in rel.inputs_mut() {
            self.rel(input);
        }
        hoist_from_join(rel);
        if let Rel::Filter { predicate, .. } = rel {
            if predicate.has_subquery() {
                let taken = std::mem::replace(predicate, Expr::bool(true));
                let terms = taken
                    .conjuncts()
                    .into_iter()
                    .map(|term| self.condition(term))
                    .collect();
                *predicate = Expr::all(terms);
            }
            return;
        }
        for slot in rel.expressions_mut() {
            if slot.has_subquery() {
                let taken = std::mem::replace(slot, Expr::bool(true));
                *slot = self.values(taken, false);
            }
        }
    }

    /// A condition of its own, where unknown is as good as false.
    fn condition(&mut self, e: Expr) -> Expr {
        match e {
            Expr::Subquery(mut subquery) => match subquery.kind {
                SubqueryKind::Any(_) | SubqueryKind::All(_) => {
                    self.values(Expr::Subquery(subquery), true)
                }
                SubqueryKind::In | SubqueryKind::Exists | SubqueryKind::Scalar => {
                    self.rel(&mut subquery.rel);
                    subquery.operand = subquery.operand.map(|e| self.values(e, true));
                    Expr::Subquery(subquery)
                }
            },
            Expr::Not(inner) => match *inner {
                Expr::Subquery(mut subquery) if subquery.kind == SubqueryKind::In => {
                    self.rel(&mut subquery.rel);
                    self.not_in(*subquery)
                }
                other => self.values(other, true).negate(),
            },
            Expr::Or(terms) => {
                let mut terms: Vec<Expr> =
                    terms.into_iter().filter(|t| !is_never_true(t)).collect();
                match terms.len() {
                    0 => Expr::bool(false),
                    1 => self.condition(terms.remove(0)),
                    _ => self.values(Expr::Or(terms), true),
                }
            }
            other => self.values(other, true),
        }
    }

    /// `x NOT IN (query)` as a condition: nothing equals `x`, and nothing might.
    fn not_in(&mut self, subquery: Subquery) -> Expr {
        let Some(operand) = subquery.operand.clone() else {
            return Expr::Subquery(Box::new(subquery)).negate();
        };
        let operand = self.values(operand, true);
        let found = Expr::Subquery(Box::new(Subquery {
            kind: SubqueryKind::Exists,
            rel: equal_rows(&subquery, &operand),
            columns: subquery.columns.clone(),
            operand: None,
        }));
        let state = self.state(&subquery);
        // One CASE, so that the state is asked for once.
        let certain = Expr::Case {
            branches: vec![
                (
                    compare(CompareOp::Eq, state.clone(), int(EMPTY)),
                    Expr::bool(true),
                ),
                (Expr::IsNull(Box::new(operand)), Expr::bool(false)),
            ],
            otherwise: Box::new(compare(CompareOp::NotEq, state, int(WITH_NULL))),
            data_type: DataType::Bool,
        };
        Expr::And(vec![found.negate(), certain])
    }

    /// Every quantified comparison inside an expression as a value. In a filter the executor knows
    /// EXISTS as one.
    fn values(&mut self, e: Expr, in_filter: bool) -> Expr {
        let done = e.transform::<Infallible>(&mut |e| {
            Ok(match e {
                Expr::Subquery(mut subquery) => {
                    self.rel(&mut subquery.rel);
                    match subquery.kind {
                        SubqueryKind::Exists if !in_filter => self.some_rows(subquery.rel),
                        _ => self.value(*subquery),
                    }
                }
                other => other,
            })
        });
        let Ok(done) = done;
        done
    }

    fn value(&mut self, subquery: Subquery) -> Expr {
        let (op, negated) = match subquery.kind {
            SubqueryKind::Scalar | SubqueryKind::Exists => {
                return Expr::Subquery(Box::new(subquery));
            }
            SubqueryKind::In => (CompareOp::Eq, false),
            SubqueryKind::Any(op) => (op, false),
            SubqueryKind::All(op) => (opposite(op), true),
        };
        let (column, data_type) = subquery.columns[0];
        let Some(operand) = subquery.operand.clone() else {
            return Expr::Subquery(Box::new(subquery));
        };
        if op != CompareOp::Eq && !has_extremes(data_type) {
            return Expr::Subquery(Box::new(subquery));
        }
        let mut extreme = |kind| {
            let id = self.fresh();
            let least = call(kind, vec![Expr::column(column, data_type)], data_type);
            let value = Expr::column(id, data_type);
            let (rel, result) = self.aggregated(subquery.rel.clone(), vec![(id, least)], value);
            scalar(rel, result, data_type)
        };
        let found = match op {
            CompareOp::Eq => self.equals(&subquery, &operand),
            CompareOp::Lt | CompareOp::LtEq => {
                compare(op, operand.clone(), extreme(AggregateKind::Max))
            }
            CompareOp::Gt | CompareOp::GtEq => {
                compare(op, operand.clone(), extreme(AggregateKind::Min))
            }
            CompareOp::NotEq => Expr::Or(vec![
                compare(op, operand.clone(), extreme(AggregateKind::Min)),
                compare(op, operand.clone(), extreme(AggregateKind::Max)),
            ]),
        };
        let state = self.state(&subquery);
        let any = Expr::Case {
            branches: vec![
                (
                    compare(CompareOp::Eq, state.clone(), int(EMPTY)),
                    Expr::bool(false),
                ),
                (Expr::IsNull(Box::new(operand)), null()),
                (found, Expr::bool(true)),
                (compare(CompareOp::Eq, state, int(WITH_NULL)), null()),
            ],
            otherwise: Box::new(Expr::bool(false)),
            data_type: DataType::Bool,
        };
        if negated { any.negate() } else { any }
    }

    /// Whether a row of the query equals the operand, never unknown.
    fn equals(&mut self, subquery: &Subquery, operand: &Expr) -> Expr {
        self.some_rows(equal_rows(subquery, operand))
    }

    /// Whether there are rows.
    fn some_rows(&mut self, rows: Rel) -> Expr {
        let id = self.fresh();
        let count = call(AggregateKind::CountStar, Vec::new(), DataType::Int8);
        let value = Expr::column(id, DataType::Int8);
        let (rel, result) = self.aggregated(rows, vec![(id, count)], value);
        let zero = Expr::Constant(Value::Int8(0), DataType::Int8);
        let count = Expr::Coalesce(
            vec![scalar(rel, result, DataType::Int8), zero.clone()],
            DataType::Int8,
        );
        compare(CompareOp::Gt, count, zero)
    }

    /// [`EMPTY`], [`WITH_NULL`] or another number.
    fn state(&mut self, subquery: &Subquery) -> Expr {
        let (column, data_type) = subquery.columns[0];
        let (all, known) = (self.fresh(), self.fresh());
        let int8 = DataType::Int8;
        let calls = vec![
            (all, call(AggregateKind::CountStar, Vec::new(), int8)),
            (
                known,
                call(
                    AggregateKind::Count,
                    vec![Expr::column(column, data_type)],
                    int8,
                ),
            ),
        ];
        let state = Expr::Case {
            branches: vec![
                (
                    compare(
                        CompareOp::Eq,
                        Expr::column(all, int8),
                        Expr::Constant(Value::Int8(0), int8),
                    ),
                    int(EMPTY),
                ),
                (
                    compare(
                        CompareOp::Lt,
                        Expr::column(known, int8),
                        Expr::column(all, int8),
                    ),
                    int(WITH_NULL),
                ),
            ],
            otherwise: Box::new(int(2)),
            data_type: DataType::Int4,
        };
        let (rel, result) = self.aggregated(subquery.rel.clone(), calls, state);
        // An aggregate joined to no rows may come as NULL.
        Expr::Coalesce(
            vec![scalar(rel, result, DataType::Int4), int(EMPTY)],
            DataType::Int4,
        )
    }

    /// One row: an expression over aggregates of all rows.
    fn aggregated(
        &mut self,
        input: Rel,
        aggregates: Vec<(ColumnId, AggregateCall)>,
        result: Expr,
    ) -> (Rel, ColumnId) {
        let id = self.fresh();
        let expressions = vec![(id, result)];
        let rel = Rel::Project {
            input: Box::new(Rel::Aggregate {
                input: Box::new(input),
                keys: Vec::new(),
                sets: None,
                aggregates,
            }),
            expressions,
        };
        (rel, id)
    }
}

/// Rows of the query that equal the operand.
fn equal_rows(subquery: &Subquery, operand: &Expr) -> Rel {
    let (column, data_type) = subquery.columns[0];
    Rel::Filter {
        input: Box::new(subquery.rel.clone()),
        predicate: compare(
            CompareOp::Eq,
            Expr::column(column, data_type),
            seen_from_inside(operand),
        ),
    }
}

/// A query in the condition of an inner join is one in a filter above it.
fn hoist_from_join(rel: &mut Rel) {
    let Rel::Join {
        kind: JoinKind::Inner,
        on,
        ..
    } = rel
    else {
        return;
    };
    if !on.has_subquery() {
        return;
    }
    let taken = std::mem::replace(on, Expr::bool(true));
    let (above, within): (Vec<Expr>, Vec<Expr>) =
        taken.conjuncts().into_iter().partition(Expr::has_subquery);
    *on = Expr::all(within);
    let join = std::mem::replace(
        rel,
        Rel::Values {
            columns: Vec::new(),
            rows: Vec::new(),
        },
    );
    *rel = Rel::Filter {
        input: Box::new(join),
        predicate: Expr::all(above),
    };
}
