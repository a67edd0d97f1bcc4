//! SQL tests as text: statements and the rows or errors that they must give.
//!
//! Every file of `sql/` runs through pgwire and through HTTP, each at 1, 2 and 4 cores, and must
//! give the same answers on all of these roads. The public suite of risinglight, where it is at
//! hand, runs too, with a list of the statements that are known to be refused or to be answered as
//! PostgreSQL does and risinglight does not (`risinglight.known`); a listed statement that gives
//! the expected answer fails the test, so that the list can only shrink.
//!
//! `script` reads the files, `channel` runs one statement, `run` compares, `node` starts a node.

mod channel;
mod node;
mod run;
mod script;

use std::path::{Path, PathBuf};

use channel::Road;
use run::{Known, Report};

/// All `.slt` files right below a folder, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "slt"))
        .collect();
    files.sort();
    let only = std::env::var("NODEDB_TEST_FILE").unwrap_or_default();
    files.retain(|path| path.to_string_lossy().contains(&only));
    files
}

/// Runs files on one node by the given roads, each file from an empty database.
fn run_files(files: &[PathBuf], cores: u16, roads: &[Road], known: &Known) -> Report {
    let node = node::Served::start(cores);
    let mut report = Report::default();
    for road in roads {
        for file in files {
            let mut channel = channel::open(*road, node.pg, node.http);
            channel.drop_all();
            run::file(file, &mut channel, cores, known, &mut report);
        }
    }
    report
}

#[test]
fn own_files_at_one_core() {
    own_files(1);
}

#[test]
fn own_files_at_two_cores() {
    own_files(2);
}

#[test]
fn own_files_at_four_cores() {
    own_files(4);
}

fn own_files(cores: u16) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt/sql");
    let files = files(&folder);
    run_files(&files, cores, &[Road::Pgwire, Road::Http], &Known::none()).assert_clean();
}

#[test]
fn risinglight_files() {
    let Some(folder) = suite("risinglight/sql") else {
        return;
    };
    let known =
        Known::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt/risinglight.known"));
    let files = files(&folder);
    let mut report = run_files(&files, 2, &[Road::Pgwire], &known);
    report.unused(&known, &files);
    report.assert_clean();
    run_files(&files, 4, &[Road::Http], &known).assert_clean();
}

/// The folder of a public suite, or a noted skip where it is not at hand.
fn suite(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("NODEDB_TEST_DATA")
        .map(|data| PathBuf::from(data).join("suites").join(name))
        .filter(|folder| folder.is_dir());
    if folder.is_none() {
        skip("slt-risinglight", "the public suites are not at hand");
    }
    folder
}

/// Notes that a test did not run, where the caller wants to know.
fn skip(name: &str, reason: &str) {
    use std::io::Write;
    eprintln!("skipped: {name}: {reason}");
    if let Some(path) = std::env::var_os("NODEDB_TEST_SKIPS") {
        let mut file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .expect("the list of skips");
        writeln!(file, "{name}\t{reason}").expect("the list of skips");
    }
}
