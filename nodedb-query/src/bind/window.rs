//! Window functions: calls with OVER.

use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use sqlparser::ast::{self, Spanned};

use super::name::fold_case;
use super::select::sort_key;
use super::{Binder, type_of};
use crate::expr::Expr;
use crate::function::resolve::undefined;
use crate::rel::{Frame, FrameBound, FrameUnits, WindowCall, WindowKind};

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
    pub(super) fn named_windows(&mut self, windows: &[ast::NamedWindowDefinition]) -> Result<()> {
        match windows {
            [] => Ok(()),
            _ => Err(Failure::unsupported("the WINDOW clause")
                .with_hint("write the window at each OVER")),
        }
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
            Some(ast::WindowType::WindowSpec(spec)) if spec.window_name.is_none() => spec,
            Some(ast::WindowType::NamedWindow(window)) => {
                return Err(Failure::new(
                    SqlState::UndefinedObject,
                    format!("window \"{}\" does not exist", fold_case(window)),
                ));
            }
            _ => return Err(Failure::unsupported("this form of OVER")),
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
            .map(|f| self.frame(f))
            .transpose()?;
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

    fn frame(&mut self, frame: &ast::WindowFrame) -> Result<Frame> {
        let units = match frame.units {
            ast::WindowFrameUnits::Rows => FrameUnits::Rows,
            ast::WindowFrameUnits::Range => FrameUnits::Range,
            ast::WindowFrameUnits::Groups => FrameUnits::Groups,
        };
        let start = self.frame_bound(&frame.start_bound, units)?;
        let end = match &frame.end_bound {
            Some(bound) => self.frame_bound(bound, units)?,
            None => FrameBound::CurrentRow,
        };
        Ok(Frame { units, start, end })
    }

    fn frame_bound(
        &mut self,
        bound: &ast::WindowFrameBound,
        units: FrameUnits,
    ) -> Result<FrameBound> {
        let mut distance = |e: &Option<Box<ast::Expr>>| -> Result<Option<Value>> {
            let Some(e) = e else {
                return Ok(None);
            };
            if units == FrameUnits::Range {
                return Err(Failure::unsupported("RANGE with an offset"));
            }
            match self.expr(e)? {
                Expr::Constant(value @ (Value::Int4(_) | Value::Int8(_)), _) => Ok(Some(value)),
                _ => Err(Failure::unsupported(
                    "a frame offset that is no integer literal",
                )),
            }
        };
        Ok(match bound {
            ast::WindowFrameBound::CurrentRow => FrameBound::CurrentRow,
            ast::WindowFrameBound::Preceding(e) => FrameBound::Preceding(distance(e)?),
            ast::WindowFrameBound::Following(e) => FrameBound::Following(distance(e)?),
        })
    }
}
