//! Scalar subqueries, where the executor's own rules do not reach.
//!
//! SQL wants an error when one gives several rows, and lets it refer to the row around it in any
//! way. One that refers to nothing outside is wrapped in an aggregate that takes a single value. One
//! that does becomes a left join on its conditions, grouped back to the rows it was asked for; so
//! does an aggregate whose conditions on the row around it are not all equalities, which are all
//! that the executor takes apart itself.

use nodedb_types::DataType;

use crate::expr::Expr;
use crate::rel::{
    AggregateCall, AggregateKind, ColumnId, JoinKind, Rel, Subquery, SubqueryKind, WindowCall,
    WindowKind,
};

/// Ids given here lie above those of the binder and below those of the lowering.
const FIRST_ID: u32 = u32::MAX / 4;

/// Rewrites every scalar subquery of a query.
pub(crate) fn rewrite_scalars(rel: &mut Rel) {
    Rewriter { next: FIRST_ID }.rel(rel);
}

struct Rewriter {
    next: u32,
}

fn single(argument: Expr) -> AggregateCall {
    AggregateCall {
        kind: AggregateKind::SingleValue,
        returns: argument.data_type(),
        arguments: vec![argument],
        distinct: false,
        filter: None,
        order: Vec::new(),
    }
}

/// One row by its making.
fn is_single_row(rel: &Rel) -> bool {
    match rel {
        Rel::Aggregate { keys, sets, .. } => keys.is_empty() && sets.is_none(),
        Rel::Project { input, .. } | Rel::Sort { input, .. } => is_single_row(input),
        Rel::Values { rows, .. } => rows.len() == 1,
        _ => false,
    }
}

fn placeholder() -> Rel {
    Rel::Values {
        columns: Vec::new(),
        rows: Vec::new(),
    }
}

/// What a subquery is made of, when it is conditions over a relation that refers to nothing outside.
struct Parts {
    body: Rel,
    conditions: Vec<Expr>,
    /// Over the body, or over the aggregates.
    value: Expr,
    /// Of all rows that meet the conditions; none when the value is that of the only such row.
    aggregates: Vec<(ColumnId, AggregateCall)>,
}

/// Whether the executor can take the condition apart: nothing of the row around, or one thing of
/// it equal to one inside.
fn is_equality(e: &Expr) -> bool {
    let is_outer = |e: &Expr| matches!(e, Expr::Column { outer: true, .. });
    let of_around = |e: &Expr| e.any(is_outer);
    match e {
        Expr::Compare(crate::expr::CompareOp::Eq, l, r) => {
            (is_outer(l) && !of_around(r)) || (is_outer(r) && !of_around(l)) || !of_around(e)
        }
        other => !of_around(other),
    }
}

fn parts_of(rel: &Rel) -> Option<Parts> {
    let (value, mut below) = match rel {
        Rel::Project { input, expressions } => match &expressions[..] {
            [(_, value)] => (value.clone(), &**input),
            _ => return None,
        },
        _ => return None,
    };
    let mut aggregates = Vec::new();
    if let Rel::Aggregate {
        input,
        keys,
        sets: None,
        aggregates: calls,
    } = below
        && keys.is_empty()
    {
        aggregates.clone_from(calls);
        below = input;
    }
    let mut conditions = Vec::new();
    loop {
        match below {
            Rel::Filter { input, predicate } => {
                conditions.extend(predicate.clone().conjuncts());
                below = input;
            }
            Rel::Sort { input, .. } => below = input,
            // What an aggregate is of may be named by a projection.
            Rel::Project { input, expressions } if !aggregates.is_empty() => {
                let meant = |part: &Expr| match part {
                    Expr::Column {
                        id, outer: false, ..
                    } => {
                        let found = expressions.iter().find(|(known, _)| known == id);
                        found.map(|(_, e)| e.clone())
                    }
                    _ => None,
                };
                for condition in &mut conditions {
                    *condition = condition.clone().replace(&meant);
                }
                for (_, call) in &mut aggregates {
                    let order = call.order.iter_mut().map(|k| &mut k.expr);
                    for e in call
                        .arguments
                        .iter_mut()
                        .chain(&mut call.filter)
                        .chain(order)
                    {
                        *e = e.clone().replace(&meant);
                    }
                }
                below = input;
            }
            _ => break,
        }
    }
    let local = |e: &Expr| !e.any(|e| matches!(e, Expr::Column { outer: true, .. }));
    let plain = |e: &Expr| !e.has_subquery();
    let calls_local = aggregates.iter().all(|(_, call)| {
        let order = call.order.iter().map(|k| &k.expr);
        let mut parts = call.arguments.iter().chain(&call.filter).chain(order);
        parts.all(|e| local(e) && plain(e))
    });
    let all_local = local(&value) && calls_local && below.outer_columns().is_empty();
    let all_plain = conditions.iter().all(plain) && plain(&value);
    (all_local && all_plain).then(|| Parts {
        body: below.clone(),
        conditions,
        value,
        aggregates,
    })
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
        let mut joined: Vec<(Parts, ColumnId)> = Vec::new();
        let may_join = matches!(rel, Rel::Project { .. } | Rel::Filter { .. });
        for slot in rel.expressions_mut() {
            if !slot.has_subquery() {
                continue;
            }
            let taken = std::mem::replace(slot, Expr::bool(true));
            let done = taken.transform::<std::convert::Infallible>(&mut |e| {
                Ok(match e {
                    Expr::Subquery(subquery) => self.subquery(*subquery, may_join, &mut joined),
                    other => other,
                })
            });
            let Ok(done) = done;
            *slot = done;
        }
        if !joined.is_empty() {
            self.join(rel, joined);
        }
    }

    fn subquery(
        &mut self,
        mut subquery: Subquery,
        may_join: bool,
        joined: &mut Vec<(Parts, ColumnId)>,
    ) -> Expr {
        self.rel(&mut subquery.rel);
        if subquery.kind != SubqueryKind::Scalar {
            return Expr::Subquery(Box::new(subquery));
        }
        let (id, data_type) = subquery.columns[0];
        if is_single_row(&subquery.rel) {
            if may_join
                && let Some(parts) = parts_of(&subquery.rel)
                && !parts.aggregates.is_empty()
                && !parts.conditions.iter().all(is_equality)
            {
                let result = self.fresh();
                joined.push((parts, result));
                return Expr::column(result, data_type);
            }
            return Expr::Subquery(Box::new(subquery));
        }
        if subquery.rel.outer_columns().is_empty() {
            let single_id = self.fresh();
            subquery.rel = Rel::Aggregate {
                input: Box::new(subquery.rel),
                keys: Vec::new(),
                sets: None,
                aggregates: vec![(single_id, single(Expr::column(id, data_type)))],
            };
            subquery.columns = vec![(single_id, data_type)];
            return Expr::Subquery(Box::new(subquery));
        }
        match parts_of(&subquery.rel) {
            Some(parts) if may_join && parts.aggregates.is_empty() => {
                let result = self.fresh();
                joined.push((parts, result));
                Expr::column(result, data_type)
            }
            _ => Expr::Subquery(Box::new(subquery)),
        }
    }

    /// Puts the joins between a Project or Filter and its input.
    fn join(&mut self, rel: &mut Rel, joined: Vec<(Parts, ColumnId)>) {
        let results: Vec<ColumnId> = joined.iter().map(|(_, id)| *id).collect();
        let mut needed: Vec<(ColumnId, DataType)> = Vec::new();
        for e in rel.expressions_mut() {
            e.visit(&mut |part| match part {
                Expr::Column {
                    id,
                    data_type,
                    outer: false,
                } => needed.push((*id, *data_type)),
                Expr::Subquery(s) => needed.extend(s.rel.outer_columns()),
                _ => {}
            });
        }
        let above_filter = matches!(rel, Rel::Filter { .. });
        let (Rel::Project { input, .. } | Rel::Filter { input, .. }) = rel else {
            return;
        };
        if above_filter {
            needed.extend(input.columns());
        }
        for (parts, _) in &joined {
            for e in &parts.conditions {
                e.visit(&mut |part| {
                    if let Expr::Column {
                        id,
                        data_type,
                        outer: true,
                    } = part
                    {
                        needed.push((*id, *data_type));
                    }
                });
            }
        }
        needed.sort_by_key(|(id, _)| *id);
        needed.dedup_by_key(|(id, _)| *id);
        needed.retain(|(id, _)| !results.contains(id));
        let number = self.fresh();
        needed.push((number, DataType::Int8));
        let numbered = WindowCall {
            kind: WindowKind::RowNumber,
            arguments: Vec::new(),
            filter: None,
            partition: Vec::new(),
            order: Vec::new(),
            frame: None,
            returns: DataType::Int8,
        };
        let below = std::mem::replace(&mut **input, placeholder());
        let mut current = Rel::Window {
            input: Box::new(below),
            calls: vec![(number, numbered)],
        };
        for (parts, result) in joined {
            let data_type = parts.value.data_type();
            current = self.grouped(current, parts, result, &needed);
            needed.push((result, data_type));
        }
        **input = current;
    }

    fn grouped(
        &mut self,
        left: Rel,
        parts: Parts,
        result: ColumnId,
        needed: &[(ColumnId, DataType)],
    ) -> Rel {
        let mut expressions: Vec<(ColumnId, Expr)> = parts
            .body
            .columns()
            .into_iter()
            .map(|(id, t)| (id, Expr::column(id, t)))
            .collect();
        let data_type = parts.value.data_type();
        let is_aggregate = !parts.aggregates.is_empty();
        let extra = self.fresh();
        let (aggregates, over_aggregates) = if is_aggregate {
            // A row that met nothing comes with a NULL mark, and must not be counted.
            expressions.push((extra, Expr::bool(true)));
            let mark = Expr::column(extra, DataType::Bool);
            let met = Expr::IsNull(Box::new(mark)).negate();
            let mut calls = parts.aggregates;
            for (_, call) in &mut calls {
                call.filter = Some(match call.filter.take() {
                    Some(filter) => Expr::And(vec![met.clone(), filter]),
                    None => met.clone(),
                });
            }
            (calls, Some(parts.value))
        } else {
            expressions.push((extra, parts.value));
            let call = single(Expr::column(extra, data_type));
            (vec![(result, call)], None)
        };
        let on = parts
            .conditions
            .into_iter()
            .map(|e| {
                e.replace(&|part| match part {
                    Expr::Column {
                        id,
                        data_type,
                        outer: true,
                    } if needed.iter().any(|(n, _)| n == id) => Some(Expr::column(*id, *data_type)),
                    _ => None,
                })
            })
            .collect();
        let key = |(id, t): &(ColumnId, DataType)| (*id, Expr::column(*id, *t));
        let grouped = Rel::Aggregate {
            input: Box::new(Rel::Join {
                kind: JoinKind::Left,
                left: Box::new(left),
                right: Box::new(Rel::Project {
                    input: Box::new(parts.body),
                    expressions,
                }),
                on: Expr::all(on),
            }),
            keys: needed.iter().map(key).collect(),
            sets: None,
            aggregates,
        };
        match over_aggregates {
            None => grouped,
            Some(value) => {
                let mut expressions: Vec<(ColumnId, Expr)> = needed.iter().map(key).collect();
                expressions.push((result, value));
                Rel::Project {
                    input: Box::new(grouped),
                    expressions,
                }
            }
        }
    }
}
