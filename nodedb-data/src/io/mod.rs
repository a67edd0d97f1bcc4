//! Asynchronous file I/O of a core: one trait shaped like io_uring, three backends.
//!
//! A core never blocks on a file (P2). It hands an [`IoOp`] with a token to an [`Io`] and later
//! reaps [`Completion`]s; when nothing is left to do it parks in [`Io::wait`], which returns on a
//! completion, on a write to the core's eventfd (the rings' wake-up) or on a timeout, so disk and
//! rings share one wait. Futures on the core do not see tokens: they use [`IoHandle`], whose
//! operations are awaited and which matches completions to them.
//!
//! * [`uring::UringIo`]: io_uring, the usual one; [`probe_uring`] says whether the host allows it.
//! * [`threads::ThreadIo`]: a few threads, for hosts where io_uring is forbidden.
//! * [`sim::SimDisk`]: a simulated disk that can be crashed between any two operations.
//!
//! Rules all backends keep:
//! * Operations in flight together are unordered. Who needs an order awaits the first.
//! * A write is whole or an error; a read stops short only at the end of the file.
//! * Buffers are owned by the operation while it is in flight and come back with the completion,
//!   on errors too, so dropping a future never frees memory that the kernel still writes to.
//! * A file opened `direct` bypasses the page cache: offsets, lengths and buffers are multiples of
//!   [`buf::ALIGNMENT`].
//! * Nothing is durable before [`IoOp::Sync`]; a new, renamed or removed name is not durable before
//!   [`IoOp::SyncDir`] of its directory.

use std::path::PathBuf;
use std::time::Duration;

pub mod buf;
pub mod drive;
mod error;
mod handle;
mod posix;
pub mod sim;
pub mod threads;
pub mod uring;

pub use buf::AlignedBuf;
pub use error::{IoError, IoErrorKind, Stage};
pub use handle::{IoHandle, PendingIo};
pub use uring::probe_uring;

/// Names an operation in flight; chosen by the submitter, unique among those in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// An open file of one backend instance. Not given again during its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u32);

/// Whether opening makes the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Create {
    /// The file must exist.
    Never,
    /// Made when it is missing.
    IfMissing,
    /// The file must be missing ([`IoErrorKind::Exists`] otherwise).
    New,
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenMode {
    pub write: bool,
    pub create: Create,
    /// Bypass the page cache, where the file system can.
    pub direct: bool,
}

impl OpenMode {
    /// Read an existing file through the page cache.
    pub const READ: OpenMode = OpenMode {
        write: false,
        create: Create::Never,
        direct: false,
    };
    /// Read and write an existing file.
    pub const WRITE: OpenMode = OpenMode {
        write: true,
        create: Create::Never,
        direct: false,
    };
    /// Make a file that does not exist yet.
    pub const CREATE_NEW: OpenMode = OpenMode {
        write: true,
        create: Create::New,
        direct: false,
    };

    /// The same, bypassing the page cache.
    #[must_use]
    pub const fn direct(mut self) -> OpenMode {
        self.direct = true;
        self
    }
}

/// One operation. Paths are absolute or relative to the process; offsets and lengths are bytes.
#[derive(Debug)]
pub enum IoOp {
    /// Yields [`IoValue::File`].
    Open {
        path: PathBuf,
        mode: OpenMode,
    },
    /// Fills the buffer's length from `offset`. Yields [`IoValue::Bytes`], fewer at the end.
    Read {
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
    },
    /// Writes the buffer's whole length. With `sync` the file's data is durable when it completes.
    Write {
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
        sync: bool,
    },
    /// Makes the completed writes of the file durable (fdatasync).
    Sync {
        file: FileId,
    },
    /// Makes the names in a directory durable.
    SyncDir {
        path: PathBuf,
    },
    /// Reserves space from 0 to `len` and grows the file to it.
    Allocate {
        file: FileId,
        len: u64,
    },
    /// Replaces `to` when it exists.
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    /// Makes one directory, mode 0700.
    CreateDir {
        path: PathBuf,
    },
    /// Yields [`IoValue::Names`] in ascending order. For start-up only: the io_uring backend runs
    /// it in the submitting thread, because the kernel has no such operation.
    ListDir {
        path: PathBuf,
    },
    /// Yields [`IoValue::Bytes`].
    Size {
        file: FileId,
    },
    Close {
        file: FileId,
    },
}

/// What a successful operation yields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IoValue {
    Unit,
    File(FileId),
    Bytes(u64),
    Names(Vec<String>),
}

/// The end of one operation.
#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    pub result: Result<IoValue, IoError>,
    /// The buffer of a read or write.
    pub buf: Option<AlignedBuf>,
}

/// A core's access to files. Owned by one thread and used from it alone.
pub trait Io {
    /// Starts an operation; it may be held back until the next [`Io::reap`] or [`Io::wait`].
    fn submit(&mut self, token: Token, op: IoOp);

    /// Pushes what is held back to the kernel and appends finished operations, without blocking.
    /// Returns how many were appended.
    fn reap(&mut self, out: &mut Vec<Completion>) -> usize;

    /// Blocks until an operation may have finished, the core's eventfd was written (which it
    /// resets) or `timeout` has passed. May return early; the caller looks again.
    fn wait(&mut self, timeout: Option<Duration>);

    /// Operations submitted and not yet reaped.
    fn in_flight(&self) -> usize;

    /// True when no operation will ever complete again: the simulated machine has lost power.
    fn halted(&self) -> bool {
        false
    }
}

impl IoOp {
    /// The open file that the operation names.
    fn file(&self) -> Option<FileId> {
        match self {
            IoOp::Read { file, .. }
            | IoOp::Write { file, .. }
            | IoOp::Sync { file }
            | IoOp::Allocate { file, .. }
            | IoOp::Size { file }
            | IoOp::Close { file } => Some(*file),
            IoOp::Open { .. }
            | IoOp::SyncDir { .. }
            | IoOp::Rename { .. }
            | IoOp::Unlink { .. }
            | IoOp::CreateDir { .. }
            | IoOp::ListDir { .. } => None,
        }
    }

    /// The buffer of a read or write that is given up before it ran.
    fn take_buf(self) -> Option<AlignedBuf> {
        match self {
            IoOp::Read { buf, .. } | IoOp::Write { buf, .. } => Some(buf),
            _ => None,
        }
    }

    /// The stage at which an operation without stages of its own fails.
    fn stage(&self) -> Stage {
        match self {
            IoOp::Open { .. } => Stage::Open,
            IoOp::Read { .. } => Stage::Read,
            IoOp::Write { .. } => Stage::Write,
            IoOp::Sync { .. } | IoOp::SyncDir { .. } => Stage::Sync,
            IoOp::Allocate { .. } => Stage::Allocate,
            IoOp::Rename { .. } | IoOp::Unlink { .. } | IoOp::CreateDir { .. } => Stage::Name,
            IoOp::ListDir { .. } | IoOp::Size { .. } => Stage::Inspect,
            IoOp::Close { .. } => Stage::Close,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
