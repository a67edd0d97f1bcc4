//! The catalog: what exists, durable as rows of system collections, published as snapshots.
//!
//! Its rows live whole on shard 0 and are written by the ordinary path ([`store`]). Schema changes
//! run one at a time ([`change`]); each has one row as its commit point, and what a crash leaves
//! on the cores without that row is dropped at the next start ([`boot`]).

pub mod boot;
pub mod change;
pub mod job;
pub mod snapshot;
pub mod stop;
pub mod store;
pub mod system;

pub use snapshot::{Published, Snapshot};
