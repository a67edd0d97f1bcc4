//! LIMIT, OFFSET and FETCH.
//!
//! Counts that are known when the plan is made stay a limit, which leaves can take. A count that a
//! query gives, and `WITH TIES`, number the rows by a window in the order of the query and keep those
//! whose number fits: ties share their rank, so the last row's ties have a rank within the count.

use sqlparser::ast;

use super::*;
use crate::expr::CompareOp;
use crate::expr::types::casts_on_assignment;
use crate::rel::{WindowCall, WindowKind};

/// What a query's tail says of the number of rows.
#[derive(Default)]
pub(super) struct Limits {
    limit: Option<Expr>,
    offset: Option<Expr>,
    pub with_ties: bool,
}

impl Limits {
    pub(super) fn is_some(&self) -> bool {
        self.limit.is_some() || self.offset.is_some()
    }

    /// Whether a count is known only while the query runs.
    fn is_computed(&self) -> bool {
        let counts = [&self.limit, &self.offset];
        counts.into_iter().flatten().any(Expr::has_subquery)
    }
}

fn bigint(n: i64) -> Expr {
    Expr::Constant(Value::Int8(n), DataType::Int8)
}

fn compare(op: CompareOp, left: Expr, right: Expr) -> Expr {
    Expr::Compare(op, Box::new(left), Box::new(right))
}

impl Binder<'_> {
    pub(super) fn limits(&mut self, query: &ast::Query) -> Result<Limits> {
        let (mut limit, mut offset) = (None, None);
        match &query.limit_clause {
            None => {}
            Some(ast::LimitClause::LimitOffset {
                limit: l,
                offset: o,
                limit_by,
            }) if limit_by.is_empty() => {
                limit = l.as_ref();
                offset = o.as_ref().map(|o| &o.value);
            }
            Some(other) => {
                return Err(Failure::new(
                    SqlState::SyntaxError,
                    format!("LIMIT in another system's manner: {other}"),
                ));
            }
        }
        let one = ast::Expr::value(ast::Value::Number("1".to_owned(), false));
        let mut with_ties = false;
        if let Some(fetch) = &query.fetch {
            if fetch.percent {
                return Err(Failure::unsupported("FETCH PERCENT"));
            }
            with_ties = fetch.with_ties;
            if with_ties && query.order_by.is_none() {
                return Err(Failure::new(
                    SqlState::SyntaxError,
                    "WITH TIES cannot be specified without ORDER BY clause",
                ));
            }
            limit = Some(fetch.quantity.as_ref().unwrap_or(&one));
        }
        Ok(Limits {
            limit: limit.map(|e| self.limit_value(e, "LIMIT")).transpose()?,
            offset: offset.map(|e| self.limit_value(e, "OFFSET")).transpose()?,
            with_ties,
        })
    }

    fn limit_value(&mut self, e: &ast::Expr, what: &str) -> Result<Expr> {
        if let ast::Expr::Identifier(ident) = e
            && ident.quote_style.is_none()
            && ident.value.eq_ignore_ascii_case("all")
        {
            return Ok(Expr::Constant(Value::Null, DataType::Int8));
        }
        self.scopes.push(Scope::default());
        let bound = self.expr(e);
        self.scopes.pop();
        let bound = bound?;
        if bound.any(|e| matches!(e, Expr::Column { .. })) {
            return Err(Failure::new(
                SqlState::InvalidColumnReference,
                format!("argument of {what} must not contain variables"),
            ));
        }
        if is_volatile(&bound) {
            return Err(Failure::unsupported(format!(
                "a volatile function as the argument of {what}"
            )));
        }
        if let Some(data_type) = type_of(&bound)
            && !casts_on_assignment(data_type, DataType::Int8)
        {
            return Err(Failure::new(
                SqlState::DatatypeMismatch,
                format!(
                    "argument of {what} must be type bigint, not type {}",
                    data_type.plain_name()
                ),
            ));
        }
        self.coerce(bound, DataType::Int8)
    }

    /// The query with no more rows than its limits let through.
    pub(super) fn limited(&mut self, mut query: Query, limits: Limits) -> Result<Query> {
        if !limits.is_some() {
            return Ok(query);
        }
        if limits.with_ties || limits.is_computed() {
            query.rel = self.numbered_limit(query.rel, limits)?;
        } else {
            query.rel = Rel::Limit {
                input: Box::new(query.rel),
                limit: limits.limit,
                offset: limits.offset,
            };
        }
        Ok(query)
    }

    fn numbered_limit(&mut self, rel: Rel, limits: Limits) -> Result<Rel> {
        let (input, keys) = match rel {
            Rel::Sort { input, keys } => (input, keys),
            other => (Box::new(other), Vec::new()),
        };
        let mut calls = Vec::new();
        let mut numbered = |binder: &mut Self, kind| {
            let id = binder.column_id();
            let call = WindowCall {
                kind,
                arguments: Vec::new(),
                filter: None,
                partition: Vec::new(),
                order: keys.clone(),
                frame: None,
                returns: DataType::Int8,
            };
            calls.push((id, call));
            Expr::column(id, DataType::Int8)
        };
        let number = numbered(self, WindowKind::RowNumber);
        let place = match limits.with_ties {
            true => numbered(self, WindowKind::Rank),
            false => number.clone(),
        };
        let mut terms = Vec::new();
        let offset = match limits.offset {
            None => bigint(0),
            Some(e) => {
                let e = self.checked_count("row_offset", e)?;
                let rows = Expr::Coalesce(vec![e, bigint(0)], DataType::Int8);
                terms.push(compare(CompareOp::Gt, number, rows.clone()));
                rows
            }
        };
        if let Some(limit) = limits.limit {
            let limit = self.checked_count("row_count", limit)?;
            // Without an overflow at the greatest count: place - offset <= limit.
            let within = self.call("-", vec![place, offset], Span::empty())?;
            let fits = Expr::And(vec![
                compare(CompareOp::LtEq, within, limit.clone()),
                compare(CompareOp::Gt, limit.clone(), bigint(0)),
            ]);
            terms.push(Expr::Or(vec![Expr::IsNull(Box::new(limit)), fits]));
        }
        let kept = Rel::Filter {
            input: Box::new(Rel::Window { input, calls }),
            predicate: Expr::all(terms),
        };
        Ok(match keys.is_empty() {
            true => kept,
            false => Rel::Sort {
                input: Box::new(kept),
                keys,
            },
        })
    }

    /// A count that fails when it is negative.
    fn checked_count(&mut self, name: &str, e: Expr) -> Result<Expr> {
        self.call(name, vec![e], Span::empty())
    }
}
