//! The event plane: change streams over committed writes.
//!
//! Cores emit every durable commit of a collection that has a stream (E1). This plane, one thread
//! with a current-thread Tokio runtime ([`plane`]), puts them into one order and serves readers:
//!
//! * [`bus`] drains the cores' rings, merges by (commit timestamp, shard, LSN) what is below the
//!   low marks of all cores, and keeps the newest of it in a small window.
//! * The logs of the data plane are the store of everything older; [`log`] reads them back on a
//!   thread of its own, at a limited rate, one page at a time for all readers.
//! * [`stream`] is one reader: from the log until it reaches the window, then from the window.
//!
//! Memory is bounded whatever readers do: a ring that is full, a window that has moved on and
//! events that wait too long are left to the log. A stalled reader parks its own task.

pub mod bus;
pub mod log;
pub mod plane;
pub mod stream;
mod watch;

pub use log::LogClient;
pub use plane::{EventPlane, Plane, Streams};

#[cfg(test)]
mod tests;
