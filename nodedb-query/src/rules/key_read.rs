//! Reads of one row by its key, planned once.
//!
//! `SELECT columns FROM collection WHERE key = $1` is the statement that clients run most, and
//! planning it would cost more than reading the row. What such a plan consists of besides the key's
//! value is the same for every run, so it is worked out when the statement is bound. What does not
//! have exactly this form is planned by the rules in general, which give the same plan for it.

use std::sync::Arc;

use nodedb_bridge::plan::{Get, GetRow, OutputColumn};
use nodedb_types::{Collection, DataType, Result, Value};

use super::{bare_column, chain_of, output_positions, within};
use crate::bind::Query;
use crate::expr::fold::Given;
use crate::expr::{CompareOp, Expr};
use crate::plan::{GetPlan, Projection, key_bytes, shard_of};

/// A read by key that lacks the key's value only.
pub(crate) struct KeyRead {
    collection: Arc<Collection>,
    /// A parameter or a constant.
    key: Expr,
    output: Arc<[OutputColumn]>,
    projection: Arc<Projection>,
    /// Positions of the columns shown; `None` when not every one is the row's own value.
    shown: Option<Arc<[usize]>>,
}

/// Whether Arrow's form of a value gives back the very value. Open numerics lose trailing zeros
/// there and intervals have another range.
fn is_same_in_arrow(data_type: &DataType) -> bool {
    match data_type {
        DataType::Numeric(_) | DataType::Interval => false,
        DataType::Bool
        | DataType::Int2
        | DataType::Int4
        | DataType::Int8
        | DataType::Float4
        | DataType::Float8
        | DataType::Text(_)
        | DataType::Bytea
        | DataType::Uuid
        | DataType::Date
        | DataType::Timestamp
        | DataType::TimestampTz
        | DataType::Jsonb
        | DataType::Vector(_)
        | DataType::Geometry(_)
        | DataType::Geography(_) => true,
    }
}

impl KeyRead {
    /// The read that a query is whatever its parameters are, if it is one.
    pub(crate) fn of(query: &Query) -> Option<KeyRead> {
        let chain = chain_of(&query.rel)?;
        let scan = &chain.scan;
        let plain = chain.count.is_none()
            && chain.order.is_empty()
            && chain.limit.is_none()
            && chain.offset == 0
            && scan.extras.is_empty();
        let [Expr::Compare(CompareOp::Eq, left, right)] = &chain.conjuncts[..] else {
            return None;
        };
        let column = Some(scan.columns[scan.collection.key?]);
        let key = match (bare_column(left) == column, bare_column(right) == column) {
            (true, false) => right,
            (false, true) => left,
            _ => return None,
        };
        if !plain || !matches!(**key, Expr::Parameter(..) | Expr::Constant(..)) {
            return None;
        }
        let mut output = Vec::new();
        let mut positions = Vec::with_capacity(query.columns.len());
        let mut expressions = Vec::with_capacity(query.columns.len());
        for (id, shown) in &query.columns {
            let e = chain.column(*id, shown.data_type);
            let Expr::Column {
                id, outer: false, ..
            } = &e
            else {
                return None;
            };
            positions.push(scan.position(*id).filter(|position| {
                let data_type = &scan.collection.columns[*position].data_type;
                *data_type == shown.data_type
                    && shown.shown_as.is_none()
                    && is_same_in_arrow(data_type)
            }));
            expressions.push(output_positions(e, scan, &mut output)?);
        }
        let columns = query.columns.iter().map(|(_, c)| c.clone()).collect();
        Some(KeyRead {
            collection: scan.collection.clone(),
            key: (**key).clone(),
            output: output.into(),
            projection: Arc::new(Projection::new(columns, expressions)),
            shown: positions.into_iter().collect(),
        })
    }

    /// The read of the row alone; `None` when it needs the plan, or when no row can have the key.
    pub(crate) fn row(
        &self,
        parameters: &[Value],
        key_seed: u64,
        shards: u16,
    ) -> Result<Option<GetRow>> {
        let Some(columns) = &self.shown else {
            return Ok(None);
        };
        let value = match &self.key {
            Expr::Parameter(index, data_type) => match parameters.get(*index) {
                Some(value) => value.clone().coerce(data_type)?,
                None => return Ok(None),
            },
            Expr::Constant(value, _) => value.clone(),
            _ => return Ok(None),
        };
        let Some(Some(key)) = within(&value, self.key_type()) else {
            return Ok(None);
        };
        let key = key_bytes(&key)?;
        Ok(Some(GetRow {
            collection: self.collection.id,
            shard: nodedb_types::key::shard_of(&key, key_seed, shards),
            key,
            columns: columns.clone(),
        }))
    }

    fn key_type(&self) -> &DataType {
        let position = self.collection.key.expect("a read by key has one");
        &self.collection.columns[position].data_type
    }

    /// The plan for one execution; `None` when the value cannot be compared as a key, so that the
    /// rules in general have to find a plan.
    pub(crate) fn instantiate(&self, given: &Given<'_>) -> Result<Option<GetPlan>> {
        let value = given.value(&self.key)?;
        let Some(key) = within(&value, self.key_type()) else {
            return Ok(None);
        };
        let mut keys = Vec::with_capacity(1);
        // NULL and values outside of the column's type equal no key.
        if let Some(key) = key {
            let bytes = key_bytes(&key)?;
            keys.push((shard_of(&bytes, given.environment), bytes));
        }
        Ok(Some(GetPlan {
            collection: self.collection.clone(),
            get: Get {
                collection: self.collection.id,
                keys,
                filter: None,
                output: self.output.clone(),
            },
            projection: self.projection.clone(),
        }))
    }
}
