//! Text to tokens.
//!
//! The tokenizer is sqlparser's, but for one rule: in PostgreSQL an operator ends where a comment
//! begins in it, and the tokenizer reads `>--` as one operator and the comment's text as SQL. So
//! such an operator is cut, and the text is read again from the comment on. What comes behind it
//! is read in pieces of twice the length each, which keeps the work linear in the text's length
//! however many such comments there are.

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, TokenizerError};

pub(super) const DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// Bytes of the first piece that is read behind a cut operator.
const PIECE_BYTES: usize = 64;

/// The tokens of `text`, each where it stands in it.
pub(super) fn tokenize(text: &str) -> Result<Vec<TokenWithSpan>, TokenizerError> {
    let mut tokens = Vec::new();
    let mut from = Location::new(1, 1);
    let mut rest = text;
    let mut piece = rest.len();
    loop {
        let part = &rest[..rest.floor_char_boundary(piece)];
        let mut read = Vec::new();
        let outcome = Tokenizer::new(&DIALECT, part).tokenize_with_location_into_buf(&mut read);
        // Of a part's tokens only the last may be another one in the whole, and an operator with a
        // comment in it is cut in the same place however long it is.
        let Some((at, length)) = commented(&read) else {
            if part.len() < rest.len() {
                piece *= 2;
                continue;
            }
            outcome.map_err(|error| TokenizerError {
                location: moved(error.location, from),
                ..error
            })?;
            tokens.extend(read.into_iter().map(|token| token_moved(token, from)));
            return Ok(tokens);
        };
        let start = read[at].span.start;
        let begin = LineStarts::new(rest).byte(start);
        let end = begin + length;
        let kept = read.drain(..at);
        tokens.extend(kept.map(|token| token_moved(token, from)));
        let start = moved(start, from);
        tokens.extend(operators(&rest[begin..end], start));
        from = behind(start, length);
        rest = &rest[end..];
        piece = PIECE_BYTES;
    }
}

/// The first operator with a comment in it, and the bytes in front of that.
fn commented(tokens: &[TokenWithSpan]) -> Option<(usize, usize)> {
    tokens.iter().enumerate().find_map(|(i, token)| {
        let Token::CustomBinaryOperator(text) = &token.token else {
            return None;
        };
        let comment = [text.find("--"), text.find("/*")];
        Some((i, comment.into_iter().flatten().min()?))
    })
}

/// The tokens of an operator's text at a place.
pub(super) fn operators(text: &str, at: Location) -> Vec<TokenWithSpan> {
    match Tokenizer::new(&DIALECT, text).tokenize_with_location() {
        Ok(tokens) => tokens
            .into_iter()
            .map(|token| token_moved(token, at))
            .collect(),
        // One that the tokenizer has no use for: the parser refuses it by its name.
        Err(_) => {
            let token = Token::CustomBinaryOperator(text.to_owned());
            let span = Span::new(at, behind(at, text.len()));
            vec![TokenWithSpan::new(token, span)]
        }
    }
}

/// A place some characters further in the same line.
pub(super) fn behind(at: Location, length: usize) -> Location {
    Location::new(at.line, at.column + length as u64)
}

fn token_moved(token: TokenWithSpan, from: Location) -> TokenWithSpan {
    let span = Span::new(moved(token.span.start, from), moved(token.span.end, from));
    TokenWithSpan::new(token.token, span)
}

/// A place in a piece of the text that begins at `from`, as one in the text.
fn moved(at: Location, from: Location) -> Location {
    match at.line {
        1 => Location::new(from.line, from.column + at.column - 1),
        line => Location::new(from.line + line - 1, at.column),
    }
}

/// Byte offsets of the lines' starts, to turn the tokenizer's locations into offsets.
pub(super) struct LineStarts<'a> {
    text: &'a str,
    line: u64,
    start: usize,
}

impl<'a> LineStarts<'a> {
    pub(super) fn new(text: &'a str) -> LineStarts<'a> {
        LineStarts {
            text,
            line: 1,
            start: 0,
        }
    }

    /// Locations must not go back in lines between calls, which the order of statements gives.
    pub(super) fn byte(&mut self, at: Location) -> usize {
        while self.line < at.line {
            match self.text[self.start..].find('\n') {
                Some(n) => self.start += n + 1,
                None => return self.text.len(),
            }
            self.line += 1;
        }
        let rest = &self.text[self.start..];
        let chars = at.column.saturating_sub(1) as usize;
        let within = rest
            .char_indices()
            .nth(chars)
            .map_or(rest.len(), |(i, _)| i);
        self.start + within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The visible tokens and where they begin.
    fn read(text: &str) -> Vec<(String, u64, u64)> {
        tokenize(text)
            .unwrap()
            .into_iter()
            .filter(|t| !matches!(t.token, Token::Whitespace(_)))
            .map(|t| {
                let at = t.span.start;
                (t.token.to_string(), at.line, at.column)
            })
            .collect()
    }

    fn of(tokens: &[(&str, u64, u64)]) -> Vec<(String, u64, u64)> {
        let owned = |&(text, line, column): &(&str, u64, u64)| (text.to_owned(), line, column);
        tokens.iter().map(owned).collect()
    }

    #[test]
    fn a_comment_ends_an_operator() {
        let expected = of(&[
            ("é", 1, 1),
            (">", 1, 2),
            ("é", 2, 1),
            ("-", 2, 2),
            ("1", 2, 7),
        ]);
        assert_eq!(read("é>--it's\né-/**/1"), expected);
        let expected = of(&[("a", 1, 1), ("->>", 1, 2), ("1", 1, 10)]);
        assert_eq!(read("a->>/*;*/1"), expected);
        assert_eq!(
            read("'>--' \">--\" $$>--$$ /*>--*/ -- >--"),
            of(&[("'>--'", 1, 1), ("\">--\"", 1, 7), ("$$>--$$", 1, 13),])
        );
        assert_eq!(
            tokenize("1>-- '\n '").unwrap_err().location,
            Location::new(2, 2)
        );
    }

    #[test]
    fn many_comments_are_read_in_linear_time() {
        // Longer than a piece, so that strings and comments are cut by its end.
        let term = format!(
            "1>--it's {}\n'{}'<>/*'*/\n",
            "é".repeat(90),
            "x--y".repeat(50)
        );
        let tokens = read(&term.repeat(3000));
        assert_eq!(tokens.len(), 4 * 3000);
        for (i, four) in tokens.chunks(4).enumerate() {
            let line = 2 * i as u64 + 1;
            let text = format!("'{}'", "x--y".repeat(50));
            let expected = of(&[("1", line, 1), (">", line, 2), (&text, line + 1, 1)]);
            assert_eq!(four[..3], expected);
            assert_eq!(four[3], ("<>".to_owned(), line + 1, 203));
        }
    }
}
