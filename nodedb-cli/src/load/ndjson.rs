//! NDJSON: an object per line, its members are columns.

use std::io::BufRead;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nodedb_client::{Client, DataType, Value};
use serde_json::{Map, Value as Json};

use super::source::{Lines, utf8};
use super::watch::Progress;
use super::{Loader, Rows, columns_of};

pub(super) async fn load(
    client: &Client,
    lines: Lines<impl BufRead>,
    collection: &str,
    progress: &Arc<Progress>,
) -> Result<u64> {
    let columns = columns_of(client, collection).await?;
    let names: Vec<String> = columns.into_iter().map(|(name, _)| name).collect();
    let loader = Loader::new(client, collection, &names, None, progress).await?;
    let line = Vec::new();
    loader.load(&mut Objects { lines, names, line }).await
}

struct Objects<R> {
    lines: Lines<R>,
    /// Of the collection's columns.
    names: Vec<String>,
    /// Kept for its memory.
    line: Vec<u8>,
}

impl<R: BufRead> Rows for Objects<R> {
    fn next(&mut self, loader: &Loader<'_>) -> Result<Option<Vec<Value>>> {
        let row = || format!("row {}", loader.row_number());
        let text = loop {
            self.line.clear();
            if !self.lines.add_to(&mut self.line).with_context(row)? {
                return Ok(None);
            }
            let text = utf8(&self.line).with_context(row)?.trim();
            if !text.is_empty() {
                break text;
            }
        };
        let object: Map<String, Json> =
            serde_json::from_str(text).with_context(|| format!("{}: not a JSON object", row()))?;
        if let Some(name) = object.keys().find(|name| !self.names.contains(name)) {
            let collection = &loader.collection;
            bail!(
                "{}: collection {collection} has no column \"{name}\"",
                row()
            );
        }
        let cell = |(at, name): (usize, &String)| match object.get(name) {
            None | Some(Json::Null) => Ok(Value::Null),
            Some(Json::String(text)) if loader.data_type(at) != &DataType::Jsonb => {
                loader.cast(at, text)
            }
            Some(other) => loader.cast(at, &other.to_string()),
        };
        let values = self.names.iter().enumerate().map(cell);
        values.collect::<Result<_>>().map(Some)
    }
}
