//! Templates of `to_char` for numbers: places for digits (`9`, `0`), point and groups (`.` `,` `D`
//! `G`), signs (`S` `MI` `PL` `SG` `PR`), `V`, `EEEE`, `RN`, `TH`, `L`, `FM`, quoted text. The locale is
//! "C": no currency symbol, a comma between groups.

use nodedb_types::numeric::Numeric;
use nodedb_types::{Failure, Result, SqlState, Value};

use super::template::ordinal_ending;
use super::{Argument, FLOAT8, Function, INT4, INT8, NUMERIC, TEXT, TEXT_TYPE, arguments, row};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Part<'t> {
    /// Blank when there is no digit.
    Nine,
    Zero,
    Point,
    Group,
    /// Minus, else plus, next to the digits.
    Sign,
    Minus,
    Plus,
    SignHere,
    Shift,
    Currency,
    Ordinal(bool),
    Text(&'t str),
}

#[derive(Default)]
struct Template<'t> {
    parts: Vec<Part<'t>>,
    is_bare: bool,
    is_bracketed: bool,
    exponent: bool,
    roman: Option<bool>,
    /// Places before the point, behind it, and behind a `V`.
    before: usize,
    behind: usize,
    shift: usize,
    /// Place of the first `0` before the point; of the last one behind it.
    first_zero: Option<usize>,
    last_zero: usize,
}

fn wrong(what: &str) -> Failure {
    Failure::new(SqlState::SyntaxError, what.to_owned())
}

fn parse(template: &str) -> Result<Template<'_>> {
    let mut t = Template::default();
    let (mut rest, mut seen_point, mut seen_shift) = (template, false, false);
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').unwrap_or(quoted.len());
            t.parts.push(Part::Text(&quoted[..end]));
            rest = quoted.get(end + 1..).unwrap_or("");
            continue;
        }
        let is = |word: &str| {
            rest.get(..word.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(word))
        };
        let (part, length) = match () {
            () if is("FM") => {
                t.is_bare = true;
                rest = &rest[2..];
                continue;
            }
            () if is("EEEE") => {
                t.exponent = true;
                rest = &rest[4..];
                continue;
            }
            () if is("RN") => {
                t.roman = Some(rest.starts_with('R'));
                rest = &rest[2..];
                continue;
            }
            () if is("PR") => {
                t.is_bracketed = true;
                rest = &rest[2..];
                continue;
            }
            () if is("MI") => (Part::Minus, 2),
            () if is("PL") => (Part::Plus, 2),
            () if is("SG") => (Part::SignHere, 2),
            () if is("TH") => (Part::Ordinal(rest.starts_with('T')), 2),
            () if is("S") => (Part::Sign, 1),
            () if is("L") => (Part::Currency, 1),
            () if is("V") => (Part::Shift, 1),
            () if is("D") || is(".") => (Part::Point, 1),
            () if is("G") || is(",") => (Part::Group, 1),
            () if is("9") => (Part::Nine, 1),
            () if is("0") => (Part::Zero, 1),
            () => {
                let length = rest.chars().next().map_or(1, char::len_utf8);
                (Part::Text(&rest[..length]), length)
            }
        };
        match part {
            Part::Nine | Part::Zero if seen_point => {
                t.behind += 1;
                if part == Part::Zero {
                    t.last_zero = t.behind;
                }
            }
            Part::Nine | Part::Zero => {
                t.before += 1;
                if seen_shift {
                    t.shift += 1;
                }
                if part == Part::Zero && t.first_zero.is_none() {
                    t.first_zero = Some(t.before);
                }
            }
            Part::Point if seen_point => return Err(wrong("multiple decimal points")),
            Part::Point if seen_shift => {
                return Err(wrong("cannot use \"V\" and decimal point together"));
            }
            Part::Point => seen_point = true,
            Part::Shift => seen_shift = true,
            _ => {}
        }
        t.parts.push(part);
        rest = &rest[length..];
    }
    let has = |wanted: &[Part<'_>]| t.parts.iter().any(|p| wanted.contains(p));
    let signs = [Part::Minus, Part::Plus, Part::SignHere];
    if has(&[Part::Sign]) && (has(&signs) || t.is_bracketed) {
        return Err(wrong(
            "cannot use \"S\" and \"PL\"/\"MI\"/\"SG\"/\"PR\" together",
        ));
    }
    Ok(t)
}

/// Digits before the point (without leading zeros) and behind it, rounded to so many places.
fn digits(number: Numeric, shift: usize, places: usize) -> Result<(String, String)> {
    let power = 10i128
        .checked_pow(shift as u32)
        .and_then(|p| Numeric::new(p, 0).ok());
    let overflow = || {
        Failure::new(
            SqlState::NumericOutOfRange,
            "value overflows numeric format",
        )
    };
    let shifted = match shift {
        0 => number,
        _ => number.checked_mul(power.ok_or_else(overflow)?)?,
    };
    let scale = usize::from(shifted.scale());
    let mut unscaled = shifted.unscaled().unsigned_abs();
    if scale > places {
        let cut = 10u128.pow((scale - places) as u32);
        let half = unscaled % cut >= cut / 2;
        unscaled = unscaled / cut + u128::from(half);
    }
    let kept = scale.min(places);
    let all = format!("{unscaled:0>width$}", width = kept + 1);
    let (whole, fraction) = all.split_at(all.len() - kept);
    let fraction = format!("{fraction:0<places$}");
    Ok((whole.trim_start_matches('0').to_owned(), fraction))
}

fn roman(number: Numeric, upper: bool, is_bare: bool) -> String {
    const STEPS: [(i128, &str); 13] = [
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    let mut n = number.round_to_integer();
    if !(1..=3999).contains(&n) {
        return "#".repeat(15);
    }
    let mut out = String::new();
    for (value, letters) in STEPS {
        while n >= value {
            out.push_str(letters);
            n -= value;
        }
    }
    if !upper {
        out = out.to_lowercase();
    }
    match is_bare {
        true => out,
        false => format!("{out:>15}"),
    }
}

fn scientific(number: Numeric, t: &Template<'_>) -> Result<String> {
    if t.parts
        .iter()
        .any(|p| !matches!(p, Part::Nine | Part::Zero | Part::Point | Part::Text(_)))
    {
        return Err(wrong("\"EEEE\" is incompatible with other formats"));
    }
    let text = number.unscaled().unsigned_abs().to_string();
    let mut exponent = text.len() as i32 - 1 - i32::from(number.scale());
    // The first digit and those behind the point, rounded.
    let wanted = t.behind + 1;
    let mut all = text.clone();
    if text.len() > wanted {
        let kept: u128 = text[..wanted].parse().unwrap_or(0);
        let up = text.as_bytes()[wanted] >= b'5';
        all = (kept + u128::from(up)).to_string();
        if all.len() > wanted {
            exponent += 1;
            all.pop();
        }
    }
    if number.unscaled() == 0 {
        exponent = 0;
    }
    let all = format!("{all:0<wanted$}");
    let (head, tail) = all.split_at(1);
    let sign = match (number.unscaled() < 0, t.is_bare) {
        (true, _) => "-",
        (false, true) => "",
        (false, false) => " ",
    };
    let point = if t.behind > 0 { "." } else { "" };
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    Ok(format!(
        "{sign}{head}{point}{tail}e{exponent_sign}{:02}",
        exponent.abs()
    ))
}

/// Prints digits, signs and separators in the places of a template.
struct Printer<'t> {
    template: &'t Template<'t>,
    whole: String,
    fraction: String,
    is_negative: bool,
    overflows: bool,
    out: String,
    /// A digit has been printed.
    started: bool,
}

impl Printer<'_> {
    /// The sign that stands before the first digit, if it has no place of its own.
    fn leading_sign(&self) -> &'static str {
        let t = self.template;
        let has = |p: Part<'_>| t.parts.contains(&p);
        if t.is_bracketed {
            return match (self.is_negative, t.is_bare) {
                (true, _) => "<",
                (false, true) => "",
                (false, false) => " ",
            };
        }
        if has(Part::Sign) {
            return match (self.sign_leads(), self.is_negative) {
                (false, _) => "",
                (true, true) => "-",
                (true, false) => "+",
            };
        }
        if has(Part::Minus) || has(Part::SignHere) {
            return "";
        }
        match (self.is_negative, t.is_bare) {
            (true, _) => "-",
            (false, true) => "",
            (false, false) => " ",
        }
    }

    /// `S` before the digits.
    fn sign_leads(&self) -> bool {
        let parts = &self.template.parts;
        let digit = |p: &Part<'_>| matches!(p, Part::Nine | Part::Zero | Part::Point);
        let sign = parts.iter().position(|p| *p == Part::Sign);
        sign < parts.iter().position(digit)
    }

    fn start(&mut self) {
        if !self.started {
            self.started = true;
            let sign = self.leading_sign();
            self.out.push_str(sign);
        }
    }

    /// Place `place` (from 1) of those before the point.
    fn whole_place(&mut self, place: usize) {
        let t = self.template;
        let from_end = t.before - place;
        let forced = t.first_zero.is_some_and(|first| place >= first)
            || (from_end == 0 && self.whole.is_empty() && t.behind == 0 && !self.has_point());
        if self.overflows {
            self.start();
            self.out.push('#');
        } else if from_end < self.whole.len() {
            self.start();
            let at = self.whole.len() - 1 - from_end;
            self.out.push_str(&self.whole[at..=at]);
        } else if forced {
            self.start();
            self.out.push('0');
        } else if !t.is_bare {
            self.out.push(' ');
        }
    }

    fn has_point(&self) -> bool {
        self.template.parts.contains(&Part::Point)
    }

    fn fraction_place(&mut self, place: usize) {
        let t = self.template;
        let significant = self.fraction.trim_end_matches('0').len().max(t.last_zero);
        if self.overflows {
            self.out.push('#');
        } else if !t.is_bare || place <= significant {
            let at = place - 1;
            self.out.push_str(&self.fraction[at..=at]);
        }
    }

    fn print(mut self) -> String {
        let t = self.template;
        let (mut whole, mut fraction, mut behind) = (0, 0, false);
        for part in &t.parts {
            match part {
                Part::Nine | Part::Zero if behind => {
                    fraction += 1;
                    self.fraction_place(fraction);
                }
                Part::Nine | Part::Zero => {
                    whole += 1;
                    self.whole_place(whole);
                }
                Part::Point => {
                    self.start();
                    self.out.push('.');
                    behind = true;
                }
                Part::Group if self.started => self.out.push(','),
                Part::Group if t.is_bare => {}
                Part::Group | Part::Currency => self.out.push(' '),
                Part::Sign if !self.sign_leads() => {
                    self.out.push(if self.is_negative { '-' } else { '+' });
                }
                Part::Sign | Part::Shift => {}
                Part::Minus => self.signed("-", ""),
                Part::Plus => self.signed("", "+"),
                Part::SignHere => self.out.push(if self.is_negative { '-' } else { '+' }),
                Part::Ordinal(upper) => {
                    let n = self.whole.parse::<i64>().unwrap_or(0);
                    let ending = ordinal_ending(n);
                    match (self.is_negative, upper) {
                        (true, _) => {}
                        (false, true) => self.out.push_str(&ending.to_uppercase()),
                        (false, false) => self.out.push_str(ending),
                    }
                }
                Part::Text(text) => self.out.push_str(text),
            }
        }
        if t.is_bracketed {
            match (self.is_negative, t.is_bare) {
                (true, _) => self.out.push('>'),
                (false, false) => self.out.push(' '),
                (false, true) => {}
            }
        }
        self.out
    }

    fn signed(&mut self, negative: &str, positive: &str) {
        let shown = if self.is_negative { negative } else { positive };
        match (shown.is_empty(), self.template.is_bare) {
            (true, false) => self.out.push(' '),
            (true, true) => {}
            (false, _) => self.out.push_str(shown),
        }
    }
}

fn to_char(number: Numeric, template: &str) -> Result<Value> {
    let t = parse(template)?;
    if let Some(upper) = t.roman {
        return Ok(Value::Text(roman(number, upper, t.is_bare)));
    }
    if t.exponent {
        return scientific(number, &t).map(Value::Text);
    }
    let (whole, fraction) = digits(number, t.shift, t.behind)?;
    let is_zero = whole.is_empty() && fraction.bytes().all(|b| b == b'0');
    let printer = Printer {
        overflows: whole.len() > t.before,
        is_negative: number.unscaled() < 0 && !is_zero,
        template: &t,
        whole,
        fraction,
        out: String::new(),
        started: false,
    };
    Ok(Value::Text(printer.print()))
}

fn of_float(number: f64) -> Result<Numeric> {
    match number.is_finite() {
        true => Numeric::from_f64(number),
        false => Err(Failure::unsupported("to_char of NaN or infinity")),
    }
}

const fn line(argument: &'static [Argument], kernel: fn(&[Value]) -> Result<Value>) -> Function {
    row(
        "to_char",
        argument,
        TEXT_TYPE,
        kernel,
        "a number printed by a template",
    )
}

pub(super) static FUNCTIONS: &[Function] = &[
    line(
        &[INT4, TEXT],
        |v| arguments!(v, Value::Int4(n), Value::Text(p) => to_char(Numeric::from_i64(i64::from(*n)), p)),
    ),
    line(
        &[INT8, TEXT],
        |v| arguments!(v, Value::Int8(n), Value::Text(p) => to_char(Numeric::from_i64(*n), p)),
    ),
    line(
        &[NUMERIC, TEXT],
        |v| arguments!(v, Value::Numeric(n), Value::Text(p) => to_char(*n, p)),
    ),
    line(
        &[FLOAT8, TEXT],
        |v| arguments!(v, Value::Float8(n), Value::Text(p) => to_char(of_float(*n)?, p)),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(number: &str, template: &str) -> String {
        match to_char(Numeric::parse(number).unwrap(), template) {
            Ok(Value::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_print_as_postgresql_prints_them() {
        for (number, template, expected) in [
            ("485", "999", " 485"),
            ("-485", "999", "-485"),
            ("485", "09999", " 00485"),
            ("1485", "9,999", " 1,485"),
            ("148.5", "999.999", " 148.500"),
            ("148.5", "FM999.999", "148.5"),
            ("148.5", "FM999.990", "148.500"),
            ("3148.5", "9G999D999", " 3,148.500"),
            ("-485", "999S", "485-"),
            ("-485", "999MI", "485-"),
            ("485", "999MI", "485 "),
            ("485", "FM999MI", "485"),
            ("485", "PL999", "+ 485"),
            ("485", "SG999", "+485"),
            ("-485", "9SG99", "4-85"),
            ("-485", "999PR", "<485>"),
            ("485", "RN", "        CDLXXXV"),
            ("5.2", "FMRN", "V"),
            ("482", "999th", " 482nd"),
            ("12", "99V999", " 12000"),
            ("12.45", "99V9", " 125"),
            ("0.0004859", "9.99EEEE", " 4.86e-04"),
            ("0.1", "0.9", " 0.1"),
            ("-0.1", "99.99", "  -.10"),
            ("-0.1", "FM9.99", "-.1"),
            ("12", "9990999.9", "    0012.0"),
            ("12", "FM9990999.9", "0012."),
            ("123456", "999", " ###"),
            ("0", "999", "   0"),
            ("0", "FM999", "0"),
            ("0.5", "FM999.99", ".5"),
            ("1234567.891", "FM9,999,999.00", "1,234,567.89"),
            ("485.8", "\"Pre:\"999\" Post:\" .999", "Pre: 485 Post: .800"),
        ] {
            assert_eq!(shown(number, template), expected, "{number} by {template}");
        }
    }
}
