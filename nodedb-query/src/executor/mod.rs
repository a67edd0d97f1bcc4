//! The relational executor: DataFusion, unmodified, on threads of its own.
//!
//! A bound query is lowered ([`lower`]) to DataFusion's logical plan with every type settled and
//! every cast explicit, so DataFusion's own typing never runs; expressions that are not plain
//! comparisons travel as [`opaque`] functions that call our evaluator. Leaves are set queries
//! ([`leaf`]) that control opens through [`Leaves`]; their streams from the cores are merged into one
//! partition. Subqueries that a ranking waits for are evaluated first ([`probe`]). Each query runs on one of the executor's threads; memory is charged to the
//! statement's account ([`memory`]). [`run_inline`] runs a query wherever it is polled, for the
//! simulation.

mod aggregate;
mod chain;
mod collect;
mod cores;
mod distinct;
mod error;
mod expression;
mod key;
mod leaf;
mod lower;
mod memory;
mod opaque;
pub(crate) mod probe;
mod session;
mod set;
mod stream;
mod threads;
mod variance;
mod window;

use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nodedb_bridge::account::MemoryAccount;
use nodedb_bridge::plan::{Get, LeafReport, SetQuery};
use nodedb_types::Result;

use crate::bind::Query;
use crate::catalog::ResultColumn;
use crate::plan::Environment;

pub use threads::{Executor, ExecutorConfig, RowStream};

/// How the executor reads rows; control implements it for one statement.
pub trait Leaves: Send + Sync {
    /// Opens a set query on every core: one stream each. A ranking by text has had its round of
    /// statistics when the streams start.
    fn query(&self, query: SetQuery) -> BoxFuture<'static, Result<Vec<LeafStream>>>;

    /// Reads rows by key; missing keys give no row.
    fn get(&self, get: Get) -> BoxFuture<'static, Result<Vec<LeafStream>>>;
}

/// What a core sends for a leaf. It ends after the last item or with a failure.
pub type LeafStream = BoxStream<'static, Result<LeafItem>>;

#[derive(Debug)]
pub enum LeafItem {
    Batch(RecordBatch),
    Count(u64),
    Report(Box<LeafReport>),
}

/// A query for the relational executor, parameters filled in.
pub struct RelationalPlan {
    pub(crate) query: Query,
    pub(crate) environment: Environment,
}

impl RelationalPlan {
    pub(crate) fn new(query: Query, environment: Environment) -> RelationalPlan {
        RelationalPlan { query, environment }
    }

    pub fn columns(&self) -> Vec<ResultColumn> {
        self.query.columns.iter().map(|(_, c)| c.clone()).collect()
    }
}

/// What a run reads from and charges to.
#[derive(Clone)]
pub struct RunContext {
    pub leaves: Arc<dyn Leaves>,
    pub account: Arc<MemoryAccount>,
    /// Leaves report what they did; see [`Reports`].
    pub explain: Option<Reports>,
}

/// What one core did for one leaf.
#[derive(Debug, Clone)]
pub struct LeafRun {
    /// The id of the leaf's scan, which no other leaf of the plan has; `None` where the plan is one
    /// set query.
    pub(crate) leaf: Option<u32>,
    /// What the core was asked; `None` for rows by key.
    pub(crate) query: Option<Arc<SetQuery>>,
    pub report: LeafReport,
}

impl LeafRun {
    /// For a plan that is one set query.
    pub fn of_plan(report: LeafReport) -> LeafRun {
        LeafRun {
            leaf: None,
            query: None,
            report,
        }
    }
}

/// Collects what each leaf did, for `EXPLAIN ANALYZE`.
#[derive(Clone, Default)]
pub struct Reports(Arc<Mutex<Vec<LeafRun>>>);

impl Reports {
    pub(crate) fn push(&self, run: LeafRun) {
        if let Ok(mut runs) = self.0.lock() {
            runs.push(run);
        }
    }

    /// Everything so far, in the order in which it came.
    pub fn take(&self) -> Vec<LeafRun> {
        self.0
            .lock()
            .map(|mut r| std::mem::take(&mut *r))
            .unwrap_or_default()
    }
}

/// Runs a query in the task that polls the stream: one partition, no thread, no spilling.
pub fn run_inline(
    plan: RelationalPlan,
    context: RunContext,
) -> BoxStream<'static, Result<RecordBatch>> {
    session::run(plan, context, None)
}
