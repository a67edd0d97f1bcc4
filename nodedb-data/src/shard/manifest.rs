//! What a checkpoint says of a shard, in bytes: the root and the manifest that it names.
//!
//! The tables are in `docs/format/store.md`. Both are read defensively: a length is believed only
//! as far as there are bytes, and what does not fit is XX001.

use std::num::NonZeroU64;
use std::sync::Arc;

use nodedb_bridge::plan::Extent;
use nodedb_types::{
    Collection, CollectionId, CommitTs, CoreId, Index, Lsn, Result, ShardId, TxnId,
};

use super::fields::{Fields, malformed};
use super::schema_codec::{SchemaRecord, decode_lease, decode_step, encode_lease, encode_step};
use crate::store::slots::{Piece, SLOT_BYTES};
use crate::wal::{ChainId, Position};

const MAGIC: [u8; 8] = *b"NDBSTORE";
const VERSION: u32 = 2;
const ROOT_HEADER_BYTES: usize = 128;
/// Most pieces of a manifest.
const MANIFEST_PIECES_MAX: usize = (SLOT_BYTES - ROOT_HEADER_BYTES) / Piece::ENCODED;

/// The first thing that is read of a shard: how far its checkpoint goes, and where the rest is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    pub database: u64,
    pub shard: ShardId,
    /// One up with every checkpoint of the shard; the larger of two roots counts.
    pub sequence: u64,
    /// Records of the shard up to this one are in the checkpoint.
    pub lsn: Lsn,
    /// Every timestamp given when it was made is at most this one.
    pub clock: CommitTs,
    /// The chain that the shard was written to when the checkpoint was made: of older ones nothing
    /// is needed.
    pub chain: ChainId,
    /// Where a start reads that chain from.
    pub from: Position,
    pub manifest: Vec<Piece>,
}

impl Root {
    /// Fails with 54000 when the manifest has more pieces than a root can name.
    pub fn encode(&self) -> Result<Vec<u8>> {
        if self.manifest.len() > MANIFEST_PIECES_MAX {
            return Err(nodedb_types::Failure::new(
                nodedb_types::SqlState::ProgramLimitExceeded,
                "a shard's manifest is too long",
            ));
        }
        let mut out = Vec::with_capacity(SLOT_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.database.to_le_bytes());
        out.extend_from_slice(&self.shard.0.to_le_bytes());
        out.extend_from_slice(&self.chain.core.0.to_le_bytes());
        out.extend_from_slice(&self.chain.epoch.to_le_bytes());
        out.extend_from_slice(&self.from.to_bits().to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.lsn.0.to_le_bytes());
        out.extend_from_slice(&self.clock.0.to_le_bytes());
        out.extend_from_slice(&(self.manifest.len() as u32).to_le_bytes());
        out.resize(ROOT_HEADER_BYTES, 0);
        self.manifest.iter().for_each(|p| p.encode(&mut out));
        out.resize(SLOT_BYTES, 0);
        let crc = root_crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        Ok(out)
    }

    /// The root of a database's shard; `None` for a slot that holds no whole one.
    pub fn decode(bytes: &[u8], database: u64, shard: ShardId) -> Option<Root> {
        let whole = bytes.len() == SLOT_BYTES && bytes.starts_with(&MAGIC);
        if !whole || bytes[12..16] != root_crc(bytes).to_le_bytes() {
            return None;
        }
        let root = Root::fields(&mut Fields::new(&bytes[8..])).ok()?;
        (root.database == database && root.shard == shard).then_some(root)
    }

    fn fields(fields: &mut Fields<'_>) -> Result<Root> {
        if fields.u32()? != VERSION {
            return Err(malformed("a root of another version"));
        }
        fields.u32()?;
        let database = fields.u64()?;
        let shard = ShardId(fields.u16()?);
        let core = CoreId(fields.u16()?);
        let chain = ChainId {
            epoch: fields.u32()?,
            core,
        };
        let from = Position::from_bits(fields.u64()?);
        let sequence = fields.u64()?;
        let lsn = Lsn(fields.u64()?);
        let clock = CommitTs(fields.u64()?);
        let pieces = fields.u32()?;
        fields.bytes(ROOT_HEADER_BYTES - 68)?;
        let manifest = (0..pieces).map(|_| piece(fields)).collect::<Result<_>>()?;
        Ok(Root {
            database,
            shard,
            sequence,
            lsn,
            clock,
            chain,
            from,
            manifest,
        })
    }
}

/// Over everything but the sum itself.
fn root_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

/// Groups of leaves: number and table of each.
pub type Tables = Vec<(u32, Piece)>;

/// What a checkpoint holds of a shard.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Manifest {
    /// Transactions that are prepared here and not concluded: their Prepare records are read though
    /// they are below the checkpoint's LSN.
    pub open: Vec<TxnId>,
    /// Of the whole database, in shard 0.
    pub leases: Vec<Extent>,
    pub segments: Tables,
    /// Number of the next segment of the row log.
    pub next_segment: u32,
    pub tables: Vec<TableEntry>,
}

/// One collection on the shard.
#[derive(Clone, PartialEq, Debug)]
pub struct TableEntry {
    pub collection: Arc<Collection>,
    /// Bytes of log that the collection's change streams keep, if it has any.
    pub emit: Option<NonZeroU64>,
    /// It was dropped and its rows are still to be freed.
    pub dropped: bool,
    /// First id, number of ids, ids given out.
    pub extents: Vec<(u32, u32, u32)>,
    /// Root page and number of keys of the key index.
    pub keys_root: u32,
    pub keys_len: u64,
    pub pages: Tables,
    pub locations: Tables,
    pub indexes: Vec<IndexEntry>,
}

/// One index of a collection.
#[derive(Clone, PartialEq, Debug)]
pub struct IndexEntry {
    pub definition: Arc<Index>,
    pub image: Option<ImageEntry>,
}

/// What an index is brought back from.
#[derive(Clone, PartialEq, Debug)]
pub struct ImageEntry {
    pub header: Vec<u8>,
    pub pages: Option<Tables>,
    /// Id and pieces of each part.
    pub parts: Vec<(u64, Vec<Piece>)>,
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("a manifest's lists are bounded by the file");
    out.extend_from_slice(&len.to_le_bytes());
}

fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_tables(out: &mut Vec<u8>, tables: &Tables) {
    put_len(out, tables.len());
    for (number, table) in tables {
        out.extend_from_slice(&number.to_le_bytes());
        table.encode(out);
    }
}

fn put_step(out: &mut Vec<u8>, step: &SchemaRecord) {
    let mut bytes = Vec::new();
    encode_step(step, &mut bytes);
    put_blob(out, &bytes);
}

impl Manifest {
    pub fn encode(&self) -> Vec<u8> {
        let out = &mut Vec::new();
        put_len(out, self.open.len());
        for txn in &self.open {
            out.extend_from_slice(&txn.0.to_le_bytes());
        }
        put_len(out, self.leases.len());
        self.leases.iter().for_each(|&l| encode_lease(l, out));
        put_tables(out, &self.segments);
        out.extend_from_slice(&self.next_segment.to_le_bytes());
        put_len(out, self.tables.len());
        self.tables.iter().for_each(|t| t.encode(out));
        std::mem::take(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Manifest> {
        let fields = &mut Fields::new(bytes);
        let manifest = Manifest {
            open: list(fields, |f| Ok(TxnId(f.u64()?)))?,
            leases: list(fields, |f| decode_lease(f.bytes(14)?))?,
            segments: list(fields, table)?,
            next_segment: fields.u32()?,
            tables: list(fields, TableEntry::decode)?,
        };
        fields.end()?;
        Ok(manifest)
    }
}

impl TableEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        put_step(out, &SchemaRecord::Collection(self.collection.clone()));
        let emit = self.emit.map_or(0, NonZeroU64::get);
        out.extend_from_slice(&emit.to_le_bytes());
        out.push(u8::from(self.dropped));
        put_len(out, self.extents.len());
        for (first, len, used) in &self.extents {
            for number in [first, len, used] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out.extend_from_slice(&self.keys_root.to_le_bytes());
        out.extend_from_slice(&self.keys_len.to_le_bytes());
        put_tables(out, &self.pages);
        put_tables(out, &self.locations);
        put_len(out, self.indexes.len());
        self.indexes.iter().for_each(|i| i.encode(out));
    }

    fn decode(fields: &mut Fields<'_>) -> Result<TableEntry> {
        let SchemaRecord::Collection(collection) = decode_step(blob(fields)?)? else {
            return Err(malformed("a table without its collection"));
        };
        Ok(TableEntry {
            collection,
            emit: NonZeroU64::new(fields.u64()?),
            dropped: flag(fields)?,
            extents: list(fields, |f| Ok((f.u32()?, f.u32()?, f.u32()?)))?,
            keys_root: fields.u32()?,
            keys_len: fields.u64()?,
            pages: list(fields, table)?,
            locations: list(fields, table)?,
            indexes: list(fields, IndexEntry::decode)?,
        })
    }

    /// The leases that the table holds, with the ids of each that were given out.
    pub fn leases(&self, shard: ShardId) -> impl Iterator<Item = (Extent, u32)> {
        let collection: CollectionId = self.collection.id;
        self.extents.iter().map(move |&(first, len, used)| {
            let extent = Extent {
                collection,
                shard,
                first,
                len,
            };
            (extent, used)
        })
    }
}

impl IndexEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        put_step(out, &SchemaRecord::AddIndex(self.definition.clone()));
        out.push(u8::from(self.image.is_some()));
        let Some(image) = &self.image else {
            return;
        };
        put_blob(out, &image.header);
        out.push(u8::from(image.pages.is_some()));
        if let Some(pages) = &image.pages {
            put_tables(out, pages);
        }
        put_len(out, image.parts.len());
        for (id, pieces) in &image.parts {
            out.extend_from_slice(&id.to_le_bytes());
            put_len(out, pieces.len());
            pieces.iter().for_each(|p| p.encode(out));
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Result<IndexEntry> {
        let SchemaRecord::AddIndex(definition) = decode_step(blob(fields)?)? else {
            return Err(malformed("an index without its definition"));
        };
        let image = match flag(fields)? {
            false => None,
            true => Some(ImageEntry {
                header: blob(fields)?.to_vec(),
                pages: match flag(fields)? {
                    false => None,
                    true => Some(list(fields, table)?),
                },
                parts: list(fields, |f| Ok((f.u64()?, list(f, piece)?)))?,
            }),
        };
        Ok(IndexEntry { definition, image })
    }
}

fn flag(fields: &mut Fields<'_>) -> Result<bool> {
    match fields.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(malformed("a flag that is neither 0 nor 1")),
    }
}

fn blob<'a>(fields: &mut Fields<'a>) -> Result<&'a [u8]> {
    let len = fields.u32()? as usize;
    fields.bytes(len)
}

/// A count (4 bytes) and as many items; each takes bytes, so a false count ends with them.
fn list<'a, T>(
    fields: &mut Fields<'a>,
    mut item: impl FnMut(&mut Fields<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..fields.u32()?).map(|_| item(fields)).collect()
}

fn piece(fields: &mut Fields<'_>) -> Result<Piece> {
    Piece::decode(fields.bytes(Piece::ENCODED)?).ok_or_else(|| malformed("a piece of no place"))
}

fn table(fields: &mut Fields<'_>) -> Result<(u32, Piece)> {
    let number = fields.u32()?;
    if number >= 1 << 23 {
        return Err(malformed("a group of leaves beyond the last"));
    }
    Ok((number, piece(fields)?))
}

#[cfg(test)]
mod tests {
    use nodedb_types::schema::IndexState;
    use nodedb_types::{Engine, IndexId, SchemaVersion};

    use super::*;

    fn piece(slot: u32) -> Piece {
        Piece {
            slot,
            bytes: 9000,
            crc: 5,
        }
    }

    fn root() -> Root {
        Root {
            database: 3,
            shard: ShardId(2),
            sequence: 9,
            lsn: Lsn(1000),
            clock: CommitTs(77),
            chain: ChainId {
                epoch: 4,
                core: CoreId(1),
            },
            from: Position::new(2, 4096),
            manifest: vec![piece(5), piece(8)],
        }
    }

    #[test]
    fn a_root_is_read_back_whole_or_not_at_all() {
        let bytes = root().encode().unwrap();
        assert_eq!(Root::decode(&bytes, 3, ShardId(2)), Some(root()));
        assert_eq!(Root::decode(&bytes, 4, ShardId(2)), None);
        assert_eq!(Root::decode(&bytes, 3, ShardId(1)), None);
        assert_eq!(Root::decode(&bytes[..4096], 3, ShardId(2)), None);
        for at in (0..bytes.len()).step_by(61).chain([12, 16, 130]) {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            assert_eq!(Root::decode(&torn, 3, ShardId(2)), None, "byte {at}");
        }
        let long = Root {
            manifest: vec![piece(5); 700],
            ..root()
        };
        assert!(long.encode().is_err());
    }

    fn manifest() -> Manifest {
        let collection = Arc::new(Collection {
            id: CollectionId(1024),
            name: "things".into(),
            engine: Engine::DocumentStrict,
            version: SchemaVersion(3),
            columns: Vec::new(),
            key: None,
        });
        let definition = Arc::new(Index {
            id: IndexId(4),
            name: "i".into(),
            collection: CollectionId(1024),
            method: "btree".into(),
            columns: vec![1],
            operator_class: None,
            options: Vec::new(),
            state: IndexState::Public,
        });
        let image = ImageEntry {
            header: b"header".to_vec(),
            pages: Some(vec![(0, piece(40))]),
            parts: vec![(7, vec![piece(50), piece(60)]), (8, Vec::new())],
        };
        let plain = IndexEntry {
            definition: definition.clone(),
            image: None,
        };
        let imaged = IndexEntry {
            definition,
            image: Some(image),
        };
        let table = TableEntry {
            collection,
            emit: NonZeroU64::new(5),
            dropped: false,
            extents: vec![(1024, 1024, 7)],
            keys_root: 2,
            keys_len: 6,
            pages: vec![(0, piece(10))],
            locations: vec![(3, piece(20))],
            indexes: vec![plain, imaged],
        };
        Manifest {
            open: vec![TxnId(5)],
            leases: vec![Extent {
                collection: CollectionId(1024),
                shard: ShardId(0),
                first: 1024,
                len: 1024,
            }],
            segments: vec![(0, piece(30))],
            next_segment: 12,
            tables: vec![table],
        }
    }

    #[test]
    fn a_manifest_is_read_back_and_a_cut_one_is_refused() {
        let bytes = manifest().encode();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest());
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0xff;
            let _ = Manifest::decode(&other);
        }
    }
}
