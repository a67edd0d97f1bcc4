//! Values and types as Arrow arrays: how rows travel between planes and through expressions.
//!
//! | type | Arrow | metadata |
//! |---|---|---|
//! | bool | Boolean | |
//! | int2, int4, int8 | Int16, Int32, Int64 | |
//! | float4, float8 | Float32, Float64 | |
//! | numeric(p, s) | Decimal128(p, s) | |
//! | numeric | Decimal256(76, 38) | |
//! | text, varchar(n) | Utf8 | varchar only |
//! | bytea | Binary | |
//! | uuid | FixedSizeBinary(16) | yes |
//! | date | Date32 | |
//! | timestamp, timestamptz | Timestamp(µs), Timestamp(µs, UTC) | |
//! | interval | Interval(MonthDayNano) | |
//! | jsonb | Utf8, canonical text | yes |
//! | vector(n), vector | FixedSizeList(Float32, n), List(Float32) | yes |
//! | geometry, geography | Binary, EWKB | yes |
//!
//! Where Arrow cannot tell a type from another, the field's metadata carries its spelling under
//! [`TYPE_KEY`]. Two things do not survive the journey: the display scale of an open `numeric`
//! (`1.50` comes back as `1.5`), and the microseconds of an interval beyond 292 years (22008).
//!
//! [`BatchBuilder`] writes batches row by row, [`value_at`] reads cells, from what other engines
//! make of the arrays too (views, dictionaries, other units).

mod builder;
mod read;

use std::sync::Arc;

use arrow::datatypes::{DataType as Arrow, Field, IntervalUnit, TimeUnit};

use crate::failure::{Failure, Result};
use crate::numeric::{DIGITS_MAX, OPEN_SCALE};
use crate::value::DataType;

pub use builder::BatchBuilder;
pub use read::{bytes, text, value_at};

/// Key of the field metadata that carries a type's spelling.
pub const TYPE_KEY: &str = "nodedb.type";

/// Digits of Decimal256 that carries an open numeric: 38 on either side of the point.
const OPEN_PRECISION: u8 = 76;
const NANOS_PER_MICRO: i64 = 1000;

/// The Arrow type of a value of `data_type`.
pub fn arrow_type(data_type: &DataType) -> Arrow {
    match data_type {
        DataType::Bool => Arrow::Boolean,
        DataType::Int2 => Arrow::Int16,
        DataType::Int4 => Arrow::Int32,
        DataType::Int8 => Arrow::Int64,
        DataType::Float4 => Arrow::Float32,
        DataType::Float8 => Arrow::Float64,
        DataType::Numeric(Some((precision, scale))) => Arrow::Decimal128(*precision, *scale as i8),
        DataType::Numeric(None) => Arrow::Decimal256(OPEN_PRECISION, OPEN_SCALE),
        DataType::Text(_) | DataType::Jsonb => Arrow::Utf8,
        DataType::Bytea | DataType::Geometry(_) | DataType::Geography(_) => Arrow::Binary,
        DataType::Uuid => Arrow::FixedSizeBinary(16),
        DataType::Date => Arrow::Date32,
        DataType::Timestamp => Arrow::Timestamp(TimeUnit::Microsecond, None),
        DataType::TimestampTz => Arrow::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Interval => Arrow::Interval(IntervalUnit::MonthDayNano),
        DataType::Vector(Some(n)) => Arrow::FixedSizeList(item(), i32::from(*n)),
        DataType::Vector(None) => Arrow::List(item()),
    }
}

/// Elements of a vector are never NULL.
fn item() -> Arc<Field> {
    Arc::new(Field::new("item", Arrow::Float32, false))
}

/// The field of a column; [`data_type_of`] reads its type back.
pub fn field(name: &str, data_type: &DataType, nullable: bool) -> Field {
    let field = Field::new(name, arrow_type(data_type), nullable);
    let needs_metadata = matches!(
        data_type,
        DataType::Text(Some(_))
            | DataType::Uuid
            | DataType::Jsonb
            | DataType::Vector(_)
            | DataType::Geometry(_)
            | DataType::Geography(_)
    );
    if !needs_metadata {
        return field;
    }
    field.with_metadata([(TYPE_KEY.to_owned(), data_type.spelling())].into())
}

/// The type of a field: from its metadata, else the natural one for its Arrow type.
/// XX000 for Arrow types that no SQL type travels as.
pub fn data_type_of(field: &Field) -> Result<DataType> {
    let spelling = field.metadata().get(TYPE_KEY);
    match spelling.and_then(|spelling| DataType::from_spelling(spelling)) {
        Some(data_type) => Ok(data_type),
        None => natural(field.data_type()),
    }
}

fn natural(arrow: &Arrow) -> Result<DataType> {
    Ok(match arrow {
        Arrow::Boolean => DataType::Bool,
        Arrow::Int8 | Arrow::UInt8 | Arrow::Int16 => DataType::Int2,
        Arrow::UInt16 | Arrow::Int32 => DataType::Int4,
        Arrow::UInt32 | Arrow::Int64 | Arrow::UInt64 => DataType::Int8,
        Arrow::Float32 => DataType::Float4,
        Arrow::Float64 => DataType::Float8,
        Arrow::Decimal128(precision, scale) | Arrow::Decimal256(precision, scale)
            if (1..=DIGITS_MAX).contains(precision) && (0..=*precision as i8).contains(scale) =>
        {
            DataType::Numeric(Some((*precision, *scale as u8)))
        }
        Arrow::Decimal128(..) | Arrow::Decimal256(..) => DataType::Numeric(None),
        Arrow::Utf8 | Arrow::LargeUtf8 | Arrow::Utf8View | Arrow::Null => DataType::Text(None),
        Arrow::Binary | Arrow::LargeBinary | Arrow::BinaryView => DataType::Bytea,
        Arrow::FixedSizeBinary(16) => DataType::Uuid,
        Arrow::Date32 => DataType::Date,
        Arrow::Timestamp(_, None) => DataType::Timestamp,
        Arrow::Timestamp(_, Some(_)) => DataType::TimestampTz,
        Arrow::Interval(_) | Arrow::Duration(_) => DataType::Interval,
        Arrow::FixedSizeList(item, n) if *item.data_type() == Arrow::Float32 => {
            DataType::Vector(u16::try_from(*n).ok())
        }
        Arrow::List(item) if *item.data_type() == Arrow::Float32 => DataType::Vector(None),
        Arrow::Dictionary(_, values) => return natural(values),
        other => return Err(Failure::internal(format!("no SQL type travels as {other}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::ALL_TYPES;

    #[test]
    fn fields_tell_every_type() {
        for data_type in ALL_TYPES {
            let field = field("c", &data_type, true);
            assert_eq!(data_type_of(&field).unwrap(), data_type, "{field}");
        }
    }

    #[test]
    fn plain_arrow_types_have_a_natural_type() {
        for (arrow, data_type) in [
            (Arrow::UInt64, DataType::Int8),
            (Arrow::Utf8View, DataType::Text(None)),
            (Arrow::Null, DataType::Text(None)),
            (Arrow::Decimal128(38, 10), DataType::Numeric(Some((38, 10)))),
            (Arrow::Decimal128(5, -2), DataType::Numeric(None)),
            (Arrow::Decimal256(50, 4), DataType::Numeric(None)),
            (
                Arrow::Dictionary(Box::new(Arrow::Int32), Box::new(Arrow::LargeUtf8)),
                DataType::Text(None),
            ),
            (
                Arrow::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into())),
                DataType::TimestampTz,
            ),
        ] {
            let field = Field::new("c", arrow, true);
            assert_eq!(data_type_of(&field).unwrap(), data_type);
        }
        let list = Field::new("c", Arrow::new_list(Arrow::Int32, true), true);
        assert_eq!(data_type_of(&list).unwrap_err().code().code(), "XX000");
    }
}
