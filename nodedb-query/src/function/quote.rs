//! Names and values as a statement would spell them.

use nodedb_types::{Failure, Result, SqlState, Value};

use super::string::shown;
use super::{Argument, Function, TEXT, TEXT_TYPE, arguments, row};

/// Words that a name must be quoted for, ascending (PostgreSQL's keywords that are not free to be
/// used as names everywhere).
static RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

fn quote_ident(s: &str) -> String {
    let plain = s
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && s.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && RESERVED.binary_search(&s).is_err();
    if plain {
        s.to_owned()
    } else {
        format!("\"{}\"", s.replace('"', "\"\""))
    }
}

/// A backslash makes it an escape string, which reads the same under every setting.
/// A place of `format`'s template: which argument, how it is quoted, how wide.
struct Place {
    argument: Option<usize>,
    width: i64,
    kind: char,
}

fn unterminated() -> Failure {
    Failure::new(
        SqlState::InvalidParameterValue,
        "unterminated format() type specifier",
    )
    .with_hint("For a single \"%\" use \"%%\".")
}

/// Digits at the front, and what follows.
fn leading_number(text: &str) -> (Option<i64>, &str) {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    (text[..end].parse().ok(), &text[end..])
}

/// `format(template, …)`: `%s`, `%I`, `%L`, each with a position (`%2$s`) and a width (`%-10s`,
/// `%*s`) if so written.
fn format(values: &[Value]) -> Result<Value> {
    let [template, arguments @ ..] = values else {
        return Err(super::wrong_arguments(values));
    };
    let Value::Text(template) = template else {
        return Ok(Value::Null);
    };
    let too_few = || {
        Failure::new(
            SqlState::InvalidParameterValue,
            "too few arguments for format()",
        )
    };
    let mut out = String::new();
    let mut next = 0;
    let mut rest = template.as_str();
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (place, after) = place(rest, arguments, &mut next)?;
        rest = after;
        let index = place.argument.unwrap_or(next);
        next = index + 1;
        let value = arguments.get(index).ok_or_else(too_few)?;
        let shown = match (place.kind, value) {
            ('s', Value::Null) => String::new(),
            ('s', value) => shown(value),
            ('I', Value::Null) => {
                return Err(Failure::new(
                    SqlState::NullValueNotAllowed,
                    "null values cannot be formatted as an SQL identifier",
                ));
            }
            ('I', value) => quote_ident(&self::shown(value)),
            ('L', Value::Null) => "NULL".to_owned(),
            ('L', value) => quote_literal(&self::shown(value)),
            (other, _) => {
                return Err(Failure::new(
                    SqlState::InvalidParameterValue,
                    format!("unrecognized format() type specifier \"{other}\""),
                )
                .with_hint("For a single \"%\" use \"%%\"."));
            }
        };
        let width = usize::try_from(place.width.unsigned_abs()).unwrap_or(usize::MAX);
        if width > FORMAT_WIDTH_MAX {
            return Err(Failure::new(
                SqlState::ProgramLimitExceeded,
                "the width in format() is too large",
            ));
        }
        match place.width < 0 {
            true => out.push_str(&format!("{shown:<width$}")),
            false => out.push_str(&format!("{shown:>width$}")),
        }
    }
    out.push_str(rest);
    Ok(Value::Text(out))
}

/// Widest field that `format` pads to, characters.
const FORMAT_WIDTH_MAX: usize = 1 << 20;

/// Reads a place behind its `%`; `next` moves on by a width that is an argument.
fn place<'t>(text: &'t str, arguments: &[Value], next: &mut usize) -> Result<(Place, &'t str)> {
    let mut place = Place {
        argument: None,
        width: 0,
        kind: 's',
    };
    let mut rest = text;
    if let (Some(n), after) = leading_number(rest)
        && let Some(after) = after.strip_prefix('$')
    {
        if n == 0 {
            return Err(Failure::new(
                SqlState::InvalidParameterValue,
                "format specifies argument 0, but arguments are numbered from 1",
            ));
        }
        place.argument = usize::try_from(n - 1).ok();
        rest = after;
    }
    let mut is_left = false;
    while let Some(after) = rest.strip_prefix('-') {
        is_left = true;
        rest = after;
    }
    if let Some(after) = rest.strip_prefix('*') {
        let (position, behind) = match leading_number(after) {
            (Some(n), behind) if behind.starts_with('$') => (Some(n), &behind[1..]),
            _ => (None, after),
        };
        let index = match position {
            Some(n) => usize::try_from(n - 1).unwrap_or(usize::MAX),
            None => {
                *next += 1;
                *next - 1
            }
        };
        place.width = match arguments.get(index) {
            Some(Value::Null) => 0,
            Some(Value::Int2(n)) => i64::from(*n),
            Some(Value::Int4(n)) => i64::from(*n),
            Some(value) => shown(value).trim().parse().map_err(|_| {
                Failure::new(
                    SqlState::InvalidTextRepresentation,
                    format!(
                        "invalid input syntax for type integer: \"{}\"",
                        shown(value)
                    ),
                )
            })?,
            None => {
                return Err(Failure::new(
                    SqlState::InvalidParameterValue,
                    "too few arguments for format()",
                ));
            }
        };
        rest = behind;
    } else if let (Some(n), after) = leading_number(rest) {
        place.width = n;
        rest = after;
    }
    if is_left {
        place.width = -place.width.abs();
    }
    let mut chars = rest.chars();
    place.kind = chars.next().ok_or_else(unterminated)?;
    Ok((place, chars.as_str()))
}

fn quote_literal(s: &str) -> String {
    let doubled = s.replace('\'', "''");
    if s.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

fn text(s: impl Into<String>) -> Result<Value> {
    Ok(Value::Text(s.into()))
}

fn nullable(values: &[Value]) -> Result<Value> {
    match values {
        [Value::Null] => text("NULL"),
        [value] => text(quote_literal(&shown(value))),
        other => Err(super::wrong_arguments(other)),
    }
}

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "format",
        &[TEXT, Argument::Any],
        super::TEXT_TYPE,
        format,
        "values put into a template",
    )
    .variadic()
    .sees_null(),
    row(
        "format",
        &[TEXT],
        super::TEXT_TYPE,
        format,
        "a template without places",
    ),
    row(
        "quote_ident",
        &[TEXT],
        TEXT_TYPE,
        |v| arguments!(v, Value::Text(s) => text(quote_ident(s))),
        "quoted as a name",
    ),
    row(
        "quote_literal",
        &[Argument::Any],
        TEXT_TYPE,
        |v| arguments!(v, value => text(quote_literal(&shown(value)))),
        "quoted as a literal",
    ),
    row(
        "quote_nullable",
        &[Argument::Any],
        TEXT_TYPE,
        nullable,
        "quoted as a literal, or the word NULL",
    )
    .sees_null(),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_as_postgres_quotes() {
        assert!(RESERVED.is_sorted());
        assert_eq!(quote_ident("abc_1"), "abc_1");
        assert_eq!(quote_ident("select"), "\"select\"");
        assert_eq!(quote_ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("O'Reilly"), "'O''Reilly'");
        assert_eq!(quote_literal("a\\b"), "E'a\\\\b'");
    }
}
