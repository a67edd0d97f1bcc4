//! Evaluates a compiled expression over a batch.
//!
//! Columns are positions in the batch; there are no parameters, subqueries or unknown literals
//! left. A constant stays one row until it meets a column. CASE and COALESCE evaluate a branch only
//! for the rows that reach it, so that a guard guards; AND and OR do so when a term fails. A call
//! of constants is not made when there are no rows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::{self, kernels::boolean};
use nodedb_types::arrow_map::{arrow_type, value_at};
use nodedb_types::{DataType, Failure, Result, Value};

use super::builder::array_of;
use super::list::ConstantSet;
use super::{CompareOp, Expr, cast};
use crate::function::Kernel;
use crate::function::compare::with_one_nan;

/// An array with a value per row, or one value for all of them.
#[derive(Clone, Debug)]
pub(crate) struct Evaluated {
    pub array: ArrayRef,
    pub scalar: bool,
}

impl Evaluated {
    pub(crate) fn per_row(array: ArrayRef) -> Evaluated {
        Evaluated {
            array,
            scalar: false,
        }
    }

    /// The position of row `row`'s value.
    pub(crate) fn at(&self, row: usize) -> usize {
        if self.scalar { 0 } else { row }
    }

    pub(crate) fn value(&self, row: usize, data_type: &DataType) -> Result<Value> {
        value_at(&self.array, self.at(row), data_type)
    }

    /// With a value for each of `rows` rows.
    pub(crate) fn into_array(self, rows: usize) -> Result<ArrayRef> {
        if !self.scalar {
            return Ok(self.array);
        }
        if rows == 1 {
            return Ok(self.array);
        }
        let zeros = arrow::array::UInt32Array::from(vec![0; rows]);
        compute::take(&self.array, &zeros, None).map_err(arrow_failure)
    }
}

pub(crate) fn arrow_failure(error: arrow::error::ArrowError) -> Failure {
    Failure::internal(format!("evaluating an expression: {error}"))
}

/// A value per row of `batch`.
pub(crate) fn evaluate(expr: &Expr, batch: &RecordBatch) -> Result<ArrayRef> {
    eval(expr, batch)?.into_array(batch.num_rows())
}

/// The rows for which a condition is true, as a mask without NULLs.
pub(crate) fn holds(condition: &Expr, batch: &RecordBatch) -> Result<BooleanArray> {
    let array = evaluate(condition, batch)?;
    Ok(true_only(array.as_boolean()))
}

/// A mask in which unknown counts as false.
pub(crate) fn true_only(mask: &BooleanArray) -> BooleanArray {
    if mask.null_count() == 0 {
        mask.clone()
    } else {
        compute::prep_null_mask_filter(mask)
    }
}

pub(crate) fn eval(expr: &Expr, batch: &RecordBatch) -> Result<Evaluated> {
    let rows = batch.num_rows();
    Ok(match expr {
        Expr::Column { id, .. } => Evaluated::per_row(batch.column(id.0 as usize).clone()),
        Expr::Constant(value, data_type) => Evaluated {
            array: array_of(data_type, [value])?,
            scalar: true,
        },
        Expr::Call {
            function,
            arguments,
            returns,
        } => {
            let evaluated = arguments
                .iter()
                .map(|a| eval(a, batch))
                .collect::<Result<Vec<_>>>()?;
            let types: Vec<DataType> = arguments.iter().map(Expr::data_type).collect();
            call(function, &evaluated, &types, returns, rows)?
        }
        Expr::Volatile {
            function,
            returns,
            state,
        } => {
            let state = state
                .as_ref()
                .ok_or_else(|| Failure::internal("a volatile call without its state"))?;
            let Kernel::Volatile(kernel) = function.kernel else {
                return Err(Failure::internal("not a volatile function"));
            };
            let values: Vec<Value> = (0..rows)
                .map(|_| kernel(state.fetch_add(1, Ordering::Relaxed)))
                .collect();
            Evaluated::per_row(array_of(returns, &values)?)
        }
        Expr::Compare(op, l, r) => compare(*op, l, r, batch)?,
        Expr::Same(l, r) => same(l, r, batch)?,
        Expr::And(terms) => junction(terms, batch, true)?,
        Expr::Or(terms) => junction(terms, batch, false)?,
        Expr::Not(e) => {
            let e = eval(e, batch)?;
            let array = compute::not(e.array.as_boolean()).map_err(arrow_failure)?;
            Evaluated {
                array: Arc::new(array),
                scalar: e.scalar,
            }
        }
        Expr::IsNull(e) => {
            let e = eval(e, batch)?;
            let array = compute::is_null(&e.array).map_err(arrow_failure)?;
            Evaluated {
                array: Arc::new(array),
                scalar: e.scalar,
            }
        }
        Expr::InList(e, list) => in_list(e, list, batch)?,
        Expr::InSet(e, set) => {
            let e = eval(e, batch)?;
            Evaluated {
                array: Arc::new(set.holds(&e.array)?),
                scalar: e.scalar,
            }
        }
        Expr::InArray {
            operand,
            array,
            element,
        } => in_array(operand, array, element, batch)?,
        Expr::Case {
            branches,
            otherwise,
            data_type,
        } => case(branches, otherwise, data_type, batch)?,
        Expr::Coalesce(items, data_type) => coalesce(items, data_type, batch)?,
        Expr::Cast {
            operand,
            to,
            explicit,
        } => {
            let from = operand.data_type();
            let operand = eval(operand, batch)?;
            if operand.scalar && rows == 0 {
                return Ok(unasked(to));
            }
            cast_array(operand, &from, to, *explicit)?
        }
        Expr::Parameter(..) | Expr::Unknown(_) | Expr::Subquery(_) => {
            return Err(Failure::internal(format!(
                "an expression that is not ready to be evaluated: {expr:?}"
            )));
        }
    })
}

/// The value of what is the same for all rows where there is none: no row asks for it, so it must
/// not fail.
fn unasked(data_type: &DataType) -> Evaluated {
    Evaluated {
        array: new_null_array(&arrow_type(data_type), 1),
        scalar: true,
    }
}

fn call(
    function: &crate::function::Function,
    arguments: &[Evaluated],
    types: &[DataType],
    returns: &DataType,
    rows: usize,
) -> Result<Evaluated> {
    let scalar = arguments.iter().all(|a| a.scalar);
    if scalar && rows == 0 {
        return Ok(unasked(returns));
    }
    let rows = if scalar { 1 } else { rows };
    if let Kernel::Array(kernel) = function.kernel {
        let array = with_one_nan(kernel(arguments, rows, returns)?);
        return Ok(Evaluated { array, scalar });
    }
    let Kernel::Row(kernel) = function.kernel else {
        return Err(Failure::internal(format!(
            "{} is not computed row by row",
            function.name
        )));
    };
    let mut results = Vec::with_capacity(rows);
    let mut values = vec![Value::Null; arguments.len()];
    // Constants are read once.
    for ((value, argument), data_type) in values.iter_mut().zip(arguments).zip(types) {
        if argument.scalar {
            *value = argument.value(0, data_type)?;
        }
    }
    for row in 0..rows {
        let mut null = false;
        for ((value, argument), data_type) in values.iter_mut().zip(arguments).zip(types) {
            if !argument.scalar {
                *value = argument.value(row, data_type)?;
            }
            null |= value.is_null();
        }
        results.push(if null && function.strict {
            Value::Null
        } else {
            kernel(&values)?
        });
    }
    Ok(Evaluated {
        array: returned(results, returns)?,
        scalar,
    })
}

/// Row kernels give the plain type; a result type with a size applies it.
fn returned(mut results: Vec<Value>, returns: &DataType) -> Result<ArrayRef> {
    if matches!(returns, DataType::Numeric(Some(_))) {
        for value in &mut results {
            let taken = std::mem::replace(value, Value::Null);
            *value = taken.coerce(returns)?;
        }
    }
    array_of(returns, &results)
}

fn compare(op: CompareOp, l: &Expr, r: &Expr, batch: &RecordBatch) -> Result<Evaluated> {
    let data_type = l.data_type();
    let (l, r) = (eval(l, batch)?, eval(r, batch)?);
    let scalar = l.scalar && r.scalar;
    let rows = if scalar { 1 } else { batch.num_rows() };
    let array = super::super::function::compare::compare(op, &l, &r, &data_type, rows)?;
    Ok(Evaluated {
        array: Arc::new(array),
        scalar,
    })
}

fn same(l: &Expr, r: &Expr, batch: &RecordBatch) -> Result<Evaluated> {
    let equal = compare(CompareOp::Eq, l, r, batch)?;
    let (l, r) = (eval(l, batch)?, eval(r, batch)?);
    let rows = if equal.scalar { 1 } else { batch.num_rows() };
    let known = equal.array.as_boolean();
    let array: BooleanArray = (0..rows)
        .map(|row| {
            let (ln, rn) = (l.array.is_null(l.at(row)), r.array.is_null(r.at(row)));
            Some(if ln || rn { ln && rn } else { known.value(row) })
        })
        .collect();
    Ok(Evaluated {
        array: Arc::new(array),
        scalar: equal.scalar,
    })
}

/// AND (or OR) of terms from left to right. A term that fails is tried again for those rows only
/// that the terms before it have not decided.
fn junction(terms: &[Expr], batch: &RecordBatch, and: bool) -> Result<Evaluated> {
    let rows = batch.num_rows();
    let mut result: Option<BooleanArray> = None;
    for term in terms {
        let mut next = |batch: &RecordBatch| evaluate(term, batch);
        let value = match (&result, next(batch)) {
            (_, Ok(value)) => value,
            (None, Err(failure)) => return Err(failure),
            (Some(so_far), Err(_)) => {
                let open: BooleanArray = (0..rows)
                    .map(|row| Some(so_far.is_null(row) || so_far.value(row) == and))
                    .collect();
                where_true(&open, batch, &mut next)?
            }
        };
        let value = value.as_boolean();
        result = Some(match result {
            None => value.clone(),
            Some(so_far) if and => boolean::and_kleene(&so_far, value).map_err(arrow_failure)?,
            Some(so_far) => boolean::or_kleene(&so_far, value).map_err(arrow_failure)?,
        });
    }
    let array = result.unwrap_or_else(|| BooleanArray::from(vec![and; rows]));
    Ok(Evaluated::per_row(Arc::new(array)))
}

/// Evaluates over the rows of a mask; the others are NULL.
fn where_true(
    mask: &BooleanArray,
    batch: &RecordBatch,
    f: &mut dyn FnMut(&RecordBatch) -> Result<ArrayRef>,
) -> Result<ArrayRef> {
    let part = compute::filter_record_batch(batch, mask).map_err(arrow_failure)?;
    let values = f(&part)?;
    let mut next = 0u32;
    let indices: arrow::array::UInt32Array = (0..batch.num_rows())
        .map(|row| {
            mask.value(row).then(|| {
                next += 1;
                next - 1
            })
        })
        .collect();
    compute::take(&values, &indices, None).map_err(arrow_failure)
}

fn in_list(e: &Expr, list: &[Expr], batch: &RecordBatch) -> Result<Evaluated> {
    let data_type = e.data_type();
    let operand = eval(e, batch)?;
    let mut result: Option<BooleanArray> = None;
    let mut scalar = operand.scalar;
    for item in list {
        let item = eval(item, batch)?;
        scalar &= item.scalar;
        let rows = if operand.scalar && item.scalar {
            1
        } else {
            batch.num_rows()
        };
        let equal = super::super::function::compare::compare(
            CompareOp::Eq,
            &operand,
            &item,
            &data_type,
            rows,
        )?;
        result = Some(match result {
            None => equal,
            Some(so_far) => {
                let rows = so_far.len().max(equal.len());
                let (a, b) = (stretch(so_far, rows)?, stretch(equal, rows)?);
                boolean::or_kleene(&a, &b).map_err(arrow_failure)?
            }
        });
    }
    let array = result.unwrap_or_else(|| BooleanArray::from(vec![false; batch.num_rows()]));
    Ok(Evaluated {
        array: Arc::new(array),
        scalar,
    })
}

/// The elements of an array's text as values of the type they are compared in.
pub(crate) fn elements(array: &str, element: &DataType, compared: &DataType) -> Result<Vec<Value>> {
    let value = |text: Option<String>| match text {
        None => Ok(Value::Null),
        Some(text) => {
            let value = cast::cast(Value::Text(text), element, false)?;
            cast::cast(value, compared, false)
        }
    };
    let items = crate::function::array::elements(array)?;
    items.into_iter().map(value).collect()
}

/// `operand = ANY (array)` where the array differs from row to row.
fn in_array(
    operand: &Expr,
    array: &Expr,
    element: &DataType,
    batch: &RecordBatch,
) -> Result<Evaluated> {
    let data_type = operand.data_type();
    let array_type = array.data_type();
    let (operand, array) = (eval(operand, batch)?, eval(array, batch)?);
    let scalar = operand.scalar && array.scalar;
    let rows = if scalar { 1 } else { batch.num_rows() };
    let mut known: Option<(Value, ConstantSet)> = None;
    let mut results = Vec::with_capacity(rows);
    for row in 0..rows {
        let text = array.value(row, &array_type)?;
        if !known.as_ref().is_some_and(|(of, _)| *of == text) {
            let values = match &text {
                Value::Text(text) => elements(text, element, &data_type)?,
                _ => vec![Value::Null],
            };
            known = Some((text, ConstantSet::new(values, data_type)?));
        }
        let at = operand.array.slice(operand.at(row), 1);
        results.push(match &known {
            // No element of a NULL array is known, of an empty one none is equal.
            Some((_, set)) if set.is_empty() => Some(false),
            Some((_, set)) => set.holds(&at)?.iter().next().flatten(),
            None => None,
        });
    }
    Ok(Evaluated {
        array: Arc::new(BooleanArray::from(results)),
        scalar,
    })
}

fn stretch(array: BooleanArray, rows: usize) -> Result<BooleanArray> {
    if array.len() == rows {
        return Ok(array);
    }
    let value = array.is_valid(0).then(|| array.value(0));
    Ok((0..rows).map(|_| value).collect())
}

fn case(
    branches: &[(Expr, Expr)],
    otherwise: &Expr,
    data_type: &DataType,
    batch: &RecordBatch,
) -> Result<Evaluated> {
    let rows = batch.num_rows();
    let mut open = BooleanArray::from(vec![true; rows]);
    let mut parts = Parts::new(rows, data_type);
    for (condition, result) in branches {
        if open.true_count() == 0 {
            break;
        }
        let taken = where_true(&open, batch, &mut |part| evaluate(condition, part))?;
        let taken = true_only(taken.as_boolean());
        parts.fill(&taken, batch, result)?;
        open = boolean::and(&open, &compute::not(&taken).map_err(arrow_failure)?)
            .map_err(arrow_failure)?;
    }
    parts.fill(&open, batch, otherwise)?;
    Ok(Evaluated::per_row(parts.finish()?))
}

fn coalesce(items: &[Expr], data_type: &DataType, batch: &RecordBatch) -> Result<Evaluated> {
    let rows = batch.num_rows();
    let mut open = BooleanArray::from(vec![true; rows]);
    let mut parts = Parts::new(rows, data_type);
    for item in items {
        if open.true_count() == 0 {
            break;
        }
        let values = where_true(&open, batch, &mut |part| evaluate(item, part))?;
        let found = compute::is_not_null(&values).map_err(arrow_failure)?;
        parts.put(&found, values);
        open = boolean::and(&open, &compute::not(&found).map_err(arrow_failure)?)
            .map_err(arrow_failure)?;
    }
    Ok(Evaluated::per_row(parts.finish()?))
}

/// Puts rows together from several arrays; what nobody filled is NULL.
struct Parts {
    arrays: Vec<ArrayRef>,
    choice: Vec<(usize, usize)>,
}

impl Parts {
    fn new(rows: usize, data_type: &DataType) -> Parts {
        Parts {
            arrays: vec![new_null_array(&arrow_type(data_type), 1)],
            choice: vec![(0, 0); rows],
        }
    }

    fn fill(&mut self, mask: &BooleanArray, batch: &RecordBatch, expr: &Expr) -> Result<()> {
        if mask.true_count() > 0 {
            let values = where_true(mask, batch, &mut |part| evaluate(expr, part))?;
            self.put(mask, values);
        }
        Ok(())
    }

    fn put(&mut self, mask: &BooleanArray, values: ArrayRef) {
        let number = self.arrays.len();
        self.arrays.push(values);
        for (row, choice) in self.choice.iter_mut().enumerate() {
            if mask.value(row) {
                *choice = (number, row);
            }
        }
    }

    fn finish(self) -> Result<ArrayRef> {
        let arrays: Vec<&dyn Array> = self.arrays.iter().map(|a| a.as_ref()).collect();
        compute::interleave(&arrays, &self.choice).map_err(arrow_failure)
    }
}

fn cast_array(
    operand: Evaluated,
    from: &DataType,
    to: &DataType,
    explicit: bool,
) -> Result<Evaluated> {
    if from == to {
        return Ok(operand);
    }
    if let Some(array) = quick_cast(&operand.array, from, to) {
        return Ok(Evaluated {
            array,
            scalar: operand.scalar,
        });
    }
    let mut values = Vec::with_capacity(operand.array.len());
    for row in 0..operand.array.len() {
        let value = value_at(&operand.array, row, from)?;
        values.push(cast::cast(value, to, explicit)?);
    }
    Ok(Evaluated {
        array: array_of(to, &values)?,
        scalar: operand.scalar,
    })
}

/// Widening casts, which cannot fail.
fn quick_cast(array: &ArrayRef, from: &DataType, to: &DataType) -> Option<ArrayRef> {
    use arrow::array::types::{Float32Type, Int16Type, Int32Type, Int64Type};
    use arrow::array::{Float64Array, Int32Array, Int64Array};
    Some(match (from, to) {
        (DataType::Int2, DataType::Int4) => {
            let wide: Int32Array = array.as_primitive::<Int16Type>().unary(i32::from);
            Arc::new(wide)
        }
        (DataType::Int2, DataType::Int8) => {
            let wide: Int64Array = array.as_primitive::<Int16Type>().unary(i64::from);
            Arc::new(wide)
        }
        (DataType::Int4, DataType::Int8) => {
            let wide: Int64Array = array.as_primitive::<Int32Type>().unary(i64::from);
            Arc::new(wide)
        }
        (DataType::Int2, DataType::Float8) => {
            let wide: Float64Array = array.as_primitive::<Int16Type>().unary(f64::from);
            Arc::new(wide)
        }
        (DataType::Int4, DataType::Float8) => {
            let wide: Float64Array = array.as_primitive::<Int32Type>().unary(f64::from);
            Arc::new(wide)
        }
        (DataType::Int8, DataType::Float8) => {
            let wide: Float64Array = array.as_primitive::<Int64Type>().unary(|v| v as f64);
            Arc::new(wide)
        }
        (DataType::Float4, DataType::Float8) => {
            let wide: Float64Array = array.as_primitive::<Float32Type>().unary(f64::from);
            Arc::new(wide)
        }
        (DataType::Text(_), DataType::Text(None)) => array.clone(),
        (DataType::Geometry(_), DataType::Geometry(None))
        | (DataType::Geography(_), DataType::Geography(None)) => array.clone(),
        _ => return None,
    })
}
