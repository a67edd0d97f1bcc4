//! HTTP: `POST /v1/query`, `/v1/streams`, `/v1/streams/{name}/events`, `/healthz`, `/metrics`.
//!
//! A request is one statement in a session of its own. The server's futures may move between
//! threads, sessions may not; so a request is handed to a worker, whose session sends the body's
//! pieces back over a bounded channel. When the client goes away the channel closes and the
//! statement stops. Every request must name this server as its `Host`, so that a page of another
//! site cannot reach it through a name that it controls, and an `Origin` must be this server.

mod body;
mod events;
mod metrics;
mod request;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, RawQuery, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::channel::oneshot;
use nodedb_types::limits::STATEMENT_TEXT_BYTES_MAX;
use nodedb_types::{Failure, SqlState};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::node::{Node, Worker};
use crate::session::Session;
use crate::shutdown::{Stage, stopping};
use crate::worker::pool::Pool;
use body::Shape;
use request::Query;

/// Pieces of a body that wait for a slow client.
const PIECES: usize = 4;

/// Largest body: a statement and its parameters.
const BODY_BYTES_MAX: usize = 2 * STATEMENT_TEXT_BYTES_MAX;

#[derive(Clone)]
struct Server {
    pool: Pool,
    node: Arc<Node>,
    address: SocketAddr,
}

/// Serves until the node stops and every request has its answer.
pub async fn serve(listener: TcpListener, pool: Pool, node: Arc<Node>) -> std::io::Result<()> {
    let server = Server {
        pool,
        node: node.clone(),
        address: listener.local_addr()?,
    };
    let router = Router::new()
        .route("/v1/query", post(query))
        .route("/v1/streams", get(events::list))
        .route("/v1/streams/{name}/events", get(events::events))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, &not_found()) })
        .method_not_allowed_fallback(other_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(
            server.clone(),
            check_host,
        ))
        .with_state(server);
    let stopped = async move { node.shutdown.reached(Stage::Stopping).await };
    axum::serve(listener, router)
        .with_graceful_shutdown(stopped)
        .await
}

/// Answers what a resource does not do; axum adds `Allow` with what it does.
async fn other_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let message = format!("the method {method} is not allowed here");
    let failure = Failure::new(SqlState::ProtocolViolation, message);
    problem(StatusCode::METHOD_NOT_ALLOWED, &failure)
}

fn not_found() -> Failure {
    Failure::new(SqlState::UndefinedObject, "no such resource").with_hint(
        "POST /v1/query, GET /v1/streams, GET /v1/streams/{name}/events, GET /healthz, \
             GET /metrics",
    )
}

/// Lets a request pass that names this server by address or as localhost, that no page of another
/// site has sent, and that comes before the node stops.
async fn check_host(State(server): State<Server>, request: Request, next: Next) -> Response {
    if server.node.shutdown.has_begun() {
        let mut response = failed(&stopping());
        let close = header::HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        return response;
    }
    let origin = request.headers().get(header::ORIGIN);
    let foreign = origin.is_some_and(|origin| {
        let host = origin.to_str().ok().and_then(|o| o.strip_prefix("http://"));
        !host.is_some_and(|host| is_ours(host, server.address))
    });
    if foreign {
        let failure = Failure::new(
            SqlState::InvalidAuthorization,
            "pages of other sites may not use this server",
        );
        return problem(StatusCode::FORBIDDEN, &failure);
    }
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|h| h.to_str().ok())
        .or(request.uri().authority().map(|a| a.as_str()));
    match host {
        Some(host) if is_ours(host, server.address) => next.run(request).await,
        _ => {
            let failure = Failure::new(
                SqlState::InvalidAuthorization,
                "the Host header does not name this server",
            )
            .with_hint(format!("use http://{}", server.address));
            problem(StatusCode::MISDIRECTED_REQUEST, &failure)
        }
    }
}

fn is_ours(host: &str, address: SocketAddr) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port.parse().ok()),
        _ => (host, Some(80)),
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let known = bare.eq_ignore_ascii_case("localhost")
        || bare.parse() == Ok(address.ip())
        || (address.ip().is_loopback() && matches!(bare, "127.0.0.1" | "::1"));
    known && port == Some(address.port())
}

async fn healthz(State(server): State<Server>) -> Response {
    let latched = &server.node.counters.latched;
    match latched.load(std::sync::atomic::Ordering::Relaxed) {
        0 => (StatusCode::OK, "ok\n").into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "read-only until restart\n").into_response(),
    }
}

async fn metrics(State(server): State<Server>) -> Response {
    let (tx, rx) = oneshot::channel();
    let submitted = server.pool.submit(Box::new(|worker: Rc<Worker>| {
        Box::pin(async move {
            // The client may be gone.
            let _ = tx.send(metrics::text(&worker).await);
        })
    }));
    if let Err(failure) = submitted {
        return failed(&failure);
    }
    match rx.await {
        Ok(Ok(text)) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Ok(Err(failure)) => failed(&failure),
        Err(_) => failed(&stopping()),
    }
}

/// What a worker sends back: the reply's beginning, once, or a failure.
type Begun = Result<(), Failure>;

async fn query(
    State(server): State<Server>,
    RawQuery(address): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejected) => return unread(&rejected),
    };
    let query = match Query::read(&headers, address.as_deref(), &body) {
        Ok(query) => query,
        Err((status, failure)) => return problem(status, &failure),
    };
    let Some(shape) = Shape::of(&headers) else {
        let failure = Failure::new(
            SqlState::FeatureNotSupported,
            "no form of the reply that is accepted is supported",
        )
        .with_hint("accept application/json or application/x-ndjson");
        return problem(StatusCode::NOT_ACCEPTABLE, &failure);
    };
    let (begun_tx, begun) = oneshot::channel::<Begun>();
    let (pieces_tx, pieces) = mpsc::channel::<Bytes>(PIECES);
    let submitted = server.pool.submit(Box::new(move |worker: Rc<Worker>| {
        Box::pin(async move {
            answer(&worker, query, shape, begun_tx, pieces_tx).await;
        })
    }));
    if let Err(failure) = submitted {
        return failed(&failure);
    }
    match begun.await {
        Ok(Ok(())) => {
            let kind = [(header::CONTENT_TYPE, shape.content_type())];
            (kind, Body::from_stream(self::pieces(pieces))).into_response()
        }
        Ok(Err(failure)) => failed(&failure),
        Err(_) => failed(&stopping()),
    }
}

/// A body that did not come whole.
fn unread(rejected: &BytesRejection) -> Response {
    match rejected.status() {
        status @ StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body is longer than {BODY_BYTES_MAX} bytes");
            let failure = Failure::new(SqlState::ProgramLimitExceeded, message).with_hint(
                "write many rows in several requests, or with COPY over PostgreSQL's protocol",
            );
            problem(status, &failure)
        }
        status => {
            let failure =
                Failure::new(SqlState::ProtocolViolation, "the body did not arrive whole");
            problem(status, &failure)
        }
    }
}

/// A channel's pieces as a body.
fn pieces(
    pieces: mpsc::Receiver<Bytes>,
) -> impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    futures::stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.recv().await?;
        Some((Ok(piece), pieces))
    })
}

/// Runs the statement and sends the body. Before its first piece a failure decides the status;
/// later ones stand in the body.
async fn answer(
    worker: &Rc<Worker>,
    query: Query,
    shape: Shape,
    begun: oneshot::Sender<Begun>,
    pieces: mpsc::Sender<Bytes>,
) {
    let run = async {
        let mut session = Session::new(worker, "nodedb", [], Vec::new())?;
        session.timeout_ns = query.timeout_ms.map(|ms| ms.saturating_mul(1_000_000));
        let execution = query.run(&mut session).await?;
        Ok((session, execution))
    };
    // The client's going away closes the channel, which drops the statement here.
    let ran = tokio::select! {
        ran = run => ran,
        () = pieces.closed() => return,
        () = worker.node.shutdown.reached(Stage::Over) => Err(stopping()),
    };
    let (session, mut execution) = match ran {
        Ok(ran) => ran,
        Err(failure) => {
            let _ = begun.send(Err(failure));
            return;
        }
    };
    let shutdown = &worker.node.shutdown;
    let sent = shape.send(&mut execution, begun, &pieces, shutdown).await;
    crate::node::Counters::add(&session.worker.node.counters.rows_sent, sent);
}

/// A failure as a reply, with the status that its class has.
fn failed(failure: &Failure) -> Response {
    problem(status_of(failure.code()), failure)
}

fn status_of(code: SqlState) -> StatusCode {
    match code {
        SqlState::InvalidAuthorization | SqlState::InsufficientPrivilege => StatusCode::FORBIDDEN,
        SqlState::UndefinedTable | SqlState::InvalidCatalogName => StatusCode::NOT_FOUND,
        SqlState::UniqueViolation
        | SqlState::NotNullViolation
        | SqlState::DuplicateTable
        | SqlState::DuplicateObject
        | SqlState::SerializationFailure => StatusCode::CONFLICT,
        SqlState::FeatureNotSupported => StatusCode::NOT_IMPLEMENTED,
        SqlState::QueryCanceled => StatusCode::REQUEST_TIMEOUT,
        SqlState::ProgramLimitExceeded | SqlState::StatementTooComplex => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        SqlState::DiskFull | SqlState::OutOfMemory => StatusCode::INSUFFICIENT_STORAGE,
        SqlState::TooManyConnections
        | SqlState::AdminShutdown
        | SqlState::CannotConnectNow
        | SqlState::ReadOnly => StatusCode::SERVICE_UNAVAILABLE,
        SqlState::IoError | SqlState::Internal | SqlState::DataCorrupted => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _ => StatusCode::BAD_REQUEST,
    }
}

fn problem(status: StatusCode, failure: &Failure) -> Response {
    let mut json = body::failure_json(failure);
    json["status"] = status.as_u16().into();
    json["title"] = status.canonical_reason().unwrap_or_default().into();
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, kind, json.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_hosts_are_told_from_ours() {
        let v4: SocketAddr = "127.0.0.1:8080".parse().expect("an address");
        for ours in [
            "127.0.0.1:8080",
            "localhost:8080",
            "LOCALHOST:8080",
            "[::1]:8080",
        ] {
            assert!(is_ours(ours, v4), "{ours}");
        }
        for foreign in [
            "evil.example:8080",
            "127.0.0.1:81",
            "127.0.0.1",
            "localhost.evil.example:8080",
            "192.168.0.1:8080",
            "",
            ":8080",
        ] {
            assert!(!is_ours(foreign, v4), "{foreign}");
        }
    }
}
