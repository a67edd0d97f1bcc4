//! The data plane: reactor, I/O, WAL, store, engines.

pub mod io;
