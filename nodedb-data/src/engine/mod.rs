//! Engines: what keeps an index of one collection on one shard and answers from it.
//!
//! An engine implements [`Engine`] and gets one line in [`open`]. It holds exactly the latest
//! applied version of every row (no index is versioned) and is changed by [`Engine::apply`] in
//! the turn of the commit. It never sees snapshots: the query task takes rows that changed since
//! its snapshot out of every answer and asks the row-wise form about the version it may see. So
//! an answer that takes several turns need only be right for rows that did not change meanwhile.
//!
//! Nothing here may run long (P2). State that outlives a turn (a prepared predicate with its
//! cursor, a ranking under way) is an owned value of the engine's own type which the query task
//! keeps and hands back; it must not lean on positions that `apply` or `work` can move. A step
//! spends units from its [`Turn`] and returns `Pending` when they are gone.
//!
//! [`IndexEngine`] is the same without the types, which [`SharedIndex`] holds. The two differ in
//! nothing else; engine authors need only read [`Engine`].

pub(crate) mod erased;
pub mod image;
mod image_codec;
pub mod ordered;
pub mod place;
mod surrogate_map;
pub mod text;
pub mod vector;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Poll;

use nodedb_bridge::op::{EngineOp, EngineRank};
use nodedb_bridge::plan::{Direction, TextStatistics};
use nodedb_types::limits::EXTENT_SMALL;
use nodedb_types::row::RowView;
use nodedb_types::{Collection, Failure, Index, Result, SqlState, Surrogate};

pub use erased::{IndexEngine, Ranking, Source, Survey};
pub use image::{Frozen, FrozenPart, ThawPart};

use crate::pace::{Budget, Turn};
use crate::set::{BlockSet, RowSet};
use crate::store::page::PageStore;

/// An index as shards and queries share it.
pub type SharedIndex = Rc<RefCell<dyn IndexEngine>>;

/// Makes the empty index of one shard.
pub fn open(index: &Index, collection: &Collection) -> Result<SharedIndex> {
    let engine = make(index, collection)?;
    let name = format!("{} ({})", index.name, index.method);
    engine.borrow_mut().call(name);
    Ok(engine)
}

/// Each engine has one line here.
fn make(index: &Index, collection: &Collection) -> Result<SharedIndex> {
    match index.method.as_str() {
        "btree" => erased::share(ordered::Ordered::open(index, collection)?),
        "fulltext" => erased::share(text::FullText::open(index, collection)?),
        "hnsw" => erased::share(vector::Vectors::open(index, collection)?),
        "rtree" => erased::share(place::Places::open(index, collection)?),
        other => Err(Failure::new(
            SqlState::UndefinedObject,
            format!("access method \"{other}\" does not exist"),
        )),
    }
}

/// A predicate's value for the rows of one block: where it is true and where it is unknown.
/// The two share no row; in all other rows that are alive it is false.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    pub yes: BlockSet,
    pub unknown: BlockSet,
}

/// What the order of evaluation is chosen by. It need not be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Rows for which the predicate is true.
    pub rows: u64,
    /// Units to be spent before the next block can be answered; 0 once all is prepared.
    pub setup: u64,
    /// Units that answering for all rows takes besides, where fewer rows wanted make it less.
    pub whole: u64,
    /// Units of the row-wise form for one row, beyond reading the row.
    pub row: u32,
}

/// The best rows of an allowed set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranked {
    /// Best first: all rows that belong to the best `k`, and all others whose score equals the
    /// k-th. Equal scores stand in any order. Rows without a score are left out. A score is
    /// never NaN unless the measure itself is, and then it is worst.
    pub rows: Vec<(f64, u32)>,
    /// How it was done, for people, such as `scan`.
    pub how: &'static str,
    /// Rows that it chose from.
    pub seen: u64,
    /// Those of them that were scored; of the others a bound was enough.
    pub scored: u64,
}

/// Where a row stands in an order: order bytes, surrogate.
pub type Place = (Box<[u8]>, u32);

/// XORs of the hashes of what an index holds, by extent (surrogate / 1024). Zeros are left out.
pub type Hashes = BTreeMap<u32, u64>;

/// Adds the hash of an entry of `surrogate` to its extent. Adding it twice takes it out.
pub fn mix(hashes: &mut Hashes, surrogate: u32, hash: u64) {
    let extent = surrogate / EXTENT_SMALL;
    let sum = hashes.entry(extent).or_default();
    *sum ^= hash;
    if *sum == 0 {
        hashes.remove(&extent);
    }
}

/// An index of one collection on one shard.
pub trait Engine: 'static {
    /// An op made ready (constants encoded, words analysed) with the cursor of its set form.
    type Source: 'static;
    /// A rank made ready, with the state of its run.
    type Ranking: 'static;
    /// The state of a walk over all entries for [`Engine::poll_hashes`].
    type Survey: Default + 'static;

    /// A row was inserted (`after`), updated (both) or deleted (`before`). Both views are of the
    /// index's collection. It is idempotent: while an index is being built, `before` may not be
    /// in it and `after` may be in it already.
    fn apply(
        &mut self,
        surrogate: Surrogate,
        before: Option<&RowView<'_>>,
        after: Option<&RowView<'_>>,
    ) -> Result<()>;

    /// Fails with 54000 or the like for a row that the index cannot take. Asked before the write
    /// is logged and before a build adds the row, so that `apply` need not refuse anything.
    fn check_row(&self, row: &RowView<'_>) -> Result<()> {
        let _ = row;
        Ok(())
    }

    /// Waits until the index may be given another row. An engine that finishes large rows after
    /// `apply` has returned bounds here what it holds unfinished; readers never see the
    /// difference.
    fn poll_ready(&self, turn: &Turn<'_>) -> Poll<()> {
        let _ = turn;
        Poll::Ready(())
    }

    /// Prepares a predicate; fails for an op of another engine.
    fn source(&self, op: &EngineOp) -> Result<Self::Source>;

    fn estimate(&self, source: &Self::Source) -> Estimate;

    /// The first block at or above `from` in which the predicate may be true for a row.
    fn poll_next_block(
        &self,
        source: &mut Self::Source,
        from: u16,
        turn: &Turn<'_>,
    ) -> Poll<Result<Option<u16>>>;

    /// The predicate's value in a block, exact for the applied state and for the rows of
    /// `wanted` (`None`: for all); what it says about other rows is ignored. Blocks are asked in
    /// ascending order, each maybe several times, with gaps; until an answer is ready, it is asked
    /// for with the same `wanted`.
    fn poll_block(
        &self,
        source: &mut Self::Source,
        block: u16,
        wanted: Option<&BlockSet>,
        turn: &Turn<'_>,
    ) -> Poll<Result<Truth>>;

    /// The row-wise form: the same value from the row alone. `None` is unknown.
    fn matches(&self, source: &Self::Source, row: &RowView<'_>) -> Result<Option<bool>>;

    /// Prepares a ranking; fails for a rank of another engine.
    fn ranking(&self, rank: &EngineRank) -> Result<Self::Ranking> {
        let _ = rank;
        Err(Failure::internal("the index does not rank"))
    }

    /// Rows with a worse score than this need not be given, for as many as are wanted with this one
    /// or a better one are known. Told before the ranking begins, if at all.
    fn confine(&self, ranking: &mut Self::Ranking, score: f64) {
        let _ = (ranking, score);
    }

    /// The best `k` rows inside `allowed`, which hold rows alive that have not changed since the
    /// ranking was prepared, and perhaps some that have: those are corrected by the caller.
    /// `allowed` and `k` are the same in all calls of one ranking.
    fn poll_rank(
        &self,
        ranking: &mut Self::Ranking,
        allowed: &RowSet,
        k: usize,
        turn: &Turn<'_>,
    ) -> Poll<Result<Ranked>> {
        let _ = (ranking, allowed, k, turn);
        Poll::Ready(Err(Failure::internal("the index does not rank")))
    }

    /// The score of a row from the row alone; `None` when it has none.
    fn score(&self, ranking: &Self::Ranking, row: &RowView<'_>) -> Result<Option<f64>> {
        let _ = (ranking, row);
        Err(Failure::internal("the index does not rank"))
    }

    /// This shard's part of the statistics that the ranking's scores need from all shards, as of
    /// the applied state. The ranking was prepared for this alone.
    fn poll_statistics(
        &self,
        ranking: &mut Self::Ranking,
        turn: &Turn<'_>,
    ) -> Poll<Result<TextStatistics>> {
        let _ = (ranking, turn);
        Poll::Ready(Err(Failure::internal("the index keeps no statistics")))
    }

    /// The next at most `max` entries in the index's order after `after`, for engines
    /// that order. Equal order bytes come in ascending surrogates in
    /// both directions. NULLs have the largest order bytes. None at the end.
    fn poll_walk(
        &self,
        direction: Direction,
        after: Option<&Place>,
        max: usize,
        turn: &Turn<'_>,
    ) -> Poll<Result<Vec<Place>>> {
        let _ = (direction, after, max, turn);
        Poll::Ready(Err(Failure::internal("the index does not order")))
    }

    /// The order bytes of a row, as [`Engine::poll_walk`] gives them.
    fn order_bytes(&self, row: &RowView<'_>) -> Result<Box<[u8]>> {
        let _ = row;
        Err(Failure::internal("the index does not order"))
    }

    /// XOR of the 64-bit hashes of (surrogate, entry) over the entries that this row must have;
    /// 0 when it has none. `CHECK COLLECTION` holds it against [`Engine::poll_hashes`].
    fn row_hash(&self, surrogate: Surrogate, row: &RowView<'_>) -> Result<u64>;

    /// The same over the entries that the index holds, by extent, from the entries themselves.
    /// Adds to `hashes` what it has walked since the last call.
    fn poll_hashes(
        &self,
        survey: &mut Self::Survey,
        hashes: &mut Hashes,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>>;

    /// Drops what it holds, in a piece that fits the budget, once nobody reads it any more; false
    /// when little is left, so that the rest may go at once.
    fn dismantle(&mut self, budget: &Budget) -> bool {
        let _ = budget;
        false
    }

    /// Background work such as merging runs, in a piece that fits the budget; true when more
    /// is left to do.
    fn work(&mut self, budget: &Budget) -> Result<bool> {
        let _ = budget;
        Ok(false)
    }

    /// Gets ready for a cheap [`Engine::freeze`]: finishes or seals what would otherwise have to be
    /// copied. Called before it in turns of its own; commits may come in between.
    fn poll_settle(&mut self, turn: &Turn<'_>) -> Poll<Result<()>> {
        let _ = turn;
        Poll::Ready(Ok(()))
    }

    /// The index as it is now, between two commits, for a checkpoint; see [`image`]. At once and
    /// without copying more than about 1 MiB. `None`: the index has no image and is built from the
    /// rows at a start.
    fn freeze(&mut self) -> Result<Option<Frozen>> {
        Ok(None)
    }

    /// Begins to bring back a frozen index; `self` is empty. `parts` follow. Fails with XX001 for
    /// bytes that make no sense.
    fn thaw(&mut self, header: &[u8], parts: usize) -> Result<()> {
        let _ = (header, parts);
        Err(image::malformed("its engine has none"))
    }

    /// Takes back the pages of [`Frozen::pages`], after [`Engine::thaw`].
    fn thaw_pages(&mut self, pages: PageStore) -> Result<()> {
        let _ = pages;
        Err(image::malformed("its engine has no pages"))
    }

    /// Takes in the next part. Called again with the same part and cursor (0 at first, else the
    /// engine's own business) until it is ready. After the last part the index is whole.
    fn poll_thaw_part(
        &mut self,
        part: &ThawPart<'_>,
        cursor: &mut u64,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        let _ = (part, cursor, turn);
        Poll::Ready(Err(image::malformed("its engine has none")))
    }

    /// Memory held, bytes.
    fn bytes(&self) -> usize;
}

/// True when the smallest score is the best.
pub fn smallest_first(rank: &EngineRank) -> bool {
    match rank {
        EngineRank::Vector(_) => true,
        EngineRank::Text(_) => false,
    }
}
