//! BM25: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009),
//! section 3.4, with an inverse document frequency that is never negative.
//!
//! `score = Σ over the query's terms of times · idf · tf · (k1 + 1) / (tf + k1 · (1 − b + b ·
//! length / mean length))`, `idf = ln(1 + (N − df + 0.5) / (df + 0.5))`. Lengths are exact, and
//! N, df and the mean are those of the live documents of all shards. A term's tf is the number of
//! the document's tokens that it selects, so a prefix counts as one term. A document without any
//! of the terms has score 0; a row without a document has none.

use std::sync::Arc;
use std::task::Poll;

use nodedb_bridge::plan::TextStatistics;
use nodedb_types::{Failure, Result};

use super::corpus::Corpus;
use super::query::Compiled;
use super::terms::Terms;
use super::top::Top;
use crate::engine::Ranked;
use crate::pace::{BLOCK_OPERATION, Turn};
use crate::set::{BlockSet, RowSet};

const K1: f64 = 1.2;
const B: f64 = 0.75;

/// Units for finding a document, and for one term in it.
const ROW_UNITS: u32 = 3;
const TERM_UNITS: u32 = 1;
/// Up to this many rows of a block are scored without asking first which have a term at all.
const SCAN_MAX: usize = 64;

/// A prepared `bm25_score`.
pub struct TextRanking {
    pub(super) query: Compiled,
    weights: Option<Weights>,
    terms: Terms,
    run: Option<Run>,
    /// Terms whose rows have been counted.
    frequencies: Vec<u64>,
}

/// What the statistics make of the terms.
struct Weights {
    /// By scored term.
    idf: Vec<f64>,
    mean_length: f64,
}

impl Weights {
    fn new(query: &Compiled, statistics: &TextStatistics) -> Result<Weights> {
        if statistics.document_frequency.len() != query.scored.len() {
            return Err(Failure::internal(
                "text statistics were made for another query",
            ));
        }
        let documents = statistics.documents as f64;
        let scored = query.scored.iter().zip(&statistics.document_frequency);
        let idf = scored.map(|((_, times), df)| {
            // Counts taken in several turns may disagree a little.
            let df = (*df).min(statistics.documents) as f64;
            f64::from(*times) * (1.0 + (documents - df + 0.5) / (df + 0.5)).ln()
        });
        Ok(Weights {
            idf: idf.collect(),
            mean_length: statistics.tokens as f64 / documents.max(1.0),
        })
    }

    /// The score of a document from the frequencies of the scored terms.
    fn score(&self, length: u32, frequencies: impl Iterator<Item = u32>) -> f64 {
        let norm = K1 * (1.0 - B + B * f64::from(length) / self.mean_length);
        let terms = self.idf.iter().zip(frequencies).filter(|(_, tf)| *tf > 0);
        let scores = terms.map(|(idf, tf)| {
            let tf = f64::from(tf);
            idf * tf * (K1 + 1.0) / (tf + norm)
        });
        // The sum of nothing must be 0 and not -0.
        scores.fold(0.0, |sum, score| sum + score)
    }
}

impl TextRanking {
    pub(super) fn new(
        query: Compiled,
        statistics: Option<&Arc<TextStatistics>>,
    ) -> Result<TextRanking> {
        let weights = statistics.map(|statistics| Weights::new(&query, statistics));
        Ok(TextRanking {
            weights: weights.transpose()?,
            terms: Terms::new(&query.terms),
            run: None,
            frequencies: Vec::new(),
            query,
        })
    }

    fn weights(&self) -> Result<&Weights> {
        let weights = self.weights.as_ref();
        weights.ok_or_else(|| Failure::internal("a text ranking without statistics"))
    }

    /// The score of a row from its columns, empty ones for NULL.
    pub(super) fn score(
        &self,
        columns: &[&str],
        analyzer: &super::analyze::Analyzer,
    ) -> Result<f64> {
        let found = self.query.occurrences(columns, analyzer);
        let scored = self.query.scored.iter();
        let frequencies = scored.map(|(term, _)| found.positions[*term].len() as u32);
        Ok(self.weights()?.score(found.length, frequencies))
    }

    /// This shard's documents, tokens, and documents by scored term.
    pub(super) fn poll_statistics(
        &mut self,
        corpus: &Corpus,
        turn: &Turn<'_>,
    ) -> Poll<TextStatistics> {
        if self.terms.poll_find(corpus, turn).is_pending() {
            return Poll::Pending;
        }
        while let Some((term, _)) = self.query.scored.get(self.frequencies.len()) {
            if self.terms.poll_gather(*term, corpus, turn).is_pending() {
                return Poll::Pending;
            }
            self.frequencies.push(self.terms.gathered_rows(*term));
        }
        Poll::Ready(TextStatistics {
            documents: corpus.documents().len(),
            tokens: corpus.length(),
            document_frequency: self.frequencies.clone(),
        })
    }

    pub(super) fn poll_rank(
        &mut self,
        corpus: &Corpus,
        allowed: &RowSet,
        k: usize,
        turn: &Turn<'_>,
    ) -> Poll<Result<Ranked>> {
        if let Err(failure) = self.weights() {
            return Poll::Ready(Err(failure));
        }
        if self.terms.poll_sets(corpus, turn).is_pending() {
            return Poll::Pending;
        }
        let mut run = self.run.take().unwrap_or_else(|| Run::new(k));
        match run.poll(self, corpus, allowed, turn) {
            Poll::Ready(ranked) => Poll::Ready(Ok(ranked)),
            Poll::Pending => {
                self.run = Some(run);
                Poll::Pending
            }
        }
    }

    /// The score of a row and what it cost; none for a row without a document.
    fn score_row(&self, surrogate: u32, corpus: &Corpus) -> (Option<f64>, u32) {
        let units = ROW_UNITS + self.query.scored.len() as u32 * TERM_UNITS;
        let Some((part, document)) = corpus.find(surrogate) else {
            return (None, ROW_UNITS);
        };
        let scored = self.query.scored.iter();
        let frequencies = scored.map(|(term, _)| self.terms.frequency(*term, part, &document));
        let weights = self.weights.as_ref();
        let score = weights.map(|weights| weights.score(document.length(), frequencies));
        (score, units)
    }

    /// Rows of a block that have a scored term, or all where asking would cost more.
    fn candidates(&self, allowed: &BlockSet, block: u16, corpus: &Corpus) -> (BlockSet, u32) {
        if allowed.len() <= SCAN_MAX {
            return (allowed.clone(), BLOCK_OPERATION);
        }
        let (mut rows, mut units) = (BlockSet::new(), BLOCK_OPERATION);
        for (term, _) in &self.query.scored {
            let (of_term, cost) = self.terms.block(*term, block, corpus);
            rows.union(&of_term);
            units += cost + BLOCK_OPERATION;
        }
        rows.intersect(allowed);
        (rows, units)
    }
}

/// A ranking on its way.
struct Run {
    top: Top,
    k: usize,
    scored: u64,
    stage: Stage,
}

enum Stage {
    /// Scoring the rows that have terms: the next block, or the rows of one and the next of them.
    Block(u16),
    Rows(u16, BlockSet, u16),
    /// Fewer than k had any: the others, whose score is 0, from this block on.
    Rest(RowSet, u16),
    Sorting,
}

impl Run {
    fn new(k: usize) -> Run {
        Run {
            top: Top::new(k),
            k,
            scored: 0,
            stage: match k {
                0 => Stage::Sorting,
                _ => Stage::Block(0),
            },
        }
    }

    fn poll(
        &mut self,
        ranking: &TextRanking,
        corpus: &Corpus,
        allowed: &RowSet,
        turn: &Turn<'_>,
    ) -> Poll<Ranked> {
        loop {
            let (next, units) = match std::mem::replace(&mut self.stage, Stage::Sorting) {
                Stage::Block(from) => self.begin_block(ranking, corpus, allowed, from),
                Stage::Rows(block, rows, from) => {
                    let (score, low, units) = score_next(ranking, corpus, block, &rows, from);
                    if let (Some(score), Some(low)) = (score, low) {
                        self.scored += 1;
                        if score > 0.0 {
                            self.top
                                .push(score, u32::from(block) << 16 | u32::from(low));
                        }
                    }
                    let next = match low.map(|low| low.checked_add(1)) {
                        Some(Some(from)) => Stage::Rows(block, rows, from),
                        Some(None) | None => {
                            after(block, Stage::Block).unwrap_or_else(|| self.rest())
                        }
                    };
                    (next, units)
                }
                Stage::Rest(positive, from) => self.add_rest(corpus, allowed, positive, from),
                Stage::Sorting => return self.poll_sorted(turn),
            };
            self.stage = next;
            if !turn.spend(units) {
                return Poll::Pending;
            }
        }
    }

    fn begin_block(
        &self,
        ranking: &TextRanking,
        corpus: &Corpus,
        allowed: &RowSet,
        from: u16,
    ) -> (Stage, u32) {
        let Some(block) = allowed.next_block(from) else {
            return (self.rest(), 1);
        };
        let allowed = allowed.block(block).cloned().unwrap_or_default();
        let (rows, units) = ranking.candidates(&allowed, block, corpus);
        (Stage::Rows(block, rows, 0), units)
    }

    /// What comes after the rows with terms.
    fn rest(&self) -> Stage {
        if self.top.len() >= self.k {
            return Stage::Sorting;
        }
        Stage::Rest(self.top.rows().collect(), 0)
    }

    /// Adds the rows of the next block that have a document and no term.
    fn add_rest(
        &mut self,
        corpus: &Corpus,
        allowed: &RowSet,
        positive: RowSet,
        from: u16,
    ) -> (Stage, u32) {
        let Some(block) = allowed.next_block(from) else {
            return (Stage::Sorting, 1);
        };
        let mut rows = allowed.block(block).cloned().unwrap_or_default();
        match corpus.documents().block(block) {
            Some(documents) => rows.intersect(documents),
            None => rows = BlockSet::new(),
        }
        if let Some(positive) = positive.block(block) {
            rows.subtract(positive);
        }
        for surrogate in rows.surrogates(block) {
            self.top.push(0.0, surrogate);
        }
        let units = BLOCK_OPERATION + rows.len() as u32 / 8;
        let next = after(block, |from| Stage::Rest(positive, from));
        (next.unwrap_or(Stage::Sorting), units)
    }

    fn poll_sorted(&mut self, turn: &Turn<'_>) -> Poll<Ranked> {
        match self.top.poll_sorted(turn) {
            Poll::Ready(rows) => Poll::Ready(Ranked {
                rows,
                how: "bm25",
                seen: self.scored,
                scored: self.scored,
            }),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn after(block: u16, stage: impl FnOnce(u16) -> Stage) -> Option<Stage> {
    block.checked_add(1).map(stage)
}

/// Scores the first row of `rows` at or above `from`.
fn score_next(
    ranking: &TextRanking,
    corpus: &Corpus,
    block: u16,
    rows: &BlockSet,
    from: u16,
) -> (Option<f64>, Option<u16>, u32) {
    let Some(low) = rows.iter_from(from).next() else {
        return (None, None, 1);
    };
    let surrogate = u32::from(block) << 16 | u32::from(low);
    let (score, units) = ranking.score_row(surrogate, corpus);
    (score, Some(low), units)
}
