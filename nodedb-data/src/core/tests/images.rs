//! Indexes of all engines through checkpoints: what was frozen, with the log applied behind it, is
//! what the rows say.

use std::sync::Arc;

use nodedb_bridge::expression::{Rewrite, RowRewrite};
use nodedb_bridge::plan::{RowAction, RowWrite, SchemaStep, WriteBatch};
use nodedb_bridge::reply::Frame;
use nodedb_bridge::request::Op;
use nodedb_types::geo::Geometry;
use nodedb_types::schema::IndexState;
use nodedb_types::{
    Collection, CollectionId, Column, CommitTs, CoreId, DataType, Engine, Index, IndexId, Result,
    SchemaVersion, Value, row,
};

use super::machine::{Machine, Node};
use crate::io::sim::{Rng, TearVariant};

const WIDE: CollectionId = CollectionId(1030);
const TYPES: [DataType; 5] = [
    DataType::Int8,
    DataType::Int4,
    DataType::Text(None),
    DataType::Vector(Some(4)),
    DataType::Geography(None),
];
const METHODS: [&str; 4] = ["btree", "fulltext", "hnsw", "rtree"];
const WORDS: [&str; 6] = ["river", "stone", "quick", "harbour", "copper", "lantern"];

#[derive(Debug)]
struct DeleteIt;

impl RowRewrite for DeleteIt {
    fn rewrite(&self, _: &[u8], _: Option<&[u8]>) -> Result<Rewrite> {
        Ok(Rewrite::Delete)
    }
}

fn wide() -> Arc<Collection> {
    let column = |(n, data_type): (usize, &DataType)| Column {
        name: format!("c{n}"),
        data_type: *data_type,
        not_null: false,
    };
    Arc::new(Collection {
        id: WIDE,
        name: "wide".to_owned(),
        engine: Engine::DocumentStrict,
        version: SchemaVersion(1),
        columns: TYPES.iter().enumerate().map(column).collect(),
        key: Some(0),
    })
}

fn build_all(node: &mut Node) {
    for (n, method) in METHODS.iter().enumerate() {
        let id = IndexId(20 + n as u32);
        let index = Arc::new(Index {
            id,
            name: format!("wide_{method}"),
            collection: WIDE,
            method: (*method).to_owned(),
            columns: vec![n + 1],
            operator_class: (*method == "hnsw").then(|| "vector_l2_ops".to_owned()),
            options: Vec::new(),
            state: IndexState::WriteOnly,
        });
        let snapshot = CommitTs(0);
        for step in [
            SchemaStep::AddIndex(index),
            SchemaStep::BuildIndex {
                index: id,
                snapshot,
            },
            SchemaStep::PublishIndex(id),
        ] {
            node.schema(step).unwrap().unwrap();
        }
    }
}

fn row_of(id: i64, rng: &mut Rng) -> Vec<u8> {
    let mut word = || WORDS[rng.below(6) as usize];
    let text = format!("{} {} {}", word(), word(), word());
    let mut unit = || rng.below(1000) as f64 / 1000.0;
    let vector = (0..4).map(|_| unit() as f32).collect();
    let place = Geometry::point(unit() * 360.0 - 180.0, unit() * 180.0 - 90.0, 4326).unwrap();
    let mut values = vec![
        Value::Int8(id),
        Value::Int4(rng.below(50) as i32),
        Value::Text(text),
        Value::Vector(vector),
        Value::Geography(place.to_ewkb()),
    ];
    if rng.chance(1, 8) {
        values[rng.below(4) as usize + 1] = Value::Null;
    }
    row::encode(&values, &TYPES).unwrap()
}

/// Puts or deletes some rows.
fn change(node: &mut Node, rng: &mut Rng, steps: u64) {
    for _ in 0..steps {
        let id = rng.below(150) as i64;
        let (shard, key) = node.place(id);
        let action = match rng.chance(1, 4) {
            true => RowAction::Rewrite(Arc::new(DeleteIt)),
            false => RowAction::Put {
                row: row_of(id, rng).into(),
            },
        };
        let batch = WriteBatch {
            collection: WIDE,
            rows: vec![RowWrite { shard, key, action }],
            returning: None,
        };
        let core = node.core_of(shard);
        node.call(core, Op::Write(batch)).unwrap().result.unwrap();
    }
}

/// Rows of the collection, by the reports of all cores.
fn rows(node: &mut Node) -> u64 {
    let mut rows = 0;
    for core in 0..node.cores.len() {
        let answer = node.call(CoreId(core as u16), Op::Report).unwrap();
        match &answer.frames[..] {
            [Frame::Report(report)] => rows += report.rows,
            frames => panic!("{frames:?} is no report"),
        }
    }
    rows
}

fn check(node: &mut Node) {
    for core in 0..node.cores.len() {
        let op = Op::Check { collection: WIDE };
        let answer = node.call(CoreId(core as u16), op).unwrap();
        answer.result.as_ref().unwrap();
        assert!(answer.frames.is_empty(), "{:?}", answer.frames);
    }
}

#[test]
fn indexes_of_all_engines_come_back_from_their_images() {
    for faults in [false, true] {
        let mut machine = Machine::new(51, 4);
        machine.page_faults = faults;
        machine.checkpoint_units = 2_000;
        let mut rng = Rng::new(7);
        let mut node = machine.start(2).unwrap();
        node.schema(SchemaStep::CreateCollection(wide()))
            .unwrap()
            .unwrap();
        change(&mut node, &mut rng, 60);
        build_all(&mut node);
        for (round, cores) in [1, 4, 2, 2].into_iter().enumerate() {
            change(&mut node, &mut rng, 120);
            let ended: u64 = node.cores.iter().map(|c| c.checkpoints().ended).sum();
            assert!(ended > 0, "round {round}");
            check(&mut node);
            let before = rows(&mut node);
            drop(node);
            machine.restart(TearVariant::ALL[round % 3]);
            node = machine.start(cores).unwrap();
            assert_eq!(rows(&mut node), before, "round {round}");
            check(&mut node);
        }
    }
}
