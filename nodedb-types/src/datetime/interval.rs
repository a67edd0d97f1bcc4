//! Intervals: three parts that do not convert into one another by themselves.
//!
//! Equality and order take a month as 30 days and a day as 24 hours, as PostgreSQL does, so
//! `1 mon` equals `30 days` though they print differently.

use std::cmp::Ordering;
use std::fmt::Write;
use std::hash::{Hash, Hasher};

use super::calendar::DAY_US;
use super::input::micros_of_fraction;
use super::invalid;
use crate::failure::{Failure, Result};
use crate::sqlstate::SqlState;

const MONTH_DAYS: i64 = 30;

/// A span of time. Compared by its length with 30-day months.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interval {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

impl Interval {
    /// Length in microseconds with 30-day months and 24-hour days; what comparisons use.
    pub fn span(self) -> i128 {
        let days = i128::from(self.months) * i128::from(MONTH_DAYS) + i128::from(self.days);
        days * i128::from(DAY_US) + i128::from(self.micros)
    }

    /// The interval of a length in its largest units. Inverse of [`Interval::span`] up to
    /// equality; None for a length that no interval has.
    pub fn of_span(span: i128) -> Option<Interval> {
        let part = |rest: i128, unit: i128| {
            (rest / unit).clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as i32
        };
        let day = i128::from(DAY_US);
        let month = day * i128::from(MONTH_DAYS);
        let months = part(span, month);
        let rest = span - i128::from(months) * month;
        let days = part(rest, day);
        let micros = i64::try_from(rest - i128::from(days) * day).ok()?;
        Some(Interval {
            months,
            days,
            micros,
        })
    }
}

impl PartialEq for Interval {
    fn eq(&self, other: &Interval) -> bool {
        self.span() == other.span()
    }
}

impl Eq for Interval {}

impl PartialOrd for Interval {
    fn partial_cmp(&self, other: &Interval) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Interval {
    fn cmp(&self, other: &Interval) -> Ordering {
        self.span().cmp(&other.span())
    }
}

impl Hash for Interval {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.span().hash(state);
    }
}

/// Appends PostgreSQL's style: `1 year 2 mons -3 days +04:05:06.7`, `00:00:00` for nothing.
pub fn format_interval(interval: Interval, out: &mut String) {
    let start = out.len();
    let mut negative_before = false;
    let (months, days) = (i64::from(interval.months), i64::from(interval.days));
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value == 0 {
            continue;
        }
        let blank = if out.len() > start { " " } else { "" };
        let plus = if negative_before && value > 0 {
            "+"
        } else {
            ""
        };
        let plural = if value == 1 { "" } else { "s" };
        write!(out, "{blank}{plus}{value} {unit}{plural}").expect("a string takes all");
        negative_before = value < 0;
    }
    if out.len() > start && interval.micros == 0 {
        return;
    }
    if out.len() > start {
        out.push(' ');
    }
    if interval.micros < 0 {
        out.push('-');
    } else if negative_before {
        out.push('+');
    }
    super::write_time(interval.micros.unsigned_abs(), out);
}

fn overflow(text: &str) -> Failure {
    let message = format!("interval field value out of range: \"{text}\"");
    Failure::new(SqlState::IntervalFieldOverflow, message)
}

/// What a unit adds to: months, days or microseconds, and how many of them it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Months(i64),
    Days(i64),
    Micros(i64),
}

const MICROSECOND: Unit = Unit::Micros(1);
const MILLISECOND: Unit = Unit::Micros(1_000);
const SECOND: Unit = Unit::Micros(1_000_000);
const MINUTE: Unit = Unit::Micros(60_000_000);
const HOUR: Unit = Unit::Micros(3_600_000_000);
const DAY: Unit = Unit::Days(1);
const MONTH: Unit = Unit::Months(1);
const YEAR: Unit = Unit::Months(12);

fn unit_of(word: &str) -> Option<Unit> {
    Some(match word.to_ascii_lowercase().as_str() {
        "us" | "usec" | "usecs" | "usecond" | "useconds" | "microsecond" | "microseconds"
        | "microsecon" => MICROSECOND,
        "ms" | "msec" | "msecs" | "msecond" | "mseconds" | "millisecond" | "milliseconds"
        | "millisecon" => MILLISECOND,
        "s" | "sec" | "secs" | "second" | "seconds" => SECOND,
        "m" | "min" | "mins" | "minute" | "minutes" => MINUTE,
        "h" | "hr" | "hrs" | "hour" | "hours" => HOUR,
        "d" | "day" | "days" => DAY,
        "w" | "week" | "weeks" => Unit::Days(7),
        "mon" | "mons" | "month" | "months" => MONTH,
        "y" | "yr" | "yrs" | "year" | "years" => YEAR,
        "dec" | "decs" | "decade" | "decades" => Unit::Months(120),
        "c" | "cent" | "century" | "centuries" => Unit::Months(1_200),
        "mil" | "mils" | "millennium" | "millennia" => Unit::Months(12_000),
        _ => return None,
    })
}

/// A decimal: its whole part and the fraction in [0, 1), both with the sign of the text.
#[derive(Clone, Copy)]
struct Decimal {
    whole: i128,
    fraction: f64,
}

/// The sum so far, wide enough that only the end needs a check.
#[derive(Default)]
struct Sum {
    months: i128,
    days: i128,
    micros: i128,
}

impl Sum {
    /// Adds `value` units. A fraction of a unit goes down to the smaller ones: a year's to whole
    /// months, a month's to days and time, a day's to time.
    fn add(&mut self, value: Decimal, unit: Unit) {
        let whole = value.whole;
        match unit {
            Unit::Months(months) => {
                self.months += whole * i128::from(months);
                let fraction = value.fraction * months as f64;
                if months == 1 {
                    self.add_days(fraction * MONTH_DAYS as f64);
                } else {
                    self.months += fraction.round_ties_even() as i128;
                }
            }
            Unit::Days(days) => {
                self.days += whole * i128::from(days);
                self.add_days(value.fraction * days as f64);
            }
            Unit::Micros(micros) => {
                self.micros += whole * i128::from(micros);
                self.micros += (value.fraction * micros as f64).round_ties_even() as i128;
            }
        }
    }

    fn add_days(&mut self, days: f64) {
        self.days += days.trunc() as i128;
        self.micros += (days.fract() * DAY_US as f64).round_ties_even() as i128;
    }

    fn negate(&mut self) {
        (self.months, self.days, self.micros) = (-self.months, -self.days, -self.micros);
    }

    fn finish(&self) -> Option<Interval> {
        Some(Interval {
            months: i32::try_from(self.months).ok()?,
            days: i32::try_from(self.days).ok()?,
            micros: i64::try_from(self.micros).ok()?,
        })
    }
}

/// Reads `1 year 2 mons 3 days 04:05:06`, `1-2 3 4:05:06`, `P1Y2M3DT4H5M6S` and `… ago`.
/// 22007 for other text, 22008 for what an interval cannot hold.
pub fn parse_interval(text: &str) -> Result<Interval> {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
    if matches!(
        trimmed.to_ascii_lowercase().as_str(),
        "infinity" | "-infinity" | "inf" | "-inf"
    ) {
        return Err(Failure::unsupported(format_args!(
            "\"{trimmed}\" as a value of type interval"
        )));
    }
    let sum = match trimmed.strip_prefix(['P', 'p']) {
        Some(designators) => iso_8601(designators, text)?,
        None => verbose(trimmed, text)?,
    };
    sum.finish().ok_or_else(|| overflow(text))
}

struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.rest.bytes().next()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(end);
        self.rest = rest;
        run
    }

    fn blanks(&mut self) {
        self.take_while(|c| c.is_ascii_whitespace());
    }

    fn sign(&mut self) -> Option<i64> {
        match self.peek() {
            Some(b'-') => {
                self.rest = &self.rest[1..];
                Some(-1)
            }
            Some(b'+') => {
                self.rest = &self.rest[1..];
                Some(1)
            }
            _ => None,
        }
    }

    fn digits(&mut self) -> &'a str {
        self.take_while(|c| c.is_ascii_digit())
    }
}

fn integer(digits: &str, text: &str) -> Result<i64> {
    if digits.is_empty() {
        return Err(invalid("interval", text));
    }
    digits.parse().map_err(|_| overflow(text))
}

/// Digits, then perhaps a point and more digits, multiplied by the sign.
fn decimal(scan: &mut Scan, sign: i64, text: &str) -> Result<Decimal> {
    let whole = scan.digits();
    let mut fraction = "";
    if scan.take(b'.') {
        fraction = scan.digits();
    }
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid("interval", text));
    }
    // One beyond i64, since the smallest number has no positive twin.
    let whole = format!("0{whole}").parse::<i128>();
    let whole = whole
        .ok()
        .filter(|whole| *whole <= 1 << 63)
        .ok_or_else(|| overflow(text))?;
    let fraction: f64 = format!("0.{fraction}0")
        .parse()
        .expect("digits after a point");
    Ok(Decimal {
        whole: i128::from(sign) * whole,
        fraction: sign as f64 * fraction,
    })
}

/// The rest of `H:MM[:SS[.fraction]]` in microseconds, hours given and the colon next.
fn clock(scan: &mut Scan, hours: i128, text: &str) -> Result<i128> {
    scan.take(b':');
    let minutes = integer(scan.digits(), text)?;
    let (mut seconds, mut fraction) = (0, 0);
    if scan.take(b':') {
        seconds = integer(scan.digits(), text)?;
        if scan.take(b'.') {
            fraction = micros_of_fraction(scan.digits());
        }
    } else if scan.take(b'.') {
        // `MM:SS.fraction`: with a fraction the last number is seconds.
        fraction = micros_of_fraction(scan.digits());
        let first = i64::try_from(hours).map_err(|_| overflow(text))?;
        return in_clock(0, first, minutes, fraction, text);
    }
    in_clock(hours, minutes, seconds, fraction, text)
}

fn in_clock(hours: i128, minutes: i64, seconds: i64, fraction: i64, text: &str) -> Result<i128> {
    if minutes > 59 || seconds > 60 {
        return Err(overflow(text));
    }
    let seconds = hours * 3600 + i128::from(minutes * 60 + seconds);
    Ok(seconds * 1_000_000 + i128::from(fraction))
}

/// The units that a text has named; each may come once.
#[derive(Default)]
struct Named(Vec<Unit>);

impl Named {
    fn once(&mut self, units: &[Unit], text: &str) -> Result<()> {
        if units.iter().any(|unit| self.0.contains(unit)) {
            return Err(invalid("interval", text));
        }
        self.0.extend(units);
        Ok(())
    }

    /// One number with its unit. Seconds with a fraction leave no room for parts of a second.
    fn unit(&mut self, unit: Unit, value: Decimal, text: &str) -> Result<()> {
        if unit == SECOND && value.fraction != 0.0 {
            return self.once(&[SECOND, MILLISECOND, MICROSECOND], text);
        }
        self.once(&[unit], text)
    }

    fn clock(&mut self, text: &str) -> Result<()> {
        self.once(&[HOUR, MINUTE, SECOND, MILLISECOND, MICROSECOND], text)
    }
}

/// Numbers with units, `year-month`, a clock, a number without unit (days before a clock,
/// otherwise seconds), and `ago` at the end.
fn verbose(trimmed: &str, text: &str) -> Result<Sum> {
    let fail = || invalid("interval", text);
    let mut scan = Scan { rest: trimmed };
    let mut sum = Sum::default();
    let mut named = Named::default();
    scan.take(b'@');
    loop {
        scan.blanks();
        if scan.rest.is_empty() {
            break;
        }
        if matches!(scan.peek(), Some(b'a' | b'A')) {
            let word = scan.take_while(|c| c.is_ascii_alphabetic());
            scan.blanks();
            if !word.eq_ignore_ascii_case("ago") || !scan.rest.is_empty() || named.0.is_empty() {
                return Err(fail());
            }
            sum.negate();
            break;
        }
        let sign = scan.sign().unwrap_or(1);
        scan.blanks();
        let value = decimal(&mut scan, sign, text)?;
        match scan.peek() {
            Some(b':') => {
                if value.fraction != 0.0 {
                    return Err(fail());
                }
                named.clock(text)?;
                sum.micros += clock(&mut scan, value.whole.abs(), text)? * i128::from(sign);
                continue;
            }
            Some(b'-')
                if value.fraction == 0.0
                    && scan.rest[1..].starts_with(|c: char| c.is_ascii_digit()) =>
            {
                scan.take(b'-');
                let months = integer(scan.digits(), text)?;
                if months > 11 {
                    return Err(overflow(text));
                }
                named.once(&[YEAR, MONTH], text)?;
                sum.add(value, YEAR);
                sum.months += i128::from(sign * months);
                continue;
            }
            _ => {}
        }
        scan.blanks();
        let word = match scan.peek() {
            Some(b) if b.is_ascii_alphabetic() && !is_ago(scan.rest) => {
                scan.take_while(|c| c.is_ascii_alphabetic())
            }
            _ => "",
        };
        let unit = match word {
            "" if clock_follows(scan.rest) => DAY,
            "" if scan.rest.is_empty() || is_ago(scan.rest) => SECOND,
            word => unit_of(word).ok_or_else(fail)?,
        };
        named.unit(unit, value, text)?;
        sum.add(value, unit);
    }
    if named.0.is_empty() {
        Err(fail())
    } else {
        Ok(sum)
    }
}

fn is_ago(rest: &str) -> bool {
    rest.len() >= 3 && rest.as_bytes()[..3].eq_ignore_ascii_case(b"ago")
}

fn clock_follows(rest: &str) -> bool {
    let unsigned = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    let after = unsigned.trim_start_matches(|c: char| c.is_ascii_digit());
    after.len() < unsigned.len() && after.starts_with(':')
}

/// Designators after the `P`: `1Y2M3W4DT5H6M7.8S`, or the form `0001-02-03T04:05:06`.
fn iso_8601(designators: &str, text: &str) -> Result<Sum> {
    let fail = || invalid("interval", text);
    let mut scan = Scan { rest: designators };
    let mut sum = Sum::default();
    let (mut in_time, mut fields) = (false, 0);
    while !scan.rest.is_empty() {
        if !in_time && (scan.take(b'T') || scan.take(b't')) {
            in_time = true;
            continue;
        }
        fields += 1;
        let sign = if scan.take(b'-') { -1 } else { 1 };
        let value = decimal(&mut scan, sign, text)?;
        match (scan.peek().map(|b| b.to_ascii_uppercase()), in_time) {
            (Some(b'-'), false) if fields == 1 => {
                scan.take(b'-');
                sum.add(value, YEAR);
                sum.months += i128::from(sign * integer(scan.digits(), text)?);
                if scan.take(b'-') {
                    sum.days += i128::from(sign * integer(scan.digits(), text)?);
                }
                continue;
            }
            (Some(b':'), true) => {
                sum.micros += clock(&mut scan, value.whole.abs(), text)? * i128::from(sign);
                continue;
            }
            (Some(b'Y'), false) => sum.add(value, YEAR),
            (Some(b'M'), false) => sum.add(value, MONTH),
            (Some(b'W'), false) => sum.add(value, Unit::Days(7)),
            (Some(b'D'), false) => sum.add(value, DAY),
            (Some(b'H'), true) => sum.add(value, HOUR),
            (Some(b'M'), true) => sum.add(value, MINUTE),
            (Some(b'S'), true) => sum.add(value, SECOND),
            _ => return Err(fail()),
        }
        scan.rest = &scan.rest[1..];
    }
    if designators.is_empty() {
        Err(fail())
    } else {
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        let mut out = String::new();
        format_interval(
            parse_interval(text).unwrap_or_else(|e| panic!("{text}: {e}")),
            &mut out,
        );
        out
    }

    #[test]
    fn text_as_postgresql_prints_it() {
        for (input, output) in [
            ("1 day 02:03:04", "1 day 02:03:04"),
            ("1 year 2 mons", "1 year 2 mons"),
            ("1y2mon", "1 year 2 mons"),
            ("14 months", "1 year 2 mons"),
            ("-14 months 3 days", "-1 years -2 mons +3 days"),
            ("@ 1 day ago", "-1 days"),
            ("1 hour -30 minutes", "00:30:00"),
            ("-1 day 04:00", "-1 days +04:00:00"),
            ("-04:05:06.7", "-04:05:06.7"),
            ("0", "00:00:00"),
            ("90", "00:01:30"),
            ("1 12:00:00", "1 day 12:00:00"),
            ("1-2", "1 year 2 mons"),
            ("-1-2", "-1 years -2 mons"),
            ("1.5 days", "1 day 12:00:00"),
            ("1.5 months", "1 mon 15 days"),
            ("0.5 years", "6 mons"),
            ("2 weeks", "14 days"),
            ("100 hours", "100:00:00"),
            ("2 seconds 250 ms", "00:00:02.25"),
            ("PT", "00:00:00"),
            ("-9223372036854775808 us", "-2562047788:00:54.775808"),
            ("P1Y2M3DT4H5M6.5S", "1 year 2 mons 3 days 04:05:06.5"),
            ("P2W", "14 days"),
            ("PT-1H", "-01:00:00"),
            ("P0001-02-03T04:05:06", "1 year 2 mons 3 days 04:05:06"),
        ] {
            assert_eq!(show(input), output, "{input}");
        }
    }

    #[test]
    fn refusals_have_their_codes() {
        for (text, code) in [
            ("", "22007"),
            ("foo", "22007"),
            ("1 foo", "22007"),
            ("P", "22007"),
            ("1 day ago 2", "22007"),
            ("ago", "22007"),
            ("1 2 3", "22007"),
            ("1 day 2 days", "22007"),
            ("1:00 2 hours", "22007"),
            ("1.5 s 3 ms", "22007"),
            ("PT+1H", "22007"),
            ("10:99:00", "22015"),
            ("99999999999 years", "22015"),
            ("99999999999999999999 days", "22015"),
            ("infinity", "0A000"),
        ] {
            assert_eq!(
                parse_interval(text).unwrap_err().code().code(),
                code,
                "{text}"
            );
        }
    }

    #[test]
    fn months_compare_as_thirty_days() {
        assert_eq!(
            parse_interval("1 mon").unwrap(),
            parse_interval("30 days").unwrap()
        );
        assert!(parse_interval("1 mon").unwrap() < parse_interval("31 days").unwrap());
        for (months, days, micros) in [
            (i32::MAX, i32::MAX, i64::MAX),
            (i32::MIN, i32::MIN, i64::MIN),
            (1, -45, 7),
            (0, 0, 0),
        ] {
            let interval = Interval {
                months,
                days,
                micros,
            };
            assert_eq!(Interval::of_span(interval.span()), Some(interval));
        }
        assert_eq!(Interval::of_span(i128::MAX), None);
    }
}
