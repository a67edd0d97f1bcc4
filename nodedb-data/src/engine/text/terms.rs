//! The terms of a query against the parts of an index: token ids, rows, frequencies, positions.
//!
//! Ids are good for one epoch of the index; when it has changed they are looked up again. A term
//! of many tokens has its rows gathered into one set before it is used.

use std::ops::{Bound, Range};
use std::task::Poll;

use super::corpus::Corpus;
use super::document::Document;
use super::part::{Body, Part};
use super::query::Term;
use crate::pace::{BLOCK_OPERATION, Turn};
use crate::set::{BlockBuilder, BlockSet, RowSet};

/// Up to this many tokens are read anew for each block.
const DIRECT_MAX: usize = 16;
/// From this weight on (see [`Rows::weight`](super::rows::Rows::weight)) the rows of several
/// tokens are put together as bits.
const BUILDER_WEIGHT: u32 = 8;
/// Up to this many ids are looked for one by one in a document.
const FIND_MAX: usize = 8;

/// Tokens of one term in one part.
enum Ids {
    /// Ascending.
    List(Vec<u32>),
    Range(Range<u32>),
}

impl Ids {
    fn len(&self) -> usize {
        match self {
            Ids::List(ids) => ids.len(),
            Ids::Range(ids) => ids.len(),
        }
    }

    fn get(&self, at: usize) -> u32 {
        match self {
            Ids::List(ids) => ids[at],
            Ids::Range(ids) => ids.start + at as u32,
        }
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len()).map(|at| self.get(at))
    }
}

/// The rows of one term.
#[derive(Default)]
struct Gathered {
    rows: RowSet,
    /// The part and the token in it to go on with.
    part: usize,
    at: usize,
    done: bool,
}

/// The terms of one query.
pub(super) struct Terms {
    list: Vec<Term>,
    epoch: Option<u64>,
    /// By part, by term.
    ids: Vec<Vec<Ids>>,
    /// Those of the next part, as far as they are found.
    found: Vec<Ids>,
    /// Of a prefix in a tail: the ids so far, and the last token.
    partial: Vec<u32>,
    after: Option<Box<str>>,
    gathered: Vec<Gathered>,
}

impl Terms {
    pub(super) fn new(list: &[Term]) -> Terms {
        Terms {
            list: list.to_vec(),
            epoch: None,
            ids: Vec::new(),
            found: Vec::new(),
            partial: Vec::new(),
            after: None,
            gathered: list.iter().map(|_| Gathered::default()).collect(),
        }
    }

    /// Looks the terms up where that is not done for this epoch.
    pub(super) fn poll_find(&mut self, corpus: &Corpus, turn: &Turn<'_>) -> Poll<()> {
        if self.epoch != Some(corpus.epoch()) {
            self.epoch = Some(corpus.epoch());
            self.ids.clear();
            self.found.clear();
            self.partial.clear();
            self.after = None;
            let begun = self.gathered.iter_mut().filter(|gathered| !gathered.done);
            begun.for_each(|gathered| *gathered = Gathered::default());
        }
        while let Some(part) = corpus.parts().get(self.ids.len()) {
            while let Some(term) = self.list.get(self.found.len()) {
                let ids = match (term, &part.body) {
                    (Term::Stem(stem), _) => {
                        let mut ids = part.of_stem(stem).to_vec();
                        ids.sort_unstable();
                        Ids::List(ids)
                    }
                    (Term::Prefix(prefix), Body::Run(run)) => Ids::Range(run.of_prefix(prefix)),
                    (Term::Prefix(prefix), Body::Tail(_) | Body::Sealed(_)) => {
                        let (partial, after) = (&mut self.partial, &mut self.after);
                        if find_prefix(part, prefix, partial, after, turn).is_pending() {
                            return Poll::Pending;
                        }
                        self.after = None;
                        self.partial.sort_unstable();
                        Ids::List(std::mem::take(&mut self.partial))
                    }
                };
                self.found.push(ids);
                if !turn.spend(1) {
                    return Poll::Pending;
                }
            }
            self.ids.push(std::mem::take(&mut self.found));
        }
        Poll::Ready(())
    }

    /// Tokens of a term over all parts.
    fn tokens(&self, term: usize) -> usize {
        self.ids.iter().map(|ids| ids[term].len()).sum()
    }

    /// Makes the terms usable for sets: those of many tokens are gathered.
    pub(super) fn poll_sets(&mut self, corpus: &Corpus, turn: &Turn<'_>) -> Poll<()> {
        if self.poll_find(corpus, turn).is_pending() {
            return Poll::Pending;
        }
        for term in 0..self.list.len() {
            if self.tokens(term) > DIRECT_MAX && self.poll_gather(term, corpus, turn).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Gathers the rows of a term. The terms have been looked up.
    pub(super) fn poll_gather(
        &mut self,
        term: usize,
        corpus: &Corpus,
        turn: &Turn<'_>,
    ) -> Poll<()> {
        let gathered = &mut self.gathered[term];
        while !gathered.done {
            let Some(part) = corpus.parts().get(gathered.part) else {
                gathered.done = true;
                break;
            };
            let ids = &self.ids[gathered.part][term];
            while gathered.at < ids.len() {
                let id = ids.get(gathered.at);
                part.add_all(id, &mut gathered.rows);
                gathered.at += 1;
                if !turn.spend(1 + part.rows(id).weight()) {
                    return Poll::Pending;
                }
            }
            gathered.part += 1;
            gathered.at = 0;
        }
        Poll::Ready(())
    }

    /// How many rows have a term. It has been gathered.
    pub(super) fn gathered_rows(&self, term: usize) -> u64 {
        self.gathered[term].rows.len()
    }

    /// The rows of a term in a block, and what finding them cost. Terms are ready for sets.
    pub(super) fn block(&self, term: usize, block: u16, corpus: &Corpus) -> (BlockSet, u32) {
        let gathered = &self.gathered[term];
        if gathered.done {
            let rows = gathered.rows.block(block).cloned().unwrap_or_default();
            return (rows, BLOCK_OPERATION);
        }
        let parts = || corpus.parts().iter().zip(&self.ids);
        let tokens = || parts().flat_map(|(part, ids)| ids[term].iter().map(move |id| (part, id)));
        let (mut count, mut units, mut weight) = (0, 0, 0);
        for (part, id) in tokens() {
            let rows = part.rows(id).weight();
            units += 1 + rows.min(BLOCK_OPERATION);
            (count, weight) = (count + 1, weight + rows);
        }
        if count == 1 || weight < BUILDER_WEIGHT {
            let mut rows = BlockSet::new();
            tokens().for_each(|(part, id)| part.add_block(id, block, &mut rows));
            return (rows, units);
        }
        let mut rows = BlockBuilder::default();
        tokens().for_each(|(part, id)| part.add_block(id, block, &mut rows));
        (rows.finish(), units + BLOCK_OPERATION)
    }

    /// The first block at or above `from` with rows of a term, some of which may be dead.
    pub(super) fn next_block(&self, term: usize, from: u16, corpus: &Corpus) -> Option<u16> {
        let gathered = &self.gathered[term];
        if gathered.done {
            return gathered.rows.next_block(from);
        }
        let parts = corpus.parts().iter().zip(&self.ids);
        let of_part = |(part, ids): (&Part, &Vec<Ids>)| {
            let ids = ids[term].iter();
            ids.filter_map(|id| part.rows(id).next_block(from)).min()
        };
        parts.filter_map(of_part).min()
    }

    /// How often a term stands in a document of a part.
    pub(super) fn frequency(&self, term: usize, part: usize, document: &Document<'_>) -> u32 {
        let mut frequency = 0;
        self.each(term, part, document, |at| {
            frequency += document.frequency(at);
        });
        frequency
    }

    /// Where it stands, ascending.
    pub(super) fn positions(&self, term: usize, part: usize, document: &Document<'_>) -> Vec<u32> {
        let (mut positions, mut tokens) = (Vec::new(), 0);
        self.each(term, part, document, |at| {
            document.positions(at, &mut positions);
            tokens += 1;
        });
        if tokens > 1 {
            positions.sort_unstable();
        }
        positions
    }

    /// Calls `found` for the document's tokens that a term selects.
    fn each(
        &self,
        term: usize,
        part: usize,
        document: &Document<'_>,
        mut found: impl FnMut(usize),
    ) {
        match &self.ids[part][term] {
            Ids::Range(ids) => {
                let from = document.lower_bound(ids.start);
                let tokens = from..document.tokens();
                tokens
                    .take_while(|at| document.id(*at) < ids.end)
                    .for_each(found);
            }
            Ids::List(ids) if ids.len() <= FIND_MAX => {
                for id in ids {
                    if let Some(at) = document.find(*id) {
                        found(at);
                    }
                }
            }
            Ids::List(ids) => {
                for at in 0..document.tokens() {
                    if ids.binary_search(&document.id(at)).is_ok() {
                        found(at);
                    }
                }
            }
        }
    }
}

/// Adds the ids of a tail's tokens that begin with `prefix` and lie behind `after`.
fn find_prefix(
    part: &Part,
    prefix: &str,
    ids: &mut Vec<u32>,
    after: &mut Option<Box<str>>,
    turn: &Turn<'_>,
) -> Poll<()> {
    loop {
        let from = match after {
            Some(after) => Bound::Excluded(&**after),
            None => Bound::Included(prefix),
        };
        match part.next_token(from) {
            Some((text, id)) if text.starts_with(prefix) => {
                ids.push(id);
                *after = Some(text.into());
            }
            _ => return Poll::Ready(()),
        }
        if !turn.spend(3) {
            return Poll::Pending;
        }
    }
}

/// Tokens of a prefix looked at for an estimate.
const SAMPLE: usize = 16;

impl Term {
    /// Rows that have the term, roughly: rows of several tokens are counted for each, and of a
    /// prefix only the first tokens are looked at.
    pub(super) fn rows(&self, corpus: &Corpus) -> u64 {
        let rows = |part: &Part| match self {
            Term::Stem(stem) => {
                let ids = part.of_stem(stem).iter();
                ids.map(|id| part.rows(*id).len()).sum::<u64>()
            }
            Term::Prefix(prefix) => {
                let (mut rows, mut from) = (0, Bound::Included(&**prefix));
                for _ in 0..SAMPLE {
                    match part.next_token(from) {
                        Some((text, id)) if text.starts_with(&**prefix) => {
                            rows += part.rows(id).len();
                            from = Bound::Excluded(text);
                        }
                        _ => return rows,
                    }
                }
                rows * 2
            }
        };
        corpus.parts().iter().map(rows).sum()
    }
}
