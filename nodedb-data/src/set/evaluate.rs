//! Three-valued evaluation of a set expression in one block.
//!
//! A pair of sets (yes, unknown) stands for SQL's three values, relative to the rows wanted:
//!
//! | | yes | unknown |
//! |---|---|---|
//! | a AND b | both | (a or a?) and (b or b?), less yes |
//! | a OR b | either | a? or b?, less yes |
//! | NOT a | wanted − a − a? | a? |
//! | a IS UNKNOWN | a? | none |
//!
//! Where nobody asks for unknown rows (the root, and AND and OR below it) they count as false, so
//! fewer rows are passed on. `wanted` narrows what later operands look at: a source that is
//! dearer to prepare than to ask row by row about what is left is asked row by row.

use std::pin::Pin;

use nodedb_bridge::plan::SetExpr;
use nodedb_types::Result;

use super::block::BlockSet;
use super::context::Context;
use super::part::{Form, Leaf, Part};
use crate::engine::Truth;
use crate::pace::{BLOCK_OPERATION, ROW_READ};

/// Which state the leaves are asked about.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    /// The applied state; answers about rows of U mean nothing.
    Applied,
    /// The visible versions of these rows of U, row by row.
    Visible(&'a BlockSet),
}

/// One block and the state to evaluate.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) block: u16,
    pub(super) of: Of<'a>,
}

type Evaluation<'a> = Pin<Box<dyn Future<Output = Result<Truth>> + 'a>>;

impl Part {
    /// The value of `set` in a block, for the rows of `wanted` (`None`: for all alive). It lies
    /// inside `wanted`. `unknown`: whether unknown rows matter; else they may be left out.
    pub(super) fn evaluate_set<'a>(
        &'a self,
        cx: &'a Context,
        set: &'a SetExpr,
        scope: Scope<'a>,
        wanted: Option<&'a BlockSet>,
        unknown: bool,
    ) -> Evaluation<'a> {
        Box::pin(async move {
            cx.spend(BLOCK_OPERATION).await?;
            let mut truth = match set {
                SetExpr::All => Truth {
                    yes: self.alive(scope),
                    unknown: BlockSet::new(),
                },
                SetExpr::Nothing => Truth::default(),
                SetExpr::Source(at) => self.ask(cx, self.leaf(*at)?, scope, wanted).await?,
                SetExpr::And(terms) => self.all_of(cx, terms, scope, wanted, unknown).await?,
                SetExpr::Or(terms) => self.any_of(cx, terms, scope, wanted, unknown).await?,
                SetExpr::Not(term) => {
                    let of = self.evaluate_set(cx, term, scope, wanted, true).await?;
                    let mut yes = match wanted {
                        Some(wanted) => wanted.clone(),
                        None => self.alive(scope),
                    };
                    yes.subtract(&of.yes);
                    yes.subtract(&of.unknown);
                    Truth {
                        yes,
                        unknown: of.unknown,
                    }
                }
                SetExpr::IsUnknown(term) => {
                    let of = self.evaluate_set(cx, term, scope, wanted, true).await?;
                    Truth {
                        yes: of.unknown,
                        unknown: BlockSet::new(),
                    }
                }
            };
            if !unknown {
                truth.unknown = BlockSet::new();
            }
            if let Some(wanted) = wanted {
                truth.yes.intersect(wanted);
                truth.unknown.intersect(wanted);
            }
            Ok(truth)
        })
    }

    fn alive(&self, scope: Scope<'_>) -> BlockSet {
        match scope.of {
            Of::Applied => self.rows.alive(scope.block),
            Of::Visible(rows) => rows.clone(),
        }
    }

    async fn all_of(
        &self,
        cx: &Context,
        terms: &[SetExpr],
        scope: Scope<'_>,
        wanted: Option<&BlockSet>,
        unknown: bool,
    ) -> Result<Truth> {
        let Some((first, rest)) = terms.split_first() else {
            return self
                .evaluate_set(cx, &SetExpr::All, scope, wanted, unknown)
                .await;
        };
        let mut truth = self.evaluate_set(cx, first, scope, wanted, unknown).await?;
        for term in rest {
            // What is false stays false.
            if !unknown {
                // Nothing is unknown here, and the answer lies inside what was true.
                if truth.yes.is_empty() {
                    break;
                }
                let left = std::mem::take(&mut truth.yes);
                truth = self
                    .evaluate_set(cx, term, scope, Some(&left), unknown)
                    .await?;
                continue;
            }
            let mut left = truth.yes.clone();
            left.union(&truth.unknown);
            if left.is_empty() {
                break;
            }
            let of = self
                .evaluate_set(cx, term, scope, Some(&left), unknown)
                .await?;
            truth.yes.intersect(&of.yes);
            left = of.yes;
            left.union(&of.unknown);
            left.subtract(&truth.yes);
            // `left` lies inside what was yes or unknown before, as it was asked for that alone.
            truth.unknown = left;
        }
        Ok(truth)
    }

    async fn any_of(
        &self,
        cx: &Context,
        terms: &[SetExpr],
        scope: Scope<'_>,
        wanted: Option<&BlockSet>,
        unknown: bool,
    ) -> Result<Truth> {
        let mut truth = Truth::default();
        let mut left = wanted.cloned();
        for term in terms {
            if left.is_none() && self.is_row_wise(term) {
                left = Some(self.alive(scope));
            }
            // What is true stays true.
            if let Some(left) = &mut left {
                left.subtract(&truth.yes);
                if left.is_empty() {
                    break;
                }
            }
            let of = self
                .evaluate_set(cx, term, scope, left.as_ref(), unknown)
                .await?;
            truth.yes.union(&of.yes);
            truth.unknown.union(&of.unknown);
        }
        truth.unknown.subtract(&truth.yes);
        Ok(truth)
    }

    /// True when the expression reads rows.
    pub(super) fn is_row_wise(&self, set: &SetExpr) -> bool {
        match set {
            SetExpr::All | SetExpr::Nothing => false,
            SetExpr::Source(at) => self.leaf(*at).is_ok_and(Leaf::is_expression),
            SetExpr::And(terms) | SetExpr::Or(terms) => {
                terms.iter().any(|term| self.is_row_wise(term))
            }
            SetExpr::Not(term) | SetExpr::IsUnknown(term) => self.is_row_wise(term),
        }
    }

    async fn ask(
        &self,
        cx: &Context,
        leaf: &Leaf,
        scope: Scope<'_>,
        wanted: Option<&BlockSet>,
    ) -> Result<Truth> {
        let Of::Applied = scope.of else {
            let rows = wanted.cloned().unwrap_or_else(|| self.alive(scope));
            return self.row_wise(cx, leaf, scope.block, &rows).await;
        };
        let all = self.rows.rows_alive();
        let truth = match leaf.form() {
            Form::Index { engine, source } if !is_cheaper_by_row(leaf, wanted, all) => {
                cx.drive(|turn| {
                    let source = &mut source.borrow_mut();
                    engine
                        .borrow()
                        .poll_block(source, scope.block, wanted, turn)
                })
                .await?
            }
            Form::Keys(keys) if !is_cheaper_by_row(leaf, wanted, all) => {
                cx.drive(|turn| {
                    let keys = &mut keys.borrow_mut();
                    keys.poll_block(&*self.rows, scope.block, turn)
                })
                .await?
            }
            Form::Index { .. } | Form::Keys(_) | Form::Expression(_) => {
                let mut rows = match wanted {
                    Some(wanted) => wanted.clone(),
                    None => self.rows.alive(scope.block),
                };
                // Other terms have seen the applied version of these, which is not the visible
                // one: an expression must not meet rows that the terms before it would refuse.
                rows.subtract(&self.rows.changed_since(cx.snapshot(), scope.block));
                self.row_wise(cx, leaf, scope.block, &rows).await?
            }
        };
        leaf.count(&truth);
        Ok(truth)
    }
}

/// A small set drives: few rows are asked one by one where the source would first have to gather
/// much.
fn is_cheaper_by_row(leaf: &Leaf, wanted: Option<&BlockSet>, all: u64) -> bool {
    let Some(wanted) = wanted else {
        return false;
    };
    let estimate = leaf.estimate(all);
    let by_row = wanted.len() as u64 * u64::from(ROW_READ + estimate.row);
    by_row < estimate.setup
}
