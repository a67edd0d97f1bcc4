//! Where a start begins: what each shard's checkpoint holds, and what of each chain is still to be
//! read.

use std::collections::BTreeSet;
use std::path::Path;

use nodedb_bridge::plan::Extent;
use nodedb_types::{Lsn, Result, ShardId, TxnId};

use crate::core::state::State;
use crate::shard::Shard;
use crate::shard::image::{self, Loaded};
use crate::shard::manifest::Root;
use crate::store::file::{PieceReader, StoreFile};
use crate::wal::{Chain, Position};

/// What the checkpoints of all shards say.
#[derive(Default)]
pub struct Start {
    /// By shard; `None` where there is no checkpoint.
    roots: Vec<Option<Root>>,
    /// Of the whole database, up to the checkpoint of shard 0.
    pub leases: Vec<Extent>,
    /// Transactions that a shard here holds open though its checkpoint is past their Prepare.
    pub open: BTreeSet<(TxnId, ShardId)>,
}

/// What is to be read of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// Nothing: every shard's checkpoint is past it.
    Nowhere,
    /// All that is kept. Some shard has no checkpoint of that start or a later one. If segments are
    /// gone, it was another core's shard: a core removes some only when all of its own shards have
    /// one. What those segments said of that shard were decisions, and they stay while a shard may
    /// look one up.
    Beginning,
    Position(Position),
}

impl Start {
    /// Reads all roots, loads this core's shards, and notes what the others need.
    pub async fn load(state: &State, dir: &Path) -> Result<Start> {
        let mut start = Start::default();
        for shard in (0..state.config.shards).map(ShardId) {
            let file = StoreFile::open(&state.io, dir, shard).await?;
            let root = match file {
                Some(file) => start.load_shard(state, file).await?,
                None => None,
            };
            start.roots.push(root);
        }
        Ok(start)
    }

    async fn load_shard(&mut self, state: &State, file: StoreFile) -> Result<Option<Root>> {
        let id = file.shard;
        let Some(root) = image::read_root(&file, state.config.database).await? else {
            file.close().await?;
            return Ok(None);
        };
        state.clock.observe(root.clock);
        match state.shards.get(&id) {
            Some(shard) => self.load_own(state, shard, file, &root).await?,
            None => {
                if id == ShardId::CATALOG {
                    let mut reader = PieceReader::new(&file, &state.budget);
                    self.leases = image::read_manifest(&mut reader, &root).await?.leases;
                }
                file.close().await?;
            }
        }
        Ok(Some(root))
    }

    async fn load_own(
        &mut self,
        state: &State,
        shard: &Shard,
        file: StoreFile,
        root: &Root,
    ) -> Result<()> {
        let loaded = image::load(shard, file, root, &state.budget).await?;
        let Loaded {
            manifest,
            images,
            dropped,
        } = loaded;
        state.count(|stats| stats.images += images);
        let mut catalog = state.catalog.borrow_mut();
        for table in manifest.tables.iter().filter(|t| !t.dropped) {
            catalog.insert(table.collection.id, table.collection.clone());
        }
        self.open
            .extend(manifest.open.iter().map(|&txn| (txn, shard.id)));
        if shard.id == ShardId::CATALOG {
            self.leases = manifest.leases;
        }
        dropped.into_iter().for_each(|t| state.upkeep.dropped(t));
        Ok(())
    }

    /// What a start needs of a chain, for any shard.
    pub fn from(&self, chain: &Chain) -> From {
        let of_root = |root: &Option<Root>| match root {
            Some(root) if root.chain == chain.id => From::Position(root.from),
            Some(root) if root.chain.epoch >= chain.id.epoch => From::Nowhere,
            Some(_) | None => From::Beginning,
        };
        let least = |a, b| match (a, b) {
            (From::Nowhere, other) | (other, From::Nowhere) => other,
            (From::Position(a), From::Position(b)) => From::Position(a.min(b)),
            (From::Beginning, _) | (_, From::Beginning) => From::Beginning,
        };
        self.roots.iter().map(of_root).fold(From::Nowhere, least)
    }

    /// The last record of a shard that its checkpoint holds.
    pub fn lsn(&self, shard: ShardId) -> Lsn {
        let root = self.roots.get(usize::from(shard.0));
        root.and_then(Option::as_ref).map_or(Lsn(0), |r| r.lsn)
    }
}
