//! A chain as one set query: the short path's plan, and a leaf of the relational executor.

use nodedb_bridge::plan::{Direction, Order, Output, OutputColumn, SetExpr, SetQuery};
use nodedb_types::{DataType, Failure, Result, Value};

use super::{Chain, Sources, bare_column, extra_rank, merge_keys, rank_of};
use crate::expr::compiled::positioned;
use crate::expr::{ColumnId, Expr};
use crate::plan::Merge;
use crate::rel::{Scan, SortKey};

/// A set query and what is made of its output.
pub(crate) struct LeafPlan {
    pub query: SetQuery,
    pub merge: Option<Merge>,
    /// Over the query's output columns.
    pub expressions: Vec<Expr>,
}

/// What a leaf must give, before it is a set query.
pub(crate) struct Leaf<'a> {
    pub scan: &'a Scan,
    pub conjuncts: Vec<Expr>,
    pub order: Order,
    /// The expression that the ranking computes.
    pub ranked: Option<Expr>,
    pub limit: Option<u64>,
}

/// The set query of a chain; `None` when its order is not one that cores know.
pub(crate) fn plan_leaf(chain: &Chain, shown: &[Expr]) -> Result<Option<LeafPlan>> {
    let limited = chain.limit.is_some();
    let Some((order, ranked)) = order_of(&chain.scan, &chain.order, limited)? else {
        return Ok(None);
    };
    let leaf = Leaf {
        scan: &chain.scan,
        conjuncts: chain.conjuncts.clone(),
        order,
        ranked,
        limit: chain.limit.map(|l| l.saturating_add(chain.offset)),
    };
    leaf.plan(shown.to_vec()).map(Some)
}

/// The order of a set query for ORDER BY terms, and the expression that is its score.
fn order_of(scan: &Scan, keys: &[SortKey], limited: bool) -> Result<Option<(Order, Option<Expr>)>> {
    let Some(first) = keys.first() else {
        return Ok(Some((Order::Any, None)));
    };
    let direction = if first.descending {
        Direction::Descending
    } else {
        Direction::Ascending
    };
    let key = scan.collection.key.map(|k| scan.columns[k]);
    let first_column = bare_column(&first.expr);
    if first_column.is_some() && first_column == key {
        return Ok(Some((Order::Key(direction), None)));
    }
    // Everything but the key in its natural order would need a sort of all rows.
    let hidden = scan.collection.key.is_none().then(|| scan.identity[3]);
    let rest_is_key = match &keys[1..] {
        [] => true,
        [second, ..] => {
            let column = bare_column(&second.expr);
            column.is_some() && (column == key || column == hidden) && !second.descending
        }
    };
    if !rest_is_key || !limited {
        return Ok(None);
    }
    if let Some(spec) = rank_of(scan, first)? {
        return Ok(Some((Order::Rank(spec), Some(first.expr.clone()))));
    }
    let position = first_column.and_then(|id| scan.position(id));
    let index = scan
        .indexes
        .iter()
        .find(|i| i.method == "btree" && position.is_some_and(|p| i.columns == [p]));
    match index {
        Some(index) if first.nulls_first == first.descending => Ok(Some((
            Order::Index {
                index: index.id,
                direction,
            },
            None,
        ))),
        _ => Ok(None),
    }
}

impl Leaf<'_> {
    /// Makes the set query that gives `shown`.
    pub(crate) fn plan(mut self, shown: Vec<Expr>) -> Result<LeafPlan> {
        let mut sources = Sources::new(self.scan);
        let conjuncts = std::mem::take(&mut self.conjuncts);
        let mut set = sources.set_of_all(conjuncts)?;
        self.order_for_scores(&shown)?;
        let mut output = Vec::new();
        let mut expressions = Vec::with_capacity(shown.len());
        for e in shown {
            expressions.push(self.output(e, &mut sources, &mut output)?);
        }
        let merge = merge_keys(&self.order, &mut output, self.scan);
        if set == SetExpr::Nothing {
            self.order = Order::Any;
            set = SetExpr::Nothing;
        }
        Ok(LeafPlan {
            query: SetQuery {
                collection: self.scan.collection.id,
                shard: None,
                sources: sources.list,
                set,
                order: self.order,
                limit: self.limit,
                output: Output::Rows(output),
                explain: false,
            },
            merge,
            expressions,
        })
    }

    /// A score in the output needs a ranking by it.
    fn order_for_scores(&mut self, shown: &[Expr]) -> Result<()> {
        let mut wanted: Option<ColumnId> = None;
        for e in shown {
            for (id, _) in e.columns() {
                let score = self
                    .scan
                    .extras
                    .iter()
                    .any(|x| x.column == id && x.is_score());
                let ranks =
                    |ranked: &Expr| matches!(ranked, Expr::Column { id: by, .. } if *by == id);
                if !score || self.ranked.as_ref().is_some_and(ranks) {
                    continue;
                }
                if wanted.is_some_and(|w| w != id) || self.ranked.is_some() {
                    return Err(Failure::unsupported(
                        "more than one ranking of a collection in one query",
                    ));
                }
                wanted = Some(id);
            }
        }
        let Some(id) = wanted else {
            return Ok(());
        };
        if !matches!(self.order, Order::Any) || self.limit.is_some() {
            return Err(Failure::unsupported(
                "bm25_score beside another order of the same rows",
            ));
        }
        let extra = self
            .scan
            .extras
            .iter()
            .find(|x| x.column == id)
            .ok_or_else(|| Failure::internal("a score without its call"))?;
        if let Some(rank) = extra_rank(self.scan, extra)? {
            self.order = Order::Rank(nodedb_bridge::plan::RankSpec {
                index: Some(extra.index.id),
                rank,
            });
            self.ranked = Some(Expr::column(id, DataType::Float8));
        }
        Ok(())
    }

    /// An expression over the output columns.
    fn output(
        &self,
        e: Expr,
        sources: &mut Sources<'_>,
        output: &mut Vec<OutputColumn>,
    ) -> Result<Expr> {
        // The ranker has computed this one already.
        let score = ColumnId(u32::MAX);
        let e = match &self.ranked {
            Some(ranked) => e.replace(&|part| {
                (matches!(part, Expr::Call { .. } | Expr::Column { .. }) && part.is_alike(ranked))
                    .then(|| Expr::column(score, DataType::Float8))
            }),
            None => e,
        };
        // A NULL text query is unknown for every row, and so is its score.
        let mut nulls = Vec::new();
        for (id, data_type) in e.columns() {
            if let Some(extra) = self.scan.extras.iter().find(|x| x.column == id)
                && extra.query.constant().is_some_and(Value::is_null)
            {
                nulls.push((id, data_type));
            }
        }
        let e = e.replace(&|part| match part {
            Expr::Column { id, .. } => nulls
                .iter()
                .find(|(n, _)| n == id)
                .map(|(_, t)| Expr::Constant(Value::Null, *t)),
            _ => None,
        });
        let mut failure = None;
        let positioned = positioned(e, &mut |id| {
            let wanted = match self.wanted(id, score, sources) {
                Ok(wanted) => wanted?,
                Err(why) => {
                    failure = Some(why);
                    return None;
                }
            };
            Some(output.iter().position(|o| *o == wanted).unwrap_or_else(|| {
                output.push(wanted);
                output.len() - 1
            }))
        });
        match failure {
            Some(failure) => Err(failure),
            None => positioned,
        }
    }

    fn wanted(
        &self,
        id: ColumnId,
        score: ColumnId,
        sources: &mut Sources<'_>,
    ) -> Result<Option<OutputColumn>> {
        if id == score {
            return Ok(Some(OutputColumn::Score));
        }
        if let Some(position) = self.scan.position(id) {
            return Ok(Some(OutputColumn::Column(position)));
        }
        if let Some(at) = self.scan.identity.iter().position(|i| *i == id) {
            return Ok(Some(crate::plan::ROW_IDENTITY[at].clone()));
        }
        Ok(sources.truth(id)?.map(OutputColumn::Truth))
    }
}
