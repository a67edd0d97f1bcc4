//! Order by the key or by an ordered index.
//!
//! Usually the rows are found first, then their order bytes and keys are read from their visible
//! versions, and sorted. Where few are wanted of many, [`super::walk`] goes along the index
//! instead.
//!
//! Descending order bytes are complemented: no key's bytes begin another's, so that turns their
//! order around and one comparison serves both directions.

use nodedb_bridge::plan::Direction;
use nodedb_types::{IndexId, Result};

use super::block::BlockSet;
use super::context::Context;
use super::part::{Part, index_of};
use super::scan::Scan;
use super::send::{Held, Sender};
use super::sorter::{Sorted, Sorter};
use super::walk;

/// What orders rows.
#[derive(Clone, Copy)]
pub(super) enum By {
    Key,
    Index(IndexId),
}

/// A row in its place: order bytes, key, position of its part, surrogate.
type Entry = (Box<[u8]>, Box<[u8]>, usize, u32);

const ENTRY_BYTES: usize = size_of::<Entry>() + 32;

fn size(entry: &Entry) -> usize {
    ENTRY_BYTES + entry.0.len() + entry.1.len()
}

/// Sends all rows of the parts in order; gives their number before the limit, if all were found.
pub(super) async fn send(
    cx: &Context,
    parts: &[Part],
    by: By,
    direction: Direction,
    sender: &mut Sender<'_>,
) -> Result<Option<u64>> {
    if let Some(best) = walk::best(cx, parts, by, direction, sender.limit()).await? {
        best.send(parts, sender).await?;
        return Ok(None);
    }
    let mut gather = Gather::new(cx, by, direction, sender.limit());
    let mut found = 0;
    for (at, part) in parts.iter().enumerate() {
        let mut scan = Scan::new(part, cx, false);
        while let Some(piece) = scan.next().await? {
            found += piece.len();
            gather
                .add(at, part, piece.block, &piece.into_rows())
                .await?;
        }
    }
    gather.send(parts, sender).await?;
    Ok(Some(found))
}

/// Sorts the last run, which is paid for beforehand.
pub(super) async fn finish<T: Ord>(cx: &Context, sorter: Sorter<T>) -> Result<Sorted<T>> {
    cx.spend(sorter.finish_units()).await?;
    Ok(sorter.finish())
}

/// Rows with their places, of which the first are kept.
pub(super) struct Gather<'a> {
    cx: &'a Context,
    by: By,
    direction: Direction,
    sorter: Sorter<Entry>,
    held: Held<'a>,
}

/// Turns the order of places around where it is descending.
fn turn(mut order: Box<[u8]>, direction: Direction) -> Box<[u8]> {
    if direction == Direction::Descending {
        order.iter_mut().for_each(|byte| *byte = !*byte);
    }
    order
}

impl<'a> Gather<'a> {
    pub(super) fn new(
        cx: &'a Context,
        by: By,
        direction: Direction,
        limit: Option<u64>,
    ) -> Gather<'a> {
        Gather {
            cx,
            by,
            direction,
            sorter: Sorter::new(limit),
            held: Held::new(cx),
        }
    }

    /// True when a row with these order bytes, or larger ones in the direction, may be kept.
    pub(super) fn wants_from(&self, order: &[u8]) -> bool {
        let order = turn(order.into(), self.direction);
        let least: (&[u8], &[u8]) = (&order, &[]);
        self.sorter
            .wants(|worst| least.cmp(&(&*worst.0, &*worst.1)))
    }

    pub(super) async fn send(self, parts: &[Part], sender: &mut Sender<'_>) -> Result<()> {
        for (_, _, at, id) in finish(self.cx, self.sorter).await? {
            sender.row(&parts[at], id, None).await?;
        }
        Ok(())
    }

    /// Takes the rows of a block in, each with its order bytes and key.
    pub(super) async fn add(
        &mut self,
        at: usize,
        part: &Part,
        block: u16,
        rows: &BlockSet,
    ) -> Result<()> {
        let engine = match self.by {
            By::Key => None,
            By::Index(index) => Some(index_of(&*part.rows, index)?),
        };
        part.examined.set(part.examined.get() + rows.len() as u64);
        let (cx, direction) = (self.cx, self.direction);
        let (sorter, held) = (&mut self.sorter, &mut self.held);
        part.read_each(cx, rows.surrogates(block), 2, |version, row| {
            let (order, key): (Box<[u8]>, &[u8]) = match &engine {
                None => (version.key.into(), &[]),
                Some(engine) => (engine.borrow().order_bytes(row)?, version.key),
            };
            let order = turn(order, direction);
            if !sorter.wants(|worst| (&*order, key).cmp(&(&*worst.0, &*worst.1))) {
                return Ok(());
            }
            let entry = (order, key.into(), at, version.surrogate.get());
            held.add(size(&entry))?;
            let (units, dropped) = sorter.push(entry);
            cx.budget().spend(units);
            match dropped {
                Some(entry) => held.remove(size(&entry)),
                None => Ok(()),
            }
        })
        .await
    }
}
