//! Developer commands that never ship: `cargo xtask tidy` proves the rules of the house,
//! `cargo xtask soak` runs the loops in their long form.
//!
//! A command is one module and one line in [`COMMANDS`]. Nothing here is linked into `ndb`, so
//! this crate may use `anyhow` and print to standard output.

#![allow(clippy::print_stdout)]

mod soak;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A developer command: its name, one line of help, and what it runs on the workspace's folder.
type Command = (
    &'static str,
    &'static str,
    fn(&Path) -> anyhow::Result<bool>,
);

const COMMANDS: &[Command] = &[
    (
        "tidy",
        "check the crate graph, banned calls, headers, links and words",
        tidy::run,
    ),
    (
        "soak",
        "run the kill and crash loops in their long form",
        soak::run,
    ),
];

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some((_, _, run)) = COMMANDS.iter().find(|(n, _, _)| *n == name) else {
        eprintln!("usage: cargo xtask <command>\n");
        for (name, help, _) in COMMANDS {
            eprintln!("  {name:<8} {help}");
        }
        return ExitCode::from(2);
    };
    match run(&workspace_dir()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask {name}: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The folder of the workspace: the parent of this crate's.
fn workspace_dir() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}
