//! How long a worker is with one task at a stretch, and its other sessions wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::future::LocalBoxFuture;
use nodedb_bridge::clock::TimeSource;

/// Upper bounds of the classes, microseconds; the last class is above them all.
const BOUNDS_US: [u64; 5] = [100, 250, 500, 1000, 2000];

/// Polls of all workers' tasks by their wall time.
#[derive(Debug, Default)]
pub struct Polls([AtomicU64; 6]);

impl Polls {
    fn record(&self, ns: u64) {
        let class = BOUNDS_US.partition_point(|bound| ns > bound * 1000);
        self.0[class].fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> [u64; 6] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// A task whose polls are counted.
pub struct Timed {
    task: LocalBoxFuture<'static, ()>,
    time: Arc<dyn TimeSource>,
    polls: Arc<Polls>,
}

impl Timed {
    pub fn new(
        task: LocalBoxFuture<'static, ()>,
        time: Arc<dyn TimeSource>,
        polls: Arc<Polls>,
    ) -> Timed {
        Timed { task, time, polls }
    }
}

impl Future for Timed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let from = self.time.monotonic_ns();
        let polled = self.task.as_mut().poll(cx);
        let until = self.time.monotonic_ns();
        self.polls.record(until.saturating_sub(from));
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_fall_into_their_classes() {
        let polls = Polls::default();
        for ns in [0, 100_000, 100_001, 2_000_000, 2_000_001] {
            polls.record(ns);
        }
        assert_eq!(polls.counts(), [2, 1, 0, 0, 1, 1]);
    }
}
