//! Values into arrays and back.

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use nodedb_types::arrow_map::{BatchBuilder, value_at};
use nodedb_types::{DataType, Failure, Result, Value};
use std::sync::Arc;

/// One array of `data_type` from a value per row.
pub(crate) fn array_of<'a>(
    data_type: &DataType,
    values: impl IntoIterator<Item = &'a Value>,
) -> Result<ArrayRef> {
    let mut builder = BatchBuilder::new(&[(String::new(), *data_type)]);
    for value in values {
        builder.push_value(0, value)?;
        builder.end_row();
    }
    Ok(builder.finish()?.column(0).clone())
}

/// The only cell of a one-row array.
pub(crate) fn single(array: &dyn Array, data_type: &DataType) -> Result<Value> {
    value_at(array, 0, data_type)
}

/// A batch without columns.
pub(crate) fn rows_only(rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)
        .map_err(|e| Failure::internal(format!("an empty batch: {e}")))
}

/// The schema of named, typed columns, all nullable.
pub(crate) fn result_schema(columns: &[crate::catalog::ResultColumn]) -> SchemaRef {
    let fields: Vec<_> = columns
        .iter()
        .map(|c| nodedb_types::arrow_map::field(&c.name, &c.data_type, true))
        .collect();
    Arc::new(Schema::new(fields))
}

/// A batch of arrays that a schema of [`result_schema`] describes.
pub(crate) fn batch_of(
    schema: SchemaRef,
    arrays: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, arrays, &options)
        .map_err(|e| Failure::internal(format!("a result batch: {e}")))
}
