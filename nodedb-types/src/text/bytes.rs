//! Text of bytea and uuid.

use crate::failure::{Failure, Result};
use crate::sqlstate::SqlState;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn push_hex(bytes: &[u8], out: &mut String) {
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|v| v as u8)
}

/// Appends `\x` and two digits per byte.
pub(super) fn format_bytea(bytes: &[u8], out: &mut String) {
    out.push_str("\\x");
    push_hex(bytes, out);
}

/// `\x` and hexadecimal digits with blanks between pairs, or the escape form (`\\` and `\ooo`).
pub(super) fn parse_bytea(text: &str) -> Result<Vec<u8>> {
    match text.strip_prefix("\\x") {
        Some(digits) => parse_hex(digits),
        None => parse_escaped(text),
    }
}

fn parse_hex(digits: &str) -> Result<Vec<u8>> {
    let bad = |message: String| Failure::new(SqlState::InvalidParameterValue, message);
    let mut out = Vec::with_capacity(digits.len() / 2);
    let mut chars = digits.chars();
    while let Some(first) = chars.next() {
        if matches!(first, ' ' | '\n' | '\t' | '\r') {
            continue;
        }
        let value = |c: char| {
            let digit = c.is_ascii().then(|| nibble(c as u8)).flatten();
            digit.ok_or_else(|| bad(format!("invalid hexadecimal digit: \"{c}\"")))
        };
        let high = value(first)?;
        let Some(second) = chars.next() else {
            return Err(bad(
                "invalid hexadecimal data: odd number of digits".to_string()
            ));
        };
        out.push(high << 4 | value(second)?);
    }
    Ok(out)
}

fn parse_escaped(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return Ok(out),
            [b'\\', b'\\', rest @ ..] => {
                out.push(b'\\');
                rest
            }
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                rest @ ..,
            ] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest
            }
            [b'\\', ..] => {
                let message = "invalid input syntax for type bytea";
                return Err(Failure::new(SqlState::InvalidTextRepresentation, message));
            }
            [byte, rest @ ..] => {
                out.push(*byte);
                rest
            }
        }
    }
}

/// Appends the form with hyphens, in lower case.
pub(super) fn format_uuid(uuid: &[u8; 16], out: &mut String) {
    for (at, part) in [(0, 4), (4, 6), (6, 8), (8, 10), (10, 16)] {
        if at > 0 {
            out.push('-');
        }
        push_hex(&uuid[at..part], out);
    }
}

/// 32 digits in any case, a hyphen allowed after each group of four, braces allowed around.
pub(super) fn parse_uuid(text: &str) -> Result<[u8; 16]> {
    read_uuid(text.as_bytes()).ok_or_else(|| super::invalid("uuid", text))
}

fn read_uuid(text: &[u8]) -> Option<[u8; 16]> {
    let mut rest = match text {
        [b'{', inner @ .., b'}'] => inner,
        _ => text,
    };
    let mut uuid = [0; 16];
    for (at, byte) in uuid.iter_mut().enumerate() {
        let [high, low, behind @ ..] = rest else {
            return None;
        };
        *byte = nibble(*high)? << 4 | nibble(*low)?;
        rest = match behind {
            [b'-', behind @ ..] if at % 2 == 1 && at < 15 => behind,
            _ => behind,
        };
    }
    rest.is_empty().then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytea_has_two_input_forms() {
        assert_eq!(
            parse_bytea("\\xDE ad\nbe EF").unwrap(),
            [0xde, 0xad, 0xbe, 0xef]
        );
        assert_eq!(parse_bytea("a\\\\b\\000\\377").unwrap(), b"a\\b\0\xff");
        assert_eq!(parse_bytea("").unwrap(), b"");
        let mut out = String::new();
        format_bytea(&[0, 255], &mut out);
        assert_eq!(out, "\\x00ff");
        for (text, error) in [
            (
                "\\xabc",
                "invalid hexadecimal data: odd number of digits (22023)",
            ),
            ("\\xzz", "invalid hexadecimal digit: \"z\" (22023)"),
            ("\\xaü", "invalid hexadecimal digit: \"ü\" (22023)"),
            ("a\\b", "invalid input syntax for type bytea (22P02)"),
            ("\\400", "invalid input syntax for type bytea (22P02)"),
        ] {
            assert_eq!(parse_bytea(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn uuid_has_many_forms() {
        let canonical = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for text in [
            canonical,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ] {
            let mut out = String::new();
            format_uuid(&parse_uuid(text).unwrap(), &mut out);
            assert_eq!(out, canonical);
        }
        for text in [
            "",
            "a0eebc99",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g",
            "a-0eebc999c0b4ef8bb6d6bb9bd380a11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
        ] {
            assert_eq!(
                parse_uuid(text).unwrap_err().code().code(),
                "22P02",
                "{text}"
            );
        }
    }
}
