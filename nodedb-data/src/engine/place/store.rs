//! What each row holds: its place, or NULL.
//!
//! Points, nearly all of what is stored, are two numbers in a dense array; every other shape is
//! kept as its EWKB.

use std::collections::BTreeMap;
use std::rc::Rc;

use nodedb_types::geo::{Kind, SRID_WGS84, bbox, kind_of, point_of};
use nodedb_types::limits::EXTENT_SMALL;
use nodedb_types::{Failure, Result, SqlState};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::bounds::Bounds;
use crate::engine::surrogate_map::SurrogateMap;
use crate::set::{BlockSet, RowSet};

/// Coordinates above this may be too large to measure on the plane; those rows are asked singly.
const LARGE: f64 = 1e100;

/// A value of the indexed column.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// A point that is not empty.
    Point { x: f64, y: f64, srid: i32 },
    /// EWKB of anything else.
    Shape(&'a [u8]),
}

impl<'a> Place<'a> {
    pub(super) fn read(ewkb: &'a [u8]) -> Result<Place<'a>> {
        let Some((_, srid)) = kind_of(ewkb) else {
            let message = "a stored place is no geometry";
            return Err(Failure::new(SqlState::DataCorrupted, message));
        };
        Ok(match point_of(ewkb) {
            Some((x, y)) => Place::Point { x, y, srid },
            None => Place::Shape(ewkb),
        })
    }

    fn srid(&self) -> i32 {
        match self {
            Place::Point { srid, .. } => *srid,
            Place::Shape(ewkb) => kind_of(ewkb).map_or(0, |(_, srid)| srid),
        }
    }

    fn exact_bounds(&self) -> Option<[f64; 4]> {
        match self {
            Place::Point { x, y, .. } => Some([*x, *y, *x, *y]),
            Place::Shape(ewkb) => bbox(ewkb),
        }
    }

    /// None where it is empty.
    pub(super) fn bounds(&self) -> Option<Bounds> {
        self.exact_bounds().map(Bounds::around)
    }

    fn is(&self, other: &Place<'_>) -> bool {
        match (self, other) {
            (
                Place::Point { x, y, srid },
                Place::Point {
                    x: x2,
                    y: y2,
                    srid: srid2,
                },
            ) => (x.to_bits(), y.to_bits(), srid) == (x2.to_bits(), y2.to_bits(), srid2),
            (Place::Shape(a), Place::Shape(b)) => a == b,
            _ => false,
        }
    }

    /// Of the entry that `surrogate` has with this place.
    pub(super) fn hash(&self, surrogate: u32) -> u64 {
        let seed = u64::from(surrogate);
        match self {
            Place::Point { x, y, srid } => {
                let mut bytes = [0; 20];
                bytes[..4].copy_from_slice(&srid.to_le_bytes());
                bytes[4..12].copy_from_slice(&x.to_le_bytes());
                bytes[12..].copy_from_slice(&y.to_le_bytes());
                xxh3_64_with_seed(&bytes, seed)
            }
            Place::Shape(ewkb) => xxh3_64_with_seed(ewkb, seed),
        }
    }
}

/// Of the entry that a row with NULL has.
pub(super) fn null_hash(surrogate: u32) -> u64 {
    xxh3_64_with_seed(&[], u64::from(surrogate))
}

/// The shapes of an extent. A checkpoint shares them, so they are copied before they change.
pub(super) type Shapes = BTreeMap<u32, Rc<[u8]>>;

/// What extents are called in images.
#[derive(Default)]
pub(super) struct ExtentIds {
    pub(super) next: u64,
    /// Of the extents that have not changed since they were named.
    pub(super) known: BTreeMap<u32, u64>,
    pub(super) nulls: Option<u64>,
}

pub(super) struct Store {
    pub(super) ids: ExtentIds,
    is_geodetic: bool,
    points: SurrogateMap<[f64; 2]>,
    /// By extent (surrogate / 1024), then by surrogate.
    shapes: BTreeMap<u32, Rc<Shapes>>,
    shape_count: u64,
    shape_bytes: usize,
    /// Rows that are not NULL, by the reference system of their place.
    systems: BTreeMap<i32, RowSet>,
    /// Rows about which asking may fail, or whose bounds do not say where to look.
    odd: RowSet,
    /// Rows whose place has no point at all.
    empty: RowSet,
    nulls: RowSet,
}

impl Store {
    pub(super) fn new(is_geodetic: bool) -> Store {
        Store {
            ids: ExtentIds::default(),
            is_geodetic,
            points: SurrogateMap::new(),
            shapes: BTreeMap::new(),
            shape_count: 0,
            shape_bytes: 0,
            systems: BTreeMap::new(),
            odd: RowSet::new(),
            empty: RowSet::new(),
            nulls: RowSet::new(),
        }
    }

    #[inline]
    pub(super) fn get(&self, surrogate: u32) -> Option<Place<'_>> {
        match self.points.get(surrogate) {
            Some([x, y]) => Some(Place::Point {
                x,
                y,
                srid: self.system_of(surrogate),
            }),
            None => {
                let shapes = self.shapes.get(&(surrogate / EXTENT_SMALL))?;
                shapes.get(&surrogate).map(|ewkb| Place::Shape(ewkb))
            }
        }
    }

    fn system_of(&self, surrogate: u32) -> i32 {
        if self.is_geodetic {
            return SRID_WGS84;
        }
        let mut systems = self.systems.iter();
        let found = match self.systems.len() {
            1 => systems.next(),
            _ => systems.find(|(_, rows)| rows.contains(surrogate)),
        };
        found.map_or(0, |(srid, _)| *srid)
    }

    /// True when it is another place than before.
    pub(super) fn set(&mut self, surrogate: u32, place: &Place<'_>) -> bool {
        if self.get(surrogate).is_some_and(|before| before.is(place)) {
            return false;
        }
        self.remove(surrogate);
        let (srid, extent) = (place.srid(), surrogate / EXTENT_SMALL);
        self.ids.known.remove(&extent);
        self.systems.entry(srid).or_default().insert(surrogate);
        match place {
            Place::Point { x, y, .. } => {
                self.points.insert(surrogate, [*x, *y]);
            }
            Place::Shape(ewkb) => {
                self.shape_bytes += ewkb.len();
                self.shape_count += 1;
                let shapes = self.shapes.entry(extent).or_default();
                Rc::make_mut(shapes).insert(surrogate, (*ewkb).into());
            }
        }
        if self.is_odd(place) {
            self.odd.insert(surrogate);
        }
        if place.bounds().is_none() {
            self.empty.insert(surrogate);
        }
        true
    }

    fn is_odd(&self, place: &Place<'_>) -> bool {
        let is_mixed = match place {
            Place::Point { .. } => false,
            Place::Shape(_) if self.is_geodetic => true,
            Place::Shape(ewkb) => kind_of(ewkb).is_some_and(|(k, _)| k == Kind::GeometryCollection),
        };
        is_mixed
            || place
                .exact_bounds()
                .is_some_and(|b| b.iter().any(|c| c.abs() > LARGE))
    }

    pub(super) fn set_null(&mut self, surrogate: u32) {
        self.remove(surrogate);
        self.ids.nulls = None;
        self.nulls.insert(surrogate);
    }

    pub(super) fn remove(&mut self, surrogate: u32) {
        if self.nulls.remove(surrogate) {
            self.ids.nulls = None;
            return;
        }
        let Some(srid) = self.get(surrogate).map(|place| place.srid()) else {
            return;
        };
        self.ids.known.remove(&(surrogate / EXTENT_SMALL));
        if self.points.remove(surrogate).is_none() {
            self.remove_shape(surrogate);
        }
        self.odd.remove(surrogate);
        self.empty.remove(surrogate);
        if let Some(rows) = self.systems.get_mut(&srid) {
            rows.remove(surrogate);
            if rows.is_empty() {
                self.systems.remove(&srid);
            }
        }
    }

    fn remove_shape(&mut self, surrogate: u32) {
        let extent = surrogate / EXTENT_SMALL;
        let Some(shapes) = self.shapes.get_mut(&extent) else {
            return;
        };
        let shapes = Rc::make_mut(shapes);
        if let Some(ewkb) = shapes.remove(&surrogate) {
            self.shape_bytes -= ewkb.len();
            self.shape_count -= 1;
        }
        if shapes.is_empty() {
            self.shapes.remove(&extent);
        }
    }

    pub(super) fn points(&self) -> &SurrogateMap<[f64; 2]> {
        &self.points
    }

    /// Whether rows of an extent (surrogate / 1024) have places that are no points.
    pub(super) fn has_shapes(&self, extent: u32) -> bool {
        self.shape_count > 0 && self.shapes.contains_key(&extent)
    }

    pub(super) fn shapes(&self) -> &BTreeMap<u32, Rc<Shapes>> {
        &self.shapes
    }

    /// Rows that are not NULL, by the reference system of their place.
    pub(super) fn systems(&self) -> &BTreeMap<i32, RowSet> {
        &self.systems
    }

    /// The rows with NULL, which are to be put back.
    pub(super) fn take_nulls(&mut self) -> RowSet {
        std::mem::take(&mut self.nulls)
    }

    /// The rows with NULL of an image.
    pub(super) fn restore_nulls(&mut self, nulls: RowSet, id: u64) {
        self.nulls = nulls;
        self.ids.nulls = Some(id);
    }

    /// Adds a place of an image; false where the row is known or its place cannot be.
    pub(super) fn restore(&mut self, surrogate: u32, place: &Place<'_>) -> bool {
        let is_possible = surrogate > 0 && (!self.is_geodetic || place.srid() == SRID_WGS84);
        is_possible && !self.nulls.contains(surrogate) && {
            let is_new = self.get(surrogate).is_none();
            is_new && self.set(surrogate, place)
        }
    }

    /// Rows that have a place.
    pub(super) fn len(&self) -> u64 {
        self.points.len() + self.shape_count
    }

    pub(super) fn nulls(&self) -> &RowSet {
        &self.nulls
    }

    pub(super) fn empty(&self) -> &RowSet {
        &self.empty
    }

    /// All rows of a block that have a place.
    pub(super) fn rows(&self, block: u16) -> BlockSet {
        self.block(block, |_| true)
    }

    /// Rows of a block that must be asked singly about a shape in the given reference system.
    pub(super) fn single(&self, block: u16, srid: i32) -> BlockSet {
        let mut rows = self.block(block, |system| system != srid);
        if let Some(odd) = self.odd.block(block) {
            rows.union(odd);
        }
        rows
    }

    fn block(&self, block: u16, is_wanted: impl Fn(i32) -> bool) -> BlockSet {
        let mut found = BlockSet::new();
        for (_, rows) in self.systems.iter().filter(|(srid, _)| is_wanted(**srid)) {
            if let Some(rows) = rows.block(block) {
                found.union(rows);
            }
        }
        found
    }

    /// The first block at or above `from` with rows that have a place.
    pub(super) fn next_block(&self, from: u16) -> Option<u16> {
        let next = |rows: &RowSet| rows.next_block(from);
        self.systems.values().filter_map(next).min()
    }

    /// The first block at or above `from` with rows that must be asked singly.
    pub(super) fn next_single_block(&self, from: u16, srid: i32) -> Option<u16> {
        let others = self.systems.iter().filter(|(system, _)| **system != srid);
        let next = others.filter_map(|(_, rows)| rows.next_block(from)).min();
        next.into_iter().chain(self.odd.next_block(from)).min()
    }

    /// Drops some of what it holds: the points of an extent, or so many shapes. False when nothing
    /// is left but sets.
    pub(super) fn drop_some(&mut self, shapes_max: usize) -> bool {
        if self.points.drop_extent() {
            return true;
        }
        let Some(mut last) = self.shapes.last_entry() else {
            return false;
        };
        // What a checkpoint still writes goes with it.
        let is_gone = Rc::get_mut(last.get_mut()).is_none_or(|shapes| {
            (0..shapes_max).for_each(|_| drop(shapes.pop_first()));
            shapes.is_empty()
        });
        if is_gone {
            last.remove();
        }
        true
    }

    pub(super) fn heap_bytes(&self) -> usize {
        const SHAPE: usize = size_of::<(u32, Rc<[u8]>)>() * 3 / 2 + 32;
        let sets = [&self.odd, &self.empty, &self.nulls];
        self.points.heap_bytes()
            + self.shape_bytes
            + self.shape_count as usize * SHAPE
            + sets
                .into_iter()
                .chain(self.systems.values())
                .map(RowSet::heap_bytes)
                .sum::<usize>()
    }
}
