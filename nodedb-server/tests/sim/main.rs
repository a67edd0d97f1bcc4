//! The simulation: sessions, catalog, coordinator, rings, cores and a simulated disk, stepped on
//! one thread in an order drawn from a seed.
//!
//! | file | holds |
//! |---|---|
//! | `machine` | the machine and the server on it |
//! | `tasks` | tasks and virtual time |
//! | `script` | every kind of statement, cut at every operation of the disk |
//! | `crowd` | eight sessions at once, cut at random |
//! | `streams` | change streams made and dropped, cut at every operation of the disk |
//! | `disk` | the same script on a disk that fails or is full |
//! | `faults` | faults that are built in and must be noticed |
//!
//! `NODEDB_TEST_SEED` takes another seed, `NODEDB_TEST_CRASHES` and `NODEDB_TEST_ROUNDS` lengthen
//! the runs. A failure prints the command that replays it.

mod crowd;
mod disk;
mod faults;
mod machine;
mod script;
mod streams;
mod tasks;
#[path = "../workload/mod.rs"]
mod workload;
