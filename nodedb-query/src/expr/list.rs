//! `IN` over many constants: a set that is made once per execution and asked once per row.
//!
//! A set says what comparing one by one says ([`crate::function::compare`]): 1.0 is 1.00, -0 is 0,
//! NaN equals itself, text compares by code point, jsonb by its own order. What is not in the set
//! is unknown when there is a NULL among the constants, and so is a NULL operand. Few constants
//! stay a plain list, which Arrow compares a batch at a time.

use std::collections::HashSet;
use std::fmt;

use arrow::array::types::{
    Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use nodedb_types::arrow_map::value_at;
use nodedb_types::{DataType, Result, Value, text};
use xxhash_rust::xxh3::Xxh3;

use super::Expr;
use crate::function::compare::order;

/// A list of more constants than this becomes a set.
pub(crate) const LIST_MAX: usize = 8;
/// So many constants of a set are shown.
const SHOWN_MAX: usize = 5;

/// Constants of one type, made ready to be looked up.
pub(crate) struct ConstantSet {
    /// As they were written, without NULLs.
    values: Vec<Value>,
    data_type: DataType,
    has_null: bool,
    lookup: Lookup,
    /// Of all constants, so that two sets that print alike are alike.
    digest: u128,
}

enum Lookup {
    /// Integers, days, microseconds and the bits of floats.
    Numbers(HashSet<i64>),
    Bytes(HashSet<Box<[u8]>>),
    /// Ascending, for the types whose equality is not that of bytes.
    Sorted(Vec<Value>),
}

/// The same bits for floats that are equal.
fn bits(x: f64) -> i64 {
    match x.is_nan() {
        true => f64::NAN.to_bits() as i64,
        // Minus zero plus zero is zero.
        false => (x + 0.0).to_bits() as i64,
    }
}

fn number(value: &Value) -> Option<i64> {
    Some(match value {
        Value::Int2(n) => i64::from(*n),
        Value::Int4(n) | Value::Date(n) => i64::from(*n),
        Value::Int8(n) | Value::Timestamp(n) | Value::TimestampTz(n) => *n,
        Value::Float4(x) => bits(f64::from(*x)),
        Value::Float8(x) => bits(*x),
        _ => return None,
    })
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Text(text) => Some(text.as_bytes()),
        Value::Bytea(bytes) => Some(bytes),
        Value::Uuid(bytes) => Some(bytes),
        _ => None,
    }
}

impl Lookup {
    fn new(values: &[Value]) -> Result<Lookup> {
        if let Some(numbers) = values.iter().map(number).collect() {
            return Ok(Lookup::Numbers(numbers));
        }
        if let Some(all) = values.iter().map(|v| bytes(v).map(Into::into)).collect() {
            return Ok(Lookup::Bytes(all));
        }
        let mut sorted = values.to_vec();
        // Whether two values compare depends on their types only, and these have one.
        let mut failed = None;
        sorted.sort_by(|a, b| {
            order(a, b).unwrap_or_else(|failure| {
                failed = Some(failure);
                std::cmp::Ordering::Equal
            })
        });
        match failed {
            Some(failure) => Err(failure),
            None => Ok(Lookup::Sorted(sorted)),
        }
    }
}

impl ConstantSet {
    /// `values` have the type `data_type`, or are NULL.
    pub(crate) fn new(values: Vec<Value>, data_type: DataType) -> Result<ConstantSet> {
        let all = values.len();
        let values: Vec<Value> = values.into_iter().filter(|v| !v.is_null()).collect();
        let mut digest = Xxh3::new();
        let mut shown = String::new();
        for value in &values {
            shown.clear();
            text::format(value, &mut shown);
            digest.update(&(shown.len() as u64).to_le_bytes());
            digest.update(shown.as_bytes());
        }
        Ok(ConstantSet {
            lookup: Lookup::new(&values)?,
            has_null: values.len() < all,
            values,
            data_type,
            digest: digest.digest128(),
        })
    }

    /// The set of a list, if it is one of constants only and worth it.
    pub(crate) fn of(operand: &Expr, list: &[Expr]) -> Option<ConstantSet> {
        if list.len() <= LIST_MAX {
            return None;
        }
        let values = list.iter().map(|item| item.constant().cloned());
        ConstantSet::new(values.collect::<Option<_>>()?, operand.data_type()).ok()
    }

    /// The constants that are not NULL.
    pub(crate) fn values(&self) -> &[Value] {
        &self.values
    }

    /// Nothing is in it, not even NULL.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty() && !self.has_null
    }

    pub(crate) fn has_null(&self) -> bool {
        self.has_null
    }

    /// `operand IN (self)` for each row of an array.
    pub(crate) fn holds(&self, operands: &ArrayRef) -> Result<BooleanArray> {
        let found = match &self.lookup {
            Lookup::Numbers(numbers) => self.numbers(operands, numbers),
            Lookup::Bytes(known) => self.bytes(operands, known),
            Lookup::Sorted(sorted) => {
                let mut found = Vec::with_capacity(operands.len());
                for row in 0..operands.len() {
                    let value = value_at(operands, row, &self.data_type)?;
                    found.push(!value.is_null() && contains(sorted, &value)?);
                }
                found
            }
        };
        let known = |(row, found): (usize, bool)| {
            let unknown = operands.is_null(row) || !found && self.has_null;
            (!unknown).then_some(found)
        };
        Ok(found.into_iter().enumerate().map(known).collect())
    }

    fn numbers(&self, operands: &ArrayRef, known: &HashSet<i64>) -> Vec<bool> {
        macro_rules! found {
            ($arrow:ty, $number:expr) => {{
                let values = operands.as_primitive::<$arrow>().values().iter();
                values.map(|v| known.contains(&$number(*v))).collect()
            }};
        }
        match self.data_type {
            DataType::Int2 => found!(Int16Type, i64::from),
            DataType::Int4 => found!(Int32Type, i64::from),
            DataType::Date => found!(Date32Type, i64::from),
            DataType::Float4 => found!(Float32Type, |x| bits(f64::from(x))),
            DataType::Float8 => found!(Float64Type, bits),
            DataType::Timestamp | DataType::TimestampTz => found!(TimestampMicrosecondType, |n| n),
            // No other type has numbers; an empty set of any type holds nothing.
            _ if known.is_empty() => vec![false; operands.len()],
            _ => found!(Int64Type, |n| n),
        }
    }

    fn bytes(&self, operands: &ArrayRef, known: &HashSet<Box<[u8]>>) -> Vec<bool> {
        let rows = 0..operands.len();
        match self.data_type {
            DataType::Text(_) => {
                let texts = operands.as_string::<i32>();
                rows.map(|row| known.contains(texts.value(row).as_bytes()))
                    .collect()
            }
            DataType::Uuid => {
                let ids = operands.as_fixed_size_binary();
                rows.map(|row| known.contains(ids.value(row))).collect()
            }
            _ => {
                let values = operands.as_binary::<i32>();
                rows.map(|row| known.contains(values.value(row))).collect()
            }
        }
    }
}

fn contains(sorted: &[Value], value: &Value) -> Result<bool> {
    let (mut low, mut high) = (0, sorted.len());
    while low < high {
        let middle = (low + high) / 2;
        match order(&sorted[middle], value)? {
            std::cmp::Ordering::Equal => return Ok(true),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    Ok(false)
}

/// The first constants, and what tells the others apart.
impl fmt::Debug for ConstantSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for value in self.values.iter().take(SHOWN_MAX) {
            super::show_constant(f, value, &self.data_type)?;
            f.write_str(", ")?;
        }
        if self.has_null {
            f.write_str("NULL, ")?;
        }
        let more = self.values.len().saturating_sub(SHOWN_MAX);
        write!(f, "… {more} more #{:032x}", self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::builder::array_of;
    use nodedb_types::numeric::Numeric;

    /// A set answers as the list that it is made of, for every operand of every type.
    #[test]
    fn a_set_is_its_list() {
        let numeric = |text: &str| Value::Numeric(Numeric::parse(text).expect("a number"));
        let text = |t: &str| Value::Text(t.to_owned());
        let jsonb = |t: &str| Value::Jsonb(t.into());
        let cases = [
            (
                DataType::Numeric(None),
                vec![numeric("1.0"), numeric("-3"), numeric("2.50")],
                vec![numeric("1.000"), numeric("2.5"), numeric("3"), Value::Null],
            ),
            (
                DataType::Float8,
                vec![Value::Float8(0.0), Value::Float8(-f64::NAN)],
                vec![
                    Value::Float8(-0.0),
                    Value::Float8(f64::NAN),
                    Value::Float8(1.0),
                    Value::Float8(f64::INFINITY),
                ],
            ),
            (
                DataType::Float4,
                vec![Value::Float4(-0.0), Value::Float4(0.1)],
                vec![Value::Float4(0.0), Value::Float4(0.1), Value::Float4(0.2)],
            ),
            (
                DataType::Text(None),
                vec![text("é"), text(""), text("a")],
                vec![
                    text("e\u{301}"),
                    text("é"),
                    text(""),
                    text("A"),
                    Value::Null,
                ],
            ),
            (
                DataType::Int2,
                vec![Value::Int2(-1), Value::Int2(7)],
                vec![Value::Int2(7), Value::Int2(8), Value::Null, Value::Int2(-1)],
            ),
            (
                DataType::Date,
                vec![Value::Date(0)],
                vec![Value::Date(0), Value::Date(1)],
            ),
            (
                DataType::TimestampTz,
                vec![Value::TimestampTz(5)],
                vec![Value::TimestampTz(5), Value::TimestampTz(6)],
            ),
            (
                DataType::Bool,
                vec![Value::Bool(true)],
                vec![Value::Bool(true), Value::Bool(false), Value::Null],
            ),
            (
                DataType::Uuid,
                vec![Value::Uuid([7; 16])],
                vec![Value::Uuid([7; 16]), Value::Uuid([8; 16]), Value::Null],
            ),
            (
                DataType::Bytea,
                vec![Value::Bytea(vec![1, 0])],
                vec![Value::Bytea(vec![1]), Value::Bytea(vec![1, 0])],
            ),
            (
                DataType::Jsonb,
                vec![jsonb("1"), jsonb(r#"{"a": 1}"#)],
                vec![jsonb("1.0"), jsonb("1"), jsonb(r#"{"a": 1}"#), jsonb("[]")],
            ),
        ];
        for (data_type, listed, operands) in cases {
            let array = array_of(&data_type, &operands).expect("an array");
            for nulls in 0..2 {
                let mut listed = listed.clone();
                listed.extend(std::iter::repeat_n(Value::Null, nulls));
                let set = ConstantSet::new(listed.clone(), data_type).expect("a set");
                let wanted: Vec<Option<bool>> = operands
                    .iter()
                    .map(|operand| {
                        let equal = |l: &Value| order(l, operand).is_ok_and(|o| o.is_eq());
                        let found = listed.iter().any(|l| !l.is_null() && equal(l));
                        (!operand.is_null() && (found || nulls == 0)).then_some(found)
                    })
                    .collect();
                let got: Vec<Option<bool>> = set.holds(&array).expect("an answer").iter().collect();
                assert_eq!(got, wanted, "{data_type:?} with {nulls} NULLs");
            }
        }
    }

    #[test]
    fn sets_print_alike_only_when_they_are() {
        let set = |numbers: std::ops::Range<i32>| {
            let values = numbers.map(Value::Int4).collect();
            format!(
                "{:?}",
                ConstantSet::new(values, DataType::Int4).expect("a set")
            )
        };
        assert_eq!(set(0..100), set(0..100));
        assert_ne!(set(0..100), set(0..101));
        assert!(set(0..100).starts_with("0, 1, 2, 3, 4, … 95 more #"));
    }
}
