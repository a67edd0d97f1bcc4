//! `pg_catalog` and `information_schema` over a catalog snapshot.
//!
//! A table is a line in [`TABLES`]: its columns and, unless it is always empty here, how its rows are
//! made from the snapshot. Arrays appear as their text. `oid`, `name` and
//! `"char"` are computed with as bigint and text but are shown to clients as what they are; the
//! reg* types are text. OIDs of
//! relations are made from ids, so they stay what they are: a collection's own, an index's, and those
//! of a primary key's index and constraint lie in ranges of their own.

mod lookup;
mod pg_class;
mod pg_other;
mod schema;

use std::sync::Arc;

use arrow::array::RecordBatch;
use nodedb_types::arrow_map::BatchBuilder;
use nodedb_types::{DataType, Result, Value};

use crate::catalog::{Catalog, CatalogType, ResultColumn, SessionInfo, VirtualTable};

pub(crate) use lookup::{
    bare_name, constraint_definitions, format_type, index_columns, index_definitions,
    namespace_names, namespace_oid, relation_names, type_oid,
};

/// What a table's rows are made from.
struct Snapshot {
    catalog: Arc<dyn Catalog>,
    session: SessionInfo,
}

type Row = Vec<Value>;

/// A table of the catalog.
struct Table {
    schema: &'static str,
    name: &'static str,
    /// Names and types, as in `relname text, relnatts int2`.
    columns: &'static str,
    /// `None`: there is never a row.
    rows: Option<fn(&Snapshot) -> Vec<Row>>,
}

const fn table_of(
    schema: &'static str,
    name: &'static str,
    columns: &'static str,
    rows: fn(&Snapshot) -> Vec<Row>,
) -> Table {
    Table {
        schema,
        name,
        columns,
        rows: Some(rows),
    }
}

const fn empty(schema: &'static str, name: &'static str, columns: &'static str) -> Table {
    Table {
        schema,
        name,
        columns,
        rows: None,
    }
}

static TABLES: &[&[Table]] = &[pg_class::TABLES, pg_other::TABLES, schema::TABLES];

impl Table {
    fn columns(&self) -> Vec<ResultColumn> {
        self.columns
            .split(',')
            .map(|column| {
                let mut words = column.split_whitespace();
                let name = words.next().unwrap_or_default().to_owned();
                let word = words.next();
                let shown_as = match word {
                    Some("oid") => Some(CatalogType::Oid),
                    Some("char") => Some(CatalogType::Char),
                    Some("name") => Some(CatalogType::Name),
                    _ => None,
                };
                let data_type = match word {
                    Some("bool") => DataType::Bool,
                    Some("int2") => DataType::Int2,
                    Some("int4") => DataType::Int4,
                    Some("int8") => DataType::Int8,
                    Some("float4") => DataType::Float4,
                    Some("timestamptz") => DataType::TimestampTz,
                    _ => shown_as.map_or(DataType::Text(None), CatalogType::computed_as),
                };
                ResultColumn {
                    name,
                    data_type,
                    shown_as,
                }
            })
            .collect()
    }
}

/// A table bound to a snapshot.
struct Bound {
    table: &'static Table,
    snapshot: Snapshot,
}

impl VirtualTable for Bound {
    fn columns(&self) -> Vec<ResultColumn> {
        self.table.columns()
    }

    fn rows(&self) -> Result<RecordBatch> {
        let columns = self.columns();
        let fields: Vec<(String, DataType)> = columns
            .iter()
            .map(|c| (c.name.clone(), c.data_type))
            .collect();
        let mut builder = BatchBuilder::new(&fields);
        let rows = self.table.rows.map_or_else(Vec::new, |f| f(&self.snapshot));
        for row in rows {
            debug_assert_eq!(row.len(), columns.len(), "{}", self.table.name);
            for (i, value) in row.into_iter().enumerate() {
                builder.push_value(i, &value.coerce(&columns[i].data_type)?)?;
            }
            builder.end_row();
        }
        builder.finish()
    }

    fn is_always_empty(&self) -> bool {
        self.table.rows.is_none()
    }
}

/// A table of the system catalog, if there is one of that name.
pub(crate) fn table(
    schema: &str,
    name: &str,
    catalog: &Arc<dyn Catalog>,
    session: &SessionInfo,
) -> Option<Arc<dyn VirtualTable>> {
    let table = TABLES
        .iter()
        .flat_map(|t| t.iter())
        .find(|t| t.schema == schema && t.name == name)?;
    Some(Arc::new(Bound {
        table,
        snapshot: Snapshot {
            catalog: catalog.clone(),
            session: session.clone(),
        },
    }))
}

fn text(s: impl Into<String>) -> Value {
    Value::Text(s.into())
}

fn oid(n: i64) -> Value {
    Value::Int8(n)
}

fn int(n: i32) -> Value {
    Value::Int4(n)
}

const NULL: Value = Value::Null;
const YES: Value = Value::Bool(true);
const NO: Value = Value::Bool(false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_names_and_types() {
        for table in TABLES.iter().flat_map(|t| t.iter()) {
            let columns = table.columns();
            assert!(!columns.is_empty());
            for column in &columns {
                assert!(!column.name.is_empty(), "{}", table.name);
            }
        }
    }
}
