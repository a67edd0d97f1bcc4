//! Values as text: PostgreSQL's input and output functions.
//!
//! [`parse`] reads what a client or a file gives for a column, [`format`] writes what psql shows;
//! each type's own rules live with the type (`numeric`, `datetime`, `json`, `vector`, `geo`).
//! Floats are the shortest digits that read back the same, with an exponent where PostgreSQL has
//! one.

mod bytes;
mod float;

use std::fmt::Write;

use crate::datetime;
use crate::failure::{Failure, Result};
use crate::geo;
use crate::json;
use crate::numeric::Numeric;
use crate::sqlstate::SqlState;
use crate::value::{DataType, Value};
use crate::vector;

pub use float::{format_float4, format_float8};

/// Reads the text form of a value of `data_type`. NULL has no text form.
///
/// Errors: 22P02 for text that is no value of the type (22007 for dates), 22003 and 22008 out of
/// range, 22001 too long, 22021 for a NUL in text, 22000 for a vector of another dimension.
pub fn parse(text: &str, data_type: &DataType) -> Result<Value> {
    match data_type {
        DataType::Bool => parse_bool(text).map(Value::Bool),
        DataType::Int2 => parse_integer(text, data_type).map(Value::Int2),
        DataType::Int4 => parse_integer(text, data_type).map(Value::Int4),
        DataType::Int8 => parse_integer(text, data_type).map(Value::Int8),
        DataType::Float4 => float::parse_float4(text).map(Value::Float4),
        DataType::Float8 => float::parse_float8(text).map(Value::Float8),
        DataType::Numeric(_) => Value::Numeric(Numeric::parse(text)?).coerce(data_type),
        DataType::Text(_) => {
            check_text(text)?;
            Value::Text(text.to_string()).coerce(data_type)
        }
        DataType::Bytea => bytes::parse_bytea(text).map(Value::Bytea),
        DataType::Uuid => bytes::parse_uuid(text).map(Value::Uuid),
        DataType::Date => datetime::parse_date(text).map(Value::Date),
        DataType::Timestamp => datetime::parse_timestamp(text).map(Value::Timestamp),
        DataType::TimestampTz => datetime::parse_timestamptz(text).map(Value::TimestampTz),
        DataType::Interval => datetime::parse_interval(text).map(Value::Interval),
        DataType::Jsonb => json::canonical(text).map(Value::Jsonb),
        DataType::Vector(_) => Value::Vector(vector::parse(text)?).coerce(data_type),
        DataType::Geometry(kind) => geo::parse_text(text, false, *kind).map(Value::Geometry),
        DataType::Geography(kind) => geo::parse_text(text, true, *kind).map(Value::Geography),
    }
}

/// Appends the text form. NULL, which has none, appends nothing: callers mark it their own way.
pub fn format(value: &Value, out: &mut String) {
    match value {
        Value::Null => {}
        Value::Bool(v) => out.push(if *v { 't' } else { 'f' }),
        Value::Int2(v) => write!(out, "{v}").expect("a string takes all"),
        Value::Int4(v) => write!(out, "{v}").expect("a string takes all"),
        Value::Int8(v) => write!(out, "{v}").expect("a string takes all"),
        Value::Float4(v) => format_float4(*v, out),
        Value::Float8(v) => format_float8(*v, out),
        Value::Numeric(v) => write!(out, "{v}").expect("a string takes all"),
        Value::Text(v) | Value::Jsonb(v) => out.push_str(v),
        Value::Bytea(v) => bytes::format_bytea(v, out),
        Value::Uuid(v) => bytes::format_uuid(v, out),
        Value::Date(v) => datetime::format_date(*v, out),
        Value::Timestamp(v) => datetime::format_timestamp(*v, out),
        Value::TimestampTz(v) => datetime::format_timestamptz(*v, out),
        Value::Interval(v) => datetime::format_interval(*v, out),
        Value::Vector(v) => vector::format(v, out),
        Value::Geometry(v) | Value::Geography(v) => geo::push_hex(v, out),
    }
}

/// Text holds no NUL; PostgreSQL's clients could not read past it. 22021.
pub fn check_text(text: &str) -> Result<()> {
    if text.as_bytes().contains(&0) {
        return Err(Failure::new(
            SqlState::CharacterNotInRepertoire,
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    Ok(())
}

fn invalid(type_name: &str, text: &str) -> Failure {
    Failure::new(
        SqlState::InvalidTextRepresentation,
        format!("invalid input syntax for type {type_name}: \"{text}\""),
    )
}

fn out_of_range(type_name: &str, text: &str) -> Failure {
    Failure::new(
        SqlState::NumericOutOfRange,
        format!("value \"{text}\" is out of range for type {type_name}"),
    )
}

/// Blanks as C's `isspace` has them.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
}

/// Any unambiguous beginning of true, false, yes and no, or on, off, 1 and 0.
fn parse_bool(text: &str) -> Result<bool> {
    let word = trim(text).to_ascii_lowercase();
    let begins = |full: &str| !word.is_empty() && full.starts_with(&word);
    match word.as_str() {
        "1" | "on" => Ok(true),
        "0" | "of" | "off" => Ok(false),
        _ if begins("true") || begins("yes") => Ok(true),
        _ if begins("false") || begins("no") => Ok(false),
        _ => Err(invalid("boolean", text)),
    }
}

fn parse_integer<T: TryFrom<i64>>(text: &str, data_type: &DataType) -> Result<T> {
    let name = data_type.plain_name();
    let trimmed = trim(text);
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid(name, text));
    }
    // Only the size can be wrong now.
    let wide = trimmed
        .parse::<i64>()
        .map_err(|_| out_of_range(name, text))?;
    T::try_from(wide).map_err(|_| out_of_range(name, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(text: &str, data_type: DataType) -> String {
        let value = parse(text, &data_type).unwrap_or_else(|e| panic!("{text}: {e}"));
        let mut out = String::new();
        format(&value, &mut out);
        out
    }

    fn fails(text: &str, data_type: DataType) -> String {
        parse(text, &data_type).unwrap_err().to_string()
    }

    #[test]
    fn booleans_have_many_spellings() {
        for text in ["t", "TRUE", " tru ", "y", "yes", "on", "1"] {
            assert_eq!(again(text, DataType::Bool), "t");
        }
        for text in ["f", "fal", "n", "No", "off", "of", "0"] {
            assert_eq!(again(text, DataType::Bool), "f");
        }
        for text in ["", "o", "x", "truee", "01"] {
            assert_eq!(
                fails(text, DataType::Bool),
                format!("invalid input syntax for type boolean: \"{text}\" (22P02)")
            );
        }
    }

    #[test]
    fn integers_tell_bad_text_from_big_numbers() {
        assert_eq!(again(" -32768 ", DataType::Int2), "-32768");
        assert_eq!(again("+7", DataType::Int4), "7");
        assert_eq!(
            again("-9223372036854775808", DataType::Int8),
            "-9223372036854775808"
        );
        assert_eq!(
            fails("32768", DataType::Int2),
            "value \"32768\" is out of range for type smallint (22003)"
        );
        assert_eq!(
            fails("9223372036854775808", DataType::Int8),
            "value \"9223372036854775808\" is out of range for type bigint (22003)"
        );
        for text in ["", " ", "-", "1.0", "1 2", "x", "+-1", "１"] {
            assert_eq!(
                fails(text, DataType::Int4),
                format!("invalid input syntax for type integer: \"{text}\" (22P02)")
            );
        }
    }

    #[test]
    fn every_type_reads_what_it_writes() {
        for (text, data_type) in [
            ("1.50", DataType::Numeric(None)),
            ("1.50", DataType::Numeric(Some((4, 2)))),
            ("grün", DataType::Text(Some(4))),
            ("\\x00ff", DataType::Bytea),
            ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", DataType::Uuid),
            ("2024-02-29", DataType::Date),
            ("2024-02-29 12:00:00.25", DataType::Timestamp),
            ("2024-02-29 12:00:00+00", DataType::TimestampTz),
            ("1 mon -1 days", DataType::Interval),
            ("{\"a\": [1, null]}", DataType::Jsonb),
            ("[1,2.5,-1.5e+20]", DataType::Vector(Some(3))),
        ] {
            assert_eq!(again(text, data_type), text);
        }
        let point = again("POINT(13.4 52.5)", DataType::Geography(None));
        assert_eq!(again(&point, DataType::Geography(None)), point);
    }

    #[test]
    fn columns_limits_apply_to_text_too() {
        assert_eq!(again("1.005", DataType::Numeric(Some((4, 2)))), "1.01");
        assert!(fails("12345", DataType::Text(Some(4))).ends_with("(22001)"));
        assert!(fails("[1,2]", DataType::Vector(Some(3))).ends_with("(22000)"));
        assert!(fails("a\0b", DataType::Text(None)).ends_with("(22021)"));
    }
}
