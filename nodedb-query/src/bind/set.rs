//! Functions that give rows: in FROM and in a select list.

use nodedb_types::{DataType, Failure, Result, SqlState};
use sqlparser::ast::{self, Spanned};

use super::from::named;
use super::name::{NamedColumn, NamedRelation, Scope, fold_case, schema_and_name};
use super::{Binder, type_of};
use crate::expr::Expr;
use crate::function::resolve::undefined;
use crate::function::set::{is_set_function, record, set_function};
use crate::rel::{ColumnId, JoinKind, Rel, SetCall, SetCallKind};

/// The rows of a relation, once for each value of these calls.
pub(super) fn expanded(rel: Rel, mut calls: Vec<(ColumnId, SetCall)>) -> Rel {
    if calls.is_empty() {
        return rel;
    }
    let is_fixed = |e: &Expr| !e.has_subquery() && !e.any(|e| matches!(e, Expr::Column { .. }));
    if let [(column, call)] = &mut calls[..]
        && matches!(call.kind, SetCallKind::Series)
        && call.arguments.iter().all(is_fixed)
    {
        // The same numbers beside every row: they need not be in memory.
        let series = Rel::Series {
            column: *column,
            data_type: call.returns,
            arguments: std::mem::take(&mut call.arguments),
        };
        return Rel::Join {
            kind: JoinKind::Inner,
            left: Box::new(rel),
            right: Box::new(series),
            on: Expr::bool(true),
        };
    }
    Rel::Expand {
        input: Box::new(rel),
        calls,
    }
}

impl Binder<'_> {
    /// A call in an expression: a column of what the select list is computed from.
    pub(super) fn set_call(&mut self, name: &str, call: &ast::Function) -> Result<Expr> {
        let span = call.name.span();
        let Some(calls) = self.sets.take() else {
            let failure = Failure::unsupported("a set-returning function here")
                .with_hint("call it in FROM or in the select list");
            return Err(self.at(failure, span));
        };
        // One inside another is refused.
        let bound = self
            .plain_arguments(call)
            .and_then(|list| {
                let argument = |e: &ast::Expr| {
                    check_unnest(name, e)?;
                    self.expr(e)
                };
                list.into_iter().map(argument).collect()
            })
            .and_then(|arguments| self.set_parts(name, arguments));
        self.sets = Some(calls);
        let bound = bound.map_err(|f| self.at(f, span))?;
        let returns = bound.returns;
        let id = self.column_id();
        self.sets.get_or_insert_with(Vec::new).push((id, bound));
        Ok(Expr::column(id, returns))
    }

    fn set_parts(&mut self, name: &str, arguments: Vec<Expr>) -> Result<SetCall> {
        if name == "generate_series" {
            return self.series(arguments);
        }
        let types: Vec<Option<DataType>> = arguments.iter().map(type_of).collect();
        let function =
            set_function(name, arguments.len()).ok_or_else(|| undefined(name, &types))?;
        let fits = types.iter().zip(function.arguments).all(|(from, to)| {
            from.is_none_or(|from| crate::expr::types::casts_implicitly(from, *to))
        });
        if !fits {
            return Err(undefined(name, &types));
        }
        let arguments = arguments
            .into_iter()
            .zip(function.arguments)
            .map(|(e, to)| self.coerce(e, *to))
            .collect::<Result<Vec<_>>>()?;
        Ok(SetCall {
            kind: SetCallKind::Function(function),
            arguments,
            returns: function.returns,
        })
    }

    /// `generate_series(…)` and its like, and functions of one value, as relations. What stands
    /// before them in FROM is in their sight.
    pub(super) fn table_function(
        &mut self,
        name: &ast::ObjectName,
        arguments: &[ast::FunctionArg],
        alias: Option<&ast::TableAlias>,
    ) -> Result<(Rel, NamedRelation)> {
        let (_, function, span) = schema_and_name(name)?;
        self.relation_id()?;
        let mut bound = Vec::new();
        for argument in arguments {
            let ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) = argument else {
                return Err(Failure::unsupported("named arguments in FROM"));
            };
            check_unnest(&function, e)?;
            bound.push(self.beside(e)?);
        }
        if let Some(parts) = record(&function) {
            return self
                .record_function(&function, parts, bound, alias)
                .map_err(|f| self.at(f, span));
        }
        let column = self.column_id();
        let (rel, data_type) = if is_set_function(&function) {
            let call = self
                .set_parts(&function, bound)
                .map_err(|f| self.at(f, span))?;
            (relation_of(column, call), None)
        } else {
            let call = self.call(&function, bound, span)?;
            let data_type = call.data_type();
            let rel = Rel::Values {
                columns: vec![(column, data_type)],
                rows: vec![vec![call]],
            };
            (rel, Some(data_type))
        };
        let data_type = data_type
            .or_else(|| rel.columns().first().map(|(_, t)| *t))
            .ok_or_else(|| Failure::internal("a function without a result"))?;
        // An alias of the relation names its only column too; jsonb's elements are values.
        let own = match function.as_str() {
            "jsonb_array_elements" | "jsonb_array_elements_text" => "value".to_owned(),
            _ => function.clone(),
        };
        let shown = match alias {
            Some(alias) if own == function => fold_case(&alias.name),
            _ => own,
        };
        let columns = vec![NamedColumn {
            name: shown,
            id: column,
            data_type,
        }];
        let mut relation = named(function, columns, alias)?;
        relation.scalar = true;
        Ok((rel, relation))
    }

    /// A function that gives rows of several columns, each a function of one value.
    fn record_function(
        &mut self,
        function: &str,
        parts: &[(&str, &str)],
        arguments: Vec<Expr>,
        alias: Option<&ast::TableAlias>,
    ) -> Result<(Rel, NamedRelation)> {
        let mut calls = Vec::with_capacity(parts.len());
        let mut columns = Vec::with_capacity(parts.len());
        for (name, part) in parts {
            let call = self.set_parts(part, arguments.clone()).map_err(|failure| {
                let types: Vec<Option<DataType>> = arguments.iter().map(type_of).collect();
                match failure.code() {
                    SqlState::UndefinedFunction => undefined(function, &types),
                    _ => failure,
                }
            })?;
            let id = self.column_id();
            columns.push(NamedColumn {
                name: (*name).to_owned(),
                id,
                data_type: call.returns,
            });
            calls.push((id, call));
        }
        let rel = Rel::Expand {
            input: Box::new(no_columns()),
            calls,
        };
        Ok((rel, named(function.to_owned(), columns, alias)?))
    }

    /// An argument of a relation, which refers to others as a query inside would.
    fn beside(&mut self, e: &ast::Expr) -> Result<Expr> {
        let grouping = self.grouping.take();
        let windows = self.windows.take();
        self.scopes.push(Scope::default());
        let bound = self.expr(e);
        self.scopes.pop();
        self.grouping = grouping;
        self.windows = windows;
        bound
    }

    fn series(&mut self, arguments: Vec<Expr>) -> Result<SetCall> {
        let types: Vec<Option<DataType>> = arguments.iter().map(type_of).collect();
        let undefined = || undefined("generate_series", &types);
        if !(2..=3).contains(&arguments.len()) {
            return Err(undefined());
        }
        let bounds = crate::expr::types::common_type("generate_series", types[..2].to_vec())?;
        let is_date = types[..2]
            .iter()
            .flatten()
            .any(|t| matches!(t, DataType::Date));
        let (data_type, step) = match bounds {
            DataType::Int2 | DataType::Int4 => match types.get(2).copied().flatten() {
                Some(DataType::Int8) => (DataType::Int8, DataType::Int8),
                _ => (DataType::Int4, DataType::Int4),
            },
            DataType::Int8 => (DataType::Int8, DataType::Int8),
            // Dates are times of a time zone, as PostgreSQL prefers among what they cast to.
            DataType::Date if arguments.len() == 3 && is_date => {
                (DataType::TimestampTz, DataType::Interval)
            }
            DataType::Timestamp if arguments.len() == 3 => {
                (DataType::Timestamp, DataType::Interval)
            }
            DataType::TimestampTz if arguments.len() == 3 => {
                (DataType::TimestampTz, DataType::Interval)
            }
            DataType::Text(_) if types[..2].iter().all(Option::is_none) => {
                (DataType::Int4, DataType::Int4)
            }
            _ => return Err(undefined()),
        };
        let mut cast = Vec::new();
        for (i, e) in arguments.into_iter().enumerate() {
            cast.push(self.coerce(e, if i < 2 { data_type } else { step })?);
        }
        Ok(SetCall {
            kind: SetCallKind::Series,
            arguments: cast,
            returns: data_type,
        })
    }
}

/// 0A000 for the elements of an array that is said to be of another type than text.
fn check_unnest(function: &str, argument: &ast::Expr) -> Result<()> {
    let ast::Expr::Cast {
        data_type: ast::DataType::Array(ast::ArrayElemTypeDef::SquareBracket(inner, _)),
        ..
    } = argument
    else {
        return Ok(());
    };
    match super::special::data_type(inner) {
        Ok(DataType::Text(_)) => Ok(()),
        _ if function != "unnest" => Ok(()),
        _ => Err(Failure::unsupported(
            "unnest of an array of another type than text",
        )),
    }
}

/// One row without columns.
fn no_columns() -> Rel {
    Rel::Values {
        columns: Vec::new(),
        rows: vec![Vec::new()],
    }
}

/// A call in FROM.
fn relation_of(column: ColumnId, call: SetCall) -> Rel {
    match call.kind {
        SetCallKind::Series => Rel::Series {
            column,
            data_type: call.returns,
            arguments: call.arguments,
        },
        SetCallKind::Function(_) => Rel::Expand {
            input: Box::new(no_columns()),
            calls: vec![(column, call)],
        },
    }
}
