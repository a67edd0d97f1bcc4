//! The square root of an exact number, to as many digits as PostgreSQL gives.

use arrow::datatypes::i256;
use nodedb_types::numeric::Numeric;
use nodedb_types::{Failure, Result, SqlState, Value};

fn too_wide() -> Failure {
    Failure::new(
        SqlState::NumericOutOfRange,
        "value overflows numeric format",
    )
}

/// The largest integer whose square is not above `n`, by Newton's method from above.
fn integer_root(n: i256) -> i256 {
    if n <= i256::ZERO {
        return i256::ZERO;
    }
    let (one, two) = (i256::ONE, i256::from_i128(2));
    let bits = 256 - n.leading_zeros();
    let mut guess = one << bits.div_ceil(2) as u8;
    loop {
        let next = guess.wrapping_add(n.wrapping_div(guess)).wrapping_div(two);
        if next >= guess {
            return guess;
        }
        guess = next;
    }
}

/// The root of a number that is not negative, rounded to `scale` digits behind the point.
pub(crate) fn square_root(n: Numeric, scale: u8) -> Result<Numeric> {
    // √(u / 10^s) · 10^scale = √(u · 10^(2·scale - s)), with one digit more to round by.
    let scale = scale.min(37);
    let digits = 2 * (i32::from(scale) + 1) - i32::from(n.scale());
    let mut wide = i256::from_i128(n.unscaled());
    let ten = i256::from_i128(10);
    for _ in 0..digits.max(0) {
        wide = wide.checked_mul(ten).ok_or_else(too_wide)?;
    }
    for _ in digits..0 {
        wide = wide.wrapping_div(ten);
    }
    let root = integer_root(wide);
    let rounded = root.wrapping_add(i256::from_i128(5)).wrapping_div(ten);
    let unscaled = rounded.to_i128().ok_or_else(too_wide)?;
    Numeric::new(unscaled, scale)
}

/// `sqrt(numeric)`: at least 16 significant digits (numeric.c, numeric_sqrt).
pub(super) fn numeric_sqrt(n: Numeric) -> Result<Value> {
    if n.unscaled() < 0 {
        return Err(Failure::new(
            SqlState::InvalidPowerArgument,
            "cannot take square root of a negative number",
        ));
    }
    let weight = super::arithmetic::leading_group(n).0;
    let whole_digits = if weight >= 0 {
        (weight + 1) * 2 - 1
    } else {
        1 - (1 - weight * 4) / 2
    };
    let scale = (16 - whole_digits).max(i32::from(n.scale())).clamp(0, 37);
    square_root(n, scale as u8).map(Value::Numeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> String {
        match numeric_sqrt(Numeric::parse(text).expect("a number")) {
            Ok(Value::Numeric(n)) => n.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn roots_have_postgres_digits() {
        assert_eq!(root("2"), "1.414213562373095");
        assert_eq!(root("4"), "2.000000000000000");
        assert_eq!(root("0"), "0.000000000000000");
        assert_eq!(root("1000000007"), "31622.77671236351");
        assert!(root("-1").contains("2201F"));
    }
}
