//! The Rust SDK of NodeDB: SQL, rows by key, and set queries, over the native protocol.
//!
//! A [`Client`] is one connection; clones share it. Requests are pipelined: several may be under
//! way, and each answer is a stream of rows that arrives as it is read. Dropping an answer
//! cancels its work on the server.
//!
//! ```no_run
//! # async fn example() -> nodedb_client::Result<()> {
//! use nodedb_client::{Client, Value};
//!
//! let client = Client::connect("ndb://127.0.0.1:6433").await?;
//! client.execute("CREATE TABLE notes (id BIGINT PRIMARY KEY, body TEXT)", &[]).await?;
//! client.put("notes", vec![vec![("id", 1i64.into()), ("body", "hello".into())]]).await?;
//!
//! let rows = client.sql("SELECT body FROM notes WHERE id = $1", &[1i64.into()]).await?;
//! for row in rows.collect().await? {
//!     println!("{:?}", row.get("body"));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A set query says natively what SQL over one collection says, and becomes the same plan:
//!
//! ```no_run
//! # async fn example(client: nodedb_client::Client, like: Vec<f32>) -> nodedb_client::Result<()> {
//! use nodedb_client::{Query, eq, text_match};
//!
//! let nearest = Query::over("packages")
//!     .filter(eq("tenant_id", 42i32).and(text_match("memory OR performance")))
//!     .nearest("embedding", "<=>", like, "distance")
//!     .columns(["name", "summary"])
//!     .limit(10);
//! let rows = client.query(nearest).await?.collect().await?;
//! # Ok(())
//! # }
//! ```

mod connection;
mod query;
mod rows;

pub use nodedb_types::{DataType, Failure, Result, SqlState, Value};
pub use query::{
    Filter, IntoValue, Query, between, call, eq, ge, gt, is_in, is_null, le, lt, ne, not,
    st_dwithin, text_match,
};
pub use rows::{Row, Rows};

use connection::Connection;
use nodedb_types::wire::Request;

/// A connection to a server. Cheap to clone; all clones use the same connection.
#[derive(Clone)]
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to `ndb://host:port` (the port may be left out: 6433).
    /// Fails with 58030 when there is no server, 08P01 when it speaks something else.
    pub async fn connect(url: &str) -> Result<Client> {
        Ok(Client {
            connection: Connection::open(url).await?,
        })
    }

    /// Runs one statement and streams its rows.
    pub async fn sql(&self, text: &str, params: &[Value]) -> Result<Rows> {
        self.connection.send_sql(text, params).await
    }

    /// Runs one statement to its end; gives the number of rows it returned or changed.
    pub async fn execute(&self, text: &str, params: &[Value]) -> Result<u64> {
        self.sql(text, params)
            .await?
            .finish()
            .await
            .map(|done| done.rows)
    }

    /// Rows by primary key, in the order of the keys; missing ones are left out.
    /// `columns` empty: all of them.
    pub async fn get(&self, collection: &str, keys: Vec<Value>, columns: &[&str]) -> Result<Rows> {
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        self.connection
            .send(&Request::Get {
                collection: collection.to_owned(),
                keys,
                columns,
            })
            .await
    }

    /// Inserts or replaces rows, all of them or none; columns not named become NULL.
    /// Gives the number of rows written.
    pub async fn put(&self, collection: &str, rows: Vec<Vec<(&str, Value)>>) -> Result<u64> {
        let named = |row: Vec<(&str, Value)>| {
            row.into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        };
        let rows = rows.into_iter().map(named).collect();
        let request = Request::Put {
            collection: collection.to_owned(),
            rows,
        };
        self.connection
            .send(&request)
            .await?
            .finish()
            .await
            .map(|done| done.rows)
    }

    /// Deletes rows by primary key, all of them or none; gives how many there were.
    pub async fn delete(&self, collection: &str, keys: Vec<Value>) -> Result<u64> {
        let request = Request::Delete {
            collection: collection.to_owned(),
            keys,
        };
        self.connection
            .send(&request)
            .await?
            .finish()
            .await
            .map(|done| done.rows)
    }

    /// Runs a set query and streams its rows.
    pub async fn query(&self, query: Query) -> Result<Rows> {
        self.connection
            .send(&Request::Query(query.into_wire()))
            .await
    }

    /// The number of rows that a set query's filter holds for; nothing is fetched.
    pub async fn count(&self, query: Query) -> Result<u64> {
        let mut wire = query.into_wire();
        wire.count = true;
        let rows = self
            .connection
            .send(&Request::Query(wire))
            .await?
            .collect()
            .await?;
        match rows.first().and_then(|row| row.values().first()) {
            Some(Value::Int8(n)) => Ok(*n as u64),
            _ => Err(Failure::new(
                SqlState::ProtocolViolation,
                "a count came back without a number",
            )),
        }
    }

    /// Returns when the server has answered.
    pub async fn ping(&self) -> Result<()> {
        self.connection
            .send(&Request::Ping)
            .await?
            .finish()
            .await
            .map(|_| ())
    }
}
