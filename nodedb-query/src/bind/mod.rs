//! From a parsed statement to a bound one: names resolved, every expression typed.
//!
//! Binding follows PostgreSQL: a literal or parameter without a type takes it from its context, an
//! operator or function is picked among overloads, what cannot be typed is an error with its
//! SQLSTATE and, where the parser kept it, a position. A [`Bound`] statement holds no parameter values and may
//! be cached as long as its collections keep their schema version; [`Bound::instantiate`] is cheap.
//!
//! Binding is done here and not by DataFusion's planner, because that types expressions by its own
//! rules, cannot infer parameters, and costs a point statement far more than its execution.

mod aggregate;
mod catalog;
mod duration;
mod expression;
mod from;
mod name;
mod operator;
mod row;
mod select;
mod set;
mod special;
mod window;
mod write;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use nodedb_bridge::plan::GetRow;
use nodedb_types::{
    Collection, CollectionId, DataType, Failure, Result, SchemaVersion, SqlState, Value, limits,
};
use sqlparser::ast;
use sqlparser::tokenizer::Span;

use crate::catalog::{Catalog, CatalogType, ResultColumn, SessionInfo};
use crate::expr::fold::{Given, Preparation};
use crate::expr::types::plain;
use crate::expr::{Expr, Unknown};
use crate::plan::{Command, Environment, Plan};
use crate::rel::{ColumnId, Extra, Rel};
use crate::rules;

use aggregate::Grouping;
use name::Scope;
pub use row::{SYMMETRIC, USING_ALIAS};
pub use special::{data_type, digits as numeric_digits};

/// What a statement is bound against.
#[derive(Clone)]
pub struct BindContext<'a> {
    pub catalog: Arc<dyn Catalog>,
    pub session: &'a SessionInfo,
    /// The text that was parsed, for positions.
    pub text: &'a str,
}

/// A statement that is bound and may be run many times.
pub struct Bound {
    parameters: Vec<DataType>,
    parameters_shown: Vec<Option<CatalogType>>,
    columns: Vec<ResultColumn>,
    command: Command,
    pins: Arc<[(CollectionId, SchemaVersion)]>,
    template: Template,
    /// Expressions and columns that it was bound to.
    parts: usize,
}

enum Template {
    /// With what is known of its plan beforehand, if it is a read by key.
    Query(Box<Query>, Option<rules::KeyRead>),
    Write(Box<write::WriteTemplate>),
}

/// A query and the columns it shows.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub rel: Rel,
    pub columns: Vec<(ColumnId, ResultColumn)>,
}

/// Binds a `SELECT`, `VALUES`, `INSERT`, `UPDATE` or `DELETE`.
///
/// `parameter_types`: those the client declared; the rest are inferred.
/// Fails with the SQLSTATE that PostgreSQL gives, 0A000 for what is not supported.
pub fn bind(
    statement: &ast::Statement,
    parameter_types: &[Option<DataType>],
    context: &BindContext<'_>,
) -> Result<Bound> {
    let mut binder = Binder::new(context, parameter_types);
    let (command, template, columns) = match statement {
        ast::Statement::Query(query) => {
            let mut query = binder.query(query)?;
            binder.attach_extras(&mut query.rel);
            let columns = query.columns.iter().map(|(_, c)| c.clone()).collect();
            let key_read = rules::KeyRead::of(&query);
            let mut preparation = Preparation::default();
            let fold = &mut |e| Ok::<_, Infallible>(preparation.fold_node(e));
            let Ok(()) = query.rel.map_expressions(fold);
            (
                Command::Select,
                Template::Query(Box::new(query), key_read),
                columns,
            )
        }
        ast::Statement::Insert(insert) => binder.insert(insert)?,
        ast::Statement::Update(update) => binder.update(update)?,
        ast::Statement::Delete(delete) => binder.delete(delete)?,
        _ => return Err(Failure::unsupported("this kind of statement")),
    };
    let parameters = binder.parameters()?;
    binder.parameters_shown.resize(parameters.len(), None);
    Ok(Bound {
        parameters,
        parameters_shown: binder.parameters_shown,
        columns,
        command,
        pins: binder.pins.into(),
        template,
        parts: binder.expressions + binder.next_column as usize,
    })
}

impl Bound {
    /// The type of every parameter, declared or inferred.
    pub fn parameters(&self) -> &[DataType] {
        &self.parameters
    }

    /// What a client is told that a parameter is, where it is not of its own type.
    pub fn parameters_shown(&self) -> &[Option<CatalogType>] {
        &self.parameters_shown
    }

    /// The result columns; none for a write without `RETURNING`.
    pub fn columns(&self) -> &[ResultColumn] {
        &self.columns
    }

    pub fn command(&self) -> Command {
        self.command
    }

    /// About how much memory it takes, bytes. The text that it was bound from tells less: views and
    /// CTEs are bound anew wherever they are named.
    pub fn bytes(&self) -> usize {
        self.parts * PART_BYTES
    }

    /// The collections it reads or writes, each with the schema version it was bound to.
    pub fn pins(&self) -> &Arc<[(CollectionId, SchemaVersion)]> {
        &self.pins
    }

    /// A plan for one execution. `parameters`: values of [`Bound::parameters`] types.
    /// Fails when a value does not fit where the plan needs it.
    pub fn instantiate(&self, parameters: &[Value], environment: &Environment) -> Result<Plan> {
        self.check_count(parameters)?;
        let given = Given::new(parameters, environment);
        match &self.template {
            Template::Query(query, key_read) => {
                if let Some(read) = key_read
                    && let Some(plan) = read.instantiate(&given)?
                {
                    return Ok(Plan::Get(plan));
                }
                rules::plan_query((**query).clone(), &given)
            }
            Template::Write(write) => write.instantiate(&given),
        }
    }
}

impl Bound {
    /// The read of one row that the statement is, if it needs nothing but the row: no filter, and
    /// columns alone to show, of types whose value is the same in a row and in Arrow. Its columns
    /// are those of [`Bound::columns`]. It gives the rows that the plan would give.
    ///
    /// `key_seed`, `shards`: as in [`Environment`].
    pub fn row_read(
        &self,
        parameters: &[Value],
        key_seed: u64,
        shards: u16,
    ) -> Result<Option<GetRow>> {
        let Template::Query(_, Some(read)) = &self.template else {
            return Ok(None);
        };
        self.check_count(parameters)?;
        read.row(parameters, key_seed, shards)
    }

    fn check_count(&self, parameters: &[Value]) -> Result<()> {
        if parameters.len() == self.parameters.len() {
            return Ok(());
        }
        Err(Failure::new(
            SqlState::ProtocolViolation,
            format!(
                "bind message supplies {} parameters, but prepared statement requires {}",
                parameters.len(),
                self.parameters.len()
            ),
        ))
    }
}

/// What an expression or a column of a bound statement takes with what holds it, bytes, about.
const PART_BYTES: usize = 256;
/// Most relations that one statement may come to name, its views and CTEs expanded.
const RELATIONS_MAX: u32 = 1000;

/// Where no aggregate may stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clause {
    Named(&'static str),
    /// The arguments of an aggregate.
    Aggregate,
    Other,
}

pub(crate) struct Binder<'a> {
    context: &'a BindContext<'a>,
    parameters: Vec<Option<DataType>>,
    next_column: u32,
    next_scan: u32,
    /// Expressions that were bound, those within others too.
    expressions: usize,
    scopes: Vec<Scope>,
    /// The first scope of the FROM clause that is being bound: what is not LATERAL sees none from
    /// here on.
    from_start: usize,
    ctes: Vec<from::Cte>,
    /// Set while expressions above a GROUP BY are bound.
    grouping: Option<Grouping>,
    /// What is bound while that is not set, for an error's message.
    clause: Clause,
    windows: Option<Vec<(ColumnId, crate::rel::WindowCall)>>,
    /// Calls of functions that give rows, while a select list is bound.
    sets: Option<Vec<(ColumnId, crate::rel::SetCall)>>,
    /// Types of the columns that the next select list goes into: literals in it take them.
    into: Option<Vec<DataType>>,
    /// Windows that the WINDOW clause names, complete.
    named_windows: Vec<(String, ast::WindowSpec)>,
    /// Columns that clients see as a type of the catalog.
    catalog_types: HashMap<ColumnId, CatalogType>,
    /// Parameters that do, in order.
    parameters_shown: Vec<Option<CatalogType>>,
    extras: HashMap<u32, Vec<Extra>>,
    pins: Vec<(CollectionId, SchemaVersion)>,
    depth: usize,
}

impl<'a> Binder<'a> {
    fn new(context: &'a BindContext<'a>, parameter_types: &[Option<DataType>]) -> Binder<'a> {
        Binder {
            context,
            parameters: parameter_types.to_vec(),
            next_column: 0,
            next_scan: 0,
            expressions: 0,
            scopes: Vec::new(),
            from_start: 0,
            ctes: Vec::new(),
            grouping: None,
            clause: Clause::Other,
            windows: None,
            sets: None,
            into: None,
            named_windows: Vec::new(),
            catalog_types: HashMap::new(),
            parameters_shown: Vec::new(),
            extras: HashMap::new(),
            pins: Vec::new(),
            depth: 0,
        }
    }

    fn parameters(&self) -> Result<Vec<DataType>> {
        self.parameters
            .iter()
            .enumerate()
            .map(|(i, t)| {
                t.ok_or_else(|| {
                    Failure::new(
                        SqlState::IndeterminateDatatype,
                        format!("could not determine data type of parameter ${}", i + 1),
                    )
                })
            })
            .collect()
    }

    /// What clients see a plain column as.
    fn shown_as(&self, e: &Expr) -> Option<CatalogType> {
        match e {
            Expr::Column { id, .. } => self.catalog_types.get(id).copied(),
            _ => None,
        }
    }

    /// A parameter without a type takes that of what it stands beside, in a client's eyes too.
    fn show_parameter(&mut self, e: &Expr, shown: Option<CatalogType>) {
        let (Expr::Unknown(Unknown::Parameter(index)), Some(shown)) = (e, shown) else {
            return;
        };
        if self.parameters.get(*index).is_some_and(Option::is_some) {
            return;
        }
        if self.parameters_shown.len() <= *index {
            self.parameters_shown.resize(*index + 1, None);
        }
        self.parameters_shown[*index] = Some(shown);
    }

    fn column_id(&mut self) -> ColumnId {
        self.next_column += 1;
        ColumnId(self.next_column)
    }

    fn relation_id(&mut self) -> Result<u32> {
        self.next_scan += 1;
        if self.next_scan > RELATIONS_MAX {
            return Err(Failure::new(
                SqlState::StatementTooComplex,
                format!("a statement may name at most {RELATIONS_MAX} relations"),
            ));
        }
        Ok(self.next_scan)
    }

    fn pin(&mut self, collection: &Collection) {
        let pin = (collection.id, collection.version);
        if !self.pins.contains(&pin) {
            self.pins.push(pin);
        }
    }

    /// Enters one more level of nesting; the parser has its own cap, this one guards what it lets
    /// through.
    fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > limits::STATEMENT_DEPTH_MAX {
            return Err(Failure::new(
                SqlState::StatementTooComplex,
                "the statement is nested too deeply",
            ));
        }
        let result = f(self);
        self.depth -= 1;
        result
    }

    /// Puts what indexes must tell about rows into the scans that give them.
    fn attach_extras(&mut self, rel: &mut Rel) {
        let extras = std::mem::take(&mut self.extras);
        if extras.is_empty() {
            return;
        }
        rel.scans_mut(&mut |scan| {
            if let Some(wanted) = extras.get(&scan.id) {
                scan.extras.clone_from(wanted);
            }
        });
    }

    /// The 1-based position of a span's start, in characters.
    fn position(&self, span: Span) -> Option<u32> {
        if span.start.line == 0 {
            return None;
        }
        let before: usize = self
            .context
            .text
            .split_inclusive('\n')
            .take(span.start.line as usize - 1)
            .map(|line| line.chars().count())
            .sum();
        u32::try_from(before + span.start.column as usize).ok()
    }

    fn at(&self, failure: Failure, span: Span) -> Failure {
        match self.position(span) {
            Some(position) if failure.position().is_none() => failure.at(position),
            _ => failure,
        }
    }

    /// The expression as a value of `to`, by an implicit conversion that the caller knows to exist.
    fn coerce(&mut self, e: Expr, to: DataType) -> Result<Expr> {
        self.convert(e, to, false)
    }

    fn convert(&mut self, e: Expr, to: DataType, explicit: bool) -> Result<Expr> {
        match e {
            Expr::Unknown(Unknown::Null) => Ok(Expr::Constant(Value::Null, to)),
            Expr::Unknown(Unknown::Text(text, position)) => {
                if let Some(moment) = self.named_moment(&text, to)? {
                    return Ok(moment);
                }
                let value = if explicit && matches!(to, DataType::Text(_)) {
                    crate::expr::cast::cast(Value::Text(text), &to, true)
                } else {
                    nodedb_types::text::parse(&text, &to)
                };
                match value {
                    Ok(value) => Ok(sized_constant(value, to)),
                    Err(failure) if position > 0 && failure.position().is_none() => {
                        Err(failure.at(position))
                    }
                    Err(failure) => Err(failure),
                }
            }
            Expr::Unknown(Unknown::Parameter(index)) => {
                let declared = *self.parameters[index].get_or_insert(plain(to));
                self.convert(Expr::Parameter(index, declared), to, explicit)
            }
            e if e.data_type() == to => Ok(e),
            // An integer literal where a wider number is wanted.
            Expr::Constant(value, from)
                if crate::expr::types::is_number(from) && crate::expr::types::is_number(to) =>
            {
                match crate::expr::cast::cast(value.clone(), &to, explicit) {
                    Ok(value) => Ok(Expr::Constant(value, to)),
                    Err(_) => Ok(Expr::Cast {
                        operand: Box::new(Expr::Constant(value, from)),
                        to,
                        explicit,
                    }),
                }
            }
            e => Ok(Expr::Cast {
                operand: Box::new(e),
                to,
                explicit,
            }),
        }
    }

    /// `'today'` and its like, which depend on when the statement runs.
    fn named_moment(&mut self, text: &str, to: DataType) -> Result<Option<Expr>> {
        if !matches!(
            to,
            DataType::Date | DataType::Timestamp | DataType::TimestampTz
        ) {
            return Ok(None);
        }
        let span = Span::empty();
        let days = match text.trim().to_lowercase().as_str() {
            "now" => {
                let now = self.call("now", Vec::new(), span)?;
                return self.convert(now, to, true).map(Some);
            }
            "today" => 0,
            "tomorrow" => 1,
            "yesterday" => -1,
            _ => return Ok(None),
        };
        let today = self.call("current_date", Vec::new(), span)?;
        let days = Expr::Constant(Value::Int4(days), DataType::Int4);
        let day = self.call("+", vec![today, days], span)?;
        self.convert(day, to, true).map(Some)
    }

    /// Literals that nothing gave a type are text.
    fn settled(&mut self, e: Expr) -> Result<Expr> {
        if e.is_unknown() {
            self.coerce(e, DataType::Text(None))
        } else {
            Ok(e)
        }
    }
}

/// A numeric literal keeps the digits it was written with.
fn sized_constant(value: Value, to: DataType) -> Expr {
    match (&value, to) {
        (Value::Numeric(n), DataType::Numeric(None)) => {
            let data_type = numeric_type(n);
            Expr::Constant(value, data_type)
        }
        _ => Expr::Constant(value, to),
    }
}

pub(crate) fn numeric_type(n: &nodedb_types::numeric::Numeric) -> DataType {
    let digits = n.unscaled().unsigned_abs().to_string().len() as u8;
    DataType::Numeric(Some((digits.max(n.scale()).max(1), n.scale())))
}

/// The type of an expression, `None` while it has none.
pub(crate) fn type_of(e: &Expr) -> Option<DataType> {
    (!e.is_unknown()).then(|| e.data_type())
}
