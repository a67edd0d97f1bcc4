//! Reads dates and timestamps as PostgreSQL's input functions do.
//!
//! The text is cut into fields (numbers, dates with separators, times, words, zone offsets), each
//! field says what it sets, and a field that sets something twice is an error. Slashes and
//! hyphens without a leading year mean month, day, year.

use super::{
    DATE_MAX, DATE_MIN, DAY_US, check_timestamp, days_from_civil, days_in_month, field_overflow,
    invalid,
};
use crate::failure::{Failure, Result};
use crate::sqlstate::SqlState;

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = [
    "sunday",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
];
/// Farthest offset from UTC, seconds: just under 16 hours, as PostgreSQL.
const ZONE_SECONDS_MAX: i64 = 16 * 3600 - 1;

/// Days since 1970-01-01. A time and a zone are allowed and ignored. 22007, 22008.
pub fn parse_date(text: &str) -> Result<i32> {
    let fields = Fields::read("date", text)?;
    let days = fields.days()?;
    fields.time_of_day()?;
    if !(i64::from(DATE_MIN)..=i64::from(DATE_MAX)).contains(&days) {
        return Err(Failure::new(
            SqlState::DatetimeOverflow,
            format!("date out of range: \"{text}\""),
        ));
    }
    Ok(days as i32)
}

/// Microseconds since 1970-01-01 00:00; a zone is allowed and ignored. 22007, 22008.
pub fn parse_timestamp(text: &str) -> Result<i64> {
    Fields::read("timestamp", text)?.micros(false)
}

/// Microseconds since 1970-01-01 00:00 UTC; without a zone the text is in UTC. 22007, 22008.
pub fn parse_timestamptz(text: &str) -> Result<i64> {
    Fields::read("timestamp with time zone", text)?.micros(true)
}

#[derive(Clone, Copy, PartialEq)]
enum Meridiem {
    Am,
    Pm,
}

/// A number with its count of digits, which tells `0024` from `24`.
#[derive(Clone, Copy)]
struct Number {
    value: i64,
    digits: usize,
}

/// What the text has set so far.
struct Fields<'a> {
    kind: &'static str,
    text: &'a str,
    year: Option<Number>,
    month: Option<u32>,
    day: Option<u32>,
    /// Microseconds of the day.
    time: Option<i64>,
    meridiem: Option<Meridiem>,
    /// Seconds east of UTC.
    zone: Option<i64>,
    before_christ: Option<bool>,
    epoch: bool,
}

impl<'a> Fields<'a> {
    fn read(kind: &'static str, text: &'a str) -> Result<Fields<'a>> {
        let mut fields = Fields {
            kind,
            text,
            year: None,
            month: None,
            day: None,
            time: None,
            meridiem: None,
            zone: None,
            before_christ: None,
            epoch: false,
        };
        let mut scan = Scan {
            rest: text.as_bytes(),
        };
        loop {
            scan.skip_blanks();
            let Some(&next) = scan.rest.first() else {
                break;
            };
            match next {
                b'0'..=b'9' => fields.number(&mut scan)?,
                b'a'..=b'z' | b'A'..=b'Z' => fields.word(&mut scan)?,
                b'+' | b'-' => fields.offset(&mut scan)?,
                _ => return Err(fields.invalid()),
            }
        }
        Ok(fields)
    }

    fn invalid(&self) -> Failure {
        invalid(self.kind, self.text)
    }

    fn overflow(&self) -> Failure {
        field_overflow(self.text)
    }

    fn set<T>(slot: &mut Option<T>, value: T, failure: Failure) -> Result<()> {
        if slot.replace(value).is_some() {
            Err(failure)
        } else {
            Ok(())
        }
    }

    fn has_date(&self) -> bool {
        self.year.is_some() && self.month.is_some() && self.day.is_some()
    }

    fn number(&mut self, scan: &mut Scan) -> Result<()> {
        let first = scan.digits().ok_or_else(|| self.overflow())?;
        match scan.rest.first() {
            Some(b':') => self.clock(first, scan),
            Some(&separator @ (b'-' | b'/' | b'.')) if !self.has_date() => {
                self.separated(first, separator, scan)
            }
            _ => self.bare(first, scan),
        }
    }

    /// `H:MM[:SS[.fraction]]`, the hours already read.
    fn clock(&mut self, hours: Number, scan: &mut Scan) -> Result<()> {
        scan.rest = &scan.rest[1..];
        let minutes = self.digits(scan)?;
        let mut seconds = 0;
        let mut fraction = 0;
        if scan.take(b':') {
            seconds = self.digits(scan)?.value;
            fraction = scan.fraction();
        }
        self.set_time(hours.value, minutes.value, seconds, fraction)
    }

    fn set_time(&mut self, hours: i64, minutes: i64, seconds: i64, fraction: i64) -> Result<()> {
        // 24:00:00 and a 60th second are allowed: they are the next day or minute.
        if hours > 24 || minutes > 59 || seconds > 60 {
            return Err(self.overflow());
        }
        let time = (hours * 3600 + minutes * 60 + seconds) * 1_000_000 + fraction;
        if time > DAY_US {
            return Err(self.overflow());
        }
        let failure = self.invalid();
        Fields::set(&mut self.time, time, failure)
    }

    fn digits(&self, scan: &mut Scan) -> Result<Number> {
        match scan.rest.first() {
            Some(b'0'..=b'9') => scan.digits().ok_or_else(|| self.overflow()),
            _ => Err(self.invalid()),
        }
    }

    /// A date of three parts with one separator, one of which may be the month's name.
    fn separated(&mut self, first: Number, separator: u8, scan: &mut Scan) -> Result<()> {
        scan.rest = &scan.rest[1..];
        let named = |scan: &mut Scan| month_of(scan.letters());
        if matches!(scan.rest.first(), Some(b) if b.is_ascii_alphabetic()) {
            let month = named(scan).ok_or_else(|| self.invalid())?;
            if !scan.take(separator) {
                return Err(self.invalid());
            }
            let last = self.digits(scan)?;
            let (year, day) = if first.digits > 2 {
                (first, last)
            } else {
                (last, first)
            };
            return self.set_date(year, i64::from(month), day.value);
        }
        let second = self.digits(scan)?;
        if !scan.take(separator) {
            return Err(self.invalid());
        }
        let third = self.digits(scan)?;
        if first.digits > 2 {
            self.set_date(first, second.value, third.value)
        } else {
            self.set_date(third, first.value, second.value)
        }
    }

    fn set_date(&mut self, year: Number, month: i64, day: i64) -> Result<()> {
        let failure = || invalid(self.kind, self.text);
        if self.year.is_some() || self.month.is_some() || self.day.is_some() {
            return Err(failure());
        }
        let part = |v: i64| u32::try_from(v).map_err(|_| field_overflow(self.text));
        (self.month, self.day) = (Some(part(month)?), Some(part(day)?));
        self.year = Some(year);
        Ok(())
    }

    /// A number that stands alone: a packed date or time, or a part of `Jan 8 1999`.
    fn bare(&mut self, number: Number, scan: &mut Scan) -> Result<()> {
        let Number { value, digits } = number;
        if self.has_date() && self.time.is_none() && matches!(digits, 4 | 6) {
            let (hours, rest) = if digits == 6 {
                (value / 10_000, value % 10_000)
            } else {
                (value / 100, value % 100 * 100)
            };
            let fraction = if digits == 6 { scan.fraction() } else { 0 };
            return self.set_time(hours, rest / 100, rest % 100, fraction);
        }
        if self.year.is_none()
            && self.month.is_none()
            && self.day.is_none()
            && matches!(digits, 6 | 8..)
        {
            let year = Number {
                value: value / 10_000,
                digits: digits - 4,
            };
            return self.set_date(year, value / 100 % 100, value % 100);
        }
        if self.time.is_none() && self.has_date() && digits <= 2 {
            // Hours of `2024-01-15 10 PM`; without AM or PM this is an error, found at the end.
            return Err(self.invalid());
        }
        if digits > 2 {
            let failure = self.invalid();
            return Fields::set(&mut self.year, number, failure);
        }
        if self.month.is_some() && self.day.is_none() {
            self.day = Some(value as u32);
            Ok(())
        } else if self.day.is_some() || self.month.is_some() {
            let failure = self.invalid();
            Fields::set(&mut self.year, number, failure)
        } else {
            self.day = Some(value as u32);
            Ok(())
        }
    }

    fn word(&mut self, scan: &mut Scan) -> Result<()> {
        let word = scan.letters().to_ascii_lowercase();
        let failure = self.invalid();
        if let Some(month) = month_of(&word) {
            scan.take(b'.');
            // `Jan-8-1999`: the hyphen is a separator here, not the sign of a zone.
            if self.day.is_none() && matches!(scan.rest, [b'-' | b'/', b'0'..=b'9', ..]) {
                scan.rest = &scan.rest[1..];
            }
            Fields::set(&mut self.month, month, failure)?;
            if self.day.is_none() && matches!(scan.rest.first(), Some(b'0'..=b'9')) {
                let number = self.digits(scan)?;
                self.bare(number, scan)?;
                if self.day.is_some() && matches!(scan.rest, [b'-' | b'/', b'0'..=b'9', ..]) {
                    scan.rest = &scan.rest[1..];
                }
            }
            return Ok(());
        }
        match word.as_str() {
            "t" if self.time.is_none() && matches!(scan.rest.first(), Some(b'0'..=b'9')) => Ok(()),
            "am" => Fields::set(&mut self.meridiem, Meridiem::Am, failure),
            "pm" => Fields::set(&mut self.meridiem, Meridiem::Pm, failure),
            "bc" => Fields::set(&mut self.before_christ, true, failure),
            "ad" => Fields::set(&mut self.before_christ, false, failure),
            "epoch" => {
                self.epoch = true;
                Ok(())
            }
            "allballs" => Fields::set(&mut self.time, 0, failure),
            "z" | "utc" | "gmt" | "zulu" | "ut" | "uct" | "zt" => {
                Fields::set(&mut self.zone, 0, failure)
            }
            "infinity" | "inf" | "now" | "today" | "tomorrow" | "yesterday" => Err(
                Failure::unsupported(format_args!("\"{word}\" as a value of type {}", self.kind)),
            ),
            _ if WEEKDAYS.iter().any(|day| abbreviates(&word, day)) => {
                scan.take(b'.');
                Ok(())
            }
            _ if self.has_date() => Err(Failure::unsupported(format_args!("time zone \"{word}\""))
                .with_hint("Give the zone as an offset from UTC, such as +02:00.")),
            _ => Err(failure),
        }
    }

    /// `+HH`, `+HHMM`, `+HH:MM` or `+HH:MM:SS`.
    fn offset(&mut self, scan: &mut Scan) -> Result<()> {
        let negative = scan.rest[0] == b'-';
        scan.rest = &scan.rest[1..];
        if matches!(scan.rest, [b'i' | b'I', ..]) {
            return Err(Failure::unsupported(format_args!(
                "\"-infinity\" as a value of type {}",
                self.kind
            )));
        }
        if self.time.is_none() && !self.has_date() {
            return Err(self.invalid());
        }
        let first = self.digits(scan)?;
        let mut seconds = match first.digits {
            1 | 2 => first.value * 3600,
            3 | 4 => first.value / 100 * 3600 + first.value % 100 * 60,
            _ => return Err(self.invalid()),
        };
        if first.digits <= 2 && scan.take(b':') {
            let minutes = self.digits(scan)?.value;
            seconds += minutes * 60;
            if scan.take(b':') {
                seconds += self.digits(scan)?.value;
            }
            if minutes > 59 {
                return Err(self.zone_overflow());
            }
        }
        if seconds > ZONE_SECONDS_MAX {
            return Err(self.zone_overflow());
        }
        let failure = self.invalid();
        Fields::set(
            &mut self.zone,
            if negative { -seconds } else { seconds },
            failure,
        )
    }

    fn zone_overflow(&self) -> Failure {
        Failure::new(
            SqlState::InvalidTimeZoneDisplacement,
            format!("time zone displacement out of range: \"{}\"", self.text),
        )
    }

    /// Day number; the year made astronomical.
    fn days(&self) -> Result<i64> {
        if self.epoch {
            let alone = self.year.is_none() && self.month.is_none() && self.day.is_none();
            return if alone && self.time.is_none() {
                Ok(0)
            } else {
                Err(self.invalid())
            };
        }
        let (Some(year), Some(month), Some(day)) = (self.year, self.month, self.day) else {
            return Err(self.invalid());
        };
        let before_christ = self.before_christ == Some(true);
        let year = match (year.value, before_christ) {
            (0, true) => return Err(self.overflow()),
            (value, true) => 1 - value,
            (value @ 0..70, false) if year.digits <= 2 => 2000 + value,
            (value @ 70..100, false) if year.digits <= 2 => 1900 + value,
            (0, false) => return Err(self.overflow()),
            (value, false) => value,
        };
        if !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
            return Err(self.overflow());
        }
        // Far beyond either type; the callers' bounds are exact.
        if year > 10_000_000 {
            return Err(self.overflow());
        }
        Ok(days_from_civil(year, month, day))
    }

    /// Microseconds since midnight, AM and PM applied.
    fn time_of_day(&self) -> Result<i64> {
        let Some(meridiem) = self.meridiem else {
            return Ok(self.time.unwrap_or(0));
        };
        let Some(time) = self.time else {
            return Err(self.invalid());
        };
        match (meridiem, time / 3_600_000_000) {
            (_, 13..) => Err(self.overflow()),
            (Meridiem::Am, 12) => Ok(time - DAY_US / 2),
            (Meridiem::Pm, 0..=11) => Ok(time + DAY_US / 2),
            (Meridiem::Am | Meridiem::Pm, _) => Ok(time),
        }
    }

    fn micros(&self, zoned: bool) -> Result<i64> {
        let days = self.days()?;
        let time = self.time_of_day()?;
        let zone = if zoned { self.zone.unwrap_or(0) } else { 0 };
        days.checked_mul(DAY_US)
            .and_then(|us| us.checked_add(time))
            .and_then(|us| us.checked_sub(zone * 1_000_000))
            .and_then(|us| check_timestamp(us).ok())
            .ok_or_else(|| {
                Failure::new(
                    SqlState::DatetimeOverflow,
                    format!("timestamp out of range: \"{}\"", self.text),
                )
            })
    }
}

/// At least three letters of the month, as PostgreSQL accepts them (`sept` too).
fn month_of(word: &str) -> Option<u32> {
    let word = word.to_ascii_lowercase();
    let at = MONTHS.iter().position(|month| abbreviates(&word, month))?;
    Some(at as u32 + 1)
}

/// The whole name, its first three letters, or one of the four-letter forms in use.
fn abbreviates(word: &str, name: &str) -> bool {
    word == name
        || word.len() == 3 && name.starts_with(word)
        || matches!(word, "sept" | "tues" | "wednes" | "thur" | "thurs") && name.starts_with(word)
}

/// The text that is left.
struct Scan<'a> {
    rest: &'a [u8],
}

impl<'a> Scan<'a> {
    fn skip_blanks(&mut self) {
        while let [b' ' | b'\t'..=b'\r' | b',', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let end = self
            .rest
            .iter()
            .position(|b| !wanted(*b))
            .unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(end);
        self.rest = rest;
        std::str::from_utf8(run).expect("only ASCII is taken")
    }

    fn letters(&mut self) -> &'a str {
        self.take_while(|b| b.is_ascii_alphabetic())
    }

    /// None when the number is beyond all fields.
    fn digits(&mut self) -> Option<Number> {
        let run = self.take_while(|b| b.is_ascii_digit());
        // Ten digits hold every packed date; more is out of range for each field.
        let value = run.parse().ok().filter(|v: &i64| *v < 100_000_000_000)?;
        Some(Number {
            value,
            digits: run.len(),
        })
    }

    /// Microseconds of `.ffffff…`, rounded; 0 without a point.
    fn fraction(&mut self) -> i64 {
        if !matches!(self.rest, [b'.', ..]) {
            return 0;
        }
        self.rest = &self.rest[1..];
        micros_of_fraction(self.take_while(|b| b.is_ascii_digit()))
    }
}

/// `digits` after a decimal point as microseconds, half away from zero.
pub(super) fn micros_of_fraction(digits: &str) -> i64 {
    let mut micros = 0;
    for at in 0..6 {
        micros = micros * 10 + digits.as_bytes().get(at).map_or(0, |b| i64::from(b - b'0'));
    }
    micros + i64::from(digits.as_bytes().get(6).is_some_and(|b| *b >= b'5'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datetime::{format_date, format_timestamp, format_timestamptz};

    fn date(text: &str) -> String {
        let mut out = String::new();
        format_date(
            parse_date(text).unwrap_or_else(|e| panic!("{text}: {e}")),
            &mut out,
        );
        out
    }

    fn timestamp(text: &str) -> String {
        let mut out = String::new();
        format_timestamp(
            parse_timestamp(text).unwrap_or_else(|e| panic!("{text}: {e}")),
            &mut out,
        );
        out
    }

    fn timestamptz(text: &str) -> String {
        let mut out = String::new();
        let us = parse_timestamptz(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        format_timestamptz(us, &mut out);
        out
    }

    #[test]
    fn forms_of_one_date() {
        for text in [
            "1999-01-08",
            " 1999-1-8 ",
            "January 8, 1999",
            "Jan 8 1999",
            "8 Jan 1999",
            "1/8/1999",
            "1-8-1999",
            "1/8/99",
            "19990108",
            "990108",
            "1999-Jan-08",
            "Jan-08-1999",
            "08-Jan-1999",
            "08-Jan-99",
            "1999 Jan 8",
            "Fri Jan 8 1999",
            "1999-01-08 AD",
            "1999-01-08 23:59:60",
            "1999-01-08T04:05:06Z",
            "01/08/1999 AD",
        ] {
            assert_eq!(date(text), "1999-01-08", "{text}");
        }
        assert_eq!(date("0044-03-15 BC"), "0044-03-15 BC");
        assert_eq!(date("epoch"), "1970-01-01");
        assert_eq!(date("5874897-12-31"), "5874897-12-31");
        assert_eq!(date("4714-11-24 BC"), "4714-11-24 BC");
        assert_eq!(date("2024-02-29"), "2024-02-29");
    }

    #[test]
    fn forms_of_one_time() {
        for text in [
            "2024-05-06 15:04:05",
            "2024-05-06T15:04:05",
            "2024-05-06 03:04:05 PM",
            "2024-05-06 03:04:05PM",
            "20240506T150405",
            "20240506 150405",
            "May 6 15:04:05 2024",
            "Mon May 6 15:04:05 2024",
            "2024-05-06 15:04:05+02",
            "15:04:05 2024-05-06",
            "2024-05-06 15:04:05 UTC",
        ] {
            assert_eq!(timestamp(text), "2024-05-06 15:04:05", "{text}");
        }
        assert_eq!(timestamp("2024-05-06 15:04"), "2024-05-06 15:04:00");
        assert_eq!(
            timestamp("2024-05-06 15:04:05.1234567"),
            "2024-05-06 15:04:05.123457"
        );
        assert_eq!(timestamp("2024-05-06 24:00:00"), "2024-05-07 00:00:00");
        assert_eq!(timestamp("2024-12-31 23:59:60"), "2025-01-01 00:00:00");
        assert_eq!(timestamp("2024-05-06 12:30 am"), "2024-05-06 00:30:00");
        assert_eq!(timestamp("2024-05-06 12:30 pm"), "2024-05-06 12:30:00");
    }

    #[test]
    fn zones_are_offsets() {
        for text in [
            "2024-05-06 15:04:05+02",
            "2024-05-06 15:04:05 +0200",
            "2024-05-06T15:04:05+02:00",
            "2024-05-06 13:04:05Z",
            "2024-05-06 13:04:05 UTC",
            "2024-05-06 13:04:05",
            "2024-05-06 05:34:05-07:30",
        ] {
            assert_eq!(timestamptz(text), "2024-05-06 13:04:05+00", "{text}");
        }
        assert_eq!(
            parse_timestamptz("2024-05-06 13:04 Europe/Berlin")
                .unwrap_err()
                .code()
                .code(),
            "0A000"
        );
    }

    #[test]
    fn refusals_have_their_codes() {
        for (text, code) in [
            ("", "22007"),
            ("foo", "22007"),
            ("2024", "22007"),
            ("2024-01", "22007"),
            ("10:00", "22007"),
            ("2024-01-15 10:00 10:00", "22007"),
            ("2024-01-15 2024-01-15", "22007"),
            ("2024-13-01", "22008"),
            ("2023-02-29", "22008"),
            ("2024-00-10", "22008"),
            ("0000-01-01", "22008"),
            ("2024-01-01 25:00", "22008"),
            ("2024-01-01 10:60", "22008"),
            ("2024-01-01 10:00+17", "22009"),
            ("99999999999999999999-01-01", "22008"),
            ("infinity", "0A000"),
            ("-infinity", "0A000"),
            ("now", "0A000"),
        ] {
            assert_eq!(
                parse_timestamptz(text).unwrap_err().code().code(),
                code,
                "{text}"
            );
        }
        assert_eq!(
            parse_date("5874898-01-01").unwrap_err().code().code(),
            "22008"
        );
        assert_eq!(
            parse_date("4714-11-23 BC").unwrap_err().code().code(),
            "22008"
        );
        assert_eq!(
            parse_timestamp("294248-01-01").unwrap_err().code().code(),
            "22008"
        );
    }
}
