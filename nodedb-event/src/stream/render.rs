//! Stored rows and keys as the jsonb text that streams show.

use nodedb_bridge::event::{EventOp, WriteEvent};
use nodedb_bridge::port::StreamEvent;
use nodedb_types::row::RowView;
use nodedb_types::{Collection, DataType, Failure, Result, SqlState, json, key};

/// Turns changes of one collection into rows of a stream.
pub struct Render {
    names: Vec<String>,
    types: Vec<DataType>,
    key: Option<usize>,
}

impl Render {
    pub fn new(collection: &Collection) -> Render {
        Render {
            names: collection.columns.iter().map(|c| c.name.clone()).collect(),
            types: collection.columns.iter().map(|c| c.data_type).collect(),
            key: collection.key,
        }
    }

    /// XX001 when the stored bytes are not of the schema.
    pub fn event(&self, event: &WriteEvent) -> Result<StreamEvent> {
        let image = |bytes: &Option<std::sync::Arc<[u8]>>| {
            bytes.as_deref().map(|b| self.row(b)).transpose()
        };
        Ok(StreamEvent {
            commit_ts: event.commit_ts,
            op: match event.op {
                EventOp::Insert => "insert",
                EventOp::Update => "update",
                EventOp::Delete => "delete",
            },
            key: self.key(event)?,
            before: image(&event.before)?,
            after: image(&event.after)?,
        })
    }

    fn row(&self, bytes: &[u8]) -> Result<String> {
        let values = RowView::new(bytes)?.to_values(&self.types)?;
        Ok(json::object(
            self.names.iter().map(String::as_str).zip(&values),
        ))
    }

    /// From a row image if there is one, since the key's bytes do not keep trailing zeros.
    fn key(&self, event: &WriteEvent) -> Result<String> {
        let Some(at) = self.key else {
            return hidden_id(&event.key);
        };
        let data_type = &self.types[at];
        let value = match event.after.as_deref().or(event.before.as_deref()) {
            Some(row) => RowView::new(row)?.column(at, data_type)?.to_owned(),
            None => key::decode(&event.key, data_type)?.0,
        };
        Ok(json::object([(self.names[at].as_str(), &value)]))
    }
}

/// A row without a key column is named by a number.
fn hidden_id(key: &[u8]) -> Result<String> {
    let bytes: [u8; 8] = key
        .try_into()
        .map_err(|_| Failure::new(SqlState::DataCorrupted, "malformed hidden row id"))?;
    Ok(u64::from_be_bytes(bytes).to_string())
}
