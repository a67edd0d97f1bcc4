//! Images: what a checkpoint writes of an index, and how a restart brings the index back.
//!
//! **Freezing.** Between two commits the checkpoint calls [`super::Engine::freeze`] of every index
//! in one turn. The engine answers at once with a [`Frozen`]: a small header and parts that share
//! memory with the index (`Rc`). Nothing large is copied there; what goes on changing is copied
//! before it is changed (`Rc::make_mut`, about 1 MiB in a turn at most). The parts are written in
//! later turns while the index changes on, and must go on yielding what they held at the freeze.
//!
//! **Parts.** A part has an id. While the index lives, over restarts too, the same id stands for
//! the same bytes, so a part whose id the last checkpoint has is neither asked nor written again.
//! Immutable runs are parts of their own; what changes with every commit (dead rows, the tail) is
//! kept small and gets a new id whenever it differs. An engine keeps the next id in its header.
//!
//! **Thawing.** At a start the engine is opened empty, gets its header with
//! [`super::Engine::thaw`], then each part, in the order of [`Frozen::parts`], with
//! [`super::Engine::poll_thaw_part`], and the rest of the log with `apply`. Afterwards it is equal
//! to the index that was frozen, and its next freeze names unchanged parts by the same ids.
//!
//! The store checksums every byte that it keeps; engines need not. Formats are little-endian and
//! begin with a version in the header. Bytes that do not make sense are XX001 ([`malformed`]),
//! never a panic, and a length is believed only as far as there are bytes.

use std::rc::Rc;
use std::task::Poll;

use nodedb_types::{Failure, Result, SqlState};

use crate::pace::Turn;
use crate::store::page::FrozenPages;

/// Longest header of an image, bytes.
pub const IMAGE_HEADER_BYTES_MAX: usize = 64 << 10;
/// What [`FrozenPart::poll_write`] appends at a time, bytes, give or take an entry.
pub const PART_PIECE_BYTES: usize = 64 << 10;

/// An index as it was between two commits.
pub struct Frozen {
    /// Version of the format, counts, parameters: all that is not worth a part. At most
    /// [`IMAGE_HEADER_BYTES_MAX`].
    pub header: Vec<u8>,
    /// In the order in which they come back. Their ids differ.
    pub parts: Vec<Rc<dyn FrozenPart>>,
    /// The pages of an index that is made of pages.
    pub pages: Option<FrozenPages>,
}

impl Frozen {
    pub fn new(header: Vec<u8>, parts: Vec<Rc<dyn FrozenPart>>) -> Frozen {
        Frozen {
            header,
            parts,
            pages: None,
        }
    }

    /// With pages, of which the checkpoint writes those that changed. They come back, after the
    /// header and before the parts, with [`super::Engine::thaw_pages`].
    #[must_use]
    pub fn with_pages(self, pages: FrozenPages) -> Frozen {
        Frozen {
            pages: Some(pages),
            ..self
        }
    }
}

/// A piece of an image that is written as a whole, or not at all when it is on disk already.
pub trait FrozenPart {
    /// Stands for these bytes as long as the index lives.
    fn id(&self) -> u64;

    /// Appends the next bytes to `out`, about [`PART_PIECE_BYTES`], and moves `cursor`, which is 0
    /// at first and otherwise the part's own business. True when more is to come. `Pending` when
    /// the turn's budget is spent; what was appended until then counts. A unit pays for about
    /// 512 bytes copied.
    fn poll_write(
        &self,
        cursor: &mut u64,
        out: &mut Vec<u8>,
        turn: &Turn<'_>,
    ) -> Poll<Result<bool>>;
}

/// A part as it comes back.
pub struct ThawPart<'a> {
    /// Its place in [`Frozen::parts`].
    pub number: usize,
    pub id: u64,
    /// All its bytes. The engine may keep them.
    pub bytes: &'a Rc<Vec<u8>>,
}

/// An image that does not make sense: XX001.
pub fn malformed(what: &str) -> Failure {
    Failure::new(
        SqlState::DataCorrupted,
        format!("the image of an index is malformed: {what}"),
    )
}
