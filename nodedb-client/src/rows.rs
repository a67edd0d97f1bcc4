//! Answers: a stream of rows that ends with a command tag.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow_ipc::reader::StreamDecoder;
use nodedb_types::wire::{Done, Kind, Reader};
use nodedb_types::{DataType, Failure, Result, SqlState, Value, arrow_map};

use crate::connection::{Answer, Piece};

/// The rows of an answer, as they arrive. Dropping it before its end cancels the work.
pub struct Rows {
    answer: Answer,
    decoder: StreamDecoder,
    ready: VecDeque<RecordBatch>,
    done: Option<Done>,
    names: Option<Arc<[(String, DataType)]>>,
    batch: Option<(RecordBatch, usize)>,
}

impl Rows {
    pub(crate) fn new(answer: Answer) -> Rows {
        Rows {
            answer,
            decoder: StreamDecoder::new(),
            ready: VecDeque::new(),
            done: None,
            names: None,
            batch: None,
        }
    }

    /// The next rows as an Arrow batch; `None` at the end. Types that Arrow has no word for are in
    /// the fields' metadata, see `nodedb_types::arrow_map`.
    pub async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if self.done.is_some() {
                return Ok(None);
            }
            self.receive().await?;
        }
    }

    /// The next row; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Row>> {
        loop {
            if let Some((batch, at)) = &mut self.batch
                && *at < batch.num_rows()
            {
                let names = match &self.names {
                    Some(names) => names.clone(),
                    None => self.names.insert(columns(&batch.schema())?).clone(),
                };
                let row = row_of(batch, *at, names)?;
                *at += 1;
                return Ok(Some(row));
            }
            match self.next_batch().await? {
                Some(batch) => self.batch = Some((batch, 0)),
                None => return Ok(None),
            }
        }
    }

    /// All rows that are left.
    pub async fn collect(mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }

    /// Reads to the end and gives the command tag.
    pub async fn finish(mut self) -> Result<Done> {
        while self.next_batch().await?.is_some() {}
        self.done
            .take()
            .ok_or_else(|| Failure::internal("an answer without an end"))
    }

    /// Names and types of the columns, once the answer has begun; waits for that.
    pub async fn columns(&mut self) -> Result<Arc<[(String, DataType)]>> {
        loop {
            if let Some(names) = &self.names {
                return Ok(names.clone());
            }
            if let Some(schema) = self.decoder.schema() {
                return Ok(self.names.insert(columns(&schema)?).clone());
            }
            if self.done.is_some() {
                return Ok(Arc::new([]));
            }
            self.receive().await?;
        }
    }

    /// The command tag, once every row was read.
    pub fn done(&self) -> Option<&Done> {
        self.done.as_ref()
    }

    async fn receive(&mut self) -> Result<()> {
        let Piece { kind, payload } = self.answer.next().await?;
        match kind {
            Kind::Rows => {
                let mut buffer = Buffer::from(payload);
                while !buffer.is_empty() {
                    let batch = self.decoder.decode(&mut buffer).map_err(|e| {
                        Failure::new(
                            SqlState::ProtocolViolation,
                            format!("rows do not decode: {e}"),
                        )
                    })?;
                    self.ready.extend(batch);
                }
            }
            Kind::Done => self.done = Some(Done::decode(&payload)?),
            Kind::Failed => return Err(Reader::new(&payload).failure()?),
            Kind::Hello | Kind::Request | Kind::Cancel => {
                return Err(Failure::new(
                    SqlState::ProtocolViolation,
                    "an answer of unknown kind",
                ));
            }
        }
        Ok(())
    }
}

fn columns(schema: &SchemaRef) -> Result<Arc<[(String, DataType)]>> {
    let column = |field: &Arc<arrow::datatypes::Field>| {
        Ok((field.name().clone(), arrow_map::data_type_of(field)?))
    };
    schema.fields().iter().map(column).collect()
}

fn row_of(batch: &RecordBatch, at: usize, columns: Arc<[(String, DataType)]>) -> Result<Row> {
    let cell = |(array, (_, data_type)): (&Arc<dyn arrow::array::Array>, &(String, DataType))| {
        arrow_map::value_at(array, at, data_type)
    };
    let values = batch
        .columns()
        .iter()
        .zip(columns.iter())
        .map(cell)
        .collect::<Result<_>>()?;
    Ok(Row { columns, values })
}

/// One row: its values and the columns they stand in.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    columns: Arc<[(String, DataType)]>,
    values: Vec<Value>,
}

impl Row {
    pub fn columns(&self) -> &[(String, DataType)] {
        &self.columns
    }

    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The value of the first column of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let at = self.columns.iter().position(|(column, _)| column == name)?;
        self.values.get(at)
    }
}
