//! One shard's part of a set query: its sources made ready and its expression put in order.
//!
//! Rows are read at the statement's snapshot throughout. Sets of indexes are of the applied
//! state; where the two may differ the row is in U, and the row-wise form decides.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use arrow::array::{Array, AsArray, BooleanArray};
use nodedb_bridge::expression::BatchExpression;
use nodedb_bridge::plan::{SetExpr, SetQuery, Source as SourcePlan, SourceReport};
use nodedb_types::arrow_map::BatchBuilder;
use nodedb_types::limits::{EXPRESSION_ROWS_MAX, STATEMENT_DEPTH_MAX};
use nodedb_types::row::RowView;
use nodedb_types::{Collection, DataType, Failure, Result, ShardId, SqlState, Surrogate};

use super::block::BlockSet;
use super::context::Context;
use super::keys::Keys;
use super::rows::{Rows, Version};
use crate::engine::{Estimate, SharedIndex, Source, Truth};
use crate::pace::{EXPRESSION_CALL, EXPRESSION_ROW, ROW_READ};
use crate::store::residency::Reading;

/// Rows of a set that a source after it goes on with for a unit.
const ROWS_PER_UNIT: u64 = 16;
/// Cells of an expression's batch, bytes: what one call may work on.
const EXPRESSION_BYTES_MAX: usize = 64 << 10;

pub(super) struct Part {
    pub(super) rows: Rc<dyn Rows>,
    pub(super) collection: Arc<Collection>,
    pub(super) leaves: Vec<Leaf>,
    /// The query's expression, the operands of each AND and OR cheapest first.
    pub(super) set: SetExpr,
    /// Rows read to decide a predicate or a score.
    pub(super) examined: Cell<u64>,
}

/// A source made ready on one shard.
pub(super) struct Leaf {
    form: Form,
    /// Rows found true, and blocks answered.
    tally: Cell<(u64, u64)>,
}

pub(super) enum Form {
    Index {
        engine: SharedIndex,
        source: RefCell<Source>,
    },
    Keys(RefCell<Keys>),
    Expression(Expression),
}

/// A row-wise predicate over some columns.
#[derive(Clone)]
pub(super) struct Expression {
    expression: Arc<dyn BatchExpression>,
    /// Position, name and type of the columns it reads.
    columns: Vec<(usize, DataType)>,
    named: Vec<(String, DataType)>,
}

impl Expression {
    pub(super) fn new(
        expression: &Arc<dyn BatchExpression>,
        of: &Collection,
    ) -> Result<Expression> {
        let columns = expression
            .columns()
            .iter()
            .map(|&at| match of.columns.get(at) {
                Some(column) => Ok((at, column)),
                None => Err(Failure::internal(
                    "an expression over a column that is not there",
                )),
            });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(Expression {
            expression: expression.clone(),
            named: columns
                .iter()
                .map(|(_, c)| (c.name.clone(), c.data_type))
                .collect(),
            columns: columns
                .into_iter()
                .map(|(at, c)| (at, c.data_type))
                .collect(),
        })
    }

    pub(super) fn batch(&self) -> BatchBuilder {
        BatchBuilder::new(&self.named)
    }

    /// Appends the columns of a row to a batch made by [`Expression::batch`].
    pub(super) fn push(&self, batch: &mut BatchBuilder, row: &RowView<'_>) -> Result<()> {
        for (at, (column, data_type)) in self.columns.iter().enumerate() {
            batch.push(at, row.column(*column, data_type)?)?;
        }
        batch.end_row();
        Ok(())
    }

    pub(super) fn is_full(batch: &BatchBuilder) -> bool {
        batch.rows() >= EXPRESSION_ROWS_MAX || batch.bytes() >= EXPRESSION_BYTES_MAX
    }

    /// One value for each row of the batch, which is empty afterwards.
    pub(super) fn evaluate(&self, batch: &mut BatchBuilder) -> Result<BooleanArray> {
        let rows = batch.rows();
        let array = self.expression.evaluate(&batch.finish()?)?;
        match array.as_boolean_opt() {
            Some(values) if values.len() == rows => Ok(values.clone()),
            _ => Err(Failure::internal(
                "a predicate must give one boolean per row",
            )),
        }
    }
}

pub(super) fn truth_at(values: &BooleanArray, row: usize) -> Option<bool> {
    values.is_valid(row).then(|| values.value(row))
}

impl Part {
    pub(super) fn new(query: &SetQuery, rows: Rc<dyn Rows>) -> Result<Part> {
        let collection = rows.collection();
        let leaf = |source: &SourcePlan| {
            let form = match source {
                SourcePlan::Index { index, op } => {
                    let engine = index_of(&*rows, *index)?;
                    let source = RefCell::new(engine.borrow().source(op)?);
                    Form::Index { engine, source }
                }
                SourcePlan::Keys(op) => Form::Keys(RefCell::new(Keys::new(op)?)),
                SourcePlan::KeyList(list) => {
                    let own = list.of_shard(rows.shard());
                    Form::Keys(RefCell::new(Keys::of_list(own)))
                }
                SourcePlan::Expression(expression) => {
                    Form::Expression(Expression::new(expression, &collection)?)
                }
            };
            let tally = Cell::new((0, 0));
            Ok(Leaf { form, tally })
        };
        let leaves = query.sources.iter().map(leaf).collect::<Result<Vec<_>>>()?;
        let mut part = Part {
            rows,
            collection,
            leaves,
            set: SetExpr::Nothing,
            examined: Cell::new(0),
        };
        if is_deeper(&query.set, STATEMENT_DEPTH_MAX) {
            return Err(Failure::new(
                SqlState::StatementTooComplex,
                "the predicate is nested too deeply",
            ));
        }
        part.set = part.arrange(&query.set)?.0;
        Ok(part)
    }

    pub(super) fn shard(&self) -> ShardId {
        self.rows.shard()
    }

    /// The same expression with operands in order of their price, and the price.
    fn arrange(&self, set: &SetExpr) -> Result<(SetExpr, u64)> {
        let all = self.rows.rows_alive();
        let operands = |terms: &[SetExpr]| {
            let terms = terms.iter().map(|term| self.arrange(term));
            let mut terms = terms.collect::<Result<Vec<_>>>()?;
            terms.sort_by_key(|(_, price)| *price);
            Ok::<_, Failure>(terms)
        };
        Ok(match set {
            SetExpr::All => (SetExpr::All, all / ROWS_PER_UNIT),
            SetExpr::Nothing => (SetExpr::Nothing, 0),
            SetExpr::Source(at) => {
                let Some(leaf) = self.leaves.get(*at) else {
                    return Err(Failure::internal("a set names a source that is not there"));
                };
                (SetExpr::Source(*at), leaf.price(all))
            }
            SetExpr::And(terms) => {
                let terms = operands(terms)?;
                let price = terms
                    .first()
                    .map_or(all / ROWS_PER_UNIT, |(_, price)| *price);
                let terms = terms.into_iter().map(|(term, _)| term).collect();
                (SetExpr::And(terms), price)
            }
            SetExpr::Or(terms) => {
                let terms = operands(terms)?;
                let price = terms
                    .iter()
                    .fold(0u64, |sum, (_, price)| sum.saturating_add(*price));
                let terms = terms.into_iter().map(|(term, _)| term).collect();
                (SetExpr::Or(terms), price)
            }
            SetExpr::Not(term) => {
                let (term, price) = self.arrange(term)?;
                let price = price.saturating_add(all / ROWS_PER_UNIT);
                (SetExpr::Not(Box::new(term)), price)
            }
            SetExpr::IsUnknown(term) => {
                let (term, price) = self.arrange(term)?;
                let price = price.saturating_add(all / ROWS_PER_UNIT);
                (SetExpr::IsUnknown(Box::new(term)), price)
            }
        })
    }

    /// A guess at how many rows satisfy an expression.
    pub(super) fn likely_rows(&self, set: &SetExpr) -> u64 {
        let all = self.rows.rows_alive();
        let of = |term: &SetExpr| self.likely_rows(term);
        match set {
            SetExpr::All => all,
            SetExpr::Nothing => 0,
            SetExpr::Source(at) => match self.leaf(*at) {
                Ok(leaf) if !leaf.is_expression() => leaf.estimate(all).rows.min(all),
                // The usual guess for a predicate that nothing is known about.
                _ => all / 3,
            },
            SetExpr::And(terms) => terms.iter().map(of).min().unwrap_or(all),
            SetExpr::Or(terms) => terms.iter().map(of).sum::<u64>().min(all),
            SetExpr::Not(term) => all - of(term),
            SetExpr::IsUnknown(_) => all / 10,
        }
    }

    /// The condition on the key that every row of the set meets, if there is one.
    pub(super) fn keys(&self) -> Option<&RefCell<Keys>> {
        let terms = match &self.set {
            SetExpr::And(terms) => &terms[..],
            one => std::slice::from_ref(one),
        };
        terms.iter().find_map(|term| match term {
            SetExpr::Source(at) => match self.leaf(*at).ok()?.form() {
                Form::Keys(keys) => Some(keys),
                Form::Index { .. } | Form::Expression(_) => None,
            },
            _ => None,
        })
    }

    pub(super) fn leaf(&self, at: usize) -> Result<&Leaf> {
        let leaf = self.leaves.get(at);
        leaf.ok_or_else(|| Failure::internal("a query names a source that is not there"))
    }

    /// Reads rows as of the snapshot and shows them to `see`, paying `units` for each beyond
    /// finding it. Rows that are not visible are passed over.
    pub(super) async fn read_each(
        &self,
        cx: &Context,
        ids: impl IntoIterator<Item = u32>,
        units: u32,
        mut see: impl FnMut(Version<'_>, &RowView<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut ids = ids.into_iter();
        let mut next = ids.next();
        let mut reading = Reading::default();
        cx.drive(|turn| {
            while let Some(id) = next {
                let Some(surrogate) = Surrogate::new(id) else {
                    return Poll::Ready(Err(Failure::internal("0 names no row")));
                };
                let mut show = |version: Version<'_>| see(version, &RowView::new(version.row)?);
                let (snapshot, rows) = (cx.snapshot(), &self.rows);
                let read = rows.poll_read(surrogate, snapshot, &mut reading, turn, &mut show);
                ready!(read)?;
                next = ids.next();
                if !turn.spend(ROW_READ + units) {
                    return Poll::Pending;
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// The value of a source for single rows of a block, from their visible versions.
    pub(super) async fn row_wise(
        &self,
        cx: &Context,
        leaf: &Leaf,
        block: u16,
        rows: &BlockSet,
    ) -> Result<Truth> {
        let mut found = Found::default();
        self.examined.set(self.examined.get() + rows.len() as u64);
        match &leaf.form {
            Form::Index { engine, source } => {
                let units = leaf.estimate(0).row;
                let see = |version: Version<'_>, row: &RowView<'_>| {
                    let value = engine.borrow().matches(&source.borrow(), row)?;
                    found.add(version.surrogate, value);
                    Ok(())
                };
                self.read_each(cx, rows.surrogates(block), units, see)
                    .await?;
            }
            Form::Keys(keys) => {
                let see = |version: Version<'_>, _: &RowView<'_>| {
                    found.add(version.surrogate, Some(keys.borrow().holds(version.key)));
                    Ok(())
                };
                self.read_each(cx, rows.surrogates(block), 1, see).await?;
            }
            Form::Expression(expression) => {
                self.evaluate(cx, expression, block, rows, &mut found)
                    .await?;
            }
        }
        Ok(found.truth())
    }

    async fn evaluate(
        &self,
        cx: &Context,
        expression: &Expression,
        block: u16,
        rows: &BlockSet,
        found: &mut Found,
    ) -> Result<()> {
        let mut ids = rows.surrogates(block).peekable();
        let mut batch = expression.batch();
        let mut held = Vec::new();
        while ids.peek().is_some() {
            // A piece is cut by rows here and by bytes below, so a wide row may stand alone.
            let piece = ids
                .by_ref()
                .take(EXPRESSION_ROWS_MAX / 8)
                .collect::<Vec<_>>();
            let see = |version: Version<'_>, row: &RowView<'_>| {
                held.push(version.surrogate);
                expression.push(&mut batch, row)
            };
            self.read_each(cx, piece, EXPRESSION_ROW, see).await?;
            if Expression::is_full(&batch) || ids.peek().is_none() {
                let values = expression.evaluate(&mut batch)?;
                for (at, surrogate) in held.drain(..).enumerate() {
                    found.add(surrogate, truth_at(&values, at));
                }
                cx.spend(EXPRESSION_CALL).await?;
            }
        }
        Ok(())
    }

    /// What `EXPLAIN ANALYZE` shows of each source, added up over shards.
    pub(super) fn report(&self, to: &mut [SourceReport]) {
        for (leaf, report) in self.leaves.iter().zip(to) {
            let (rows, blocks) = leaf.tally.get();
            report.rows += rows;
            report.blocks += blocks;
        }
    }
}

/// True when an expression is nested deeper than `levels`; it is not looked into further.
fn is_deeper(set: &SetExpr, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else {
        return true;
    };
    match set {
        SetExpr::All | SetExpr::Nothing | SetExpr::Source(_) => false,
        SetExpr::And(terms) | SetExpr::Or(terms) => terms.iter().any(|t| is_deeper(t, below)),
        SetExpr::Not(term) | SetExpr::IsUnknown(term) => is_deeper(term, below),
    }
}

/// The index by its id; control plans only with public ones, which every shard has. One that was
/// dropped since is a changed schema: control plans again.
pub(super) fn index_of(rows: &dyn Rows, index: nodedb_types::IndexId) -> Result<SharedIndex> {
    let found = rows.index(index);
    found.ok_or_else(|| {
        let message = "the schema changed while the statement ran";
        let detail = format!("index {index} does not exist on shard {}", rows.shard());
        Failure::new(SqlState::SerializationFailure, message)
            .with_detail(detail)
            .retryable()
    })
}

impl Leaf {
    pub(super) fn form(&self) -> &Form {
        &self.form
    }

    pub(super) fn is_expression(&self) -> bool {
        matches!(self.form, Form::Expression(_))
    }

    /// `all`: rows alive.
    pub(super) fn estimate(&self, all: u64) -> Estimate {
        match &self.form {
            Form::Index { engine, source } => engine.borrow().estimate(&source.borrow()),
            Form::Keys(keys) => keys.borrow().estimate(all),
            Form::Expression(_) => Estimate::default(),
        }
    }

    /// What decides the order of evaluation, units: of going on with the rows and of finding them
    /// first, when all are asked about. An expression comes after everything that an index
    /// answers.
    fn price(&self, all: u64) -> u64 {
        match &self.form {
            Form::Index { .. } | Form::Keys(_) => {
                let Estimate {
                    rows, setup, whole, ..
                } = self.estimate(all);
                (rows / ROWS_PER_UNIT).saturating_add(setup + whole)
            }
            Form::Expression(_) => all.saturating_mul(u64::from(EXPRESSION_ROW)),
        }
    }

    pub(super) fn count(&self, truth: &Truth) {
        let (rows, blocks) = self.tally.get();
        self.tally.set((rows + truth.yes.len() as u64, blocks + 1));
    }
}

/// Values of rows that come in ascending surrogates.
#[derive(Default)]
struct Found {
    yes: Vec<u16>,
    unknown: Vec<u16>,
}

impl Found {
    fn add(&mut self, surrogate: Surrogate, value: Option<bool>) {
        let low = surrogate.get() as u16;
        match value {
            Some(true) => self.yes.push(low),
            Some(false) => {}
            None => self.unknown.push(low),
        }
    }

    fn truth(self) -> Truth {
        Truth {
            yes: BlockSet::from_sorted(self.yes),
            unknown: BlockSet::from_sorted(self.unknown),
        }
    }
}
