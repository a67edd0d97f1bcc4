//! Making one run of several parts, in pieces.
//!
//! First the dictionary: token by token in the order of the texts, each with its live rows over
//! all inputs. Then the documents by ascending surrogate, their tokens renamed. Rows that die
//! meanwhile are noted and are dead in the run from its start, however far it had come with them.

use std::ops::Bound;

use super::analyze::Analyzer;
use super::document::Encoder;
use super::part::Part;
use super::rows::Rows;
use super::run::{Room, Run};
use crate::pace::Budget;
use crate::set::RowSet;

/// Units for one token: finding it in the inputs, stemming it, taking its rows.
const TOKEN_UNITS: u32 = 20;
/// Units for one document, and its tokens that cost another.
const DOCUMENT_UNITS: u32 = 8;
const TOKENS_PER_UNIT: usize = 2;

pub(super) struct Merge {
    /// Numbers of the parts.
    inputs: Vec<u32>,
    /// By input: one above the id in the run, by the id in the input. Zeros are cheap to make:
    /// fresh memory has them, and comes from the system page by page as it is looked at.
    ids: Vec<Vec<u32>>,
    run: Run,
    encoder: Encoder,
    stage: Stage,
    deaths: RowSet,
}

enum Stage {
    /// Behind this token.
    Tokens(Option<Box<str>>),
    /// Behind this row.
    Documents(Option<u32>),
}

const UNUSED: u32 = 0;

impl Merge {
    pub(super) fn new(inputs: Vec<u32>, parts: &[Part]) -> Merge {
        let parts = inputs.iter().map(|number| part(parts, *number));
        let mut room = Room::default();
        let mut ids = Vec::new();
        for part in parts {
            let more = part.room();
            room.tokens += more.tokens;
            room.text_bytes += more.text_bytes;
            room.documents += more.documents;
            room.document_bytes += more.document_bytes;
            ids.push(vec![UNUSED; part.ids() as usize]);
        }
        Merge {
            inputs,
            ids,
            run: Run::with_room(room),
            encoder: Encoder::default(),
            stage: Stage::Tokens(None),
            deaths: RowSet::new(),
        }
    }

    /// A row's document in a part has died.
    pub(super) fn died(&mut self, part: u32, surrogate: u32) {
        if self.inputs.contains(&part) {
            self.deaths.insert(surrogate);
        }
    }

    /// Goes on until the budget is spent; true when the run is complete.
    pub(super) fn step(&mut self, parts: &[Part], analyzer: &Analyzer, budget: &Budget) -> bool {
        let numbers = self.inputs.iter();
        let inputs: Vec<&Part> = numbers.map(|number| part(parts, *number)).collect();
        loop {
            let (units, stage) = match &self.stage {
                Stage::Tokens(after) => {
                    let after = after.clone();
                    self.step_token(&inputs, after.as_deref(), analyzer)
                }
                Stage::Documents(after) => {
                    let after = *after;
                    match self.step_document(&inputs, after) {
                        Some(next) => next,
                        None => return true,
                    }
                }
            };
            self.stage = stage;
            if !budget.spend(units) {
                return false;
            }
        }
    }

    /// Takes the first token behind `after`.
    fn step_token(
        &mut self,
        inputs: &[&Part],
        after: Option<&str>,
        analyzer: &Analyzer,
    ) -> (u32, Stage) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let heads: Vec<_> = inputs.iter().map(|part| part.next_token(from)).collect();
        let Some(text) = heads.iter().flatten().map(|(text, _)| *text).min() else {
            return (1, Stage::Documents(None));
        };
        let holders = || {
            let heads = heads.iter().enumerate();
            heads.filter_map(|(at, head)| match head {
                Some((found, id)) if *found == text => Some((at, *id)),
                _ => None,
            })
        };
        let (mut rows, mut units) = (RowSet::new(), TOKEN_UNITS);
        for (at, id) in holders() {
            inputs[at].add_all(id, &mut rows);
            units += inputs[at].rows(id).weight();
        }
        if !rows.is_empty() {
            let stem = analyzer.stem(text);
            let new = self.run.push_token(text, &stem, Rows::from(rows));
            for (at, id) in holders() {
                self.ids[at][id as usize] = new + 1;
            }
        }
        (units, Stage::Tokens(Some(text.into())))
    }

    /// Takes the first document behind `after`; None when there is none.
    fn step_document(&mut self, inputs: &[&Part], after: Option<u32>) -> Option<(u32, Stage)> {
        let next = inputs.iter().filter_map(|part| part.next_document(after));
        let surrogate = next.min()?;
        let mut live = inputs.iter().enumerate();
        let live = live.find_map(|(at, part)| Some((at, part.document(surrogate)?)));
        let mut units = DOCUMENT_UNITS;
        if let Some((at, document)) = live {
            let ids = &self.ids[at];
            let tokens = 0..document.tokens();
            let mut tokens: Vec<(u32, usize)> = tokens
                .map(|token| (ids[document.id(token) as usize], token))
                .collect();
            tokens.sort_unstable();
            for (id, token) in &tokens {
                assert_ne!(*id, UNUSED, "a live document's tokens have rows");
                self.encoder
                    .push_encoded(*id - 1, document.position_bytes(*token));
            }
            self.run.push_document(surrogate, &mut self.encoder);
            units += (tokens.len() / TOKENS_PER_UNIT) as u32;
        }
        Some((units, Stage::Documents(Some(surrogate))))
    }

    /// The numbers of the inputs, the run in their place, and what is dead in it.
    pub(super) fn finish(self) -> (Vec<u32>, Run, RowSet) {
        (self.inputs, self.run, self.deaths)
    }
}

fn part(parts: &[Part], number: u32) -> &Part {
    let mut parts = parts.iter();
    parts
        .find(|part| part.number == number)
        .expect("the inputs of a merge stay")
}
