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

    /// The combinations of values that a part is asked for.
    fn domain(&mut self, around: &Around<'_>) -> (Rel, Columns) {
        let columns: Columns = around
            .columns
            .iter()
            .map(|(_, data_type)| (self.fresh(), *data_type))
            .collect();
        let expressions = columns
            .iter()
            .zip(&around.columns)
            .map(|((id, _), of)| (*id, column(of)))
            .collect();
        let rel = Rel::Distinct {
            input: Box::new(Rel::Project {
                input: Box::new(around.rel.clone()),
                expressions,
            }),
            on: None,
            order: Vec::new(),
        };
        (rel, columns)
    }

    fn boxed(&mut self, rel: Rel, around: &Around<'_>) -> Result<(Box<Rel>, Columns)> {
        let (rel, domain) = self.unnest(rel, around)?;
        Ok((Box::new(rel), domain))
    }

    /// A part for every combination of the domain: its rows, with the domain's columns beside them.
    fn unnest(&mut self, rel: Rel, around: &Around<'_>) -> Result<(Rel, Columns)> {
        if !around.is_met_in(&rel) {
            let (domain, columns) = self.domain(around);
            let is_one_row = matches!(&rel, Rel::Values { columns, rows } if columns.is_empty() && rows.len() == 1);
            let rel = match is_one_row {
                true => domain,
                false => join(JoinKind::Inner, domain, rel, Vec::new()),
            };
            return Ok((rel, columns));
        }
        match rel {
            Rel::Filter { input, predicate } => {
                let (input, domain) = self.boxed(*input, around)?;
                let predicate = bound(predicate, around, &domain);
                Ok((Rel::Filter { input, predicate }, domain))
            }
            Rel::Project { input, expressions } => {
                let (input, domain) = self.boxed(*input, around)?;
                let mut all = kept(&domain);
                let own = expressions.into_iter();
                all.extend(own.map(|(id, e)| (id, bound(e, around, &domain))));
                let rel = Rel::Project {
                    input,
                    expressions: all,
                };
                Ok((rel, domain))
            }
            Rel::Sort { input, mut keys } => {
                let (input, domain) = self.boxed(*input, around)?;
                for key in &mut keys {
                    key.expr = bound(take_expr(&mut key.expr), around, &domain);
                }
                Ok((Rel::Sort { input, keys }, domain))
            }
            Rel::Distinct { input, on, order } => self.distinct(*input, on, order, around),
            Rel::Window { input, calls } => self.window(*input, calls, around),
            Rel::Expand { input, calls } => {
                let (input, domain) = self.boxed(*input, around)?;
                let bind = |call: SetCall| SetCall {
                    arguments: bound_all(call.arguments, around, &domain),
                    ..call
                };
                let calls = calls.into_iter().map(|(id, c)| (id, bind(c))).collect();
                Ok((Rel::Expand { input, calls }, domain))
            }
            Rel::Series {
                column,
                data_type,
                arguments,
            } => {
                let (input, domain) = self.domain(around);
                let call = SetCall {
                    kind: SetCallKind::Series,
                    arguments: bound_all(arguments, around, &domain),
                    returns: data_type,
                };
                let rel = Rel::Expand {
                    input: Box::new(input),
                    calls: vec![(column, call)],
                };
                Ok((rel, domain))
            }
            Rel::Values { columns, rows } => self.values(columns, rows, around),
            Rel::Limit {
                input,
                limit,
                offset,
            } => self.limit(*input, limit, offset, around),
            Rel::Join {
                kind,
                left,
                right,
                on,
            } => self.join(kind, *left, *right, on, around),
            Rel::SetOperation {
                kind,
                all,
                left,
                right,
                columns,
            } => self.set_operation(kind, all, (*left, *right), columns, around),
            Rel::Aggregate {
                input,
                keys,
                sets,
                aggregates,
            } => self.aggregate(*input, keys, sets, aggregates, around),
            Rel::Recursive { .. } | Rel::Working { .. } => Err(Failure::unsupported(
                "a recursive query that refers to a query around it",
            )),
            Rel::Scan(_) | Rel::Virtual { .. } => Err(Failure::unsupported(
                "an index's answer that depends on a query around it",
            )),
        }
    }

    fn distinct(
        &mut self,
        input: Rel,
        on: Option<Vec<Expr>>,
        order: Vec<SortKey>,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let (input, domain) = self.boxed(input, around)?;
        let on = on.map(|on| {
            let own = bound_all(on, around, &domain);
            domain.iter().map(column).chain(own).collect::<Vec<Expr>>()
        });
        let order = match order.is_empty() {
            true => order,
            false => {
                let own = order.into_iter().map(|key| SortKey {
                    expr: bound(key.expr, around, &domain),
                    ..key
                });
                ascending(&domain).chain(own).collect()
            }
        };
        Ok((Rel::Distinct { input, on, order }, domain))
    }

    fn window(
        &mut self,
        input: Rel,
        calls: Vec<(ColumnId, WindowCall)>,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let (input, domain) = self.boxed(input, around)?;
        let bind = |call: WindowCall| {
            let mut partition: Vec<Expr> = domain.iter().map(column).collect();
            partition.extend(bound_all(call.partition, around, &domain));
            WindowCall {
                arguments: bound_all(call.arguments, around, &domain),
                filter: call.filter.map(|e| bound(e, around, &domain)),
                order: bound_keys(call.order, around, &domain),
                partition,
                ..call
            }
        };
        let calls = calls.into_iter().map(|(id, c)| (id, bind(c))).collect();
        Ok((Rel::Window { input, calls }, domain))
    }

    /// A list of rows for every combination: a projection of the domain for each row.
    fn values(
        &mut self,
        columns: Columns,
        rows: Vec<Vec<Expr>>,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let mut all: Option<(Rel, Columns)> = None;
        for row in rows {
            let (input, domain) = self.domain(around);
            let own: Columns = columns.iter().map(|(_, t)| (self.fresh(), *t)).collect();
            let mut expressions = kept(&domain);
            let values = bound_all(row, around, &domain);
            expressions.extend(own.iter().map(|(id, _)| *id).zip(values));
            let one = Rel::Project {
                input: Box::new(input),
                expressions,
            };
            let fields: Columns = domain.into_iter().chain(own).collect();
            all = Some(match all {
                None => (one, fields),
                Some((before, before_fields)) => {
                    let united: Columns = before_fields
                        .iter()
                        .map(|(_, t)| (self.fresh(), *t))
                        .collect();
                    let rel = Rel::SetOperation {
                        kind: SetKind::Union,
                        all: true,
                        left: Box::new(before),
                        right: Box::new(one),
                        columns: united.clone(),
                    };
                    (rel, united)
                }
            });
        }
        let (rel, fields) =
            all.ok_or_else(|| Failure::internal("no rows that refer to something around"))?;
        let (domain, own) = fields.split_at(around.columns.len());
        let domain = domain.to_vec();
        let mut expressions = kept(&domain);
        let named = columns.iter().zip(own);
        expressions.extend(named.map(|((id, _), from)| (*id, column(from))));
        let rel = Rel::Project {
            input: Box::new(rel),
            expressions,
        };
        Ok((rel, domain))
    }

    /// The first rows for each combination.
    fn limit(
        &mut self,
        input: Rel,
        limit: Option<Expr>,
        offset: Option<Expr>,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let (input, keys) = match input {
            Rel::Sort { input, keys } => (*input, keys),
            other => (other, Vec::new()),
        };
        let rows = |e: &Option<Expr>, what: &str| match e {
            Some(e) => super::row_count(e, what),
            None => Ok(None),
        };
        let limit = rows(&limit, "LIMIT")?;
        let offset = rows(&offset, "OFFSET")?.unwrap_or(0);
        let (input, domain) = self.unnest(input, around)?;
        let number = (self.fresh(), DataType::Int8);
        let order = bound_keys(keys, around, &domain);
        let call = WindowCall {
            kind: WindowKind::RowNumber,
            arguments: Vec::new(),
            filter: None,
            partition: domain.iter().map(column).collect(),
            order: order.clone(),
            frame: None,
            returns: DataType::Int8,
        };
        let shown = input.columns();
        let bigint = |n: u64| {
            let n = i64::try_from(n).unwrap_or(i64::MAX);
            Box::new(Expr::Constant(Value::Int8(n), DataType::Int8))
        };
        let mut terms = vec![Expr::Compare(
            CompareOp::Gt,
            Box::new(column(&number)),
            bigint(offset),
        )];
        if let Some(limit) = limit {
            let last = bigint(offset.saturating_add(limit));
            terms.push(Expr::Compare(
                CompareOp::LtEq,
                Box::new(column(&number)),
                last,
            ));
        }
        let rel = Rel::Project {
            input: Box::new(Rel::Filter {
                input: Box::new(Rel::Window {
                    input: Box::new(input),
                    calls: vec![(number.0, call)],
                }),
                predicate: Expr::all(terms),
            }),
            expressions: kept(&shown),
        };
        let rel = match order.is_empty() {
            true => rel,
            false => Rel::Sort {
                input: Box::new(rel),
                keys: order,
            },
        };
        Ok((rel, domain))
    }

    fn join(
        &mut self,
        kind: JoinKind,
        left: Rel,
        right: Rel,
        on: Expr,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        // The side whose rows are all kept must have them for every combination.
        let left_met = around.is_met_in(&left);
        let right_met = around.is_met_in(&right);
        let (with_left, with_right) = match kind {
            JoinKind::Inner => (left_met || !right_met, right_met),
            JoinKind::Left => (true, right_met),
            JoinKind::Right => (left_met, true),
            JoinKind::Full => (true, true),
        };
        let mut domains = Vec::new();
        let mut side = |rewriter: &mut Self, rel: Rel, wanted: bool| -> Result<Rel> {
            if !wanted {
                return Ok(rel);
            }
            let (rel, domain) = rewriter.unnest(rel, around)?;
            domains.push(domain);
            Ok(rel)
        };
        let left = side(self, left, with_left)?;
        let right = side(self, right, with_right)?;
        let both = match &domains[..] {
            [left, right] => same(left, right),
            _ => Vec::new(),
        };
        let first = domains.first().cloned().unwrap_or_default();
        let mut terms = bound(on, around, &first).conjuncts();
        terms.extend(both);
        let shown: Columns = left.columns().into_iter().chain(right.columns()).collect();
        let rel = join(kind, left, right, terms);
        match (kind, &domains[..]) {
            (JoinKind::Right, [_, right]) => Ok((rel, right.clone())),
            (JoinKind::Full, [left, right]) => {
                let domain: Columns = left.iter().map(|(_, t)| (self.fresh(), *t)).collect();
                let mut expressions = kept(&shown);
                for ((id, t), (l, r)) in domain.iter().zip(left.iter().zip(right)) {
                    expressions.push((*id, Expr::Coalesce(vec![column(l), column(r)], *t)));
                }
                let rel = Rel::Project {
                    input: Box::new(rel),
                    expressions,
                };
                Ok((rel, domain))
            }
            _ => Ok((rel, first)),
        }
    }

    fn set_operation(
        &mut self,
        kind: SetKind,
        all: bool,
        (left, right): (Rel, Rel),
        columns: Columns,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let mut side = |rel: Rel| -> Result<Box<Rel>> {
            let own = rel.columns();
            let (rel, domain) = self.unnest(rel, around)?;
            let mut expressions = kept(&own);
            expressions.extend(kept(&domain));
            Ok(Box::new(Rel::Project {
                input: Box::new(rel),
                expressions,
            }))
        };
        let left = side(left)?;
        let right = side(right)?;
        let domain: Columns = around
            .columns
            .iter()
            .map(|(_, t)| (self.fresh(), *t))
            .collect();
        let rel = Rel::SetOperation {
            kind,
            all,
            left,
            right,
            columns: columns.into_iter().chain(domain.clone()).collect(),
        };
        Ok((rel, domain))
    }

    fn aggregate(
        &mut self,
        input: Rel,
        keys: Vec<(ColumnId, Expr)>,
        sets: Option<Vec<Vec<usize>>>,
        aggregates: Vec<(ColumnId, AggregateCall)>,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let is_total = keys.is_empty() || sets.iter().flatten().any(Vec::is_empty);
        if is_total && sets.is_some() {
            return Err(Failure::unsupported(
                "an empty grouping set that refers to a query around it",
            ));
        }
        let (input, domain) = self.boxed(input, around)?;
        let mut all: Vec<(ColumnId, Expr)> = keys
            .into_iter()
            .map(|(id, e)| (id, bound(e, around, &domain)))
            .collect();
        let first = all.len();
        all.extend(kept(&domain));
        let sets = sets.map(|sets| {
            let whole = |mut set: Vec<usize>| {
                set.extend(first..first + domain.len());
                set
            };
            sets.into_iter().map(whole).collect::<Vec<_>>()
        });
        let bind = |call: AggregateCall| AggregateCall {
            arguments: bound_all(call.arguments, around, &domain),
            filter: call.filter.map(|e| bound(e, around, &domain)),
            order: bound_keys(call.order, around, &domain),
            ..call
        };
        let is_count = |call: &AggregateCall| {
            matches!(call.kind, AggregateKind::Count | AggregateKind::CountStar)
        };
        let mut shown: Vec<(ColumnId, Expr)> = Vec::new();
        let mut calls = Vec::new();
        for (id, call) in aggregates {
            let returns = call.returns;
            let zero = Expr::Constant(Value::Int8(0), DataType::Int8);
            let own = match is_total && is_count(&call) {
                true => self.fresh(),
                false => id,
            };
            let value = Expr::column(own, returns);
            shown.push((
                id,
                match own == id {
                    true => value,
                    false => Expr::Coalesce(vec![value, zero], returns),
                },
            ));
            calls.push((own, bind(call)));
        }
        let grouped = Rel::Aggregate {
            input,
            keys: all,
            sets,
            aggregates: calls,
        };
        if !is_total {
            return Ok((grouped, domain));
        }
        // A grouping of everything has a row even when there is nothing to group.
        let (every, every_domain) = self.domain(around);
        let on = same(&every_domain, &domain);
        let mut expressions = kept(&every_domain);
        expressions.extend(shown);
        let rel = Rel::Project {
            input: Box::new(join(JoinKind::Left, every, grouped, on)),
            expressions,
        };
        Ok((rel, every_domain))
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
