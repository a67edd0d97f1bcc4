//! Ranking by distance: every allowed row is looked at, few are scored.
//!
//! Codes give lower bounds of a distance as it would be computed
//! ([`nodedb_types::vector::code`]): the coarse half of a code a loose one, both halves a close
//! one. A ranking takes the coarse bounds of a batch of rows and then goes on with whatever has the
//! least bound: a coarse bound is made close, behind a close one the row is scored. When the least
//! bound is above the k-th best score, so are the distances of all rows that are left, and the
//! batch is done. So no row is scored, and hardly a fine half read, that need not be, and the
//! answer is that of scoring every row.
//!
//! Only rows that may be among the best are put in order. In the first batch, before there are k
//! scores, those are some with the least bounds, as a sample tells; when they are through, there is
//! a score to compare the others with. A ranking that is confined by a score has one from the start.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::task::Poll;

use nodedb_types::simd::code::prefetch;
use nodedb_types::vector::Probe;
use nodedb_types::vector::code::{CodeProbe, Scale};

use super::Vectors;
use super::run::Run;
use super::top::Top;
use crate::engine::Ranked;
use crate::pace::Turn;
use crate::set::RowSet;

/// Rows whose coarse bounds are taken before the nearest of them are scored.
const BATCH: usize = 2048;
/// Rows whose products are taken before the bounds are made of them.
const CHUNK: usize = 64;
/// About how many rows with the least bounds, for each row wanted, make the first scores.
const FIRST: usize = 4;
/// One of so many bounds tells where those end.
const SAMPLED: usize = 8;
/// How many rows ahead of its use a coarse half is asked for.
const AHEAD: usize = 16;
/// Bounds that are made close together, so that their bytes arrive together.
const REFINED: usize = 8;

/// A ranking under way.
pub struct VectorRanking {
    probe: Probe,
    codes: Codes,
    /// The surrogate to go on with; None when all were looked at.
    next: Option<u32>,
    /// Rows of the batch that may be among the best, the least bound on top.
    near: BinaryHeap<Near>,
    /// Rows of the batch with bounds above this are still to be lined up.
    cut: Option<f64>,
    /// Rows of the batch that are scored without a look at their bounds, the next one last.
    due: Vec<u32>,
    /// Room for the rows of a batch, and for those of them that have a place.
    batch: Vec<u32>,
    placed: Vec<(u32, u32)>,
    bounds: Vec<f64>,
    /// Rows with larger scores are not wanted.
    confined: Option<f64>,
    top: Option<Top>,
    seen: u64,
    scored: u64,
}

enum Codes {
    /// Not asked for yet: a ranking may be made to score single rows only.
    Unknown,
    /// Nothing can be said, or most rows are wanted, so that bounds would spare little.
    Useless,
    Useful(CodeProbe),
}

/// A row and the least that its distance can be.
struct Near {
    bound: f64,
    row: u32,
    is_close: bool,
}

impl Ord for Near {
    /// The least bound is the greatest. Bounds are never NaN.
    fn cmp(&self, other: &Near) -> Ordering {
        let bounds = other.bound.total_cmp(&self.bound);
        bounds.then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Near) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Near {
    fn eq(&self, other: &Near) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Near {}

impl VectorRanking {
    pub(super) fn new(probe: Probe) -> VectorRanking {
        VectorRanking {
            probe,
            codes: Codes::Unknown,
            next: Some(0),
            near: BinaryHeap::new(),
            cut: None,
            due: Vec::new(),
            batch: Vec::new(),
            placed: Vec::new(),
            bounds: Vec::new(),
            confined: None,
            top: None,
            seen: 0,
            scored: 0,
        }
    }

    /// Leaves out rows with larger scores.
    pub(super) fn confine(&mut self, score: f64) {
        self.confined = Some(score);
    }

    pub(super) fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Ranks the next allowed rows, as many as the turn allows, and sorts the best at the end.
    pub(super) fn scan(
        &mut self,
        index: &Vectors,
        allowed: &RowSet,
        k: usize,
        turn: &Turn<'_>,
    ) -> Poll<Ranked> {
        if matches!(self.codes, Codes::Unknown) {
            let is_selective = (k as u64) < allowed.len() / 4;
            let codes = is_selective.then(|| CodeProbe::new(&self.probe)).flatten();
            self.codes = codes.map_or(Codes::Useless, Codes::Useful);
        }
        let begin = || Top::new(k, self.confined);
        let mut top = self.top.take().unwrap_or_else(begin);
        let polled = match self.poll_scores(index, allowed, k, &mut top, turn) {
            Poll::Ready(()) => top.poll_sorted(turn),
            Poll::Pending => Poll::Pending,
        };
        self.top = Some(top);
        polled.map(|rows| Ranked {
            rows,
            how: "scan",
            seen: self.seen,
            scored: self.scored,
        })
    }

    fn poll_scores(
        &mut self,
        index: &Vectors,
        allowed: &RowSet,
        k: usize,
        top: &mut Top,
        turn: &Turn<'_>,
    ) -> Poll<()> {
        loop {
            while let Some(units) = self.step(index, top) {
                if !turn.spend(units) {
                    return Poll::Pending;
                }
            }
            let rows = BATCH.min(index.shape.codes_for(turn.budget.left()));
            self.next_batch(index, allowed, rows);
            if self.batch.is_empty() {
                return Poll::Ready(());
            }
            self.take_batch(index, k, top);
            if !turn.spend(index.shape.code_units(self.batch.len())) {
                return Poll::Pending;
            }
        }
    }

    /// Goes on with the row that may be the nearest of the batch; gives the units that it took,
    /// and None when the batch is done.
    fn step(&mut self, index: &Vectors, top: &mut Top) -> Option<u32> {
        if let Some(row) = self.due.pop() {
            self.score(index, row, top);
            return Some(index.shape.units());
        }
        if self
            .near
            .peek()
            .is_none_or(|near| top.is_beyond(near.bound))
        {
            self.near.clear();
            // They may have lesser bounds than some that were made close.
            let cut = self.cut.take()?;
            self.line_up(Some(cut), top);
        }
        let nearest = self.near.peek()?;
        if !nearest.is_close {
            self.refine(index, top);
            return Some(index.shape.code_units(REFINED * 2));
        }
        let nearest = self.near.pop()?;
        // The next one is mostly scored as well, and its vector is far away.
        if let Some(next) = self.near.peek().filter(|next| next.is_close)
            && let Some(place) = index.places.get(next.row)
        {
            prefetch(index.at(place).0);
        }
        self.score(index, nearest.row, top);
        Some(index.shape.units())
    }

    fn score(&mut self, index: &Vectors, row: u32, top: &mut Top) {
        // A row that has changed since its bound was taken is none of the allowed.
        if let Some(place) = index.places.get(row) {
            let (vector, norm) = index.at(place);
            top.offer(self.probe.distance_with_norm(vector, norm), row);
            self.scored += 1;
        }
    }

    /// Makes the bounds of the next rows close.
    fn refine(&mut self, index: &Vectors, top: &Top) {
        let Codes::Useful(codes) = &self.codes else {
            return;
        };
        let mut rows = [(0, 0); REFINED];
        let mut count = 0;
        while count < REFINED
            && let Some(near) = self.near.peek()
            && !near.is_close
            && !top.is_beyond(near.bound)
        {
            if let Some(place) = index.places.get(near.row) {
                prefetch(index.fine_at(place));
                rows[count] = (near.row, place);
                count += 1;
            }
            self.near.pop();
        }
        for (row, place) in &rows[..count] {
            let (coarse, scale) = index.coarse_at(*place);
            let bound = codes.lower_bound(coarse, index.fine_at(*place), scale);
            if !top.is_beyond(bound) {
                self.near.push(Near {
                    bound,
                    row: *row,
                    is_close: true,
                });
            }
        }
    }

    /// The next allowed rows, none at the end, and the places of those that have one.
    fn next_batch(&mut self, index: &Vectors, allowed: &RowSet, rows: usize) {
        self.batch.clear();
        self.placed.clear();
        while let Some(from) = self.next {
            let (first, low) = ((from >> 16) as u16, from as u16);
            let Some((block, ids)) = allowed
                .next_block(first)
                .and_then(|block| Some((block, allowed.block(block)?)))
            else {
                self.next = None;
                break;
            };
            let low = if block == first { low } else { 0 };
            ids.surrogates_from(block, low, rows - self.batch.len(), &mut self.batch);
            if self.batch.len() == rows {
                self.next = self.batch.last().and_then(|last| last.checked_add(1));
                break;
            }
            self.next = block.checked_add(1).map(|block| u32::from(block) << 16);
        }
        index.places.get_all(&self.batch, &mut self.placed);
        self.seen += self.placed.len() as u64;
    }

    /// Takes the bounds of the batch and lines up what comes first.
    fn take_batch(&mut self, index: &Vectors, k: usize, top: &Top) {
        let Codes::Useful(codes) = &self.codes else {
            let rows = self.placed.iter().rev();
            self.due.extend(rows.map(|(row, _)| *row));
            return;
        };
        take_bounds(index, codes, &self.placed, &mut self.bounds);
        let first = k.saturating_mul(FIRST);
        if top.has_bound() || first >= self.placed.len() {
            return self.line_up(None, top);
        }
        let mut sample: Vec<f64> = self.bounds.iter().copied().step_by(SAMPLED).collect();
        let cut = *sample
            .select_nth_unstable_by(first / SAMPLED, f64::total_cmp)
            .1;
        self.near
            .extend(nearer(&self.placed, &self.bounds, |bound| bound <= cut));
        self.cut = Some(cut);
    }

    /// Lines up those rows of the batch that may be among the best; those with bounds up to
    /// `above` have been.
    fn line_up(&mut self, above: Option<f64>, top: &Top) {
        let is_due = |bound| above.is_none_or(|cut| bound > cut) && !top.is_beyond(bound);
        self.near.extend(nearer(&self.placed, &self.bounds, is_due));
    }
}

/// Rows with their coarse bounds, where these are as wanted.
fn nearer<'a>(
    placed: &'a [(u32, u32)],
    bounds: &'a [f64],
    is_wanted: impl Fn(f64) -> bool + 'a,
) -> impl Iterator<Item = Near> + 'a {
    let both = placed.iter().zip(bounds);
    both.filter(move |(_, bound)| is_wanted(**bound))
        .map(|((row, _), bound)| Near {
            bound: *bound,
            row: *row,
            is_close: false,
        })
}

/// Coarse halves by place; the run of the last one is at hand.
struct Coarse<'a> {
    index: &'a Vectors,
    last: Option<(u32, &'a Run)>,
}

impl<'a> Coarse<'a> {
    #[inline]
    fn at(&mut self, place: u32) -> (&'a [u8], &'a Scale) {
        let (number, slot) = self.index.shape.split(place);
        let run = match self.last {
            Some((last, run)) if last == number => run,
            _ => self.index.run(number),
        };
        self.last = Some((number, run));
        run.coarse_at(slot, &self.index.shape)
    }
}

/// The coarse bounds of some rows by their places.
fn take_bounds(index: &Vectors, codes: &CodeProbe, placed: &[(u32, u32)], bounds: &mut Vec<f64>) {
    bounds.clear();
    bounds.reserve(placed.len());
    let mut products = [0; CHUNK];
    let mut scales = [Scale::default(); CHUNK];
    let mut codes_of = Coarse { index, last: None };
    let mut asked_for = |place: u32| {
        let (coarse, scale) = codes_of.at(place);
        prefetch(std::slice::from_ref(scale));
        prefetch(coarse);
        (coarse, scale)
    };
    // What has been asked for and not been used, in a ring.
    let none = Scale::default();
    let mut waiting = [(&[][..], &none); AHEAD];
    let mut places = placed.iter().map(|(_, place)| *place);
    for (slot, place) in waiting.iter_mut().zip(&mut places) {
        *slot = asked_for(place);
    }
    let mut ring = (0..AHEAD).cycle();
    for chunk in placed.chunks(CHUNK) {
        let rows = products.iter_mut().zip(&mut scales);
        for ((product, scale), at) in rows.take(chunk.len()).zip(&mut ring) {
            let (coarse, of) = waiting[at];
            if let Some(place) = places.next() {
                waiting[at] = asked_for(place);
            }
            (*product, *scale) = (codes.coarse_product(coarse), *of);
        }
        codes.coarse_bounds(&products[..chunk.len()], &scales[..chunk.len()], bounds);
    }
}
