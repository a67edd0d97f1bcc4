//! HTTP, spoken by hand: status line, headers, body.

use std::io::{Read, Write};
use std::net::TcpStream;

use nodedb_server::Node;

use crate::node::{Folder, open};

/// The status and body of one request; the connection is closed after it.
fn ask(
    node: &Node,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let address = node.addresses().http;
    let mut stream = TcpStream::connect(address).expect("connects");
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("\r\n{body}"));
    stream.write_all(request.as_bytes()).expect("sends");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("answers");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
    let status = head
        .split(' ')
        .nth(1)
        .expect("a status")
        .parse()
        .expect("a number");
    let body = match head.to_lowercase().contains("transfer-encoding: chunked") {
        true => unchunked(body),
        false => body.to_owned(),
    };
    (status, body)
}

fn unchunked(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        out.push_str(&rest[..size]);
        body = rest.get(size + 2..).unwrap_or_default();
        if size == 0 {
            break;
        }
    }
    out
}

const SQL: (&str, &str) = ("Content-Type", "application/sql");
const JSON: (&str, &str) = ("Content-Type", "application/json");

#[test]
fn statements_run_over_http() {
    let folder = Folder::new();
    let node = open(&folder, 2);
    let sql = |text: &str| ask(&node, "POST", "/v1/query", &[SQL], text);
    assert_eq!(
        sql("CREATE TABLE t (id int PRIMARY KEY, s text, v vector(2))").0,
        200
    );
    let insert = r#"{"sql": "INSERT INTO t VALUES ($1, $2, $3)", "params": [1, "a\"b", [1, 2.5]]}"#;
    let (status, body) = ask(&node, "POST", "/v1/query", &[JSON], insert);
    assert_eq!(
        (status, body.trim()),
        (200, r#"{"columns":[],"rows":[],"command":"INSERT 0 1"}"#)
    );
    let (status, body) = sql("SELECT id, s, v FROM t WHERE id = 1");
    assert_eq!(status, 200);
    assert_eq!(
        body.trim(),
        r#"{"columns":[{"name":"id","type":"integer"},{"name":"s","type":"text"},{"name":"v","type":"vector(2)"}],"rows":[[1,"a\"b",[1,2.5]]],"command":"SELECT 1"}"#
    );
    let lines = ("Accept", "application/x-ndjson");
    let (_, body) = ask(
        &node,
        "POST",
        "/v1/query",
        &[SQL, lines],
        "SELECT id FROM t WHERE id = 1",
    );
    let lines: Vec<&str> = body.lines().collect();
    assert_eq!(lines[1..], ["[1]", r#"{"end":{"command":"SELECT 1"}}"#]);
    node.stop().expect("stops");
}

#[test]
fn what_must_not_pass_is_refused() {
    let folder = Folder::new();
    let node = open(&folder, 1);
    let post =
        |headers: &[(&str, &str)], body: &str| ask(&node, "POST", "/v1/query", headers, body);
    let (status, body) = post(&[SQL], "SELECT * FROM nothing");
    assert_eq!(status, 404);
    assert!(body.contains(r#""code":"42P01""#), "{body}");
    assert_eq!(post(&[SQL, ("Host", "evil.example")], "SELECT 1").0, 421);
    assert_eq!(post(&[("Content-Type", "text/plain")], "SELECT 1").0, 415);
    assert_eq!(post(&[JSON], "{").0, 400);
    assert_eq!(post(&[SQL, ("Accept", "text/csv")], "SELECT 1").0, 406);
    let accepted = ("Accept", "text/html, */*;q=0.8");
    assert_eq!(post(&[SQL, accepted], "SELECT 1").0, 200);
    assert_eq!(
        post(&[SQL, ("Origin", "http://evil.example")], "SELECT 1").0,
        403
    );
    let own = format!("http://{}", node.addresses().http);
    assert_eq!(post(&[SQL, ("Origin", &own)], "SELECT 1").0, 200);
    assert_eq!(ask(&node, "GET", "/nothing", &[], "").0, 404);
    assert_eq!(ask(&node, "GET", "/v1/query", &[], "").0, 405);
    assert_eq!(ask(&node, "GET", "/healthz", &[], "").0, 200);
    let (status, body) = ask(&node, "GET", "/metrics", &[], "");
    assert_eq!(status, 200);
    assert!(body.contains("ndb_statements_total "), "{body}");
    node.stop().expect("stops");
}
