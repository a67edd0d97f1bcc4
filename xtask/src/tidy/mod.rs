//! `cargo xtask tidy`: the laws and habits that a compiler does not check, as a test.
//!
//! The workspace is read once into a [`Tree`]; each rule is a function from the tree to the
//! [`Problem`]s it found, so a rule is tested on a tree of a few made-up lines. The crate graph
//! comes from `cargo metadata`, everything else from the text of the files.
//!
//! A line that has to break a rule about calls says why in a comment that starts with `reason:`,
//! on that line or directly above it.

mod calls;
mod docs;
mod graph;
mod lexer;
mod modules;
mod tree;
mod unsafety;
mod words;

use anyhow::Result;
use std::path::Path;
use tree::Tree;

/// One broken rule: where, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// Path from the workspace's folder, with `/`.
    pub(crate) path: String,
    /// 1-based; 0 when the problem belongs to the whole file.
    pub(crate) line: usize,
    pub(crate) what: String,
    pub(crate) fix: String,
}

impl Problem {
    pub(crate) fn new(path: &str, line: usize, what: impl Into<String>, fix: &str) -> Problem {
        Problem {
            path: path.to_owned(),
            line,
            what: what.into(),
            fix: fix.to_owned(),
        }
    }
}

/// A rule that reads nothing but the tree.
type Rule = fn(&Tree) -> Vec<Problem>;

const RULES: &[(&str, Rule)] = &[
    ("headers", modules::headers),
    ("file names and sizes", modules::names_and_sizes),
    ("banned calls", calls::check),
    ("unsafe code", unsafety::check),
    ("words", words::check),
    ("links", docs::check),
];

/// Runs every rule, prints what they found, and says whether the tree is tidy.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let tree = Tree::read(root)?;
    let metadata = graph::metadata(root)?;
    let mut problems = graph::check(&metadata, &tree)?;
    problems.extend(modules::orphans(&tree, &graph::crate_roots(&metadata)?));
    for (_, rule) in RULES {
        problems.extend(rule(&tree));
    }
    problems.sort();
    problems.dedup();
    for p in &problems {
        println!("{}:{}: {}\n    fix: {}", p.path, p.line, p.what, p.fix);
    }
    let rules = RULES.len() + 2;
    println!(
        "tidy: {} files, {rules} rules, {} problems",
        tree.len(),
        problems.len()
    );
    Ok(problems.is_empty())
}
