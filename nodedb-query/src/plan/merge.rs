//! How the cores' ordered streams become one.

use arrow::array::RecordBatch;
use arrow::compute::{SortColumn, SortOptions, lexsort_to_indices, take_record_batch};
use arrow::row::{RowConverter, Rows, SortField};
use nodedb_types::{Failure, Result};

/// The order of a set query's rows, as sort keys over its output columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    pub keys: Vec<MergeKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeKey {
    /// Position in the output columns.
    pub column: usize,
    pub descending: bool,
    pub nulls_first: bool,
}

impl MergeKey {
    fn options(self) -> SortOptions {
        SortOptions {
            descending: self.descending,
            nulls_first: self.nulls_first,
        }
    }
}

fn internal(error: arrow::error::ArrowError) -> Failure {
    Failure::internal(format!("merging rows: {error}"))
}

impl Merge {
    /// Sorts whole batches that are in no order yet.
    pub fn sort(&self, batch: &RecordBatch, limit: Option<usize>) -> Result<RecordBatch> {
        let columns: Vec<SortColumn> = self
            .keys
            .iter()
            .map(|key| SortColumn {
                values: batch.column(key.column).clone(),
                options: Some(key.options()),
            })
            .collect();
        let indices = lexsort_to_indices(&columns, limit).map_err(internal)?;
        take_record_batch(batch, &indices).map_err(internal)
    }

    /// Merges the batches of several streams, each in order, keeping `limit` rows.
    pub fn merge(
        &self,
        streams: Vec<Vec<RecordBatch>>,
        limit: Option<usize>,
    ) -> Result<Vec<RecordBatch>> {
        let mut all = Vec::new();
        let mut cursors = Vec::new();
        for batches in streams {
            let mut numbers = Vec::new();
            for batch in batches.into_iter().filter(|b| b.num_rows() > 0) {
                numbers.push(all.len());
                all.push(batch);
            }
            if !numbers.is_empty() {
                cursors.push((numbers, 0usize, 0usize));
            }
        }
        if cursors.len() <= 1 {
            return cut(all, limit);
        }
        let rows = self.rows(&all)?;
        let mut picks: Vec<(usize, usize)> = Vec::new();
        while !cursors.is_empty() && limit.is_none_or(|l| picks.len() < l) {
            let best = (0..cursors.len())
                .min_by(|&a, &b| {
                    let at = |c: &(Vec<usize>, usize, usize)| (c.0[c.1], c.2);
                    let ((ba, ra), (bb, rb)) = (at(&cursors[a]), at(&cursors[b]));
                    rows[ba].row(ra).cmp(&rows[bb].row(rb))
                })
                .unwrap_or(0);
            let (numbers, batch, row) = &mut cursors[best];
            picks.push((numbers[*batch], *row));
            *row += 1;
            if *row == all[numbers[*batch]].num_rows() {
                (*batch, *row) = (*batch + 1, 0);
            }
            if *batch == numbers.len() {
                cursors.swap_remove(best);
            }
        }
        interleave(&all, &picks)
    }

    fn rows(&self, batches: &[RecordBatch]) -> Result<Vec<Rows>> {
        let Some(first) = batches.first() else {
            return Ok(Vec::new());
        };
        let fields = self
            .keys
            .iter()
            .map(|key| {
                let data_type = first.column(key.column).data_type().clone();
                SortField::new_with_options(data_type, key.options())
            })
            .collect();
        let converter = RowConverter::new(fields).map_err(internal)?;
        batches
            .iter()
            .map(|batch| {
                let columns: Vec<_> = self
                    .keys
                    .iter()
                    .map(|key| batch.column(key.column).clone())
                    .collect();
                converter.convert_columns(&columns).map_err(internal)
            })
            .collect()
    }
}

fn cut(batches: Vec<RecordBatch>, limit: Option<usize>) -> Result<Vec<RecordBatch>> {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut kept = Vec::new();
    for batch in batches {
        if left == 0 {
            break;
        }
        let rows = batch.num_rows().min(left);
        kept.push(batch.slice(0, rows));
        left -= rows;
    }
    Ok(kept)
}

/// Rows that are put into one batch at a time.
const BATCH_ROWS: usize = 1024;

fn interleave(batches: &[RecordBatch], picks: &[(usize, usize)]) -> Result<Vec<RecordBatch>> {
    let refs: Vec<&RecordBatch> = batches.iter().collect();
    picks
        .chunks(BATCH_ROWS)
        .map(|part| arrow::compute::interleave_record_batch(&refs, part).map_err(internal))
        .collect()
}
