//! Engine rules: which bound queries are a get, a set query or a count, and what of a relational
//! plan its leaves take.
//!
//! The rules see a chain of operators over one collection. Each condition is shown to the
//! collection's indexes through their contracts; what an engine accepts becomes an index source,
//! the rest an expression source. An ORDER BY becomes a ranking, the order of the key or of an
//! ordered index. What does not fit goes to the relational executor, whose leaves are made here too
//! ([`leaf`]).

pub(crate) mod dependent;
mod extreme;
mod key_read;
mod leaf;
mod quantified;
mod scalar;
mod source;

use std::collections::HashSet;
use std::sync::Arc;

use nodedb_bridge::op::{Argument, CONTRACTS, Call, EngineRank, contract};
use nodedb_bridge::plan::{Direction, Get, Order, Output, OutputColumn, RankSpec, SetQuery};
use nodedb_types::vector::Metric;
use nodedb_types::{DataType, Failure, Result, Value};

use crate::bind::Query;
use crate::expr::compiled::{Compiled, positioned};
use crate::expr::fold::Given;
use crate::expr::{CompareOp, Expr};
use crate::plan::{
    Environment, GetPlan, Merge, MergeKey, Plan, Projection, RelationalPlan, SetPlan, key_bytes,
    shard_of,
};
use crate::rel::{AggregateKind, ColumnId, Extra, Rel, Scan, SortKey};

pub(crate) use key_read::KeyRead;
pub(crate) use leaf::{Leaf, LeafPlan, plan_leaf};
pub(crate) use source::Sources;

/// The plan of a query, parameters filled in.
pub(crate) fn plan_query(mut query: Query, given: &Given<'_>) -> Result<Plan> {
    query.rel.prune();
    query.rel.map_expressions(&mut |e| given.fold_node(e))?;
    let shards = Some((given.environment.shards, given.environment.key_seed));
    query.rel.scans_mut(&mut |scan| scan.shards = shards);
    if let Some(chain) = chain_of(&query.rel)
        && let Some(plan) = short_path(&query, chain, given)?
    {
        return Ok(plan);
    }
    dependent::rewrite_joins(&mut query.rel)?;
    quantified::rewrite_quantified(&mut query.rel);
    scalar::rewrite_scalars(&mut query.rel);
    extreme::rewrite_extremes(&mut query.rel);
    number_copies(&mut query);
    Ok(Plan::Relational(RelationalPlan::new(
        query,
        given.environment.clone(),
    )))
}

/// Gives copies of a scan, which rules make, an id of their own: what the cores report is told apart
/// by it. Subqueries inside expressions keep theirs, for two that are alike are evaluated once.
fn number_copies(query: &mut Query) {
    fn of_tree(rel: &mut Rel, seen: &mut Vec<u32>, next: &mut u32) {
        if let Rel::Scan(scan) = rel {
            if seen.contains(&scan.id) {
                scan.id = *next;
                *next += 1;
            }
            seen.push(scan.id);
        }
        for input in rel.inputs_mut() {
            of_tree(input, seen, next);
        }
    }
    let mut next = 0;
    query
        .rel
        .scans_mut(&mut |scan| next = next.max(scan.id + 1));
    of_tree(&mut query.rel, &mut Vec::new(), &mut next);
}

/// A chain of operators over one scan, every expression in terms of the scan's columns.
pub(crate) struct Chain {
    pub scan: Scan,
    pub conjuncts: Vec<Expr>,
    pub order: Vec<SortKey>,
    pub limit: Option<u64>,
    pub offset: u64,
    /// What columns above mean.
    pub meaning: Vec<(ColumnId, Expr)>,
    /// The only thing computed is a count of all rows.
    pub count: Option<Vec<ColumnId>>,
}

impl Chain {
    fn resolve(&self, e: Expr) -> Expr {
        e.replace(&|part| match part {
            Expr::Column { id, .. } => self
                .meaning
                .iter()
                .find(|(known, _)| known == id)
                .map(|(_, e)| e.clone()),
            _ => None,
        })
    }

    /// A column's value in terms of the scan.
    fn column(&self, id: ColumnId, data_type: DataType) -> Expr {
        self.resolve(Expr::column(id, data_type))
    }
}

/// A row count from LIMIT or OFFSET.
pub(crate) fn row_count(e: &Expr, what: &str) -> Result<Option<u64>> {
    match e.constant() {
        Some(Value::Null) => Ok(None),
        Some(Value::Int8(n)) => u64::try_from(*n).map(Some).map_err(|_| {
            Failure::new(
                match what {
                    "OFFSET" => nodedb_types::SqlState::InvalidRowOffset,
                    _ => nodedb_types::SqlState::InvalidRowCount,
                },
                format!("{what} must not be negative"),
            )
        }),
        _ => {
            // Something that could not be folded, such as a division by zero: say why.
            let batch = crate::expr::builder::rows_only(1)?;
            crate::expr::eval::evaluate(e, &batch)?;
            Err(Failure::internal(format!("{what} is no constant")))
        }
    }
}

/// Reads a chain, if that is what the tree is.
pub(crate) fn chain_of(rel: &Rel) -> Option<Chain> {
    match rel {
        Rel::Scan(scan) => Some(Chain {
            scan: scan.clone(),
            conjuncts: Vec::new(),
            order: Vec::new(),
            limit: None,
            offset: 0,
            meaning: Vec::new(),
            count: None,
        }),
        Rel::Filter { input, predicate } => {
            let mut chain = chain_of(input).filter(Chain::is_open)?;
            let predicate = chain.resolve(predicate.clone());
            if is_outside(&predicate) || !chain.scan.is_plain(&predicate) {
                return None;
            }
            chain.conjuncts.extend(predicate.conjuncts());
            Some(chain)
        }
        Rel::Project { input, expressions } => {
            let mut chain = chain_of(input)?;
            let mut meaning = Vec::with_capacity(expressions.len());
            for (id, e) in expressions {
                let e = chain.resolve(e.clone());
                if e.has_subquery() {
                    return None;
                }
                meaning.push((*id, e));
            }
            chain.meaning = meaning;
            Some(chain)
        }
        Rel::Sort { input, keys } => {
            let mut chain = chain_of(input).filter(|c| c.limit.is_none() && c.offset == 0)?;
            if chain.count.is_some() {
                return None;
            }
            let mut order = Vec::with_capacity(keys.len());
            for key in keys {
                let expr = chain.resolve(key.expr.clone());
                if is_outside(&expr) {
                    return None;
                }
                if expr.constant().is_none() {
                    order.push(SortKey {
                        expr,
                        ..key.clone()
                    });
                }
            }
            chain.order = order;
            Some(chain)
        }
        Rel::Limit {
            input,
            limit,
            offset,
        } => {
            let mut chain = chain_of(input).filter(|c| c.limit.is_none() && c.offset == 0)?;
            if chain.count.is_some() {
                return None;
            }
            chain.limit = match limit {
                Some(e) => row_count(e, "LIMIT").ok()?,
                None => None,
            };
            chain.offset = match offset {
                Some(e) => row_count(e, "OFFSET").ok()?.unwrap_or(0),
                None => 0,
            };
            Some(chain)
        }
        Rel::Aggregate {
            input,
            keys,
            sets: None,
            aggregates,
        } if keys.is_empty() && !aggregates.is_empty() => {
            let mut chain = chain_of(input).filter(Chain::is_open)?;
            let all_rows = aggregates.iter().all(|(_, call)| {
                call.filter.is_none()
                    && !call.distinct
                    && match (call.kind, &call.arguments[..]) {
                        (AggregateKind::CountStar, []) => true,
                        (AggregateKind::Count, [e]) => chain.is_never_null(e),
                        _ => false,
                    }
            });
            if !all_rows {
                return None;
            }
            chain.count = Some(aggregates.iter().map(|(id, _)| *id).collect());
            chain.meaning = Vec::new();
            Some(chain)
        }
        _ => None,
    }
}

impl Chain {
    /// Conditions may still be added.
    fn is_open(&self) -> bool {
        self.order.is_empty() && self.limit.is_none() && self.offset == 0 && self.count.is_none()
    }

    fn is_never_null(&self, e: &Expr) -> bool {
        match e {
            Expr::Constant(value, _) => !value.is_null(),
            Expr::Column { id, .. } => self.scan.position(*id).is_some_and(|p| {
                self.scan.collection.columns[p].not_null || self.scan.collection.key == Some(p)
            }),
            _ => false,
        }
    }
}

/// Not to be evaluated by a core.
fn is_outside(e: &Expr) -> bool {
    e.any(|e| {
        matches!(
            e,
            Expr::Subquery(_) | Expr::Volatile { .. } | Expr::Column { outer: true, .. }
        )
    })
}

fn short_path(query: &Query, chain: Chain, given: &Given<'_>) -> Result<Option<Plan>> {
    let shown: Vec<Expr> = query
        .columns
        .iter()
        .map(|(id, c)| match &chain.count {
            Some(_) => chain
                .meaning
                .iter()
                .find(|(known, _)| known == id)
                .map_or_else(|| Expr::column(*id, c.data_type), |(_, e)| e.clone()),
            None => chain.column(*id, c.data_type),
        })
        .collect();
    let columns = query.columns.iter().map(|(_, c)| c.clone()).collect();
    if let Some(count) = &chain.count {
        let counts = count.clone();
        let expressions = shown
            .into_iter()
            .map(|e| positioned(e, &mut |id| counts.contains(&id).then_some(0)))
            .collect::<Result<Vec<_>>>()?;
        let mut sources = Sources::new(&chain.scan);
        let set = sources.set_of_all(chain.conjuncts)?;
        return Ok(Some(Plan::Set(SetPlan {
            query: Arc::new(SetQuery {
                collection: chain.scan.collection.id,
                shard: None,
                sources: sources.list,
                set,
                order: Order::Any,
                limit: None,
                output: Output::Count,
                explain: false,
            }),
            collection: chain.scan.collection.clone(),
            merge: None,
            offset: 0,
            limit: None,
            projection: Arc::new(Projection::new(columns, expressions)),
        })));
    }
    if let Some(plan) = get_plan(&chain, &shown, &columns, given)? {
        return Ok(Some(plan));
    }
    let Some(leaf) = plan_leaf(&chain, &shown)? else {
        return Ok(None);
    };
    let LeafPlan {
        query,
        merge,
        expressions,
    } = leaf;
    Ok(Some(Plan::Set(SetPlan {
        collection: chain.scan.collection.clone(),
        query: Arc::new(query),
        merge,
        offset: chain.offset,
        limit: chain.limit,
        projection: Arc::new(Projection::new(columns, expressions)),
    })))
}

/// Rows by full key, in any order (or there is one at most).
fn get_plan(
    chain: &Chain,
    shown: &[Expr],
    columns: &[crate::catalog::ResultColumn],
    given: &Given<'_>,
) -> Result<Option<Plan>> {
    if chain.offset > 0 || chain.limit == Some(0) {
        return Ok(None);
    }
    let found = get_of(&chain.scan, &chain.conjuncts, shown, given.environment)?;
    let Some((get, expressions)) = found else {
        return Ok(None);
    };
    let several = get.keys.len() > 1;
    if several && (!chain.order.is_empty() || chain.limit.is_some()) {
        return Ok(None);
    }
    Ok(Some(Plan::Get(GetPlan {
        collection: chain.scan.collection.clone(),
        get,
        projection: Arc::new(Projection::new(columns.to_vec(), expressions)),
    })))
}

/// The read by key that a conjunction is, and `shown` over its output columns.
pub(crate) fn get_of(
    scan: &Scan,
    conjuncts: &[Expr],
    shown: &[Expr],
    environment: &Environment,
) -> Result<Option<(Get, Vec<Expr>)>> {
    let Some((keys, rest)) = keys_of(scan, conjuncts.to_vec())? else {
        return Ok(None);
    };
    let mut output = Vec::new();
    let mut expressions = Vec::new();
    for e in shown {
        let Some(e) = output_positions(e.clone(), scan, &mut output) else {
            return Ok(None);
        };
        expressions.push(e);
    }
    let filter = match rest.is_empty() {
        true => None,
        false => {
            let rest = Expr::all(rest);
            if rest
                .columns()
                .iter()
                .any(|(id, _)| scan.position(*id).is_none())
            {
                return Ok(None);
            }
            let compiled = Compiled::new(&rest, scan)?;
            Some(Arc::new(compiled) as Arc<dyn nodedb_bridge::expression::BatchExpression>)
        }
    };
    let mut located = Vec::with_capacity(keys.len());
    let mut known = HashSet::with_capacity(keys.len());
    for key in keys {
        let bytes = key_bytes(&key)?;
        let shard = shard_of(&bytes, environment);
        if known.insert(bytes.clone()) {
            located.push((shard, bytes));
        }
    }
    let get = Get {
        collection: scan.collection.id,
        keys: located,
        filter,
        output: output.into(),
    };
    Ok(Some((get, expressions)))
}

/// Replaces columns by positions in `output`, adding those that are new. `None` when a column is
/// not one that any read of rows gives.
fn output_positions(e: Expr, scan: &Scan, output: &mut Vec<OutputColumn>) -> Option<Expr> {
    positioned(e, &mut |id| {
        let wanted = if let Some(position) = scan.position(id) {
            OutputColumn::Column(position)
        } else {
            let identity = scan.identity.iter().position(|i| *i == id)?;
            crate::plan::ROW_IDENTITY[identity].clone()
        };
        Some(output.iter().position(|o| *o == wanted).unwrap_or_else(|| {
            output.push(wanted);
            output.len() - 1
        }))
    })
    .ok()
}

/// The keys that a conjunction names, and the conditions that are left.
#[allow(clippy::type_complexity)]
pub(crate) fn keys_of(
    scan: &Scan,
    mut conjuncts: Vec<Expr>,
) -> Result<Option<(Vec<Value>, Vec<Expr>)>> {
    let Some(key) = scan.collection.key else {
        return Ok(None);
    };
    let data_type = scan.collection.columns[key].data_type;
    let id = scan.columns[key];
    let found = conjuncts
        .iter()
        .enumerate()
        .find_map(|(i, e)| key_values(e, id, &data_type).map(|values| (i, values)));
    let Some((i, values)) = found else {
        return Ok(None);
    };
    conjuncts.remove(i);
    Ok(Some((values, conjuncts)))
}

/// The column under casts that keep every value apart.
pub(crate) fn bare_column(e: &Expr) -> Option<ColumnId> {
    match e {
        Expr::Column {
            id, outer: false, ..
        } => Some(*id),
        Expr::Cast { operand, to, .. } => {
            let from = operand.data_type();
            // A length or a scale cuts or rounds, unless the values have it already.
            let keeps = from == *to || crate::expr::types::plain(*to) == *to;
            let widening = crate::expr::types::is_integer(from)
                && (crate::expr::types::is_integer(*to)
                    || keeps && matches!(to, DataType::Numeric(_)))
                || keeps
                    && crate::expr::types::plain(from) == crate::expr::types::plain(*to)
                    && matches!(
                        from,
                        DataType::Text(_)
                            | DataType::Numeric(_)
                            | DataType::Vector(_)
                            | DataType::Geometry(_)
                            | DataType::Geography(_)
                    );
            widening.then(|| bare_column(operand)).flatten()
        }
        _ => None,
    }
}

fn key_values(e: &Expr, key: ColumnId, data_type: &DataType) -> Option<Vec<Value>> {
    let list: Vec<&Value> = match e {
        Expr::Compare(CompareOp::Eq, l, r) => {
            let (column, other) = if bare_column(l) == Some(key) {
                (l, r)
            } else {
                (r, l)
            };
            if bare_column(column) != Some(key) {
                return None;
            }
            vec![other.constant()?]
        }
        Expr::InList(column, list) if bare_column(column) == Some(key) => {
            list.iter().map(Expr::constant).collect::<Option<_>>()?
        }
        Expr::InSet(column, set) if bare_column(column) == Some(key) => {
            set.values().iter().collect()
        }
        _ => return None,
    };
    let mut values = Vec::with_capacity(list.len());
    for value in list {
        match within(value, data_type)? {
            Some(value) => values.push(value),
            // NULL, or a value outside of the column's type: equals no key.
            None => continue,
        }
    }
    Some(values)
}

/// A constant as a value of the key's type; `Some(None)` when no key can equal it, `None` when the
/// comparison is not one within that type.
fn within(value: &Value, data_type: &DataType) -> Option<Option<Value>> {
    if value.is_null() {
        return Some(None);
    }
    if let Value::Numeric(n) = value
        && crate::expr::types::is_integer(*data_type)
    {
        let whole = n.rescale(38, 0).ok()?;
        if whole != *n {
            return Some(None);
        }
        return Some(value.clone().coerce(data_type).ok());
    }
    let given = value.data_type_hint()?;
    let integers =
        crate::expr::types::is_integer(given) && crate::expr::types::is_integer(*data_type);
    match nodedb_bridge::op::ordered::exact(value, data_type) {
        Some(value) => Some(Some(value)),
        None if integers => Some(None),
        None => None,
    }
}

/// The ranking that an ORDER BY term asks for.
pub(crate) fn rank_of(scan: &Scan, key: &SortKey) -> Result<Option<RankSpec>> {
    if let Expr::Column { id, .. } = &key.expr
        && let Some(extra) = scan.extras.iter().find(|e| e.column == *id && e.is_score())
    {
        // Best first is DESC for a score.
        if !key.descending {
            return Ok(None);
        }
        return Ok(extra_rank(scan, extra)?.map(|rank| RankSpec {
            index: Some(extra.index.id),
            rank,
        }));
    }
    if key.descending || key.nulls_first {
        return Ok(None);
    }
    let Some(call) = call_of(scan, &key.expr) else {
        return Ok(None);
    };
    check_dimensions(scan, &call)?;
    for index in scan.indexes.iter() {
        let Some(contract) = contract(&index.method) else {
            continue;
        };
        if let Some(rank) = (contract.rank)(&scan.collection, index, &call)? {
            return Ok(Some(RankSpec {
                index: Some(index.id),
                rank,
            }));
        }
    }
    // Without an index every allowed row is scored from its column.
    match (Metric::from_operator(&call.name), &call.arguments[..]) {
        (
            Some(metric),
            [
                Argument::Column(column),
                Argument::Constant(Value::Vector(query)),
            ]
            | [
                Argument::Constant(Value::Vector(query)),
                Argument::Column(column),
            ],
        ) => Ok(Some(RankSpec {
            index: None,
            rank: EngineRank::Vector(nodedb_bridge::op::vector::Rank {
                column: *column,
                metric,
                query: query.as_slice().into(),
            }),
        })),
        _ => Ok(None),
    }
}

/// A distance between vectors of other dimensions fails here, before a core is asked for it.
fn check_dimensions(scan: &Scan, call: &Call) -> Result<()> {
    let (mut declared, mut given) = (None, None);
    for argument in &call.arguments {
        match argument {
            Argument::Column(c) => {
                if let DataType::Vector(Some(n)) = scan.collection.columns[*c].data_type {
                    declared = Some(usize::from(n));
                }
            }
            Argument::Constant(Value::Vector(query)) => given = Some(query.len()),
            _ => {}
        }
    }
    match (declared, given) {
        (Some(a), Some(b)) if a != b => Err(Failure::new(
            nodedb_types::SqlState::DataException,
            format!("different vector dimensions {a} and {b}"),
        )),
        _ => Ok(()),
    }
}

pub(crate) fn extra_call(extra: &Extra) -> Call {
    let target = match extra.on_column {
        Some(column) => Argument::Column(column),
        None => Argument::Relation,
    };
    let query = extra.query.constant().cloned().unwrap_or(Value::Null);
    Call {
        name: extra.name.to_owned(),
        arguments: vec![target, Argument::Constant(query)],
    }
}

pub(crate) fn extra_rank(scan: &Scan, extra: &Extra) -> Result<Option<EngineRank>> {
    let Some(contract) = CONTRACTS.iter().find(|c| {
        c.method == extra.index.method || c.aliases.contains(&extra.index.method.as_str())
    }) else {
        return Ok(None);
    };
    (contract.rank)(&scan.collection, &extra.index, &extra_call(extra))
}

/// An expression as engines are asked about it: a comparison, list, range or function over one
/// column of the collection and constants.
pub(crate) fn call_of(scan: &Scan, e: &Expr) -> Option<Call> {
    let argument = |e: &Expr| match e {
        Expr::Constant(value, _) => Some(Argument::Constant(value.clone())),
        other => bare_column(other)
            .and_then(|id| scan.position(id))
            .map(Argument::Column),
    };
    let (name, arguments) = match e {
        Expr::Compare(op, l, r) => {
            let (l, r) = (argument(l)?, argument(r)?);
            if matches!(l, Argument::Column(_)) {
                (op.symbol().to_owned(), vec![l, r])
            } else {
                (op.flipped().symbol().to_owned(), vec![r, l])
            }
        }
        Expr::InList(operand, list) => {
            let mut arguments = vec![argument(operand)?];
            for item in list {
                arguments.push(argument(item)?);
            }
            ("in".to_owned(), arguments)
        }
        // A NULL in it makes unknown what is not found, which an index does not say.
        Expr::InSet(operand, set) if !set.has_null() => {
            let mut arguments = vec![argument(operand)?];
            arguments.extend(set.values().iter().cloned().map(Argument::Constant));
            ("in".to_owned(), arguments)
        }
        Expr::IsNull(operand) => ("is null".to_owned(), vec![argument(operand)?]),
        Expr::Call {
            function,
            arguments,
            ..
        } => {
            let arguments = arguments.iter().map(argument).collect::<Option<Vec<_>>>()?;
            (function.name.to_owned(), arguments)
        }
        _ => return None,
    };
    let columns = arguments
        .iter()
        .filter(|a| matches!(a, Argument::Column(_)))
        .count();
    (columns == 1).then_some(Call { name, arguments })
}

/// Merge keys for an order of a leaf whose output is `output`.
pub(crate) fn merge_keys(
    order: &Order,
    output: &mut Vec<OutputColumn>,
    scan: &Scan,
) -> Option<Merge> {
    let mut place = |wanted: OutputColumn| {
        output.iter().position(|o| *o == wanted).unwrap_or_else(|| {
            output.push(wanted);
            output.len() - 1
        })
    };
    let key = |place: &mut dyn FnMut(OutputColumn) -> usize, descending: bool| MergeKey {
        column: place(OutputColumn::Key),
        descending,
        nulls_first: false,
    };
    let keys = match order {
        Order::Any => return None,
        Order::Key(direction) => vec![key(&mut place, *direction == Direction::Descending)],
        Order::Index { index, direction } => {
            let column = scan
                .indexes
                .iter()
                .find(|i| i.id == *index)
                .and_then(|i| i.columns.first().copied())?;
            let descending = *direction == Direction::Descending;
            vec![
                MergeKey {
                    column: place(OutputColumn::Column(column)),
                    descending,
                    nulls_first: descending,
                },
                key(&mut place, false),
            ]
        }
        Order::Rank(spec) => {
            let descending = matches!(spec.rank, EngineRank::Text(_));
            vec![
                MergeKey {
                    column: place(OutputColumn::Score),
                    descending,
                    nulls_first: false,
                },
                key(&mut place, false),
            ]
        }
    };
    Some(Merge { keys })
}
