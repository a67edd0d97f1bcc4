//! Functions that give rows, beside other columns: the values of a row's calls become lists, which
//! are then unnested side by side.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType as Arrow, Field, FieldRef};
use datafusion::common::{Column, Result, UnnestOptions};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr as DfExpr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use nodedb_types::arrow_map::{arrow_type, value_at};
use nodedb_types::{DataType, Value};

use super::error::wrap;
use super::expression::name;
use super::lower::{Lowering, Outer};
use super::session::Series;
use crate::expr::ColumnId;
use crate::expr::builder::array_of;
use crate::rel::{Rel, SetCall, SetCallKind};

/// Most values that one call may give for one row, which are in memory at once.
const VALUES_MAX: usize = 1 << 20;

/// A call's values for a row as a list.
#[derive(Debug)]
struct Listed {
    kind: SetCallKind,
    arguments: Vec<DataType>,
    returns: DataType,
    shown: String,
    signature: Signature,
}

impl PartialEq for Listed {
    fn eq(&self, other: &Listed) -> bool {
        self.shown == other.shown
    }
}

impl Eq for Listed {}

impl Hash for Listed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shown.hash(state);
    }
}

impl Listed {
    fn item(&self) -> FieldRef {
        Arc::new(Field::new_list_field(arrow_type(&self.returns), true))
    }

    fn values(&self, row: &[Value]) -> nodedb_types::Result<Vec<Value>> {
        match self.kind {
            SetCallKind::Series => Series::new(self.returns, row)?.values(VALUES_MAX),
            SetCallKind::Function(_) if row.iter().any(Value::is_null) => Ok(Vec::new()),
            SetCallKind::Function(function) => (function.kernel)(row),
        }
    }
}

impl ScalarUDFImpl for Listed {
    fn name(&self) -> &str {
        &self.shown
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[Arrow]) -> Result<Arrow> {
        Ok(Arrow::List(self.item()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> = args
            .args
            .into_iter()
            .map(|a| a.into_array(rows))
            .collect::<Result<_>>()?;
        let mut lengths = Vec::with_capacity(rows);
        let mut all = Vec::new();
        for at in 0..rows {
            let row = arrays
                .iter()
                .zip(&self.arguments)
                .map(|(array, t)| value_at(array, at, t))
                .collect::<nodedb_types::Result<Vec<Value>>>()
                .map_err(wrap)?;
            let values = self.values(&row).map_err(wrap)?;
            lengths.push(values.len());
            all.extend(values);
        }
        let values = array_of(&self.returns, &all).map_err(wrap)?;
        let offsets = OffsetBuffer::from_lengths(lengths);
        let lists = ListArray::try_new(self.item(), offsets, values, None)?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

impl Lowering {
    pub(super) fn expand(
        &mut self,
        input: &Rel,
        calls: &[(ColumnId, SetCall)],
        outer: Outer<'_>,
    ) -> Result<LogicalPlan> {
        let input = self.rel(input, outer)?;
        let mut expressions: Vec<DfExpr> = input
            .schema()
            .iter()
            .map(|(qualifier, field)| DfExpr::Column(Column::from((qualifier, field))))
            .collect();
        let mut lists = Vec::new();
        for (id, call) in calls {
            let arguments = call
                .arguments
                .iter()
                .map(|e| self.value(e, &input, outer))
                .collect::<Result<Vec<_>>>()?;
            let listed = Listed {
                kind: call.kind,
                arguments: call.arguments.iter().map(|e| e.data_type()).collect(),
                returns: call.returns,
                shown: format!("{:?}:{:?}", call.kind, call.returns),
                signature: Signature::one_of(
                    vec![TypeSignature::VariadicAny, TypeSignature::Nullary],
                    Volatility::Immutable,
                ),
            };
            let udf = Arc::new(ScalarUDF::from(listed));
            let list = DfExpr::ScalarFunction(ScalarFunction::new_udf(udf, arguments));
            expressions.push(list.alias(name(*id)));
            lists.push(Column::from_name(name(*id)));
        }
        let options = UnnestOptions::new().with_preserve_nulls(false);
        LogicalPlanBuilder::from(input)
            .project(expressions)?
            .unnest_columns_with_options(lists, options)?
            .build()
    }
}
