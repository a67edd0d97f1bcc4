//! `ndb`: the server, the shell and the tools in one binary.

mod demo;
mod load;
mod render;
mod shell;
mod split;

fn main() {}
