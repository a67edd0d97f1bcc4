//! The set form of a predicate.
//!
//! It is answered in one of three ways, by what is cheapest:
//! the rows wanted are few: each is asked; many rows are expected: all rows of the block are
//! asked, as they stand; otherwise the tree's proposals are gathered once, in pieces, and those
//! of the block are asked. In each way a row's own place decides.

use std::task::Poll;

use nodedb_types::Result;

use super::Places;
use super::predicate::{Predicate, STEPS_PER_UNIT};
use super::tree::{VISITS_PER_UNIT, Walk};
use crate::engine::{Estimate, Truth};
use crate::pace::{BLOCK_OPERATION, Turn};
use crate::set::{BlockSet, RowSet, RowSetBuilder};

/// From so many rows of a block on, it pays to make asking cheaper.
const PREPARE_MIN: usize = 300;

/// A predicate made ready.
pub struct PlaceSource {
    pub(super) predicate: Predicate,
    /// Rows for which it is true, as far as can be told beforehand.
    rows: u64,
    /// Units of gathering all proposals.
    walk_units: u64,
    proposals: Proposals,
    answered: Answered,
}

enum Proposals {
    /// Every row that has a place.
    All,
    Gathering {
        walk: Walk,
        rows: RowSetBuilder,
    },
    Gathered(RowSet),
}

/// What is known of the block asked about last.
#[derive(Default)]
struct Answered {
    block: u16,
    asked: BlockSet,
    yes: BlockSet,
}

impl Answered {
    fn take(&mut self, asked: &BlockSet, yes: Vec<u16>) {
        self.asked.union(asked);
        self.yes.union(&BlockSet::from_sorted(yes));
    }
}

impl PlaceSource {
    pub(super) fn new(index: &Places, predicate: Predicate) -> PlaceSource {
        let rows = index
            .tree
            .estimate(predicate.boxes())
            .min(index.store.len());
        let proposals = match rows * 2 > index.store.len() {
            true => Proposals::All,
            false => Proposals::Gathering {
                walk: Walk::Start,
                rows: RowSetBuilder::default(),
            },
        };
        PlaceSource {
            walk_units: index.tree.walk_units(rows),
            predicate,
            rows,
            proposals,
            answered: Answered::default(),
        }
    }

    pub(super) fn estimate(&self) -> Estimate {
        let (rows, setup) = match &self.proposals {
            Proposals::Gathered(rows) => (rows.len(), 0),
            Proposals::Gathering { .. } => (self.rows, self.walk_units),
            Proposals::All => (self.rows, 0),
        };
        Estimate {
            rows,
            setup,
            row: self.predicate.units(),
        }
    }

    fn poll_gather(&mut self, index: &Places, turn: &Turn<'_>) -> Poll<()> {
        let Proposals::Gathering { walk, rows } = &mut self.proposals else {
            return Poll::Ready(());
        };
        let polled = walk.poll(
            &index.tree,
            |bounds| self.predicate.may_hold(bounds),
            |entry| rows.insert(entry.surrogate),
            VISITS_PER_UNIT,
            turn,
        );
        if polled.is_ready() {
            self.proposals = Proposals::Gathered(rows.finish());
        }
        polled
    }

    pub(super) fn poll_next_block(
        &mut self,
        index: &Places,
        from: u16,
        turn: &Turn<'_>,
    ) -> Poll<Result<Option<u16>>> {
        if self.poll_gather(index, turn).is_pending() {
            return Poll::Pending;
        }
        let proposed = match &self.proposals {
            Proposals::All => index.store.next_block(from),
            Proposals::Gathered(rows) => rows.next_block(from),
            Proposals::Gathering { .. } => None,
        };
        let single = index.store.next_single_block(from, self.predicate.srid());
        Poll::Ready(Ok(proposed.into_iter().chain(single).min()))
    }

    pub(super) fn poll_block(
        &mut self,
        index: &Places,
        block: u16,
        wanted: Option<&BlockSet>,
        turn: &Turn<'_>,
    ) -> Poll<Result<Truth>> {
        let is_few = |wanted: &BlockSet| {
            let steps = wanted.len() as u64 * u64::from(self.predicate.steps());
            steps / u64::from(STEPS_PER_UNIT) <= self.estimate().setup
        };
        let mut rows = match wanted {
            Some(wanted) if is_few(wanted) => wanted.clone(),
            _ => {
                if self.poll_gather(index, turn).is_pending() {
                    return Poll::Pending;
                }
                self.to_ask(index, block, wanted)
            }
        };
        if self.answered.block != block {
            self.answered = Answered {
                block,
                ..Answered::default()
            };
        }
        rows.subtract(&self.answered.asked);
        if rows.len() >= PREPARE_MIN {
            self.predicate.prepare();
        }
        let mut has_more = turn.spend(2 * BLOCK_OPERATION);
        let (mut yes, mut unpaid) = (Vec::with_capacity(rows.len()), 0);
        for low in rows.iter() {
            let surrogate = u32::from(block) << 16 | u32::from(low);
            let mut steps = 1;
            if let Some(place) = index.store.get(surrogate) {
                let holds;
                (holds, steps) = match self.predicate.holds(&place) {
                    Ok(answer) => answer,
                    Err(failure) => return Poll::Ready(Err(failure)),
                };
                if holds {
                    yes.push(low);
                }
            }
            unpaid += steps;
            if unpaid >= STEPS_PER_UNIT {
                has_more = turn.spend(unpaid / STEPS_PER_UNIT) && has_more;
                unpaid %= STEPS_PER_UNIT;
            }
            if !has_more {
                let asked = rows.iter().take_while(|asked| *asked <= low);
                self.answered.take(&BlockSet::from_sorted(asked), yes);
                return Poll::Pending;
            }
        }
        self.answered.take(&rows, yes);
        let yes = self.answered.yes.clone();
        let nulls = index.store.nulls().block(block);
        let mut unknown = nulls.cloned().unwrap_or_default();
        unknown.subtract(&yes);
        Poll::Ready(Ok(Truth { yes, unknown }))
    }

    /// The rows of a block for which it may be true or fail.
    fn to_ask(&self, index: &Places, block: u16, wanted: Option<&BlockSet>) -> BlockSet {
        let mut rows = match &self.proposals {
            Proposals::All => index.store.rows(block),
            Proposals::Gathering { .. } => BlockSet::new(),
            Proposals::Gathered(rows) => {
                let mut rows = rows.block(block).cloned().unwrap_or_default();
                rows.union(&index.store.single(block, self.predicate.srid()));
                rows
            }
        };
        if let Some(wanted) = wanted {
            rows.intersect(wanted);
        }
        rows
    }
}
