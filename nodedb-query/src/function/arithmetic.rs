//! Arithmetic: results that do not fit fail with 22003, divisors of zero with 22012.

use std::sync::Arc;

use arrow::array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
};
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveBuilder};
use nodedb_types::numeric::Numeric;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::{
    Argument, FLOAT4, FLOAT8, Function, INT2, INT4, INT8, Kernel, NUMERIC, NUMERIC_TYPE, Returns,
    arguments, array, row,
};
use crate::expr::eval::Evaluated;
use crate::expr::types::digits;

pub(crate) fn out_of_range(data_type: &str) -> Failure {
    Failure::new(
        SqlState::NumericOutOfRange,
        format!("{data_type} out of range"),
    )
}

pub(crate) fn division_by_zero() -> Failure {
    Failure::new(SqlState::DivisionByZero, "division by zero")
}

/// A primitive result from two primitive operands, NULL when one is.
pub(crate) fn binary<A, B, O>(
    arguments: &[Evaluated],
    rows: usize,
    f: impl Fn(A::Native, B::Native) -> Result<O::Native>,
) -> Result<ArrayRef>
where
    A: ArrowPrimitiveType,
    B: ArrowPrimitiveType,
    O: ArrowPrimitiveType,
{
    let [l, r] = arguments else {
        return Err(Failure::internal("an operator takes two operands"));
    };
    let (left, right) = (l.array.as_primitive::<A>(), r.array.as_primitive::<B>());
    let mut results = PrimitiveBuilder::<O>::with_capacity(rows);
    for i in 0..rows {
        let (a, b) = (l.at(i), r.at(i));
        if left.is_null(a) || right.is_null(b) {
            results.append_null();
        } else {
            results.append_value(f(left.value(a), right.value(b))?);
        }
    }
    Ok(Arc::new(results.finish()))
}

/// A primitive result from one primitive operand.
pub(crate) fn unary<A, O>(
    arguments: &[Evaluated],
    f: impl Fn(A::Native) -> Result<O::Native>,
) -> Result<ArrayRef>
where
    A: ArrowPrimitiveType,
    O: ArrowPrimitiveType,
{
    let operand = arguments
        .first()
        .ok_or_else(|| Failure::internal("an operator takes an operand"))?;
    Ok(Arc::new(
        operand
            .array
            .as_primitive::<A>()
            .try_unary::<_, O, Failure>(f)?,
    ))
}

macro_rules! integer {
    ($arrow:ty, $name:literal, $checked:ident) => {
        |a, rows, _| {
            binary::<$arrow, $arrow, $arrow>(a, rows, |x, y| {
                x.$checked(y).ok_or_else(|| out_of_range($name))
            })
        }
    };
}

macro_rules! divide {
    ($arrow:ty, $name:literal, $checked:ident) => {
        |a, rows, _| {
            binary::<$arrow, $arrow, $arrow>(a, rows, |x, y| {
                if y == 0 {
                    return Err(division_by_zero());
                }
                x.$checked(y).ok_or_else(|| out_of_range($name))
            })
        }
    };
}

macro_rules! remainder {
    ($arrow:ty) => {
        |a, rows, _| {
            binary::<$arrow, $arrow, $arrow>(a, rows, |x, y| match y {
                0 => Err(division_by_zero()),
                _ => Ok(x.wrapping_rem(y)),
            })
        }
    };
}

/// A float operation overflows when finite operands give infinity, and underflows when a result
/// that cannot be zero is.
macro_rules! float {
    ($arrow:ty, $f:expr, $zero:expr) => {
        |a, rows, _| {
            binary::<$arrow, $arrow, $arrow>(a, rows, |x, y| {
                let result = $f(x, y);
                if result.is_infinite() && !x.is_infinite() && !y.is_infinite() {
                    return Err(Failure::new(
                        SqlState::NumericOutOfRange,
                        "value out of range: overflow",
                    ));
                }
                if result == 0.0 && !$zero(x, y) {
                    return Err(Failure::new(
                        SqlState::NumericOutOfRange,
                        "value out of range: underflow",
                    ));
                }
                Ok(result)
            })
        }
    };
}

macro_rules! float_divide {
    ($arrow:ty) => {
        |a, rows, _| {
            binary::<$arrow, $arrow, $arrow>(a, rows, |x, y| {
                if y == 0.0 {
                    return if x.is_nan() {
                        Ok(x)
                    } else {
                        Err(division_by_zero())
                    };
                }
                let result = x / y;
                if result.is_infinite() && !x.is_infinite() {
                    return Err(Failure::new(
                        SqlState::NumericOutOfRange,
                        "value out of range: overflow",
                    ));
                }
                Ok(result)
            })
        }
    };
}

macro_rules! negate {
    ($arrow:ty, $name:literal) => {
        |a, _, _| unary::<$arrow, $arrow>(a, |x| x.checked_neg().ok_or_else(|| out_of_range($name)))
    };
}

const ANY_F4: fn(f32, f32) -> bool = |_, _| true;
const ANY_F8: fn(f64, f64) -> bool = |_, _| true;
const FACTOR_F4: fn(f32, f32) -> bool = |x, y| x == 0.0 || y == 0.0;
const FACTOR_F8: fn(f64, f64) -> bool = |x, y| x == 0.0 || y == 0.0;

/// Scale beyond which a result of known scale gives up on it, to keep room for whole digits.
const KNOWN_SCALE_MAX: u8 = 18;

fn sized(scale: u8) -> DataType {
    if scale <= KNOWN_SCALE_MAX {
        DataType::Numeric(Some((38, scale)))
    } else {
        NUMERIC_TYPE
    }
}

fn sum_type(types: &[DataType]) -> DataType {
    match types {
        [l, r] => match (digits(*l), digits(*r)) {
            (Some((_, a)), Some((_, b))) => sized(a.max(b)),
            _ => NUMERIC_TYPE,
        },
        [one] => *one,
        _ => NUMERIC_TYPE,
    }
}

fn product_type(types: &[DataType]) -> DataType {
    match types {
        [l, r] => match (digits(*l), digits(*r)) {
            (Some((_, a)), Some((_, b))) => sized(a + b),
            _ => NUMERIC_TYPE,
        },
        _ => NUMERIC_TYPE,
    }
}

const fn numeric(
    name: &'static str,
    arguments: &'static [Argument],
    returns: fn(&[DataType]) -> DataType,
    kernel: fn(&[Value]) -> Result<Value>,
    summary: &'static str,
) -> Function {
    Function::new(
        name,
        arguments,
        Returns::Of(returns),
        Kernel::Row(kernel),
        summary,
    )
}

/// Digits after the point of a quotient: at least 16 significant ones, and no fewer than either
/// operand shows (numeric.c, select_div_scale, which counts in groups of four digits).
pub(crate) fn divide_numeric(a: Numeric, b: Numeric) -> Result<Numeric> {
    if b.unscaled() == 0 {
        return Err(division_by_zero());
    }
    let (weight_a, first_a) = leading_group(a);
    let (weight_b, first_b) = leading_group(b);
    let mut weight = weight_a - weight_b;
    if first_a <= first_b {
        weight -= 1;
    }
    let scale = (16 - weight * 4)
        .max(i32::from(a.scale()))
        .max(i32::from(b.scale()))
        .clamp(0, 38) as u8;
    // Long division: whole part first, then a digit at a time, then one for rounding.
    let negative = (a.unscaled() < 0) != (b.unscaled() < 0);
    let shift = i32::from(b.scale()) - i32::from(a.scale());
    let (mut n, mut d) = (a.unscaled().unsigned_abs(), b.unscaled().unsigned_abs());
    let mut digits_left = i32::from(scale) + shift;
    let too_wide = || {
        Failure::new(
            SqlState::NumericOutOfRange,
            "value overflows numeric format",
        )
    };
    while digits_left < 0 {
        d = d.checked_mul(10).ok_or_else(too_wide)?;
        digits_left += 1;
    }
    let mut quotient = n / d;
    n %= d;
    for _ in 0..digits_left {
        // d < 2^127, so ten times the remainder may need one more step than u128 has.
        let mut digit = 0u128;
        let mut rest = 0u128;
        for _ in 0..10 {
            rest = rest.checked_add(n).ok_or_else(too_wide)?;
            if rest >= d {
                rest -= d;
                digit += 1;
            }
        }
        n = rest;
        quotient = quotient
            .checked_mul(10)
            .and_then(|q| q.checked_add(digit))
            .ok_or_else(too_wide)?;
    }
    if n >= d - n {
        quotient += 1;
    }
    let quotient = i128::try_from(quotient).map_err(|_| too_wide())?;
    Numeric::new(if negative { -quotient } else { quotient }, scale)
}

/// Weight and value of the first group of four digits, as numeric.c stores a number.
pub(super) fn leading_group(n: Numeric) -> (i32, i32) {
    let text = n.unscaled().unsigned_abs().to_string();
    if text == "0" {
        return (0, 0);
    }
    let whole = text.len() as i32 - i32::from(n.scale());
    let weight = (whole - 1).div_euclid(4);
    let first = (whole - weight * 4) as usize;
    let mut group = String::from(&text[..first.min(text.len())]);
    while group.len() < first {
        group.push('0');
    }
    (weight, group.parse().unwrap_or(0))
}

fn numeric_remainder(a: Numeric, b: Numeric) -> Result<Numeric> {
    if b.unscaled() == 0 {
        return Err(division_by_zero());
    }
    let scale = a.scale().max(b.scale());
    let (a, b) = (a.rescale(38, scale)?, b.rescale(38, scale)?);
    Numeric::new(a.unscaled() % b.unscaled(), scale)
}

const I2: DataType = DataType::Int2;
const I4: DataType = DataType::Int4;
const I8: DataType = DataType::Int8;
const F4: DataType = DataType::Float4;
const F8: DataType = DataType::Float8;

macro_rules! bits {
    ($arrow:ty, $f:expr) => {
        |a, rows, _| binary::<$arrow, $arrow, $arrow>(a, rows, |x, y| Ok($f(x, y)))
    };
}
macro_rules! shift {
    ($arrow:ty, $f:expr) => {
        |a, rows, _| binary::<$arrow, Int32Type, $arrow>(a, rows, |x, y| Ok($f(x, y as u32)))
    };
}

pub(super) static FUNCTIONS: &[Function] = &[
    array(
        "+",
        &[INT2, INT2],
        I2,
        integer!(Int16Type, "smallint", checked_add),
        "sum",
    ),
    array(
        "+",
        &[INT4, INT4],
        I4,
        integer!(Int32Type, "integer", checked_add),
        "sum",
    ),
    array(
        "+",
        &[INT8, INT8],
        I8,
        integer!(Int64Type, "bigint", checked_add),
        "sum",
    ),
    array(
        "+",
        &[FLOAT4, FLOAT4],
        F4,
        float!(Float32Type, |x, y| x + y, ANY_F4),
        "sum",
    ),
    array(
        "+",
        &[FLOAT8, FLOAT8],
        F8,
        float!(Float64Type, |x, y| x + y, ANY_F8),
        "sum",
    ),
    numeric(
        "+",
        &[NUMERIC, NUMERIC],
        sum_type,
        |v| arguments!(v, Value::Numeric(a), Value::Numeric(b) => a.checked_add(*b).map(Value::Numeric)),
        "sum",
    ),
    array(
        "-",
        &[INT2, INT2],
        I2,
        integer!(Int16Type, "smallint", checked_sub),
        "difference",
    ),
    array(
        "-",
        &[INT4, INT4],
        I4,
        integer!(Int32Type, "integer", checked_sub),
        "difference",
    ),
    array(
        "-",
        &[INT8, INT8],
        I8,
        integer!(Int64Type, "bigint", checked_sub),
        "difference",
    ),
    array(
        "-",
        &[FLOAT4, FLOAT4],
        F4,
        float!(Float32Type, |x, y| x - y, ANY_F4),
        "difference",
    ),
    array(
        "-",
        &[FLOAT8, FLOAT8],
        F8,
        float!(Float64Type, |x, y| x - y, ANY_F8),
        "difference",
    ),
    numeric(
        "-",
        &[NUMERIC, NUMERIC],
        sum_type,
        |v| arguments!(v, Value::Numeric(a), Value::Numeric(b) => a.checked_sub(*b).map(Value::Numeric)),
        "difference",
    ),
    array(
        "*",
        &[INT2, INT2],
        I2,
        integer!(Int16Type, "smallint", checked_mul),
        "product",
    ),
    array(
        "*",
        &[INT4, INT4],
        I4,
        integer!(Int32Type, "integer", checked_mul),
        "product",
    ),
    array(
        "*",
        &[INT8, INT8],
        I8,
        integer!(Int64Type, "bigint", checked_mul),
        "product",
    ),
    array(
        "*",
        &[FLOAT4, FLOAT4],
        F4,
        float!(Float32Type, |x, y| x * y, FACTOR_F4),
        "product",
    ),
    array(
        "*",
        &[FLOAT8, FLOAT8],
        F8,
        float!(Float64Type, |x, y| x * y, FACTOR_F8),
        "product",
    ),
    numeric(
        "*",
        &[NUMERIC, NUMERIC],
        product_type,
        |v| arguments!(v, Value::Numeric(a), Value::Numeric(b) => a.checked_mul(*b).map(Value::Numeric)),
        "product",
    ),
    array(
        "/",
        &[INT2, INT2],
        I2,
        divide!(Int16Type, "smallint", checked_div),
        "quotient, towards zero",
    ),
    array(
        "/",
        &[INT4, INT4],
        I4,
        divide!(Int32Type, "integer", checked_div),
        "quotient, towards zero",
    ),
    array(
        "/",
        &[INT8, INT8],
        I8,
        divide!(Int64Type, "bigint", checked_div),
        "quotient, towards zero",
    ),
    array(
        "/",
        &[FLOAT4, FLOAT4],
        F4,
        float_divide!(Float32Type),
        "quotient",
    ),
    array(
        "/",
        &[FLOAT8, FLOAT8],
        F8,
        float_divide!(Float64Type),
        "quotient",
    ),
    row(
        "/",
        &[NUMERIC, NUMERIC],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Numeric(a), Value::Numeric(b) => divide_numeric(*a, *b).map(Value::Numeric)),
        "quotient",
    ),
    array("%", &[INT2, INT2], I2, remainder!(Int16Type), "remainder"),
    array("%", &[INT4, INT4], I4, remainder!(Int32Type), "remainder"),
    array("%", &[INT8, INT8], I8, remainder!(Int64Type), "remainder"),
    numeric(
        "%",
        &[NUMERIC, NUMERIC],
        sum_type,
        |v| arguments!(v, Value::Numeric(a), Value::Numeric(b) => numeric_remainder(*a, *b).map(Value::Numeric)),
        "remainder",
    ),
    array("mod", &[INT4, INT4], I4, remainder!(Int32Type), "remainder"),
    array("mod", &[INT8, INT8], I8, remainder!(Int64Type), "remainder"),
    numeric(
        "mod",
        &[NUMERIC, NUMERIC],
        sum_type,
        |v| arguments!(v, Value::Numeric(a), Value::Numeric(b) => numeric_remainder(*a, *b).map(Value::Numeric)),
        "remainder",
    ),
    array("-", &[INT2], I2, negate!(Int16Type, "smallint"), "negation"),
    array("-", &[INT4], I4, negate!(Int32Type, "integer"), "negation"),
    array("-", &[INT8], I8, negate!(Int64Type, "bigint"), "negation"),
    array(
        "-",
        &[FLOAT4],
        F4,
        |a, _, _| unary::<Float32Type, Float32Type>(a, |x| Ok(-x)),
        "negation",
    ),
    array(
        "-",
        &[FLOAT8],
        F8,
        |a, _, _| unary::<Float64Type, Float64Type>(a, |x| Ok(-x)),
        "negation",
    ),
    numeric(
        "-",
        &[NUMERIC],
        sum_type,
        |v| arguments!(v, Value::Numeric(a) => Numeric::new(-a.unscaled(), a.scale()).map(Value::Numeric)),
        "negation",
    ),
    array(
        "&",
        &[INT4, INT4],
        I4,
        bits!(Int32Type, |x: i32, y: i32| x & y),
        "bitwise and",
    ),
    array(
        "&",
        &[INT8, INT8],
        I8,
        bits!(Int64Type, |x: i64, y: i64| x & y),
        "bitwise and",
    ),
    array(
        "|",
        &[INT4, INT4],
        I4,
        bits!(Int32Type, |x: i32, y: i32| x | y),
        "bitwise or",
    ),
    array(
        "|",
        &[INT8, INT8],
        I8,
        bits!(Int64Type, |x: i64, y: i64| x | y),
        "bitwise or",
    ),
    array(
        "#",
        &[INT4, INT4],
        I4,
        bits!(Int32Type, |x: i32, y: i32| x ^ y),
        "bitwise exclusive or",
    ),
    array(
        "#",
        &[INT8, INT8],
        I8,
        bits!(Int64Type, |x: i64, y: i64| x ^ y),
        "bitwise exclusive or",
    ),
    array(
        "&",
        &[INT2, INT2],
        I2,
        bits!(Int16Type, |x: i16, y: i16| x & y),
        "bitwise and",
    ),
    array(
        "|",
        &[INT2, INT2],
        I2,
        bits!(Int16Type, |x: i16, y: i16| x | y),
        "bitwise or",
    ),
    array(
        "#",
        &[INT2, INT2],
        I2,
        bits!(Int16Type, |x: i16, y: i16| x ^ y),
        "bitwise exclusive or",
    ),
    array(
        "~",
        &[INT2],
        I2,
        |a, _, _| unary::<Int16Type, Int16Type>(a, |x| Ok(!x)),
        "bitwise not",
    ),
    // A smallint is shifted as an integer and cut, as in C.
    array(
        "<<",
        &[INT2, INT4],
        I2,
        shift!(Int16Type, |x: i16, y: u32| i32::from(x).wrapping_shl(y)
            as i16),
        "bits shifted left",
    ),
    array(
        ">>",
        &[INT2, INT4],
        I2,
        shift!(Int16Type, |x: i16, y: u32| i32::from(x).wrapping_shr(y)
            as i16),
        "bits shifted right",
    ),
    array("mod", &[INT2, INT2], I2, remainder!(Int16Type), "remainder"),
    array(
        "<<",
        &[INT4, INT4],
        I4,
        shift!(Int32Type, |x: i32, y: u32| x.wrapping_shl(y)),
        "bits shifted left",
    ),
    array(
        "<<",
        &[INT8, INT4],
        I8,
        shift!(Int64Type, |x: i64, y: u32| x.wrapping_shl(y)),
        "bits shifted left",
    ),
    array(
        ">>",
        &[INT4, INT4],
        I4,
        shift!(Int32Type, |x: i32, y: u32| x.wrapping_shr(y)),
        "bits shifted right",
    ),
    array(
        ">>",
        &[INT8, INT4],
        I8,
        shift!(Int64Type, |x: i64, y: u32| x.wrapping_shr(y)),
        "bits shifted right",
    ),
    array(
        "~",
        &[INT4],
        I4,
        |a, _, _| unary::<Int32Type, Int32Type>(a, |x| Ok(!x)),
        "bitwise not",
    ),
    array(
        "~",
        &[INT8],
        I8,
        |a, _, _| unary::<Int64Type, Int64Type>(a, |x| Ok(!x)),
        "bitwise not",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn quotient(a: &str, b: &str) -> String {
        divide_numeric(Numeric::parse(a).unwrap(), Numeric::parse(b).unwrap())
            .unwrap()
            .to_string()
    }

    #[test]
    fn quotients_have_postgres_scale() {
        assert_eq!(quotient("1", "3"), "0.33333333333333333333");
        assert_eq!(quotient("10", "4"), "2.5000000000000000");
        assert_eq!(quotient("2", "3"), "0.66666666666666666667");
        assert_eq!(quotient("-7.5", "2"), "-3.7500000000000000");
        assert_eq!(quotient("100000", "7"), "14285.714285714286");
    }
}
