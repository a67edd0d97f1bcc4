//! The k smallest scores seen so far and every row that ties with the k-th.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::task::Poll;

use crate::pace::Turn;

/// Ties that are appended for a unit; taking one row out of the heap is another.
const TIES_PER_UNIT: usize = 64;

/// A score with SQL's order: NaN is the largest and equals itself, -0 equals 0.
#[derive(Clone, Copy, Debug)]
struct Score(f64);

impl Ord for Score {
    fn cmp(&self, other: &Score) -> Ordering {
        self.0
            .partial_cmp(&other.0)
            .unwrap_or_else(|| self.0.is_nan().cmp(&other.0.is_nan()))
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Score) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Score) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}

pub(super) struct Top {
    k: usize,
    /// Larger scores are not wanted.
    bound: Option<Score>,
    /// The worst on top.
    best: BinaryHeap<(Score, u32)>,
    /// Rows outside of `best` whose score equals the worst of it.
    ties: Vec<(f64, u32)>,
    /// The result, worst first, while it is being put in order.
    sorted: Vec<(f64, u32)>,
}

impl Top {
    /// Scores above `bound` are left out.
    pub(super) fn new(k: usize, bound: Option<f64>) -> Top {
        Top {
            k,
            bound: bound.map(Score),
            best: BinaryHeap::new(),
            ties: Vec::new(),
            sorted: Vec::new(),
        }
    }

    pub(super) fn offer(&mut self, score: f64, surrogate: u32) {
        if self.bound.is_some_and(|bound| Score(score) > bound) {
            return;
        }
        if self.best.len() < self.k {
            self.best.push((Score(score), surrogate));
            return;
        }
        let Some(mut worst) = self.best.peek_mut() else {
            return;
        };
        match Score(score).cmp(&worst.0) {
            Ordering::Greater => {}
            Ordering::Equal => self.ties.push((score, surrogate)),
            Ordering::Less => {
                let out = std::mem::replace(&mut *worst, (Score(score), surrogate));
                drop(worst);
                if self.best.peek().is_some_and(|worst| worst.0 == out.0) {
                    self.ties.push((out.0.0, out.1));
                } else {
                    self.ties.clear();
                }
            }
        }
    }

    /// Whether there is a score to compare others with: of the k-th row, or one that was given.
    pub(super) fn has_bound(&self) -> bool {
        self.bound.is_some() || self.best.len() >= self.k
    }

    /// Whether a row with this score, or a larger one, is surely not among the result. Once it is
    /// so for a score, it stays so.
    pub(super) fn is_beyond(&self, score: f64) -> bool {
        if self.bound.is_some_and(|bound| Score(score) > bound) {
            return true;
        }
        let worst = || self.best.peek().map(|worst| worst.0);
        self.best.len() >= self.k && worst().is_none_or(|worst| Score(score) > worst)
    }

    /// The result, best first. Once begun, no row may be offered any more.
    pub(super) fn poll_sorted(&mut self, turn: &Turn<'_>) -> Poll<Vec<(f64, u32)>> {
        loop {
            if !self.ties.is_empty() {
                let from = self.ties.len().saturating_sub(TIES_PER_UNIT);
                self.sorted.extend(self.ties.drain(from..));
            } else if let Some((score, surrogate)) = self.best.pop() {
                self.sorted.push((score.0, surrogate));
            } else {
                break;
            }
            if !turn.spend(1) {
                return Poll::Pending;
            }
        }
        let mut sorted = std::mem::take(&mut self.sorted);
        sorted.reverse();
        Poll::Ready(sorted)
    }
}
