//! Leaves: numbered blocks of bytes that can be frozen at once, are written once, and need not all
//! be in memory.
//!
//! Pages of indexes, chunks of location tables and segments of row logs are all leaves. They hang
//! in groups of [`GROUP`]; groups and leaves are shared between the living structure and a frozen
//! one, and copied when they are changed while they are shared. So freezing clones one pointer a
//! group, and a checkpoint finds what changed since the last one by what is not stored: a changed
//! leaf forgets where it is stored, and so does its group.
//!
//! A leaf that is stored may be dropped from memory (see [`super::residency`]), for the living and
//! the frozen structure at once: both refer to one [`Kept`], and a checkpoint needs only its place.
//! A leaf that is not stored is in memory. Only leaves in memory are changed.
//!
//! On disk a group is a table, a piece of its own: 16 bytes for each of its leaves up to the last,
//! the leaf's piece (12, zeros when there is no leaf) and its note (4), a number that belongs to
//! the owner.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::rc::Rc;

use super::residency::{Load, Missing, Owner, Residency, Resident};
use super::slots::{Piece, Shelf, Stored};

/// Leaves of a group: their table fits a slot.
pub const GROUP: usize = 512;
/// Bytes of a leaf's entry in its group's table.
pub const ENTRY_BYTES: usize = Piece::ENCODED + 4;

const _: () = assert!(GROUP * ENTRY_BYTES <= super::slots::SLOT_BYTES);

/// A block of bytes.
pub trait Leaf: Clone + 'static {
    /// Appends what is written: not nothing, at most [`super::slots::PIECE_BYTES_MAX`].
    fn encode(&self, out: &mut Vec<u8>);

    /// What was written; `None` when it cannot have been.
    fn of_bytes(bytes: &[u8]) -> Option<Self>;

    /// Bytes of memory.
    fn memory(&self) -> usize;
}

/// Where a group's table is stored, if it is.
#[derive(Default)]
pub struct Mark(RefCell<Option<Stored>>);

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

/// A leaf and where it is stored; in memory or not.
pub struct Kept<L> {
    /// There unless the leaf is stored.
    content: RefCell<Option<L>>,
    /// May be read: there, and not missing by a fault.
    is_ready: Cell<bool>,
    /// Was read since the hand came by.
    is_used: Cell<bool>,
    /// Stands in the clock.
    is_entered: Cell<bool>,
    /// Bytes that are charged for it.
    charged: Cell<usize>,
    stored: RefCell<Option<Stored>>,
    load: RefCell<Option<Rc<Load>>>,
    residency: Rc<Residency>,
    owner: Owner,
}

impl<L> Kept<L> {
    /// Where it is stored.
    pub fn piece(&self) -> Option<Piece> {
        self.stored.borrow().as_ref().map(Stored::piece)
    }

    fn is_stored(&self) -> bool {
        self.stored.borrow().is_some()
    }

    /// It was written as it is.
    pub fn set_stored(&self, stored: Stored) {
        if self.stored.replace(Some(stored)).is_none() {
            let residency = &self.residency;
            residency.note_dirty(self.owner, self.charged.get(), false);
        }
    }

    fn forget_stored(&self) {
        if self.stored.take().is_some() {
            let residency = &self.residency;
            residency.note_dirty(self.owner, self.charged.get(), true);
        }
    }

    fn charge(&self, bytes: usize) {
        let before = self.charged.replace(bytes);
        self.residency
            .charge(self.owner, before, bytes, !self.is_stored());
    }

    /// Drops what is in memory; false when it is being read.
    fn drop_content(&self) -> bool {
        let Ok(mut content) = self.content.try_borrow_mut() else {
            return false;
        };
        if content.take().is_some() {
            self.is_ready.set(false);
            self.charge(0);
            self.residency.note_evicted();
        }
        true
    }
}

impl<L: Leaf> Kept<L> {
    fn new(
        leaf: Option<L>,
        stored: Option<Stored>,
        residency: &Rc<Residency>,
        owner: Owner,
    ) -> Rc<Kept<L>> {
        let memory = leaf.as_ref().map(L::memory);
        let kept = Rc::new(Kept {
            content: RefCell::new(leaf),
            is_ready: Cell::new(false),
            is_used: Cell::new(false),
            is_entered: Cell::new(false),
            charged: Cell::new(0),
            stored: RefCell::new(stored),
            load: RefCell::default(),
            residency: residency.clone(),
            owner,
        });
        if let Some(memory) = memory {
            kept.charge(memory);
            kept.make_ready();
        }
        kept
    }

    /// The leaf is in memory and may be read from now on.
    fn make_ready(self: &Rc<Self>) {
        self.is_ready.set(true);
        self.is_used.set(true);
        if !self.owner.may_go() {
            return;
        }
        if !self.is_entered.replace(true) {
            let leaf: Rc<dyn Resident> = self.clone();
            self.residency.enter(Rc::downgrade(&leaf));
        }
        self.residency.note_recent(self);
    }

    /// Appends what is to be written of a leaf that is not stored.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let content = self.content.borrow();
        let leaf = content.as_ref();
        leaf.expect("what is not stored is in memory").encode(out);
    }

    fn read(self: &Rc<Self>) -> Result<Ref<'_, L>, Missing> {
        if !self.is_ready.get() {
            return Err(Missing::new(self.clone()));
        }
        self.is_used.set(true);
        let content = Ref::map(self.content.borrow(), |c| {
            c.as_ref().expect("a leaf that may be read is there")
        });
        Ok(content)
    }

    fn peek(&self) -> Option<Ref<'_, L>> {
        Ref::filter_map(self.content.borrow(), Option::as_ref).ok()
    }
}

impl<L: Leaf> Resident for Kept<L> {
    fn away(&self) -> Option<(Piece, Rc<Shelf>)> {
        if self.content.borrow().is_some() {
            return None;
        }
        let stored = self.stored.borrow();
        let stored = stored.as_ref().expect("what is not in memory is stored");
        Some((stored.piece(), stored.shelf().clone()))
    }

    fn fill(&self, bytes: &[u8]) -> bool {
        let Some(leaf) = L::of_bytes(bytes) else {
            return false;
        };
        let memory = leaf.memory();
        *self.content.borrow_mut() = Some(leaf);
        self.charge(memory);
        true
    }

    fn admit(self: Rc<Self>) {
        // With faults, one that was in memory may have gone meanwhile; then it is read.
        if self.content.borrow().is_some() {
            self.make_ready();
        }
    }

    fn expire(&self) {
        self.is_ready.set(false);
        if self.is_stored() {
            self.drop_content();
        }
    }

    fn pass(&self) -> bool {
        if self.is_used.replace(false) || !self.is_stored() || !self.drop_content() {
            return false;
        }
        self.is_entered.set(false);
        true
    }

    fn load(&self) -> &RefCell<Option<Rc<Load>>> {
        &self.load
    }

    fn residency(&self) -> &Rc<Residency> {
        &self.residency
    }
}

impl<L> Drop for Kept<L> {
    fn drop(&mut self) {
        self.charge(0);
        if self.is_entered.get() {
            self.residency.leave();
        }
    }
}

/// A run of leaves and where their table is stored.
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
    residency: Rc<Residency>,
    owner: Owner,
}

impl<L> Clone for Leaves<L> {
    fn clone(&self) -> Leaves<L> {
        Leaves {
            groups: self.groups.clone(),
            residency: self.residency.clone(),
            owner: self.owner,
        }
    }
}

/// A place of a group with its leaf and its note, if there is one.
pub type Place<L> = Option<(Rc<Kept<L>>, u32)>;

fn split(number: u32) -> (usize, usize) {
    (number as usize / GROUP, number as usize % GROUP)
}

impl<L> Leaves<L> {
    pub fn new(residency: &Rc<Residency>, owner: Owner) -> Leaves<L> {
        Leaves {
            groups: Vec::new(),
            residency: residency.clone(),
            owner,
        }
    }

    fn slot(&self, number: u32) -> Option<&Slot<L>> {
        let (group, at) = split(number);
        self.groups.get(group)?.as_ref()?.slots.get(at)?.as_ref()
    }

    pub fn contains(&self, number: u32) -> bool {
        self.slot(number).is_some()
    }

    /// The owner's number about a leaf.
    pub fn note(&self, number: u32) -> Option<u32> {
        Some(self.slot(number)?.note)
    }

    /// Where a leaf is stored.
    pub fn piece(&self, number: u32) -> Option<Piece> {
        self.slot(number)?.kept.piece()
    }

    /// Groups that have leaves, by number.
    pub fn groups(&self) -> impl Iterator<Item = (u32, &Rc<Group<L>>)> {
        let numbered = self.groups.iter().enumerate();
        numbered.filter_map(|(n, group)| Some((n as u32, group.as_ref()?)))
    }

    /// The numbers of the leaves, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.slots_from(0).map(|(number, _)| number)
    }

    fn slots_from(&self, from: u32) -> impl Iterator<Item = (u32, &Slot<L>)> {
        let (first_group, first_at) = split(from);
        let groups = self.groups.iter().enumerate().skip(first_group);
        groups.flat_map(move |(n, group)| {
            let skipped = if n == first_group { first_at } else { 0 };
            let slots = group.iter().flat_map(|g| g.slots.iter().enumerate());
            slots
                .skip(skipped)
                .filter_map(move |(at, slot)| Some(((n * GROUP + at) as u32, slot.as_ref()?)))
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

impl<L: Leaf> Leaves<L> {
    /// A leaf that is there, if it is in memory.
    pub fn read(&self, number: u32) -> Result<Ref<'_, L>, Missing> {
        let slot = self.slot(number);
        slot.expect("a leaf in use is there").kept.read()
    }

    /// A leaf, if it is there and in memory; faults do not hide it.
    pub fn peek(&self, number: u32) -> Option<Ref<'_, L>> {
        self.slot(number)?.kept.peek()
    }

    /// The leaves from a number on, ascending, of an owner whose leaves are always in memory.
    pub fn iter_from(&self, from: u32) -> impl Iterator<Item = (u32, Ref<'_, L>)> {
        assert!(!self.owner.may_go());
        self.slots_from(from).map(|(number, slot)| {
            let leaf = slot.kept.peek();
            (number, leaf.expect("they are always in memory"))
        })
    }

    /// Puts a new leaf.
    pub fn put(&mut self, number: u32, leaf: L, note: u32) {
        let kept = Kept::new(Some(leaf), None, &self.residency, self.owner);
        *self.place(number) = Some(Slot { kept, note });
    }

    /// A leaf in memory, to be changed. One that changes its size is to be
    /// [charged](Leaves::recharge) afterwards.
    pub fn change(&mut self, number: u32) -> RefMut<'_, L> {
        let slot = self.place(number).as_mut().expect("a leaf in use is there");
        if Rc::strong_count(&slot.kept) > 1 {
            let old = &slot.kept;
            let copy = old.peek().as_deref().cloned();
            slot.kept = Kept::new(copy, None, &old.residency, old.owner);
        }
        slot.kept.forget_stored();
        slot.kept.is_used.set(true);
        RefMut::map(slot.kept.content.borrow_mut(), |content| {
            content.as_mut().expect("what is changed is in memory")
        })
    }

    /// Charges a leaf in memory as it is now.
    pub fn recharge(&self, number: u32) {
        let slot = self.slot(number).expect("a leaf in use is there");
        let memory = slot.kept.peek().map(|leaf| leaf.memory());
        slot.kept.charge(memory.unwrap_or(0));
    }

    /// Whether a leaf's content is wanted when a start finds it.
    pub fn wants(&self) -> bool {
        self.residency.has_room(self.owner)
    }

    /// A leaf as a checkpoint left it, to be put with its group; without its content it is read
    /// when somebody asks for it.
    pub fn stored(&self, leaf: Option<L>, stored: Stored) -> Rc<Kept<L>> {
        Kept::new(leaf, Some(stored), &self.residency, self.owner)
    }

    /// Puts a group as a checkpoint left it, with its table's piece; leaves by place.
    pub fn restore(&mut self, number: u32, table: Stored, places: Vec<Place<L>>) {
        let slots = places.into_iter();
        let slots = slots.map(|place| place.map(|(kept, note)| Slot { kept, note }));
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
pub mod tests {
    use super::*;

    /// Of a leaf: two of them are more than is kept whatever the limit.
    pub const BYTES: usize = 600 << 10;

    impl Leaf for u32 {
        fn encode(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.to_le_bytes());
        }

        fn of_bytes(bytes: &[u8]) -> Option<u32> {
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        }

        fn memory(&self) -> usize {
            BYTES
        }
    }

    fn stored(shelf: &Rc<Shelf>, slot: u32) -> Stored {
        let piece = Piece {
            slot,
            bytes: 4,
            crc: 0,
        };
        Stored::new(piece, shelf)
    }

    fn all(leaves: &Leaves<u32>) -> Vec<(u32, u32)> {
        let numbers = leaves.numbers();
        numbers.map(|n| (n, *leaves.peek(n).unwrap())).collect()
    }

    #[test]
    fn a_frozen_state_stays_and_a_change_forgets_where_it_was_stored() {
        let shelf = Rc::new(Shelf::default());
        let residency = Residency::alone(usize::MAX, false);
        let mut live = Leaves::new(&residency, Owner::Rows);
        for n in [0u32, 1, 600] {
            live.put(n, n, n * 2);
        }
        assert_eq!(
            (residency.bytes(), residency.dirty()),
            (3 * BYTES, 3 * BYTES)
        );
        for (n, group) in live.groups() {
            group.mark.set(stored(&shelf, 100 + n));
            for (kept, _) in group.places().flatten() {
                let leaf = *kept.peek().unwrap();
                kept.set_stored(stored(&shelf, 200 + leaf));
            }
        }
        assert_eq!((residency.bytes(), residency.dirty()), (3 * BYTES, 0));
        let frozen = live.clone();
        *live.change(1) = 77;
        live.set_note(0, 5);
        live.remove(600);
        assert_eq!((residency.bytes(), residency.dirty()), (4 * BYTES, BYTES));
        assert_eq!(all(&live), [(0, 0), (1, 77)]);
        assert_eq!(all(&frozen), [(0, 0), (1, 1), (600, 600)]);
        assert_eq!((live.note(0), frozen.note(0)), (Some(5), Some(0)));
        let marks = |leaves: &Leaves<u32>| -> Vec<_> {
            let group = leaves.groups().next().unwrap().1;
            let inner = group.places().flatten().map(|(k, _)| k.piece());
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
        assert_eq!((residency.bytes(), residency.dirty()), (2 * BYTES, BYTES));
        drop(live);
        assert_eq!((residency.bytes(), residency.dirty()), (0, 0));
    }

    #[test]
    fn the_hand_takes_what_is_stored_and_was_not_read() {
        let shelf = Rc::new(Shelf::default());
        let residency = Residency::alone(5 * BYTES / 2, false);
        let mut leaves = Leaves::new(&residency, Owner::Rows);
        (0..5u32).for_each(|n| leaves.put(n, n, 0));
        assert!(!residency.sweep(100), "dirty leaves stay");
        assert!(residency.wants_checkpoint());
        let frozen = leaves.clone();
        for (kept, _) in frozen.groups().next().unwrap().1.places().flatten() {
            let leaf = *kept.peek().unwrap();
            if leaf != 1 {
                kept.set_stored(stored(&shelf, leaf));
            }
        }
        // The first round takes the bits away.
        assert!(residency.sweep(5));
        assert_eq!(residency.stats().evicted, 0);
        assert_eq!(*leaves.read(2).unwrap(), 2);
        assert!(!residency.sweep(5), "a leaf is passed once");
        assert_eq!(all_there(&leaves), [1, 2]);
        assert_eq!(all_there(&frozen), [1, 2], "it is gone for both");
        assert_eq!(
            (residency.bytes(), residency.stats().evicted),
            (2 * BYTES, 3)
        );
        assert!(leaves.read(0).is_err() && leaves.contains(0));
        // What is not in memory can be freed; its place is free once nobody refers to it.
        leaves.remove(0);
        assert!(shelf.take().is_empty());
        drop(frozen);
        assert_eq!(shelf.take().len(), 1);
    }

    fn all_there(leaves: &Leaves<u32>) -> Vec<u32> {
        let numbers = leaves.numbers();
        numbers.filter(|&n| leaves.peek(n).is_some()).collect()
    }

    #[test]
    fn what_is_gone_does_not_fill_the_clock() {
        let residency = Residency::alone(usize::MAX, false);
        let mut leaves = Leaves::new(&residency, Owner::Keys);
        leaves.put(7, 7, 0);
        for n in 0..3000u32 {
            leaves.put(0, n, 0);
        }
        assert!(residency.needs_sweep());
        while residency.sweep(100) {}
        assert!(!residency.needs_sweep());
        assert_eq!(residency.bytes(), 2 * BYTES);
        assert_eq!(all(&leaves), [(0, 2999), (7, 7)]);
    }

    #[test]
    fn with_faults_every_leaf_pends_once_stored_or_not() {
        let residency = Residency::alone(usize::MAX, true);
        let mut leaves = Leaves::new(&residency, Owner::Keys);
        for n in 0..100u32 {
            leaves.put(n, n, 0);
        }
        let missing = leaves.read(3).unwrap_err();
        assert!(leaves.read(99).is_ok());
        drop(missing.fetch());
        assert_eq!(*leaves.read(3).unwrap(), 3);
        *leaves.change(3) = 4;
        assert_eq!(*leaves.read(3).unwrap(), 4);
    }
}
