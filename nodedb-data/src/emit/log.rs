//! Committed changes read back from the logs of all cores, old and present.
//!
//! A change stream that fell behind, or begins after a restart, asks for pages of events in the
//! order (commit timestamp, shard, LSN, part). The logs hold them nearly in that order, chain by
//! chain; a sparse index of blocks (a few frames each, with their range of timestamps) says which
//! blocks may hold the next ones. Blocks are read in the order of their smallest timestamp, and
//! what lies below the smallest of the next block is final. The index is built by one pass over the
//! logs at the first page and extended by what was written since at each later one; it takes some
//! ten bytes per mebibyte of log, and nothing else is kept between pages.
//!
//! A transaction's events are found by the record of its outcome, which names the frames of its
//! Prepare; those are read only when they are given out.
//!
//! This runs on a thread of its own and may block; it shares nothing with a core but the number up
//! to which the core's log is durable.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nodedb_bridge::event::{EventBatch, EventOp, WriteEvent};
use nodedb_bridge::port::{EventLog, EventPosition, LogPage, LogQuery};
use nodedb_types::{CommitTs, Failure, Result, SqlState};

use crate::core::transaction::{PreparedAt, participants};
use crate::io::{Io, IoHandle, drive};
use crate::shard::effect::{self, RowEffect};
use crate::shard::fields::{Fields, malformed};
use crate::wal::{
    Chain, ChainId, ChainReader, Frame, Position, Record, RecordHeader, RecordKind, scan_chains,
};

/// Bytes of frames in a block, about.
const BLOCK_BYTES: u64 = 256 << 10;
/// Bytes of log that one page reads at the most, but for one block.
const READ_BYTES_MAX: u64 = 8 << 20;

/// Where the logs are.
#[derive(Clone, Debug)]
pub struct EventLogConfig {
    pub data_dir: PathBuf,
    pub database: u64,
    /// Number of this start; chains of it are read up to `log_ends`, by core.
    pub epoch: u32,
    pub log_ends: Vec<Arc<AtomicU64>>,
}

/// A run of frames of one chain.
#[derive(Clone, Copy, Debug)]
struct Block {
    chain: ChainId,
    from: Position,
    to: Position,
    bytes: u64,
    /// Of the commits of user collections in it.
    min_ts: CommitTs,
    max_ts: CommitTs,
}

/// See the module.
pub struct LogReader {
    io: Rc<IoHandle>,
    dir: PathBuf,
    config: EventLogConfig,
    chains: BTreeMap<ChainId, Chain>,
    /// How far each chain is in the index.
    indexed: BTreeMap<ChainId, Position>,
    blocks: Vec<Block>,
}

/// Changes of one commit in one shard, or where they are.
enum Found {
    Rows(RecordHeader, Vec<RowEffect>),
    /// One frame of a Prepare, whose rows are still to be read.
    Prepared(RecordHeader, ChainId, Position),
}

impl LogReader {
    /// Opens the logs with files of the calling thread.
    pub fn open(config: EventLogConfig, io: Box<dyn Io>) -> Result<LogReader> {
        let dir = config.data_dir.join("wal");
        Ok(LogReader {
            io: IoHandle::new(io),
            dir,
            config,
            chains: BTreeMap::new(),
            indexed: BTreeMap::new(),
            blocks: Vec::new(),
        })
    }

    /// Reads what was written since the last call into the index; gives the bytes read.
    async fn refresh(&mut self) -> Result<u64> {
        let mut chains = scan_chains(&self.io, &self.dir, self.config.database).await?;
        chains.retain(|chain| chain.id.epoch <= self.config.epoch);
        let mut read = 0;
        for mut chain in chains {
            if chain.id.epoch == self.config.epoch {
                let end = self.config.log_ends.get(usize::from(chain.id.core.0));
                let Some(end) = end.map(|end| end.load(Ordering::SeqCst)) else {
                    continue;
                };
                chain.end = Some(Position::from_bits(end));
            }
            read += self.index_chain(&chain).await?;
            self.chains.insert(chain.id, chain);
        }
        Ok(read)
    }

    async fn index_chain(&mut self, chain: &Chain) -> Result<u64> {
        let from = self.indexed.get(&chain.id).copied();
        if from.is_some() && from == chain.end {
            return Ok(0);
        }
        let mut reader = self.reader(chain, from);
        let mut block: Option<Block> = None;
        let mut read = 0;
        while let Some(frame) = reader.next().await? {
            let bytes = u64::from(frame.end().offset() - frame.position().offset());
            read += bytes;
            let range = frame
                .records()
                .filter(|r| is_event(&r.header))
                .fold((CommitTs(u64::MAX), CommitTs(0)), |(min, max), r| {
                    (min.min(r.header.commit_ts), max.max(r.header.commit_ts))
                });
            let open = block.get_or_insert(Block {
                chain: chain.id,
                from: frame.position(),
                to: frame.end(),
                bytes: 0,
                min_ts: CommitTs(u64::MAX),
                max_ts: CommitTs(0),
            });
            open.to = frame.end();
            open.bytes += bytes;
            open.min_ts = open.min_ts.min(range.0);
            open.max_ts = open.max_ts.max(range.1);
            if open.bytes >= BLOCK_BYTES {
                self.blocks.extend(block.take());
            }
        }
        self.indexed.insert(chain.id, reader.end());
        self.blocks.extend(block);
        Ok(read)
    }

    fn reader(&self, chain: &Chain, from: Option<Position>) -> ChainReader {
        ChainReader::new(
            self.io.clone(),
            &self.dir,
            self.config.database,
            chain,
            from,
        )
    }

    /// The smallest timestamp that is kept of the newest `bytes` of log.
    fn kept_from(&self, bytes: u64) -> CommitTs {
        let mut blocks: Vec<&Block> = self.blocks.iter().collect();
        blocks.sort_unstable_by_key(|b| std::cmp::Reverse(b.max_ts));
        let mut total = 0;
        for block in blocks {
            total += block.bytes;
            if total > bytes && block.max_ts > CommitTs(0) {
                return CommitTs(block.max_ts.0 + 1);
            }
        }
        CommitTs(0)
    }

    async fn read_page(&mut self, query: &LogQuery) -> Result<LogPage> {
        let mut bytes_read = self.refresh().await?;
        let kept = self.kept_from(query.retention_bytes).max(query.since);
        let start = match query.from {
            Some(from) if from.commit_ts < kept && kept > query.since => return Err(gone(kept)),
            Some(from) => from.max(EventPosition::at(query.since)),
            None => EventPosition::at(kept),
        };
        let mut blocks: Vec<Block> = self
            .blocks
            .iter()
            .filter(|b| b.max_ts >= start.commit_ts && b.min_ts < query.before)
            .copied()
            .collect();
        blocks.sort_unstable_by_key(|b| (b.min_ts, b.chain, b.from));
        let mut found: BTreeMap<EventPosition, Found> = BTreeMap::new();
        let mut found_bytes = 0;
        let mut final_below = query.before;
        for (n, block) in blocks.iter().enumerate() {
            found_bytes += self.read_block(block, query, start, &mut found).await?;
            bytes_read += block.bytes;
            let next = blocks.get(n + 1).map_or(query.before, |b| b.min_ts);
            let enough = found_bytes >= query.bytes_max || bytes_read >= READ_BYTES_MAX;
            // Blocks that overlap must all be read before anything of them is final.
            if enough && next > start.commit_ts.max(block.min_ts) {
                final_below = next.min(query.before);
                break;
            }
        }
        self.give(query, found, final_below, bytes_read).await
    }

    /// Gives out what is final, as much as fits the page.
    async fn give(
        &self,
        query: &LogQuery,
        found: BTreeMap<EventPosition, Found>,
        final_below: CommitTs,
        mut bytes_read: u64,
    ) -> Result<LogPage> {
        let mut page = LogPage::default();
        let mut given = 0;
        for (position, found) in found {
            // What lies above the final mark may have others before it that were not read.
            if position.commit_ts >= final_below || given >= query.bytes_max {
                page.next = Some(position.min(EventPosition::at(final_below)));
                break;
            }
            let (header, effects) = match found {
                Found::Rows(header, effects) => (header, effects),
                Found::Prepared(header, chain, at) => {
                    let frame = self.frame(chain, at).await?;
                    bytes_read += u64::from(frame.end().offset() - frame.position().offset());
                    (header, prepared_rows(&frame, &header, query)?)
                }
            };
            if !effects.is_empty() {
                given += effects.iter().map(RowEffect::encoded_bytes).sum::<usize>();
                page.batches.push(batch(query, &header, effects));
            }
        }
        if page.next.is_none() && final_below < query.before {
            page.next = Some(EventPosition::at(final_below));
        }
        page.bytes_read = bytes_read;
        Ok(page)
    }

    /// Collects the changes of one block from `start` on; gives the bytes of their rows.
    async fn read_block(
        &self,
        block: &Block,
        query: &LogQuery,
        start: EventPosition,
        found: &mut BTreeMap<EventPosition, Found>,
    ) -> Result<usize> {
        let mut reader = self.reader(&self.chains[&block.chain], Some(block.from));
        let mut bytes = 0;
        while reader.end() < block.to
            && let Some(frame) = reader.next().await?
        {
            for record in frame.records().filter(|r| is_event(&r.header)) {
                let ts = record.header.commit_ts;
                if ts < query.since.max(start.commit_ts) || ts >= query.before {
                    continue;
                }
                for (part, one) in changes(&record, query)?.into_iter().enumerate() {
                    let position = EventPosition {
                        commit_ts: ts,
                        shard: record.header.shard,
                        lsn: record.header.lsn,
                        part: part as u32,
                    };
                    if position >= start {
                        bytes += match &one {
                            Found::Rows(_, effects) => {
                                effects.iter().map(RowEffect::encoded_bytes).sum()
                            }
                            Found::Prepared(..) => BLOCK_BYTES as usize,
                        };
                        found.insert(position, one);
                    }
                }
            }
        }
        reader.close().await?;
        Ok(bytes)
    }

    /// The frame at a position that an outcome names.
    async fn frame(&self, chain: ChainId, at: Position) -> Result<Frame> {
        let known = self
            .chains
            .get(&chain)
            .ok_or_else(|| malformed("it names no chain"))?;
        let mut reader = self.reader(known, Some(at));
        let frame = reader.next().await?;
        reader.close().await?;
        frame
            .filter(|f| f.position() == at)
            .ok_or_else(|| malformed("it names no frame"))
    }
}

impl EventLog for LogReader {
    fn page(&mut self, query: &LogQuery) -> Result<LogPage> {
        let io = self.io.clone();
        drive::run(&io, self.read_page(query))
            .unwrap_or_else(|| Err(Failure::new(SqlState::IoError, "the disk is gone")))
    }
}

/// Whether the record may hold events: rows of a user collection, or an outcome.
fn is_event(header: &RecordHeader) -> bool {
    match header.kind {
        RecordKind::Rows => !header.collection.is_system(),
        RecordKind::Decided => true,
        _ => false,
    }
}

/// What a record says of the collection; parts are counted from 0.
fn changes(record: &Record<'_>, query: &LogQuery) -> Result<Vec<Found>> {
    let header = record.header;
    if header.kind == RecordKind::Decided {
        let prepared = PreparedAt::decode(header.shard, record.payload)?;
        let found = |at| Found::Prepared(header, prepared.chain, at);
        return Ok(prepared.frames.iter().copied().map(found).collect());
    }
    if header.collection != query.collection {
        return Ok(Vec::new());
    }
    let mut fields = Fields::new(record.payload);
    let effects = effect::decode(&mut fields)?;
    Ok(vec![Found::Rows(header, effects)])
}

/// The rows of the collection that a frame has prepared for the transaction and shard.
fn prepared_rows(
    frame: &Frame,
    outcome: &RecordHeader,
    query: &LogQuery,
) -> Result<Vec<RowEffect>> {
    let mut effects = Vec::new();
    for record in frame.records() {
        let header = &record.header;
        if header.kind == RecordKind::Prepare
            && header.txn == outcome.txn
            && header.shard == outcome.shard
            && header.collection == query.collection
        {
            let mut fields = Fields::new(record.payload);
            participants(&mut fields)?;
            effects.extend(effect::decode(&mut fields)?);
        }
    }
    Ok(effects)
}

fn batch(query: &LogQuery, header: &RecordHeader, effects: Vec<RowEffect>) -> EventBatch {
    let event = |effect: RowEffect| WriteEvent {
        collection: query.collection,
        surrogate: effect.surrogate,
        birth: effect.birth.unwrap_or(header.commit_ts),
        op: effect.op,
        key: effect.key,
        before: effect.before,
        after: (effect.op != EventOp::Delete).then_some(effect.after),
        commit_ts: header.commit_ts,
        actor: header.actor,
    };
    EventBatch {
        shard: header.shard,
        lsn: header.lsn,
        commit_ts: header.commit_ts,
        events: effects.into_iter().map(event).collect(),
    }
}

fn gone(kept: CommitTs) -> Failure {
    Failure::new(
        SqlState::ObjectNotInPrerequisiteState,
        "the stream's events that far back are not kept any more",
    )
    .with_detail(format!("The oldest position is {kept}."))
    .with_hint("Read from there on, or keep more of the log for the stream.")
}
