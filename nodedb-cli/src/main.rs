//! `ndb`: the server, the shell and the tools in one binary.

mod demo;
mod load;
mod render;
mod serve;
mod shell;
mod split;

use std::process::ExitCode;

use clap::Command;

fn main() -> ExitCode {
    let mut command = Command::new("ndb")
        .about("NodeDB: one server for documents, vectors, places and text")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand(serve::command());
    let arguments = command.clone().get_matches();
    let done = match arguments.subcommand() {
        Some(("serve", arguments)) => serve::run(arguments),
        _ => command.print_help().map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ndb: {error:#}");
            ExitCode::FAILURE
        }
    }
}
