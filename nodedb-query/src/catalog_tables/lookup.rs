//! Names, OIDs and definitions as catalog functions give them.

use std::sync::Arc;

use nodedb_types::{Collection, CollectionId, DataType, Index, Value};

use crate::catalog::Catalog;

/// First OIDs of the ranges; below them are PostgreSQL's own.
const COLLECTION_OIDS: i64 = 1 << 20;
const INDEX_OIDS: i64 = 2 << 24;
const KEY_OIDS: i64 = 3 << 24;
const CONSTRAINT_OIDS: i64 = 4 << 24;

pub(crate) const PG_CATALOG_OID: i64 = 11;
pub(crate) const PUBLIC_OID: i64 = 2200;
pub(crate) const INFORMATION_SCHEMA_OID: i64 = 13_000;
/// The role that every session has.
pub(crate) const OWNER_OID: i64 = 10;

pub(crate) fn collection_oid(id: CollectionId) -> i64 {
    COLLECTION_OIDS + i64::from(id.0)
}

pub(crate) fn index_oid(index: &Index) -> i64 {
    INDEX_OIDS + i64::from(index.id.0)
}

/// The index that PostgreSQL would have behind a primary key.
pub(crate) fn key_index_oid(collection: &Collection) -> i64 {
    KEY_OIDS + i64::from(collection.id.0)
}

pub(crate) fn constraint_oid(collection: &Collection) -> i64 {
    CONSTRAINT_OIDS + i64::from(collection.id.0)
}

pub(crate) fn key_name(collection: &Collection) -> String {
    format!("{}_pkey", collection.name)
}

/// A name without its schema and quotes.
pub(crate) fn bare_name(text: &str) -> String {
    let last = text.rsplit('.').next().unwrap_or(text);
    match last.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => last.to_lowercase(),
    }
}

fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Every relation by OID: collections, their indexes, their keys' indexes, catalog tables.
pub(crate) fn relation_names(catalog: &Arc<dyn Catalog>) -> Vec<(i64, String)> {
    let mut names = Vec::new();
    for collection in catalog.collections() {
        names.push((collection_oid(collection.id), collection.name.clone()));
        if collection.key.is_some() {
            names.push((key_index_oid(&collection), key_name(&collection)));
        }
        for index in catalog.indexes(collection.id) {
            names.push((index_oid(&index), index.name.clone()));
        }
    }
    let system = SYSTEM_RELATIONS.iter();
    names.extend(system.map(|(oid, name)| (*oid, (*name).to_owned())));
    names
}

/// OIDs that PostgreSQL gives its own catalogs, where clients ask by them.
pub(crate) const SYSTEM_RELATIONS: &[(i64, &str)] = &[
    (1247, "pg_type"),
    (1249, "pg_attribute"),
    (1255, "pg_proc"),
    (1259, "pg_class"),
    (1262, "pg_database"),
    (2604, "pg_attrdef"),
    (2606, "pg_constraint"),
    (2610, "pg_index"),
    (2615, "pg_namespace"),
    (2601, "pg_am"),
    (2609, "pg_description"),
    (3079, "pg_extension"),
];

/// `CREATE INDEX` of every index.
pub(crate) fn index_definitions(catalog: &Arc<dyn Catalog>) -> Vec<(i64, Value)> {
    let mut definitions = Vec::new();
    for collection in catalog.collections() {
        if let Some(key) = collection.key {
            let text = format!(
                "CREATE UNIQUE INDEX {} ON public.{} USING btree ({})",
                quoted(&key_name(&collection)),
                quoted(&collection.name),
                quoted(&collection.columns[key].name)
            );
            definitions.push((key_index_oid(&collection), Value::Text(text)));
        }
        for index in catalog.indexes(collection.id) {
            let text = index_definition(&collection, &index);
            definitions.push((index_oid(&index), Value::Text(text)));
        }
    }
    definitions
}

pub(crate) fn index_definition(collection: &Collection, index: &Index) -> String {
    let columns: Vec<String> = index
        .columns
        .iter()
        .map(|c| {
            let name = quoted(&collection.columns[*c].name);
            match &index.operator_class {
                Some(class) => format!("{name} {class}"),
                None => name,
            }
        })
        .collect();
    let mut text = format!(
        "CREATE INDEX {} ON public.{} USING {} ({})",
        quoted(&index.name),
        quoted(&collection.name),
        index.method,
        columns.join(", ")
    );
    if !index.options.is_empty() {
        let options: Vec<String> = index
            .options
            .iter()
            .map(|(name, value)| format!("{name}='{value}'"))
            .collect();
        text.push_str(&format!(" WITH ({})", options.join(", ")));
    }
    text
}

/// (index, number of the column in it, name).
pub(crate) fn index_columns(catalog: &Arc<dyn Catalog>) -> Vec<(i64, i64, String)> {
    let mut columns = Vec::new();
    for collection in catalog.collections() {
        if let Some(key) = collection.key {
            let name = collection.columns[key].name.clone();
            columns.push((key_index_oid(&collection), 1, name));
        }
        for index in catalog.indexes(collection.id) {
            for (i, column) in index.columns.iter().enumerate() {
                let name = collection.columns[*column].name.clone();
                columns.push((index_oid(&index), i as i64 + 1, name));
            }
        }
    }
    columns
}

pub(crate) fn constraint_definitions(catalog: &Arc<dyn Catalog>) -> Vec<(i64, Value)> {
    let mut definitions = Vec::new();
    for collection in catalog.collections() {
        if let Some(key) = collection.key {
            let text = format!("PRIMARY KEY ({})", quoted(&collection.columns[key].name));
            definitions.push((constraint_oid(&collection), Value::Text(text)));
        }
    }
    definitions
}

pub(crate) fn namespace_names() -> Vec<(i64, String)> {
    vec![
        (PG_CATALOG_OID, "pg_catalog".to_owned()),
        (PUBLIC_OID, "public".to_owned()),
        (INFORMATION_SCHEMA_OID, "information_schema".to_owned()),
    ]
}

pub(crate) fn namespace_oid(name: &str) -> Option<i64> {
    let wanted = bare_name(name);
    let found = namespace_names().into_iter().find(|(_, n)| *n == wanted);
    found.map(|(oid, _)| oid)
}

/// Types that columns have.
pub(crate) const TYPES: &[DataType] = &[
    DataType::Bool,
    DataType::Bytea,
    DataType::Int8,
    DataType::Int2,
    DataType::Int4,
    DataType::Text(None),
    DataType::Float4,
    DataType::Float8,
    DataType::Date,
    DataType::Timestamp,
    DataType::TimestampTz,
    DataType::Interval,
    DataType::Numeric(None),
    DataType::Uuid,
    DataType::Jsonb,
    DataType::Vector(None),
    DataType::Geometry(None),
    DataType::Geography(None),
];

pub(crate) fn type_oid(name: &str) -> Option<i64> {
    let wanted = bare_name(name);
    let found = TYPES
        .iter()
        .find(|t| t.catalog_name() == wanted || t.plain_name() == wanted);
    found.map(|t| i64::from(t.oid()))
}

/// A type's name for its OID and modifier, `???` for an unknown one, as PostgreSQL prints it.
pub(crate) fn format_type(oid: i64, modifier: i32) -> String {
    let known = u32::try_from(oid).ok().and_then(DataType::from_oid);
    match (oid, known) {
        (0, _) => "-".to_owned(),
        (18, _) => "\"char\"".to_owned(),
        (19, _) => "name".to_owned(),
        (26, _) => "oid".to_owned(),
        (1043, _) if modifier > 4 => format!("character varying({})", modifier - 4),
        (1043, _) => "character varying".to_owned(),
        (_, Some(data_type)) => sized(data_type, modifier).name(),
        (_, None) => "???".to_owned(),
    }
}

/// A type with the size that its modifier tells, as `DataType::type_modifier` packs it.
fn sized(data_type: DataType, modifier: i32) -> DataType {
    match data_type {
        DataType::Numeric(_) if modifier > 4 => {
            let packed = modifier - 4;
            let size = (
                u8::try_from(packed >> 16 & 0xFFFF),
                u8::try_from(packed & 0x7FF),
            );
            match size {
                (Ok(precision), Ok(scale)) => DataType::Numeric(Some((precision, scale))),
                _ => data_type,
            }
        }
        DataType::Text(_) if modifier > 4 => DataType::Text(u32::try_from(modifier - 4).ok()),
        DataType::Vector(_) if modifier > 0 => DataType::Vector(u16::try_from(modifier).ok()),
        other => other,
    }
}
