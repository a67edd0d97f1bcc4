//! Work units: how long work is cut into pieces that fit a turn (law P2).
//!
//! A core refills its [`Budget`] once a turn. Whoever works spends units from it, about 100 ns of
//! CPU time each, and stops when nothing is left; the rest is done in later turns. A turn in which
//! a request has arrived ends early: the request is looked at when the next one begins. An indivisible
//! piece may overdraw what is left, by [`OVERDRAFT_MAX`] at the most. Because the units are counted
//! and not measured, a turn that is too long fails in simulation too.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// What a turn may spend: 50 microseconds at 100 ns a unit. What is done once a turn takes a
/// thirtieth of one of this length.
pub const UNITS_PER_TURN: u32 = 500;
/// Units spent between two looks for what should not wait for the end of the turn.
pub const LOOK_UNITS: u32 = 100;
/// What the last piece of a turn may take beyond that, so that no turn is above a millisecond.
pub const OVERDRAFT_MAX: u32 = 8_500;

/// Finding one row and reaching into it.
pub const ROW_READ: u32 = 3;
/// One operation on the sets of one block: 8 KiB at the most.
pub const BLOCK_OPERATION: u32 = 4;
/// One step of an ordered walk over an index in memory.
pub const INDEX_STEP: u32 = 1;
/// Calling an expression over a batch, on top of [`EXPRESSION_ROW`] for each row.
pub const EXPRESSION_CALL: u32 = 20;
/// One row of an expression's batch: reading, copying and evaluating it.
pub const EXPRESSION_ROW: u32 = 6;

/// Tells whether something has arrived that should not wait for the end of the turn.
type Arrivals = Box<dyn Fn() -> bool>;

/// The units that are left in this turn of a core, shared by its tasks.
pub struct Budget {
    left: Cell<u32>,
    overdrawn: Cell<u32>,
    /// Left when the turn ended early.
    given_up: Cell<u32>,
    /// With no more than so many units left it is time to look for arrivals again.
    look_at: Cell<u32>,
    arrivals: Option<Arrivals>,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("left", &self.left)
            .field("overdrawn", &self.overdrawn)
            .finish_non_exhaustive()
    }
}

impl Budget {
    pub fn new(units: u32) -> Budget {
        Budget {
            left: Cell::new(units),
            overdrawn: Cell::new(0),
            given_up: Cell::new(0),
            look_at: Cell::new(0),
            arrivals: None,
        }
    }

    /// A budget whose turns may end early when `arrivals`: see [`Budget::look_for_arrivals`].
    pub fn cut_short_by(units: u32, arrivals: impl Fn() -> bool + 'static) -> Budget {
        Budget {
            arrivals: Some(Box::new(arrivals)),
            ..Budget::new(units)
        }
    }

    /// Begins a turn with `units` to spend; nothing cuts it short yet.
    pub fn refill(&self, units: u32) {
        self.left.set(units);
        self.overdrawn.set(0);
        self.given_up.set(0);
        self.look_at.set(0);
    }

    /// Gives the turn `units` more, less what was overdrawn.
    pub fn extend(&self, units: u32) {
        let covered = units.min(self.overdrawn.get());
        self.overdrawn.set(self.overdrawn.get() - covered);
        self.left.set(self.left.get() + units - covered);
    }

    /// From here on the turn may end when something has arrived, though not before [`LOOK_UNITS`]
    /// more are spent: whoever spends them gets on in every turn, whatever arrives.
    pub fn look_for_arrivals(&self) {
        self.look_at.set(self.left.get().saturating_sub(LOOK_UNITS));
    }

    /// Takes `units`; true when some are left, so the work may go on.
    pub fn spend(&self, units: u32) -> bool {
        let left = self.left.get();
        if units >= left {
            self.left.set(0);
            self.overdraw(units - left);
            return false;
        }
        self.left.set(left - units);
        left - units > self.look_at.get() || !self.is_cut_short()
    }

    fn overdraw(&self, units: u32) {
        let covered = units.min(self.given_up.get());
        self.given_up.set(self.given_up.get() - covered);
        self.overdrawn.set(self.overdrawn.get() + units - covered);
    }

    /// Ends the turn when something has arrived.
    #[cold]
    fn is_cut_short(&self) -> bool {
        let left = self.left.get();
        self.look_at.set(left.saturating_sub(LOOK_UNITS));
        let cut = self.arrivals.as_ref().is_some_and(|arrived| arrived());
        if cut {
            self.given_up.set(left);
            self.left.set(0);
        }
        cut
    }

    pub fn left(&self) -> u32 {
        self.left.get()
    }

    /// Units spent beyond the turn's budget by pieces that could not be cut.
    pub fn overdrawn(&self) -> u32 {
        self.overdrawn.get()
    }

    pub fn is_spent(&self) -> bool {
        self.left.get() == 0
    }

    /// Waits for a turn with something to spend; the task stays ready meanwhile.
    pub async fn turn(&self) {
        poll_fn(|cx| self.poll_turn(cx)).await;
    }

    pub fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_spent() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Drives a pollable step of an engine or store to its end, over as many turns as it takes.
    pub async fn drive<T>(&self, mut step: impl FnMut(&Turn<'_>) -> Poll<T>) -> T {
        poll_fn(|cx| {
            if self.poll_turn(cx).is_pending() {
                return Poll::Pending;
            }
            let turn = Turn {
                budget: self,
                waker: cx.waker(),
            };
            let polled = step(&turn);
            if polled.is_pending() && self.is_spent() {
                cx.waker().wake_by_ref();
            }
            polled
        })
        .await
    }
}

/// What a piece of work gets from the turn it runs in.
///
/// A pollable step is called with units left, does at least one indivisible piece, and returns
/// `Pending` either because [`Turn::spend`] said that nothing is left (then it is called again in
/// a later turn without further ado), or because a page is missing (then whoever brings the page
/// wakes [`Turn::waker`]).
pub struct Turn<'a> {
    pub budget: &'a Budget,
    pub waker: &'a Waker,
}

impl Turn<'_> {
    /// Takes `units`; true when the work may go on in this turn.
    #[must_use]
    pub fn spend(&self, units: u32) -> bool {
        self.budget.spend(units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spending_stops_at_nothing_and_counts_what_goes_beyond() {
        let budget = Budget::new(10);
        assert!(budget.spend(9));
        assert!(!budget.spend(1));
        assert!(budget.is_spent());
        assert!(!budget.spend(5));
        assert_eq!(budget.overdrawn(), 5);
        budget.refill(3);
        assert_eq!((budget.left(), budget.overdrawn()), (3, 0));
        budget.spend(8);
        budget.extend(4);
        assert_eq!((budget.left(), budget.overdrawn()), (0, 1));
        budget.extend(4);
        assert_eq!((budget.left(), budget.overdrawn()), (3, 0));
    }

    #[test]
    fn an_arrival_ends_the_turn() {
        let arrived = std::rc::Rc::new(Cell::new(false));
        let budget = Budget::cut_short_by(0, {
            let arrived = arrived.clone();
            move || arrived.get()
        });
        let units = 3 * LOOK_UNITS;
        budget.refill(units + 5);
        arrived.set(true);
        assert!(budget.spend(5), "nobody looks yet");
        budget.look_for_arrivals();
        assert!(budget.spend(LOOK_UNITS - 1), "a turn does some work");
        assert!(!budget.spend(1));
        assert!(budget.is_spent());
        // A last piece may take what the turn would have had, and no more.
        assert!(!budget.spend(2 * LOOK_UNITS));
        assert_eq!(budget.overdrawn(), 0);
        budget.spend(7);
        assert_eq!(budget.overdrawn(), 7);
        budget.refill(units);
        budget.look_for_arrivals();
        arrived.set(false);
        assert!(budget.spend(LOOK_UNITS));
        arrived.set(true);
        assert!(
            budget.spend(1),
            "it looks again when as much is spent again"
        );
        assert!(!budget.spend(LOOK_UNITS));
        assert_eq!(budget.overdrawn(), 0);
    }

    #[test]
    fn a_driven_step_goes_on_in_later_turns() {
        let budget = Budget::new(2);
        let mut done = 0;
        let mut task = Box::pin(budget.drive(|turn| {
            while done < 5 {
                done += 1;
                if !turn.spend(1) {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        }));
        let mut cx = Context::from_waker(Waker::noop());
        let mut turns = 0;
        while task.as_mut().poll(&mut cx).is_pending() {
            turns += 1;
            budget.refill(2);
        }
        assert_eq!(turns, 2);
    }
}
