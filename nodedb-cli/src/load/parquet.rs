//! Parquet: flat columns, and lists of floats as vectors.
//!
//! A value that the column cannot hold is an error, as its text would be: a number that is not
//! whole into an integer column, a moment into a date, nanoseconds into microseconds. Numbers are
//! rounded where the column's own type means that: to a float's precision, to the scale of a
//! `NUMERIC(p, s)`.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use arrow::array::types::{Float16Type, Float32Type, Float64Type, TimestampNanosecondType};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType as Arrow, Field, TimeUnit};
use nodedb_client::{Client, DataType, Failure, SqlState, Value};
use nodedb_types::numeric::Numeric;
use nodedb_types::{arrow_map, text};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;

use super::watch::Progress;
use super::{Loader, Rows};

/// Rows that are decoded at a stretch, in some four microseconds each: meanwhile others wait.
const BATCH_ROWS: usize = 16;
const DAY_US: i64 = 86_400_000_000;
const NANOS_PER_MICRO: i64 = 1_000;

/// Loads a Parquet file; gives the number of rows committed.
pub async fn parquet<R: ChunkReader + 'static>(
    client: &Client,
    source: R,
    collection: &str,
    progress: &Arc<Progress>,
) -> Result<u64> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(source)?;
    let total = u64::try_from(builder.metadata().file_metadata().num_rows()).ok();
    let fields = builder.schema().fields();
    let types = fields.iter().map(|f| own_type(f)).collect::<Result<_>>()?;
    let names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
    let loader = Loader::new(client, collection, &names, total, progress).await?;
    let batches = builder.with_batch_size(BATCH_ROWS).build()?;
    let mut rows = Batches {
        batches,
        types,
        batch: None,
        next: 0,
    };
    loader.load(&mut rows).await
}

/// The type that a column's values are read as; `None` for lists of numbers.
fn own_type(field: &Field) -> Result<Option<DataType>> {
    let unread = || {
        anyhow!(
            "column \"{}\": import does not read {}",
            field.name(),
            field.data_type()
        )
    };
    match field.data_type() {
        Arrow::FixedSizeList(item, _) | Arrow::List(item) | Arrow::LargeList(item) => {
            match item.data_type() {
                Arrow::Float16 | Arrow::Float32 | Arrow::Float64 => Ok(None),
                _ => Err(unread()),
            }
        }
        _ => arrow_map::data_type_of(field)
            .map(Some)
            .map_err(|_| unread()),
    }
}

struct Batches {
    batches: ParquetRecordBatchReader,
    /// Of the file's columns, as [`own_type`] has them.
    types: Vec<Option<DataType>>,
    batch: Option<RecordBatch>,
    /// The next row of the batch.
    next: usize,
}

impl Rows for Batches {
    fn next(&mut self, loader: &Loader<'_>) -> Result<Option<Vec<Value>>> {
        let batch = loop {
            match &self.batch {
                Some(batch) if self.next < batch.num_rows() => break batch,
                _ => {
                    let Some(batch) = self.batches.next() else {
                        return Ok(None);
                    };
                    let number = loader.row_number();
                    self.batch = Some(batch.map_err(|e| anyhow!("row {number}: {e}"))?);
                    self.next = 0;
                }
            }
        };
        let cell = |(at, own): (usize, &Option<DataType>)| {
            let column = batch.column(at);
            let value = match own {
                Some(own) => plain(column, self.next, own, loader.data_type(at)),
                None => vector(column, self.next),
            };
            value.map_err(|failure| loader.fault(at, &failure))
        };
        let values = self
            .types
            .iter()
            .enumerate()
            .map(cell)
            .collect::<Result<_>>()?;
        self.next += 1;
        Ok(Some(values))
    }
}

/// A cell of a flat column as the collection's column has it.
fn plain(array: &dyn Array, row: usize, own: &DataType, to: &DataType) -> Result<Value, Failure> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let below_micros = match array.data_type() {
        Arrow::Timestamp(TimeUnit::Nanosecond, _) => {
            let nanos = array.as_primitive::<TimestampNanosecondType>().value(row);
            nanos.rem_euclid(NANOS_PER_MICRO)
        }
        _ => 0,
    };
    if below_micros != 0 {
        let message = format!(
            "the time has {below_micros} nanoseconds, and type {} ends at microseconds",
            to.name()
        );
        return Err(Failure::new(SqlState::DatetimeOverflow, message));
    }
    exact(arrow_map::value_at(array, row, own)?, to)
}

/// A value as the column stores it. Text is cast; of other values nothing may be lost that a cast of
/// their text would keep or refuse.
fn exact(value: Value, to: &DataType) -> Result<Value, Failure> {
    let whole = match (&value, to) {
        (Value::Text(cell), to) => return text::parse(cell, to),
        (Value::Float4(v), DataType::Int2 | DataType::Int4 | DataType::Int8) => v.fract() == 0.0,
        (Value::Float8(v), DataType::Int2 | DataType::Int4 | DataType::Int8) => v.fract() == 0.0,
        (Value::Numeric(v), DataType::Int2 | DataType::Int4 | DataType::Int8) => {
            Numeric::new(v.round_to_integer(), 0).is_ok_and(|whole| whole == *v)
        }
        (Value::Timestamp(us) | Value::TimestampTz(us), DataType::Date) => us % DAY_US == 0,
        _ => true,
    };
    if whole {
        return value.coerce(to);
    }
    let mut shown = String::new();
    text::format(&value, &mut shown);
    let (code, kind) = match to {
        DataType::Date => (SqlState::DatetimeFormat, "date"),
        to => (SqlState::InvalidTextRepresentation, to.plain_name()),
    };
    let message = format!("invalid input syntax for type {kind}: \"{shown}\"");
    Err(Failure::new(code, message))
}

/// A list of floats as a vector.
fn vector(array: &dyn Array, row: usize) -> Result<Value, Failure> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let items = match array.data_type() {
        Arrow::FixedSizeList(..) => array.as_fixed_size_list().value(row),
        Arrow::LargeList(_) => array.as_list::<i64>().value(row),
        _ => array.as_list::<i32>().value(row),
    };
    if items.null_count() > 0 {
        let message = "an element of the vector is NULL";
        return Err(Failure::new(SqlState::NullValueNotAllowed, message));
    }
    let elements = if let Some(v) = items.as_primitive_opt::<Float32Type>() {
        v.values().to_vec()
    } else if let Some(v) = items.as_primitive_opt::<Float64Type>() {
        v.values().iter().map(|x| *x as f32).collect()
    } else {
        let halves = items.as_primitive::<Float16Type>();
        halves.values().iter().map(|x| x.to_f32()).collect()
    };
    Ok(Value::Vector(elements))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_column_cannot_hold_is_an_error() {
        let numeric = |text: &str| text::parse(text, &DataType::Numeric(None)).expect("a number");
        for (value, to, kept) in [
            (Value::Float8(5000.0), DataType::Int8, Value::Int8(5000)),
            (Value::Float4(-3.0), DataType::Int2, Value::Int2(-3)),
            (numeric("7.00"), DataType::Int4, Value::Int4(7)),
            (Value::Timestamp(2 * DAY_US), DataType::Date, Value::Date(2)),
            (Value::Int8(5), DataType::Float8, Value::Float8(5.0)),
            (Value::Float8(0.1), DataType::Float4, Value::Float4(0.1)),
            (Value::Text("12".into()), DataType::Int4, Value::Int4(12)),
        ] {
            assert_eq!(exact(value, &to).expect("it fits"), kept);
        }
        for (value, to, code) in [
            (Value::Float8(5001.5), DataType::Int8, "22P02"),
            (Value::Float8(f64::NAN), DataType::Int8, "22P02"),
            (Value::Float8(f64::INFINITY), DataType::Int8, "22P02"),
            (Value::Float8(1e19), DataType::Int8, "22003"),
            (Value::Float8(1e300), DataType::Float4, "22003"),
            (Value::Int8(70_000), DataType::Int2, "22003"),
            (numeric("7.01"), DataType::Int4, "22P02"),
            (Value::Timestamp(DAY_US + 1), DataType::Date, "22007"),
            (Value::Text("x".into()), DataType::Int4, "22P02"),
        ] {
            let failure = exact(value, &to).expect_err("it does not fit");
            assert_eq!(failure.code().code(), code, "{failure}");
        }
    }
}
