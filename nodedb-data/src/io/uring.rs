//! I/O by io_uring.
//!
//! The ring belongs to the thread that makes it (SINGLE_ISSUER, with DEFER_TASKRUN so that
//! completions are worked on only when that thread asks); older kernels get a plain ring. The
//! core's eventfd is watched by a poll operation in the ring, so one system call parks for disk and
//! rings. The poll is one of many shots, each write of the eventfd being told once; its counter is
//! never read then. Where the kernel knows no such polls it is armed before each wait.
//!
//! An operation is a [`Flight`] in a slab, whose index is the ring's user data. What the kernel
//! reads or writes (buffers, paths) lives in the flight until its last completion has arrived:
//! dropping the backend waits for that. A write with `sync` is a write linked to an fdatasync, two
//! entries and one completion: where the kernel knows how, it does not tell of the write, so the
//! core is not woken for it. When the write fails or is short it tells of that alone, for then the
//! link is broken. Asking for the sync in the write's own flags (RWF_DSYNC) was measured
//! and left, because the kernel then finishes it in a shared worker that waits its turn behind any
//! busy process (4 ms instead of 0.1 ms on two busy processors). Short reads and writes go on where
//! they stopped.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use nodedb_bridge::wake::Wake;

use super::posix::{self, Done};
use super::{
    AlignedBuf, Completion, FileId, Io, IoError, IoErrorKind, IoOp, IoValue, OpenMode, Stage, Token,
};

/// Entries of the submission queue; more operations may be in flight, the kernel keeps them.
const ENTRIES: u32 = 256;
/// User data of the poll on the core's eventfd.
const WAKE: u64 = u64::MAX;

/// The backend; see the module.
pub struct UringIo {
    ring: IoUring,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    in_flight: usize,
    files: BTreeMap<FileId, Rc<File>>,
    next_file: u32,
    wake: Option<Arc<Wake>>,
    wake_armed: bool,
    /// The kernel takes polls of many shots, as far as is known.
    wake_multi: bool,
    /// The kernel can keep silent about the first of two linked entries.
    skips_success: bool,
    /// Completions that needed no ring.
    ready: Vec<Completion>,
}

/// An operation that the kernel has, or will have at the next submission.
struct Flight {
    token: Token,
    work: Work,
    /// Completions of the ring still to come.
    expected: u32,
    /// The first failure of its entries, or what the last one yielded.
    result: Result<u32, IoError>,
}

/// What an operation needs until it is done. Boxed or reference-counted, so nothing moves.
enum Work {
    Open {
        path: CString,
        mode: OpenMode,
    },
    Read {
        file: Rc<File>,
        offset: u64,
        buf: AlignedBuf,
        done: usize,
    },
    Write {
        file: Rc<File>,
        offset: u64,
        buf: AlignedBuf,
        done: usize,
        sync: bool,
    },
    /// `data`: fdatasync; a directory's entries are metadata and need the whole of fsync.
    Sync {
        file: Rc<File>,
        data: bool,
    },
    OpenDir {
        path: CString,
    },
    Allocate {
        file: Rc<File>,
        len: u64,
    },
    Rename {
        from: CString,
        to: CString,
    },
    Unlink {
        path: CString,
    },
    CreateDir {
        path: CString,
    },
}

/// What follows after the last entry of a flight.
enum Next {
    Again(Flight),
    End {
        token: Token,
        result: Result<Done, IoError>,
        buf: Option<AlignedBuf>,
    },
}

/// Checks that this host lets a process use io_uring, with every operation that we need.
pub fn probe_uring() -> std::io::Result<()> {
    let ring = new_ring(8)?;
    let params = ring.params();
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::OpenAt::CODE,
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
        opcode::RenameAt::CODE,
        opcode::UnlinkAt::CODE,
        opcode::MkDirAt::CODE,
        opcode::PollAdd::CODE,
    ];
    let complete = needed.iter().all(|&code| probe.is_supported(code));
    if complete && params.is_feature_ext_arg() && params.is_feature_nodrop() {
        Ok(())
    } else {
        Err(std::io::Error::new(
            std::io::ErrorKind::Unsupported,
            "the kernel's io_uring is too old",
        ))
    }
}

fn new_ring(entries: u32) -> std::io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    // Kernels before 6.1 do not know these flags.
    builder.build(entries).or_else(|_| IoUring::new(entries))
}

impl UringIo {
    /// To be called on the thread that will use it. `wake` is what the core is woken by.
    pub fn new(wake: Option<Arc<Wake>>) -> std::io::Result<UringIo> {
        let ring = new_ring(ENTRIES)?;
        Ok(UringIo {
            skips_success: ring.params().is_feature_skip_cqe_on_success(),
            ring,
            flights: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            files: BTreeMap::new(),
            next_file: 0,
            wake,
            wake_armed: false,
            wake_multi: true,
            ready: Vec::new(),
        })
    }

    /// What an operation needs in the ring, or its completion when it needs no ring.
    fn prepare(&self, op: IoOp) -> Result<Work, (Result<IoValue, IoError>, Option<AlignedBuf>)> {
        let stage = op.stage();
        let file = match op.file().map(|id| self.files.get(&id)) {
            Some(None) => {
                let error = IoError::new(IoErrorKind::NotOpen, stage);
                return Err((Err(error), op.take_buf()));
            }
            Some(Some(file)) => Some(Rc::clone(file)),
            None => None,
        };
        let open = move || file.expect("the operation names a file");
        let name = |path: &Path| c_path(path, stage).map_err(|error| (Err(error), None));
        Ok(match op {
            IoOp::Open { path, mode } => Work::Open {
                path: name(&path)?,
                mode,
            },
            IoOp::Read { offset, buf, .. } => Work::Read {
                file: open(),
                offset,
                buf,
                done: 0,
            },
            IoOp::Write {
                offset, buf, sync, ..
            } => Work::Write {
                file: open(),
                offset,
                buf,
                done: 0,
                sync,
            },
            IoOp::Sync { .. } => Work::Sync {
                file: open(),
                data: true,
            },
            IoOp::SyncDir { path } => Work::OpenDir { path: name(&path)? },
            IoOp::Allocate { len, .. } => Work::Allocate { file: open(), len },
            IoOp::Rename { from, to } => Work::Rename {
                from: name(&from)?,
                to: name(&to)?,
            },
            IoOp::Unlink { path } => Work::Unlink { path: name(&path)? },
            IoOp::CreateDir { path } => Work::CreateDir { path: name(&path)? },
            op @ (IoOp::ListDir { .. } | IoOp::Size { .. } | IoOp::Close { .. }) => {
                let file = op.file().and_then(|id| self.files.get(&id)).map(Rc::as_ref);
                let (result, buf) = posix::run(op, file);
                let value = result.map(|done| match done {
                    Done::Value(value) => value,
                    Done::Opened(_) => unreachable!("opening goes through the ring"),
                });
                return Err((value, buf));
            }
        })
    }

    fn start(&mut self, index: usize) {
        let flight = self.flights[index]
            .as_mut()
            .expect("the flight has just been placed");
        let (entry, linked) = flight.work.entry();
        flight.expected = 1;
        flight.result = Ok(0);
        let data = index as u64;
        let Some(second) = linked else {
            return self.push(&[entry.user_data(data * 2)]);
        };
        let mut flags = squeue::Flags::IO_LINK;
        if self.skips_success {
            // No word of the write means that all of it was written.
            flags |= squeue::Flags::SKIP_SUCCESS;
            flight.result = Ok(flight.work.bytes_left());
        } else {
            flight.expected = 2;
        }
        self.push(&[
            entry.flags(flags).user_data(data * 2),
            second.user_data(data * 2 + 1),
        ]);
    }

    /// Puts entries into the queue, in one submission when they are linked.
    fn push(&mut self, entries: &[squeue::Entry]) {
        let queue = self.ring.submission();
        let room = queue.capacity() - queue.len();
        drop(queue);
        if room < entries.len() {
            self.enter();
        }
        // SAFETY: what the entries point to is owned by a flight, or by `self` for the poll, and
        // stays where it is until their completions have arrived.
        unsafe { self.ring.submission().push_multiple(entries) }
            .expect("the kernel takes every entry when it is entered");
    }

    /// Hands queued entries to the kernel without waiting.
    fn enter(&mut self) {
        loop {
            match self.ring.submit() {
                Ok(_) => return,
                // Too many completions wait to be reaped, or a signal came: look and go on.
                Err(error) if is_transient(&error) => {
                    self.collect();
                }
                Err(error) => panic!("io_uring does not accept operations: {error}"),
            }
        }
    }

    /// Takes the ring's completions; true when the core was woken.
    fn collect(&mut self) -> bool {
        let mut woken = false;
        loop {
            let Some(entry) = self.ring.completion().next() else {
                return woken;
            };
            if entry.user_data() == WAKE {
                woken = true;
                if !cqueue::more(entry.flags()) {
                    self.wake_shot(entry.result());
                }
            } else {
                self.landed(
                    (entry.user_data() / 2) as usize,
                    entry.user_data() % 2,
                    entry.result(),
                );
            }
        }
    }

    /// The poll of the eventfd is over, and one that is armed now must not see old writes.
    fn wake_shot(&mut self, result: i32) {
        self.wake_armed = false;
        self.wake_multi &= result != -libc::EINVAL;
        if let Some(wake) = &self.wake {
            wake.drain();
        }
    }

    fn landed(&mut self, index: usize, part: u64, result: i32) {
        let flight = self.flights[index]
            .as_mut()
            .expect("a completion belongs to a flight");
        flight.expected -= 1;
        flight.note(part, result);
        if flight.expected > 0 {
            return;
        }
        let flight = self.flights[index].take().expect("it was there");
        match flight.advance() {
            Next::Again(flight) => {
                self.flights[index] = Some(flight);
                self.start(index);
            }
            Next::End { token, result, buf } => {
                self.free.push(index);
                self.in_flight -= 1;
                let result = result.map(|done| match done {
                    Done::Value(value) => value,
                    Done::Opened(file) => IoValue::File(self.keep(file)),
                });
                self.ready.push(Completion { token, result, buf });
            }
        }
    }

    fn keep(&mut self, file: File) -> FileId {
        let id = FileId(self.next_file);
        self.next_file += 1;
        self.files.insert(id, Rc::new(file));
        id
    }

    fn arm_wake(&mut self) {
        let Some(wake) = &self.wake else { return };
        if !self.wake_armed {
            let poll = opcode::PollAdd::new(Fd(wake.fd()), libc::POLLIN as u32);
            let poll = poll.multi(self.wake_multi).build();
            self.wake_armed = true;
            self.push(&[poll.user_data(WAKE)]);
        }
    }
}

impl Io for UringIo {
    fn submit(&mut self, token: Token, op: IoOp) {
        let closing = if let IoOp::Close { file } = op {
            Some(file)
        } else {
            None
        };
        match self.prepare(op) {
            Ok(work) => {
                let flight = Flight {
                    token,
                    work,
                    expected: 0,
                    result: Ok(0),
                };
                let index = self.free.pop().unwrap_or_else(|| {
                    self.flights.push(None);
                    self.flights.len() - 1
                });
                self.flights[index] = Some(flight);
                self.in_flight += 1;
                self.start(index);
            }
            Err((result, buf)) => self.ready.push(Completion { token, result, buf }),
        }
        if let Some(file) = closing {
            self.files.remove(&file);
        }
    }

    fn reap(&mut self, out: &mut Vec<Completion>) -> usize {
        let before = out.len();
        let queue = self.ring.submission();
        let enter = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if enter {
            self.enter();
        }
        self.collect();
        out.append(&mut self.ready);
        out.len() - before
    }

    fn wait(&mut self, timeout: Option<Duration>) {
        // A wake that is taken here was rung after the core's last look at its rings.
        if self.collect() || !self.ready.is_empty() {
            return;
        }
        self.arm_wake();
        let limit = timeout.map(timespec);
        let waited = match &limit {
            Some(limit) => self
                .ring
                .submitter()
                .submit_with_args(1, &SubmitArgs::new().timespec(limit)),
            None => self.ring.submit_and_wait(1),
        };
        match waited {
            Ok(_) => {}
            Err(error) if is_transient(&error) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {}
            Err(error) => panic!("io_uring does not wait: {error}"),
        }
        self.collect();
    }

    fn in_flight(&self) -> usize {
        self.in_flight + self.ready.len()
    }
}

impl Drop for UringIo {
    fn drop(&mut self) {
        // The kernel may still write to buffers of operations in flight.
        while self.in_flight > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {
                    self.collect();
                }
                Err(error) if is_transient(&error) => {
                    self.collect();
                }
                // Freeing memory that the kernel uses would be worse than losing it.
                Err(_) => return std::mem::forget(std::mem::take(&mut self.flights)),
            }
        }
    }
}

impl Flight {
    /// Keeps the outcome of one entry: the first failure counts, and a cancelled sync only says
    /// that the write before it was short or failed.
    fn note(&mut self, part: u64, result: i32) {
        let stage = if part == 1 {
            Stage::Sync
        } else {
            self.work.stage()
        };
        if result >= 0 {
            if let (0, Ok(bytes)) = (part, &mut self.result) {
                *bytes = result as u32;
            }
        } else if !(part == 1 && result == -libc::ECANCELED) && self.result.is_ok() {
            self.result = Err(IoError::from_errno(-result, stage));
        }
    }

    /// After the last entry: the flight to start again, or the operation's end.
    fn advance(self) -> Next {
        let Flight {
            token,
            work,
            result,
            ..
        } = self;
        let again = |work| {
            Next::Again(Flight {
                token,
                work,
                expected: 0,
                result: Ok(0),
            })
        };
        let end = |result, buf| Next::End { token, result, buf };
        let unit = Done::Value(IoValue::Unit);
        match (work, result) {
            (Work::Open { path, mode }, Err(error))
                if mode.direct && error.kind == IoErrorKind::Os(libc::EINVAL) =>
            {
                again(Work::Open {
                    path,
                    mode: posix::without_direct(mode),
                })
            }
            (work, Err(error)) => end(Err(error), work.into_buf()),
            (Work::Open { .. }, Ok(fd)) => end(Ok(Done::Opened(own(fd))), None),
            (Work::OpenDir { .. }, Ok(fd)) => again(Work::Sync {
                file: Rc::new(own(fd)),
                data: false,
            }),
            (
                Work::Read {
                    file,
                    offset,
                    buf,
                    done,
                },
                Ok(bytes),
            ) => {
                let done = done + bytes as usize;
                // Direct I/O cannot go on within a block, and only the file's end stops there.
                if bytes == 0 || done == buf.len() || !done.is_multiple_of(512) {
                    end(Ok(Done::Value(IoValue::Bytes(done as u64))), Some(buf))
                } else {
                    again(Work::Read {
                        file,
                        offset,
                        buf,
                        done,
                    })
                }
            }
            (
                Work::Write {
                    file,
                    offset,
                    buf,
                    done,
                    sync,
                },
                Ok(bytes),
            ) => {
                let done = done + bytes as usize;
                if done == buf.len() {
                    end(Ok(unit), Some(buf))
                } else if bytes == 0 {
                    end(Err(IoError::from_errno(libc::EIO, Stage::Write)), Some(buf))
                } else {
                    again(Work::Write {
                        file,
                        offset,
                        buf,
                        done,
                        sync,
                    })
                }
            }
            (
                Work::Sync { .. }
                | Work::Allocate { .. }
                | Work::Rename { .. }
                | Work::Unlink { .. }
                | Work::CreateDir { .. },
                Ok(_),
            ) => end(Ok(unit), None),
        }
    }
}

impl Work {
    /// The ring's entry, and the one linked behind it.
    fn entry(&mut self) -> (squeue::Entry, Option<squeue::Entry>) {
        let here = Fd(libc::AT_FDCWD);
        let fd = |file: &File| Fd(file.as_raw_fd());
        let sync = |file: &File, data: bool| {
            let flags = if data {
                FsyncFlags::DATASYNC
            } else {
                FsyncFlags::empty()
            };
            opcode::Fsync::new(Fd(file.as_raw_fd()))
                .flags(flags)
                .build()
        };
        let entry = match self {
            Work::Open { path, mode } => opcode::OpenAt::new(here, path.as_ptr())
                .flags(posix::open_flags(*mode) | libc::O_CLOEXEC)
                .mode(posix::FILE_MODE)
                .build(),
            Work::OpenDir { path } => opcode::OpenAt::new(here, path.as_ptr())
                .flags(libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)
                .build(),
            Work::Read {
                file,
                offset,
                buf,
                done,
            } => {
                let rest = &mut buf[*done..];
                opcode::Read::new(fd(file), rest.as_mut_ptr(), rest.len() as u32)
                    .offset(*offset + *done as u64)
                    .build()
            }
            Work::Write {
                file,
                offset,
                buf,
                done,
                sync: synced,
            } => {
                let rest = &buf[*done..];
                let write = opcode::Write::new(fd(file), rest.as_ptr(), rest.len() as u32)
                    .offset(*offset + *done as u64)
                    .build();
                return (write, synced.then(|| sync(file, true)));
            }
            Work::Sync { file, data } => sync(file, *data),
            Work::Allocate { file, len } => opcode::Fallocate::new(fd(file), *len).build(),
            Work::Rename { from, to } => {
                opcode::RenameAt::new(here, from.as_ptr(), here, to.as_ptr()).build()
            }
            Work::Unlink { path } => opcode::UnlinkAt::new(here, path.as_ptr()).build(),
            Work::CreateDir { path } => opcode::MkDirAt::new(here, path.as_ptr())
                .mode(posix::DIR_MODE)
                .build(),
        };
        (entry, None)
    }

    /// What a read or write still has to do.
    fn bytes_left(&self) -> u32 {
        match self {
            Work::Read { buf, done, .. } | Work::Write { buf, done, .. } => {
                (buf.len() - done) as u32
            }
            _ => 0,
        }
    }

    fn stage(&self) -> Stage {
        match self {
            Work::Open { .. } => Stage::Open,
            Work::Read { .. } => Stage::Read,
            Work::Write { .. } => Stage::Write,
            Work::Sync { .. } | Work::OpenDir { .. } => Stage::Sync,
            Work::Allocate { .. } => Stage::Allocate,
            Work::Rename { .. } | Work::Unlink { .. } | Work::CreateDir { .. } => Stage::Name,
        }
    }

    fn into_buf(self) -> Option<AlignedBuf> {
        match self {
            Work::Read { buf, .. } | Work::Write { buf, .. } => Some(buf),
            _ => None,
        }
    }
}

fn own(fd: u32) -> File {
    // SAFETY: the kernel has just opened this descriptor for us and nobody else has it.
    unsafe { File::from_raw_fd(fd as RawFd) }
}

fn c_path(path: &Path, stage: Stage) -> Result<CString, IoError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| IoError::from_errno(libc::EINVAL, stage))
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::new()
        .sec(duration.as_secs())
        .nsec(duration.subsec_nanos())
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
    )
}
