//! Recovery: from the checkpoints and the logs to the state in which requests are taken.
//!
//! Every core reads the roots of all shards and loads its own shards from their checkpoints. Then
//! it reads what some shard still needs of the chains of all earlier starts, in order, and applies
//! the records of its own shards that their checkpoints do not hold, by the same code that applies
//! them while the server runs (W2). Then it begins its own chain, which logs where the older ones
//! end, and settles what was left open:
//!
//! * a transaction that is prepared in a shard here and has no outcome there is committed if any
//!   chain holds its decision and aborted otherwise; that is logged before the first request;
//! * an index that is not public on all shards here is dropped; public ones whose engine has no
//!   image in the checkpoint are built from the rows.
//!
//! The same files give the same end however often this is broken off: nothing is changed but by
//! records of the new chain, and no checkpoint is made before every core is through.
//!
//! A full disk does not keep a core from starting: its chain begins with the first flush that finds
//! space ([`Wal::begun`]), and until then there are neither checkpoints nor records. What is to be
//! logged first waits for that in tasks of its own: an abort is one to readers at once, a commit
//! keeps the readers of its rows waiting, and an index to be dropped is one that nobody asks.

mod replay;
mod start;

use std::rc::Rc;

use nodedb_bridge::plan::Outcome;
use nodedb_types::schema::IndexState;
use nodedb_types::{CommitTs, IndexId, Result, TxnId};

use crate::core::state::State;
use crate::core::transaction::Transaction;
use crate::shard::schema_codec::SchemaRecord;
use crate::store;
use crate::wal::{Chain, ChainEnd, ChainReader, Position, Wal, WalConfig, open_dir, scan_chains};
use replay::Replay;
use start::{From, Start};

/// Recovers the core; its failure breaks the core.
pub async fn recover(state: Rc<State>) {
    match recover_all(&state).await {
        Ok(()) => {
            state.recovered.set(true);
            state.covered.note_recovered();
            state.spawner.spawn(after_beginning(state.clone()));
        }
        Err(failure) => state.break_with(failure),
    }
}

async fn recover_all(state: &Rc<State>) -> Result<()> {
    let config = &state.config;
    let dir = open_dir(&state.io, &config.data_dir).await?;
    let mut chains = scan_chains(&state.io, &dir, config.database).await?;
    chains.retain(|chain| chain.id.epoch < config.epoch);
    let store_dir = store::file::open_dir(&state.io, &config.data_dir).await?;
    let start = Start::load(state, &store_dir).await?;
    *state.checkpoint.store_dir.borrow_mut() = store_dir;
    let mut ends = Vec::new();
    let mut replay = Replay::new(state, &start);
    for chain in &mut chains {
        let end = match start.from(chain) {
            From::Nowhere => chain.end,
            From::Beginning => {
                let from = chain.beginning();
                Some(read_chain(state, &dir, chain, from, &mut replay).await?)
            }
            From::Position(from) => Some(read_chain(state, &dir, chain, from, &mut replay).await?),
        };
        chain.end = end;
        ends.extend(end.map(|end| ChainEnd {
            chain: chain.id,
            end,
        }));
    }
    let open = replay.finish()?;
    let mut wal_config = WalConfig::new(dir.clone(), config.database, state.chain());
    if config.small_segments {
        wal_config.segment_bytes_max = wal_config.first_segment_bytes;
    }
    let wal = Wal::create(state.io.clone(), wal_config, &ends).await?;
    state.spawner.spawn(wal.clone().prepare_segments());
    assert!(state.wal.set(wal).is_ok(), "the log is opened once");
    state.spawner.spawn(state.clone().flush_loop());
    state.spawner.spawn(state.clone().apply_loop());
    settle_transactions(state, open).await?;
    settle_indexes(state).await?;
    if state.wal().has_begun() {
        trim_chains(state, &dir, &mut chains).await?;
    }
    *state.checkpoint.older.borrow_mut() = (dir, chains);
    Ok(())
}

/// Makes checkpoints from the chain's beginning on: before, a later start could take the number of
/// this one, and a checkpoint would name positions of another chain than its own.
async fn after_beginning(state: Rc<State>) {
    let wal = state.wal().clone();
    wal.begun().await;
    state.checkpoint_loop().await;
}

async fn read_chain(
    state: &Rc<State>,
    dir: &std::path::Path,
    chain: &Chain,
    from: Position,
    replay: &mut Replay<'_>,
) -> Result<Position> {
    let mut reader = ChainReader::new(
        state.io.clone(),
        dir,
        state.config.database,
        chain,
        Some(from),
    );
    while let Some(frame) = reader.next().await? {
        for record in frame.records() {
            replay.record(&record, chain.id, frame.position()).await?;
        }
    }
    Ok(reader.end())
}

/// Logs and applies the outcome of every transaction that is prepared here without one.
async fn settle_transactions(
    state: &Rc<State>,
    open: Vec<(Rc<Transaction>, Option<CommitTs>)>,
) -> Result<()> {
    let ids: Vec<(TxnId, Outcome)> = open
        .into_iter()
        .map(|(transaction, decision)| {
            let id = transaction.id;
            state.transactions.borrow_mut().insert(id, transaction);
            (id, decision.map_or(Outcome::Aborted, Outcome::Committed))
        })
        .collect();
    for (txn, outcome) in ids {
        let conclude = nodedb_bridge::plan::Conclude { txn, outcome };
        if state.wal().has_begun() {
            state.conclude(conclude).await?;
            continue;
        }
        if outcome != Outcome::Aborted {
            let transaction = state.transactions.borrow().get(&txn).cloned();
            transaction.iter().for_each(|t| state.hold(t));
        }
        let waiting = state.clone();
        state.spawner.spawn(async move {
            if let Err(failure) = waiting.conclude(conclude).await {
                waiting.break_with(failure);
            }
        });
    }
    Ok(())
}

/// Drops indexes that were not finished and builds those that were not loaded.
async fn settle_indexes(state: &Rc<State>) -> Result<()> {
    for index in state.known_indexes() {
        if index.state == IndexState::WriteOnly {
            drop_index(state, index.id).await?;
            continue;
        }
        let parts = state.index_parts(index.id)?;
        let tables = state.tables(index.collection, None)?;
        if parts.len() < tables.len() {
            // Some shard never got it, so it was never public as a whole.
            drop_index(state, index.id).await?;
            continue;
        }
        let mut done = 0;
        for (table, part) in &parts {
            while state.build_piece(table, part, &mut done).await? {}
        }
    }
    Ok(())
}

/// Drops an index now, or once there is space for the record.
async fn drop_index(state: &Rc<State>, id: IndexId) -> Result<()> {
    if state.wal().has_begun() {
        return state.log_schema(SchemaRecord::DropIndex(id)).await;
    }
    let waiting = state.clone();
    state.spawner.spawn(async move {
        waiting.wal().begun().await;
        // What fails here is found and dropped by the next start.
        let _ = waiting.log_schema(SchemaRecord::DropIndex(id)).await;
    });
    Ok(())
}

/// Removes segments behind the logged ends of chains that no core of this start reads so far:
/// those of the starts before the last one. One core does it for all.
async fn trim_chains(state: &State, dir: &std::path::Path, chains: &mut [Chain]) -> Result<()> {
    if state.config.core.0 != 0 {
        return Ok(());
    }
    for chain in chains {
        if chain.end.is_some() && chain.id.epoch + 1 < state.config.epoch {
            chain.trim(&state.io, dir).await?;
        }
    }
    Ok(())
}
