//! The ordered index (`btree`): values in order, each with the rows that hold it.
//!
//! Values are kept as their canonical, order-preserving bytes (`nodedb_types::key`), so one map
//! serves every type and equal values meet whatever their display form. Rows whose value is NULL
//! stand apart: they are unknown to every predicate but `IS NULL`, and in an order they come
//! after all values.

mod image;
mod postings;
mod source;
#[cfg(test)]
mod tests;
mod values;

use std::ops::Bound;
use std::task::Poll;

use nodedb_bridge::op::EngineOp;
use nodedb_bridge::plan::Direction;
use nodedb_types::row::RowView;
use nodedb_types::{Collection, DataType, Failure, Index, Result, Surrogate, Value, key};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::image::{Names, Thawing};
use self::postings::Postings;
pub use self::source::OrderedSource;
use self::values::{LEAF_MAX, Values};
use super::{Engine, Estimate, Frozen, Hashes, Place, ThawPart, Truth, mix};
use crate::pace::{Budget, INDEX_STEP, Turn};
use crate::set::{BlockSet, RowSet};

/// One column of one collection on one shard.
pub struct Ordered {
    column: usize,
    data_type: DataType,
    values: Values,
    nulls: RowSet,
    /// The order bytes of NULL.
    null: Box<[u8]>,
    names: Names,
    /// While an image is read.
    thawing: Option<Thawing>,
}

/// Where a row stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    Value(Box<[u8]>),
    Null,
}

impl Ordered {
    pub fn open(index: &Index, collection: &Collection) -> Result<Ordered> {
        Ordered::with_leaves(index, collection, LEAF_MAX)
    }

    fn with_leaves(index: &Index, collection: &Collection, leaf_max: usize) -> Result<Ordered> {
        let [column] = index.columns[..] else {
            return Err(Failure::internal("an ordered index has one column"));
        };
        Ok(Ordered {
            column,
            data_type: collection.columns[column].data_type,
            values: Values::new(leaf_max),
            nulls: RowSet::new(),
            names: Names::default(),
            thawing: None,
            null: key::of(&Value::Null)?.into_boxed_slice(),
        })
    }

    fn order(&self, row: &RowView<'_>) -> Result<Order> {
        let value = row.column(self.column, &self.data_type)?.to_owned();
        if value.is_null() {
            return Ok(Order::Null);
        }
        Ok(Order::Value(key::of(&value)?.into_boxed_slice()))
    }

    fn insert(&mut self, surrogate: u32, order: Order) {
        match order {
            Order::Value(bytes) => self.values.insert(bytes, surrogate),
            Order::Null => {
                if self.nulls.insert(surrogate) {
                    self.names.nulls_changed();
                }
            }
        }
    }

    fn remove(&mut self, surrogate: u32, order: Order) {
        match order {
            Order::Value(bytes) => self.values.remove(&bytes, surrogate),
            Order::Null => {
                if self.nulls.remove(surrogate) {
                    self.names.nulls_changed();
                }
            }
        }
    }

    /// Rows that hold a value.
    fn rows_of(&self, value: &[u8]) -> u64 {
        self.values.get(value).map_or(0, Postings::len)
    }

    /// The value behind `from` in the direction; `from` itself where `inclusive`.
    fn next_value(
        &self,
        direction: Direction,
        from: Option<(&[u8], bool)>,
    ) -> Option<(&[u8], &Postings)> {
        let bound = match from {
            Some((value, true)) => Bound::Included(value),
            Some((value, false)) => Bound::Excluded(value),
            None => Bound::Unbounded,
        };
        match direction {
            Direction::Ascending => self.values.range(bound, Bound::Unbounded).next(),
            Direction::Descending => self.values.last_below(bound),
        }
    }

    /// The group of rows to go on with after `after`: the value, and the row behind which to go
    /// on in it. NULLs are a group of their own, the last ascending and the first descending.
    fn group(
        &self,
        direction: Direction,
        after: Option<&Place>,
    ) -> Option<(&[u8], Group<'_>, Option<u32>)> {
        let nulls = || (&*self.null, Group::Nulls(&self.nulls), None);
        let values = |(value, rows)| (value, Group::Value(rows), None);
        match (after, direction) {
            (None, Direction::Ascending) => {
                let first = self.next_value(direction, None);
                Some(first.map(values).unwrap_or_else(nulls))
            }
            (None, Direction::Descending) => Some(nulls()),
            (Some((bytes, row)), _) if *bytes == self.null => {
                Some((&*self.null, Group::Nulls(&self.nulls), Some(*row)))
            }
            (Some((bytes, row)), _) => {
                // The value may be gone by now; then the next one is taken from its start.
                match self.next_value(direction, Some((bytes, true))) {
                    Some((value, rows)) if *value == **bytes => {
                        Some((value, Group::Value(rows), Some(*row)))
                    }
                    Some(next) => Some(values(next)),
                    None if direction == Direction::Ascending => Some(nulls()),
                    None => None,
                }
            }
        }
    }

    /// The group behind `value`.
    fn group_after(&self, direction: Direction, value: &[u8]) -> Option<(&[u8], Group<'_>)> {
        let is_null = *value == *self.null;
        let next = match (direction, is_null) {
            (Direction::Ascending, true) => return None,
            (Direction::Descending, true) => self.next_value(direction, None),
            (_, false) => self.next_value(direction, Some((value, false))),
        };
        match (next, direction) {
            (Some((value, rows)), _) => Some((value, Group::Value(rows))),
            (None, Direction::Ascending) => Some((&*self.null, Group::Nulls(&self.nulls))),
            (None, Direction::Descending) => None,
        }
    }
}

/// Rows that stand at one place of the order.
enum Group<'a> {
    Value(&'a Postings),
    Nulls(&'a RowSet),
}

impl Group<'_> {
    fn next_after(&self, after: Option<u32>) -> Option<u32> {
        match self {
            Group::Value(rows) => rows.next_after(after),
            Group::Nulls(rows) => rows.next_after(after),
        }
    }
}

/// Where a survey stands: behind an entry, NULLs first.
#[derive(Default)]
pub struct OrderedSurvey {
    after: Option<Place>,
}

fn entry_hash(surrogate: u32, order: &[u8]) -> u64 {
    xxh3_64_with_seed(order, u64::from(surrogate))
}

impl Engine for Ordered {
    type Source = OrderedSource;
    type Ranking = ();
    type Survey = OrderedSurvey;

    fn apply(
        &mut self,
        surrogate: Surrogate,
        before: Option<&RowView<'_>>,
        after: Option<&RowView<'_>>,
    ) -> Result<()> {
        let before = before.map(|row| self.order(row)).transpose()?;
        let after = after.map(|row| self.order(row)).transpose()?;
        if let Some(before) = before
            && Some(&before) != after.as_ref()
        {
            self.remove(surrogate.get(), before);
        }
        if let Some(after) = after {
            self.insert(surrogate.get(), after);
        }
        Ok(())
    }

    fn check_row(&self, row: &RowView<'_>) -> Result<()> {
        match self.order(row)? {
            Order::Value(bytes) => key::check_length(&bytes),
            Order::Null => Ok(()),
        }
    }

    fn source(&self, op: &EngineOp) -> Result<OrderedSource> {
        OrderedSource::new(self, op)
    }

    fn estimate(&self, source: &OrderedSource) -> Estimate {
        source.estimate()
    }

    fn poll_next_block(
        &self,
        source: &mut OrderedSource,
        from: u16,
        turn: &Turn<'_>,
    ) -> Poll<Result<Option<u16>>> {
        source.poll_next_block(self, from, turn)
    }

    fn poll_block(
        &self,
        source: &mut OrderedSource,
        block: u16,
        _: Option<&BlockSet>,
        turn: &Turn<'_>,
    ) -> Poll<Result<Truth>> {
        source.poll_block(self, block, turn)
    }

    fn matches(&self, source: &OrderedSource, row: &RowView<'_>) -> Result<Option<bool>> {
        Ok(source.matches(&self.order(row)?))
    }

    fn poll_walk(
        &self,
        direction: Direction,
        after: Option<&Place>,
        max: usize,
        turn: &Turn<'_>,
    ) -> Poll<Result<Vec<Place>>> {
        let mut entries = Vec::new();
        let Some((mut value, mut group, mut row)) = self.group(direction, after) else {
            return Poll::Ready(Ok(entries));
        };
        while entries.len() < max {
            match group.next_after(row) {
                Some(next) => {
                    entries.push((value.into(), next));
                    row = Some(next);
                }
                None => match self.group_after(direction, value) {
                    Some(next) => ((value, group), row) = (next, None),
                    None => break,
                },
            }
            if !turn.spend(INDEX_STEP) && !entries.is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(entries))
    }

    fn order_bytes(&self, row: &RowView<'_>) -> Result<Box<[u8]>> {
        Ok(match self.order(row)? {
            Order::Value(bytes) => bytes,
            Order::Null => self.null.clone(),
        })
    }

    fn row_hash(&self, surrogate: Surrogate, row: &RowView<'_>) -> Result<u64> {
        Ok(entry_hash(surrogate.get(), &self.order_bytes(row)?))
    }

    fn poll_hashes(
        &self,
        survey: &mut OrderedSurvey,
        hashes: &mut Hashes,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        let mut after = survey.after.take();
        let Some((mut value, mut group, mut row)) =
            self.group(Direction::Descending, after.as_ref())
        else {
            return Poll::Ready(Ok(()));
        };
        loop {
            match group.next_after(row) {
                Some(next) => {
                    mix(hashes, next, entry_hash(next, value));
                    row = Some(next);
                }
                None => match self.group_after(Direction::Descending, value) {
                    Some(next) => ((value, group), row) = (next, None),
                    None => return Poll::Ready(Ok(())),
                },
            }
            if !turn.spend(INDEX_STEP)
                && let Some(row) = row
            {
                after = Some((value.into(), row));
                survey.after = after;
                return Poll::Pending;
            }
        }
    }

    fn dismantle(&mut self, budget: &Budget) -> bool {
        // An entry is a value and a set of rows, each with memory of its own.
        while self.values.drop_leaf() {
            if !budget.spend(LEAF_MAX as u32 * INDEX_STEP) {
                return true;
            }
        }
        false
    }

    fn freeze(&mut self) -> Result<Option<Frozen>> {
        Ok(Some(self.frozen()))
    }

    fn thaw(&mut self, header: &[u8], parts: usize) -> Result<()> {
        self.thawing = Some(Thawing::new(header, parts)?);
        Ok(())
    }

    fn poll_thaw_part(
        &mut self,
        part: &ThawPart<'_>,
        cursor: &mut u64,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        self.poll_thaw(part, cursor, turn)
    }

    fn bytes(&self) -> usize {
        self.values.heap_bytes() + self.nulls.heap_bytes()
    }
}
