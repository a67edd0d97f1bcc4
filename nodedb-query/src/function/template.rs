//! Templates of `to_char`, `to_date` and `to_timestamp` for dates, times and intervals. (Those for
//! numbers are in [`super::number_template`].)
//!
//! A template is keywords, of which the longest that fits is taken, and other characters, which
//! stand for themselves; text in double quotes does so always. `FM` before a keyword takes its padding
//! away, `TH` behind it adds an English ordinal.

use nodedb_types::datetime::{
    DAY_US, Interval, check_timestamp, civil_from_days, days_from_civil, days_in_month,
};
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::{
    Argument, Function, INTERVAL, TEXT, TEXT_TYPE, TIMESTAMP, TIMESTAMPTZ, arguments, row,
};

const HOUR_US: i64 = 3_600_000_000;
const MINUTE_US: i64 = 60_000_000;
const SECOND_US: i64 = 1_000_000;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const ROMAN_MONTHS: [&str; 12] = [
    "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII",
];

/// Longer ones before those that begin like them.
const KEYWORDS: &[&str] = &[
    "Y,YYY", "YYYY", "YYY", "YY", "Y", "IYYY", "IYY", "IY", "IDDD", "ID", "IW", "I", "A.D.",
    "B.C.", "A.M.", "P.M.", "AD", "BC", "AM", "PM", "CC", "DAY", "DDD", "DD", "DY", "D", "FF1",
    "FF2", "FF3", "FF4", "FF5", "FF6", "HH24", "HH12", "HH", "J", "MI", "MM", "MONTH", "MON", "MS",
    "OF", "Q", "RM", "SSSSS", "SSSS", "SS", "TZH", "TZM", "TZ", "US", "WW", "W",
];

enum Part<'t> {
    Text(&'t str),
    Field {
        /// As [`KEYWORDS`] spells it.
        keyword: &'static str,
        written: &'t str,
        is_filled: bool,
        /// `TH` or `th`.
        ordinal: Option<&'t str>,
    },
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

/// A keyword is written in capitals or in small letters throughout; a name may have a capital.
fn fits(text: &str, keyword: &str) -> bool {
    let Some(written) = text.get(..keyword.len()) else {
        return false;
    };
    let is_name = written.is_ascii() && matches!(keyword, "MONTH" | "MON" | "DAY" | "DY");
    let capitalised =
        || written[..1] == keyword[..1] && written[1..] == keyword[1..].to_lowercase();
    written == keyword || written == keyword.to_lowercase() || is_name && capitalised()
}

fn parts(template: &str) -> Vec<Part<'_>> {
    let mut all = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').unwrap_or(quoted.len());
            all.push(Part::Text(&quoted[..end]));
            rest = quoted.get(end + 1..).unwrap_or("");
            continue;
        }
        let mut at = rest;
        let mut is_filled = true;
        while starts_with(at, "FM") || starts_with(at, "FX") || starts_with(at, "TM") {
            is_filled &= !starts_with(at, "FM");
            at = &at[2..];
        }
        let Some(keyword) = KEYWORDS.iter().find(|k| fits(at, k)) else {
            let length = rest.chars().next().map_or(1, char::len_utf8);
            // A prefix alone stands for nothing.
            let skipped = rest.len() - at.len();
            match skipped {
                0 => {
                    all.push(Part::Text(&rest[..length]));
                    rest = &rest[length..];
                }
                _ => rest = at,
            }
            continue;
        };
        let written = &at[..keyword.len()];
        rest = &at[keyword.len()..];
        let mut ordinal = None;
        if starts_with(rest, "TH") {
            ordinal = Some(&rest[..2]);
            rest = &rest[2..];
        }
        all.push(Part::Field {
            keyword,
            written,
            is_filled,
            ordinal,
        });
    }
    all
}

/// The English ending of an ordinal number.
pub(super) fn ordinal_ending(n: i64) -> &'static str {
    match (n.rem_euclid(100), n.rem_euclid(10)) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    }
}

/// In the case in which a name was written: all upper, all lower, or with a capital.
fn cased(name: &str, written: &str) -> String {
    let mut letters = written.chars().filter(|c| c.is_alphabetic());
    let first = letters.next().is_some_and(char::is_uppercase);
    let second = letters.next().is_some_and(char::is_uppercase);
    match (first, second) {
        (true, true) => name.to_uppercase(),
        (true, false) => name.to_owned(),
        (false, _) => name.to_lowercase(),
    }
}

/// What a template prints: a moment, or the parts of an interval.
struct Moment {
    year: i64,
    month: i64,
    day: i64,
    /// Of the day, or of an interval.
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    /// Since 1970; `None` for an interval.
    date: Option<i64>,
    has_zone: bool,
}

impl Moment {
    fn of_timestamp(micros: i64, has_zone: bool) -> Moment {
        let days = micros.div_euclid(DAY_US);
        let time = micros.rem_euclid(DAY_US);
        let (year, month, day) = civil_from_days(days);
        Moment {
            year,
            month: i64::from(month),
            day: i64::from(day),
            hour: time / HOUR_US,
            minute: time % HOUR_US / MINUTE_US,
            second: time % MINUTE_US / SECOND_US,
            micros: time % SECOND_US,
            date: Some(days),
            has_zone,
        }
    }

    fn of_interval(interval: Interval) -> Moment {
        let time = interval.micros;
        Moment {
            year: i64::from(interval.months / 12),
            month: i64::from(interval.months % 12),
            day: i64::from(interval.days),
            hour: time / HOUR_US,
            minute: time % HOUR_US / MINUTE_US,
            second: time % MINUTE_US / SECOND_US,
            micros: time % SECOND_US,
            date: None,
            has_zone: false,
        }
    }

    fn days(&self) -> Result<i64> {
        self.date.ok_or_else(|| {
            Failure::new(
                SqlState::DatetimeFormat,
                "invalid format specification for an interval value",
            )
            .with_hint("Intervals are not tied to specific calendar dates.")
        })
    }

    fn day_of_year(&self) -> Result<i64> {
        Ok(self.days()? - days_from_civil(self.year, 1, 1) + 1)
    }

    /// Sunday is 0.
    fn weekday(&self) -> Result<usize> {
        Ok((self.days()? + 4).rem_euclid(7) as usize)
    }

    /// Year and week by ISO 8601: the week of the year's first Thursday is its first.
    fn iso_week(&self) -> Result<(i64, i64)> {
        let days = self.days()?;
        let thursday = days - (days + 3).rem_euclid(7) + 3;
        let (year, _, _) = civil_from_days(thursday);
        Ok((year, (thursday - days_from_civil(year, 1, 1)) / 7 + 1))
    }

    /// As years are printed: there is no year 0, 1 BC is the one before 1.
    fn shown_year(&self) -> i64 {
        match (self.date, self.year) {
            (Some(_), year) if year <= 0 => 1 - year,
            (_, year) => year,
        }
    }

    fn hour12(&self) -> i64 {
        match self.hour % 12 {
            0 => 12,
            hour => hour,
        }
    }
}

fn name(text: &str, written: &str, width: usize, is_filled: bool) -> String {
    let shown = cased(text, written);
    match is_filled {
        true => format!("{shown:<width$}"),
        false => shown,
    }
}

/// A field as text, and the number that an ordinal goes by.
fn field(m: &Moment, keyword: &str, written: &str, is_filled: bool) -> Result<String> {
    let padded = |n: i64, width: usize| match (is_filled, n < 0) {
        (true, false) => format!("{n:0width$}"),
        (true, true) => format!("-{:0width$}", -n),
        (false, _) => n.to_string(),
    };
    let month = usize::try_from(m.month - 1).unwrap_or(0);
    Ok(match keyword {
        "Y,YYY" => format!("{},{:03}", m.shown_year() / 1000, m.shown_year() % 1000),
        "YYYY" => padded(m.shown_year(), 4),
        "YYY" => padded(m.shown_year() % 1000, 3),
        "YY" => padded(m.shown_year() % 100, 2),
        "Y" => padded(m.shown_year() % 10, 1),
        "IYYY" => padded(m.iso_week()?.0, 4),
        "IYY" => padded(m.iso_week()?.0 % 1000, 3),
        "IY" => padded(m.iso_week()?.0 % 100, 2),
        "I" => padded(m.iso_week()?.0 % 10, 1),
        "IW" => padded(m.iso_week()?.1, 2),
        "ID" => padded((m.weekday()? as i64 + 6) % 7 + 1, 1),
        "IDDD" => {
            let monday = (m.days()? + 3).rem_euclid(7);
            padded((m.iso_week()?.1 - 1) * 7 + monday + 1, 3)
        }
        "CC" => match m.year {
            1.. => padded((m.year - 1) / 100 + 1, 2),
            year => padded(year / 100 - 1, 2),
        },
        "Q" => padded((m.month - 1) / 3 + 1, 1),
        "MM" => padded(m.month, 2),
        "MONTH" => {
            m.days()?;
            name(MONTHS[month], written, 9, is_filled)
        }
        "MON" => {
            m.days()?;
            cased(&MONTHS[month][..3], written)
        }
        "RM" => match m.month {
            0 => String::new(),
            _ => {
                let roman = ROMAN_MONTHS[month];
                let shown = match written.starts_with('r') {
                    true => roman.to_lowercase(),
                    false => roman.to_owned(),
                };
                match is_filled {
                    true => format!("{shown:<4}"),
                    false => shown,
                }
            }
        },
        "WW" => padded((m.day_of_year()? - 1) / 7 + 1, 2),
        "W" => padded((m.day - 1) / 7 + 1, 1),
        "DDD" => padded(m.day_of_year()?, 3),
        "DD" => padded(m.day, 2),
        "D" => padded(m.weekday()? as i64 + 1, 1),
        "DAY" => name(DAYS[m.weekday()?], written, 9, is_filled),
        "DY" => cased(&DAYS[m.weekday()?][..3], written),
        "J" => padded(m.days()? + 2_440_588, 1),
        "HH24" => padded(m.hour, 2),
        "HH12" | "HH" => padded(m.hour12(), 2),
        "MI" => padded(m.minute, 2),
        "SS" => padded(m.second, 2),
        "SSSS" | "SSSSS" => padded((m.hour * 60 + m.minute) * 60 + m.second, 1),
        "MS" | "FF3" => format!("{:03}", m.micros / 1000),
        "US" | "FF6" => format!("{:06}", m.micros),
        "FF1" => format!("{:01}", m.micros / 100_000),
        "FF2" => format!("{:02}", m.micros / 10_000),
        "FF4" => format!("{:04}", m.micros / 100),
        "FF5" => format!("{:05}", m.micros / 10),
        "AM" | "PM" | "A.M." | "P.M." => {
            let half = if m.hour % 24 < 12 { "A" } else { "P" };
            let dotted = written.contains('.');
            let shown = if dotted {
                format!("{half}.M.")
            } else {
                format!("{half}M")
            };
            match written.starts_with(|c: char| c.is_lowercase()) {
                true => shown.to_lowercase(),
                false => shown,
            }
        }
        "AD" | "BC" | "A.D." | "B.C." => {
            m.days()?;
            let shown = match (m.year > 0, written.contains('.')) {
                (true, false) => "AD",
                (true, true) => "A.D.",
                (false, false) => "BC",
                (false, true) => "B.C.",
            };
            match written.starts_with(|c: char| c.is_lowercase()) {
                true => shown.to_lowercase(),
                false => shown.to_owned(),
            }
        }
        // The server keeps UTC; a time without a zone has none to show.
        "TZ" => match (m.has_zone, written.starts_with('t')) {
            (false, _) => String::new(),
            (true, true) => "utc".to_owned(),
            (true, false) => "UTC".to_owned(),
        },
        "TZH" | "OF" => "+00".to_owned(),
        "TZM" => "00".to_owned(),
        other => return Err(Failure::internal(format!("the template keyword {other}"))),
    })
}

fn print(template: &str, moment: &Moment) -> Result<Value> {
    let mut out = String::new();
    for part in parts(template) {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Field {
                keyword,
                written,
                is_filled,
                ordinal,
            } => {
                let shown = field(moment, keyword, written, is_filled)?;
                out.push_str(&shown);
                if let (Some(th), Ok(n)) = (ordinal, shown.trim().parse::<i64>()) {
                    let ending = ordinal_ending(n);
                    match th.starts_with('T') {
                        true => out.push_str(&ending.to_uppercase()),
                        false => out.push_str(ending),
                    }
                }
            }
        }
    }
    Ok(Value::Text(out))
}

/// Reads text by a template into microseconds since 1970.
fn read(text: &str, template: &str) -> Result<i64> {
    let mut rest = text.trim_start();
    let (mut year, mut month, mut day) = (1i64, 1u32, 1u32);
    let (mut hour, mut minute, mut second, mut micros) = (0i64, 0i64, 0i64, 0i64);
    let mut afternoon: Option<bool> = None;
    let mut before_christ = false;
    let mut day_of_year: Option<i64> = None;
    let parts = parts(template);
    for (i, part) in parts.iter().enumerate() {
        let (keyword, is_filled) = match part {
            Part::Text(literal) => {
                // Any separator stands for any other; blanks may be left out.
                for expected in literal.chars() {
                    match rest.chars().next() {
                        Some(c) if c == expected || !c.is_alphanumeric() => {
                            rest = &rest[c.len_utf8()..];
                        }
                        Some(c) if expected.is_alphanumeric() => rest = &rest[c.len_utf8()..],
                        _ => {}
                    }
                }
                continue;
            }
            Part::Field {
                keyword, is_filled, ..
            } => (*keyword, *is_filled),
        };
        rest = rest.trim_start();
        // A field that another follows at once takes no more digits than it has.
        let next_is_field = matches!(parts.get(i + 1), Some(Part::Field { .. }));
        let mut number = |width: usize| -> Result<i64> {
            let limit = if next_is_field && is_filled {
                width
            } else {
                width.max(9)
            };
            let digits = rest
                .chars()
                .take(limit)
                .take_while(char::is_ascii_digit)
                .count();
            let digits = if next_is_field || width == 4 {
                digits
            } else {
                digits.min(width)
            };
            let taken = &rest[..digits];
            let n = taken
                .parse::<i64>()
                .map_err(|_| invalid(rest, keyword, width))?;
            rest = &rest[digits..];
            Ok(n)
        };
        match keyword {
            "YYYY" | "IYYY" => year = number(4)?,
            "YYY" => year = 2000 + number(3)?,
            "YY" => {
                let two = number(2)?;
                year = if two < 70 { 2000 + two } else { 1900 + two };
            }
            "Y" => year = 2020 + number(1)?,
            "MM" => month = number(2)? as u32,
            "DD" => day = number(2)? as u32,
            "DDD" => day_of_year = Some(number(3)?),
            "HH24" => hour = number(2)?,
            "HH12" | "HH" => {
                hour = number(2)?;
                if !(1..=12).contains(&hour) {
                    return Err(Failure::new(
                        SqlState::DatetimeFormat,
                        format!("hour \"{hour}\" is invalid for the 12-hour clock"),
                    )
                    .with_hint("Use the 24-hour clock, or give an hour between 1 and 12."));
                }
            }
            "MI" => minute = number(2)?,
            "SS" => second = number(2)?,
            "SSSS" | "SSSSS" => second = number(5)?,
            "MS" | "US" | "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
                let width = match keyword {
                    "MS" => 3,
                    "US" => 6,
                    other => other[2..].parse().unwrap_or(6),
                };
                let digits: String = rest
                    .chars()
                    .take(width)
                    .take_while(char::is_ascii_digit)
                    .collect();
                rest = &rest[digits.len()..];
                micros = format!("{digits:0<6}").parse().unwrap_or(0);
            }
            "MONTH" | "MON" => {
                let found = MONTHS
                    .iter()
                    .position(|m| starts_with(rest, if keyword == "MON" { &m[..3] } else { m }));
                let at = found.ok_or_else(|| unknown(rest, keyword))?;
                month = at as u32 + 1;
                let length = if keyword == "MON" {
                    3
                } else {
                    MONTHS[at].len()
                };
                rest = &rest[length..];
            }
            "DAY" | "DY" => {
                let name_of = |d: &'static str| if keyword == "DY" { &d[..3] } else { d };
                let found = DAYS.iter().find(|d| starts_with(rest, name_of(d)));
                let day = found.ok_or_else(|| unknown(rest, keyword))?;
                rest = &rest[name_of(day).len()..];
            }
            "AM" | "PM" | "A.M." | "P.M." => {
                let length = keyword.len();
                let given = rest.get(..length).unwrap_or(rest);
                afternoon = match given.chars().next() {
                    Some('a' | 'A') => Some(false),
                    Some('p' | 'P') => Some(true),
                    _ => return Err(unknown(rest, keyword)),
                };
                rest = &rest[given.len()..];
            }
            "AD" | "BC" | "A.D." | "B.C." => {
                let given = rest.get(..keyword.len()).unwrap_or(rest);
                before_christ = given.starts_with(['b', 'B']);
                rest = &rest[given.len()..];
            }
            other => {
                return Err(Failure::unsupported(format!(
                    "the keyword {other} in a template to read by"
                )));
            }
        }
    }
    if let Some(afternoon) = afternoon {
        hour = hour % 12 + if afternoon { 12 } else { 0 };
    }
    if before_christ {
        year = 1 - year;
    }
    let out_of_range = || {
        Failure::new(
            SqlState::DatetimeOverflow,
            format!("date/time field value out of range: \"{text}\""),
        )
    };
    if !(1..=12).contains(&month)
        || day == 0
        || day > days_in_month(year, month)
        || !(0..24).contains(&hour)
        || minute > 59
        || second >= 86_400
        || (second > 59 && (hour, minute) != (0, 0))
        || !(-4713..=294_276).contains(&year)
    {
        return Err(out_of_range());
    }
    let days = match day_of_year {
        Some(n) if (1..=366).contains(&n) => days_from_civil(year, 1, 1) + n - 1,
        Some(_) => return Err(out_of_range()),
        None => days_from_civil(year, month, day),
    };
    let time = hour * HOUR_US + minute * MINUTE_US + second * SECOND_US + micros;
    check_timestamp(days * DAY_US + time)
}

fn invalid(rest: &str, keyword: &str, width: usize) -> Failure {
    let shown: String = rest.chars().take(width).collect();
    Failure::new(
        SqlState::DatetimeFormat,
        format!("invalid value \"{shown}\" for \"{keyword}\""),
    )
    .with_detail("Value must be an integer.")
}

fn unknown(rest: &str, keyword: &str) -> Failure {
    let word: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
    Failure::new(
        SqlState::DatetimeFormat,
        format!("invalid value \"{word}\" for \"{keyword}\""),
    )
    .with_detail("The given value did not match any of the allowed values for this field.")
}

fn to_date(text: &str, template: &str) -> Result<Value> {
    let micros = read(text, template)?;
    i32::try_from(micros.div_euclid(DAY_US))
        .map(Value::Date)
        .map_err(|_| Failure::new(SqlState::DatetimeOverflow, "date out of range"))
}

const T: DataType = TEXT_TYPE;
const INPUT: &[Argument] = &[TEXT, TEXT];

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "to_char",
        &[TIMESTAMP, TEXT],
        T,
        |v| arguments!(v, Value::Timestamp(t), Value::Text(p) => print(p, &Moment::of_timestamp(*t, false))),
        "printed by a template",
    ),
    row(
        "to_char",
        &[TIMESTAMPTZ, TEXT],
        T,
        |v| arguments!(v, Value::TimestampTz(t), Value::Text(p) => print(p, &Moment::of_timestamp(*t, true))),
        "printed by a template",
    ),
    row(
        "to_char",
        &[INTERVAL, TEXT],
        T,
        |v| arguments!(v, Value::Interval(i), Value::Text(p) => print(p, &Moment::of_interval(*i))),
        "printed by a template",
    ),
    row(
        "to_date",
        INPUT,
        DataType::Date,
        |v| arguments!(v, Value::Text(s), Value::Text(p) => to_date(s, p)),
        "a date read by a template",
    ),
    row(
        "to_timestamp",
        INPUT,
        DataType::TimestampTz,
        |v| arguments!(v, Value::Text(s), Value::Text(p) => read(s, p).map(Value::TimestampTz)),
        "a moment read by a template",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(template: &str) -> String {
        // 2024-02-09 13:04:05.678
        let micros = days_from_civil(2024, 2, 9) * DAY_US
            + 13 * HOUR_US
            + 4 * MINUTE_US
            + 5 * SECOND_US
            + 678_000;
        match print(template, &Moment::of_timestamp(micros, true)) {
            Ok(Value::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn templates_print_as_postgresql_prints_them() {
        for (template, expected) in [
            (
                "Dy, DD Mon YYYY HH24:MI:SS.MS",
                "Fri, 09 Feb 2024 13:04:05.678",
            ),
            (
                "FMDay, FMDD FMMonth YYYY HH12:MI:SS AM",
                "Friday, 9 February 2024 01:04:05 PM",
            ),
            (
                "DDD D WW IW IYYY Q CC Y,YYY YY pm p.m.",
                "040 6 06 06 2024 1 21 2,024 24 pm p.m.",
            ),
            (
                "YYYY-MM-DD\"T\"HH24:MI:SSOF TZ",
                "2024-02-09T13:04:05+00 UTC",
            ),
            ("DDth DDTH \"DD\"", "09th 09TH DD"),
            ("Month|MON|RM", "February |FEB|II  "),
            ("SSSS J", "47045 2460350"),
            ("Ddth dd", "66th 09"),
        ] {
            assert_eq!(shown(template), expected, "{template}");
        }
    }

    #[test]
    fn templates_read_what_they_print() {
        let read = |text: &str, template: &str| {
            let mut out = String::new();
            nodedb_types::datetime::format_timestamp(read(text, template).unwrap(), &mut out);
            out
        };
        assert_eq!(read("2024-02-09", "YYYY-MM-DD"), "2024-02-09 00:00:00");
        assert_eq!(read("09 Feb 2024", "DD Mon YYYY"), "2024-02-09 00:00:00");
        assert_eq!(
            read("20240209 010203", "YYYYMMDD HH24MISS"),
            "2024-02-09 01:02:03"
        );
        assert_eq!(
            read("1:30 PM 5/6/24", "HH12:MI AM DD/MM/YY"),
            "2024-06-05 13:30:00"
        );
        assert!(super::read("2024-13-01", "YYYY-MM-DD").is_err());
        assert!(super::read("x", "YYYY").is_err());
    }
}
