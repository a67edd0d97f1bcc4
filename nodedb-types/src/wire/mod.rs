//! The native protocol: what the SDK and the server say to each other.
//!
//! A connection is a sequence of frames in both directions, little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | length of the payload, at most [`PAYLOAD_BYTES_MAX`] |
//! | 4 | 4 | crc32c of bytes 8.. of the header and of the payload |
//! | 8 | 4 | request number; the answer's frames carry the request's |
//! | 12 | 1 | kind, see [`Kind`] |
//! | 13 | 3 | zero |
//! | 16 | | payload |
//!
//! The client's first frame is `Hello` with the magic word and the versions it speaks; the server
//! answers with the one it chose. Requests may be sent without waiting; answers come in the order
//! of the requests. An answer is `Rows` frames (an Arrow IPC stream cut into pieces: schema first)
//! and one `Done`, or a `Failed`. A length is checked against the limit, and memory grows only
//! with bytes that have arrived.

mod codec;
mod message;

pub use codec::{Reader, Writer};
pub use message::{Argument, Done, Hello, Order, Request, Row, SetQuery, Term};

use crate::{Failure, Result, SqlState};

/// First bytes of a `Hello`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"NDB1");
/// The version spoken by this build.
pub const VERSION: u16 = 1;
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 16;
/// Longest payload, bytes.
pub const PAYLOAD_BYTES_MAX: usize = crate::limits::MESSAGE_BYTES_MAX;

/// What a frame's payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Both ways, once: [`Hello`].
    Hello = 1,
    /// To the server: [`Request`].
    Request = 2,
    /// To the server, without payload: drop the work of the request with this number.
    Cancel = 3,
    /// To the client: a piece of an Arrow IPC stream.
    Rows = 16,
    /// To the client: [`Done`].
    Done = 17,
    /// To the client: a [`Failure`].
    Failed = 18,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [
            Kind::Hello,
            Kind::Request,
            Kind::Cancel,
            Kind::Rows,
            Kind::Done,
            Kind::Failed,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// A frame's header, checked as far as that is possible without the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub length: usize,
    pub request: u32,
    pub kind: Kind,
    crc: u32,
}

fn violation(message: &str) -> Failure {
    Failure::new(SqlState::ProtocolViolation, message)
}

impl Header {
    /// Reads a header. Fails with 08P01.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let length = word(0) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(violation("a frame is longer than the protocol allows"));
        }
        let kind =
            Kind::from_byte(bytes[12]).ok_or_else(|| violation("a frame of unknown kind"))?;
        if bytes[13..16] != [0; 3] {
            return Err(violation("reserved bytes of a frame are not zero"));
        }
        Ok(Header {
            length,
            request: word(8),
            kind,
            crc: word(4),
        })
    }

    /// Checks the payload that followed. Fails with 08P01.
    pub fn check(&self, payload: &[u8]) -> Result<()> {
        if payload.len() != self.length || checksum(self.request, self.kind, payload) != self.crc {
            return Err(violation("a frame's checksum does not match"));
        }
        Ok(())
    }
}

fn checksum(request: u32, kind: Kind, payload: &[u8]) -> u32 {
    let mut head = [0u8; 8];
    head[..4].copy_from_slice(&request.to_le_bytes());
    head[4] = kind as u8;
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

/// A whole frame, ready to be sent. Fails with 54000 when the payload is too long.
pub fn frame(request: u32, kind: Kind, payload: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.extend_from_slice(&[0; HEADER_BYTES]);
    out.extend_from_slice(payload);
    seal(request, kind, out)
}

/// A whole frame whose payload is written in its place.
pub fn frame_of(request: u32, kind: Kind, write: impl FnOnce(&mut Writer)) -> Result<Vec<u8>> {
    let mut writer = Writer(vec![0; HEADER_BYTES]);
    write(&mut writer);
    seal(request, kind, writer.finish())
}

/// Fills in the header, for which there is room before the payload.
fn seal(request: u32, kind: Kind, mut out: Vec<u8>) -> Result<Vec<u8>> {
    let (header, payload) = out.split_at_mut(HEADER_BYTES);
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Failure::new(
            SqlState::ProgramLimitExceeded,
            format!("a message may have at most {PAYLOAD_BYTES_MAX} bytes"),
        ));
    }
    header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[4..8].copy_from_slice(&checksum(request, kind, payload).to_le_bytes());
    header[8..12].copy_from_slice(&request.to_le_bytes());
    header[12] = kind as u8;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_checked() {
        let bytes = frame(7, Kind::Done, b"payload").unwrap();
        let header = Header::decode(bytes[..16].try_into().unwrap()).unwrap();
        assert_eq!(
            (header.length, header.request, header.kind),
            (7, 7, Kind::Done)
        );
        header.check(&bytes[16..]).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let caught = Header::decode(bad[..16].try_into().unwrap())
                .and_then(|h| h.check(&bad[16..]))
                .is_err();
            assert!(caught, "bit {bit}");
        }
    }
}
