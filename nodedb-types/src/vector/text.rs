//! The text form of a vector: `[1,2.5,-3e+10]`.

use super::{data, too_many};
use crate::failure::{Failure, Result};
use crate::limits::VECTOR_DIMENSIONS_MAX;
use crate::sqlstate::SqlState;
use crate::text::format_float4;

/// Reads `[1, 2, 3]`; blanks are allowed around brackets and elements.
///
/// 22P02 where it is not of that form, 22003 for an element beyond float4, 22000 for NaN,
/// infinity and for no element at all, 54000 for too many.
pub fn parse(text: &str) -> Result<Vec<f32>> {
    let bad = || {
        let message = format!("invalid input syntax for type vector: \"{text}\"");
        Failure::new(SqlState::InvalidTextRepresentation, message)
    };
    let Some(mut rest) = text.trim_start_matches(is_blank).strip_prefix('[') else {
        return Err(bad().with_detail("Vector contents must start with \"[\"."));
    };
    rest = rest.trim_start_matches(is_blank);
    if rest.starts_with(']') {
        return Err(data("vector must have at least 1 dimension"));
    }
    let mut elements = Vec::new();
    loop {
        if elements.len() == VECTOR_DIMENSIONS_MAX {
            return Err(too_many());
        }
        rest = rest.trim_start_matches(is_blank);
        // What ends an element is ASCII, and so never a part of another character.
        let is_end = |b: &u8| matches!(b, b',' | b']') || is_blank(char::from(*b));
        let end = rest.as_bytes().iter().position(is_end).ok_or_else(bad)?;
        elements.push(element(&rest[..end], bad)?);
        rest = rest[end..].trim_start_matches(is_blank);
        if let Some(after) = rest.strip_prefix(',') {
            rest = after;
        } else if let Some(after) = rest.strip_prefix(']') {
            rest = after;
            break;
        } else {
            return Err(bad());
        }
    }
    if !rest.trim_start_matches(is_blank).is_empty() {
        return Err(bad().with_detail("Junk after closing right brace."));
    }
    Ok(elements)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn element(token: &str, bad: impl Fn() -> Failure) -> Result<f32> {
    let x: f32 = token.parse().map_err(|_| bad())?;
    if x.is_nan() {
        return Err(data("NaN not allowed in vector"));
    }
    if x.is_infinite() {
        // Digits that overflowed, or the word itself.
        return Err(if token.bytes().any(|b| b.is_ascii_digit()) {
            let message = format!("\"{token}\" is out of range for type vector");
            Failure::new(SqlState::NumericOutOfRange, message)
        } else {
            data("infinite value not allowed in vector")
        });
    }
    Ok(x)
}

/// Appends the vector's text. Elements are the shortest digits that read back the same, with an
/// exponent where PostgreSQL's float4 has one.
pub fn format(v: &[f32], out: &mut String) {
    out.push('[');
    for (i, &x) in v.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        format_float4(x, out);
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(text: &str) -> String {
        let mut out = String::new();
        format(&parse(text).unwrap(), &mut out);
        out
    }

    #[test]
    fn text_round_trips_as_in_pgvector() {
        for (text, want) in [
            ("[1.,2.,3.]", "[1,2,3]"),
            (" [ 1,  2 ,    3  ] ", "[1,2,3]"),
            ("[1.23456,-.5]", "[1.23456,-0.5]"),
            ("[1.5e38,-1.5e+38,1.5e-38]", "[1.5e+38,-1.5e+38,1.5e-38]"),
            ("[1e-46,-1e-46]", "[0,-0]"),
            (
                "[123456,1234567,999999.94,1e6]",
                "[123456,1.234567e+06,999999.94,1e+06]",
            ),
            ("[0.0001,0.00001,16777216]", "[0.0001,1e-05,1.6777216e+07]"),
            ("[3.4028235e38,1e-45]", "[3.4028235e+38,1e-45]"),
        ] {
            assert_eq!(round(text), want);
        }
    }

    #[test]
    fn bad_text_is_refused_as_in_pgvector() {
        let fail = |text: &str| parse(text).unwrap_err();
        for text in [
            "[hello,1]",
            "[1,2,3",
            "[",
            "[ ",
            "[,",
            "[,]",
            "[1,]",
            "[1a]",
            "[1,,3]",
        ] {
            let f = fail(text);
            assert_eq!(f.code(), SqlState::InvalidTextRepresentation, "{text}");
            assert_eq!(
                f.message(),
                format!("invalid input syntax for type vector: \"{text}\"")
            );
        }
        assert_eq!(
            fail("[1,2,3]9").detail(),
            Some("Junk after closing right brace.")
        );
        assert_eq!(
            fail("1,2,3").detail(),
            Some("Vector contents must start with \"[\".")
        );
        assert_eq!(
            fail("").detail(),
            Some("Vector contents must start with \"[\".")
        );
        for (text, want) in [
            ("[]", "vector must have at least 1 dimension (22000)"),
            ("[ ]", "vector must have at least 1 dimension (22000)"),
            ("[NaN,1]", "NaN not allowed in vector (22000)"),
            (
                "[-Infinity,1]",
                "infinite value not allowed in vector (22000)",
            ),
            (
                "[4e38,1]",
                "\"4e38\" is out of range for type vector (22003)",
            ),
            (
                "[1,-4e38 ]",
                "\"-4e38\" is out of range for type vector (22003)",
            ),
        ] {
            assert_eq!(fail(text).to_string(), want);
        }
        let many = |n: usize| format!("[{}1]", "1,".repeat(n - 1));
        assert_eq!(
            parse(&many(VECTOR_DIMENSIONS_MAX)).unwrap().len(),
            VECTOR_DIMENSIONS_MAX
        );
        let over = fail(&many(VECTOR_DIMENSIONS_MAX + 1));
        assert_eq!(over.code(), SqlState::ProgramLimitExceeded);
    }
}
