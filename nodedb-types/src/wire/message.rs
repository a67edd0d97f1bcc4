//! The messages: what a client can ask natively, and how an answer ends.

use super::codec::{Reader, Writer};
use super::{MAGIC, violation};
use crate::{Failure, Result, SqlState, Value};

/// The first message of each side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The client's newest version; in the answer the version chosen.
    pub version: u16,
    /// Name and version of the program, for logs.
    pub agent: String,
}

impl Hello {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(MAGIC);
        w.u16(self.version);
        w.text(&self.agent);
        w.finish()
    }

    pub fn decode(payload: &[u8]) -> Result<Hello> {
        let mut r = Reader::new(payload);
        if r.u32()? != MAGIC {
            return Err(violation("not the native protocol").with_hint(
                "psql connects to the pgwire port, browsers and curl to the HTTP port",
            ));
        }
        let hello = Hello {
            version: r.u16()?,
            agent: r.text()?,
        };
        r.finish()?;
        Ok(hello)
    }
}

/// A row as named cells; columns not named are NULL.
pub type Row = Vec<(String, Value)>;

/// What a client asks for.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    /// One SQL statement with values for `$1`, `$2`, ...
    Sql {
        text: String,
        params: Vec<Value>,
    },
    /// Rows by primary key, in the order of the keys; missing ones are left out.
    Get {
        collection: String,
        keys: Vec<Value>,
        columns: Vec<String>,
    },
    /// Inserts or replaces rows, all of them or none.
    Put {
        collection: String,
        rows: Vec<Row>,
    },
    /// Deletes rows by primary key, all of them or none; `Done` counts those that were there.
    Delete {
        collection: String,
        keys: Vec<Value>,
    },
    Query(SetQuery),
    Ping,
}

/// A set query: one collection, a Boolean of predicates, an order, a limit, columns or a count.
/// The same plan that SQL over one collection becomes.
#[derive(Clone, PartialEq, Debug)]
pub struct SetQuery {
    pub collection: String,
    pub filter: Option<Term>,
    pub order: Order,
    pub limit: Option<u64>,
    pub offset: u64,
    /// Columns to return; empty for all of them.
    pub columns: Vec<String>,
    /// Adds the ranking's distance or score as a last column of this name.
    pub score: Option<String>,
    /// Return the number of rows only.
    pub count: bool,
}

/// A predicate of a set query, with SQL's three values.
#[derive(Clone, PartialEq, Debug)]
pub enum Term {
    /// A comparison (`=`, `<>`, `<`, `<=`, `>`, `>=`, `in`, `between`, `is null`) or a function
    /// such as `text_match` or `st_dwithin`, by its lower-case name.
    Call {
        name: String,
        arguments: Vec<Argument>,
    },
    And(Vec<Term>),
    Or(Vec<Term>),
    Not(Box<Term>),
}

/// An argument of a call.
#[derive(Clone, PartialEq, Debug)]
pub enum Argument {
    Column(String),
    Value(Value),
    /// The collection itself, as in `text_match(packages, '...')`.
    Collection,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Order {
    Any,
    Key {
        descending: bool,
    },
    Column {
        name: String,
        descending: bool,
    },
    /// By a ranker, best first: a distance operator (`<=>`) or `bm25_score`.
    Rank {
        name: String,
        arguments: Vec<Argument>,
    },
}

/// Nesting of a filter, capped before it is built.
const DEPTH_MAX: usize = crate::limits::STATEMENT_DEPTH_MAX;

fn write_arguments(w: &mut Writer, arguments: &[Argument]) {
    w.list(arguments, |w, argument| match argument {
        Argument::Column(name) => {
            w.u8(0);
            w.text(name);
        }
        Argument::Value(value) => {
            w.u8(1);
            w.value(value);
        }
        Argument::Collection => w.u8(2),
    });
}

fn read_arguments(r: &mut Reader<'_>) -> Result<Vec<Argument>> {
    r.list(|r| {
        Ok(match r.u8()? {
            0 => Argument::Column(r.text()?),
            1 => Argument::Value(r.value()?),
            2 => Argument::Collection,
            _ => return Err(violation("an argument of unknown kind")),
        })
    })
}

fn write_term(w: &mut Writer, term: &Term) {
    match term {
        Term::Call { name, arguments } => {
            w.u8(0);
            w.text(name);
            write_arguments(w, arguments);
        }
        Term::And(terms) => {
            w.u8(1);
            w.list(terms, write_term);
        }
        Term::Or(terms) => {
            w.u8(2);
            w.list(terms, write_term);
        }
        Term::Not(term) => {
            w.u8(3);
            write_term(w, term);
        }
    }
}

fn read_term(r: &mut Reader<'_>, depth: usize) -> Result<Term> {
    if depth > DEPTH_MAX {
        return Err(Failure::new(
            SqlState::StatementTooComplex,
            "a filter is nested too deeply",
        ));
    }
    Ok(match r.u8()? {
        0 => Term::Call {
            name: r.text()?,
            arguments: read_arguments(r)?,
        },
        1 => Term::And(r.list(|r| read_term(r, depth + 1))?),
        2 => Term::Or(r.list(|r| read_term(r, depth + 1))?),
        3 => Term::Not(Box::new(read_term(r, depth + 1)?)),
        _ => return Err(violation("a term of unknown kind")),
    })
}

impl SetQuery {
    fn write(&self, w: &mut Writer) {
        w.text(&self.collection);
        w.option(self.filter.as_ref(), write_term);
        match &self.order {
            Order::Any => w.u8(0),
            Order::Key { descending } => {
                w.u8(1);
                w.bool(*descending);
            }
            Order::Column { name, descending } => {
                w.u8(2);
                w.text(name);
                w.bool(*descending);
            }
            Order::Rank { name, arguments } => {
                w.u8(3);
                w.text(name);
                write_arguments(w, arguments);
            }
        }
        w.option(self.limit, Writer::u64);
        w.u64(self.offset);
        w.list(&self.columns, |w, c| w.text(c));
        w.option(self.score.as_deref(), Writer::text);
        w.bool(self.count);
    }

    fn read(r: &mut Reader<'_>) -> Result<SetQuery> {
        Ok(SetQuery {
            collection: r.text()?,
            filter: r.option(|r| read_term(r, 0))?,
            order: match r.u8()? {
                0 => Order::Any,
                1 => Order::Key {
                    descending: r.bool()?,
                },
                2 => Order::Column {
                    name: r.text()?,
                    descending: r.bool()?,
                },
                3 => Order::Rank {
                    name: r.text()?,
                    arguments: read_arguments(r)?,
                },
                _ => return Err(violation("an order of unknown kind")),
            },
            limit: r.option(Reader::u64)?,
            offset: r.u64()?,
            columns: r.list(Reader::text)?,
            score: r.option(Reader::text)?,
            count: r.bool()?,
        })
    }
}

impl Request {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.write(&mut w);
        w.finish()
    }

    /// The same as [`Request::Sql`] with copies of the values.
    pub fn write_sql(w: &mut Writer, text: &str, params: &[Value]) {
        w.u8(0);
        w.text(text);
        w.list(params, Writer::value);
    }

    pub fn write(&self, w: &mut Writer) {
        match self {
            Request::Sql { text, params } => Request::write_sql(w, text, params),
            Request::Get {
                collection,
                keys,
                columns,
            } => {
                w.u8(1);
                w.text(collection);
                w.list(keys, Writer::value);
                w.list(columns, |w, c| w.text(c));
            }
            Request::Put { collection, rows } => {
                w.u8(2);
                w.text(collection);
                w.list(rows, |w, row| {
                    w.list(row, |w, (name, value)| {
                        w.text(name);
                        w.value(value);
                    });
                });
            }
            Request::Delete { collection, keys } => {
                w.u8(3);
                w.text(collection);
                w.list(keys, Writer::value);
            }
            Request::Query(query) => {
                w.u8(4);
                query.write(w);
            }
            Request::Ping => w.u8(5),
        }
    }

    /// Fails with 08P01, or with the SQLSTATE of a value that is out of range.
    pub fn decode(payload: &[u8]) -> Result<Request> {
        let mut r = Reader::new(payload);
        let request = match r.u8()? {
            0 => Request::Sql {
                text: r.text()?,
                params: r.list(Reader::value)?,
            },
            1 => Request::Get {
                collection: r.text()?,
                keys: r.list(Reader::value)?,
                columns: r.list(Reader::text)?,
            },
            2 => Request::Put {
                collection: r.text()?,
                rows: r.list(|r| r.list(|r| Ok((r.text()?, r.value()?))))?,
            },
            3 => Request::Delete {
                collection: r.text()?,
                keys: r.list(Reader::value)?,
            },
            4 => Request::Query(SetQuery::read(&mut r)?),
            5 => Request::Ping,
            _ => return Err(violation("a request of unknown kind")),
        };
        r.finish()?;
        Ok(request)
    }
}

/// The last message of an answer that succeeded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// PostgreSQL's command tag, such as `SELECT 10`.
    pub command: String,
    /// Rows returned or changed.
    pub rows: u64,
}

impl Done {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.text(&self.command);
        w.u64(self.rows);
        w.finish()
    }

    pub fn decode(payload: &[u8]) -> Result<Done> {
        let mut r = Reader::new(payload);
        let done = Done {
            command: r.text()?,
            rows: r.u64()?,
        };
        r.finish()?;
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::Numeric;

    fn samples() -> Vec<Request> {
        let values = vec![
            Value::Null,
            Value::Bool(true),
            Value::Int2(-1),
            Value::Int4(7),
            Value::Int8(i64::MIN),
            Value::Float4(0.5),
            Value::Float8(-1e300),
            Value::Numeric(Numeric::parse("-12.50").unwrap()),
            Value::Text("é".to_owned()),
            Value::Bytea(vec![0, 255]),
            Value::Uuid([9; 16]),
            Value::Date(-1),
            Value::Timestamp(1),
            Value::TimestampTz(2),
            Value::Jsonb("{\"a\": 1}".to_owned()),
            Value::Vector(vec![1.0, 2.0]),
        ];
        let call = Term::Call {
            name: "text_match".to_owned(),
            arguments: vec![
                Argument::Collection,
                Argument::Value(Value::Text("x".to_owned())),
            ],
        };
        let query = SetQuery {
            collection: "packages".to_owned(),
            filter: Some(Term::And(vec![
                call.clone(),
                Term::Not(Box::new(Term::Or(vec![call]))),
            ])),
            order: Order::Rank {
                name: "<=>".to_owned(),
                arguments: vec![Argument::Column("embedding".to_owned())],
            },
            limit: Some(10),
            offset: 2,
            columns: vec!["name".to_owned()],
            score: Some("distance".to_owned()),
            count: false,
        };
        vec![
            Request::Sql {
                text: "SELECT $1".to_owned(),
                params: values.clone(),
            },
            Request::Get {
                collection: "c".to_owned(),
                keys: values.clone(),
                columns: vec![],
            },
            Request::Put {
                collection: "c".to_owned(),
                rows: vec![vec![("a".to_owned(), Value::Int4(1))]],
            },
            Request::Delete {
                collection: "c".to_owned(),
                keys: values,
            },
            Request::Query(query),
            Request::Ping,
        ]
    }

    #[test]
    fn requests_come_back() {
        for request in samples() {
            assert_eq!(Request::decode(&request.encode()).unwrap(), request);
        }
    }

    #[test]
    fn cut_and_changed_messages_fail_without_a_panic() {
        for request in samples() {
            let bytes = request.encode();
            for end in 0..bytes.len() {
                assert!(Request::decode(&bytes[..end]).is_err());
            }
            for at in 0..bytes.len() {
                for flip in [1u8, 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] ^= flip;
                    // Either another valid message or an error, never a panic.
                    let _ = Request::decode(&changed);
                }
            }
        }
        let deep = [[4u8].as_slice(), &[0, 0, 0, 0, 1], &[3; 100_000]].concat();
        assert!(Request::decode(&deep).is_err());
    }

    #[test]
    fn failures_come_back() {
        let failure = Failure::new(SqlState::UniqueViolation, "twice")
            .with_detail("d")
            .with_hint("h")
            .at(3)
            .retryable();
        let mut w = Writer::new();
        w.failure(&failure);
        let bytes = w.finish();
        let mut r = Reader::new(&bytes);
        assert_eq!(r.failure().unwrap(), failure);
        r.finish().unwrap();
    }
}
