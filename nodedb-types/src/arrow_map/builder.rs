//! Builds record batches row by row, one typed builder per column.

use std::sync::Arc;

use arrow::array::types::{
    Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, TimestampMicrosecondType,
};
use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder,
    FixedSizeListBuilder, Float32Builder, ListBuilder, PrimitiveBuilder, RecordBatch,
    RecordBatchOptions, StringBuilder,
};
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::{NANOS_PER_MICRO, arrow_type, field, item};
use crate::datetime::Interval;
use crate::failure::{Failure, Result};
use crate::row::ValueRef;
use crate::sqlstate::SqlState;
use crate::value::{DataType, Value, one_nan_f32, one_nan_f64};

/// Collects rows into a [`RecordBatch`] of nullable columns.
///
/// Every column gets one cell per row, in any order, and [`BatchBuilder::end_row`] closes the row.
pub struct BatchBuilder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    bytes: usize,
    rows: usize,
}

impl BatchBuilder {
    /// One builder per named column.
    pub fn new(columns: &[(String, DataType)]) -> BatchBuilder {
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, t)| field(name, t, true))
            .collect();
        BatchBuilder {
            schema: Arc::new(Schema::new(fields)),
            columns: columns.iter().map(|(_, t)| ColumnBuilder::new(t)).collect(),
            bytes: 0,
            rows: 0,
        }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Appends the open row's cell of column `column`. XX000 when the value is of another type
    /// than the column, 22003 and 22008 when Arrow's form cannot hold it.
    pub fn push(&mut self, column: usize, value: ValueRef<'_>) -> Result<()> {
        self.bytes += self.columns[column].push(value)?;
        Ok(())
    }

    /// [`BatchBuilder::push`] of an owned value.
    pub fn push_value(&mut self, column: usize, value: &Value) -> Result<()> {
        self.push(column, ValueRef::from(value))
    }

    /// Closes the row.
    pub fn end_row(&mut self) {
        self.rows += 1;
    }

    /// Rows closed.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// About how many bytes the cells take in the batch.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The batch; the builder is empty afterwards and can be used again. XX000 when a column has
    /// not one cell per row.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        let arrays: Vec<ArrayRef> = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.bytes = 0;
        self.rows = 0;
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map_err(|error| Failure::internal(format!("rows do not make a batch: {error}")))
    }
}

/// Rows that a new column has room for. Arrow's own builders begin with room for 1024, which for
/// the one row of a read by key costs more than the row.
const ROWS: usize = 8;
/// Bytes that a new column of texts has room for.
const BYTES: usize = 256;

enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int2(PrimitiveBuilder<Int16Type>),
    Int4(PrimitiveBuilder<Int32Type>),
    Int8(PrimitiveBuilder<Int64Type>),
    Float4(PrimitiveBuilder<Float32Type>),
    Float8(PrimitiveBuilder<Float64Type>),
    /// With precision and scale.
    Decimal(PrimitiveBuilder<Decimal128Type>, u8, u8),
    OpenDecimal(PrimitiveBuilder<Decimal256Type>),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Uuid(FixedSizeBinaryBuilder),
    Date(PrimitiveBuilder<Date32Type>),
    Timestamp(PrimitiveBuilder<TimestampMicrosecondType>),
    Interval(PrimitiveBuilder<IntervalMonthDayNanoType>),
    /// With its dimensions.
    Vector(FixedSizeListBuilder<Float32Builder>, usize),
    OpenVector(ListBuilder<Float32Builder>),
}

impl ColumnBuilder {
    fn new(data_type: &DataType) -> ColumnBuilder {
        let arrow = arrow_type(data_type);
        match data_type {
            DataType::Bool => ColumnBuilder::Bool(BooleanBuilder::with_capacity(ROWS)),
            DataType::Int2 => ColumnBuilder::Int2(PrimitiveBuilder::with_capacity(ROWS)),
            DataType::Int4 => ColumnBuilder::Int4(PrimitiveBuilder::with_capacity(ROWS)),
            DataType::Int8 => ColumnBuilder::Int8(PrimitiveBuilder::with_capacity(ROWS)),
            DataType::Float4 => ColumnBuilder::Float4(PrimitiveBuilder::with_capacity(ROWS)),
            DataType::Float8 => ColumnBuilder::Float8(PrimitiveBuilder::with_capacity(ROWS)),
            DataType::Numeric(Some((precision, scale))) => ColumnBuilder::Decimal(
                PrimitiveBuilder::with_capacity(ROWS).with_data_type(arrow),
                *precision,
                *scale,
            ),
            DataType::Numeric(None) => ColumnBuilder::OpenDecimal(
                PrimitiveBuilder::with_capacity(ROWS).with_data_type(arrow),
            ),
            DataType::Text(_) | DataType::Jsonb => {
                ColumnBuilder::Text(StringBuilder::with_capacity(ROWS, BYTES))
            }
            DataType::Bytea | DataType::Geometry(_) | DataType::Geography(_) => {
                ColumnBuilder::Bytes(BinaryBuilder::with_capacity(ROWS, BYTES))
            }
            DataType::Uuid => ColumnBuilder::Uuid(FixedSizeBinaryBuilder::with_capacity(ROWS, 16)),
            DataType::Date => ColumnBuilder::Date(PrimitiveBuilder::with_capacity(ROWS)),
            DataType::Timestamp | DataType::TimestampTz => ColumnBuilder::Timestamp(
                PrimitiveBuilder::with_capacity(ROWS).with_data_type(arrow),
            ),
            DataType::Interval => ColumnBuilder::Interval(PrimitiveBuilder::with_capacity(ROWS)),
            DataType::Vector(Some(n)) => {
                let elements = Float32Builder::with_capacity(usize::from(*n));
                let lists = FixedSizeListBuilder::with_capacity(elements, i32::from(*n), ROWS);
                let lists = lists.with_field(item());
                ColumnBuilder::Vector(lists, usize::from(*n))
            }
            DataType::Vector(None) => {
                let lists = ListBuilder::with_capacity(Float32Builder::with_capacity(0), ROWS);
                let lists = lists.with_field(item());
                ColumnBuilder::OpenVector(lists)
            }
        }
    }

    /// Appends NULL; gives the bytes it takes.
    fn push_null(&mut self) -> usize {
        match self {
            ColumnBuilder::Vector(lists, n) => {
                // A NULL of fixed size has its room among the elements, which are never NULL.
                lists.values().append_value_n(0.0, *n);
                lists.append(false);
                *n * size_of::<f32>()
            }
            ColumnBuilder::OpenVector(lists) => {
                lists.append(false);
                size_of::<i32>()
            }
            ColumnBuilder::Bool(b) => null(b, BooleanBuilder::append_null, 1),
            ColumnBuilder::Int2(b) => null(b, PrimitiveBuilder::append_null, 2),
            ColumnBuilder::Int4(b) => null(b, PrimitiveBuilder::append_null, 4),
            ColumnBuilder::Int8(b) => null(b, PrimitiveBuilder::append_null, 8),
            ColumnBuilder::Float4(b) => null(b, PrimitiveBuilder::append_null, 4),
            ColumnBuilder::Float8(b) => null(b, PrimitiveBuilder::append_null, 8),
            ColumnBuilder::Decimal(b, ..) => null(b, PrimitiveBuilder::append_null, 16),
            ColumnBuilder::OpenDecimal(b) => null(b, PrimitiveBuilder::append_null, 32),
            ColumnBuilder::Text(b) => null(b, StringBuilder::append_null, 4),
            ColumnBuilder::Bytes(b) => null(b, BinaryBuilder::append_null, 4),
            ColumnBuilder::Uuid(b) => null(b, FixedSizeBinaryBuilder::append_null, 16),
            ColumnBuilder::Date(b) => null(b, PrimitiveBuilder::append_null, 4),
            ColumnBuilder::Timestamp(b) => null(b, PrimitiveBuilder::append_null, 8),
            ColumnBuilder::Interval(b) => null(b, PrimitiveBuilder::append_null, 16),
        }
    }

    /// Appends a cell; gives the bytes it takes.
    fn push(&mut self, value: ValueRef<'_>) -> Result<usize> {
        Ok(match (self, value) {
            (column, ValueRef::Null) => column.push_null(),
            (ColumnBuilder::Bool(b), ValueRef::Bool(v)) => {
                b.append_value(v);
                1
            }
            (ColumnBuilder::Int2(b), ValueRef::Int2(v)) => fixed(b, v),
            (ColumnBuilder::Int4(b), ValueRef::Int4(v)) => fixed(b, v),
            (ColumnBuilder::Int8(b), ValueRef::Int8(v)) => fixed(b, v),
            (ColumnBuilder::Float4(b), ValueRef::Float4(v)) => fixed(b, one_nan_f32(v)),
            (ColumnBuilder::Float8(b), ValueRef::Float8(v)) => fixed(b, one_nan_f64(v)),
            (ColumnBuilder::Decimal(b, precision, scale), ValueRef::Numeric(v)) => {
                fixed(b, v.rescale(*precision, *scale)?.unscaled)
            }
            (ColumnBuilder::OpenDecimal(b), ValueRef::Numeric(v)) => fixed(b, v.to_decimal256()),
            (ColumnBuilder::Text(b), ValueRef::Text(v) | ValueRef::Jsonb(v)) => {
                b.append_value(v);
                v.len() + size_of::<i32>()
            }
            (
                ColumnBuilder::Bytes(b),
                ValueRef::Bytea(v) | ValueRef::Geometry(v) | ValueRef::Geography(v),
            ) => {
                b.append_value(v);
                v.len() + size_of::<i32>()
            }
            (ColumnBuilder::Uuid(b), ValueRef::Uuid(v)) => {
                b.append_value(v).expect("the builder is for 16 bytes");
                v.len()
            }
            (ColumnBuilder::Date(b), ValueRef::Date(v)) => fixed(b, v),
            (ColumnBuilder::Timestamp(b), ValueRef::Timestamp(v) | ValueRef::TimestampTz(v)) => {
                fixed(b, v)
            }
            (ColumnBuilder::Interval(b), ValueRef::Interval(v)) => fixed(b, arrow_interval(v)?),
            (ColumnBuilder::Vector(lists, n), ValueRef::Vector(v)) if v.len() == *n => {
                v.iter().for_each(|x| lists.values().append_value(x));
                lists.append(true);
                v.bytes().len()
            }
            (ColumnBuilder::OpenVector(lists), ValueRef::Vector(v)) => {
                v.iter().for_each(|x| lists.values().append_value(x));
                lists.append(true);
                v.bytes().len() + size_of::<i32>()
            }
            (column, other) => {
                let found = other
                    .to_owned()
                    .data_type_hint()
                    .map_or("NULL".into(), |t| t.name());
                return Err(Failure::internal(format!(
                    "a value of type {found} for a column of {}",
                    column.name()
                )));
            }
        })
    }

    fn name(&self) -> &'static str {
        match self {
            ColumnBuilder::Bool(_) => "booleans",
            ColumnBuilder::Int2(_) | ColumnBuilder::Int4(_) | ColumnBuilder::Int8(_) => "integers",
            ColumnBuilder::Float4(_) | ColumnBuilder::Float8(_) => "floats",
            ColumnBuilder::Decimal(..) | ColumnBuilder::OpenDecimal(_) => "numerics",
            ColumnBuilder::Text(_) => "text",
            ColumnBuilder::Bytes(_) => "bytes",
            ColumnBuilder::Uuid(_) => "uuids",
            ColumnBuilder::Date(_) => "dates",
            ColumnBuilder::Timestamp(_) => "timestamps",
            ColumnBuilder::Interval(_) => "intervals",
            ColumnBuilder::Vector(..) | ColumnBuilder::OpenVector(_) => "vectors",
        }
    }

    fn finish(&mut self) -> ArrayRef {
        let builder: &mut dyn ArrayBuilder = match self {
            ColumnBuilder::Bool(b) => b,
            ColumnBuilder::Int2(b) => b,
            ColumnBuilder::Int4(b) => b,
            ColumnBuilder::Int8(b) => b,
            ColumnBuilder::Float4(b) => b,
            ColumnBuilder::Float8(b) => b,
            ColumnBuilder::Decimal(b, ..) => b,
            ColumnBuilder::OpenDecimal(b) => b,
            ColumnBuilder::Text(b) => b,
            ColumnBuilder::Bytes(b) => b,
            ColumnBuilder::Uuid(b) => b,
            ColumnBuilder::Date(b) => b,
            ColumnBuilder::Timestamp(b) => b,
            ColumnBuilder::Interval(b) => b,
            ColumnBuilder::Vector(b, _) => b,
            ColumnBuilder::OpenVector(b) => b,
        };
        builder.finish()
    }
}

fn null<B>(builder: &mut B, append: fn(&mut B), bytes: usize) -> usize {
    append(builder);
    bytes
}

fn fixed<T: arrow::array::types::ArrowPrimitiveType>(
    builder: &mut PrimitiveBuilder<T>,
    value: T::Native,
) -> usize {
    builder.append_value(value);
    size_of::<T::Native>()
}

fn arrow_interval(interval: Interval) -> Result<IntervalMonthDayNano> {
    let nanos = interval.micros.checked_mul(NANOS_PER_MICRO);
    let nanos =
        nanos.ok_or_else(|| Failure::new(SqlState::DatetimeOverflow, "interval out of range"))?;
    Ok(IntervalMonthDayNano::new(
        interval.months,
        interval.days,
        nanos,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrow_map::{data_type_of, value_at};
    use crate::numeric::Numeric;
    use crate::row::tests::any_value;
    use crate::value::ALL_TYPES;
    use proptest::prelude::*;

    fn columns(types: &[DataType]) -> Vec<(String, DataType)> {
        types
            .iter()
            .enumerate()
            .map(|(at, t)| (format!("c{at}"), *t))
            .collect()
    }

    /// A value as its column would store it.
    fn cell(data_type: DataType) -> BoxedStrategy<Value> {
        let fits = move |value: Value| match (value, data_type) {
            (Value::Vector(mut v), DataType::Vector(Some(n))) => {
                v.resize(usize::from(n), 0.5);
                Value::Vector(v)
            }
            (Value::Numeric(_), DataType::Numeric(Some(_))) => {
                Value::Numeric(Numeric::parse("-12345678.90").unwrap())
            }
            (Value::Interval(v), _) => Value::Interval(Interval {
                micros: v.micros / 1000,
                ..v
            }),
            (value, _) => value,
        };
        any_value(data_type).prop_map(fits).boxed()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn cells_come_back(rows in proptest::collection::vec(ALL_TYPES.map(cell), 0..4)) {
            let mut builder = BatchBuilder::new(&columns(&ALL_TYPES));
            for row in &rows {
                for (at, value) in row.iter().enumerate() {
                    builder.push_value(at, value).unwrap();
                }
                builder.end_row();
            }
            prop_assert_eq!(builder.rows(), rows.len());
            prop_assert_eq!(builder.bytes() > 0, !rows.is_empty());
            let batch = builder.finish().unwrap();
            prop_assert_eq!(batch.num_rows(), rows.len());
            prop_assert_eq!(builder.finish().unwrap().num_rows(), 0);
            for (at, field) in batch.schema().fields().iter().enumerate() {
                let data_type = data_type_of(field).unwrap();
                prop_assert_eq!(data_type, ALL_TYPES[at]);
                for (row, values) in rows.iter().enumerate() {
                    let back = value_at(batch.column(at), row, &data_type).unwrap();
                    let expected = match &values[at] {
                        Value::Numeric(v) if data_type == DataType::Numeric(None) => Value::Numeric(v.normalized()),
                        value => value.clone(),
                    };
                    prop_assert_eq!(format!("{back:?}"), format!("{expected:?}"));
                }
            }
        }
    }

    #[test]
    fn foreign_values_and_open_rows_are_refused() {
        let mut builder = BatchBuilder::new(&columns(&[DataType::Int8, DataType::Vector(Some(2))]));
        let failure = builder.push_value(0, &Value::Int4(1)).unwrap_err();
        assert_eq!(
            failure.message(),
            "a value of type integer for a column of integers"
        );
        assert!(builder.push_value(1, &Value::Vector(vec![1.0])).is_err());
        builder.push_value(0, &Value::Int8(1)).unwrap();
        builder.end_row();
        assert_eq!(builder.finish().unwrap_err().code().code(), "XX000");
        let long = Value::Interval(Interval {
            months: 0,
            days: 0,
            micros: i64::MAX,
        });
        let mut builder = BatchBuilder::new(&columns(&[DataType::Interval]));
        assert_eq!(
            builder.push_value(0, &long).unwrap_err().code().code(),
            "22008"
        );
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let mut builder = BatchBuilder::new(&[]);
        builder.end_row();
        builder.end_row();
        assert_eq!(builder.finish().unwrap().num_rows(), 2);
    }
}
