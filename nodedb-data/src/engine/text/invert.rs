//! The rows of each token from the documents, by counting: how many rows each token has, then
//! every row to its place among those of its token.
//!
//! Adding a row to one token's rows after another jumps through memory; this writes into one
//! array, and the rows of a token are made once, when all are known.

use super::document::Document;
use super::rows::Rows;

/// Tokens added up at a time.
pub(super) const SUMS: usize = 4096;

#[derive(Default)]
pub(super) struct Inversion {
    /// By token: how many rows it has; once summed up, where its next row goes; once all have
    /// gone, where its rows end.
    ends: Vec<usize>,
    /// Of the tokens that are summed up.
    summed: usize,
    total: usize,
    rows: Vec<u32>,
}

impl Inversion {
    pub(super) fn new(tokens: usize) -> Inversion {
        Inversion {
            ends: vec![0; tokens],
            ..Inversion::default()
        }
    }

    /// Counts in a document, whose tokens are among those of the dictionary.
    pub(super) fn count(&mut self, document: &Document<'_>) {
        for at in 0..document.tokens() {
            self.ends[document.id(at) as usize] += 1;
        }
    }

    /// Adds up the counts of the next tokens once all documents are counted; true at the end.
    pub(super) fn sum(&mut self) -> bool {
        let end = self.ends.len().min(self.summed + SUMS);
        for count in &mut self.ends[self.summed..end] {
            let start = self.total;
            self.total += *count;
            *count = start;
        }
        self.summed = end;
        let is_last = end == self.ends.len();
        if is_last {
            self.rows = vec![0; self.total];
        }
        is_last
    }

    /// Gives a row to the tokens `from..to` of its document. Rows come in ascending order.
    pub(super) fn fill(&mut self, row: u32, document: &Document<'_>, from: usize, to: usize) {
        for at in from..to {
            let next = &mut self.ends[document.id(at) as usize];
            self.rows[*next] = row;
            *next += 1;
        }
    }

    /// The rows of a token, once all have been given.
    pub(super) fn rows(&self, id: u32) -> Rows {
        let at = id as usize;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        Rows::from_ascending(&self.rows[start..self.ends[at]])
    }
}
