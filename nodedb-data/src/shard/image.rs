//! A shard's checkpoint: frozen in one turn, written in many, read back at a start.
//!
//! [`Shard::freeze`] is called between two commits and costs some pointers a table. The frozen
//! shard is written by [`FrozenShard::write`] while the shard changes on: first what is not stored
//! yet, then the manifest, then, after a sync, the root. [`load`] reads a shard back from the root
//! that counts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;

use nodedb_bridge::plan::Extent;
use nodedb_types::{Collection, CommitTs, Index, IndexId, Lsn, Result, TxnId};

use super::Shard;
use super::manifest::{ImageEntry, IndexEntry, Manifest, Root, TableEntry};
use super::table::{Table, TableIndex};
use crate::engine::image::{IMAGE_HEADER_BYTES_MAX, PART_PIECE_BYTES};
use crate::engine::{Frozen, FrozenPart, ThawPart};
use crate::io::IoHandle;
use crate::pace::Budget;
use crate::store::file::{PieceReader, PieceWriter, StoreFile, damaged};
use crate::store::key_index::KeyIndex;
use crate::store::leaves::Leaves;
use crate::store::location::{Chunk, LocationTable};
use crate::store::page::{FrozenPages, PageId, PageStore};
use crate::store::residency::Owner;
use crate::store::row_log::{RowLog, Segment};
use crate::store::slots::{Piece, Stored};
use crate::wal::{ChainId, Position};

/// Bytes of a part that are gathered before they are written.
const PART_BYTES: usize = 256 << 10;
/// Pieces freed in a row, and units for each.
const FREED_AT_A_TIME: usize = 128;
const FREE_UNITS: u32 = 2;

/// What is on disk of a shard.
#[derive(Default)]
pub struct Store {
    file: RefCell<Option<Rc<StoreFile>>>,
    sequence: Cell<u64>,
    /// The manifest of the last checkpoint.
    manifest: RefCell<Vec<Stored>>,
    /// The parts of index images that it names.
    parts: RefCell<Parts>,
}

type Parts = HashMap<IndexId, HashMap<u64, Rc<Vec<Stored>>>>;

/// Which checkpoint is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub database: u64,
    pub clock: CommitTs,
    pub chain: ChainId,
    /// Where a start has to read the chain from.
    pub from: Position,
}

/// A shard as it was between two commits.
pub struct FrozenShard {
    lsn: Lsn,
    open: Vec<TxnId>,
    leases: Vec<Extent>,
    segments: Leaves<Segment>,
    next_segment: u32,
    tables: Vec<FrozenTable>,
    mark: Mark,
}

struct FrozenTable {
    collection: Arc<Collection>,
    emit: Option<NonZeroU64>,
    dropped: bool,
    extents: Vec<(Extent, u32)>,
    keys: (PageId, usize),
    pages: FrozenPages,
    locations: Leaves<Chunk>,
    indexes: Vec<(Arc<Index>, Option<Frozen>)>,
}

impl Table {
    fn freeze(&self) -> Result<FrozenTable> {
        let dropped = self.is_dropped();
        let mut indexes = Vec::new();
        for index in self.indexes.borrow().iter().filter(|_| !dropped) {
            // One that is not public yet becomes so by a record behind this checkpoint, or goes.
            let image = match index.built.get() == u32::MAX {
                true => index.engine.borrow_mut().freeze()?,
                false => None,
            };
            indexes.push((index.definition.clone(), image));
        }
        Ok(FrozenTable {
            collection: self.collection(),
            emit: self.emit.get(),
            dropped,
            extents: self.extents.borrow().held().to_vec(),
            keys: self.keys.borrow().parts(),
            pages: self.pages.borrow().freeze(),
            locations: self.locations.borrow().freeze(),
            indexes,
        })
    }
}

impl Shard {
    /// The shard as it is now: no commit may be half applied. `leases` are those of the whole
    /// database, on shard 0.
    pub fn freeze(&self, mark: Mark, open: Vec<TxnId>, leases: &[Extent]) -> Result<FrozenShard> {
        let (segments, next_segment) = self.log.borrow().freeze();
        let mut dropping = self.dropping.borrow_mut();
        dropping.retain(|table| table.strong_count() > 0);
        let dropped: Vec<_> = dropping.iter().filter_map(Weak::upgrade).collect();
        let live = self.tables();
        let tables = live.iter().chain(&dropped).map(|t| t.freeze());
        Ok(FrozenShard {
            lsn: self.applied_lsn.get(),
            open,
            leases: leases.to_vec(),
            segments,
            next_segment,
            tables: tables.collect::<Result<_>>()?,
            mark,
        })
    }

    /// Pages and other bytes of the shard's file, and how many of them are free.
    pub fn store_bytes(&self) -> (u64, u64) {
        let file = self.store.file.borrow();
        file.as_ref().map_or((0, 0), |f| f.bytes())
    }

    /// The shard's file, made when there is none.
    async fn store_file(&self, io: &Rc<IoHandle>, dir: &Path) -> Result<Rc<StoreFile>> {
        if let Some(file) = &*self.store.file.borrow() {
            return Ok(file.clone());
        }
        let file = Rc::new(StoreFile::create(io, dir, self.id).await?);
        *self.store.file.borrow_mut() = Some(file.clone());
        Ok(file)
    }

    /// Writes a frozen state of the shard; it is the shard's checkpoint when this returns. Gives
    /// the bytes written. On failure the last checkpoint counts as before: 53100 when the disk is
    /// full, 58030 when it failed.
    pub async fn write_checkpoint(
        &self,
        frozen: FrozenShard,
        io: &Rc<IoHandle>,
        dir: &Path,
        budget: &Budget,
    ) -> Result<u64> {
        let file = self.store_file(io, dir).await?;
        let freed = file.take_shelf();
        let written = self.write_pieces(&file, &frozen, budget).await;
        drop(frozen);
        match written {
            Ok(bytes) => {
                for pieces in freed.chunks(FREED_AT_A_TIME) {
                    file.free(pieces);
                    if !budget.spend(FREED_AT_A_TIME as u32 * FREE_UNITS) {
                        budget.turn().await;
                    }
                }
                Ok(bytes)
            }
            Err(failure) => {
                file.put_back(freed);
                Err(failure)
            }
        }
    }

    async fn write_pieces(
        &self,
        file: &StoreFile,
        frozen: &FrozenShard,
        budget: &Budget,
    ) -> Result<u64> {
        let mut writer = PieceWriter::new(file, budget);
        let old = self.store.parts.take();
        let mut parts = Parts::new();
        let written = write_manifest(&mut writer, frozen, &old, &mut parts).await;
        let manifest = match written {
            Ok(manifest) => manifest,
            Err(failure) => {
                *self.store.parts.borrow_mut() = old;
                return Err(failure);
            }
        };
        let ended = self.write_root(file, frozen, &manifest).await;
        if let Err(error) = ended {
            *self.store.parts.borrow_mut() = old;
            return Err(error);
        }
        *self.store.parts.borrow_mut() = parts;
        *self.store.manifest.borrow_mut() = manifest;
        Ok(writer.written())
    }

    async fn write_root(
        &self,
        file: &StoreFile,
        frozen: &FrozenShard,
        manifest: &[Stored],
    ) -> Result<()> {
        let mark = &frozen.mark;
        let sequence = self.store.sequence.get() + 1;
        let root = Root {
            database: mark.database,
            shard: self.id,
            sequence,
            lsn: frozen.lsn,
            clock: mark.clock,
            chain: mark.chain,
            from: mark.from,
            manifest: manifest.iter().map(Stored::piece).collect(),
        };
        let root = root.encode()?;
        file.sync().await?;
        file.write_root(sequence, &root).await?;
        self.store.sequence.set(sequence);
        Ok(())
    }
}

async fn write_manifest(
    writer: &mut PieceWriter<'_>,
    frozen: &FrozenShard,
    old: &Parts,
    parts: &mut Parts,
) -> Result<Vec<Stored>> {
    let mut manifest = Manifest {
        open: frozen.open.clone(),
        leases: frozen.leases.clone(),
        segments: writer.put_leaves(&frozen.segments).await?,
        next_segment: frozen.next_segment,
        tables: Vec::new(),
    };
    for table in &frozen.tables {
        let mut indexes = Vec::new();
        for (definition, image) in &table.indexes {
            let kept = parts.entry(definition.id).or_default();
            let image = match image {
                Some(image) => {
                    Some(write_image(writer, image, old.get(&definition.id), kept).await?)
                }
                None => None,
            };
            indexes.push(IndexEntry {
                definition: definition.clone(),
                image,
            });
        }
        let extents = table.extents.iter();
        manifest.tables.push(TableEntry {
            collection: table.collection.clone(),
            emit: table.emit,
            dropped: table.dropped,
            extents: extents.map(|(e, used)| (e.first, e.len, *used)).collect(),
            keys_root: table.keys.0.0,
            keys_len: table.keys.1 as u64,
            pages: writer.put_leaves(&table.pages.0).await?,
            locations: writer.put_leaves(&table.locations).await?,
            indexes,
        });
    }
    let stored = writer.put_all(&manifest.encode()).await?;
    writer.flush().await?;
    Ok(stored)
}

async fn write_image(
    writer: &mut PieceWriter<'_>,
    image: &Frozen,
    old: Option<&HashMap<u64, Rc<Vec<Stored>>>>,
    kept: &mut HashMap<u64, Rc<Vec<Stored>>>,
) -> Result<ImageEntry> {
    assert!(image.header.len() <= IMAGE_HEADER_BYTES_MAX);
    let pages = match &image.pages {
        Some(pages) => Some(writer.put_leaves(&pages.0).await?),
        None => None,
    };
    let (mut entries, mut bytes) = (Vec::new(), Vec::new());
    for part in &image.parts {
        let id = part.id();
        let stored = match old.and_then(|o| o.get(&id)) {
            Some(stored) => stored.clone(),
            None => Rc::new(write_part(writer, &**part, &mut bytes).await?),
        };
        entries.push((id, stored.iter().map(Stored::piece).collect()));
        let new = kept.insert(id, stored).is_none();
        assert!(new, "parts of an image have different ids");
        if !writer.budget().spend(1) {
            writer.budget().turn().await;
        }
    }
    Ok(ImageEntry {
        header: image.header.clone(),
        pages,
        parts: entries,
    })
}

/// `bytes` is room that is kept from part to part.
async fn write_part(
    writer: &mut PieceWriter<'_>,
    part: &dyn FrozenPart,
    bytes: &mut Vec<u8>,
) -> Result<Vec<Stored>> {
    let (mut cursor, mut stored) = (0, Vec::new());
    bytes.clear();
    // Growing step by step would copy much at once.
    bytes.reserve_exact(PART_BYTES + PART_PIECE_BYTES);
    loop {
        let budget = writer.budget();
        let more = budget.drive(|turn| part.poll_write(&mut cursor, bytes, turn));
        let more = more.await?;
        if bytes.len() >= PART_BYTES || !more && !bytes.is_empty() {
            stored.extend(writer.put_all(bytes).await?);
            bytes.clear();
        }
        if !more {
            return Ok(stored);
        }
    }
}

/// The root that counts in a shard's file; `None` when no checkpoint of it ended.
pub async fn read_root(file: &StoreFile, database: u64) -> Result<Option<Root>> {
    let roots = file.read_roots().await?;
    let whole = roots.iter();
    let whole = whole.filter_map(|slot| Root::decode(slot, database, file.shard));
    Ok(whole.max_by_key(|root| root.sequence))
}

/// The manifest of a root.
pub async fn read_manifest(reader: &mut PieceReader<'_>, root: &Root) -> Result<Manifest> {
    let bytes = reader.get_all(&root.manifest).await?;
    let manifest = Manifest::decode(&bytes);
    manifest.map_err(|failure| damaged(root.shard, failure.message()))
}

/// What a shard's checkpoint holds beside its tables.
pub struct Loaded {
    pub manifest: Manifest,
    /// Indexes that came back from their images.
    pub images: u64,
    /// Tables whose rows are still to be freed.
    pub dropped: Vec<Rc<Table>>,
}

/// Brings an empty shard to the state of its checkpoint.
pub async fn load(shard: &Shard, file: StoreFile, root: &Root, budget: &Budget) -> Result<Loaded> {
    let mut reader = PieceReader::new(&file, budget);
    let manifest = read_manifest(&mut reader, root).await?;
    let segments = Leaves::new(&shard.residency, Owner::Rows);
    let segments = reader.get_leaves(&manifest.segments, segments).await?;
    *shard.log.borrow_mut() = RowLog::thaw(segments, manifest.next_segment);
    let (mut parts, mut dropped) = (Parts::new(), Vec::new());
    for entry in &manifest.tables {
        let mut load = LoadTable {
            shard,
            reader: &mut reader,
            budget,
            clock: root.clock,
        };
        let table = load.table(entry, &mut parts, &file).await?;
        if entry.dropped {
            shard.add_dropping(&table);
            dropped.push(table);
        } else {
            shard.tables.borrow_mut().insert(table.id, table);
        }
    }
    reader.finish()?;
    shard.restore_lsn(root.lsn);
    let store = &shard.store;
    store.sequence.set(root.sequence);
    *store.manifest.borrow_mut() = root.manifest.iter().map(|&p| file.own(p)).collect();
    let images = parts.len() as u64;
    *store.parts.borrow_mut() = parts;
    *store.file.borrow_mut() = Some(Rc::new(file));
    Ok(Loaded {
        manifest,
        images,
        dropped,
    })
}

struct LoadTable<'a, 'b> {
    shard: &'a Shard,
    reader: &'a mut PieceReader<'b>,
    budget: &'a Budget,
    clock: CommitTs,
}

impl LoadTable<'_, '_> {
    async fn table(
        &mut self,
        entry: &TableEntry,
        parts: &mut Parts,
        file: &StoreFile,
    ) -> Result<Rc<Table>> {
        let pages = self.pages(&entry.pages, Owner::Keys).await?;
        let root = PageId(entry.keys_root);
        if !pages.holds(root) {
            return Err(damaged(self.shard.id, "a key index has no root"));
        }
        let keys = KeyIndex::at(root, entry.keys_len as usize);
        let residency = &self.shard.residency;
        let locations = Leaves::new(residency, Owner::Locations);
        let locations = self.reader.get_leaves(&entry.locations, locations).await?;
        let log = self.shard.log.clone();
        let table = Table::new(self.shard.id, entry.collection.clone(), log, residency);
        *table.pages.borrow_mut() = pages;
        *table.keys.borrow_mut() = keys;
        table.emit.set(entry.emit);
        table.history.borrow_mut().begin_at(self.clock);
        for (extent, used) in entry.leases(self.shard.id) {
            table.extents.borrow_mut().restore(extent, used);
        }
        self.rows(&table, LocationTable::thaw(locations)).await?;
        if entry.dropped {
            table.set_dropped();
        }
        for index in &entry.indexes {
            table.add_index(index.definition.clone())?;
            let Some(image) = &index.image else {
                continue;
            };
            let added = table.find_index(index.definition.id);
            let added = added.expect("it was added");
            let kept = self.image(&added, image, file).await?;
            parts.insert(index.definition.id, kept);
            added.built.set(u32::MAX);
        }
        Ok(Rc::new(table))
    }

    async fn pages(&mut self, tables: &[(u32, Piece)], owner: Owner) -> Result<PageStore> {
        let pages = Leaves::new(&self.shard.residency, owner);
        let pages = FrozenPages(self.reader.get_leaves(tables, pages).await?);
        Ok(PageStore::thaw(pages))
    }

    /// Sets the locations of the rows alive; deletions that were kept for readers are over.
    async fn rows(&self, table: &Table, mut locations: LocationTable) -> Result<()> {
        let (mut next, mut over) = (0, Vec::new());
        let log = self.shard.log.clone();
        loop {
            let (mut seen, mut last, mut lost) = (0, None, false);
            locations.walk(next, |surrogate, location| {
                if location.is_deletion() {
                    over.push(surrogate);
                } else {
                    lost |= !log.borrow().could_hold(location);
                    table.alive.borrow_mut().insert(surrogate.get());
                }
                last = Some(surrogate);
                seen += 1;
                seen < 1024
            });
            if lost {
                return Err(damaged(self.shard.id, "a row is nowhere"));
            }
            let Some(after) = last.and_then(|l| l.get().checked_add(1)) else {
                break;
            };
            next = after;
            if !self.budget.spend(seen / 4 + 1) {
                self.budget.turn().await;
            }
        }
        for surrogate in over {
            locations.set(surrogate, crate::store::row_log::Location::NONE);
        }
        *table.locations.borrow_mut() = locations;
        Ok(())
    }

    async fn image(
        &mut self,
        index: &TableIndex,
        image: &ImageEntry,
        file: &StoreFile,
    ) -> Result<HashMap<u64, Rc<Vec<Stored>>>> {
        let engine = &index.engine;
        engine.borrow_mut().thaw(&image.header, image.parts.len())?;
        if let Some(pages) = &image.pages {
            let pages = self.pages(pages, Owner::Indexes).await?;
            engine.borrow_mut().thaw_pages(pages)?;
        }
        let mut kept = HashMap::new();
        for (number, (id, pieces)) in image.parts.iter().enumerate() {
            let bytes = Rc::new(self.reader.get_all(pieces).await?);
            let part = ThawPart {
                number,
                id: *id,
                bytes: &bytes,
            };
            let mut cursor = 0;
            let thawed = self.budget.drive(|turn| -> Poll<Result<()>> {
                engine.borrow_mut().poll_thaw_part(&part, &mut cursor, turn)
            });
            thawed.await?;
            let stored = pieces.iter().map(|&p| file.own(p)).collect();
            if kept.insert(*id, Rc::new(stored)).is_some() {
                return Err(damaged(self.shard.id, "an image has two parts of one id"));
            }
        }
        Ok(kept)
    }
}
