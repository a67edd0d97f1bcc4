//! How the operating system shares the processors among the threads of a node.
//!
//! A worker passes messages on and is quickly done: it is [`prompt`] and asks for the shortest time
//! slices, so that it runs as soon as it is woken. A core works on what others wait for, and on what
//! nobody waits for: it is [`steady`], with slices that are longer than a worker's, which therefore
//! interrupts it, and hardly longer, because it offers its processor to others after every turn.
//! Their shares of the processors stay what they are.
//!
//! **Who offers a processor has short slices.** Linux takes from a thread that yields what was left
//! of its slice (EEVDF, as measured on 6.18): its virtual time jumps to its deadline, which is a slice away
//! and the further the smaller its share. One thread with a long slice that yields so puts itself
//! behind everybody for as long; and it moves the average by which whoever is woken next is placed,
//! so that this one waits behind all that were ready before, for about the length of that slice.
//!
//! Queries that compute for long ([`give_way`]) never yield. They have a lower priority and the
//! longest slices, so that workers and cores interrupt them at once. What prepares bulk loads
//! ([`stand_back`]) has a smaller share still and the shortest slices, and it yields: once it runs,
//! it would otherwise keep its processor until the next tick, four milliseconds where there are 250
//! of them a second, from those who were ready before, or who are woken and had more than their
//! share of late. So such computations [`breathe`] between their pieces.
//!
//! Cores that are asked together are kept on processors of their own ([`keep`]) where there are just
//! enough of them. Left to itself the system wakes two of them on the same one now and then, as it
//! is still idle when the second is woken, and they answer one after the other.
//!
//! Where the system knows no such thing or refuses it, threads run as they did: these are hints, and
//! nothing is reported.

use nodedb_types::breath;
pub use nodedb_types::breath::breathe;

/// Time slice of a prompt thread, nanoseconds: the least that Linux takes (EEVDF, from 6.12 on).
const PROMPT_SLICE_NS: u64 = 100_000;
/// Time slice of a steady thread, nanoseconds: twice that of a prompt one, which interrupts it.
const STEADY_SLICE_NS: u64 = 200_000;
/// Time slice of a thread that gives way, nanoseconds: above that of all others, who interrupt it
/// therefore. It is the most that Linux takes.
const WAY_SLICE_NS: u64 = 100_000_000;
/// Time slice of a thread that stands back, nanoseconds: the least, for it yields.
const BACK_SLICE_NS: u64 = 100_000;
/// By how much the priority of a thread that gives way is lower: a ninth of the weight.
const WAY_NICE: i32 = 10;
/// By how much it is for one that stands back: a twenty-eighth. With the lowest there is, an import
/// hardly moves where others compute on every processor.
const BACK_NICE: i32 = 15;
/// The highest of Linux' nice values.
const NICE_MAX: i32 = 19;

/// The calling thread runs soon after it is woken.
pub fn prompt() {
    change(|attributes| attributes.sched_runtime = PROMPT_SLICE_NS);
}

/// The calling thread is interrupted by prompt ones, and may yield.
pub fn steady() {
    change(|attributes| attributes.sched_runtime = STEADY_SLICE_NS);
}

/// The calling thread, and those that it starts, leave the processors to others; it must not yield.
pub fn give_way() {
    lower(WAY_NICE, WAY_SLICE_NS);
}

/// The calling thread leaves the processors to others, more than one that gives way and whenever it
/// breathes; so do those that it starts, but they do not breathe.
pub fn stand_back() {
    lower(BACK_NICE, BACK_SLICE_NS);
    breath::begin();
}

fn lower(nice: i32, slice_ns: u64) {
    change(|attributes| {
        attributes.sched_policy = libc::SCHED_BATCH as u32;
        attributes.sched_nice = (attributes.sched_nice + nice).min(NICE_MAX);
        attributes.sched_runtime = slice_ns;
    });
}

/// A thread of this process as the system names it, never 0.
pub type ThreadId = i32;

pub fn this_thread() -> ThreadId {
    // SAFETY: gettid takes nothing.
    unsafe { libc::gettid() }
}

/// The processor that the calling thread is on.
pub fn here() -> Option<usize> {
    // SAFETY: sched_getcpu takes nothing.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// The processors that the calling thread may run on, ascending; none where the system does not
/// tell.
pub fn processors() -> Vec<usize> {
    let mut set = no_processors();
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the system writes at most `size` bytes to a set of this frame.
    let told = unsafe { libc::sched_getaffinity(0, size, &raw mut set) };
    // SAFETY: CPU_ISSET checks the index against the set's size.
    let has = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    match told {
        0 => (0..libc::CPU_SETSIZE as usize).filter(has).collect(),
        _ => Vec::new(),
    }
}

/// From now on the thread runs on these processors only.
pub fn keep(thread: ThreadId, processors: &[usize]) {
    let mut set = no_processors();
    for cpu in processors {
        // SAFETY: CPU_SET checks the index against the set's size.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: the set is initialised and its size is given.
    unsafe { libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const set) };
}

fn no_processors() -> libc::cpu_set_t {
    // SAFETY: a cpu_set_t is plain bits, for which zeros are the empty set.
    unsafe { std::mem::zeroed() }
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
    fn a_thread_is_kept_alone() {
        let all = processors();
        let wanted = all.clone();
        let other = std::thread::spawn(move || {
            let kept = wanted.last().map(|last| {
                keep(this_thread(), &[*last]);
                (processors(), here(), *last)
            });
            keep(this_thread(), &wanted);
            (kept, processors())
        });
        let (kept, after) = other.join().expect("no panic");
        assert_eq!((processors(), after), (all.clone(), all.clone()));
        // A host may refuse it, or not tell.
        if let Some((kept, here, last)) = kept
            && kept != all
        {
            assert_eq!((kept, here), (vec![last], Some(last)));
        }
    }

    #[test]
    fn a_thread_gives_way_alone() {
        let nice = || attributes().map(|a| (a.sched_nice, a.sched_policy));
        let before = nice();
        let other = std::thread::spawn(move || {
            prompt();
            steady();
            assert_eq!(nice(), before, "a share stays what it is");
            stand_back();
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
