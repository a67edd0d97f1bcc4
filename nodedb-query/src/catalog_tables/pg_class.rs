//! Relations and what belongs to them: `pg_class`, `pg_attribute`, `pg_index`, `pg_constraint`.

use std::sync::Arc;

use nodedb_types::schema::IndexState;
use nodedb_types::{Collection, DataType, Index, Value};

use super::lookup::{
    OWNER_OID, PG_CATALOG_OID, PUBLIC_OID, SYSTEM_RELATIONS, collection_oid, constraint_oid,
    index_oid, key_index_oid, key_name,
};
use super::pg_other::method_oid;
use super::{NO, NULL, Row, Snapshot, Table, YES, empty, int, oid, table_of, text};

const PG: &str = "pg_catalog";

pub(super) static TABLES: &[Table] = &[
    table_of(
        PG,
        "pg_class",
        "oid oid, relname name, relnamespace oid, reltype oid, reloftype oid, relowner oid, relam oid, relfilenode oid, reltablespace oid, relpages int4, reltuples float4, relallvisible int4, reltoastrelid oid, relhasindex bool, relisshared bool, relpersistence char, relkind char, relnatts int2, relchecks int2, relhasrules bool, relhastriggers bool, relhassubclass bool, relrowsecurity bool, relforcerowsecurity bool, relispopulated bool, relreplident char, relispartition bool, relrewrite oid, relfrozenxid int8, relminmxid int8, relacl text, reloptions text, relpartbound text",
        classes,
    ),
    table_of(
        PG,
        "pg_attribute",
        "attrelid oid, attname name, atttypid oid, attstattarget int4, attlen int2, attnum int2, attndims int4, attcacheoff int4, atttypmod int4, attbyval bool, attalign char, attstorage char, attcompression char, attnotnull bool, atthasdef bool, atthasmissing bool, attidentity char, attgenerated char, attisdropped bool, attislocal bool, attinhcount int4, attcollation oid, attacl text, attoptions text, attfdwoptions text, attmissingval text",
        attributes,
    ),
    table_of(
        PG,
        "pg_index",
        "indexrelid oid, indrelid oid, indnatts int2, indnkeyatts int2, indisunique bool, indnullsnotdistinct bool, indisprimary bool, indisexclusion bool, indimmediate bool, indisclustered bool, indisvalid bool, indcheckxmin bool, indisready bool, indislive bool, indisreplident bool, indkey text, indcollation text, indclass text, indoption text, indexprs text, indpred text",
        indexes,
    ),
    table_of(
        PG,
        "pg_constraint",
        "oid oid, conname name, connamespace oid, contype char, condeferrable bool, condeferred bool, convalidated bool, conrelid oid, contypid oid, conindid oid, conparentid oid, confrelid oid, confupdtype char, confdeltype char, confmatchtype char, conislocal bool, coninhcount int4, connoinherit bool, conkey text, confkey text, conpfeqop text, conppeqop text, conffeqop text, confdelsetcols text, conexclop text, conbin text",
        constraints,
    ),
    table_of(
        PG,
        "pg_tables",
        "schemaname name, tablename name, tableowner name, tablespace name, hasindexes bool, hasrules bool, hastriggers bool, rowsecurity bool",
        tables,
    ),
    table_of(
        PG,
        "pg_indexes",
        "schemaname name, tablename name, indexname name, tablespace name, indexdef text",
        index_view,
    ),
    empty(
        PG,
        "pg_attrdef",
        "oid oid, adrelid oid, adnum int2, adbin text",
    ),
    empty(
        PG,
        "pg_inherits",
        "inhrelid oid, inhparent oid, inhseqno int4, inhdetachpending bool",
    ),
];

/// Every relation that is made here: kind, OID, name, namespace, method, columns.
fn relation(
    kind: &str,
    id: i64,
    name: &str,
    namespace: i64,
    method: i64,
    columns: usize,
    has_index: bool,
) -> Row {
    vec![
        oid(id),
        text(name),
        oid(namespace),
        oid(0),
        oid(0),
        oid(OWNER_OID),
        oid(method),
        oid(id),
        oid(0),
        int(0),
        Value::Float4(-1.0),
        int(0),
        oid(0),
        Value::Bool(has_index),
        NO,
        text("p"),
        text(kind),
        int(columns as i32),
        int(0),
        NO,
        NO,
        NO,
        NO,
        NO,
        YES,
        text("d"),
        NO,
        oid(0),
        oid(0),
        oid(0),
        NULL,
        NULL,
        NULL,
    ]
}

fn classes(snapshot: &Snapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    for (id, name) in SYSTEM_RELATIONS {
        rows.push(relation(
            "r",
            *id,
            name,
            PG_CATALOG_OID,
            method_oid("heap"),
            0,
            false,
        ));
    }
    for collection in snapshot.catalog.collections() {
        let own = snapshot.catalog.indexes(collection.id);
        rows.push(relation(
            "r",
            collection_oid(collection.id),
            &collection.name,
            PUBLIC_OID,
            method_oid("heap"),
            collection.columns.len(),
            collection.key.is_some() || !own.is_empty(),
        ));
        if collection.key.is_some() {
            let name = key_name(&collection);
            let id = key_index_oid(&collection);
            rows.push(relation(
                "i",
                id,
                &name,
                PUBLIC_OID,
                method_oid("btree"),
                1,
                false,
            ));
        }
        for index in own {
            rows.push(relation(
                "i",
                index_oid(&index),
                &index.name,
                PUBLIC_OID,
                method_oid(&index.method),
                index.columns.len(),
                false,
            ));
        }
    }
    rows
}

/// PostgreSQL's storage class of a type: plain where its values have one length.
fn storage(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Numeric(_) => "m",
        fixed if fixed.typlen() > 0 => "p",
        _ => "x",
    }
}

fn attribute(relation: i64, number: usize, name: &str, data_type: DataType, not_null: bool) -> Row {
    let collation = if matches!(data_type, DataType::Text(_)) {
        100
    } else {
        0
    };
    vec![
        oid(relation),
        text(name),
        oid(i64::from(data_type.oid())),
        int(-1),
        Value::Int2(data_type.typlen()),
        int(number as i32),
        int(0),
        int(-1),
        int(data_type.type_modifier()),
        NO,
        text("i"),
        text(storage(data_type)),
        text(""),
        Value::Bool(not_null),
        NO,
        NO,
        text(""),
        text(""),
        NO,
        YES,
        int(0),
        oid(collation),
        NULL,
        NULL,
        NULL,
        NULL,
    ]
}

fn attributes(snapshot: &Snapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    for collection in snapshot.catalog.collections() {
        for (i, column) in collection.columns.iter().enumerate() {
            let not_null = column.not_null || collection.key == Some(i);
            let relation = collection_oid(collection.id);
            rows.push(attribute(
                relation,
                i + 1,
                &column.name,
                column.data_type,
                not_null,
            ));
        }
        let mut indexed = |relation: i64, columns: &[usize]| {
            for (i, column) in columns.iter().enumerate() {
                let column = &collection.columns[*column];
                rows.push(attribute(
                    relation,
                    i + 1,
                    &column.name,
                    column.data_type,
                    false,
                ));
            }
        };
        if let Some(key) = collection.key {
            indexed(key_index_oid(&collection), &[key]);
        }
        for index in snapshot.catalog.indexes(collection.id) {
            indexed(index_oid(&index), &index.columns);
        }
    }
    rows
}

fn index_row(
    id: i64,
    collection: &Collection,
    columns: &[usize],
    primary: bool,
    valid: bool,
) -> Row {
    let listed = |f: &dyn Fn(usize) -> String| {
        text(columns.iter().map(|c| f(*c)).collect::<Vec<_>>().join(" "))
    };
    vec![
        oid(id),
        oid(collection_oid(collection.id)),
        int(columns.len() as i32),
        int(columns.len() as i32),
        Value::Bool(primary),
        NO,
        Value::Bool(primary),
        NO,
        YES,
        NO,
        Value::Bool(valid),
        NO,
        YES,
        YES,
        NO,
        listed(&|c| (c + 1).to_string()),
        listed(&|_| "0".to_owned()),
        listed(&|_| "0".to_owned()),
        listed(&|_| "0".to_owned()),
        NULL,
        NULL,
    ]
}

fn each_index(snapshot: &Snapshot, mut f: impl FnMut(&Arc<Collection>, &Arc<Index>)) {
    for collection in snapshot.catalog.collections() {
        for index in snapshot.catalog.indexes(collection.id) {
            f(&collection, &index);
        }
    }
}

fn indexes(snapshot: &Snapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    for collection in snapshot.catalog.collections() {
        if let Some(key) = collection.key {
            rows.push(index_row(
                key_index_oid(&collection),
                &collection,
                &[key],
                true,
                true,
            ));
        }
    }
    each_index(snapshot, |collection, index| {
        let valid = index.state == IndexState::Public;
        rows.push(index_row(
            index_oid(index),
            collection,
            &index.columns,
            false,
            valid,
        ));
    });
    rows
}

fn constraints(snapshot: &Snapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    for collection in snapshot.catalog.collections() {
        let Some(key) = collection.key else {
            continue;
        };
        let mut row = vec![
            oid(constraint_oid(&collection)),
            text(key_name(&collection)),
            oid(PUBLIC_OID),
            text("p"),
            NO,
            NO,
            YES,
            oid(collection_oid(collection.id)),
            oid(0),
            oid(key_index_oid(&collection)),
            oid(0),
            oid(0),
            text(" "),
            text(" "),
            text(" "),
            YES,
            int(0),
            YES,
            text(format!("{{{}}}", key + 1)),
        ];
        row.extend((0..7).map(|_| NULL));
        rows.push(row);
    }
    rows
}

fn tables(snapshot: &Snapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    for collection in snapshot.catalog.collections() {
        let has_index =
            collection.key.is_some() || !snapshot.catalog.indexes(collection.id).is_empty();
        rows.push(vec![
            text("public"),
            text(&collection.name),
            text(&snapshot.session.user),
            NULL,
            Value::Bool(has_index),
            NO,
            NO,
            NO,
        ]);
    }
    rows
}

fn index_view(snapshot: &Snapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    for collection in snapshot.catalog.collections() {
        let definitions = super::index_definitions(&snapshot.catalog);
        let mut add = |id: i64, name: String| {
            let definition = definitions.iter().find(|(known, _)| *known == id);
            let definition = definition.map_or(NULL, |(_, text)| text.clone());
            rows.push(vec![
                text("public"),
                text(&collection.name),
                text(name),
                NULL,
                definition,
            ]);
        };
        if collection.key.is_some() {
            add(key_index_oid(&collection), key_name(&collection));
        }
        for index in snapshot.catalog.indexes(collection.id) {
            add(index_oid(&index), index.name.clone());
        }
    }
    rows
}
