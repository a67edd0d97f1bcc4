//! Variance and standard deviation, as PostgreSQL computes them.
//!
//! Of floats by the method of Youngs and Cramer, which does not lose the digits that a sum of
//! squares would (R. R. Schubert and M. Gertz, Numerically Stable Parallel Computation of
//! (Co-)Variance, SSDBM 2018, section 3). Of integers and numerics exactly: the sums of the values
//! and of their squares are 256-bit integers in units of the largest scale met, and one division
//! ends it. A sum that needs more than 256 bits is out of range (22003), where PostgreSQL goes on.

use std::hash::Hash;
use std::sync::{Arc, LazyLock};

use arrow::array::types::{Decimal128Type, Decimal256Type, Float64Type, Int64Type};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType as Arrow, Field, FieldRef, i256};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
};
use nodedb_types::numeric::Numeric;
use nodedb_types::{Failure, SqlState};

use super::distinct::Distinct;
use super::error::wrap;
use crate::function::arithmetic::divide_numeric;
use crate::function::root::square_root;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Statistic {
    #[default]
    VarianceSample,
    VariancePopulation,
    StddevSample,
    StddevPopulation,
}

impl Statistic {
    const ALL: [Statistic; 4] = [
        Statistic::VarianceSample,
        Statistic::VariancePopulation,
        Statistic::StddevSample,
        Statistic::StddevPopulation,
    ];

    fn is_sample(self) -> bool {
        matches!(self, Statistic::VarianceSample | Statistic::StddevSample)
    }

    fn is_root(self) -> bool {
        matches!(self, Statistic::StddevSample | Statistic::StddevPopulation)
    }

    /// What the sum of squared differences is divided by; `None` when there are too few values.
    fn divisor(self, count: i64) -> Option<i64> {
        match (count, self.is_sample()) {
            (0, _) | (1, true) => None,
            (n, true) => Some(n - 1),
            (n, false) => Some(n),
        }
    }
}

static FUNCTIONS: LazyLock<[Arc<AggregateUDF>; 4]> = LazyLock::new(|| {
    Statistic::ALL.map(|statistic| {
        Arc::new(AggregateUDF::from(Spread {
            statistic,
            signature: Signature::any(1, Volatility::Immutable),
        }))
    })
});

pub(super) fn of(statistic: Statistic) -> Arc<AggregateUDF> {
    FUNCTIONS[statistic as usize].clone()
}

/// Over double precision, bigint or numeric.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Spread {
    statistic: Statistic,
    signature: Signature,
}

impl AggregateUDFImpl for Spread {
    fn name(&self) -> &str {
        match self.statistic {
            Statistic::VarianceSample => "variance_sample",
            Statistic::VariancePopulation => "variance_population",
            Statistic::StddevSample => "stddev_sample",
            Statistic::StddevPopulation => "stddev_population",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[Arrow]) -> Result<Arrow> {
        Ok(match arguments.first() {
            Some(Arrow::Float64) => Arrow::Float64,
            _ => Arrow::Decimal256(76, 38),
        })
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let argument = arguments.expr_fields[0].data_type();
        let running: Box<dyn Accumulator> = match argument {
            Arrow::Float64 => Box::new(Floats {
                statistic: self.statistic,
                ..Floats::default()
            }),
            _ => Box::new(Exact {
                statistic: self.statistic,
                ..Exact::default()
            }),
        };
        Ok(match arguments.is_distinct {
            true => Box::new(Distinct::new(argument, running)),
            false => running,
        })
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = arguments.name;
        let argument = arguments.input_fields[0].data_type();
        if arguments.is_distinct {
            return Ok(Distinct::state_fields(name, argument));
        }
        let part = match argument {
            Arrow::Float64 => Arrow::Float64,
            _ => Arrow::Decimal256(76, 0),
        };
        let field = |what: &str, t: Arrow| -> FieldRef {
            Arc::new(Field::new(format!("{name}[{what}]"), t, true))
        };
        Ok(vec![
            field("count", Arrow::Int64),
            field("scale", Arrow::Int64),
            field("sum", part.clone()),
            field("squares", part),
        ])
    }
}

/// Count, sum, and the sum of the squared differences from the mean.
#[derive(Debug, Default)]
struct Floats {
    statistic: Statistic,
    count: i64,
    sum: f64,
    squares: f64,
}

fn overflow() -> DataFusionError {
    wrap(Failure::new(
        SqlState::NumericOutOfRange,
        "value out of range: overflow",
    ))
}

impl Floats {
    fn add(&mut self, x: f64) -> Result<()> {
        let before = self.sum;
        self.count += 1;
        self.sum += x;
        if self.count == 1 {
            if !x.is_finite() {
                self.squares = f64::NAN;
            }
            return Ok(());
        }
        let n = self.count as f64;
        let difference = x * n - self.sum;
        self.squares += difference * difference / (n * (n - 1.0));
        if self.sum.is_infinite() || self.squares.is_infinite() {
            if !before.is_infinite() && !x.is_infinite() {
                return Err(overflow());
            }
            self.squares = f64::NAN;
        }
        Ok(())
    }

    fn merge(&mut self, other: &Floats) -> Result<()> {
        if other.count == 0 {
            return Ok(());
        }
        if self.count == 0 {
            (self.count, self.sum, self.squares) = (other.count, other.sum, other.squares);
            return Ok(());
        }
        let (a, b) = (self.count as f64, other.count as f64);
        let difference = self.sum / a - other.sum / b;
        let squares = self.squares + other.squares + a * b * difference * difference / (a + b);
        if squares.is_infinite() && !self.squares.is_infinite() && !other.squares.is_infinite() {
            return Err(overflow());
        }
        self.count += other.count;
        self.sum += other.sum;
        self.squares = squares;
        Ok(())
    }
}

impl Accumulator for Floats {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<Float64Type>().iter().flatten() {
            self.add(value)?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let value = self.statistic.divisor(self.count).map(|divisor| {
            let variance = self.squares / divisor as f64;
            match self.statistic.is_root() {
                true => variance.sqrt(),
                false => variance,
            }
        });
        Ok(ScalarValue::Float64(value))
    }

    fn size(&self) -> usize {
        size_of::<Floats>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![
            ScalarValue::Int64(Some(self.count)),
            ScalarValue::Int64(Some(0)),
            ScalarValue::Float64(Some(self.sum)),
            ScalarValue::Float64(Some(self.squares)),
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let counts = states[0].as_primitive::<Int64Type>();
        let sums = states[2].as_primitive::<Float64Type>();
        let squares = states[3].as_primitive::<Float64Type>();
        for row in 0..counts.len() {
            if counts.is_valid(row) {
                self.merge(&Floats {
                    statistic: self.statistic,
                    count: counts.value(row),
                    sum: sums.value(row),
                    squares: squares.value(row),
                })?;
            }
        }
        Ok(())
    }
}

/// Count, and sums of the values (at `scale`) and of their squares (at twice that).
#[derive(Debug, Default)]
struct Exact {
    statistic: Statistic,
    count: i64,
    scale: u8,
    sum: i256,
    squares: i256,
}

fn too_wide() -> DataFusionError {
    wrap(Failure::new(
        SqlState::NumericOutOfRange,
        "value overflows numeric format",
    ))
}

fn times(a: i256, b: i256) -> Result<i256> {
    a.checked_mul(b).ok_or_else(too_wide)
}

fn plus(a: i256, b: i256) -> Result<i256> {
    a.checked_add(b).ok_or_else(too_wide)
}

fn shifted(mut value: i256, digits: u8) -> Result<i256> {
    for _ in 0..digits {
        value = times(value, i256::from_i128(10))?;
    }
    Ok(value)
}

impl Exact {
    /// Makes room for this many digits behind the point.
    fn widen(&mut self, scale: u8) -> Result<()> {
        if scale > self.scale {
            let more = scale - self.scale;
            self.sum = shifted(self.sum, more)?;
            self.squares = shifted(self.squares, 2 * more)?;
            self.scale = scale;
        }
        Ok(())
    }

    fn count_value(&mut self, unscaled: i128, scale: u8, sign: i64) -> Result<()> {
        self.widen(scale)?;
        let value = shifted(i256::from_i128(unscaled), self.scale - scale)?;
        let square = times(value, value)?;
        let (value, square) = match sign < 0 {
            true => (value.wrapping_neg(), square.wrapping_neg()),
            false => (value, square),
        };
        self.sum = plus(self.sum, value)?;
        self.squares = plus(self.squares, square)?;
        self.count += sign;
        Ok(())
    }

    fn each(&mut self, values: &ArrayRef, sign: i64) -> Result<()> {
        for row in 0..values.len() {
            if values.is_null(row) {
                continue;
            }
            let (unscaled, scale) = match values.data_type() {
                Arrow::Int64 => {
                    let value = values.as_primitive::<Int64Type>().value(row);
                    (i128::from(value), 0)
                }
                Arrow::Decimal128(_, scale) => {
                    let value = values.as_primitive::<Decimal128Type>().value(row);
                    (value, (*scale).max(0) as u8)
                }
                Arrow::Decimal256(_, scale) => {
                    let value = values.as_primitive::<Decimal256Type>().value(row);
                    let value = Numeric::from_decimal256(value, *scale).map_err(wrap)?;
                    (value.unscaled(), value.scale())
                }
                other => {
                    return Err(wrap(Failure::internal(format!("the variance of {other}"))));
                }
            };
            self.count_value(unscaled, scale, sign)?;
        }
        Ok(())
    }

    /// (n Σx² - (Σx)²) / (n · divisor), and its root.
    fn result(&self, divisor: i64) -> Result<Numeric> {
        let count = i256::from_i128(i128::from(self.count));
        let squares = times(count, self.squares)?;
        let of_sum = times(self.sum, self.sum)?;
        let above = squares.checked_sub(of_sum).ok_or_else(too_wide)?;
        if above <= i256::ZERO {
            return Ok(Numeric::ZERO);
        }
        let above = Numeric::from_decimal256(above, (2 * self.scale) as i8).map_err(wrap)?;
        let below = i128::from(self.count) * i128::from(divisor);
        let below = Numeric::new(below, 0).map_err(wrap)?;
        let variance = divide_numeric(above, below).map_err(wrap)?;
        match self.statistic.is_root() {
            true => square_root(variance, variance.scale()).map_err(wrap),
            false => Ok(variance),
        }
    }
}

impl Accumulator for Exact {
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
        let value = match self.statistic.divisor(self.count) {
            Some(divisor) => Some(self.result(divisor)?.to_decimal256()),
            None => None,
        };
        Ok(ScalarValue::Decimal256(value, 76, 38))
    }

    fn size(&self) -> usize {
        size_of::<Exact>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![
            ScalarValue::Int64(Some(self.count)),
            ScalarValue::Int64(Some(i64::from(self.scale))),
            ScalarValue::Decimal256(Some(self.sum), 76, 0),
            ScalarValue::Decimal256(Some(self.squares), 76, 0),
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let counts = states[0].as_primitive::<Int64Type>();
        let scales = states[1].as_primitive::<Int64Type>();
        let sums = states[2].as_primitive::<Decimal256Type>();
        let squares = states[3].as_primitive::<Decimal256Type>();
        for row in 0..counts.len() {
            if counts.is_null(row) {
                continue;
            }
            let mut other = Exact {
                statistic: self.statistic,
                count: counts.value(row),
                scale: scales.value(row) as u8,
                sum: sums.value(row),
                squares: squares.value(row),
            };
            other.widen(self.scale)?;
            self.widen(other.scale)?;
            self.count += other.count;
            self.sum = plus(self.sum, other.sum)?;
            self.squares = plus(self.squares, other.squares)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f64]) -> Option<f64> {
        let mut running = Floats {
            statistic: Statistic::VariancePopulation,
            ..Floats::default()
        };
        for value in values {
            running.add(*value).expect("in range");
        }
        match running.evaluate().expect("a value") {
            ScalarValue::Float64(value) => value,
            _ => None,
        }
    }

    #[test]
    fn large_values_keep_their_small_differences() {
        let values = [100_000_003.0, 100_000_004.0, 100_000_006.0, 100_000_007.0];
        assert_eq!(floats(&values), Some(2.5));
        assert_eq!(floats(&[1.0]), Some(0.0));
        assert_eq!(floats(&[]), None);
        assert!(floats(&[f64::INFINITY]).is_some_and(f64::is_nan));
        assert!(floats(&[1.0, f64::NAN]).is_some_and(f64::is_nan));
    }

    #[test]
    fn parts_merge_to_the_whole() {
        let mut left = Exact {
            statistic: Statistic::VariancePopulation,
            ..Exact::default()
        };
        for n in 0..5 {
            left.count_value(n, 0, 1).expect("in range");
        }
        let mut right = Exact {
            statistic: Statistic::VariancePopulation,
            ..Exact::default()
        };
        for n in 5..10 {
            right.count_value(n * 10, 1, 1).expect("in range");
        }
        let state = right.state().expect("a state");
        let arrays: Vec<ArrayRef> = state
            .iter()
            .map(|s| s.to_array().expect("an array"))
            .collect();
        left.merge_batch(&arrays).expect("merges");
        assert_eq!(
            left.result(10).expect("in range").normalized().to_string(),
            "8.25"
        );
    }
}
