//! A relation whose rows come from a stream that is made when it is read: DataFusion's view of
//! leaves, catalog tables, constant rows and series.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use nodedb_types::Failure;

use super::error::wrap;

pub(super) type Batches = BoxStream<'static, nodedb_types::Result<RecordBatch>>;
type Make = dyn Fn() -> Batches + Send + Sync;

/// Reads a stream as the only partition.
pub(super) struct StreamExec {
    label: String,
    make: Arc<Make>,
    properties: Arc<PlanProperties>,
}

impl StreamExec {
    pub(super) fn plan(
        label: String,
        schema: SchemaRef,
        make: impl Fn() -> Batches + Send + Sync + 'static,
    ) -> Arc<dyn ExecutionPlan> {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Arc::new(StreamExec {
            label,
            make: Arc::new(make),
            properties: Arc::new(properties),
        })
    }
}

impl fmt::Debug for StreamExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl DisplayAs for StreamExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl ExecutionPlan for StreamExec {
    fn name(&self) -> &str {
        "StreamExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let named = schema.clone();
        let stream = (self.make)().map(move |batch| {
            let batch = batch.map_err(wrap)?;
            rename(&batch, &named).map_err(wrap)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

/// The same arrays under the names of `schema`.
fn rename(batch: &RecordBatch, schema: &SchemaRef) -> nodedb_types::Result<RecordBatch> {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)
        .map_err(|e| Failure::internal(format!("a relation's rows: {e}")))
}

/// A relation that is read whole; DataFusion filters it.
pub(super) struct StreamTable {
    pub label: String,
    pub schema: SchemaRef,
    pub make: Arc<Make>,
}

impl fmt::Debug for StreamTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = (0..self.schema.fields().len()).collect();
        let projection = projection.cloned().unwrap_or(all);
        let fields: Vec<_> = projection
            .iter()
            .map(|i| self.schema.field(*i).clone())
            .collect();
        let make = self.make.clone();
        Ok(StreamExec::plan(
            self.label.clone(),
            Arc::new(Schema::new(fields)),
            move || {
                let projection = projection.clone();
                make()
                    .map(move |batch| {
                        batch?
                            .project(&projection)
                            .map_err(|e| Failure::internal(format!("a relation's rows: {e}")))
                    })
                    .boxed()
            },
        ))
    }
}
