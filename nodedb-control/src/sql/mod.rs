//! From text to statements.
//!
//! [`parse`] cuts and parses a text under the caps of [`limits`], its tokens put into the parser's
//! spelling before; [`ddl`] gives schema changes
//! their meaning, [`stream`] reads change streams. Queries and writes are bound by `nodedb-query`.

pub mod ddl;
pub mod limits;
pub mod parse;
mod spelling;
pub mod stream;
mod tokens;
