//! A shard's file: two roots in its first slots, pieces in the others.
//!
//! A checkpoint writes its pieces with a [`PieceWriter`], syncs, and then writes the root with the
//! next sequence number over the older of the two and syncs again; so the file always holds a
//! whole root whose pieces are whole, and a torn root leaves the one before. Bytes are in
//! `docs/format/store.md`; what the pieces mean is in `crate::shard::manifest`.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nodedb_types::{Failure, Result, ShardId, SqlState};

use super::leaves::{ENTRY_BYTES, GROUP, Group, Kept, Leaf, Leaves, Place};
use super::slots::{PIECE_BYTES_MAX, Piece, SLOT_BYTES, Shelf, SlotMap, Stored};
use crate::io::buf::round_up;
use crate::io::{AlignedBuf, Create, FileId, IoError, IoErrorKind, IoHandle, OpenMode};
use crate::pace::Budget;

/// Bytes written or read at a time: neighbouring pieces go together.
const WINDOW_BYTES: usize = 256 << 10;
/// Bytes that a unit pays for when they are copied and summed.
const BYTES_PER_UNIT: usize = 512;

/// Spends the units for copying and summing bytes, over as many turns as it takes.
pub async fn spend_bytes(budget: &Budget, bytes: usize) {
    if !budget.spend((bytes / BYTES_PER_UNIT) as u32 + 1) {
        budget.turn().await;
    }
}

/// What is found to be wrong with a shard's file: XX001.
pub fn damaged(shard: ShardId, what: &str) -> Failure {
    Failure::new(
        SqlState::DataCorrupted,
        format!("the store of shard {shard} is damaged: {what}"),
    )
}

/// The file of a shard, to be read.
pub struct OpenFile {
    pub shard: ShardId,
    pub io: Rc<IoHandle>,
    file: FileId,
}

impl OpenFile {
    /// A buffer that begins with the bytes of a piece. Fails with XX001 when they are not what was
    /// written.
    pub async fn read(&self, piece: Piece) -> Result<AlignedBuf> {
        let buf = self.io.buffer(piece.slots() as usize * SLOT_BYTES);
        let offset = u64::from(piece.slot) * SLOT_BYTES as u64;
        let (read, buf) = self.io.read(self.file, offset, buf).await;
        let whole = match read {
            Ok(len) => len >= piece.bytes as usize && piece.holds(&buf[..piece.bytes as usize]),
            Err(error) => {
                self.io.recycle(buf);
                return Err(error.into());
            }
        };
        if whole {
            return Ok(buf);
        }
        self.io.recycle(buf);
        Err(not_written(self.shard, piece))
    }
}

fn not_written(shard: ShardId, piece: Piece) -> Failure {
    let what = format!("slot {} does not hold what was written", piece.slot);
    damaged(shard, &what)
}

/// An open file of a shard.
pub struct StoreFile {
    pub shard: ShardId,
    io: Rc<IoHandle>,
    file: FileId,
    slots: RefCell<SlotMap>,
    shelf: Rc<Shelf>,
    /// Pieces were written since the last sync.
    is_unsynced: Cell<bool>,
}

/// The folder of the shards' files, `<data>/store`, made durably when it is missing.
pub async fn open_dir(io: &IoHandle, data_dir: &Path) -> Result<PathBuf> {
    let dir = data_dir.join("store");
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

fn path(dir: &Path, shard: ShardId) -> PathBuf {
    dir.join(format!("shard-{:03}.data", shard.0))
}

impl StoreFile {
    /// Makes the file of a shard that has none; its name is durable afterwards.
    pub async fn create(io: &Rc<IoHandle>, dir: &Path, shard: ShardId) -> Result<StoreFile> {
        // A file that an earlier try made and nobody named a root in is taken over.
        let mode = OpenMode {
            create: Create::IfMissing,
            ..OpenMode::WRITE
        };
        let file = io.open(path(dir, shard), mode.direct()).await?;
        io.sync_dir(dir).await?;
        Ok(StoreFile::new(io, file, shard))
    }

    /// Opens the file of a shard; `None` when there is none.
    pub async fn open(io: &Rc<IoHandle>, dir: &Path, shard: ShardId) -> Result<Option<StoreFile>> {
        match io.open(path(dir, shard), OpenMode::WRITE.direct()).await {
            Ok(file) => Ok(Some(StoreFile::new(io, file, shard))),
            Err(IoError {
                kind: IoErrorKind::NotFound,
                ..
            }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn new(io: &Rc<IoHandle>, file: FileId, shard: ShardId) -> StoreFile {
        StoreFile {
            shard,
            io: io.clone(),
            file,
            slots: RefCell::default(),
            shelf: Rc::new(Shelf::of(OpenFile {
                shard,
                io: io.clone(),
                file,
            })),
            is_unsynced: Cell::new(false),
        }
    }

    pub async fn close(self) -> Result<()> {
        Ok(self.io.close(self.file).await?)
    }

    /// The slots of the two roots as they are; shorter where the file is.
    pub async fn read_roots(&self) -> Result<[Vec<u8>; 2]> {
        let mut roots = [Vec::new(), Vec::new()];
        let buf = self.io.buffer(2 * SLOT_BYTES);
        let (read, buf) = self.io.read(self.file, 0, buf).await;
        let read = *read.as_ref().map_err(|e| *e)?;
        for (n, root) in roots.iter_mut().enumerate() {
            let from = (n * SLOT_BYTES).min(read);
            root.extend_from_slice(&buf[from..((n + 1) * SLOT_BYTES).min(read)]);
        }
        self.io.recycle(buf);
        Ok(roots)
    }

    /// Writes a root of at most a slot durably into the place of its sequence number.
    pub async fn write_root(&self, sequence: u64, root: &[u8]) -> Result<(), IoError> {
        assert!(!self.is_unsynced.get(), "a root names what is durable");
        let mut buf = self.io.buffer(SLOT_BYTES);
        buf.fill(0);
        buf[..root.len()].copy_from_slice(root);
        let offset = sequence % 2 * SLOT_BYTES as u64;
        let (written, buf) = self.io.write_synced(self.file, offset, buf).await;
        self.io.recycle(buf);
        written
    }

    /// Makes all that was written durable.
    pub async fn sync(&self) -> Result<(), IoError> {
        self.io.sync(self.file).await?;
        self.is_unsynced.set(false);
        Ok(())
    }

    /// Tells which slots the pieces of the root that was loaded take. Fails when two overlap.
    pub fn occupy(&self, pieces: Vec<Piece>) -> Result<()> {
        let map = SlotMap::around(pieces);
        *self.slots.borrow_mut() =
            map.ok_or_else(|| damaged(self.shard, "two pieces lie in one place"))?;
        Ok(())
    }

    /// Owns a piece that a loaded root names.
    pub fn own(&self, piece: Piece) -> Stored {
        Stored::new(piece, &self.shelf)
    }

    /// Takes the pieces that nobody needs since the last checkpoint began.
    pub fn take_shelf(&self) -> Vec<Piece> {
        self.shelf.take()
    }

    /// A checkpoint that took them did not end.
    pub fn put_back(&self, pieces: Vec<Piece>) {
        self.shelf.put_back(pieces);
    }

    /// Frees pieces that no durable root names any more.
    pub fn free(&self, pieces: &[Piece]) {
        let mut slots = self.slots.borrow_mut();
        pieces.iter().for_each(|&p| slots.release(p));
    }

    /// Bytes of the file up to its last piece, and how many of them are free.
    pub fn bytes(&self) -> (u64, u64) {
        let slots = self.slots.borrow();
        let bytes = |slots: u64| slots * SLOT_BYTES as u64;
        (bytes(u64::from(slots.end())), bytes(slots.free()))
    }

    fn allocate(&self, bytes: &[u8]) -> Result<Stored> {
        let mut piece = Piece {
            slot: 0,
            bytes: bytes.len() as u32,
            crc: crc32c::crc32c(bytes),
        };
        let slot = self.slots.borrow_mut().allocate(piece.slots());
        piece.slot = slot.ok_or_else(|| {
            Failure::new(SqlState::ProgramLimitExceeded, "a shard's file is full")
        })?;
        Ok(Stored::new(piece, &self.shelf))
    }
}

/// Writes pieces, neighbours together. What it has put is on its way until [`PieceWriter::flush`];
/// the leaves are marked as stored then, so after a failure they are simply written again.
pub struct PieceWriter<'a> {
    file: &'a StoreFile,
    budget: &'a Budget,
    buf: AlignedBuf,
    /// The slot at which the buffer begins, and how many it holds.
    first: u32,
    count: u32,
    /// The leaf that is being put.
    leaf: Vec<u8>,
    /// What is told once the buffer is written.
    then: Vec<Box<dyn FnOnce() + 'a>>,
    /// Bytes of pieces so far.
    written: u64,
}

impl<'a> PieceWriter<'a> {
    pub fn new(file: &'a StoreFile, budget: &'a Budget) -> PieceWriter<'a> {
        PieceWriter {
            file,
            budget,
            buf: file.io.buffer(WINDOW_BYTES),
            first: 0,
            count: 0,
            leaf: Vec::new(),
            then: Vec::new(),
            written: 0,
        }
    }

    pub fn budget(&self) -> &'a Budget {
        self.budget
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes bytes (1 to [`PIECE_BYTES_MAX`]) as a piece.
    pub async fn put(&mut self, bytes: &[u8]) -> Result<Stored> {
        assert!((1..=PIECE_BYTES_MAX).contains(&bytes.len()));
        spend_bytes(self.budget, bytes.len()).await;
        let stored = self.file.allocate(bytes)?;
        let piece = stored.piece();
        let used = self.count as usize * SLOT_BYTES;
        let padded = piece.slots() as usize * SLOT_BYTES;
        let follows = self.count > 0 && self.first + self.count == piece.slot;
        let (at, end) = if follows && used + padded <= self.buf.capacity() {
            (used, used + padded)
        } else {
            self.flush().await?;
            self.first = piece.slot;
            if padded > self.buf.capacity() {
                let small = std::mem::replace(&mut self.buf, self.file.io.buffer(padded));
                self.file.io.recycle(small);
            }
            (0, padded)
        };
        self.buf.set_len(end);
        self.buf[at..at + bytes.len()].copy_from_slice(bytes);
        self.buf[at + bytes.len()..].fill(0);
        self.count = piece.slot + piece.slots() - self.first;
        self.written += bytes.len() as u64;
        Ok(stored)
    }

    /// Writes any number of bytes as pieces.
    pub async fn put_all(&mut self, bytes: &[u8]) -> Result<Vec<Stored>> {
        let mut all = Vec::new();
        for part in bytes.chunks(WINDOW_BYTES) {
            all.push(self.put(part).await?);
        }
        Ok(all)
    }

    /// Writes what has been put. Not durable before [`StoreFile::sync`].
    pub async fn flush(&mut self) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let buf = std::mem::take(&mut self.buf);
        self.file.is_unsynced.set(true);
        let offset = u64::from(self.first) * SLOT_BYTES as u64;
        let (written, buf) = self.file.io.write(self.file.file, offset, buf).await;
        self.buf = buf;
        self.count = 0;
        let then = std::mem::take(&mut self.then);
        written?;
        then.into_iter().for_each(|tell| tell());
        Ok(())
    }

    /// Writes the leaves that are not stored, and the tables of their groups: the groups with
    /// their tables' pieces.
    pub async fn put_leaves<L: Leaf>(&mut self, leaves: &Leaves<L>) -> Result<Vec<(u32, Piece)>> {
        let mut tables = Vec::new();
        for (number, group) in leaves.groups() {
            let piece = match group.mark.piece() {
                Some(piece) => piece,
                None => self.put_group(group).await?,
            };
            tables.push((number, piece));
            if !self.budget.spend(1) {
                self.budget.turn().await;
            }
        }
        Ok(tables)
    }

    async fn put_group<L: Leaf>(&mut self, group: &Rc<Group<L>>) -> Result<Piece> {
        let mut table = Vec::new();
        for place in group.places() {
            let Some((kept, note)) = place else {
                table.extend_from_slice(&[0; ENTRY_BYTES]);
                continue;
            };
            let piece = match kept.piece() {
                Some(piece) => piece,
                None => self.put_leaf(kept).await?,
            };
            piece.encode(&mut table);
            table.extend_from_slice(&note.to_le_bytes());
        }
        let stored = self.put(&table).await?;
        let piece = stored.piece();
        let group = group.clone();
        self.then.push(Box::new(move || group.mark.set(stored)));
        Ok(piece)
    }

    async fn put_leaf<L: Leaf>(&mut self, kept: &Rc<Kept<L>>) -> Result<Piece> {
        let mut bytes = std::mem::take(&mut self.leaf);
        bytes.clear();
        kept.encode(&mut bytes);
        let stored = self.put(&bytes).await;
        self.leaf = bytes;
        let stored = stored?;
        let piece = stored.piece();
        let kept = kept.clone();
        self.then.push(Box::new(move || kept.set_stored(stored)));
        Ok(piece)
    }
}

impl Drop for PieceWriter<'_> {
    fn drop(&mut self) {
        self.file.io.recycle(std::mem::take(&mut self.buf));
    }
}

/// Reads pieces, each checked against its sum.
pub struct PieceReader<'a> {
    file: &'a StoreFile,
    budget: &'a Budget,
    window: AlignedBuf,
    /// Where the window begins in the file.
    start: u64,
    /// All that was read, for [`StoreFile::occupy`].
    seen: Vec<Piece>,
}

impl<'a> PieceReader<'a> {
    pub fn new(file: &'a StoreFile, budget: &'a Budget) -> PieceReader<'a> {
        PieceReader {
            file,
            budget,
            window: AlignedBuf::default(),
            start: 0,
            seen: Vec::new(),
        }
    }

    /// Ends the reading: every piece that was read is in use.
    pub fn finish(mut self) -> Result<()> {
        self.file.occupy(std::mem::take(&mut self.seen))
    }

    /// The bytes of a piece. Fails with XX001 when they are not what was written.
    pub async fn get(&mut self, piece: Piece) -> Result<&[u8]> {
        let len = piece.bytes as usize;
        spend_bytes(self.budget, len).await;
        self.seen.push(piece);
        let offset = u64::from(piece.slot) * SLOT_BYTES as u64;
        let loaded = self.start..self.start + self.window.len() as u64;
        if !(loaded.contains(&offset) && offset + len as u64 <= loaded.end) {
            self.fill(offset, len.max(WINDOW_BYTES)).await?;
        }
        let at = (offset - self.start) as usize;
        let bytes = self.window.get(at..at + len);
        bytes
            .filter(|b| piece.holds(b))
            .ok_or_else(|| not_written(self.file.shard, piece))
    }

    async fn fill(&mut self, offset: u64, len: usize) -> Result<()> {
        let len = round_up(len);
        let mut buf = std::mem::take(&mut self.window);
        if buf.capacity() < len {
            self.file.io.recycle(buf);
            buf = self.file.io.buffer(len);
        }
        buf.set_len(len);
        let (read, mut buf) = self.file.io.read(self.file.file, offset, buf).await;
        buf.set_len(*read.as_ref().unwrap_or(&0));
        self.window = buf;
        self.start = offset;
        read?;
        Ok(())
    }

    /// The bytes of several pieces one after the other.
    pub async fn get_all(&mut self, pieces: &[Piece]) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        for &piece in pieces {
            all.extend_from_slice(self.get(piece).await?);
        }
        Ok(all)
    }

    /// Leaves from the tables of their groups: all of an owner whose leaves stay in memory, else
    /// as many as there is room for.
    pub async fn get_leaves<L: Leaf>(
        &mut self,
        tables: &[(u32, Piece)],
        mut leaves: Leaves<L>,
    ) -> Result<Leaves<L>> {
        for &(number, table) in tables {
            let entries = self.get(table).await?.to_vec();
            let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
            if !rest.is_empty() || entries.len() > GROUP {
                return Err(damaged(
                    self.file.shard,
                    "a table of leaves has no such length",
                ));
            }
            let mut places = Vec::with_capacity(entries.len());
            for entry in entries {
                places.push(self.get_leaf(entry, &leaves).await?);
            }
            leaves.restore(number, self.file.own(table), places);
        }
        Ok(leaves)
    }

    async fn get_leaf<L: Leaf>(
        &mut self,
        entry: &[u8; ENTRY_BYTES],
        leaves: &Leaves<L>,
    ) -> Result<Place<L>> {
        if *entry == [0; ENTRY_BYTES] {
            return Ok(None);
        }
        let (piece, note) = entry.split_at(Piece::ENCODED);
        let shard = self.file.shard;
        let nonsense = || damaged(shard, "a table of leaves names none");
        let piece = Piece::decode(piece).ok_or_else(nonsense)?;
        let note = u32::from_le_bytes(note.try_into().expect("four bytes are left"));
        let leaf = if leaves.wants() {
            Some(L::of_bytes(self.get(piece).await?).ok_or_else(nonsense)?)
        } else {
            self.seen.push(piece);
            if !self.budget.spend(1) {
                self.budget.turn().await;
            }
            None
        };
        Ok(Some((leaves.stored(leaf, self.file.own(piece)), note)))
    }
}

impl Drop for PieceReader<'_> {
    fn drop(&mut self) {
        self.file.io.recycle(std::mem::take(&mut self.window));
    }
}
