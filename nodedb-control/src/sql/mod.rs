//! From text to statements.
//!
//! [`parse`] cuts and parses a text under the caps of [`limits`]; [`ddl`] gives schema changes
//! their meaning. Queries and writes are bound by `nodedb-query`.

pub mod ddl;
pub mod limits;
pub mod parse;
