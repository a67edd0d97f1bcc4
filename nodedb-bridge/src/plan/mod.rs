//! Plans as cores receive them: set queries, writes, schema steps.

mod schema_step;
mod set_query;
mod write;

pub use schema_step::{Extent, SchemaStep};
pub use set_query::{
    Direction, KeyList, LeafReport, Order, Output, OutputColumn, RankSpec, SetExpr, SetQuery,
    Source, SourceReport, TextStatistics,
};
pub use write::{
    Conclude, Decide, Expected, Get, GetRow, OnConflict, Outcome, Prepare, RowAction, RowWrite,
    StageRows, StagedRow, WriteBatch,
};
