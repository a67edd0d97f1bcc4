//! Ordered indexes (`btree`, the plain `CREATE INDEX`): equality, ranges, sets of values, NULLs.

use std::ops::Bound;
use std::sync::Arc;

use nodedb_types::numeric::Numeric;
use nodedb_types::schema::{Collection, Index};
use nodedb_types::{DataType, Failure, Result, SqlState, Value, key};

use super::{Argument, Call, Contract, EngineOp, EngineRank, IndexOptions, shown};

/// A predicate over the indexed column. Values have the column's type. NULL rows are unknown to
/// all but [`Op::IsNull`].
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `col IN (values)`; one value for equality.
    In(Vec<Value>),
    /// The same of many values.
    Listed(List),
    Range {
        low: Bound<Value>,
        high: Bound<Value>,
    },
    IsNull,
}

/// From so many values on a list is made ready where the query is planned, once for all shards: for
/// five hundred that takes 0.2 ms.
const LISTED_MIN: usize = 64;
/// Values of a list that are shown.
const SHOWN_MAX: usize = 5;

/// Values as an index has them.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    first: Vec<Value>,
    bytes: Arc<[Box<[u8]>]>,
}

impl List {
    /// Of values of one type; NULLs among them equal nothing.
    pub fn new(mut values: Vec<Value>) -> Result<List> {
        let known = values.iter().filter(|value| !value.is_null());
        let bytes = known.map(|value| Ok(key::of(value)?.into_boxed_slice()));
        let mut bytes = bytes.collect::<Result<Vec<_>>>()?;
        bytes.sort_unstable();
        bytes.dedup();
        values.truncate(SHOWN_MAX + 1);
        Ok(List {
            first: values,
            bytes: bytes.into(),
        })
    }

    /// Ascending, none twice.
    pub fn bytes(&self) -> &Arc<[Box<[u8]>]> {
        &self.bytes
    }
}

/// The first values of a list, as SQL says it.
fn shown_list(column: &str, values: &[Value]) -> String {
    let list: Vec<String> = values.iter().take(SHOWN_MAX).map(shown).collect();
    let more = if values.len() > SHOWN_MAX {
        ", …"
    } else {
        ""
    };
    format!("{column} IN ({}{more})", list.join(", "))
}

pub static CONTRACT: Contract = Contract {
    method: "btree",
    aliases: &[],
    check_index,
    predicate,
    both,
    rank: |_, _, _| Ok(None::<EngineRank>),
};

impl Op {
    /// As SQL says it.
    pub(super) fn show(&self, columns: &[&str]) -> String {
        let column = columns.join(", ");
        match self {
            Op::In(values) => match &values[..] {
                [value] => format!("{column} = {}", shown(value)),
                values => shown_list(&column, values),
            },
            Op::Listed(list) => shown_list(&column, &list.first),
            Op::Range { low, high } => {
                let low = match low {
                    Bound::Included(v) => Some(format!("{column} >= {}", shown(v))),
                    Bound::Excluded(v) => Some(format!("{column} > {}", shown(v))),
                    Bound::Unbounded => None,
                };
                let high = match high {
                    Bound::Included(v) => Some(format!("{column} <= {}", shown(v))),
                    Bound::Excluded(v) => Some(format!("{column} < {}", shown(v))),
                    Bound::Unbounded => None,
                };
                let bounds: Vec<String> = low.into_iter().chain(high).collect();
                bounds.join(" AND ")
            }
            Op::IsNull => format!("{column} IS NULL"),
        }
    }
}

/// A range that is bounded below and one that is bounded above are one range.
fn both(a: &EngineOp, b: &EngineOp) -> Option<EngineOp> {
    match (a, b) {
        (EngineOp::Ordered(a), EngineOp::Ordered(b)) => both_of(a, b).map(EngineOp::Ordered),
        _ => None,
    }
}

/// The condition that two on the same column are together, if it is one of these.
pub fn both_of(a: &Op, b: &Op) -> Option<Op> {
    let (Op::Range { low, high }, Op::Range { low: l, high: h }) = (a, b) else {
        return None;
    };
    let (low, high) = match (low, high, l, h) {
        (low, Bound::Unbounded, Bound::Unbounded, high)
        | (Bound::Unbounded, high, low, Bound::Unbounded) => (low, high),
        _ => return None,
    };
    Some(Op::Range {
        low: low.clone(),
        high: high.clone(),
    })
}

fn check_index(collection: &Collection, index: &Index) -> Result<IndexOptions> {
    let [column] = index.columns[..] else {
        return Err(Failure::unsupported(
            "an ordered index over several columns",
        ));
    };
    let column = &collection.columns[column];
    match column.data_type {
        DataType::Jsonb | DataType::Vector(_) | DataType::Geometry(_) | DataType::Geography(_) => {
            return Err(Failure::new(
                SqlState::UndefinedObject,
                format!(
                    "data type {} has no default operator class for access method \"btree\"",
                    column.data_type.name()
                ),
            )
            .with_hint("name a method: USING hnsw for vectors, USING rtree for places"));
        }
        _ => {}
    }
    if let Some(class) = &index.operator_class {
        return Err(Failure::unsupported(format!(
            "operator class \"{class}\" of an ordered index"
        )));
    }
    if let Some((name, _)) = index.options.first() {
        return Err(Failure::new(
            SqlState::InvalidParameterValue,
            format!("unrecognized parameter \"{name}\""),
        ));
    }
    Ok(Vec::new())
}

/// The constant as a value of the column's type, where comparing the two is comparing within that
/// type; `None` leaves the comparison to the expression engine.
pub fn exact(value: &Value, data_type: &DataType) -> Option<Value> {
    let integer = match value {
        Value::Int2(n) => Some(i64::from(*n)),
        Value::Int4(n) => Some(i64::from(*n)),
        Value::Int8(n) => Some(*n),
        _ => None,
    };
    match (value, data_type) {
        (_, DataType::Int2) => integer?.try_into().ok().map(Value::Int2),
        (_, DataType::Int4) => integer?.try_into().ok().map(Value::Int4),
        (_, DataType::Int8) => integer.map(Value::Int8),
        (Value::Numeric(n), DataType::Numeric(_)) => Some(Value::Numeric(*n)),
        (_, DataType::Numeric(_)) => integer.map(|n| Value::Numeric(Numeric::from_i64(n))),
        (Value::Float4(x), DataType::Float4) => Some(Value::Float4(*x)),
        (Value::Float4(x), DataType::Float8) => Some(Value::Float8(f64::from(*x))),
        (Value::Float8(x), DataType::Float8) => Some(Value::Float8(*x)),
        // PostgreSQL compares an integer with a double as doubles.
        (_, DataType::Float8) => integer.map(|n| Value::Float8(n as f64)),
        (Value::Bool(_), DataType::Bool)
        | (Value::Text(_), DataType::Text(_))
        | (Value::Bytea(_), DataType::Bytea)
        | (Value::Uuid(_), DataType::Uuid)
        | (Value::Date(_), DataType::Date)
        | (Value::Timestamp(_), DataType::Timestamp)
        | (Value::TimestampTz(_), DataType::TimestampTz)
        | (Value::Interval(_), DataType::Interval) => Some(value.clone()),
        _ => None,
    }
}

fn predicate(collection: &Collection, index: &Index, call: &Call) -> Result<Option<EngineOp>> {
    let [column] = index.columns[..] else {
        return Ok(None);
    };
    let op = match of_column(collection, column, call) {
        Some(Op::In(values)) if values.len() >= LISTED_MIN => Op::Listed(List::new(values)?),
        Some(op) => op,
        None => return Ok(None),
    };
    Ok(Some(EngineOp::Ordered(op)))
}

/// The condition on a column that a call is, where an order of the column's values answers it.
pub fn of_column(collection: &Collection, of: usize, call: &Call) -> Option<Op> {
    let Some(Argument::Column(column)) = call.arguments.first() else {
        return None;
    };
    if of != *column {
        return None;
    }
    let data_type = &collection.columns[*column].data_type;
    let mut values = Vec::new();
    for argument in &call.arguments[1..] {
        let Argument::Constant(value) = argument else {
            return None;
        };
        // A NULL operand or one outside the column's type is left to the expression engine.
        values.push(exact(value, data_type)?);
    }
    let one = |values: Vec<Value>| values.into_iter().next();
    let op = match (call.name.as_str(), values.len()) {
        ("is null", 0) => Op::IsNull,
        ("in", 1..) | ("=", 1) => Op::In(values),
        ("between", 2) => {
            let high = values.pop().map_or(Bound::Unbounded, Bound::Included);
            let low = one(values).map_or(Bound::Unbounded, Bound::Included);
            Op::Range { low, high }
        }
        (name, 1) => {
            let value = one(values)?;
            match name {
                "<" => Op::Range {
                    low: Bound::Unbounded,
                    high: Bound::Excluded(value),
                },
                "<=" => Op::Range {
                    low: Bound::Unbounded,
                    high: Bound::Included(value),
                },
                ">" => Op::Range {
                    low: Bound::Excluded(value),
                    high: Bound::Unbounded,
                },
                ">=" => Op::Range {
                    low: Bound::Included(value),
                    high: Bound::Unbounded,
                },
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(op)
}
