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

use embedded::Embedded;
use load::source::{self, FileFormat};
use load::watch::{Interrupted, Progress};
use render::Format;
use shell::{Exit, Shell};

/// Where `ndb` alone and `ndb demo` keep their data.
const DATA_DIR: &str = "./ndb-data";
const DEMO_DIR: &str = "./ndb-demo";
const URL: &str = "ndb://127.0.0.1:6433";

/// What one thread allocates another frees here, request by request: glibc's allocator pays for that
/// with locks, and for a large block it merges all its small free ones at once, within one turn of a
/// core. Figures are in `docs/benchmarks.md`.
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
    /// Load a CSV, NDJSON or Parquet file into a collection
    Import(Import),
    /// Load real data into a fresh node, ask the cross-engine question, explain the answer
    Demo(Demo),
}

#[derive(Args)]
struct Statements {
    /// Run this text and exit; otherwise standard input or a prompt
    #[arg(short, long = "command", value_name = "SQL")]
    command_text: Option<String>,
    /// How results look
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Args)]
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
    let first = std::env::args_os().nth(1);
    if let Some(Err(typo)) = first
        .as_ref()
        .and_then(|w| w.to_str())
        .map(check_is_no_typo)
    {
        eprintln!("ndb: {typo}");
        return ExitCode::FAILURE;
    }
    let command = Cli::command().subcommand(serve::command());
    let arguments = command.get_matches();
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
    if let Some(Command::Import(Import { url: Some(_), .. })) = &cli.command {
        // The server often shares the machine and has other clients to answer.
        schedule::give_way();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start")?;
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

/// A first word that is nearly a command is not taken for a new data directory.
fn check_is_no_typo(word: &str) -> Result<()> {
    let commands = ["serve", "sql", "import", "demo", "help"];
    if word.starts_with('-') || commands.contains(&word) || Path::new(word).exists() {
        return Ok(());
    }
    if let Some(near) = nearest(word, commands.into_iter()) {
        bail!("no command \"{word}\"\n  did you mean \"{near}\"? A new data directory is ./{word}");
    }
    Ok(())
}

async fn statements(client: Client, statements: Statements) -> Result<Exit> {
    let mut shell = Shell::new(client, statements.format);
    match statements.command_text {
        Some(text) => shell.run_text(&text).await,
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
