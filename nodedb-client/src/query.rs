//! Building set queries: filters from functions, an order, a limit.

use nodedb_types::Value;
use nodedb_types::wire::{Argument, Order, SetQuery, Term};

/// What can stand as a constant in a filter. Every plain Rust value that has one SQL type.
pub trait IntoValue {
    fn into_value(self) -> Value;
}

impl<T: Into<Value>> IntoValue for T {
    fn into_value(self) -> Value {
        self.into()
    }
}

/// A predicate with SQL's three values; rows for which it is true are found.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Term);

impl Filter {
    pub fn and(self, other: Filter) -> Filter {
        Filter(Term::And(vec![self.0, other.0]))
    }

    pub fn or(self, other: Filter) -> Filter {
        Filter(Term::Or(vec![self.0, other.0]))
    }
}

/// True where the operand is false; unknown stays unknown.
pub fn not(filter: Filter) -> Filter {
    Filter(Term::Not(Box::new(filter.0)))
}

/// Any predicate by its lower-case name: the server says which it knows.
pub fn call(name: &str, arguments: Vec<Argument>) -> Filter {
    Filter(Term::Call {
        name: name.to_owned(),
        arguments,
    })
}

fn compare(name: &str, column: &str, values: Vec<Value>) -> Filter {
    let mut arguments = vec![Argument::Column(column.to_owned())];
    arguments.extend(values.into_iter().map(Argument::Value));
    call(name, arguments)
}

pub fn eq(column: &str, value: impl IntoValue) -> Filter {
    compare("=", column, vec![value.into_value()])
}

pub fn ne(column: &str, value: impl IntoValue) -> Filter {
    compare("<>", column, vec![value.into_value()])
}

pub fn lt(column: &str, value: impl IntoValue) -> Filter {
    compare("<", column, vec![value.into_value()])
}

pub fn le(column: &str, value: impl IntoValue) -> Filter {
    compare("<=", column, vec![value.into_value()])
}

pub fn gt(column: &str, value: impl IntoValue) -> Filter {
    compare(">", column, vec![value.into_value()])
}

pub fn ge(column: &str, value: impl IntoValue) -> Filter {
    compare(">=", column, vec![value.into_value()])
}

/// Both bounds belong to the range.
pub fn between(column: &str, low: impl IntoValue, high: impl IntoValue) -> Filter {
    compare("between", column, vec![low.into_value(), high.into_value()])
}

pub fn is_in<V: IntoValue>(column: &str, values: impl IntoIterator<Item = V>) -> Filter {
    compare(
        "in",
        column,
        values.into_iter().map(IntoValue::into_value).collect(),
    )
}

pub fn is_null(column: &str) -> Filter {
    compare("is null", column, Vec::new())
}

/// Full text over the collection's text index: words, `AND OR NOT ( )`, `"phrases"`, `prefix*`.
pub fn text_match(query: &str) -> Filter {
    let query = Argument::Value(Value::Text(query.to_owned()));
    call("text_match", vec![Argument::Collection, query])
}

/// Within `metres` of a place given in degrees.
pub fn st_dwithin(column: &str, longitude: f64, latitude: f64, metres: f64) -> Filter {
    let mut ewkb = vec![1, 1, 0, 0, 0x20, 0xe6, 0x10, 0, 0];
    ewkb.extend_from_slice(&longitude.to_le_bytes());
    ewkb.extend_from_slice(&latitude.to_le_bytes());
    compare(
        "st_dwithin",
        column,
        vec![Value::Geography(ewkb), Value::Float8(metres)],
    )
}

/// A set query under construction.
#[derive(Clone, Debug, PartialEq)]
pub struct Query(SetQuery);

impl Query {
    /// All rows and columns of a collection, in no particular order.
    pub fn over(collection: &str) -> Query {
        Query(SetQuery {
            collection: collection.to_owned(),
            filter: None,
            order: Order::Any,
            limit: None,
            offset: 0,
            columns: Vec::new(),
            score: None,
            count: false,
        })
    }

    /// Keeps rows for which the filter is true; a second filter narrows further.
    pub fn filter(mut self, filter: Filter) -> Query {
        self.0.filter = Some(match self.0.filter.take() {
            None => filter.0,
            Some(before) => Term::And(vec![before, filter.0]),
        });
        self
    }

    /// Nearest rows first by pgvector's operators `<->`, `<=>`, `<#>` or `<+>`; the distance comes
    /// back as a last column named `score`.
    pub fn nearest(mut self, column: &str, operator: &str, to: Vec<f32>, score: &str) -> Query {
        let arguments = vec![
            Argument::Column(column.to_owned()),
            Argument::Value(Value::Vector(to)),
        ];
        self.0.order = Order::Rank {
            name: operator.to_owned(),
            arguments,
        };
        self.0.score = Some(score.to_owned());
        self
    }

    /// Best text matches first by BM25; the score comes back as a last column named `score`.
    pub fn best_match(mut self, text: &str, score: &str) -> Query {
        let arguments = vec![
            Argument::Collection,
            Argument::Value(Value::Text(text.to_owned())),
        ];
        self.0.order = Order::Rank {
            name: "bm25_score".to_owned(),
            arguments,
        };
        self.0.score = Some(score.to_owned());
        self
    }

    /// In the order of the primary key.
    pub fn by_key(mut self, descending: bool) -> Query {
        self.0.order = Order::Key { descending };
        self
    }

    /// In the order of a column that has an ordered index.
    pub fn by_column(mut self, column: &str, descending: bool) -> Query {
        self.0.order = Order::Column {
            name: column.to_owned(),
            descending,
        };
        self
    }

    /// Only these columns.
    pub fn columns<'a>(mut self, columns: impl IntoIterator<Item = &'a str>) -> Query {
        self.0.columns = columns.into_iter().map(str::to_owned).collect();
        self
    }

    pub fn limit(mut self, rows: u64) -> Query {
        self.0.limit = Some(rows);
        self
    }

    pub fn offset(mut self, rows: u64) -> Query {
        self.0.offset = rows;
        self
    }

    pub(crate) fn into_wire(self) -> SetQuery {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_point_on_the_ellipsoid() {
        let Filter(Term::Call { arguments, .. }) = st_dwithin("at", 13.4, 52.5, 10.0) else {
            panic!("not a call");
        };
        let expected = nodedb_types::geo::parse_text("SRID=4326;POINT(13.4 52.5)", true, None);
        assert_eq!(
            arguments[1],
            Argument::Value(Value::Geography(expected.unwrap()))
        );
    }

    #[test]
    fn filters_narrow() {
        let query = Query::over("c")
            .filter(eq("a", 1i32))
            .filter(not(is_null("b")));
        let Some(Term::And(terms)) = query.into_wire().filter else {
            panic!("not an AND")
        };
        assert_eq!(terms.len(), 2);
    }
}
