//! The image of a full-text index (`docs/format/engines.md`): its parts but the tail, which is
//! sealed for it, the rows without a document and the dead, and the changes that still wait.
//!
//! Of a part the tokens and documents are kept. Which rows hold a token, and which tokens have a
//! stem, follows from them and is found again when the image is read, so these cannot disagree,
//! and a later version may stem otherwise.

use std::ops::Range;
use std::rc::Rc;
use std::task::Poll;

use nodedb_types::Result;

use super::analyze::Analyzer;
use super::backlog::{Backlog, Change, Columns};
use super::corpus::Corpus;
use super::document::Document;
use super::part::{Body, Part};
use super::run::{Room, Run};
use super::tail::Tail;
use crate::engine::image::{Frozen, FrozenPart, PART_PIECE_BYTES, ThawPart, malformed};
use crate::engine::image_codec::{Reader, SetsPart, copy_units, poll_read_sets};
use crate::pace::Turn;
use crate::set::RowSet;

const VERSION: u16 = 1;
const SEALED: u8 = 0;
const RUN: u8 = 1;

const REMOVE: u8 = 0;
const PUT_NULL: u8 = 1;
const PUT: u8 = 2;

/// Units for a token that is read: stemming it and adding it to the dictionary.
const TOKEN_UNITS: u32 = 20;
/// Units for a document, and bytes of it that cost another to check and copy.
const DOCUMENT_UNITS: u32 = 3;
const BYTES_PER_UNIT: usize = 200;
/// Tokens of a document that its row is added to at a time, and for a unit.
const LINKS: usize = 256;
const LINKS_PER_UNIT: usize = 3;

/// A sealed tail or a run.
struct TokensAndDocuments {
    number: u32,
    body: Shared,
}

enum Shared {
    Sealed(Rc<Tail>),
    Run(Rc<Run>),
}

/// In the cursor of a part that is written: behind the tokens; plus the next row.
const DOCUMENTS: u64 = 1 << 40;

impl TokensAndDocuments {
    fn of(part: &Part) -> Option<Rc<dyn FrozenPart>> {
        let body = match &part.body {
            Body::Tail(_) => return None,
            Body::Sealed(tail) => Shared::Sealed(tail.clone()),
            Body::Run(run) => Shared::Run(run.clone()),
        };
        let number = part.number;
        Some(Rc::new(TokensAndDocuments { number, body }))
    }

    fn room(&self) -> Room {
        match &self.body {
            Shared::Sealed(tail) => tail.room(),
            Shared::Run(run) => run.room(),
        }
    }

    fn ids(&self) -> u32 {
        match &self.body {
            Shared::Sealed(tail) => tail.ids(),
            Shared::Run(run) => run.ids(),
        }
    }

    fn text(&self, id: u32) -> &str {
        match &self.body {
            Shared::Sealed(tail) => tail.text(id),
            Shared::Run(run) => run.text(id),
        }
    }

    fn next_document(&self, after: Option<u32>) -> Option<(u32, &[u8])> {
        match &self.body {
            Shared::Sealed(tail) => {
                let row = tail.next_document(after)?;
                Some((row, tail.document(row)?))
            }
            Shared::Run(run) => {
                let row = run.next_document(after)?;
                Some((row, run.document(row)?))
            }
        }
    }

    /// Appends the entry that the cursor stands before; false when there is none.
    fn write(&self, cursor: &mut u64, out: &mut Vec<u8>) -> bool {
        let ids = u64::from(self.ids());
        if *cursor == 0 {
            let kind = match self.body {
                Shared::Sealed(_) => SEALED,
                Shared::Run(_) => RUN,
            };
            out.extend([kind, 0, 0, 0]);
            out.extend(self.ids().to_le_bytes());
            out.extend((self.room().documents as u32).to_le_bytes());
            *cursor = 1;
        } else if *cursor <= ids {
            let text = self.text((*cursor - 1) as u32);
            out.push(u8::try_from(text.len()).expect("tokens are short"));
            out.extend_from_slice(text.as_bytes());
            *cursor += 1;
        } else {
            let from = cursor.saturating_sub(DOCUMENTS) as u32;
            let Some((row, document)) = self.next_document(from.checked_sub(1)) else {
                return false;
            };
            out.extend(row.to_le_bytes());
            out.extend((document.len() as u32).to_le_bytes());
            out.extend_from_slice(document);
            *cursor = DOCUMENTS + u64::from(row) + 1;
            // The largest surrogate has none behind it, and its cursor would wrap.
            return row < u32::MAX;
        }
        true
    }
}

impl FrozenPart for TokensAndDocuments {
    fn id(&self) -> u64 {
        u64::from(self.number)
    }

    fn poll_write(
        &self,
        cursor: &mut u64,
        out: &mut Vec<u8>,
        turn: &Turn<'_>,
    ) -> Poll<Result<bool>> {
        let end = out.len() + PART_PIECE_BYTES;
        while out.len() < end {
            let before = out.len();
            if !self.write(cursor, out) {
                return Poll::Ready(Ok(false));
            }
            if !turn.spend(copy_units(out.len() - before)) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(true))
    }
}

/// Changes that wait.
struct Waiting {
    number: u32,
    changes: Vec<Change>,
}

fn write_change(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::Remove(row) => {
            out.extend(row.to_le_bytes());
            out.push(REMOVE);
        }
        Change::PutNull(row) => {
            out.extend(row.to_le_bytes());
            out.push(PUT_NULL);
        }
        Change::Put(row, columns) => {
            out.extend(row.to_le_bytes());
            out.push(PUT);
            for text in columns.iter() {
                out.extend((text.len() as u32).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

impl FrozenPart for Waiting {
    fn id(&self) -> u64 {
        u64::from(self.number)
    }

    /// The cursor counts changes.
    fn poll_write(
        &self,
        cursor: &mut u64,
        out: &mut Vec<u8>,
        turn: &Turn<'_>,
    ) -> Poll<Result<bool>> {
        let end = out.len() + PART_PIECE_BYTES;
        for change in self.changes.iter().skip(*cursor as usize) {
            if out.len() >= end {
                return Poll::Ready(Ok(true));
            }
            let before = out.len();
            write_change(change, out);
            *cursor += 1;
            if !turn.spend(copy_units(out.len() - before)) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(false))
    }
}

pub(super) fn freeze(corpus: &mut Corpus, backlog: &mut Backlog) -> Frozen {
    corpus.seal_for_image(backlog.restart());
    let changes = backlog.changes();
    let (sets_number, sets) = corpus.frozen_sets();
    let mut parts: Vec<Rc<dyn FrozenPart>> = Vec::new();
    parts.push(Rc::new(SetsPart::new(u64::from(sets_number), sets)));
    parts.extend(corpus.parts().iter().filter_map(TokensAndDocuments::of));
    let bodies = parts.len() as u32 - 1;
    let is_waiting = !changes.is_empty();
    if is_waiting {
        let number = corpus.number();
        parts.push(Rc::new(Waiting { number, changes }));
    }
    let mut header = Vec::new();
    header.extend(VERSION.to_le_bytes());
    header.extend([u8::from(is_waiting), 0]);
    header.extend(bodies.to_le_bytes());
    header.extend(corpus.next_number().to_le_bytes());
    Frozen::new(header, parts)
}

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
    /// Documents that are still to come.
    documents: u32,
    /// The last row that was read.
    row: u32,
    /// Its document in the part's bytes, and the first token that has still to get the row.
    linking: Option<(Range<usize>, usize)>,
    body: Body,
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
        let units = match &mut self.body {
            None => {
                self.body = Some(Building::begin(&mut reader)?);
                1
            }
            Some(building) if building.ids() < building.tokens => {
                building.token(&mut reader, analyzer)?;
                TOKEN_UNITS
            }
            Some(building) if building.linking.is_some() => building.link(part.bytes)?,
            Some(building) if building.documents > 0 => {
                let before = reader.left();
                building.document(&mut reader, &self.sets[part.number], corpus)?;
                DOCUMENT_UNITS + ((before - reader.left()) / BYTES_PER_UNIT) as u32
            }
            Some(_) => {
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
        // Growing step by step would copy much at once. A token is two bytes at least, a document
        // sixteen.
        let room = Room {
            tokens: (reader.left() / 2).min(tokens as usize),
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
            row: 0,
            linking: None,
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

    fn token(&mut self, reader: &mut Reader<'_>, analyzer: &Analyzer) -> Result<()> {
        let len = usize::from(reader.u8()?);
        let text = std::str::from_utf8(reader.take(len)?);
        let text = text.map_err(|_| malformed("a token is no text"))?;
        let is_new = match &mut self.body {
            Body::Tail(tail) => tail.restore_token(text, analyzer),
            Body::Sealed(_) => false,
            Body::Run(run) => Rc::get_mut(run).is_some_and(|run| run.restore_token(text, analyzer)),
        };
        match is_new {
            true => Ok(()),
            false => Err(malformed("tokens are not in order")),
        }
    }

    fn document(
        &mut self,
        reader: &mut Reader<'_>,
        dead: &RowSet,
        corpus: &mut Corpus,
    ) -> Result<()> {
        let row = reader.u32()?;
        let len = reader.u32()? as usize;
        let bytes = reader.take(len)?;
        if row <= self.row {
            return Err(malformed("documents are not in order"));
        }
        self.row = row;
        self.documents -= 1;
        let Some(document) = Document::check(bytes, self.tokens) else {
            return Err(malformed("a document makes no sense"));
        };
        let live = !dead.contains(row);
        if live && !corpus.restore_document(row, document.length()) {
            return Err(malformed("a row has two documents"));
        }
        match &mut self.body {
            Body::Tail(tail) => tail.put(row, bytes.into()),
            Body::Sealed(_) => {}
            Body::Run(run) => {
                let run = Rc::get_mut(run);
                run.into_iter().for_each(|run| run.push_encoded(row, bytes));
            }
        }
        let end = reader.cursor() as usize;
        self.linking = live.then_some((end - len..end, 0));
        Ok(())
    }

    /// Adds the row to the next tokens of its document. Gives the units.
    fn link(&mut self, bytes: &[u8]) -> Result<u32> {
        let Some((place, from)) = self.linking.take() else {
            return Ok(0);
        };
        // It was checked when it was read.
        let document = Document::new(&bytes[place.clone()]);
        let end = document.tokens().min(from + LINKS);
        for id in (from..end).map(|at| document.id(at)) {
            match &mut self.body {
                Body::Tail(tail) if tail.text(id).is_empty() => {
                    return Err(malformed("a document holds a token that is gone"));
                }
                Body::Tail(tail) => tail.link(id, self.row),
                Body::Sealed(_) => {}
                Body::Run(run) => {
                    let run = Rc::get_mut(run);
                    run.into_iter().for_each(|run| run.link(id, self.row));
                }
            }
        }
        self.linking = (end < document.tokens()).then_some((place, end));
        Ok(((end - from) / LINKS_PER_UNIT) as u32)
    }
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
