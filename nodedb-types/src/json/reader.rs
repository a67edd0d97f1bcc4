//! Reads JSON (RFC 8259) by recursive descent.

use super::{DEPTH_MAX, EXPANSION_MAX, Json, order};
use crate::failure::{Failure, Result};
use crate::sqlstate::SqlState;

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// What exponents may still expand to, bytes.
    expansion: usize,
}

pub(super) fn read(text: &str) -> Result<Json> {
    let mut reader = Reader {
        text,
        at: 0,
        depth: 0,
        expansion: EXPANSION_MAX,
    };
    let document = reader.value()?;
    reader.blanks();
    if reader.at < text.len() {
        return Err(reader.unexpected("end of input"));
    }
    Ok(document)
}

fn invalid(detail: String) -> Failure {
    Failure::new(
        SqlState::InvalidTextRepresentation,
        "invalid input syntax for type json",
    )
    .with_detail(detail)
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Names what stands here: a word, one character, or the end.
    fn unexpected(&self, wanted: &str) -> Failure {
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else {
            return invalid("The input string ended unexpectedly.".to_string());
        };
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '.');
        let mut token: String = rest.chars().take_while(|c| is_word(*c)).take(40).collect();
        if token.is_empty() {
            token.push(first);
        }
        invalid(format!("Expected {wanted}, but found \"{token}\"."))
    }

    fn value(&mut self) -> Result<Json> {
        self.blanks();
        match self.peek() {
            Some(b'{') => self.nested(Reader::object),
            Some(b'[') => self.nested(Reader::array),
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Json::Number),
            _ => self.word(),
        }
    }

    fn nested(&mut self, read: fn(&mut Reader<'a>) -> Result<Json>) -> Result<Json> {
        if self.depth == DEPTH_MAX {
            return Err(Failure::new(
                SqlState::StatementTooComplex,
                format!("JSON is nested more than {DEPTH_MAX} levels deep"),
            ));
        }
        self.depth += 1;
        self.at += 1;
        let nested = read(self)?;
        self.depth -= 1;
        Ok(nested)
    }

    fn array(&mut self) -> Result<Json> {
        let mut elements = Vec::new();
        self.blanks();
        if self.take(b']') {
            return Ok(Json::Array(elements));
        }
        loop {
            elements.push(self.value()?);
            self.blanks();
            if self.take(b']') {
                return Ok(Json::Array(elements));
            }
            if !self.take(b',') {
                return Err(self.unexpected("\",\" or \"]\""));
            }
        }
    }

    fn object(&mut self) -> Result<Json> {
        let mut members = Vec::new();
        self.blanks();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("string"));
            }
            let key = self.string()?;
            self.blanks();
            if !self.take(b':') {
                return Err(self.unexpected("\":\""));
            }
            members.push((key, self.value()?));
            self.blanks();
            if self.take(b'}') {
                return Ok(Json::Object(sorted(members)));
            }
            if !self.take(b',') {
                return Err(self.unexpected("\",\" or \"}\""));
            }
        }
    }

    fn word(&mut self) -> Result<Json> {
        let rest = &self.text[self.at..];
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let document = match &rest[..end] {
            "null" => Json::Null,
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            _ => return Err(self.unexpected("JSON value")),
        };
        self.at += end;
        Ok(document)
    }

    fn number(&mut self) -> Result<String> {
        let rest = &self.text[self.at..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let token = &rest[..end];
        if !is_number(token.as_bytes()) {
            return Err(self.unexpected("JSON value"));
        }
        let number = decimal(token, &mut self.expansion).ok_or_else(|| {
            Failure::new(
                SqlState::NumericOutOfRange,
                "value overflows numeric format",
            )
            .with_detail("A number of the JSON text has too large an exponent.")
        })?;
        self.at += end;
        Ok(number)
    }

    /// The opening quote is next.
    fn string(&mut self) -> Result<String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let end = rest
                .bytes()
                .position(|b| matches!(b, b'"' | b'\\' | 0..0x20));
            let Some(end) = end else {
                self.at = self.text.len();
                return Err(self.unexpected("\"\\\"\""));
            };
            out.push_str(&rest[..end]);
            self.at += end + 1;
            match rest.as_bytes()[end] {
                b'"' => return Ok(out),
                b'\\' => out.push(self.escape()?),
                control => {
                    return Err(invalid(format!(
                        "Character with value 0x{control:02x} must be escaped."
                    )));
                }
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<char> {
        let Some(letter) = self.text[self.at..].chars().next() else {
            return Err(self.unexpected("escape sequence"));
        };
        self.at += letter.len_utf8();
        Ok(match letter {
            '"' | '\\' | '/' => letter,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return self.unicode_escape(),
            other => {
                return Err(invalid(format!(
                    "Escape sequence \"\\{other}\" is invalid."
                )));
            }
        })
    }

    fn unicode_escape(&mut self) -> Result<char> {
        let unit = self.hex4()?;
        let code = match unit {
            0 => {
                return Err(Failure::new(
                    SqlState::UntranslatableCharacter,
                    "unsupported Unicode escape sequence",
                )
                .with_detail("\\u0000 cannot be converted to text."));
            }
            0xd800..0xdc00 => {
                let low = if self.text[self.at..].starts_with("\\u") {
                    self.at += 2;
                    self.hex4()?
                } else {
                    0
                };
                if !(0xdc00..0xe000).contains(&low) {
                    return Err(invalid(
                        "Unicode low surrogate must follow a high surrogate.".to_string(),
                    ));
                }
                0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
            }
            code => code,
        };
        char::from_u32(code).ok_or_else(|| {
            invalid("Unicode low surrogate must follow a high surrogate.".to_string())
        })
    }

    fn hex4(&mut self) -> Result<u32> {
        let digits = self.text.get(self.at..self.at + 4);
        let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(digits) = digits else {
            return Err(invalid(
                "\"\\u\" must be followed by four hexadecimal digits.".to_string(),
            ));
        };
        self.at += 4;
        Ok(u32::from_str_radix(digits, 16).expect("four digits were checked"))
    }
}

/// Canonical order, the last of equal keys kept.
fn sorted(mut members: Vec<(String, Json)>) -> Vec<(String, Json)> {
    // A stable sort of the reversed list puts the last of equal keys first, which dedup keeps.
    members.reverse();
    members.sort_by(|(a, _), (b, _)| order(a, b));
    members.dedup_by(|(a, _), (b, _)| a == b);
    members
}

/// JSON's grammar: no leading zeros, digits on both sides of a point, an optional exponent.
fn is_number(token: &[u8]) -> bool {
    fn digits(token: &[u8]) -> &[u8] {
        let end = token
            .iter()
            .position(|b| !b.is_ascii_digit())
            .unwrap_or(token.len());
        &token[end..]
    }
    let unsigned = token.strip_prefix(b"-").unwrap_or(token);
    let mut rest = match unsigned {
        [b'0', rest @ ..] => rest,
        [b'1'..=b'9', ..] => digits(unsigned),
        _ => return false,
    };
    if let [b'.', fraction @ ..] = rest {
        rest = digits(fraction);
        if rest.len() == fraction.len() {
            return false;
        }
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let unsigned = exponent
            .strip_prefix(b"+")
            .or(exponent.strip_prefix(b"-"))
            .unwrap_or(exponent);
        rest = digits(unsigned);
        if rest.len() == unsigned.len() {
            return false;
        }
    }
    rest.is_empty()
}

/// The number without exponent, as PostgreSQL's numeric prints it: the places after the point
/// are kept, an exponent moves the point. None when moving it takes more than `expansion` zeros,
/// which are counted off.
pub(super) fn decimal(token: &str, expansion: &mut usize) -> Option<String> {
    let (mantissa, exponent) = match token.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (token, 0),
    };
    let unsigned = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = format!("{whole}{fraction}");
    let is_zero = digits.bytes().all(|b| b == b'0');
    // Where the point stands among the digits, and how many places are shown after it.
    let point = (whole.len() as i64).checked_add(exponent)?;
    let places = (fraction.len() as i64).checked_sub(exponent)?.max(0);
    let zeros = usize::try_from((point - digits.len() as i64).max(-point).max(0)).ok()?;
    if is_zero {
        *expansion =
            expansion.checked_sub(usize::try_from(places).ok()?.saturating_sub(digits.len()))?;
        let places = usize::try_from(places).ok()?;
        return Some(if places == 0 {
            "0".into()
        } else {
            format!("0.{}", "0".repeat(places))
        });
    }
    *expansion = expansion.checked_sub(zeros)?;
    let (whole, fraction) = if point <= 0 {
        (String::new(), format!("{}{digits}", "0".repeat(zeros)))
    } else if point >= digits.len() as i64 {
        (format!("{digits}{}", "0".repeat(zeros)), String::new())
    } else {
        let (whole, fraction) = digits.split_at(point as usize);
        (whole.to_string(), fraction.to_string())
    };
    let sign = if mantissa.starts_with('-') { "-" } else { "" };
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{point}{fraction}"))
}
