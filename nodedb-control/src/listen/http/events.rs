//! `GET /v1/streams/{name}/events`: a change stream as server-sent events.
//!
//! The id of an event is its commit timestamp. A client that comes back with `Last-Event-ID` gets
//! that commit again, whole, and what follows; one that comes for the first time begins with the
//! oldest that is kept, or with `?since=`. A comment every 15 seconds keeps the connection alive.

use std::rc::Rc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures::channel::oneshot;
use nodedb_bridge::port::{StreamEvent, StreamRows};
use nodedb_types::{CommitTs, Failure, Result, SqlState};
use tokio::sync::mpsc;

use super::{PIECES, Server, body, failed, stopping};
use crate::node::Worker;
use crate::session::stream;

/// Silence before a comment is sent.
const HEARTBEAT: Duration = Duration::from_secs(15);

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
    let (pieces_tx, pieces) = mpsc::channel::<Bytes>(PIECES);
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
                        send(rows, is_there, &pieces_tx).await;
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
) {
    loop {
        let next = tokio::select! {
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
                // The client may be gone; there is nothing more to say either way.
                let _ = pieces
                    .send(format!("event: error\ndata: {json}\n\n").into())
                    .await;
                return;
            }
        };
        if pieces.send(text.into()).await.is_err() {
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
    }
}
