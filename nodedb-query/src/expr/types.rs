//! PostgreSQL's rules about which types go together: categories, implicit casts, the common type
//! of a comparison and of the branches of CASE, UNION and VALUES.
//!
//! Numbers of known scale keep it (`numeric(p, s)` inside the engine), so that sums and products
//! print the digits that PostgreSQL prints.

use nodedb_types::{DataType, Failure, Result, SqlState};

/// A type without length, precision, dimension or subtype.
pub(crate) fn plain(data_type: DataType) -> DataType {
    match data_type {
        DataType::Numeric(_) => DataType::Numeric(None),
        DataType::Text(_) => DataType::Text(None),
        DataType::Vector(_) => DataType::Vector(None),
        DataType::Geometry(_) => DataType::Geometry(None),
        DataType::Geography(_) => DataType::Geography(None),
        other => other,
    }
}

pub(crate) fn is_number(data_type: DataType) -> bool {
    number_rank(data_type).is_some()
}

pub(crate) fn is_integer(data_type: DataType) -> bool {
    matches!(data_type, DataType::Int2 | DataType::Int4 | DataType::Int8)
}

/// Numbers in the order in which each converts implicitly to those behind it.
fn number_rank(data_type: DataType) -> Option<u8> {
    Some(match data_type {
        DataType::Int2 => 0,
        DataType::Int4 => 1,
        DataType::Int8 => 2,
        DataType::Numeric(_) => 3,
        DataType::Float4 => 4,
        DataType::Float8 => 5,
        _ => return None,
    })
}

fn time_rank(data_type: DataType) -> Option<u8> {
    Some(match data_type {
        DataType::Date => 0,
        DataType::Timestamp => 1,
        DataType::TimestampTz => 2,
        _ => return None,
    })
}

/// Whether a value of `from` becomes one of `to` without being asked to.
pub(crate) fn casts_implicitly(from: DataType, to: DataType) -> bool {
    let (from, to) = (plain(from), plain(to));
    if from == to {
        return true;
    }
    if let (Some(a), Some(b)) = (number_rank(from), number_rank(to)) {
        return a <= b;
    }
    if let (Some(a), Some(b)) = (time_rank(from), time_rank(to)) {
        return a <= b;
    }
    matches!((from, to), (DataType::Geometry(_), DataType::Geography(_)))
}

/// Types that a function is preferred for when several would do.
pub(crate) fn is_preferred(data_type: DataType) -> bool {
    matches!(
        data_type,
        DataType::Float8 | DataType::Text(_) | DataType::TimestampTz | DataType::Bool
    )
}

/// The type in which values of two types are compared, if they can be.
pub(crate) fn comparison_type(left: DataType, right: DataType) -> Option<DataType> {
    if left == right {
        return Some(left);
    }
    if let (Some(a), Some(b)) = (number_rank(left), number_rank(right)) {
        return Some(if a.max(b) >= 4 {
            DataType::Float8
        } else if is_integer(left) && is_integer(right) {
            if a > b { left } else { right }
        } else {
            exact_type(left, right)
        });
    }
    if let (Some(a), Some(b)) = (time_rank(left), time_rank(right)) {
        return Some(if a > b { left } else { right });
    }
    (plain(left) == plain(right) || casts_implicitly(left, right))
        .then(|| plain(right))
        .or_else(|| casts_implicitly(right, left).then(|| plain(left)))
}

/// Precision and scale that hold every integer of a type, or a numeric's own.
pub(crate) fn digits(data_type: DataType) -> Option<(u8, u8)> {
    match data_type {
        DataType::Int2 => Some((5, 0)),
        DataType::Int4 => Some((10, 0)),
        DataType::Int8 => Some((19, 0)),
        DataType::Numeric(size) => size,
        _ => None,
    }
}

/// A numeric that holds every value of both exactly.
pub(crate) fn exact_type(left: DataType, right: DataType) -> DataType {
    match (digits(left), digits(right)) {
        (Some((p1, s1)), Some((p2, s2))) => {
            let scale = s1.max(s2);
            let whole = (p1 - s1).max(p2 - s2);
            if whole + scale <= 38 {
                DataType::Numeric(Some((whole + scale, scale)))
            } else {
                DataType::Numeric(None)
            }
        }
        _ => DataType::Numeric(None),
    }
}

/// The common type of the branches of CASE, COALESCE, UNION, VALUES and the like; `None` stands
/// for a literal of unknown type. All unknown gives text.
pub(crate) fn common_type(
    what: &str,
    types: impl IntoIterator<Item = Option<DataType>>,
) -> Result<DataType> {
    let mut common: Option<DataType> = None;
    for data_type in types.into_iter().flatten() {
        common = Some(match common {
            None => data_type,
            Some(have) if have == data_type => have,
            Some(have) if plain(have) == plain(data_type) => plain(have),
            Some(have) if casts_implicitly(data_type, have) => plain(have),
            Some(have) if casts_implicitly(have, data_type) => plain(data_type),
            Some(have) => {
                return Err(Failure::new(
                    SqlState::DatatypeMismatch,
                    format!(
                        "{what} types {} and {} cannot be matched",
                        have.plain_name(),
                        data_type.plain_name()
                    ),
                ));
            }
        });
    }
    Ok(common.unwrap_or(DataType::Text(None)))
}

/// Whether `CAST(from AS to)` exists.
pub(crate) fn casts_explicitly(from: DataType, to: DataType) -> bool {
    let (from, to) = (plain(from), plain(to));
    let text = DataType::Text(None);
    if from == to || from == text || to == text || casts_implicitly(from, to) {
        return true;
    }
    if is_number(from) && is_number(to) {
        return true;
    }
    if time_rank(from).is_some() && time_rank(to).is_some() {
        return true;
    }
    matches!(
        (from, to),
        (DataType::Bool, DataType::Int4)
            | (DataType::Int4, DataType::Bool)
            | (DataType::Geography(_), DataType::Geometry(_))
            | (
                DataType::Geography(_) | DataType::Geometry(_),
                DataType::Bytea
            )
            | (
                DataType::Bytea,
                DataType::Geography(_) | DataType::Geometry(_)
            )
    ) || (from == DataType::Jsonb && (is_number(to) || to == DataType::Bool))
}

/// Whether an assignment to a column of type `to` converts `from`.
pub(crate) fn casts_on_assignment(from: DataType, to: DataType) -> bool {
    let (from, to) = (plain(from), plain(to));
    casts_implicitly(from, to)
        || (is_number(from) && is_number(to))
        || (time_rank(from).is_some() && time_rank(to).is_some())
        || to == DataType::Text(None)
}
