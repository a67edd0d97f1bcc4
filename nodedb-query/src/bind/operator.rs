//! Operators: comparisons, which the engine knows itself, and those that are functions.

use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use sqlparser::ast::{self, BinaryOperator, Spanned};
use sqlparser::tokenizer::Span;

use super::row::row_of;
use super::special;
use super::{Binder, type_of};
use crate::expr::types::{common_type, comparison_type, plain};
use crate::expr::{CompareOp, Expr};
use crate::function::compare::is_ordered;
use crate::function::resolve::{resolve, undefined};
use crate::function::{Kernel, Volatility};
use crate::rel::SubqueryKind;

/// The comparison behind an operator, if it is one.
pub(super) fn comparison(op: &BinaryOperator) -> Option<CompareOp> {
    Some(match op {
        BinaryOperator::Eq => CompareOp::Eq,
        BinaryOperator::NotEq => CompareOp::NotEq,
        BinaryOperator::Lt => CompareOp::Lt,
        BinaryOperator::LtEq => CompareOp::LtEq,
        BinaryOperator::Gt => CompareOp::Gt,
        BinaryOperator::GtEq => CompareOp::GtEq,
        // OPERATOR(pg_catalog.=), as psql writes.
        BinaryOperator::PGCustomBinaryOperator(parts) => match parts.last()?.as_str() {
            "=" => CompareOp::Eq,
            "<>" | "!=" => CompareOp::NotEq,
            "<" => CompareOp::Lt,
            "<=" => CompareOp::LtEq,
            ">" => CompareOp::Gt,
            ">=" => CompareOp::GtEq,
            _ => return None,
        },
        _ => return None,
    })
}

/// The symbol of an operator, by which its functions are named.
fn symbol(op: &BinaryOperator) -> Result<String> {
    Ok(match op {
        BinaryOperator::PGCustomBinaryOperator(parts) => parts.last().cloned().unwrap_or_default(),
        BinaryOperator::Custom(symbol) => symbol.clone(),
        BinaryOperator::PGExp | BinaryOperator::BitwiseXor => "^".to_owned(),
        BinaryOperator::PGBitwiseXor => "#".to_owned(),
        // sqlparser reads pgvector's <=> as another system's comparison.
        BinaryOperator::Spaceship => "<=>".to_owned(),
        BinaryOperator::Xor
        | BinaryOperator::DuckIntegerDivide
        | BinaryOperator::MyIntegerDivide
        | BinaryOperator::Match
        | BinaryOperator::Regexp
        | BinaryOperator::Assignment => {
            return Err(Failure::new(
                SqlState::SyntaxError,
                format!("syntax error at or near \"{op}\""),
            ));
        }
        other => other.to_string(),
    })
}

fn is_element(e: &Expr) -> bool {
    matches!(e, Expr::Call { function, .. } if function.name == "array_element")
}

impl Binder<'_> {
    pub(super) fn compare_ast(
        &mut self,
        op: CompareOp,
        left: &ast::Expr,
        right: &ast::Expr,
    ) -> Result<Expr> {
        if let (Some(l), Some(r)) = (row_of(left), row_of(right)) {
            return self.compare_rows(op, &l, &r);
        }
        let span = left.span();
        let (l, r) = (self.expr(left)?, self.expr(right)?);
        self.compare(op, l, r).map_err(|f| self.at(f, span))
    }

    pub(super) fn compare(&mut self, op: CompareOp, l: Expr, r: Expr) -> Result<Expr> {
        let (l, r) = self.alike(op, l, r)?;
        Ok(Expr::Compare(op, Box::new(l), Box::new(r)))
    }

    /// Casts two operands to the type in which they are compared.
    pub(super) fn alike(&mut self, op: CompareOp, l: Expr, r: Expr) -> Result<(Expr, Expr)> {
        self.show_parameter(&l, self.shown_as(&r));
        self.show_parameter(&r, self.shown_as(&l));
        let data_type = match (type_of(&l), type_of(&r)) {
            (None, None) => DataType::Text(None),
            (Some(t), None) | (None, Some(t)) => match t {
                // A literal beside a numeric keeps its own digits.
                DataType::Numeric(_) => DataType::Numeric(None),
                DataType::Text(_) => DataType::Text(None),
                other => other,
            },
            // An array's element is text of a type that its array does not tell.
            (Some(_), Some(b)) if is_element(&l) => b,
            (Some(a), Some(_)) if is_element(&r) => a,
            (Some(a), Some(b)) => {
                comparison_type(a, b).ok_or_else(|| undefined(op.symbol(), &[Some(a), Some(b)]))?
            }
        };
        let has_order = is_ordered(data_type) || data_type == DataType::Jsonb;
        if !has_order && !matches!(op, CompareOp::Eq | CompareOp::NotEq) {
            return Err(undefined(op.symbol(), &[type_of(&l), type_of(&r)]));
        }
        if let (DataType::Numeric(None), true) = (data_type, l.is_unknown() || r.is_unknown()) {
            // Known digits on both sides compare without the widest form.
            let (l, r) = (self.coerce(l, data_type)?, self.coerce(r, data_type)?);
            let both = crate::expr::types::exact_type(l.data_type(), r.data_type());
            return Ok((self.coerce(l, both)?, self.coerce(r, both)?));
        }
        Ok((self.coerce(l, data_type)?, self.coerce(r, data_type)?))
    }

    /// An operator that is not a comparison.
    pub(super) fn operator(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
    ) -> Result<Expr> {
        let span = left.span();
        let symbol = symbol(op)?;
        let (l, r) = (self.expr(left)?, self.expr(right)?);
        let is_array = |e: &ast::Expr| {
            matches!(e, ast::Expr::Array(_))
                || matches!(
                    e,
                    ast::Expr::Cast {
                        data_type: ast::DataType::Array(_),
                        ..
                    }
                )
        };
        let (symbol, negated) = match symbol.as_str() {
            // Arrays are their text, so the type of the operand is told here.
            "-" if is_array(right) => ("jsonb_delete_array", false),
            "!~" => ("~", true),
            "!~*" => ("~*", true),
            "!~~" => ("~~", true),
            "!~~*" => ("~~*", true),
            other => (other, false),
        };
        let call = self.call(symbol, vec![l, r], span)?;
        Ok(if negated { call.negate() } else { call })
    }

    /// A call of a function by name, its arguments still to be bound.
    pub(super) fn function_of(
        &mut self,
        name: &str,
        arguments: &[&ast::Expr],
        span: Span,
    ) -> Result<Expr> {
        let arguments = arguments
            .iter()
            .map(|e| self.expr(e))
            .collect::<Result<Vec<_>>>()?;
        self.call(name, arguments, span)
    }

    /// A call of the best overload, arguments cast to what it declares.
    pub(super) fn call(&mut self, name: &str, arguments: Vec<Expr>, span: Span) -> Result<Expr> {
        let types: Vec<Option<DataType>> = arguments.iter().map(type_of).collect();
        let resolved = resolve(name, &types).map_err(|f| self.at(f, span))?;
        let arguments = arguments
            .into_iter()
            .zip(&resolved.arguments)
            .map(|(e, to)| self.coerce(e, *to))
            .collect::<Result<Vec<_>>>()?;
        if resolved.function.volatility == Volatility::Volatile
            && matches!(resolved.function.kernel, Kernel::Volatile(_))
        {
            return Ok(Expr::Volatile {
                function: resolved.function,
                returns: resolved.returns,
                state: None,
            });
        }
        let returns = match (name, &arguments[..]) {
            // Rounded to a constant number of digits, it shows as many.
            ("round" | "trunc", [_, Expr::Constant(Value::Int4(scale @ 0..=18), _)]) => {
                DataType::Numeric(Some((38, *scale as u8)))
            }
            _ => resolved.returns,
        };
        Ok(Expr::Call {
            function: resolved.function,
            arguments,
            returns,
        })
    }

    pub(super) fn like(
        &mut self,
        name: &str,
        negated: bool,
        any: bool,
        e: &ast::Expr,
        pattern: &ast::Expr,
        escape: Option<&ast::ValueWithSpan>,
    ) -> Result<Expr> {
        if any {
            return Err(Failure::unsupported("LIKE ANY"));
        }
        let span = e.span();
        let mut arguments = vec![self.expr(e)?, self.expr(pattern)?];
        if let Some(escape) = escape {
            let text = super::expression::string_value(&escape.value)?;
            arguments.push(Expr::Constant(
                nodedb_types::Value::Text(text),
                DataType::Text(None),
            ));
        }
        let call = self.call(name, arguments, span)?;
        Ok(if negated { call.negate() } else { call })
    }

    /// `SIMILAR TO`: a match of the regular expression that the pattern stands for.
    pub(super) fn similar_to(
        &mut self,
        negated: bool,
        e: &ast::Expr,
        pattern: &ast::Expr,
        escape: Option<&ast::ValueWithSpan>,
    ) -> Result<Expr> {
        let span = e.span();
        let left = self.expr(e)?;
        let mut arguments = vec![self.expr(pattern)?];
        if let Some(escape) = escape {
            let text = super::expression::string_value(&escape.value)?;
            let text_type = DataType::Text(None);
            arguments.push(Expr::Constant(nodedb_types::Value::Text(text), text_type));
        }
        let pattern = self.call("similar_to_escape", arguments, span)?;
        let call = self.call("~", vec![left, pattern], span)?;
        Ok(if negated { call.negate() } else { call })
    }

    /// `left op ANY (right)` and ALL: over a subquery, or over the text of an array.
    pub(super) fn quantified(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
        any: bool,
    ) -> Result<Expr> {
        let right = match right {
            ast::Expr::Nested(inner) => inner,
            other => other,
        };
        if let ast::Expr::Subquery(query) = right {
            let op = comparison(op)
                .ok_or_else(|| Failure::unsupported(format!("{op} ANY over a subquery")))?;
            return self.subquery_compare(
                left,
                query,
                match (any, op) {
                    (true, CompareOp::Eq) => SubqueryKind::In,
                    (true, op) => SubqueryKind::Any(op),
                    (false, op) => SubqueryKind::All(op),
                },
            );
        }
        let elements = match right {
            ast::Expr::Array(array) => array.elem.iter().collect::<Vec<_>>(),
            ast::Expr::Cast { expr, .. } if matches!(**expr, ast::Expr::Array(_)) => {
                match &**expr {
                    ast::Expr::Array(array) => array.elem.iter().collect(),
                    _ => Vec::new(),
                }
            }
            _ => return self.over_array_text(left, op, right, any),
        };
        let compare = comparison(op);
        match (compare, any, elements.len()) {
            (Some(CompareOp::Eq), true, 1..) => return self.in_list(left, &elements),
            (Some(CompareOp::NotEq), false, 1..) => {
                return Ok(self.in_list(left, &elements)?.negate());
            }
            _ => {}
        }
        let mut terms = Vec::new();
        for element in elements {
            terms.push(match compare {
                Some(compare) => self.compare_ast(compare, left, element)?,
                None => self.operator(left, op, element)?,
            });
        }
        Ok(match (terms.len(), any) {
            (0, any) => Expr::bool(!any),
            (_, true) => Expr::Or(terms),
            (_, false) => Expr::And(terms),
        })
    }

    /// Arrays exist as their text only: `= ANY (expression)` reads elements of the operand's type, or
    /// of the one that a cast names, from it.
    fn over_array_text(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
        any: bool,
    ) -> Result<Expr> {
        let span = left.span();
        match (comparison(op), any) {
            (Some(CompareOp::Eq), true) => {}
            (Some(CompareOp::NotEq), false) => {
                let equal = self.over_array_text(left, &BinaryOperator::Eq, right, true)?;
                return Ok(equal.negate());
            }
            _ => return Err(Failure::unsupported(format!("{op} over an array"))),
        }
        // `'{1.5}'::numeric[]` is text, but what its elements are is said.
        let declared = match right {
            ast::Expr::Cast {
                data_type: ast::DataType::Array(ast::ArrayElemTypeDef::SquareBracket(inner, _)),
                ..
            } => special::data_type(inner).ok(),
            _ => None,
        };
        let left = self.typed(left)?;
        let own = plain(left.data_type());
        let element = declared.unwrap_or(own);
        let compared = comparison_type(own, element)
            .ok_or_else(|| self.at(undefined("=", &[Some(own), Some(element)]), span))?;
        let left = self.coerce(left, compared)?;
        let right = self.expr(right)?;
        if let Some(data_type) = type_of(&right)
            && plain(data_type) != DataType::Text(None)
        {
            return Err(Failure::new(
                SqlState::WrongObjectType,
                "op ANY/ALL (array) requires array on right side",
            ));
        }
        Ok(Expr::InArray {
            operand: Box::new(left),
            array: Box::new(self.coerce(right, DataType::Text(None))?),
            element,
        })
    }

    /// Casts of several expressions to their common type.
    pub(super) fn unified(
        &mut self,
        what: &str,
        items: Vec<Expr>,
    ) -> Result<(Vec<Expr>, DataType)> {
        let data_type = common_type(what, items.iter().map(type_of))?;
        let items = items
            .into_iter()
            .map(|e| self.coerce(e, data_type))
            .collect::<Result<Vec<_>>>()?;
        Ok((items, data_type))
    }
}
