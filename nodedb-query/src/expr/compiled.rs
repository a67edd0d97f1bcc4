//! Expressions as the cores receive them.

use arrow::array::{ArrayRef, RecordBatch};
use nodedb_bridge::expression::BatchExpression;
use nodedb_types::{DataType, Failure, Result};

use super::{ColumnId, Expr, eval};
use crate::rel::Scan;
use std::fmt;

/// An expression whose columns are positions in the batch.
#[derive(Clone)]
pub(crate) struct Compiled {
    expr: Expr,
    /// Positions of the collection's columns that the batch holds, in this order.
    columns: Vec<usize>,
    /// As SQL, for EXPLAIN.
    shown: String,
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Compiled {
    /// An expression over the columns of a scan's collection.
    pub(crate) fn new(expr: &Expr, scan: &Scan) -> Result<Compiled> {
        let position = |id: ColumnId| scan.position(id);
        let shown = expr.display(&|id| match position(id) {
            Some(column) => scan.collection.columns[column].name.clone(),
            None => format!("{id:?}"),
        });
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
        Ok(Compiled {
            expr,
            columns,
            shown,
        })
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
