//! Every code block of the guides and of the README runs, and prints what the page shows.
//!
//! Each page has a fresh node and a folder of its own. Its blocks run in order:
//!
//! * `sql`: through `ndb sql`. A `text` block right after it is the expected output, errors
//!   included; without one the statements must succeed. `$1` is NULL.
//! * `console`: lines that begin with `$ ` are run by a shell; what stands below them, if anything,
//!   is the expected output. `ndb serve …` kills the node (`SIGKILL`) and starts it with these
//!   options. The default ports stand for those that the node really has.
//! * a block with a file's name after its language (`csv people.csv`) writes that file.
//! * `rust` blocks are excerpts of the SDK's example `guide`, which runs here, too.
//! * other languages are not run. `<!-- sql … -->` and `<!-- console … -->` run, but are not shown.
//!
//! `…` in an expected output stands for what varies. `NODEDB_TEST_UPDATE=1` writes the real output
//! into pages where it differs, `NODEDB_TEST_FILE` chooses pages by a part of their name.

mod page;
#[path = "../../../../nodedb-client/examples/guide/steps.rs"]
mod sdk;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nodedb_client::Client;

use crate::server::{Folder, Server};
use page::{Action, Step, matches, steps, trimmed};

/// A command that takes longer is ended.
const COMMAND_SECONDS_MAX: &str = "60";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages() -> Vec<PathBuf> {
    let guides = std::fs::read_dir(project().join("docs/guides")).expect("the guides");
    let mut pages: Vec<PathBuf> = guides
        .map(|entry| entry.expect("an entry").path())
        .collect();
    pages.sort();
    pages.push(project().join("README.md"));
    let only = std::env::var("NODEDB_TEST_FILE").unwrap_or_default();
    pages.retain(|path| path.to_string_lossy().contains(&only));
    pages
}

#[test]
fn every_page_is_true() {
    let problems: Vec<String> = pages().iter().flat_map(|path| run(path)).collect();
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

/// Runs a page; gives what is not as it says.
fn run(path: &Path) -> Vec<String> {
    let name = path.file_name().expect("a file").to_string_lossy();
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let steps = steps(&lines);
    if let Some(missing) = ["psql", "curl"].into_iter().find(|p| lacks(&steps, p)) {
        skip(
            &format!("guides-{missing}"),
            &format!("{name} uses {missing}"),
        );
        return Vec::new();
    }
    let update = std::env::var_os("NODEDB_TEST_UPDATE").is_some();
    let mut place = Place::new();
    let mut problems = Vec::new();
    let mut changes = Vec::new();
    for step in &steps {
        let expected = step.output.clone().map(|range| lines[range].join("\n"));
        let (output, succeeded) = place.perform(&step.action, expected.as_deref());
        let output = trimmed(&output);
        let good = match &expected {
            Some(shown) => matches(&trimmed(shown), &output),
            None => succeeded,
        };
        if good {
            continue;
        }
        match (&step.output, update) {
            (Some(range), true) => changes.push((range.clone(), output)),
            _ => problems.push(format!(
                "{name}:{}: the output is\n{}",
                step.line,
                output.join("\n")
            )),
        }
    }
    if !changes.is_empty() {
        for (range, output) in changes.into_iter().rev() {
            lines.splice(range, output);
        }
        std::fs::write(path, lines.join("\n") + "\n").expect("the page can be written");
    }
    problems
}

/// True when a step needs a program that is not there.
fn lacks(steps: &[Step], program: &str) -> bool {
    let used = steps.iter().any(|step| {
        matches!(&step.action, Action::Command(c) if c.split_whitespace().any(|w| w == program))
    });
    used && Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
}

/// Notes that a page did not run, where the caller wants to know.
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

/// Where a page runs: a folder, and a node from the first step that needs one.
struct Place {
    folder: Folder,
    server: Option<Server>,
}

impl Place {
    fn new() -> Place {
        Place {
            folder: Folder::new("guide"),
            server: None,
        }
    }

    /// What the step prints, and whether it succeeded.
    fn perform(&mut self, action: &Action, expected: Option<&str>) -> (String, bool) {
        match action {
            Action::File { name, text } => {
                let written = std::fs::write(self.folder.path().join(name), text);
                (String::new(), written.is_ok())
            }
            Action::Sql(sql) => {
                let sql = sql.replace("$1", "NULL");
                let native = self.server().native;
                self.shell(&format!("ndb sql --url ndb://{native} <<'#'\n{sql}\n#"))
            }
            // A server that is not expected to say that it is ready is a command as any other.
            Action::Command(command)
                if command.contains("ndb serve")
                    && expected.is_none_or(|text| text.starts_with("ready")) =>
            {
                self.serve(command)
            }
            Action::Command(command) => {
                let command = self.addressed(command);
                let (output, good) = self.shell(&command);
                (self.known(output), good)
            }
        }
    }

    /// The command with the node's own ports in place of the default ones.
    fn addressed(&mut self, command: &str) -> String {
        let shell = command.contains("ndb sql") && !command.contains("--url");
        if !shell && !["6432", "6433", "6480"].iter().any(|p| command.contains(p)) {
            return command.to_owned();
        }
        self.server();
        let own = self.ports();
        let text = own.iter().fold(command.to_owned(), |text, (known, real)| {
            text.replace(known, real)
        });
        match shell {
            true => text.replace(
                "ndb sql",
                &format!("ndb sql --url ndb://127.0.0.1:{}", own[1].1),
            ),
            false => text,
        }
    }

    fn server(&mut self) -> &Server {
        if self.server.is_none() {
            let (output, good) = self.serve("ndb serve");
            assert!(good, "no server: {output}");
        }
        self.server.as_ref().expect("it was started")
    }

    /// The ports that pages name, and those of the node, once it runs.
    fn ports(&self) -> Vec<(&'static str, String)> {
        let Some(server) = &self.server else {
            return Vec::new();
        };
        vec![
            ("6432", server.pg.port().to_string()),
            ("6433", server.native.port().to_string()),
            ("6480", server.http.port().to_string()),
        ]
    }

    fn known(&self, output: String) -> String {
        self.ports()
            .iter()
            .fold(output, |text, (known, real)| text.replace(real, known))
    }

    fn serve(&mut self, command: &str) -> (String, bool) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
        let ports = "--pg-port 0 --http-port 0 --native-port 0";
        let mut shell = self.command("exec env ", &format!("{command} {ports}"));
        shell.stderr(Stdio::null());
        match Server::launch(&mut shell) {
            Ok(server) => {
                let ready = server.ready.clone();
                self.server = Some(server);
                (self.known(ready), true)
            }
            Err(problem) => (problem, false),
        }
    }

    fn shell(&self, text: &str) -> (String, bool) {
        let output = self.command("exec 2>&1\n", text).output().expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text, output.status.success())
    }

    /// A shell in the folder that finds `ndb`.
    fn command(&self, prefix: &str, text: &str) -> Command {
        let ndb = Path::new(env!("CARGO_BIN_EXE_ndb"));
        let mut path = ndb.parent().expect("a folder").as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = match prefix.starts_with("exec env") {
            // The server ends with the test, not by the clock.
            true => Command::new("sh"),
            false => {
                let mut command = Command::new("timeout");
                command.args([COMMAND_SECONDS_MAX, "sh"]);
                command
            }
        };
        command
            .arg("-c")
            .arg(format!("{prefix}{text}"))
            .current_dir(self.folder.path())
            .env("PATH", path)
            .env("HOME", self.folder.path())
            .env("PAGER", "cat")
            .stdin(Stdio::null());
        command
    }
}

/// The blocks of the SDK's guide stand in the example as they are, in this order, and the example
/// runs to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_sdk_example_is_the_guide() {
    let flat = |text: &str| {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.join("\n")
    };
    let page = std::fs::read_to_string(project().join("docs/guides/sdk.md")).expect("the guide");
    let example = flat(concat!(
        include_str!("../../../../nodedb-client/examples/guide/main.rs"),
        include_str!("../../../../nodedb-client/examples/guide/steps.rs"),
    ));
    let mut at = 0;
    for block in page.split("```rust\n").skip(1) {
        let block = flat(block.split("```").next().unwrap_or_default());
        let found = example[at..].find(block.trim());
        at += found.unwrap_or_else(|| panic!("the example lacks, or has elsewhere:\n{block}"));
    }
    assert!(at > 0, "the guide shows code");
    let mut place = Place::new();
    let url = format!("ndb://{}", place.server().native);
    let client = Client::connect(&url).await.expect("a connection");
    sdk::run(&client).await.expect("the example runs");
}
