//! `ndb`: the server, the shell and the tools in one binary.

mod demo;
mod embedded;
mod load;
mod render;
mod serve;
mod shell;
mod split;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use nodedb_client::{Client, Failure};
use nodedb_server::config::nearest;
use nodedb_server::schedule;
use nodedb_types::breath;

use embedded::Embedded;
use load::source::{self, FileFormat};
use load::watch::{Interrupted, Progress};
use render::Format;
use shell::{Exit, Shell};

/// Where `ndb` alone and `ndb demo` keep their data.
const DATA_DIR: &str = "./ndb-data";
const DEMO_DIR: &str = "./ndb-demo";
const URL: &str = "ndb://127.0.0.1:6433";
/// Exit code for wrong arguments, as for those that the parser of them finds.
const MISUSED: u8 = 2;
/// Behind the help of what runs statements.
const EXIT_CODES: &str = "\
Exit codes: 0 all went well, 1 a command of the shell failed, 2 wrong arguments or no connection, \
3 a statement failed";

/// What one thread allocates another frees here, request by request: glibc's allocator pays for that
/// with locks, and for a large block it merges all its small free ones at once, within one turn of a
/// core. What is free for long goes back to the system from threads of the allocator's own (its
/// feature `background_threads`): done by whoever frees, it took a core up to three milliseconds in
/// one turn. Figures are in `docs/benchmarks.md`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// NodeDB: one question over documents, text, places and vectors.
#[derive(Parser)]
#[command(name = "ndb", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Data directory of the embedded node that a plain `ndb` opens
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    statements: Statements,
}

#[derive(Subcommand)]
enum Command {
    /// Run statements on a server
    Sql(Sql),
    /// Load a CSV, TSV, NDJSON or Parquet file into a collection
    Import(Import),
    /// Load real data into a fresh node, ask the cross-engine question, explain the answer
    Demo(Demo),
}

#[derive(Args)]
struct Statements {
    /// Run this text and exit, several one after the other; otherwise standard input or a prompt
    #[arg(short, long = "command", value_name = "SQL")]
    commands: Vec<String>,
    /// Run the statements of a file and exit; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "commands")]
    file: Option<PathBuf>,
    /// How results look
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
struct Sql {
    /// The server
    #[arg(long, default_value = URL)]
    url: String,
    #[command(flatten)]
    statements: Statements,
}

#[derive(Args)]
struct Import {
    /// A .csv, .tsv, .ndjson, .jsonl or .parquet file, text also as .zst; - is standard input
    file: PathBuf,
    /// What the file holds, whatever its name ends with
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// The collection; it exists already
    #[arg(long)]
    into: String,
    /// The server; without it an embedded node in ./ndb-data
    #[arg(long)]
    url: Option<String>,
}

#[derive(Args)]
struct Demo {
    /// Compare every answer with brute force
    #[arg(long)]
    check: bool,
    /// Folder with packages.parquet of the whole data set, instead of the extract
    #[arg(long, value_name = "DIR")]
    full: Option<PathBuf>,
    /// Where the demo's node keeps its data
    #[arg(long, value_name = "DIR", default_value = DEMO_DIR)]
    data_dir: PathBuf,
}

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    if let Some(Err(wrong)) = first.as_deref().map(check_is_command) {
        return misused(&wrong);
    }
    let command = Cli::command().subcommand(serve::command());
    let arguments = command.get_matches();
    // The folder may stand behind options.
    let folder = arguments.get_one::<PathBuf>("data_dir");
    if let Some(Err(wrong)) = folder.and_then(|f| f.to_str()).map(check_is_command) {
        return misused(&wrong);
    }
    let done = match arguments.subcommand() {
        // Its flags come from the table of settings.
        Some(("serve", arguments)) => serve::run(arguments).map(|()| Exit::Good),
        _ => Cli::from_arg_matches(&arguments)
            .map_err(Into::into)
            .and_then(run),
    };
    match done {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            let error = match error.downcast::<Failure>() {
                Ok(failure) => serve::explained(&failure),
                Err(error) => error,
            };
            // Without a standard error there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "ndb: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<Exit> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all();
    if let Some(Command::Import(Import { url: Some(_), .. })) = &cli.command {
        // The server often shares the machine and has other clients to answer.
        schedule::stand_back();
        runtime.on_thread_start(breath::begin);
    }
    let runtime = runtime.build().context("cannot start")?;
    runtime.block_on(async {
        match cli.command {
            Some(Command::Sql(sql)) => match Client::connect(&sql.url).await {
                Ok(client) => statements(client, sql.statements).await,
                Err(failure) => Ok(not_connected(&failure)),
            },
            Some(Command::Import(import)) => import_file(import).await,
            Some(Command::Demo(demo)) => run_demo(demo).await,
            None => {
                let dir = cli.data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR));
                let node = Embedded::open(&dir).await?;
                let exit = statements(node.client().clone(), cli.statements).await?;
                node.close()?;
                Ok(exit)
            }
        }
    })
}

fn not_connected(failure: &Failure) -> Exit {
    eprintln!("ndb: {:#}", serve::explained(failure));
    Exit::ConnectionLost
}

/// A word that is neither a command nor something on disk is a slip of the pen, not the name of a
/// new data directory: that is given with a `/`.
fn check_is_command(word: &str) -> Result<()> {
    let commands = ["serve", "sql", "import", "demo", "help"];
    if word.starts_with('-')
        || word.contains('/')
        || commands.contains(&word)
        || Path::new(word).exists()
    {
        return Ok(());
    }
    let hint = match nearest(word, commands.into_iter()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!(
            "commands are {}; statements are run by ndb sql -c or ndb -c",
            commands.join(", ")
        ),
    };
    bail!("no command \"{word}\"\n  {hint}\n  a new data directory is written ./{word}");
}

/// Tells of arguments that mean nothing.
fn misused(wrong: &anyhow::Error) -> ExitCode {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "ndb: {wrong:#}");
    ExitCode::from(MISUSED)
}

async fn statements(client: Client, statements: Statements) -> Result<Exit> {
    let mut shell = Shell::new(client, statements.format);
    match statements.file {
        None if !statements.commands.is_empty() => shell.run_arguments(&statements.commands).await,
        Some(path) if path != Path::new("-") => {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            shell.run_text(&text).await
        }
        Some(_) => shell.run_stdin().await,
        None => shell.run_input().await,
    }
}

async fn import_file(import: Import) -> Result<Exit> {
    let node = match &import.url {
        Some(_) => None,
        None => Some(Embedded::open(Path::new(DATA_DIR)).await?),
    };
    let client = match (&node, &import.url) {
        (Some(node), _) => node.client().clone(),
        (None, url) => match Client::connect(url.as_deref().unwrap_or(URL)).await {
            Ok(client) => client,
            Err(failure) => return Ok(not_connected(&failure)),
        },
    };
    let progress = Arc::new(Progress::default());
    tokio::spawn(progress.clone().watch());
    let loaded = source::file(
        &client,
        &import.file,
        import.format,
        &import.into,
        &progress,
    )
    .await;
    let rows = match loaded {
        Err(error) if error.is::<Interrupted>() => {
            // Rows of the statement that was under way are counted by now.
            eprintln!("ndb: {}", progress.interrupted());
            if let Some(node) = node {
                node.close()?;
            }
            return Ok(Exit::Interrupted);
        }
        loaded => loaded?,
    };
    let rows = load::watch::rows_were(rows);
    writeln!(std::io::stdout(), "{rows} committed to {}", import.into)?;
    if let Some(node) = node {
        node.close()?;
    }
    Ok(Exit::Good)
}

async fn run_demo(demo: Demo) -> Result<Exit> {
    let node = Embedded::open(&demo.data_dir).await?;
    demo::run(node.client(), demo.full.as_deref(), demo.check).await?;
    let addresses = node.addresses();
    writeln!(
        std::io::stdout(),
        "While this runs, connect with:\n  psql -h {} -p {} -d nodedb\n  \
         curl -H 'Content-Type: application/sql' -d 'SELECT count(*) FROM packages' http://{}/v1/query\n",
        addresses.pg.ip(),
        addresses.pg.port(),
        addresses.http,
    )?;
    let mut exit = Exit::Good;
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        exit = Shell::new(node.client().clone(), Format::Table)
            .run_input()
            .await?;
    }
    node.close()?;
    Ok(exit)
}
