//! Text to statements.
//!
//! The text is tokenised ([`super::tokens`]); the tokens are capped ([`super::limits`]), cut at semicolons by
//! the parser itself, and each statement keeps its slice of the text, which is its key in the plan
//! cache and what positions of errors count from. What PostgreSQL's grammar does not have
//! (`CREATE COLLECTION`, `CREATE CHANGE STREAM`, `CHECK COLLECTION`, `SHOW JOBS`) is parsed here
//! from the same tokens, reads of change streams in [`super::stream`]; all else is sqlparser's.

use std::sync::Arc;

use nodedb_types::{Failure, Result, SqlState};
use sqlparser::ast;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::limits;
use super::spelling::{is_word, respell};
use super::stream::{StreamRead, is_stream_read, read_stream};
use super::tokens::{DIALECT, LineStarts, tokenize};

/// How deep the parser may recurse; a nested parenthesis takes several levels. The depth that
/// users meet is `limits::STATEMENT_DEPTH_MAX`.
const PARSER_RECURSION_MAX: usize = 16 * nodedb_types::limits::STATEMENT_DEPTH_MAX;

/// Characters of a token that an error shows: it may be as long as the statement.
const TOKEN_CHARS_SHOWN: usize = 100;

/// One statement and where it stood.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The statement's own slice of the text.
    pub text: Arc<str>,
    /// Characters of the whole text before [`Parsed::text`].
    pub offset: u32,
    pub statement: Statement,
}

/// A statement as it is told apart by its grammar.
#[derive(Debug, Clone)]
pub enum Statement {
    /// PostgreSQL's own grammar.
    Sql(Box<ast::Statement>),
    /// `CREATE CHANGE STREAM [IF NOT EXISTS] name ON collection [WITH (retention_bytes = n)]`.
    CreateStream {
        name: ast::Ident,
        collection: ast::ObjectName,
        if_not_exists: bool,
        options: Vec<ast::SqlOption>,
    },
    /// `DROP CHANGE STREAM [IF EXISTS] name [, …]`.
    DropStream {
        names: Vec<ast::Ident>,
        if_exists: bool,
    },
    /// `SELECT columns FROM STREAM name [SINCE ts] [LIMIT n]`.
    ReadStream(Box<StreamRead>),
    /// `CHECK COLLECTION name`.
    Check { collection: ast::ObjectName },
    /// `SHOW JOBS`.
    ShowJobs,
    /// `SHOW COLLECTIONS`.
    ShowCollections,
    /// `SHOW [CHANGE] STREAMS`.
    ShowStreams,
    /// `DESCRIBE name`.
    Describe { collection: ast::ObjectName },
}

/// Every statement of `text`; none when it is blank.
pub fn parse(text: &str) -> Result<Vec<Parsed>> {
    limits::check_length(text)?;
    if text.contains('\0') {
        return Err(Failure::new(
            SqlState::CharacterNotInRepertoire,
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    let tokens =
        tokenize(text).map_err(|e| syntax(text, &e.message, position(text, e.location), None))?;
    limits::check_shape(&tokens)?;
    let tokens = respell(tokens);
    let mut starts = LineStarts::new(text);
    let mut parser = Parser::new(&DIALECT)
        .with_recursion_limit(PARSER_RECURSION_MAX)
        .with_tokens_with_locations(tokens);
    let mut parsed = Vec::new();
    loop {
        while parser.consume_token(&Token::SemiColon) {}
        let first = parser.peek_token_ref().clone();
        if first.token == Token::EOF {
            return Ok(parsed);
        }
        let from = starts.byte(first.span.start);
        let statement = parse_one(&mut parser).map_err(|wrong| match wrong {
            Wrong::Grammar(error) => failure(text, &parser, error),
            Wrong::Refused(failure) => failure,
        })?;
        let end = parser.peek_token_ref().clone();
        if !matches!(end.token, Token::SemiColon | Token::EOF) {
            return Err(near(text, &end));
        }
        let to = match end.token {
            Token::EOF => text.len(),
            _ => starts.byte(end.span.start),
        };
        parsed.push(Parsed {
            text: text[from..to].trim_end().into(),
            offset: text[..from].chars().count() as u32,
            statement,
        });
    }
}

/// Why a statement was not understood.
pub(super) enum Wrong {
    Grammar(ParserError),
    /// It was understood, and is not supported.
    Refused(Failure),
}

impl From<ParserError> for Wrong {
    fn from(error: ParserError) -> Wrong {
        Wrong::Grammar(error)
    }
}

pub(super) type Understood<T> = std::result::Result<T, Wrong>;

/// True when the next tokens are these unquoted words; they are consumed then.
pub(super) fn words(parser: &mut Parser, wanted: &[&str]) -> bool {
    for (i, word) in wanted.iter().enumerate() {
        if !is_word(&parser.peek_nth_token_ref(i).token, word) {
            return false;
        }
    }
    for _ in wanted {
        parser.next_token();
    }
    true
}

fn parse_one(parser: &mut Parser) -> Understood<Statement> {
    if words(parser, &["create", "change", "stream"]) {
        return create_stream(parser);
    }
    if words(parser, &["drop", "change", "stream"]) {
        let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
        let names = parser.parse_comma_separated(|p| p.parse_identifier())?;
        return Ok(Statement::DropStream { names, if_exists });
    }
    if words(parser, &["check", "collection"]) || words(parser, &["check", "table"]) {
        let collection = parser.parse_object_name(false)?;
        return Ok(Statement::Check { collection });
    }
    if words(parser, &["show", "jobs"]) {
        return Ok(Statement::ShowJobs);
    }
    if words(parser, &["show", "collections"]) {
        return Ok(Statement::ShowCollections);
    }
    if words(parser, &["show", "streams"]) || words(parser, &["show", "change", "streams"]) {
        return Ok(Statement::ShowStreams);
    }
    if words(parser, &["describe"]) || words(parser, &["desc"]) {
        let _ = parser.parse_keyword(Keyword::TABLE) || words(parser, &["collection"]);
        let collection = parser.parse_object_name(false)?;
        return Ok(Statement::Describe { collection });
    }
    if is_stream_read(parser) {
        return Ok(Statement::ReadStream(Box::new(read_stream(parser)?)));
    }
    let statement = parser.parse_statement()?;
    Ok(Statement::Sql(Box::new(insert_with(statement))))
}

/// `WITH … INSERT INTO t query` is `INSERT INTO t WITH … query`, where no name of the one WITH could
/// hide one of the other.
fn insert_with(mut statement: ast::Statement) -> ast::Statement {
    if let ast::Statement::Query(query) = &mut statement
        && let Some(with) = &query.with
        && let ast::SetExpr::Insert(ast::Statement::Insert(insert)) = &mut *query.body
        && let Some(source) = &mut insert.source
        && source.with.is_none()
    {
        source.with = Some(with.clone());
        return ast::Statement::Insert(insert.clone());
    }
    statement
}

fn create_stream(parser: &mut Parser) -> Understood<Statement> {
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parser.parse_identifier()?;
    parser.expect_keyword(Keyword::ON)?;
    let collection = parser.parse_object_name(false)?;
    let options = parser.parse_options(Keyword::WITH)?;
    Ok(Statement::CreateStream {
        name,
        collection,
        if_not_exists,
        options,
    })
}

/// 1-based position in characters; `None` where the tokenizer knew none.
fn position(text: &str, at: Location) -> Option<u32> {
    if at.line == 0 {
        return None;
    }
    let byte = LineStarts::new(text).byte(at);
    Some(text[..byte].chars().count() as u32 + 1)
}

fn syntax(text: &str, message: &str, position: Option<u32>, near: Option<&str>) -> Failure {
    let message = match near {
        Some(near) => match near.char_indices().nth(TOKEN_CHARS_SHOWN) {
            Some((end, _)) => format!("syntax error at or near \"{}…\"", &near[..end]),
            None => format!("syntax error at or near \"{near}\""),
        },
        None if position.is_some_and(|p| p as usize > text.chars().count()) => {
            "syntax error at end of input".to_owned()
        }
        None => message.to_owned(),
    };
    let failure = Failure::new(SqlState::SyntaxError, message);
    match position {
        Some(position) => failure.at(position),
        None => failure,
    }
}

fn near(text: &str, token: &TokenWithSpan) -> Failure {
    match token.token {
        Token::EOF => Failure::new(SqlState::SyntaxError, "syntax error at end of input").at(text
            .chars()
            .count()
            as u32
            + 1),
        _ => syntax(
            text,
            "syntax error",
            position(text, token.span.start),
            Some(&token.token.to_string()),
        ),
    }
}

/// A parser's error says where it is only in its text, as `… at Line: 1, Column: 8`; without that
/// it happened at the end or in front of the token that comes next.
fn failure(text: &str, parser: &Parser, error: ParserError) -> Failure {
    let message = match error {
        ParserError::RecursionLimitExceeded => {
            return Failure::new(
                SqlState::StatementTooComplex,
                "the statement is nested too deeply",
            );
        }
        ParserError::ParserError(message) | ParserError::TokenizerError(message) => message,
    };
    let location = message.rsplit_once(" at Line: ").and_then(|(_, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        Some(Location {
            line: line.parse().ok()?,
            column: column.trim().parse().ok()?,
        })
    });
    let expected = message
        .strip_prefix("Expected: ")
        .and_then(|m| m.split_once(", found: "))
        .map(|(wanted, _)| format!("expected {wanted}"));
    let failure = match location {
        Some(at) => {
            let found = token_at(parser, at);
            match found {
                Some(token) => near(text, &token),
                None => syntax(text, &message, position(text, at), None),
            }
        }
        None => near(text, parser.peek_token_ref()),
    };
    match expected {
        Some(expected) => failure.with_detail(expected),
        None if location.is_none() => failure.with_detail(message),
        None => failure,
    }
}

/// The token that starts at a location: the next one or one of the few read last.
fn token_at(parser: &Parser, at: Location) -> Option<TokenWithSpan> {
    let index = parser.get_current_index();
    let around = index.saturating_sub(8)..index + 8;
    around
        .map(|i| parser.token_at(i))
        .find(|t| t.span.start == at)
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_keep_their_slices() {
        let all = parse(" SELECT 1;;\n -- note\n CREATE COLLECTION t (a int) ; ").expect("parses");
        assert_eq!(all.len(), 2);
        assert_eq!(&*all[0].text, "SELECT 1");
        assert_eq!(all[0].offset, 1);
        assert_eq!(&*all[1].text, "CREATE COLLECTION t (a int)");
        assert!(matches!(
            &all[1].statement,
            Statement::Sql(s) if matches!(**s, ast::Statement::CreateTable(_))
        ));
        assert!(parse(" ; -- nothing\n").expect("parses").is_empty());
    }

    #[test]
    fn syntax_errors_say_where() {
        let error = parse("SELECT 1 +").expect_err("incomplete");
        assert_eq!(error.code(), SqlState::SyntaxError);
        assert_eq!(error.position(), Some(11), "{error:?}");
        let error = parse("SELECT\n 1 FROM ) t").expect_err("no table");
        assert_eq!(error.message(), "syntax error at or near \")\"");
        assert_eq!(error.position(), Some(16));
        let error = parse("SELEC 1").expect_err("a slip");
        assert_eq!(error.message(), "syntax error at or near \"SELEC\"");
        assert_eq!(error.position(), Some(1));
        let error = parse(&"x".repeat(10_000)).expect_err("no statement");
        assert!(error.message().len() < 200, "{error}");
        let error = parse("SELECT 'é' 'x").expect_err("unterminated");
        assert_eq!(error.code(), SqlState::SyntaxError);
    }

    #[test]
    fn our_own_statements_parse() {
        let one = |text: &str| parse(text).expect(text).remove(0).statement;
        assert!(matches!(
            one("CREATE CHANGE STREAM IF NOT EXISTS s ON c WITH (retention_bytes = 5)"),
            Statement::CreateStream { if_not_exists: true, options, .. } if options.len() == 1
        ));
        assert!(matches!(one("check collection c"), Statement::Check { .. }));
        assert!(matches!(one("SHOW JOBS"), Statement::ShowJobs));
        for streams in ["SHOW STREAMS", "show change streams"] {
            assert!(matches!(one(streams), Statement::ShowStreams));
        }
        assert!(matches!(one("DESCRIBE t"), Statement::Describe { .. }));
        assert!(matches!(
            one("DROP CHANGE STREAM a, b"),
            Statement::DropStream { names, if_exists: false } if names.len() == 2
        ));
    }

    #[test]
    fn deep_and_long_texts_are_refused_or_parsed_but_never_overflow() {
        let run = || {
            let deep = format!("SELECT {}1{}", "(".repeat(250), ")".repeat(250));
            parse(&deep).expect("within the limit");
            parse(&format!("SELECT {}", "(".repeat(100_000))).expect_err("too deep");
            let long = vec!["1"; 10_000].join("+");
            parse(&format!("SELECT {long}")).expect("within the limit");
        };
        std::thread::Builder::new()
            .stack_size(crate::worker::STACK_BYTES)
            .spawn(run)
            .expect("thread")
            .join()
            .expect("no overflow");
    }
}
