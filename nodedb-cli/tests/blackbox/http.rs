//! HTTP as any client speaks it: one request per connection, read to its end.

use nodedb_types::limits::STATEMENT_TEXT_BYTES_MAX;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::{Folder, Server, Start};

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// With the status line.
    pub head: String,
    pub body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Holds a refusal to its status and SQLSTATE; gives it.
    #[track_caller]
    fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{self:?}");
        problem
    }
}

/// `headers`: whole lines, each with its end.
pub async fn request(server: &Server, what: &str, headers: &str, body: &[u8]) -> Reply {
    let mut socket = TcpStream::connect(server.http).await.expect("connects");
    let head = format!(
        "{what} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        server.http,
        body.len()
    );
    socket.write_all(head.as_bytes()).await.expect("is sent");
    // A server that refuses by the head need not read the rest.
    let _ = socket.write_all(body).await;
    let mut all = Vec::new();
    // It may close while the body is still under way to it.
    let _ = socket.read_to_end(&mut all).await;
    let text = String::from_utf8_lossy(&all).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Reply {
        status: status.unwrap_or_else(|| panic!("{what}: no status in {text:?}")),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn start(folder: &Folder) -> Server {
    let start = Start {
        cores: 2,
        io: "auto",
    };
    Server::start(folder.path(), start)
}

#[tokio::test]
async fn streams_are_listed_and_an_unknown_one_is_not_found() {
    let folder = Folder::new("http-streams");
    let server = start(&folder);
    let reply = request(&server, "GET /v1/streams", "", b"").await;
    assert_eq!(
        (reply.status, reply.json()),
        (200, serde_json::json!({"streams": []}))
    );
    let reply = request(&server, "GET /v1/streams/orders/events", "", b"").await;
    reply.refused(404, "42704");
    let client = server.connect().await;
    for sql in [
        "CREATE TABLE c (id BIGINT PRIMARY KEY)",
        "CREATE CHANGE STREAM \"all changes\" ON c",
    ] {
        client.simple_query(sql).await.expect(sql);
    }
    let listed = request(&server, "GET /v1/streams", "", b"").await.json();
    let stream = &listed["streams"][0];
    assert_eq!(
        (&stream["name"], &stream["collection"]),
        (&"all changes".into(), &"c".into())
    );
    let events = stream["events"].as_str().expect("where they are");
    let reply = request(&server, &format!("GET {events}?since=x"), "", b"").await;
    reply.refused(400, "22023");
}

const SQL: &str = "Content-Type: application/sql\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn what_would_be_ignored_is_refused() {
    let folder = Folder::new("http-refused");
    let server = start(&folder);
    for (sql, hint) in [
        ("SET statement_timeout = 5", "timeout_ms"),
        ("SET TIME ZONE 'UTC'", "timeout_ms"),
    ] {
        let reply = request(&server, "POST /v1/query", SQL, sql.as_bytes()).await;
        let hinted = reply.refused(501, "0A000")["hint"].to_string();
        assert!(hinted.contains(hint), "{sql}: {hinted}");
    }
    for (body, status, code, says) in [
        (
            r#"{"sql": "SELECT 1", "parms": []}"#,
            400,
            "22023",
            "did you mean \"params\"?",
        ),
        (
            r#"{"sql": "SELECT 1", "database": "x"}"#,
            400,
            "22023",
            "\"database\"",
        ),
        (
            r#"{"sql": "SELECT 1", "timeout_ms": "5"}"#,
            400,
            "22023",
            "\"timeout_ms\"",
        ),
        (
            r#"{"sql": "SELECT 1", "timeout_ms": 0}"#,
            400,
            "22023",
            "at least 1",
        ),
        (r#"{"sql": 1}"#, 400, "22023", "a string"),
        (r#"{"params": []}"#, 400, "08P01", "lacks"),
        (r#"["SELECT 1"]"#, 400, "08P01", "no JSON object"),
        (r#"{"sql": "#, 400, "08P01", "no JSON object"),
        (
            r#"{"sql": "SELECT 1; SELECT 2"}"#,
            400,
            "42601",
            "one by one",
        ),
    ] {
        let reply = request(&server, "POST /v1/query", JSON, body.as_bytes()).await;
        let problem = reply.refused(status, code);
        let said = format!("{} {}", problem["message"], problem["hint"]).replace('\\', "");
        assert!(said.contains(says), "{body}: {said}");
    }
    let packed = format!("{SQL}Content-Encoding: gzip\r\n");
    let reply = request(&server, "POST /v1/query", &packed, b"\x1f\x8b").await;
    reply.refused(415, "0A000");
    let latin = "Content-Type: application/sql; charset=latin1\r\n";
    let reply = request(&server, "POST /v1/query", latin, b"SELECT 1").await;
    reply.refused(415, "0A000");
    let once = format!("{SQL}Idempotency-Key: 1\r\n");
    let reply = request(&server, "POST /v1/query", &once, b"SELECT 1").await;
    reply.refused(501, "0A000");
    let reply = request(&server, "POST /v1/query?timeout_ms=1", SQL, b"SELECT 1").await;
    reply.refused(400, "22023");
    let csv = format!("{SQL}Accept: text/csv\r\n");
    let reply = request(&server, "POST /v1/query", &csv, b"SELECT 1").await;
    reply.refused(406, "0A000");
}

#[tokio::test]
async fn methods_and_sizes() {
    let folder = Folder::new("http-methods");
    let server = start(&folder);
    for (what, allow) in [
        ("GET /v1/query", "allow: POST"),
        ("PUT /v1/query", "allow: POST"),
        ("DELETE /healthz", "allow: GET,HEAD"),
        ("POST /v1/streams", "allow: GET,HEAD"),
    ] {
        let reply = request(&server, what, "", b"").await;
        reply.refused(405, "08P01");
        assert!(reply.head.contains(allow), "{what}: {}", reply.head);
    }
    let reply = request(&server, "OPTIONS /v1/query", "", b"").await;
    assert_eq!((reply.status, &*reply.body), (204, ""), "{reply:?}");
    assert!(reply.head.contains("allow: POST"), "{reply:?}");
    let reply = request(&server, "HEAD /healthz", "", b"").await;
    assert_eq!((reply.status, &*reply.body), (200, ""), "{reply:?}");
    let reply = request(&server, "GET /v2/query", "", b"").await;
    reply.refused(404, "42704");
    // Longer than a statement with its parameters may be; refused by its announced length.
    let size = 2 * STATEMENT_TEXT_BYTES_MAX + 1;
    let reply = request(&server, "POST /v1/query", SQL, &vec![b' '; size]).await;
    reply.refused(413, "54000");
}
