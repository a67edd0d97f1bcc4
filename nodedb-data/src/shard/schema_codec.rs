//! Schema steps and leases as records of the log.
//!
//! A step's payload begins with its kind (1 byte): 1 collection created or changed, 2 collection
//! dropped, 3 index added, 4 index public, 5 index dropped, 6 whether changes are emitted. What
//! follows is in [`encode_step`]; strings carry two bytes of length, lists two bytes of count.
//! A lease is collection (4 bytes), shard (2), first id (4), number of ids (4).

use std::num::NonZeroU64;
use std::sync::Arc;

use nodedb_bridge::plan::Extent;
use nodedb_types::geo::Kind;
use nodedb_types::limits::COLUMNS_MAX;
use nodedb_types::schema::IndexState;
use nodedb_types::{
    Collection, CollectionId, Column, DataType, Engine, Index, IndexId, Result, SchemaVersion,
    ShardId,
};

use super::fields::{Fields, malformed, put_text};

/// A step as a shard's log holds it: what `SchemaStep` asks for, without the work of a build.
#[derive(Clone, Debug, PartialEq)]
pub enum SchemaRecord {
    Collection(Arc<Collection>),
    DropCollection(CollectionId),
    AddIndex(Arc<Index>),
    PublishIndex(IndexId),
    DropIndex(IndexId),
    SetEmit(CollectionId, Option<NonZeroU64>),
}

pub fn encode_step(step: &SchemaRecord, out: &mut Vec<u8>) {
    match step {
        SchemaRecord::Collection(collection) => {
            out.push(1);
            put_collection(out, collection);
        }
        SchemaRecord::DropCollection(id) => {
            out.push(2);
            out.extend_from_slice(&id.0.to_le_bytes());
        }
        SchemaRecord::AddIndex(index) => {
            out.push(3);
            put_index(out, index);
        }
        SchemaRecord::PublishIndex(id) => {
            out.push(4);
            out.extend_from_slice(&id.0.to_le_bytes());
        }
        SchemaRecord::DropIndex(id) => {
            out.push(5);
            out.extend_from_slice(&id.0.to_le_bytes());
        }
        SchemaRecord::SetEmit(id, retention_bytes) => {
            out.push(6);
            out.extend_from_slice(&id.0.to_le_bytes());
            // 0: no events.
            let bytes = retention_bytes.map_or(0, NonZeroU64::get);
            out.extend_from_slice(&bytes.to_le_bytes());
        }
    }
}

pub fn decode_step(payload: &[u8]) -> Result<SchemaRecord> {
    let fields = &mut Fields::new(payload);
    let step = match fields.u8()? {
        1 => SchemaRecord::Collection(Arc::new(collection(fields)?)),
        2 => SchemaRecord::DropCollection(CollectionId(fields.u32()?)),
        3 => SchemaRecord::AddIndex(Arc::new(index(fields)?)),
        4 => SchemaRecord::PublishIndex(IndexId(fields.u32()?)),
        5 => SchemaRecord::DropIndex(IndexId(fields.u32()?)),
        6 => SchemaRecord::SetEmit(CollectionId(fields.u32()?), NonZeroU64::new(fields.u64()?)),
        _ => return Err(malformed("an unknown schema step")),
    };
    fields.end()?;
    Ok(step)
}

pub fn encode_lease(extent: Extent, out: &mut Vec<u8>) {
    out.extend_from_slice(&extent.collection.0.to_le_bytes());
    out.extend_from_slice(&extent.shard.0.to_le_bytes());
    out.extend_from_slice(&extent.first.to_le_bytes());
    out.extend_from_slice(&extent.len.to_le_bytes());
}

pub fn decode_lease(payload: &[u8]) -> Result<Extent> {
    let fields = &mut Fields::new(payload);
    let extent = Extent {
        collection: CollectionId(fields.u32()?),
        shard: ShardId(fields.u16()?),
        first: fields.u32()?,
        len: fields.u32()?,
    };
    fields.end()?;
    let aligned = extent.len.is_power_of_two() && extent.first.is_multiple_of(extent.len);
    if !aligned || extent.first == 0 {
        return Err(malformed("a lease that is not aligned"));
    }
    Ok(extent)
}

fn boolean(fields: &mut Fields<'_>) -> Result<bool> {
    match fields.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(malformed("a flag that is neither 0 nor 1")),
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("lists of a schema are short");
    out.extend_from_slice(&count.to_le_bytes());
}

fn put_position(out: &mut Vec<u8>, position: usize) {
    put_count(out, position);
}

/// Id (4), version (4), engine (1), key position (2, 0xffff for none), name, columns: each type
/// (see [`put_type`]), not null (1), name.
fn put_collection(out: &mut Vec<u8>, collection: &Collection) {
    out.extend_from_slice(&collection.id.0.to_le_bytes());
    out.extend_from_slice(&collection.version.0.to_le_bytes());
    out.push(match collection.engine {
        Engine::DocumentStrict => 1,
    });
    put_position(out, collection.key.unwrap_or(0xffff));
    put_text(out, &collection.name);
    put_count(out, collection.columns.len());
    for column in &collection.columns {
        put_type(out, column.data_type);
        out.push(u8::from(column.not_null));
        put_text(out, &column.name);
    }
}

fn collection(fields: &mut Fields<'_>) -> Result<Collection> {
    let id = CollectionId(fields.u32()?);
    let version = SchemaVersion(fields.u32()?);
    let engine = match fields.u8()? {
        1 => Engine::DocumentStrict,
        _ => return Err(malformed("an unknown engine")),
    };
    let key = Some(usize::from(fields.u16()?)).filter(|&k| k != 0xffff);
    let name = fields.text()?;
    let count = usize::from(fields.u16()?);
    if count > COLUMNS_MAX || key.is_some_and(|k| k >= count) {
        return Err(malformed("columns beyond the limits"));
    }
    let mut columns = Vec::new();
    for _ in 0..count {
        columns.push(Column {
            data_type: data_type(fields)?,
            not_null: boolean(fields)?,
            name: fields.text()?,
        });
    }
    Ok(Collection {
        id,
        name,
        engine,
        version,
        columns,
        key,
    })
}

/// Id (4), collection (4), state (1: 0 write-only, 1 public), name, method, operator class
/// (flag, then text), column positions (2 each), options (name and value).
fn put_index(out: &mut Vec<u8>, index: &Index) {
    out.extend_from_slice(&index.id.0.to_le_bytes());
    out.extend_from_slice(&index.collection.0.to_le_bytes());
    out.push(match index.state {
        IndexState::WriteOnly => 0,
        IndexState::Public => 1,
    });
    put_text(out, &index.name);
    put_text(out, &index.method);
    out.push(u8::from(index.operator_class.is_some()));
    if let Some(class) = &index.operator_class {
        put_text(out, class);
    }
    put_count(out, index.columns.len());
    for &column in &index.columns {
        put_position(out, column);
    }
    put_count(out, index.options.len());
    for (name, value) in &index.options {
        put_text(out, name);
        put_text(out, value);
    }
}

fn index(fields: &mut Fields<'_>) -> Result<Index> {
    let id = IndexId(fields.u32()?);
    let collection = CollectionId(fields.u32()?);
    let state = match boolean(fields)? {
        false => IndexState::WriteOnly,
        true => IndexState::Public,
    };
    let (name, method) = (fields.text()?, fields.text()?);
    let operator_class = match boolean(fields)? {
        true => Some(fields.text()?),
        false => None,
    };
    let mut columns = Vec::new();
    for _ in 0..fields.u16()? {
        columns.push(usize::from(fields.u16()?));
    }
    let mut options = Vec::new();
    for _ in 0..fields.u16()? {
        options.push((fields.text()?, fields.text()?));
    }
    Ok(Index {
        id,
        name,
        collection,
        method,
        columns,
        operator_class,
        options,
        state,
    })
}

/// A tag (1) and a modifier (4): for numeric precision and scale plus 1, for varchar its limit
/// plus 1, for a vector its dimension plus 1, for shapes their kind; 0 for none.
fn put_type(out: &mut Vec<u8>, data_type: DataType) {
    let shape = |kind: Option<Kind>| kind.map_or(0, |k| k as u32);
    let (tag, modifier) = match data_type {
        DataType::Bool => (1, 0),
        DataType::Int2 => (2, 0),
        DataType::Int4 => (3, 0),
        DataType::Int8 => (4, 0),
        DataType::Float4 => (5, 0),
        DataType::Float8 => (6, 0),
        DataType::Numeric(limits) => (
            7,
            limits.map_or(0, |(p, s)| (u32::from(p) << 8 | u32::from(s)) + 1),
        ),
        DataType::Text(limit) => (8, limit.map_or(0, |n| n + 1)),
        DataType::Bytea => (9, 0),
        DataType::Uuid => (10, 0),
        DataType::Date => (11, 0),
        DataType::Timestamp => (12, 0),
        DataType::TimestampTz => (13, 0),
        DataType::Interval => (14, 0),
        DataType::Jsonb => (15, 0),
        DataType::Vector(n) => (16, n.map_or(0, |n| u32::from(n) + 1)),
        DataType::Geometry(kind) => (17, shape(kind)),
        DataType::Geography(kind) => (18, shape(kind)),
    };
    out.push(tag);
    out.extend_from_slice(&u32::to_le_bytes(modifier));
}

fn data_type(fields: &mut Fields<'_>) -> Result<DataType> {
    let tag = fields.u8()?;
    let modifier = fields.u32()?;
    let less_one = modifier.checked_sub(1);
    let narrow = |n: u32| u16::try_from(n).map_err(|_| malformed("a type's modifier"));
    let shape = || match modifier {
        0 => Ok(None),
        n => Kind::ALL
            .into_iter()
            .find(|&k| k as u32 == n)
            .map(Some)
            .ok_or_else(|| malformed("an unknown shape")),
    };
    Ok(match tag {
        1 => DataType::Bool,
        2 => DataType::Int2,
        3 => DataType::Int4,
        4 => DataType::Int8,
        5 => DataType::Float4,
        6 => DataType::Float8,
        7 => DataType::Numeric(match less_one {
            Some(n) => {
                let n = narrow(n)?;
                Some(((n >> 8) as u8, n as u8))
            }
            None => None,
        }),
        8 => DataType::Text(less_one),
        9 => DataType::Bytea,
        10 => DataType::Uuid,
        11 => DataType::Date,
        12 => DataType::Timestamp,
        13 => DataType::TimestampTz,
        14 => DataType::Interval,
        15 => DataType::Jsonb,
        16 => DataType::Vector(less_one.map(narrow).transpose()?),
        17 => DataType::Geometry(shape()?),
        18 => DataType::Geography(shape()?),
        _ => return Err(malformed("an unknown type")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn every_type() -> Vec<DataType> {
        use DataType::*;
        let mut all = vec![
            Bool,
            Int2,
            Int4,
            Int8,
            Float4,
            Float8,
            Numeric(None),
            Numeric(Some((38, 0))),
            Numeric(Some((10, 2))),
            Text(None),
            Text(Some(0)),
            Text(Some(255)),
            Bytea,
            Uuid,
            Date,
            Timestamp,
            TimestampTz,
            Interval,
            Jsonb,
            Vector(None),
            Vector(Some(384)),
            Geometry(None),
            Geography(None),
        ];
        for kind in Kind::ALL {
            all.extend([Geometry(Some(kind)), Geography(Some(kind))]);
        }
        all
    }

    fn steps() -> Vec<SchemaRecord> {
        let columns = every_type()
            .into_iter()
            .enumerate()
            .map(|(n, data_type)| Column {
                name: format!("c{n}"),
                data_type,
                not_null: n % 2 == 0,
            });
        let collection = Collection {
            id: CollectionId(1024),
            name: "packages".into(),
            engine: Engine::DocumentStrict,
            version: SchemaVersion(7),
            columns: columns.collect(),
            key: Some(3),
        };
        let hidden = Collection {
            key: None,
            ..collection.clone()
        };
        let index = Index {
            id: IndexId(9),
            name: "packages_meaning".into(),
            collection: CollectionId(1024),
            method: "hnsw".into(),
            columns: vec![4, 2],
            operator_class: Some("vector_cosine_ops".into()),
            options: vec![("m".into(), "16".into())],
            state: IndexState::WriteOnly,
        };
        vec![
            SchemaRecord::Collection(Arc::new(collection)),
            SchemaRecord::Collection(Arc::new(hidden)),
            SchemaRecord::DropCollection(CollectionId(1024)),
            SchemaRecord::AddIndex(Arc::new(index)),
            SchemaRecord::PublishIndex(IndexId(9)),
            SchemaRecord::DropIndex(IndexId(9)),
            SchemaRecord::SetEmit(CollectionId(1024), NonZeroU64::new(1 << 30)),
            SchemaRecord::SetEmit(CollectionId(1024), None),
        ]
    }

    #[test]
    fn decoding_inverts_encoding() {
        for step in steps() {
            let mut payload = Vec::new();
            encode_step(&step, &mut payload);
            assert_eq!(decode_step(&payload).unwrap(), step);
            for len in 0..payload.len() {
                assert!(decode_step(&payload[..len]).is_err());
            }
        }
        let extent = Extent {
            collection: CollectionId(5),
            shard: ShardId(2),
            first: 65_536,
            len: 65_536,
        };
        let mut payload = Vec::new();
        encode_lease(extent, &mut payload);
        assert_eq!(decode_lease(&payload).unwrap(), extent);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(kind in 0u8..8, mut bytes in prop::collection::vec(any::<u8>(), 1..120)) {
            bytes[0] = kind;
            let _ = decode_step(&bytes);
            let _ = decode_lease(&bytes);
        }
    }
}
