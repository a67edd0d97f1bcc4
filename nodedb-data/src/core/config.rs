//! What a core is told when it is made.

use std::path::PathBuf;

use nodedb_types::{CoreId, ShardId};

/// A quarter of a second at 100 ns a unit. As much again may be applied while a checkpoint is
/// written, and the two together are to be replayed within half a second.
const CHECKPOINT_UNITS: u64 = 2_500_000;
/// What a start reads and checks in about a tenth of a second.
const CHECKPOINT_LOG_BYTES: u64 = 64 << 20;

/// Faults that a core has on purpose, so that the suites can show that they would notice them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// An update of a row is left out of its indexes.
    pub drop_index_updates: bool,
    /// Writes are answered when they are appended, and not when they are durable.
    pub acknowledge_early: bool,
    /// Replay passes over the outcomes of transactions.
    pub forget_outcomes: bool,
}

/// Same on all cores of a run, but for `core`.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    pub core: CoreId,
    /// Cores of this run.
    pub cores: u16,
    /// Shards of the data directory.
    pub shards: u16,
    /// The data directory; the log is in its folder `wal`.
    pub data_dir: PathBuf,
    /// Of the data directory's manifest: a log of another database is not read.
    pub database: u64,
    /// Number of this start, above that of every start before (`wal::next_epoch`).
    pub epoch: u32,
    /// Bytes of versions kept for old snapshots.
    pub history_bytes_max: usize,
    /// Units of applying after which the shards are checkpointed: what a start would replay.
    pub checkpoint_units: u64,
    /// Bytes of log after which they are.
    pub checkpoint_log_bytes: u64,
    /// Bytes of rows and keys in memory at the most, as far as checkpoints have written them:
    /// `store::residency`.
    pub leaf_bytes_max: usize,
    /// Test: rows and pages of indexes are missing as often as possible.
    pub page_faults: bool,
    /// Test: the log's segments are as small as possible.
    pub small_segments: bool,
    /// Test: what the core does wrong.
    pub faults: Faults,
}

impl CoreConfig {
    /// The usual settings.
    pub fn new(core: CoreId, cores: u16, shards: u16, data_dir: PathBuf) -> CoreConfig {
        CoreConfig {
            core,
            cores,
            shards,
            data_dir,
            database: 0,
            epoch: 1,
            history_bytes_max: nodedb_types::limits::HISTORY_BYTES_MAX,
            checkpoint_units: CHECKPOINT_UNITS,
            checkpoint_log_bytes: CHECKPOINT_LOG_BYTES,
            leaf_bytes_max: usize::MAX,
            page_faults: false,
            small_segments: false,
            faults: Faults::default(),
        }
    }

    /// The shards of this core, ascending.
    pub fn own_shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        (0..self.shards)
            .map(ShardId)
            .filter(|s| s.core(self.cores) == self.core)
    }
}
