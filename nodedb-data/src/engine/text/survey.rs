//! What `CHECK COLLECTION` compares: hashes of the entries that a row must have, and of those
//! that the index holds.
//!
//! An entry is a row's document (or that it has none), each token of it with its positions, and
//! each row of a token. The walk goes over the documents by row and then over the rows by token,
//! both read from where queries read them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::task::Poll;

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::analyze::{Cursor, Positions};
use super::corpus::Corpus;
use super::part::Part;
use crate::engine::{Hashes, mix};
use crate::pace::Turn;

/// What a hash is of.
const NULL: &[u8] = b"null";
const LENGTH: u8 = 0;
const TOKEN: u8 = 1;
const ROW: u8 = 2;

/// Units for a document or a token, and positions that cost another.
const ENTRY_UNITS: u32 = 3;
const POSITIONS_PER_UNIT: usize = 8;

fn length_hash(surrogate: u32, length: u32) -> u64 {
    let mut bytes = [LENGTH; 5];
    bytes[1..].copy_from_slice(&length.to_le_bytes());
    xxh3_64_with_seed(&bytes, u64::from(surrogate))
}

fn token_hash(surrogate: u32, token: &str, positions: &[u32]) -> u64 {
    let mut hasher = Xxh3::with_seed(u64::from(surrogate));
    hasher.update(&[TOKEN]);
    hasher.update(token.as_bytes());
    for position in positions {
        // No byte of UTF-8 is 0xff, so tokens and positions do not run into each other.
        hasher.update(&[0xff]);
        hasher.update(&position.to_le_bytes());
    }
    hasher.digest()
}

fn member_hash(surrogate: u32, token: &str) -> u64 {
    let mut hasher = Xxh3::with_seed(u64::from(surrogate));
    hasher.update(&[ROW]);
    hasher.update(token.as_bytes());
    hasher.digest()
}

/// The hash of all entries of a row with these columns, empty ones for NULL; none when all are.
pub(super) fn row_hash(surrogate: u32, columns: Option<&[&str]>) -> u64 {
    let Some(columns) = columns else {
        return xxh3_64_with_seed(NULL, u64::from(surrogate));
    };
    let mut tokens: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let (mut positions, mut lower, mut length) = (Positions::default(), String::new(), 0);
    for text in columns {
        let mut cursor = Cursor::default();
        while let Some((position, token)) = cursor.next(text, &mut lower) {
            let position = positions.place(position);
            match tokens.get_mut(token) {
                Some(list) => list.push(position),
                None => {
                    tokens.insert(token.to_owned(), vec![position]);
                }
            }
            length += 1;
        }
        positions.next_column();
    }
    let tokens = tokens.iter();
    let hashes = tokens
        .map(|(token, list)| token_hash(surrogate, token, list) ^ member_hash(surrogate, token));
    hashes.fold(length_hash(surrogate, length), |sum, hash| sum ^ hash)
}

/// Where a walk over the entries stands.
pub struct TextSurvey(Stage);

enum Stage {
    /// Behind this row whose columns are all NULL.
    Nulls(Option<u32>),
    /// Behind this row with a document, and what was seen of the next.
    Documents(Option<u32>, Option<Partial>),
    /// In this token, behind this row of it; at the first token of all for none.
    Rows(Option<Box<str>>, Option<u32>),
}

/// A document of which some tokens are hashed. Their order is that of one epoch.
struct Partial {
    row: u32,
    epoch: u64,
    tokens: usize,
    sum: u64,
}

impl Default for TextSurvey {
    fn default() -> TextSurvey {
        TextSurvey(Stage::Nulls(None))
    }
}

impl TextSurvey {
    pub(super) fn poll(
        &mut self,
        corpus: &Corpus,
        hashes: &mut Hashes,
        turn: &Turn<'_>,
    ) -> Poll<()> {
        loop {
            let stage = std::mem::replace(&mut self.0, Stage::Nulls(None));
            let next = match stage {
                Stage::Nulls(after) => match corpus.nulls().next_after(after) {
                    Some(row) => {
                        mix(hashes, row, xxh3_64_with_seed(NULL, u64::from(row)));
                        Stage::Nulls(Some(row))
                    }
                    None => Stage::Documents(None, None),
                },
                Stage::Documents(after, partial) => match corpus.documents().next_after(after) {
                    Some(row) => step_document(row, after, partial, corpus, hashes, turn),
                    None => Stage::Rows(None, None),
                },
                Stage::Rows(token, after) => {
                    match step_token(token.as_deref(), after, corpus, hashes, turn) {
                        Some(next) => next,
                        None => return Poll::Ready(()),
                    }
                }
            };
            self.0 = next;
            if !turn.spend(1) {
                return Poll::Pending;
            }
        }
    }
}

/// Hashes the document of `row`, or goes on with it.
fn step_document(
    row: u32,
    after: Option<u32>,
    partial: Option<Partial>,
    corpus: &Corpus,
    hashes: &mut Hashes,
    turn: &Turn<'_>,
) -> Stage {
    let Some((part, document)) = corpus.find(row) else {
        return Stage::Documents(Some(row), None);
    };
    let part = &corpus.parts()[part];
    let same = |partial: &Partial| partial.row == row && partial.epoch == corpus.epoch();
    let mut partial = partial.filter(same).unwrap_or_else(|| Partial {
        row,
        epoch: corpus.epoch(),
        tokens: 0,
        sum: length_hash(row, document.length()),
    });
    let mut positions = Vec::new();
    while partial.tokens < document.tokens() {
        let at = partial.tokens;
        positions.clear();
        document.positions(at, &mut positions);
        partial.sum ^= token_hash(row, part.text(document.id(at)), &positions);
        partial.tokens += 1;
        let units = ENTRY_UNITS + (positions.len() / POSITIONS_PER_UNIT) as u32;
        if !turn.spend(units) && partial.tokens < document.tokens() {
            return Stage::Documents(after, Some(partial));
        }
    }
    mix(hashes, row, partial.sum);
    Stage::Documents(Some(row), None)
}

/// Hashes the rows of a token behind `after`, or finds the next token; None when there is none.
fn step_token(
    token: Option<&str>,
    after: Option<u32>,
    corpus: &Corpus,
    hashes: &mut Hashes,
    turn: &Turn<'_>,
) -> Option<Stage> {
    let parts = corpus.parts();
    if let Some(token) = token {
        let mut after = after;
        while let Some(row) = next_row(parts, token, after) {
            mix(hashes, row, member_hash(row, token));
            after = Some(row);
            if !turn.spend(ENTRY_UNITS) {
                return Some(Stage::Rows(Some(token.into()), after));
            }
        }
    }
    let from = token.map_or(Bound::Unbounded, Bound::Excluded);
    let next = parts.iter().filter_map(|part| part.next_token(from));
    let (text, _) = next.min()?;
    Some(Stage::Rows(Some(text.into()), None))
}

/// The first live row of a token above `after` over all parts.
fn next_row(parts: &[Part], token: &str, after: Option<u32>) -> Option<u32> {
    let of_part = |part: &Part| {
        let (text, id) = part.next_token(Bound::Included(token))?;
        let rows = part.rows(id);
        let mut row = rows.next_after(after).filter(|_| text == token)?;
        while part.dead.contains(row) {
            row = rows.next_after(Some(row))?;
        }
        Some(row)
    };
    parts.iter().filter_map(of_part).min()
}
