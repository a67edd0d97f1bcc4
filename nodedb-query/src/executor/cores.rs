//! What the cores send for one leaf, as one stream.
//!
//! Items come as they are there, no core favoured. A failure ends the stream, and with it the work
//! on the other cores. One that the rows are the reason of does so only when the cores before have
//! ended, whose own failure would count instead: which of several failures a statement reports is
//! then no matter of time.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use nodedb_types::{Failure, Result};

use super::{LeafItem, LeafStream};

/// Items with the position of the core that sent them; a failure is the last.
pub(super) struct Cores {
    /// By position; none where the stream has ended.
    streams: Vec<Option<LeafStream>>,
    /// Where the next look begins.
    next: usize,
    failed: Option<Failure>,
    over: bool,
}

impl Cores {
    pub(super) fn new(streams: Vec<LeafStream>) -> Cores {
        Cores {
            streams: streams.into_iter().map(Some).collect(),
            next: 0,
            failed: None,
            over: false,
        }
    }

    /// Whether nothing more is to be heard of a core.
    fn is_silent(&self, at: usize) -> bool {
        self.streams.get(at).is_none_or(Option::is_none)
    }
}

impl Stream for Cores {
    type Item = Result<(usize, LeafItem)>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let count = self.streams.len();
        for step in 0..count {
            let at = (self.next + step) % count;
            while let Some(Some(stream)) = self.streams.get_mut(at) {
                match stream.poll_next_unpin(cx) {
                    Poll::Pending => break,
                    Poll::Ready(None) => self.streams[at] = None,
                    Poll::Ready(Some(Err(failure))) if failure.is_of_values() => {
                        self.streams.truncate(at);
                        self.failed = Some(failure);
                    }
                    Poll::Ready(Some(Err(failure))) => {
                        self.over = true;
                        return Poll::Ready(Some(Err(failure)));
                    }
                    Poll::Ready(Some(Ok(_))) if self.failed.is_some() => {}
                    Poll::Ready(Some(Ok(item))) => {
                        self.next = (at + 1) % count;
                        return Poll::Ready(Some(Ok((at, item))));
                    }
                }
            }
        }
        if (0..self.streams.len()).any(|at| !self.is_silent(at)) {
            return Poll::Pending;
        }
        self.over = true;
        Poll::Ready(self.failed.take().map(Err))
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc::{UnboundedSender, unbounded};
    use futures::executor::block_on;
    use nodedb_types::SqlState;

    use super::*;

    type Sender = UnboundedSender<Result<LeafItem>>;

    fn cores(count: usize) -> (Vec<Sender>, Cores) {
        let (senders, streams): (Vec<_>, Vec<LeafStream>) = (0..count)
            .map(|_| {
                let (tx, rx) = unbounded();
                (tx, rx.boxed())
            })
            .unzip();
        (senders, Cores::new(streams))
    }

    fn failure(code: SqlState) -> Failure {
        Failure::new(code, "")
    }

    #[test]
    fn the_failure_of_the_first_core_counts_whichever_comes_first() {
        let fails = [
            (1, SqlState::DivisionByZero),
            (0, SqlState::NumericOutOfRange),
        ];
        for order in [[0, 1], [1, 0]] {
            let (mut senders, mut cores) = cores(3);
            for i in order {
                let (at, code) = fails[i];
                senders[at].unbounded_send(Ok(LeafItem::Count(1))).unwrap();
                senders[at].unbounded_send(Err(failure(code))).unwrap();
            }
            let mut last = None;
            while let Some(item) = block_on(cores.next()) {
                last = Some(item);
            }
            let code = last.unwrap().unwrap_err().code();
            assert_eq!(code, SqlState::NumericOutOfRange);
            // Those behind are stopped.
            assert!(senders.pop().unwrap().is_closed());
        }
    }

    #[test]
    fn a_failure_of_rows_waits_for_the_cores_before_and_no_other_does() {
        let (senders, mut all) = cores(2);
        senders[1]
            .unbounded_send(Err(failure(SqlState::DivisionByZero)))
            .unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(all.poll_next_unpin(&mut cx).is_pending());
        senders[0].unbounded_send(Ok(LeafItem::Count(1))).unwrap();
        assert!(all.poll_next_unpin(&mut cx).is_pending());
        senders[0].close_channel();
        let item = block_on(all.next()).unwrap();
        assert_eq!(item.unwrap_err().code(), SqlState::DivisionByZero);
        assert!(block_on(all.next()).is_none());

        let (senders, mut all) = cores(2);
        senders[1]
            .unbounded_send(Err(failure(SqlState::QueryCanceled)))
            .unwrap();
        assert!(block_on(all.next()).unwrap().is_err());
        drop(senders);
    }
}
