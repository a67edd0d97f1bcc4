//! The row log: every version of every row of a shard, appended and never changed.
//!
//! Segments of up to a mebibyte are filled in order. A version's bytes are counted as live until
//! [`RowLog::release`]; a full segment without live bytes is freed. Behind each version stands the
//! location of the row's older version, so a reader at an old snapshot walks back from the newest.
//! Which version is the newest is in [`super::location`].
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

use nodedb_types::{ActorId, CollectionId, CommitTs, SchemaVersion, ShardId, Surrogate};

/// Largest segment, bytes; a row of the largest size fits with room to spare.
const SEGMENT_BYTES: usize = 1 << 20;
const HEADER_BYTES: usize = 56;
const DELETED: u8 = 1;

const _: () = assert!(
    HEADER_BYTES + nodedb_types::limits::KEY_BYTES_MAX + nodedb_types::limits::ROW_BYTES_MAX + 8
        <= SEGMENT_BYTES
);

/// Where a version stands: segment (from 1) and offset. Zero is nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Location(pub u64);

impl Location {
    pub const NONE: Location = Location(0);

    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    fn new(segment: usize, offset: usize) -> Location {
        Location(((segment as u64 + 1) << 32) | offset as u64)
    }

    fn segment(self) -> usize {
        (self.0 >> 32) as usize - 1
    }

    fn offset(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
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

impl Version<'_> {
    /// Bytes that the version takes in the log.
    pub fn stored_bytes(&self) -> usize {
        (HEADER_BYTES + self.key.len() + self.row.len()).next_multiple_of(8)
    }
}

#[derive(Default)]
pub struct RowLog {
    segments: Vec<Segment>,
    live: usize,
}

#[derive(Default)]
struct Segment {
    bytes: Vec<u8>,
    live: usize,
}

impl RowLog {
    /// Appends a version and counts it as live.
    pub fn append(&mut self, version: &Version<'_>) -> Location {
        let len = version.stored_bytes();
        let full = |s: &Segment| s.bytes.len() + len > SEGMENT_BYTES;
        if self.segments.last().is_none_or(full) {
            if let Some(last) = self.segments.last_mut() {
                last.bytes.shrink_to_fit();
                if last.live == 0 {
                    last.bytes = Vec::new();
                }
            }
            self.segments.push(Segment::default());
        }
        let number = self.segments.len() - 1;
        let segment = &mut self.segments[number];
        let offset = segment.bytes.len();
        let out = &mut segment.bytes;
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
        segment.live += len;
        self.live += len;
        Location::new(number, offset)
    }

    /// The version at a location that was appended and not released.
    pub fn read(&self, location: Location) -> Version<'_> {
        let bytes = &self.segments[location.segment()].bytes[location.offset()..];
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

    /// The version is not needed any more; its bytes go with their segment.
    pub fn release(&mut self, location: Location) {
        let len = self.read(location).stored_bytes();
        let open = self.segments.len() - 1;
        let segment = &mut self.segments[location.segment()];
        segment.live = segment.live.checked_sub(len).expect("released once");
        self.live -= len;
        if segment.live == 0 && location.segment() != open {
            segment.bytes = Vec::new();
        }
    }

    /// Bytes of versions that were not released.
    pub fn live_bytes(&self) -> usize {
        self.live
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|s| s.bytes.capacity()).sum()
    }
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

    #[test]
    fn what_is_appended_is_read_back() {
        let mut log = RowLog::default();
        let a = log.append(&version(1, Location::NONE, b"first row"));
        let b = log.append(&version(1, a, b""));
        assert_eq!(log.read(a), version(1, Location::NONE, b"first row"));
        assert_eq!(log.read(b), version(1, a, b""));
        assert!(!a.is_none());
    }

    #[test]
    fn a_segment_goes_when_nothing_in_it_is_live() {
        let mut log = RowLog::default();
        let row = vec![1u8; 300_000];
        let places: Vec<_> = (1..8)
            .map(|n| log.append(&version(n, Location::NONE, &row)))
            .collect();
        let full = log.bytes();
        for &place in &places[..3] {
            log.release(place);
        }
        assert!(log.bytes() < full - 600_000);
        assert_eq!(log.read(places[3]).row, row);
        for &place in &places[3..] {
            log.release(place);
        }
        assert_eq!(log.live_bytes(), 0);
    }
}
