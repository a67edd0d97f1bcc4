//! Keys as Arrow compares and hashes them like SQL.
//!
//! DataFusion's operators tell -0 from 0 and NaNs by their signs, and order intervals field by
//! field. What they group, match or sort by therefore goes through one of two forms first:
//! `canonical` has the type of its argument and the same bits for floats that are equal;
//! `sortable` gives intervals, too, as numbers in their order. The least and the greatest of
//! floats, for which DataFusion's grouped and plain aggregates differ about NaN, are found among
//! their ranks, integers in the floats' order. Other types stay as they are, so that their keys
//! cost nothing.

use std::cell::Cell;
use std::sync::{Arc, LazyLock};

use arrow::array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::DataType as Arrow;
use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr as DfExpr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use nodedb_types::DataType;
use nodedb_types::value::{one_nan_f32, one_nan_f64};

use crate::expr::{ColumnId, Expr};
use crate::function::compare;
use crate::rel::AggregateKind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    Canonical,
    Sortable,
    Rank,
    /// Back from the rank.
    Ranked,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    form: Form,
    signature: Signature,
}

static CANONICAL: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| udf(Form::Canonical));
static SORTABLE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| udf(Form::Sortable));
static RANK: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| udf(Form::Rank));
static RANKED: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| udf(Form::Ranked));

fn udf(form: Form) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(Key {
        form,
        signature: Signature::any(1, Volatility::Immutable),
    }))
}

impl ScalarUDFImpl for Key {
    fn name(&self) -> &str {
        match self.form {
            Form::Canonical => "canonical",
            Form::Sortable => "sortable",
            Form::Rank => "rank_of_float",
            Form::Ranked => "float_of_rank",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[Arrow]) -> Result<Arrow> {
        let argument = &arguments[0];
        Ok(match (self.form, argument) {
            (Form::Sortable, _) => compare::sortable_type(argument),
            (Form::Rank, Arrow::Float32) => Arrow::Int32,
            (Form::Rank, Arrow::Float64) => Arrow::Int64,
            (Form::Ranked, Arrow::Int32) => Arrow::Float32,
            (Form::Ranked, Arrow::Int64) => Arrow::Float64,
            _ => argument.clone(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        Ok(ColumnarValue::Array(match self.form {
            Form::Canonical => compare::canonical(&arrays[0]),
            Form::Sortable => compare::sortable(&arrays[0]),
            Form::Rank => rank(&arrays[0]),
            Form::Ranked => ranked(&arrays[0]),
        }))
    }
}

/// Bits of a float as an integer that is greater for a greater float, and back: those of negative
/// ones, but for the sign, turned over.
fn turned_i64(bits: i64) -> i64 {
    bits ^ ((bits >> 63) & i64::MAX)
}

fn turned_i32(bits: i32) -> i32 {
    bits ^ ((bits >> 31) & i32::MAX)
}

fn rank(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        Arrow::Float32 => Arc::new(
            array
                .as_primitive::<Float32Type>()
                .unary::<_, Int32Type>(|v| turned_i32(one_nan_f32(v).to_bits() as i32)),
        ),
        Arrow::Float64 => Arc::new(
            array
                .as_primitive::<Float64Type>()
                .unary::<_, Int64Type>(|v| turned_i64(one_nan_f64(v).to_bits() as i64)),
        ),
        _ => array.clone(),
    }
}

fn ranked(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        Arrow::Int32 => Arc::new(
            array
                .as_primitive::<Int32Type>()
                .unary::<_, Float32Type>(|v| f32::from_bits(turned_i32(v) as u32)),
        ),
        Arrow::Int64 => Arc::new(
            array
                .as_primitive::<Int64Type>()
                .unary::<_, Float64Type>(|v| f64::from_bits(turned_i64(v) as u64)),
        ),
        _ => array.clone(),
    }
}

/// Whether equal values of a type may differ in bits that `canonical` makes the same.
pub(super) fn has_canonical(data_type: DataType) -> bool {
    matches!(data_type, DataType::Float4 | DataType::Float8)
}

fn call(function: &Arc<ScalarUDF>, e: DfExpr) -> DfExpr {
    DfExpr::ScalarFunction(ScalarFunction::new_udf(function.clone(), vec![e]))
}

/// For what is grouped or matched by and shown.
pub(super) fn canonical(e: DfExpr, data_type: DataType) -> DfExpr {
    match has_canonical(data_type) {
        true => call(&CANONICAL, e),
        false => e,
    }
}

/// For what is sorted or partitioned by and not shown.
pub(super) fn sortable(e: DfExpr, data_type: DataType) -> DfExpr {
    match has_canonical(data_type) || data_type == DataType::Interval {
        true => call(&SORTABLE, e),
        false => e,
    }
}

/// The arguments of an aggregate of distinct values, `of` being what they were made of.
pub(super) fn distinct_arguments(
    kind: AggregateKind,
    arguments: Vec<DfExpr>,
    of: &[Expr],
) -> Vec<DfExpr> {
    let types = of.iter().map(|e| Some(e.data_type()));
    let types = types.chain(std::iter::repeat(None));
    let each = |(e, t): (DfExpr, Option<DataType>)| match t {
        // What is only counted is not shown.
        Some(t) if kind == AggregateKind::Count => sortable(e, t),
        Some(t) => canonical(e, t),
        None => e,
    };
    arguments.into_iter().zip(types).map(each).collect()
}

/// Aggregates that compare floats, which are given [`ranks`] and give a rank.
pub(super) fn is_by_rank(kind: AggregateKind, returns: DataType) -> bool {
    matches!(kind, AggregateKind::Min | AggregateKind::Max) && has_canonical(returns)
}

/// Floats as integers in their order.
pub(super) fn ranks(arguments: Vec<DfExpr>) -> Vec<DfExpr> {
    arguments.into_iter().map(|e| call(&RANK, e)).collect()
}

/// The float of a rank.
pub(super) fn of_rank(e: DfExpr) -> DfExpr {
    call(&RANKED, e)
}

/// The plan's rows with all floats canonical, for what compares whole rows and shows them.
pub(super) fn canonical_columns(plan: LogicalPlan) -> Result<LogicalPlan> {
    let is_mapped = |t: &Arrow| matches!(t, Arrow::Float32 | Arrow::Float64);
    mapped_columns(plan, &CANONICAL, is_mapped)
}

/// The plan's rows in their sortable form, for what compares whole rows and does not show them.
pub(super) fn sortable_columns(plan: LogicalPlan) -> Result<LogicalPlan> {
    let is_mapped = |t: &Arrow| matches!(t, Arrow::Float32 | Arrow::Float64 | Arrow::Interval(_));
    mapped_columns(plan, &SORTABLE, is_mapped)
}

fn mapped_columns(
    plan: LogicalPlan,
    form: &Arc<ScalarUDF>,
    is_mapped: fn(&Arrow) -> bool,
) -> Result<LogicalPlan> {
    let fields = plan.schema().fields();
    if !fields.iter().any(|field| is_mapped(field.data_type())) {
        return Ok(plan);
    }
    let columns = plan.schema().iter().map(|(qualifier, field)| {
        let column = DfExpr::Column(Column::from((qualifier, field)));
        match is_mapped(field.data_type()) {
            true => call(form, column).alias(field.name()),
            false => column,
        }
    });
    let columns: Vec<DfExpr> = columns.collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

/// What an expression is the canonical form of.
pub(super) fn inside_canonical(e: &DfExpr) -> Option<&DfExpr> {
    match e {
        DfExpr::ScalarFunction(call) if call.func == *CANONICAL => call.args.first(),
        _ => None,
    }
}

/// Whether a column is only compared with others, so that its canonical form may stand for it.
pub(super) fn is_only_compared(e: &Expr, column: ColumnId) -> bool {
    let is_it = |e: &Expr| matches!(e, Expr::Column { id, .. } if *id == column);
    let (all, compared) = (Cell::new(0usize), Cell::new(0usize));
    e.any(|part| {
        all.set(all.get() + usize::from(is_it(part)));
        let operands = match part {
            Expr::Compare(_, l, r) | Expr::Same(l, r) => {
                usize::from(is_it(l)) + usize::from(is_it(r))
            }
            Expr::InSet(e, _) | Expr::IsNull(e) => usize::from(is_it(e)),
            Expr::InList(e, list) => {
                usize::from(is_it(e)) + list.iter().filter(|item| is_it(item)).count()
            }
            _ => 0,
        };
        compared.set(compared.get() + operands);
        false
    });
    all == compared
}
