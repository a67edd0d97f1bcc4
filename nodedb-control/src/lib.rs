//! The control plane.
//!
//! It accepts connections ([`listen`]), keeps sessions ([`session`]), tells statements apart
//! ([`sql`]), owns the catalog ([`catalog`]), and asks the cores ([`dispatch`], [`coordinate`]).
//! Planning and relational execution are `nodedb-query`'s. Each worker ([`worker`]) is one thread
//! with its own rings; session logic itself runs on anything that implements [`runtime::Runtime`],
//! so the simulation steps it on a plain thread.

pub mod catalog;
pub mod coordinate;
pub mod dispatch;
pub mod listen;
pub mod node;
pub mod runtime;
pub mod session;
pub mod shutdown;
pub mod sql;
pub mod worker;
