//! What the SDK's guide shows; a test of the server runs it and compares it with the guide.

use nodedb_client::{Client, Result, SqlState, Value};
use nodedb_client::{Query, eq, is_null, not, st_dwithin, text_match};

/// Everything, in the order of the guide, over a server without a collection `notes`.
pub async fn run(client: &Client) -> Result<()> {
    statements(client).await?;
    keys(client).await?;
    sets(client).await?;
    streams_of_rows(client).await?;
    change_streams(client).await?;
    failures(client).await
}

async fn statements(client: &Client) -> Result<()> {
    client
        .execute(
            "CREATE COLLECTION notes (
               id BIGINT PRIMARY KEY, owner INT, body TEXT,
               place GEOGRAPHY(POINT), meaning VECTOR(3)
             ) WITH (engine = 'document_strict')",
            &[],
        )
        .await?;
    client
        .execute("CREATE INDEX ON notes USING fulltext (body)", &[])
        .await?;

    let changed = client
        .execute(
            "INSERT INTO notes (id, owner, body) VALUES ($1, $2, $3)",
            &[1i64.into(), 7i32.into(), "profiling memory".into()],
        )
        .await?;
    assert_eq!(changed, 1);

    let rows = client
        .sql("SELECT body FROM notes WHERE owner = $1", &[7i32.into()])
        .await?
        .collect()
        .await?;
    assert_eq!(rows[0].get("body"), Some(&"profiling memory".into()));
    Ok(())
}

async fn keys(client: &Client) -> Result<()> {
    let rows = vec![
        vec![
            ("id", 2i64.into()),
            ("owner", 7i32.into()),
            ("body", "a walk by the river".into()),
            ("meaning", Value::Vector(vec![0.0, 1.0, 0.0])),
        ],
        vec![
            ("id", 3i64.into()),
            ("owner", 8i32.into()),
            ("body", "memory of a river".into()),
            ("meaning", Value::Vector(vec![1.0, 0.0, 0.0])),
        ],
    ];
    assert_eq!(client.put("notes", rows).await?, 2);

    let found = client
        .get("notes", vec![3i64.into(), 9i64.into()], &["id", "body"])
        .await?
        .collect()
        .await?;
    assert_eq!(found.len(), 1);

    assert_eq!(client.delete("notes", vec![9i64.into()]).await?, 0);
    Ok(())
}

async fn sets(client: &Client) -> Result<()> {
    let nearest = Query::over("notes")
        .filter(text_match("river OR memory").and(not(is_null("meaning"))))
        .nearest("meaning", "<=>", vec![0.9, 0.1, 0.0], "distance")
        .columns(["id", "body"])
        .limit(1);
    let rows = client.query(nearest).await?.collect().await?;
    assert_eq!(rows[0].get("id"), Some(&3i64.into()));

    let mine = Query::over("notes").filter(eq("owner", 7i32));
    assert_eq!(client.count(mine).await?, 2);

    let near = Query::over("notes").filter(st_dwithin("place", 13.4, 52.5, 1_000.0));
    assert_eq!(client.count(near).await?, 0);
    Ok(())
}

async fn streams_of_rows(client: &Client) -> Result<()> {
    let mut rows = client
        .sql("SELECT x FROM generate_series(1, 100000) AS g (x)", &[])
        .await?;
    let mut seen = 0;
    while let Some(batch) = rows.next_batch().await? {
        seen += batch.num_rows();
        if seen > 10_000 {
            break;
        }
    }
    drop(rows);
    Ok(())
}

async fn change_streams(client: &Client) -> Result<()> {
    client
        .execute("CREATE CHANGE STREAM note_changes ON notes", &[])
        .await?;
    client
        .execute("UPDATE notes SET owner = owner + 1 WHERE id = 1", &[])
        .await?;

    let mut changes = client.sql("SELECT * FROM STREAM note_changes", &[]).await?;
    let mut last = 0i64;
    while let Some(change) = changes.next().await? {
        if let Some(Value::Int8(commit_ts)) = change.get("commit_ts") {
            last = *commit_ts;
        }
    }

    let again = client
        .sql(
            "SELECT * FROM STREAM note_changes SINCE $1",
            &[Value::Int8(last)],
        )
        .await?
        .collect()
        .await?;
    assert_eq!(again[0].get("op"), Some(&"update".into()));
    Ok(())
}

async fn failures(client: &Client) -> Result<()> {
    let insert = "INSERT INTO notes (id) VALUES (1)";
    let failure = client.execute(insert, &[]).await.unwrap_err();
    assert_eq!(failure.code(), SqlState::UniqueViolation);
    assert_eq!(failure.detail(), Some("Key (id)=(1) already exists."));
    Ok(())
}
