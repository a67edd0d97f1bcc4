//! The relational executor and the one expression engine; the only crate that knows DataFusion.
//!
//! A parsed statement is [`bind`]-ed against a [`catalog::Catalog`] snapshot into a [`Bound`]
//! statement with typed parameters and result columns. [`Bound::instantiate`] fills in parameters and
//! gives a [`plan::Plan`]: rows by key, a set query, a write, or a relational plan that
//! [`Executor`] runs over [`Leaves`]. Control parses, dispatches and merges; cores evaluate the
//! expressions that they are handed through the traits of the bridge.
//!
//! Deliberately absent: sessions, the wire, DDL and transactions (control), storage and indexes
//! (data). Engines are known through their contracts only.

pub mod catalog;
pub mod plan;

mod bind;
mod catalog_tables;
mod executor;
mod explain;
mod expr;
mod function;
mod rel;
mod rules;

#[cfg(test)]
mod tests;

pub use bind::{BindContext, Bound, SYMMETRIC, USING_ALIAS, bind, data_type, numeric_digits};
pub use executor::{
    Executor, ExecutorConfig, LeafItem, LeafRun, LeafStream, Leaves, RelationalPlan, Reports,
    RowStream, RunContext, run_inline,
};
pub use explain::{Analyzed, explain};
pub use function::{Argument, Function, Returns, Volatility, reference};
