//! The select list above what the cores send.

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use nodedb_types::{Result, SqlState};
use std::sync::Arc;

use crate::catalog::ResultColumn;
use crate::expr::builder::{batch_of, result_schema};
use crate::expr::{Expr, eval};

/// Computes result columns from the columns of a leaf's batches.
#[derive(Debug)]
pub struct Projection {
    columns: Vec<ResultColumn>,
    /// Of `columns`; a plan that is kept makes it once.
    schema: SchemaRef,
    /// Over positions of the input batch.
    expressions: Vec<Expr>,
}

impl Projection {
    pub(crate) fn new(columns: Vec<ResultColumn>, expressions: Vec<Expr>) -> Projection {
        debug_assert_eq!(columns.len(), expressions.len());
        Projection {
            schema: result_schema(&columns),
            columns,
            expressions,
        }
    }

    pub fn columns(&self) -> &[ResultColumn] {
        &self.columns
    }

    /// The result rows of a batch, typed as `nodedb_types::arrow_map` maps the columns.
    /// Fails with the SQLSTATE of the expression that fails.
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let arrays = self
            .expressions
            .iter()
            .map(|e| eval::evaluate(e, batch))
            .collect::<Result<Vec<ArrayRef>>>()?;
        batch_of(self.schema.clone(), arrays, batch.num_rows())
    }

    /// The one result row of a count.
    pub fn apply_count(&self, count: u64) -> Result<RecordBatch> {
        let count = i64::try_from(count).map_err(|_| {
            nodedb_types::Failure::new(SqlState::NumericOutOfRange, "bigint out of range")
        })?;
        let array: ArrayRef = Arc::new(Int64Array::from(vec![count]));
        let input = RecordBatch::try_from_iter_with_nullable([("count", array, false)])
            .map_err(eval::arrow_failure)?;
        self.apply(&input)
    }
}
