//! Leaves: scans of collections as set queries.
//!
//! DataFusion's optimizer moves filters, projections and limits down to a [`LeafTable`]; it turns
//! what it is given back into our expressions and asks the rules for one set query. A part of the
//! plan that is a set query as a whole (a ranking with its limit, a count) comes ready made.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr as DfExpr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use nodedb_bridge::plan::{Get, LeafReport, Order, SetQuery};
use nodedb_types::arrow_map::arrow_type;
use nodedb_types::{DataType, Failure};

use super::cores::Cores;
use super::error::wrap;
use super::expression::{name, raise};
use super::stream::{Batches, StreamExec};
use super::{LeafItem, LeafRun, LeafStream, Reports, RunContext};
use crate::expr::{ColumnId, Expr, eval};
use crate::plan::{Environment, Merge};
use crate::rel::Scan;
use crate::rules::{self, Leaf, LeafPlan};

/// A collection as DataFusion sees it.
pub(super) struct LeafTable {
    pub scan: Arc<Scan>,
    pub columns: Vec<(ColumnId, DataType)>,
    pub schema: SchemaRef,
    pub context: RunContext,
    pub environment: Environment,
}

impl LeafTable {
    pub(super) fn new(scan: Scan, context: RunContext, environment: Environment) -> LeafTable {
        let identity_types = [
            DataType::Int8,
            DataType::Int8,
            DataType::Int4,
            DataType::Bytea,
        ];
        let own = scan
            .columns
            .iter()
            .zip(&scan.collection.columns)
            .map(|(id, c)| (*id, c.data_type));
        let identity = scan.identity.iter().copied().zip(identity_types);
        let extras = scan.extras.iter().map(|e| {
            let data_type = if e.is_score() {
                DataType::Float8
            } else {
                DataType::Bool
            };
            (e.column, data_type)
        });
        let columns: Vec<_> = own.chain(identity).chain(extras).collect();
        LeafTable {
            schema: schema_of(&columns),
            columns,
            scan: Arc::new(scan),
            context,
            environment,
        }
    }

    fn type_of(&self, id: ColumnId) -> Option<DataType> {
        self.columns.iter().find(|(c, _)| *c == id).map(|(_, t)| *t)
    }

    fn raise(&self, e: &DfExpr) -> Option<Expr> {
        raise(e, &|id| self.type_of(id))
    }

    /// Whether the cores can test a condition.
    fn is_pushable(&self, e: &DfExpr) -> bool {
        self.raise(e).is_some_and(|e| {
            let known = |id: &ColumnId| {
                self.scan.position(*id).is_some()
                    || self.scan.extras.iter().any(|x| x.column == *id)
            };
            e.columns().iter().all(|(id, _)| known(id)) && self.scan.is_plain(&e)
        })
    }
}

/// The Arrow schema of columns by id.
pub(super) fn schema_of(columns: &[(ColumnId, DataType)]) -> SchemaRef {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(id, t)| Field::new(name(*id), arrow_type(t), true))
        .collect();
    Arc::new(Schema::new(fields))
}

impl fmt::Debug for LeafTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leaf {}", self.scan.collection.name)
    }
}

#[async_trait]
impl TableProvider for LeafTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&DfExpr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|f| match self.is_pushable(f) {
                true => TableProviderFilterPushDown::Exact,
                false => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[DfExpr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = (0..self.columns.len()).collect();
        let shown: Vec<(ColumnId, DataType)> = projection
            .unwrap_or(&all)
            .iter()
            .map(|i| self.columns[*i])
            .collect();
        let mut conjuncts = Vec::new();
        for filter in filters {
            let e = self.raise(filter).ok_or_else(|| {
                wrap(Failure::internal(format!("a filter came back as {filter}")))
            })?;
            conjuncts.extend(e.conjuncts());
        }
        let read = self.read(conjuncts, &shown, limit).map_err(wrap)?;
        let label = format!("LeafExec: {}", self.scan.collection.name);
        let (context, leaf) = (self.context.clone(), self.scan.id);
        let read = Arc::new(read);
        Ok(StreamExec::plan(label, schema_of(&shown), move || {
            read.open(context.clone(), leaf)
        }))
    }
}

impl LeafTable {
    fn read(
        &self,
        conjuncts: Vec<Expr>,
        shown: &[(ColumnId, DataType)],
        limit: Option<usize>,
    ) -> nodedb_types::Result<Read> {
        let expressions: Vec<Expr> = shown.iter().map(|(id, t)| Expr::column(*id, *t)).collect();
        let by_key = rules::get_of(&self.scan, &conjuncts, &expressions, &self.environment)?;
        if let Some((get, expressions)) = by_key {
            return Ok(Read {
                source: ReadSource::Get(get),
                expressions,
                limit: limit.unwrap_or(usize::MAX),
            });
        }
        let leaf = Leaf {
            scan: &self.scan,
            conjuncts,
            order: Order::Any,
            ranked: None,
            limit: None,
        };
        let LeafPlan {
            mut query,
            expressions,
            ..
        } = leaf.plan(expressions)?;
        if matches!(query.order, Order::Any) {
            query.limit = limit.map(|l| l as u64);
        }
        Ok(Read {
            source: ReadSource::Query(query),
            expressions,
            limit: usize::MAX,
        })
    }
}

/// A read and the columns made of it.
struct Read {
    source: ReadSource,
    expressions: Vec<Expr>,
    limit: usize,
}

#[derive(Clone)]
enum ReadSource {
    Query(SetQuery),
    Get(Get),
}

impl Read {
    fn open(&self, context: RunContext, leaf: u32) -> Batches {
        let mut watched = context.explain.clone().map(|reports| Watched {
            reports,
            leaf,
            query: None,
        });
        let opened = match self.source.clone() {
            ReadSource::Query(mut query) => {
                query.explain = watched.is_some();
                if let Some(watched) = &mut watched {
                    watched.query = Some(Arc::new(query.clone()));
                }
                context.leaves.query(query)
            }
            ReadSource::Get(get) => context.leaves.get(get),
        };
        let expressions = self.expressions.clone();
        let mut left = self.limit;
        opened
            .map(move |streams| match streams {
                Ok(streams) => batches(streams, watched).boxed(),
                Err(failure) => stream::once(async move { Err(failure) }).boxed(),
            })
            .flatten_stream()
            .map(move |batch| {
                let batch = batch?;
                let batch = batch.slice(0, batch.num_rows().min(left));
                left -= batch.num_rows();
                project(&batch, &expressions)
            })
            .boxed()
    }
}

/// A leaf whose work is to be shown.
#[derive(Clone)]
struct Watched {
    reports: Reports,
    leaf: u32,
    query: Option<Arc<SetQuery>>,
}

impl Watched {
    fn push(&self, report: LeafReport) {
        self.reports.push(LeafRun {
            leaf: Some(self.leaf),
            query: self.query.clone(),
            report,
        });
    }
}

/// The batches of all cores as they come.
fn batches(
    streams: Vec<LeafStream>,
    watched: Option<Watched>,
) -> impl futures::Stream<Item = nodedb_types::Result<RecordBatch>> + Send {
    by_core(streams, watched).map(|item| item.map(|(_, batch)| batch))
}

/// The same with the position of the core that sent them.
fn by_core(
    streams: Vec<LeafStream>,
    watched: Option<Watched>,
) -> impl futures::Stream<Item = nodedb_types::Result<(usize, RecordBatch)>> + Send {
    Cores::new(streams).filter_map(move |item| {
        let kept = match item {
            Ok((at, LeafItem::Batch(batch))) => Some(Ok((at, batch))),
            Ok((_, LeafItem::Report(report))) => {
                if let Some(watched) = &watched {
                    watched.push(*report);
                }
                None
            }
            Ok((_, LeafItem::Count(_))) => Some(Err(Failure::internal("a count among rows"))),
            Err(failure) => Some(Err(failure)),
        };
        async move { kept }
    })
}

fn project(batch: &RecordBatch, expressions: &[Expr]) -> nodedb_types::Result<RecordBatch> {
    let arrays = expressions
        .iter()
        .map(|e| eval::evaluate(e, batch))
        .collect::<nodedb_types::Result<Vec<ArrayRef>>>()?;
    let fields: Vec<Field> = arrays
        .iter()
        .enumerate()
        .map(|(i, a)| Field::new(i.to_string(), a.data_type().clone(), true))
        .collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(|e| Failure::internal(format!("a leaf's columns: {e}")))
}

/// A set query that a part of the plan is as a whole.
pub(super) struct Ready {
    pub query: SetQuery,
    pub merge: Option<Merge>,
    pub expressions: Vec<Expr>,
    pub offset: u64,
    pub limit: Option<u64>,
    /// See [`LeafRun`].
    pub leaf: u32,
}

impl Ready {
    /// Rows in order, cut to the limit.
    pub(super) fn open(self: Arc<Self>, context: RunContext) -> Batches {
        let mut query = self.query.clone();
        query.explain = context.explain.is_some();
        let watched = context.explain.clone().map(|reports| Watched {
            reports,
            leaf: self.leaf,
            query: Some(Arc::new(query.clone())),
        });
        let ready = self.clone();
        let opened = context.leaves.query(query);
        async move {
            let streams = opened.await?;
            let mut cores = vec![Vec::new(); streams.len()];
            let mut rows = std::pin::pin!(by_core(streams, watched));
            while let Some((at, batch)) = rows.try_next().await? {
                cores[at].push(batch);
            }
            ready.finish(cores)
        }
        .map(|done: nodedb_types::Result<Vec<RecordBatch>>| match done {
            Ok(batches) => stream::iter(batches.into_iter().map(Ok)).boxed(),
            Err(failure) => stream::once(async move { Err(failure) }).boxed(),
        })
        .flatten_stream()
        .boxed()
    }

    fn finish(&self, cores: Vec<Vec<RecordBatch>>) -> nodedb_types::Result<Vec<RecordBatch>> {
        let end = self.limit.map(|l| l.saturating_add(self.offset));
        let end = end.map(|e| usize::try_from(e).unwrap_or(usize::MAX));
        let merged = match &self.merge {
            Some(merge) => merge.merge(cores, end)?,
            None => cores.into_iter().flatten().collect(),
        };
        let mut skip = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let mut left = self
            .limit
            .map_or(usize::MAX, |l| usize::try_from(l).unwrap_or(usize::MAX));
        let mut kept = Vec::new();
        for batch in merged {
            let skipped = skip.min(batch.num_rows());
            skip -= skipped;
            let rows = (batch.num_rows() - skipped).min(left);
            left -= rows;
            if rows > 0 {
                kept.push(project(&batch.slice(skipped, rows), &self.expressions)?);
            }
        }
        Ok(kept)
    }

    /// One row with the sum of the cores' counts.
    pub(super) fn count(self: Arc<Self>, context: RunContext, columns: usize) -> Batches {
        let mut query = self.query.clone();
        query.explain = context.explain.is_some();
        let watched = context.explain.clone().map(|reports| Watched {
            reports,
            leaf: self.leaf,
            query: Some(Arc::new(query.clone())),
        });
        let opened = context.leaves.query(query);
        stream::once(async move {
            let mut items = Cores::new(opened.await?);
            let mut total = 0u64;
            while let Some(item) = items.next().await {
                match item? {
                    (_, LeafItem::Count(count)) => total += count,
                    (_, LeafItem::Report(report)) => {
                        if let Some(watched) = &watched {
                            watched.push(*report);
                        }
                    }
                    (_, LeafItem::Batch(_)) => {
                        return Err(Failure::internal("rows where a count was asked for"));
                    }
                }
            }
            let array: ArrayRef = Arc::new(Int64Array::from(vec![total as i64]));
            let named = (0..columns).map(|i| (i.to_string(), array.clone(), true));
            RecordBatch::try_from_iter_with_nullable(named)
                .map_err(|e| Failure::internal(format!("a count: {e}")))
        })
        .boxed()
    }
}
