//! The set form of a predicate.
//!
//! It is answered in one of three ways, by what is cheapest:
//! the rows wanted are few: each is asked; many rows are expected: all rows of the block are
//! asked, as they stand; otherwise the tree's proposals are gathered once, in pieces, and those
//! of the block are asked. In each way a row's own place decides. A circle decides points by rows
//! of 64 where enough of them are asked, and only those near its rim, and shapes, are asked one
//! by one.

use std::task::Poll;

use nodedb_types::Result;

use nodedb_types::geo::geography::Prepared;
use nodedb_types::limits::EXTENT_SMALL;
use nodedb_types::simd::bands::{Points, ROW};

use super::Places;
use super::predicate::{PREPARE_UNITS, Predicate, SCATTERED, SINGLE, STEPS_PER_UNIT};
use super::store::Store;
use super::tree::{VISITS_PER_UNIT, Walk};
use crate::engine::{Estimate, Truth};
use crate::pace::{BLOCK_OPERATION, Turn};
use crate::set::{BlockBuilder, BlockSet, RowSet, RowSetBuilder};

/// From so many rows of a block on, it pays to make asking cheaper.
pub(super) const PREPARE_MIN: usize = 300;
/// Rows that are decided before the turn is looked at again.
pub(super) const PIECE: usize = 256;
/// Up to so many of 64 points in a row are decided by themselves, which is then cheaper than to
/// decide them all.
const SCATTERED_MAX: u32 = STEPS_PER_UNIT / SCATTERED / 2;

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
            let steps = match predicate.prepared() {
                Some(circle) => self.decide(from, most, circle, store),
                None => {
                    self.rows.ids_from(from, most, &mut self.left);
                    let last = self.left.last().filter(|_| self.left.len() == most);
                    self.from = last.and_then(|last| last.checked_add(1));
                    0
                }
            };
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

    /// Decides the points about which a prepared circle is sure, of the next rows from `from` on,
    /// about `most`; the others of them that may have a place are left. Gives the steps that it
    /// took.
    fn decide(&mut self, from: u16, most: usize, circle: Prepared<'_>, store: &Store) -> u32 {
        let (mut asked, mut steps, mut from) = (0, 0, Some(from));
        while asked < most {
            let Some((word, wanted)) = from.and_then(|low| self.rows.next_word(low)) else {
                from = None;
                break;
            };
            from = u16::try_from((word + 1) * ROW).ok();
            asked += wanted.count_ones() as usize;
            steps += self.decide_word(word, wanted, circle, store);
        }
        self.from = from;
        steps
    }

    /// [`Asking::decide`] for the rows that `wanted` has bits for, the lowest of 64 times `word`.
    fn decide_word(
        &mut self,
        word: usize,
        wanted: u64,
        circle: Prepared<'_>,
        store: &Store,
    ) -> u32 {
        let first = u32::from(self.block) << 16 | (word * ROW) as u32;
        let extent = first / EXTENT_SMALL;
        let mut left = match store.has_shapes(extent) {
            true => wanted,
            false => 0,
        };
        let mut steps = 1;
        if let Some(points) = store.points().extent(extent) {
            let (present, points) = points.row((first % EXTENT_SMALL) as usize / ROW);
            let asked = wanted & present;
            let (inside, outside) = match asked.count_ones() {
                few @ ..=SCATTERED_MAX => {
                    steps += few * SCATTERED;
                    decide_some(asked, points, circle)
                }
                _ => {
                    steps += STEPS_PER_UNIT;
                    circle.decide_row(points)
                }
            };
            self.yes.insert_word(word, asked & inside);
            left = (left & !present) | (asked & !(inside | outside));
        }
        self.left
            .extend(bits(left).map(|at| (word * ROW + at) as u16));
        steps
    }
}

/// [`Prepared::decide_row`] for those points alone that have a bit.
fn decide_some(asked: u64, points: &Points, circle: Prepared<'_>) -> (u64, u64) {
    bits(asked).fold((0, 0), |(inside, outside), at| {
        let [x, y] = points[at];
        let (is_inside, is_outside) = circle.decide(x, y);
        (
            inside | u64::from(is_inside) << at,
            outside | u64::from(is_outside) << at,
        )
    })
}

/// The positions of the bits that are set, ascending.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (at < ROW).then_some(at)
    })
}
