//! Native requests as statements.
//!
//! A native request becomes the same syntax tree that the parser makes of the SQL that says the
//! same, with its values as parameters; no text is made or parsed. From there on there is one way
//! (P3): one binder, one plan cache, one executor. The cache knows a request by its shape.

use std::sync::Arc;

use nodedb_bridge::schedule;
use nodedb_types::wire::{Argument, Order, Request, Row, SetQuery, Term};
use nodedb_types::{Collection, DataType, Failure, Result, SqlState, Value};
use sqlparser::ast::helpers::attached_token::AttachedToken;
use sqlparser::ast::{
    Assignment, AssignmentTarget, BinaryOperator, ConflictTarget, DoUpdate, Expr, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, LimitClause, ObjectName,
    Offset, OffsetRows, OnConflict, OnConflictAction, OnInsert, OrderBy, OrderByExpr, OrderByKind,
    OrderByOptions, Parens, SelectItem, SetExpr, Statement, TableFactor, TableObject,
    Value as Literal,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

/// A statement, the key of its plan, and its parameters with their types.
pub(super) struct Native {
    pub(super) shape: String,
    pub(super) statement: Statement,
    pub(super) values: Vec<Value>,
}

impl Native {
    /// Types that the values have of themselves.
    pub(super) fn hints(&self) -> Vec<Option<DataType>> {
        self.values.iter().map(hint).collect()
    }
}

/// Texts and numbers adapt to the column they meet, as a parameter of a driver does.
pub(super) fn hint(value: &Value) -> Option<DataType> {
    match value {
        Value::Null | Value::Text(_) | Value::Int2(_) | Value::Int4(_) | Value::Int8(_) => None,
        Value::Float4(_) | Value::Float8(_) | Value::Numeric(_) => None,
        Value::Vector(_) => Some(DataType::Vector(None)),
        value => value.data_type_hint(),
    }
}

/// Values that are fitted at a stretch.
const VALUES_A_BREATH: usize = 16;

/// Values as their parameters' types.
pub(super) fn fit(values: Vec<Value>, types: &[DataType]) -> Result<Arc<[Value]>> {
    let fitted = values.into_iter().zip(types).enumerate();
    fitted
        .map(|(i, (value, data_type))| {
            if i % VALUES_A_BREATH == 0 {
                schedule::breathe();
            }
            fit_one(value, data_type)
        })
        .collect()
}

fn fit_one(value: Value, data_type: &DataType) -> Result<Value> {
    match value {
        // Literals of SQL are read by the type they meet; so are texts here.
        Value::Text(text) if !matches!(data_type, DataType::Text(_)) => {
            nodedb_types::text::parse(&text, data_type)
        }
        value => value.coerce(data_type),
    }
}

/// The statement of a request that names a collection. `None` for SQL text and pings.
pub(super) fn native(request: Request, collection: &Collection) -> Result<Option<Native>> {
    let mut build = Builder { values: Vec::new() };
    let statement = match request {
        Request::Sql { .. } | Request::Ping => return Ok(None),
        Request::Get { keys, columns, .. } => build.get(collection, keys, &columns)?,
        Request::Delete { keys, .. } => build.delete(collection, keys)?,
        Request::Put { rows, .. } => build.put(collection, rows)?,
        Request::Query(query) => build.query(query)?,
    };
    // A syntax tree prints as SQL; with a leading NUL no client's text has that key.
    let shape = format!("\0{statement}");
    Ok(Some(Native {
        shape,
        statement,
        values: build.values,
    }))
}

struct Builder {
    values: Vec<Value>,
}

fn name(text: &str) -> Ident {
    Ident::with_quote('"', text)
}

fn column(text: &str) -> Expr {
    Expr::Identifier(name(text))
}

/// Parses one of this module's own templates, whose parts are then replaced.
fn template(text: &str) -> Result<Statement> {
    let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, text)
        .map_err(|e| Failure::internal(format!("a template does not parse: {e}")))?;
    parsed
        .pop()
        .ok_or_else(|| Failure::internal("a template is empty"))
}

fn broken() -> Failure {
    Failure::internal("a template has another shape")
}

fn key_of(collection: &Collection) -> Result<&str> {
    let key = collection.key.ok_or_else(|| {
        Failure::new(
            SqlState::ObjectNotInPrerequisiteState,
            format!("collection \"{}\" has no primary key", collection.name),
        )
    })?;
    Ok(&collection.columns[key].name)
}

impl Builder {
    fn parameter(&mut self, value: Value) -> Expr {
        self.values.push(value);
        Expr::Value(Literal::Placeholder(format!("${}", self.values.len())).with_empty_span())
    }

    fn keys(&mut self, collection: &Collection, keys: Vec<Value>) -> Result<Expr> {
        let key = column(key_of(collection)?);
        let mut keys: Vec<Expr> = keys.into_iter().map(|key| self.parameter(key)).collect();
        Ok(match keys.len() {
            0 => Expr::Value(Literal::Boolean(false).with_empty_span()),
            1 => binary(key, BinaryOperator::Eq, keys.remove(0)),
            _ => Expr::InList {
                expr: Box::new(key),
                list: keys,
                negated: false,
            },
        })
    }

    fn get(
        &mut self,
        collection: &Collection,
        keys: Vec<Value>,
        columns: &[String],
    ) -> Result<Statement> {
        let filter = self.keys(collection, keys)?;
        select(
            &collection.name,
            projection(columns),
            Some(filter),
            None,
            None,
        )
    }

    fn delete(&mut self, collection: &Collection, keys: Vec<Value>) -> Result<Statement> {
        let filter = self.keys(collection, keys)?;
        let mut statement = template("DELETE FROM t WHERE a")?;
        let Statement::Delete(delete) = &mut statement else {
            return Err(broken());
        };
        let tables = match &mut delete.from {
            sqlparser::ast::FromTable::WithFromKeyword(tables)
            | sqlparser::ast::FromTable::WithoutKeyword(tables) => tables,
        };
        let Some(TableFactor::Table { name: table, .. }) =
            tables.first_mut().map(|t| &mut t.relation)
        else {
            return Err(broken());
        };
        *table = ObjectName::from(vec![name(&collection.name)]);
        delete.selection = Some(filter);
        Ok(statement)
    }

    /// Insert or replace: every column is written, those that a row does not name as NULL.
    fn put(&mut self, collection: &Collection, rows: Vec<Row>) -> Result<Statement> {
        let key = key_of(collection)?;
        let mut tuples = Vec::new();
        for row in rows {
            let mut cells = vec![Value::Null; collection.columns.len()];
            for (named, value) in row {
                let at = collection.column(&named).ok_or_else(|| {
                    Failure::new(
                        SqlState::UndefinedColumn,
                        format!(
                            "column \"{named}\" of relation \"{}\" does not exist",
                            collection.name
                        ),
                    )
                })?;
                cells[at] = value;
            }
            let content = cells.into_iter().map(|cell| self.parameter(cell)).collect();
            tuples.push(Parens {
                opening_token: AttachedToken::empty(),
                content,
                closing_token: AttachedToken::empty(),
            });
        }
        let mut statement = template("INSERT INTO t (a) VALUES (1)")?;
        let Statement::Insert(insert) = &mut statement else {
            return Err(broken());
        };
        insert.table = TableObject::TableName(ObjectName::from(vec![name(&collection.name)]));
        insert.columns = collection
            .columns
            .iter()
            .map(|c| ObjectName::from(vec![name(&c.name)]))
            .collect();
        let Some(SetExpr::Values(values)) = insert.source.as_mut().map(|s| s.body.as_mut()) else {
            return Err(broken());
        };
        values.rows = tuples;
        let assign = |c: &nodedb_types::Column| Assignment {
            target: AssignmentTarget::ColumnName(ObjectName::from(vec![name(&c.name)])),
            value: Expr::CompoundIdentifier(vec![Ident::new("excluded"), name(&c.name)]),
        };
        let assignments: Vec<_> = collection
            .columns
            .iter()
            .filter(|c| c.name != key)
            .map(assign)
            .collect();
        let action = if assignments.is_empty() {
            OnConflictAction::DoNothing
        } else {
            OnConflictAction::DoUpdate(DoUpdate {
                assignments,
                selection: None,
            })
        };
        let conflict_target = Some(ConflictTarget::Columns(vec![name(key)]));
        insert.on = Some(OnInsert::OnConflict(OnConflict {
            conflict_target,
            action,
        }));
        Ok(statement)
    }

    fn query(&mut self, query: SetQuery) -> Result<Statement> {
        let filter = query
            .filter
            .map(|term| self.term(&query.collection, term))
            .transpose()?;
        let mut items = projection(&query.columns);
        let order = match query.order {
            Order::Any => None,
            // The key's column is not known here; a query without order by key names it.
            Order::Key { descending } => {
                Some(order_by(Expr::Identifier(Ident::new(KEY)), descending))
            }
            Order::Column { name, descending } => Some(order_by(column(&name), descending)),
            Order::Rank {
                name: rank,
                arguments,
            } => {
                let ranked = self.call(&query.collection, &rank, arguments)?;
                if let Some(alias) = &query.score {
                    items.push(SelectItem::ExprWithAlias {
                        expr: ranked.clone(),
                        alias: name(alias),
                    });
                }
                // Distances are best when small, scores when large.
                Some(order_by(ranked, rank == "bm25_score"))
            }
        };
        let limit = (query.limit.is_some() || query.offset > 0).then(|| LimitClause::LimitOffset {
            limit: query
                .limit
                .map(|n| self.parameter(Value::Int8(i64::try_from(n).unwrap_or(i64::MAX)))),
            offset: (query.offset > 0).then(|| Offset {
                value: self.parameter(Value::Int8(i64::try_from(query.offset).unwrap_or(i64::MAX))),
                rows: OffsetRows::None,
            }),
            limit_by: Vec::new(),
        });
        if query.count {
            let count = function(
                "count",
                vec![FunctionArg::Unnamed(FunctionArgExpr::Wildcard)],
            )?;
            return select(
                &query.collection,
                vec![SelectItem::UnnamedExpr(count)],
                filter,
                None,
                None,
            );
        }
        select(&query.collection, items, filter, order, limit)
    }

    fn term(&mut self, collection: &str, term: Term) -> Result<Expr> {
        Ok(match term {
            Term::Call { name, arguments } => self.call(collection, &name, arguments)?,
            Term::And(terms) => self.join(collection, terms, BinaryOperator::And)?,
            Term::Or(terms) => self.join(collection, terms, BinaryOperator::Or)?,
            Term::Not(term) => Expr::UnaryOp {
                op: sqlparser::ast::UnaryOperator::Not,
                expr: Box::new(Expr::Nested(Box::new(self.term(collection, *term)?))),
            },
        })
    }

    /// No terms: AND of nothing is true, OR of nothing is false.
    fn join(&mut self, collection: &str, terms: Vec<Term>, op: BinaryOperator) -> Result<Expr> {
        let empty = Literal::Boolean(op == BinaryOperator::And).with_empty_span();
        let mut joined = None;
        for term in terms {
            let term = Expr::Nested(Box::new(self.term(collection, term)?));
            joined = Some(match joined {
                None => term,
                Some(before) => binary(before, op.clone(), term),
            });
        }
        Ok(joined.unwrap_or(Expr::Value(empty)))
    }

    fn call(&mut self, collection: &str, called: &str, arguments: Vec<Argument>) -> Result<Expr> {
        let mut arguments: Vec<Expr> = arguments
            .into_iter()
            .map(|argument| match argument {
                Argument::Column(text) => column(&text),
                Argument::Value(value) => self.parameter(value),
                Argument::Collection => column(collection),
            })
            .collect();
        let operator = match called {
            "=" => Some(BinaryOperator::Eq),
            "<>" => Some(BinaryOperator::NotEq),
            "<" => Some(BinaryOperator::Lt),
            "<=" => Some(BinaryOperator::LtEq),
            ">" => Some(BinaryOperator::Gt),
            ">=" => Some(BinaryOperator::GtEq),
            "<->" | "<=>" | "<#>" | "<+>" => Some(BinaryOperator::Custom(called.to_owned())),
            _ => None,
        };
        let wrong = || {
            Failure::new(
                SqlState::UndefinedFunction,
                format!("{called} is given a wrong number of arguments"),
            )
        };
        if let Some(operator) = operator {
            let (Some(right), Some(left), None) =
                (arguments.pop(), arguments.pop(), arguments.pop())
            else {
                return Err(wrong());
            };
            return Ok(binary(left, operator, right));
        }
        if matches!(called, "in" | "between" | "is null") {
            if arguments.is_empty() {
                return Err(wrong());
            }
            let expr = Box::new(arguments.remove(0));
            return match (called, arguments.len()) {
                ("is null", 0) => Ok(Expr::IsNull(expr)),
                ("in", 0) => Ok(Expr::Value(Literal::Boolean(false).with_empty_span())),
                ("in", _) => Ok(Expr::InList {
                    expr,
                    list: arguments,
                    negated: false,
                }),
                ("between", 2) => {
                    let (low, high) =
                        (Box::new(arguments.remove(0)), Box::new(arguments.remove(0)));
                    Ok(Expr::Between {
                        expr,
                        negated: false,
                        low,
                        high,
                    })
                }
                _ => Err(wrong()),
            };
        }
        let unnamed = |argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument));
        function(called, arguments.into_iter().map(unnamed).collect())
    }
}

/// Stands for the key's column until the collection is known; no column has this name.
const KEY: &str = "\0key";

/// Replaces the order by key of a query with the collection's key column.
pub(super) fn name_key(statement: &mut Statement, collection: &Collection) -> Result<()> {
    let Statement::Query(query) = statement else {
        return Ok(());
    };
    let Some(OrderBy {
        kind: OrderByKind::Expressions(terms),
        ..
    }) = &mut query.order_by
    else {
        return Ok(());
    };
    for term in terms {
        if matches!(&term.expr, Expr::Identifier(ident) if ident.value == KEY) {
            term.expr = column(key_of(collection)?);
        }
    }
    Ok(())
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(left),
        op,
        right: Box::new(right),
    }
}

fn order_by(expr: Expr, descending: bool) -> OrderBy {
    let options = OrderByOptions {
        asc: Some(!descending),
        // A row without a score is never the best match.
        nulls_first: descending.then_some(false),
    };
    let term = OrderByExpr {
        expr,
        options,
        with_fill: None,
    };
    OrderBy {
        kind: OrderByKind::Expressions(vec![term]),
        interpolate: None,
    }
}

fn projection(columns: &[String]) -> Vec<SelectItem> {
    if columns.is_empty() {
        return vec![SelectItem::Wildcard(Default::default())];
    }
    columns
        .iter()
        .map(|c| SelectItem::UnnamedExpr(column(c)))
        .collect()
}

fn function(called: &str, args: Vec<FunctionArg>) -> Result<Expr> {
    let Statement::Query(query) = template("SELECT f()")? else {
        return Err(broken());
    };
    let SetExpr::Select(select) = *query.body else {
        return Err(broken());
    };
    let Some(SelectItem::UnnamedExpr(Expr::Function(mut function))) =
        select.projection.into_iter().next()
    else {
        return Err(broken());
    };
    function.name = ObjectName::from(vec![name(called)]);
    function.args = FunctionArguments::List(FunctionArgumentList {
        duplicate_treatment: None,
        args,
        clauses: Vec::new(),
    });
    Ok(Expr::Function(function))
}

fn select(
    collection: &str,
    items: Vec<SelectItem>,
    filter: Option<Expr>,
    order: Option<OrderBy>,
    limit: Option<LimitClause>,
) -> Result<Statement> {
    let mut statement = template("SELECT a FROM t")?;
    let Statement::Query(query) = &mut statement else {
        return Err(broken());
    };
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(broken());
    };
    select.projection = items;
    select.selection = filter;
    let Some(TableFactor::Table { name: table, .. }) =
        select.from.first_mut().map(|t| &mut t.relation)
    else {
        return Err(broken());
    };
    *table = ObjectName::from(vec![name(collection)]);
    query.order_by = order;
    query.limit_clause = limit;
    Ok(statement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodedb_types::schema::Engine;
    use nodedb_types::{CollectionId, Column, SchemaVersion};

    fn notes() -> Collection {
        let column = |name: &str, data_type| Column {
            name: name.to_owned(),
            data_type,
            not_null: false,
        };
        Collection {
            id: CollectionId(2000),
            name: "notes".to_owned(),
            engine: Engine::DocumentStrict,
            version: SchemaVersion(1),
            columns: vec![
                column("id", DataType::Int8),
                column("bo\"dy", DataType::Text(None)),
            ],
            key: Some(0),
        }
    }

    fn shape(request: Request) -> String {
        let collection = notes();
        let mut native = native(request, &collection)
            .expect("builds")
            .expect("is native");
        name_key(&mut native.statement, &collection).expect("has a key");
        native.statement.to_string()
    }

    #[test]
    fn requests_become_the_trees_of_the_same_sql() {
        let keys = vec![Value::Int8(1), Value::Int8(2)];
        let collection = "notes".to_owned();
        let get = Request::Get {
            collection: collection.clone(),
            keys: keys.clone(),
            columns: vec![],
        };
        assert_eq!(
            shape(get),
            "SELECT * FROM \"notes\" WHERE \"id\" IN ($1, $2)"
        );
        let delete = Request::Delete {
            collection: collection.clone(),
            keys: keys[..1].to_vec(),
        };
        assert_eq!(shape(delete), "DELETE FROM \"notes\" WHERE \"id\" = $1");
        let put = Request::Put {
            collection: collection.clone(),
            rows: vec![vec![("id".to_owned(), Value::Int8(1))]],
        };
        assert_eq!(
            shape(put),
            "INSERT INTO \"notes\" (\"id\", \"bo\"\"dy\") VALUES ($1, $2) ON CONFLICT(\"id\") \
             DO UPDATE SET \"bo\"\"dy\" = excluded.\"bo\"\"dy\""
        );
        let query = SetQuery {
            collection,
            filter: Some(Term::Not(Box::new(Term::Call {
                name: "text_match".to_owned(),
                arguments: vec![
                    Argument::Collection,
                    Argument::Value(Value::Text("x".to_owned())),
                ],
            }))),
            order: Order::Key { descending: true },
            limit: Some(3),
            offset: 0,
            columns: vec!["id".to_owned()],
            score: None,
            count: false,
        };
        assert_eq!(
            shape(Request::Query(query)),
            "SELECT \"id\" FROM \"notes\" WHERE NOT (\"text_match\"(\"notes\", $1)) \
             ORDER BY \"id\" DESC NULLS LAST LIMIT $2"
        );
    }
}
