//! What one writer has done: its rows, its tables and its indexes, before and after a statement.
//!
//! A writer touches only what is its own, so its model is exact although eight of them write at
//! once. Values are written in pairs `x` and `-x`, in keys that hash to different shards, so the
//! sum over the whole collection is 0 between any two statements, and a reader that sees another
//! sum has seen half of one.

use std::collections::{BTreeMap, BTreeSet};

use super::random::Random;

/// Distance between the keys of a pair, and between the keys of two writers.
const PAIR: i64 = 1_000;
const WRITER: i64 = 1_000_000;

/// Pairs of one writer, at most; small, so that keys are deleted and used again.
const PAIRS_MAX: u64 = 24;

const WORDS: [&str; 8] = [
    "memory", "profile", "debug", "kernel", "parser", "window", "signal", "vector",
];

/// The state that a writer owns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// Rows of `ledger` under this writer: key to value and note.
    pub rows: BTreeMap<i64, (i64, String)>,
    /// Tables of its own: name to number of rows.
    pub tables: BTreeMap<String, i64>,
    /// Names of indexes of its own on `ledger`.
    pub indexes: BTreeSet<String>,
}

/// A statement and what is there when it has been done.
pub struct Step {
    pub sql: String,
    pub after: Model,
}

/// What a writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Rows,
    Tables,
    Indexes,
}

impl Work {
    /// Of eight writers, six write rows.
    pub fn of(writer: i64) -> Work {
        match writer {
            6 => Work::Tables,
            7 => Work::Indexes,
            _ => Work::Rows,
        }
    }
}

impl Model {
    /// The next statement of `writer`, and the state that it leads to.
    pub fn next(&self, writer: i64, random: &mut Random) -> Step {
        match Work::of(writer) {
            Work::Rows => self.next_rows(writer, random),
            Work::Tables => self.next_table(random),
            Work::Indexes => self.next_index(random),
        }
    }

    fn next_rows(&self, writer: i64, random: &mut Random) -> Step {
        let mut after = self.clone();
        let a = writer * WRITER + random.below(PAIRS_MAX) as i64;
        let b = a + PAIR;
        let x = random.below(1_000) as i64 + 1;
        let note = format!("{} {}", random.pick(&WORDS), random.pick(&WORDS));
        let there = self.rows.contains_key(&a);
        let sql = match (there, random.below(8)) {
            (false, 0..5) | (_, 0) => {
                after.rows.insert(a, (x, note.clone()));
                after.rows.insert(b, (-x, note.clone()));
                let conflict = match there {
                    true => {
                        " ON CONFLICT (id) DO UPDATE SET value = excluded.value, note = excluded.note"
                    }
                    false => "",
                };
                format!(
                    "INSERT INTO ledger (id, writer, value, note) VALUES \
                     ({a}, {writer}, {x}, '{note}'), ({b}, {writer}, {}, '{note}'){conflict}",
                    -x
                )
            }
            (true, 1..3) => {
                move_by(&mut after, a, x);
                move_by(&mut after, b, -x);
                format!(
                    "UPDATE ledger SET value = value + CASE WHEN id = {a} THEN {x} ELSE {} END \
                     WHERE id IN ({a}, {b})",
                    -x
                )
            }
            (true, 3) => {
                after.rows.remove(&a);
                after.rows.remove(&b);
                format!("DELETE FROM ledger WHERE id IN ({a}, {b})")
            }
            (true, 4) => {
                if let Some(row) = after.rows.get_mut(&a) {
                    row.1.clone_from(&note);
                }
                format!("UPDATE ledger SET note = '{note}' WHERE id = {a}")
            }
            (_, 5) => {
                for row in after.rows.values_mut() {
                    row.0 = -row.0;
                }
                format!("UPDATE ledger SET value = -value WHERE writer = {writer}")
            }
            (_, 6) => {
                after.rows.retain(|_, row| row.0.abs() <= 700);
                format!(
                    "DELETE FROM ledger WHERE writer = {writer} AND (value > 700 OR value < -700)"
                )
            }
            _ => {
                let zero = writer * WRITER + 2 * PAIR + random.below(PAIRS_MAX) as i64;
                after.rows.entry(zero).or_insert((0, note.clone()));
                format!(
                    "INSERT INTO ledger (id, writer, value, note) \
                     VALUES ({zero}, {writer}, 0, '{note}') ON CONFLICT (id) DO NOTHING"
                )
            }
        };
        Step { sql, after }
    }

    fn next_table(&self, random: &mut Random) -> Step {
        let mut after = self.clone();
        let name = format!("scratch_{}", random.below(4));
        let sql = match (self.tables.get(&name), random.below(3)) {
            (None, _) => {
                after.tables.insert(name.clone(), 0);
                format!("CREATE TABLE {name} (id BIGINT PRIMARY KEY, word TEXT)")
            }
            (Some(_), 0) => {
                after.tables.remove(&name);
                format!("DROP TABLE {name}")
            }
            (Some(&rows), _) => {
                after.tables.insert(name.clone(), rows + 3);
                let values: Vec<String> = (rows..rows + 3)
                    .map(|id| format!("({id}, '{}')", random.pick(&WORDS)))
                    .collect();
                format!("INSERT INTO {name} (id, word) VALUES {}", values.join(", "))
            }
        };
        Step { sql, after }
    }

    fn next_index(&self, random: &mut Random) -> Step {
        let mut after = self.clone();
        let indexes = [
            ("ledger_value", "(value)"),
            ("ledger_writer", "(writer)"),
            (
                "ledger_note",
                "USING fulltext (note) WITH (analyzer = 'english')",
            ),
        ];
        let (name, rest) = random.pick(&indexes);
        let sql = match after.indexes.remove(*name) {
            true => format!("DROP INDEX {name}"),
            false => {
                after.indexes.insert((*name).to_owned());
                format!("CREATE INDEX {name} ON ledger {rest}")
            }
        };
        Step { sql, after }
    }
}

fn move_by(model: &mut Model, key: i64, by: i64) {
    if let Some(row) = model.rows.get_mut(&key) {
        row.0 += by;
    }
}

/// What a writer knows of its state.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What has been acknowledged.
    pub model: Model,
    /// The statement that was sent and not answered, and what is there if it was done.
    pub in_flight: Option<(String, Model)>,
}

impl Known {
    /// Takes over what a restarted server has. It must be one of the states it may be in: what was
    /// acknowledged, or that and the whole of the one statement that was not answered.
    pub fn settle(&mut self, found: Model) -> Result<(), String> {
        let flight = self.in_flight.take();
        if found == self.model {
            return Ok(());
        }
        match flight {
            Some((_, after)) if found == after => {
                self.model = after;
                Ok(())
            }
            Some((sql, after)) => Err(format!(
                "neither before nor after `{sql}`\nbefore: {}\nafter: {}",
                difference(&self.model, &found),
                difference(&after, &found),
            )),
            None => Err(format!(
                "what was acknowledged is lost: {}",
                difference(&self.model, &found)
            )),
        }
    }
}

/// What is missing and what is too much, so that a failure can be read.
fn difference(expected: &Model, found: &Model) -> String {
    let missing: Vec<_> = expected
        .rows
        .iter()
        .filter(|(k, v)| found.rows.get(k) != Some(v))
        .collect();
    let extra: Vec<_> = found
        .rows
        .iter()
        .filter(|(k, v)| expected.rows.get(k) != Some(v))
        .collect();
    format!(
        "expected {missing:?}, found {extra:?}; tables {:?} and {:?}; indexes {:?} and {:?}",
        expected.tables, found.tables, expected.indexes, found.indexes
    )
}
