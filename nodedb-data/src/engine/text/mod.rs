//! Full text (`fulltext`): words, prefixes and phrases over one or more text columns, and BM25.
//!
//! The columns of an index are one document per row; a row in which all of them are NULL has
//! none, is unknown to every query and has no score. The shape is the one of every engine here,
//! runs plus a tail ([`corpus`]), and each part keeps two things: by token the rows that hold it,
//! and by row the whole document with frequencies and positions ([`document`]). A Boolean query
//! is then set algebra on rows alone; phrases and scores look into the documents of the rows that
//! are left. Only unstemmed tokens are indexed: a word's rows are those of all tokens with its
//! stem, so that prefixes, which go by the unstemmed token, need no second index.
//!
//! Large rows are applied over several turns ([`backlog`]); readers wait for them.

mod analyze;
mod backlog;
mod corpus;
mod document;
mod image;
#[cfg(test)]
mod image_tests;
mod invert;
mod merge;
mod part;
mod query;
mod rank;
mod rows;
mod run;
mod sorted;
mod source;
mod stem;
mod stems;
mod survey;
mod tail;
mod terms;
#[cfg(test)]
mod tests;
mod thaw;
mod top;

use std::cell::{Ref, RefCell};
use std::task::Poll;

use nodedb_bridge::op::{EngineOp, EngineRank};
use nodedb_bridge::plan::TextStatistics;
use nodedb_types::row::{RowView, ValueRef};
use nodedb_types::{Collection, DataType, Failure, Index, Result, Surrogate};

use self::analyze::Analyzer;
use self::backlog::Backlog;
use self::corpus::{Corpus, Limits};
use self::query::Compiled;
pub use self::rank::TextRanking;
pub use self::source::TextSource;
pub use self::survey::TextSurvey;
use self::thaw::Thawing;
use super::{Engine, Estimate, Frozen, Hashes, Ranked, ThawPart, Truth};
use crate::pace::{Budget, Turn};
use crate::set::{BlockSet, RowSet};

/// Bytes of text that may wait before [`Engine::poll_ready`] holds writers back.
const BACKLOG_BYTES: usize = 1 << 20;
/// Bytes of text that wait at the most: above, `apply` does the work at once.
const BACKLOG_BYTES_MAX: usize = 16 << 20;

/// The full-text index of one shard.
pub struct FullText {
    columns: Vec<(usize, DataType)>,
    analyzer: Analyzer,
    apply_units: u32,
    state: RefCell<State>,
    /// While an image is read.
    thawing: Option<Thawing>,
}

struct State {
    corpus: Corpus,
    backlog: Backlog,
}

impl FullText {
    pub fn open(index: &Index, collection: &Collection) -> Result<FullText> {
        FullText::with_limits(index, collection, Limits::default())
    }

    fn with_limits(index: &Index, collection: &Collection, limits: Limits) -> Result<FullText> {
        let columns = index.columns.iter();
        let columns = columns.map(|column| (*column, collection.columns[*column].data_type));
        Ok(FullText {
            columns: columns.collect(),
            analyzer: Analyzer::of(index)?,
            apply_units: limits.apply_units,
            state: RefCell::new(State {
                corpus: Corpus::new(limits),
                backlog: Backlog::default(),
            }),
            thawing: None,
        })
    }

    /// The indexed columns, empty ones for NULL; none when all are NULL.
    fn texts<'a>(&self, row: &RowView<'a>) -> Result<Option<Vec<&'a str>>> {
        let (mut texts, mut known) = (Vec::with_capacity(self.columns.len()), false);
        for (column, data_type) in &self.columns {
            texts.push(match row.column(*column, data_type)? {
                ValueRef::Text(text) => {
                    known = true;
                    text
                }
                ValueRef::Null => "",
                _ => return Err(Failure::internal("a fulltext index of another type")),
            });
        }
        Ok(known.then_some(texts))
    }

    /// True when both rows have the same document.
    fn is_same(&self, before: &RowView<'_>, after: &RowView<'_>) -> Result<bool> {
        for (column, _) in &self.columns {
            if before.column_bytes(*column)? != after.column_bytes(*column)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The documents once everything applied is in them.
    fn poll_corpus(&self, turn: &Turn<'_>) -> Poll<Ref<'_, Corpus>> {
        if !self.state.borrow().backlog.is_empty() {
            let state = &mut *self.state.borrow_mut();
            let backlog = &mut state.backlog;
            if !backlog.advance(&mut state.corpus, &self.analyzer, turn.budget) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ref::map(self.state.borrow(), |state| &state.corpus))
    }
}

/// Gives the corpus to the end of a pollable step, or leaves the function.
macro_rules! ready {
    ($poll:expr) => {
        match $poll {
            Poll::Ready(value) => value,
            Poll::Pending => return Poll::Pending,
        }
    };
}

impl Engine for FullText {
    type Source = TextSource;
    type Ranking = TextRanking;
    type Survey = TextSurvey;

    fn poll_ready(&self, turn: &Turn<'_>) -> Poll<()> {
        if self.state.borrow().backlog.bytes() > BACKLOG_BYTES {
            let _ = ready!(self.poll_corpus(turn));
        }
        Poll::Ready(())
    }

    fn apply(
        &mut self,
        surrogate: Surrogate,
        before: Option<&RowView<'_>>,
        after: Option<&RowView<'_>>,
    ) -> Result<()> {
        let row = surrogate.get();
        let texts = after.map(|row| self.texts(row)).transpose()?;
        let same = match (before, after) {
            (Some(before), Some(after)) => self.is_same(before, after)?,
            _ => false,
        };
        let State { corpus, backlog } = self.state.get_mut();
        let settled = backlog.is_empty();
        let held = !settled || corpus.holds(row);
        if same && settled && held {
            return Ok(());
        }
        if held {
            backlog.remove(row);
        }
        match texts {
            None => {}
            Some(None) => backlog.put_null(row),
            Some(Some(columns)) => {
                let columns = columns.into_iter().map(Box::<str>::from).collect();
                backlog.put(row, columns);
            }
        }
        let units = match backlog.bytes() > BACKLOG_BYTES_MAX {
            true => u32::MAX,
            false => self.apply_units,
        };
        backlog.advance(corpus, &self.analyzer, &Budget::new(units));
        Ok(())
    }

    fn source(&self, op: &EngineOp) -> Result<TextSource> {
        let EngineOp::Text(op) = op else {
            return Err(Failure::internal(
                "a fulltext index was asked for another op",
            ));
        };
        let query = Compiled::new(&op.query, &self.analyzer)?;
        Ok(TextSource::new(query, &self.state.borrow().corpus))
    }

    fn estimate(&self, source: &TextSource) -> Estimate {
        source.estimate()
    }

    fn poll_next_block(
        &self,
        source: &mut TextSource,
        from: u16,
        turn: &Turn<'_>,
    ) -> Poll<Result<Option<u16>>> {
        let corpus = ready!(self.poll_corpus(turn));
        source.poll_next_block(&corpus, from, turn).map(Ok)
    }

    fn poll_block(
        &self,
        source: &mut TextSource,
        block: u16,
        wanted: Option<&BlockSet>,
        turn: &Turn<'_>,
    ) -> Poll<Result<Truth>> {
        let corpus = ready!(self.poll_corpus(turn));
        source.poll_block(&corpus, block, wanted, turn).map(Ok)
    }

    fn matches(&self, source: &TextSource, row: &RowView<'_>) -> Result<Option<bool>> {
        let texts = self.texts(row)?;
        let query = &source.query;
        Ok(texts.map(|texts| query.holds(&query.occurrences(&texts, &self.analyzer))))
    }

    fn ranking(&self, rank: &EngineRank) -> Result<TextRanking> {
        let EngineRank::Text(rank) = rank else {
            return Err(Failure::internal(
                "a fulltext index was asked for another rank",
            ));
        };
        let query = Compiled::new(&rank.query, &self.analyzer)?;
        TextRanking::new(query, rank.statistics.as_ref())
    }

    fn poll_rank(
        &self,
        ranking: &mut TextRanking,
        allowed: &RowSet,
        k: usize,
        turn: &Turn<'_>,
    ) -> Poll<Result<Ranked>> {
        let corpus = ready!(self.poll_corpus(turn));
        ranking.poll_rank(&corpus, allowed, k, turn)
    }

    fn score(&self, ranking: &TextRanking, row: &RowView<'_>) -> Result<Option<f64>> {
        let texts = self.texts(row)?;
        texts
            .map(|texts| ranking.score(&texts, &self.analyzer))
            .transpose()
    }

    fn poll_statistics(
        &self,
        ranking: &mut TextRanking,
        turn: &Turn<'_>,
    ) -> Poll<Result<TextStatistics>> {
        let corpus = ready!(self.poll_corpus(turn));
        ranking.poll_statistics(&corpus, turn).map(Ok)
    }

    fn row_hash(&self, surrogate: Surrogate, row: &RowView<'_>) -> Result<u64> {
        let texts = self.texts(row)?;
        Ok(survey::row_hash(surrogate.get(), texts.as_deref()))
    }

    fn poll_hashes(
        &self,
        survey: &mut TextSurvey,
        hashes: &mut Hashes,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        let corpus = ready!(self.poll_corpus(turn));
        survey.poll(&corpus, hashes, turn).map(Ok)
    }

    fn work(&mut self, budget: &Budget) -> Result<bool> {
        let State { corpus, backlog } = self.state.get_mut();
        if !backlog.advance(corpus, &self.analyzer, budget) {
            return Ok(true);
        }
        while corpus.work(&self.analyzer, budget) {
            if budget.is_spent() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn dismantle(&mut self, budget: &Budget) -> bool {
        let corpus = &mut self.state.get_mut().corpus;
        corpus.retire_all();
        while corpus.dismantle(budget) {
            if budget.is_spent() {
                return true;
            }
        }
        // A part that a checkpoint still writes goes with it.
        false
    }

    fn poll_settle(&mut self, turn: &Turn<'_>) -> Poll<Result<()>> {
        self.poll_corpus(turn).map(|_| Ok(()))
    }

    fn freeze(&mut self) -> Result<Option<Frozen>> {
        let State { corpus, backlog } = self.state.get_mut();
        Ok(Some(image::freeze(corpus, backlog)))
    }

    fn thaw(&mut self, header: &[u8], parts: usize) -> Result<()> {
        let corpus = &mut self.state.get_mut().corpus;
        self.thawing = Some(Thawing::new(header, parts, corpus)?);
        Ok(())
    }

    fn poll_thaw_part(
        &mut self,
        part: &ThawPart<'_>,
        cursor: &mut u64,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        let Some(thawing) = &mut self.thawing else {
            return Poll::Ready(Err(Failure::internal("a part of no image")));
        };
        let State { corpus, backlog } = self.state.get_mut();
        let analysis = (&self.analyzer, self.columns.len());
        thawing.poll_part(part, cursor, (corpus, backlog), analysis, turn)
    }

    fn bytes(&self) -> usize {
        let state = self.state.borrow();
        state.corpus.bytes() + state.backlog.bytes()
    }
}
