//! The log's bytes: frames and the envelopes of records. Everything is little-endian.
//!
//! A **frame** starts at a multiple of 4096 and is padded with zeros to one. Its checksum covers
//! every byte of it but the checksum's own.
//!
//! ```text
//!  at  size  frame header (64 bytes)
//!   0     4  magic "NDBW"
//!   4     2  version, 1
//!   6     2  core of the chain
//!   8     8  database id
//!  16     4  epoch of the chain
//!  20     4  number of records
//!  24     8  sequence: above that of every frame written before in the chain
//!  32     8  position of this frame: segment (high 32 bits), byte offset (low)
//!  40     8  position at which the frame before it ends
//!  48     8  durable position known when it was written
//!  56     4  payload length: the records, without padding
//!  60     4  crc32c over bytes 0..60 and 64.. to the end of the padding
//!  64        records
//!
//!  at  size  record (44 bytes and its payload)
//!   0     1  kind
//!   1     1  0
//!   2     2  shard
//!   4     4  schema version
//!   8     8  LSN in the shard
//!  16     8  commit timestamp; of a Prepare the clock when it was appended
//!  24     8  transaction, 0 where none is named
//!  32     4  actor
//!  36     4  collection
//!  40     4  payload length
//!  44        payload
//!
//!  at  size  payload of ChainEnd (16 bytes)
//!   0     4  epoch of the older chain
//!   4     2  its core
//!   6     2  0
//!   8     8  position at which it ends
//! ```

use std::fmt;

use nodedb_types::limits::WAL_FRAME_BYTES_MAX;
use nodedb_types::{ActorId, CollectionId, CommitTs, CoreId, Lsn, SchemaVersion, ShardId, TxnId};

use crate::io::buf::{ALIGNMENT, round_up};

/// Frames begin and end at multiples of this, bytes.
pub const FRAME_ALIGNMENT: usize = ALIGNMENT;
/// Bytes of a frame before its records.
pub const FRAME_HEADER_BYTES: usize = 64;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 44;

const MAGIC: [u8; 4] = *b"NDBW";
const VERSION: u16 = 1;
const CRC_AT: usize = 60;
const CHAIN_END_BYTES: usize = 16;

const _: () = assert!(WAL_FRAME_BYTES_MAX.is_multiple_of(FRAME_ALIGNMENT));

/// A place in a chain: a segment and a byte offset in it. Ordered as the chain is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position(u64);

impl Position {
    /// Where a chain begins.
    pub const START: Position = Position(0);

    pub fn new(segment: u32, offset: u32) -> Position {
        Position(u64::from(segment) << 32 | u64::from(offset))
    }

    pub fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Bytes from the segment's beginning.
    pub fn offset(self) -> u32 {
        self.0 as u32
    }

    /// For storing it elsewhere; [`Position::from_bits`] is the way back.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    pub fn from_bits(bits: u64) -> Position {
        Position(bits)
    }

    /// `bytes` further on in the same segment.
    pub(super) fn plus(self, bytes: usize) -> Position {
        Position(self.0 + bytes as u64)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment(), self.offset())
    }
}

/// One core's log of one start of the server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChainId {
    /// One up with every start; 1 is the first.
    pub epoch: u32,
    pub core: CoreId,
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.core)
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// What a record says. The payloads belong to the core, but for ChainEnd's.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum RecordKind { $($(#[$doc])* $name = $code,)* }

        impl RecordKind {
            /// Every kind, in the order of the codes.
            pub const ALL: &'static [RecordKind] = &[$(RecordKind::$name,)*];

            pub fn code(self) -> u8 {
                self as u8
            }

            pub fn from_code(code: u8) -> Option<RecordKind> {
                match code { $($code => Some(RecordKind::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// Effects on rows of one collection.
    Rows = 1,
    /// A transaction over several shards is prepared here.
    Prepare = 2,
    /// The outcome of a transaction, on its lowest participating shard.
    Decision = 3,
    /// A participant has learned the outcome.
    Decided = 4,
    /// A transaction was given up here.
    Abort = 5,
    /// A step of a schema change.
    Schema = 6,
    /// An extent of surrogates was leased.
    Lease = 7,
    /// Something that the shard's manifest depends on.
    ManifestNote = 8,
    /// Nothing but the durable end that its frame names; written by an idle core.
    Seal = 9,
    /// Where an older chain ends; written before all other records of a chain.
    ChainEnd = 10,
}

/// What every record carries beside its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    pub kind: RecordKind,
    pub shard: ShardId,
    pub lsn: Lsn,
    pub commit_ts: CommitTs,
    /// Zero where none is named.
    pub txn: TxnId,
    pub actor: ActorId,
    pub schema_version: SchemaVersion,
    pub collection: CollectionId,
}

impl RecordHeader {
    /// A record of the log itself, of no shard.
    pub(super) fn of_log(kind: RecordKind) -> RecordHeader {
        RecordHeader {
            kind,
            shard: ShardId(0),
            lsn: Lsn(0),
            commit_ts: CommitTs(0),
            txn: TxnId(0),
            actor: ActorId::SYSTEM,
            schema_version: SchemaVersion(0),
            collection: CollectionId(0),
        }
    }
}

/// A record to append, or one that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    pub header: RecordHeader,
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Bytes that it takes in a frame.
    pub fn encoded_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload.len()
    }

    /// Writes it at the start of `out` and returns the bytes taken.
    pub(super) fn encode(&self, out: &mut [u8]) -> usize {
        let h = &self.header;
        let payload_bytes = self.payload.len() as u32;
        out[0] = h.kind.code();
        out[1] = 0;
        out[2..4].copy_from_slice(&h.shard.0.to_le_bytes());
        out[4..8].copy_from_slice(&h.schema_version.0.to_le_bytes());
        out[8..16].copy_from_slice(&h.lsn.0.to_le_bytes());
        out[16..24].copy_from_slice(&h.commit_ts.0.to_le_bytes());
        out[24..32].copy_from_slice(&h.txn.0.to_le_bytes());
        out[32..36].copy_from_slice(&h.actor.0.to_le_bytes());
        out[36..40].copy_from_slice(&h.collection.0.to_le_bytes());
        out[40..44].copy_from_slice(&payload_bytes.to_le_bytes());
        let end = self.encoded_bytes();
        out[RECORD_HEADER_BYTES..end].copy_from_slice(self.payload);
        end
    }
}

/// The first record of `bytes` and its length. None when they are not a record.
pub fn decode_record(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let head = bytes.get(..RECORD_HEADER_BYTES)?;
    let payload_bytes = u32_at(head, 40) as usize;
    let payload = bytes[RECORD_HEADER_BYTES..].get(..payload_bytes)?;
    let header = RecordHeader {
        kind: RecordKind::from_code(head[0]).filter(|_| head[1] == 0)?,
        shard: ShardId(u16_at(head, 2)),
        schema_version: SchemaVersion(u32_at(head, 4)),
        lsn: Lsn(u64_at(head, 8)),
        commit_ts: CommitTs(u64_at(head, 16)),
        txn: TxnId(u64_at(head, 24)),
        actor: ActorId(u32_at(head, 32)),
        collection: CollectionId(u32_at(head, 36)),
    };
    Some((
        Record { header, payload },
        RECORD_HEADER_BYTES + payload_bytes,
    ))
}

/// Where an older chain ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ChainEnd {
    pub chain: ChainId,
    pub end: Position,
}

impl ChainEnd {
    pub(super) fn encode(&self) -> [u8; CHAIN_END_BYTES] {
        let mut out = [0; CHAIN_END_BYTES];
        out[0..4].copy_from_slice(&self.chain.epoch.to_le_bytes());
        out[4..6].copy_from_slice(&self.chain.core.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.end.to_bits().to_le_bytes());
        out
    }

    /// None when the payload is not one of a ChainEnd record.
    pub fn decode(payload: &[u8]) -> Option<ChainEnd> {
        if payload.len() != CHAIN_END_BYTES || u16_at(payload, 6) != 0 {
            return None;
        }
        let chain = ChainId {
            epoch: u32_at(payload, 0),
            core: CoreId(u16_at(payload, 4)),
        };
        Some(ChainEnd {
            chain,
            end: Position::from_bits(u64_at(payload, 8)),
        })
    }
}

/// A frame's header without magic, version and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    pub database: u64,
    pub chain: ChainId,
    pub records: u32,
    pub sequence: u64,
    pub position: Position,
    pub previous_end: Position,
    pub durable: Position,
    pub payload_bytes: u32,
}

impl FrameHeader {
    /// Bytes of the frame with header and padding.
    pub fn frame_bytes(&self) -> usize {
        round_up(FRAME_HEADER_BYTES + self.payload_bytes as usize)
    }

    /// Where the frame ends.
    pub fn end(&self) -> Position {
        self.position.plus(self.frame_bytes())
    }

    /// Completes a frame whose records are in place: writes the header, zeroes the padding and
    /// puts in the checksum. `frame` is [`FrameHeader::frame_bytes`] long.
    pub fn finish(&self, frame: &mut [u8]) {
        assert_eq!(frame.len(), self.frame_bytes());
        frame[FRAME_HEADER_BYTES + self.payload_bytes as usize..].fill(0);
        frame[0..4].copy_from_slice(&MAGIC);
        frame[4..6].copy_from_slice(&VERSION.to_le_bytes());
        frame[6..8].copy_from_slice(&self.chain.core.0.to_le_bytes());
        frame[8..16].copy_from_slice(&self.database.to_le_bytes());
        frame[16..20].copy_from_slice(&self.chain.epoch.to_le_bytes());
        frame[20..24].copy_from_slice(&self.records.to_le_bytes());
        frame[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        frame[32..40].copy_from_slice(&self.position.to_bits().to_le_bytes());
        frame[40..48].copy_from_slice(&self.previous_end.to_bits().to_le_bytes());
        frame[48..56].copy_from_slice(&self.durable.to_bits().to_le_bytes());
        frame[56..60].copy_from_slice(&self.payload_bytes.to_le_bytes());
        let crc = checksum(frame);
        frame[CRC_AT..FRAME_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header without believing it: the length is within bounds, nothing else is checked.
    pub fn parse(bytes: &[u8]) -> Option<FrameHeader> {
        let head = bytes.get(..FRAME_HEADER_BYTES)?;
        if head[0..4] != MAGIC || u16_at(head, 4) != VERSION {
            return None;
        }
        let header = FrameHeader {
            database: u64_at(head, 8),
            chain: ChainId {
                epoch: u32_at(head, 16),
                core: CoreId(u16_at(head, 6)),
            },
            records: u32_at(head, 20),
            sequence: u64_at(head, 24),
            position: Position::from_bits(u64_at(head, 32)),
            previous_end: Position::from_bits(u64_at(head, 40)),
            durable: Position::from_bits(u64_at(head, 48)),
            payload_bytes: u32_at(head, 56),
        };
        let fits = header.payload_bytes as usize <= WAL_FRAME_BYTES_MAX - FRAME_HEADER_BYTES;
        fits.then_some(header)
    }
}

/// Checks a whole frame, as long as its header says: the checksum, and that its payload is exactly
/// the records it counts.
pub fn frame_is_valid(header: &FrameHeader, frame: &[u8]) -> bool {
    frame.len() == header.frame_bytes()
        && u32_at(frame, CRC_AT) == checksum(frame)
        && count_records(payload(header, frame)) == Some(header.records)
}

/// The records' bytes of a frame.
pub(super) fn payload<'a>(header: &FrameHeader, frame: &'a [u8]) -> &'a [u8] {
    &frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + header.payload_bytes as usize]
}

fn count_records(mut bytes: &[u8]) -> Option<u32> {
    let mut records = 0;
    while !bytes.is_empty() {
        let (_, taken) = decode_record(bytes)?;
        bytes = &bytes[taken..];
        records += 1;
    }
    Some(records)
}

fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(
        crc32c::crc32c(&frame[..CRC_AT]),
        &frame[FRAME_HEADER_BYTES..],
    )
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(payload: &[u8], records: u32) -> FrameHeader {
        FrameHeader {
            database: 7,
            chain: ChainId {
                epoch: 3,
                core: CoreId(2),
            },
            records,
            sequence: 9,
            position: Position::new(1, 8192),
            previous_end: Position::new(1, 8192),
            durable: Position::new(1, 4096),
            payload_bytes: payload.len() as u32,
        }
    }

    fn frame(records: &[Record<'_>]) -> (FrameHeader, Vec<u8>) {
        let mut payload = vec![0; records.iter().map(Record::encoded_bytes).sum()];
        let mut at = 0;
        for record in records {
            at += record.encode(&mut payload[at..]);
        }
        let header = header(&payload, records.len() as u32);
        let mut frame = vec![0xaa; header.frame_bytes()];
        frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload.len()].copy_from_slice(&payload);
        header.finish(&mut frame);
        (header, frame)
    }

    fn any_header() -> impl Strategy<Value = RecordHeader> {
        let kind = prop::sample::select(RecordKind::ALL);
        let ids = any::<(u16, u64, u64, u64, u32, u32, u32)>();
        (kind, ids).prop_map(|(kind, ids)| RecordHeader {
            kind,
            shard: ShardId(ids.0),
            lsn: Lsn(ids.1),
            commit_ts: CommitTs(ids.2),
            txn: TxnId(ids.3),
            actor: ActorId(ids.4),
            schema_version: SchemaVersion(ids.5),
            collection: CollectionId(ids.6),
        })
    }

    fn any_records() -> impl Strategy<Value = Vec<(RecordHeader, Vec<u8>)>> {
        let payload = prop::collection::vec(any::<u8>(), 0..3000);
        prop::collection::vec((any_header(), payload), 0..6)
    }

    fn borrowed(records: &[(RecordHeader, Vec<u8>)]) -> Vec<Record<'_>> {
        records
            .iter()
            .map(|(header, payload)| Record {
                header: *header,
                payload,
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_are_read_back(records in any_records()) {
            let records = borrowed(&records);
            let (header, frame) = frame(&records);
            prop_assert_eq!(FrameHeader::parse(&frame), Some(header));
            prop_assert!(frame_is_valid(&header, &frame));
            let mut rest = payload(&header, &frame);
            for record in records {
                let (read, taken) = decode_record(rest).unwrap();
                prop_assert_eq!(read, record);
                rest = &rest[taken..];
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_changed_bit_is_noticed(records in any_records(), at in any::<prop::sample::Index>()) {
            let (_, mut frame) = frame(&borrowed(&records));
            let bit = at.index(frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            let valid = FrameHeader::parse(&frame)
                .is_some_and(|header| frame_is_valid(&header, &frame));
            prop_assert!(!valid);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_record(&bytes);
            let _ = ChainEnd::decode(&bytes);
            if let Some(header) = FrameHeader::parse(&bytes) {
                let _ = frame_is_valid(&header, &bytes);
            }
        }

        #[test]
        fn random_headers_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 4096)) {
            bytes[0..4].copy_from_slice(&MAGIC);
            bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
            bytes[58..60].fill(0);
            if let Some(header) = FrameHeader::parse(&bytes) {
                prop_assert!(!frame_is_valid(&header, &bytes));
            }
        }
    }

    #[test]
    fn declared_lengths_are_bounded() {
        let (header, mut frame) = frame(&[]);
        frame[56..60].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(FrameHeader::parse(&frame), None);
        let largest = (WAL_FRAME_BYTES_MAX - FRAME_HEADER_BYTES) as u32;
        frame[56..60].copy_from_slice(&largest.to_le_bytes());
        let parsed = FrameHeader::parse(&frame).unwrap();
        assert_eq!(parsed.frame_bytes(), WAL_FRAME_BYTES_MAX);
        assert!(!frame_is_valid(&parsed, &frame));
        assert_eq!(header.end(), Position::new(1, 12_288));
    }

    #[test]
    fn ends_and_kinds_are_read_back() {
        let chain = ChainId {
            epoch: u32::MAX,
            core: CoreId(255),
        };
        let end = ChainEnd {
            chain,
            end: Position::new(4, 4096),
        };
        assert_eq!(ChainEnd::decode(&end.encode()), Some(end));
        assert_eq!(ChainEnd::decode(&end.encode()[1..]), None);
        for &kind in RecordKind::ALL {
            assert_eq!(RecordKind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(RecordKind::from_code(0), None);
    }
}
