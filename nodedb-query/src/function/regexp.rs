//! `regexp_*` functions and SQL's own patterns (SIMILAR TO), which become regular expressions.
//!
//! Positions count characters from 1. A flag that changes what a regular expression means and that
//! the library has no word for is refused.

use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use regex::Regex;

use super::pattern::{escape_of, with_regex};
use super::{Function, INT4, TEXT, TEXT_TYPE, row};

/// What flags say; `g` only where all matches may be asked for.
struct Flags {
    fold: bool,
    prefix: &'static str,
}

fn flags_of(flags: &str) -> Result<Flags> {
    let mut parsed = Flags {
        fold: false,
        prefix: "",
    };
    for flag in flags.chars() {
        match flag {
            'i' => parsed.fold = true,
            'c' => parsed.fold = false,
            's' => parsed.prefix = "",
            // Dots stop at line ends, ^ and $ match there.
            'n' | 'm' => parsed.prefix = "(?m-s)",
            'p' => parsed.prefix = "(?-s)",
            'w' => parsed.prefix = "(?m)",
            'x' => parsed.prefix = "(?x)",
            other => {
                return Err(Failure::new(
                    SqlState::InvalidParameterValue,
                    format!("invalid regular expression option: \"{other}\""),
                ));
            }
        }
    }
    Ok(parsed)
}

fn with<T>(pattern: &str, flags: &str, f: impl FnOnce(&Regex) -> T) -> Result<T> {
    let flags = flags_of(flags)?;
    match flags.prefix {
        "" => with_regex(pattern, flags.fold, f),
        prefix => with_regex(&format!("{prefix}{pattern}"), flags.fold, f),
    }
}

fn positive(n: i32, what: &str) -> Result<usize> {
    match usize::try_from(n) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(Failure::new(
            SqlState::InvalidParameterValue,
            format!("invalid value for parameter \"{what}\": {n}"),
        )),
    }
}

fn not_negative(n: i32, what: &str) -> Result<usize> {
    usize::try_from(n).map_err(|_| {
        Failure::new(
            SqlState::InvalidParameterValue,
            format!("invalid value for parameter \"{what}\": {n}"),
        )
    })
}

/// The byte where a character position begins; the end when it lies behind.
fn byte_at(text: &str, position: usize) -> usize {
    text.char_indices()
        .nth(position - 1)
        .map_or(text.len(), |(at, _)| at)
}

/// Start, end in bytes of match number `number` from a position on, or of its group.
fn find(
    text: &str,
    from: usize,
    number: usize,
    group: usize,
    regex: &Regex,
) -> Option<(usize, usize)> {
    let captures = regex
        .captures_iter(text)
        .filter(|c| c.get(0).is_some_and(|m| m.start() >= from))
        .nth(number - 1)?;
    captures.get(group).map(|m| (m.start(), m.end()))
}

/// Arguments that may be left out, with what they are then.
struct Place<'v> {
    text: &'v str,
    pattern: &'v str,
    start: usize,
    number: usize,
    rest: &'v [Value],
}

fn place(values: &[Value]) -> Result<Place<'_>> {
    let [Value::Text(text), Value::Text(pattern), rest @ ..] = values else {
        return Err(super::wrong_arguments(values));
    };
    let number = |at: usize, what: &str| match rest.get(at) {
        Some(Value::Int4(n)) => positive(*n, what),
        None => Ok(1),
        Some(_) => Err(super::wrong_arguments(values)),
    };
    Ok(Place {
        text,
        pattern,
        start: number(0, "start")?,
        number: number(1, "n")?,
        rest,
    })
}

fn text_at(rest: &[Value], at: usize) -> &str {
    match rest.get(at) {
        Some(Value::Text(text)) => text,
        _ => "",
    }
}

fn count(values: &[Value]) -> Result<Value> {
    let [Value::Text(text), Value::Text(pattern), rest @ ..] = values else {
        return Err(super::wrong_arguments(values));
    };
    let start = match rest.first() {
        Some(Value::Int4(n)) => positive(*n, "start")?,
        _ => 1,
    };
    let from = byte_at(text, start);
    with(pattern, text_at(rest, 1), |r| {
        let found = r.find_iter(text).filter(|m| m.start() >= from).count();
        Value::Int4(i32::try_from(found).unwrap_or(i32::MAX))
    })
}

fn is_like(values: &[Value]) -> Result<Value> {
    let [Value::Text(text), Value::Text(pattern), rest @ ..] = values else {
        return Err(super::wrong_arguments(values));
    };
    with(pattern, text_at(rest, 0), |r| Value::Bool(r.is_match(text)))
}

fn group_of(rest: &[Value], at: usize) -> Result<usize> {
    match rest.get(at) {
        Some(Value::Int4(n)) => not_negative(*n, "subexpr"),
        _ => Ok(0),
    }
}

/// `regexp_substr(text, pattern [, start [, n [, flags [, group]]]])`.
fn substr(values: &[Value]) -> Result<Value> {
    let at = place(values)?;
    let group = group_of(at.rest, 3)?;
    let from = byte_at(at.text, at.start);
    with(at.pattern, text_at(at.rest, 2), |r| {
        find(at.text, from, at.number, group, r).map_or(Value::Null, |(start, end)| {
            Value::Text(at.text[start..end].to_owned())
        })
    })
}

/// `regexp_instr(text, pattern [, start [, n [, end [, flags [, group]]]]])`.
fn instr(values: &[Value]) -> Result<Value> {
    let at = place(values)?;
    let past = match at.rest.get(2) {
        None | Some(Value::Int4(0)) => false,
        Some(Value::Int4(1)) => true,
        Some(Value::Int4(n)) => {
            return Err(Failure::new(
                SqlState::InvalidParameterValue,
                format!("invalid value for parameter \"endoption\": {n}"),
            ));
        }
        Some(_) => return Err(super::wrong_arguments(values)),
    };
    let group = group_of(at.rest, 4)?;
    let from = byte_at(at.text, at.start);
    with(at.pattern, text_at(at.rest, 3), |r| {
        let found = find(at.text, from, at.number, group, r);
        let position = found.map_or(0, |(start, end)| {
            let byte = if past { end } else { start };
            at.text[..byte].chars().count() + 1
        });
        Value::Int4(i32::try_from(position).unwrap_or(i32::MAX))
    })
}

/// `regexp_split_to_table(text, pattern [, flags])`. A match of nothing splits between characters,
/// but not before the first or behind the last.
pub(super) fn split(values: &[Value]) -> Result<Vec<Value>> {
    let [Value::Text(text), Value::Text(pattern), rest @ ..] = values else {
        return Err(super::wrong_arguments(values));
    };
    with(pattern, text_at(rest, 0), |r| {
        let mut parts = Vec::new();
        let mut from = 0;
        for found in r.find_iter(text) {
            let is_empty = found.start() == found.end();
            if is_empty && (found.start() == from || found.start() == text.len()) {
                continue;
            }
            parts.push(Value::Text(text[from..found.start()].to_owned()));
            from = found.end();
        }
        parts.push(Value::Text(text[from..].to_owned()));
        parts
    })
}

fn bad_escape() -> Failure {
    Failure::new(SqlState::InvalidEscape, "invalid escape string")
        .with_hint("Escape string must be empty or one character.")
}

/// A pattern of SIMILAR TO as a regular expression over the whole text. Two separators (the escape
/// character and a double quote) cut it into three parts, of which the middle one is the result of
/// `substring`: it becomes the only group that captures.
fn similar(pattern: &str, escape: char) -> Result<String> {
    let mut source = String::from("^(?:");
    let mut separators = 0;
    let mut in_class = false;
    let mut chars = pattern.chars().peekable();
    let mut buffer = [0u8; 4];
    while let Some(c) = chars.next() {
        if c == escape && escape != '\0' {
            let Some(next) = chars.next() else {
                return Err(bad_escape());
            };
            if next == '"' && !in_class {
                separators += 1;
                match separators {
                    // What stands before matches as little as it can.
                    1 => source.push_str("){1,1}?("),
                    2 => source.push_str("){1,1}(?:"),
                    _ => {
                        return Err(Failure::new(
                            SqlState::InvalidUseOfEscape,
                            "SQL regular expression may not contain more than two escape-double-quote separators",
                        ));
                    }
                }
            } else {
                source.push_str(&regex::escape(next.encode_utf8(&mut buffer)));
            }
            continue;
        }
        match c {
            _ if in_class => {
                in_class = c != ']';
                if c == '\\' {
                    source.push('\\');
                }
                source.push(c);
            }
            '[' => {
                in_class = true;
                source.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    source.push('^');
                }
            }
            '%' => source.push_str(".*"),
            '_' => source.push('.'),
            // A group of the pattern captures nothing.
            '(' => source.push_str("(?:"),
            '\\' | '.' | '^' | '$' => {
                source.push('\\');
                source.push(c);
            }
            c => source.push(c),
        }
    }
    source.push_str(")$");
    Ok(source)
}

fn similar_to_escape(values: &[Value]) -> Result<Value> {
    let source = match values {
        [Value::Text(pattern)] => similar(pattern, '\\')?,
        [Value::Text(pattern), Value::Text(escape)] => similar(pattern, escape_of(escape)?)?,
        other => return Err(super::wrong_arguments(other)),
    };
    Ok(Value::Text(source))
}

/// `substring(text FROM pattern FOR escape)`.
fn similar_substring(values: &[Value]) -> Result<Value> {
    let [Value::Text(text), Value::Text(pattern), Value::Text(escape)] = values else {
        return Err(super::wrong_arguments(values));
    };
    let source = similar(pattern, escape_of(escape)?)?;
    super::pattern::first_match(text, &source)
}

const B: DataType = DataType::Bool;
const I: DataType = DataType::Int4;

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "similar_to_escape",
        &[TEXT],
        TEXT_TYPE,
        similar_to_escape,
        "a pattern of SIMILAR TO as a regular expression",
    ),
    row(
        "similar_to_escape",
        &[TEXT, TEXT],
        TEXT_TYPE,
        similar_to_escape,
        "a pattern of SIMILAR TO with its escape character as a regular expression",
    ),
    row(
        "substring",
        &[TEXT, TEXT, TEXT],
        TEXT_TYPE,
        similar_substring,
        "the part that a pattern of SIMILAR TO marks",
    ),
    row(
        "regexp_like",
        &[TEXT, TEXT],
        B,
        is_like,
        "matches a regular expression",
    ),
    row(
        "regexp_like",
        &[TEXT, TEXT, TEXT],
        B,
        is_like,
        "matches a regular expression, with flags",
    ),
    row("regexp_count", &[TEXT, TEXT], I, count, "number of matches"),
    row(
        "regexp_count",
        &[TEXT, TEXT, INT4],
        I,
        count,
        "number of matches from a position on",
    ),
    row(
        "regexp_count",
        &[TEXT, TEXT, INT4, TEXT],
        I,
        count,
        "number of matches, with flags",
    ),
    row(
        "regexp_substr",
        &[TEXT, TEXT],
        TEXT_TYPE,
        substr,
        "the first match",
    ),
    row(
        "regexp_substr",
        &[TEXT, TEXT, INT4],
        TEXT_TYPE,
        substr,
        "the first match from a position on",
    ),
    row(
        "regexp_substr",
        &[TEXT, TEXT, INT4, INT4],
        TEXT_TYPE,
        substr,
        "a match by number",
    ),
    row(
        "regexp_substr",
        &[TEXT, TEXT, INT4, INT4, TEXT],
        TEXT_TYPE,
        substr,
        "a match by number, with flags",
    ),
    row(
        "regexp_substr",
        &[TEXT, TEXT, INT4, INT4, TEXT, INT4],
        TEXT_TYPE,
        substr,
        "a group of a match by number",
    ),
    row(
        "regexp_instr",
        &[TEXT, TEXT],
        I,
        instr,
        "where the first match begins",
    ),
    row(
        "regexp_instr",
        &[TEXT, TEXT, INT4],
        I,
        instr,
        "where the first match from a position on begins",
    ),
    row(
        "regexp_instr",
        &[TEXT, TEXT, INT4, INT4],
        I,
        instr,
        "where a match by number begins",
    ),
    row(
        "regexp_instr",
        &[TEXT, TEXT, INT4, INT4, INT4],
        I,
        instr,
        "where a match begins (0) or what follows it (1)",
    ),
    row(
        "regexp_instr",
        &[TEXT, TEXT, INT4, INT4, INT4, TEXT],
        I,
        instr,
        "where a match begins or ends, with flags",
    ),
    row(
        "regexp_instr",
        &[TEXT, TEXT, INT4, INT4, INT4, TEXT, INT4],
        I,
        instr,
        "where a group of a match begins or ends",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_patterns_become_anchored_regular_expressions() {
        assert_eq!(similar("a_c%", '\\').unwrap(), "^(?:a.c.*)$");
        assert_eq!(similar("a.c", '\\').unwrap(), r"^(?:a\.c)$");
        assert_eq!(similar("(b|c)%", '\\').unwrap(), "^(?:(?:b|c).*)$");
        assert_eq!(similar("[^_%]", '\\').unwrap(), "^(?:[^_%])$");
        assert_eq!(similar("a#%b", '#').unwrap(), "^(?:a%b)$");
        assert!(similar("a#", '#').is_err());
    }

    #[test]
    fn separators_mark_the_part_that_substring_gives() {
        let part = |text: &str, pattern: &str| {
            let texts = [text, pattern, "#"].map(|s| Value::Text(s.to_owned()));
            similar_substring(&texts).unwrap()
        };
        assert_eq!(
            part("abcdefg", "a#\"(b_d)#\"%"),
            Value::Text("bcd".to_owned())
        );
        assert_eq!(part("abcdefg", "#\"(b_d)#\"%"), Value::Null);
        assert_eq!(
            part("abcdefg", "a#\"%#\"g"),
            Value::Text("bcdef".to_owned())
        );
    }
}
