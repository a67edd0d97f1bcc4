//! The best of many scores, with all that equal the last of them.

use std::collections::BTreeMap;
use std::task::Poll;

use crate::pace::Turn;

/// Entries handed out for a unit.
const ENTRIES_PER_UNIT: usize = 16;

/// Keeps the rows of the `k` best scores and those whose score equals the k-th. Scores are finite
/// and not negative, so their bits order as they do.
#[derive(Default)]
pub(super) struct Top {
    k: usize,
    groups: BTreeMap<u64, Vec<u32>>,
    len: usize,
    sorted: Vec<(f64, u32)>,
}

impl Top {
    pub(super) fn new(k: usize) -> Top {
        Top {
            k,
            ..Top::default()
        }
    }

    /// Rows kept.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, score: f64, surrogate: u32) {
        debug_assert!(score.is_finite() && score.is_sign_positive());
        let bits = score.to_bits();
        let worst = self.groups.first_key_value();
        if self.k == 0 || self.len >= self.k && worst.is_some_and(|(worst, _)| bits < *worst) {
            return;
        }
        self.groups.entry(bits).or_default().push(surrogate);
        self.len += 1;
        while let Some(worst) = self.groups.first_entry() {
            if self.len - worst.get().len() < self.k {
                break;
            }
            self.len -= worst.remove().len();
        }
    }

    /// All rows kept, in any order.
    pub(super) fn rows(&self) -> impl Iterator<Item = u32> + '_ {
        self.groups.values().flatten().copied()
    }

    /// Best first. To be called until it is ready, and no more.
    pub(super) fn poll_sorted(&mut self, turn: &Turn<'_>) -> Poll<Vec<(f64, u32)>> {
        while let Some((bits, rows)) = self.groups.pop_last() {
            let score = f64::from_bits(bits);
            self.sorted.extend(rows.iter().map(|row| (score, *row)));
            let units = (1 + rows.len() / ENTRIES_PER_UNIT) as u32;
            if !turn.spend(units) && !self.groups.is_empty() {
                return Poll::Pending;
            }
        }
        Poll::Ready(std::mem::take(&mut self.sorted))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;
    use crate::pace::Budget;

    proptest! {
        #[test]
        fn the_best_and_their_equals(scores in prop::collection::vec(0u32..12, 0..60), k in 0usize..20) {
            let mut top = Top::new(k);
            for (row, score) in (0..).zip(&scores) {
                top.push(f64::from(*score), row);
            }
            let mut sorted = scores.clone();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let worst = sorted.get(k.min(sorted.len()).wrapping_sub(1));
            let kept: Vec<u32> = (0..)
                .zip(&scores)
                .filter(|(_, score)| worst.is_some_and(|worst| *score >= worst))
                .map(|(row, _)| row)
                .collect();
            prop_assert_eq!(top.len(), kept.len());
            let mut found = loop {
                let budget = Budget::new(1);
                let turn = Turn { budget: &budget, waker: Waker::noop() };
                if let Poll::Ready(found) = top.poll_sorted(&turn) {
                    break found;
                }
            };
            prop_assert!(found.is_sorted_by(|a, b| a.0 >= b.0));
            found.sort_unstable_by_key(|(_, row)| *row);
            let expected: Vec<_> = kept.iter().map(|row| (f64::from(scores[*row as usize]), *row)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
