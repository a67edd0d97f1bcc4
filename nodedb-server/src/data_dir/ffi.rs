//! flock, which the standard library's stable part has no non-blocking word for.

use std::os::fd::RawFd;

/// Takes the exclusive lock of an open file without waiting; false when another holds it.
pub(super) fn lock_exclusive(fd: RawFd) -> bool {
    // SAFETY: flock takes a descriptor and a flag, no pointers; a bad descriptor is an error.
    unsafe { libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB) == 0 }
}
