//! The roads to the server: SQL text in, rows of texts out.
//!
//! Both give values in PostgreSQL's text form, so that one file of expectations serves: what HTTP
//! sends as JSON numbers, arrays and documents is written back here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value as Json;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    Pgwire,
    Http,
}

/// Rows of values; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// The code of a connection that broke, which no statement may expect.
pub const GONE: &str = "08006";

/// Code and message.
#[derive(Debug)]
pub struct Refused {
    pub code: String,
    pub message: String,
}

pub enum Channel {
    Pgwire {
        runtime: Box<Runtime>,
        client: Client,
        address: SocketAddr,
    },
    Http {
        address: SocketAddr,
    },
}

pub fn open(road: Road, pg: SocketAddr, http: SocketAddr) -> Channel {
    match road {
        Road::Http => Channel::Http { address: http },
        Road::Pgwire => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let client = runtime.block_on(connect(pg));
            Channel::Pgwire {
                runtime: Box::new(runtime),
                client,
                address: pg,
            }
        }
    }
}

async fn connect(address: SocketAddr) -> Client {
    let config = format!(
        "host={} port={} user=test dbname=nodedb",
        address.ip(),
        address.port()
    );
    let (client, connection) = tokio_postgres::connect(&config, NoTls)
        .await
        .expect("the node lets clients in");
    // It ends with the client.
    tokio::spawn(async move { drop(connection.await) });
    client
}

impl Channel {
    pub fn road(&self) -> Road {
        match self {
            Channel::Pgwire { .. } => Road::Pgwire,
            Channel::Http { .. } => Road::Http,
        }
    }

    pub fn run(&mut self, sql: &str) -> Result<Rows, Refused> {
        match self {
            Channel::Pgwire {
                runtime,
                client,
                address,
            } => runtime.block_on(async {
                let outcome = over_pgwire(client, sql).await;
                if matches!(&outcome, Err(refused) if refused.code == GONE) {
                    *client = connect(*address).await;
                }
                outcome
            }),
            Channel::Http { address } => over_http(*address, sql),
        }
    }

    /// An empty database, whatever the file before has left.
    pub fn drop_all(&mut self) {
        let collections = self.run("SHOW COLLECTIONS").expect("a list of collections");
        for row in collections {
            let name = row[0].as_deref().expect("a name");
            self.run(&format!("DROP TABLE \"{name}\""))
                .unwrap_or_else(|e| panic!("cannot drop {name}: {e:?}"));
        }
    }
}

async fn over_pgwire(client: &Client, sql: &str) -> Result<Rows, Refused> {
    let messages = client.simple_query(sql).await.map_err(|error| {
        let Some(db) = error.as_db_error() else {
            return Refused {
                code: GONE.to_owned(),
                message: format!("the connection is gone: {error}"),
            };
        };
        Refused {
            code: db.code().code().to_owned(),
            message: db.message().to_owned(),
        }
    })?;
    let mut rows = Vec::new();
    for message in &messages {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push(
                (0..row.len())
                    .map(|i| row.get(i).map(str::to_owned))
                    .collect(),
            );
        }
    }
    Ok(rows)
}

fn over_http(address: SocketAddr, sql: &str) -> Result<Rows, Refused> {
    let (status, body) = post(address, sql);
    let reply: Json =
        serde_json::from_slice(&body).unwrap_or_else(|e| panic!("no JSON after {sql}: {e}"));
    let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
    if status != 200 {
        return Err(Refused {
            code: text(&reply["code"]),
            message: text(&reply["message"]),
        });
    }
    let columns = reply["columns"].as_array().expect("columns");
    let rows = reply["rows"].as_array().expect("rows");
    Ok(rows
        .iter()
        .map(|row| {
            let values = row.as_array().expect("a row");
            assert_eq!(values.len(), columns.len(), "values per row after {sql}");
            columns
                .iter()
                .zip(values)
                .map(|(column, value)| {
                    value_text(value, column["type"].as_str().unwrap_or_default())
                })
                .collect()
        })
        .collect())
}

/// A value in PostgreSQL's text form.
fn value_text(value: &Json, type_name: &str) -> Option<String> {
    match value {
        Json::Null => None,
        value if type_name == "jsonb" => Some(json_text(value)),
        Json::Bool(v) => Some(if *v { "t" } else { "f" }.to_owned()),
        Json::String(v) => Some(v.clone()),
        Json::Array(values) => {
            let elements: Vec<String> = values.iter().map(number_text).collect();
            Some(format!("[{}]", elements.join(",")))
        }
        value => Some(number_text(value)),
    }
}

fn number_text(value: &Json) -> String {
    match value.as_f64() {
        Some(v) if !value.is_i64() && v.fract() == 0.0 && v.abs() < 1e15 => format!("{v:.0}"),
        _ => value.to_string(),
    }
}

/// JSON as PostgreSQL writes jsonb: a blank after each comma and colon.
fn json_text(value: &Json) -> String {
    match value {
        Json::Array(values) => {
            let values: Vec<String> = values.iter().map(json_text).collect();
            format!("[{}]", values.join(", "))
        }
        Json::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(name, value)| {
                    format!("{}: {}", Json::String(name.clone()), json_text(value))
                })
                .collect();
            format!("{{{}}}", members.join(", "))
        }
        value => value.to_string(),
    }
}

/// One request on a connection of its own; gives status and body.
fn post(address: SocketAddr, sql: &str) -> (u16, Vec<u8>) {
    let mut socket = TcpStream::connect(address).expect("the node listens");
    let head = format!(
        "POST /v1/query HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/sql\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        sql.len()
    );
    socket
        .write_all(head.as_bytes())
        .expect("a request is taken");
    socket
        .write_all(sql.as_bytes())
        .expect("a request is taken");
    let mut reply = Vec::new();
    socket.read_to_end(&mut reply).expect("a reply comes");
    let end = reply
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no reply after {sql}"));
    let head = String::from_utf8_lossy(&reply[..end]).to_ascii_lowercase();
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("a status");
    let body = reply[end + 4..].to_vec();
    match head.contains("transfer-encoding: chunked") {
        true => (status, unchunked(&body)),
        false => (status, body),
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let end = body
            .windows(2)
            .position(|w| w == b"\r\n")
            .expect("the size of a chunk");
        let digits = std::str::from_utf8(&body[..end]).expect("a size");
        let size = usize::from_str_radix(digits.trim(), 16).expect("a size");
        if size == 0 {
            return out;
        }
        let from = end + 2;
        out.extend_from_slice(&body[from..from + size]);
        body = &body[from + size + 2..];
    }
}
