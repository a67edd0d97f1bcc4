//! Files: each belongs to a module tree, says what it is for, has a telling name and a size that
//! can be read at one sitting.

use super::Problem;
use super::lexer::find_word;
use super::tree::{File, Tree};
use std::collections::BTreeSet;

/// Above this a file holds more than one concept.
const FILE_LINES_MAX: usize = 900;
/// Names that say nothing about what a file holds.
const DRAWERS: &[&str] = &[
    "utils", "util", "helpers", "helper", "common", "misc", "manager",
];

/// Every Rust file under a `src` folder, and every root of a test or bench, starts with `//!`.
pub(crate) fn headers(tree: &Tree) -> Vec<Problem> {
    let missing = |(_, file): &(&str, &File)| !file.text.starts_with("//!");
    let problem = |(path, _): (&str, &File)| {
        Problem::new(
            path,
            1,
            "no module header",
            "start the file with `//!` lines: what it is for, how it works, which invariants it keeps",
        )
    };
    tree.rust().filter(missing).map(problem).collect()
}

/// Long files and drawers.
pub(crate) fn names_and_sizes(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, file) in tree.rust() {
        let count = file.text.lines().count();
        if count > FILE_LINES_MAX {
            problems.push(Problem::new(
                path,
                FILE_LINES_MAX + 1,
                format!("{count} lines, at most {FILE_LINES_MAX} are allowed"),
                "split the file by concept",
            ));
        }
        let drawer = |part: &str| DRAWERS.contains(&part.trim_end_matches(".rs"));
        if path.split('/').any(drawer) {
            problems.push(Problem::new(
                path,
                0,
                "the name says nothing about what the file holds",
                "name it after its concept",
            ));
        }
    }
    problems
}

/// Rust files that no `mod` line leads to from one of the crate roots: nothing compiles them.
pub(crate) fn orphans(tree: &Tree, roots: &[String]) -> Vec<Problem> {
    let mut seen = BTreeSet::new();
    for root in roots {
        visit(tree, root, &folder_of_root(root), &mut seen);
    }
    let lost = |(path, _): &(&str, &File)| !seen.contains(*path);
    let problem = |(path, _): (&str, &File)| {
        Problem::new(
            path,
            0,
            "the file belongs to no module tree, so nothing compiles or tests it",
            "declare it with `mod`, or delete it",
        )
    };
    tree.rust().filter(lost).map(problem).collect()
}

/// The folder in which a crate root looks for its modules.
fn folder_of_root(path: &str) -> String {
    path.rsplit_once('/').map_or("", |(f, _)| f).to_owned()
}

fn visit(tree: &Tree, path: &str, folder: &str, seen: &mut BTreeSet<String>) {
    let Some(file) = tree.get(path) else { return };
    if !seen.insert(path.to_owned()) {
        return;
    }
    for declared in declarations(file) {
        let own_folder = folder_of_root(path);
        let (candidates, below) = match &declared.path {
            Some(given) => (
                vec![join(&own_folder, given)],
                folder_of_root(&join(&own_folder, given)),
            ),
            None => {
                let inside = declared
                    .inside
                    .iter()
                    .fold(folder.to_owned(), |f, m| join(&f, m));
                let stem = join(&inside, &declared.name);
                (vec![format!("{stem}.rs"), format!("{stem}/mod.rs")], stem)
            }
        };
        for candidate in candidates {
            visit(tree, &candidate, &below, seen);
        }
    }
}

/// The path of `name` seen from `folder`; `..` leads out of it.
fn join(folder: &str, name: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A line `mod name;`.
struct Declaration {
    name: String,
    /// The inline modules around it, outermost first.
    inside: Vec<String>,
    /// The file given by `#[path = "…"]`.
    path: Option<String>,
}

/// The `mod name;` lines of a file, with the inline modules `mod name {` around them.
fn declarations(file: &File) -> Vec<Declaration> {
    let mut found = Vec::new();
    let mut open: Vec<(String, usize)> = Vec::new();
    let mut depth = 0usize;
    let mut given = None;
    for (line, raw) in file.lines.iter().zip(file.text.lines()) {
        if line.code.trim_start().starts_with("#[path") {
            given = raw.split('"').nth(1).map(str::to_owned);
        }
        if let Some(at) = find_word(&line.code, "mod").next() {
            let rest = line.code[at + 3..].trim();
            let name: String = rest
                .chars()
                .take_while(|c| super::lexer::is_word(*c))
                .collect();
            match rest[name.len()..].trim_start().chars().next() {
                Some(';') if !name.is_empty() => found.push(Declaration {
                    name,
                    inside: open.iter().map(|(n, _)| n.clone()).collect(),
                    path: given.take(),
                }),
                Some('{') if !name.is_empty() => open.push((name, depth)),
                _ => {}
            }
        }
        for c in line.code.chars() {
            match c {
                '{' => depth += 1,
                '}' => {
                    depth = depth.saturating_sub(1);
                    if open.last().is_some_and(|(_, at)| *at == depth) {
                        open.pop();
                    }
                }
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|p| p.path.as_str()).collect()
    }

    #[test]
    fn a_file_without_a_header_is_reported() {
        let tree = Tree::of(&[
            ("a/src/lib.rs", "//! fine\n"),
            ("a/src/b.rs", "fn x() {}\n"),
        ]);
        assert_eq!(paths(&headers(&tree)), ["a/src/b.rs"]);
    }

    #[test]
    fn long_files_and_drawers_are_reported() {
        let long = "//! x\n".repeat(FILE_LINES_MAX + 1);
        let tree = Tree::of(&[
            ("a/src/long.rs", &long),
            ("a/src/utils.rs", "//! x"),
            ("a/src/common/x.rs", "//! x"),
            ("a/src/uncommon.rs", "//! x"),
        ]);
        let found = names_and_sizes(&tree);
        assert_eq!(
            paths(&found),
            ["a/src/common/x.rs", "a/src/long.rs", "a/src/utils.rs"]
        );
    }

    #[test]
    fn modules_are_followed_and_the_rest_are_orphans() {
        let tree = Tree::of(&[
            (
                "a/src/lib.rs",
                "mod b;\npub(crate) mod c;\nmod d { mod e; }\nmod f {\n  mod g;\n}\n",
            ),
            ("a/src/b.rs", "mod deep; // mod not;\n"),
            ("a/src/b/deep.rs", ""),
            ("a/src/c/mod.rs", "#[path = \"other.rs\"]\nmod named;\n"),
            ("a/src/c/other.rs", ""),
            ("a/src/d/e.rs", ""),
            ("a/src/f/g.rs", ""),
            ("a/src/not.rs", ""),
            (
                "a/tests/it/main.rs",
                "mod one;\n#[path = \"../shared/mod.rs\"]\nmod shared;",
            ),
            ("a/tests/shared/mod.rs", "mod more;"),
            ("a/tests/shared/more.rs", ""),
            ("a/tests/it/one.rs", ""),
            ("a/tests/it/two.rs", ""),
        ]);
        let roots = ["a/src/lib.rs".to_owned(), "a/tests/it/main.rs".to_owned()];
        let found = orphans(&tree, &roots);
        assert_eq!(
            paths(&found),
            ["a/src/d/e.rs", "a/src/not.rs", "a/tests/it/two.rs"]
        );
    }
}
