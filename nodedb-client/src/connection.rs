//! One connection: a task reads answers and hands each piece to the request it belongs to.
//!
//! Requests are numbered and written as they come. Answers come in the order of the requests, so
//! an answer that nobody reads holds up those behind it, once its few buffered pieces are full.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use nodedb_types::wire::{self, HEADER_BYTES, Header, Hello, Kind, Request, Writer};
use nodedb_types::{Failure, Result, SqlState, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::rows::Rows;

const DEFAULT_PORT: u16 = 6433;
/// Pieces of one answer that wait for its reader.
const PIECES_MAX: usize = 16;
/// Frames that wait to be written.
const OUTBOX_MAX: usize = 64;

/// Bytes of a frame that are written at a time: kernels give the processor to nobody else meanwhile.
const WRITE_BYTES: usize = 64 << 10;

/// A frame of an answer.
pub(crate) struct Piece {
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

type Waiting = Mutex<HashMap<u32, mpsc::Sender<Result<Piece>>>>;

struct Shared {
    waiting: Waiting,
    next: AtomicU32,
    /// Why the connection ended, once it has.
    ended: Mutex<Option<Failure>>,
}

#[derive(Clone)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    outbox: mpsc::Sender<Vec<u8>>,
}

fn broken(what: impl std::fmt::Display) -> Failure {
    Failure::new(SqlState::IoError, format!("the connection failed: {what}"))
}

fn not_native(host: &str, port: u16) -> Failure {
    Failure::new(
        SqlState::ProtocolViolation,
        format!("{host}:{port} does not speak NodeDB's native protocol"),
    )
    .with_hint("ndb serve prints the right port after native=")
}

/// A poisoned lock means that a thread panicked while it held plain data; that data is still good.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn address(url: &str) -> Result<(String, u16)> {
    let bad = || {
        Failure::new(
            SqlState::InvalidParameterValue,
            format!("\"{url}\" is not a server's address"),
        )
        .with_hint("write ndb://HOST:PORT")
    };
    let rest = url
        .strip_prefix("ndb://")
        .unwrap_or(url)
        .trim_end_matches('/');
    if rest.contains('/') {
        return Err(bad());
    }
    let bracketed = rest.strip_prefix('[').and_then(|r| r.split_once(']'));
    let (host, port) = match (bracketed, rest.rsplit_once(':')) {
        (Some((host, port)), _) => (host, port.strip_prefix(':')),
        (None, Some((host, port))) => (host, Some(port)),
        (None, None) => (rest, None),
    };
    let port = port.map_or(Ok(DEFAULT_PORT), |p| p.parse().map_err(|_| bad()))?;
    if host.is_empty() {
        Err(bad())
    } else {
        Ok((host.to_owned(), port))
    }
}

impl Connection {
    pub(crate) async fn open(url: &str) -> Result<Connection> {
        let (host, port) = address(url)?;
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(|e| {
                Failure::new(
                    SqlState::IoError,
                    format!("cannot connect to {host}:{port}: {e}"),
                )
                .with_hint("is the server running? ndb serve prints its addresses when it is ready")
            })?;
        stream.set_nodelay(true).map_err(broken)?;
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        let agent = concat!("nodedb-client/", env!("CARGO_PKG_VERSION")).to_owned();
        let hello = Hello {
            version: wire::VERSION,
            agent,
        };
        let frame = wire::frame(0, Kind::Hello, &hello.encode())?;
        write.write_all(&frame).await.map_err(broken)?;
        let greeting = read_frame(&mut read).await;
        let (header, payload) = greeting.map_err(|_| not_native(&host, port))?;
        match header.kind {
            Kind::Hello => {
                let chosen = Hello::decode(&payload)?;
                if chosen.version != wire::VERSION {
                    return Err(Failure::new(
                        SqlState::ProtocolViolation,
                        format!(
                            "the server speaks version {} of the protocol",
                            chosen.version
                        ),
                    ));
                }
            }
            Kind::Failed => return Err(wire::Reader::new(&payload).failure()?),
            _ => return Err(not_native(&host, port)),
        }
        let shared = Arc::new(Shared {
            waiting: Mutex::new(HashMap::new()),
            next: AtomicU32::new(1),
            ended: Mutex::new(None),
        });
        let (outbox, frames) = mpsc::channel(OUTBOX_MAX);
        tokio::spawn(write_frames(write, frames));
        tokio::spawn(read_answers(read, shared.clone()));
        Ok(Connection { shared, outbox })
    }

    pub(crate) async fn send(&self, request: &Request) -> Result<Rows> {
        self.send_written(|w| request.write(w)).await
    }

    pub(crate) async fn send_sql(&self, text: &str, params: &[Value]) -> Result<Rows> {
        self.send_written(|w| Request::write_sql(w, text, params))
            .await
    }

    async fn send_written(&self, write: impl FnOnce(&mut Writer)) -> Result<Rows> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let frame = wire::frame_of(number, Kind::Request, write)?;
        let (tx, pieces) = mpsc::channel(PIECES_MAX);
        lock(&self.shared.waiting).insert(number, tx);
        // Whoever sees the end of the connection first also empties the table, in either order.
        if let Some(failure) = lock(&self.shared.ended).clone() {
            lock(&self.shared.waiting).remove(&number);
            return Err(failure);
        }
        let answer = Answer {
            number,
            pieces,
            connection: self.clone(),
            over: false,
        };
        self.outbox
            .send(frame)
            .await
            .map_err(|_| broken("it was closed"))?;
        Ok(Rows::new(answer))
    }
}

/// The pieces of one answer.
pub(crate) struct Answer {
    number: u32,
    pieces: mpsc::Receiver<Result<Piece>>,
    connection: Connection,
    over: bool,
}

impl Answer {
    pub(crate) async fn next(&mut self) -> Result<Piece> {
        let piece = match self.pieces.recv().await {
            Some(piece) => piece,
            None => {
                let ended = lock(&self.connection.shared.ended).clone();
                Err(ended.unwrap_or_else(|| broken("it was closed")))
            }
        };
        self.over = !matches!(&piece, Ok(p) if p.kind == Kind::Rows);
        piece
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        lock(&self.connection.shared.waiting).remove(&self.number);
        if !self.over
            && let Ok(frame) = wire::frame(self.number, Kind::Cancel, &[])
        {
            // A full outbox means that the server will see the reader gone when it writes.
            let _ = self.connection.outbox.try_send(frame);
        }
    }
}

async fn read_frame(read: &mut BufReader<OwnedReadHalf>) -> Result<(Header, Vec<u8>)> {
    let mut head = [0u8; HEADER_BYTES];
    read.read_exact(&mut head).await.map_err(broken)?;
    let header = Header::decode(&head)?;
    let mut payload = Vec::new();
    // Grows with what arrives, not with what was announced.
    let got = read
        .take(header.length as u64)
        .read_to_end(&mut payload)
        .await
        .map_err(broken)?;
    if got < header.length {
        return Err(broken("it ended in the middle of a frame"));
    }
    header.check(&payload)?;
    Ok((header, payload))
}

async fn read_answers(mut read: BufReader<OwnedReadHalf>, shared: Arc<Shared>) {
    let failure = loop {
        let (header, payload) = match read_frame(&mut read).await {
            Ok(frame) => frame,
            Err(failure) => break failure,
        };
        let reader = lock(&shared.waiting).get(&header.request).cloned();
        if let Some(reader) = reader {
            // An answer that was dropped meanwhile is passed over.
            let _ = reader
                .send(Ok(Piece {
                    kind: header.kind,
                    payload,
                }))
                .await;
        }
        if header.kind != Kind::Rows {
            lock(&shared.waiting).remove(&header.request);
        }
    };
    *lock(&shared.ended) = Some(failure.clone());
    let left: Vec<_> = lock(&shared.waiting).drain().collect();
    for (_, reader) in left {
        let _ = reader.try_send(Err(failure.clone()));
    }
}

async fn write_frames(mut write: OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        for piece in frame.chunks(WRITE_BYTES) {
            if write.write_all(piece).await.is_err() {
                // The reading task sees the same end and tells everybody.
                return;
            }
        }
    }
    let _ = write.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses() {
        assert_eq!(address("ndb://h:1").unwrap(), ("h".to_owned(), 1));
        assert_eq!(address("h").unwrap(), ("h".to_owned(), 6433));
        assert_eq!(address("ndb://[::1]:7/").unwrap(), ("::1".to_owned(), 7));
        assert!(address("ndb://").is_err());
        assert!(address("ndb://h:x").is_err());
        assert!(address("http://h:1").is_err());
    }
}
