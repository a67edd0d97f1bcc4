//! Coordinates as PostGIS writes them: the shortest digits that read back the same, rounded to a
//! number of decimals; with an exponent below 1e-8 and from 1e15 on.

use std::fmt::Write;

/// Appends `x` with at most `decimals` digits after the point.
pub(super) fn push(x: f64, decimals: usize, out: &mut String) {
    let size = x.abs();
    if size == 0.0 {
        out.push_str(if x.is_sign_negative() { "-0" } else { "0" });
    } else if size <= 1e-8 || size >= 1e15 {
        push_with_exponent(x, decimals, out);
    } else {
        let start = out.len();
        write!(out, "{x}").expect("a String takes every write");
        round(out, start, decimals);
    }
}

fn push_with_exponent(x: f64, decimals: usize, out: &mut String) {
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').expect("`{:e}` writes an exponent");
    let mut exponent: i32 = exponent.parse().expect("`{:e}` writes an integer exponent");
    let start = out.len();
    out.push_str(digits);
    round(out, start, decimals);
    // 9.99… may have become 10.
    let first = start + usize::from(x.is_sign_negative());
    if &out[first..] == "10" {
        out.pop();
        exponent += 1;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    write!(out, "e{sign}{}", exponent.abs()).expect("a String takes every write");
}

/// Rounds the decimal number at `out[start..]` half to even and drops trailing zeros.
fn round(out: &mut String, start: usize, decimals: usize) {
    let Some(point) = out[start..].find('.').map(|at| start + at) else {
        return;
    };
    let end = point + 1 + decimals;
    if out.len() > end {
        let dropped = &out.as_bytes()[end..];
        let odd = out.as_bytes()[..end]
            .iter()
            .rev()
            .find(|b| b.is_ascii_digit())
            .is_some_and(|digit| digit % 2 == 1);
        let up = dropped[0] > b'5' || dropped[0] == b'5' && (dropped.len() > 1 || odd);
        out.truncate(end);
        if up {
            increment(out, start);
        }
    }
    while out.ends_with('0') {
        out.pop();
    }
    if out.ends_with('.') {
        out.pop();
    }
}

/// Adds one unit in the last place of the decimal number at `out[start..]`.
fn increment(out: &mut String, start: usize) {
    let tail = out.split_off(start);
    let mut digits = tail.into_bytes();
    let first = usize::from(digits[0] == b'-');
    for at in (first..digits.len()).rev() {
        match digits[at] {
            b'.' => {}
            b'9' => digits[at] = b'0',
            _ => {
                digits[at] += 1;
                out.extend(digits.iter().map(|&b| char::from(b)));
                return;
            }
        }
    }
    digits.insert(first, b'1');
    out.extend(digits.iter().map(|&b| char::from(b)));
}

#[cfg(test)]
mod tests {
    fn text(x: f64, decimals: usize) -> String {
        let mut out = String::from(",");
        super::push(x, decimals, &mut out);
        out.split_off(1)
    }

    #[test]
    fn numbers_are_short_and_rounded() {
        for (x, decimals, want) in [
            (13.4, 15, "13.4"),
            (-0.0, 15, "-0"),
            (52.0, 15, "52"),
            (1.0 / 3.0, 15, "0.333333333333333"),
            (2.0 / 3.0, 15, "0.666666666666667"),
            (0.1 + 0.2, 15, "0.3"),
            (13.404953999999999, 9, "13.404954"),
            (-13.404_953_123_45, 9, "-13.404953123"),
            (0.999_999_999_9, 9, "1"),
            (-99.999_999_999_9, 9, "-100"),
            (0.125, 2, "0.12"),
            (0.375, 2, "0.38"),
            (2.5, 0, "2"),
            (3.5, 0, "4"),
            (1e15, 15, "1e+15"),
            (123_456_789_012_345.0, 15, "123456789012345"),
            (-1.5e-9, 15, "-1.5e-9"),
            (9.999_999_999_9e20, 9, "1e+21"),
            (1e300, 9, "1e+300"),
        ] {
            assert_eq!(text(x, decimals), want, "{x:?} {decimals}");
        }
    }
}
