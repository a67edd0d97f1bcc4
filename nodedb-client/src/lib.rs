//! The Rust SDK: SQL and native operations over the native protocol.
