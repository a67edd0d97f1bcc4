//! The row log: every version of every row of a shard, appended and never changed.
//!
//! Segments of 64 KiB are filled in order; a version that is longer has a segment of its own. A
//! version's bytes are counted as live until [`RowLog::release`]; a full segment without live bytes
//! is freed. Behind each version stands the location of the row's older version, so a reader at an
//! old snapshot walks back from the newest. Which version is the newest is in [`super::location`].
//!
//! A checkpoint writes each segment that changed since the one before, with a note of how many of
//! its bytes are *current*: newest versions of rows alive. Those are what is live after a restart,
//! when nobody reads at a snapshot from before.
//!
//! A [`Location`] says how long its version is, so versions are superseded and released without
//! being read; reading one may have to wait for its segment ([`Missing`]).
//!
//! A version in its segment, little-endian, padded to 8 bytes:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | commit timestamp |
//! | 8 | 8 | birth: commit timestamp of the row's insert |
//! | 16 | 8 | location of the older version, 0 for none |
//! | 24 | 4 | surrogate |
//! | 28 | 4 | collection |
//! | 32 | 4 | schema version |
//! | 36 | 4 | actor |
//! | 40 | 4 | bytes of the row |
//! | 44 | 2 | bytes of the key |
//! | 46 | 2 | shard |
//! | 48 | 1 | flags: 1 the row is deleted |
//! | 49 | 7 | zero |
//! | 56 | | key, then row |

use std::cell::Ref;
use std::rc::Rc;

use nodedb_types::{ActorId, CollectionId, CommitTs, SchemaVersion, ShardId, Surrogate};

use super::leaves::{Leaf, Leaves};
use super::residency::{Missing, Owner, Residency};
use super::slots::PIECE_BYTES_MAX;

/// Bytes after which a segment is full. A longer version makes it longer.
const SEGMENT_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 56;
const DELETED: u8 = 1;

/// Longest version, bytes.
const VERSION_BYTES_MAX: usize =
    HEADER_BYTES + nodedb_types::limits::KEY_BYTES_MAX + nodedb_types::limits::ROW_BYTES_MAX + 8;

const _: () = assert!(VERSION_BYTES_MAX <= PIECE_BYTES_MAX);

/// Where a version stands, in 64 bits: from the top the number of its segment plus 1 (34), whether
/// the version says that its row is deleted (1), its offset in the segment (13) and its length (16),
/// both in units of 8 bytes. Zero is nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Location(pub u64);

const LENGTH_BITS: u32 = 16;
const OFFSET_BITS: u32 = 13;
const DELETED_BIT: u32 = LENGTH_BITS + OFFSET_BITS;
const SEGMENT_SHIFT: u32 = DELETED_BIT + 1;

// A version begins below SEGMENT_BYTES, for one that does not fit behind others begins a segment.
const _: () = assert!(SEGMENT_BYTES <= 8 << OFFSET_BITS);
const _: () = assert!(VERSION_BYTES_MAX < 8 << LENGTH_BITS);
// Every u32 is a segment's number.
const _: () = assert!(64 - SEGMENT_SHIFT > 32);

impl Location {
    pub const NONE: Location = Location(0);

    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(super) fn new(segment: u32, offset: usize, len: usize, deleted: bool) -> Location {
        debug_assert!(offset.is_multiple_of(8) && len.is_multiple_of(8));
        debug_assert!(offset < SEGMENT_BYTES && len <= VERSION_BYTES_MAX);
        let segment = (u64::from(segment) + 1) << SEGMENT_SHIFT;
        let deleted = u64::from(deleted) << DELETED_BIT;
        let (offset, len) = (offset as u64 / 8, len as u64 / 8);
        Location(segment | deleted | (offset << LENGTH_BITS) | len)
    }

    /// `None` for nowhere, and for what no location is.
    fn segment(self) -> Option<u32> {
        u32::try_from((self.0 >> SEGMENT_SHIFT).checked_sub(1)?).ok()
    }

    fn offset(self) -> usize {
        (self.0 >> LENGTH_BITS) as usize % (1 << OFFSET_BITS) * 8
    }

    /// Bytes that the version takes in the log; 0 for nowhere.
    pub fn bytes(self) -> usize {
        self.0 as usize % (1 << LENGTH_BITS) * 8
    }

    /// The version that stands there deletes its row.
    pub fn is_deletion(self) -> bool {
        self.0 & (1 << DELETED_BIT) != 0
    }
}

/// One version of a row, as it stands in the log or is to be appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version<'a> {
    pub commit_ts: CommitTs,
    pub birth: CommitTs,
    pub older: Location,
    pub surrogate: Surrogate,
    pub collection: CollectionId,
    pub schema: SchemaVersion,
    pub actor: ActorId,
    pub shard: ShardId,
    /// The row was deleted at `commit_ts`; `row` is empty.
    pub deleted: bool,
    /// Canonical key bytes.
    pub key: &'a [u8],
    /// Encoded by `nodedb_types::row`.
    pub row: &'a [u8],
}

impl<'a> Version<'a> {
    fn decode(bytes: &'a [u8]) -> Version<'a> {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes"));
        let (row_len, key_len) = (u32_at(40) as usize, u16_at(44) as usize);
        let row_at = HEADER_BYTES + key_len;
        Version {
            commit_ts: CommitTs(u64_at(0)),
            birth: CommitTs(u64_at(8)),
            older: Location(u64_at(16)),
            surrogate: Surrogate::new(u32_at(24)).expect("a stored surrogate is not 0"),
            collection: CollectionId(u32_at(28)),
            schema: SchemaVersion(u32_at(32)),
            actor: ActorId(u32_at(36)),
            shard: ShardId(u16_at(46)),
            deleted: bytes[48] & DELETED != 0,
            key: &bytes[HEADER_BYTES..row_at],
            row: &bytes[row_at..row_at + row_len],
        }
    }

    /// Bytes that the version takes in the log.
    fn stored_bytes(&self) -> usize {
        (HEADER_BYTES + self.key.len() + self.row.len()).next_multiple_of(8)
    }
}

/// A run of versions.
#[derive(Clone)]
pub struct Segment(Vec<u8>);

impl Leaf for Segment {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn of_bytes(bytes: &[u8]) -> Option<Segment> {
        Some(Segment(bytes.to_vec()))
    }

    fn memory(&self) -> usize {
        self.0.capacity()
    }
}

/// A version in the log that is in memory.
pub struct Held<'a>(Ref<'a, [u8]>);

impl Held<'_> {
    pub fn version(&self) -> Version<'_> {
        Version::decode(&self.0)
    }
}

pub struct RowLog {
    segments: Leaves<Segment>,
    /// Live bytes of each segment so far.
    live: Vec<u32>,
    live_bytes: usize,
}

impl RowLog {
    pub fn new(residency: &Rc<Residency>) -> RowLog {
        RowLog::thaw(Leaves::new(residency, Owner::Rows), 0)
    }

    /// The log with these segments, of which what is current is live. `next`: the number of the
    /// next segment.
    pub fn thaw(mut segments: Leaves<Segment>, next: u32) -> RowLog {
        let numbers = segments.numbers();
        let dead = numbers.filter(|&n| segments.note(n) == Some(0) || n >= next);
        for number in dead.collect::<Vec<_>>() {
            segments.remove(number);
        }
        let current = (0..next).map(|n| segments.note(n).unwrap_or(0));
        let live: Vec<u32> = current.collect();
        RowLog {
            live_bytes: live.iter().map(|&n| n as usize).sum(),
            live,
            segments,
        }
    }

    /// The segments as they are now, and the number of the next; those of the log go on changing.
    pub fn freeze(&self) -> (Leaves<Segment>, u32) {
        (self.segments.clone(), self.live.len() as u32)
    }

    /// The segment that versions are appended to, with room for `len` bytes.
    fn open_segment(&mut self, len: usize) -> u32 {
        if let Some(last) = self.last() {
            // One that is not in memory counts as full.
            let used = self.segments.peek(last);
            let used = used.map_or(SEGMENT_BYTES, |s| s.0.len());
            if used + len <= SEGMENT_BYTES {
                return last;
            }
            if self.live[last as usize] == 0 {
                self.segments.remove(last);
            }
        }
        let number = u32::try_from(self.live.len()).expect("segments have 32-bit numbers");
        self.segments.put(number, Segment(Vec::new()), 0);
        self.live.push(0);
        number
    }

    fn last(&self) -> Option<u32> {
        self.live.len().checked_sub(1).map(|last| last as u32)
    }

    /// Appends a version and counts it as live, and as current unless it deletes its row.
    pub fn append(&mut self, version: &Version<'_>) -> Location {
        let len = version.stored_bytes();
        let number = self.open_segment(len);
        let mut segment = self.segments.change(number);
        let out = &mut segment.0;
        let offset = out.len();
        if out.capacity() < offset + len {
            let wanted = (offset + len).next_power_of_two().min(SEGMENT_BYTES);
            out.reserve_exact(wanted.max(offset + len) - offset);
        }
        out.extend_from_slice(&version.commit_ts.0.to_le_bytes());
        out.extend_from_slice(&version.birth.0.to_le_bytes());
        out.extend_from_slice(&version.older.0.to_le_bytes());
        out.extend_from_slice(&version.surrogate.get().to_le_bytes());
        out.extend_from_slice(&version.collection.0.to_le_bytes());
        out.extend_from_slice(&version.schema.0.to_le_bytes());
        out.extend_from_slice(&version.actor.0.to_le_bytes());
        out.extend_from_slice(&(version.row.len() as u32).to_le_bytes());
        out.extend_from_slice(&(version.key.len() as u16).to_le_bytes());
        out.extend_from_slice(&version.shard.0.to_le_bytes());
        out.extend_from_slice(&[
            if version.deleted { DELETED } else { 0 },
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        out.extend_from_slice(version.key);
        out.extend_from_slice(version.row);
        out.resize(offset + len, 0);
        drop(segment);
        self.segments.recharge(number);
        self.live[number as usize] += len as u32;
        self.live_bytes += len;
        if !version.deleted {
            self.add_current(number, len as i64);
        }
        Location::new(number, offset, len, version.deleted)
    }

    fn add_current(&mut self, number: u32, bytes: i64) {
        let note = self.segments.note(number).expect("a live version is held");
        let note = u32::try_from(i64::from(note) + bytes).expect("counted once");
        self.segments.set_note(number, note);
    }

    /// The version is not the newest of a row alive any more; readers may still need it.
    pub fn supersede(&mut self, location: Location) {
        self.add_current(segment_of(location), -(location.bytes() as i64));
    }

    /// The version at a location that was appended and not released.
    pub fn read(&self, location: Location) -> Result<Held<'_>, Missing> {
        let segment = self.segments.read(segment_of(location))?;
        let (at, len) = (location.offset(), location.bytes());
        Ok(Held(Ref::map(segment, |s| &s.0[at..at + len])))
    }

    /// The version, which is not current, is not needed any more; its bytes go with their segment.
    pub fn release(&mut self, location: Location) {
        let (number, len) = (segment_of(location), location.bytes());
        let live = &mut self.live[number as usize];
        *live = live.checked_sub(len as u32).expect("released once");
        self.live_bytes -= len;
        if *live == 0 && self.last() != Some(number) {
            self.segments.remove(number);
        }
    }

    /// Whether a location that a checkpoint holds can be one of this log, which was just loaded.
    pub fn could_hold(&self, location: Location) -> bool {
        let piece = location.segment().and_then(|n| self.segments.piece(n));
        let end = location.offset() + location.bytes();
        location.bytes() >= HEADER_BYTES && piece.is_some_and(|p| end <= p.bytes as usize)
    }

    /// Bytes of versions that were not released.
    pub fn live_bytes(&self) -> usize {
        self.live_bytes
    }
}

fn segment_of(location: Location) -> u32 {
    location.segment().expect("a version stands somewhere")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version<'a>(n: u32, older: Location, row: &'a [u8]) -> Version<'a> {
        Version {
            commit_ts: CommitTs(u64::from(n) + 7),
            birth: CommitTs(3),
            older,
            surrogate: Surrogate::new(n).unwrap(),
            collection: CollectionId(2000),
            schema: SchemaVersion(4),
            actor: ActorId(5),
            shard: ShardId(9),
            deleted: row.is_empty(),
            key: b"key",
            row,
        }
    }

    fn holds(log: &RowLog, at: Location, expected: &Version<'_>) {
        assert_eq!(log.read(at).unwrap().version(), *expected);
        assert_eq!(at.is_deletion(), expected.deleted);
        assert_eq!(at.bytes(), expected.stored_bytes());
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let mut log = RowLog::new(&Residency::alone(usize::MAX, false));
        let a = log.append(&version(1, Location::NONE, b"first row"));
        let b = log.append(&version(1, a, b""));
        holds(&log, a, &version(1, Location::NONE, b"first row"));
        holds(&log, b, &version(1, a, b""));
        assert!(!a.is_none() && Location::NONE.bytes() == 0);
        let longest = vec![1; nodedb_types::limits::ROW_BYTES_MAX];
        let c = log.append(&version(2, Location::NONE, &longest));
        holds(&log, c, &version(2, Location::NONE, &longest));
        let last = Location::new(u32::MAX, SEGMENT_BYTES - 64, 64, true);
        assert_eq!(last.segment(), Some(u32::MAX));
        assert_eq!((last.offset(), last.bytes()), (SEGMENT_BYTES - 64, 64));
        assert_eq!(Location::NONE.segment(), None);
        assert_eq!(Location(u64::MAX).segment(), None, "no number has 34 bits");
    }

    #[test]
    fn a_segment_goes_when_nothing_in_it_is_live() {
        let residency = Residency::alone(usize::MAX, false);
        let mut log = RowLog::new(&residency);
        let row = vec![1u8; 30_000];
        let places: Vec<_> = (1..8)
            .map(|n| log.append(&version(n, Location::NONE, &row)))
            .collect();
        let full = residency.held(Owner::Rows);
        for &place in &places[..3] {
            log.release(place);
        }
        assert!(residency.held(Owner::Rows) < full - 50_000);
        assert_eq!(log.read(places[3]).unwrap().version().row, row);
        for &place in &places[3..] {
            log.release(place);
        }
        assert_eq!(log.live_bytes(), 0);
    }
}
