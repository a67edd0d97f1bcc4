//! Rows by key through three planes: written, read, changed, deleted, found again after a restart
//! with another number of cores.

use crate::node::{Folder, block_on, code, connect, open};

#[test]
fn a_row_is_written_read_changed_and_deleted() {
    let folder = Folder::new();
    let node = open(&folder, 2);
    block_on(async {
        let client = connect(&node).await;
        client
            .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, name text NOT NULL, n int)")
            .await
            .expect("creates");
        let insert = client
            .prepare("INSERT INTO t VALUES ($1, $2, $3)")
            .await
            .expect("prepares");
        for id in 0..50i64 {
            let name = format!("row {id}");
            let n = id as i32 * 2;
            let done = client.execute(&insert, &[&id, &name, &n]).await;
            assert_eq!(done.expect("inserts"), 1);
        }
        let get = client
            .prepare("SELECT name, n FROM t WHERE id = $1")
            .await
            .expect("prepares");
        for id in 0..50i64 {
            let row = client.query_one(&get, &[&id]).await.expect("is there");
            assert_eq!(row.get::<_, String>(0), format!("row {id}"));
            assert_eq!(row.get::<_, i32>(1), id as i32 * 2);
        }
        let n = client
            .execute("UPDATE t SET n = n + 1 WHERE id = 7", &[])
            .await;
        assert_eq!(n.expect("updates"), 1);
        let row = client.query_one(&get, &[&7i64]).await.expect("is there");
        assert_eq!(row.get::<_, i32>(1), 15);
        let n = client.execute("DELETE FROM t WHERE id = 8", &[]).await;
        assert_eq!(n.expect("deletes"), 1);
        assert!(
            client
                .query(&get, &[&8i64])
                .await
                .expect("reads")
                .is_empty()
        );
        let twice = client.execute(&insert, &[&7i64, &"x", &0i32]).await;
        assert_eq!(code(twice), "23505");
        let null = client
            .execute("INSERT INTO t VALUES (99, NULL, 1)", &[])
            .await;
        assert_eq!(code(null), "23502");
    });
    node.stop().expect("stops");
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart_on_other_cores() {
    let folder = Folder::new();
    for (run, cores) in [1u16, 4, 2, 3].into_iter().enumerate() {
        let run = run as i64;
        let node = open(&folder, cores);
        block_on(async {
            let client = connect(&node).await;
            if run == 0 {
                client
                    .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, run bigint)")
                    .await
                    .expect("creates");
            }
            // A statement over all cores.
            let values: Vec<String> = (0..100)
                .map(|i| format!("({}, {run})", run * 100 + i))
                .collect();
            let text = format!("INSERT INTO t VALUES {}", values.join(", "));
            assert_eq!(client.execute(&text, &[]).await.expect("inserts"), 100);
            let count = client
                .query_one("SELECT count(*) FROM t", &[])
                .await
                .expect("counts");
            assert_eq!(count.get::<_, i64>(0), (run + 1) * 100);
            let rows = client
                .query("SELECT id, run FROM t ORDER BY id", &[])
                .await
                .expect("reads");
            for (i, row) in rows.iter().enumerate() {
                assert_eq!(row.get::<_, i64>(0), i as i64);
                assert_eq!(row.get::<_, i64>(1), i as i64 / 100);
            }
        });
        node.stop().expect("stops");
    }
}

#[test]
fn statements_over_several_cores_are_atomic() {
    let folder = Folder::new();
    let node = open(&folder, 4);
    block_on(async {
        let client = connect(&node).await;
        client
            .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, n bigint)")
            .await
            .expect("creates");
        client
            .execute("INSERT INTO t VALUES (50, 0)", &[])
            .await
            .expect("inserts");
        let values: Vec<String> = (0..100).map(|i| format!("({i}, 1)")).collect();
        let values = values.join(", ");
        let text = format!("INSERT INTO t VALUES {values}");
        assert_eq!(code(client.execute(&text, &[]).await), "23505");
        let count = client
            .query_one("SELECT count(*) FROM t", &[])
            .await
            .expect("counts");
        assert_eq!(
            count.get::<_, i64>(0),
            1,
            "nothing of the failed statement is there"
        );
        let text =
            format!("INSERT INTO t VALUES {values} ON CONFLICT (id) DO UPDATE SET n = t.n + 10");
        assert_eq!(client.execute(&text, &[]).await.expect("inserts"), 100);
        let row = client
            .query_one("SELECT n FROM t WHERE id = 50", &[])
            .await
            .expect("reads");
        assert_eq!(row.get::<_, i64>(0), 10);
        let n = client
            .execute("UPDATE t SET n = n + 1 WHERE n = 1", &[])
            .await;
        assert_eq!(n.expect("updates"), 99);
        let n = client.execute("DELETE FROM t WHERE n = 2", &[]).await;
        assert_eq!(n.expect("deletes"), 99);
    });
    node.stop().expect("stops");
}

#[test]
fn concurrent_statements_over_cores_keep_the_sum() {
    let folder = Folder::new();
    let node = open(&folder, 4);
    block_on(async {
        let client = connect(&node).await;
        client
            .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, n bigint)")
            .await
            .expect("creates");
        let values: Vec<String> = (0..16).map(|i| format!("({i}, 100)")).collect();
        let text = format!("INSERT INTO t VALUES {}", values.join(", "));
        client.execute(&text, &[]).await.expect("inserts");
        let mut writers = Vec::new();
        for w in 0..3i64 {
            let writer = connect(&node).await;
            writers.push(tokio::spawn(async move {
                for i in 0..10i64 {
                    // One row gives what another gets, in one statement.
                    let (a, b) = ((w * 5 + i) % 16, (w * 5 + i * 3 + 1) % 16);
                    let text = format!(
                        "UPDATE t SET n = n + CASE WHEN id = {a} THEN 1 ELSE -1 END WHERE id IN ({a}, {b})"
                    );
                    if a != b {
                        writer.execute(&text, &[]).await.expect("moves");
                    }
                }
            }));
        }
        for _ in 0..20 {
            let row = client
                .query_one("SELECT sum(n)::bigint FROM t", &[])
                .await
                .expect("adds up");
            assert_eq!(
                row.get::<_, i64>(0),
                1600,
                "a reader saw half of a statement"
            );
        }
        for writer in writers {
            writer.await.expect("the writer ends");
        }
    });
    node.stop().expect("stops");
}
