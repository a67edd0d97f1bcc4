//! Rows as an Arrow IPC stream, cut into frames.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow_ipc::writer::StreamWriter;
use nodedb_query::catalog::ResultColumn;
use nodedb_types::{Failure, Result, arrow_map};

/// Bytes of an Arrow stream in one frame.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Writes batches of one answer; the schema comes first.
pub(super) struct RowWriter {
    columns: Arc<[ResultColumn]>,
    schema: SchemaRef,
    stream: StreamWriter<Vec<u8>>,
}

fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::internal(format!("rows could not be encoded: {error}"))
}

impl RowWriter {
    pub(super) fn new(columns: Arc<[ResultColumn]>) -> Result<RowWriter> {
        let fields: Vec<Field> = columns
            .iter()
            .map(|c| arrow_map::field(&c.name, &c.data_type, true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let stream = StreamWriter::try_new(Vec::new(), &schema).map_err(internal)?;
        Ok(RowWriter {
            columns,
            schema,
            stream,
        })
    }

    /// Adds a batch. The relational executor may hold a column in another of Arrow's layouts for
    /// its type; that one is written anew.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let arrays: Vec<ArrayRef> = batch
            .columns()
            .iter()
            .zip(self.columns.iter().zip(self.schema.fields()))
            .map(|(array, (column, field))| {
                if array.data_type() == field.data_type() {
                    return Ok(array.clone());
                }
                let one = [(column.name.clone(), column.data_type)];
                let mut builder = arrow_map::BatchBuilder::new(&one);
                for row in 0..array.len() {
                    builder.push_value(0, &arrow_map::value_at(array, row, &column.data_type)?)?;
                    builder.end_row();
                }
                Ok(builder.finish()?.column(0).clone())
            })
            .collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options);
        self.stream
            .write(&batch.map_err(internal)?)
            .map_err(internal)
    }

    /// Ends the stream. A reader learns the columns of an answer without rows only now: Arrow's
    /// decoder looks at a message when bytes behind it have arrived.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.stream.finish().map_err(internal)
    }

    /// What was written since the last call.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.stream.get_mut())
    }
}
