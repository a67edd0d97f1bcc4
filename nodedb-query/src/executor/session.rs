//! Runs one lowered query.

use std::sync::Arc;

use super::chain::one_after_another;
use arrow::array::RecordBatch;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use nodedb_types::arrow_map::BatchBuilder;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::error::unwrap;
use super::lower::Lowering;
use super::memory::AccountPool;
use super::probe;
use super::stream::Batches;
use super::{RelationalPlan, RunContext};
use crate::bind::Query;
use crate::expr::builder::{batch_of, result_schema, rows_only};
use crate::expr::{ColumnId, Expr, eval};
use crate::plan::Environment;
use crate::rel::Rel;
use crate::rules::dependent;

/// Where operators may spill, and how much.
#[derive(Clone, Debug)]
pub(super) struct Spill {
    pub directory: std::path::PathBuf,
    pub bytes_max: u64,
}

fn runtime(
    context: &RunContext,
    spill: Option<&Spill>,
) -> datafusion::common::Result<Arc<RuntimeEnv>> {
    let disk = match spill {
        Some(spill) => DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![spill.directory.clone()]))
            .with_max_temp_directory_size(spill.bytes_max),
        None => DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
    };
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(AccountPool(context.account.clone())))
        .with_disk_manager_builder(disk)
        .build_arc()
}

/// Everything is typed and cast before, so no analyzer runs.
///
/// With `ORDER BY … LIMIT n` over GROUP BY, DataFusion (55) would make only n groups, and loses
/// groups so: below a window, whose functions need all of them, and where a NaN is among the keys.
fn state(runtime: Arc<RuntimeEnv>) -> SessionState {
    let mut config = SessionConfig::new()
        .with_target_partitions(1)
        .with_information_schema(false);
    config.options_mut().optimizer.enable_topk_aggregation = false;
    SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_analyzer_rules(Vec::new())
        .with_aggregate_functions(
            datafusion::functions_aggregate::all_default_aggregate_functions(),
        )
        .build()
}

async fn physical(
    query: &Query,
    environment: &Environment,
    context: &RunContext,
    state: &SessionState,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut lowering = Lowering::new(context.clone(), environment.clone());
    let logical = lowering.query(query).map_err(unwrap)?;
    let logical = state.optimize(&logical).map_err(unwrap)?;
    state
        .query_planner()
        .create_physical_plan(&logical, state)
        .await
        .map_err(unwrap)
}

async fn start(
    mut plan: RelationalPlan,
    context: RunContext,
    spill: Option<Spill>,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let columns = plan.columns();
    let (query, environment) = (&mut plan.query, &plan.environment);
    probe::settle(query, environment, &context, spill.as_ref()).await?;
    let runtime = runtime(&context, spill.as_ref()).map_err(unwrap)?;
    let state = state(runtime);
    let planned = physical(&plan.query, &plan.environment, &context, &state).await;
    let physical = match planned {
        // What the executor does not take apart itself is taken apart here.
        Err(failure)
            if failure.code() == SqlState::FeatureNotSupported
                && dependent::has_dependent(&plan.query.rel) =>
        {
            let mut query = plan.query.clone();
            dependent::rewrite_subqueries(&mut query.rel)?;
            physical(&query, &plan.environment, &context, &state).await?
        }
        planned => planned?,
    };
    let physical = one_after_another(physical).map_err(unwrap)?;
    let rows = physical.execute(0, state.task_ctx()).map_err(unwrap)?;
    let schema = result_schema(&columns);
    let rows = rows.map(move |batch| {
        let batch = batch.map_err(unwrap)?;
        let rows = batch.num_rows();
        batch_of(schema.clone(), batch.columns().to_vec(), rows)
    });
    // An operator that has failed may say so again and again.
    let mut failed = false;
    let rows = rows.take_while(move |batch| {
        let is_open = !failed;
        failed |= batch.is_err();
        std::future::ready(is_open)
    });
    Ok(rows.boxed())
}

/// The row of a query that reads nothing, such as `SELECT 1`; it needs no plan.
pub(super) fn constant(plan: &RelationalPlan) -> Option<Result<RecordBatch>> {
    let Rel::Project { input, expressions } = &plan.query.rel else {
        return None;
    };
    let one_row =
        matches!(&**input, Rel::Values { columns, rows } if columns.is_empty() && rows.len() == 1);
    if !one_row || expressions.iter().any(|(_, e)| e.has_subquery()) {
        return None;
    }
    Some(constant_row(plan, expressions))
}

fn constant_row(plan: &RelationalPlan, expressions: &[(ColumnId, Expr)]) -> Result<RecordBatch> {
    let row = rows_only(1)?;
    let mut arrays = Vec::with_capacity(plan.query.columns.len());
    for (id, _) in &plan.query.columns {
        let found = expressions.iter().find(|(known, _)| known == id);
        let (_, e) = found.ok_or_else(|| Failure::internal(format!("{id:?} is not computed")))?;
        arrays.push(eval::evaluate(e, &row)?);
    }
    batch_of(result_schema(&plan.columns()), arrays, 1)
}

/// The query's rows, computed by whoever polls.
pub(super) fn run(
    plan: RelationalPlan,
    context: RunContext,
    spill: Option<Spill>,
) -> BoxStream<'static, Result<RecordBatch>> {
    if let Some(row) = constant(&plan) {
        return stream::once(async move { row }).boxed();
    }
    start(plan, context, spill)
        .map(|started| match started {
            Ok(rows) => rows,
            Err(failure) => stream::once(async move { Err(failure) }).boxed(),
        })
        .flatten_stream()
        .boxed()
}

/// The rows of `generate_series`.
#[derive(Clone)]
pub(super) struct Series {
    data_type: DataType,
    next: Option<Value>,
    stop: Value,
    step: Value,
}

/// Rows of a series in one batch.
const SERIES_BATCH_ROWS: usize = 1024;

impl Series {
    /// `arguments`: start, stop and, for numbers, an optional step. A NULL gives no rows.
    pub(super) fn new(data_type: DataType, arguments: &[Value]) -> Result<Series> {
        let (Some(start), Some(stop)) = (arguments.first(), arguments.get(1)) else {
            return Err(Failure::internal("a series without bounds"));
        };
        let step = match arguments.get(2) {
            Some(step) => step.clone(),
            None => Value::Int8(1).coerce(&data_type)?,
        };
        let none = start.is_null() || stop.is_null() || step.is_null();
        let series = Series {
            data_type,
            next: (!none).then(|| start.clone()),
            stop: stop.clone(),
            step,
        };
        if !none && series.direction() == 0 {
            return Err(Failure::new(
                SqlState::InvalidParameterValue,
                "step size cannot equal zero",
            ));
        }
        Ok(series)
    }

    fn direction(&self) -> i128 {
        match &self.step {
            Value::Int4(n) => i128::from(*n),
            Value::Int8(n) => i128::from(*n),
            Value::Interval(interval) => interval.span(),
            _ => 0,
        }
    }

    fn has_next(&self) -> Result<bool> {
        let Some(next) = &self.next else {
            return Ok(false);
        };
        let order = crate::function::compare::order(next, &self.stop)?;
        Ok(if self.direction() > 0 {
            order.is_le()
        } else {
            order.is_ge()
        })
    }

    fn advance(&mut self) -> Result<()> {
        // Past the type's last value the series ends.
        let next = match (self.next.take(), &self.step) {
            (Some(Value::Int4(n)), Value::Int4(step)) => n.checked_add(*step).map(Value::Int4),
            (Some(Value::Int8(n)), Value::Int8(step)) => n.checked_add(*step).map(Value::Int8),
            (Some(Value::Timestamp(t)), Value::Interval(step)) => {
                Some(Value::Timestamp(crate::function::series_step(t, *step)?))
            }
            (Some(Value::TimestampTz(t)), Value::Interval(step)) => {
                Some(Value::TimestampTz(crate::function::series_step(t, *step)?))
            }
            _ => None,
        };
        self.next = next;
        Ok(())
    }

    fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let mut builder = BatchBuilder::new(&[(String::new(), self.data_type)]);
        let mut rows = 0;
        while rows < SERIES_BATCH_ROWS && self.has_next()? {
            if let Some(value) = &self.next {
                builder.push_value(0, value)?;
                builder.end_row();
            }
            rows += 1;
            self.advance()?;
        }
        if rows == 0 {
            return Ok(None);
        }
        builder.finish().map(Some)
    }

    /// All values at once; fails with 54000 beyond `values_max`.
    pub(super) fn values(mut self, values_max: usize) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        while self.has_next()? {
            if all.len() == values_max {
                return Err(Failure::new(
                    SqlState::ProgramLimitExceeded,
                    format!("generate_series beside other columns gives at most {values_max} rows"),
                )
                .with_hint("call it in FROM, with constants"));
            }
            all.extend(self.next.clone());
            self.advance()?;
        }
        Ok(all)
    }

    pub(super) fn batches(self) -> Batches {
        stream::try_unfold(self, |mut series| async move {
            Ok(series.batch()?.map(|batch| (batch, series)))
        })
        .boxed()
    }
}
