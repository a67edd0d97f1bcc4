//! The native protocol: what `nodedb-client` speaks.
//!
//! One session per connection. Requests are read ahead (a few, B1) and answered one after the
//! other; a cancel frame stops the request it names whether it runs or waits. Frames are in
//! `nodedb_types::wire`.

mod answer;
mod statement;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use bytes::Bytes;
use futures::future::{Either, select};
use nodedb_types::wire::{self, Done, HEADER_BYTES, Header, Hello, Kind, Request, Writer};
use nodedb_types::{Collection, Failure, Result, SqlState};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::node::{Counters, Worker};
use crate::session::execution::Execution;
use crate::session::{Session, bulk};
use crate::shutdown::{self, FAREWELL};
use answer::{PIECE_BYTES, RowWriter};

/// The user that native requests run as, until authentication exists.
const USER: &str = "native";
/// Requests read ahead of the one that runs.
const AHEAD_MAX: usize = 64;

/// Bytes of a request that are read at a stretch.
const READ_BYTES: usize = 64 << 10;
/// Bytes of memory that a request has before anything of it has arrived.
const AT_ONCE_BYTES: usize = 512 << 10;

/// Serves one client until it goes or breaks the protocol.
pub async fn serve(stream: TcpStream, worker: Rc<Worker>) {
    // Small answers must not wait for one another.
    let _ = stream.set_nodelay(true);
    let (read, write) = stream.into_split();
    let mut connection = Connection {
        write: BufWriter::new(write),
    };
    let mut read = BufReader::new(read);
    let idle = Cell::new(true);
    let run = connection.run(&mut read, &worker, &idle);
    let end = match worker.node.shutdown.unless_begun(run, || idle.get()).await {
        Some(end) => end,
        None if idle.get() => Err(End::Broken(shutdown::terminated())),
        // In the midst of an answer nothing else can be said.
        None => Err(End::Gone),
    };
    // What ends the connection was told to the client as far as that is possible.
    if let Err(End::Broken(failure)) = end {
        let told = async {
            connection.fail(0, &failure).await?;
            Ok::<_, End>(connection.write.flush().await?)
        };
        // reason: a client that does not read is not waited for any longer. It may be gone already.
        let _ = tokio::time::timeout(FAREWELL, told).await;
    }
}

enum End {
    Gone,
    Broken(Failure),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> End {
        End::Gone
    }
}

/// What the reading half knows and the running half acts upon.
#[derive(Default)]
struct Cancelled {
    running: Cell<u32>,
    waiting: RefCell<HashSet<u32>>,
}

struct Connection {
    write: BufWriter<OwnedWriteHalf>,
}

impl Connection {
    async fn run(
        &mut self,
        read: &mut BufReader<OwnedReadHalf>,
        worker: &Rc<Worker>,
        idle: &Cell<bool>,
    ) -> Result<(), End> {
        self.greet(read).await?;
        let mut session =
            Session::new(worker, USER, std::iter::empty(), Vec::new()).map_err(End::Broken)?;
        Counters::add(&worker.node.counters.connections, 1);
        let cancelled = Rc::new(Cancelled::default());
        let sign = session.cancel().clone();
        let (requests, mut ahead) = mpsc::channel(AHEAD_MAX);
        let seen = cancelled.clone();
        let reading = async move {
            let end = read_requests(read, &requests, &seen, &sign, worker).await;
            // The client is gone or cannot be followed: nobody waits for what runs.
            sign.raise();
            end
        };
        let serving = async {
            while let Some((number, request)) = ahead.recv().await {
                idle.set(false);
                cancelled.running.set(number);
                let was_cancelled = cancelled.waiting.borrow_mut().remove(&number);
                let outcome = match was_cancelled {
                    true => Err(Failure::new(
                        SqlState::QueryCanceled,
                        "canceling statement due to user request",
                    )),
                    false => self.answer(number, request, &mut session, worker).await?,
                };
                match outcome {
                    Ok(done) => self.send(number, Kind::Done, &done.encode()).await?,
                    Err(failure) => self.fail(number, &failure).await?,
                }
                cancelled.running.set(0);
                if ahead.is_empty() {
                    self.write.flush().await?;
                    idle.set(ahead.is_empty());
                }
            }
            Ok::<(), End>(())
        };
        let (reading, serving) = (std::pin::pin!(reading), std::pin::pin!(serving));
        match select(reading, serving).await {
            Either::Left((end, _)) => end,
            Either::Right((end, _)) => end,
        }
    }

    async fn greet(&mut self, read: &mut BufReader<OwnedReadHalf>) -> Result<(), End> {
        let (header, payload) = read_frame(read).await?;
        header.check(&payload).map_err(End::Broken)?;
        if header.kind != Kind::Hello {
            return Err(End::Broken(Failure::new(
                SqlState::ProtocolViolation,
                "the first frame is a greeting",
            )));
        }
        let hello = Hello::decode(&payload).map_err(End::Broken)?;
        if hello.version == 0 {
            return Err(End::Broken(Failure::unsupported(
                "version 0 of the native protocol",
            )));
        }
        let agent = concat!("nodedb/", env!("CARGO_PKG_VERSION")).to_owned();
        let chosen = Hello {
            version: hello.version.min(wire::VERSION),
            agent,
        };
        self.send(0, Kind::Hello, &chosen.encode()).await?;
        Ok(self.write.flush().await?)
    }

    async fn send(&mut self, number: u32, kind: Kind, payload: &[u8]) -> Result<(), End> {
        let frame = wire::frame(number, kind, payload).map_err(End::Broken)?;
        Ok(self.write.write_all(&frame).await?)
    }

    async fn fail(&mut self, number: u32, failure: &Failure) -> Result<(), End> {
        let mut writer = Writer::new();
        writer.failure(failure);
        self.send(number, Kind::Failed, &writer.finish()).await
    }

    /// Runs a request and sends its rows. The outer result ends the connection.
    async fn answer(
        &mut self,
        number: u32,
        request: Request,
        session: &mut Session,
        worker: &Rc<Worker>,
    ) -> Result<Result<Done>, End> {
        if request == Request::Ping {
            return Ok(Ok(Done::default()));
        }
        match start(request, session, worker).await {
            Ok(execution) => self.rows(number, execution).await,
            Err(failure) => Ok(Err(failure)),
        }
    }

    async fn rows(&mut self, number: u32, mut execution: Execution) -> Result<Result<Done>, End> {
        let mut sent = 0;
        if let Some(columns) = execution.columns.clone() {
            let mut rows = match RowWriter::new(columns) {
                Ok(rows) => rows,
                Err(failure) => return Ok(Err(failure)),
            };
            loop {
                let next = match execution.next().await {
                    Ok(Some(batch)) => {
                        sent += batch.num_rows() as u64;
                        rows.write(&batch).map(|()| true)
                    }
                    Ok(None) => rows.finish().map(|()| false),
                    Err(failure) => Err(failure),
                };
                match next {
                    Ok(more) => {
                        let bytes = Bytes::from(rows.take());
                        for piece in bytes.chunks(PIECE_BYTES) {
                            self.send(number, Kind::Rows, piece).await?;
                        }
                        if !more {
                            break;
                        }
                        self.write.flush().await?;
                    }
                    Err(failure) => return Ok(Err(failure)),
                }
            }
        }
        let command = execution.tag.text(sent);
        let rows = match &execution.tag {
            crate::session::execution::Tag::Changed(_, rows) => *rows,
            _ => sent,
        };
        Ok(Ok(Done { command, rows }))
    }
}

async fn start(request: Request, session: &mut Session, worker: &Rc<Worker>) -> Result<Execution> {
    let collection = match &request {
        Request::Sql { .. } | Request::Ping => None,
        Request::Get { collection, .. }
        | Request::Put { collection, .. }
        | Request::Delete { collection, .. } => Some(lookup(worker, collection)?),
        Request::Query(query) => Some(lookup(worker, &query.collection)?),
    };
    let (prepared, values) = match (request, collection) {
        (Request::Sql { text, params }, _) => {
            let hints: Vec<_> = params.iter().map(statement::hint).collect();
            let prepared = session.prepare_text(&text, &hints)?;
            (
                prepared.ok_or_else(|| {
                    Failure::new(SqlState::SyntaxError, "the text holds no statement")
                })?,
                params,
            )
        }
        (request, Some(collection)) => {
            let mut native = statement::native(request, &collection)?
                .ok_or_else(|| Failure::internal("a native request without a statement"))?;
            statement::name_key(&mut native.statement, &collection)?;
            let hints = native.hints();
            (
                session.prepare_tree(native.shape, native.statement, &hints)?,
                native.values,
            )
        }
        (_, None) => return Err(Failure::internal("a native request without a collection")),
    };
    if values.len() != prepared.parameters.len() {
        return Err(Failure::new(
            SqlState::ProtocolViolation,
            format!(
                "{} parameters are given, the statement needs {}",
                values.len(),
                prepared.parameters.len()
            ),
        ));
    }
    let values = match bulk::is_large(&values) {
        false => statement::fit(values, &prepared.parameters)?,
        true => {
            let types = prepared.parameters.clone();
            bulk::aside(worker, move || statement::fit(values, &types)).await??
        }
    };
    session.run(&prepared, &values).await
}

fn lookup(worker: &Worker, name: &str) -> Result<std::sync::Arc<Collection>> {
    worker
        .node
        .catalog
        .load()
        .collection(name)
        .cloned()
        .ok_or_else(|| {
            Failure::new(
                SqlState::UndefinedTable,
                format!("relation \"{name}\" does not exist"),
            )
        })
}

async fn read_requests(
    read: &mut BufReader<OwnedReadHalf>,
    requests: &mpsc::Sender<(u32, Request)>,
    cancelled: &Cancelled,
    sign: &crate::session::cancel::Cancel,
    worker: &Worker,
) -> Result<(), End> {
    loop {
        let (header, payload) = read_frame(read).await?;
        if header.kind != Kind::Request {
            header.check(&payload).map_err(End::Broken)?;
        }
        match header.kind {
            Kind::Request => {
                let decode = move || {
                    header.check(&payload)?;
                    Request::decode(&payload)
                };
                let request = match header.length < bulk::BYTES {
                    true => decode(),
                    false => bulk::aside(worker, decode)
                        .await
                        .and_then(|request| request),
                };
                let request = request.map_err(End::Broken)?;
                if requests.send((header.request, request)).await.is_err() {
                    return Err(End::Gone);
                }
            }
            Kind::Cancel if cancelled.running.get() == header.request => sign.raise(),
            Kind::Cancel => {
                let mut waiting = cancelled.waiting.borrow_mut();
                // A cancel for what is over already is kept for nobody.
                if waiting.len() < AHEAD_MAX {
                    waiting.insert(header.request);
                }
            }
            _ => {
                return Err(End::Broken(Failure::new(
                    SqlState::ProtocolViolation,
                    "a client sends requests and cancels",
                )));
            }
        }
    }
}

/// A frame whose checksum is still to be checked.
async fn read_frame(read: &mut BufReader<OwnedReadHalf>) -> Result<(Header, Vec<u8>), End> {
    let mut head = [0u8; HEADER_BYTES];
    read.read_exact(&mut head).await?;
    let header = Header::decode(&head).map_err(End::Broken)?;
    let mut payload = Vec::new();
    while payload.len() < header.length {
        let left = header.length - payload.len();
        // Grows with what arrives, not with what was announced.
        if payload.len() == payload.capacity() {
            payload.reserve_exact(left.min(payload.len().max(AT_ONCE_BYTES)));
        }
        let mut piece = (&mut *read).take(left.min(READ_BYTES) as u64);
        if piece.read_buf(&mut payload).await? == 0 {
            return Err(End::Gone);
        }
        if payload.len() < header.length {
            // A client that sends much leaves the worker to others between two pieces.
            tokio::task::yield_now().await;
        }
    }
    Ok((header, payload))
}
