//! The suite is tested itself: each fault that is built in must be noticed by the crash points.
//!
//! A fault counts as noticed when some crash point does not come back as it must, or when the
//! server itself finds that its log makes no sense.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nodedb_data::core::Faults;
use nodedb_data::io::sim::Fault;

use crate::machine::{Machine, Rows};
use crate::script::{crash_at, operations, states, states_on};
use crate::workload::random::setting;

struct Suite {
    seed: u64,
    states: Vec<Rows>,
    operations: u64,
}

impl Suite {
    fn new() -> Suite {
        let seed = setting("NODEDB_TEST_SEED", 1);
        Suite {
            seed,
            states: states(seed).0,
            operations: operations(seed, 2),
        }
    }

    fn notices(&self, point: u64, damage: impl Fn(&mut Machine)) -> bool {
        let run = || crash_at(self.seed, point, &self.states, damage).is_err();
        catch_unwind(AssertUnwindSafe(run)).unwrap_or(true)
    }

    /// Crashes in the second half of the script, in which there is something to lose.
    fn notices_anywhere(&self, faults: Faults) -> bool {
        let mut points = (self.operations / 2..self.operations).step_by(3);
        points.any(|point| self.notices(point, |machine| machine.faults = faults))
    }
}

#[test]
fn a_lost_sync_is_noticed() {
    let suite = Suite::new();
    let noticed = (suite.operations / 2..suite.operations).any(|lost| {
        // The crash comes before a later sync can make up for the lost one.
        let damage = |machine: &mut Machine| machine.disk.fail_at(lost, Fault::LostSync);
        (1..6).any(|later| suite.notices(lost + later, damage))
    });
    assert!(noticed, "no crash point shows that a sync was lost");
}

#[test]
fn an_early_acknowledgement_is_noticed() {
    let faults = Faults {
        acknowledge_early: true,
        ..Faults::default()
    };
    assert!(Suite::new().notices_anywhere(faults));
}

#[test]
fn a_lost_branch_of_the_replay_is_noticed() {
    let faults = Faults {
        forget_outcomes: true,
        ..Faults::default()
    };
    assert!(Suite::new().notices_anywhere(faults));
}

#[test]
fn a_dropped_index_update_is_noticed() {
    let faults = Faults {
        drop_index_updates: true,
        ..Faults::default()
    };
    let suite = Suite::new();
    // Replay brings indexes in order again, so it must be noticed by what a running server shows,
    // or by the server itself, which then fails a statement.
    let run = || {
        let mut machine = Machine::new(suite.seed);
        machine.faults = faults;
        states_on(&mut machine) == suite.states
    };
    let unnoticed = catch_unwind(AssertUnwindSafe(run)).unwrap_or(false);
    assert!(!unnoticed, "nothing shows that index updates are lost");
}
