//! Scalar subqueries that are no aggregates.
//!
//! SQL wants an error when one gives several rows, and lets it refer to the row around it in any
//! way. One that refers to nothing outside is wrapped in an aggregate that takes a single value. One
//! that does becomes a left join on its conditions, grouped back to the rows it was asked for.

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
    value: Expr,
}

fn parts_of(rel: &Rel) -> Option<Parts> {
    let (value, mut below) = match rel {
        Rel::Project { input, expressions } => match &expressions[..] {
            [(_, value)] => (value.clone(), &**input),
            _ => return None,
        },
        _ => return None,
    };
    let mut conditions = Vec::new();
    loop {
        match below {
            Rel::Filter { input, predicate } => {
                conditions.extend(predicate.clone().conjuncts());
                below = input;
            }
            Rel::Sort { input, .. } => below = input,
            _ => break,
        }
    }
    let local = |e: &Expr| !e.any(|e| matches!(e, Expr::Column { outer: true, .. }));
    let plain = conditions.iter().all(|e| !e.has_subquery()) && !value.has_subquery();
    (plain && local(&value) && below.outer_columns().is_empty()).then(|| Parts {
        body: below.clone(),
        conditions,
        value,
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
        if subquery.kind != SubqueryKind::Scalar || is_single_row(&subquery.rel) {
            return Expr::Subquery(Box::new(subquery));
        }
        let (id, data_type) = subquery.columns[0];
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
            Some(parts) if may_join => {
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
            current = self.grouped(current, parts, result, &needed);
            let data_type = match &current {
                Rel::Aggregate { aggregates, .. } => aggregates[0].1.returns,
                _ => DataType::Text(None),
            };
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
        let value = self.fresh();
        let data_type = parts.value.data_type();
        let mut expressions: Vec<(ColumnId, Expr)> = parts
            .body
            .columns()
            .into_iter()
            .map(|(id, t)| (id, Expr::column(id, t)))
            .collect();
        expressions.push((value, parts.value));
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
        Rel::Aggregate {
            input: Box::new(Rel::Join {
                kind: JoinKind::Left,
                left: Box::new(left),
                right: Box::new(Rel::Project {
                    input: Box::new(parts.body),
                    expressions,
                }),
                on: Expr::all(on),
            }),
            keys: needed
                .iter()
                .map(|(id, t)| (*id, Expr::column(*id, *t)))
                .collect(),
            sets: None,
            aggregates: vec![(result, single(Expr::column(value, data_type)))],
        }
    }
}
