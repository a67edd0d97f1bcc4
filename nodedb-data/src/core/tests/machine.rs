//! A simulated machine: cores over one simulated disk, stepped on one thread, with just enough of
//! control to hand out leases.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nodedb_bridge::account::MemoryAccount;
use nodedb_bridge::clock::{Clock, SnapshotSlot, Snapshots, TimeSource};
use nodedb_bridge::op::{EngineOp, ordered};
use nodedb_bridge::plan::{
    Conclude, Decide, Expected, Get, GetRow, OnConflict, Order, Outcome, Output, OutputColumn,
    Prepare, RowAction, RowWrite, SchemaStep, SetExpr, SetQuery, Source, StageRows, StagedRow,
    WriteBatch,
};
use nodedb_bridge::reply::{Frame, ReplyReader, open};
use nodedb_bridge::request::{Op, Request, Statement};
use nodedb_bridge::upcall::Upcall;
use nodedb_bridge::wiring::{Depths, EventEnds, WorkerEnds, wire};
use nodedb_types::arrow_map::value_at;
use nodedb_types::limits::REPLY_CREDITS;
use nodedb_types::row::RowView;
use nodedb_types::schema::IndexState;
use nodedb_types::{
    ActorId, Collection, CollectionId, Column, CommitTs, CoreId, DataType, Engine, Failure, Index,
    IndexId, Result, SchemaVersion, SessionId, ShardId, SqlState, Surrogate, TraceId, TxnId, Value,
    key, row,
};

use crate::core::{Core, CoreConfig, Covered, NodeLatch, Progress, Shared};
use crate::io::sim::{Rng, SimDisk, TearVariant};
use crate::pace::OVERDRAFT_MAX;

/// The columns n and t of a row.
pub type Cells = (Option<i32>, String);

pub const COLLECTION: CollectionId = CollectionId(1024);
const SEED: u64 = 7;

#[derive(Default)]
struct Time(AtomicU64);

impl TimeSource for Time {
    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.load(Ordering::Relaxed) / 1_000_000
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The machine's disk and what a start of the server needs to know.
pub struct Machine {
    pub disk: SimDisk,
    pub shards: u16,
    epoch: u32,
    time: Arc<Time>,
    pub page_faults: bool,
    pub depths: Depths,
    pub history_bytes_max: usize,
    /// See `CoreConfig`.
    pub checkpoint_units: u64,
    pub leaf_bytes_max: usize,
}

impl Machine {
    pub fn new(seed: u64, shards: u16) -> Machine {
        Machine {
            disk: SimDisk::new(seed),
            shards,
            epoch: 0,
            time: Arc::default(),
            page_faults: false,
            depths: Depths {
                requests: 4,
                streams: 64,
                upcalls: 1,
                events: 64,
            },
            history_bytes_max: 1 << 20,
            checkpoint_units: u64::MAX,
            leaf_bytes_max: usize::MAX,
        }
    }

    /// Starts the server and waits for its recovery; `None` when the power fails meanwhile.
    pub fn start(&mut self, cores: u16) -> Option<Node> {
        let mut node = self.boot(cores);
        node.until(|node| node.cores.iter().all(Core::is_recovered))?;
        Some(node)
    }

    /// Starts the server; its recovery is still to come.
    pub fn boot(&mut self, cores: u16) -> Node {
        self.epoch += 1;
        let (core_ends, workers, events) = wire(cores, 1, self.depths).unwrap();
        let clock = Arc::new(Clock::new(self.time.clone()));
        let shared = Shared {
            snapshots: Snapshots::new(1, clock.clone()),
            clock,
            latch: NodeLatch::default(),
            covered: Covered::new(cores),
        };
        let config = |core: CoreId| CoreConfig {
            epoch: self.epoch,
            page_faults: self.page_faults,
            small_segments: true,
            history_bytes_max: self.history_bytes_max,
            checkpoint_units: self.checkpoint_units,
            leaf_bytes_max: self.leaf_bytes_max,
            ..CoreConfig::new(core, cores, self.shards, PathBuf::from("/"))
        };
        let cores = core_ends.into_iter().map(|ends| {
            let io = Box::new(self.disk.io());
            Core::new(config(ends.core), ends, io, shared.clone(), Box::new(|| 0))
        });
        Node {
            cores: cores.collect(),
            slot: shared.snapshots.slot(0),
            shared,
            worker: workers.into_iter().next().unwrap(),
            events,
            disk: self.disk.clone(),
            time: self.time.clone(),
            shards: self.shards,
            leases: Vec::new(),
            rng: Rng::new(u64::from(self.epoch)),
        }
    }

    /// Number of the last start.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Power fails now, if it has not, and comes back.
    pub fn restart(&self, variant: TearVariant) {
        self.disk.crash_now();
        self.disk.restart(variant);
    }
}

/// A running server without its control plane.
pub struct Node {
    pub cores: Vec<Core>,
    pub shared: Shared,
    pub slot: SnapshotSlot,
    pub worker: WorkerEnds,
    pub events: EventEnds,
    disk: SimDisk,
    time: Arc<Time>,
    shards: u16,
    /// Leases under way, with the core that wants them.
    leases: Vec<(ReplyReader, Option<CoreId>)>,
    rng: Rng,
}

/// How a request ended.
#[derive(Debug)]
pub struct Answer {
    pub frames: Vec<Frame>,
    pub result: Result<()>,
}

impl Answer {
    pub fn rows(&self, types: &[DataType]) -> Vec<Vec<Value>> {
        let mut rows = Vec::new();
        for frame in &self.frames {
            if let Frame::Batch(batch) = frame {
                for row in 0..batch.num_rows() {
                    let cell = |(c, t)| value_at(batch.column(c), row, t).unwrap();
                    rows.push(types.iter().enumerate().map(cell).collect());
                }
            }
        }
        rows
    }

    pub fn written(&self) -> u64 {
        let written = self.frames.iter().find_map(|f| match f {
            Frame::Written(n) => Some(*n),
            _ => None,
        });
        written.expect("a write says how many rows it changed")
    }
}

impl Node {
    /// One step of every core in a random order, and of the little control plane.
    pub fn step(&mut self) {
        self.time.0.fetch_add(50_000, Ordering::Relaxed);
        let now = self.time.monotonic_ns();
        let first = self.rng.below(self.cores.len() as u64) as usize;
        for n in 0..self.cores.len() {
            let core = (first + n) % self.cores.len();
            if let Progress::Broken(failure) = self.cores[core].step(now) {
                panic!("core {core} is broken: {failure:?}");
            }
            let overdrawn = self.cores[core].overdrawn();
            assert!(
                overdrawn <= OVERDRAFT_MAX,
                "a turn of {overdrawn} units too many"
            );
        }
        self.worker.pump.run();
        self.serve_upcalls();
    }

    fn serve_upcalls(&mut self) {
        for core in 0..self.worker.upcalls.len() {
            while let Ok(upcall) = self.worker.upcalls[core].pop() {
                if let Upcall::NeedExtent {
                    core,
                    collection,
                    shard,
                    big,
                } = upcall
                {
                    let op = Op::Lease {
                        collection,
                        shard,
                        big,
                    };
                    let reader = self.send(CoreId(0), self.statement(), op);
                    self.leases.push((reader, Some(core)));
                }
            }
        }
        for (mut reader, core) in std::mem::take(&mut self.leases) {
            match (reader.take(), core) {
                (Some(Frame::Leased(extent)), Some(core)) => {
                    let grant = self.send(core, self.statement(), Op::Grant(extent));
                    self.leases.push((grant, None));
                }
                (Some(Frame::Failed(failure)), _) => {
                    assert!(
                        matches!(
                            failure.code(),
                            SqlState::ReadOnly | SqlState::IoError | SqlState::DiskFull
                        ),
                        "a lease failed: {failure:?}"
                    );
                }
                (Some(_), _) => {}
                (None, core) => self.leases.push((reader, core)),
            }
        }
    }

    /// Steps until `done`; `None` when the power fails first.
    pub fn until(&mut self, mut done: impl FnMut(&mut Node) -> bool) -> Option<()> {
        for _ in 0..200_000 {
            if done(self) {
                return Some(());
            }
            if self.disk.halted() {
                return None;
            }
            self.step();
        }
        panic!("nothing comes of it");
    }

    pub fn statement(&self) -> Arc<Statement> {
        self.statement_at(self.shared.clock.now())
    }

    pub fn statement_at(&self, snapshot: CommitTs) -> Arc<Statement> {
        Arc::new(Statement {
            session: SessionId(1),
            actor: ActorId(9),
            trace: TraceId(1),
            deadline_ns: Some(self.time.monotonic_ns() + 5_000_000_000),
            snapshot,
            pins: [].into(),
            account: Arc::new(MemoryAccount::new(64 << 20)),
        })
    }

    /// Puts a request into a core's ring.
    pub fn send(&mut self, core: CoreId, statement: Arc<Statement>, op: Op) -> ReplyReader {
        let at = usize::from(core.0);
        let (reply, reader) = open(REPLY_CREDITS, 0, self.worker.core_wakes[at].clone(), None);
        let mut request = Request {
            statement,
            op,
            reply,
        };
        // A full ring is the sender's to wait for.
        while let Err(rtrb::PushError::Full(back)) = self.worker.requests[at].push(request) {
            request = back;
            let now = self.time.monotonic_ns();
            self.cores[at].step(now);
        }
        reader
    }

    /// Reads a reply to its end; `None` when the power fails first.
    pub fn finish(&mut self, mut reader: ReplyReader) -> Option<Answer> {
        let mut frames = Vec::new();
        let mut end = None;
        self.until(|_| {
            while let Some(frame) = reader.take() {
                match frame {
                    Frame::End(_) => end = Some(Ok(())),
                    Frame::Failed(failure) => end = Some(Err(failure)),
                    frame => frames.push(frame),
                }
            }
            end.is_some()
        })?;
        Some(Answer {
            frames,
            result: end?,
        })
    }

    pub fn call(&mut self, core: CoreId, op: Op) -> Option<Answer> {
        let reader = self.send(core, self.statement(), op);
        self.finish(reader)
    }

    pub fn core_of(&self, shard: ShardId) -> CoreId {
        shard.core(self.cores.len() as u16)
    }

    /// A schema step on every core.
    pub fn schema(&mut self, step: SchemaStep) -> Option<Result<()>> {
        for core in 0..self.cores.len() {
            let answer = self.call(CoreId(core as u16), Op::Schema(step.clone()))?;
            if answer.result.is_err() {
                return Some(answer.result);
            }
        }
        Some(Ok(()))
    }

    pub fn place(&self, id: i64) -> (ShardId, Box<[u8]>) {
        let key = key::of(&Value::Int8(id)).unwrap();
        (key::shard_of(&key, SEED, self.shards), key.into())
    }

    pub fn insert(&self, id: i64, n: Option<i32>, text: &str, on_conflict: OnConflict) -> RowWrite {
        let (shard, key) = self.place(id);
        let row = encode(id, n, text).into();
        RowWrite {
            shard,
            key,
            action: RowAction::Insert { row, on_conflict },
        }
    }

    pub fn put(&self, id: i64, n: Option<i32>, text: &str) -> RowWrite {
        let (shard, key) = self.place(id);
        let row = encode(id, n, text).into();
        RowWrite {
            shard,
            key,
            action: RowAction::Put { row },
        }
    }

    /// Sends rows of one core as one write.
    pub fn start_write(&mut self, rows: Vec<RowWrite>) -> ReplyReader {
        let core = self.core_of(rows[0].shard);
        let batch = WriteBatch {
            collection: COLLECTION,
            rows,
            returning: None,
        };
        self.send(core, self.statement(), Op::Write(batch))
    }

    pub fn write(&mut self, rows: Vec<RowWrite>) -> Option<Answer> {
        let reader = self.start_write(rows);
        self.finish(reader)
    }

    /// The row with this id as of a snapshot: `n` and the text. It is asked for in both ways.
    pub fn get_at(&mut self, id: i64, at: CommitTs) -> Option<Result<Option<Cells>>> {
        let alone = self.get_row_at(id, at)?;
        let read = self.get_batch_at(id, at)?;
        Some(alone.and_then(|alone| {
            let read = read?;
            assert_eq!(alone, read, "a row is the same alone and in a batch");
            Ok(read)
        }))
    }

    fn get_row_at(&mut self, id: i64, at: CommitTs) -> Option<Result<Option<Cells>>> {
        let (shard, key) = self.place(id);
        let get = GetRow {
            collection: COLLECTION,
            shard,
            key,
            columns: [1, 2].into(),
        };
        let core = self.core_of(shard);
        let reader = self.send(core, self.statement_at(at), Op::GetRow(get));
        let answer = self.finish(reader)?;
        let row = answer.frames.iter().find_map(|frame| match frame {
            Frame::Row(row) => {
                let view = RowView::new(row).unwrap();
                Some(cells(view.to_values(&TYPES[1..]).unwrap()))
            }
            _ => None,
        });
        Some(answer.result.map(|()| row))
    }

    fn get_batch_at(&mut self, id: i64, at: CommitTs) -> Option<Result<Option<Cells>>> {
        let (shard, key) = self.place(id);
        let get = Get {
            collection: COLLECTION,
            keys: vec![(shard, key)],
            filter: None,
            output: Arc::from([OutputColumn::Column(1), OutputColumn::Column(2)]),
        };
        let core = self.core_of(shard);
        let reader = self.send(core, self.statement_at(at), Op::Get(get));
        let answer = self.finish(reader)?;
        let rows = answer.rows(&[DataType::Int4, DataType::Text(None)]);
        Some(answer.result.map(|()| rows.into_iter().next().map(cells)))
    }

    pub fn get(&mut self, id: i64) -> Option<Option<Cells>> {
        let now = self.shared.clock.now();
        Some(self.get_at(id, now)?.expect("a read by key succeeds"))
    }

    /// A transaction that writes these rows, by core: `None` deletes. What is expected of each key
    /// is read first.
    pub fn stage(&mut self, rows: &[(i64, Option<Vec<u8>>)]) -> Option<Staged> {
        let txn = TxnId(self.shared.clock.next().0);
        let mut by_core: BTreeMap<CoreId, Vec<StagedRow>> = BTreeMap::new();
        for (id, row) in rows {
            let (shard, key) = self.place(*id);
            let expected = match self.version_of(*id)? {
                Some((surrogate, version)) => Expected::Version { surrogate, version },
                None => Expected::Absent,
            };
            by_core
                .entry(self.core_of(shard))
                .or_default()
                .push(StagedRow {
                    shard,
                    key,
                    expected,
                    row: row.clone().map(Into::into),
                });
        }
        let mut participants: Vec<ShardId> =
            by_core.values().flatten().map(|row| row.shard).collect();
        participants.sort_unstable();
        participants.dedup();
        let cores: Vec<CoreId> = by_core.keys().copied().collect();
        for (core, rows) in by_core {
            let chunk = StageRows {
                txn,
                collection: COLLECTION,
                rows,
            };
            self.call(core, Op::Stage(chunk))?.result.unwrap();
        }
        Some(Staged {
            txn,
            cores,
            participants: participants.into(),
        })
    }

    /// Prepares on every core; the first failure is the answer, and the transaction is given up.
    pub fn prepare(&mut self, staged: &Staged) -> Option<Result<()>> {
        for &core in &staged.cores {
            let prepare = Prepare {
                txn: staged.txn,
                participants: staged.participants.clone(),
            };
            let answer = self.call(core, Op::Prepare(prepare))?;
            if answer.result.is_err() {
                self.conclude(staged, Outcome::Aborted)?;
                return Some(answer.result);
            }
            assert!(matches!(answer.frames[..], [Frame::Vote { .. }]));
        }
        Some(Ok(()))
    }

    /// Makes the decision to commit durable.
    pub fn decide(&mut self, staged: &Staged) -> Option<CommitTs> {
        let commit_ts = self.shared.clock.next();
        let core = self.core_of(staged.participants[0]);
        let decide = Decide {
            txn: staged.txn,
            commit_ts,
            participants: staged.participants.clone(),
        };
        self.call(core, Op::Decide(decide))?.result.unwrap();
        Some(commit_ts)
    }

    pub fn conclude(&mut self, staged: &Staged, outcome: Outcome) -> Option<()> {
        for &core in &staged.cores {
            let txn = staged.txn;
            let conclude = Op::Conclude(Conclude { txn, outcome });
            self.call(core, conclude)?.result.unwrap();
        }
        Some(())
    }

    fn version_of(&mut self, id: i64) -> Option<Option<(Surrogate, CommitTs)>> {
        let (shard, key) = self.place(id);
        let get = Get {
            collection: COLLECTION,
            keys: vec![(shard, key)],
            filter: None,
            output: Arc::from([OutputColumn::Surrogate, OutputColumn::Version]),
        };
        let answer = self.call(self.core_of(shard), Op::Get(get))?;
        let rows = answer.rows(&[DataType::Int8, DataType::Int8]);
        Some(rows.first().map(|row| match row[..] {
            [Value::Int8(surrogate), Value::Int8(version)] => (
                Surrogate::new(surrogate as u32).unwrap(),
                CommitTs(version as u64),
            ),
            _ => panic!("a row has its surrogate and version"),
        }))
    }

    /// All rows of the collection as of now, by id.
    pub fn all(&mut self) -> Option<BTreeMap<i64, Cells>> {
        let columns = (0..3).map(OutputColumn::Column).collect();
        let mut all = BTreeMap::new();
        let guard = self.slot.acquire();
        for answer in self.query(
            query(SetExpr::All, Vec::new(), Output::Rows(columns)),
            guard.snapshot(),
        )? {
            answer.result.as_ref().unwrap();
            for row in answer.rows(&TYPES) {
                let Value::Int8(id) = row[0] else {
                    panic!("ids are not null")
                };
                assert!(all.insert(id, cells(row[1..].to_vec())).is_none());
            }
        }
        Some(all)
    }

    /// The set query's answers of all cores.
    pub fn query(&mut self, query: SetQuery, at: CommitTs) -> Option<Vec<Answer>> {
        let query = Arc::new(query);
        (0..self.cores.len())
            .map(|core| {
                let statement = self.statement_at(at);
                let op = Op::Query(query.clone());
                let reader = self.send(CoreId(core as u16), statement, op);
                self.finish(reader)
            })
            .collect()
    }

    /// How many rows an index finds with n in a range.
    pub fn count(&mut self, index: IndexId, low: i32, high: i32) -> Option<u64> {
        let op = EngineOp::Ordered(ordered::Op::Range {
            low: Bound::Included(Value::Int4(low)),
            high: Bound::Included(Value::Int4(high)),
        });
        let sources = vec![Source::Index { index, op }];
        let at = self.shared.clock.now();
        let answers = self.query(query(SetExpr::Source(0), sources, Output::Count), at)?;
        Some(
            answers
                .iter()
                .map(|answer| match answer.frames[..] {
                    [Frame::Count(n)] => n,
                    _ => panic!("{answer:?} is no count"),
                })
                .sum(),
        )
    }

    /// What `CHECK COLLECTION` finds.
    pub fn check(&mut self) -> Option<Vec<Vec<Value>>> {
        let mut findings = Vec::new();
        for core in 0..self.cores.len() {
            let op = Op::Check {
                collection: COLLECTION,
            };
            let answer = self.call(CoreId(core as u16), op)?;
            answer.result.as_ref().unwrap();
            findings.extend(answer.rows(&[
                DataType::Int4,
                DataType::Text(None),
                DataType::Text(None),
            ]));
        }
        Some(findings)
    }
}

/// A transaction whose rows are staged.
pub struct Staged {
    pub txn: TxnId,
    pub cores: Vec<CoreId>,
    pub participants: Arc<[ShardId]>,
}

pub fn query(set: SetExpr, sources: Vec<Source>, output: Output) -> SetQuery {
    SetQuery {
        collection: COLLECTION,
        shard: None,
        sources,
        set,
        order: Order::Any,
        limit: None,
        output,
        explain: false,
    }
}

/// A started server with the collection of these tests.
pub fn with_collection(machine: &mut Machine, cores: u16) -> Node {
    let mut node = machine.start(cores).unwrap();
    node.schema(SchemaStep::CreateCollection(collection()))
        .unwrap()
        .unwrap();
    node
}

/// An ordered index on n.
pub fn index_on_n(id: IndexId) -> Arc<Index> {
    Arc::new(Index {
        id,
        name: "things_n".to_owned(),
        collection: COLLECTION,
        method: "btree".to_owned(),
        columns: vec![1],
        operator_class: None,
        options: Vec::new(),
        state: IndexState::WriteOnly,
    })
}

/// A full-text index on t.
pub fn index_on_t(id: IndexId) -> Arc<Index> {
    Arc::new(Index {
        name: "things_t".to_owned(),
        method: "fulltext".to_owned(),
        columns: vec![2],
        ..Index::clone(&index_on_n(id))
    })
}

fn cells(row: Vec<Value>) -> Cells {
    let n = match row[0] {
        Value::Int4(n) => Some(n),
        _ => None,
    };
    match &row[1] {
        Value::Text(text) => (n, text.clone()),
        other => panic!("{other:?} is no text"),
    }
}

pub const TYPES: [DataType; 3] = [DataType::Int8, DataType::Int4, DataType::Text(None)];

pub fn encode(id: i64, n: Option<i32>, text: &str) -> Vec<u8> {
    let n = n.map_or(Value::Null, Value::Int4);
    row::encode(&[Value::Int8(id), n, Value::Text(text.to_owned())], &TYPES).unwrap()
}

/// id BIGINT PRIMARY KEY, n INT, t TEXT.
pub fn collection() -> Arc<Collection> {
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
        columns: vec![
            column("id", TYPES[0]),
            column("n", TYPES[1]),
            column("t", TYPES[2]),
        ],
        key: Some(0),
    })
}

/// How many seeds a test of random histories runs: a few, or as many as `NODEDB_TEST_SEEDS` says.
pub fn seeds(usual: u64) -> std::ops::Range<u64> {
    let wanted = std::env::var("NODEDB_TEST_SEEDS").ok();
    0..wanted.and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// Asserts a failure's code.
pub fn fails(answer: &Answer, code: SqlState) -> &Failure {
    let failure = answer.result.as_ref().expect_err("it must fail");
    assert_eq!(failure.code(), code, "{failure:?}");
    failure
}
