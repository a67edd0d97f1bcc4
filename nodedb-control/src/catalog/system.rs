//! The system collections: compiled-in ids and schemas, and what their rows mean.
//!
//! | id | name | key | row |
//! |---|---|---|---|
//! | 1 | sys.collections | id | name, engine, version, key column, columns as jsonb |
//! | 2 | sys.indexes | id | name, collection, method, columns as jsonb, operator class, options as jsonb |
//! | 3 | sys.streams | id | name, collection, created, retention in bytes |
//! | 4 | sys.counters | name | value: the last id given |
//!
//! Types are stored in the stable spelling of `DataType::spelling`. Every row is on shard 0,
//! whatever its key hashes to.

use std::sync::Arc;

use nodedb_types::schema::{IndexState, Stream};
use nodedb_types::{
    Collection, CollectionId, Column, CommitTs, DataType, Engine, Failure, Index, IndexId, Result,
    SchemaVersion, SqlState, StreamId, Value,
};
use serde_json::{Value as Json, json};

pub const COLLECTIONS: CollectionId = CollectionId(1);
pub const INDEXES: CollectionId = CollectionId(2);
pub const STREAMS: CollectionId = CollectionId(3);
pub const COUNTERS: CollectionId = CollectionId(4);

fn table(id: CollectionId, name: &str, columns: &[(&str, DataType, bool)]) -> Arc<Collection> {
    Arc::new(Collection {
        id,
        name: name.to_owned(),
        engine: Engine::DocumentStrict,
        version: SchemaVersion(1),
        columns: columns
            .iter()
            .map(|(name, data_type, not_null)| Column {
                name: (*name).to_owned(),
                data_type: *data_type,
                not_null: *not_null,
            })
            .collect(),
        key: Some(0),
    })
}

/// Every system collection, in the order of their ids.
pub fn all() -> Vec<Arc<Collection>> {
    use DataType::{Int4, Int8, Jsonb};
    let text = DataType::Text(None);
    vec![
        table(
            COLLECTIONS,
            "sys.collections",
            &[
                ("id", Int8, true),
                ("name", text, true),
                ("engine", text, true),
                ("version", Int4, true),
                ("key_column", Int4, false),
                ("columns", Jsonb, true),
            ],
        ),
        table(
            INDEXES,
            "sys.indexes",
            &[
                ("id", Int8, true),
                ("name", text, true),
                ("collection", Int8, true),
                ("method", text, true),
                ("columns", Jsonb, true),
                ("operator_class", text, false),
                ("options", Jsonb, true),
            ],
        ),
        table(
            STREAMS,
            "sys.streams",
            &[
                ("id", Int8, true),
                ("name", text, true),
                ("collection", Int8, true),
                ("created", Int8, true),
                ("retention_bytes", Int8, true),
            ],
        ),
        table(
            COUNTERS,
            "sys.counters",
            &[("name", text, true), ("value", Int8, true)],
        ),
    ]
}

/// The system collection of an id that is known to be one.
pub fn collection(id: CollectionId) -> Arc<Collection> {
    all()
        .into_iter()
        .find(|c| c.id == id)
        .unwrap_or_else(|| panic!("{id} is no system collection"))
}

pub fn collection_row(c: &Collection) -> Result<Vec<Value>> {
    let columns: Vec<Json> = c
        .columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.data_type.spelling(),
                "not_null": column.not_null,
            })
        })
        .collect();
    Ok(vec![
        Value::Int8(i64::from(c.id.0)),
        Value::Text(c.name.clone()),
        Value::Text(c.engine.name().to_owned()),
        Value::Int4(c.version.0 as i32),
        c.key.map_or(Value::Null, |key| Value::Int4(key as i32)),
        jsonb(Json::Array(columns))?,
    ])
}

pub fn read_collection(row: &[Value]) -> Result<Collection> {
    let bad = || corrupt("sys.collections");
    let [id, name, engine, version, key, columns] = row else {
        return Err(bad());
    };
    let engine = match text(engine)? {
        "document_strict" => Engine::DocumentStrict,
        _ => return Err(bad()),
    };
    let columns = array(columns)?
        .iter()
        .map(|column| {
            let string = |name: &str| column.get(name).and_then(Json::as_str).ok_or_else(bad);
            Ok(Column {
                name: string("name")?.to_owned(),
                data_type: DataType::from_spelling(string("type")?).ok_or_else(bad)?,
                not_null: column
                    .get("not_null")
                    .and_then(Json::as_bool)
                    .ok_or_else(bad)?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Collection {
        id: CollectionId(integer(id)? as u32),
        name: text(name)?.to_owned(),
        engine,
        version: SchemaVersion(integer(version)? as u32),
        key: match key {
            Value::Null => None,
            key => Some(integer(key)? as usize),
        },
        columns,
    })
}

pub fn index_row(i: &Index) -> Result<Vec<Value>> {
    Ok(vec![
        Value::Int8(i64::from(i.id.0)),
        Value::Text(i.name.clone()),
        Value::Int8(i64::from(i.collection.0)),
        Value::Text(i.method.clone()),
        jsonb(json!(i.columns))?,
        i.operator_class.clone().map_or(Value::Null, Value::Text),
        jsonb(json!(i.options))?,
    ])
}

/// The row of an index exists only once it is public.
pub fn read_index(row: &[Value]) -> Result<Index> {
    let bad = || corrupt("sys.indexes");
    let [id, name, collection, method, columns, class, options] = row else {
        return Err(bad());
    };
    let columns = array(columns)?
        .iter()
        .map(|c| c.as_u64().map(|c| c as usize).ok_or_else(bad))
        .collect::<Result<Vec<_>>>()?;
    let options = array(options)?
        .iter()
        .map(|pair| match pair.as_array().map(Vec::as_slice) {
            Some([Json::String(name), Json::String(value)]) => Ok((name.clone(), value.clone())),
            _ => Err(bad()),
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Index {
        id: IndexId(integer(id)? as u32),
        name: text(name)?.to_owned(),
        collection: CollectionId(integer(collection)? as u32),
        method: text(method)?.to_owned(),
        columns,
        operator_class: match class {
            Value::Null => None,
            class => Some(text(class)?.to_owned()),
        },
        options,
        state: IndexState::Public,
    })
}

pub fn stream_row(s: &Stream) -> Vec<Value> {
    vec![
        Value::Int8(i64::from(s.id.0)),
        Value::Text(s.name.clone()),
        Value::Int8(i64::from(s.collection.0)),
        Value::Int8(s.created.0 as i64),
        Value::Int8(s.retention_bytes as i64),
    ]
}

pub fn read_stream(row: &[Value]) -> Result<Stream> {
    let [id, name, collection, created, retention] = row else {
        return Err(corrupt("sys.streams"));
    };
    Ok(Stream {
        id: StreamId(integer(id)? as u32),
        name: text(name)?.to_owned(),
        collection: CollectionId(integer(collection)? as u32),
        created: CommitTs(integer(created)? as u64),
        retention_bytes: integer(retention)? as u64,
    })
}

/// A row of sys.counters.
pub fn read_counter(row: &[Value]) -> Result<(&str, u32)> {
    match row {
        [name, value] => Ok((text(name)?, integer(value)? as u32)),
        _ => Err(corrupt("sys.counters")),
    }
}

fn jsonb(json: Json) -> Result<Value> {
    nodedb_types::json::canonical(&json.to_string()).map(Value::Jsonb)
}

fn corrupt(table: &str) -> Failure {
    Failure::new(
        SqlState::DataCorrupted,
        format!("a row of {table} is not as it was written"),
    )
}

fn text(value: &Value) -> Result<&str> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err(corrupt("the catalog")),
    }
}

fn integer(value: &Value) -> Result<i64> {
    match value {
        Value::Int8(v) => Ok(*v),
        Value::Int4(v) => Ok(i64::from(*v)),
        _ => Err(corrupt("the catalog")),
    }
}

fn array(value: &Value) -> Result<Vec<Json>> {
    match value {
        Value::Jsonb(text) => match serde_json::from_str(text) {
            Ok(Json::Array(items)) => Ok(items),
            _ => Err(corrupt("the catalog")),
        },
        _ => Err(corrupt("the catalog")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_give_back_what_they_were_made_of() {
        let column = |name: &str, data_type, not_null| Column {
            name: name.into(),
            data_type,
            not_null,
        };
        let collection = Collection {
            id: CollectionId(1024),
            name: "packages".into(),
            engine: Engine::DocumentStrict,
            version: SchemaVersion(3),
            columns: vec![
                column("id", DataType::Int8, true),
                column("e \"q\"", DataType::Vector(Some(384)), false),
            ],
            key: Some(0),
        };
        let row = collection_row(&collection).expect("a row");
        assert_eq!(read_collection(&row).expect("reads"), collection);
        let index = Index {
            id: IndexId(7),
            name: "i".into(),
            collection: collection.id,
            method: "hnsw".into(),
            columns: vec![1],
            operator_class: Some("vector_cosine_ops".into()),
            options: vec![("a".into(), "b".into())],
            state: IndexState::Public,
        };
        let row = index_row(&index).expect("a row");
        assert_eq!(read_index(&row).expect("reads"), index);
        let stream = Stream {
            id: StreamId(2),
            name: "s".into(),
            collection: collection.id,
            created: CommitTs(99),
            retention_bytes: 1 << 30,
        };
        assert_eq!(read_stream(&stream_row(&stream)).expect("reads"), stream);
        read_stream(&row).expect_err("another table's row");
    }

    #[test]
    fn system_ids_are_reserved() {
        for collection in all() {
            assert!(collection.id.is_system());
            assert_eq!(super::collection(collection.id), collection);
        }
    }
}
