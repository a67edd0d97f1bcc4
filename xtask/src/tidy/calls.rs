//! Calls that a law forbids in a place (P2: a core never blocks, takes no lock, starts no thread;
//! clock and files come in through traits), and macros that stand for missing work.
//!
//! `clippy.toml` bans some of the same calls by type; this rule also sees what clippy is not run
//! on and asks for a written reason where one is allowed.

use super::Problem;
use super::lexer::find_word;
use super::tree::{File, Tree};

/// Words banned from the code of some files.
struct Ban {
    words: &'static [&'static str],
    /// Which files, by path.
    applies: fn(&str) -> bool,
    /// Whether test code is held to it too.
    in_tests: bool,
    /// Whether a comment `reason: …` allows it.
    may_be_justified: bool,
    fix: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        words: &["std::fs", "File::open", "File::create", "OpenOptions"],
        applies: on_a_core,
        in_tests: false,
        may_be_justified: true,
        fix: "go through the I/O trait in nodedb-data/src/io (P2)",
    },
    Ban {
        words: &[
            "thread::spawn",
            "thread::sleep",
            "thread::Builder",
            "thread::park",
        ],
        applies: on_a_core,
        in_tests: false,
        may_be_justified: true,
        fix: "a core starts no thread and never blocks: cut the work into budgeted pieces (P2)",
    },
    Ban {
        words: &["Mutex", "RwLock", "Condvar", "Barrier"],
        applies: on_a_core,
        in_tests: false,
        may_be_justified: true,
        fix: "a core takes no lock: keep the state on its core or send it over a ring (P2)",
    },
    Ban {
        words: &["Instant::now", "SystemTime::now"],
        applies: on_a_core,
        in_tests: false,
        may_be_justified: true,
        fix: "take the time from the clock that is handed in, or simulation cannot replay it",
    },
    Ban {
        words: &["tokio", "futures"],
        applies: |path| path.starts_with("nodedb-data/src/"),
        in_tests: true,
        may_be_justified: false,
        fix: "cores have their own executor",
    },
    Ban {
        words: &["anyhow"],
        applies: |path| !path.starts_with("nodedb-cli/") && !path.starts_with("xtask/"),
        in_tests: true,
        may_be_justified: false,
        fix: "return an error type with fields (thiserror), or a Failure",
    },
    Ban {
        words: &["datafusion"],
        applies: |path| !path.starts_with("nodedb-query/"),
        in_tests: true,
        may_be_justified: false,
        fix: "only nodedb-query knows DataFusion: use its own types",
    },
    Ban {
        words: &["todo!", "unimplemented!"],
        applies: |_| true,
        in_tests: true,
        may_be_justified: false,
        fix: "write it, or refuse it with its SQLSTATE",
    },
    Ban {
        words: &["#[ignore", "allow(dead_code)"],
        applies: |_| true,
        in_tests: true,
        may_be_justified: false,
        fix: "run it or delete it",
    },
    Ban {
        words: &["thread::sleep", "time::sleep"],
        applies: |_| true,
        in_tests: true,
        may_be_justified: true,
        fix: "wait for what should happen, not for time to pass; a real wait says why in `reason:`",
    },
];

fn on_a_core(path: &str) -> bool {
    path.starts_with("nodedb-data/src/") && !path.starts_with("nodedb-data/src/io/")
}

/// Looks for banned words in the code of every Rust file.
pub(crate) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, file) in tree.rust() {
        for ban in BANS.iter().filter(|b| (b.applies)(path)) {
            problems.extend(check_file(path, file, ban));
        }
    }
    problems
}

fn check_file(path: &str, file: &File, ban: &Ban) -> Vec<Problem> {
    let whole_is_test = path.contains("/tests/") || path.contains("/benches/");
    let mut problems = Vec::new();
    for (at, line) in file.lines.iter().enumerate() {
        if !ban.in_tests && (line.test || whole_is_test) {
            continue;
        }
        for word in ban.words {
            if find_word(&line.code, word).next().is_none() {
                continue;
            }
            if ban.may_be_justified && has_reason(file, at) {
                continue;
            }
            let what = format!("`{word}` must not be used here");
            problems.push(Problem::new(path, at + 1, what, ban.fix));
        }
    }
    problems
}

/// A comment that starts with `reason:` on the line, or in the comment lines directly above it.
fn has_reason(file: &File, at: usize) -> bool {
    let says = |i: usize| {
        let comment = file.lines[i].comment.trim_start_matches(['/', '!', ' ']);
        comment.starts_with("reason: ") && comment.len() > "reason: ".len() + 8
    };
    let above = (0..at).rev().take_while(|i| {
        file.lines[*i].code.trim().is_empty() && !file.lines[*i].comment.is_empty()
    });
    says(at) || above.into_iter().any(says)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn found(path: &str, text: &str) -> Vec<usize> {
        let tree = Tree::of(&[(path, text)]);
        check(&tree).into_iter().map(|p| p.line).collect()
    }

    #[test]
    fn a_core_does_not_block_lock_or_read_the_clock() {
        for bad in [
            "use std::fs;",
            "let f = File::open(p);",
            "std::thread::spawn(f);",
            "x: Mutex<u8>,",
            "let t = Instant::now();",
            "use std::sync::{Arc, RwLock};",
        ] {
            assert_eq!(found("nodedb-data/src/wal/x.rs", bad), [1], "{bad}");
            assert_eq!(found("nodedb-data/src/io/x.rs", bad), NONE, "{bad}");
            assert_eq!(found("nodedb-event/src/x.rs", bad), NONE, "{bad}");
        }
        assert_eq!(found("nodedb-data/src/io/x.rs", "use tokio::task;"), [1]);
    }

    #[test]
    fn comments_strings_and_tests_do_not_count() {
        let fine = "// a Mutex\nlet s = \"Mutex\";\n#[cfg(test)]\nmod tests {\n use std::fs;\n}\n";
        assert_eq!(found("nodedb-data/src/x.rs", fine), NONE);
    }

    #[test]
    fn a_reason_allows_what_may_be_justified() {
        let path = "nodedb-data/src/x.rs";
        assert_eq!(
            found(
                path,
                "// reason: runs before the core starts\nstd::fs::read(p);"
            ),
            NONE
        );
        assert_eq!(
            found(
                path,
                "std::fs::read(p); // reason: runs before the core starts"
            ),
            NONE
        );
        assert_eq!(found(path, "std::fs::read(p); // reason:"), [1]);
        assert_eq!(
            found(path, "use tokio::x; // reason: it is very handy"),
            [1]
        );
    }

    #[test]
    fn missing_work_and_foreign_words_are_refused_everywhere() {
        let todo = concat!("to", "do!();");
        assert_eq!(found("nodedb-cli/src/x.rs", todo), [1]);
        assert_eq!(found("nodedb-cli/src/x.rs", "#[ignore]\nfn t() {}"), [1]);
        assert_eq!(found("nodedb-cli/src/x.rs", "use anyhow::Result;"), NONE);
        assert_eq!(found("nodedb-types/src/x.rs", "use anyhow::Result;"), [1]);
        assert_eq!(found("nodedb-control/src/x.rs", "use datafusion::x;"), [1]);
        assert_eq!(found("nodedb-query/src/x.rs", "use datafusion::x;"), NONE);
        assert_eq!(
            found("nodedb-server/tests/it/x.rs", "std::thread::sleep(d);"),
            [1]
        );
    }
}
