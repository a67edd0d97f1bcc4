//! Leaves: numbered blocks of bytes that can be frozen at once and are written once.
//!
//! Pages of indexes, chunks of location tables and segments of row logs are all leaves. They hang
//! in groups of [`GROUP`]; groups and leaves are shared between the living structure and a frozen
//! one, and copied when they are changed while they are shared. So freezing clones one pointer a
//! group, and a checkpoint finds what changed since the last one by what is not stored: a changed
//! leaf forgets where it is stored, and so does its group.
//!
//! On disk a group is a table, a piece of its own: 16 bytes for each of its leaves up to the last,
//! the leaf's piece (12, zeros when there is no leaf) and its note (4), a number that belongs to
//! the owner.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

use super::slots::{Piece, Stored};

/// Leaves of a group: their table fits a slot.
pub const GROUP: usize = 512;
/// Bytes of a leaf's entry in its group's table.
pub const ENTRY_BYTES: usize = Piece::ENCODED + 4;

const _: () = assert!(GROUP * ENTRY_BYTES <= super::slots::SLOT_BYTES);

/// A block of bytes.
pub trait Leaf: Clone + 'static {
    /// What is written; never empty, at most [`super::slots::PIECE_BYTES_MAX`].
    fn bytes(&self) -> Cow<'_, [u8]>;

    /// What was written; `None` when it cannot have been.
    fn of_bytes(bytes: &[u8]) -> Option<Self>;
}

/// Where something is stored, if it is. A copy is not.
#[derive(Default)]
pub struct Mark(RefCell<Option<Stored>>);

impl Clone for Mark {
    fn clone(&self) -> Mark {
        Mark::default()
    }
}

impl Mark {
    pub fn piece(&self) -> Option<Piece> {
        self.0.borrow().as_ref().map(Stored::piece)
    }

    pub fn set(&self, stored: Stored) {
        *self.0.borrow_mut() = Some(stored);
    }

    fn clear(&mut self) {
        self.0.get_mut().take();
    }
}

/// A leaf and where it is stored.
#[derive(Clone)]
pub struct Kept<L> {
    pub leaf: L,
    pub mark: Mark,
}

/// A run of leaves and where their table is stored.
#[derive(Clone)]
pub struct Group<L> {
    slots: Vec<Option<Slot<L>>>,
    pub mark: Mark,
}

struct Slot<L> {
    kept: Rc<Kept<L>>,
    note: u32,
}

impl<L> Clone for Slot<L> {
    fn clone(&self) -> Slot<L> {
        Slot {
            kept: self.kept.clone(),
            note: self.note,
        }
    }
}

impl<L> Group<L> {
    /// The places of the group up to the last leaf, with the notes.
    pub fn places(&self) -> impl Iterator<Item = Option<(&Rc<Kept<L>>, u32)>> {
        let last = self.slots.iter().rposition(Option::is_some);
        let used = &self.slots[..last.map_or(0, |l| l + 1)];
        used.iter().map(|s| s.as_ref().map(|s| (&s.kept, s.note)))
    }
}

/// Leaves by number. A clone is the frozen state.
pub struct Leaves<L> {
    groups: Vec<Option<Rc<Group<L>>>>,
}

impl<L> Clone for Leaves<L> {
    fn clone(&self) -> Leaves<L> {
        Leaves {
            groups: self.groups.clone(),
        }
    }
}

impl<L> Default for Leaves<L> {
    fn default() -> Leaves<L> {
        Leaves { groups: Vec::new() }
    }
}

fn split(number: u32) -> (usize, usize) {
    (number as usize / GROUP, number as usize % GROUP)
}

impl<L> Leaves<L> {
    fn slot(&self, number: u32) -> Option<&Slot<L>> {
        let (group, at) = split(number);
        self.groups.get(group)?.as_ref()?.slots.get(at)?.as_ref()
    }

    pub fn get(&self, number: u32) -> Option<&L> {
        Some(&self.slot(number)?.kept.leaf)
    }

    /// The owner's number about a leaf.
    pub fn note(&self, number: u32) -> Option<u32> {
        Some(self.slot(number)?.note)
    }

    /// Groups that have leaves, by number.
    pub fn groups(&self) -> impl Iterator<Item = (u32, &Rc<Group<L>>)> {
        let numbered = self.groups.iter().enumerate();
        numbered.filter_map(|(n, group)| Some((n as u32, group.as_ref()?)))
    }

    /// All leaves with their numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &L)> {
        self.iter_from(0)
    }

    /// The leaves from a number on, ascending.
    pub fn iter_from(&self, from: u32) -> impl Iterator<Item = (u32, &L)> {
        let (first_group, first_at) = split(from);
        let groups = self.groups.iter().enumerate().skip(first_group);
        groups.flat_map(move |(n, group)| {
            let skipped = if n == first_group { first_at } else { 0 };
            let slots = group.iter().flat_map(|g| g.slots.iter().enumerate());
            slots.skip(skipped).filter_map(move |(at, slot)| {
                Some(((n * GROUP + at) as u32, &slot.as_ref()?.kept.leaf))
            })
        })
    }

    fn place(&mut self, number: u32) -> &mut Option<Slot<L>> {
        let (group, at) = split(number);
        if self.groups.len() <= group {
            self.groups.resize_with(group + 1, || None);
        }
        let group = self.groups[group].get_or_insert_with(|| {
            Rc::new(Group {
                slots: Vec::new(),
                mark: Mark::default(),
            })
        });
        if Rc::get_mut(group).is_none() {
            *group = Rc::new(Group {
                slots: group.slots.clone(),
                mark: Mark::default(),
            });
        }
        let group = Rc::get_mut(group).expect("it was made to be owned alone");
        group.mark.clear();
        if group.slots.len() <= at {
            group.slots.resize_with(at + 1, || None);
        }
        &mut group.slots[at]
    }

    /// Puts a new leaf.
    pub fn put(&mut self, number: u32, leaf: L, note: u32) {
        let kept = Rc::new(Kept {
            leaf,
            mark: Mark::default(),
        });
        *self.place(number) = Some(Slot { kept, note });
    }

    /// Takes a leaf out, and its group when that was the last one in it.
    pub fn remove(&mut self, number: u32) {
        *self.place(number) = None;
        let (group, _) = split(number);
        let place = &mut self.groups[group];
        if place
            .as_ref()
            .is_some_and(|g| g.slots.iter().all(Option::is_none))
        {
            *place = None;
        }
    }

    /// The owner's number about a leaf that is there.
    pub fn set_note(&mut self, number: u32, note: u32) {
        let slot = self.place(number).as_mut();
        slot.expect("a leaf in use is there").note = note;
    }
}

impl<L: Clone> Leaves<L> {
    /// A leaf that is there, to be changed.
    pub fn change(&mut self, number: u32) -> &mut L {
        let slot = self.place(number).as_mut().expect("a leaf in use is there");
        let kept = Rc::make_mut(&mut slot.kept);
        kept.mark.clear();
        &mut kept.leaf
    }
}

impl<L> Leaves<L> {
    /// Puts a group as a checkpoint left it, with its table's piece; leaves by place.
    pub fn restore(&mut self, number: u32, table: Stored, leaves: Vec<Option<(L, Stored, u32)>>) {
        let slots = leaves.into_iter().map(|place| {
            place.map(|(leaf, stored, note)| {
                let mark = Mark::default();
                mark.set(stored);
                Slot {
                    kept: Rc::new(Kept { leaf, mark }),
                    note,
                }
            })
        });
        let group = Group {
            slots: slots.collect(),
            mark: Mark::default(),
        };
        group.mark.set(table);
        let at = number as usize;
        if self.groups.len() <= at {
            self.groups.resize_with(at + 1, || None);
        }
        self.groups[at] = Some(Rc::new(group));
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::Shelf;
    use super::*;

    fn stored(shelf: &Rc<Shelf>, slot: u32) -> Stored {
        let piece = Piece {
            slot,
            bytes: 1,
            crc: 0,
        };
        Stored::new(piece, shelf)
    }

    #[test]
    fn a_frozen_state_stays_and_a_change_forgets_where_it_was_stored() {
        let shelf = Rc::new(Shelf::default());
        let mut live = Leaves::default();
        for n in [0u32, 1, 600] {
            live.put(n, n, n * 2);
        }
        for (n, group) in live.groups() {
            group.mark.set(stored(&shelf, 100 + n));
            for (kept, _) in group.places().flatten() {
                kept.mark.set(stored(&shelf, 200 + kept.leaf));
            }
        }
        let frozen = live.clone();
        *live.change(1) = 77;
        live.set_note(0, 5);
        live.remove(600);
        assert_eq!(live.iter().collect::<Vec<_>>(), [(0, &0), (1, &77)]);
        assert_eq!(
            frozen.iter().collect::<Vec<_>>(),
            [(0, &0), (1, &1), (600, &600)]
        );
        assert_eq!((live.note(0), frozen.note(0)), (Some(5), Some(0)));
        let marks = |leaves: &Leaves<u32>| -> Vec<_> {
            let group = leaves.groups().next().unwrap().1;
            let inner = group.places().flatten().map(|(k, _)| k.mark.piece());
            std::iter::once(group.mark.piece())
                .chain(inner)
                .map(|p| p.map(|p| p.slot))
                .collect()
        };
        assert_eq!(marks(&live), [None, Some(200), None]);
        assert_eq!(marks(&frozen), [Some(100), Some(200), Some(201)]);
        assert!(shelf.take().is_empty(), "the frozen state still needs them");
        drop(frozen);
        let mut left: Vec<u32> = shelf.take().iter().map(|p| p.slot).collect();
        left.sort_unstable();
        assert_eq!(left, [100, 101, 201, 800]);
    }
}
