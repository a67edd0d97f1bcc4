//! Comparisons, by PostgreSQL's order of each type.
//!
//! Floats: NaN equals itself and is the largest, -0 equals 0. Text compares by code point, jsonb
//! by the order of `json_edit`.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::types::{
    ArrowPrimitiveType, Decimal128Type, Float32Type, Float64Type, IntervalMonthDayNanoType,
};
use arrow::array::{ArrayRef, AsArray, BooleanArray, Datum, Scalar};
use arrow::compute::kernels::cmp;
use arrow::datatypes::{DataType as Arrow, IntervalUnit};
use nodedb_types::datetime::Interval;
use nodedb_types::value::{one_nan_f32, one_nan_f64};
use nodedb_types::{DataType, Failure, Result, Value};

use crate::expr::CompareOp;
use crate::expr::eval::{Evaluated, arrow_failure};

/// `l op r` for operands of one type; `rows` results.
pub(crate) fn compare(
    op: CompareOp,
    l: &Evaluated,
    r: &Evaluated,
    data_type: &DataType,
    rows: usize,
) -> Result<BooleanArray> {
    match data_type {
        DataType::Interval
        | DataType::Vector(_)
        | DataType::Jsonb
        | DataType::Geometry(_)
        | DataType::Geography(_) => by_value(op, l, r, data_type, rows),
        DataType::Float4 | DataType::Float8 => {
            by_arrow(op, &canonical_operand(l), &canonical_operand(r), rows)
        }
        _ => by_arrow(op, l, r, rows),
    }
}

fn by_arrow(op: CompareOp, l: &Evaluated, r: &Evaluated, rows: usize) -> Result<BooleanArray> {
    let f = match op {
        CompareOp::Eq => cmp::eq,
        CompareOp::NotEq => cmp::neq,
        CompareOp::Lt => cmp::lt,
        CompareOp::LtEq => cmp::lt_eq,
        CompareOp::Gt => cmp::gt,
        CompareOp::GtEq => cmp::gt_eq,
    };
    // Two scalars compare as arrays of one row; else a scalar is told apart.
    let scalar = |e: &Evaluated| (e.scalar && rows != 1).then(|| Scalar::new(e.array.clone()));
    let (ls, rs) = (scalar(l), scalar(r));
    let left: &dyn Datum = ls.as_ref().map_or(&l.array, |s| s);
    let right: &dyn Datum = rs.as_ref().map_or(&r.array, |s| s);
    f(left, right).map_err(arrow_failure)
}

/// Floats as Arrow compares and hashes them like SQL: -0 as 0, every NaN as the one that is above
/// infinity. Arrays of other types come back as they are.
pub(crate) fn canonical(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        Arrow::Float64 => Arc::new(
            array
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|v| one_nan_f64(v) + 0.0),
        ),
        Arrow::Float32 => Arc::new(
            array
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|v| one_nan_f32(v) + 0.0),
        ),
        _ => array.clone(),
    }
}

/// Values whose order in Arrow is SQL's: floats as [`canonical`], intervals as their lengths in
/// microseconds.
pub(crate) fn sortable(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        Arrow::Interval(IntervalUnit::MonthDayNano) => {
            let spans = array
                .as_primitive::<IntervalMonthDayNanoType>()
                .unary::<_, Decimal128Type>(|v| {
                    let interval = Interval {
                        months: v.months,
                        days: v.days,
                        micros: v.nanoseconds / 1000,
                    };
                    interval.span()
                });
            Arc::new(spans)
        }
        _ => canonical(array),
    }
}

/// The type of [`sortable`] values.
pub(crate) fn sortable_type(arrow: &Arrow) -> Arrow {
    match arrow {
        Arrow::Interval(IntervalUnit::MonthDayNano) => Decimal128Type::DATA_TYPE,
        other => other.clone(),
    }
}

/// The same values with every NaN positive, which is a copy only if there is a NaN.
pub(crate) fn with_one_nan(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        Arrow::Float64 => {
            let floats = array.as_primitive::<Float64Type>();
            match floats.values().iter().any(|v| v.is_nan()) {
                true => Arc::new(floats.unary::<_, Float64Type>(one_nan_f64)),
                false => array,
            }
        }
        Arrow::Float32 => {
            let floats = array.as_primitive::<Float32Type>();
            match floats.values().iter().any(|v| v.is_nan()) {
                true => Arc::new(floats.unary::<_, Float32Type>(one_nan_f32)),
                false => array,
            }
        }
        _ => array,
    }
}

fn canonical_operand(e: &Evaluated) -> Evaluated {
    Evaluated {
        array: canonical(&e.array),
        scalar: e.scalar,
    }
}

fn by_value(
    op: CompareOp,
    l: &Evaluated,
    r: &Evaluated,
    data_type: &DataType,
    rows: usize,
) -> Result<BooleanArray> {
    let mut results = Vec::with_capacity(rows);
    for row in 0..rows {
        let (a, b) = (l.value(row, data_type)?, r.value(row, data_type)?);
        results.push(if a.is_null() || b.is_null() {
            None
        } else {
            Some(op.holds(order(&a, &b)?))
        });
    }
    Ok(results.into())
}

/// The order of two values of one type, neither NULL.
pub(crate) fn order(a: &Value, b: &Value) -> Result<Ordering> {
    Ok(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Int2(a), Value::Int2(b)) => a.cmp(b),
        (Value::Int4(a), Value::Int4(b)) => a.cmp(b),
        (Value::Int8(a), Value::Int8(b)) => a.cmp(b),
        (Value::Float4(a), Value::Float4(b)) => floats(f64::from(*a), f64::from(*b)),
        (Value::Float8(a), Value::Float8(b)) => floats(*a, *b),
        (Value::Numeric(a), Value::Numeric(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Jsonb(a), Value::Jsonb(b)) if a == b => Ordering::Equal,
        (Value::Jsonb(a), Value::Jsonb(b)) => super::json_edit::order(a, b)?,
        (Value::Bytea(a), Value::Bytea(b))
        | (Value::Geometry(a), Value::Geometry(b))
        | (Value::Geography(a), Value::Geography(b)) => a.cmp(b),
        (Value::Uuid(a), Value::Uuid(b)) => a.cmp(b),
        (Value::Date(a), Value::Date(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b))
        | (Value::TimestampTz(a), Value::TimestampTz(b)) => a.cmp(b),
        (Value::Interval(a), Value::Interval(b)) => a.span().cmp(&b.span()),
        (Value::Vector(a), Value::Vector(b)) => nodedb_types::vector::compare(a, b),
        _ => {
            return Err(Failure::internal(
                "values of different types were compared".to_owned(),
            ));
        }
    })
}

fn floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b)
        .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Whether rows may be sorted by the type; jsonb compares, but does not sort by its text.
pub(crate) fn is_ordered(data_type: DataType) -> bool {
    !matches!(
        data_type,
        DataType::Jsonb | DataType::Geometry(_) | DataType::Geography(_)
    )
}
