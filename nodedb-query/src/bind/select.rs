//! SELECT, VALUES, set operations, ORDER BY, LIMIT, and queries used as values.

mod label;
mod limit;
mod subquery;

pub(super) use label::output_name;

use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use sqlparser::ast::{self, Spanned};
use sqlparser::tokenizer::Span;

use super::aggregate::Grouping;
use super::name::{Scope, fold_case, schema_and_name};
use super::set::expanded;
use super::{Binder, Query, type_of};
use crate::catalog::ResultColumn;
use crate::expr::types::common_type;
use crate::expr::{Expr, Unknown};
use crate::rel::{
    AggregateCall, AggregateKind, ColumnId, Rel, SetKind, SortKey, Subquery, SubqueryKind,
};

/// What a query does beyond its body.
struct Tail<'q> {
    order: &'q [ast::OrderByExpr],
    limited: bool,
}

impl Binder<'_> {
    /// A whole query. Columns that it shows are in `columns`; the relation may carry more.
    pub(super) fn query(&mut self, query: &ast::Query) -> Result<Query> {
        refuse_clauses(query)?;
        let before = self.ctes.len();
        let into = self.into.take();
        if let Some(with) = &query.with {
            self.with(with)?;
        }
        self.into = into;
        let bound = self.query_body(query);
        self.ctes.truncate(before);
        bound
    }

    fn query_body(&mut self, query: &ast::Query) -> Result<Query> {
        let into = self.into.take();
        let order = order_items(query.order_by.as_ref())?;
        let limits = self.limits(query)?;
        let tail = Tail {
            order,
            limited: limits.is_some() && !limits.with_ties,
        };
        let bound = match &*query.body {
            ast::SetExpr::Select(select) => {
                self.into = into;
                self.select(select, &tail)?
            }
            ast::SetExpr::Query(inner) if order.is_empty() => {
                self.into = into;
                self.query(inner)?
            }
            body => {
                let mut bound = self.set_expr(body, &[])?;
                if !order.is_empty() {
                    let keys = self.order_of_columns(order, &bound)?;
                    bound.rel = Rel::Sort {
                        input: Box::new(bound.rel),
                        keys,
                    };
                }
                bound
            }
        };
        self.limited(bound, limits)
    }

    /// A query with nothing but the queries around it in scope of its clauses.
    pub(super) fn inner(&mut self, query: &ast::Query) -> Result<Query> {
        let grouping = self.grouping.take();
        let windows = self.windows.take();
        let bound = self.query(query);
        self.grouping = grouping;
        self.windows = windows;
        bound
    }

    pub(super) fn set_expr(
        &mut self,
        body: &ast::SetExpr,
        order: &[ast::OrderByExpr],
    ) -> Result<Query> {
        match body {
            ast::SetExpr::Select(select) => {
                let tail = Tail {
                    order,
                    limited: false,
                };
                let query = self.select(select, &tail)?;
                Ok(exact(query))
            }
            ast::SetExpr::Query(query) => Ok(exact(self.query(query)?)),
            ast::SetExpr::Values(values) => self.values(values),
            ast::SetExpr::SetOperation {
                op,
                set_quantifier,
                left,
                right,
            } => self.nested(|b| b.set_operation(*op, *set_quantifier, left, right)),
            // The parser takes three tokens behind TABLE whatever they are: what is a query was
            // put in SELECT's words before.
            ast::SetExpr::Table(_) => Err(Failure::new(
                SqlState::SyntaxError,
                "syntax error at or near \"TABLE\"",
            )),
            ast::SetExpr::Insert(_)
            | ast::SetExpr::Update(_)
            | ast::SetExpr::Delete(_)
            | ast::SetExpr::Merge(_) => Err(Failure::unsupported("a write inside a query")),
        }
    }

    fn set_operation(
        &mut self,
        op: ast::SetOperator,
        quantifier: ast::SetQuantifier,
        left: &ast::SetExpr,
        right: &ast::SetExpr,
    ) -> Result<Query> {
        let (kind, what) = match op {
            ast::SetOperator::Union => (SetKind::Union, "UNION"),
            ast::SetOperator::Intersect => (SetKind::Intersect, "INTERSECT"),
            ast::SetOperator::Except => (SetKind::Except, "EXCEPT"),
            ast::SetOperator::Minus => {
                return Err(Failure::new(
                    SqlState::SyntaxError,
                    "syntax error at or near \"MINUS\"",
                ));
            }
        };
        let all = match quantifier {
            ast::SetQuantifier::All => true,
            ast::SetQuantifier::Distinct | ast::SetQuantifier::None => false,
            _ => return Err(Failure::unsupported("set operations by name")),
        };
        let mut left = self.set_expr(left, &[])?;
        let mut right = self.set_expr(right, &[])?;
        if left.columns.len() != right.columns.len() {
            return Err(unequal_columns(what));
        }
        let types = self.set_types(
            what,
            &open_types(&left.rel, &left.columns),
            &open_types(&right.rel, &right.columns),
        )?;
        self.cast_output(&mut left, &types)?;
        self.cast_output(&mut right, &types)?;
        let columns: Vec<(ColumnId, DataType)> =
            types.iter().map(|t| (self.column_id(), *t)).collect();
        for ((id, _), ((_, l), (_, r))) in
            columns.iter().zip(left.columns.iter().zip(&right.columns))
        {
            if let Some(shown) = l.shown_as.filter(|shown| r.shown_as == Some(*shown)) {
                self.catalog_types.insert(*id, shown);
            }
        }
        let shown = columns
            .iter()
            .zip(&left.columns)
            .map(|((id, data_type), (_, c))| {
                let column = ResultColumn {
                    name: c.name.clone(),
                    data_type: *data_type,
                    shown_as: self.catalog_types.get(id).copied(),
                };
                (*id, column)
            })
            .collect();
        Ok(Query {
            rel: Rel::SetOperation {
                kind,
                all,
                left: Box::new(left.rel),
                right: Box::new(right.rel),
                columns,
            },
            columns: shown,
        })
    }

    /// Gives a query's columns these types.
    pub(super) fn cast_output(&mut self, query: &mut Query, types: &[DataType]) -> Result<()> {
        if query
            .columns
            .iter()
            .zip(types)
            .all(|((_, c), t)| c.data_type == *t)
        {
            return Ok(());
        }
        // Literals of a bare select list or VALUES take the type as if written so.
        let mut expressions = Vec::new();
        for ((id, column), to) in query.columns.iter_mut().zip(types) {
            let source = literal_text(&query.rel, *id);
            let e = match source {
                Some(text) => {
                    let text = Expr::Unknown(Unknown::Text(text, 0));
                    self.coerce(text, *to)?
                }
                None => self.coerce(Expr::column(*id, column.data_type), *to)?,
            };
            let e = match e {
                Expr::Constant(value, _) => Expr::Constant(value, *to),
                other => other,
            };
            if column.data_type != *to {
                column.shown_as = None;
            }
            *id = self.column_id();
            column.data_type = *to;
            expressions.push((*id, e));
        }
        let input = std::mem::replace(
            &mut query.rel,
            Rel::Values {
                columns: Vec::new(),
                rows: Vec::new(),
            },
        );
        query.rel = Rel::Project {
            input: Box::new(input),
            expressions,
        };
        Ok(())
    }

    pub(super) fn values(&mut self, values: &ast::Values) -> Result<Query> {
        let width = values.rows.first().map_or(0, |row| row.content.len());
        let mut rows = Vec::with_capacity(values.rows.len());
        self.scopes.push(Scope::default());
        for row in &values.rows {
            if row.content.len() != width {
                self.scopes.pop();
                return Err(Failure::new(
                    SqlState::SyntaxError,
                    "VALUES lists must all be the same length",
                ));
            }
            let bound = row
                .content
                .iter()
                .map(|e| self.expr(e))
                .collect::<Result<Vec<_>>>();
            match bound {
                Ok(row) => rows.push(row),
                Err(failure) => {
                    self.scopes.pop();
                    return Err(failure);
                }
            }
        }
        self.scopes.pop();
        let mut columns = Vec::new();
        for i in 0..width {
            let data_type = common_type("VALUES", rows.iter().map(|r: &Vec<Expr>| type_of(&r[i])))?;
            columns.push((self.column_id(), data_type));
        }
        for row in &mut rows {
            for (e, (_, data_type)) in row.iter_mut().zip(&columns) {
                let taken = std::mem::replace(e, Expr::bool(true));
                *e = self.coerce(taken, *data_type)?;
            }
        }
        let shown = columns
            .iter()
            .enumerate()
            .map(|(i, (id, data_type))| {
                let column = ResultColumn {
                    name: format!("column{}", i + 1),
                    data_type: *data_type,
                    shown_as: None,
                };
                (*id, column)
            })
            .collect();
        Ok(Query {
            rel: Rel::Values { columns, rows },
            columns: shown,
        })
    }

    fn select(&mut self, select: &ast::Select, tail: &Tail<'_>) -> Result<Query> {
        refuse_select_clauses(select)?;
        let grouping = self.grouping.take();
        let windows = self.windows.take();
        self.scopes.push(Scope::default());
        let bound = self
            .define_windows(&select.named_window)
            .and_then(|around| {
                let bound = self.select_body(select, tail);
                self.named_windows = around;
                bound
            });
        self.scopes.pop();
        self.grouping = grouping;
        self.windows = windows;
        bound
    }

    fn select_body(&mut self, select: &ast::Select, tail: &Tail<'_>) -> Result<Query> {
        let into = self.into.take();
        let from = self.from(&select.from)?;
        let sole_scan = match &from {
            Some(Rel::Scan(scan)) => Some(scan.clone()),
            _ => None,
        };
        let mut rel = from.unwrap_or(Rel::Values {
            columns: Vec::new(),
            rows: vec![Vec::new()],
        });
        if let Some(condition) = &select.selection {
            let predicate = self.clause_condition(condition, "WHERE", "WHERE")?;
            rel = Rel::Filter {
                input: Box::new(rel),
                predicate,
            };
        }
        let grouped = self.group_by(&select.group_by, &select.projection)?;
        self.grouping = Some(Grouping::default());
        self.windows = Some(Vec::new());

        self.into = into;
        let around = self.sets.replace(Vec::new());
        let items = self.select_list(&select.projection);
        let sets = std::mem::replace(&mut self.sets, around).unwrap_or_default();
        let mut items = items?;
        let having = match &select.having {
            Some(e) => Some(self.condition(e, "HAVING")?),
            None => None,
        };
        let mut on = match &select.distinct {
            Some(ast::Distinct::On(list)) => Some(
                list.iter()
                    .map(|e| self.order_expr(e, &items).map(|(e, _)| e))
                    .collect::<Result<Vec<_>>>()?,
            ),
            _ => None,
        };
        let mut sets = sets;
        let is_distinct = matches!(select.distinct, Some(ast::Distinct::Distinct)) || on.is_some();
        let mut keys = self.order_keys(tail.order, &items)?;

        let mut windows = self.windows.take().unwrap_or_default();
        let aggregates = self.grouping.take().unwrap_or_default();
        let is_grouped = grouped.is_some()
            || having.is_some()
            || !aggregates.calls.is_empty()
            || !aggregates.asked.is_empty();
        if is_grouped {
            let above = windows.iter().map(|(id, _)| *id);
            let known: Vec<ColumnId> = above.chain(sets.iter().map(|(id, _)| *id)).collect();
            let mut every: Vec<&mut Expr> = items.iter_mut().map(|(_, e)| e).collect();
            let mut having = having;
            every.extend(keys.iter_mut().map(|k| &mut k.expr));
            every.extend(having.iter_mut());
            every.extend(on.iter_mut().flatten());
            every.extend(sets.iter_mut().flat_map(|(_, c)| &mut c.arguments));
            for (_, call) in &mut windows {
                every.extend(call.arguments.iter_mut());
                every.extend(call.partition.iter_mut());
                every.extend(call.filter.iter_mut());
                every.extend(call.order.iter_mut().map(|k| &mut k.expr));
            }
            rel = self.aggregate(rel, grouped.unwrap_or_default(), aggregates, every, &known)?;
            if let Some(predicate) = having {
                rel = Rel::Filter {
                    input: Box::new(rel),
                    predicate,
                };
            }
        }
        if !windows.is_empty() {
            rel = Rel::Window {
                input: Box::new(rel),
                calls: windows,
            };
        }
        let has_sets = !sets.is_empty();
        rel = expanded(rel, sets);
        if tail.limited
            && !tail.order.is_empty()
            && !has_sets
            && !is_grouped
            && !is_distinct
            && let Some(scan) = sole_scan
        {
            keys.push(Self::key_order(&scan));
        }
        self.finish_select(rel, items, keys, is_distinct, on)
    }

    /// Projects, removes duplicates, sorts.
    fn finish_select(
        &mut self,
        mut rel: Rel,
        items: Vec<(String, Expr)>,
        mut keys: Vec<SortKey>,
        is_distinct: bool,
        on: Option<Vec<Expr>>,
    ) -> Result<Query> {
        let mut expressions: Vec<(ColumnId, Expr)> = Vec::new();
        let mut columns = Vec::new();
        for (name, e) in items {
            let data_type = e.data_type();
            let shown_as = self.shown_as(&e);
            let id = self.place(&mut expressions, e);
            let column = ResultColumn {
                name,
                data_type,
                shown_as,
            };
            columns.push((id, column));
        }
        let shown = expressions.len();
        let mut on = on;
        for e in keys
            .iter_mut()
            .map(|k| &mut k.expr)
            .chain(on.iter_mut().flatten())
        {
            let taken = std::mem::replace(e, Expr::bool(true));
            let data_type = taken.data_type();
            let id = self.place(&mut expressions, taken);
            *e = Expr::column(id, data_type);
        }
        if is_distinct && on.is_none() && expressions.len() > shown {
            return Err(Failure::new(
                SqlState::InvalidColumnReference,
                "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
            ));
        }
        rel = Rel::Project {
            input: Box::new(rel),
            expressions,
        };
        if is_distinct {
            if let Some(on) = &on
                && keys.iter().zip(on).any(|(k, _)| {
                    !on.iter()
                        .any(|e| format!("{e:?}") == format!("{:?}", k.expr))
                })
            {
                return Err(Failure::new(
                    SqlState::InvalidColumnReference,
                    "SELECT DISTINCT ON expressions must match initial ORDER BY expressions",
                ));
            }
            rel = Rel::Distinct {
                input: Box::new(rel),
                on,
                order: keys.clone(),
            };
        }
        if !keys.is_empty() {
            rel = Rel::Sort {
                input: Box::new(rel),
                keys,
            };
        }
        Ok(Query { rel, columns })
    }

    /// The column that holds an expression, added to the list if it is not there yet.
    fn place(&mut self, expressions: &mut Vec<(ColumnId, Expr)>, e: Expr) -> ColumnId {
        if let Expr::Column {
            id, outer: false, ..
        } = &e
        {
            let id = *id;
            if !expressions.iter().any(|(known, _)| *known == id) {
                expressions.push((id, e));
            }
            return id;
        }
        let shown = format!("{e:?}");
        if let Some((id, _)) = expressions
            .iter()
            .find(|(_, known)| format!("{known:?}") == shown && !is_volatile(known))
        {
            return *id;
        }
        let id = self.column_id();
        expressions.push((id, e));
        id
    }

    /// The select list, wildcards expanded; every type is settled.
    pub(super) fn select_list(&mut self, items: &[ast::SelectItem]) -> Result<Vec<(String, Expr)>> {
        let into = self.into.take().unwrap_or_default();
        let mut list = Vec::new();
        for item in items {
            match item {
                ast::SelectItem::UnnamedExpr(e) => {
                    let name = output_name(e);
                    list.push((name, self.typed_into(e, into.get(list.len()))?));
                }
                ast::SelectItem::ExprWithAlias { expr, alias } => {
                    let e = self.typed_into(expr, into.get(list.len()))?;
                    list.push((fold_case(alias), e));
                }
                ast::SelectItem::Wildcard(options) => {
                    refuse_wildcard_options(options)?;
                    let scope = self.scopes.last().cloned().unwrap_or_default();
                    if scope.relations.is_empty() {
                        return Err(Failure::new(
                            SqlState::SyntaxError,
                            "SELECT * with no tables specified is not valid",
                        ));
                    }
                    for c in scope.star() {
                        list.push((c.name, Expr::column(c.id, c.data_type)));
                    }
                }
                ast::SelectItem::QualifiedWildcard(
                    ast::SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                ) => {
                    refuse_wildcard_options(options)?;
                    let (_, relation, span) = schema_and_name(name)?;
                    let Some(found) = self.relation_in_scope(&relation) else {
                        let failure = Failure::new(
                            SqlState::UndefinedTable,
                            format!("missing FROM-clause entry for table \"{relation}\""),
                        );
                        return Err(self.at(failure, span));
                    };
                    for c in &found.columns {
                        list.push((c.name.clone(), Expr::column(c.id, c.data_type)));
                    }
                }
                other => {
                    return Err(Failure::unsupported(format!("the select item \"{other}\"")));
                }
            }
        }
        Ok(list)
    }

    fn order_keys(
        &mut self,
        order: &[ast::OrderByExpr],
        items: &[(String, Expr)],
    ) -> Result<Vec<SortKey>> {
        let mut keys = Vec::new();
        for item in order {
            let (expr, _) = self.order_expr(&item.expr, items)?;
            keys.push(sort_key(expr, item)?);
        }
        Ok(keys)
    }

    /// An ORDER BY or GROUP BY term: a position, an output name, or an expression.
    fn order_expr(&mut self, e: &ast::Expr, items: &[(String, Expr)]) -> Result<(Expr, bool)> {
        if let Some(position) = ordinal(e) {
            let found = usize::try_from(position)
                .ok()
                .and_then(|p| items.get(p.wrapping_sub(1)));
            return match found {
                Some((_, expr)) => Ok((expr.clone(), true)),
                None => Err(self.at(
                    Failure::new(
                        SqlState::InvalidColumnReference,
                        format!("ORDER BY position {position} is not in select list"),
                    ),
                    e.span(),
                )),
            };
        }
        if let ast::Expr::Identifier(ident) = e {
            let name = fold_case(ident);
            let found: Vec<&Expr> = items
                .iter()
                .filter(|(n, _)| *n == name)
                .map(|(_, e)| e)
                .collect();
            if let Some(first) = found.first() {
                let shown = format!("{first:?}");
                if found.iter().any(|other| format!("{other:?}") != shown) {
                    return Err(self.at(
                        Failure::new(
                            SqlState::AmbiguousColumn,
                            format!("ORDER BY \"{name}\" is ambiguous"),
                        ),
                        e.span(),
                    ));
                }
                return Ok(((*first).clone(), true));
            }
        }
        let bound = self.typed(e)?;
        if !crate::function::compare::is_ordered(bound.data_type()) {
            return Err(self.at(
                Failure::new(
                    SqlState::UndefinedFunction,
                    format!(
                        "could not identify an ordering operator for type {}",
                        bound.data_type().plain_name()
                    ),
                ),
                e.span(),
            ));
        }
        Ok((bound, false))
    }

    /// ORDER BY above a set operation or VALUES: output columns only.
    fn order_of_columns(
        &mut self,
        order: &[ast::OrderByExpr],
        query: &Query,
    ) -> Result<Vec<SortKey>> {
        let items: Vec<(String, Expr)> = query
            .columns
            .iter()
            .map(|(id, c)| (c.name.clone(), Expr::column(*id, c.data_type)))
            .collect();
        let mut keys = Vec::new();
        for item in order {
            self.scopes.push(Scope::default());
            let bound = self.order_expr(&item.expr, &items);
            self.scopes.pop();
            let (expr, found) = bound?;
            if !found {
                return Err(Failure::unsupported(
                    "ORDER BY an expression above UNION, INTERSECT or EXCEPT",
                )
                .with_hint("name or number an output column"));
            }
            keys.push(sort_key(expr, item)?);
        }
        Ok(keys)
    }
}

/// The query with exactly the columns it shows, in their order, each of its own.
pub(super) fn exact(query: Query) -> Query {
    if let Rel::Project { expressions, .. } = &query.rel
        && expressions
            .iter()
            .map(|(id, _)| *id)
            .eq(query.columns.iter().map(|(id, _)| *id))
    {
        return query;
    }
    let mut expressions: Vec<(ColumnId, Expr)> = Vec::new();
    for (id, c) in &query.columns {
        if !expressions.iter().any(|(known, _)| known == id) {
            expressions.push((*id, Expr::column(*id, c.data_type)));
        }
    }
    Query {
        rel: Rel::Project {
            input: Box::new(query.rel),
            expressions,
        },
        columns: query.columns,
    }
}

/// Types of output columns, `None` where a bare string literal stands.
fn open_types(rel: &Rel, columns: &[(ColumnId, ResultColumn)]) -> Vec<Option<DataType>> {
    columns
        .iter()
        .map(|(id, c)| match literal_text(rel, *id) {
            Some(_) => None,
            None if is_null_literal(rel, *id) => None,
            None => Some(c.data_type),
        })
        .collect()
}

fn projected(rel: &Rel, id: ColumnId) -> Option<&Expr> {
    match rel {
        Rel::Project { expressions, input } => {
            let (_, e) = expressions.iter().find(|(known, _)| *known == id)?;
            match e {
                Expr::Column { id, .. } => projected(input, *id).or(Some(e)),
                other => Some(other),
            }
        }
        _ => None,
    }
}

pub(super) fn literal_text(rel: &Rel, id: ColumnId) -> Option<String> {
    match projected(rel, id) {
        Some(Expr::Constant(Value::Text(text), DataType::Text(None))) => Some(text.clone()),
        _ => None,
    }
}

fn is_null_literal(rel: &Rel, id: ColumnId) -> bool {
    matches!(
        projected(rel, id),
        Some(Expr::Constant(Value::Null, DataType::Text(None)))
    )
}

fn is_volatile(e: &Expr) -> bool {
    e.any(|e| matches!(e, Expr::Volatile { .. }))
}

pub(super) fn unequal_columns(what: &str) -> Failure {
    Failure::new(
        SqlState::SyntaxError,
        format!("each {what} query must have the same number of columns"),
    )
}

pub(super) fn ordinal(e: &ast::Expr) -> Option<i64> {
    match e {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::Number(text, _) => text.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn sort_key(expr: Expr, item: &ast::OrderByExpr) -> Result<SortKey> {
    if item.with_fill.is_some() {
        return Err(Failure::unsupported("WITH FILL"));
    }
    let descending = item.options.asc == Some(false);
    Ok(SortKey {
        expr,
        descending,
        nulls_first: item.options.nulls_first.unwrap_or(descending),
    })
}

fn order_items(order: Option<&ast::OrderBy>) -> Result<&[ast::OrderByExpr]> {
    match order {
        None => Ok(&[]),
        Some(ast::OrderBy {
            kind: ast::OrderByKind::Expressions(items),
            interpolate: None,
        }) => Ok(items),
        Some(_) => Err(Failure::unsupported("ORDER BY ALL")),
    }
}

fn refuse_clauses(query: &ast::Query) -> Result<()> {
    if !query.locks.is_empty() {
        return Err(Failure::unsupported("SELECT FOR UPDATE and its like"));
    }
    if query.for_clause.is_some()
        || query.settings.is_some()
        || query.format_clause.is_some()
        || !query.pipe_operators.is_empty()
    {
        return Err(Failure::unsupported("a clause of another SQL dialect"));
    }
    Ok(())
}

fn refuse_select_clauses(select: &ast::Select) -> Result<()> {
    if select.into.is_some() {
        return Err(Failure::unsupported("SELECT INTO"));
    }
    let foreign = select.top.is_some()
        || select.exclude.is_some()
        || !select.lateral_views.is_empty()
        || select.prewhere.is_some()
        || !select.connect_by.is_empty()
        || !select.cluster_by.is_empty()
        || !select.distribute_by.is_empty()
        || !select.sort_by.is_empty()
        || select.qualify.is_some()
        || select.value_table_mode.is_some()
        || select.select_modifiers.is_some()
        || select.flavor != ast::SelectFlavor::Standard;
    if foreign {
        return Err(Failure::unsupported("a clause of another SQL dialect"));
    }
    Ok(())
}

fn refuse_wildcard_options(options: &ast::WildcardAdditionalOptions) -> Result<()> {
    if options.opt_ilike.is_some()
        || options.opt_exclude.is_some()
        || options.opt_except.is_some()
        || options.opt_replace.is_some()
        || options.opt_rename.is_some()
        || options.opt_alias.is_some()
    {
        return Err(Failure::unsupported("an option of *"));
    }
    Ok(())
}
