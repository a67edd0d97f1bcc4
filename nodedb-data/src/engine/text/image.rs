//! The image of a full-text index (`docs/format/engines.md`): its parts but the tail, which is
//! sealed for it, the rows without a document and the dead, and the changes that still wait.
//!
//! Of a part the tokens and documents are kept. Which rows hold a token, and which tokens have a
//! stem, follows from them and is found again when the image is read ([`super::thaw`]), so these
//! cannot disagree, and a later version may stem otherwise.

use std::rc::Rc;
use std::task::Poll;

use nodedb_types::Result;

use super::backlog::{Backlog, Change};
use super::corpus::Corpus;
use super::part::{Body, Part};
use super::run::{Room, Run};
use super::tail::Tail;
use crate::engine::image::{Frozen, FrozenPart, PART_PIECE_BYTES};
use crate::engine::image_codec::{SetsPart, copy_units};
use crate::pace::Turn;

pub(super) const VERSION: u16 = 1;
pub(super) const SEALED: u8 = 0;
pub(super) const RUN: u8 = 1;

pub(super) const REMOVE: u8 = 0;
pub(super) const PUT_NULL: u8 = 1;
pub(super) const PUT: u8 = 2;

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
