//! `CHECK COLLECTION`: the rows against the key index and against every index.
//!
//! Keys are compared one by one: the key index is walked alone, then each row's key is looked up.
//! Indexes are compared by XORs of hashes per extent of 1,024 surrogates. Rows that change during a
//! pass make their extents' sums meaningless, so those extents are looked at again in a second pass,
//! during which nothing is applied, as nothing is while the key index is walked.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::rc::Rc;
use std::task::Poll;

use nodedb_bridge::reply::Frame;
use nodedb_bridge::request::Statement;
use nodedb_types::arrow_map::BatchBuilder;
use nodedb_types::limits::EXTENT_SMALL;
use nodedb_types::row::RowView;
use nodedb_types::{CollectionId, DataType, Result, ShardId, Surrogate, Value};

use super::reply::Reply;
use super::state::State;
use crate::engine::{Hashes, mix};
use crate::set::{RowSet, Rows};
use crate::shard::table::{Table, TableIndex};

/// Rows or keys looked at in one piece.
const PIECE: usize = 128;
/// Units for a row that is hashed.
const HASH_UNITS: u32 = 10;
/// Findings reported at the most.
const FINDINGS_MAX: usize = 100;

/// What is wrong with a shard.
struct Finding {
    shard: ShardId,
    index: String,
    problem: String,
}

/// Keeps rows and indexes still while it lives.
struct Held<'a>(&'a State);

impl<'a> Held<'a> {
    fn new(state: &'a State) -> Held<'a> {
        state.apply_held.set(state.apply_held.get() + 1);
        Held(state)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.apply_held.set(self.0.apply_held.get() - 1);
        self.0.apply_released.notify();
    }
}

impl State {
    /// Answers `Op::Check`.
    pub async fn check(
        &self,
        statement: &Statement,
        collection: CollectionId,
        reply: &Reply,
    ) -> Result<()> {
        self.check_pins(statement)?;
        let mut findings = Vec::new();
        for table in self.tables(collection, None)? {
            self.check_table(&table, reply, &mut findings).await?;
        }
        if findings.is_empty() {
            return Ok(());
        }
        findings.truncate(FINDINGS_MAX);
        reply.send(Frame::Batch(batch_of(&findings)?)).await
    }

    async fn check_table(
        &self,
        table: &Rc<Table>,
        reply: &Reply,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        self.check_keys(table, reply, findings).await?;
        self.check_rows(table, reply, findings).await?;
        for index in table.indexes() {
            if index.built.get() != u32::MAX {
                continue;
            }
            let mark = table.mark();
            let wrong = self.compare(table, &index, reply).await?;
            let changed: BTreeSet<u32> = table
                .changed_after(mark)
                .iter()
                .map(|s| s / EXTENT_SMALL)
                .collect();
            let (again, sure): (Vec<u32>, Vec<u32>) = wrong
                .into_iter()
                .partition(|extent| changed.contains(extent));
            let mut wrong = sure;
            if !again.is_empty() {
                let _held = Held::new(self);
                let still = self.compare(table, &index, reply).await?;
                wrong.extend(still.into_iter().filter(|extent| again.contains(extent)));
            }
            findings.extend(wrong.into_iter().map(|extent| Finding {
                shard: table.shard,
                index: index.definition.name.clone(),
                problem: format!(
                    "entries of rows {} to {} differ from the rows",
                    extent * EXTENT_SMALL,
                    extent * EXTENT_SMALL + (EXTENT_SMALL - 1)
                ),
            }));
        }
        Ok(())
    }

    /// As many keys as live rows, each leading to another one.
    async fn check_keys(
        &self,
        table: &Rc<Table>,
        reply: &Reply,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let _held = Held::new(self);
        let mut after: Option<Box<[u8]>> = None;
        let (mut keys, mut led_to) = (0, RowSet::new());
        loop {
            let mut entries = Vec::new();
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            table
                .paged(|t| t.scan(from, true, PIECE, &mut entries))
                .await?;
            let Some((last, _)) = entries.last() else {
                break;
            };
            after = Some(last.clone());
            keys += entries.len() as u64;
            for (_, id) in entries {
                let row = Surrogate::new(id).filter(|&s| table.is_alive(s));
                if row.is_none() || !led_to.insert(id) {
                    let problem = format!("a key leads to {id}, which is another's row or none");
                    findings.push(key_finding(table, problem));
                }
            }
            self.spend(PIECE as u32 * 2).await;
            // Writers wait for this walk, which may read the whole key index from the disk.
            if reply.is_cancelled() {
                return Err(super::reply::cancelled());
            }
        }
        if keys != table.rows() {
            let problem = format!("{keys} keys lead to {} rows", table.rows());
            findings.push(key_finding(table, problem));
        }
        Ok(())
    }

    /// Every live row is led to by its key. Row and key are looked at in one turn, so this need not
    /// hold anything still.
    async fn check_rows(
        &self,
        table: &Rc<Table>,
        reply: &Reply,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let mut from = Some(0);
        while let Some(first) = from {
            let rows = table.alive_from(first, PIECE);
            from = rows.last().and_then(|last| last.get().checked_add(1));
            for surrogate in rows {
                let led_to = |t: &Table| {
                    let found = t.latest(surrogate, |version| t.surrogate_of(version.key))?;
                    found.transpose()
                };
                // A row that went meanwhile has no key.
                let found = table.paged(led_to).await?;
                if found.is_some_and(|found| found != Some(surrogate)) {
                    let problem =
                        format!("the key of row {surrogate} leads to another row or none");
                    findings.push(key_finding(table, problem));
                }
                self.spend(HASH_UNITS).await;
            }
            if reply.is_cancelled() {
                return Err(super::reply::cancelled());
            }
        }
        Ok(())
    }

    /// The extents in which the index does not hold exactly what the rows say.
    async fn compare(
        &self,
        table: &Rc<Table>,
        index: &TableIndex,
        reply: &Reply,
    ) -> Result<Vec<u32>> {
        let mut sums = Hashes::new();
        let mut survey = index.engine.borrow().survey();
        self.budget
            .drive(|turn| match reply.is_cancelled() {
                true => Poll::Ready(Err(super::reply::cancelled())),
                false => index
                    .engine
                    .borrow()
                    .poll_hashes(&mut survey, &mut sums, turn),
            })
            .await?;
        let mut from = 0;
        loop {
            let rows = table.alive_from(from, PIECE);
            let Some(last) = rows.last() else {
                break;
            };
            let end = last.get().checked_add(1);
            for surrogate in rows {
                let hash = |table: &Table| {
                    table.latest(surrogate, |version| {
                        let view = RowView::new(version.row)?;
                        index.engine.borrow().row_hash(surrogate, &view)
                    })
                };
                let hash = table.paged(hash).await?;
                // What is in both takes itself out; what is left over differs.
                if let Some(hash) = hash {
                    mix(&mut sums, surrogate.get(), hash?);
                }
                self.spend(HASH_UNITS).await;
            }
            match end {
                Some(next) => from = next,
                None => break,
            }
            if reply.is_cancelled() {
                return Err(super::reply::cancelled());
            }
        }
        Ok(sums.into_keys().collect())
    }
}

fn key_finding(table: &Table, problem: String) -> Finding {
    Finding {
        shard: table.shard,
        index: format!("{}_pkey", table.collection().name),
        problem,
    }
}

fn batch_of(findings: &[Finding]) -> Result<arrow::array::RecordBatch> {
    let mut builder = BatchBuilder::new(&[
        ("shard".to_owned(), DataType::Int4),
        ("index".to_owned(), DataType::Text(None)),
        ("problem".to_owned(), DataType::Text(None)),
    ]);
    for finding in findings {
        builder.push_value(0, &Value::Int4(i32::from(finding.shard.0)))?;
        builder.push_value(1, &Value::Text(finding.index.clone()))?;
        builder.push_value(2, &Value::Text(finding.problem.clone()))?;
        builder.end_row();
    }
    builder.finish()
}
