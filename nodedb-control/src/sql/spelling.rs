//! Spellings that the parser does not read, as tokens that it does.
//!
//! `CREATE COLLECTION`, pgvector's operators, and what PostgreSQL's grammar has and sqlparser's has
//! not: `ORDER BY x USING <`, `TRIM(BOTH FROM x)`, `BETWEEN SYMMETRIC`, `FROM ONLY t`,
//! `JOIN … USING (a) AS x`, `TABLE t`, a sign right behind an operator (`a>-1`), a string
//! literal that goes on in the next line. Tokens keep their places, so errors point where they
//! should.

use nodedb_query::{SYMMETRIC, USING_ALIAS};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Span, Token, TokenWithSpan, Whitespace, Word};

use super::tokens::{behind, operators};

/// The tokens as the parser reads them.
pub(super) fn respell(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let tokens = whole_tables(join_strings(join_operators(split_signs(tokens))));
    let tokens = using_aliases(symmetric_ranges(clauses(tokens)));
    ours_to_theirs(tokens)
}

/// `CREATE COLLECTION` is `CREATE TABLE` by another name, and so for `DROP`; the words are
/// exchanged as tokens, so that the rest is one grammar.
fn ours_to_theirs(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let words: Vec<usize> = (0..tokens.len())
        .filter(|&i| !matches!(tokens[i].token, Token::Whitespace(_)))
        .collect();
    let mut at_start = true;
    for pair in words.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        let ddl = is_keyword(&tokens[first].token, Keyword::CREATE)
            || is_keyword(&tokens[first].token, Keyword::DROP);
        if at_start && ddl && is_word(&tokens[second].token, "collection") {
            tokens[second].token = Token::make_keyword("TABLE");
        }
        at_start = tokens[first].token == Token::SemiColon;
    }
    tokens
}

/// An operator ends in a sign only if it has one of some characters in it, as PostgreSQL's lexer
/// has it: in `a>-1` and `j->-1` the sign is the number's.
fn split_signs(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut split: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let Some((operator, signs)) = signed(&token.token) else {
            split.push(token);
            continue;
        };
        let start = token.span.start;
        split.extend(operators(operator, start));
        for (n, sign) in signs.chars().enumerate() {
            let sign = if sign == '+' {
                Token::Plus
            } else {
                Token::Minus
            };
            let at = behind(start, operator.len() + n);
            split.push(TokenWithSpan::new(sign, Span::new(at, behind(at, 1))));
        }
    }
    split
}

/// An operator and the signs behind it that are not its own; of signs alone the first is the
/// operator.
fn signed(token: &Token) -> Option<(&str, &str)> {
    let Token::CustomBinaryOperator(text) = token else {
        return None;
    };
    let length = text.trim_end_matches(['+', '-']).len().max(1);
    let keeps_signs = text.contains(['~', '!', '@', '#', '%', '^', '&', '|', '`', '?']);
    (!keeps_signs && length < text.len()).then(|| text.split_at(length))
}

/// pgvector's `<+>` comes as three tokens, and its `<=>` as another system's comparison, which
/// would bind less tightly than PostgreSQL's other operators do.
fn join_operators(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut joined: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for mut token in tokens {
        let operator = |symbol: &str| Token::CustomBinaryOperator(symbol.to_owned());
        match (&token.token, &joined[..]) {
            (Token::Spaceship, _) => token.token = operator("<=>"),
            (Token::Gt, [.., lt, plus]) if lt.token == Token::Lt && plus.token == Token::Plus => {
                token = TokenWithSpan::new(operator("<+>"), lt.span);
                joined.truncate(joined.len() - 2);
            }
            _ => {}
        }
        joined.push(token);
    }
    joined
}

/// Two string literals with a line's end between them are one.
fn join_strings(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut joined: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // Where the last literal stands in `joined`, and whether a line has ended since.
    let mut last: Option<(usize, bool)> = None;
    for token in tokens {
        match (&token.token, last) {
            (Token::Whitespace(space), Some((at, ended))) => {
                let ends = matches!(
                    space,
                    Whitespace::Newline | Whitespace::SingleLineComment { .. }
                );
                last = Some((at, ended || ends));
                joined.push(token);
            }
            (Token::SingleQuotedString(more), Some((at, true))) => {
                if let Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) =
                    &mut joined[at].token
                {
                    text.push_str(more);
                }
                joined.truncate(at + 1);
                last = Some((at, false));
            }
            (Token::SingleQuotedString(_) | Token::EscapedStringLiteral(_), _) => {
                last = Some((joined.len(), false));
                joined.push(token);
            }
            _ => {
                last = None;
                joined.push(token);
            }
        }
    }
    joined
}

/// `TABLE t` as a query is `SELECT * FROM t`, and has no clauses but those of any query (a TABLE that
/// is left is refused when it is bound: the parser would drop what comes behind its name). Parentheses
/// and `*` about the name, which say something about what inherits from it, are not read.
fn whole_tables(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let places = visible(&tokens);
    let mut inserts = false;
    let mut found = Vec::new();
    for (n, &at) in places.iter().enumerate() {
        let before = n.checked_sub(1).map(|n| &tokens[places[n]].token);
        let starts = before.is_none_or(|t| *t == Token::SemiColon);
        let token = |n: usize| places.get(n).map_or(&Token::EOF, |&i| &tokens[i].token);
        inserts &= !starts;
        inserts |= is_keyword(token(n), Keyword::INSERT) && is_keyword(token(n + 1), Keyword::INTO);
        let only = is_keyword(token(n + 1), Keyword::ONLY);
        if is_keyword(token(n), Keyword::TABLE)
            && (starts || before.is_some_and(|t| begins_query(t, inserts)))
            && end_of_name(&token, n + 1 + usize::from(only))
                .is_some_and(|end| may_follow_query(token(end)))
        {
            found.push(at);
        }
    }
    for at in found.into_iter().rev() {
        let span = tokens[at].span;
        let select = ["SELECT", "*", "FROM"].map(|word| {
            let token = match word {
                "*" => Token::Mul,
                word => Token::make_keyword(word),
            };
            TokenWithSpan::new(token, span)
        });
        tokens.splice(at..=at, select);
    }
    tokens
}

/// Whether a query may begin behind a token; behind a name it does where rows are inserted. TABLE
/// is reserved. Behind AS it may be a column's name too, which is never followed by a name and the
/// end of a query; behind a parenthesis, that of `EXPLAIN (…)`, of `WITH c AS (…)` or of a list of
/// columns, it is nothing else.
fn begins_query(token: &Token, inserts: bool) -> bool {
    const BEFORE: [Keyword; 9] = [
        Keyword::AS,
        Keyword::UNION,
        Keyword::INTERSECT,
        Keyword::EXCEPT,
        Keyword::ALL,
        Keyword::DISTINCT,
        Keyword::EXPLAIN,
        Keyword::ANALYZE,
        Keyword::VERBOSE,
    ];
    match token {
        Token::LParen | Token::RParen => true,
        Token::Word(word) => BEFORE.contains(&word.keyword) || inserts,
        _ => false,
    }
}

/// Where a name that may have a schema ends.
fn end_of_name<'a>(token: &impl Fn(usize) -> &'a Token, at: usize) -> Option<usize> {
    let is_name = |n: usize| matches!(token(n), Token::Word(_));
    match (is_name(at), token(at + 1) == &Token::Period) {
        (true, false) => Some(at + 1),
        (true, true) => is_name(at + 2).then_some(at + 3),
        (false, _) => None,
    }
}

/// Whether a token ends a query without clauses of its own, or adds to it.
fn may_follow_query(token: &Token) -> bool {
    const AFTER: [Keyword; 10] = [
        Keyword::UNION,
        Keyword::INTERSECT,
        Keyword::EXCEPT,
        Keyword::ORDER,
        Keyword::LIMIT,
        Keyword::OFFSET,
        Keyword::FETCH,
        Keyword::FOR,
        Keyword::ON,
        Keyword::RETURNING,
    ];
    match token {
        Token::EOF | Token::SemiColon | Token::RParen => true,
        Token::Word(word) => AFTER.contains(&word.keyword),
        _ => false,
    }
}

/// Positions of the tokens that are no white space.
fn visible(tokens: &[TokenWithSpan]) -> Vec<usize> {
    (0..tokens.len())
        .filter(|&i| !matches!(tokens[i].token, Token::Whitespace(_)))
        .collect()
}

/// Clauses whose words differ by a token or two.
fn clauses(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let places = visible(&tokens);
    let mut dropped: Vec<usize> = Vec::new();
    let mut blanks: Vec<usize> = Vec::new();
    for window in places.windows(3) {
        let [a, b, c] = [window[0], window[1], window[2]];
        let is = |at: usize, keyword| is_keyword(&tokens[at].token, keyword);
        // A relation alone, without what inherits from it: nothing does here.
        let names = is(a, Keyword::FROM) || is(a, Keyword::JOIN) || is(a, Keyword::UPDATE);
        if names && is(b, Keyword::ONLY) && matches!(tokens[c].token, Token::Word(_)) {
            dropped.push(b);
        }
        let side = is(b, Keyword::BOTH) || is(b, Keyword::LEADING) || is(b, Keyword::TRAILING);
        if tokens[a].token == Token::LParen && side && is(c, Keyword::FROM) {
            blanks.push(c);
        }
        if is(a, Keyword::TRIM) && tokens[b].token == Token::LParen && is(c, Keyword::FROM) {
            dropped.push(c);
        }
        if is(a, Keyword::BETWEEN) && is_word(&tokens[b].token, "asymmetric") {
            dropped.push(b);
        }
    }
    for pair in places.windows(2) {
        if is_keyword(&tokens[pair[0]].token, Keyword::USING) {
            let order = match tokens[pair[1]].token {
                Token::Lt => "ASC",
                Token::Gt => "DESC",
                _ => continue,
            };
            tokens[pair[0]].token = Token::make_keyword(order);
            dropped.push(pair[1]);
        }
    }
    if dropped.is_empty() && blanks.is_empty() {
        return tokens;
    }
    dropped.sort_unstable();
    let mut kept = Vec::with_capacity(tokens.len() + blanks.len());
    for (i, token) in tokens.into_iter().enumerate() {
        if blanks.binary_search(&i).is_ok() {
            let blank = Token::SingleQuotedString(" ".to_owned());
            kept.push(TokenWithSpan::new(blank, token.span));
        }
        if dropped.binary_search(&i).is_err() {
            kept.push(token);
        }
    }
    kept
}

/// `BETWEEN SYMMETRIC a AND b`: the lower bound becomes a call of a name that nobody can write.
fn symmetric_ranges(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut from = 0;
    while let Some(at) = next_symmetric(&tokens, from) {
        from = at + 1;
        let Some(end) = end_of_bound(&tokens, at + 1) else {
            return tokens;
        };
        let span = tokens[at].span;
        tokens.insert(end, TokenWithSpan::new(Token::RParen, span));
        tokens[at].token = Token::Word(Word {
            value: SYMMETRIC.to_owned(),
            quote_style: Some('"'),
            keyword: Keyword::NoKeyword,
        });
        tokens.insert(at + 1, TokenWithSpan::new(Token::LParen, span));
    }
    tokens
}

/// `JOIN … USING (a, b) AS x`: the alias becomes one more column, of a name that nobody can write.
fn using_aliases(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let places = visible(&tokens);
    // From behind, so that the places before stay.
    for at in (0..places.len()).rev() {
        let token = |n: usize| places.get(at + n).map(|&i| &tokens[i].token);
        let begins = token(0).is_some_and(|t| is_keyword(t, Keyword::USING));
        if !begins || token(1) != Some(&Token::LParen) {
            continue;
        }
        let mut end = 2;
        while let (Some(Token::Word(_)), Some(Token::Comma)) = (token(end), token(end + 1)) {
            end += 2;
        }
        let closed =
            matches!(token(end), Some(Token::Word(_))) && token(end + 1) == Some(&Token::RParen);
        let named = token(end + 2).is_some_and(|t| is_keyword(t, Keyword::AS));
        let Some(Token::Word(alias)) = token(end + 3).filter(|_| closed && named) else {
            continue;
        };
        let name = match alias.quote_style {
            Some(_) => alias.value.clone(),
            None => alias.value.to_lowercase(),
        };
        let (paren, after_as, alias) = (
            places[at + end + 1],
            places[at + end + 2],
            places[at + end + 3],
        );
        let span = tokens[alias].span;
        tokens.drain(after_as..=alias);
        let column = Token::Word(Word {
            value: format!("{USING_ALIAS}{name}"),
            quote_style: Some('"'),
            keyword: Keyword::NoKeyword,
        });
        tokens.insert(paren, TokenWithSpan::new(column, span));
        tokens.insert(paren, TokenWithSpan::new(Token::Comma, span));
    }
    tokens
}

fn next_symmetric(tokens: &[TokenWithSpan], from: usize) -> Option<usize> {
    (from..tokens.len()).find(|&i| {
        is_word(&tokens[i].token, "symmetric")
            && tokens[..i]
                .iter()
                .rev()
                .find(|t| !matches!(t.token, Token::Whitespace(_)))
                .is_some_and(|t| is_keyword(&t.token, Keyword::BETWEEN))
    })
}

/// Where the AND behind a lower bound stands.
fn end_of_bound(tokens: &[TokenWithSpan], from: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(from) {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.checked_sub(1)?,
            Token::SemiColon => return None,
            other if depth == 0 && is_keyword(other, Keyword::AND) => return Some(i),
            _ => {}
        }
    }
    None
}

pub(super) fn is_keyword(token: &Token, keyword: Keyword) -> bool {
    matches!(token, Token::Word(w) if w.keyword == keyword)
}

pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(Word { value, quote_style: None, .. })
        if value.eq_ignore_ascii_case(word))
}
