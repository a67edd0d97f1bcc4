//! What several cores do for one statement: their reports, and which of their failures counts.

use tokio_postgres::Client;

use crate::node::{Folder, block_on, code, connect, open};

async fn explain(client: &Client, sql: &str) -> Vec<String> {
    let rows = client
        .query(&format!("EXPLAIN ANALYZE {sql}"), &[])
        .await
        .expect(sql);
    rows.iter().map(|row| row.get(0)).collect()
}

/// Leaves with the lines of cores below each.
fn reports(lines: &[String]) -> Vec<(String, usize)> {
    let mut leaves: Vec<(String, usize)> = Vec::new();
    for line in lines.iter().map(|line| line.trim()) {
        if let Some(leaf) = line.strip_prefix("->  Leaf on ") {
            leaves.push((leaf.to_owned(), 0));
        } else if line.starts_with("Core ")
            && let Some((_, cores)) = leaves.last_mut()
        {
            *cores += 1;
        }
    }
    leaves
}

#[test]
fn each_leaf_shows_its_own_reports() {
    let folder = Folder::new();
    let node = open(&folder, 2);
    block_on(async {
        let client = connect(&node).await;
        for sql in [
            "CREATE TABLE t (id bigint PRIMARY KEY, n int)",
            "INSERT INTO t SELECT i, i FROM generate_series(1, 100) i",
        ] {
            client.batch_execute(sql).await.expect(sql);
        }
        for (sql, leaves) in [
            // One scan in the text, three in the plan.
            ("SELECT min(id), max(id), count(*) FROM t", 3),
            ("SELECT count(*) FROM t a JOIN t b ON a.id = b.n", 2),
            (
                "SELECT min(id), (SELECT count(*) FROM t WHERE n = 3) FROM t",
                2,
            ),
            ("SELECT sum(n), (SELECT max(n) FROM t o) FROM t", 2),
        ] {
            let lines = explain(&client, sql).await;
            let shown = reports(&lines);
            assert_eq!(shown.len(), leaves, "{lines:#?}");
            assert!(shown.iter().all(|(_, cores)| *cores == 2), "{lines:#?}");
        }
    });
    node.stop().expect("stops");
}

/// Rows that fail in two ways, some of each on either core: which way the statement fails does not
/// change from run to run.
#[test]
fn which_failure_counts_is_no_matter_of_time() {
    let folder = Folder::new();
    let node = open(&folder, 2);
    block_on(async {
        let client = connect(&node).await;
        for sql in [
            "CREATE TABLE t (id bigint PRIMARY KEY, a int, b int)",
            "INSERT INTO t SELECT i, i % 2, i FROM generate_series(1, 400) i",
        ] {
            client.batch_execute(sql).await.expect(sql);
        }
        let fails = "CASE a WHEN 0 THEN 1 / (b - b) ELSE b + 2147483647 END";
        for sql in [
            format!("SELECT count(*) FROM t WHERE {fails} = 1"),
            format!("SELECT id FROM t WHERE {fails} = 1"),
            format!("SELECT id FROM t WHERE {fails} = 1 ORDER BY id LIMIT 3"),
            format!("SELECT sum(id) FROM t WHERE {fails} = 1"),
            format!("UPDATE t SET b = 0 WHERE {fails} = 1"),
        ] {
            let first = code(client.batch_execute(&sql).await);
            assert!(["22012", "22003"].contains(&first.as_str()), "{first}");
            for _ in 0..20 {
                assert_eq!(code(client.batch_execute(&sql).await), first, "{sql}");
            }
        }
    });
    node.stop().expect("stops");
}
