//! Measuring on the plane, in the units of the coordinates, with PostGIS's meaning of touching.
//!
//! `ST_Within` and `ST_Contains` want the interiors to meet (DE-9IM `T*F**F***`), so a point on a
//! polygon's boundary is not within it; `ST_Intersects` counts boundaries. Nothing is within,
//! contains or intersects an empty geometry, and its distance to anything is NULL.
//! Operands of different reference systems are refused, and so are coordinates so large that the
//! product of two would overflow (22003).

use std::borrow::Cow;

use ::geo::coordinate_position::{CoordPos, CoordinatePosition};
use ::geo::{BoundingRect, CoordsIter, Distance, Euclidean, Intersects, Rect, Relate};

use super::geography::check_radius;
use super::{Geometry, Kind, Shape, invalid, is_empty};
use crate::failure::{Failure, Result};
use crate::sqlstate::SqlState;

/// Largest size of a coordinate that can be measured: areas of it stay finite.
const COORDINATE_MAX: f64 = 1e140;

/// `ST_Distance`; None where one of them is empty.
pub fn distance(a: &Geometry, b: &Geometry) -> Result<Option<f64>> {
    Ok(solids(a, b)?.map(|(a, b)| Euclidean.distance(a.as_ref(), b.as_ref())))
}

/// `ST_DWithin`; false where one of them is empty. 22023 for a negative radius.
pub fn dwithin(a: &Geometry, b: &Geometry, radius: f64) -> Result<bool> {
    check_radius(radius)?;
    Ok(distance(a, b)?.is_some_and(|d| d <= radius))
}

/// `ST_Intersects`: they have a point in common.
pub fn intersects(a: &Geometry, b: &Geometry) -> Result<bool> {
    Ok(solids(a, b)?.is_some_and(|(a, b)| a.intersects(b.as_ref())))
}

/// `ST_Within(a, b)`: no point of `a` is outside of `b`, and their interiors meet.
pub fn within(a: &Geometry, b: &Geometry) -> Result<bool> {
    contains(b, a)
}

/// `ST_Contains(a, b)`: no point of `b` is outside of `a`, and their interiors meet. 0A000 for
/// collections of mixed kinds.
pub fn contains(a: &Geometry, b: &Geometry) -> Result<bool> {
    for operand in [a, b] {
        if operand.kind() == Kind::GeometryCollection {
            return Err(Failure::unsupported(
                "ST_Contains or ST_Within of a GeometryCollection",
            ));
        }
    }
    let Some((a, b)) = solids(a, b)? else {
        return Ok(false);
    };
    let boxes = a.bounding_rect().zip(b.bounding_rect());
    if !boxes.is_some_and(|(a, b)| covers(&a, &b)) {
        return Ok(false);
    }
    Ok(match (a.as_ref(), b.as_ref()) {
        (Shape::Point(a), Shape::Point(b)) => a == b,
        (Shape::Polygon(a), Shape::Point(b)) => a.coordinate_position(&b.0) == CoordPos::Inside,
        (a, b) => a.relate(b).is_contains(),
    })
}

fn covers(a: &Rect, b: &Rect) -> bool {
    a.min().x <= b.min().x
        && a.min().y <= b.min().y
        && a.max().x >= b.max().x
        && a.max().y >= b.max().y
}

fn check_srids(a: &Geometry, b: &Geometry) -> Result<()> {
    if a.srid == b.srid {
        return Ok(());
    }
    Err(invalid(format!(
        "Operation on mixed SRID geometries ({}, {}) != ({}, {})",
        a.kind(),
        a.srid,
        b.kind(),
        b.srid
    )))
}

type Solids<'a> = (Cow<'a, Shape>, Cow<'a, Shape>);

/// Both shapes, ready to be measured against one another; None where one of them is empty.
fn solids<'a>(a: &'a Geometry, b: &'a Geometry) -> Result<Option<Solids<'a>>> {
    check_srids(a, b)?;
    Ok(solid(a)?.zip(solid(b)?))
}

/// The shape without its empty parts; None where nothing is left.
fn solid(geometry: &Geometry) -> Result<Option<Cow<'_, Shape>>> {
    let shape = &geometry.shape;
    let is_large = |c: ::geo::Coord| c.x.abs().max(c.y.abs()) > COORDINATE_MAX;
    if shape.coords_iter().any(is_large) {
        let message = format!("coordinates beyond {COORDINATE_MAX:e} cannot be measured");
        return Err(Failure::new(SqlState::NumericOutOfRange, message));
    }
    Ok(if geometry.is_empty() {
        None
    } else if has_empty_part(shape) {
        Some(Cow::Owned(without_empty_parts(shape)))
    } else {
        Some(Cow::Borrowed(shape))
    })
}

fn has_empty_part(shape: &Shape) -> bool {
    match shape {
        Shape::MultiPoint(m) => m.0.iter().any(|p| p.x().is_nan()),
        Shape::MultiLineString(m) => m.0.iter().any(|line| line.0.is_empty()),
        Shape::MultiPolygon(m) => m.0.iter().any(|p| p.exterior().0.is_empty()),
        Shape::GeometryCollection(c) => c.0.iter().any(|g| is_empty(g) || has_empty_part(g)),
        _ => false,
    }
}

fn without_empty_parts(shape: &Shape) -> Shape {
    let mut shape = shape.clone();
    match &mut shape {
        Shape::MultiPoint(m) => m.0.retain(|p| !p.x().is_nan()),
        Shape::MultiLineString(m) => m.0.retain(|line| !line.0.is_empty()),
        Shape::MultiPolygon(m) => m.0.retain(|p| !p.exterior().0.is_empty()),
        Shape::GeometryCollection(c) => {
            c.0.retain(|part| !is_empty(part));
            c.0.iter_mut()
                .for_each(|part| *part = without_empty_parts(part));
        }
        _ => {}
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    fn g(text: &str) -> Geometry {
        Geometry::from_text(text).unwrap()
    }

    const SQUARE: &str = "POLYGON((0 0,4 0,4 4,0 4,0 0))";
    const HOLED: &str = "POLYGON((0 0,4 0,4 4,0 4,0 0),(1 1,3 1,3 3,1 3,1 1))";

    /// Expected values are those of GEOS (through Shapely).
    #[test]
    fn relations_have_postgis_boundaries() {
        for (a, b, contains_, intersects_) in [
            (SQUARE, "POINT(2 2)", true, true),
            (SQUARE, "POINT(0 2)", false, true),
            (SQUARE, "POINT(4 4)", false, true),
            (SQUARE, "POINT(5 2)", false, false),
            (HOLED, "POINT(2 2)", false, false),
            (HOLED, "POINT(1 2)", false, true),
            (HOLED, "POINT(0.5 2)", true, true),
            (SQUARE, SQUARE, true, true),
            (SQUARE, HOLED, true, true),
            (HOLED, SQUARE, false, true),
            (SQUARE, "LINESTRING(0 0,4 0)", false, true),
            (SQUARE, "LINESTRING(0 0,4 4)", true, true),
            (SQUARE, "LINESTRING(2 2,6 2)", false, true),
            (SQUARE, "POLYGON((4 0,8 0,8 4,4 4,4 0))", false, true),
            (SQUARE, "POLYGON((0 0,2 0,2 2,0 2,0 0))", true, true),
            (SQUARE, "MULTIPOINT((0 0),(1 1))", true, true),
            (SQUARE, "MULTIPOINT((0 0),(4 4))", false, true),
            ("LINESTRING(0 0,4 0)", "POINT(0 0)", false, true),
            ("LINESTRING(0 0,4 0)", "POINT(2 0)", true, true),
            ("LINESTRING(0 0,4 0,4 4,0 0)", "POINT(0 0)", true, true),
            ("LINESTRING(0 0,4 0)", "LINESTRING(1 0,2 0)", true, true),
            (
                "MULTIPOLYGON(((0 0,1 0,1 1,0 0)),((5 5,9 5,9 9,5 5)))",
                "POINT(8 6)",
                true,
                true,
            ),
            ("POINT(1 1)", "POINT(1 1)", true, true),
            ("POINT(1 1)", "POINT(1 2)", false, false),
            ("MULTIPOINT((1 1),EMPTY)", "POINT(1 1)", true, true),
            (SQUARE, "POINT EMPTY", false, false),
            ("POLYGON EMPTY", "POLYGON EMPTY", false, false),
        ] {
            assert_eq!(
                contains(&g(a), &g(b)).unwrap(),
                contains_,
                "{a} contains {b}"
            );
            assert_eq!(within(&g(b), &g(a)).unwrap(), contains_, "{b} within {a}");
            assert_eq!(
                intersects(&g(a), &g(b)).unwrap(),
                intersects_,
                "{a} intersects {b}"
            );
            assert_eq!(
                intersects(&g(b), &g(a)).unwrap(),
                intersects_,
                "{b} intersects {a}"
            );
        }
        let mixed = g("GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,9 9))");
        assert!(intersects(&g(SQUARE), &mixed).unwrap());
        let f = contains(&g(SQUARE), &mixed).unwrap_err();
        assert_eq!(f.code(), SqlState::FeatureNotSupported);
    }

    #[test]
    fn distances_are_euclidean() {
        for (a, b, want) in [
            ("POINT(0 0)", "POINT(3 4)", Some(5.0)),
            ("POINT(2 2)", SQUARE, Some(0.0)),
            ("POINT(7 8)", SQUARE, Some(5.0)),
            ("POINT(2 2)", HOLED, Some(1.0)),
            ("LINESTRING(0 5,4 5)", SQUARE, Some(1.0)),
            ("LINESTRING(0 0,10 10)", "LINESTRING(0 10,10 0)", Some(0.0)),
            (
                "GEOMETRYCOLLECTION(POINT EMPTY,POINT(9 4))",
                SQUARE,
                Some(5.0),
            ),
            ("POINT EMPTY", SQUARE, None),
        ] {
            assert_eq!(distance(&g(a), &g(b)).unwrap(), want, "{a} {b}");
            assert_eq!(distance(&g(b), &g(a)).unwrap(), want, "{b} {a}");
        }
        assert!(dwithin(&g("POINT(0 0)"), &g("POINT(3 4)"), 5.0).unwrap());
        assert!(!dwithin(&g("POINT(0 0)"), &g("POINT(3 4)"), 4.99).unwrap());
        assert!(!dwithin(&g("POINT EMPTY"), &g("POINT(3 4)"), 1e9).unwrap());
        assert!(dwithin(&g("POINT(0 0)"), &g("POINT(3 4)"), -1.0).is_err());
        let huge = intersects(&g("LINESTRING(0 0,1e150 1)"), &g(SQUARE)).unwrap_err();
        assert_eq!(huge.code(), SqlState::NumericOutOfRange);
        let f = distance(&g("POINT(0 0)"), &g("SRID=4326;POINT(0 0)")).unwrap_err();
        let mixed = "Operation on mixed SRID geometries (Point, 0) != (Point, 4326) (22023)";
        assert_eq!(f.to_string(), mixed);
    }
}
