//! The documents of one index: the tail, the runs, and their upkeep.
//!
//! Invariants: every row alive is in `documents` or in `nulls` (all its columns are NULL), a row
//! of `documents` has its one live document in one part, and the last part is the tail, the only
//! one that takes documents. When the tail is full it is sealed and a new one begins; sealing,
//! and putting runs in place of what they were merged from, raises `epoch`, which tells readers
//! that the token ids they remember mean nothing any more.

use std::rc::Rc;

use nodedb_types::Result;

use super::analyze::Analyzer;
use super::document::Document;
use super::merge::Merge;
use super::part::{Body, Part};
use super::tail::Tail;
use crate::engine::image::malformed;
use crate::pace::Budget;
use crate::set::RowSet;

/// When the tail is full, how runs grow, how long a write may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) tail_documents: usize,
    pub(super) tail_bytes: usize,
    /// This many runs of similar size are merged into one.
    pub(super) fan_in: usize,
    /// Units that `apply` may take; what is left of a row then waits in the backlog.
    pub(super) apply_units: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            tail_documents: 10_000,
            tail_bytes: 16 << 20,
            fan_in: 4,
            apply_units: 1_000,
        }
    }
}

pub(super) struct Corpus {
    limits: Limits,
    documents: RowSet,
    nulls: RowSet,
    /// Tokens of all live documents.
    length: u64,
    parts: Vec<Part>,
    next_number: u32,
    /// What `nulls` and the dead are called in images; none once they have changed.
    sets_id: Option<u32>,
    epoch: u64,
    merge: Option<Merge>,
    /// Parts that nobody reads any more, to be dropped in pieces.
    retired: Vec<Body>,
}

/// Entries dropped in one piece of a retired part, and what one costs: each has memory of its own
/// that nobody has looked at for long.
const DISMANTLE_PIECE: usize = 4;
const DISMANTLE_UNITS: u32 = 4;

impl Corpus {
    pub(super) fn new(limits: Limits) -> Corpus {
        Corpus {
            limits,
            documents: RowSet::new(),
            nulls: RowSet::new(),
            length: 0,
            parts: vec![Part::tail(0)],
            next_number: 1,
            sets_id: None,
            epoch: 0,
            merge: None,
            retired: Vec::new(),
        }
    }

    /// Rows with a document.
    pub(super) fn documents(&self) -> &RowSet {
        &self.documents
    }

    /// Rows whose indexed columns are all NULL.
    pub(super) fn nulls(&self) -> &RowSet {
        &self.nulls
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// True when the index has the row.
    pub(super) fn holds(&self, surrogate: u32) -> bool {
        self.documents.contains(surrogate) || self.nulls.contains(surrogate)
    }

    /// A row's document and the position of the part it is in.
    pub(super) fn find(&self, surrogate: u32) -> Option<(usize, Document<'_>)> {
        let mut parts = self.parts.iter().enumerate().rev();
        parts.find_map(|(at, part)| Some((at, part.document(surrogate)?)))
    }

    pub(super) fn tail(&mut self) -> &mut Tail {
        match self.parts.last_mut().map(|part| &mut part.body) {
            Some(Body::Tail(tail)) => tail,
            _ => unreachable!("the last part is the tail"),
        }
    }

    pub(super) fn put_null(&mut self, surrogate: u32) {
        self.sets_id = None;
        self.nulls.insert(surrogate);
    }

    /// Adds a document whose tokens are linked.
    pub(super) fn put(&mut self, surrogate: u32, document: Box<[u8]>) {
        self.length += u64::from(Document::new(&document).length());
        self.documents.insert(surrogate);
        self.tail().put(surrogate, document);
    }

    /// Takes a row out if it is there. What comes back is its document, whose tokens the caller
    /// must unlink from the tail.
    pub(super) fn remove(&mut self, surrogate: u32) -> Option<Box<[u8]>> {
        if self.nulls.remove(surrogate) {
            self.sets_id = None;
        }
        if !self.documents.remove(surrogate) {
            return None;
        }
        if let Some(document) = self.tail().take(surrogate) {
            self.length -= u64::from(Document::new(&document).length());
            return Some(document);
        }
        let (at, document) = self.find(surrogate).expect("documents have a part");
        self.length -= u64::from(document.length());
        self.sets_id = None;
        let part = &mut self.parts[at];
        part.dead.insert(surrogate);
        if let Some(merge) = &mut self.merge {
            merge.died(part.number, surrogate);
        }
        None
    }

    /// Does some upkeep; false when there is none to do.
    pub(super) fn work(&mut self, analyzer: &Analyzer, budget: &Budget) -> bool {
        if self.dismantle(budget) {
            return true;
        }
        if let Some(merge) = &mut self.merge {
            if merge.step(&self.parts, analyzer, budget) {
                self.finish_merge();
            }
            return true;
        }
        self.seal_full_tail();
        let Some(inputs) = self.plan() else {
            return false;
        };
        budget.spend(1);
        self.merge = Some(Merge::new(inputs, &self.parts));
        true
    }

    /// A number that nothing of this index has.
    pub(super) fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number - 1
    }

    pub(super) fn next_number(&self) -> u32 {
        self.next_number
    }

    /// For an image: rows without a document, then the dead of each part but the tail, and their
    /// number, which changes with them.
    pub(super) fn frozen_sets(&mut self) -> (u32, Vec<RowSet>) {
        let number = match self.sets_id {
            Some(number) => number,
            None => self.number(),
        };
        self.sets_id = Some(number);
        let sealed = self
            .parts
            .split_last()
            .map_or(&[][..], |(_, sealed)| sealed);
        let dead = sealed.iter().map(|part| part.dead.clone());
        (
            number,
            [self.nulls.clone()].into_iter().chain(dead).collect(),
        )
    }

    /// Gives an empty index the numbers from `next_number` on.
    pub(super) fn begin_at(&mut self, next_number: u32) {
        self.parts = vec![Part::tail(next_number)];
        self.next_number = next_number + 1;
    }

    /// The sets of an image, by the number that it has for them.
    pub(super) fn restore_nulls(&mut self, nulls: RowSet, number: u32) {
        self.nulls = nulls;
        self.sets_id = Some(number);
    }

    /// Counts in a live document of a part of an image; false when the row is known already.
    pub(super) fn restore_document(&mut self, surrogate: u32, length: u32) -> bool {
        self.length += u64::from(length);
        !self.nulls.contains(surrogate) && self.documents.insert(surrogate)
    }

    /// Adds a part of an image, whose documents are counted in.
    pub(super) fn restore_part(&mut self, mut part: Part) -> Result<()> {
        if self.parts.iter().any(|other| other.number == part.number) {
            return Err(malformed("two parts of one number"));
        }
        if let Body::Tail(tail) = part.body {
            part.body = Body::Sealed(Rc::from(tail));
        }
        let before_tail = self.parts.len() - 1;
        self.parts.insert(before_tail, part);
        self.epoch += 1;
        Ok(())
    }

    /// Nobody reads any part any more, or will.
    pub(super) fn retire_all(&mut self) {
        let parts = self.parts.drain(..);
        self.retired.extend(parts.map(|part| part.body));
        // What a merge has made so far takes as long to drop as a part.
        let merge = self.merge.take().map(Merge::finish);
        let made = merge.map(|(_, run, _)| Body::Run(Rc::new(run)));
        self.retired.extend(made);
    }

    /// Drops a piece of a part that nobody reads any more; false when there is none.
    pub(super) fn dismantle(&mut self, budget: &Budget) -> bool {
        for at in 0..self.retired.len() {
            let Some(dropped) = self.retired[at].dismantle(DISMANTLE_PIECE) else {
                continue;
            };
            if dropped == 0 {
                self.retired.swap_remove(at);
            }
            budget.spend(1 + dropped as u32 * DISMANTLE_UNITS);
            return true;
        }
        false
    }

    fn seal_full_tail(&mut self) {
        let limits = self.limits;
        let tail = self.tail();
        let full = tail.documents.len() >= limits.tail_documents
            || tail.document_bytes() >= limits.tail_bytes;
        if full {
            self.seal();
        }
    }

    /// Begins another tail.
    fn seal(&mut self) {
        let number = self.number();
        let sealed = self.parts.pop().map(|part| Part {
            body: match part.body {
                Body::Tail(tail) => Body::Sealed(Rc::from(tail)),
                body => body,
            },
            ..part
        });
        self.parts.extend(sealed);
        self.parts.push(Part::tail(number));
        self.sets_id = None;
        self.epoch += 1;
    }

    /// Seals the tail if it holds anything, so that nothing that is left will change but the dead.
    /// `half` is a row of which the tail may have links without its document.
    pub(super) fn seal_for_image(&mut self, half: Option<u32>) {
        if half.is_none() && self.tail().documents.is_empty() {
            return;
        }
        if let (Some(tail), Some(row)) = (self.parts.last_mut(), half) {
            tail.dead.insert(row);
        }
        self.seal();
    }

    /// The parts to be made one run next: a sealed tail, else as many runs of similar size as the
    /// limits say, else a run that is half dead.
    fn plan(&self) -> Option<Vec<u32>> {
        let (_, others) = self.parts.split_last()?;
        let mut sealed = others.iter().filter(|p| matches!(p.body, Body::Sealed(_)));
        if let Some(part) = sealed.next() {
            return Some(vec![part.number]);
        }
        let fan_in = self.limits.fan_in;
        // Rows that died while a run was built may be dead in it without a document.
        let alive = |part: &Part| {
            let documents = part.room().documents;
            documents.saturating_sub(part.dead.len() as usize)
        };
        let tier = |part: &Part| (alive(part) / self.limits.tail_documents + 1).ilog(fan_in);
        for part in others {
            let similar = others.iter().filter(|other| tier(other) == tier(part));
            let inputs: Vec<u32> = similar.take(fan_in).map(|part| part.number).collect();
            if inputs.len() == fan_in {
                return Some(inputs);
            }
        }
        let mut half_dead = others
            .iter()
            .filter(|part| alive(part) * 2 < part.room().documents);
        half_dead.next().map(|part| vec![part.number])
    }

    fn finish_merge(&mut self) {
        let Some(merge) = self.merge.take() else {
            return;
        };
        let (inputs, run, dead) = merge.finish();
        let (gone, kept) = self
            .parts
            .drain(..)
            .partition(|part| inputs.contains(&part.number));
        self.parts = kept;
        let gone: Vec<Part> = gone;
        self.retired.extend(gone.into_iter().map(|part| part.body));
        if run.room().documents > 0 {
            let part = Part {
                number: self.number(),
                body: Body::Run(Rc::new(run)),
                dead,
            };
            let before_tail = self.parts.len() - 1;
            self.parts.insert(before_tail, part);
        }
        self.sets_id = None;
        self.epoch += 1;
    }

    #[cfg(test)]
    pub(super) fn retired(&self) -> usize {
        self.retired.len()
    }

    /// Heap bytes, roughly.
    pub(super) fn bytes(&self) -> usize {
        let parts: usize = self.parts.iter().map(Part::bytes).sum();
        parts + self.documents.heap_bytes() + self.nulls.heap_bytes()
    }
}
