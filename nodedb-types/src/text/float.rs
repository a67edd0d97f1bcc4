//! Floating-point text: PostgreSQL's spelling of the shortest digits that read back the same.

mod shortest;

use crate::failure::{Failure, Result};
use crate::sqlstate::SqlState;

/// Appends the shortest text of a double; exponents outside -4 to 14 are written as `1e+15`.
pub fn format_float8(value: f64, out: &mut String) {
    match special(value) {
        Some(word) => out.push_str(word),
        None => push_shortest(&shortest::float8(value), 15, out),
    }
}

/// Appends the shortest text of a single; exponents outside -4 to 5 are written as `1e+06`.
pub fn format_float4(value: f32, out: &mut String) {
    match special(f64::from(value)) {
        Some(word) => out.push_str(word),
        None => push_shortest(&shortest::float4(value), 6, out),
    }
}

fn special(value: f64) -> Option<&'static str> {
    match value {
        v if v.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

/// Rewrites `d.ddde-x` as PostgreSQL lays it out: plain for exponents from -4 up to `digits`,
/// else with a sign and at least two digits of exponent.
fn push_shortest(scientific: &str, digits: i32, out: &mut String) {
    let (mantissa, exponent) = scientific
        .split_once('e')
        .expect("the e format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is an integer");
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    out.push_str(sign);
    if !(-4..digits).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        out.push_str(mantissa);
        out.push_str(&format!("e{sign}{:02}", exponent.abs()));
        return;
    }
    let (first, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if exponent < 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n(
            '0',
            exponent.unsigned_abs() as usize - 1,
        ));
        out.push_str(first);
        out.push_str(rest);
        return;
    }
    let whole = exponent as usize;
    out.push_str(first);
    if rest.len() > whole {
        let (before, after) = rest.split_at(whole);
        out.push_str(before);
        out.push('.');
        out.push_str(after);
    } else {
        out.push_str(rest);
        out.extend(std::iter::repeat_n('0', whole - rest.len()));
    }
}

pub(super) fn parse_float8(text: &str) -> Result<f64> {
    let value: f64 = checked(text, "double precision")?;
    check_range(text, "double precision", value.is_infinite(), value == 0.0)?;
    Ok(value)
}

pub(super) fn parse_float4(text: &str) -> Result<f32> {
    let value: f32 = checked(text, "real")?;
    check_range(text, "real", value.is_infinite(), value == 0.0)?;
    Ok(value)
}

fn checked<T: std::str::FromStr>(text: &str, name: &str) -> Result<T> {
    super::trim(text)
        .parse()
        .map_err(|_| super::invalid(name, text))
}

/// Digits that ended as infinity or zero were out of range; words and zeros were meant.
fn check_range(text: &str, name: &str, infinite: bool, zero: bool) -> Result<()> {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let overflow = infinite && text.bytes().any(|b| b.is_ascii_digit());
    let underflow = zero && mantissa.bytes().any(|b| matches!(b, b'1'..=b'9'));
    if overflow || underflow {
        return Err(Failure::new(
            SqlState::NumericOutOfRange,
            format!("\"{}\" is out of range for type {name}", super::trim(text)),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(value: f64) -> String {
        let mut out = String::new();
        format_float8(value, &mut out);
        out
    }

    fn single(value: f32) -> String {
        let mut out = String::new();
        format_float4(value, &mut out);
        out
    }

    #[test]
    fn doubles_as_postgresql_prints_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (-1.5, "-1.5"),
            (123456.789, "123456.789"),
            (100000000000000.0, "100000000000000"),
            (1e15, "1e+15"),
            (1e20, "1e+20"),
            (1.2345678901234568e17, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e300, "1e+300"),
            (5e-324, "5e-324"),
            // Halfway between two texts of equal length the even digit is taken.
            (3187479471359489.0 / 4.0, "796869867839872.2"),
            // Halfway to the next double PostgreSQL does not rely on how a reader rounds.
            (-784864275303e6, "-7.848642753030001e+17"),
            (4.00754260732089e16, "4.0075426073208896e+16"),
            (0.1 + 0.2, "0.30000000000000004"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn singles_turn_to_exponents_earlier() {
        for (value, text) in [
            (100000.0, "100000"),
            (1000000.0, "1e+06"),
            (0.1, "0.1"),
            (16777216.0, "1.6777216e+07"),
            (3.4e38, "3.4e+38"),
            (15941557.0 / 4.0, "3.9853892e+06"),
            (1.0 / 4096.0, "0.00024414062"),
            (2f32.powi(90), "1.2379401e+27"),
            (3e10, "3.0000001e+10"),
        ] {
            assert_eq!(single(value), text);
        }
    }

    #[test]
    fn input_knows_words_and_range() {
        assert_eq!(parse_float8(" 1e5 ").unwrap(), 1e5);
        assert_eq!(parse_float8("-.5").unwrap(), -0.5);
        assert_eq!(parse_float8("5.").unwrap(), 5.0);
        assert!(parse_float8("nan").unwrap().is_nan());
        assert_eq!(parse_float8("-Infinity").unwrap(), f64::NEG_INFINITY);
        assert_eq!(parse_float8("0e400").unwrap(), 0.0);
        for text in ["1e400", "-1e400", "1e-400"] {
            assert_eq!(
                parse_float8(text).unwrap_err().to_string(),
                format!("\"{text}\" is out of range for type double precision (22003)")
            );
        }
        assert_eq!(parse_float4("1e39").unwrap_err().code().code(), "22003");
        for text in ["", "x", "1 2", "1e", "--1"] {
            assert_eq!(
                parse_float4(text).unwrap_err().code().code(),
                "22P02",
                "{text}"
            );
        }
    }
}
