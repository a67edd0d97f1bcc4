//! Asking a schema change to stop, from the statement that waits for it.
//!
//! The change runs as a task of its own and decides where it can be stopped: what it awaits through
//! [`Stop::unless`] is given up, the rest is not. Without a word from the statement (its session is
//! gone) the change goes on.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use futures::channel::oneshot;
use nodedb_types::{Failure, Result};

/// The statement's end.
pub struct Stopper(oneshot::Sender<Failure>);

/// The change's end.
pub struct Stop(Option<oneshot::Receiver<Failure>>);

pub fn pair() -> (Stopper, Stop) {
    let (sender, receiver) = oneshot::channel();
    (Stopper(sender), Stop(Some(receiver)))
}

impl Stopper {
    /// Asks the change to fail with `why`.
    pub fn stop(self, why: Failure) {
        // A change that is over has nobody to hear it.
        let _ = self.0.send(why);
    }
}

impl Stop {
    /// Awaits `work`, or drops it and fails once the change is asked to stop.
    pub async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let Some(receiver) = &mut self.0 else {
                return Poll::Pending;
            };
            match Pin::new(receiver).poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(why)) => {
                    self.0 = None;
                    Poll::Ready(Err(why))
                }
                Poll::Ready(Err(oneshot::Canceled)) => {
                    self.0 = None;
                    Poll::Pending
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use nodedb_types::SqlState;

    #[test]
    fn work_is_done_or_stopped() {
        let (stopper, mut stop) = pair();
        assert_eq!(block_on(stop.unless(async { 1 })), Ok(1));
        stopper.stop(Failure::new(SqlState::QueryCanceled, "late"));
        // What is ready is ready.
        assert_eq!(block_on(stop.unless(async { 2 })), Ok(2));
        let stopped = block_on(stop.unless(std::future::pending::<()>()));
        assert_eq!(stopped.map_err(|f| f.code()), Err(SqlState::QueryCanceled));
    }

    #[test]
    fn a_session_that_is_gone_stops_nothing() {
        let (stopper, mut stop) = pair();
        drop(stopper);
        let mut turns = 0;
        let work = poll_fn(|cx| {
            turns += 1;
            cx.waker().wake_by_ref();
            match turns {
                3 => Poll::Ready(turns),
                _ => Poll::Pending,
            }
        });
        assert_eq!(block_on(stop.unless(work)), Ok(3));
    }
}
