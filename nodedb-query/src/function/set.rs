//! Functions that give a row per value, in a select list and in FROM. (`generate_series` is a
//! relation of its own there, see [`crate::rel::Rel::Series`].)

use std::fmt;

use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::json::{json, plain};
use super::{TEXT_TYPE, arguments};
use nodedb_types::json::Json;

/// A function of several values.
pub(crate) struct SetFunction {
    pub name: &'static str,
    pub arguments: &'static [DataType],
    pub returns: DataType,
    /// Of arguments of which none is NULL.
    pub kernel: fn(&[Value]) -> Result<Vec<Value>>,
}

impl fmt::Debug for SetFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.arguments.len())
    }
}

const J: DataType = DataType::Jsonb;
const T: DataType = TEXT_TYPE;

static FUNCTIONS: &[SetFunction] = &[
    set("jsonb_array_elements", &[J], J, |v| elements(v, false)),
    set("jsonb_array_elements_text", &[J], T, |v| elements(v, true)),
    set("jsonb_object_keys", &[J], T, object_keys),
    // The columns of jsonb_each and jsonb_each_text, see [`record`].
    set(EACH_KEY, &[J], T, |v| {
        Ok(members(v)?
            .into_iter()
            .map(|(k, _)| Value::Text(k))
            .collect())
    }),
    set(EACH_VALUE, &[J], J, |v| {
        Ok(members(v)?.iter().map(|(_, j)| json(j)).collect())
    }),
    set(EACH_TEXT, &[J], T, |v| {
        Ok(members(v)?.iter().map(|(_, j)| plain(j)).collect())
    }),
    set("regexp_split_to_table", &[T, T], T, super::regexp::split),
    set("regexp_split_to_table", &[T, T, T], T, super::regexp::split),
    set("string_to_table", &[T, T], T, string_to_table),
    set("unnest", &[T], T, unnest),
];

/// Names that no call can have.
const EACH_KEY: &str = "jsonb_each.key";
const EACH_VALUE: &str = "jsonb_each.value";
const EACH_TEXT: &str = "jsonb_each_text.value";

/// A function that gives rows of several columns: the name of each column, and the function of one
/// value that gives it. They give equally many values.
pub(crate) fn record(name: &str) -> Option<&'static [(&'static str, &'static str)]> {
    match name {
        "jsonb_each" => Some(&[("key", EACH_KEY), ("value", EACH_VALUE)]),
        "jsonb_each_text" => Some(&[("key", EACH_KEY), ("value", EACH_TEXT)]),
        _ => None,
    }
}

const fn set(
    name: &'static str,
    arguments: &'static [DataType],
    returns: DataType,
    kernel: fn(&[Value]) -> Result<Vec<Value>>,
) -> SetFunction {
    SetFunction {
        name,
        arguments,
        returns,
        kernel,
    }
}

/// Whether a name is one of a function that gives rows.
pub(crate) fn is_set_function(name: &str) -> bool {
    name == "generate_series" || FUNCTIONS.iter().any(|f| f.name == name)
}

pub(crate) fn set_function(name: &str, arguments: usize) -> Option<&'static SetFunction> {
    FUNCTIONS
        .iter()
        .find(|f| f.name == name && f.arguments.len() == arguments)
}

fn elements(values: &[Value], as_text: bool) -> Result<Vec<Value>> {
    let refused = |what: &str| {
        Err(Failure::new(
            SqlState::InvalidParameterValue,
            format!("cannot extract elements from {what}"),
        ))
    };
    arguments!(values, Value::Jsonb(text) => match Json::parse(text)? {
        Json::Array(items) => Ok(items.iter().map(if as_text { plain } else { json }).collect()),
        Json::Object(_) => refused("an object"),
        _ => refused("a scalar"),
    })
}

fn members(values: &[Value]) -> Result<Vec<(String, Json)>> {
    arguments!(values, Value::Jsonb(text) => match Json::parse(text)? {
        Json::Object(members) => Ok(members.into_iter().collect()),
        _ => Err(Failure::new(
            SqlState::InvalidParameterValue,
            "cannot call jsonb_each on a non-object",
        )),
    })
}

fn object_keys(values: &[Value]) -> Result<Vec<Value>> {
    let refused = |what: &str| {
        Err(Failure::new(
            SqlState::InvalidParameterValue,
            format!("cannot call jsonb_object_keys on {what}"),
        ))
    };
    arguments!(values, Value::Jsonb(text) => match Json::parse(text)? {
        Json::Object(members) => Ok(members.into_iter().map(|(k, _)| Value::Text(k)).collect()),
        Json::Array(_) => refused("an array"),
        _ => refused("a scalar"),
    })
}

/// The elements of an array of text. The binder keeps away arrays of other types, whose elements
/// would be no text.
fn unnest(values: &[Value]) -> Result<Vec<Value>> {
    arguments!(values, Value::Text(array) => {
        let elements = super::array::elements(array)?.into_iter();
        Ok(elements.map(|e| e.map_or(Value::Null, Value::Text)).collect())
    })
}

/// Parts between separators; an empty separator leaves the text whole.
fn string_to_table(values: &[Value]) -> Result<Vec<Value>> {
    arguments!(values, Value::Text(text), Value::Text(separator) => {
        Ok(match (text.is_empty(), separator.is_empty()) {
            (true, _) => Vec::new(),
            (_, true) => vec![Value::Text(text.clone())],
            _ => text
                .split(separator.as_str())
                .map(|part| Value::Text(part.to_owned()))
                .collect(),
        })
    })
}
