//! Running futures over an [`IoHandle`] on the calling thread, outside a core.
//!
//! Start-up (recovery runs before the core's loop), tools and tests use it. It polls every future
//! whenever one of them may go on, which is right for a handful and wrong for a core; a core has
//! an executor of its own.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::IoHandle;

/// A background future: polled beside the main one, dropped with it.
pub type Background = Pin<Box<dyn Future<Output = ()>>>;

/// Set by any waker of the futures that are driven.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `main` to its end. None when the disk has halted first (simulation only).
pub fn run<T>(io: &IoHandle, main: impl Future<Output = T>) -> Option<T> {
    run_with(io, main, Vec::new())
}

/// Runs `main` to its end, and `background` beside it for as long.
pub fn run_with<T>(
    io: &IoHandle,
    main: impl Future<Output = T>,
    mut background: Vec<Background>,
) -> Option<T> {
    let mut main = pin!(main);
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    loop {
        woken.0.store(false, Ordering::Relaxed);
        if let Poll::Ready(value) = main.as_mut().poll(&mut context) {
            return Some(value);
        }
        background.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
        while io.poll() == 0 && !woken.0.load(Ordering::Relaxed) && !io.halted() {
            assert!(
                io.in_flight() > 0,
                "nothing is in flight and every future waits"
            );
            io.wait(None);
        }
        if io.halted() {
            return None;
        }
    }
}
