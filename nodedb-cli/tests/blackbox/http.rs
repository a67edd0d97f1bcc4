//! HTTP as any client speaks it: one request per connection, read to its end.

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
