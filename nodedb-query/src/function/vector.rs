//! Vectors: distances and arithmetic, as pgvector's.

use std::sync::Arc;

use arrow::array::types::Float32Type;
use arrow::array::{Array, ArrayRef, AsArray, Float64Builder};
use nodedb_types::vector::{self, Metric};
use nodedb_types::{DataType, Failure, Result, Value};

use super::{Function, INT4, VECTOR, arguments, array, row};
use crate::expr::eval::Evaluated;

/// The floats of one vector of an array, without a copy.
fn slice_of(array: &dyn Array, row: usize) -> Result<ArrayRef> {
    if let Some(list) = array.as_fixed_size_list_opt() {
        return Ok(list.value(row));
    }
    if let Some(list) = array.as_list_opt::<i32>() {
        return Ok(list.value(row));
    }
    Err(Failure::internal(format!(
        "a vector that travels as {}",
        array.data_type()
    )))
}

fn distances(
    arguments: &[Evaluated],
    rows: usize,
    f: impl Fn(&[f32], &[f32]) -> Result<f64>,
) -> Result<ArrayRef> {
    let [l, r] = arguments else {
        return Err(Failure::internal("a distance takes two vectors"));
    };
    let mut results = Float64Builder::with_capacity(rows);
    for i in 0..rows {
        let (a, b) = (l.at(i), r.at(i));
        if l.array.is_null(a) || r.array.is_null(b) {
            results.append_null();
            continue;
        }
        let (a, b) = (slice_of(&l.array, a)?, slice_of(&r.array, b)?);
        let (a, b) = (
            a.as_primitive::<Float32Type>(),
            b.as_primitive::<Float32Type>(),
        );
        results.append_value(f(a.values(), b.values())?);
    }
    Ok(Arc::new(results.finish()))
}

macro_rules! distance {
    ($name:literal, $metric:expr, $summary:literal) => {
        array(
            $name,
            &[VECTOR, VECTOR],
            DataType::Float8,
            |a, rows, _| distances(a, rows, |x, y| vector::distance_checked($metric, x, y)),
            $summary,
        )
    };
}

fn product(a: &[f32], b: &[f32]) -> Result<f64> {
    vector::check_same_dimensions(a, b)?;
    Ok(vector::inner_product(a, b))
}

const V: DataType = DataType::Vector(None);

pub(super) static FUNCTIONS: &[Function] = &[
    distance!("<->", Metric::L2, "Euclidean distance"),
    distance!("<=>", Metric::Cosine, "cosine distance"),
    distance!("<#>", Metric::NegativeInner, "negative inner product"),
    distance!("<+>", Metric::L1, "taxicab distance"),
    distance!("l2_distance", Metric::L2, "Euclidean distance"),
    distance!("cosine_distance", Metric::Cosine, "cosine distance"),
    distance!("l1_distance", Metric::L1, "taxicab distance"),
    array(
        "inner_product",
        &[VECTOR, VECTOR],
        DataType::Float8,
        |a, rows, _| distances(a, rows, product),
        "inner product",
    ),
    row(
        "vector_dims",
        &[VECTOR],
        DataType::Int4,
        |v| arguments!(v, Value::Vector(x) => Ok(Value::Int4(x.len() as i32))),
        "number of dimensions",
    ),
    row(
        "vector_norm",
        &[VECTOR],
        DataType::Float8,
        |v| arguments!(v, Value::Vector(x) => Ok(Value::Float8(vector::norm(x)))),
        "Euclidean norm",
    ),
    row(
        "l2_norm",
        &[VECTOR],
        DataType::Float8,
        |v| arguments!(v, Value::Vector(x) => Ok(Value::Float8(vector::norm(x)))),
        "Euclidean norm",
    ),
    row(
        "l2_normalize",
        &[VECTOR],
        V,
        |v| arguments!(v, Value::Vector(x) => Ok(Value::Vector(vector::l2_normalize(x)))),
        "of length one",
    ),
    row(
        "subvector",
        &[VECTOR, INT4, INT4],
        V,
        |v| arguments!(v, Value::Vector(x), Value::Int4(start), Value::Int4(count) => vector::subvector(x, *start, *count).map(Value::Vector)),
        "some of the dimensions",
    ),
    row(
        "+",
        &[VECTOR, VECTOR],
        V,
        |v| arguments!(v, Value::Vector(a), Value::Vector(b) => vector::add(a, b).map(Value::Vector)),
        "element-wise sum",
    ),
    row(
        "-",
        &[VECTOR, VECTOR],
        V,
        |v| arguments!(v, Value::Vector(a), Value::Vector(b) => vector::subtract(a, b).map(Value::Vector)),
        "element-wise difference",
    ),
    row(
        "*",
        &[VECTOR, VECTOR],
        V,
        |v| arguments!(v, Value::Vector(a), Value::Vector(b) => vector::multiply(a, b).map(Value::Vector)),
        "element-wise product",
    ),
    row(
        "||",
        &[VECTOR, VECTOR],
        V,
        |v| arguments!(v, Value::Vector(a), Value::Vector(b) => vector::concat(a, b).map(Value::Vector)),
        "concatenation",
    ),
];
