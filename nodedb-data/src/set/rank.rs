//! Order by a ranker: the best rows inside the final set.
//!
//! The final set goes into the ranker, which sees the applied state. After its last score the
//! allowed rows that changed since the set was built are taken out and scored from their visible
//! versions, as the rows of U were from the start; if one of them was among the results the
//! ranker runs again without them, so each such round makes the allowed set smaller.
//!
//! Equal scores are ordered by key, which costs reading the rows that are equal. Rows without a
//! score come last, by key.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use nodedb_bridge::op::EngineRank;
use nodedb_bridge::plan::RankSpec;
use nodedb_types::row::{RowView, ValueRef};
use nodedb_types::vector::{Probe, check_dimensions};
use nodedb_types::{Collection, DataType, Failure, Result, SqlState};

use super::changes::Mark;
use super::context::Context;
use super::ordered::finish;
use super::part::{Part, index_of};
use super::row_set::RowSet;
use super::scan::Scan;
use super::send::{Held, Sender};
use super::sorter::Sorter;
use crate::engine::{Ranked, Ranking, SharedIndex, smallest_first};
use crate::pace::BLOCK_OPERATION;

/// Memory of a row in a sort by key, beside the key's bytes.
const ENTRY_BYTES: usize = 64;

/// A row with a score. Better is less.
#[derive(Clone, Copy)]
struct Scored {
    score: f64,
    smallest_first: bool,
    part: usize,
    row: u32,
}

impl Scored {
    /// By score alone. NaN, which only the measure itself can give, is worst.
    fn compare(&self, other: &Scored) -> Ordering {
        match self.score.partial_cmp(&other.score) {
            Some(order) if self.smallest_first => order,
            Some(order) => order.reverse(),
            None => self.score.is_nan().cmp(&other.score.is_nan()),
        }
    }
}

impl Ord for Scored {
    fn cmp(&self, other: &Scored) -> Ordering {
        let place = (self.part, self.row).cmp(&(other.part, other.row));
        self.compare(other).then(place)
    }
}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Scored) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scored {
    fn eq(&self, other: &Scored) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scored {}

/// What the ranking of all parts came to.
pub(super) struct Outcome {
    pub(super) set_rows: u64,
    pub(super) how: String,
}

/// Scored rows of all parts, and those that may have no score.
struct Found<'a> {
    sorter: Sorter<Scored>,
    scored: u64,
    /// One part alone has as many rows as are wanted with this score or better ones.
    sure: Option<f64>,
    /// A set for each part; besides those without a score, rows that its ranker held back
    /// because their scores are worse than what it gave.
    unscored: Vec<RowSet>,
    held: Held<'a>,
    /// Rows that were ranked, and those of them that were scored, by how.
    hows: BTreeMap<&'static str, (u64, u64)>,
}

impl Found<'_> {
    /// Takes note of the best `k` rows of a part, best first.
    fn note(&mut self, ranked: &Ranked, k: usize, smallest_first: bool) {
        let Some((kth, _)) = k.checked_sub(1).and_then(|at| ranked.rows.get(at)) else {
            return;
        };
        let is_better = |sure: f64| match smallest_first {
            true => *kth < sure,
            false => *kth > sure,
        };
        if !kth.is_nan() && self.sure.is_none_or(is_better) {
            self.sure = Some(*kth);
        }
    }

    fn count(&mut self, how: &'static str, rows: u64, scored: u64) {
        let count = self.hows.entry(how).or_default();
        *count = (count.0 + rows, count.1 + scored);
    }

    fn add(&mut self, cx: &Context, item: Scored) -> Result<()> {
        self.scored += 1;
        self.held.add(size_of::<Scored>())?;
        cx.budget().spend(self.sorter.push(item).0);
        Ok(())
    }
}

/// Sends the rows of the parts best first.
pub(super) async fn send(
    cx: &Context,
    parts: &[Part],
    spec: &RankSpec,
    sender: &mut Sender<'_>,
) -> Result<Outcome> {
    let mut found = Found {
        // All that a ranker gives may tie with the last one, so none is dropped here.
        sorter: Sorter::new(None),
        scored: 0,
        sure: None,
        unscored: Vec::new(),
        held: Held::new(cx),
        hows: BTreeMap::new(),
    };
    let mut set_rows = 0;
    for (at, part) in parts.iter().enumerate() {
        set_rows += rank_part(cx, at, part, spec, sender.limit(), &mut found).await?;
    }
    let hows: Vec<String> = std::mem::take(&mut found.hows)
        .into_iter()
        .map(|(how, (rows, scored))| match rows == scored {
            true => format!("{how} of {rows} rows"),
            false => format!("{how} of {rows} rows ({scored} scored)"),
        })
        .collect();
    let scored = found.scored;
    let unscored = std::mem::take(&mut found.unscored);
    let mut sorted = finish(cx, found.sorter).await?.peekable();
    while let Some(first) = sorted.next() {
        if sender.is_done() {
            break;
        }
        if sorted
            .peek()
            .is_none_or(|next| next.compare(&first).is_ne())
        {
            sender
                .row(&parts[first.part], first.row, Some(first.score))
                .await?;
            continue;
        }
        let mut equal = vec![RowSet::new(); parts.len()];
        equal[first.part].insert(first.row);
        while let Some(next) = sorted.next_if(|next| next.compare(&first).is_eq()) {
            equal[next.part].insert(next.row);
            cx.spend(1).await?;
        }
        send_equal(cx, parts, &equal, Some(first.score), sender).await?;
    }
    // Whoever still wants rows has got all that have a score, so no ranker has held one back.
    if !sender.is_done() {
        debug_assert_eq!(
            scored + unscored.iter().map(RowSet::len).sum::<u64>(),
            set_rows
        );
        send_equal(cx, parts, &unscored, None, sender).await?;
    }
    Ok(Outcome {
        set_rows,
        how: hows.join("; "),
    })
}

/// Sends rows that rank alike, by key. `rows` has a set for each part.
async fn send_equal(
    cx: &Context,
    parts: &[Part],
    rows: &[RowSet],
    score: Option<f64>,
    sender: &mut Sender<'_>,
) -> Result<()> {
    let mut sorter = Sorter::<(Box<[u8]>, usize, u32)>::new(sender.limit());
    let mut held = Held::new(cx);
    let mut read = 0;
    for (at, (part, set)) in parts.iter().zip(rows).enumerate() {
        read += set.len();
        part.read_each(cx, set.iter(), 1, |version, _| {
            if sorter.wants(|worst| version.key.cmp(&worst.0)) {
                held.add(version.key.len() + ENTRY_BYTES)?;
                let entry = (version.key.into(), at, version.surrogate.get());
                let (units, dropped) = sorter.push(entry);
                cx.budget().spend(units);
                if let Some((key, ..)) = dropped {
                    held.remove(key.len() + ENTRY_BYTES)?;
                }
            }
            Ok(())
        })
        .await?;
    }
    // Each of them was read for its key, and those that are sent are not counted again.
    let before = sender.fetched;
    for (_, at, row) in finish(cx, sorter).await? {
        sender.row(&parts[at], row, score).await?;
    }
    sender.fetched = before + read;
    Ok(())
}

/// Ranks one part; gives the size of its set.
async fn rank_part(
    cx: &Context,
    at: usize,
    part: &Part,
    spec: &RankSpec,
    limit: Option<u64>,
    found: &mut Found<'_>,
) -> Result<u64> {
    let mark = part.rows.mark();
    let mut set = Final::default();
    let mut held = Held::new(cx);
    let mut scan = Scan::new(part, cx, false);
    while let Some(piece) = scan.next().await? {
        set.steady.add_block(piece.block, piece.steady);
        set.changed.add_block(piece.block, piece.changed);
        held.set(set.steady.heap_bytes() + set.changed.heap_bytes())?;
    }
    let rows = set.steady.len() + set.changed.len();
    let smallest_first = smallest_first(&spec.rank);
    let scored = |score, row| Scored {
        score,
        smallest_first,
        part: at,
        row,
    };
    let scorer = match spec.index {
        Some(index) => {
            let engine = index_of(&*part.rows, index)?;
            let ranking = engine.borrow().ranking(&spec.rank)?;
            let k = limit.map_or(usize::MAX, |k| usize::try_from(k).unwrap_or(usize::MAX));
            let wanted = Wanted {
                k,
                sure: found.sure,
            };
            let ranked = set
                .rank(cx, part, &engine, &spec.rank, wanted, mark)
                .await?;
            found.note(&ranked, k, smallest_first);
            for (score, row) in ranked.rows {
                set.steady.remove(row);
                found.add(cx, scored(score, row))?;
                cx.spend(1).await?;
            }
            found.count(ranked.how, ranked.seen, ranked.scored);
            Scorer::Index { engine, ranking }
        }
        None => {
            found.count("scores", rows, rows);
            set.changed.union(&std::mem::take(&mut set.steady));
            Scorer::of_columns(&spec.rank, &part.collection)?
        }
    };
    part.examined.set(part.examined.get() + set.changed.len());
    let mut unscored = set.steady;
    part.read_each(cx, set.changed.iter(), scorer.units(), |version, row| {
        let id = version.surrogate.get();
        match scorer.score(row)? {
            Some(score) => found.add(cx, scored(score, id)),
            None => {
                unscored.insert(id);
                Ok(())
            }
        }
    })
    .await?;
    found.unscored.push(unscored);
    Ok(rows)
}

/// The rows of a part that satisfy the predicate.
#[derive(Default)]
struct Final {
    /// Their applied version is the visible one.
    steady: RowSet,
    /// Their visible version is another, or was when we looked.
    changed: RowSet,
}

/// What is wanted of a part's ranking.
#[derive(Clone, Copy)]
struct Wanted {
    k: usize,
    /// Rows with worse scores are not.
    sure: Option<f64>,
}

impl Final {
    /// Ranks the steady rows, and moves those that changed meanwhile to the others. `mark` was
    /// taken before the set was built.
    async fn rank(
        &mut self,
        cx: &Context,
        part: &Part,
        engine: &SharedIndex,
        rank: &EngineRank,
        Wanted { k, sure }: Wanted,
        mut mark: Mark,
    ) -> Result<Ranked> {
        loop {
            let mut ranking = engine.borrow().ranking(rank)?;
            if let Some(sure) = sure {
                engine.borrow().confine(&mut ranking, sure);
            }
            let allowed = &self.steady;
            let mut ranked = cx
                .drive(|turn| engine.borrow().poll_rank(&mut ranking, allowed, k, turn))
                .await?;
            // Taken in the turn of the last score.
            let mut late = part.rows.changed_after(mark);
            mark = part.rows.mark();
            late.intersect(&self.steady);
            if late.is_empty() {
                return Ok(ranked);
            }
            self.steady.subtract(&late);
            self.changed.union(&late);
            let given = ranked.rows.len();
            ranked.rows.retain(|(_, row)| !late.contains(*row));
            if ranked.rows.len() == given || given < k {
                return Ok(ranked);
            }
            cx.spend(BLOCK_OPERATION).await?;
        }
    }
}

/// Scores single rows.
enum Scorer {
    Index {
        engine: SharedIndex,
        ranking: Ranking,
    },
    Vector {
        column: usize,
        data_type: DataType,
        probe: Probe,
    },
}

impl Scorer {
    /// Without an index, from the columns alone.
    fn of_columns(rank: &EngineRank, collection: &Collection) -> Result<Scorer> {
        match rank {
            EngineRank::Vector(rank) => {
                let Some(column) = collection.columns.get(rank.column) else {
                    return Err(Failure::internal("a ranking by a column that is not there"));
                };
                Ok(Scorer::Vector {
                    column: rank.column,
                    data_type: column.data_type,
                    probe: Probe::new(rank.metric, &rank.query),
                })
            }
            EngineRank::Text(_) => Err(Failure::new(
                SqlState::UndefinedObject,
                "a ranking by text needs a fulltext index",
            )),
        }
    }

    /// Units of one score.
    fn units(&self) -> u32 {
        match self {
            Scorer::Index { .. } => 4,
            Scorer::Vector { probe, .. } => 1 + probe.query().len() as u32 / 256,
        }
    }

    fn score(&self, row: &RowView<'_>) -> Result<Option<f64>> {
        match self {
            Scorer::Index { engine, ranking } => engine.borrow().score(ranking, row),
            Scorer::Vector {
                column,
                data_type,
                probe,
            } => match row.column(*column, data_type)? {
                ValueRef::Vector(stored) => {
                    check_dimensions(probe.query().len(), stored.len())?;
                    Ok(Some(probe.distance(stored.bytes())))
                }
                ValueRef::Null => Ok(None),
                _ => Err(Failure::internal("a ranking by a column that is no vector")),
            },
        }
    }
}
