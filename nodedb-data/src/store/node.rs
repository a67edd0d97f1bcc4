//! One page of the key index: a sorted run of cells in 8 KiB.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | the page's checksum, see [`super::page`] |
//! | 4 | 1 | level: 0 a leaf, above it the height |
//! | 5 | 1 | zero |
//! | 6 | 2 | number of cells |
//! | 8 | 2 | lowest offset that a cell uses |
//! | 10 | 2 | bytes of cells that were removed |
//! | 12 | 4 | inner page: the child left of the first cell |
//! | 16 | 2 each | offsets of the cells, in the order of their keys |
//!
//! A cell is the key's length (2 bytes), a value (4 bytes: surrogate in a leaf, child page in an
//! inner page, whose keys are those at or above the cell's key) and the key.

use super::page::{PAGE_BYTES, Page};

const SLOTS_AT: usize = 16;
const CELL_HEADER: usize = 6;

/// Largest key that fits several times.
pub const KEY_MAX: usize = nodedb_types::limits::KEY_BYTES_MAX;

const _: () = assert!((KEY_MAX + CELL_HEADER + 2) * 4 <= PAGE_BYTES - SLOTS_AT);

fn get_u16(page: &Page, at: usize) -> usize {
    usize::from(u16::from_le_bytes([page[at], page[at + 1]]))
}

fn set_u16(page: &mut Page, at: usize, value: usize) {
    let value = u16::try_from(value).expect("offsets within a page fit 16 bits");
    page[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn get_u32(page: &Page, at: usize) -> u32 {
    u32::from_le_bytes(page[at..at + 4].try_into().expect("four bytes"))
}

/// Makes an empty page of a level.
pub fn init(page: &mut Page, level: u8, first_child: u32) {
    page.fill(0);
    page[4] = level;
    set_u16(page, 8, PAGE_BYTES);
    page[12..16].copy_from_slice(&first_child.to_le_bytes());
}

pub fn level(page: &Page) -> u8 {
    page[4]
}

pub fn count(page: &Page) -> usize {
    get_u16(page, 6)
}

pub fn first_child(page: &Page) -> u32 {
    get_u32(page, 12)
}

pub fn set_first_child(page: &mut Page, child: u32) {
    page[12..16].copy_from_slice(&child.to_le_bytes());
}

fn cell(page: &Page, slot: usize) -> usize {
    get_u16(page, SLOTS_AT + slot * 2)
}

pub fn key(page: &Page, slot: usize) -> &[u8] {
    let at = cell(page, slot);
    &page[at + CELL_HEADER..at + CELL_HEADER + get_u16(page, at)]
}

pub fn value(page: &Page, slot: usize) -> u32 {
    get_u32(page, cell(page, slot) + 2)
}

pub fn set_value(page: &mut Page, slot: usize, value: u32) {
    let at = cell(page, slot) + 2;
    page[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The first bytes of a key as a number, which most often tells two keys apart; `None` for a key
/// that has fewer.
fn head(key: &[u8]) -> Option<u64> {
    key.first_chunk().map(|head| u64::from_be_bytes(*head))
}

/// The slot of the key, or where it would stand.
pub fn search(page: &Page, wanted: &[u8]) -> Result<usize, usize> {
    let wanted_head = head(wanted);
    let (mut low, mut high) = (0, count(page));
    while low < high {
        let middle = (low + high) / 2;
        let key = key(page, middle);
        let order = match (head(key), wanted_head) {
            (Some(a), Some(b)) if a != b => a.cmp(&b),
            _ => key.cmp(wanted),
        };
        match order {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Ok(middle),
        }
    }
    Err(low)
}

/// The child of an inner page to follow for a key: 0 is the first child, n the one of cell n - 1.
pub fn child_slot(page: &Page, wanted: &[u8]) -> usize {
    match search(page, wanted) {
        Ok(slot) => slot + 1,
        Err(slot) => slot,
    }
}

pub fn child(page: &Page, child_slot: usize) -> u32 {
    match child_slot {
        0 => first_child(page),
        n => value(page, n - 1),
    }
}

/// Puts a cell before `slot`; false when the page is full.
pub fn insert(page: &mut Page, slot: usize, new_key: &[u8], new_value: u32) -> bool {
    let need = CELL_HEADER + new_key.len();
    let cells = count(page);
    let slots_end = SLOTS_AT + (cells + 1) * 2;
    if slots_end + need > get_u16(page, 8) {
        if slots_end + need > get_u16(page, 8) + get_u16(page, 10) {
            return false;
        }
        compact(page);
    }
    let at = get_u16(page, 8) - need;
    set_u16(page, at, new_key.len());
    page[at + 2..at + 6].copy_from_slice(&new_value.to_le_bytes());
    page[at + CELL_HEADER..at + need].copy_from_slice(new_key);
    set_u16(page, 8, at);
    let from = SLOTS_AT + slot * 2;
    page.copy_within(from..SLOTS_AT + cells * 2, from + 2);
    set_u16(page, from, at);
    set_u16(page, 6, cells + 1);
    true
}

pub fn remove(page: &mut Page, slot: usize) {
    let cells = count(page);
    let freed = CELL_HEADER + key(page, slot).len();
    let from = SLOTS_AT + slot * 2;
    page.copy_within(from + 2..SLOTS_AT + cells * 2, from);
    set_u16(page, 6, cells - 1);
    let dead = get_u16(page, 10) + freed;
    set_u16(page, 10, dead);
}

/// Closes the gaps that removed cells left.
fn compact(page: &mut Page) {
    let old = *page;
    init(page, level(&old), first_child(&old));
    for slot in 0..count(&old) {
        let kept = insert(page, slot, key(&old, slot), value(&old, slot));
        assert!(kept, "what fitted with gaps fits without");
    }
}

/// Moves the cells from `from` on into the empty page `right`.
pub fn split_off(page: &mut Page, from: usize, right: &mut Page) {
    let cells = count(page);
    for slot in from..cells {
        let moved = insert(right, slot - from, key(page, slot), value(page, slot));
        assert!(moved, "half a page fits a page");
    }
    for slot in (from..cells).rev() {
        remove(page, slot);
    }
}

/// Where to split a full page so that both halves hold about as many bytes. A page that grows at
/// its end keeps nearly all, so that ascending keys fill their pages.
pub fn split_point(page: &Page, inserting_at: usize) -> usize {
    let cells = count(page);
    if inserting_at == cells {
        return cells - 1;
    }
    let total: usize = (0..cells).map(|s| CELL_HEADER + key(page, s).len()).sum();
    let mut left = 0;
    for slot in 0..cells - 1 {
        left += CELL_HEADER + key(page, slot).len();
        if left * 2 >= total {
            return slot + 1;
        }
    }
    cells - 1
}
