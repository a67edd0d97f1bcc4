//! One script for the backends that use the real disk.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nodedb_bridge::wake::Wake;

use super::threads::ThreadIo;
use super::uring::UringIo;
use super::*;

/// A new directory, removed when the value is dropped.
pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ndb-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A fresh instance of every backend that this host allows.
pub(crate) fn backends(wake: Option<&Arc<Wake>>) -> Vec<(&'static str, Rc<IoHandle>)> {
    let threads: Box<dyn Io> = Box::new(ThreadIo::new(wake.cloned()).unwrap());
    let mut all = vec![("threads", IoHandle::new(threads))];
    match probe_uring() {
        Ok(()) => {
            let uring: Box<dyn Io> = Box::new(UringIo::new(wake.cloned()).unwrap());
            all.push(("uring", IoHandle::new(uring)));
        }
        Err(error) => eprintln!("io_uring is not tested here: {error}"),
    }
    all
}

fn pattern(len: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(len);
    for (index, byte) in buf.iter_mut().enumerate() {
        *byte = (index / 7) as u8;
    }
    buf
}

fn kind<T: std::fmt::Debug>(result: Result<T, IoError>) -> IoErrorKind {
    result.unwrap_err().kind
}

#[test]
fn every_operation_on_every_backend() {
    for (name, io) in backends(None) {
        let dir = TempDir::new(name);
        let path = |name: &str| dir.0.join(name);
        let script = async {
            assert_eq!(
                kind(io.open(path("a"), OpenMode::READ).await),
                IoErrorKind::NotFound
            );
            let file = io.open(path("a"), OpenMode::CREATE_NEW.direct()).await?;
            assert_eq!(
                kind(io.open(path("a"), OpenMode::CREATE_NEW).await),
                IoErrorKind::Exists
            );
            io.allocate(file, 1 << 20).await?;
            assert_eq!(io.size(file).await?, 1 << 20);
            let (written, buf) = io.write(file, 8192, pattern(300 << 10)).await;
            written?;
            io.sync(file).await?;
            let (written, _) = io.write_synced(file, 0, pattern(4096)).await;
            written?;
            io.sync_dir(&dir.0).await?;

            let (read, back) = io.read(file, 8192, AlignedBuf::zeroed(300 << 10)).await;
            assert_eq!(read?, 300 << 10);
            assert!(back[..] == buf[..]);
            let (read, _) = io
                .read(file, (1 << 20) - 4096, AlignedBuf::zeroed(8192))
                .await;
            assert_eq!(read?, 4096, "a read stops at the end of the file");
            let (read, _) = io.read(file, 1 << 20, AlignedBuf::zeroed(8192)).await;
            assert_eq!(read?, 0);
            io.close(file).await?;
            assert_eq!(kind(io.sync(file).await), IoErrorKind::NotOpen);
            let (read, buf) = io.read(file, 0, AlignedBuf::zeroed(10)).await;
            assert_eq!((kind(read), buf.len()), (IoErrorKind::NotOpen, 10));

            io.create_dir(path("d")).await?;
            assert_eq!(kind(io.create_dir(path("d")).await), IoErrorKind::Exists);
            io.rename(path("a"), path("b")).await?;
            assert_eq!(io.list_dir(&dir.0).await?, ["b", "d"]);
            let file = io.open(path("b"), OpenMode::READ).await?;
            let (written, _) = io.write(file, 0, pattern(10)).await;
            assert_eq!(kind(written), IoErrorKind::Os(libc::EBADF));
            let (written, buf) = io.write_synced(file, 0, pattern(10)).await;
            assert_eq!(kind(written), IoErrorKind::Os(libc::EBADF));
            assert_eq!(buf.len(), 10);
            let full = io.open("/dev/full", OpenMode::WRITE).await?;
            let (written, _) = io.write_synced(full, 0, pattern(10)).await;
            assert_eq!(kind(written), IoErrorKind::NoSpace);
            io.sync(file).await?;
            io.unlink(path("b")).await?;
            assert_eq!(kind(io.unlink(path("b")).await), IoErrorKind::NotFound);
            let nul = io.open(path("n\0"), OpenMode::READ).await;
            assert_eq!(kind(nul), IoErrorKind::Os(libc::EINVAL));
            Ok::<(), IoError>(())
        };
        drive::run(&io, script)
            .unwrap()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(io.in_flight(), 0);
    }
}

#[test]
fn many_in_flight_and_forgotten_futures() {
    for (name, io) in backends(None) {
        let dir = TempDir::new(name);
        let script = async {
            let file = io
                .open(dir.0.join("f"), OpenMode::CREATE_NEW)
                .await
                .unwrap();
            // More than the submission queue of the ring holds.
            let write = |i: u64| {
                let mut buf = io.buffer(4096);
                buf.fill(i as u8);
                io.submit(IoOp::Write {
                    file,
                    offset: i * 4096,
                    buf,
                    sync: i.is_multiple_of(100),
                })
            };
            let writes: Vec<_> = (0..1000).map(write).collect();
            for write in writes {
                io.recycle(write.await.buf.unwrap());
            }
            for i in [0u64, 500, 999] {
                let (read, buf) = io.read(file, i * 4096, io.buffer(4096)).await;
                assert_eq!(read, Ok(4096));
                assert!(buf.iter().all(|&b| b == i as u8), "{name}: block {i}");
            }
            drop(io.submit(IoOp::Read {
                file,
                offset: 0,
                buf: io.buffer(4096),
            }));
            drop(io.submit(IoOp::Open {
                path: dir.0.join("f"),
                mode: OpenMode::READ,
            }));
            io.sync(file).await.unwrap();
        };
        drive::run(&io, script).unwrap();
        // The forgotten ones land, and the file that nobody wants is closed again.
        while io.in_flight() > 0 {
            if io.poll() == 0 {
                io.wait(None);
            }
        }
        // Dropped with an operation in flight: its buffer outlives it.
        let (_, io) = backends(None).remove(0);
        drop(io.submit(IoOp::ListDir {
            path: dir.0.clone(),
        }));
    }
}

#[test]
fn backend_dropped_with_operations_in_flight() {
    for (name, io) in backends(None) {
        let dir = TempDir::new(name);
        let file = drive::run(&io, io.open(dir.0.join("f"), OpenMode::CREATE_NEW))
            .unwrap()
            .unwrap();
        for i in 0..20 {
            drop(io.submit(IoOp::Write {
                file,
                offset: i << 16,
                buf: pattern(1 << 16),
                sync: true,
            }));
        }
        drop(io);
    }
}

#[test]
fn wait_returns_on_wake_and_on_timeout() {
    let wake = Wake::new().unwrap();
    for (name, io) in backends(Some(&wake)) {
        for _ in 0..3 {
            let before = Instant::now();
            io.wait(Some(Duration::from_millis(5)));
            assert!(
                before.elapsed() >= Duration::from_millis(4),
                "{name} did not wait"
            );
            let waker = Arc::clone(&wake);
            let thread = std::thread::spawn(move || waker.force());
            io.wait(None);
            thread.join().unwrap();
            assert_eq!(io.poll(), 0);
        }
    }
}
