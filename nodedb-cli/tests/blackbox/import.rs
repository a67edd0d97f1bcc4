//! `ndb import` as a shell runs it: files that are bad in many ways, other forms, interruption.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampNanosecondArray, UInt64Array,
};
use parquet::arrow::ArrowWriter;

use crate::load::rows;
use crate::server::{Folder, Server, Start};

/// A command line of `ndb` against a server.
pub fn ndb(server: &Server, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ndb"));
    command
        .args(arguments)
        .arg("--url")
        .arg(format!("ndb://{}", server.native))
        .current_dir(folder)
        .env("HOME", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command with this standard input to its end.
pub fn fed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    // It may end without reading all.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server over `folder/data` and a table.
async fn start(folder: &Folder, table: &str) -> Server {
    let start = Start {
        cores: 2,
        io: "auto",
    };
    let server = Server::start(&folder.path().join("data"), start);
    let client = server.connect().await;
    client.simple_query(table).await.expect(table);
    server
}

#[tokio::test]
async fn errors_name_the_row_and_what_was_committed() {
    let folder = Folder::new("import");
    let server = start(&folder, "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT)").await;
    let client = server.connect().await;
    let big = format!("id,name\n1,a\n2,b\n3,{}\n4,d\n", "x".repeat(600_000));
    let cases: [(&str, &[u8], &str, usize); 8] = [
        ("big.csv", big.as_bytes(), "row 3: row is too big", 2),
        (
            "latin.csv",
            b"id,name\n1,a\n2,caf\xe9\n",
            "row 2: invalid UTF-8",
            1,
        ),
        (
            "latin.ndjson",
            b"{\"id\": 1}\n{\"name\": \"\xe9\"}\n",
            "row 2: invalid UTF-8",
            1,
        ),
        (
            "quote.csv",
            b"id,name\n1,a\n2,\"b\n3,c\n",
            "row 2: a quoted field is not closed; the row begins on line 3",
            1,
        ),
        (
            "fields.tsv",
            b"id\tname\n1\ta\n2\n",
            "row 2: 1 fields where the header has 2",
            1,
        ),
        ("wide.csv", b"\xff\xfei\0d\0", "UTF-16", 0),
        (
            "some.csv.gz",
            b"\x1f\x8b",
            "gunzip -c some.csv.gz | ndb import -",
            0,
        ),
        (
            "cut.csv.zst",
            b"\x28\xb5\x2f\xfd",
            "cannot read cut.csv.zst",
            0,
        ),
    ];
    for (name, bytes, message, committed) in cases {
        std::fs::write(folder.path().join(name), bytes).expect("a file");
        let done = ndb(&server, folder.path(), &["import", name, "--into", "t"]).output();
        let done = done.expect("it runs");
        let said = text(&done.stderr);
        assert!(said.contains(message), "{name}: {said}");
        assert_eq!(done.status.code(), Some(1), "{name}: {said}");
        let count = rows(&client, "SELECT id FROM t").await.len();
        assert_eq!(count, committed, "{name}: {said}");
        assert!(count == 0 || said.contains("committed before it"), "{said}");
        client.simple_query("DELETE FROM t").await.expect("empty");
    }
}

#[tokio::test]
async fn other_forms_of_text_are_read() {
    let folder = Folder::new("import-forms");
    let server = start(&folder, "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT)").await;
    let client = server.connect().await;
    let write =
        |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("a file");
    write("marked.csv", b"\xef\xbb\xbfid,name\r\n1,\"a\nb\"\r\n");
    write("tabs.tsv", b"id\tname\n2\ta,b\n");
    let packed = zstd::encode_all(&b"{\"id\": 3, \"name\": \"c\"}\n"[..], 1).expect("packs");
    write("lines.ndjson.zst", &packed);
    write("plain.txt", b"id,name\n4,d\n");
    for arguments in [
        &["import", "marked.csv", "--into", "t"][..],
        &["import", "tabs.tsv", "--into", "t"],
        &["import", "lines.ndjson.zst", "--into", "t"],
        &["import", "plain.txt", "--format", "csv", "--into", "t"],
    ] {
        let done = ndb(&server, folder.path(), arguments)
            .output()
            .expect("it runs");
        assert_eq!(text(&done.stdout), "1 row was committed to t\n", "{done:?}");
    }
    let stdin = ["import", "-", "--format", "csv", "--into", "t"];
    let done = fed(ndb(&server, folder.path(), &stdin), b"id,name\n5,e\n6,f\n");
    assert_eq!(
        text(&done.stdout),
        "2 rows were committed to t\n",
        "{done:?}"
    );
    let done = fed(
        ndb(&server, folder.path(), &["import", "-", "--into", "t"]),
        b"",
    );
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("--format"), "{done:?}");
    let names = rows(&client, "SELECT name FROM t ORDER BY id").await;
    let names: Vec<_> = names.iter().filter_map(|row| row[0].as_deref()).collect();
    assert_eq!(names, ["a\nb", "a,b", "c", "d", "e", "f"]);
}

#[tokio::test]
async fn parquet_values_that_do_not_fit_are_errors() {
    let folder = Folder::new("import-parquet");
    let server = start(&folder, "CREATE TABLE t (n BIGINT, d DATE, at TIMESTAMP)").await;
    let client = server.connect().await;
    let whole: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0]));
    let cases: [(&str, ArrayRef, Option<&str>); 7] = [
        ("n", whole, None),
        (
            "n",
            Arc::new(Float64Array::from(vec![1.0, 5001.5])),
            Some("invalid input syntax for type bigint: \"5001.5\""),
        ),
        (
            "n",
            Arc::new(Float64Array::from(vec![1.0, f64::NAN])),
            Some("\"NaN\""),
        ),
        (
            "n",
            Arc::new(UInt64Array::from(vec![1, u64::MAX])),
            Some("out of range"),
        ),
        (
            "d",
            Arc::new(TimestampNanosecondArray::from(vec![0, 3_600_000_000_000])),
            Some("for type date"),
        ),
        (
            "at",
            Arc::new(TimestampNanosecondArray::from(vec![1_000, 1_001])),
            Some("nanoseconds"),
        ),
        (
            "at",
            Arc::new(Int64Array::from(vec![None, Some(1)])),
            Some("is of type bigint"),
        ),
    ];
    for (column, values, wrong) in cases {
        let batch = RecordBatch::try_from_iter([(column, values)]).expect("a batch");
        let file = std::fs::File::create(folder.path().join("f.parquet")).expect("a file");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("rows");
        writer.close().expect("a file");
        let arguments = ["import", "f.parquet", "--into", "t"];
        let done = ndb(&server, folder.path(), &arguments)
            .output()
            .expect("it runs");
        let (said, count) = (
            text(&done.stderr),
            rows(&client, "SELECT * FROM t").await.len(),
        );
        client.simple_query("DELETE FROM t").await.expect("empty");
        let Some(message) = wrong else {
            assert_eq!(count, 2, "{said}");
            continue;
        };
        let place = format!("row 2, column \"{column}\": ");
        assert!(said.contains(&place) && said.contains(message), "{said}");
        assert_eq!(count, 1, "{said}");
    }
}

#[tokio::test]
async fn an_interruption_says_what_was_committed() {
    let folder = Folder::new("import-stopped");
    let server = start(&folder, "CREATE TABLE t (id BIGINT PRIMARY KEY)").await;
    let client = server.connect().await;
    let arguments = ["import", "-", "--format", "csv", "--into", "t"];
    let mut child = ndb(&server, folder.path(), &arguments)
        .stdin(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    // Rows come until it reads no more.
    let feeding = std::thread::spawn(move || {
        let _ = stdin.write_all(b"id\n");
        let all_read = (0..).try_for_each(|id: u64| writeln!(stdin, "{id}"));
        all_read.expect_err("it goes away");
    });
    while rows(&client, "SELECT id FROM t LIMIT 1").await.is_empty() {
        tokio::task::yield_now().await;
    }
    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("a signal");
    assert!(interrupted.success());
    let done = child.wait_with_output().expect("it ends");
    feeding.join().expect("it was fed");
    assert_eq!(done.status.code(), Some(130), "{done:?}");
    let count = rows(&client, "SELECT id FROM t").await.len();
    assert_eq!(
        text(&done.stderr),
        format!("ndb: interrupted; {count} rows were committed\n")
    );
}
