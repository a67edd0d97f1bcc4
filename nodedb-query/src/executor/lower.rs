//! Bound queries to DataFusion's logical plans.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::{Column, DFSchema, JoinType, Result};
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::{TableProvider, provider_as_source};
use datafusion::functions_aggregate as aggregates;
use datafusion::logical_expr::expr::{AggregateFunction, Sort};
use datafusion::logical_expr::{
    AggregateUDF, Expr as DfExpr, GroupingSet, LogicalPlan, LogicalPlanBuilder, lit,
};
use futures::{StreamExt, stream};
use nodedb_bridge::plan::{Order, Output, SetQuery};
use nodedb_types::arrow_map::arrow_type;
use nodedb_types::{DataType, Failure, Value};

use super::RunContext;
use super::aggregate;
use super::collect;
use super::error::wrap;
use super::expression::{Schemas, name};
use super::key;
use super::leaf::{LeafTable, Ready, schema_of};
use super::stream::{Batches, StreamTable};
use super::variance::{self, Statistic};
use crate::expr::builder::{array_of, batch_of, result_schema};
use crate::expr::{ColumnId, Expr};
use crate::plan::Environment;
use crate::rel::{
    AggregateCall, AggregateKind, JoinKind, Rel, SetKind, SortKey, WindowCall, WindowKind,
};
use crate::rules::{self, LeafPlan, Sources, chain_of, plan_leaf};

/// Makes one statement's plan.
pub(super) struct Lowering {
    context: RunContext,
    environment: Environment,
    next: u32,
}

pub(super) type Outer<'a> = &'a [Arc<DFSchema>];

impl Lowering {
    pub(super) fn new(context: RunContext, environment: Environment) -> Lowering {
        Lowering {
            context,
            environment,
            next: 0,
        }
    }

    /// A number used nowhere else in the plan.
    pub(super) fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// The whole query, with exactly the columns it shows, in order, named by position.
    pub(super) fn query(&mut self, query: &crate::bind::Query) -> Result<LogicalPlan> {
        let plan = self.rel(&query.rel, &[])?;
        let mut expressions = Vec::new();
        for (i, (id, _)) in query.columns.iter().enumerate() {
            let schemas = Schemas {
                own: plan.schema(),
                outer: &[],
                in_filter: false,
            };
            expressions.push(self.column(*id, &schemas)?.alias(format!("o{i}")));
        }
        LogicalPlanBuilder::from(plan).project(expressions)?.build()
    }

    pub(super) fn rel(&mut self, rel: &Rel, outer: Outer<'_>) -> Result<LogicalPlan> {
        if let Some(plan) = self.ready(rel)? {
            return Ok(plan);
        }
        match rel {
            Rel::Scan(scan) => {
                let table =
                    LeafTable::new(scan.clone(), self.context.clone(), self.environment.clone());
                self.table(&format!("s{}", scan.id), Arc::new(table))
            }
            Rel::Virtual { table, columns } => {
                let types = table.table.columns();
                let columns: Vec<(ColumnId, DataType)> = columns
                    .iter()
                    .zip(&types)
                    .map(|(id, c)| (*id, c.data_type))
                    .collect();
                let source = table.table.clone();
                self.stream(&table.name, &columns, move || {
                    let rows = source.rows();
                    stream::once(async move { rows }).boxed()
                })
            }
            Rel::Values { columns, rows } => self.values(columns, rows, outer),
            Rel::Filter { input, predicate } => {
                let input = self.rel(input, outer)?;
                let predicate = self.condition(predicate, &input, outer)?;
                LogicalPlanBuilder::from(input).filter(predicate)?.build()
            }
            Rel::Project { input, expressions } => {
                let input = self.rel(input, outer)?;
                let expressions = expressions
                    .iter()
                    .map(|(id, e)| self.named(*id, e, &input, outer))
                    .collect::<Result<Vec<_>>>()?;
                LogicalPlanBuilder::from(input)
                    .project(expressions)?
                    .build()
            }
            Rel::Join {
                kind,
                left,
                right,
                on,
            } => self.join(*kind, left, right, on, outer),
            Rel::Aggregate {
                input,
                keys,
                sets,
                aggregates,
            } => self.aggregate(input, keys, sets.as_deref(), aggregates, outer),
            Rel::Window { input, calls } => self.window(input, calls, outer),
            Rel::Expand { input, calls } => self.expand(input, calls, outer),
            Rel::Sort { input, keys } => {
                let input = self.rel(input, outer)?;
                let keys = self.sort_keys(keys, &input, outer)?;
                LogicalPlanBuilder::from(input).sort(keys)?.build()
            }
            Rel::Limit {
                input,
                limit,
                offset,
            } => {
                let count = |e: &Option<Expr>, what| match e {
                    Some(e) => rules::row_count(e, what).map_err(wrap),
                    None => Ok(None),
                };
                let limit = count(limit, "LIMIT")?;
                let offset = count(offset, "OFFSET")?.unwrap_or(0);
                let input = self.rel(input, outer)?;
                let rows = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                LogicalPlanBuilder::from(input)
                    .limit(rows(offset), limit.map(rows))?
                    .build()
            }
            Rel::Distinct { input, on, order } => {
                let input = self.rel(input, outer)?;
                match on {
                    None => {
                        let input = key::canonical_columns(input)?;
                        LogicalPlanBuilder::from(input).distinct()?.build()
                    }
                    Some(on) => self.distinct_on(input, on, order, outer),
                }
            }
            Rel::SetOperation {
                kind,
                all,
                left,
                right,
                columns,
            } => self.set_operation(*kind, *all, left, right, columns, outer),
            Rel::Recursive {
                name: working,
                columns,
                start,
                step,
                all,
            } => {
                let start = self.rel(start, outer)?;
                let mut start = self.renamed(start, columns)?;
                let step = self.rel(step, outer)?;
                let mut step = self.renamed(step, columns)?;
                if !all {
                    start = key::canonical_columns(start)?;
                    step = key::canonical_columns(step)?;
                }
                LogicalPlanBuilder::from(start)
                    .to_recursive_query(working.clone(), step, !all)?
                    .build()
            }
            Rel::Working {
                name: working,
                columns,
            } => {
                // The work table has the names of the recursive query, found by position.
                let table = CteWorkTable::new(working, schema_of(columns));
                self.table(working, Arc::new(table))
            }
            Rel::Series {
                column,
                data_type,
                arguments,
            } => self.series(*column, *data_type, arguments),
        }
    }

    fn table(&mut self, name: &str, table: Arc<dyn TableProvider>) -> Result<LogicalPlan> {
        LogicalPlanBuilder::scan(name, provider_as_source(table), None)?.build()
    }

    fn stream(
        &mut self,
        label: &str,
        columns: &[(ColumnId, DataType)],
        make: impl Fn() -> Batches + Send + Sync + 'static,
    ) -> Result<LogicalPlan> {
        let table = StreamTable {
            label: label.to_owned(),
            schema: schema_of(columns),
            make: Arc::new(make),
        };
        let name = format!("v{}", self.fresh());
        self.table(&name, Arc::new(table))
    }

    /// A part that is one set query: ordered and limited, or a count.
    fn ready(&mut self, rel: &Rel) -> Result<Option<LogicalPlan>> {
        if !matches!(rel, Rel::Limit { .. } | Rel::Aggregate { .. }) {
            return Ok(None);
        }
        let Some(chain) = chain_of(rel) else {
            return Ok(None);
        };
        let leaf = chain.scan.id;
        let name = &chain.scan.collection.name;
        let context = self.context.clone();
        if let Some(counts) = &chain.count {
            let mut sources = Sources::new(&chain.scan);
            let set = sources.set_of_all(chain.conjuncts.clone()).map_err(wrap)?;
            let ready = Arc::new(Ready {
                query: SetQuery {
                    collection: chain.scan.collection.id,
                    shard: None,
                    sources: sources.list,
                    set,
                    order: Order::Any,
                    limit: None,
                    output: Output::Count,
                    explain: false,
                },
                merge: None,
                expressions: Vec::new(),
                offset: 0,
                limit: None,
                leaf,
            });
            let columns: Vec<_> = counts.iter().map(|id| (*id, DataType::Int8)).collect();
            let width = columns.len();
            let label = format!("count of {name}");
            let plan = self.stream(&label, &columns, move || {
                ready.clone().count(context.clone(), width)
            })?;
            return Ok(Some(plan));
        }
        if chain.limit.is_none() || chain.order.is_empty() || chain.meaning.is_empty() {
            return Ok(None);
        }
        let shown: Vec<Expr> = chain.meaning.iter().map(|(_, e)| e.clone()).collect();
        let columns: Vec<(ColumnId, DataType)> = chain
            .meaning
            .iter()
            .map(|(id, e)| (*id, e.data_type()))
            .collect();
        let Some(LeafPlan {
            query,
            merge,
            expressions,
        }) = plan_leaf(&chain, &shown).map_err(wrap)?
        else {
            return Ok(None);
        };
        let ready = Arc::new(Ready {
            query,
            merge,
            expressions,
            offset: chain.offset,
            limit: chain.limit,
            leaf,
        });
        let label = format!("top of {name}");
        self.stream(&label, &columns, move || {
            ready.clone().open(context.clone())
        })
        .map(Some)
    }

    pub(super) fn value(
        &mut self,
        e: &Expr,
        input: &LogicalPlan,
        outer: Outer<'_>,
    ) -> Result<DfExpr> {
        let schemas = Schemas {
            own: input.schema(),
            outer,
            in_filter: false,
        };
        self.expr(e, &schemas)
    }

    fn condition(&mut self, e: &Expr, input: &LogicalPlan, outer: Outer<'_>) -> Result<DfExpr> {
        let schemas = Schemas {
            own: input.schema(),
            outer,
            in_filter: true,
        };
        self.expr(e, &schemas)
    }

    /// An expression under its column's name.
    fn named(
        &mut self,
        id: ColumnId,
        e: &Expr,
        input: &LogicalPlan,
        outer: Outer<'_>,
    ) -> Result<DfExpr> {
        let lowered = self.value(e, input, outer)?;
        Ok(match &lowered {
            DfExpr::Column(column) if column.name == name(id) => lowered,
            _ => lowered.alias(name(id)),
        })
    }

    fn values(
        &mut self,
        columns: &[(ColumnId, DataType)],
        rows: &[Vec<Expr>],
        outer: Outer<'_>,
    ) -> Result<LogicalPlan> {
        if columns.is_empty() && rows.len() == 1 {
            return LogicalPlanBuilder::empty(true).build();
        }
        if rows.iter().flatten().all(|e| e.constant().is_some()) {
            let batch = constant_rows(columns, rows).map_err(wrap)?;
            return self.stream("values", columns, move || {
                let batch = batch.clone();
                stream::once(async move { Ok(batch) }).boxed()
            });
        }
        let mut all: Option<LogicalPlan> = None;
        for row in rows {
            let one = LogicalPlanBuilder::empty(true).build()?;
            let expressions = columns
                .iter()
                .zip(row)
                .map(|((id, _), e)| self.named(*id, e, &one, outer))
                .collect::<Result<Vec<_>>>()?;
            let one = LogicalPlanBuilder::from(one)
                .project(expressions)?
                .build()?;
            all = Some(match all {
                None => one,
                Some(before) => LogicalPlanBuilder::from(before).union(one)?.build()?,
            });
        }
        all.ok_or_else(|| wrap(Failure::internal("VALUES without rows")))
    }

    fn join(
        &mut self,
        kind: JoinKind,
        left: &Rel,
        right: &Rel,
        on: &Expr,
        outer: Outer<'_>,
    ) -> Result<LogicalPlan> {
        let left = self.rel(left, outer)?;
        let right = self.rel(right, outer)?;
        let terms = on.clone().conjuncts();
        if kind == JoinKind::Inner && terms.is_empty() {
            return LogicalPlanBuilder::from(left).cross_join(right)?.build();
        }
        let kind = match kind {
            JoinKind::Inner => JoinType::Inner,
            JoinKind::Left => JoinType::Left,
            JoinKind::Right => JoinType::Right,
            JoinKind::Full => JoinType::Full,
        };
        let both = left.schema().join(right.schema())?;
        let schemas = Schemas {
            own: &both,
            outer,
            in_filter: false,
        };
        let mut on = terms
            .iter()
            .map(|e| self.expr(e, &schemas))
            .collect::<Result<Vec<_>>>()?;
        if on.is_empty() {
            on.push(lit(true));
        }
        LogicalPlanBuilder::from(left)
            .join_on(right, kind, on)?
            .build()
    }

    fn aggregate(
        &mut self,
        input: &Rel,
        keys: &[(ColumnId, Expr)],
        sets: Option<&[Vec<usize>]>,
        calls: &[(ColumnId, AggregateCall)],
        outer: Outer<'_>,
    ) -> Result<LogicalPlan> {
        let mut input = self.rel(input, outer)?;
        let is_plain = |e: &Expr| {
            matches!(e, Expr::Column { outer: false, .. }) && !key::has_canonical(e.data_type())
        };
        if !keys.iter().all(|(_, e)| is_plain(e)) {
            // Keys first become columns, so that grouping sets and outer references see columns.
            let computed: Vec<_> = keys.iter().filter(|(_, e)| !is_plain(e)).collect();
            let is_replaced = |field: &str| computed.iter().any(|(id, _)| name(*id) == field);
            let mut expressions: Vec<DfExpr> = input
                .schema()
                .iter()
                .filter(|(_, field)| !is_replaced(field.name()))
                .map(|(qualifier, field)| DfExpr::Column(Column::from((qualifier, field))))
                .collect();
            for (id, e) in computed {
                let value = self.value(e, &input, outer)?;
                expressions.push(key::canonical(value, e.data_type()).alias(name(*id)));
            }
            input = LogicalPlanBuilder::from(input)
                .project(expressions)?
                .build()?;
        }
        let columns = keys
            .iter()
            .map(|(id, e)| self.value(&Expr::column(*id, e.data_type()), &input, outer))
            .collect::<Result<Vec<_>>>()?;
        let groups = match sets {
            None => columns,
            Some(sets) => {
                let sets = sets
                    .iter()
                    .map(|set| set.iter().map(|i| columns[*i].clone()).collect())
                    .collect();
                vec![DfExpr::GroupingSet(GroupingSet::GroupingSets(sets))]
            }
        };
        let mut results = Vec::new();
        for (id, call) in calls {
            let e = self.aggregate_call(call, &input, outer)?;
            results.push(e.alias(name(*id)));
        }
        if groups.is_empty() && results.is_empty() {
            let count = AggregateFunction::new_udf(
                aggregates::count::count_udaf(),
                vec![lit(1i64)],
                false,
                None,
                Vec::new(),
                None,
            );
            results.push(DfExpr::AggregateFunction(count).alias("rows"));
        }
        let plan = LogicalPlanBuilder::from(input)
            .aggregate(groups, results)?
            .build()?;
        from_ranks(plan, calls)
    }

    fn aggregate_call(
        &mut self,
        call: &AggregateCall,
        input: &LogicalPlan,
        outer: Outer<'_>,
    ) -> Result<DfExpr> {
        let mut arguments = call
            .arguments
            .iter()
            .map(|e| self.value(e, input, outer))
            .collect::<Result<Vec<_>>>()?;
        if call.kind == AggregateKind::CountStar {
            arguments.push(lit(1i64));
        }
        if key::is_by_rank(call.kind, call.returns) {
            arguments = key::ranks(arguments);
        } else if call.distinct {
            arguments = key::distinct_arguments(call.kind, arguments, &call.arguments);
        }
        let filter = match &call.filter {
            Some(e) => Some(Box::new(self.value(e, input, outer)?)),
            None => None,
        };
        if collect::is_collecting(call.kind) {
            for key in &call.order {
                arguments.push(self.value(&key.expr, input, outer)?);
            }
            let function = collect::of(call);
            return Ok(DfExpr::AggregateFunction(AggregateFunction::new_udf(
                function,
                arguments,
                false,
                filter,
                Vec::new(),
                None,
            )));
        }
        let order = self.sort_keys(&call.order, input, outer)?;
        let result = DfExpr::AggregateFunction(AggregateFunction::new_udf(
            aggregate_function(call.kind, &call.arguments, call.returns),
            arguments,
            call.distinct,
            filter,
            order,
            None,
        ));
        Ok(narrowed(result, call.kind, call.returns))
    }

    pub(super) fn sort_keys(
        &mut self,
        keys: &[SortKey],
        input: &LogicalPlan,
        outer: Outer<'_>,
    ) -> Result<Vec<Sort>> {
        keys.iter()
            .map(|key| {
                let e = self.value(&key.expr, input, outer)?;
                let e = key::sortable(e, key.expr.data_type());
                Ok(Sort::new(e, !key.descending, key.nulls_first))
            })
            .collect()
    }

    fn distinct_on(
        &mut self,
        input: LogicalPlan,
        on: &[Expr],
        order: &[SortKey],
        outer: Outer<'_>,
    ) -> Result<LogicalPlan> {
        let columns: Vec<DfExpr> = input
            .schema()
            .iter()
            .map(|(qualifier, field)| DfExpr::Column(Column::from((qualifier, field))))
            .collect();
        let on = on
            .iter()
            .map(|e| Ok(key::sortable(self.value(e, &input, outer)?, e.data_type())))
            .collect::<Result<Vec<_>>>()?;
        let order = self.sort_keys(order, &input, outer)?;
        let order = (!order.is_empty()).then_some(order);
        // A sort above takes what it sorts by for a column of the plan below if that has the same
        // expression, so that one shows its columns only.
        LogicalPlanBuilder::from(input)
            .distinct_on(on, columns.clone(), order)?
            .project(columns)?
            .build()
    }

    /// A plan's columns under other names, by position.
    fn renamed(
        &mut self,
        plan: LogicalPlan,
        columns: &[(ColumnId, DataType)],
    ) -> Result<LogicalPlan> {
        let expressions: Vec<DfExpr> = plan
            .schema()
            .iter()
            .zip(columns)
            .map(|((qualifier, field), (id, _))| {
                DfExpr::Column(Column::from((qualifier, field))).alias(name(*id))
            })
            .collect();
        LogicalPlanBuilder::from(plan).project(expressions)?.build()
    }

    fn set_operation(
        &mut self,
        kind: SetKind,
        all: bool,
        left: &Rel,
        right: &Rel,
        columns: &[(ColumnId, DataType)],
        outer: Outer<'_>,
    ) -> Result<LogicalPlan> {
        if all && kind != SetKind::Union {
            let set = self.numbered_set(kind, left, right, columns);
            return self.rel(&set, outer);
        }
        let left = self.rel(left, outer)?;
        let left = self.renamed(left, columns)?;
        let right = self.rel(right, outer)?;
        let right = self.renamed(right, columns)?;
        let (left, right) = match all {
            true => (left, right),
            false => (
                key::canonical_columns(left)?,
                key::canonical_columns(right)?,
            ),
        };
        let left_builder = LogicalPlanBuilder::from(left.clone());
        match (kind, all) {
            (SetKind::Union, true) => left_builder.union(right)?.build(),
            (SetKind::Union, false) => left_builder.union(right)?.distinct()?.build(),
            (SetKind::Intersect, false) => LogicalPlanBuilder::intersect(left, right, false),
            (SetKind::Except, false) => LogicalPlanBuilder::except(left, right, false),
            (SetKind::Intersect | SetKind::Except, true) => {
                Err(wrap(Failure::internal("equal rows were not numbered")))
            }
        }
    }

    /// `INTERSECT ALL` and `EXCEPT ALL`: with equal rows numbered on either side, no row is there
    /// twice, and the sets of distinct rows are those that are wanted.
    fn numbered_set(
        &mut self,
        kind: SetKind,
        left: &Rel,
        right: &Rel,
        columns: &[(ColumnId, DataType)],
    ) -> Rel {
        let mut numbered = |side: &Rel| {
            let number = ColumnId(u32::MAX / 2 + self.fresh());
            let call = WindowCall {
                kind: WindowKind::RowNumber,
                arguments: Vec::new(),
                filter: None,
                partition: side
                    .columns()
                    .into_iter()
                    .map(|(id, t)| Expr::column(id, t))
                    .collect(),
                order: Vec::new(),
                frame: None,
                returns: DataType::Int8,
            };
            Box::new(Rel::Window {
                input: Box::new(side.clone()),
                calls: vec![(number, call)],
            })
        };
        let (left, right) = (numbered(left), numbered(right));
        let mut with_number = columns.to_vec();
        with_number.push((ColumnId(u32::MAX / 2 + self.fresh()), DataType::Int8));
        let keep = |(id, t): &(ColumnId, DataType)| (*id, Expr::column(*id, *t));
        Rel::Project {
            input: Box::new(Rel::SetOperation {
                kind,
                all: false,
                left,
                right,
                columns: with_number,
            }),
            expressions: columns.iter().map(keep).collect(),
        }
    }

    fn series(
        &mut self,
        column: ColumnId,
        data_type: DataType,
        arguments: &[Expr],
    ) -> Result<LogicalPlan> {
        let constants: Option<Vec<Value>> =
            arguments.iter().map(|e| e.constant().cloned()).collect();
        let constants = constants.ok_or_else(|| {
            wrap(Failure::unsupported(
                "generate_series of anything but constants",
            ))
        })?;
        let series = super::session::Series::new(data_type, &constants).map_err(wrap)?;
        self.stream("generate_series", &[(column, data_type)], move || {
            series.clone().batches()
        })
    }
}

fn constant_rows(
    columns: &[(ColumnId, DataType)],
    rows: &[Vec<Expr>],
) -> nodedb_types::Result<RecordBatch> {
    let null = Value::Null;
    let mut arrays = Vec::new();
    let mut named = Vec::new();
    for (i, (id, data_type)) in columns.iter().enumerate() {
        let cells = rows.iter().map(|row| row[i].constant().unwrap_or(&null));
        arrays.push(array_of(data_type, cells)?);
        named.push(crate::catalog::ResultColumn {
            name: name(*id),
            data_type: *data_type,
            shown_as: None,
        });
    }
    batch_of(result_schema(&named), arrays, rows.len())
}

/// With the floats of those results that are ranks.
fn from_ranks(plan: LogicalPlan, calls: &[(ColumnId, AggregateCall)]) -> Result<LogicalPlan> {
    let by_rank = calls
        .iter()
        .filter(|(_, call)| key::is_by_rank(call.kind, call.returns));
    let by_rank: Vec<String> = by_rank.map(|(id, _)| name(*id)).collect();
    if by_rank.is_empty() {
        return Ok(plan);
    }
    let columns = plan.schema().iter().map(|(qualifier, field)| {
        let column = DfExpr::Column(Column::from((qualifier, field)));
        match by_rank.contains(field.name()) {
            true => key::of_rank(column).alias(field.name()),
            false => column,
        }
    });
    let columns: Vec<DfExpr> = columns.collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

/// `returns` tells the sum of bigint, which is exact, from that of smaller integers.
pub(super) fn aggregate_function(
    kind: AggregateKind,
    arguments: &[Expr],
    returns: DataType,
) -> Arc<AggregateUDF> {
    let argument = arguments.first().map(Expr::data_type);
    let exact = matches!(argument, Some(DataType::Numeric(_)));
    match kind {
        AggregateKind::CountStar | AggregateKind::Count => aggregates::count::count_udaf(),
        AggregateKind::Sum
            if exact || returns != DataType::Int8 && argument == Some(DataType::Int8) =>
        {
            aggregate::sum()
        }
        AggregateKind::Sum => aggregates::sum::sum_udaf(),
        AggregateKind::Avg if exact || argument == Some(DataType::Int8) => aggregate::average(),
        AggregateKind::Avg => aggregates::average::avg_udaf(),
        AggregateKind::Min => aggregates::min_max::min_udaf(),
        AggregateKind::Max => aggregates::min_max::max_udaf(),
        AggregateKind::BoolAnd => aggregates::bool_and_or::bool_and_udaf(),
        AggregateKind::BoolOr => aggregates::bool_and_or::bool_or_udaf(),
        AggregateKind::StringAgg | AggregateKind::JsonbAgg | AggregateKind::JsonbObjectAgg => {
            collect::of(&AggregateCall {
                kind,
                arguments: arguments.to_vec(),
                distinct: false,
                filter: None,
                order: Vec::new(),
                returns,
            })
        }
        AggregateKind::StddevSample => variance::of(Statistic::StddevSample),
        AggregateKind::StddevPopulation => variance::of(Statistic::StddevPopulation),
        AggregateKind::VarianceSample => variance::of(Statistic::VarianceSample),
        AggregateKind::VariancePopulation => variance::of(Statistic::VariancePopulation),
        AggregateKind::BitAnd => aggregates::bit_and_or_xor::bit_and_udaf(),
        AggregateKind::BitOr => aggregates::bit_and_or_xor::bit_or_udaf(),
        AggregateKind::BitXor => aggregates::bit_and_or_xor::bit_xor_udaf(),
        AggregateKind::SingleValue => aggregate::single_value(),
    }
}

/// The sum of `real` is computed in double precision and shown as `real`.
pub(super) fn narrowed(e: DfExpr, kind: AggregateKind, returns: DataType) -> DfExpr {
    if kind == AggregateKind::Sum && returns == DataType::Float4 {
        return datafusion::logical_expr::cast(e, arrow_type(&returns));
    }
    e
}
