//! A whole node in this process, spoken to as clients do.

mod http;
mod key;
mod leaf;
mod node;
mod protocol;
mod stream;
