//! The simulated medium: files and names, each as seen now and as a crash would leave them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Fault, Rng, TearVariant};
use crate::io::buf::ALIGNMENT;
use crate::io::{Create, FileId, IoError, IoErrorKind, IoOp, IoValue, OpenMode, Stage};

/// The unit that is written whole or not at all, bytes.
pub const SECTOR: usize = 512;

type Outcome = Result<IoValue, IoError>;

/// An open file of one [`super::SimIo`].
#[derive(Clone, Copy)]
pub(super) struct Opened {
    inode: u64,
    mode: OpenMode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
}

/// A change of names that a crash may undo until `dir` is synced.
struct NameChange {
    dir: PathBuf,
    /// Each name and what it stands for afterwards; kept or lost together.
    names: Vec<(PathBuf, Option<Node>)>,
}

#[derive(Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, in order.
    pending: Vec<PendingWrite>,
    sync_failed: bool,
}

struct PendingWrite {
    offset: usize,
    /// Empty for a change of length to `offset`.
    data: Vec<u8>,
}

pub(super) struct Disk {
    pub(super) rng: Rng,
    /// Counts restarts; a [`super::SimIo`] of an earlier run is dead.
    pub(super) run: u64,
    pub(super) halted: bool,
    pub(super) crash_at: Option<u64>,
    pub(super) operations: u64,
    pub(super) faults: BTreeMap<u64, Fault>,
    pub(super) reads: u64,
    pub(super) failing_read: Option<u64>,
    pub(super) capacity: Option<u64>,
    pub(super) stalled: u64,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    name_changes: Vec<NameChange>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// The file of the last write; its last pending write is the one that a crash tears.
    last_written: Option<u64>,
}

/// What happens to a numbered operation.
enum Fate {
    Done,
    Crash,
    Fails(Fault),
}

impl Disk {
    pub(super) fn new(seed: u64) -> Disk {
        Disk {
            rng: Rng::new(seed),
            run: 0,
            halted: false,
            crash_at: None,
            operations: 0,
            faults: BTreeMap::new(),
            reads: 0,
            failing_read: None,
            capacity: None,
            stalled: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            inodes: BTreeMap::new(),
            next_inode: 0,
            last_written: None,
        }
    }

    /// Runs one operation (of a synced write, its write). None when power was lost.
    pub(super) fn execute(
        &mut self,
        op: &mut IoOp,
        files: &mut Vec<Option<Opened>>,
    ) -> Option<Outcome> {
        if let Some(file) = op.file()
            && lookup(files, file).is_none()
        {
            return Some(Err(IoError::new(IoErrorKind::NotOpen, op.stage())));
        }
        match op {
            IoOp::Open { path, mode } => {
                let opened = self.open(path, *mode)?;
                Some(opened.map(|inode| {
                    files.push(Some(Opened { inode, mode: *mode }));
                    IoValue::File(FileId(files.len() as u32 - 1))
                }))
            }
            IoOp::Read { file, offset, buf } => {
                let opened = lookup(files, *file)?;
                check_alignment(opened, *offset, buf.len());
                Some(self.read(opened.inode, *offset, buf))
            }
            IoOp::Write {
                file, offset, buf, ..
            } => {
                let opened = lookup(files, *file)?;
                check_alignment(opened, *offset, buf.len());
                if !opened.mode.write {
                    return Some(Err(IoError::from_errno(libc::EBADF, Stage::Write)));
                }
                self.write(opened.inode, *offset as usize, buf)
            }
            IoOp::Sync { file } => self.sync(files, *file),
            IoOp::SyncDir { path } => self.sync_dir(path),
            IoOp::Allocate { file, len } => {
                let opened = lookup(files, *file)?;
                self.allocate(opened.inode, *len as usize)
            }
            IoOp::Rename { from, to } => self.rename(from, to),
            IoOp::Unlink { path } => self.unlink(path),
            IoOp::CreateDir { path } => self.create_dir(path),
            IoOp::ListDir { path } => Some(self.list_dir(path)),
            IoOp::Size { file } => {
                let opened = lookup(files, *file)?;
                Some(Ok(IoValue::Bytes(
                    self.inodes[&opened.inode].now.len() as u64
                )))
            }
            IoOp::Close { file } => {
                files[file.0 as usize] = None;
                Some(Ok(IoValue::Unit))
            }
        }
    }

    /// Makes a file's completed writes durable. None when power was lost.
    pub(super) fn sync(&mut self, files: &[Option<Opened>], file: FileId) -> Option<Outcome> {
        let Some(Opened { inode: id, .. }) = lookup(files, file) else {
            return Some(Err(IoError::new(IoErrorKind::NotOpen, Stage::Sync)));
        };
        let fate = self.fate();
        let inode = self.inodes.get_mut(&id).expect("an open file has an inode");
        match fate {
            Fate::Crash => return None,
            Fate::Fails(Fault::LostSync) => return Some(Ok(IoValue::Unit)),
            Fate::Fails(Fault::Eio | Fault::NoSpace) => inode.sync_failed = true,
            Fate::Done => {}
        }
        if inode.sync_failed {
            return Some(Err(IoError::from_errno(libc::EIO, Stage::Sync)));
        }
        for write in inode.pending.drain(..) {
            write.apply(&mut inode.durable);
        }
        if self.last_written == Some(id) {
            self.last_written = None;
        }
        Some(Ok(IoValue::Unit))
    }

    pub(super) fn restart(&mut self, variant: TearVariant) {
        self.resolve_names(variant);
        // How much of what was under way reached the medium differs from crash to crash.
        let kept_of_four = 1 + self.rng.below(3);
        for (id, inode) in &mut self.inodes {
            let torn = self.last_written == Some(*id);
            let last = inode.pending.len().saturating_sub(1);
            for (index, mut write) in inode.pending.drain(..).enumerate() {
                match variant {
                    TearVariant::LoseUnsynced => {}
                    TearVariant::Subset => {
                        write.apply_some(&mut inode.durable, &mut self.rng, kept_of_four);
                    }
                    TearVariant::TearLast => {
                        if torn && index == last {
                            let sectors = write.data.len().div_ceil(SECTOR) as u64;
                            write
                                .data
                                .truncate(self.rng.below(sectors) as usize * SECTOR);
                        }
                        write.apply(&mut inode.durable);
                    }
                }
            }
            inode.now.clone_from(&inode.durable);
        }
        self.free_nameless();
        self.last_written = None;
        self.new_run();
    }

    /// Ends the present run and begins the next.
    pub(super) fn new_run(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.sync_failed = false;
        }
        self.faults.clear();
        self.failing_read = None;
        self.crash_at = None;
        self.stalled = 0;
        self.halted = false;
        self.run += 1;
    }

    pub(super) fn flip_bit(&mut self, path: &Path, byte: u64, bit: u8) -> bool {
        let Some(Node::File(id)) = self.names.get(path) else {
            return false;
        };
        let inode = self.inodes.get_mut(id).expect("a name has an inode");
        let byte = byte as usize;
        let present = byte < inode.now.len();
        for content in [&mut inode.now, &mut inode.durable] {
            if let Some(place) = content.get_mut(byte) {
                *place ^= 1 << (bit % 8);
            }
        }
        present
    }

    pub(super) fn list_files(&self) -> Vec<(PathBuf, u64)> {
        let files = self.names.iter().filter_map(|(path, node)| match node {
            Node::Dir => None,
            Node::File(id) => Some((path.clone(), self.inodes[id].now.len() as u64)),
        });
        files.collect()
    }

    /// Numbers an operation that changes the disk.
    fn fate(&mut self) -> Fate {
        self.operations += 1;
        if self.crash_at == Some(self.operations) {
            self.halted = true;
            return Fate::Crash;
        }
        match self.faults.remove(&self.operations) {
            Some(fault) => Fate::Fails(fault),
            None => Fate::Done,
        }
    }

    fn open(&mut self, path: &Path, mode: OpenMode) -> Option<Result<u64, IoError>> {
        let error = |kind| Some(Err(IoError::new(kind, Stage::Open)));
        match (self.names.get(path), mode.create) {
            (Some(Node::Dir), _) => error(IoErrorKind::Os(libc::EISDIR)),
            (Some(Node::File(_)), Create::New) => error(IoErrorKind::Exists),
            (Some(Node::File(inode)), _) => Some(Ok(*inode)),
            (None, Create::Never) => error(IoErrorKind::NotFound),
            (None, _) if !self.has_parent(path) => error(IoErrorKind::NotFound),
            (None, _) => {
                let inode = self.next_inode;
                self.next_inode += 1;
                self.inodes.insert(inode, Inode::default());
                let names = vec![(path.to_owned(), Some(Node::File(inode)))];
                self.change_names(path, names, Stage::Open)
                    .map(|done| done.map(|_| inode))
            }
        }
    }

    fn read(&mut self, inode: u64, offset: u64, buf: &mut [u8]) -> Outcome {
        self.reads += 1;
        if self.failing_read == Some(self.reads) {
            return Err(IoError::from_errno(libc::EIO, Stage::Read));
        }
        let content = &self.inodes[&inode].now;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let bytes = rest.len().min(buf.len());
        buf[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(IoValue::Bytes(bytes as u64))
    }

    fn write(&mut self, inode: u64, offset: usize, data: &[u8]) -> Option<Outcome> {
        let fate = self.fate();
        if let Fate::Fails(Fault::Eio) = fate {
            return Some(Err(IoError::from_errno(libc::EIO, Stage::Write)));
        }
        let whole_sectors = |bytes: usize| bytes / SECTOR * SECTOR;
        let mut fits = data.len();
        if let Some(room) = self.room() {
            let growth_allowed = self.inodes[&inode].now.len() + room;
            fits = fits.min(whole_sectors(growth_allowed.saturating_sub(offset)));
        }
        if let Fate::Fails(Fault::NoSpace) = fate {
            fits = fits.min(whole_sectors(data.len() / 2));
        }
        let file = self
            .inodes
            .get_mut(&inode)
            .expect("an open file has an inode");
        let write = PendingWrite {
            offset,
            data: data[..fits].to_vec(),
        };
        write.apply(&mut file.now);
        file.pending.push(write);
        self.last_written = Some(inode);
        match fate {
            Fate::Crash => None,
            _ if fits < data.len() => Some(Err(IoError::from_errno(libc::ENOSPC, Stage::Write))),
            _ => Some(Ok(IoValue::Unit)),
        }
    }

    fn allocate(&mut self, inode: u64, len: usize) -> Option<Outcome> {
        let growth = len.saturating_sub(self.inodes[&inode].now.len());
        let full = self.room().is_some_and(|room| growth > room);
        let failure = match self.fate() {
            Fate::Crash => return None,
            Fate::Fails(Fault::Eio) => Some(libc::EIO),
            Fate::Fails(Fault::NoSpace) => Some(libc::ENOSPC),
            Fate::Done | Fate::Fails(Fault::LostSync) => full.then_some(libc::ENOSPC),
        };
        if let Some(errno) = failure {
            return Some(Err(IoError::from_errno(errno, Stage::Allocate)));
        }
        let file = self
            .inodes
            .get_mut(&inode)
            .expect("an open file has an inode");
        let write = PendingWrite {
            offset: len,
            data: Vec::new(),
        };
        write.apply(&mut file.now);
        file.pending.push(write);
        Some(Ok(IoValue::Unit))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Option<Outcome> {
        let Some(node) = self.names.get(from).copied() else {
            return Some(Err(IoError::new(IoErrorKind::NotFound, Stage::Name)));
        };
        let names = vec![(from.to_owned(), None), (to.to_owned(), Some(node))];
        self.change_names(to, names, Stage::Name)
    }

    fn unlink(&mut self, path: &Path) -> Option<Outcome> {
        match self.names.get(path) {
            None => Some(Err(IoError::new(IoErrorKind::NotFound, Stage::Name))),
            Some(Node::Dir) => Some(Err(IoError::from_errno(libc::EISDIR, Stage::Name))),
            Some(Node::File(_)) => {
                self.change_names(path, vec![(path.to_owned(), None)], Stage::Name)
            }
        }
    }

    fn create_dir(&mut self, path: &Path) -> Option<Outcome> {
        if self.names.contains_key(path) {
            return Some(Err(IoError::new(IoErrorKind::Exists, Stage::Name)));
        }
        if !self.has_parent(path) {
            return Some(Err(IoError::new(IoErrorKind::NotFound, Stage::Name)));
        }
        self.change_names(path, vec![(path.to_owned(), Some(Node::Dir))], Stage::Name)
    }

    fn list_dir(&self, path: &Path) -> Outcome {
        if !self.is_dir(path) {
            return Err(IoError::new(IoErrorKind::NotFound, Stage::Inspect));
        }
        let inside = self.names.keys().filter(|name| name.parent() == Some(path));
        let names = inside.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned()));
        Ok(IoValue::Names(names.collect()))
    }

    fn sync_dir(&mut self, path: &Path) -> Option<Outcome> {
        match self.fate() {
            Fate::Crash => return None,
            Fate::Fails(Fault::LostSync) => return Some(Ok(IoValue::Unit)),
            Fate::Fails(_) => return Some(Err(IoError::from_errno(libc::EIO, Stage::Sync))),
            Fate::Done => {}
        }
        if !self.is_dir(path) {
            return Some(Err(IoError::new(IoErrorKind::NotFound, Stage::Sync)));
        }
        let changes = std::mem::take(&mut self.name_changes);
        let (synced, rest) = changes.into_iter().partition(|change| change.dir == path);
        self.name_changes = rest;
        for change in synced {
            change.apply(&mut self.durable_names);
        }
        Some(Ok(IoValue::Unit))
    }

    fn change_names(
        &mut self,
        path: &Path,
        names: Vec<(PathBuf, Option<Node>)>,
        stage: Stage,
    ) -> Option<Outcome> {
        let fate = self.fate();
        match fate {
            Fate::Fails(Fault::Eio) => return Some(Err(IoError::from_errno(libc::EIO, stage))),
            Fate::Fails(Fault::NoSpace) => {
                return Some(Err(IoError::from_errno(libc::ENOSPC, stage)));
            }
            Fate::Done | Fate::Crash | Fate::Fails(Fault::LostSync) => {}
        }
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        let change = NameChange { dir, names };
        change.apply(&mut self.names);
        self.name_changes.push(change);
        if let Fate::Crash = fate {
            None
        } else {
            Some(Ok(IoValue::Unit))
        }
    }

    fn resolve_names(&mut self, variant: TearVariant) {
        for change in std::mem::take(&mut self.name_changes) {
            let kept = match variant {
                TearVariant::LoseUnsynced => false,
                TearVariant::Subset => self.rng.chance(1, 2),
                TearVariant::TearLast => true,
            };
            if kept {
                change.apply(&mut self.durable_names);
            }
        }
        self.names.clone_from(&self.durable_names);
    }

    fn free_nameless(&mut self) {
        let named: Vec<u64> = self
            .names
            .values()
            .filter_map(|node| {
                if let Node::File(id) = node {
                    Some(*id)
                } else {
                    None
                }
            })
            .collect();
        self.inodes.retain(|id, _| named.contains(id));
    }

    /// Bytes that files may still grow by; None without a limit. A removed file counts no more.
    fn room(&self) -> Option<usize> {
        let capacity = self.capacity?;
        let used: u64 = self.list_files().iter().map(|(_, bytes)| bytes).sum();
        Some(capacity.saturating_sub(used) as usize)
    }

    fn is_dir(&self, path: &Path) -> bool {
        // The root of absolute and of relative paths is always there.
        path.parent().is_none() || self.names.get(path) == Some(&Node::Dir)
    }

    fn has_parent(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| self.is_dir(parent))
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        for (name, node) in &self.names {
            match node {
                Some(node) => names.insert(name.clone(), *node),
                None => names.remove(name),
            };
        }
    }
}

impl PendingWrite {
    fn apply(&self, content: &mut Vec<u8>) {
        put(content, self.offset, &self.data);
    }

    /// Applies each sector with a chance of `kept_of_four` quarters.
    fn apply_some(&self, content: &mut Vec<u8>, rng: &mut Rng, kept_of_four: u64) {
        if self.data.is_empty() && rng.chance(kept_of_four, 4) {
            self.apply(content);
        }
        let mut done = 0;
        while done < self.data.len() {
            let offset = self.offset + done;
            let step = (SECTOR - offset % SECTOR).min(self.data.len() - done);
            if rng.chance(kept_of_four, 4) {
                put(content, offset, &self.data[done..done + step]);
            }
            done += step;
        }
    }
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}

fn lookup(files: &[Option<Opened>], file: FileId) -> Option<Opened> {
    files.get(file.0 as usize).copied().flatten()
}

/// Direct I/O that a real device would refuse is a bug of the caller.
fn check_alignment(opened: Opened, offset: u64, len: usize) {
    if opened.mode.direct {
        assert!(offset.is_multiple_of(ALIGNMENT as u64) && len.is_multiple_of(ALIGNMENT));
    }
}
