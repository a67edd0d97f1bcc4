//! The tail: the documents written last, in memory, changed in place.
//!
//! A dictionary gives each token an id, the rows that hold it and its stem's other tokens; each
//! document is kept whole beside it. Ids of tokens that no document holds any more are given
//! again: whoever remembers an id across turns can be wrong only about rows that changed since.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::rc::Rc;

use super::analyze::Analyzer;
use super::rows::Rows;
use super::run::Room;
use super::sorted::{Head, Place, Sorted};
use super::stems::Stems;
use crate::chunks::Chunks;

/// Maps of the lookup. One grows by moving all it holds, so that must be little (P2).
const LOOKUP_MAPS: usize = 64;

#[derive(Default)]
pub(super) struct Tail {
    lookup: Lookup,
    sorted: BTreeMap<Sorted<Rc<str>>, u32>,
    tokens: Chunks<Token>,
    /// Ids to give again.
    free: Vec<u32>,
    stems: Stems,
    pub(super) documents: BTreeMap<u32, Box<[u8]>>,
    /// Heap bytes of `documents`.
    document_bytes: usize,
    /// Bytes of the tokens' texts.
    text_bytes: usize,
}

#[derive(Clone, Default)]
struct Token {
    text: Rc<str>,
    rows: Rows,
}

/// A token's id by its text.
struct Lookup(Vec<HashMap<Rc<str>, u32, RandomState>>);

impl Default for Lookup {
    fn default() -> Lookup {
        let state = RandomState::new();
        Lookup(vec![HashMap::with_hasher(state); LOOKUP_MAPS])
    }
}

impl Lookup {
    fn map(&mut self, token: &str) -> &mut HashMap<Rc<str>, u32, RandomState> {
        let mix = |sum: usize, byte: u8| sum.wrapping_mul(31).wrapping_add(usize::from(byte));
        let sum = token.bytes().fold(0, mix);
        &mut self.0[(sum ^ sum >> 6) % LOOKUP_MAPS]
    }
}

/// For look-ups in the sorted map.
fn place<'a>(head: &'a Head<'_>) -> &'a dyn Place {
    head
}

impl Tail {
    /// The id of a token; true when the tail did not have it.
    pub(super) fn intern(&mut self, token: &str, analyzer: &Analyzer) -> (u32, bool) {
        if let Some(id) = self.lookup.map(token).get(token) {
            return (*id, false);
        }
        let text: Rc<str> = token.into();
        let entry = Token {
            text: text.clone(),
            rows: Rows::default(),
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.tokens[id as usize] = entry;
                id
            }
            None => {
                self.tokens.push(entry);
                (self.tokens.len() - 1) as u32
            }
        };
        self.text_bytes += text.len();
        self.lookup.map(token).insert(text.clone(), id);
        self.sorted.insert(Sorted::new(text), id);
        let stem = analyzer.stem(token);
        self.stems.push(&stem, id);
        (id, true)
    }

    /// Gives the next id to a token of an image; an empty text stands for an id that was free.
    /// False when the tail has the token.
    pub(super) fn restore_token(&mut self, token: &str, analyzer: &Analyzer) -> bool {
        if !token.is_empty() {
            return self.intern(token, analyzer).1;
        }
        self.tokens.push(Token::default());
        true
    }

    /// Sets the rows of a token of an image.
    pub(super) fn restore_rows(&mut self, id: u32, rows: Rows) {
        self.tokens[id as usize].rows = rows;
    }

    /// A row's document holds the token.
    pub(super) fn link(&mut self, id: u32, surrogate: u32) {
        self.tokens[id as usize].rows.insert(surrogate);
    }

    /// It does no longer. A token without rows is dropped; true when it was.
    pub(super) fn unlink(&mut self, id: u32, surrogate: u32, analyzer: &Analyzer) -> bool {
        let token = &mut self.tokens[id as usize];
        token.rows.remove(surrogate);
        if !token.rows.is_empty() {
            return false;
        }
        let text = std::mem::take(token).text;
        self.lookup.map(&text).remove(&text);
        self.sorted.remove(place(&Head::new(&text)));
        self.text_bytes -= text.len();
        self.free.push(id);
        let stem = analyzer.stem(&text);
        self.stems.remove(&stem, id);
        true
    }

    pub(super) fn put(&mut self, surrogate: u32, document: Box<[u8]>) {
        self.document_bytes += document.len();
        self.documents.insert(surrogate, document);
    }

    pub(super) fn take(&mut self, surrogate: u32) -> Option<Box<[u8]>> {
        let document = self.documents.remove(&surrogate)?;
        self.document_bytes -= document.len();
        Some(document)
    }

    /// Ids run below this.
    pub(super) fn ids(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Distinct tokens held.
    pub(super) fn tokens(&self) -> usize {
        self.sorted.len()
    }

    pub(super) fn text(&self, id: u32) -> &str {
        &self.tokens[id as usize].text
    }

    pub(super) fn rows(&self, id: u32) -> &Rows {
        &self.tokens[id as usize].rows
    }

    pub(super) fn of_stem(&self, stem: &str) -> &[u32] {
        self.stems.get(stem)
    }

    /// The first token behind `from` in the order of the texts.
    pub(super) fn next_token(&self, from: Bound<&str>) -> Option<(&str, u32)> {
        let from = from.map(Head::new);
        let from = from.as_ref().map(place);
        let mut range = self.sorted.range::<dyn Place, _>((from, Bound::Unbounded));
        range.next().map(|(text, id)| (text.text(), *id))
    }

    pub(super) fn document(&self, surrogate: u32) -> Option<&[u8]> {
        self.documents.get(&surrogate).map(|bytes| &**bytes)
    }

    /// The first row above `after` that has a document here.
    pub(super) fn next_document(&self, after: Option<u32>) -> Option<u32> {
        let from = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Unbounded,
        };
        let mut rows = self.documents.range((from, Bound::Unbounded));
        rows.next().map(|(row, _)| *row)
    }

    pub(super) fn document_bytes(&self) -> usize {
        self.document_bytes
    }

    pub(super) fn room(&self) -> Room {
        Room {
            tokens: self.tokens(),
            text_bytes: self.text_bytes,
            documents: self.documents.len(),
            document_bytes: self.document_bytes,
        }
    }

    /// Drops some of what it holds, so that dropping it takes many turns. Gives what was dropped,
    /// 0 when nothing is left.
    pub(super) fn dismantle(&mut self, max: usize) -> usize {
        let mut dropped = 0;
        for _ in 0..max {
            let document = self.documents.pop_first().is_some();
            let stem = self.stems.drop_one();
            let token = self.sorted.pop_first();
            if let Some((text, _)) = &token {
                self.lookup.map(text.text()).remove(text.text());
            }
            let entry = self.tokens.pop().is_some();
            dropped += usize::from(document)
                + usize::from(stem)
                + usize::from(token.is_some())
                + usize::from(entry);
        }
        dropped
    }
}
