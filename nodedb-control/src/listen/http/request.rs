//! A query as `POST /v1/query` has it: declared JSON, or declared SQL text.
//!
//! What a client sends and this server does not know of (members, parameters of the address, encodings)
//! is refused by name, since it would otherwise be ignored.

use axum::http::{HeaderMap, StatusCode, header};
use nodedb_query::catalog::similar;
use nodedb_types::{DataType, Failure, Result, SqlState, Value, text};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value as Json;
use sqlparser::ast;

use crate::session::Session;
use crate::session::execution::{Execution, Tag};
use crate::sql::parse::Statement;

#[derive(Debug, Default, PartialEq)]
pub struct Query {
    pub sql: String,
    pub params: Vec<Json>,
    pub timeout_ms: Option<u64>,
}

/// A refusal with its status.
type Refused = (StatusCode, Failure);

/// Members of the body.
const MEMBERS: [&str; 3] = ["sql", "params", "timeout_ms"];

impl Query {
    /// Reads a request's body. `address`: the part of the address behind `?`.
    pub fn read(
        headers: &HeaderMap,
        address: Option<&str>,
        body: &[u8],
    ) -> std::result::Result<Query, Refused> {
        check_address(address)?;
        check_headers(headers)?;
        let declared = header(headers, header::CONTENT_TYPE);
        let (kind, parameters) = declared.split_once(';').unwrap_or((declared, ""));
        match kind.trim().to_ascii_lowercase().as_str() {
            "application/json" => json(body).map_err(|failure| (StatusCode::BAD_REQUEST, failure)),
            "application/sql" | "text/sql" | "application/x-sql" => {
                check_charset(parameters)?;
                let sql = std::str::from_utf8(body).map_err(|_| {
                    let failure = Failure::new(
                        SqlState::CharacterNotInRepertoire,
                        "invalid byte sequence for encoding \"UTF8\"",
                    );
                    (StatusCode::BAD_REQUEST, failure)
                })?;
                Ok(Query {
                    sql: sql.to_owned(),
                    ..Query::default()
                })
            }
            _ => {
                let failure = Failure::new(
                    SqlState::ProtocolViolation,
                    "the body must be declared as JSON or SQL text",
                )
                .with_hint("set Content-Type to application/json or application/sql");
                Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, failure))
            }
        }
    }

    pub async fn run(&self, session: &mut Session) -> Result<Execution> {
        let hints = vec![None; self.params.len()];
        let Some(prepared) = session.prepare_text(&self.sql, &hints)? else {
            return Ok(Execution::done(Tag::Empty));
        };
        check_statement(&prepared.parsed.statement)?;
        if prepared.parameters.len() != self.params.len() {
            return Err(Failure::new(
                SqlState::ProtocolViolation,
                format!(
                    "the request has {} parameters, but the statement requires {}",
                    self.params.len(),
                    prepared.parameters.len()
                ),
            ));
        }
        let values = self
            .params
            .iter()
            .zip(&prepared.parameters)
            .map(|(json, data_type)| parameter(json, data_type))
            .collect::<Result<_>>()?;
        session.run(&prepared, &values).await
    }
}

/// A header's text; empty when it is not there or not ASCII.
fn header(headers: &HeaderMap, name: header::HeaderName) -> &str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn check_address(query: Option<&str>) -> std::result::Result<(), Refused> {
    match query.unwrap_or_default().split(['&', '=']).next() {
        None | Some("") => Ok(()),
        Some(name) => {
            let failure = Failure::new(
                SqlState::InvalidParameterValue,
                format!("the address takes no parameters, such as \"{name}\""),
            )
            .with_hint("parameters are members of a JSON body");
            Err((StatusCode::BAD_REQUEST, failure))
        }
    }
}

/// Refuses what a client must not believe to be in force.
fn check_headers(headers: &HeaderMap) -> std::result::Result<(), Refused> {
    let encoding = header(headers, header::CONTENT_ENCODING).trim();
    if headers.contains_key(header::CONTENT_ENCODING) && !encoding.eq_ignore_ascii_case("identity")
    {
        let failure = Failure::unsupported(format!("a body in the encoding \"{encoding}\""))
            .with_hint("send it as it is, without Content-Encoding");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, failure));
    }
    if headers.contains_key("idempotency-key") {
        let failure = Failure::unsupported("Idempotency-Key")
            .with_hint("give rows a key and write with ON CONFLICT, which may be sent again");
        return Err((StatusCode::NOT_IMPLEMENTED, failure));
    }
    Ok(())
}

fn check_charset(parameters: &str) -> std::result::Result<(), Refused> {
    let charset = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| value.trim().trim_matches('"'))
    });
    match charset {
        Some(name) if !["utf-8", "utf8", "us-ascii"].contains(&&*name.to_ascii_lowercase()) => {
            let failure = Failure::unsupported(format!("a body in the character set \"{name}\""))
                .with_hint("send UTF-8");
            Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, failure))
        }
        _ => Ok(()),
    }
}

/// A session's settings end with the request, which is one statement. `RESET` is fine: they are as
/// it wants them.
fn check_statement(statement: &Statement) -> Result<()> {
    match statement {
        Statement::Sql(statement) if matches!(**statement, ast::Statement::Set(_)) => Err(
            Failure::unsupported("SET over HTTP, where every request is a session,").with_hint(
                "timeout_ms limits one request; other settings need a session over PostgreSQL's \
                 protocol",
            ),
        ),
        _ => Ok(()),
    }
}

/// The members of a JSON object as they were sent, in order: of two with one name a map would keep
/// the later, and nobody would hear of the other.
struct Members(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Members, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Reader)
    }
}

/// `{"sql", "params", "timeout_ms"}`, each at most once.
fn json(body: &[u8]) -> Result<Query> {
    const HINT: &str = "send {\"sql\": \"…\", \"params\": […], \"timeout_ms\": n}";
    let malformed =
        |message: String| Failure::new(SqlState::ProtocolViolation, message).with_hint(HINT);
    let Members(members) = serde_json::from_slice(body)
        .map_err(|e| malformed(format!("the body is no JSON object: {e}")))?;
    let mut query = Query::default();
    let mut has_sql = false;
    for (at, (name, _)) in members.iter().enumerate() {
        if members[..at].iter().any(|(earlier, _)| earlier == name) {
            let message = format!("\"{name}\" is sent more than once");
            return Err(Failure::new(SqlState::InvalidParameterValue, message).with_hint(HINT));
        }
        // One that is unknown is refused below; there may be a great many of them.
        if !MEMBERS.contains(&name.as_str()) {
            break;
        }
    }
    for (name, value) in members {
        let wrong = |wanted: &str| {
            let message = format!("\"{name}\" must be {wanted}");
            Failure::new(SqlState::InvalidParameterValue, message).with_hint(HINT)
        };
        match (name.as_str(), value) {
            ("sql", Json::String(sql)) => (query.sql, has_sql) = (sql, true),
            ("sql", _) => return Err(wrong("a string")),
            ("params", Json::Array(params)) => query.params = params,
            ("params", Json::Null) | ("timeout_ms", Json::Null) => {}
            ("params", _) => return Err(wrong("an array")),
            ("timeout_ms", value) => match value.as_u64() {
                Some(ms) if ms > 0 => query.timeout_ms = Some(ms),
                _ => return Err(wrong("a whole number of milliseconds, at least 1")),
            },
            _ => {
                let failure = Failure::new(
                    SqlState::InvalidParameterValue,
                    format!("\"{name}\" is no member of a query"),
                );
                return Err(match similar(&name, MEMBERS) {
                    Some(near) => failure.with_hint(format!("did you mean \"{near}\"?")),
                    None => failure.with_hint(HINT),
                });
            }
        }
    }
    match has_sql {
        true => Ok(query),
        false => Err(malformed("the body lacks \"sql\"".to_owned())),
    }
}

/// A parameter as JSON has it: its text is read as a literal of the type would be. An array of
/// numbers is a vector; for jsonb anything is a value, strings included.
fn parameter(json: &Json, data_type: &DataType) -> Result<Value> {
    let written = match json {
        Json::Null => return Ok(Value::Null),
        json if *data_type == DataType::Jsonb => match json {
            // A string is JSON text, as it would be in SQL.
            Json::String(text) => text.clone(),
            json => json.to_string(),
        },
        Json::String(text) => text.clone(),
        Json::Bool(_) | Json::Number(_) => json.to_string(),
        Json::Array(_) if matches!(data_type, DataType::Vector(_)) => json.to_string(),
        Json::Array(_) | Json::Object(_) => {
            return Err(Failure::new(
                SqlState::DatatypeMismatch,
                format!(
                    "a parameter of type {} cannot be given so",
                    data_type.name()
                ),
            ));
        }
    };
    text::parse(&written, data_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, body: &str) -> std::result::Result<Query, StatusCode> {
        let mut headers = HeaderMap::new();
        if let Ok(kind) = kind.parse() {
            headers.insert(header::CONTENT_TYPE, kind);
        }
        Query::read(&headers, None, body.as_bytes()).map_err(|(status, _)| status)
    }

    #[test]
    fn bodies_must_be_declared() {
        let query = read(
            "application/json; charset=utf-8",
            r#"{"sql": "SELECT $1", "params": [1]}"#,
        );
        assert_eq!(query.expect("reads").params.len(), 1);
        assert_eq!(
            read("application/sql", "SELECT 1").expect("reads").sql,
            "SELECT 1"
        );
        let refused = |kind, body| read(kind, body).expect_err("refused");
        assert_eq!(
            refused("text/plain", "SELECT 1"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
        assert_eq!(refused("", "SELECT 1"), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(refused("application/json", "{"), StatusCode::BAD_REQUEST);
        for body in [
            r#"{"sql": "", "x": 1}"#,
            r#"{"sql": "SELECT 1", "params": [], "sql": "SELECT 2"}"#,
            r#"{"sql": "SELECT 1", "timeout_ms": 1, "timeout_ms": null}"#,
        ] {
            assert_eq!(
                refused("application/json", body),
                StatusCode::BAD_REQUEST,
                "{body}"
            );
        }
        // Within a value the last one counts, as in PostgreSQL's jsonb.
        let body = r#"{"sql": "SELECT $1::jsonb", "params": [{"a": 1, "a": 2}]}"#;
        let query = read("application/json", body).expect("reads");
        assert_eq!(query.params, [serde_json::json!({"a": 2})]);
    }

    #[test]
    fn parameters_take_their_types() {
        let value =
            |json: &str, t: DataType| parameter(&serde_json::from_str(json).expect("json"), &t);
        assert_eq!(value("7", DataType::Int8).expect("fits"), Value::Int8(7));
        assert_eq!(
            value("\"7\"", DataType::Int4).expect("fits"),
            Value::Int4(7)
        );
        assert_eq!(value("null", DataType::Int4).expect("fits"), Value::Null);
        assert_eq!(
            value("[1, 2.5]", DataType::Vector(Some(2))).expect("fits"),
            Value::Vector(vec![1.0, 2.5])
        );
        assert_eq!(
            value("{\"a\":1}", DataType::Jsonb).expect("fits"),
            Value::Jsonb("{\"a\": 1}".into())
        );
        value("[1]", DataType::Int4).expect_err("no vector");
        value("[1]", DataType::Vector(Some(2))).expect_err("another dimension");
    }
}
