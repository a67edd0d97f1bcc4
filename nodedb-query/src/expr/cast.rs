//! Casts between types, one value at a time, as PostgreSQL does them.

use nodedb_types::geo::Geometry;
use nodedb_types::numeric::Numeric;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::types::plain;

/// Converts a value to `to`. An explicit cast cuts text to length, where an assignment fails;
/// otherwise the two agree.
pub(crate) fn cast(value: Value, to: &DataType, explicit: bool) -> Result<Value> {
    if explicit && let DataType::Text(Some(limit)) = to {
        let Value::Text(mut text) = value.coerce(&DataType::Text(None))? else {
            return Ok(Value::Null);
        };
        if let Some((end, _)) = text.char_indices().nth(*limit as usize) {
            text.truncate(end);
        }
        return Ok(Value::Text(text));
    }
    match (value, to) {
        (Value::Null, _) => Ok(Value::Null),
        (value @ Value::Text(_), DataType::Text(_)) => value.coerce(to),
        (Value::Text(text), to) => nodedb_types::text::parse(&text, to),
        (Value::Bool(b), DataType::Int4) => Ok(Value::Int4(i32::from(b))),
        (Value::Int4(i), DataType::Bool) => Ok(Value::Bool(i != 0)),
        // Text of a bool is a word here, unlike in its output form.
        (Value::Bool(b), DataType::Text(_)) => {
            Value::Text(if b { "true" } else { "false" }.to_owned()).coerce(to)
        }
        (Value::Geography(bytes), DataType::Geometry(kind)) => {
            Geometry::from_ewkb(&bytes)?.check_kind(*kind)?;
            Ok(Value::Geometry(bytes))
        }
        (Value::Geometry(bytes) | Value::Geography(bytes), DataType::Bytea) => {
            Ok(Value::Bytea(bytes))
        }
        (Value::Bytea(bytes), DataType::Geometry(kind)) => {
            let shape = Geometry::from_ewkb(&bytes)?;
            shape.check_kind(*kind)?;
            Ok(Value::Geometry(shape.to_ewkb()))
        }
        (Value::Bytea(bytes), DataType::Geography(kind)) => {
            let shape = Geometry::from_ewkb(&bytes)?.into_geography()?;
            shape.check_kind(*kind)?;
            Ok(Value::Geography(shape.to_ewkb()))
        }
        (Value::Jsonb(text), to) if !matches!(to, DataType::Text(_) | DataType::Jsonb) => {
            json_scalar(&text, to)
        }
        (value, to) => value.coerce(to),
    }
}

/// `'5'::jsonb::int`: the JSON number or bool itself, nothing else.
fn json_scalar(text: &str, to: &DataType) -> Result<Value> {
    let kind = match text.as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b'n') => "null",
        Some(b't' | b'f') => {
            if plain(*to) == DataType::Bool {
                return Ok(Value::Bool(text == "true"));
            }
            "boolean"
        }
        _ => {
            if plain(*to) != DataType::Bool {
                return Value::Numeric(Numeric::parse(text)?).coerce(to);
            }
            "numeric"
        }
    };
    Err(Failure::new(
        SqlState::InvalidParameterValue,
        format!("cannot cast jsonb {kind} to type {}", to.plain_name()),
    ))
}
