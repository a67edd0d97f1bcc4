//! The load under which servers are killed, in the simulation and with the real binary: what eight
//! writers do, and what may be there afterwards.

pub mod model;
pub mod random;
