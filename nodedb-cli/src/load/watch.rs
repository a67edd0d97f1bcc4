//! How far an import is, and its interruption.
//!
//! SIGINT stops it between two rows: the statement under way is waited for, then the error says
//! what was committed. An import that hangs meanwhile, in a read from a pipe or in a server that
//! does not answer, is ended a little later, or by a second SIGINT at once.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Exit code of a program that SIGINT has ended, as shells give it.
pub const INTERRUPTED: u8 = 130;
/// How long the statement under way is waited for.
const GRACE: Duration = Duration::from_secs(5);

/// What the import and whoever watches over it both see.
#[derive(Default)]
pub struct Progress {
    committed: AtomicU64,
    stopped: AtomicBool,
}

/// The import was interrupted after so many rows were committed.
#[derive(Debug)]
pub struct Interrupted {
    committed: u64,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted; {} committed", rows_were(self.committed))
    }
}

impl std::error::Error for Interrupted {}

/// `1 row was`, `2 rows were`.
pub fn rows_were(rows: u64) -> String {
    match rows {
        1 => "1 row was".to_owned(),
        n => format!("{n} rows were"),
    }
}

impl Progress {
    pub(super) fn add(&self, rows: u64) {
        self.committed.fetch_add(rows, Ordering::Relaxed);
    }

    /// Fails once the import is to stop.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(self.interrupted()),
            false => Ok(()),
        }
    }

    /// What to say of an import that was interrupted, as far as it came.
    pub fn interrupted(&self) -> Interrupted {
        Interrupted {
            committed: self.committed.load(Ordering::Relaxed),
        }
    }

    /// Waits for SIGINT and has the import stop.
    pub async fn watch(self: Arc<Progress>) {
        if tokio::signal::ctrl_c().await.is_err() {
            return;
        }
        self.stopped.store(true, Ordering::Relaxed);
        tokio::select! {
            // reason: the import may hang in a read that nothing else ends.
            () = tokio::time::sleep(GRACE) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        // Without a standard error there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "ndb: {}", self.interrupted());
        std::process::exit(INTERRUPTED.into());
    }
}
