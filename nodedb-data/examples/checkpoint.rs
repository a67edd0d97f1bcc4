//! Measures checkpoints and starts: `cargo run --release -p nodedb-data --example checkpoint
//! [DIRECTORY] [ROWS] [BYTES]`.
//!
//! One core writes rows (20,000 of 2,048 bytes unless told otherwise), starts again from the log
//! alone, checkpoints while it goes on writing, and starts again from the checkpoint. It prints
//! the longest turn of each phase by CPU time, what the checkpoint wrote, and how long the starts
//! took. The directory's disk belongs beside every figure taken from this.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nodedb_bridge::account::MemoryAccount;
use nodedb_bridge::clock::{Clock, Snapshots, TimeSource};
use nodedb_bridge::plan::{RowAction, RowWrite, SchemaStep, WriteBatch};
use nodedb_bridge::reply::{Frame, ReplyReader, open};
use nodedb_bridge::request::{Op, Request, Statement};
use nodedb_bridge::upcall::Upcall;
use nodedb_bridge::wiring::{Depths, WorkerEnds, wire};
use nodedb_data::core::{Core, CoreConfig, Covered, NodeLatch, Progress, Shared, thread_cpu_ns};
use nodedb_data::io::threads::ThreadIo;
use nodedb_data::io::uring::UringIo;
use nodedb_data::io::{Io, probe_uring};
use nodedb_types::{
    ActorId, Collection, CollectionId, Column, CoreId, DataType, Engine, SchemaVersion, SessionId,
    TraceId, Value, key, row,
};

const COLLECTION: CollectionId = CollectionId(1024);
const SHARDS: u16 = 4;
const TYPES: [DataType; 2] = [DataType::Int8, DataType::Text(None)];
/// Rows of a write, and writes under way at a time.
const BATCH: i64 = 20;
const WINDOW: usize = 8;

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("somebody reads");
}

struct MachineTime(Instant);

impl TimeSource for MachineTime {
    fn unix_ms(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("the clock is past 1970").as_millis() as u64
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

struct Node {
    core: Core,
    worker: WorkerEnds,
    clock: Arc<Clock>,
    _snapshots: Arc<Snapshots>,
    leases: Vec<(ReplyReader, bool)>,
    longest_us: u64,
}

impl Node {
    fn start(dir: &Path, epoch: u32) -> Node {
        let depths = Depths::default();
        let (ends, workers, _events) = wire(1, 1, depths).expect("rings");
        let clock = Arc::new(Clock::new(Arc::new(MachineTime(Instant::now()))));
        let snapshots = Snapshots::new(1, clock.clone());
        let shared = Shared {
            clock: clock.clone(),
            snapshots: snapshots.clone(),
            latch: NodeLatch::default(),
            covered: Covered::new(1),
        };
        let config = CoreConfig {
            epoch,
            // Only when this program asks.
            checkpoint_units: u64::MAX,
            checkpoint_log_bytes: u64::MAX,
            ..CoreConfig::new(CoreId(0), 1, SHARDS, dir.to_owned())
        };
        let ends = ends.into_iter().next().expect("one core");
        let io: Box<dyn Io> = match probe_uring() {
            Ok(()) => Box::new(UringIo::new(None).expect("io_uring")),
            Err(_) => Box::new(ThreadIo::new(None).expect("threads")),
        };
        Node {
            core: Core::new(config, ends, io, shared, Box::new(|| 0)),
            worker: workers.into_iter().next().expect("one worker"),
            clock,
            _snapshots: snapshots,
            leases: Vec::new(),
            longest_us: 0,
        }
    }

    fn step(&mut self) {
        let began = thread_cpu_ns();
        let progress = self.core.step(self.clock.time().monotonic_ns());
        self.longest_us = self.longest_us.max((thread_cpu_ns() - began) / 1000);
        match progress {
            Progress::Broken(failure) => panic!("{failure:?}"),
            Progress::Idle { .. } => {
                let soon = std::time::Duration::from_micros(100);
                self.core.io().wait(Some(soon));
            }
            Progress::Busy => {}
        }
        self.worker.pump.run();
        self.serve_leases();
    }

    fn until(&mut self, mut done: impl FnMut(&Node) -> bool) {
        while !done(self) {
            self.step();
        }
    }

    fn send(&mut self, op: Op) -> ReplyReader {
        let (reply, reader) = open(8, 0, self.worker.core_wakes[0].clone(), None);
        let statement = Arc::new(Statement {
            session: SessionId(1),
            actor: ActorId(1),
            trace: TraceId(1),
            deadline_ns: None,
            snapshot: self.clock.now(),
            pins: [].into(),
            account: Arc::new(MemoryAccount::new(64 << 20)),
        });
        let request = Request {
            statement,
            op,
            reply,
        };
        assert!(self.worker.requests[0].push(request).is_ok());
        reader
    }

    fn serve_leases(&mut self) {
        while let Ok(upcall) = self.worker.upcalls[0].pop() {
            if let Upcall::NeedExtent {
                collection,
                shard,
                big,
                ..
            } = upcall
            {
                let reader = self.send(Op::Lease {
                    collection,
                    shard,
                    big,
                });
                self.leases.push((reader, true));
            }
        }
        for (mut reader, is_lease) in std::mem::take(&mut self.leases) {
            match reader.take() {
                Some(Frame::Leased(extent)) if is_lease => {
                    let granted = self.send(Op::Grant(extent));
                    self.leases.push((granted, false));
                }
                Some(frame) => assert!(!matches!(frame, Frame::Failed(_)), "{frame:?}"),
                None => self.leases.push((reader, is_lease)),
            }
        }
    }

    fn finish(&mut self, mut reader: ReplyReader) {
        loop {
            match reader.take() {
                Some(Frame::End(_)) => return,
                Some(Frame::Failed(failure)) => panic!("{failure:?}"),
                Some(_) => {}
                None => self.step(),
            }
        }
    }

    /// Puts the rows with these ids.
    fn put(&mut self, ids: std::ops::Range<i64>, text: &str) {
        let mut window = std::collections::VecDeque::new();
        for from in ids.clone().step_by(BATCH as usize) {
            let rows = (from..(from + BATCH).min(ids.end)).map(|id| write(id, text));
            let batch = WriteBatch {
                collection: COLLECTION,
                rows: rows.collect(),
                returning: None,
            };
            let reader = self.send(Op::Write(batch));
            window.push_back(reader);
            if window.len() == WINDOW {
                let first = window.pop_front().expect("it is full");
                self.finish(first);
            }
        }
        for reader in window {
            self.finish(reader);
        }
    }

    fn longest(&mut self) -> u64 {
        std::mem::take(&mut self.longest_us)
    }
}

fn write(id: i64, text: &str) -> RowWrite {
    let key = key::of(&Value::Int8(id)).expect("an integer is a key");
    let values = [Value::Int8(id), Value::Text(text.to_owned())];
    let row = row::encode(&values, &TYPES).expect("it fits").into();
    RowWrite {
        shard: key::shard_of(&key, 7, SHARDS),
        key: key.into(),
        action: RowAction::Put { row },
    }
}

fn collection() -> Arc<Collection> {
    let column = |name: &str, data_type| Column {
        name: name.to_owned(),
        data_type,
        not_null: false,
    };
    Arc::new(Collection {
        id: COLLECTION,
        name: "things".to_owned(),
        engine: Engine::DocumentStrict,
        version: SchemaVersion(1),
        columns: vec![column("id", TYPES[0]), column("t", TYPES[1])],
        key: Some(0),
    })
}

/// Starts and says how long it took.
fn reopen(dir: &Path, epoch: u32, from: &str) -> Node {
    let began = Instant::now();
    let mut node = Node::start(dir, epoch);
    node.until(|node| node.core.is_recovered());
    let took = began.elapsed().as_secs_f64() * 1000.0;
    let longest = node.longest();
    say(&format!(
        "start from {from}: {took:.0} ms, longest turn {longest} us"
    ));
    node
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let mut number = |usual: i64| {
        let given = arguments.next().and_then(|text| text.parse().ok());
        given.unwrap_or(usual)
    };
    let (rows, bytes) = (number(20_000), number(2_048));
    let dir = parent.join(format!("ndb-checkpoint-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let text = "x".repeat(bytes as usize);

    let mut node = reopen(&dir, 1, "nothing");
    let create = node.send(Op::Schema(SchemaStep::CreateCollection(collection())));
    node.finish(create);
    let began = Instant::now();
    node.put(0..rows, &text);
    say(&format!(
        "{rows} rows of {bytes} bytes written in {:.0} ms, longest turn {} us",
        began.elapsed().as_secs_f64() * 1000.0,
        node.longest()
    ));
    drop(node);

    let mut node = reopen(&dir, 2, "the log");
    let began = Instant::now();
    node.core.checkpoint();
    let mut written = 0;
    while node.core.checkpoints().ended < u64::from(SHARDS) {
        node.put(written..written + BATCH, &text);
        written += BATCH;
    }
    say(&format!(
        "checkpoint of {} bytes beside {written} writes in {:.0} ms, longest turn {} us",
        node.core.checkpoints().bytes,
        began.elapsed().as_secs_f64() * 1000.0,
        node.longest()
    ));
    drop(node);

    let mut node = reopen(&dir, 3, "the checkpoint");
    let before = node.core.checkpoints();
    node.put(0..rows / 100, &text);
    node.core.checkpoint();
    node.until(|node| node.core.checkpoints().ended == before.ended + u64::from(SHARDS));
    say(&format!(
        "checkpoint of {} changed rows: {} bytes",
        rows / 100,
        node.core.checkpoints().bytes
    ));
    drop(node);
    std::fs::remove_dir_all(&dir)
}
