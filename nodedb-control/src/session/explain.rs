//! `EXPLAIN [ANALYZE]`: the plan as `nodedb-query` shows it, and what a run of it did.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::StreamExt;
use nodedb_bridge::plan::{LeafReport, Output};
use nodedb_bridge::reply::Frame;
use nodedb_query::plan::{Plan, SetPlan};
use nodedb_query::{Analyzed, Bound, LeafRun, Reports};
use nodedb_types::{Failure, Result, Value};

use super::cancel::Limits;
use super::execution::{Execution, Tag};
use super::{Caller, Session, read, utility};
use crate::catalog::snapshot::SessionCatalog;
use crate::coordinate;
use crate::dispatch::collect::unexpected;
use crate::dispatch::leaf;

impl Session {
    pub(super) async fn explain(
        &self,
        bound: &Arc<Bound>,
        analyze: bool,
        parameters: &[Value],
        limits: &Limits,
    ) -> Result<Execution> {
        let environment = self.worker.environment(&self.info);
        let catalog = SessionCatalog {
            snapshot: self.worker.node.catalog.load(),
            settings: self.settings.all(),
        };
        let shown = bound.instantiate(parameters, &environment)?;
        let analyzed = match analyze {
            false => None,
            true => {
                let caller = self.caller(bound.pins().clone(), limits);
                let plan = bound.instantiate(parameters, &environment)?;
                let again = || match bound.instantiate(parameters, &environment)? {
                    Plan::Write(write) => Ok(*write),
                    _ => Err(Failure::internal("a write became a read")),
                };
                let from = self.worker.runtime.now_ns();
                let mut analyzed = run(&caller, plan, again).await?;
                analyzed.elapsed_ns = self.worker.runtime.now_ns() - from;
                Some(analyzed)
            }
        };
        let lines = nodedb_query::explain(&shown, &catalog, analyzed.as_ref());
        let columns = utility::explain_columns();
        let values = lines.into_iter().map(|line| vec![utility::text(line)]);
        let batches = utility::rows(&columns, values.collect())?;
        Ok(Execution::ready(columns, Tag::Plain("EXPLAIN"), batches))
    }
}

/// Runs the plan to its end and throws its rows away.
async fn run(
    caller: &Caller,
    plan: Plan,
    again: impl Fn() -> Result<nodedb_query::plan::WritePlan>,
) -> Result<Analyzed> {
    let limits = caller.limits.clone();
    match plan {
        Plan::Write(write) => {
            let done = coordinate::write(caller, *write, again).await?;
            Ok(Analyzed {
                rows: done.affected,
                ..Analyzed::default()
            })
        }
        Plan::Set(set) => limits.guard(run_set(caller, set)).await?,
        Plan::Relational(plan) => {
            let reports = Reports::default();
            let begin = leaf::relational(caller.clone(), plan, Some(reports.clone()));
            let mut stream = limits.guard(begin).await??;
            let mut rows = 0;
            while let Some(batch) = limits.guard(stream.next()).await? {
                rows += batch?.num_rows() as u64;
            }
            Ok(Analyzed {
                rows,
                elapsed_ns: 0,
                runs: reports.take(),
            })
        }
        Plan::Get(_) => {
            let batches = read::collect(caller.clone(), plan).await?;
            Ok(Analyzed {
                rows: batches.iter().map(|b| b.num_rows() as u64).sum(),
                ..Analyzed::default()
            })
        }
    }
}

/// A set query with every core's report; merged and projected as it would be for a client.
async fn run_set(caller: &Caller, plan: SetPlan) -> Result<Analyzed> {
    let (statement, _guard) = caller.snapshot();
    let mut query = plan.query;
    Arc::make_mut(&mut query).explain = true;
    let query = read::with_statistics(caller, &statement, query).await?;
    let dispatcher = &caller.worker.dispatcher;
    let readers = read::ask(caller, &statement, &query).await;
    let parts = readers.into_iter().map(|reader| async move {
        let (mut batches, mut count) = (Vec::new(), 0);
        let report = dispatcher
            .drain(reader, |frame| match frame {
                Frame::Batch(batch) => {
                    batches.push(batch);
                    Ok(())
                }
                Frame::Count(n) => {
                    count += n;
                    Ok(())
                }
                other => Err(unexpected(&other)),
            })
            .await?;
        Ok((batches, count, report))
    });
    type Part = (Vec<RecordBatch>, u64, Option<Box<LeafReport>>);
    let parts: Result<Vec<Part>> = futures::future::join_all(parts).await.into_iter().collect();
    let (mut streams, mut count, mut runs) = (Vec::new(), 0, Vec::new());
    for (batches, n, report) in parts? {
        streams.push(batches);
        count += n;
        runs.extend(report.map(|r| LeafRun::of_plan(*r)));
    }
    let rows = match (&query.output, &plan.merge) {
        (Output::Count, _) => {
            plan.projection.apply_count(count)?;
            1
        }
        (Output::Rows(_), merge) => {
            let wanted = plan.limit.map(|limit| limit.saturating_add(plan.offset));
            let wanted = wanted.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            let batches = match merge {
                Some(merge) => merge.merge(streams, wanted)?,
                None => streams.into_iter().flatten().collect(),
            };
            let mut rows = 0;
            for batch in &batches {
                rows += plan.projection.apply(batch)?.num_rows() as u64;
            }
            rows
        }
    };
    let rows = rows
        .saturating_sub(plan.offset)
        .min(plan.limit.unwrap_or(u64::MAX));
    Ok(Analyzed {
        rows,
        elapsed_ns: 0,
        runs,
    })
}
