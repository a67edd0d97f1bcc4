//! Expressions as the cores receive them.

use arrow::array::{ArrayRef, RecordBatch};
use nodedb_bridge::expression::BatchExpression;
use nodedb_types::{DataType, Failure, Result};

use super::{ColumnId, Expr, eval};

/// An expression whose columns are positions in the batch.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    expr: Expr,
    /// Positions of the collection's columns that the batch holds, in this order.
    columns: Vec<usize>,
}

impl Compiled {
    /// `position`: where a column stands in its collection.
    pub(crate) fn new(
        expr: &Expr,
        position: &dyn Fn(ColumnId) -> Option<usize>,
    ) -> Result<Compiled> {
        let mut columns = Vec::new();
        let expr = positioned(expr.clone(), &mut |id| {
            let wanted = position(id)?;
            Some(
                columns
                    .iter()
                    .position(|c| *c == wanted)
                    .unwrap_or_else(|| {
                        columns.push(wanted);
                        columns.len() - 1
                    }),
            )
        })?;
        Ok(Compiled { expr, columns })
    }

    pub(crate) fn expr(&self) -> &Expr {
        &self.expr
    }
}

impl BatchExpression for Compiled {
    fn columns(&self) -> &[usize] {
        &self.columns
    }

    fn output(&self) -> DataType {
        self.expr.data_type()
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        eval::evaluate(&self.expr, batch)
    }
}

/// Replaces column ids by positions in a batch.
pub(crate) fn positioned(
    expr: Expr,
    position: &mut dyn FnMut(ColumnId) -> Option<usize>,
) -> Result<Expr> {
    expr.transform(&mut |e| match e {
        Expr::Column { id, data_type, .. } => {
            let position = position(id)
                .ok_or_else(|| Failure::internal(format!("{id:?} is not in the batch")))?;
            Ok(Expr::column(ColumnId(position as u32), data_type))
        }
        other => Ok(other),
    })
}
