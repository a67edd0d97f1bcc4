//! How many arguments are NULL.

use nodedb_types::{DataType, Result, Value};

use super::{Argument, Function, row};

fn counted(values: &[Value], test: impl Fn(&Value) -> bool) -> Result<Value> {
    Ok(Value::Int4(values.iter().filter(|v| test(v)).count() as i32))
}

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "num_nulls",
        &[Argument::Any],
        DataType::Int4,
        |v| counted(v, Value::is_null),
        "number of arguments that are NULL",
    )
    .variadic()
    .sees_null(),
    row(
        "num_nonnulls",
        &[Argument::Any],
        DataType::Int4,
        |v| counted(v, |value| !value.is_null()),
        "number of arguments that are not NULL",
    )
    .variadic()
    .sees_null(),
];
