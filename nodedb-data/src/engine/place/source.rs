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
use super::predicate::{PREPARE_UNITS, Predicate, SINGLE, STEPS_PER_UNIT};
use super::store::Store;
use super::tree::{VISITS_PER_UNIT, Walk};
use crate::engine::{Estimate, Truth};
use crate::pace::{BLOCK_OPERATION, Turn};
use crate::set::{BlockBuilder, BlockSet, RowSet, RowSetBuilder};

/// From so many rows of a block on, it pays to make asking cheaper.
pub(super) const PREPARE_MIN: usize = 300;
/// Rows that are decided before the turn is looked at again.
pub(super) const PIECE: usize = 256;

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
    /// The block that is not answered yet.
    asking: Option<Asking>,
    /// [`PREPARE_MIN`], and [`PIECE`] at the most: small blocks of tests reach as much with less.
    pub(super) prepare_min: usize,
    pub(super) piece: usize,
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
            asking: None,
            prepare_min: PREPARE_MIN,
            piece: PIECE,
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
        let mut asking = match self.asking.take() {
            Some(asking) if asking.block == block => asking,
            _ => {
                let Poll::Ready(rows) = self.poll_rows(index, block, wanted, turn) else {
                    return Poll::Pending;
                };
                let mut units = 2 * BLOCK_OPERATION;
                if rows.len() >= self.prepare_min && self.predicate.prepare() {
                    units += PREPARE_UNITS;
                }
                let asking = Asking::new(block, rows);
                if !turn.spend(units) {
                    self.asking = Some(asking);
                    return Poll::Pending;
                }
                asking
            }
        };
        match asking.ask(&self.predicate, &index.store, self.piece, turn) {
            Ok(true) => {}
            Ok(false) => {
                self.asking = Some(asking);
                return Poll::Pending;
            }
            Err(failure) => return Poll::Ready(Err(failure)),
        }
        // Too little to be put off to another turn.
        let _ = turn.spend(2 * BLOCK_OPERATION);
        let yes = asking.yes.finish();
        let nulls = index.store.nulls().block(block);
        let mut unknown = nulls.cloned().unwrap_or_default();
        unknown.subtract(&yes);
        Poll::Ready(Ok(Truth { yes, unknown }))
    }

    /// The rows of a block to be asked: those wanted where they are few.
    fn poll_rows(
        &mut self,
        index: &Places,
        block: u16,
        wanted: Option<&BlockSet>,
        turn: &Turn<'_>,
    ) -> Poll<BlockSet> {
        let is_few = |wanted: &BlockSet| {
            let steps = wanted.len() as u64 * u64::from(self.predicate.steps());
            steps / u64::from(STEPS_PER_UNIT) <= self.gather_units()
        };
        if let Some(wanted) = wanted.filter(|wanted| is_few(wanted)) {
            return Poll::Ready(wanted.clone());
        }
        if self.poll_gather(index, turn).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(self.to_ask(index, block, wanted))
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

/// Rows of one block being asked, in ascending pieces, over as many turns as it takes. It holds
/// row numbers only; places are looked up when their rows are asked.
struct Asking {
    block: u16,
    /// The rows to be asked, as they were found when it began.
    rows: BlockSet,
    /// Where the next piece begins; None after the last.
    from: Option<u16>,
    /// Rows of the piece that are still to be asked singly, the next one last.
    left: Vec<u16>,
    /// Rows for which it is true.
    yes: BlockBuilder,
    /// Steps that do not make a unit yet.
    unpaid: u32,
}

impl Asking {
    fn new(block: u16, rows: BlockSet) -> Asking {
        Asking {
            block,
            from: (!rows.is_empty()).then_some(0),
            rows,
            left: Vec::new(),
            yes: BlockBuilder::default(),
            unpaid: 0,
        }
    }

    /// Asks until nothing is left of the turn, a piece or a row at least; true when all are asked.
    fn ask(
        &mut self,
        predicate: &Predicate,
        store: &Store,
        most: usize,
        turn: &Turn<'_>,
    ) -> Result<bool> {
        let mut piece = Vec::with_capacity(most.min(self.rows.len()));
        loop {
            while let Some(low) = self.left.pop() {
                let steps = self.ask_row(low, predicate, store)?;
                if !self.pay(steps, turn) {
                    return Ok(self.is_done());
                }
            }
            let Some(from) = self.from else {
                return Ok(true);
            };
            piece.clear();
            self.rows.ids_from(from, most, &mut piece);
            let last = piece.last().filter(|_| piece.len() == most);
            self.from = last.and_then(|last| last.checked_add(1));
            let steps = self.decide(&piece, predicate, store);
            self.left.reverse();
            if !self.pay(steps, turn) {
                return Ok(self.is_done());
            }
        }
    }

    fn is_done(&self) -> bool {
        self.left.is_empty() && self.from.is_none()
    }

    /// Asks a row by itself; gives the steps that it took.
    fn ask_row(&mut self, low: u16, predicate: &Predicate, store: &Store) -> Result<u32> {
        let surrogate = u32::from(self.block) << 16 | u32::from(low);
        let Some(place) = store.get(surrogate) else {
            return Ok(SINGLE);
        };
        let (holds, steps) = predicate.holds(&place)?;
        if holds {
            self.yes.insert(low);
        }
        Ok(steps)
    }

    fn pay(&mut self, steps: u32, turn: &Turn<'_>) -> bool {
        self.unpaid += steps;
        let units = self.unpaid / STEPS_PER_UNIT;
        self.unpaid %= STEPS_PER_UNIT;
        units == 0 || turn.spend(units)
    }

    /// Decides the points of a piece about which a prepared circle is sure; the other rows that
    /// may have a place are left. Gives the steps that it took.
    fn decide(&mut self, piece: &[u16], predicate: &Predicate, store: &Store) -> u32 {
        let Some(circle) = predicate.prepared() else {
            self.left.extend_from_slice(piece);
            return 0;
        };
        let block = u32::from(self.block) << 16;
        let extent_of = |low: u16| (block | u32::from(low)) / EXTENT_SMALL;
        for rows in piece.chunk_by(|a, b| extent_of(*a) == extent_of(*b)) {
            let extent = extent_of(rows[0]);
            let has_shapes = store.has_shapes(extent);
            let Some(points) = store.points().extent(extent) else {
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
            yes[..yes_len].iter().for_each(|low| self.yes.insert(*low));
            self.left.extend_from_slice(&left[..left_len]);
        }
        piece.len() as u32
    }
}
