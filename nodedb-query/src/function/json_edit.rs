//! jsonb, changed and ordered: members and elements removed, set and inserted, NULLs stripped,
//! printed with indents; which of several keys are there; the order of two values.

use std::cmp::Ordering;

use nodedb_types::json::Json;
use nodedb_types::numeric::Numeric;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::json::{has_key, path_steps};
use super::{BOOL, Function, INT4, JSONB, TEXT, TEXT_TYPE, arguments, row};

const J: DataType = DataType::Jsonb;

fn written(j: &Json) -> Result<Value> {
    let mut out = String::new();
    j.write(&mut out);
    nodedb_types::json::canonical(&out).map(Value::Jsonb)
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(SqlState::InvalidParameterValue, message.into())
}

/// The place of an element, counted from the end when negative; it may lie outside.
fn place(index: i64, length: usize) -> i64 {
    if index < 0 {
        length as i64 + index
    } else {
        index
    }
}

fn without_keys(j: &str, keys: &[String]) -> Result<Value> {
    let mut j = Json::parse(j)?;
    match &mut j {
        Json::Object(members) => members.retain(|(k, _)| !keys.contains(k)),
        Json::Array(items) => {
            items.retain(|item| !matches!(item, Json::String(s) if keys.contains(s)));
        }
        _ => return Err(invalid("cannot delete from scalar")),
    }
    written(&j)
}

fn without_element(j: &str, index: i32) -> Result<Value> {
    let mut j = Json::parse(j)?;
    match &mut j {
        Json::Array(items) => {
            let at = place(index.into(), items.len());
            if (0..items.len() as i64).contains(&at) {
                items.remove(at as usize);
            }
        }
        Json::Object(_) => {
            return Err(invalid("cannot delete from object using integer index"));
        }
        _ => return Err(invalid("cannot delete from scalar")),
    }
    written(&j)
}

/// What is done where a path ends.
enum Edit<'a> {
    Remove,
    /// `create`: where nothing is yet, too.
    Set {
        new: &'a Json,
        create: bool,
    },
    Insert {
        new: &'a Json,
        after: bool,
    },
}

fn is_container(j: &Json) -> bool {
    matches!(j, Json::Object(_) | Json::Array(_))
}

/// Follows a path and edits where it ends; a path that leads nowhere changes nothing.
fn edit(j: &mut Json, path: &[String], position: usize, what: &Edit<'_>) -> Result<()> {
    let Some(step) = path.get(position) else {
        return Ok(());
    };
    let last = position + 1 == path.len();
    match j {
        Json::Object(members) => {
            let found = members.iter().position(|(k, _)| k == step);
            match (found, last) {
                (Some(at), false) => edit(&mut members[at].1, path, position + 1, what)?,
                (None, false) => {}
                (found, true) => edit_member(members, step, found, what)?,
            }
        }
        Json::Array(items) => {
            let index: i64 = step.parse().map_err(|_| {
                Failure::new(
                    SqlState::InvalidTextRepresentation,
                    format!(
                        "path element at position {} is not an integer: \"{step}\"",
                        position + 1
                    ),
                )
            })?;
            let at = place(index, items.len());
            if last {
                edit_element(items, at, what);
            } else if let Ok(at) = usize::try_from(at)
                && let Some(item) = items.get_mut(at)
            {
                edit(item, path, position + 1, what)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn edit_member(
    members: &mut Vec<(String, Json)>,
    key: &str,
    found: Option<usize>,
    what: &Edit<'_>,
) -> Result<()> {
    match (what, found) {
        (Edit::Remove, Some(at)) => {
            members.remove(at);
        }
        (Edit::Set { new, .. }, Some(at)) => members[at].1 = (*new).clone(),
        (Edit::Set { new, create: true } | Edit::Insert { new, .. }, None) => {
            members.push((key.to_owned(), (*new).clone()));
        }
        (Edit::Insert { .. }, Some(_)) => {
            return Err(invalid("cannot replace existing key")
                .with_hint("Try using the function jsonb_set to replace key value."));
        }
        (Edit::Remove | Edit::Set { .. }, None) => {}
    }
    Ok(())
}

/// A place before the first is the first, one behind the last is behind it.
fn edit_element(items: &mut Vec<Json>, at: i64, what: &Edit<'_>) {
    let length = items.len() as i64;
    let inside = (0..length).contains(&at);
    match what {
        Edit::Remove if inside => {
            items.remove(at as usize);
        }
        Edit::Set { new, .. } if inside => items[at as usize] = (*new).clone(),
        Edit::Set { new, create: true } => {
            let at = if at < 0 { 0 } else { items.len() };
            items.insert(at, (*new).clone());
        }
        Edit::Insert { new, after } => {
            let shifted = at + i64::from(*after && inside);
            items.insert(shifted.clamp(0, length) as usize, (*new).clone());
        }
        Edit::Remove | Edit::Set { .. } => {}
    }
}

fn edited(j: &str, path: &str, what: &Edit<'_>) -> Result<Value> {
    let mut j = Json::parse(j)?;
    if !is_container(&j) {
        let verb = match what {
            Edit::Remove => "delete path in",
            Edit::Set { .. } | Edit::Insert { .. } => "set path in",
        };
        return Err(invalid(format!("cannot {verb} scalar")));
    }
    edit(&mut j, &path_steps(path)?, 0, what)?;
    written(&j)
}

fn set(j: &str, path: &str, new: &str, create: bool) -> Result<Value> {
    let new = Json::parse(new)?;
    edited(j, path, &Edit::Set { new: &new, create })
}

fn insert(j: &str, path: &str, new: &str, after: bool) -> Result<Value> {
    let new = Json::parse(new)?;
    edited(j, path, &Edit::Insert { new: &new, after })
}

fn strip_nulls(j: &mut Json) {
    match j {
        Json::Object(members) => {
            members.retain(|(_, value)| !matches!(value, Json::Null));
            members.iter_mut().for_each(|(_, value)| strip_nulls(value));
        }
        Json::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

fn indent(depth: usize, out: &mut String) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', depth * 4));
}

fn pretty(j: &Json, depth: usize, out: &mut String) {
    match j {
        Json::Object(members) => {
            out.push('{');
            for (i, (key, value)) in members.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                indent(depth + 1, out);
                nodedb_types::json::quote(key, out);
                out.push_str(": ");
                pretty(value, depth + 1, out);
            }
            indent(depth, out);
            out.push('}');
        }
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                indent(depth + 1, out);
                pretty(item, depth + 1, out);
            }
            indent(depth, out);
            out.push(']');
        }
        scalar => scalar.write(out),
    }
}

fn rank(j: &Json) -> u8 {
    match j {
        Json::Null => 0,
        Json::String(_) => 1,
        Json::Number(_) => 2,
        Json::Bool(_) => 3,
        Json::Array(_) => 4,
        Json::Object(_) => 5,
    }
}

fn numbers(a: &str, b: &str) -> Ordering {
    if let (Ok(a), Ok(b)) = (Numeric::parse(a), Numeric::parse(b)) {
        return a.cmp(&b);
    }
    // Beyond our exact numbers: by sign, length of the whole part, then digits.
    let parts = |s: &str| {
        let negative = s.starts_with('-');
        let s = s.trim_start_matches('-').to_owned();
        let (whole, fraction) = match s.split_once('.') {
            Some((whole, fraction)) => {
                (whole.to_owned(), fraction.trim_end_matches('0').to_owned())
            }
            None => (s.clone(), String::new()),
        };
        (negative, whole, fraction)
    };
    let ((na, wa, fa), (nb, wb, fb)) = (parts(a), parts(b));
    if na != nb {
        return nb.cmp(&na);
    }
    let order = wa.len().cmp(&wb.len()).then(wa.cmp(&wb)).then(fa.cmp(&fb));
    if na { order.reverse() } else { order }
}

/// PostgreSQL's order: null, strings, numbers, truths, arrays, objects; arrays and objects by their
/// number of parts first. A scalar stands below an array at the top, where an array of none stands
/// below it.
pub(super) fn order(a: &str, b: &str) -> Result<Ordering> {
    let (a, b) = (Json::parse(a)?, Json::parse(b)?);
    Ok(match (&a, &b) {
        (Json::Array(items), other) | (other, Json::Array(items)) if !is_container(other) => {
            let empty_first = items.is_empty() == matches!(a, Json::Array(_));
            if empty_first {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
        _ => values(&a, &b),
    })
}

fn values(a: &Json, b: &Json) -> Ordering {
    match (a, b) {
        (Json::String(a), Json::String(b)) => a.cmp(b),
        (Json::Number(a), Json::Number(b)) => numbers(a, b),
        (Json::Bool(a), Json::Bool(b)) => a.cmp(b),
        (Json::Array(a), Json::Array(b)) => a.len().cmp(&b.len()).then_with(|| {
            let mut orders = a.iter().zip(b).map(|(a, b)| values(a, b));
            orders.find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
        }),
        (Json::Object(a), Json::Object(b)) => a.len().cmp(&b.len()).then_with(|| {
            let pairs = a.iter().zip(b);
            let mut orders = pairs.map(|((ka, a), (kb, b))| ka.cmp(kb).then_with(|| values(a, b)));
            orders.find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
        }),
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

fn keys(j: &str, keys: &str, all: bool) -> Result<Value> {
    let j = Json::parse(j)?;
    let keys = path_steps(keys)?;
    let mut found = keys.iter().map(|key| has_key(&j, key));
    Ok(Value::Bool(if all {
        found.all(|f| f)
    } else {
        found.any(|f| f)
    }))
}

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "?|",
        &[JSONB, TEXT],
        DataType::Bool,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(k) => keys(j, k, false)),
        "has one of the keys",
    ),
    row(
        "?&",
        &[JSONB, TEXT],
        DataType::Bool,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(k) => keys(j, k, true)),
        "has all of the keys",
    ),
    row(
        "-",
        &[JSONB, TEXT],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(k) => without_keys(j, std::slice::from_ref(k))),
        "without a key",
    ),
    row(
        "-",
        &[JSONB, INT4],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Int4(i) => without_element(j, *i)),
        "without an element",
    ),
    row(
        "jsonb_delete_array",
        &[JSONB, TEXT],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(k) => without_keys(j, &path_steps(k)?)),
        "without several keys",
    ),
    row(
        "#-",
        &[JSONB, TEXT],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(p) => edited(j, p, &Edit::Remove)),
        "without what a path leads to",
    ),
    row(
        "jsonb_delete_path",
        &[JSONB, TEXT],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(p) => edited(j, p, &Edit::Remove)),
        "without what a path leads to",
    ),
    row(
        "jsonb_set",
        &[JSONB, TEXT, JSONB],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(p), Value::Jsonb(n) => set(j, p, n, true)),
        "with another value where a path leads",
    ),
    row(
        "jsonb_set",
        &[JSONB, TEXT, JSONB, BOOL],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(p), Value::Jsonb(n), Value::Bool(c) => set(j, p, n, *c)),
        "with another value where a path leads",
    ),
    row(
        "jsonb_insert",
        &[JSONB, TEXT, JSONB],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(p), Value::Jsonb(n) => insert(j, p, n, false)),
        "with one more value where a path leads",
    ),
    row(
        "jsonb_insert",
        &[JSONB, TEXT, JSONB, BOOL],
        J,
        |v| arguments!(v, Value::Jsonb(j), Value::Text(p), Value::Jsonb(n), Value::Bool(a) => insert(j, p, n, *a)),
        "with one more value where a path leads",
    ),
    row(
        "jsonb_strip_nulls",
        &[JSONB],
        J,
        |v| arguments!(v, Value::Jsonb(j) => { let mut j = Json::parse(j)?; strip_nulls(&mut j); written(&j) }),
        "without members that are null",
    ),
    row(
        "jsonb_pretty",
        &[JSONB],
        TEXT_TYPE,
        |v| arguments!(v, Value::Jsonb(j) => { let mut out = String::new(); pretty(&Json::parse(j)?, 0, &mut out); Ok(Value::Text(out)) }),
        "as text with indents",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_values_is_postgres_own() {
        let ascending = [
            "[]",
            "null",
            "\"a\"",
            "\"b\"",
            "1",
            "1.5",
            "20",
            "false",
            "true",
            "[1]",
            "[2]",
            "[1, 1]",
            "{}",
            "{\"a\": 1}",
            "{\"a\": 2}",
            "{\"b\": 0}",
            "{\"a\": 1, \"b\": 1}",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (k, b) in ascending.iter().enumerate() {
                assert_eq!(order(a, b).expect("json"), i.cmp(&k), "{a} and {b}");
            }
        }
        assert!(order("1", "1.0").expect("json").is_eq());
    }

    #[test]
    fn paths_are_edited_where_they_end() {
        let json = |v: Result<Value>| match v {
            Ok(Value::Jsonb(s)) => s,
            other => format!("{other:?}"),
        };
        assert_eq!(
            json(set("{\"a\":[1,2]}", "{a,-1}", "9", true)),
            "{\"a\": [1, 9]}"
        );
        assert_eq!(json(set("{\"a\":1}", "{b}", "2", false)), "{\"a\": 1}");
        assert_eq!(json(insert("[0,1]", "{1}", "9", true)), "[0, 1, 9]");
        assert_eq!(json(insert("[0,1]", "{-5}", "9", false)), "[9, 0, 1]");
        assert!(json(insert("{\"a\":1}", "{a}", "9", false)).contains("22023"));
        assert_eq!(
            json(edited("{\"a\":{\"b\":1,\"c\":2}}", "{a,b}", &Edit::Remove)),
            "{\"a\": {\"c\": 2}}"
        );
    }
}
