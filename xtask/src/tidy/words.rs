//! Words that must not stand in the project: paths of somebody's machine, private hosts, and
//! promises of work to be done some other day.
//!
//! The words are put together from parts here, so that this file does not contain them.

use super::Problem;
use super::lexer::{find_word, is_word};
use super::tree::Tree;

/// Absolute paths that exist on one machine only.
const PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/tmp", "/t/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
];
/// Endings and parts of hosts that the public cannot reach.
const PRIVATE_HOST_ENDINGS: &[&str] = &[".internal", ".local", ".lan", ".corp", ".intra"];
const PRIVATE_HOST_PARTS: &[&str] = &["artifactory", "nexus", "mirror"];
/// What a comment says where work is missing.
const PROMISES: &[&str] = &[
    concat!("for", " now"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
];

/// Looks at every line of every text file; promises are looked for in code files only.
pub(crate) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, file) in tree.files() {
        let is_code = [".rs", ".py", ".sh"].iter().any(|e| path.ends_with(e)) || path == ".ci/run";
        for (at, line) in file.text.lines().enumerate() {
            for bad in PATHS.iter().filter(|p| has_path(line, p)) {
                problems.push(Problem::new(
                    path,
                    at + 1,
                    format!("`{bad}` is a path of one machine"),
                    "use a relative path or a variable such as NODEDB_TEST_DATA",
                ));
            }
            if let Some(host) = private_host(line) {
                problems.push(Problem::new(
                    path,
                    at + 1,
                    format!("`{host}` is a host that the public cannot reach"),
                    "use the public registry or example.org",
                ));
            }
            for bad in PROMISES.iter().filter(|p| is_code && has_promise(line, p)) {
                problems.push(Problem::new(
                    path,
                    at + 1,
                    format!("`{bad}` promises work to be done later"),
                    "do it, or refuse it with its SQLSTATE and say so plainly",
                ));
            }
        }
    }
    problems
}

/// The path stands at the start of an absolute path, not inside a longer one or a URL.
fn has_path(line: &str, path: &str) -> bool {
    let starts = |at: usize| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| is_word(c) || matches!(c, '.' | '-' | '/' | '}' | '~' | '*'))
    };
    line.match_indices(path).any(|(at, _)| starts(at)) || line.contains(&format!("file://{path}"))
}

fn has_promise(line: &str, promise: &str) -> bool {
    // A task marker is written in capitals; the phrase counts in any case.
    match promise.chars().any(char::is_uppercase) {
        true => find_word(line, promise).next().is_some(),
        false => find_word(&line.to_lowercase(), promise).next().is_some(),
    }
}

/// The first URL host on the line that is private.
fn private_host(line: &str) -> Option<String> {
    for (at, _) in line.match_indices("://") {
        let rest = &line[at + 3..];
        let end = rest.find(|c: char| !(is_word(c) || matches!(c, '.' | '-' | '@')));
        let host = rest[..end.unwrap_or(rest.len())].to_lowercase();
        let host = host.rsplit('@').next().unwrap_or_default();
        let ends = PRIVATE_HOST_ENDINGS.iter().any(|e| host.ends_with(e));
        let contains = PRIVATE_HOST_PARTS.iter().any(|p| host.contains(p));
        let address = host.starts_with("10.") || host.starts_with("192.168.");
        if ends || contains || address {
            return Some(host.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn found(path: &str, text: &str) -> Vec<usize> {
        check(&Tree::of(&[(path, text)]))
            .into_iter()
            .map(|p| p.line)
            .collect()
    }

    #[test]
    fn paths_of_a_machine_are_refused_in_every_file() {
        let bad = concat!("see /wo", "rk/shared");
        assert_eq!(found("docs/a.md", bad), [1]);
        assert_eq!(found("x.toml", concat!("a\ndir = \"/tmp", "/t/x\"")), [2]);
        assert_eq!(found("a.rs", concat!("\"file:///ho", "me/me\"")), [1]);
        assert_eq!(
            found("docs/a.md", concat!("docs/wo", "rk/x and ../wo", "rk/y")),
            NONE
        );
    }

    #[test]
    fn private_hosts_are_refused() {
        assert_eq!(
            found("a.toml", concat!("https://pypi.build", ".internal/simple")),
            [1]
        );
        assert_eq!(found("a.py", concat!("http://10", ".0.0.1/x")), [1]);
        assert_eq!(
            found("a.md", "https://crates.io and http://127.0.0.1:8080/v1"),
            NONE
        );
    }

    #[test]
    fn promises_are_refused_in_code_only() {
        let bad = concat!("// good enough for", " now");
        assert_eq!(found("a.rs", bad), [1]);
        assert_eq!(found("a.md", bad), NONE);
        assert_eq!(found("a.py", concat!("# TO", "DO: more")), [1]);
        assert_eq!(found("a.rs", "// before nowhere, for nowt"), NONE);
    }
}
