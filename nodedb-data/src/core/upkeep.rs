//! What a core does beside its requests: history that nobody reads goes, dropped tables are freed,
//! engines merge, leaves beyond the memory there is for them go. Each turn does a piece.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use nodedb_types::{CommitTs, Result};

use super::state::State;
use crate::engine::SharedIndex;
use crate::pace::UNITS_PER_TURN;
use crate::shard::table::Table;
use crate::store::residency::SWEEP_UNITS;

/// What each of the pieces that are counted beforehand may take of a turn. They run before merging
/// and dismantling, which take what is left.
const PIECE_UNITS: u32 = UNITS_PER_TURN / 4;
/// Units for releasing a version.
const TRIM_UNITS: u32 = 2;
/// Versions released per turn.
const TRIM_PER_TURN: usize = (PIECE_UNITS / TRIM_UNITS) as usize;
/// Rows of dropped tables, or pages of their keys, freed per turn.
const FREE_PER_TURN: usize = (PIECE_UNITS / TRIM_UNITS) as usize;
/// Leaves that the clock's hand passes per turn.
const SWEEP_PER_TURN: usize = (PIECE_UNITS / SWEEP_UNITS) as usize;
const _: () = assert!(
    SWEEP_PER_TURN > 0
        && TRIM_UNITS * (TRIM_PER_TURN + FREE_PER_TURN) as u32
            + SWEEP_UNITS * SWEEP_PER_TURN as u32
            <= UNITS_PER_TURN * 3 / 4,
    "a turn that trims, frees and sweeps has something left for merging"
);

/// Tables that have something to be done.
#[derive(Default)]
pub struct Upkeep {
    /// Changed since their history was last found empty.
    aged: RefCell<VecDeque<Rc<Table>>>,
    /// Changed since their engines last said that nothing is left to merge.
    unmerged: RefCell<VecDeque<Rc<Table>>>,
    dropped: RefCell<VecDeque<Rc<Table>>>,
    /// Of dropped indexes and tables.
    engines: RefCell<VecDeque<SharedIndex>>,
    /// The snapshot below which the last round trimmed: nothing more can go until it moves.
    trimmed_to: Cell<CommitTs>,
}

impl Upkeep {
    /// Rows of the table were applied.
    pub fn changed(&self, table: &Rc<Table>) {
        if !table.is_aged.replace(true) {
            self.aged.borrow_mut().push_back(table.clone());
        }
        if !table.is_unmerged.replace(true) {
            self.unmerged.borrow_mut().push_back(table.clone());
        }
        self.trimmed_to.set(CommitTs::default());
    }

    /// The table was dropped; its rows go when nobody reads them any more.
    pub fn dropped(&self, table: Rc<Table>) {
        self.aged.borrow_mut().retain(|t| !Rc::ptr_eq(t, &table));
        self.unmerged
            .borrow_mut()
            .retain(|t| !Rc::ptr_eq(t, &table));
        self.dropped.borrow_mut().push_back(table);
    }

    /// The index was dropped; what it holds goes when nobody reads it any more.
    pub fn index_dropped(&self, engine: SharedIndex) {
        self.engines.borrow_mut().push_back(engine);
    }
}

impl State {
    /// A piece of upkeep; true when more could be done at once.
    pub fn upkeep_piece(&self) -> Result<bool> {
        let trimmed = self.trim_piece();
        let freed = self.free_piece();
        let dismantled = self.dismantle_piece();
        let swept = self.sweep_piece();
        let merged = self.merge_piece()?;
        Ok(trimmed | freed | dismantled | swept | merged)
    }

    fn sweep_piece(&self) -> bool {
        if !self.residency.needs_sweep() {
            return false;
        }
        self.residency.sweep(SWEEP_PER_TURN)
    }

    fn trim_piece(&self) -> bool {
        let upkeep = &self.upkeep;
        if upkeep.aged.borrow().is_empty() {
            return false;
        }
        let oldest = self.snapshots.oldest();
        let forced = self.forced_floor();
        if oldest == upkeep.trimmed_to.get() && forced.is_none() {
            return false;
        }
        let Some(table) = upkeep.aged.borrow_mut().pop_front() else {
            return false;
        };
        let trimmed = table.trim(oldest, forced, TRIM_PER_TURN);
        self.budget.spend(TRIM_UNITS * trimmed.versions as u32);
        let mut aged = upkeep.aged.borrow_mut();
        if table.has_history() {
            aged.push_back(table);
        } else {
            table.is_aged.set(false);
        }
        if !trimmed.more && aged.len() <= 1 {
            upkeep.trimmed_to.set(oldest);
            return false;
        }
        !aged.is_empty()
    }

    /// Where history has to end because it takes too much room, if it does.
    fn forced_floor(&self) -> Option<CommitTs> {
        let aged = self.upkeep.aged.borrow();
        let bytes: usize = aged.iter().map(|t| t.history().0).sum();
        if bytes <= self.config.history_bytes_max {
            return None;
        }
        aged.iter().filter_map(|t| t.history().1).min()
    }

    fn free_piece(&self) -> bool {
        let Some(table) = take_unshared(&mut self.upkeep.dropped.borrow_mut()) else {
            return false;
        };
        let freed = table.free(FREE_PER_TURN);
        self.budget.spend(TRIM_UNITS * freed.versions as u32);
        if freed.more {
            self.upkeep.dropped.borrow_mut().push_back(table);
            return true;
        }
        // A checkpoint names no index of a dropped table, so these may go at any time.
        while let Some(engine) = table.take_index() {
            self.upkeep.index_dropped(engine);
        }
        !self.upkeep.dropped.borrow().is_empty()
    }

    fn dismantle_piece(&self) -> bool {
        let Some(engine) = take_unshared(&mut self.upkeep.engines.borrow_mut()) else {
            return false;
        };
        if engine.borrow_mut().dismantle(&self.budget) {
            self.upkeep.engines.borrow_mut().push_back(engine);
            return true;
        }
        !self.upkeep.engines.borrow().is_empty()
    }

    fn merge_piece(&self) -> Result<bool> {
        let Some(table) = self.upkeep.unmerged.borrow_mut().pop_front() else {
            return Ok(false);
        };
        let mut more = false;
        for index in table.indexes() {
            if self.budget.is_spent() {
                more = true;
                break;
            }
            more |= index.engine.borrow_mut().work(&self.budget)?;
        }
        if more {
            self.upkeep.unmerged.borrow_mut().push_back(table);
        } else {
            table.is_unmerged.set(false);
        }
        Ok(more || !self.upkeep.unmerged.borrow().is_empty())
    }
}

/// Takes out the first that nobody else holds: queries, builds and work that is not applied yet may
/// hold those before it.
fn take_unshared<T: ?Sized>(queue: &mut VecDeque<Rc<T>>) -> Option<Rc<T>> {
    let at = queue.iter().position(|one| Rc::strong_count(one) == 1)?;
    queue.remove(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_held_does_not_stand_in_the_way() {
        let mut queue: VecDeque<Rc<u8>> = (0..3).map(Rc::new).collect();
        let holders = [queue[0].clone(), queue[2].clone()];
        assert_eq!(take_unshared(&mut queue).as_deref(), Some(&1));
        assert_eq!(take_unshared(&mut queue), None);
        drop(holders);
        assert_eq!(take_unshared(&mut queue).as_deref(), Some(&0));
        assert_eq!(take_unshared(&mut queue).as_deref(), Some(&2));
        assert_eq!(take_unshared(&mut queue), None);
    }
}
