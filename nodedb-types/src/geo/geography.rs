//! Measuring on the WGS 84 ellipsoid: metres between points given in degrees.
//!
//! Distances are lengths of geodesics (Karney, "Algorithms for geodesics", 2013, through
//! `geographiclib-rs`), rounded to 1e-8 m so that a point is at distance 0 from itself. Measuring
//! anything but points is refused (0A000).
//!
//! [`Circle`] answers "within r metres" for many points with the same result as the exact
//! distance, but computes it only for points near the rim. It rests on bounds by the unit sphere
//! that carries the same latitudes and longitudes. A step of dφ, dλ is √(M²dφ² + N²cos²φ dλ²)
//! long on the ellipsoid and √(dφ² + cos²φ dλ²) on that sphere, and both radii of curvature M and
//! N lie between b²/a and a²/b. So every path, hence every distance, satisfies
//! b²/a · σ ≤ d ≤ a²/b · σ with σ the angle on the sphere; the two differ by one percent.

use std::sync::LazyLock;

use geographiclib_rs::{Geodesic, InverseGeodesic};

use super::bands::Bands;
use super::{Geometry, SRID_WGS84, Shape, invalid};
use crate::failure::{Failure, Result};
use crate::simd::bands::Points;

static WGS84: LazyLock<Geodesic> = LazyLock::new(Geodesic::wgs84);

/// b²/a of WGS 84, metres: the smallest radius of curvature, rounded down.
const RADIUS_MIN: f64 = 6_335_439.32;
/// a²/b of WGS 84, metres: the largest radius of curvature, rounded up.
const RADIUS_MAX: f64 = 6_399_593.63;
/// More than what rounding does to an angle or a chord of the unit sphere.
const ROUNDING: f64 = 4e-15;
/// Added to the edges of boxes, degrees.
const BOX_MARGIN: f64 = 1e-9;
/// Points nearer than this intersect, metres; PostGIS's figure.
const INTERSECTS_METRES: f64 = 1e-5;

/// Metres between two points in degrees, exact to the rounding of 1e-8 m.
pub fn distance_m(a: (f64, f64), b: (f64, f64)) -> f64 {
    let metres: f64 = WGS84.inverse(a.1, a.0, b.1, b.0);
    (metres * 1e8).round() / 1e8
}

/// `ST_Distance` of geographies in metres; None where one of them is empty.
pub fn distance(a: &Geometry, b: &Geometry) -> Result<Option<f64>> {
    Ok(points(a, b)?.map(|(a, b)| distance_m(a, b)))
}

/// `ST_DWithin` of geographies; false where one of them is empty. 22023 for a negative radius.
pub fn dwithin(a: &Geometry, b: &Geometry, radius_m: f64) -> Result<bool> {
    check_radius(radius_m)?;
    match points(a, b)? {
        Some((a, b)) => Ok(Circle::new(a.0, a.1, radius_m)?.contains(b.0, b.1)),
        None => Ok(false),
    }
}

/// `ST_Intersects` of geographies; false where one of them is empty.
pub fn intersects(a: &Geometry, b: &Geometry) -> Result<bool> {
    Ok(points(a, b)?.is_some_and(|(a, b)| distance_m(a, b) < INTERSECTS_METRES))
}

type LonLat = (f64, f64);

fn points(a: &Geometry, b: &Geometry) -> Result<Option<(LonLat, LonLat)>> {
    Ok(point(a)?.zip(point(b)?))
}

/// The degrees of a point; None where a geography of any kind is empty.
fn point(geometry: &Geometry) -> Result<Option<LonLat>> {
    debug_assert_eq!(geometry.srid, SRID_WGS84);
    match &geometry.shape {
        _ if geometry.is_empty() => Ok(None),
        Shape::Point(p) => Ok(Some((p.x(), p.y()))),
        _ => Err(
            Failure::unsupported("measuring geography other than points")
                .with_hint("Cast to geometry to measure on the plane."),
        ),
    }
}

/// 22023 for a radius that is negative or not a number.
pub fn check_radius(radius: f64) -> Result<()> {
    if radius >= 0.0 {
        return Ok(());
    }
    Err(invalid(if radius.is_nan() {
        "Tolerance must be a number"
    } else {
        "Tolerance cannot be less than zero"
    }))
}

/// All points within a radius of a centre.
#[derive(Clone, Debug)]
pub struct Circle {
    centre: LonLat,
    radius_m: f64,
    /// The centre on the unit sphere.
    direction: [f64; 3],
    /// Chords up to this, squared, are surely inside; negative when none is.
    inner: f64,
    /// Chords beyond this, squared, are surely outside.
    outer: f64,
    /// Differences of latitude beyond this are surely outside, degrees.
    latitude_reach: f64,
    /// Decides most points faster.
    bands: Option<Bands>,
}

impl Circle {
    /// The centre in degrees, on the globe; 22023 for a negative radius. An infinite one holds
    /// every point.
    pub fn new(lon: f64, lat: f64, radius_m: f64) -> Result<Circle> {
        check_radius(radius_m)?;
        let (inner, outer) = (radius_m / RADIUS_MAX, angle_max(radius_m));
        Ok(Circle {
            centre: (lon, lat),
            radius_m,
            direction: direction(lon, lat),
            inner: squared_chord(inner, -ROUNDING),
            outer: squared_chord(outer, ROUNDING),
            latitude_reach: outer.to_degrees() + BOX_MARGIN,
            bands: None,
        })
    }

    /// Makes deciding cheaper, for as much as deciding a hundred points: the bounds of the unit
    /// sphere as longitudes by band of latitude, so that few points need a sine. No answer
    /// changes. Nothing happens where the circle comes near a pole.
    pub fn prepare(&mut self) {
        if self.bands.is_none() {
            let (inner, outer) = (self.radius_m / RADIUS_MAX, angle_max(self.radius_m));
            self.bands = Bands::new(self.centre, self.latitude_reach, inner, outer);
        }
    }

    /// What [`Circle::prepare`] has made, for those who ask about many points in a row.
    pub fn prepared(&self) -> Option<Prepared<'_>> {
        self.bands.as_ref().map(|bands| Prepared { bands })
    }

    pub fn radius_m(&self) -> f64 {
        self.radius_m
    }

    /// True exactly where [`distance_m`] from the centre is at most the radius.
    pub fn contains(&self, lon: f64, lat: f64) -> bool {
        self.decide(lon, lat)
            .unwrap_or_else(|| distance_m(self.centre, (lon, lat)) <= self.radius_m)
    }

    /// [`Circle::contains`] where it can be told without measuring: everywhere but near the rim.
    #[inline]
    pub fn decide(&self, lon: f64, lat: f64) -> Option<bool> {
        if (lat - self.centre.1).abs() > self.latitude_reach {
            return Some(false);
        }
        if let Some(bands) = &self.bands
            && let Some(decided) = bands.decide(lon, lat)
        {
            return Some(decided);
        }
        let (a, b) = (self.direction, direction(lon, lat));
        let chord: f64 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
        if chord <= self.inner {
            Some(true)
        } else if chord <= self.outer {
            None
        } else {
            Some(false)
        }
    }

    /// One or two boxes `[west, south, east, north]` in degrees that together hold every point of
    /// the circle; two where it crosses the antimeridian.
    pub fn boxes(&self) -> Vec<[f64; 4]> {
        let (lon, lat) = self.centre;
        let angle = angle_max(self.radius_m);
        let reach = self.latitude_reach;
        let (south, north) = (lat - reach, lat + reach);
        if south <= -90.0 || north >= 90.0 {
            // A pole is inside, or too near to tell: every longitude is.
            return vec![[-180.0, south.max(-90.0), 180.0, north.min(90.0)]];
        }
        // The meridian that touches a cap of this angle (a right-angled spherical triangle).
        let turn = (angle.sin() / lat.to_radians().cos())
            .min(1.0)
            .asin()
            .to_degrees();
        // Near a right angle asin is steep; the relative part covers what rounding does to it.
        let turn = turn * (1.0 + 1e-7) + BOX_MARGIN;
        let (west, east) = (lon - turn, lon + turn);
        match (west <= -180.0, east >= 180.0) {
            (false, false) => vec![[west, south, east, north]],
            (true, true) => vec![[-180.0, south, 180.0, north]],
            (true, false) => {
                vec![
                    [-180.0, south, east, north],
                    [west + 360.0, south, 180.0, north],
                ]
            }
            (false, true) => {
                vec![
                    [west, south, 180.0, north],
                    [-180.0, south, east - 360.0, north],
                ]
            }
        }
    }
}

/// The cheap half of a prepared [`Circle::decide`].
#[derive(Clone, Copy, Debug)]
pub struct Prepared<'a> {
    bands: &'a Bands,
}

impl Prepared<'_> {
    /// Whether [`Circle::decide`] says that a point is inside, and whether it says that it is
    /// outside. Neither where the bands do not tell and it has to be asked itself. No branch
    /// depends on where the point lies, as none could be foreseen.
    #[inline]
    pub fn decide(&self, lon: f64, lat: f64) -> (bool, bool) {
        self.bands.decide_any(lon, lat)
    }

    /// [`Prepared::decide`] for a row of points, longitude and latitude in degrees: a bit for each,
    /// the lowest for the first. Wherever they lie, it takes as long as a few points by themselves.
    pub fn decide_row(&self, points: &Points) -> (u64, u64) {
        self.bands.decide_row(points)
    }
}

/// The largest angle on the unit sphere of points this many metres apart, radians.
fn angle_max(radius_m: f64) -> f64 {
    radius_m / RADIUS_MIN * (1.0 + 1e-12) + ROUNDING
}

/// The square of an angle's chord, moved by `margin` and by as much for its own rounding.
fn squared_chord(angle: f64, margin: f64) -> f64 {
    if angle >= std::f64::consts::PI {
        return f64::INFINITY;
    }
    let chord = 2.0 * (angle / 2.0).sin();
    let moved = chord + margin + chord * margin.signum() * 1e-12;
    if moved < 0.0 { -1.0 } else { moved * moved }
}

fn direction(lon: f64, lat: f64) -> [f64; 3] {
    let ((sin_lon, cos_lon), (sin_lat, cos_lat)) =
        (lon.to_radians().sin_cos(), lat.to_radians().sin_cos());
    [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat]
}

/// Brings a shape whose coordinates leave the globe back onto it, as PostGIS does: longitudes
/// turn round, latitudes are reflected at the poles. One on the globe is not changed.
pub(super) fn onto_globe(shape: Shape) -> Shape {
    use ::geo::{CoordsIter, MapCoords};
    let on = |c: ::geo::Coord| c.x.is_nan() || (c.x.abs() <= 180.0 && c.y.abs() <= 90.0);
    if shape.coords_iter().all(on) {
        return shape;
    }
    shape.map_coords(|c| match c.x.is_nan() {
        true => c,
        false => ::geo::Coord {
            x: longitude(c.x),
            y: latitude(c.y),
        },
    })
}

fn longitude(degrees: f64) -> f64 {
    let turned = within_half_turn(degrees);
    if turned == -180.0 { 180.0 } else { turned }
}

fn latitude(degrees: f64) -> f64 {
    let turned = within_half_turn(degrees);
    if turned > 90.0 {
        180.0 - turned
    } else if turned < -90.0 {
        -180.0 - turned
    } else {
        turned
    }
}

/// The same angle in [-180, 180], without rounding: `%` and the subtraction are exact.
fn within_half_turn(degrees: f64) -> f64 {
    let rest = degrees % 360.0;
    if rest > 180.0 {
        rest - 360.0
    } else if rest < -180.0 {
        rest + 360.0
    } else {
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlstate::SqlState;

    fn place(text: &str) -> Geometry {
        Geometry::from_text(text).unwrap().into_geography().unwrap()
    }

    const REFERENCE: [(LonLat, LonLat, f64); 9] = [
        ((13.4, 52.5), (2.35, 48.86), 878452.0044977206),
        ((0.0, 0.0), (0.0, 0.0), 0.0),
        ((0.0, 0.0), (179.5, 0.5), 19936288.578965314),
        ((0.0, 90.0), (0.0, -90.0), 20003931.458625447),
        ((-179.9, 10.0), (179.9, -10.0), 2211820.589373029),
        ((-74.0, 40.7), (151.2, -33.9), 15990627.264133751),
        ((0.0, 0.0), (1.0, 0.0), 111319.49079327357),
        ((0.0, 0.0), (0.0, 1.0), 110574.38855779878),
        ((8.5, 47.4), (8.5000001, 47.4), 0.00754865173),
    ];

    /// Values of Karney's own implementation (GeographicLib for Python).
    #[test]
    fn distances_are_geodesics() {
        for (a, b, want) in REFERENCE {
            assert!((distance_m(a, b) - want).abs() < 2e-8, "{a:?} {b:?}");
            assert!((distance_m(b, a) - want).abs() < 2e-8, "{a:?} {b:?}");
        }
    }

    /// A few thousand pairs of all scales, the awkward ones included, from a fixed sequence.
    fn pairs() -> Vec<(LonLat, LonLat)> {
        let mut state = 7u64;
        let mut unit = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut pairs = Vec::new();
        for i in 0..4000 {
            let a = (
                unit() * 360.0 - 180.0,
                [unit() * 180.0 - 90.0, 90.0, -90.0, 89.99, 0.0][i % 5],
            );
            let scale = 10f64.powi(-(i as i32 % 12)) * 180.0;
            let b = (
                longitude(a.0 + (unit() - 0.5) * 2.0 * scale),
                latitude(a.1 + (unit() - 0.5) * scale),
            );
            pairs.push((a, b));
        }
        for a in [
            (180.0, 0.0),
            (-180.0, 0.0),
            (179.999_999, 60.0),
            (0.0, 90.0),
        ] {
            pairs.extend([
                (a, (-a.0, a.1)),
                (a, a),
                (a, (0.0, -a.1)),
                (a, (17.0, -90.0)),
            ]);
        }
        pairs
    }

    #[test]
    fn circles_agree_with_the_exact_distance_and_their_boxes_hold_them() {
        for (a, b) in pairs() {
            let d = distance_m(a, b);
            for radius in [
                0.0,
                d * 0.9,
                d * 0.994,
                d - 1e-8,
                d,
                d + 1e-8,
                d * 1.006,
                d * 1.1,
                1e9,
            ] {
                let Ok(mut circle) = Circle::new(a.0, a.1, radius) else {
                    assert!(radius < 0.0);
                    continue;
                };
                for _ in 0..2 {
                    assert_eq!(
                        circle.contains(b.0, b.1),
                        d <= radius,
                        "{a:?} {b:?} {radius} {d}"
                    );
                    circle.prepare();
                }
                let boxes = circle.boxes();
                let boxed = boxes.iter().any(|[west, south, east, north]| {
                    (*west..=*east).contains(&b.0) && (*south..=*north).contains(&b.1)
                });
                assert!(boxed || d > radius, "{a:?} {b:?} {radius} {boxes:?}");
                assert!(
                    boxes
                        .iter()
                        .all(|b| b[0] >= -180.0 && b[2] <= 180.0 && b[0] <= b[2])
                );
            }
        }
        assert!(
            Circle::new(0.0, 0.0, f64::INFINITY)
                .unwrap()
                .contains(180.0, 0.0)
        );
    }

    /// Along the rim, at every bearing, where bands and sphere have to leave off.
    #[test]
    fn a_prepared_circle_gives_the_same_answers() {
        let centres = [(13.4, 52.5), (-179.5, -33.0), (20.0, 0.0), (0.0, 74.0)];
        for (centre, radius) in centres
            .into_iter()
            .flat_map(|centre| [1.0, 30.0, 5e3, 6e5, 1.5e6, 5e6].map(|radius| (centre, radius)))
        {
            let plain = Circle::new(centre.0, centre.1, radius).unwrap();
            let mut circle = plain.clone();
            circle.prepare();
            let reach = plain.latitude_reach;
            let (mut undecided, mut points) = (0, 0);
            let mut row = Vec::new();
            for i in 0..=120 {
                let lat = centre.1 + reach * (f64::from(i) / 60.0 - 1.0);
                for j in 0..=120 {
                    let wide = reach / lat.to_radians().cos().max(0.1);
                    let lon = longitude(centre.0 + wide * (f64::from(j) / 60.0 - 1.0));
                    let bands = circle
                        .bands
                        .as_ref()
                        .and_then(|bands| bands.decide(lon, lat));
                    let decided = plain.decide(lon, lat);
                    assert_eq!(
                        circle.decide(lon, lat),
                        decided,
                        "{centre:?} {radius} {lon} {lat}"
                    );
                    assert!(bands.is_none() || decided.is_none() || bands == decided);
                    if let Some(prepared) = circle.prepared() {
                        let (inside, outside) = prepared.decide(lon, lat);
                        assert!(!inside || decided == Some(true));
                        assert!(!outside || decided == Some(false));
                        let reached = (lat - centre.1).abs() <= reach;
                        assert_eq!(inside | outside, bands.is_some() || !reached);
                        row.push(([lon, lat], inside, outside));
                        if row.len() == 64 {
                            let points = std::array::from_fn(|at| row[at].0);
                            let (yes, no) = prepared.decide_row(&points);
                            for (at, (_, inside, outside)) in row.drain(..).enumerate() {
                                assert_eq!(
                                    (yes >> at & 1 == 1, no >> at & 1 == 1),
                                    (inside, outside)
                                );
                            }
                        }
                    }
                    points += 1;
                    undecided += i32::from(bands.is_none());
                }
            }
            let near_pole = centre.1 + reach >= 80.0 || centre.1 - reach <= -80.0;
            assert_eq!(circle.bands.is_none(), near_pole);
            assert!(
                near_pole || radius < 1e3 || undecided < points / 12,
                "{undecided}"
            );
        }
    }

    #[test]
    fn boxes_are_close() {
        let boxes = Circle::new(13.4, 52.5, 1_500_000.0).unwrap().boxes();
        let [west, south, east, north] = boxes[0];
        assert_eq!(boxes.len(), 1);
        assert!((38.8..39.1).contains(&south) && (65.9..66.2).contains(&north));
        assert!((-10.0..-8.0).contains(&west) && (34.8..36.8).contains(&east));
        let split = Circle::new(179.0, 0.0, 500_000.0).unwrap().boxes();
        assert_eq!(split.len(), 2);
        assert!(split[0][2] == 180.0 && split[1][0] == -180.0 && split[1][2] < -176.0);
        let polar = Circle::new(10.0, 89.0, 200_000.0).unwrap().boxes();
        assert_eq!(
            (polar.len(), polar[0][0], polar[0][2], polar[0][3]),
            (1, -180.0, 180.0, 90.0)
        );
    }

    #[test]
    fn empty_and_other_shapes() {
        let (berlin, empty) = (place("POINT(13.4 52.5)"), place("POLYGON EMPTY"));
        assert_eq!(distance(&berlin, &berlin).unwrap(), Some(0.0));
        assert_eq!(distance(&berlin, &empty).unwrap(), None);
        assert!(!dwithin(&empty, &berlin, 1e9).unwrap());
        assert!(intersects(&berlin, &place("POINT(13.4 52.50000000001)")).unwrap());
        assert!(!intersects(&berlin, &place("POINT(13.4 52.5001)")).unwrap());
        let line = distance(&berlin, &place("LINESTRING(0 0,1 1)")).unwrap_err();
        assert_eq!(line.code(), SqlState::FeatureNotSupported);
        for radius in [-1.0, f64::NAN] {
            let f = dwithin(&berlin, &berlin, radius).unwrap_err();
            assert_eq!(f.code(), SqlState::InvalidParameterValue);
        }
    }

    #[test]
    fn coordinates_are_brought_onto_the_globe() {
        let text = |wkt| super::super::wkt::format(&place(wkt));
        for (given, want) in [
            ("POINT(181 0)", "POINT(-179 0)"),
            ("POINT(-181 91)", "POINT(179 89)"),
            ("POINT(540 -100)", "POINT(180 -80)"),
            ("POINT(0 200)", "POINT(0 -20)"),
            ("POINT(0 300)", "POINT(0 -60)"),
            ("POINT(725 -270)", "POINT(5 90)"),
            ("POINT(-180 45)", "POINT(-180 45)"),
            ("LINESTRING(-180 45,190 0)", "LINESTRING(180 45,-170 0)"),
            (
                "GEOMETRYCOLLECTION(POINT EMPTY,POINT(190 0))",
                "GEOMETRYCOLLECTION(POINT EMPTY,POINT(-170 0))",
            ),
        ] {
            assert_eq!(text(given), want);
        }
    }
}
