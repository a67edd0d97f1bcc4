//! GROUP BY and aggregate functions.
//!
//! Expressions above a GROUP BY are bound as if there were none; aggregate calls become columns of
//! the grouping on the way. Then what equals a grouping key is replaced by the key's column, and any
//! column of the input that is left over is an error (42803).

use nodedb_types::{DataType, Failure, Result, SqlState};
use sqlparser::ast::{self, Spanned};

use super::name::fold_case;
use super::select::{ordinal, sort_key};
use super::{Binder, type_of};
use crate::expr::Expr;
use crate::expr::types::{is_integer, plain};
use crate::function::resolve::undefined;
use crate::rel::{AggregateCall, AggregateKind, ColumnId, Rel, Scan};

/// Aggregate calls met so far, each a column.
#[derive(Default, Clone)]
pub(super) struct Grouping {
    pub calls: Vec<(ColumnId, AggregateCall)>,
}

/// The keys of a GROUP BY.
#[derive(Default, Clone)]
pub(super) struct Keys {
    pub keys: Vec<Expr>,
    pub sets: Option<Vec<Vec<usize>>>,
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
                    list.iter().map(|set| set.iter().collect()).collect()
                }
                ast::Expr::Rollup(list) => {
                    plain_group = false;
                    (0..=list.len())
                        .rev()
                        .map(|n| list[..n].iter().flatten().collect())
                        .collect()
                }
                ast::Expr::Cube(list) => {
                    plain_group = false;
                    if list.len() > 12 {
                        return Err(Failure::new(
                            SqlState::TooManyColumns,
                            "CUBE is limited to 12 elements",
                        ));
                    }
                    (0..1usize << list.len())
                        .rev()
                        .map(|mask| {
                            let chosen = |i: &usize| mask >> (list.len() - 1 - i) & 1 == 1;
                            (0..list.len())
                                .filter(chosen)
                                .flat_map(|i| &list[i])
                                .collect()
                        })
                        .collect()
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

    pub(super) fn aggregate_call(&mut self, name: &str, call: &ast::Function) -> Result<Expr> {
        let span = call.name.span();
        let Some(grouping) = self.grouping.take() else {
            let failure = Failure::new(
                SqlState::GroupingError,
                "aggregate functions are not allowed here",
            );
            return Err(self.at(failure, span));
        };
        let windows = self.windows.take();
        let bound = self.aggregate_parts(name, call);
        self.windows = windows;
        self.grouping = Some(grouping);
        let bound = bound.map_err(|f| self.at(f, span))?;
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
        let expected = if kind == AggregateKind::StringAgg {
            2
        } else {
            1
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
                let text =
                    |t: &Option<DataType>| t.is_none_or(|t| plain(t) == DataType::Text(None));
                if !types.iter().all(text) {
                    return Err(none());
                }
                (DataType::Text(None), DataType::Text(None))
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
        keys: Keys,
        grouping: Grouping,
        above: Vec<&mut Expr>,
        windows: &[ColumnId],
    ) -> Result<Rel> {
        let mut named: Vec<(ColumnId, Expr)> = Vec::new();
        for key in keys.keys {
            let id = match &key {
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
                if matches!(part, Expr::Constant(..)) {
                    return None;
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
