//! Full text (`fulltext`): Boolean queries over analysed words, and their BM25 rank.

use std::fmt;
use std::sync::Arc;

use nodedb_types::schema::{Collection, Index};
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::{Argument, Call, Contract, EngineOp, EngineRank, IndexOptions};
use crate::plan::TextStatistics;

/// A parsed query. Words are analysed by the index's analyser inside the engine; how text becomes
/// a [`Query`] is in [`parse`].
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// One word as typed; it may analyse to several tokens, which then must follow each other.
    Word(String),
    /// `word*`: any token that begins so, lower-cased and unstemmed.
    Prefix(String),
    /// Words that must follow each other.
    Phrase(String),
    And(Vec<Query>),
    Or(Vec<Query>),
    Not(Box<Query>),
}

/// `text_match(collection, 'query')`.
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    pub query: Arc<Query>,
}

/// `bm25_score(collection, 'query')`, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct Rank {
    pub query: Arc<Query>,
    /// Over all shards; filled in after the statistics round.
    pub statistics: Option<Arc<TextStatistics>>,
}

pub static CONTRACT: Contract = Contract {
    method: "fulltext",
    aliases: &[],
    check_index,
    predicate,
    both: |_, _| None,
    rank,
};

impl Op {
    pub(super) fn show(&self, columns: &[&str]) -> String {
        match columns {
            [column] => format!("{column} matches {}", self.query),
            columns => format!("({}) matches {}", columns.join(", "), self.query),
        }
    }
}

/// The query as it could have been written.
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = |terms: &[Query], word: &str| {
            for (i, term) in terms.iter().enumerate() {
                f.write_str(if i == 0 { "(" } else { word })?;
                write!(f, "{term}")?;
            }
            f.write_str(")")
        };
        match self {
            Query::And(terms) => list(terms, " AND "),
            Query::Or(terms) => list(terms, " OR "),
            Query::Word(word) => f.write_str(word),
            Query::Prefix(start) => write!(f, "{start}*"),
            Query::Phrase(words) => write!(f, "\"{words}\""),
            Query::Not(inner) => write!(f, "NOT {inner}"),
        }
    }
}

fn check_index(collection: &Collection, index: &Index) -> Result<IndexOptions> {
    for &column in &index.columns {
        let column = &collection.columns[column];
        if !matches!(column.data_type, DataType::Text(_)) {
            return Err(Failure::new(
                SqlState::DatatypeMismatch,
                format!(
                    "column \"{}\" has type {}, and fulltext indexes text",
                    column.name,
                    column.data_type.name()
                ),
            ));
        }
    }
    if let Some(class) = &index.operator_class {
        return Err(Failure::unsupported(format!(
            "operator class \"{class}\" of a fulltext index"
        )));
    }
    let mut analyzer = "english".to_owned();
    for (name, value) in &index.options {
        match (name.as_str(), value.as_str()) {
            ("analyzer", "english" | "simple") => analyzer = value.clone(),
            ("analyzer", other) => {
                return Err(Failure::new(
                    SqlState::InvalidParameterValue,
                    format!("unknown analyzer \"{other}\""),
                )
                .with_hint("analyzers are english and simple"));
            }
            _ => {
                return Err(Failure::new(
                    SqlState::InvalidParameterValue,
                    format!("unrecognized parameter \"{name}\""),
                )
                .with_hint("a fulltext index has the parameter analyzer"));
            }
        }
    }
    Ok(vec![("analyzer".to_owned(), analyzer)])
}

/// The query text of a call on this index; `Some(None)` when it is NULL.
fn query_of(index: &Index, call: &Call, name: &str) -> Result<Option<Option<Query>>> {
    if call.name != name || call.arguments.len() != 2 {
        return Ok(None);
    }
    match &call.arguments[0] {
        Argument::Relation => {}
        Argument::Column(column) if index.columns == [*column] => {}
        _ => return Ok(None),
    }
    match &call.arguments[1] {
        Argument::Constant(Value::Text(text)) => Ok(Some(Some(parse(text)?))),
        Argument::Constant(Value::Null) => Ok(Some(None)),
        _ => Ok(None),
    }
}

fn predicate(_: &Collection, index: &Index, call: &Call) -> Result<Option<EngineOp>> {
    let Some(Some(query)) = query_of(index, call, "text_match")? else {
        return Ok(None);
    };
    Ok(Some(EngineOp::Text(Op {
        query: Arc::new(query),
    })))
}

fn rank(_: &Collection, index: &Index, call: &Call) -> Result<Option<EngineRank>> {
    let Some(Some(query)) = query_of(index, call, "bm25_score")? else {
        return Ok(None);
    };
    Ok(Some(EngineRank::Text(Rank {
        query: Arc::new(query),
        statistics: None,
    })))
}

/// Parses the query grammar: words (side by side they mean AND), `AND`, `OR`, `NOT`, parentheses,
/// `"phrases"`, `prefix*`. NOT binds tighter than AND, AND tighter than OR. A query without words
/// matches nothing. Fails with 42601, 54001, or 0A000 for grammar of other systems.
pub fn parse(text: &str) -> Result<Query> {
    let tokens = tokenize(text)?;
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        depth: 0,
    };
    if tokens.is_empty() {
        return Ok(Query::Or(Vec::new()));
    }
    let query = parser.or()?;
    match parser.peek() {
        None => Ok(query),
        Some(token) => Err(syntax(format!(
            "unexpected {} in a text query",
            token.show()
        ))),
    }
}

/// Nesting and number of terms are capped before anything is built.
const DEPTH_MAX: usize = 64;
const TERMS_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Open,
    Close,
    And,
    Or,
    Not,
    Leaf(Query),
}

impl Token {
    fn show(&self) -> String {
        match self {
            Token::Open => "\"(\"".to_owned(),
            Token::Close => "\")\"".to_owned(),
            Token::And => "AND".to_owned(),
            Token::Or => "OR".to_owned(),
            Token::Not => "NOT".to_owned(),
            Token::Leaf(_) => "a word".to_owned(),
        }
    }
}

fn syntax(message: String) -> Failure {
    Failure::new(SqlState::SyntaxError, message)
        .with_hint("a query has words, AND OR NOT ( ), \"phrases\" and prefix*")
}

fn tokenize(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        if tokens.len() >= TERMS_MAX {
            return Err(Failure::new(
                SqlState::StatementTooComplex,
                format!("a text query may have at most {TERMS_MAX} terms"),
            ));
        }
        match c {
            c if c.is_whitespace() => {
                chars.next();
            }
            '(' | ')' => {
                chars.next();
                tokens.push(if c == '(' { Token::Open } else { Token::Close });
            }
            '"' => {
                chars.next();
                let mut phrase = String::new();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some(c) => phrase.push(c),
                        None => return Err(syntax("a phrase is not closed".to_owned())),
                    }
                }
                if let Some('~' | '*') = chars.peek() {
                    return Err(Failure::unsupported(
                        "phrase slop and phrase prefixes in a text query",
                    ));
                }
                tokens.push(Token::Leaf(Query::Phrase(phrase)));
            }
            _ => tokens.push(word(&mut chars)?),
        }
    }
    Ok(tokens)
}

fn word(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token> {
    let mut word = String::new();
    while let Some(&c) = chars.peek() {
        if c.is_whitespace() || matches!(c, '(' | ')' | '"') {
            break;
        }
        if matches!(c, ':' | '^' | '~' | '\\' | '[' | ']' | '{' | '}' | '?')
            || (word.is_empty() && matches!(c, '+' | '-' | '/' | '<' | '>' | '&' | '|' | '!'))
        {
            return Err(Failure::unsupported(format!("\"{c}\" in a text query"))
                .with_hint("a query has words, AND OR NOT ( ), \"phrases\" and prefix*"));
        }
        chars.next();
        word.push(c);
    }
    Ok(match word.as_str() {
        "AND" => Token::And,
        "OR" => Token::Or,
        "NOT" => Token::Not,
        _ => match word.strip_suffix('*') {
            Some(stem) if stem.is_empty() || stem.contains('*') => {
                return Err(Failure::unsupported(
                    "\"*\" other than at the end of a word",
                ));
            }
            Some(stem) => Token::Leaf(Query::Prefix(stem.to_owned())),
            None if word.contains('*') => {
                return Err(Failure::unsupported(
                    "\"*\" other than at the end of a word",
                ));
            }
            None => Token::Leaf(Query::Word(word)),
        },
    })
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn or(&mut self) -> Result<Query> {
        let mut terms = vec![self.and()?];
        while self.peek() == Some(&Token::Or) {
            self.at += 1;
            terms.push(self.and()?);
        }
        Ok(if terms.len() == 1 {
            terms.remove(0)
        } else {
            Query::Or(terms)
        })
    }

    fn and(&mut self) -> Result<Query> {
        let mut terms = vec![self.unary()?];
        loop {
            match self.peek() {
                Some(Token::And) => self.at += 1,
                Some(Token::Leaf(_) | Token::Open | Token::Not) => {}
                _ => break,
            }
            terms.push(self.unary()?);
        }
        Ok(if terms.len() == 1 {
            terms.remove(0)
        } else {
            Query::And(terms)
        })
    }

    fn unary(&mut self) -> Result<Query> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Failure::new(
                SqlState::StatementTooComplex,
                "a text query is nested too deeply",
            ));
        }
        let token = self.peek().cloned();
        self.at += 1;
        let query = match token {
            Some(Token::Not) => Query::Not(Box::new(self.unary()?)),
            Some(Token::Open) => {
                let inner = self.or()?;
                if self.peek() != Some(&Token::Close) {
                    return Err(syntax(
                        "a parenthesis is not closed in a text query".to_owned(),
                    ));
                }
                self.at += 1;
                inner
            }
            Some(Token::Leaf(query)) => query,
            Some(token) => {
                return Err(syntax(format!(
                    "unexpected {} in a text query",
                    token.show()
                )));
            }
            None => {
                return Err(syntax(
                    "a text query ends where a word is expected".to_owned(),
                ));
            }
        };
        self.depth -= 1;
        Ok(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn w(word: &str) -> Query {
        Query::Word(word.to_owned())
    }

    #[test]
    fn precedence_and_side_by_side() {
        let parsed = parse("a b OR NOT c AND d*").unwrap();
        let expected = Query::Or(vec![
            Query::And(vec![w("a"), w("b")]),
            Query::And(vec![
                Query::Not(Box::new(w("c"))),
                Query::Prefix("d".to_owned()),
            ]),
        ]);
        assert_eq!(parsed, expected);
        assert_eq!(parse("(a)").unwrap(), w("a"));
        assert_eq!(parse("\"x y\"").unwrap(), Query::Phrase("x y".to_owned()));
        assert_eq!(parse("  ").unwrap(), Query::Or(Vec::new()));
        assert_eq!(parse("and").unwrap(), w("and"));
    }

    #[test]
    fn refusals() {
        for bad in ["a AND", "(a", "a)", "\"a", "OR a", "NOT"] {
            assert_eq!(
                parse(bad).unwrap_err().code(),
                SqlState::SyntaxError,
                "{bad}"
            );
        }
        for other in [
            "title:x",
            "x^2",
            "x~1",
            "\"a b\"~2",
            "*",
            "a*b",
            "+x",
            "[a TO b]",
        ] {
            assert_eq!(
                parse(other).unwrap_err().code(),
                SqlState::FeatureNotSupported,
                "{other}"
            );
        }
        assert!(parse(&"(".repeat(100)).is_err());
        assert_eq!(
            parse(&"a ".repeat(2000)).unwrap_err().code(),
            SqlState::StatementTooComplex
        );
    }
}
