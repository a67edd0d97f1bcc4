//! The documents of one index: the tail, the runs, and their upkeep.
//!
//! Invariants: every row alive is in `documents` or in `nulls` (all its columns are NULL), a row
//! of `documents` has its one live document in one part, and the last part is the tail, the only
//! one that takes documents. When the tail is full it is sealed and a new one begins; sealing,
//! and putting runs in place of what they were merged from, raises `epoch`, which tells readers
//! that the token ids they remember mean nothing any more.

use super::analyze::Analyzer;
use super::document::Document;
use super::merge::Merge;
use super::part::{Body, Part};
use super::tail::Tail;
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
            apply_units: 3_000,
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
    epoch: u64,
    merge: Option<Merge>,
    /// Parts that nobody reads any more, to be dropped in pieces.
    retired: Vec<Body>,
}

/// Entries dropped in one piece of a retired part, and what one costs.
const DISMANTLE_PIECE: usize = 32;
const DISMANTLE_UNITS: u32 = 2;

impl Corpus {
    pub(super) fn new(limits: Limits) -> Corpus {
        Corpus {
            limits,
            documents: RowSet::new(),
            nulls: RowSet::new(),
            length: 0,
            parts: vec![Part::tail(0)],
            next_number: 1,
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
        self.nulls.remove(surrogate);
        if !self.documents.remove(surrogate) {
            return None;
        }
        if let Some(document) = self.tail().take(surrogate) {
            self.length -= u64::from(Document::new(&document).length());
            return Some(document);
        }
        let (at, document) = self.find(surrogate).expect("documents have a part");
        self.length -= u64::from(document.length());
        let part = &mut self.parts[at];
        part.dead.insert(surrogate);
        if let Some(merge) = &mut self.merge {
            merge.died(part.number, surrogate);
        }
        None
    }

    /// Does some upkeep; false when there is none to do.
    pub(super) fn work(&mut self, analyzer: &Analyzer, budget: &Budget) -> bool {
        if let Some(body) = self.retired.last_mut() {
            let dropped = body.dismantle(DISMANTLE_PIECE);
            if dropped == 0 {
                self.retired.pop();
            }
            budget.spend(1 + dropped as u32 * DISMANTLE_UNITS);
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

    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number - 1
    }

    fn seal_full_tail(&mut self) {
        let limits = self.limits;
        let tail = self.tail();
        let full = tail.documents.len() >= limits.tail_documents
            || tail.document_bytes() >= limits.tail_bytes;
        if full {
            let number = self.number();
            self.parts.push(Part::tail(number));
            self.epoch += 1;
        }
    }

    /// The parts to be made one run next: a sealed tail, else as many runs of similar size as the
    /// limits say, else a run that is half dead.
    fn plan(&self) -> Option<Vec<u32>> {
        let (_, others) = self.parts.split_last()?;
        let mut sealed = others.iter().filter(|p| matches!(p.body, Body::Tail(_)));
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
                body: Body::Run(Box::new(run)),
                dead,
            };
            let before_tail = self.parts.len() - 1;
            self.parts.insert(before_tail, part);
        }
        self.epoch += 1;
    }

    /// Heap bytes, roughly.
    pub(super) fn bytes(&self) -> usize {
        let parts: usize = self.parts.iter().map(Part::bytes).sum();
        parts + self.documents.heap_bytes() + self.nulls.heap_bytes()
    }
}
