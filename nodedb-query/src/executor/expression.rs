//! Expressions to DataFusion's and back.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::{Column, DFSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr as df;
use datafusion::logical_expr::expr::{
    Exists, InList, InSubquery, ScalarFunction, SetComparison, SetQuantifier,
};
use datafusion::logical_expr::{BinaryExpr, Expr as DfExpr, Operator};
use nodedb_types::arrow_map::{arrow_type, data_type_of, value_at};
use nodedb_types::{DataType, Failure, Value};

use super::error::wrap;
use super::key;
use super::lower::Lowering;
use super::opaque::Opaque;
use crate::expr::builder::array_of;
use crate::expr::{ColumnId, CompareOp, Expr};
use crate::rel::{AggregateCall, AggregateKind, Rel, Subquery, SubqueryKind};

/// The name of a column in DataFusion's schemas.
pub(super) fn name(id: ColumnId) -> String {
    format!("c{}", id.0)
}

fn id_of(name: &str) -> Option<ColumnId> {
    name.strip_prefix('c')?.parse().ok().map(ColumnId)
}

pub(super) fn literal(value: &Value, data_type: &DataType) -> DfResult<DfExpr> {
    let array = array_of(data_type, [value]).map_err(wrap)?;
    Ok(DfExpr::Literal(
        ScalarValue::try_from_array(&array, 0)?,
        None,
    ))
}

/// Compared by Arrow as PostgreSQL compares.
fn is_native(data_type: DataType) -> bool {
    matches!(
        data_type,
        DataType::Bool
            | DataType::Int2
            | DataType::Int4
            | DataType::Int8
            | DataType::Numeric(_)
            | DataType::Text(_)
            | DataType::Bytea
            | DataType::Uuid
            | DataType::Date
            | DataType::Timestamp
            | DataType::TimestampTz
    )
}

fn operator(op: CompareOp) -> Operator {
    match op {
        CompareOp::Eq => Operator::Eq,
        CompareOp::NotEq => Operator::NotEq,
        CompareOp::Lt => Operator::Lt,
        CompareOp::LtEq => Operator::LtEq,
        CompareOp::Gt => Operator::Gt,
        CompareOp::GtEq => Operator::GtEq,
    }
}

fn binary(l: DfExpr, op: Operator, r: DfExpr) -> DfExpr {
    DfExpr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r)))
}

/// A chain as a balanced tree, so that its depth stays small.
fn balanced(mut terms: Vec<DfExpr>, op: Operator) -> DfExpr {
    while terms.len() > 1 {
        let mut next = Vec::with_capacity(terms.len().div_ceil(2));
        let mut rest = terms.into_iter();
        while let Some(l) = rest.next() {
            next.push(match rest.next() {
                Some(r) => binary(l, op, r),
                None => l,
            });
        }
        terms = next;
    }
    terms.pop().unwrap_or(DfExpr::Literal(
        ScalarValue::Boolean(Some(op == Operator::And)),
        None,
    ))
}

/// Where a column reference is looked up.
pub(super) struct Schemas<'a> {
    pub own: &'a DFSchema,
    /// Of the queries around this one, innermost first.
    pub outer: &'a [Arc<DFSchema>],
    /// A subquery may stand as a condition here.
    pub in_filter: bool,
}

impl Lowering {
    pub(super) fn column(&self, id: ColumnId, schemas: &Schemas<'_>) -> DfResult<DfExpr> {
        let name = name(id);
        if let Ok((qualifier, field)) = schemas.own.qualified_field_with_unqualified_name(&name) {
            return Ok(DfExpr::Column(Column::from((qualifier, field))));
        }
        for (depth, schema) in schemas.outer.iter().enumerate() {
            if let Ok((qualifier, field)) = schema.qualified_field_with_unqualified_name(&name) {
                if depth > 0 {
                    return Err(wrap(Failure::unsupported(
                        "a reference over more than one level of subqueries",
                    )));
                }
                let column = Column::from((qualifier, field));
                return Ok(DfExpr::OuterReferenceColumn(field.clone(), column));
            }
        }
        Err(wrap(Failure::internal(format!("{id:?} is in no relation"))))
    }

    pub(super) fn expr(&mut self, e: &Expr, schemas: &Schemas<'_>) -> DfResult<DfExpr> {
        match e {
            Expr::Column { id, .. } => self.column(*id, schemas),
            Expr::Constant(value, data_type) => literal(value, data_type),
            Expr::And(terms) | Expr::Or(terms) => {
                let op = if matches!(e, Expr::And(_)) {
                    Operator::And
                } else {
                    Operator::Or
                };
                let terms = terms
                    .iter()
                    .map(|t| self.expr(t, schemas))
                    .collect::<DfResult<Vec<_>>>()?;
                Ok(balanced(terms, op))
            }
            Expr::Not(inner) => Ok(DfExpr::Not(Box::new(self.expr(inner, schemas)?))),
            Expr::IsNull(inner) => Ok(DfExpr::IsNull(Box::new(self.expr(inner, schemas)?))),
            Expr::Compare(op, l, r) if is_native(l.data_type()) => {
                let (l, r) = (self.expr(l, schemas)?, self.expr(r, schemas)?);
                Ok(binary(l, operator(*op), r))
            }
            Expr::Same(l, r) if is_native(l.data_type()) => {
                let (l, r) = (self.expr(l, schemas)?, self.expr(r, schemas)?);
                Ok(binary(l, Operator::IsNotDistinctFrom, r))
            }
            Expr::InList(operand, list)
                if is_native(operand.data_type())
                    && list.iter().all(|item| item.constant().is_some()) =>
            {
                let operand = self.expr(operand, schemas)?;
                let list = list
                    .iter()
                    .map(|item| self.expr(item, schemas))
                    .collect::<DfResult<Vec<_>>>()?;
                Ok(DfExpr::InList(InList::new(Box::new(operand), list, false)))
            }
            Expr::Subquery(subquery) => self.subquery(subquery, schemas),
            other => self.opaque(other, schemas),
        }
    }

    /// A part that DataFusion does not look into.
    fn opaque(&mut self, e: &Expr, schemas: &Schemas<'_>) -> DfResult<DfExpr> {
        let mut arguments: Vec<DfExpr> = Vec::new();
        let mut shown: Vec<String> = Vec::new();
        let values = Schemas {
            own: schemas.own,
            outer: schemas.outer,
            in_filter: false,
        };
        let mut place = |binder: &mut Lowering, part: &Expr| -> DfResult<Expr> {
            let text = format!("{part:?}");
            let at = match shown.iter().position(|s| *s == text) {
                Some(at) => at,
                None => {
                    arguments.push(binder.expr(part, &values)?);
                    shown.push(text);
                    arguments.len() - 1
                }
            };
            Ok(Expr::column(ColumnId(at as u32), part.data_type()))
        };
        let inner = self.replace_atoms(e.clone(), &mut place)?;
        Ok(DfExpr::ScalarFunction(ScalarFunction::new_udf(
            Opaque::udf(inner),
            arguments,
        )))
    }

    fn replace_atoms(
        &mut self,
        e: Expr,
        place: &mut dyn FnMut(&mut Lowering, &Expr) -> DfResult<Expr>,
    ) -> DfResult<Expr> {
        match e {
            Expr::Column { .. } | Expr::Subquery(_) => place(self, &e),
            other => other.map_children(&mut |child| self.replace_atoms(child, place)),
        }
    }

    fn subquery(&mut self, subquery: &Subquery, schemas: &Schemas<'_>) -> DfResult<DfExpr> {
        if !schemas.in_filter {
            match subquery.kind {
                SubqueryKind::Scalar => {}
                SubqueryKind::Exists => return self.exists_value(subquery, schemas),
                _ => {
                    return Err(wrap(Failure::unsupported(
                        "IN, ANY or ALL over a subquery outside of a condition",
                    )));
                }
            }
        }
        let mut outer = vec![Arc::new(schemas.own.clone())];
        outer.extend(schemas.outer.iter().cloned());
        let mut plan = self.rel(&subquery.rel, &outer)?;
        // An IN of a condition of its own becomes a join by hash.
        if subquery.operand.is_some() {
            plan = key::sortable_columns(plan)?;
        }
        let inner = df::Subquery {
            outer_ref_columns: plan.all_out_ref_exprs(),
            subquery: Arc::new(plan),
            spans: datafusion::common::Spans::new(),
        };
        let operand = match &subquery.operand {
            Some(e) => Some(Box::new(key::sortable(
                self.expr(e, schemas)?,
                e.data_type(),
            ))),
            None => None,
        };
        Ok(match (subquery.kind, operand) {
            (SubqueryKind::Scalar, _) => DfExpr::ScalarSubquery(inner),
            (SubqueryKind::Exists, _) => DfExpr::Exists(Exists::new(inner, false)),
            (SubqueryKind::In, Some(operand)) => {
                DfExpr::InSubquery(InSubquery::new(operand, inner, false))
            }
            (SubqueryKind::Any(op), Some(operand)) => DfExpr::SetComparison(SetComparison::new(
                operand,
                inner,
                operator(op),
                SetQuantifier::Any,
            )),
            (SubqueryKind::All(op), Some(operand)) => DfExpr::SetComparison(SetComparison::new(
                operand,
                inner,
                operator(op),
                SetQuantifier::All,
            )),
            _ => return Err(wrap(Failure::internal("a subquery without its operand"))),
        })
    }

    /// `EXISTS` as a value: whether a count is above zero.
    fn exists_value(&mut self, subquery: &Subquery, schemas: &Schemas<'_>) -> DfResult<DfExpr> {
        let count = ColumnId(u32::MAX / 2 + self.fresh());
        let result = ColumnId(u32::MAX / 2 + self.fresh());
        let call = AggregateCall {
            kind: AggregateKind::CountStar,
            arguments: Vec::new(),
            distinct: false,
            filter: None,
            order: Vec::new(),
            returns: DataType::Int8,
        };
        let rel = Rel::Project {
            input: Box::new(Rel::Aggregate {
                input: Box::new(subquery.rel.clone()),
                keys: Vec::new(),
                sets: None,
                aggregates: vec![(count, call)],
            }),
            expressions: vec![(
                result,
                Expr::Compare(
                    CompareOp::Gt,
                    Box::new(Expr::column(count, DataType::Int8)),
                    Box::new(Expr::Constant(Value::Int8(0), DataType::Int8)),
                ),
            )],
        };
        let counted = Subquery {
            kind: SubqueryKind::Scalar,
            rel,
            columns: vec![(result, DataType::Bool)],
            operand: None,
        };
        self.subquery(&counted, schemas)
    }
}

/// A DataFusion expression as one of ours, if it is made of what we lower to.
pub(super) fn raise(e: &DfExpr, type_of: &dyn Fn(ColumnId) -> Option<DataType>) -> Option<Expr> {
    let two = |e: &BinaryExpr| -> Option<(Box<Expr>, Box<Expr>)> {
        Some((
            Box::new(raise(&e.left, type_of)?),
            Box::new(raise(&e.right, type_of)?),
        ))
    };
    Some(match e {
        DfExpr::Alias(alias) => raise(&alias.expr, type_of)?,
        DfExpr::Column(column) => {
            let id = id_of(&column.name)?;
            Expr::column(id, type_of(id)?)
        }
        DfExpr::Literal(scalar, _) => {
            let data_type = data_type_of(&Field::new("", scalar.data_type(), true)).ok()?;
            // Only what our evaluator would make of the type itself.
            if arrow_type(&data_type) != scalar.data_type() {
                return None;
            }
            let array = scalar.to_array().ok()?;
            Expr::Constant(value_at(&array, 0, &data_type).ok()?, data_type)
        }
        DfExpr::Not(inner) => raise(inner, type_of)?.negate(),
        DfExpr::IsNull(inner) => Expr::IsNull(Box::new(raise(inner, type_of)?)),
        DfExpr::IsNotNull(inner) => Expr::IsNull(Box::new(raise(inner, type_of)?)).negate(),
        DfExpr::IsTrue(inner) => {
            Expr::Same(Box::new(raise(inner, type_of)?), Box::new(Expr::bool(true)))
        }
        DfExpr::BinaryExpr(b) => match b.op {
            Operator::And | Operator::Or => {
                let (l, r) = two(b)?;
                let and = b.op == Operator::And;
                let mut terms = Vec::new();
                for side in [*l, *r] {
                    match side {
                        Expr::And(inner) if and => terms.extend(inner),
                        Expr::Or(inner) if !and => terms.extend(inner),
                        other => terms.push(other),
                    }
                }
                if and {
                    Expr::And(terms)
                } else {
                    Expr::Or(terms)
                }
            }
            Operator::IsNotDistinctFrom => {
                let (l, r) = two(b)?;
                Expr::Same(l, r)
            }
            Operator::IsDistinctFrom => {
                let (l, r) = two(b)?;
                Expr::Same(l, r).negate()
            }
            op => {
                let compare = match op {
                    Operator::Eq => CompareOp::Eq,
                    Operator::NotEq => CompareOp::NotEq,
                    Operator::Lt => CompareOp::Lt,
                    Operator::LtEq => CompareOp::LtEq,
                    Operator::Gt => CompareOp::Gt,
                    Operator::GtEq => CompareOp::GtEq,
                    _ => return None,
                };
                let (l, r) = two(b)?;
                if arrow_type(&l.data_type()) != arrow_type(&r.data_type()) {
                    return None;
                }
                Expr::Compare(compare, l, r)
            }
        },
        DfExpr::InList(list) => {
            let operand = raise(&list.expr, type_of)?;
            let items = list
                .list
                .iter()
                .map(|item| raise(item, type_of))
                .collect::<Option<Vec<_>>>()?;
            let all = Expr::InList(Box::new(operand), items);
            if list.negated { all.negate() } else { all }
        }
        DfExpr::Between(between) => {
            let operand = raise(&between.expr, type_of)?;
            let (low, high) = (
                raise(&between.low, type_of)?,
                raise(&between.high, type_of)?,
            );
            let both = Expr::And(vec![
                Expr::Compare(CompareOp::GtEq, Box::new(operand.clone()), Box::new(low)),
                Expr::Compare(CompareOp::LtEq, Box::new(operand), Box::new(high)),
            ]);
            if between.negated { both.negate() } else { both }
        }
        DfExpr::ScalarFunction(call) => {
            let opaque = Opaque::of(&call.func)?;
            let inner = opaque.expr.clone();
            let argument = |(at, a): (usize, &DfExpr)| match key::inside_canonical(a) {
                // A core compares as the canonical form does.
                Some(a) if key::is_only_compared(&inner, ColumnId(at as u32)) => raise(a, type_of),
                _ => raise(a, type_of),
            };
            let arguments = call.args.iter().enumerate().map(argument);
            let arguments = arguments.collect::<Option<Vec<_>>>()?;
            if inner.any(|e| matches!(e, Expr::Volatile { .. })) {
                return None;
            }
            inner.replace(&|part| match part {
                Expr::Column { id, .. } => arguments.get(id.0 as usize).cloned(),
                _ => None,
            })
        }
        _ => return None,
    })
}
