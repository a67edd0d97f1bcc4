//! Window functions: calls with OVER.

use nodedb_types::arrow_map::value_at;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use sqlparser::ast::{self, Spanned};

use super::name::fold_case;
use super::select::sort_key;
use super::{Binder, type_of};
use crate::expr::Expr;
use crate::function::resolve::undefined;
use crate::rel::{Frame, FrameBound, FrameUnits, SortKey, WindowCall, WindowKind};

pub(super) fn kind(name: &str) -> Option<WindowKind> {
    Some(match name {
        "row_number" => WindowKind::RowNumber,
        "rank" => WindowKind::Rank,
        "dense_rank" => WindowKind::DenseRank,
        "percent_rank" => WindowKind::PercentRank,
        "cume_dist" => WindowKind::CumeDist,
        "ntile" => WindowKind::Ntile,
        "lag" => WindowKind::Lag,
        "lead" => WindowKind::Lead,
        "first_value" => WindowKind::FirstValue,
        "last_value" => WindowKind::LastValue,
        "nth_value" => WindowKind::NthValue,
        _ => return None,
    })
}

impl Binder<'_> {
    /// Takes the windows of a WINDOW clause; gives those of the query around, to be put back.
    pub(super) fn define_windows(
        &mut self,
        definitions: &[ast::NamedWindowDefinition],
    ) -> Result<Vec<(String, ast::WindowSpec)>> {
        let around = std::mem::take(&mut self.named_windows);
        for ast::NamedWindowDefinition(name, definition) in definitions {
            let name = fold_case(name);
            if self.named_windows.iter().any(|(known, _)| *known == name) {
                return Err(Failure::new(
                    SqlState::WindowingError,
                    format!("window \"{name}\" is already defined"),
                ));
            }
            let spec = match definition {
                ast::NamedWindowExpr::WindowSpec(spec) => self.complete(spec)?,
                ast::NamedWindowExpr::NamedWindow(other) => self.named_window(other)?.clone(),
            };
            self.named_windows.push((name, spec));
        }
        Ok(around)
    }

    fn named_window(&self, name: &ast::Ident) -> Result<&ast::WindowSpec> {
        let wanted = fold_case(name);
        let found = self.named_windows.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, spec)| spec).ok_or_else(|| {
            let failure = Failure::new(
                SqlState::UndefinedObject,
                format!("window \"{wanted}\" does not exist"),
            );
            self.at(failure, name.span)
        })
    }

    /// A window that may start from a named one, which it may order and frame.
    fn complete(&self, spec: &ast::WindowSpec) -> Result<ast::WindowSpec> {
        let Some(name) = &spec.window_name else {
            return Ok(spec.clone());
        };
        let base = self.named_window(name)?;
        let shown = fold_case(name);
        let refused = |what: String| Err(Failure::new(SqlState::WindowingError, what));
        if !spec.partition_by.is_empty() {
            return refused(format!(
                "cannot override PARTITION BY clause of window \"{shown}\""
            ));
        }
        if !spec.order_by.is_empty() && !base.order_by.is_empty() {
            return refused(format!(
                "cannot override ORDER BY clause of window \"{shown}\""
            ));
        }
        if base.window_frame.is_some() {
            return refused(format!(
                "cannot copy window \"{shown}\" because it has a frame clause"
            ));
        }
        let order_by = match spec.order_by.is_empty() {
            true => base.order_by.clone(),
            false => spec.order_by.clone(),
        };
        Ok(ast::WindowSpec {
            window_name: None,
            partition_by: base.partition_by.clone(),
            order_by,
            window_frame: spec.window_frame.clone(),
        })
    }

    pub(super) fn window_call(&mut self, name: &str, call: &ast::Function) -> Result<Expr> {
        let span = call.name.span();
        let Some(windows) = self.windows.take() else {
            let failure = Failure::new(
                SqlState::WindowingError,
                "window functions are not allowed here",
            );
            return Err(self.at(failure, span));
        };
        // Inside its parts another window call is refused.
        let bound = self.window_parts(name, call).map_err(|f| self.at(f, span));
        self.windows = Some(windows);
        let bound = bound?;
        let returns = bound.returns;
        let id = self.column_id();
        self.windows.get_or_insert_with(Vec::new).push((id, bound));
        Ok(Expr::column(id, returns))
    }

    fn window_parts(&mut self, name: &str, call: &ast::Function) -> Result<WindowCall> {
        let spec = match &call.over {
            Some(ast::WindowType::WindowSpec(spec)) => self.complete(spec)?,
            Some(ast::WindowType::NamedWindow(window)) => self.named_window(window)?.clone(),
            None => return Err(Failure::internal("a window call without its window")),
        };
        if call.null_treatment.is_some() {
            return Err(Failure::unsupported("IGNORE NULLS"));
        }
        let (kind, arguments, filter, returns) = if super::aggregate::kind(name).is_some() {
            let parts = self.aggregate_parts(name, call)?;
            if parts.distinct || !parts.order.is_empty() {
                return Err(Failure::unsupported(
                    "DISTINCT or ORDER BY inside a windowed aggregate",
                ));
            }
            (
                WindowKind::Aggregate(parts.kind),
                parts.arguments,
                parts.filter,
                parts.returns,
            )
        } else {
            if call.filter.is_some() {
                return Err(Failure::unsupported(
                    "FILTER of a window function that is no aggregate",
                ));
            }
            let (kind, arguments, returns) = self.window_function(name, call)?;
            (kind, arguments, None, returns)
        };
        let partition = spec
            .partition_by
            .iter()
            .map(|e| self.typed(e))
            .collect::<Result<Vec<_>>>()?;
        let mut order = Vec::new();
        for item in &spec.order_by {
            let e = self.typed(&item.expr)?;
            order.push(sort_key(e, item)?);
        }
        let frame = spec
            .window_frame
            .as_ref()
            .map(|f| self.frame(f, &mut order))
            .transpose()?;
        if let Some(frame) = &frame
            && frame.units == FrameUnits::Groups
            && order.is_empty()
        {
            return Err(Failure::new(
                SqlState::WindowingError,
                "GROUPS mode requires an ORDER BY clause",
            ));
        }
        Ok(WindowCall {
            kind,
            arguments,
            filter,
            partition,
            order,
            frame,
            returns,
        })
    }

    fn window_function(
        &mut self,
        name: &str,
        call: &ast::Function,
    ) -> Result<(WindowKind, Vec<Expr>, DataType)> {
        let arguments = self
            .plain_arguments(call)?
            .into_iter()
            .map(|e| self.expr(e))
            .collect::<Result<Vec<_>>>()?;
        let types: Vec<Option<DataType>> = arguments.iter().map(type_of).collect();
        let none = || undefined(name, &types);
        let kind = kind(name).ok_or_else(none)?;
        let count = arguments.len();
        let mut arguments = arguments.into_iter();
        let mut next = |binder: &mut Self, to: Option<DataType>| -> Result<Option<Expr>> {
            match (arguments.next(), to) {
                (None, _) => Ok(None),
                (Some(e), Some(to)) => binder.coerce(e, to).map(Some),
                (Some(e), None) => binder.settled(e).map(Some),
            }
        };
        Ok(match kind {
            WindowKind::RowNumber | WindowKind::Rank | WindowKind::DenseRank if count == 0 => {
                (kind, Vec::new(), DataType::Int8)
            }
            WindowKind::PercentRank | WindowKind::CumeDist if count == 0 => {
                (kind, Vec::new(), DataType::Float8)
            }
            WindowKind::Ntile if count == 1 => {
                let groups = next(self, Some(DataType::Int4))?;
                (kind, groups.into_iter().collect(), DataType::Int4)
            }
            WindowKind::Lag | WindowKind::Lead if (1..=3).contains(&count) => {
                let value = next(self, None)?.ok_or_else(none)?;
                let data_type = value.data_type();
                let mut list = vec![value];
                list.extend(next(self, Some(DataType::Int8))?);
                list.extend(next(self, Some(data_type))?);
                (kind, list, data_type)
            }
            WindowKind::FirstValue | WindowKind::LastValue if count == 1 => {
                let value = next(self, None)?.ok_or_else(none)?;
                let data_type = value.data_type();
                (kind, vec![value], data_type)
            }
            WindowKind::NthValue if count == 2 => {
                let value = next(self, None)?.ok_or_else(none)?;
                let data_type = value.data_type();
                let mut list = vec![value];
                list.extend(next(self, Some(DataType::Int8))?);
                (kind, list, data_type)
            }
            _ => return Err(none()),
        })
    }

    fn frame(&mut self, frame: &ast::WindowFrame, order: &mut [SortKey]) -> Result<Frame> {
        let units = match frame.units {
            ast::WindowFrameUnits::Rows => FrameUnits::Rows,
            ast::WindowFrameUnits::Range => FrameUnits::Range,
            ast::WindowFrameUnits::Groups => FrameUnits::Groups,
        };
        let has_offset = |b: &ast::WindowFrameBound| {
            matches!(
                b,
                ast::WindowFrameBound::Preceding(Some(_))
                    | ast::WindowFrameBound::Following(Some(_))
            )
        };
        let offset_type = match units {
            FrameUnits::Range
                if has_offset(&frame.start_bound)
                    || frame.end_bound.as_ref().is_some_and(has_offset) =>
            {
                self.range_offset_type(order)?
            }
            _ => DataType::Int8,
        };
        let start = self.frame_bound(&frame.start_bound, units, offset_type)?;
        let end = match &frame.end_bound {
            Some(bound) => self.frame_bound(bound, units, offset_type)?,
            None => FrameBound::CurrentRow,
        };
        check_frame(&start, &end)?;
        Ok(Frame { units, start, end })
    }

    /// The type of distances of a RANGE frame. The order column is cast to what they can be added
    /// to without an overflow and without a loss.
    fn range_offset_type(&mut self, order: &mut [SortKey]) -> Result<DataType> {
        let [key] = order else {
            return Err(Failure::new(
                SqlState::WindowingError,
                "RANGE with offset PRECEDING/FOLLOWING requires exactly one ORDER BY column",
            ));
        };
        let from = key.expr.data_type();
        let (to, offset) = match from {
            DataType::Int2 | DataType::Int4 => (DataType::Int8, DataType::Int8),
            DataType::Int8 => {
                let wide = DataType::Numeric(Some((38, 0)));
                (wide, wide)
            }
            DataType::Numeric(_) => (DataType::Numeric(None), DataType::Numeric(None)),
            DataType::Float4 | DataType::Float8 => (DataType::Float8, DataType::Float8),
            DataType::Date | DataType::Timestamp => (DataType::Timestamp, DataType::Interval),
            DataType::TimestampTz => (DataType::TimestampTz, DataType::Interval),
            other => {
                return Err(Failure::unsupported(format!(
                    "RANGE with offset PRECEDING/FOLLOWING for column type {}",
                    other.plain_name()
                )));
            }
        };
        let taken = std::mem::replace(&mut key.expr, Expr::bool(true));
        key.expr = self.convert(taken, to, true)?;
        Ok(offset)
    }

    fn frame_bound(
        &mut self,
        bound: &ast::WindowFrameBound,
        units: FrameUnits,
        offset_type: DataType,
    ) -> Result<FrameBound> {
        let mut distance = |e: &Option<Box<ast::Expr>>| -> Result<Option<Value>> {
            let Some(e) = e else {
                return Ok(None);
            };
            let bound = self.expr(e)?;
            if bound.any(|e| matches!(e, Expr::Column { .. })) {
                return Err(Failure::new(
                    SqlState::InvalidColumnReference,
                    format!(
                        "argument of {} must not contain variables",
                        match units {
                            FrameUnits::Rows => "ROWS",
                            FrameUnits::Range => "RANGE",
                            FrameUnits::Groups => "GROUPS",
                        }
                    ),
                ));
            }
            let bound = self.convert(bound, offset_type, false)?;
            let fixed = |e: &Expr| {
                !matches!(
                    e,
                    Expr::Parameter(..) | Expr::Subquery(_) | Expr::Volatile { .. }
                ) && !matches!(e, Expr::Call { function, .. }
                    if function.volatility != crate::function::Volatility::Immutable)
            };
            if bound.any(|e| !fixed(e)) {
                return Err(Failure::unsupported(
                    "a frame offset that is not known beforehand",
                ));
            }
            let row = crate::expr::builder::rows_only(1)?;
            let array = crate::expr::eval::evaluate(&bound, &row)?;
            value_at(&array, 0, &offset_type).map(Some)
        };
        Ok(match bound {
            ast::WindowFrameBound::CurrentRow => FrameBound::CurrentRow,
            ast::WindowFrameBound::Preceding(e) => FrameBound::Preceding(distance(e)?),
            ast::WindowFrameBound::Following(e) => FrameBound::Following(distance(e)?),
        })
    }
}

/// 42P20 for a frame that ends before it starts.
fn check_frame(start: &FrameBound, end: &FrameBound) -> Result<()> {
    let wrong = match (start, end) {
        (FrameBound::Following(None), _) => "frame start cannot be UNBOUNDED FOLLOWING",
        (_, FrameBound::Preceding(None)) => "frame end cannot be UNBOUNDED PRECEDING",
        (FrameBound::CurrentRow, FrameBound::Preceding(_)) => {
            "frame starting from current row cannot have preceding rows"
        }
        (FrameBound::Following(_), FrameBound::Preceding(_) | FrameBound::CurrentRow) => {
            "frame starting from following row cannot have preceding rows"
        }
        _ => return Ok(()),
    };
    Err(Failure::new(SqlState::WindowingError, wrong))
}
