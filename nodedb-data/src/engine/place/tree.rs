//! Where to look: the bounds of places, in a tail and in packed runs.
//!
//! The tree only proposes rows. It is told of new places and never of those that are gone: an
//! entry whose row has another place by now, or none, is *stale*, and whoever walks the tree
//! asks the row's own place ([`super::store`]) anyway. Sealing the tail and merging runs leave
//! stale entries and repeats out. So nothing has to be searched for on a delete, and a run never
//! changes once it is made: a walk keeps the runs it began with while merges replace them.
//!
//! A full tail is sorted and sealed in one piece. Four runs of about one size are merged into
//! one, and all of them when stale entries outnumber the others; that goes in pieces of any size.

use std::rc::Rc;
use std::task::Poll;

use super::bounds::{Bounds, World};
use super::run::{Builder, Entry, Run};
use crate::pace::{Budget, Turn};

/// Entries of the tail before it is sealed: as many as can be sorted within a commit.
pub(super) const TAIL_MAX: usize = 512;
/// Runs of one size that are merged; up to twice as many where more are waiting.
const MERGE_RUNS: usize = 4;
/// Entries of the tail that are looked at for a unit.
const TAIL_PER_UNIT: usize = 32;
/// Entries that a unit pays for where little is done with each.
pub(super) const VISITS_PER_UNIT: usize = 8;
/// Units of merging one entry.
const MERGE_ENTRY: u32 = 3;

pub(super) struct Tree {
    world: World,
    tail_max: usize,
    tail: Vec<Entry>,
    runs: Vec<Rc<Run>>,
    merge: Option<Merge>,
    /// The next name for an image.
    next_id: u64,
    /// What the tail is called in images; none once it has changed.
    tail_id: Option<u64>,
}

/// The bounds of a row's present place.
pub(super) trait Present: Fn(u32) -> Option<Bounds> {}
impl<F: Fn(u32) -> Option<Bounds>> Present for F {}

impl Tree {
    pub(super) fn new(world: World, tail_max: usize) -> Tree {
        Tree {
            world,
            tail_max,
            tail: Vec::new(),
            runs: Vec::new(),
            merge: None,
            next_id: 0,
            tail_id: None,
        }
    }

    pub(super) fn push(&mut self, surrogate: u32, bounds: Bounds, present: impl Present) {
        self.tail_id = None;
        self.tail.push(Entry { bounds, surrogate });
        if self.tail.len() >= self.tail_max {
            self.seal(present);
        }
    }

    fn seal(&mut self, present: impl Present) {
        let tail = std::mem::take(&mut self.tail);
        let mut sorted: Vec<(u64, Entry)> = tail
            .into_iter()
            .filter(|entry| present(entry.surrogate) == Some(entry.bounds))
            .map(|entry| (self.world.key(&entry.bounds), entry))
            .collect();
        sorted.sort_unstable_by_key(|(key, entry)| (*key, entry.surrogate));
        // Two entries that are both present have the same bounds, hence the same key.
        sorted.dedup_by_key(|(_, entry)| entry.surrogate);
        let mut builder = Builder::with_capacity(sorted.len());
        for (_, entry) in sorted {
            builder.push(entry);
        }
        self.add_run(builder);
    }

    fn add_run(&mut self, builder: Builder) {
        if !builder.entries().is_empty() {
            let id = self.id();
            self.runs.push(Rc::new(builder.finish(id)));
        }
    }

    /// A name that nothing of this tree has.
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// For an image: the runs, and the tail with its name.
    pub(super) fn freeze(&mut self) -> (&[Rc<Run>], u64, Vec<Entry>) {
        let id = match self.tail_id {
            Some(id) => id,
            None => self.id(),
        };
        self.tail_id = Some(id);
        (&self.runs, id, self.tail.clone())
    }

    /// The next name for an image.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Gives an empty tree the names from `next_id` on.
    pub(super) fn begin_at(&mut self, next_id: u64) {
        self.next_id = next_id;
    }

    /// Drops one of the runs; false when there is none.
    pub(super) fn drop_run(&mut self) -> bool {
        self.merge = None;
        self.runs.pop().is_some()
    }

    /// Adds a run of an image.
    pub(super) fn restore_run(&mut self, run: Run) {
        self.runs.push(Rc::new(run));
    }

    /// Sets the tail of an image; false when it is too long.
    pub(super) fn restore_tail(&mut self, tail: Vec<Entry>, id: u64) -> bool {
        let fits = tail.len() < self.tail_max;
        (self.tail, self.tail_id) = (tail, Some(id));
        fits
    }

    /// Whether `next` may stand behind `last` in a run.
    pub(super) fn follows(&self, last: &Entry, next: &Entry) -> bool {
        let place = |entry: &Entry| (self.world.key(&entry.bounds), entry.surrogate);
        place(last) < place(next)
    }

    /// Goes on merging until the budget is spent; true when there is more to do. `rows` of the
    /// entries should not be stale.
    pub(super) fn work(&mut self, budget: &Budget, rows: u64, present: impl Present) -> bool {
        loop {
            if self.merge.is_none() {
                let Some(inputs) = self.due(rows) else {
                    return false;
                };
                self.merge = Some(Merge::new(inputs, self.world));
            }
            if let Some(merge) = &mut self.merge {
                while merge.step(self.world, &present) {
                    if !budget.spend(MERGE_ENTRY) {
                        return true;
                    }
                }
            }
            self.install();
            if budget.is_spent() {
                return self.due(rows).is_some();
            }
        }
    }

    /// Puts a finished merge in the place of its inputs.
    fn install(&mut self) {
        if let Some(merge) = self.merge.take() {
            let is_input =
                |run: &Rc<Run>| merge.inputs.iter().any(|input| Rc::ptr_eq(&input.run, run));
            self.runs.retain(|run| !is_input(run));
            self.add_run(merge.builder);
        }
    }

    /// The runs to be merged next.
    fn due(&self, rows: u64) -> Option<Vec<Rc<Run>>> {
        let tier = |run: &Run| (run.entries().len() / self.tail_max).max(1).ilog2() / 2;
        for run in &self.runs {
            let same: Vec<_> = self
                .runs
                .iter()
                .filter(|other| tier(other) == tier(run))
                .take(2 * MERGE_RUNS)
                .cloned()
                .collect();
            if same.len() >= MERGE_RUNS {
                return Some(same);
            }
        }
        let entries: usize = self.runs.iter().map(|run| run.entries().len()).sum();
        let is_stale = entries as u64 > 2 * rows + (MERGE_RUNS * self.tail_max) as u64;
        is_stale.then(|| self.runs.clone())
    }

    /// Rows whose bounds are about to meet the boxes, from the upper levels alone.
    pub(super) fn estimate(&self, boxes: &[[f64; 4]]) -> u64 {
        let tail = self.tail.iter().take(64);
        let met = |entry: &&Entry| boxes.iter().any(|b| entry.bounds.meets(b));
        let sample = tail.clone().filter(met).count() * self.tail.len();
        let of_tail = sample / tail.len().max(1);
        let of_runs: f64 = self.runs.iter().map(|run| run.estimate(boxes)).sum();
        of_tail as u64 + of_runs.ceil() as u64
    }

    /// Units of a walk that proposes so many rows.
    pub(super) fn walk_units(&self, proposed: u64) -> u64 {
        // A leaf is a unit by itself, and not all of its entries are met.
        let visits = proposed * 2 / VISITS_PER_UNIT as u64;
        (self.tail.len() / TAIL_PER_UNIT) as u64 + self.runs.len() as u64 * 4 + visits
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.tail.capacity() * size_of::<Entry>()
            + self.runs.iter().map(|run| run.heap_bytes()).sum::<usize>()
            + self.merge.as_ref().map_or(0, |m| m.builder.heap_bytes())
    }

    #[cfg(test)]
    pub(super) fn runs(&self) -> &[Rc<Run>] {
        &self.runs
    }
}

/// Runs on their way to become one.
struct Merge {
    inputs: Vec<Input>,
    builder: Builder,
    last: Option<u32>,
}

struct Input {
    run: Rc<Run>,
    at: usize,
    /// Of the entry at `at`; None at the end.
    head: Option<(u64, u32)>,
}

impl Input {
    fn look(&mut self, world: World) {
        let entry = self.run.entries().get(self.at);
        self.head = entry.map(|entry| (world.key(&entry.bounds), entry.surrogate));
    }
}

impl Merge {
    fn new(runs: Vec<Rc<Run>>, world: World) -> Merge {
        let entries = runs.iter().map(|run| run.entries().len()).sum();
        let input = |run| {
            let mut input = Input {
                run,
                at: 0,
                head: None,
            };
            input.look(world);
            input
        };
        Merge {
            inputs: runs.into_iter().map(input).collect(),
            builder: Builder::with_capacity(entries),
            last: None,
        }
    }

    /// Takes over one entry; false when there is none.
    fn step(&mut self, world: World, present: &impl Present) -> bool {
        let heads = self.inputs.iter_mut().filter(|input| input.head.is_some());
        let Some(input) = heads.min_by_key(|input| input.head) else {
            return false;
        };
        let entry = input.run.entries()[input.at];
        input.at += 1;
        input.look(world);
        if self.last != Some(entry.surrogate) && present(entry.surrogate) == Some(entry.bounds) {
            self.last = Some(entry.surrogate);
            self.builder.push(entry);
        }
        true
    }
}

/// A walk over the entries whose bounds meet something, over as many turns as it takes.
///
/// It sees an entry for every row that has its place since before the walk began and keeps it
/// until the end: first the tail, then the runs as they are when the tail is through. Of a tail
/// that is sealed meanwhile the run is among those, and what the next one holds is newer than
/// the walk.
pub(super) enum Walk {
    Start,
    Tail {
        at: usize,
    },
    Runs {
        runs: Vec<Rc<Run>>,
        run: usize,
        at: usize,
    },
    Done,
}

impl Walk {
    /// `visits_per_unit`: calls of `visit` that make a unit.
    pub(super) fn poll(
        &mut self,
        tree: &Tree,
        meets: impl Fn(&Bounds) -> bool,
        mut visit: impl FnMut(&Entry),
        visits_per_unit: usize,
        turn: &Turn<'_>,
    ) -> Poll<()> {
        loop {
            let mut visits = 0;
            match self {
                Walk::Start => {
                    *self = Walk::Tail { at: 0 };
                    continue;
                }
                Walk::Tail { at } if *at < tree.tail.len() => {
                    let rest = tree.tail[*at..].iter().take(TAIL_PER_UNIT);
                    *at += rest.len();
                    for entry in rest.filter(|entry| meets(&entry.bounds)) {
                        visit(entry);
                        visits += 1;
                    }
                }
                Walk::Tail { .. } => {
                    *self = Walk::Runs {
                        runs: tree.runs.clone(),
                        run: 0,
                        at: 0,
                    };
                }
                Walk::Runs { runs, run, at } => match runs.get(*run) {
                    Some(now) => {
                        let (leaf, next) = now.step(*at, &meets);
                        for entry in leaf.iter().filter(|entry| meets(&entry.bounds)) {
                            visit(entry);
                            visits += 1;
                        }
                        *at = next;
                        if next >= now.entries().len() {
                            (*run, *at) = (*run + 1, 0);
                        }
                    }
                    None => *self = Walk::Done,
                },
                Walk::Done => return Poll::Ready(()),
            }
            if !turn.spend(1 + (visits / visits_per_unit) as u32) {
                return Poll::Pending;
            }
        }
    }
}
