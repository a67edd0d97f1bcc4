//! What binding needs to know of the catalog, as a port that control implements.
//!
//! A [`Catalog`] is one immutable snapshot: names bound against it stay bound to the collections
//! it held. The virtual tables of `pg_catalog` and `information_schema` are made from the same
//! snapshot in [`crate::catalog_tables`]; a table of control's own (jobs, sessions) comes in
//! through [`Catalog::virtual_table`].

use std::sync::Arc;

use arrow::array::RecordBatch;
use nodedb_types::schema::Stream;
use nodedb_types::{Collection, CollectionId, DataType, Index, Result};

/// A snapshot of the catalog.
pub trait Catalog: Send + Sync {
    /// A user collection by its name (schema `public`).
    fn collection(&self, name: &str) -> Option<Arc<Collection>>;

    /// The indexes of a collection, in every state.
    fn indexes(&self, collection: CollectionId) -> Vec<Arc<Index>>;

    /// Every user collection, by name.
    fn collections(&self) -> Vec<Arc<Collection>>;

    /// Every change stream, by name.
    fn streams(&self) -> Vec<Arc<Stream>>;

    /// The session's settings, as `SHOW ALL` lists them.
    fn settings(&self) -> Vec<Setting>;

    /// A table that the caller serves itself.
    fn virtual_table(&self, schema: &str, name: &str) -> Option<Arc<dyn VirtualTable>>;
}

/// One line of `SHOW ALL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    pub value: String,
    pub description: String,
}

/// A table whose rows are computed when a statement reads them.
pub trait VirtualTable: Send + Sync {
    fn columns(&self) -> Vec<ResultColumn>;

    /// All rows, typed as `nodedb_types::arrow_map` maps [`VirtualTable::columns`].
    fn rows(&self) -> Result<RecordBatch>;

    /// There is never a row, so that what joins it needs no plan.
    fn is_always_empty(&self) -> bool {
        false
    }
}

/// A named, typed column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultColumn {
    pub name: String,
    pub data_type: DataType,
    /// What a client of PostgreSQL's protocol is told that it is, if not that.
    pub shown_as: Option<CatalogType>,
}

/// A type of PostgreSQL's catalog. It is computed with as another, but drivers that look up types
/// insist on its OID and its binary form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CatalogType {
    /// Four bytes without a sign; computed with as bigint.
    Oid,
    /// `"char"`, one byte; computed with as text.
    Char,
    /// An identifier; computed with as text.
    Name,
}

impl CatalogType {
    pub fn from_oid(oid: u32) -> Option<CatalogType> {
        Some(match oid {
            18 => CatalogType::Char,
            19 => CatalogType::Name,
            26 => CatalogType::Oid,
            _ => return None,
        })
    }

    pub fn oid(self) -> u32 {
        match self {
            CatalogType::Char => 18,
            CatalogType::Name => 19,
            CatalogType::Oid => 26,
        }
    }

    /// Bytes that a value takes, as `pg_type` says.
    pub fn typlen(self) -> i16 {
        match self {
            CatalogType::Char => 1,
            CatalogType::Name => 64,
            CatalogType::Oid => 4,
        }
    }

    pub fn computed_as(self) -> DataType {
        match self {
            CatalogType::Oid => DataType::Int8,
            CatalogType::Char | CatalogType::Name => DataType::Text(None),
        }
    }
}

/// What SQL can ask about the session it runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    pub user: String,
    pub database: String,
    /// As `version()` and `server_version` say it, such as `15.0 (NodeDB 0.1.0)`.
    pub server_version: String,
    /// As the cancel key names the session.
    pub process_id: i32,
}

/// The name most like `wanted` for a hint, if one is close enough to be a slip of the pen.
pub fn similar<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wanted.chars().count() / 3).clamp(1, 3);
    names
        .into_iter()
        .map(|name| (edits(wanted, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Edits of characters between two names, two exchanged neighbours being one (optimal string
/// alignment).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j - 1] + cost)
                .min(rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_offered() {
        let names = ["packages", "package_files", "users"];
        assert_eq!(similar("pakages", names), Some("packages"));
        assert_eq!(similar("user", names), Some("users"));
        assert_eq!(similar("nmae", ["id", "name"]), Some("name"));
        assert_eq!(similar("orders", names), None);
    }
}
