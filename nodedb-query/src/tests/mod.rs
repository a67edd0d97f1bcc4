//! Statements from text to rows, over a catalog and cores that live in memory.

mod fake;
mod semantics;
mod system;
mod writes;
