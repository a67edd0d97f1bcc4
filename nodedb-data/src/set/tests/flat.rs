//! A ranking engine as small as can be: vectors in a map, looked at one by one.

use std::collections::BTreeMap;
use std::task::Poll;

use nodedb_bridge::op::{EngineOp, EngineRank};
use nodedb_types::row::{RowView, ValueRef};
use nodedb_types::vector::{Metric, Probe};
use nodedb_types::{DataType, Failure, Index, Result, Surrogate};

use crate::engine::{Engine, Estimate, Hashes, Ranked, SharedIndex, Truth, erased};
use crate::pace::Turn;
use crate::set::{BlockSet, RowSet};

pub(super) struct Flat {
    column: usize,
    vectors: BTreeMap<u32, Vec<u8>>,
}

pub(super) struct Run {
    probe: Probe,
    after: Option<u32>,
    rows: Vec<(f64, u32)>,
}

pub(super) fn open(index: &Index) -> SharedIndex {
    let flat = Flat {
        column: index.columns[0],
        vectors: BTreeMap::new(),
    };
    erased::share(flat).unwrap()
}

/// Nearest to the query by the Euclidean distance.
pub(super) fn rank(query: [f32; 2]) -> EngineRank {
    EngineRank::Vector(nodedb_bridge::op::vector::Rank {
        column: 3,
        metric: Metric::L2,
        query: query.as_slice().into(),
    })
}

impl Flat {
    fn vector<'a>(&self, row: &RowView<'a>) -> Result<Option<&'a [u8]>> {
        Ok(match row.column(self.column, &DataType::Vector(Some(2)))? {
            ValueRef::Vector(vector) => Some(vector.bytes()),
            _ => None,
        })
    }
}

impl Engine for Flat {
    type Source = ();
    type Ranking = Run;
    type Survey = ();

    fn apply(
        &mut self,
        surrogate: Surrogate,
        _: Option<&RowView<'_>>,
        after: Option<&RowView<'_>>,
    ) -> Result<()> {
        match after.map(|row| self.vector(row)).transpose()?.flatten() {
            Some(vector) => self.vectors.insert(surrogate.get(), vector.to_vec()),
            None => self.vectors.remove(&surrogate.get()),
        };
        Ok(())
    }

    fn source(&self, _: &EngineOp) -> Result<()> {
        Err(Failure::internal("no predicates here"))
    }

    fn estimate(&self, (): &()) -> Estimate {
        Estimate::default()
    }

    fn poll_next_block(&self, (): &mut (), _: u16, _: &Turn<'_>) -> Poll<Result<Option<u16>>> {
        Poll::Ready(Ok(None))
    }

    fn poll_block(
        &self,
        (): &mut (),
        _: u16,
        _: Option<&BlockSet>,
        _: &Turn<'_>,
    ) -> Poll<Result<Truth>> {
        Poll::Ready(Ok(Truth::default()))
    }

    fn matches(&self, (): &(), _: &RowView<'_>) -> Result<Option<bool>> {
        Ok(None)
    }

    fn ranking(&self, rank: &EngineRank) -> Result<Run> {
        let EngineRank::Vector(rank) = rank else {
            return Err(Failure::internal("another engine's rank"));
        };
        Ok(Run {
            probe: Probe::new(rank.metric, &rank.query),
            after: None,
            rows: Vec::new(),
        })
    }

    fn poll_rank(
        &self,
        run: &mut Run,
        allowed: &RowSet,
        k: usize,
        turn: &Turn<'_>,
    ) -> Poll<Result<Ranked>> {
        while let Some(row) = allowed.next_after(run.after) {
            run.after = Some(row);
            if let Some(vector) = self.vectors.get(&row) {
                run.rows.push((run.probe.distance(vector), row));
            }
            if !turn.spend(1) {
                return Poll::Pending;
            }
        }
        let mut rows = std::mem::take(&mut run.rows);
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((last, _)) = k.checked_sub(1).and_then(|at| rows.get(at).copied()) {
            rows.retain(|(score, _)| *score <= last);
        }
        Poll::Ready(Ok(Ranked {
            rows,
            how: "scan",
            seen: allowed.len(),
            scored: allowed.len(),
        }))
    }

    fn score(&self, run: &Run, row: &RowView<'_>) -> Result<Option<f64>> {
        Ok(self.vector(row)?.map(|vector| run.probe.distance(vector)))
    }

    fn row_hash(&self, _: Surrogate, _: &RowView<'_>) -> Result<u64> {
        Ok(0)
    }

    fn poll_hashes(&self, (): &mut (), _: &mut Hashes, _: &Turn<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn bytes(&self) -> usize {
        0
    }
}
