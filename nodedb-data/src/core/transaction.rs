//! Transactions over several shards: staged, prepared, decided, concluded.
//!
//! Control's coordinator leads; this core keeps what its shards must do. *Staged* rows are only
//! kept. *Prepare* checks them against what they were computed from, claims their keys, logs them
//! and votes; from then on they are locked until *Conclude* says how it ended, whoever asked for
//! it. The outcome is logged here as well, so effects apply and replay where it stands in this log.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use nodedb_bridge::account::MemoryAccount;
use nodedb_bridge::event::EventOp;
use nodedb_bridge::plan::{Conclude, Decide, Expected, Outcome, Prepare, StageRows, StagedRow};
use nodedb_bridge::reply::Frame;
use nodedb_bridge::request::Statement;
use nodedb_types::{
    ActorId, CommitTs, CoreId, Failure, Lsn, Result, SchemaVersion, ShardId, SqlState, Surrogate,
    TxnId,
};

use super::commit::{Draft, Part, RECORDS_BYTES_MAX, Ticket, What};
use super::gather::CheckedRow;
use super::reply::Reply;
use super::state::{State, stale_schema};
use super::write::{check_key, check_row, duplicate_key, row_effect};
use crate::chunks::{Chunks, SplitMap};
use crate::shard::claim::{Claimed, Found, Newest, Owner, Phase};
use crate::shard::effect::RowEffect;
use crate::shard::fields::Fields;
use crate::shard::table::Table;
use crate::wal::{ChainId, Position, RecordKind};

/// Units for checking a staged row.
const CHECK_UNITS: u32 = 10;
/// Bytes that cost a unit to encode.
const COPY_BYTES_PER_UNIT: usize = 1024;
/// Pause before an outcome is logged again that found the disk full.
const RETRY_NS: u64 = 50_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Staging,
    /// The check or the flush of a Prepare is under way.
    Preparing,
    Prepared,
}

/// What this core keeps of a transaction.
pub struct Transaction {
    pub id: TxnId,
    pub owner: Rc<Owner>,
    pub actor: ActorId,
    stage: Cell<Stage>,
    staged: RefCell<Chunks<Staged>>,
    parts: RefCell<Rc<Vec<Part>>>,
    prepared_at: RefCell<Vec<PreparedAt>>,
    account: Option<Arc<MemoryAccount>>,
    charged: Cell<usize>,
}

/// Where the rows of a transaction in one shard stand in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedAt {
    pub shard: ShardId,
    /// Of the last Prepare record.
    pub lsn: Lsn,
    pub chain: ChainId,
    /// Of each frame with a Prepare record, in log order.
    pub frames: Vec<Position>,
}

impl PreparedAt {
    /// The payload of an outcome: LSN (8), epoch (4) and core (2) of the chain, number of frames
    /// (2), position of each (8).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let count =
            u16::try_from(self.frames.len()).expect("a statement takes some hundred frames");
        out.extend_from_slice(&self.lsn.0.to_le_bytes());
        out.extend_from_slice(&self.chain.epoch.to_le_bytes());
        out.extend_from_slice(&self.chain.core.0.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        for frame in &self.frames {
            out.extend_from_slice(&frame.to_bits().to_le_bytes());
        }
    }

    /// Reads the payload of an outcome in `shard`.
    pub fn decode(shard: ShardId, payload: &[u8]) -> Result<PreparedAt> {
        let fields = &mut Fields::new(payload);
        let lsn = Lsn(fields.u64()?);
        let chain = ChainId {
            epoch: fields.u32()?,
            core: CoreId(fields.u16()?),
        };
        let count = fields.u16()?;
        let frames = (0..count).map(|_| Ok(Position::from_bits(fields.u64()?)));
        let frames = frames.collect::<Result<_>>()?;
        fields.end()?;
        Ok(PreparedAt {
            shard,
            lsn,
            chain,
            frames,
        })
    }

    /// Notes another Prepare record.
    pub fn note(all: &mut Vec<PreparedAt>, shard: ShardId, lsn: Lsn, chain: ChainId, at: Position) {
        match all.iter_mut().find(|p| p.shard == shard) {
            Some(known) => {
                known.lsn = lsn;
                if known.frames.last() != Some(&at) {
                    known.frames.push(at);
                }
            }
            None => all.push(PreparedAt {
                shard,
                lsn,
                chain,
                frames: vec![at],
            }),
        }
    }
}

struct Staged {
    table: Rc<Table>,
    schema: SchemaVersion,
    row: StagedRow,
}

/// A staged row that was checked and claimed.
struct Checked {
    table: Rc<Table>,
    schema: SchemaVersion,
    key: Arc<[u8]>,
    base: Option<Newest>,
    after: Option<Arc<[u8]>>,
    surrogate: Option<Surrogate>,
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.release(self.charged.get());
        }
    }
}

impl Transaction {
    fn new(id: TxnId, actor: ActorId, account: Option<Arc<MemoryAccount>>) -> Transaction {
        Transaction {
            id,
            owner: Owner::new(Some(id)),
            actor,
            stage: Cell::new(Stage::Staging),
            staged: RefCell::default(),
            parts: RefCell::default(),
            prepared_at: RefCell::default(),
            account,
            charged: Cell::new(0),
        }
    }

    /// A transaction whose Prepare was found in the log.
    pub fn recovered(
        id: TxnId,
        actor: ActorId,
        parts: Vec<Part>,
        prepared_at: Vec<PreparedAt>,
    ) -> Rc<Transaction> {
        let transaction = Transaction::new(id, actor, None);
        transaction.stage.set(Stage::Prepared);
        transaction
            .owner
            .set_phase(Phase::Prepared(Some(CommitTs::default())));
        *transaction.parts.borrow_mut() = Rc::new(parts);
        *transaction.prepared_at.borrow_mut() = prepared_at;
        Rc::new(transaction)
    }

    /// What its commit changes here.
    pub fn parts(&self) -> Rc<Vec<Part>> {
        self.parts.borrow().clone()
    }

    /// Charges bytes to the account of the statement that staged first, until this is dropped.
    fn charge(&self, bytes: usize) -> Result<()> {
        if let Some(account) = &self.account {
            account.charge(bytes)?;
            self.charged.set(self.charged.get() + bytes);
        }
        Ok(())
    }

    /// A Prepare record of the transaction is durable.
    pub fn note_prepared(&self, lsns: &[(ShardId, Lsn)], chain: ChainId, at: Position) {
        let mut prepared_at = self.prepared_at.borrow_mut();
        for &(shard, lsn) in lsns {
            PreparedAt::note(&mut prepared_at, shard, lsn, chain, at);
        }
    }

    /// Its outcome is durable and took effect here: its Prepare records are not needed any more.
    pub fn note_concluded(&self) {
        self.prepared_at.borrow_mut().clear();
    }

    /// Whether rows of it in the shard are logged and wait for its outcome.
    pub fn is_prepared_in(&self, shard: ShardId) -> bool {
        self.prepared_at.borrow().iter().any(|p| p.shard == shard)
    }

    /// The first frame that has rows of it, while they wait for its outcome.
    pub fn first_frame(&self) -> Option<Position> {
        let prepared = self.prepared_at.borrow();
        prepared
            .iter()
            .flat_map(|p| p.frames.first())
            .min()
            .copied()
    }

    /// The records of its outcome: one for each shard that it has prepared.
    pub fn outcome_records(&self, outcome: Outcome) -> Vec<Draft> {
        let (kind, commit_ts) = match outcome {
            Outcome::Committed(ts) => (RecordKind::Decided, ts),
            Outcome::Aborted => (RecordKind::Abort, CommitTs::default()),
        };
        let draft = |prepared: &PreparedAt| {
            let mut payload = Vec::new();
            prepared.encode(&mut payload);
            Draft {
                commit_ts,
                txn: self.id,
                actor: self.actor,
                ..Draft::new(kind, prepared.shard, payload)
            }
        };
        self.prepared_at.borrow().iter().map(draft).collect()
    }
}

impl State {
    /// Answers `Op::Stage`.
    pub async fn stage(&self, statement: &Statement, chunk: StageRows) -> Result<()> {
        self.latch.check()?;
        self.check_pins(statement)?;
        let transaction = {
            let mut all = self.transactions.borrow_mut();
            let new = || {
                let account = Some(statement.account.clone());
                Rc::new(Transaction::new(chunk.txn, statement.actor, account))
            };
            all.entry(chunk.txn).or_insert_with(new).clone()
        };
        if transaction.stage.get() != Stage::Staging {
            return Err(Failure::internal(
                "rows are staged for a transaction that is prepared",
            ));
        }
        for row in chunk.rows {
            let table = self.table(row.shard, chunk.collection)?;
            check_key(&row.key)?;
            if let Some(bytes) = &row.row {
                check_row(&table, bytes)?;
            }
            let bytes = row.key.len() + row.row.as_ref().map_or(0, |r| r.len()) + 64;
            transaction.charge(bytes)?;
            let schema = table.collection().version;
            let staged = Staged { table, schema, row };
            transaction.staged.borrow_mut().push(staged);
            self.spend(CHECK_UNITS / 2).await;
        }
        Ok(())
    }

    /// Answers `Op::Prepare`: a vote, or the reason for voting no.
    pub async fn prepare(
        &self,
        statement: &Statement,
        prepare: &Prepare,
        reply: &Reply,
    ) -> Result<()> {
        let found = self.transactions.borrow().get(&prepare.txn).cloned();
        let Some(transaction) = found.filter(|t| t.stage.get() == Stage::Staging) else {
            return Err(Failure::internal("nothing is staged for the transaction"));
        };
        transaction.stage.set(Stage::Preparing);
        let logged = self
            .try_prepare(&transaction, statement, prepare, reply)
            .await;
        match logged {
            Ok(()) => {
                // The clock is read after `low` was held below it.
                self.emitter.hold_low(self.clock.now());
                let prepare_ts = self.clock.now();
                transaction
                    .owner
                    .set_phase(Phase::Prepared(Some(prepare_ts)));
                transaction.stage.set(Stage::Prepared);
                self.changed.notify();
                reply.send(Frame::Vote { prepare_ts }).await
            }
            Err(failure) => {
                self.forget(&transaction).await;
                Err(failure)
            }
        }
    }

    /// Drops a transaction that has not voted, with its claims.
    async fn forget(&self, transaction: &Rc<Transaction>) {
        transaction.owner.set_phase(Phase::Over);
        self.leave(&transaction.owner);
        self.transactions.borrow_mut().remove(&transaction.id);
        self.changed.notify();
        let mut staged = transaction.staged.take();
        while let Some(one) = staged.pop() {
            one.table
                .claims
                .borrow_mut()
                .remove(&one.row.key, &transaction.owner);
            self.spend(1).await;
        }
        self.release_claims(&transaction.owner, &transaction.parts())
            .await;
    }

    async fn try_prepare(
        &self,
        transaction: &Rc<Transaction>,
        statement: &Statement,
        prepare: &Prepare,
        reply: &Reply,
    ) -> Result<()> {
        self.latch.check()?;
        let mut checked = self.check_staged(transaction).await?;
        self.give_surrogates(&mut checked, &transaction.owner, statement, reply)
            .await?;
        let parts = Rc::new(self.parts_of(&checked).await);
        *transaction.parts.borrow_mut() = parts.clone();
        let mut staged = transaction.staged.take();
        while staged.pop().is_some() {
            self.spend(1).await;
        }
        self.drop_rows(checked).await;
        self.check_pins(statement)?;
        check_images(&parts)?;
        for part in parts.iter() {
            part.table.claims.borrow_mut().enter(&transaction.owner);
        }
        transaction.owner.set_phase(Phase::Prepared(None));
        self.enter(&transaction.owner);
        let tickets = self.log_prepare(transaction, &parts, prepare).await?;
        for ticket in tickets {
            self.finished(&ticket).await?;
        }
        Ok(())
    }

    /// Checks every staged row against the newest version and claims its key. Deletions go first:
    /// a statement may give a key to another row than the one that had it.
    async fn check_staged(&self, transaction: &Rc<Transaction>) -> Result<Vec<Checked>> {
        let count = transaction.staged.borrow().len();
        let mut checked: Vec<Checked> = Vec::with_capacity(count);
        let mut by_key: SplitMap<(ShardId, Arc<[u8]>), usize> = SplitMap::default();
        for deletions in [true, false] {
            for n in 0..count {
                let (table, schema, row) = {
                    let staged = transaction.staged.borrow();
                    let one = &staged[n];
                    if one.row.row.is_none() != deletions {
                        continue;
                    }
                    (one.table.clone(), one.schema, one.row.clone())
                };
                let key: Arc<[u8]> = row.key.as_ref().into();
                let found = table.paged(|t| t.newest(&key, &transaction.owner)).await?;
                let place = (table.shard, key.clone());
                let after = row.row.as_deref().map(Arc::from);
                let at = match found {
                    Found::Locked => return Err(locked()),
                    Found::Applied => unreachable!("resolved by the table"),
                    Found::Own(_) => {
                        let at = *by_key.get(&place).expect("its own claim is of a row here");
                        // Only a deleted row's key can be given to a new one.
                        if checked[at].after.is_some() || row.expected != Expected::Absent {
                            return Err(duplicate_key(&table.collection(), &key));
                        }
                        checked[at].after = after;
                        at
                    }
                    Found::Pending(newest) => {
                        check_expected(&table, &key, row.expected, newest.as_ref())?;
                        by_key.insert(place, checked.len());
                        checked.push(Checked {
                            table,
                            schema,
                            key,
                            surrogate: newest.as_ref().map(|n| n.surrogate),
                            base: newest,
                            after,
                        });
                        checked.len() - 1
                    }
                };
                checked[at].claim(&transaction.owner);
                self.spend(CHECK_UNITS).await;
            }
        }
        self.drop_map(by_key).await;
        Ok(checked)
    }

    /// Appends the Prepare records, in as many frames as they need.
    async fn log_prepare(
        &self,
        transaction: &Rc<Transaction>,
        parts: &[Part],
        prepare: &Prepare,
    ) -> Result<Vec<Rc<Ticket>>> {
        let mut tickets = Vec::new();
        for part in parts {
            let mut rest = &part.effects[..];
            while !rest.is_empty() {
                let taken = fitting(rest, prepare.participants.len());
                let (now, later) = rest.split_at(taken);
                rest = later;
                let bytes = now.iter().map(RowEffect::encoded_bytes).sum::<usize>();
                let overhead = 6 + 2 * prepare.participants.len();
                let mut payload = Vec::with_capacity(overhead + bytes);
                put_participants(&mut payload, &prepare.participants);
                self.encode(now, &mut payload).await;
                self.spend(1).await;
                let mut draft = Draft {
                    txn: transaction.id,
                    actor: transaction.actor,
                    schema: part.schema,
                    collection: part.table.id,
                    ..Draft::new(RecordKind::Prepare, part.table.shard, payload)
                };
                let bytes = draft.bytes();
                self.reserve(bytes).await?;
                draft.commit_ts = self.clock.now();
                let ticket = self.append(&[draft], What::Prepared(transaction.clone()))?;
                tickets.push(ticket);
                self.spend((bytes / COPY_BYTES_PER_UNIT) as u32 + 1).await;
            }
        }
        Ok(tickets)
    }

    /// Answers `Op::Decide`.
    pub async fn decide(&self, statement: &Statement, decide: &Decide) -> Result<()> {
        let lowest = decide.participants.iter().min().copied();
        let shard = lowest.ok_or_else(|| Failure::internal("a decision without participants"))?;
        self.shard(shard)?;
        let mut payload = Vec::new();
        put_participants(&mut payload, &decide.participants);
        let draft = Draft {
            commit_ts: decide.commit_ts,
            txn: decide.txn,
            actor: statement.actor,
            ..Draft::new(RecordKind::Decision, shard, payload)
        };
        self.reserve(draft.bytes()).await?;
        let ticket = self.append(&[draft], What::Decision(decide.txn))?;
        self.finished(&ticket).await
    }

    /// Answers `Op::Conclude`. Nothing is done for a transaction that this core does not know.
    pub async fn conclude(&self, conclude: Conclude) -> Result<()> {
        let transaction = loop {
            let changed = self.changed.wait();
            let found = self.transactions.borrow().get(&conclude.txn).cloned();
            let Some(transaction) = found else {
                return Ok(());
            };
            match transaction.stage.get() {
                Stage::Preparing => changed.await,
                Stage::Staging => {
                    self.forget(&transaction).await;
                    return Ok(());
                }
                Stage::Prepared => break transaction,
            }
        };
        let result = self.log_outcome(&transaction, conclude.outcome).await;
        self.transactions.borrow_mut().remove(&conclude.txn);
        if let Some(parts) = Rc::into_inner(transaction.parts.take()) {
            self.drop_parts(parts).await;
        }
        result
    }

    /// Logs and applies the outcome. What was decided must happen, so a full disk only delays it;
    /// on a node that has latched, the decision itself is durable and the effects are applied
    /// without a record of their own, which the next start makes up for.
    async fn log_outcome(&self, transaction: &Rc<Transaction>, outcome: Outcome) -> Result<()> {
        let voted = transaction.owner.phase();
        loop {
            let drafts = transaction.outcome_records(outcome);
            let bytes = drafts.iter().map(Draft::bytes).sum();
            let logged = match self.reserve(bytes).await {
                Ok(()) => {
                    let what = What::Concluded(transaction.clone(), outcome);
                    self.append(&drafts, what).inspect(|_| {
                        if let Outcome::Committed(ts) = outcome {
                            transaction.owner.set_phase(Phase::Decided(ts));
                        }
                    })
                }
                Err(failure) => Err(failure),
            };
            let result = match logged {
                Ok(ticket) => self.finished(&ticket).await,
                Err(failure) => Err(failure),
            };
            let Err(failure) = result else {
                return Ok(());
            };
            if outcome != Outcome::Aborted {
                transaction.owner.set_phase(voted);
            } else if failure.code() == SqlState::DiskFull {
                // Without a record it is aborted as well, so nobody has to wait for that.
                transaction.owner.set_phase(Phase::Over);
                self.changed.notify();
            }
            if failure.code() != SqlState::DiskFull {
                return self.conclude_unlogged(transaction, outcome).await;
            }
            self.timers
                .until(Some(self.timers.now_ns() + RETRY_NS))
                .await;
        }
    }

    /// Makes readers and writers of a recovered transaction's rows wait for its end.
    pub fn hold(&self, transaction: &Rc<Transaction>) {
        let owner = &transaction.owner;
        self.enter(owner);
        for part in transaction.parts().iter() {
            let mut claims = part.table.claims.borrow_mut();
            claims.enter(owner);
            for effect in &part.effects {
                let claimed = Claimed {
                    surrogate: Some(effect.surrogate),
                    birth: effect.birth,
                    row: (effect.op != EventOp::Delete).then(|| effect.after.clone()),
                };
                claims.put(&effect.key, owner, claimed);
            }
        }
    }

    async fn conclude_unlogged(
        &self,
        transaction: &Rc<Transaction>,
        outcome: Outcome,
    ) -> Result<()> {
        let parts = transaction.parts();
        match outcome {
            Outcome::Committed(ts) => {
                transaction.owner.set_phase(Phase::Decided(ts));
                let (owner, actor) = (&transaction.owner, transaction.actor);
                self.apply_rows(owner, actor, &parts, &[]).await?;
            }
            Outcome::Aborted => {
                transaction.owner.set_phase(Phase::Over);
                self.leave(&transaction.owner);
                self.release_claims(&transaction.owner, &parts).await;
            }
        }
        self.changed.notify();
        Ok(())
    }
}

impl CheckedRow for Checked {
    fn table(&self) -> &Rc<Table> {
        &self.table
    }

    fn schema(&self) -> SchemaVersion {
        self.schema
    }

    fn surrogate(&self) -> Option<Surrogate> {
        self.surrogate
    }

    fn name(&mut self, surrogate: Surrogate, owner: &Rc<Owner>) {
        self.surrogate = Some(surrogate);
        self.claim(owner);
    }

    fn effect(&self) -> RowEffect {
        row_effect(
            &self.table,
            &self.key,
            self.base.as_ref(),
            self.after.as_ref(),
            self.surrogate,
        )
    }
}

impl Checked {
    fn claim(&self, owner: &Rc<Owner>) {
        let claimed = Claimed {
            surrogate: self.surrogate,
            birth: self.base.as_ref().map(|b| b.birth),
            row: self.after.clone(),
        };
        self.table
            .claims
            .borrow_mut()
            .put(&self.key, owner, claimed);
    }
}

fn locked() -> Failure {
    Failure::new(
        SqlState::SerializationFailure,
        "could not serialize access: a row is being changed by another statement",
    )
    .retryable()
}

/// Fails with 40001 (retry) when a stream began to be kept while the rows were being drafted.
pub fn check_images(parts: &[Part]) -> Result<()> {
    let lacks = |e: &RowEffect| e.op != EventOp::Insert && e.before.is_none();
    let incomplete = |p: &&Part| p.table.emit.get().is_some() && p.effects.iter().any(lacks);
    match parts.iter().find(incomplete) {
        Some(part) => Err(stale_schema(part.table.id)),
        None => Ok(()),
    }
}

fn check_expected(
    table: &Table,
    key: &[u8],
    expected: Expected,
    newest: Option<&Newest>,
) -> Result<()> {
    match (expected, newest) {
        (Expected::Absent, None) => Ok(()),
        (Expected::Absent, Some(_)) => Err(duplicate_key(&table.collection(), key)),
        (Expected::Version { surrogate, version }, Some(newest))
            if newest.surrogate == surrogate && newest.version == version =>
        {
            Ok(())
        }
        (Expected::Version { .. }, _) => Err(Failure::new(
            SqlState::SerializationFailure,
            "could not serialize access due to concurrent update",
        )
        .retryable()),
    }
}

/// How many of the effects fit one record.
fn fitting(effects: &[RowEffect], participants: usize) -> usize {
    let overhead = crate::wal::codec::RECORD_HEADER_BYTES + 2 + participants * 2 + 4;
    let mut room = RECORDS_BYTES_MAX - overhead;
    let fits = |effect: &&RowEffect| match room.checked_sub(effect.encoded_bytes()) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    effects.iter().take_while(fits).count().max(1)
}

/// Participants: their number (2 bytes), then each shard (2).
fn put_participants(out: &mut Vec<u8>, participants: &[ShardId]) {
    let count = u16::try_from(participants.len()).expect("at most 256 shards");
    out.extend_from_slice(&count.to_le_bytes());
    for shard in participants {
        out.extend_from_slice(&shard.0.to_le_bytes());
    }
}

/// Reads participants back.
pub fn participants(fields: &mut Fields<'_>) -> Result<Vec<ShardId>> {
    let count = fields.u16()?;
    (0..count).map(|_| Ok(ShardId(fields.u16()?))).collect()
}
