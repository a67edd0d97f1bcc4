//! Writes by full key on this core: all rows of a batch, or none.
//!
//! Each row is checked under a claim on its key, which locks it. A batch that fits the turn is
//! checked and appended in it; a long one goes on in later turns and keeps its claims meanwhile, so
//! that what was checked stays true. Meeting a key that somebody else has locked, it gives up its
//! own claims (so no two writers wait for each other) and begins again when something has changed.

use std::rc::Rc;
use std::sync::Arc;

use nodedb_bridge::event::EventOp;
use nodedb_bridge::expression::{Rewrite, RowRewrite};
use nodedb_bridge::plan::{OnConflict, OutputColumn, RowAction, RowWrite, WriteBatch};
use nodedb_bridge::reply::Frame;
use nodedb_bridge::request::Statement;
use nodedb_types::failure::Object;
use nodedb_types::limits::{KEY_BYTES_MAX, ROW_BYTES_MAX};
use nodedb_types::row::RowView;
use nodedb_types::{
    Collection, CommitTs, Failure, Result, SchemaVersion, ShardId, SqlState, Surrogate, key, text,
};

use super::commit::{Draft, Part, What};
use super::executor::Critical;
use super::gather::CheckedRow;
use super::output::{Output, OutputRow};
use super::reply::Reply;
use super::state::{State, stale_schema};
use super::transaction::check_images;
use crate::chunks::SplitMap;
use crate::shard::claim::{Claimed, Found, Newest, Owner, Phase};
use crate::shard::effect::RowEffect;
use crate::shard::table::Table;
use crate::wal::RecordKind;

/// Units for checking a row.
const CHECK_UNITS: u32 = 10;

/// A row that was checked and claimed.
struct Planned {
    table: Rc<Table>,
    key: Arc<[u8]>,
    /// The newest version, which this change follows.
    base: Option<Newest>,
    after: Option<Arc<[u8]>>,
    surrogate: Option<Surrogate>,
}

/// Where each key stands among the rows.
type ByKey = SplitMap<(ShardId, Arc<[u8]>), usize>;

/// The checked rows of a statement. Dropping it before the append gives up their claims.
struct Plan<'a> {
    state: &'a State,
    owner: Rc<Owner>,
    rows: Vec<Planned>,
    /// Where the rows of a batch of several are.
    by_key: Option<ByKey>,
}

impl Drop for Plan<'_> {
    fn drop(&mut self) {
        if self.owner.phase() != Phase::Planning {
            return;
        }
        self.owner.set_phase(Phase::Over);
        if self.rows.is_empty() {
            return;
        }
        for row in &self.rows {
            row.table.claims.borrow_mut().remove(&row.key, &self.owner);
        }
        self.state.changed.notify();
    }
}

impl State {
    /// Answers `Op::Write`.
    pub async fn write(
        &self,
        statement: &Statement,
        batch: &WriteBatch,
        reply: &Reply,
    ) -> Result<()> {
        let plan = loop {
            self.latch.check()?;
            self.check_pins(statement)?;
            if let Some(plan) = self.plan(batch).await? {
                break plan;
            }
            self.wait_for(self.changed.wait(), statement, reply).await?;
        };
        self.commit_plan(plan, statement, batch, reply).await
    }

    /// Checks and claims all rows; `None` when another owner has locked one of them.
    async fn plan(&self, batch: &WriteBatch) -> Result<Option<Plan<'_>>> {
        let mut plan = Plan {
            state: self,
            owner: Owner::new(None),
            rows: Vec::with_capacity(batch.rows.len()),
            by_key: (batch.rows.len() > 1).then(SplitMap::default),
        };
        for row in &batch.rows {
            let table = self.table(row.shard, batch.collection)?;
            check_key(&row.key)?;
            let found = table.paged(|t| t.newest(&row.key, &plan.owner)).await?;
            let current = match found {
                Found::Locked => return Ok(None),
                Found::Applied => unreachable!("resolved by the table"),
                Found::Pending(newest) => newest,
                Found::Own(_) => plan.own(row),
            };
            plan.row(&table, row, current)?;
            self.spend(CHECK_UNITS).await;
        }
        Ok(Some(plan))
    }

    /// Waits until each table has as many surrogates to give out; the caller takes them in the
    /// same turn.
    pub async fn await_surrogates(
        &self,
        needed: &[(Rc<Table>, usize)],
        statement: &Statement,
        reply: &Reply,
    ) -> Result<()> {
        loop {
            let granted = self.granted.wait();
            let mut enough = true;
            for (table, count) in needed {
                self.ask_for_surrogates(table, *count);
                enough &= table.extents.borrow().free() >= *count;
            }
            if enough {
                return Ok(());
            }
            self.wait_for(granted, statement, reply).await?;
            for (table, count) in needed {
                let extents = table.extents.borrow();
                if let Some(why) = extents.denied().filter(|_| extents.free() < *count) {
                    self.latch.check()?;
                    return Err(why.clone());
                }
            }
        }
    }

    async fn commit_plan(
        &self,
        mut plan: Plan<'_>,
        statement: &Statement,
        batch: &WriteBatch,
        reply: &Reply,
    ) -> Result<()> {
        plan.rows.retain(|row| {
            let changes = row.base.is_some() || row.after.is_some();
            if !changes {
                row.table.claims.borrow_mut().remove(&row.key, &plan.owner);
            }
            changes
        });
        let written = plan.rows.len() as u64;
        if written > 0 {
            let owner = plan.owner.clone();
            self.give_surrogates(&mut plan.rows, &owner, statement, reply)
                .await?;
            let parts = self.parts_of(&plan.rows).await;
            let drafts = self.drafts(&parts, statement).await;
            self.reserve(drafts.iter().map(Draft::bytes).sum()).await?;
            self.check_pins(statement)?;
            check_images(&parts)?;
            if parts.iter().any(|part| part.table.is_dropped()) {
                return Err(stale_schema(batch.collection));
            }
            let (commit_ts, ticket) = {
                let _whole = Critical;
                plan.append(drafts, parts, statement)?
            };
            self.finished(&ticket).await?;
            if let Some(columns) = &batch.returning {
                plan.send_rows(columns, commit_ts, reply).await?;
            }
        }
        reply.send(Frame::Written(written)).await?;
        self.drop_map(plan.by_key.take().unwrap_or_default()).await;
        self.drop_rows(std::mem::take(&mut plan.rows)).await;
        Ok(())
    }

    /// The records of the effects, but for their timestamp.
    async fn drafts(&self, parts: &[Part], statement: &Statement) -> Vec<Draft> {
        let mut drafts = Vec::with_capacity(parts.len());
        for part in parts {
            let bytes: usize = part.effects.iter().map(RowEffect::encoded_bytes).sum();
            let mut payload = Vec::with_capacity(4 + bytes);
            self.encode(&part.effects, &mut payload).await;
            drafts.push(Draft {
                actor: statement.actor,
                schema: part.schema,
                collection: part.table.id,
                ..Draft::new(RecordKind::Rows, part.table.shard, payload)
            });
        }
        drafts
    }
}

impl Plan<'_> {
    /// The row as this batch has left it so far.
    fn own(&self, row: &RowWrite) -> Option<Newest> {
        let by_key = self.by_key.as_ref().expect("one row is not met again");
        let planned = &self.rows[*by_key
            .get(&(row.shard, row.key.as_ref().into()))
            .expect("its own claim is of a row here")];
        let base = planned.base.as_ref();
        planned.after.as_ref().map(|after| Newest {
            // A row that is new here has no identity yet; only its content matters.
            surrogate: base.map_or(Surrogate::new(1).expect("not 0"), |b| b.surrogate),
            version: base.map_or(CommitTs::default(), |b| b.version),
            birth: base.map_or(CommitTs::default(), |b| b.birth),
            row: after.clone(),
        })
    }

    /// Decides what becomes of one row and claims it.
    fn row(&mut self, table: &Rc<Table>, row: &RowWrite, current: Option<Newest>) -> Result<()> {
        let place = (row.shard, Arc::<[u8]>::from(row.key.as_ref()));
        let by_key = self.by_key.as_ref();
        let seen = by_key.and_then(|by_key| by_key.get(&place).copied());
        let Some(after) = decide(table, row, current.as_ref(), seen.is_some())? else {
            return Ok(());
        };
        if let Some(new) = &after {
            check_row(table, new)?;
        }
        let at = seen.unwrap_or_else(|| {
            if let Some(by_key) = &mut self.by_key {
                by_key.insert(place.clone(), self.rows.len());
            }
            self.rows.push(Planned {
                table: table.clone(),
                key: place.1.clone(),
                base: current,
                after: None,
                surrogate: None,
            });
            self.rows.len() - 1
        });
        let planned = &mut self.rows[at];
        planned.after = after;
        planned.surrogate = planned.base.as_ref().map(|b| b.surrogate);
        planned.claim(&self.owner);
        Ok(())
    }

    /// Takes the timestamp, appends the records and turns the claims into pending rows.
    fn append(
        &mut self,
        mut drafts: Vec<Draft>,
        parts: Vec<Part>,
        statement: &Statement,
    ) -> Result<(CommitTs, Rc<super::commit::Ticket>)> {
        let commit_ts = self.state.next_ts();
        for draft in &mut drafts {
            draft.commit_ts = commit_ts;
        }
        for part in &parts {
            part.table.claims.borrow_mut().enter(&self.owner);
        }
        self.state.enter(&self.owner);
        let what = What::Rows {
            owner: self.owner.clone(),
            actor: statement.actor,
            parts,
        };
        match self.state.append(&drafts, what) {
            Ok(ticket) => {
                self.owner.set_phase(Phase::Logged(commit_ts));
                Ok((commit_ts, ticket))
            }
            Err(failure) => {
                for row in &self.rows {
                    row.table.claims.borrow_mut().leave(&self.owner);
                }
                self.state.leave(&self.owner);
                Err(failure)
            }
        }
    }

    async fn send_rows(
        &self,
        columns: &Arc<[OutputColumn]>,
        commit_ts: CommitTs,
        reply: &Reply,
    ) -> Result<()> {
        let Some(first) = self.rows.first() else {
            return Ok(());
        };
        let mut output = Output::new(first.table.collection(), columns.clone())?;
        for row in &self.rows {
            let (version, bytes) = match (&row.after, &row.base) {
                (Some(after), _) => (commit_ts, after),
                (None, Some(base)) => (base.version, &base.row),
                (None, None) => continue,
            };
            output.push(&OutputRow {
                shard: row.table.shard,
                surrogate: row.surrogate.expect("a written row has its surrogate"),
                version,
                key: &row.key,
                row: bytes,
            })?;
            self.state.spend(crate::pace::ROW_READ).await;
            if output.is_full()
                && let Some(batch) = output.take()?
            {
                reply.send(Frame::Batch(batch)).await?;
            }
        }
        match output.take()? {
            Some(batch) => reply.send(Frame::Batch(batch)).await,
            None => Ok(()),
        }
    }
}

impl Planned {
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

impl CheckedRow for Planned {
    fn table(&self) -> &Rc<Table> {
        &self.table
    }

    fn schema(&self) -> SchemaVersion {
        self.table.collection().version
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

/// The effect of a change from `base` to `after`, which are not both nothing.
pub fn row_effect(
    table: &Table,
    key: &Arc<[u8]>,
    base: Option<&Newest>,
    after: Option<&Arc<[u8]>>,
    surrogate: Option<Surrogate>,
) -> RowEffect {
    let op = match (base, after) {
        (None, _) => EventOp::Insert,
        (Some(_), Some(_)) => EventOp::Update,
        (Some(_), None) => EventOp::Delete,
    };
    RowEffect {
        op,
        surrogate: surrogate.unwrap_or(Surrogate::new(u32::MAX).expect("not 0")),
        birth: base.map(|b| b.birth),
        key: key.clone(),
        after: after.cloned().unwrap_or_else(|| Arc::from([])),
        before: base
            .filter(|_| table.emit.get().is_some())
            .map(|b| b.row.clone()),
    }
}

/// The row after the write: `None` when nothing changes, `Some(None)` when it is deleted.
/// `again`: the batch has written this key before.
fn decide(
    table: &Table,
    row: &RowWrite,
    current: Option<&Newest>,
    again: bool,
) -> Result<Option<Option<Arc<[u8]>>>> {
    let rewrite = |with: &Arc<dyn RowRewrite>, current: &Newest, proposed: Option<&[u8]>| {
        Ok(match with.rewrite(&current.row, proposed)? {
            Rewrite::Keep => None,
            Rewrite::Replace(new) => Some(Some(new.into())),
            Rewrite::Delete => Some(None),
        })
    };
    match (&row.action, current) {
        (RowAction::Insert { row, .. }, None) | (RowAction::Put { row }, _) => {
            Ok(Some(Some(row.as_ref().into())))
        }
        (
            RowAction::Insert {
                row: new,
                on_conflict,
            },
            Some(current),
        ) => match on_conflict {
            OnConflict::Fail => Err(duplicate_key(&table.collection(), &row.key)),
            OnConflict::Nothing => Ok(None),
            OnConflict::Rewrite(_) if again => Err(Failure::new(
                SqlState::CardinalityViolation,
                "ON CONFLICT DO UPDATE command cannot affect row a second time",
            )
            .with_hint(
                "Ensure that no rows proposed for insertion within the same command have \
                 duplicate constrained values.",
            )),
            OnConflict::Rewrite(with) => rewrite(with, current, Some(new)),
        },
        (RowAction::Rewrite(with), Some(current)) => rewrite(with, current, None),
        (RowAction::Rewrite(_), None) => Ok(None),
    }
}

/// Fails with 54000 for a key beyond the limit.
pub fn check_key(key: &[u8]) -> Result<()> {
    if key.len() <= KEY_BYTES_MAX {
        return Ok(());
    }
    Err(Failure::new(
        SqlState::ProgramLimitExceeded,
        format!(
            "the key takes {} bytes, the limit is {KEY_BYTES_MAX}",
            key.len()
        ),
    ))
}

/// Fails with 54000 for a row beyond the limit, or with what an index has against it.
pub fn check_row(table: &Table, row: &[u8]) -> Result<()> {
    if row.len() > ROW_BYTES_MAX {
        return Err(Failure::new(
            SqlState::ProgramLimitExceeded,
            format!(
                "the row takes {} bytes, the limit is {ROW_BYTES_MAX}",
                row.len()
            ),
        ));
    }
    let view = RowView::new(row)?;
    table
        .indexes()
        .iter()
        .try_for_each(|index| index.engine.borrow().check_row(&view))
}

/// 23505 for the primary key.
pub fn duplicate_key(collection: &Collection, bytes: &[u8]) -> Failure {
    let constraint = format!("{}_pkey", collection.name);
    let message = format!("duplicate key value violates unique constraint \"{constraint}\"");
    let failure = Failure::new(SqlState::UniqueViolation, message).with_object(Object {
        table: Some(collection.name.clone()),
        column: None,
        constraint: Some(constraint),
    });
    let Some(column) = collection.key.map(|k| &collection.columns[k]) else {
        return failure;
    };
    let Ok((value, _)) = key::decode(bytes, &column.data_type) else {
        return failure;
    };
    let mut shown = String::new();
    text::format(&value, &mut shown);
    failure.with_detail(format!("Key ({})=({shown}) already exists.", column.name))
}
