//! Reading CSV, NDJSON and Parquet into rows of a collection: `ndb import` and the demo.
//!
//! Columns are matched by name; text is cast to the column's type. Rows go in batches of one
//! `INSERT` each; while the server works on one, the next is read. When a row is at fault, the error
//! names it, and all rows before it are committed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use arrow::array::types::{Float16Type, Float32Type, Float64Type};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType as Arrow;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nodedb_client::{Client, DataType, Failure, Value};
use nodedb_server::schedule;
use nodedb_types::{arrow_map, text};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::ChunkReader;
use tokio::task::JoinHandle;

/// Rows of one `INSERT`: more are loaded a little faster, and keep the server's other clients waiting
/// longer. Its parameters stay far below the protocol's limit.
const BATCH_ROWS: usize = 150;
/// Bytes of values of one `INSERT`, about.
const BATCH_BYTES: usize = 4 << 20;
const PARAMETERS_MAX: usize = 30_000;

/// Names and types of a collection's columns, as the server tells them.
pub async fn columns_of(client: &Client, collection: &str) -> Result<Vec<(String, DataType)>> {
    let sql = format!("SELECT * FROM {} LIMIT 0", quote(collection));
    let mut rows = client.sql(&sql, &[]).await?;
    Ok(rows.columns().await?.to_vec())
}

/// A name as SQL reads it back.
pub fn quote(name: &str) -> String {
    let part = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// Inserts rows in batches and shows progress on a terminal after half a second.
pub struct Loader<'a> {
    client: &'a Client,
    collection: String,
    /// Of the collection.
    columns: Vec<(String, DataType)>,
    /// Positions in `columns` of the source's columns.
    chosen: Vec<usize>,
    pending: Vec<Value>,
    pending_rows: usize,
    pending_bytes: usize,
    under_way: Option<Batch>,
    committed: u64,
    bar: ProgressBar,
}

/// Rows that the server is writing.
struct Batch {
    rows: usize,
    /// Gives the values back, with the number of rows committed.
    answer: JoinHandle<(Vec<Value>, nodedb_client::Result<u64>)>,
}

impl<'a> Loader<'a> {
    /// `names`: the source's columns. `total`: rows expected, if known.
    pub async fn new(
        client: &'a Client,
        collection: &str,
        names: &[String],
        total: Option<u64>,
    ) -> Result<Loader<'a>> {
        let columns = columns_of(client, collection).await?;
        let mut chosen = Vec::new();
        for name in names {
            let at = columns
                .iter()
                .position(|(column, _)| column == name)
                .ok_or_else(|| {
                    let known: Vec<&str> = columns.iter().map(|(c, _)| c.as_str()).collect();
                    anyhow!(
                        "collection {collection} has no column \"{name}\"; it has {}",
                        known.join(", ")
                    )
                })?;
            if chosen.contains(&at) {
                bail!("the file names column \"{name}\" twice");
            }
            chosen.push(at);
        }
        let bar = match total {
            Some(rows) => ProgressBar::new(rows),
            None => ProgressBar::no_length(),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        bar.set_style(ProgressStyle::with_template(
            "{bar:32} {pos} of {len} rows  {per_sec}  {eta}",
        )?);
        Ok(Loader {
            client,
            collection: collection.to_owned(),
            columns,
            chosen,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            under_way: None,
            committed: 0,
            bar,
        })
    }

    /// The type of the source's column `at`.
    pub fn data_type(&self, at: usize) -> &DataType {
        &self.columns[self.chosen[at]].1
    }

    fn row_number(&self) -> u64 {
        let sent = self.under_way.as_ref().map_or(0, |batch| batch.rows);
        self.committed + (sent + self.pending_rows) as u64 + 1
    }

    /// Casts text to the type of the source's column `at`.
    fn cast(&self, at: usize, cell: &str) -> Result<Value> {
        text::parse(cell, self.data_type(at)).map_err(|failure| self.fault(at, &failure))
    }

    fn fault(&self, at: usize, failure: &nodedb_client::Failure) -> anyhow::Error {
        let column = &self.columns[self.chosen[at]].0;
        anyhow!("row {}, column \"{column}\": {failure}", self.row_number())
    }

    /// Adds a row, its values in the order of the source's columns.
    pub async fn add(&mut self, row: Vec<Value>) -> Result<()> {
        schedule::breathe();
        self.pending_bytes += row.iter().map(weight).sum::<usize>();
        self.pending.extend(row);
        self.pending_rows += 1;
        let parameters = self.pending.len() + self.chosen.len() > PARAMETERS_MAX;
        if self.pending_rows >= BATCH_ROWS || self.pending_bytes >= BATCH_BYTES || parameters {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends the rows that are pending, when those before them are committed.
    async fn flush(&mut self) -> Result<()> {
        self.land().await?;
        let rows = std::mem::take(&mut self.pending_rows);
        let values = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        if rows > 0 {
            let sql = insert(&self.collection, &self.columns, &self.chosen, rows);
            let client = self.client.clone();
            let answer = tokio::spawn(async move {
                let done = client.execute(&sql, &values).await;
                (values, done)
            });
            self.under_way = Some(Batch { rows, answer });
        }
        Ok(())
    }

    /// Waits for the batch that is under way. When it fails, what was read after it is dropped.
    async fn land(&mut self) -> Result<()> {
        let Some(Batch { rows, answer }) = self.under_way.take() else {
            return Ok(());
        };
        let (values, done) = answer.await.context("the import broke off")?;
        let failure = match done {
            Ok(committed) => {
                self.committed += committed;
                self.bar.set_position(self.committed);
                return Ok(());
            }
            Err(failure) => failure,
        };
        self.pending.clear();
        (self.pending_rows, self.pending_bytes) = (0, 0);
        if !is_of_a_row(&failure) {
            let (first, last) = (self.committed + 1, self.committed + rows as u64);
            bail!("rows {first} to {last}: {failure}");
        }
        let failure = self.up_to_the_fault(&values, rows).await.unwrap_or(failure);
        let detail = failure
            .detail()
            .map(|d| format!(": {d}"))
            .unwrap_or_default();
        bail!("row {}: {failure}{detail}", self.committed + 1);
    }

    /// Sends what is pending and waits for all of it.
    async fn settle(&mut self) -> Result<()> {
        self.flush().await?;
        self.land().await
    }

    async fn insert(&mut self, values: &[Value], rows: usize) -> nodedb_client::Result<()> {
        let sql = insert(&self.collection, &self.columns, &self.chosen, rows);
        self.committed += self.client.execute(&sql, values).await?;
        Ok(())
    }

    /// Commits the rows of a refused batch that stand before the one at fault, halving what is
    /// left; gives that row's failure, or `None` if it is accepted now.
    async fn up_to_the_fault(&mut self, mut values: &[Value], rows: usize) -> Option<Failure> {
        let width = self.chosen.len();
        let mut left = rows;
        while left > 1 {
            let half = left / 2;
            match self.insert(&values[..half * width], half).await {
                Ok(()) => {
                    values = &values[half * width..];
                    left -= half;
                }
                Err(_) => left = half,
            }
        }
        self.insert(&values[..width], 1).await.err()
    }

    /// Sends what is left; gives the number of rows committed.
    pub async fn finish(mut self) -> Result<u64> {
        self.settle().await?;
        self.bar.finish_and_clear();
        Ok(self.committed)
    }
}

/// True for what a single row's values cause: bad data (22), a broken constraint (23).
fn is_of_a_row(failure: &Failure) -> bool {
    let code = failure.code().to_string();
    code.starts_with("22") || code.starts_with("23")
}

fn weight(value: &Value) -> usize {
    match value {
        Value::Text(v) | Value::Jsonb(v) => v.len(),
        Value::Bytea(v) | Value::Geometry(v) | Value::Geography(v) => v.len(),
        Value::Vector(v) => v.len() * 4,
        _ => 8,
    }
}

fn insert(
    collection: &str,
    columns: &[(String, DataType)],
    chosen: &[usize],
    rows: usize,
) -> String {
    let names: Vec<String> = chosen.iter().map(|&c| quote(&columns[c].0)).collect();
    let tuple = |row: usize| {
        let first = row * chosen.len() + 1;
        let marks: Vec<String> = (first..first + chosen.len())
            .map(|n| format!("${n}"))
            .collect();
        format!("({})", marks.join(","))
    };
    let tuples: Vec<String> = (0..rows).map(tuple).collect();
    format!(
        "INSERT INTO {} ({}) VALUES {}",
        quote(collection),
        names.join(","),
        tuples.join(",")
    )
}

/// Loads a file by its ending; gives the number of rows committed.
pub async fn file(client: &Client, path: &Path, collection: &str) -> Result<u64> {
    let ending = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or("")
        .to_ascii_lowercase();
    let open = || File::open(path).with_context(|| format!("cannot open {}", path.display()));
    match ending.as_str() {
        "csv" => csv(client, open()?, collection).await,
        "ndjson" | "jsonl" => ndjson(client, open()?, collection).await,
        "parquet" => parquet(client, open()?, collection).await,
        _ => bail!(
            "{}: import reads .csv, .ndjson, .jsonl and .parquet",
            path.display()
        ),
    }
}

/// Runs the loading and adds to an error what was committed before it.
macro_rules! reporting {
    ($loader:ident, $body:block) => {{
        let outcome: Result<()> = async { $body }.await;
        // What stands before a bad row is committed all the same.
        match $loader.settle().await.and(outcome) {
            Ok(()) => $loader.finish().await,
            Err(error) => {
                $loader.bar.finish_and_clear();
                let rows = $loader.committed;
                let were = if rows == 1 { "row was" } else { "rows were" };
                Err(anyhow!("{error:#}\n  {rows} {were} committed before it"))
            }
        }
    }};
}

/// Parquet with flat columns, lists of floats as vectors.
pub async fn parquet<R: ChunkReader + 'static>(
    client: &Client,
    source: R,
    collection: &str,
) -> Result<u64> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(source)?;
    let total = u64::try_from(builder.metadata().file_metadata().num_rows()).ok();
    let names: Vec<String> = builder
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let mut loader = Loader::new(client, collection, &names, total).await?;
    let batches = builder.with_batch_size(1024).build()?;
    reporting!(loader, {
        for batch in batches {
            let batch = batch?;
            for row in 0..batch.num_rows() {
                let values = (0..names.len())
                    .map(|column| parquet_cell(&loader, &batch, row, column))
                    .collect::<Result<_>>()?;
                loader.add(values).await?;
            }
        }
        Ok(())
    })
}

fn parquet_cell(loader: &Loader<'_>, batch: &RecordBatch, row: usize, at: usize) -> Result<Value> {
    let array = batch.column(at);
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let items = match array.data_type() {
        Arrow::FixedSizeList(..) => Some(array.as_fixed_size_list().value(row)),
        Arrow::List(_) => Some(array.as_list::<i32>().value(row)),
        Arrow::LargeList(_) => Some(array.as_list::<i64>().value(row)),
        _ => None,
    };
    if let Some(items) = items {
        return floats(&items)
            .map(Value::Vector)
            .ok_or_else(|| anyhow!("a list of {} is not a vector", items.data_type()));
    }
    let schema = batch.schema();
    let own = arrow_map::data_type_of(schema.field(at))?;
    let value = arrow_map::value_at(array, row, &own)?;
    match value {
        Value::Text(cell) => loader.cast(at, &cell),
        value => value
            .coerce(loader.data_type(at))
            .map_err(|failure| loader.fault(at, &failure)),
    }
}

fn floats(items: &dyn Array) -> Option<Vec<f32>> {
    if let Some(v) = items.as_primitive_opt::<Float32Type>() {
        return Some(v.values().to_vec());
    }
    if let Some(v) = items.as_primitive_opt::<Float64Type>() {
        return Some(v.values().iter().map(|x| *x as f32).collect());
    }
    let halves = items.as_primitive_opt::<Float16Type>()?;
    Some(halves.values().iter().map(|x| x.to_f32()).collect())
}

/// One JSON object per line; members are columns.
async fn ndjson(client: &Client, source: impl Read, collection: &str) -> Result<u64> {
    let columns = columns_of(client, collection).await?;
    let names: Vec<String> = columns.into_iter().map(|(name, _)| name).collect();
    let mut loader = Loader::new(client, collection, &names, None).await?;
    reporting!(loader, {
        for line in BufReader::new(source).lines() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let number = loader.row_number();
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line)
                .with_context(|| format!("row {number}: not a JSON object"))?;
            if let Some(name) = object.keys().find(|name| !names.contains(name)) {
                bail!("row {number}: collection {collection} has no column \"{name}\"");
            }
            let cell = |(at, name): (usize, &String)| match object.get(name) {
                None | Some(serde_json::Value::Null) => Ok(Value::Null),
                Some(serde_json::Value::String(text))
                    if loader.data_type(at) != &DataType::Jsonb =>
                {
                    loader.cast(at, text)
                }
                Some(other) => loader.cast(at, &other.to_string()),
            };
            let values = names.iter().enumerate().map(cell).collect::<Result<_>>()?;
            loader.add(values).await?;
        }
        Ok(())
    })
}

/// Comma-separated with a header; an unquoted empty field is NULL.
async fn csv(client: &Client, source: impl Read, collection: &str) -> Result<u64> {
    let mut reader = Records {
        source: BufReader::new(source),
    };
    let header = reader
        .next()?
        .ok_or_else(|| anyhow!("the file is empty: a header is expected"))?;
    let names: Vec<String> = header.into_iter().map(Option::unwrap_or_default).collect();
    let mut loader = Loader::new(client, collection, &names, None).await?;
    reporting!(loader, {
        while let Some(record) = reader.next()? {
            if record.len() != names.len() {
                bail!(
                    "row {}: {} fields where the header has {}",
                    loader.row_number(),
                    record.len(),
                    names.len()
                );
            }
            let cell = |(at, field): (usize, Option<String>)| match field {
                None => Ok(Value::Null),
                Some(field) => loader.cast(at, &field),
            };
            let values = record
                .into_iter()
                .enumerate()
                .map(cell)
                .collect::<Result<_>>()?;
            loader.add(values).await?;
        }
        Ok(())
    })
}

/// Records of a CSV file; a quoted field may span lines.
struct Records<R> {
    source: R,
}

impl<R: BufRead> Records<R> {
    fn next(&mut self) -> Result<Option<Vec<Option<String>>>> {
        let mut line = String::new();
        loop {
            let start = line.len();
            if self.source.read_line(&mut line)? == 0 {
                if start == 0 {
                    return Ok(None);
                }
                bail!("a quoted field is not closed at the end of the file");
            }
            // Quotes are even exactly when no quoted field is open.
            if line
                .bytes()
                .filter(|&b| b == b'"')
                .count()
                .is_multiple_of(2)
            {
                let record = line.trim_end_matches(['\n', '\r']);
                if record.is_empty() {
                    line.clear();
                    continue;
                }
                return Ok(Some(fields(record)));
            }
        }
    }
}

fn fields(record: &str) -> Vec<Option<String>> {
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
            ',' if !open => {
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

    #[test]
    fn csv_fields() {
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(
            fields("a,,\"\",\"b \"\"c\"\",d\""),
            [some("a"), None, some(""), some("b \"c\",d")]
        );
        let mut records = Records {
            source: "x,y\n\"a\nb\",2\n\n3,4".as_bytes(),
        };
        assert_eq!(records.next().unwrap().unwrap()[0], some("x"));
        assert_eq!(records.next().unwrap().unwrap()[0], some("a\nb"));
        assert_eq!(records.next().unwrap().unwrap()[1], some("4"));
        assert!(records.next().unwrap().is_none());
    }

    #[test]
    fn one_insert_for_many_rows() {
        let columns = [
            ("a".to_owned(), DataType::Int4),
            ("b".to_owned(), DataType::Bool),
        ];
        let sql = insert("c", &columns, &[1, 0], 2);
        assert_eq!(
            sql,
            "INSERT INTO \"c\" (\"b\",\"a\") VALUES ($1,$2),($3,$4)"
        );
    }
}
