//! What session logic needs of whatever runs it, so that it needs no Tokio.
//!
//! In the server a worker's current-thread Tokio runtime stands behind [`Runtime`]
//! (`worker::TokioRuntime`); the simulation has an executor of its own on one thread and virtual
//! time. Everything a session awaits is a future of this crate, a reply stream, or a sleep.

use std::future::Future;
use std::pin::Pin;

use futures::future::{Either, LocalBoxFuture, select};

/// Tasks and sleep. One per worker, never shared between threads.
pub trait Runtime {
    /// Runs a task to its end on this thread, whatever becomes of the caller.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);

    /// Ready once the monotone clock (`TimeSource::monotonic_ns`) has reached `ns`.
    fn sleep_until(&self, ns: u64) -> LocalBoxFuture<'static, ()>;

    /// Nanoseconds of the monotone clock.
    fn now_ns(&self) -> u64;
}

/// Runs `task` until it is done or the clock has reached `deadline_ns`; `None` then.
pub async fn until<F: Future>(
    runtime: &dyn Runtime,
    deadline_ns: Option<u64>,
    task: F,
) -> Option<F::Output> {
    let Some(deadline) = deadline_ns else {
        return Some(task.await);
    };
    let task = std::pin::pin!(task);
    match select(task, runtime.sleep_until(deadline)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(((), _)) => None,
    }
}

/// The answer of a task that runs on its own. Dropping it does not stop the task.
pub struct Spawned<T>(futures::channel::oneshot::Receiver<T>);

/// Runs `task` on its own; its answer can be awaited or left alone.
pub fn spawn<T: 'static>(
    runtime: &dyn Runtime,
    task: impl Future<Output = T> + 'static,
) -> Spawned<T> {
    let (tx, rx) = futures::channel::oneshot::channel();
    runtime.spawn(Box::pin(async move {
        // Nobody may be left to hear it.
        let _ = tx.send(task.await);
    }));
    Spawned(rx)
}

impl<T> Future for Spawned<T> {
    /// `None` when the task was torn down with its runtime before it ended.
    type Output = Option<T>;

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}
