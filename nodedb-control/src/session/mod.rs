//! Sessions, whatever protocol they came by.
//!
//! A listener makes a [`Session`], has texts prepared and runs them; what comes back is an
//! [`execution::Execution`] that it drains at its own pace. A session needs futures and reply
//! streams only (`crate::runtime`), so the simulation steps the same code.
//!
//! | file | holds |
//! |---|---|
//! | [`settings`] | `SET` and `SHOW` |
//! | [`plans`] | prepared statements and their cache |
//! | [`read`] | queries: keys, sets, the relational executor |
//! | [`utility`] | schema changes, settings, jobs, descriptions |
//! | [`copy`] | `COPY … FROM STDIN` |
//! | [`explain`] | `EXPLAIN [ANALYZE]` |
//! | [`stream`] | `SELECT … FROM STREAM` |
//! | [`cancel`], [`registry`] | stopping statements |
//! | [`bulk`] | what is too long for a worker |

pub mod bulk;
pub mod cancel;
pub mod copy;
pub mod execution;
pub mod explain;
pub mod plans;
pub mod read;
pub mod registry;
pub mod settings;
pub mod stream;
pub mod utility;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use nodedb_bridge::plan::GetRow;
use nodedb_query::catalog::{ResultColumn, SessionInfo};
use nodedb_query::plan::{Command, Plan};
use nodedb_query::{BindContext, Bound};
use nodedb_types::limits::STATEMENT_RETRIES_MAX;
use nodedb_types::{CollectionId, DataType, Failure, Result, SchemaVersion, SqlState, Value};
use sqlparser::ast;

use crate::catalog::snapshot::SessionCatalog;
use crate::coordinate;
use crate::node::{Counters, Worker};
use crate::sql::parse::{self, Parsed, Statement};
use cancel::Limits;
use execution::{Execution, Tag};
use plans::{Kind, Prepared};
use registry::Registered;
use settings::Settings;

/// The one database of this release.
pub const DATABASE: &str = "nodedb";

pub struct Session {
    pub(crate) worker: Rc<Worker>,
    pub settings: Settings,
    pub(crate) info: Arc<SessionInfo>,
    user: Arc<str>,
    place: Registered,
    /// Overrides `statement_timeout` for one statement, nanoseconds.
    pub timeout_ns: Option<u64>,
    /// The last statement asked all cores one question.
    asked_all: Rc<Cell<bool>>,
}

impl Session {
    /// `secret`: what a cancel request must bring along; empty when there can be none.
    /// `parameters`: settings that the client asked for.
    pub fn new<'a>(
        worker: &Rc<Worker>,
        user: &str,
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
        secret: Vec<u8>,
    ) -> Result<Session> {
        let settings = Settings::new(user, parameters)?;
        let place = worker.node.sessions.enter(secret)?;
        let info = SessionInfo {
            user: user.to_owned(),
            database: DATABASE.to_owned(),
            server_version: settings::SERVER_VERSION.to_owned(),
            process_id: place.id.0 as i32,
        };
        Ok(Session {
            worker: worker.clone(),
            settings,
            info: Arc::new(info),
            user: user.into(),
            place,
            timeout_ns: None,
            asked_all: Rc::default(),
        })
    }

    /// Something arrives behind a statement that asked all cores one question: mostly the next such
    /// statement. Cores are woken for the first of it only, however many pieces it comes in.
    pub(crate) fn expect(&self) {
        if self.asked_all.take() {
            self.worker.dispatcher.wake_ahead();
        }
    }

    /// As the cancel key names the session.
    pub fn process(&self) -> u32 {
        self.place.id.0 as u32
    }

    /// The session's stop sign, for a listener that notices that its client is gone.
    pub fn cancel(&self) -> &Arc<cancel::Cancel> {
        &self.place.cancel
    }

    /// The statements of a text.
    pub fn parse(&self, text: &str) -> Result<Vec<Rc<Parsed>>> {
        Ok(parse::parse(text)?.into_iter().map(Rc::new).collect())
    }

    /// Prepares a text of at most one statement; `None` when it holds none.
    pub fn prepare_text(
        &self,
        text: &str,
        hints: &[Option<DataType>],
    ) -> Result<Option<Rc<Prepared>>> {
        let key: Arc<str> = text.into();
        let version = self.worker.node.catalog.version();
        if let Some(found) = self.worker.plans.get(&key, hints, &self.user, version) {
            return Ok(Some(found));
        }
        let mut all = self.parse(text)?;
        match all.len() {
            0 => Ok(None),
            1 => {
                let prepared = self.bind(all.remove(0), hints)?;
                self.remember(key, &prepared);
                Ok(Some(prepared))
            }
            _ => Err(Failure::new(
                SqlState::SyntaxError,
                "cannot insert multiple commands into a prepared statement",
            )
            .with_hint("send the statements one by one")),
        }
    }

    /// Prepares a syntax tree that no text stands for. `shape`: its key in the plan cache, which
    /// no text can be.
    pub fn prepare_tree(
        &self,
        shape: String,
        tree: ast::Statement,
        hints: &[Option<DataType>],
    ) -> Result<Rc<Prepared>> {
        let parsed = Parsed {
            text: shape.into(),
            offset: 0,
            statement: Statement::Sql(Box::new(tree)),
        };
        self.prepare(&Rc::new(parsed), hints)
    }

    /// Prepares one statement of a text.
    pub fn prepare(&self, parsed: &Rc<Parsed>, hints: &[Option<DataType>]) -> Result<Rc<Prepared>> {
        let version = self.worker.node.catalog.version();
        let plans = &self.worker.plans;
        if let Some(found) = plans.get(&parsed.text, hints, &self.user, version) {
            return Ok(found);
        }
        let prepared = self.bind(parsed.clone(), hints)?;
        self.remember(parsed.text.clone(), &prepared);
        Ok(prepared)
    }

    /// Only what reads collections is worth keeping; catalog queries see the session's settings.
    fn remember(&self, text: Arc<str>, prepared: &Rc<Prepared>) {
        if let Kind::Bound(bound) = &prepared.kind
            && !bound.pins().is_empty()
        {
            self.worker.plans.put(text, self.user.clone(), prepared);
        }
    }

    fn bind(&self, parsed: Rc<Parsed>, hints: &[Option<DataType>]) -> Result<Rc<Prepared>> {
        let snapshot = self.worker.node.catalog.load();
        let catalog_version = snapshot.version();
        let prepared = |kind, parameters: Vec<DataType>, columns| Prepared {
            parsed: parsed.clone(),
            hints: hints.to_vec(),
            kind,
            parameters,
            columns,
            catalog_version,
        };
        let context = BindContext {
            catalog: Arc::new(SessionCatalog {
                snapshot,
                settings: self.settings.all(),
            }),
            session: &self.info,
            text: &parsed.text,
        };
        let bound = |statement: &ast::Statement| -> Result<Arc<Bound>> {
            nodedb_query::bind(statement, hints, &context).map(Arc::new)
        };
        Ok(Rc::new(match &parsed.statement {
            Statement::Sql(statement) => match &**statement {
                ast::Statement::Query(_)
                | ast::Statement::Insert(_)
                | ast::Statement::Update(_)
                | ast::Statement::Delete(_) => {
                    let bound = bound(statement)?;
                    let columns = (!bound.columns().is_empty()
                        || bound.command() == Command::Select)
                        .then(|| bound.columns().into());
                    prepared(
                        Kind::Bound(bound.clone()),
                        bound.parameters().to_vec(),
                        columns,
                    )
                }
                ast::Statement::Explain { statement, .. } => {
                    let analyze = utility::explain_options(&parsed.statement)?;
                    let bound = bound(statement)?;
                    let kind = Kind::Explain {
                        bound: bound.clone(),
                        analyze,
                    };
                    let columns = Some(utility::explain_columns());
                    prepared(kind, bound.parameters().to_vec(), columns)
                }
                _ => prepared(Kind::Utility, Vec::new(), self.utility_columns(&parsed)?),
            },
            Statement::ReadStream(read) => {
                let parameters = stream::parameters(read, hints)?;
                prepared(Kind::Utility, parameters, self.utility_columns(&parsed)?)
            }
            _ => prepared(Kind::Utility, Vec::new(), self.utility_columns(&parsed)?),
        }))
    }

    /// Begins a statement's limits: forgets old cancels, starts the clock.
    fn limits(&self) -> Limits {
        self.place.cancel.clear();
        let timeout = self.timeout_ns.or(self.settings.statement_timeout_ns());
        Limits {
            cancel: self.place.cancel.clone(),
            deadline_ns: timeout.map(|ns| self.worker.runtime.now_ns().saturating_add(ns)),
            runtime: self.worker.runtime.clone(),
        }
    }

    /// Runs a prepared statement. `parameters`: values of its parameter types.
    /// A write is durable when this returns; the rows of a query come as they are asked for.
    pub async fn run(
        &mut self,
        prepared: &Rc<Prepared>,
        parameters: &Arc<[Value]>,
    ) -> Result<Execution> {
        let counters = &self.worker.node.counters;
        Counters::add(&counters.statements, 1);
        let limits = self.limits();
        let run = match self.row_read(prepared, parameters) {
            Ok(Some(RowRead { pins, get, columns })) => {
                let caller = self.caller(pins, &limits);
                let read = std::pin::pin!(read::row(&caller, get));
                match limits.guard(read).await.flatten() {
                    Ok(row) => Ok(Execution::row(columns, Tag::Rows("SELECT"), row)),
                    // The schema moved; the long way tries again.
                    Err(failure) if failure.retry() => {
                        Box::pin(self.run_counted(prepared, parameters, limits)).await
                    }
                    Err(failure) => Err(failure),
                }
            }
            // On the heap, so that the read of a row is not moved about with room for the rest.
            Ok(None) => Box::pin(self.run_counted(prepared, parameters, limits)).await,
            Err(failure) => Err(failure),
        };
        if run.is_err() {
            Counters::add(&self.worker.node.counters.failures, 1);
        }
        run
    }

    /// The read of one row by its key, if the statement is that: the one that clients run most
    /// needs neither a plan nor a batch. `None` also when it has to be prepared again.
    fn row_read(&self, prepared: &Prepared, parameters: &[Value]) -> Result<Option<RowRead>> {
        let (Kind::Bound(bound), Some(columns)) = (&prepared.kind, &prepared.columns) else {
            return Ok(None);
        };
        let node = &self.worker.node;
        if prepared.catalog_version != node.catalog.version() {
            return Ok(None);
        }
        let read = bound.row_read(parameters, node.facts.key_seed, node.facts.shards)?;
        Ok(read.map(|get| RowRead {
            pins: bound.pins().clone(),
            get,
            columns: columns.clone(),
        }))
    }

    async fn run_counted(
        &mut self,
        prepared: &Rc<Prepared>,
        parameters: &Arc<[Value]>,
        limits: Limits,
    ) -> Result<Execution> {
        let mut prepared = prepared.clone();
        for attempt in 0.. {
            prepared = self.current(prepared)?;
            let run = match &prepared.kind {
                // On the heap, so that a write is not moved about with room for these.
                Kind::Utility => {
                    return Box::pin(self.run_utility(&prepared, parameters, limits)).await;
                }
                Kind::Explain { bound, analyze } => {
                    Box::pin(self.explain(bound, *analyze, parameters, &limits)).await
                }
                Kind::Bound(bound) => {
                    let columns = prepared.columns.clone();
                    self.run_bound(bound, columns, parameters, &limits).await
                }
            };
            match run {
                // The schema moved under the plan; a write has its own, longer retry.
                Err(failure) if failure.retry() && attempt < STATEMENT_RETRIES_MAX => {
                    Counters::add(&self.worker.node.counters.retries, 1);
                    limits.check()?;
                    if failure.code() != SqlState::SerializationFailure
                        || prepared.catalog_version == self.worker.node.catalog.version()
                    {
                        return Err(failure);
                    }
                }
                other => return other,
            }
        }
        Err(Failure::internal("a statement was tried without end"))
    }

    /// The statement as prepared for the newest catalog. 0A000 when its result would change shape.
    fn current(&self, prepared: Rc<Prepared>) -> Result<Rc<Prepared>> {
        if prepared.catalog_version == self.worker.node.catalog.version()
            || matches!(prepared.kind, Kind::Utility)
        {
            return Ok(prepared);
        }
        let again = self.prepare(&prepared.parsed, &prepared.hints)?;
        if again.columns != prepared.columns || again.parameters != prepared.parameters {
            return Err(Failure::unsupported(
                "a prepared statement whose result changed with its collections: preparing it again is needed; running it as it is",
            ));
        }
        Ok(again)
    }

    async fn run_bound(
        &self,
        bound: &Arc<Bound>,
        columns: Option<Arc<[ResultColumn]>>,
        parameters: &Arc<[Value]>,
        limits: &Limits,
    ) -> Result<Execution> {
        let environment = self.worker.environment(&self.info);
        let plan = match bulk::is_large(parameters) {
            false => bound.instantiate(parameters, &environment)?,
            true => {
                let (bound, parameters) = (bound.clone(), parameters.clone());
                let environment = environment.clone();
                let plan = move || bound.instantiate(&parameters, &environment);
                Box::pin(bulk::aside(&self.worker, plan)).await??
            }
        };
        let caller = self.caller(bound.pins().clone(), limits);
        match plan {
            Plan::Write(write) => {
                let tag = write.command;
                let again = || match bound.instantiate(parameters, &environment)? {
                    Plan::Write(write) => Ok(*write),
                    _ => Err(Failure::internal("a write became a read")),
                };
                let done = coordinate::write(&caller, *write, again).await?;
                Counters::add(&self.worker.node.counters.rows_written, done.affected);
                let tag = Tag::Changed(word(tag), done.affected);
                Ok(match columns {
                    None => Execution::done(tag),
                    Some(columns) => Execution::ready(columns, tag, done.returning),
                })
            }
            plan => {
                let columns = columns.unwrap_or_else(|| Vec::new().into());
                let rows = Box::pin(read::start(caller, plan)).await?;
                let tag = Tag::Rows("SELECT");
                Ok(Execution::streaming(columns, tag, limits.clone(), rows))
            }
        }
    }

    pub(crate) fn caller(&self, pins: Pins, limits: &Limits) -> Caller {
        self.asked_all.set(false);
        Caller {
            worker: self.worker.clone(),
            session: self.place.id,
            limits: limits.clone(),
            pins,
            asked_all: self.asked_all.clone(),
        }
    }
}

/// Collections that a statement names, each with the schema version it was prepared for.
type Pins = Arc<[(CollectionId, SchemaVersion)]>;

/// The read of one row by its key, and the columns that it shows.
struct RowRead {
    pins: Pins,
    get: GetRow,
    columns: Arc<[ResultColumn]>,
}

/// On whose behalf cores are asked, and within which limits.
#[derive(Clone)]
pub struct Caller {
    pub worker: Rc<Worker>,
    pub session: nodedb_types::SessionId,
    pub limits: Limits,
    pub pins: Pins,
    /// Set where it asks all cores one question.
    pub asked_all: Rc<Cell<bool>>,
}

impl Caller {
    /// Begins a read at the present snapshot; the guard keeps its versions readable.
    pub fn snapshot(
        &self,
    ) -> (
        Arc<nodedb_bridge::request::Statement>,
        nodedb_bridge::clock::SnapshotGuard,
    ) {
        let guard = self.worker.slot.acquire();
        let statement = self.worker.statement(
            self.session,
            guard.snapshot(),
            self.limits.deadline_ns,
            self.pins.clone(),
        );
        (statement, guard)
    }
}

/// The word of a command's tag.
pub fn word(command: Command) -> &'static str {
    match command {
        Command::Select => "SELECT",
        Command::Insert => "INSERT",
        Command::Update => "UPDATE",
        Command::Delete => "DELETE",
    }
}
