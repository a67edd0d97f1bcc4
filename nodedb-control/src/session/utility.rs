//! Statements that are neither queries nor writes: schema changes, settings, jobs, descriptions.

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::RecordBatch;
use nodedb_bridge::request::Op;
use nodedb_query::catalog::{ResultColumn, similar};
use nodedb_types::arrow_map::BatchBuilder;
use nodedb_types::limits::STREAM_RETENTION_BYTES;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use sqlparser::ast::{self, ObjectType, Set};

use super::cancel::Limits;
use super::execution::{Execution, Tag};
use super::plans::Prepared;
use super::settings::Settings;
use super::{Session, stream};
use crate::catalog::change::{self, Outcome};
use crate::catalog::job::JobState;
use crate::catalog::stop::{self, Stop};
use crate::node::Worker;
use crate::runtime;
use crate::sql::ddl;
use crate::sql::parse::{Parsed, Statement};

impl Statement {
    /// Whether it changes anything durable.
    pub fn writes(&self) -> bool {
        match self {
            Statement::Sql(statement) => match &**statement {
                ast::Statement::Insert(_)
                | ast::Statement::Update(_)
                | ast::Statement::Delete(_)
                | ast::Statement::CreateTable(_)
                | ast::Statement::CreateIndex(_)
                | ast::Statement::Drop { .. } => true,
                ast::Statement::Copy { to, .. } => !to,
                ast::Statement::Explain {
                    statement, analyze, ..
                } => *analyze && !matches!(**statement, ast::Statement::Query(_)),
                _ => false,
            },
            Statement::CreateStream { .. } | Statement::DropStream { .. } => true,
            Statement::ReadStream(_)
            | Statement::Check { .. }
            | Statement::ShowJobs
            | Statement::ShowStreams
            | Statement::ShowCollections
            | Statement::Describe { .. } => false,
        }
    }
}

/// Columns of a statement's rows, for a table of this module.
fn columns(list: &[(&str, DataType)]) -> Arc<[ResultColumn]> {
    list.iter()
        .map(|(name, data_type)| ResultColumn {
            name: (*name).to_owned(),
            data_type: *data_type,
            shown_as: None,
        })
        .collect()
}

const TEXT: DataType = DataType::Text(None);

pub(super) fn explain_columns() -> Arc<[ResultColumn]> {
    columns(&[("QUERY PLAN", TEXT)])
}

fn check_columns() -> Arc<[ResultColumn]> {
    columns(&[
        ("shard", DataType::Int4),
        ("index", TEXT),
        ("problem", TEXT),
    ])
}

fn job_columns() -> Arc<[ResultColumn]> {
    columns(&[
        ("id", DataType::Int8),
        ("kind", TEXT),
        ("object", TEXT),
        ("state", TEXT),
        ("done", DataType::Int8),
        ("total", DataType::Int8),
        ("error", TEXT),
    ])
}

fn describe_columns() -> Arc<[ResultColumn]> {
    columns(&[
        ("column", TEXT),
        ("type", TEXT),
        ("nullable", DataType::Bool),
        ("key", DataType::Bool),
        ("indexes", TEXT),
    ])
}

fn collections_columns() -> Arc<[ResultColumn]> {
    columns(&[
        ("name", TEXT),
        ("engine", TEXT),
        ("columns", DataType::Int8),
    ])
}

fn streams_columns() -> Arc<[ResultColumn]> {
    columns(&[
        ("name", TEXT),
        ("collection", TEXT),
        ("retention_bytes", DataType::Int8),
        ("created_ts", DataType::Int8),
    ])
}

fn setting_columns(name: &str) -> Arc<[ResultColumn]> {
    columns(&[(name, TEXT)])
}

fn all_settings_columns() -> Arc<[ResultColumn]> {
    columns(&[("name", TEXT), ("setting", TEXT), ("description", TEXT)])
}

/// Makes rows of values that have the columns' types.
pub(super) fn rows(columns: &[ResultColumn], rows: Vec<Vec<Value>>) -> Result<Vec<RecordBatch>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let types: Vec<_> = columns
        .iter()
        .map(|c| (c.name.clone(), c.data_type))
        .collect();
    let mut builder = BatchBuilder::new(&types);
    for row in rows {
        for (i, value) in row.iter().enumerate() {
            builder.push_value(i, value)?;
        }
        builder.end_row();
    }
    Ok(vec![builder.finish()?])
}

pub(super) fn text(value: impl Into<String>) -> Value {
    Value::Text(value.into())
}

/// What `EXPLAIN` was asked for: whether to run the statement.
pub fn explain_options(statement: &Statement) -> Result<bool> {
    let Statement::Sql(statement) = statement else {
        return Err(Failure::internal("EXPLAIN of another statement"));
    };
    let ast::Statement::Explain {
        analyze,
        verbose: _,
        query_plan,
        estimate,
        format,
        options,
        ..
    } = &**statement
    else {
        return Err(Failure::internal("EXPLAIN of another statement"));
    };
    if *query_plan || *estimate {
        return Err(Failure::unsupported("this form of EXPLAIN"));
    }
    if format.is_some() {
        return Err(Failure::unsupported("EXPLAIN in another format than text"));
    }
    let mut analyze = *analyze;
    for option in options.iter().flatten() {
        let value = option.arg.as_ref().map(ddl::constant).transpose()?;
        let on = match value.as_deref().map(str::to_lowercase).as_deref() {
            None | Some("true" | "on" | "1") => true,
            Some("false" | "off" | "0") => false,
            Some("text") => true,
            Some(other) => {
                return Err(Failure::new(
                    SqlState::InvalidParameterValue,
                    format!("unrecognized value for EXPLAIN option: \"{other}\""),
                ));
            }
        };
        match option.name.value.to_lowercase().as_str() {
            "analyze" => analyze = on,
            // The plan is always shown whole, with costs and times as far as there are any.
            "verbose" | "costs" | "timing" | "summary" | "format" => {}
            other if !on => {
                return Err(Failure::unsupported(format!("the EXPLAIN option {other}")));
            }
            other => return Err(Failure::unsupported(format!("the EXPLAIN option {other}"))),
        }
    }
    Ok(analyze)
}

/// Words of a multi-word setting as PostgreSQL joins them.
fn setting_name(words: &[ast::Ident]) -> String {
    let lower: Vec<String> = words.iter().map(|w| w.value.to_lowercase()).collect();
    match lower.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["time", "zone"] => "TimeZone".to_owned(),
        ["transaction", "isolation", "level"] => "transaction_isolation".to_owned(),
        ["session", "authorization"] => "session_authorization".to_owned(),
        _ => lower.join("."),
    }
}

impl Session {
    /// The columns that a utility statement gives.
    pub(super) fn utility_columns(&self, parsed: &Parsed) -> Result<Option<Arc<[ResultColumn]>>> {
        Ok(match &parsed.statement {
            Statement::Sql(statement) => match &**statement {
                ast::Statement::ShowVariable { variable } => Some(self.show_columns(variable)?),
                _ => None,
            },
            Statement::Check { .. } => Some(check_columns()),
            Statement::ShowJobs => Some(job_columns()),
            Statement::ShowCollections => Some(collections_columns()),
            Statement::Describe { .. } => Some(describe_columns()),
            Statement::ShowStreams => Some(streams_columns()),
            Statement::ReadStream(read) => Some(stream::columns(read)?),
            Statement::CreateStream { .. } | Statement::DropStream { .. } => None,
        })
    }

    fn show_columns(&self, words: &[ast::Ident]) -> Result<Arc<[ResultColumn]>> {
        let name = setting_name(words);
        if name == "all" {
            return Ok(all_settings_columns());
        }
        Ok(setting_columns(Settings::canonical_name(&name)?))
    }

    pub(super) async fn run_utility(
        &mut self,
        prepared: &Rc<Prepared>,
        parameters: &[Value],
        limits: Limits,
    ) -> Result<Execution> {
        match &prepared.parsed.statement {
            Statement::Sql(statement) => self.run_sql_utility(statement, prepared, &limits).await,
            Statement::Check { collection } => self.check(collection, &limits).await,
            Statement::ShowJobs => self.show_jobs(),
            Statement::ShowCollections => self.show_collections(),
            Statement::ShowStreams => self.show_streams(),
            Statement::Describe { collection } => self.describe(collection),
            Statement::CreateStream {
                name,
                collection,
                if_not_exists,
                options,
            } => {
                // Nothing may be accepted that is not served: a node without readers has no streams.
                if self.worker.node.streams.get().is_none() {
                    return Err(Failure::unsupported("a change stream"));
                }
                let (name, if_not_exists) = (ddl::fold(name)?, *if_not_exists);
                let collection = ddl::relation(collection)?;
                let retention = retention(options)?;
                let task = |worker, mut stop| async move {
                    let stop = &mut stop;
                    change::create_stream(
                        &worker,
                        name,
                        &collection,
                        retention,
                        if_not_exists,
                        stop,
                    )
                    .await
                };
                self.change("CREATE CHANGE STREAM", &limits, task).await
            }
            Statement::DropStream { names, if_exists } => {
                let names = names.iter().map(ddl::fold).collect::<Result<Vec<_>>>()?;
                let mut notices = Vec::new();
                for name in names {
                    let if_exists = *if_exists;
                    let task = |worker, mut stop| async move {
                        change::drop_stream(&worker, &name, if_exists, &mut stop).await
                    };
                    let done = self.change("DROP CHANGE STREAM", &limits, task).await?;
                    notices.extend(done.notices);
                }
                let done = Execution::done(Tag::Plain("DROP CHANGE STREAM"));
                Ok(done.with_notices(notices))
            }
            Statement::ReadStream(read) => stream::read(self, read, parameters, limits).await,
        }
    }

    /// Runs a schema change as a task of its own, so that it ends whatever the client does. Once the
    /// statement is cancelled or late, the change is asked to stop, and has the last word on that.
    async fn change<T>(
        &self,
        tag: &'static str,
        limits: &Limits,
        task: impl FnOnce(Rc<Worker>, Stop) -> T,
    ) -> Result<Execution>
    where
        T: Future<Output = Result<Outcome>> + 'static,
    {
        let (stopper, stop) = stop::pair();
        let task = task(self.worker.clone(), stop);
        let mut change = runtime::spawn(&*self.worker.runtime, task);
        let outcome = match limits.guard(&mut change).await {
            Ok(outcome) => outcome,
            Err(why) => {
                stopper.stop(why);
                change.await
            }
        };
        match outcome {
            Some(Ok(Outcome::Done)) => Ok(Execution::done(Tag::Plain(tag))),
            Some(Ok(Outcome::Skipped(notice))) => {
                Ok(Execution::done(Tag::Plain(tag)).with_notices(vec![notice]))
            }
            Some(Err(failure)) => Err(failure),
            None => Err(Failure::new(
                SqlState::AdminShutdown,
                "terminating connection due to administrator command",
            )),
        }
    }

    async fn run_sql_utility(
        &mut self,
        statement: &ast::Statement,
        prepared: &Rc<Prepared>,
        limits: &Limits,
    ) -> Result<Execution> {
        match statement {
            ast::Statement::CreateTable(create) => {
                let skip = create.if_not_exists;
                let collection = ddl::collection(create)?;
                let task = |worker, mut stop| async move {
                    change::create_collection(&worker, collection, skip, &mut stop).await
                };
                self.change("CREATE TABLE", limits, task).await
            }
            ast::Statement::CreateIndex(create) => {
                let skip = create.if_not_exists;
                if skip && create.name.is_none() {
                    return Err(Failure::new(
                        SqlState::SyntaxError,
                        "CREATE INDEX IF NOT EXISTS requires that you name the index",
                    ));
                }
                let index = ddl::index(create, &self.worker.node.catalog.load())?;
                let task = |worker, mut stop| async move {
                    change::create_index(&worker, index, skip, &mut stop).await
                };
                self.change("CREATE INDEX", limits, task).await
            }
            ast::Statement::Drop { .. } => self.drop_objects(statement, limits).await,
            ast::Statement::ShowVariable { variable } => self.show(variable),
            ast::Statement::Set(set) => self.set(set),
            ast::Statement::Reset(reset) => self.reset(reset),
            ast::Statement::Discard { object_type } => {
                if *object_type == ast::DiscardObject::ALL {
                    self.settings.reset_all();
                }
                // Plans are checked at each use; sequences and temporary objects do not exist.
                Ok(Execution::done(Tag::Plain(match object_type {
                    ast::DiscardObject::ALL => "DISCARD ALL",
                    ast::DiscardObject::PLANS => "DISCARD PLANS",
                    ast::DiscardObject::SEQUENCES => "DISCARD SEQUENCES",
                    ast::DiscardObject::TEMP => "DISCARD TEMP",
                })))
            }
            // There are no cursors to close and no channels that a session listens to, which is all
            // that pools of connections ask for between two users.
            ast::Statement::Close {
                cursor: ast::CloseCursor::All,
            } => Ok(Execution::done(Tag::Plain("CLOSE CURSOR ALL"))),
            ast::Statement::Close {
                cursor: ast::CloseCursor::Specific { name },
            } => Err(Failure::new(
                SqlState::InvalidCursorName,
                format!("cursor \"{name}\" does not exist"),
            )),
            ast::Statement::UNLISTEN { .. } => Ok(Execution::done(Tag::Plain("UNLISTEN"))),
            // A listener that keeps statements by name has forgotten them by now; the others keep none.
            ast::Statement::Deallocate { .. } => Ok(Execution::done(Tag::Plain("DEALLOCATE"))),
            // Listeners that can receive rows begin it themselves.
            ast::Statement::Copy { .. } => Err(Failure::unsupported("COPY over this protocol")),
            other => Err(refused(other, &prepared.parsed.text)),
        }
    }

    async fn drop_objects(&self, statement: &ast::Statement, limits: &Limits) -> Result<Execution> {
        let ast::Statement::Drop {
            object_type,
            if_exists,
            names,
            cascade,
            purge,
            temporary,
            ..
        } = statement
        else {
            return Err(Failure::internal("a DROP of another kind"));
        };
        if *purge || *temporary {
            return Err(Failure::unsupported("this form of DROP"));
        }
        let tag = match object_type {
            ObjectType::Table => "DROP TABLE",
            ObjectType::Index => "DROP INDEX",
            other => return Err(Failure::unsupported(format!("DROP {other}"))),
        };
        if names.len() > 1 {
            return Err(Failure::unsupported("several objects in one DROP")
                .with_hint("drop them one by one"));
        }
        let name = ddl::relation(&names[0])?;
        let (if_exists, cascade) = (*if_exists, *cascade);
        match object_type {
            ObjectType::Index => {
                let task = |worker, mut stop| async move {
                    change::drop_index(&worker, &name, if_exists, &mut stop).await
                };
                self.change(tag, limits, task).await
            }
            _ => {
                let task = |worker, mut stop| async move {
                    change::drop_collection(&worker, &name, if_exists, cascade, &mut stop).await
                };
                self.change(tag, limits, task).await
            }
        }
    }

    fn show(&self, words: &[ast::Ident]) -> Result<Execution> {
        let name = setting_name(words);
        let columns = self.show_columns(words)?;
        let values = match name.as_str() {
            "all" => self
                .settings
                .all()
                .into_iter()
                .map(|s| vec![text(s.name), text(s.value), text(s.description)])
                .collect(),
            name => vec![vec![text(self.settings.get(name)?)]],
        };
        let batches = rows(&columns, values)?;
        Ok(Execution::ready(columns, Tag::Plain("SHOW"), batches))
    }

    fn set(&mut self, set: &Set) -> Result<Execution> {
        match set {
            Set::SingleAssignment {
                scope,
                hivevar,
                variable,
                values,
            } => {
                if *hivevar || matches!(scope, Some(ast::ContextModifier::Local)) {
                    return Err(Failure::unsupported("SET LOCAL"));
                }
                let name = variable.to_string();
                let values = values.iter().map(set_value).collect::<Result<Vec<_>>>()?;
                self.assign(&name, &values.join(", "))?;
            }
            Set::SetTimeZone { value, local } => {
                if *local {
                    return Err(Failure::unsupported("SET LOCAL"));
                }
                self.assign("TimeZone", &set_value(value)?)?;
            }
            Set::SetNames { charset_name, .. } => {
                self.assign("client_encoding", &charset_name.value)?;
            }
            Set::SetNamesDefault {} => self.settings.reset("client_encoding")?,
            _ => return Err(Failure::unsupported("this form of SET")),
        }
        Ok(Execution::done(Tag::Plain("SET")))
    }

    fn assign(&mut self, name: &str, value: &str) -> Result<()> {
        match value.eq_ignore_ascii_case("default") {
            true => self.settings.reset(name),
            false => self.settings.set(name, value),
        }
    }

    fn reset(&mut self, reset: &ast::ResetStatement) -> Result<Execution> {
        match &reset.reset {
            ast::Reset::ALL => self.settings.reset_all(),
            ast::Reset::ConfigurationParameter(name) => {
                self.settings.reset(&name.to_string())?;
            }
        }
        Ok(Execution::done(Tag::Plain("RESET")))
    }

    async fn check(&self, collection: &ast::ObjectName, limits: &Limits) -> Result<Execution> {
        let catalog = self.worker.node.catalog.load();
        let collection = catalog.require(&ddl::relation(collection)?)?;
        let caller = self.caller([(collection.id, collection.version)].into(), limits);
        let (statement, _guard) = caller.snapshot();
        let dispatcher = &self.worker.dispatcher;
        let findings = async {
            let readers = dispatcher
                .broadcast(&statement, |_| Op::Check {
                    collection: collection.id,
                })
                .await;
            let parts = readers.into_iter().map(|r| dispatcher.batches(r));
            futures::future::join_all(parts).await
        };
        let parts = limits.guard(findings).await?;
        let parts: Result<Vec<_>> = parts.into_iter().collect();
        let batches = parts?.into_iter().flatten().collect();
        Ok(Execution::ready(
            check_columns(),
            Tag::Rows("CHECK"),
            batches,
        ))
    }

    fn show_jobs(&self) -> Result<Execution> {
        let jobs = self.worker.node.jobs.list();
        let values = jobs
            .iter()
            .map(|job| {
                let (done, total) = job.progress();
                let state = job.state();
                let error = match &state {
                    JobState::Failed(message) => text(message.clone()),
                    JobState::Running | JobState::Done => Value::Null,
                };
                vec![
                    Value::Int8(job.id as i64),
                    text(job.kind),
                    text(job.object.clone()),
                    text(state.name()),
                    Value::Int8(done as i64),
                    Value::Int8(total as i64),
                    error,
                ]
            })
            .collect();
        let columns = job_columns();
        let batches = rows(&columns, values)?;
        Ok(Execution::ready(columns, Tag::Plain("SHOW"), batches))
    }

    fn show_collections(&self) -> Result<Execution> {
        let catalog = self.worker.node.catalog.load();
        let values = catalog
            .all_collections()
            .map(|c| {
                vec![
                    text(c.name.clone()),
                    text(c.engine.name()),
                    Value::Int8(c.columns.len() as i64),
                ]
            })
            .collect();
        let columns = collections_columns();
        let batches = rows(&columns, values)?;
        Ok(Execution::ready(columns, Tag::Plain("SHOW"), batches))
    }

    fn show_streams(&self) -> Result<Execution> {
        let values = stream::list(&self.worker.node)
            .into_iter()
            .map(|(stream, collection)| {
                vec![
                    text(stream.name.clone()),
                    text(collection.name.clone()),
                    Value::Int8(stream.retention_bytes as i64),
                    Value::Int8(stream.created.0 as i64),
                ]
            })
            .collect();
        let columns = streams_columns();
        let batches = rows(&columns, values)?;
        Ok(Execution::ready(columns, Tag::Plain("SHOW"), batches))
    }

    fn describe(&self, collection: &ast::ObjectName) -> Result<Execution> {
        let catalog = self.worker.node.catalog.load();
        let collection = catalog.require(&ddl::relation(collection)?)?;
        let values = collection
            .columns
            .iter()
            .enumerate()
            .map(|(i, column)| {
                let indexes: Vec<String> = catalog
                    .indexes_of(collection.id)
                    .filter(|index| index.columns.contains(&i))
                    .map(|index| format!("{} ({})", index.name, index.method))
                    .collect();
                vec![
                    text(column.name.clone()),
                    text(column.data_type.name()),
                    Value::Bool(!column.not_null),
                    Value::Bool(collection.key == Some(i)),
                    text(indexes.join(", ")),
                ]
            })
            .collect();
        let columns = describe_columns();
        let batches = rows(&columns, values)?;
        Ok(Execution::ready(columns, Tag::Plain("DESCRIBE"), batches))
    }
}

/// A value of `SET`: a literal or a word, without quotes.
fn set_value(value: &ast::Expr) -> Result<String> {
    match value {
        ast::Expr::UnaryOp {
            op: ast::UnaryOperator::Minus,
            expr,
        } => Ok(format!("-{}", ddl::constant(expr)?)),
        ast::Expr::CompoundIdentifier(_) => Ok(value.to_string()),
        other => ddl::constant(other),
    }
}

/// `WITH (retention_bytes = n)`.
fn retention(options: &[ast::SqlOption]) -> Result<u64> {
    let mut retention = STREAM_RETENTION_BYTES;
    for (name, value) in ddl::key_values(options)? {
        if name != "retention_bytes" {
            let failure = Failure::new(
                SqlState::InvalidParameterValue,
                format!("unrecognized parameter \"{name}\""),
            );
            return Err(match similar(&name, ["retention_bytes"]) {
                Some(similar) => failure.with_hint(format!("did you mean \"{similar}\"?")),
                None => failure,
            });
        }
        retention = value.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
            Failure::new(
                SqlState::InvalidParameterValue,
                format!("invalid value for retention_bytes: \"{value}\""),
            )
        })?;
    }
    Ok(retention)
}

/// What is not supported, named by its first words as the parser understood them.
fn refused(statement: &ast::Statement, text: &str) -> Failure {
    let what = match statement {
        ast::Statement::StartTransaction { .. } => "BEGIN",
        ast::Statement::Commit { .. } => "COMMIT",
        ast::Statement::Rollback { .. } => "ROLLBACK",
        ast::Statement::Savepoint { .. } => "SAVEPOINT",
        ast::Statement::AlterTable(_) => "ALTER TABLE",
        ast::Statement::Truncate(_) => "TRUNCATE",
        ast::Statement::CreateView { .. } => "CREATE VIEW",
        ast::Statement::CreateFunction(_) => "CREATE FUNCTION",
        ast::Statement::Analyze(_) => "ANALYZE",
        ast::Statement::Vacuum(_) => "VACUUM",
        ast::Statement::Merge(_) => "MERGE",
        ast::Statement::Prepare { .. } => "PREPARE",
        ast::Statement::Execute { .. } => "EXECUTE",
        _ => {
            let words: Vec<&str> = text.split_whitespace().take(2).collect();
            return Failure::unsupported(words.join(" ").to_uppercase());
        }
    };
    let failure = Failure::unsupported(what);
    match what {
        "BEGIN" => failure.with_hint("Every statement is a transaction of its own."),
        "TRUNCATE" => failure.with_hint("Use DELETE without a condition."),
        "ALTER TABLE" => failure
            .with_hint("Create another table, fill it by INSERT INTO … SELECT, and drop this one."),
        _ => failure,
    }
}
