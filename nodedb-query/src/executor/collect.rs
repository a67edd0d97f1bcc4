//! Aggregates that keep every value until the end: `string_agg` of text and bytes, `jsonb_agg`,
//! `jsonb_object_agg`.
//!
//! ORDER BY and DISTINCT inside the call are done here: the keys of the order come as further
//! arguments, so that calls of different orders do not meet in one sort of the input.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType as Arrow, Field, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
};
use nodedb_types::arrow_map::{arrow_type, value_at};
use nodedb_types::json::{self, Json};
use nodedb_types::{DataType, Failure, SqlState, Value};

use super::error::wrap;
use crate::expr::Expr;
use crate::expr::builder::array_of;
use crate::function::compare;
use crate::rel::{AggregateCall, AggregateKind};

/// How the values of a call are put together.
#[derive(Debug, Clone)]
struct Collect {
    kind: AggregateKind,
    returns: DataType,
    /// Types of the call's own arguments, then of its keys.
    types: Vec<DataType>,
    /// Of the keys: descending, NULLs first.
    order: Vec<(bool, bool)>,
    distinct: bool,
    signature: Signature,
    shown: String,
}

impl PartialEq for Collect {
    fn eq(&self, other: &Collect) -> bool {
        self.shown == other.shown
    }
}

impl Eq for Collect {}

impl Hash for Collect {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shown.hash(state);
    }
}

pub(super) fn is_collecting(kind: AggregateKind) -> bool {
    matches!(
        kind,
        AggregateKind::StringAgg | AggregateKind::JsonbAgg | AggregateKind::JsonbObjectAgg
    )
}

/// The function for a call; its arguments are those of the call and then the keys of its order.
pub(super) fn of(call: &AggregateCall) -> Arc<AggregateUDF> {
    let keys = call.order.iter().map(|k| &k.expr);
    let types: Vec<DataType> = call
        .arguments
        .iter()
        .chain(keys)
        .map(Expr::data_type)
        .collect();
    let order: Vec<(bool, bool)> = call
        .order
        .iter()
        .map(|k| (k.descending, k.nulls_first))
        .collect();
    let shown = format!("{:?}({types:?} {order:?} {})", call.kind, call.distinct);
    Arc::new(AggregateUDF::from(Collect {
        kind: call.kind,
        returns: call.returns,
        types,
        order,
        distinct: call.distinct,
        signature: Signature::variadic_any(Volatility::Immutable),
        shown,
    }))
}

impl AggregateUDFImpl for Collect {
    fn name(&self) -> &str {
        &self.shown
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[Arrow]) -> Result<Arrow> {
        Ok(arrow_type(&self.returns))
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Collected {
            how: self.clone(),
            rows: Vec::new(),
            bytes: 0,
        }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = arguments.name;
        let field = |(i, t): (usize, &DataType)| {
            Arc::new(Field::new(format!("{name}[{i}]"), list_of(t), true))
        };
        Ok(self.types.iter().enumerate().map(field).collect())
    }
}

fn item(t: &DataType) -> FieldRef {
    Arc::new(Field::new_list_field(arrow_type(t), true))
}

fn list_of(t: &DataType) -> Arrow {
    Arrow::List(item(t))
}

#[derive(Debug)]
struct Collected {
    how: Collect,
    rows: Vec<Vec<Value>>,
    bytes: usize,
}

fn bytes_of(value: &Value) -> usize {
    let own = match value {
        Value::Text(text) | Value::Jsonb(text) => text.len(),
        Value::Bytea(bytes) | Value::Geometry(bytes) | Value::Geography(bytes) => bytes.len(),
        Value::Vector(elements) => elements.len() * 4,
        _ => 0,
    };
    own + size_of::<Value>()
}

/// The order of two values, NULL being greatest before the direction is looked at.
fn order_of(a: &Value, b: &Value, (descending, nulls_first): (bool, bool)) -> Ordering {
    let nulls = |is_first: bool| match is_first {
        true => Ordering::Less,
        false => Ordering::Greater,
    };
    match (a.is_null(), b.is_null()) {
        (true, true) => Ordering::Equal,
        (true, false) => nulls(nulls_first),
        (false, true) => nulls(!nulls_first),
        (false, false) => {
            // Keys of one type that has an order, as the binder made sure.
            let order = compare::order(a, b).unwrap_or(Ordering::Equal);
            if descending { order.reverse() } else { order }
        }
    }
}

impl Collected {
    fn push(&mut self, columns: &[ArrayRef], row: usize) -> nodedb_types::Result<()> {
        let values = columns
            .iter()
            .zip(&self.how.types)
            .map(|(array, t)| value_at(array, row, t))
            .collect::<nodedb_types::Result<Vec<Value>>>()?;
        // What strings are made of leaves NULLs out; JSON has a word for them.
        let is_left_out =
            self.how.kind == AggregateKind::StringAgg && values.first().is_some_and(Value::is_null);
        if !is_left_out {
            self.bytes += values.iter().map(bytes_of).sum::<usize>();
            self.rows.push(values);
        }
        Ok(())
    }

    /// The rows in the order of the call, without those that DISTINCT drops.
    fn ordered(&self) -> Vec<&Vec<Value>> {
        let how = &self.how;
        let own = how.types.len() - how.order.len();
        let mut rows: Vec<&Vec<Value>> = self.rows.iter().collect();
        let by_keys = |a: &Vec<Value>, b: &Vec<Value>| {
            let keys = a[own..].iter().zip(&b[own..]).zip(&how.order);
            keys.map(|((a, b), order)| order_of(a, b, *order))
                .find(|o| o.is_ne())
                .unwrap_or(Ordering::Equal)
        };
        let by_values = |a: &Vec<Value>, b: &Vec<Value>| {
            let values = a[..own].iter().zip(&b[..own]);
            values
                .map(|(a, b)| order_of(a, b, (false, false)))
                .find(|o| o.is_ne())
                .unwrap_or(Ordering::Equal)
        };
        match how.distinct {
            // Every key is one of the values, so equal rows come to lie together.
            true => {
                rows.sort_by(|a, b| by_keys(a, b).then_with(|| by_values(a, b)));
                rows.dedup_by(|a, b| by_values(a, b).is_eq());
            }
            false => rows.sort_by(|a, b| by_keys(a, b)),
        }
        rows
    }

    fn value(&self) -> nodedb_types::Result<Value> {
        if self.rows.is_empty() {
            return Ok(Value::Null);
        }
        let rows = self.ordered();
        match (self.how.kind, self.how.returns) {
            (AggregateKind::StringAgg, DataType::Bytea) => bytes(&rows),
            (AggregateKind::StringAgg, _) => text(&rows),
            (AggregateKind::JsonbAgg, _) => {
                let items = rows.iter().map(|row| json_of(&row[0]));
                let items = items.collect::<nodedb_types::Result<Vec<Json>>>()?;
                Ok(written(&Json::Array(items)))
            }
            (AggregateKind::JsonbObjectAgg, _) => object(&rows),
            (other, _) => Err(Failure::internal(format!("{other:?} collects nothing"))),
        }
    }
}

fn text(rows: &[&Vec<Value>]) -> nodedb_types::Result<Value> {
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        if let (true, Value::Text(separator)) = (i > 0, &row[1]) {
            out.push_str(separator);
        }
        if let Value::Text(value) = &row[0] {
            out.push_str(value);
        }
    }
    Ok(Value::Text(out))
}

fn bytes(rows: &[&Vec<Value>]) -> nodedb_types::Result<Value> {
    let mut out = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        if let (true, Value::Bytea(separator)) = (i > 0, &row[1]) {
            out.extend_from_slice(separator);
        }
        if let Value::Bytea(value) = &row[0] {
            out.extend_from_slice(value);
        }
    }
    Ok(Value::Bytea(out))
}

fn json_of(value: &Value) -> nodedb_types::Result<Json> {
    match crate::function::jsonb_of(value)? {
        Value::Jsonb(text) => Json::parse(&text),
        _ => Ok(Json::Null),
    }
}

fn written(document: &Json) -> Value {
    let mut out = String::new();
    document.write(&mut out);
    Value::Jsonb(out)
}

fn object(rows: &[&Vec<Value>]) -> nodedb_types::Result<Value> {
    let mut out = String::from("{");
    for (i, row) in rows.iter().enumerate() {
        let Value::Text(key) = &row[0] else {
            return Err(Failure::new(
                SqlState::NullValueNotAllowed,
                "field name must not be null",
            ));
        };
        if i > 0 {
            out.push(',');
        }
        Json::String(key.clone()).write(&mut out);
        out.push(':');
        json_of(&row[1])?.write(&mut out);
    }
    out.push('}');
    // Of equal keys the last one stays.
    json::canonical(&out).map(Value::Jsonb)
}

impl Accumulator for Collected {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |v| v.len());
        for row in 0..rows {
            self.push(values, row).map_err(wrap)?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let value = self.value().map_err(wrap)?;
        let array = array_of(&self.how.returns, [&value]).map_err(wrap)?;
        ScalarValue::try_from_array(&array, 0)
    }

    fn size(&self) -> usize {
        size_of::<Collected>() + self.bytes
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut lists = Vec::new();
        for (i, t) in self.how.types.iter().enumerate() {
            let values = array_of(t, self.rows.iter().map(|row| &row[i])).map_err(wrap)?;
            let offsets = OffsetBuffer::from_lengths([values.len()]);
            let list = ListArray::try_new(item(t), offsets, values, None)?;
            lists.push(ScalarValue::List(Arc::new(list)));
        }
        Ok(lists)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let groups = states.first().map_or(0, |s| s.len());
        for group in 0..groups {
            let columns: Vec<ArrayRef> = states
                .iter()
                .map(|s| s.as_list::<i32>().value(group))
                .collect();
            self.update_batch(&columns)?;
        }
        Ok(())
    }
}
