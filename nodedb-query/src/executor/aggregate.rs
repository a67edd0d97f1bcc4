//! Exact sums and averages, as PostgreSQL's numeric ones, and the single value of a subquery.
//!
//! The running sum is a 256-bit integer in units of the argument's scale, so the order of rows
//! does not matter and nothing is rounded before the end.

use std::hash::Hash;
use std::sync::{Arc, LazyLock};

use arrow::array::types::{Decimal128Type, Decimal256Type, Int64Type};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType as Arrow, Field, FieldRef, i256};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
};
use nodedb_types::numeric::Numeric;
use nodedb_types::{Failure, SqlState};

use super::distinct::Distinct;
use super::error::wrap;
use crate::function::arithmetic::divide_numeric;

/// `sum(bigint | numeric)` and `avg(bigint | numeric)`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Exact {
    average: bool,
    signature: Signature,
}

static SUM: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| udaf(false));
static AVERAGE: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| udaf(true));

fn udaf(average: bool) -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(Exact {
        average,
        signature: Signature::any(1, Volatility::Immutable),
    }))
}

pub(super) fn sum() -> Arc<AggregateUDF> {
    SUM.clone()
}

pub(super) fn average() -> Arc<AggregateUDF> {
    AVERAGE.clone()
}

/// Digits behind the point of an argument type.
fn scale_of(arrow: &Arrow) -> u8 {
    match arrow {
        Arrow::Decimal128(_, scale) | Arrow::Decimal256(_, scale) => (*scale).max(0) as u8,
        _ => 0,
    }
}

/// The only value of a group, of any type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Single {
    signature: Signature,
}

static SINGLE: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| {
    Arc::new(AggregateUDF::from(Single {
        signature: Signature::any(1, Volatility::Immutable),
    }))
});

pub(super) fn single_value() -> Arc<AggregateUDF> {
    SINGLE.clone()
}

impl AggregateUDFImpl for Single {
    fn name(&self) -> &str {
        "single_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[Arrow]) -> Result<Arrow> {
        Ok(arguments[0].clone())
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(SingleValue {
            value: ScalarValue::try_from(arguments.return_field.data_type())?,
            count: 0,
        }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = arguments.name;
        let value = arguments.return_field.data_type().clone();
        Ok(vec![
            Arc::new(Field::new(format!("{name}[value]"), value, true)),
            Arc::new(Field::new(format!("{name}[count]"), Arrow::Int64, true)),
        ])
    }
}

#[derive(Debug)]
struct SingleValue {
    value: ScalarValue,
    count: i64,
}

impl SingleValue {
    fn take(&mut self, values: &ArrayRef, row: usize, rows: i64) -> Result<()> {
        self.count += rows;
        if self.count > 1 {
            return Err(wrap(Failure::new(
                SqlState::CardinalityViolation,
                "more than one row returned by a subquery used as an expression",
            )));
        }
        self.value = ScalarValue::try_from_array(values, row)?;
        Ok(())
    }
}

impl Accumulator for SingleValue {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        match values[0].len() {
            0 => Ok(()),
            rows => self.take(&values[0], 0, rows as i64),
        }
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        size_of::<SingleValue>() + self.value.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![
            self.value.clone(),
            ScalarValue::Int64(Some(self.count)),
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let counts = states[1].as_primitive::<Int64Type>();
        for row in 0..counts.len() {
            if counts.is_valid(row) && counts.value(row) > 0 {
                self.take(&states[0], row, counts.value(row))?;
            }
        }
        Ok(())
    }
}

impl AggregateUDFImpl for Exact {
    fn name(&self) -> &str {
        if self.average {
            "exact_avg"
        } else {
            "exact_sum"
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[Arrow]) -> Result<Arrow> {
        let open = Arrow::Decimal256(76, 38);
        Ok(match arguments.first() {
            _ if self.average => open,
            Some(Arrow::Int64) => Arrow::Decimal128(38, 0),
            Some(Arrow::Decimal128(_, scale)) => Arrow::Decimal128(38, *scale),
            _ => open,
        })
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let argument = arguments.expr_fields[0].data_type();
        let running = Box::new(Running {
            average: self.average,
            scale: scale_of(argument),
            returns: arguments.return_field.data_type().clone(),
            sum: i256::ZERO,
            count: 0,
        });
        Ok(match arguments.is_distinct {
            true => Box::new(Distinct::new(argument, running)),
            false => running,
        })
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = arguments.name;
        if arguments.is_distinct {
            let argument = arguments.input_fields[0].data_type();
            return Ok(Distinct::state_fields(name, argument));
        }
        Ok(vec![
            Arc::new(Field::new(
                format!("{name}[sum]"),
                Arrow::Decimal256(76, 0),
                true,
            )),
            Arc::new(Field::new(format!("{name}[count]"), Arrow::Int64, true)),
        ])
    }
}

#[derive(Debug)]
struct Running {
    average: bool,
    scale: u8,
    returns: Arrow,
    sum: i256,
    count: i64,
}

fn overflow() -> datafusion::common::DataFusionError {
    wrap(Failure::new(
        SqlState::NumericOutOfRange,
        "value overflows numeric format",
    ))
}

impl Running {
    fn add(&mut self, value: i256, sign: i64) -> Result<()> {
        let value = if sign < 0 {
            value.wrapping_neg()
        } else {
            value
        };
        self.sum = self.sum.checked_add(value).ok_or_else(overflow)?;
        self.count += sign;
        Ok(())
    }

    fn each(&mut self, values: &ArrayRef, sign: i64) -> Result<()> {
        for row in 0..values.len() {
            if values.is_null(row) {
                continue;
            }
            let value = match values.data_type() {
                Arrow::Int64 => i256::from(values.as_primitive::<Int64Type>().value(row)),
                Arrow::Decimal128(..) => {
                    i256::from_i128(values.as_primitive::<Decimal128Type>().value(row))
                }
                Arrow::Decimal256(..) => values.as_primitive::<Decimal256Type>().value(row),
                other => {
                    return Err(wrap(Failure::internal(format!("an exact sum of {other}"))));
                }
            };
            self.add(value, sign)?;
        }
        Ok(())
    }

    fn total(&self) -> nodedb_types::Result<Numeric> {
        Numeric::from_decimal256(self.sum, self.scale as i8)
    }
}

impl Accumulator for Running {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.each(&values[0], 1)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.each(&values[0], -1)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.count == 0 {
            return ScalarValue::try_from(&self.returns);
        }
        let mut value = self.total().map_err(wrap)?;
        if self.average {
            value = divide_numeric(value, Numeric::from_i64(self.count)).map_err(wrap)?;
        }
        Ok(match &self.returns {
            Arrow::Decimal128(precision, scale) => {
                let sized = value.rescale(*precision, *scale as u8).map_err(wrap)?;
                ScalarValue::Decimal128(Some(sized.unscaled()), *precision, *scale)
            }
            _ => ScalarValue::Decimal256(Some(value.to_decimal256()), 76, 38),
        })
    }

    fn size(&self) -> usize {
        size_of::<Running>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![
            ScalarValue::Decimal256(Some(self.sum), 76, 0),
            ScalarValue::Int64(Some(self.count)),
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let sums = states[0].as_primitive::<Decimal256Type>();
        let counts = states[1].as_primitive::<Int64Type>();
        for row in 0..sums.len() {
            if sums.is_valid(row) && counts.is_valid(row) {
                self.sum = self.sum.checked_add(sums.value(row)).ok_or_else(overflow)?;
                self.count += counts.value(row);
            }
        }
        Ok(())
    }
}
