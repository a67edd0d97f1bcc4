//! `GET /v1/streams`: the change streams; `GET /v1/streams/{name}/events`: one of them as
//! server-sent events.
//!
//! The id of an event is its commit timestamp. A client that comes back with `Last-Event-ID` gets
//! that commit again, whole, and what follows; one that comes for the first time begins with the
//! oldest that is kept, or with `?since=`. A comment every 15 seconds keeps the connection alive.

use std::rc::Rc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::channel::oneshot;
use nodedb_bridge::port::{StreamEvent, StreamRows};
use nodedb_types::{CommitTs, Failure, Result, SqlState};
use tokio::sync::mpsc;

use super::{Server, body, failed, problem};
use crate::node::Worker;
use crate::session::stream;
use crate::shutdown::{FAREWELL, Shutdown, Stage, stopping, terminated};

/// Silence before a comment is sent.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Pieces that wait for a slow client: one, since many readers may be slow at a time.
const WAITING: usize = 1;

/// The change streams, by name, and where their events are.
pub(super) async fn list(State(server): State<Server>) -> Response {
    let streams: Vec<_> = stream::list(&server.node)
        .into_iter()
        .map(|(stream, collection)| {
            serde_json::json!({
                "name": stream.name,
                "collection": collection.name,
                "retention_bytes": stream.retention_bytes,
                "created_ts": stream.created.0,
                "events": format!("/v1/streams/{}/events", in_path(&stream.name)),
            })
        })
        .collect();
    axum::Json(serde_json::json!({ "streams": streams })).into_response()
}

/// A name as a segment of a path: what is no unreserved character (RFC 3986) is written as its
/// bytes.
fn in_path(name: &str) -> String {
    let mut written = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                written.push(char::from(byte));
            }
            _ => written.push_str(&format!("%{byte:02X}")),
        }
    }
    written
}

pub(super) async fn events(
    State(server): State<Server>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let since = match since(query.as_deref().unwrap_or_default(), &headers) {
        Ok(since) => since,
        Err(failure) => return failed(&failure),
    };
    let (begun_tx, begun) = oneshot::channel::<Result<()>>();
    let (pieces_tx, pieces) = mpsc::channel::<Bytes>(WAITING);
    let submitted = server.pool.submit(Box::new(move |worker: Rc<Worker>| {
        Box::pin(async move {
            match stream::open(&worker.node, &name, since, true) {
                Err(failure) => {
                    // The client may be gone.
                    let _ = begun_tx.send(Err(failure));
                }
                Ok(rows) => {
                    let opened = stream::id_of(&worker.node, &name);
                    let is_there = || match stream::id_of(&worker.node, &name) {
                        Ok(id) if Ok(id) == opened => Ok(()),
                        Ok(_) => Err(dropped(&name)),
                        Err(failure) => Err(failure),
                    };
                    if begun_tx.send(Ok(())).is_ok() {
                        send(rows, is_there, &pieces_tx, &worker.node.shutdown).await;
                    }
                }
            }
        })
    }));
    if let Err(failure) = submitted {
        return failed(&failure);
    }
    match begun.await {
        Ok(Ok(())) => {
            let kind = [
                (header::CONTENT_TYPE, "text/event-stream"),
                (header::CACHE_CONTROL, "no-store"),
            ];
            (kind, Body::from_stream(super::pieces(pieces))).into_response()
        }
        // The address names what does not exist.
        Ok(Err(failure)) if failure.code() == SqlState::UndefinedObject => {
            problem(StatusCode::NOT_FOUND, &failure)
        }
        Ok(Err(failure)) => failed(&failure),
        Err(_) => failed(&stopping()),
    }
}

/// Where to begin: `Last-Event-ID` goes before `?since=`.
fn since(query: &str, headers: &HeaderMap) -> Result<Option<CommitTs>> {
    let last = headers
        .get("last-event-id")
        .map(|v| v.to_str().unwrap_or_default());
    let mut asked = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        asked = Some(pair.strip_prefix("since=").ok_or_else(|| {
            let name = pair.split('=').next().unwrap_or_default();
            Failure::new(
                SqlState::InvalidParameterValue,
                format!("\"{name}\" is no parameter of a change stream"),
            )
            .with_hint("?since= chooses where to begin")
        })?);
    }
    let Some(text) = last.or(asked) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(ts) => Ok(Some(CommitTs(ts))),
        Err(_) => Err(Failure::new(
            SqlState::InvalidParameterValue,
            format!("\"{text}\" is no commit timestamp"),
        )),
    }
}

/// Another stream has the name now.
fn dropped(name: &str) -> Failure {
    Failure::new(
        SqlState::UndefinedObject,
        format!("change stream \"{name}\" was dropped"),
    )
}

/// Sends events until the client goes, or until there is something wrong, of which `is_there` is
/// asked whenever nothing has come for a while.
async fn send(
    mut rows: StreamRows,
    is_there: impl Fn() -> Result<()>,
    pieces: &mpsc::Sender<Bytes>,
    shutdown: &Shutdown,
) {
    loop {
        let next = tokio::select! {
            () = shutdown.reached(Stage::Stopping) => Ok(Some(Err(terminated()))),
            next = tokio::time::timeout(HEARTBEAT, rows.next()) => next,
            () = pieces.closed() => return,
        };
        let text = match next {
            Err(_) => is_there().map(|()| ":\n\n".to_owned()),
            Ok(None) => return,
            Ok(Some(events)) => events.map(|events| events.iter().map(event).collect()),
        };
        let text = match text {
            Ok(text) => text,
            Err(failure) => {
                let json = body::failure_json(&failure);
                let last = pieces.send(format!("event: error\ndata: {json}\n\n").into());
                // reason: a client that does not read is not waited for. It may be gone already;
                // there is nothing more to say either way.
                let _ = tokio::time::timeout(FAREWELL, last).await;
                return;
            }
        };
        // A client that has stalled does not keep the node from stopping.
        let sent = tokio::select! {
            sent = pieces.send(text.into()) => sent.is_ok(),
            () = shutdown.reached(Stage::Stopping) => false,
        };
        if !sent {
            return;
        }
    }
}

/// One event; its JSON holds no line breaks.
fn event(event: &StreamEvent) -> String {
    let null = || "null".to_owned();
    format!(
        "id: {id}\ndata: {{\"commit_ts\":{id},\"op\":\"{op}\",\"key\":{key},\"before\":{before},\"after\":{after}}}\n\n",
        id = event.commit_ts,
        op = event.op,
        key = event.key,
        before = event.before.clone().unwrap_or_else(null),
        after = event.after.clone().unwrap_or_else(null),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_framed_and_resumed() {
        let text = event(&StreamEvent {
            commit_ts: CommitTs(7),
            op: "insert",
            key: "{\"id\": 1}".into(),
            before: None,
            after: Some("{\"id\": 1, \"a\": \"x\\ny\"}".into()),
        });
        let data = text
            .lines()
            .nth(1)
            .and_then(|l| l.strip_prefix("data: "))
            .expect("data");
        let json: serde_json::Value = serde_json::from_str(data).expect("json");
        assert_eq!(json["after"]["a"], "x\ny");
        assert!(text.starts_with("id: 7\n") && text.ends_with("\n\n"));
        let mut headers = HeaderMap::new();
        assert_eq!(since("since=5", &headers).expect("fine"), Some(CommitTs(5)));
        headers.insert("last-event-id", "9".parse().expect("a header"));
        assert_eq!(since("since=5", &headers).expect("fine"), Some(CommitTs(9)));
        assert_eq!(since("", &HeaderMap::new()).expect("fine"), None);
        since("since=x", &HeaderMap::new()).expect_err("no timestamp");
        since("sinc=5", &HeaderMap::new()).expect_err("no parameter");
        assert_eq!(in_path("a b/ü"), "a%20b%2F%C3%BC");
    }
}
