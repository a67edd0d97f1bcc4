//! `COPY collection FROM STDIN`: rows as text or CSV, one statement, all or nothing.
//!
//! Each row becomes the row of an `INSERT` with parameters, so types, NOT NULL and keys are treated
//! as there; the whole is written when the client says that it is done. Errors name the line.
//! The formats are PostgreSQL's: `text` with tabs, `\N` and backslash escapes, `csv` with quotes.

use std::sync::Arc;

use nodedb_bridge::plan::RowWrite;
use nodedb_query::plan::{Command, Environment, Plan, WritePlan, WriteSource};
use nodedb_query::{BindContext, Bound};
use nodedb_types::{Collection, DataType, Failure, Result, SqlState, Value, text};
use sqlparser::ast::{
    self, CopyLegacyCsvOption, CopyLegacyOption, CopyOption, CopySource, CopyTarget,
};

use super::execution::{Execution, Tag};
use super::{Caller, Session};
use crate::catalog::snapshot::SessionCatalog;
use crate::coordinate;
use crate::sql::ddl;
use crate::sql::parse;

/// How rows are written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Style {
    csv: bool,
    header: bool,
    delimiter: u8,
    null: String,
    quote: u8,
    escape: u8,
}

impl Style {
    fn new(csv: bool) -> Style {
        Style {
            csv,
            header: false,
            delimiter: if csv { b',' } else { b'\t' },
            null: if csv { String::new() } else { "\\N".to_owned() },
            quote: b'"',
            escape: b'"',
        }
    }
}

/// A COPY that receives rows.
pub struct CopyIn {
    collection: Arc<Collection>,
    types: Vec<DataType>,
    style: Style,
    bound: Arc<Bound>,
    environment: Environment,
    caller: Caller,
    /// Bytes of a row that has not ended yet.
    rest: Vec<u8>,
    line: u64,
    rows: Vec<RowWrite>,
    bytes: usize,
    /// Text format: `\.` was read, what follows is ignored.
    ended: bool,
}

impl Session {
    /// Begins `COPY … FROM STDIN`; `None` when the statement is something else.
    pub fn copy_in(&self, statement: &parse::Statement) -> Result<Option<CopyIn>> {
        let parse::Statement::Sql(statement) = statement else {
            return Ok(None);
        };
        let ast::Statement::Copy {
            source,
            to,
            target,
            options,
            legacy_options,
            values,
        } = &**statement
        else {
            return Ok(None);
        };
        if *to {
            return Err(Failure::unsupported("COPY … TO"));
        }
        if *target != CopyTarget::Stdin || !values.is_empty() {
            return Err(Failure::unsupported("COPY from anything but STDIN"));
        }
        let CopySource::Table {
            table_name,
            columns,
        } = source
        else {
            return Err(Failure::unsupported("COPY FROM into a query"));
        };
        let catalog = self.worker.node.catalog.load();
        let collection = catalog.require(&ddl::relation(table_name)?)?.clone();
        let positions = positions(&collection, columns)?;
        let types: Vec<DataType> = positions
            .iter()
            .map(|p| collection.columns[*p].data_type)
            .collect();
        let bound = self.bind_insert(&collection, &positions, catalog)?;
        let limits = self.limits();
        Ok(Some(CopyIn {
            caller: self.caller(bound.pins().clone(), &limits),
            environment: self.worker.environment(&self.info),
            style: style(options, legacy_options)?,
            collection,
            types,
            bound,
            rest: Vec::new(),
            line: 0,
            rows: Vec::new(),
            bytes: 0,
            ended: false,
        }))
    }

    /// The `INSERT` that each row is given to.
    fn bind_insert(
        &self,
        collection: &Collection,
        positions: &[usize],
        snapshot: Arc<crate::catalog::Snapshot>,
    ) -> Result<Arc<Bound>> {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let columns: Vec<String> = positions
            .iter()
            .map(|p| quoted(&collection.columns[*p].name))
            .collect();
        let values: Vec<String> = (1..=columns.len()).map(|n| format!("${n}")).collect();
        let text = format!(
            "INSERT INTO {} ({}) VALUES ({})",
            quoted(&collection.name),
            columns.join(", "),
            values.join(", ")
        );
        let parsed = parse::parse(&text)?.remove(0);
        let parse::Statement::Sql(statement) = &parsed.statement else {
            return Err(Failure::internal("an INSERT parsed as something else"));
        };
        let context = BindContext {
            catalog: Arc::new(SessionCatalog {
                snapshot,
                settings: Vec::new(),
            }),
            session: &self.info,
            text: &text,
        };
        nodedb_query::bind(statement, &[], &context).map(Arc::new)
    }
}

fn positions(collection: &Collection, columns: &[ast::Ident]) -> Result<Vec<usize>> {
    if columns.is_empty() {
        return Ok((0..collection.columns.len()).collect());
    }
    let mut positions = Vec::new();
    for ident in columns {
        let name = ddl::fold(ident)?;
        let position = collection.column(&name).ok_or_else(|| {
            Failure::new(
                SqlState::UndefinedColumn,
                format!(
                    "column \"{name}\" of relation \"{}\" does not exist",
                    collection.name
                ),
            )
        })?;
        if positions.contains(&position) {
            return Err(Failure::new(
                SqlState::DuplicateColumn,
                format!("column \"{name}\" specified more than once"),
            ));
        }
        positions.push(position);
    }
    Ok(positions)
}

fn style(options: &[CopyOption], legacy: &[CopyLegacyOption]) -> Result<Style> {
    let csv = options
        .iter()
        .any(|o| matches!(o, CopyOption::Format(f) if f.value.eq_ignore_ascii_case("csv")))
        || legacy.iter().any(|o| matches!(o, CopyLegacyOption::Csv(_)));
    let mut style = Style::new(csv);
    for option in options {
        match option {
            CopyOption::Format(f) => match f.value.to_lowercase().as_str() {
                "csv" | "text" => {}
                other => return Err(Failure::unsupported(format!("COPY format \"{other}\""))),
            },
            CopyOption::Header(header) => style.header = *header,
            CopyOption::Delimiter(c) => style.delimiter = ascii(*c, "delimiter")?,
            CopyOption::Null(null) => style.null.clone_from(null),
            CopyOption::Quote(c) if csv => {
                style.quote = ascii(*c, "quote")?;
                style.escape = style.quote;
            }
            CopyOption::Escape(c) if csv => style.escape = ascii(*c, "escape")?,
            CopyOption::Encoding(name) if name.eq_ignore_ascii_case("utf8") => {}
            other => return Err(Failure::unsupported(format!("the COPY option {other}"))),
        }
    }
    for option in legacy {
        match option {
            CopyLegacyOption::Header => style.header = true,
            CopyLegacyOption::Delimiter(c) => style.delimiter = ascii(*c, "delimiter")?,
            CopyLegacyOption::Null(null) => style.null.clone_from(null),
            CopyLegacyOption::Csv(parts) => {
                for part in parts {
                    match part {
                        CopyLegacyCsvOption::Header => style.header = true,
                        CopyLegacyCsvOption::Quote(c) => {
                            style.quote = ascii(*c, "quote")?;
                            style.escape = style.quote;
                        }
                        CopyLegacyCsvOption::Escape(c) => style.escape = ascii(*c, "escape")?,
                        other => {
                            return Err(Failure::unsupported(format!("the COPY option {other}")));
                        }
                    }
                }
            }
            other => return Err(Failure::unsupported(format!("the COPY option {other}"))),
        }
    }
    if style.header && !style.csv {
        return Err(Failure::unsupported("HEADER in COPY's text format"));
    }
    Ok(style)
}

fn ascii(c: char, what: &str) -> Result<u8> {
    match u8::try_from(c) {
        Ok(byte) if byte.is_ascii() && byte != b'\n' && byte != b'\r' => Ok(byte),
        _ => Err(Failure::new(
            SqlState::InvalidParameterValue,
            format!("COPY {what} must be a single one-byte character"),
        )),
    }
}

impl CopyIn {
    /// Columns that a row has.
    pub fn columns(&self) -> usize {
        self.types.len()
    }

    /// Takes a piece of the data, cut anywhere.
    pub fn feed(&mut self, data: &[u8]) -> Result<()> {
        self.caller.limits.check()?;
        self.rest.extend_from_slice(data);
        let rest = std::mem::take(&mut self.rest);
        let mut from = 0;
        while let Some(end) = row_end(&rest[from..], &self.style) {
            self.take_row(&rest[from..from + end])?;
            from += end + 1;
        }
        self.rest = rest[from..].to_vec();
        self.check_size(self.rest.len())
    }

    /// The data has ended: writes the rows.
    pub async fn finish(mut self) -> Result<Execution> {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            if self.style.csv && row_open(&rest, &self.style) {
                return Err(self.bad("unterminated CSV quoted field"));
            }
            self.take_row(&rest)?;
        }
        let mut keys = std::collections::HashSet::with_capacity(self.rows.len());
        for row in &self.rows {
            if !keys.insert(row.key.clone()) {
                return Err(nodedb_query::plan::duplicate_key(
                    &self.collection,
                    &row.key,
                ));
            }
        }
        drop(keys);
        let rows = self.rows;
        let plan = |rows| WritePlan {
            command: Command::Insert,
            collection: self.collection.clone(),
            returning: None,
            source: WriteSource::Keyed(rows),
        };
        let again = || Ok(plan(rows.clone()));
        let done = coordinate::write(&self.caller, plan(rows.clone()), again).await?;
        Ok(Execution::done(Tag::Changed("COPY", done.affected)))
    }

    fn check_size(&self, more: usize) -> Result<()> {
        let max = self.caller.worker.node.facts.statement_bytes_max;
        if self.bytes + more <= max {
            return Ok(());
        }
        Err(Failure::new(
            SqlState::ProgramLimitExceeded,
            format!("COPY takes at most {max} bytes"),
        )
        .with_hint("load the rows in several statements"))
    }

    fn bad(&self, message: &str) -> Failure {
        self.at_line(Failure::new(SqlState::BadCopyFormat, message))
    }

    fn at_line(&self, failure: Failure) -> Failure {
        let place = format!("COPY {}, line {}", self.collection.name, self.line);
        match failure.detail() {
            Some(detail) => {
                let detail = format!("{detail} ({place})");
                failure.with_detail(detail)
            }
            None => failure.with_detail(place),
        }
    }

    fn take_row(&mut self, row: &[u8]) -> Result<()> {
        self.line += 1;
        let row = row.strip_suffix(b"\r").unwrap_or(row);
        if self.ended || (self.style.header && self.line == 1) {
            return Ok(());
        }
        if row == b"\\." {
            self.ended = true;
            return Ok(());
        }
        let fields = match self.style.csv {
            true => csv_fields(row, &self.style),
            false => text_fields(row, &self.style),
        };
        let fields = fields.map_err(|e| self.at_line(e))?;
        if fields.len() > self.types.len() {
            return Err(self.bad("extra data after last expected column"));
        }
        if fields.len() < self.types.len() {
            let column = &self.collection.columns[fields.len()].name;
            return Err(self.bad(&format!("missing data for column \"{column}\"")));
        }
        let values = fields
            .into_iter()
            .zip(&self.types)
            .map(|(field, data_type)| match field {
                None => Ok(Value::Null),
                Some(bytes) => text::parse(utf8(&bytes)?, data_type),
            })
            .collect::<Result<Vec<_>>>()
            .map_err(|e| self.at_line(e))?;
        let plan = self
            .bound
            .instantiate(&values, &self.environment)
            .map_err(|e| self.at_line(e))?;
        let Plan::Write(plan) = plan else {
            return Err(Failure::internal("an INSERT of values is no write"));
        };
        let WriteSource::Keyed(writes) = plan.source else {
            return Err(Failure::internal("an INSERT of values reads"));
        };
        for write in writes {
            self.bytes += coordinate::write_bytes(&write);
            self.rows.push(write);
        }
        self.check_size(0)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| {
        Failure::new(
            SqlState::CharacterNotInRepertoire,
            "invalid byte sequence for encoding \"UTF8\"",
        )
    })
}

/// Where the first row ends, if it does.
fn row_end(data: &[u8], style: &Style) -> Option<usize> {
    if !style.csv {
        let mut escaped = false;
        return data.iter().position(|b| {
            let end = *b == b'\n' && !escaped;
            escaped = *b == b'\\' && !escaped;
            end
        });
    }
    let mut quoted = false;
    let mut i = 0;
    while i < data.len() {
        match data[i] {
            b if quoted && b == style.escape && style.escape != style.quote => i += 1,
            b if b == style.quote => quoted = !quoted,
            b'\n' if !quoted => return Some(i),
            _ => {}
        }
        i += 1;
    }
    None
}

/// Whether a quoted field is still open at the end of a CSV row.
fn row_open(row: &[u8], style: &Style) -> bool {
    let mut ended = row.to_vec();
    ended.push(b'\n');
    row_end(&ended, style).is_none()
}

type Field = Option<Vec<u8>>;

fn text_fields(row: &[u8], style: &Style) -> Result<Vec<Field>> {
    let mut fields = Vec::new();
    let mut from = 0;
    let mut i = 0;
    loop {
        if i >= row.len() || row[i] == style.delimiter {
            let raw = &row[from..i.min(row.len())];
            fields.push(match raw == style.null.as_bytes() {
                true => None,
                false => Some(unescape(raw)),
            });
            if i >= row.len() {
                return Ok(fields);
            }
            from = i + 1;
        } else if row[i] == b'\\' {
            i += 1;
        }
        i += 1;
    }
}

/// Backslash escapes of the text format.
fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut i = 0;
    while i < raw.len() {
        if raw[i] != b'\\' || i + 1 == raw.len() {
            out.push(raw[i]);
            i += 1;
            continue;
        }
        i += 2;
        match raw[i - 1] {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(11),
            b'x' => {
                let (value, digits) = number(&raw[i..], 16, 2);
                i += digits;
                out.push(if digits == 0 { b'x' } else { value });
            }
            b'0'..=b'7' => {
                let (value, digits) = number(&raw[i - 1..], 8, 3);
                i += digits - 1;
                out.push(value);
            }
            other => out.push(other),
        }
    }
    out
}

/// Digits of a base at the front, at most `max` of them.
fn number(raw: &[u8], base: u32, max: usize) -> (u8, usize) {
    let mut value = 0u32;
    let mut digits = 0;
    while digits < max {
        match raw.get(digits).and_then(|b| (*b as char).to_digit(base)) {
            Some(digit) => value = value * base + digit,
            None => break,
        }
        digits += 1;
    }
    (value as u8, digits)
}

fn csv_fields(row: &[u8], style: &Style) -> Result<Vec<Field>> {
    let mut fields = Vec::new();
    let mut field = Vec::new();
    let (mut quoted, mut was_quoted) = (false, false);
    let mut i = 0;
    while i < row.len() {
        let b = row[i];
        if quoted {
            let next = row.get(i + 1).copied();
            if b == style.escape && next.is_some_and(|n| n == style.quote || n == style.escape) {
                field.extend(next);
                i += 1;
            } else if b == style.quote {
                quoted = false;
            } else {
                field.push(b);
            }
        } else if b == style.quote {
            (quoted, was_quoted) = (true, true);
        } else if b == style.delimiter {
            fields.push(csv_field(std::mem::take(&mut field), was_quoted, style));
            was_quoted = false;
        } else {
            field.push(b);
        }
        i += 1;
    }
    if quoted {
        return Err(Failure::new(
            SqlState::BadCopyFormat,
            "unterminated CSV quoted field",
        ));
    }
    fields.push(csv_field(field, was_quoted, style));
    Ok(fields)
}

/// An unquoted field that is written like NULL is one.
fn csv_field(field: Vec<u8>, quoted: bool, style: &Style) -> Field {
    (quoted || field != style.null.as_bytes()).then_some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(fields: Result<Vec<Field>>) -> Vec<Option<String>> {
        let fields = fields.expect("splits");
        let text = |f: Vec<u8>| String::from_utf8(f).expect("utf-8");
        fields.into_iter().map(|f| f.map(text)).collect()
    }

    #[test]
    fn text_rows_split_and_unescape() {
        let style = Style::new(false);
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(
            shown(text_fields(b"a\\tb\t\\N\t\t\\\\N\t\\x41\\101\\q", &style)),
            [some("a\tb"), None, some(""), some("\\N"), some("AAq")]
        );
        assert_eq!(row_end(b"a\\\nb\nc", &style), Some(4));
        assert_eq!(row_end(b"no end", &style), None);
    }

    #[test]
    fn csv_rows_split_and_unquote() {
        let style = Style::new(true);
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(
            shown(csv_fields(b"a,,\"\",\"x \"\"y\"\", z\",b\"c,d\"e", &style)),
            [some("a"), None, some(""), some("x \"y\", z"), some("bc,de")]
        );
        assert_eq!(row_end(b"\"a\nb\",c\nd", &style), Some(7));
        assert!(row_open(b"\"a", &style));
        assert!(!row_open(b"\"a\"", &style));
    }
}
