//! Settings: flags, then `NODEDB_*`, then a TOML file, then defaults.
//!
//! All of them stand in one table, [`SETTINGS`], from which the names of flags, variables and file
//! keys follow. An unknown key is an error with a suggestion; `NODEDB_TEST_*` are no settings.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nodedb_types::{Failure, Result, SqlState, limits};

/// A setting: its name in files (`pg_port`); the flag is `--pg-port`, the variable
/// `NODEDB_PG_PORT`.
pub struct Setting {
    pub name: &'static str,
    pub help: &'static str,
    pub default: &'static str,
    set: fn(&mut Config, &str) -> std::result::Result<(), String>,
}

/// Less would checkpoint after every few statements.
const CHECKPOINT_LOG_MIN: u64 = 64 << 10;

/// Which I/O backend the cores use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoSetting {
    /// io_uring, or threads where the host forbids it.
    Auto,
    Uring,
    Threads,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    /// Only for a new data directory, or equal to what it has.
    pub shards: Option<u16>,
    pub listen: IpAddr,
    pub pg_port: u16,
    pub http_port: u16,
    pub native_port: u16,
    pub cores: Option<u16>,
    pub io: IoSetting,
    /// Bytes for statements, and for rows and keys in memory, half each.
    pub memory: Option<u64>,
    /// Bytes of a core's log after which its shards are checkpointed.
    pub checkpoint_log: Option<u64>,
}

/// Every setting there is.
pub static SETTINGS: &[Setting] = &[
    Setting {
        name: "data_dir",
        help: "folder of the database; made when it does not exist",
        default: "./ndb-data",
        set: |c, v| {
            c.data_dir = PathBuf::from(v);
            Ok(())
        },
    },
    Setting {
        name: "shards",
        help: "shards of a new data directory, a power of two from 4 to 256, fixed for its life",
        default: "the next power of two of the processors",
        set: |c, v| {
            let shards: u16 = number(v)?;
            if !shards.is_power_of_two()
                || !(limits::SHARDS_MIN..=limits::SHARDS_MAX).contains(&shards)
            {
                return Err("shards is a power of two from 4 to 256".to_owned());
            }
            c.shards = Some(shards);
            Ok(())
        },
    },
    Setting {
        name: "listen",
        help: "address to listen on; only loopback until authentication exists",
        default: "127.0.0.1",
        set: |c, v| {
            let address = if v == "localhost" { "127.0.0.1" } else { v };
            c.listen = address
                .parse()
                .map_err(|_| format!("\"{v}\" is not an IP address"))?;
            Ok(())
        },
    },
    Setting {
        name: "pg_port",
        help: "port for psql and PostgreSQL drivers; 0 picks a free one",
        default: "6432",
        set: |c, v| number(v).map(|port| c.pg_port = port),
    },
    Setting {
        name: "http_port",
        help: "port for HTTP; 0 picks a free one",
        default: "6480",
        set: |c, v| number(v).map(|port| c.http_port = port),
    },
    Setting {
        name: "native_port",
        help: "port for the SDK and ndb sql; 0 picks a free one",
        default: "6433",
        set: |c, v| number(v).map(|port| c.native_port = port),
    },
    Setting {
        name: "cores",
        help: "data plane threads of this run, at most one per shard",
        default: "the processors",
        set: |c, v| {
            let cores: u16 = number(v)?;
            if cores == 0 {
                return Err("there is at least one core".to_owned());
            }
            c.cores = Some(cores);
            Ok(())
        },
    },
    Setting {
        name: "io",
        help: "auto, uring or threads",
        default: "auto",
        set: |c, v| {
            c.io = match v {
                "auto" => IoSetting::Auto,
                "uring" => IoSetting::Uring,
                "threads" => IoSetting::Threads,
                _ => return Err(format!("\"{v}\" is not auto, uring or threads")),
            };
            Ok(())
        },
    },
    Setting {
        name: "memory",
        help: "memory for statements, and for rows and keys, such as 512MB or 4GB",
        default: "half of the machine's",
        set: |c, v| {
            c.memory = Some(bytes(v)?);
            Ok(())
        },
    },
    Setting {
        name: "checkpoint_log",
        help: "log of a core after which its shards are checkpointed, such as 256MB",
        default: "64MB, or less when replaying it would take long",
        set: |c, v| {
            let log = bytes(v)?;
            if log < CHECKPOINT_LOG_MIN {
                return Err("checkpoint_log is at least 64kB".to_owned());
            }
            c.checkpoint_log = Some(log);
            Ok(())
        },
    },
];

fn number<T: std::str::FromStr>(text: &str) -> std::result::Result<T, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("\"{text}\" is not a number in range"))
}

/// `4GB`, `512MB`, `64kB` or plain bytes; units are powers of 1024, as PostgreSQL's.
fn bytes(text: &str) -> std::result::Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "k" | "kib" => 1 << 10,
        "mb" | "m" | "mib" => 1 << 20,
        "gb" | "g" | "gib" => 1 << 30,
        "tb" | "t" | "tib" => 1u64 << 40,
        other => {
            return Err(format!(
                "\"{other}\" is no unit of memory (B, kB, MB, GB, TB)"
            ));
        }
    };
    number::<u64>(digits)?
        .checked_mul(unit)
        .ok_or_else(|| format!("\"{text}\" is more memory than there is"))
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data_dir: PathBuf::from("./ndb-data"),
            shards: None,
            listen: IpAddr::from([127, 0, 0, 1]),
            pg_port: 6432,
            http_port: 6480,
            native_port: 6433,
            cores: None,
            io: IoSetting::Auto,
            memory: None,
            checkpoint_log: None,
        }
    }
}

fn bad(message: String) -> Failure {
    Failure::new(SqlState::InvalidParameterValue, message)
}

impl Config {
    /// Sets one setting by its name in files. `origin` says in an error where it came from.
    pub fn set(&mut self, name: &str, value: &str, origin: &str) -> Result<()> {
        let Some(setting) = SETTINGS.iter().find(|s| s.name == name) else {
            let failure = bad(format!("unknown setting \"{name}\" in {origin}"));
            let near = nearest(name, SETTINGS.iter().map(|s| s.name));
            return Err(match near {
                Some(near) => failure.with_hint(format!("did you mean \"{near}\"?")),
                None => failure,
            });
        };
        let place = match origin.strip_prefix("--") {
            Some(_) => origin.to_owned(),
            None => format!("{name} in {origin}"),
        };
        (setting.set)(self, value).map_err(|why| bad(format!("{place}: {why}")))
    }

    /// Puts the layers together: `file` (TOML), then `environment` (`NODEDB_*` pairs), then
    /// `flags` (names as in files).
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: impl Iterator<Item = (String, String)>,
    ) -> Result<Config> {
        let mut config = Config::default();
        if let Some(path) = file {
            config.read_file(path)?;
        }
        for (variable, value) in environment {
            let Some(name) = variable.strip_prefix("NODEDB_") else {
                continue;
            };
            if !name.starts_with("TEST_") {
                config.set(&name.to_ascii_lowercase(), &value, "the environment")?;
            }
        }
        for (name, value) in flags {
            config.set(&name, &value, &format!("--{}", name.replace('_', "-")))?;
        }
        config.check()?;
        Ok(config)
    }

    fn read_file(&mut self, path: &Path) -> Result<()> {
        let shown = path.display();
        let text =
            std::fs::read_to_string(path).map_err(|e| bad(format!("cannot read {shown}: {e}")))?;
        let table: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| bad(format!("{shown}: {}", e.message())))?;
        for (name, value) in table {
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(n) => n.to_string(),
                other => {
                    return Err(bad(format!(
                        "{shown}: {name} is a {}, not a text or number",
                        other.type_str()
                    )));
                }
            };
            self.set(&name, &value, &shown.to_string())?;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if !self.listen.is_loopback() {
            return Err(Failure::new(
                SqlState::InvalidAuthorization,
                format!(
                    "refusing to listen on {}: there is no authentication yet",
                    self.listen
                ),
            )
            .with_hint("listen on 127.0.0.1 or ::1, and reach it through a tunnel"));
        }
        Ok(())
    }
}

/// The candidate with the fewest edits to `name`, if it is near enough to be meant.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.map(|c| (edits(name, c), c));
    scored
        .filter(|(n, c)| *n <= 1 + c.len() / 4)
        .min_by_key(|(n, _)| *n)
        .map(|(_, c)| c)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(ca != *cb))
                .min(above + 1)
                .min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        let list: Vec<_> = list
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        list.into_iter()
    }

    #[test]
    fn later_layers_win() {
        let environment = [
            ("NODEDB_PG_PORT", "1"),
            ("NODEDB_CORES", "2"),
            ("NODEDB_TEST_X", "y"),
            ("HOME", "/"),
        ];
        let config = Config::load(None, pairs(&environment), pairs(&[("pg_port", "7")])).unwrap();
        assert_eq!((config.pg_port, config.cores), (7, Some(2)));
    }

    #[test]
    fn unknown_keys_have_a_suggestion() {
        let failure = Config::load(None, pairs(&[("NODEDB_PGPORT", "1")]), pairs(&[])).unwrap_err();
        assert_eq!(failure.hint(), Some("did you mean \"pg_port\"?"));
        let failure = Config::default().set("quux", "1", "x").unwrap_err();
        assert_eq!(failure.hint(), None);
        let failure = Config::default().set("cores", "x", "c.toml").unwrap_err();
        assert_eq!(
            failure.message(),
            "cores in c.toml: \"x\" is not a number in range"
        );
    }

    #[test]
    fn values_are_checked() {
        for (name, value) in [
            ("shards", "5"),
            ("shards", "512"),
            ("cores", "0"),
            ("io", "x"),
            ("pg_port", "70000"),
        ] {
            assert!(
                Config::load(None, pairs(&[]), pairs(&[(name, value)])).is_err(),
                "{name}"
            );
        }
        let open = Config::load(None, pairs(&[]), pairs(&[("listen", "0.0.0.0")])).unwrap_err();
        assert_eq!(open.code(), SqlState::InvalidAuthorization);
        assert_eq!(bytes("4GB"), Ok(4 << 30));
        assert_eq!(bytes("10"), Ok(10));
        assert!(bytes("4XB").is_err());
    }
}
