//! Reading CSV, NDJSON and Parquet into rows of a collection: `ndb import` and the demo.
//!
//! Columns are matched by name; text is cast to the column's type. Rows go in batches of one
//! `INSERT` each; while the server works on one, the next is read. When a row is at fault, the error
//! names it, and all rows before it are committed.
//!
//! A format is something that gives [`Rows`]: [`csv`], [`ndjson`], [`parquet`]. [`source`] finds the
//! format of a file and opens it; [`watch`] ends an import that is interrupted.

mod csv;
mod ndjson;
mod parquet;
pub mod source;
pub mod watch;

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nodedb_client::{Client, DataType, Failure, SqlState, Value};
use nodedb_server::schedule;
use nodedb_types::text;
use tokio::task::JoinHandle;

pub use self::parquet::parquet;
use watch::Progress;

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
    /// The last one, for so many rows.
    statement: (usize, Arc<str>),
    committed: u64,
    progress: Arc<Progress>,
    bar: ProgressBar,
}

/// Rows as a format reads them.
trait Rows {
    /// The next row, its values in the order of the source's columns. An error names the row at
    /// fault.
    fn next(&mut self, loader: &Loader<'_>) -> Result<Option<Vec<Value>>>;
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
        progress: &Arc<Progress>,
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
        bar.set_style(ProgressStyle::with_template(match total {
            Some(_) => "{bar:32} {pos} of {len} rows  {per_sec}  {eta}",
            None => "{spinner} {pos} rows  {per_sec}",
        })?);
        Ok(Loader {
            client,
            collection: collection.to_owned(),
            columns,
            chosen,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            under_way: None,
            statement: (0, "".into()),
            committed: 0,
            progress: progress.clone(),
            bar,
        })
    }

    /// The type of the source's column `at`.
    pub fn data_type(&self, at: usize) -> &DataType {
        &self.columns[self.chosen[at]].1
    }

    /// Of the row that is read now; the first is 1.
    fn row_number(&self) -> u64 {
        let sent = self.under_way.as_ref().map_or(0, |batch| batch.rows);
        self.committed + (sent + self.pending_rows) as u64 + 1
    }

    /// Casts text to the type of the source's column `at`.
    fn cast(&self, at: usize, cell: &str) -> Result<Value> {
        text::parse(cell, self.data_type(at)).map_err(|failure| self.fault(at, &failure))
    }

    fn fault(&self, at: usize, failure: &Failure) -> anyhow::Error {
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
            if self.statement.0 != rows {
                let sql = insert(&self.collection, &self.columns, &self.chosen, rows);
                self.statement = (rows, sql.into());
            }
            let sql = self.statement.1.clone();
            let (client, progress) = (self.client.clone(), self.progress.clone());
            let answer = tokio::spawn(async move {
                let done = client.execute(&sql, &values).await;
                progress.add(done.as_ref().map_or(0, |rows| *rows));
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
        let failure = match is_of_a_row(&failure) {
            true => self.up_to_the_fault(&values, rows).await,
            false => Err((rows, failure)),
        };
        let Err((rows, failure)) = failure else {
            return Ok(());
        };
        let place = match (self.committed + 1, rows as u64) {
            (first, 1) => format!("row {first}"),
            (first, rows) => format!("rows {first} to {}", first + rows - 1),
        };
        let detail = failure
            .detail()
            .map(|d| format!(": {d}"))
            .unwrap_or_default();
        bail!("{place}: {failure}{detail}");
    }

    /// Sends what is pending and waits for all of it.
    async fn settle(&mut self) -> Result<()> {
        self.flush().await?;
        self.land().await
    }

    async fn insert(&mut self, values: &[Value], rows: usize) -> nodedb_client::Result<()> {
        let sql = insert(&self.collection, &self.columns, &self.chosen, rows);
        let committed = self.client.execute(&sql, values).await?;
        self.committed += committed;
        self.progress.add(committed);
        Ok(())
    }

    /// Commits the rows of a refused batch that stand before the one at fault, in smaller and
    /// smaller pieces; gives the size of the piece that failed last, one unless that was not for
    /// a row, and why. All of them may be accepted now.
    async fn up_to_the_fault(
        &mut self,
        mut values: &[Value],
        rows: usize,
    ) -> std::result::Result<(), (usize, Failure)> {
        let width = self.chosen.len();
        let (mut left, mut piece) = (rows, rows.div_ceil(2));
        while left > 0 {
            piece = piece.min(left);
            match self.insert(&values[..piece * width], piece).await {
                Ok(()) => {
                    values = &values[piece * width..];
                    left -= piece;
                }
                Err(failure) if piece > 1 && is_of_a_row(&failure) => piece /= 2,
                Err(failure) => return Err((piece, failure)),
            }
        }
        Ok(())
    }

    /// Loads all rows; gives their number. When a row is at fault, or the import is interrupted,
    /// those before it are committed all the same, and the error says how many they are.
    async fn load(mut self, rows: &mut dyn Rows) -> Result<u64> {
        let read = self.read(rows).await;
        match self.settle().await.and(read) {
            Ok(()) => self.finish().await,
            Err(error) if error.is::<watch::Interrupted>() => {
                self.bar.finish_and_clear();
                Err(error)
            }
            Err(error) => {
                self.bar.finish_and_clear();
                let before = watch::rows_were(self.committed);
                Err(anyhow!("{error:#}\n  {before} committed before it"))
            }
        }
    }

    async fn read(&mut self, rows: &mut dyn Rows) -> Result<()> {
        loop {
            self.progress.check()?;
            match rows.next(self)? {
                Some(row) => self.add(row).await?,
                None => return Ok(()),
            }
        }
    }

    /// Sends what is left; gives the number of rows committed.
    pub async fn finish(mut self) -> Result<u64> {
        self.settle().await?;
        self.bar.finish_and_clear();
        Ok(self.committed)
    }
}

/// True for what a single row's values cause: bad data (22), a broken constraint (23), a row or a
/// statement that is too big.
fn is_of_a_row(failure: &Failure) -> bool {
    let code = failure.code().to_string();
    code.starts_with("22")
        || code.starts_with("23")
        || failure.code() == SqlState::ProgramLimitExceeded
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

#[cfg(test)]
mod tests {
    use super::*;

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
