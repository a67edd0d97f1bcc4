//! How the operating system shares the processors among the threads of a node.
//!
//! A worker passes messages on and is quickly done: it is [`prompt`] and asks for short time slices,
//! so that it runs as soon as it is woken. A core works on what others wait for, and on what nobody
//! waits for: it is [`steady`] and asks for long slices, so that whoever is woken beside it, a worker
//! or a client of the machine, interrupts it. Their shares of the processors stay what they are.
//!
//! A thread that computes for long on behalf of a few ([`give_way`]) has long slices too, a lower
//! priority, and never interrupts another. Once it runs, though, it keeps its processor until the
//! next tick, four milliseconds where there are 250 of them a second, from those who were ready
//! before; so such computations [`breathe`] between their pieces.
//!
//! Where the system knows no such thing or refuses it, threads run as they did: these are hints, and
//! nothing is reported.

use std::cell::Cell;

/// Time slice of a prompt thread, nanoseconds: the least that Linux takes (EEVDF, from 6.12 on).
const PROMPT_SLICE_NS: u64 = 100_000;
/// Time slice of a steady thread, nanoseconds: above those that threads have by default, 0.7 to 2.8
/// milliseconds by the number of processors, for only a shorter slice interrupts at once.
const STEADY_SLICE_NS: u64 = 6_000_000;
/// By how much the priority of a thread that gives way is lower: a ninth of the weight.
const WAY_NICE: i32 = 10;
/// The highest of Linux' nice values.
const NICE_MAX: i32 = 19;

thread_local! {
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread runs soon after it is woken.
pub fn prompt() {
    change(|attributes| attributes.sched_runtime = PROMPT_SLICE_NS);
}

/// The calling thread is interrupted by whoever is woken.
pub fn steady() {
    change(|attributes| attributes.sched_runtime = STEADY_SLICE_NS);
}

/// The calling thread, and those that it starts, leave the processors to others.
pub fn give_way() {
    GIVES_WAY.set(true);
    change(|attributes| {
        attributes.sched_policy = libc::SCHED_BATCH as u32;
        attributes.sched_nice = (attributes.sched_nice + WAY_NICE).min(NICE_MAX);
        attributes.sched_runtime = STEADY_SLICE_NS;
    });
}

/// Lets whoever waits for this processor have it, if the calling thread gives way; called about every
/// ten microseconds of a long computation. On other threads it costs nothing.
pub fn breathe() {
    if GIVES_WAY.get() {
        std::thread::yield_now();
    }
}

/// Changes the attributes of a thread of an ordinary policy; leaves others as they were set up.
fn change(apply: impl FnOnce(&mut libc::sched_attr)) {
    let Some(mut attributes) = attributes() else {
        return;
    };
    let ordinary = [libc::SCHED_OTHER, libc::SCHED_BATCH];
    if ordinary.contains(&(attributes.sched_policy as i32)) {
        apply(&mut attributes);
        // SAFETY: the attributes are of this frame and name their size; 0 is the calling thread.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}

/// The calling thread's attributes; `None` where the system does not tell.
fn attributes() -> Option<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>() as u32;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the system writes at most `size` bytes to attributes of this frame.
    let told = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    (told == 0).then_some(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_way_alone() {
        let nice = || attributes().map(|a| (a.sched_nice, a.sched_policy));
        let before = nice();
        let other = std::thread::spawn(move || {
            prompt();
            steady();
            assert_eq!(nice(), before, "a share stays what it is");
            give_way();
            nice()
        });
        let lowered = other.join().expect("no panic");
        assert_eq!(nice(), before);
        // A host may refuse it.
        if let (Some((before, 0)), Some((after, policy))) = (before, lowered) {
            assert!(after >= before);
            assert!([libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&(policy as i32)));
        }
    }
}
