//! Places (`rtree`, also `gist`): distance on the ellipsoid and planar predicates.

use nodedb_types::geo::{self, Geometry};
use nodedb_types::schema::{Collection, Index};
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::{Argument, Call, Contract, EngineOp, EngineRank, IndexOptions};

/// Characters of a shape that a predicate for people shows.
const SHAPE_CHARS_SHOWN: usize = 200;

/// A predicate between the indexed column and a constant shape (EWKB of the column's kind).
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `ST_DWithin(col, shape, distance)`: metres for GEOGRAPHY, the plane's unit for GEOMETRY.
    DWithin { shape: Value, distance: f64 },
    /// `ST_Intersects(col, shape)`.
    Intersects { shape: Value },
    /// `ST_Within(col, shape)`: the column's value lies within the shape.
    Within { shape: Value },
    /// `ST_Contains(col, shape)`: the column's value contains the shape.
    Contains { shape: Value },
}

pub static CONTRACT: Contract = Contract {
    method: "rtree",
    aliases: &["gist"],
    check_index,
    predicate,
    both: |_, _| None,
    rank: |_, _, _| Ok(None::<EngineRank>),
};

impl Op {
    /// As SQL says it, the shape as WKT.
    pub(super) fn show(&self, columns: &[&str]) -> String {
        let column = columns.join(", ");
        let wkt = |shape: &Value| {
            let geometry = match shape {
                Value::Geometry(bytes) | Value::Geography(bytes) => Geometry::from_ewkb(bytes).ok(),
                _ => None,
            };
            let text = geometry.map(|g| geo::wkt::format(&g)).unwrap_or_default();
            match text.char_indices().nth(SHAPE_CHARS_SHOWN) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        };
        match self {
            Op::DWithin { shape, distance } => {
                format!("ST_DWithin({column}, {}, {distance})", wkt(shape))
            }
            Op::Intersects { shape } => format!("ST_Intersects({column}, {})", wkt(shape)),
            Op::Within { shape } => format!("ST_Within({column}, {})", wkt(shape)),
            Op::Contains { shape } => format!("ST_Contains({column}, {})", wkt(shape)),
        }
    }
}

fn check_index(collection: &Collection, index: &Index) -> Result<IndexOptions> {
    let [column] = index.columns[..] else {
        return Err(Failure::unsupported("an rtree index over several columns"));
    };
    let column = &collection.columns[column];
    if !matches!(
        column.data_type,
        DataType::Geometry(_) | DataType::Geography(_)
    ) {
        return Err(Failure::new(
            SqlState::UndefinedObject,
            format!(
                "data type {} has no default operator class for access method \"rtree\"",
                column.data_type.name()
            ),
        ));
    }
    if let Some(class) = &index.operator_class {
        return Err(Failure::unsupported(format!(
            "operator class \"{class}\" of an rtree index"
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

fn predicate(_: &Collection, index: &Index, call: &Call) -> Result<Option<EngineOp>> {
    let is_column = |a: &Argument| matches!(a, Argument::Column(c) if index.columns == [*c]);
    let [first, second, rest @ ..] = &call.arguments[..] else {
        return Ok(None);
    };
    // The column may stand on either side; then within and contains change places.
    let (shape, swapped) = match (first, second) {
        (column, Argument::Constant(shape)) if is_column(column) => (shape, false),
        (Argument::Constant(shape), column) if is_column(column) => (shape, true),
        _ => return Ok(None),
    };
    if !matches!(shape, Value::Geometry(_) | Value::Geography(_)) {
        return Ok(None);
    }
    let shape = shape.clone();
    let op = match (call.name.as_str(), rest) {
        ("st_dwithin", [Argument::Constant(Value::Float8(distance))]) => Op::DWithin {
            shape,
            distance: *distance,
        },
        ("st_intersects", []) => Op::Intersects { shape },
        ("st_within", []) if !swapped => Op::Within { shape },
        ("st_contains", []) if swapped => Op::Within { shape },
        ("st_contains", []) => Op::Contains { shape },
        ("st_within", []) => Op::Contains { shape },
        _ => return Ok(None),
    };
    Ok(Some(EngineOp::Place(op)))
}
