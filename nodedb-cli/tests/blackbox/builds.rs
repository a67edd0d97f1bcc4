//! Index builds that their client stops: by a cancel request, by a deadline over each protocol, by
//! letting go of the SDK's answer. Nothing of them is left, and the same index can be made after.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::server::{Folder, Server, Start};

/// So many rows of so many words that their index takes a while.
const ROWS: u32 = 8_000;
const WORDS: u32 = 300;
const CREATE: &str = "CREATE INDEX v_s ON v USING fulltext (s) WITH (analyzer = 'english')";
const FIND: &str = "SELECT id FROM v WHERE text_match(v, 'memory w9')";
/// How long the server may take to do what it is asked to, before the test gives up on it.
const WAIT_MAX: Duration = Duration::from_secs(60);

async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let messages = client.simple_query(sql).await.expect("an answer");
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            let cell = |n| row.get(n).unwrap_or("NULL").to_owned();
            Some((0..row.len()).map(cell).collect())
        }
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// State and error of the newest build.
async fn newest(client: &Client) -> (String, String) {
    let jobs = rows(client, "SHOW JOBS").await;
    let job = jobs.last().expect("a job");
    (job[3].clone(), job[6].clone())
}

/// Waits until as many builds as `number` have begun, and the newest is in `state`.
async fn until(client: &Client, number: usize, state: &str) -> String {
    let look = async {
        loop {
            let jobs = rows(client, "SHOW JOBS").await;
            let (now, error) = match jobs.len() >= number {
                true => newest(client).await,
                false => Default::default(),
            };
            // A build that is under way for sure, so that it is the build that is stopped.
            let begun = jobs
                .last()
                .is_some_and(|job| job[4] != "0" || state != "running");
            if now == state && begun {
                return error;
            }
        }
    };
    tokio::time::timeout(WAIT_MAX, look).await.expect("in time")
}

/// Bytes that indexes hold, by the server's own figures.
async fn index_bytes(server: &Server) -> u64 {
    let reply = http(server, "GET", "/metrics", "").await;
    let lines = reply.lines().filter(|l| l.starts_with("ndb_memory_bytes{"));
    let figures: Vec<u64> = lines
        .filter(|l| l.contains("owner=\"indexes\""))
        .filter_map(|l| l.rsplit(' ').next()?.parse().ok())
        .collect();
    assert_eq!(figures.len(), 2, "one of each core: {reply}");
    figures.iter().sum()
}

async fn http(server: &Server, method: &str, path: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(server.http).await.expect("connects");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        server.http,
        body.len()
    );
    socket.write_all(request.as_bytes()).await.expect("is sent");
    let mut reply = String::new();
    socket
        .read_to_string(&mut reply)
        .await
        .expect("is answered");
    reply
}

async fn nothing_is_left(server: &Server, client: &Client, bytes: u64) {
    let found = rows(
        client,
        "SELECT indexname FROM pg_indexes WHERE tablename = 'v'",
    )
    .await;
    assert!(!found.concat().contains(&"v_s".to_owned()), "{found:?}");
    let found = client.simple_query(FIND).await;
    let failure = found.map(drop).expect_err("no index answers");
    assert_eq!(
        failure.code().map(|c| c.code()),
        Some("42704"),
        "{failure:?}"
    );
    let freed = async {
        // Memory is freed behind the answer, by a task that tells nobody.
        while index_bytes(server).await > bytes {}
    };
    tokio::time::timeout(WAIT_MAX, freed)
        .await
        .expect("what the build took is free again");
}

#[test]
fn a_build_that_is_stopped_leaves_nothing() {
    let folder = Folder::new("builds");
    let start = Start {
        cores: 2,
        io: "auto",
    };
    let server = Server::start(folder.path(), start);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let builder = server.connect().await;
        let watcher = server.connect().await;
        builder
            .batch_execute("CREATE TABLE v (id int PRIMARY KEY, s text)")
            .await
            .expect("creates");
        builder
            .batch_execute(&format!(
                "INSERT INTO v SELECT x, repeat('memories of w' || x || ' ', {WORDS}) FROM generate_series(1, {ROWS}) AS g (x)"
            ))
            .await
            .expect("inserts");
        let bytes = index_bytes(&server).await;

        // A deadline of the session.
        builder.batch_execute("SET statement_timeout = '20ms'").await.expect("is set");
        let late = builder.batch_execute(CREATE).await.expect_err("is late");
        assert_eq!(late.code().map(|c| c.code()), Some("57014"), "{late:?}");
        builder.batch_execute("RESET statement_timeout").await.expect("is reset");
        let (state, error) = newest(&watcher).await;
        assert_eq!(
            (state.as_str(), error.as_str()),
            ("failed", "canceling statement due to statement timeout")
        );
        nothing_is_left(&server, &watcher, bytes).await;

        // A cancel request, as Ctrl-C in psql sends one.
        let token = builder.cancel_token();
        let build = tokio::spawn(async move {
            let built = builder.batch_execute(CREATE).await;
            (builder, built)
        });
        until(&watcher, 2, "running").await;
        token.cancel_query(NoTls).await.expect("is sent");
        let (builder, built) = build.await.expect("ends");
        let cancelled = built.expect_err("is cancelled");
        assert_eq!(cancelled.code().map(|c| c.code()), Some("57014"), "{cancelled:?}");
        nothing_is_left(&server, &watcher, bytes).await;

        // HTTP's own deadline.
        let body = format!("{{\"sql\": \"{CREATE}\", \"timeout_ms\": 20}}");
        let reply = http(&server, "POST", "/v1/query", &body).await;
        assert!(reply.starts_with("HTTP/1.1 408") && reply.contains("57014"), "{reply}");
        nothing_is_left(&server, &watcher, bytes).await;

        // The SDK cancels what nobody waits for any more. Another change that waits its turn
        // behind a build is late by its own deadline.
        let url = format!("ndb://{}", server.native);
        let native = nodedb_client::Client::connect(&url).await.expect("connects");
        {
            let build = async {
                let rows = native.sql(CREATE, &[]).await?;
                rows.collect().await
            };
            let watch = async {
                until(&watcher, 4, "running").await;
                let table = "SET statement_timeout = '20ms'; CREATE TABLE other (id int)";
                let (set, create) = table.split_once("; ").expect("two statements");
                builder.batch_execute(set).await.expect("is set");
                let late = builder.batch_execute(create).await.expect_err("is late");
                assert_eq!(late.code().map(|c| c.code()), Some("57014"), "{late:?}");
                builder.batch_execute("RESET statement_timeout").await.expect("is reset");
            };
            tokio::select! {
                built = build => panic!("was built: {:?}", built.map(drop)),
                () = watch => {}
            }
        }
        let error = until(&watcher, 4, "failed").await;
        assert_eq!(error, "canceling statement due to user request");
        nothing_is_left(&server, &watcher, bytes).await;

        // Made at last; the statements of a stopped build leave no name behind.
        builder.batch_execute("DELETE FROM v WHERE id > 500").await.expect("deletes");
        builder.batch_execute(CREATE).await.expect("creates");
        let found = rows(&builder, FIND).await;
        assert_eq!(found, [["9"]]);
    });
    // What the stopped builds left in the log says nothing after a kill.
    server.kill();
    let server = Server::start(folder.path(), start);
    runtime.block_on(async {
        let client = server.connect().await;
        let found = rows(
            &client,
            "SELECT indexname FROM pg_indexes WHERE tablename = 'v' ORDER BY 1",
        )
        .await;
        assert_eq!(found.concat(), ["v_pkey", "v_s"]);
        let found = rows(&client, FIND).await;
        assert_eq!(found, [["9"]]);
    });
}
