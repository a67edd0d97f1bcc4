//! Measures a durable commit through the log: `cargo run --release -p nodedb-data --example
//! wal_commit [DIRECTORY] [COMMITS]`.
//!
//! For each backend that the host allows it commits one row of 200 bytes at a time, then a hundred
//! rows at a time, each commit waiting for the one before, and prints the median, the 99th
//! percentile and the processor time per commit. The directory's disk is what is measured, so it
//! belongs beside every figure taken from this.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use nodedb_data::io::threads::ThreadIo;
use nodedb_data::io::uring::UringIo;
use nodedb_data::io::{Io, IoHandle, drive, probe_uring};
use nodedb_data::wal::{ChainId, Record, RecordHeader, RecordKind, Wal, WalConfig, open_dir};
use nodedb_types::{ActorId, CollectionId, CommitTs, CoreId, Lsn, SchemaVersion, ShardId, TxnId};

const ROW_BYTES: usize = 200;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let commits = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5_000);
    let dir = parent.join(format!("ndb-wal-commit-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let mut backends: Vec<(&str, Box<dyn Io>)> = Vec::new();
    match probe_uring() {
        Ok(()) => backends.push(("uring", Box::new(UringIo::new(None)?))),
        Err(error) => writeln!(std::io::stdout(), "no io_uring here: {error}")?,
    }
    backends.push(("threads", Box::new(ThreadIo::new(None)?)));
    for (epoch, (name, io)) in (1..).zip(backends) {
        let io = IoHandle::new(io);
        let wal = create(&io, &dir, epoch);
        for rows in [1, 100] {
            report(name, rows, commit(&io, &wal, rows, commits))?;
        }
    }
    std::fs::remove_dir_all(&dir)
}

fn create(io: &Rc<IoHandle>, dir: &Path, epoch: u32) -> Rc<Wal<()>> {
    let created = drive::run(io, async {
        let dir = open_dir(io, dir).await?;
        let chain = ChainId {
            epoch,
            core: CoreId(0),
        };
        Wal::create(Rc::clone(io), WalConfig::new(dir, 1, chain), &[]).await
    });
    created
        .expect("a real disk does not halt")
        .expect("the log can be made")
}

/// Microseconds of each commit, ascending, and of processor time for all.
struct Measured {
    micros: Vec<f64>,
    cpu_micros: f64,
}

fn commit(io: &IoHandle, wal: &Rc<Wal<()>>, rows: usize, commits: usize) -> Measured {
    let payload = [7u8; ROW_BYTES];
    let header = RecordHeader {
        kind: RecordKind::Rows,
        shard: ShardId(1),
        lsn: Lsn(1),
        commit_ts: CommitTs(1),
        txn: TxnId(0),
        actor: ActorId(1),
        schema_version: SchemaVersion(1),
        collection: CollectionId::FIRST_USER,
    };
    let records = vec![
        Record {
            header,
            payload: &payload
        };
        rows
    ];
    let before_cpu = cpu_micros();
    let mut micros = Vec::with_capacity(commits);
    let script = async {
        for _ in 0..commits {
            let started = Instant::now();
            wal.append(&records, ()).expect("there is room");
            let durable = wal.flush().await.expect("the disk takes it");
            assert_eq!(durable.len(), 1);
            micros.push(started.elapsed().as_secs_f64() * 1e6);
        }
    };
    let prepare = Box::pin(Rc::clone(wal).prepare_segments());
    drive::run_with(io, script, vec![prepare]).expect("a real disk does not halt");
    micros.sort_by(f64::total_cmp);
    Measured {
        micros,
        cpu_micros: cpu_micros() - before_cpu,
    }
}

fn report(name: &str, rows: usize, measured: Measured) -> std::io::Result<()> {
    let Measured { micros, cpu_micros } = measured;
    let at = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize];
    let (median, p99, worst) = (at(0.5), at(0.99), at(1.0));
    let cpu = cpu_micros / micros.len() as f64;
    writeln!(
        std::io::stdout(),
        "{name:8} {rows:4} rows/commit: median {median:7.1} µs, p99 {p99:8.1} µs, \
         worst {worst:9.1} µs, processor {cpu:6.1} µs/commit"
    )
}

/// Processor time of this process with all its threads, the kernel's for it included.
fn cpu_micros() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the name in parentheses; user and system time are the 14th and 15th, in
    // hundredths of a second.
    let fields = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() * 1e4
}
