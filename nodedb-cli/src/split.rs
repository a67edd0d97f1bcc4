//! Finds where a statement ends: at a semicolon outside of quotes, comments and parentheses.

/// The byte just behind the first complete statement, or `None` while it goes on.
pub fn end_of_statement(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut depth = 0usize;
    while at < bytes.len() {
        let rest = &bytes[at..];
        at += match rest[0] {
            b'\'' => skip_quoted(rest, b'\'')?,
            b'"' => skip_quoted(rest, b'"')?,
            b'-' if rest.starts_with(b"--") => rest
                .iter()
                .position(|&b| b == b'\n')
                .map_or(rest.len(), |n| n + 1),
            b'/' if rest.starts_with(b"/*") => skip_comment(rest)?,
            b'$' => skip_dollar(rest)?,
            b'(' => {
                depth += 1;
                1
            }
            b')' => {
                depth = depth.saturating_sub(1);
                1
            }
            b';' if depth == 0 => return Some(at + 1),
            _ => 1,
        };
    }
    None
}

/// True when there is nothing but blanks and comments.
pub fn is_blank(text: &str) -> bool {
    matches!(skip_blank(text).trim_end(), "" | ";")
}

/// The text without the blanks and whole comments that it begins with.
pub fn skip_blank(text: &str) -> &str {
    let mut rest = text.trim_start();
    loop {
        let after = if rest.starts_with("--") {
            rest.split_once('\n').map_or("", |(_, after)| after)
        } else if let Some(n) = rest.strip_prefix("/*").and(skip_comment(rest.as_bytes())) {
            &rest[n..]
        } else {
            return rest;
        };
        rest = after.trim_start();
    }
}

/// Length of a quoted run, doubled quotes inside; `None` while it is open.
fn skip_quoted(rest: &[u8], quote: u8) -> Option<usize> {
    let mut at = 1;
    loop {
        at += rest[at..].iter().position(|&b| b == quote)? + 1;
        if rest.get(at) != Some(&quote) {
            return Some(at);
        }
        at += 1;
    }
}

/// Length of a comment; comments nest.
fn skip_comment(rest: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0usize, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    None
}

/// Length of a dollar-quoted text, or 1 when this dollar starts none (`$1`).
fn skip_dollar(rest: &[u8]) -> Option<usize> {
    let tag = rest[1..]
        .iter()
        .position(|&b| !(b.is_ascii_alphanumeric() || b == b'_'));
    let Some(length) = tag else { return Some(1) };
    let names = !rest.get(1).is_some_and(u8::is_ascii_digit);
    if rest[length + 1] != b'$' || !names {
        return Some(1);
    }
    let tag = &rest[..length + 2];
    let body = &rest[tag.len()..];
    let end = body.windows(tag.len()).position(|window| window == tag)?;
    Some(tag.len() + end + tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        for (text, end) in [
            ("SELECT 1;", Some(9)),
            ("SELECT 1", None),
            ("SELECT ';';", Some(11)),
            ("SELECT 'it''s;", None),
            ("SELECT \";\";x", Some(11)),
            ("-- ;\nSELECT 1;", Some(14)),
            ("/* ; /* ; */ ; */;", Some(18)),
            ("/* ;", None),
            ("SELECT $1;", Some(10)),
            ("SELECT $$;$$;", Some(13)),
            ("SELECT $a$;$$;$a$;", Some(18)),
            ("f(;);", Some(5)),
            ("$", None),
        ] {
            assert_eq!(end_of_statement(text), end, "{text}");
        }
    }

    #[test]
    fn blanks() {
        assert!(is_blank(" -- x\n /* y */ ; "));
        assert!(is_blank(""));
        assert!(!is_blank("SELECT 1"));
        assert!(!is_blank("/* open"));
        assert_eq!(skip_blank(" -- x\n\\d t"), "\\d t");
    }
}
