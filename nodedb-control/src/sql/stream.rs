//! `SELECT columns FROM STREAM name [SINCE ts] [LIMIT n]`, parsed from a statement's tokens.
//!
//! The word after `FROM` tells it from a query: a collection may be called `stream`, so the name of
//! a change stream must follow that is not the beginning of another clause. The columns are names
//! or `*`; whatever else a query may have is refused (0A000), not misread.

use nodedb_types::Failure;
use sqlparser::ast;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::parse::{Understood, Wrong, words};
use super::spelling::{is_keyword, is_word};

/// A read of a change stream as it is written.
#[derive(Debug, Clone)]
pub struct StreamRead {
    /// As they are asked for; `None`: all.
    pub columns: Option<Vec<ast::Ident>>,
    pub name: ast::Ident,
    pub since: Option<ast::Expr>,
    pub limit: Option<ast::Expr>,
}

/// Words that begin a clause behind a collection.
const CLAUSES: [Keyword; 20] = [
    Keyword::WHERE,
    Keyword::ORDER,
    Keyword::GROUP,
    Keyword::LIMIT,
    Keyword::OFFSET,
    Keyword::FETCH,
    Keyword::JOIN,
    Keyword::LEFT,
    Keyword::RIGHT,
    Keyword::FULL,
    Keyword::INNER,
    Keyword::CROSS,
    Keyword::NATURAL,
    Keyword::AS,
    Keyword::HAVING,
    Keyword::UNION,
    Keyword::EXCEPT,
    Keyword::INTERSECT,
    Keyword::WINDOW,
    Keyword::FOR,
];

/// Whether the next tokens read a change stream: `SELECT`, anything outside of parentheses up to
/// `FROM`, `STREAM`, a name.
pub(super) fn is_stream_read(parser: &Parser) -> bool {
    if !is_keyword(&parser.peek_token_ref().token, Keyword::SELECT) {
        return false;
    }
    // The last token that was consumed, or the first of all.
    let tokens = (parser.get_current_index()..).map(|i| &parser.token_at(i).token);
    let mut tokens = tokens
        .filter(|token| !matches!(token, Token::Whitespace(_)))
        .skip_while(|token| !is_keyword(token, Keyword::SELECT));
    let mut depth = 0u32;
    for token in &mut tokens {
        match token {
            Token::EOF | Token::SemiColon => return false,
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            token if depth == 0 && is_keyword(token, Keyword::FROM) => break,
            _ => {}
        }
    }
    tokens.next().is_some_and(|token| is_word(token, "stream"))
        && tokens.next().is_some_and(|token| match token {
            Token::Word(w) => w.quote_style.is_some() || !CLAUSES.contains(&w.keyword),
            _ => false,
        })
}

pub(super) fn read_stream(parser: &mut Parser) -> Understood<StreamRead> {
    parser.expect_keyword(Keyword::SELECT)?;
    let columns = columns(parser)?;
    parser.expect_keyword(Keyword::FROM)?;
    // STREAM
    parser.next_token();
    let name = parser.parse_identifier()?;
    let since = match words(parser, &["since"]) {
        true => Some(parser.parse_expr()?),
        false => None,
    };
    let limit = match parser.parse_keyword(Keyword::LIMIT) {
        true => Some(parser.parse_expr()?),
        false => None,
    };
    let more = match &parser.peek_token_ref().token {
        Token::Comma => Some(",".to_owned()),
        Token::Word(w) if CLAUSES.contains(&w.keyword) => Some(w.value.to_uppercase()),
        _ => None,
    };
    match more {
        Some(clause) => Err(refused(&format!("{clause} behind a change stream"))),
        None => Ok(StreamRead {
            columns,
            name,
            since,
            limit,
        }),
    }
}

/// `*`, or names.
fn columns(parser: &mut Parser) -> Understood<Option<Vec<ast::Ident>>> {
    if parser.consume_token(&Token::Mul) {
        return match is_keyword(&parser.peek_token_ref().token, Keyword::FROM) {
            true => Ok(None),
            false => Err(refused("more than * or columns of a change stream")),
        };
    }
    let mut columns = Vec::new();
    loop {
        let is_name = matches!(&parser.peek_nth_token_ref(0).token, Token::Word(_));
        let ends = |token: &Token| *token == Token::Comma || is_keyword(token, Keyword::FROM);
        if !is_name || !ends(&parser.peek_nth_token_ref(1).token) {
            return Err(refused("more than * or columns of a change stream"));
        }
        columns.push(parser.parse_identifier()?);
        if !parser.consume_token(&Token::Comma) {
            return Ok(Some(columns));
        }
    }
}

fn refused(what: &str) -> Wrong {
    let hint = "SELECT * or columns FROM STREAM name [SINCE ts] [LIMIT n] is all there is";
    Wrong::Refused(Failure::unsupported(what).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse::{Statement, parse};

    fn read(text: &str) -> StreamRead {
        match parse(text).expect(text).remove(0).statement {
            Statement::ReadStream(read) => *read,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn reads_of_streams_are_told_from_queries() {
        let all = read("select * from stream s since 12 limit 3");
        assert!(all.columns.is_none() && all.since.is_some() && all.limit.is_some());
        let some = read("SELECT after, \"key\" FROM STREAM s SINCE $1");
        let names: Vec<_> = some
            .columns
            .expect("names")
            .into_iter()
            .map(|c| c.value)
            .collect();
        assert_eq!(names, ["after", "key"]);
        for query in [
            "SELECT * FROM stream",
            "SELECT * FROM stream WHERE a = 1",
            "SELECT a FROM stream AS s WHERE a = 1",
            "SELECT a FROM \"stream\" s",
            "SELECT (SELECT 1 FROM stream) FROM t",
            "SELECT 1",
        ] {
            let statement = parse(query).expect(query).remove(0).statement;
            assert!(matches!(statement, Statement::Sql(_)), "{query}");
        }
    }

    #[test]
    fn what_a_stream_does_not_have_is_refused() {
        for text in [
            "SELECT * FROM STREAM s WHERE op = 'insert'",
            "SELECT * FROM STREAM s ORDER BY commit_ts",
            "SELECT * FROM STREAM s SINCE 1 LIMIT 2 OFFSET 3",
            "SELECT * FROM STREAM s, t",
            "SELECT *, 1 FROM STREAM s",
            "SELECT count(*) FROM STREAM s",
            "SELECT key AS k FROM STREAM s",
            "SELECT DISTINCT op FROM STREAM s",
            "SELECT s.key FROM STREAM s",
            "SELECT after->>'id' FROM STREAM s",
        ] {
            let failure = parse(text).expect_err(text);
            assert_eq!(failure.code().code(), "0A000", "{text}: {failure}");
        }
        let failure = parse("SELECT * FROM STREAM s SINS 3").expect_err("a slip");
        assert_eq!(failure.code().code(), "42601");
    }
}
