//! Expressions: what each syntax means, typed.

use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use sqlparser::ast::{self, BinaryOperator, Spanned, UnaryOperator};

use super::row::row_of;
use super::{Binder, Clause, type_of};
use crate::expr::types::{common_type, is_number};
use crate::expr::{CompareOp, Expr, Unknown};
use crate::rel::SubqueryKind;

impl Binder<'_> {
    /// A condition: bool, whatever it is called by.
    pub(super) fn condition(&mut self, e: &ast::Expr, what: &str) -> Result<Expr> {
        let span = e.span();
        let bound = self.expr(e)?;
        if !bound.is_unknown() && bound.data_type() != DataType::Bool {
            let failure = Failure::new(
                SqlState::DatatypeMismatch,
                format!(
                    "argument of {what} must be type boolean, not type {}",
                    bound.data_type().plain_name()
                ),
            );
            return Err(self.at(failure, span));
        }
        self.coerce(bound, DataType::Bool)
    }

    /// The condition of a clause, which is called otherwise where an aggregate stands in it.
    pub(super) fn clause_condition(
        &mut self,
        e: &ast::Expr,
        what: &str,
        clause: &'static str,
    ) -> Result<Expr> {
        let around = std::mem::replace(&mut self.clause, Clause::Named(clause));
        let bound = self.condition(e, what);
        self.clause = around;
        bound
    }

    /// An expression whose type is settled.
    pub(super) fn typed(&mut self, e: &ast::Expr) -> Result<Expr> {
        let bound = self.expr(e)?;
        self.settled(bound)
    }

    /// An expression whose type is settled; a literal or parameter takes that of its place.
    pub(super) fn typed_into(&mut self, e: &ast::Expr, place: Option<&DataType>) -> Result<Expr> {
        let bound = self.expr(e)?;
        match place {
            Some(place) if bound.is_unknown() => self.coerce(bound, *place),
            _ => self.settled(bound),
        }
    }

    /// An expression; a literal or parameter may still be of unknown type.
    pub(super) fn expr(&mut self, e: &ast::Expr) -> Result<Expr> {
        self.nested(|binder| binder.expr_node(e))
    }

    fn expr_node(&mut self, e: &ast::Expr) -> Result<Expr> {
        self.expressions += 1;
        use ast::Expr as E;
        match e {
            // A word of the language, which names no column unless it is quoted.
            E::Identifier(ident)
                if ident.quote_style.is_none()
                    && ident.value.eq_ignore_ascii_case("current_schema") =>
            {
                self.call("current_schema", Vec::new(), ident.span)
            }
            E::Identifier(ident) => self.column(std::slice::from_ref(ident)),
            E::CompoundIdentifier(parts) => self.column(parts),
            E::Nested(inner) => self.expr(inner),
            E::Value(value) => self.literal(value),
            E::TypedString(typed) => {
                let data_type = super::special::data_type(&typed.data_type)?;
                let text = string_value(&typed.value.value)?;
                let position = self.position(typed.value.span).unwrap_or(0);
                self.convert(
                    Expr::Unknown(Unknown::Text(text, position)),
                    data_type,
                    true,
                )
            }
            E::Interval(interval) => self.interval(interval),
            E::BinaryOp { left, op, right } => self.binary(left, op, right),
            E::UnaryOp { op, expr } => self.unary(*op, expr),
            E::IsNull(e) => self.is_null(e),
            E::IsNotNull(e) => match row_of(e) {
                Some(items) => self.row_is_null(&items, true),
                None => Ok(self.is_null(e)?.negate()),
            },
            E::IsTrue(e) => self.is_bool(e, "IS TRUE", true),
            E::IsNotTrue(e) => Ok(self.is_bool(e, "IS NOT TRUE", true)?.negate()),
            E::IsFalse(e) => self.is_bool(e, "IS FALSE", false),
            E::IsNotFalse(e) => Ok(self.is_bool(e, "IS NOT FALSE", false)?.negate()),
            E::IsUnknown(e) => {
                let e = self.condition(e, "IS UNKNOWN")?;
                Ok(Expr::IsNull(Box::new(e)))
            }
            E::IsNotUnknown(e) => {
                let e = self.condition(e, "IS NOT UNKNOWN")?;
                Ok(Expr::IsNull(Box::new(e)).negate())
            }
            E::IsDistinctFrom(l, r) => Ok(self.same(l, r)?.negate()),
            E::IsNotDistinctFrom(l, r) => self.same(l, r),
            E::InList {
                expr,
                list,
                negated,
            } => {
                let e = self.in_list(expr, &list.iter().collect::<Vec<_>>())?;
                Ok(if *negated { e.negate() } else { e })
            }
            E::InSubquery {
                expr,
                subquery,
                negated,
            } => {
                let e = self.subquery_compare(expr, subquery, SubqueryKind::In)?;
                Ok(if *negated { e.negate() } else { e })
            }
            E::Between {
                expr,
                negated,
                low,
                high,
            } => {
                let e = self.between(expr, low, high)?;
                Ok(if *negated { e.negate() } else { e })
            }
            E::Like {
                negated,
                any,
                expr,
                pattern,
                escape_char,
            } => self.like("~~", *negated, *any, expr, pattern, escape_char.as_ref()),
            E::ILike {
                negated,
                any,
                expr,
                pattern,
                escape_char,
            } => self.like("~~*", *negated, *any, expr, pattern, escape_char.as_ref()),
            E::SimilarTo {
                negated,
                expr,
                pattern,
                escape_char,
            } => self.similar_to(*negated, expr, pattern, escape_char.as_ref()),
            E::AnyOp {
                left,
                compare_op,
                right,
                ..
            } => self.quantified(left, compare_op, right, true),
            E::AllOp {
                left,
                compare_op,
                right,
            } => self.quantified(left, compare_op, right, false),
            E::Cast {
                kind: ast::CastKind::Cast | ast::CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
                array: false,
            } => self.cast(expr, data_type),
            E::AtTimeZone {
                timestamp,
                time_zone,
            } => self.function_of("timezone", &[&**time_zone, &**timestamp], e.span()),
            E::Extract { field, expr, .. } => self.extract(field, expr),
            E::Ceil {
                expr,
                field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime),
            } => self.function_of("ceil", &[&**expr], e.span()),
            E::Floor {
                expr,
                field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime),
            } => self.function_of("floor", &[&**expr], e.span()),
            E::Position { expr, r#in } => self.function_of("strpos", &[&**r#in, &**expr], e.span()),
            E::Substring {
                expr,
                substring_from,
                substring_for,
                ..
            } => self.substring(expr, substring_from.as_deref(), substring_for.as_deref()),
            E::Trim {
                trim_where,
                trim_what,
                expr,
                trim_characters,
            } => self.trim(
                *trim_where,
                trim_what.as_deref(),
                expr,
                trim_characters.as_deref(),
            ),
            E::Overlay {
                expr,
                overlay_what,
                overlay_from,
                overlay_for,
            } => {
                let mut arguments = vec![&**expr, &**overlay_what, &**overlay_from];
                arguments.extend(overlay_for.as_deref());
                self.function_of("overlay", &arguments, e.span())
            }
            E::Collate { expr, collation } => self.collate(expr, collation),
            E::Function(_) if row_of(e).is_some() => {
                Err(Failure::unsupported("a row constructor here"))
            }
            E::Function(function) => self.function(function),
            E::Case {
                operand,
                conditions,
                else_result,
                ..
            } => self.case(operand.as_deref(), conditions, else_result.as_deref()),
            E::Exists { subquery, negated } => {
                let e = self.exists(subquery)?;
                Ok(if *negated { e.negate() } else { e })
            }
            E::Subquery(query) => self.scalar_subquery(query),
            E::CompoundFieldAccess { root, access_chain } => self.subscript(root, access_chain),
            E::Tuple(_) => Err(Failure::unsupported("a row constructor here")),
            E::Array(_) => Err(Failure::unsupported("an array")),
            E::Prefixed { .. } => Err(Failure::unsupported("this kind of literal")),
            other => {
                let failure = Failure::unsupported(format!("the expression \"{other}\""));
                Err(self.at(failure, other.span()))
            }
        }
    }

    fn literal(&mut self, value: &ast::ValueWithSpan) -> Result<Expr> {
        let position = self.position(value.span).unwrap_or(0);
        match &value.value {
            ast::Value::Number(text, _) => number(text).map_err(|f| self.at(f, value.span)),
            ast::Value::Boolean(value) => Ok(Expr::bool(*value)),
            ast::Value::Null => Ok(Expr::Unknown(Unknown::Null)),
            ast::Value::Placeholder(name) => self.placeholder(name),
            other => Ok(Expr::Unknown(Unknown::Text(string_value(other)?, position))),
        }
    }

    fn placeholder(&mut self, name: &str) -> Result<Expr> {
        let number = name
            .strip_prefix('$')
            .and_then(|digits| digits.parse::<usize>().ok())
            .filter(|n| (1..=nodedb_types::limits::PARAMETERS_MAX).contains(n))
            .ok_or_else(|| {
                Failure::new(
                    SqlState::UndefinedParameter,
                    format!("there is no parameter {name}"),
                )
            })?;
        if self.parameters.len() < number {
            self.parameters.resize(number, None);
        }
        Ok(match self.parameters[number - 1] {
            Some(data_type) => Expr::Parameter(number - 1, data_type),
            None => Expr::Unknown(Unknown::Parameter(number - 1)),
        })
    }

    fn unary(&mut self, op: UnaryOperator, e: &ast::Expr) -> Result<Expr> {
        match op {
            UnaryOperator::Not => Ok(self.condition(e, "NOT")?.negate()),
            UnaryOperator::Plus => {
                let bound = self.expr(e)?;
                self.settled(bound)
            }
            UnaryOperator::Minus => {
                if let ast::Expr::Value(value) = e
                    && let ast::Value::Number(text, _) = &value.value
                {
                    return number(&format!("-{text}"));
                }
                self.function_of("-", &[e], e.span())
            }
            UnaryOperator::BitwiseNot => self.function_of("~", &[e], e.span()),
            UnaryOperator::PGAbs => self.function_of("abs", &[e], e.span()),
            UnaryOperator::PGSquareRoot => self.function_of("sqrt", &[e], e.span()),
            UnaryOperator::PGCubeRoot => self.function_of("cbrt", &[e], e.span()),
            other => Err(Failure::unsupported(format!("the operator {other}"))),
        }
    }

    fn is_null(&mut self, e: &ast::Expr) -> Result<Expr> {
        if let Some(items) = row_of(e) {
            return self.row_is_null(&items, false);
        }
        let bound = self.expr(e)?;
        // PostgreSQL cannot tell the type of a parameter here either.
        if let Expr::Unknown(Unknown::Parameter(index)) = bound {
            return Err(Failure::new(
                SqlState::IndeterminateDatatype,
                format!("could not determine data type of parameter ${}", index + 1),
            ));
        }
        let bound = self.settled(bound)?;
        Ok(Expr::IsNull(Box::new(bound)))
    }

    fn is_bool(&mut self, e: &ast::Expr, what: &str, wanted: bool) -> Result<Expr> {
        let e = self.condition(e, what)?;
        Ok(Expr::Same(Box::new(e), Box::new(Expr::bool(wanted))))
    }

    pub(super) fn same(&mut self, l: &ast::Expr, r: &ast::Expr) -> Result<Expr> {
        if let (Some(l), Some(r)) = (row_of(l), row_of(r)) {
            return self.same_rows(&l, &r);
        }
        let span = l.span();
        let (l, r) = (self.expr(l)?, self.expr(r)?);
        let (l, r) = self
            .alike(CompareOp::Eq, l, r)
            .map_err(|f| self.at(f, span))?;
        Ok(Expr::Same(Box::new(l), Box::new(r)))
    }

    pub(super) fn in_list(&mut self, e: &ast::Expr, list: &[&ast::Expr]) -> Result<Expr> {
        if row_of(e).is_some() {
            let terms = list
                .iter()
                .map(|item| self.compare_ast(CompareOp::Eq, e, item))
                .collect::<Result<Vec<_>>>()?;
            return Ok(Expr::Or(terms));
        }
        let span = e.span();
        let operand = self.expr(e)?;
        let items = list
            .iter()
            .map(|item| self.expr(item))
            .collect::<Result<Vec<_>>>()?;
        // One common type makes one list; else each item is compared by itself.
        let types = std::iter::once(&operand).chain(&items).map(type_of);
        match common_type("IN", types) {
            Ok(data_type) => {
                let data_type = if is_number(data_type) || operand.is_unknown() {
                    data_type
                } else {
                    crate::expr::types::plain(data_type)
                };
                let operand = self.coerce(operand, data_type)?;
                let items = items
                    .into_iter()
                    .map(|item| self.coerce(item, data_type))
                    .collect::<Result<Vec<_>>>()?;
                Ok(Expr::InList(Box::new(operand), items))
            }
            Err(_) => {
                let mut terms = Vec::new();
                for item in items {
                    let (l, r) = self
                        .alike(CompareOp::Eq, operand.clone(), item)
                        .map_err(|f| self.at(f, span))?;
                    terms.push(Expr::Compare(CompareOp::Eq, Box::new(l), Box::new(r)));
                }
                Ok(Expr::Or(terms))
            }
        }
    }

    fn binary(&mut self, left: &ast::Expr, op: &BinaryOperator, right: &ast::Expr) -> Result<Expr> {
        match op {
            BinaryOperator::And | BinaryOperator::Or => self.junction(left, op, right),
            _ => match super::operator::comparison(op) {
                Some(compare) => self.compare_ast(compare, left, right),
                None => self.operator(left, op, right),
            },
        }
    }

    /// A chain of one connective, however long, without recursion.
    fn junction(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
    ) -> Result<Expr> {
        let mut operands = vec![right];
        let mut rest = left;
        while let ast::Expr::BinaryOp {
            left,
            op: inner,
            right,
        } = rest
            && inner == op
        {
            operands.push(right);
            rest = left;
        }
        operands.push(rest);
        let and = *op == BinaryOperator::And;
        let what = if and { "AND" } else { "OR" };
        let terms = operands
            .into_iter()
            .rev()
            .map(|e| self.condition(e, what))
            .collect::<Result<Vec<_>>>()?;
        Ok(if and {
            Expr::And(terms)
        } else {
            Expr::Or(terms)
        })
    }

    fn case(
        &mut self,
        operand: Option<&ast::Expr>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
    ) -> Result<Expr> {
        let mut tests = Vec::new();
        let mut results = Vec::new();
        for when in conditions {
            tests.push(match operand {
                Some(operand) => self.compare_ast(CompareOp::Eq, operand, &when.condition)?,
                None => self.condition(&when.condition, "CASE/WHEN")?,
            });
            results.push(self.expr(&when.result)?);
        }
        results.push(match otherwise {
            Some(e) => self.expr(e)?,
            None => Expr::Unknown(Unknown::Null),
        });
        // PostgreSQL looks at ELSE first.
        let data_type = common_type(
            "CASE",
            results.iter().rev().take(1).chain(&results).map(type_of),
        )?;
        let mut results = results
            .into_iter()
            .map(|e| self.coerce(e, data_type))
            .collect::<Result<Vec<_>>>()?;
        let otherwise = Box::new(
            results
                .pop()
                .unwrap_or(Expr::Constant(Value::Null, data_type)),
        );
        Ok(Expr::Case {
            branches: tests.into_iter().zip(results).collect(),
            otherwise,
            data_type,
        })
    }
}

/// The text of a string literal, whichever way it is quoted.
pub(super) fn string_value(value: &ast::Value) -> Result<String> {
    match value {
        ast::Value::SingleQuotedString(s)
        | ast::Value::EscapedStringLiteral(s)
        | ast::Value::UnicodeStringLiteral(s)
        | ast::Value::NationalStringLiteral(s) => Ok(s.clone()),
        ast::Value::DollarQuotedString(s) => Ok(s.value.clone()),
        other => Err(Failure::unsupported(format!("the literal {other}"))),
    }
}

/// A literal with an exponent that has more digits than NUMERIC: whoever writes one means a float.
fn float_literal(text: &str) -> Option<Expr> {
    let value: f64 = text.parse().ok()?;
    let is_float = text.contains(['e', 'E']) && value.is_finite() && value != 0.0;
    is_float.then(|| Expr::Constant(Value::Float8(value), DataType::Float8))
}

/// A number without a type: integer, bigint, or numeric, the first that holds it.
pub(super) fn number(text: &str) -> Result<Expr> {
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        if let Ok(value) = text.parse::<i32>() {
            return Ok(Expr::Constant(Value::Int4(value), DataType::Int4));
        }
        if let Ok(value) = text.parse::<i64>() {
            return Ok(Expr::Constant(Value::Int8(value), DataType::Int8));
        }
    }
    let value = match nodedb_types::numeric::Numeric::parse(text) {
        Ok(value) => value,
        Err(failure) => return float_literal(text).ok_or(failure),
    };
    let data_type = super::numeric_type(&value);
    Ok(Expr::Constant(Value::Numeric(value), data_type))
}
