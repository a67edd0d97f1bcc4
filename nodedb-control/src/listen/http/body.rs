//! The reply's body: one JSON document, or a line per row (NDJSON), made piece by piece.
//!
//! int8 is a number, numeric a string, bytea `\x…`, a vector an array, jsonb itself; everything
//! else that JSON has no form for is its text. An error in mid-stream ends an NDJSON body with an
//! `error` line, and so does a node that stops; a JSON document is made whole before its first byte
//! is sent, within the limit of a statement's memory, so that its status tells.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType as Arrow, Int16Type, Int32Type, Int64Type};
use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use futures::channel::oneshot;
use nodedb_query::catalog::ResultColumn;
use nodedb_types::{DataType, Failure, Result, SqlState, Value, arrow_map, text};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use crate::session::execution::Execution;
use crate::shutdown::{Shutdown, Stage, stopping};

/// Largest JSON document, bytes; NDJSON has no limit.
const DOCUMENT_BYTES_MAX: usize = 256 << 20;

/// Bytes of a piece.
const PIECE_BYTES: usize = 32 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Json,
    Lines,
}

impl Shape {
    /// The shape that the client likes best, the first of several; `None` when it accepts none.
    pub fn of(headers: &HeaderMap) -> Option<Shape> {
        let mut best: Option<(f32, Shape)> = None;
        let mut is_open = true;
        for accept in headers.get_all(header::ACCEPT) {
            is_open = false;
            for kind in accept.to_str().ok()?.split(',') {
                let mut parts = kind.split(';').map(str::trim);
                let name = parts.next().unwrap_or_default().to_ascii_lowercase();
                let weight = parts.find_map(|p| p.strip_prefix("q=")?.parse().ok());
                let weight: f32 = weight.unwrap_or(1.0);
                let shape = match name.as_str() {
                    "" | "*/*" | "application/*" | "application/json" => Shape::Json,
                    "application/x-ndjson"
                    | "application/ndjson"
                    | "application/jsonlines"
                    | "application/x-jsonlines" => Shape::Lines,
                    _ => continue,
                };
                if weight > best.map_or(0.0, |(weight, _)| weight) {
                    best = Some((weight, shape));
                }
            }
        }
        match is_open {
            true => Some(Shape::Json),
            false => best.map(|(_, shape)| shape),
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Shape::Json => "application/json",
            Shape::Lines => "application/x-ndjson",
        }
    }

    /// Sends the whole body, or what there is of it when the node's grace is over; gives the number
    /// of rows sent. `begun` hears that it begins, or why it does not.
    pub async fn send(
        self,
        execution: &mut Execution,
        begun: oneshot::Sender<std::result::Result<(), Failure>>,
        pieces: &mpsc::Sender<Bytes>,
        shutdown: &Shutdown,
    ) -> u64 {
        match self {
            Shape::Json => document(execution, begun, pieces, shutdown).await,
            Shape::Lines => lines(execution, begun, pieces, shutdown).await,
        }
    }
}

fn columns_json(columns: &[ResultColumn]) -> Json {
    columns
        .iter()
        .map(|c| json!({"name": c.name, "type": c.data_type.name()}))
        .collect()
}

async fn document(
    execution: &mut Execution,
    begun: oneshot::Sender<std::result::Result<(), Failure>>,
    pieces: &mpsc::Sender<Bytes>,
    shutdown: &Shutdown,
) -> u64 {
    let made = tokio::select! {
        made = whole(execution) => made,
        () = pieces.closed() => return 0,
        () = shutdown.reached(Stage::Over) => Err(stopping()),
    };
    match made {
        Err(failure) => {
            let _ = begun.send(Err(failure));
            0
        }
        Ok((text, rows)) => {
            if begun.send(Ok(())).is_ok() {
                let _ = pieces.send(text.into()).await;
            }
            rows
        }
    }
}

async fn whole(execution: &mut Execution) -> Result<(String, u64)> {
    let columns = execution.columns.clone().unwrap_or_else(|| [].into());
    let mut out = format!("{{\"columns\":{},\"rows\":[", columns_json(&columns));
    let mut rows = 0;
    while let Some(batch) = execution.next().await? {
        for row in 0..batch.num_rows() {
            if rows > 0 {
                out.push(',');
            }
            row_json(&batch, row, &columns, &mut out)?;
            rows += 1;
        }
        if out.len() > DOCUMENT_BYTES_MAX {
            return Err(Failure::new(
                SqlState::ProgramLimitExceeded,
                format!("the reply is longer than {DOCUMENT_BYTES_MAX} bytes"),
            )
            .with_hint("ask for application/x-ndjson, which comes row by row"));
        }
    }
    let command = json!(execution.tag.text(rows));
    out.push_str(&format!("],\"command\":{command}}}\n"));
    Ok((out, rows))
}

async fn lines(
    execution: &mut Execution,
    begun: oneshot::Sender<std::result::Result<(), Failure>>,
    pieces: &mpsc::Sender<Bytes>,
    shutdown: &Shutdown,
) -> u64 {
    let columns = execution.columns.clone().unwrap_or_else(|| [].into());
    if begun.send(Ok(())).is_err() {
        return 0;
    }
    let mut over = std::pin::pin!(shutdown.reached(Stage::Over));
    let mut rows = 0;
    let mut out = format!("{}\n", json!({"columns": columns_json(&columns)}));
    let end = 'rows: loop {
        let next = tokio::select! {
            next = execution.next() => next,
            () = pieces.closed() => return rows,
            () = &mut over => Err(stopping()),
        };
        let batch = match next {
            Ok(Some(batch)) => batch,
            Ok(None) => break json!({"end": {"command": execution.tag.text(rows)}}),
            Err(failure) => break json!({"error": failure_json(&failure)}),
        };
        let mut failed = None;
        for row in 0..batch.num_rows() {
            let at = out.len();
            if let Err(failure) = row_json(&batch, row, &columns, &mut out) {
                out.truncate(at);
                failed = Some(failure);
                break;
            }
            out.push('\n');
            rows += 1;
            if out.len() >= PIECE_BYTES {
                let room = tokio::select! {
                    room = pieces.reserve() => room,
                    () = &mut over => {
                        break 'rows json!({"error": failure_json(&stopping())});
                    }
                };
                match room {
                    Ok(room) => room.send(std::mem::take(&mut out).into()),
                    Err(_) => return rows,
                }
            }
        }
        if let Some(failure) = failed {
            break json!({"error": failure_json(&failure)});
        }
    };
    out.push_str(&format!("{end}\n"));
    // The client may be gone.
    let _ = pieces.send(out.into()).await;
    rows
}

fn row_json(
    batch: &RecordBatch,
    row: usize,
    columns: &[ResultColumn],
    out: &mut String,
) -> Result<()> {
    out.push('[');
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        cell_json(batch.column(i).as_ref(), row, &column.data_type, out)?;
    }
    out.push(']');
    Ok(())
}

fn cell_json(array: &dyn Array, row: usize, data_type: &DataType, out: &mut String) -> Result<()> {
    if array.is_null(row) || matches!(array.data_type(), Arrow::Null) {
        out.push_str("null");
        return Ok(());
    }
    let integer = match array.data_type() {
        Arrow::Int16 => Some(i64::from(array.as_primitive::<Int16Type>().value(row))),
        Arrow::Int32 => Some(i64::from(array.as_primitive::<Int32Type>().value(row))),
        Arrow::Int64 => Some(array.as_primitive::<Int64Type>().value(row)),
        _ => None,
    };
    match integer {
        Some(n) => out.push_str(&n.to_string()),
        None => value_json(&arrow_map::value_at(array, row, data_type)?, out),
    }
    Ok(())
}

fn value_json(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(v) => out.push_str(if *v { "true" } else { "false" }),
        Value::Int2(v) => out.push_str(&v.to_string()),
        Value::Int4(v) => out.push_str(&v.to_string()),
        Value::Int8(v) => out.push_str(&v.to_string()),
        Value::Float4(v) if v.is_finite() => text::format(value, out),
        Value::Float8(v) if v.is_finite() => text::format(value, out),
        Value::Jsonb(json) => out.push_str(json),
        // Elements are finite, and their text form is that of a JSON array.
        Value::Vector(_) => text::format(value, out),
        other => {
            let mut written = String::new();
            text::format(other, &mut written);
            out.push_str(&Json::String(written).to_string());
        }
    }
}

/// The members that describe a failure in problem documents and error lines.
pub fn failure_json(failure: &Failure) -> Json {
    let mut json = json!({
        "code": failure.code().code(),
        "message": failure.message(),
    });
    let optional = [
        ("detail", failure.detail().map(Json::from)),
        ("hint", failure.hint().map(Json::from)),
        ("position", failure.position().map(Json::from)),
        ("table", failure.object().table.clone().map(Json::from)),
        ("column", failure.object().column.clone().map(Json::from)),
        (
            "constraint",
            failure.object().constraint.clone().map(Json::from),
        ),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            json[name] = value;
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_accepted_shape_is_taken() {
        let of = |accept: &[&str]| {
            let mut headers = HeaderMap::new();
            for kinds in accept {
                headers.append(header::ACCEPT, kinds.parse().expect("a header"));
            }
            Shape::of(&headers)
        };
        assert_eq!(of(&[]), Some(Shape::Json));
        assert_eq!(of(&["text/html, */*;q=0.8"]), Some(Shape::Json));
        assert_eq!(of(&["application/x-ndjson"]), Some(Shape::Lines));
        let lines = ["application/json;q=0.5, application/x-ndjson"];
        assert_eq!(of(&lines), Some(Shape::Lines));
        assert_eq!(of(&["text/csv", "application/json"]), Some(Shape::Json));
        assert_eq!(of(&["text/csv"]), None);
        assert_eq!(of(&["application/json;q=0"]), None);
    }

    #[test]
    fn values_take_their_json_forms() {
        let shown = |value: Value| {
            let mut out = String::new();
            value_json(&value, &mut out);
            serde_json::from_str::<Json>(&out).unwrap_or_else(|e| panic!("{out}: {e}"))
        };
        assert_eq!(shown(Value::Int8(i64::MAX)), json!(i64::MAX));
        assert_eq!(
            shown(Value::Numeric(
                nodedb_types::numeric::Numeric::parse("1.50").expect("fits")
            )),
            json!("1.50")
        );
        assert_eq!(shown(Value::Bytea(vec![1, 255])), json!("\\x01ff"));
        assert_eq!(shown(Value::Vector(vec![1.5, -2.5])), json!([1.5, -2.5]));
        assert_eq!(shown(Value::Float8(f64::NAN)), json!("NaN"));
        assert_eq!(shown(Value::Float8(1e300)), json!(1e300));
        assert_eq!(shown(Value::Text("a\"b\n".into())), json!("a\"b\n"));
        assert_eq!(
            shown(Value::Jsonb("{\"a\": [1]}".into())),
            json!({"a": [1]})
        );
    }
}
