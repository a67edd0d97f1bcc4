//! Cores over the simulated disk, driven through their rings.

mod checkpoints;
mod concurrent;
mod faults;
mod images;
mod indexes;
mod keys;
mod machine;
mod memory;
mod model;
mod replay;
mod streams;
mod threads;
mod transactions;
