//! Dates, times and intervals: text in and out as PostgreSQL 15 does with DateStyle `ISO, MDY`,
//! IntervalStyle `postgres` and TimeZone `UTC`.
//!
//! A date counts days, a timestamp microseconds since 1970-01-01; an [`Interval`] keeps months,
//! days and microseconds apart, because a month has no fixed length. `input.rs` reads dates and
//! timestamps, `interval.rs` has intervals, [`calendar`] the arithmetic of days.
//!
//! Where this differs from PostgreSQL:
//! * `infinity` is refused with 0A000 everywhere (Arrow has no such timestamps), and so are words
//!   that ask the clock (`now`, `today`, …): nothing in this crate reads a clock.
//! * Zones are offsets or names of UTC; other names are 0A000, the hint asks for the offset.
//! * The epoch is 1970, so timestamps end in the year 294247 instead of 294276.

pub mod calendar;
mod input;
mod interval;

use std::fmt::Write;

pub use calendar::{DAY_US, civil_from_days, days_from_civil, days_in_month};
pub use input::{parse_date, parse_timestamp, parse_timestamptz};
pub use interval::{Interval, format_interval, parse_interval};

use crate::failure::{Failure, Result};
use crate::sqlstate::SqlState;

/// First day of the calendar that is accepted: 4714-11-24 BC, Julian day 0.
pub const DATE_MIN: i32 = -2_440_588;
/// Last day accepted: 5874897-12-31.
pub const DATE_MAX: i32 = 2_145_042_905;
/// First microsecond of [`DATE_MIN`].
pub const TIMESTAMP_MIN: i64 = DATE_MIN as i64 * DAY_US;
/// Last microsecond accepted.
pub const TIMESTAMP_MAX: i64 = i64::MAX;

fn invalid(kind: &str, text: &str) -> Failure {
    Failure::new(
        SqlState::DatetimeFormat,
        format!("invalid input syntax for type {kind}: \"{text}\""),
    )
}

fn field_overflow(text: &str) -> Failure {
    Failure::new(
        SqlState::DatetimeOverflow,
        format!("date/time field value out of range: \"{text}\""),
    )
}

/// 22008 outside the years that PostgreSQL knows.
pub fn check_timestamp(micros: i64) -> Result<i64> {
    if micros < TIMESTAMP_MIN {
        return Err(Failure::new(
            SqlState::DatetimeOverflow,
            "timestamp out of range",
        ));
    }
    Ok(micros)
}

/// Midnight of a date; 22008 where the timestamp type ends before the date type does.
pub fn timestamp_of_date(days: i32) -> Result<i64> {
    i64::from(days)
        .checked_mul(DAY_US)
        .filter(|us| *us >= TIMESTAMP_MIN)
        .ok_or_else(|| {
            Failure::new(
                SqlState::DatetimeOverflow,
                "date out of range for timestamp",
            )
        })
}

/// The date on which a timestamp lies.
pub fn date_of_timestamp(micros: i64) -> i32 {
    i32::try_from(micros.div_euclid(DAY_US)).expect("i64 microseconds are fewer than i32 days")
}

fn write_date(days: i64, out: &mut String) -> bool {
    let (year, month, day) = civil_from_days(days);
    let before_christ = year <= 0;
    let shown = if before_christ { 1 - year } else { year };
    write!(out, "{shown:04}-{month:02}-{day:02}").expect("a string takes all");
    before_christ
}

/// `HH:MM:SS[.ffffff]` without trailing zeros; `micros` is not negative.
fn write_time(micros: u64, out: &mut String) {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    write!(out, "{hours:02}:{minutes:02}:{:02}", seconds % 60).expect("a string takes all");
    if fraction != 0 {
        let digits = format!(".{fraction:06}");
        out.push_str(digits.trim_end_matches('0'));
    }
}

/// Appends `YYYY-MM-DD`, with ` BC` before the year 1.
pub fn format_date(days: i32, out: &mut String) {
    if write_date(i64::from(days), out) {
        out.push_str(" BC");
    }
}

/// Appends `YYYY-MM-DD HH:MM:SS[.ffffff]`.
pub fn format_timestamp(micros: i64, out: &mut String) {
    write_timestamp(micros, "", out);
}

/// Appends the timestamp in UTC: `YYYY-MM-DD HH:MM:SS[.ffffff]+00`.
pub fn format_timestamptz(micros: i64, out: &mut String) {
    write_timestamp(micros, "+00", out);
}

fn write_timestamp(micros: i64, zone: &str, out: &mut String) {
    let before_christ = write_date(micros.div_euclid(DAY_US), out);
    out.push(' ');
    write_time(micros.rem_euclid(DAY_US) as u64, out);
    out.push_str(zone);
    if before_christ {
        out.push_str(" BC");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_calendars() {
        assert_eq!(days_from_civil(-4713, 11, 24), i64::from(DATE_MIN));
        assert_eq!(days_from_civil(5_874_897, 12, 31), i64::from(DATE_MAX));
    }

    #[test]
    fn output_has_no_needless_digits() {
        let show = |us| {
            let mut out = String::new();
            format_timestamptz(us, &mut out);
            out
        };
        assert_eq!(show(0), "1970-01-01 00:00:00+00");
        assert_eq!(show(-1), "1969-12-31 23:59:59.999999+00");
        assert_eq!(show(1_500_000), "1970-01-01 00:00:01.5+00");
        assert_eq!(
            show(days_from_civil(-43, 3, 15) * DAY_US),
            "0044-03-15 00:00:00+00 BC"
        );
        assert_eq!(show(i64::MAX), "294247-01-10 04:00:54.775807+00");
    }
}
