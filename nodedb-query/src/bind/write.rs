//! INSERT, UPDATE and DELETE.
//!
//! What is bound here becomes, when instantiated, writes by key where every key is known, else a
//! read whose rows a [`Sink`] turns into staged rows.

mod instantiate;

use std::sync::Arc;

use nodedb_bridge::expression::RowRewrite;
use nodedb_bridge::plan::{OnConflict, OutputColumn, RowAction, RowWrite};
use nodedb_types::{Collection, DataType, Failure, Result, SqlState, Value};
use sqlparser::ast;

use super::name::{NamedColumn, NamedRelation, Scope, fold_case, schema_and_name};
use super::row::row_of;
use super::select::exact;
use super::{Binder, Query, Template, type_of};
use crate::catalog::ResultColumn;
use crate::expr::compiled::positioned;
use crate::expr::fold::Given;
use crate::expr::rewrite::Change;
use crate::expr::types::casts_on_assignment;
use crate::expr::{Expr, Unknown};
use crate::plan::{
    Command, Plan, Projection, Returning, Sink, SinkKind, WritePlan, WriteSource, distinct,
    insert_row, key_bytes, shard_of,
};
use crate::rel::{ColumnId, JoinKind, Rel, Scan};
use crate::rules;

/// Ids of an UPDATE's new values, above those that the binder gives.
const NEW_VALUES: u32 = u32::MAX / 8;

/// A bound write.
pub(super) struct WriteTemplate {
    command: Command,
    collection: Arc<Collection>,
    returning: Option<Arc<Returning>>,
    kind: WriteKind,
}

enum WriteKind {
    /// A row of expressions each, as wide as the collection.
    Rows {
        rows: Vec<Vec<Expr>>,
        conflict: Conflict,
    },
    Query {
        query: Query,
        conflict: Conflict,
    },
    /// `assignments` is `None` for DELETE.
    Change {
        rel: Rel,
        scan: Scan,
        assignments: Option<Vec<(usize, Expr)>>,
        /// Columns of what the collection is joined with, for RETURNING.
        others: Vec<(ColumnId, DataType)>,
        /// Nothing but the collection itself is read.
        alone: bool,
    },
}

enum Conflict {
    Fail,
    Nothing,
    Update {
        condition: Option<Expr>,
        assignments: Vec<(usize, Expr)>,
        /// Columns of the row that is there, then those of the proposed one.
        columns: Vec<ColumnId>,
    },
}

type BoundWrite = (Command, Template, Vec<ResultColumn>);

impl Binder<'_> {
    pub(super) fn insert(&mut self, insert: &ast::Insert) -> Result<BoundWrite> {
        refuse_insert_clauses(insert)?;
        let ast::TableObject::TableName(name) = &insert.table else {
            return Err(Failure::unsupported(
                "INSERT into anything but a collection",
            ));
        };
        let alias = insert.table_alias.as_ref().map(|a| fold_case(&a.alias));
        let (scan, relation) = self.target(name, alias)?;
        let collection = scan.collection.clone();
        let targets = self.insert_columns(insert, &collection)?;
        let source = match &insert.source {
            None => Source::Rows(vec![vec![Expr::Unknown(Unknown::Null); targets.len()]]),
            Some(query) => {
                let types = targets.iter().map(|t| collection.columns[*t].data_type);
                self.insert_source(query, types.collect())?
            }
        };
        let conflict = self.conflict(insert.on.as_ref(), &scan, &relation)?;
        let kind = match source {
            Source::Rows(rows) => {
                let mut full = Vec::with_capacity(rows.len());
                for row in rows {
                    full.push(self.full_row(&collection, &targets, row)?);
                }
                if full.iter().flatten().any(Expr::has_subquery) {
                    let columns: Vec<(ColumnId, DataType)> = collection
                        .columns
                        .iter()
                        .map(|c| (self.column_id(), c.data_type))
                        .collect();
                    let query = self.rows_query(columns, full);
                    WriteKind::Query { query, conflict }
                } else {
                    WriteKind::Rows {
                        rows: full,
                        conflict,
                    }
                }
            }
            Source::Query(query) => WriteKind::Query {
                query: self.insert_select(&collection, &targets, query)?,
                conflict,
            },
        };
        let (returning, columns) =
            self.returning(insert.returning.as_deref(), relation, &[], &scan)?;
        self.finish_write(Command::Insert, collection, returning, kind, columns)
    }

    fn finish_write(
        &mut self,
        command: Command,
        collection: Arc<Collection>,
        returning: Option<Arc<Returning>>,
        mut kind: WriteKind,
        columns: Vec<ResultColumn>,
    ) -> Result<BoundWrite> {
        match &mut kind {
            WriteKind::Rows { .. } => {}
            WriteKind::Query { query, .. } => self.attach_extras(&mut query.rel),
            WriteKind::Change { rel, scan, .. } => {
                if let Some(extras) = self.extras.get(&scan.id) {
                    scan.extras.clone_from(extras);
                }
                self.attach_extras(rel);
            }
        }
        let template = WriteTemplate {
            command,
            collection,
            returning,
            kind,
        };
        Ok((command, Template::Write(Box::new(template)), columns))
    }

    /// The collection that is written, as a scan under its name in the statement.
    fn target(
        &mut self,
        name: &ast::ObjectName,
        alias: Option<String>,
    ) -> Result<(Scan, NamedRelation)> {
        let (schema, table, span) = schema_and_name(name)?;
        let found = match schema.as_deref() {
            None | Some("public") => self.context.catalog.collection(&table),
            Some("pg_catalog" | "information_schema") => {
                return Err(self.at(
                    Failure::new(
                        SqlState::InsufficientPrivilege,
                        format!("permission denied: \"{table}\" is a system catalog"),
                    ),
                    span,
                ));
            }
            Some(_) => None,
        };
        let collection = found.ok_or_else(|| self.at(self.no_table(name, &table), span))?;
        let (rel, mut relation) = self.collection(collection, None)?;
        if let Some(alias) = alias {
            relation.name = alias;
        }
        match rel {
            Rel::Scan(scan) => Ok((scan, relation)),
            _ => Err(Failure::internal("a collection that is no scan")),
        }
    }

    fn insert_columns(
        &mut self,
        insert: &ast::Insert,
        collection: &Collection,
    ) -> Result<Vec<usize>> {
        if insert.columns.is_empty() {
            return Ok((0..collection.columns.len()).collect());
        }
        let mut targets = Vec::new();
        for column in &insert.columns {
            let (_, name, span) = schema_and_name(column)?;
            let position = self
                .target_column(collection, &name)
                .map_err(|f| self.at(f, span))?;
            if targets.contains(&position) {
                let failure = Failure::new(
                    SqlState::DuplicateColumn,
                    format!("column \"{name}\" specified more than once"),
                );
                return Err(self.at(failure, span));
            }
            targets.push(position);
        }
        Ok(targets)
    }

    fn target_column(&self, collection: &Collection, name: &str) -> Result<usize> {
        collection.column(name).ok_or_else(|| {
            let failure = Failure::new(
                SqlState::UndefinedColumn,
                format!(
                    "column \"{name}\" of relation \"{}\" does not exist",
                    collection.name
                ),
            );
            let names = collection.columns.iter().map(|c| c.name.as_str());
            match crate::catalog::similar(name, names) {
                Some(near) => failure.with_hint(format!("Perhaps you meant \"{near}\".")),
                None => failure,
            }
        })
    }

    /// `into`: the types of the columns that the values go into.
    fn insert_source(&mut self, query: &ast::Query, into: Vec<DataType>) -> Result<Source> {
        let plain = query.with.is_none()
            && query.order_by.is_none()
            && query.limit_clause.is_none()
            && query.fetch.is_none();
        let ast::SetExpr::Values(values) = &*query.body else {
            self.into = Some(into);
            return Ok(Source::Query(exact_columns(self.query(query)?, self)));
        };
        if !plain {
            return Ok(Source::Query(exact_columns(self.query(query)?, self)));
        }
        self.scopes.push(Scope::default());
        let rows = values
            .rows
            .iter()
            .map(|row| {
                row.content
                    .iter()
                    .map(|e| self.value_or_default(e))
                    .collect()
            })
            .collect::<Result<Vec<Vec<Expr>>>>();
        self.scopes.pop();
        Ok(Source::Rows(rows?))
    }

    /// `DEFAULT` is NULL: columns have no defaults.
    fn value_or_default(&mut self, e: &ast::Expr) -> Result<Expr> {
        match e {
            ast::Expr::Identifier(ident)
                if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default") =>
            {
                Ok(Expr::Unknown(Unknown::Null))
            }
            e => self.expr(e),
        }
    }

    fn full_row(
        &mut self,
        collection: &Collection,
        targets: &[usize],
        row: Vec<Expr>,
    ) -> Result<Vec<Expr>> {
        check_width(row.len(), targets.len())?;
        let mut full: Vec<Expr> = collection
            .columns
            .iter()
            .map(|c| Expr::Constant(Value::Null, c.data_type))
            .collect();
        for (e, target) in row.into_iter().zip(targets) {
            full[*target] = self.assigned(collection, *target, e)?;
        }
        Ok(full)
    }

    /// A value on its way into a column.
    fn assigned(&mut self, collection: &Collection, target: usize, e: Expr) -> Result<Expr> {
        let column = &collection.columns[target];
        if let Some(from) = type_of(&e)
            && !casts_on_assignment(from, column.data_type)
        {
            return Err(Failure::new(
                SqlState::DatatypeMismatch,
                format!(
                    "column \"{}\" is of type {} but expression is of type {}",
                    column.name,
                    column.data_type.plain_name(),
                    from.plain_name()
                ),
            )
            .with_hint("You will need to rewrite or cast the expression."));
        }
        let e = self.coerce(e, column.data_type)?;
        Ok(match e {
            // A literal's own digits give way to the column's.
            Expr::Constant(value, _) => Expr::Constant(value, column.data_type),
            other => other,
        })
    }

    fn rows_query(&mut self, columns: Vec<(ColumnId, DataType)>, rows: Vec<Vec<Expr>>) -> Query {
        let shown = columns
            .iter()
            .map(|(id, data_type)| {
                let column = ResultColumn {
                    name: String::new(),
                    data_type: *data_type,
                    shown_as: None,
                };
                (*id, column)
            })
            .collect();
        // A subquery inside VALUES becomes a projection of one row each.
        let mut all: Option<Rel> = None;
        for row in rows {
            let one = Rel::Project {
                input: Box::new(Rel::Values {
                    columns: Vec::new(),
                    rows: vec![Vec::new()],
                }),
                expressions: row.into_iter().map(|e| (self.column_id(), e)).collect(),
            };
            all = Some(match all {
                None => one,
                Some(before) => Rel::SetOperation {
                    kind: crate::rel::SetKind::Union,
                    all: true,
                    left: Box::new(before),
                    right: Box::new(one),
                    columns: columns
                        .iter()
                        .map(|(_, t)| (self.column_id(), *t))
                        .collect(),
                },
            });
        }
        let rel = all.unwrap_or(Rel::Values {
            columns: columns.clone(),
            rows: Vec::new(),
        });
        let rel = match rel {
            Rel::SetOperation {
                kind,
                all,
                left,
                right,
                ..
            } => Rel::SetOperation {
                kind,
                all,
                left,
                right,
                columns,
            },
            Rel::Project { input, expressions } => Rel::Project {
                input,
                expressions: columns
                    .iter()
                    .zip(expressions)
                    .map(|((id, _), (_, e))| (*id, e))
                    .collect(),
            },
            other => other,
        };
        Query {
            rel,
            columns: shown,
        }
    }

    /// A query's columns cast and spread over the collection's.
    fn insert_select(
        &mut self,
        collection: &Collection,
        targets: &[usize],
        query: Query,
    ) -> Result<Query> {
        check_width(query.columns.len(), targets.len())?;
        let types: Vec<DataType> = query.columns.iter().map(|(_, c)| c.data_type).collect();
        let row = query
            .columns
            .iter()
            .zip(types)
            .map(
                |((id, _), t)| match super::select::literal_text(&query.rel, *id) {
                    Some(text) => Expr::Unknown(Unknown::Text(text, 0)),
                    None => Expr::column(*id, t),
                },
            )
            .collect();
        let full = self.full_row(collection, targets, row)?;
        let mut expressions = Vec::new();
        let mut columns = Vec::new();
        for (e, c) in full.into_iter().zip(&collection.columns) {
            let id = self.column_id();
            columns.push((
                id,
                ResultColumn {
                    name: c.name.clone(),
                    data_type: c.data_type,
                    shown_as: None,
                },
            ));
            expressions.push((id, e));
        }
        Ok(Query {
            rel: Rel::Project {
                input: Box::new(query.rel),
                expressions,
            },
            columns,
        })
    }

    fn conflict(
        &mut self,
        on: Option<&ast::OnInsert>,
        scan: &Scan,
        relation: &NamedRelation,
    ) -> Result<Conflict> {
        let on = match on {
            None => return Ok(Conflict::Fail),
            Some(ast::OnInsert::OnConflict(on)) => on,
            Some(_) => {
                return Err(Failure::new(
                    SqlState::SyntaxError,
                    "syntax error at or near \"DUPLICATE\"",
                ));
            }
        };
        let collection = &scan.collection;
        if let Some(target) = &on.conflict_target {
            check_conflict_target(collection, target)?;
        }
        let update = match &on.action {
            ast::OnConflictAction::DoNothing => return Ok(Conflict::Nothing),
            ast::OnConflictAction::DoUpdate(update) => update,
        };
        if on.conflict_target.is_none() {
            return Err(Failure::new(
                SqlState::SyntaxError,
                "ON CONFLICT DO UPDATE requires inference specification or constraint name",
            )
            .with_hint("For example, ON CONFLICT (column_name)."));
        }
        let excluded: Vec<NamedColumn> = collection
            .columns
            .iter()
            .map(|c| NamedColumn {
                name: c.name.clone(),
                id: self.column_id(),
                data_type: c.data_type,
            })
            .collect();
        let columns = scan
            .columns
            .iter()
            .copied()
            .chain(excluded.iter().map(|c| c.id))
            .collect();
        let excluded = NamedRelation {
            name: "excluded".to_owned(),
            columns: excluded,
            merged: Vec::new(),
            scan: None,
            scalar: false,
        };
        let mut own = relation.clone();
        own.scan = None;
        self.scopes.push(Scope {
            relations: vec![own, excluded],
            merged: Vec::new(),
        });
        let bound = self.conflict_update(update, collection);
        self.scopes.pop();
        let (assignments, condition) = bound?;
        if collection
            .key
            .is_some_and(|k| assignments.iter().any(|(c, _)| *c == k))
        {
            return Err(Failure::unsupported(
                "changing the primary key in ON CONFLICT DO UPDATE",
            ));
        }
        if assignments
            .iter()
            .map(|(_, e)| e)
            .chain(&condition)
            .any(Expr::has_subquery)
        {
            return Err(Failure::unsupported("a subquery in ON CONFLICT DO UPDATE"));
        }
        Ok(Conflict::Update {
            condition,
            assignments,
            columns,
        })
    }

    #[allow(clippy::type_complexity)]
    fn conflict_update(
        &mut self,
        update: &ast::DoUpdate,
        collection: &Collection,
    ) -> Result<(Vec<(usize, Expr)>, Option<Expr>)> {
        let assignments = self.assignments(&update.assignments, collection)?;
        let condition = match &update.selection {
            Some(e) => Some(self.clause_condition(e, "WHERE", "WHERE")?),
            None => None,
        };
        Ok((assignments, condition))
    }

    fn assignments(
        &mut self,
        list: &[ast::Assignment],
        collection: &Collection,
    ) -> Result<Vec<(usize, Expr)>> {
        let mut assignments: Vec<(usize, Expr)> = Vec::new();
        for (name, value) in single_assignments(list)? {
            let (_, column, span) = schema_and_name(name)?;
            let target = self
                .target_column(collection, &column)
                .map_err(|f| self.at(f, span))?;
            if assignments.iter().any(|(t, _)| *t == target) {
                let failure = Failure::new(
                    SqlState::SyntaxError,
                    format!("multiple assignments to same column \"{column}\""),
                );
                return Err(self.at(failure, span));
            }
            let e = self.value_or_default(value)?;
            let e = self
                .assigned(collection, target, e)
                .map_err(|f| self.at(f, span))?;
            assignments.push((target, e));
        }
        Ok(assignments)
    }

    pub(super) fn update(&mut self, update: &ast::Update) -> Result<BoundWrite> {
        if update.or.is_some()
            || update.output.is_some()
            || update.limit.is_some()
            || !update.order_by.is_empty()
            || !update.table.joins.is_empty()
        {
            return Err(Failure::unsupported("a clause of another SQL dialect"));
        }
        let (scan, relation) = self.target_factor(&update.table.relation)?;
        let from = match &update.from {
            None => &[][..],
            Some(
                ast::UpdateTableFromKind::AfterSet(items)
                | ast::UpdateTableFromKind::BeforeSet(items),
            ) => &items[..],
        };
        let scope = Scope {
            relations: vec![relation.clone()],
            merged: Vec::new(),
        };
        self.scopes.push(scope);
        let bound = self.change(
            &scan,
            from,
            update.selection.as_ref(),
            Some(&update.assignments),
        );
        self.scopes.pop();
        let (rel, assignments, others) = bound?;
        let alone = from.is_empty();
        let (returning, columns) =
            self.returning(update.returning.as_deref(), relation, &others, &scan)?;
        let kind = WriteKind::Change {
            rel,
            scan: scan.clone(),
            assignments,
            others: columns_of(&others),
            alone,
        };
        let collection = scan.collection.clone();
        self.finish_write(Command::Update, collection, returning, kind, columns)
    }

    pub(super) fn delete(&mut self, delete: &ast::Delete) -> Result<BoundWrite> {
        if delete.output.is_some()
            || delete.limit.is_some()
            || !delete.order_by.is_empty()
            || !delete.tables.is_empty()
        {
            return Err(Failure::unsupported("a clause of another SQL dialect"));
        }
        let (ast::FromTable::WithFromKeyword(tables) | ast::FromTable::WithoutKeyword(tables)) =
            &delete.from;
        let [table] = &tables[..] else {
            return Err(Failure::unsupported("DELETE from several collections"));
        };
        if !table.joins.is_empty() {
            return Err(Failure::unsupported("a join as the target of DELETE"));
        }
        let (scan, relation) = self.target_factor(&table.relation)?;
        let using = delete.using.as_deref().unwrap_or_default();
        self.scopes.push(Scope {
            relations: vec![relation.clone()],
            merged: Vec::new(),
        });
        let bound = self.change(&scan, using, delete.selection.as_ref(), None);
        self.scopes.pop();
        let (rel, assignments, others) = bound?;
        let alone = using.is_empty();
        let (returning, columns) =
            self.returning(delete.returning.as_deref(), relation, &others, &scan)?;
        let kind = WriteKind::Change {
            rel,
            scan: scan.clone(),
            assignments,
            others: columns_of(&others),
            alone,
        };
        let collection = scan.collection.clone();
        self.finish_write(Command::Delete, collection, returning, kind, columns)
    }

    fn target_factor(&mut self, factor: &ast::TableFactor) -> Result<(Scan, NamedRelation)> {
        match factor {
            ast::TableFactor::Table {
                name,
                alias,
                args: None,
                ..
            } => self.target(name, alias.as_ref().map(|a| fold_case(&a.name))),
            other => Err(Failure::unsupported(format!("writing \"{other}\""))),
        }
    }

    /// What is read to change rows: the target, what it is joined with, the condition.
    #[allow(clippy::type_complexity)]
    fn change(
        &mut self,
        scan: &Scan,
        others: &[ast::TableWithJoins],
        selection: Option<&ast::Expr>,
        assignments: Option<&[ast::Assignment]>,
    ) -> Result<(Rel, Option<Vec<(usize, Expr)>>, Vec<NamedRelation>)> {
        let mut rel = Rel::Scan(scan.clone());
        if let Some(other) = self.from(others)? {
            rel = Rel::Join {
                kind: JoinKind::Inner,
                left: Box::new(rel),
                right: Box::new(other),
                on: Expr::bool(true),
            };
        }
        if let Some(e) = selection {
            let predicate = self.clause_condition(e, "WHERE", "WHERE")?;
            rel = Rel::Filter {
                input: Box::new(rel),
                predicate,
            };
        }
        let assignments = match assignments {
            Some(list) => Some(self.assignments(list, &scan.collection)?),
            None => None,
        };
        // What RETURNING may name beside the target.
        let joined = self.scopes.last().map_or(&[][..], |s| &s.relations[1..]);
        Ok((rel, assignments, joined.to_vec()))
    }

    #[allow(clippy::type_complexity)]
    fn returning(
        &mut self,
        items: Option<&[ast::SelectItem]>,
        relation: NamedRelation,
        others: &[NamedRelation],
        scan: &Scan,
    ) -> Result<(Option<Arc<Returning>>, Vec<ResultColumn>)> {
        let Some(items) = items else {
            return Ok((None, Vec::new()));
        };
        let mut relations = vec![relation];
        relations.extend(others.iter().cloned());
        let joined = columns_of(others);
        self.scopes.push(Scope {
            relations,
            merged: Vec::new(),
        });
        let list = self.select_list(items);
        self.scopes.pop();
        let mut output: Vec<usize> = Vec::new();
        let mut columns = Vec::new();
        let mut expressions = Vec::new();
        for (name, e) in list? {
            if e.has_subquery()
                || e.any(|e| matches!(e, Expr::Parameter(..) | Expr::Volatile { .. }))
            {
                return Err(Failure::unsupported(
                    "a subquery, parameter or volatile function in RETURNING",
                ));
            }
            columns.push(ResultColumn {
                name,
                data_type: e.data_type(),
                shown_as: None,
            });
            expressions.push(positioned(e, &mut |id| {
                // Columns of what it is joined with are read behind the row.
                let column = scan.position(id).or_else(|| {
                    let at = joined.iter().position(|(other, _)| *other == id)?;
                    Some(scan.columns.len() + at)
                })?;
                Some(output.iter().position(|c| *c == column).unwrap_or_else(|| {
                    output.push(column);
                    output.len() - 1
                }))
            })?);
        }
        let returning = Returning {
            output: output.into_iter().map(OutputColumn::Column).collect(),
            projection: Arc::new(Projection::new(columns.clone(), expressions)),
        };
        Ok((Some(Arc::new(returning)), columns))
    }
}

fn columns_of(relations: &[NamedRelation]) -> Vec<(ColumnId, DataType)> {
    let columns = relations.iter().flat_map(|r| &r.columns);
    columns.map(|c| (c.id, c.data_type)).collect()
}

/// `SET (a, b) = (x, y)` as one assignment each.
fn single_assignments(list: &[ast::Assignment]) -> Result<Vec<(&ast::ObjectName, &ast::Expr)>> {
    let mut single = Vec::new();
    for assignment in list {
        let names = match &assignment.target {
            ast::AssignmentTarget::ColumnName(name) => {
                single.push((name, &assignment.value));
                continue;
            }
            ast::AssignmentTarget::Tuple(names) => names,
        };
        let Some(values) = row_of(&assignment.value) else {
            return Err(match &assignment.value {
                ast::Expr::Subquery(_) => Failure::unsupported("SET (columns) = (a query)"),
                _ => Failure::unsupported(
                    "a source for a multiple-column UPDATE item that is no row of values",
                ),
            });
        };
        if values.len() != names.len() {
            return Err(Failure::new(
                SqlState::SyntaxError,
                "number of columns does not match number of values",
            ));
        }
        single.extend(names.iter().zip(values));
    }
    Ok(single)
}

enum Source {
    Rows(Vec<Vec<Expr>>),
    Query(Query),
}

/// A query whose shown columns are all different.
fn exact_columns(query: Query, binder: &mut Binder<'_>) -> Query {
    let mut seen: Vec<ColumnId> = Vec::new();
    let mut again = false;
    for (id, _) in &query.columns {
        again |= seen.contains(id);
        seen.push(*id);
    }
    if !again {
        return exact(query);
    }
    let mut expressions = Vec::new();
    let mut columns = Vec::new();
    for (id, column) in query.columns {
        let new = binder.column_id();
        expressions.push((new, Expr::column(id, column.data_type)));
        columns.push((new, column));
    }
    Query {
        rel: Rel::Project {
            input: Box::new(query.rel),
            expressions,
        },
        columns,
    }
}

fn check_width(given: usize, targets: usize) -> Result<()> {
    match given.cmp(&targets) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Failure::new(
            SqlState::SyntaxError,
            "INSERT has more expressions than target columns",
        )),
        std::cmp::Ordering::Less => Err(Failure::new(
            SqlState::SyntaxError,
            "INSERT has more target columns than expressions",
        )),
    }
}

fn check_conflict_target(collection: &Collection, target: &ast::ConflictTarget) -> Result<()> {
    let key = collection.key.map(|k| collection.columns[k].name.as_str());
    let matches = match target {
        ast::ConflictTarget::Columns(columns) => match &columns[..] {
            [column] => key == Some(fold_case(column).as_str()),
            _ => false,
        },
        ast::ConflictTarget::OnConstraint(name) => {
            let (_, name, _) = schema_and_name(name)?;
            if name != format!("{}_pkey", collection.name) || key.is_none() {
                return Err(Failure::new(
                    SqlState::UndefinedObject,
                    format!(
                        "constraint \"{name}\" for table \"{}\" does not exist",
                        collection.name
                    ),
                ));
            }
            true
        }
    };
    if matches {
        return Ok(());
    }
    Err(Failure::new(
        SqlState::InvalidColumnReference,
        "there is no unique or exclusion constraint matching the ON CONFLICT specification",
    ))
}

fn refuse_insert_clauses(insert: &ast::Insert) -> Result<()> {
    let foreign = insert.or.is_some()
        || insert.ignore
        || insert.overwrite
        || !insert.assignments.is_empty()
        || insert.partitioned.is_some()
        || !insert.after_columns.is_empty()
        || insert.replace_into
        || insert.priority.is_some()
        || insert.insert_alias.is_some()
        || insert.settings.is_some()
        || insert.format_clause.is_some()
        || insert.output.is_some()
        || insert.multi_table_insert_type.is_some();
    if foreign {
        return Err(Failure::unsupported("a clause of another SQL dialect"));
    }
    Ok(())
}
