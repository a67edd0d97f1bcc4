//! Rows of the system collections, read and written like any others.

use std::sync::Arc;

use nodedb_bridge::expression::{Rewrite, RowRewrite};
use nodedb_bridge::plan::{
    Direction, Order, Output, OutputColumn, RowAction, RowWrite, SetExpr, SetQuery, WriteBatch,
};
use nodedb_bridge::request::Op;
use nodedb_types::{CollectionId, DataType, Failure, Result, ShardId, Value, arrow_map, key, row};

use super::system;
use crate::node::Worker;

/// Deletes whatever row there is.
#[derive(Debug)]
struct Delete;

impl RowRewrite for Delete {
    fn rewrite(&self, _current: &[u8], _proposed: Option<&[u8]>) -> Result<Rewrite> {
        Ok(Rewrite::Delete)
    }
}

/// Inserts or replaces a row; durable when it returns.
pub async fn put(worker: &Worker, collection: CollectionId, values: Vec<Value>) -> Result<()> {
    let types: Vec<DataType> = system::collection(collection)
        .columns
        .iter()
        .map(|c| c.data_type)
        .collect();
    let key = key::of(&values[0])?;
    let row = row::encode(&values, &types)?.into();
    write(worker, collection, key, RowAction::Put { row }).await
}

/// Deletes the row with this key, if there is one.
pub async fn delete(worker: &Worker, collection: CollectionId, key: &Value) -> Result<()> {
    let key = key::of(key)?;
    write(
        worker,
        collection,
        key,
        RowAction::Rewrite(Arc::new(Delete)),
    )
    .await
}

async fn write(
    worker: &Worker,
    collection: CollectionId,
    key: Vec<u8>,
    action: RowAction,
) -> Result<()> {
    let statement = worker.system_statement(worker.node.clock.now());
    let op = Op::Write(WriteBatch {
        collection,
        rows: vec![RowWrite {
            shard: ShardId::CATALOG,
            key: key.into(),
            action,
        }],
        returning: None,
    });
    let core = worker.dispatcher.core_of(ShardId::CATALOG);
    let reader = worker.dispatcher.send(core, &statement, op).await;
    worker.dispatcher.written(reader).await?;
    Ok(())
}

/// Every row, as of now.
pub async fn scan(worker: &Worker, id: CollectionId) -> Result<Vec<Vec<Value>>> {
    let snapshot = worker.slot.acquire();
    let statement = worker.system_statement(snapshot.snapshot());
    let collection = system::collection(id);
    let width = collection.columns.len();
    let query = SetQuery {
        collection: id,
        shard: Some(ShardId::CATALOG),
        sources: Vec::new(),
        set: SetExpr::All,
        order: Order::Key(Direction::Ascending),
        limit: None,
        output: Output::Rows((0..width).map(OutputColumn::Column).collect()),
        explain: false,
    };
    let core = worker.dispatcher.core_of(ShardId::CATALOG);
    let op = Op::Query(Arc::new(query));
    let reader = worker.dispatcher.send(core, &statement, op).await;
    let mut rows = Vec::new();
    for batch in worker.dispatcher.batches(reader).await? {
        if batch.num_columns() != width {
            return Err(Failure::internal(
                "a scan gave other columns than asked for",
            ));
        }
        for row in 0..batch.num_rows() {
            let cells = collection.columns.iter().zip(batch.columns());
            let values = cells
                .map(|(column, array)| arrow_map::value_at(array, row, &column.data_type))
                .collect::<Result<Vec<_>>>()?;
            rows.push(values);
        }
    }
    Ok(rows)
}
