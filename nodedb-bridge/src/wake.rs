//! How a thread that sleeps learns that there is work, at the price of one atomic when it does not.
//!
//! The consumer sets `sleeping`, fences, looks at its rings again, and waits on the eventfd. The
//! producer pushes, fences, and writes the eventfd only if it takes `sleeping`. Either the
//! consumer's second look sees the push or the producer sees `sleeping`: no wake is lost.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering, fence};

use crate::schedule;

/// One per thread that can sleep. The owner waits on [`Wake::fd`] by whatever means it has.
#[derive(Debug)]
pub struct Wake {
    sleeping: AtomicBool,
    /// It was woken for what has not been sent yet.
    ahead: AtomicBool,
    /// Who sleeps, where it may be moved; else 0.
    owner: AtomicI32,
    /// The processor that it was last kept on, or [`ANYWHERE`].
    kept_on: AtomicUsize,
    event: OwnedFd,
}

/// No processor's number.
const ANYWHERE: usize = usize::MAX;

impl Wake {
    /// Fails when the process is out of file descriptors.
    pub fn new() -> io::Result<Arc<Wake>> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Arc::new(Wake {
            sleeping: AtomicBool::new(false),
            ahead: AtomicBool::new(false),
            owner: AtomicI32::new(0),
            kept_on: AtomicUsize::new(ANYWHERE),
            event,
        }))
    }

    /// Producer's side, after the push: wakes the owner if it sleeps.
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.force();
        }
    }

    /// As [`Wake::notify`], but an owner that sleeps and may be moved wakes on this processor and
    /// stays there, or, without one, anywhere among `all`. It costs a system call where that is not
    /// so already.
    pub fn notify_on(&self, processor: Option<usize>, all: &[usize]) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.place(processor, all);
            self.force();
        }
    }

    /// Producer's side: something will be sent soon. An owner that sleeps wakes on this processor and
    /// stays there, and is told so by [`Wake::was_ahead`]. If it sleeps again before that comes, it
    /// is woken again.
    pub fn notify_ahead(&self, processor: usize) {
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.ahead.store(true, Ordering::Relaxed);
            self.place(Some(processor), &[]);
            self.force();
        }
    }

    /// Owner's side, awake: whether it was woken for what may not have been sent yet. Tells it once.
    pub fn was_ahead(&self) -> bool {
        self.ahead.load(Ordering::Relaxed) && self.ahead.swap(false, Ordering::Relaxed)
    }

    fn place(&self, processor: Option<usize>, all: &[usize]) {
        let wanted = processor.unwrap_or(ANYWHERE);
        let owner = self.owner.load(Ordering::Relaxed);
        if owner != 0 && self.kept_on.swap(wanted, Ordering::Relaxed) != wanted {
            schedule::keep(owner, processor.as_ref().map_or(all, std::slice::from_ref));
        }
    }

    /// Owner's side: the calling thread is the owner, and may be moved by those who wake it.
    pub fn may_be_moved(&self) {
        self.owner.store(schedule::this_thread(), Ordering::Relaxed);
    }

    /// Writes the eventfd whether or not the owner sleeps.
    pub fn force(&self) {
        let one: u64 = 1;
        // SAFETY: eight readable bytes are handed to write, as an eventfd takes them.
        let n = unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), 8) };
        // A full counter means that a wake is pending already.
        debug_assert!(n == 8 || io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock);
    }

    /// Owner's side: announces sleep. The owner must look at all its rings once more afterwards
    /// and wait only if they are empty; otherwise it calls [`Wake::awake`].
    pub fn prepare_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Owner's side: it does not sleep (any more). A wake that is on its way stays in the eventfd
    /// for whoever waits on that to swallow; at worst the next wait ends at once.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Empties the eventfd without waiting.
    pub fn drain(&self) {
        let mut count: u64 = 0;
        // SAFETY: eight writable bytes are handed to read; the descriptor does not block.
        unsafe { libc::read(self.event.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    /// Readable when the owner was woken.
    pub fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sleeper_is_woken_ahead() {
        let wake = Wake::new().unwrap();
        wake.notify_ahead(0);
        assert!(!wake.was_ahead(), "it does not sleep");
        wake.prepare_sleep();
        wake.notify_ahead(0);
        wake.notify_ahead(0);
        assert!(wake.was_ahead());
        assert!(!wake.was_ahead(), "told once");
        wake.prepare_sleep();
        wake.notify();
        assert!(!wake.was_ahead());
    }

    #[test]
    fn a_sleeper_is_moved_and_let_go() {
        std::thread::spawn(|| {
            let wake = Wake::new().unwrap();
            let all = schedule::processors();
            let Some(last) = all.last().copied() else {
                return; // The host does not tell.
            };
            wake.may_be_moved();
            wake.notify_on(Some(last), &all);
            assert_eq!(schedule::processors(), all, "it does not sleep");
            for processor in [Some(last), Some(last), None] {
                wake.prepare_sleep();
                wake.notify_on(processor, &all);
                let now = schedule::processors();
                // A host may refuse it.
                assert!(now == all || processor.is_some_and(|one| now == [one]));
            }
            assert_eq!(schedule::processors(), all);
        })
        .join()
        .expect("no panic");
    }
}
