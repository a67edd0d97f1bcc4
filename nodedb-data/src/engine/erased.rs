//! [`Engine`] without its associated types, so that a shard can keep engines of all kinds.
//!
//! The owned states become boxes that only the engine which made them can open.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

use nodedb_bridge::op::{EngineOp, EngineRank};
use nodedb_bridge::plan::{Direction, TextStatistics};
use nodedb_types::row::RowView;
use nodedb_types::{Result, Surrogate};

use super::{Engine, Estimate, Frozen, Hashes, Place, Ranked, SharedIndex, ThawPart, Truth};
use crate::pace::{Budget, Turn};
use crate::set::{BlockSet, RowSet};
use crate::store::page::PageStore;

/// A prepared predicate of some engine.
pub struct Source(Box<dyn Any>);

/// A prepared ranking of some engine.
pub struct Ranking(Box<dyn Any>);

/// A walk over the entries of some engine.
pub struct Survey(Box<dyn Any>);

fn own<T: 'static>(state: &dyn Any) -> &T {
    state
        .downcast_ref()
        .expect("a state goes back to the engine that made it")
}

fn own_mut<T: 'static>(state: &mut dyn Any) -> &mut T {
    state
        .downcast_mut()
        .expect("a state goes back to the engine that made it")
}

/// Wraps an engine for a shard.
pub(crate) fn share<E: Engine>(engine: E) -> Result<SharedIndex> {
    Ok(Rc::new(RefCell::new(Erased(engine, String::new()))))
}

/// An engine, and what its index is called.
struct Erased<E>(E, String);

/// See the methods of [`Engine`].
pub trait IndexEngine {
    /// Names the index for people: its name and method, such as `packages_text (fulltext)`.
    fn call(&mut self, name: String);

    /// What it was called.
    fn describe(&self) -> &str;
    fn apply(
        &mut self,
        surrogate: Surrogate,
        before: Option<&RowView<'_>>,
        after: Option<&RowView<'_>>,
    ) -> Result<()>;
    fn check_row(&self, row: &RowView<'_>) -> Result<()>;
    fn poll_ready(&self, turn: &Turn<'_>) -> Poll<()>;
    fn source(&self, op: &EngineOp) -> Result<Source>;
    fn estimate(&self, source: &Source) -> Estimate;
    fn poll_next_block(
        &self,
        source: &mut Source,
        from: u16,
        turn: &Turn<'_>,
    ) -> Poll<Result<Option<u16>>>;
    fn poll_block(
        &self,
        source: &mut Source,
        block: u16,
        wanted: Option<&BlockSet>,
        turn: &Turn<'_>,
    ) -> Poll<Result<Truth>>;
    fn matches(&self, source: &Source, row: &RowView<'_>) -> Result<Option<bool>>;
    fn ranking(&self, rank: &EngineRank) -> Result<Ranking>;
    fn confine(&self, ranking: &mut Ranking, score: f64);
    fn poll_rank(
        &self,
        ranking: &mut Ranking,
        allowed: &RowSet,
        k: usize,
        turn: &Turn<'_>,
    ) -> Poll<Result<Ranked>>;
    fn score(&self, ranking: &Ranking, row: &RowView<'_>) -> Result<Option<f64>>;
    fn poll_statistics(
        &self,
        ranking: &mut Ranking,
        turn: &Turn<'_>,
    ) -> Poll<Result<TextStatistics>>;
    fn poll_walk(
        &self,
        direction: Direction,
        after: Option<&Place>,
        max: usize,
        turn: &Turn<'_>,
    ) -> Poll<Result<Vec<Place>>>;
    fn order_bytes(&self, row: &RowView<'_>) -> Result<Box<[u8]>>;
    fn row_hash(&self, surrogate: Surrogate, row: &RowView<'_>) -> Result<u64>;
    fn survey(&self) -> Survey;
    fn poll_hashes(
        &self,
        survey: &mut Survey,
        hashes: &mut Hashes,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>>;
    fn work(&mut self, budget: &Budget) -> Result<bool>;
    fn dismantle(&mut self, budget: &Budget) -> bool;
    fn poll_settle(&mut self, turn: &Turn<'_>) -> Poll<Result<()>>;
    fn freeze(&mut self) -> Result<Option<Frozen>>;
    fn thaw(&mut self, header: &[u8], parts: usize) -> Result<()>;
    fn thaw_pages(&mut self, pages: PageStore) -> Result<()>;
    fn poll_thaw_part(
        &mut self,
        part: &ThawPart<'_>,
        cursor: &mut u64,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>>;
    fn bytes(&self) -> usize;
}

impl<E: Engine> IndexEngine for Erased<E> {
    fn call(&mut self, name: String) {
        self.1 = name;
    }

    fn describe(&self) -> &str {
        &self.1
    }

    fn apply(
        &mut self,
        surrogate: Surrogate,
        before: Option<&RowView<'_>>,
        after: Option<&RowView<'_>>,
    ) -> Result<()> {
        self.0.apply(surrogate, before, after)
    }

    fn check_row(&self, row: &RowView<'_>) -> Result<()> {
        self.0.check_row(row)
    }

    fn poll_ready(&self, turn: &Turn<'_>) -> Poll<()> {
        self.0.poll_ready(turn)
    }

    fn source(&self, op: &EngineOp) -> Result<Source> {
        Ok(Source(Box::new(self.0.source(op)?)))
    }

    fn estimate(&self, source: &Source) -> Estimate {
        self.0.estimate(own(&*source.0))
    }

    fn poll_next_block(
        &self,
        source: &mut Source,
        from: u16,
        turn: &Turn<'_>,
    ) -> Poll<Result<Option<u16>>> {
        self.0.poll_next_block(own_mut(&mut *source.0), from, turn)
    }

    fn poll_block(
        &self,
        source: &mut Source,
        block: u16,
        wanted: Option<&BlockSet>,
        turn: &Turn<'_>,
    ) -> Poll<Result<Truth>> {
        self.0
            .poll_block(own_mut(&mut *source.0), block, wanted, turn)
    }

    fn matches(&self, source: &Source, row: &RowView<'_>) -> Result<Option<bool>> {
        self.0.matches(own(&*source.0), row)
    }

    fn ranking(&self, rank: &EngineRank) -> Result<Ranking> {
        Ok(Ranking(Box::new(self.0.ranking(rank)?)))
    }

    fn confine(&self, ranking: &mut Ranking, score: f64) {
        self.0.confine(own_mut(&mut *ranking.0), score);
    }

    fn poll_rank(
        &self,
        ranking: &mut Ranking,
        allowed: &RowSet,
        k: usize,
        turn: &Turn<'_>,
    ) -> Poll<Result<Ranked>> {
        self.0.poll_rank(own_mut(&mut *ranking.0), allowed, k, turn)
    }

    fn score(&self, ranking: &Ranking, row: &RowView<'_>) -> Result<Option<f64>> {
        self.0.score(own(&*ranking.0), row)
    }

    fn poll_statistics(
        &self,
        ranking: &mut Ranking,
        turn: &Turn<'_>,
    ) -> Poll<Result<TextStatistics>> {
        self.0.poll_statistics(own_mut(&mut *ranking.0), turn)
    }

    fn poll_walk(
        &self,
        direction: Direction,
        after: Option<&Place>,
        max: usize,
        turn: &Turn<'_>,
    ) -> Poll<Result<Vec<Place>>> {
        self.0.poll_walk(direction, after, max, turn)
    }

    fn order_bytes(&self, row: &RowView<'_>) -> Result<Box<[u8]>> {
        self.0.order_bytes(row)
    }

    fn row_hash(&self, surrogate: Surrogate, row: &RowView<'_>) -> Result<u64> {
        self.0.row_hash(surrogate, row)
    }

    fn survey(&self) -> Survey {
        Survey(Box::new(E::Survey::default()))
    }

    fn poll_hashes(
        &self,
        survey: &mut Survey,
        hashes: &mut Hashes,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        self.0.poll_hashes(own_mut(&mut *survey.0), hashes, turn)
    }

    fn work(&mut self, budget: &Budget) -> Result<bool> {
        self.0.work(budget)
    }

    fn dismantle(&mut self, budget: &Budget) -> bool {
        self.0.dismantle(budget)
    }

    fn poll_settle(&mut self, turn: &Turn<'_>) -> Poll<Result<()>> {
        self.0.poll_settle(turn)
    }

    fn freeze(&mut self) -> Result<Option<Frozen>> {
        self.0.freeze()
    }

    fn thaw(&mut self, header: &[u8], parts: usize) -> Result<()> {
        self.0.thaw(header, parts)
    }

    fn thaw_pages(&mut self, pages: PageStore) -> Result<()> {
        self.0.thaw_pages(pages)
    }

    fn poll_thaw_part(
        &mut self,
        part: &ThawPart<'_>,
        cursor: &mut u64,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        self.0.poll_thaw_part(part, cursor, turn)
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}
