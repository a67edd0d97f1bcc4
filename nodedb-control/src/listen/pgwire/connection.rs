//! One connection: start-up, then messages until the client goes.
//!
//! A simple query's statements run one after the other; at most one of them may write. Errors of a
//! statement or a message leave the connection usable; only a stream of bytes that cannot be
//! followed ends it. While a statement runs, the socket is watched: when the client goes away the
//! statement is cancelled. When the node stops, the client is told (57P01) once it is idle, or has had
//! its time.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;

use futures::future::{Either, select};
use nodedb_types::{Failure, Result, SqlState};
use tokio::net::TcpStream;

use super::extended::{Extended, Left, execute};
use super::frame::{Message, Opening};
use super::reply::{self, Severity};
use super::socket::{End, OUT_BYTES, Socket};
use super::value;
use crate::node::{Counters, Worker};
use crate::session::copy::CopyIn;
use crate::session::execution::{Execution, Tag};
use crate::session::{DATABASE, Session, bulk};
use crate::shutdown::{self, FAREWELL};
use crate::sql::parse::Parsed;

/// The newest protocol version that is spoken: 3.2.
const VERSION: u32 = 3 << 16 | 2;

/// Serves one client until it goes, the stream breaks, or the node stops. `secret`: random bytes
/// for its cancel key, 32 of them.
pub async fn serve(stream: TcpStream, worker: Rc<Worker>, secret: [u8; 32]) {
    // Small answers must not wait for one another.
    let _ = stream.set_nodelay(true);
    let mut socket = Socket::new(stream);
    let shutdown = &worker.node.shutdown;
    let started = shutdown.unless_begun(start(&mut socket, &worker, &secret), || true);
    let end = match started.await {
        Some(Ok(Some(session))) => {
            Counters::add(&worker.node.counters.connections, 1);
            let idle = Cell::new(false);
            let mut connection = Connection {
                extended: Extended::default(),
                socket,
                session,
                idle: &idle,
            };
            let run = shutdown.unless_begun(connection.run(), || idle.get());
            let end = match run.await {
                Some(end) => end,
                None => Err(End::Broken(shutdown::terminated())),
            };
            socket = connection.socket;
            end
        }
        Some(Ok(None)) => Ok(()),
        Some(Err(end)) => Err(end),
        None => Err(End::Broken(Failure::new(
            SqlState::CannotConnectNow,
            "the database system is shutting down",
        ))),
    };
    if let Err(End::Broken(failure)) = end {
        reply::failure(&mut socket.out, Severity::Fatal, &failure, 0);
        // reason: a client that does not read is not waited for any longer. It may be gone already.
        let _ = tokio::time::timeout(FAREWELL, socket.flush()).await;
    }
}

/// The start-up; `None` when the connection only carried a cancel request.
async fn start(
    socket: &mut Socket,
    worker: &Rc<Worker>,
    secret: &[u8; 32],
) -> Result<Option<Session>, End> {
    let (major, minor, parameters) = loop {
        match socket.opening().await? {
            Opening::Encryption => {
                if socket.has_input() {
                    // Whoever sends more before the answer may be somebody in the middle.
                    return Err(End::Broken(Failure::new(
                        SqlState::ProtocolViolation,
                        "received unencrypted data after SSL request",
                    )));
                }
                socket.out.extend_from_slice(b"N");
                socket.flush().await?;
            }
            Opening::Cancel { process, secret } => {
                worker.node.sessions.cancel(process, &secret);
                return Ok(None);
            }
            Opening::Startup {
                major,
                minor,
                parameters,
            } => break (major, minor, parameters),
        }
    };
    if major != 3 {
        return Err(End::Broken(Failure::unsupported(format!(
            "frontend protocol {major}.{minor}: server supports 3.0 to 3.2; it"
        ))));
    }
    // The longer key came with 3.2; older clients take four bytes.
    let secret = if minor >= 2 {
        &secret[..]
    } else {
        &secret[..4]
    };
    let session = open(worker, &parameters, secret.to_vec()).map_err(End::Broken)?;
    let out = &mut socket.out;
    let unknown: Vec<&str> = parameters
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| name.starts_with("_pq_."))
        .collect();
    if minor > 2 || minor == 1 || !unknown.is_empty() {
        let spoken = if minor == 1 {
            3 << 16
        } else {
            VERSION.min(3 << 16 | u32::from(minor))
        };
        reply::negotiate(out, spoken, &unknown);
    }
    reply::authentication_ok(out);
    for (name, value) in session.settings.all_reported() {
        reply::parameter_status(out, name, &value);
    }
    reply::backend_key(out, session.process(), secret);
    reply::ready(out);
    Ok(Some(session))
}

/// Checks who connects to what, and opens the session.
fn open(worker: &Rc<Worker>, parameters: &[(String, String)], secret: Vec<u8>) -> Result<Session> {
    let of = |wanted: &str| {
        let found = parameters.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str())
    };
    let user = of("user").filter(|user| !user.is_empty()).ok_or_else(|| {
        Failure::new(
            SqlState::InvalidAuthorization,
            "no PostgreSQL user name specified in startup packet",
        )
    })?;
    let database = of("database").filter(|d| !d.is_empty()).unwrap_or(user);
    if ![DATABASE, "postgres", user].contains(&database) {
        return Err(Failure::new(
            SqlState::InvalidCatalogName,
            format!("database \"{database}\" does not exist"),
        )
        .with_hint(format!("the database is called {DATABASE}")));
    }
    if of("replication").is_some_and(|r| !matches!(r, "false" | "off" | "no" | "0")) {
        return Err(Failure::unsupported("the replication protocol"));
    }
    let mut settings: Vec<(String, String)> = parameters
        .iter()
        .filter(|(name, _)| {
            !matches!(
                name.as_str(),
                "user" | "database" | "options" | "replication"
            ) && !name.starts_with("_pq_.")
        })
        .cloned()
        .collect();
    settings.extend(options(of("options").unwrap_or_default())?);
    let settings = settings.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    Session::new(worker, user, settings, secret)
}

/// `-c name=value` and `--name=value` of the start-up's options.
fn options(text: &str) -> Result<Vec<(String, String)>> {
    let mut words = text.split_whitespace();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let pair = match word.strip_prefix("--").or(word.strip_prefix("-c")) {
            Some("") => words.next().unwrap_or_default(),
            Some(pair) => pair,
            None => word,
        };
        let Some((name, value)) = pair.split_once('=') else {
            return Err(Failure::new(
                SqlState::SyntaxError,
                format!("invalid command-line argument for server process: {word}"),
            ));
        };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

struct Connection<'a> {
    socket: Socket,
    session: Session,
    extended: Extended,
    /// Nothing is asked for that is not answered.
    idle: &'a Cell<bool>,
}

impl Connection<'_> {
    async fn run(&mut self) -> Result<(), End> {
        loop {
            self.idle.set(true);
            let session = &self.session;
            let frame = self.socket.frame_after(|| session.expect()).await?;
            self.idle.set(false);
            let kind = frame.kind;
            match frame.decode() {
                Ok(Message::Terminate) => return Ok(()),
                Ok(Message::Query(text)) => {
                    self.extended.sync();
                    // On the heap, as all that is long: the future of the read of a row, which is
                    // moved for every message, should have no room for it.
                    Box::pin(self.simple(&text)).await?;
                    self.ready();
                }
                // Left over from a COPY that has failed already.
                Ok(Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_)) => {}
                Ok(message) => {
                    let Connection {
                        socket,
                        session,
                        extended,
                        idle: _,
                    } = self;
                    match extended.at_once(message, socket, session) {
                        Left::Nothing => {}
                        Left::Run {
                            portal,
                            rows_max,
                            ends,
                        } => {
                            let run = execute(&portal, rows_max, socket, session).await;
                            match ends {
                                true => extended.ended(run, socket, session)?,
                                false => extended.ran(run, socket)?,
                            }
                        }
                        Left::Message(message) => {
                            Box::pin(extended.handle(message, socket, session)).await?;
                        }
                    }
                }
                Err(failure) if kind == b'Q' => {
                    reply::failure(&mut self.socket.out, Severity::Error, &failure, 0);
                    self.ready();
                }
                Err(failure) => self.extended.fail(&mut self.socket.out, &failure, 0),
            }
        }
    }

    fn ready(&mut self) {
        for (name, value) in self.session.settings.take_reported() {
            reply::parameter_status(&mut self.socket.out, name, &value);
        }
        reply::ready(&mut self.socket.out);
    }

    /// A simple query: its statements in turn, until one fails.
    async fn simple(&mut self, text: &str) -> Result<(), End> {
        let mut at = 0;
        match self.statements(text, &mut at).await {
            Ok(()) => Ok(()),
            Err(Stop::Failed(failure)) => {
                reply::failure(&mut self.socket.out, Severity::Error, &failure, at);
                Ok(())
            }
            Err(Stop::End(end)) => Err(end),
        }
    }

    /// `at`: characters in front of the statement that runs, for positions.
    async fn statements(&mut self, text: &str, at: &mut u32) -> Result<(), Stop> {
        let all = self.session.parse(text)?;
        if all.is_empty() {
            reply::empty(&mut self.socket.out, reply::EMPTY_QUERY);
            return Ok(());
        }
        check_writes(&all)?;
        for parsed in all {
            *at = parsed.offset;
            if let Some(data) = self.session.copy_in(&parsed.statement)? {
                copy(&mut self.socket, &self.session, data).await?;
                continue;
            }
            self.extended.forget(&parsed.statement)?;
            let prepared = self.session.prepare(&parsed, &[])?;
            if !prepared.parameters.is_empty() {
                return Err(Stop::Failed(Failure::new(
                    SqlState::UndefinedParameter,
                    "there is no parameter $1",
                )));
            }
            let none = Arc::default();
            let mut execution = {
                let run = pin!(self.session.run(&prepared, &none));
                watched(&mut self.socket, run).await??
            };
            show(&mut self.socket, &self.session, &mut execution).await?;
        }
        Ok(())
    }
}

/// Why a message's work stops.
pub(super) enum Stop {
    /// The client is told, and the connection goes on.
    Failed(Failure),
    End(End),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl From<End> for Stop {
    fn from(end: End) -> Stop {
        Stop::End(end)
    }
}

/// Receives a COPY's data and runs it. Its messages are part of the statement; a Sync among them,
/// which clients send behind their Execute, means nothing.
pub(super) async fn copy(
    socket: &mut Socket,
    session: &Session,
    mut copy: CopyIn,
) -> Result<(), Stop> {
    reply::copy_in(&mut socket.out, copy.columns());
    let mut failed = None;
    let mut taken = 0;
    loop {
        let frame = socket.frame().await?;
        match frame.decode() {
            Ok(Message::CopyData(data)) if failed.is_none() => {
                failed = copy.feed(&data).err();
                taken += data.len();
                // A client that sends without a pause does not keep other sessions waiting.
                if taken >= bulk::BYTES {
                    taken = 0;
                    tokio::task::yield_now().await;
                }
            }
            Ok(Message::CopyData(_) | Message::Flush | Message::Sync) => {}
            Ok(Message::CopyDone) => break,
            Ok(Message::CopyFail(why)) => {
                return Err(Stop::Failed(Failure::new(
                    SqlState::QueryCanceled,
                    format!("COPY from stdin failed: {why}"),
                )));
            }
            Ok(Message::Terminate) => return Err(Stop::End(End::Gone)),
            Ok(_) => {
                return Err(Stop::Failed(Failure::new(
                    SqlState::ProtocolViolation,
                    "unexpected message type during COPY from stdin",
                )));
            }
            Err(failure) => failed = failed.or(Some(failure)),
        }
    }
    if let Some(failure) = failed {
        return Err(Stop::Failed(failure));
    }
    let mut execution = watched(socket, pin!(copy.finish())).await??;
    show(socket, session, &mut execution).await
}

/// Awaits work unless the client goes away first.
pub(super) async fn watched<T>(
    socket: &mut Socket,
    work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, End> {
    let gone = std::pin::pin!(socket.gone());
    match select(work, gone).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(((), _)) => Err(End::Gone),
    }
}

/// More than one write in a message would have to be one transaction, and there are none yet.
fn check_writes(all: &[Rc<Parsed>]) -> Result<()> {
    match all.iter().filter(|p| p.statement.writes()).count() {
        0 | 1 => Ok(()),
        _ => Err(several_writes()),
    }
}

pub(super) fn several_writes() -> Failure {
    Failure::unsupported(
        "more than one writing statement in a message, which would be a transaction,",
    )
    .with_hint(
        "send the statements one by one (psycopg's executemany sends them in one pipeline: call execute in a loop), or write many rows by one INSERT … VALUES or COPY; each statement is atomic",
    )
}

/// Sends notices, rows as text, and the tag.
async fn show(
    socket: &mut Socket,
    session: &Session,
    execution: &mut Execution,
) -> Result<(), Stop> {
    notices(socket, session, execution);
    let columns = execution.columns.clone();
    let mut sent = 0;
    if let Some(columns) = &columns {
        reply::row_description(&mut socket.out, columns, &[]);
        let mut scratch = String::new();
        if let Some(row) = execution.take_row() {
            value::data_row(&mut socket.out, &row, columns, &[], &mut scratch)?;
            socket.flush_if_full().await?;
            sent = 1;
        }
        while let Some(batch) = watched(socket, pin!(execution.next())).await?? {
            let mut from = 0;
            while from < batch.num_rows() {
                let rows = from..batch.num_rows();
                from += value::data_rows(
                    &mut socket.out,
                    &batch,
                    columns,
                    &[],
                    rows,
                    OUT_BYTES,
                    &mut scratch,
                )?;
                socket.flush_if_full().await?;
            }
            sent += batch.num_rows() as u64;
        }
    }
    count_rows(session, sent);
    complete(socket, &execution.tag, sent);
    Ok(())
}

pub(super) fn notices(socket: &mut Socket, session: &Session, execution: &mut Execution) {
    for notice in execution.notices.drain(..) {
        if session.settings.wants_notices() {
            reply::failure(&mut socket.out, Severity::Notice, &notice, 0);
        }
    }
}

pub(super) fn count_rows(session: &Session, sent: u64) {
    Counters::add(&session.worker.node.counters.rows_sent, sent);
}

pub(super) fn complete(socket: &mut Socket, tag: &Tag, sent: u64) {
    match tag {
        Tag::Empty => reply::empty(&mut socket.out, reply::EMPTY_QUERY),
        Tag::Rows(word) => reply::rows_complete(&mut socket.out, word, sent),
        Tag::Changed("INSERT", rows) => reply::rows_complete(&mut socket.out, "INSERT 0", *rows),
        Tag::Changed(word, rows) => reply::rows_complete(&mut socket.out, word, *rows),
        Tag::Plain(word) => reply::command_complete(&mut socket.out, word),
    }
}

/// Columns of a statement as its description sends them.
pub(super) type Columns = Arc<[nodedb_query::catalog::ResultColumn]>;
