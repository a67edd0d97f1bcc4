//! From a checked change to its effects: append, group commit, apply, reply, emit.
//!
//! Whoever changes something appends its records together with a [`Work`], in one turn. One task
//! flushes the log group by group; what is durable goes, in log order, to one task that applies it.
//! What a group that failed held is discarded: the owners' claims go, and the LSNs are free again.

use std::cell::RefCell;
use std::rc::Rc;

use nodedb_bridge::event::{EventBatch, EventOp, WriteEvent};
use nodedb_bridge::plan::{Extent, Outcome};
use nodedb_types::limits::WAL_FRAME_BYTES_MAX;
use nodedb_types::{
    ActorId, CollectionId, CommitTs, Failure, Lsn, Result, SchemaVersion, ShardId, TxnId,
};

use super::executor::{Signal, first_of};
use super::latch::outcome_unknown;
use super::state::State;
use super::transaction::Transaction;
use crate::shard::apply::Commit;
use crate::shard::claim::{Owner, Phase};
use crate::shard::effect::RowEffect;
use crate::shard::schema_codec::SchemaRecord;
use crate::shard::table::Table;
use crate::wal::codec::{FRAME_HEADER_BYTES, RECORD_HEADER_BYTES};
use crate::wal::{
    ChainId, Durable, FlushFailed, Position, Record, RecordHeader, RecordKind, WalError,
};

/// Idle time after the last write before the log is sealed.
const SEAL_AFTER_NS: u64 = 20_000_000;

/// Most bytes of records in one append.
pub const RECORDS_BYTES_MAX: usize = WAL_FRAME_BYTES_MAX - FRAME_HEADER_BYTES;

/// Tells when a piece of work is over.
pub struct Ticket {
    /// Of each record.
    pub lsns: Vec<(ShardId, Lsn)>,
    result: RefCell<Option<Result<()>>>,
    signal: Signal,
}

impl Ticket {
    pub async fn wait(&self) -> Result<()> {
        loop {
            let over = self.signal.wait();
            if let Some(result) = self.result.borrow().clone() {
                return result;
            }
            over.await;
        }
    }

    fn finish(&self, result: Result<()>) {
        *self.result.borrow_mut() = Some(result);
        self.signal.notify();
    }
}

/// A record to be appended; the LSN is given to it then.
pub struct Draft {
    pub kind: RecordKind,
    pub shard: ShardId,
    pub commit_ts: CommitTs,
    pub txn: TxnId,
    pub actor: ActorId,
    pub schema: SchemaVersion,
    pub collection: CollectionId,
    pub payload: Vec<u8>,
}

impl Draft {
    /// A record of a shard that names nothing else.
    pub fn new(kind: RecordKind, shard: ShardId, payload: Vec<u8>) -> Draft {
        Draft {
            kind,
            shard,
            commit_ts: CommitTs::default(),
            txn: TxnId::default(),
            actor: ActorId::SYSTEM,
            schema: SchemaVersion::default(),
            collection: CollectionId::default(),
            payload,
        }
    }

    pub fn bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload.len()
    }
}

/// The effects of one statement on one table.
pub struct Part {
    pub table: Rc<Table>,
    pub schema: SchemaVersion,
    pub effects: Vec<RowEffect>,
}

/// What is to happen once the records are durable.
pub enum What {
    Rows {
        owner: Rc<Owner>,
        actor: ActorId,
        parts: Vec<Part>,
    },
    /// A transaction is decided here.
    Decision(TxnId),
    /// Rows of a transaction are logged here.
    Prepared(Rc<Transaction>),
    Concluded(Rc<Transaction>, Outcome),
    Schema(Vec<ShardId>, SchemaRecord),
    Lease(Extent),
}

/// Appended work.
pub struct Work {
    what: What,
    ticket: Rc<Ticket>,
}

impl State {
    /// The chain that this core writes.
    pub fn chain(&self) -> ChainId {
        ChainId {
            epoch: self.config.epoch,
            core: self.config.core,
        }
    }

    /// Waits until records of `bytes` fit the log's open group; the caller appends in the same
    /// turn. Fails when they never will, or when the node is read-only.
    pub async fn reserve(&self, bytes: usize) -> Result<()> {
        if bytes > RECORDS_BYTES_MAX {
            return Err(WalError::TooLarge { bytes }.into());
        }
        loop {
            self.latch.check()?;
            if self.wal().has_room(bytes) {
                return Ok(());
            }
            self.wal().room(bytes).await;
        }
    }

    /// Appends records for which room was reserved in this turn.
    pub fn append(&self, drafts: &[Draft], what: What) -> Result<Rc<Ticket>> {
        let lsns: Vec<(ShardId, Lsn)> = drafts
            .iter()
            .map(|d| (d.shard, self.shards[&d.shard].take_lsn()))
            .collect();
        let records: Vec<Record<'_>> = drafts
            .iter()
            .zip(&lsns)
            .map(|(draft, (shard, lsn))| Record {
                header: RecordHeader {
                    kind: draft.kind,
                    shard: *shard,
                    lsn: *lsn,
                    commit_ts: draft.commit_ts,
                    txn: draft.txn,
                    actor: draft.actor,
                    schema_version: draft.schema,
                    collection: draft.collection,
                },
                payload: &draft.payload,
            })
            .collect();
        let ticket = Rc::new(Ticket {
            lsns,
            result: RefCell::default(),
            signal: Signal::default(),
        });
        let work = Work {
            what,
            ticket: ticket.clone(),
        };
        if let Err(refused) = self.wal().append(&records, work) {
            // Room was reserved, so only a log that has latched refuses.
            for (shard, _) in refused.value.ticket.lsns.iter().rev() {
                self.shards[shard].return_lsn();
            }
            return Err(refused.error.into());
        }
        if self.config.faults.acknowledge_early {
            ticket.finish(Ok(()));
        }
        Ok(ticket)
    }

    /// Flushes the log for as long as it works; one task of the core.
    pub async fn flush_loop(self: Rc<State>) {
        let wal = self.wal().clone();
        loop {
            let idle_at = wal
                .needs_seal()
                .then(|| self.timers.now_ns() + SEAL_AFTER_NS);
            let flushed = if first_of(wal.ready(), self.timers.until(idle_at)).await {
                wal.flush().await
            } else {
                wal.seal().await
            };
            match flushed {
                Ok(durable) => self.hand_over(durable),
                Err(failed) => {
                    let latched = matches!(failed.error, WalError::Latched(_));
                    self.discard_all(failed);
                    if latched {
                        return;
                    }
                }
            }
        }
    }

    fn hand_over(&self, durable: Vec<Durable<Work>>) {
        if durable.is_empty() {
            return;
        }
        for work in &durable {
            for (shard, lsn) in &work.value().ticket.lsns {
                let follows = self.shards[shard].advance(*lsn);
                assert!(follows, "LSNs of a shard become durable in order");
            }
        }
        self.to_apply.borrow_mut().extend(durable);
        self.to_apply_signal.notify();
    }

    /// Nothing of a failed flush took effect, as far as this run is concerned.
    fn discard_all(&self, failed: FlushFailed<Work>) {
        let no_space = matches!(failed.error, WalError::NoSpace);
        let why = Failure::from(failed.error);
        if !no_space {
            self.latch_node(&why);
        }
        let failure = if no_space { why } else { outcome_unknown(&why) };
        for shard in self.shards.values() {
            shard.rewind();
        }
        for work in failed.abandoned {
            self.discard(&work.what);
            work.ticket.finish(Err(failure.clone()));
        }
        self.changed.notify();
    }

    fn discard(&self, what: &What) {
        match what {
            What::Rows { owner, parts, .. } => {
                owner.set_phase(Phase::Over);
                for part in parts {
                    let mut claims = part.table.claims.borrow_mut();
                    part.effects
                        .iter()
                        .for_each(|e| claims.remove(&e.key, owner));
                    claims.leave(owner);
                }
                self.leave(owner);
            }
            // The transaction's own task sees the failure and gives up or tries again.
            What::Decision(_) | What::Prepared(_) | What::Concluded(..) => {}
            What::Schema(..) | What::Lease(_) => {}
        }
    }

    /// Takes the claims of an owner that is over out of the tables, in pieces.
    pub async fn release_claims(&self, owner: &Rc<Owner>, parts: &[Part]) {
        for part in parts {
            part.table.claims.borrow_mut().leave(owner);
            for effect in &part.effects {
                part.table.claims.borrow_mut().remove(&effect.key, owner);
                self.spend(1).await;
            }
        }
    }

    /// Applies what is durable, in log order; one task of the core.
    pub async fn apply_loop(self: Rc<State>) {
        loop {
            let more = self.to_apply_signal.wait();
            self.freeze_if_asked();
            let next = self.to_apply.borrow_mut().pop_front();
            let Some(durable) = next else {
                more.await;
                continue;
            };
            let at = durable.position();
            let work = durable.into_value();
            self.apply_allowed().await;
            match self.apply(&work, at).await {
                Ok(()) => {
                    for (shard, lsn) in &work.ticket.lsns {
                        self.shards[shard].note_applied(*lsn);
                    }
                    self.checkpoint.note_applied(at);
                    self.checkpoint_if_due();
                    work.ticket.finish(Ok(()));
                }
                Err(failure) => {
                    // Rows that are durable cannot be applied: the core must not go on.
                    work.ticket.finish(Err(failure.clone()));
                    self.break_with(failure);
                    return;
                }
            }
            self.changed.notify();
            if let What::Rows { parts, .. } = work.what {
                self.drop_parts(parts).await;
            }
        }
    }

    async fn apply(&self, work: &Work, at: Position) -> Result<()> {
        match &work.what {
            What::Rows {
                owner,
                actor,
                parts,
            } => {
                self.apply_rows(owner, *actor, parts, &work.ticket.lsns)
                    .await
            }
            What::Concluded(transaction, Outcome::Committed(_)) => {
                let parts = transaction.parts();
                let (owner, actor) = (&transaction.owner, transaction.actor);
                self.apply_rows(owner, actor, &parts, &work.ticket.lsns)
                    .await?;
                transaction.note_concluded();
                Ok(())
            }
            What::Concluded(transaction, Outcome::Aborted) => {
                transaction.owner.set_phase(Phase::Over);
                self.leave(&transaction.owner);
                self.changed.notify();
                self.release_claims(&transaction.owner, &transaction.parts())
                    .await;
                transaction.note_concluded();
                Ok(())
            }
            What::Schema(shards, record) => self.apply_schema(shards, record),
            What::Prepared(transaction) => {
                transaction.note_prepared(&work.ticket.lsns, self.chain(), at);
                Ok(())
            }
            What::Decision(txn) => {
                self.checkpoint.note_decision(*txn, at);
                Ok(())
            }
            What::Lease(_) => Ok(()),
        }
    }

    /// Applies the rows of one commit, emits them, and ends the owner.
    pub async fn apply_rows(
        &self,
        owner: &Rc<Owner>,
        actor: ActorId,
        parts: &[Part],
        lsns: &[(ShardId, Lsn)],
    ) -> Result<()> {
        let commit_ts = owner
            .commit_ts()
            .expect("rows that are applied have a timestamp");
        for part in parts {
            let loses_updates = self.config.faults.drop_index_updates;
            part.table.loses_updates.set(loses_updates);
            let commit = Commit {
                commit_ts,
                actor,
                schema: part.schema,
            };
            for effect in &part.effects {
                if !part.table.is_dropped() {
                    self.indexes_ready(&part.table).await;
                    let units = self.apply_row(&part.table, effect, commit).await?;
                    self.checkpoint.note_units(units);
                    self.spend_large(units).await;
                }
                part.table.claims.borrow_mut().remove(&effect.key, owner);
            }
        }
        owner.set_phase(Phase::Over);
        for part in parts {
            part.table.claims.borrow_mut().leave(owner);
            self.emit(part, commit_ts, actor, lsns);
            self.upkeep.changed(&part.table);
        }
        self.leave(owner);
        Ok(())
    }

    /// Applies one effect in the turn in which everything that it needs is in memory and no check
    /// holds the rows still.
    async fn apply_row(&self, table: &Table, effect: &RowEffect, commit: Commit) -> Result<u32> {
        loop {
            self.apply_allowed().await;
            match table.try_apply(effect, commit) {
                Ok(applied) => return applied,
                Err(missing) => missing.fetch().await?,
            }
        }
    }

    fn emit(&self, part: &Part, commit_ts: CommitTs, actor: ActorId, lsns: &[(ShardId, Lsn)]) {
        let table = &part.table;
        if table.emit.get().is_none() || table.id.is_system() || table.is_dropped() {
            return;
        }
        let lsn = lsns.iter().find(|(shard, _)| *shard == table.shard);
        let events = part.effects.iter().map(|effect| WriteEvent {
            collection: table.id,
            surrogate: effect.surrogate,
            birth: effect.birth.unwrap_or(commit_ts),
            op: effect.op,
            key: effect.key.clone(),
            before: effect.before.clone(),
            after: (effect.op != EventOp::Delete).then(|| effect.after.clone()),
            commit_ts,
            actor,
        });
        self.emitter.emit(EventBatch {
            shard: table.shard,
            lsn: lsn.map_or(Lsn::default(), |(_, lsn)| *lsn),
            part: 0,
            commit_ts,
            events: events.collect(),
        });
    }
}
