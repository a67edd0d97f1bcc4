//! Vectors (`hnsw`): the nearest rows inside an allowed set.

use std::sync::Arc;

use nodedb_types::schema::{Collection, Index};
use nodedb_types::vector::Metric;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::{Argument, Call, Contract, EngineRank, IndexOptions};

/// `ORDER BY column <=> query`, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Rank {
    pub column: usize,
    pub metric: Metric,
    pub query: Arc<[f32]>,
}

pub static CONTRACT: Contract = Contract {
    method: "hnsw",
    aliases: &[],
    check_index,
    predicate: |_, _, _| Ok(None),
    both: |_, _| None,
    rank,
};

fn check_index(collection: &Collection, index: &Index) -> Result<IndexOptions> {
    let [column] = index.columns[..] else {
        return Err(Failure::unsupported("an hnsw index over several columns"));
    };
    let column = &collection.columns[column];
    if !matches!(column.data_type, DataType::Vector(Some(_))) {
        return Err(Failure::new(
            SqlState::UndefinedObject,
            format!(
                "data type {} has no operator class for access method \"hnsw\"",
                column.data_type.name()
            ),
        ));
    }
    match &index.operator_class {
        Some(class) if Metric::from_operator_class(class).is_none() => {
            return Err(Failure::new(
                SqlState::UndefinedObject,
                format!("operator class \"{class}\" does not exist for access method \"hnsw\""),
            )
            .with_hint(
                "classes are vector_l2_ops, vector_cosine_ops, vector_ip_ops, vector_l1_ops",
            ));
        }
        _ => {}
    }
    match index.options.first() {
        Some((name, _)) if matches!(name.as_str(), "m" | "ef_construction") => Err(
            Failure::unsupported(format!("the parameter \"{name}\" of an hnsw index")),
        ),
        Some((name, _)) => Err(Failure::new(
            SqlState::InvalidParameterValue,
            format!("unrecognized parameter \"{name}\""),
        )),
        None => Ok(Vec::new()),
    }
}

/// The metric of an index: that of its operator class, else the Euclidean distance.
pub fn metric_of(index: &Index) -> Metric {
    index
        .operator_class
        .as_deref()
        .and_then(Metric::from_operator_class)
        .unwrap_or(Metric::L2)
}

fn rank(_: &Collection, index: &Index, call: &Call) -> Result<Option<EngineRank>> {
    let (column, query) = match &call.arguments[..] {
        [
            Argument::Column(column),
            Argument::Constant(Value::Vector(query)),
        ]
        | [
            Argument::Constant(Value::Vector(query)),
            Argument::Column(column),
        ] => (*column, query),
        _ => return Ok(None),
    };
    let Some(metric) = Metric::from_operator(&call.name) else {
        return Ok(None);
    };
    if index.columns != [column] || metric_of(index) != metric {
        return Ok(None);
    }
    Ok(Some(EngineRank::Vector(Rank {
        column,
        metric,
        query: query.as_slice().into(),
    })))
}
