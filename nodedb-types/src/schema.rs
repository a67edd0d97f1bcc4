//! Schema objects as the catalog keeps them and cores receive them.

use crate::id::{CollectionId, IndexId, SchemaVersion, StreamId};
use crate::value::DataType;

/// What stores a collection's rows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Engine {
    /// Typed rows; `CREATE TABLE` is a collection with this engine.
    DocumentStrict,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Engine::DocumentStrict => "document_strict",
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
    pub not_null: bool,
}

/// A collection. Column positions are what plans and rows refer to.
#[derive(Clone, PartialEq, Debug)]
pub struct Collection {
    pub id: CollectionId,
    pub name: String,
    pub engine: Engine,
    pub version: SchemaVersion,
    pub columns: Vec<Column>,
    /// Position of the one-column primary key; `None` gives each row a hidden id.
    pub key: Option<usize>,
}

impl Collection {
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }
}

/// How far the building of an index has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IndexState {
    /// Writes maintain it, readers do not use it; rows from before are being added.
    WriteOnly,
    /// Complete; plans may use it.
    Public,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Index {
    pub id: IndexId,
    pub name: String,
    pub collection: CollectionId,
    /// Name of the engine's method, such as `btree` or `fulltext`.
    pub method: String,
    /// Positions of the indexed columns.
    pub columns: Vec<usize>,
    /// The operator class given, such as `vector_cosine_ops`.
    pub operator_class: Option<String>,
    /// `WITH (name = value)`, in the order given.
    pub options: Vec<(String, String)>,
    pub state: IndexState,
}

/// A change stream over one collection.
#[derive(Clone, PartialEq, Debug)]
pub struct Stream {
    pub id: StreamId,
    pub name: String,
    pub collection: CollectionId,
    /// Commits at or before this are not part of the stream.
    pub created: crate::id::CommitTs,
    pub retention_bytes: u64,
}
