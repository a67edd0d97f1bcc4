//! Dependent joins: LATERAL, and subqueries that refer to the rows around them in ways that the
//! executor does not take apart itself.
//!
//! A part that is asked for every row of a relation is instead computed for every distinct
//! combination of the values it refers to, and then joined to the relation on these. The
//! combinations (the *domain*) go down through the part's operators until nothing below refers to
//! them: a filter or projection uses their columns, a grouping or window keeps them as keys, a limit
//! becomes a row number per combination. (T. Neumann, A. Kemper: Unnesting Arbitrary Queries, 2015.)
//! The relation is read twice, for its rows and for the domain, so a relation that need not be the
//! same at the second reading is refused.

mod unnest;

use nodedb_types::{DataType, Failure, Result, Value};

use crate::expr::{CompareOp, Expr};
use crate::rel::{
    AggregateCall, AggregateKind, ColumnId, JoinKind, Rel, SetCall, SetCallKind, SetKind, SortKey,
    Subquery, SubqueryKind, WindowCall, WindowKind,
};

type Columns = Vec<(ColumnId, DataType)>;

/// Ids given here lie between those of [`super::quantified`] and those of the lowering.
const FIRST_ID_OF_JOINS: u32 = u32::MAX / 16 * 6;
const FIRST_ID_OF_SUBQUERIES: u32 = u32::MAX / 16 * 7;

/// Rewrites every join whose right side refers to its left.
pub(crate) fn rewrite_joins(rel: &mut Rel) -> Result<()> {
    let mut rewriter = Rewriter {
        next: FIRST_ID_OF_JOINS,
    };
    rewriter.joins(rel)
}

/// Rewrites every subquery that refers to the relation it stands over.
pub(crate) fn rewrite_subqueries(rel: &mut Rel) -> Result<()> {
    let mut rewriter = Rewriter {
        next: FIRST_ID_OF_SUBQUERIES,
    };
    rewriter.subqueries(rel)
}

/// Whether any subquery refers to something around it.
pub(crate) fn has_dependent(rel: &Rel) -> bool {
    let mut copy = rel.clone();
    let mut found = false;
    let Ok(()) = copy.map_expressions::<std::convert::Infallible>(&mut |e| {
        found |= matches!(e, Expr::Column { outer: true, .. });
        Ok(e)
    });
    found
}

/// The relation whose rows a part is asked for, and its columns that the part refers to.
struct Around<'r> {
    rel: &'r Rel,
    columns: Columns,
}

impl Around<'_> {
    fn is_met_in(&self, rel: &Rel) -> bool {
        let outer = rel.outer_columns();
        self.columns.iter().any(|c| outer.contains(c))
    }
}

struct Rewriter {
    next: u32,
}

fn placeholder() -> Rel {
    Rel::Values {
        columns: Vec::new(),
        rows: Vec::new(),
    }
}

fn take(rel: &mut Rel) -> Rel {
    std::mem::replace(rel, placeholder())
}

fn column((id, data_type): &(ColumnId, DataType)) -> Expr {
    Expr::column(*id, *data_type)
}

/// Columns of two lists are the same, NULL being like NULL.
fn same(left: &Columns, right: &Columns) -> Vec<Expr> {
    let pairs = left.iter().zip(right);
    pairs
        .map(|(l, r)| Expr::Same(Box::new(column(l)), Box::new(column(r))))
        .collect()
}

fn kept(columns: &Columns) -> Vec<(ColumnId, Expr)> {
    columns.iter().map(|c| (c.0, column(c))).collect()
}

fn ascending(columns: &Columns) -> impl Iterator<Item = SortKey> {
    columns.iter().map(|c| SortKey {
        expr: column(c),
        descending: false,
        nulls_first: false,
    })
}

fn join(kind: JoinKind, left: Rel, right: Rel, on: Vec<Expr>) -> Rel {
    Rel::Join {
        kind,
        left: Box::new(left),
        right: Box::new(right),
        on: Expr::all(on),
    }
}

fn aggregate_of(kind: AggregateKind, argument: Expr, returns: DataType) -> AggregateCall {
    AggregateCall {
        kind,
        arguments: vec![argument],
        distinct: false,
        filter: None,
        order: Vec::new(),
        returns,
    }
}

/// References to the columns around, in terms of the domain's. Inside a query within the
/// expression they stay references to what is around it.
fn bound(e: Expr, around: &Around<'_>, domain: &Columns) -> Expr {
    let new = |id: &ColumnId| {
        let at = around.columns.iter().position(|(known, _)| known == id)?;
        Some(domain[at].0)
    };
    let done = e.transform::<std::convert::Infallible>(&mut |part| {
        Ok(match part {
            Expr::Column {
                id,
                data_type,
                outer: true,
            } => match new(&id) {
                Some(id) => Expr::column(id, data_type),
                None => Expr::Column {
                    id,
                    data_type,
                    outer: true,
                },
            },
            Expr::Subquery(mut subquery) => {
                let Ok(()) = subquery
                    .rel
                    .map_expressions::<std::convert::Infallible>(&mut |e| {
                        Ok(match e {
                            Expr::Column {
                                id,
                                data_type,
                                outer: true,
                            } => Expr::Column {
                                id: new(&id).unwrap_or(id),
                                data_type,
                                outer: true,
                            },
                            other => other,
                        })
                    });
                Expr::Subquery(subquery)
            }
            other => other,
        })
    });
    let Ok(done) = done;
    done
}

/// Whether a second reading gives the same rows. (A limit in an order of its own does: over one
/// collection the key breaks ties, elsewhere rows come in one order.)
fn is_repeatable(rel: &Rel) -> bool {
    let mut copy = rel.clone();
    let mut volatile = false;
    let Ok(()) = copy.map_expressions::<std::convert::Infallible>(&mut |e| {
        volatile |= matches!(e, Expr::Volatile { .. });
        Ok(e)
    });
    fn limits(rel: &Rel) -> bool {
        let own = match rel {
            Rel::Limit { input, .. } => matches!(**input, Rel::Sort { .. }),
            _ => true,
        };
        own && rel.inputs().into_iter().all(limits)
    }
    !volatile && limits(rel)
}

impl Rewriter {
    fn fresh(&mut self) -> ColumnId {
        self.next += 1;
        ColumnId(self.next)
    }

    fn joins(&mut self, rel: &mut Rel) -> Result<()> {
        for input in rel.inputs_mut() {
            self.joins(input)?;
        }
        for slot in rel.expressions_mut() {
            if slot.has_subquery() {
                let taken = std::mem::replace(slot, Expr::bool(true));
                *slot = taken.transform(&mut |e| {
                    if let Expr::Subquery(mut subquery) = e {
                        self.joins(&mut subquery.rel)?;
                        return Ok(Expr::Subquery(subquery));
                    }
                    Ok::<Expr, Failure>(e)
                })?;
            }
        }
        let Rel::Join {
            kind,
            left,
            right,
            on,
        } = rel
        else {
            return Ok(());
        };
        let columns = met(right, left);
        if columns.is_empty() {
            return Ok(());
        }
        let around = around(left, columns)?;
        let (inner, domain) = self.unnest(take(right), &around)?;
        let mut terms = same(&around.columns, &domain);
        terms.extend(std::mem::replace(on, Expr::bool(true)).conjuncts());
        *rel = join(*kind, take(left), inner, terms);
        Ok(())
    }

    /// Subqueries of this operator's expressions first: what they become may hold further ones.
    fn subqueries(&mut self, rel: &mut Rel) -> Result<()> {
        if rel.inputs().len() == 1 {
            self.own_subqueries(rel)?;
        }
        for input in rel.inputs_mut() {
            self.subqueries(input)?;
        }
        // Those that refer to nothing here may hold some that do within.
        for slot in rel.expressions_mut() {
            if slot.has_subquery() {
                let taken = std::mem::replace(slot, Expr::bool(true));
                *slot = taken.transform(&mut |e| {
                    if let Expr::Subquery(mut subquery) = e {
                        self.subqueries(&mut subquery.rel)?;
                        return Ok(Expr::Subquery(subquery));
                    }
                    Ok::<Expr, Failure>(e)
                })?;
            }
        }
        Ok(())
    }

    fn own_subqueries(&mut self, rel: &mut Rel) -> Result<()> {
        let mut copy = rel.clone();
        let Some(input) = copy.inputs_mut().into_iter().next().map(take) else {
            return Ok(());
        };
        let mut input = Some(input);
        let mut changed = false;
        for slot in copy.expressions_mut() {
            if !slot.has_subquery() {
                continue;
            }
            let taken = std::mem::replace(slot, Expr::bool(true));
            *slot = taken.transform(&mut |e| {
                let Expr::Subquery(subquery) = e else {
                    return Ok(e);
                };
                let Some(below) = input.take() else {
                    return Err(Failure::internal("an operator without its input"));
                };
                if met(&subquery.rel, &below).is_empty() {
                    input = Some(below);
                    return Ok(Expr::Subquery(subquery));
                }
                changed = true;
                let (joined, value) = self.attach(below, *subquery)?;
                input = Some(joined);
                Ok(value)
            })?;
        }
        if !changed {
            return Ok(());
        }
        let passes_through = !matches!(copy, Rel::Project { .. } | Rel::Aggregate { .. });
        let outputs = rel.columns();
        if let (Some(slot), Some(input)) = (copy.inputs_mut().into_iter().next(), input) {
            *slot = input;
        }
        *rel = match passes_through {
            // What was joined to the input is nobody else's business.
            true => Rel::Project {
                expressions: kept(&outputs),
                input: Box::new(copy),
            },
            false => copy,
        };
        Ok(())
    }

    /// Joins a subquery's value to the rows it is asked for.
    fn attach(&mut self, input: Rel, subquery: Subquery) -> Result<(Rel, Expr)> {
        match subquery.kind {
            SubqueryKind::Scalar => self.attach_scalar(input, subquery),
            SubqueryKind::Exists => self.attach_exists(input, subquery),
            SubqueryKind::In => self.attach_quantified(input, subquery, CompareOp::Eq, true),
            SubqueryKind::Any(op) => self.attach_quantified(input, subquery, op, true),
            SubqueryKind::All(op) => self.attach_quantified(input, subquery, op, false),
        }
    }

    fn attach_scalar(&mut self, input: Rel, subquery: Subquery) -> Result<(Rel, Expr)> {
        let [value] = subquery.columns[..] else {
            return Err(Failure::internal("a scalar subquery of several columns"));
        };
        let columns = met(&subquery.rel, &input);
        let around = around(&input, columns)?;
        let (rel, value) = match is_single_row(&subquery.rel) {
            true => (subquery.rel, value),
            false => {
                let only = (self.fresh(), value.1);
                let call = aggregate_of(AggregateKind::SingleValue, column(&value), value.1);
                let rel = Rel::Aggregate {
                    input: Box::new(subquery.rel),
                    keys: Vec::new(),
                    sets: None,
                    aggregates: vec![(only.0, call)],
                };
                (rel, only)
            }
        };
        let (inner, domain) = self.unnest(rel, &around)?;
        // Nothing but the value: copies of one query may stand beside each other.
        let own = (self.fresh(), value.1);
        let mut expressions = kept(&domain);
        expressions.push((own.0, column(&value)));
        let inner = Rel::Project {
            input: Box::new(inner),
            expressions,
        };
        let on = same(&around.columns, &domain);
        Ok((join(JoinKind::Left, input, inner, on), column(&own)))
    }

    fn attach_exists(&mut self, input: Rel, subquery: Subquery) -> Result<(Rel, Expr)> {
        let columns = met(&subquery.rel, &input);
        let around = around(&input, columns)?;
        let (inner, domain) = self.unnest(subquery.rel, &around)?;
        let count = (self.fresh(), DataType::Int8);
        let call = AggregateCall {
            kind: AggregateKind::CountStar,
            arguments: Vec::new(),
            distinct: false,
            filter: None,
            order: Vec::new(),
            returns: DataType::Int8,
        };
        let counted = Rel::Aggregate {
            input: Box::new(inner),
            keys: kept(&domain),
            sets: None,
            aggregates: vec![(count.0, call)],
        };
        let on = same(&around.columns, &domain);
        let value = Expr::IsNull(Box::new(column(&count))).negate();
        Ok((join(JoinKind::Left, input, counted, on), value))
    }

    /// `x op ANY (query)`: whether a row compares true, else whether one compares unknown. ALL is
    /// the same of the opposite.
    fn attach_quantified(
        &mut self,
        input: Rel,
        subquery: Subquery,
        op: CompareOp,
        any: bool,
    ) -> Result<(Rel, Expr)> {
        let ([inner], Some(operand)) = (&subquery.columns[..], subquery.operand) else {
            return Err(Failure::internal("a comparison with a query of no column"));
        };
        if operand.has_subquery() {
            return Err(Failure::unsupported(
                "a subquery on the left of IN, ANY or ALL",
            ));
        }
        let operand_column = (self.fresh(), operand.data_type());
        let mut expressions = kept(&input.columns());
        expressions.push((operand_column.0, operand));
        let input = Rel::Project {
            input: Box::new(input),
            expressions,
        };
        let outside = Expr::Column {
            id: operand_column.0,
            data_type: operand_column.1,
            outer: true,
        };
        let compared = Expr::Compare(op, Box::new(outside), Box::new(column(inner)));
        let decides = match any {
            true => compared.clone(),
            false => compared.clone().negate(),
        };
        let (found, unknown) = (self.fresh(), self.fresh());
        let is_true = |id| {
            Expr::Coalesce(
                vec![Expr::column(id, DataType::Bool), Expr::bool(false)],
                DataType::Bool,
            )
        };
        let answer = (self.fresh(), DataType::Bool);
        let case = Expr::Case {
            branches: vec![
                (is_true(found), Expr::bool(any)),
                (
                    is_true(unknown),
                    Expr::Constant(Value::Null, DataType::Bool),
                ),
            ],
            otherwise: Box::new(Expr::bool(!any)),
            data_type: DataType::Bool,
        };
        let or = |e| aggregate_of(AggregateKind::BoolOr, e, DataType::Bool);
        let rel = Rel::Project {
            input: Box::new(Rel::Aggregate {
                input: Box::new(subquery.rel),
                keys: Vec::new(),
                sets: None,
                aggregates: vec![
                    (found, or(decides)),
                    (unknown, or(Expr::IsNull(Box::new(compared)))),
                ],
            }),
            expressions: vec![(answer.0, case)],
        };
        let scalar = Subquery {
            kind: SubqueryKind::Scalar,
            rel,
            columns: vec![answer],
            operand: None,
        };
        self.attach_scalar(input, scalar)
    }
}

fn take_expr(e: &mut Expr) -> Expr {
    std::mem::replace(e, Expr::bool(true))
}

fn bound_all(list: Vec<Expr>, around: &Around<'_>, domain: &Columns) -> Vec<Expr> {
    list.into_iter().map(|e| bound(e, around, domain)).collect()
}

fn bound_keys(keys: Vec<SortKey>, around: &Around<'_>, domain: &Columns) -> Vec<SortKey> {
    keys.into_iter()
        .map(|key| SortKey {
            expr: bound(key.expr, around, domain),
            ..key
        })
        .collect()
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

/// Columns of `around` that a part refers to.
fn met(part: &Rel, around: &Rel) -> Columns {
    let own = around.columns();
    let mut found = Columns::new();
    for reference in part.outer_columns() {
        if own.contains(&reference) && !found.contains(&reference) {
            found.push(reference);
        }
    }
    found
}

fn around(rel: &Rel, columns: Columns) -> Result<Around<'_>> {
    if !is_repeatable(rel) {
        return Err(Failure::unsupported(
            "a reference to a relation that may differ when read again",
        )
        .with_hint("order what LIMIT cuts off, and compute volatile functions outside"));
    }
    Ok(Around { rel, columns })
}
