//! Names and values as a statement would spell them.

use nodedb_types::{Result, Value};

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
