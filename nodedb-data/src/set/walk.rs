//! The first rows of an order without looking at all rows: goes along the key index or an ordered
//! index and asks the predicate about what it meets, until no later row can be among the first.
//!
//! Each shard is walked for itself, and the best of all are kept. The index shows the applied
//! state, so a row counts where the walk meets it only if it is not in U once its block's last
//! set was read. Rows of U are looked at apart, by their visible versions: those of the start at
//! the start, and after each stretch those that changed during it. A row is taken once: either
//! the walk met it before it changed, or it is among the latter.

use std::collections::BTreeMap;

use nodedb_bridge::plan::Direction;
use nodedb_types::Result;

use super::block::BlockSet;
use super::changes::Mark;
use super::context::Context;
use super::evaluate::{Of, Scope};
use super::ordered::{By, Gather};
use super::part::{Part, index_of};
use super::row_set::RowSet;
use super::rows::KeyCursor;
use crate::engine::Place;

/// Largest limit for which a walk is thought of.
const LIMIT_MAX: u64 = 1024;
/// Entries of the first stretch, and of the longest.
const STRETCH_MIN: usize = 32;
const STRETCH_MAX: usize = 1024;
/// A walk gives up beyond this many entries or this part of the rows: the guess was wrong.
const GIVE_UP_MIN: u64 = 256;
const GIVE_UP_PART: u64 = 4;

/// The first `limit` rows of all parts, or `None` where that is better found by sorting.
pub(super) async fn best<'a>(
    cx: &'a Context,
    parts: &[Part],
    by: By,
    direction: Direction,
    limit: Option<u64>,
) -> Result<Option<Gather<'a>>> {
    let Some(limit) = limit.filter(|limit| *limit <= LIMIT_MAX) else {
        return Ok(None);
    };
    let mut gather = Gather::new(cx, by, direction, Some(limit));
    for (at, part) in parts.iter().enumerate() {
        if !is_worth_it(part, by, limit) {
            return Ok(None);
        }
        let mut walk = Walk {
            cx,
            at,
            part,
            taken: RowSet::new(),
            mark: part.rows.mark(),
        };
        walk.take_changed(&mut gather).await?;
        if !walk.go(&mut gather, by, direction).await? {
            return Ok(None);
        }
    }
    Ok(Some(gather))
}

/// Weighs the entries that a walk will meet against the rows that a sort has to read.
fn is_worth_it(part: &Part, by: By, limit: u64) -> bool {
    let alive = part.rows.rows_alive();
    // Along the key the walk begins and ends with the keys that the rows may have.
    let all = match (by, part.keys()) {
        (By::Key, Some(keys)) => keys.borrow().estimate(alive).rows.max(1),
        _ => alive,
    };
    let likely = part.likely_rows(&part.set).max(1);
    limit.saturating_mul(all) / likely < likely.saturating_mul(2)
}

struct Walk<'a> {
    cx: &'a Context,
    at: usize,
    part: &'a Part,
    /// Rows that have been decided: met before they changed, or looked at as changed.
    taken: RowSet,
    /// Changes before this have been looked at.
    mark: Mark,
}

impl Walk<'_> {
    /// Looks at the rows of U as they are now.
    async fn take_changed(&mut self, gather: &mut Gather<'_>) -> Result<()> {
        let (part, snapshot) = (self.part, self.cx.snapshot());
        let mut from = Some(0);
        while let Some(block) = from.and_then(|from| part.rows.next_changed_block(snapshot, from)) {
            let changed = part.rows.changed_since(snapshot, block);
            self.take_visible(gather, block, &changed).await?;
            from = block.checked_add(1);
        }
        Ok(())
    }

    async fn take_visible(
        &mut self,
        gather: &mut Gather<'_>,
        block: u16,
        changed: &BlockSet,
    ) -> Result<()> {
        self.taken.union_block(block, changed);
        let visible = self.part.visible(self.cx, block, changed).await?;
        gather.add(self.at, self.part, block, &visible).await
    }

    /// Walks until no later row can be among the first; false when it gave up.
    async fn go(&mut self, gather: &mut Gather<'_>, by: By, direction: Direction) -> Result<bool> {
        let mut stretches = Stretches::new(self.part, by, direction)?;
        let keys = match by {
            By::Key => self.part.keys(),
            By::Index(_) => None,
        };
        let is_over = |last: &[u8]| keys.is_some_and(|k| k.borrow().is_over(last, direction));
        let give_up = GIVE_UP_MIN.max(self.part.rows.rows_alive() / GIVE_UP_PART);
        let (mut walked, mut length) = (0, STRETCH_MIN);
        loop {
            if walked > give_up {
                return Ok(false);
            }
            let entries = stretches.next(self.cx, length).await?;
            let Some((last, _)) = entries.last() else {
                // Rows that were not met have left the index, or moved behind the walk, meanwhile.
                self.take(gather, &[]).await?;
                return Ok(true);
            };
            self.take(gather, &entries).await?;
            if is_over(last) || !gather.wants_from(last) {
                return Ok(true);
            }
            walked += entries.len() as u64;
            length = (length * 2).min(STRETCH_MAX);
        }
    }

    /// Decides about the rows of a stretch, and then about those that changed since the last.
    async fn take(&mut self, gather: &mut Gather<'_>, entries: &[Place]) -> Result<()> {
        let (part, cx) = (self.part, self.cx);
        let mut blocks: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
        for (_, row) in entries {
            blocks
                .entry((row >> 16) as u16)
                .or_default()
                .push(*row as u16);
        }
        for (block, rows) in blocks {
            let rows: BlockSet = rows.into_iter().collect();
            let scope = Scope {
                block,
                of: Of::Applied,
            };
            let truth = part
                .evaluate_set(cx, &part.set, scope, Some(&rows), false)
                .await?;
            let mut met = truth.yes;
            met.subtract(&part.rows.changed_since(cx.snapshot(), block));
            self.taken.union_block(block, &met);
            gather.add(self.at, part, block, &met).await?;
        }
        let mut late = part.rows.changed_after(self.mark);
        self.mark = part.rows.mark();
        late.subtract(&self.taken);
        for (block, changed) in late.blocks() {
            self.take_visible(gather, block, changed).await?;
        }
        Ok(())
    }
}

/// The entries of an order, a stretch at a time.
enum Stretches<'a> {
    Key(&'a Part, KeyCursor),
    Index(crate::engine::SharedIndex, Direction, Option<Place>),
}

impl<'a> Stretches<'a> {
    fn new(part: &'a Part, by: By, direction: Direction) -> Result<Stretches<'a>> {
        Ok(match by {
            By::Key => {
                let mut cursor = KeyCursor::new(direction);
                cursor.after = part.keys().and_then(|k| k.borrow().walk_from(direction));
                Stretches::Key(part, cursor)
            }
            By::Index(index) => Stretches::Index(index_of(&*part.rows, index)?, direction, None),
        })
    }

    /// At most `max` entries; none at the end.
    async fn next(&mut self, cx: &Context, max: usize) -> Result<Vec<Place>> {
        match self {
            Stretches::Key(part, cursor) => {
                let mut keys = Vec::new();
                cx.drive(|turn| part.rows.poll_keys(cursor, max, &mut keys, turn))
                    .await?;
                Ok(keys
                    .into_iter()
                    .map(|(key, row)| (key, row.get()))
                    .collect())
            }
            Stretches::Index(engine, direction, after) => {
                let walk = cx.drive(|turn| {
                    engine
                        .borrow()
                        .poll_walk(*direction, after.as_ref(), max, turn)
                });
                let entries = walk.await?;
                *after = entries.last().cloned();
                Ok(entries)
            }
        }
    }
}
