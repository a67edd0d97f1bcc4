//! Images of place indexes: random programs are frozen, go on, come back and are compared.

use std::collections::BTreeSet;

use nodedb_bridge::op::place::Op;
use nodedb_types::geo::Geometry;
use proptest::prelude::*;

use super::tests::{
    Rows, Step, block_set, brute_force, check_hashes, drive, id, odd, op, put, step, take,
};
use super::*;
use crate::engine::image_codec::tests as image;

fn answers_equal_brute_force(index: &Places, rows: &Rows, ops: &[Op]) {
    for op in ops {
        let Ok(mut source) = index.source(&EngineOp::Place(op.clone())) else {
            continue;
        };
        for block in [0, 1, u16::MAX] {
            let of_block = rows.keys().filter(|id| (**id >> 16) as u16 == block);
            let of_block: BTreeSet<u32> = of_block.copied().collect();
            let poll = |turn: &Turn<'_>| index.poll_block(&mut source, block, None, turn);
            match (drive(1000, poll, || {}), brute_force(rows, op, &of_block)) {
                (Ok(truth), Ok((yes, unknown))) => {
                    assert_eq!(truth.yes, block_set(&yes, block));
                    assert_eq!(truth.unknown, block_set(&unknown, block));
                }
                (got, want) => assert_eq!(got.is_err(), want.is_err()),
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    is_geodetic: bool,
    load: Vec<Step>,
    odd: Vec<(u32, Geometry)>,
    more: Vec<Step>,
    rest: Vec<Step>,
    ops: Vec<Op>,
    units: u32,
}

fn case() -> impl Strategy<Value = Case> {
    any::<bool>().prop_flat_map(|is_geodetic| {
        let steps = |n| prop::collection::vec(step(is_geodetic), n);
        let odd_rows = prop::collection::vec((id(), odd(is_geodetic)), 0..3);
        let ops = prop::collection::vec(op(is_geodetic), 1..4);
        let units = prop_oneof![Just(1u32), 2u32..50, Just(10_000)];
        (
            steps(0..150),
            odd_rows,
            steps(0..20),
            steps(0..40),
            ops,
            units,
        )
            .prop_map(move |(load, odd, more, rest, ops, units)| Case {
                is_geodetic,
                load,
                odd,
                more,
                rest,
                ops,
                units,
            })
    })
}

fn filled(case: &Case) -> (Places, Rows) {
    let (mut index, mut rows) = (Places::new(1, case.is_geodetic, 4), Rows::new());
    let load = case.load.iter().cloned();
    load.for_each(|step| take(&mut index, &mut rows, step));
    for (id, place) in &case.odd {
        put(&mut index, &mut rows, *id, Some(Some(place.clone())));
    }
    (index, rows)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn a_frozen_index_comes_back(case in case()) {
        let (mut live, mut rows) = filled(&case);
        let units = case.units;
        let first = image::write(&live.freeze().unwrap().unwrap(), None, units);
        case.more.into_iter().for_each(|step| take(&mut live, &mut rows, step));
        let frozen = live.freeze().unwrap().unwrap();
        let mut known = rows.clone();
        case.rest.iter().cloned().for_each(|step| take(&mut live, &mut rows, step));
        let image = image::write(&frozen, Some(&first), units);

        let open = Places::new(1, case.is_geodetic, 4);
        let mut thawed = image::thaw(open, &image, units).unwrap();
        let again = thawed.freeze().unwrap().unwrap();
        prop_assert_eq!(&image::write(&again, Some(&image), units), &image);
        check_hashes(&thawed, &known, units);
        answers_equal_brute_force(&thawed, &known, &case.ops);
        case.rest.into_iter().for_each(|step| take(&mut thawed, &mut known, step));
        for index in [&mut live, &mut thawed] {
            while index.work(&Budget::new(units)).unwrap() {}
            check_hashes(index, &rows, units);
            answers_equal_brute_force(index, &rows, &case.ops);
        }
        for id in rows.keys().copied().collect::<Vec<_>>() {
            take(&mut thawed, &mut rows, Step::Delete(id));
        }
        prop_assert_eq!(thawed.store.len(), 0);
        prop_assert!(thawed.store.shapes().is_empty() && thawed.store.systems().is_empty());
    }

    #[test]
    fn damaged_images_are_refused(case in case()) {
        let (mut index, _) = filled(&case);
        let image = image::write(&index.freeze().unwrap().unwrap(), None, 10_000);
        image::refuses_damage(|| Places::new(1, case.is_geodetic, 4), &image);
    }
}

/// Extents and runs that have not changed keep their names.
#[test]
fn an_unchanged_extent_keeps_its_name() {
    let (mut index, mut rows) = (Places::new(1, true, 4), Rows::new());
    let point = |n: u32| Some(Geometry::point(f64::from(n % 170), 1.0, 4326).unwrap());
    for n in 0..9 {
        take(&mut index, &mut rows, Step::Put(1 + n * 600, point(n)));
    }
    let names = |index: &mut Places| -> BTreeSet<u64> {
        let frozen = index.freeze().unwrap().unwrap();
        frozen.parts.iter().map(|part| part.id()).collect()
    };
    // The NULLs, five extents, two runs, the tail.
    let first = names(&mut index);
    assert_eq!(first.len(), 9);
    assert_eq!(names(&mut index), first);
    // A row moves: its extent and the tail change.
    take(&mut index, &mut rows, Step::Put(1, point(77)));
    let second = names(&mut index);
    assert_eq!(second.difference(&first).count(), 2);
    // The only one of an extent has NULL now: the extent goes, the NULLs change.
    take(&mut index, &mut rows, Step::Put(3601, None));
    let third = names(&mut index);
    assert_eq!(third.difference(&second).count(), 1);
    assert_eq!(third.len(), 8);
}
