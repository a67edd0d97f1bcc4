//! Cores over the simulated disk, driven through their rings.

mod indexes;
mod keys;
mod machine;
mod model;
mod transactions;
