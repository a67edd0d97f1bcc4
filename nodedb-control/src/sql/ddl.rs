//! `CREATE` and `DROP`: from the parsed statement to what the catalog is asked to do.
//!
//! Everything of PostgreSQL's grammar that is not supported is refused by name (Q1), wherever it
//! stands in the statement.

use std::collections::BTreeSet;

use nodedb_bridge::op;
use nodedb_types::limits::{COLUMNS_MAX, NAME_BYTES_MAX, VECTOR_DIMENSIONS_MAX};
use nodedb_types::schema::IndexState;
use nodedb_types::{
    Collection, CollectionId, Column, DataType, Engine, Failure, Index, IndexId, Result,
    SchemaVersion, SqlState, geo,
};
use sqlparser::ast::{BinaryOperator, DataType as SqlType, ExactNumberInfo, TimezoneInfo};
use sqlparser::ast::{
    ColumnOption, CreateIndex, CreateTable, CreateTableOptions, Expr, Ident, IndexType, ObjectName,
    ObjectNamePart, SqlOption, TableConstraint, Value as SqlValue,
};

use crate::catalog::Snapshot;

/// A name as PostgreSQL folds it: lower case unless quoted; too long is refused, not cut.
pub fn fold(ident: &Ident) -> Result<String> {
    let name = match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    };
    if name.is_empty() {
        return Err(Failure::new(
            SqlState::SyntaxError,
            "zero-length delimited identifier",
        ));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Failure::new(
            SqlState::ProgramLimitExceeded,
            format!("the name \"{name}\" is longer than {NAME_BYTES_MAX} bytes"),
        ));
    }
    Ok(name)
}

/// A relation's name; only the schema `public` holds user collections.
pub fn relation(name: &ObjectName) -> Result<String> {
    let parts = name
        .0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => fold(ident),
            ObjectNamePart::Function(_) => Err(Failure::unsupported("a function as a name")),
        })
        .collect::<Result<Vec<_>>>()?;
    match &parts[..] {
        [name] => Ok(name.clone()),
        [schema, name] if schema == "public" => Ok(name.clone()),
        [database, schema, name] if database == "nodedb" && schema == "public" => Ok(name.clone()),
        [schema, _] => match schema.as_str() {
            "pg_catalog" | "information_schema" | "sys" => Err(Failure::new(
                SqlState::InsufficientPrivilege,
                format!("schema \"{schema}\" belongs to the system"),
            )),
            _ => Err(Failure::unsupported(format!("the schema \"{schema}\""))),
        },
        _ => Err(Failure::unsupported("a name in another database")),
    }
}

fn refuse(present: bool, what: &str) -> Result<()> {
    match present {
        true => Err(Failure::unsupported(what)),
        false => Ok(()),
    }
}

/// A `CREATE TABLE` or `CREATE COLLECTION`; the id is still to be drawn.
pub fn collection(create: &CreateTable) -> Result<Collection> {
    refuse_table_clauses(create)?;
    let name = relation(&create.name)?;
    engine(&create.table_options)?;
    let mut columns = Vec::with_capacity(create.columns.len());
    let mut key = None;
    let mut seen = BTreeSet::new();
    for definition in &create.columns {
        let column_name = fold(&definition.name)?;
        if !seen.insert(column_name.clone()) {
            return Err(Failure::new(
                SqlState::DuplicateColumn,
                format!("column \"{column_name}\" specified more than once"),
            ));
        }
        let mut column = Column {
            data_type: data_type(&definition.data_type)?,
            name: column_name,
            not_null: false,
        };
        for option in &definition.options {
            if column_option(&option.option, &mut column)? {
                set_key(&mut key, columns.len(), &name)?;
            }
        }
        columns.push(column);
    }
    for constraint in &create.constraints {
        let position = table_constraint(constraint, &columns)?;
        set_key(&mut key, position, &name)?;
    }
    if columns.is_empty() {
        return Err(Failure::unsupported("a collection without columns"));
    }
    if columns.len() > COLUMNS_MAX {
        return Err(Failure::new(
            SqlState::TooManyColumns,
            format!("tables can have at most {COLUMNS_MAX} columns"),
        ));
    }
    if let Some(key) = key {
        let column = &mut columns[key];
        column.not_null = true;
        if !nodedb_types::key::is_key_type(&column.data_type) {
            return Err(Failure::unsupported(format!(
                "a primary key of type {}",
                column.data_type.name()
            )));
        }
    }
    Ok(Collection {
        id: CollectionId(0),
        name,
        engine: Engine::DocumentStrict,
        version: SchemaVersion(1),
        columns,
        key,
    })
}

fn set_key(key: &mut Option<usize>, column: usize, table: &str) -> Result<()> {
    match key.replace(column) {
        None => Ok(()),
        Some(_) => Err(Failure::new(
            SqlState::InvalidTableDefinition,
            format!("multiple primary keys for table \"{table}\" are not allowed"),
        )),
    }
}

fn refuse_table_clauses(create: &CreateTable) -> Result<()> {
    let clauses = [
        (create.or_replace, "CREATE OR REPLACE TABLE"),
        (create.temporary, "a temporary table"),
        (create.external, "an external table"),
        (create.dynamic, "a dynamic table"),
        (create.global.is_some(), "GLOBAL or LOCAL"),
        (create.transient, "a transient table"),
        (create.volatile, "a volatile table"),
        (create.iceberg, "an Iceberg table"),
        (create.query.is_some(), "CREATE TABLE AS"),
        (create.like.is_some(), "LIKE in CREATE TABLE"),
        (create.clone.is_some(), "CLONE"),
        (create.without_rowid, "WITHOUT ROWID"),
        (create.on_commit.is_some(), "ON COMMIT"),
        (create.on_cluster.is_some(), "ON CLUSTER"),
        (
            create.primary_key.is_some(),
            "PRIMARY KEY after the columns",
        ),
        (create.order_by.is_some(), "ORDER BY in CREATE TABLE"),
        (create.partition_by.is_some(), "PARTITION BY"),
        (create.cluster_by.is_some(), "CLUSTER BY"),
        (create.clustered_by.is_some(), "CLUSTERED BY"),
        (create.inherits.is_some(), "INHERITS"),
        (create.partition_of.is_some(), "PARTITION OF"),
        (create.for_values.is_some(), "FOR VALUES"),
        (create.strict, "STRICT"),
        (create.comment.is_some(), "COMMENT in CREATE TABLE"),
        (create.file_format.is_some(), "STORED AS"),
        (create.location.is_some(), "LOCATION"),
    ];
    clauses
        .into_iter()
        .try_for_each(|(present, what)| refuse(present, what))
}

/// The `WITH` list of a collection: its engine and nothing else.
fn engine(options: &CreateTableOptions) -> Result<()> {
    let options = match options {
        CreateTableOptions::None => return Ok(()),
        CreateTableOptions::With(options) => options,
        CreateTableOptions::Options(_)
        | CreateTableOptions::Plain(_)
        | CreateTableOptions::TableProperties(_) => {
            return Err(Failure::unsupported("options outside WITH"));
        }
    };
    for (name, value) in key_values(options)? {
        match (name.as_str(), value.to_lowercase().as_str()) {
            ("engine", "document_strict") => {}
            ("engine", other) => {
                return Err(Failure::unsupported(format!("the engine \"{other}\""))
                    .with_hint("the engine of this release is document_strict"));
            }
            _ => {
                return Err(Failure::new(
                    SqlState::InvalidParameterValue,
                    format!("unrecognized parameter \"{name}\""),
                )
                .with_hint("a collection has the parameter engine"));
            }
        }
    }
    Ok(())
}

/// `name = value` pairs, names folded, values as text.
pub fn key_values(options: &[SqlOption]) -> Result<Vec<(String, String)>> {
    options
        .iter()
        .map(|option| match option {
            SqlOption::KeyValue { key, value } => Ok((fold(key)?, constant(value)?)),
            SqlOption::Ident(name) => Ok((fold(name)?, "true".to_owned())),
            _ => Err(Failure::unsupported("this form of an option")),
        })
        .collect()
}

/// An option's value: a literal or a bare word.
pub fn constant(value: &Expr) -> Result<String> {
    match value {
        Expr::Value(value) => match &value.value {
            SqlValue::SingleQuotedString(text)
            | SqlValue::EscapedStringLiteral(text)
            | SqlValue::DoubleQuotedString(text) => Ok(text.clone()),
            SqlValue::Number(number, _) => Ok(number.clone()),
            SqlValue::Boolean(value) => Ok(value.to_string()),
            _ => Err(bad_option(value)),
        },
        Expr::Identifier(ident) => Ok(ident.value.clone()),
        _ => Err(bad_option(value)),
    }
}

fn bad_option(value: impl std::fmt::Display) -> Failure {
    Failure::new(
        SqlState::InvalidParameterValue,
        format!("{value} is no value for an option"),
    )
}

/// Applies a column's option; true when it makes the column the primary key.
fn column_option(option: &ColumnOption, column: &mut Column) -> Result<bool> {
    let refused = match option {
        ColumnOption::Null => return Ok(false),
        ColumnOption::NotNull => {
            column.not_null = true;
            return Ok(false);
        }
        ColumnOption::PrimaryKey(_) => return Ok(true),
        ColumnOption::Default(_) => "DEFAULT",
        ColumnOption::Unique(_) => "UNIQUE",
        ColumnOption::ForeignKey(_) => "REFERENCES",
        ColumnOption::Check(_) => "CHECK",
        ColumnOption::Generated { .. } => "a generated column",
        ColumnOption::Identity(_) => "an identity column",
        ColumnOption::Collation(_) => "COLLATE",
        ColumnOption::Comment(_) => "COMMENT in CREATE TABLE",
        ColumnOption::OnUpdate(_) => "ON UPDATE",
        ColumnOption::CharacterSet(_) => "CHARACTER SET",
        _ => "this column option",
    };
    Err(Failure::unsupported(refused))
}

/// The key's position; every other constraint is refused.
fn table_constraint(constraint: &TableConstraint, columns: &[Column]) -> Result<usize> {
    let key = match constraint {
        TableConstraint::PrimaryKey(key) => key,
        TableConstraint::Unique(_) => return Err(Failure::unsupported("UNIQUE")),
        TableConstraint::ForeignKey(_) => return Err(Failure::unsupported("FOREIGN KEY")),
        TableConstraint::Check(_) => return Err(Failure::unsupported("CHECK")),
        _ => return Err(Failure::unsupported("this table constraint")),
    };
    let [column] = &key.columns[..] else {
        return Err(Failure::unsupported("a primary key of several columns"));
    };
    let Expr::Identifier(ident) = &column.column.expr else {
        return Err(Failure::unsupported("a primary key over an expression"));
    };
    let name = fold(ident)?;
    columns.iter().position(|c| c.name == name).ok_or_else(|| {
        Failure::new(
            SqlState::UndefinedColumn,
            format!("column \"{name}\" named in key does not exist"),
        )
    })
}

/// A column's type.
pub fn data_type(written: &SqlType) -> Result<DataType> {
    let data_type = match written {
        SqlType::Bool | SqlType::Boolean => DataType::Bool,
        SqlType::SmallInt(None) | SqlType::Int2(None) => DataType::Int2,
        SqlType::Int(None) | SqlType::Integer(None) | SqlType::Int4(None) => DataType::Int4,
        SqlType::BigInt(None) | SqlType::Int8(None) => DataType::Int8,
        SqlType::Real | SqlType::Float4 => DataType::Float4,
        SqlType::Float8 | SqlType::DoublePrecision | SqlType::Float(ExactNumberInfo::None) => {
            DataType::Float8
        }
        SqlType::Double(ExactNumberInfo::None) => DataType::Float8,
        SqlType::Float(ExactNumberInfo::Precision(1..=24)) => DataType::Float4,
        SqlType::Float(ExactNumberInfo::Precision(25..=53)) => DataType::Float8,
        SqlType::Numeric(info) | SqlType::Decimal(info) | SqlType::Dec(info) => {
            DataType::Numeric(nodedb_query::numeric_digits(info)?)
        }
        SqlType::Text => DataType::Text(None),
        SqlType::Varchar(length)
        | SqlType::CharVarying(length)
        | SqlType::CharacterVarying(length) => match length {
            None => DataType::Text(None),
            Some(sqlparser::ast::CharacterLength::IntegerLength { length, unit: None }) => {
                DataType::Text(Some(varchar(*length)?))
            }
            Some(_) => return Err(unknown_type(written)),
        },
        SqlType::Bytea => DataType::Bytea,
        SqlType::Uuid => DataType::Uuid,
        SqlType::Date => DataType::Date,
        SqlType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            DataType::Timestamp
        }
        SqlType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            DataType::TimestampTz
        }
        SqlType::Interval {
            fields: None,
            precision: None,
        } => DataType::Interval,
        SqlType::JSONB => DataType::Jsonb,
        SqlType::Custom(name, modifiers) => custom(name, modifiers)?,
        _ => return Err(unsupported_type(written)),
    };
    Ok(data_type)
}

fn unsupported_type(written: &SqlType) -> Failure {
    let failure = Failure::unsupported(format!("the type {}", written.to_string().to_lowercase()));
    match written {
        SqlType::JSON => failure.with_hint("Use jsonb."),
        SqlType::Char(_) | SqlType::Character(_) => failure.with_hint("Use text or varchar."),
        _ => failure,
    }
}

fn unknown_type(written: &impl std::fmt::Display) -> Failure {
    Failure::new(
        SqlState::UndefinedObject,
        format!(
            "type \"{}\" does not exist",
            written.to_string().to_lowercase()
        ),
    )
}

fn varchar(length: u64) -> Result<u32> {
    match length {
        1..=10_485_760 => Ok(length as u32),
        _ => Err(Failure::new(
            SqlState::InvalidParameterValue,
            "length for type varchar must be between 1 and 10485760",
        )),
    }
}

/// Types that the parser knows no word for.
fn custom(name: &ObjectName, modifiers: &[String]) -> Result<DataType> {
    let parts: Vec<String> = name
        .0
        .iter()
        .map(|p| p.to_string().to_lowercase())
        .collect();
    let bare = match &parts[..] {
        [name] => name.as_str(),
        [schema, name] if schema == "pg_catalog" || schema == "public" => name.as_str(),
        _ => return Err(unknown_type(name)),
    };
    match bare {
        "vector" => vector(modifiers),
        "geometry" => geometry(modifiers, false),
        "geography" => geometry(modifiers, true),
        "serial" | "bigserial" | "smallserial" => {
            Err(Failure::unsupported(format!("the type {bare}"))
                .with_hint("give the key yourself, or leave the primary key out"))
        }
        _ => match DataType::from_spelling(bare) {
            Some(data_type) if modifiers.is_empty() => Ok(data_type),
            _ => Err(unknown_type(name)),
        },
    }
}

fn vector(modifiers: &[String]) -> Result<DataType> {
    let [dimensions] = modifiers else {
        return Err(
            Failure::unsupported("a vector column without dimensions").with_hint("write VECTOR(n)")
        );
    };
    let invalid = |message: String| Failure::new(SqlState::InvalidParameterValue, message);
    let dimensions: i64 = dimensions
        .parse()
        .map_err(|_| invalid("invalid type modifier".to_owned()))?;
    if dimensions < 1 {
        return Err(invalid(
            "dimensions for type vector must be at least 1".to_owned(),
        ));
    }
    if dimensions > VECTOR_DIMENSIONS_MAX as i64 {
        return Err(invalid(format!(
            "dimensions for type vector cannot exceed {VECTOR_DIMENSIONS_MAX}"
        )));
    }
    Ok(DataType::Vector(Some(dimensions as u16)))
}

/// `GEOMETRY(subtype[, srid])`; the SRID must be the one that the type has anyway.
fn geometry(modifiers: &[String], geography: bool) -> Result<DataType> {
    let kind = match modifiers.first() {
        None => None,
        Some(word) => match geo::Kind::from_name(word) {
            Some(kind) => Some(kind),
            None if word.eq_ignore_ascii_case("geometry") => None,
            None => {
                return Err(Failure::new(
                    SqlState::InvalidParameterValue,
                    format!("Invalid geometry type modifier: {word}"),
                ));
            }
        },
    };
    match modifiers.get(1).map(|srid| srid.trim()) {
        None => {}
        Some("4326") if geography => {}
        Some("0") if !geography => {}
        Some(srid) => return Err(Failure::unsupported(format!("a column of SRID {srid}"))),
    }
    Ok(match geography {
        true => DataType::Geography(kind),
        false => DataType::Geometry(kind),
    })
}

/// A `CREATE INDEX`, checked by its engine's contract; the id is still to be drawn.
pub fn index(create: &CreateIndex, catalog: &Snapshot) -> Result<Index> {
    refuse(create.unique, "CREATE UNIQUE INDEX")?;
    refuse(!create.include.is_empty(), "INCLUDE")?;
    refuse(create.nulls_distinct.is_some(), "NULLS [NOT] DISTINCT")?;
    refuse(create.predicate.is_some(), "a partial index")?;
    refuse(!create.alter_options.is_empty(), "ALGORITHM and LOCK")?;
    refuse(!create.index_options.is_empty(), "this index option")?;
    // CONCURRENTLY asks that writes go on meanwhile, which they always do.
    let collection = catalog.require(&relation(&create.table_name)?)?;
    let method = match &create.using {
        None => "btree".to_owned(),
        Some(IndexType::Custom(name)) => fold(name)?,
        Some(other) => other.to_string().to_lowercase(),
    };
    let contract = op::contract(&method).ok_or_else(|| {
        let failure = Failure::new(
            SqlState::UndefinedObject,
            format!("access method \"{method}\" does not exist"),
        );
        let known: Vec<_> = op::CONTRACTS.iter().map(|c| c.method).collect();
        failure.with_hint(format!("methods are {}", known.join(", ")))
    })?;
    let (columns, operator_class) = index_columns(create, collection)?;
    let options = create
        .with
        .iter()
        .map(index_option)
        .collect::<Result<Vec<_>>>()?;
    let name = match &create.name {
        Some(name) => relation(name)?,
        None => free_name(collection, &columns, catalog),
    };
    let mut index = Index {
        id: IndexId(0),
        name,
        collection: collection.id,
        method: contract.method.to_owned(),
        columns,
        operator_class,
        options,
        state: IndexState::WriteOnly,
    };
    index.options = (contract.check_index)(collection, &index)?;
    Ok(index)
}

fn index_columns(
    create: &CreateIndex,
    collection: &Collection,
) -> Result<(Vec<usize>, Option<String>)> {
    let mut columns = Vec::new();
    let mut class = None;
    for column in &create.columns {
        let Expr::Identifier(ident) = &column.column.expr else {
            return Err(Failure::unsupported("an index over an expression"));
        };
        let options = &column.column.options;
        refuse(options.asc == Some(false), "a descending index column")?;
        refuse(options.nulls_first == Some(true), "NULLS FIRST in an index")?;
        let name = fold(ident)?;
        let position = collection.column(&name).ok_or_else(|| {
            Failure::new(
                SqlState::UndefinedColumn,
                format!("column \"{name}\" does not exist"),
            )
        })?;
        if columns.contains(&position) {
            return Err(Failure::new(
                SqlState::DuplicateColumn,
                format!("column \"{name}\" appears twice in the index"),
            ));
        }
        columns.push(position);
        if let Some(given) = &column.operator_class {
            refuse(
                create.columns.len() > 1,
                "operator classes of several columns",
            )?;
            class = Some(relation(given)?);
        }
    }
    Ok((columns, class))
}

fn index_option(option: &Expr) -> Result<(String, String)> {
    match option {
        Expr::BinaryOp {
            left,
            op: BinaryOperator::Eq,
            right,
        } => match &**left {
            Expr::Identifier(name) => Ok((fold(name)?, constant(right)?)),
            other => Err(bad_option(other)),
        },
        other => Err(bad_option(other)),
    }
}

/// `table_column_idx`, with a number when that is taken.
fn free_name(collection: &Collection, columns: &[usize], catalog: &Snapshot) -> String {
    let names: Vec<_> = columns
        .iter()
        .map(|c| collection.columns[*c].name.as_str())
        .collect();
    let mut base = format!("{}_{}", collection.name, names.join("_"));
    while base.len() > NAME_BYTES_MAX - 8 {
        base.pop();
    }
    (0u64..)
        .map(|n| match n {
            0 => format!("{base}_idx"),
            n => format!("{base}_idx{n}"),
        })
        .find(|name| !catalog.has_relation(name))
        .unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use sqlparser::ast::Statement as Ast;

    use super::*;
    use crate::sql::parse::{Statement, parse};

    fn ast(text: &str) -> Ast {
        match parse(text).expect(text).remove(0).statement {
            Statement::Sql(ast) => *ast,
            other => panic!("{other:?}"),
        }
    }

    fn create(text: &str) -> Result<Collection> {
        match ast(text) {
            Ast::CreateTable(create) => collection(&create),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_packages_collection_is_understood() {
        let c = create(
            "CREATE COLLECTION packages (id BIGINT PRIMARY KEY, name TEXT NOT NULL, \
             tenant_id INT, price NUMERIC(10,2), v VARCHAR(5), at TIMESTAMPTZ, \
             location GEOGRAPHY(POINT), area GEOMETRY, embedding VECTOR(384), j JSONB) \
             WITH (engine = 'document_strict')",
        )
        .expect("is supported");
        let types: Vec<_> = c.columns.iter().map(|c| c.data_type.name()).collect();
        assert_eq!(
            types,
            [
                "bigint",
                "text",
                "integer",
                "numeric(10,2)",
                "character varying(5)",
                "timestamp with time zone",
                "geography(Point,4326)",
                "geometry",
                "vector(384)",
                "jsonb"
            ]
        );
        assert_eq!(c.key, Some(0));
        assert!(c.columns[0].not_null && c.columns[1].not_null && !c.columns[2].not_null);
        let key = create("CREATE TABLE t (a int, b text, PRIMARY KEY (b))").expect("one key");
        assert_eq!(key.key, Some(1));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (text, code) in [
            ("CREATE TABLE t (a int DEFAULT 1)", "0A000"),
            ("CREATE TABLE t (a int CHECK (a > 0))", "0A000"),
            ("CREATE TABLE t (a int UNIQUE)", "0A000"),
            ("CREATE TABLE t (a int REFERENCES u (b))", "0A000"),
            ("CREATE TABLE t (a int, b int, PRIMARY KEY (a, b))", "0A000"),
            ("CREATE TABLE t (a int) WITH (engine = 'columnar')", "0A000"),
            ("CREATE TABLE t (a int) WITH (fillfactor = 10)", "22023"),
            ("CREATE TABLE t (a int, A text)", "42701"),
            (
                "CREATE TABLE t (a int PRIMARY KEY, b int PRIMARY KEY)",
                "42P16",
            ),
            ("CREATE TABLE t (a int, PRIMARY KEY (c))", "42703"),
            ("CREATE TABLE t (a vector(0))", "22023"),
            ("CREATE TABLE t (a vector)", "0A000"),
            ("CREATE TABLE t (a serial)", "0A000"),
            ("CREATE TABLE t (a nonsense)", "42704"),
            ("CREATE TABLE t (a vector(3) PRIMARY KEY)", "0A000"),
            ("CREATE TABLE t (a int[])", "0A000"),
            ("CREATE TABLE other.t (a int)", "0A000"),
            ("CREATE TABLE t AS SELECT 1", "0A000"),
            ("CREATE TEMP TABLE t (a int)", "0A000"),
            ("CREATE TABLE t ()", "0A000"),
        ] {
            let failure = create(text).expect_err(text);
            assert_eq!(failure.code().code(), code, "{text}: {failure}");
        }
    }

    #[test]
    fn indexes_are_checked_by_their_contracts() {
        let mut table = create("CREATE TABLE t (a int, v vector(3), s text, p geography(point))")
            .expect("a table");
        table.id = CollectionId(1024);
        let catalog = Snapshot::new(vec![table], Vec::new(), Vec::new());
        let make = |text: &str| match ast(text) {
            Ast::CreateIndex(create) => index(&create, &catalog),
            other => panic!("{other:?}"),
        };
        let plain = make("CREATE INDEX ON t (a)").expect("ordered");
        assert_eq!(
            (plain.name.as_str(), plain.method.as_str()),
            ("t_a_idx", "btree")
        );
        let near = make("CREATE INDEX i ON t USING hnsw (v vector_cosine_ops)").expect("vectors");
        assert_eq!(near.operator_class.as_deref(), Some("vector_cosine_ops"));
        let text = make("CREATE INDEX i ON t USING fulltext (s) WITH (analyzer = 'english')")
            .expect("text");
        assert_eq!(
            text.options,
            [("analyzer".to_owned(), "english".to_owned())]
        );
        make("CREATE INDEX i ON t USING rtree (p)").expect("places");
        for (text, code) in [
            ("CREATE UNIQUE INDEX i ON t (a)", "0A000"),
            ("CREATE INDEX i ON t (a) WHERE a > 1", "0A000"),
            ("CREATE INDEX i ON t (lower(s))", "0A000"),
            ("CREATE INDEX i ON t (b)", "42703"),
            ("CREATE INDEX i ON u (b)", "42P01"),
            ("CREATE INDEX i ON t USING brin (a)", "42704"),
            ("CREATE INDEX i ON t USING hnsw (v) WITH (m = 16)", "0A000"),
            (
                "CREATE INDEX i ON t USING fulltext (s) WITH (x = 1)",
                "22023",
            ),
        ] {
            assert_eq!(make(text).expect_err(text).code().code(), code, "{text}");
        }
    }
}
