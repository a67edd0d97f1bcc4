//! The task that turns a worker's doorbells into wake-ups.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::Poll;

use nodedb_bridge::reply::Pump;
use nodedb_bridge::upcall::Upcall;
use nodedb_bridge::wake::Wake;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::dispatch::Dispatcher;

/// Keeps the eventfd open for as long as Tokio watches it.
struct Watched(Arc<Wake>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd()
    }
}

/// Runs until it is dropped. `upcalls`: by core, on the first worker; each is given to
/// `on_upcall`. `spin_ns`: how long it goes on looking before it sleeps; the worker's sockets and
/// other tasks have their turns in between. Fails when Tokio cannot watch the eventfd.
pub async fn pump(
    mut bells: Pump,
    mut upcalls: Vec<rtrb::Consumer<Upcall>>,
    dispatcher: Dispatcher,
    spin_ns: u64,
    mut on_upcall: impl FnMut(Upcall),
) -> io::Result<()> {
    let wake = bells.wake().clone();
    // SAFETY: the descriptor stays open and the same for as long as `Watched` lives, and is dropped
    // with the registration.
    let watched =
        unsafe { AsyncFd::register_with_interest(Watched(wake.clone()), Interest::READABLE) }
            .map_err(io::Error::from)?;
    let mut look = |bells: &mut Pump| {
        let mut news = bells.run();
        if news > 0 {
            dispatcher.on_news();
        }
        for ring in &mut upcalls {
            while let Ok(upcall) = ring.pop() {
                on_upcall(upcall);
                news += 1;
            }
        }
        news > 0
    };
    let runtime = dispatcher.runtime().clone();
    let mut idle_since = None;
    loop {
        if look(&mut bells) {
            idle_since = None;
            // The readers that were just woken run before the next look.
            behind_others().await;
            continue;
        }
        if spin_ns > 0 {
            let now = runtime.now_ns();
            if now - *idle_since.get_or_insert(now) < spin_ns {
                tokio::task::yield_now().await;
                continue;
            }
        }
        idle_since = None;
        wake.prepare_sleep();
        if look(&mut bells) {
            wake.awake();
            behind_others().await;
            continue;
        }
        let mut ready = watched.readable().await?;
        // Tokio watches edges: each write of the eventfd is told, so its counter is never emptied.
        ready.clear_ready();
        wake.awake();
    }
}

/// Goes on when the tasks that are ready now have run. Tokio's own `yield_now` would look at the
/// sockets first each time, a system call; the runtime does that anyway after some dozens of polls.
fn behind_others() -> impl Future<Output = ()> {
    let mut waited = false;
    poll_fn(move |cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}
