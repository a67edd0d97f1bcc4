//! Splits Rust source into what is code and what is comment, line by line.
//!
//! Rules look for words in code, so text inside comments, strings and character literals must not
//! count. This is a lexer for exactly that: nested block comments, raw and byte strings, and the
//! difference between `'a'` and `'a`. The content of a literal is replaced by nothing, its quotes
//! stay. It also finds the lines that belong to `#[cfg(test)]` items.

/// One line of a Rust file.
#[derive(Debug, Default, Clone)]
pub(crate) struct Line {
    /// The code, with comments left out and literals emptied.
    pub(crate) code: String,
    /// The text of the comments on this line, with their markers.
    pub(crate) comment: String,
    /// Inside an item under `#[cfg(test)]` or `#[test]`.
    pub(crate) test: bool,
}

enum State {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Text { raw_hashes: Option<usize> },
}

/// Splits `source` into its lines.
pub(crate) fn lines(source: &str) -> Vec<Line> {
    let chars: Vec<char> = source.chars().collect();
    let mut lines = vec![Line::default()];
    let mut state = State::Code;
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '\n' {
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            lines.push(Line::default());
            i += 1;
            continue;
        }
        let last = lines.len() - 1;
        let (next, used) = step(&chars, i, state, &mut lines[last]);
        state = next;
        i += used;
    }
    mark_tests(&mut lines);
    lines
}

/// Takes the characters from `i` on that belong together; gives the new state and their number.
/// Never takes a line's end, except the one that a string's `\` hides.
fn step(chars: &[char], i: usize, state: State, line: &mut Line) -> (State, usize) {
    let c = chars[i];
    let next = chars.get(i + 1).copied();
    match state {
        State::LineComment => {
            line.comment.push(c);
            (State::LineComment, 1)
        }
        State::BlockComment { depth } => match (c, next) {
            ('*', Some('/')) if depth == 1 => (State::Code, 2),
            ('*', Some('/')) => (State::BlockComment { depth: depth - 1 }, 2),
            ('/', Some('*')) => (State::BlockComment { depth: depth + 1 }, 2),
            _ => {
                line.comment.push(c);
                (State::BlockComment { depth }, 1)
            }
        },
        State::Text { raw_hashes: None } => match c {
            '\\' if next.is_some_and(|n| n != '\n') => (State::Text { raw_hashes: None }, 2),
            '"' => {
                line.code.push('"');
                (State::Code, 1)
            }
            _ => (State::Text { raw_hashes: None }, 1),
        },
        State::Text {
            raw_hashes: Some(n),
        } => {
            let closes = c == '"' && chars[i + 1..].iter().take_while(|h| **h == '#').count() >= n;
            if closes {
                line.code.push('"');
                (State::Code, 1 + n)
            } else {
                let raw_hashes = Some(n);
                (State::Text { raw_hashes }, 1)
            }
        }
        State::Code => step_code(chars, i, line),
    }
}

fn step_code(chars: &[char], i: usize, line: &mut Line) -> (State, usize) {
    let c = chars[i];
    let next = chars.get(i + 1).copied();
    match (c, next) {
        ('/', Some('/')) => {
            line.comment.push_str("//");
            (State::LineComment, 2)
        }
        ('/', Some('*')) => (State::BlockComment { depth: 1 }, 2),
        ('"', _) => {
            line.code.push('"');
            (State::Text { raw_hashes: None }, 1)
        }
        ('r', Some('"' | '#')) if starts_raw(chars, i) => {
            let hashes = chars[i + 1..].iter().take_while(|h| **h == '#').count();
            line.code.push('"');
            let raw_hashes = Some(hashes);
            (State::Text { raw_hashes }, 2 + hashes)
        }
        ('\'', _) => {
            let length = char_literal_length(chars, i);
            line.code.push('\'');
            if length > 1 {
                line.code.push('\'');
            }
            (State::Code, length)
        }
        _ => {
            line.code.push(c);
            (State::Code, 1)
        }
    }
}

/// `r"`, `r#"`, `br"`: a raw string, unless the `r` ends an identifier or starts `r#name`.
fn starts_raw(chars: &[char], i: usize) -> bool {
    let before = match i.checked_sub(1).map(|b| chars[b]) {
        // The prefix of `br"` and `cr"` must itself start the token.
        Some('b' | 'c') => i.checked_sub(2).map(|b| chars[b]),
        other => other,
    };
    let hashes = chars[i + 1..].iter().take_while(|h| **h == '#').count();
    !before.is_some_and(is_word) && chars.get(i + 1 + hashes) == Some(&'"')
}

/// The length of the character literal at `i`, or 1 where the quote starts a lifetime.
fn char_literal_length(chars: &[char], i: usize) -> usize {
    match (chars.get(i + 1), chars.get(i + 2)) {
        (Some('\\'), Some(_)) => {
            let rest = &chars[i + 3..];
            let end = rest.iter().take(12).position(|c| *c == '\'');
            end.map_or(1, |e| e + 4)
        }
        (Some(_), Some('\'')) => 3,
        _ => 1,
    }
}

/// Part of an identifier.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The byte offsets at which `word` stands in `text`, not as a part of a longer identifier.
pub(crate) fn find_word<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let open = word.chars().next().is_some_and(is_word) && before.is_some_and(is_word);
        let close = word.chars().next_back().is_some_and(is_word) && after.is_some_and(is_word);
        (!open && !close).then_some(at)
    })
}

/// Marks the lines from a test attribute to the end of the item it stands on.
fn mark_tests(lines: &mut [Line]) {
    let mut at = 0;
    while at < lines.len() {
        let code = lines[at].code.replace(' ', "");
        let test = [
            "#[cfg(test)]",
            "#[cfg(all(test,",
            "#[test]",
            "#[tokio::test",
        ];
        if !test.iter().any(|t| code.contains(t)) {
            at += 1;
            continue;
        }
        let end = item_end(lines, at);
        for line in &mut lines[at..=end] {
            line.test = true;
        }
        at = end + 1;
    }
}

/// The last line of the item whose attribute stands on line `start`: where its braces are closed,
/// or its `;` when it has none.
fn item_end(lines: &[Line], start: usize) -> usize {
    let (mut braces, mut brackets) = (0usize, 0usize);
    for (at, line) in lines.iter().enumerate().skip(start) {
        for c in line.code.chars() {
            match c {
                '{' => braces += 1,
                '}' => {
                    braces = braces.saturating_sub(1);
                    if braces == 0 {
                        return at;
                    }
                }
                '[' | '(' => brackets += 1,
                ']' | ')' => brackets = brackets.saturating_sub(1),
                ';' if braces == 0 && brackets == 0 => return at,
                _ => {}
            }
        }
    }
    lines.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> Vec<String> {
        lines(source).into_iter().map(|l| l.code).collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        assert_eq!(code("a; // b\nc"), ["a; ", "c"]);
        assert_eq!(code("a /* b /* c */ d */ e"), ["a  e"]);
        assert_eq!(code("x(\"unsafe \\\" y\", 1)"), ["x(\"\", 1)"]);
        assert_eq!(
            code("r#\"a\"b\"# + br\"c\" + r#type"),
            [r#""" + b"" + r#type"#]
        );
        assert_eq!(code("'\"' 'a '\\'' '\\u{1F600}' b'x'"), ["'' 'a '' '' b''"]);
        assert_eq!(code("\"one\ntwo // no\" three"), ["\"", "\" three"]);
    }

    #[test]
    fn a_comment_keeps_its_text() {
        let found = lines("a // one\n/* two */ b");
        assert_eq!(found[0].comment, "// one");
        assert_eq!(found[1].comment, " two ");
    }

    #[test]
    fn test_items_are_marked_to_their_end() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { {} }\n}\nfn c() {}\n#[cfg(test)]\nmod d;\nfn e() {}";
        let marked: Vec<bool> = lines(source).iter().map(|l| l.test).collect();
        assert_eq!(
            marked,
            [false, true, true, true, true, false, true, true, false]
        );
    }

    #[test]
    fn a_word_is_whole() {
        assert_eq!(
            find_word("Mutex MyMutex Mutexes", "Mutex").collect::<Vec<_>>(),
            [0]
        );
        assert_eq!(find_word("a::Mutex<u8>", "Mutex").count(), 1);
    }
}
