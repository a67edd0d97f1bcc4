//! Rows become batches: the columns asked for, in frames of bounded size.

use nodedb_bridge::plan::OutputColumn;
use nodedb_types::arrow_map::BatchBuilder;
use nodedb_types::limits::FRAME_BYTES_MAX;
use nodedb_types::row::{RowView, ValueRef};
use nodedb_types::{Collection, DataType, Failure, Result, ShardId};

use arrow::array::RecordBatch;

use super::part::{Expression, truth_at};
use super::rows::Version;

/// What a cell is filled from.
enum Cell {
    Column(usize, DataType),
    Key,
    Surrogate,
    Version,
    Shard,
    /// An index source answers for the row at once.
    Truth(usize),
    /// An expression answers for many rows at a time.
    Deferred(usize),
    Score,
}

/// Collects rows into one batch.
pub(super) struct Batcher {
    cells: Vec<Cell>,
    batch: BatchBuilder,
    deferred: Vec<Deferred>,
}

/// A truth column whose values come in pieces.
struct Deferred {
    /// Position in the output.
    column: usize,
    expression: Expression,
    rows: BatchBuilder,
}

fn name_and_type(collection: &Collection, column: &OutputColumn) -> Result<(String, DataType)> {
    Ok(match column {
        OutputColumn::Column(at) => match collection.columns.get(*at) {
            Some(column) => (column.name.clone(), column.data_type),
            None => return Err(Failure::internal("an output column that is not there")),
        },
        OutputColumn::Key => ("key".to_owned(), DataType::Bytea),
        OutputColumn::Surrogate => ("surrogate".to_owned(), DataType::Int8),
        OutputColumn::Version => ("version".to_owned(), DataType::Int8),
        OutputColumn::Shard => ("shard".to_owned(), DataType::Int4),
        OutputColumn::Truth(at) => (format!("truth_{at}"), DataType::Bool),
        OutputColumn::Score => ("score".to_owned(), DataType::Float8),
    })
}

impl Batcher {
    /// `source` tells for a source by its position whether it is an expression.
    pub(super) fn new(
        collection: &Collection,
        columns: &[OutputColumn],
        source: impl Fn(usize) -> Result<Option<Expression>>,
    ) -> Result<Batcher> {
        let mut deferred = Vec::new();
        let mut cells = Vec::with_capacity(columns.len());
        let mut named = Vec::with_capacity(columns.len());
        for (column, output) in columns.iter().enumerate() {
            let (name, data_type) = name_and_type(collection, output)?;
            cells.push(match output {
                OutputColumn::Column(at) => Cell::Column(*at, data_type),
                OutputColumn::Key => Cell::Key,
                OutputColumn::Surrogate => Cell::Surrogate,
                OutputColumn::Version => Cell::Version,
                OutputColumn::Shard => Cell::Shard,
                OutputColumn::Score => Cell::Score,
                OutputColumn::Truth(at) => match source(*at)? {
                    None => Cell::Truth(*at),
                    Some(expression) => {
                        let rows = expression.batch();
                        deferred.push(Deferred {
                            column,
                            expression,
                            rows,
                        });
                        Cell::Deferred(deferred.len() - 1)
                    }
                },
            });
            named.push((name, data_type));
        }
        Ok(Batcher {
            batch: BatchBuilder::new(&named),
            cells,
            deferred,
        })
    }

    pub(super) fn rows(&self) -> usize {
        self.batch.rows()
    }

    /// True when the row might not fit any more, and the batch should be taken first.
    pub(super) fn is_full_for(&self, version: &Version<'_>) -> bool {
        let cells = self.cells.len() * 16 + version.row.len() + version.key.len();
        self.batch.rows() > 0 && self.batch.bytes() + cells > FRAME_BYTES_MAX
    }

    /// Appends a row of `shard`. `truth` answers for index sources.
    pub(super) fn push(
        &mut self,
        shard: ShardId,
        version: &Version<'_>,
        row: &RowView<'_>,
        score: Option<f64>,
        truth: impl Fn(usize) -> Result<Option<bool>>,
    ) -> Result<()> {
        for (at, cell) in self.cells.iter().enumerate() {
            let value = match cell {
                Cell::Column(column, data_type) => row.column(*column, data_type)?,
                Cell::Key => ValueRef::Bytea(version.key),
                Cell::Surrogate => ValueRef::Int8(i64::from(version.surrogate.get())),
                // Timestamps stay below 2^63 until the year 4199.
                Cell::Version => ValueRef::Int8(version.version.0 as i64),
                Cell::Shard => ValueRef::Int4(i32::from(shard.0)),
                Cell::Truth(source) => truth(*source)?.map_or(ValueRef::Null, ValueRef::Bool),
                Cell::Score => score.map_or(ValueRef::Null, ValueRef::Float8),
                Cell::Deferred(slot) => {
                    let deferred = &mut self.deferred[*slot];
                    deferred.expression.push(&mut deferred.rows, row)?;
                    if Expression::is_full(&deferred.rows) {
                        deferred.settle(&mut self.batch)?;
                    }
                    continue;
                }
            };
            self.batch.push(at, value)?;
        }
        self.batch.end_row();
        Ok(())
    }

    /// The batch; this is empty afterwards and can be used again.
    pub(super) fn finish(&mut self) -> Result<RecordBatch> {
        for deferred in &mut self.deferred {
            deferred.settle(&mut self.batch)?;
        }
        self.batch.finish()
    }
}

impl Deferred {
    fn settle(&mut self, batch: &mut BatchBuilder) -> Result<()> {
        if self.rows.rows() == 0 {
            return Ok(());
        }
        let values = self.expression.evaluate(&mut self.rows)?;
        for row in 0..values.len() {
            let value = truth_at(&values, row).map_or(ValueRef::Null, ValueRef::Bool);
            batch.push(self.column, value)?;
        }
        Ok(())
    }
}
