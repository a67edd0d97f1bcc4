//! Change streams over SQL and as server-sent events, through restarts and slow readers.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use nodedb_server::Node;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::node::{Folder, block_on, code, connect, open};

/// Rows as text; NULL is `-`.
async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let messages = client.simple_query(sql).await.expect("is answered");
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|n| row.get(n).unwrap_or("-").to_owned())
                .collect(),
        ),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.expect("runs");
}

/// A connection that reads server-sent events.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(node: &Node, stream: &str, headers: &str) -> Events {
        let address = node.addresses().http;
        let mut socket = TcpStream::connect(address).expect("connects");
        let head =
            format!("GET /v1/streams/{stream}/events HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
        socket.write_all(head.as_bytes()).expect("sends");
        let mut events = Events(BufReader::new(socket));
        let status = events.line();
        assert!(status.contains(" 200 "), "{status}");
        events
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("is sent");
        assert!(!line.is_empty(), "the server ended the events");
        line
    }

    /// The next event's id and data.
    fn next(&mut self) -> (u64, String) {
        let mut id = 0;
        loop {
            let line = self.line();
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.trim().parse().expect("a timestamp");
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return (id, data.trim().to_owned());
            }
        }
    }
}

#[test]
fn a_stream_shows_every_change_in_commit_order_and_again_after_a_restart() {
    let folder = Folder::new();
    let node = open(&folder, 2);
    let before = block_on(async {
        let client = connect(&node).await;
        run(&client, "CREATE TABLE t (id int PRIMARY KEY, s text)").await;
        run(&client, "INSERT INTO t VALUES (0, 'unseen')").await;
        run(&client, "CREATE CHANGE STREAM s ON t").await;
        assert!(rows(&client, "SELECT * FROM STREAM s").await.is_empty());
        run(
            &client,
            "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')",
        )
        .await;
        run(&client, "UPDATE t SET s = 'z' WHERE id = 2").await;
        run(&client, "UPDATE t SET s = s || '!' WHERE id >= 3").await;
        run(&client, "DELETE FROM t WHERE id = 1").await;
        let all = rows(&client, "SELECT * FROM STREAM s").await;
        let ops: Vec<&str> = all.iter().map(|r| &*r[1]).collect();
        assert_eq!(
            ops,
            [
                "insert", "insert", "insert", "insert", "update", "update", "update", "delete"
            ]
        );
        // Four rows on several shards are one commit.
        assert!(all[..4].iter().all(|r| r[0] == all[0][0]));
        assert_eq!(
            all[4][2..],
            [
                r#"{"id": 2}"#,
                r#"{"s": "b", "id": 2}"#,
                r#"{"s": "z", "id": 2}"#
            ]
        );
        assert_eq!(all[7][2..], [r#"{"id": 1}"#, r#"{"s": "a", "id": 1}"#, "-"]);
        let times: Vec<u64> = all
            .iter()
            .map(|r| r[0].parse().expect("a number"))
            .collect();
        assert!(times.is_sorted());
        let since = format!("SELECT * FROM STREAM s SINCE {} LIMIT 2", times[4]);
        assert_eq!(rows(&client, &since).await, all[4..6]);
        for (sql, refused) in [
            ("SELECT * FROM STREAM nosuch", "42704"),
            ("SELECT nosuch FROM STREAM s", "42703"),
            ("SELECT * FROM STREAM s WHERE op = 'insert'", "0A000"),
            (
                "SELECT count(*) FROM (SELECT * FROM STREAM s) AS t",
                "0A000",
            ),
            ("EXPLAIN SELECT * FROM STREAM s", "0A000"),
            ("SELECT * FROM s", "42P01"),
        ] {
            assert_eq!(code(client.simple_query(sql).await), refused, "{sql}");
        }
        all
    });
    node.stop().expect("stops");
    // Other cores, and everything from the log.
    let node = open(&folder, 1);
    block_on(async {
        let client = connect(&node).await;
        assert_eq!(rows(&client, "SELECT * FROM STREAM s").await, before);
        run(&client, "INSERT INTO t VALUES (9, 'new')").await;
        let all = rows(&client, "SELECT * FROM STREAM s").await;
        assert_eq!(all[..before.len()], before);
        assert_eq!(all[before.len()][4], r#"{"s": "new", "id": 9}"#);
    });
    node.stop().expect("stops");
}

#[test]
fn events_are_pushed_and_resumed_by_their_commit() {
    let folder = Folder::new();
    let node = open(&folder, 2);
    block_on(async {
        let client = connect(&node).await;
        run(&client, "CREATE TABLE t (id bigint PRIMARY KEY, s text)").await;
        run(&client, "CREATE CHANGE STREAM s ON t").await;
        let mut events = Events::open(&node, "s", "");
        run(&client, "INSERT INTO t VALUES (1, 'one')").await;
        let (first, data) = events.next();
        assert_eq!(
            data,
            format!(
                r#"{{"commit_ts":{first},"op":"insert","key":{{"id": 1}},"before":null,"after":{{"s": "one", "id": 1}}}}"#
            )
        );
        run(&client, "INSERT INTO t VALUES (2, 'x'), (3, 'y'), (5, 'z')").await;
        let (second, _) = events.next();
        assert!(second > first);
        // Gone in the middle of a commit: it comes again whole.
        drop(events);
        run(&client, "DELETE FROM t WHERE id = 1").await;
        let mut events = Events::open(&node, "s", &format!("Last-Event-ID: {second}\r\n"));
        let again: Vec<(u64, String)> = (0..4).map(|_| events.next()).collect();
        assert!(again[..3].iter().all(|(id, _)| *id == second));
        assert!(again[3].0 > second && again[3].1.contains("delete"));
    });
    node.stop().expect("stops");
}

#[test]
fn a_stalled_reader_slows_nobody_and_misses_nothing() {
    let folder = Folder::new();
    let node = open(&folder, 2);
    let count = 20_000;
    block_on(async {
        let client = connect(&node).await;
        run(&client, "CREATE TABLE t (id bigint PRIMARY KEY, s text)").await;
        run(&client, "CREATE CHANGE STREAM s ON t").await;
        let mut events = Events::open(&node, "s", "");
        let filler = "f".repeat(400);
        for first in (0..count).step_by(500) {
            let values: Vec<String> = (first..first + 500)
                .map(|id| format!("({id}, '{filler}')"))
                .collect();
            run(
                &client,
                &format!("INSERT INTO t VALUES {}", values.join(", ")),
            )
            .await;
        }
        // More than the window keeps and the socket holds was committed meanwhile.
        let mut seen = vec![false; count];
        for _ in 0..count {
            let (_, data) = events.next();
            let key = data.split_once(r#""key":{"id": "#).expect("a key").1;
            let id = key.split_once('}').expect("its end").0;
            let place = &mut seen[id.parse::<usize>().expect("a number")];
            assert!(!*place, "row {id} twice");
            *place = true;
        }
        let all = rows(&client, "SELECT * FROM STREAM s").await;
        assert_eq!(all.len(), count);
    });
    node.stop().expect("stops");
}

#[test]
fn what_retention_has_dropped_is_refused_with_the_oldest_position() {
    let folder = Folder::new();
    let node = open(&folder, 2);
    block_on(async {
        let client = connect(&node).await;
        run(&client, "CREATE TABLE t (id bigint PRIMARY KEY, s text)").await;
        let stream = "CREATE CHANGE STREAM s ON t WITH (retention_bytes = 2000000)";
        run(&client, stream).await;
        let filler = "f".repeat(100_000);
        for id in 0..60 {
            run(&client, &format!("INSERT INTO t VALUES ({id}, '{filler}')")).await;
        }
        let kept = rows(&client, "SELECT * FROM STREAM s").await;
        assert!(!kept.is_empty() && kept.len() < 60, "{}", kept.len());
        assert_eq!(kept[kept.len() - 1][2], r#"{"id": 59}"#);
        let refused = client.simple_query("SELECT * FROM STREAM s SINCE 1").await;
        let error = refused.expect_err("is refused");
        let error = error.as_db_error().expect("from the server");
        assert_eq!(error.code().code(), "55000");
        let detail = error.detail().expect("it names the oldest position");
        let oldest: u64 = detail
            .trim_end_matches('.')
            .rsplit(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a position");
        let again = rows(&client, &format!("SELECT * FROM STREAM s SINCE {oldest}")).await;
        // An idle core seals its log, so a little more may have gone meanwhile.
        assert!(!again.is_empty() && kept.ends_with(&again));
    });
    node.stop().expect("stops");
}
