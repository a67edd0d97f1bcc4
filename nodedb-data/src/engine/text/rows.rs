//! The rows that hold one token. Most tokens of a collection stand in few rows, and those cost
//! one small list or nothing beyond the entry itself.

use crate::set::{BlockSet, Gather, RowSet};

/// Up to this many rows are kept as a plain list.
const FEW_MAX: usize = 32;

#[derive(Clone, Debug)]
pub(super) enum Rows {
    One(u32),
    /// Ascending.
    Few(Vec<u32>),
    /// More than half of [`FEW_MAX`].
    Many(Box<RowSet>),
}

impl Default for Rows {
    fn default() -> Rows {
        Rows::Few(Vec::new())
    }
}

impl Rows {
    pub(super) fn from_ascending(rows: &[u32]) -> Rows {
        match rows {
            [only] => Rows::One(*only),
            _ if rows.len() <= FEW_MAX => Rows::Few(rows.to_vec()),
            _ => {
                let mut set = RowSet::new();
                for block in rows.chunk_by(|a, b| a >> 16 == b >> 16) {
                    let ids = block.iter().map(|row| *row as u16);
                    set.union_block((block[0] >> 16) as u16, &BlockSet::from_sorted(ids));
                }
                Rows::Many(Box::new(set))
            }
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Rows::One(_) => 1,
            Rows::Few(rows) => rows.len() as u64,
            Rows::Many(rows) => rows.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn as_few(&self) -> Option<&[u32]> {
        match self {
            Rows::One(only) => Some(std::slice::from_ref(only)),
            Rows::Few(rows) => Some(rows),
            Rows::Many(_) => None,
        }
    }

    /// True when it was not there.
    pub(super) fn insert(&mut self, surrogate: u32) -> bool {
        match self {
            Rows::One(only) => {
                let only = *only;
                if only == surrogate {
                    return false;
                }
                *self = Rows::Few(vec![only.min(surrogate), only.max(surrogate)]);
                true
            }
            Rows::Few(rows) if rows.is_empty() => {
                *self = Rows::One(surrogate);
                true
            }
            Rows::Few(rows) => {
                let Err(at) = rows.binary_search(&surrogate) else {
                    return false;
                };
                rows.insert(at, surrogate);
                if rows.len() > FEW_MAX {
                    *self = Rows::Many(Box::new(rows.iter().copied().collect()));
                }
                true
            }
            Rows::Many(rows) => rows.insert(surrogate),
        }
    }

    /// True when it was there.
    pub(super) fn remove(&mut self, surrogate: u32) -> bool {
        match self {
            Rows::One(only) if *only == surrogate => {
                *self = Rows::default();
                true
            }
            Rows::One(_) => false,
            Rows::Few(rows) => match rows.binary_search(&surrogate) {
                Ok(at) => {
                    rows.remove(at);
                    true
                }
                Err(_) => false,
            },
            Rows::Many(rows) => {
                let was = rows.remove(surrogate);
                if rows.len() <= FEW_MAX as u64 / 2 {
                    *self = Rows::Few(rows.iter().collect());
                }
                was
            }
        }
    }

    /// Adds the rows of one block.
    pub(super) fn add_block(&self, block: u16, to: &mut impl Gather) {
        match self {
            Rows::Many(rows) => {
                if let Some(ids) = rows.block(block) {
                    to.add_all(ids);
                }
            }
            Rows::One(_) | Rows::Few(_) => {
                let rows = self.as_few().unwrap_or_default();
                for row in rows.iter().filter(|row| (**row >> 16) as u16 == block) {
                    to.add(*row as u16);
                }
            }
        }
    }

    pub(super) fn add_all(&self, to: &mut RowSet) {
        match self {
            Rows::Many(rows) => to.union(rows),
            Rows::One(_) | Rows::Few(_) => {
                for row in self.as_few().unwrap_or_default() {
                    to.insert(*row);
                }
            }
        }
    }

    /// All of them but those in `dead`.
    pub(super) fn alive(&self, dead: &RowSet) -> RowSet {
        let mut rows = RowSet::new();
        self.add_all(&mut rows);
        rows.subtract(dead);
        rows
    }

    /// The first block at or above `from` with rows.
    pub(super) fn next_block(&self, from: u16) -> Option<u16> {
        match self {
            Rows::Many(rows) => rows.next_block(from),
            Rows::One(_) | Rows::Few(_) => {
                let rows = self.as_few().unwrap_or_default();
                let mut blocks = rows.iter().map(|row| (row >> 16) as u16);
                blocks.find(|block| *block >= from)
            }
        }
    }

    /// The first row above `after`; `None` starts at the first of all.
    pub(super) fn next_after(&self, after: Option<u32>) -> Option<u32> {
        match self {
            Rows::Many(rows) => rows.next_after(after),
            Rows::One(_) | Rows::Few(_) => {
                let rows = self.as_few().unwrap_or_default();
                let mut above = rows.iter().copied();
                above.find(|row| after.is_none_or(|after| *row > after))
            }
        }
    }

    /// Units of 64 bytes that an operation over all rows touches, roughly.
    pub(super) fn weight(&self) -> u32 {
        match self {
            Rows::Many(rows) => (rows.len() / 32).min(1 << 20) as u32,
            Rows::One(_) | Rows::Few(_) => 0,
        }
    }
}

impl From<RowSet> for Rows {
    fn from(rows: RowSet) -> Rows {
        match rows.len() {
            1 => Rows::One(rows.next_after(None).unwrap_or_default()),
            len if len <= FEW_MAX as u64 => Rows::Few(rows.iter().collect()),
            _ => Rows::Many(Box::new(rows)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_equal_the_model(
            steps in prop::collection::vec((any::<bool>(), 0u32..3, 0u32..40), 0..300),
            dead in prop::collection::btree_set((0u32..3, 0u32..40), 0..20),
        ) {
            let (mut rows, mut model) = (Rows::default(), BTreeSet::new());
            for (add, block, low) in steps {
                let id = block << 16 | low;
                match add {
                    true => prop_assert_eq!(rows.insert(id), model.insert(id)),
                    false => prop_assert_eq!(rows.remove(id), model.remove(&id)),
                }
                prop_assert_eq!(rows.len(), model.len() as u64);
                prop_assert_eq!(rows.next_after(Some(id)), model.range(id + 1..).next().copied());
            }
            for block in 0..4u16 {
                let mut found = BlockSet::new();
                rows.add_block(block, &mut found);
                let inside = model.iter().filter(|id| (**id >> 16) as u16 == block);
                prop_assert_eq!(found, inside.map(|id| *id as u16).collect());
                let next = model.range(u32::from(block) << 16..).next();
                prop_assert_eq!(rows.next_block(block), next.map(|id| (*id >> 16) as u16));
            }
            let dead: RowSet = dead.into_iter().map(|(block, low)| block << 16 | low).collect();
            let alive = rows.alive(&dead);
            prop_assert!(alive.iter().eq(model.into_iter().filter(|id| !dead.contains(*id))));
            let list: Vec<u32> = alive.iter().collect();
            prop_assert_eq!(Rows::from_ascending(&list).alive(&RowSet::new()), alive.clone());
            let back = Rows::from(alive.clone());
            prop_assert_eq!(back.alive(&RowSet::new()), alive);
        }
    }
}
