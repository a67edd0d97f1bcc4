//! Types and values of the SQL surface.
//!
//! A [`DataType`] is what a column declares; a [`Value`] is one cell. How values become text is
//! in [`crate::text`], sortable bytes in [`crate::key`], stored bytes in [`crate::row`], Arrow
//! arrays in [`crate::arrow_map`]. Names, OIDs and modifiers of types are in `value/describe.rs`,
//! assignment casts in `value/coerce.rs`.

mod coerce;
mod describe;

pub use describe::oid;
#[cfg(test)]
pub(crate) use describe::tests::ALL as ALL_TYPES;

use crate::datetime::Interval;
use crate::numeric::Numeric;

/// The type of a column or an expression.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DataType {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// `NUMERIC` or `NUMERIC(precision, scale)`, to 38 digits.
    Numeric(Option<(u8, u8)>),
    /// `TEXT`, or `VARCHAR(n)` with its limit in characters.
    Text(Option<u32>),
    Bytea,
    Uuid,
    Date,
    Timestamp,
    TimestampTz,
    Interval,
    Jsonb,
    /// `VECTOR(n)`; `None` where only an expression's dimension is open.
    Vector(Option<u16>),
    /// Planar geometry, with the subtype that the column demands.
    Geometry(Option<crate::geo::Kind>),
    /// Geometry on the WGS 84 ellipsoid.
    Geography(Option<crate::geo::Kind>),
}

/// One cell. Dates count days and timestamps microseconds since 1970-01-01.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Float4(f32),
    Float8(f64),
    Numeric(Numeric),
    Text(String),
    Bytea(Vec<u8>),
    Uuid([u8; 16]),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01 00:00, no zone.
    Timestamp(i64),
    /// Microseconds since 1970-01-01 00:00 UTC.
    TimestampTz(i64),
    Interval(Interval),
    /// Canonical text: keys sorted as PostgreSQL sorts them, last of equal keys kept.
    Jsonb(String),
    Vector(Vec<f32>),
    /// EWKB bytes of a planar geometry.
    Geometry(Vec<u8>),
    /// EWKB bytes of a geometry on the ellipsoid, SRID 4326.
    Geography(Vec<u8>),
}

impl Value {
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The type that the value alone tells, without length, precision or subtype; None for NULL.
    pub fn data_type_hint(&self) -> Option<DataType> {
        Some(match self {
            Value::Null => return None,
            Value::Bool(_) => DataType::Bool,
            Value::Int2(_) => DataType::Int2,
            Value::Int4(_) => DataType::Int4,
            Value::Int8(_) => DataType::Int8,
            Value::Float4(_) => DataType::Float4,
            Value::Float8(_) => DataType::Float8,
            Value::Numeric(_) => DataType::Numeric(None),
            Value::Text(_) => DataType::Text(None),
            Value::Bytea(_) => DataType::Bytea,
            Value::Uuid(_) => DataType::Uuid,
            Value::Date(_) => DataType::Date,
            Value::Timestamp(_) => DataType::Timestamp,
            Value::TimestampTz(_) => DataType::TimestampTz,
            Value::Interval(_) => DataType::Interval,
            Value::Jsonb(_) => DataType::Jsonb,
            Value::Vector(elements) => DataType::Vector(u16::try_from(elements.len()).ok()),
            Value::Geometry(_) => DataType::Geometry(None),
            Value::Geography(_) => DataType::Geography(None),
        })
    }
}

/// A float with every NaN as the positive quiet one. Processors make NaNs of either sign (x86 a
/// negative one of `inf - inf`), SQL knows one.
pub fn one_nan_f64(v: f64) -> f64 {
    if v.is_nan() { f64::NAN.abs() } else { v }
}

/// [`one_nan_f64`] of a `float4`.
pub fn one_nan_f32(v: f32) -> f32 {
    if v.is_nan() { f32::NAN.abs() } else { v }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(v: $from) -> Value {
                Value::$variant(v.into())
            }
        }
    )*};
}

value_from! {
    bool => Bool, i16 => Int2, i32 => Int4, i64 => Int8, f32 => Float4, f64 => Float8,
    String => Text, &str => Text, Vec<u8> => Bytea, Vec<f32> => Vector, Numeric => Numeric,
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Value {
        v.map_or(Value::Null, Into::into)
    }
}
