//! Which leaves are in memory: the budget, who is charged, what goes and how it comes back.
//!
//! A leaf that is *clean* (it is stored in the shard's file, see [`super::leaves`]) may leave memory
//! and is read back when somebody asks for it. A reader asks synchronously and gets the leaf or a
//! [`Missing`] that stands for it; [`Missing::fetch`] begins the reading, or joins one that is under
//! way, and the caller repeats its step when that has ended. So nothing of a step may be changed
//! before everything that it needs has been read. A leaf under way is held by its reading, and with
//! it its place in the file: when it was freed or changed meanwhile, what was read goes with the
//! last who waited.
//!
//! **Eviction** is a clock with a second chance over all leaves of a core that may go, whatever
//! structure they belong to: reading a leaf sets a bit, the hand takes the bit away, and a clean
//! leaf without it goes. [`Residency::sweep`] moves the hand in pieces. *Dirty* leaves stay until a
//! checkpoint has written them; when they alone take half of the budget, one is asked for. Where
//! they take all of it, it is exceeded: writes are not refused, and a quarter of the budget is left
//! to clean leaves, so that a step finds together what it has brought in one by one.
//!
//! **Faults** (tests): all but the last few leaves read are missing at their next read, those that
//! were never stored too; clean ones are dropped at once. So every way through a missing leaf runs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use nodedb_types::Result;

use super::file::{damaged, spend_bytes};
use super::row_log::Location;
use super::slots::{Piece, Shelf};
use crate::core::executor::{LocalFuture, next_turn};
use crate::pace::Budget;

/// Bytes of clean leaves that are kept whatever the limit: the longest version of a row and the
/// pages that lead to it, for a few steps.
const CLEAN_BYTES_MIN: usize = 1 << 20;
/// Leaves that stay readable when faults are on: more than the steps under way need at once.
const RECENT_UNDER_FAULTS: usize = 32;
/// Entries of leaves that are gone which the hand carries along before it looks for them.
const LITTER_MAX: usize = 1024;

/// What leaves are held for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    Rows,
    Keys,
    /// Always in memory: 8 bytes a row.
    Locations,
    Indexes,
}

impl Owner {
    const ALL: [Owner; 4] = [Owner::Rows, Owner::Keys, Owner::Locations, Owner::Indexes];

    pub fn may_go(self) -> bool {
        !matches!(self, Owner::Locations)
    }
}

/// Counters since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ResidencyStats {
    /// Leaves read back from the shards' files.
    pub read: u64,
    /// Leaves dropped from memory.
    pub evicted: u64,
}

/// Starts a task of the core.
type Spawn = Box<dyn Fn(LocalFuture)>;

/// Units for a leaf that the clock's hand passes.
pub const SWEEP_UNITS: u32 = 4;

/// The leaves of a core in memory.
pub struct Residency {
    /// Bytes of leaves that may go, at the most.
    limit: usize,
    faults: bool,
    /// Bytes by [`Owner`].
    held: [Cell<usize>; Owner::ALL.len()],
    /// Bytes of leaves that may go once they are stored.
    dirty: Cell<usize>,
    /// The clock: every leaf in memory that may go, and leaves that are gone.
    hand: RefCell<VecDeque<Weak<dyn Resident>>>,
    /// Entries of the clock whose leaves are not gone.
    entries: Cell<usize>,
    /// With faults: the leaves that are readable, oldest first.
    recent: RefCell<VecDeque<Weak<dyn Resident>>>,
    stats: Cell<ResidencyStats>,
    budget: Rc<Budget>,
    spawn: Spawn,
}

/// A leaf, whatever it is a leaf of.
pub trait Resident {
    /// Where to read it back from; `None` when it is in memory.
    fn away(&self) -> Option<(Piece, Rc<Shelf>)>;

    /// Takes its bytes; false when they cannot be those of such a leaf.
    fn fill(&self, bytes: &[u8]) -> bool;

    /// Makes it readable.
    fn admit(self: Rc<Self>);

    /// With faults: it is missing at its next read.
    fn expire(&self);

    /// The hand comes by; true when the leaf is not in memory any more.
    fn pass(&self) -> bool;

    /// The reading under way.
    fn load(&self) -> &RefCell<Option<Rc<Load>>>;

    fn residency(&self) -> &Rc<Residency>;
}

impl Residency {
    /// `limit`: bytes of leaves that may go. `spawn` starts the tasks that read; they and the sweep
    /// spend from `budget`. `faults`: leaves are missing as often as possible.
    pub fn new(limit: usize, faults: bool, budget: Rc<Budget>, spawn: Spawn) -> Rc<Residency> {
        Rc::new(Residency {
            limit,
            faults,
            held: Default::default(),
            dirty: Cell::new(0),
            hand: RefCell::default(),
            entries: Cell::new(0),
            recent: RefCell::default(),
            stats: Cell::default(),
            budget,
            spawn,
        })
    }

    /// Bytes in memory for an owner.
    pub fn held(&self, owner: Owner) -> usize {
        self.held[owner as usize].get()
    }

    /// Bytes in memory that count against the limit.
    pub fn bytes(&self) -> usize {
        let owners = Owner::ALL.into_iter().filter(|o| o.may_go());
        owners.map(|o| self.held(o)).sum()
    }

    /// Bytes of them that no checkpoint has written yet.
    pub fn dirty(&self) -> usize {
        self.dirty.get()
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn stats(&self) -> ResidencyStats {
        self.stats.get()
    }

    /// Dirty leaves take so much that a checkpoint should make them clean.
    pub fn wants_checkpoint(&self) -> bool {
        self.dirty.get() > self.limit / 2
    }

    /// Whether a start may read leaves of this owner before somebody asks for them.
    pub fn has_room(&self, owner: Owner) -> bool {
        !owner.may_go() || !self.faults && self.bytes() < self.limit
    }

    fn is_over(&self) -> bool {
        let dirty = self.dirty.get();
        let room = self.limit.saturating_sub(dirty).max(self.limit / 4);
        self.bytes() - dirty > room.max(CLEAN_BYTES_MIN)
    }

    fn is_littered(&self) -> bool {
        self.hand.borrow().len() > 2 * self.entries.get() + LITTER_MAX
    }

    /// Whether there is anything for [`Residency::sweep`] to do.
    pub fn needs_sweep(&self) -> bool {
        self.is_over() || self.is_littered()
    }

    /// Moves the hand past at most `max` leaves, as long as there are too many, and spends
    /// [`SWEEP_UNITS`] for each; true when there still are too many. No leaf is passed twice, so
    /// what was just read outlives the turn.
    pub fn sweep(&self, max: usize) -> bool {
        let entries = self.hand.borrow().len();
        for _ in 0..max.min(entries) {
            let is_over = self.is_over();
            if !is_over && !self.is_littered() {
                return false;
            }
            let Some(entry) = self.hand.borrow_mut().pop_front() else {
                return false;
            };
            self.budget.spend(SWEEP_UNITS);
            let Some(leaf) = entry.upgrade() else {
                continue;
            };
            if is_over && leaf.pass() {
                self.entries.set(self.entries.get() - 1);
            } else {
                self.hand.borrow_mut().push_back(entry);
            }
        }
        self.needs_sweep()
    }

    /// Enters a leaf that came into memory into the clock; once until it has passed or is gone.
    pub(super) fn enter(&self, leaf: Weak<dyn Resident>) {
        self.entries.set(self.entries.get() + 1);
        self.hand.borrow_mut().push_back(leaf);
    }

    /// A leaf that stands in the clock is gone.
    pub(super) fn leave(&self) {
        self.entries.set(self.entries.get() - 1);
    }

    /// With faults: the leaf is readable from now on, and another one is not any more.
    pub(super) fn note_recent(&self, leaf: &Rc<impl Resident + 'static>) {
        if !self.faults {
            return;
        }
        let leaf: Rc<dyn Resident> = leaf.clone();
        let mut recent = self.recent.borrow_mut();
        recent.push_back(Rc::downgrade(&leaf));
        if recent.len() > RECENT_UNDER_FAULTS
            && let Some(oldest) = recent.pop_front().and_then(|o| o.upgrade())
        {
            oldest.expire();
        }
    }

    /// A leaf's bytes changed.
    pub(super) fn charge(&self, owner: Owner, before: usize, after: usize, is_dirty: bool) {
        let count = |cell: &Cell<usize>| cell.set(cell.get() - before + after);
        count(&self.held[owner as usize]);
        if is_dirty && owner.may_go() {
            count(&self.dirty);
        }
    }

    /// A leaf was stored, or changed after it was.
    pub(super) fn note_dirty(&self, owner: Owner, bytes: usize, is_dirty: bool) {
        if owner.may_go() {
            let dirty = self.dirty.get();
            self.dirty.set(match is_dirty {
                true => dirty + bytes,
                false => dirty - bytes,
            });
        }
    }

    fn count(&self, change: impl FnOnce(&mut ResidencyStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    pub(super) fn note_evicted(&self) {
        self.count(|stats| stats.evicted += 1);
    }
}

/// A leaf that has to be brought in before the read can go on.
pub struct Missing(Rc<dyn Resident>);

impl fmt::Debug for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Missing")
            .field(&self.0.away().map(|(piece, _)| piece))
            .finish()
    }
}

impl Missing {
    pub(super) fn new(leaf: Rc<dyn Resident>) -> Missing {
        Missing(leaf)
    }

    /// Begins to read the leaf, or joins who reads it already.
    pub fn fetch(self) -> Fetch {
        let Missing(leaf) = self;
        if let Some(load) = &*leaf.load().borrow() {
            return Fetch(load.clone());
        }
        let load = Rc::new(Load::default());
        *leaf.load().borrow_mut() = Some(load.clone());
        let residency = leaf.residency().clone();
        (residency.spawn)(Box::pin(bring(leaf, load.clone())));
        Fetch(load)
    }
}

async fn bring(leaf: Rc<dyn Resident>, load: Rc<Load>) {
    let result = match leaf.away() {
        None => {
            next_turn().await;
            Ok(())
        }
        Some((piece, shelf)) => read(&*leaf, piece, &shelf).await,
    };
    leaf.load().borrow_mut().take();
    if result.is_ok() {
        leaf.admit();
    }
    load.finish(result);
}

async fn read(leaf: &dyn Resident, piece: Piece, shelf: &Shelf) -> Result<()> {
    let residency = leaf.residency();
    spend_bytes(&residency.budget, piece.bytes as usize).await;
    let file = shelf.file().expect("what is stored is in a file");
    let buf = file.read(piece).await?;
    let right = leaf.fill(&buf[..piece.bytes as usize]);
    file.io.recycle(buf);
    residency.count(|stats| stats.read += 1);
    match right {
        true => Ok(()),
        false => Err(damaged(file.shard, "a leaf is of another kind")),
    }
}

/// The reading of one leaf.
#[derive(Default)]
pub struct Load {
    result: RefCell<Option<Result<()>>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Load {
    fn finish(&self, result: Result<()>) {
        *self.result.borrow_mut() = Some(result);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }
}

/// Ends when the leaf can be read; fails with XX001 when its bytes are not what was written, with
/// 58030 when the disk does not give them. Dropping it does not stop the reading.
#[derive(Clone)]
pub struct Fetch(Rc<Load>);

impl Future for Fetch {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some(result) = &*self.0.result.borrow() {
            return Poll::Ready(result.clone());
        }
        let mut waiting = self.0.waiting.borrow_mut();
        if !waiting.iter().any(|w| w.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fetch").field(&self.0.result).finish()
    }
}

/// How far a pollable read has come that had to wait.
#[derive(Clone, Default, Debug)]
pub struct Reading {
    /// The version that is to be looked at next; none for the newest. Good as long as the
    /// snapshot's history is there.
    pub at: Location,
    fetch: Option<Fetch>,
}

impl Reading {
    /// Waits for what is under way.
    pub fn poll(&mut self, waker: &Waker) -> Poll<Result<()>> {
        let Some(fetch) = &mut self.fetch else {
            return Poll::Ready(Ok(()));
        };
        let polled = Pin::new(fetch).poll(&mut Context::from_waker(waker));
        if polled.is_ready() {
            self.fetch = None;
        }
        polled
    }

    /// Begins to bring a leaf in and waits for it.
    pub fn poll_fetch(&mut self, missing: Missing, waker: &Waker) -> Poll<Result<()>> {
        self.fetch = Some(missing.fetch());
        self.poll(waker)
    }
}

#[cfg(test)]
impl Residency {
    /// For tests without a core: what is to be read is read at once.
    pub fn alone(limit: usize, faults: bool) -> Rc<Residency> {
        let spawn = |mut task: LocalFuture| {
            let mut context = Context::from_waker(Waker::noop());
            while task.as_mut().poll(&mut context).is_pending() {}
        };
        let budget = Rc::new(Budget::new(u32::MAX));
        Residency::new(limit, faults, budget, Box::new(spawn))
    }

    /// Drops every leaf that may go now.
    pub fn drop_clean(&self) {
        let entries = self.hand.borrow().len();
        for _ in 0..2 * entries {
            let Some(entry) = self.hand.borrow_mut().pop_front() else {
                return;
            };
            match entry.upgrade() {
                Some(leaf) if leaf.pass() => self.leave(),
                _ => self.hand.borrow_mut().push_back(entry),
            }
        }
    }
}
