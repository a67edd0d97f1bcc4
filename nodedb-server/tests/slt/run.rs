//! Runs the records of a file and compares what comes with what must come.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::channel::{Channel, GONE, Refused, Rows};
use crate::script::{self, Expected, Record, Sort};

/// Statements of a foreign suite whose expectation is known not to be met, with the reason.
/// One line each: file, line or `*` for the whole file, reason. A reason that begins with
/// "varies:" is for answers that may also happen to be the expected ones.
pub struct Known(BTreeMap<(String, String), String>);

impl Known {
    pub fn none() -> Known {
        Known(BTreeMap::new())
    }

    pub fn read(path: &Path) -> Known {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let mut known = BTreeMap::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.splitn(3, char::is_whitespace).map(str::trim);
            let (Some(file), Some(at), Some(reason)) = (words.next(), words.next(), words.next())
            else {
                panic!("{path:?}: {line}: file, line and reason are needed");
            };
            known.insert((file.to_owned(), at.to_owned()), reason.to_owned());
        }
        Known(known)
    }

    fn has(&self, file: &str, at: &str) -> bool {
        self.0.contains_key(&(file.to_owned(), at.to_owned()))
    }

    fn varies(&self, file: &str, at: &str) -> bool {
        let reason = self.0.get(&(file.to_owned(), at.to_owned()));
        reason.is_some_and(|reason| reason.starts_with("varies:"))
    }
}

#[derive(Default)]
pub struct Report {
    passed: usize,
    listed: usize,
    problems: Vec<String>,
}

impl Report {
    /// Entries that name no statement are entries that nobody needs.
    pub fn unused(&mut self, known: &Known, files: &[PathBuf]) {
        for (file, at) in known.0.keys() {
            let Some(path) = files.iter().find(|p| p.ends_with(file)) else {
                continue;
            };
            let names = at == "*" || script::read(path).iter().any(|r| r.line.to_string() == *at);
            if !names {
                self.problems.push(format!(
                    "{file}:{at} is listed, but there is no such statement"
                ));
            }
        }
    }

    pub fn assert_clean(&self) {
        eprintln!(
            "{} statements as expected, {} known differences",
            self.passed, self.listed
        );
        assert!(
            self.problems.is_empty(),
            "{} problems:\n{}",
            self.problems.len(),
            self.problems.join("\n")
        );
    }
}

pub fn file(path: &Path, channel: &mut Channel, cores: u16, known: &Known, report: &mut Report) {
    let name = path.file_name().expect("a file").to_string_lossy();
    if known.has(&name, "*") {
        report.listed += 1;
        return;
    }
    for record in script::read(path) {
        let outcome = channel.run(&record.sql);
        let problem = compare(&record, outcome);
        match (problem, known.has(&record.file, &record.line.to_string())) {
            (None, false) => report.passed += 1,
            (Some(_), true) => report.listed += 1,
            (None, true) if known.varies(&record.file, &record.line.to_string()) => {
                report.listed += 1;
            }
            (Some(problem), false) => report.problems.push(format!(
                "{}:{} ({:?}, {cores} cores)\n  {}\n  {problem}",
                record.file,
                record.line,
                channel.road(),
                record.sql.replace('\n', "\n  ")
            )),
            (None, true) => report.problems.push(format!(
                "{}:{} is as expected now: take it from the list",
                record.file, record.line
            )),
        }
    }
}

fn compare(record: &Record, outcome: Result<Rows, Refused>) -> Option<String> {
    match (&record.expected, outcome) {
        (_, Err(refused)) if refused.code == GONE => Some(refused.message),
        (Expected::Done, Ok(_)) | (Expected::Error(None), Err(_)) => None,
        (Expected::Error(Some(code)), Err(refused)) => (*code != refused.code).then(|| {
            format!(
                "expected error {code}, got {} {}",
                refused.code, refused.message
            )
        }),
        (Expected::Error(_), Ok(rows)) => Some(format!("expected an error, got {rows:?}")),
        (_, Err(refused)) => Some(format!("error {}: {}", refused.code, refused.message)),
        (Expected::Rows { types, sort, rows }, Ok(found)) => {
            let ordered = outermost(&record.sql).contains("order by");
            // Without an order any order will do.
            let sort = match sort {
                Sort::None if !ordered => &Sort::Rows,
                sort => sort,
            };
            let expected = lines(rows.iter().map(|row| words(row)), *sort);
            let found = lines(found.iter().map(|row| shown(row, types)), *sort);
            let equal = expected.len() == found.len()
                && expected
                    .iter()
                    .zip(&found)
                    .all(|(e, f)| line_equal(e, f, types));
            (!equal).then(|| format!("expected {expected:#?}\n  got {found:#?}"))
        }
    }
}

/// The text outside of parentheses, in lower case.
fn outermost(sql: &str) -> String {
    let mut depth = 0;
    let mut out = String::new();
    for c in sql.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            c if depth == 0 => out.extend(c.to_lowercase()),
            _ => {}
        }
    }
    out
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// A row as the files write it: NULL, (empty), true and false by name.
fn shown(row: &[Option<String>], types: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (i, value) in row.iter().enumerate() {
        let is_bool = types.as_bytes().get(i).is_none_or(|t| *t == b'B');
        match value.as_deref() {
            None => out.push("NULL".to_owned()),
            Some("") => out.push("(empty)".to_owned()),
            Some("t") if is_bool => out.push("true".to_owned()),
            Some("f") if is_bool => out.push("false".to_owned()),
            Some(text) => out.extend(words(text)),
        }
    }
    out
}

fn lines(rows: impl Iterator<Item = Vec<String>>, sort: Sort) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = rows.collect();
    match sort {
        Sort::None => {}
        Sort::Rows => rows.sort(),
        Sort::Values => {
            rows = rows
                .into_iter()
                .flatten()
                .map(|value| vec![value])
                .collect();
            rows.sort();
        }
    }
    rows
}

/// Words are equal as they stand; where a column is real, also as numbers.
fn line_equal(expected: &[String], found: &[String], types: &str) -> bool {
    let real = types.contains('R');
    expected.len() == found.len()
        && expected.iter().zip(found).all(|(e, f)| {
            e == f
                || real
                    && match (e.parse::<f64>(), f.parse::<f64>()) {
                        (Ok(e), Ok(f)) => (e - f).abs() <= 1e-9 * e.abs().max(1.0),
                        _ => false,
                    }
        })
}
