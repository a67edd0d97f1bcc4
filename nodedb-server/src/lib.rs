//! The composition root: configuration, start and stop, the embedded node.

pub mod config;
pub mod data_dir;
pub mod memory;
pub mod node;
pub mod time;

pub use config::Config;
pub use node::{Addresses, Node};
pub use nodedb_bridge::schedule;
