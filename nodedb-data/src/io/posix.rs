//! One operation as blocking system calls: what the thread backend runs on its threads, and what
//! io_uring has no operation for.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use super::{AlignedBuf, Create, IoError, IoOp, IoValue, OpenMode, Stage};

/// A finished operation before its file has a [`super::FileId`].
pub(super) enum Done {
    Value(IoValue),
    Opened(File),
}

/// Mode of new files: the owner's alone, like the data directory.
pub(super) const FILE_MODE: u32 = 0o600;
/// Mode of new directories.
pub(super) const DIR_MODE: u32 = 0o700;

/// Runs `op`. `file` is the open file of operations that name one.
pub(super) fn run(op: IoOp, file: Option<&File>) -> (Result<Done, IoError>, Option<AlignedBuf>) {
    let stage = op.stage();
    let os = |error: std::io::Error| from_std(&error, stage);
    let unit =
        |result: std::io::Result<()>| result.map(|()| Done::Value(IoValue::Unit)).map_err(os);
    let open = || file.expect("the file was looked up");
    let result = match op {
        IoOp::Open { path, mode } => open_file(&path, mode).map(Done::Opened),
        IoOp::Read {
            offset, mut buf, ..
        } => {
            let result = read_full(open(), offset, &mut buf).map_err(os);
            return (
                result.map(|bytes| Done::Value(IoValue::Bytes(bytes as u64))),
                Some(buf),
            );
        }
        IoOp::Write {
            offset, buf, sync, ..
        } => {
            let mut result = unit(open().write_all_at(&buf, offset));
            if sync && result.is_ok() {
                let synced = open()
                    .sync_data()
                    .map_err(|error| from_std(&error, Stage::Sync));
                result = synced.map(|()| Done::Value(IoValue::Unit));
            }
            return (result, Some(buf));
        }
        IoOp::Sync { .. } => unit(open().sync_data()),
        IoOp::SyncDir { path } => unit(File::open(path).and_then(|dir| dir.sync_all())),
        IoOp::Allocate { len, .. } => allocate(open(), len).map(|()| Done::Value(IoValue::Unit)),
        IoOp::Rename { from, to } => unit(fs::rename(from, to)),
        IoOp::Unlink { path } => unit(fs::remove_file(path)),
        IoOp::CreateDir { path } => unit(fs::DirBuilder::new().mode(DIR_MODE).create(path)),
        IoOp::ListDir { path } => list(&path)
            .map(|names| Done::Value(IoValue::Names(names)))
            .map_err(os),
        IoOp::Size { .. } => {
            let size = open().metadata().map(|metadata| metadata.len());
            size.map(|bytes| Done::Value(IoValue::Bytes(bytes)))
                .map_err(os)
        }
        IoOp::Close { .. } => Ok(Done::Value(IoValue::Unit)),
    };
    (result, None)
}

/// The flags of open(2), without O_CLOEXEC.
pub(super) fn open_flags(mode: OpenMode) -> i32 {
    let access = if mode.write {
        libc::O_RDWR
    } else {
        libc::O_RDONLY
    };
    let create = match mode.create {
        Create::Never => 0,
        Create::IfMissing => libc::O_CREAT,
        Create::New => libc::O_CREAT | libc::O_EXCL,
    };
    access | create | if mode.direct { libc::O_DIRECT } else { 0 }
}

/// How to try again when a file system refuses O_DIRECT. The refused call may have made the file,
/// so the second one must accept it.
pub(super) fn without_direct(mode: OpenMode) -> OpenMode {
    let create = match mode.create {
        Create::New => Create::IfMissing,
        other => other,
    };
    OpenMode {
        direct: false,
        create,
        ..mode
    }
}

pub(super) fn from_std(error: &std::io::Error, stage: Stage) -> IoError {
    let errno = error.raw_os_error().unwrap_or(match error.kind() {
        // A path with a NUL never reaches the kernel.
        std::io::ErrorKind::InvalidInput => libc::EINVAL,
        _ => libc::EIO,
    });
    IoError::from_errno(errno, stage)
}

fn open_file(path: &Path, mode: OpenMode) -> Result<File, IoError> {
    let mut options = OpenOptions::new();
    options.read(true).write(mode.write).mode(FILE_MODE);
    match mode.create {
        Create::Never => {}
        Create::IfMissing => {
            options.create(true);
        }
        Create::New => {
            options.create_new(true);
        }
    }
    if mode.direct {
        options.custom_flags(libc::O_DIRECT);
    }
    match options.open(path) {
        Ok(file) => Ok(file),
        Err(error) if mode.direct && error.raw_os_error() == Some(libc::EINVAL) => {
            open_file(path, without_direct(mode))
        }
        Err(error) => Err(from_std(&error, Stage::Open)),
    }
}

fn read_full(file: &File, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => {
                done += bytes;
                // The end of a file that is not a whole number of blocks: direct I/O could not
                // go on from here, and there is nothing more.
                if !done.is_multiple_of(512) {
                    break;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn allocate(file: &File, len: u64) -> Result<(), IoError> {
    let len = i64::try_from(len).map_err(|_| IoError::from_errno(libc::EFBIG, Stage::Allocate))?;
    // SAFETY: the descriptor is open for the length of the call; no memory is passed.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) };
    if done == 0 {
        Ok(())
    } else {
        Err(IoError::last_os(Stage::Allocate))
    }
}

fn list(path: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        // A name that is not UTF-8 is none of ours.
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
