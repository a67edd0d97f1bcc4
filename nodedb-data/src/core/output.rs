//! Rows of reads by key and of `RETURNING` as Arrow batches.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use nodedb_bridge::expression::BatchExpression;
use nodedb_bridge::plan::OutputColumn;
use nodedb_types::arrow_map::BatchBuilder;
use nodedb_types::limits::FRAME_BYTES_MAX;
use nodedb_types::row::{RowView, ValueRef};
use nodedb_types::{Collection, CommitTs, DataType, Failure, Result, ShardId, Surrogate, Value};

/// A row to be sent.
pub struct OutputRow<'a> {
    pub shard: ShardId,
    pub surrogate: Surrogate,
    pub version: CommitTs,
    pub key: &'a [u8],
    pub row: &'a [u8],
}

/// Collects rows into batches of at most a frame.
pub struct Output {
    collection: Arc<Collection>,
    columns: Arc<[OutputColumn]>,
    builder: BatchBuilder,
}

impl Output {
    /// Fails for columns that only a set query has.
    pub fn new(collection: Arc<Collection>, columns: Arc<[OutputColumn]>) -> Result<Output> {
        let fields = columns
            .iter()
            .map(|column| field(&collection, column))
            .collect::<Result<Vec<_>>>()?;
        Ok(Output {
            builder: BatchBuilder::new(&fields),
            collection,
            columns,
        })
    }

    pub fn push(&mut self, row: &OutputRow<'_>) -> Result<()> {
        let view = RowView::new(row.row)?;
        for (n, column) in self.columns.iter().enumerate() {
            match column {
                OutputColumn::Column(c) => {
                    let data_type = &self.collection.columns[*c].data_type;
                    self.builder.push(n, view.column(*c, data_type)?)?;
                }
                OutputColumn::Key => self.builder.push(n, ValueRef::Bytea(row.key))?,
                OutputColumn::Surrogate => {
                    let value = Value::Int8(i64::from(row.surrogate.get()));
                    self.builder.push_value(n, &value)?;
                }
                OutputColumn::Version => {
                    self.builder
                        .push_value(n, &Value::Int8(row.version.0 as i64))?;
                }
                OutputColumn::Shard => {
                    self.builder
                        .push_value(n, &Value::Int4(i32::from(row.shard.0)))?;
                }
                OutputColumn::Truth(_) | OutputColumn::Score => return Err(only_in_sets()),
            }
        }
        self.builder.end_row();
        Ok(())
    }

    /// True when the batch should be sent.
    pub fn is_full(&self) -> bool {
        self.builder.bytes() >= FRAME_BYTES_MAX / 2
    }

    /// The rows collected since the last call; `None` when there are none.
    pub fn take(&mut self) -> Result<Option<RecordBatch>> {
        match self.builder.rows() {
            0 => Ok(None),
            _ => self.builder.finish().map(Some),
        }
    }
}

fn only_in_sets() -> Failure {
    Failure::internal("a read by key has neither scores nor predicates to show")
}

fn field(collection: &Collection, column: &OutputColumn) -> Result<(String, DataType)> {
    Ok(match column {
        OutputColumn::Column(c) => {
            let column = collection
                .columns
                .get(*c)
                .ok_or_else(|| Failure::internal("a plan names a column that there is not"))?;
            (column.name.clone(), column.data_type)
        }
        OutputColumn::Key => ("key".into(), DataType::Bytea),
        OutputColumn::Surrogate => ("surrogate".into(), DataType::Int8),
        OutputColumn::Version => ("version".into(), DataType::Int8),
        OutputColumn::Shard => ("shard".into(), DataType::Int4),
        OutputColumn::Truth(_) | OutputColumn::Score => return Err(only_in_sets()),
    })
}

/// For each row whether the expression is true for it.
pub fn filter(
    collection: &Collection,
    expression: &dyn BatchExpression,
    rows: &[&[u8]],
) -> Result<Vec<bool>> {
    let fields: Vec<(String, DataType)> = expression
        .columns()
        .iter()
        .map(|&c| field(collection, &OutputColumn::Column(c)))
        .collect::<Result<_>>()?;
    let mut builder = BatchBuilder::new(&fields);
    for row in rows {
        let view = RowView::new(row)?;
        for (n, &c) in expression.columns().iter().enumerate() {
            builder.push(n, view.column(c, &fields[n].1)?)?;
        }
        builder.end_row();
    }
    let values = expression.evaluate(&builder.finish()?)?;
    let values = values
        .as_any()
        .downcast_ref::<BooleanArray>()
        .ok_or_else(|| Failure::internal("a filter is not boolean"))?;
    Ok((0..rows.len())
        .map(|n| values.is_valid(n) && values.value(n))
        .collect())
}
