//! Predicates of the ordered index: a few values are read where they stand, a range or a long
//! list is gathered into one set first, in pieces. Of a list longer than the index, the index's
//! values are looked up in the list and not the other way.

use std::ops::Bound;
use std::sync::Arc;
use std::task::Poll;

use nodedb_bridge::op::{EngineOp, ordered::Op};
use nodedb_types::{Failure, Result, Value, key};

use super::{Order, Ordered};
use crate::engine::{Estimate, Truth};
use crate::pace::{BLOCK_OPERATION, INDEX_STEP, Turn};
use crate::set::{BlockSet, RowSet, RowSetBuilder};

/// Up to this many values are looked up anew in each block.
const LOOKUPS_MAX: usize = 16;
/// Finding one value among many.
const LOOKUP: u32 = 3 * INDEX_STEP;
/// Entries looked at for an estimate.
const SAMPLE: usize = 32;

type Bytes = Box<[u8]>;

/// A predicate made ready.
pub struct OrderedSource {
    predicate: Predicate,
    /// Rows for which it is true, as of when the estimate was made.
    rows: u64,
    /// Values that are looked up to gather them all.
    lookups: u64,
    gathered: Gathered,
}

enum Predicate {
    /// Ascending, no value twice.
    In(Arc<[Bytes]>),
    /// Not empty: the lower bound lies below the upper one.
    Range(Bound<Bytes>, Bound<Bytes>),
    IsNull,
}

/// The set of a predicate that is not looked up block by block.
#[derive(Default)]
struct Gathered {
    /// Under way.
    builder: RowSetBuilder,
    /// Rows put into it so far.
    met: u64,
    /// When done.
    rows: RowSet,
    /// The last value that was gathered.
    after: Option<Bytes>,
    done: bool,
}

fn bytes(value: &Value) -> Result<Bytes> {
    Ok(key::of(value)?.into_boxed_slice())
}

fn bound(value: &Bound<Value>) -> Result<Bound<Bytes>> {
    Ok(match value {
        Bound::Included(value) => Bound::Included(bytes(value)?),
        Bound::Excluded(value) => Bound::Excluded(bytes(value)?),
        Bound::Unbounded => Bound::Unbounded,
    })
}

fn is_empty(low: &Bound<Bytes>, high: &Bound<Bytes>) -> bool {
    match (low, high) {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low >= high,
        _ => false,
    }
}

impl Predicate {
    fn new(op: &Op) -> Result<Predicate> {
        Ok(match op {
            Op::In(values) => {
                let values = values.iter().filter(|value| !value.is_null());
                let mut list = values.map(bytes).collect::<Result<Vec<_>>>()?;
                list.sort_unstable();
                list.dedup();
                Predicate::In(list.into())
            }
            Op::Listed(list) => Predicate::In(list.bytes().clone()),
            Op::Range { low, high } => match (bound(low)?, bound(high)?) {
                (low, high) if is_empty(&low, &high) => Predicate::In(Arc::default()),
                (low, high) => Predicate::Range(low, high),
            },
            Op::IsNull => Predicate::IsNull,
        })
    }
}

impl OrderedSource {
    pub(super) fn new(index: &Ordered, op: &EngineOp) -> Result<OrderedSource> {
        let EngineOp::Ordered(op) = op else {
            return Err(Failure::internal(
                "an ordered index was asked for another op",
            ));
        };
        let predicate = Predicate::new(op)?;
        let rows = match &predicate {
            Predicate::In(list) => {
                let sample = list.iter().take(SAMPLE);
                let found: u64 = sample.map(|value| index.rows_of(value)).sum();
                found * list.len().max(1) as u64 / list.len().clamp(1, SAMPLE) as u64
            }
            Predicate::Range(low, high) => {
                let mut entries = index.values.range(as_slice(low), as_slice(high));
                let found = entries
                    .by_ref()
                    .take(SAMPLE)
                    .map(|(_, rows)| rows.len())
                    .sum();
                match entries.next() {
                    // The usual guess for a range of unknown width is a third.
                    Some(_) => (index.values.rows() / 3).max(found),
                    None => found,
                }
            }
            Predicate::IsNull => index.nulls.len(),
        };
        let lookups = match &predicate {
            Predicate::In(list) => (list.len() as u64).min(index.values.rows()),
            Predicate::Range(..) | Predicate::IsNull => 0,
        };
        Ok(OrderedSource {
            predicate,
            rows,
            lookups,
            gathered: Gathered::default(),
        })
    }

    /// True when blocks are answered without gathering first.
    fn is_direct(&self) -> bool {
        match &self.predicate {
            Predicate::In(list) => list.len() <= LOOKUPS_MAX,
            Predicate::Range(..) => false,
            Predicate::IsNull => true,
        }
    }

    pub(super) fn estimate(&self) -> Estimate {
        let left = self.rows.saturating_sub(self.gathered.met).max(1);
        Estimate {
            rows: self.rows,
            setup: match self.is_direct() || self.gathered.done {
                true => 0,
                false => left * u64::from(INDEX_STEP) + self.lookups * u64::from(LOOKUP),
            },
            whole: 0,
            row: 1,
        }
    }

    pub(super) fn poll_next_block(
        &mut self,
        index: &Ordered,
        from: u16,
        turn: &Turn<'_>,
    ) -> Poll<Result<Option<u16>>> {
        let next = match &self.predicate {
            Predicate::IsNull => index.nulls.next_block(from),
            Predicate::In(list) if self.is_direct() => {
                let postings = list.iter().filter_map(|value| index.values.get(value));
                postings.filter_map(|rows| rows.next_block(from)).min()
            }
            Predicate::In(_) | Predicate::Range(..) => {
                if self.poll_gather(index, turn).is_pending() {
                    return Poll::Pending;
                }
                self.gathered.rows.next_block(from)
            }
        };
        Poll::Ready(Ok(next))
    }

    pub(super) fn poll_block(
        &mut self,
        index: &Ordered,
        block: u16,
        turn: &Turn<'_>,
    ) -> Poll<Result<Truth>> {
        let of_block = |rows: &RowSet| rows.block(block).cloned().unwrap_or_default();
        let mut truth = Truth {
            yes: BlockSet::new(),
            unknown: of_block(&index.nulls),
        };
        match &self.predicate {
            Predicate::IsNull => std::mem::swap(&mut truth.yes, &mut truth.unknown),
            Predicate::In(list) if self.is_direct() => {
                for rows in list.iter().filter_map(|value| index.values.get(value)) {
                    rows.add_block(block, &mut truth.yes);
                }
            }
            Predicate::In(_) | Predicate::Range(..) => {
                if self.poll_gather(index, turn).is_pending() {
                    return Poll::Pending;
                }
                truth.yes = of_block(&self.gathered.rows);
            }
        }
        // The block is answered; a spent budget stops whoever asks next.
        let _ = turn.spend(BLOCK_OPERATION);
        // A row that got or lost its NULL while the set was gathered stands on one side only.
        truth.unknown.subtract(&truth.yes);
        Poll::Ready(Ok(truth))
    }

    /// Goes on gathering where the last turn stopped: behind the last value, which stays a good
    /// position whatever was inserted or removed meanwhile.
    fn poll_gather(&mut self, index: &Ordered, turn: &Turn<'_>) -> Poll<()> {
        let gathered = &mut self.gathered;
        if gathered.done {
            return Poll::Ready(());
        }
        match &self.predicate {
            Predicate::IsNull => {}
            Predicate::In(list) if list.len() as u64 > index.values.rows() => {
                let low = gathered.after.as_deref();
                let low = low.map_or(Bound::Unbounded, Bound::Excluded);
                let mut from = 0;
                for (value, rows) in index.values.range(low, Bound::Unbounded) {
                    from += list[from..].partition_point(|listed| **listed < *value);
                    let found = list.get(from).is_some_and(|listed| **listed == *value);
                    if found {
                        rows.add_all(&mut gathered.builder);
                        gathered.met += rows.len();
                    }
                    if !turn.spend(LOOKUP + cost(found.then_some(rows))) {
                        gathered.after = Some(value.into());
                        return Poll::Pending;
                    }
                }
            }
            Predicate::In(list) => {
                let from = match &gathered.after {
                    Some(after) => list.partition_point(|value| value <= after),
                    None => 0,
                };
                for value in &list[from..] {
                    let rows = index.values.get(value);
                    if let Some(rows) = rows {
                        rows.add_all(&mut gathered.builder);
                        gathered.met += rows.len();
                    }
                    if !turn.spend(LOOKUP + cost(rows)) {
                        gathered.after = Some(value.clone());
                        return Poll::Pending;
                    }
                }
            }
            Predicate::Range(low, high) => {
                let low = match &gathered.after {
                    Some(after) => Bound::Excluded(&after[..]),
                    None => as_slice(low),
                };
                for (value, rows) in index.values.range(low, as_slice(high)) {
                    rows.add_all(&mut gathered.builder);
                    gathered.met += rows.len();
                    if !turn.spend(INDEX_STEP + cost(Some(rows))) {
                        gathered.after = Some(value.into());
                        return Poll::Pending;
                    }
                }
            }
        }
        gathered.rows = gathered.builder.finish();
        gathered.done = true;
        gathered.after = None;
        Poll::Ready(())
    }

    /// The value of the predicate for the order bytes of a row.
    pub(super) fn matches(&self, order: &Order) -> Option<bool> {
        match (&self.predicate, order) {
            (Predicate::IsNull, order) => Some(matches!(order, Order::Null)),
            (_, Order::Null) => None,
            (Predicate::In(list), Order::Value(bytes)) => {
                Some(list.binary_search_by(|value| (**value).cmp(bytes)).is_ok())
            }
            (Predicate::Range(low, high), Order::Value(bytes)) => {
                let above = match low {
                    Bound::Included(low) => **bytes >= **low,
                    Bound::Excluded(low) => **bytes > **low,
                    Bound::Unbounded => true,
                };
                let below = match high {
                    Bound::Included(high) => **bytes <= **high,
                    Bound::Excluded(high) => **bytes < **high,
                    Bound::Unbounded => true,
                };
                Some(above && below)
            }
        }
    }
}

/// Units of taking over one value's rows.
fn cost(rows: Option<&super::postings::Postings>) -> u32 {
    match rows {
        Some(rows) if rows.len() > 1 => rows.blocks() * BLOCK_OPERATION,
        _ => 0,
    }
}

pub(super) fn as_slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(bytes) => Bound::Included(bytes),
        Bound::Excluded(bytes) => Bound::Excluded(bytes),
        Bound::Unbounded => Bound::Unbounded,
    }
}
