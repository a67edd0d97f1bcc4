//! The place index (`rtree`): distance on the ellipsoid and relations on the plane.
//!
//! Two structures: [`store`] holds the place of each row, and [`tree`] says, for a box, in which
//! rows to look. The tree proposes, the store decides: whatever it proposes is asked exactly
//! about the row's own place with the functions that row-wise evaluation uses, so the set form and
//! the row-wise form are equal by construction, and stale entries of the tree do no harm.
//!
//! Rows with NULL are unknown to every predicate. Rows about which a question fails (another
//! reference system, a shape that cannot be measured) make the source fail when they are among
//! the rows wanted, as they would fail row by row.

mod bounds;
mod image;
#[cfg(test)]
mod image_tests;
mod predicate;
mod run;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod tree;

use std::task::Poll;

use nodedb_bridge::op::EngineOp;
use nodedb_types::row::RowView;
use nodedb_types::{Collection, DataType, Failure, Index, Result, Surrogate};

use self::bounds::World;
use self::image::Thawing;
use self::predicate::Predicate;
pub use self::source::PlaceSource;
use self::store::{Place, Store, null_hash};
use self::tree::{Tree, Walk};
use super::{Engine, Estimate, Frozen, Hashes, ThawPart, Truth, mix};
use crate::pace::{Budget, INDEX_STEP, Turn};
use crate::set::{BlockSet, RowSet};

/// Units for giving back the memory of a run, of the points of an extent, or of
/// [`DROP_SHAPES`] shapes.
const DROP_UNITS: u32 = 20;
const DROP_SHAPES: usize = 10;

/// One column of one collection on one shard.
pub struct Places {
    column: usize,
    is_geodetic: bool,
    store: Store,
    tree: Tree,
    /// While an image is read.
    thawing: Option<Thawing>,
}

/// A walk over all entries: those of the tree, then empty places, then NULLs.
pub struct PlaceSurvey {
    walk: Walk,
    /// Rows that were met in the tree, which may have an entry twice.
    seen: RowSet,
    /// The next row without an entry in the tree: of empty places first, then of NULLs.
    rest: Rest,
}

#[derive(Clone, Copy)]
enum Rest {
    Empty(Option<u32>),
    Null(Option<u32>),
    Done,
}

impl Default for PlaceSurvey {
    fn default() -> PlaceSurvey {
        PlaceSurvey {
            walk: Walk::Start,
            seen: RowSet::new(),
            rest: Rest::Empty(None),
        }
    }
}

impl Places {
    pub fn open(index: &Index, collection: &Collection) -> Result<Places> {
        let [column] = index.columns[..] else {
            return Err(Failure::internal("a place index has one column"));
        };
        let is_geodetic = match collection.columns[column].data_type {
            DataType::Geography(_) => true,
            DataType::Geometry(_) => false,
            _ => return Err(Failure::internal("a place index needs a column of places")),
        };
        Ok(Places::new(column, is_geodetic, tree::TAIL_MAX))
    }

    fn new(column: usize, is_geodetic: bool, tail_max: usize) -> Places {
        let world = match is_geodetic {
            true => World::Globe,
            false => World::Plane,
        };
        Places {
            column,
            is_geodetic,
            store: Store::new(is_geodetic),
            tree: Tree::new(world, tail_max),
            thawing: None,
        }
    }

    fn place<'a>(&self, row: &RowView<'a>) -> Result<Option<Place<'a>>> {
        let ewkb = row.column_bytes(self.column)?;
        ewkb.map(Place::read).transpose()
    }

    fn set(&mut self, surrogate: u32, place: &Place<'_>) {
        if self.store.set(surrogate, place)
            && let Some(bounds) = place.bounds()
        {
            let store = &self.store;
            self.tree
                .push(surrogate, bounds, |row| store.get(row)?.bounds());
        }
    }
}

impl PlaceSurvey {
    /// The hash of the next entry that is not in the tree.
    fn next_rest(&mut self, store: &Store) -> Option<(u32, u64)> {
        loop {
            match self.rest {
                Rest::Empty(after) => match store.empty().next_after(after) {
                    Some(row) => {
                        self.rest = Rest::Empty(Some(row));
                        let place = store.get(row)?;
                        return Some((row, place.hash(row)));
                    }
                    None => self.rest = Rest::Null(None),
                },
                Rest::Null(after) => match store.nulls().next_after(after) {
                    Some(row) => {
                        self.rest = Rest::Null(Some(row));
                        return Some((row, null_hash(row)));
                    }
                    None => self.rest = Rest::Done,
                },
                Rest::Done => return None,
            }
        }
    }
}

impl Engine for Places {
    type Source = PlaceSource;
    /// It ranks nothing.
    type Ranking = ();
    type Survey = PlaceSurvey;

    fn apply(
        &mut self,
        surrogate: Surrogate,
        _: Option<&RowView<'_>>,
        after: Option<&RowView<'_>>,
    ) -> Result<()> {
        let surrogate = surrogate.get();
        match after.map(|row| self.place(row)).transpose()? {
            Some(Some(place)) => self.set(surrogate, &place),
            Some(None) => self.store.set_null(surrogate),
            None => self.store.remove(surrogate),
        }
        Ok(())
    }

    fn check_row(&self, row: &RowView<'_>) -> Result<()> {
        self.place(row).map(|_| ())
    }

    fn source(&self, op: &EngineOp) -> Result<PlaceSource> {
        let EngineOp::Place(op) = op else {
            return Err(Failure::internal("a place index was asked for another op"));
        };
        let predicate = Predicate::new(op, self.is_geodetic)?;
        Ok(PlaceSource::new(self, predicate))
    }

    fn estimate(&self, source: &PlaceSource) -> Estimate {
        source.estimate()
    }

    fn poll_next_block(
        &self,
        source: &mut PlaceSource,
        from: u16,
        turn: &Turn<'_>,
    ) -> Poll<Result<Option<u16>>> {
        source.poll_next_block(self, from, turn)
    }

    fn poll_block(
        &self,
        source: &mut PlaceSource,
        block: u16,
        wanted: Option<&BlockSet>,
        turn: &Turn<'_>,
    ) -> Poll<Result<Truth>> {
        source.poll_block(self, block, wanted, turn)
    }

    fn matches(&self, source: &PlaceSource, row: &RowView<'_>) -> Result<Option<bool>> {
        let Some(place) = self.place(row)? else {
            return Ok(None);
        };
        Ok(Some(source.predicate.holds(&place)?.0))
    }

    fn row_hash(&self, surrogate: Surrogate, row: &RowView<'_>) -> Result<u64> {
        let surrogate = surrogate.get();
        let place = self.place(row)?;
        Ok(place.map_or_else(|| null_hash(surrogate), |place| place.hash(surrogate)))
    }

    fn poll_hashes(
        &self,
        survey: &mut PlaceSurvey,
        hashes: &mut Hashes,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        let seen = &mut survey.seen;
        let walk = survey.walk.poll(
            &self.tree,
            |_| true,
            |entry| {
                let row = entry.surrogate;
                let place = self.store.get(row);
                let place = place.filter(|place| place.bounds() == Some(entry.bounds));
                if let Some(place) = place
                    && seen.insert(row)
                {
                    mix(hashes, row, place.hash(row));
                }
            },
            1,
            turn,
        );
        if walk.is_pending() {
            return Poll::Pending;
        }
        while let Some((row, hash)) = survey.next_rest(&self.store) {
            mix(hashes, row, hash);
            if !turn.spend(INDEX_STEP) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn work(&mut self, budget: &Budget) -> Result<bool> {
        let store = &self.store;
        let present = |row| store.get(row)?.bounds();
        Ok(self.tree.work(budget, store.len(), present))
    }

    fn dismantle(&mut self, budget: &Budget) -> bool {
        while self.tree.drop_run() || self.store.drop_some(DROP_SHAPES) {
            if !budget.spend(DROP_UNITS) {
                return true;
            }
        }
        false
    }

    fn freeze(&mut self) -> Result<Option<Frozen>> {
        Ok(Some(self.frozen()))
    }

    fn thaw(&mut self, header: &[u8], parts: usize) -> Result<()> {
        self.thawing = Some(Thawing::new(header, parts, self)?);
        Ok(())
    }

    fn poll_thaw_part(
        &mut self,
        part: &ThawPart<'_>,
        cursor: &mut u64,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        let Places {
            store,
            tree,
            thawing,
            ..
        } = self;
        match thawing {
            Some(thawing) => thawing.poll_part(part, cursor, store, tree, turn),
            None => Poll::Ready(Err(Failure::internal("a part of no image"))),
        }
    }

    fn bytes(&self) -> usize {
        self.store.heap_bytes() + self.tree.heap_bytes()
    }
}
