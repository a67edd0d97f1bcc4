//! Random programs with random crashes against a map.
//!
//! One client works through a random program over cores in random number. Power fails at random
//! operations of the disk, during recovery too. What was acknowledged is there afterwards; of the
//! statement under way at the crash either all is there or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use nodedb_bridge::expression::{Rewrite, RowRewrite};
use nodedb_bridge::plan::{Outcome, RowAction, RowWrite, SchemaStep};
use nodedb_types::{CommitTs, IndexId, Result};

use super::machine::{Cells, Machine, Node, collection, encode, index_on_n, seeds};
use crate::io::sim::{Rng, TearVariant};

type Model = BTreeMap<i64, Cells>;

const KEYS: u64 = 40;
const STEPS: u64 = 60;

#[derive(Debug)]
struct DeleteIt;

impl RowRewrite for DeleteIt {
    fn rewrite(&self, _: &[u8], _: Option<&[u8]>) -> Result<Rewrite> {
        Ok(Rewrite::Delete)
    }
}

/// What a step would make of the model, and how it ended: `None` when the power failed.
struct Step {
    after: Model,
    acknowledged: Option<bool>,
}

struct Program {
    rng: Rng,
    model: Model,
    index: Option<IndexId>,
    next_index: u32,
}

impl Program {
    fn cell(&mut self) -> Cells {
        let n = (!self.rng.chance(1, 5)).then(|| self.rng.below(20) as i32);
        (n, "x".repeat(self.rng.below(300) as usize))
    }

    /// A batch of writes on the core of its first key.
    fn batch(&mut self, node: &mut Node) -> Step {
        let mut after = self.model.clone();
        let mut rows: Vec<RowWrite> = Vec::new();
        for _ in 0..=self.rng.below(6) {
            let id = self.rng.below(KEYS) as i64;
            let (shard, key) = node.place(id);
            let elsewhere = |r: &RowWrite| node.core_of(r.shard) != node.core_of(shard);
            if rows.first().is_some_and(elsewhere) {
                continue;
            }
            if self.rng.chance(1, 3) {
                after.remove(&id);
                let action = RowAction::Rewrite(Arc::new(DeleteIt));
                rows.push(RowWrite { shard, key, action });
            } else {
                let (n, text) = self.cell();
                rows.push(node.put(id, n, &text));
                after.insert(id, (n, text));
            }
        }
        let acknowledged = node
            .write(rows)
            .map(|answer| answer.result.map(drop).is_ok());
        Step {
            after,
            acknowledged,
        }
    }

    /// A transaction over several cores.
    fn transaction(&mut self, node: &mut Node) -> Step {
        let mut after = self.model.clone();
        let mut rows: BTreeMap<i64, Option<Vec<u8>>> = BTreeMap::new();
        for _ in 0..=self.rng.below(8) {
            let id = self.rng.below(KEYS) as i64;
            if self.rng.chance(1, 3) {
                if self.model.contains_key(&id) {
                    after.remove(&id);
                    rows.insert(id, None);
                }
            } else {
                let (n, text) = self.cell();
                rows.insert(id, Some(encode(id, n, &text)));
                after.insert(id, (n, text));
            }
        }
        let rows: Vec<_> = rows.into_iter().collect();
        let abort = self.rng.chance(1, 6);
        let mut run = || {
            if rows.is_empty() {
                return Some(true);
            }
            let staged = node.stage(&rows)?;
            node.prepare(&staged)?.unwrap();
            if abort {
                node.conclude(&staged, Outcome::Aborted)?;
                return Some(false);
            }
            let ts = node.decide(&staged)?;
            // The statement is acknowledged here; what follows may be cut off.
            let _ = node.conclude(&staged, Outcome::Committed(ts));
            Some(true)
        };
        let acknowledged = run();
        if abort {
            after = self.model.clone();
        }
        Step {
            after,
            acknowledged,
        }
    }

    fn build_index(&mut self, node: &mut Node) -> Option<()> {
        self.next_index += 1;
        let index = IndexId(self.next_index);
        node.schema(SchemaStep::AddIndex(index_on_n(index)))?
            .unwrap();
        let snapshot = CommitTs(0);
        node.schema(SchemaStep::BuildIndex { index, snapshot })?
            .unwrap();
        node.schema(SchemaStep::PublishIndex(index))?.unwrap();
        self.index = Some(index);
        Some(())
    }

    fn compare(&self, node: &mut Node) -> Option<()> {
        assert_eq!(node.all()?, self.model);
        if let Some(index) = self.index {
            let in_range = |(n, _): &&Cells| n.is_some_and(|n| (5..=12).contains(&n));
            let expected = self.model.values().filter(in_range).count() as u64;
            assert_eq!(node.count(index, 5, 12)?, expected);
        }
        Some(())
    }

    /// Runs until the power fails or the steps are done; gives the step that was cut off.
    fn run(&mut self, node: &mut Node) -> Option<Option<Step>> {
        for _ in 0..STEPS {
            let step = match self.rng.below(10) {
                0..5 => self.batch(node),
                5..8 => self.transaction(node),
                8 => {
                    self.compare(node)?;
                    continue;
                }
                _ if self.index.is_none() => {
                    self.build_index(node)?;
                    continue;
                }
                _ => {
                    assert!(node.check()?.is_empty());
                    continue;
                }
            };
            match step.acknowledged {
                Some(true) => self.model = step.after,
                Some(false) => {}
                None => return Some(Some(step)),
            }
        }
        Some(None)
    }
}

fn history(seed: u64) {
    let mut machine = Machine::new(seed, 4);
    machine.page_faults = seed.is_multiple_of(2);
    if !seed.is_multiple_of(4) {
        machine.checkpoint_units = 100 << (seed % 4);
    }
    if seed.is_multiple_of(3) {
        // A start reads nothing ahead, and what changes is soon to be written.
        machine.leaf_bytes_max = 64 << 10;
    }
    let mut program = Program {
        rng: Rng::new(seed ^ 0xabcd),
        model: Model::new(),
        index: None,
        next_index: 0,
    };
    let cores = |rng: &mut Rng| [1, 2, 4][rng.below(3) as usize];
    let mut node = machine.start(cores(&mut program.rng)).unwrap();
    node.schema(SchemaStep::CreateCollection(collection()))
        .unwrap()
        .unwrap();
    for _ in 0..4 {
        machine
            .disk
            .crash_at(machine.disk.operations() + 1 + program.rng.below(400));
        let cut = program.run(&mut node).flatten();
        drop(node);
        let variant = TearVariant::ALL[program.rng.below(3) as usize];
        machine.restart(variant);
        // The recovery itself is cut off now and then.
        loop {
            if program.rng.chance(1, 2) {
                let within = machine.disk.operations() + 1 + program.rng.below(30);
                machine.disk.crash_at(within);
            }
            match machine.start(cores(&mut program.rng)) {
                Some(started) => {
                    node = started;
                    break;
                }
                None => machine.restart(variant),
            }
        }
        if machine.disk.halted() {
            machine.restart(variant);
            node = machine.start(cores(&mut program.rng)).unwrap();
        }
        machine.disk.crash_at(u64::MAX);
        let found = node.all().unwrap();
        match cut {
            Some(step) if found == step.after => program.model = step.after,
            _ => assert_eq!(found, program.model, "seed {seed}"),
        }
        assert!(node.check().unwrap().is_empty(), "seed {seed}");
        if let Some(index) = program.index {
            // It was published on every core, so it is there.
            assert!(node.count(index, 0, 20).is_some(), "seed {seed}");
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_half_done() {
    for seed in seeds(12) {
        history(seed);
    }
}
