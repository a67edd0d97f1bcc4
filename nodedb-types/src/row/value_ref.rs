//! A value that borrows its bytes from where it is stored.

use crate::datetime::Interval;
use crate::failure::Result;
use crate::numeric::Numeric;
use crate::simd::distance::bytes_of;
use crate::value::{DataType, Value};

use super::malformed;

/// [`Value`] with borrowed text and bytes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ValueRef<'a> {
    Null,
    Bool(bool),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Float4(f32),
    Float8(f64),
    Numeric(Numeric),
    Text(&'a str),
    Bytea(&'a [u8]),
    Uuid([u8; 16]),
    Date(i32),
    Timestamp(i64),
    TimestampTz(i64),
    Interval(Interval),
    Jsonb(&'a str),
    Vector(VectorRef<'a>),
    /// EWKB.
    Geometry(&'a [u8]),
    /// EWKB.
    Geography(&'a [u8]),
}

/// The elements of a vector as little-endian bytes without alignment. Compared bit by bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VectorRef<'a> {
    bytes: &'a [u8],
}

impl<'a> VectorRef<'a> {
    /// None unless the bytes are whole elements.
    pub fn new(bytes: &'a [u8]) -> Option<VectorRef<'a>> {
        bytes
            .len()
            .is_multiple_of(size_of::<f32>())
            .then_some(VectorRef { bytes })
    }

    /// Dimensions.
    pub fn len(&self) -> usize {
        self.bytes.len() / size_of::<f32>()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What the kernels of [`crate::vector`] work on.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = f32> + use<'a> {
        let (elements, _) = self.bytes.as_chunks::<4>();
        elements.iter().map(|element| f32::from_le_bytes(*element))
    }

    /// Panics unless `out` has [`VectorRef::len`] elements.
    pub fn copy_to(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.len(), "the target has other dimensions");
        for (target, element) in out.iter_mut().zip(self.iter()) {
            *target = element;
        }
    }

    pub fn to_vec(&self) -> Vec<f32> {
        self.iter().collect()
    }
}

impl<'a> From<&'a [f32]> for VectorRef<'a> {
    fn from(elements: &'a [f32]) -> VectorRef<'a> {
        VectorRef {
            bytes: bytes_of(elements),
        }
    }
}

impl<'a> From<&'a Value> for ValueRef<'a> {
    fn from(value: &'a Value) -> ValueRef<'a> {
        match value {
            Value::Null => ValueRef::Null,
            Value::Bool(v) => ValueRef::Bool(*v),
            Value::Int2(v) => ValueRef::Int2(*v),
            Value::Int4(v) => ValueRef::Int4(*v),
            Value::Int8(v) => ValueRef::Int8(*v),
            Value::Float4(v) => ValueRef::Float4(*v),
            Value::Float8(v) => ValueRef::Float8(*v),
            Value::Numeric(v) => ValueRef::Numeric(*v),
            Value::Text(v) => ValueRef::Text(v),
            Value::Bytea(v) => ValueRef::Bytea(v),
            Value::Uuid(v) => ValueRef::Uuid(*v),
            Value::Date(v) => ValueRef::Date(*v),
            Value::Timestamp(v) => ValueRef::Timestamp(*v),
            Value::TimestampTz(v) => ValueRef::TimestampTz(*v),
            Value::Interval(v) => ValueRef::Interval(*v),
            Value::Jsonb(v) => ValueRef::Jsonb(v),
            Value::Vector(v) => ValueRef::Vector(VectorRef::from(v.as_slice())),
            Value::Geometry(v) => ValueRef::Geometry(v),
            Value::Geography(v) => ValueRef::Geography(v),
        }
    }
}

impl<'a> ValueRef<'a> {
    pub fn is_null(&self) -> bool {
        matches!(self, ValueRef::Null)
    }

    /// A value with memory of its own.
    pub fn to_owned(&self) -> Value {
        match *self {
            ValueRef::Null => Value::Null,
            ValueRef::Bool(v) => Value::Bool(v),
            ValueRef::Int2(v) => Value::Int2(v),
            ValueRef::Int4(v) => Value::Int4(v),
            ValueRef::Int8(v) => Value::Int8(v),
            ValueRef::Float4(v) => Value::Float4(v),
            ValueRef::Float8(v) => Value::Float8(v),
            ValueRef::Numeric(v) => Value::Numeric(v),
            ValueRef::Text(v) => Value::Text(v.to_string()),
            ValueRef::Bytea(v) => Value::Bytea(v.to_vec()),
            ValueRef::Uuid(v) => Value::Uuid(v),
            ValueRef::Date(v) => Value::Date(v),
            ValueRef::Timestamp(v) => Value::Timestamp(v),
            ValueRef::TimestampTz(v) => Value::TimestampTz(v),
            ValueRef::Interval(v) => Value::Interval(v),
            ValueRef::Jsonb(v) => Value::Jsonb(v.to_string()),
            ValueRef::Vector(v) => Value::Vector(v.to_vec()),
            ValueRef::Geometry(v) => Value::Geometry(v.to_vec()),
            ValueRef::Geography(v) => Value::Geography(v.to_vec()),
        }
    }

    /// From the bytes of one stored column that is not NULL.
    pub(super) fn read(bytes: &'a [u8], data_type: &DataType) -> Result<ValueRef<'a>> {
        Ok(match data_type {
            DataType::Bool => match bytes {
                [bit @ 0..=1] => ValueRef::Bool(*bit == 1),
                _ => return Err(malformed("not a boolean")),
            },
            DataType::Int2 => ValueRef::Int2(i16::from_le_bytes(exactly(bytes)?)),
            DataType::Int4 => ValueRef::Int4(i32::from_le_bytes(exactly(bytes)?)),
            DataType::Int8 => ValueRef::Int8(i64::from_le_bytes(exactly(bytes)?)),
            DataType::Float4 => ValueRef::Float4(f32::from_le_bytes(exactly(bytes)?)),
            DataType::Float8 => ValueRef::Float8(f64::from_le_bytes(exactly(bytes)?)),
            DataType::Numeric(_) => ValueRef::Numeric(numeric(bytes)?),
            DataType::Text(_) => ValueRef::Text(utf8(bytes)?),
            DataType::Bytea => ValueRef::Bytea(bytes),
            DataType::Uuid => ValueRef::Uuid(exactly(bytes)?),
            DataType::Date => ValueRef::Date(i32::from_le_bytes(exactly(bytes)?)),
            DataType::Timestamp => ValueRef::Timestamp(i64::from_le_bytes(exactly(bytes)?)),
            DataType::TimestampTz => ValueRef::TimestampTz(i64::from_le_bytes(exactly(bytes)?)),
            DataType::Interval => {
                let bytes: [u8; 16] = exactly(bytes)?;
                ValueRef::Interval(Interval {
                    months: i32::from_le_bytes(exactly(&bytes[..4])?),
                    days: i32::from_le_bytes(exactly(&bytes[4..8])?),
                    micros: i64::from_le_bytes(exactly(&bytes[8..])?),
                })
            }
            DataType::Jsonb => ValueRef::Jsonb(utf8(bytes)?),
            DataType::Vector(_) => {
                let elements = VectorRef::new(bytes);
                ValueRef::Vector(elements.ok_or_else(|| malformed("not whole floats"))?)
            }
            DataType::Geometry(_) => ValueRef::Geometry(bytes),
            DataType::Geography(_) => ValueRef::Geography(bytes),
        })
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes
        .try_into()
        .map_err(|_| malformed("a column of another length than its type"))
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| malformed("text that is not UTF-8"))
}

fn numeric(bytes: &[u8]) -> Result<Numeric> {
    let (scale, digits) = bytes
        .split_first()
        .ok_or_else(|| malformed("not a numeric"))?;
    if digits.len() > 16 {
        return Err(malformed("not a numeric"));
    }
    let negative = digits.last().is_some_and(|b| b >> 7 == 1);
    let mut wide = if negative { [0xff; 16] } else { [0; 16] };
    wide[..digits.len()].copy_from_slice(digits);
    let value = Numeric::new(i128::from_le_bytes(wide), *scale);
    value.map_err(|_| malformed("a numeric out of range"))
}
