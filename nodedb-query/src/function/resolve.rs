//! Which overload a call means, as PostgreSQL decides it (documentation, chapter 10).
//!
//! Candidates are the lines whose arguments the call's can be cast to implicitly. Most exact
//! matches win, then most preferred types; for literals of unknown type, text is tried first
//! except where the other operand of an operator tells the type.

use nodedb_types::{DataType, Failure, Result, SqlState};

use super::{Argument, Function, Returns, names, overloads};
use crate::catalog::similar;
use crate::expr::types::{casts_implicitly, common_type, digits, is_preferred, plain};

/// An overload and what its arguments are to be cast to.
pub(crate) struct Resolved {
    pub function: &'static Function,
    pub arguments: Vec<DataType>,
    pub returns: DataType,
}

/// `types`: of the arguments, `None` for literals and parameters of unknown type.
pub(crate) fn resolve(name: &str, types: &[Option<DataType>]) -> Result<Resolved> {
    let all = overloads(name);
    if all.is_empty() {
        return Err(undefined(name, types));
    }
    let fits: Vec<&'static Function> = all.iter().copied().filter(|f| fits(f, types)).collect();
    let function = match fits[..] {
        [] => return Err(undefined(name, types)),
        [one] => one,
        _ => best(name, fits, types)?,
    };
    finish(function, types)
}

fn declared(function: &Function, index: usize) -> Option<Argument> {
    if index < function.arguments.len() {
        Some(function.arguments[index])
    } else if function.variadic {
        function.arguments.last().copied()
    } else {
        None
    }
}

fn fits(function: &Function, types: &[Option<DataType>]) -> bool {
    let count = if function.variadic {
        types.len() >= function.arguments.len()
    } else {
        types.len() == function.arguments.len()
    };
    count
        && types
            .iter()
            .enumerate()
            .all(|(i, t)| match (declared(function, i), t) {
                (Some(Argument::Is(wanted)), Some(given)) => casts_implicitly(*given, wanted),
                (None, _) => false,
                _ => true,
            })
}

fn best(
    name: &str,
    mut fits: Vec<&'static Function>,
    types: &[Option<DataType>],
) -> Result<&'static Function> {
    // An operator with one unknown operand takes it to be of the other's type.
    if let [Some(known), None] | [None, Some(known)] = types
        && !name.starts_with(|c: char| c.is_alphabetic())
    {
        let wanted = Argument::Is(plain(*known));
        let both = fits.iter().find(|f| f.arguments == [wanted, wanted]);
        if let Some(function) = both {
            return Ok(function);
        }
    }
    // One float4 and another number are computed as doubles: PostgreSQL has operators of both widths.
    if let [Some(left), Some(right)] = types
        && (plain(*left) == DataType::Float4) != (plain(*right) == DataType::Float4)
        && !name.starts_with(|c: char| c.is_alphabetic())
    {
        let wanted = Argument::Is(DataType::Float8);
        let both = fits.iter().find(|f| f.arguments == [wanted, wanted]);
        if let Some(function) = both {
            return Ok(function);
        }
    }
    let count = |f: &Function, test: &dyn Fn(DataType, DataType) -> bool| {
        types
            .iter()
            .enumerate()
            .filter(|(i, t)| match (declared(f, *i), t) {
                (Some(Argument::Is(wanted)), Some(given)) => test(plain(*given), wanted),
                _ => false,
            })
            .count()
    };
    keep_most(&mut fits, |f| count(f, &|given, wanted| given == wanted));
    keep_most(&mut fits, |f| {
        count(f, &|given, wanted| given == wanted || is_preferred(wanted))
    });
    // Unknown arguments: text if some candidate takes text, else a preferred type.
    for (i, _) in types.iter().enumerate().filter(|(_, t)| t.is_none()) {
        let takes = |f: &Function, t: DataType| declared(f, i) == Some(Argument::Is(t));
        if fits.iter().any(|f| takes(f, DataType::Text(None))) {
            fits.retain(|f| takes(f, DataType::Text(None)));
        }
        keep_most(&mut fits, |f| {
            usize::from(matches!(declared(f, i), Some(Argument::Is(t)) if is_preferred(t)))
        });
    }
    match fits[..] {
        [one] => Ok(one),
        // The known arguments' types decide for the unknown ones when they agree.
        _ => {
            let mut known = types.iter().flatten().map(|t| plain(*t));
            let first = known.next().filter(|t| known.all(|k| k == *t));
            let alike = first.and_then(|t| {
                let wanted = Argument::Is(t);
                fits.iter()
                    .find(|f| f.arguments.iter().all(|a| *a == wanted))
            });
            alike.copied().ok_or_else(|| ambiguous(name, types))
        }
    }
}

fn keep_most(fits: &mut Vec<&'static Function>, score: impl Fn(&Function) -> usize) {
    let most = fits.iter().map(|f| score(f)).max().unwrap_or(0);
    fits.retain(|f| score(f) == most);
}

fn finish(function: &'static Function, types: &[Option<DataType>]) -> Result<Resolved> {
    let same = (0..types.len())
        .filter(|i| declared(function, *i) == Some(Argument::Same))
        .map(|i| types[i])
        .collect::<Vec<_>>();
    let same = match same.is_empty() {
        true => None,
        false => Some(common_type(function.name, same)?),
    };
    let mut arguments = Vec::with_capacity(types.len());
    for (i, given) in types.iter().enumerate() {
        arguments.push(match declared(function, i) {
            Some(Argument::Is(wanted)) => argument_type(wanted, *given),
            Some(Argument::Same) => same.unwrap_or(DataType::Text(None)),
            _ => given.unwrap_or(DataType::Text(None)),
        });
    }
    let returns = match function.returns {
        Returns::Is(data_type) => data_type,
        Returns::Same => same.unwrap_or(DataType::Text(None)),
        Returns::Of(f) => f(&arguments),
    };
    Ok(Resolved {
        function,
        arguments,
        returns,
    })
}

/// Sizes of the given type are kept where the declared one has none.
fn argument_type(wanted: DataType, given: Option<DataType>) -> DataType {
    match (wanted, given) {
        (DataType::Numeric(None), Some(given)) => DataType::Numeric(digits(given)),
        (wanted, Some(given)) if plain(given) == wanted => given,
        (wanted, _) => wanted,
    }
}

fn signature(name: &str, types: &[Option<DataType>]) -> String {
    let spelled: Vec<&str> = types
        .iter()
        .map(|t| t.map_or("unknown", |t| t.plain_name()))
        .collect();
    let is_function = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
    match (is_function, &spelled[..]) {
        (false, [one]) => format!("{name} {one}"),
        (false, [left, right]) => format!("{left} {name} {right}"),
        _ => format!("{name}({})", spelled.join(", ")),
    }
}

/// 42883, in PostgreSQL's words, with a name that may have been meant.
pub(crate) fn undefined(name: &str, types: &[Option<DataType>]) -> Failure {
    let what = if name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        "function"
    } else {
        "operator"
    };
    let failure = Failure::new(
        SqlState::UndefinedFunction,
        format!("{what} does not exist: {}", signature(name, types)),
    );
    let failure = if what == "function" {
        Failure::new(
            SqlState::UndefinedFunction,
            format!("function {} does not exist", signature(name, types)),
        )
    } else {
        failure
    };
    let exists = !overloads(name).is_empty();
    let bound_by_name = ["text_match", "bm25_score"];
    match similar(name, names().chain(bound_by_name)) {
        Some(near) if !exists && what == "function" => {
            failure.with_hint(format!("Perhaps you meant \"{near}\"."))
        }
        _ => failure.with_hint(format!(
            "No {what} matches the given name and argument types. You might need to add explicit type casts."
        )),
    }
}

fn ambiguous(name: &str, types: &[Option<DataType>]) -> Failure {
    let is_function = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let what = if is_function { "function" } else { "operator" };
    Failure::new(
        SqlState::AmbiguousFunction,
        format!("{what} is not unique: {}", signature(name, types)),
    )
    .with_hint("Could not choose a best candidate. You might need to add explicit type casts.")
}
