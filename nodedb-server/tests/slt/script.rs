//! Reads the text of an SQL test, in the common form of sqllogictest.
//!
//! `statement ok`, `statement error [what]`, `query <types> [rowsort|valuesort]` and
//! `query error [what]`, each followed by its SQL up to an empty line or `----`, and after `----`
//! the rows up to an empty line. In `what`, five characters that are an SQLSTATE, alone or after
//! `pgcode`, must be the error's code; other words are another server's message and are not
//! compared. `#` begins a comment, `subtest` is a heading, `include` reads another file,
//! `halt` ends this one.

use std::path::Path;

/// What a statement must give.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    Done,
    /// An error, with this SQLSTATE if one is named.
    Error(Option<String>),
    Rows {
        types: String,
        sort: Sort,
        /// Lines, in the order in which the rows must come.
        rows: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sort {
    None,
    Rows,
    Values,
}

#[derive(Debug, Clone)]
pub struct Record {
    pub file: String,
    /// Line of the record's first word.
    pub line: usize,
    pub sql: String,
    pub expected: Expected,
}

pub fn read(path: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let file = path
        .file_name()
        .expect("a file")
        .to_string_lossy()
        .into_owned();
    let mut records = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(&first) = words.first() else {
            continue;
        };
        if first.starts_with('#') || first == "subtest" {
            continue;
        }
        if first == "halt" {
            break;
        }
        if first == "include" {
            let other = path.parent().expect("a folder").join(words[1]);
            records.extend(read(&other));
            continue;
        }
        let mut sql = Vec::new();
        let mut rows = None;
        for (_, line) in lines.by_ref() {
            match &mut rows {
                _ if line.trim().is_empty() => break,
                None if line.trim() == "----" => rows = Some(Vec::new()),
                None => sql.push(line),
                Some(rows) => rows.push(line.to_owned()),
            }
        }
        records.push(Record {
            file: file.clone(),
            line: number + 1,
            sql: sql.join("\n"),
            expected: expected(&words, rows)
                .unwrap_or_else(|| panic!("{file}:{}: {line}", number + 1)),
        });
    }
    records
}

fn expected(words: &[&str], rows: Option<Vec<String>>) -> Option<Expected> {
    match *words {
        ["statement", "ok"] => Some(Expected::Done),
        ["statement" | "query", "error", ref what @ ..] => Some(Expected::Error(code(what))),
        ["query", types, ref rest @ ..] => Some(Expected::Rows {
            types: types.to_owned(),
            sort: match rest {
                [] | ["nosort"] => Sort::None,
                ["rowsort"] => Sort::Rows,
                ["valuesort"] => Sort::Values,
                _ => return None,
            },
            rows: rows.unwrap_or_default(),
        }),
        _ => None,
    }
}

fn code(what: &[&str]) -> Option<String> {
    let word = match what {
        ["pgcode", word, ..] | [word] => word,
        _ => return None,
    };
    let is_code = word.len() == 5
        && word
            .chars()
            .all(|c| c.is_ascii_digit() || c.is_ascii_uppercase())
        && word.chars().any(|c| c.is_ascii_digit());
    is_code.then(|| (*word).to_owned())
}
