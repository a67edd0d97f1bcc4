//! Intervals and timestamps made of their parts, and intervals brought into the usual ranges.

use nodedb_types::datetime::{Interval, check_timestamp, days_from_civil, days_in_month};
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::{DATE, FLOAT8, Function, INT4, INTERVAL, TIMESTAMP, TIMESTAMPTZ, arguments, row};

const DAY_US: i64 = 86_400_000_000;

fn overflow(what: &str) -> Failure {
    Failure::new(SqlState::DatetimeOverflow, format!("{what} out of range"))
}

/// Takes as many whole `unit`s out of `part` as there are; gives them and the rest.
fn carried(part: i64, unit: i64) -> (i64, i64) {
    (part / unit, part % unit)
}

fn made(months: i64, days: i64, micros: i64) -> Result<Interval> {
    Ok(Interval {
        months: i32::try_from(months).map_err(|_| overflow("interval"))?,
        days: i32::try_from(days).map_err(|_| overflow("interval"))?,
        micros,
    })
}

/// Thirty days are a month.
fn justify_days(i: Interval) -> Result<Interval> {
    let (mut months, mut days) = carried(i.days.into(), 30);
    months += i64::from(i.months);
    if months > 0 && days < 0 {
        (months, days) = (months - 1, days + 30);
    } else if months < 0 && days > 0 {
        (months, days) = (months + 1, days - 30);
    }
    made(months, days, i.micros)
}

/// Twenty-four hours are a day.
fn justify_hours(i: Interval) -> Result<Interval> {
    let (mut days, mut micros) = carried(i.micros, DAY_US);
    days += i64::from(i.days);
    if days > 0 && micros < 0 {
        (days, micros) = (days - 1, micros + DAY_US);
    } else if days < 0 && micros > 0 {
        (days, micros) = (days + 1, micros - DAY_US);
    }
    made(i.months.into(), days, micros)
}

/// Both, and all parts of one sign (timestamp.c, interval_justify_interval).
fn justify_interval(i: Interval) -> Result<Interval> {
    let (mut days, mut micros) = carried(i.micros, DAY_US);
    days += i64::from(i.days);
    let (more, rest) = carried(days, 30);
    let mut months = i64::from(i.months) + more;
    days = rest;
    if months > 0 && (days < 0 || (days == 0 && micros < 0)) {
        (months, days) = (months - 1, days + 30);
    } else if months < 0 && (days > 0 || (days == 0 && micros > 0)) {
        (months, days) = (months + 1, days - 30);
    }
    if days > 0 && micros < 0 {
        (days, micros) = (days - 1, micros + DAY_US);
    } else if days < 0 && micros > 0 {
        (days, micros) = (days + 1, micros - DAY_US);
    }
    made(months, days, micros)
}

fn make_timestamp(date: [i32; 3], hour: i32, minute: i32, second: f64) -> Result<i64> {
    let [year, month, day] = date;
    let bad_date = || {
        Failure::new(
            SqlState::DatetimeOverflow,
            format!("date field value out of range: {year}-{month:02}-{day:02}"),
        )
    };
    let bad_time = || {
        Failure::new(
            SqlState::DatetimeOverflow,
            format!("time field value out of range: {hour}:{minute:02}:{second:02}"),
        )
    };
    let civil = i64::from(year) + i64::from(year < 0);
    let (m, d) = match (u32::try_from(month), u32::try_from(day)) {
        (Ok(m @ 1..=12), Ok(d)) if year != 0 && (1..=days_in_month(civil, m)).contains(&d) => {
            (m, d)
        }
        _ => return Err(bad_date()),
    };
    let in_day = (0..24).contains(&hour) || (hour == 24 && minute == 0 && second == 0.0);
    if !in_day || !(0..60).contains(&minute) || !(0.0..=60.0).contains(&second) {
        return Err(bad_time());
    }
    let time = (i64::from(hour) * 60 + i64::from(minute)) * 60_000_000;
    let micros = time + (second * 1e6).round() as i64;
    check_timestamp(days_from_civil(civil, m, d) * DAY_US + micros)
}

/// Years, months, weeks, days, hours, minutes and seconds; those left out are zero.
fn make_interval(values: &[Value]) -> Result<Value> {
    let part = |i: usize| match values.get(i) {
        Some(Value::Int4(n)) => i64::from(*n),
        _ => 0,
    };
    let seconds = match values.get(6) {
        Some(Value::Float8(s)) => *s,
        _ => 0.0,
    };
    let micros = (seconds * 1e6).round();
    if !micros.is_finite() || micros.abs() > 9e18 {
        return Err(overflow("interval"));
    }
    let micros = ((part(4) * 60 + part(5)) * 60_000_000)
        .checked_add(micros as i64)
        .ok_or_else(|| overflow("interval"))?;
    made(part(0) * 12 + part(1), part(2) * 7 + part(3), micros).map(Value::Interval)
}

const IV: DataType = DataType::Interval;

macro_rules! make_interval {
    ($($argument:expr),*) => {
        row("make_interval", &[$($argument),*], IV, make_interval, "an interval of its parts")
    };
}

macro_rules! finite {
    ($argument:expr) => {
        row(
            "isfinite",
            &[$argument],
            DataType::Bool,
            |_| Ok(Value::Bool(true)),
            "is no infinity, of which there are none here",
        )
    };
}

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "justify_days",
        &[INTERVAL],
        IV,
        |v| arguments!(v, Value::Interval(i) => justify_days(*i).map(Value::Interval)),
        "thirty days as a month",
    ),
    row(
        "justify_hours",
        &[INTERVAL],
        IV,
        |v| arguments!(v, Value::Interval(i) => justify_hours(*i).map(Value::Interval)),
        "24 hours as a day",
    ),
    row(
        "justify_interval",
        &[INTERVAL],
        IV,
        |v| arguments!(v, Value::Interval(i) => justify_interval(*i).map(Value::Interval)),
        "thirty days as a month, 24 hours as a day, all parts of one sign",
    ),
    row(
        "make_timestamp",
        &[INT4, INT4, INT4, INT4, INT4, FLOAT8],
        DataType::Timestamp,
        |v| arguments!(v, Value::Int4(y), Value::Int4(m), Value::Int4(d), Value::Int4(h), Value::Int4(n), Value::Float8(s) => make_timestamp([*y, *m, *d], *h, *n, *s).map(Value::Timestamp)),
        "a timestamp of its parts",
    ),
    row(
        "make_timestamptz",
        &[INT4, INT4, INT4, INT4, INT4, FLOAT8],
        DataType::TimestampTz,
        |v| arguments!(v, Value::Int4(y), Value::Int4(m), Value::Int4(d), Value::Int4(h), Value::Int4(n), Value::Float8(s) => make_timestamp([*y, *m, *d], *h, *n, *s).map(Value::TimestampTz)),
        "a timestamp of its parts, in UTC",
    ),
    make_interval!(),
    make_interval!(INT4),
    make_interval!(INT4, INT4),
    make_interval!(INT4, INT4, INT4),
    make_interval!(INT4, INT4, INT4, INT4),
    make_interval!(INT4, INT4, INT4, INT4, INT4),
    make_interval!(INT4, INT4, INT4, INT4, INT4, INT4),
    make_interval!(INT4, INT4, INT4, INT4, INT4, INT4, FLOAT8),
    finite!(DATE),
    finite!(TIMESTAMP),
    finite!(TIMESTAMPTZ),
    finite!(INTERVAL),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_carried_and_get_one_sign() {
        let of = |months, days, micros| Interval {
            months,
            days,
            micros,
        };
        let hour = 3_600_000_000;
        let ok = |i: Result<Interval>| i.expect("in range");
        assert_eq!(ok(justify_days(of(0, 35, 0))), of(1, 5, 0));
        assert_eq!(ok(justify_hours(of(0, 0, 27 * hour))), of(0, 1, 3 * hour));
        assert_eq!(ok(justify_interval(of(1, 0, -hour))), of(0, 29, 23 * hour));
        assert_eq!(ok(justify_interval(of(-1, 35, 0))), of(0, 5, 0));
        assert!(make_timestamp([2023, 2, 29], 0, 0, 0.0).is_err());
        assert!(make_timestamp([2024, 2, 29], 24, 0, 0.0).is_ok());
    }
}
