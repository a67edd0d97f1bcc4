//! The end of a node, in stages, as listeners and workers see it.
//!
//! When a node is told to stop, nobody is let in any more, idle connections are told and closed,
//! and statements that run have [`GRACE`] to come to their end ([`Stage::Stopping`]). Then what
//! still runs is cut off and told ([`Stage::Over`]), and the workers leave when all has been said,
//! [`FAREWELL`] later at the latest.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use nodedb_types::{Failure, SqlState};
use tokio::sync::watch;

/// How long statements that run may go on.
pub const GRACE: Duration = Duration::from_secs(2);
/// How long a client that reads slowly is waited for, to be told.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    Running,
    Stopping,
    Over,
}

/// Shared by all who end with the node.
pub struct Shutdown {
    stage: watch::Sender<Stage>,
    /// The stage is no longer running; read for every message.
    begun: AtomicBool,
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown {
            stage: watch::channel(Stage::Running).0,
            begun: AtomicBool::new(false),
        }
    }
}

impl Shutdown {
    /// Goes on to a stage; never back.
    pub fn advance(&self, to: Stage) {
        self.begun.store(to != Stage::Running, Ordering::SeqCst);
        self.stage.send_if_modified(|stage| {
            let later = *stage < to;
            *stage = to.max(*stage);
            later
        });
    }

    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Waits until a stage has come.
    pub async fn reached(&self, stage: Stage) {
        // The sender is not dropped while it is borrowed here.
        let _ = self.stage.subscribe().wait_for(|now| *now >= stage).await;
    }

    /// Awaits a connection's work. `None` when the node stops before its end: as soon as the
    /// connection `is_idle`, or when the grace is over.
    pub async fn unless_begun<T>(
        &self,
        work: impl Future<Output = T>,
        is_idle: impl Fn() -> bool,
    ) -> Option<T> {
        let mut work = pin!(work);
        let mut over = pin!(self.reached(Stage::Over));
        let mut watched = false;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            // Every stage wakes who waits for a later one, so one look at the beginning is enough
            // until then.
            if !watched || self.has_begun() {
                watched = true;
                if over.as_mut().poll(cx).is_ready() || (self.has_begun() && is_idle()) {
                    return Poll::Ready(None);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// What a client is told whose connection ends.
pub fn terminated() -> Failure {
    Failure::new(
        SqlState::AdminShutdown,
        "terminating connection due to administrator command",
    )
}

/// What a client is told that comes too late.
pub fn stopping() -> Failure {
    Failure::new(SqlState::AdminShutdown, "the server is shutting down")
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn idle_connections_end_at_once_and_busy_ones_when_it_is_over() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime.expect("a runtime"), async {
            let shutdown = Rc::new(Shutdown::default());
            let waiting = |idle: bool| {
                let shutdown = shutdown.clone();
                tokio::task::spawn_local(async move {
                    let never = std::future::pending::<()>();
                    shutdown.unless_begun(never, || idle).await
                })
            };
            let (idle, busy) = (waiting(true), waiting(false));
            let done = shutdown.unless_begun(async { 7 }, || true).await;
            assert_eq!(done, Some(7));
            tokio::task::yield_now().await;
            shutdown.advance(Stage::Stopping);
            assert_eq!(idle.await.expect("ends"), None);
            assert!(!busy.is_finished());
            shutdown.advance(Stage::Over);
            shutdown.advance(Stage::Stopping);
            assert_eq!(busy.await.expect("ends"), None);
            assert!(shutdown.has_begun());
        });
    }
}
