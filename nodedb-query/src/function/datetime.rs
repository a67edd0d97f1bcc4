//! Dates, timestamps and intervals. The session's zone is UTC.

use nodedb_types::datetime::{
    self, Interval, check_timestamp, civil_from_days, date_of_timestamp, days_from_civil,
    days_in_month, timestamp_of_date,
};
use nodedb_types::numeric::Numeric;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::{
    DATE, FLOAT8, Function, INT4, INTERVAL, NUMERIC_TYPE, TEXT, TIMESTAMP, TIMESTAMPTZ, arguments,
    row, stable,
};

const DAY_US: i64 = 86_400_000_000;
const HOUR_US: i64 = 3_600_000_000;
const MINUTE_US: i64 = 60_000_000;
const SECOND_US: i64 = 1_000_000;

fn overflow(what: &str) -> Failure {
    Failure::new(SqlState::DatetimeOverflow, format!("{what} out of range"))
}

fn add_interval(micros: i64, interval: Interval, sign: i64) -> Result<i64> {
    let days = micros.div_euclid(DAY_US);
    let time = micros.rem_euclid(DAY_US);
    let (year, month, day) = civil_from_days(days);
    let months = year * 12 + i64::from(month) - 1 + sign * i64::from(interval.months);
    let (year, month) = (months.div_euclid(12), months.rem_euclid(12) as u32 + 1);
    let day = day.min(days_in_month(year, month));
    let days = days_from_civil(year, month, day) + sign * i64::from(interval.days);
    days.checked_mul(DAY_US)
        .and_then(|us| us.checked_add(time))
        .and_then(|us| us.checked_add(interval.micros.checked_mul(sign)?))
        .ok_or_else(|| overflow("timestamp"))
        .and_then(check_timestamp)
}

fn add_days(date: i32, days: i64) -> Result<Value> {
    let sum = i64::from(date) + days;
    let date = i32::try_from(sum).map_err(|_| overflow("date"))?;
    timestamp_of_date(date).map_err(|_| overflow("date"))?;
    Ok(Value::Date(date))
}

fn difference(a: i64, b: i64) -> Result<Value> {
    let us = a.checked_sub(b).ok_or_else(|| overflow("interval"))?;
    Ok(Value::Interval(Interval {
        months: 0,
        days: (us / DAY_US) as i32,
        micros: us % DAY_US,
    }))
}

fn combine(a: Interval, b: Interval, sign: i32) -> Result<Value> {
    let part = |x: i32, y: i32| y.checked_mul(sign).and_then(|y| x.checked_add(y));
    let micros = b
        .micros
        .checked_mul(i64::from(sign))
        .and_then(|y| a.micros.checked_add(y));
    match (part(a.months, b.months), part(a.days, b.days), micros) {
        (Some(months), Some(days), Some(micros)) => Ok(Value::Interval(Interval {
            months,
            days,
            micros,
        })),
        _ => Err(overflow("interval")),
    }
}

/// Fractions of months become days of thirty, those of days time (timestamp.c, interval_mul).
fn scaled(a: Interval, factor: f64) -> Result<Value> {
    let months = f64::from(a.months) * factor;
    let days = f64::from(a.days) * factor;
    if !months.is_finite() || months.abs() > f64::from(i32::MAX) || days.abs() > f64::from(i32::MAX)
    {
        return Err(overflow("interval"));
    }
    let month_days = (months - months.trunc()) * 30.0;
    let month_days = (month_days * 1e6).round() / 1e6;
    let rest = (days - days.trunc()) + (month_days - month_days.trunc());
    let rest_us = (rest * 86_400.0 * 1e6).round() / 1e6 * SECOND_US as f64;
    let micros = a.micros as f64 * factor + rest_us;
    if !micros.is_finite() || micros.abs() > i64::MAX as f64 {
        return Err(overflow("interval"));
    }
    Ok(Value::Interval(Interval {
        months: months.trunc() as i32,
        days: days.trunc() as i32 + month_days.trunc() as i32,
        micros: micros.round_ties_even() as i64,
    }))
}

fn unknown_unit(unit: &str, of: &str) -> Failure {
    Failure::new(
        SqlState::InvalidParameterValue,
        format!("unit \"{unit}\" not recognized for type {of}"),
    )
}

fn decimal(micros: i128, scale: u8) -> Result<Value> {
    Numeric::new(micros, scale).map(Value::Numeric)
}

fn whole(n: i64) -> Result<Value> {
    Ok(Value::Numeric(Numeric::from_i64(n)))
}

/// Monday of the first ISO week of a year, in days.
fn iso_year_start(year: i64) -> i64 {
    let fourth = days_from_civil(year, 1, 4);
    fourth - (fourth + 3).rem_euclid(7)
}

fn iso_week(days: i64) -> (i64, i64) {
    let (year, ..) = civil_from_days(days);
    let year = [year + 1, year, year - 1]
        .into_iter()
        .find(|y| days >= iso_year_start(*y))
        .unwrap_or(year);
    (year, (days - iso_year_start(year)) / 7 + 1)
}

fn extract_timestamp(unit: &str, micros: i64, of: &str) -> Result<Value> {
    let days = micros.div_euclid(DAY_US);
    let time = micros.rem_euclid(DAY_US);
    let (year, month, day) = civil_from_days(days);
    // There is no year 0: 1 BC is -1.
    let shown_year = if year > 0 { year } else { year - 1 };
    match unit {
        "year" | "years" => whole(shown_year),
        "month" | "months" => whole(i64::from(month)),
        "day" | "days" => whole(i64::from(day)),
        "hour" | "hours" => whole(time / HOUR_US),
        "minute" | "minutes" => whole(time % HOUR_US / MINUTE_US),
        "second" | "seconds" => decimal(i128::from(time % MINUTE_US), 6),
        "millisecond" | "milliseconds" => decimal(i128::from(time % MINUTE_US), 3),
        "microsecond" | "microseconds" => whole(time % MINUTE_US),
        "epoch" => decimal(i128::from(micros), 6),
        "dow" => whole((days + 4).rem_euclid(7)),
        "isodow" => whole((days + 3).rem_euclid(7) + 1),
        "doy" => whole(days - days_from_civil(year, 1, 1) + 1),
        "week" => whole(iso_week(days).1),
        "isoyear" => whole(iso_week(days).0),
        "quarter" => whole((i64::from(month) - 1) / 3 + 1),
        "decade" => whole(year.div_euclid(10)),
        "century" => whole(if year > 0 {
            (year + 99) / 100
        } else {
            -((99 - (year - 1)) / 100)
        }),
        "millennium" | "millenium" => whole(if year > 0 {
            (year + 999) / 1000
        } else {
            -((999 - (year - 1)) / 1000)
        }),
        "julian" => decimal(
            (i128::from(days) + 2_440_588) * 1_000_000
                + i128::from(time) * 1_000_000 / i128::from(DAY_US),
            6,
        ),
        "timezone" | "timezone_hour" | "timezone_minute" if of.ends_with("with time zone") => {
            whole(0)
        }
        other => Err(unknown_unit(other, of)),
    }
}

/// A date has no time of day.
fn extract_date(unit: &str, date: i32) -> Result<Value> {
    let of_time = [
        "hour",
        "minute",
        "second",
        "millisecond",
        "microsecond",
        "timezone",
        "timezone_hour",
        "timezone_minute",
    ];
    if of_time.contains(&unit.strip_suffix('s').unwrap_or(unit)) {
        return Err(Failure::new(
            SqlState::FeatureNotSupported,
            format!("unit \"{unit}\" not supported for type date"),
        ));
    }
    extract_timestamp(unit, timestamp_of_date(date)?, "date")
}

fn extract_interval(unit: &str, i: Interval) -> Result<Value> {
    let time = i.micros;
    match unit {
        "year" | "years" => whole(i64::from(i.months / 12)),
        "month" | "months" => whole(i64::from(i.months % 12)),
        "quarter" => whole(i64::from(i.months % 12 / 3 + 1)),
        "decade" => whole(i64::from(i.months / 120)),
        "century" => whole(i64::from(i.months / 1200)),
        "day" | "days" => whole(i64::from(i.days)),
        "hour" | "hours" => whole(time / HOUR_US),
        "minute" | "minutes" => whole(time % HOUR_US / MINUTE_US),
        "second" | "seconds" => decimal(i128::from(time % MINUTE_US), 6),
        "millisecond" | "milliseconds" => decimal(i128::from(time % MINUTE_US), 3),
        "microsecond" | "microseconds" => whole(time % MINUTE_US),
        "epoch" => {
            // A year has 365.25 days here, a month of the rest 30.
            let days = i128::from(i.months % 12) * 30 + i128::from(i.days);
            let years = i128::from(i.months / 12) * 36_525 * i128::from(DAY_US) / 100;
            decimal(years + days * i128::from(DAY_US) + i128::from(time), 6)
        }
        other => Err(unknown_unit(other, "interval")),
    }
}

fn truncate(unit: &str, micros: i64) -> Result<i64> {
    let days = micros.div_euclid(DAY_US);
    let (year, month, _) = civil_from_days(days);
    let start = |year: i64, month: u32| days_from_civil(year, month, 1) * DAY_US;
    let time = |step: i64| micros - micros.rem_euclid(step);
    Ok(match unit {
        "microsecond" | "microseconds" => micros,
        "millisecond" | "milliseconds" => time(1000),
        "second" | "seconds" => time(SECOND_US),
        "minute" | "minutes" => time(MINUTE_US),
        "hour" | "hours" => time(HOUR_US),
        "day" | "days" => days * DAY_US,
        "week" | "weeks" => (days - (days + 3).rem_euclid(7)) * DAY_US,
        "month" | "months" => start(year, month),
        "quarter" => start(year, (month - 1) / 3 * 3 + 1),
        "year" | "years" => start(year, 1),
        "decade" => start(year.div_euclid(10) * 10, 1),
        "century" => start((year - 1).div_euclid(100) * 100 + 1, 1),
        "millennium" => start((year - 1).div_euclid(1000) * 1000 + 1, 1),
        other => return Err(unknown_unit(other, "timestamp without time zone")),
    })
}

/// Years, months and days between two timestamps, as a person counts them.
fn age(later: i64, earlier: i64) -> Result<Value> {
    if later < earlier {
        let Value::Interval(i) = age(earlier, later)? else {
            return Ok(Value::Null);
        };
        return Ok(Value::Interval(Interval {
            months: -i.months,
            days: -i.days,
            micros: -i.micros,
        }));
    }
    let (y1, m1, d1) = civil_from_days(later.div_euclid(DAY_US));
    let (y2, m2, d2) = civil_from_days(earlier.div_euclid(DAY_US));
    let mut months = (y1 - y2) * 12 + i64::from(m1) - i64::from(m2);
    let mut days = i64::from(d1) - i64::from(d2);
    let mut micros = later.rem_euclid(DAY_US) - earlier.rem_euclid(DAY_US);
    if micros < 0 {
        micros += DAY_US;
        days -= 1;
    }
    if days < 0 {
        // The earlier date's month decides how long a month is.
        days += i64::from(days_in_month(y2, m2));
        months -= 1;
    }
    Ok(Value::Interval(Interval {
        months: i32::try_from(months).map_err(|_| overflow("interval"))?,
        days: days as i32,
        micros,
    }))
}

fn make_date(year: i32, month: i32, day: i32) -> Result<Value> {
    let bad = || {
        Failure::new(
            SqlState::DatetimeOverflow,
            format!("date field value out of range: {year}-{month:02}-{day:02}"),
        )
    };
    let (y, m) = (i64::from(year), u32::try_from(month).map_err(|_| bad())?);
    let y = if y < 0 { y + 1 } else { y };
    let d = u32::try_from(day).map_err(|_| bad())?;
    if year == 0 || !(1..=12).contains(&m) || d == 0 || d > days_in_month(y, m) {
        return Err(bad());
    }
    add_days(0, days_from_civil(y, m, d))
}

fn utc(zone: &str) -> Result<()> {
    if ["utc", "gmt", "z", "zulu", "etc/utc", "uct"].contains(&zone.to_lowercase().as_str()) {
        return Ok(());
    }
    Err(Failure::unsupported(format!("time zone \"{zone}\"")).with_hint("the server keeps UTC"))
}

fn of_epoch(seconds: f64) -> Result<Value> {
    let micros = seconds * SECOND_US as f64;
    if !micros.is_finite() || micros.abs() > 9.2e18 {
        return Err(overflow("timestamp"));
    }
    check_timestamp(micros.round() as i64).map(Value::TimestampTz)
}

const TS: DataType = DataType::Timestamp;
const TZ: DataType = DataType::TimestampTz;
const IV: DataType = DataType::Interval;
const D: DataType = DataType::Date;
const WITHOUT: &str = "timestamp without time zone";
const WITH: &str = "timestamp with time zone";

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "+",
        &[DATE, INT4],
        D,
        |v| arguments!(v, Value::Date(d), Value::Int4(n) => add_days(*d, i64::from(*n))),
        "days later",
    ),
    row(
        "+",
        &[INT4, DATE],
        D,
        |v| arguments!(v, Value::Int4(n), Value::Date(d) => add_days(*d, i64::from(*n))),
        "days later",
    ),
    row(
        "-",
        &[DATE, INT4],
        D,
        |v| arguments!(v, Value::Date(d), Value::Int4(n) => add_days(*d, -i64::from(*n))),
        "days earlier",
    ),
    row(
        "-",
        &[DATE, DATE],
        DataType::Int4,
        |v| arguments!(v, Value::Date(a), Value::Date(b) => a.checked_sub(*b).map(Value::Int4).ok_or_else(|| overflow("date"))),
        "days between",
    ),
    row(
        "+",
        &[DATE, INTERVAL],
        TS,
        |v| arguments!(v, Value::Date(d), Value::Interval(i) => add_interval(timestamp_of_date(*d)?, *i, 1).map(Value::Timestamp)),
        "later",
    ),
    row(
        "-",
        &[DATE, INTERVAL],
        TS,
        |v| arguments!(v, Value::Date(d), Value::Interval(i) => add_interval(timestamp_of_date(*d)?, *i, -1).map(Value::Timestamp)),
        "earlier",
    ),
    row(
        "+",
        &[INTERVAL, DATE],
        TS,
        |v| arguments!(v, Value::Interval(i), Value::Date(d) => add_interval(timestamp_of_date(*d)?, *i, 1).map(Value::Timestamp)),
        "later",
    ),
    row(
        "+",
        &[TIMESTAMP, INTERVAL],
        TS,
        |v| arguments!(v, Value::Timestamp(t), Value::Interval(i) => add_interval(*t, *i, 1).map(Value::Timestamp)),
        "later",
    ),
    row(
        "+",
        &[INTERVAL, TIMESTAMP],
        TS,
        |v| arguments!(v, Value::Interval(i), Value::Timestamp(t) => add_interval(*t, *i, 1).map(Value::Timestamp)),
        "later",
    ),
    row(
        "-",
        &[TIMESTAMP, INTERVAL],
        TS,
        |v| arguments!(v, Value::Timestamp(t), Value::Interval(i) => add_interval(*t, *i, -1).map(Value::Timestamp)),
        "earlier",
    ),
    row(
        "+",
        &[TIMESTAMPTZ, INTERVAL],
        TZ,
        |v| arguments!(v, Value::TimestampTz(t), Value::Interval(i) => add_interval(*t, *i, 1).map(Value::TimestampTz)),
        "later",
    ),
    row(
        "+",
        &[INTERVAL, TIMESTAMPTZ],
        TZ,
        |v| arguments!(v, Value::Interval(i), Value::TimestampTz(t) => add_interval(*t, *i, 1).map(Value::TimestampTz)),
        "later",
    ),
    row(
        "-",
        &[TIMESTAMPTZ, INTERVAL],
        TZ,
        |v| arguments!(v, Value::TimestampTz(t), Value::Interval(i) => add_interval(*t, *i, -1).map(Value::TimestampTz)),
        "earlier",
    ),
    row(
        "-",
        &[TIMESTAMP, TIMESTAMP],
        IV,
        |v| arguments!(v, Value::Timestamp(a), Value::Timestamp(b) => difference(*a, *b)),
        "time between",
    ),
    row(
        "-",
        &[TIMESTAMPTZ, TIMESTAMPTZ],
        IV,
        |v| arguments!(v, Value::TimestampTz(a), Value::TimestampTz(b) => difference(*a, *b)),
        "time between",
    ),
    row(
        "+",
        &[INTERVAL, INTERVAL],
        IV,
        |v| arguments!(v, Value::Interval(a), Value::Interval(b) => combine(*a, *b, 1)),
        "sum",
    ),
    row(
        "-",
        &[INTERVAL, INTERVAL],
        IV,
        |v| arguments!(v, Value::Interval(a), Value::Interval(b) => combine(*a, *b, -1)),
        "difference",
    ),
    row(
        "-",
        &[INTERVAL],
        IV,
        |v| arguments!(v, Value::Interval(a) => combine(Interval { months: 0, days: 0, micros: 0 }, *a, -1)),
        "negation",
    ),
    row(
        "*",
        &[INTERVAL, FLOAT8],
        IV,
        |v| arguments!(v, Value::Interval(a), Value::Float8(x) => scaled(*a, *x)),
        "multiple",
    ),
    row(
        "*",
        &[FLOAT8, INTERVAL],
        IV,
        |v| arguments!(v, Value::Float8(x), Value::Interval(a) => scaled(*a, *x)),
        "multiple",
    ),
    row(
        "/",
        &[INTERVAL, FLOAT8],
        IV,
        |v| arguments!(v, Value::Interval(a), Value::Float8(x) => if *x == 0.0 { Err(super::arithmetic::division_by_zero()) } else { scaled(*a, 1.0 / *x) }),
        "part",
    ),
    row(
        "extract",
        &[TEXT, TIMESTAMP],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Text(u), Value::Timestamp(t) => extract_timestamp(u, *t, WITHOUT)),
        "a field of a timestamp",
    ),
    row(
        "extract",
        &[TEXT, TIMESTAMPTZ],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Text(u), Value::TimestampTz(t) => extract_timestamp(u, *t, WITH)),
        "a field of a timestamp",
    ),
    row(
        "extract",
        &[TEXT, DATE],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Text(u), Value::Date(d) => extract_date(u, *d)),
        "a field of a date",
    ),
    row(
        "extract",
        &[TEXT, INTERVAL],
        NUMERIC_TYPE,
        |v| arguments!(v, Value::Text(u), Value::Interval(i) => extract_interval(u, *i)),
        "a field of an interval",
    ),
    row(
        "date_part",
        &[TEXT, TIMESTAMP],
        DataType::Float8,
        |v| arguments!(v, Value::Text(u), Value::Timestamp(t) => extract_timestamp(&u.to_lowercase(), *t, WITHOUT)?.coerce(&DataType::Float8)),
        "a field of a timestamp",
    ),
    row(
        "date_part",
        &[TEXT, TIMESTAMPTZ],
        DataType::Float8,
        |v| arguments!(v, Value::Text(u), Value::TimestampTz(t) => extract_timestamp(&u.to_lowercase(), *t, WITH)?.coerce(&DataType::Float8)),
        "a field of a timestamp",
    ),
    row(
        "date_part",
        &[TEXT, DATE],
        DataType::Float8,
        |v| arguments!(v, Value::Text(u), Value::Date(d) => extract_timestamp(&u.to_lowercase(), timestamp_of_date(*d)?, "date")?.coerce(&DataType::Float8)),
        "a field of a date",
    ),
    row(
        "date_part",
        &[TEXT, INTERVAL],
        DataType::Float8,
        |v| arguments!(v, Value::Text(u), Value::Interval(i) => extract_interval(&u.to_lowercase(), *i)?.coerce(&DataType::Float8)),
        "a field of an interval",
    ),
    row(
        "date_trunc",
        &[TEXT, TIMESTAMP],
        TS,
        |v| arguments!(v, Value::Text(u), Value::Timestamp(t) => truncate(&u.to_lowercase(), *t).map(Value::Timestamp)),
        "start of the unit",
    ),
    row(
        "date_trunc",
        &[TEXT, TIMESTAMPTZ],
        TZ,
        |v| arguments!(v, Value::Text(u), Value::TimestampTz(t) => truncate(&u.to_lowercase(), *t).map(Value::TimestampTz)),
        "start of the unit",
    ),
    row(
        "age",
        &[TIMESTAMP, TIMESTAMP],
        IV,
        |v| arguments!(v, Value::Timestamp(a), Value::Timestamp(b) => age(*a, *b)),
        "years, months and days between",
    ),
    row(
        "age",
        &[TIMESTAMPTZ, TIMESTAMPTZ],
        IV,
        |v| arguments!(v, Value::TimestampTz(a), Value::TimestampTz(b) => age(*a, *b)),
        "years, months and days between",
    ),
    row(
        "make_date",
        &[INT4, INT4, INT4],
        D,
        |v| arguments!(v, Value::Int4(y), Value::Int4(m), Value::Int4(d) => make_date(*y, *m, *d)),
        "a date from its parts",
    ),
    row(
        "to_timestamp",
        &[FLOAT8],
        TZ,
        |v| arguments!(v, Value::Float8(s) => of_epoch(*s)),
        "a timestamp from seconds since 1970",
    ),
    row(
        "timezone",
        &[TEXT, TIMESTAMP],
        TZ,
        |v| arguments!(v, Value::Text(z), Value::Timestamp(t) => { utc(z)?; Ok(Value::TimestampTz(*t)) }),
        "the moment of a local time",
    ),
    row(
        "timezone",
        &[TEXT, TIMESTAMPTZ],
        TS,
        |v| arguments!(v, Value::Text(z), Value::TimestampTz(t) => { utc(z)?; Ok(Value::Timestamp(*t)) }),
        "the local time of a moment",
    ),
    row(
        "date",
        &[TIMESTAMP],
        D,
        |v| arguments!(v, Value::Timestamp(t) => Ok(Value::Date(date_of_timestamp(*t)))),
        "the day",
    ),
    stable(
        "now",
        &[],
        TZ,
        |_, e| Ok(Value::TimestampTz(e.now_us)),
        "when the statement began",
    ),
    stable(
        "current_timestamp",
        &[],
        TZ,
        |_, e| Ok(Value::TimestampTz(e.now_us)),
        "when the statement began",
    ),
    stable(
        "transaction_timestamp",
        &[],
        TZ,
        |_, e| Ok(Value::TimestampTz(e.now_us)),
        "when the statement began",
    ),
    stable(
        "statement_timestamp",
        &[],
        TZ,
        |_, e| Ok(Value::TimestampTz(e.now_us)),
        "when the statement began",
    ),
    stable(
        "clock_timestamp",
        &[],
        TZ,
        |_, e| Ok(Value::TimestampTz(e.now_us)),
        "when the statement began",
    ),
    stable(
        "localtimestamp",
        &[],
        TS,
        |_, e| Ok(Value::Timestamp(e.now_us)),
        "when the statement began",
    ),
    stable(
        "current_date",
        &[],
        D,
        |_, e| Ok(Value::Date(datetime::date_of_timestamp(e.now_us))),
        "the day when the statement began",
    ),
];

/// The values of `generate_series` over timestamps.
pub(crate) fn series_step(micros: i64, step: Interval) -> Result<i64> {
    add_interval(micros, step, 1)
}
