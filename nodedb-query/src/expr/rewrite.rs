//! Writes by key that depend on the row they find.

use nodedb_bridge::expression::{Rewrite, RowRewrite};
use nodedb_types::arrow_map::{BatchBuilder, value_at};
use nodedb_types::row::{RowView, encode};
use nodedb_types::{Collection, DataType, Result, Value};
use std::sync::Arc;

use super::{ColumnId, Expr, compiled::positioned, eval};
use crate::plan::{check_not_null, types};

/// `UPDATE … SET`, `DELETE` and `ON CONFLICT DO UPDATE` on one row. Columns of the expressions are
/// positions in the row, those of the proposed row follow it.
#[derive(Debug)]
pub(crate) struct Change {
    collection: Arc<Collection>,
    types: Vec<DataType>,
    /// The row is kept when this is not true.
    condition: Option<Expr>,
    /// Columns that change; `None` deletes the row.
    assignments: Option<Vec<(usize, Expr)>>,
    /// Which columns of both rows the expressions read; they stand in the batch in this order.
    reads: Vec<usize>,
}

impl Change {
    /// `position`: of a column in the row, or in the proposed row behind it.
    pub(crate) fn new(
        collection: Arc<Collection>,
        condition: Option<Expr>,
        assignments: Option<Vec<(usize, Expr)>>,
        position: &dyn Fn(ColumnId) -> Option<usize>,
    ) -> Result<Change> {
        let mut reads = Vec::new();
        let mut place = |id: ColumnId| {
            let wanted = position(id)?;
            Some(reads.iter().position(|r| *r == wanted).unwrap_or_else(|| {
                reads.push(wanted);
                reads.len() - 1
            }))
        };
        let condition = condition.map(|e| positioned(e, &mut place)).transpose()?;
        let assignments = match assignments {
            None => None,
            Some(list) => Some(
                list.into_iter()
                    .map(|(column, e)| Ok((column, positioned(e, &mut place)?)))
                    .collect::<Result<Vec<_>>>()?,
            ),
        };
        Ok(Change {
            types: types(&collection),
            collection,
            condition,
            assignments,
            reads,
        })
    }

    fn input(
        &self,
        current: &RowView<'_>,
        proposed: Option<&RowView<'_>>,
    ) -> Result<arrow::array::RecordBatch> {
        if self.reads.is_empty() {
            return super::builder::rows_only(1);
        }
        let width = self.types.len();
        let fields: Vec<(String, DataType)> = self
            .reads
            .iter()
            .map(|r| (String::new(), self.types[r % width]))
            .collect();
        let mut builder = BatchBuilder::new(&fields);
        for (i, read) in self.reads.iter().enumerate() {
            let column = read % width;
            let row = if *read < width {
                Some(current)
            } else {
                proposed
            };
            match row {
                Some(row) => builder.push(i, row.column(column, &self.types[column])?)?,
                None => builder.push_value(i, &Value::Null)?,
            }
        }
        builder.end_row();
        builder.finish()
    }
}

impl RowRewrite for Change {
    fn rewrite(&self, current: &[u8], proposed: Option<&[u8]>) -> Result<Rewrite> {
        let view = RowView::new(current)?;
        let proposed = proposed.map(RowView::new).transpose()?;
        let input = self.input(&view, proposed.as_ref())?;
        if let Some(condition) = &self.condition
            && !eval::holds(condition, &input)?.value(0)
        {
            return Ok(Rewrite::Keep);
        }
        let Some(assignments) = &self.assignments else {
            return Ok(Rewrite::Delete);
        };
        let mut values = view.to_values(&self.types)?;
        for (column, e) in assignments {
            let array = eval::evaluate(e, &input)?;
            values[*column] = value_at(&array, 0, &self.types[*column])?;
        }
        check_not_null(&self.collection, &values)?;
        encode(&values, &self.types).map(Rewrite::Replace)
    }
}
