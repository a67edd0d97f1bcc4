//! Reads the rows that a query has found and sends them, in the order in which they are given.

use nodedb_bridge::plan::OutputColumn;
use nodedb_bridge::reply::Frame;
use nodedb_types::row::RowView;
use nodedb_types::{Collection, Failure, Result, Surrogate};

use super::context::Context;
use super::output::Batcher;
use super::part::{Form, Part};
use super::rows::Version;
use crate::pace::ROW_READ;
use crate::store::residency::Reading;

pub(super) struct Sender<'a> {
    cx: &'a Context,
    batcher: Batcher,
    /// Units of filling the cells of a row.
    units: u32,
    /// Rows still to be sent at the most.
    left: u64,
    /// Rows read to be sent.
    pub(super) fetched: u64,
}

impl<'a> Sender<'a> {
    pub(super) fn new(
        cx: &'a Context,
        collection: &Collection,
        columns: &[OutputColumn],
        parts: &[Part],
        limit: Option<u64>,
    ) -> Result<Sender<'a>> {
        let expression = |at: usize| match parts.first() {
            Some(part) => Ok(match part.leaf(at)?.form() {
                Form::Index { .. } | Form::Keys(_) => None,
                Form::Expression(expression) => Some(expression.clone()),
            }),
            None => Ok(None),
        };
        Ok(Sender {
            cx,
            batcher: Batcher::new(collection, columns, expression)?,
            units: 2 + columns.len() as u32 / 2,
            left: limit.unwrap_or(u64::MAX),
            fetched: 0,
        })
    }

    /// True when the limit is reached.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Rows still wanted; `None` when all are.
    pub(super) fn limit(&self) -> Option<u64> {
        (self.left < u64::MAX).then_some(self.left)
    }

    /// Sends one row with its score. The row is visible, as it was found so.
    pub(super) async fn row(&mut self, part: &Part, id: u32, score: Option<f64>) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        let surrogate = Surrogate::new(id).ok_or_else(|| Failure::internal("0 names no row"))?;
        loop {
            let (batcher, units) = (&mut self.batcher, self.units);
            let mut full = false;
            let mut show = |version: Version<'_>| {
                if batcher.is_full_for(&version) {
                    full = true;
                    return Ok(());
                }
                let row = RowView::new(version.row)?;
                let truth = |at: usize| match part.leaf(at)?.form() {
                    Form::Index { engine, source } => {
                        engine.borrow().matches(&source.borrow(), &row)
                    }
                    Form::Keys(keys) => Ok(Some(keys.borrow().holds(version.key))),
                    Form::Expression(_) => Err(Failure::internal("an expression is deferred")),
                };
                batcher.push(part.shard(), &version, &row, score, truth)
            };
            let snapshot = self.cx.snapshot();
            let mut reading = Reading::default();
            let found = self.cx.drive(|turn| {
                let rows = &part.rows;
                rows.poll_read(surrogate, snapshot, &mut reading, turn, &mut show)
            });
            if !found.await? {
                return Err(Failure::internal(format!("row {id} is no longer visible")));
            }
            self.cx.spend(ROW_READ + units).await?;
            if !full {
                break;
            }
            self.flush().await?;
        }
        self.left -= 1;
        self.fetched += 1;
        Ok(())
    }

    /// Sends what is held.
    pub(super) async fn flush(&mut self) -> Result<()> {
        if self.batcher.rows() > 0 {
            let batch = self.batcher.finish()?;
            self.cx.send(Frame::Batch(batch)).await?;
        }
        Ok(())
    }
}

/// Bytes held for a statement; given back when it goes.
pub(super) struct Held<'a> {
    cx: &'a Context,
    bytes: usize,
}

impl<'a> Held<'a> {
    pub(super) fn new(cx: &'a Context) -> Held<'a> {
        Held { cx, bytes: 0 }
    }

    /// Charges or gives back the difference; fails with 53200.
    pub(super) fn set(&mut self, bytes: usize) -> Result<()> {
        let account = &self.cx.statement().account;
        match bytes.checked_sub(self.bytes) {
            Some(more) => account.charge(more)?,
            None => account.release(self.bytes - bytes),
        }
        self.bytes = bytes;
        Ok(())
    }

    pub(super) fn add(&mut self, bytes: usize) -> Result<()> {
        self.set(self.bytes + bytes)
    }

    pub(super) fn remove(&mut self, bytes: usize) -> Result<()> {
        self.set(self.bytes.saturating_sub(bytes))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.cx.statement().account.release(self.bytes);
    }
}
