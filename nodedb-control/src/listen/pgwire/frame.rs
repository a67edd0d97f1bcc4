//! Messages from a client: framing and decoding.
//!
//! | message | first byte | body |
//! |---|---|---|
//! | start-up, SSL, GSS, cancel | none | int32 length (itself included), int32 code, … |
//! | all others | kind | int32 length (itself included), … |
//!
//! Numbers are big-endian; strings end with a zero byte and are UTF-8. A length is checked
//! against its limit before its body is waited for, nothing is allocated by a declared count, and
//! a body that is too short, too long or not UTF-8 is an error of that message alone: the frame's
//! length was right, so the connection goes on with the next one.

use bytes::{Buf, Bytes, BytesMut};
use nodedb_types::limits::MESSAGE_BYTES_MAX;
use nodedb_types::{Failure, Result, SqlState};

/// Longest start-up message, bytes: PostgreSQL's figure.
const STARTUP_BYTES_MAX: usize = 10_000;

const CODE_SSL: u32 = 80_877_103;
const CODE_GSS: u32 = 80_877_104;
const CODE_CANCEL: u32 = 80_877_102;

/// The first message of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    /// TLS or GSSAPI encryption is asked for.
    Encryption,
    Cancel {
        process: u32,
        secret: Bytes,
    },
    Startup {
        major: u16,
        minor: u16,
        parameters: Vec<(String, String)>,
    },
}

/// A message after the start-up.
#[derive(Debug, PartialEq)]
pub enum Message {
    Query(String),
    Parse {
        name: String,
        text: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    Describe(Target),
    Execute {
        portal: String,
        /// 0 is no limit.
        rows_max: u32,
    },
    Close(Target),
    Flush,
    Sync,
    CopyData(Bytes),
    CopyDone,
    CopyFail(String),
    Terminate,
}

#[derive(Debug, PartialEq)]
pub struct Bind {
    pub portal: String,
    pub statement: String,
    pub parameter_formats: Vec<Format>,
    /// `None` is NULL.
    pub parameters: Vec<Option<Bytes>>,
    pub result_formats: Vec<Format>,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    Statement(String),
    Portal(String),
}

/// The opening message, if it is there whole. An error ends the connection.
pub fn opening(buffer: &mut BytesMut) -> Result<Option<Opening>> {
    let Some(length) = buffer.get(..4) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if !(8..=STARTUP_BYTES_MAX).contains(&length) {
        return Err(violation("invalid length of startup packet"));
    }
    if buffer.len() < length {
        return Ok(None);
    }
    let mut body = Body::new(buffer.split_to(length).freeze());
    body.u32()?;
    let code = body.u32()?;
    let opening = match code {
        CODE_SSL | CODE_GSS => Opening::Encryption,
        CODE_CANCEL => Opening::Cancel {
            process: body.u32()?,
            secret: body.rest(),
        },
        version => Opening::Startup {
            major: (version >> 16) as u16,
            minor: version as u16,
            parameters: parameters(&mut body)?,
        },
    };
    Ok(Some(opening))
}

fn parameters(body: &mut Body) -> Result<Vec<(String, String)>> {
    let mut parameters = Vec::new();
    loop {
        let name = body.string()?;
        if name.is_empty() {
            return Ok(parameters);
        }
        parameters.push((name, body.string()?));
    }
}

/// A frame cut from the stream: its kind and body.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    body: Bytes,
}

/// The next frame, if it is there whole. An error means that the stream cannot be followed any
/// further and ends the connection.
pub fn frame(buffer: &mut BytesMut) -> Result<Option<Frame>> {
    let Some(head) = buffer.get(..5) else {
        return Ok(None);
    };
    let kind = head[0];
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if !b"QPBDECHSdcfXFp".contains(&kind) {
        return Err(violation(&format!("invalid frontend message type {kind}")));
    }
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(violation(&format!("invalid message length {length}")));
    }
    if buffer.len() < 1 + length {
        // Room is made as bytes arrive, never by the declared length alone.
        return Ok(None);
    }
    buffer.advance(5);
    let body = buffer.split_to(length - 4).freeze();
    Ok(Some(Frame { kind, body }))
}

impl Frame {
    /// Decodes the body. An error concerns this message alone.
    pub fn decode(self) -> Result<Message> {
        let mut body = Body::new(self.body);
        let message = match self.kind {
            b'Q' => Message::Query(body.string()?),
            b'P' => Message::Parse {
                name: body.string()?,
                text: body.string()?,
                types: body.list(Body::u32)?,
            },
            b'B' => Message::Bind(Bind {
                portal: body.string()?,
                statement: body.string()?,
                parameter_formats: body.list(Body::format)?,
                parameters: body.list(Body::value)?,
                result_formats: body.list(Body::format)?,
            }),
            b'D' => Message::Describe(body.target()?),
            b'C' => Message::Close(body.target()?),
            b'E' => Message::Execute {
                portal: body.string()?,
                // A negative number means no limit, as PostgreSQL takes it.
                rows_max: u32::try_from(body.u32()? as i32).unwrap_or(0),
            },
            b'H' => Message::Flush,
            b'S' => Message::Sync,
            b'd' => Message::CopyData(body.rest()),
            b'c' => Message::CopyDone,
            b'f' => Message::CopyFail(body.string()?),
            b'X' => Message::Terminate,
            b'F' => return Err(Failure::unsupported("the function call message")),
            _ => return Err(violation("no authentication is in progress")),
        };
        match body.left() == 0 {
            true => Ok(message),
            false => Err(violation("invalid message format: bytes are left over")),
        }
    }
}

fn violation(message: &str) -> Failure {
    Failure::new(SqlState::ProtocolViolation, message)
}

/// A body that is being read; every read is checked. It is cut by position and not by splitting
/// the buffer, which would count references for every field.
struct Body {
    bytes: Bytes,
    at: usize,
}

impl Body {
    fn new(bytes: Bytes) -> Body {
        Body { bytes, at: 0 }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, length: usize) -> Result<&[u8]> {
        if self.left() < length {
            return Err(violation("insufficient data left in message"));
        }
        let from = self.at;
        self.at += length;
        Ok(&self.bytes[from..self.at])
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut number = [0; N];
        number.copy_from_slice(self.take(N)?);
        Ok(number)
    }

    fn u16(&mut self) -> Result<u16> {
        self.number().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.number().map(u32::from_be_bytes)
    }

    /// Everything that is left.
    fn rest(&mut self) -> Bytes {
        let from = std::mem::replace(&mut self.at, self.bytes.len());
        self.bytes.slice(from..)
    }

    fn string(&mut self) -> Result<String> {
        let end = self.bytes[self.at..].iter().position(|b| *b == 0);
        let end = end.ok_or_else(|| violation("invalid string in message"))?;
        let bytes = self.take(end + 1)?;
        let bytes = &bytes[..end];
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(e) => Err(Failure::new(
                SqlState::CharacterNotInRepertoire,
                format!(
                    "invalid byte sequence for encoding \"UTF8\": 0x{:02x}",
                    bytes[e.valid_up_to()]
                ),
            )),
        }
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Body) -> Result<T>) -> Result<Vec<T>> {
        let count = self.u16()?;
        (0..count).map(|_| item(self)).collect()
    }

    fn format(&mut self) -> Result<Format> {
        match self.u16()? {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            other => Err(Failure::new(
                SqlState::InvalidParameterValue,
                format!("invalid format code: {other}"),
            )),
        }
    }

    fn value(&mut self) -> Result<Option<Bytes>> {
        let length = self.u32()? as i32;
        let Ok(length) = usize::try_from(length) else {
            return match length {
                -1 => Ok(None),
                _ => Err(violation("invalid length of a parameter")),
            };
        };
        let from = self.at;
        self.take(length)?;
        Ok(Some(self.bytes.slice(from..self.at)))
    }

    fn target(&mut self) -> Result<Target> {
        match self.number().map(u8::from_be_bytes)? {
            b'S' => Ok(Target::Statement(self.string()?)),
            b'P' => Ok(Target::Portal(self.string()?)),
            other => Err(violation(&format!("invalid target {other} of a message"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

    fn framed(kind: u8, body: &[u8]) -> BytesMut {
        let mut buffer = BytesMut::new();
        buffer.put_u8(kind);
        buffer.put_u32(body.len() as u32 + 4);
        buffer.put_slice(body);
        buffer
    }

    #[test]
    fn messages_decode_and_partial_ones_wait() {
        let mut buffer = framed(b'Q', b"SELECT 1\0");
        let tail = buffer.split_off(7);
        assert!(frame(&mut buffer).expect("fine").is_none());
        buffer.unsplit(tail);
        let message = frame(&mut buffer).expect("fine").expect("whole").decode();
        assert_eq!(message.expect("decodes"), Message::Query("SELECT 1".into()));
        assert!(buffer.is_empty());
        let bind = b"p\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x01x\0\0";
        let message = frame(&mut framed(b'B', bind))
            .expect("fine")
            .expect("whole")
            .decode();
        assert_eq!(
            message.expect("decodes"),
            Message::Bind(Bind {
                portal: "p".into(),
                statement: "s".into(),
                parameter_formats: vec![Format::Binary],
                parameters: vec![None, Some(Bytes::from_static(b"x"))],
                result_formats: vec![],
            })
        );
    }

    #[test]
    fn bad_bodies_are_errors_of_their_message() {
        let bad: [(u8, &[u8]); 8] = [
            (b'Q', b"no end"),
            (b'Q', b"two\0parts\0"),
            (b'P', b"a\0b\0\xff\xff"),
            (b'B', b"a\0b\0\0\0\0\x01\x7f\xff\xff\xff"),
            (b'B', b"a\0b\0\0\x01\0\x07"),
            (b'D', b"Zx\0"),
            (b'E', b""),
            (b'p', b"secret\0"),
        ];
        for (kind, body) in bad {
            let frame = frame(&mut framed(kind, body))
                .expect("a frame")
                .expect("whole");
            frame.decode().expect_err("is refused");
        }
        let utf8 = frame(&mut framed(b'Q', b"SELECT '\xff'\0"))
            .expect("a frame")
            .expect("whole");
        assert_eq!(
            utf8.decode().expect_err("is refused").code(),
            SqlState::CharacterNotInRepertoire
        );
    }

    #[test]
    fn lengths_are_checked_before_bodies_arrive() {
        let mut huge = BytesMut::from(&b"Q\x7f\xff\xff\xff"[..]);
        frame(&mut huge).expect_err("too long");
        let mut short = BytesMut::from(&b"Q\0\0\0\x03"[..]);
        frame(&mut short).expect_err("shorter than its own length");
        let mut unknown = BytesMut::from(&b"!\0\0\0\x04"[..]);
        frame(&mut unknown).expect_err("no such kind");
        opening(&mut BytesMut::from(&b"\0\0\xff\xff"[..])).expect_err("too long");
    }

    #[test]
    fn openings_decode() {
        let mut buffer = BytesMut::new();
        buffer.put_u32(8);
        buffer.put_u32(CODE_SSL);
        assert_eq!(
            opening(&mut buffer).expect("fine"),
            Some(Opening::Encryption)
        );
        let body = b"user\0me\0database\0nodedb\0\0";
        buffer.put_u32(8 + body.len() as u32);
        buffer.put_u32(3 << 16 | 2);
        buffer.put_slice(body);
        let Some(Opening::Startup {
            major,
            minor,
            parameters,
        }) = opening(&mut buffer).expect("fine")
        else {
            panic!("a start-up");
        };
        assert_eq!((major, minor, parameters.len()), (3, 2, 2));
    }

    /// Whatever bytes come, decoding gives a message or an error.
    #[test]
    fn random_bytes_never_panic() {
        let mut state = 1u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize
        };
        for _ in 0..20_000 {
            let body: Vec<u8> = (0..random() % 40).map(|_| (random() % 7) as u8).collect();
            let kind = b"QPBDECHSdcfXFp"[random() % 14];
            if let Ok(Some(frame)) = frame(&mut framed(kind, &body)) {
                let _ = frame.decode();
            }
            let mut start = BytesMut::new();
            start.put_u32(body.len() as u32 + 4);
            start.put_slice(&body);
            let _ = opening(&mut start);
        }
    }
}
