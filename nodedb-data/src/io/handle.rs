//! Awaiting I/O: what futures on a core use instead of tokens and completions.
//!
//! Every operation is submitted when its method is called, so several may be in flight before the
//! first is awaited. The core calls [`IoHandle::poll`] once a turn and [`IoHandle::wait`] when it
//! has nothing else to do. Dropping an operation's future forgets its result: a buffer goes back to
//! the pool and a file that was just opened is closed.

use std::cell::RefCell;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::buf::BufPool;
use super::{AlignedBuf, Completion, FileId, Io, IoError, IoOp, IoValue, OpenMode, Token};

/// One core's files, shared by its tasks.
pub struct IoHandle {
    inner: RefCell<Inner>,
    pool: RefCell<BufPool>,
}

struct Inner {
    io: Box<dyn Io>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    reaped: Vec<Completion>,
}

enum Slot {
    Free,
    Waiting(Option<Waker>),
    Done(Completion),
    /// Its future is gone; the completion is still to come.
    Forgotten,
}

impl IoHandle {
    pub fn new(io: Box<dyn Io>) -> Rc<IoHandle> {
        let inner = Inner {
            io,
            slots: Vec::new(),
            free: Vec::new(),
            reaped: Vec::new(),
        };
        Rc::new(IoHandle {
            inner: RefCell::new(inner),
            pool: RefCell::default(),
        })
    }

    /// Completes what has finished and wakes who awaits it. Never blocks. Returns how many.
    pub fn poll(&self) -> usize {
        let mut reaped = std::mem::take(&mut self.inner.borrow_mut().reaped);
        self.inner.borrow_mut().io.reap(&mut reaped);
        let count = reaped.len();
        for completion in reaped.drain(..) {
            self.complete(completion);
        }
        self.inner.borrow_mut().reaped = reaped;
        count
    }

    /// Parks until an operation may have finished, the core's eventfd was written, or `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) {
        self.inner.borrow_mut().io.wait(timeout);
    }

    /// Operations not yet completed.
    pub fn in_flight(&self) -> usize {
        self.inner.borrow().io.in_flight()
    }

    /// See [`Io::halted`].
    pub fn halted(&self) -> bool {
        self.inner.borrow().io.halted()
    }

    /// A buffer of `len` bytes with any content.
    pub fn buffer(&self, len: usize) -> AlignedBuf {
        self.pool.borrow_mut().take(len)
    }

    /// Gets the memory of large buffers before anybody waits for it.
    pub fn warm(&self) {
        self.pool.borrow_mut().warm();
    }

    /// Gives a buffer back for reuse.
    pub fn recycle(&self, buf: AlignedBuf) {
        self.pool.borrow_mut().give(buf);
    }

    /// Starts any operation; its future yields the whole completion.
    pub fn submit(&self, op: IoOp) -> PendingIo<'_> {
        let mut inner = self.inner.borrow_mut();
        let slot = match inner.free.pop() {
            Some(slot) => slot,
            None => {
                inner.slots.push(Slot::Free);
                (inner.slots.len() - 1) as u32
            }
        };
        inner.slots[slot as usize] = Slot::Waiting(None);
        inner.io.submit(Token(u64::from(slot)), op);
        PendingIo {
            handle: self,
            slot: Some(slot),
        }
    }

    pub async fn open(&self, path: impl Into<PathBuf>, mode: OpenMode) -> Result<FileId, IoError> {
        match self
            .submit(IoOp::Open {
                path: path.into(),
                mode,
            })
            .await
            .result?
        {
            IoValue::File(file) => Ok(file),
            other => unreachable!("open yielded {other:?}"),
        }
    }

    /// Fills `buf` from `offset`; fewer bytes than its length only at the end of the file.
    pub async fn read(
        &self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
    ) -> (Result<usize, IoError>, AlignedBuf) {
        let (result, buf) = with_buf(self.submit(IoOp::Read { file, offset, buf }).await);
        (result.map(|value| bytes(value) as usize), buf)
    }

    /// Writes the whole of `buf` at `offset`.
    pub async fn write(
        &self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
    ) -> (Result<(), IoError>, AlignedBuf) {
        let op = IoOp::Write {
            file,
            offset,
            buf,
            sync: false,
        };
        let (result, buf) = with_buf(self.submit(op).await);
        (result.map(drop), buf)
    }

    /// Writes the whole of `buf` at `offset` and makes the file's completed writes durable.
    pub async fn write_synced(
        &self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
    ) -> (Result<(), IoError>, AlignedBuf) {
        let op = IoOp::Write {
            file,
            offset,
            buf,
            sync: true,
        };
        let (result, buf) = with_buf(self.submit(op).await);
        (result.map(drop), buf)
    }

    pub async fn sync(&self, file: FileId) -> Result<(), IoError> {
        self.submit(IoOp::Sync { file }).await.result.map(drop)
    }

    pub async fn sync_dir(&self, path: impl Into<PathBuf>) -> Result<(), IoError> {
        self.submit(IoOp::SyncDir { path: path.into() })
            .await
            .result
            .map(drop)
    }

    pub async fn allocate(&self, file: FileId, len: u64) -> Result<(), IoError> {
        self.submit(IoOp::Allocate { file, len })
            .await
            .result
            .map(drop)
    }

    pub async fn rename(
        &self,
        from: impl Into<PathBuf>,
        to: impl Into<PathBuf>,
    ) -> Result<(), IoError> {
        let op = IoOp::Rename {
            from: from.into(),
            to: to.into(),
        };
        self.submit(op).await.result.map(drop)
    }

    pub async fn unlink(&self, path: impl Into<PathBuf>) -> Result<(), IoError> {
        self.submit(IoOp::Unlink { path: path.into() })
            .await
            .result
            .map(drop)
    }

    pub async fn create_dir(&self, path: impl Into<PathBuf>) -> Result<(), IoError> {
        self.submit(IoOp::CreateDir { path: path.into() })
            .await
            .result
            .map(drop)
    }

    /// Names in a directory, ascending. At start-up only (see [`IoOp::ListDir`]).
    pub async fn list_dir(&self, path: impl Into<PathBuf>) -> Result<Vec<String>, IoError> {
        match self
            .submit(IoOp::ListDir { path: path.into() })
            .await
            .result?
        {
            IoValue::Names(names) => Ok(names),
            other => unreachable!("list yielded {other:?}"),
        }
    }

    /// The file's length in bytes.
    pub async fn size(&self, file: FileId) -> Result<u64, IoError> {
        self.submit(IoOp::Size { file }).await.result.map(bytes)
    }

    pub async fn close(&self, file: FileId) -> Result<(), IoError> {
        self.submit(IoOp::Close { file }).await.result.map(drop)
    }

    fn complete(&self, completion: Completion) {
        let slot = completion.token.0 as usize;
        let mut inner = self.inner.borrow_mut();
        match std::mem::replace(&mut inner.slots[slot], Slot::Free) {
            Slot::Waiting(waker) => {
                inner.slots[slot] = Slot::Done(completion);
                drop(inner);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Slot::Forgotten => {
                inner.free.push(slot as u32);
                drop(inner);
                self.discard(completion);
            }
            Slot::Free | Slot::Done(_) => panic!("a completion for a slot that awaits none"),
        }
    }

    /// Nobody wants this result any more.
    fn discard(&self, completion: Completion) {
        if let Some(buf) = completion.buf {
            self.recycle(buf);
        }
        if let Ok(IoValue::File(file)) = completion.result {
            drop(self.submit(IoOp::Close { file }));
        }
    }
}

fn with_buf(completion: Completion) -> (Result<IoValue, IoError>, AlignedBuf) {
    let buf = completion
        .buf
        .expect("reads and writes give their buffer back");
    (completion.result, buf)
}

fn bytes(value: IoValue) -> u64 {
    match value {
        IoValue::Bytes(bytes) => bytes,
        other => unreachable!("a count of bytes was expected, not {other:?}"),
    }
}

/// An operation in flight.
#[must_use = "dropping it forgets the operation's result"]
pub struct PendingIo<'a> {
    handle: &'a IoHandle,
    /// None once the completion has been taken.
    slot: Option<u32>,
}

impl Future for PendingIo<'_> {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let slot = self.slot.expect("polled after it was ready");
        let mut inner = self.handle.inner.borrow_mut();
        let place = &mut inner.slots[slot as usize];
        match std::mem::replace(place, Slot::Free) {
            Slot::Done(completion) => {
                inner.free.push(slot);
                drop(inner);
                self.slot = None;
                Poll::Ready(completion)
            }
            Slot::Waiting(waker) => {
                let waker = match waker {
                    Some(waker) if waker.will_wake(context.waker()) => waker,
                    _ => context.waker().clone(),
                };
                *place = Slot::Waiting(Some(waker));
                Poll::Pending
            }
            Slot::Free | Slot::Forgotten => panic!("a future without its slot"),
        }
    }
}

impl Drop for PendingIo<'_> {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut inner = self.handle.inner.borrow_mut();
        match std::mem::replace(&mut inner.slots[slot as usize], Slot::Forgotten) {
            Slot::Waiting(_) => {}
            Slot::Done(completion) => {
                inner.slots[slot as usize] = Slot::Free;
                inner.free.push(slot);
                drop(inner);
                self.handle.discard(completion);
            }
            Slot::Free | Slot::Forgotten => panic!("a future without its slot"),
        }
    }
}
