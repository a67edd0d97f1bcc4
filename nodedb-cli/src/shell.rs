//! `ndb sql`: runs statements from `-c`, standard input or a prompt, over the native protocol.
//!
//! Exit codes are psql's: 0 when all went well, 1 for a fatal error of the shell itself and for a
//! backslash command that failed in `-c`, 2 when the connection was lost, 3 when a statement, or a
//! backslash command in a script, failed outside of a prompt.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nodedb_client::{Client, Failure, Rows, SqlState};
use reedline::{
    ColumnarMenu, Completer, DefaultCompleter, DefaultHinter, Emacs, FileBackedHistory, KeyCode,
    KeyModifiers, MenuBuilder, Prompt, PromptEditMode, PromptHistorySearch, Reedline,
    ReedlineEvent, ReedlineMenu, Signal, ValidationResult, Validator, default_emacs_keybindings,
};

use crate::render::{self, Format, Length, Lines};
use crate::split;

/// What the process ends with.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Good = 0,
    CommandFailed = 1,
    ConnectionLost = 2,
    StatementFailed = 3,
    /// Of an import, by SIGINT.
    Interrupted = crate::load::watch::INTERRUPTED,
}

pub struct Shell {
    client: Client,
    format: Format,
    timing: bool,
}

/// Statements longer than this are not kept in the history.
const HISTORY_STATEMENT_BYTES: usize = 10_000;
const HISTORY_ENTRIES: usize = 5_000;

const HELP: &str = "\
Statements end with a semicolon. Commands:
  \\d             collections, indexes and streams
  \\d NAME        columns and indexes of a collection
  \\dt            collections         \\di             indexes
  \\timing        switch timing, or: \\timing on, \\timing off
  \\format F      table, csv, json or ndjson
  \\?             this help           \\q              quit
";

/// What `\d` lists, by kind.
const RELATIONS: &str = "SELECT name, kind, collection FROM (\
    SELECT tablename AS name, 'collection' AS kind, NULL AS collection FROM pg_catalog.pg_tables \
    WHERE schemaname = 'public' UNION ALL \
    SELECT indexname, 'index', tablename FROM pg_catalog.pg_indexes WHERE schemaname = 'public' \
    UNION ALL SELECT name, 'stream', collection FROM pg_catalog.ndb_streams) AS t";

impl Shell {
    pub fn new(client: Client, format: Format) -> Shell {
        Shell {
            client,
            format,
            timing: false,
        }
    }

    /// Runs the text of each `-c`, up to the first that fails.
    pub async fn run_arguments(&mut self, texts: &[String]) -> Result<Exit> {
        for text in texts {
            let is_command = split::skip_blank(text).starts_with('\\');
            match self.run_text(text).await? {
                Exit::Good => {}
                Exit::StatementFailed if is_command => return Ok(Exit::CommandFailed),
                failed => return Ok(failed),
            }
        }
        Ok(Exit::Good)
    }

    /// Runs the statements and backslash commands of a text, one after the other, and stops at the
    /// first that fails.
    pub async fn run_text(&mut self, text: &str) -> Result<Exit> {
        let mut rest = text;
        while !split::is_blank(rest) {
            rest = split::skip_blank(rest);
            if rest.starts_with('\\') {
                let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
                match self.command(line).await? {
                    Some(Exit::Good) => rest = after,
                    Some(failed) => return Ok(failed),
                    None => return Ok(Exit::Good),
                }
                continue;
            }
            let end = split::end_of_statement(rest).unwrap_or(rest.len());
            let exit = self.run(&rest[..end]).await?;
            if exit != Exit::Good {
                return Ok(exit);
            }
            rest = &rest[end..];
        }
        Ok(Exit::Good)
    }

    /// Runs what standard input holds, or prompts when that is a terminal.
    pub async fn run_input(&mut self) -> Result<Exit> {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            return self.prompt().await;
        }
        self.run_stdin().await
    }

    /// Runs what standard input holds.
    pub async fn run_stdin(&mut self) -> Result<Exit> {
        let mut text = String::new();
        io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        self.run_text(&text).await
    }

    /// Runs one statement and shows its answer or its error.
    async fn run(&mut self, statement: &str) -> Result<Exit> {
        let statement = statement.trim();
        if split::is_blank(statement) {
            return Ok(Exit::Good);
        }
        let begin = Instant::now();
        // Dropping the answer stops the work on the server.
        let outcome = tokio::select! {
            outcome = self.answer(statement) => outcome,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                Err(Failure::new(
                    SqlState::QueryCanceled,
                    "canceling statement due to user request",
                ))
            }
        };
        let took = begin.elapsed();
        match outcome {
            Ok(()) => {
                if self.timing {
                    println(&format!("Time: {}", show(took)))?;
                }
                Ok(Exit::Good)
            }
            Err(failure) => {
                eprint!("{}", render::failure(&failure, statement));
                let lost = failure.code() == SqlState::IoError && self.client.ping().await.is_err();
                Ok(if lost {
                    Exit::ConnectionLost
                } else {
                    Exit::StatementFailed
                })
            }
        }
    }

    async fn answer(&self, statement: &str) -> Result<(), Failure> {
        let mut rows = self.client.sql(statement, &[]).await?;
        let columns = rows.columns().await?;
        let mut out = BufWriter::new(io::stdout().lock());
        if let Some(lines) = Lines::of(self.format, &columns) {
            return stream(&lines, &mut rows, &mut out).await;
        }
        let mut all = Vec::new();
        while let Some(row) = rows.next().await? {
            all.push(row);
        }
        if columns.is_empty() {
            let command = rows
                .done()
                .map(|done| done.command.as_str())
                .unwrap_or_default();
            // Machine-readable formats carry rows only.
            if self.format != Format::Table {
                return Ok(());
            }
            return written(writeln!(out, "{command}").and_then(|()| out.flush()));
        }
        let shown = match self.format {
            Format::Json => render::json_array(&mut out, &columns, &all),
            _ => render::table(&mut out, Length::of_stdout(), &columns, &all),
        };
        written(shown.and_then(|()| out.flush()))
    }

    /// A backslash command: how it went, or `None` when the shell is to end.
    async fn command(&mut self, line: &str) -> Result<Option<Exit>> {
        let mut exit = Exit::Good;
        let mut words = line.trim().trim_end_matches(';').split_whitespace();
        match (words.next().unwrap_or_default(), words.next()) {
            ("\\q" | "exit" | "quit", _) => return Ok(None),
            ("\\?" | "\\h" | "help", _) => println(HELP)?,
            ("\\timing", wanted) => {
                self.timing = match wanted {
                    None => !self.timing,
                    Some("on") => true,
                    Some("off") => false,
                    Some(other) => {
                        eprintln!("\\timing takes on or off, not {other}");
                        return Ok(Some(Exit::StatementFailed));
                    }
                };
                println(match self.timing {
                    true => "Timing is on.",
                    false => "Timing is off.",
                })?;
            }
            ("\\d", None) => exit = self.relations("").await?,
            ("\\dt", None) => exit = self.relations("WHERE kind = 'collection'").await?,
            ("\\di", None) => exit = self.relations("WHERE kind = 'index'").await?,
            ("\\d", Some(name)) => {
                exit = self
                    .run(&format!("DESCRIBE {}", crate::load::quote(name)))
                    .await?;
            }
            ("\\format", Some(name)) => match <Format as clap::ValueEnum>::from_str(name, true) {
                Ok(format) => self.format = format,
                Err(_) => {
                    eprintln!("formats are table, csv, json and ndjson, not {name}");
                    exit = Exit::StatementFailed;
                }
            },
            (other, _) => {
                eprintln!("invalid command {other}\n  \\? lists the commands");
                exit = Exit::StatementFailed;
            }
        }
        Ok(Some(exit))
    }

    async fn relations(&mut self, which: &str) -> Result<Exit> {
        self.run(&format!("{RELATIONS} {which} ORDER BY kind, name"))
            .await
    }

    async fn prompt(&mut self) -> Result<Exit> {
        let mut editor = self.editor().await?;
        println("\\? for help, \\q to quit")?;
        loop {
            // The editor blocks its thread; the connection's tasks need theirs meanwhile.
            let (back, signal) = tokio::task::spawn_blocking(move || {
                let signal = editor.read_line(&NdbPrompt);
                (editor, signal)
            })
            .await?;
            editor = back;
            match signal? {
                Signal::Success(text) => {
                    let line = text.trim();
                    if line.starts_with('\\') || matches!(line, "exit" | "quit" | "help") {
                        match self.command(line).await? {
                            None => return Ok(Exit::Good),
                            Some(Exit::ConnectionLost) => return Ok(Exit::ConnectionLost),
                            Some(_) => {}
                        }
                    } else if self.run_text(&text).await? == Exit::ConnectionLost {
                        return Ok(Exit::ConnectionLost);
                    } else if changes_names(line) {
                        editor = editor.with_completer(self.completer().await);
                    }
                }
                Signal::CtrlD => return Ok(Exit::Good),
                _ => {}
            }
        }
    }

    async fn editor(&self) -> Result<Reedline> {
        let mut keys = default_emacs_keybindings();
        keys.add_binding(
            KeyModifiers::NONE,
            KeyCode::Tab,
            ReedlineEvent::UntilFound(vec![
                ReedlineEvent::Menu("completion".to_owned()),
                ReedlineEvent::MenuNext,
            ]),
        );
        let mut editor = Reedline::create()
            .with_validator(Box::new(WholeStatements))
            .with_hinter(Box::new(DefaultHinter::default()))
            .with_completer(self.completer().await)
            .with_quick_completions(true)
            .with_partial_completions(true)
            .with_menu(ReedlineMenu::EngineCompleter(Box::new(
                ColumnarMenu::default().with_name("completion"),
            )))
            .with_edit_mode(Box::new(Emacs::new(keys)));
        if let Some(path) = history_path() {
            editor = editor.with_history(Box::new(FileBackedHistory::with_file(
                HISTORY_ENTRIES,
                path,
            )?));
        }
        // What looks like a secret, and bulk data, is not remembered.
        Ok(editor.with_history_exclusion_prefix(Some(" ".to_owned())))
    }

    /// Keywords, and the names that the server knows now.
    async fn completer(&self) -> Box<dyn Completer + Send> {
        // As they are typed: in capitals or not.
        let keywords = KEYWORDS.split_whitespace();
        let mut words: Vec<String> = keywords
            .flat_map(|word| [word.to_owned(), word.to_lowercase()])
            .collect();
        let names = "SELECT c.relname FROM pg_catalog.pg_class c UNION SELECT a.attname FROM \
                     pg_catalog.pg_attribute a WHERE a.attnum > 0 UNION SELECT s.name FROM \
                     pg_catalog.ndb_streams s";
        if let Ok(rows) = self.client.sql(names, &[]).await
            && let Ok(rows) = rows.collect().await
        {
            for row in rows {
                if let Some(nodedb_client::Value::Text(name)) = row.values().first() {
                    words.push(name.clone());
                }
            }
        }
        let mut completer = DefaultCompleter::with_inclusions(&['_', '.']);
        completer.insert(words);
        Box::new(completer)
    }
}

const KEYWORDS: &str = "\
    SELECT FROM WHERE AND OR NOT NULL ORDER BY GROUP HAVING LIMIT OFFSET JOIN LEFT RIGHT FULL INNER \
    CROSS ON USING UNION INTERSECT EXCEPT DISTINCT INSERT INTO VALUES UPDATE SET DELETE RETURNING \
    CONFLICT DO NOTHING CREATE COLLECTION TABLE INDEX CHANGE STREAM DROP EXISTS PRIMARY KEY WITH \
    SINCE STREAMS JOBS COLLECTIONS EXPLAIN ANALYZE SHOW DESCRIBE CHECK COPY BIGINT INT TEXT BOOLEAN NUMERIC DOUBLE PRECISION UUID \
    BYTEA DATE TIMESTAMP TIMESTAMPTZ INTERVAL JSONB VECTOR GEOGRAPHY GEOMETRY POINT text_match \
    bm25_score ST_DWithin ST_Point ST_Distance fulltext rtree hnsw btree vector_cosine_ops count \
    sum avg min max between like is in asc desc";

/// Writes rows as they come, and what there is before waiting for more. A reader that has seen
/// enough ends the statement.
async fn stream(lines: &Lines, rows: &mut Rows, out: &mut impl Write) -> Result<(), Failure> {
    let mut wrote = lines.begin(out);
    while wrote.is_ok() {
        let mut next = pin!(rows.next());
        let ready = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
        let row = match ready {
            Poll::Ready(row) => row,
            Poll::Pending => {
                wrote = out.flush();
                next.await
            }
        };
        match row {
            Ok(Some(row)) => wrote = wrote.and_then(|()| lines.row(out, &row)),
            Ok(None) => return written(wrote.and_then(|()| out.flush())),
            Err(failure) => {
                written(out.flush())?;
                return Err(failure);
            }
        }
    }
    written(wrote)
}

/// How writing a result went. A reader that has seen enough (`| head`) is none to tell.
fn written(outcome: io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            SqlState::IoError,
            format!("cannot write: {e}"),
        )),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether there may be other names to complete after a statement.
fn changes_names(statement: &str) -> bool {
    let word = statement.split_whitespace().next().unwrap_or_default();
    ["create", "drop"].contains(&word.to_ascii_lowercase().as_str())
}

fn show(took: Duration) -> String {
    format!("{:.3} ms", took.as_secs_f64() * 1e3)
}

fn println(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{}", text.trim_end_matches('\n'))
}

fn history_path() -> Option<PathBuf> {
    let home = std::env::var_os("HOME")?;
    Some(PathBuf::from(home).join(".ndb_history"))
}

/// Enter ends the input when it holds a whole statement or a command.
struct WholeStatements;

impl Validator for WholeStatements {
    fn validate(&self, text: &str) -> ValidationResult {
        let line = text.trim();
        let command = line.starts_with('\\') || matches!(line, "exit" | "quit" | "help");
        let whole = command
            || split::is_blank(line)
            || (line.ends_with(';') && split::end_of_statement(text).is_some())
            || line.len() > HISTORY_STATEMENT_BYTES;
        if whole {
            ValidationResult::Complete
        } else {
            ValidationResult::Incomplete
        }
    }
}

struct NdbPrompt;

impl Prompt for NdbPrompt {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        Cow::Borrowed("nodedb")
    }
    fn render_prompt_right(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }
    fn render_prompt_indicator(&self, _: PromptEditMode) -> Cow<'_, str> {
        Cow::Borrowed("=> ")
    }
    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        Cow::Borrowed("     -> ")
    }
    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        Cow::Owned(format!("(search: {}) ", search.term))
    }
}
