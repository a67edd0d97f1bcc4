//! Subqueries as expressions: scalar, `EXISTS`, `IN`, and compared with `ANY` or `ALL`.

use super::super::row::row_of;
use super::*;

impl Binder<'_> {
    pub(in crate::bind) fn scalar_subquery(&mut self, query: &ast::Query) -> Result<Expr> {
        let query = self.inner(query)?;
        if query.columns.len() != 1 {
            return Err(Failure::new(
                SqlState::SyntaxError,
                "subquery must return only one column",
            ));
        }
        Ok(subquery(SubqueryKind::Scalar, query, None))
    }

    /// `ARRAY(SELECT …)`: the array's text.
    pub(in crate::bind) fn array_subquery(&mut self, query: &ast::Query) -> Result<Expr> {
        let text = DataType::Text(None);
        let constant = |t: &str| Expr::Constant(Value::Text(t.to_owned()), text);
        let elements = self.aggregated(query, constant(","), true)?;
        // Of no rows there is no text.
        let elements = Expr::Coalesce(vec![elements, constant("")], text);
        let span = sqlparser::tokenizer::Span::empty();
        let open = self.call("||", vec![constant("{"), elements], span)?;
        self.call("||", vec![open, constant("}")], span)
    }

    /// `string_agg` over the only column of a query, in its order.
    pub(in crate::bind) fn aggregated_subquery(
        &mut self,
        query: &ast::Query,
        separator: Expr,
    ) -> Result<Expr> {
        self.aggregated(query, separator, false)
    }

    /// `quoted`: values as elements of an array's text, NULLs too.
    fn aggregated(&mut self, query: &ast::Query, separator: Expr, quoted: bool) -> Result<Expr> {
        let query = self.inner(query)?;
        let [(id, column)] = &query.columns[..] else {
            return Err(Failure::new(
                SqlState::SyntaxError,
                "subquery must return only one column",
            ));
        };
        let text = DataType::Text(None);
        let mut element = self.coerce(Expr::column(*id, column.data_type), text)?;
        if quoted {
            let span = sqlparser::tokenizer::Span::empty();
            element = self.call("array_element_text", vec![element], span)?;
        }
        let result = self.column_id();
        // The order of the query is that of the elements.
        let order = match &query.rel {
            Rel::Sort { keys, .. } => keys.clone(),
            _ => Vec::new(),
        };
        let call = AggregateCall {
            kind: AggregateKind::StringAgg,
            arguments: vec![element, separator],
            distinct: false,
            filter: None,
            order,
            returns: text,
        };
        let column = ResultColumn {
            name: "array_to_string".to_owned(),
            data_type: text,
            shown_as: None,
        };
        let query = Query {
            rel: Rel::Aggregate {
                input: Box::new(query.rel),
                keys: Vec::new(),
                sets: None,
                aggregates: vec![(result, call)],
            },
            columns: vec![(result, column)],
        };
        Ok(subquery(SubqueryKind::Scalar, query, None))
    }

    pub(in crate::bind) fn exists(&mut self, query: &ast::Query) -> Result<Expr> {
        let query = self.inner(query)?;
        Ok(subquery(SubqueryKind::Exists, query, None))
    }

    pub(in crate::bind) fn subquery_compare(
        &mut self,
        left: &ast::Expr,
        query: &ast::Query,
        kind: SubqueryKind,
    ) -> Result<Expr> {
        if let Some(items) = row_of(left) {
            return match kind {
                SubqueryKind::In => self.row_in_subquery(&items, query),
                _ => Err(Failure::unsupported("a row constructor beside a subquery")),
            };
        }
        let span = left.span();
        let operand = self.expr(left)?;
        let mut query = exact(self.inner(query)?);
        let [(id, column)] = &query.columns[..] else {
            return Err(Failure::new(
                SqlState::SyntaxError,
                "subquery has too many columns",
            ));
        };
        let op = match kind {
            SubqueryKind::Any(op) | SubqueryKind::All(op) => op,
            SubqueryKind::Scalar | SubqueryKind::Exists | SubqueryKind::In => {
                crate::expr::CompareOp::Eq
            }
        };
        let inner = Expr::column(*id, column.data_type);
        let (operand, inner) = self
            .alike(op, operand, inner)
            .map_err(|f| self.at(f, span))?;
        let to = inner.data_type();
        self.cast_output(&mut query, &[to])?;
        Ok(subquery(kind, query, Some(operand)))
    }
}

fn subquery(kind: SubqueryKind, query: Query, operand: Option<Expr>) -> Expr {
    let query = exact(query);
    Expr::Subquery(Box::new(Subquery {
        kind,
        columns: query
            .columns
            .iter()
            .map(|(id, c)| (*id, c.data_type))
            .collect(),
        rel: query.rel,
        operand,
    }))
}
