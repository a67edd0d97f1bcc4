//! A client's socket with its two buffers.

use std::io;

use bytes::{Buf, BytesMut};
use nodedb_types::limits::MESSAGE_BYTES_MAX;
use nodedb_types::{Failure, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frame::{self, Frame, Opening};

/// Output that is held before it is sent, bytes.
pub const OUT_BYTES: usize = 64 << 10;

/// Input that may wait while a statement runs, bytes: enough to see a pipeline's next messages and
/// that the client has gone.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Why a connection ends.
#[derive(Debug)]
pub enum End {
    /// The client went away.
    Gone,
    /// The stream of messages cannot be followed any further; the client is told why.
    Broken(Failure),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Gone
    }
}

pub struct Socket {
    stream: TcpStream,
    input: BytesMut,
    /// Bytes that are read at once: as many as the client's largest message had, within bounds.
    room: usize,
    pub out: BytesMut,
}

const ROOM_BYTES_MIN: usize = 8 << 10;

impl Socket {
    pub fn new(stream: TcpStream) -> Socket {
        Socket {
            stream,
            input: BytesMut::with_capacity(ROOM_BYTES_MIN),
            room: ROOM_BYTES_MIN,
            out: BytesMut::with_capacity(8 << 10),
        }
    }

    /// Sends what is in the output buffer.
    pub async fn flush(&mut self) -> Result<(), End> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out).await? {
                0 => return Err(End::Gone),
                // An emptied buffer keeps its room; one that is cut from the front loses it.
                n if n == self.out.len() => self.out.clear(),
                n => self.out.advance(n),
            }
        }
        // A buffer that grew for one large row does not stay large.
        if self.out.capacity() > 4 * OUT_BYTES {
            self.out = BytesMut::with_capacity(8 << 10);
        }
        Ok(())
    }

    /// Sends what is there if it is enough to be worth it.
    pub async fn flush_if_full(&mut self) -> Result<(), End> {
        match self.out.len() >= OUT_BYTES {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    async fn fill(&mut self) -> Result<(), End> {
        let free = self.input.capacity() - self.input.len();
        if free < 4 << 10 || (self.input.is_empty() && free < self.room) {
            // Doubles while a large message arrives, bounded by the limit on a message.
            let more = self.input.len().clamp(self.room, MESSAGE_BYTES_MAX);
            self.input.reserve(more);
        }
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(End::Gone),
            _ => Ok(()),
        }
    }

    /// The connection's first message. Nothing is pending for output.
    pub async fn opening(&mut self) -> Result<Opening, End> {
        loop {
            if let Some(opening) = frame::opening(&mut self.input).map_err(End::Broken)? {
                return Ok(opening);
            }
            self.fill().await?;
        }
    }

    /// Whether input beyond the messages read so far has arrived.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// The next message; the output is sent before it waits for one.
    pub async fn frame(&mut self) -> Result<Frame, End> {
        self.frame_after(|| ()).await
    }

    /// The same; `on_input` is called whenever some of what it waits for has arrived.
    pub async fn frame_after(&mut self, on_input: impl Fn()) -> Result<Frame, End> {
        loop {
            let held = self.input.len();
            if let Some(frame) = frame::frame(&mut self.input).map_err(End::Broken)? {
                // With a little for the messages that follow it.
                let message = held - self.input.len() + (1 << 10);
                if message > self.room {
                    self.room = message.next_power_of_two().min(READ_AHEAD_BYTES);
                }
                return Ok(frame);
            }
            self.flush().await?;
            self.fill().await?;
            on_input();
        }
    }

    /// Ends when the client goes away; for use beside a statement that runs. Input that arrives
    /// meanwhile is kept, up to a bound.
    pub async fn gone(&mut self) {
        loop {
            if self.input.len() >= READ_AHEAD_BYTES {
                return std::future::pending().await;
            }
            if self.fill().await.is_err() {
                return;
            }
        }
    }
}
