//! Numbers: rounding, powers, logarithms, trigonometry, random numbers.

use nodedb_types::numeric::Numeric;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::arithmetic::{division_by_zero, out_of_range};
use super::{
    FLOAT4, FLOAT8, Function, INT4, INT8, Kernel, NUMERIC, NUMERIC_TYPE, Returns, arguments, row,
};

fn no_power(message: &str) -> Failure {
    Failure::new(SqlState::InvalidPowerArgument, message)
}

/// A float result that is finite when its operands are.
pub(super) fn finite(value: f64) -> Result<Value> {
    if value.is_infinite() {
        return Err(Failure::new(
            SqlState::NumericOutOfRange,
            "value out of range: overflow",
        ));
    }
    Ok(Value::Float8(value))
}

/// A function of one float.
macro_rules! float {
    ($name:literal, $f:expr, $summary:literal) => {
        row($name, &[FLOAT8], DataType::Float8, |v| arguments!(v, Value::Float8(x) => {
            let f: fn(f64) -> f64 = $f;
            if x.is_infinite() { Ok(Value::Float8(f(*x))) } else { finite(f(*x)) }
        }), $summary)
    };
}

pub(super) use float;

fn same_numeric(types: &[DataType]) -> DataType {
    types.first().copied().unwrap_or(NUMERIC_TYPE)
}

fn whole_numeric(_: &[DataType]) -> DataType {
    DataType::Numeric(Some((38, 0)))
}

/// Rounds half away from zero to `scale` digits, which may be negative.
fn round_to(n: Numeric, scale: i32) -> Result<Numeric> {
    if scale >= 0 {
        let scale = scale.min(38) as u8;
        return n.rescale(38, scale);
    }
    let unit = 10i128
        .checked_pow(scale.unsigned_abs())
        .ok_or_else(|| out_of_range("numeric"))
        .or(Ok::<i128, Failure>(i128::MAX))?;
    let whole = n.rescale(38, 0)?.unscaled();
    let half = unit / 2;
    let rounded = if whole >= 0 {
        (whole + half) / unit * unit
    } else {
        (whole - half) / unit * unit
    };
    Numeric::new(rounded, 0)
}

fn truncate_to(n: Numeric, scale: i32) -> Result<Numeric> {
    let scale = scale.clamp(-38, 38);
    let drop = i32::from(n.scale()) - scale;
    if drop <= 0 {
        return n.rescale(38, scale.max(0) as u8);
    }
    let unit = 10i128.checked_pow(drop as u32);
    let kept = unit.map_or(0, |unit| n.unscaled() / unit);
    if scale >= 0 {
        return Numeric::new(kept, scale as u8);
    }
    let back = 10i128
        .checked_pow(scale.unsigned_abs())
        .and_then(|unit| kept.checked_mul(unit))
        .unwrap_or(0);
    Numeric::new(back, 0)
}

fn floor(n: Numeric) -> Result<Numeric> {
    let cut = truncate_to(n, 0)?;
    if n.unscaled() < 0 && cut != n {
        return Numeric::new(cut.unscaled() - 1, 0);
    }
    Ok(cut)
}

fn ceiling(n: Numeric) -> Result<Numeric> {
    let cut = truncate_to(n, 0)?;
    if n.unscaled() > 0 && cut != n {
        return Numeric::new(cut.unscaled() + 1, 0);
    }
    Ok(cut)
}

fn power(x: f64, y: f64) -> Result<Value> {
    if x == 0.0 && y < 0.0 {
        return Err(no_power("zero raised to a negative power is undefined"));
    }
    if x < 0.0 && y.fract() != 0.0 {
        return Err(no_power(
            "a negative number raised to a non-integer power yields a complex result",
        ));
    }
    finite(x.powf(y))
}

fn logarithm(x: f64, f: fn(f64) -> f64) -> Result<Value> {
    if x == 0.0 {
        return Err(Failure::new(
            SqlState::InvalidLogarithmArgument,
            "cannot take logarithm of zero",
        ));
    }
    if x < 0.0 {
        return Err(Failure::new(
            SqlState::InvalidLogarithmArgument,
            "cannot take logarithm of a negative number",
        ));
    }
    Ok(Value::Float8(f(x)))
}

fn square_root(x: f64) -> Result<Value> {
    if x < 0.0 {
        return Err(no_power("cannot take square root of a negative number"));
    }
    Ok(Value::Float8(x.sqrt()))
}

/// Euclid's algorithm; the result may not fit the type when an operand is the least number of it.
fn gcd(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a.abs(), b.abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn lcm(a: i128, b: i128) -> Option<i128> {
    match (a, b) {
        (0, _) | (_, 0) => Some(0),
        _ => (a / gcd(a, b)).checked_mul(b).map(i128::abs),
    }
}

fn as_int4(n: Option<i128>) -> Result<Value> {
    let n = n.and_then(|n| i32::try_from(n).ok());
    n.map(Value::Int4).ok_or_else(|| out_of_range("integer"))
}

fn as_int8(n: Option<i128>) -> Result<Value> {
    let n = n.and_then(|n| i64::try_from(n).ok());
    n.map(Value::Int8).ok_or_else(|| out_of_range("bigint"))
}

/// Of two numerics: in units of the finer scale.
fn of_numerics(a: Numeric, b: Numeric, f: fn(i128, i128) -> Option<i128>) -> Result<Value> {
    let scale = a.scale().max(b.scale());
    let (a, b) = (a.rescale(38, scale)?, b.rescale(38, scale)?);
    let result = f(a.unscaled(), b.unscaled()).ok_or_else(|| out_of_range("numeric"))?;
    Numeric::new(result, scale).map(Value::Numeric)
}

fn factorial(n: i64) -> Result<Value> {
    if n < 0 {
        return Err(Failure::new(
            SqlState::NumericOutOfRange,
            "factorial of a negative number is undefined",
        ));
    }
    let mut product = 1i128;
    for factor in 2..=n {
        product = product
            .checked_mul(i128::from(factor))
            .filter(|p| Numeric::new(*p, 0).is_ok())
            .ok_or_else(|| {
                Failure::new(
                    SqlState::NumericOutOfRange,
                    "value overflows numeric format",
                )
            })?;
    }
    Numeric::new(product, 0).map(Value::Numeric)
}

/// Logarithm to a base, computed in double precision.
fn based_logarithm(base: Numeric, x: Numeric) -> Result<Value> {
    let (Value::Float8(above), Value::Float8(below)) = (
        logarithm(x.to_f64(), f64::ln)?,
        logarithm(base.to_f64(), f64::ln)?,
    ) else {
        return Ok(Value::Null);
    };
    if below == 0.0 {
        return Err(division_by_zero());
    }
    Numeric::from_f64(above / below).map(Value::Numeric)
}

/// SplitMix64: a well mixed number from a counter (Steele, Lea, Flood 2014).
pub(super) fn mixed(counter: u64) -> u64 {
    let mut z = counter
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const F8: DataType = DataType::Float8;

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "abs",
        &[INT4],
        DataType::Int4,
        |v| arguments!(v, Value::Int4(x) => x.checked_abs().map(Value::Int4).ok_or_else(|| out_of_range("integer"))),
        "absolute value",
    ),
    row(
        "abs",
        &[INT8],
        DataType::Int8,
        |v| arguments!(v, Value::Int8(x) => x.checked_abs().map(Value::Int8).ok_or_else(|| out_of_range("bigint"))),
        "absolute value",
    ),
    Function::new(
        "abs",
        &[NUMERIC],
        Returns::Of(same_numeric),
        Kernel::Row(
            |v| arguments!(v, Value::Numeric(x) => Numeric::new(x.unscaled().abs(), x.scale()).map(Value::Numeric)),
        ),
        "absolute value",
    ),
    row(
        "abs",
        &[FLOAT4],
        DataType::Float4,
        |v| arguments!(v, Value::Float4(x) => Ok(Value::Float4(x.abs()))),
        "absolute value",
    ),
    float!("abs", f64::abs, "absolute value"),
    Function::new(
        "round",
        &[NUMERIC],
        Returns::Of(whole_numeric),
        Kernel::Row(|v| arguments!(v, Value::Numeric(x) => round_to(*x, 0).map(Value::Numeric))),
        "nearest whole number, halves away from zero",
    ),
    row(
        "round",
        &[NUMERIC, INT4],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Numeric(x), Value::Int4(s) => round_to(*x, *s).map(Value::Numeric)),
        "rounded to so many digits behind the point",
    ),
    float!(
        "round",
        f64::round_ties_even,
        "nearest whole number, halves to even"
    ),
    Function::new(
        "trunc",
        &[NUMERIC],
        Returns::Of(whole_numeric),
        Kernel::Row(|v| arguments!(v, Value::Numeric(x) => truncate_to(*x, 0).map(Value::Numeric))),
        "towards zero",
    ),
    row(
        "trunc",
        &[NUMERIC, INT4],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Numeric(x), Value::Int4(s) => truncate_to(*x, *s).map(Value::Numeric)),
        "cut to so many digits behind the point",
    ),
    float!("trunc", f64::trunc, "towards zero"),
    Function::new(
        "floor",
        &[NUMERIC],
        Returns::Of(whole_numeric),
        Kernel::Row(|v| arguments!(v, Value::Numeric(x) => floor(*x).map(Value::Numeric))),
        "nearest whole number not above",
    ),
    float!("floor", f64::floor, "nearest whole number not above"),
    Function::new(
        "ceil",
        &[NUMERIC],
        Returns::Of(whole_numeric),
        Kernel::Row(|v| arguments!(v, Value::Numeric(x) => ceiling(*x).map(Value::Numeric))),
        "nearest whole number not below",
    ),
    float!("ceil", f64::ceil, "nearest whole number not below"),
    Function::new(
        "ceiling",
        &[NUMERIC],
        Returns::Of(whole_numeric),
        Kernel::Row(|v| arguments!(v, Value::Numeric(x) => ceiling(*x).map(Value::Numeric))),
        "nearest whole number not below",
    ),
    float!("ceiling", f64::ceil, "nearest whole number not below"),
    float!(
        "sign",
        |x| if x == 0.0 { 0.0 } else { x.signum() },
        "-1, 0 or 1"
    ),
    row(
        "sqrt",
        &[FLOAT8],
        F8,
        |v| arguments!(v, Value::Float8(x) => square_root(*x)),
        "square root",
    ),
    float!("cbrt", f64::cbrt, "cube root"),
    float!("exp", f64::exp, "e to a power"),
    row(
        "ln",
        &[FLOAT8],
        F8,
        |v| arguments!(v, Value::Float8(x) => logarithm(*x, f64::ln)),
        "natural logarithm",
    ),
    row(
        "log",
        &[FLOAT8],
        F8,
        |v| arguments!(v, Value::Float8(x) => logarithm(*x, f64::log10)),
        "logarithm to base 10",
    ),
    row(
        "log10",
        &[FLOAT8],
        F8,
        |v| arguments!(v, Value::Float8(x) => logarithm(*x, f64::log10)),
        "logarithm to base 10",
    ),
    row(
        "^",
        &[FLOAT8, FLOAT8],
        F8,
        |v| arguments!(v, Value::Float8(x), Value::Float8(y) => power(*x, *y)),
        "power",
    ),
    row(
        "power",
        &[FLOAT8, FLOAT8],
        F8,
        |v| arguments!(v, Value::Float8(x), Value::Float8(y) => power(*x, *y)),
        "power",
    ),
    row(
        "pow",
        &[FLOAT8, FLOAT8],
        F8,
        |v| arguments!(v, Value::Float8(x), Value::Float8(y) => power(*x, *y)),
        "power",
    ),
    row(
        "div",
        &[NUMERIC, NUMERIC],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Numeric(x), Value::Numeric(y) => super::arithmetic::divide_numeric(*x, *y).and_then(|q| truncate_to(q, 0)).map(Value::Numeric)),
        "whole part of a quotient",
    ),
    row(
        "gcd",
        &[INT4, INT4],
        DataType::Int4,
        |v| arguments!(v, Value::Int4(x), Value::Int4(y) => as_int4(Some(gcd((*x).into(), (*y).into())))),
        "greatest common divisor",
    ),
    row(
        "gcd",
        &[INT8, INT8],
        DataType::Int8,
        |v| arguments!(v, Value::Int8(x), Value::Int8(y) => as_int8(Some(gcd((*x).into(), (*y).into())))),
        "greatest common divisor",
    ),
    row(
        "gcd",
        &[NUMERIC, NUMERIC],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Numeric(x), Value::Numeric(y) => of_numerics(*x, *y, |a, b| Some(gcd(a, b)))),
        "greatest common divisor",
    ),
    row(
        "lcm",
        &[INT4, INT4],
        DataType::Int4,
        |v| arguments!(v, Value::Int4(x), Value::Int4(y) => as_int4(lcm((*x).into(), (*y).into()))),
        "least common multiple",
    ),
    row(
        "lcm",
        &[INT8, INT8],
        DataType::Int8,
        |v| arguments!(v, Value::Int8(x), Value::Int8(y) => as_int8(lcm((*x).into(), (*y).into()))),
        "least common multiple",
    ),
    row(
        "lcm",
        &[NUMERIC, NUMERIC],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Numeric(x), Value::Numeric(y) => of_numerics(*x, *y, lcm)),
        "least common multiple",
    ),
    row(
        "factorial",
        &[INT8],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Int8(n) => factorial(*n)),
        "product of the numbers up to this one",
    ),
    row(
        "log",
        &[NUMERIC, NUMERIC],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Numeric(base), Value::Numeric(x) => based_logarithm(*base, *x)),
        "logarithm to a base",
    ),
    Function::new(
        "sign",
        &[NUMERIC],
        Returns::Of(whole_numeric),
        Kernel::Row(
            |v| arguments!(v, Value::Numeric(x) => Numeric::new(x.unscaled().signum(), 0).map(Value::Numeric)),
        ),
        "-1, 0 or 1",
    ),
    row(
        "sqrt",
        &[NUMERIC],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Numeric(x) => super::root::numeric_sqrt(*x)),
        "square root",
    ),
    row(
        "scale",
        &[NUMERIC],
        DataType::Int4,
        |v| arguments!(v, Value::Numeric(x) => Ok(Value::Int4(x.scale().into()))),
        "digits behind the point",
    ),
    row(
        "min_scale",
        &[NUMERIC],
        DataType::Int4,
        |v| arguments!(v, Value::Numeric(x) => Ok(Value::Int4(x.normalized().scale().into()))),
        "digits behind the point that are needed",
    ),
    row(
        "trim_scale",
        &[NUMERIC],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Numeric(x) => Ok(Value::Numeric(x.normalized()))),
        "without zeros at the end",
    ),
    row(
        "pi",
        &[],
        F8,
        |_| Ok(Value::Float8(std::f64::consts::PI)),
        "π",
    ),
    row(
        "width_bucket",
        &[FLOAT8, FLOAT8, FLOAT8, INT4],
        DataType::Int4,
        |v| arguments!(v, Value::Float8(x), Value::Float8(low), Value::Float8(high), Value::Int4(n) => bucket(*x, *low, *high, *n)),
        "number of the equal bucket",
    ),
    Function::new(
        "random",
        &[],
        Returns::Is(F8),
        Kernel::Volatile(|n| Value::Float8((mixed(n) >> 11) as f64 / (1u64 << 53) as f64)),
        "a number in [0, 1)",
    ),
    Function::new(
        "gen_random_uuid",
        &[],
        Returns::Is(DataType::Uuid),
        Kernel::Volatile(random_uuid),
        "a version 4 UUID",
    ),
];

fn bucket(x: f64, low: f64, high: f64, count: i32) -> Result<Value> {
    let refused = |what| Err(Failure::new(SqlState::InvalidWidthBucketArgument, what));
    if count <= 0 {
        return refused("count must be greater than zero");
    }
    if x.is_nan() || low.is_nan() || high.is_nan() {
        return refused("operand, lower bound, and upper bound cannot be NaN");
    }
    if low.is_infinite() || high.is_infinite() {
        return refused("lower and upper bounds must be finite");
    }
    if low == high {
        return refused("lower bound cannot equal upper bound");
    }
    // Bounds may fall as well as rise.
    let is_before = if low < high { x < low } else { x > low };
    let is_behind = if low < high { x >= high } else { x <= high };
    if is_before {
        return Ok(Value::Int4(0));
    }
    if is_behind {
        return match count.checked_add(1) {
            Some(last) => Ok(Value::Int4(last)),
            None => Err(out_of_range("integer")),
        };
    }
    let place = (x - low) / (high - low) * f64::from(count);
    Ok(Value::Int4((place as i32).min(count - 1) + 1))
}

fn random_uuid(n: u64) -> Value {
    let (high, low) = (mixed(n), mixed(n ^ 0xA5A5_5A5A_C3C3_3C3C));
    let mut bytes = [0u8; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    Value::Uuid(bytes)
}
