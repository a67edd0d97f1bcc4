//! Writes as control carries them out.
//!
//! A write whose keys are known comes as [`WriteSource::Keyed`]. When all its rows live on one core
//! they go there as one batch. When they do not, control reads the rows that are there at its
//! snapshot ([`existing_output`]) and [`stage`] gives the rows to be staged. Every other write reads
//! first and hands each batch that comes back to its [`Sink`].

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::types::{Int32Type, Int64Type};
use arrow::array::{AsArray, RecordBatch};
use nodedb_bridge::expression::Rewrite;
use nodedb_bridge::plan::{Expected, OnConflict, OutputColumn, RowAction, RowWrite, StagedRow};
use nodedb_types::arrow_map::{BatchBuilder, value_at};
use nodedb_types::failure::Object;
use nodedb_types::{
    Collection, CommitTs, DataType, Failure, Result, ShardId, SqlState, Surrogate, Value, key, row,
};

use super::{Environment, Plan, Projection};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Select,
    Insert,
    Update,
    Delete,
}

/// A statement that writes one collection.
pub struct WritePlan {
    pub command: Command,
    pub collection: Arc<Collection>,
    pub returning: Option<Arc<Returning>>,
    pub source: WriteSource,
}

impl WritePlan {
    /// Whether a key that is there already is no failure to it: it has an ON CONFLICT.
    pub fn takes_conflicts(&self) -> bool {
        match &self.source {
            WriteSource::Keyed(rows) => rows.iter().any(|row| match &row.action {
                RowAction::Insert { on_conflict, .. } => !matches!(on_conflict, OnConflict::Fail),
                RowAction::Put { .. } | RowAction::Rewrite(_) => false,
            }),
            WriteSource::Read { sink, .. } => match &sink.kind {
                SinkKind::Insert(on_conflict) => !matches!(on_conflict, OnConflict::Fail),
                SinkKind::Update | SinkKind::Delete => false,
            },
        }
    }
}

/// What `RETURNING` asks of the changed rows.
#[derive(Debug)]
pub struct Returning {
    /// To be sent back by a core that writes by key.
    pub output: Arc<[OutputColumn]>,
    /// Over these columns.
    pub projection: Arc<Projection>,
}

pub enum WriteSource {
    /// Writes by full key; no key occurs twice.
    Keyed(Vec<RowWrite>),
    /// Run `read`, hand its batches to the sink.
    Read { read: Box<Plan>, sink: Arc<Sink> },
}

/// What a batch of a read becomes.
pub enum Folded {
    /// Of an `INSERT … SELECT`: like [`WriteSource::Keyed`], to be checked for keys that occur
    /// twice in the whole statement by [`check_distinct`](Sink::check_distinct).
    Writes(Vec<RowWrite>),
    /// Of an `UPDATE` or `DELETE`.
    Staged(Staged),
}

/// Rows to be staged, and what the client is told of them.
#[derive(Debug, Default)]
pub struct Staged {
    pub rows: Vec<StagedRow>,
    /// Rows changed, as the command's tag says.
    pub affected: u64,
    /// Result rows of `RETURNING`.
    pub returning: Option<RecordBatch>,
}

/// Turns what a read gives into writes.
pub struct Sink {
    pub(crate) collection: Arc<Collection>,
    pub(crate) kind: SinkKind,
    pub(crate) returning: Option<Arc<Returning>>,
    pub(crate) environment: Environment,
}

pub(crate) enum SinkKind {
    /// Input: a column for each column of the collection.
    Insert(OnConflict),
    /// Input: surrogate, version, shard, key, then the new row.
    Update,
    /// Input: surrogate, version, shard, key, then the old row (its columns, or none when nothing
    /// is to be returned).
    Delete,
}

/// Columns that stand before the row in what an `UPDATE` or `DELETE` reads.
pub(crate) const ROW_IDENTITY: [OutputColumn; 4] = [
    OutputColumn::Surrogate,
    OutputColumn::Version,
    OutputColumn::Shard,
    OutputColumn::Key,
];

impl Sink {
    /// Checks, encodes and places the rows of a batch.
    /// Fails with 23502, 22001, 22003 and the like when a row does not fit the collection.
    pub fn fold(&self, batch: &RecordBatch) -> Result<Folded> {
        match &self.kind {
            SinkKind::Insert(on_conflict) => {
                let mut writes = Vec::with_capacity(batch.num_rows());
                for i in 0..batch.num_rows() {
                    let values = self.row_at(batch, 0, i)?;
                    writes.push(insert_row(
                        &self.collection,
                        values,
                        on_conflict.clone(),
                        &self.environment,
                    )?);
                }
                Ok(Folded::Writes(writes))
            }
            SinkKind::Update => self.update(batch).map(Folded::Staged),
            SinkKind::Delete => self.delete(batch).map(Folded::Staged),
        }
    }

    /// Drops or refuses writes whose key an earlier write of the statement has.
    pub fn check_distinct(&self, writes: Vec<RowWrite>) -> Result<Vec<RowWrite>> {
        distinct(&self.collection, writes)
    }

    fn row_at(&self, batch: &RecordBatch, first: usize, row: usize) -> Result<Vec<Value>> {
        self.collection
            .columns
            .iter()
            .enumerate()
            .map(|(c, column)| value_at(batch.column(first + c), row, &column.data_type))
            .collect()
    }

    fn update(&self, batch: &RecordBatch) -> Result<Staged> {
        let mut rows = Vec::with_capacity(batch.num_rows());
        let identity = Identity::of(batch)?;
        for i in 0..batch.num_rows() {
            let values = self.row_at(batch, ROW_IDENTITY.len(), i)?;
            check_not_null(&self.collection, &values)?;
            let encoded = encode(&self.collection, &values)?;
            let old_key = identity.key(i);
            let new_key = match self.collection.key {
                Some(position) => key_bytes(&values[position])?,
                None => old_key.into(),
            };
            if *new_key == *old_key {
                rows.push(identity.staged(i, Some(encoded.into()))?);
            } else {
                rows.push(identity.staged(i, None)?);
                rows.push(StagedRow {
                    shard: shard_of(&new_key, &self.environment),
                    key: new_key,
                    expected: Expected::Absent,
                    row: Some(encoded.into()),
                });
            }
        }
        self.staged(rows, batch)
    }

    fn delete(&self, batch: &RecordBatch) -> Result<Staged> {
        let identity = Identity::of(batch)?;
        let rows = (0..batch.num_rows())
            .map(|i| identity.staged(i, None))
            .collect::<Result<Vec<_>>>()?;
        self.staged(rows, batch)
    }

    fn staged(&self, rows: Vec<StagedRow>, batch: &RecordBatch) -> Result<Staged> {
        let returning = match &self.returning {
            None => None,
            Some(returning) => {
                let columns: Vec<usize> = returning
                    .output
                    .iter()
                    .map(|output| match output {
                        OutputColumn::Column(c) => Ok(ROW_IDENTITY.len() + c),
                        other => Err(Failure::internal(format!("RETURNING {other:?}"))),
                    })
                    .collect::<Result<_>>()?;
                let input = batch
                    .project(&columns)
                    .map_err(crate::expr::eval::arrow_failure)?;
                Some(returning.projection.apply(&input)?)
            }
        };
        Ok(Staged {
            rows,
            affected: batch.num_rows() as u64,
            returning,
        })
    }
}

/// The columns that say which row version was read.
struct Identity<'a> {
    batch: &'a RecordBatch,
}

impl Identity<'_> {
    fn of(batch: &RecordBatch) -> Result<Identity<'_>> {
        if batch.num_columns() < ROW_IDENTITY.len() {
            return Err(Failure::internal(
                "rows to be written came without their identity",
            ));
        }
        Ok(Identity { batch })
    }

    fn key(&self, row: usize) -> &[u8] {
        self.batch.column(3).as_binary::<i32>().value(row)
    }

    fn staged(&self, row: usize, new: Option<Box<[u8]>>) -> Result<StagedRow> {
        let surrogate = self.batch.column(0).as_primitive::<Int64Type>().value(row);
        let version = self.batch.column(1).as_primitive::<Int64Type>().value(row);
        let shard = self.batch.column(2).as_primitive::<Int32Type>().value(row);
        Ok(StagedRow {
            shard: ShardId(shard as u16),
            key: self.key(row).into(),
            expected: expected(surrogate, version)?,
            row: new,
        })
    }
}

fn expected(surrogate: i64, version: i64) -> Result<Expected> {
    let surrogate = u32::try_from(surrogate)
        .ok()
        .and_then(Surrogate::new)
        .ok_or_else(|| Failure::internal(format!("{surrogate} is no surrogate")))?;
    Ok(Expected::Version {
        surrogate,
        version: CommitTs(version as u64),
    })
}

pub(crate) fn shard_of(key: &[u8], environment: &Environment) -> ShardId {
    key::shard_of(key, environment.key_seed, environment.shards)
}

pub(crate) fn key_bytes(value: &Value) -> Result<Box<[u8]>> {
    let bytes = key::of(value)?;
    key::check_length(&bytes)?;
    Ok(bytes.into())
}

pub(crate) fn encode(collection: &Collection, values: &[Value]) -> Result<Vec<u8>> {
    row::encode(values, &types(collection))
}

pub(crate) fn types(collection: &Collection) -> Vec<DataType> {
    collection.columns.iter().map(|c| c.data_type).collect()
}

/// 23502 when a NOT NULL column or the key is NULL.
pub(crate) fn check_not_null(collection: &Collection, values: &[Value]) -> Result<()> {
    for (i, (column, value)) in collection.columns.iter().zip(values).enumerate() {
        if value.is_null() && (column.not_null || collection.key == Some(i)) {
            return Err(Failure::new(
                SqlState::NotNullViolation,
                format!(
                    "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                    column.name, collection.name
                ),
            )
            .with_detail(format!("Failing row contains ({}).", shown(values)))
            .with_object(Object {
                table: Some(collection.name.clone()),
                column: Some(column.name.clone()),
                constraint: None,
            }));
        }
    }
    Ok(())
}

/// A row as PostgreSQL prints it in a detail: values cut to 64 characters.
fn shown(values: &[Value]) -> String {
    let cells: Vec<String> = values
        .iter()
        .map(|value| {
            if value.is_null() {
                return "null".to_owned();
            }
            let mut text = String::new();
            nodedb_types::text::format(value, &mut text);
            match text.char_indices().nth(64) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text,
            }
        })
        .collect();
    cells.join(", ")
}

/// One row of an INSERT; `values` have the columns' types.
pub(crate) fn insert_row(
    collection: &Collection,
    values: Vec<Value>,
    on_conflict: OnConflict,
    environment: &Environment,
) -> Result<RowWrite> {
    check_not_null(collection, &values)?;
    let key = match collection.key {
        Some(position) => key_bytes(&values[position])?,
        None => (environment.row_ids)().to_be_bytes().into(),
    };
    Ok(RowWrite {
        shard: shard_of(&key, environment),
        action: RowAction::Insert {
            row: encode(collection, &values)?.into(),
            on_conflict,
        },
        key,
    })
}

/// The 23505 of a key that is there already.
pub fn duplicate_key(collection: &Collection, key: &[u8]) -> Failure {
    let constraint = format!("{}_pkey", collection.name);
    let failure = Failure::new(
        SqlState::UniqueViolation,
        format!("duplicate key value violates unique constraint \"{constraint}\""),
    )
    .with_object(Object {
        table: Some(collection.name.clone()),
        column: None,
        constraint: Some(constraint),
    });
    let Some(column) = collection.key.map(|k| &collection.columns[k]) else {
        return failure;
    };
    match key::decode(key, &column.data_type) {
        Ok((value, _)) => {
            let mut text = String::new();
            nodedb_types::text::format(&value, &mut text);
            failure.with_detail(format!("Key ({})=({text}) already exists.", column.name))
        }
        Err(_) => failure,
    }
}

/// Each key once: a second plain INSERT is 23505, a second DO NOTHING is dropped, a second
/// DO UPDATE is 21000, of several rewrites of a row the first is kept.
pub(crate) fn distinct(collection: &Collection, writes: Vec<RowWrite>) -> Result<Vec<RowWrite>> {
    if writes.len() < 2 {
        return Ok(writes);
    }
    let mut seen: HashMap<Box<[u8]>, ()> = HashMap::with_capacity(writes.len());
    let mut kept = Vec::with_capacity(writes.len());
    for write in writes {
        if seen.insert(write.key.clone(), ()).is_none() {
            kept.push(write);
            continue;
        }
        match &write.action {
            RowAction::Insert {
                on_conflict: OnConflict::Fail,
                ..
            } => return Err(duplicate_key(collection, &write.key)),
            RowAction::Insert {
                on_conflict: OnConflict::Rewrite(_),
                ..
            } => {
                return Err(Failure::new(
                    SqlState::CardinalityViolation,
                    "ON CONFLICT DO UPDATE command cannot affect row a second time",
                )
                .with_hint(
                    "Ensure that no rows proposed for insertion within the same command have duplicate constrained values.",
                ));
            }
            RowAction::Insert {
                on_conflict: OnConflict::Nothing,
                ..
            }
            | RowAction::Put { .. }
            | RowAction::Rewrite(_) => {}
        }
    }
    Ok(kept)
}

/// What control reads of rows that are there before it calls [`stage`]: surrogate, version, key,
/// then every column.
pub fn existing_output(collection: &Collection) -> Arc<[OutputColumn]> {
    [
        OutputColumn::Surrogate,
        OutputColumn::Version,
        OutputColumn::Key,
    ]
    .into_iter()
    .chain((0..collection.columns.len()).map(OutputColumn::Column))
    .collect()
}

struct Existing {
    expected: Expected,
    values: Vec<Value>,
}

fn read_existing(
    collection: &Collection,
    batches: &[RecordBatch],
) -> Result<HashMap<Box<[u8]>, Existing>> {
    let mut found = HashMap::new();
    for batch in batches {
        for i in 0..batch.num_rows() {
            let surrogate = batch.column(0).as_primitive::<Int64Type>().value(i);
            let version = batch.column(1).as_primitive::<Int64Type>().value(i);
            let key: Box<[u8]> = batch.column(2).as_binary::<i32>().value(i).into();
            let values = collection
                .columns
                .iter()
                .enumerate()
                .map(|(c, column)| value_at(batch.column(3 + c), i, &column.data_type))
                .collect::<Result<_>>()?;
            let expected = expected(surrogate, version)?;
            found.insert(key, Existing { expected, values });
        }
    }
    Ok(found)
}

/// Carries out writes by key against the rows that were found, as a core would, for a statement
/// that spans cores. `existing`: batches of [`existing_output`] for the keys of `writes`.
pub fn stage(
    collection: &Collection,
    writes: Vec<RowWrite>,
    existing: &[RecordBatch],
    returning: Option<&Returning>,
) -> Result<Staged> {
    let existing = read_existing(collection, existing)?;
    let types = types(collection);
    let mut staged = Staged::default();
    let mut changed: Vec<Vec<Value>> = Vec::new();
    for write in writes {
        let old = existing.get(&write.key);
        let outcome = match (write.action, old) {
            (RowAction::Insert { row, .. }, None) => Some((Some(row), Expected::Absent)),
            (RowAction::Put { row }, None) => Some((Some(row), Expected::Absent)),
            (RowAction::Put { row }, Some(old)) => Some((Some(row), old.expected)),
            (RowAction::Insert { row, on_conflict }, Some(old)) => match on_conflict {
                OnConflict::Fail => return Err(duplicate_key(collection, &write.key)),
                OnConflict::Nothing => None,
                OnConflict::Rewrite(rewrite) => {
                    let current = row::encode(&old.values, &types)?;
                    replaced(rewrite.rewrite(&current, Some(&row))?, old.expected)
                }
            },
            (RowAction::Rewrite(_), None) => None,
            (RowAction::Rewrite(rewrite), Some(old)) => {
                let current = row::encode(&old.values, &types)?;
                replaced(rewrite.rewrite(&current, None)?, old.expected)
            }
        };
        let Some((row, expected)) = outcome else {
            continue;
        };
        staged.affected += 1;
        if returning.is_some() {
            changed.push(match (&row, old) {
                (Some(row), _) => row::RowView::new(row)?.to_values(&types)?,
                (None, Some(old)) => old.values.clone(),
                (None, None) => Vec::new(),
            });
        }
        staged.rows.push(StagedRow {
            shard: write.shard,
            key: write.key,
            expected,
            row,
        });
    }
    if let Some(returning) = returning {
        staged.returning = Some(returned(collection, returning, &changed)?);
    }
    Ok(staged)
}

fn replaced(rewrite: Rewrite, expected: Expected) -> Option<(Option<Box<[u8]>>, Expected)> {
    match rewrite {
        Rewrite::Keep => None,
        Rewrite::Replace(row) => Some((Some(row.into()), expected)),
        Rewrite::Delete => Some((None, expected)),
    }
}

fn returned(
    collection: &Collection,
    returning: &Returning,
    rows: &[Vec<Value>],
) -> Result<RecordBatch> {
    let positions: Vec<usize> = returning
        .output
        .iter()
        .filter_map(|output| match output {
            OutputColumn::Column(c) => Some(*c),
            _ => None,
        })
        .collect();
    let fields: Vec<(String, DataType)> = positions
        .iter()
        .map(|c| {
            let column = &collection.columns[*c];
            (column.name.clone(), column.data_type)
        })
        .collect();
    let mut builder = BatchBuilder::new(&fields);
    for row in rows {
        for (i, c) in positions.iter().enumerate() {
            builder.push_value(i, &row[*c])?;
        }
        builder.end_row();
    }
    returning.projection.apply(&builder.finish()?)
}
