//! The data plane: reactor, I/O, WAL, store, engines.

pub mod engine;
pub mod io;
pub mod pace;
pub mod set;
pub mod wal;
