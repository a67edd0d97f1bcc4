//! Explicit vector instructions, the only unsafe code of this crate.
//!
//! Each kernel asks the processor once what it can do and falls back to plain Rust; callers see
//! safe functions only.

pub mod bands;
pub mod code;
pub mod distance;
pub mod words;
