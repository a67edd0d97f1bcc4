//! Angles: trigonometric and hyperbolic functions, in radians and in degrees.

use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::math::{finite, float};
use super::{FLOAT8, Function, arguments, row};

const F8: DataType = DataType::Float8;

fn out_of_domain() -> Failure {
    Failure::new(SqlState::NumericOutOfRange, "input is out of range")
}

/// A function that exists where `within` holds; NaN stays NaN.
fn inside(x: f64, within: fn(f64) -> bool, f: fn(f64) -> f64) -> Result<Value> {
    if x.is_nan() {
        return Ok(Value::Float8(x));
    }
    if !within(x) {
        return Err(out_of_domain());
    }
    Ok(Value::Float8(f(x)))
}

fn up_to_one(x: f64) -> bool {
    (-1.0..=1.0).contains(&x)
}

fn is_finite(x: f64) -> bool {
    x.is_finite()
}

/// Exact at multiples of 30 degrees, which the radians of the library are not.
fn sine_of_degrees(x: f64) -> f64 {
    let reduced = x % 360.0;
    match reduced.abs() {
        0.0 | 180.0 => 0.0,
        30.0 | 150.0 => 0.5f64.copysign(reduced),
        90.0 => 1.0f64.copysign(reduced),
        210.0 | 330.0 => -(0.5f64.copysign(reduced)),
        270.0 => -(1.0f64.copysign(reduced)),
        _ => reduced.to_radians().sin(),
    }
}

fn cosine_of_degrees(x: f64) -> f64 {
    match (x % 360.0).abs() {
        0.0 => 1.0,
        60.0 | 300.0 => 0.5,
        90.0 | 270.0 => 0.0,
        120.0 | 240.0 => -0.5,
        180.0 => -1.0,
        reduced => reduced.to_radians().cos(),
    }
}

fn tangent_of_degrees(x: f64) -> f64 {
    match x % 180.0 {
        r if r == 45.0 || r == -135.0 => 1.0,
        r if r == -45.0 || r == 135.0 => -1.0,
        _ => sine_of_degrees(x) / cosine_of_degrees(x),
    }
}

macro_rules! inside {
    ($name:literal, $within:expr, $f:expr, $summary:literal) => {
        row(
            $name,
            &[FLOAT8],
            F8,
            |v| arguments!(v, Value::Float8(x) => inside(*x, $within, $f)),
            $summary,
        )
    };
}

pub(super) static FUNCTIONS: &[Function] = &[
    float!("degrees", f64::to_degrees, "radians as degrees"),
    float!("radians", f64::to_radians, "degrees as radians"),
    inside!("sin", is_finite, f64::sin, "sine"),
    inside!("cos", is_finite, f64::cos, "cosine"),
    inside!("tan", is_finite, f64::tan, "tangent"),
    inside!("cot", is_finite, |x| 1.0 / x.tan(), "cotangent"),
    inside!("sind", is_finite, sine_of_degrees, "sine of degrees"),
    inside!("cosd", is_finite, cosine_of_degrees, "cosine of degrees"),
    inside!("tand", is_finite, tangent_of_degrees, "tangent of degrees"),
    inside!(
        "cotd",
        is_finite,
        |x| 1.0 / tangent_of_degrees(x),
        "cotangent of degrees"
    ),
    inside!("asin", up_to_one, f64::asin, "inverse sine"),
    inside!("acos", up_to_one, f64::acos, "inverse cosine"),
    float!("atan", f64::atan, "inverse tangent"),
    float!("sinh", f64::sinh, "hyperbolic sine"),
    float!("cosh", f64::cosh, "hyperbolic cosine"),
    float!("tanh", f64::tanh, "hyperbolic tangent"),
    float!("asinh", f64::asinh, "inverse hyperbolic sine"),
    inside!(
        "acosh",
        |x| x >= 1.0,
        f64::acosh,
        "inverse hyperbolic cosine"
    ),
    inside!("atanh", up_to_one, f64::atanh, "inverse hyperbolic tangent"),
    row(
        "atan2",
        &[FLOAT8, FLOAT8],
        F8,
        |v| arguments!(v, Value::Float8(y), Value::Float8(x) => Ok(Value::Float8(y.atan2(*x)))),
        "angle of a point",
    ),
];
