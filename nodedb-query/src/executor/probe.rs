//! Scalar subqueries that say what to rank by: `ORDER BY v <=> (SELECT …) LIMIT 5`.
//!
//! An index ranks by a vector that it is given, so a subquery which refers to nothing outside is
//! evaluated before the plan around it is lowered, at the statement's own snapshot, and its value
//! takes its place. Only operands of distances are: what else a subquery is used for may never be
//! reached, and then must not fail.

use futures::StreamExt;
use nodedb_bridge::plan::Order;
use nodedb_types::arrow_map::value_at;
use nodedb_types::vector::Metric;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::session::{self, Spill};
use super::{RelationalPlan, RunContext};
use crate::bind::Query;
use crate::catalog::ResultColumn;
use crate::expr::{Expr, cast};
use crate::plan::Environment;
use crate::rel::{Rel, Subquery, SubqueryKind};
use crate::rules::{chain_of, plan_leaf};

/// The subquery that an operand is, casts aside, when its value can be had first.
fn probe_of(e: &Expr) -> Option<&Subquery> {
    match e {
        Expr::Cast { operand, .. } => probe_of(operand),
        Expr::Subquery(subquery) => {
            let is_value = subquery.kind == SubqueryKind::Scalar
                && matches!(subquery.data_type(), DataType::Vector(_));
            (is_value && subquery.rel.outer_columns().is_empty()).then_some(subquery)
        }
        _ => None,
    }
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

/// Replaces each such operand by what `value` makes of it, told the dimensions of the column beside
/// it. One for which it gives nothing stays. Inner subqueries come before those around them.
fn replace(
    rel: &mut Rel,
    value: &mut dyn FnMut(&Subquery, Option<usize>) -> Option<Value>,
) -> Result<()> {
    fn settled(e: &Expr, value: Value) -> Result<Expr> {
        Ok(match e {
            Expr::Cast {
                operand,
                to,
                explicit,
            } => match settled(operand, value)? {
                Expr::Constant(value, _) => Expr::Constant(cast::cast(value, to, *explicit)?, *to),
                other => other,
            },
            other => Expr::Constant(value, other.data_type()),
        })
    }
    rel.map_expressions(&mut |e| match e {
        Expr::Call {
            function,
            mut arguments,
            returns,
        } if Metric::from_operator(function.name).is_some() => {
            let dimensions = arguments.iter().find_map(dimensions_of);
            for argument in &mut arguments {
                let found = probe_of(argument).and_then(|probe| value(probe, dimensions));
                if let Some(value) = found {
                    *argument = settled(argument, value)?;
                }
            }
            Ok(Expr::Call {
                function,
                arguments,
                returns,
            })
        }
        other => Ok(other),
    })
}

/// Evaluates the probes of a query and puts their values into it.
pub(super) async fn settle(
    query: &mut Query,
    environment: &Environment,
    context: &RunContext,
    spill: Option<&Spill>,
) -> Result<()> {
    loop {
        // The first one found has none inside.
        let mut first: Option<Subquery> = None;
        replace(&mut query.rel, &mut |subquery, _| {
            first.get_or_insert_with(|| subquery.clone());
            None
        })?;
        let Some(subquery) = first else {
            return Ok(());
        };
        let shown = format!("{subquery:?}");
        let value = evaluate(subquery, environment, context, spill).await?;
        replace(&mut query.rel, &mut |subquery, _| {
            (format!("{subquery:?}") == shown).then(|| value.clone())
        })?;
    }
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
    replace(&mut known, &mut |_, dimensions| {
        any = true;
        dimensions.map(|n| Value::Vector(vec![1.0; n]))
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
