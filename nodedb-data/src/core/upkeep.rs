//! What a core does beside its requests: history that nobody reads goes, dropped tables are freed,
//! engines merge, leaves beyond the memory there is for them go. Each turn does a piece.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use nodedb_types::{CommitTs, Result};

use super::state::State;
use crate::engine::SharedIndex;
use crate::shard::table::Table;

/// Versions released per turn.
const TRIM_PER_TURN: usize = 64;
/// Units for releasing one.
const TRIM_UNITS: u32 = 2;
/// Rows of dropped tables, or pages of their keys, freed per turn.
const FREE_PER_TURN: usize = 256;
/// Leaves that the clock's hand passes per turn, and units for each.
const SWEEP_PER_TURN: usize = 128;
const SWEEP_UNITS: u32 = 4;

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
        self.budget.spend(SWEEP_UNITS * SWEEP_PER_TURN as u32);
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
        let more = table.trim(oldest, forced, TRIM_PER_TURN);
        self.budget.spend(TRIM_UNITS * TRIM_PER_TURN as u32);
        let mut aged = upkeep.aged.borrow_mut();
        if table.has_history() {
            aged.push_back(table);
        } else {
            table.is_aged.set(false);
        }
        if !more && aged.len() <= 1 {
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
        let Some(table) = self.upkeep.dropped.borrow_mut().pop_front() else {
            return false;
        };
        // Queries and work that is not applied yet hold the table too.
        if Rc::strong_count(&table) > 1 {
            self.upkeep.dropped.borrow_mut().push_back(table);
            return false;
        }
        self.budget.spend(TRIM_UNITS * FREE_PER_TURN as u32);
        if table.free(FREE_PER_TURN) {
            self.upkeep.dropped.borrow_mut().push_back(table);
            return true;
        }
        // A checkpoint names no index of a dropped table, so these may go at any time.
        while let Some(engine) = table.take_index() {
            self.upkeep.index_dropped(engine);
        }
        false
    }

    fn dismantle_piece(&self) -> bool {
        let Some(engine) = self.upkeep.engines.borrow_mut().pop_front() else {
            return false;
        };
        // A build and queries hold it too.
        let is_free = Rc::strong_count(&engine) == 1;
        if is_free && !engine.borrow_mut().dismantle(&self.budget) {
            return !self.upkeep.engines.borrow().is_empty();
        }
        self.upkeep.engines.borrow_mut().push_back(engine);
        is_free
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
