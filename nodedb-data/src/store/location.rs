//! The location table: from a surrogate to its row's newest version, 8 bytes a row. It stays in
//! memory: a start reads all of it anyway, to know which rows are alive, and so nothing that a row
//! is released or superseded by has to wait for it.
//!
//! Chunks of the 1,024 ids of a small lease, so that a table costs what its leases cost. A chunk
//! on disk is its locations in order, 8 bytes each, zeros where an id names no row.

use std::rc::Rc;

use nodedb_types::Surrogate;
use nodedb_types::limits::EXTENT_SMALL;

use super::leaves::{Leaf, Leaves};
use super::residency::{Owner, Residency};
use super::row_log::Location;

const CHUNK: usize = EXTENT_SMALL as usize;

/// The locations of [`EXTENT_SMALL`] ids.
#[derive(Clone)]
pub struct Chunk(Box<[Location; CHUNK]>);

impl Leaf for Chunk {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0
            .iter()
            .for_each(|l| out.extend_from_slice(&l.0.to_le_bytes()));
    }

    fn of_bytes(bytes: &[u8]) -> Option<Chunk> {
        let (words, []) = bytes.as_chunks() else {
            return None;
        };
        let locations = words.iter().map(|w| Location(u64::from_le_bytes(*w)));
        let locations: Box<[Location]> = locations.collect();
        Some(Chunk(locations.try_into().ok()?))
    }

    fn memory(&self) -> usize {
        CHUNK * size_of::<Location>()
    }
}

pub struct LocationTable {
    chunks: Leaves<Chunk>,
}

impl LocationTable {
    pub fn new(residency: &Rc<Residency>) -> LocationTable {
        LocationTable::thaw(Leaves::new(residency, Owner::Locations))
    }

    /// The table with these chunks.
    pub fn thaw(chunks: Leaves<Chunk>) -> LocationTable {
        LocationTable { chunks }
    }

    /// The chunks as they are now; those of the table go on changing.
    pub fn freeze(&self) -> Leaves<Chunk> {
        self.chunks.clone()
    }

    /// The newest version of the row; [`Location::NONE`] when the id names no row.
    pub fn get(&self, surrogate: Surrogate) -> Location {
        let (chunk, slot) = split(surrogate);
        let chunk = self.chunks.peek(chunk);
        chunk.map_or(Location::NONE, |c| c.0[slot])
    }

    pub fn set(&mut self, surrogate: Surrogate, location: Location) {
        let (chunk, slot) = split(surrogate);
        if !self.chunks.contains(chunk) {
            let empty = Chunk(Box::new([Location::NONE; CHUNK]));
            self.chunks.put(chunk, empty, 0);
        }
        self.chunks.change(chunk).0[slot] = location;
    }

    /// Takes out at most `max` versions of the lowest ids, and their chunk with the last of them;
    /// `None` when there is no chunk.
    pub fn take_some(&mut self, max: usize) -> Option<Vec<Location>> {
        let number = self.chunks.numbers().next()?;
        let mut chunk = self.chunks.change(number);
        let held = chunk.0.iter_mut().filter(|l| !l.is_none());
        let taken: Vec<Location> = held.take(max).map(std::mem::take).collect();
        let is_empty = chunk.0.iter().all(|l| l.is_none());
        drop(chunk);
        if is_empty {
            self.chunks.remove(number);
        }
        Some(taken)
    }

    /// Every id from `from` on that names a version, with it, until `visit` says no.
    pub fn walk(&self, from: u32, mut visit: impl FnMut(Surrogate, Location) -> bool) {
        for (chunk, locations) in self.chunks.iter_from(from / EXTENT_SMALL) {
            for (slot, &location) in locations.0.iter().enumerate() {
                let id = chunk * EXTENT_SMALL + slot as u32;
                if id >= from
                    && !location.is_none()
                    && let Some(surrogate) = Surrogate::new(id)
                    && !visit(surrogate, location)
                {
                    return;
                }
            }
        }
    }
}

fn split(surrogate: Surrogate) -> (u32, usize) {
    let id = surrogate.get();
    (id / EXTENT_SMALL, (id % EXTENT_SMALL) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_get_and_walk() {
        let residency = Residency::alone(0, true);
        let mut table = LocationTable::new(&residency);
        let ids = [1u32, 1023, 1024, 65_535, 65_536, 200_000];
        for id in ids {
            table.set(Surrogate::new(id).unwrap(), Location(u64::from(id) * 8));
        }
        for id in ids {
            assert_eq!(table.get(Surrogate::new(id).unwrap()).0, u64::from(id) * 8);
        }
        assert!(table.get(Surrogate::new(5).unwrap()).is_none());
        assert!(table.get(Surrogate::new(9_000_000).unwrap()).is_none());
        let mut all = 0;
        for (_, chunk) in table.chunks.iter_from(0) {
            let mut bytes = Vec::new();
            chunk.encode(&mut bytes);
            assert!(Chunk::of_bytes(&bytes).is_some_and(|c| c.0 == chunk.0));
            assert!(Chunk::of_bytes(&bytes[..8191]).is_none());
            all += bytes.len();
        }
        assert_eq!(all, residency.held(Owner::Locations));
        assert_eq!(residency.bytes(), 0, "they do not count against the limit");
        for from in [0, 2, 1024, 1025, 65_536, 65_537] {
            let mut seen = Vec::new();
            table.walk(from, |s, _| {
                seen.push(s.get());
                true
            });
            let expected: Vec<u32> = ids.into_iter().filter(|&id| id >= from).collect();
            assert_eq!(seen, expected, "from {from}");
        }
        let mut taken = Vec::new();
        while let Some(some) = table.take_some(1) {
            taken.extend(some.iter().map(|l| (l.0 / 8) as u32));
        }
        assert_eq!(
            (&taken[..], residency.held(Owner::Locations)),
            (&ids[..], 0)
        );
    }
}
