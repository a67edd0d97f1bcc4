//! One script over every kind of statement, cut at every write and sync of the disk.
//!
//! A run without a crash notes what the database shows after each statement. A run that is cut at
//! the n-th operation of the disk has had some number of statements acknowledged; after the
//! restart, with another number of cores, the database must show what it showed after exactly
//! those, or after those and the one that was under way.

use nodedb_data::io::sim::TearVariant;
use nodedb_types::SqlState;

use crate::machine::{Down, Machine, Rows, Server};
use crate::workload::random::setting;

pub const STATEMENTS: &[&str] = &[
    "CREATE TABLE t (id BIGINT PRIMARY KEY, n INT, s TEXT, at GEOGRAPHY(POINT), e VECTOR(2))",
    "INSERT INTO t (id, n, s) VALUES (1, 10, 'one memory')",
    "CREATE CHANGE STREAM changes ON t",
    "INSERT INTO t VALUES (2, 20, 'two debugging', 'POINT(13 52)', '[1,0]'), (3, 30, 'three', NULL, '[0,1]'), \
     (4, 40, NULL, 'POINT(2 48)', NULL), (5, 50, 'five memory', 'POINT(12 41)', '[1,1]')",
    "CREATE INDEX t_n ON t (n)",
    "CREATE INDEX t_s ON t USING fulltext (s) WITH (analyzer = 'english')",
    "CREATE INDEX t_at ON t USING rtree (at)",
    "CREATE INDEX t_e ON t USING hnsw (e vector_cosine_ops)",
    "INSERT INTO t VALUES (2, 21, 'two again', 'POINT(14 52)', '[0.5,0.5]'), (6, 60, 'six', NULL, NULL) \
     ON CONFLICT (id) DO UPDATE SET n = excluded.n + 1, s = excluded.s, at = excluded.at",
    "INSERT INTO t (id, n) VALUES (1, 0), (7, 70) ON CONFLICT DO NOTHING",
    "UPDATE t SET n = n + 1 WHERE id = 3",
    "UPDATE t SET n = n * 2, s = coalesce(s, 'none') || ' memory' WHERE n >= 22",
    "UPDATE t SET id = id + 100 WHERE id IN (4, 5)",
    "CREATE TABLE bag (v INT, w TEXT)",
    "INSERT INTO bag SELECT n, s FROM t WHERE n > 20",
    "INSERT INTO bag VALUES (1, 'a'), (1, 'a')",
    "DELETE FROM t WHERE id = 2",
    "DELETE FROM bag WHERE v > 60",
    "COPY t (id, n, s) FROM STDIN\n20\t200\tcopied memory\n21\t\\N\t\\N\n22\t220\tanother one\n23\t230\tmemory\n",
    "UPDATE t SET s = 'changed' WHERE id = 22",
    "DROP INDEX t_n",
    "DELETE FROM t WHERE text_match(t, 'memory') AND n < 100",
    "CREATE INDEX t_n ON t (n)",
    "DROP TABLE bag",
    "CREATE TABLE bag (v INT PRIMARY KEY)",
    "INSERT INTO bag VALUES (1), (2), (3), (4), (5), (6), (7), (8)",
    "DELETE FROM bag",
];

/// What a client can see: the schema, every row, every engine's answers, and that indexes and rows
/// agree.
pub fn shown(server: &mut Server) -> Result<Rows, Down> {
    let mut all = server.rows("SHOW COLLECTIONS")?;
    for collection in all.clone() {
        let name = collection[0].clone().expect("a name");
        all.extend(server.rows(&format!("DESCRIBE {name}"))?);
        let mut rows = server.rows(&format!("SELECT * FROM {name}"))?;
        rows.sort();
        all.extend(rows);
        let problems = server.rows(&format!("CHECK COLLECTION {name}"))?;
        all.extend(problems);
        if name == "t" {
            for sql in [
                "SELECT count(*) FROM t WHERE n BETWEEN 20 AND 80",
                "SELECT id FROM t WHERE ST_DWithin(at, ST_Point(13.4, 52.5), 900000) ORDER BY id",
                "SELECT id FROM t ORDER BY e <=> '[1,0]' LIMIT 3",
            ] {
                all.extend(server.rows(sql)?);
            }
            // There is an answer only when there is the index.
            let found = server.sql("SELECT id FROM t WHERE text_match(t, 'memory') ORDER BY id")?;
            all.extend(found.unwrap_or_default());
            all.extend(events(server)?);
        }
    }
    Ok(all)
}

/// The events of the stream, once there is one: their timestamps are of the run, and rows of one
/// statement come in any order.
fn events(server: &mut Server) -> Result<Rows, Down> {
    let read = "SELECT * FROM STREAM changes";
    let found = match server.sql(read)? {
        // The log is opened anew after a disk's failure.
        Err(failure) if failure.code() == SqlState::IoError => server.sql(read)?,
        found => found,
    };
    let mut rows = match found {
        Err(failure) if failure.code() == SqlState::UndefinedObject => return Ok(Rows::new()),
        found => found.unwrap_or_else(|e| panic!("{read}: {e:?}")),
    };
    let mut commit = (None, 0);
    for row in &mut rows {
        let commit_ts = row[0].take();
        if commit.0 != commit_ts {
            commit = (commit_ts, commit.1 + 1);
        }
        row[0] = Some(format!("commit {:03}", commit.1));
    }
    rows.sort();
    Ok(rows)
}

/// What the database shows after each number of statements.
pub fn states(seed: u64) -> (Vec<Rows>, u64) {
    let mut machine = Machine::new(seed);
    let states = states_on(&mut machine);
    (states, machine.trace())
}

pub fn states_on(machine: &mut Machine) -> Vec<Rows> {
    let mut server = machine.start(2).expect("no power fails here");
    let mut states = vec![shown(&mut server).expect("no power fails here")];
    for sql in STATEMENTS {
        server.rows(sql).expect("no power fails here");
        states.push(shown(&mut server).expect("no power fails here"));
    }
    let is_event = |row: &Vec<Option<String>>| {
        let first = row.first().and_then(|cell| cell.as_deref());
        first.is_some_and(|text| text.starts_with("commit 0"))
    };
    let events = states
        .last()
        .into_iter()
        .flatten()
        .filter(|row| is_event(row));
    assert!(events.count() > 20, "the stream shows what the script does");
    states
}

/// Operations of the disk that the whole script takes, from an empty disk.
pub fn operations(seed: u64, cores: u16) -> u64 {
    let mut machine = Machine::new(seed);
    let mut server = machine.start(cores).expect("no power fails here");
    for sql in STATEMENTS {
        server.rows(sql).expect("no power fails here");
    }
    machine.disk.operations()
}

/// Runs statements until the power fails; gives how many were acknowledged.
pub fn acknowledged(machine: &mut Machine, cores: u16) -> usize {
    let Ok(mut server) = machine.start(cores) else {
        return 0;
    };
    STATEMENTS
        .iter()
        .take_while(|sql| server.rows(sql).is_ok())
        .count()
}

/// One crash point. `damage` is done to the machine before it starts.
pub fn crash_at(
    seed: u64,
    operation: u64,
    states: &[Rows],
    damage: impl FnOnce(&mut Machine),
) -> Result<(), String> {
    let mut machine = Machine::new(seed);
    damage(&mut machine);
    machine.disk.crash_at(operation);
    let (before, after) = match operation % 3 {
        0 => (2, 1),
        1 => (2, 4),
        _ => (4, 2),
    };
    let done = acknowledged(&mut machine, before);
    let variant = match operation / 3 % 3 {
        0 => TearVariant::LoseUnsynced,
        1 => TearVariant::Subset,
        _ => TearVariant::TearLast,
    };
    machine.restart(variant);
    let mut server = machine.start(after).expect("the power fails once");
    let found = shown(&mut server).expect("the power fails once");
    let allowed = &states[done..(done + 2).min(states.len())];
    if allowed.contains(&found) {
        return Ok(());
    }
    let under_way = STATEMENTS.get(done).copied().unwrap_or("nothing");
    Err(format!(
        "{done} statements were acknowledged, under way was {under_way}; {before} cores, then \
         {after}, {variant:?}\nexpected {:#?}\nfound {found:#?}",
        allowed
    ))
}

#[test]
fn every_crash_point_comes_back_with_what_was_acknowledged() {
    let seed = setting("NODEDB_TEST_SEED", 1);
    let points = setting("NODEDB_TEST_CRASHES", 90);
    let (states, _) = states(seed);
    if let Ok(point) = std::env::var("NODEDB_TEST_CRASH_AT") {
        let point = point.parse().expect("a number");
        crash_at(seed, point, &states, |_| ()).expect("the crash point");
        return;
    }
    let total = operations(seed, 2);
    // Evenly over the script, and another place in it with every seed.
    for n in 0..points {
        let (round, at) = (n * total / points / total, n * total / points % total);
        let (seed, point) = (seed + round, 1 + at);
        if let Err(problem) = crash_at(seed, point, &states, |_| ()) {
            panic!(
                "replay with NODEDB_TEST_SEED={seed} NODEDB_TEST_CRASH_AT={point} cargo test \
                 --workspace --test sim every_crash_point\n{problem}"
            );
        }
    }
}

#[test]
fn one_seed_gives_one_trace() {
    let seed = setting("NODEDB_TEST_SEED", 1);
    let (first, trace) = states(seed);
    let (second, again) = states(seed);
    assert_eq!(first, second);
    assert_eq!(trace, again, "the same seed went another way");
    let (other, third) = states(seed + 1);
    assert_eq!(first, other, "the order of turns changes no answer");
    assert_ne!(trace, third, "another seed goes another way");
}
