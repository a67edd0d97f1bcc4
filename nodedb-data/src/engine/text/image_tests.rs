//! Images of the full-text index: random programs are frozen, go on, come back and are compared.

use std::sync::Arc;

use nodedb_bridge::op::text::{Op, Query};
use proptest::prelude::*;

use super::tests::{
    Model, Oracle, Text, analyzer, filled, finish, large, limits, of_rows, open, queries, settle,
    write, writes,
};
use super::*;
use crate::engine::image_codec::tests as image;
use crate::pace::UNITS_PER_TURN;

fn hashes(index: &mut FullText) -> Hashes {
    let (mut survey, mut hashes) = (TextSurvey::default(), Hashes::new());
    finish(
        index,
        1000,
        |index, turn| index.poll_hashes(&mut survey, &mut hashes, turn),
        |_| {},
    );
    hashes
}

fn answers_equal_a_scan(index: &mut FullText, model: &Model, queries: &[Query]) {
    let oracle = Oracle {
        analyzer: analyzer("english"),
    };
    for query in queries {
        let query = Arc::new(query.clone());
        let op = EngineOp::Text(Op {
            query: query.clone(),
        });
        let mut source = index.source(&op).unwrap();
        for block in 0..3u16 {
            let truth = finish(
                index,
                1000,
                |index, turn| index.poll_block(&mut source, block, None, turn),
                |_| {},
            );
            let of_block = |value: Option<bool>| -> BlockSet {
                let rows = model.iter().filter(|(id, _)| (**id >> 16) as u16 == block);
                let rows = rows.filter(|(_, text)| oracle.holds(&query, text) == value);
                rows.map(|(id, _)| *id as u16).collect()
            };
            assert_eq!(truth.yes, of_block(Some(true)));
            assert_eq!(truth.unknown, of_block(None));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn a_frozen_index_comes_back(
        limits in limits(),
        load in writes(40),
        more in writes(12),
        rest in writes(12),
        work in prop::collection::vec(1u32..200, 0..4),
        queries in prop::collection::vec(queries(), 1..4),
        settles in any::<bool>(),
        units in prop_oneof![Just(1u32), 1u32..60, Just(10_000)],
    ) {
        let open = || open(true, limits);
        let mut live = open();
        let mut model = filled(&mut live, load, &work);
        let first = live.freeze().unwrap().unwrap();
        let first = image::write(&first, None, units);
        for (id, new) in more {
            write(&mut live, &mut model, id, new);
        }
        live.work(&Budget::new(units)).unwrap();
        if settles {
            settle(&mut live, 50);
        }
        let frozen = live.freeze().unwrap().unwrap();
        let at_freeze = model.clone();
        // What is written was frozen before these changes.
        for (id, new) in rest.clone() {
            write(&mut live, &mut model, id, new);
            live.work(&Budget::new(units)).unwrap();
        }
        let image = image::write(&frozen, Some(&first), units);
        drop(frozen);

        let mut thawed = image::thaw(open(), &image, units).unwrap();
        let again = thawed.freeze().unwrap().unwrap();
        let again = image::write(&again, Some(&image), units);
        let is_waiting = image.header[2] == 1;
        prop_assert!(is_waiting || again.parts == image.parts, "nothing has changed");
        prop_assert_eq!(of_rows(&thawed, &at_freeze), hashes(&mut thawed));
        answers_equal_a_scan(&mut thawed, &at_freeze, &queries);

        let mut known = at_freeze;
        for (id, new) in rest {
            write(&mut thawed, &mut known, id, new);
            thawed.work(&Budget::new(units)).unwrap();
        }
        for index in [&mut live, &mut thawed] {
            prop_assert_eq!(of_rows(index, &model), hashes(index));
            settle(index, 50);
            prop_assert_eq!(of_rows(index, &model), hashes(index));
            answers_equal_a_scan(index, &model, &queries);
        }
    }

    #[test]
    fn damaged_images_are_refused(
        limits in limits(),
        load in writes(25),
        work in prop::collection::vec(1u32..200, 0..4),
    ) {
        let mut index = open(true, limits);
        filled(&mut index, load, &work);
        let frozen = index.freeze().unwrap().unwrap();
        image::refuses_damage(|| open(true, limits), &image::write(&frozen, None, 10_000));
    }
}

#[test]
fn an_unchanged_index_is_not_written_again() {
    let mut index = open(true, Limits::default());
    let mut model = Model::new();
    let text = |n: u32| -> Text { [Some(format!("row {n} of many")), None] };
    for id in 1..200 {
        write(&mut index, &mut model, id, Some(text(id)));
    }
    let names = |index: &mut FullText| -> Vec<u64> {
        let frozen = index.freeze().unwrap().unwrap();
        frozen.parts.iter().map(|part| part.id()).collect()
    };
    let first = names(&mut index);
    assert_eq!(first.len(), 2);
    assert_eq!(names(&mut index), first);
    // A new row is a part of its own; a row that goes changes the sets.
    write(&mut index, &mut model, 300, Some(text(300)));
    let second = names(&mut index);
    assert_eq!((second.len(), second[1]), (3, first[1]));
    write(&mut index, &mut model, 5, None);
    let third = names(&mut index);
    assert_eq!(third[1..], second[1..]);
    assert_ne!(third[0], second[0]);
}

/// What was merged while a checkpoint wrote it goes, in pieces, once that is over.
#[test]
fn what_an_image_shared_is_freed_after_it() {
    let mut index = open(true, Limits::default());
    let mut model = Model::new();
    for id in 1..300 {
        let text = [Some(format!("row {id} of many")), None];
        write(&mut index, &mut model, id, Some(text));
    }
    let frozen = index.freeze().unwrap().unwrap();
    settle(&mut index, 50);
    assert_eq!(index.state.get_mut().corpus.retired(), 1);
    drop(frozen);
    settle(&mut index, 50);
    assert_eq!(index.state.get_mut().corpus.retired(), 0);
    assert_eq!(of_rows(&index, &model), hashes(&mut index));
}

/// Of a large row on its way in, or out, at the freeze, nothing is lost and nothing is left.
#[test]
fn a_large_row_may_be_under_way() {
    for steps in [0u32, 1, 5, 40, 200] {
        for removes in [false, true] {
            let mut index = open(true, Limits::default());
            let mut model = Model::new();
            let small: Text = [Some("w00000 small".to_owned()), None];
            write(&mut index, &mut model, 2, Some(small.clone()));
            write(
                &mut index,
                &mut model,
                1,
                Some([Some(large(100_000)), None]),
            );
            if removes {
                settle(&mut index, 5_000);
                write(&mut index, &mut model, 1, None);
            }
            for _ in 0..steps {
                index.work(&Budget::new(1_000)).unwrap();
            }
            write(&mut index, &mut model, 3, Some(small));
            let frozen = index.freeze().unwrap().unwrap();
            let image = image::write(&frozen, None, 5_000);
            let empty = open(true, Limits::default());
            let mut thawed = image::thaw(empty, &image, 5_000).unwrap();
            for index in [&mut index, &mut thawed] {
                assert_eq!(of_rows(index, &model), hashes(index));
                settle(index, 5_000);
                assert_eq!(of_rows(index, &model), hashes(index));
            }
        }
    }
}

/// Writing and reading an image with large rows overdraws no turn by much.
#[test]
fn large_rows_fit_the_turn() {
    let mut index = open(true, Limits::default());
    let mut model = Model::new();
    for id in 1..4 {
        write(
            &mut index,
            &mut model,
            id,
            Some([Some(large(400_000)), None]),
        );
    }
    settle(&mut index, UNITS_PER_TURN);
    // One more waits.
    write(
        &mut index,
        &mut model,
        4,
        Some([Some(large(400_000)), None]),
    );
    let frozen = index.freeze().unwrap().unwrap();
    let image = image::write(&frozen, None, UNITS_PER_TURN);
    let thawed = image::thaw(open(true, Limits::default()), &image, UNITS_PER_TURN);
    assert_eq!(hashes(&mut thawed.unwrap()), of_rows(&index, &model));
}
