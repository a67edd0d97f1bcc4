//! Vector indexes against a scan of their rows, under random writes, merges and tiny budgets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;

use nodedb_bridge::op::vector::Rank;
use nodedb_types::row;
use nodedb_types::vector::distance;
use nodedb_types::{DataType, Value};
use proptest::prelude::*;

use super::*;
use crate::engine::image_codec::tests as image;
use crate::pace::UNITS_PER_TURN;

const DIMENSIONS: usize = 3;
const TYPES: [DataType; 2] = [DataType::Int4, DataType::Vector(Some(DIMENSIONS as u16))];

fn encode(vector: Option<&[f32]>) -> Vec<u8> {
    let vector = vector.map_or(Value::Null, |v| Value::Vector(v.to_vec()));
    row::encode(&[Value::Int4(7), vector], &TYPES).unwrap()
}

fn apply(index: &mut Vectors, id: u32, before: Option<&[u8]>, after: Option<&[u8]>) {
    let before = before.map(|row| RowView::new(row).unwrap());
    let after = after.map(|row| RowView::new(row).unwrap());
    let surrogate = Surrogate::new(id).unwrap();
    index
        .apply(surrogate, before.as_ref(), after.as_ref())
        .unwrap();
}

/// Polls to the end in turns of `units`; `between` runs after each turn.
fn drive<T>(
    units: u32,
    mut step: impl FnMut(&Turn<'_>) -> Poll<Result<T>>,
    mut between: impl FnMut(),
) -> T {
    let budget = Budget::new(units);
    loop {
        let turn = Turn {
            budget: &budget,
            waker: Waker::noop(),
        };
        if let Poll::Ready(result) = step(&turn) {
            return result.unwrap();
        }
        assert!(budget.is_spent(), "pending although units were left");
        budget.refill(units);
        between();
    }
}

fn rank(metric: Metric, query: &[f32]) -> EngineRank {
    EngineRank::Vector(Rank {
        column: 1,
        metric,
        query: Arc::from(query),
    })
}

/// NaN last and equal to itself.
fn order(a: f64, b: f64) -> std::cmp::Ordering {
    a.partial_cmp(&b)
        .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Sorted scores of the best `k` and their ties, with the rows of each score sorted by id.
fn normal(mut rows: Vec<(f64, u32)>) -> Vec<(u64, u32)> {
    rows.sort_by(|a, b| order(a.0, b.0).then(a.1.cmp(&b.1)));
    rows.into_iter()
        .map(|(score, id)| (score.to_bits(), id))
        .collect()
}

type Rows = BTreeMap<u32, Option<Vec<f32>>>;

fn brute_force(
    rows: &Rows,
    allowed: &BTreeSet<u32>,
    metric: Metric,
    query: &[f32],
    k: usize,
) -> Vec<(u64, u32)> {
    let mut scored: Vec<(f64, u32)> = allowed
        .iter()
        .filter_map(|id| Some((distance(metric, query, rows.get(id)?.as_deref()?), *id)))
        .collect();
    scored.sort_by(|a, b| order(a.0, b.0));
    let worst = k
        .checked_sub(1)
        .and_then(|last| scored.get(last))
        .map(|row| row.0);
    if k == 0 {
        scored.clear();
    }
    if let Some(worst) = worst {
        scored.retain(|row| order(row.0, worst).is_le());
    }
    normal(scored)
}

/// Few different elements, so that ties and zero vectors are met.
fn vector() -> impl Strategy<Value = Vec<f32>> {
    let element = prop_oneof![
        Just(0.0f32),
        Just(-0.0),
        Just(1.0),
        Just(-1.0),
        -9.0f32..9.0
    ];
    prop::collection::vec(element, DIMENSIONS)
}

fn id() -> impl Strategy<Value = u32> {
    prop_oneof![
        1u32..40,
        Just(1023),
        Just(1024),
        Just(65_535),
        Just(65_536),
        Just(u32::MAX)
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Put(u32, Option<Vec<f32>>),
    Delete(u32),
    Work(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (id(), prop::option::weighted(0.9, vector())).prop_map(|(id, v)| Step::Put(id, v)),
        2 => id().prop_map(Step::Delete),
        1 => (1u32..9).prop_map(Step::Work),
    ]
}

/// Does a step in the index and in the model.
fn take(index: &mut Vectors, rows: &mut Rows, step: Step) {
    match step {
        Step::Put(id, vector) => {
            let before = rows.get(&id).map(|v| encode(v.as_deref()));
            let after = encode(vector.as_deref());
            apply(index, id, before.as_deref(), Some(&after));
            rows.insert(id, vector);
        }
        Step::Delete(id) => {
            if let Some(vector) = rows.remove(&id) {
                apply(index, id, Some(&encode(vector.as_deref())), None);
            }
        }
        Step::Work(units) => {
            index.work(&Budget::new(units)).unwrap();
        }
    }
}

fn check_hashes(index: &Vectors, rows: &Rows, units: u32) {
    let (mut survey, mut hashes) = (VectorSurvey::default(), Hashes::new());
    drive(
        units,
        |turn| index.poll_hashes(&mut survey, &mut hashes, turn),
        || {},
    );
    let mut want = Hashes::new();
    for (id, vector) in rows {
        let row = encode(vector.as_deref());
        let surrogate = Surrogate::new(*id).unwrap();
        mix(
            &mut want,
            *id,
            index
                .row_hash(surrogate, &RowView::new(&row).unwrap())
                .unwrap(),
        );
    }
    assert_eq!(hashes, want);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Runs of four slots; a ranking between any two steps, in turns of any size, while rows
    /// that are not allowed change and runs are emptied.
    #[test]
    fn ranking_equals_brute_force(
        steps in prop::collection::vec(step(), 1..80),
        during in prop::collection::vec(step(), 0..20),
        allowed in prop::collection::btree_set(id(), 0..30),
        query in vector(),
        metric in prop::sample::select(Metric::ALL.to_vec()),
        k in 0usize..12,
        units in 1u32..6,
    ) {
        let mut index = Vectors::new(1, metric, Shape::new(DIMENSIONS, 4 * DIMENSIONS * 4));
        let mut rows = Rows::new();
        for step in steps {
            take(&mut index, &mut rows, step);
        }
        check_hashes(&index, &rows, units);
        let want = brute_force(&rows, &allowed, metric, &query, k);

        let mut ranking = index.ranking(&rank(metric, &query)).unwrap();
        for row in &rows {
            let bytes = encode(row.1.as_deref());
            let score = index.score(&ranking, &RowView::new(&bytes).unwrap()).unwrap();
            let want = row.1.as_deref().map(|v| distance(metric, &query, v).to_bits());
            prop_assert_eq!(score.map(f64::to_bits), want);
        }
        let row_set: RowSet = allowed.iter().copied().collect();
        let index = std::cell::RefCell::new(index);
        let mut during = during.into_iter();
        let ranked = drive(
            units,
            |turn| index.borrow().poll_rank(&mut ranking, &row_set, k, turn),
            || match during.next() {
                Some(Step::Put(id, _) | Step::Delete(id)) if allowed.contains(&id) => {}
                Some(step) => take(&mut index.borrow_mut(), &mut rows, step),
                None => {}
            },
        );
        let is_sorted = ranked.rows.is_sorted_by(|a, b| order(a.0, b.0).is_le());
        prop_assert!(is_sorted, "{:?}", ranked.rows);
        prop_assert_eq!(normal(ranked.rows), want);

        let mut index = index.into_inner();
        while index.work(&Budget::new(units)).unwrap() {}
        check_hashes(&index, &rows, units);
        let sealed = index.runs.iter().flatten().filter(|run| run.len() == 4);
        prop_assert!(sealed.into_iter().all(|run| run.live() > 0));
        let used: u32 = index.runs.iter().flatten().map(|run| run.len()).sum();
        prop_assert!(used <= 2 * index.places.len() as u32 + 4, "{used} slots");
        for id in rows.keys().copied().collect::<Vec<_>>() {
            take(&mut index, &mut rows, Step::Delete(id));
        }
        prop_assert_eq!(index.places.len(), 0);
        prop_assert!(index.runs.iter().flatten().count() <= 1);
        prop_assert_eq!(index.sealed_bytes, 0);
    }
}

/// The entries of an index as a ranking finds them.
fn ranked(index: &Vectors, metric: Metric, query: &[f32]) -> Vec<(u64, u32)> {
    let mut ranking = index.ranking(&rank(metric, query)).unwrap();
    let all: RowSet = (1..70_000).chain([u32::MAX]).collect();
    let poll = |turn: &Turn<'_>| index.poll_rank(&mut ranking, &all, 1000, turn);
    normal(drive(10_000, poll, || {}).rows)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_frozen_index_comes_back(
        load in prop::collection::vec(step(), 0..60),
        more in prop::collection::vec(step(), 0..20),
        rest in prop::collection::vec(step(), 0..20),
        query in vector(),
        units in prop_oneof![1u32..6, Just(10_000)],
    ) {
        let metric = Metric::L2;
        let open = || Vectors::new(1, metric, Shape::new(DIMENSIONS, 4 * DIMENSIONS * 4));
        let (mut live, mut rows) = (open(), Rows::new());
        load.into_iter().for_each(|step| take(&mut live, &mut rows, step));
        let first = image::write(&live.freeze().unwrap().unwrap(), None, units);
        more.into_iter().for_each(|step| take(&mut live, &mut rows, step));
        let frozen = live.freeze().unwrap().unwrap();
        let (mut known, then) = (rows.clone(), ranked(&live, metric, &query));
        rest.clone().into_iter().for_each(|step| take(&mut live, &mut rows, step));
        let image = image::write(&frozen, Some(&first), units);

        let mut thawed = image::thaw(open(), &image, units).unwrap();
        let again = thawed.freeze().unwrap().unwrap();
        prop_assert_eq!(&image::write(&again, Some(&image), units), &image);
        check_hashes(&thawed, &known, units);
        prop_assert_eq!(ranked(&thawed, metric, &query), then);
        rest.into_iter().for_each(|step| take(&mut thawed, &mut known, step));
        for index in [&mut live, &mut thawed] {
            while index.work(&Budget::new(units)).unwrap() {}
            check_hashes(index, &rows, units);
        }
        prop_assert_eq!(ranked(&thawed, metric, &query), ranked(&live, metric, &query));
        let used: u32 = thawed.runs.iter().flatten().map(|run| run.len()).sum();
        prop_assert!(used <= 2 * thawed.places.len() as u32 + 4, "{used} slots");
        for id in rows.keys().copied().collect::<Vec<_>>() {
            take(&mut thawed, &mut rows, Step::Delete(id));
        }
        prop_assert_eq!((thawed.places.len(), thawed.sealed_bytes), (0, 0));
    }

    #[test]
    fn damaged_images_are_refused(steps in prop::collection::vec(step(), 0..40)) {
        let open = || Vectors::new(1, Metric::L2, Shape::new(DIMENSIONS, 4 * DIMENSIONS * 4));
        let (mut index, mut rows) = (open(), Rows::new());
        steps.into_iter().for_each(|step| take(&mut index, &mut rows, step));
        let image = image::write(&index.freeze().unwrap().unwrap(), None, 10_000);
        image::refuses_damage(open, &image);
    }
}

/// A sealed run is written once, and a freeze copies nothing.
#[test]
fn an_unchanged_run_keeps_its_name() {
    let mut index = Vectors::new(1, Metric::L2, Shape::new(DIMENSIONS, 4 * DIMENSIONS * 4));
    let mut rows = Rows::new();
    for id in 1..11 {
        take(
            &mut index,
            &mut rows,
            Step::Put(id, Some(vec![1.0, 2.0, id as f32])),
        );
    }
    let names = |index: &mut Vectors| -> Vec<u64> {
        let frozen = index.freeze().unwrap().unwrap();
        frozen.parts.iter().map(|part| part.id()).collect()
    };
    let first = names(&mut index);
    assert_eq!(first.len(), 4);
    assert_eq!(names(&mut index), first);
    // The tail changes by a row, the dead by another.
    take(&mut index, &mut rows, Step::Put(11, Some(vec![0.0; 3])));
    let second = names(&mut index);
    assert_eq!(second[..3], first[..3]);
    assert_ne!(second[3], first[3]);
    take(&mut index, &mut rows, Step::Delete(1));
    let third = names(&mut index);
    assert_eq!(third[1..], second[1..]);
    assert_ne!(third[0], second[0]);
}

#[test]
fn no_direction_is_farther_than_everything_but_not_forgotten() {
    let mut index = Vectors::new(1, Metric::Cosine, Shape::new(DIMENSIONS, run::RUN_BYTES));
    for (id, vector) in [
        (1, [0.0; 3]),
        (2, [-1.0, 0.0, 0.0]),
        (3, [0.0; 3]),
        (4, [1.0, 0.0, 0.0]),
    ] {
        apply(&mut index, id, None, Some(&encode(Some(&vector))));
    }
    apply(&mut index, 5, None, Some(&encode(None)));
    let allowed: RowSet = (1..=5).collect();
    let best = |k| {
        let mut ranking = index
            .ranking(&rank(Metric::Cosine, &[1.0, 0.0, 0.0]))
            .unwrap();
        let ranked = drive(
            100,
            |turn| index.poll_rank(&mut ranking, &allowed, k, turn),
            || {},
        );
        assert_eq!((ranked.how, ranked.seen, ranked.scored), ("scan", 4, 4));
        ranked.rows
    };
    assert_eq!(best(2), [(0.0, 4), (2.0, 2)]);
    let rows = best(3);
    assert_eq!(rows.len(), 4);
    assert!(rows[2].0.is_nan() && rows[3].0.is_nan());
}

#[test]
fn a_query_must_fit_the_column() {
    let index = Vectors::new(1, Metric::L2, Shape::new(DIMENSIONS, run::RUN_BYTES));
    let failure = |metric, query: &[f32]| index.ranking(&rank(metric, query)).err().unwrap();
    assert_eq!(
        failure(Metric::L2, &[1.0]).to_string(),
        "different vector dimensions 3 and 1 (22000)"
    );
    assert_eq!(failure(Metric::L1, &[1.0; 3]).code(), SqlState::Internal);
    let row = row::encode(&[Value::Int4(1), Value::Vector(vec![1.0])], &TYPES).unwrap();
    let row = RowView::new(&row).unwrap();
    assert_eq!(
        index
            .row_hash(Surrogate::new(1).unwrap(), &row)
            .unwrap_err()
            .code(),
        SqlState::DataCorrupted
    );
}

/// A whole scan of wide vectors stays within its turns, and memory is what the vectors take.
#[test]
fn wide_vectors_fit_the_turn() {
    const WIDE: usize = 384;
    let types = [DataType::Int4, DataType::Vector(Some(WIDE as u16))];
    let mut index = Vectors::new(1, Metric::Cosine, Shape::new(WIDE, run::RUN_BYTES));
    let rows = 3000u32;
    let vector = |id: u32| -> Vec<f32> {
        let element = |i: u32| ((id * 31 + i * 17) % 101) as f32 - 50.0;
        (0..WIDE as u32).map(element).collect()
    };
    for id in 1..=rows {
        let row = row::encode(&[Value::Int4(7), Value::Vector(vector(id))], &types).unwrap();
        apply(&mut index, id, None, Some(&row));
    }
    let vectors = rows as usize * WIDE * 4;
    // A code is a fourth of its vector.
    assert!((vectors..vectors * 3 / 2 + (2 << 20)).contains(&index.bytes()));
    let allowed: RowSet = (1..=rows).collect();
    let mut ranking = index.ranking(&rank(Metric::Cosine, &vector(77))).unwrap();
    let budget = Budget::new(UNITS_PER_TURN);
    let mut turns = 1;
    let best = loop {
        let turn = Turn {
            budget: &budget,
            waker: Waker::noop(),
        };
        match index.poll_rank(&mut ranking, &allowed, 1, &turn) {
            Poll::Ready(best) => break best.unwrap(),
            Poll::Pending => turns += 1,
        }
        assert!(budget.overdrawn() < 10);
        budget.refill(UNITS_PER_TURN);
    };
    assert!(best.rows.iter().any(|(_, id)| *id == 77));
    assert_eq!(best.seen, u64::from(rows));
    assert!(best.scored < 60, "{}", best.scored);
    let units = index.shape.code_units(rows as usize) + 100 + 60 * index.shape.units();
    assert!(turns <= 1 + units / UNITS_PER_TURN, "{turns}");
}

const EIGHT: [DataType; 2] = [DataType::Int4, DataType::Vector(Some(8))];

/// Vectors that are hard to tell apart by their codes, or have none: clusters, repeats, all
/// lengths, zeros, elements whose squares leave the range.
fn hard_vectors() -> impl Strategy<Value = Vec<Vec<f32>>> {
    let element = prop_oneof![Just(0.0f32), -1f32..1.0];
    let centres = prop::collection::vec(prop::collection::vec(element, 8), 1..4);
    let noise = prop_oneof![Just(0.0f32), Just(1e-7), Just(1e-3), Just(1.0)];
    let length = prop_oneof![4 => Just(0i32), 1 => -12i32..12, 1 => -126i32..127];
    let member = (any::<prop::sample::Index>(), noise, length, any::<u32>());
    let members = prop::collection::vec(member, 1..700);
    (centres, members).prop_map(|(centres, members)| {
        let vector = |(centre, noise, length, seed): (prop::sample::Index, f32, i32, u32)| {
            let mut state = seed;
            let mut about = |x: &f32| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let turn = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
                ((x + noise * turn) * 2f32.powi(length)).clamp(f32::MIN, f32::MAX)
            };
            let centre: &Vec<f32> = centre.get(&centres);
            centre.iter().map(&mut about).collect()
        };
        members.into_iter().map(vector).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Several batches of codes, and turns that end within them.
    #[test]
    fn ranking_by_codes_equals_brute_force(
        vectors in hard_vectors(),
        query in any::<prop::sample::Index>(),
        step in 1u32..4,
        metric in prop::sample::select(Metric::ALL.to_vec()),
        k in prop_oneof![1usize..4, 0usize..40, Just(usize::MAX)],
        units in prop_oneof![1u32..6, Just(40), Just(UNITS_PER_TURN)],
        confined in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut index = Vectors::new(1, metric, Shape::new(8, 64 * 8 * 4));
        let mut rows = Rows::new();
        let query = query.get(&vectors).clone();
        for (id, vector) in (1..).zip(vectors) {
            let row = row::encode(&[Value::Int4(7), Value::Vector(vector.clone())], &EIGHT);
            apply(&mut index, id, None, Some(&row.unwrap()));
            rows.insert(id, Some(vector));
        }
        let allowed: BTreeSet<u32> = rows.keys().copied().filter(|id| id % step == 0).collect();
        let row_set: RowSet = allowed.iter().copied().collect();
        let mut ranking = index.ranking(&rank(metric, &query)).unwrap();
        let mut want = brute_force(&rows, &allowed, metric, &query, k);
        // By the score of any row, one of the best or not.
        let all = brute_force(&rows, &allowed, metric, &query, usize::MAX);
        if let Some(at) = confined.filter(|_| !all.is_empty()) {
            let most = f64::from_bits(at.get(&all).0);
            index.confine(&mut ranking, most);
            want.retain(|(score, _)| order(f64::from_bits(*score), most).is_le());
        }
        let ranked = drive(units, |turn| index.poll_rank(&mut ranking, &row_set, k, turn), || {});
        prop_assert_eq!(ranked.seen, allowed.len() as u64);
        prop_assert!(ranked.scored <= ranked.seen);
        prop_assert_eq!(normal(ranked.rows), want);
    }
}

#[test]
fn an_image_says_how_large_its_runs_are() {
    let open = |slots| {
        Vectors::new(
            1,
            Metric::L2,
            Shape::new(DIMENSIONS, slots * DIMENSIONS * 4),
        )
    };
    let (mut old, mut rows) = (open(16), Rows::new());
    for id in 1..=40 {
        take(&mut old, &mut rows, Step::Put(id, Some(vec![id as f32; 3])));
    }
    let image = image::write(&old.freeze().unwrap().unwrap(), None, 10_000);
    let mut thawed = image::thaw(open(4), &image, 10_000).unwrap();
    assert_eq!((thawed.shape.slots(), thawed.runs.len()), (16, 3));
    take(&mut thawed, &mut rows, Step::Put(41, Some(vec![0.5; 3])));
    check_hashes(&thawed, &rows, 10_000);
}

#[test]
fn a_dropped_index_goes_in_pieces() {
    let mut index = Vectors::new(1, Metric::L2, Shape::new(DIMENSIONS, 4 * DIMENSIONS * 4));
    let mut rows = Rows::new();
    for id in 1..=4_000 {
        take(&mut index, &mut rows, Step::Put(id, Some(vec![1.0; 3])));
    }
    let mut turns = 0;
    while index.dismantle(&Budget::new(5 * DROP_UNITS)) {
        turns += 1;
    }
    assert!(turns >= 1_000 / 5, "{turns} turns for a thousand runs");
    assert_eq!((index.runs.len(), index.places.len()), (0, 0));
}

/// What a run holds is moved once as it grows, and once when it changes beside a checkpoint.
#[test]
fn a_run_gets_its_memory_in_two_steps() {
    let shape = Shape::new(64, run::RUN_BYTES);
    let (mut run, vector) = (Run::default(), vec![1; shape.vector_bytes()]);
    let (mut sizes, mut names) = (BTreeSet::new(), 1);
    let frozen = (0..shape.slots()).map(|slot| {
        let shared = (slot == 100).then(|| run.freeze(&mut names));
        run.push(slot + 1, &vector, &shape);
        sizes.insert(run.heap_bytes());
        shared
    });
    let frozen: Vec<_> = frozen.flatten().collect();
    assert_eq!(frozen[0].1.surrogates.len(), 100);
    assert_eq!((run.len(), sizes.len()), (shape.slots(), 2));
}
