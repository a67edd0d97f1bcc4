//! The extended protocol: prepared statements, portals, and what waits for a Sync.
//!
//! A write runs when its Sync has arrived, because until then more may follow that would have to be
//! one transaction with it; a second write up to the same Sync is refused, and then none runs. What
//! comes after the write waits behind it, so answers keep their order. After an error everything up
//! to the next Sync is skipped.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::BytesMut;
use nodedb_query::catalog::CatalogType;
use nodedb_types::limits::PREPARED_PER_SESSION_MAX;
use nodedb_types::{DataType, Failure, Result, SqlState, Value};
use sqlparser::ast;

use super::connection::{
    Columns, Stop, complete, copy, count_rows, notices, several_writes, watched,
};
use super::frame::{Bind, Format, Message, Target};
use super::reply::{self, Severity};
use super::socket::{End, OUT_BYTES, Socket};
use super::value;
use crate::session::Session;
use crate::session::execution::{Execution, Tag};
use crate::session::plans::Prepared;
use crate::sql::{ddl, parse};

/// OID that a client gives a parameter whose type it leaves open: none, or `unknown`.
const UNKNOWN_OIDS: [u32; 2] = [0, 705];

/// A parameter of so many bytes is compared with the one before it: reading it again costs more.
const SAME_BYTES_MIN: usize = 256;

/// By name, of which the empty one is the most used.
struct Named<T> {
    unnamed: Option<T>,
    named: HashMap<String, T>,
}

impl<T> Default for Named<T> {
    fn default() -> Named<T> {
        Named {
            unnamed: None,
            named: HashMap::new(),
        }
    }
}

impl<T> Named<T> {
    fn get(&self, name: &str) -> Option<&T> {
        match name {
            "" => self.unnamed.as_ref(),
            name => self.named.get(name),
        }
    }

    fn insert(&mut self, name: String, value: T) {
        if name.is_empty() {
            self.unnamed = Some(value);
        } else {
            self.named.insert(name, value);
        }
    }

    fn remove(&mut self, name: &str) {
        match name {
            "" => self.unnamed = None,
            name => drop(self.named.remove(name)),
        }
    }

    fn clear(&mut self) {
        self.unnamed = None;
        self.named.clear();
    }

    fn len(&self) -> usize {
        self.named.len() + usize::from(self.unnamed.is_some())
    }
}

/// A statement's name stands for nothing when its text was blank.
type Statement = Option<Rc<Prepared>>;

/// A statement with its parameters, and how far its rows have been sent.
pub struct Portal {
    statement: Statement,
    parameters: Arc<[Value]>,
    formats: Vec<Format>,
    run: RefCell<Run>,
}

/// What is left to do of a message.
pub enum Left {
    Nothing,
    /// To [`execute`] this portal, then [`Extended::ran`]. `ends`: it waited for this Sync, so the
    /// session is ready afterwards.
    Run {
        portal: Rc<Portal>,
        rows_max: u32,
        ends: bool,
    },
    /// To [`Extended::handle`] it.
    Message(Message),
}

/// Where a portal's execution stands.
enum Run {
    Waiting,
    Open {
        execution: Box<Execution>,
        /// Rows of a batch that was sent in part.
        rest: Option<RecordBatch>,
    },
    Ended {
        /// Tag for an Execute after the end, which gives no rows.
        tag: Tag,
        /// A write cannot run again; a query is at its end.
        wrote: bool,
    },
}

/// What waits for the Sync.
enum Deferred {
    Output(BytesMut),
    Execute { portal: Rc<Portal>, rows_max: u32 },
}

#[derive(Default)]
pub struct Extended {
    statements: Named<Statement>,
    /// Parameters that clients declared to be of the catalog's own types, by statement.
    declared: HashMap<String, Vec<Option<CatalogType>>>,
    portals: Named<Rc<Portal>>,
    /// Skipping up to the Sync.
    failed: Cell<bool>,
    deferred: Vec<Deferred>,
    /// A COPY has run since the last Sync. It runs when its data has ended, for then the client
    /// waits for the outcome.
    copied: bool,
}

impl Extended {
    /// A Sync, or a simple query, which acts as one: portals end with the implicit transaction.
    pub fn sync(&mut self) {
        self.failed.set(false);
        self.portals.clear();
        self.deferred.clear();
        self.copied = false;
    }

    /// Tells the client and skips what follows. Nothing that waited runs.
    pub fn fail(&mut self, out: &mut BytesMut, failure: &Failure, offset: u32) {
        if self.failed.replace(true) {
            return;
        }
        for deferred in self.deferred.drain(..) {
            match deferred {
                Deferred::Output(bytes) => out.extend_from_slice(&bytes),
                // It is as if it had been rolled back.
                Deferred::Execute { .. } => break,
            }
        }
        self.deferred.clear();
        reply::failure(out, Severity::Error, failure, offset);
    }

    /// `DEALLOCATE` and `DISCARD ALL` forget statements, which are kept here; the session does the
    /// rest. Fails with 26000 when there is no statement of that name.
    pub fn forget(&mut self, statement: &parse::Statement) -> Result<()> {
        let parse::Statement::Sql(statement) = statement else {
            return Ok(());
        };
        match &**statement {
            ast::Statement::Deallocate { name, .. } if is_all(name) => self.statements.clear(),
            ast::Statement::Deallocate { name, .. } => {
                let name = ddl::fold(name)?;
                self.statement(&name)?;
                self.statements.remove(&name);
            }
            ast::Statement::Discard {
                object_type: ast::DiscardObject::ALL,
            } => self.statements.clear(),
            _ => {}
        }
        Ok(())
    }

    /// Does of a message other than a simple query what takes no waiting.
    pub fn at_once(
        &mut self,
        message: Message,
        socket: &mut Socket,
        session: &mut Session,
    ) -> Left {
        if matches!(message, Message::Sync) {
            return match &self.deferred[..] {
                [] => {
                    self.end(socket, session);
                    Left::Nothing
                }
                // One write, as is common, with nothing behind it.
                [Deferred::Execute { portal, rows_max }] => {
                    let (portal, rows_max) = (portal.clone(), *rows_max);
                    self.deferred.clear();
                    Left::Run {
                        portal,
                        rows_max,
                        ends: true,
                    }
                }
                _ => Left::Message(message),
            };
        }
        if self.failed.get() {
            return Left::Nothing;
        }
        self.answered(message, socket, session)
            .unwrap_or_else(|failure| {
                self.fail(&mut socket.out, &failure, 0);
                Left::Nothing
            })
    }

    /// Tells the client when the run of a portal that waited for its Sync has failed, and that the
    /// session is ready; only the end of the connection is left.
    pub(super) fn ended(
        &mut self,
        run: Result<(), Stop>,
        socket: &mut Socket,
        session: &mut Session,
    ) -> Result<(), End> {
        match run {
            Ok(()) => {}
            Err(Stop::Failed(failure)) => {
                reply::failure(&mut socket.out, Severity::Error, &failure, 0);
            }
            Err(Stop::End(end)) => return Err(end),
        }
        self.end(socket, session);
        Ok(())
    }

    /// Tells the client when a portal's run has failed; only the end of the connection is left.
    pub(super) fn ran(&mut self, run: Result<(), Stop>, socket: &mut Socket) -> Result<(), End> {
        match run {
            Ok(()) => Ok(()),
            Err(Stop::Failed(failure)) => {
                self.fail(&mut socket.out, &failure, 0);
                Ok(())
            }
            Err(Stop::End(end)) => Err(end),
        }
    }

    /// A message that [`Extended::at_once`] left.
    pub async fn handle(
        &mut self,
        message: Message,
        socket: &mut Socket,
        session: &mut Session,
    ) -> Result<(), End> {
        if matches!(message, Message::Sync) {
            return self.finish(socket, session).await;
        }
        let run = self.step(message, socket, session).await;
        self.ran(run, socket)
    }

    /// Runs what waited for the Sync, then says that the session is ready.
    async fn finish(&mut self, socket: &mut Socket, session: &mut Session) -> Result<(), End> {
        for deferred in std::mem::take(&mut self.deferred) {
            let run = match deferred {
                Deferred::Output(bytes) => {
                    socket.out.extend_from_slice(&bytes);
                    Ok(())
                }
                Deferred::Execute { portal, rows_max } => {
                    execute(&portal, rows_max, socket, session).await
                }
            };
            match run {
                Ok(()) => {}
                Err(Stop::Failed(failure)) => {
                    reply::failure(&mut socket.out, Severity::Error, &failure, 0);
                    break;
                }
                Err(Stop::End(end)) => return Err(end),
            }
        }
        self.end(socket, session);
        Ok(())
    }

    /// The answer to a Sync.
    fn end(&mut self, socket: &mut Socket, session: &mut Session) {
        self.sync();
        for (name, value) in session.settings.take_reported() {
            reply::parameter_status(&mut socket.out, name, &value);
        }
        reply::ready(&mut socket.out);
    }

    /// Where answers go: behind the write that waits, if there is one.
    fn answer(&mut self, socket: &mut Socket, write: impl FnOnce(&mut BytesMut)) {
        match self.deferred.last_mut() {
            None => write(&mut socket.out),
            Some(Deferred::Output(bytes)) => write(bytes),
            Some(Deferred::Execute { .. }) => {
                let mut bytes = BytesMut::new();
                write(&mut bytes);
                self.deferred.push(Deferred::Output(bytes));
            }
        }
    }

    /// Answers a message that concerns statements and portals by name alone, and finds the portal
    /// of an Execute that need not wait for its Sync.
    fn answered(
        &mut self,
        message: Message,
        socket: &mut Socket,
        session: &Session,
    ) -> Result<Left, Failure> {
        match message {
            Message::Parse { name, text, types } => {
                self.parse(name, &text, &types, session)?;
                self.answer(socket, |out| reply::empty(out, reply::PARSE_COMPLETE));
            }
            Message::Bind(bind) => {
                self.bind(bind)?;
                self.answer(socket, |out| reply::empty(out, reply::BIND_COMPLETE));
            }
            Message::Describe(Target::Statement(name)) => {
                let statement = self.statement(&name)?.clone();
                let types = statement.as_ref().map_or(&[][..], |s| &s.parameters);
                let oids: Vec<u32> = types
                    .iter()
                    .enumerate()
                    .map(|(i, t)| {
                        let shown = self.shown(&name, &statement, i);
                        shown.map_or_else(|| t.oid(), CatalogType::oid)
                    })
                    .collect();
                self.answer(socket, |out| describe_statement(out, &statement, &oids));
            }
            Message::Describe(Target::Portal(name)) => {
                let portal = self.portal(&name)?.clone();
                let columns = columns(&portal.statement);
                self.answer(socket, |out| describe(out, columns, &portal.formats));
            }
            Message::Close(Target::Statement(name)) => {
                self.statements.remove(&name);
                self.answer(socket, |out| reply::empty(out, reply::CLOSE_COMPLETE));
            }
            Message::Close(Target::Portal(name)) => {
                self.portals.remove(&name);
                self.answer(socket, |out| reply::empty(out, reply::CLOSE_COMPLETE));
            }
            Message::Execute { portal, rows_max } => {
                let found = self.portal(&portal)?.clone();
                if !self.runs_now(&found) {
                    return Ok(Left::Message(Message::Execute { portal, rows_max }));
                }
                if let Some(statement) = &found.statement
                    && found.is_waiting()
                {
                    self.forget(&statement.parsed.statement)?;
                }
                return Ok(Left::Run {
                    portal: found,
                    rows_max,
                    ends: false,
                });
            }
            other => return Ok(Left::Message(other)),
        }
        Ok(Left::Nothing)
    }

    /// Whether an Execute need not wait for its Sync: it writes nothing, or has done so already,
    /// and no write waits in front of it.
    fn runs_now(&self, portal: &Portal) -> bool {
        !(portal.writes() && portal.is_waiting()) && self.deferred.is_empty()
    }

    async fn step(
        &mut self,
        message: Message,
        socket: &mut Socket,
        session: &mut Session,
    ) -> Result<(), Stop> {
        match message {
            Message::Execute { portal, rows_max } => {
                self.execute(&portal, rows_max, socket, session).await?;
            }
            Message::Flush => {
                if !self.deferred.is_empty() {
                    return Err(Stop::Failed(Failure::unsupported(
                        "a Flush between a writing statement and its Sync",
                    )));
                }
                socket.flush().await?;
            }
            // They were answered at once, or the connection deals with them itself.
            Message::Parse { .. }
            | Message::Bind(_)
            | Message::Describe(_)
            | Message::Close(_)
            | Message::Sync
            | Message::Query(_)
            | Message::CopyData(_)
            | Message::CopyDone
            | Message::CopyFail(_)
            | Message::Terminate => {}
        }
        Ok(())
    }

    fn parse(
        &mut self,
        name: String,
        text: &str,
        types: &[u32],
        session: &Session,
    ) -> Result<(), Failure> {
        if !name.is_empty() && self.statements.get(&name).is_some() {
            return Err(Failure::new(
                SqlState::DuplicatePreparedStatement,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        self.check_room()?;
        let hints = types
            .iter()
            .map(|oid| match DataType::from_oid(*oid) {
                _ if UNKNOWN_OIDS.contains(oid) => Ok(None),
                _ if let Some(shown) = CatalogType::from_oid(*oid) => Ok(Some(shown.computed_as())),
                Some(data_type) => Ok(Some(data_type)),
                None => Err(Failure::new(
                    SqlState::UndefinedObject,
                    format!("type with OID {oid} does not exist"),
                )),
            })
            .collect::<Result<Vec<_>>>()?;
        // As PostgreSQL does, a failed Parse leaves no unnamed statement.
        self.statements.remove(&name);
        self.declared.remove(&name);
        let prepared = session.prepare_text(text, &hints)?;
        let declared: Vec<_> = types.iter().map(|t| CatalogType::from_oid(*t)).collect();
        if declared.iter().any(Option::is_some) {
            self.declared.insert(name.clone(), declared);
        }
        self.statements.insert(name, prepared);
        Ok(())
    }

    fn check_room(&self) -> Result<()> {
        match self.statements.len() + self.portals.len() < PREPARED_PER_SESSION_MAX {
            true => Ok(()),
            false => Err(Failure::new(
                SqlState::ProgramLimitExceeded,
                format!(
                    "a session has at most {PREPARED_PER_SESSION_MAX} prepared statements and portals"
                ),
            )),
        }
    }

    /// What a client sees parameter `at` of a statement as, if not as its own type.
    fn shown(&self, name: &str, statement: &Statement, at: usize) -> Option<CatalogType> {
        let declared = self.declared.get(name).and_then(|d| d.get(at).copied());
        let inferred = || statement.as_ref().and_then(|s| s.parameter_shown(at));
        declared.flatten().or_else(inferred)
    }

    fn statement(&self, name: &str) -> Result<&Statement> {
        self.statements.get(name).ok_or_else(|| {
            let what = match name {
                "" => "unnamed prepared statement does not exist".to_owned(),
                name => format!("prepared statement \"{name}\" does not exist"),
            };
            Failure::new(SqlState::InvalidStatementName, what)
        })
    }

    fn portal(&self, name: &str) -> Result<&Rc<Portal>> {
        self.portals.get(name).ok_or_else(|| {
            Failure::new(
                SqlState::InvalidCursorName,
                format!("portal \"{name}\" does not exist"),
            )
        })
    }

    fn bind(&mut self, bind: Bind) -> Result<(), Failure> {
        let statement = self.statement(&bind.statement)?.clone();
        if !bind.portal.is_empty() && self.portals.get(&bind.portal).is_some() {
            return Err(Failure::new(
                SqlState::DuplicateCursor,
                format!("cursor \"{}\" already exists", bind.portal),
            ));
        }
        self.check_room()?;
        let types = statement.as_ref().map_or(&[][..], |s| &s.parameters);
        if bind.parameters.len() != types.len() {
            return Err(Failure::new(
                SqlState::ProtocolViolation,
                format!(
                    "bind message supplies {} parameters, but prepared statement \"{}\" requires {}",
                    bind.parameters.len(),
                    bind.statement,
                    types.len()
                ),
            ));
        }
        check_formats(&bind.parameter_formats, types.len(), "parameter formats")?;
        let width = columns(&statement).map_or(0, |c| c.len());
        check_formats(&bind.result_formats, width, "result formats")?;
        let mut parameters: Vec<Value> = Vec::with_capacity(types.len());
        for (i, (bytes, data_type)) in bind.parameters.iter().zip(types).enumerate() {
            let format = reply::format_of(&bind.parameter_formats, i);
            let shown = self.shown(&bind.statement, &statement, i);
            // A vector is shown and ordered by: the same long text twice.
            let same = i.checked_sub(1).filter(|before| {
                bytes
                    .as_ref()
                    .is_some_and(|bytes| bytes.len() >= SAME_BYTES_MIN)
                    && bind.parameters[*before] == *bytes
                    && types[*before] == *data_type
                    && reply::format_of(&bind.parameter_formats, *before) == format
                    && self.shown(&bind.statement, &statement, *before) == shown
            });
            parameters.push(match same {
                Some(before) => parameters[before].clone(),
                None => value::decode_shown(bytes.as_deref(), format, data_type, shown)?,
            });
        }
        let portal = Portal {
            statement,
            parameters: parameters.into(),
            formats: bind.result_formats,
            run: RefCell::new(Run::Waiting),
        };
        self.portals.insert(bind.portal, Rc::new(portal));
        Ok(())
    }

    /// An Execute that waits for its Sync, or a COPY.
    async fn execute(
        &mut self,
        name: &str,
        rows_max: u32,
        socket: &mut Socket,
        session: &mut Session,
    ) -> Result<(), Stop> {
        let portal = self.portal(name)?.clone();
        let waits = |d: &Deferred| match d {
            Deferred::Execute { portal, .. } => portal.writes(),
            Deferred::Output(_) => false,
        };
        if portal.writes() && portal.is_waiting() {
            if self.copied || self.deferred.iter().any(waits) {
                return Err(Stop::Failed(several_writes()));
            }
            let statement = portal.statement.as_ref().map(|s| &s.parsed.statement);
            let data = statement.map(|s| session.copy_in(s)).transpose()?.flatten();
            if let Some(data) = data {
                self.copied = true;
                portal.run.replace(Run::Ended {
                    tag: Tag::Empty,
                    wrote: true,
                });
                return copy(socket, session, data).await;
            }
        }
        self.deferred.push(Deferred::Execute { portal, rows_max });
        Ok(())
    }
}

impl Portal {
    fn writes(&self) -> bool {
        self.statement.as_ref().is_some_and(|s| s.writes())
    }

    /// It has not been run.
    fn is_waiting(&self) -> bool {
        matches!(*self.run.borrow(), Run::Waiting)
    }
}

/// `DEALLOCATE ALL`, unless a statement is called "all" in quotes.
fn is_all(name: &ast::Ident) -> bool {
    name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all")
}

fn check_formats(formats: &[Format], wanted: usize, what: &str) -> Result<()> {
    match formats.len() {
        0 | 1 => Ok(()),
        n if n == wanted => Ok(()),
        n => Err(Failure::new(
            SqlState::ProtocolViolation,
            format!("bind message has {n} {what} but {wanted} are needed"),
        )),
    }
}

fn columns(statement: &Statement) -> Option<&Columns> {
    statement.as_ref().and_then(|s| s.columns.as_ref())
}

fn describe_statement(out: &mut BytesMut, statement: &Statement, oids: &[u32]) {
    reply::parameter_description(out, oids.iter().copied());
    describe(out, columns(statement), &[]);
}

fn describe(out: &mut BytesMut, columns: Option<&Columns>, formats: &[Format]) {
    match columns {
        Some(columns) => reply::row_description(out, columns, formats),
        None => reply::empty(out, reply::NO_DATA),
    }
}

/// Runs a portal, or goes on with it, and sends at most `rows_max` rows (0: all).
pub(super) async fn execute(
    portal: &Rc<Portal>,
    rows_max: u32,
    socket: &mut Socket,
    session: &mut Session,
) -> Result<(), Stop> {
    let Some(statement) = &portal.statement else {
        reply::empty(&mut socket.out, reply::EMPTY_QUERY);
        return Ok(());
    };
    let state = portal.run.replace(Run::Ended {
        tag: Tag::Empty,
        wrote: true,
    });
    let (mut execution, rest) = match state {
        Run::Waiting => {
            let mut execution = {
                let run = pin!(session.run(statement, &portal.parameters));
                watched(socket, run).await??
            };
            notices(socket, session, &mut execution);
            (execution, None)
        }
        Run::Open { execution, rest } => (*execution, rest),
        Run::Ended { wrote: true, .. } => {
            return Err(Stop::Failed(Failure::new(
                SqlState::ObjectNotInPrerequisiteState,
                "portal cannot be run anymore",
            )));
        }
        Run::Ended { tag, wrote } => {
            complete(socket, &tag, 0);
            portal.run.replace(Run::Ended { tag, wrote });
            return Ok(());
        }
    };
    let limit = match rows_max {
        0 => u64::MAX,
        n => u64::from(n),
    };
    let (sent, rest) = match rest.is_none() && !execution.has_batches() {
        true => (row(portal, &mut execution, socket)?, None),
        // On the heap, so that the read of a row is not moved about with room for it.
        false => Box::pin(rows(portal, &mut execution, rest, limit, socket)).await?,
    };
    count_rows(session, sent);
    if sent == limit {
        // The end is not known until another row is asked for, as in PostgreSQL.
        reply::empty(&mut socket.out, reply::PORTAL_SUSPENDED);
        let execution = Box::new(execution);
        portal.run.replace(Run::Open { execution, rest });
        return Ok(());
    }
    complete(socket, &execution.tag, sent);
    portal.run.replace(Run::Ended {
        tag: execution.tag.clone(),
        wrote: statement.writes(),
    });
    Ok(())
}

/// Sends the only row, if there is one; gives the number of rows.
fn row(portal: &Portal, execution: &mut Execution, socket: &mut Socket) -> Result<u64> {
    let (Some(columns), Some(row)) = (execution.columns.clone(), execution.take_row()) else {
        return Ok(0);
    };
    let mut scratch = String::new();
    value::data_row(
        &mut socket.out,
        &row,
        &columns,
        &portal.formats,
        &mut scratch,
    )?;
    Ok(1)
}

/// Sends up to `limit` rows; gives their number and what is left of the last batch.
async fn rows(
    portal: &Portal,
    execution: &mut Execution,
    mut rest: Option<RecordBatch>,
    limit: u64,
    socket: &mut Socket,
) -> Result<(u64, Option<RecordBatch>), Stop> {
    let Some(columns) = execution.columns.clone() else {
        return Ok((0, None));
    };
    let mut sent = 0;
    let mut scratch = String::new();
    while sent < limit {
        let batch = match rest.take() {
            Some(batch) => batch,
            None => match watched(socket, pin!(execution.next())).await?? {
                Some(batch) => batch,
                None => break,
            },
        };
        let wanted = (limit - sent).min(batch.num_rows() as u64) as usize;
        let mut from = 0;
        while from < wanted {
            from += value::data_rows(
                &mut socket.out,
                &batch,
                &columns,
                &portal.formats,
                from..wanted,
                OUT_BYTES,
                &mut scratch,
            )?;
            socket.flush_if_full().await?;
        }
        sent += wanted as u64;
        if wanted < batch.num_rows() {
            rest = Some(batch.slice(wanted, batch.num_rows() - wanted));
        }
    }
    Ok((sent, rest))
}
