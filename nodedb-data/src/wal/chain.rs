//! The chains that a directory holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::codec::{ChainEnd, ChainId, Position, RecordKind};
use super::error::WalError;
use super::reader::ChainReader;
use super::segment::{parse_segment_name, segment_name};
use crate::io::{IoError, IoErrorKind, IoHandle};

/// One chain: its segments and, once a newer chain has logged it, its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    pub id: ChainId,
    /// Numbers of the segments that exist, ascending.
    pub segments: Vec<u32>,
    /// The end that binds. None: to be found by reading.
    pub end: Option<Position>,
}

/// The log's directory of a data directory, `<data>/wal`, made durably when it is missing.
pub async fn open_dir(io: &IoHandle, data_dir: &Path) -> Result<PathBuf, WalError> {
    let dir = data_dir.join("wal");
    match io.create_dir(&*dir).await {
        Ok(())
        | Err(IoError {
            kind: IoErrorKind::Exists,
            ..
        }) => {}
        Err(error) => return Err(error.into()),
    }
    io.sync_dir(data_dir).await?;
    Ok(dir)
}

/// Lists the chains of a directory, ordered by epoch and core, with the ends that are logged.
///
/// Fails with [`WalError::Corrupt`] when two chains name different ends of a third.
pub async fn scan_chains(
    io: &Rc<IoHandle>,
    dir: &Path,
    database: u64,
) -> Result<Vec<Chain>, WalError> {
    let segments = list_segments(io, dir).await?;
    let ends = all_logged_ends(io, dir, database, &segments).await?;
    let chain = |(id, segments)| Chain {
        id,
        segments,
        end: ends.get(&id).copied(),
    };
    Ok(segments.into_iter().map(chain).collect())
}

/// The segments that exist, by chain, ascending.
pub async fn list_segments(
    io: &Rc<IoHandle>,
    dir: &Path,
) -> Result<BTreeMap<ChainId, Vec<u32>>, WalError> {
    let mut segments: BTreeMap<ChainId, Vec<u32>> = BTreeMap::new();
    for name in io.list_dir(dir).await? {
        if let Some((chain, segment)) = parse_segment_name(&name) {
            segments.entry(chain).or_default().push(segment);
        }
    }
    segments.values_mut().for_each(|all| all.sort_unstable());
    Ok(segments)
}

/// The ends that the chains log of older ones, those included that are wholly released.
///
/// Fails with [`WalError::Corrupt`] when two chains name different ends of a third.
pub async fn all_logged_ends(
    io: &Rc<IoHandle>,
    dir: &Path,
    database: u64,
    segments: &BTreeMap<ChainId, Vec<u32>>,
) -> Result<BTreeMap<ChainId, Position>, WalError> {
    let mut ends: BTreeMap<ChainId, Position> = BTreeMap::new();
    for (&id, segments) in segments {
        let chain = Chain {
            id,
            segments: segments.clone(),
            end: None,
        };
        for ChainEnd { chain, end } in logged_ends(io, dir, database, &chain).await? {
            if *ends.entry(chain).or_insert(end) != end {
                let what = "two newer chains name different ends of it";
                return Err(WalError::Corrupt {
                    chain,
                    position: end,
                    what,
                });
            }
        }
    }
    Ok(ends)
}

/// The ends of older chains that a chain begins with.
async fn logged_ends(
    io: &Rc<IoHandle>,
    dir: &Path,
    database: u64,
    chain: &Chain,
) -> Result<Vec<ChainEnd>, WalError> {
    let mut ends = Vec::new();
    if chain.segments.first() != Some(&0) {
        return Ok(ends);
    }
    let mut reader = ChainReader::new(Rc::clone(io), dir, database, chain, None);
    let mut leading = true;
    while leading {
        let Some(frame) = reader.next_valid().await? else {
            break;
        };
        for record in frame.records() {
            leading &= record.header.kind == RecordKind::ChainEnd;
            if leading {
                let what = "it names the end of an older chain in bytes that are none";
                let end = ChainEnd::decode(record.payload);
                ends.push(end.ok_or(WalError::Corrupt {
                    chain: chain.id,
                    position: frame.position(),
                    what,
                })?);
            }
        }
    }
    reader.close().await?;
    Ok(ends)
}

/// The epoch of a start that finds these chains: above all of them.
pub fn next_epoch(chains: &[Chain]) -> u32 {
    chains.iter().map(|chain| chain.id.epoch).max().unwrap_or(0) + 1
}

/// The same, from the names of the files in the log's folder; for whoever starts the cores.
pub fn epoch_after(names: &[String]) -> u32 {
    let epochs = names.iter().filter_map(|name| parse_segment_name(name));
    epochs.map(|(chain, _)| chain.epoch).max().unwrap_or(0) + 1
}

impl Chain {
    /// Where a reader of all that is kept begins. The first segment may stand alone: it stays for
    /// the ends that it names when those behind it are gone, and what else it holds is then as
    /// little needed as they were.
    pub fn beginning(&self) -> Position {
        match self.segments[..] {
            [0, next, ..] if next > 1 => Position::new(next, 0),
            [first, ..] => Position::new(first, 0),
            [] => Position::START,
        }
    }

    /// Removes segments that begin at or behind the chain's end: prepared and never used, or of a
    /// torn tail. Only after the end has been logged in every new chain. Returns how many.
    pub async fn trim(&mut self, io: &IoHandle, dir: &Path) -> Result<usize, WalError> {
        let end = self
            .end
            .expect("the end of a chain that is trimmed has been logged");
        self.remove(io, dir, |segment| Position::new(segment, 0) >= end)
            .await
    }

    /// Removes segments that lie wholly before `position`, of an older chain that nothing needs so
    /// far back; all of them when that is behind the chain's last. Returns how many.
    ///
    /// The first segment of a chain names the ends of the chains before it: it is kept while
    /// `names_ends`, so chains are released oldest first.
    pub async fn release_before(
        &mut self,
        io: &IoHandle,
        dir: &Path,
        position: Position,
        names_ends: bool,
    ) -> Result<usize, WalError> {
        self.remove(io, dir, |segment| {
            segment < position.segment() && !(names_ends && segment == 0)
        })
        .await
    }

    /// Removes the whole chain.
    pub async fn release(&mut self, io: &IoHandle, dir: &Path) -> Result<usize, WalError> {
        self.remove(io, dir, |_| true).await
    }

    async fn remove(
        &mut self,
        io: &IoHandle,
        dir: &Path,
        unneeded: impl Fn(u32) -> bool,
    ) -> Result<usize, WalError> {
        let before = self.segments.len();
        for segment in self.segments.clone() {
            if unneeded(segment) {
                io.unlink(dir.join(segment_name(self.id, segment))).await?;
                self.segments.retain(|&kept| kept != segment);
            }
        }
        let removed = before - self.segments.len();
        if removed > 0 {
            io.sync_dir(dir).await?;
        }
        Ok(removed)
    }
}
