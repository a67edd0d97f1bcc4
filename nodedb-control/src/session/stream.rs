//! `SELECT * FROM STREAM s [SINCE ts] [LIMIT n]`: what was committed, in commit order.
//!
//! It never waits for what is still to come: the rows end with what was committed when the read
//! began.

use std::sync::Arc;

use futures::StreamExt;
use nodedb_bridge::port::{STREAM_COLUMNS, StreamEvent, StreamRequest, StreamRows};
use nodedb_query::catalog::{ResultColumn, similar};
use nodedb_types::schema::Stream;
use nodedb_types::{Collection, CommitTs, Failure, Result, SqlState, StreamId, Value};
use sqlparser::ast;

use super::cancel::Limits;
use super::execution::{Execution, Tag};
use super::{Session, utility};
use crate::node::Node;
use crate::sql::ddl;

pub fn columns() -> Arc<[ResultColumn]> {
    STREAM_COLUMNS
        .iter()
        .map(|(name, data_type)| ResultColumn {
            name: (*name).to_owned(),
            data_type: *data_type,
            shown_as: None,
        })
        .collect()
}

/// A stream and its collection, by the stream's name. 42704 when there is none.
fn find(node: &Node, name: &str) -> Result<(Arc<Stream>, Arc<Collection>)> {
    let catalog = node.catalog.load();
    let stream = catalog.stream(name).ok_or_else(|| {
        let failure = Failure::new(
            SqlState::UndefinedObject,
            format!("change stream \"{name}\" does not exist"),
        );
        let names = catalog.all_streams().map(|s| s.name.as_str());
        match similar(name, names) {
            Some(similar) => failure.with_hint(format!("did you mean \"{similar}\"?")),
            None => failure,
        }
    })?;
    let collection = catalog
        .collection_by_id(stream.collection)
        .ok_or_else(|| Failure::internal("a change stream without its collection"))?;
    Ok((stream.clone(), collection.clone()))
}

/// The stream that has this name now. 42704 when there is none.
pub fn id_of(node: &Node, name: &str) -> Result<StreamId> {
    Ok(find(node, name)?.0.id)
}

/// Begins to read a stream by its name. 42704 when there is none, 55000 for a position that no
/// commit has had yet, as after a return to an older copy of the data.
pub fn open(node: &Node, name: &str, since: Option<CommitTs>, follow: bool) -> Result<StreamRows> {
    let (stream, collection) = find(node, name)?;
    let newest = node.clock.now();
    if let Some(since) = since
        && since.0 > newest.0.saturating_add(1)
    {
        return Err(Failure::new(
            SqlState::ObjectNotInPrerequisiteState,
            format!("position {since} is ahead of everything committed"),
        )
        .with_detail(format!("the newest position is {newest}")));
    }
    let reader = node.streams.get().ok_or_else(|| {
        Failure::new(
            SqlState::CannotConnectNow,
            "change streams are not served by this node",
        )
    })?;
    reader.open(StreamRequest {
        stream,
        collection,
        since,
        follow,
    })
}

/// The row of an event, in the order of [`columns`].
fn row(event: StreamEvent) -> Vec<Value> {
    let json = |text: Option<String>| text.map_or(Value::Null, Value::Jsonb);
    vec![
        Value::Int8(event.commit_ts.0 as i64),
        Value::Text(event.op.to_owned()),
        Value::Jsonb(event.key),
        json(event.before),
        json(event.after),
    ]
}

pub(super) async fn read(
    session: &Session,
    name: &ast::Ident,
    since: Option<&ast::Expr>,
    limit: Option<&ast::Expr>,
    limits: Limits,
) -> Result<Execution> {
    let name = ddl::fold(name)?;
    let since = since.map(|e| number(e, "SINCE")).transpose()?;
    let limit = limit.map(|e| number(e, "LIMIT")).transpose()?;
    let rows = open(&session.worker.node, &name, since.map(CommitTs), false)?;
    let shown = columns();
    let state = (rows, limit.unwrap_or(u64::MAX));
    let batches = futures::stream::try_unfold(state, |(mut rows, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let Some(piece) = rows.next().await else {
            return Ok(None);
        };
        let mut piece = piece?;
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - piece.len() as u64;
        let values = piece.into_iter().map(row).collect();
        let batches = utility::rows(&columns(), values)?;
        let batches = futures::stream::iter(batches.into_iter().map(Ok));
        Ok::<_, Failure>(Some((batches, (rows, left))))
    });
    let batches = batches.flat_map(|part| match part {
        Ok(batches) => batches.left_stream(),
        Err(failure) => futures::stream::iter([Err(failure)]).right_stream(),
    });
    let tag = Tag::Rows("SELECT");
    Ok(Execution::streaming(
        shown,
        tag,
        limits,
        batches.boxed_local(),
    ))
}

/// A literal whole number that is not negative.
fn number(written: &ast::Expr, clause: &str) -> Result<u64> {
    let text = ddl::constant(written)?;
    text.parse().map_err(|_| {
        Failure::new(
            SqlState::InvalidParameterValue,
            format!("{clause} must be a whole number, not {text}"),
        )
    })
}
