//! Session settings: one table, one line each.
//!
//! Only settings that do something exist; a value that would change nothing although it should is
//! refused with 0A000, an unknown name with 42704 (Q1).

use std::collections::BTreeMap;

use nodedb_query::catalog::{Setting, similar};
use nodedb_types::{Failure, Result, SqlState};

/// PostgreSQL's release that we speak like, and our own.
pub const SERVER_VERSION: &str = concat!("15.0 (NodeDB ", env!("CARGO_PKG_VERSION"), ")");

/// Checks a value and gives it in canonical form.
type Check = fn(&str) -> std::result::Result<String, Refusal>;

enum Refusal {
    /// 22023.
    Invalid,
    /// 0A000: PostgreSQL has it, we do not.
    Unsupported,
}

struct Definition {
    name: &'static str,
    default: &'static str,
    /// Sent to the client when it changes (`ParameterStatus`).
    reported: bool,
    /// `None`: cannot be set.
    check: Option<Check>,
    description: &'static str,
}

const fn setting(
    name: &'static str,
    default: &'static str,
    reported: bool,
    check: Option<Check>,
    description: &'static str,
) -> Definition {
    Definition {
        name,
        default,
        reported,
        check,
        description,
    }
}

/// Every setting, sorted by lower-case name.
#[rustfmt::skip]
const TABLE: &[Definition] = &[
    setting("application_name", "", true, Some(any), "Name of the client program."),
    setting("bytea_output", "hex", false, Some(|v| only(v, &["hex"], &["escape"])), "Output format of bytea."),
    setting("client_encoding", "UTF8", true, Some(encoding), "Encoding of text on the wire."),
    setting("client_min_messages", "notice", false, Some(message_level), "Least severe message that is sent."),
    setting("DateStyle", "ISO, MDY", true, Some(date_style), "Format of dates."),
    setting("default_transaction_isolation", "read committed", false, Some(isolation), "Isolation of new transactions."),
    setting("default_transaction_read_only", "off", true, Some(off), "Whether new transactions are read-only."),
    setting("extra_float_digits", "1", false, Some(float_digits), "Digits of floats; above 0 means the shortest exact form."),
    setting("idle_in_transaction_session_timeout", "0", false, Some(zero), "Longest idle time within a transaction."),
    setting("in_hot_standby", "off", true, None, "Whether this is a standby."),
    setting("integer_datetimes", "on", true, None, "Timestamps are 64-bit integers."),
    setting("IntervalStyle", "postgres", true, Some(|v| only(v, &["postgres"], &["postgres_verbose", "sql_standard", "iso_8601"])), "Format of intervals."),
    setting("is_superuser", "on", true, None, "Whether the session's user is a superuser."),
    setting("lock_timeout", "0", false, Some(zero), "Longest wait for a lock."),
    setting("max_identifier_length", "63", false, None, "Longest name, bytes."),
    setting("search_path", "\"$user\", public", false, Some(search_path), "Schemas in which names are looked up."),
    setting("server_encoding", "UTF8", true, None, "Encoding of stored text."),
    setting("server_version", SERVER_VERSION, true, None, "PostgreSQL's release that the server speaks like."),
    setting("server_version_num", "150000", false, None, "The same as a number."),
    setting("session_authorization", "", true, None, "The session's user."),
    setting("standard_conforming_strings", "on", true, Some(on), "Backslashes in plain strings are ordinary."),
    setting("statement_timeout", "0", false, Some(duration), "Longest run of a statement; 0 is no limit."),
    setting("TimeZone", "UTC", true, Some(time_zone), "Time zone of the session."),
    setting("transaction_isolation", "read committed", false, None, "Isolation of the present transaction."),
    setting("transaction_read_only", "off", false, None, "Whether the present transaction is read-only."),
];

/// A session's values.
#[derive(Debug, Clone)]
pub struct Settings {
    /// By lower-case name; what is missing has its default.
    values: BTreeMap<String, String>,
    /// What `RESET` goes back to: the values given when the session began.
    initial: BTreeMap<String, String>,
    reported: Vec<(&'static str, String)>,
    /// Of `statement_timeout`, which every statement asks for.
    timeout_ns: Option<u64>,
}

impl Settings {
    /// `user`: as the client named itself. `parameters`: those of the start-up message that are
    /// settings.
    pub fn new<'a>(
        user: &str,
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Settings> {
        let mut settings = Settings {
            values: BTreeMap::new(),
            initial: BTreeMap::new(),
            reported: Vec::new(),
            timeout_ns: None,
        };
        settings
            .values
            .insert("session_authorization".to_owned(), user.to_owned());
        for (name, value) in parameters {
            settings.set(name, value)?;
        }
        settings.initial = settings.values.clone();
        settings.reported.clear();
        Ok(settings)
    }

    pub fn get(&self, name: &str) -> Result<String> {
        Ok(self.value(definition(name)?))
    }

    /// The setting's name in the spelling of the table.
    pub fn canonical_name(name: &str) -> Result<&'static str> {
        Ok(definition(name)?.name)
    }

    fn value(&self, definition: &Definition) -> String {
        self.values
            .get(&definition.name.to_ascii_lowercase())
            .map_or(definition.default, String::as_str)
            .to_owned()
    }

    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let definition = definition(name)?;
        let Some(check) = definition.check else {
            return Err(Failure::new(
                SqlState::ObjectNotInPrerequisiteState,
                format!("parameter \"{}\" cannot be changed", definition.name),
            ));
        };
        let value = check(value).map_err(|refusal| match refusal {
            Refusal::Invalid => Failure::new(
                SqlState::InvalidParameterValue,
                format!(
                    "invalid value for parameter \"{}\": \"{value}\"",
                    definition.name
                ),
            ),
            Refusal::Unsupported => {
                Failure::unsupported(format!("{} = \"{value}\"", definition.name))
            }
        })?;
        self.store(definition, value);
        Ok(())
    }

    /// `SET name TO DEFAULT` and `RESET name`.
    pub fn reset(&mut self, name: &str) -> Result<()> {
        let definition = definition(name)?;
        if definition.check.is_none() {
            return Err(Failure::new(
                SqlState::ObjectNotInPrerequisiteState,
                format!("parameter \"{}\" cannot be changed", definition.name),
            ));
        }
        let initial = self
            .initial
            .get(&definition.name.to_ascii_lowercase())
            .map_or(definition.default, String::as_str)
            .to_owned();
        self.store(definition, initial);
        Ok(())
    }

    pub fn reset_all(&mut self) {
        for definition in TABLE.iter().filter(|d| d.check.is_some()) {
            // Every name of the table is known.
            let _ = self.reset(definition.name);
        }
    }

    fn store(&mut self, definition: &'static Definition, value: String) {
        if definition.reported && self.value(definition) != value {
            self.reported.push((definition.name, value.clone()));
        }
        self.values
            .insert(definition.name.to_ascii_lowercase(), value);
        let timeout = self.values.get("statement_timeout");
        let timeout_ms = timeout
            .and_then(|value| parse_duration(value))
            .filter(|ms| *ms > 0);
        self.timeout_ns = timeout_ms.map(|ms: u64| ms.saturating_mul(1_000_000));
    }

    /// Changes that the client has to be told of, once.
    pub fn take_reported(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.reported)
    }

    /// What a client is told when the session begins.
    pub fn all_reported(&self) -> Vec<(&'static str, String)> {
        TABLE
            .iter()
            .filter(|d| d.reported)
            .map(|d| (d.name, self.value(d)))
            .collect()
    }

    pub fn all(&self) -> Vec<Setting> {
        TABLE
            .iter()
            .map(|d| Setting {
                name: d.name.to_owned(),
                value: self.value(d),
                description: d.description.to_owned(),
            })
            .collect()
    }

    /// `statement_timeout`, nanoseconds.
    pub fn statement_timeout_ns(&self) -> Option<u64> {
        self.timeout_ns
    }

    /// Whether a NOTICE is sent.
    pub fn wants_notices(&self) -> bool {
        !matches!(
            self.values.get("client_min_messages").map(String::as_str),
            Some("warning" | "error")
        )
    }
}

fn definition(name: &str) -> Result<&'static Definition> {
    if let Some(definition) = TABLE.iter().find(|d| d.name.eq_ignore_ascii_case(name)) {
        return Ok(definition);
    }
    if name.eq_ignore_ascii_case("hnsw.ef_search") {
        return Err(Failure::unsupported("the parameter \"hnsw.ef_search\""));
    }
    let failure = Failure::new(
        SqlState::UndefinedObject,
        format!("unrecognized configuration parameter \"{name}\""),
    );
    Err(match similar(name, TABLE.iter().map(|d| d.name)) {
        Some(similar) => failure.with_hint(format!("did you mean \"{similar}\"?")),
        None => failure,
    })
}

type Checked = std::result::Result<String, Refusal>;

fn any(value: &str) -> Checked {
    Ok(value.to_owned())
}

fn only(value: &str, supported: &[&str], known: &[&str]) -> Checked {
    let lower = value.to_ascii_lowercase();
    if supported.contains(&&*lower) {
        Ok(lower)
    } else if known.contains(&&*lower) {
        Err(Refusal::Unsupported)
    } else {
        Err(Refusal::Invalid)
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some(true),
        "off" | "false" | "no" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

fn on(value: &str) -> Checked {
    match boolean(value) {
        Some(true) => Ok("on".to_owned()),
        Some(false) => Err(Refusal::Unsupported),
        None => Err(Refusal::Invalid),
    }
}

fn off(value: &str) -> Checked {
    match boolean(value) {
        Some(false) => Ok("off".to_owned()),
        Some(true) => Err(Refusal::Unsupported),
        None => Err(Refusal::Invalid),
    }
}

fn encoding(value: &str) -> Checked {
    let plain: String = value
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_uppercase())
        .collect();
    match plain.as_str() {
        "UTF8" | "UNICODE" => Ok("UTF8".to_owned()),
        "SQLASCII" | "LATIN1" | "WIN1252" | "EUCJP" | "SJIS" | "GBK" | "BIG5" | "KOI8R" => {
            Err(Refusal::Unsupported)
        }
        _ => Err(Refusal::Invalid),
    }
}

fn message_level(value: &str) -> Checked {
    only(
        value,
        &[
            "debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning", "error",
        ],
        &[],
    )
}

fn date_style(value: &str) -> Checked {
    for part in value.split(',') {
        match part.trim().to_ascii_lowercase().as_str() {
            "iso" | "mdy" | "us" | "noneuro" | "noneuropean" => {}
            "sql" | "postgres" | "german" | "dmy" | "ymd" | "euro" | "european" => {
                return Err(Refusal::Unsupported);
            }
            _ => return Err(Refusal::Invalid),
        }
    }
    Ok("ISO, MDY".to_owned())
}

fn isolation(value: &str) -> Checked {
    only(
        value,
        &["read committed"],
        &["serializable", "repeatable read", "read uncommitted"],
    )
}

fn float_digits(value: &str) -> Checked {
    match value.parse::<i32>() {
        Ok(1..=3) => Ok(value.to_owned()),
        Ok(-15..=0) => Err(Refusal::Unsupported),
        _ => Err(Refusal::Invalid),
    }
}

fn zero(value: &str) -> Checked {
    match parse_duration(value) {
        Some(0) => Ok("0".to_owned()),
        Some(_) => Err(Refusal::Unsupported),
        None => Err(Refusal::Invalid),
    }
}

fn search_path(value: &str) -> Checked {
    let names = value.split(',').map(|s| s.trim().trim_matches('"'));
    for name in names {
        if !matches!(name, "" | "$user" | "public" | "pg_catalog") {
            return Err(Refusal::Unsupported);
        }
    }
    Ok(value.to_owned())
}

fn time_zone(value: &str) -> Checked {
    match value.to_ascii_lowercase().as_str() {
        "utc" | "gmt" | "etc/utc" | "etc/gmt" | "z" | "zulu" | "utc0" | "0" | "+00" | "+00:00" => {
            Ok("UTC".to_owned())
        }
        "" => Err(Refusal::Invalid),
        _ => Err(Refusal::Unsupported),
    }
}

/// Milliseconds of a duration as PostgreSQL writes one: a number with a unit, or milliseconds.
fn parse_duration(value: &str) -> Option<u64> {
    let value = value.trim();
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = value[..digits].parse().ok()?;
    let unit: u64 = match value[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit).filter(|ms| *ms <= i32::MAX as u64)
}

fn duration(value: &str) -> Checked {
    let ms = parse_duration(value).ok_or(Refusal::Invalid)?;
    Ok(match ms {
        0 => "0".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}min", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_and_made_canonical() {
        let mut s = Settings::new("me", [("client_encoding", "utf-8")]).expect("starts");
        assert_eq!(s.get("CLIENT_ENCODING").expect("known"), "UTF8");
        assert_eq!(s.get("session_authorization").expect("known"), "me");
        s.set("statement_timeout", "1500").expect("a duration");
        assert_eq!(s.get("statement_timeout").expect("known"), "1500ms");
        assert_eq!(s.statement_timeout_ns(), Some(1_500_000_000));
        s.set("statement_timeout", "2min").expect("a duration");
        assert_eq!(s.get("statement_timeout").expect("known"), "2min");
        let code = |r: Result<()>| r.expect_err("refused").code();
        assert_eq!(
            code(s.set("TimeZone", "Europe/Berlin")),
            SqlState::FeatureNotSupported
        );
        assert_eq!(
            code(s.set("DateStyle", "x")),
            SqlState::InvalidParameterValue
        );
        assert_eq!(
            code(s.set("server_version", "1")),
            SqlState::ObjectNotInPrerequisiteState
        );
        let unknown = s.set("statement_timeot", "1").expect_err("unknown");
        assert_eq!(unknown.code(), SqlState::UndefinedObject);
        assert_eq!(unknown.hint(), Some("did you mean \"statement_timeout\"?"));
        assert_eq!(
            code(s.set("hnsw.ef_search", "10")),
            SqlState::FeatureNotSupported
        );
    }

    #[test]
    fn a_client_hears_of_changes_once() {
        let mut s = Settings::new("me", [("application_name", "psql")]).expect("starts");
        assert!(s.take_reported().is_empty());
        s.set("application_name", "other").expect("any");
        assert_eq!(
            s.take_reported(),
            [("application_name", "other".to_owned())]
        );
        s.reset_all();
        assert_eq!(s.take_reported(), [("application_name", "psql".to_owned())]);
        assert!(s.take_reported().is_empty());
    }
}
