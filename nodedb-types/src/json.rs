//! Canonical text of `jsonb`.
//!
//! [`canonical`] reads JSON text and writes it as PostgreSQL prints a `jsonb`: object keys sorted
//! by length in bytes and then by bytes, the last of equal keys kept, one blank after `:` and `,`,
//! numbers as exact decimals without exponent. Equal documents have equal text up to trailing
//! zeros of numbers, which are kept (`1.0` prints as `1.0`). The text is the stored form.
//!
//! The reader is our own, since exact numbers of any length must survive. It recurses once per
//! level and stops at [`DEPTH_MAX`]; expanded exponents are limited by [`EXPANSION_MAX`], so no
//! short text makes a long one.

mod reader;

use std::fmt::Write;

use crate::datetime;
use crate::failure::Result;
use crate::text;
use crate::value::Value;

/// Deepest nesting of arrays and objects; the reader uses the stack of its caller's thread.
pub const DEPTH_MAX: usize = 512;
/// Most digits that all exponents of one document may expand to, bytes.
pub const EXPANSION_MAX: usize = 64 << 10;

/// A document in memory. Numbers are kept as their canonical text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Json {
    Null,
    Bool(bool),
    /// An exact decimal in PostgreSQL's spelling.
    Number(String),
    String(String),
    Array(Vec<Json>),
    /// In canonical order, each key once.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads a document. 22P02 where it is not JSON, 22P05 for `\u0000`, 54001 when
    /// nested too deeply, 22003 for a number that expands too far.
    pub fn parse(text: &str) -> Result<Json> {
        reader::read(text)
    }

    /// The member of an object, if there is one.
    pub fn get(&self, key: &str) -> Option<&Json> {
        let Json::Object(members) = self else {
            return None;
        };
        let at = members.binary_search_by(|(k, _)| order(k, key)).ok()?;
        Some(&members[at].1)
    }

    /// Appends the canonical text.
    pub fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(true) => out.push_str("true"),
            Json::Bool(false) => out.push_str("false"),
            Json::Number(digits) => out.push_str(digits),
            Json::String(string) => quote(string, out),
            Json::Array(elements) => {
                out.push('[');
                for (at, element) in elements.iter().enumerate() {
                    if at > 0 {
                        out.push_str(", ");
                    }
                    element.write(out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (at, (key, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push_str(", ");
                    }
                    quote(key, out);
                    out.push_str(": ");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// PostgreSQL's order of keys: shorter first, then by bytes.
fn order(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Checks JSON text and gives its canonical form; errors as [`Json::parse`].
pub fn canonical(text: &str) -> Result<String> {
    let document = Json::parse(text)?;
    let mut out = String::with_capacity(text.len());
    document.write(&mut out);
    Ok(out)
}

/// An object of named values, canonical, as PostgreSQL's `to_jsonb` of a row.
pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a Value)>) -> String {
    let mut members: Vec<_> = members.into_iter().collect();
    members.sort_by(|(a, _), (b, _)| order(a, b));
    let mut out = String::from("{");
    for (at, (key, value)) in members.into_iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        quote(key, &mut out);
        out.push_str(": ");
        write_value(value, &mut out);
    }
    out.push('}');
    out
}

/// Appends a value as JSON: numbers and booleans as themselves (NaN and infinities as strings,
/// JSON has none), vectors as arrays, timestamps in ISO 8601, everything else as its text.
pub fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(v) => write!(out, "{v}").expect("a string takes all"),
        Value::Int2(_) | Value::Int4(_) | Value::Int8(_) | Value::Numeric(_) => {
            text::format(value, out);
        }
        Value::Float4(v) if v.is_finite() => write_float(value, out),
        Value::Float8(v) if v.is_finite() => write_float(value, out),
        Value::Jsonb(v) => out.push_str(v),
        Value::Vector(elements) => {
            out.push('[');
            for (at, element) in elements.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                write_float(&Value::Float4(*element), out);
            }
            out.push(']');
        }
        Value::Timestamp(us) | Value::TimestampTz(us) => {
            let mut stamp = String::new();
            datetime::format_timestamp(*us, &mut stamp);
            // ISO 8601: a T between date and time, the zone's offset with minutes, the era last.
            let zone = if matches!(value, Value::TimestampTz(_)) {
                "+00:00"
            } else {
                ""
            };
            let (moment, era) = match stamp.strip_suffix(" BC") {
                Some(moment) => (moment, " BC"),
                None => (stamp.as_str(), ""),
            };
            quote(&format!("{}{zone}{era}", moment.replacen(' ', "T", 1)), out);
        }
        Value::Float4(_)
        | Value::Float8(_)
        | Value::Text(_)
        | Value::Bytea(_)
        | Value::Uuid(_)
        | Value::Date(_)
        | Value::Interval(_)
        | Value::Geometry(_)
        | Value::Geography(_) => {
            let mut plain = String::new();
            text::format(value, &mut plain);
            quote(&plain, out);
        }
    }
}

/// A finite float as an exact decimal, since canonical numbers have no exponent.
fn write_float(value: &Value, out: &mut String) {
    let mut shortest = String::new();
    text::format(value, &mut shortest);
    // A double has at most 324 places, far within what a document may expand to.
    let number = reader::decimal(&shortest, &mut { EXPANSION_MAX });
    out.push_str(&number.expect("a finite float's text is a number"));
}

/// Appends a JSON string in quotes, escaped as PostgreSQL does.
pub fn quote(string: &str, out: &mut String) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in string.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x0c => "\\f",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&string[plain_from..at]);
        if escape.is_empty() {
            write!(out, "\\u{byte:04x}").expect("a string takes all");
        } else {
            out.push_str(escape);
        }
        plain_from = at + 1;
    }
    out.push_str(&string[plain_from..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::Numeric;

    #[test]
    fn canonical_text_is_postgresqls() {
        for (input, output) in [
            (" null ", "null"),
            ("true", "true"),
            ("[]", "[]"),
            ("{}", "{}"),
            (r#"{"b":[1,2],"a":1}"#, r#"{"a": 1, "b": [1, 2]}"#),
            (r#"{"aa":1,"b":2,"a":3}"#, r#"{"a": 3, "b": 2, "aa": 1}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a": 2}"#),
            ("1.10", "1.10"),
            ("-0", "0"),
            ("-0.0", "0.0"),
            ("1e5", "100000"),
            ("1.5E-3", "0.0015"),
            ("12.345e1", "123.45"),
            ("0e10", "0"),
            (r#""A\/\ud83d\ude00\n\u0001""#, "\"A/😀\\n\\u0001\""),
            (
                "123456789012345678901234567890123456789012345",
                "123456789012345678901234567890123456789012345",
            ),
        ] {
            assert_eq!(canonical(input).unwrap(), output, "{input}");
            assert_eq!(canonical(output).unwrap(), output);
        }
    }

    #[test]
    fn bad_documents_are_refused() {
        for text in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "nul",
            "truex",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"a\nb\"",
            "[1 2]",
            "1 2",
            "{\"a\":1,}",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "NaN",
            "'a'",
            "\u{a0}1",
        ] {
            assert_eq!(
                canonical(text).unwrap_err().code().code(),
                "22P02",
                "{text}"
            );
        }
        assert_eq!(canonical("\"\\u0000\"").unwrap_err().code().code(), "22P05");
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(canonical(&deep(DEPTH_MAX)).is_ok());
        assert_eq!(
            canonical(&deep(DEPTH_MAX + 1)).unwrap_err().code().code(),
            "54001"
        );
        assert_eq!(
            canonical(&"[".repeat(1_000_000)).unwrap_err().code().code(),
            "54001"
        );
        assert_eq!(canonical("1e999999999").unwrap_err().code().code(), "22003");
        assert_eq!(
            canonical("1e99999999999999999999")
                .unwrap_err()
                .code()
                .code(),
            "22003"
        );
        let many = vec!["1e9999"; 100].join(",");
        assert_eq!(
            canonical(&format!("[{many}]")).unwrap_err().code().code(),
            "22003"
        );
    }

    #[test]
    fn rows_become_objects() {
        let half = Value::Numeric(Numeric::parse("0.50").unwrap());
        let members = [
            ("name", Value::Text("a\"b".into())),
            ("id", Value::Int8(7)),
            ("at", Value::TimestampTz(0)),
            ("x", Value::Float8(1e21)),
            ("n", half),
            ("nan", Value::Float8(f64::NAN)),
            ("v", Value::Vector(vec![1.5, 1e-7])),
            ("none", Value::Null),
        ];
        let text = object(members.iter().map(|(k, v)| (*k, v)));
        assert_eq!(
            text,
            "{\"n\": 0.50, \"v\": [1.5, 0.0000001], \"x\": 1000000000000000000000, \"at\": \"1970-01-01T00:00:00+00:00\", \
             \"id\": 7, \"nan\": \"NaN\", \"name\": \"a\\\"b\", \"none\": null}"
        );
        assert_eq!(canonical(&text).unwrap(), text);
        let document = Json::parse(&text).unwrap();
        assert_eq!(document.get("id"), Some(&Json::Number("7".into())));
        assert_eq!(document.get("no"), None);
    }
}
