//! Reading a chain back: at start, and for who fell behind while the server runs.
//!
//! Frames follow one another without a gap: each begins where the one before it ends, or at the
//! beginning of the next segment and names that end. Sequence numbers only grow, so frames left by
//! a group that was abandoned on a full disk are not taken for the ones that replaced it.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::chain::Chain;
use super::codec::{
    self, FRAME_ALIGNMENT, FRAME_HEADER_BYTES, FrameHeader, Position, Record, decode_record,
};
use super::error::WalError;
use super::segment::segment_name;
use crate::io::{AlignedBuf, FileId, IoError, IoErrorKind, IoHandle, OpenMode};

/// Bytes read at a time; a longer frame is read whole.
const WINDOW_BYTES: usize = 256 << 10;

/// A valid frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    header: FrameHeader,
    payload: Vec<u8>,
}

impl Frame {
    /// Where it begins.
    pub fn position(&self) -> Position {
        self.header.position
    }

    /// Where it ends.
    pub fn end(&self) -> Position {
        self.header.end()
    }

    /// Number of its records.
    pub fn record_count(&self) -> usize {
        self.header.records as usize
    }

    /// Its records, in the order in which they were appended.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = &self.payload[..];
        std::iter::from_fn(move || {
            let (record, taken) = decode_record(rest)?;
            rest = &rest[taken..];
            Some(record)
        })
    }
}

/// Yields the valid frames of one chain.
pub struct ChainReader {
    io: Rc<IoHandle>,
    dir: PathBuf,
    database: u64,
    chain: Chain,
    /// Bytes read at a time.
    window_bytes: usize,
    /// Where the last frame ended.
    at: Position,
    last_sequence: Option<u64>,
    open: Option<OpenSegment>,
    finished: bool,
}

struct OpenSegment {
    segment: u32,
    /// None when the segment does not exist.
    file: Option<FileId>,
    /// What has been read of it, from `window_start` on.
    window: AlignedBuf,
    window_start: usize,
}

impl ChainReader {
    /// `from` is where a frame ended or begins, such as [`Frame::end`] or
    /// [`super::Durable::end`]; None for the oldest segment that exists.
    pub fn new(
        io: Rc<IoHandle>,
        dir: &Path,
        database: u64,
        chain: &Chain,
        from: Option<Position>,
    ) -> ChainReader {
        let oldest = chain.segments.first().copied().unwrap_or(0);
        ChainReader {
            io,
            dir: dir.to_owned(),
            database,
            chain: chain.clone(),
            window_bytes: WINDOW_BYTES,
            at: from.unwrap_or(Position::new(oldest, 0)),
            last_sequence: None,
            open: None,
            finished: false,
        }
    }

    /// The same, for a part of the chain that is so many bytes long.
    pub fn reading(mut self, bytes: u64) -> ChainReader {
        let bytes = bytes.min(WINDOW_BYTES as u64) as usize;
        self.window_bytes = bytes.max(FRAME_ALIGNMENT).next_multiple_of(FRAME_ALIGNMENT);
        self
    }

    /// The next frame; None at the chain's end, which is then [`ChainReader::end`].
    ///
    /// When the end was not known before, everything up to it is made durable first: after a crash
    /// of the process alone, what has been read may only have been on its way to the disk.
    pub async fn next(&mut self) -> Result<Option<Frame>, WalError> {
        if self.finished {
            return Ok(None);
        }
        if let Some(end) = self.chain.end
            && self.at >= end
        {
            if self.at > end {
                return Err(self.corrupt("it ends within a frame"));
            }
            return self.finish().await;
        }
        if let Some(frame) = self.next_valid().await? {
            return Ok(Some(frame));
        }
        if self.chain.end.is_some() {
            return Err(self.corrupt("a frame before its end is not valid"));
        }
        if self.is_named_durable_later().await? {
            return Err(self.corrupt("a later frame names it as durable"));
        }
        self.load(self.at, FRAME_HEADER_BYTES).await?;
        if let Some(file) = self.open.as_ref().and_then(|open| open.file) {
            self.io.sync(file).await?;
        }
        self.finish().await
    }

    /// Where the last frame ended; the chain's end after [`ChainReader::next`] has yielded None.
    pub fn end(&self) -> Position {
        self.at
    }

    /// Closes the files of a reader that is not read to the end.
    pub async fn close(mut self) -> Result<(), WalError> {
        self.finish().await.map(drop)
    }

    /// The frame at the present position, or at the beginning of the next segment when that one
    /// goes on from here. None when neither is valid, whatever that means.
    pub(super) async fn next_valid(&mut self) -> Result<Option<Frame>, WalError> {
        let here = self.at;
        let mut found = self.frame_at(here).await?;
        if found.is_none() {
            found = self.frame_at(Position::new(here.segment() + 1, 0)).await?;
        }
        let Some(header) = found else { return Ok(None) };
        let window = self.open.as_ref().expect("a frame was found in it");
        let start = header.position.offset() as usize - window.window_start;
        let frame = &window.window[start..start + header.frame_bytes()];
        let payload = codec::payload(&header, frame).to_vec();
        self.at = header.end();
        self.last_sequence = Some(header.sequence);
        Ok(Some(Frame { header, payload }))
    }

    /// The header of the frame at `place` if it is valid and follows the last one.
    async fn frame_at(&mut self, place: Position) -> Result<Option<FrameHeader>, WalError> {
        let Some(header) = self.valid_at(place).await? else {
            return Ok(None);
        };
        let follows = match self.last_sequence {
            Some(last) => header.sequence > last && header.previous_end == self.at,
            // The first of a segment names an end in the one before, which may be gone.
            None => header.previous_end == self.at || place == self.at && place.offset() == 0,
        };
        Ok(follows.then_some(header))
    }

    /// The header of the frame at `place` if it is a valid frame of this chain at this place.
    async fn valid_at(&mut self, place: Position) -> Result<Option<FrameHeader>, WalError> {
        let Some(head) = self.load(place, FRAME_HEADER_BYTES).await? else {
            return Ok(None);
        };
        let Some(header) = FrameHeader::parse(head) else {
            return Ok(None);
        };
        if header.database != self.database
            || header.chain != self.chain.id
            || header.position != place
        {
            return Ok(None);
        }
        let frame = self.load(place, header.frame_bytes()).await?;
        let valid = frame.is_some_and(|frame| codec::frame_is_valid(&header, frame));
        Ok(valid.then_some(header))
    }

    /// Whether a valid frame behind the present position names it as durable.
    async fn is_named_durable_later(&mut self) -> Result<bool, WalError> {
        let here = self.at;
        let later = self
            .chain
            .segments
            .iter()
            .copied()
            .filter(|&s| s >= here.segment());
        for segment in later.collect::<Vec<_>>() {
            let first = if segment == here.segment() {
                here.offset()
            } else {
                0
            };
            let mut place = Position::new(segment, first);
            while self.load(place, FRAME_ALIGNMENT).await?.is_some() {
                if let Some(header) = self.valid_at(place).await?
                    && header.durable > here
                {
                    return Ok(true);
                }
                place = place.plus(FRAME_ALIGNMENT);
            }
        }
        Ok(false)
    }

    /// `len` bytes at `place`; None when the segment is shorter or missing.
    async fn load(&mut self, place: Position, len: usize) -> Result<Option<&[u8]>, WalError> {
        let offset = place.offset() as usize;
        self.open_segment(place.segment()).await?;
        let open = self.open.as_mut().expect("it was opened");
        let Some(file) = open.file else {
            return Ok(None);
        };
        let loaded = open.window_start..open.window_start + open.window.len();
        if !(loaded.contains(&offset) && offset + len <= loaded.end) {
            let mut buf = std::mem::take(&mut open.window);
            // A frame's length is of whole blocks, a header's is not.
            let wanted = len.next_multiple_of(FRAME_ALIGNMENT).max(self.window_bytes);
            if buf.capacity() < wanted {
                self.io.recycle(buf);
                buf = self.io.buffer(wanted);
            }
            buf.set_len(wanted);
            let (read, mut buf) = self.io.read(file, offset as u64, buf).await;
            buf.set_len(*read.as_ref().unwrap_or(&0));
            open.window = buf;
            open.window_start = offset;
            read?;
        }
        let start = offset - open.window_start;
        Ok(open.window.get(start..start + len))
    }

    async fn open_segment(&mut self, segment: u32) -> Result<(), WalError> {
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.segment == segment)
        {
            return Ok(());
        }
        self.close_segment().await?;
        let path = self.dir.join(segment_name(self.chain.id, segment));
        let file = match self.io.open(path, OpenMode::READ.direct()).await {
            Ok(file) => Some(file),
            Err(IoError {
                kind: IoErrorKind::NotFound,
                ..
            }) => None,
            Err(error) => return Err(error.into()),
        };
        let window = AlignedBuf::default();
        self.open = Some(OpenSegment {
            segment,
            file,
            window,
            window_start: 0,
        });
        Ok(())
    }

    async fn close_segment(&mut self) -> Result<(), WalError> {
        if let Some(open) = self.open.take() {
            self.io.recycle(open.window);
            if let Some(file) = open.file {
                self.io.close(file).await?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<Option<Frame>, WalError> {
        self.finished = true;
        self.close_segment().await?;
        Ok(None)
    }

    fn corrupt(&self, what: &'static str) -> WalError {
        WalError::Corrupt {
            chain: self.chain.id,
            position: self.at,
            what,
        }
    }
}
