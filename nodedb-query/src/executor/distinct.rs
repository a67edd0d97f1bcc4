//! An aggregate of distinct values: each value goes to the aggregate once.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType as Arrow, Field, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Accumulator;

/// Keeps what it has seen of one column; `inner` is given all of it at the end.
#[derive(Debug)]
pub(super) struct Distinct {
    pub values: HashSet<ScalarValue>,
    pub data_type: Arrow,
    pub inner: Box<dyn Accumulator>,
}

impl Distinct {
    pub(super) fn new(data_type: &Arrow, inner: Box<dyn Accumulator>) -> Distinct {
        Distinct {
            values: HashSet::new(),
            data_type: data_type.clone(),
            inner,
        }
    }

    /// What travels between stages: the values as one list.
    pub(super) fn state_fields(name: &str, data_type: &Arrow) -> Vec<FieldRef> {
        let item = Arc::new(Field::new_list_field(data_type.clone(), true));
        vec![Arc::new(Field::new(
            format!("{name}[distinct]"),
            Arrow::List(item),
            true,
        ))]
    }
}

impl Accumulator for Distinct {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for row in 0..values[0].len() {
            if values[0].is_valid(row) {
                self.values
                    .insert(ScalarValue::try_from_array(&values[0], row)?);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if !self.values.is_empty() {
            let all = ScalarValue::iter_to_array(std::mem::take(&mut self.values))?;
            self.inner.update_batch(&[all])?;
        }
        self.inner.evaluate()
    }

    fn size(&self) -> usize {
        let values: usize = self.values.iter().map(ScalarValue::size).sum();
        size_of::<Distinct>() + self.inner.size() + values
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let all: Vec<ScalarValue> = self.values.iter().cloned().collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(
            &all,
            &self.data_type,
        ))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for list in states[0].as_list::<i32>().iter().flatten() {
            self.update_batch(&[list])?;
        }
        Ok(())
    }
}
