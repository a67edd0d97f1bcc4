//! A catalog with three collections, and cores that answer set queries by brute force.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, AsArray, RecordBatch};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use nodedb_bridge::account::MemoryAccount;
use nodedb_bridge::op::{EngineOp, ordered};
use nodedb_bridge::plan::{
    Direction, Get, OnConflict, Order, Output, OutputColumn, RowAction, RowWrite, SetExpr,
    SetQuery, Source,
};
use nodedb_types::arrow_map::{BatchBuilder, value_at};
use nodedb_types::schema::{IndexState, Stream};
use nodedb_types::{
    Collection, CollectionId, Column, DataType, Engine, Failure, Index, IndexId, Result,
    SchemaVersion, ShardId, Value, row,
};

use crate::catalog::{Catalog, SessionInfo, Setting, VirtualTable};
use crate::plan::{Environment, Folded, Plan, WriteSource, existing_output, stage};
use crate::{BindContext, LeafItem, LeafStream, Leaves, RunContext, bind, run_inline};

pub(super) struct Fake {
    collections: Vec<Arc<Collection>>,
    indexes: Vec<Arc<Index>>,
}

impl Catalog for Fake {
    fn collection(&self, name: &str) -> Option<Arc<Collection>> {
        self.collections.iter().find(|c| c.name == name).cloned()
    }
    fn indexes(&self, collection: CollectionId) -> Vec<Arc<Index>> {
        let own = self.indexes.iter().filter(|i| i.collection == collection);
        own.cloned().collect()
    }
    fn collections(&self) -> Vec<Arc<Collection>> {
        self.collections.clone()
    }
    fn streams(&self) -> Vec<Arc<Stream>> {
        Vec::new()
    }
    fn settings(&self) -> Vec<Setting> {
        Vec::new()
    }
    fn virtual_table(&self, _: &str, _: &str) -> Option<Arc<dyn VirtualTable>> {
        None
    }
}

fn collection(
    id: u32,
    name: &str,
    columns: &[(&str, DataType)],
    key: Option<usize>,
) -> Arc<Collection> {
    Arc::new(Collection {
        id: CollectionId(id),
        name: name.to_owned(),
        engine: Engine::DocumentStrict,
        version: SchemaVersion(1),
        columns: columns
            .iter()
            .map(|(name, data_type)| Column {
                name: (*name).to_owned(),
                data_type: *data_type,
                not_null: false,
            })
            .collect(),
        key,
    })
}

fn index(
    id: u32,
    name: &str,
    on: u32,
    method: &str,
    columns: &[usize],
    class: Option<&str>,
) -> Arc<Index> {
    Arc::new(Index {
        id: IndexId(id),
        name: name.to_owned(),
        collection: CollectionId(on),
        method: method.to_owned(),
        columns: columns.to_vec(),
        operator_class: class.map(str::to_owned),
        options: Vec::new(),
        state: IndexState::Public,
    })
}

/// Stored rows by collection and key.
type Rows = BTreeMap<(u32, Vec<u8>), Vec<Value>>;

/// A database in memory.
#[derive(Clone)]
pub(super) struct Db {
    pub catalog: Arc<dyn Catalog>,
    rows: Arc<Mutex<Rows>>,
    session: Arc<SessionInfo>,
}

impl Db {
    /// `packages`, `tenants` and `notes` (without a key), empty.
    pub(super) fn empty() -> Db {
        let text = DataType::Text(None);
        let collections = vec![
            collection(
                1025,
                "notes",
                &[("at", DataType::TimestampTz), ("body", text)],
                None,
            ),
            collection(
                1024,
                "packages",
                &[
                    ("id", DataType::Int8),
                    ("name", text),
                    ("tenant_id", DataType::Int4),
                    ("size", DataType::Int8),
                    ("price", DataType::Numeric(Some((10, 2)))),
                    ("score", DataType::Float8),
                    ("embedding", DataType::Vector(Some(2))),
                    ("location", DataType::Geography(None)),
                    ("added", DataType::Date),
                    ("attributes", DataType::Jsonb),
                ],
                Some(0),
            ),
            collection(
                1026,
                "tenants",
                &[("id", DataType::Int4), ("title", text)],
                Some(0),
            ),
        ];
        let indexes = vec![
            index(1, "packages_tenant", 1024, "btree", &[2], None),
            index(2, "packages_text", 1024, "fulltext", &[1], None),
            index(3, "packages_place", 1024, "rtree", &[7], None),
            index(
                4,
                "packages_meaning",
                1024,
                "hnsw",
                &[6],
                Some("vector_cosine_ops"),
            ),
        ];
        Db {
            catalog: Arc::new(Fake {
                collections,
                indexes,
            }),
            rows: Arc::default(),
            session: Arc::new(SessionInfo {
                user: "ada".to_owned(),
                database: "nodedb".to_owned(),
                server_version: "15.0".to_owned(),
                process_id: 7,
            }),
        }
    }

    /// Six packages and three tenants.
    pub(super) fn filled() -> Db {
        let db = Db::empty();
        db.ok("INSERT INTO tenants VALUES (1, 'one'), (2, 'two'), (3, 'three')");
        db.ok("INSERT INTO packages (id, name, tenant_id, size, price, score, embedding, added) VALUES
            (1, 'alpha', 1, 10, 1.50, 0.5, '[1,0]', '2024-01-01'),
            (2, 'beta', 1, 20, 2.25, 1.5, '[0,1]', '2024-02-01'),
            (3, 'gamma', 2, 30, NULL, NULL, '[1,1]', '2024-03-01'),
            (4, 'delta', 2, NULL, 10.00, 'NaN', NULL, NULL),
            (5, NULL, NULL, 50, 0.01, -1, '[2,1]', '2023-12-31'),
            (6, 'Zeta', 4, 5, 99.99, 3, '[-1,0]', '2024-02-29')");
        db
    }

    pub(super) fn environment(&self) -> Environment {
        let ids = std::sync::atomic::AtomicU64::new(1);
        Environment {
            now_us: 1_704_164_645_000_000,
            random_seed: 1,
            key_seed: 9,
            shards: 4,
            row_ids: Arc::new(move || ids.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
            session: self.session.clone(),
        }
    }

    pub(super) fn bind(&self, sql: &str, types: &[Option<DataType>]) -> Result<crate::Bound> {
        let dialect = sqlparser::dialect::PostgreSqlDialect {};
        let statements = sqlparser::parser::Parser::parse_sql(&dialect, sql)
            .map_err(|e| Failure::new(nodedb_types::SqlState::SyntaxError, e.to_string()))?;
        let context = BindContext {
            catalog: self.catalog.clone(),
            session: &self.session,
            text: sql,
        };
        bind(&statements[0], types, &context)
    }

    pub(super) fn plan(&self, sql: &str, parameters: &[Value]) -> Result<Plan> {
        self.bind(sql, &[])?
            .instantiate(parameters, &self.environment())
    }

    /// Result rows as text, cells separated by `|`, NULL empty.
    pub(super) fn query(&self, sql: &str, parameters: &[Value]) -> Result<Vec<String>> {
        let plan = self.plan(sql, parameters)?;
        let batches = self.run(plan)?;
        let mut lines = Vec::new();
        for batch in batches {
            for row in 0..batch.num_rows() {
                let mut cells = Vec::new();
                for (i, field) in batch.schema().fields().iter().enumerate() {
                    let data_type = nodedb_types::arrow_map::data_type_of(field)?;
                    let mut text = String::new();
                    let value = value_at(batch.column(i), row, &data_type)?;
                    if !value.is_null() {
                        nodedb_types::text::format(&value, &mut text);
                    }
                    cells.push(text);
                }
                lines.push(cells.join("|"));
            }
        }
        Ok(lines)
    }

    /// Runs statements and compares their rows; `!` before a SQLSTATE says that it must fail so.
    pub(super) fn check<T: AsRef<str>>(&self, cases: &[(&str, T)]) {
        let mut wrong = Vec::new();
        for (sql, expected) in cases {
            let got = match self.query(sql, &[]) {
                Ok(lines) => lines.join(";"),
                Err(failure) => format!("!{}", failure.code()),
            };
            if got != expected.as_ref() {
                let why = self.query(sql, &[]).err();
                wrong.push(format!(
                    "{sql}\n  gave {got:?}\n  not  {:?}\n  {why:?}",
                    expected.as_ref()
                ));
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    /// Rows joined by `;`.
    pub(super) fn ok(&self, sql: &str) -> String {
        match self.query(sql, &[]) {
            Ok(lines) => lines.join(";"),
            Err(failure) => panic!("{sql}: {failure:?}"),
        }
    }

    /// The SQLSTATE of a statement that fails.
    pub(super) fn code(&self, sql: &str) -> &'static str {
        match self.query(sql, &[]) {
            Ok(lines) => panic!("{sql}: gave {lines:?}"),
            Err(failure) => failure.code().code(),
        }
    }

    fn run(&self, plan: Plan) -> Result<Vec<RecordBatch>> {
        match plan {
            Plan::Get(plan) => {
                let rows = self.get(&plan.get)?;
                Ok(vec![plan.projection.apply(&rows)?])
            }
            Plan::Set(plan) => {
                let cores = (0..2).map(|core| self.set_query(&plan.query, core));
                let cores = cores.collect::<Result<Vec<_>>>()?;
                if matches!(plan.query.output, Output::Count) {
                    let count = cores.iter().map(|(_, count)| *count as u64).sum();
                    return Ok(vec![plan.projection.apply_count(count)?]);
                }
                let batches: Vec<Vec<RecordBatch>> =
                    cores.into_iter().map(|(batch, _)| vec![batch]).collect();
                let end = plan.limit.map(|l| (l + plan.offset) as usize);
                let merged = match &plan.merge {
                    Some(merge) => merge.merge(batches, end)?,
                    None => batches.into_iter().flatten().collect(),
                };
                let schema = merged.first().map(RecordBatch::schema);
                let Some(schema) = schema else {
                    return Ok(Vec::new());
                };
                let whole = arrow::compute::concat_batches(&schema, &merged).unwrap();
                let skip = (plan.offset as usize).min(whole.num_rows());
                let rows =
                    (whole.num_rows() - skip).min(plan.limit.map_or(usize::MAX, |l| l as usize));
                Ok(vec![plan.projection.apply(&whole.slice(skip, rows))?])
            }
            Plan::Relational(plan) => {
                let context = RunContext {
                    leaves: Arc::new(self.clone()),
                    account: Arc::new(MemoryAccount::new(1 << 28)),
                    explain: None,
                };
                let rows = run_inline(plan, context);
                let rows: Vec<Result<RecordBatch>> =
                    futures::executor::block_on(rows.collect::<Vec<_>>());
                rows.into_iter().collect()
            }
            Plan::Write(plan) => self.write(*plan),
        }
    }

    fn write(&self, plan: crate::plan::WritePlan) -> Result<Vec<RecordBatch>> {
        let mut staged = Vec::new();
        match plan.source {
            WriteSource::Keyed(writes) => {
                staged.push(self.stage(&plan.collection, writes, plan.returning.as_deref())?);
            }
            WriteSource::Read { read, sink } => {
                let mut writes = Vec::new();
                for batch in self.run(*read)? {
                    match sink.fold(&batch)? {
                        Folded::Writes(more) => writes.extend(more),
                        Folded::Staged(done) => staged.push(done),
                    }
                }
                let writes = sink.check_distinct(writes)?;
                staged.push(self.stage(&plan.collection, writes, plan.returning.as_deref())?);
            }
        }
        let mut rows = self.rows.lock().unwrap();
        let types: Vec<DataType> = plan
            .collection
            .columns
            .iter()
            .map(|c| c.data_type)
            .collect();
        let mut returned = Vec::new();
        for done in staged {
            for row in done.rows {
                let key = (plan.collection.id.0, row.key.to_vec());
                match row.row {
                    Some(bytes) => {
                        rows.insert(key, row::RowView::new(&bytes)?.to_values(&types)?);
                    }
                    None => {
                        rows.remove(&key);
                    }
                }
            }
            returned.extend(done.returning);
        }
        Ok(returned)
    }

    fn stage(
        &self,
        collection: &Arc<Collection>,
        writes: Vec<RowWrite>,
        returning: Option<&crate::plan::Returning>,
    ) -> Result<crate::plan::Staged> {
        for write in &writes {
            if let RowAction::Insert {
                on_conflict: OnConflict::Fail,
                ..
            } = &write.action
            {
                assert!(write.shard < ShardId(4));
            }
        }
        let get = Get {
            collection: collection.id,
            keys: writes.iter().map(|w| (w.shard, w.key.clone())).collect(),
            filter: None,
            output: existing_output(collection),
        };
        let existing = self.get(&get)?;
        stage(collection, writes, &[existing], returning)
    }

    fn stored(&self, collection: CollectionId) -> Vec<(Vec<u8>, Vec<Value>)> {
        let rows = self.rows.lock().unwrap();
        let own = rows.iter().filter(|((c, _), _)| *c == collection.0);
        own.map(|((_, key), row)| (key.clone(), row.clone()))
            .collect()
    }

    fn schema(&self, collection: CollectionId) -> Arc<Collection> {
        let all = self.catalog.collections();
        all.into_iter().find(|c| c.id == collection).unwrap()
    }

    fn get(&self, get: &Get) -> Result<RecordBatch> {
        let collection = self.schema(get.collection);
        let stored = self.stored(get.collection);
        let mut found = Vec::new();
        for (_, key) in &get.keys {
            found.extend(stored.iter().filter(|(k, _)| k[..] == key[..]).cloned());
        }
        if let Some(filter) = &get.filter {
            let input = columns_of(&collection, &found, filter.columns())?;
            let mask = filter.evaluate(&input)?;
            let mask = mask.as_boolean().clone();
            let mut row = 0;
            found.retain(|_| {
                row += 1;
                mask.is_valid(row - 1) && mask.value(row - 1)
            });
        }
        output(&collection, &found, &get.output, &[], &[])
    }

    /// One of two cores: rows by the parity of their place.
    fn set_query(&self, query: &SetQuery, core: usize) -> Result<(RecordBatch, usize)> {
        let collection = self.schema(query.collection);
        let all = self.stored(query.collection);
        let own = all.into_iter().enumerate().filter(|(i, _)| i % 2 == core);
        let mut own: Vec<_> = own.map(|(_, row)| row).collect();
        let mut truths = Vec::new();
        for source in &query.sources {
            truths.push(match source {
                Source::Expression(e) => {
                    let mask = e.evaluate(&columns_of(&collection, &own, e.columns())?)?;
                    let mask = mask.as_boolean();
                    (0..own.len())
                        .map(|i| mask.is_valid(i).then(|| mask.value(i)))
                        .collect()
                }
                Source::Keys(op) => {
                    let (key, op) = (collection.key.unwrap(), EngineOp::Ordered(op.clone()));
                    own.iter().map(|(_, row)| test(&op, &row[key])).collect()
                }
                Source::KeyList(list) => {
                    let key = collection.key.unwrap();
                    let op = EngineOp::Ordered(list.op().clone());
                    own.iter().map(|(_, row)| test(&op, &row[key])).collect()
                }
                Source::Index { index, op } => {
                    let all = self.catalog.indexes(collection.id);
                    let index = all.iter().find(|i| i.id == *index).unwrap();
                    let column = index.columns[0];
                    own.iter()
                        .map(|(_, row)| test(op, &row[column]))
                        .collect::<Vec<_>>()
                }
            });
        }
        let keep: Vec<usize> = (0..own.len())
            .filter(|i| holds(&query.set, &truths, *i) == Some(true))
            .collect();
        let kept_truths: Vec<Vec<Option<bool>>> = truths
            .iter()
            .map(|t| keep.iter().map(|i| t[*i]).collect())
            .collect();
        own = keep.iter().map(|i| own[*i].clone()).collect();
        let Output::Rows(columns) = &query.output else {
            return Ok((
                RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty())),
                own.len(),
            ));
        };
        let scores: Vec<Option<f64>> = own
            .iter()
            .map(|(_, row)| score(&query.order, row))
            .collect();
        let mut order: Vec<usize> = (0..own.len()).collect();
        match &query.order {
            Order::Any => {}
            Order::Key(Direction::Ascending) => order.sort_by(|a, b| own[*a].0.cmp(&own[*b].0)),
            Order::Key(Direction::Descending) => order.sort_by(|a, b| own[*b].0.cmp(&own[*a].0)),
            Order::Index { direction, .. } => {
                let key = |i: usize| nodedb_types::key::of(&own[i].1[2]).unwrap();
                order.sort_by(|a, b| {
                    let by = key(*a).cmp(&key(*b));
                    let by = if *direction == Direction::Descending {
                        by.reverse()
                    } else {
                        by
                    };
                    by.then(own[*a].0.cmp(&own[*b].0))
                });
            }
            Order::Rank(_) => order.sort_by(|a, b| {
                let key = |i: usize| scores[i].unwrap_or(f64::INFINITY);
                key(*a).total_cmp(&key(*b)).then(own[*a].0.cmp(&own[*b].0))
            }),
        }
        order.truncate(query.limit.map_or(usize::MAX, |l| l as usize));
        let rows: Vec<_> = order.iter().map(|i| own[*i].clone()).collect();
        let scores: Vec<_> = order.iter().map(|i| scores[*i]).collect();
        let truths: Vec<Vec<_>> = kept_truths
            .iter()
            .map(|t| order.iter().map(|i| t[*i]).collect())
            .collect();
        let batch = output(&collection, &rows, columns, &truths, &scores)?;
        let count = batch.num_rows();
        Ok((batch, count))
    }
}

fn columns_of(
    collection: &Collection,
    rows: &[(Vec<u8>, Vec<Value>)],
    columns: &[usize],
) -> Result<RecordBatch> {
    if columns.is_empty() {
        return crate::expr::builder::rows_only(rows.len());
    }
    let output_columns: Vec<_> = columns.iter().map(|c| OutputColumn::Column(*c)).collect();
    output(collection, rows, &output_columns, &[], &[])
}

fn output(
    collection: &Collection,
    rows: &[(Vec<u8>, Vec<Value>)],
    columns: &[OutputColumn],
    truths: &[Vec<Option<bool>>],
    scores: &[Option<f64>],
) -> Result<RecordBatch> {
    if columns.is_empty() {
        return crate::expr::builder::rows_only(rows.len());
    }
    let fields: Vec<(String, DataType)> = columns
        .iter()
        .enumerate()
        .map(|(i, c)| {
            let data_type = match c {
                OutputColumn::Column(c) => collection.columns[*c].data_type,
                OutputColumn::Key => DataType::Bytea,
                OutputColumn::Surrogate | OutputColumn::Version => DataType::Int8,
                OutputColumn::Shard => DataType::Int4,
                OutputColumn::Truth(_) => DataType::Bool,
                OutputColumn::Score => DataType::Float8,
            };
            (i.to_string(), data_type)
        })
        .collect();
    let mut builder = BatchBuilder::new(&fields);
    for (r, (key, row)) in rows.iter().enumerate() {
        for (i, c) in columns.iter().enumerate() {
            let value = match c {
                OutputColumn::Column(c) => row[*c].clone(),
                OutputColumn::Key => Value::Bytea(key.clone()),
                OutputColumn::Surrogate => Value::Int8(surrogate(key)),
                OutputColumn::Version => Value::Int8(77),
                OutputColumn::Shard => Value::Int4(0),
                OutputColumn::Truth(t) => truths[*t][r].map_or(Value::Null, Value::Bool),
                OutputColumn::Score => scores[r].map_or(Value::Null, Value::Float8),
            };
            builder.push_value(i, &value)?;
        }
        builder.end_row();
    }
    builder.finish()
}

/// A number for a row that its key tells.
fn surrogate(key: &[u8]) -> i64 {
    let hash = key
        .iter()
        .fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(*b)));
    i64::from(hash | 1)
}

fn test(op: &EngineOp, value: &Value) -> Option<bool> {
    use std::ops::Bound;
    let order = |other: &Value| crate::function::compare::order(value, other).unwrap();
    match op {
        EngineOp::Ordered(ordered::Op::IsNull) => Some(value.is_null()),
        _ if value.is_null() => None,
        EngineOp::Ordered(ordered::Op::In(values)) => Some(values.iter().any(|v| order(v).is_eq())),
        EngineOp::Ordered(ordered::Op::Listed(list)) => {
            let bytes = nodedb_types::key::of(value).unwrap();
            Some(list.bytes().iter().any(|listed| **listed == *bytes))
        }
        EngineOp::Ordered(ordered::Op::Range { low, high }) => {
            let above = match low {
                Bound::Included(v) => order(v).is_ge(),
                Bound::Excluded(v) => order(v).is_gt(),
                Bound::Unbounded => true,
            };
            let below = match high {
                Bound::Included(v) => order(v).is_le(),
                Bound::Excluded(v) => order(v).is_lt(),
                Bound::Unbounded => true,
            };
            Some(above && below)
        }
        EngineOp::Text(op) => {
            let Value::Text(text) = value else {
                return None;
            };
            let nodedb_bridge::op::text::Query::Word(word) = &*op.query else {
                panic!("the fake knows single words only");
            };
            Some(text.to_lowercase() == *word)
        }
        // The engines that these tests do not ask.
        other => panic!("the fake does not know {other:?}"),
    }
}

fn holds(set: &SetExpr, truths: &[Vec<Option<bool>>], row: usize) -> Option<bool> {
    match set {
        SetExpr::All => Some(true),
        SetExpr::Nothing => Some(false),
        SetExpr::Source(i) => truths[*i][row],
        SetExpr::And(sets) => junction(sets, truths, row, false),
        SetExpr::Or(sets) => junction(sets, truths, row, true),
        SetExpr::Not(set) => holds(set, truths, row).map(|b| !b),
        SetExpr::IsUnknown(set) => Some(holds(set, truths, row).is_none()),
    }
}

/// One `decisive` operand decides, else one that is unknown makes the whole unknown.
fn junction(
    sets: &[SetExpr],
    truths: &[Vec<Option<bool>>],
    row: usize,
    decisive: bool,
) -> Option<bool> {
    let values: Vec<_> = sets.iter().map(|s| holds(s, truths, row)).collect();
    if values.contains(&Some(decisive)) {
        return Some(decisive);
    }
    (!values.contains(&None)).then_some(!decisive)
}

fn score(order: &Order, row: &[Value]) -> Option<f64> {
    let Order::Rank(spec) = order else {
        return None;
    };
    match &spec.rank {
        nodedb_bridge::op::EngineRank::Vector(rank) => match &row[rank.column] {
            Value::Vector(v) => Some(nodedb_types::vector::distance(rank.metric, v, &rank.query)),
            _ => None,
        },
        nodedb_bridge::op::EngineRank::Text(_) => Some(1.0),
    }
}

impl Leaves for Db {
    fn query(&self, query: SetQuery) -> BoxFuture<'static, Result<Vec<LeafStream>>> {
        let db = self.clone();
        async move {
            let mut streams: Vec<LeafStream> = Vec::new();
            for core in 0..2 {
                let (batch, count) = db.set_query(&query, core)?;
                let item = match query.output {
                    Output::Count => LeafItem::Count(count as u64),
                    Output::Rows(_) => LeafItem::Batch(batch),
                };
                streams.push(stream::iter([Ok(item)]).boxed());
            }
            Ok(streams)
        }
        .boxed()
    }

    fn get(&self, get: Get) -> BoxFuture<'static, Result<Vec<LeafStream>>> {
        let db = self.clone();
        async move {
            let batch = Db::get(&db, &get)?;
            Ok(vec![stream::iter([Ok(LeafItem::Batch(batch))]).boxed()])
        }
        .boxed()
    }
}
