//! GROUP BY and aggregate functions.
//!
//! Expressions above a GROUP BY are bound as if there were none; aggregate calls become columns of
//! the grouping on the way. Then what equals a grouping key is replaced by the key's column, and any
//! column of the input that is left over is an error (42803).

use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use sqlparser::ast::{self, Spanned};
use sqlparser::tokenizer::Span;

use super::name::{fold_case, schema_and_name};
use super::select::{ordinal, sort_key};
use super::{Binder, Clause, type_of};
use crate::expr::Expr;
use crate::expr::types::{is_integer, plain};
use crate::function::resolve::undefined;
use crate::rel::{AggregateCall, AggregateKind, ColumnId, Rel, Scan};

/// Aggregate calls met so far, each a column.
#[derive(Default, Clone)]
pub(super) struct Grouping {
    pub calls: Vec<(ColumnId, AggregateCall)>,
    /// What `GROUPING()` asks about, with the column that stands for the call until then.
    pub asked: Vec<(ColumnId, Vec<Expr>)>,
}

/// The keys of a GROUP BY.
#[derive(Default, Clone)]
pub(super) struct Keys {
    pub keys: Vec<Expr>,
    pub sets: Option<Vec<Vec<usize>>>,
    /// Keys that are marks of others, and the column of each.
    marks: Vec<(usize, ColumnId)>,
}

/// The aggregate of a name.
pub(super) fn kind(name: &str) -> Option<AggregateKind> {
    Some(match name {
        "count" => AggregateKind::Count,
        "sum" => AggregateKind::Sum,
        "avg" => AggregateKind::Avg,
        "min" => AggregateKind::Min,
        "max" => AggregateKind::Max,
        "bool_and" | "every" => AggregateKind::BoolAnd,
        "bool_or" => AggregateKind::BoolOr,
        "string_agg" => AggregateKind::StringAgg,
        "jsonb_agg" => AggregateKind::JsonbAgg,
        "jsonb_object_agg" => AggregateKind::JsonbObjectAgg,
        "stddev" | "stddev_samp" => AggregateKind::StddevSample,
        "stddev_pop" => AggregateKind::StddevPopulation,
        "variance" | "var_samp" => AggregateKind::VarianceSample,
        "var_pop" => AggregateKind::VariancePopulation,
        "bit_and" => AggregateKind::BitAnd,
        "bit_or" => AggregateKind::BitOr,
        "bit_xor" => AggregateKind::BitXor,
        _ => return None,
    })
}

/// Most arguments of `GROUPING()`: its bits fit an integer.
const GROUPING_ARGUMENTS_MAX: usize = 31;

/// Most elements of a CUBE, which stands for two to that power of grouping sets.
const CUBE_ELEMENTS_MAX: usize = 12;

/// An aggregate whose arguments name columns of a query around it and none of its own is that
/// query's.
fn belongs_outside(call: &AggregateCall) -> bool {
    let (mut own, mut outside) = (false, false);
    for e in &call.arguments {
        e.visit(&mut |part| match part {
            Expr::Column { outer, .. } => {
                own |= !outer;
                outside |= outer;
            }
            Expr::Subquery(subquery) => own |= !subquery.rel.outer_columns().is_empty(),
            _ => {}
        });
    }
    outside && !own
}

fn parts_of(list: &[Vec<ast::Expr>]) -> Vec<Vec<&ast::Expr>> {
    list.iter().map(|part| part.iter().collect()).collect()
}

fn rollup<'e>(parts: &[Vec<&'e ast::Expr>]) -> Vec<Vec<&'e ast::Expr>> {
    (0..=parts.len())
        .rev()
        .map(|n| parts[..n].iter().flatten().copied().collect())
        .collect()
}

fn cube<'e>(parts: &[Vec<&'e ast::Expr>]) -> Result<Vec<Vec<&'e ast::Expr>>> {
    if parts.len() > CUBE_ELEMENTS_MAX {
        return Err(Failure::new(
            SqlState::TooManyColumns,
            "CUBE is limited to 12 elements",
        ));
    }
    let sets = (0..1usize << parts.len()).rev().map(|mask| {
        let chosen = |i: &usize| mask >> (parts.len() - 1 - i) & 1 == 1;
        (0..parts.len())
            .filter(chosen)
            .flat_map(|i| parts[i].iter().copied())
            .collect()
    });
    Ok(sets.collect())
}

/// An element of GROUPING SETS: a set, or a ROLLUP or CUBE, which the parser takes for a call.
fn nested_sets(set: &[ast::Expr]) -> Result<Vec<Vec<&ast::Expr>>> {
    if let [ast::Expr::Function(call)] = set
        && let ast::FunctionArguments::List(list) = &call.args
        && let Ok((None, name, _)) = schema_and_name(&call.name)
        && matches!(name.as_str(), "rollup" | "cube")
    {
        let mut parts: Vec<Vec<&ast::Expr>> = Vec::new();
        for argument in &list.args {
            match argument {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(ast::Expr::Tuple(items))) => {
                    parts.push(items.iter().collect());
                }
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => parts.push(vec![e]),
                _ => return Err(Failure::unsupported("this form of GROUP BY")),
            }
        }
        return match name.as_str() {
            "rollup" => Ok(rollup(&parts)),
            _ => cube(&parts),
        };
    }
    Ok(vec![set.iter().collect()])
}

impl Binder<'_> {
    pub(super) fn group_by(
        &mut self,
        group_by: &ast::GroupByExpr,
        projection: &[ast::SelectItem],
    ) -> Result<Option<Keys>> {
        let items = match group_by {
            ast::GroupByExpr::All(_) => return Err(Failure::unsupported("GROUP BY ALL")),
            ast::GroupByExpr::Expressions(items, modifiers) => {
                if !modifiers.is_empty() {
                    return Err(Failure::unsupported("this form of GROUP BY"));
                }
                items
            }
        };
        if items.is_empty() {
            return Ok(None);
        }
        let mut keys = Keys::default();
        let mut sets: Vec<Vec<usize>> = vec![Vec::new()];
        let mut plain_group = true;
        for item in items {
            let choices: Vec<Vec<&ast::Expr>> = match item {
                ast::Expr::GroupingSets(list) => {
                    plain_group = false;
                    let mut choices = Vec::new();
                    for set in list {
                        choices.extend(nested_sets(set)?);
                    }
                    choices
                }
                ast::Expr::Rollup(list) => {
                    plain_group = false;
                    rollup(&parts_of(list))
                }
                ast::Expr::Cube(list) => {
                    plain_group = false;
                    cube(&parts_of(list))?
                }
                ast::Expr::Tuple(items) => vec![items.iter().collect()],
                e => vec![vec![e]],
            };
            let mut crossed = Vec::new();
            for choice in choices {
                let positions = choice
                    .into_iter()
                    .map(|e| self.group_key(e, projection, &mut keys.keys))
                    .collect::<Result<Vec<_>>>()?;
                for set in &sets {
                    let mut set = set.clone();
                    set.extend(positions.iter().copied());
                    set.sort_unstable();
                    set.dedup();
                    crossed.push(set);
                }
            }
            sets = crossed;
        }
        if !plain_group {
            keys.sets = Some(sets);
        }
        Ok(Some(keys))
    }

    /// Position of a key: of an input column, an output column by name or number, or an expression.
    fn group_key(
        &mut self,
        e: &ast::Expr,
        projection: &[ast::SelectItem],
        keys: &mut Vec<Expr>,
    ) -> Result<usize> {
        let output = |wanted: &str| {
            projection.iter().find_map(|item| match item {
                ast::SelectItem::ExprWithAlias { expr, alias } if fold_case(alias) == wanted => {
                    Some(expr)
                }
                _ => None,
            })
        };
        let key = if let Some(position) = ordinal(e) {
            let item = usize::try_from(position)
                .ok()
                .and_then(|p| projection.get(p.wrapping_sub(1)));
            match item {
                Some(
                    ast::SelectItem::UnnamedExpr(e)
                    | ast::SelectItem::ExprWithAlias { expr: e, .. },
                ) => self.typed(e)?,
                Some(_) => return Err(Failure::unsupported("GROUP BY the position of a *")),
                None => {
                    let failure = Failure::new(
                        SqlState::InvalidColumnReference,
                        format!("GROUP BY position {position} is not in select list"),
                    );
                    return Err(self.at(failure, e.span()));
                }
            }
        } else {
            match (self.typed(e), e) {
                (Ok(key), _) => key,
                (Err(failure), ast::Expr::Identifier(ident)) => match output(&fold_case(ident)) {
                    Some(e) if failure.code() == SqlState::UndefinedColumn => self.typed(e)?,
                    _ => return Err(failure),
                },
                (Err(failure), _) => return Err(failure),
            }
        };
        let shown = format!("{key:?}");
        Ok(match keys.iter().position(|k| format!("{k:?}") == shown) {
            Some(position) => position,
            None => {
                keys.push(key);
                keys.len() - 1
            }
        })
    }

    /// `GROUPING(keys)`: a bit per key, set where the row's grouping set leaves the key out.
    pub(super) fn grouping_call(&mut self, call: &ast::Function) -> Result<Expr> {
        let span = call.name.span();
        let Some(grouping) = self.grouping.take() else {
            let failure = Failure::new(
                SqlState::GroupingError,
                "grouping operations are not allowed here",
            );
            return Err(self.at(failure, span));
        };
        let arguments = self
            .plain_arguments(call)
            .and_then(|list| list.into_iter().map(|e| self.typed(e)).collect());
        self.grouping = Some(grouping);
        let arguments: Vec<Expr> = arguments?;
        if arguments.len() > GROUPING_ARGUMENTS_MAX {
            let failure = Failure::new(
                SqlState::TooManyArguments,
                "GROUPING must have fewer than 32 arguments",
            );
            return Err(self.at(failure, span));
        }
        let id = self.column_id();
        let grouping = self.grouping.get_or_insert_with(Grouping::default);
        grouping.asked.push((id, arguments));
        Ok(Expr::column(id, DataType::Int4))
    }

    pub(super) fn aggregate_call(&mut self, name: &str, call: &ast::Function) -> Result<Expr> {
        let span = call.name.span();
        let Some(grouping) = self.grouping.take() else {
            let message = match self.clause {
                Clause::Aggregate => "aggregate function calls cannot be nested".to_owned(),
                Clause::Named(name) => format!("aggregate functions are not allowed in {name}"),
                Clause::Other => "aggregate functions are not allowed here".to_owned(),
            };
            let failure = Failure::new(SqlState::GroupingError, message);
            return Err(self.at(failure, span));
        };
        let windows = self.windows.take();
        let around = std::mem::replace(&mut self.clause, Clause::Aggregate);
        let bound = self.aggregate_parts(name, call);
        self.clause = around;
        self.windows = windows;
        self.grouping = Some(grouping);
        let bound = bound.map_err(|f| self.at(f, span))?;
        if belongs_outside(&bound) {
            let failure = Failure::unsupported("an aggregate of a query around this one");
            return Err(self.at(failure, span));
        }
        let returns = bound.returns;
        let shown = format!("{bound:?}");
        let id = self.column_id();
        let grouping = self.grouping.get_or_insert_with(Grouping::default);
        let known = grouping
            .calls
            .iter()
            .find(|(_, c)| format!("{c:?}") == shown);
        if let Some((id, _)) = known {
            return Ok(Expr::column(*id, returns));
        }
        grouping.calls.push((id, bound));
        Ok(Expr::column(id, returns))
    }

    /// An aggregate's arguments and result; `grouping` is off meanwhile, so that one inside
    /// another is refused.
    pub(super) fn aggregate_parts(
        &mut self,
        name: &str,
        call: &ast::Function,
    ) -> Result<AggregateCall> {
        let mut kind = kind(name).ok_or_else(|| undefined(name, &[]))?;
        if !call.within_group.is_empty() || call.null_treatment.is_some() {
            return Err(Failure::unsupported("WITHIN GROUP and NULL treatment"));
        }
        let list = match &call.args {
            ast::FunctionArguments::List(list) => list,
            _ => return Err(undefined(name, &[])),
        };
        let mut order = Vec::new();
        for clause in &list.clauses {
            let ast::FunctionArgumentClause::OrderBy(items) = clause else {
                return Err(Failure::unsupported("this clause of an aggregate"));
            };
            for item in items {
                let e = self.typed(&item.expr)?;
                order.push(sort_key(e, item)?);
            }
        }
        let mut arguments = Vec::new();
        for argument in &list.args {
            match argument {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Wildcard)
                    if kind == AggregateKind::Count =>
                {
                    kind = AggregateKind::CountStar;
                }
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => {
                    arguments.push(self.expr(e)?);
                }
                _ => return Err(Failure::unsupported("this argument of an aggregate")),
            }
        }
        let distinct = list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct);
        if distinct && kind == AggregateKind::CountStar {
            return Err(Failure::new(
                SqlState::SyntaxError,
                "DISTINCT specified for count(*)",
            ));
        }
        let (arguments, returns) = self.aggregate_types(name, kind, arguments)?;
        let is_argument = |e: &Expr| {
            let shown = format!("{e:?}");
            arguments.iter().any(|a| format!("{a:?}") == shown)
        };
        if distinct && !order.iter().all(|key| is_argument(&key.expr)) {
            return Err(Failure::new(
                SqlState::InvalidColumnReference,
                "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
            ));
        }
        let filter = match &call.filter {
            Some(e) => Some(self.condition(e, "FILTER")?),
            None => None,
        };
        Ok(AggregateCall {
            kind,
            arguments,
            distinct,
            filter,
            order,
            returns,
        })
    }

    /// Casts arguments to what the aggregate computes in; gives the type of its result.
    fn aggregate_types(
        &mut self,
        name: &str,
        kind: AggregateKind,
        arguments: Vec<Expr>,
    ) -> Result<(Vec<Expr>, DataType)> {
        let types: Vec<Option<DataType>> = arguments.iter().map(type_of).collect();
        let none = || undefined(name, &types);
        if kind == AggregateKind::CountStar {
            return match types[..] {
                [] => Ok((Vec::new(), DataType::Int8)),
                _ => Err(none()),
            };
        }
        let expected = match kind {
            AggregateKind::StringAgg | AggregateKind::JsonbObjectAgg => 2,
            _ => 1,
        };
        if arguments.len() != expected {
            return Err(none());
        }
        let given = types[0];
        let (argument, returns) = match kind {
            AggregateKind::CountStar | AggregateKind::Count | AggregateKind::SingleValue => {
                (given.unwrap_or(DataType::Text(None)), DataType::Int8)
            }
            AggregateKind::Sum => match given.ok_or_else(none)? {
                DataType::Int2 | DataType::Int4 => (DataType::Int8, DataType::Int8),
                DataType::Int8 => (DataType::Int8, DataType::Numeric(Some((38, 0)))),
                DataType::Numeric(Some((_, scale))) => {
                    let sized = DataType::Numeric(Some((38, scale)));
                    (sized, sized)
                }
                other @ DataType::Numeric(None) => (other, other),
                DataType::Float4 => (DataType::Float8, DataType::Float4),
                DataType::Float8 => (DataType::Float8, DataType::Float8),
                DataType::Interval => {
                    return Err(Failure::unsupported("the sum of intervals"));
                }
                _ => return Err(none()),
            },
            AggregateKind::Avg => match given.ok_or_else(none)? {
                t if is_integer(t) => (DataType::Int8, DataType::Numeric(None)),
                t @ DataType::Numeric(_) => (t, DataType::Numeric(None)),
                DataType::Float4 | DataType::Float8 => (DataType::Float8, DataType::Float8),
                DataType::Interval => {
                    return Err(Failure::unsupported("the average of intervals"));
                }
                _ => return Err(none()),
            },
            AggregateKind::StddevSample
            | AggregateKind::StddevPopulation
            | AggregateKind::VarianceSample
            | AggregateKind::VariancePopulation => match given.ok_or_else(none)? {
                t if is_integer(t) => (DataType::Int8, DataType::Numeric(None)),
                t @ DataType::Numeric(_) => (t, DataType::Numeric(None)),
                DataType::Float4 | DataType::Float8 => (DataType::Float8, DataType::Float8),
                _ => return Err(none()),
            },
            AggregateKind::BitAnd | AggregateKind::BitOr | AggregateKind::BitXor => {
                match given.ok_or_else(none)? {
                    t if is_integer(t) => (t, t),
                    _ => return Err(none()),
                }
            }
            AggregateKind::Min | AggregateKind::Max => {
                let t = given.unwrap_or(DataType::Text(None));
                match t {
                    DataType::Bool
                    | DataType::Uuid
                    | DataType::Bytea
                    | DataType::Jsonb
                    | DataType::Vector(_)
                    | DataType::Geometry(_)
                    | DataType::Geography(_) => return Err(none()),
                    DataType::Interval => {
                        return Err(Failure::unsupported("min and max of intervals"));
                    }
                    t => (t, t),
                }
            }
            AggregateKind::BoolAnd | AggregateKind::BoolOr => match given {
                None | Some(DataType::Bool) => (DataType::Bool, DataType::Bool),
                _ => return Err(none()),
            },
            AggregateKind::StringAgg => {
                let all =
                    |wanted: DataType| types.iter().all(|t| t.is_none_or(|t| plain(t) == wanted));
                match (all(DataType::Text(None)), all(DataType::Bytea)) {
                    (true, _) => (DataType::Text(None), DataType::Text(None)),
                    (false, true) => (DataType::Bytea, DataType::Bytea),
                    (false, false) => return Err(none()),
                }
            }
            AggregateKind::JsonbAgg => {
                let own = given.unwrap_or(DataType::Text(None));
                (own, DataType::Jsonb)
            }
            AggregateKind::JsonbObjectAgg => {
                let [key, value] = &types[..] else {
                    return Err(none());
                };
                let value = value.unwrap_or(DataType::Text(None));
                if key.is_some_and(|t| plain(t) == DataType::Jsonb) {
                    return Err(Failure::new(
                        SqlState::InvalidParameterValue,
                        "key value must be scalar, not array, composite, or json",
                    ));
                }
                let mut arguments = arguments.into_iter();
                let (Some(key), Some(e)) = (arguments.next(), arguments.next()) else {
                    return Err(none());
                };
                let key = self.convert(key, DataType::Text(None), true)?;
                return Ok((vec![key, self.coerce(e, value)?], DataType::Jsonb));
            }
        };
        let arguments = arguments
            .into_iter()
            .map(|e| self.coerce(e, argument))
            .collect::<Result<Vec<_>>>()?;
        Ok((arguments, returns))
    }

    /// Puts the grouping above `input` and rewrites the expressions above it.
    pub(super) fn aggregate(
        &mut self,
        input: Rel,
        mut keys: Keys,
        grouping: Grouping,
        above: Vec<&mut Expr>,
        windows: &[ColumnId],
    ) -> Result<Rel> {
        let asked = self.grouping_bits(&mut keys, &grouping.asked)?;
        let mut named: Vec<(ColumnId, Expr)> = Vec::new();
        for (position, key) in keys.keys.into_iter().enumerate() {
            let mark = keys.marks.iter().find(|(p, _)| *p == position);
            let id = match &key {
                _ if let Some((_, mark)) = mark => *mark,
                Expr::Column {
                    id, outer: false, ..
                } => *id,
                _ => self.column_id(),
            };
            named.push((id, key));
        }
        let shown: Vec<(String, ColumnId, DataType)> = named
            .iter()
            .map(|(id, e)| (format!("{e:?}"), *id, e.data_type()))
            .collect();
        let mut known: Vec<ColumnId> = named.iter().map(|(id, _)| *id).collect();
        known.extend(grouping.calls.iter().map(|(id, _)| *id));
        known.extend(windows);
        for e in above {
            let taken = std::mem::replace(e, Expr::bool(true));
            *e = taken.replace(&|part| {
                match part {
                    Expr::Constant(..) => return None,
                    Expr::Column { id, .. } => {
                        if let Some((_, bits)) = asked.iter().find(|(call, _)| call == id) {
                            return Some(bits.clone());
                        }
                    }
                    _ => {}
                }
                let text = format!("{part:?}");
                shown
                    .iter()
                    .find(|(key, ..)| *key == text)
                    .map(|(_, id, data_type)| Expr::column(*id, *data_type))
            });
            let mut loose: Vec<(ColumnId, DataType)> = Vec::new();
            e.visit(&mut |part| {
                if let Expr::Column {
                    id,
                    data_type,
                    outer: false,
                } = part
                    && !known.contains(id)
                {
                    loose.push((*id, *data_type));
                }
            });
            for (id, data_type) in loose {
                // What depends on a grouped primary key is one value per group.
                if keys.sets.is_none() && self.depends_on_key(id, &known) {
                    known.push(id);
                    named.push((id, Expr::column(id, data_type)));
                    continue;
                }
                return Err(self.not_grouped(id));
            }
        }
        Ok(Rel::Aggregate {
            input: Box::new(input),
            keys: named,
            sets: keys.sets,
            aggregates: grouping.calls,
        })
    }

    /// What each `GROUPING()` is in terms of marks: a mark is a key of its own that is set in the
    /// grouping sets of the key it stands for, so NULL tells that a row's set is without it.
    fn grouping_bits(
        &mut self,
        keys: &mut Keys,
        asked: &[(ColumnId, Vec<Expr>)],
    ) -> Result<Vec<(ColumnId, Expr)>> {
        let int = |n: i32| Expr::Constant(Value::Int4(n), DataType::Int4);
        let mut marks: Vec<(usize, ColumnId)> = Vec::new();
        let mut all = Vec::new();
        for (call, arguments) in asked {
            let mut sum = int(0);
            for (bit, argument) in arguments.iter().rev().enumerate() {
                let shown = format!("{argument:?}");
                let known = keys.keys.iter().position(|k| format!("{k:?}") == shown);
                let key = known.ok_or_else(|| {
                    Failure::new(
                        SqlState::GroupingError,
                        "arguments to GROUPING must be grouping expressions of the associated query level",
                    )
                })?;
                if keys.sets.is_none() {
                    continue;
                }
                let mark = match marks.iter().find(|(k, _)| *k == key) {
                    Some((_, mark)) => *mark,
                    None => {
                        let mark = self.column_id();
                        marks.push((key, mark));
                        mark
                    }
                };
                let missing = Expr::Case {
                    branches: vec![(
                        Expr::IsNull(Box::new(Expr::column(mark, DataType::Int4))),
                        int(1 << bit),
                    )],
                    otherwise: Box::new(int(0)),
                    data_type: DataType::Int4,
                };
                sum = self.call("+", vec![sum, missing], Span::empty())?;
            }
            all.push((*call, sum));
        }
        for (key, mark) in marks {
            let position = keys.keys.len();
            keys.keys.push(int(1));
            keys.marks.push((position, mark));
            for set in keys.sets.iter_mut().flatten() {
                if set.contains(&key) {
                    set.push(position);
                }
            }
        }
        Ok(all)
    }

    fn depends_on_key(&self, id: ColumnId, grouped: &[ColumnId]) -> bool {
        let relations = self.scopes.last().map_or(&[][..], |s| &s.relations[..]);
        let scan: Option<&Scan> = relations
            .iter()
            .find(|r| r.columns.iter().any(|c| c.id == id))
            .and_then(|r| r.scan.as_deref());
        scan.and_then(|s| s.collection.key.map(|k| s.columns[k]))
            .is_some_and(|key| grouped.contains(&key))
    }

    fn not_grouped(&self, id: ColumnId) -> Failure {
        let relations = self.scopes.last().map_or(&[][..], |s| &s.relations[..]);
        let name = relations
            .iter()
            .flat_map(|r| r.columns.iter().map(move |c| (r, c)))
            .find(|(_, c)| c.id == id)
            .map_or_else(|| "?".to_owned(), |(r, c)| format!("{}.{}", r.name, c.name));
        Failure::new(
            SqlState::GroupingError,
            format!(
                "column \"{name}\" must appear in the GROUP BY clause or be used in an aggregate function"
            ),
        )
    }
}
