//! Reading the image of a full-text index, which [`super::image`] wrote.
//!
//! A part is read in pieces: its tokens, its documents, and then the rows of each token from the
//! documents ([`super::invert`]).

use std::rc::Rc;
use std::task::Poll;

use nodedb_types::Result;

use super::analyze::Analyzer;
use super::backlog::{Backlog, Change, Columns};
use super::corpus::Corpus;
use super::document::Document;
use super::image::{PUT, PUT_NULL, REMOVE, RUN, SEALED, VERSION};
use super::invert::{Inversion, SUMS};
use super::part::{Body, Part};
use super::run::{Room, Run};
use crate::engine::image::{ThawPart, malformed};
use crate::engine::image_codec::{Reader, copy_units, poll_read_sets};
use crate::pace::Turn;
use crate::set::RowSet;

/// Units for a token that is read: stemming it and adding it to the dictionary.
const TOKEN_UNITS: u32 = 20;
/// Units for a document, and bytes of it that cost another to check and copy.
const DOCUMENT_UNITS: u32 = 3;
const BYTES_PER_UNIT: usize = 100;
/// Tokens whose counts are added up for a unit.
const SUMS_PER_UNIT: u32 = 64;
/// Tokens that are given a row at a time, and for a unit.
const FILLS: usize = 512;
const FILLS_PER_UNIT: usize = 5;
/// Rows of a token that are taken over for a unit.
const ROWS_PER_UNIT: u64 = 64;

/// An index on its way back.
pub(super) struct Thawing {
    /// Sealed tails and runs.
    bodies: usize,
    /// Numbers that parts were given lie below.
    next_number: u32,
    /// Rows without a document, then the dead of each body.
    sets: Vec<RowSet>,
    body: Option<Building>,
}

/// A sealed tail or a run on its way back.
struct Building {
    tokens: u32,
    /// Documents in all.
    documents: u32,
    stage: Stage,
    /// The last row that was read.
    row: u32,
    /// Where the documents begin in the part's bytes.
    documents_at: u64,
    inversion: Inversion,
    body: Body,
}

/// What is done next.
#[derive(Clone, Copy)]
enum Stage {
    Tokens,
    /// So many documents are still to be read.
    Documents(u32),
    Sum,
    /// So many documents are still to be given to their tokens, the first from this token on.
    Fill(u32, usize),
    /// Tokens from this one on are still to get their rows.
    Rows(u32),
    Done,
}

impl Thawing {
    pub(super) fn new(header: &[u8], parts: usize, corpus: &mut Corpus) -> Result<Thawing> {
        let mut reader = Reader::new(header, 0);
        if reader.u16()? != VERSION {
            return Err(malformed("a version that is not known"));
        }
        let (is_waiting, _) = (reader.u8()?, reader.u8()?);
        let (bodies, next_number) = (reader.u32()? as usize, reader.u32()?);
        reader.end()?;
        let expected = bodies.checked_add(1 + usize::from(is_waiting != 0));
        // The sets are numbered in 16 bits.
        if is_waiting > 1 || expected != Some(parts) || bodies >= usize::from(u16::MAX) {
            return Err(malformed("another number of parts"));
        }
        if next_number == u32::MAX {
            return Err(malformed("no number is left"));
        }
        corpus.begin_at(next_number);
        Ok(Thawing {
            bodies,
            next_number,
            sets: vec![RowSet::new(); bodies + 1],
            body: None,
        })
    }

    pub(super) fn poll_part(
        &mut self,
        part: &ThawPart<'_>,
        cursor: &mut u64,
        index: (&mut Corpus, &mut Backlog),
        (analyzer, columns): (&Analyzer, usize),
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        let (corpus, backlog) = index;
        let number = match u32::try_from(part.id) {
            Ok(number) if number < self.next_number => number,
            _ => return Poll::Ready(Err(malformed("a part's number is too large"))),
        };
        if part.number == 0 {
            let polled = poll_read_sets(part.bytes, cursor, &mut self.sets, turn);
            if let Poll::Ready(Ok(())) = polled {
                corpus.restore_nulls(std::mem::take(&mut self.sets[0]), number);
            }
            return polled;
        }
        if part.number > self.bodies {
            return poll_changes(part.bytes, cursor, backlog, columns, turn);
        }
        loop {
            match self.step(part, number, cursor, corpus, analyzer) {
                Err(failure) => return Poll::Ready(Err(failure)),
                Ok(None) => return Poll::Ready(Ok(())),
                Ok(Some(units)) if !turn.spend(units) => return Poll::Pending,
                Ok(Some(_)) => {}
            }
        }
    }

    /// Reads the next entry of a body and gives its units; none behind the last.
    fn step(
        &mut self,
        part: &ThawPart<'_>,
        number: u32,
        cursor: &mut u64,
        corpus: &mut Corpus,
        analyzer: &Analyzer,
    ) -> Result<Option<u32>> {
        let mut reader = Reader::new(part.bytes, *cursor);
        let building = match &mut self.body {
            Some(building) => building,
            none => none.insert(Building::begin(&mut reader)?),
        };
        let dead = &self.sets[part.number];
        let units = match building.stage {
            Stage::Tokens => building.token(&mut reader, analyzer)?,
            Stage::Documents(left) => building.document(&mut reader, left, dead, corpus)?,
            Stage::Sum => building.sum(),
            Stage::Fill(left, from) => building.fill(&mut reader, left, from, dead)?,
            Stage::Rows(id) => building.rows(id)?,
            Stage::Done => {
                reader.end()?;
                let body = self.body.take().map(|building| building.body);
                let dead = std::mem::take(&mut self.sets[part.number]);
                let parts = body.map(|body| Part { number, body, dead });
                parts.map_or(Ok(()), |part| corpus.restore_part(part))?;
                return Ok(None);
            }
        };
        *cursor = reader.cursor();
        Ok(Some(units))
    }
}

impl Building {
    fn begin(reader: &mut Reader<'_>) -> Result<Building> {
        let kind = reader.u8()?;
        if reader.take(3)? != [0; 3] {
            return Err(malformed("a part of no known kind"));
        }
        let (tokens, documents) = (reader.u32()?, reader.u32()?);
        if tokens as usize > reader.left() {
            return Err(malformed("more tokens than bytes"));
        }
        // Growing step by step would copy much at once. A document is sixteen bytes at least.
        let room = Room {
            tokens: tokens as usize,
            text_bytes: 0,
            documents: (reader.left() / 16).min(documents as usize),
            document_bytes: reader.left(),
        };
        let body = match kind {
            SEALED => Body::Tail(Box::default()),
            RUN => Body::Run(Rc::new(Run::with_room(room))),
            _ => return Err(malformed("a part of no known kind")),
        };
        Ok(Building {
            tokens,
            documents,
            stage: Stage::Tokens,
            row: 0,
            documents_at: 0,
            inversion: Inversion::new(tokens as usize),
            body,
        })
    }

    fn ids(&self) -> u32 {
        match &self.body {
            Body::Tail(tail) => tail.ids(),
            Body::Sealed(_) => 0,
            Body::Run(run) => run.ids(),
        }
    }

    fn token(&mut self, reader: &mut Reader<'_>, analyzer: &Analyzer) -> Result<u32> {
        if self.ids() >= self.tokens {
            self.stage = Stage::Documents(self.documents);
            self.documents_at = reader.cursor();
            return Ok(1);
        }
        let len = usize::from(reader.u8()?);
        let text = std::str::from_utf8(reader.take(len)?);
        let text = text.map_err(|_| malformed("a token is no text"))?;
        let is_new = match &mut self.body {
            Body::Tail(tail) => tail.restore_token(text, analyzer),
            Body::Sealed(_) => false,
            Body::Run(run) => Rc::get_mut(run).is_some_and(|run| run.restore_token(text, analyzer)),
        };
        match is_new {
            true => Ok(TOKEN_UNITS),
            false => Err(malformed("tokens are not in order")),
        }
    }

    /// Reads and checks the next of `left` documents.
    fn document(
        &mut self,
        reader: &mut Reader<'_>,
        left: u32,
        dead: &RowSet,
        corpus: &mut Corpus,
    ) -> Result<u32> {
        let Some(left) = left.checked_sub(1) else {
            self.stage = Stage::Sum;
            return Ok(1);
        };
        let (row, bytes) = next_document(reader)?;
        if row <= self.row {
            return Err(malformed("documents are not in order"));
        }
        let Some(document) = Document::check(bytes, self.tokens) else {
            return Err(malformed("a document makes no sense"));
        };
        if !dead.contains(row) {
            if !corpus.restore_document(row, document.length()) {
                return Err(malformed("a row has two documents"));
            }
            self.inversion.count(&document);
        }
        match &mut self.body {
            Body::Tail(tail) => tail.put(row, bytes.into()),
            Body::Sealed(_) => {}
            Body::Run(run) => {
                let run = Rc::get_mut(run);
                run.into_iter().for_each(|run| run.push_encoded(row, bytes));
            }
        }
        (self.row, self.stage) = (row, Stage::Documents(left));
        Ok(DOCUMENT_UNITS + (bytes.len() / BYTES_PER_UNIT) as u32)
    }

    fn sum(&mut self) -> u32 {
        if self.inversion.sum() {
            self.stage = Stage::Fill(self.documents, 0);
        }
        SUMS as u32 / SUMS_PER_UNIT
    }

    /// Gives the rows of `left` documents to their tokens, the first from its token `from` on.
    fn fill(
        &mut self,
        reader: &mut Reader<'_>,
        left: u32,
        from: usize,
        dead: &RowSet,
    ) -> Result<u32> {
        let is_first = left == self.documents && from == 0;
        let at = if is_first {
            self.documents_at
        } else {
            reader.cursor()
        };
        *reader = reader.at(at);
        if left == 0 {
            self.stage = Stage::Rows(0);
            return Ok(1);
        }
        let (row, bytes) = next_document(reader)?;
        // It was checked when it was read.
        let document = Document::new(bytes);
        let end = match dead.contains(row) {
            true => document.tokens(),
            false => document.tokens().min(from + FILLS),
        };
        if !dead.contains(row) {
            self.inversion.fill(row, &document, from, end);
        }
        self.stage = match end < document.tokens() {
            true => {
                *reader = reader.at(at);
                Stage::Fill(left, end)
            }
            false => Stage::Fill(left - 1, 0),
        };
        Ok(1 + ((end - from) / FILLS_PER_UNIT) as u32)
    }

    /// Gives a token its rows.
    fn rows(&mut self, id: u32) -> Result<u32> {
        if id >= self.tokens {
            self.stage = Stage::Done;
            return Ok(1);
        }
        let rows = self.inversion.rows(id);
        let units = 1 + (rows.len() / ROWS_PER_UNIT) as u32;
        match &mut self.body {
            Body::Tail(tail) if tail.text(id).is_empty() && !rows.is_empty() => {
                return Err(malformed("a document holds a token that is gone"));
            }
            Body::Tail(tail) => tail.restore_rows(id, rows),
            Body::Sealed(_) => {}
            Body::Run(run) => {
                if let Some(run) = Rc::get_mut(run) {
                    run.restore_rows(id, rows);
                }
            }
        }
        self.stage = Stage::Rows(id + 1);
        Ok(units)
    }
}

/// A row and its document.
fn next_document<'a>(reader: &mut Reader<'a>) -> Result<(u32, &'a [u8])> {
    let row = reader.u32()?;
    let len = reader.u32()? as usize;
    Ok((row, reader.take(len)?))
}

fn poll_changes(
    bytes: &[u8],
    cursor: &mut u64,
    backlog: &mut Backlog,
    columns: usize,
    turn: &Turn<'_>,
) -> Poll<Result<()>> {
    let mut reader = Reader::new(bytes, *cursor);
    while !reader.is_at_end() {
        let before = reader.left();
        match read_change(&mut reader, columns) {
            Ok(change) => backlog.change(change),
            Err(failure) => return Poll::Ready(Err(failure)),
        }
        *cursor = reader.cursor();
        if !turn.spend(copy_units(before - reader.left())) {
            return Poll::Pending;
        }
    }
    Poll::Ready(Ok(()))
}

fn read_change(reader: &mut Reader<'_>, columns: usize) -> Result<Change> {
    let row = reader.u32()?;
    Ok(match reader.u8()? {
        REMOVE => Change::Remove(row),
        PUT_NULL => Change::PutNull(row),
        PUT => {
            let mut text = || {
                let len = reader.u32()? as usize;
                let text = std::str::from_utf8(reader.take(len)?);
                text.map(Box::from)
                    .map_err(|_| malformed("a column is no text"))
            };
            let columns = (0..columns).map(|_| text());
            Change::Put(row, columns.collect::<Result<Columns>>()?)
        }
        _ => return Err(malformed("a change of no known kind")),
    })
}
