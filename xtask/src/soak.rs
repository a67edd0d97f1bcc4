//! The long forms of the loops that CI runs short: kills, crash points, crowds.
//!
//! Each is the same test with its number raised through the environment; what is set already is
//! left as it is, so that a single figure can be changed.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// Test, what is raised, and the number that a release is held to.
const LOOPS: &[(&str, &str, &str)] = &[
    ("sim", "NODEDB_TEST_CRASHES", "2000"),
    ("sim", "NODEDB_TEST_ROUNDS", "200"),
    ("blackbox", "NODEDB_TEST_KILLS", "100"),
    ("blackbox", "NODEDB_TEST_EVENTS", "1000000"),
];

/// Runs every loop in its long form; false when one of them fails.
pub fn run(workspace: &Path) -> anyhow::Result<bool> {
    let mut all = true;
    for (test, name, number) in LOOPS {
        let number = std::env::var(name).unwrap_or_else(|_| (*number).to_owned());
        println!("== {test}: {name}={number}");
        let status = Command::new(env!("CARGO"))
            .args(["test", "--workspace", "--test", test, "--", "--nocapture"])
            .env(name, number)
            .current_dir(workspace)
            .status()
            .context("cannot run cargo")?;
        all &= status.success();
    }
    Ok(all)
}
