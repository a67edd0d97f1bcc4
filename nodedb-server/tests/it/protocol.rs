//! PostgreSQL's protocol: statements, portals, errors, COPY, and what is refused.

use bytes::{BufMut, BytesMut};
use futures::{SinkExt, pin_mut};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::node::{Folder, block_on, code, connect, open};

#[test]
fn errors_leave_the_connection_usable() {
    let folder = Folder::new();
    let node = open(&folder, 1);
    block_on(async {
        let client = connect(&node).await;
        for (text, expected) in [
            ("SELEC 1", "42601"),
            ("SELECT * FROM nothing", "42P01"),
            ("BEGIN", "0A000"),
            ("CREATE TABLE t (a int DEFAULT 1)", "0A000"),
            ("SET no_such_thing = 1", "42704"),
            ("CREATE TABLE a (i int); CREATE TABLE b (i int)", "0A000"),
            ("SELECT 1 / 0", "22012"),
        ] {
            assert_eq!(code(client.simple_query(text).await), expected, "{text}");
        }
        let rows = client
            .simple_query("SELECT 1 + 1 AS two")
            .await
            .expect("lives");
        let found = rows.iter().any(|m| match m {
            SimpleQueryMessage::Row(row) => row.get("two") == Some("2"),
            _ => false,
        });
        assert!(found);
        let empty = client
            .simple_query(" -- nothing")
            .await
            .expect("nothing to do");
        assert!(
            empty
                .iter()
                .all(|m| !matches!(m, SimpleQueryMessage::Row(_)))
        );
    });
    node.stop().expect("stops");
}

#[test]
fn parameters_are_inferred_and_described() {
    let folder = Folder::new();
    let node = open(&folder, 2);
    block_on(async {
        let client = connect(&node).await;
        client
            .batch_execute(
                "CREATE TABLE t (id int PRIMARY KEY, f float8, b bytea, s text, at timestamptz)",
            )
            .await
            .expect("creates");
        let statement = client
            .prepare("INSERT INTO t VALUES ($1, $2, $3, $4, '2020-01-02 03:04:05Z') RETURNING id, f, b, s")
            .await
            .expect("prepares");
        let types = [Type::INT4, Type::FLOAT8, Type::BYTEA, Type::TEXT];
        assert_eq!(statement.params(), types);
        let columns: Vec<_> = statement.columns().iter().map(|c| c.name()).collect();
        assert_eq!(columns, ["id", "f", "b", "s"]);
        let row = client
            .query_one(&statement, &[&1i32, &1.5f64, &&b"\x00\xff"[..], &"é"])
            .await
            .expect("inserts");
        assert_eq!(row.get::<_, i32>(0), 1);
        assert_eq!(row.get::<_, f64>(1), 1.5);
        assert_eq!(row.get::<_, &[u8]>(2), b"\x00\xff");
        assert_eq!(row.get::<_, &str>(3), "é");
    });
    node.stop().expect("stops");
}

/// A vector as the wire has it.
#[derive(Debug, PartialEq)]
struct Vector(Vec<f32>);

impl ToSql for Vector {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_u16(self.0.len() as u16);
        out.put_u16(0);
        self.0.iter().for_each(|element| out.put_f32(*element));
        Ok(IsNull::No)
    }

    fn accepts(data_type: &Type) -> bool {
        data_type.name() == "vector"
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Vector {
    fn from_sql(
        _: &Type,
        bytes: &'a [u8],
    ) -> Result<Vector, Box<dyn std::error::Error + Sync + Send>> {
        let elements = bytes[4..].as_chunks::<4>().0;
        Ok(Vector(
            elements.iter().map(|e| f32::from_be_bytes(*e)).collect(),
        ))
    }

    fn accepts(data_type: &Type) -> bool {
        data_type.name() == "vector"
    }
}

/// The driver looks up a type that it does not know by statements of its own, in binary.
#[test]
fn drivers_find_types_in_the_catalog() {
    let folder = Folder::new();
    let node = open(&folder, 1);
    block_on(async {
        let client = connect(&node).await;
        client
            .batch_execute("CREATE TABLE t (id int PRIMARY KEY, e vector(2))")
            .await
            .expect("creates");
        let given = Vector(vec![1.0, -2.5]);
        client
            .execute("INSERT INTO t VALUES (1, $1)", &[&given])
            .await
            .expect("inserts");
        let row = client
            .query_one("SELECT e, e <-> $1 FROM t", &[&Vector(vec![1.0, -2.5])])
            .await
            .expect("reads");
        assert_eq!(row.get::<_, Vector>(0), given);
        assert_eq!(row.get::<_, f64>(1), 0.0);
        let statement = client
            .prepare(
                "SELECT c.oid, relname, relkind FROM pg_class c WHERE c.oid = $1 AND relname = $2",
            )
            .await
            .expect("prepares");
        assert_eq!(statement.params(), [Type::OID, Type::NAME]);
        let row = client
            .query_one(&statement, &[&1259u32, &"pg_class"])
            .await
            .expect("one");
        assert_eq!(row.get::<_, u32>(0), 1259);
        assert_eq!(row.get::<_, &str>(1), "pg_class");
        assert_eq!(row.get::<_, i8>(2), b'r' as i8);
        // A declared type is the client's own.
        let statement = client
            .prepare_typed("SELECT $1 = 7", &[Type::OID])
            .await
            .expect("prepares");
        let row = client.query_one(&statement, &[&7u32]).await.expect("one");
        assert!(row.get::<_, bool>(0));
    });
    node.stop().expect("stops");
}

#[test]
fn copy_loads_rows_or_none() {
    let folder = Folder::new();
    let node = open(&folder, 2);
    block_on(async {
        let client = connect(&node).await;
        client
            .batch_execute("CREATE TABLE t (id int PRIMARY KEY, s text)")
            .await
            .expect("creates");
        let copy = async |text: &str, data: &'static [u8]| {
            let sink = client.copy_in(text).await?;
            pin_mut!(sink);
            for piece in data.chunks(7) {
                sink.send(bytes::Bytes::from_static(piece)).await?;
            }
            sink.finish().await
        };
        let text = "COPY t FROM STDIN";
        let rows = copy(text, b"1\ta\\tb\n2\t\\N\n3\t\n").await;
        assert_eq!(rows.expect("loads"), 3);
        let csv = "COPY t (s, id) FROM STDIN WITH (FORMAT csv, HEADER)";
        let rows = copy(csv, b"s,id\n\"x, \"\"y\"\"\",4\n,5\n").await;
        assert_eq!(rows.expect("loads"), 2);
        let bad = copy(text, b"6\tx\n7\n").await;
        assert_eq!(code(bad), "22P04");
        let twice = copy(text, b"8\tx\n1\ty\n").await;
        assert_eq!(code(twice), "23505");
        let rows = client
            .query("SELECT id, s FROM t ORDER BY id", &[])
            .await
            .expect("reads");
        let rows: Vec<(i32, Option<String>)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(
            rows,
            [
                (1, some("a\tb")),
                (2, None),
                (3, some("")),
                (4, some("x, \"y\"")),
                (5, None)
            ]
        );
    });
    node.stop().expect("stops");
}

#[test]
fn statements_are_forgotten_by_name() {
    let folder = Folder::new();
    let node = open(&folder, 1);
    block_on(async {
        let client = connect(&node).await;
        let statement = client.prepare("SELECT 1 + 1").await.expect("prepares");
        client.query_one(&statement, &[]).await.expect("runs");
        assert_eq!(
            code(client.simple_query("DEALLOCATE nothing").await),
            "26000"
        );
        client
            .simple_query("DEALLOCATE ALL")
            .await
            .expect("forgets");
        assert_eq!(code(client.query_one(&statement, &[]).await), "26000");
    });
    node.stop().expect("stops");
}
