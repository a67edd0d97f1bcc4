//! The data plane: reactor, I/O, WAL, store, engines.

mod chunks;
pub mod core;
pub mod emit;
pub mod engine;
pub mod io;
pub mod pace;
pub mod recover;
pub mod set;
pub mod shard;
pub mod store;
pub mod wal;
