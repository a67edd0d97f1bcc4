//! SIGTERM: everybody is told, and the process is gone within seconds, whoever is connected.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

use crate::server::{Folder, Server, Start, connect};

/// How long a server may take to end while a statement runs and a client has stalled.
const STOP_MAX: Duration = Duration::from_secs(10);

fn start(folder: &Folder) -> Server {
    let start = Start {
        cores: 2,
        io: "auto",
    };
    Server::start(folder.path(), start)
}

/// What comes up to the end of a connection.
async fn rest(mut socket: TcpStream) -> String {
    let mut all = Vec::new();
    // It may end with a reset.
    let _ = socket.read_to_end(&mut all).await;
    String::from_utf8_lossy(&all).into_owned()
}

/// The end of what comes, of which there may be a lot.
async fn last_of(mut socket: TcpStream) -> String {
    let (mut last, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(read @ 1..) = socket.read(&mut piece).await {
        last.extend_from_slice(&piece[..read]);
        last.drain(..last.len().saturating_sub(1024));
    }
    String::from_utf8_lossy(&last).into_owned()
}

#[tokio::test]
async fn idle_clients_are_told_at_once() {
    let folder = Folder::new("stop");
    let server = start(&folder);
    let config = format!(
        "host=127.0.0.1 port={} user=test dbname=nodedb",
        server.pg.port()
    );
    let (client, connection) = tokio_postgres::connect(&config, NoTls)
        .await
        .expect("connects");
    let connection = tokio::spawn(connection);
    for sql in [
        "CREATE TABLE c (id BIGINT PRIMARY KEY)",
        "CREATE CHANGE STREAM changes ON c",
    ] {
        client.simple_query(sql).await.expect(sql);
    }
    let native = nodedb_client::Client::connect(&format!("ndb://{}", server.native)).await;
    let native = native.expect("connects");
    native.ping().await.expect("a pong");
    let mut events = TcpStream::connect(server.http).await.expect("connects");
    let head = format!(
        "GET /v1/streams/changes/events HTTP/1.1\r\nHost: {}\r\n\r\n",
        server.http
    );
    events.write_all(head.as_bytes()).await.expect("is sent");
    let mut begun = [0; 15];
    events.read_exact(&mut begun).await.expect("it begins");
    assert_eq!(&begun, b"HTTP/1.1 200 OK");
    // Has answered once and is kept alive.
    let mut alive = TcpStream::connect(server.http).await.expect("connects");
    let head = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", server.http);
    alive.write_all(head.as_bytes()).await.expect("is sent");
    alive.read_exact(&mut begun).await.expect("it is answered");
    let http = server.http;
    let begun = Instant::now();
    let status = server.terminate();
    assert!(status.success(), "{status}");
    // Nothing had to be waited for.
    assert!(begun.elapsed() < STOP_MAX / 5, "{:?}", begun.elapsed());
    let told = connection.await.expect("the task ends").expect_err("told");
    assert_eq!(told.code().map(|c| c.code()), Some("57P01"), "{told:?}");
    let last = rest(events).await;
    assert!(
        last.contains("event: error") && last.contains("57P01"),
        "{last}"
    );
    // The chunked body has its end.
    assert!(last.ends_with("0\r\n\r\n"), "{last:?}");
    rest(alive).await;
    native.ping().await.expect_err("the server has gone");
    TcpStream::connect(http).await.expect_err("nobody listens");
    // What was there is there.
    let server = start(&folder);
    let count = server.connect().await.query("SELECT * FROM c", &[]).await;
    assert!(count.expect("rows").is_empty());
}

#[tokio::test]
async fn what_does_not_end_is_cut_and_told() {
    let folder = Folder::new("stop-busy");
    let server = start(&folder);
    let client = connect(server.pg).await;
    for sql in [
        "CREATE TABLE c (id BIGINT PRIMARY KEY, t TEXT)",
        "CREATE CHANGE STREAM changes ON c",
        "INSERT INTO c SELECT n, repeat('x', 100000) FROM generate_series(1, 100) AS g (n)",
    ] {
        client.simple_query(sql).await.expect(sql);
    }
    // Clients that have sent nothing, and one that does not read.
    let mut silent = Vec::new();
    for address in [server.pg, server.http, server.native] {
        silent.push(TcpStream::connect(address).await.expect("connects"));
    }
    let mut stalled = TcpStream::connect(server.http).await.expect("connects");
    let head = format!(
        "GET /v1/streams/changes/events HTTP/1.1\r\nHost: {}\r\n\r\n",
        server.http
    );
    stalled.write_all(head.as_bytes()).await.expect("is sent");
    let mut first = [0; 15];
    stalled.read_exact(&mut first).await.expect("it begins");
    let long = "SELECT count(*) FROM generate_series(1, 1000000000) AS g (n) WHERE n % 7 = 3";
    let mut over_http = TcpStream::connect(server.http).await.expect("connects");
    let head = format!(
        "POST /v1/query HTTP/1.1\r\nHost: {}\r\nContent-Type: application/sql\r\nContent-Length: {}\r\n\r\n{long}",
        server.http,
        long.len()
    );
    over_http.write_all(head.as_bytes()).await.expect("is sent");
    // Has got some rows, and more are to come than can come within the grace.
    let mut lines = TcpStream::connect(server.http).await.expect("connects");
    let endless = "SELECT n FROM generate_series(1, 1000000000) AS g (n)";
    let head = format!(
        "POST /v1/query HTTP/1.1\r\nHost: {}\r\nAccept: application/x-ndjson\r\n\
         Content-Type: application/sql\r\nContent-Length: {}\r\n\r\n{endless}",
        server.http,
        endless.len()
    );
    lines.write_all(head.as_bytes()).await.expect("is sent");
    lines.read_exact(&mut first).await.expect("it begins");
    let last_line = tokio::spawn(last_of(lines));
    let running = tokio::spawn(async move { client.query(long, &[]).await });
    // Both statements run by now, or begin within the grace.
    tokio::task::yield_now().await;
    let begun = Instant::now();
    let status = tokio::task::spawn_blocking(move || server.terminate());
    let status = status.await.expect("it ends");
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < STOP_MAX, "{:?}", begun.elapsed());
    let told = running.await.expect("the task ends").expect_err("cut");
    if let Some(code) = told.code() {
        assert_eq!(code.code(), "57P01", "{told:?}");
    }
    let refused = rest(over_http).await;
    assert!(
        refused.is_empty() || refused.starts_with("HTTP/1.1 503"),
        "{refused}"
    );
    // The body is well formed and says why it is not whole.
    let last = last_line.await.expect("the task ends");
    assert!(last.contains("{\"error\":{\"code\":\"57P01\""), "{last}");
    assert!(last.ends_with("\r\n0\r\n\r\n"), "{last:?}");
    let server = start(&folder);
    let rows = server.connect().await.query("SELECT id FROM c", &[]).await;
    assert_eq!(rows.expect("rows").len(), 100);
}
