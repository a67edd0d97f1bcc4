//! Surrogates: the extents leased to a table, and the allocator that leases them on shard 0.
//!
//! A lease is an aligned run of ids: [`EXTENT_SMALL`] of them, or [`EXTENT_BIG`] once a table
//! holds [`EXTENT_SMALL_COUNT`] small ones. Ids are given out in ascending order within an extent,
//! and an id that was given out does not come back (I1). Id 0 names no row, so the first small
//! extent of the space is never leased.

use nodedb_bridge::plan::Extent;
use nodedb_types::limits::{BLOCK_IDS, EXTENT_BIG, EXTENT_SMALL, EXTENT_SMALL_COUNT};
use nodedb_types::{Failure, Result, SqlState, Surrogate};

/// The extents of one (collection, shard).
#[derive(Default, Debug)]
pub struct Extents {
    /// With the number of ids of each that were given out.
    held: Vec<(Extent, u32)>,
    free: usize,
    asked: bool,
    /// Why the last request was refused.
    denied: Option<Failure>,
}

impl Extents {
    /// Adds a lease. True when it is new; a repeated grant changes nothing.
    pub fn grant(&mut self, extent: Extent) -> bool {
        if self.held.iter().any(|(e, _)| e.first == extent.first) {
            return false;
        }
        self.held.push((extent, 0));
        self.free += extent.len as usize;
        self.asked = false;
        true
    }

    /// Adds a lease of which some ids were given out.
    pub fn restore(&mut self, extent: Extent, used: u32) {
        let used = used.min(extent.len);
        self.free += (extent.len - used) as usize;
        self.held.push((extent, used));
    }

    /// The leases, with the number of ids of each that were given out.
    pub fn held(&self) -> &[(Extent, u32)] {
        &self.held
    }

    /// Ids that can be given out now.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Gives out an id.
    pub fn take(&mut self) -> Option<Surrogate> {
        let (extent, used) = self.held.iter_mut().find(|(e, used)| *used < e.len)?;
        let id = extent.first + *used;
        *used += 1;
        self.free -= 1;
        Surrogate::new(id)
    }

    /// An id seen in the log: it and those below it in its extent were given out.
    pub fn observe(&mut self, surrogate: Surrogate) {
        for (extent, used) in &mut self.held {
            let offset = surrogate.get().wrapping_sub(extent.first);
            if (*used..extent.len).contains(&offset) {
                self.free -= (offset + 1 - *used) as usize;
                *used = offset + 1;
            }
        }
    }

    pub fn holds(&self, surrogate: Surrogate) -> bool {
        let within = |e: &Extent| surrogate.get().wrapping_sub(e.first) < e.len;
        self.held.iter().any(|(e, _)| within(e))
    }

    /// Whether to ask for another lease now, and whether for a big one. Says yes once until the
    /// next answer: when less than half of the newest kind of lease is left, or less than `need`.
    pub fn ask(&mut self, need: usize) -> Option<bool> {
        let big = self.held.len() >= EXTENT_SMALL_COUNT;
        let usual = if big { EXTENT_BIG } else { EXTENT_SMALL } as usize / 2;
        // A lease's first ids are used up only by rows; a table without rows asks for nothing.
        let low = self.free < need || (self.free < usual && !self.held.is_empty());
        if self.asked || !low {
            return None;
        }
        self.asked = true;
        self.denied = None;
        Some(big)
    }

    /// The request was refused. Who needs ids fails with this; the next one to need them asks anew.
    pub fn deny(&mut self, why: Failure) {
        self.asked = false;
        self.denied = Some(why);
    }

    /// Why no ids came, unless they were asked for again since.
    pub fn denied(&self) -> Option<&Failure> {
        self.denied.as_ref()
    }

    /// The request could not be sent; it may be made again.
    pub fn ask_again(&mut self) {
        self.asked = false;
    }
}

/// Leases of the whole database, on the core of shard 0.
#[derive(Default, Debug)]
pub struct Leases {
    all: Vec<Extent>,
    /// The next small extent within a block that is cut into small ones; a multiple of a block
    /// when there is none.
    next_small: u64,
    next_block: u64,
}

impl Leases {
    /// Finds the next free aligned ids without leasing them. Fails with 54000 when none are left.
    pub fn next(&self, big: bool) -> Result<(u32, u32)> {
        let (first, len) = if big {
            (self.next_block.max(1) * u64::from(BLOCK_IDS), EXTENT_BIG)
        } else if self.all.is_empty() {
            (u64::from(EXTENT_SMALL), EXTENT_SMALL)
        } else if self.next_small.is_multiple_of(u64::from(BLOCK_IDS)) {
            (self.next_block * u64::from(BLOCK_IDS), EXTENT_SMALL)
        } else {
            (self.next_small, EXTENT_SMALL)
        };
        match u32::try_from(first + u64::from(len) - 1) {
            Ok(_) => Ok((first as u32, len)),
            Err(_) => Err(Failure::new(
                SqlState::ProgramLimitExceeded,
                "the database holds as many rows as it can number",
            )),
        }
    }

    /// Records a lease, new or from the log.
    pub fn record(&mut self, extent: Extent) {
        let end = u64::from(extent.first) + u64::from(extent.len);
        self.next_block = self.next_block.max(end.div_ceil(u64::from(BLOCK_IDS)));
        if extent.len == EXTENT_SMALL {
            self.next_small = end;
        }
        self.all.push(extent);
    }

    pub fn all(&self) -> &[Extent] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use nodedb_types::{CollectionId, ShardId};

    use super::*;

    fn extent(first: u32, len: u32) -> Extent {
        Extent {
            collection: CollectionId(2000),
            shard: ShardId(1),
            first,
            len,
        }
    }

    #[test]
    fn leases_are_aligned_disjoint_and_never_hold_zero() {
        let mut leases = Leases::default();
        let mut taken = roaring::RoaringBitmap::new();
        for n in 0..200 {
            let big = n % 3 == 2;
            let (first, len) = leases.next(big).unwrap();
            assert!(first.is_multiple_of(len) && first > 0);
            let before = taken.len();
            taken.insert_range(first..=first + (len - 1));
            assert_eq!(taken.len(), before + u64::from(len), "lease {n} overlaps");
            leases.record(extent(first, len));
        }
        // The same state from a log.
        let mut again = Leases::default();
        leases.all().iter().for_each(|&e| again.record(e));
        assert_eq!(again.next(false).unwrap(), leases.next(false).unwrap());
        assert_eq!(again.next(true).unwrap(), leases.next(true).unwrap());
    }

    #[test]
    fn a_full_space_is_54000() {
        let mut leases = Leases::default();
        leases.record(extent(0xffff_0000 - 65_536, EXTENT_BIG));
        let (first, len) = leases.next(true).unwrap();
        assert_eq!(first, 0xffff_0000);
        leases.record(extent(first, len));
        let failure = leases.next(true).unwrap_err();
        assert_eq!(failure.code(), SqlState::ProgramLimitExceeded);
        assert!(leases.next(false).is_err());
    }

    #[test]
    fn ids_go_out_once_and_are_asked_for_ahead_of_need() {
        let mut extents = Extents::default();
        assert_eq!(extents.ask(0), None, "an empty table asks for nothing");
        assert_eq!(extents.ask(1), Some(false));
        assert_eq!(extents.ask(1), None, "asked once");
        assert!(extents.grant(extent(1024, 1024)));
        assert!(!extents.grant(extent(1024, 1024)));
        extents.observe(Surrogate::new(1030).unwrap());
        assert_eq!(extents.take().unwrap().get(), 1031);
        assert_eq!(extents.free(), 1024 - 8);
        for _ in 0..600 {
            extents.take().unwrap();
        }
        assert_eq!(extents.ask(1), Some(false), "half used");
        extents.grant(extent(0xffff_fc00, 1024));
        let mut last = 0;
        while let Some(surrogate) = extents.take() {
            last = surrogate.get();
        }
        assert_eq!((last, extents.free()), (u32::MAX, 0));
    }
}
