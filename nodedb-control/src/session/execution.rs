//! A statement that runs: its rows, batch by batch, and its command tag.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::StreamExt;
use futures::stream::LocalBoxStream;
use nodedb_query::catalog::ResultColumn;
use nodedb_types::arrow_map::BatchBuilder;
use nodedb_types::row::RowView;
use nodedb_types::{Failure, Result};

use super::cancel::Limits;

/// What the command tag says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tag {
    /// `SELECT n`, with the rows sent.
    Rows(&'static str),
    /// `INSERT 0 n`, `UPDATE n`, `DELETE n`, `COPY n`: the rows changed.
    Changed(&'static str, u64),
    /// `CREATE TABLE` and the like.
    Plain(&'static str),
    /// The text held nothing.
    Empty,
}

impl Tag {
    /// `sent`: rows that went to the client in this run.
    pub fn text(&self, sent: u64) -> String {
        match self {
            Tag::Rows(word) => format!("{word} {sent}"),
            Tag::Changed("INSERT", rows) => format!("INSERT 0 {rows}"),
            Tag::Changed(word, rows) => format!("{word} {rows}"),
            Tag::Plain(word) => (*word).to_owned(),
            Tag::Empty => String::new(),
        }
    }
}

/// A statement's answer. Dropping it stops the statement and cancels its work on every core.
pub struct Execution {
    /// `None` when the statement gives no rows.
    pub columns: Option<Arc<[ResultColumn]>>,
    pub tag: Tag,
    /// What the client is told besides, such as that something exists already.
    pub notices: Vec<Failure>,
    rows: Rows,
    limits: Option<Limits>,
}

/// What is still to come.
enum Rows {
    None,
    /// One row, encoded by `nodedb_types::row`.
    Row(Box<[u8]>),
    Stream(LocalBoxStream<'static, Result<RecordBatch>>),
}

impl Execution {
    /// A statement that is done and gives no rows.
    pub fn done(tag: Tag) -> Execution {
        Execution {
            columns: None,
            tag,
            notices: Vec::new(),
            rows: Rows::None,
            limits: None,
        }
    }

    /// At most one row, which is there already, of these columns.
    pub fn row(columns: Arc<[ResultColumn]>, tag: Tag, row: Option<Box<[u8]>>) -> Execution {
        Execution {
            columns: Some(columns),
            tag,
            notices: Vec::new(),
            rows: row.map_or(Rows::None, Rows::Row),
            limits: None,
        }
    }

    /// Rows that are there already.
    pub fn ready(columns: Arc<[ResultColumn]>, tag: Tag, batches: Vec<RecordBatch>) -> Execution {
        Execution {
            columns: Some(columns),
            tag,
            notices: Vec::new(),
            rows: Rows::Stream(futures::stream::iter(batches.into_iter().map(Ok)).boxed_local()),
            limits: None,
        }
    }

    /// Rows that come as they are asked for, until `limits` end it.
    pub fn streaming(
        columns: Arc<[ResultColumn]>,
        tag: Tag,
        limits: Limits,
        rows: LocalBoxStream<'static, Result<RecordBatch>>,
    ) -> Execution {
        Execution {
            columns: Some(columns),
            tag,
            notices: Vec::new(),
            rows: Rows::Stream(rows),
            limits: Some(limits),
        }
    }

    #[must_use]
    pub fn with_notices(mut self, notices: Vec<Failure>) -> Execution {
        self.notices.extend(notices);
        self
    }

    /// The only row, for those who read encoded rows themselves: `None` when the rows come in
    /// batches, or when there are no more.
    pub fn take_row(&mut self) -> Option<Box<[u8]>> {
        match std::mem::replace(&mut self.rows, Rows::None) {
            Rows::Row(row) => Some(row),
            other => {
                self.rows = other;
                None
            }
        }
    }

    /// False when there is nothing to come but the row of [`Execution::take_row`].
    pub fn has_batches(&self) -> bool {
        matches!(self.rows, Rows::Stream(_))
    }

    /// The next rows; `None` at the end. After a failure there is nothing more.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(row) = self.take_row() {
            let columns = self.columns.as_deref().unwrap_or_default();
            return batch_of(columns, &row).map(Some);
        }
        let Rows::Stream(rows) = &mut self.rows else {
            return Ok(None);
        };
        let next = match &self.limits {
            Some(limits) => limits.guard(rows.next()).await.and_then(Option::transpose),
            None => rows.next().await.transpose(),
        };
        if !matches!(next, Ok(Some(_))) {
            self.rows = Rows::None;
        }
        next
    }

    /// Every row at once, for those who hold them anyway.
    pub async fn collect(&mut self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }
}

/// An encoded row as a batch.
fn batch_of(columns: &[ResultColumn], row: &[u8]) -> Result<RecordBatch> {
    let named: Vec<_> = columns
        .iter()
        .map(|column| (column.name.clone(), column.data_type))
        .collect();
    let mut builder = BatchBuilder::new(&named);
    let view = RowView::new(row)?;
    for (at, column) in columns.iter().enumerate() {
        builder.push(at, view.column(at, &column.data_type)?)?;
    }
    builder.end_row();
    builder.finish()
}
