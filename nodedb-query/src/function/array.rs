//! Arrays in their text form, the only one they have here: `{1,NULL,"a, b"}`.

use nodedb_types::{Failure, Result, SqlState};

/// The elements of a one-dimensional array, `None` for NULL. 22P02 for text that is no such array.
pub(crate) fn elements(text: &str) -> Result<Vec<Option<String>>> {
    let bad = || {
        Failure::new(
            SqlState::InvalidTextRepresentation,
            format!("malformed array literal: \"{text}\""),
        )
    };
    let inner = text
        .trim()
        .strip_prefix('{')
        .and_then(|t| t.strip_suffix('}'))
        .ok_or_else(bad)?;
    let mut items = Vec::new();
    let mut chars = inner.chars().peekable();
    if inner.trim().is_empty() {
        return Ok(items);
    }
    loop {
        let mut item = String::new();
        let mut quoted = false;
        let skip = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            while chars.peek().is_some_and(|c| c.is_whitespace()) {
                chars.next();
            }
        };
        skip(&mut chars);
        if chars.peek() == Some(&'"') {
            chars.next();
            quoted = true;
            loop {
                match chars.next().ok_or_else(bad)? {
                    '"' => break,
                    '\\' => item.push(chars.next().ok_or_else(bad)?),
                    c => item.push(c),
                }
            }
            skip(&mut chars);
        } else {
            while chars.peek().is_some_and(|c| *c != ',') {
                match chars.next() {
                    Some('{' | '}' | '"') | None => return Err(bad()),
                    Some('\\') => {
                        quoted = true;
                        item.push(chars.next().ok_or_else(bad)?);
                    }
                    Some(c) => item.push(c),
                }
            }
            item.truncate(item.trim_end().len());
            if item.is_empty() {
                return Err(bad());
            }
        }
        let null = !quoted && item.eq_ignore_ascii_case("null");
        items.push((!null).then_some(item));
        match chars.next() {
            None => return Ok(items),
            Some(',') => {}
            Some(_) => return Err(bad()),
        }
    }
}

/// An element as it stands in an array's text: in quotes where it would be read as another without.
pub(crate) fn quoted(element: &str) -> String {
    let special = |c: char| "{},\"\\".contains(c) || c.is_whitespace();
    let bare =
        !element.is_empty() && !element.contains(special) && !element.eq_ignore_ascii_case("null");
    if bare {
        return element.to_owned();
    }
    let mut out = String::with_capacity(element.len() + 2);
    out.push('"');
    for c in element.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::{elements, quoted};

    #[test]
    fn elements_of_text() {
        let some = |items: &[&str]| items.iter().map(|i| Some((*i).to_owned())).collect();
        let read = |text| elements(text).map_err(|f| f.code().code());
        assert_eq!(read("{}"), Ok(Vec::new()));
        assert_eq!(read(" { } "), Ok(Vec::new()));
        assert_eq!(read("{1, 2 ,3}"), Ok(some(&["1", "2", "3"])));
        assert_eq!(
            read(r#"{"a, b" ,"",c\,d,"\"q\\"}"#),
            Ok(some(&["a, b", "", "c,d", r#""q\"#]))
        );
        assert_eq!(read("{NULL,null}"), Ok(vec![None, None]));
        assert_eq!(read(r#"{"NULL",nul\l}"#), Ok(some(&["NULL", "null"])));
        for text in [
            "",
            "1,2",
            "{1,}",
            "{,1}",
            "{1",
            "{{1},{2}}",
            r#"{"a}"#,
            r#"{"a"b}"#,
        ] {
            assert_eq!(read(text), Err("22P02"), "{text}");
        }
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        let all = ["a", "", "null", "a b", "a,b", "{}", r#""q\"#, "é", " x "];
        for element in all {
            let text = format!("{{{},{}}}", quoted(element), quoted(element));
            let read = elements(&text).expect("an array");
            let wanted = Some(element.to_owned());
            assert_eq!(read, [wanted.clone(), wanted], "{text}");
        }
        assert_eq!(quoted("plain"), "plain");
    }
}
