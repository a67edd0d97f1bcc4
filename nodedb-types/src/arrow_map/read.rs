//! Reads single cells of Arrow arrays back as values.

use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType,
    DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType,
    IntervalYearMonthType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType as Arrow, IntervalUnit, TimeUnit, i256};

use super::NANOS_PER_MICRO;
use crate::datetime::{DAY_US, Interval};
use crate::failure::{Failure, Result};
use crate::numeric::Numeric;
use crate::sqlstate::SqlState;
use crate::value::{DataType, Value};

/// Reads one cell as a value of `data_type`, which is what [`super::data_type_of`] tells of the
/// array's field. XX000 when the array cannot hold that type, 22003 and 22008 when the cell is
/// out of its range.
pub fn value_at(array: &dyn Array, row: usize, data_type: &DataType) -> Result<Value> {
    if *array.data_type() == Arrow::Null || array.is_null(row) {
        return Ok(Value::Null);
    }
    if let Some(dictionary) = array.as_any_dictionary_opt() {
        let key = usize::try_from(integer(dictionary.keys(), row)?);
        let key = key.map_err(|_| mismatch(array, "a key into its values"))?;
        return value_at(dictionary.values().as_ref(), key, data_type);
    }
    Ok(match data_type {
        DataType::Bool => match array.as_boolean_opt() {
            Some(booleans) => Value::Bool(booleans.value(row)),
            None => return Err(mismatch(array, "boolean")),
        },
        DataType::Int2 | DataType::Int4 | DataType::Int8 => {
            return Value::Int8(integer(array, row)?).coerce(data_type);
        }
        DataType::Float4 => Value::Float4(primitive::<Float32Type>(array, row)?),
        DataType::Float8 => Value::Float8(primitive::<Float64Type>(array, row)?),
        DataType::Numeric(size) => Value::Numeric(numeric(array, row, size.is_some())?),
        DataType::Text(_) => Value::Text(text(array, row)?.to_owned()),
        DataType::Jsonb => Value::Jsonb(text(array, row)?.to_owned()),
        DataType::Bytea => Value::Bytea(bytes(array, row)?.to_vec()),
        DataType::Geometry(_) => Value::Geometry(bytes(array, row)?.to_vec()),
        DataType::Geography(_) => Value::Geography(bytes(array, row)?.to_vec()),
        DataType::Uuid => {
            let uuid = bytes(array, row)?.try_into();
            Value::Uuid(uuid.map_err(|_| mismatch(array, "uuid"))?)
        }
        DataType::Date => Value::Date(primitive::<Date32Type>(array, row)?),
        DataType::Timestamp => Value::Timestamp(timestamp(array, row)?),
        DataType::TimestampTz => Value::TimestampTz(timestamp(array, row)?),
        DataType::Interval => Value::Interval(interval(array, row)?),
        DataType::Vector(_) => {
            let elements = match array.data_type() {
                Arrow::FixedSizeList(..) => array.as_fixed_size_list().value(row),
                Arrow::List(_) => array.as_list::<i32>().value(row),
                _ => return Err(mismatch(array, "vector")),
            };
            match elements.as_primitive_opt::<Float32Type>() {
                Some(elements) => Value::Vector(elements.values().to_vec()),
                None => return Err(mismatch(array, "vector")),
            }
        }
    })
}

/// The text of a cell of any of Arrow's string arrays; not for NULL.
pub fn text(array: &dyn Array, row: usize) -> Result<&str> {
    Ok(match array.data_type() {
        Arrow::Utf8 => array.as_string::<i32>().value(row),
        Arrow::LargeUtf8 => array.as_string::<i64>().value(row),
        Arrow::Utf8View => array.as_string_view().value(row),
        Arrow::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = usize::try_from(integer(dictionary.keys(), row)?);
            let key = key.map_err(|_| mismatch(array, "a key into its values"))?;
            text(dictionary.values().as_ref(), key)?
        }
        _ => return Err(mismatch(array, "text")),
    })
}

/// The bytes of a cell of any of Arrow's binary arrays; not for NULL.
pub fn bytes(array: &dyn Array, row: usize) -> Result<&[u8]> {
    Ok(match array.data_type() {
        Arrow::Binary => array.as_binary::<i32>().value(row),
        Arrow::LargeBinary => array.as_binary::<i64>().value(row),
        Arrow::BinaryView => array.as_binary_view().value(row),
        Arrow::FixedSizeBinary(_) => array.as_fixed_size_binary().value(row),
        _ => return Err(mismatch(array, "bytes")),
    })
}

fn mismatch(array: &dyn Array, wanted: &str) -> Failure {
    Failure::internal(format!(
        "an array of {} does not hold {wanted}",
        array.data_type()
    ))
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> Result<T::Native> {
    let typed = array.as_primitive_opt::<T>();
    typed
        .map(|a| a.value(row))
        .ok_or_else(|| mismatch(array, &T::DATA_TYPE.to_string()))
}

fn integer(array: &dyn Array, row: usize) -> Result<i64> {
    Ok(match array.data_type() {
        Arrow::Int8 => primitive::<Int8Type>(array, row)?.into(),
        Arrow::Int16 => primitive::<Int16Type>(array, row)?.into(),
        Arrow::Int32 => primitive::<Int32Type>(array, row)?.into(),
        Arrow::UInt8 => primitive::<UInt8Type>(array, row)?.into(),
        Arrow::UInt16 => primitive::<UInt16Type>(array, row)?.into(),
        Arrow::UInt32 => primitive::<UInt32Type>(array, row)?.into(),
        Arrow::UInt64 => {
            let value = i64::try_from(primitive::<UInt64Type>(array, row)?);
            let overflow = || Failure::new(SqlState::NumericOutOfRange, "bigint out of range");
            value.map_err(|_| overflow())?
        }
        _ => primitive::<Int64Type>(array, row)?,
    })
}

/// A declared scale is shown as it is; an open numeric loses the zeros that Arrow's scale added.
fn numeric(array: &dyn Array, row: usize, declared: bool) -> Result<Numeric> {
    let (unscaled, scale) = match array.data_type() {
        Arrow::Decimal128(_, scale) => (
            i256::from_i128(primitive::<Decimal128Type>(array, row)?),
            *scale,
        ),
        Arrow::Decimal256(_, scale) => (primitive::<Decimal256Type>(array, row)?, *scale),
        _ => return Ok(Numeric::from_i64(integer(array, row)?)),
    };
    if let (true, Some(narrow), Ok(scale)) = (declared, unscaled.to_i128(), u8::try_from(scale)) {
        return Numeric::new(narrow, scale);
    }
    Numeric::from_decimal256(unscaled, scale)
}

/// Microseconds, whatever the array's unit; finer units are rounded down.
fn timestamp(array: &dyn Array, row: usize) -> Result<i64> {
    let scaled = match array.data_type() {
        Arrow::Timestamp(TimeUnit::Second, _) => {
            primitive::<TimestampSecondType>(array, row)?.checked_mul(1_000_000)
        }
        Arrow::Timestamp(TimeUnit::Millisecond, _) => {
            primitive::<TimestampMillisecondType>(array, row)?.checked_mul(1_000)
        }
        Arrow::Timestamp(TimeUnit::Nanosecond, _) => {
            Some(primitive::<TimestampNanosecondType>(array, row)?.div_euclid(NANOS_PER_MICRO))
        }
        _ => Some(primitive::<TimestampMicrosecondType>(array, row)?),
    };
    scaled.ok_or_else(|| Failure::new(SqlState::DatetimeOverflow, "timestamp out of range"))
}

/// A duration, the difference of two timestamps, has whole days taken out as in PostgreSQL.
fn interval(array: &dyn Array, row: usize) -> Result<Interval> {
    let micros = match array.data_type() {
        Arrow::Interval(IntervalUnit::MonthDayNano) => {
            let v = primitive::<IntervalMonthDayNanoType>(array, row)?;
            let micros = v.nanoseconds / NANOS_PER_MICRO;
            return Ok(Interval {
                months: v.months,
                days: v.days,
                micros,
            });
        }
        Arrow::Interval(IntervalUnit::YearMonth) => {
            let months = primitive::<IntervalYearMonthType>(array, row)?;
            return Ok(Interval {
                months,
                ..Interval::default()
            });
        }
        Arrow::Interval(IntervalUnit::DayTime) => {
            let v = primitive::<IntervalDayTimeType>(array, row)?;
            let micros = i64::from(v.milliseconds) * 1_000;
            return Ok(Interval {
                months: 0,
                days: v.days,
                micros,
            });
        }
        Arrow::Duration(TimeUnit::Second) => {
            primitive::<DurationSecondType>(array, row)?.checked_mul(1_000_000)
        }
        Arrow::Duration(TimeUnit::Millisecond) => {
            primitive::<DurationMillisecondType>(array, row)?.checked_mul(1_000)
        }
        Arrow::Duration(TimeUnit::Microsecond) => {
            Some(primitive::<DurationMicrosecondType>(array, row)?)
        }
        Arrow::Duration(TimeUnit::Nanosecond) => {
            Some(primitive::<DurationNanosecondType>(array, row)? / NANOS_PER_MICRO)
        }
        _ => return Err(mismatch(array, "interval")),
    };
    let overflow = || Failure::new(SqlState::DatetimeOverflow, "interval out of range");
    let micros = micros.ok_or_else(overflow)?;
    let days = i32::try_from(micros / DAY_US).map_err(|_| overflow())?;
    Ok(Interval {
        months: 0,
        days,
        micros: micros % DAY_US,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        ArrayRef, Decimal128Array, DictionaryArray, DurationNanosecondArray, Int64Array,
        LargeStringArray, NullArray, StringArray, StringViewArray, TimestampSecondArray,
        UInt64Array,
    };
    use std::sync::Arc;

    #[test]
    fn other_engines_arrays_are_read() {
        let texts: [ArrayRef; 4] = [
            Arc::new(StringArray::from(vec!["a", "b"])),
            Arc::new(LargeStringArray::from(vec!["a", "b"])),
            Arc::new(StringViewArray::from(vec!["a", "b"])),
            Arc::new(
                ["a", "b"]
                    .into_iter()
                    .collect::<DictionaryArray<Int32Type>>(),
            ),
        ];
        for array in texts {
            let value = value_at(&array, 1, &DataType::Text(None)).unwrap();
            assert_eq!(value, Value::Text("b".into()));
            assert_eq!(text(&array, 0).unwrap(), "a");
        }
        let dictionary: DictionaryArray<Int32Type> = [Some("a"), None].into_iter().collect();
        assert_eq!(
            value_at(&dictionary, 1, &DataType::Text(None)).unwrap(),
            Value::Null
        );
        assert_eq!(
            value_at(&NullArray::new(1), 0, &DataType::Int8).unwrap(),
            Value::Null
        );
        let seconds = TimestampSecondArray::from(vec![-1, i64::MAX]);
        let stamp = value_at(&seconds, 0, &DataType::Timestamp).unwrap();
        assert_eq!(stamp, Value::Timestamp(-1_000_000));
        assert_eq!(code(value_at(&seconds, 1, &DataType::Timestamp)), "22008");
        let span = DurationNanosecondArray::from(vec![90_000 * 1_000_000_000]);
        let Value::Interval(v) = value_at(&span, 0, &DataType::Interval).unwrap() else {
            panic!("a duration is an interval");
        };
        assert_eq!((v.months, v.days, v.micros), (0, 1, 3_600_000_000));
    }

    fn code(result: Result<Value>) -> &'static str {
        result.unwrap_err().code().code()
    }

    #[test]
    fn numbers_keep_a_declared_scale_and_their_range() {
        let decimals = Decimal128Array::from(vec![1_500])
            .with_precision_and_scale(10, 3)
            .unwrap();
        let show = |size| {
            let mut out = String::new();
            let value = value_at(&decimals, 0, &DataType::Numeric(size)).unwrap();
            crate::text::format(&value, &mut out);
            out
        };
        assert_eq!(show(Some((10, 3))), "1.500");
        assert_eq!(show(None), "1.5");
        let big = UInt64Array::from(vec![u64::MAX, 7]);
        assert_eq!(code(value_at(&big, 0, &DataType::Int8)), "22003");
        assert_eq!(value_at(&big, 1, &DataType::Int2).unwrap(), Value::Int2(7));
        let wide = Int64Array::from(vec![1 << 40]);
        assert_eq!(code(value_at(&wide, 0, &DataType::Int4)), "22003");
        assert_eq!(code(value_at(&wide, 0, &DataType::Text(None))), "XX000");
    }
}
