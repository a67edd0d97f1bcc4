//! Checkpoints of a core's shards: when, in which order, and what of the log goes afterwards.
//!
//! One task makes them, a shard after the other, whenever replaying what was applied since the last
//! round would take too long or what it changed takes too much memory (only what a checkpoint has
//! written may leave it), and once when the core is stopped. A shard is frozen by the task that
//! applies, between two commits; everything else happens in pieces beside the writers, who never
//! wait for it. What it costs a turn is bounded by the budget like any other work (P2).
//!
//! A shard's checkpoint names where a start has to read the core's chain from: not behind the last
//! applied record, nor behind a Prepare without its outcome, nor behind a decision that some core
//! may still have to look up. The log goes up to the least of what its shards' checkpoints name.
//!
//! A full disk abandons the round, which is tried again later. Any other failed write latches the
//! node, as for the log (W1).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nodedb_bridge::request::CheckpointReport;
use nodedb_types::{Failure, Result, ShardId, SqlState, TxnId};

use super::executor::{Signal, first_of};
use super::reply::{Reply, cancelled};
use super::state::State;
use crate::shard::Shard;
use crate::shard::image::{FrozenShard, Mark};
use crate::wal::{Chain, Position};

/// A unit is about 100 ns.
const UNITS_PER_US: u64 = 10;
/// Pause before a round is tried again, and between two looks at the other cores' recovery.
const RETRY_NS: u64 = 100_000_000;

/// The state of a core's checkpoints.
#[derive(Default)]
pub struct Checkpoint {
    /// Units that applying took since the last round began.
    replay_units: Cell<u64>,
    /// Bytes that the log had then.
    log_bytes: Cell<u64>,
    is_wanted: Cell<bool>,
    is_running: Cell<bool>,
    wanted: Signal,
    /// Rounds begun so far, and how the last one that ended did so.
    begun: Cell<u64>,
    ended: RefCell<Option<(u64, Result<()>)>>,
    /// A round has ended, or there will be none.
    over: Signal,
    /// The shard that is to be frozen, and then what came of it.
    to_freeze: Cell<Option<ShardId>>,
    frozen: RefCell<Option<Result<FrozenShard>>>,
    froze: Signal,
    /// Where the frame of the last applied record begins.
    applied_at: Cell<Position>,
    /// Decisions in this core's chain that a start may have to look up.
    decisions: RefCell<VecDeque<(TxnId, Position)>>,
    /// Folder of the shards' files.
    pub store_dir: RefCell<PathBuf>,
    /// Folder of the log, with the chains of older starts that still exist.
    pub older: RefCell<(PathBuf, Vec<Chain>)>,
    /// Every shard here has a checkpoint of this start.
    is_checkpointed: Cell<bool>,
    pub stats: Cell<CheckpointStats>,
}

/// Counters since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CheckpointStats {
    /// Checkpoints of shards that ended.
    pub ended: u64,
    /// Rounds that were abandoned because the disk was full.
    pub abandoned: u64,
    /// Bytes of pieces written.
    pub bytes: u64,
    /// Indexes that this start brought back from their images.
    pub images: u64,
}

impl Checkpoint {
    /// Work was applied whose frame begins at `at`.
    pub fn note_applied(&self, at: Position) {
        self.applied_at.set(at);
    }

    /// Applying took these units.
    pub fn note_units(&self, units: u32) {
        let so_far = self.replay_units.get();
        self.replay_units.set(so_far + u64::from(units));
    }

    /// Units that a start would replay.
    pub fn replay_units(&self) -> u64 {
        self.replay_units.get()
    }

    /// A decision is durable in the frame at `at`.
    pub fn note_decision(&self, txn: TxnId, at: Position) {
        self.decisions.borrow_mut().push_back((txn, at));
    }

    /// True when no checkpoint is under way or asked for.
    pub fn is_idle(&self) -> bool {
        !self.is_wanted.get() && !self.is_running.get()
    }
}

impl State {
    /// Asks for a round if a start would replay for too long without it, or too little memory can
    /// be given back.
    pub fn checkpoint_if_due(&self) {
        let checkpoint = &self.checkpoint;
        let log_bytes = self.wal().stats().bytes - checkpoint.log_bytes.get();
        let due = checkpoint.replay_units.get() >= self.config.checkpoint_units
            || log_bytes >= self.config.checkpoint_log_bytes
            || self.residency.wants_checkpoint();
        if due {
            self.want_checkpoint();
        }
    }

    /// Asks for a round.
    pub fn want_checkpoint(&self) {
        if self.latch.why().is_none() && !self.checkpoint.is_wanted.replace(true) {
            self.checkpoint.wanted.notify();
        }
    }

    /// Asks for the last round of this run, if there is anything to be covered by it.
    pub fn checkpoint_at_stop(&self) {
        let changed = self.checkpoint.replay_units.get() > 0;
        // Where the log could not be begun for want of space, nobody makes checkpoints.
        if changed && self.covered.all_recovered() && self.wal().has_begun() {
            self.want_checkpoint();
        }
    }

    /// Waits for a round that begins from now on. Fails as the round does.
    pub async fn await_checkpoint(&self, reply: &Reply) -> Result<()> {
        let wanted = self.checkpoint.begun.get() + 1;
        self.want_checkpoint();
        loop {
            let over = self.checkpoint.over.wait();
            self.latch.check()?;
            if let Some((round, result)) = &*self.checkpoint.ended.borrow()
                && *round >= wanted
            {
                return result.clone();
            }
            if !first_of(over, reply.cancelled()).await {
                return Err(cancelled());
            }
        }
    }

    /// Makes checkpoints whenever they are asked for; one task of the core.
    pub async fn checkpoint_loop(self: Rc<State>) {
        let checkpoint = &self.checkpoint;
        loop {
            let asked = checkpoint.wanted.wait();
            if !checkpoint.is_wanted.get() {
                asked.await;
                continue;
            }
            if self.latch.why().is_some() {
                checkpoint.is_wanted.set(false);
                checkpoint.over.notify();
                return;
            }
            if !self.covered.all_recovered() {
                self.pause().await;
                continue;
            }
            checkpoint.is_running.set(true);
            checkpoint.is_wanted.set(false);
            let round = checkpoint.begun.get() + 1;
            checkpoint.begun.set(round);
            let units = checkpoint.replay_units.replace(0);
            let log_bytes = checkpoint.log_bytes.replace(self.wal().stats().bytes);
            let ended = self.checkpoint_round().await;
            checkpoint.is_running.set(false);
            if ended.is_err() {
                checkpoint
                    .replay_units
                    .set(checkpoint.replay_units.get() + units);
                checkpoint.log_bytes.set(log_bytes);
            }
            if let Err(failure) = &ended
                && failure.code() == SqlState::IoError
            {
                self.latch_node(failure);
            }
            *checkpoint.ended.borrow_mut() = Some((round, ended.clone()));
            checkpoint.over.notify();
            match ended {
                Ok(()) => {}
                Err(_) if self.latch.why().is_some() => return,
                // Short of space, or of memory: the state before counts, and the log still has
                // everything since.
                Err(_) => {
                    self.count(|stats| stats.abandoned += 1);
                    self.pause().await;
                    checkpoint.is_wanted.set(true);
                }
            }
        }
    }

    /// For `Op::Report`.
    pub fn checkpoint_report(&self) -> CheckpointReport {
        let stats = self.checkpoint.stats.get();
        let mut report = CheckpointReport {
            ended: stats.ended,
            abandoned: stats.abandoned,
            written_bytes: stats.bytes,
            replay_us: self.checkpoint.replay_units.get() / UNITS_PER_US,
            ..CheckpointReport::default()
        };
        for shard in self.shards.values() {
            let (bytes, free) = shard.store_bytes();
            report.store_bytes += bytes;
            report.store_free_bytes += free;
        }
        report
    }

    async fn pause(&self) {
        let until = self.timers.now_ns() + RETRY_NS;
        self.timers.until(Some(until)).await;
    }

    pub fn count(&self, change: impl FnOnce(&mut CheckpointStats)) {
        let mut stats = self.checkpoint.stats.get();
        change(&mut stats);
        self.checkpoint.stats.set(stats);
    }

    /// A checkpoint of every shard here; then what they all have passed of the log goes.
    async fn checkpoint_round(&self) -> Result<()> {
        let checkpoint = &self.checkpoint;
        let dir = checkpoint.store_dir.borrow().clone();
        let mut passed: Option<Position> = None;
        for (&id, shard) in &self.shards {
            self.settle_engines(shard).await?;
            let from = self.needed_from();
            let frozen = self.freeze_between_commits(id).await?;
            let written = shard
                .write_checkpoint(frozen, &self.io, &dir, &self.budget)
                .await?;
            // Engines may merge what was sealed for their images, and free what those shared.
            for table in shard.tables() {
                self.upkeep.changed(&table);
            }
            self.count(|stats| {
                stats.ended += 1;
                stats.bytes += written;
            });
            passed = Some(passed.map_or(from, |p| p.min(from)));
        }
        if !checkpoint.is_checkpointed.replace(true) {
            self.covered.note_checkpointed();
        }
        match passed {
            Some(position) => self.release_log(position).await,
            None => Ok(()),
        }
    }

    async fn settle_engines(&self, shard: &Shard) -> Result<()> {
        for table in shard.tables() {
            for index in table.indexes() {
                let settled = self
                    .budget
                    .drive(|turn| index.engine.borrow_mut().poll_settle(turn));
                settled.await?;
            }
        }
        Ok(())
    }

    async fn freeze_between_commits(&self, shard: ShardId) -> Result<FrozenShard> {
        self.checkpoint.to_freeze.set(Some(shard));
        self.to_apply_signal.notify();
        loop {
            let froze = self.checkpoint.froze.wait();
            if let Some(frozen) = self.checkpoint.frozen.take() {
                return frozen;
            }
            froze.await;
        }
    }

    /// Freezes the shard that is to be frozen; called by the task that applies, between commits.
    pub fn freeze_if_asked(&self) {
        let Some(shard) = self.checkpoint.to_freeze.take() else {
            return;
        };
        let frozen = self.freeze(shard);
        *self.checkpoint.frozen.borrow_mut() = Some(frozen);
        self.checkpoint.froze.notify();
    }

    fn freeze(&self, id: ShardId) -> Result<FrozenShard> {
        // What a latched node applies is not in its log.
        self.latch.check()?;
        let shard = self.shard(id)?;
        let mark = Mark {
            database: self.config.database,
            clock: self.clock.now(),
            chain: self.chain(),
            from: self.needed_from(),
        };
        let open = self.transactions.borrow();
        let open = open.values().filter(|t| t.is_prepared_in(id)).map(|t| t.id);
        let leases = self.leases.borrow();
        let leases = match id {
            ShardId::CATALOG => leases.all(),
            _ => &[],
        };
        shard.freeze(mark, open.collect(), leases)
    }

    /// Where a start has to read this core's chain from.
    fn needed_from(&self) -> Position {
        let transactions = self.transactions.borrow();
        let prepared = transactions.values().filter_map(|t| t.first_frame());
        let mut decisions = self.checkpoint.decisions.borrow_mut();
        let oldest = self.covered.oldest_open();
        decisions.retain(|(txn, _)| *txn >= oldest);
        let decided = decisions.iter().map(|(_, at)| *at);
        let applied = self.checkpoint.applied_at.get();
        prepared.chain(decided).fold(applied, Position::min)
    }

    /// Removes what neither a start nor a change stream needs of the log: of this core's chain what
    /// lies before `passed`, and the chains of older starts once every shard of every core has a
    /// checkpoint of this one.
    async fn release_log(&self, passed: Position) -> Result<()> {
        let covered = &self.covered;
        if self.config.core.0 == 0 && covered.all_checkpointed() && !covered.is_older_gone() {
            let (dir, chains) = self.checkpoint.older.take();
            let mut left = Vec::new();
            let released = self.release_older(&dir, chains, &mut left).await;
            if left.is_empty() && released.is_ok() {
                covered.note_older_gone();
            }
            *self.checkpoint.older.borrow_mut() = (dir, left);
            released?;
        }
        if covered.is_older_gone() {
            self.wal().older_chains_released();
        }
        let needed = passed.min(self.streams_need_from());
        Ok(self.wal().release_before(needed).await?)
    }

    /// Removes what streams do not need of older chains, oldest first: the first segment of a
    /// chain names the ends of those before it and stays as long as there is one.
    async fn release_older(
        &self,
        dir: &Path,
        chains: Vec<Chain>,
        left: &mut Vec<Chain>,
    ) -> Result<()> {
        let needed = self.streams_need_of_older(&chains);
        let mut result = Ok(());
        for (mut chain, from) in chains.into_iter().zip(needed) {
            let names_ends = left.iter().any(|c| c.id.epoch < chain.id.epoch);
            if result.is_ok() {
                let released = chain.release_before(&self.io, dir, from, names_ends);
                result = released.await.map(drop).map_err(Failure::from);
            }
            if !chain.segments.is_empty() {
                left.push(chain);
            }
        }
        result
    }
}
