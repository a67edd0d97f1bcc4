//! `ndb demo`: real packages loaded through public SQL, the cross-engine question asked for
//! several texts, the answers explained, and on request compared with brute force.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::types::{Float16Type, Float32Type};
use arrow::array::{Array, AsArray};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use nodedb_client::{Client, Row, Value};
use nodedb_types::vector::{self, Metric};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::load;
use crate::render::{self, Length};

static PACKAGES: &[u8] = include_bytes!("../data/atlas-2000.parquet");
static QUERIES: &[u8] = include_bytes!("../data/queries.parquet");

const COLLECTION: &str = "\
CREATE COLLECTION packages (
  id BIGINT PRIMARY KEY, name TEXT NOT NULL, section TEXT, priority TEXT, installed_kib BIGINT, tenant_id INT,
  summary TEXT, description TEXT, place TEXT, location GEOGRAPHY(POINT), embedding VECTOR(384)
) WITH (engine = 'document_strict')";
const INDEXES: [&str; 4] = [
    "CREATE INDEX packages_tenant  ON packages (tenant_id)",
    "CREATE INDEX packages_text    ON packages USING fulltext (summary, description) WITH (analyzer = 'english')",
    "CREATE INDEX packages_place   ON packages USING rtree (location)",
    "CREATE INDEX packages_meaning ON packages USING hnsw (embedding vector_cosine_ops)",
];
const QUESTION: &str = "\
SELECT name, summary, embedding <=> $1 AS distance
FROM packages
WHERE tenant_id = 42
  AND text_match(packages, '(memory OR performance) AND (debug* OR profil* OR analy*)')
  AND ST_DWithin(location, ST_Point(13.4, 52.5), 1500000)
ORDER BY embedding <=> $1
LIMIT 10";
/// The same rows without any index: every predicate evaluated on every row by the client.
const EVERYTHING: &str = "\
SELECT name, summary, tenant_id, embedding, ST_Distance(location, ST_Point(13.4, 52.5)) AS metres,
       text_match(packages, '(memory OR performance) AND (debug* OR profil* OR analy*)') AS matches
FROM packages";
/// Runs of a question before its time counts.
const WARM_UP: usize = 5;

/// A text and its embedding.
struct Query {
    text: String,
    embedding: Vec<f32>,
}

/// Loads the data unless an earlier run did, and asks.
/// `full`: a folder with `packages.parquet` (and `queries.parquet`) of the whole data set.
pub async fn run(client: &Client, full: Option<&Path>, check: bool) -> Result<()> {
    prepare(client, full).await?;
    let queries = match full
        .map(|dir| dir.join("queries.parquet"))
        .filter(|path| path.exists())
    {
        Some(path) => read_queries(Bytes::from(std::fs::read(&path)?))?,
        None => read_queries(Bytes::from_static(QUERIES))?,
    };
    let mut out = io::stdout();
    writeln!(out, "\n{QUESTION};\n")?;
    for query in queries.iter().take(6) {
        let params = [Value::Vector(query.embedding.clone())];
        for _ in 0..WARM_UP {
            client.sql(QUESTION, &params).await?.finish().await?;
        }
        let begin = Instant::now();
        let mut rows = client.sql(QUESTION, &params).await?;
        let columns = rows.columns().await?;
        let answer = rows.collect().await?;
        let took = begin.elapsed();
        writeln!(out, "$1 = embedding of \"{}\"", query.text)?;
        render::table(&mut out, Length::of_stdout(), &columns, &answer)?;
        writeln!(
            out,
            "answered in {:.3} ms, the round trip included\n",
            took.as_secs_f64() * 1e3
        )?;
        if check {
            compare(client, query, &answer).await?;
            writeln!(
                out,
                "checked: brute force over every row gives the same answer\n"
            )?;
        }
    }
    explain(client, &queries[0]).await
}

async fn explain(client: &Client, query: &Query) -> Result<()> {
    let mut out = io::stdout();
    let params = [Value::Vector(query.embedding.clone())];
    let rows = client
        .sql(&format!("EXPLAIN ANALYZE {QUESTION}"), &params)
        .await?
        .collect()
        .await?;
    writeln!(out, "How it was answered (EXPLAIN ANALYZE):\n")?;
    for row in rows {
        if let Some(Value::Text(line)) = row.values().first() {
            writeln!(out, "  {line}")?;
        }
    }
    writeln!(out)?;
    Ok(())
}

async fn prepare(client: &Client, full: Option<&Path>) -> Result<()> {
    let expected: i64 = match full {
        Some(dir) => {
            let file = std::fs::File::open(dir.join("packages.parquet"))
                .with_context(|| format!("{} has no packages.parquet", dir.display()))?;
            ParquetRecordBatchReaderBuilder::try_new(file)?
                .metadata()
                .file_metadata()
                .num_rows()
        }
        None => ParquetRecordBatchReaderBuilder::try_new(Bytes::from_static(PACKAGES))?
            .metadata()
            .file_metadata()
            .num_rows(),
    };
    if complete(client, expected).await {
        writeln!(
            io::stdout(),
            "The data of an earlier demo is there: {expected} packages."
        )?;
        return Ok(());
    }
    // An earlier demo may have been interrupted, or was of the other size.
    client
        .execute("DROP COLLECTION IF EXISTS packages", &[])
        .await?;
    client.execute(COLLECTION, &[]).await?;
    let begin = Instant::now();
    let progress = Arc::default();
    let rows = match full {
        Some(dir) => {
            let path = dir.join("packages.parquet");
            load::source::file(client, &path, None, "packages", &progress).await?
        }
        None => {
            let packages = Bytes::from_static(PACKAGES);
            load::parquet(client, packages, "packages", &progress).await?
        }
    };
    writeln!(
        io::stdout(),
        "Loaded {rows} packages in {:.1} s.",
        begin.elapsed().as_secs_f64()
    )?;
    let bar = ProgressBar::new(INDEXES.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:32} {msg}")?);
    for statement in INDEXES {
        let begin = Instant::now();
        bar.set_message(statement);
        client.execute(statement, &[]).await?;
        bar.inc(1);
        bar.suspend(|| {
            writeln!(
                io::stdout(),
                "{statement}  ({:.0} ms)",
                begin.elapsed().as_secs_f64() * 1e3
            )
        })?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// True when the collection holds all rows and every index answers.
async fn complete(client: &Client, expected: i64) -> bool {
    let count = async {
        let rows = client
            .sql("SELECT count(*) FROM packages", &[])
            .await?
            .collect()
            .await?;
        Ok::<_, nodedb_client::Failure>(rows.first().and_then(|row| row.values().first().cloned()))
    };
    if !matches!(count.await, Ok(Some(Value::Int8(n))) if n == expected) {
        return false;
    }
    let indexes = "SELECT count(*) FROM pg_catalog.pg_class WHERE relkind = 'i' AND relname IN \
                   ('packages_tenant', 'packages_text', 'packages_place', 'packages_meaning')";
    let Ok(rows) = client.sql(indexes, &[]).await else {
        return false;
    };
    let Ok(rows) = rows.collect().await else {
        return false;
    };
    matches!(rows.first().map(Row::values), Some([Value::Int8(4)]))
}

fn read_queries(source: Bytes) -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(source)?.build()? {
        let batch = batch?;
        let text = batch
            .column_by_name("text")
            .context("queries.parquet has no column text")?;
        let vectors = batch
            .column_by_name("embedding")
            .context("queries.parquet has no column embedding")?;
        for row in 0..batch.num_rows() {
            let text = nodedb_types::arrow_map::text(text, row)?.to_owned();
            queries.push(Query {
                text,
                embedding: embedding(vectors, row)?,
            });
        }
    }
    ensure!(!queries.is_empty(), "queries.parquet is empty");
    Ok(queries)
}

fn embedding(array: &dyn Array, row: usize) -> Result<Vec<f32>> {
    let items = match array.as_fixed_size_list_opt() {
        Some(list) => list.value(row),
        None => array
            .as_list_opt::<i32>()
            .context("embedding is not a list")?
            .value(row),
    };
    if let Some(halves) = items.as_primitive_opt::<Float16Type>() {
        return Ok(halves.values().iter().map(|x| x.to_f32()).collect());
    }
    let floats = items
        .as_primitive_opt::<Float32Type>()
        .context("embedding is not of floats")?;
    Ok(floats.values().to_vec())
}

/// Ranks every row here and compares names and distances.
async fn compare(client: &Client, query: &Query, answer: &[Row]) -> Result<()> {
    let mut best: Vec<(f64, String)> = Vec::new();
    let mut rows = client.sql(EVERYTHING, &[]).await?;
    while let Some(row) = rows.next().await? {
        let [name, _, tenant, embedding, metres, matches] = row.values() else {
            bail!("the check read a row of another shape");
        };
        let near = matches!(metres, Value::Float8(m) if *m <= 1_500_000.0);
        if *tenant != Value::Int4(42) || *matches != Value::Bool(true) || !near {
            continue;
        }
        if let (Value::Text(name), Value::Vector(embedding)) = (name, embedding) {
            best.push((
                vector::distance(Metric::Cosine, embedding, &query.embedding),
                name.clone(),
            ));
        }
    }
    best.sort_by(|a, b| a.0.total_cmp(&b.0));
    best.truncate(10);
    ensure!(
        best.len() == answer.len(),
        "brute force finds {} rows, the question {}",
        best.len(),
        answer.len()
    );
    for ((distance, name), row) in best.iter().zip(answer) {
        let got = match row.get("distance") {
            Some(Value::Float8(d)) => *d,
            other => bail!("the question's distance is {other:?}"),
        };
        ensure!(
            (got - distance).abs() < 1e-6,
            "brute force has {name} at {distance}, the question {got}"
        );
    }
    Ok(())
}
