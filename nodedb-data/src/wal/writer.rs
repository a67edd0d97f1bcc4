//! Writing a chain: appends, group commit, and what happens when the disk does not take them.
//!
//! A [`Wal`] belongs to one core and is shared by its tasks:
//! * whoever writes calls [`Wal::append`], which never waits;
//! * one task loops over [`Wal::ready`] and [`Wal::flush`] and applies what comes back;
//! * one task runs [`Wal::prepare_segments`], so that the next segment is ready before it is
//!   needed and no commit waits for it.
//!
//! One flush is in flight at a time; it takes all that was appended and fits the segment, so the
//! position at which it begins is durable, and each of its frames names that position.
//!
//! **Full disk.** A write that failed for lack of space may have left valid frames that nobody was
//! promised, so the first block of the group is overwritten with zeros before the failure is
//! reported: a crash after the report must not bring them back. Overwriting what exists needs no
//! space on the file systems that we run on; where it fails, the log latches. What was appended
//! meanwhile is abandoned too: it may build on the abandoned rows, and its LSNs follow theirs.
//!
//! A start that finds no space for its first segment goes on without one: the chain *begins* with
//! the first flush that finds space, which logs where the older chains end before anything else.
//! Until then every flush fails as on any full disk, and the chain has no durable position.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use super::chain::Chain;
use super::codec::{
    ChainEnd, FRAME_ALIGNMENT, FRAME_HEADER_BYTES, FrameHeader, Position, Record, RecordHeader,
    RecordKind,
};
use super::durable::Durable;
use super::error::WalError;
use super::group::{Group, OpenFrame};
use super::segment::WalConfig;
use super::signal::Signal;
use crate::io::{FileId, IoError, IoHandle, IoOp};

/// A core's log; `T` is what a statement leaves for the moment when it is durable.
pub struct Wal<T> {
    io: Rc<IoHandle>,
    config: WalConfig,
    state: RefCell<State<T>>,
    /// Notified when there is something to flush.
    appended: Signal,
    /// Notified when there is room again, when a segment is wanted or ready, and at the end.
    changed: Signal,
    flushing: Cell<bool>,
}

struct State<T> {
    group: Group<T>,
    /// The end of the last durable frame: where the next one goes.
    durable: Position,
    next_sequence: u64,
    /// `None` until there was space for the first one.
    current: Option<Segment>,
    /// The ends of older chains, until they are logged.
    ends: Vec<ChainEnd>,
    begun: bool,
    next: NextSegment,
    /// Segments with frames that have not been released.
    segments: BTreeSet<u32>,
    /// The first segment names ends of older chains that still exist.
    holds_ends: bool,
    /// The last frame is a seal, or there is none.
    sealed: bool,
    latched: Option<IoError>,
    closed: bool,
    stats: WalStats,
}

#[derive(Clone, Copy)]
struct Segment {
    number: u32,
    file: FileId,
    bytes: u32,
}

/// The segment after the current one.
enum NextSegment {
    NotNeeded,
    Wanted,
    Preparing,
    Ready(Segment),
    /// There was no space for it; asked for again by the next flush that needs it.
    NoSpace,
}

/// Counters since the chain began.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WalStats {
    /// Groups written and synced.
    pub flushes: u64,
    pub frames: u64,
    pub records: u64,
    /// Bytes of frames with their padding.
    pub bytes: u64,
}

/// An append that was not taken; nothing of it is logged.
#[derive(Debug)]
pub struct Refused<T> {
    pub error: WalError,
    pub value: T,
}

/// A flush that failed. Nothing in `abandoned` is durable as far as the log knows.
#[derive(Debug)]
pub struct FlushFailed<T> {
    /// [`WalError::NoSpace`]: none of it will be found after a crash, and the log goes on from the
    /// last durable frame; the LSNs and timestamps of what was abandoned are free again.
    /// [`WalError::Latched`]: the outcome is unknown and the log takes nothing more.
    pub error: WalError,
    /// What was in flight or appended since, in log order.
    pub abandoned: Vec<T>,
}

impl<T> Wal<T> {
    /// Begins a chain: makes its first segment and logs durably where older chains end. Where
    /// there is no space for that, the first flush that finds some begins it, see [`Wal::begun`].
    pub async fn create(
        io: Rc<IoHandle>,
        config: WalConfig,
        ends: &[ChainEnd],
    ) -> Result<Rc<Wal<T>>, WalError> {
        assert!((config.first_segment_bytes as usize).is_multiple_of(FRAME_ALIGNMENT));
        let state = State {
            group: Group::new(config.frame_bytes_max()),
            durable: Position::START,
            next_sequence: 1,
            current: None,
            ends: ends.to_vec(),
            begun: false,
            next: NextSegment::NotNeeded,
            segments: BTreeSet::new(),
            holds_ends: !ends.is_empty(),
            sealed: true,
            latched: None,
            closed: false,
            stats: WalStats::default(),
        };
        let wal = Wal {
            io,
            config,
            state: RefCell::new(state),
            appended: Signal::default(),
            changed: Signal::default(),
            flushing: Cell::new(false),
        };
        match wal.begin().await {
            Ok(()) | Err(WalError::NoSpace) => Ok(Rc::new(wal)),
            Err(error) => Err(error),
        }
    }

    /// Waits until the chain has begun: what it logged of the older ones is durable.
    pub async fn begun(&self) {
        let is_begun = || self.has_begun().then_some(());
        self.changed.until(is_begun).await;
    }

    /// False while there has been no space for the chain's first segment.
    pub fn has_begun(&self) -> bool {
        self.state.borrow().begun
    }

    /// Adds the records of one statement to the open group. They become durable with the flush
    /// that follows, whole or not at all, and `value` comes back from it.
    ///
    /// Fails with [`WalError::TooLarge`], with [`WalError::Full`] (see [`Wal::room`]) and, after a
    /// failure, with [`WalError::Latched`].
    pub fn append(&self, records: &[Record<'_>], value: T) -> Result<(), Refused<T>> {
        let bytes = Group::<T>::frame_bytes_of(records);
        let mut state = self.state.borrow_mut();
        let refusal = if let Some(cause) = state.latched {
            Some(WalError::Latched(cause))
        } else if bytes > self.config.frame_bytes_max() {
            Some(WalError::TooLarge { bytes })
        } else if !state.group.has_room(bytes) {
            Some(WalError::Full)
        } else {
            None
        };
        if let Some(error) = refusal {
            return Err(Refused { error, value });
        }
        state.group.add(&self.io, records, Some(value));
        drop(state);
        self.appended.notify();
        Ok(())
    }

    /// Waits until a statement whose records take `record_bytes` (see [`Record::encoded_bytes`])
    /// is not refused as [`WalError::Full`]. Another task may take the room first.
    pub async fn room(&self, record_bytes: usize) {
        self.changed
            .until(|| self.has_room(record_bytes).then_some(()))
            .await;
    }

    /// Whether [`Wal::room`] would return at once.
    pub fn has_room(&self, record_bytes: usize) -> bool {
        let state = self.state.borrow();
        state.latched.is_some() || state.group.has_room(FRAME_HEADER_BYTES + record_bytes)
    }

    /// Waits until there is something to flush, or the log has failed and a flush would say so.
    pub async fn ready(&self) {
        self.appended
            .until(|| {
                let state = self.state.borrow();
                (!state.group.is_empty() || state.latched.is_some()).then_some(())
            })
            .await;
    }

    /// Writes and syncs what has been appended, as far as it fits the segment, and returns what
    /// is durable now, in log order; nothing when nothing was appended.
    ///
    /// One task flushes: a second flush beside one in flight is a mistake and panics.
    pub async fn flush(&self) -> Result<Vec<Durable<T>>, FlushFailed<T>> {
        assert!(
            !self.flushing.replace(true),
            "one flush is in flight at a time"
        );
        let result = self.flush_alone().await;
        self.flushing.set(false);
        self.changed.notify();
        result
    }

    /// True once after the last write: an idle core should [`Wal::seal`].
    pub fn needs_seal(&self) -> bool {
        let state = self.state.borrow();
        let idle = state.group.is_empty() && !self.flushing.get();
        idle && !state.sealed && state.latched.is_none()
    }

    /// Writes a frame that names the durable end, if [`Wal::needs_seal`]. It is a flush, called by
    /// the task that flushes: what was appended since comes back as well.
    pub async fn seal(&self) -> Result<Vec<Durable<T>>, FlushFailed<T>> {
        if !self.needs_seal() {
            return Ok(Vec::new());
        }
        {
            let state = &mut *self.state.borrow_mut();
            let header = RecordHeader::of_log(RecordKind::Seal);
            state.group.add(
                &self.io,
                &[Record {
                    header,
                    payload: &[],
                }],
                None,
            );
        }
        let flushed = self.flush().await?;
        // Statements may have joined the seal's frame; then a later seal is due.
        self.state.borrow_mut().sealed = flushed.is_empty();
        Ok(flushed)
    }

    /// Prepares segments ahead of need until [`Wal::close`]. To be run as a task of the core; a
    /// flush that needs a segment waits for it.
    pub async fn prepare_segments(self: Rc<Self>) {
        while let Some(number) = self.changed.until(|| self.segment_wanted()).await {
            self.state.borrow_mut().next = NextSegment::Preparing;
            let prepared = self.config.prepare(&self.io, number).await;
            if self.state.borrow().closed {
                if let Ok(file) = prepared {
                    // Closing fails only for a file that is not open.
                    let _ = self.io.close(file).await;
                }
                return;
            }
            self.segment_prepared(number, prepared);
            self.appended.notify();
            self.changed.notify();
        }
    }

    /// Ends [`Wal::prepare_segments`] and closes the files. What was appended must be flushed.
    pub async fn close(&self) -> Result<(), WalError> {
        self.state.borrow_mut().closed = true;
        self.changed.notify();
        let current = self.state.borrow().current;
        let next = std::mem::replace(&mut self.state.borrow_mut().next, NextSegment::NotNeeded);
        if let Some(segment) = current {
            self.io.close(segment.file).await?;
        }
        if let NextSegment::Ready(segment) = next {
            self.io.close(segment.file).await?;
        }
        Ok(())
    }

    /// Why the log takes nothing more, if it does not.
    pub fn latched(&self) -> Option<IoError> {
        self.state.borrow().latched
    }

    /// Where the durable part ends; where a checkpoint that covers all of it would say to go on.
    pub fn durable_end(&self) -> Position {
        self.state.borrow().durable
    }

    /// The chain as far as it is durable, for a [`super::ChainReader`] beside the writer.
    pub fn chain(&self) -> Chain {
        let state = self.state.borrow();
        Chain {
            id: self.config.chain,
            segments: state.segments.iter().copied().collect(),
            end: Some(state.durable),
        }
    }

    pub fn stats(&self) -> WalStats {
        self.state.borrow().stats
    }

    /// Length of segment number `segment` of a chain, bytes.
    pub fn segment_bytes(&self, segment: u32) -> u32 {
        self.config.segment_bytes(segment)
    }

    /// Bytes of segments that exist, prepared ones included.
    pub fn bytes_live(&self) -> u64 {
        let state = self.state.borrow();
        let ready = match state.next {
            NextSegment::Ready(segment) => Some(segment.number),
            _ => None,
        };
        let segments = state.segments.iter().copied().chain(ready);
        segments
            .map(|segment| u64::from(self.config.segment_bytes(segment)))
            .sum()
    }

    /// All older chains are gone, so the ends in the first segment are needed no more.
    pub fn older_chains_released(&self) {
        self.state.borrow_mut().holds_ends = false;
    }

    /// Removes segments that lie wholly before `position`, except the one in use and, while older
    /// chains exist, the first one, which names their ends.
    pub async fn release_before(&self, position: Position) -> Result<(), WalError> {
        let unneeded: Vec<u32> = {
            let state = self.state.borrow();
            let current = state.current.map_or(0, |segment| segment.number);
            let until = position.segment().min(current);
            let first = u32::from(state.holds_ends).min(until);
            state.segments.range(first..until).copied().collect()
        };
        for &segment in &unneeded {
            self.io.unlink(self.config.segment_path(segment)).await?;
            self.state.borrow_mut().segments.remove(&segment);
        }
        if !unneeded.is_empty() {
            self.io.sync_dir(&*self.config.dir).await?;
        }
        Ok(())
    }

    /// Logs the ends of the older chains in a frame of their own, the first of the chain; what was
    /// appended meanwhile comes after it.
    async fn log_ends(&self) -> Result<(), WalError> {
        let payloads: Vec<_> = {
            let state = self.state.borrow();
            state.ends.iter().map(ChainEnd::encode).collect()
        };
        if payloads.is_empty() {
            return Ok(());
        }
        let header = RecordHeader::of_log(RecordKind::ChainEnd);
        let record = |payload| Record { header, payload };
        let records: Vec<_> = payloads
            .iter()
            .map(|payload| record(&payload[..]))
            .collect();
        let bytes = Group::<T>::frame_bytes_of(&records);
        if bytes > self.config.frame_bytes_max() {
            return Err(WalError::TooLarge { bytes });
        }
        let mut group = Group::new(self.config.frame_bytes_max());
        group.add(&self.io, &records, None);
        let Segment { file, bytes, .. } = current(&self.state.borrow());
        let mut frames = group.take_fitting(bytes as usize);
        let ends = self.finish_frames(&mut frames, Position::START);
        match self.write(file, Position::START, &mut frames).await {
            Ok(()) => {
                self.publish(frames, Position::START, &ends);
                Ok(())
            }
            Err(error) => {
                let error = self.after_failed_write(error, file, Position::START).await;
                frames.into_iter().for_each(|f| self.io.recycle(f.buf));
                Err(error)
            }
        }
    }

    async fn flush_alone(&self) -> Result<Vec<Durable<T>>, FlushFailed<T>> {
        if let Some(cause) = self.latched() {
            return Err(self.abandon(WalError::Latched(cause), Vec::new()));
        }
        if self.state.borrow().group.is_empty() {
            return Ok(Vec::new());
        }
        if !self.has_begun()
            && let Err(error) = self.begin().await
        {
            return Err(self.abandon(error, Vec::new()));
        }
        let mut frames = self.take_frames();
        if frames.is_empty() {
            if let Err(error) = self.enter_next_segment().await {
                return Err(self.abandon(error, Vec::new()));
            }
            frames = self.take_frames();
        }
        let (file, start) = {
            let state = self.state.borrow();
            (current(&state).file, self.write_position(&state))
        };
        let ends = self.finish_frames(&mut frames, start);
        match self.write(file, start, &mut frames).await {
            Ok(()) => Ok(self.publish(frames, start, &ends)),
            Err(error) => {
                let error = self.after_failed_write(error, file, start).await;
                Err(self.abandon(error, frames))
            }
        }
    }

    /// Makes the first segment, unless an earlier try has, and logs the ends of the older chains.
    async fn begin(&self) -> Result<(), WalError> {
        if self.state.borrow().current.is_none() {
            let file = match self.config.prepare(&self.io, 0).await {
                Ok(file) => file,
                Err(error) if error.is_no_space() => return Err(WalError::NoSpace),
                Err(error) => {
                    self.state.borrow_mut().latched.get_or_insert(error);
                    return Err(WalError::Latched(error));
                }
            };
            let state = &mut *self.state.borrow_mut();
            state.current = Some(Segment {
                number: 0,
                file,
                bytes: self.config.segment_bytes(0),
            });
            state.segments.insert(0);
        }
        self.log_ends().await?;
        let state = &mut *self.state.borrow_mut();
        state.ends = Vec::new();
        state.begun = true;
        self.changed.notify();
        Ok(())
    }

    /// Where the next frame goes: the durable end, or the beginning of a segment just entered.
    fn write_position(&self, state: &State<T>) -> Position {
        let current = current(state).number;
        if state.durable.segment() == current {
            state.durable
        } else {
            Position::new(current, 0)
        }
    }

    /// The frames that fit what is left of the segment.
    fn take_frames(&self) -> Vec<OpenFrame<T>> {
        let state = &mut *self.state.borrow_mut();
        let start = self.write_position(state).offset();
        let room = current(state).bytes - start;
        state.group.take_fitting(room as usize)
    }

    /// Puts headers into the frames of a group that begins at `start`; where each frame ends.
    fn finish_frames(&self, frames: &mut [OpenFrame<T>], start: Position) -> Vec<Position> {
        let state = &mut *self.state.borrow_mut();
        let mut position = start;
        let mut previous_end = state.durable;
        let mut ends = Vec::with_capacity(frames.len());
        for frame in frames {
            let header = FrameHeader {
                database: self.config.database,
                chain: self.config.chain,
                records: frame.records,
                sequence: state.next_sequence,
                position,
                previous_end,
                durable: state.durable,
                payload_bytes: frame.payload_bytes(),
            };
            state.next_sequence += 1;
            frame.finish(&header);
            position = header.end();
            previous_end = position;
            ends.push(position);
        }
        ends
    }

    /// Writes a group and syncs it. The buffers come back into the frames.
    async fn write(
        &self,
        file: FileId,
        start: Position,
        frames: &mut [OpenFrame<T>],
    ) -> Result<(), IoError> {
        let sync = frames.len() == 1;
        let mut offset = u64::from(start.offset());
        let mut pending = Vec::with_capacity(frames.len());
        for frame in &mut *frames {
            let buf = std::mem::take(&mut frame.buf);
            let bytes = buf.len() as u64;
            pending.push(self.io.submit(IoOp::Write {
                file,
                offset,
                buf,
                sync,
            }));
            offset += bytes;
        }
        // Every write is awaited before a failure is looked at: none may land after it.
        let mut result = Ok(());
        for (write, frame) in pending.into_iter().zip(frames) {
            let completion = write.await;
            frame.buf = completion.buf.expect("a write gives its buffer back");
            if let Err(error) = completion.result {
                result = worse(result, error);
            }
        }
        result?;
        if sync {
            Ok(())
        } else {
            self.io.sync(file).await
        }
    }

    /// The group is durable.
    fn publish(
        &self,
        frames: Vec<OpenFrame<T>>,
        start: Position,
        ends: &[Position],
    ) -> Vec<Durable<T>> {
        let state = &mut *self.state.borrow_mut();
        let mut durable = Vec::new();
        let mut position = start;
        for (frame, &end) in frames.into_iter().zip(ends) {
            state.stats.frames += 1;
            state.stats.records += u64::from(frame.records);
            state.stats.bytes += frame.buf.len() as u64;
            self.io.recycle(frame.buf);
            let values = frame.values.into_iter();
            durable.extend(values.map(|value| Durable::new(value, position, end)));
            position = end;
        }
        state.stats.flushes += 1;
        state.durable = position;
        state.sealed = false;
        // Early enough that the rest of the segment is written while the next one is prepared.
        let used_enough = position.offset() >= current(state).bytes / 4;
        if used_enough && matches!(state.next, NextSegment::NotNeeded) {
            state.next = NextSegment::Wanted;
        }
        durable
    }

    /// Decides what a failed write or sync means, and makes sure that abandoned frames are not
    /// found after a crash.
    async fn after_failed_write(&self, error: IoError, file: FileId, start: Position) -> WalError {
        let mut cause = error;
        if error.is_no_space() {
            let mut zeros = self.io.buffer(FRAME_ALIGNMENT);
            zeros.fill(0);
            let offset = u64::from(start.offset());
            let (result, zeros) = self.io.write_synced(file, offset, zeros).await;
            self.io.recycle(zeros);
            match result {
                Ok(()) => return WalError::NoSpace,
                Err(error) => cause = error,
            }
        }
        self.state.borrow_mut().latched.get_or_insert(cause);
        WalError::Latched(cause)
    }

    /// Gives up what is in flight and everything appended since.
    fn abandon(&self, error: WalError, frames: Vec<OpenFrame<T>>) -> FlushFailed<T> {
        let state = &mut *self.state.borrow_mut();
        let mut abandoned = Vec::new();
        for frame in frames {
            self.io.recycle(frame.buf);
            abandoned.extend(frame.values);
        }
        abandoned.extend(state.group.abandon(&self.io));
        FlushFailed { error, abandoned }
    }

    /// Waits for the next segment and makes it the current one.
    async fn enter_next_segment(&self) -> Result<(), WalError> {
        {
            let state = &mut *self.state.borrow_mut();
            // A lack of space that was met ahead of need may be over.
            if matches!(state.next, NextSegment::NotNeeded | NextSegment::NoSpace) {
                state.next = NextSegment::Wanted;
            }
        }
        self.changed.notify();
        let left = self.changed.until(|| self.next_segment()).await?;
        self.io.close(left).await?;
        Ok(())
    }

    /// Switches to the next segment when it is ready; the file of the one that was left.
    fn next_segment(&self) -> Option<Result<FileId, WalError>> {
        let state = &mut *self.state.borrow_mut();
        if let Some(cause) = state.latched {
            return Some(Err(WalError::Latched(cause)));
        }
        match state.next {
            NextSegment::Ready(segment) => {
                let left = state.current.replace(segment);
                state.next = NextSegment::NotNeeded;
                state.segments.insert(segment.number);
                left.map(|segment| Ok(segment.file))
            }
            NextSegment::NoSpace => {
                state.next = NextSegment::NotNeeded;
                Some(Err(WalError::NoSpace))
            }
            NextSegment::NotNeeded | NextSegment::Wanted | NextSegment::Preparing => None,
        }
    }

    fn segment_prepared(&self, number: u32, prepared: Result<FileId, IoError>) {
        let state = &mut *self.state.borrow_mut();
        match prepared {
            Ok(file) => {
                let bytes = self.config.segment_bytes(number);
                state.next = NextSegment::Ready(Segment {
                    number,
                    file,
                    bytes,
                });
            }
            Err(error) if error.is_no_space() => state.next = NextSegment::NoSpace,
            Err(error) => {
                state.latched.get_or_insert(error);
            }
        }
    }

    /// The segment to prepare; `Some(None)` when there is nothing to prepare ever again.
    fn segment_wanted(&self) -> Option<Option<u32>> {
        let state = self.state.borrow();
        if state.closed || state.latched.is_some() {
            return Some(None);
        }
        matches!(state.next, NextSegment::Wanted).then(|| Some(current(&state).number + 1))
    }
}

/// The segment in use; there is one from the chain's beginning on.
fn current<T>(state: &State<T>) -> Segment {
    state.current.expect("the chain has a segment")
}

/// The failure that counts: one that latches before one that does not.
fn worse(so_far: Result<(), IoError>, error: IoError) -> Result<(), IoError> {
    match so_far {
        Err(first) if !first.is_no_space() => Err(first),
        _ => Err(error),
    }
}
