//! Reads a guide: its code blocks as steps in order, and where the shown output of each stands.

use std::ops::Range;

/// What a page does, one after the other.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Statements for `ndb sql`.
    Sql(String),
    /// A line for the shell.
    Command(String),
    /// A file that later commands read.
    File { name: String, text: String },
}

#[derive(Debug, PartialEq)]
pub struct Step {
    /// Line of the page on which the action begins, from 1.
    pub line: usize,
    pub action: Action,
    /// Lines of the page that show the output, from 0; `None`: it is not shown.
    pub output: Option<Range<usize>>,
}

/// A fenced or a hidden block: its words after the fence and the lines inside.
struct Block {
    info: Vec<String>,
    inside: Range<usize>,
}

pub fn steps(lines: &[String]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    // A text block belongs to the statements right before it.
    let mut shown_next = false;
    for block in blocks(lines) {
        let text = lines[block.inside.clone()].join("\n");
        let line = block.inside.start + 1;
        let info: Vec<&str> = block.info.iter().map(String::as_str).collect();
        let is_sql = info == ["sql"];
        match info[..] {
            ["sql"] => steps.push(Step {
                line,
                action: Action::Sql(text),
                output: None,
            }),
            ["console"] => steps.extend(commands(lines, block.inside)),
            ["text"] if shown_next => {
                let step = steps.last_mut().expect("a block before this one");
                step.output = Some(block.inside);
            }
            [_, name] => steps.push(Step {
                line,
                action: Action::File {
                    name: name.to_owned(),
                    text: text + "\n",
                },
                output: None,
            }),
            _ => {}
        }
        shown_next = is_sql;
    }
    steps
}

/// Blocks between fences, and between `<!-- sql` or `<!-- console` and `-->`, which readers do
/// not see.
fn blocks(lines: &[String]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at].trim_end();
        let (info, end) = match (line.strip_prefix("```"), line.strip_prefix("<!-- ")) {
            (Some(info), _) => (info, "```"),
            (_, Some(info)) if !info.contains("-->") => (info, "-->"),
            _ => {
                at += 1;
                continue;
            }
        };
        let length = lines[at + 1..]
            .iter()
            .position(|line| line.trim_end() == end)
            .unwrap_or_else(|| panic!("the block at line {} does not end", at + 1));
        blocks.push(Block {
            info: info.split_whitespace().map(str::to_owned).collect(),
            inside: at + 1..at + 1 + length,
        });
        at += length + 2;
    }
    blocks
}

/// `$ command`, which goes on after a backslash and in a here-document; then its output, if it is
/// shown, up to the next command.
fn commands(lines: &[String], inside: Range<usize>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = inside.start;
    while at < inside.end {
        let Some(first) = lines[at].strip_prefix("$ ") else {
            panic!("line {}: a console block begins with `$ `", at + 1);
        };
        let begin = at;
        let mut command = first.to_owned();
        at += 1;
        while command.ends_with('\\') && at < inside.end {
            command.push('\n');
            command.push_str(&lines[at]);
            at += 1;
        }
        if let Some(mark) = here_document(first) {
            while at < inside.end {
                command.push('\n');
                command.push_str(&lines[at]);
                at += 1;
                if lines[at - 1] == mark {
                    break;
                }
            }
        }
        let output = at;
        while at < inside.end && !lines[at].starts_with("$ ") {
            at += 1;
        }
        steps.push(Step {
            line: begin + 1,
            action: Action::Command(command),
            output: (output < at).then_some(output..at),
        });
    }
    steps
}

/// The word that ends the here-document which a command opens.
fn here_document(command: &str) -> Option<String> {
    let (_, after) = command.split_once("<<")?;
    let word = after.split_whitespace().next()?;
    Some(word.trim_matches(['\'', '"']).to_owned())
}

/// True when the output is what the page shows. `…` stands for any characters of a line, and alone
/// for any lines.
pub fn matches(shown: &[String], output: &[String]) -> bool {
    match shown.split_first() {
        None => output.is_empty(),
        Some((first, rest)) if first.trim() == "…" => {
            (0..=output.len()).any(|from| matches(rest, &output[from..]))
        }
        Some((first, rest)) => output
            .split_first()
            .is_some_and(|(line, left)| line_matches(first, line) && matches(rest, left)),
    }
}

fn line_matches(shown: &str, line: &str) -> bool {
    let mut parts = shown.trim_end().split('…');
    let Some(mut rest) = line.trim_end().strip_prefix(parts.next().unwrap_or("")) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

/// Lines without the blank ones at the end.
pub fn trimmed(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(|l| l.trim_end().to_owned()).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

#[test]
fn pages_become_steps() {
    let page = "# A\n```sql\nSELECT 1;\n```\n```text\n1\n```\n<!-- console\n$ a \\\n  b\n-->\n\
                ```csv f.csv\nx\n```\n```console\n$ cat <<E\nq\nE\nq\n\n$ d\n```\n```text\nart\n```\n";
    let lines: Vec<String> = page.lines().map(str::to_owned).collect();
    let steps = steps(&lines);
    let actions: Vec<&Action> = steps.iter().map(|s| &s.action).collect();
    let command = |text: &str| Action::Command(text.to_owned());
    assert_eq!(
        actions,
        [
            &Action::Sql("SELECT 1;".to_owned()),
            &command("a \\\n  b"),
            &Action::File {
                name: "f.csv".to_owned(),
                text: "x\n".to_owned()
            },
            &command("cat <<E\nq\nE"),
            &command("d"),
        ]
    );
    let outputs: Vec<Option<Range<usize>>> = steps.into_iter().map(|s| s.output).collect();
    assert_eq!(outputs, [Some(5..6), None, None, Some(18..20), None]);
}

#[test]
fn dots_stand_for_what_varies() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (shown, output, expected) in [
        ("a\nb", "a\nb", true),
        ("a", "a\nb", false),
        ("a\n…\nz", "a\nz", true),
        ("a\n…\nz", "a\nb\nc\nz", true),
        ("a\n…\nz", "a\nb", false),
        ("time=… ms of …", "time=1.5 ms of 2", true),
        ("time=… ms", "time=1.5 s", false),
        ("…x", "ax", true),
        ("a", "ab", false),
    ] {
        assert_eq!(
            matches(&lines(shown), &lines(output)),
            expected,
            "{shown:?} {output:?}"
        );
    }
}
