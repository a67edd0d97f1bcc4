//! Segment files: names, sizes, and how one is made ready before it is needed.
//!
//! A segment is written with zeros to its full length, synced, and its name made durable before
//! the first frame goes into it. From then on a commit changes bytes that exist, which costs the
//! file system nothing but the device's own flush.

use std::path::{Path, PathBuf};

use nodedb_types::CoreId;
use nodedb_types::limits::WAL_FRAME_BYTES_MAX;

use super::codec::ChainId;
use crate::io::{FileId, IoError, IoErrorKind, IoHandle, OpenMode};

/// Zeros written at a time: small, so that a commit's write waits behind little.
const ZERO_BYTES: usize = 256 << 10;

/// Where and as what a core writes its log.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// The directory of the segments; see [`super::open_dir`].
    pub dir: PathBuf,
    /// Of the database that the log belongs to: frames of another one are never read.
    pub database: u64,
    pub chain: ChainId,
    /// Length of the first segment, bytes, a multiple of 4096; each next one is twice as long. A
    /// shorter one than the longest frame shortens that too.
    pub first_segment_bytes: u32,
    /// Length at which that stops, bytes.
    pub segment_bytes_max: u32,
}

impl WalConfig {
    /// The usual sizes: 1 MiB first, doubling to 64 MiB.
    pub fn new(dir: PathBuf, database: u64, chain: ChainId) -> WalConfig {
        WalConfig {
            dir,
            database,
            chain,
            first_segment_bytes: WAL_FRAME_BYTES_MAX as u32,
            segment_bytes_max: 64 << 20,
        }
    }

    /// Longest frame of the chain, bytes with its header.
    pub(super) fn frame_bytes_max(&self) -> usize {
        WAL_FRAME_BYTES_MAX.min(self.first_segment_bytes as usize)
    }

    /// Length of segment number `segment`, bytes.
    pub(super) fn segment_bytes(&self, segment: u32) -> u32 {
        let doublings = segment.min(31);
        let bytes = u64::from(self.first_segment_bytes) << doublings;
        bytes.min(u64::from(self.segment_bytes_max)) as u32
    }

    pub(super) fn segment_path(&self, segment: u32) -> PathBuf {
        self.dir.join(segment_name(self.chain, segment))
    }

    /// Makes segment number `segment` ready for frames. What a failure left is removed again.
    pub(super) async fn prepare(&self, io: &IoHandle, segment: u32) -> Result<FileId, IoError> {
        let path = self.segment_path(segment);
        let file = io.open(&*path, OpenMode::CREATE_NEW.direct()).await?;
        match fill(io, file, &self.dir, self.segment_bytes(segment)).await {
            Ok(()) => Ok(file),
            Err(error) => {
                // Nothing durable depends on the file yet. If it cannot be removed either, the
                // next try finds its name taken and says so.
                io.close(file).await?;
                io.unlink(path).await?;
                Err(error)
            }
        }
    }
}

async fn fill(io: &IoHandle, file: FileId, dir: &Path, bytes: u32) -> Result<(), IoError> {
    match io.allocate(file, u64::from(bytes)).await {
        Err(IoError {
            kind: IoErrorKind::Os(libc::EOPNOTSUPP),
            ..
        }) => {}
        result => result?,
    }
    let mut buf = io.buffer(ZERO_BYTES);
    buf.fill(0);
    let mut offset = 0;
    while offset < bytes as usize {
        buf.set_len(ZERO_BYTES.min(bytes as usize - offset));
        let (result, back) = io.write(file, offset as u64, buf).await;
        buf = back;
        if let Err(error) = result {
            io.recycle(buf);
            return Err(error);
        }
        offset += buf.len();
    }
    io.recycle(buf);
    io.sync(file).await?;
    io.sync_dir(dir).await
}

pub(super) fn segment_name(chain: ChainId, segment: u32) -> String {
    format!(
        "wal-{:08}-{:05}-{segment:08}.log",
        chain.epoch, chain.core.0
    )
}

/// The chain and segment that a file's name stands for; None for other files.
pub(super) fn parse_segment_name(name: &str) -> Option<(ChainId, u32)> {
    let mut parts = name.strip_prefix("wal-")?.strip_suffix(".log")?.split('-');
    let (epoch, core, segment) = (parts.next()?, parts.next()?, parts.next()?);
    let chain = ChainId {
        epoch: epoch.parse().ok()?,
        core: CoreId(core.parse().ok()?),
    };
    let segment = segment.parse().ok()?;
    // Only the one way of writing each number is a name of ours.
    (parts.next().is_none() && segment_name(chain, segment) == name).then_some((chain, segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_not() {
        let chain = ChainId {
            epoch: 12,
            core: CoreId(3),
        };
        let name = segment_name(chain, 7);
        assert_eq!(name, "wal-00000012-00003-00000007.log");
        assert_eq!(parse_segment_name(&name), Some((chain, 7)));
        let big = segment_name(
            ChainId {
                epoch: u32::MAX,
                core: CoreId(u16::MAX),
            },
            u32::MAX,
        );
        assert!(parse_segment_name(&big).is_some());
        for other in [
            "wal-12-3-7.log",
            "wal-00000012-00003-00000007.tmp",
            "wal-00000012-00003-00000007-1.log",
            "wal-+0000012-00003-00000007.log",
            "wal-00000012-99999-00000007.log",
            "manifest",
            "",
        ] {
            assert_eq!(parse_segment_name(other), None, "{other}");
        }
    }

    #[test]
    fn segments_double_up_to_the_limit() {
        let chain = ChainId {
            epoch: 1,
            core: CoreId(0),
        };
        let config = WalConfig::new(PathBuf::new(), 1, chain);
        let sizes: Vec<u32> = (0..8)
            .map(|segment| config.segment_bytes(segment) >> 20)
            .collect();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(config.segment_bytes(u32::MAX), 64 << 20);
    }
}
