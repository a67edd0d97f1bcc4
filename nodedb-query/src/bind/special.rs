//! Syntax with rules of its own: types, casts, EXTRACT, TRIM, and the functions that are not in the
//! table because they look at more than their arguments' values.

use nodedb_types::geo::Kind;
use nodedb_types::{DataType, Failure, Result, SqlState, Value, limits};
use sqlparser::ast::{self, Spanned};

use super::name::{fold_case, name_parts, schema_and_name};
use super::{Binder, type_of};
use crate::expr::types::{casts_explicitly, common_type};
use crate::expr::{CompareOp, Expr, Unknown};
use crate::function::resolve::undefined;
use crate::function::set::is_set_function;
use crate::function::{absent, overloads};
use crate::rel::Extra;

/// The type that a declaration or cast names.
/// Fails with 42704 for unknown names, 0A000 for types that exist elsewhere.
pub fn data_type(declared: &ast::DataType) -> Result<DataType> {
    use ast::DataType as T;
    Ok(match declared {
        T::Bool | T::Boolean => DataType::Bool,
        T::SmallInt(_) | T::Int2(_) => DataType::Int2,
        T::Int(_) | T::Integer(_) | T::Int4(_) => DataType::Int4,
        T::BigInt(_) | T::Int8(_) => DataType::Int8,
        T::Real | T::Float4 => DataType::Float4,
        T::DoublePrecision | T::Float8 | T::Double(_) => DataType::Float8,
        T::Float(ast::ExactNumberInfo::Precision(bits)) if *bits <= 24 => DataType::Float4,
        T::Float(_) => DataType::Float8,
        T::Numeric(size) | T::Decimal(size) | T::Dec(size) => DataType::Numeric(digits(size)?),
        T::Text => DataType::Text(None),
        T::Varchar(length) | T::CharacterVarying(length) | T::CharVarying(length) => {
            DataType::Text(characters(length.as_ref())?)
        }
        T::Char(_) | T::Character(_) => {
            return Err(
                Failure::unsupported("the type character(n)").with_hint("use text or varchar(n)")
            );
        }
        T::Bytea => DataType::Bytea,
        T::Uuid => DataType::Uuid,
        T::Date => DataType::Date,
        T::Timestamp(_, ast::TimezoneInfo::None | ast::TimezoneInfo::WithoutTimeZone) => {
            DataType::Timestamp
        }
        T::Timestamp(..) => DataType::TimestampTz,
        T::Interval { .. } => DataType::Interval,
        T::JSONB => DataType::Jsonb,
        T::JSON => {
            return Err(Failure::unsupported("the type json").with_hint("use jsonb"));
        }
        T::Time(..) => return Err(Failure::unsupported("the type time")),
        T::Array(_) => return Err(Failure::unsupported("an array type")),
        T::Custom(name, modifiers) => return custom(name, modifiers),
        other => return Err(Failure::unsupported(format!("the type {other}"))),
    })
}

/// Precision and scale of `NUMERIC(p, s)`; `None` where it is unbounded. 22023 for what PostgreSQL
/// refuses, 0A000 for more digits than there are here, and for scales that round left of the point or
/// leave no digit before it.
pub fn digits(size: &ast::ExactNumberInfo) -> Result<Option<(u8, u8)>> {
    let (precision, scale) = match size {
        ast::ExactNumberInfo::None => return Ok(None),
        ast::ExactNumberInfo::Precision(precision) => (*precision, 0),
        ast::ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    let invalid = |message| Err(Failure::new(SqlState::InvalidParameterValue, message));
    match (u8::try_from(precision), u8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) if scale <= precision => Ok(Some((precision, scale))),
        _ if !(1..=1000).contains(&precision) => invalid(format!(
            "NUMERIC precision {precision} must be between 1 and 1000"
        )),
        _ if !(-1000..=1000).contains(&scale) => invalid(format!(
            "NUMERIC scale {scale} must be between -1000 and 1000"
        )),
        _ => Err(
            Failure::unsupported(format!("NUMERIC({precision}, {scale})")).with_hint(
                "a precision from 1 to 38 and a scale from 0 to the precision; to round left of \
                 the point, use round(x, -2)",
            ),
        ),
    }
}

fn characters(length: Option<&ast::CharacterLength>) -> Result<Option<u32>> {
    match length {
        None | Some(ast::CharacterLength::Max) => Ok(None),
        Some(ast::CharacterLength::IntegerLength { length, .. }) => u32::try_from(*length)
            .ok()
            .filter(|n| (1..=10_485_760).contains(n))
            .map(Some)
            .ok_or_else(|| {
                Failure::new(
                    SqlState::InvalidParameterValue,
                    "length for type varchar must be between 1 and 10485760",
                )
            }),
    }
}

fn custom(name: &ast::ObjectName, modifiers: &[String]) -> Result<DataType> {
    let (_, name, _) = schema_and_name(name)?;
    Ok(match (name.as_str(), modifiers) {
        ("vector", []) => DataType::Vector(None),
        ("vector", [n]) => {
            let n: usize = n.parse().map_err(|_| bad_modifier("vector"))?;
            if n == 0 {
                return Err(Failure::new(
                    SqlState::InvalidParameterValue,
                    "dimensions for type vector must be at least 1",
                ));
            }
            match u16::try_from(n) {
                Ok(n) if usize::from(n) <= limits::VECTOR_DIMENSIONS_MAX => {
                    DataType::Vector(Some(n))
                }
                _ => {
                    return Err(Failure::new(
                        SqlState::InvalidParameterValue,
                        format!(
                            "dimensions for type vector cannot exceed {}",
                            limits::VECTOR_DIMENSIONS_MAX
                        ),
                    ));
                }
            }
        }
        ("geometry", modifiers) => DataType::Geometry(shape(modifiers, false)?),
        ("geography", modifiers) => DataType::Geography(shape(modifiers, true)?),
        ("bool", []) => DataType::Bool,
        ("int2", []) => DataType::Int2,
        ("int4", []) => DataType::Int4,
        ("int8" | "oid", []) => DataType::Int8,
        ("float4", []) => DataType::Float4,
        ("float8", []) => DataType::Float8,
        ("text" | "name" | "varchar" | "char", []) => DataType::Text(None),
        ("timestamptz", []) => DataType::TimestampTz,
        ("timestamp", []) => DataType::Timestamp,
        ("jsonb", []) => DataType::Jsonb,
        ("bytea", []) => DataType::Bytea,
        ("uuid", []) => DataType::Uuid,
        ("date", []) => DataType::Date,
        ("numeric", []) => DataType::Numeric(None),
        (
            "serial" | "bigserial" | "smallserial" | "money" | "xml" | "inet" | "cidr" | "macaddr"
            | "point" | "tsvector" | "tsquery" | "hstore" | "citext" | "timetz" | "bit" | "varbit"
            | "bpchar" | "halfvec" | "sparsevec",
            _,
        ) => return Err(Failure::unsupported(format!("the type {name}"))),
        (name, _) => {
            return Err(Failure::new(
                SqlState::UndefinedObject,
                format!("type \"{name}\" does not exist"),
            ));
        }
    })
}

fn bad_modifier(name: &str) -> Failure {
    Failure::new(
        SqlState::InvalidParameterValue,
        format!("invalid type modifier of {name}"),
    )
}

fn shape(modifiers: &[String], geography: bool) -> Result<Option<Kind>> {
    let (kind, srid) = match modifiers {
        [] => return Ok(None),
        [kind] => (kind, None),
        [kind, srid] => (kind, Some(srid)),
        _ => return Err(bad_modifier("geometry")),
    };
    if let Some(srid) = srid {
        let expected = if geography { "4326" } else { "0" };
        if srid != expected {
            return Err(Failure::unsupported(format!("SRID {srid} of a column"))
                .with_hint("GEOGRAPHY is WGS 84 (4326); GEOMETRY columns have no SRID"));
        }
    }
    if kind.eq_ignore_ascii_case("geometry") {
        return Ok(None);
    }
    Kind::from_name(kind).map(Some).ok_or_else(|| {
        Failure::new(
            SqlState::InvalidParameterValue,
            format!("invalid geometry type modifier: {kind}"),
        )
    })
}

impl Binder<'_> {
    pub(super) fn cast(&mut self, e: &ast::Expr, to: &ast::DataType) -> Result<Expr> {
        if let Some(name) = registered(to) {
            return self.registered_cast(e, &name);
        }
        let span = e.span();
        let to = data_type(to)?;
        let bound = self.expr(e)?;
        if let Some(from) = type_of(&bound)
            && !casts_explicitly(from, to)
        {
            let failure = Failure::new(
                SqlState::CannotCoerce,
                format!(
                    "cannot cast type {} to {}",
                    from.plain_name(),
                    to.plain_name()
                ),
            );
            return Err(self.at(failure, span));
        }
        self.convert(bound, to, true)
    }

    pub(super) fn interval(&mut self, interval: &ast::Interval) -> Result<Expr> {
        let text = match &*interval.value {
            ast::Expr::Value(value) => super::expression::string_value(&value.value)?,
            _ => return Err(Failure::unsupported("INTERVAL of an expression")),
        };
        let position = self.position(interval.value.span()).unwrap_or(0);
        let Some(first) = &interval.leading_field else {
            let text = Expr::Unknown(Unknown::Text(text, position));
            return self.convert(text, DataType::Interval, true);
        };
        let last = interval.last_field.as_ref().unwrap_or(first);
        let (first, last) = (
            super::duration::field(first)?,
            super::duration::field(last)?,
        );
        let spelled = super::duration::spelled(&text, first, last)?;
        let value =
            nodedb_types::text::parse(&spelled, &DataType::Interval).map_err(
                |f| match position {
                    0 => f,
                    position => f.at(position),
                },
            )?;
        let Value::Interval(value) = value else {
            return Err(Failure::internal("an interval of another type"));
        };
        let cut = super::duration::cut(value, last);
        Ok(Expr::Constant(Value::Interval(cut), DataType::Interval))
    }

    pub(super) fn extract(&mut self, field: &ast::DateTimeField, e: &ast::Expr) -> Result<Expr> {
        let span = e.span();
        let field = field.to_string().trim_matches('\'').to_lowercase();
        let field = Expr::Constant(Value::Text(field), DataType::Text(None));
        let operand = self.expr(e)?;
        self.call("extract", vec![field, operand], span)
    }

    pub(super) fn substring(
        &mut self,
        e: &ast::Expr,
        from: Option<&ast::Expr>,
        count: Option<&ast::Expr>,
    ) -> Result<Expr> {
        let one = ast::Expr::value(ast::Value::Number("1".to_owned(), false));
        let mut arguments = vec![e, from.unwrap_or(&one)];
        arguments.extend(count);
        self.function_of("substring", &arguments, e.span())
    }

    pub(super) fn trim(
        &mut self,
        side: Option<ast::TrimWhereField>,
        what: Option<&ast::Expr>,
        e: &ast::Expr,
        characters: Option<&[ast::Expr]>,
    ) -> Result<Expr> {
        let name = match side {
            None | Some(ast::TrimWhereField::Both) => "btrim",
            Some(ast::TrimWhereField::Leading) => "ltrim",
            Some(ast::TrimWhereField::Trailing) => "rtrim",
        };
        let mut arguments = vec![e];
        arguments.extend(what);
        arguments.extend(characters.into_iter().flatten());
        self.function_of(name, &arguments, e.span())
    }

    pub(super) fn collate(&mut self, e: &ast::Expr, name: &ast::ObjectName) -> Result<Expr> {
        let (_, collation, _) = schema_and_name(name)?;
        let bound = self.typed(e)?;
        if !matches!(bound.data_type(), DataType::Text(_)) {
            return Err(Failure::new(
                SqlState::DatatypeMismatch,
                format!(
                    "collations are not supported by type {}",
                    bound.data_type().plain_name()
                ),
            ));
        }
        // Text sorts by code point, which is what these say.
        match collation.as_str() {
            "C" | "POSIX" | "default" | "ucs_basic" => Ok(bound),
            other => Err(Failure::unsupported(format!("collation \"{other}\""))),
        }
    }

    /// A call by name.
    pub(super) fn function(&mut self, function: &ast::Function) -> Result<Expr> {
        let span = function.name.span();
        let (schema, name, _) = schema_and_name(&function.name)?;
        if schema
            .as_deref()
            .is_some_and(|s| s != "pg_catalog" && s != "public")
        {
            return Err(self.at(
                Failure::new(
                    SqlState::UndefinedFunction,
                    format!("function {} does not exist", function.name),
                ),
                span,
            ));
        }
        if absent::is_absent(&name) {
            return Err(self.at(Failure::unsupported(format!("{name}()")), span));
        }
        if function.over.is_some() {
            return self.window_call(&name, function);
        }
        if name == "array"
            && let ast::FunctionArguments::Subquery(query) = &function.args
        {
            return self.array_subquery(query);
        }
        if crate::function::set::record(&name).is_some() {
            let failure = Failure::unsupported(format!("{name}() in a select list"))
                .with_hint("call it in FROM");
            return Err(self.at(failure, span));
        }
        if is_set_function(&name) {
            return self.set_call(&name, function);
        }
        if name == "grouping" {
            return self.grouping_call(function);
        }
        if super::aggregate::kind(&name).is_some() {
            return self.aggregate_call(&name, function);
        }
        if super::window::kind(&name).is_some() {
            return Err(self.at(
                Failure::new(
                    SqlState::WrongObjectType,
                    format!("window function {name} requires an OVER clause"),
                ),
                span,
            ));
        }
        if function.filter.is_some() || !function.within_group.is_empty() {
            return Err(Failure::new(
                SqlState::WrongObjectType,
                format!("{name} is not an aggregate function"),
            ));
        }
        let arguments = self.plain_arguments(function)?;
        match (name.as_str(), &arguments[..]) {
            ("coalesce", arguments) => {
                let items = self.exprs(arguments)?;
                let (items, data_type) = self.unified("COALESCE", items)?;
                Ok(Expr::Coalesce(items, data_type))
            }
            ("nullif", [a, b]) => self.nullif(a, b),
            ("greatest" | "least", [_, ..]) => self.extreme(&name, &arguments),
            ("text_match", [relation, query]) => self.index_call("text_match", relation, query),
            ("bm25_score", [relation, query]) => self.index_call("bm25_score", relation, query),
            _ => {
                if let Some(call) = self.catalog_call(&name, &arguments)? {
                    return Ok(call);
                }
                let bound = match self.exprs(&arguments) {
                    // Of an unknown function's argument, such as a relation's name, nothing is
                    // known: it is the function that is wrong.
                    Err(failure)
                        if failure.code() == SqlState::UndefinedColumn
                            && overloads(&name).is_empty()
                            && cast_called(&name).is_none() =>
                    {
                        let types = vec![None; arguments.len()];
                        return Err(self.at(undefined(&name, &types), span));
                    }
                    bound => bound?,
                };
                if overloads(&name).is_empty()
                    && let [_] = bound[..]
                    && let Some(cast) = self.type_call(&name, &bound[0])?
                {
                    return Ok(cast);
                }
                self.call(&name, bound, span)
            }
        }
    }

    /// `float8(x)`: a type's name used as a function is a cast.
    fn type_call(&mut self, name: &str, e: &Expr) -> Result<Option<Expr>> {
        let Some(to) = cast_called(name) else {
            return Ok(None);
        };
        match type_of(e) {
            Some(from) if !casts_explicitly(from, to) => Ok(None),
            _ => self.convert(e.clone(), to, true).map(Some),
        }
    }

    fn exprs(&mut self, list: &[&ast::Expr]) -> Result<Vec<Expr>> {
        list.iter().map(|e| self.expr(e)).collect()
    }

    /// The arguments of a call that allows nothing but expressions.
    pub(super) fn plain_arguments<'f>(
        &self,
        function: &'f ast::Function,
    ) -> Result<Vec<&'f ast::Expr>> {
        let list = match &function.args {
            ast::FunctionArguments::None => return Ok(Vec::new()),
            ast::FunctionArguments::List(list) => list,
            ast::FunctionArguments::Subquery(_) => {
                return Err(Failure::unsupported(
                    "a query as the argument of a function",
                ));
            }
        };
        if list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
            return Err(Failure::new(
                SqlState::WrongObjectType,
                format!(
                    "DISTINCT or ORDER BY specified, but {} is not an aggregate function",
                    function.name
                ),
            ));
        }
        list.args
            .iter()
            .map(|argument| match argument {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => Ok(e),
                _ => Err(Failure::unsupported("named arguments and * here")),
            })
            .collect()
    }

    fn nullif(&mut self, a: &ast::Expr, b: &ast::Expr) -> Result<Expr> {
        let first = self.typed(a)?;
        let second = self.expr(b)?;
        let data_type = first.data_type();
        let equal = self.compare(CompareOp::Eq, first.clone(), second)?;
        Ok(Expr::Case {
            branches: vec![(equal, Expr::Constant(Value::Null, data_type))],
            otherwise: Box::new(first),
            data_type,
        })
    }

    /// `array[n]`, of an array in its text form.
    pub(super) fn subscript(
        &mut self,
        root: &ast::Expr,
        chain: &[ast::AccessExpr],
    ) -> Result<Expr> {
        let [ast::AccessExpr::Subscript(ast::Subscript::Index { index })] = chain else {
            return Err(Failure::unsupported("a field or slice of a value"));
        };
        self.function_of("array_element", &[root, index], root.span())
    }

    /// GREATEST and LEAST: NULL only when every argument is.
    fn extreme(&mut self, name: &str, arguments: &[&ast::Expr]) -> Result<Expr> {
        let items = self.exprs(arguments)?;
        let (items, data_type) = self.unified(&name.to_uppercase(), items)?;
        let op = if name == "greatest" {
            CompareOp::GtEq
        } else {
            CompareOp::LtEq
        };
        let mut items = items.into_iter();
        let first = items
            .next()
            .unwrap_or(Expr::Constant(Value::Null, data_type));
        Ok(items.fold(first, |best, item| Expr::Case {
            branches: vec![
                (Expr::IsNull(Box::new(item.clone())), best.clone()),
                (Expr::IsNull(Box::new(best.clone())), item.clone()),
                (
                    Expr::Compare(op, Box::new(best.clone()), Box::new(item.clone())),
                    best,
                ),
            ],
            otherwise: Box::new(item),
            data_type,
        }))
    }

    /// `text_match` and `bm25_score`: the index of the relation or column that is named answers.
    fn index_call(
        &mut self,
        name: &'static str,
        target: &ast::Expr,
        query: &ast::Expr,
    ) -> Result<Expr> {
        let span = target.span();
        let (relation, column) = self.index_target(target)?;
        let Some(scan) = relation.scan.clone() else {
            return Err(self.at(
                Failure::new(
                    SqlState::WrongObjectType,
                    format!("\"{}\" is not a collection", relation.name),
                ),
                span,
            ));
        };
        let query = self.expr(query)?;
        let query = self.coerce(query, DataType::Text(None))?;
        if query.any(|e| matches!(e, Expr::Column { .. } | Expr::Subquery(_))) {
            return Err(Failure::unsupported(format!(
                "{name} with a query that differs from row to row"
            )));
        }
        let position = column.and_then(|id| scan.position(id));
        let index = scan
            .indexes
            .iter()
            .find(|index| {
                index.method == "fulltext"
                    && position.is_none_or(|column| index.columns == [column])
            })
            .cloned();
        let Some(index) = index else {
            let columns: Vec<&str> = scan
                .collection
                .columns
                .iter()
                .enumerate()
                .filter(|(i, c)| match position {
                    Some(wanted) => wanted == *i,
                    None => matches!(c.data_type, DataType::Text(_)),
                })
                .map(|(_, c)| c.name.as_str())
                .collect();
            let table = &scan.collection.name;
            let failure = Failure::new(
                SqlState::UndefinedObject,
                format!("{name} needs a fulltext index on \"{table}\""),
            )
            .with_hint(format!(
                "CREATE INDEX ON {table} USING fulltext ({})",
                columns.join(", ")
            ));
            return Err(self.at(failure, span));
        };
        let data_type = if name == "bm25_score" {
            DataType::Float8
        } else {
            DataType::Bool
        };
        let shown = format!("{query:?}");
        let known = self.extras.get(&scan.id).and_then(|extras| {
            extras.iter().find(|e| {
                e.name == name && e.index.id == index.id && format!("{:?}", e.query) == shown
            })
        });
        let id = match known {
            Some(extra) => extra.column,
            None => {
                let column = self.column_id();
                self.extras.entry(scan.id).or_default().push(Extra {
                    column,
                    index,
                    name,
                    query,
                    on_column: position,
                });
                column
            }
        };
        let outer = !self.is_local(&relation.name);
        Ok(Expr::Column {
            id,
            data_type,
            outer,
        })
    }

    fn is_local(&self, relation: &str) -> bool {
        self.scopes
            .last()
            .is_some_and(|s| s.relations.iter().any(|r| r.name == relation))
    }

    /// The relation, and the column if one is meant, that an index function names.
    fn index_target(
        &mut self,
        target: &ast::Expr,
    ) -> Result<(super::name::NamedRelation, Option<crate::rel::ColumnId>)> {
        if let ast::Expr::Identifier(ident) = target
            && let Some(relation) = self.relation_in_scope(&fold_case(ident))
        {
            return Ok((relation.clone(), None));
        }
        let span = target.span();
        let Expr::Column { id, .. } = self.expr(target)? else {
            return Err(self.at(
                Failure::new(
                    SqlState::WrongObjectType,
                    "the first argument names a relation or one of its columns",
                ),
                span,
            ));
        };
        let owner = self
            .scopes
            .iter()
            .rev()
            .flat_map(|s| &s.relations)
            .find(|r| r.columns.iter().any(|c| c.id == id))
            .cloned();
        match owner {
            Some(relation) => Ok((relation, Some(id))),
            None => Err(self.at(
                Failure::new(
                    SqlState::WrongObjectType,
                    "the first argument names a relation or one of its columns",
                ),
                span,
            )),
        }
    }

    /// The common type of result columns in a set operation.
    pub(super) fn set_types(
        &self,
        what: &str,
        left: &[Option<DataType>],
        right: &[Option<DataType>],
    ) -> Result<Vec<DataType>> {
        left.iter()
            .zip(right)
            .map(|(l, r)| common_type(what, [*l, *r]))
            .collect()
    }
}

/// The reg* types and other names of the catalog's own, which are numbers or text here.
fn registered(declared: &ast::DataType) -> Option<String> {
    let name = match declared {
        ast::DataType::Regclass => return Some("regclass".to_owned()),
        ast::DataType::Custom(name, modifiers) if modifiers.is_empty() => {
            fold_case(name_parts(name).ok()?.last()?)
        }
        ast::DataType::Array(ast::ArrayElemTypeDef::SquareBracket(inner, _)) => {
            return match &**inner {
                ast::DataType::Array(_) => None,
                _ => Some("text[]".to_owned()),
            };
        }
        _ => return None,
    };
    matches!(
        name.as_str(),
        "regclass"
            | "regtype"
            | "regproc"
            | "regprocedure"
            | "regnamespace"
            | "regrole"
            | "oid"
            | "cardinal_number"
            | "sql_identifier"
            | "character_data"
            | "yes_or_no"
            | "char"
    )
    .then_some(name)
}

/// The type whose name can be used as a function.
fn cast_called(name: &str) -> Option<DataType> {
    Some(match name {
        "int2" => DataType::Int2,
        "int4" => DataType::Int4,
        "int8" => DataType::Int8,
        "float4" => DataType::Float4,
        "float8" => DataType::Float8,
        "numeric" => DataType::Numeric(None),
        "text" => DataType::Text(None),
        "bool" => DataType::Bool,
        "date" => DataType::Date,
        "timestamptz" => DataType::TimestampTz,
        _ => return None,
    })
}
