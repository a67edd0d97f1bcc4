//! What SQL asks about the server and its session, and helpers of catalog queries.

use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::{Argument, Function, INT4, INT8, TEXT, TEXT_TYPE, arguments, row, stable};

fn text(s: impl Into<String>) -> Result<Value> {
    Ok(Value::Text(s.into()))
}

/// A type's name for an OID and a type modifier.
fn format_type(values: &[Value]) -> Result<Value> {
    let [Value::Int8(oid), modifier] = values else {
        return Ok(Value::Null);
    };
    let modifier = match modifier {
        Value::Int4(m) => i64::from(*m),
        Value::Int8(m) => *m,
        _ => -1,
    };
    text(crate::catalog_tables::format_type(*oid, modifier as i32))
}

const T: DataType = TEXT_TYPE;
const B: DataType = DataType::Bool;

pub(super) static FUNCTIONS: &[Function] = &[
    stable("version", &[], T, |_, e| text(format!("PostgreSQL {}", e.session.server_version)), "the server's version"),
    stable("current_database", &[], T, |_, e| text(e.session.database.clone()), "the database"),
    stable("current_catalog", &[], T, |_, e| text(e.session.database.clone()), "the database"),
    stable("current_user", &[], T, |_, e| text(e.session.user.clone()), "the user"),
    stable("session_user", &[], T, |_, e| text(e.session.user.clone()), "the user"),
    stable("user", &[], T, |_, e| text(e.session.user.clone()), "the user"),
    stable("current_role", &[], T, |_, e| text(e.session.user.clone()), "the user"),
    // Sessions hold no such locks, so each has given up all of its own.
    stable("pg_advisory_unlock_all", &[], T, |_, _| text(String::new()), "nothing; there are no advisory locks"),
    stable("pg_backend_pid", &[], DataType::Int4, |_, e| Ok(Value::Int4(e.session.process_id)), "the session's number"),
    row("current_schema", &[], T, |_| text("public"), "the schema that names are looked up in"),
    row("current_schemas", &[Argument::Is(B)], T, |v| arguments!(v, Value::Bool(implicit) => text(if *implicit { "{pg_catalog,public}" } else { "{public}" })), "the schemas that names are looked up in"),
    row("format_type", &[INT8, INT4], T, format_type, "a type's name").sees_null(),
    row("format_type", &[INT8, INT8], T, format_type, "a type's name").sees_null(),
    row("pg_typeof", &[Argument::Any], T, |v| arguments!(v, value => text(value.data_type_hint().map_or("unknown", |t| t.plain_name()))), "the type of a value").sees_null(),
    row("pg_encoding_to_char", &[INT4], T, |v| arguments!(v, Value::Int4(n) => text(if *n == 6 { "UTF8" } else { "" })), "name of an encoding"),
    row("pg_get_userbyid", &[INT8], T, |v| arguments!(v, Value::Int8(oid) => text(if *oid == 10 { "nodedb".to_owned() } else { format!("unknown (OID={oid})") })), "name of a role"),
    row("array_to_string", &[TEXT, TEXT], T, |v| arguments!(v, Value::Text(a), Value::Text(s) => text(super::json::path_steps(a)?.join(s))), "an array's elements in one text"),
    row("array_length", &[TEXT, INT4], DataType::Int4, |v| arguments!(v, Value::Text(a), Value::Int4(n) => { let items = super::json::path_steps(a)?; Ok(if *n == 1 && !items.is_empty() { Value::Int4(items.len() as i32) } else { Value::Null }) }), "number of an array's elements"),
    row("array_upper", &[TEXT, INT4], DataType::Int4, |v| arguments!(v, Value::Text(a), Value::Int4(n) => { let items = super::json::path_steps(a)?; Ok(if *n == 1 && !items.is_empty() { Value::Int4(items.len() as i32) } else { Value::Null }) }), "the last index of an array"),
    row("array_element", &[TEXT, INT4], T, |v| arguments!(v, Value::Text(a), Value::Int4(n) => Ok(super::json::path_steps(a)?.into_iter().nth(usize::try_from(i64::from(*n) - 1).unwrap_or(usize::MAX)).map_or(Value::Null, Value::Text))), "an element of an array"),
    row("array_element_text", &[TEXT], T, |v| text(match v { [Value::Text(element)] => super::array::quoted(element), _ => "NULL".to_owned() }), "a text as an element of an array's text").sees_null(),
    row("pg_char_to_encoding", &[TEXT], DataType::Int4, |v| arguments!(v, Value::Text(name) => Ok(Value::Int4(if name.eq_ignore_ascii_case("utf8") { 6 } else { -1 }))), "number of an encoding"),
    row("getdatabaseencoding", &[], T, |_| text("UTF8"), "the encoding of the database"),
    row("pg_is_in_recovery", &[], B, |_| Ok(Value::Bool(false)), "the server is a standby"),
    row("txid_current", &[], DataType::Int8, |_| Err(Failure::unsupported("txid_current")), "transaction numbers are not shown"),
    row("has_schema_privilege", &[TEXT, TEXT], B, |_| Ok(Value::Bool(true)), "every user is superuser"),
    row("has_table_privilege", &[Argument::Any, TEXT], B, |_| Ok(Value::Bool(true)), "every user is superuser"),
    row("has_database_privilege", &[TEXT, TEXT], B, |_| Ok(Value::Bool(true)), "every user is superuser"),
    row("pg_relation_is_publishable", &[INT8], B, |_| Ok(Value::Bool(false)), "relations are not published this way"),
    row("row_count", &[INT8], DataType::Int8, |v| row_count(v, SqlState::InvalidRowCount, "LIMIT"), "the number itself; negative ones are refused"),
    row("row_offset", &[INT8], DataType::Int8, |v| row_count(v, SqlState::InvalidRowOffset, "OFFSET"), "the number itself; negative ones are refused"),
    row("pg_size_pretty", &[INT8], T, |v| arguments!(v, Value::Int8(n) => text(size_pretty(*n))), "bytes in readable units"),
];

/// What a computed LIMIT or OFFSET counts by.
fn row_count(values: &[Value], state: SqlState, what: &str) -> Result<Value> {
    arguments!(values, Value::Int8(n) => match *n {
        0.. => Ok(Value::Int8(*n)),
        _ => Err(Failure::new(state, format!("{what} must not be negative"))),
    })
}

fn size_pretty(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (bytes, 0);
    while value.abs() >= 10 * 1024 && unit + 1 < UNITS.len() {
        value = (value + value.signum() * 512) / 1024;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}
