//! The write-ahead log of a core: nothing is acknowledged or visible before it is durable here (W1).
//!
//! Each core writes one **chain** of segment files per start of the server, named
//! `wal-{epoch}-{core}-{segment}.log` in `<data>/wal/`. Segments are written with zeros ahead of
//! need and used with direct I/O, so that a commit is one write and one fdatasync that change no
//! metadata. The bytes are in [`codec`] and in `docs/format/wal.md`.
//!
//! * **Writing** ([`Wal`]). [`Wal::append`] collects the records of a statement into the open
//!   *frame*; [`Wal::flush`] writes what was collected and syncs it, while the next frames
//!   accumulate. A frame is the unit of validity: one checksum, up to 1 MiB, the records of one or
//!   several statements, valid whole or not at all. What a statement wants to happen when it is
//!   durable is handed to `append` and comes back as [`Durable`], which only a finished flush can
//!   make: acknowledging early does not compile.
//! * **Failing.** A full disk abandons everything that was appended and is not durable, in flight
//!   or not, because later records build on earlier ones; the log stays usable and the next append
//!   may find space. Any other failed write and any failed sync latches the log until the restart.
//! * **Reading** ([`scan_chains`], [`ChainReader`]). A chain is valid frames end to end. A bad
//!   frame is corruption when a later valid frame names a durable position beyond it, and the torn
//!   tail otherwise, whatever lies behind it (W3). At a start the end that was found in each older
//!   chain is logged in every new chain before any other record ([`ChainEnd`]); from then on that
//!   end binds, and what lies behind it is never read again.
//! * **Sealing.** Each frame names the durable end known when it was written, so the newest frames
//!   are named by none. An idle core therefore writes one small frame more ([`Wal::seal`]).
//!
//! LSNs, their gaps and what the payloads mean belong to the core; clock and disk are handed in.

mod chain;
pub mod codec;
mod durable;
mod error;
mod group;
mod reader;
mod segment;
mod signal;
mod writer;

pub use chain::{
    Chain, all_logged_ends, epoch_after, list_segments, next_epoch, open_dir, scan_chains,
};
pub use codec::{ChainEnd, ChainId, Position, Record, RecordHeader, RecordKind};
pub use durable::Durable;
pub use error::WalError;
pub use reader::{ChainReader, Frame};
pub use segment::WalConfig;
pub use writer::{FlushFailed, Refused, Wal, WalStats};

#[cfg(test)]
mod tests;
