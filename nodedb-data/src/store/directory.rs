//! Which collection and shard own a surrogate: two levels, by block and by small extent.

use nodedb_bridge::plan::Extent;
use nodedb_types::limits::{BLOCK_IDS, EXTENT_SMALL};
use nodedb_types::{CollectionId, ShardId, Surrogate};

const PARTS: usize = (BLOCK_IDS / EXTENT_SMALL) as usize;

pub type Owner = (CollectionId, ShardId);

#[derive(Default)]
pub struct Directory {
    blocks: Vec<Option<Block>>,
}

enum Block {
    Whole(Owner),
    Parts(Box<[Option<Owner>; PARTS]>),
}

impl Directory {
    /// The table that the id was leased to.
    pub fn owner(&self, surrogate: Surrogate) -> Option<Owner> {
        match self.blocks.get(usize::from(surrogate.block()))?.as_ref()? {
            Block::Whole(owner) => Some(*owner),
            Block::Parts(parts) => parts[(surrogate.get() / EXTENT_SMALL) as usize % PARTS],
        }
    }

    /// Enters a lease. False when another table holds some of it already.
    pub fn enter(&mut self, extent: Extent) -> bool {
        let owner = (extent.collection, extent.shard);
        let block = (extent.first / BLOCK_IDS) as usize;
        if self.blocks.len() <= block {
            self.blocks.resize_with(block + 1, || None);
        }
        let place = &mut self.blocks[block];
        if extent.len == BLOCK_IDS {
            let held = place.get_or_insert(Block::Whole(owner));
            return matches!(held, Block::Whole(o) if *o == owner);
        }
        match place.get_or_insert_with(|| Block::Parts(Box::new([None; PARTS]))) {
            Block::Whole(_) => false,
            Block::Parts(parts) => {
                let part = (extent.first / EXTENT_SMALL) as usize % PARTS;
                *parts[part].get_or_insert(owner) == owner
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_found_and_overlaps_refused() {
        let mut directory = Directory::default();
        let extent = |c, first, len| Extent {
            collection: CollectionId(c),
            shard: ShardId(3),
            first,
            len,
        };
        assert!(directory.enter(extent(1, 1024, 1024)));
        assert!(
            directory.enter(extent(1, 1024, 1024)),
            "again is no conflict"
        );
        assert!(!directory.enter(extent(2, 1024, 1024)));
        assert!(directory.enter(extent(2, 65_536, 65_536)));
        assert!(!directory.enter(extent(1, 65_536 + 1024, 1024)));
        let owner = |id| directory.owner(Surrogate::new(id).unwrap());
        assert_eq!(owner(1500), Some((CollectionId(1), ShardId(3))));
        assert_eq!(owner(100_000), Some((CollectionId(2), ShardId(3))));
        assert_eq!(owner(500), None);
        assert_eq!(owner(900_000), None);
    }
}
