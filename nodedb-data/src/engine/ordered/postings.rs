//! The rows that hold one value. Most values of a nearly unique column have one row, which then
//! costs no allocation.

use std::rc::Rc;

use crate::set::{BlockSet, RowSet, RowSetBuilder};

#[derive(Clone, Debug)]
pub(super) enum Postings {
    One(u32),
    /// Two or more. A checkpoint shares them, so they are copied before they change.
    Many(Rc<RowSet>),
}

impl Postings {
    pub(super) fn len(&self) -> u64 {
        match self {
            Postings::One(_) => 1,
            Postings::Many(rows) => rows.len(),
        }
    }

    pub(super) fn contains(&self, surrogate: u32) -> bool {
        match self {
            Postings::One(only) => *only == surrogate,
            Postings::Many(rows) => rows.contains(surrogate),
        }
    }

    /// True when it was not there.
    pub(super) fn insert(&mut self, surrogate: u32) -> bool {
        match self {
            Postings::One(only) if *only == surrogate => false,
            Postings::One(only) => {
                let rows = [*only, surrogate].into_iter().collect();
                *self = Postings::Many(Rc::new(rows));
                true
            }
            Postings::Many(rows) => Rc::make_mut(rows).insert(surrogate),
        }
    }

    /// Takes a row out if it is there. False when nothing would be left: the caller then drops
    /// the whole entry.
    pub(super) fn remove(&mut self, surrogate: u32) -> bool {
        match self {
            Postings::One(only) => *only != surrogate,
            Postings::Many(rows) => {
                Rc::make_mut(rows).remove(surrogate);
                let only = rows.next_after(None).filter(|_| rows.len() == 1);
                if let Some(only) = only {
                    *self = Postings::One(only);
                }
                true
            }
        }
    }

    pub(super) fn add_block(&self, block: u16, to: &mut BlockSet) {
        match self {
            Postings::One(only) if (only >> 16) as u16 == block => {
                to.insert(*only as u16);
            }
            Postings::One(_) => {}
            Postings::Many(rows) => {
                if let Some(ids) = rows.block(block) {
                    to.union(ids);
                }
            }
        }
    }

    pub(super) fn add_all(&self, to: &mut RowSetBuilder) {
        match self {
            Postings::One(only) => to.insert(*only),
            Postings::Many(rows) => to.union(rows),
        }
    }

    pub(super) fn next_block(&self, from: u16) -> Option<u16> {
        match self {
            Postings::One(only) => Some((only >> 16) as u16).filter(|block| *block >= from),
            Postings::Many(rows) => rows.next_block(from),
        }
    }

    pub(super) fn next_after(&self, after: Option<u32>) -> Option<u32> {
        match self {
            Postings::One(only) => Some(*only).filter(|only| after.is_none_or(|a| a < *only)),
            Postings::Many(rows) => rows.next_after(after),
        }
    }

    /// Blocks whose sets an operation over all rows touches.
    pub(super) fn blocks(&self) -> u32 {
        match self {
            Postings::One(_) => 1,
            Postings::Many(rows) => rows.blocks().count() as u32,
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Postings::One(_) => 0,
            Postings::Many(rows) => size_of::<RowSet>() + rows.heap_bytes(),
        }
    }
}
