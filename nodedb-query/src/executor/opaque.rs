//! An expression of ours as a DataFusion function.
//!
//! Its arguments are the columns and subqueries that the expression reads; it is evaluated by our
//! evaluator, so it means the same as on a core or in a write.

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType as Arrow, Field, Schema};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility as DfVolatility,
};
use nodedb_types::arrow_map::arrow_type;

use super::error::wrap;
use crate::expr::{Expr, eval};

/// The expression, its columns being numbers of arguments.
#[derive(Debug)]
pub(super) struct Opaque {
    pub expr: Expr,
    shown: String,
    returns: Arrow,
    signature: Signature,
}

impl Opaque {
    pub(super) fn udf(expr: Expr) -> Arc<ScalarUDF> {
        let volatile = expr.any(|e| matches!(e, Expr::Volatile { .. }));
        let volatility = if volatile {
            DfVolatility::Volatile
        } else {
            DfVolatility::Immutable
        };
        Arc::new(ScalarUDF::from(Opaque {
            shown: format!("{expr:?}:{:?}", expr.data_type()),
            returns: arrow_type(&expr.data_type()),
            signature: Signature::one_of(
                vec![TypeSignature::VariadicAny, TypeSignature::Nullary],
                volatility,
            ),
            expr,
        }))
    }

    /// The expression behind a function, if it is one of ours.
    pub(super) fn of(udf: &ScalarUDF) -> Option<&Opaque> {
        let inner: &dyn Any = udf.inner().as_ref();
        inner.downcast_ref()
    }
}

impl PartialEq for Opaque {
    fn eq(&self, other: &Opaque) -> bool {
        self.shown == other.shown
    }
}

impl Eq for Opaque {}

impl Hash for Opaque {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shown.hash(state);
    }
}

impl ScalarUDFImpl for Opaque {
    fn name(&self) -> &str {
        &self.shown
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[Arrow]) -> Result<Arrow> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args
            .args
            .iter()
            .all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let volatile = self.signature.volatility == DfVolatility::Volatile;
        let rows = if constant && !volatile {
            1
        } else {
            args.number_rows
        };
        let arrays: Vec<ArrayRef> = args
            .args
            .into_iter()
            .map(|a| a.into_array(rows))
            .collect::<Result<_>>()?;
        let fields: Vec<Field> = arrays
            .iter()
            .enumerate()
            .map(|(i, a)| Field::new(i.to_string(), a.data_type().clone(), true))
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch =
            RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?;
        let result = eval::evaluate(&self.expr, &batch).map_err(wrap)?;
        if constant && !volatile {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
                &result, 0,
            )?));
        }
        Ok(ColumnarValue::Array(result))
    }
}
