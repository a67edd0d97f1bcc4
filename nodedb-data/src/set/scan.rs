//! Walks the blocks of one shard's part and makes each of them exact at the snapshot.
//!
//! The blocks visited are those in which the expression may be true and those with rows of U.
//! Which of the latter there are is asked after the former, and U of a block is taken after the
//! block's last set was read, so a row that changes in between is in U and not missed.

use nodedb_bridge::plan::SetExpr;
use nodedb_types::Result;

use super::block::BlockSet;
use super::context::Context;
use super::evaluate::{Of, Scope};
use super::part::{Form, Part};
use crate::pace::BLOCK_OPERATION;

/// Ids of a first piece where rows are evaluated one by one and few may be enough.
const PIECE_MIN: u32 = 1024;

pub(super) struct Scan<'a> {
    part: &'a Part,
    cx: &'a Context,
    /// First surrogate of the next piece; 2^32 at the end.
    from: u64,
    /// Ids of the next piece; a whole block unless rows are evaluated and a limit may stop us.
    piece: u32,
}

/// The rows of one piece that satisfy the predicate at the snapshot.
pub(super) struct Piece {
    pub(super) block: u16,
    /// Those that have not changed since.
    pub(super) steady: BlockSet,
    /// Those of U, by their visible versions.
    pub(super) changed: BlockSet,
}

impl Piece {
    pub(super) fn len(&self) -> u64 {
        (self.steady.len() + self.changed.len()) as u64
    }

    /// All of them.
    pub(super) fn into_rows(self) -> BlockSet {
        let mut rows = self.steady;
        rows.union(&self.changed);
        rows
    }
}

impl<'a> Scan<'a> {
    /// `limited`: the caller may stop before the end.
    pub(super) fn new(part: &'a Part, cx: &'a Context, limited: bool) -> Scan<'a> {
        let small = limited && part.is_row_wise(&part.set);
        Scan {
            part,
            cx,
            from: 0,
            piece: if small { PIECE_MIN } else { 1 << 16 },
        }
    }

    /// The next piece with rows in it, in ascending surrogates.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>> {
        while self.from < 1 << 32 {
            let Some(piece) = self.step().await? else {
                self.from = 1 << 32;
                break;
            };
            if piece.len() > 0 {
                return Ok(Some(piece));
            }
            self.cx.spend(BLOCK_OPERATION).await?;
        }
        Ok(None)
    }

    async fn step(&mut self) -> Result<Option<Piece>> {
        let (part, cx) = (self.part, self.cx);
        let from = (self.from >> 16) as u16;
        let candidate = part.next_block(cx, &part.set, from).await?;
        let changed = part.rows.next_changed_block(cx.snapshot(), from);
        let Some(block) = candidate.into_iter().chain(changed).min() else {
            return Ok(None);
        };
        let range = self.take(block);
        let scope = Scope {
            block,
            of: Of::Applied,
        };
        let mut steady = BlockSet::new();
        if candidate == Some(block) {
            let inside = range.map(|(low, high)| {
                let mut inside = BlockSet::range(low, high);
                inside.intersect(&part.rows.alive(block));
                inside
            });
            let truth = part
                .evaluate_set(cx, &part.set, scope, inside.as_ref(), false)
                .await?;
            steady = truth.yes;
        }
        let mut changed = part.rows.changed_since(cx.snapshot(), block);
        if let Some((low, high)) = range {
            changed.intersect(&BlockSet::range(low, high));
        }
        steady.subtract(&changed);
        if !changed.is_empty() {
            changed = part.visible(cx, block, &changed).await?;
        }
        Ok(Some(Piece {
            block,
            steady,
            changed,
        }))
    }

    /// Moves behind the next piece of `block` and gives its bounds, unless it is the whole block.
    fn take(&mut self, block: u16) -> Option<(u16, u16)> {
        let first = self.from.max(u64::from(block) << 16);
        let end = (u64::from(block) + 1) << 16;
        self.from = end.min(first + u64::from(self.piece));
        self.piece = (self.piece * 2).min(1 << 16);
        let whole = self.from - first == 1 << 16;
        (!whole).then_some((first as u16, (self.from - 1) as u16))
    }
}

impl Part {
    /// Rows of U in a block whose visible version satisfies the whole predicate.
    pub(super) async fn visible(
        &self,
        cx: &Context,
        block: u16,
        changed: &BlockSet,
    ) -> Result<BlockSet> {
        let mut there = Vec::new();
        self.read_each(cx, changed.surrogates(block), 0, |version, _| {
            there.push(version.surrogate.get() as u16);
            Ok(())
        })
        .await?;
        let there = BlockSet::from_sorted(there);
        if there.is_empty() {
            return Ok(there);
        }
        let scope = Scope {
            block,
            of: Of::Visible(&there),
        };
        let truth = self
            .evaluate_set(cx, &self.set, scope, Some(&there), false)
            .await?;
        Ok(truth.yes)
    }

    /// The first block at or above `from` in which `set` may be true for a row of the applied
    /// state.
    async fn next_block(&self, cx: &Context, set: &SetExpr, from: u16) -> Result<Option<u16>> {
        match set {
            SetExpr::Nothing => Ok(None),
            SetExpr::All | SetExpr::Not(_) | SetExpr::IsUnknown(_) => {
                Ok(self.rows.next_alive_block(from))
            }
            SetExpr::Source(at) => match self.leaf(*at)?.form() {
                Form::Index { engine, source } => {
                    cx.drive(|turn| {
                        let source = &mut source.borrow_mut();
                        engine.borrow().poll_next_block(source, from, turn)
                    })
                    .await
                }
                Form::Keys(keys) => {
                    cx.drive(|turn| {
                        let keys = &mut keys.borrow_mut();
                        keys.poll_next_block(&*self.rows, from, turn)
                    })
                    .await
                }
                Form::Expression(_) => Ok(self.rows.next_alive_block(from)),
            },
            // The cheapest drives; the others are not asked before it has found something.
            SetExpr::And(terms) => match terms.first() {
                Some(first) => Box::pin(self.next_block(cx, first, from)).await,
                None => Ok(self.rows.next_alive_block(from)),
            },
            SetExpr::Or(terms) => {
                let mut next = None;
                for term in terms {
                    let of = Box::pin(self.next_block(cx, term, from)).await?;
                    next = next.into_iter().chain(of).min();
                }
                Ok(next)
            }
        }
    }
}
