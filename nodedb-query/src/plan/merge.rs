//! How the cores' ordered streams become one.

use std::cmp::Ordering;

use arrow::array::{DynComparator, RecordBatch, make_comparator};
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
        let order = self.order(&all)?;
        let mut picks: Vec<(usize, usize)> = Vec::new();
        while !cursors.is_empty() && limit.is_none_or(|l| picks.len() < l) {
            let best = (0..cursors.len())
                .min_by(|&a, &b| {
                    let at = |c: &(Vec<usize>, usize, usize)| (c.0[c.1], c.2);
                    order.compare(at(&cursors[a]), at(&cursors[b]))
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

    /// Rows of few batches are compared where they stand, which is cheaper than to encode their
    /// keys; both ways order alike.
    fn order(&self, batches: &[RecordBatch]) -> Result<Order> {
        if batches.len() <= COMPARED_MAX
            && let Some(pairs) = self.pairs(batches)
        {
            return Ok(Order::Compared(pairs));
        }
        Ok(Order::Encoded(self.rows(batches)?))
    }

    /// For each batch, how its rows compare with those of each batch before it; None where a key's
    /// type cannot be compared so.
    fn pairs(&self, batches: &[RecordBatch]) -> Option<Vec<Vec<Comparators>>> {
        let compare = |a: &RecordBatch, b: &RecordBatch| {
            let by_key = |key: &MergeKey| {
                make_comparator(a.column(key.column), b.column(key.column), key.options())
            };
            self.keys.iter().map(by_key).collect::<Result<_, _>>().ok()
        };
        let before = |(at, batch)| {
            let others = batches[..at].iter();
            others.map(|other| compare(batch, other)).collect()
        };
        batches.iter().enumerate().map(before).collect()
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

/// Up to so many batches are compared two by two.
const COMPARED_MAX: usize = 4;

/// By key, the most significant first.
type Comparators = Vec<DynComparator>;

/// How rows of different batches compare.
enum Order {
    Compared(Vec<Vec<Comparators>>),
    Encoded(Vec<Rows>),
}

impl Order {
    /// Rows by their batch and their place in it; the batches differ.
    fn compare(&self, (batch, row): (usize, usize), (other, there): (usize, usize)) -> Ordering {
        match self {
            Order::Encoded(rows) => rows[batch].row(row).cmp(&rows[other].row(there)),
            Order::Compared(_) if batch < other => {
                self.compare((other, there), (batch, row)).reverse()
            }
            Order::Compared(pairs) => {
                let by_key = pairs[batch][other].iter();
                let mut orders = by_key.map(|compare| compare(row, there));
                orders
                    .find(|order| order.is_ne())
                    .unwrap_or(Ordering::Equal)
            }
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray};
    use arrow::datatypes::Float64Type;

    use super::*;

    /// Sorted as one batch, merged from two (compared) and from many (encoded): the same order,
    /// the odd floats and NULL among the keys.
    #[test]
    fn few_batches_and_many_merge_alike() {
        let odd = [0.0, -0.0, f64::NAN, -f64::NAN, f64::INFINITY, -1.5, 2.5];
        let score = |i: usize| (i % 9 != 8).then(|| odd[i * 5 % 7] * (i % 3) as f64);
        for (descending, nulls_first) in [(false, false), (true, false), (false, true)] {
            let key = |column| MergeKey {
                column,
                descending,
                nulls_first,
            };
            let merge = Merge {
                keys: vec![key(1), key(0)],
            };
            let batch = |rows: &[usize]| {
                let names: ArrayRef = Arc::new(StringArray::from_iter_values(
                    rows.iter().map(|i| format!("{:02}", i * 37 % 60)),
                ));
                let scores: ArrayRef =
                    Arc::new(rows.iter().map(|i| score(*i)).collect::<Float64Array>());
                let batch = RecordBatch::try_from_iter_with_nullable([
                    ("name", names, false),
                    ("score", scores, true),
                ]);
                merge
                    .sort(&batch.expect("columns of one length"), None)
                    .expect("sortable")
            };
            let shown = |batches: &[RecordBatch]| {
                let rows = batches.iter().flat_map(|batch| {
                    let scores = batch.column(1).as_primitive::<Float64Type>();
                    let names = batch.column(0).as_string::<i32>();
                    (0..batch.num_rows()).map(|i| {
                        let bits = scores.is_valid(i).then(|| scores.value(i).to_bits());
                        (names.value(i).to_owned(), bits)
                    })
                });
                rows.collect::<Vec<_>>()
            };
            let want = shown(&[batch(&(0..60).collect::<Vec<_>>())]);
            for streams in [2, 3, 4, 6] {
                let part = |n| vec![batch(&(n..60).step_by(streams).collect::<Vec<_>>())];
                let merged = merge.merge((0..streams).map(part).collect(), Some(50));
                assert_eq!(shown(&merged.expect("merged")), want[..50], "{streams}");
            }
        }
    }
}
