//! A predicate made ready: the boxes in which it may be true, and the exact answer for one place.
//!
//! The exact answer is that of `nodedb_types::geo` for the same two values, failures included.

use std::cell::RefCell;
use std::collections::HashMap;

use nodedb_bridge::op::place::Op;
use nodedb_types::geo::geography::{self, Circle, Prepared};
use nodedb_types::geo::{Geometry, SRID_WGS84, bbox, planar};
use nodedb_types::{Failure, Result, Value};

use super::bounds::Bounds;
use super::store::Place;

/// A radius that surely holds all that geographies call touching, metres.
const TOUCHING_M: f64 = 1e-3;
/// The grain in which answers are paid. A prepared circle decides so many points in a unit where
/// they stand in a row.
pub(super) const STEPS_PER_UNIT: u32 = 64;
/// Steps of deciding a point by a prepared circle where few of its row are wanted.
pub(super) const SCATTERED: u32 = 4;
/// Steps of deciding one point by itself.
pub(super) const SINGLE: u32 = 12;
/// Units of [`Predicate::prepare`].
pub(super) const PREPARE_UNITS: u32 = 20;
/// Circles that reach beyond this latitude are not prepared, degrees. Prices alone rely on it.
const PREPARED_LATITUDE_MAX: f64 = 80.0;
/// Units of measuring a geodesic.
const GEODESIC: u32 = 20;
/// Measured points whose answers are kept. Many rows may stand for one town.
const MEASURED_MAX: usize = 1024;
/// Points of shapes that are compared for a unit.
const POINTS_PER_UNIT: usize = 16;
/// Bytes of a point in EWKB.
const POINT_BYTES: usize = 16;

#[derive(Clone, Copy, Debug)]
enum Relation {
    DWithin(f64),
    Intersects,
    /// The row's place lies within the shape.
    Within,
    /// The row's place contains the shape.
    Contains,
}

pub(super) struct Predicate {
    relation: Relation,
    shape: Geometry,
    /// Of a geography within a distance of a point.
    circle: Option<Circle>,
    is_geodetic: bool,
    /// Outside of these it is false.
    boxes: Vec<[f64; 4]>,
    /// Units of the exact answer for a point, where the circle does not tell.
    units: u32,
    /// Steps of it for most points, once it has been prepared.
    steps: u32,
    /// Whether measured points, by the bits of their coordinates, lie in the circle.
    measured: RefCell<HashMap<[u64; 2], bool>>,
}

impl Predicate {
    /// Fails as the row-wise form would for every row, such as for a negative distance.
    pub(super) fn new(op: &Op, is_geodetic: bool) -> Result<Predicate> {
        let (relation, shape) = match op {
            Op::DWithin { shape, distance } => (Relation::DWithin(*distance), shape),
            Op::Intersects { shape } => (Relation::Intersects, shape),
            Op::Within { shape } => (Relation::Within, shape),
            Op::Contains { shape } => (Relation::Contains, shape),
        };
        let ewkb = match (shape, is_geodetic) {
            (Value::Geography(ewkb), true) | (Value::Geometry(ewkb), false) => ewkb,
            _ => {
                return Err(Failure::internal(
                    "a place index was asked about a value of another type",
                ));
            }
        };
        let shape = Geometry::from_ewkb(ewkb)?;
        if let Relation::DWithin(distance) = relation {
            geography::check_radius(distance)?;
        }
        let circle = match is_geodetic {
            true => circle(&relation, &shape)?,
            false => {
                check_planar(&relation, &shape)?;
                None
            }
        };
        let boxes = match (&circle, relation, bbox(ewkb)) {
            (Some(circle), ..) => circle.boxes(),
            (None, _, None) => Vec::new(),
            (None, Relation::DWithin(distance), Some(bounds)) => vec![widened(bounds, distance)],
            (None, _, Some(bounds)) => vec![bounds],
        };
        let units = 1 + (ewkb.len() / POINT_BYTES / POINTS_PER_UNIT) as u32;
        let is_low = |[_, south, _, north]: &[f64; 4]| {
            *south > -PREPARED_LATITUDE_MAX && *north < PREPARED_LATITUDE_MAX
        };
        let steps = match (&circle, relation) {
            (Some(_), Relation::DWithin(_)) if boxes.iter().all(is_low) => 1,
            (Some(_), _) => SINGLE,
            (None, _) => units * STEPS_PER_UNIT,
        };
        Ok(Predicate {
            relation,
            shape,
            circle,
            is_geodetic,
            boxes,
            units,
            steps,
            measured: RefCell::default(),
        })
    }

    pub(super) fn boxes(&self) -> &[[f64; 4]] {
        &self.boxes
    }

    pub(super) fn srid(&self) -> i32 {
        self.shape.srid()
    }

    /// Makes the exact answer cheaper for many points; true when that had not been done yet.
    pub(super) fn prepare(&mut self) -> bool {
        let Some(circle) = &mut self.circle else {
            return false;
        };
        let was_prepared = circle.prepared().is_some();
        circle.prepare();
        !was_prepared && circle.prepared().is_some()
    }

    /// Decides most points, where it has been prepared for that and the answer says nothing else
    /// than on which side of a circle they lie.
    pub(super) fn prepared(&self) -> Option<Prepared<'_>> {
        match self.relation {
            Relation::DWithin(_) => self.circle.as_ref()?.prepared(),
            Relation::Intersects | Relation::Within | Relation::Contains => None,
        }
    }

    /// Units of the exact answer for a point.
    pub(super) fn units(&self) -> u32 {
        self.units
    }

    /// Steps, of which [`STEPS_PER_UNIT`] make a unit, of the exact answer for most points
    /// of many.
    pub(super) fn steps(&self) -> u32 {
        self.steps
    }

    /// False where it is false for all places within the bounds.
    pub(super) fn may_hold(&self, bounds: &Bounds) -> bool {
        match self.relation {
            Relation::Contains => self.boxes.iter().any(|b| bounds.covers(b)),
            _ => self.boxes.iter().any(|b| bounds.meets(b)),
        }
    }

    /// The exact answer, and the steps it took.
    #[inline]
    pub(super) fn holds(&self, place: &Place<'_>) -> Result<(bool, u32)> {
        match (place, &self.circle) {
            (Place::Point { x, y, .. }, Some(circle)) => {
                let decided = circle.decide(*x, *y);
                match (decided, self.relation) {
                    (Some(false), _) => Ok((false, SINGLE)),
                    (Some(true), Relation::DWithin(_)) => Ok((true, SINGLE)),
                    (None, Relation::DWithin(_)) => Ok(self.measure(circle, *x, *y)),
                    _ => {
                        let point = Geometry::point(*x, *y, SRID_WGS84)?;
                        Ok((self.compare(&point)?, GEODESIC * STEPS_PER_UNIT))
                    }
                }
            }
            (Place::Point { x, y, srid }, None) => {
                let point = Geometry::point(*x, *y, *srid)?;
                Ok((self.compare(&point)?, self.units * STEPS_PER_UNIT))
            }
            (Place::Shape(ewkb), _) => {
                let units = self.units + (ewkb.len() / POINT_BYTES) as u32;
                let shape = Geometry::from_ewkb(ewkb)?;
                Ok((self.compare(&shape)?, units * STEPS_PER_UNIT))
            }
        }
    }

    /// [`Predicate::holds`] for a point near the rim of the circle.
    fn measure(&self, circle: &Circle, x: f64, y: f64) -> (bool, u32) {
        let mut measured = self.measured.borrow_mut();
        let point = [x.to_bits(), y.to_bits()];
        if let Some(known) = measured.get(&point) {
            return (*known, SINGLE);
        }
        if measured.len() >= MEASURED_MAX {
            measured.clear();
        }
        let holds = circle.contains(x, y);
        measured.insert(point, holds);
        (holds, GEODESIC * STEPS_PER_UNIT)
    }

    fn compare(&self, place: &Geometry) -> Result<bool> {
        match (self.is_geodetic, self.relation) {
            (true, Relation::DWithin(radius)) => geography::dwithin(place, &self.shape, radius),
            (true, Relation::Intersects) => geography::intersects(place, &self.shape),
            (true, Relation::Within | Relation::Contains) => Err(no_topology()),
            (false, Relation::DWithin(radius)) => planar::dwithin(place, &self.shape, radius),
            (false, Relation::Intersects) => planar::intersects(place, &self.shape),
            (false, Relation::Within) => planar::within(place, &self.shape),
            (false, Relation::Contains) => planar::contains(place, &self.shape),
        }
    }
}

fn no_topology() -> Failure {
    Failure::unsupported("ST_Within or ST_Contains of geographies")
        .with_hint("Cast to geometry to compare on the plane.")
}

/// Where a geography can be near the shape; None where it is empty.
fn circle(relation: &Relation, shape: &Geometry) -> Result<Option<Circle>> {
    let radius_m = match relation {
        Relation::DWithin(radius_m) => *radius_m,
        Relation::Intersects => TOUCHING_M,
        Relation::Within | Relation::Contains => return Err(no_topology()),
    };
    if shape.is_empty() {
        return Ok(None);
    }
    // Fails for what is not a point.
    geography::distance(shape, shape)?;
    let (lon, lat) = (shape.x()?, shape.y()?);
    let centre = lon.zip(lat);
    centre
        .map(|(lon, lat)| Circle::new(lon, lat, radius_m))
        .transpose()
}

/// Fails for a shape that cannot be compared with anything.
fn check_planar(relation: &Relation, shape: &Geometry) -> Result<()> {
    let point = Geometry::point(0.0, 0.0, shape.srid())?;
    match relation {
        Relation::DWithin(_) | Relation::Intersects => planar::intersects(&point, shape)?,
        Relation::Within | Relation::Contains => planar::within(&point, shape)?,
    };
    Ok(())
}

/// A box that holds everything within `distance` of what is in the given one, however the
/// distance was rounded.
fn widened([x0, y0, x1, y1]: [f64; 4], distance: f64) -> [f64; 4] {
    let by = |c: f64| distance + (c.abs() + distance) * 1e-12;
    [x0 - by(x0), y0 - by(y0), x1 + by(x1), y1 + by(y1)]
}
