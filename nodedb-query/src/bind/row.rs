//! Rows as values: `(a, b)` and `ROW(a, b)`, compared column by column, and ranges.
//!
//! A row is no value of a type here; it exists where it is compared, tested for NULL or looked for
//! in a list or a query, and is taken apart there.

use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use sqlparser::ast;

use super::Binder;
use super::name::fold_case;
use super::select::exact;
use crate::expr::{CompareOp, Expr};
use crate::rel::{Rel, Subquery, SubqueryKind};

/// The lower bound of `BETWEEN SYMMETRIC` comes as a call of this name, which cannot be written.
pub const SYMMETRIC: &str = "between symmetric";

/// The alias of `USING (a, b) AS x` comes as one more column whose name begins with this, which
/// cannot be written.
pub const USING_ALIAS: &str = "using as ";

/// The columns of a row constructor, however it is written.
pub(super) fn row_of(e: &ast::Expr) -> Option<Vec<&ast::Expr>> {
    match e {
        ast::Expr::Tuple(items) => Some(items.iter().collect()),
        ast::Expr::Nested(inner) => match &**inner {
            tuple @ ast::Expr::Tuple(_) => row_of(tuple),
            _ => None,
        },
        ast::Expr::Function(call) => {
            let [ast::ObjectNamePart::Identifier(name)] = &call.name.0[..] else {
                return None;
            };
            let ast::FunctionArguments::List(list) = &call.args else {
                return None;
            };
            if name.quote_style.is_some() || fold_case(name) != "row" {
                return None;
            }
            list.args
                .iter()
                .map(|argument| match argument {
                    ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => Some(e),
                    _ => None,
                })
                .collect()
        }
        _ => None,
    }
}

fn unequal() -> Failure {
    Failure::new(
        SqlState::SyntaxError,
        "unequal number of entries in row expressions",
    )
}

impl Binder<'_> {
    /// `(a, b) = (c, d)` and its like, column by column.
    pub(super) fn compare_rows(
        &mut self,
        op: CompareOp,
        l: &[&ast::Expr],
        r: &[&ast::Expr],
    ) -> Result<Expr> {
        if l.len() != r.len() {
            return Err(unequal());
        }
        match op {
            CompareOp::Eq | CompareOp::NotEq => {
                let terms = l
                    .iter()
                    .zip(r)
                    .map(|(l, r)| self.compare_ast(CompareOp::Eq, l, r))
                    .collect::<Result<Vec<_>>>()?;
                let equal = Expr::all(terms);
                Ok(if op == CompareOp::Eq {
                    equal
                } else {
                    equal.negate()
                })
            }
            _ => {
                // a < c OR (a = c AND (b < d OR …)), the last with the operator itself.
                let strict = match op {
                    CompareOp::LtEq => CompareOp::Lt,
                    CompareOp::GtEq => CompareOp::Gt,
                    other => other,
                };
                let mut result: Option<Expr> = None;
                for (l, r) in l.iter().zip(r).rev() {
                    result = Some(match result {
                        None => self.compare_ast(op, l, r)?,
                        Some(rest) => Expr::Or(vec![
                            self.compare_ast(strict, l, r)?,
                            Expr::And(vec![self.compare_ast(CompareOp::Eq, l, r)?, rest]),
                        ]),
                    });
                }
                result.ok_or_else(|| Failure::new(SqlState::SyntaxError, "an empty row"))
            }
        }
    }

    /// `IS NOT DISTINCT FROM` of two rows.
    pub(super) fn same_rows(&mut self, l: &[&ast::Expr], r: &[&ast::Expr]) -> Result<Expr> {
        if l.len() != r.len() {
            return Err(unequal());
        }
        let terms = l
            .iter()
            .zip(r)
            .map(|(l, r)| self.same(l, r))
            .collect::<Result<Vec<_>>>()?;
        Ok(Expr::all(terms))
    }

    /// `row IS NULL`: every column is; `row IS NOT NULL`: no column is.
    pub(super) fn row_is_null(&mut self, items: &[&ast::Expr], negated: bool) -> Result<Expr> {
        let mut terms = Vec::new();
        for item in items {
            let e = self.expr(item)?;
            let e = Expr::IsNull(Box::new(self.settled(e)?));
            terms.push(if negated { e.negate() } else { e });
        }
        Ok(Expr::all(terms))
    }

    /// `(a, b) IN (query)`: true for a row of the query that equals it, else unknown for one of
    /// which that is unknown, else false.
    pub(super) fn row_in_subquery(
        &mut self,
        items: &[&ast::Expr],
        query: &ast::Query,
    ) -> Result<Expr> {
        let mut operands = Vec::new();
        for item in items {
            operands.push(self.expr(item)?);
        }
        let query = exact(self.inner(query)?);
        if query.columns.len() != items.len() {
            let what = match query.columns.len() > items.len() {
                true => "subquery has too many columns",
                false => "subquery has too few columns",
            };
            return Err(Failure::new(SqlState::SyntaxError, what));
        }
        let mut terms = Vec::new();
        for (operand, (id, column)) in operands.into_iter().zip(&query.columns) {
            let inner = Expr::column(*id, column.data_type);
            let (operand, inner) = self.alike(CompareOp::Eq, operand, inner)?;
            if operand.has_subquery() {
                return Err(Failure::unsupported(
                    "a query in a row that is looked for in a query",
                ));
            }
            let operand = operand.replace(&|part| match part {
                Expr::Column { id, data_type, .. } => Some(Expr::Column {
                    id: *id,
                    data_type: *data_type,
                    outer: true,
                }),
                _ => None,
            });
            terms.push(Expr::Compare(
                CompareOp::Eq,
                Box::new(operand),
                Box::new(inner),
            ));
        }
        let equal = Expr::all(terms);
        let columns: Vec<_> = query
            .columns
            .iter()
            .map(|(id, c)| (*id, c.data_type))
            .collect();
        let exists = |predicate: Expr| {
            Expr::Subquery(Box::new(Subquery {
                kind: SubqueryKind::Exists,
                rel: Rel::Filter {
                    input: Box::new(query.rel.clone()),
                    predicate,
                },
                columns: columns.clone(),
                operand: None,
            }))
        };
        let unknown = Expr::IsNull(Box::new(equal.clone()));
        Ok(Expr::Or(vec![
            exists(equal),
            Expr::And(vec![
                exists(unknown),
                Expr::Constant(Value::Null, DataType::Bool),
            ]),
        ]))
    }

    /// `e BETWEEN low AND high`, in either order when it is SYMMETRIC.
    pub(super) fn between(
        &mut self,
        e: &ast::Expr,
        low: &ast::Expr,
        high: &ast::Expr,
    ) -> Result<Expr> {
        let (low, symmetric) = match symmetric_bound(low) {
            Some(low) => (low, true),
            None => (low, false),
        };
        let within = |binder: &mut Self, low, high| -> Result<Expr> {
            let above = binder.compare_ast(CompareOp::GtEq, e, low)?;
            let below = binder.compare_ast(CompareOp::LtEq, e, high)?;
            Ok(Expr::And(vec![above, below]))
        };
        let range = within(self, low, high)?;
        if !symmetric {
            return Ok(range);
        }
        Ok(Expr::Or(vec![range, within(self, high, low)?]))
    }
}

fn symmetric_bound(low: &ast::Expr) -> Option<&ast::Expr> {
    let ast::Expr::Function(call) = low else {
        return None;
    };
    let [ast::ObjectNamePart::Identifier(name)] = &call.name.0[..] else {
        return None;
    };
    match &call.args {
        ast::FunctionArguments::List(list) if name.value == SYMMETRIC => match &list.args[..] {
            [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e))] => Some(e),
            _ => None,
        },
        _ => None,
    }
}
