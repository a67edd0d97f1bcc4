//! Text. Lengths and positions count characters.

use nodedb_types::{DataType, Failure, Result, SqlState, Value, limits};

use super::{Argument, BYTEA, Function, INT4, INT8, TEXT, TEXT_TYPE, arguments, row};

fn text(s: impl Into<String>) -> Result<Value> {
    Ok(Value::Text(s.into()))
}

pub(super) fn shown(value: &Value) -> String {
    let mut out = String::new();
    nodedb_types::text::format(value, &mut out);
    out
}

/// The text of a value as a cast to text gives it, and not its output form: a bool is a word.
pub(super) fn as_text(value: &Value) -> String {
    match value {
        Value::Text(s) => s.clone(),
        Value::Bool(b) => if *b { "true" } else { "false" }.to_owned(),
        other => shown(other),
    }
}

/// `substring(s, from, count)`: positions before the first character use the count up.
fn substring(s: &str, from: i32, count: Option<i32>) -> Result<Value> {
    let (skipped, taken) = span(from, count)?;
    text(s.chars().skip(skipped).take(taken).collect::<String>())
}

/// How many are left out and how many taken by `substring`.
pub(super) fn span(from: i32, count: Option<i32>) -> Result<(usize, usize)> {
    let start = i64::from(from);
    let end = match count {
        Some(count) if count < 0 => {
            return Err(Failure::new(
                SqlState::SubstringError,
                "negative substring length not allowed",
            ));
        }
        Some(count) => start + i64::from(count),
        None => i64::MAX,
    };
    let first = start.max(1) - 1;
    let length = (end - 1 - first).max(0);
    Ok((
        first as usize,
        usize::try_from(length).unwrap_or(usize::MAX),
    ))
}

/// `left` and `right`: a negative count leaves that many out at the other end.
fn kept(count: i32, length: usize) -> usize {
    if count >= 0 {
        (count as usize).min(length)
    } else {
        length.saturating_sub(count.unsigned_abs() as usize)
    }
}

fn pad(s: &str, length: i32, fill: &str, left: bool) -> Result<Value> {
    let length = usize::try_from(length).unwrap_or(0);
    check_size(length)?;
    let have = s.chars().count();
    if have >= length {
        return text(s.chars().take(length).collect::<String>());
    }
    let padding: String = fill
        .chars()
        .cycle()
        .take(if fill.is_empty() { 0 } else { length - have })
        .collect();
    text(if left {
        padding + s
    } else {
        s.to_owned() + &padding
    })
}

fn check_size(bytes: usize) -> Result<()> {
    if bytes > limits::STATEMENT_BYTES_MAX {
        return Err(Failure::new(
            SqlState::ProgramLimitExceeded,
            "requested length too large",
        ));
    }
    Ok(())
}

fn split_part(s: &str, separator: &str, n: i32) -> Result<Value> {
    if n == 0 {
        return Err(Failure::new(
            SqlState::InvalidParameterValue,
            "field position must not be zero",
        ));
    }
    let parts: Vec<&str> = if separator.is_empty() {
        vec![s]
    } else {
        s.split(separator).collect()
    };
    let index = if n > 0 {
        n as usize - 1
    } else {
        match parts.len().checked_sub(n.unsigned_abs() as usize) {
            Some(index) => index,
            None => return text(""),
        }
    };
    text(parts.get(index).copied().unwrap_or(""))
}

fn initcap(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut inside = false;
    for c in s.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric();
    }
    out
}

fn translate(s: &str, from: &str, to: &str) -> String {
    let to: Vec<char> = to.chars().collect();
    s.chars()
        .filter_map(|c| match from.chars().position(|f| f == c) {
            Some(i) => to.get(i).copied(),
            None => Some(c),
        })
        .collect()
}

fn concat(values: &[Value]) -> Result<Value> {
    text(
        values
            .iter()
            .filter(|v| !v.is_null())
            .map(shown)
            .collect::<String>(),
    )
}

fn concat_ws(values: &[Value]) -> Result<Value> {
    match values {
        [Value::Text(separator), rest @ ..] => {
            let parts: Vec<String> = rest.iter().filter(|v| !v.is_null()).map(shown).collect();
            text(parts.join(separator))
        }
        _ => Ok(Value::Null),
    }
}

/// MD5 (RFC 1321), kept for compatibility; it protects nothing.
fn md5(input: &[u8]) -> String {
    const SHIFT: [u32; 16] = [7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21];
    let mut message = input.to_vec();
    let bits = (input.len() as u64).wrapping_mul(8);
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend(bits.to_le_bytes());
    let mut state: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in message.chunks_exact(64) {
        let words: Vec<u32> = block
            .chunks_exact(4)
            .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
            .collect();
        let [mut a, mut b, mut c, mut d] = state;
        for i in 0..64usize {
            let (f, g) = match i / 16 {
                0 => ((b & c) | (!b & d), i),
                1 => ((d & b) | (!d & c), (5 * i + 1) % 16),
                2 => (b ^ c ^ d, (3 * i + 5) % 16),
                _ => (c ^ (b | !d), (7 * i) % 16),
            };
            let constant = (((i + 1) as f64).sin().abs() * 4_294_967_296.0) as u32;
            let mixed = a
                .wrapping_add(f)
                .wrapping_add(constant)
                .wrapping_add(words[g]);
            let turn = SHIFT[i / 16 * 4 + i % 4];
            (a, d, c, b) = (d, c, b, b.wrapping_add(mixed.rotate_left(turn)));
        }
        for (s, x) in state.iter_mut().zip([a, b, c, d]) {
            *s = s.wrapping_add(x);
        }
    }
    state
        .iter()
        .flat_map(|s| s.to_le_bytes())
        .map(|b| format!("{b:02x}"))
        .collect()
}

const T: DataType = TEXT_TYPE;
const I4: DataType = DataType::Int4;

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "||",
        &[TEXT, TEXT],
        T,
        |v| arguments!(v, Value::Text(a), Value::Text(b) => text(format!("{a}{b}"))),
        "concatenation",
    ),
    row(
        "||",
        &[TEXT, Argument::Any],
        T,
        |v| arguments!(v, Value::Text(a), b => text(format!("{a}{}", as_text(b)))),
        "concatenation with a value's text",
    ),
    row(
        "||",
        &[Argument::Any, TEXT],
        T,
        |v| arguments!(v, a, Value::Text(b) => text(format!("{}{b}", as_text(a)))),
        "concatenation with a value's text",
    ),
    row(
        "||",
        &[BYTEA, BYTEA],
        DataType::Bytea,
        |v| arguments!(v, Value::Bytea(a), Value::Bytea(b) => Ok(Value::Bytea([a.as_slice(), b].concat()))),
        "concatenation",
    ),
    row(
        "lower",
        &[TEXT],
        T,
        |v| arguments!(v, Value::Text(s) => text(s.to_lowercase())),
        "in lower case",
    ),
    row(
        "upper",
        &[TEXT],
        T,
        |v| arguments!(v, Value::Text(s) => text(s.to_uppercase())),
        "in upper case",
    ),
    row(
        "initcap",
        &[TEXT],
        T,
        |v| arguments!(v, Value::Text(s) => text(initcap(s))),
        "each word's first letter in upper case",
    ),
    row(
        "length",
        &[TEXT],
        I4,
        |v| arguments!(v, Value::Text(s) => Ok(Value::Int4(s.chars().count() as i32))),
        "number of characters",
    ),
    row(
        "length",
        &[BYTEA],
        I4,
        |v| arguments!(v, Value::Bytea(s) => Ok(Value::Int4(s.len() as i32))),
        "number of bytes",
    ),
    row(
        "char_length",
        &[TEXT],
        I4,
        |v| arguments!(v, Value::Text(s) => Ok(Value::Int4(s.chars().count() as i32))),
        "number of characters",
    ),
    row(
        "character_length",
        &[TEXT],
        I4,
        |v| arguments!(v, Value::Text(s) => Ok(Value::Int4(s.chars().count() as i32))),
        "number of characters",
    ),
    row(
        "octet_length",
        &[TEXT],
        I4,
        |v| arguments!(v, Value::Text(s) => Ok(Value::Int4(s.len() as i32))),
        "number of bytes",
    ),
    row(
        "bit_length",
        &[TEXT],
        I4,
        |v| arguments!(v, Value::Text(s) => Ok(Value::Int4(s.len() as i32 * 8))),
        "number of bits",
    ),
    row(
        "octet_length",
        &[BYTEA],
        I4,
        |v| arguments!(v, Value::Bytea(s) => Ok(Value::Int4(s.len() as i32))),
        "number of bytes",
    ),
    row(
        "substring",
        &[TEXT, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Int4(from) => substring(s, *from, None)),
        "from a position on",
    ),
    row(
        "substring",
        &[TEXT, INT4, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Int4(from), Value::Int4(n) => substring(s, *from, Some(*n))),
        "so many characters from a position on",
    ),
    row(
        "substring",
        &[TEXT, TEXT],
        T,
        |v| arguments!(v, Value::Text(s), Value::Text(p) => super::pattern::first_match(s, p)),
        "what a regular expression matches first",
    ),
    row(
        "substr",
        &[TEXT, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Int4(from) => substring(s, *from, None)),
        "from a position on",
    ),
    row(
        "substr",
        &[TEXT, INT4, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Int4(from), Value::Int4(n) => substring(s, *from, Some(*n))),
        "so many characters from a position on",
    ),
    row(
        "left",
        &[TEXT, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Int4(n) => text(s.chars().take(kept(*n, s.chars().count())).collect::<String>())),
        "the first characters",
    ),
    row(
        "right",
        &[TEXT, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Int4(n) => { let all = s.chars().count(); text(s.chars().skip(all - kept(*n, all)).collect::<String>()) }),
        "the last characters",
    ),
    row(
        "lpad",
        &[TEXT, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Int4(n) => pad(s, *n, " ", true)),
        "filled up on the left",
    ),
    row(
        "lpad",
        &[TEXT, INT4, TEXT],
        T,
        |v| arguments!(v, Value::Text(s), Value::Int4(n), Value::Text(f) => pad(s, *n, f, true)),
        "filled up on the left",
    ),
    row(
        "rpad",
        &[TEXT, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Int4(n) => pad(s, *n, " ", false)),
        "filled up on the right",
    ),
    row(
        "rpad",
        &[TEXT, INT4, TEXT],
        T,
        |v| arguments!(v, Value::Text(s), Value::Int4(n), Value::Text(f) => pad(s, *n, f, false)),
        "filled up on the right",
    ),
    row(
        "btrim",
        &[TEXT],
        T,
        |v| arguments!(v, Value::Text(s) => text(s.trim_matches(' '))),
        "without blanks at both ends",
    ),
    row(
        "btrim",
        &[TEXT, TEXT],
        T,
        |v| arguments!(v, Value::Text(s), Value::Text(c) => text(s.trim_matches(|x| c.contains(x)))),
        "without these characters at both ends",
    ),
    row(
        "ltrim",
        &[TEXT],
        T,
        |v| arguments!(v, Value::Text(s) => text(s.trim_start_matches(' '))),
        "without blanks at the start",
    ),
    row(
        "ltrim",
        &[TEXT, TEXT],
        T,
        |v| arguments!(v, Value::Text(s), Value::Text(c) => text(s.trim_start_matches(|x| c.contains(x)))),
        "without these characters at the start",
    ),
    row(
        "rtrim",
        &[TEXT],
        T,
        |v| arguments!(v, Value::Text(s) => text(s.trim_end_matches(' '))),
        "without blanks at the end",
    ),
    row(
        "rtrim",
        &[TEXT, TEXT],
        T,
        |v| arguments!(v, Value::Text(s), Value::Text(c) => text(s.trim_end_matches(|x| c.contains(x)))),
        "without these characters at the end",
    ),
    row(
        "strpos",
        &[TEXT, TEXT],
        I4,
        |v| arguments!(v, Value::Text(s), Value::Text(p) => Ok(Value::Int4(s.find(p.as_str()).map_or(0, |at| s[..at].chars().count() as i32 + 1)))),
        "position of a part, 0 when there is none",
    ),
    row(
        "replace",
        &[TEXT, TEXT, TEXT],
        T,
        |v| arguments!(v, Value::Text(s), Value::Text(a), Value::Text(b) => text(if a.is_empty() { s.clone() } else { s.replace(a.as_str(), b) })),
        "every part replaced",
    ),
    row(
        "translate",
        &[TEXT, TEXT, TEXT],
        T,
        |v| arguments!(v, Value::Text(s), Value::Text(a), Value::Text(b) => text(translate(s, a, b))),
        "characters replaced one by one",
    ),
    row(
        "overlay",
        &[TEXT, TEXT, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Text(n), Value::Int4(from) => overlay(s, n, *from, n.chars().count() as i32)),
        "a part replaced by position",
    ),
    row(
        "overlay",
        &[TEXT, TEXT, INT4, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Text(n), Value::Int4(from), Value::Int4(count) => overlay(s, n, *from, *count)),
        "a part replaced by position",
    ),
    row(
        "split_part",
        &[TEXT, TEXT, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Text(d), Value::Int4(n) => split_part(s, d, *n)),
        "the n-th part between separators",
    ),
    row(
        "repeat",
        &[TEXT, INT4],
        T,
        |v| arguments!(v, Value::Text(s), Value::Int4(n) => { let n = (*n).max(0) as usize; check_size(n.saturating_mul(s.len()))?; text(s.repeat(n)) }),
        "repeated",
    ),
    row(
        "reverse",
        &[TEXT],
        T,
        |v| arguments!(v, Value::Text(s) => text(s.chars().rev().collect::<String>())),
        "backwards",
    ),
    row(
        "starts_with",
        &[TEXT, TEXT],
        DataType::Bool,
        |v| arguments!(v, Value::Text(s), Value::Text(p) => Ok(Value::Bool(s.starts_with(p.as_str())))),
        "begins so",
    ),
    row(
        "^@",
        &[TEXT, TEXT],
        DataType::Bool,
        |v| arguments!(v, Value::Text(s), Value::Text(p) => Ok(Value::Bool(s.starts_with(p.as_str())))),
        "begins so",
    ),
    row(
        "ascii",
        &[TEXT],
        I4,
        |v| arguments!(v, Value::Text(s) => Ok(Value::Int4(s.chars().next().map_or(0, |c| c as i32)))),
        "code point of the first character",
    ),
    row(
        "chr",
        &[INT4],
        T,
        |v| arguments!(v, Value::Int4(n) => character(*n)),
        "the character of a code point",
    ),
    row(
        "md5",
        &[TEXT],
        T,
        |v| arguments!(v, Value::Text(s) => text(md5(s.as_bytes()))),
        "MD5 as hexadecimal digits",
    ),
    row(
        "md5",
        &[BYTEA],
        T,
        |v| arguments!(v, Value::Bytea(s) => text(md5(s))),
        "MD5 as hexadecimal digits",
    ),
    row(
        "to_hex",
        &[INT4],
        T,
        |v| arguments!(v, Value::Int4(n) => text(format!("{n:x}"))),
        "hexadecimal digits",
    ),
    row(
        "to_hex",
        &[INT8],
        T,
        |v| arguments!(v, Value::Int8(n) => text(format!("{n:x}"))),
        "hexadecimal digits",
    ),
    row(
        "concat",
        &[Argument::Any],
        T,
        concat,
        "values' texts, NULLs left out",
    )
    .variadic()
    .sees_null(),
    row(
        "concat_ws",
        &[TEXT, Argument::Any],
        T,
        concat_ws,
        "values' texts with a separator, NULLs left out",
    )
    .variadic()
    .sees_null(),
];

fn character(code: i32) -> Result<Value> {
    let refused = |what: &str| Err(Failure::new(SqlState::ProgramLimitExceeded, what));
    match u32::try_from(code) {
        Ok(0) => refused("null character not permitted"),
        Err(_) => Err(Failure::new(
            SqlState::InvalidParameterValue,
            "character number must be positive",
        )),
        Ok(code) if code > 0x10_ffff => refused(&format!(
            "requested character too large for encoding: {code}"
        )),
        Ok(code) => match char::from_u32(code) {
            Some(c) => text(c),
            None => refused("requested character not valid for encoding: surrogate"),
        },
    }
}

fn overlay(s: &str, new: &str, from: i32, count: i32) -> Result<Value> {
    if from <= 0 {
        return Err(Failure::new(
            SqlState::SubstringError,
            "negative substring length not allowed",
        ));
    }
    let start: String = s.chars().take(from as usize - 1).collect();
    let skip = (i64::from(from) - 1 + i64::from(count)).max(0) as usize;
    let end: String = s.chars().skip(skip).collect();
    text(start + new + &end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_of_rfc_1321() {
        assert_eq!(md5(b""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(md5(b"message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
        let long =
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890";
        assert_eq!(md5(long.as_bytes()), "57edf4a22be3c955ac49da2e2107b67a");
    }

    #[test]
    fn substrings_count_as_postgres_does() {
        let sub = |from, count| substring("hällo", from, count).unwrap();
        assert_eq!(sub(2, Some(3)), Value::Text("äll".into()));
        assert_eq!(sub(-1, Some(3)), Value::Text("h".into()));
        assert_eq!(sub(0, None), Value::Text("hällo".into()));
        assert!(substring("x", 1, Some(-1)).is_err());
        assert_eq!(
            split_part("a,b,c", ",", -1).unwrap(),
            Value::Text("c".into())
        );
    }
}
