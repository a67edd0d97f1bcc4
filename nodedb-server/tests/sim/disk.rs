//! The script on a disk that fails: each fault at points over the whole script.
//!
//! * A disk that is full for one write costs at most the statement under way, which is refused with
//!   53100 and succeeds when it is sent again.
//! * A failed write or sync makes the node read-only: the statement under way fails, later writes
//!   are refused, and readers go on seeing what was acknowledged. After a restart the statement
//!   that was under way is there as a whole or not at all.
//! * A start that finds the disk full serves reads of what was acknowledged, refuses writes with
//!   53100 and takes them once there is space.

use nodedb_data::io::sim::{Fault, TearVariant};
use nodedb_types::{Failure, SqlState};

use crate::machine::{Machine, Rows, Server};
use crate::script::{STATEMENTS, acknowledged, operations, shown, states};
use crate::workload::random::setting;

/// Runs `check` with operations spread evenly over the script.
fn at_points(check: impl Fn(u64, u64, &[Rows]) -> Result<(), String>) {
    let seed = setting("NODEDB_TEST_SEED", 1);
    let points = setting("NODEDB_TEST_DISK_FAULTS", 30);
    let (states, _) = states(seed);
    let total = operations(seed, 2);
    let chosen = std::env::var("NODEDB_TEST_FAULT_AT").map(|p| p.parse().expect("a number"));
    for n in 0..points {
        let point = match &chosen {
            Ok(point) => *point,
            Err(_) => 1 + n * total / points % total,
        };
        if let Err(problem) = check(seed, point, &states) {
            panic!("replay with NODEDB_TEST_SEED={seed} NODEDB_TEST_FAULT_AT={point}\n{problem}");
        }
        if chosen.is_ok() {
            return;
        }
    }
}

/// The operation was a sync: nobody knows then what is on the disk, as after any other failure.
fn is_failed_sync(failure: &Failure) -> bool {
    [SqlState::IoError, SqlState::ReadOnly].contains(&failure.code())
}

fn full_at(seed: u64, point: u64, states: &[Rows]) -> Result<(), String> {
    let mut machine = Machine::new(seed);
    machine.disk.fail_at(point, Fault::NoSpace);
    let mut server = match machine.try_start(2).expect("no power fails here") {
        Ok(server) => server,
        // Before there is a database the start itself is refused; it is tried again.
        Err(failure) if failure.code() == SqlState::DiskFull => {
            machine.start(2).expect("no power fails here")
        }
        Err(failure) if is_failed_sync(&failure) => return Ok(()),
        Err(failure) => return Err(format!("the start failed with {failure:?}")),
    };
    for (n, sql) in STATEMENTS.iter().enumerate() {
        // The operation was the sync of a decision: its outcome is unknown, which ends the process.
        let Ok(mut answer) = server.sql(sql) else {
            return Ok(());
        };
        if let Err(failure) = &answer {
            if is_failed_sync(failure) {
                return Ok(());
            }
            if failure.code() != SqlState::DiskFull {
                return Err(format!("{sql} failed with {failure:?}"));
            }
            if shown(&mut server).expect("no power fails here") != states[n] {
                return Err(format!("{sql} was refused and left something behind"));
            }
            answer = server.sql(sql).expect("no power fails here");
        }
        if let Err(failure) = answer {
            return Err(format!("{sql}, sent again, failed with {failure:?}"));
        }
    }
    let found = shown(&mut server).expect("no power fails here");
    match found == states[STATEMENTS.len()] {
        true => Ok(()),
        false => Err(format!("the script ended with {found:#?}")),
    }
}

#[test]
fn a_disk_that_was_full_once_costs_one_statement() {
    at_points(full_at);
}

fn broken_at(seed: u64, point: u64, states: &[Rows]) -> Result<(), String> {
    let mut machine = Machine::new(seed);
    machine.disk.fail_at(point, Fault::Eio);
    let mut done = 0;
    if let Ok(mut server) = machine.try_start(2).expect("no power fails here") {
        done = refused_from(&mut server, states)?;
    }
    machine.restart(match point % 3 {
        0 => TearVariant::LoseUnsynced,
        1 => TearVariant::Subset,
        _ => TearVariant::TearLast,
    });
    let mut server = machine.start(1).expect("no power fails here");
    let found = shown(&mut server).expect("no power fails here");
    match states[done..(done + 2).min(states.len())].contains(&found) {
        true => Ok(()),
        false => Err(format!(
            "{done} were acknowledged; after a restart {found:#?}"
        )),
    }
}

/// Runs the script; gives how many statements were acknowledged, all of them before the failure.
/// Of a statement whose outcome is said to be unknown readers may see the effects, if those are
/// durable: a schema change takes several steps.
fn refused_from(server: &mut Server, states: &[Rows]) -> Result<usize, String> {
    let mut done = 0;
    let (mut failed, mut unknown) = (false, 0);
    for sql in STATEMENTS {
        match server.sql(sql) {
            // An unknown outcome of a statement over several cores ends the process.
            Err(_) => return Ok(done),
            // It found nothing to change.
            Ok(Ok(_)) if failed => {}
            Ok(Ok(_)) => done += 1,
            // What follows may miss what the first one was to make.
            Ok(Err(_)) if failed => {}
            Ok(Err(failure)) => {
                let known = [SqlState::IoError, SqlState::ReadOnly];
                if !known.contains(&failure.code()) {
                    return Err(format!("{sql} failed with {failure:?}"));
                }
                let found = shown(server).map_err(|_| "the node went down".to_owned())?;
                unknown = usize::from(failure.code() == SqlState::IoError);
                if !states[done..=done + unknown].contains(&found) {
                    return Err(format!(
                        "{sql} failed with {failure:?}; readers then see {found:#?}\nnot {:#?}",
                        states[done]
                    ));
                }
                failed = true;
            }
        }
    }
    match shown(server) {
        Ok(found) if failed && !states[done..=done + unknown].contains(&found) => Err(format!(
            "the node is read-only and readers see {found:#?}\nnot {:#?}",
            states[done]
        )),
        _ => Ok(done),
    }
}

#[test]
fn a_disk_that_fails_makes_the_node_read_only() {
    at_points(broken_at);
}

/// A statement that may wait for a commit which cannot be logged: 57014 then.
fn within_a_second(server: &mut Server, sql: &'static str) -> Result<Rows, Failure> {
    let mut client = server.connect();
    let run = async move {
        client.sql("SET statement_timeout = '1s'").await?;
        client.sql(sql).await
    };
    server.run(run).expect("no power fails here")
}

/// Power fails, and the machine comes back with a full disk.
fn full_start_at(seed: u64, point: u64, states: &[Rows]) -> Result<bool, String> {
    const NEW: &str = "CREATE TABLE later (i INT)";
    let mut machine = Machine::new(seed);
    machine.disk.crash_at(point);
    let done = acknowledged(&mut machine, 2);
    machine.restart(match point % 3 {
        0 => TearVariant::LoseUnsynced,
        1 => TearVariant::Subset,
        _ => TearVariant::TearLast,
    });
    machine.disk.set_capacity(Some(0));
    let cores = 1 + (point / 3 % 2) as u16;
    let mut server = match machine.try_start(cores).expect("no power fails here") {
        Ok(server) => server,
        // There is no database yet, and no room for one.
        Err(failure) if failure.code() == SqlState::DiskFull && done == 0 => return Ok(false),
        Err(failure) => return Err(format!("the start failed with {failure:?}")),
    };
    let allowed = &states[done..(done + 2).min(states.len())];
    let waits = ["SELECT count(*) FROM t", "SELECT count(*) FROM bag"]
        .into_iter()
        .any(|sql| {
            let read = within_a_second(&mut server, sql);
            read.is_err_and(|failure| failure.code() == SqlState::QueryCanceled)
        });
    let first = match waits {
        true => None,
        false => Some(shown(&mut server).expect("no power fails here")),
    };
    if first.as_ref().is_some_and(|found| !allowed.contains(found)) {
        return Err(format!(
            "{done} were acknowledged; on a full disk {first:#?}"
        ));
    }
    for _ in 0..2 {
        let refused = server.sql(NEW).expect("no power fails here");
        match refused {
            Err(failure) if failure.code() == SqlState::DiskFull => {}
            other => return Err(format!("a write on a full disk gave {other:?}")),
        }
    }
    machine.disk.set_capacity(None);
    let found = shown(&mut server).expect("no power fails here");
    if !allowed.contains(&found) || first.is_some_and(|first| first != found) {
        return Err(format!("{done} were acknowledged; then {found:#?}"));
    }
    for sql in [NEW, "INSERT INTO later VALUES (1), (2), (3), (4), (5)"] {
        if let Err(failure) = server.sql(sql).expect("no power fails here") {
            return Err(format!("with space again, {sql} failed with {failure:?}"));
        }
    }
    drop(server);
    machine.restart(TearVariant::LoseUnsynced);
    let mut server = machine.start(2).expect("no power fails here");
    server
        .rows("DROP TABLE later")
        .expect("no power fails here");
    match shown(&mut server).expect("no power fails here") == found {
        true => Ok(!waits),
        false => Err("a start after that shows something else".to_owned()),
    }
}

#[test]
fn a_start_on_a_full_disk_serves_reads() {
    let read = std::cell::Cell::new(0);
    at_points(|seed, point, states| {
        let served = full_start_at(seed, point, states)?;
        read.set(read.get() + u32::from(served));
        Ok(())
    });
    assert!(read.get() > 0, "no point was served reads at once");
}
