//! Links in Markdown: a relative link leads to a file of the repository, and its anchor to a
//! heading of that file.

use super::Problem;
use super::tree::Tree;

/// Checks every link of every Markdown file.
pub(crate) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, file) in tree.files().filter(|(p, _)| p.ends_with(".md")) {
        let mut fenced = false;
        for (at, line) in file.text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            if fenced {
                continue;
            }
            for target in targets(line) {
                if let Some(what) = broken(tree, path, &target) {
                    problems.push(Problem::new(path, at + 1, what, "correct the link"));
                }
            }
        }
    }
    problems
}

/// The targets of `[text](target)` on one line, inline code left out.
fn targets(line: &str) -> Vec<String> {
    // Every second part between backticks is code.
    let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let mut found = Vec::new();
    for (at, _) in prose.match_indices("](") {
        let rest = &prose[at + 2..];
        if let Some(end) = rest.find([')', ' ']) {
            found.push(rest[..end].trim_matches(['<', '>']).to_owned());
        }
    }
    found
}

fn broken(tree: &Tree, from: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => from.to_owned(),
        _ => resolve(from, file)?,
    };
    if !tree.exists(&path) {
        return Some(format!("the link `{target}` leads nowhere ({path})"));
    }
    let headings = &tree.get(&path)?.text;
    let known = headings.lines().filter_map(anchor_of).any(|a| a == anchor);
    let checked = path.ends_with(".md") && !anchor.is_empty();
    (checked && !known).then(|| format!("`{path}` has no heading for `#{anchor}`"))
}

/// `../x/y` seen from the file `from`. A link above the repository stays as written, so that it
/// is reported.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = match link.starts_with('/') {
        true => Vec::new(),
        false => from.split('/').collect(),
    };
    if !link.starts_with('/') {
        parts.pop();
    }
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.is_empty() => return Some(link.to_owned()),
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    Some(parts.join("/"))
}

/// The anchor that a heading gets: lower case, spaces as hyphens, punctuation dropped.
fn anchor_of(line: &str) -> Option<String> {
    let heading = line
        .strip_prefix('#')?
        .trim_start_matches('#')
        .strip_prefix(' ')?;
    let keep = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    Some(heading.trim().chars().filter_map(keep).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_files_and_headings() {
        let tree = Tree::of(&[
            (
                "README.md",
                "[a](docs/a.md) [b](docs/b.md)\n`[c](no.md)` [d](docs/a.md#two-words)\n",
            ),
            ("docs/", ""),
            (
                "docs/a.md",
                "# A\n## Two `words`\n[up](../README.md) [x](#nowhere) [y](https://example.org/z)\n```\n[z](gone)\n```\n",
            ),
        ]);
        let found: Vec<_> = check(&tree).into_iter().map(|p| (p.path, p.line)).collect();
        assert_eq!(
            found,
            [("README.md".to_owned(), 1), ("docs/a.md".to_owned(), 3)]
        );
    }
}
