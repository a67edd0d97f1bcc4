//! Place indexes against a scan of their rows, under random writes, merges and tiny budgets.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;

use nodedb_bridge::op::place::Op;
use nodedb_types::geo::{Geometry, geography, planar};
use nodedb_types::{SqlState, Value, row};
use proptest::prelude::*;

use super::*;
use crate::pace::UNITS_PER_TURN;

/// The places of the model's rows; None is NULL.
pub(super) type Rows = BTreeMap<u32, Option<Geometry>>;

fn value(place: &Geometry, is_geodetic: bool) -> Value {
    match is_geodetic {
        true => Value::Geography(place.to_ewkb()),
        false => Value::Geometry(place.to_ewkb()),
    }
}

fn encode(place: Option<&Geometry>, is_geodetic: bool) -> Vec<u8> {
    let place = place.map_or(Value::Null, |place| value(place, is_geodetic));
    let data_type = match is_geodetic {
        true => DataType::Geography(None),
        false => DataType::Geometry(None),
    };
    row::encode(&[Value::Int4(7), place], &[DataType::Int4, data_type]).unwrap()
}

pub(super) fn put(index: &mut Places, rows: &mut Rows, id: u32, place: Option<Option<Geometry>>) {
    let is_geodetic = index.is_geodetic;
    let before = rows
        .get(&id)
        .map(|place| encode(place.as_ref(), is_geodetic));
    let after = place
        .as_ref()
        .map(|place| encode(place.as_ref(), is_geodetic));
    let before = before.as_deref().map(|row| RowView::new(row).unwrap());
    let after = after.as_deref().map(|row| RowView::new(row).unwrap());
    if before.is_some() || after.is_some() {
        let surrogate = Surrogate::new(id).unwrap();
        index
            .apply(surrogate, before.as_ref(), after.as_ref())
            .unwrap();
    }
    match place {
        Some(place) => rows.insert(id, place),
        None => rows.remove(&id),
    };
}

/// Polls to the end in turns of `units`; `between` runs after each turn.
pub(super) fn drive<T>(
    units: u32,
    mut step: impl FnMut(&Turn<'_>) -> Poll<Result<T>>,
    mut between: impl FnMut(),
) -> Result<T> {
    let budget = Budget::new(units);
    loop {
        let turn = Turn {
            budget: &budget,
            waker: Waker::noop(),
        };
        if let Poll::Ready(result) = step(&turn) {
            return result;
        }
        assert!(budget.is_spent(), "pending although units were left");
        budget.refill(units);
        between();
    }
}

/// The predicate of one place by the functions of SQL.
fn oracle(op: &Op, place: &Geometry) -> Result<bool> {
    let shape = |value: &Value| match value {
        Value::Geography(ewkb) | Value::Geometry(ewkb) => Geometry::from_ewkb(ewkb).unwrap(),
        other => panic!("{other:?}"),
    };
    match op {
        Op::DWithin {
            shape: s @ Value::Geography(_),
            distance,
        } => Ok(geography::distance(place, &shape(s))?.is_some_and(|d| d <= *distance)),
        Op::Intersects {
            shape: s @ Value::Geography(_),
        } => geography::intersects(place, &shape(s)),
        Op::DWithin { shape: s, distance } => planar::dwithin(place, &shape(s), *distance),
        Op::Intersects { shape: s } => planar::intersects(place, &shape(s)),
        Op::Within { shape: s } => planar::within(place, &shape(s)),
        Op::Contains { shape: s } => planar::contains(place, &shape(s)),
    }
}

/// Where it is true and unknown among `wanted`, or that it fails.
pub(super) fn brute_force(
    rows: &Rows,
    op: &Op,
    wanted: &BTreeSet<u32>,
) -> Result<(BTreeSet<u32>, BTreeSet<u32>)> {
    let (mut yes, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for (id, place) in rows.iter().filter(|(id, _)| wanted.contains(id)) {
        match place {
            None => {
                unknown.insert(*id);
            }
            Some(place) => {
                if oracle(op, place)? {
                    yes.insert(*id);
                }
            }
        }
    }
    Ok((yes, unknown))
}

pub(super) fn block_set(ids: &BTreeSet<u32>, block: u16) -> BlockSet {
    let of_block = ids.iter().filter(|id| (**id >> 16) as u16 == block);
    BlockSet::from_sorted(of_block.map(|id| *id as u16))
}

pub(super) fn check_hashes(index: &Places, rows: &Rows, units: u32) {
    let (mut survey, mut hashes) = (PlaceSurvey::default(), Hashes::new());
    drive(
        units,
        |turn| index.poll_hashes(&mut survey, &mut hashes, turn),
        || {},
    )
    .unwrap();
    let mut want = Hashes::new();
    for (id, place) in rows {
        let row = encode(place.as_ref(), index.is_geodetic);
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

pub(super) fn id() -> impl Strategy<Value = u32> {
    prop_oneof![20 => 1u32..200, 1 => Just(65_535), 3 => 65_536u32..65_560, 1 => Just(u32::MAX)]
}

fn geometry(text: &str) -> Geometry {
    Geometry::from_text(text).unwrap()
}

fn on_globe() -> BoxedStrategy<Geometry> {
    let lon = prop_oneof![
        prop::sample::select(vec![-180.0, 180.0, 179.95, -179.95, 0.0, 13.4]),
        -180.0f64..180.0
    ];
    let lat = prop_oneof![
        prop::sample::select(vec![-90.0, 90.0, 89.95, 0.0, 52.5]),
        -90.0f64..90.0
    ];
    (lon, lat)
        .prop_map(|(lon, lat)| Geometry::point(lon, lat, 4326).unwrap())
        .boxed()
}

/// Shapes on a small grid, so that they touch.
fn on_plane() -> BoxedStrategy<Geometry> {
    let c = || (0i32..9).prop_map(|c| f64::from(c) / 2.0);
    let point = (c(), c()).prop_map(|(x, y)| Geometry::point(x, y, 0).unwrap());
    let line = (c(), c(), c(), c())
        .prop_map(|(a, b, x, y)| geometry(&format!("LINESTRING({a} {b},{x} {y},{x} {b})")));
    let square = (c(), c(), 1i32..7).prop_map(|(x, y, size)| {
        let (x2, y2) = (x + f64::from(size) / 2.0, y + f64::from(size) / 2.0);
        geometry(&format!(
            "POLYGON(({x} {y},{x2} {y},{x2} {y2},{x} {y2},{x} {y}))"
        ))
    });
    let empty = prop::sample::select(vec![
        "POINT EMPTY",
        "POLYGON EMPTY",
        "MULTIPOINT(1 1,2.5 3)",
    ]);
    prop_oneof![8 => point, 3 => line, 4 => square, 1 => empty.prop_map(geometry)].boxed()
}

/// Places about which questions fail.
pub(super) fn odd(is_geodetic: bool) -> BoxedStrategy<Geometry> {
    let texts: &[&str] = match is_geodetic {
        true => &[
            "LINESTRING(0 0,1 1)",
            "POLYGON((0 0,1 0,1 1,0 0))",
            "MULTIPOINT(1 1)",
        ],
        false => &[
            "SRID=4326;POINT(1 1)",
            "GEOMETRYCOLLECTION(POINT(1 1))",
            "POINT(1e150 1)",
        ],
    };
    prop::sample::select(texts.to_vec())
        .prop_map(move |text| match is_geodetic {
            true => geometry(text).into_geography().unwrap(),
            false => geometry(text),
        })
        .boxed()
}

fn place(is_geodetic: bool) -> BoxedStrategy<Geometry> {
    match is_geodetic {
        true => prop_oneof![
            12 => on_globe(),
            1 => Just(geometry("POINT EMPTY").into_geography().unwrap()),
        ]
        .boxed(),
        false => on_plane(),
    }
}

pub(super) fn op(is_geodetic: bool) -> BoxedStrategy<Op> {
    let shape = move || place(is_geodetic).prop_map(move |place| value(&place, is_geodetic));
    let distance = match is_geodetic {
        true => prop::sample::select(vec![0.0, 12_000.0, 1.5e6, 1e7, 1.9e7, 3e7, f64::INFINITY]),
        false => prop::sample::select(vec![0.0, 0.5, 1.0, 1.5, 2.5, 20.0, f64::INFINITY]),
    };
    let dwithin = (shape(), distance).prop_map(|(shape, distance)| Op::DWithin { shape, distance });
    let intersects = shape().prop_map(|shape| Op::Intersects { shape });
    if is_geodetic {
        return prop_oneof![4 => dwithin, 1 => intersects].boxed();
    }
    let within = shape().prop_map(|shape| Op::Within { shape });
    let contains = shape().prop_map(|shape| Op::Contains { shape });
    prop_oneof![dwithin, intersects, within, contains].boxed()
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Put(u32, Option<Geometry>),
    Delete(u32),
    Work(u32),
}

pub(super) fn step(is_geodetic: bool) -> impl Strategy<Value = Step> {
    let put = (id(), prop::option::weighted(0.9, place(is_geodetic)));
    prop_oneof![
        8 => put.prop_map(|(id, place)| Step::Put(id, place)),
        2 => id().prop_map(Step::Delete),
        1 => (1u32..40).prop_map(Step::Work),
    ]
}

pub(super) fn take(index: &mut Places, rows: &mut Rows, step: Step) {
    match step {
        Step::Put(id, place) => put(index, rows, id, Some(place)),
        Step::Delete(id) => put(index, rows, id, None),
        Step::Work(units) => {
            index.work(&Budget::new(units)).unwrap();
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    is_geodetic: bool,
    before: Vec<Step>,
    odd: Vec<(u32, Geometry)>,
    during: Vec<Step>,
    op: Op,
    /// Rows that do not change while the question is answered; None: nothing changes.
    wanted: Option<BTreeSet<u32>>,
    units: u32,
    begins_with_next: bool,
    /// As of [`PlaceSource`].
    prepare_min: usize,
    piece: usize,
}

fn case() -> impl Strategy<Value = Case> {
    any::<bool>().prop_flat_map(|is_geodetic| {
        let odd_rows = prop::collection::vec((id(), odd(is_geodetic)), 0..3);
        let steps = |n| prop::collection::vec(step(is_geodetic), n);
        let wanted = prop_oneof![
            prop::collection::btree_set(id(), 0..4),
            prop::collection::btree_set(id(), 60..150),
        ];
        (
            steps(0..400),
            prop_oneof![3 => Just(Vec::new()), 1 => odd_rows],
            steps(0..60),
            op(is_geodetic),
            prop::option::weighted(0.7, wanted),
            (prop_oneof![Just(1u32), 2u32..50], any::<bool>()),
            prop_oneof![3 => Just(1), 1 => Just(source::PREPARE_MIN)],
            prop_oneof![3 => 1usize..40, 1 => Just(source::PIECE)],
        )
            .prop_map(
                move |(before, odd, during, op, wanted, turns, prepare_min, piece)| Case {
                    is_geodetic,
                    before,
                    odd,
                    during,
                    op,
                    wanted,
                    units: turns.0,
                    begins_with_next: turns.1,
                    prepare_min,
                    piece,
                },
            )
    })
}

fn answers_equal_brute_force(case: Case) {
    let mut index = Places::new(1, case.is_geodetic, 4);
    let mut rows = Rows::new();
    for step in case.before {
        take(&mut index, &mut rows, step);
    }
    for (id, place) in case.odd {
        put(&mut index, &mut rows, id, Some(Some(place)));
    }
    check_hashes(&index, &rows, case.units);
    let everything: BTreeSet<u32> = rows.keys().copied().collect();
    let asked = case.wanted.clone().unwrap_or_else(|| everything.clone());
    let original = rows.clone();

    let index = RefCell::new(index);
    let mut during = case.during.into_iter();
    let mut between = || match during.next() {
        Some(Step::Put(id, _) | Step::Delete(id)) if asked.contains(&id) => {}
        Some(step) => take(&mut index.borrow_mut(), &mut rows, step),
        None => {}
    };
    let source = index.borrow().source(&EngineOp::Place(case.op.clone()));
    let mut source = match source {
        Ok(source) => source,
        Err(failure) => {
            // Refused beforehand: then it fails for any row of the column's kind.
            let any = geometry("POINT(1 1)");
            let any = if case.is_geodetic {
                any.into_geography().unwrap()
            } else {
                any
            };
            assert_eq!(oracle(&case.op, &any).unwrap_err(), failure);
            return;
        }
    };
    source.prepare_min = case.prepare_min;
    source.piece = case.piece;
    let mut blocks = Vec::new();
    let mut from = Some(0u16);
    while let Some(at) = from {
        let next = |turn: &Turn<'_>| index.borrow().poll_next_block(&mut source, at, turn);
        let block = match case.begins_with_next {
            true => drive(case.units, next, &mut between).unwrap(),
            false => [0, 1, u16::MAX].into_iter().find(|block| *block >= at),
        };
        blocks.extend(block);
        from = block.and_then(|block| block.checked_add(1));
    }
    for (id, place) in original.iter().filter(|(id, _)| asked.contains(id)) {
        let row = encode(place.as_ref(), case.is_geodetic);
        let matches = index
            .borrow()
            .matches(&source, &RowView::new(&row).unwrap());
        let want = place
            .as_ref()
            .map(|place| oracle(&case.op, place))
            .transpose();
        assert_eq!(matches, want);
        let is_no = matches!(want, Ok(Some(false) | None));
        assert!(
            is_no || blocks.contains(&((id >> 16) as u16)),
            "block of {id} left out"
        );
    }
    for block in blocks {
        let of_block: BTreeSet<u32> = asked
            .iter()
            .copied()
            .filter(|id| (id >> 16) as u16 == block)
            .collect();
        let wanted = case.wanted.as_ref().map(|wanted| block_set(wanted, block));
        let poll = |turn: &Turn<'_>| {
            index
                .borrow()
                .poll_block(&mut source, block, wanted.as_ref(), turn)
        };
        let got = drive(case.units, poll, &mut between);
        match brute_force(&original, &case.op, &of_block) {
            Ok((yes, unknown)) => {
                let mut truth = got.unwrap();
                let filter = block_set(&of_block, block);
                truth.yes.intersect(&filter);
                truth.unknown.intersect(&filter);
                assert_eq!(truth.yes, block_set(&yes, block));
                assert_eq!(truth.unknown, block_set(&unknown, block));
                // Asked once more about fewer rows.
                let fewer = BlockSet::from_sorted(filter.iter().take(2));
                let poll = |turn: &Turn<'_>| {
                    index
                        .borrow()
                        .poll_block(&mut source, block, Some(&fewer), turn)
                };
                let mut again = drive(case.units, poll, || {}).unwrap().yes;
                again.intersect(&fewer);
                truth.yes.intersect(&fewer);
                assert_eq!(again, truth.yes);
            }
            Err(_) => {
                got.unwrap_err();
                return;
            }
        }
    }

    let mut index = index.into_inner();
    while index.work(&Budget::new(case.units)).unwrap() {}
    check_hashes(&index, &rows, case.units);
    let entries: usize = index
        .tree
        .runs()
        .iter()
        .map(|run| run.entries().len())
        .sum();
    assert!(entries as u64 <= 2 * index.store.len() + 16);
    assert!(index.tree.runs().len() <= 3 * 5);
    for id in rows.keys().copied().collect::<Vec<_>>() {
        put(&mut index, &mut rows, id, None);
    }
    assert_eq!((index.store.len(), index.store.nulls().len()), (0, 0));
    assert_eq!(
        index
            .store
            .next_single_block(0, 0)
            .or(index.store.next_block(0)),
        None
    );
    check_hashes(&index, &rows, case.units);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Tails of four entries and many small runs; turns of any size; changes between turns.
    #[test]
    fn sources_equal_brute_force(case in case()) {
        answers_equal_brute_force(case);
    }
}

/// Twenty thousand points: a selective question reads few of them, and no turn is overdrawn.
#[test]
fn a_small_circle_among_many_points() {
    let mut index = Places::new(1, true, tree::TAIL_MAX);
    let mut rows = Rows::new();
    let mut state = 1u64;
    let mut unit = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    for id in 1..=20_000 {
        let place = Geometry::point(unit() * 360.0 - 180.0, unit() * 180.0 - 90.0, 4326).unwrap();
        put(&mut index, &mut rows, id, Some(Some(place)));
    }
    let budget = Budget::new(UNITS_PER_TURN);
    while index.work(&budget).unwrap() {
        assert!(budget.overdrawn() < 10);
        budget.refill(UNITS_PER_TURN);
    }
    assert!(index.bytes() < 20_000 * 64);
    for (radius, share) in [(300_000.0, 100), (3_000_000.0, 8)] {
        let centre = Geometry::point(179.0, 52.5, 4326).unwrap();
        let op = Op::DWithin {
            shape: value(&centre, true),
            distance: radius,
        };
        let mut source = index.source(&EngineOp::Place(op.clone())).unwrap();
        let estimate = index.estimate(&source);
        let wanted = rows.keys().copied().collect();
        let (yes, _) = brute_force(&rows, &op, &wanted).unwrap();
        let budget = Budget::new(1_000_000);
        let turn = Turn {
            budget: &budget,
            waker: Waker::noop(),
        };
        let Poll::Ready(truth) = index.poll_block(&mut source, 0, None, &turn) else {
            panic!("the budget is large");
        };
        assert_eq!(truth.unwrap().yes, block_set(&yes, 0));
        // In short turns nothing is done again.
        let (spent, mut turns) = (1_000_000 - budget.left(), 0);
        let mut source = index.source(&EngineOp::Place(op.clone())).unwrap();
        let poll = |turn: &Turn<'_>| index.poll_block(&mut source, 0, None, turn);
        let truth = drive(100, poll, || turns += 1).unwrap();
        assert_eq!(truth.yes, block_set(&yes, 0));
        assert!(turns > 0 && turns <= spent / 100, "{turns} {spent}");
        let found = yes.len() as u64;
        assert!(
            found > 3 && estimate.rows >= found / 4 && estimate.rows <= found * 4 + 64,
            "{estimate:?} {found}"
        );
        assert!(
            1_000_000 - budget.left() < 20_000 / share * 2,
            "{}",
            budget.left()
        );
    }
}

#[test]
fn refusals_have_their_own_codes() {
    let code = |is_geodetic: bool, op: Op| {
        let index = Places::new(1, is_geodetic, 4);
        index
            .source(&EngineOp::Place(op))
            .err()
            .map(|failure| failure.code())
    };
    let berlin = value(&Geometry::point(13.4, 52.5, 4326).unwrap(), true);
    let line = geometry("LINESTRING(0 0,1 1)").into_geography().unwrap();
    let dwithin = |shape: &Value, distance| Op::DWithin {
        shape: shape.clone(),
        distance,
    };
    assert_eq!(code(true, dwithin(&berlin, 1.0)), None);
    assert_eq!(
        code(true, dwithin(&berlin, -1.0)),
        Some(SqlState::InvalidParameterValue)
    );
    assert_eq!(
        code(true, dwithin(&value(&line, true), 1.0)),
        Some(SqlState::FeatureNotSupported)
    );
    assert_eq!(
        code(
            true,
            Op::Within {
                shape: berlin.clone()
            }
        ),
        Some(SqlState::FeatureNotSupported)
    );
    assert_eq!(
        code(false, Op::Within { shape: berlin }),
        Some(SqlState::Internal)
    );
    let huge = value(&geometry("POINT(1e150 0)"), false);
    assert_eq!(
        code(false, Op::Intersects { shape: huge }),
        Some(SqlState::NumericOutOfRange)
    );
    let mixed = value(&geometry("GEOMETRYCOLLECTION(POINT(1 1))"), false);
    assert_eq!(
        code(
            false,
            Op::Intersects {
                shape: mixed.clone()
            }
        ),
        None
    );
    assert_eq!(
        code(false, Op::Within { shape: mixed }),
        Some(SqlState::FeatureNotSupported)
    );
}

#[test]
fn a_dropped_index_goes_in_pieces() {
    let mut index = Places::new(1, true, 64);
    let shape = geometry("LINESTRING(0 0, 1 1)");
    for id in 1..=8_000 {
        let point = geometry(&format!("POINT({} 1)", id % 90));
        let place = if id % 2 == 0 { &point } else { &shape };
        let row = encode(Some(place), true);
        let surrogate = Surrogate::new(id).unwrap();
        let row = RowView::new(&row).unwrap();
        index.apply(surrogate, None, Some(&row)).unwrap();
    }
    let mut turns = 0;
    loop {
        let budget = Budget::new(4 * DROP_UNITS);
        let more = index.dismantle(&budget);
        assert_eq!(more, budget.is_spent(), "a turn takes what it may");
        if !more {
            break;
        }
        turns += 1;
    }
    assert!(turns >= 4_000 / DROP_SHAPES / 4, "{turns}");
    assert!(index.store.shapes().is_empty() && index.store.points().len() == 0);
}
