//! Every function and operator of the SQL surface: a line each in the table of its file.
//!
//! A line gives name, argument types, result, kernel and summary. The binder picks among lines of
//! one name as PostgreSQL picks among overloads ([`resolve`]); the reference documentation is
//! generated from the same table ([`reference`]). Operators are functions named by their symbol.
//! What needs the binder (aggregates, windows, `text_match`, catalog lookups) is resolved there.

pub(crate) mod absent;
pub(crate) mod arithmetic;
pub(crate) mod array;
mod bytes;
pub(crate) mod compare;
mod datetime;
mod interval;
mod json;
mod json_edit;
mod math;
mod null;
mod number_template;
mod pattern;
mod place;
mod quote;
mod regexp;
pub(crate) mod resolve;
pub(crate) mod root;
pub(crate) mod set;
mod string;
mod system;
mod template;
mod trigonometry;
mod vector;

pub(crate) use datetime::series_step;
pub(crate) use json::jsonb_of;

use std::collections::HashMap;
use std::sync::LazyLock;

use arrow::array::ArrayRef;
use nodedb_types::{DataType, Result, Value};

use crate::expr::eval::Evaluated;
use crate::plan::Environment;

/// What an argument must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// Of this type, or implicitly cast to it.
    Is(DataType),
    /// Of any type.
    Any,
    /// All such arguments share their common type.
    Same,
}

/// The type of a result.
#[derive(Clone, Copy)]
pub enum Returns {
    Is(DataType),
    /// That of the [`Argument::Same`] arguments.
    Same,
    /// Computed from the argument types.
    Of(fn(&[DataType]) -> DataType),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatility {
    /// Depends on its arguments only.
    Immutable,
    /// Has one value per statement; folded when the plan is instantiated.
    Stable,
    /// Has a value per row.
    Volatile,
}

type ArrayKernel = fn(&[Evaluated], usize, &DataType) -> Result<ArrayRef>;

/// How it is computed.
#[derive(Clone, Copy)]
pub(crate) enum Kernel {
    Row(fn(&[Value]) -> Result<Value>),
    Array(ArrayKernel),
    Stable(fn(&[Value], &Environment) -> Result<Value>),
    /// From a number that is different for every row.
    Volatile(fn(u64) -> Value),
}

/// A function or operator.
pub struct Function {
    pub name: &'static str,
    pub arguments: &'static [Argument],
    /// The last argument may be repeated.
    pub variadic: bool,
    pub returns: Returns,
    pub volatility: Volatility,
    /// NULL when an argument is NULL.
    pub strict: bool,
    pub summary: &'static str,
    pub(crate) kernel: Kernel,
}

impl Function {
    pub(crate) const fn new(
        name: &'static str,
        arguments: &'static [Argument],
        returns: Returns,
        kernel: Kernel,
        summary: &'static str,
    ) -> Function {
        Function {
            name,
            arguments,
            variadic: false,
            returns,
            volatility: match kernel {
                Kernel::Row(_) | Kernel::Array(_) => Volatility::Immutable,
                Kernel::Stable(_) => Volatility::Stable,
                Kernel::Volatile(_) => Volatility::Volatile,
            },
            strict: true,
            summary,
            kernel,
        }
    }

    const fn variadic(mut self) -> Function {
        self.variadic = true;
        self
    }

    /// Sees NULL arguments.
    pub(crate) const fn sees_null(mut self) -> Function {
        self.strict = false;
        self
    }

    /// Named by a symbol.
    pub fn is_operator(&self) -> bool {
        !self
            .name
            .starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

const fn row(
    name: &'static str,
    arguments: &'static [Argument],
    returns: DataType,
    kernel: fn(&[Value]) -> Result<Value>,
    summary: &'static str,
) -> Function {
    Function::new(
        name,
        arguments,
        Returns::Is(returns),
        Kernel::Row(kernel),
        summary,
    )
}

const fn array(
    name: &'static str,
    arguments: &'static [Argument],
    returns: DataType,
    kernel: ArrayKernel,
    summary: &'static str,
) -> Function {
    Function::new(
        name,
        arguments,
        Returns::Is(returns),
        Kernel::Array(kernel),
        summary,
    )
}

const fn stable(
    name: &'static str,
    arguments: &'static [Argument],
    returns: DataType,
    kernel: fn(&[Value], &Environment) -> Result<Value>,
    summary: &'static str,
) -> Function {
    Function::new(
        name,
        arguments,
        Returns::Is(returns),
        Kernel::Stable(kernel),
        summary,
    )
}

const BOOL: Argument = Argument::Is(DataType::Bool);
const INT2: Argument = Argument::Is(DataType::Int2);
const INT4: Argument = Argument::Is(DataType::Int4);
const INT8: Argument = Argument::Is(DataType::Int8);
const FLOAT4: Argument = Argument::Is(DataType::Float4);
const FLOAT8: Argument = Argument::Is(DataType::Float8);
const NUMERIC: Argument = Argument::Is(DataType::Numeric(None));
const TEXT: Argument = Argument::Is(DataType::Text(None));
const BYTEA: Argument = Argument::Is(DataType::Bytea);
const DATE: Argument = Argument::Is(DataType::Date);
const TIMESTAMP: Argument = Argument::Is(DataType::Timestamp);
const TIMESTAMPTZ: Argument = Argument::Is(DataType::TimestampTz);
const INTERVAL: Argument = Argument::Is(DataType::Interval);
const JSONB: Argument = Argument::Is(DataType::Jsonb);
const VECTOR: Argument = Argument::Is(DataType::Vector(None));
const GEOMETRY: Argument = Argument::Is(DataType::Geometry(None));
const GEOGRAPHY: Argument = Argument::Is(DataType::Geography(None));
const TEXT_TYPE: DataType = DataType::Text(None);
const NUMERIC_TYPE: DataType = DataType::Numeric(None);

/// Reads the arguments of a row kernel by type; the resolver has made sure of the types.
macro_rules! arguments {
    ($values:expr, $($pattern:pat),+ => $body:expr) => {
        match $values {
            [$($pattern),+] => $body,
            other => Err($crate::function::wrong_arguments(other)),
        }
    };
}
pub(crate) use arguments;

fn wrong_arguments(values: &[Value]) -> nodedb_types::Failure {
    nodedb_types::Failure::internal(format!(
        "a function met arguments of other types: {values:?}"
    ))
}

static TABLES: &[&[Function]] = &[
    arithmetic::FUNCTIONS,
    math::FUNCTIONS,
    trigonometry::FUNCTIONS,
    string::FUNCTIONS,
    quote::FUNCTIONS,
    bytes::FUNCTIONS,
    pattern::FUNCTIONS,
    regexp::FUNCTIONS,
    datetime::FUNCTIONS,
    template::FUNCTIONS,
    number_template::FUNCTIONS,
    interval::FUNCTIONS,
    json::FUNCTIONS,
    json_edit::FUNCTIONS,
    null::FUNCTIONS,
    vector::FUNCTIONS,
    place::FUNCTIONS,
    system::FUNCTIONS,
];

static BY_NAME: LazyLock<HashMap<&'static str, Vec<&'static Function>>> = LazyLock::new(|| {
    let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
    for function in TABLES.iter().flat_map(|t| t.iter()) {
        by_name.entry(function.name).or_default().push(function);
    }
    by_name
});

/// The overloads of a name.
pub(crate) fn overloads(name: &str) -> &'static [&'static Function] {
    BY_NAME.get(name).map_or(&[], |v| v.as_slice())
}

/// Names of functions, for hints.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    BY_NAME.keys().copied()
}

/// The whole table, for the reference documentation.
pub fn reference() -> impl Iterator<Item = &'static Function> {
    TABLES.iter().flat_map(|t| t.iter())
}
