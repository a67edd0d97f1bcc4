//! The one expression engine: typed expressions and how they are evaluated over Arrow batches.
//!
//! The binder makes [`Expr`]s whose every node has a PostgreSQL type and whose casts are explicit,
//! so nothing below it guesses. [`eval`] evaluates them; the short path, the cores (through
//! [`compiled`]), the writes and DataFusion (through `executor::opaque`) all use that evaluator, so
//! an expression has one meaning everywhere.

pub(crate) mod builder;
pub(crate) mod cast;
pub(crate) mod compiled;
pub(crate) mod eval;
pub(crate) mod fold;
pub(crate) mod list;
pub(crate) mod rewrite;
pub(crate) mod types;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use nodedb_types::{DataType, Value};

use crate::function::Function;
use crate::rel::Subquery;
use list::ConstantSet;

/// Names one column of one relation in a statement. In a compiled expression: a position in the
/// batch that it is evaluated over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ColumnId(pub u32);

impl fmt::Debug for ColumnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum CompareOp {
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
}

impl CompareOp {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            CompareOp::Eq => "=",
            CompareOp::NotEq => "<>",
            CompareOp::Lt => "<",
            CompareOp::LtEq => "<=",
            CompareOp::Gt => ">",
            CompareOp::GtEq => ">=",
        }
    }

    /// The operator with its operands exchanged.
    pub(crate) fn flipped(self) -> CompareOp {
        match self {
            CompareOp::Lt => CompareOp::Gt,
            CompareOp::LtEq => CompareOp::GtEq,
            CompareOp::Gt => CompareOp::Lt,
            CompareOp::GtEq => CompareOp::LtEq,
            same => same,
        }
    }

    pub(crate) fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            CompareOp::Eq => order.is_eq(),
            CompareOp::NotEq => order.is_ne(),
            CompareOp::Lt => order.is_lt(),
            CompareOp::LtEq => order.is_le(),
            CompareOp::Gt => order.is_gt(),
            CompareOp::GtEq => order.is_ge(),
        }
    }
}

/// What a literal or parameter is before its context gives it a type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Unknown {
    Null,
    /// With its position in the statement, 0 when that is not known.
    Text(String, u32),
    Parameter(usize),
}

/// A typed expression. Operands of comparisons, branches of CASE and arguments of calls have been
/// cast to what they are compared as, returned as or declared as.
#[derive(Clone)]
pub(crate) enum Expr {
    Column {
        id: ColumnId,
        data_type: DataType,
        /// Set when the column belongs to a query around the one that refers to it.
        outer: bool,
    },
    Constant(Value, DataType),
    Parameter(usize, DataType),
    /// Only inside the binder: no type yet.
    Unknown(Unknown),
    Call {
        function: &'static Function,
        arguments: Vec<Expr>,
        returns: DataType,
    },
    /// A volatile call, with the state it draws from (put in when a plan is instantiated).
    Volatile {
        function: &'static Function,
        returns: DataType,
        state: Option<Arc<AtomicU64>>,
    },
    Compare(CompareOp, Box<Expr>, Box<Expr>),
    /// `IS NOT DISTINCT FROM`.
    Same(Box<Expr>, Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    IsNull(Box<Expr>),
    /// `operand IN (list)`, of one type.
    InList(Box<Expr>, Vec<Expr>),
    /// [`Expr::InList`] of many constants, once they are known.
    InSet(Box<Expr>, Arc<ConstantSet>),
    /// `operand = ANY (array)`, the array being text.
    InArray {
        operand: Box<Expr>,
        array: Box<Expr>,
        /// The type that the elements are written in; they are compared as the operand's.
        element: DataType,
    },
    Case {
        branches: Vec<(Expr, Expr)>,
        otherwise: Box<Expr>,
        data_type: DataType,
    },
    Coalesce(Vec<Expr>, DataType),
    Cast {
        operand: Box<Expr>,
        to: DataType,
        /// Assignment refuses what would be cut off; an explicit cast cuts.
        explicit: bool,
    },
    Subquery(Box<Subquery>),
}

impl Expr {
    pub(crate) fn data_type(&self) -> DataType {
        match self {
            Expr::Column { data_type, .. }
            | Expr::Constant(_, data_type)
            | Expr::Parameter(_, data_type)
            | Expr::Call {
                returns: data_type, ..
            }
            | Expr::Volatile {
                returns: data_type, ..
            }
            | Expr::Case { data_type, .. }
            | Expr::Coalesce(_, data_type)
            | Expr::Cast { to: data_type, .. } => *data_type,
            Expr::Unknown(_) => DataType::Text(None),
            Expr::Compare(..)
            | Expr::Same(..)
            | Expr::And(_)
            | Expr::Or(_)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::InList(..)
            | Expr::InSet(..)
            | Expr::InArray { .. } => DataType::Bool,
            Expr::Subquery(subquery) => subquery.data_type(),
        }
    }

    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Expr::Unknown(_))
    }

    pub(crate) fn column(id: ColumnId, data_type: DataType) -> Expr {
        Expr::Column {
            id,
            data_type,
            outer: false,
        }
    }

    pub(crate) fn bool(value: bool) -> Expr {
        Expr::Constant(Value::Bool(value), DataType::Bool)
    }

    pub(crate) fn negate(self) -> Expr {
        match self {
            Expr::Not(inner) => *inner,
            other => Expr::Not(Box::new(other)),
        }
    }

    /// `AND` of the terms; true when there are none.
    pub(crate) fn all(mut terms: Vec<Expr>) -> Expr {
        match terms.len() {
            0 => Expr::bool(true),
            1 => terms.remove(0),
            _ => Expr::And(terms),
        }
    }

    /// The terms of a conjunction.
    pub(crate) fn conjuncts(self) -> Vec<Expr> {
        match self {
            Expr::And(terms) => terms.into_iter().flat_map(Expr::conjuncts).collect(),
            Expr::Constant(Value::Bool(true), _) => Vec::new(),
            other => vec![other],
        }
    }

    pub(crate) fn constant(&self) -> Option<&Value> {
        match self {
            Expr::Constant(value, _) => Some(value),
            _ => None,
        }
    }

    /// Operands, in order; a subquery's own plan is not entered, its left operand is.
    pub(crate) fn children(&self) -> Vec<&Expr> {
        match self {
            Expr::Column { .. }
            | Expr::Constant(..)
            | Expr::Parameter(..)
            | Expr::Unknown(_)
            | Expr::Volatile { .. } => Vec::new(),
            Expr::Call { arguments, .. } => arguments.iter().collect(),
            Expr::Compare(_, l, r) | Expr::Same(l, r) => vec![l, r],
            Expr::InArray { operand, array, .. } => vec![operand, array],
            Expr::And(terms) | Expr::Or(terms) | Expr::Coalesce(terms, _) => terms.iter().collect(),
            Expr::Not(e) | Expr::IsNull(e) | Expr::InSet(e, _) | Expr::Cast { operand: e, .. } => {
                vec![e]
            }
            Expr::InList(e, list) => std::iter::once(&**e).chain(list).collect(),
            Expr::Case {
                branches,
                otherwise,
                ..
            } => branches
                .iter()
                .flat_map(|(c, r)| [c, r])
                .chain([&**otherwise])
                .collect(),
            Expr::Subquery(s) => s.operand.iter().collect(),
        }
    }

    fn children_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            Expr::Column { .. }
            | Expr::Constant(..)
            | Expr::Parameter(..)
            | Expr::Unknown(_)
            | Expr::Volatile { .. } => Vec::new(),
            Expr::Call { arguments, .. } => arguments.iter_mut().collect(),
            Expr::Compare(_, l, r) | Expr::Same(l, r) => vec![l, r],
            Expr::InArray { operand, array, .. } => vec![operand, array],
            Expr::And(terms) | Expr::Or(terms) | Expr::Coalesce(terms, _) => {
                terms.iter_mut().collect()
            }
            Expr::Not(e) | Expr::IsNull(e) | Expr::InSet(e, _) | Expr::Cast { operand: e, .. } => {
                vec![e]
            }
            Expr::InList(e, list) => std::iter::once(&mut **e).chain(list).collect(),
            Expr::Case {
                branches,
                otherwise,
                ..
            } => branches
                .iter_mut()
                .flat_map(|(c, r)| [c, r])
                .chain([&mut **otherwise])
                .collect(),
            Expr::Subquery(s) => s.operand.iter_mut().collect(),
        }
    }

    /// Rewrites the operands.
    pub(crate) fn map_children<E>(
        mut self,
        f: &mut dyn FnMut(Expr) -> Result<Expr, E>,
    ) -> Result<Expr, E> {
        for child in self.children_mut() {
            let taken = std::mem::replace(child, Expr::bool(true));
            *child = f(taken)?;
        }
        Ok(self)
    }

    /// Rewrites bottom up.
    pub(crate) fn transform<E>(
        mut self,
        f: &mut dyn FnMut(Expr) -> Result<Expr, E>,
    ) -> Result<Expr, E> {
        for child in self.children_mut() {
            let taken = std::mem::replace(child, Expr::bool(true));
            *child = taken.transform(f)?;
        }
        f(self)
    }

    /// Replaces the topmost parts for which `f` gives something.
    pub(crate) fn replace(mut self, f: &dyn Fn(&Expr) -> Option<Expr>) -> Expr {
        if let Some(other) = f(&self) {
            return other;
        }
        for child in self.children_mut() {
            let taken = std::mem::replace(child, Expr::bool(true));
            *child = taken.replace(f);
        }
        self
    }

    /// Visits every node, top down.
    pub(crate) fn visit(&self, f: &mut dyn FnMut(&Expr)) {
        f(self);
        for child in self.children() {
            child.visit(f);
        }
    }

    pub(crate) fn any(&self, mut test: impl FnMut(&Expr) -> bool) -> bool {
        let mut found = false;
        self.visit(&mut |e| found |= test(e));
        found
    }

    /// Whether it computes the same as another expression, as far as their forms tell: what is
    /// rare is compared as it prints, which for a vector would cost more than ranking by it.
    pub(crate) fn is_alike(&self, other: &Expr) -> bool {
        match (self, other) {
            (
                Expr::Column { id, outer, .. },
                Expr::Column {
                    id: other_id,
                    outer: other_outer,
                    ..
                },
            ) => id == other_id && outer == other_outer,
            (Expr::Constant(value, data_type), Expr::Constant(other, other_type)) => {
                data_type == other_type && value == other
            }
            (
                Expr::Call {
                    function,
                    arguments,
                    returns,
                },
                Expr::Call {
                    function: other_function,
                    arguments: others,
                    returns: other_returns,
                },
            ) => {
                function.name == other_function.name
                    && returns == other_returns
                    && arguments.len() == others.len()
                    && arguments.iter().zip(others).all(|(a, b)| a.is_alike(b))
            }
            (
                Expr::Cast {
                    operand,
                    to,
                    explicit,
                },
                Expr::Cast {
                    operand: other,
                    to: other_to,
                    explicit: other_explicit,
                },
            ) => to == other_to && explicit == other_explicit && operand.is_alike(other),
            _ => {
                std::mem::discriminant(self) == std::mem::discriminant(other)
                    && format!("{self:?}") == format!("{other:?}")
            }
        }
    }

    /// Columns it reads, each once, in the order of their first use.
    pub(crate) fn columns(&self) -> Vec<(ColumnId, DataType)> {
        let mut seen = Vec::new();
        self.visit(&mut |e| {
            if let Expr::Column { id, data_type, .. } = e
                && !seen.iter().any(|(s, _)| s == id)
            {
                seen.push((*id, *data_type));
            }
        });
        seen
    }

    pub(crate) fn has_subquery(&self) -> bool {
        self.any(|e| matches!(e, Expr::Subquery(_)))
    }

    /// No column, parameter, subquery or volatile call in it.
    pub(crate) fn is_constant(&self) -> bool {
        !self.any(|e| {
            matches!(
                e,
                Expr::Column { .. }
                    | Expr::Parameter(..)
                    | Expr::Unknown(_)
                    | Expr::Volatile { .. }
                    | Expr::Subquery(_)
            )
        })
    }
}

/// Prints SQL, close to what was written; two expressions that print alike are alike.
impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(f, &|id| format!("{id:?}"))
    }
}

impl Expr {
    /// As SQL text, with columns named by `name`.
    pub(crate) fn display(&self, name: &dyn Fn(ColumnId) -> String) -> String {
        struct Shown<'a>(&'a Expr, &'a dyn Fn(ColumnId) -> String);
        impl fmt::Display for Shown<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.show(f, self.1)
            }
        }
        Shown(self, name).to_string()
    }

    fn show(&self, f: &mut fmt::Formatter<'_>, name: &dyn Fn(ColumnId) -> String) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: &[Expr], between: &str| {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    f.write_str(between)?;
                }
                item.show(f, name)?;
            }
            Ok(())
        };
        match self {
            Expr::Column { id, .. } => f.write_str(&name(*id)),
            Expr::Constant(value, data_type) => show_constant(f, value, data_type),
            Expr::Parameter(i, _) | Expr::Unknown(Unknown::Parameter(i)) => {
                write!(f, "${}", i + 1)
            }
            Expr::Unknown(Unknown::Null) => f.write_str("NULL"),
            Expr::Unknown(Unknown::Text(text, _)) => write!(f, "'{}'", text.replace('\'', "''")),
            Expr::Call {
                function,
                arguments,
                ..
            } => {
                if function.is_operator() {
                    f.write_str("(")?;
                    if let [operand] = &arguments[..] {
                        f.write_str(function.name)?;
                        operand.show(f, name)?;
                    } else {
                        list(f, arguments, &format!(" {} ", function.name))?;
                    }
                } else {
                    write!(f, "{}(", function.name)?;
                    list(f, arguments, ", ")?;
                }
                f.write_str(")")
            }
            Expr::Volatile { function, .. } => write!(f, "{}()", function.name),
            Expr::Compare(op, l, r) => {
                f.write_str("(")?;
                l.show(f, name)?;
                write!(f, " {} ", op.symbol())?;
                r.show(f, name)?;
                f.write_str(")")
            }
            Expr::Same(l, r) => {
                f.write_str("(")?;
                l.show(f, name)?;
                f.write_str(" IS NOT DISTINCT FROM ")?;
                r.show(f, name)?;
                f.write_str(")")
            }
            Expr::And(terms) | Expr::Or(terms) => {
                f.write_str("(")?;
                let word = if matches!(self, Expr::And(_)) {
                    " AND "
                } else {
                    " OR "
                };
                list(f, terms, word)?;
                f.write_str(")")
            }
            Expr::Not(e) => {
                f.write_str("(NOT ")?;
                e.show(f, name)?;
                f.write_str(")")
            }
            Expr::IsNull(e) => {
                f.write_str("(")?;
                e.show(f, name)?;
                f.write_str(" IS NULL)")
            }
            Expr::InList(e, items) => {
                f.write_str("(")?;
                e.show(f, name)?;
                f.write_str(" IN (")?;
                list(f, items, ", ")?;
                f.write_str("))")
            }
            Expr::InSet(e, set) => {
                f.write_str("(")?;
                e.show(f, name)?;
                write!(f, " IN ({set:?}))")
            }
            Expr::InArray {
                operand,
                array,
                element,
            } => {
                f.write_str("(")?;
                operand.show(f, name)?;
                f.write_str(" = ANY (")?;
                array.show(f, name)?;
                write!(f, "::{}[]))", element.name())
            }
            Expr::Case {
                branches,
                otherwise,
                ..
            } => {
                f.write_str("CASE")?;
                for (condition, result) in branches {
                    f.write_str(" WHEN ")?;
                    condition.show(f, name)?;
                    f.write_str(" THEN ")?;
                    result.show(f, name)?;
                }
                f.write_str(" ELSE ")?;
                otherwise.show(f, name)?;
                f.write_str(" END")
            }
            Expr::Coalesce(items, _) => {
                f.write_str("COALESCE(")?;
                list(f, items, ", ")?;
                f.write_str(")")
            }
            Expr::Cast { operand, to, .. } => {
                operand.show(f, name)?;
                write!(f, "::{}", to.name())
            }
            Expr::Subquery(s) => write!(f, "{s:?}"),
        }
    }
}

fn show_constant(f: &mut fmt::Formatter<'_>, value: &Value, data_type: &DataType) -> fmt::Result {
    if value.is_null() {
        return write!(f, "NULL::{}", data_type.name());
    }
    let mut text = String::new();
    nodedb_types::text::format(value, &mut text);
    match data_type {
        DataType::Int2 | DataType::Int4 | DataType::Int8 | DataType::Bool => f.write_str(&text),
        _ => write!(f, "'{}'::{}", text.replace('\'', "''"), data_type.name()),
    }
}
