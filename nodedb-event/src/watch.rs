//! The eventfd by which cores wake the plane, as Tokio watches it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use nodedb_bridge::wake::Wake;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Keeps the eventfd open for as long as Tokio watches it.
pub struct Watched(Arc<Wake>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd()
    }
}

/// Registers the eventfd with the runtime that this is called in.
pub fn watch(wake: Arc<Wake>) -> io::Result<AsyncFd<Watched>> {
    // SAFETY: the descriptor stays open and the same for as long as `Watched` lives, and is dropped
    // with the registration.
    let watched = unsafe { AsyncFd::register_with_interest(Watched(wake), Interest::READABLE) };
    watched.map_err(io::Error::from)
}
