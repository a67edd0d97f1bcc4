//! Bytes: parts, bits, and bytes as text. Positions count bytes, from 1 in `substring` and from 0
//! in `get_byte`, as PostgreSQL has it.

use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::string::span;
use super::{BYTEA, Function, INT4, INT8, TEXT, TEXT_TYPE, arguments, row};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Characters in a line of base64 (RFC 2045, section 6.8).
const LINE: usize = 76;

fn bytes(value: Vec<u8>) -> Result<Value> {
    Ok(Value::Bytea(value))
}

fn unknown_encoding(name: &str) -> Failure {
    Failure::new(
        SqlState::InvalidParameterValue,
        format!("unrecognized encoding: \"{name}\""),
    )
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(SqlState::InvalidParameterValue, message.into())
}

fn to_base64(input: &[u8]) -> String {
    let mut out = String::new();
    let mut in_line = 0;
    for chunk in input.chunks(3) {
        let part = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let group = part(0) << 16 | part(1) << 8 | part(2);
        if in_line == LINE {
            out.push('\n');
            in_line = 0;
        }
        for i in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * i) & 63) as usize];
            out.push(if i > chunk.len() {
                '='
            } else {
                char::from(digit)
            });
        }
        in_line += 4;
    }
    out
}

fn from_base64(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let (mut group, mut digits, mut padding) = (0u32, 0, 0);
    for c in text.chars().filter(|c| !c.is_ascii_whitespace()) {
        if c == '=' {
            padding += 1;
            if digits + padding > 4 || digits < 2 {
                return Err(invalid("unexpected \"=\" while decoding base64 sequence"));
            }
            continue;
        }
        let digit = ALPHABET.iter().position(|a| char::from(*a) == c);
        let Some(digit) = digit.filter(|_| padding == 0) else {
            return Err(invalid(format!(
                "invalid symbol \"{c}\" found while decoding base64 sequence"
            )));
        };
        group = group << 6 | digit as u32;
        digits += 1;
        if digits == 4 {
            out.extend_from_slice(&group.to_be_bytes()[1..]);
            (group, digits) = (0, 0);
        }
    }
    if digits + padding == 0 {
        return Ok(out);
    }
    if digits + padding != 4 {
        return Err(invalid("invalid base64 end sequence")
            .with_hint("Input data is missing padding, is truncated, or is otherwise corrupted."));
    }
    let whole = (group << (6 * (4 - digits))).to_be_bytes();
    out.extend_from_slice(&whole[1..digits as usize]);
    Ok(out)
}

/// Zero bytes and those above ASCII as octal, a backslash doubled.
fn to_escape(input: &[u8]) -> String {
    let mut out = String::new();
    for byte in input {
        match byte {
            0 | 128.. => out.push_str(&format!("\\{byte:03o}")),
            b'\\' => out.push_str("\\\\"),
            plain => out.push(char::from(*plain)),
        }
    }
    out
}

fn from_escape(text: &str) -> Result<Vec<u8>> {
    let input = text.as_bytes();
    let bad = || {
        Failure::new(
            SqlState::InvalidTextRepresentation,
            "invalid input syntax for type bytea",
        )
    };
    let mut out = Vec::with_capacity(input.len());
    let mut at = 0;
    while at < input.len() {
        let rest = &input[at..];
        let (byte, used) = match rest {
            [b'\\', b'\\', ..] => (b'\\', 2),
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), 4)
            }
            [b'\\', ..] => return Err(bad()),
            [plain, ..] => (*plain, 1),
            [] => break,
        };
        out.push(byte);
        at += used;
    }
    Ok(out)
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let mut digits = Vec::new();
    for c in text.chars().filter(|c| !c.is_ascii_whitespace()) {
        let digit = c
            .to_digit(16)
            .ok_or_else(|| invalid(format!("invalid hexadecimal digit: \"{c}\"")))?;
        digits.push(digit as u8);
    }
    if digits.len() % 2 == 1 {
        return Err(invalid("invalid hexadecimal data: odd number of digits"));
    }
    Ok(digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect())
}

fn encode(input: &[u8], format: &str) -> Result<Value> {
    Ok(Value::Text(match format.to_lowercase().as_str() {
        "hex" => input.iter().map(|b| format!("{b:02x}")).collect(),
        "base64" => to_base64(input),
        "escape" => to_escape(input),
        _ => return Err(unknown_encoding(format)),
    }))
}

fn decode(text: &str, format: &str) -> Result<Value> {
    match format.to_lowercase().as_str() {
        "hex" => bytes(from_hex(text)?),
        "base64" => bytes(from_base64(text)?),
        "escape" => bytes(from_escape(text)?),
        _ => Err(unknown_encoding(format)),
    }
}

fn substring(input: &[u8], from: i32, count: Option<i32>) -> Result<Value> {
    let (skipped, taken) = span(from, count)?;
    bytes(input.iter().copied().skip(skipped).take(taken).collect())
}

fn overlay(input: &[u8], new: &[u8], from: i32, count: i32) -> Result<Value> {
    if from <= 0 {
        return Err(Failure::new(
            SqlState::SubstringError,
            "negative substring length not allowed",
        ));
    }
    let start = &input[..input.len().min(from as usize - 1)];
    let skip = (i64::from(from) - 1 + i64::from(count)).max(0) as usize;
    bytes([start, new, &input[input.len().min(skip)..]].concat())
}

fn position(input: &[u8], part: &[u8]) -> i32 {
    if part.is_empty() {
        return 1;
    }
    let found = input.windows(part.len()).position(|w| w == part);
    found.map_or(0, |at| at as i32 + 1)
}

/// The place of a byte or bit. 2202E beyond the last.
fn index(n: i64, length: usize) -> Result<usize> {
    let bad = || {
        Failure::new(
            SqlState::ArraySubscriptError,
            format!("index {n} out of valid range, 0..{}", length as i64 - 1),
        )
    };
    let at = usize::try_from(n).map_err(|_| bad())?;
    if at < length { Ok(at) } else { Err(bad()) }
}

fn with_byte(input: &[u8], n: i32, new: i32) -> Result<Value> {
    let at = index(n.into(), input.len())?;
    let mut copy = input.to_vec();
    copy[at] = new as u8;
    bytes(copy)
}

fn bit(input: &[u8], n: i64) -> Result<Value> {
    let at = index(n, input.len() * 8)?;
    Ok(Value::Int4(i32::from(input[at / 8] >> (at % 8) & 1)))
}

fn with_bit(input: &[u8], n: i64, new: i32) -> Result<Value> {
    let at = index(n, input.len() * 8)?;
    if !(0..=1).contains(&new) {
        return Err(invalid("new bit must be 0 or 1"));
    }
    let mut copy = input.to_vec();
    copy[at / 8] = copy[at / 8] & !(1 << (at % 8)) | (new as u8) << (at % 8);
    bytes(copy)
}

fn trimmed(input: &[u8], what: &[u8], start: bool, end: bool) -> Result<Value> {
    let kept = |b: &u8| !what.contains(b);
    let first = match start {
        true => input.iter().position(kept).unwrap_or(input.len()),
        false => 0,
    };
    let last = match end {
        true => input.iter().rposition(kept).map_or(first, |at| at + 1),
        false => input.len(),
    };
    bytes(input[first..last.max(first)].to_vec())
}

const B: DataType = DataType::Bytea;
const I4: DataType = DataType::Int4;

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "encode",
        &[BYTEA, TEXT],
        TEXT_TYPE,
        |v| arguments!(v, Value::Bytea(b), Value::Text(f) => encode(b, f)),
        "bytes as text: hex, base64 or escape",
    ),
    row(
        "decode",
        &[TEXT, TEXT],
        B,
        |v| arguments!(v, Value::Text(s), Value::Text(f) => decode(s, f)),
        "bytes of their text: hex, base64 or escape",
    ),
    row(
        "substring",
        &[BYTEA, INT4],
        B,
        |v| arguments!(v, Value::Bytea(b), Value::Int4(from) => substring(b, *from, None)),
        "from a position on",
    ),
    row(
        "substring",
        &[BYTEA, INT4, INT4],
        B,
        |v| arguments!(v, Value::Bytea(b), Value::Int4(from), Value::Int4(n) => substring(b, *from, Some(*n))),
        "so many bytes from a position on",
    ),
    row(
        "substr",
        &[BYTEA, INT4],
        B,
        |v| arguments!(v, Value::Bytea(b), Value::Int4(from) => substring(b, *from, None)),
        "from a position on",
    ),
    row(
        "substr",
        &[BYTEA, INT4, INT4],
        B,
        |v| arguments!(v, Value::Bytea(b), Value::Int4(from), Value::Int4(n) => substring(b, *from, Some(*n))),
        "so many bytes from a position on",
    ),
    row(
        "overlay",
        &[BYTEA, BYTEA, INT4],
        B,
        |v| arguments!(v, Value::Bytea(b), Value::Bytea(n), Value::Int4(from) => overlay(b, n, *from, n.len() as i32)),
        "a part replaced by position",
    ),
    row(
        "overlay",
        &[BYTEA, BYTEA, INT4, INT4],
        B,
        |v| arguments!(v, Value::Bytea(b), Value::Bytea(n), Value::Int4(from), Value::Int4(count) => overlay(b, n, *from, *count)),
        "a part replaced by position",
    ),
    row(
        "strpos",
        &[BYTEA, BYTEA],
        I4,
        |v| arguments!(v, Value::Bytea(b), Value::Bytea(p) => Ok(Value::Int4(position(b, p)))),
        "position of a part, 0 when there is none",
    ),
    row(
        "btrim",
        &[BYTEA, BYTEA],
        B,
        |v| arguments!(v, Value::Bytea(b), Value::Bytea(w) => trimmed(b, w, true, true)),
        "without these bytes at both ends",
    ),
    row(
        "ltrim",
        &[BYTEA, BYTEA],
        B,
        |v| arguments!(v, Value::Bytea(b), Value::Bytea(w) => trimmed(b, w, true, false)),
        "without these bytes at the start",
    ),
    row(
        "rtrim",
        &[BYTEA, BYTEA],
        B,
        |v| arguments!(v, Value::Bytea(b), Value::Bytea(w) => trimmed(b, w, false, true)),
        "without these bytes at the end",
    ),
    row(
        "bit_length",
        &[BYTEA],
        I4,
        |v| arguments!(v, Value::Bytea(b) => Ok(Value::Int4(b.len() as i32 * 8))),
        "number of bits",
    ),
    row(
        "bit_count",
        &[BYTEA],
        DataType::Int8,
        |v| arguments!(v, Value::Bytea(b) => Ok(Value::Int8(b.iter().map(|b| i64::from(b.count_ones())).sum()))),
        "number of bits that are set",
    ),
    row(
        "get_byte",
        &[BYTEA, INT4],
        I4,
        |v| arguments!(v, Value::Bytea(b), Value::Int4(n) => index((*n).into(), b.len()).map(|at| Value::Int4(b[at].into()))),
        "a byte by its place, from 0",
    ),
    row(
        "set_byte",
        &[BYTEA, INT4, INT4],
        B,
        |v| arguments!(v, Value::Bytea(b), Value::Int4(n), Value::Int4(new) => with_byte(b, *n, *new)),
        "with another byte at a place",
    ),
    row(
        "get_bit",
        &[BYTEA, INT8],
        I4,
        |v| arguments!(v, Value::Bytea(b), Value::Int8(n) => bit(b, *n)),
        "a bit by its place, from 0",
    ),
    row(
        "set_bit",
        &[BYTEA, INT8, INT4],
        B,
        |v| arguments!(v, Value::Bytea(b), Value::Int8(n), Value::Int4(new) => with_bit(b, *n, *new)),
        "with another bit at a place",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(to_base64(plain.as_bytes()), coded);
            assert_eq!(from_base64(coded).expect("base64"), plain.as_bytes());
        }
        assert!(from_base64("Zg").is_err());
        assert!(from_base64("Z===").is_err());
        assert!(from_base64("Zm9v!").is_err());
    }

    #[test]
    fn escapes_go_there_and_back() {
        let input: Vec<u8> = (0..=255).collect();
        assert_eq!(from_escape(&to_escape(&input)).expect("escape"), input);
        assert_eq!(from_hex("00 fF").expect("hex"), [0, 255]);
        assert!(from_hex("0").is_err());
        assert!(from_escape("\\9").is_err());
    }

    #[test]
    fn bits_count_from_the_low_end_of_each_byte() {
        assert_eq!(bit(&[2], 1).expect("in range"), Value::Int4(1));
        assert!(bit(&[2], 8).is_err());
        let set = with_bit(&[0, 0], 8, 1).expect("in range");
        assert_eq!(set, Value::Bytea(vec![0, 1]));
    }
}
