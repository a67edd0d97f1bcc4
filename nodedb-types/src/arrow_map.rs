//! Values and types as Arrow arrays: how rows travel between planes and through expressions.
//!
//! | type | Arrow | metadata |
//! |---|---|---|
//! | bool, int2/4/8, float4/8 | Boolean, Int16/32/64, Float32/64 | |
//! | numeric(p, s) | Decimal128(p, s) | |
//! | numeric | Decimal256(76, 38); the display scale is lost, zeros at the end are not printed | |
//! | text | Utf8 | `varchar(n)` only |
//! | bytea | Binary | |
//! | uuid | FixedSizeBinary(16) | yes |
//! | date, timestamp, timestamptz | Date32, Timestamp(µs), Timestamp(µs, UTC) | |
//! | interval | Interval(MonthDayNano) | |
//! | jsonb | Utf8, canonical text | yes |
//! | vector(n), vector | FixedSizeList(Float32, n), List(Float32) | yes |
//! | geometry, geography | Binary, EWKB | yes |
//!
//! Where Arrow cannot tell a type from another, the field's metadata carries it under [`TYPE_KEY`].

use std::sync::Arc;

use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type,
    Int16Type, Int32Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
    TimestampMicrosecondType,
};
use arrow::array::{
    Array, ArrayBuilder, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder,
    FixedSizeListBuilder, Float32Builder, ListBuilder, PrimitiveBuilder, RecordBatch,
    RecordBatchOptions, StringBuilder,
};
use arrow::datatypes::{DataType as Arrow, Field, IntervalUnit, Schema, SchemaRef, TimeUnit, i256};

use crate::datetime::Interval;
use crate::numeric::Numeric;
use crate::row::ValueRef;
use crate::value::{DataType, Value};
use crate::{Failure, Result, SqlState};

/// Key of the field metadata that carries a type's spelling.
pub const TYPE_KEY: &str = "nodedb.type";

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
        DataType::Numeric(None) => Arrow::Decimal256(76, 38),
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

fn item() -> Arc<Field> {
    Arc::new(Field::new("item", Arrow::Float32, false))
}

/// The field of a column; inverse of [`data_type_of`].
pub fn field(name: &str, data_type: &DataType, nullable: bool) -> Field {
    let field = Field::new(name, arrow_type(data_type), nullable);
    let told_by_arrow = !matches!(
        data_type,
        DataType::Text(Some(_))
            | DataType::Uuid
            | DataType::Jsonb
            | DataType::Vector(_)
            | DataType::Geometry(_)
            | DataType::Geography(_)
    );
    if told_by_arrow {
        return field;
    }
    field.with_metadata([(TYPE_KEY.to_owned(), data_type.spelling())].into())
}

/// The type of a field: from its metadata, else the natural one for its Arrow type.
/// Fails with XX000 for Arrow types that no SQL type travels as.
pub fn data_type_of(field: &Field) -> Result<DataType> {
    if let Some(told) = field.metadata().get(TYPE_KEY).and_then(|s| DataType::from_spelling(s)) {
        return Ok(told);
    }
    Ok(match field.data_type() {
        Arrow::Boolean => DataType::Bool,
        Arrow::Int8 | Arrow::UInt8 | Arrow::Int16 => DataType::Int2,
        Arrow::UInt16 | Arrow::Int32 => DataType::Int4,
        Arrow::UInt32 | Arrow::Int64 | Arrow::UInt64 => DataType::Int8,
        Arrow::Float16 | Arrow::Float32 => DataType::Float4,
        Arrow::Float64 => DataType::Float8,
        Arrow::Decimal128(precision, scale) | Arrow::Decimal256(precision, scale)
            if *precision <= 38 && *scale >= 0 =>
        {
            DataType::Numeric(Some((*precision, *scale as u8)))
        }
        Arrow::Decimal32(..) | Arrow::Decimal64(..) | Arrow::Decimal128(..) | Arrow::Decimal256(..) => {
            DataType::Numeric(None)
        }
        Arrow::Utf8 | Arrow::LargeUtf8 | Arrow::Utf8View | Arrow::Null => DataType::Text(None),
        Arrow::Binary | Arrow::LargeBinary | Arrow::BinaryView => DataType::Bytea,
        Arrow::FixedSizeBinary(16) => DataType::Uuid,
        Arrow::Date32 | Arrow::Date64 => DataType::Date,
        Arrow::Timestamp(_, None) => DataType::Timestamp,
        Arrow::Timestamp(_, Some(_)) => DataType::TimestampTz,
        Arrow::Interval(_) | Arrow::Duration(_) => DataType::Interval,
        Arrow::FixedSizeList(item, n) if *item.data_type() == Arrow::Float32 => {
            DataType::Vector(u16::try_from(*n).ok())
        }
        Arrow::List(item) if *item.data_type() == Arrow::Float32 => DataType::Vector(None),
        Arrow::Dictionary(_, values) => {
            return data_type_of(&Field::new(field.name(), values.as_ref().clone(), true));
        }
        other => return Err(Failure::internal(format!("no SQL type travels as {other}"))),
    })
}

/// Builds a batch row by row, one typed builder per column.
pub struct BatchBuilder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    bytes: usize,
    rows: usize,
}

enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int2(PrimitiveBuilder<Int16Type>),
    Int4(PrimitiveBuilder<Int32Type>),
    Int8(PrimitiveBuilder<Int64Type>),
    Float4(PrimitiveBuilder<Float32Type>),
    Float8(PrimitiveBuilder<Float64Type>),
    Decimal128(PrimitiveBuilder<Decimal128Type>, u8, u8),
    Decimal256(PrimitiveBuilder<Decimal256Type>),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Uuid(FixedSizeBinaryBuilder),
    Date(PrimitiveBuilder<Date32Type>),
    Timestamp(PrimitiveBuilder<TimestampMicrosecondType>),
    Interval(PrimitiveBuilder<IntervalMonthDayNanoType>),
    FixedVector(FixedSizeListBuilder<Float32Builder>, usize),
    Vector(ListBuilder<Float32Builder>),
}

impl ColumnBuilder {
    fn new(data_type: &DataType) -> ColumnBuilder {
        let arrow = arrow_type(data_type);
        match data_type {
            DataType::Bool => ColumnBuilder::Bool(BooleanBuilder::new()),
            DataType::Int2 => ColumnBuilder::Int2(PrimitiveBuilder::new()),
            DataType::Int4 => ColumnBuilder::Int4(PrimitiveBuilder::new()),
            DataType::Int8 => ColumnBuilder::Int8(PrimitiveBuilder::new()),
            DataType::Float4 => ColumnBuilder::Float4(PrimitiveBuilder::new()),
            DataType::Float8 => ColumnBuilder::Float8(PrimitiveBuilder::new()),
            DataType::Numeric(Some((precision, scale))) => ColumnBuilder::Decimal128(
                PrimitiveBuilder::new().with_data_type(arrow),
                *precision,
                *scale,
            ),
            DataType::Numeric(None) => {
                ColumnBuilder::Decimal256(PrimitiveBuilder::new().with_data_type(arrow))
            }
            DataType::Text(_) | DataType::Jsonb => ColumnBuilder::Text(StringBuilder::new()),
            DataType::Bytea | DataType::Geometry(_) | DataType::Geography(_) => {
                ColumnBuilder::Bytes(BinaryBuilder::new())
            }
            DataType::Uuid => ColumnBuilder::Uuid(FixedSizeBinaryBuilder::new(16)),
            DataType::Date => ColumnBuilder::Date(PrimitiveBuilder::new()),
            DataType::Timestamp | DataType::TimestampTz => {
                ColumnBuilder::Timestamp(PrimitiveBuilder::new().with_data_type(arrow))
            }
            DataType::Interval => ColumnBuilder::Interval(PrimitiveBuilder::new()),
            DataType::Vector(Some(n)) => ColumnBuilder::FixedVector(
                FixedSizeListBuilder::new(Float32Builder::new(), i32::from(*n)).with_field(item()),
                usize::from(*n),
            ),
            DataType::Vector(None) => {
                ColumnBuilder::Vector(ListBuilder::new(Float32Builder::new()).with_field(item()))
            }
        }
    }

    fn push_null(&mut self) {
        match self {
            ColumnBuilder::Bool(b) => b.append_null(),
            ColumnBuilder::Int2(b) => b.append_null(),
            ColumnBuilder::Int4(b) => b.append_null(),
            ColumnBuilder::Int8(b) => b.append_null(),
            ColumnBuilder::Float4(b) => b.append_null(),
            ColumnBuilder::Float8(b) => b.append_null(),
            ColumnBuilder::Decimal128(b, ..) => b.append_null(),
            ColumnBuilder::Decimal256(b) => b.append_null(),
            ColumnBuilder::Text(b) => b.append_null(),
            ColumnBuilder::Bytes(b) => b.append_null(),
            ColumnBuilder::Uuid(b) => b.append_null(),
            ColumnBuilder::Date(b) => b.append_null(),
            ColumnBuilder::Timestamp(b) => b.append_null(),
            ColumnBuilder::Interval(b) => b.append_null(),
            ColumnBuilder::FixedVector(b, n) => {
                // A null list of fixed size still takes its room in the items.
                for _ in 0..*n {
                    b.values().append_value(0.0);
                }
                b.append(false);
            }
            ColumnBuilder::Vector(b) => b.append(false),
        }
    }

    /// Appends a cell; gives its bytes, or fails with XX000 when it is of another type.
    fn push(&mut self, value: ValueRef<'_>) -> Result<usize> {
        match (self, value) {
            (column, ValueRef::Null) => {
                column.push_null();
                return Ok(1);
            }
            (ColumnBuilder::Bool(b), ValueRef::Bool(v)) => b.append_value(v),
            (ColumnBuilder::Int2(b), ValueRef::Int2(v)) => b.append_value(v),
            (ColumnBuilder::Int4(b), ValueRef::Int4(v)) => b.append_value(v),
            (ColumnBuilder::Int8(b), ValueRef::Int8(v)) => b.append_value(v),
            (ColumnBuilder::Float4(b), ValueRef::Float4(v)) => b.append_value(v),
            (ColumnBuilder::Float8(b), ValueRef::Float8(v)) => b.append_value(v),
            (ColumnBuilder::Decimal128(b, precision, scale), ValueRef::Numeric(v)) => {
                b.append_value(v.rescale(*precision, *scale)?.unscaled());
            }
            (ColumnBuilder::Decimal256(b), ValueRef::Numeric(v)) => b.append_value(v.to_decimal256()),
            (ColumnBuilder::Text(b), ValueRef::Text(v) | ValueRef::Jsonb(v)) => {
                b.append_value(v);
                return Ok(v.len() + 4);
            }
            (
                ColumnBuilder::Bytes(b),
                ValueRef::Bytea(v) | ValueRef::Geometry(v) | ValueRef::Geography(v),
            ) => {
                b.append_value(v);
                return Ok(v.len() + 4);
            }
            (ColumnBuilder::Uuid(b), ValueRef::Uuid(v)) => {
                b.append_value(v).map_err(|e| Failure::internal(e.to_string()))?;
            }
            (ColumnBuilder::Date(b), ValueRef::Date(v)) => b.append_value(v),
            (
                ColumnBuilder::Timestamp(b),
                ValueRef::Timestamp(v) | ValueRef::TimestampTz(v),
            ) => b.append_value(v),
            (ColumnBuilder::Interval(b), ValueRef::Interval(v)) => {
                b.append_value(interval_to_arrow(v)?);
            }
            (ColumnBuilder::FixedVector(b, n), ValueRef::Vector(v)) if v.len() == *n => {
                v.iter().for_each(|x| b.values().append_value(x));
                b.append(true);
                return Ok(*n * 4);
            }
            (ColumnBuilder::Vector(b), ValueRef::Vector(v)) => {
                v.iter().for_each(|x| b.values().append_value(x));
                b.append(true);
                return Ok(v.len() * 4 + 4);
            }
            (_, other) => {
                return Err(Failure::internal(format!(
                    "a column was given a value of another type: {:?}",
                    other.to_owned().data_type_hint()
                )));
            }
        }
        Ok(8)
    }

    fn finish(&mut self) -> ArrayRef {
        let builder: &mut dyn ArrayBuilder = match self {
            ColumnBuilder::Bool(b) => b,
            ColumnBuilder::Int2(b) => b,
            ColumnBuilder::Int4(b) => b,
            ColumnBuilder::Int8(b) => b,
            ColumnBuilder::Float4(b) => b,
            ColumnBuilder::Float8(b) => b,
            ColumnBuilder::Decimal128(b, ..) => b,
            ColumnBuilder::Decimal256(b) => b,
            ColumnBuilder::Text(b) => b,
            ColumnBuilder::Bytes(b) => b,
            ColumnBuilder::Uuid(b) => b,
            ColumnBuilder::Date(b) => b,
            ColumnBuilder::Timestamp(b) => b,
            ColumnBuilder::Interval(b) => b,
            ColumnBuilder::FixedVector(b, _) => b,
            ColumnBuilder::Vector(b) => b,
        };
        builder.finish()
    }
}

impl BatchBuilder {
    /// One builder per column, all of them nullable.
    pub fn new(columns: &[(String, DataType)]) -> BatchBuilder {
        let fields: Vec<Field> = columns.iter().map(|(name, ty)| field(name, ty, true)).collect();
        BatchBuilder {
            schema: Arc::new(Schema::new(fields)),
            columns: columns.iter().map(|(_, ty)| ColumnBuilder::new(ty)).collect(),
            bytes: 0,
            rows: 0,
        }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Appends the next row's cell of column `column`. The caller appends every column once a row
    /// and then calls [`BatchBuilder::end_row`].
    pub fn push(&mut self, column: usize, value: ValueRef<'_>) -> Result<()> {
        self.bytes += self.columns[column].push(value)?;
        Ok(())
    }

    /// [`BatchBuilder::push`] of an owned value.
    pub fn push_value(&mut self, column: usize, value: &Value) -> Result<()> {
        // Vectors are stored as bytes, so an owned one is written through its builder directly.
        if let Value::Vector(v) = value {
            match &mut self.columns[column] {
                ColumnBuilder::FixedVector(b, n) if v.len() == *n => {
                    b.values().append_slice(v);
                    b.append(true);
                }
                ColumnBuilder::Vector(b) => {
                    b.values().append_slice(v);
                    b.append(true);
                }
                _ => return Err(Failure::internal("a vector of another dimension for its column")),
            }
            self.bytes += v.len() * 4;
            return Ok(());
        }
        self.push(column, borrow(value))
    }

    pub fn end_row(&mut self) {
        self.rows += 1;
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the cells so far, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The batch; the builder is empty afterwards and can be used again.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        let arrays: Vec<ArrayRef> = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.bytes = 0;
        self.rows = 0;
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map_err(|e| Failure::internal(e.to_string()))
    }
}

/// Everything but a vector, which has no borrowed form from `f32`s.
fn borrow(value: &Value) -> ValueRef<'_> {
    match value {
        Value::Null | Value::Vector(_) => ValueRef::Null,
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
        Value::Geometry(v) => ValueRef::Geometry(v),
        Value::Geography(v) => ValueRef::Geography(v),
    }
}

fn interval_to_arrow(v: Interval) -> Result<IntervalMonthDayNano> {
    let nanos = v.micros.checked_mul(NANOS_PER_MICRO).ok_or_else(|| {
        Failure::new(SqlState::DatetimeOverflow, "interval out of range")
    })?;
    Ok(IntervalMonthDayNano::new(v.months, v.days, nanos))
}

/// Reads one cell back as a value of `data_type`, which is what [`data_type_of`] tells of the
/// array's field. Fails with XX000 when the array cannot hold that type.
pub fn value_at(array: &dyn Array, row: usize, data_type: &DataType) -> Result<Value> {
    if array.is_null(row) || *array.data_type() == Arrow::Null {
        return Ok(Value::Null);
    }
    if let Arrow::Dictionary(..) = array.data_type() {
        let dictionary = array.as_any_dictionary();
        let key = dictionary.normalized_keys()[row];
        return value_at(dictionary.values().as_ref(), key, data_type);
    }
    match data_type {
        DataType::Bool => Ok(Value::Bool(array.as_boolean().value(row))),
        DataType::Int2 => Ok(Value::Int2(integer(array, row)? as i16)),
        DataType::Int4 => Ok(Value::Int4(integer(array, row)? as i32)),
        DataType::Int8 => Ok(Value::Int8(integer(array, row)?)),
        DataType::Float4 => Ok(Value::Float4(primitive::<Float32Type>(array, row)?)),
        DataType::Float8 => Ok(Value::Float8(primitive::<Float64Type>(array, row)?)),
        DataType::Numeric(declared) => numeric(array, row, declared.is_some()).map(Value::Numeric),
        DataType::Text(_) => Ok(Value::Text(text(array, row)?.to_owned())),
        DataType::Jsonb => Ok(Value::Jsonb(text(array, row)?.to_owned())),
        DataType::Bytea => Ok(Value::Bytea(bytes(array, row)?.to_vec())),
        DataType::Geometry(_) => Ok(Value::Geometry(bytes(array, row)?.to_vec())),
        DataType::Geography(_) => Ok(Value::Geography(bytes(array, row)?.to_vec())),
        DataType::Uuid => bytes(array, row)?
            .try_into()
            .map(Value::Uuid)
            .map_err(|_| mismatch(array, "uuid")),
        DataType::Date => Ok(Value::Date(primitive::<Date32Type>(array, row)?)),
        DataType::Timestamp => timestamp(array, row).map(Value::Timestamp),
        DataType::TimestampTz => timestamp(array, row).map(Value::TimestampTz),
        DataType::Interval => {
            let v = primitive::<IntervalMonthDayNanoType>(array, row)?;
            let micros = v.nanoseconds / NANOS_PER_MICRO;
            Ok(Value::Interval(Interval { months: v.months, days: v.days, micros }))
        }
        DataType::Vector(_) => {
            let items = match array.data_type() {
                Arrow::FixedSizeList(..) => array.as_fixed_size_list().value(row),
                Arrow::List(_) => array.as_list::<i32>().value(row),
                _ => return Err(mismatch(array, "vector")),
            };
            let items = items.as_primitive_opt::<Float32Type>();
            items.map(|v| Value::Vector(v.values().to_vec())).ok_or_else(|| mismatch(array, "vector"))
        }
    }
}

fn mismatch(array: &dyn Array, wanted: &str) -> Failure {
    Failure::internal(format!("{} does not hold {wanted}", array.data_type()))
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> Result<T::Native> {
    let typed = array.as_primitive_opt::<T>();
    typed.map(|a| a.value(row)).ok_or_else(|| mismatch(array, &T::DATA_TYPE.to_string()))
}

fn integer(array: &dyn Array, row: usize) -> Result<i64> {
    use arrow::array::types::{Int8Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};
    Ok(match array.data_type() {
        Arrow::Int8 => primitive::<Int8Type>(array, row)?.into(),
        Arrow::Int16 => primitive::<Int16Type>(array, row)?.into(),
        Arrow::Int32 => primitive::<Int32Type>(array, row)?.into(),
        Arrow::UInt8 => primitive::<UInt8Type>(array, row)?.into(),
        Arrow::UInt16 => primitive::<UInt16Type>(array, row)?.into(),
        Arrow::UInt32 => primitive::<UInt32Type>(array, row)?.into(),
        Arrow::UInt64 => i64::try_from(primitive::<UInt64Type>(array, row)?).map_err(|_| {
            Failure::new(SqlState::NumericOutOfRange, "bigint out of range")
        })?,
        _ => primitive::<Int64Type>(array, row)?,
    })
}

fn numeric(array: &dyn Array, row: usize, declared: bool) -> Result<Numeric> {
    let value = match array.data_type() {
        Arrow::Decimal128(_, scale) => {
            let unscaled = primitive::<Decimal128Type>(array, row)?;
            Numeric::from_decimal256(i256::from_i128(unscaled), *scale)?
        }
        Arrow::Decimal256(_, scale) => {
            Numeric::from_decimal256(primitive::<Decimal256Type>(array, row)?, *scale)?
        }
        _ => Numeric::from_i64(integer(array, row)?),
    };
    Ok(if declared { value } else { value.normalized() })
}

/// The text of a cell of any of Arrow's string arrays.
pub fn text(array: &dyn Array, row: usize) -> Result<&str> {
    Ok(match array.data_type() {
        Arrow::Utf8 => array.as_string::<i32>().value(row),
        Arrow::LargeUtf8 => array.as_string::<i64>().value(row),
        Arrow::Utf8View => array.as_string_view().value(row),
        _ => return Err(mismatch(array, "text")),
    })
}

/// The bytes of a cell of any of Arrow's binary arrays.
pub fn bytes(array: &dyn Array, row: usize) -> Result<&[u8]> {
    Ok(match array.data_type() {
        Arrow::Binary => array.as_binary::<i32>().value(row),
        Arrow::LargeBinary => array.as_binary::<i64>().value(row),
        Arrow::BinaryView => array.as_binary_view().value(row),
        Arrow::FixedSizeBinary(_) => array.as_fixed_size_binary().value(row),
        _ => return Err(mismatch(array, "bytes")),
    })
}

/// Microseconds, whatever the array's unit.
fn timestamp(array: &dyn Array, row: usize) -> Result<i64> {
    use arrow::array::types::{
        TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    };
    let overflow = || Failure::new(SqlState::DatetimeOverflow, "timestamp out of range");
    match array.data_type() {
        Arrow::Timestamp(TimeUnit::Second, _) => {
            primitive::<TimestampSecondType>(array, row)?.checked_mul(1_000_000).ok_or_else(overflow)
        }
        Arrow::Timestamp(TimeUnit::Millisecond, _) => {
            primitive::<TimestampMillisecondType>(array, row)?.checked_mul(1000).ok_or_else(overflow)
        }
        Arrow::Timestamp(TimeUnit::Nanosecond, _) => {
            Ok(primitive::<TimestampNanosecondType>(array, row)?.div_euclid(NANOS_PER_MICRO))
        }
        _ => primitive::<TimestampMicrosecondType>(array, row),
    }
}
