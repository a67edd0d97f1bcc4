//! Order by the key or by an ordered index: the rows are found first, then their order bytes and
//! keys are read from their visible versions, and sorted.
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

/// Sends all rows of the parts in order; gives their number before the limit.
pub(super) async fn send(
    cx: &Context,
    parts: &[Part],
    by: By,
    direction: Direction,
    sender: &mut Sender<'_>,
) -> Result<u64> {
    let mut gather = Gather {
        cx,
        by,
        direction,
        sorter: Sorter::new(sender.limit()),
        held: Held::new(cx),
    };
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
    for (_, _, at, id) in finish(cx, gather.sorter).await? {
        sender.row(&parts[at], id, None).await?;
    }
    Ok(found)
}

/// Sorts the last run, which is paid for beforehand.
pub(super) async fn finish<T: Ord>(cx: &Context, sorter: Sorter<T>) -> Result<Sorted<T>> {
    cx.spend(sorter.finish_units()).await?;
    Ok(sorter.finish())
}

struct Gather<'a> {
    cx: &'a Context,
    by: By,
    direction: Direction,
    sorter: Sorter<Entry>,
    held: Held<'a>,
}

impl Gather<'_> {
    /// Takes the rows of a block in, each with its order bytes and key.
    async fn add(&mut self, at: usize, part: &Part, block: u16, rows: &BlockSet) -> Result<()> {
        let engine = match self.by {
            By::Key => None,
            By::Index(index) => Some(index_of(&*part.rows, index)?),
        };
        part.examined.set(part.examined.get() + rows.len() as u64);
        let (cx, direction) = (self.cx, self.direction);
        let (sorter, held) = (&mut self.sorter, &mut self.held);
        part.read_each(cx, rows.surrogates(block), 2, |version, row| {
            let (mut order, key): (Box<[u8]>, &[u8]) = match &engine {
                None => (version.key.into(), &[]),
                Some(engine) => (engine.borrow().order_bytes(row)?, version.key),
            };
            if direction == Direction::Descending {
                order.iter_mut().for_each(|byte| *byte = !*byte);
            }
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
