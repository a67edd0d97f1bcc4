//! The set form of a predicate.
//!
//! It is answered in one of three ways, by what is cheapest:
//! the rows wanted are few: each is asked; many rows are expected: all rows of the block are
//! asked, as they stand; otherwise the tree's proposals are gathered once, in pieces, and those
//! of the block are asked. In each way a row's own place decides. A circle decides points in a
//! row, extent by extent, and only those near its rim, and shapes, are asked one by one.

use std::task::Poll;

use nodedb_types::Result;

use nodedb_types::limits::EXTENT_SMALL;

use super::Places;
use super::predicate::{Predicate, SINGLE, STEPS_PER_UNIT};
use super::store::Store;
use super::tree::{VISITS_PER_UNIT, Walk};
use crate::engine::{Estimate, Truth};
use crate::pace::{BLOCK_OPERATION, Turn};
use crate::set::{BlockSet, RowSet, RowSetBuilder};

/// From so many rows of a block on, it pays to make asking cheaper.
const PREPARE_MIN: usize = 300;
/// Rows that are decided before the turn is looked at again.
const PIECE: usize = 256;

/// A predicate made ready.
pub struct PlaceSource {
    pub(super) predicate: Predicate,
    /// Rows for which it is true, as far as can be told beforehand.
    rows: u64,
    /// Units of gathering all proposals.
    walk_units: u64,
    /// Units of the answer for all rows.
    whole_units: u64,
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

/// What is known of a block that is not answered yet.
#[derive(Default)]
struct Answered {
    block: u16,
    asked: BlockSet,
    yes: BlockSet,
}

impl Answered {
    /// `yes` and `late`: the rows for which it is true, those that were asked singly apart.
    fn take(&mut self, asked: &BlockSet, yes: Vec<u16>, late: Vec<u16>) {
        self.asked.union(asked);
        self.yes.union(&BlockSet::from_sorted(yes));
        self.yes.union(&BlockSet::from_sorted(late));
    }
}

impl PlaceSource {
    pub(super) fn new(index: &Places, predicate: Predicate) -> PlaceSource {
        let rows = index
            .tree
            .estimate(predicate.boxes())
            .min(index.store.len());
        let asking = |rows: u64| rows * u64::from(predicate.steps()) / u64::from(STEPS_PER_UNIT);
        let walk_units = index.tree.walk_units(rows);
        let (all, proposed) = (asking(index.store.len()), walk_units + asking(rows));
        let proposals = match all <= proposed {
            true => Proposals::All,
            false => Proposals::Gathering {
                walk: Walk::Start,
                rows: RowSetBuilder::default(),
            },
        };
        PlaceSource {
            walk_units,
            whole_units: all.min(proposed),
            predicate,
            rows,
            proposals,
            answered: Answered::default(),
        }
    }

    /// It is never prepared for rows that are asked at less: asking rows here is cheaper than
    /// reading them.
    pub(super) fn estimate(&self) -> Estimate {
        let rows = match &self.proposals {
            Proposals::Gathered(rows) => rows.len(),
            Proposals::Gathering { .. } | Proposals::All => self.rows,
        };
        Estimate {
            rows,
            setup: 0,
            whole: self.whole_units,
            row: self.predicate.units(),
        }
    }

    /// Units to be spent before the tree's proposals are there.
    fn gather_units(&self) -> u64 {
        match &self.proposals {
            Proposals::Gathering { .. } => self.walk_units,
            Proposals::All | Proposals::Gathered(_) => 0,
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
            steps / u64::from(STEPS_PER_UNIT) <= self.gather_units()
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
        // At least a piece is asked, however little the turn has left.
        let _ = turn.spend(2 * BLOCK_OPERATION);
        let asked = rows.to_vec();
        let mut asking = Asking::new(&self.predicate, &index.store, block, asked.len());
        for (at, piece) in asked.chunks(PIECE).enumerate() {
            let has_more = match asking.ask(piece, turn) {
                Ok(has_more) => has_more,
                Err(failure) => return Poll::Ready(Err(failure)),
            };
            let asked = &asked[..asked.len().min((at + 1) * PIECE)];
            if !has_more && (asked.len() < rows.len() || !asking.left.is_empty()) {
                let mut asked = BlockSet::from_sorted(asked.iter().copied());
                asked.subtract(&BlockSet::from_sorted(asking.left.iter().rev().copied()));
                let (yes, late) = (asking.yes, asking.late);
                self.answered.take(&asked, yes, late);
                return Poll::Pending;
            }
        }
        // What was answered in earlier turns is not needed again.
        let mut yes = std::mem::take(&mut self.answered).yes;
        yes.union(&BlockSet::from_sorted(asking.late));
        match yes.is_empty() {
            true => yes = BlockSet::from_sorted(asking.yes),
            false => yes.union(&BlockSet::from_sorted(asking.yes)),
        }
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

/// Rows of one block being asked, in ascending pieces.
struct Asking<'a> {
    predicate: &'a Predicate,
    store: &'a Store,
    block: u16,
    /// Rows for which it is true, as the circle tells, ascending.
    yes: Vec<u16>,
    /// The same of those that were asked singly.
    late: Vec<u16>,
    /// Rows of the piece that are still to be asked singly, the next one last.
    left: Vec<u16>,
    /// Steps that do not make a unit yet.
    unpaid: u32,
}

impl<'a> Asking<'a> {
    /// `rows`: how many are asked at most.
    fn new(predicate: &'a Predicate, store: &'a Store, block: u16, rows: usize) -> Asking<'a> {
        Asking {
            predicate,
            store,
            block,
            yes: Vec::with_capacity(rows),
            late: Vec::new(),
            left: Vec::with_capacity(PIECE),
            unpaid: 0,
        }
    }

    /// Asks a piece, one row of it at least; false when nothing is left of the turn, with what was
    /// not asked in `left`.
    fn ask(&mut self, piece: &[u16], turn: &Turn<'_>) -> Result<bool> {
        self.left.clear();
        let decided = self.decide(piece);
        self.left.reverse();
        let mut has_more = self.pay(decided, turn);
        while let Some(low) = self.left.pop() {
            let surrogate = u32::from(self.block) << 16 | u32::from(low);
            let mut steps = SINGLE;
            if let Some(place) = self.store.get(surrogate) {
                let holds;
                (holds, steps) = self.predicate.holds(&place)?;
                if holds {
                    self.late.push(low);
                }
            }
            has_more = self.pay(steps, turn) && has_more;
            if !has_more {
                break;
            }
        }
        Ok(has_more)
    }

    fn pay(&mut self, steps: u32, turn: &Turn<'_>) -> bool {
        self.unpaid += steps;
        let units = self.unpaid / STEPS_PER_UNIT;
        self.unpaid %= STEPS_PER_UNIT;
        units == 0 || turn.spend(units)
    }

    /// Decides the points of a piece about which a prepared circle is sure; the other rows that
    /// may have a place are left. Gives the steps that it took.
    fn decide(&mut self, piece: &[u16]) -> u32 {
        let Some(circle) = self.predicate.prepared() else {
            self.left.extend_from_slice(piece);
            return 0;
        };
        let extent_of = |low: u16| (u32::from(self.block) << 16 | u32::from(low)) / EXTENT_SMALL;
        for rows in piece.chunk_by(|a, b| extent_of(*a) == extent_of(*b)) {
            let extent = extent_of(rows[0]);
            let has_shapes = self.store.has_shapes(extent);
            let Some(points) = self.store.points().extent(extent) else {
                if has_shapes {
                    self.left.extend_from_slice(rows);
                }
                continue;
            };
            // Written in any case and kept by moving on, so that nothing branches on the answer.
            let (mut yes, mut left) = ([0; PIECE], [0; PIECE]);
            let (mut yes_len, mut left_len) = (0, 0);
            for low in rows {
                let (is_point, [x, y]) = points.look(usize::from(*low) % EXTENT_SMALL as usize);
                let (inside, outside) = circle.decide(x, y);
                let is_open = !(inside | outside);
                yes[yes_len] = *low;
                yes_len += usize::from(is_point & inside);
                left[left_len] = *low;
                left_len += usize::from((is_point & is_open) | (!is_point & has_shapes));
            }
            self.yes.extend_from_slice(&yes[..yes_len]);
            self.left.extend_from_slice(&left[..left_len]);
        }
        piece.len() as u32
    }
}
