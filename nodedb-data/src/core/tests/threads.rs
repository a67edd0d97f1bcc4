//! Cores on threads of their own over real files.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use nodedb_bridge::account::MemoryAccount;
use nodedb_bridge::clock::{Clock, Snapshots, TimeSource};
use nodedb_bridge::plan::{Get, OutputColumn, RowAction, RowWrite, SchemaStep, WriteBatch};
use nodedb_bridge::reply::{Frame, open};
use nodedb_bridge::request::{Op, Request, Statement};
use nodedb_bridge::upcall::Upcall;
use nodedb_bridge::wiring::{Depths, WorkerEnds, wire};
use nodedb_types::{ActorId, CoreId, SessionId, ShardId, TraceId, Value, key};

use super::machine::{COLLECTION, collection, encode};
use crate::core::run::{CoreThread, IoChoice, ThreadConfig};
use crate::core::{CoreConfig, Covered, NodeLatch, Shared};
use crate::io::probe_uring;

struct Wall(Instant);

impl TimeSource for Wall {
    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.elapsed().as_millis() as u64
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

struct Server {
    threads: Vec<CoreThread>,
    worker: WorkerEnds,
    clock: Arc<Clock>,
}

impl Server {
    fn start(dir: &std::path::Path, epoch: u32, cores: u16, io: IoChoice) -> Server {
        let (ends, workers, _events) = wire(cores, 1, Depths::default()).unwrap();
        let clock = Arc::new(Clock::new(Arc::new(Wall(Instant::now()))));
        let shared = Shared {
            snapshots: Snapshots::new(1, clock.clone()),
            clock: clock.clone(),
            latch: NodeLatch::default(),
            covered: Covered::new(cores),
        };
        let (told, ready) = channel();
        let start = |ends: nodedb_bridge::wiring::CoreEnds| {
            let config = CoreConfig {
                epoch,
                ..CoreConfig::new(ends.core, cores, 4, PathBuf::from(dir))
            };
            let thread = ThreadConfig { io, pin_to: None };
            let told = told.clone();
            let notify = move || told.send(()).unwrap();
            CoreThread::start(config, thread, ends, shared.clone(), notify).unwrap()
        };
        let threads: Vec<CoreThread> = ends.into_iter().map(start).collect();
        for _ in &threads {
            ready.recv().unwrap();
        }
        assert!(threads.iter().all(CoreThread::is_ready));
        let worker = workers.into_iter().next().unwrap();
        Server {
            threads,
            worker,
            clock,
        }
    }

    /// Sends a request and waits for its last frame, serving leases meanwhile.
    fn call(&mut self, core: CoreId, op: Op) -> Vec<Frame> {
        let at = usize::from(core.0);
        let wake = self.worker.core_wakes[at].clone();
        let (reply, mut reader) = open(8, 0, wake.clone(), None);
        let statement = Arc::new(Statement {
            session: SessionId(1),
            actor: ActorId(1),
            trace: TraceId(1),
            deadline_ns: None,
            snapshot: self.clock.now(),
            pins: [].into(),
            account: Arc::new(MemoryAccount::new(1 << 20)),
        });
        let request = Request {
            statement,
            op,
            reply,
        };
        assert!(self.worker.requests[at].push(request).is_ok());
        wake.notify();
        let mut frames = Vec::new();
        loop {
            self.worker.pump.run();
            while let Some(frame) = reader.take() {
                match frame {
                    Frame::End(_) => return frames,
                    Frame::Failed(failure) => panic!("{failure:?}"),
                    frame => frames.push(frame),
                }
            }
            self.serve_leases();
            self.park();
        }
    }

    fn serve_leases(&mut self) {
        let upcalls: Vec<Upcall> = self
            .worker
            .upcalls
            .iter_mut()
            .flat_map(|ring| std::iter::from_fn(|| ring.pop().ok()))
            .collect();
        for upcall in upcalls {
            let Upcall::NeedExtent {
                core,
                collection,
                shard,
                big,
            } = upcall
            else {
                panic!("{upcall:?}")
            };
            let lease = Op::Lease {
                collection,
                shard,
                big,
            };
            let frames = self.call(CoreId(0), lease);
            let [Frame::Leased(extent)] = frames[..] else {
                panic!("{frames:?}")
            };
            self.call(core, Op::Grant(extent));
        }
    }

    /// Waits until a core rings.
    fn park(&mut self) {
        let wake = self.worker.pump.wake().clone();
        wake.prepare_sleep();
        if self.worker.pump.run() == 0 {
            let mut poll = libc::pollfd {
                fd: wake.fd().as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one pollfd of this frame is handed over with its count.
            unsafe { libc::poll(&raw mut poll, 1, 5) };
        }
        wake.awake();
        wake.drain();
    }

    fn stop(self) {
        for thread in self.threads {
            thread.stop().unwrap();
        }
    }
}

fn place(id: i64) -> (ShardId, Box<[u8]>) {
    let key = key::of(&Value::Int8(id)).unwrap();
    (key::shard_of(&key, 7, 4), key.into())
}

fn serves_and_restarts(io: IoChoice) {
    let dir = std::env::temp_dir().join(format!("ndb-core-{}-{io:?}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    for (epoch, cores) in [(1, 2), (2, 1), (3, 2)] {
        let mut server = Server::start(&dir, epoch, cores, io);
        if epoch == 1 {
            for core in 0..cores {
                let step = SchemaStep::CreateCollection(collection());
                server.call(CoreId(core), Op::Schema(step));
            }
        }
        let base = i64::from(epoch) * 100;
        for id in base..base + 20 {
            let (shard, key) = place(id);
            let row = encode(id, Some(1), "row").into();
            let action = RowAction::Put { row };
            let rows = vec![RowWrite { shard, key, action }];
            let batch = WriteBatch {
                collection: COLLECTION,
                rows,
                returning: None,
            };
            server.call(shard.core(cores), Op::Write(batch));
        }
        for id in (100..base + 20).filter(|id| id % 100 < 20) {
            let (shard, key) = place(id);
            let get = Get {
                collection: COLLECTION,
                keys: vec![(shard, key)],
                filter: None,
                output: Arc::from([OutputColumn::Column(0)]),
            };
            let frames = server.call(shard.core(cores), Op::Get(get));
            assert!(
                matches!(&frames[..], [Frame::Batch(b)] if b.num_rows() == 1),
                "row {id}"
            );
        }
        server.stop();
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_thread_pool_serves_and_restarts() {
    serves_and_restarts(IoChoice::Threads);
}

#[test]
fn io_uring_serves_and_restarts() {
    // Where the host forbids io_uring, the server itself falls back to the thread pool.
    if probe_uring().is_ok() {
        serves_and_restarts(IoChoice::Uring);
    }
}
