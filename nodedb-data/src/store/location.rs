//! The location table: from a surrogate to its row's newest version, 8 bytes a row.
//!
//! Two levels, by block of 65,536 ids and by the 1,024 ids of a small lease, so that a table
//! costs what its leases cost and a lookup is two indexings.

use nodedb_types::Surrogate;
use nodedb_types::limits::{BLOCK_IDS, EXTENT_SMALL};

use super::row_log::Location;

const CHUNK: usize = EXTENT_SMALL as usize;
const CHUNKS: usize = (BLOCK_IDS / EXTENT_SMALL) as usize;

type Chunk = Box<[Location; CHUNK]>;

#[derive(Default)]
pub struct LocationTable {
    blocks: Vec<Option<Box<[Option<Chunk>; CHUNKS]>>>,
    chunks: usize,
}

impl LocationTable {
    /// The newest version of the row; [`Location::NONE`] when the id names no row.
    pub fn get(&self, surrogate: Surrogate) -> Location {
        let (block, chunk, slot) = split(surrogate);
        match self.blocks.get(block) {
            Some(Some(chunks)) => chunks[chunk].as_ref().map_or(Location::NONE, |c| c[slot]),
            _ => Location::NONE,
        }
    }

    pub fn set(&mut self, surrogate: Surrogate, location: Location) {
        let (block, chunk, slot) = split(surrogate);
        if self.blocks.len() <= block {
            self.blocks.resize_with(block + 1, || None);
        }
        let chunks = self.blocks[block].get_or_insert_with(|| Box::new([const { None }; CHUNKS]));
        let chunk = chunks[chunk].get_or_insert_with(|| {
            self.chunks += 1;
            Box::new([Location::NONE; CHUNK])
        });
        chunk[slot] = location;
    }

    /// Every id from `from` on that names a version, with it, until `visit` says no.
    pub fn walk(&self, from: u32, mut visit: impl FnMut(Surrogate, Location) -> bool) {
        let (first_block, first_chunk, first_slot) = (
            (from >> 16) as usize,
            (from as usize >> 10) % CHUNKS,
            from as usize % CHUNK,
        );
        for (b, block) in self.blocks.iter().enumerate().skip(first_block) {
            let Some(chunks) = block else { continue };
            let chunk_from = if b == first_block { first_chunk } else { 0 };
            for (c, chunk) in chunks.iter().enumerate().skip(chunk_from) {
                let Some(slots) = chunk else { continue };
                let start = b == first_block && c == first_chunk;
                for (s, &location) in
                    slots
                        .iter()
                        .enumerate()
                        .skip(if start { first_slot } else { 0 })
                {
                    let id = (b * CHUNKS + c) * CHUNK + s;
                    if !location.is_none()
                        && let Some(surrogate) = Surrogate::new(id as u32)
                        && !visit(surrogate, location)
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.chunks * CHUNK * size_of::<Location>()
    }
}

fn split(surrogate: Surrogate) -> (usize, usize, usize) {
    let id = surrogate.get() as usize;
    (id >> 16, (id >> 10) % CHUNKS, id % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_get_and_walk() {
        let mut table = LocationTable::default();
        let ids = [1u32, 1023, 1024, 65_535, 65_536, 200_000];
        for id in ids {
            table.set(Surrogate::new(id).unwrap(), Location(u64::from(id) * 8));
        }
        for id in ids {
            assert_eq!(table.get(Surrogate::new(id).unwrap()).0, u64::from(id) * 8);
        }
        assert!(table.get(Surrogate::new(5).unwrap()).is_none());
        assert!(table.get(Surrogate::new(9_000_000).unwrap()).is_none());
        for from in [0, 2, 1024, 1025, 65_536, 65_537] {
            let mut seen = Vec::new();
            table.walk(from, |s, _| {
                seen.push(s.get());
                true
            });
            let expected: Vec<u32> = ids.into_iter().filter(|&id| id >= from).collect();
            assert_eq!(seen, expected, "from {from}");
        }
    }
}
