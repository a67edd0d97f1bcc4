//! Analysis: how text becomes tokens, and tokens become the stems that words match by.
//!
//! A token is a run of letters and digits (Unicode's), lower-cased. One of more than
//! [`TOKEN_BYTES_MAX`] bytes is left out but keeps its position, so that phrases do not close over
//! it. `english` stems tokens ([`super::stem`]) and has no stop words; under `simple` a token is its
//! own stem.
//!
//! Reading goes token by token from a [`Cursor`], so a long text can be taken in pieces.

use std::borrow::Cow;

use nodedb_types::{Failure, Index, Result};

use super::stem;

/// Longer tokens are encoded data rather than words.
pub(super) const TOKEN_BYTES_MAX: usize = 40;
/// Positions between the columns of one document, so that no phrase reaches across.
pub(super) const COLUMN_GAP: u32 = 1_000;

/// Turns tokens into stems.
pub(super) struct Analyzer {
    is_english: bool,
}

impl Analyzer {
    /// The analyser that the index's options name.
    pub(super) fn of(index: &Index) -> Result<Analyzer> {
        let mut options = index.options.iter();
        let name = options.find(|(name, _)| name == "analyzer");
        match name.map_or("english", |(_, value)| value) {
            "english" => Ok(Analyzer { is_english: true }),
            "simple" => Ok(Analyzer { is_english: false }),
            other => Err(Failure::internal(format!("unknown analyzer \"{other}\""))),
        }
    }

    /// The stem of a lower-cased token. It begins with the token's first byte.
    pub(super) fn stem<'a>(&self, token: &'a str) -> Cow<'a, str> {
        match self.is_english {
            true => stem::english(token),
            false => Cow::Borrowed(token),
        }
    }
}

/// Where reading of a text stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    at: usize,
    /// Of the next token.
    position: u32,
}

impl Cursor {
    /// Bytes read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next token that is kept, with its position; it is written to `lower`.
    pub(super) fn next<'b>(&mut self, text: &str, lower: &'b mut String) -> Option<(u32, &'b str)> {
        loop {
            let start = self.at + span(&text[self.at..], false).0;
            let (len, ascii) = span(&text[start..], true);
            self.at = start + len;
            if len == 0 {
                return None;
            }
            let position = self.position;
            self.position += 1;
            if len > TOKEN_BYTES_MAX {
                continue;
            }
            let token = &text[start..start + len];
            lower.clear();
            if ascii {
                lower.push_str(token);
                lower.make_ascii_lowercase();
            } else {
                lower.push_str(&token.to_lowercase());
            }
            return Some((position, lower));
        }
    }
}

/// The length in bytes of the run of characters that are alphanumeric, or are not, at the start
/// of `text`; and whether all of it is ASCII.
fn span(text: &str, alphanumeric: bool) -> (usize, bool) {
    let bytes = text.as_bytes();
    let (mut at, mut ascii) = (0, true);
    while let Some(&byte) = bytes.get(at) {
        if byte.is_ascii() {
            if byte.is_ascii_alphanumeric() != alphanumeric {
                break;
            }
            at += 1;
            continue;
        }
        match text[at..].chars().next() {
            Some(c) if c.is_alphanumeric() == alphanumeric => at += c.len_utf8(),
            _ => break,
        }
        ascii = false;
    }
    (at, ascii)
}

/// Positions of the tokens of a document's columns: each column begins a gap behind the last
/// kept token of the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Positions {
    base: u32,
    last: u32,
}

impl Positions {
    /// The position in the document of a token at `position` in its column.
    pub(super) fn place(&mut self, position: u32) -> u32 {
        self.last = position;
        self.base + position
    }

    pub(super) fn next_column(&mut self) {
        self.base += self.last + COLUMN_GAP;
        self.last = 0;
    }
}

#[cfg(test)]
mod tests {
    use nodedb_types::schema::IndexState;
    use nodedb_types::{CollectionId, IndexId};
    use proptest::prelude::*;

    use super::*;

    fn analyzer(name: &str) -> Analyzer {
        let index = Index {
            id: IndexId(1),
            name: "t".to_owned(),
            collection: CollectionId::FIRST_USER,
            method: "fulltext".to_owned(),
            columns: vec![0],
            operator_class: None,
            options: vec![("analyzer".to_owned(), name.to_owned())],
            state: IndexState::Public,
        };
        Analyzer::of(&index).unwrap()
    }

    fn kept(text: &str) -> Vec<(u32, String)> {
        let (mut cursor, mut lower, mut found) = (Cursor::default(), String::new(), Vec::new());
        while let Some((position, token)) = cursor.next(text, &mut lower) {
            found.push((position, token.to_owned()));
        }
        found
    }

    #[test]
    fn runs_of_letters_and_digits() {
        let words = kept("Hello, x86_64  ÄÖ-ß!");
        let expected = ["hello", "x86", "64", "äö", "ß"];
        let expected: Vec<_> = (0..).zip(expected.map(str::to_owned)).collect();
        assert_eq!(words, expected);
        assert!(kept(" .,- ").is_empty());
        assert!(kept("").is_empty());
    }

    #[test]
    fn a_long_token_leaves_a_hole() {
        let (fits, long) = ("a".repeat(40), "b".repeat(41));
        let found = kept(&format!("{fits} {long} c"));
        assert_eq!(found, [(0, fits), (2, "c".to_owned())]);
        // Bytes count, not characters, and those of the text before it is lower-cased.
        assert_eq!(kept(&format!("{} x", "é".repeat(21)))[0].0, 1);
    }

    #[test]
    fn stems() {
        let english = analyzer("english");
        for (token, stem) in [
            ("debugging", "debug"),
            ("analysis", "analysi"),
            ("performance", "perform"),
            ("the", "the"),
            ("dying", "die"),
        ] {
            assert_eq!(english.stem(token), stem);
        }
        assert_eq!(analyzer("simple").stem("debugging"), "debugging");
    }

    #[test]
    fn columns_stand_apart() {
        let mut positions = Positions::default();
        assert_eq!((positions.place(0), positions.place(7)), (0, 7));
        positions.next_column();
        assert_eq!(positions.place(2), 1009);
        positions.next_column();
        positions.next_column();
        assert_eq!(positions.place(0), 3009);
    }

    proptest! {
        #[test]
        fn tokens_equal_a_split(text in "[a-cÀ-ö0-9 ,_\u{3a3}\u{130}\u{4e00}\u{300}-]{0,60}") {
            let runs = text.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty());
            let all = (0..).zip(runs).filter(|(_, run)| run.len() <= TOKEN_BYTES_MAX);
            let expected: Vec<_> = all.map(|(at, run)| (at, run.to_lowercase())).collect();
            prop_assert_eq!(kept(&text), expected);
        }

        #[test]
        fn a_stem_keeps_the_first_byte(token in "([a-z]|[a-zà-ÿ0-9]|ing|ed|ly|ies|ation|y){1,12}") {
            let stem = analyzer("english").stem(&token).into_owned();
            prop_assert_eq!(stem.bytes().next(), token.bytes().next());
        }
    }
}
