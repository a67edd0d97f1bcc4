//! A part of the index: the tail, a tail that is sealed, or a run. Readers see all of them alike.
//!
//! All but the tail are never changed once they are made, so a checkpoint writes them while the
//! index goes on. A row has at most one live document over all parts. In the tail a document that goes is taken
//! out; in the other parts it is marked dead and stays in the rows of its tokens, so readers take
//! `dead` out of what they find there.

use std::ops::Bound;
use std::rc::Rc;

use super::document::Document;
use super::rows::Rows;
use super::run::{Room, Run};
use super::tail::Tail;
use crate::set::{BlockSet, Gather, RowSet};

pub(super) struct Part {
    /// Never given to another part of this index.
    pub(super) number: u32,
    pub(super) body: Body,
    /// Rows whose document here is no longer the row's. None in the tail.
    pub(super) dead: RowSet,
}

pub(super) enum Body {
    Tail(Box<Tail>),
    /// A tail that does not change any more.
    Sealed(Rc<Tail>),
    Run(Rc<Run>),
}

/// Heap bytes of a token beside its text and rows: its places in the dictionary.
const TOKEN_BYTES: usize = 160;
/// Heap bytes of a document beside its own.
const DOCUMENT_BYTES: usize = 24;
/// Heap bytes of a row of a token, roughly; and how many distinct tokens a document's byte stands
/// for is hidden in it.
const ROWS_PER_DOCUMENT_BYTE: f64 = 0.4;

impl Part {
    pub(super) fn tail(number: u32) -> Part {
        Part {
            number,
            body: Body::Tail(Box::default()),
            dead: RowSet::new(),
        }
    }

    /// Ids run below this.
    pub(super) fn ids(&self) -> u32 {
        match &self.body {
            Body::Tail(tail) => tail.ids(),
            Body::Sealed(tail) => tail.ids(),
            Body::Run(run) => run.ids(),
        }
    }

    pub(super) fn text(&self, id: u32) -> &str {
        match &self.body {
            Body::Tail(tail) => tail.text(id),
            Body::Sealed(tail) => tail.text(id),
            Body::Run(run) => run.text(id),
        }
    }

    /// The rows that hold a token, dead ones among them.
    pub(super) fn rows(&self, id: u32) -> &Rows {
        match &self.body {
            Body::Tail(tail) => tail.rows(id),
            Body::Sealed(tail) => tail.rows(id),
            Body::Run(run) => run.rows(id),
        }
    }

    /// The ids of the tokens with a stem.
    pub(super) fn of_stem(&self, stem: &str) -> &[u32] {
        match &self.body {
            Body::Tail(tail) => tail.of_stem(stem),
            Body::Sealed(tail) => tail.of_stem(stem),
            Body::Run(run) => run.of_stem(stem),
        }
    }

    /// The first token behind `from` in the order of the texts.
    pub(super) fn next_token(&self, from: Bound<&str>) -> Option<(&str, u32)> {
        match &self.body {
            Body::Tail(tail) => tail.next_token(from),
            Body::Sealed(tail) => tail.next_token(from),
            Body::Run(run) => run.next_token(from),
        }
    }

    /// A row's live document, if it is here.
    pub(super) fn document(&self, surrogate: u32) -> Option<Document<'_>> {
        if self.dead.contains(surrogate) {
            return None;
        }
        let bytes = match &self.body {
            Body::Tail(tail) => tail.document(surrogate),
            Body::Sealed(tail) => tail.document(surrogate),
            Body::Run(run) => run.document(surrogate),
        };
        bytes.map(Document::new)
    }

    /// The first row above `after` that has a document here, dead or alive.
    pub(super) fn next_document(&self, after: Option<u32>) -> Option<u32> {
        match &self.body {
            Body::Tail(tail) => tail.next_document(after),
            Body::Sealed(tail) => tail.next_document(after),
            Body::Run(run) => run.next_document(after),
        }
    }

    /// Adds the live rows of a token in one block.
    pub(super) fn add_block(&self, id: u32, block: u16, to: &mut impl Gather) {
        let rows = self.rows(id);
        match self.dead.block(block) {
            None => rows.add_block(block, to),
            Some(dead) => {
                let mut alive = BlockSet::new();
                rows.add_block(block, &mut alive);
                alive.subtract(dead);
                to.add_all(&alive);
            }
        }
    }

    /// Adds the live rows of a token.
    pub(super) fn add_all(&self, id: u32, to: &mut RowSet) {
        let rows = self.rows(id);
        match self.dead.is_empty() {
            true => rows.add_all(to),
            false => to.union(&rows.alive(&self.dead)),
        }
    }

    pub(super) fn room(&self) -> Room {
        match &self.body {
            Body::Tail(tail) => tail.room(),
            Body::Sealed(tail) => tail.room(),
            Body::Run(run) => run.room(),
        }
    }

    /// Heap bytes, roughly.
    pub(super) fn bytes(&self) -> usize {
        let room = self.room();
        let rows = room.document_bytes as f64 * ROWS_PER_DOCUMENT_BYTE;
        room.tokens * TOKEN_BYTES
            + room.documents * DOCUMENT_BYTES
            + room.document_bytes
            + rows as usize
            + self.dead.heap_bytes()
    }
}

impl Body {
    /// Drops some of what it holds; 0 when nothing is left, none while a checkpoint writes it.
    pub(super) fn dismantle(&mut self, max: usize) -> Option<usize> {
        Some(match self {
            Body::Tail(tail) => tail.dismantle(max),
            Body::Sealed(tail) => Rc::get_mut(tail)?.dismantle(max),
            Body::Run(run) => Rc::get_mut(run)?.dismantle(max),
        })
    }
}
