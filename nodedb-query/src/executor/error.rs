//! DataFusion's errors as failures with a SQLSTATE, and back.

use datafusion::common::DataFusionError;
use nodedb_types::{Failure, SqlState};

/// Carries a failure through DataFusion.
pub(super) fn wrap(failure: Failure) -> DataFusionError {
    DataFusionError::External(Box::new(failure))
}

/// The failure behind an error; DataFusion's own are told apart by kind, not by text.
pub(super) fn unwrap(error: DataFusionError) -> Failure {
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Failure>() {
            Some(failure) => failure.clone(),
            None => Failure::internal(format!("relational executor: {inner}")),
        },
        DataFusionError::ResourcesExhausted(_) => {
            Failure::new(SqlState::OutOfMemory, "out of memory")
                .with_detail("the statement's memory is used up")
                .with_hint(
                    "fetch or group fewer rows at a time, or raise the memory of a statement",
                )
        }
        DataFusionError::NotImplemented(what) => {
            Failure::unsupported("this combination of relational operators")
                .with_detail(what.clone())
        }
        DataFusionError::ArrowError(inner, _) => match &**inner {
            arrow::error::ArrowError::ExternalError(inner) => {
                match inner.downcast_ref::<Failure>() {
                    Some(failure) => failure.clone(),
                    None => Failure::internal(format!("relational executor: {inner}")),
                }
            }
            arrow::error::ArrowError::DivideByZero => {
                Failure::new(SqlState::DivisionByZero, "division by zero")
            }
            arrow::error::ArrowError::ArithmeticOverflow(_) => {
                Failure::new(SqlState::NumericOutOfRange, "value out of range")
            }
            other => Failure::internal(format!("relational executor: {other}")),
        },
        DataFusionError::Execution(text) if text.contains("more than one row") => Failure::new(
            SqlState::CardinalityViolation,
            "more than one row returned by a subquery used as an expression",
        ),
        // What it does not plan or compute is a limit of ours, not a fault.
        DataFusionError::Plan(what) | DataFusionError::Execution(what) => {
            Failure::unsupported("this combination of relational operators")
                .with_detail(what.clone())
        }
        DataFusionError::SchemaError(what, _) => {
            Failure::unsupported("this combination of relational operators")
                .with_detail(what.to_string())
        }
        other => Failure::internal(format!("relational executor: {other}")),
    }
}
