//! Window functions: calls and frames to DataFusion's.
//!
//! What its functions take as literals only (the number of groups, of a row, an offset, a default)
//! is checked here: a NULL or a number out of range has PostgreSQL's meaning, anything that differs
//! from row to row is refused.

use datafusion::common::{Column, Result, ScalarValue};
use datafusion::functions_window as windows;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    Expr as DfExpr, LogicalPlan, LogicalPlanBuilder, WindowFrame, WindowFrameBound,
    WindowFrameUnits, WindowFunctionDefinition, lit,
};
use nodedb_types::arrow_map::arrow_type;
use nodedb_types::{DataType, Failure, SqlState, Value};

use super::error::wrap;
use super::expression::{literal, name};
use super::key;
use super::lower::{Lowering, Outer, aggregate_function, narrowed};
use crate::expr::builder::array_of;
use crate::expr::{ColumnId, Expr};
use crate::rel::{AggregateKind, FrameBound, FrameUnits, Rel, WindowCall, WindowKind};

impl Lowering {
    pub(super) fn window(
        &mut self,
        input: &Rel,
        calls: &[(ColumnId, WindowCall)],
        outer: Outer<'_>,
    ) -> Result<LogicalPlan> {
        let input = self.rel(input, outer)?;
        let mut kept: Vec<DfExpr> = input
            .schema()
            .iter()
            .map(|(qualifier, field)| DfExpr::Column(Column::from((qualifier, field))))
            .collect();
        let mut expressions = Vec::new();
        for (id, call) in calls {
            if is_null_for_all(call)? {
                let value = literal(&Value::Null, &call.returns)?;
                kept.push(value.alias(name(*id)));
                continue;
            }
            let e = self.window_call(call, &input, outer)?;
            let column = DfExpr::Column(Column::from_name(e.schema_name().to_string()));
            let result = match call.kind {
                WindowKind::Aggregate(kind) if key::is_by_rank(kind, call.returns) => {
                    key::of_rank(column)
                }
                WindowKind::Aggregate(kind) => narrowed(column, kind, call.returns),
                _ => sized(column, &call.kind, call.returns),
            };
            kept.push(result.alias(name(*id)));
            expressions.push(e);
        }
        let mut seen: Vec<String> = Vec::new();
        expressions.retain(|e| {
            let shown = e.schema_name().to_string();
            let fresh = !seen.contains(&shown);
            seen.push(shown);
            fresh
        });
        if expressions.is_empty() {
            return LogicalPlanBuilder::from(input).project(kept)?.build();
        }
        let plan = LogicalPlanBuilder::window_plan(input, expressions)?;
        LogicalPlanBuilder::from(plan).project(kept)?.build()
    }

    fn window_call(
        &mut self,
        call: &WindowCall,
        input: &LogicalPlan,
        outer: Outer<'_>,
    ) -> Result<DfExpr> {
        let mut arguments = call
            .arguments
            .iter()
            .map(|e| self.value(e, input, outer))
            .collect::<Result<Vec<_>>>()?;
        if matches!(call.kind, WindowKind::Aggregate(kind) if key::is_by_rank(kind, call.returns)) {
            arguments = key::ranks(arguments);
        }
        let function = window_function(call, &mut arguments);
        let mut window = WindowFunction::new(function, arguments);
        window.params.partition_by = call
            .partition
            .iter()
            .map(|e| Ok(key::sortable(self.value(e, input, outer)?, e.data_type())))
            .collect::<Result<Vec<_>>>()?;
        window.params.order_by = self.sort_keys(&call.order, input, outer)?;
        window.params.filter = match &call.filter {
            Some(e) => Some(Box::new(self.value(e, input, outer)?)),
            None => None,
        };
        window.params.window_frame = frame_of(call)?;
        Ok(DfExpr::WindowFunction(Box::new(window)))
    }
}

/// Whether the call is NULL in every row, because what it counts by is.
/// Fails with 22014 and 22016 for numbers that make no sense, 0A000 for what is no constant.
fn is_null_for_all(call: &WindowCall) -> Result<bool> {
    let (position, least) = match call.kind {
        WindowKind::Ntile => (0, Some((SqlState::InvalidNtileArgument, "ntile"))),
        WindowKind::NthValue => (1, Some((SqlState::InvalidNthValueArgument, "nth_value"))),
        WindowKind::Lag | WindowKind::Lead => (1, None),
        _ => return Ok(false),
    };
    let constants = &call.arguments[position.min(call.arguments.len())..];
    if constants.iter().any(|e| e.constant().is_none()) {
        return Err(wrap(Failure::unsupported(
            "an argument of a window function that differs from row to row",
        )));
    }
    let number = match constants.first().and_then(Expr::constant) {
        None => return Ok(false),
        Some(Value::Null) => return Ok(true),
        Some(Value::Int4(n)) => i64::from(*n),
        Some(Value::Int8(n)) => *n,
        Some(other) => return Err(wrap(Failure::internal(format!("a count of {other:?}")))),
    };
    match least {
        Some((state, name)) if number <= 0 => Err(wrap(Failure::new(
            state,
            format!("argument of {name} must be greater than zero"),
        ))),
        _ => Ok(false),
    }
}

/// Ranks are counted without a sign by DataFusion.
fn sized(e: DfExpr, kind: &WindowKind, returns: DataType) -> DfExpr {
    match kind {
        WindowKind::RowNumber | WindowKind::Rank | WindowKind::DenseRank | WindowKind::Ntile => {
            datafusion::logical_expr::cast(e, arrow_type(&returns))
        }
        _ => e,
    }
}

fn window_function(call: &WindowCall, arguments: &mut Vec<DfExpr>) -> WindowFunctionDefinition {
    let udwf = match call.kind {
        WindowKind::RowNumber => windows::row_number::row_number_udwf(),
        WindowKind::Rank => windows::rank::rank_udwf(),
        WindowKind::DenseRank => windows::rank::dense_rank_udwf(),
        WindowKind::PercentRank => windows::rank::percent_rank_udwf(),
        WindowKind::CumeDist => windows::cume_dist::cume_dist_udwf(),
        WindowKind::Ntile => windows::ntile::ntile_udwf(),
        WindowKind::Lag => windows::lead_lag::lag_udwf(),
        WindowKind::Lead => windows::lead_lag::lead_udwf(),
        WindowKind::FirstValue => windows::nth_value::first_value_udwf(),
        WindowKind::LastValue => windows::nth_value::last_value_udwf(),
        WindowKind::NthValue => windows::nth_value::nth_value_udwf(),
        WindowKind::Aggregate(kind) => {
            if kind == AggregateKind::CountStar {
                arguments.push(lit(1i64));
            }
            let function = aggregate_function(kind, &call.arguments, call.returns);
            return WindowFunctionDefinition::AggregateUDF(function);
        }
    };
    WindowFunctionDefinition::WindowUDF(udwf)
}

fn frame_of(call: &WindowCall) -> Result<WindowFrame> {
    let Some(frame) = &call.frame else {
        let ordered = (!call.order.is_empty()).then_some(false);
        return Ok(WindowFrame::new(ordered));
    };
    let units = match frame.units {
        FrameUnits::Rows => WindowFrameUnits::Rows,
        FrameUnits::Range => WindowFrameUnits::Range,
        FrameUnits::Groups => WindowFrameUnits::Groups,
    };
    let order_type = call.order.first().map(|k| k.expr.data_type());
    let distance = |value: &Option<Value>, which: &str| -> Result<ScalarValue> {
        match (value, units, order_type) {
            // Unbounded range ends are typed by the order column.
            (None, WindowFrameUnits::Range, Some(_)) => Ok(ScalarValue::Null),
            (None, ..) => Ok(ScalarValue::UInt64(None)),
            (Some(Value::Null), ..) => Err(wrap(Failure::new(
                SqlState::InvalidFrameOffset,
                format!("frame {which} offset must not be null"),
            ))),
            (Some(value), WindowFrameUnits::Range, Some(order)) => range_offset(value, order),
            (Some(Value::Int8(n)), ..) if *n >= 0 => Ok(ScalarValue::UInt64(Some(*n as u64))),
            (Some(_), ..) => Err(wrap(Failure::new(
                SqlState::InvalidFrameOffset,
                format!("frame {which} offset must not be negative"),
            ))),
        }
    };
    let bound = |b: &FrameBound, which: &str| -> Result<WindowFrameBound> {
        Ok(match b {
            FrameBound::CurrentRow => WindowFrameBound::CurrentRow,
            FrameBound::Preceding(n) => WindowFrameBound::Preceding(distance(n, which)?),
            FrameBound::Following(n) => WindowFrameBound::Following(distance(n, which)?),
        })
    };
    Ok(WindowFrame::new_bounds(
        units,
        bound(&frame.start, "starting")?,
        bound(&frame.end, "ending")?,
    ))
}

/// A distance along the order column: of its own type, or an interval for times.
fn range_offset(value: &Value, order: DataType) -> Result<ScalarValue> {
    let is_negative = match value {
        Value::Int8(n) => *n < 0,
        Value::Numeric(n) => n.unscaled() < 0,
        Value::Float8(n) => *n < 0.0 || n.is_nan(),
        Value::Interval(interval) => interval.span() < 0,
        other => return Err(wrap(Failure::internal(format!("a distance of {other:?}")))),
    };
    if is_negative {
        return Err(wrap(Failure::new(
            SqlState::InvalidFrameOffset,
            "invalid preceding or following size in window function",
        )));
    }
    let data_type = match value {
        Value::Interval(_) => DataType::Interval,
        _ => order,
    };
    let array = array_of(&data_type, [value]).map_err(wrap)?;
    ScalarValue::try_from_array(&array, 0)
}
