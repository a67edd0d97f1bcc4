//! Caps on a statement before it is parsed: length, depth, and operators in one run.
//!
//! A parser and a planner recurse with the text, so a text that is too deep or too long a chain
//! would overflow a stack, which kills the process. The tokens are counted first; what passes
//! here is parsed on a worker's thread, whose stack is sized for it (`worker::STACK_BYTES`).

use nodedb_types::limits::{STATEMENT_DEPTH_MAX, STATEMENT_TERMS_MAX, STATEMENT_TEXT_BYTES_MAX};
use nodedb_types::{Failure, Result, SqlState};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan};

/// 54000 when the text is longer than a statement may be.
pub fn check_length(text: &str) -> Result<()> {
    if text.len() <= STATEMENT_TEXT_BYTES_MAX {
        return Ok(());
    }
    Err(Failure::new(
        SqlState::ProgramLimitExceeded,
        format!("the statement is longer than {STATEMENT_TEXT_BYTES_MAX} bytes"),
    )
    .with_hint("load many rows with COPY, or in several statements"))
}

/// 54001 when the tokens nest too deeply or chain too many operators.
pub fn check_shape(tokens: &[TokenWithSpan]) -> Result<()> {
    // Operators seen in the present run, for each open level.
    let mut runs = vec![0usize];
    for token in tokens {
        match shape(&token.token) {
            Shape::Open => {
                runs.push(0);
                if runs.len() > STATEMENT_DEPTH_MAX {
                    return Err(too_complex("is nested too deeply"));
                }
            }
            Shape::Close => {
                if runs.len() > 1 {
                    runs.pop();
                }
            }
            Shape::Restart => *innermost(&mut runs) = 0,
            Shape::StatementEnd => runs = vec![0],
            Shape::Operator => {
                let run = innermost(&mut runs);
                *run += 1;
                if *run > STATEMENT_TERMS_MAX {
                    return Err(too_complex("has too many terms"));
                }
            }
            Shape::Leaf => {}
        }
    }
    Ok(())
}

fn innermost(runs: &mut [usize]) -> &mut usize {
    // The vector starts with one level and never loses it.
    let last = runs.len() - 1;
    &mut runs[last]
}

fn too_complex(what: &str) -> Failure {
    Failure::new(SqlState::StatementTooComplex, format!("the statement {what}"))
        .with_detail(format!(
            "a statement may nest {STATEMENT_DEPTH_MAX} levels and chain {STATEMENT_TERMS_MAX} operators"
        ))
        .with_hint("use IN (…) for a long list of alternatives, or a join with VALUES")
}

/// What a token does to the depth and the length of a run.
enum Shape {
    Open,
    Close,
    Restart,
    StatementEnd,
    Operator,
    Leaf,
}

fn shape(token: &Token) -> Shape {
    match token {
        Token::LParen | Token::LBracket | Token::LBrace => Shape::Open,
        Token::RParen | Token::RBracket | Token::RBrace => Shape::Close,
        Token::Comma => Shape::Restart,
        Token::SemiColon => Shape::StatementEnd,
        Token::Word(word) => match word.keyword {
            Keyword::CASE => Shape::Open,
            Keyword::END => Shape::Close,
            Keyword::WHEN | Keyword::THEN | Keyword::ELSE => Shape::Restart,
            Keyword::AND
            | Keyword::OR
            | Keyword::NOT
            | Keyword::UNION
            | Keyword::INTERSECT
            | Keyword::EXCEPT
            | Keyword::JOIN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::IS
            | Keyword::IN
            | Keyword::BETWEEN
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::SELECT
            | Keyword::EXPLAIN
            | Keyword::WITH => Shape::Operator,
            _ => Shape::Leaf,
        },
        Token::EOF
        | Token::Number(..)
        | Token::Char(_)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::TripleSingleQuotedString(_)
        | Token::TripleDoubleQuotedString(_)
        | Token::DollarQuotedString(_)
        | Token::SingleQuotedByteStringLiteral(_)
        | Token::DoubleQuotedByteStringLiteral(_)
        | Token::NationalStringLiteral(_)
        | Token::EscapedStringLiteral(_)
        | Token::UnicodeStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::Whitespace(_)
        | Token::Period
        | Token::Placeholder(_) => Shape::Leaf,
        // Whatever else there is, is an operator of one or two operands.
        _ => Shape::Operator,
    }
}

#[cfg(test)]
mod tests {
    use sqlparser::dialect::PostgreSqlDialect;
    use sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn check(text: &str) -> Result<()> {
        check_shape(
            &Tokenizer::new(&PostgreSqlDialect {}, text)
                .tokenize_with_location()
                .expect("tokens"),
        )
    }

    #[test]
    fn long_lists_pass_and_long_chains_do_not() {
        let rows = vec!["(1 + 2, 'a')"; 50_000].join(", ");
        check(&format!("INSERT INTO t VALUES {rows}")).expect("a list recurses nowhere");
        let sum = vec!["1"; STATEMENT_TERMS_MAX + 2].join(" + ");
        let failure = check(&format!("SELECT {sum}")).expect_err("a chain recurses");
        assert_eq!(failure.code(), SqlState::StatementTooComplex);
        let not = "NOT ".repeat(STATEMENT_TERMS_MAX + 1);
        check(&format!("SELECT {not} true")).expect_err("unary operators chain too");
    }

    #[test]
    fn depth_is_counted_in_parentheses_and_cases() {
        let deep = |n: usize| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n));
        check(&deep(STATEMENT_DEPTH_MAX - 1)).expect("fits");
        check(&deep(STATEMENT_DEPTH_MAX)).expect_err("too deep");
        let cases = "CASE WHEN true THEN ".repeat(STATEMENT_DEPTH_MAX);
        check(&format!("SELECT {cases}")).expect_err("too deep");
    }

    #[test]
    fn text_beyond_the_limit_is_refused() {
        let text = " ".repeat(STATEMENT_TEXT_BYTES_MAX + 1);
        let failure = check_length(&text).expect_err("too long");
        assert_eq!(failure.code(), SqlState::ProgramLimitExceeded);
    }
}
