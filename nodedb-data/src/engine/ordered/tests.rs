//! The ordered index against a scan of its rows, under random writes and tiny budgets.

use std::collections::BTreeMap;
use std::task::Waker;

use nodedb_bridge::op::ordered::{List, Op};
use nodedb_types::schema::{Engine as Storage, IndexState};
use nodedb_types::{CollectionId, Column, IndexId, SchemaVersion, key, row};
use proptest::prelude::*;

use super::*;
use crate::engine::image_codec::tests as image;
use crate::pace::Budget;

const TYPES: [DataType; 2] = [DataType::Int4, DataType::Text(None)];

fn collection() -> Collection {
    let column = |name: &str, data_type| Column {
        name: name.to_owned(),
        data_type,
        not_null: false,
    };
    Collection {
        id: CollectionId::FIRST_USER,
        name: "c".to_owned(),
        engine: Storage::DocumentStrict,
        version: SchemaVersion(1),
        columns: vec![column("n", TYPES[0]), column("t", TYPES[1])],
        key: None,
    }
}

fn index() -> Index {
    Index {
        id: IndexId(1),
        name: "c_n".to_owned(),
        collection: CollectionId::FIRST_USER,
        method: "btree".to_owned(),
        columns: vec![0],
        operator_class: None,
        options: Vec::new(),
        state: IndexState::Public,
    }
}

/// With small leaves, so that they split and join.
fn open() -> Ordered {
    Ordered::with_leaves(&index(), &collection(), 8).unwrap()
}

fn encode(value: Option<i32>) -> Vec<u8> {
    let value = value.map_or(Value::Null, Value::Int4);
    row::encode(&[value, Value::Text("x".to_owned())], &TYPES).unwrap()
}

/// Polls with at most `units` a turn until it is done.
fn finish<T>(units: u32, mut step: impl FnMut(&Turn<'_>) -> Poll<Result<T>>) -> T {
    loop {
        let budget = Budget::new(units);
        let turn = Turn {
            budget: &budget,
            waker: Waker::noop(),
        };
        if let Poll::Ready(done) = step(&turn) {
            return done.unwrap();
        }
        assert!(budget.is_spent(), "it stopped with units left");
    }
}

fn write(
    index: &mut Ordered,
    model: &mut BTreeMap<u32, Option<i32>>,
    id: u32,
    new: Option<Option<i32>>,
) {
    let before = model.get(&id).map(|value| encode(*value));
    let after = new.map(encode);
    let before = before.as_ref().map(|row| RowView::new(row).unwrap());
    let after = after.as_ref().map(|row| RowView::new(row).unwrap());
    let surrogate = Surrogate::new(id).unwrap();
    index
        .apply(surrogate, before.as_ref(), after.as_ref())
        .unwrap();
    match new {
        Some(value) => model.insert(id, value),
        None => model.remove(&id),
    };
}

fn ids() -> impl Strategy<Value = u32> {
    (0u32..3, 1u32..30).prop_map(|(block, low)| block << 16 | low)
}

fn values() -> impl Strategy<Value = Option<i32>> {
    prop_oneof![1 => Just(None), 5 => (-4i32..5).prop_map(Some), 2 => (5i32..60).prop_map(Some)]
}

fn bounds() -> impl Strategy<Value = Bound<Value>> {
    let value = (-5i32..6).prop_map(Value::Int4);
    prop_oneof![
        Just(Bound::Unbounded),
        value.clone().prop_map(Bound::Included),
        value.prop_map(Bound::Excluded),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        prop::collection::vec((-5i32..40).prop_map(Value::Int4), 0..40).prop_map(Op::In),
        prop::collection::vec((-5i32..99).prop_map(Value::Int4), 0..120)
            .prop_map(|values| Op::Listed(List::new(values).unwrap())),
        (bounds(), bounds()).prop_map(|(low, high)| Op::Range { low, high }),
        Just(Op::IsNull),
    ]
}

/// Writes with more values than a leaf has.
fn writes(max: usize) -> impl Strategy<Value = Vec<(u32, Option<Option<i32>>)>> {
    prop::collection::vec((ids(), prop::option::weighted(0.8, values())), 0..max)
}

fn hashes_of_rows(index: &Ordered, model: &BTreeMap<u32, Option<i32>>) -> Hashes {
    let mut hashes = Hashes::new();
    for (id, value) in model {
        let stored = encode(*value);
        let view = RowView::new(&stored).unwrap();
        let hash = index.row_hash(Surrogate::new(*id).unwrap(), &view).unwrap();
        mix(&mut hashes, *id, hash);
    }
    hashes
}

fn hashes_of_entries(index: &Ordered, units: u32) -> Hashes {
    let (mut survey, mut hashes) = (OrderedSurvey::default(), Hashes::new());
    finish(units, |turn| {
        index.poll_hashes(&mut survey, &mut hashes, turn)
    });
    hashes
}

fn walk(index: &Ordered, direction: Direction) -> Vec<Place> {
    finish(100_000, |turn| {
        index.poll_walk(direction, None, usize::MAX, turn)
    })
}

fn expected(op: &Op, value: Option<i32>) -> Option<bool> {
    let number = |bound: &Value| match bound {
        Value::Int4(n) => *n,
        other => panic!("{other:?}"),
    };
    match op {
        Op::IsNull => Some(value.is_none()),
        Op::In(list) => value.map(|v| list.iter().any(|item| number(item) == v)),
        Op::Listed(list) => value.map(|v| {
            let bytes = key::of(&Value::Int4(v)).unwrap();
            list.bytes().iter().any(|item| **item == *bytes)
        }),
        Op::Range { low, high } => value.map(|v| {
            let above = match low {
                Bound::Included(low) => v >= number(low),
                Bound::Excluded(low) => v > number(low),
                Bound::Unbounded => true,
            };
            above
                && match high {
                    Bound::Included(high) => v <= number(high),
                    Bound::Excluded(high) => v < number(high),
                    Bound::Unbounded => true,
                }
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn sources_equal_a_scan(
        writes in prop::collection::vec((ids(), prop::option::weighted(0.8, values())), 0..80),
        ops in prop::collection::vec(ops(), 1..6),
        units in 1u32..40,
    ) {
        let mut index = open();
        let mut model = BTreeMap::new();
        for (id, new) in writes {
            write(&mut index, &mut model, id, new);
        }
        for op in &ops {
            let mut source = index.source(&EngineOp::Ordered(op.clone())).unwrap();
            let truth = |id: &u32| expected(op, model[id]);
            for block in 0..3u16 {
                let next = finish(units, |turn| index.poll_next_block(&mut source, block, turn));
                let first = model.keys().find(|id| (**id >> 16) as u16 >= block && truth(id) == Some(true));
                prop_assert_eq!(next, first.map(|id| (*id >> 16) as u16));
                let got = finish(units, |turn| index.poll_block(&mut source, block, None, turn));
                let inside = |wanted| {
                    let of_block = model.keys().filter(|id| (**id >> 16) as u16 == block);
                    of_block.filter(|id| truth(id) == wanted).map(|id| *id as u16).collect::<BlockSet>()
                };
                prop_assert_eq!(&got.yes, &inside(Some(true)));
                prop_assert_eq!(&got.unknown, &inside(None));
            }
            for (id, value) in &model {
                let stored = encode(*value);
                let view = RowView::new(&stored).unwrap();
                prop_assert_eq!(index.matches(&source, &view).unwrap(), truth(id));
            }
            prop_assert_eq!(index.estimate(&source).setup, 0);
        }
    }

    #[test]
    fn walks_go_in_order_while_rows_change(
        writes in prop::collection::vec((ids(), prop::option::weighted(0.8, values())), 0..80),
        churn in prop::collection::vec((ids(), prop::option::weighted(0.5, values())), 0..40),
        descending in any::<bool>(),
        units in 1u32..40,
        max in 1usize..7,
    ) {
        let mut index = open();
        let mut model = BTreeMap::new();
        for (id, new) in writes {
            write(&mut index, &mut model, id, new);
        }
        let direction = if descending { Direction::Descending } else { Direction::Ascending };
        let mut steady = model.clone();
        let (mut walked, mut churn) = (Vec::new(), churn.into_iter());
        loop {
            let entries = finish(units, |turn| index.poll_walk(direction, walked.last(), max, turn));
            if entries.is_empty() {
                break;
            }
            prop_assert!(entries.len() <= max);
            walked.extend(entries);
            if let Some((id, new)) = churn.next() {
                steady.remove(&id);
                write(&mut index, &mut model, id, new);
            }
        }
        // Rows that did not change come each once and in order.
        let kept = walked.iter().filter(|(_, id)| steady.contains_key(id));
        let kept: Vec<_> = kept.map(|(bytes, id)| (bytes.to_vec(), *id)).collect();
        let bytes = |value: &Option<i32>| key::of(&value.map_or(Value::Null, Value::Int4)).unwrap();
        let mut wanted: Vec<_> = steady.iter().map(|(id, value)| (bytes(value), *id)).collect();
        wanted.sort_by(|a, b| match descending {
            true => b.0.cmp(&a.0).then(a.1.cmp(&b.1)),
            false => a.cmp(b),
        });
        prop_assert_eq!(kept, wanted);
    }

    #[test]
    fn hashes_tell_a_wrong_entry(
        writes in prop::collection::vec((ids(), prop::option::weighted(0.8, values())), 1..60),
        units in 1u32..40,
    ) {
        let mut index = open();
        let mut model = BTreeMap::new();
        for (id, new) in writes {
            write(&mut index, &mut model, id, new);
        }
        prop_assert_eq!(hashes_of_rows(&index, &model), hashes_of_entries(&index, units));
        if let Some((id, value)) = model.iter().next() {
            // An entry under a value that the row does not have.
            let (row, other) = (encode(*value), encode(Some(99)));
            let (row, other) = (RowView::new(&row).unwrap(), RowView::new(&other).unwrap());
            let surrogate = Surrogate::new(*id).unwrap();
            index.apply(surrogate, Some(&row), Some(&other)).unwrap();
            prop_assert_ne!(hashes_of_rows(&index, &model), hashes_of_entries(&index, units));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_frozen_index_comes_back(
        load in writes(120),
        more in writes(20),
        rest in writes(60),
        units in prop_oneof![1u32..40, Just(10_000)],
    ) {
        let (mut live, mut model) = (open(), BTreeMap::new());
        let apply = |index: &mut Ordered, model: &mut _, writes: &[_]| {
            writes.iter().for_each(|(id, new)| write(index, model, *id, *new));
        };
        apply(&mut live, &mut model, &load);
        let first = image::write(&live.freeze().unwrap().unwrap(), None, units);
        apply(&mut live, &mut model, &more);
        let frozen = live.freeze().unwrap().unwrap();
        let mut known = model.clone();
        apply(&mut live, &mut model, &rest);
        let image = image::write(&frozen, Some(&first), units);

        let mut thawed = image::thaw(open(), &image, units).unwrap();
        let again = thawed.freeze().unwrap().unwrap();
        prop_assert_eq!(&image::write(&again, Some(&image), units), &image);
        prop_assert_eq!(hashes_of_entries(&thawed, units), hashes_of_rows(&thawed, &known));
        apply(&mut thawed, &mut known, &rest);
        for index in [&live, &thawed] {
            prop_assert_eq!(hashes_of_entries(index, units), hashes_of_rows(index, &model));
        }
        for direction in [Direction::Ascending, Direction::Descending] {
            prop_assert_eq!(walk(&live, direction), walk(&thawed, direction));
        }
        prop_assert_eq!(live.values.rows(), thawed.values.rows());
        for id in model.keys().copied().collect::<Vec<_>>() {
            write(&mut thawed, &mut model, id, None);
        }
        prop_assert_eq!((thawed.values.rows(), thawed.values.heap_bytes()), (0, 0));
        prop_assert!(thawed.values.leaves().is_empty());
    }

    #[test]
    fn damaged_images_are_refused(load in writes(100)) {
        let (mut index, mut model) = (open(), BTreeMap::new());
        load.into_iter().for_each(|(id, new)| write(&mut index, &mut model, id, new));
        let image = image::write(&index.freeze().unwrap().unwrap(), None, 10_000);
        image::refuses_damage(open, &image);
    }
}

/// A row changes a leaf, and only that is written again; leaves stay well filled.
#[test]
fn an_unchanged_leaf_keeps_its_name() {
    let mut index = Ordered::open(&index(), &collection()).unwrap();
    let mut model = BTreeMap::new();
    let rows = 4000u32;
    for n in 0..rows {
        write(&mut index, &mut model, n + 1, Some(Some(n as i32 * 10)));
    }
    let names = |index: &mut Ordered| -> Vec<u64> {
        let frozen = index.freeze().unwrap().unwrap();
        frozen.parts.iter().map(|part| part.id()).collect()
    };
    let first = names(&mut index);
    assert_eq!(
        first.len() as u32,
        1 + rows.div_ceil(LEAF_MAX as u32),
        "ascending values fill"
    );
    assert_eq!(names(&mut index), first);
    write(&mut index, &mut model, 1, Some(Some(7)));
    let second = names(&mut index);
    let is_new = |id: &&u64| !first.contains(id);
    assert_eq!(second.iter().filter(is_new).count(), 1);
    write(&mut index, &mut model, 9000, Some(None));
    let third = names(&mut index);
    assert_eq!(third[1..], second[1..]);
    assert_ne!(third[0], second[0]);
    for id in 100..rows {
        write(&mut index, &mut model, id, None);
    }
    assert!(names(&mut index).len() < 5);
}

#[test]
fn applying_twice_is_applying_once() {
    let mut index = open();
    let (one, two) = (encode(Some(1)), encode(Some(2)));
    let (one, two) = (RowView::new(&one).unwrap(), RowView::new(&two).unwrap());
    let row = Surrogate::new(7).unwrap();
    for _ in 0..2 {
        index.apply(row, None, Some(&one)).unwrap();
        assert_eq!((index.values.rows(), index.values.leaves().len()), (1, 1));
    }
    // An update of a row that a build has not reached, and the build reaching it afterwards.
    let other = Surrogate::new(8).unwrap();
    index.apply(other, Some(&one), Some(&two)).unwrap();
    index.apply(other, None, Some(&two)).unwrap();
    assert_eq!(index.values.rows(), 2);
    for _ in 0..2 {
        index.apply(row, Some(&one), None).unwrap();
        index.apply(other, Some(&two), None).unwrap();
        assert_eq!((index.values.rows(), index.values.heap_bytes()), (0, 0));
    }
}

#[test]
fn a_value_too_long_is_refused_before_it_is_written() {
    let mut by_text = index();
    by_text.columns = vec![1];
    let index = Ordered::open(&by_text, &collection()).unwrap();
    let row = |len| row::encode(&[Value::Null, Value::Text("y".repeat(len))], &TYPES).unwrap();
    assert!(index.check_row(&RowView::new(&row(100)).unwrap()).is_ok());
    let failure = index
        .check_row(&RowView::new(&row(2000)).unwrap())
        .unwrap_err();
    assert_eq!(failure.code(), nodedb_types::SqlState::ProgramLimitExceeded);
}

#[test]
fn a_dropped_index_goes_in_pieces() {
    let mut index = open();
    let mut model = BTreeMap::new();
    for id in 1..=1_000 {
        write(&mut index, &mut model, id, Some(Some(id as i32)));
    }
    let mut turns = 0;
    loop {
        let budget = Budget::new(2 * LEAF_MAX as u32);
        let more = index.dismantle(&budget);
        assert_eq!(more, budget.is_spent(), "a turn takes what it may");
        if !more {
            break;
        }
        turns += 1;
    }
    assert!(turns > 30, "{turns}");
}
