//! The expression engine as a core sees it: two small traits that `nodedb-query` implements.
//!
//! Expressions are evaluated by the same code everywhere, so a core that needs one (a pushed
//! filter, `SET n = n + 1`) calls it through its plan. Only cheap expressions reach a core;
//! `now()`, random and the like were folded before dispatch.

use std::fmt::Debug;

use arrow::array::{ArrayRef, RecordBatch};
use nodedb_types::{DataType, Result};

/// An expression over columns of one collection.
pub trait BatchExpression: Send + Sync + Debug {
    /// Positions of the collection's columns it reads; the batch holds these in this order.
    fn columns(&self) -> &[usize];

    fn output(&self) -> DataType;

    /// One value per row. Fails with the SQLSTATE of the first row that cannot be evaluated.
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef>;
}

/// What a write by key does with the row it finds, under that key's lock.
pub trait RowRewrite: Send + Sync + Debug {
    /// `current`: the stored row. `proposed`: the row that an `INSERT … ON CONFLICT` brought
    /// (`excluded`). Both are encoded by `nodedb_types::row`.
    fn rewrite(&self, current: &[u8], proposed: Option<&[u8]>) -> Result<Rewrite>;
}

/// The outcome of a [`RowRewrite`].
#[derive(Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// The condition does not hold; nothing changes and no row counts.
    Keep,
    /// The new encoded row. Its key is that of the current row.
    Replace(Vec<u8>),
    Delete,
}
