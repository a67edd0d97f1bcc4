//! Assignment casts: what `INSERT` and `UPDATE` do to a value on its way into a column.
//!
//! As in PostgreSQL: numbers convert into one another when the value fits (integers by rounding),
//! dates and timestamps likewise, anything becomes text, geometry becomes geography, and the
//! column's length, precision, dimension or subtype is applied. All other pairs need an explicit
//! cast, text to a number among them; a literal of unknown type is not text and goes through
//! [`crate::text::parse`] instead.

use crate::datetime::{date_of_timestamp, timestamp_of_date};
use crate::failure::{Failure, Result};
use crate::geo::{Geometry, Kind};
use crate::numeric::Numeric;
use crate::sqlstate::SqlState;
use crate::text;
use crate::value::{DataType, Value};
use crate::vector;

impl Value {
    /// The value as a column of type `to` stores it. NULL stays NULL.
    ///
    /// Errors: 42804 without an assignment cast, 22003 for a number out of range, 22001 for too
    /// long a string (trailing blanks are cut), 22000 for another dimension, 22023 for another
    /// subtype.
    pub fn coerce(self, to: &DataType) -> Result<Value> {
        match (self, to) {
            (Value::Null, _) => Ok(Value::Null),
            (Value::Text(string), DataType::Text(limit)) => limited(string, *limit),
            (value, DataType::Text(limit)) => limited(as_text(&value), *limit),

            (value @ Value::Bool(_), DataType::Bool)
            | (value @ Value::Bytea(_), DataType::Bytea)
            | (value @ Value::Uuid(_), DataType::Uuid)
            | (value @ Value::Interval(_), DataType::Interval)
            | (value @ Value::Jsonb(_), DataType::Jsonb) => Ok(value),

            (value, DataType::Int2) => {
                let wide = integer(value, to)?;
                i16::try_from(wide)
                    .map(Value::Int2)
                    .map_err(|_| out_of_range(to))
            }
            (value, DataType::Int4) => {
                let wide = integer(value, to)?;
                i32::try_from(wide)
                    .map(Value::Int4)
                    .map_err(|_| out_of_range(to))
            }
            (value, DataType::Int8) => {
                let wide = integer(value, to)?;
                i64::try_from(wide)
                    .map(Value::Int8)
                    .map_err(|_| out_of_range(to))
            }
            (value, DataType::Float4) => float4(value, to).map(Value::Float4),
            (value, DataType::Float8) => float8(value, to).map(Value::Float8),
            (value, DataType::Numeric(size)) => {
                let exact = numeric(value, to)?;
                let sized = match size {
                    Some((precision, scale)) => exact.rescale(*precision, *scale)?,
                    None => exact,
                };
                Ok(Value::Numeric(sized))
            }

            (Value::Date(days), DataType::Date) => Ok(Value::Date(days)),
            (Value::Timestamp(us) | Value::TimestampTz(us), DataType::Date) => {
                Ok(Value::Date(date_of_timestamp(us)))
            }
            // The session's zone is UTC, so both kinds of timestamp have the same number.
            (Value::Timestamp(us) | Value::TimestampTz(us), DataType::Timestamp) => {
                Ok(Value::Timestamp(us))
            }
            (Value::Timestamp(us) | Value::TimestampTz(us), DataType::TimestampTz) => {
                Ok(Value::TimestampTz(us))
            }
            (Value::Date(days), DataType::Timestamp) => {
                Ok(Value::Timestamp(timestamp_of_date(days)?))
            }
            (Value::Date(days), DataType::TimestampTz) => {
                Ok(Value::TimestampTz(timestamp_of_date(days)?))
            }

            (Value::Vector(elements), DataType::Vector(dimensions)) => {
                if let Some(expected) = dimensions {
                    vector::check_dimensions(usize::from(*expected), elements.len())?;
                }
                Ok(Value::Vector(elements))
            }
            (Value::Geometry(ewkb), DataType::Geometry(kind)) => {
                check_kind(&ewkb, *kind)?;
                Ok(Value::Geometry(ewkb))
            }
            (Value::Geography(ewkb), DataType::Geography(kind)) => {
                check_kind(&ewkb, *kind)?;
                Ok(Value::Geography(ewkb))
            }
            (Value::Geometry(ewkb), DataType::Geography(kind)) => {
                let geography = Geometry::from_ewkb(&ewkb)?.into_geography()?;
                geography.check_kind(*kind)?;
                Ok(Value::Geography(geography.to_ewkb()))
            }

            (
                value,
                DataType::Bool
                | DataType::Bytea
                | DataType::Uuid
                | DataType::Date
                | DataType::Timestamp
                | DataType::TimestampTz
                | DataType::Interval
                | DataType::Jsonb
                | DataType::Vector(_)
                | DataType::Geometry(_)
                | DataType::Geography(_),
            ) => Err(mismatch(&value, to)),
        }
    }
}

fn mismatch(value: &Value, to: &DataType) -> Failure {
    let from = value.data_type_hint().map_or("unknown", |t| t.plain_name());
    Failure::new(
        SqlState::DatatypeMismatch,
        format!(
            "a value of type {} is needed but the expression is of type {from}",
            to.name()
        ),
    )
    .with_hint("You will need to rewrite or cast the expression.")
}

/// PostgreSQL's message for a number that does not fit.
pub(crate) fn out_of_range(to: &DataType) -> Failure {
    Failure::new(
        SqlState::NumericOutOfRange,
        format!("{} out of range", to.plain_name()),
    )
}

fn integer(value: Value, to: &DataType) -> Result<i128> {
    match value {
        Value::Int2(v) => Ok(i128::from(v)),
        Value::Int4(v) => Ok(i128::from(v)),
        Value::Int8(v) => Ok(i128::from(v)),
        Value::Numeric(v) => Ok(v.round_to_integer()),
        // Half to even, as PostgreSQL's casts of floats; `as` saturates, so that what is too big
        // is still too big for any integer type, and NaN is refused here.
        Value::Float4(v) if !v.is_nan() => Ok(f64::from(v).round_ties_even() as i128),
        Value::Float8(v) if !v.is_nan() => Ok(v.round_ties_even() as i128),
        Value::Float4(_) | Value::Float8(_) => Err(out_of_range(to)),
        other => Err(mismatch(&other, to)),
    }
}

fn float8(value: Value, to: &DataType) -> Result<f64> {
    match value {
        Value::Int2(v) => Ok(f64::from(v)),
        Value::Int4(v) => Ok(f64::from(v)),
        Value::Int8(v) => Ok(v as f64),
        Value::Float4(v) => Ok(f64::from(v)),
        Value::Float8(v) => Ok(v),
        Value::Numeric(v) => Ok(v.to_f64()),
        other => Err(mismatch(&other, to)),
    }
}

fn float4(value: Value, to: &DataType) -> Result<f32> {
    match value {
        Value::Float4(v) => Ok(v),
        Value::Int8(v) => Ok(v as f32),
        // Through the text, since two roundings may differ from one.
        Value::Numeric(v) => Ok(v.to_string().parse().expect("our own spelling is a number")),
        other => {
            let wide = float8(other, to)?;
            let narrow = wide as f32;
            if narrow.is_infinite() && wide.is_finite() {
                let message = "value out of range: overflow";
                return Err(Failure::new(SqlState::NumericOutOfRange, message));
            }
            if narrow == 0.0 && wide != 0.0 {
                let message = "value out of range: underflow";
                return Err(Failure::new(SqlState::NumericOutOfRange, message));
            }
            Ok(narrow)
        }
    }
}

fn numeric(value: Value, to: &DataType) -> Result<Numeric> {
    match value {
        Value::Int2(v) => Ok(Numeric::from_i64(i64::from(v))),
        Value::Int4(v) => Ok(Numeric::from_i64(i64::from(v))),
        Value::Int8(v) => Ok(Numeric::from_i64(v)),
        Value::Float4(v) => Numeric::from_f32(v),
        Value::Float8(v) => Numeric::from_f64(v),
        Value::Numeric(v) => Ok(v),
        other => Err(mismatch(&other, to)),
    }
}

/// As the cast to text, which spells booleans out where their output function has a letter.
fn as_text(value: &Value) -> String {
    if let Value::Bool(v) = value {
        return v.to_string();
    }
    let mut out = String::new();
    text::format(value, &mut out);
    out
}

/// Cuts blanks beyond `limit` characters; 22001 when more than blanks would go.
fn limited(mut string: String, limit: Option<u32>) -> Result<Value> {
    // No string has more characters than bytes.
    if let Some(limit) = limit.filter(|limit| string.len() > *limit as usize)
        && let Some((end, _)) = string.char_indices().nth(limit as usize)
    {
        if string[end..].bytes().any(|b| b != b' ') {
            return Err(Failure::new(
                SqlState::StringTooLong,
                format!("value too long for type character varying({limit})"),
            ));
        }
        string.truncate(end);
    }
    Ok(Value::Text(string))
}

fn check_kind(ewkb: &[u8], kind: Option<Kind>) -> Result<()> {
    match kind {
        Some(kind) => Geometry::from_ewkb(ewkb)?.check_kind(Some(kind)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(value: Value, to: DataType) -> &'static str {
        value.coerce(&to).unwrap_err().code().code()
    }

    fn text(value: &str) -> Value {
        Value::Text(value.to_string())
    }

    fn exact(value: &str) -> Value {
        Value::Numeric(Numeric::parse(value).unwrap())
    }

    #[test]
    fn numbers_convert_when_they_fit() {
        assert_eq!(
            Value::Int8(7).coerce(&DataType::Int2).unwrap(),
            Value::Int2(7)
        );
        assert_eq!(fails(Value::Int8(70_000), DataType::Int2), "22003");
        assert_eq!(
            exact("2.5").coerce(&DataType::Int4).unwrap(),
            Value::Int4(3)
        );
        assert_eq!(
            exact("-2.5").coerce(&DataType::Int4).unwrap(),
            Value::Int4(-3)
        );
        assert_eq!(
            Value::Float8(2.5).coerce(&DataType::Int4).unwrap(),
            Value::Int4(2)
        );
        assert_eq!(
            Value::Float8(3.5).coerce(&DataType::Int4).unwrap(),
            Value::Int4(4)
        );
        assert_eq!(fails(Value::Float8(f64::NAN), DataType::Int8), "22003");
        assert_eq!(fails(Value::Float8(1e19), DataType::Int8), "22003");
        assert_eq!(
            fails(Value::Float8(9_223_372_036_854_775_808.0), DataType::Int8),
            "22003"
        );
        assert_eq!(fails(Value::Float8(1e300), DataType::Float4), "22003");
        assert_eq!(fails(Value::Float8(1e-300), DataType::Float4), "22003");
        let two = Value::Int4(2)
            .coerce(&DataType::Numeric(Some((5, 2))))
            .unwrap();
        assert!(matches!(two, Value::Numeric(n) if n.to_string() == "2.00"));
        assert_eq!(
            fails(Value::Int4(1000), DataType::Numeric(Some((5, 2)))),
            "22003"
        );
    }

    #[test]
    fn strings_have_a_limit_in_characters() {
        let five = DataType::Text(Some(5));
        assert_eq!(text("grün!").coerce(&five).unwrap(), text("grün!"));
        assert_eq!(text("ab      ").coerce(&five).unwrap(), text("ab   "));
        assert_eq!(fails(text("grün!!"), five), "22001");
        assert_eq!(
            Value::Int4(12).coerce(&DataType::Text(None)).unwrap(),
            text("12")
        );
        assert_eq!(
            Value::Bool(true).coerce(&DataType::Text(None)).unwrap(),
            text("true")
        );
    }

    #[test]
    fn other_pairs_need_an_explicit_cast() {
        for (value, to) in [
            (text("1"), DataType::Int4),
            (Value::Int4(1), DataType::Bool),
            (Value::Bool(true), DataType::Int4),
            (text("{}"), DataType::Jsonb),
            (Value::Date(0), DataType::Interval),
            (text("[1]"), DataType::Vector(None)),
        ] {
            assert_eq!(fails(value, to), "42804", "{to:?}");
        }
        assert_eq!(Value::Null.coerce(&DataType::Bool).unwrap(), Value::Null);
    }

    #[test]
    fn dates_vectors_and_places_take_the_columns_shape() {
        assert_eq!(
            Value::Date(1).coerce(&DataType::TimestampTz).unwrap(),
            Value::TimestampTz(86_400_000_000)
        );
        assert_eq!(
            Value::Timestamp(-1).coerce(&DataType::Date).unwrap(),
            Value::Date(-1)
        );
        assert_eq!(
            fails(Value::Vector(vec![1.0, 2.0]), DataType::Vector(Some(3))),
            "22000"
        );
        let point = crate::geo::parse_text("POINT(1 2)", false, None).unwrap();
        let line = DataType::Geography(Some(Kind::LineString));
        assert_eq!(fails(Value::Geometry(point.clone()), line), "22023");
        let expected = crate::geo::parse_text("POINT(1 2)", true, None).unwrap();
        let there = Value::Geometry(point).coerce(&DataType::Geography(Some(Kind::Point)));
        assert_eq!(there.unwrap(), Value::Geography(expected));
    }
}
