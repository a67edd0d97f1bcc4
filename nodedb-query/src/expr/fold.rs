//! Fills in what is known when a plan is instantiated: parameters, `now()`, the session; then
//! computes what has become constant.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::builder::{rows_only, single};
use super::list::ConstantSet;
use super::{Expr, cast, eval};
use crate::function::{Kernel, Volatility};
use crate::plan::Environment;

/// Parameters and environment of one execution.
pub(crate) struct Given<'a> {
    pub parameters: &'a [Value],
    pub environment: &'a Environment,
    /// What volatile calls draw their numbers from, one for the whole statement.
    random: Arc<AtomicU64>,
}

impl<'a> Given<'a> {
    pub(crate) fn new(parameters: &'a [Value], environment: &'a Environment) -> Given<'a> {
        Given {
            parameters,
            environment,
            random: Arc::new(AtomicU64::new(environment.random_seed)),
        }
    }

    pub(crate) fn parameter(&self, index: usize, data_type: &DataType) -> Result<Value> {
        let value = self.parameters.get(index).ok_or_else(|| {
            Failure::new(
                SqlState::UndefinedParameter,
                format!("there is no parameter ${}", index + 1),
            )
        })?;
        value.clone().coerce(data_type)
    }

    /// The expression with everything known filled in. A constant part whose evaluation fails is
    /// left alone: it may never be reached.
    pub(crate) fn fold(&self, expr: Expr) -> Result<Expr> {
        expr.transform(&mut |e| self.fold_node(e))
    }

    /// A value, for the places where SQL wants one per statement.
    pub(crate) fn value(&self, expr: &Expr) -> Result<Value> {
        match expr {
            Expr::Parameter(index, data_type) => return self.parameter(*index, data_type),
            Expr::Constant(value, _) => return Ok(value.clone()),
            _ => {}
        }
        let folded = self.fold(expr.clone())?;
        match folded {
            Expr::Constant(value, _) => Ok(value),
            other => {
                let array = eval::evaluate(&other, &rows_only(1)?)?;
                single(&array, &other.data_type())
            }
        }
    }

    /// One node, its operands being folded already.
    pub(crate) fn fold_node(&self, e: Expr) -> Result<Expr> {
        match e {
            Expr::Parameter(index, data_type) => Ok(Expr::Constant(
                self.parameter(index, &data_type)?,
                data_type,
            )),
            Expr::Volatile {
                function, returns, ..
            } => Ok(Expr::Volatile {
                function,
                returns,
                state: Some(self.random.clone()),
            }),
            Expr::Call {
                function,
                arguments,
                returns,
            } if function.volatility == Volatility::Stable => {
                let Kernel::Stable(kernel) = function.kernel else {
                    return Err(Failure::internal("a stable function without its kernel"));
                };
                let values: Option<Vec<Value>> =
                    arguments.iter().map(|a| a.constant().cloned()).collect();
                match values {
                    Some(values) => Ok(Expr::Constant(kernel(&values, self.environment)?, returns)),
                    None => Err(Failure::unsupported(format!(
                        "{}() of anything but a constant",
                        function.name
                    ))),
                }
            }
            Expr::Constant(..) => Ok(e),
            Expr::Cast {
                operand,
                to,
                explicit,
            } if operand.constant().is_some() => Ok(cast_constant(operand, to, explicit)),
            Expr::InArray {
                operand,
                array,
                element,
            } if array.constant().is_some() => {
                self.fold_node(in_elements(operand, &array, element)?)
            }
            Expr::And(terms) => Ok(junction(terms, true)),
            Expr::Or(terms) => Ok(junction(terms, false)),
            e if e.children().iter().all(|c| c.constant().is_some()) && e.is_constant() => {
                Ok(constant(e))
            }
            Expr::InList(operand, list) => Ok(match ConstantSet::of(&operand, &list) {
                Some(set) => Expr::InSet(operand, Arc::new(set)),
                None => Expr::InList(operand, list),
            }),
            other => Ok(other),
        }
    }
}

/// Most bytes of operands that are computed with while a statement is prepared, and most that a
/// value kept for its executions takes.
const PREPARED_BYTES_MAX: usize = 1 << 10;
/// Most bytes that the values kept with one prepared statement take together.
const PREPARED_BYTES_TOTAL: usize = 16 << 10;

/// Computes once, for all executions of a prepared statement, what comes to the same in each.
///
/// A plan is kept for long and preparing is charged to no statement, so this is for the small:
/// operands and values of at most [`PREPARED_BYTES_MAX`], [`PREPARED_BYTES_TOTAL`] of values in
/// all, and no calls that make text, documents or bytes, which may be far longer than their
/// operands (`repeat`). The rest, and what fails, stays as it is and is left to the executions.
#[derive(Default)]
pub(crate) struct Preparation {
    kept_bytes: usize,
}

impl Preparation {
    /// One node of a statement that is bound, its operands being folded already.
    pub(crate) fn fold_node(&mut self, e: Expr) -> Expr {
        let is_left = match &e {
            Expr::Constant(..) | Expr::And(_) | Expr::Or(_) => true,
            Expr::Call { function, .. } if function.volatility == Volatility::Stable => true,
            _ => may_be_long(&e.data_type()),
        };
        if is_left {
            return e;
        }
        let children = e.children();
        let operands: Option<usize> = children.iter().map(|c| c.constant().map(bytes)).sum();
        let is_small = operands.is_some_and(|bytes| bytes <= PREPARED_BYTES_MAX);
        if !is_small || !e.is_constant() {
            return e;
        }
        let computed = match e.clone() {
            Expr::Cast {
                operand,
                to,
                explicit,
            } => cast_constant(operand, to, explicit),
            other => constant(other),
        };
        let Some(grown) = computed.constant().map(bytes) else {
            return e;
        };
        if grown > PREPARED_BYTES_MAX || self.kept_bytes + grown > PREPARED_BYTES_TOTAL {
            return e;
        }
        self.kept_bytes += grown;
        computed
    }
}

/// Whether a value of the type may be much longer than what it is computed from.
fn may_be_long(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Text(_) | DataType::Jsonb | DataType::Bytea
    )
}

/// What a value takes beside itself, bytes.
fn bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) | Value::Jsonb(text) => text.len(),
        Value::Bytea(bytes) | Value::Geometry(bytes) | Value::Geography(bytes) => bytes.len(),
        Value::Vector(elements) => elements.len() * size_of::<f32>(),
        _ => 0,
    }
}

/// `operand = ANY` of an array that is known: a list of its elements.
fn in_elements(operand: Box<Expr>, array: &Expr, element: DataType) -> Result<Expr> {
    let data_type = operand.data_type();
    let Some(Value::Text(text)) = array.constant() else {
        return Ok(Expr::Constant(Value::Null, DataType::Bool));
    };
    let values = eval::elements(text, &element, &data_type)?;
    if values.is_empty() {
        return Ok(Expr::bool(false));
    }
    let constant = |value| Expr::Constant(value, data_type);
    let list = values.into_iter().map(constant).collect();
    Ok(Expr::InList(operand, list))
}

/// A cast without the detour over an array of one: a large INSERT has one for each of its values.
pub(crate) fn cast_constant(operand: Box<Expr>, to: DataType, explicit: bool) -> Expr {
    let cast = match operand.constant() {
        Some(value) if operand.data_type() == to => Ok(value.clone()),
        Some(value) => cast::cast(value.clone(), &to, explicit),
        None => Err(Failure::internal("a cast of a constant that is none")),
    };
    match cast {
        Ok(value) => Expr::Constant(value, to),
        Err(_) => Expr::Cast {
            operand,
            to,
            explicit,
        },
    }
}

fn constant(e: Expr) -> Expr {
    let data_type = e.data_type();
    let value = rows_only(1)
        .and_then(|batch| eval::evaluate(&e, &batch))
        .and_then(|array| single(&array, &data_type));
    match value {
        Ok(value) => Expr::Constant(value, data_type),
        Err(_) => e,
    }
}

/// Drops what decides nothing and stops at what decides all.
fn junction(terms: Vec<Expr>, and: bool) -> Expr {
    let mut kept = Vec::new();
    for term in terms {
        match term.constant() {
            Some(Value::Bool(value)) if *value == and => {}
            Some(Value::Bool(_)) => return Expr::bool(!and),
            _ => kept.push(term),
        }
    }
    match kept.len() {
        0 => Expr::bool(and),
        1 => kept.remove(0),
        _ if and => Expr::And(kept),
        _ => Expr::Or(kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::{Argument, Function, Returns};

    /// Makes much of little; preparing must not call it.
    static LONG: Function = Function::new(
        "long",
        &[Argument::Any],
        Returns::Same,
        Kernel::Row(|_| panic!("called while a statement was prepared")),
        "fails the test that calls it",
    );

    fn text(value: String) -> Expr {
        Expr::Constant(Value::Text(value), DataType::Text(None))
    }

    fn cast(operand: Expr, to: DataType) -> Expr {
        Expr::Cast {
            operand: Box::new(operand),
            to,
            explicit: true,
        }
    }

    fn is_kept(preparation: &mut Preparation, e: Expr) -> bool {
        preparation.fold_node(e).constant().is_some()
    }

    #[test]
    fn little_is_computed_while_a_statement_is_prepared() {
        let mut preparation = Preparation::default();
        assert!(is_kept(
            &mut preparation,
            cast(text("12".into()), DataType::Int4)
        ));
        let failing = cast(text("twelve".into()), DataType::Int4);
        assert!(!is_kept(&mut preparation, failing));
        let long = cast(
            text(format!("{:0>width$}", 12, width = PREPARED_BYTES_MAX + 1)),
            DataType::Int4,
        );
        assert!(!is_kept(&mut preparation, long));
        for returns in [DataType::Text(None), DataType::Jsonb, DataType::Bytea] {
            let call = Expr::Call {
                function: &LONG,
                arguments: vec![Expr::Constant(Value::Int4(1), DataType::Int4)],
                returns,
            };
            assert!(!is_kept(&mut preparation, call));
        }
    }

    #[test]
    fn what_a_prepared_statement_keeps_is_bounded() {
        let vector = |elements: usize| {
            let elements = vec!["1"; elements].join(",");
            cast(text(format!("[{elements}]")), DataType::Vector(None))
        };
        let elements = PREPARED_BYTES_MAX / size_of::<f32>();
        let mut preparation = Preparation::default();
        assert!(!is_kept(&mut preparation, vector(elements + 1)));
        let kept = (0..100).filter(|_| is_kept(&mut preparation, vector(elements)));
        assert_eq!(kept.count(), PREPARED_BYTES_TOTAL / PREPARED_BYTES_MAX);
    }
}
