//! `/metrics` in Prometheus' text format, from one table.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use nodedb_bridge::request::{CoreReport, Op};
use nodedb_types::Result;

use crate::node::Worker;

/// Upper bounds of the classes of `CoreReport::turns_cpu` and of `Polls`, in seconds.
const TURN_BOUNDS: [&str; 5] = ["0.0001", "0.00025", "0.0005", "0.001", "0.002"];

/// The node's counters and each core's report.
pub async fn text(worker: &Worker) -> Result<String> {
    let mut out = String::new();
    let node = &worker.node;
    let c = &node.counters;
    let plain = [
        (
            "ndb_statements_total",
            "counter",
            "Statements run.",
            c.statements.load(Ordering::Relaxed),
        ),
        (
            "ndb_statement_failures_total",
            "counter",
            "Statements that failed.",
            c.failures.load(Ordering::Relaxed),
        ),
        (
            "ndb_statement_retries_total",
            "counter",
            "Times a statement was tried again.",
            c.retries.load(Ordering::Relaxed),
        ),
        (
            "ndb_rows_sent_total",
            "counter",
            "Rows sent to clients.",
            c.rows_sent.load(Ordering::Relaxed),
        ),
        (
            "ndb_rows_written_total",
            "counter",
            "Rows written by statements.",
            c.rows_written.load(Ordering::Relaxed),
        ),
        (
            "ndb_connections_total",
            "counter",
            "Connections of PostgreSQL's protocol.",
            c.connections.load(Ordering::Relaxed),
        ),
        (
            "ndb_sessions",
            "gauge",
            "Sessions that are open.",
            node.sessions.len() as u64,
        ),
        (
            "ndb_read_only",
            "gauge",
            "1 when the node is read-only until restart.",
            c.latched.load(Ordering::Relaxed),
        ),
    ];
    for (name, kind, help, value) in plain {
        head(&mut out, name, kind, help);
        line(&mut out, &format!("{name} {value}"));
    }
    head(
        &mut out,
        "ndb_poll_seconds",
        "histogram",
        "Wall time for which a worker is with one task at a stretch.",
    );
    histogram(&mut out, "ndb_poll_seconds", "", &node.polls.counts());
    let statement = worker.system_statement(node.clock.now());
    let readers = worker
        .dispatcher
        .broadcast(&statement, |_| Op::Report)
        .await;
    let mut reports = Vec::new();
    for reader in readers {
        reports.push(worker.dispatcher.report(reader).await?);
    }
    cores(&mut out, &reports);
    Ok(out)
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    line(out, &format!("# HELP {name} {help}"));
    line(out, &format!("# TYPE {name} {kind}"));
}

fn line(out: &mut String, line: &str) {
    writeln!(out, "{line}").expect("a string takes all");
}

/// A figure of each core: name, kind, help, and where it stands in a report.
type PerCore = (
    &'static str,
    &'static str,
    &'static str,
    fn(&CoreReport) -> u64,
);

fn cores(out: &mut String, reports: &[CoreReport]) {
    let plain: [PerCore; 14] = [
        (
            "ndb_rows",
            "gauge",
            "Live rows of user collections by core.",
            |r| r.rows,
        ),
        (
            "ndb_wal_bytes",
            "gauge",
            "Bytes of log that exist: for a restart, for streams, and prepared.",
            |r| r.wal_bytes,
        ),
        (
            "ndb_events_left_to_log_total",
            "counter",
            "Commits that change streams read from the log, their ring having been full.",
            |r| r.events_left_to_log,
        ),
        (
            "ndb_checkpoints_total",
            "counter",
            "Checkpoints of single shards that ended.",
            |r| r.checkpoints.ended,
        ),
        (
            "ndb_checkpoints_abandoned_total",
            "counter",
            "Rounds of checkpoints that were put off for want of space.",
            |r| r.checkpoints.abandoned,
        ),
        (
            "ndb_checkpoint_written_bytes_total",
            "counter",
            "Bytes that checkpoints wrote.",
            |r| r.checkpoints.written_bytes,
        ),
        (
            "ndb_checkpoint_replay_microseconds",
            "gauge",
            "What a start would spend on applying the log, estimated.",
            |r| r.checkpoints.replay_us,
        ),
        (
            "ndb_store_bytes",
            "gauge",
            "Bytes of the shards' files.",
            |r| r.checkpoints.store_bytes,
        ),
        (
            "ndb_store_free_bytes",
            "gauge",
            "Bytes of the shards' files that hold nothing.",
            |r| r.checkpoints.store_free_bytes,
        ),
        (
            "ndb_leaf_bytes",
            "gauge",
            "Bytes of rows and key pages in memory.",
            |r| r.leaves.bytes,
        ),
        (
            "ndb_leaf_unwritten_bytes",
            "gauge",
            "Bytes of those that stay in memory until a checkpoint has written them.",
            |r| r.leaves.unwritten_bytes,
        ),
        (
            "ndb_leaf_max_bytes",
            "gauge",
            "Bytes of rows and key pages that there is memory for.",
            |r| r.leaves.bytes_max,
        ),
        (
            "ndb_leaf_reads_total",
            "counter",
            "Segments of rows and key pages read back from the shards' files.",
            |r| r.leaves.read,
        ),
        (
            "ndb_leaf_evictions_total",
            "counter",
            "Segments of rows and key pages dropped from memory.",
            |r| r.leaves.evicted,
        ),
    ];
    for (name, kind, help, value) in plain {
        head(out, name, kind, help);
        for (core, report) in reports.iter().enumerate() {
            line(out, &format!("{name}{{core=\"{core}\"}} {}", value(report)));
        }
    }
    head(
        out,
        "ndb_memory_bytes",
        "gauge",
        "Bytes of memory by what they are for, without what was dropped from it.",
    );
    for (core, report) in reports.iter().enumerate() {
        let memory = &report.memory;
        for (owner, bytes) in [
            ("rows", memory.rows),
            ("keys", memory.keys),
            ("indexes", memory.indexes),
        ] {
            line(
                out,
                &format!("ndb_memory_bytes{{core=\"{core}\",owner=\"{owner}\"}} {bytes}"),
            );
        }
    }
    for (name, help, turns) in [
        (
            "ndb_turn_seconds",
            "CPU time of a core's turns.",
            (|r| &r.turns_cpu) as fn(&CoreReport) -> &[u64; 6],
        ),
        (
            "ndb_turn_wall_seconds",
            "Wall time of a core's turns.",
            |r| &r.turns_wall,
        ),
    ] {
        head(out, name, "histogram", help);
        for (core, report) in reports.iter().enumerate() {
            histogram(out, name, &format!("core=\"{core}\""), turns(report));
        }
    }
}

/// `label`: `name="value"` of this series, or nothing.
fn histogram(out: &mut String, name: &str, label: &str, counts: &[u64; 6]) {
    let mut sum = 0;
    let comma = if label.is_empty() { "" } else { "," };
    let classes = TURN_BOUNDS.into_iter().chain(["+Inf"]);
    for (bound, count) in classes.zip(counts) {
        sum += count;
        line(
            out,
            &format!("{name}_bucket{{{label}{comma}le=\"{bound}\"}} {sum}"),
        );
    }
    match label {
        "" => line(out, &format!("{name}_count {sum}")),
        label => line(out, &format!("{name}_count{{{label}}} {sum}")),
    }
}
