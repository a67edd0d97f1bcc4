//! Why an operation on a file failed.

use std::fmt;

use nodedb_types::{Failure, SqlState};

/// What a caller decides by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoErrorKind {
    NotFound,
    Exists,
    /// The device or the quota is full: the work is abandoned and may be tried again later (W1).
    NoSpace,
    /// The file is not open here: closed already, or another backend's.
    NotOpen,
    /// Any other error of the operating system.
    Os(i32),
}

/// Which part of an operation failed. A full disk is harmless while writing, not while syncing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Open,
    Read,
    Write,
    Sync,
    Allocate,
    /// Changing a name: rename, unlink, make a directory.
    Name,
    /// Looking at a name or a size.
    Inspect,
    Close,
}

/// A failed operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoError {
    pub kind: IoErrorKind,
    pub stage: Stage,
}

impl IoError {
    pub fn new(kind: IoErrorKind, stage: Stage) -> IoError {
        IoError { kind, stage }
    }

    /// From an errno, as a positive number.
    pub fn from_errno(errno: i32, stage: Stage) -> IoError {
        let kind = match errno {
            libc::ENOENT => IoErrorKind::NotFound,
            libc::EEXIST => IoErrorKind::Exists,
            libc::ENOSPC | libc::EDQUOT => IoErrorKind::NoSpace,
            other => IoErrorKind::Os(other),
        };
        IoError { kind, stage }
    }

    pub(super) fn last_os(stage: Stage) -> IoError {
        let errno = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        IoError::from_errno(errno, stage)
    }

    /// A full disk that left nothing unknown: anything but a failed sync. A sync that reports a
    /// full disk may have dropped pages, so it counts as any failed sync does.
    pub fn is_no_space(&self) -> bool {
        self.kind == IoErrorKind::NoSpace && self.stage != Stage::Sync
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Open => "open",
            Stage::Read => "read",
            Stage::Write => "write",
            Stage::Sync => "sync",
            Stage::Allocate => "allocate",
            Stage::Name => "change of a name",
            Stage::Inspect => "look-up",
            Stage::Close => "close",
        };
        write!(f, "{stage} failed: ")?;
        match self.kind {
            IoErrorKind::NotFound => f.write_str("no such file"),
            IoErrorKind::Exists => f.write_str("the file exists already"),
            IoErrorKind::NoSpace => f.write_str("no space left"),
            IoErrorKind::NotOpen => f.write_str("the file is not open"),
            IoErrorKind::Os(errno) => std::io::Error::from_raw_os_error(errno).fmt(f),
        }
    }
}

impl std::error::Error for IoError {}

impl From<IoError> for Failure {
    fn from(error: IoError) -> Failure {
        if error.is_no_space() {
            Failure::new(SqlState::DiskFull, "the disk is full")
                .with_hint("Free some space; reads go on, writes resume when there is space.")
        } else {
            Failure::new(SqlState::IoError, "an operation on a file failed")
                .with_detail(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_is_abandoned_unless_a_sync_reported_it() {
        let write = IoError::from_errno(libc::ENOSPC, Stage::Write);
        let sync = IoError::from_errno(libc::ENOSPC, Stage::Sync);
        assert!(write.is_no_space() && !sync.is_no_space());
        assert_eq!(Failure::from(write).code(), SqlState::DiskFull);
        assert_eq!(Failure::from(sync).code(), SqlState::IoError);
        assert!(IoError::from_errno(libc::EDQUOT, Stage::Allocate).is_no_space());
    }
}
