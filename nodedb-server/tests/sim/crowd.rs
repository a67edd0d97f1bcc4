//! Eight sessions at once, cut at a random moment, again and again on one disk.
//!
//! The load is that of the kills with the real binary: rows, tables and indexes, each writer with
//! what is its own, and values that add up to 0 between any two statements. Here every order of
//! turns is drawn from the seed, so a failure can be replayed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use nodedb_data::io::sim::TearVariant;
use nodedb_types::SqlState;

use crate::machine::{Client, Down, Machine, Server};
use crate::workload::model::{Known, Model, Work};
use crate::workload::random::{Random, setting};

const WRITERS: i64 = 8;

/// Disk operations between two crashes, at most.
const OPERATIONS_MAX: u64 = 400;

type Shared = Rc<RefCell<Known>>;

/// Crashes `rounds` times under load; gives the trace and how many statements were acknowledged.
fn crowd(seed: u64, rounds: u64) -> (u64, u64) {
    let mut random = Random::new(seed);
    let mut machine = Machine::new(seed);
    let writers: Vec<Shared> = (0..WRITERS).map(|_| Shared::default()).collect();
    let acknowledged = Rc::new(Cell::new(0));
    let sums = Rc::new(Cell::new(0));
    let mut server = machine.start(2).expect("no power fails here");
    let ledger =
        "CREATE TABLE ledger (id BIGINT PRIMARY KEY, writer BIGINT, value BIGINT, note TEXT)";
    server.rows(ledger).expect("no power fails here");
    for round in 0..rounds {
        for (number, known) in (0..).zip(&writers) {
            let random = Random::new(random.next());
            let client = server.connect();
            server.spawn(write(
                client,
                number,
                known.clone(),
                random,
                acknowledged.clone(),
            ));
        }
        server.spawn(add_up(server.connect(), sums.clone()));
        let crash = machine.disk.operations() + 1 + random.below(OPERATIONS_MAX);
        machine.disk.crash_at(crash);
        assert_eq!(server.until(|_| false), Err(Down));
        drop(server);
        machine.restart(*random.pick(&[
            TearVariant::LoseUnsynced,
            TearVariant::Subset,
            TearVariant::TearLast,
        ]));
        let cores = *random.pick(&[1, 2, 3, 4]);
        server = machine.start(cores).expect("the power fails once a round");
        settle(&mut server, &writers, seed, round);
    }
    assert!(sums.get() > 0, "nobody added anything up");
    (machine.trace(), acknowledged.get())
}

async fn write(
    mut client: Client,
    number: i64,
    known: Shared,
    mut random: Random,
    acknowledged: Rc<Cell<u64>>,
) {
    loop {
        let step = known.borrow().model.next(number, &mut random);
        known.borrow_mut().in_flight = Some((step.sql.clone(), step.after.clone()));
        match client.sql(&step.sql).await {
            Ok(_) => {
                known.borrow_mut().model = step.after;
                acknowledged.set(acknowledged.get() + 1);
            }
            // Refused as a whole; the next statement is another one.
            Err(failure) if failure.code() == SqlState::SerializationFailure => {}
            Err(failure) => panic!("{}: {failure:?}", step.sql),
        }
        known.borrow_mut().in_flight = None;
    }
}

async fn add_up(mut client: Client, sums: Rc<Cell<u64>>) {
    let sql = "SELECT value FROM ledger";
    loop {
        match client.sql(sql).await {
            Ok(rows) => {
                let values = rows.iter().map(|row| row[0].as_deref().expect("not NULL"));
                let sum: i64 = values.map(|v| v.parse::<i64>().expect("a number")).sum();
                assert_eq!(sum, 0, "half of a statement was seen");
                sums.set(sums.get() + 1);
            }
            Err(failure) if failure.retry() => {}
            Err(failure) => panic!("{sql}: {failure:?}"),
        }
    }
}

fn settle(server: &mut Server, writers: &[Shared], seed: u64, round: u64) {
    for (number, known) in (0..).zip(writers) {
        let found = found(server, number).expect("the power fails once a round");
        if let Err(problem) = known.borrow_mut().settle(found) {
            panic!(
                "writer {number} in round {round}: {problem}\nreplay with NODEDB_TEST_SEED={seed} \
                 cargo test --workspace --test sim crowd"
            );
        }
    }
    let collections = server.rows("SHOW COLLECTIONS").expect("power");
    for row in collections {
        let name = row[0].as_deref().expect("a name");
        let problems = server
            .rows(&format!("CHECK COLLECTION {name}"))
            .expect("power");
        assert!(
            problems.is_empty(),
            "{name} in round {round}, seed {seed}: {problems:?}"
        );
    }
}

fn found(server: &mut Server, writer: i64) -> Result<Model, Down> {
    let mut model = Model::default();
    let number = |text: &Option<String>| -> i64 {
        text.as_deref()
            .and_then(|t| t.parse().ok())
            .expect("a number")
    };
    match Work::of(writer) {
        Work::Rows => {
            let sql = format!("SELECT id, value, note FROM ledger WHERE writer = {writer}");
            for row in server.rows(&sql)? {
                let note = row[2].clone().expect("not NULL");
                let before = model.rows.insert(number(&row[0]), (number(&row[1]), note));
                assert_eq!(before, None, "a key is there twice");
            }
        }
        Work::Tables => {
            let mut tables = BTreeMap::new();
            for row in server.rows("SHOW COLLECTIONS")? {
                let name = row[0].clone().expect("a name");
                if name.starts_with("scratch_") {
                    let count = server.rows(&format!("SELECT count(*) FROM {name}"))?;
                    tables.insert(name, number(&count[0][0]));
                }
            }
            model.tables = tables;
        }
        Work::Indexes => {
            model.indexes = server
                .rows("DESCRIBE ledger")?
                .iter()
                .flat_map(|row| row[4].as_deref().unwrap_or_default().split(", "))
                .filter_map(|index| index.split_whitespace().next())
                .map(str::to_owned)
                .collect();
        }
    }
    Ok(model)
}

#[test]
fn a_crowd_loses_nothing_when_the_power_fails() {
    let rounds = setting("NODEDB_TEST_ROUNDS", 12);
    let (_, acknowledged) = crowd(setting("NODEDB_TEST_SEED", 1), rounds);
    assert!(
        acknowledged >= rounds,
        "{acknowledged} statements were done"
    );
}

#[test]
fn a_crowd_goes_the_same_way_twice() {
    let seed = setting("NODEDB_TEST_SEED", 1);
    assert_eq!(crowd(seed, 2), crowd(seed, 2));
}
