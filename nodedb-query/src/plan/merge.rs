//! How the cores' ordered streams become one.
//!
//! The cores order as SQL does; keys are compared by Arrow in a form that it orders likewise
//! ([`sortable`]: one NaN above all, -0 is 0, intervals by their length).

use std::cmp::Ordering;

use arrow::array::{ArrayRef, DynComparator, RecordBatch, make_comparator};
use arrow::compute::{SortColumn, SortOptions, lexsort_to_indices, take_record_batch};
use arrow::row::{RowConverter, Rows, SortField};
use nodedb_types::{Failure, Result};

use crate::function::compare::sortable;

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
                values: sortable(batch.column(key.column)),
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
        let keys: Vec<Keys> = all.iter().map(|batch| self.keys_of(batch)).collect();
        let order = self.order(&keys)?;
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

    fn keys_of(&self, batch: &RecordBatch) -> Keys {
        let keys = self.keys.iter();
        keys.map(|key| sortable(batch.column(key.column))).collect()
    }

    /// Rows of few batches are compared where they stand, which is cheaper than to encode their
    /// keys; both ways order alike.
    fn order(&self, batches: &[Keys]) -> Result<Order> {
        if batches.len() <= COMPARED_MAX
            && let Some(pairs) = self.pairs(batches)
        {
            return Ok(Order::Compared(pairs));
        }
        Ok(Order::Encoded(self.rows(batches)?))
    }

    /// For each batch, how its rows compare with those of each batch before it; None where a key's
    /// type cannot be compared so.
    fn pairs(&self, batches: &[Keys]) -> Option<Vec<Vec<Comparators>>> {
        let compare = |a: &Keys, b: &Keys| {
            let columns = self.keys.iter().zip(a).zip(b);
            let by_key = |((key, a), b): ((&MergeKey, &ArrayRef), &ArrayRef)| {
                make_comparator(a, b, key.options())
            };
            columns.map(by_key).collect::<Result<_, _>>().ok()
        };
        let before = |(at, batch)| {
            let others = batches[..at].iter();
            others.map(|other| compare(batch, other)).collect()
        };
        batches.iter().enumerate().map(before).collect()
    }

    fn rows(&self, batches: &[Keys]) -> Result<Vec<Rows>> {
        let Some(first) = batches.first() else {
            return Ok(Vec::new());
        };
        let fields = self
            .keys
            .iter()
            .zip(first)
            .map(|(key, column)| {
                SortField::new_with_options(column.data_type().clone(), key.options())
            })
            .collect();
        let converter = RowConverter::new(fields).map_err(internal)?;
        batches
            .iter()
            .map(|keys| converter.convert_columns(keys).map_err(internal))
            .collect()
    }
}

/// Up to so many batches are compared two by two.
const COMPARED_MAX: usize = 4;

/// A batch's key columns in the form in which they are compared.
type Keys = Vec<ArrayRef>;

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

    /// NaN is one value above infinity, -0 is 0.
    fn in_sql(a: Option<f64>, b: Option<f64>, descending: bool, nulls_first: bool) -> Ordering {
        match (a, b) {
            (Some(a), Some(b)) => {
                let order = a.partial_cmp(&b);
                let order = order.unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
                if descending { order.reverse() } else { order }
            }
            (a, b) if nulls_first => a.is_some().cmp(&b.is_some()),
            (a, b) => b.is_some().cmp(&a.is_some()),
        }
    }

    fn in_words(a: &str, b: &str, descending: bool) -> Ordering {
        if descending { b.cmp(a) } else { a.cmp(b) }
    }

    /// Sorted as one batch, merged from two (compared) and from many (encoded): the same order,
    /// SQL's, the odd floats and NULL among the keys.
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
            let float = |bits: Option<u64>| bits.map(f64::from_bits);
            for pair in want.windows(2) {
                let (a, b) = (float(pair[0].1), float(pair[1].1));
                let scores = in_sql(a, b, descending, nulls_first);
                let both = scores.then_with(|| in_words(&pair[0].0, &pair[1].0, descending));
                assert!(
                    both.is_le(),
                    "{:?} before {:?}",
                    (a, &pair[0].0),
                    (b, &pair[1].0)
                );
            }
            for streams in [2, 3, 4, 6] {
                let part = |n| vec![batch(&(n..60).step_by(streams).collect::<Vec<_>>())];
                let merged = merge.merge((0..streams).map(part).collect(), Some(50));
                assert_eq!(shown(&merged.expect("merged")), want[..50], "{streams}");
            }
        }
    }
}
