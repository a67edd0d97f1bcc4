//! Frames that have been appended and not yet written.

use std::collections::VecDeque;

use nodedb_types::limits::WAL_FRAME_BYTES_MAX;

use super::codec::{FRAME_HEADER_BYTES, FrameHeader, Record};
use crate::io::buf::round_up;
use crate::io::{AlignedBuf, IoHandle};

/// Bytes of frames that may wait for a flush. With as much in flight, this bounds what a core's
/// log holds in memory.
pub(super) const GROUP_BYTES_MAX: usize = 4 << 20;
/// First size of a frame's buffer, bytes; it doubles as records come.
const FRAME_BUFFER_BYTES: usize = 16 << 10;

const _: () = assert!(GROUP_BYTES_MAX >= 2 * WAL_FRAME_BYTES_MAX);

/// A frame under construction: room for the header, then records.
pub(super) struct OpenFrame<T> {
    pub(super) buf: AlignedBuf,
    /// What waits for it to be durable.
    pub(super) values: Vec<T>,
    pub(super) records: u32,
    /// Bytes used, header included.
    used: usize,
}

impl<T> OpenFrame<T> {
    fn new(io: &IoHandle) -> OpenFrame<T> {
        let buf = io.buffer(FRAME_BUFFER_BYTES);
        OpenFrame {
            buf,
            values: Vec::new(),
            records: 0,
            used: FRAME_HEADER_BYTES,
        }
    }

    pub(super) fn payload_bytes(&self) -> u32 {
        (self.used - FRAME_HEADER_BYTES) as u32
    }

    /// Bytes on disk: with header and padding.
    pub(super) fn frame_bytes(&self) -> usize {
        round_up(self.used)
    }

    /// Puts the header in; the buffer is then the frame's bytes.
    pub(super) fn finish(&mut self, header: &FrameHeader) {
        self.buf.set_len(self.frame_bytes());
        header.finish(&mut self.buf);
    }

    /// Makes room for records of so many bytes.
    fn reserve(&mut self, io: &IoHandle, bytes: usize) {
        let needed = self.used + bytes;
        if needed > self.buf.len() {
            let mut bigger = io.buffer(needed.next_power_of_two().min(WAL_FRAME_BYTES_MAX));
            bigger[..self.used].copy_from_slice(&self.buf[..self.used]);
            io.recycle(std::mem::replace(&mut self.buf, bigger));
        }
    }

    fn push(&mut self, record: &Record<'_>) {
        self.used += record.encode(&mut self.buf[self.used..]);
        self.records += 1;
    }
}

/// The frames of the next flushes, oldest first.
pub(super) struct Group<T> {
    frames: VecDeque<OpenFrame<T>>,
    bytes: usize,
    frame_bytes_max: usize,
}

impl<T> Group<T> {
    /// `frame_bytes_max`: longest frame, with its header.
    pub(super) fn new(frame_bytes_max: usize) -> Group<T> {
        Group {
            frames: VecDeque::new(),
            bytes: 0,
            frame_bytes_max,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes that the records of one statement take in a frame by themselves.
    pub(super) fn frame_bytes_of(records: &[Record<'_>]) -> usize {
        FRAME_HEADER_BYTES + records.iter().map(Record::encoded_bytes).sum::<usize>()
    }

    /// Whether a statement whose records take `bytes` in a frame by themselves can be added.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= GROUP_BYTES_MAX
    }

    /// Adds the records of one statement, all to one frame. There must be room.
    pub(super) fn add(&mut self, io: &IoHandle, records: &[Record<'_>], value: Option<T>) {
        let bytes = Self::frame_bytes_of(records) - FRAME_HEADER_BYTES;
        let fits = |frame: &OpenFrame<T>| frame.used + bytes <= self.frame_bytes_max;
        if !self.frames.back().is_some_and(fits) {
            self.frames.push_back(OpenFrame::new(io));
            self.bytes += FRAME_HEADER_BYTES;
        }
        let frame = self.frames.back_mut().expect("it was pushed");
        frame.reserve(io, bytes);
        for record in records {
            frame.push(record);
        }
        frame.values.extend(value);
        self.bytes += bytes;
    }

    /// Takes the frames that fit `room` bytes of a segment, in order; perhaps none.
    pub(super) fn take_fitting(&mut self, mut room: usize) -> Vec<OpenFrame<T>> {
        let mut taken = Vec::new();
        while let Some(frame) = self.frames.front() {
            let frame_bytes = frame.frame_bytes();
            if frame_bytes > room {
                break;
            }
            room -= frame_bytes;
            let frame = self.frames.pop_front().expect("there is a front");
            self.bytes -= frame.used;
            taken.push(frame);
        }
        taken
    }

    /// Empties the group and returns what waited for it, in order.
    pub(super) fn abandon(&mut self, io: &IoHandle) -> Vec<T> {
        self.bytes = 0;
        let mut values = Vec::new();
        for frame in self.frames.drain(..) {
            io.recycle(frame.buf);
            values.extend(frame.values);
        }
        values
    }
}
