//! Records of older chains, applied to this core's shards as far as their checkpoints do not hold
//! them.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use nodedb_bridge::plan::Extent;
use nodedb_types::limits::EXTENT_SMALL;
use nodedb_types::{
    ActorId, CollectionId, CommitTs, Failure, Result, SchemaVersion, ShardId, SqlState, Surrogate,
    TxnId,
};

use super::start::Start;
use crate::core::commit::Part;
use crate::core::state::State;
use crate::core::transaction::{PreparedAt, Transaction, participants};
use crate::shard::apply::Commit;
use crate::shard::effect::{self, RowEffect};
use crate::shard::fields::{Fields, malformed};
use crate::shard::schema_codec::{decode_lease, decode_step};
use crate::wal::{ChainId, Position, Record, RecordHeader, RecordKind};

/// Rows of a transaction that are prepared in one shard.
struct Prepared {
    actor: ActorId,
    parts: Vec<(CollectionId, SchemaVersion, Vec<RowEffect>)>,
    /// One entry, for the one shard.
    at: Vec<PreparedAt>,
}

/// What is known of a transaction without an outcome: who wrote it, its rows, its Prepare records.
type Open = (ActorId, Vec<Part>, Vec<PreparedAt>);

/// The state of a replay over all chains.
pub struct Replay<'a> {
    state: Rc<State>,
    start: &'a Start,
    prepared: BTreeMap<(TxnId, ShardId), Prepared>,
    /// Of all shards: the decision may stand in a chain of another core.
    decisions: HashMap<TxnId, CommitTs>,
    leases: Vec<Extent>,
    /// The largest surrogate given out, by table and run of ids, deleted rows included.
    used: HashMap<(CollectionId, ShardId), BTreeMap<u32, Surrogate>>,
}

impl<'a> Replay<'a> {
    pub fn new(state: &Rc<State>, start: &'a Start) -> Replay<'a> {
        Replay {
            state: state.clone(),
            start,
            prepared: BTreeMap::new(),
            decisions: HashMap::new(),
            leases: start.leases.clone(),
            used: HashMap::new(),
        }
    }

    /// Applies one record, if it is of this core's business.
    pub async fn record(
        &mut self,
        record: &Record<'_>,
        chain: ChainId,
        at: Position,
    ) -> Result<()> {
        let header = &record.header;
        self.state.clock.observe(header.commit_ts);
        self.state.clock.observe(CommitTs(header.txn.0));
        match header.kind {
            RecordKind::Seal | RecordKind::ChainEnd | RecordKind::ManifestNote => return Ok(()),
            RecordKind::Decision => {
                self.decisions.insert(header.txn, header.commit_ts);
            }
            RecordKind::Lease => {
                let extent = decode_lease(record.payload)?;
                // A checkpoint may hold a lease that was about to be logged.
                if !self.leases.contains(&extent) {
                    self.leases.push(extent);
                }
            }
            _ => {}
        }
        let state = self.state.clone();
        let Some(shard) = state.shards.get(&header.shard) else {
            return Ok(());
        };
        if header.lsn <= self.start.lsn(header.shard) {
            // The checkpoint holds it, but for rows whose outcome was still to come.
            let open = self.start.open.contains(&(header.txn, header.shard));
            return match header.kind {
                RecordKind::Prepare if open => self.prepare(header, record.payload, chain, at),
                _ => Ok(()),
            };
        }
        if !shard.advance(header.lsn) {
            return Err(gap(header));
        }
        shard.note_applied(header.lsn);
        match header.kind {
            RecordKind::Rows => {
                let mut fields = Fields::new(record.payload);
                let effects = effect::decode(&mut fields)?;
                fields.end()?;
                let (collection, schema) = (header.collection, header.schema_version);
                self.apply(header, header.actor, &[(collection, schema, effects)])
                    .await
            }
            RecordKind::Prepare => self.prepare(header, record.payload, chain, at),
            RecordKind::Decided if state.config.faults.forget_outcomes => {
                self.prepared.remove(&(header.txn, header.shard));
                Ok(())
            }
            RecordKind::Decided => {
                let open = self.prepared.remove(&(header.txn, header.shard));
                let open = open.ok_or_else(|| malformed("an outcome without its Prepare"))?;
                self.apply(header, open.actor, &open.parts).await
            }
            RecordKind::Abort => {
                self.prepared.remove(&(header.txn, header.shard));
                Ok(())
            }
            RecordKind::Schema => {
                let step = decode_step(record.payload)?;
                state.apply_schema(&[header.shard], &step)
            }
            RecordKind::Decision
            | RecordKind::Lease
            | RecordKind::Seal
            | RecordKind::ChainEnd
            | RecordKind::ManifestNote => Ok(()),
        }
    }

    fn prepare(
        &mut self,
        header: &RecordHeader,
        payload: &[u8],
        chain: ChainId,
        at: Position,
    ) -> Result<()> {
        let mut fields = Fields::new(payload);
        participants(&mut fields)?;
        let effects = effect::decode(&mut fields)?;
        fields.end()?;
        self.note_used(header.collection, header.shard, &effects);
        let place = (header.txn, header.shard);
        let prepared = self.prepared.entry(place).or_insert_with(|| Prepared {
            actor: header.actor,
            parts: Vec::new(),
            at: Vec::new(),
        });
        PreparedAt::note(&mut prepared.at, header.shard, header.lsn, chain, at);
        prepared
            .parts
            .push((header.collection, header.schema_version, effects));
        Ok(())
    }

    async fn apply(
        &mut self,
        header: &RecordHeader,
        actor: ActorId,
        parts: &[(CollectionId, SchemaVersion, Vec<RowEffect>)],
    ) -> Result<()> {
        for (collection, schema, effects) in parts {
            self.note_used(*collection, header.shard, effects);
            // A collection that was dropped while the rows were on their way has no table.
            let Some(table) = self.state.shard(header.shard)?.table(*collection) else {
                continue;
            };
            let commit = Commit {
                commit_ts: header.commit_ts,
                actor,
                schema: *schema,
            };
            for effect in effects {
                table.check_replayed(effect).await?;
                let units = table.paged(|t| t.try_apply(effect, commit)).await??;
                self.state.checkpoint.note_units(units);
                self.state.spend_large(units).await;
            }
            // Nobody reads what was before this start.
            let max = effects.len().max(1);
            while table.trim(CommitTs(u64::MAX), None, max).more {
                self.state.spend(1).await;
            }
        }
        Ok(())
    }

    fn note_used(&mut self, collection: CollectionId, shard: ShardId, effects: &[RowEffect]) {
        let used = self.used.entry((collection, shard)).or_default();
        for effect in effects {
            let run = used.entry(effect.surrogate.get() / EXTENT_SMALL);
            let largest = run.or_insert(effect.surrogate);
            *largest = effect.surrogate.max(*largest);
        }
    }

    /// Enters the leases and gives the transactions that have no outcome in some shard here, each
    /// with its decision if there is one.
    pub fn finish(self) -> Result<Vec<(Rc<Transaction>, Option<CommitTs>)>> {
        let state = &self.state;
        let mut directory = state.directory.borrow_mut();
        for &extent in &self.leases {
            if state.shards.contains_key(&ShardId::CATALOG) {
                state.leases.borrow_mut().record(extent);
            }
            if !directory.enter(extent) {
                return Err(malformed("an extent that was leased to two tables"));
            }
            let shard = state.shards.get(&extent.shard);
            if let Some(table) = shard.and_then(|s| s.table(extent.collection)) {
                table.extents.borrow_mut().grant(extent);
            }
        }
        for ((collection, shard), used) in &self.used {
            if let Some(table) = state.shards.get(shard).and_then(|s| s.table(*collection)) {
                let mut extents = table.extents.borrow_mut();
                used.values().for_each(|&s| extents.observe(s));
            }
        }
        let mut open: BTreeMap<TxnId, Open> = BTreeMap::new();
        for ((txn, shard), prepared) in self.prepared {
            let entry = open.entry(txn);
            let (_, parts, at) = entry.or_insert_with(|| (prepared.actor, Vec::new(), Vec::new()));
            at.extend(prepared.at);
            for (collection, schema, effects) in prepared.parts {
                if let Some(table) = state.shard(shard)?.table(collection) {
                    parts.push(Part {
                        table,
                        schema,
                        effects,
                    });
                }
            }
        }
        let outcome = |(txn, (actor, parts, at))| {
            let transaction = Transaction::recovered(txn, actor, parts, at);
            (transaction, self.decisions.get(&txn).copied())
        };
        Ok(open.into_iter().map(outcome).collect())
    }
}

fn gap(header: &RecordHeader) -> Failure {
    Failure::new(
        SqlState::DataCorrupted,
        format!(
            "the log of shard {} has a gap before record {}",
            header.shard, header.lsn
        ),
    )
}
