//! LIKE, ILIKE and regular expressions.
//!
//! Regular expressions are those of the `regex` crate: like PostgreSQL's without back references and
//! look-around, which are refused. Compiled patterns are kept, since a pattern is usually one for
//! all rows.

use std::cell::RefCell;

use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use regex::{Regex, RegexBuilder};

use super::{Function, TEXT, TEXT_TYPE, arguments, row};

/// Patterns that a thread keeps compiled.
const PATTERNS_MAX: usize = 32;
/// Memory that one compiled pattern may take, bytes.
const PATTERN_BYTES_MAX: usize = 4 << 20;

#[derive(PartialEq, Eq, Clone, Copy)]
enum Dialect {
    Regex,
    Like(char),
}

struct Kept {
    dialect: Dialect,
    pattern: String,
    fold: bool,
    regex: Regex,
}

thread_local! {
    static KEPT: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn with_regex<T>(pattern: &str, fold: bool, f: impl FnOnce(&Regex) -> T) -> Result<T> {
    with(Dialect::Regex, pattern, fold, f)
}

fn with<T>(dialect: Dialect, pattern: &str, fold: bool, f: impl FnOnce(&Regex) -> T) -> Result<T> {
    KEPT.with_borrow_mut(|kept| {
        let found = kept
            .iter()
            .position(|k| k.dialect == dialect && k.fold == fold && k.pattern == pattern);
        let at = match found {
            Some(at) => at,
            None => {
                let source = match dialect {
                    Dialect::Regex => pattern.to_owned(),
                    Dialect::Like(escape) => like_source(pattern, escape)?,
                };
                let regex = RegexBuilder::new(&source)
                    .case_insensitive(fold)
                    .size_limit(PATTERN_BYTES_MAX)
                    .dot_matches_new_line(true)
                    .build()
                    .map_err(|e| invalid(&e))?;
                if kept.len() == PATTERNS_MAX {
                    kept.remove(0);
                }
                kept.push(Kept {
                    dialect,
                    pattern: pattern.to_owned(),
                    fold,
                    regex,
                });
                kept.len() - 1
            }
        };
        Ok(f(&kept[at].regex))
    })
}

fn invalid(error: &regex::Error) -> Failure {
    match error {
        regex::Error::CompiledTooBig(_) => Failure::new(
            SqlState::ProgramLimitExceeded,
            "the regular expression is too big",
        ),
        regex::Error::Syntax(text)
            if text.contains("look-around") || text.contains("backreference") =>
        {
            Failure::unsupported("look-around or a back reference in a regular expression")
        }
        _ => Failure::new(
            SqlState::InvalidRegularExpression,
            "invalid regular expression",
        ),
    }
}

fn like_source(pattern: &str, escape: char) -> Result<String> {
    let mut source = String::from("^");
    let mut chars = pattern.chars();
    let mut literal = [0u8; 4];
    while let Some(c) = chars.next() {
        match c {
            c if c == escape && escape != '\0' => {
                let next = chars.next().ok_or_else(|| {
                    Failure::new(
                        SqlState::InvalidEscape,
                        "LIKE pattern must not end with escape character",
                    )
                })?;
                source.push_str(&regex::escape(next.encode_utf8(&mut literal)));
            }
            '%' => source.push_str(".*"),
            '_' => source.push('.'),
            c => source.push_str(&regex::escape(c.encode_utf8(&mut literal))),
        }
    }
    source.push('$');
    Ok(source)
}

pub(super) fn escape_of(text: &str) -> Result<char> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (None, _) => Ok('\0'),
        (Some(c), None) => Ok(c),
        _ => Err(
            Failure::new(SqlState::InvalidEscape, "invalid escape string")
                .with_hint("Escape string must be empty or one character."),
        ),
    }
}

fn like(values: &[Value], fold: bool) -> Result<Value> {
    let (text, pattern, escape) = match values {
        [Value::Text(text), Value::Text(pattern)] => (text, pattern, '\\'),
        [Value::Text(text), Value::Text(pattern), Value::Text(escape)] => {
            (text, pattern, escape_of(escape)?)
        }
        other => return Err(super::wrong_arguments(other)),
    };
    let matches = with(Dialect::Like(escape), pattern, fold, |r| r.is_match(text))?;
    Ok(Value::Bool(matches))
}

fn matches(values: &[Value], fold: bool) -> Result<Value> {
    arguments!(values, Value::Text(text), Value::Text(pattern) => {
        with(Dialect::Regex, pattern, fold, |r| Value::Bool(r.is_match(text)))
    })
}

/// What matches first, or its first group when the pattern has one.
pub(super) fn first_match(text: &str, pattern: &str) -> Result<Value> {
    with(Dialect::Regex, pattern, false, |r| {
        let Some(captures) = r.captures(text) else {
            return Value::Null;
        };
        let group = usize::from(captures.len() > 1);
        match captures.get(group) {
            Some(found) => Value::Text(found.as_str().to_owned()),
            None => Value::Null,
        }
    })
}

fn replace(text: &str, pattern: &str, with_text: &str, flags: &str) -> Result<Value> {
    let (mut all, mut fold) = (false, false);
    for flag in flags.chars() {
        match flag {
            'g' => all = true,
            'i' => fold = true,
            other => {
                return Err(Failure::new(
                    SqlState::InvalidParameterValue,
                    format!("invalid regular expression option: \"{other}\""),
                ));
            }
        }
    }
    // \1 and \& are PostgreSQL's, ${1} and ${0} the library's.
    let mut replacement = String::new();
    let mut chars = with_text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => replacement.push_str("$$"),
            '\\' => match chars.next() {
                Some('&') => replacement.push_str("${0}"),
                Some(d) if d.is_ascii_digit() => replacement.push_str(&format!("${{{d}}}")),
                Some(other) => replacement.push(other),
                None => replacement.push('\\'),
            },
            c => replacement.push(c),
        }
    }
    with(Dialect::Regex, pattern, fold, |r| {
        let done = if all {
            r.replace_all(text, replacement.as_str())
        } else {
            r.replace(text, replacement.as_str())
        };
        Value::Text(done.into_owned())
    })
}

const B: DataType = DataType::Bool;

pub(super) static FUNCTIONS: &[Function] = &[
    row("~~", &[TEXT, TEXT], B, |v| like(v, false), "LIKE"),
    row(
        "~~",
        &[TEXT, TEXT, TEXT],
        B,
        |v| like(v, false),
        "LIKE with an escape character",
    ),
    row("~~*", &[TEXT, TEXT], B, |v| like(v, true), "ILIKE"),
    row(
        "~~*",
        &[TEXT, TEXT, TEXT],
        B,
        |v| like(v, true),
        "ILIKE with an escape character",
    ),
    row(
        "~",
        &[TEXT, TEXT],
        B,
        |v| matches(v, false),
        "matches a regular expression",
    ),
    row(
        "~*",
        &[TEXT, TEXT],
        B,
        |v| matches(v, true),
        "matches a regular expression in any case",
    ),
    row(
        "regexp_replace",
        &[TEXT, TEXT, TEXT],
        TEXT_TYPE,
        |v| arguments!(v, Value::Text(s), Value::Text(p), Value::Text(r) => replace(s, p, r, "")),
        "the first match replaced",
    ),
    row(
        "regexp_replace",
        &[TEXT, TEXT, TEXT, TEXT],
        TEXT_TYPE,
        |v| arguments!(v, Value::Text(s), Value::Text(p), Value::Text(r), Value::Text(f) => replace(s, p, r, f)),
        "matches replaced, with flags",
    ),
];
