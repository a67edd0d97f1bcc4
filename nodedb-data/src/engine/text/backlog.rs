//! Changes on their way into the index.
//!
//! A change is applied in pieces that cost a bounded number of units, strictly in the order in
//! which the changes came. A row of usual size is through before `apply` returns; of a large one
//! the rest stays here, and every reader first brings the backlog to its end, piece by piece in
//! its own turns. So an index always answers for all that was applied, and no row, however large,
//! makes a turn long (P2).

use std::collections::VecDeque;
use std::rc::Rc;

use super::analyze::{Analyzer, Cursor, Positions};
use super::corpus::Corpus;
use super::document::{Document, Encoder};
use crate::pace::Budget;

/// Units for a token: reading it, finding it in the dictionary.
const TOKEN_UNITS: u32 = 1;
/// Units for a token that the dictionary does not have: stemming it and adding it.
const NEW_TOKEN_UNITS: u32 = 40;
/// Bytes of text skipped for a unit.
const BYTES_PER_UNIT: usize = 64;
/// Units for adding or removing a row of a token.
const LINK_UNITS: u32 = 1;
const UNLINK_UNITS: u32 = 3;
/// Units for taking a token that no document holds any more out of the dictionary.
const DROP_TOKEN_UNITS: u32 = 25;
/// Occurrences encoded for a unit.
const POSITIONS_PER_UNIT: usize = 8;
/// Occurrences sorted at once, and what that costs.
const CHUNK: usize = 4096;
const CHUNK_UNITS: u32 = 1000;

#[derive(Default)]
pub(super) struct Backlog {
    tasks: VecDeque<Task>,
    /// Bytes of texts in `tasks`.
    bytes: usize,
}

enum Task {
    Remove(u32),
    PutNull(u32),
    Unlink(Unlinking),
    Read(Reading),
    Link(Linking),
}

/// A change that has not begun.
pub(super) enum Change {
    Remove(u32),
    PutNull(u32),
    Put(u32, Columns),
}

/// A document of the tail that is being taken out of the rows of its tokens.
struct Unlinking {
    surrogate: u32,
    document: Box<[u8]>,
    at: usize,
}

/// The texts of a row, one per column; empty for NULL.
pub(super) type Columns = Rc<[Box<str>]>;

/// A text that is being read.
struct Reading {
    surrogate: u32,
    columns: Columns,
    column: usize,
    cursor: Cursor,
    positions: Positions,
    occurrences: Occurrences,
    bytes: usize,
}

/// A document that is being encoded and added to the rows of its tokens.
struct Linking {
    surrogate: u32,
    columns: Columns,
    occurrences: Occurrences,
    encoder: Encoder,
    bytes: usize,
}

/// Occurrences of tokens as id and position in one number, in sorted chunks.
#[derive(Default)]
struct Occurrences {
    chunks: Vec<Vec<u64>>,
    /// How much of each chunk was taken.
    taken: Vec<usize>,
}

impl Occurrences {
    /// Gives the units of sorting a chunk that was filled.
    fn push(&mut self, id: u32, position: u32) -> u32 {
        let occurrence = u64::from(id) << 32 | u64::from(position);
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => {
                chunk.push(occurrence);
                if chunk.len() == CHUNK {
                    chunk.sort_unstable();
                    return CHUNK_UNITS;
                }
            }
            _ => self.chunks.push(vec![occurrence]),
        }
        0
    }

    /// Sorts what the last chunk holds.
    fn finish(&mut self) -> u32 {
        self.taken = vec![0; self.chunks.len()];
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => {
                chunk.sort_unstable();
                (chunk.len() * CHUNK_UNITS as usize / CHUNK) as u32
            }
            _ => 0,
        }
    }

    /// The smallest that is left.
    fn next(&mut self) -> Option<(u32, u32)> {
        let heads = self.chunks.iter().zip(&self.taken).enumerate();
        let heads = heads.filter_map(|(at, (chunk, taken))| Some((*chunk.get(*taken)?, at)));
        let (occurrence, at) = heads.min()?;
        self.taken[at] += 1;
        Some(((occurrence >> 32) as u32, occurrence as u32))
    }
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Bytes of text that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn remove(&mut self, surrogate: u32) {
        self.tasks.push_back(Task::Remove(surrogate));
    }

    pub(super) fn put_null(&mut self, surrogate: u32) {
        self.tasks.push_back(Task::PutNull(surrogate));
    }

    pub(super) fn put(&mut self, surrogate: u32, columns: Columns) {
        let reading = Reading::new(surrogate, columns);
        self.bytes += reading.bytes;
        self.tasks.push_back(Task::Read(reading));
    }

    /// Gives up what was done of the change under way, which then begins anew; gives the row of
    /// which the tail may have some links without its document.
    pub(super) fn restart(&mut self) -> Option<u32> {
        let (again, row) = match self.tasks.pop_front()? {
            Task::Unlink(unlinking) => (None, Some(unlinking.surrogate)),
            Task::Read(reading) => {
                // Tokens that it has added to the dictionary do no harm without rows.
                let again = Reading::new(reading.surrogate, reading.columns);
                (Some(Task::Read(again)), None)
            }
            Task::Link(linking) => {
                let again = Reading::new(linking.surrogate, linking.columns);
                (Some(Task::Read(again)), Some(linking.surrogate))
            }
            task @ (Task::Remove(_) | Task::PutNull(_)) => (Some(task), None),
        };
        if let Some(again) = again {
            self.tasks.push_front(again);
        }
        row
    }

    /// What waits, in order. Nothing is under way.
    pub(super) fn changes(&self) -> Vec<Change> {
        let change = |task: &Task| match task {
            Task::Remove(row) => Change::Remove(*row),
            Task::PutNull(row) => Change::PutNull(*row),
            Task::Read(reading) => Change::Put(reading.surrogate, reading.columns.clone()),
            Task::Unlink(_) | Task::Link(_) => unreachable!("nothing is under way"),
        };
        self.tasks.iter().map(change).collect()
    }

    /// Puts a change behind those that wait.
    pub(super) fn change(&mut self, change: Change) {
        match change {
            Change::Remove(row) => self.remove(row),
            Change::PutNull(row) => self.put_null(row),
            Change::Put(row, columns) => self.put(row, columns),
        }
    }

    /// Applies what waits until the budget is spent; true when nothing waits any more.
    pub(super) fn advance(
        &mut self,
        corpus: &mut Corpus,
        analyzer: &Analyzer,
        budget: &Budget,
    ) -> bool {
        while let Some(task) = self.tasks.pop_front() {
            match self.step(task, corpus, analyzer, budget) {
                Some(rest) => self.tasks.push_front(rest),
                None if self.tasks.is_empty() => return true,
                None => {}
            }
            if budget.is_spent() {
                return false;
            }
        }
        true
    }

    /// Gives what is left of the task.
    fn step(
        &mut self,
        task: Task,
        corpus: &mut Corpus,
        analyzer: &Analyzer,
        budget: &Budget,
    ) -> Option<Task> {
        match task {
            Task::Remove(surrogate) => {
                budget.spend(UNLINK_UNITS);
                let document = corpus.remove(surrogate)?;
                Some(Task::Unlink(Unlinking {
                    surrogate,
                    document,
                    at: 0,
                }))
            }
            Task::PutNull(surrogate) => {
                budget.spend(LINK_UNITS);
                corpus.put_null(surrogate);
                None
            }
            Task::Unlink(unlinking) => unlinking.step(corpus, analyzer, budget),
            Task::Read(reading) => Some(reading.step(corpus, analyzer, budget)),
            Task::Link(linking) => {
                let bytes = linking.bytes;
                let rest = linking.step(corpus, budget);
                if rest.is_none() {
                    self.bytes -= bytes;
                }
                rest
            }
        }
    }
}

impl Unlinking {
    fn step(mut self, corpus: &mut Corpus, analyzer: &Analyzer, budget: &Budget) -> Option<Task> {
        let document = Document::new(&self.document);
        let tail = corpus.tail();
        while self.at < document.tokens() {
            let dropped = tail.unlink(document.id(self.at), self.surrogate, analyzer);
            self.at += 1;
            if !budget.spend(UNLINK_UNITS + if dropped { DROP_TOKEN_UNITS } else { 0 }) {
                return Some(Task::Unlink(self));
            }
        }
        None
    }
}

impl Reading {
    fn new(surrogate: u32, columns: Columns) -> Reading {
        Reading {
            surrogate,
            bytes: columns.iter().map(|text| text.len()).sum(),
            columns,
            column: 0,
            cursor: Cursor::default(),
            positions: Positions::default(),
            occurrences: Occurrences::default(),
        }
    }

    fn step(mut self, corpus: &mut Corpus, analyzer: &Analyzer, budget: &Budget) -> Task {
        let tail = corpus.tail();
        let mut lower = String::new();
        while let Some(text) = self.columns.get(self.column) {
            let before = self.cursor.at();
            let mut units = TOKEN_UNITS;
            match self.cursor.next(text, &mut lower) {
                Some((position, token)) => {
                    let (id, new) = tail.intern(token, analyzer);
                    if new {
                        units += NEW_TOKEN_UNITS;
                    }
                    let position = self.positions.place(position);
                    units += self.occurrences.push(id, position);
                }
                None => {
                    self.positions.next_column();
                    self.column += 1;
                    self.cursor = Cursor::default();
                }
            }
            units += (self.cursor.at().saturating_sub(before) / BYTES_PER_UNIT) as u32;
            if !budget.spend(units) {
                return Task::Read(self);
            }
        }
        budget.spend(self.occurrences.finish());
        Task::Link(Linking {
            surrogate: self.surrogate,
            columns: self.columns,
            occurrences: self.occurrences,
            encoder: Encoder::default(),
            bytes: self.bytes,
        })
    }
}

impl Linking {
    fn step(mut self, corpus: &mut Corpus, budget: &Budget) -> Option<Task> {
        let tail = corpus.tail();
        let mut encoded = 0;
        while let Some((id, position)) = self.occurrences.next() {
            encoded += 1;
            let mut units = u32::from(encoded % POSITIONS_PER_UNIT == 0);
            if self.encoder.push(id, position) {
                tail.link(id, self.surrogate);
                units += LINK_UNITS;
            }
            if units > 0 && !budget.spend(units) {
                return Some(Task::Link(self));
            }
        }
        let mut document = Vec::new();
        self.encoder.finish(&mut document);
        corpus.put(self.surrogate, document.into_boxed_slice());
        None
    }
}
