//! jsonb: members, elements, containment.

use nodedb_types::json::Json;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::{Argument, Function, INT4, JSONB, TEXT, TEXT_TYPE, arguments, row};

pub(super) fn json(j: &Json) -> Value {
    let mut out = String::new();
    j.write(&mut out);
    Value::Jsonb(out)
}

/// As `->>` gives it: strings bare, null as NULL.
pub(super) fn plain(j: &Json) -> Value {
    match j {
        Json::Null => Value::Null,
        Json::String(s) => Value::Text(s.clone()),
        other => {
            let mut out = String::new();
            other.write(&mut out);
            Value::Text(out)
        }
    }
}

fn member<'j>(j: &'j Json, key: &str) -> Option<&'j Json> {
    match j {
        Json::Object(_) => j.get(key),
        _ => None,
    }
}

fn element(j: &Json, index: i32) -> Option<&Json> {
    let Json::Array(items) = j else {
        return None;
    };
    let index = if index < 0 {
        items.len().checked_sub(index.unsigned_abs() as usize)?
    } else {
        index as usize
    };
    items.get(index)
}

/// `{a,2,b}`: a path of members and elements.
fn along<'j>(j: &'j Json, path: &str) -> Result<Option<&'j Json>> {
    let steps = path_steps(path)?;
    Ok(walk(j, steps.iter().map(String::as_str)))
}

fn walk<'j, 's>(j: &'j Json, mut steps: impl Iterator<Item = &'s str>) -> Option<&'j Json> {
    steps.try_fold(j, |at, step| match at {
        Json::Array(_) => step.parse().ok().and_then(|i| element(at, i)),
        _ => member(at, step),
    })
}

/// A document and the steps of a path as arguments of their own.
fn extract(values: &[Value], shown: fn(&Json) -> Value) -> Result<Value> {
    let Some((Value::Jsonb(text), steps)) = values.split_first() else {
        return Ok(Value::Null);
    };
    let step = |value: &Value| match value {
        Value::Text(step) => Ok(step.clone()),
        _ => Err(Failure::internal("a step of a path that is no text")),
    };
    let steps = steps.iter().map(step).collect::<Result<Vec<_>>>()?;
    let document = Json::parse(text)?;
    let found = walk(&document, steps.iter().map(String::as_str));
    Ok(found.map_or(Value::Null, shown))
}

/// The steps of a path, an array of text in its text form.
pub(super) fn path_steps(text: &str) -> Result<Vec<String>> {
    let steps = super::array::elements(text)?.into_iter();
    Ok(steps
        .map(|step| step.unwrap_or_else(|| "NULL".to_owned()))
        .collect())
}

fn contains(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Object(_), Json::Object(members)) => members
            .iter()
            .all(|(key, value)| a.get(key).is_some_and(|mine| contains(mine, value))),
        (Json::Array(mine), Json::Array(theirs)) => {
            theirs.iter().all(|t| mine.iter().any(|m| contains(m, t)))
        }
        // An array may contain a bare scalar, at the top as below.
        (Json::Array(mine), scalar) if !matches!(scalar, Json::Object(_)) => mine.contains(scalar),
        (a, b) => a == b,
    }
}

fn merged(a: Json, b: Json) -> Result<Json> {
    Ok(match (a, b) {
        (Json::Object(mut members), Json::Object(more)) => {
            for (key, value) in more {
                members.retain(|(k, _)| *k != key);
                members.push((key, value));
            }
            Json::Object(members)
        }
        (Json::Array(mut items), Json::Array(more)) => {
            items.extend(more);
            Json::Array(items)
        }
        (Json::Array(mut items), one) => {
            items.push(one);
            Json::Array(items)
        }
        (one, Json::Array(mut items)) => {
            items.insert(0, one);
            Json::Array(items)
        }
        (Json::Object(_), _) | (_, Json::Object(_)) => {
            return Err(Failure::new(
                SqlState::InvalidParameterValue,
                "invalid concatenation of jsonb objects",
            ));
        }
        (a, b) => Json::Array(vec![a, b]),
    })
}

fn concatenated(a: &str, b: &str) -> Result<Value> {
    let whole = merged(Json::parse(a)?, Json::parse(b)?)?;
    let mut out = String::new();
    whole.write(&mut out);
    nodedb_types::json::canonical(&out).map(Value::Jsonb)
}

pub(super) fn has_key(j: &Json, key: &str) -> bool {
    match j {
        Json::Object(_) => j.get(key).is_some(),
        Json::Array(items) => items
            .iter()
            .any(|i| matches!(i, Json::String(s) if s == key)),
        Json::String(s) => s == key,
        _ => false,
    }
}

fn kind(j: &Json) -> &'static str {
    match j {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

fn array_length(j: &Json) -> Result<Value> {
    match j {
        Json::Array(items) => Ok(Value::Int4(items.len() as i32)),
        Json::Object(_) => Err(Failure::new(
            SqlState::InvalidParameterValue,
            "cannot get array length of a non-array",
        )),
        _ => Err(Failure::new(
            SqlState::InvalidParameterValue,
            "cannot get array length of a scalar",
        )),
    }
}

/// A value as `to_jsonb` gives it.
pub(crate) fn jsonb_of(value: &Value) -> Result<Value> {
    match value {
        Value::Null => Ok(Value::Null),
        value => to_jsonb(std::slice::from_ref(value)),
    }
}

fn to_jsonb(values: &[Value]) -> Result<Value> {
    let [value] = values else {
        return Err(super::wrong_arguments(values));
    };
    let mut out = String::new();
    nodedb_types::json::write_value(value, &mut out);
    nodedb_types::json::canonical(&out).map(Value::Jsonb)
}

fn build_object(values: &[Value]) -> Result<Value> {
    if values.len() % 2 == 1 {
        return Err(Failure::new(
            SqlState::InvalidParameterValue,
            "argument list must have even number of elements",
        ));
    }
    let mut out = String::from("{");
    for (i, pair) in values.chunks(2).enumerate() {
        if pair[0].is_null() {
            return Err(Failure::new(
                SqlState::InvalidParameterValue,
                format!("argument {}: key must not be null", i * 2 + 1),
            ));
        }
        if i > 0 {
            out.push_str(", ");
        }
        let mut key = String::new();
        nodedb_types::text::format(&pair[0], &mut key);
        nodedb_types::json::quote(&key, &mut out);
        out.push_str(": ");
        nodedb_types::json::write_value(&pair[1], &mut out);
    }
    out.push('}');
    nodedb_types::json::canonical(&out).map(Value::Jsonb)
}

fn build_array(values: &[Value]) -> Result<Value> {
    let mut out = String::from("[");
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        nodedb_types::json::write_value(value, &mut out);
    }
    out.push(']');
    nodedb_types::json::canonical(&out).map(Value::Jsonb)
}

const J: DataType = DataType::Jsonb;
const T: DataType = TEXT_TYPE;
const B: DataType = DataType::Bool;

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "->",
        &[JSONB, TEXT],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(k) => Ok(member(&Json::parse(j)?, k).map_or(Value::Null, json))),
        "member",
    ),
    row(
        "->",
        &[JSONB, INT4],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Int4(i) => Ok(element(&Json::parse(j)?, *i).map_or(Value::Null, json))),
        "element",
    ),
    row(
        "->>",
        &[JSONB, TEXT],
        T,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(k) => Ok(member(&Json::parse(j)?, k).map_or(Value::Null, plain))),
        "member as text",
    ),
    row(
        "->>",
        &[JSONB, INT4],
        T,
        |v| arguments!(v, Value::Jsonb(j), Value::Int4(i) => Ok(element(&Json::parse(j)?, *i).map_or(Value::Null, plain))),
        "element as text",
    ),
    row(
        "#>",
        &[JSONB, TEXT],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(p) => Ok(along(&Json::parse(j)?, p)?.map_or(Value::Null, json))),
        "what a path leads to",
    ),
    row(
        "jsonb_extract_path",
        &[JSONB, TEXT],
        J,
        |v| extract(v, json),
        "what the steps of a path lead to",
    )
    .variadic(),
    row(
        "jsonb_extract_path_text",
        &[JSONB, TEXT],
        T,
        |v| extract(v, plain),
        "what the steps of a path lead to, as text",
    )
    .variadic(),
    row(
        "#>>",
        &[JSONB, TEXT],
        T,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(p) => Ok(along(&Json::parse(j)?, p)?.map_or(Value::Null, plain))),
        "what a path leads to, as text",
    ),
    row(
        "@>",
        &[JSONB, JSONB],
        B,
        |v| arguments!(v, Value::Jsonb(a), Value::Jsonb(b) => Ok(Value::Bool(contains(&Json::parse(a)?, &Json::parse(b)?)))),
        "contains",
    ),
    row(
        "<@",
        &[JSONB, JSONB],
        B,
        |v| arguments!(v, Value::Jsonb(a), Value::Jsonb(b) => Ok(Value::Bool(contains(&Json::parse(b)?, &Json::parse(a)?)))),
        "is contained in",
    ),
    row(
        "?",
        &[JSONB, TEXT],
        B,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(k) => Ok(Value::Bool(has_key(&Json::parse(j)?, k)))),
        "has the key",
    ),
    row(
        "||",
        &[JSONB, JSONB],
        J,
        |v| arguments!(v, Value::Jsonb(a), Value::Jsonb(b) => concatenated(a, b)),
        "joined",
    ),
    row(
        "jsonb_typeof",
        &[JSONB],
        T,
        |v| arguments!(v, Value::Jsonb(j) => Ok(Value::Text(kind(&Json::parse(j)?).to_owned()))),
        "kind of value",
    ),
    row(
        "jsonb_array_length",
        &[JSONB],
        DataType::Int4,
        |v| arguments!(v, Value::Jsonb(j) => array_length(&Json::parse(j)?)),
        "number of elements",
    ),
    row(
        "to_jsonb",
        &[Argument::Any],
        J,
        to_jsonb,
        "a value as jsonb",
    ),
    row(
        "jsonb_build_object",
        &[Argument::Any],
        J,
        build_object,
        "an object of keys and values",
    )
    .variadic()
    .sees_null(),
    row(
        "jsonb_build_object",
        &[],
        J,
        build_object,
        "an empty object",
    ),
    row(
        "jsonb_build_array",
        &[Argument::Any],
        J,
        build_array,
        "an array of values",
    )
    .variadic()
    .sees_null(),
];
