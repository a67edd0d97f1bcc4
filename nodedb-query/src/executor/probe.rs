//! Scalar subqueries whose value is had first: those that refer to nothing outside.
//!
//! The executor would join such a subquery to the rows around it. That is no value for an index,
//! which ranks by a vector that it is given (`ORDER BY v <=> (SELECT …) LIMIT 5`) or finds a row by
//! a key (`WHERE id = (SELECT max(id) …)`), and it fails the statement when the subquery fails,
//! whether or not a row needs it. So it is evaluated once before the plan around it is lowered, at
//! the statement's own snapshot, and its value takes its place. If its rows' values make it fail,
//! what takes its place is an expression that fails likewise for the first row that reaches it, as
//! in PostgreSQL, which evaluates such a subquery when it is needed. Subqueries that refer to
//! columns outside, and `IN (SELECT …)`, are joined, and fail the statement whether or not a row
//! needs them.

use std::collections::BTreeMap;

use futures::StreamExt;
use nodedb_bridge::plan::Order;
use nodedb_types::arrow_map::value_at;
use nodedb_types::vector::Metric;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::session::{self, Spill};
use super::{RelationalPlan, RunContext};
use crate::bind::Query;
use crate::catalog::ResultColumn;
use crate::expr::Expr;
use crate::expr::fold::cast_constant;
use crate::function::{Argument, Function, Kernel, Returns};
use crate::plan::Environment;
use crate::rel::{Rel, Subquery, SubqueryKind};
use crate::rules::{chain_of, plan_leaf};

/// What the evaluation of a subquery gave.
type Outcome = std::result::Result<Value, Failure>;

/// Fails as a subquery did. Nobody can write it: it is in no table of functions.
static FAILED: Function = Function::new(
    "failed subquery",
    &[Argument::Any; 4],
    Returns::Same,
    Kernel::Row(fail),
    "fails with a code, a message, a detail and a hint",
)
.sees_null();

fn fail(arguments: &[Value]) -> Result<Value> {
    let text = |at: usize| match arguments.get(at) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let code = text(0).and_then(|code| SqlState::from_code(&code));
    let code = code.unwrap_or(SqlState::DataException);
    let mut failure = Failure::new(code, text(1).unwrap_or_default());
    if let Some(detail) = text(2) {
        failure = failure.with_detail(detail);
    }
    if let Some(hint) = text(3) {
        failure = failure.with_hint(hint);
    }
    Err(failure)
}

/// What stands for a subquery whose outcome is known.
fn known(outcome: Outcome, returns: DataType) -> Expr {
    let failure = match outcome {
        Ok(value) => return Expr::Constant(value, returns),
        Err(failure) => failure,
    };
    let text = |text: Option<&str>| {
        let value = text.map_or(Value::Null, |text| Value::Text(text.to_owned()));
        Expr::Constant(value, DataType::Text(None))
    };
    let (code, message) = (failure.code().code(), failure.message());
    let parts = [Some(code), Some(message), failure.detail(), failure.hint()];
    Expr::Call {
        function: &FAILED,
        arguments: parts.map(text).into(),
        returns,
    }
}

/// Whether a part reads the rows of a recursion that is not its own, and so has a value only
/// within it.
fn is_in_recursion(rel: &mut Rel, own: &mut Vec<String>) -> bool {
    match rel {
        Rel::Working { name, .. } => !own.contains(name),
        Rel::Recursive {
            name, start, step, ..
        } => {
            own.push(name.clone());
            let found = is_in_recursion(start, own) || is_in_recursion(step, own);
            own.pop();
            found
        }
        other => {
            let mut found = false;
            for slot in other.expressions_mut() {
                slot.visit(&mut |part| {
                    if let Expr::Subquery(s) = part {
                        found |= is_in_recursion(&mut s.rel.clone(), own);
                    }
                });
            }
            let mut inputs = other.inputs_mut().into_iter();
            found || inputs.any(|input| is_in_recursion(input, own))
        }
    }
}

/// The subquery that an expression is, when its value can be had first.
fn subquery_of(e: &Expr) -> Option<&Subquery> {
    let Expr::Subquery(subquery) = e else {
        return None;
    };
    let apart = subquery.kind == SubqueryKind::Scalar
        && subquery.rel.outer_columns().is_empty()
        && !is_in_recursion(&mut subquery.rel.clone(), &mut Vec::new());
    apart.then_some(subquery)
}

/// Dimensions of a column, casts aside.
fn dimensions_of(e: &Expr) -> Option<usize> {
    match e {
        Expr::Cast { operand, .. } => dimensions_of(operand),
        Expr::Column {
            data_type: DataType::Vector(Some(n)),
            ..
        } => Some(usize::from(*n)),
        _ => None,
    }
}

/// A cast of a constant as the constant that it gives: an index ranks by a value. One that fails
/// stays: no row may reach it.
fn folded(e: Expr) -> Expr {
    let Expr::Cast {
        operand,
        to,
        explicit,
    } = e
    else {
        return e;
    };
    let operand = Box::new(folded(*operand));
    if operand.constant().is_some() {
        return cast_constant(operand, to, explicit);
    }
    Expr::Cast {
        operand,
        to,
        explicit,
    }
}

/// Replaces each such subquery by what `outcome` makes of it, told the dimensions of the column
/// beside it where it is an operand of a distance. One for which it gives nothing stays. Inner
/// subqueries come before those around them.
fn replace(
    rel: &mut Rel,
    outcome: &mut dyn FnMut(&Subquery, Option<usize>) -> Option<Outcome>,
) -> Result<()> {
    for input in rel.inputs_mut() {
        replace(input, outcome)?;
    }
    for slot in rel.expressions_mut() {
        if slot.has_subquery() {
            let taken = std::mem::replace(slot, Expr::bool(true));
            *slot = replaced(taken, None, outcome)?;
        }
    }
    Ok(())
}

/// As [`replace`], within an expression; `beside`: the dimensions of the column whose distance from
/// it is asked for.
fn replaced(
    e: Expr,
    beside: Option<usize>,
    outcome: &mut dyn FnMut(&Subquery, Option<usize>) -> Option<Outcome>,
) -> Result<Expr> {
    match e {
        Expr::Subquery(mut subquery) => {
            replace(&mut subquery.rel, outcome)?;
            if let Some(operand) = subquery.operand.take() {
                subquery.operand = Some(replaced(operand, None, outcome)?);
            }
            let whole = Expr::Subquery(subquery);
            let found = subquery_of(&whole).and_then(|subquery| outcome(subquery, beside));
            Ok(match found {
                Some(outcome) => known(outcome, whole.data_type()),
                None => whole,
            })
        }
        Expr::Call {
            function,
            arguments,
            returns,
        } if Metric::from_operator(function.name).is_some() => {
            let dimensions = arguments.iter().find_map(dimensions_of);
            let arguments = arguments.into_iter().map(|argument| {
                let is_probe = argument.has_subquery();
                let argument = replaced(argument, dimensions, outcome)?;
                Ok(if is_probe { folded(argument) } else { argument })
            });
            Ok(Expr::Call {
                function,
                arguments: arguments.collect::<Result<_>>()?,
                returns,
            })
        }
        cast @ Expr::Cast { .. } => {
            cast.map_children(&mut |child| replaced(child, beside, outcome))
        }
        other => other.map_children(&mut |child| replaced(child, None, outcome)),
    }
}

/// Evaluates these subqueries of a query and puts their values into it: first those that have none
/// of them inside, then those around them.
pub(super) async fn settle(
    query: &mut Query,
    environment: &Environment,
    context: &RunContext,
    spill: Option<&Spill>,
) -> Result<()> {
    loop {
        // By what they are: one that stands in several places has one value.
        let mut innermost: BTreeMap<String, Subquery> = BTreeMap::new();
        replace(&mut query.rel, &mut |subquery, _| {
            if !has_inner(subquery) {
                let shown = format!("{subquery:?}");
                innermost.entry(shown).or_insert_with(|| subquery.clone());
            }
            None
        })?;
        if innermost.is_empty() {
            return Ok(());
        }
        let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
        for (shown, subquery) in innermost {
            let outcome = match evaluate(subquery, environment, context, spill).await {
                Err(failure) if !failure.is_of_values() => return Err(failure),
                outcome => outcome,
            };
            outcomes.insert(shown, outcome);
        }
        replace(&mut query.rel, &mut |subquery, _| {
            outcomes.get(&format!("{subquery:?}")).cloned()
        })?;
    }
}

/// Whether a subquery has another inside whose value is to be had before.
fn has_inner(subquery: &Subquery) -> bool {
    let mut found = false;
    let looked = replace(&mut subquery.rel.clone(), &mut |_, _| {
        found = true;
        None
    });
    // Nothing is replaced, so nothing can fail.
    looked.is_ok() && found
}

async fn evaluate(
    subquery: Subquery,
    environment: &Environment,
    context: &RunContext,
    spill: Option<&Spill>,
) -> Result<Value> {
    let [(id, data_type)] = subquery.columns[..] else {
        return Err(Failure::internal("a scalar subquery of several columns"));
    };
    let column = ResultColumn {
        name: "probe".to_owned(),
        data_type,
        shown_as: None,
    };
    let query = Query {
        rel: subquery.rel,
        columns: vec![(id, column)],
    };
    let plan = RelationalPlan::new(query, environment.clone());
    let mut rows = session::run(plan, context.clone(), spill.cloned());
    let mut found = None;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            let value = value_at(batch.column(0), row, &data_type)?;
            if found.replace(value).is_some() {
                return Err(Failure::new(
                    SqlState::CardinalityViolation,
                    "more than one row returned by a subquery used as an expression",
                ));
            }
        }
    }
    Ok(found.unwrap_or(Value::Null))
}

/// The index that ranks a part of a plan by a probe, which EXPLAIN does not evaluate: which index
/// that is follows from the probe's dimensions alone.
pub(crate) fn ranked_by(rel: &Rel) -> Option<String> {
    let mut known = rel.clone();
    let mut any = false;
    replace(&mut known, &mut |subquery, dimensions| {
        let is_vector = matches!(subquery.data_type(), DataType::Vector(_));
        let probe = dimensions.filter(|_| is_vector)?;
        any = true;
        Some(Ok(Value::Vector(vec![1.0; probe])))
    })
    .ok()?;
    if !any {
        return None;
    }
    let chain = chain_of(&known)?;
    let shown: Vec<Expr> = chain.meaning.iter().map(|(_, e)| e.clone()).collect();
    let Order::Rank(spec) = plan_leaf(&chain, &shown).ok()??.query.order else {
        return None;
    };
    let index = spec.index?;
    let found = chain.scan.indexes.iter().find(|i| i.id == index);
    found.map(|i| format!("{} ({})", i.name, i.method))
}
