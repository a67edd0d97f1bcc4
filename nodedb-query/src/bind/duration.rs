//! `INTERVAL 'text' field TO field`: which unit bare numbers are of, and what is cut off.

use nodedb_types::datetime::Interval;
use nodedb_types::{Failure, Result, SqlState};
use sqlparser::ast::DateTimeField;

/// Fields from the largest to the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Field::Year => "year",
            Field::Month => "month",
            Field::Day => "day",
            Field::Hour => "hour",
            Field::Minute => "minute",
            Field::Second => "second",
        }
    }
}

pub(super) fn field(field: &DateTimeField) -> Result<Field> {
    Ok(match field {
        DateTimeField::Year => Field::Year,
        DateTimeField::Month => Field::Month,
        DateTimeField::Day => Field::Day,
        DateTimeField::Hour => Field::Hour,
        DateTimeField::Minute => Field::Minute,
        DateTimeField::Second => Field::Second,
        other => {
            return Err(Failure::new(
                SqlState::SyntaxError,
                format!("syntax error at or near \"{other}\""),
            ));
        }
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.parse::<f64>().is_ok() && !text.contains(['n', 'N', 'i', 'I'])
}

/// The text with its last bare number given the unit of the last field.
/// Fails with 42601 for fields that are no range.
pub(super) fn spelled(text: &str, first: Field, last: Field) -> Result<String> {
    let is_range = match (first, last) {
        (a, b) if a == b => true,
        (Field::Year, Field::Month) => true,
        (Field::Year | Field::Month, _) => false,
        (a, b) => a < b,
    };
    if !is_range {
        return Err(Failure::new(
            SqlState::SyntaxError,
            format!("syntax error at or near \"{}\"", last.name().to_uppercase()),
        ));
    }
    let trimmed = text.trim();
    let (before, end) = match trimmed.rsplit_once(char::is_whitespace) {
        Some((before, end)) => (format!("{before} "), end),
        None => (String::new(), trimmed),
    };
    // A day and an hour: a bare number stands for each.
    if is_number(end) {
        let before = match before.trim() {
            days if is_number(days) && first == Field::Day => format!("{days} days "),
            _ => before,
        };
        return Ok(format!("{before}{end} {}", last.name()));
    }
    // 1:30 is hours and minutes, unless minutes and seconds are asked for.
    let is_short = end.matches(':').count() == 1 && !end.contains('.');
    if is_short && first == Field::Minute && last == Field::Second {
        let (sign, digits) = match end.strip_prefix('-') {
            Some(rest) => ("-", rest),
            None => ("", end),
        };
        return Ok(format!("{before}{sign}00:{digits}"));
    }
    Ok(trimmed.to_owned())
}

/// Without what is smaller than the last field.
pub(super) fn cut(i: Interval, last: Field) -> Interval {
    let whole = |unit: i64| i.micros / unit * unit;
    match last {
        Field::Year => Interval {
            months: i.months / 12 * 12,
            days: 0,
            micros: 0,
        },
        Field::Month => Interval {
            months: i.months,
            days: 0,
            micros: 0,
        },
        Field::Day => Interval { micros: 0, ..i },
        Field::Hour => Interval {
            micros: whole(3_600_000_000),
            ..i
        },
        Field::Minute => Interval {
            micros: whole(60_000_000),
            ..i
        },
        Field::Second => i,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_numbers_are_of_the_last_field() {
        let of = |text, first, last| spelled(text, first, last).expect("a range");
        assert_eq!(of("1", Field::Year, Field::Year), "1 year");
        assert_eq!(of("1 2", Field::Day, Field::Hour), "1 days 2 hour");
        assert_eq!(of("1:30", Field::Minute, Field::Second), "00:1:30");
        assert_eq!(of("1 2:03", Field::Day, Field::Minute), "1 2:03");
        assert!(spelled("1", Field::Hour, Field::Day).is_err());
        assert!(spelled("1", Field::Year, Field::Second).is_err());
    }
}
