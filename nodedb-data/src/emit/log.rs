//! Committed changes read back from the logs of all cores, old and present.
//!
//! A change stream that fell behind, or begins after a restart, asks for pages of events in the
//! order (commit timestamp, shard, LSN, part). An index ([`super::index`]) says which blocks of
//! which chain hold which commits, and below what timestamp nothing of a chain is still to come.
//! So the chains are merged: the one with the lowest bound is read on, block by block, and what
//! lies below the bounds of all is final.
//!
//! **Pieces.** A page reads some [`READ_BYTES_MAX`] bytes at the most, the index is extended by as
//! many at a time, and a page says so when it is not complete yet ([`LogPage::again`]). Where a
//! reader has come to and what it has read ahead stays as a [`Cursor`] for its next page, so each
//! block is read once; cursors and the frames of Prepare records are kept up to a limit in bytes,
//! and a reader whose cursor had to go is served all the same by reading blocks again.
//!
//! A transaction's events are found by the record of its outcome, which names the frames of its
//! Prepare; those are read only when they are given out.
//!
//! This runs on a thread of its own and may block; it shares nothing with a core but the number up
//! to which the core's log is durable. Segments may be released while it reads: then the page is
//! made again from what is left, or refused.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nodedb_bridge::event::{EventBatch, EventOp, WriteEvent};
use nodedb_bridge::port::{EventLog, EventPosition, LogPage, LogQuery};
use nodedb_types::{CollectionId, CommitTs, Failure, Result, SqlState};

use super::index::{Block, LogIndex, is_event};
use crate::core::transaction::{PreparedAt, participants};
use crate::io::{Io, IoHandle, drive};
use crate::shard::effect::{self, RowEffect};
use crate::shard::fields::{Fields, malformed};
use crate::wal::{ChainId, Frame, Position, Record, RecordHeader, RecordKind};

/// Bytes of log that one page reads at the most, but for one block.
const READ_BYTES_MAX: u64 = 8 << 20;
/// Bytes of rows that cursors hold together between pages.
const CURSOR_BYTES_MAX: usize = 2 << 20;
/// Bytes of frames with Prepare records that are held.
const FRAME_BYTES_MAX: usize = 2 << 20;
/// What stands for the rows of a Prepare that have not been read.
const PREPARED_BYTES: usize = 64;

/// Where the logs are.
#[derive(Clone, Debug)]
pub struct EventLogConfig {
    pub data_dir: PathBuf,
    pub database: u64,
    /// Number of this start; chains of it are read up to `log_ends`, by core.
    pub epoch: u32,
    pub log_ends: Vec<Arc<AtomicU64>>,
}

/// See the module.
pub struct LogReader {
    io: Rc<IoHandle>,
    log_ends: Vec<Arc<AtomicU64>>,
    index: LogIndex,
    /// The one used last is at the back.
    cursors: VecDeque<Cursor>,
    frames: VecDeque<(ChainId, Rc<Frame>)>,
}

/// Where one reader of a collection has come to.
struct Cursor {
    collection: CollectionId,
    since: CommitTs,
    /// The next event to be given.
    next: EventPosition,
    /// How far each chain has been read.
    read_to: BTreeMap<ChainId, Position>,
    /// Read and not given.
    found: BTreeMap<EventPosition, Found>,
    /// Bytes of their rows.
    bytes: usize,
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
        let io = IoHandle::new(io);
        let (dir, database) = (&config.data_dir, config.database);
        Ok(LogReader {
            index: LogIndex::new(io.clone(), dir, database, config.epoch),
            io,
            log_ends: config.log_ends,
            cursors: VecDeque::new(),
            frames: VecDeque::new(),
        })
    }

    async fn refresh(&mut self) -> Result<(u64, bool)> {
        let ends = &self.log_ends;
        let log_end = |core: u16| {
            let end = ends.get(usize::from(core))?;
            Some(Position::from_bits(end.load(Ordering::SeqCst)))
        };
        self.index.refresh(log_end, READ_BYTES_MAX).await
    }

    async fn read_page(&mut self, query: &LogQuery) -> Result<LogPage> {
        let (bytes_read, complete) = self.refresh().await?;
        if !complete {
            return Ok(LogPage {
                again: true,
                bytes_read,
                ..LogPage::default()
            });
        }
        let mut page = self.page_of(query).await?;
        page.bytes_read += bytes_read;
        Ok(page)
    }

    async fn page_of(&mut self, query: &LogQuery) -> Result<LogPage> {
        let kept = self.index.kept_from(query.retention_bytes);
        let kept = kept.max(self.index.complete_from()).min(query.before);
        let start = match query.from {
            Some(from) if from.commit_ts < kept && kept > query.since => return Err(gone(kept)),
            Some(from) => from.max(EventPosition::at(query.since)),
            None => EventPosition::at(kept.max(query.since)),
        };
        let mut cursor = self.cursor(query, start);
        let (final_below, bytes_read) = self.read_ahead(&mut cursor, query).await?;
        let mut page = self.give(&mut cursor, query, final_below).await?;
        page.bytes_read += bytes_read;
        self.keep(cursor);
        Ok(page)
    }

    /// The reader's cursor, or one that begins there.
    fn cursor(&mut self, query: &LogQuery, start: EventPosition) -> Cursor {
        let is_of = |c: &Cursor| {
            c.next == start && c.collection == query.collection && c.since == query.since
        };
        let known = self.cursors.iter().position(is_of);
        known
            .and_then(|at| self.cursors.remove(at))
            .unwrap_or_else(|| Cursor {
                collection: query.collection,
                since: query.since,
                next: start,
                read_to: BTreeMap::new(),
                found: BTreeMap::new(),
                bytes: 0,
            })
    }

    /// Puts a cursor back, and forgets those used longest ago while they hold too much.
    fn keep(&mut self, cursor: Cursor) {
        self.cursors.push_back(cursor);
        let cost = |c: &Cursor| c.bytes + size_of::<Cursor>() + c.read_to.len() * 64;
        let mut total: usize = self.cursors.iter().map(cost).sum();
        while total > CURSOR_BYTES_MAX {
            let Some(gone) = self.cursors.pop_front() else {
                return;
            };
            total -= cost(&gone);
        }
    }

    /// Reads blocks until there is enough for a page; gives the timestamp below which all has been
    /// found, and the bytes read.
    async fn read_ahead(&self, cursor: &mut Cursor, query: &LogQuery) -> Result<(CommitTs, u64)> {
        let mut bytes_read = 0;
        while let Some((id, block)) = self.next_block(cursor) {
            if block.bound >= query.before {
                break;
            }
            let enough = cursor.bytes >= query.bytes_max || bytes_read >= READ_BYTES_MAX;
            // The lowest bound must pass the beginning, or nothing of it is final.
            if enough && block.bound > cursor.next.commit_ts {
                return Ok((block.bound, bytes_read));
            }
            if block.max_ts >= cursor.next.commit_ts {
                bytes_read += self.read_block(id, &block, cursor).await?;
            }
            cursor.read_to.insert(id, block.to);
        }
        Ok((query.before, bytes_read))
    }

    /// The unread block of the chain with the lowest bound.
    fn next_block(&self, cursor: &Cursor) -> Option<(ChainId, Block)> {
        let next = |(id, known): (&ChainId, &super::index::ChainIndex)| {
            let read_to = cursor.read_to.get(id).copied().unwrap_or(Position::START);
            Some((*id, *known.block_after(read_to)?))
        };
        let unread = self.index.chains.iter().filter_map(next);
        unread.min_by_key(|(id, block)| (block.bound, *id))
    }

    /// Gives out what is final, as much as fits the page.
    async fn give(
        &mut self,
        cursor: &mut Cursor,
        query: &LogQuery,
        final_below: CommitTs,
    ) -> Result<LogPage> {
        let mut page = LogPage::default();
        let mut given = 0;
        while let Some(entry) = cursor.found.first_entry()
            && entry.key().commit_ts < final_below
            && given < query.bytes_max
        {
            let (position, found) = entry.remove_entry();
            cursor.bytes -= found.bytes();
            let (header, effects) = match found {
                Found::Rows(header, effects) => (header, effects),
                Found::Prepared(header, chain, at) => {
                    let (frame, bytes) = self.frame(chain, at, header.commit_ts).await?;
                    page.bytes_read += bytes;
                    (header, prepared_rows(&frame, &header, query)?)
                }
            };
            if !effects.is_empty() {
                given += effects.iter().map(RowEffect::encoded_bytes).sum::<usize>();
                page.batches
                    .push(batch(query, &header, position.part, effects));
            }
        }
        // What lies above the mark may have others before it that were not read.
        let mark = EventPosition::at(final_below);
        let first = cursor.found.keys().next().copied();
        cursor.next = first.map_or(mark, |first| first.min(mark));
        page.next = (cursor.next < EventPosition::at(query.before)).then_some(cursor.next);
        Ok(page)
    }

    /// Collects the changes of one block, as far as it was not read before; gives the bytes read.
    async fn read_block(&self, id: ChainId, block: &Block, cursor: &mut Cursor) -> Result<u64> {
        let read_to = cursor.read_to.get(&id).copied();
        let from = read_to.map_or(block.from, |at| at.max(block.from));
        let bytes = u64::from(block.to.offset() - from.offset());
        let mut reader = self.index.reader(id, from).reading(bytes);
        while reader.end() < block.to
            && let Some(frame) = reader.next().await?
        {
            for record in frame.records().filter(|r| is_event(&r.header)) {
                let ts = record.header.commit_ts;
                if ts < cursor.since.max(cursor.next.commit_ts) {
                    continue;
                }
                for (part, one) in changes(&record, cursor.collection)?.into_iter().enumerate() {
                    let position = EventPosition {
                        commit_ts: ts,
                        shard: record.header.shard,
                        lsn: record.header.lsn,
                        part: part as u32,
                    };
                    if position >= cursor.next {
                        cursor.bytes += one.bytes();
                        cursor.found.insert(position, one);
                    }
                }
            }
        }
        reader.close().await?;
        Ok(bytes)
    }

    /// The frame at a position that the outcome of `commit_ts` names, and the bytes read for it.
    async fn frame(
        &mut self,
        chain: ChainId,
        at: Position,
        commit_ts: CommitTs,
    ) -> Result<(Rc<Frame>, u64)> {
        let is_it = |(id, frame): &(ChainId, Rc<Frame>)| *id == chain && frame.position() == at;
        if let Some((_, frame)) = self.frames.iter().find(|f| is_it(f)) {
            return Ok((frame.clone(), 0));
        }
        if !self.index.holds(chain, at) {
            return Err(gone(CommitTs(commit_ts.0 + 1)));
        }
        let mut reader = self.index.reader(chain, at);
        let frame = reader.next().await?;
        reader.close().await?;
        let frame = frame.filter(|f| f.position() == at);
        let frame = Rc::new(frame.ok_or_else(|| malformed("it names no frame"))?);
        self.frames.push_back((chain, frame.clone()));
        let bytes = |(_, f): &(ChainId, Rc<Frame>)| frame_bytes(f) as usize;
        while self.frames.iter().map(bytes).sum::<usize>() > FRAME_BYTES_MAX {
            self.frames.pop_front();
        }
        Ok((frame.clone(), frame_bytes(&frame)))
    }
}

impl EventLog for LogReader {
    fn page(&mut self, query: &LogQuery) -> Result<LogPage> {
        let io = self.io.clone();
        let gone = || Failure::new(SqlState::IoError, "the disk is gone");
        let segments = |log: &LogReader| -> Vec<(ChainId, Vec<u32>)> {
            let chains = log.index.chains.iter();
            chains
                .map(|(id, c)| (*id, c.chain.segments.clone()))
                .collect()
        };
        loop {
            let page = drive::run(&io, self.read_page(query)).ok_or_else(gone)?;
            let Err(failure) = page else { return page };
            // A segment that was being read may have been released: what is left decides.
            let before = segments(self);
            drive::run(&io, self.index.list()).ok_or_else(gone)??;
            if before == segments(self) {
                return Err(failure);
            }
        }
    }
}

impl Found {
    /// Bytes of its rows.
    fn bytes(&self) -> usize {
        match self {
            Found::Rows(_, effects) => effects.iter().map(RowEffect::encoded_bytes).sum(),
            Found::Prepared(..) => PREPARED_BYTES,
        }
    }
}

fn frame_bytes(frame: &Frame) -> u64 {
    u64::from(frame.end().offset() - frame.position().offset())
}

/// What a record says of the collection; parts are counted from 0.
fn changes(record: &Record<'_>, collection: CollectionId) -> Result<Vec<Found>> {
    let header = record.header;
    if header.kind == RecordKind::Decided {
        let prepared = PreparedAt::decode(header.shard, record.payload)?;
        let found = |at| Found::Prepared(header, prepared.chain, at);
        return Ok(prepared.frames.iter().copied().map(found).collect());
    }
    if header.collection != collection {
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

fn batch(
    query: &LogQuery,
    header: &RecordHeader,
    part: u32,
    effects: Vec<RowEffect>,
) -> EventBatch {
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
        part,
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
