//! The server from outside: the real binary, real sockets, real kills.
//!
//! What only a process of its own can show is shown here: that `kill -9` loses nothing that was
//! acknowledged and leaves no half statement, that readers never see half of another statement
//! while cores really run at once, that a data directory opens with any number of cores, and that rows
//! may outgrow memory, that index builds can be stopped over every protocol.
//! The guides run here too, as a reader would type them.
//! What can be shown inside one process is in the server's own tests.
//!
//! `NODEDB_TEST_KILLS` sets the number of kills (10 unless told otherwise), `NODEDB_TEST_EVENTS`
//! that of events at a reader that stalls (20,000), `NODEDB_TEST_SEED` the seed of what the writers
//! do.

mod builds;
mod guides;
mod http;
mod import;
mod kill;
mod load;
mod memory;
mod server;
mod shell;
mod stop;
mod streams;
mod sums;
#[path = "../../../nodedb-server/tests/workload/mod.rs"]
mod workload;
