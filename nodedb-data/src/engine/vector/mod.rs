//! The vector index (`hnsw`): the nearest rows inside an allowed set, exactly, by a scan.
//!
//! Vectors stand in flat arrays of a quarter of a megabyte ([`run::Run`]). One of them is the *tail*:
//! new vectors go behind its last one, and an update of a row that is still in it happens in
//! place. A full tail is sealed and a new one begun; a sealed run only loses rows. When half of
//! its rows are gone, [`Engine::work`] moves the others to the tail, piece by piece, so dead
//! vectors never take more room than the living (plus a run).
//!
//! A map from surrogates to places says where the one vector of a row is; a slot that the map
//! does not point at is dead. A ranking keeps the next surrogate of the allowed set and asks the
//! map for each row, so it does not notice when rows are moved between its turns.
//!
//! Distances have the same bits as `nodedb_types::vector::distance`. Beside each vector stand its
//! squared norm, which halves the work of the cosine, and a code of a byte for each element, from
//! which a ranking ([`ranking`]) sees that most rows are not among the nearest.
//!
//! A row whose vector is NULL has no entry and no score: the query task puts it last. A vector
//! of zeros has no direction, so its cosine distance is NaN and it comes after all others.

mod image;
mod ranking;
mod run;
#[cfg(test)]
mod tests;
mod top;

use std::collections::BTreeSet;
use std::task::Poll;

use nodedb_bridge::op::vector::metric_of;
use nodedb_bridge::op::{EngineOp, EngineRank};
use nodedb_types::row::RowView;
use nodedb_types::vector::code::Scale;
use nodedb_types::vector::{Metric, Probe};
use nodedb_types::{Collection, DataType, Failure, Index, Result, SqlState, Surrogate};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::image::{Names, Thawing};
pub use self::ranking::VectorRanking;
use self::run::{Run, Shape};
use super::surrogate_map::SurrogateMap;
use super::{Engine, Estimate, Frozen, Hashes, Ranked, ThawPart, Truth, mix};
use crate::pace::{Budget, Turn};
use crate::set::{BlockSet, RowSet};

/// Units for giving back the memory of a run, or of an extent of the map.
const DROP_UNITS: u32 = 20;

/// One column of one collection on one shard.
pub struct Vectors {
    column: usize,
    metric: Metric,
    shape: Shape,
    /// Where the vector of a row is, see [`Shape::place`].
    places: SurrogateMap<u32>,
    /// By number; None where a run has been emptied, to be used again.
    runs: Vec<Option<Run>>,
    vacant: Vec<u32>,
    /// The run that is being filled, once there is one.
    tail: Option<u32>,
    /// Sealed runs of which half is dead.
    sparse: BTreeSet<u32>,
    /// The one of them that is being emptied, and the first slot still to be moved.
    moving: Option<(u32, u32)>,
    /// Heap bytes of the sealed runs.
    sealed_bytes: usize,
    names: Names,
    /// While an image is read.
    thawing: Option<Thawing>,
}

/// Where a survey stands: the surrogate to go on with.
pub struct VectorSurvey {
    next: Option<u32>,
}

impl Default for VectorSurvey {
    fn default() -> VectorSurvey {
        VectorSurvey { next: Some(0) }
    }
}

fn entry_hash(surrogate: u32, vector: &[u8]) -> u64 {
    xxh3_64_with_seed(vector, u64::from(surrogate))
}

impl Vectors {
    pub fn open(index: &Index, collection: &Collection) -> Result<Vectors> {
        let [column] = index.columns[..] else {
            return Err(Failure::internal("a vector index has one column"));
        };
        let DataType::Vector(Some(dimensions)) = collection.columns[column].data_type else {
            return Err(Failure::internal(
                "a vector index needs a column of known dimensions",
            ));
        };
        let shape = Shape::new(usize::from(dimensions), run::RUN_BYTES);
        Ok(Vectors::new(column, metric_of(index), shape))
    }

    fn new(column: usize, metric: Metric, shape: Shape) -> Vectors {
        Vectors {
            column,
            metric,
            shape,
            places: SurrogateMap::new(),
            runs: Vec::new(),
            vacant: Vec::new(),
            tail: None,
            sparse: BTreeSet::new(),
            moving: None,
            sealed_bytes: 0,
            names: Names::default(),
            thawing: None,
        }
    }

    /// The indexed vector of a row, little-endian.
    fn vector<'a>(&self, row: &RowView<'a>) -> Result<Option<&'a [u8]>> {
        let bytes = row.column_bytes(self.column)?;
        match bytes {
            Some(bytes) if bytes.len() != self.shape.vector_bytes() => Err(Failure::new(
                SqlState::DataCorrupted,
                "a stored vector has other dimensions than its column",
            )),
            bytes => Ok(bytes),
        }
    }

    fn run(&self, number: u32) -> &Run {
        self.runs[number as usize]
            .as_ref()
            .expect("a place names a run that is there")
    }

    fn run_mut(&mut self, number: u32) -> &mut Run {
        self.runs[number as usize]
            .as_mut()
            .expect("a place names a run that is there")
    }

    /// The vector at a place and its squared norm.
    fn at(&self, place: u32) -> (&[u8], f32) {
        let (number, slot) = self.shape.split(place);
        self.run(number).at(slot, &self.shape)
    }

    #[inline]
    fn coarse_at(&self, place: u32) -> (&[u8], &Scale) {
        let (number, slot) = self.shape.split(place);
        self.run(number).coarse_at(slot, &self.shape)
    }

    fn fine_at(&self, place: u32) -> &[u8] {
        let (number, slot) = self.shape.split(place);
        self.run(number).fine_at(slot, &self.shape)
    }

    fn set(&mut self, surrogate: u32, vector: &[u8]) {
        if let Some(place) = self.places.get(surrogate) {
            if self.at(place).0 == vector {
                return;
            }
            let (number, slot) = self.shape.split(place);
            if self.tail == Some(number) {
                let shape = self.shape;
                self.run_mut(number).overwrite(slot, vector, &shape);
                return;
            }
        }
        self.remove(surrogate);
        self.append(surrogate, vector);
    }

    /// Puts the vector of a row that has none behind the last one of the tail.
    fn append(&mut self, surrogate: u32, vector: &[u8]) {
        let shape = self.shape;
        let number = self.tail_with_room();
        let slot = self.run_mut(number).push(surrogate, vector, &shape);
        self.places.insert(surrogate, shape.place(number, slot));
    }

    fn tail_with_room(&mut self) -> u32 {
        if let Some(number) = self.tail {
            if self.run(number).len() < self.shape.slots() {
                return number;
            }
            self.seal(number);
        }
        // An image numbers the dead by the order of the runs.
        self.names.dead_changed();
        let number = self.vacant.pop().unwrap_or_else(|| {
            self.runs.push(None);
            self.runs.len() as u32 - 1
        });
        self.runs[number as usize] = Some(Run::default());
        self.tail = Some(number);
        number
    }

    fn seal(&mut self, number: u32) {
        self.tail = None;
        let run = self.run(number);
        let (bytes, is_sparse) = (run.heap_bytes(), run.is_sparse());
        self.sealed_bytes += bytes;
        if is_sparse {
            self.sparse.insert(number);
        }
    }

    /// Takes the vector of a row out, if it has one.
    fn remove(&mut self, surrogate: u32) {
        let Some(place) = self.places.remove(surrogate) else {
            return;
        };
        let (number, slot) = self.shape.split(place);
        let is_tail = self.tail == Some(number);
        self.names.dead_changed();
        let run = self.run_mut(number);
        run.forget(slot);
        if is_tail {
            if run.live() == 0 {
                run.clear();
            }
        } else if run.live() == 0 {
            self.drop_run(number);
        } else if run.is_sparse() {
            self.sparse.insert(number);
        }
    }

    fn drop_run(&mut self, number: u32) {
        self.names.dead_changed();
        let run = self.runs[number as usize].take();
        self.sealed_bytes -= run.map_or(0, |run| run.heap_bytes());
        self.moving = self.moving.filter(|(moving, _)| *moving != number);
        self.sparse.remove(&number);
        self.vacant.push(number);
    }

    /// Moves the living of sparse runs to the tail until the budget is spent; true when there are
    /// more.
    fn move_sparse(&mut self, budget: &Budget) -> bool {
        while let Some((number, slot)) = self.next_to_move() {
            self.moving = Some((number, slot + 1));
            let shape = self.shape;
            let surrogate = self.run(number).surrogate(slot);
            if self.places.get(surrogate) == Some(shape.place(number, slot)) {
                let vector = self.run(number).at(slot, &shape).0.to_vec();
                self.append(surrogate, &vector);
                self.run_mut(number).forget(slot);
                self.names.dead_changed();
            }
            if self.run(number).live() == 0 {
                self.drop_run(number);
            }
            if !budget.spend(shape.units()) {
                break;
            }
        }
        self.next_to_move().is_some()
    }

    fn next_to_move(&self) -> Option<(u32, u32)> {
        let first = || self.sparse.first().map(|number| (*number, 0));
        self.moving.or_else(first)
    }
}

impl Engine for Vectors {
    /// It answers no predicate.
    type Source = std::convert::Infallible;
    type Ranking = VectorRanking;
    type Survey = VectorSurvey;

    fn apply(
        &mut self,
        surrogate: Surrogate,
        _: Option<&RowView<'_>>,
        after: Option<&RowView<'_>>,
    ) -> Result<()> {
        match after.map(|row| self.vector(row)).transpose()?.flatten() {
            Some(vector) => self.set(surrogate.get(), vector),
            None => self.remove(surrogate.get()),
        }
        Ok(())
    }

    fn source(&self, _: &EngineOp) -> Result<Self::Source> {
        Err(Failure::internal("a vector index answers no predicate"))
    }

    fn estimate(&self, source: &Self::Source) -> Estimate {
        match *source {}
    }

    fn poll_next_block(
        &self,
        source: &mut Self::Source,
        _: u16,
        _: &Turn<'_>,
    ) -> Poll<Result<Option<u16>>> {
        match *source {}
    }

    fn poll_block(
        &self,
        source: &mut Self::Source,
        _: u16,
        _: Option<&BlockSet>,
        _: &Turn<'_>,
    ) -> Poll<Result<Truth>> {
        match *source {}
    }

    fn matches(&self, source: &Self::Source, _: &RowView<'_>) -> Result<Option<bool>> {
        match *source {}
    }

    fn ranking(&self, rank: &EngineRank) -> Result<VectorRanking> {
        let EngineRank::Vector(rank) = rank else {
            return Err(Failure::internal(
                "a vector index was asked for another rank",
            ));
        };
        if rank.column != self.column || rank.metric != self.metric {
            return Err(Failure::internal(
                "a vector index was asked for another column or metric",
            ));
        }
        if rank.query.len() != self.shape.dimensions() {
            return Err(Failure::new(
                SqlState::DataException,
                format!(
                    "different vector dimensions {} and {}",
                    self.shape.dimensions(),
                    rank.query.len()
                ),
            ));
        }
        let probe = Probe::new(rank.metric, &rank.query);
        Ok(VectorRanking::new(probe))
    }

    fn confine(&self, ranking: &mut VectorRanking, score: f64) {
        ranking.confine(score);
    }

    fn poll_rank(
        &self,
        ranking: &mut VectorRanking,
        allowed: &RowSet,
        k: usize,
        turn: &Turn<'_>,
    ) -> Poll<Result<Ranked>> {
        ranking.scan(self, allowed, k, turn).map(Ok)
    }

    fn score(&self, ranking: &VectorRanking, row: &RowView<'_>) -> Result<Option<f64>> {
        let vector = self.vector(row)?;
        Ok(vector.map(|vector| ranking.probe().distance(vector)))
    }

    fn row_hash(&self, surrogate: Surrogate, row: &RowView<'_>) -> Result<u64> {
        let vector = self.vector(row)?;
        Ok(vector.map_or(0, |vector| entry_hash(surrogate.get(), vector)))
    }

    fn poll_hashes(
        &self,
        survey: &mut VectorSurvey,
        hashes: &mut Hashes,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        while let Some(from) = survey.next {
            let Some((surrogate, place)) = self.places.next(from) else {
                survey.next = None;
                break;
            };
            survey.next = surrogate.checked_add(1);
            let (number, slot) = self.shape.split(place);
            let run = self.run(number);
            // Under the name that the run has for it: were the map wrong, it would show.
            let hash = entry_hash(run.surrogate(slot), run.at(slot, &self.shape).0);
            mix(hashes, surrogate, hash);
            if !turn.spend(self.shape.units()) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn work(&mut self, budget: &Budget) -> Result<bool> {
        Ok(self.move_sparse(budget))
    }

    fn dismantle(&mut self, budget: &Budget) -> bool {
        while self.runs.pop().is_some() || self.places.drop_extent() {
            if !budget.spend(DROP_UNITS) {
                return true;
            }
        }
        false
    }

    fn freeze(&mut self) -> Result<Option<Frozen>> {
        Ok(self.frozen())
    }

    fn thaw(&mut self, header: &[u8], parts: usize) -> Result<()> {
        self.thawing = Some(self.begin_thaw(header, parts)?);
        Ok(())
    }

    fn poll_thaw_part(
        &mut self,
        part: &ThawPart<'_>,
        cursor: &mut u64,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        self.poll_thaw(part, cursor, turn)
    }

    fn bytes(&self) -> usize {
        let tail = self.tail.map_or(0, |number| self.run(number).heap_bytes());
        self.places.heap_bytes()
            + self.runs.capacity() * size_of::<Option<Run>>()
            + self.sealed_bytes
            + tail
    }
}
