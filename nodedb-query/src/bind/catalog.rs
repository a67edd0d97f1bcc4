//! Catalog lookups: `regclass` and its like, `pg_get_indexdef` and other functions whose values
//! are known once the catalog is.
//!
//! A lookup by a column becomes a CASE over the catalog's entries, so nothing below the binder needs
//! the catalog; a plan is bound anew when the catalog changes.

use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use sqlparser::ast;

use super::{Binder, type_of};
use crate::catalog::CatalogType;
use crate::catalog_tables as tables;
use crate::expr::{CompareOp, Expr, Unknown};

const TEXT: DataType = DataType::Text(None);

impl Binder<'_> {
    /// A function that looks something up by OID.
    pub(super) fn catalog_call(
        &mut self,
        name: &str,
        arguments: &[&ast::Expr],
    ) -> Result<Option<Expr>> {
        let catalog = &self.context.catalog;
        let entries: Vec<(i64, Value)> = match name {
            "pg_get_indexdef" => tables::index_definitions(catalog),
            "pg_get_constraintdef" => tables::constraint_definitions(catalog),
            "pg_table_is_visible"
            | "pg_type_is_visible"
            | "pg_function_is_visible"
            | "pg_opclass_is_visible"
            | "pg_operator_is_visible"
            | "pg_collation_is_visible" => {
                return self.constant_for(arguments, Value::Bool(true), DataType::Bool);
            }
            "pg_get_expr"
            | "obj_description"
            | "col_description"
            | "shobj_description"
            | "pg_get_viewdef"
            | "pg_get_ruledef"
            | "pg_get_triggerdef"
            | "pg_get_serial_sequence"
            | "pg_get_statisticsobjdef_columns"
            | "pg_get_partkeydef"
            | "pg_get_partition_constraintdef"
            | "pg_get_function_result"
            | "pg_get_function_arguments"
            | "pg_get_function_identity_arguments"
            | "pg_get_functiondef"
            | "pg_tablespace_location" => {
                return self.constant_for(arguments, Value::Null, TEXT);
            }
            // Files hold rows of all collections, so bytes are not known of one: NULL, as of an
            // object that there is not.
            "pg_relation_size"
            | "pg_total_relation_size"
            | "pg_table_size"
            | "pg_indexes_size"
            | "pg_database_size" => {
                return self.constant_for(arguments, Value::Null, DataType::Int8);
            }
            "to_regclass" => {
                let [e] = arguments else {
                    return Ok(None);
                };
                return self.lookup_name(e, false).map(Some);
            }
            "array_to_string" => return self.array_of_query(arguments),
            _ => return Ok(None),
        };
        let Some(first) = arguments.first() else {
            return Ok(None);
        };
        let operand = self.expr(first)?;
        let operand = self.coerce(operand, DataType::Int8)?;
        // pg_get_indexdef(index, column, pretty) names one column.
        let column = match arguments.get(1) {
            Some(e) if name == "pg_get_indexdef" => Some(self.typed(e)?),
            _ => None,
        };
        if let Some(column) = column
            && column.constant() != Some(&Value::Int4(0))
        {
            return self.index_column(operand, column).map(Some);
        }
        Ok(Some(case_of(operand, entries, TEXT, null(TEXT))))
    }

    fn index_column(&mut self, index: Expr, column: Expr) -> Result<Expr> {
        let column = self.coerce(column, DataType::Int8)?;
        let mut branches = Vec::new();
        for (oid, position, name) in tables::index_columns(&self.context.catalog) {
            let same = Expr::And(vec![
                equals(index.clone(), oid),
                equals(column.clone(), position),
            ]);
            branches.push((same, Expr::Constant(Value::Text(name), TEXT)));
        }
        Ok(Expr::Case {
            branches,
            otherwise: Box::new(null(TEXT)),
            data_type: TEXT,
        })
    }

    /// The arguments are bound, for their errors and parameters, and a constant stands for the call.
    fn constant_for(
        &mut self,
        arguments: &[&ast::Expr],
        value: Value,
        data_type: DataType,
    ) -> Result<Option<Expr>> {
        for e in arguments {
            self.typed(e)?;
        }
        Ok(Some(Expr::Constant(value, data_type)))
    }

    /// `array_to_string(ARRAY(SELECT …), separator)` is a `string_agg`.
    fn array_of_query(&mut self, arguments: &[&ast::Expr]) -> Result<Option<Expr>> {
        let [ast::Expr::Function(array), separator] = arguments else {
            return Ok(None);
        };
        let ast::FunctionArguments::Subquery(query) = &array.args else {
            return Ok(None);
        };
        let separator = self.expr(separator)?;
        let separator = self.coerce(separator, TEXT)?;
        self.aggregated_subquery(query, separator).map(Some)
    }

    /// A cast to a reg* type or another name of the catalog's own.
    pub(super) fn registered_cast(&mut self, e: &ast::Expr, name: &str) -> Result<Expr> {
        match name {
            "regclass" => self.lookup_name(e, true),
            "oid" => {
                let bound = self.expr(e)?;
                self.show_parameter(&bound, Some(CatalogType::Oid));
                self.convert(bound, DataType::Int8, true)
            }
            "regtype" => {
                let bound = self.expr(e)?;
                match bound {
                    Expr::Unknown(Unknown::Text(text, _)) => tables::type_oid(&text)
                        .map(|oid| Expr::Constant(Value::Int8(oid), DataType::Int8))
                        .ok_or_else(|| {
                            Failure::new(
                                SqlState::UndefinedObject,
                                format!("type \"{text}\" does not exist"),
                            )
                        }),
                    bound => {
                        let oid = self.coerce(bound, DataType::Int8)?;
                        let minus = Expr::Constant(Value::Int4(-1), DataType::Int4);
                        self.call(
                            "format_type",
                            vec![oid, minus],
                            sqlparser::tokenizer::Span::empty(),
                        )
                    }
                }
            }
            "regnamespace" => {
                let bound = self.expr(e)?;
                if let Expr::Unknown(Unknown::Text(text, _)) = &bound {
                    return tables::namespace_oid(text)
                        .map(|oid| Expr::Constant(Value::Int8(oid), DataType::Int8))
                        .ok_or_else(|| {
                            Failure::new(
                                SqlState::UndefinedObject,
                                format!("schema \"{text}\" does not exist"),
                            )
                        });
                }
                let oid = self.coerce(bound, DataType::Int8)?;
                Ok(oid_text(oid, tables::namespace_names()))
            }
            // Functions, roles and plain names show as they are.
            _ => {
                let bound = self.expr(e)?;
                self.convert(bound, TEXT, true)
            }
        }
    }

    /// `'name'::regclass` is a relation's OID, `oid::regclass` its name.
    fn lookup_name(&mut self, e: &ast::Expr, must_exist: bool) -> Result<Expr> {
        let bound = self.expr(e)?;
        let names = tables::relation_names(&self.context.catalog);
        match bound {
            Expr::Unknown(Unknown::Text(text, position)) => {
                if let Ok(oid) = text.parse::<i64>() {
                    return Ok(Expr::Constant(Value::Int8(oid), DataType::Int8));
                }
                let wanted = tables::bare_name(&text);
                let found = names.iter().find(|(_, name)| *name == wanted);
                match found {
                    Some((oid, _)) => Ok(Expr::Constant(Value::Int8(*oid), DataType::Int8)),
                    None if !must_exist => Ok(null(DataType::Int8)),
                    None => {
                        let failure = Failure::new(
                            SqlState::UndefinedTable,
                            format!("relation \"{text}\" does not exist"),
                        );
                        Err(if position > 0 {
                            failure.at(position)
                        } else {
                            failure
                        })
                    }
                }
            }
            bound => match type_of(&bound) {
                Some(DataType::Text(_)) => {
                    let entries = names
                        .into_iter()
                        .map(|(oid, name)| {
                            let test = Expr::Compare(
                                CompareOp::Eq,
                                Box::new(bound.clone()),
                                Box::new(Expr::Constant(Value::Text(name), TEXT)),
                            );
                            (test, Expr::Constant(Value::Int8(oid), DataType::Int8))
                        })
                        .collect();
                    Ok(Expr::Case {
                        branches: entries,
                        otherwise: Box::new(null(DataType::Int8)),
                        data_type: DataType::Int8,
                    })
                }
                _ => {
                    let oid = self.coerce(bound, DataType::Int8)?;
                    Ok(oid_text(oid, names))
                }
            },
        }
    }
}

fn null(data_type: DataType) -> Expr {
    Expr::Constant(Value::Null, data_type)
}

fn equals(e: Expr, oid: i64) -> Expr {
    Expr::Compare(
        CompareOp::Eq,
        Box::new(e),
        Box::new(Expr::Constant(Value::Int8(oid), DataType::Int8)),
    )
}

fn case_of(
    operand: Expr,
    entries: Vec<(i64, Value)>,
    data_type: DataType,
    otherwise: Expr,
) -> Expr {
    Expr::Case {
        branches: entries
            .into_iter()
            .map(|(oid, value)| {
                (
                    equals(operand.clone(), oid),
                    Expr::Constant(value, data_type),
                )
            })
            .collect(),
        otherwise: Box::new(otherwise),
        data_type,
    }
}

/// The name behind an OID; the number itself where there is none.
fn oid_text(oid: Expr, names: Vec<(i64, String)>) -> Expr {
    let number = Expr::Cast {
        operand: Box::new(oid.clone()),
        to: TEXT,
        explicit: true,
    };
    let entries = names
        .into_iter()
        .map(|(oid, name)| (oid, Value::Text(name)))
        .collect();
    case_of(oid, entries, TEXT, number)
}
