//! Change streams from outside: through kills, other core counts, and readers that do not read.
//!
//! A stream's events, applied one after the other, must give the rows that the collection has:
//! each finds the row before as it says, each statement is one commit and comes whole. That holds
//! over SQL, the native protocol and server-sent events, and after every kill.
//!
//! `NODEDB_TEST_EVENTS` sets how many events are written beside a reader that has stalled, and
//! again after it has gone (20,000 unless told otherwise).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nodedb_types::Value as Cell;
use nodedb_types::limits::STREAM_LOG_READERS_MAX;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::server::{Folder, Server, Start};
use crate::workload::random::{Random, setting};

/// Rows of the collection, and of one statement.
const ROWS: i64 = 1_000;
const ROWS_PER_STATEMENT: i64 = 250;
/// What a server may grow by for a reader that does not read, bytes.
const GROWTH_MAX: u64 = 10 << 20;

/// One event as a reader sees it.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    commit_ts: u64,
    op: String,
    key: Value,
    before: Value,
    after: Value,
}

/// Rows by id, from a stream's events or from the collection.
type Rows = BTreeMap<i64, Value>;

/// Applies events in order; each must find what it says was there.
fn apply(events: &[Event]) -> Rows {
    let mut rows = Rows::new();
    for event in events {
        let id = event.key["id"].as_i64().expect("an id");
        let before = match &event.after {
            Value::Null => rows.remove(&id),
            after => rows.insert(id, after.clone()),
        };
        assert_eq!(before.unwrap_or(Value::Null), event.before, "{event:?}");
        let op = match (&event.before, &event.after) {
            (Value::Null, _) => "insert",
            (_, Value::Null) => "delete",
            _ => "update",
        };
        assert_eq!(event.op, op);
    }
    rows
}

async fn texts(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let found = client.simple_query(sql).await.expect("an answer");
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            let text = |n| row.get(n).map(str::to_owned);
            Some((0..row.len()).map(text).collect())
        }
        _ => None,
    };
    found.into_iter().filter_map(row).collect()
}

fn json(text: Option<&str>) -> Value {
    text.map_or(Value::Null, |t| serde_json::from_str(t).expect("json"))
}

/// A stream over PostgreSQL's protocol.
async fn over_sql(client: &Client) -> Vec<Event> {
    let rows = texts(client, "SELECT * FROM STREAM changes").await;
    let event = |row: Vec<Option<String>>| {
        let text = |n: usize| row[n].as_deref();
        Event {
            commit_ts: text(0).and_then(|t| t.parse().ok()).expect("a timestamp"),
            op: text(1).expect("an op").to_owned(),
            key: json(text(2)),
            before: json(text(3)),
            after: json(text(4)),
        }
    };
    rows.into_iter().map(event).collect()
}

/// The same over the native protocol, from a commit on.
async fn over_native(server: &Server, since: u64) -> Vec<Event> {
    let url = format!("ndb://{}", server.native);
    let client = nodedb_client::Client::connect(&url)
        .await
        .expect("connects");
    let sql = format!("SELECT * FROM STREAM changes SINCE {since}");
    let rows = client.sql(&sql, &[]).await.expect("is answered");
    let rows = rows.collect().await.expect("every row comes");
    let value = |cell: &Cell| match cell {
        Cell::Jsonb(text) => json(Some(text)),
        Cell::Null => Value::Null,
        other => panic!("{other:?} is no json"),
    };
    let event = |row: &nodedb_client::Row| match row.values() {
        [Cell::Int8(ts), Cell::Text(op), key, before, after] => Event {
            commit_ts: *ts as u64,
            op: op.clone(),
            key: value(key),
            before: value(before),
            after: value(after),
        },
        other => panic!("{other:?} is no event"),
    };
    rows.iter().map(event).collect()
}

/// A connection that reads server-sent events.
struct Pushed(BufReader<TcpStream>);

impl Pushed {
    async fn open(server: &Server, last: Option<u64>) -> Pushed {
        let mut socket = TcpStream::connect(server.http).await.expect("connects");
        let last = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let head = format!(
            "GET /v1/streams/changes/events HTTP/1.1\r\nHost: {}\r\n{last}\r\n",
            server.http
        );
        socket.write_all(head.as_bytes()).await.expect("is sent");
        let mut pushed = Pushed(BufReader::new(socket));
        let status = pushed.line().await;
        assert!(status.contains(" 200 "), "{status}");
        pushed
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.expect("is sent");
        assert!(!line.is_empty(), "the server ended the events");
        line
    }

    async fn next(&mut self) -> Event {
        loop {
            let line = self.line().await;
            assert!(!line.starts_with("event: error"), "{}", self.line().await);
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            let data: Value = serde_json::from_str(data).expect("json");
            return Event {
                commit_ts: data["commit_ts"].as_u64().expect("a timestamp"),
                op: data["op"].as_str().expect("an op").to_owned(),
                key: data["key"].clone(),
                before: data["before"].clone(),
                after: data["after"].clone(),
            };
        }
    }
}

/// More readers that wait than there are turns at the log take none of them.
#[tokio::test]
async fn readers_that_wait_keep_nobody_from_reading() {
    let folder = Folder::new("waiting");
    let server = Server::start(
        folder.path(),
        Start {
            cores: 2,
            io: "auto",
        },
    );
    let client = server.connect().await;
    for sql in [
        "CREATE TABLE c (id BIGINT PRIMARY KEY, mark TEXT)",
        "CREATE CHANGE STREAM changes ON c",
    ] {
        client.simple_query(sql).await.expect(sql);
    }
    let mut waiting = Vec::new();
    for _ in 0..STREAM_LOG_READERS_MAX + 16 {
        waiting.push(Pushed::open(&server, None).await);
    }
    let sql = "INSERT INTO c VALUES (1, 'a'), (2, 'b')";
    client.simple_query(sql).await.expect(sql);
    let events = over_sql(&client).await;
    assert_eq!(events.len(), 2);
    for pushed in &mut waiting {
        for event in &events {
            assert_eq!(pushed.next().await, *event);
        }
    }
    // A position and a number of rows as parameters, and some columns.
    let since = events[0].commit_ts as i64;
    let read = client
        .prepare("SELECT key, commit_ts FROM STREAM changes SINCE $1 LIMIT $2")
        .await
        .expect("is prepared");
    let names: Vec<_> = read.columns().iter().map(|c| c.name()).collect();
    assert_eq!(names, ["key", "commit_ts"]);
    let rows = client.query(&read, &[&since, &1i64]).await.expect("rows");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get::<_, i64>(1), since);
    let none: Option<i64> = None;
    let rows = client.query(&read, &[&none, &none]).await.expect("rows");
    assert_eq!(rows.len(), 2);
    let error = client
        .query(&read, &[&-1i64, &none])
        .await
        .expect_err("negative");
    assert_eq!(error.code().map(|c| c.code()), Some("22023"));
}

/// Writes until it is cut off: statements over several rows, each with a mark of its own.
async fn write(client: Client, mut random: Random, round: u64, writer: i64) {
    for statement in 0.. {
        let mark = format!("{round}-{writer}-{statement}");
        let id = |n: u64| writer * 100 + n as i64;
        let sql = match random.below(3) {
            0 => format!(
                "INSERT INTO c VALUES ({}, '{mark}'), ({}, '{mark}') \
                 ON CONFLICT (id) DO UPDATE SET mark = excluded.mark",
                id(random.below(20)),
                id(20 + random.below(20))
            ),
            1 => {
                let from = id(random.below(30));
                format!(
                    "UPDATE c SET mark = '{mark}' WHERE id BETWEEN {from} AND {}",
                    from + 8
                )
            }
            _ => format!("DELETE FROM c WHERE id = {}", id(random.below(40))),
        };
        if client.simple_query(&sql).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn events_are_the_committed_writes_after_every_kill() {
    let folder = Folder::new("streams");
    let seed = setting("NODEDB_TEST_SEED", 1);
    let mut known: Vec<Event> = Vec::new();
    for (round, cores) in [(0, 2), (1, 1), (2, 4)] {
        let server = Server::start(folder.path(), Start { cores, io: "auto" });
        let client = server.connect().await;
        if round == 0 {
            let sql = "CREATE TABLE c (id BIGINT PRIMARY KEY, mark TEXT)";
            client.simple_query(sql).await.expect("a table");
            let sql = "CREATE CHANGE STREAM changes ON c";
            client.simple_query(sql).await.expect("a stream");
        }
        check(&server, &client, &known).await;
        let mut writing = Vec::new();
        for writer in 0..4 {
            let random = Random::new(seed + round * 10 + writer);
            let client = server.connect().await;
            writing.push(tokio::spawn(write(client, random, round, writer as i64)));
        }
        let begun = known.len();
        while known.len() < begun + 200 {
            known = over_sql(&client).await;
        }
        server.kill();
        for writer in writing {
            writer.await.expect("a writer ends");
        }
    }
    let server = Server::start(
        folder.path(),
        Start {
            cores: 2,
            io: "threads",
        },
    );
    let client = server.connect().await;
    check(&server, &client, &known).await;
}

/// Holds the stream to the collection, and to what was `known` of it before.
async fn check(server: &Server, client: &Client, known: &[Event]) {
    let events = over_sql(client).await;
    assert!(events.starts_with(known), "what was shown once stays");
    let in_order = events.is_sorted_by_key(|e| e.commit_ts);
    assert!(in_order, "commits come in order");
    let mut marks: BTreeMap<&str, u64> = BTreeMap::new();
    for event in &events {
        if let Some(mark) = event.after["mark"].as_str() {
            let commit_ts = marks.entry(mark).or_insert(event.commit_ts);
            assert_eq!(*commit_ts, event.commit_ts, "a statement is one commit");
        }
    }
    let rows = texts(client, "SELECT id, mark FROM c").await;
    let row = |row: Vec<Option<String>>| {
        let id: i64 = row[0].as_deref().and_then(|t| t.parse().ok()).expect("id");
        (id, serde_json::json!({"id": id, "mark": row[1]}))
    };
    assert_eq!(apply(&events), rows.into_iter().map(row).collect::<Rows>());
    let Some(first) = events.first() else {
        return;
    };
    assert_eq!(over_native(server, first.commit_ts).await, events);
    let mut pushed = Pushed::open(server, Some(first.commit_ts)).await;
    for event in &events {
        assert_eq!(pushed.next().await, *event);
    }
}

/// Adds 1 to every row, a part of them per statement, until `events` were made; gives the time of
/// the slowest statement and of all.
async fn count_up(server: &Server, events: i64) -> (Duration, Duration) {
    let begun = Instant::now();
    let mut writing = Vec::new();
    for part in 0..ROWS / ROWS_PER_STATEMENT {
        let client = server.connect().await;
        writing.push(tokio::spawn(async move {
            let sql = format!("UPDATE c SET n = n + 1 WHERE part = {part}");
            let mut slowest = Duration::ZERO;
            for _ in 0..events / ROWS {
                let begun = Instant::now();
                client.simple_query(&sql).await.expect("an update");
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        }));
    }
    let mut slowest = Duration::ZERO;
    for writer in writing {
        slowest = slowest.max(writer.await.expect("a writer ends"));
    }
    (slowest, begun.elapsed())
}

/// What each row was last seen to count, while events come.
#[derive(Default)]
struct Counted {
    last: BTreeMap<i64, i64>,
    /// The commit that was read last and how much of it.
    commit_ts: u64,
    events: i64,
}

impl Counted {
    fn take(&mut self, event: &Event) {
        let count = |row: &Value| row["n"].as_i64().expect("a count");
        let id = event.key["id"].as_i64().expect("an id");
        let last = self.last.entry(id).or_insert(count(&event.before));
        assert_eq!(count(&event.before), *last, "nothing is missed: {event:?}");
        *last += 1;
        assert_eq!(count(&event.after), *last);
        assert!(event.commit_ts >= self.commit_ts, "commits come in order");
        self.commit_ts = event.commit_ts;
        self.events += 1;
    }
}

#[tokio::test]
async fn a_reader_that_stalls_or_goes_costs_no_memory_and_misses_nothing() {
    let events = setting("NODEDB_TEST_EVENTS", 20_000) as i64;
    let folder = Folder::new("stalled");
    let server = Server::start(
        folder.path(),
        Start {
            cores: 2,
            io: "auto",
        },
    );
    let client = server.connect().await;
    let rows: Vec<String> = (0..ROWS)
        .map(|id| format!("({id}, {}, 0)", id / ROWS_PER_STATEMENT))
        .collect();
    for sql in [
        "CREATE TABLE c (id BIGINT PRIMARY KEY, part BIGINT, n BIGINT)".to_owned(),
        format!("INSERT INTO c VALUES {}", rows.join(", ")),
        "CREATE CHANGE STREAM changes ON c".to_owned(),
    ] {
        client.simple_query(&sql).await.expect(&sql);
    }
    // Until the server has the memory that such writes take.
    let alone = count_up(&server, events.max(20_000)).await;
    let warm = server.resident_bytes();
    let mut counted = Counted::default();
    let mut stalled = Pushed::open(&server, None).await;
    counted.take(&stalled.next().await);
    let beside_stalled = count_up(&server, events).await;
    let grown_stalled = server.resident_bytes().saturating_sub(warm);
    // It reads on: up to the middle of what was written meanwhile.
    while counted.events < events.max(20_000) + events / 2 {
        counted.take(&stalled.next().await);
    }
    drop(stalled);
    let beside_gone = count_up(&server, events).await;
    let grown_gone = server.resident_bytes().saturating_sub(warm);
    // What is known of the last commit comes again.
    let (last, resumed) = (counted.commit_ts, counted.events);
    let mut back = Pushed::open(&server, Some(last)).await;
    let mut again = back.next().await;
    assert_eq!(again.commit_ts, last);
    while again.commit_ts == last && is_known(&counted, &again) {
        again = back.next().await;
    }
    counted.take(&again);
    while counted.events < events.max(20_000) + 2 * events {
        counted.take(&back.next().await);
    }
    eprintln!(
        "{events} events; slowest statement and all of them: nobody reads {alone:?}, a stalled \
         reader {beside_stalled:?}, a reader that has gone {beside_gone:?}; grown by \
         {grown_stalled} and {grown_gone} bytes over {warm}; {resumed} events were read before"
    );
    assert!(
        grown_stalled < GROWTH_MAX,
        "{grown_stalled} bytes over {warm}"
    );
    assert!(grown_gone < GROWTH_MAX, "{grown_gone} bytes over {warm}");
}

/// Whether the event has been counted before.
fn is_known(counted: &Counted, event: &Event) -> bool {
    let id = event.key["id"].as_i64().expect("an id");
    counted.last.get(&id).copied() >= event.after["n"].as_i64()
}
