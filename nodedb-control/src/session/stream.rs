//! `SELECT columns FROM STREAM s [SINCE ts] [LIMIT n]`: what was committed, in commit order.
//!
//! It never waits for what is still to come: the rows end with what was committed when the read
//! began. The two numbers may be parameters; one that is NULL is as if it were not there.

use std::sync::Arc;

use futures::StreamExt;
use nodedb_bridge::port::{STREAM_COLUMNS, StreamEvent, StreamRequest, StreamRows};
use nodedb_query::catalog::{ResultColumn, similar};
use nodedb_types::schema::Stream;
use nodedb_types::{Collection, CommitTs, DataType, Failure, Result, SqlState, StreamId, Value};
use sqlparser::ast;

use super::cancel::Limits;
use super::execution::{Execution, Tag};
use super::{Session, utility};
use crate::node::Node;
use crate::sql::ddl;
use crate::sql::stream::StreamRead;

/// Where the columns that are read stand in [`STREAM_COLUMNS`]. 42703 for an unknown one.
fn chosen(read: &StreamRead) -> Result<Vec<usize>> {
    let Some(columns) = &read.columns else {
        return Ok((0..STREAM_COLUMNS.len()).collect());
    };
    let position = |ident| {
        let name = ddl::fold(ident)?;
        let at = STREAM_COLUMNS
            .iter()
            .position(|(column, _)| *column == name);
        at.ok_or_else(|| {
            let names = STREAM_COLUMNS.map(|(column, _)| column);
            let hint = match similar(&name, names) {
                Some(similar) => format!("did you mean \"{similar}\"?"),
                None => format!("a change stream has {}", names.join(", ")),
            };
            let message = format!("column \"{name}\" does not exist");
            Failure::new(SqlState::UndefinedColumn, message).with_hint(hint)
        })
    };
    columns.iter().map(position).collect()
}

/// The columns that a read gives.
pub(super) fn columns(read: &StreamRead) -> Result<Arc<[ResultColumn]>> {
    let column = |at: usize| ResultColumn {
        name: STREAM_COLUMNS[at].0.to_owned(),
        data_type: STREAM_COLUMNS[at].1,
        shown_as: None,
    };
    Ok(chosen(read)?.into_iter().map(column).collect())
}

/// The types of a read's parameters: bigint, or the whole numbers that the client declared. 42804
/// when it declared another type, 42P18 for one that the statement does not use.
pub(super) fn parameters(read: &StreamRead, hints: &[Option<DataType>]) -> Result<Vec<DataType>> {
    let mut types = hints.to_vec();
    for (written, clause) in [(&read.since, "SINCE"), (&read.limit, "LIMIT")] {
        let Some(at) = written.as_ref().and_then(placeholder) else {
            continue;
        };
        if types.len() <= at {
            types.resize(at + 1, None);
        }
        match types[at].get_or_insert(DataType::Int8) {
            DataType::Int2 | DataType::Int4 | DataType::Int8 => {}
            other => {
                let message = format!(
                    "argument of {clause} must be type bigint, not type {}",
                    other.name()
                );
                return Err(Failure::new(SqlState::DatatypeMismatch, message));
            }
        }
    }
    let known = |(at, data_type): (usize, Option<DataType>)| {
        data_type.ok_or_else(|| {
            let message = format!("could not determine data type of parameter ${}", at + 1);
            Failure::new(SqlState::IndeterminateDatatype, message)
        })
    };
    types.into_iter().enumerate().map(known).collect()
}

/// The position of the parameter that an expression is.
fn placeholder(written: &ast::Expr) -> Option<usize> {
    let ast::Expr::Value(value) = written else {
        return None;
    };
    let ast::Value::Placeholder(name) = &value.value else {
        return None;
    };
    let number: u16 = name.strip_prefix('$')?.parse().ok()?;
    usize::from(number).checked_sub(1)
}

/// Every stream with its collection, by name.
pub fn list(node: &Node) -> Vec<(Arc<Stream>, Arc<Collection>)> {
    let catalog = node.catalog.load();
    let with_collection = |stream: &Arc<Stream>| {
        let collection = catalog.collection_by_id(stream.collection)?;
        Some((stream.clone(), collection.clone()))
    };
    catalog.all_streams().filter_map(with_collection).collect()
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

/// The row of an event, in the order of [`STREAM_COLUMNS`].
fn row(event: StreamEvent) -> [Value; STREAM_COLUMNS.len()] {
    let json = |text: Option<String>| text.map_or(Value::Null, Value::Jsonb);
    [
        Value::Int8(event.commit_ts.0 as i64),
        Value::Text(event.op.to_owned()),
        Value::Jsonb(event.key),
        json(event.before),
        json(event.after),
    ]
}

pub(super) async fn read(
    session: &Session,
    read: &StreamRead,
    parameters: &[Value],
    limits: Limits,
) -> Result<Execution> {
    let name = ddl::fold(&read.name)?;
    let number = |written: &Option<ast::Expr>, clause| match written {
        Some(written) => number(written, parameters, clause),
        None => Ok(None),
    };
    let since = number(&read.since, "SINCE")?;
    let limit = number(&read.limit, "LIMIT")?;
    let rows = open(&session.worker.node, &name, since.map(CommitTs), false)?;
    let (shown, chosen) = (columns(read)?, chosen(read)?);
    let state = (rows, limit.unwrap_or(u64::MAX));
    let columns = shown.clone();
    let batches = futures::stream::try_unfold(state, move |(mut rows, left)| {
        let (columns, chosen) = (columns.clone(), chosen.clone());
        async move {
            if left == 0 {
                return Ok(None);
            }
            let Some(piece) = rows.next().await else {
                return Ok(None);
            };
            let mut piece = piece?;
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - piece.len() as u64;
            let values = piece
                .into_iter()
                .map(|event| {
                    let row = row(event);
                    chosen.iter().map(|at| row[*at].clone()).collect()
                })
                .collect();
            let batches = utility::rows(&columns, values)?;
            let batches = futures::stream::iter(batches.into_iter().map(Ok));
            Ok::<_, Failure>(Some((batches, (rows, left))))
        }
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

/// A whole number that is not negative: a literal, or a parameter, which may be NULL.
fn number(written: &ast::Expr, parameters: &[Value], clause: &str) -> Result<Option<u64>> {
    let invalid = |text: &str| {
        Failure::new(
            SqlState::InvalidParameterValue,
            format!("{clause} must be a whole number that is not negative, not {text}"),
        )
    };
    let Some(at) = placeholder(written) else {
        let text = match written {
            ast::Expr::Value(_) => ddl::constant(written)?,
            other => return Err(invalid(&other.to_string())),
        };
        return text.parse().map(Some).map_err(|_| invalid(&text));
    };
    let number = match parameters.get(at) {
        Some(Value::Null) => return Ok(None),
        Some(Value::Int2(n)) => i64::from(*n),
        Some(Value::Int4(n)) => i64::from(*n),
        Some(Value::Int8(n)) => *n,
        _ => return Err(Failure::internal("a read of a stream lacks a parameter")),
    };
    u64::try_from(number)
        .map(Some)
        .map_err(|_| invalid(&number.to_string()))
}
