//! Fake cores with a fake log: what they commit is in the log at once and in their ring if it has
//! room, as with real ones.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nodedb_bridge::clock::{Clock, TimeSource};
use nodedb_bridge::event::{Emitted, EventBatch, EventOp, WriteEvent};
use nodedb_bridge::port::{
    EventLog, EventPosition, LogPage, LogQuery, OpenEventLog, StreamEvent, StreamReader,
    StreamRequest, StreamRows,
};
use nodedb_bridge::wiring::{CoreEnds, Depths, EventEnds, wire};
use nodedb_types::schema::Stream;
use nodedb_types::{
    ActorId, Collection, CollectionId, Column, CommitTs, DataType, Engine, Failure, Lsn, Result,
    SchemaVersion, ShardId, SqlState, StreamId, Surrogate, Value, key, row,
};

use crate::EventPlane;
use crate::bus::position;

pub const COLLECTION: CollectionId = CollectionId(2000);
/// Rows of a commit that the log gives as one part.
const PART_ROWS: usize = 5;
/// Batches of a page of the log.
pub const PAGE_PARTS: usize = 3;
const TYPES: [DataType; 2] = [DataType::Int8, DataType::Text(None)];

struct Stopped(AtomicU64);

impl TimeSource for Stopped {
    fn unix_ms(&self) -> u64 {
        1
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub fn collection() -> Arc<Collection> {
    let column = |name: &str, data_type| Column {
        name: name.into(),
        data_type,
        not_null: false,
    };
    Arc::new(Collection {
        id: COLLECTION,
        name: "c".into(),
        engine: Engine::DocumentStrict,
        version: SchemaVersion(1),
        columns: vec![column("id", TYPES[0]), column("name", TYPES[1])],
        key: Some(0),
    })
}

fn image(id: i64, name: &str) -> Arc<[u8]> {
    let values = [Value::Int8(id), Value::Text(name.into())];
    row::encode(&values, &TYPES).unwrap().into()
}

/// What the cores have committed, by position.
#[derive(Clone, Default)]
pub struct Log {
    pub batches: Arc<Mutex<BTreeMap<EventPosition, EventBatch>>>,
    pub oldest: Arc<AtomicU64>,
    pub pages: Arc<AtomicU64>,
    /// Batches that were read back.
    pub given: Arc<AtomicU64>,
}

impl Log {
    /// Keeps what was committed, in parts of some rows as a log does with what it has in several
    /// frames.
    fn keep(&self, batch: &EventBatch) {
        let mut batches = self.batches.lock().unwrap();
        for (part, events) in batch.events.chunks(PART_ROWS).enumerate() {
            let part = EventBatch {
                part: part as u32,
                events: events.to_vec(),
                ..*batch
            };
            batches.insert(position(&part), part);
        }
    }
}

impl EventLog for Log {
    fn page(&mut self, query: &LogQuery) -> Result<LogPage> {
        if self.pages.fetch_add(1, Ordering::Relaxed) == 0 {
            // The first look at a log takes more than one page.
            let again = true;
            return Ok(LogPage {
                again,
                ..LogPage::default()
            });
        }
        let oldest = CommitTs(self.oldest.load(Ordering::Relaxed)).max(query.since);
        let from = query.from.unwrap_or(EventPosition::at(oldest));
        if from.commit_ts < oldest {
            return Err(Failure::new(SqlState::ObjectNotInPrerequisiteState, "gone"));
        }
        let batches = self.batches.lock().unwrap();
        let mut page = LogPage::default();
        for (place, batch) in batches.range(from..EventPosition::at(query.before)) {
            if page.batches.len() == PAGE_PARTS {
                page.next = Some(*place);
                break;
            }
            page.batches.push(batch.clone());
            self.given.fetch_add(1, Ordering::Relaxed);
        }
        Ok(page)
    }
}

/// Two cores of two shards.
pub struct Node {
    pub clock: Arc<Clock>,
    pub cores: Vec<CoreEnds>,
    pub log: Log,
    left_out: [Option<CommitTs>; 2],
    lsn: u64,
}

impl Node {
    pub fn new(ring: usize) -> (Node, EventEnds) {
        let clock = Arc::new(Clock::new(Arc::new(Stopped(AtomicU64::new(0)))));
        let depths = Depths {
            events: ring,
            ..Depths::default()
        };
        let (cores, _, events) = wire(2, 1, depths).unwrap();
        for core in &cores {
            core.low.low.store(u64::MAX, Ordering::SeqCst);
        }
        let node = Node {
            clock,
            cores,
            log: Log::default(),
            left_out: [None; 2],
            lsn: 0,
        };
        (node, events)
    }

    pub fn start(ring: usize) -> (Node, EventPlane) {
        let (node, events) = Node::new(ring);
        let plane = node.plane(events);
        (node, plane)
    }

    pub fn plane(&self, events: EventEnds) -> EventPlane {
        EventPlane::start(events, self.clock.clone(), self.open_log()).unwrap()
    }

    pub fn open_log(&self) -> OpenEventLog {
        let log = self.log.clone();
        Box::new(move || Ok(Box::new(log.clone()) as Box<dyn EventLog>))
    }

    /// Takes a timestamp and holds the core's mark below it.
    pub fn begin(&mut self, core: usize) -> CommitTs {
        let low = &self.cores[core].low.low;
        low.fetch_min(self.clock.now().0, Ordering::SeqCst);
        self.clock.next()
    }

    /// Logs and emits what was begun, and nothing more is under way on the core.
    pub fn finish(&mut self, core: usize, commit_ts: CommitTs, events: Vec<WriteEvent>) {
        self.lsn += 1;
        let batch = EventBatch {
            shard: ShardId(core as u16),
            lsn: Lsn(self.lsn),
            part: 0,
            commit_ts,
            events,
        };
        self.log.keep(&batch);
        let said = self.settle(core);
        if !said || self.cores[core].events.push(Emitted::Batch(batch)).is_err() {
            self.left_out[core].get_or_insert(commit_ts);
        }
        self.publish(core);
    }

    fn settle(&mut self, core: usize) -> bool {
        if let Some(from) = self.left_out[core] {
            let said = self.cores[core].events.push(Emitted::Overflow { from });
            if said.is_err() {
                return false;
            }
            self.left_out[core] = None;
        }
        true
    }

    fn publish(&self, core: usize) {
        let low = self.left_out[core].map_or(u64::MAX, |ts| ts.0);
        self.cores[core].low.low.store(low, Ordering::SeqCst);
        self.cores[core].event_wake.notify();
    }

    /// What a core's step does: says what it left out when there is room.
    pub fn step(&mut self) {
        for core in 0..2 {
            self.settle(core);
            self.publish(core);
        }
    }

    /// One inserted row as a commit.
    pub fn insert(&mut self, core: usize, id: i64) -> CommitTs {
        let ts = self.begin(core);
        self.finish(core, ts, vec![insert(ts, id)]);
        ts
    }
}

pub fn insert(commit_ts: CommitTs, id: i64) -> WriteEvent {
    WriteEvent {
        collection: COLLECTION,
        surrogate: Surrogate::new(id as u32 + 1).unwrap(),
        birth: commit_ts,
        op: EventOp::Insert,
        key: key::of(&Value::Int8(id)).unwrap().into(),
        before: None,
        after: Some(image(id, "n")),
        commit_ts,
        actor: ActorId::SYSTEM,
    }
}

pub fn update(commit_ts: CommitTs, id: i64, name: &str) -> WriteEvent {
    WriteEvent {
        op: EventOp::Update,
        before: Some(image(id, "n")),
        after: Some(image(id, name)),
        ..insert(commit_ts, id)
    }
}

pub fn delete(commit_ts: CommitTs, id: i64) -> WriteEvent {
    WriteEvent {
        op: EventOp::Delete,
        before: Some(image(id, "n")),
        after: None,
        ..insert(commit_ts, id)
    }
}

pub fn open(plane: &EventPlane, since: Option<u64>, follow: bool) -> Result<StreamRows> {
    plane.streams().open(request(since, follow))
}

/// A read of the stream of [`COLLECTION`].
pub fn request(since: Option<u64>, follow: bool) -> StreamRequest {
    let stream = Arc::new(Stream {
        id: StreamId(1),
        name: "s".into(),
        collection: COLLECTION,
        created: CommitTs(0),
        retention_bytes: 1 << 30,
    });
    StreamRequest {
        stream,
        collection: collection(),
        since: since.map(CommitTs),
        follow,
    }
}

/// Runs a future of a test.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.build().unwrap().block_on(future)
}

/// All rows of a read that ends.
pub fn all(rows: &mut StreamRows) -> Result<Vec<StreamEvent>> {
    wait(to_end(rows))
}

/// As [`all`], beside others.
pub async fn to_end(rows: &mut StreamRows) -> Result<Vec<StreamEvent>> {
    let mut found = Vec::new();
    while let Some(piece) = rows.next().await {
        found.extend(piece?);
    }
    Ok(found)
}

/// The next `count` rows of a read that follows.
pub fn some(rows: &mut StreamRows, count: usize) -> Vec<StreamEvent> {
    wait(async {
        let mut found = Vec::new();
        while found.len() < count {
            found.extend(rows.next().await.expect("it follows").unwrap());
        }
        found
    })
}

pub fn ids(events: &[StreamEvent]) -> Vec<i64> {
    let id = |e: &StreamEvent| e.key["{\"id\": ".len()..e.key.len() - 1].parse().unwrap();
    events.iter().map(id).collect()
}
