//! The data directory: who has it open, and what it was made as.
//!
//! It is 0700. `lock` is held (flock) by the process that has it open and names it. `manifest`
//! carries the version of the format, the number of shards, the database's id and the seed of the
//! key hash, and never changes; it is written to the side, synced and renamed into place.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nodedb_types::{Failure, Result, SqlState, limits};
use serde::{Deserialize, Serialize};

/// The format that this build reads and writes.
pub const FORMAT: u32 = 1;

/// What a data directory was made as.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    pub shards: u16,
    /// Names the database in every log, so that a foreign one is never read. Hexadecimal.
    pub database: String,
    /// Seed of the hash that spreads keys over shards. Hexadecimal.
    pub seed: String,
}

impl Manifest {
    pub fn database_id(&self) -> Result<u64> {
        hexadecimal(&self.database)
    }

    pub fn key_seed(&self) -> Result<u64> {
        hexadecimal(&self.seed)
    }
}

fn hexadecimal(text: &str) -> Result<u64> {
    u64::from_str_radix(text, 16).map_err(|_| {
        Failure::new(
            SqlState::DataCorrupted,
            "the manifest holds a number that is none",
        )
    })
}

/// An open data directory; the lock is held until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    pub path: PathBuf,
    pub manifest: Manifest,
    _lock: File,
}

fn io(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        SqlState::IoError,
        format!("{what} {}: {error}", path.display()),
    )
}

impl DataDir {
    /// Opens a data directory, or makes one. `shards`: what was asked for, if anything;
    /// `processors` decides for a new one. `random`: two random words for a new one.
    pub fn open(
        path: &Path,
        shards: Option<u16>,
        processors: u16,
        random: [u64; 2],
    ) -> Result<DataDir> {
        if !path.exists() {
            let made = fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(path);
            made.map_err(|e| io("cannot make the data directory", path, &e))?;
            sync_parent(path)?;
        }
        refuse_foreign(path)?;
        let closed = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        closed.map_err(|e| io("cannot restrict access to", path, &e))?;
        let lock = take_lock(path)?;
        let file = path.join("manifest");
        let manifest = match fs::read_to_string(&file) {
            Ok(text) => read_manifest(&file, &text)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if path.join("wal").exists() {
                    return Err(Failure::new(
                        SqlState::DataCorrupted,
                        format!("{} has a log but no manifest", path.display()),
                    ));
                }
                let count = shards.unwrap_or_else(|| {
                    processors
                        .next_power_of_two()
                        .clamp(limits::SHARDS_MIN, limits::SHARDS_MAX)
                });
                let manifest = Manifest {
                    format: FORMAT,
                    shards: count,
                    database: format!("{:016x}", random[0]),
                    seed: format!("{:016x}", random[1]),
                };
                write_manifest(path, &manifest)?;
                manifest
            }
            Err(e) => return Err(io("cannot read", &file, &e)),
        };
        if let Some(asked) = shards
            && asked != manifest.shards
        {
            return Err(Failure::new(
                SqlState::InvalidParameterValue,
                format!(
                    "{} has {} shards, not {asked}",
                    path.display(),
                    manifest.shards
                ),
            )
            .with_hint("the number of shards is fixed when a data directory is made"));
        }
        Ok(DataDir {
            path: path.to_owned(),
            manifest,
            _lock: lock,
        })
    }
}

/// What is no data directory, and no empty folder, stays as it is.
fn refuse_foreign(path: &Path) -> Result<()> {
    let refused = |what: &str| {
        Failure::new(
            SqlState::ObjectNotInPrerequisiteState,
            format!("{} {what}", path.display()),
        )
    };
    if !path.is_dir() {
        return Err(refused("is not a folder").with_hint("a file is loaded with ndb import"));
    }
    if path.join("manifest").exists() || path.join("wal").exists() {
        return Ok(());
    }
    // What an interrupted first start leaves.
    let own = ["lock", "manifest.new", "spill"];
    let entries = fs::read_dir(path).map_err(|e| io("cannot read", path, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| io("cannot read", path, &e))?;
        if !own.iter().any(|name| entry.file_name() == *name) {
            return Err(refused("is neither a data directory nor empty")
                .with_hint("give a new folder, or one that ndb has made"));
        }
    }
    Ok(())
}

fn take_lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    let opened = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let mut file = opened.map_err(|e| io("cannot open", &path, &e))?;
    if !ffi::lock_exclusive(file.as_raw_fd()) {
        let mut holder = String::new();
        // Whoever holds it wrote its number; a lock without one is being taken right now.
        let _ = file.read_to_string(&mut holder);
        let holder = if holder.trim().is_empty() {
            "another process"
        } else {
            holder.trim()
        };
        return Err(Failure::new(
            SqlState::ObjectInUse,
            format!("{} is open in {holder}", dir.display()),
        )
        .with_hint("stop that one, or give another --data-dir"));
    }
    // Over the old name, whose block there is already: a full disk must not keep a start away, not
    // even where there is no room for the name.
    let name = format!("process {}\n", std::process::id());
    let written = file
        .rewind()
        .and_then(|()| file.write_all(name.as_bytes()))
        .and_then(|()| file.set_len(name.len() as u64));
    match written {
        Err(e) if e.kind() != std::io::ErrorKind::StorageFull => Err(io("cannot write", &path, &e)),
        _ => Ok(file),
    }
}

fn read_manifest(path: &Path, text: &str) -> Result<Manifest> {
    let corrupt = |why: String| {
        Failure::new(
            SqlState::DataCorrupted,
            format!("{}: {why}", path.display()),
        )
    };
    let table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| corrupt(e.message().to_owned()))?;
    // The format is looked at first: what else a newer one holds is its own business.
    match table.get("format").and_then(toml::Value::as_integer) {
        Some(format) if format == i64::from(FORMAT) => {}
        Some(format) => {
            return Err(Failure::new(
                SqlState::ObjectNotInPrerequisiteState,
                format!(
                    "{} has format {format}; this build reads format {FORMAT}",
                    path.display()
                ),
            )
            .with_hint("open it with the release that wrote it"));
        }
        None => return Err(corrupt("no format is given".to_owned())),
    }
    let manifest: Manifest = table
        .try_into()
        .map_err(|e: toml::de::Error| corrupt(e.message().to_owned()))?;
    let count = manifest.shards;
    if !count.is_power_of_two() || !(limits::SHARDS_MIN..=limits::SHARDS_MAX).contains(&count) {
        return Err(corrupt(format!("{count} is no number of shards")));
    }
    Ok(manifest)
}

fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<()> {
    let text = toml::to_string(manifest).map_err(|e| Failure::internal(e.to_string()))?;
    let (aside, path) = (dir.join("manifest.new"), dir.join("manifest"));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e| io("cannot write", &path, &e))
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| io("cannot sync", parent, &e))
}

mod ffi;

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ndb-dir-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_foreign_folder_is_left_alone() {
        let path = fresh("foreign");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("letter.txt"), "x").unwrap();
        for place in [path.clone(), path.join("letter.txt")] {
            let refused = DataDir::open(&place, None, 3, [1, 2]).unwrap_err();
            assert_eq!(refused.code(), SqlState::ObjectNotInPrerequisiteState);
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        fs::remove_file(path.join("letter.txt")).unwrap();
        fs::write(path.join("lock"), "").unwrap();
        DataDir::open(&path, None, 3, [1, 2]).unwrap();
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_directory_keeps_what_it_was_made_as() {
        let path = fresh("keeps");
        let made = DataDir::open(&path, None, 3, [1, 2]).unwrap();
        assert_eq!(made.manifest.shards, 4);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let manifest = made.manifest.clone();
        let held = DataDir::open(&path, None, 3, [1, 2]).unwrap_err();
        assert_eq!(held.code(), SqlState::ObjectInUse);
        assert!(
            held.message()
                .contains(&format!("process {}", std::process::id()))
        );
        drop(made);
        let again = DataDir::open(&path, Some(4), 64, [5, 6]).unwrap();
        assert_eq!(again.manifest, manifest);
        drop(again);
        let other = DataDir::open(&path, Some(8), 64, [5, 6]).unwrap_err();
        assert_eq!(other.code(), SqlState::InvalidParameterValue);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn foreign_formats_are_refused_by_name() {
        let path = fresh("format");
        drop(DataDir::open(&path, None, 1, [1, 2]).unwrap());
        fs::write(path.join("manifest"), "format = 9\nelse = 1\n").unwrap();
        let failure = DataDir::open(&path, None, 1, [1, 2]).unwrap_err();
        assert_eq!(failure.code(), SqlState::ObjectNotInPrerequisiteState);
        assert!(failure.message().contains("format 9"));
        fs::write(path.join("manifest"), "nonsense").unwrap();
        let failure = DataDir::open(&path, None, 1, [1, 2]).unwrap_err();
        assert_eq!(failure.code(), SqlState::DataCorrupted);
        fs::remove_dir_all(&path).unwrap();
    }
}
