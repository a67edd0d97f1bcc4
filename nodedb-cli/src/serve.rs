//! `ndb serve`: a node in the foreground, until it is told to stop.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, Command};
use nodedb_server::config::SETTINGS;
use nodedb_server::{Config, Node};
use nodedb_types::Failure;
use tokio::signal::unix::{SignalKind, signal};

/// Name of a setting's flag: dashes for underscores.
fn flag(name: &str) -> String {
    name.replace('_', "-")
}

/// The command, with a flag for each setting.
pub fn command() -> Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("settings as TOML; flags and NODEDB_* go before it");
    let command = Command::new("serve")
        .about("Serve a data directory to psql, drivers and HTTP")
        .arg(file);
    SETTINGS.iter().fold(command, |command, setting| {
        command.arg(
            Arg::new(setting.name)
                .long(flag(setting.name))
                .value_name("VALUE")
                .help(format!("{} [default: {}]", setting.help, setting.default)),
        )
    })
}

/// A failure as the lines that an operator reads.
pub fn explained(failure: &Failure) -> anyhow::Error {
    let mut text = failure.message().to_owned();
    for more in [failure.detail(), failure.hint()].into_iter().flatten() {
        text.push_str("\n  ");
        text.push_str(more);
    }
    anyhow::anyhow!(text)
}

/// Serves until SIGINT or SIGTERM.
pub fn run(arguments: &ArgMatches) -> Result<()> {
    let flags = SETTINGS.iter().filter_map(|setting| {
        let value = arguments.get_one::<String>(setting.name)?;
        Some((setting.name.to_owned(), value.clone()))
    });
    let file = arguments.get_one::<String>("config").map(Path::new);
    let config =
        Config::load(file, std::env::vars(), flags).map_err(|failure| explained(&failure))?;
    let node = Node::open(&config).map_err(|failure| explained(&failure))?;
    for remark in node.remarks() {
        eprintln!("ndb: {remark}");
    }
    announce(&node)?;
    let broken = wait(&node)?;
    node.stop().map_err(|failure| explained(&failure))?;
    match broken {
        true => bail!("a core has ended"),
        false => Ok(()),
    }
}

/// The line that says that clients are let in.
fn announce(node: &Node) -> Result<()> {
    use std::io::Write;
    let addresses = node.addresses();
    let mut out = std::io::stdout().lock();
    let (pg, http, native) = (addresses.pg, addresses.http, addresses.native);
    writeln!(out, "ready pg={pg} http={http} native={native}")?;
    out.flush()?;
    eprintln!("  ndb sql --url ndb://{native}");
    eprintln!("  psql -h {} -p {} -d nodedb", pg.ip(), pg.port());
    eprintln!("  curl -H 'Content-Type: application/sql' -d 'SELECT 1' http://{http}/v1/query");
    Ok(())
}

/// Waits for a signal; true when a core ended on its own instead.
fn wait(node: &Node) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for signals")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut look = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted?;
                    return Ok(false);
                }
                _ = terminate.recv() => return Ok(false),
                _ = look.tick() => {
                    if node.is_broken() {
                        return Ok(true);
                    }
                }
            }
        }
    })
}
