//! `information_schema`: the parts that drivers and tools ask for.

use nodedb_types::{DataType, Value};

use super::lookup::{key_name, namespace_names};
use super::{NULL, Row, Snapshot, Table, int, table_of, text};

const INFO: &str = "information_schema";

pub(super) static TABLES: &[Table] = &[
    table_of(
        INFO,
        "schemata",
        "catalog_name text, schema_name text, schema_owner text, default_character_set_catalog text, default_character_set_schema text, default_character_set_name text, sql_path text",
        schemata,
    ),
    table_of(
        INFO,
        "tables",
        "table_catalog text, table_schema text, table_name text, table_type text, self_referencing_column_name text, reference_generation text, user_defined_type_catalog text, user_defined_type_schema text, user_defined_type_name text, is_insertable_into text, is_typed text, commit_action text",
        tables,
    ),
    table_of(
        INFO,
        "columns",
        "table_catalog text, table_schema text, table_name text, column_name text, ordinal_position int4, column_default text, is_nullable text, data_type text, character_maximum_length int4, character_octet_length int4, numeric_precision int4, numeric_precision_radix int4, numeric_scale int4, datetime_precision int4, udt_catalog text, udt_schema text, udt_name text, is_identity text, is_generated text, is_updatable text",
        columns,
    ),
    table_of(
        INFO,
        "table_constraints",
        "constraint_catalog text, constraint_schema text, constraint_name text, table_catalog text, table_schema text, table_name text, constraint_type text, is_deferrable text, initially_deferred text, enforced text",
        table_constraints,
    ),
    table_of(
        INFO,
        "key_column_usage",
        "constraint_catalog text, constraint_schema text, constraint_name text, table_catalog text, table_schema text, table_name text, column_name text, ordinal_position int4, position_in_unique_constraint int4",
        key_columns,
    ),
];

fn schemata(snapshot: &Snapshot) -> Vec<Row> {
    let database = &snapshot.session.database;
    namespace_names()
        .into_iter()
        .map(|(_, name)| {
            vec![
                text(database),
                text(name),
                text(&snapshot.session.user),
                NULL,
                NULL,
                NULL,
                NULL,
            ]
        })
        .collect()
}

fn tables(snapshot: &Snapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    for collection in snapshot.catalog.collections() {
        rows.push(vec![
            text(&snapshot.session.database),
            text("public"),
            text(&collection.name),
            text("BASE TABLE"),
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            text("YES"),
            text("NO"),
            NULL,
        ]);
    }
    rows
}

/// Length, precision, radix, scale, precision of time.
fn sizes(data_type: DataType) -> [Value; 5] {
    let number = |precision: i32, radix: i32, scale: i32| {
        [NULL, int(precision), int(radix), int(scale), NULL]
    };
    match data_type {
        DataType::Text(Some(n)) => [int(n as i32), NULL, NULL, NULL, NULL],
        DataType::Int2 => number(16, 2, 0),
        DataType::Int4 => number(32, 2, 0),
        DataType::Int8 => number(64, 2, 0),
        DataType::Float4 => [NULL, int(24), int(2), NULL, NULL],
        DataType::Float8 => [NULL, int(53), int(2), NULL, NULL],
        DataType::Numeric(Some((p, s))) => number(i32::from(p), 10, i32::from(s)),
        DataType::Date => [NULL, NULL, NULL, NULL, int(0)],
        DataType::Timestamp | DataType::TimestampTz | DataType::Interval => {
            [NULL, NULL, NULL, NULL, int(6)]
        }
        _ => [NULL, NULL, NULL, NULL, NULL],
    }
}

fn columns(snapshot: &Snapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    for collection in snapshot.catalog.collections() {
        for (i, column) in collection.columns.iter().enumerate() {
            let required = column.not_null || collection.key == Some(i);
            let own = column.data_type.oid() >= 16_384;
            let shown = if own {
                "USER-DEFINED"
            } else {
                column.data_type.plain_name()
            };
            let [length, precision, radix, scale, time] = sizes(column.data_type);
            rows.push(vec![
                text(&snapshot.session.database),
                text("public"),
                text(&collection.name),
                text(&column.name),
                int(i as i32 + 1),
                NULL,
                text(if required { "NO" } else { "YES" }),
                text(shown),
                length,
                NULL,
                precision,
                radix,
                scale,
                time,
                text(&snapshot.session.database),
                text(if own { "public" } else { "pg_catalog" }),
                text(column.data_type.catalog_name()),
                text("NO"),
                text("NEVER"),
                text("YES"),
            ]);
        }
    }
    rows
}

fn table_constraints(snapshot: &Snapshot) -> Vec<Row> {
    let database = &snapshot.session.database;
    let mut rows = Vec::new();
    for collection in snapshot.catalog.collections() {
        if collection.key.is_some() {
            rows.push(vec![
                text(database),
                text("public"),
                text(key_name(&collection)),
                text(database),
                text("public"),
                text(&collection.name),
                text("PRIMARY KEY"),
                text("NO"),
                text("NO"),
                text("YES"),
            ]);
        }
    }
    rows
}

fn key_columns(snapshot: &Snapshot) -> Vec<Row> {
    let database = &snapshot.session.database;
    let mut rows = Vec::new();
    for collection in snapshot.catalog.collections() {
        if let Some(key) = collection.key {
            rows.push(vec![
                text(database),
                text("public"),
                text(key_name(&collection)),
                text(database),
                text("public"),
                text(&collection.name),
                text(&collection.columns[key].name),
                int(1),
                NULL,
            ]);
        }
    }
    rows
}
