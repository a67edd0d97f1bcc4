//! `ndb` and `ndb sql` as scripts run them: exit codes, output that is not cut, slips of the pen.

use std::io::Read;
use std::process::{Command, Output, Stdio};

use crate::import::{fed, ndb, text};
use crate::server::{Folder, Server, Start};

fn start(folder: &Folder) -> Server {
    let start = Start {
        cores: 1,
        io: "auto",
    };
    Server::start(&folder.path().join("data"), start)
}

#[test]
fn a_word_that_is_no_command_makes_no_folder() {
    let folder = Folder::new("words");
    let run = |arguments: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ndb"));
        command.args(arguments).current_dir(folder.path());
        command
            .env("HOME", folder.path())
            .output()
            .expect("it runs")
    };
    for (arguments, hint) in [
        (&["selct"][..], "commands are serve, sql, import, demo"),
        (
            &["improt", "f.csv", "--into", "t"],
            "did you mean \"import\"?",
        ),
        (
            &["--format", "csv", "newdata"],
            "a new data directory is written ./newdata",
        ),
        (&["SELECT 1"], "ndb -c"),
    ] {
        let done = run(arguments);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(hint), "{arguments:?}: {said}");
    }
    let left = std::fs::read_dir(folder.path())
        .expect("the folder")
        .count();
    assert_eq!(left, 0, "nothing was made");
    for arguments in [
        &["--help"][..],
        &["sql", "--help"],
        &["help", "import"],
        &["--version"],
    ] {
        let done = run(arguments);
        assert!(
            done.status.success() && !done.stdout.is_empty(),
            "{arguments:?}: {done:?}"
        );
        assert!(done.stderr.is_empty(), "{arguments:?}: {done:?}");
    }
    let done = run(&["sql", "--frmat", "csv"]);
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("--format"), "{done:?}");
    let done = run(&["./new", "-c", "SELECT 1 AS one"]);
    assert!(text(&done.stdout).contains("one"), "{done:?}");
}

#[test]
fn piped_output_is_whole() {
    let folder = Folder::new("piped");
    let server = start(&folder);
    let run = |arguments: &[&str]| {
        ndb(&server, folder.path(), arguments)
            .output()
            .expect("it runs")
    };
    let done = run(&[
        "sql",
        "-c",
        "SELECT repeat('x', 1000) || '!' FROM generate_series(1, 600)",
    ]);
    let out = text(&done.stdout);
    assert_eq!(out.matches(&format!("{}!", "x".repeat(1000))).count(), 600);
    assert!(out.ends_with("(600 rows)\n"));
}

#[test]
fn rows_as_lines_come_as_they_are_made() {
    let folder = Folder::new("lines");
    let server = start(&folder);
    let count = "SELECT n, 'a,b' AS t FROM generate_series(1, 1000000000) AS g (n)";
    for (format, first) in [
        ("csv", "n,t\n1,\"a,b\"\n2,\"a,b\"\n"),
        (
            "ndjson",
            "{\"n\": 1, \"t\": \"a,b\"}\n{\"n\": 2, \"t\": \"a,b\"}\n",
        ),
    ] {
        let mut command = ndb(
            &server,
            folder.path(),
            &["sql", "--format", format, "-c", count],
        );
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
        let mut begin = vec![0; first.len()];
        let mut out = child.stdout.take().expect("its output");
        out.read_exact(&mut begin).expect("rows");
        assert_eq!(text(&begin), first);
        // The reader has seen enough, as `head` has, which ends the statement.
        drop(out);
        let status = child.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }
    // What came before a failure is there.
    let failing = "SELECT 1 / (90000 - n) AS q FROM generate_series(1, 100000) AS g (n)";
    let done = ndb(
        &server,
        folder.path(),
        &["sql", "--format", "csv", "-c", failing],
    )
    .output()
    .expect("it runs");
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    assert!(text(&done.stdout).starts_with("q\n0\n0\n"), "{done:?}");
}

#[test]
fn exit_codes_are_those_of_psql() {
    let folder = Folder::new("codes");
    let server = start(&folder);
    let run = |arguments: &[&str]| {
        ndb(&server, folder.path(), arguments)
            .output()
            .expect("it runs")
    };
    for (sql, code) in [
        ("SELECT 1; SELECT 2", 0),
        ("\\dt", 0),
        ("\\q", 0),
        ("\\foo", 1),
        ("\\d nosuch", 1),
        ("\\timing maybe", 1),
        ("SELECT 1/0", 3),
        ("SELEC 1", 3),
    ] {
        let done = run(&["sql", "-c", sql]);
        assert_eq!(done.status.code(), Some(code), "{sql}: {done:?}");
        assert_eq!(done.stderr.is_empty(), code == 0, "{sql}: {done:?}");
    }
    // Several texts, one after the other, up to the first that fails.
    let several = [
        "sql",
        "--format",
        "csv",
        "-c",
        "SELECT 1 AS a",
        "-c",
        "\\q",
        "-c",
        "SELECT 2 AS b",
    ];
    let done = run(&several);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_eq!(text(&done.stdout), "a\n1\nb\n2\n", "{done:?}");
    for (failing, code) in [("SELECT 1/0", 3), ("\\foo", 1)] {
        let done = run(&[
            "sql",
            "--format",
            "csv",
            "-c",
            failing,
            "-c",
            "SELECT 2 AS b",
        ]);
        assert_eq!(done.status.code(), Some(code), "{done:?}");
        assert_eq!(text(&done.stdout), "", "{done:?}");
    }
    // A script stops where it fails; what was shown before stays.
    let script = b"SELECT 1 AS a;\n\\timing on\n\\nonsense\nSELECT 2 AS b;\n";
    std::fs::write(folder.path().join("f.sql"), script).expect("a file");
    let from_file = run(&["sql", "-f", "f.sql", "--format", "csv"]);
    let from_stdin = fed(
        ndb(&server, folder.path(), &["sql", "--format", "csv"]),
        script,
    );
    for done in [from_file, from_stdin] {
        assert_eq!(done.status.code(), Some(3), "{done:?}");
        assert_eq!(text(&done.stdout), "a\n1\nTiming is on.\n", "{done:?}");
        assert!(text(&done.stderr).contains("\\nonsense"), "{done:?}");
    }
    let done = run(&["sql", "-f", "nosuch.sql"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ndb"));
    let done = command
        .args(["sql", "--url", "ndb://127.0.0.1:1", "-c", "SELECT 1"])
        .output();
    assert_eq!(done.expect("it runs").status.code(), Some(2));
}
