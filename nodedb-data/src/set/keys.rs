//! Conditions on the key as a source: the key index is walked along the ranges into one set first,
//! in pieces. A value of a list is a range of one key; a list may be long, so it is taken as it was
//! sent.
//!
//! The set is of the applied state, at whatever turn its pieces were met: a row that came or went
//! meanwhile is in U, and is asked by its own key.

use std::ops::Bound;
use std::sync::Arc;
use std::task::{Poll, ready};

use nodedb_bridge::op::ordered::Op;
use nodedb_bridge::plan::Direction;
use nodedb_types::{Failure, Result, Value, key};

use super::block::BlockSet;
use super::row_set::{RowSet, RowSetBuilder};
use super::rows::{KeyCursor, Rows};
use crate::engine::{Estimate, Truth};
use crate::pace::{BLOCK_OPERATION, INDEX_STEP, Turn};

/// Entries asked for at a time, at the most.
const PIECE: usize = 64;
/// Finding where a walk goes on: from the root down to a leaf.
const DESCENT: u32 = 8 * INDEX_STEP;

type Bytes = Box<[u8]>;

/// From one key to another; `None` is without a bound.
struct Range {
    /// Included.
    low: Option<Bytes>,
    /// Not included.
    high: Option<Bytes>,
}

/// What is walked: ascending and apart.
enum Ranges {
    One(Range),
    Points(Arc<[Bytes]>),
}

/// One of them.
enum Part<'a> {
    Range(&'a Range),
    Point(&'a [u8]),
}

pub(super) struct Keys {
    ranges: Ranges,
    /// Rows in them at the most, as far as their values tell.
    rows_max: u64,
    /// Entries asked for at a time: one more than a range can have, to meet what lies behind it.
    piece: usize,
    /// The one that is walked.
    at: usize,
    cursor: KeyCursor,
    builder: RowSetBuilder,
    met: u64,
    /// When done.
    rows: RowSet,
    done: bool,
}

fn bytes(value: &Value) -> Result<Bytes> {
    Ok(key::of(value)?.into_boxed_slice())
}

/// The least bytes above those of a key: no key begins another, so none lies between.
fn after(mut bytes: Vec<u8>) -> Bytes {
    bytes.push(0);
    bytes.into_boxed_slice()
}

/// Bytes below those given, with hardly a key between.
fn before(bytes: &[u8]) -> Bytes {
    let (last, rest) = bytes.split_last().expect("a key has bytes");
    let mut before = rest.to_vec();
    if let Some(less) = last.checked_sub(1) {
        before.push(less);
        before.extend([u8::MAX; 16]);
    }
    before.into_boxed_slice()
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int2(n) => Some(i64::from(*n)),
        Value::Int4(n) | Value::Date(n) => Some(i64::from(*n)),
        Value::Int8(n) => Some(*n),
        _ => None,
    }
}

/// Values between two bounds, where they can be counted.
fn width(low: &Bound<Value>, high: &Bound<Value>) -> Option<u64> {
    let of = |bound: &Bound<Value>| match bound {
        Bound::Included(value) | Bound::Excluded(value) => integer(value),
        Bound::Unbounded => None,
    };
    let between = i128::from(of(high)?) - i128::from(of(low)?) + 1;
    Some(u64::try_from(between.max(0)).unwrap_or(u64::MAX))
}

impl Range {
    fn of(low: &Bound<Value>, high: &Bound<Value>) -> Result<Range> {
        Ok(Range {
            low: match low {
                Bound::Included(value) => Some(bytes(value)?),
                Bound::Excluded(value) => Some(after(key::of(value)?)),
                Bound::Unbounded => None,
            },
            high: match high {
                Bound::Included(value) => Some(after(key::of(value)?)),
                Bound::Excluded(value) => Some(bytes(value)?),
                Bound::Unbounded => None,
            },
        })
    }

    fn is_above(&self, key: &[u8]) -> bool {
        self.low.as_ref().is_some_and(|low| *key < **low)
    }

    /// `high` is no key, or an excluded one.
    fn is_below(&self, key: &[u8]) -> bool {
        self.high.as_ref().is_some_and(|high| *key >= **high)
    }

    fn is_empty(&self) -> bool {
        matches!((&self.low, &self.high), (Some(low), Some(high)) if low >= high)
    }
}

impl Part<'_> {
    /// The key lies before it.
    fn is_above(&self, key: &[u8]) -> bool {
        match self {
            Part::Range(range) => range.is_above(key),
            Part::Point(point) => key < *point,
        }
    }

    /// The key lies behind it.
    fn is_below(&self, key: &[u8]) -> bool {
        match self {
            Part::Range(range) => range.is_below(key),
            Part::Point(point) => key > *point,
        }
    }

    /// Where a walk begins: before the first key in the direction.
    fn start(&self, direction: Direction) -> Option<Bytes> {
        match (self, direction) {
            // A cursor gives what lies behind it.
            (Part::Range(range), Direction::Ascending) => range.low.as_deref().map(before),
            (Part::Range(range), Direction::Descending) => range.high.clone(),
            (Part::Point(point), Direction::Ascending) => Some(before(point)),
            (Part::Point(point), Direction::Descending) => Some(after(point.to_vec())),
        }
    }
}

impl Ranges {
    fn len(&self) -> usize {
        match self {
            Ranges::One(_) => 1,
            Ranges::Points(points) => points.len(),
        }
    }

    fn get(&self, at: usize) -> Option<Part<'_>> {
        match self {
            Ranges::One(range) => (at == 0).then_some(Part::Range(range)),
            Ranges::Points(points) => points.get(at).map(|point| Part::Point(point)),
        }
    }

    fn last(&self) -> Option<Part<'_>> {
        self.get(self.len().checked_sub(1)?)
    }
}

impl Keys {
    pub(super) fn new(op: &Op) -> Result<Keys> {
        let (low, high) = match op {
            Op::In(values) => {
                let known = values.iter().filter(|value| !value.is_null());
                let mut points = known.map(bytes).collect::<Result<Vec<_>>>()?;
                points.sort_unstable();
                points.dedup();
                return Ok(Keys::of_list(points.into()));
            }
            Op::Listed(list) => return Ok(Keys::of_list(list.bytes().clone())),
            // No key is NULL.
            Op::IsNull => return Ok(Keys::of_list(Arc::default())),
            Op::Range { low, high } => (low, high),
        };
        let rows_max = width(low, high).unwrap_or(u64::MAX);
        let piece = rows_max.saturating_add(1).min(PIECE as u64) as usize;
        let range = Range::of(low, high)?;
        let ranges = match range.is_empty() {
            true => Ranges::Points(Arc::default()),
            false => Ranges::One(range),
        };
        Ok(Keys::along(ranges, rows_max, piece))
    }

    /// Ascending, no key twice.
    pub(super) fn of_list(keys: Arc<[Bytes]>) -> Keys {
        let rows_max = keys.len() as u64;
        Keys::along(Ranges::Points(keys), rows_max, 2)
    }

    fn along(ranges: Ranges, rows_max: u64, piece: usize) -> Keys {
        let mut keys = Keys {
            ranges,
            rows_max,
            piece,
            at: 0,
            cursor: KeyCursor::new(Direction::Ascending),
            builder: RowSetBuilder::default(),
            met: 0,
            rows: RowSet::new(),
            done: false,
        };
        keys.enter();
        keys
    }

    /// Puts the cursor before the range that comes next.
    fn enter(&mut self) {
        match self.ranges.get(self.at) {
            Some(range) => self.cursor.after = range.start(Direction::Ascending),
            None => {
                self.rows = self.builder.finish();
                self.done = true;
            }
        }
    }

    /// Whether a row with this key meets the condition.
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        match &self.ranges {
            Ranges::One(range) => !range.is_above(key) && !range.is_below(key),
            Ranges::Points(points) => points.binary_search_by(|point| (**point).cmp(key)).is_ok(),
        }
    }

    /// `all`: rows alive. A range of unknown width is guessed as a third of them.
    pub(super) fn estimate(&self, all: u64) -> Estimate {
        let rows = match (self.done, self.rows_max) {
            (true, _) => self.rows.len(),
            (false, u64::MAX) => all / 3,
            (false, most) => most.min(all),
        };
        let left = rows.saturating_sub(self.met).max(1) * u64::from(INDEX_STEP);
        let ranges = (self.ranges.len() - self.at) as u64;
        Estimate {
            rows,
            setup: match self.done {
                true => 0,
                false => left + ranges * u64::from(DESCENT),
            },
            whole: 0,
            row: 1,
        }
    }

    pub(super) fn poll_next_block(
        &mut self,
        rows: &dyn Rows,
        from: u16,
        turn: &Turn<'_>,
    ) -> Poll<Result<Option<u16>>> {
        ready!(self.poll_gather(rows, turn))?;
        Poll::Ready(Ok(self.rows.next_block(from)))
    }

    pub(super) fn poll_block(
        &mut self,
        rows: &dyn Rows,
        block: u16,
        turn: &Turn<'_>,
    ) -> Poll<Result<Truth>> {
        ready!(self.poll_gather(rows, turn))?;
        // The block is answered; a spent budget stops whoever asks next.
        let _ = turn.spend(BLOCK_OPERATION);
        Poll::Ready(Ok(Truth {
            yes: self.rows.block(block).cloned().unwrap_or_default(),
            unknown: BlockSet::new(),
        }))
    }

    fn poll_gather(&mut self, rows: &dyn Rows, turn: &Turn<'_>) -> Poll<Result<()>> {
        let mut entries = Vec::new();
        while !self.done {
            let Some(range) = self.ranges.get(self.at) else {
                return Poll::Ready(Err(Failure::internal("a walk beyond the last range")));
            };
            entries.clear();
            ready!(rows.poll_keys(&mut self.cursor, self.piece, &mut entries, turn))?;
            // A piece may be shorter than what was asked for; none is the end.
            let mut over = entries.is_empty();
            for (key, row) in &entries {
                if range.is_below(key) {
                    over = true;
                    break;
                }
                if !range.is_above(key) {
                    self.builder.insert(row.get());
                    self.met += 1;
                }
            }
            if over {
                self.at += 1;
                self.enter();
            }
            if !turn.spend(DESCENT) && !self.done {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Where a walk along all keys may begin.
    pub(super) fn walk_from(&self, direction: Direction) -> Option<Bytes> {
        let range = match direction {
            Direction::Ascending => self.ranges.get(0),
            Direction::Descending => self.ranges.last(),
        };
        range.and_then(|range| range.start(direction))
    }

    /// Whether no key from this one on meets the condition.
    pub(super) fn is_over(&self, key: &[u8], direction: Direction) -> bool {
        match direction {
            Direction::Ascending => self.ranges.last().is_none_or(|range| range.is_below(key)),
            Direction::Descending => self.ranges.get(0).is_none_or(|range| range.is_above(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::RangeBounds;

    fn range(low: Bound<i32>, high: Bound<i32>) -> Keys {
        let op = Op::Range {
            low: low.map(Value::Int4),
            high: high.map(Value::Int4),
        };
        Keys::new(&op).expect("a range")
    }

    #[test]
    fn keys_between_bounds() {
        use Bound::{Excluded, Included, Unbounded};
        let numbers = [i32::MIN, -257, -1, 0, 1, 4, 5, 6, 255, 256, 257, i32::MAX];
        let bounds = |n: i32| [Included(n), Excluded(n), Unbounded];
        for low in numbers.iter().flat_map(|n| bounds(*n)) {
            for high in numbers.iter().flat_map(|n| bounds(*n)) {
                let keys = range(low, high);
                for n in numbers {
                    let key = bytes(&Value::Int4(n)).expect("a key");
                    let wanted = (low, high).contains(&n);
                    assert_eq!(keys.holds(&key), wanted, "{n} in {low:?} {high:?}");
                    // A walk meets every key that holds: it begins before, and ends behind it.
                    for direction in [Direction::Ascending, Direction::Descending] {
                        if wanted {
                            assert!(!keys.is_over(&key, direction));
                            let from = keys.walk_from(direction);
                            assert!(from.is_none_or(|from| match direction {
                                Direction::Ascending => from < key,
                                Direction::Descending => from > key,
                            }));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_list_is_its_values() {
        let list = [7, -3, 7, 100].map(Value::Int4);
        let keys = Keys::new(&Op::In(list.to_vec())).expect("a list");
        let held: Vec<i32> = (-10..120)
            .filter(|n| keys.holds(&bytes(&Value::Int4(*n)).expect("a key")))
            .collect();
        assert_eq!(held, [-3, 7, 100]);
        assert_eq!(keys.estimate(1_000).rows, 3);
        let texts = ["a", "b", "ab"].map(|t| Value::Text(t.to_owned()));
        let keys = Keys::new(&Op::In(texts.to_vec())).expect("a list");
        for (text, holds) in [
            ("a", true),
            ("ab", true),
            ("aa", false),
            ("", false),
            ("b", true),
        ] {
            let key = bytes(&Value::Text(text.to_owned())).expect("a key");
            assert_eq!(keys.holds(&key), holds, "{text}");
        }
    }
}
