//! Exact decimals of at most 38 digits: the values of `NUMERIC`.
//!
//! A [`Numeric`] is `unscaled / 10^scale`. The scale is what PostgreSQL calls the display scale:
//! `1.0` and `1.00` print differently, yet they are one value, so equality, order and hash go by
//! value (keys, joins and groups depend on it). Where PostgreSQL would grow beyond 38 digits we
//! answer 22003; NaN and infinities, which its `numeric` also has, are refused with 0A000.
//!
//! Invariants: `|unscaled| < 10^38` and `scale <= 38`. Codecs check what
//! they read with [`Numeric::new`].

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use arrow::datatypes::i256;

use crate::failure::{Failure, Result};
use crate::sqlstate::SqlState;

/// Most digits, before and after the point together.
pub const DIGITS_MAX: u8 = 38;
/// Scale of the Arrow type that carries a `NUMERIC` without declared precision.
pub const OPEN_SCALE: i8 = 38;

const POW10: [i128; 39] = {
    let mut table = [1i128; 39];
    let mut i = 1;
    while i < table.len() {
        table[i] = table[i - 1] * 10;
        i += 1;
    }
    table
};
/// First magnitude that needs 39 digits.
const BOUND: i128 = POW10[DIGITS_MAX as usize];

/// `unscaled / 10^scale`, compared by value.
#[derive(Clone, Copy, Debug)]
pub struct Numeric {
    pub unscaled: i128,
    pub scale: u8,
}

fn out_of_range() -> Failure {
    Failure::new(
        SqlState::NumericOutOfRange,
        "value overflows numeric format",
    )
    .with_detail("A numeric holds at most 38 digits.")
}

fn invalid(text: &str) -> Failure {
    Failure::new(
        SqlState::InvalidTextRepresentation,
        format!("invalid input syntax for type numeric: \"{text}\""),
    )
}

impl Numeric {
    pub const ZERO: Numeric = Numeric {
        unscaled: 0,
        scale: 0,
    };

    /// 22003 outside 38 digits or with a scale above 38.
    pub fn new(unscaled: i128, scale: u8) -> Result<Numeric> {
        if scale > DIGITS_MAX || unscaled <= -BOUND || unscaled >= BOUND {
            return Err(out_of_range());
        }
        Ok(Numeric { unscaled, scale })
    }

    /// The digits as one integer.
    pub fn unscaled(self) -> i128 {
        self.unscaled
    }

    /// Digits after the point, as shown.
    pub fn scale(self) -> u8 {
        self.scale
    }

    pub fn from_i64(value: i64) -> Numeric {
        Numeric {
            unscaled: i128::from(value),
            scale: 0,
        }
    }

    /// As PostgreSQL's cast: 15 significant digits, trailing zeros dropped. Digits beyond 38
    /// after the point are rounded away.
    pub fn from_f64(value: f64) -> Result<Numeric> {
        Numeric::from_float(value, 15)
    }

    /// As PostgreSQL's cast from `real`: 6 significant digits.
    pub fn from_f32(value: f32) -> Result<Numeric> {
        Numeric::from_float(f64::from(value), 6)
    }

    fn from_float(value: f64, digits: usize) -> Result<Numeric> {
        if !value.is_finite() {
            let what = if value.is_nan() { "NaN" } else { "infinity" };
            return Err(Failure::unsupported(format_args!("numeric {what}")));
        }
        let text = format!("{value:.*e}", digits - 1);
        let (mantissa, exponent) = text.split_once('e').expect("the e format has an exponent");
        let exponent: i32 = exponent
            .parse()
            .expect("the e format has an integer exponent");
        let negative = mantissa.starts_with('-');
        let figures: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        let figures = figures.trim_end_matches('0');
        if figures.is_empty() {
            return Ok(Numeric::ZERO);
        }
        let mut unscaled: i128 = figures.parse().expect("at most 15 digits");
        // value = unscaled * 10^-places
        let mut places = figures.len() as i32 - 1 - exponent;
        if places > i32::from(DIGITS_MAX) {
            unscaled = divide_rounding(unscaled, (places - i32::from(DIGITS_MAX)) as u32);
            places = i32::from(DIGITS_MAX);
        }
        if negative {
            unscaled = -unscaled;
        }
        if places >= 0 {
            return Numeric::new(unscaled, places as u8);
        }
        let shift = usize::try_from(-places).expect("positive");
        let factor = POW10.get(shift).ok_or_else(out_of_range)?;
        Numeric::new(unscaled.checked_mul(*factor).ok_or_else(out_of_range)?, 0)
    }

    /// PostgreSQL's input syntax: blanks around, sign, digits with a point, exponent.
    /// 22P02 for other text, 22003 for more than 38 digits.
    pub fn parse(text: &str) -> Result<Numeric> {
        let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
        let (negative, body) = match trimmed.as_bytes().first() {
            Some(b'-') => (true, &trimmed[1..]),
            Some(b'+') => (false, &trimmed[1..]),
            _ => (false, trimmed),
        };
        if ["nan", "inf", "infinity"]
            .iter()
            .any(|w| body.eq_ignore_ascii_case(w))
        {
            return Err(Failure::unsupported(format_args!("numeric {body}")));
        }
        let (mantissa, exponent) = match body.find(['e', 'E']) {
            Some(at) => (
                &body[..at],
                parse_exponent(&body[at + 1..]).ok_or_else(|| invalid(text))?,
            ),
            None => (body, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = || whole.bytes().chain(fraction.bytes());
        if digits().next().is_none() || !digits().all(|b| b.is_ascii_digit()) {
            return Err(invalid(text));
        }
        let mut unscaled: i128 = 0;
        for digit in digits() {
            if unscaled >= BOUND / 10 {
                return Err(out_of_range());
            }
            unscaled = unscaled * 10 + i128::from(digit - b'0');
        }
        let scale = fraction.len() as i64 - i64::from(exponent);
        if scale < 0 && unscaled != 0 {
            let factor = usize::try_from(-scale).ok().and_then(|s| POW10.get(s));
            let factor = factor.ok_or_else(out_of_range)?;
            unscaled = unscaled.checked_mul(*factor).ok_or_else(out_of_range)?;
        }
        let scale = scale.max(0);
        let scale = u8::try_from(scale).map_err(|_| out_of_range())?;
        Numeric::new(if negative { -unscaled } else { unscaled }, scale)
    }

    /// Rounds half away from zero to `scale` and checks that the result has at most `precision`
    /// digits; 22003 otherwise.
    pub fn rescale(self, precision: u8, scale: u8) -> Result<Numeric> {
        let overflow = || {
            let whole = i32::from(precision) - i32::from(scale);
            Failure::new(SqlState::NumericOutOfRange, "numeric field overflow").with_detail(format!(
                "A field with precision {precision}, scale {scale} must round to an absolute value less than {}.",
                if whole == 0 { "1".to_string() } else { format!("10^{whole}") }
            ))
        };
        let unscaled = match self.scale.cmp(&scale) {
            Ordering::Equal => self.unscaled,
            Ordering::Greater => divide_rounding(self.unscaled, u32::from(self.scale - scale)),
            Ordering::Less => {
                let factor = POW10[usize::from((scale - self.scale).min(DIGITS_MAX))];
                self.unscaled.checked_mul(factor).ok_or_else(overflow)?
            }
        };
        let bound = POW10[usize::from(precision.min(DIGITS_MAX))];
        if unscaled <= -bound || unscaled >= bound {
            return Err(overflow());
        }
        Numeric::new(unscaled, scale)
    }

    /// The nearest integer, half away from zero.
    pub fn round_to_integer(self) -> i128 {
        divide_rounding(self.unscaled, u32::from(self.scale))
    }

    /// The nearest double.
    pub fn to_f64(self) -> f64 {
        // Both operands are exact doubles, so one division rounds once.
        if self.unscaled.unsigned_abs() < 1 << 53 && self.scale <= 22 {
            return self.unscaled as f64 / POW10[usize::from(self.scale)] as f64;
        }
        self.to_string()
            .parse()
            .expect("our own spelling is a number")
    }

    /// The same value with the smallest scale: no trailing zeros after the point.
    #[must_use]
    pub fn normalized(self) -> Numeric {
        let Numeric {
            mut unscaled,
            mut scale,
        } = self;
        while scale > 0 && unscaled % 10 == 0 {
            unscaled /= 10;
            scale -= 1;
        }
        Numeric { unscaled, scale }
    }

    /// 22003 when the exact sum needs more than 38 digits.
    pub fn checked_add(self, other: Numeric) -> Result<Numeric> {
        let scale = self.scale.max(other.scale);
        let sum = i256::from_i128(self.unscaled)
            .wrapping_mul(pow10_wide(scale - self.scale))
            .wrapping_add(
                i256::from_i128(other.unscaled).wrapping_mul(pow10_wide(scale - other.scale)),
            );
        exact(sum, u16::from(scale))
    }

    /// 22003 when the exact difference needs more than 38 digits.
    pub fn checked_sub(self, other: Numeric) -> Result<Numeric> {
        self.checked_add(Numeric {
            unscaled: -other.unscaled,
            scale: other.scale,
        })
    }

    /// 22003 when the exact product needs more than 38 digits.
    pub fn checked_mul(self, other: Numeric) -> Result<Numeric> {
        let product = i256::from_i128(self.unscaled).wrapping_mul(i256::from_i128(other.unscaled));
        exact(product, u16::from(self.scale) + u16::from(other.scale))
    }

    /// The unscaled value at [`OPEN_SCALE`]; every numeric has one.
    pub fn to_decimal256(self) -> i256 {
        // Below 10^38 * 10^38 = 10^76 < 2^255.
        i256::from_i128(self.unscaled).wrapping_mul(pow10_wide(OPEN_SCALE as u8 - self.scale))
    }

    /// From an Arrow decimal, trailing zeros after the point dropped. A value with more than 38
    /// digits (a quotient) is rounded after the point to 38; 22003 if it does not fit even then.
    pub fn from_decimal256(unscaled: i256, scale: i8) -> Result<Numeric> {
        let (mut value, mut scale) = (unscaled, i16::from(scale));
        let ten = i256::from_i128(10);
        while scale < 0 {
            value = value.checked_mul(ten).ok_or_else(out_of_range)?;
            scale += 1;
        }
        // Exact zeros go in big steps, so that an ordinary value costs few wide divisions.
        for step in [16u8, 8, 4, 2, 1] {
            let divisor = pow10_wide(step);
            while scale >= i16::from(step) && value.wrapping_rem(divisor) == i256::ZERO {
                value = value.wrapping_div(divisor);
                scale -= i16::from(step);
            }
        }
        let fits = |v: i256| v.to_i128().filter(|v| v.unsigned_abs() < BOUND as u128);
        // Rounding happens once, from the exact value: digits dropped twice could round twice.
        let mut drop = 0u8;
        while scale > i16::from(drop) {
            if scale - i16::from(drop) <= i16::from(DIGITS_MAX)
                && fits(divide_rounding_wide(value, drop)).is_some()
            {
                break;
            }
            drop += 1;
        }
        let rounded = fits(divide_rounding_wide(value, drop)).ok_or_else(out_of_range)?;
        let scale = u8::try_from(scale - i16::from(drop)).map_err(|_| out_of_range())?;
        Ok(Numeric::new(rounded, scale)?.normalized())
    }
}

/// `10^n` for n to 76.
fn pow10_wide(n: u8) -> i256 {
    let low = n.min(DIGITS_MAX);
    i256::from_i128(POW10[usize::from(low)])
        .wrapping_mul(i256::from_i128(POW10[usize::from(n - low)]))
}

/// Drops zeros at the end until the scale is allowed; 22003 when more than zeros would go.
fn exact(mut value: i256, mut scale: u16) -> Result<Numeric> {
    let ten = i256::from_i128(10);
    loop {
        let narrow = value.to_i128().filter(|v| v.unsigned_abs() < BOUND as u128);
        if let (Some(unscaled), true) = (narrow, scale <= u16::from(DIGITS_MAX)) {
            return Numeric::new(unscaled, scale as u8);
        }
        if scale == 0 || value.wrapping_rem(ten) != i256::ZERO {
            return Err(out_of_range());
        }
        value = value.wrapping_div(ten);
        scale -= 1;
    }
}

/// `value / 10^n`, half away from zero.
fn divide_rounding(value: i128, n: u32) -> i128 {
    let Some(&divisor) = POW10.get(n as usize) else {
        return 0;
    };
    let (quotient, rest) = (value / divisor, value % divisor);
    // Written without doubling, which could overflow.
    let up = rest.unsigned_abs() >= divisor.unsigned_abs().div_ceil(2) && rest != 0;
    quotient + if up { rest.signum() } else { 0 }
}

fn divide_rounding_wide(value: i256, n: u8) -> i256 {
    if n == 0 {
        return value;
    }
    if n > 2 * DIGITS_MAX {
        return i256::ZERO;
    }
    let divisor = pow10_wide(n);
    let (quotient, rest) = (value.wrapping_div(divisor), value.wrapping_rem(divisor));
    let half = divisor.wrapping_div(i256::from_i128(2));
    let step = i256::from_i128(1);
    if rest >= half {
        quotient.wrapping_add(step)
    } else if rest <= half.wrapping_neg() {
        quotient.wrapping_sub(step)
    } else {
        quotient
    }
}

fn parse_exponent(text: &str) -> Option<i32> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Beyond what an i32 holds, only the sign matters.
    let size = digits
        .parse::<i32>()
        .unwrap_or(i32::MAX / 2)
        .min(i32::MAX / 2);
    Some(if text.starts_with('-') { -size } else { size })
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unscaled < 0 {
            f.write_str("-")?;
        }
        let magnitude = self.unscaled.unsigned_abs();
        if self.scale == 0 {
            return write!(f, "{magnitude}");
        }
        let divisor = POW10[usize::from(self.scale)] as u128;
        let width = usize::from(self.scale);
        write!(f, "{}.{:0width$}", magnitude / divisor, magnitude % divisor)
    }
}

impl PartialEq for Numeric {
    fn eq(&self, other: &Numeric) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Numeric {}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Numeric) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Numeric) -> Ordering {
        if self.scale == other.scale {
            return self.unscaled.cmp(&other.unscaled);
        }
        let parts = |n: &Numeric| {
            let divisor = POW10[usize::from(n.scale)];
            // The fraction at scale 38: below 10^38 in magnitude.
            let fraction = n.unscaled % divisor * POW10[usize::from(DIGITS_MAX - n.scale)];
            (n.unscaled / divisor, fraction)
        };
        parts(self).cmp(&parts(other))
    }
}

impl Hash for Numeric {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Numeric { unscaled, scale } = self.normalized();
        (unscaled, scale).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> Numeric {
        Numeric::parse(text).unwrap()
    }

    #[test]
    fn text_keeps_the_display_scale() {
        for (input, output) in [
            ("1.00", "1.00"),
            (" -0.5\n", "-0.5"),
            ("+.5", "0.5"),
            ("5.", "5"),
            ("1e3", "1000"),
            ("1.5e-3", "0.0015"),
            ("123.456e1", "1234.56"),
            ("0e99", "0"),
            ("-0.00", "0.00"),
            ("00012", "12"),
            (
                "99999999999999999999999999999999999999",
                "99999999999999999999999999999999999999",
            ),
        ] {
            assert_eq!(n(input).to_string(), output, "{input}");
        }
        assert_eq!(n("1e-38").to_string(), format!("0.{}1", "0".repeat(37)));
    }

    #[test]
    fn bad_text_is_told_from_big_numbers() {
        for bad in [
            "", " ", "x", "1x", "--1", "1e", "1e+", ".", "1.2.3", "1 2", "0x10",
        ] {
            assert_eq!(
                Numeric::parse(bad).unwrap_err().code().code(),
                "22P02",
                "{bad}"
            );
        }
        for big in [
            "1e38",
            "1e-39",
            "100000000000000000000000000000000000000",
            "1e999999999999",
        ] {
            assert_eq!(
                Numeric::parse(big).unwrap_err().code().code(),
                "22003",
                "{big}"
            );
        }
        assert_eq!(Numeric::parse("NaN").unwrap_err().code().code(), "0A000");
    }

    #[test]
    fn order_goes_by_value() {
        assert_eq!(n("1.0"), n("1.00"));
        assert!(n("-1.5") < n("-1.49"));
        assert!(n("0.1") > n("0.09999"));
        assert!(n("-0.1") < n("0.00"));
        assert!(n("99999999999999999999999999999999999999") > n("1e-38"));
    }

    #[test]
    fn rescale_rounds_half_away_from_zero() {
        for (input, scale, output) in [
            ("0.125", 2, "0.13"),
            ("-0.125", 2, "-0.13"),
            ("0.124", 2, "0.12"),
            ("2.5", 0, "3"),
            ("7", 3, "7.000"),
        ] {
            assert_eq!(n(input).rescale(10, scale).unwrap().to_string(), output);
        }
        assert_eq!(
            n("99.995").rescale(4, 2).unwrap_err().code().code(),
            "22003"
        );
        assert_eq!(n("99.994").rescale(4, 2).unwrap().to_string(), "99.99");
    }

    #[test]
    fn arithmetic_is_exact_or_refused() {
        assert_eq!(n("0.10").checked_add(n("0.2")).unwrap().to_string(), "0.30");
        assert_eq!(n("1").checked_sub(n("0.01")).unwrap().to_string(), "0.99");
        assert_eq!(
            n("1.5").checked_mul(n("-2.0")).unwrap().to_string(),
            "-3.00"
        );
        let big = n("99999999999999999999999999999999999999");
        assert_eq!(big.checked_add(n("1")).unwrap_err().code().code(), "22003");
        assert_eq!(
            big.checked_add(n("0.1")).unwrap_err().code().code(),
            "22003"
        );
        assert_eq!(big.checked_mul(n("1.0")).unwrap(), big);
        assert_eq!(big.checked_mul(big).unwrap_err().code().code(), "22003");
    }

    #[test]
    fn floats_go_both_ways() {
        assert_eq!(Numeric::from_f64(0.1).unwrap().to_string(), "0.1");
        assert_eq!(
            Numeric::from_f64(-1.5e20).unwrap().to_string(),
            "-150000000000000000000"
        );
        assert_eq!(Numeric::from_f32(0.1).unwrap().to_string(), "0.1");
        assert_eq!(Numeric::from_f64(1e-300).unwrap(), Numeric::ZERO);
        assert_eq!(Numeric::from_f64(1e300).unwrap_err().code().code(), "22003");
        assert_eq!(n("0.1").to_f64(), 0.1);
        assert_eq!(
            n("123456789012345678901234567890.5").to_f64(),
            123456789012345678901234567890.5
        );
    }

    #[test]
    fn arrow_decimals_round_trip_without_trailing_zeros() {
        for text in [
            "0",
            "1.50",
            "-99999999999999999999999999999999999999",
            "0.00000000000000000000000000000000000001",
        ] {
            let back = Numeric::from_decimal256(n(text).to_decimal256(), OPEN_SCALE).unwrap();
            assert_eq!(back, n(text));
            assert_eq!(back.to_string(), n(text).normalized().to_string());
        }
        let third = i256::from_string("3333333333333333333333333333333333333333").unwrap();
        assert_eq!(
            Numeric::from_decimal256(third, 38).unwrap().to_string(),
            "33.333333333333333333333333333333333333"
        );
        assert_eq!(
            Numeric::from_decimal256(i256::MAX, 0)
                .unwrap_err()
                .code()
                .code(),
            "22003"
        );
    }
}
