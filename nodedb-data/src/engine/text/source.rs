//! The set form of a query: its steps run over the sets of one block, on a stack.
//!
//! The state between turns is the step to go on with and the stack; a phrase keeps the row and
//! the word it has come to. All NULL makes every term unknown, so the unknown rows of a query are
//! those of all its terms.

use std::task::Poll;

use super::corpus::Corpus;
use super::query::{Compiled, Leaf, Node, Phrase, Step, Term, keep_followed};
use super::terms::Terms;
use crate::engine::{Estimate, Truth};
use crate::pace::{BLOCK_OPERATION, Turn};
use crate::set::BlockSet;

/// Units for looking at one row for a phrase, and positions that cost another.
const PHRASE_ROW_UNITS: u32 = 2;
const POSITIONS_PER_UNIT: usize = 32;
/// Rows of words of many forms that are gathered for a unit.
const GATHERED_PER_UNIT: u64 = 8;
/// Rows of the others that are put together for a unit.
const JOINED_PER_UNIT: u64 = 128;
/// Tokens of a row that the row-wise form reads for a unit.
const TOKENS_PER_UNIT: u64 = 3;
/// Rows of a step are brought down to those wanted at once where these are fewer by this factor.
const WANTED_SHARE: usize = 4;
/// Above this many leaves the next block is not looked for leaf by leaf.
const LEAVES_MAX: usize = 64;

/// A prepared `text_match`.
pub struct TextSource {
    pub(super) query: Compiled,
    terms: Terms,
    evaluation: Option<Evaluation>,
    estimate: Estimate,
}

/// A block on its way.
struct Evaluation {
    block: u16,
    wanted: Option<BlockSet>,
    /// The next step.
    at: usize,
    stack: Vec<BlockSet>,
    phrase: Option<PhraseCheck>,
}

/// A phrase on its way through the rows that have all its words.
struct PhraseCheck {
    left: Vec<u16>,
    found: Vec<u16>,
    /// Of the last of `left`: the next word, and the starts that the words before it left over.
    word: usize,
    starts: Vec<u32>,
}

impl TextSource {
    pub(super) fn new(query: Compiled, corpus: &Corpus) -> TextSource {
        let terms = Terms::new(&query.terms);
        let of_terms: Vec<u64> = query.terms.iter().map(|term| term.rows(corpus)).collect();
        let rows = estimate(&query, &query.node, &of_terms, corpus.documents().len());
        // Words of many forms are gathered before a block is answered.
        let prefixes = query.terms.iter().zip(&of_terms);
        let prefixes = prefixes.filter(|(term, _)| matches!(term, Term::Prefix(_)));
        let gathered: u64 = prefixes.map(|(_, rows)| rows).sum();
        let documents = corpus.documents().len().max(1);
        let row = corpus.length() / documents / TOKENS_PER_UNIT;
        let estimate = Estimate {
            rows,
            setup: query.terms.len() as u64 * 2 + gathered / GATHERED_PER_UNIT,
            whole: rows / JOINED_PER_UNIT,
            row: row.clamp(10, 1 << 20) as u32,
        };
        TextSource {
            query,
            terms,
            evaluation: None,
            estimate,
        }
    }

    pub(super) fn estimate(&self) -> Estimate {
        self.estimate
    }

    pub(super) fn poll_next_block(
        &mut self,
        corpus: &Corpus,
        from: u16,
        turn: &Turn<'_>,
    ) -> Poll<Option<u16>> {
        if self.terms.poll_sets(corpus, turn).is_pending() {
            return Poll::Pending;
        }
        self.estimate.setup = 0;
        let leaves = self.query.terms.len();
        let _ = turn.spend(1 + leaves.min(LEAVES_MAX) as u32);
        Poll::Ready(match leaves <= LEAVES_MAX {
            true => self.next_block(&self.query.node, from, corpus),
            false => corpus.documents().next_block(from),
        })
    }

    /// A block before which the node is true for no row.
    fn next_block(&self, node: &Node, from: u16, corpus: &Corpus) -> Option<u16> {
        let of_term = |term: usize| self.terms.next_block(term, from, corpus);
        match node {
            Node::Nothing => None,
            Node::Leaf(Leaf::Term(term)) => of_term(*term),
            Node::Leaf(Leaf::Phrase(phrase)) => {
                let words = self.query.phrases[*phrase].iter();
                latest(words.map(|(_, term)| of_term(*term)))
            }
            Node::And(list) => latest(list.iter().map(|n| self.next_block(n, from, corpus))),
            Node::Or(list) => {
                let list = list.iter();
                list.filter_map(|n| self.next_block(n, from, corpus)).min()
            }
            Node::Not(_) => corpus.documents().next_block(from),
        }
    }

    pub(super) fn poll_block(
        &mut self,
        corpus: &Corpus,
        block: u16,
        wanted: Option<&BlockSet>,
        turn: &Turn<'_>,
    ) -> Poll<Truth> {
        if self.terms.poll_sets(corpus, turn).is_pending() {
            return Poll::Pending;
        }
        self.estimate.setup = 0;
        let evaluation = self.evaluation.take();
        let same = |e: &Evaluation| e.block == block && e.wanted.as_ref() == wanted;
        let mut evaluation = evaluation.filter(same).unwrap_or_else(|| Evaluation {
            block,
            wanted: wanted.cloned(),
            at: 0,
            stack: Vec::new(),
            phrase: None,
        });
        if evaluation
            .poll(&self.query, &self.terms, corpus, turn)
            .is_pending()
        {
            self.evaluation = Some(evaluation);
            return Poll::Pending;
        }
        let mut truth = Truth {
            yes: evaluation.stack.pop().unwrap_or_default(),
            unknown: corpus.nulls().block(block).cloned().unwrap_or_default(),
        };
        // The block is answered; a spent budget stops whoever asks next.
        let _ = turn.spend(BLOCK_OPERATION);
        if let Some(wanted) = wanted {
            truth.yes.intersect(wanted);
        }
        // A row that got or lost its NULL between two turns stands on one side only.
        truth.unknown.subtract(&truth.yes);
        Poll::Ready(truth)
    }
}

/// The latest of blocks, if there is one for each.
fn latest(blocks: impl Iterator<Item = Option<u16>>) -> Option<u16> {
    let mut latest = None;
    for block in blocks {
        latest = latest.max(Some(block?));
    }
    latest
}

impl Evaluation {
    fn poll(
        &mut self,
        query: &Compiled,
        terms: &Terms,
        corpus: &Corpus,
        turn: &Turn<'_>,
    ) -> Poll<()> {
        while let Some(step) = query.steps.get(self.at) {
            let mut units = BLOCK_OPERATION;
            match *step {
                Step::Nothing => self.stack.push(BlockSet::new()),
                Step::Leaf(leaf) | Step::AndLeaf(leaf) => {
                    let within = *step == Step::AndLeaf(leaf);
                    let rows = match leaf {
                        Leaf::Term(term) => {
                            let (rows, cost) = terms.block(term, self.block, corpus);
                            units += cost;
                            rows
                        }
                        Leaf::Phrase(phrase) => {
                            let words = &query.phrases[phrase];
                            match self.poll_phrase(words, within, terms, corpus, turn) {
                                Poll::Ready(rows) => rows,
                                Poll::Pending => return Poll::Pending,
                            }
                        }
                    };
                    self.take_leaf(rows, within);
                }
                Step::And | Step::Or => {
                    let other = self.stack.pop().unwrap_or_default();
                    if let Some(top) = self.stack.last_mut() {
                        match step {
                            Step::And => top.intersect(&other),
                            _ => top.union(&other),
                        }
                    }
                }
                Step::Not => {
                    let documents = corpus.documents().block(self.block);
                    let mut rest = documents.cloned().unwrap_or_default();
                    self.keep_wanted(&mut rest);
                    if let Some(top) = self.stack.last_mut() {
                        rest.subtract(top);
                        *top = rest;
                    }
                }
                Step::SkipIfEmpty(to) => {
                    units = 1;
                    if self.stack.last().is_none_or(BlockSet::is_empty) {
                        self.at = to - 1;
                    }
                }
            }
            self.at += 1;
            if !turn.spend(units) && self.at < query.steps.len() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Leaves out rows that nobody wants where that spares later steps much; the answer is
    /// brought down to those wanted at the end.
    fn keep_wanted(&self, rows: &mut BlockSet) {
        if let Some(wanted) = &self.wanted
            && wanted.len() < rows.len() / WANTED_SHARE
        {
            rows.intersect(wanted);
        }
    }

    /// Pushes a leaf's rows, or keeps of the top what is in them.
    fn take_leaf(&mut self, mut rows: BlockSet, within: bool) {
        match self.stack.last_mut() {
            Some(top) if within => top.intersect(&rows),
            _ => {
                self.keep_wanted(&mut rows);
                self.stack.push(rows);
            }
        }
    }

    /// The rows of a phrase among those wanted, and, `within` an AND, among those on top.
    fn poll_phrase(
        &mut self,
        words: &Phrase,
        within: bool,
        terms: &Terms,
        corpus: &Corpus,
        turn: &Turn<'_>,
    ) -> Poll<BlockSet> {
        let mut check = match self.phrase.take() {
            Some(check) => check,
            None => {
                let (mut rows, mut units) = terms.block(words[0].1, self.block, corpus);
                // Each row that is left has its positions read.
                if let Some(wanted) = &self.wanted {
                    rows.intersect(wanted);
                }
                if let Some(top) = self.stack.last().filter(|_| within) {
                    rows.intersect(top);
                }
                for (_, term) in &words[1..] {
                    if rows.is_empty() {
                        break;
                    }
                    let (others, cost) = terms.block(*term, self.block, corpus);
                    rows.intersect(&others);
                    units += cost;
                }
                let mut left: Vec<u16> = rows.iter().collect();
                left.reverse();
                let check = PhraseCheck {
                    left,
                    found: Vec::new(),
                    word: 0,
                    starts: Vec::new(),
                };
                if !turn.spend(units) {
                    self.phrase = Some(check);
                    return Poll::Pending;
                }
                check
            }
        };
        if check
            .poll(words, self.block, terms, corpus, turn)
            .is_pending()
        {
            self.phrase = Some(check);
            return Poll::Pending;
        }
        Poll::Ready(BlockSet::from_sorted(check.found))
    }
}

impl PhraseCheck {
    fn poll(
        &mut self,
        words: &Phrase,
        block: u16,
        terms: &Terms,
        corpus: &Corpus,
        turn: &Turn<'_>,
    ) -> Poll<()> {
        while let Some(low) = self.left.last() {
            let surrogate = u32::from(block) << 16 | u32::from(*low);
            let mut units = PHRASE_ROW_UNITS;
            // A row that changed since the turn before may be gone.
            if let Some((part, document)) = corpus.find(surrogate) {
                let (offset, term) = words[self.word];
                let positions = terms.positions(term, part, &document);
                units += (positions.len() / POSITIONS_PER_UNIT) as u32;
                match self.word {
                    0 => self.starts = positions,
                    _ => keep_followed(&mut self.starts, offset, &positions),
                }
            } else {
                self.starts.clear();
            }
            self.word += 1;
            if self.starts.is_empty() || self.word == words.len() {
                if !self.starts.is_empty() {
                    self.found.push(*low);
                }
                self.left.pop();
                self.word = 0;
            }
            if !turn.spend(units) && !self.left.is_empty() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

/// Rows for which a node may be true, roughly. `terms`: the rows of each term; `documents`: all.
fn estimate(query: &Compiled, node: &Node, terms: &[u64], documents: u64) -> u64 {
    let of = |node: &Node| estimate(query, node, terms, documents);
    match node {
        Node::Nothing => 0,
        Node::Leaf(Leaf::Term(term)) => terms[*term].min(documents),
        Node::Leaf(Leaf::Phrase(phrase)) => {
            let words = query.phrases[*phrase].iter();
            words.map(|(_, term)| terms[*term]).min().unwrap_or(0) / 2
        }
        Node::And(list) => list.iter().map(of).min().unwrap_or(0),
        // As if they had nothing to do with one another.
        Node::Or(list) => list.iter().map(of).fold(0, |rows, more| {
            let both = rows as u128 * u128::from(more) / u128::from(documents.max(1));
            (rows + more - both as u64).min(documents)
        }),
        Node::Not(node) => documents - of(node).min(documents),
    }
}
