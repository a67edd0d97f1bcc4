//! Why the log refused or failed.

use nodedb_types::limits::WAL_FRAME_BYTES_MAX;
use nodedb_types::{Failure, SqlState};

use super::codec::{ChainId, Position};
use crate::io::IoError;

/// A failure of the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// The disk is full: what was not durable is abandoned, later appends may succeed.
    #[error("no space for the log")]
    NoSpace,
    /// The records of one statement do not fit a frame.
    #[error("the records of one statement take {bytes} bytes")]
    TooLarge { bytes: usize },
    /// The open group is full: wait for [`super::Wal::room`] and append again.
    #[error("the log's open group is full")]
    Full,
    /// A write or sync failed; the log takes nothing more until the restart.
    #[error("the log failed: {0}")]
    Latched(IoError),
    /// Reading, listing or preparing files failed at start.
    #[error("{0}")]
    Io(#[from] IoError),
    /// Bytes that were durable are no longer valid.
    #[error("chain {chain} is damaged at {position}: {what}")]
    Corrupt {
        chain: ChainId,
        position: Position,
        what: &'static str,
    },
}

impl From<WalError> for Failure {
    fn from(error: WalError) -> Failure {
        match error {
            WalError::NoSpace => Failure::new(SqlState::DiskFull, "the disk is full")
                .with_hint("Free some space; reads go on, writes resume when there is space."),
            WalError::TooLarge { bytes } => Failure::new(
                SqlState::ProgramLimitExceeded,
                "the statement changes too much at once",
            )
            .with_detail(format!(
                "Its log records take {bytes} bytes, the limit is {WAL_FRAME_BYTES_MAX}."
            ))
            .with_hint("Split it into smaller statements."),
            WalError::Full => Failure::new(
                SqlState::ProgramLimitExceeded,
                "too many writes are waiting",
            )
            .retryable(),
            WalError::Latched(cause) => Failure::new(
                SqlState::ReadOnly,
                "the node is read-only after a failed write",
            )
            .with_detail(cause.to_string())
            .with_hint("Restart the server once the disk works again."),
            WalError::Io(error) => error.into(),
            WalError::Corrupt { .. } => Failure::new(SqlState::DataCorrupted, "the log is damaged")
                .with_detail(error.to_string()),
        }
    }
}
