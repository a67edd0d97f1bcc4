//! The workspace's text files in memory, with the Rust ones split into code and comments.
//!
//! Reading skips build output, version control and data folders; of the rest it keeps files whose
//! kind is known to be text. Rules never touch the disk, so tests build a tree from literals.

use super::lexer::{self, Line};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Folders that hold nothing written by hand.
const SKIPPED_FOLDERS: &[&str] = &[".git", "target", "ndb-data", "__pycache__", ".venv"];
/// Endings of text files; a file without an ending under `.ci` counts as a shell script.
const TEXT: &[&str] = &[
    "rs", "toml", "md", "py", "sh", "sql", "slt", "txt", "json", "yml", "yaml", "lock", "html",
];

/// One text file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) text: String,
    /// Filled for Rust files only.
    pub(crate) lines: Vec<Line>,
}

/// All text files by path from the workspace's folder (with `/`), and every path that exists.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, File>,
    paths: BTreeSet<String>,
}

impl Tree {
    /// Reads the workspace at `root`.
    pub(crate) fn read(root: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        tree.read_folder(root, "")?;
        Ok(tree)
    }

    fn read_folder(&mut self, root: &Path, folder: &str) -> Result<()> {
        let full = root.join(folder);
        for entry in std::fs::read_dir(&full).with_context(|| full.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = match folder {
                "" => name.clone(),
                _ => format!("{folder}/{name}"),
            };
            if entry.file_type()?.is_dir() {
                if !SKIPPED_FOLDERS.contains(&name.as_str()) {
                    self.paths.insert(path.clone());
                    self.read_folder(root, &path)?;
                }
                continue;
            }
            self.paths.insert(path.clone());
            let ending = name.rsplit_once('.').map_or("", |(_, e)| e);
            if TEXT.contains(&ending) || path == ".ci/run" {
                let full = root.join(&path);
                let bytes = std::fs::read(&full).with_context(|| path.clone())?;
                self.add(&path, String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &str, text: String) {
        let lines = match path.ends_with(".rs") {
            true => lexer::lines(&text),
            false => Vec::new(),
        };
        self.files.insert(path.to_owned(), File { text, lines });
    }

    /// A tree of made-up files; a path that ends in `/` is a folder.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.paths.insert(path.trim_end_matches('/').to_owned());
            if !path.ends_with('/') {
                tree.add(path, (*text).to_owned());
            }
        }
        tree
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn get(&self, path: &str) -> Option<&File> {
        self.files.get(path)
    }

    /// Whether a file or folder of that path exists.
    pub(crate) fn exists(&self, path: &str) -> bool {
        path.is_empty() || self.paths.contains(path)
    }

    /// All text files in order of their paths.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().map(|(p, f)| (p.as_str(), f))
    }

    /// The Rust files.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files().filter(|(p, _)| p.ends_with(".rs"))
    }
}
