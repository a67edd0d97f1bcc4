//! FROM: relations, joins, subqueries, common table expressions, functions that give rows.

use nodedb_types::schema::IndexState;
use nodedb_types::{DataType, Failure, Result, SqlState};
use sqlparser::ast;
use std::convert::Infallible;
use std::sync::Arc;

use super::name::{NamedColumn, NamedRelation, Scope, fold_case, name_parts, schema_and_name};
use super::{Binder, Query, USING_ALIAS};
use crate::catalog::similar;
use crate::catalog_tables;
use crate::expr::{CompareOp, Expr};
use crate::rel::{ColumnId, JoinKind, Rel, Scan, SortKey, VirtualRef};

/// A common table expression: bound anew wherever it is named.
#[derive(Clone)]
pub(super) struct Cte {
    pub name: String,
    pub columns: Vec<String>,
    pub body: CteBody,
    /// How many of the CTEs before it its own query sees.
    pub visible: usize,
    /// It was named before.
    pub named: bool,
}

#[derive(Clone)]
pub(super) enum CteBody {
    Query(Arc<ast::Query>),
    Recursive(Arc<ast::Query>),
    /// The recursive reference inside a step.
    Working(String, Vec<(String, DataType)>),
}

impl Binder<'_> {
    /// Binds a FROM list; its columns come into the innermost scope.
    pub(super) fn from(&mut self, items: &[ast::TableWithJoins]) -> Result<Option<Rel>> {
        let around = std::mem::replace(&mut self.from_start, self.scopes.len().saturating_sub(1));
        let bound = self.items_in_from(items);
        self.from_start = around;
        bound
    }

    fn items_in_from(&mut self, items: &[ast::TableWithJoins]) -> Result<Option<Rel>> {
        let mut all: Option<Rel> = None;
        for item in items {
            let (rel, scope) = self.joined(item)?;
            self.extend_scope(scope)?;
            all = Some(match all {
                None => rel,
                Some(left) => Rel::Join {
                    kind: JoinKind::Inner,
                    left: Box::new(left),
                    right: Box::new(rel),
                    on: Expr::bool(true),
                },
            });
        }
        Ok(all)
    }

    fn extend_scope(&mut self, scope: Scope) -> Result<()> {
        let current = match self.scopes.last_mut() {
            Some(current) => current,
            None => return Err(Failure::internal("FROM outside of a query")),
        };
        for relation in scope.relations {
            if !relation.name.is_empty()
                && current.relations.iter().any(|r| r.name == relation.name)
            {
                return Err(Failure::new(
                    SqlState::DuplicateAlias,
                    format!("table name \"{}\" specified more than once", relation.name),
                ));
            }
            current.relations.push(relation);
        }
        current.merged.extend(scope.merged);
        Ok(())
    }

    pub(super) fn joined(&mut self, item: &ast::TableWithJoins) -> Result<(Rel, Scope)> {
        let (mut rel, mut scope) = self.factor(&item.relation)?;
        for join in &item.joins {
            (rel, scope) = self.join(rel, scope, join)?;
        }
        Ok((rel, scope))
    }

    fn join(&mut self, left: Rel, left_scope: Scope, join: &ast::Join) -> Result<(Rel, Scope)> {
        use ast::JoinOperator as J;
        let (kind, constraint) = match &join.join_operator {
            J::Join(c) | J::Inner(c) => (JoinKind::Inner, c),
            J::Left(c) | J::LeftOuter(c) => (JoinKind::Left, c),
            J::Right(c) | J::RightOuter(c) => (JoinKind::Right, c),
            J::FullOuter(c) => (JoinKind::Full, c),
            J::CrossJoin(_) => (JoinKind::Inner, &ast::JoinConstraint::None),
            other => return Err(Failure::unsupported(format!("the join {other:?}"))),
        };
        // What is on the left of a join is in sight of what is LATERAL on its right.
        self.scopes.push(left_scope.clone());
        let right = self.factor(&join.relation);
        self.scopes.pop();
        let (right, right_scope) = right?;
        if matches!(kind, JoinKind::Right | JoinKind::Full) {
            refuse_dependent(&left_scope, &right)?;
        }
        let using = match constraint {
            ast::JoinConstraint::Using(names) => Some(
                names
                    .iter()
                    .map(|n| schema_and_name(n).map(|(_, name, _)| name))
                    .collect::<Result<Vec<_>>>()?,
            ),
            ast::JoinConstraint::Natural => {
                let right: Vec<NamedColumn> = right_scope.star();
                Some(
                    left_scope
                        .star()
                        .into_iter()
                        .map(|c| c.name)
                        .filter(|name| right.iter().any(|c| c.name == *name))
                        .collect(),
                )
            }
            ast::JoinConstraint::On(_) | ast::JoinConstraint::None => None,
        };
        if let Some(mut names) = using {
            let last = names.last().and_then(|name| name.strip_prefix(USING_ALIAS));
            let alias = last.map(str::to_owned);
            if alias.is_some() {
                names.pop();
            }
            let sides = ((left, left_scope), (right, right_scope));
            let (rel, mut scope) = self.join_using(kind, sides.0, sides.1, &names)?;
            if let Some(alias) = alias {
                scope.name_merged(alias, &names)?;
            }
            return Ok((rel, scope));
        }
        let mut both = left_scope;
        both.merged.extend(right_scope.merged);
        both.relations.extend(right_scope.relations);
        let on = match constraint {
            ast::JoinConstraint::On(condition) => {
                self.scopes.push(both.clone());
                let on = self.clause_condition(condition, "JOIN/ON", "JOIN conditions");
                self.scopes.pop();
                on?
            }
            _ => Expr::bool(true),
        };
        let rel = Rel::Join {
            kind,
            left: Box::new(left),
            right: Box::new(right),
            on,
        };
        Ok((rel, both))
    }

    fn join_using(
        &mut self,
        kind: JoinKind,
        (left, left_scope): (Rel, Scope),
        (right, right_scope): (Rel, Scope),
        names: &[String],
    ) -> Result<(Rel, Scope)> {
        let mut terms = Vec::new();
        let mut merged = Vec::new();
        let mut hidden = Vec::new();
        let mut projected = Vec::new();
        for name in names {
            let l = one_column(&left_scope, name, "left")?;
            let r = one_column(&right_scope, name, "right")?;
            let (le, re) = (
                Expr::column(l.id, l.data_type),
                Expr::column(r.id, r.data_type),
            );
            terms.push(self.compare(CompareOp::Eq, le.clone(), re.clone())?);
            hidden.extend([l.id, r.id]);
            let (id, data_type) = match kind {
                JoinKind::Inner | JoinKind::Left => (l.id, l.data_type),
                JoinKind::Right => (r.id, r.data_type),
                JoinKind::Full => {
                    let (items, data_type) = self.unified("JOIN/USING", vec![le, re])?;
                    let id = self.column_id();
                    projected.push((id, Expr::Coalesce(items, data_type)));
                    (id, data_type)
                }
            };
            merged.push(NamedColumn {
                name: name.clone(),
                id,
                data_type,
            });
        }
        let mut rel = Rel::Join {
            kind,
            left: Box::new(left),
            right: Box::new(right),
            on: Expr::all(terms),
        };
        let mut scope = Scope::default();
        let open = |c: &NamedColumn| !names.contains(&c.name);
        scope.merged = merged;
        scope
            .merged
            .extend(left_scope.merged.into_iter().filter(open));
        scope
            .merged
            .extend(right_scope.merged.into_iter().filter(open));
        for mut relation in left_scope
            .relations
            .into_iter()
            .chain(right_scope.relations)
        {
            let own = relation.columns.iter().map(|c| c.id);
            relation.merged.extend(own.filter(|id| hidden.contains(id)));
            scope.relations.push(relation);
        }
        if !projected.is_empty() {
            let all = scope.relations.iter().flat_map(|r| &r.columns);
            projected.extend(all.map(|c| (c.id, Expr::column(c.id, c.data_type))));
            rel = Rel::Project {
                input: Box::new(rel),
                expressions: projected,
            };
        }
        Ok((rel, scope))
    }

    fn factor(&mut self, factor: &ast::TableFactor) -> Result<(Rel, Scope)> {
        use ast::TableFactor as F;
        let (rel, relation) = match factor {
            F::Table {
                name,
                alias,
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample: None,
                index_hints,
            } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => {
                self.table(name, alias.as_ref())?
            }
            F::Table {
                name,
                alias,
                args: Some(args),
                with_ordinality: false,
                sample: None,
                ..
            } => self.table_function(name, &args.args, alias.as_ref())?,
            F::Function {
                name,
                args,
                alias,
                with_ordinality: false,
                ..
            } => self.table_function(name, args, alias.as_ref())?,
            F::UNNEST {
                alias,
                array_exprs,
                with_offset: false,
                with_ordinality: false,
                ..
            } if array_exprs.len() == 1 => {
                let name = ast::ObjectName::from(vec![ast::Ident::new("unnest")]);
                let argument = ast::FunctionArgExpr::Expr(array_exprs[0].clone());
                let arguments = [ast::FunctionArg::Unnamed(argument)];
                self.table_function(&name, &arguments, alias.as_ref())?
            }
            F::Derived {
                lateral,
                subquery,
                alias,
                sample: None,
            } => {
                let query = match lateral {
                    true => self.inner(subquery)?,
                    false => self.isolated(|b| b.query(subquery))?,
                };
                let columns = query
                    .columns
                    .iter()
                    .map(|(id, c)| NamedColumn {
                        name: c.name.clone(),
                        id: *id,
                        data_type: c.data_type,
                    })
                    .collect();
                let relation = named(String::new(), columns, alias.as_ref())?;
                (query.rel, relation)
            }
            F::NestedJoin {
                table_with_joins,
                alias: None,
            } => return self.joined(table_with_joins),
            other => {
                return Err(Failure::unsupported(format!("\"{other}\" in FROM")));
            }
        };
        let scope = Scope {
            relations: vec![relation],
            merged: Vec::new(),
        };
        Ok((rel, scope))
    }

    /// A query that sees only the queries around this one, not its neighbours in FROM.
    fn isolated<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let hidden = self
            .scopes
            .split_off(self.from_start.min(self.scopes.len()));
        let grouping = self.grouping.take();
        let windows = self.windows.take();
        let result = f(self);
        self.grouping = grouping;
        self.windows = windows;
        self.scopes.extend(hidden);
        result
    }

    fn table(
        &mut self,
        name: &ast::ObjectName,
        alias: Option<&ast::TableAlias>,
    ) -> Result<(Rel, NamedRelation)> {
        let (schema, table, span) = schema_and_name(name)?;
        if schema.is_none()
            && let Some(at) = self.ctes.iter().rposition(|c| c.name == table)
        {
            return self.cte(at, alias);
        }
        if matches!(schema.as_deref(), None | Some("public"))
            && let Some(collection) = self.context.catalog.collection(&table)
        {
            return self.collection(collection, alias);
        }
        if let Some(found) = self.virtual_table(schema.as_deref(), &table)? {
            let columns: Vec<NamedColumn> = found
                .table
                .columns()
                .into_iter()
                .map(|c| NamedColumn {
                    name: c.name,
                    id: self.column_id(),
                    data_type: c.data_type,
                })
                .collect();
            self.relation_id()?;
            for (own, c) in columns.iter().zip(found.table.columns()) {
                if let Some(shown) = c.shown_as {
                    self.catalog_types.insert(own.id, shown);
                }
            }
            let rel = Rel::Virtual {
                table: found,
                columns: columns.iter().map(|c| c.id).collect(),
            };
            return Ok((rel, named(table, columns, alias)?));
        }
        if table == "stream" && alias.is_some() {
            // `FROM STREAM s` where only a query can stand.
            let failure = Failure::unsupported("a change stream within another statement")
                .with_hint("SELECT … FROM STREAM name is a statement of its own");
            return Err(self.at(failure, span));
        }
        Err(self.at(self.no_table(name, &table), span))
    }

    fn virtual_table(&self, schema: Option<&str>, name: &str) -> Result<Option<VirtualRef>> {
        let schemas: &[&str] = match &schema {
            Some(schema) => &[schema],
            None => &["pg_catalog"],
        };
        for schema in schemas {
            let own = self.context.catalog.virtual_table(schema, name);
            let found = match own {
                Some(table) => Some(table),
                None => {
                    catalog_tables::table(schema, name, &self.context.catalog, self.context.session)
                }
            };
            if let Some(table) = found {
                let name = format!("{schema}.{name}");
                return Ok(Some(VirtualRef { name, table }));
            }
        }
        Ok(None)
    }

    /// 42P01, with the name that may have been meant.
    pub(super) fn no_table(&self, written: &ast::ObjectName, name: &str) -> Failure {
        let shown = name_parts(written).map_or_else(
            |_| written.to_string(),
            |parts| {
                parts
                    .iter()
                    .map(|p| p.value.as_str())
                    .collect::<Vec<_>>()
                    .join(".")
            },
        );
        let failure = Failure::new(
            SqlState::UndefinedTable,
            format!("relation \"{shown}\" does not exist"),
        );
        let catalog = &self.context.catalog;
        if catalog.streams().iter().any(|stream| stream.name == name) {
            return failure.with_hint(format!(
                "the change stream of that name is read by SELECT … FROM STREAM {shown}"
            ));
        }
        let collections = catalog.collections();
        match similar(name, collections.iter().map(|c| c.name.as_str())) {
            Some(near) => failure.with_hint(format!("Perhaps you meant \"{near}\".")),
            None => failure,
        }
    }

    /// A scan of a collection under the name that the statement gives it.
    pub(super) fn collection(
        &mut self,
        collection: Arc<nodedb_types::Collection>,
        alias: Option<&ast::TableAlias>,
    ) -> Result<(Rel, NamedRelation)> {
        self.pin(&collection);
        let mut indexes = self.context.catalog.indexes(collection.id);
        indexes.retain(|index| index.state == IndexState::Public);
        let columns: Vec<NamedColumn> = collection
            .columns
            .iter()
            .map(|c| NamedColumn {
                name: c.name.clone(),
                id: self.column_id(),
                data_type: c.data_type,
            })
            .collect();
        let name = alias.map_or_else(|| collection.name.clone(), |a| fold_case(&a.name));
        let scan = Scan {
            id: self.relation_id()?,
            name,
            columns: columns.iter().map(|c| c.id).collect(),
            identity: std::array::from_fn(|_| self.column_id()),
            indexes: indexes.into(),
            extras: Vec::new(),
            shards: None,
            collection: collection.clone(),
        };
        let mut relation = named(collection.name.clone(), columns, alias)?;
        relation.scan = Some(Arc::new(scan.clone()));
        Ok((Rel::Scan(scan), relation))
    }

    fn cte(&mut self, at: usize, alias: Option<&ast::TableAlias>) -> Result<(Rel, NamedRelation)> {
        let cte = self.ctes[at].clone();
        self.relation_id()?;
        self.ctes[at].named = true;
        let mut query = match &cte.body {
            CteBody::Query(query) => {
                let query = query.clone();
                let hidden = self.ctes.split_off(cte.visible);
                let bound = self.isolated(|b| b.query(&query));
                self.ctes.truncate(cte.visible);
                self.ctes.extend(hidden);
                bound?
            }
            CteBody::Recursive(query) => {
                let query = query.clone();
                let hidden = self.ctes.split_off(cte.visible);
                let bound = self.isolated(|b| b.recursive(&cte, &query));
                self.ctes.truncate(cte.visible);
                self.ctes.extend(hidden);
                bound?
            }
            CteBody::Working(name, columns) => {
                let columns: Vec<(ColumnId, crate::catalog::ResultColumn)> = columns
                    .iter()
                    .map(|(name, data_type)| {
                        let column = crate::catalog::ResultColumn {
                            name: name.clone(),
                            data_type: *data_type,
                            shown_as: None,
                        };
                        (self.column_id(), column)
                    })
                    .collect();
                Query {
                    rel: Rel::Working {
                        name: name.clone(),
                        columns: columns.iter().map(|(id, c)| (*id, c.data_type)).collect(),
                    },
                    columns,
                }
            }
        };
        if cte.named && is_volatile(&mut query.rel) {
            return Err(Failure::unsupported(format!(
                "WITH query \"{}\", which calls a volatile function, named more than once",
                cte.name
            ))
            .with_hint("it would be computed anew each time; put its rows into a table first"));
        }
        let columns = query
            .columns
            .iter()
            .enumerate()
            .map(|(i, (id, c))| NamedColumn {
                name: cte.columns.get(i).unwrap_or(&c.name).clone(),
                id: *id,
                data_type: c.data_type,
            })
            .collect::<Vec<_>>();
        if cte.columns.len() > columns.len() {
            return Err(too_many_aliases(
                &cte.name,
                columns.len(),
                cte.columns.len(),
            ));
        }
        Ok((query.rel, named(cte.name, columns, alias)?))
    }

    fn recursive(&mut self, cte: &Cte, query: &ast::Query) -> Result<Query> {
        let ast::SetExpr::SetOperation {
            op: ast::SetOperator::Union,
            set_quantifier,
            left,
            right,
        } = &*query.body
        else {
            return self.query(query);
        };
        if query.order_by.is_some() || query.limit_clause.is_some() || query.with.is_some() {
            return Err(Failure::unsupported(
                "ORDER BY, LIMIT or WITH inside a recursive query",
            ));
        }
        let start = self.set_expr(left, &[])?;
        let mut names: Vec<(String, DataType)> = start
            .columns
            .iter()
            .map(|(_, c)| (c.name.clone(), c.data_type))
            .collect();
        for (own, given) in names.iter_mut().zip(&cte.columns) {
            own.0.clone_from(given);
        }
        let working = format!("{}_{}", cte.name, self.relation_id()?);
        self.ctes.push(Cte {
            name: cte.name.clone(),
            columns: Vec::new(),
            body: CteBody::Working(working.clone(), names.clone()),
            visible: self.ctes.len(),
            named: false,
        });
        let step = self.set_expr(right, &[]);
        self.ctes.pop();
        let mut step = step?;
        if step.columns.len() != start.columns.len() {
            return Err(super::select::unequal_columns("UNION"));
        }
        check_recursion(&step.rel, &cte.name, &working)?;
        step.rel = self.cast_columns(step.rel, &step.columns, &start.columns, "UNION")?;
        let columns: Vec<(ColumnId, DataType)> = start
            .columns
            .iter()
            .map(|(_, c)| (self.column_id(), c.data_type))
            .collect();
        let shown = columns
            .iter()
            .zip(names)
            .map(|((id, data_type), (name, _))| {
                let column = crate::catalog::ResultColumn {
                    name,
                    data_type: *data_type,
                    shown_as: None,
                };
                (*id, column)
            })
            .collect();
        Ok(Query {
            rel: Rel::Recursive {
                name: working,
                columns,
                start: Box::new(start.rel),
                step: Box::new(step.rel),
                all: matches!(set_quantifier, ast::SetQuantifier::All),
            },
            columns: shown,
        })
    }

    /// Casts a relation's columns to the types of others.
    pub(super) fn cast_columns(
        &mut self,
        rel: Rel,
        from: &[(ColumnId, crate::catalog::ResultColumn)],
        to: &[(ColumnId, crate::catalog::ResultColumn)],
        what: &str,
    ) -> Result<Rel> {
        if from
            .iter()
            .zip(to)
            .all(|(f, t)| f.1.data_type == t.1.data_type)
        {
            return Ok(rel);
        }
        let mut expressions = Vec::new();
        for ((id, f), (_, t)) in from.iter().zip(to) {
            if !crate::expr::types::casts_implicitly(f.data_type, t.data_type) {
                return Err(Failure::new(
                    SqlState::DatatypeMismatch,
                    format!(
                        "{what} types {} and {} cannot be matched",
                        t.data_type.plain_name(),
                        f.data_type.plain_name()
                    ),
                ));
            }
            let e = self.coerce(Expr::column(*id, f.data_type), t.data_type)?;
            expressions.push((self.column_id(), e));
        }
        Ok(Rel::Project {
            input: Box::new(rel),
            expressions,
        })
    }

    /// Brings the CTEs of a WITH clause into scope; gives their number.
    pub(super) fn with(&mut self, with: &ast::With) -> Result<usize> {
        let first = self.ctes.len();
        for table in &with.cte_tables {
            let name = fold_case(&table.alias.name);
            if self.ctes[first..].iter().any(|cte| cte.name == name) {
                let failure = Failure::new(
                    SqlState::DuplicateAlias,
                    format!("WITH query name \"{name}\" specified more than once"),
                );
                self.ctes.truncate(first);
                return Err(self.at(failure, table.alias.name.span));
            }
            let query = Arc::new((*table.query).clone());
            if !matches!(
                *query.body,
                ast::SetExpr::Select(_)
                    | ast::SetExpr::Query(_)
                    | ast::SetExpr::SetOperation { .. }
                    | ast::SetExpr::Values(_)
            ) {
                return Err(Failure::unsupported("a write inside WITH"));
            }
            let columns = table
                .alias
                .columns
                .iter()
                .map(|c| fold_case(&c.name))
                .collect();
            self.ctes.push(Cte {
                name,
                columns,
                body: if with.recursive {
                    CteBody::Recursive(query)
                } else {
                    CteBody::Query(query)
                },
                visible: self.ctes.len(),
                named: false,
            });
        }
        Ok(with.cte_tables.len())
    }

    /// Sort keys over the key of the only collection of a query, to break ties.
    pub(super) fn key_order(scan: &Scan) -> SortKey {
        let (id, data_type) = match scan.collection.key {
            Some(position) => (
                scan.columns[position],
                scan.collection.columns[position].data_type,
            ),
            None => (scan.identity[3], DataType::Bytea),
        };
        SortKey {
            expr: Expr::column(id, data_type),
            descending: false,
            nulls_first: false,
        }
    }
}

/// Whether two evaluations of a relation may differ within a statement.
fn is_volatile(rel: &mut Rel) -> bool {
    let mut found = false;
    let Ok(()) = rel.map_expressions::<Infallible>(&mut |e| {
        found |= matches!(e, Expr::Volatile { .. });
        Ok(e)
    });
    found
}

/// 42P10 when the right side of a join that keeps its rows refers to the left, as for LATERAL.
fn refuse_dependent(left: &Scope, right: &Rel) -> Result<()> {
    let outer = right.outer_columns();
    let mut relations = left.relations.iter();
    match relations.find(|r| {
        r.columns
            .iter()
            .any(|c| outer.contains(&(c.id, c.data_type)))
    }) {
        None => Ok(()),
        Some(relation) => Err(Failure::new(
            SqlState::InvalidColumnReference,
            format!(
                "invalid reference to FROM-clause entry for table \"{}\"",
                relation.name
            ),
        )
        .with_detail("The combining JOIN type must be INNER or LEFT for a LATERAL reference.")),
    }
}

fn one_column(scope: &Scope, name: &str, side: &str) -> Result<NamedColumn> {
    let all = scope.star();
    let found: Vec<&NamedColumn> = all.iter().filter(|c| c.name == name).collect();
    match found[..] {
        [one] => Ok(one.clone()),
        [] => Err(Failure::new(
            SqlState::UndefinedColumn,
            format!("column \"{name}\" specified in USING clause does not exist in {side} table"),
        )),
        _ => Err(Failure::new(
            SqlState::AmbiguousColumn,
            format!("common column name \"{name}\" appears more than once in {side} table"),
        )),
    }
}

fn too_many_aliases(name: &str, have: usize, given: usize) -> Failure {
    Failure::new(
        SqlState::InvalidColumnReference,
        format!("table \"{name}\" has {have} columns available but {given} columns specified"),
    )
}

/// A relation under its alias, with the alias's column names.
pub(super) fn named(
    name: String,
    mut columns: Vec<NamedColumn>,
    alias: Option<&ast::TableAlias>,
) -> Result<NamedRelation> {
    let name = match alias {
        None => name,
        Some(alias) => {
            let name = fold_case(&alias.name);
            if alias.columns.len() > columns.len() {
                return Err(too_many_aliases(&name, columns.len(), alias.columns.len()));
            }
            for (column, given) in columns.iter_mut().zip(&alias.columns) {
                column.name = fold_case(&given.name);
            }
            name
        }
    };
    Ok(NamedRelation {
        name,
        columns,
        merged: Vec::new(),
        scan: None,
        scalar: false,
    })
}

/// Whether the rows of the round before are read below `rel`.
fn reads_working(rel: &Rel, working: &str) -> bool {
    match rel {
        Rel::Working { name, .. } => name == working,
        _ => rel.inputs().iter().any(|r| reads_working(r, working)),
    }
}

/// Refuses what has no meaning over the rows of one round: an aggregate of them, and a join that
/// makes rows where they have none.
fn check_recursion(step: &Rel, cte: &str, working: &str) -> Result<()> {
    let invalid = |message: String| Err(Failure::new(SqlState::InvalidRecursion, message));
    match step {
        Rel::Aggregate {
            input, aggregates, ..
        } if !aggregates.is_empty() && reads_working(input, working) => {
            return invalid(
                "aggregate functions are not allowed in a recursive query's recursive term"
                    .to_owned(),
            );
        }
        Rel::Join {
            kind, left, right, ..
        } => {
            let makes_left = matches!(kind, JoinKind::Right | JoinKind::Full);
            let makes_right = matches!(kind, JoinKind::Left | JoinKind::Full);
            if makes_left && reads_working(left, working)
                || makes_right && reads_working(right, working)
            {
                return invalid(format!(
                    "recursive reference to query \"{cte}\" must not appear within an outer join"
                ));
            }
        }
        _ => {}
    }
    let mut inputs = step.inputs().into_iter();
    inputs.try_for_each(|input| check_recursion(input, cte, working))
}
