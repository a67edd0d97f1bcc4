//! CSV and TSV: fields between commas or tabs, a header that names the columns.
//!
//! A field in double quotes may hold the delimiter, line breaks, and quotes written twice. An
//! unquoted empty field is NULL, a quoted one an empty text.

use std::io::BufRead;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use nodedb_client::{Client, Value};

use super::source::{Lines, utf8};
use super::watch::Progress;
use super::{Loader, Rows};

pub(super) async fn load(
    client: &Client,
    lines: Lines<impl BufRead>,
    delimiter: u8,
    collection: &str,
    progress: &Arc<Progress>,
) -> Result<u64> {
    let mut records = Records {
        lines,
        delimiter: delimiter.into(),
        record: Vec::new(),
    };
    let header = records.next().context("the header")?;
    let header = header.ok_or_else(|| anyhow!("the file is empty: a header is expected"))?;
    let names: Vec<String> = header.into_iter().map(Option::unwrap_or_default).collect();
    let loader = Loader::new(client, collection, &names, None, progress).await?;
    let width = names.len();
    loader.load(&mut Table { records, width }).await
}

/// The rows below the header.
struct Table<R> {
    records: Records<R>,
    /// Columns of the header.
    width: usize,
}

impl<R: BufRead> Rows for Table<R> {
    fn next(&mut self, loader: &Loader<'_>) -> Result<Option<Vec<Value>>> {
        let row = || format!("row {}", loader.row_number());
        let Some(record) = self.records.next().with_context(row)? else {
            return Ok(None);
        };
        if record.len() != self.width {
            bail!(
                "{}: {} fields where the header has {}",
                row(),
                record.len(),
                self.width
            );
        }
        let cell = |(at, field): (usize, Option<String>)| match field {
            None => Ok(Value::Null),
            Some(field) => loader.cast(at, &field),
        };
        record
            .into_iter()
            .enumerate()
            .map(cell)
            .collect::<Result<_>>()
            .map(Some)
    }
}

/// Records; a quoted field may span lines.
struct Records<R> {
    lines: Lines<R>,
    delimiter: char,
    /// Kept for its memory.
    record: Vec<u8>,
}

impl<R: BufRead> Records<R> {
    fn next(&mut self) -> Result<Option<Vec<Option<String>>>> {
        self.record.clear();
        let mut quotes = 0;
        let begun = self.lines.number + 1;
        loop {
            let from = self.record.len();
            if !self.lines.add_to(&mut self.record)? {
                if from == 0 {
                    return Ok(None);
                }
                bail!("a quoted field is not closed; the row begins on line {begun}");
            }
            quotes += self.record[from..].iter().filter(|&&b| b == b'"').count();
            // Quotes are even exactly when no quoted field is open.
            if !quotes.is_multiple_of(2) {
                continue;
            }
            let record = utf8(&self.record)?.trim_end_matches(['\n', '\r']);
            if record.is_empty() {
                self.record.clear();
                continue;
            }
            return Ok(Some(fields(record, self.delimiter)));
        }
    }
}

fn fields(record: &str, delimiter: char) -> Vec<Option<String>> {
    let mut fields = Vec::new();
    let (mut field, mut quoted, mut open) = (String::new(), false, false);
    let mut chars = record.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if open && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => {
                open = !open;
                quoted = true;
            }
            c if c == delimiter && !open => {
                let done = std::mem::take(&mut field);
                fields.push((quoted || !done.is_empty()).then_some(done));
                quoted = false;
            }
            c => field.push(c),
        }
    }
    fields.push((quoted || !field.is_empty()).then_some(field));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &[u8]) -> Records<&[u8]> {
        Records {
            lines: Lines::new(text).expect("a text"),
            delimiter: ',',
            record: Vec::new(),
        }
    }

    #[test]
    fn records_and_their_fields() {
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(
            fields("a,,\"\",\"b \"\"c\"\",d\"", ','),
            [some("a"), None, some(""), some("b \"c\",d")]
        );
        assert_eq!(fields("a,b\tc", '\t'), [some("a,b"), some("c")]);
        let mut records = records(b"\xef\xbb\xbfx,y\n\"a\nb\",2\n\n3,4");
        assert_eq!(records.next().unwrap().unwrap()[0], some("x"));
        assert_eq!(records.next().unwrap().unwrap()[0], some("a\nb"));
        assert_eq!(records.next().unwrap().unwrap()[1], some("4"));
        assert!(records.next().unwrap().is_none());
    }

    #[test]
    fn an_open_quote_and_bytes_that_are_no_text_are_told() {
        let mut open = records(b"x\n\"a\nb\nc\n");
        open.next().expect("the header");
        let error = open.next().expect_err("it is open").to_string();
        assert!(error.contains("begins on line 2"), "{error}");
        let error = records(b"caf\xe9\n")
            .next()
            .expect_err("Latin 1")
            .to_string();
        assert!(error.contains("after 3 bytes"), "{error}");
    }
}
