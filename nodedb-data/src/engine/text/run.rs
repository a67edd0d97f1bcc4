//! A run: documents that are written once and only die.
//!
//! Tokens are numbered in the order of their texts, so a prefix is a range of ids; documents lie
//! one behind another in the order of their surrogates. A run is built token by token and then
//! document by document, each in ascending order.

use std::ops::Bound;

use super::analyze::Analyzer;
use super::document::Encoder;
use super::rows::Rows;
use super::stems::Stems;

#[derive(Default)]
pub(super) struct Run {
    /// The tokens' texts, one behind another.
    texts: String,
    text_ends: Vec<u32>,
    rows: Vec<Rows>,
    stems: Stems,
    surrogates: Vec<u32>,
    document_ends: Vec<usize>,
    documents: Vec<u8>,
}

/// Room to make in a run before it is built.
#[derive(Clone, Copy, Default)]
pub(super) struct Room {
    pub(super) tokens: usize,
    pub(super) text_bytes: usize,
    pub(super) documents: usize,
    pub(super) document_bytes: usize,
}

impl Run {
    pub(super) fn with_room(room: Room) -> Run {
        Run {
            texts: String::with_capacity(room.text_bytes),
            text_ends: Vec::with_capacity(room.tokens),
            rows: Vec::with_capacity(room.tokens),
            surrogates: Vec::with_capacity(room.documents),
            document_ends: Vec::with_capacity(room.documents),
            documents: Vec::with_capacity(room.document_bytes),
            ..Run::default()
        }
    }

    /// Adds the next token and gives its id.
    pub(super) fn push_token(&mut self, text: &str, stem: &str, rows: Rows) -> u32 {
        let id = self.ids();
        self.texts.push_str(text);
        self.text_ends.push(self.texts.len() as u32);
        self.rows.push(rows);
        self.stems.push(stem, id);
        id
    }

    /// Adds the next token of an image, without rows; false when it does not come behind the last.
    pub(super) fn restore_token(&mut self, text: &str, analyzer: &Analyzer) -> bool {
        let last = self.ids().checked_sub(1).map_or("", |last| self.text(last));
        if text <= last || u32::try_from(self.texts.len() + text.len()).is_err() {
            return false;
        }
        let stem = analyzer.stem(text);
        self.push_token(text, &stem, Rows::default());
        true
    }

    /// Adds the next document.
    pub(super) fn push_document(&mut self, surrogate: u32, document: &mut Encoder) {
        debug_assert!(self.surrogates.last().is_none_or(|last| *last < surrogate));
        document.finish(&mut self.documents);
        self.surrogates.push(surrogate);
        self.document_ends.push(self.documents.len());
    }

    /// Adds the next document as it was encoded for a run with the same tokens.
    pub(super) fn push_encoded(&mut self, surrogate: u32, document: &[u8]) {
        self.documents.extend_from_slice(document);
        self.surrogates.push(surrogate);
        self.document_ends.push(self.documents.len());
    }

    /// Sets the rows of a token of an image.
    pub(super) fn restore_rows(&mut self, id: u32, rows: Rows) {
        self.rows[id as usize] = rows;
    }

    pub(super) fn ids(&self) -> u32 {
        self.rows.len() as u32
    }

    pub(super) fn room(&self) -> Room {
        Room {
            tokens: self.rows.len(),
            text_bytes: self.texts.len(),
            documents: self.surrogates.len(),
            document_bytes: self.documents.len(),
        }
    }

    pub(super) fn text(&self, id: u32) -> &str {
        let at = id as usize;
        let start = at.checked_sub(1).map_or(0, |before| self.text_ends[before]);
        &self.texts[start as usize..self.text_ends[at] as usize]
    }

    pub(super) fn rows(&self, id: u32) -> &Rows {
        &self.rows[id as usize]
    }

    pub(super) fn of_stem(&self, stem: &str) -> &[u32] {
        self.stems.get(stem)
    }

    /// The first id whose text lies behind the bound.
    pub(super) fn lower_bound(&self, from: Bound<&str>) -> u32 {
        let (mut low, mut high) = (0, self.ids());
        while low < high {
            let middle = low + (high - low) / 2;
            let before = match from {
                Bound::Included(text) => self.text(middle) < text,
                Bound::Excluded(text) => self.text(middle) <= text,
                Bound::Unbounded => false,
            };
            match before {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// The first token behind `from` in the order of the texts.
    pub(super) fn next_token(&self, from: Bound<&str>) -> Option<(&str, u32)> {
        let id = self.lower_bound(from);
        (id < self.ids()).then(|| (self.text(id), id))
    }

    /// The ids of the tokens that begin with `prefix`.
    pub(super) fn of_prefix(&self, prefix: &str) -> std::ops::Range<u32> {
        let start = self.lower_bound(Bound::Included(prefix));
        let (mut low, mut high) = (start, self.ids());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.text(middle).starts_with(prefix) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        start..low
    }

    pub(super) fn document(&self, surrogate: u32) -> Option<&[u8]> {
        let at = self.surrogates.binary_search(&surrogate).ok()?;
        let start = at
            .checked_sub(1)
            .map_or(0, |before| self.document_ends[before]);
        Some(&self.documents[start..self.document_ends[at]])
    }

    /// The first row above `after` that has a document here, dead or alive.
    pub(super) fn next_document(&self, after: Option<u32>) -> Option<u32> {
        let at = match after {
            Some(after) => self.surrogates.partition_point(|row| *row <= after),
            None => 0,
        };
        self.surrogates.get(at).copied()
    }

    /// As [`super::tail::Tail::dismantle`].
    pub(super) fn dismantle(&mut self, max: usize) -> usize {
        let mut dropped = 0;
        for _ in 0..max {
            let rows = self.rows.pop().is_some();
            let stem = self.stems.drop_one();
            dropped += usize::from(rows) + usize::from(stem);
        }
        dropped
    }
}
