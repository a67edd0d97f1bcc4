//! Sorting in pieces that fit a turn, and the best k of many.
//!
//! Items are sorted in runs of [`RUN`] as they come; the runs are merged one item at a time when
//! they are taken out. With a small limit only the best are kept, in a heap with the worst of
//! them on top.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Items sorted in one go: some 0.3 ms.
const RUN: usize = 4096;
/// Units of sorting a run.
const RUN_UNITS: u32 = 3_000;

/// Takes items in any order and gives them back ascending.
pub(super) struct Sorter<T> {
    keep: Keep<T>,
}

enum Keep<T> {
    /// At most `limit`, which is not above [`RUN`].
    Best {
        limit: usize,
        heap: BinaryHeap<T>,
    },
    Runs {
        sorted: Vec<Vec<T>>,
        tail: Vec<T>,
    },
}

impl<T: Ord> Sorter<T> {
    /// `limit`: how many of the smallest are needed.
    pub(super) fn new(limit: Option<u64>) -> Sorter<T> {
        let keep = match limit.map(usize::try_from) {
            Some(Ok(limit)) if limit <= RUN => Keep::Best {
                limit,
                heap: BinaryHeap::new(),
            },
            _ => Keep::Runs {
                sorted: Vec::new(),
                tail: Vec::new(),
            },
        };
        Sorter { keep }
    }

    /// False when an item that compares to the worst one as `compare` says would be dropped at
    /// once. It spares making the item.
    pub(super) fn wants(&self, compare: impl Fn(&T) -> std::cmp::Ordering) -> bool {
        match &self.keep {
            Keep::Best { limit, heap } if heap.len() >= *limit => {
                heap.peek().is_some_and(|worst| compare(worst).is_lt())
            }
            Keep::Best { .. } | Keep::Runs { .. } => true,
        }
    }

    /// Gives the units it took, and an item that is no longer needed.
    pub(super) fn push(&mut self, item: T) -> (u32, Option<T>) {
        match &mut self.keep {
            Keep::Best { limit, heap } => {
                heap.push(item);
                let over = if heap.len() > *limit {
                    heap.pop()
                } else {
                    None
                };
                (1, over)
            }
            Keep::Runs { sorted, tail } => {
                tail.push(item);
                if tail.len() < RUN {
                    return (0, None);
                }
                let mut run = std::mem::take(tail);
                run.sort_unstable();
                sorted.push(run);
                (RUN_UNITS, None)
            }
        }
    }

    /// Units that [`Sorter::finish`] takes.
    pub(super) fn finish_units(&self) -> u32 {
        let items = match &self.keep {
            Keep::Best { heap, .. } => heap.len(),
            Keep::Runs { sorted, tail } => tail.len() + sorted.len(),
        };
        (items * RUN_UNITS as usize / RUN) as u32
    }

    /// The items, smallest first.
    pub(super) fn finish(self) -> Sorted<T> {
        let runs = match self.keep {
            Keep::Best { heap, .. } => vec![heap.into_sorted_vec()],
            Keep::Runs {
                mut sorted,
                mut tail,
            } => {
                tail.sort_unstable();
                sorted.push(tail);
                sorted
            }
        };
        let mut runs: Vec<_> = runs.into_iter().map(Vec::into_iter).collect();
        let heads = runs.iter_mut().enumerate();
        let heads = heads.filter_map(|(at, run)| Some(Reverse((run.next()?, at))));
        Sorted {
            heads: heads.collect(),
            runs,
        }
    }
}

/// A merge of sorted runs.
pub(super) struct Sorted<T> {
    heads: BinaryHeap<Reverse<(T, usize)>>,
    runs: Vec<std::vec::IntoIter<T>>,
}

impl<T: Ord> Iterator for Sorted<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let Reverse((item, at)) = self.heads.pop()?;
        if let Some(next) = self.runs[at].next() {
            self.heads.push(Reverse((next, at)));
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed(n: u64) -> Vec<u64> {
        (0..n).map(|i| i * 7919 % 10_007).collect()
    }

    #[test]
    fn runs_merge_into_one_order() {
        for n in [0, 1, RUN as u64, RUN as u64 * 2 + 5] {
            let mut sorter = Sorter::new(None);
            let mut units = 0;
            for item in mixed(n) {
                units += sorter.push(item).0;
            }
            assert_eq!(units, (n / RUN as u64) as u32 * RUN_UNITS);
            let mut expected = mixed(n);
            expected.sort_unstable();
            assert!(sorter.finish().eq(expected));
        }
    }

    #[test]
    fn a_limit_keeps_the_best() {
        let mut sorter = Sorter::new(Some(3));
        for item in mixed(100) {
            if sorter.wants(|worst| item.cmp(worst)) {
                sorter.push(item);
            }
        }
        let mut expected = mixed(100);
        expected.sort_unstable();
        assert!(sorter.finish().eq(expected.into_iter().take(3)));
        let mut none = Sorter::new(Some(0));
        assert_eq!(none.push(1).1, Some(1));
        assert_eq!(none.finish().count(), 0);
    }
}
