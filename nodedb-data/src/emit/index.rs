//! Where in the logs the commits are: a sparse index that is built and extended in pieces.
//!
//! Each chain is a row of **blocks**, runs of frames of about [`BLOCK_BYTES`] that never span
//! segments, each with the range of its commits' timestamps. A chain is nearly in the order of
//! timestamps, and not quite: the outcome of a transaction is logged after later commits. So every
//! block also carries [`Block::bound`], below which neither it nor a later block of the chain has a
//! commit. Some hundred bytes stand for 256 KiB of log.
//!
//! **What is complete.** Segments are released when no stream needs them any more. What is gone
//! with them is older than everything that was stamped with the clock when it was appended behind
//! them: rows of one core, and Prepare records. So the first stamp in what is left of a chain says
//! from where on it is complete, and the first stamp of a start says so for all earlier starts. A
//! transaction whose Prepare is gone is not complete either.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nodedb_types::{CommitTs, Result};

use crate::core::transaction::PreparedAt;
use crate::io::IoHandle;
use crate::wal::{
    Chain, ChainId, ChainReader, Frame, Position, RecordHeader, RecordKind, all_logged_ends,
    list_segments,
};

/// Bytes of frames in a block, about.
pub const BLOCK_BYTES: u64 = 256 << 10;

/// A run of frames of one segment.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub from: Position,
    pub to: Position,
    pub bytes: u64,
    /// Of the largest commit of a user collection in it; 0: there is none.
    pub max_ts: CommitTs,
    /// Of the smallest; `u64::MAX`: there is none.
    min_ts: CommitTs,
    /// No commit here or in a later block of the chain is below.
    pub bound: CommitTs,
    /// Everything logged before the block in this chain, or in any chain of an earlier start, has
    /// a timestamp below this.
    stamp: Option<CommitTs>,
    /// The earliest frame that an outcome in it needs.
    prepared: Option<(ChainId, Position)>,
}

/// One chain, as far as it has been looked through.
pub struct ChainIndex {
    pub chain: Chain,
    indexed: Position,
    /// Everything up to the end that the chain has for good.
    finished: bool,
    /// The largest commit of what was released, if all of that had been looked through.
    lost: Option<CommitTs>,
    pub blocks: VecDeque<Block>,
}

/// The index of all chains.
pub struct LogIndex {
    io: Rc<IoHandle>,
    dir: PathBuf,
    database: u64,
    /// Number of this start.
    epoch: u32,
    pub chains: BTreeMap<ChainId, ChainIndex>,
    /// Every older chain that there was when this start began.
    ends: Option<BTreeMap<ChainId, Position>>,
}

impl LogIndex {
    pub fn new(io: Rc<IoHandle>, data_dir: &Path, database: u64, epoch: u32) -> LogIndex {
        LogIndex {
            io,
            dir: data_dir.join("wal"),
            database,
            epoch,
            chains: BTreeMap::new(),
            ends: None,
        }
    }

    /// Takes up what was written since the last call, about `bytes_max` bytes of it, and forgets
    /// what was released. Gives the bytes read, and whether all there is has been taken up.
    /// `log_end` tells how far the chain of a core of this start is durable.
    pub async fn refresh(
        &mut self,
        log_end: impl Fn(u16) -> Option<Position>,
        bytes_max: u64,
    ) -> Result<(u64, bool)> {
        self.list().await?;
        let mut read = 0;
        let ids: Vec<ChainId> = self.chains.keys().copied().collect();
        for id in ids {
            let of_now = id.epoch == self.epoch;
            let known = self.chains.get_mut(&id).expect("it was listed");
            if of_now {
                known.chain.end = log_end(id.core.0);
            }
            if known.finished || of_now && known.chain.end.is_none_or(|e| e <= known.indexed) {
                continue;
            }
            if read >= bytes_max {
                return Ok((read, false));
            }
            let (more, complete) = self.extend(id, bytes_max - read).await?;
            read += more;
            if !complete {
                return Ok((read, false));
            }
        }
        Ok((read, true))
    }

    /// Which segments there are.
    pub async fn list(&mut self) -> Result<()> {
        let mut segments = list_segments(&self.io, &self.dir).await?;
        segments.retain(|id, _| id.epoch <= self.epoch);
        if self.ends.is_none() {
            let ends = all_logged_ends(&self.io, &self.dir, self.database, &segments).await?;
            self.ends = Some(ends);
        }
        let ends = self.ends.as_ref().expect("they were just read");
        self.chains.retain(|id, _| segments.contains_key(id));
        for (id, mut segments) in segments {
            // The first segment may stay for the ends that it names.
            let gap = segments.windows(2).rposition(|pair| pair[0] + 1 < pair[1]);
            segments.drain(..gap.map_or(0, |at| at + 1));
            let first = Position::new(segments[0], 0);
            let known = self.chains.entry(id).or_insert_with(|| ChainIndex {
                chain: Chain {
                    id,
                    segments: Vec::new(),
                    end: ends.get(&id).copied(),
                },
                indexed: first,
                finished: false,
                lost: (first == Position::START).then_some(CommitTs(0)),
                blocks: VecDeque::new(),
            });
            known.chain.segments = segments;
            known.release_before(first);
        }
        Ok(())
    }

    /// Takes up more of one chain; gives the bytes and whether its present end was reached.
    async fn extend(&mut self, id: ChainId, bytes_max: u64) -> Result<(u64, bool)> {
        let known = &self.chains[&id];
        let mut reader = self.reader(id, known.indexed);
        let mut read = 0;
        let complete = loop {
            if read >= bytes_max {
                break false;
            }
            let Some(frame) = reader.next().await? else {
                break true;
            };
            read += u64::from(frame.end().offset() - frame.position().offset());
            let known = self.chains.get_mut(&id).expect("it is being read");
            known.take(&frame)?;
        };
        let known = self.chains.get_mut(&id).expect("it is being read");
        known.indexed = reader.end();
        known.finished = complete && id.epoch < self.epoch;
        reader.close().await?;
        Ok((read, complete))
    }

    /// Reads a chain from a frame on.
    pub fn reader(&self, id: ChainId, from: Position) -> ChainReader {
        let chain = &self.chains[&id].chain;
        let io = self.io.clone();
        ChainReader::new(io, &self.dir, self.database, chain, Some(from))
    }

    /// Whether the frame has not been released.
    pub fn holds(&self, id: ChainId, at: Position) -> bool {
        let chain = self.chains.get(&id);
        chain.is_some_and(|c| c.chain.segments.contains(&at.segment()))
    }

    /// The smallest timestamp from which on everything is there; see the module's header.
    pub fn complete_from(&self) -> CommitTs {
        let mut from = CommitTs(0);
        let oldest = self.chains.keys().next().map_or(1, |id| id.epoch);
        if oldest > 1 {
            from = from.max(self.first_stamp_from(oldest));
        }
        for (id, known) in &self.chains {
            let after_lost = || match known.lost {
                Some(CommitTs(0)) => CommitTs(0),
                Some(lost) => CommitTs(lost.0 + 1),
                None => {
                    let stamp = known.blocks.iter().find_map(|b| b.stamp);
                    stamp.unwrap_or_else(|| self.first_stamp_from(id.epoch + 1))
                }
            };
            from = from.max(after_lost());
            for block in &known.blocks {
                if block.prepared.is_some_and(|(id, at)| !self.holds(id, at)) {
                    from = from.max(CommitTs(block.max_ts.0 + 1));
                }
            }
        }
        let ends = self.ends.iter().flatten();
        for (id, _) in ends.filter(|(id, _)| id.epoch >= oldest) {
            if !self.chains.contains_key(id) {
                from = from.max(self.first_stamp_from(id.epoch + 1));
            }
        }
        from
    }

    /// The first stamp of the starts from `epoch` on, above which nothing of an earlier one is.
    fn first_stamp_from(&self, epoch: u32) -> CommitTs {
        let first = ChainId {
            epoch,
            core: nodedb_types::CoreId(0),
        };
        let stamps = |known: &ChainIndex| known.blocks.iter().find_map(|b| b.stamp);
        let later = self.chains.range(first..);
        let found = later.filter_map(|(id, known)| Some((id.epoch, stamps(known)?)));
        found.min().map_or(CommitTs(u64::MAX), |(_, stamp)| stamp)
    }

    /// The smallest timestamp that is kept of the newest `bytes` of log.
    pub fn kept_from(&self, bytes: u64) -> CommitTs {
        let blocks = || self.chains.values().flat_map(|c| &c.blocks);
        if blocks().map(|b| b.bytes).sum::<u64>() <= bytes {
            return CommitTs(0);
        }
        let mut newest_first: Vec<&Block> = blocks().collect();
        newest_first.sort_unstable_by_key(|b| std::cmp::Reverse(b.max_ts));
        let mut total = 0;
        for block in newest_first {
            total += block.bytes;
            if total > bytes && block.max_ts > CommitTs(0) {
                return CommitTs(block.max_ts.0 + 1);
            }
        }
        CommitTs(0)
    }
}

impl ChainIndex {
    /// Forgets what lies before `first`, where the segments that are left begin.
    fn release_before(&mut self, first: Position) {
        while let Some(block) = self.blocks.front().filter(|b| b.from < first) {
            self.lost = self.lost.map(|lost| lost.max(block.max_ts));
            self.blocks.pop_front();
        }
        if self.indexed < first {
            self.lost = None;
        }
        self.indexed = self.indexed.max(first);
    }

    /// Adds a frame to the last block, or begins another.
    fn take(&mut self, frame: &Frame) -> Result<()> {
        let at = frame.position();
        let open = self.blocks.back();
        let fits = |b: &Block| b.bytes < BLOCK_BYTES && b.from.segment() == at.segment();
        if !open.is_some_and(fits) {
            self.blocks.push_back(Block {
                from: at,
                to: at,
                bytes: 0,
                max_ts: CommitTs(0),
                min_ts: CommitTs(u64::MAX),
                bound: CommitTs(u64::MAX),
                stamp: None,
                prepared: None,
            });
        }
        let block = self.blocks.back_mut().expect("there is one");
        block.to = frame.end();
        block.bytes += u64::from(frame.end().offset() - at.offset());
        for record in frame.records() {
            let header = &record.header;
            block.stamp = block.stamp.or(stamp(header));
            if is_event(header) {
                block.min_ts = block.min_ts.min(header.commit_ts);
                block.max_ts = block.max_ts.max(header.commit_ts);
            }
            if header.kind == RecordKind::Decided {
                let prepared = PreparedAt::decode(header.shard, record.payload)?;
                let first = prepared.frames.iter().min();
                let first = first.map(|at| (prepared.chain, *at));
                block.prepared = [block.prepared, first].into_iter().flatten().min();
            }
        }
        let mut bound = block.min_ts;
        for block in self.blocks.iter_mut().rev() {
            if block.bound <= bound {
                break;
            }
            block.bound = bound;
            bound = bound.min(block.min_ts);
        }
        Ok(())
    }

    /// The first block that reaches beyond `position`.
    pub fn block_after(&self, position: Position) -> Option<&Block> {
        self.blocks
            .get(self.blocks.partition_point(|b| b.to <= position))
    }
}

/// Whether the record may hold events: rows of a user collection, or an outcome.
pub fn is_event(header: &RecordHeader) -> bool {
    match header.kind {
        RecordKind::Rows => !header.collection.is_system(),
        RecordKind::Decided => true,
        _ => false,
    }
}

/// What everything logged before the record is below.
fn stamp(header: &RecordHeader) -> Option<CommitTs> {
    match header.kind {
        // Taken for this record alone, in the turn in which it was appended.
        RecordKind::Rows => Some(header.commit_ts),
        // The clock of that turn, which may have been given to a commit before.
        RecordKind::Prepare if header.commit_ts > CommitTs(0) => {
            Some(CommitTs(header.commit_ts.0 + 1))
        }
        _ => None,
    }
}
