//! Names in scope: relations of a FROM clause and their columns.

use nodedb_types::{DataType, Failure, Result, SqlState};
use sqlparser::ast::{Ident, ObjectName, ObjectNamePart};
use sqlparser::tokenizer::Span;
use std::sync::Arc;

use super::Binder;
use crate::catalog::similar;
use crate::expr::Expr;
use crate::rel::{ColumnId, Scan};

/// A column that a query can name.
#[derive(Clone, Debug)]
pub(super) struct NamedColumn {
    pub name: String,
    pub id: ColumnId,
    pub data_type: DataType,
}

/// A relation of a FROM clause.
#[derive(Clone, Debug)]
pub(super) struct NamedRelation {
    pub name: String,
    pub columns: Vec<NamedColumn>,
    /// Columns that `*` and unqualified names leave out, because USING has merged them.
    pub merged: Vec<ColumnId>,
    /// The scan behind it, when it is a collection.
    pub scan: Option<Arc<Scan>>,
    /// A function of one value in FROM: its name as an expression is that value.
    pub scalar: bool,
}

/// What a query's own FROM clause brings.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub relations: Vec<NamedRelation>,
    /// Columns of USING and NATURAL, which stand first in `*`.
    pub merged: Vec<NamedColumn>,
}

/// An identifier as PostgreSQL reads it: lower case unless quoted.
pub(super) fn fold_case(ident: &Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    }
}

/// The parts of a name.
pub(super) fn name_parts(name: &ObjectName) -> Result<Vec<&Ident>> {
    name.0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => Ok(ident),
            ObjectNamePart::Function(_) => Err(Failure::unsupported("a computed name")),
        })
        .collect()
}

/// A schema (if given) and a name, without a database.
pub(super) fn schema_and_name(name: &ObjectName) -> Result<(Option<String>, String, Span)> {
    let parts = name_parts(name)?;
    match parts[..] {
        [name] => Ok((None, fold_case(name), name.span)),
        [schema, name] => Ok((Some(fold_case(schema)), fold_case(name), schema.span)),
        [_, schema, name] => Ok((Some(fold_case(schema)), fold_case(name), schema.span)),
        _ => Err(Failure::new(
            SqlState::SyntaxError,
            format!("improper qualified name (too many dotted names): {name}"),
        )),
    }
}

impl Scope {
    fn find(&self, relation: Option<&str>, column: &str) -> Vec<&NamedColumn> {
        let mut found = Vec::new();
        if relation.is_none() {
            found.extend(self.merged.iter().filter(|c| c.name == column));
        }
        for r in &self.relations {
            if relation.is_some_and(|name| name != r.name) {
                continue;
            }
            let open = |c: &&NamedColumn| relation.is_some() || !r.merged.contains(&c.id);
            found.extend(r.columns.iter().filter(|c| c.name == column).filter(open));
        }
        if relation.is_none() && found.is_empty() {
            let named = self
                .relations
                .iter()
                .filter(|r| r.scalar && r.name == column);
            found.extend(named.filter_map(|r| r.columns.first()));
        }
        found
    }

    /// Makes a relation of the columns that a join has merged: `USING (a, b) AS name`. They are
    /// named by it alone, besides standing in `*` as ever.
    pub(super) fn name_merged(&mut self, name: String, names: &[String]) -> Result<()> {
        if self.relations.iter().any(|r| r.name == name) {
            return Err(Failure::new(
                SqlState::DuplicateAlias,
                format!("table name \"{name}\" specified more than once"),
            ));
        }
        let own = |c: &&NamedColumn| names.contains(&c.name);
        let columns: Vec<NamedColumn> = self.merged.iter().filter(own).cloned().collect();
        self.relations.push(NamedRelation {
            name,
            merged: columns.iter().map(|c| c.id).collect(),
            columns,
            scan: None,
            scalar: false,
        });
        Ok(())
    }

    /// The columns that `*` stands for.
    pub(super) fn star(&self) -> Vec<NamedColumn> {
        let rest = self.relations.iter().flat_map(|r| {
            r.columns
                .iter()
                .filter(|c| !r.merged.contains(&c.id))
                .cloned()
        });
        self.merged.iter().cloned().chain(rest).collect()
    }
}

impl Binder<'_> {
    /// A column reference of one or more parts.
    pub(super) fn column(&mut self, parts: &[Ident]) -> Result<Expr> {
        let (relation, column) = match parts {
            [column] => (None, column),
            [relation, column] => (Some(fold_case(relation)), column),
            [schema, relation, column] => {
                let _ = schema;
                (Some(fold_case(relation)), column)
            }
            _ => {
                return Err(Failure::unsupported(
                    "a column name of more than three parts",
                ));
            }
        };
        let span = parts[0].span;
        let name = fold_case(column);
        for (depth, scope) in self.scopes.iter().rev().enumerate() {
            let found = scope.find(relation.as_deref(), &name);
            match found[..] {
                [] => {}
                [column] => {
                    return Ok(Expr::Column {
                        id: column.id,
                        data_type: column.data_type,
                        outer: depth > 0,
                    });
                }
                _ => {
                    let failure = Failure::new(
                        SqlState::AmbiguousColumn,
                        format!("column reference \"{name}\" is ambiguous"),
                    );
                    return Err(self.at(failure, span));
                }
            }
        }
        Err(self.at(self.no_column(relation.as_deref(), &name), span))
    }

    fn no_column(&self, relation: Option<&str>, name: &str) -> Failure {
        let relations = || self.scopes.iter().rev().flat_map(|s| &s.relations);
        if let Some(wanted) = relation
            && !relations().any(|r| r.name == wanted)
        {
            let failure = Failure::new(
                SqlState::UndefinedTable,
                format!("missing FROM-clause entry for table \"{wanted}\""),
            );
            return match similar(wanted, relations().map(|r| r.name.as_str())) {
                Some(near) => failure.with_hint(format!("Perhaps you meant \"{near}\".")),
                None => failure,
            };
        }
        let shown = match relation {
            Some(relation) => format!("column {relation}.{name} does not exist"),
            None => format!("column \"{name}\" does not exist"),
        };
        let failure = Failure::new(SqlState::UndefinedColumn, shown);
        let candidates: Vec<(String, &str)> = relations()
            .filter(|r| relation.is_none_or(|wanted| wanted == r.name))
            .flat_map(|r| {
                r.columns
                    .iter()
                    .map(|c| (format!("{}.{}", r.name, c.name), c.name.as_str()))
            })
            .collect();
        match similar(name, candidates.iter().map(|(_, column)| *column)) {
            Some(near) => {
                let full = candidates.iter().find(|(_, column)| *column == near);
                let full = full.map_or(near, |(full, _)| full.as_str());
                failure.with_hint(format!(
                    "Perhaps you meant to reference the column \"{full}\"."
                ))
            }
            None => failure,
        }
    }

    /// A relation in scope by its name, for `t.*` and functions of a relation.
    pub(super) fn relation_in_scope(&self, name: &str) -> Option<&NamedRelation> {
        self.scopes
            .iter()
            .rev()
            .find_map(|s| s.relations.iter().find(|r| r.name == name))
    }
}
