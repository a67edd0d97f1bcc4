//! Change streams made and dropped, cut at every operation of the disk.
//!
//! The cores are told to log what a stream shows before the catalog names the stream, and told to
//! stop after it has forgotten it. A cut in between leaves the cores, or some of their shards, of
//! another opinion than the catalog; before sessions are let in a start makes them agree.

use nodedb_data::io::sim::TearVariant;

use crate::machine::{Down, Machine, Server};
use crate::workload::random::setting;

const BEFORE: [&str; 2] = [
    "CREATE TABLE t (id BIGINT PRIMARY KEY, n INT)",
    "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8)",
];

const CHANGES: [&str; 4] = [
    "CREATE CHANGE STREAM some ON t WITH (retention_bytes = 100000000)",
    "CREATE CHANGE STREAM more ON t WITH (retention_bytes = 200000000)",
    "DROP CHANGE STREAM more",
    "DROP CHANGE STREAM some",
];

/// The most that a stream of the catalog keeps.
fn wanted(server: &mut Server) -> Result<Option<u64>, Down> {
    let streams = server.rows("SELECT retention_bytes FROM pg_catalog.ndb_streams")?;
    let bytes = |row: &Vec<Option<String>>| row[0].as_ref().map(|n| n.parse().expect("a number"));
    Ok(streams.iter().filter_map(bytes).max())
}

fn run(machine: &mut Machine, cores: u16, statements: &[&str]) -> Result<(), Down> {
    let mut server = machine.start(cores)?;
    statements.iter().try_for_each(|sql| {
        server.rows(sql)?;
        Ok(())
    })
}

#[test]
fn a_cut_between_cores_and_catalog_is_settled_at_the_next_start() {
    let seed = setting("NODEDB_TEST_SEED", 1);
    let prepared = || {
        let mut machine = Machine::new(seed);
        run(&mut machine, 2, &BEFORE).expect("no power fails here");
        machine.restart(TearVariant::LoseUnsynced);
        machine
    };
    let mut whole = prepared();
    let first = whole.disk.operations();
    run(&mut whole, 2, &CHANGES).expect("no power fails here");
    let mut unsettled = 0;
    for point in first + 1..=whole.disk.operations() {
        let mut machine = prepared();
        machine.disk.crash_at(point);
        // At the last points the script may have come to its end.
        let _ = run(&mut machine, 2, &CHANGES);
        let variant = match point % 3 {
            0 => TearVariant::LoseUnsynced,
            1 => TearVariant::Subset,
            _ => TearVariant::TearLast,
        };
        machine.restart(variant);
        let cores = 1 << (point % 3);
        let recovered = machine.recovered(cores).expect("the power fails once");
        let mut server = recovered.unwrap_or_else(|e| panic!("it does not start: {e:?}"));
        let before = server.emitting().expect("the power fails once");
        let booted = server.boot().expect("the power fails once");
        booted.unwrap_or_else(|e| panic!("it does not start: {e:?}"));
        let after = server.emitting().expect("the power fails once");
        let wanted = wanted(&mut server).expect("the power fails once");
        let kept: Vec<_> = after.iter().map(|(_, bytes)| *bytes).collect();
        assert_eq!(kept, [wanted], "cut at {point}, {variant:?}");
        unsettled += u64::from(before != after);
    }
    assert!(unsettled > 0, "no cut has left anything to settle");
}
