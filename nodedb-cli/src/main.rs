//! The `ndb` binary.
fn main() {}
