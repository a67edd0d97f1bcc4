//! How a long computation of little urgency lets others have its processor.
//!
//! A thread that [has begun to](begin) offers its processor to whoever waits for it once it has had
//! it for a breath; long computations call [`breathe`] about every ten microseconds. On all
//! other threads that does nothing.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long a thread that gives way computes before it offers its processor. Two of them on one
/// processor would otherwise do little but change places.
const BREATH: Duration = Duration::from_micros(20);
/// Items of a list that are dealt with between two calls of [`breathe`].
pub const ITEMS: usize = 16;

thread_local! {
    /// When it last breathed, if it gives way.
    static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// From now on the calling thread gives way in [`breathe`].
pub fn begin() {
    SINCE.set(Some(Instant::now()));
}

/// Lets whoever waits for this processor have it, if the calling thread gives way and had it for a
/// breath.
pub fn breathe() {
    if SINCE.get().is_some_and(|since| since.elapsed() >= BREATH) {
        std::thread::yield_now();
        SINCE.set(Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_thread_that_gives_way_breathes_and_not_too_often() {
        breathe();
        assert_eq!(SINCE.get(), None);
        begin();
        let long_ago = Instant::now()
            .checked_sub(BREATH)
            .expect("the machine is up");
        SINCE.set(Some(long_ago));
        breathe();
        assert!(SINCE.get() > Some(long_ago));
        let ahead = Instant::now() + Duration::from_secs(3600);
        SINCE.set(Some(ahead));
        breathe();
        assert_eq!(SINCE.get(), Some(ahead));
    }
}
