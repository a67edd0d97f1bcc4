//! The body of `POST /v1/query`: declared JSON, or declared SQL text.

use axum::http::{HeaderMap, StatusCode, header};
use nodedb_types::{DataType, Failure, Result, SqlState, Value, text};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::session::Session;
use crate::session::execution::{Execution, Tag};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub sql: String,
    #[serde(default)]
    pub params: Vec<Json>,
    pub timeout_ms: Option<u64>,
}

impl Query {
    pub fn read(
        headers: &HeaderMap,
        body: &[u8],
    ) -> std::result::Result<Query, (StatusCode, Failure)> {
        let declared = headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let kind = declared.split(';').next().unwrap_or_default().trim();
        match kind.to_ascii_lowercase().as_str() {
            "application/json" => serde_json::from_slice(body).map_err(|e| {
                let failure = Failure::new(
                    SqlState::ProtocolViolation,
                    format!("the body is no query: {e}"),
                );
                let hint = "send {\"sql\": \"…\", \"params\": […], \"timeout_ms\": n}";
                (StatusCode::BAD_REQUEST, failure.with_hint(hint))
            }),
            "application/sql" | "text/sql" | "application/x-sql" => {
                let sql = std::str::from_utf8(body).map_err(|_| {
                    let failure = Failure::new(
                        SqlState::CharacterNotInRepertoire,
                        "invalid byte sequence for encoding \"UTF8\"",
                    );
                    (StatusCode::BAD_REQUEST, failure)
                })?;
                Ok(Query {
                    sql: sql.to_owned(),
                    params: Vec::new(),
                    timeout_ms: None,
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
        Query::read(&headers, body.as_bytes()).map_err(|(status, _)| status)
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
        assert_eq!(
            refused("application/json", r#"{"sql": "", "x": 1}"#),
            StatusCode::BAD_REQUEST
        );
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
