//! The bound form of a query: a tree of relational operators over typed expressions.
//!
//! Every column of every relation in a statement has its own [`ColumnId`], so a reference needs no
//! qualifier and stays right wherever an operator moves. The short path is matched on this tree
//! ([`crate::rules`]); everything else is lowered to DataFusion ([`crate::executor`]).

use std::fmt;
use std::sync::Arc;

use nodedb_types::{Collection, DataType, Index, Value};

use crate::catalog::VirtualTable;
use crate::expr::{CompareOp, Expr};
use crate::function::set::SetFunction;

pub(crate) use crate::expr::ColumnId;

/// A relational operator.
#[derive(Clone, Debug)]
pub(crate) enum Rel {
    Scan(Scan),
    Virtual {
        table: VirtualRef,
        /// One per column of the table.
        columns: Vec<ColumnId>,
    },
    Values {
        columns: Vec<(ColumnId, DataType)>,
        rows: Vec<Vec<Expr>>,
    },
    Filter {
        input: Box<Rel>,
        predicate: Expr,
    },
    Project {
        input: Box<Rel>,
        expressions: Vec<(ColumnId, Expr)>,
    },
    Join {
        kind: JoinKind,
        left: Box<Rel>,
        right: Box<Rel>,
        on: Expr,
    },
    Aggregate {
        input: Box<Rel>,
        keys: Vec<(ColumnId, Expr)>,
        /// Positions of keys per grouping set; `None` for plain GROUP BY.
        sets: Option<Vec<Vec<usize>>>,
        /// The column that tells which set a row is of, where `GROUPING()` asks.
        aggregates: Vec<(ColumnId, AggregateCall)>,
    },
    Window {
        input: Box<Rel>,
        calls: Vec<(ColumnId, WindowCall)>,
    },
    Sort {
        input: Box<Rel>,
        keys: Vec<SortKey>,
    },
    Limit {
        input: Box<Rel>,
        limit: Option<Expr>,
        offset: Option<Expr>,
    },
    Distinct {
        input: Box<Rel>,
        /// `DISTINCT ON`: these decide; else all columns.
        on: Option<Vec<Expr>>,
        /// Order within equal rows, for `DISTINCT ON`.
        order: Vec<SortKey>,
    },
    SetOperation {
        kind: SetKind,
        all: bool,
        left: Box<Rel>,
        right: Box<Rel>,
        columns: Vec<(ColumnId, DataType)>,
    },
    /// `WITH RECURSIVE`: the rows of `start`, then of `step` over those of the round before.
    Recursive {
        name: String,
        columns: Vec<(ColumnId, DataType)>,
        start: Box<Rel>,
        step: Box<Rel>,
        all: bool,
    },
    /// Inside a recursive step: the rows of the round before.
    Working {
        name: String,
        columns: Vec<(ColumnId, DataType)>,
    },
    /// Every row of the input once for each value of its functions that give rows; where one gives
    /// fewer values than another it is NULL.
    Expand {
        input: Box<Rel>,
        calls: Vec<(ColumnId, SetCall)>,
    },
    /// `generate_series(start, stop, step)`.
    Series {
        column: ColumnId,
        data_type: DataType,
        arguments: Vec<Expr>,
    },
}

/// A read of one collection.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    /// No other scan of a plan's tree has it.
    pub id: u32,
    /// What the statement calls it.
    pub name: String,
    pub collection: Arc<Collection>,
    /// Public indexes.
    pub indexes: Arc<[Arc<Index>]>,
    /// One per column of the collection.
    pub columns: Vec<ColumnId>,
    /// Surrogate, version, shard and key of the row.
    pub identity: [ColumnId; 4],
    /// What an index must tell about a row.
    pub extras: Vec<Extra>,
    /// Number of shards and seed of the key hash, once a plan is made for an execution.
    pub shards: Option<(u16, u64)>,
}

/// A value that only an index can give: `text_match` as a truth, `bm25_score` as a score.
#[derive(Clone, Debug)]
pub(crate) struct Extra {
    pub column: ColumnId,
    pub index: Arc<Index>,
    /// The call's name and its other argument.
    pub name: &'static str,
    pub query: Expr,
    /// Of one column, not of the relation.
    pub on_column: Option<usize>,
}

impl Extra {
    pub(crate) fn is_score(&self) -> bool {
        self.name == "bm25_score"
    }
}

impl Scan {
    /// Position of a column in the collection.
    pub(crate) fn position(&self, id: ColumnId) -> Option<usize> {
        self.columns.iter().position(|c| *c == id)
    }

    /// Whether the indexes are asked for nothing but truths that are whole terms of a condition.
    /// Scores, and truths inside other expressions, are columns that only the executor can test.
    pub(crate) fn is_plain(&self, condition: &Expr) -> bool {
        let extra = |id: ColumnId| self.extras.iter().find(|extra| extra.column == id);
        match condition {
            Expr::Column { id, .. } => extra(*id).is_none_or(|extra| !extra.is_score()),
            Expr::And(terms) | Expr::Or(terms) => terms.iter().all(|term| self.is_plain(term)),
            Expr::Not(inner) | Expr::IsNull(inner) => self.is_plain(inner),
            other => other.columns().iter().all(|(id, _)| extra(*id).is_none()),
        }
    }
}

#[derive(Clone)]
pub(crate) struct VirtualRef {
    pub name: String,
    pub table: Arc<dyn VirtualTable>,
}

impl fmt::Debug for VirtualRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetKind {
    Union,
    Intersect,
    Except,
}

#[derive(Clone, Debug)]
pub(crate) struct SortKey {
    pub expr: Expr,
    pub descending: bool,
    pub nulls_first: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AggregateKind {
    CountStar,
    Count,
    Sum,
    Avg,
    Min,
    Max,
    BoolAnd,
    BoolOr,
    /// Of text, or of bytes.
    StringAgg,
    JsonbAgg,
    JsonbObjectAgg,
    StddevSample,
    StddevPopulation,
    VarianceSample,
    VariancePopulation,
    BitAnd,
    BitOr,
    BitXor,
    /// The only value there is; several are an error.
    SingleValue,
}

#[derive(Clone, Debug)]
pub(crate) struct AggregateCall {
    pub kind: AggregateKind,
    pub arguments: Vec<Expr>,
    pub distinct: bool,
    pub filter: Option<Expr>,
    pub order: Vec<SortKey>,
    pub returns: DataType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WindowKind {
    RowNumber,
    Rank,
    DenseRank,
    PercentRank,
    CumeDist,
    Ntile,
    Lag,
    Lead,
    FirstValue,
    LastValue,
    NthValue,
    Aggregate(AggregateKind),
}

#[derive(Clone, Debug)]
pub(crate) struct WindowCall {
    pub kind: WindowKind,
    pub arguments: Vec<Expr>,
    pub filter: Option<Expr>,
    pub partition: Vec<Expr>,
    pub order: Vec<SortKey>,
    pub frame: Option<Frame>,
    pub returns: DataType,
}

#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub units: FrameUnits,
    pub start: FrameBound,
    pub end: FrameBound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameUnits {
    Rows,
    Range,
    Groups,
}

#[derive(Clone, Debug)]
pub(crate) enum FrameBound {
    /// `None`: unbounded.
    Preceding(Option<Value>),
    CurrentRow,
    Following(Option<Value>),
}

/// A call of a function that gives a row per value.
#[derive(Clone, Debug)]
pub(crate) struct SetCall {
    pub kind: SetCallKind,
    pub arguments: Vec<Expr>,
    pub returns: DataType,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum SetCallKind {
    /// `generate_series(start, stop, step)`.
    Series,
    Function(&'static SetFunction),
}

/// A query used as a value.
#[derive(Clone)]
pub(crate) struct Subquery {
    pub kind: SubqueryKind,
    pub rel: Rel,
    /// Its output columns.
    pub columns: Vec<(ColumnId, DataType)>,
    /// The left side of IN and ANY.
    pub operand: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubqueryKind {
    Scalar,
    Exists,
    /// `operand IN (subquery)`.
    In,
    /// `operand op ANY (subquery)`.
    Any(CompareOp),
    /// `operand op ALL (subquery)`.
    All(CompareOp),
}

impl Subquery {
    pub(crate) fn data_type(&self) -> DataType {
        match (self.kind, self.columns.first()) {
            (SubqueryKind::Scalar, Some((_, data_type))) => *data_type,
            _ => DataType::Bool,
        }
    }
}

impl fmt::Debug for Subquery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operand) = &self.operand {
            write!(f, "{operand:?} ")?;
        }
        write!(f, "{:?} (subquery {:?})", self.kind, self.rel)
    }
}

impl Rel {
    /// Inputs, left to right.
    pub(crate) fn inputs(&self) -> Vec<&Rel> {
        match self {
            Rel::Scan(_)
            | Rel::Virtual { .. }
            | Rel::Values { .. }
            | Rel::Working { .. }
            | Rel::Series { .. } => Vec::new(),
            Rel::Filter { input, .. }
            | Rel::Project { input, .. }
            | Rel::Aggregate { input, .. }
            | Rel::Window { input, .. }
            | Rel::Expand { input, .. }
            | Rel::Sort { input, .. }
            | Rel::Limit { input, .. }
            | Rel::Distinct { input, .. } => vec![input],
            Rel::Join { left, right, .. } | Rel::SetOperation { left, right, .. } => {
                vec![left, right]
            }
            Rel::Recursive { start, step, .. } => vec![start, step],
        }
    }

    pub(crate) fn inputs_mut(&mut self) -> Vec<&mut Rel> {
        match self {
            Rel::Scan(_)
            | Rel::Virtual { .. }
            | Rel::Values { .. }
            | Rel::Working { .. }
            | Rel::Series { .. } => Vec::new(),
            Rel::Filter { input, .. }
            | Rel::Project { input, .. }
            | Rel::Aggregate { input, .. }
            | Rel::Window { input, .. }
            | Rel::Expand { input, .. }
            | Rel::Sort { input, .. }
            | Rel::Limit { input, .. }
            | Rel::Distinct { input, .. } => vec![input],
            Rel::Join { left, right, .. } | Rel::SetOperation { left, right, .. } => {
                vec![left, right]
            }
            Rel::Recursive { start, step, .. } => vec![start, step],
        }
    }

    pub(crate) fn expressions_mut(&mut self) -> Vec<&mut Expr> {
        fn keys(order: &mut [SortKey]) -> impl Iterator<Item = &mut Expr> {
            order.iter_mut().map(|k| &mut k.expr)
        }
        match self {
            Rel::Scan(scan) => scan.extras.iter_mut().map(|e| &mut e.query).collect(),
            Rel::Virtual { .. } | Rel::Working { .. } => Vec::new(),
            Rel::SetOperation { .. } | Rel::Recursive { .. } => Vec::new(),
            Rel::Values { rows, .. } => rows.iter_mut().flatten().collect(),
            Rel::Filter { predicate, .. } => vec![predicate],
            Rel::Project { expressions, .. } => expressions.iter_mut().map(|(_, e)| e).collect(),
            Rel::Join { on, .. } => vec![on],
            Rel::Aggregate {
                keys: groups,
                aggregates,
                ..
            } => groups
                .iter_mut()
                .map(|(_, e)| e)
                .chain(aggregates.iter_mut().flat_map(|(_, a)| {
                    a.arguments
                        .iter_mut()
                        .chain(&mut a.filter)
                        .chain(keys(&mut a.order))
                }))
                .collect(),
            Rel::Window { calls, .. } => calls
                .iter_mut()
                .flat_map(|(_, w)| {
                    w.arguments
                        .iter_mut()
                        .chain(&mut w.filter)
                        .chain(&mut w.partition)
                        .chain(keys(&mut w.order))
                })
                .collect(),
            Rel::Expand { calls, .. } => calls
                .iter_mut()
                .flat_map(|(_, c)| &mut c.arguments)
                .collect(),
            Rel::Sort { keys: order, .. } => keys(order).collect(),
            Rel::Limit { limit, offset, .. } => limit.iter_mut().chain(offset).collect(),
            Rel::Distinct { on, order, .. } => on.iter_mut().flatten().chain(keys(order)).collect(),
            Rel::Series { arguments, .. } => arguments.iter_mut().collect(),
        }
    }

    /// Rewrites every expression of the tree, those of subqueries included.
    pub(crate) fn map_expressions<E>(
        &mut self,
        f: &mut dyn FnMut(Expr) -> Result<Expr, E>,
    ) -> Result<(), E> {
        for input in self.inputs_mut() {
            input.map_expressions(f)?;
        }
        for slot in self.expressions_mut() {
            let taken = std::mem::replace(slot, Expr::bool(true));
            *slot = taken.transform(&mut |e| match e {
                Expr::Subquery(mut subquery) => {
                    subquery.rel.map_expressions(f)?;
                    Ok(Expr::Subquery(subquery))
                }
                other => f(other),
            })?;
        }
        Ok(())
    }

    /// The columns that it gives.
    pub(crate) fn columns(&self) -> Vec<(ColumnId, DataType)> {
        match self {
            Rel::Scan(scan) => {
                let own = scan.columns.iter().zip(&scan.collection.columns);
                own.map(|(id, c)| (*id, c.data_type)).collect()
            }
            Rel::Virtual { table, columns } => {
                let types = table.table.columns();
                let named = columns.iter().zip(types);
                named.map(|(id, c)| (*id, c.data_type)).collect()
            }
            Rel::Values { columns, .. }
            | Rel::SetOperation { columns, .. }
            | Rel::Recursive { columns, .. }
            | Rel::Working { columns, .. } => columns.clone(),
            Rel::Filter { input, .. }
            | Rel::Sort { input, .. }
            | Rel::Limit { input, .. }
            | Rel::Distinct { input, .. } => input.columns(),
            Rel::Project { expressions, .. } => expressions
                .iter()
                .map(|(id, e)| (*id, e.data_type()))
                .collect(),
            Rel::Join { left, right, .. } => {
                let mut all = left.columns();
                all.extend(right.columns());
                all
            }
            Rel::Aggregate {
                keys, aggregates, ..
            } => keys
                .iter()
                .map(|(id, e)| (*id, e.data_type()))
                .chain(aggregates.iter().map(|(id, a)| (*id, a.returns)))
                .collect(),
            Rel::Window { input, calls } => {
                let mut all = input.columns();
                all.extend(calls.iter().map(|(id, w)| (*id, w.returns)));
                all
            }
            Rel::Expand { input, calls } => {
                let mut all = input.columns();
                all.extend(calls.iter().map(|(id, c)| (*id, c.returns)));
                all
            }
            Rel::Series {
                column, data_type, ..
            } => vec![(*column, *data_type)],
        }
    }

    /// Columns of queries around this one that it refers to.
    pub(crate) fn outer_columns(&self) -> Vec<(ColumnId, DataType)> {
        let mut copy = self.clone();
        let mut found = Vec::new();
        let Ok(()) = copy.map_expressions::<std::convert::Infallible>(&mut |e| {
            if let Expr::Column {
                id,
                data_type,
                outer: true,
            } = &e
            {
                found.push((*id, *data_type));
            }
            Ok(e)
        });
        let mut own = Vec::new();
        copy.own_columns(&mut own);
        found.retain(|(id, _)| !own.contains(id));
        found
    }

    /// Columns that any part of the tree makes, those of subqueries included.
    fn own_columns(&mut self, own: &mut Vec<ColumnId>) {
        own.extend(self.columns().into_iter().map(|(id, _)| id));
        if let Rel::Scan(scan) = self {
            own.extend(scan.identity);
            own.extend(scan.extras.iter().map(|e| e.column));
        }
        for input in self.inputs_mut() {
            input.own_columns(own);
        }
        for slot in self.expressions_mut() {
            if slot.has_subquery() {
                let taken = std::mem::replace(slot, Expr::bool(true));
                let Ok(done) = taken.transform::<std::convert::Infallible>(&mut |e| {
                    Ok(match e {
                        Expr::Subquery(mut subquery) => {
                            subquery.rel.own_columns(own);
                            Expr::Subquery(subquery)
                        }
                        other => other,
                    })
                });
                *slot = done;
            }
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Rel::Values { rows, .. } if rows.is_empty())
    }

    /// Replaces what never has a row by no rows, and drops the operators above it.
    pub(crate) fn prune(&mut self) {
        for input in self.inputs_mut() {
            input.prune();
        }
        for slot in self.expressions_mut() {
            if slot.has_subquery() {
                let taken = std::mem::replace(slot, Expr::bool(true));
                let Ok(done) = taken.transform::<std::convert::Infallible>(&mut |e| {
                    Ok(match e {
                        Expr::Subquery(mut subquery) => {
                            subquery.rel.prune();
                            Expr::Subquery(subquery)
                        }
                        other => other,
                    })
                });
                *slot = done;
            }
        }
        let empty = match self {
            Rel::Virtual { table, .. } => table.table.is_always_empty(),
            Rel::Filter { input, .. }
            | Rel::Project { input, .. }
            | Rel::Sort { input, .. }
            | Rel::Limit { input, .. }
            | Rel::Distinct { input, .. } => input.is_empty(),
            Rel::Join {
                kind, left, right, ..
            } => match kind {
                JoinKind::Inner => left.is_empty() || right.is_empty(),
                JoinKind::Left => left.is_empty(),
                JoinKind::Right => right.is_empty(),
                JoinKind::Full => left.is_empty() && right.is_empty(),
            },
            Rel::SetOperation { left, right, .. } => left.is_empty() && right.is_empty(),
            _ => false,
        };
        if empty {
            *self = Rel::Values {
                columns: self.columns(),
                rows: Vec::new(),
            };
        }
    }

    /// Visits every scan, those inside subqueries included.
    pub(crate) fn scans_mut(&mut self, f: &mut dyn FnMut(&mut Scan)) {
        if let Rel::Scan(scan) = self {
            f(scan);
        }
        for input in self.inputs_mut() {
            input.scans_mut(f);
        }
        for slot in self.expressions_mut() {
            let mut subqueries = |e: Expr| -> Result<Expr, std::convert::Infallible> {
                Ok(match e {
                    Expr::Subquery(mut subquery) => {
                        subquery.rel.scans_mut(f);
                        Expr::Subquery(subquery)
                    }
                    other => other,
                })
            };
            if slot.has_subquery() {
                let taken = std::mem::replace(slot, Expr::bool(true));
                let Ok(done) = taken.transform(&mut subqueries);
                *slot = done;
            }
        }
    }
}
