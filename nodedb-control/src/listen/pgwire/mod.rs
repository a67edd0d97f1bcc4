//! PostgreSQL's protocol, versions 3.0 and 3.2.
//!
//! [`connection`] is the loop over one socket: the start-up, then messages until the client goes.
//! The codec is our own ([`frame`], [`reply`], [`value`]): every byte of a client is checked
//! before it is used, and rows go from Arrow straight into the output buffer. [`extended`] holds
//! the state of the extended protocol between Syncs.

pub mod connection;
pub mod extended;
pub mod frame;
pub mod reply;
mod socket;
pub mod value;
