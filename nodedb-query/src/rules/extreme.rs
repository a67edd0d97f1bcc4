//! `max(c)` and `min(c)` over one collection: the aggregate of the first row of an order that the
//! cores know, the key's or an ordered index's, instead of all rows.
//!
//! The aggregate stays, so of no rows the answer is NULL as ever. NULLs sort as the largest value:
//! they come last for `min`, and are left out for `max`, where they would come first.
//!
//! Several such in one query (`min(id), max(id), count(*)`) are one row each, put side by side, where
//! no condition can make each of the walks long.

use std::convert::Infallible;

use nodedb_types::{DataType, Value};

use super::{Chain, bare_column, chain_of};
use crate::expr::{CompareOp, Expr};
use crate::rel::{AggregateCall, AggregateKind, ColumnId, JoinKind, Rel, SortKey};

/// Rewrites every such aggregate of a query, those of its subqueries included.
pub(crate) fn rewrite_extremes(rel: &mut Rel) {
    for input in rel.inputs_mut() {
        rewrite_extremes(input);
    }
    for slot in rel.expressions_mut() {
        if slot.has_subquery() {
            let taken = std::mem::replace(slot, Expr::bool(true));
            let Ok(done) = taken.transform::<Infallible>(&mut |e| {
                Ok(match e {
                    Expr::Subquery(mut subquery) => {
                        rewrite_extremes(&mut subquery.rel);
                        Expr::Subquery(subquery)
                    }
                    other => other,
                })
            });
            *slot = done;
        }
    }
    if let Rel::Aggregate {
        input,
        keys,
        sets: None,
        aggregates,
    } = rel
        && keys.is_empty()
        && let Some(answered) = answered(input, aggregates)
    {
        *rel = answered;
    }
}

type Calls = Vec<(ColumnId, AggregateCall)>;

/// The calls over all rows of `input`, each by the first row of an order or by a count.
fn answered(input: &Rel, calls: &Calls) -> Option<Rel> {
    let mut groups: Vec<Calls> = Vec::new();
    for call in calls {
        let alike = |group: &&mut Calls| is_alike(&group[0].1, &call.1);
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(call.clone()),
            None => groups.push(vec![call.clone()]),
        }
    }
    let several = groups.len() > 1;
    if several && !is_short(&chain_of(input)?, calls) {
        return None;
    }
    let one = |group| one_of(input, group, several);
    let mut answers = groups.into_iter().map(one).collect::<Option<Vec<_>>>()?;
    let mut beside = answers.pop()?;
    while let Some(left) = answers.pop() {
        beside = Rel::Join {
            kind: JoinKind::Inner,
            left: Box::new(left),
            right: Box::new(beside),
            on: Expr::bool(true),
        };
    }
    Some(beside)
}

/// Calls of one kind, of one column: all of them by one row.
fn one_of(input: &Rel, calls: Calls, several: bool) -> Option<Rel> {
    let over = |input: Rel| Rel::Aggregate {
        input: Box::new(input),
        keys: Vec::new(),
        sets: None,
        aggregates: calls.clone(),
    };
    match extreme_of(&calls) {
        Some((of, descending)) => {
            let order = order_by(input, &of)?;
            Some(over(first_of(input.clone(), of, descending, order)))
        }
        None if several => {
            let counted = over(input.clone());
            chain_of(&counted)?.count.is_some().then_some(counted)
        }
        None => None,
    }
}

fn is_alike(a: &AggregateCall, b: &AggregateCall) -> bool {
    let same = |(a, b): (&Expr, &Expr)| a.is_alike(b);
    a.kind == b.kind
        && a.arguments.len() == b.arguments.len()
        && a.arguments.iter().zip(&b.arguments).all(same)
}

/// Whether walks along several orders are short: every condition is a range of the one column that
/// all the extremes are of, so that each walk begins where a row meets it. Any other condition may be
/// met by few rows or none, and each of the walks would look for them in vain.
fn is_short(chain: &Chain, calls: &Calls) -> bool {
    let of = |(_, call): &(ColumnId, AggregateCall)| match (call.kind, &call.arguments[..]) {
        (AggregateKind::Min | AggregateKind::Max, [Expr::Column { id, data_type, .. }]) => {
            bare_column(&chain.column(*id, *data_type))
        }
        _ => None,
    };
    let extremes: Vec<ColumnId> = calls.iter().filter_map(of).collect();
    let is_range = |e: &Expr| extremes.iter().all(|of| is_range_of(e, *of));
    chain.conjuncts.iter().all(is_range)
}

/// Whether a condition compares the column with something fixed, and so holds for a range of it.
fn is_range_of(e: &Expr, of: ColumnId) -> bool {
    let is_column = |e: &Expr| matches!(e, Expr::Column { id, .. } if *id == of);
    let is_fixed = |e: &Expr| matches!(e, Expr::Constant(..) | Expr::Parameter(..));
    match e {
        Expr::Compare(op, a, b) if *op != CompareOp::NotEq => {
            (is_column(a) && is_fixed(b)) || (is_fixed(a) && is_column(b))
        }
        _ => false,
    }
}

/// What all of the calls are the greatest or the least value of, and which.
fn extreme_of(calls: &[(ColumnId, AggregateCall)]) -> Option<(Expr, bool)> {
    let (_, first) = calls.first()?;
    let [of @ Expr::Column { outer: false, .. }] = &first.arguments[..] else {
        return None;
    };
    let alike = |call: &AggregateCall| {
        let same = matches!(&call.arguments[..], [other] if other.is_alike(of));
        call.kind == first.kind && same && call.filter.is_none()
    };
    let descending = match first.kind {
        AggregateKind::Max => true,
        AggregateKind::Min => false,
        _ => return None,
    };
    calls
        .iter()
        .all(|(_, call)| alike(call))
        .then(|| (of.clone(), descending))
}

/// By what the cores know an order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Never NULL.
    Key,
    Index,
}

/// The order that the cores know by the column, so that its first row is found without the rest.
fn order_by(input: &Rel, of: &Expr) -> Option<Known> {
    let chain = chain_of(input)?;
    if chain.count.is_some() || chain.limit.is_some() || chain.offset > 0 {
        return None;
    }
    let scan = &chain.scan;
    let Expr::Column { id, data_type, .. } = of else {
        return None;
    };
    let meant = chain.column(*id, *data_type);
    let position = bare_column(&meant).and_then(|id| scan.position(id))?;
    let mut indexes = scan.indexes.iter();
    if scan.collection.key == Some(position) {
        return Some(Known::Key);
    }
    indexes
        .any(|i| i.method == "btree" && i.columns == [position])
        .then_some(Known::Index)
}

/// The first row of `all` in the order of a column, the column alone.
fn first_of(all: Rel, of: Expr, descending: bool, order: Known) -> Rel {
    let all = match (descending, order) {
        (true, Known::Index) => Rel::Filter {
            input: Box::new(all),
            predicate: Expr::IsNull(Box::new(of.clone())).negate(),
        },
        _ => all,
    };
    let shown = match &of {
        Expr::Column { id, .. } => vec![(*id, of.clone())],
        _ => Vec::new(),
    };
    Rel::Limit {
        input: Box::new(Rel::Sort {
            input: Box::new(Rel::Project {
                input: Box::new(all),
                expressions: shown,
            }),
            keys: vec![SortKey {
                expr: of,
                descending,
                nulls_first: descending,
            }],
        }),
        limit: Some(Expr::Constant(Value::Int8(1), DataType::Int8)),
        offset: None,
    }
}
