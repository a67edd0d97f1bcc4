//! Places: planar geometries and geometries on the WGS 84 ellipsoid, as PostGIS has them.
//!
//! Rows and indexes hold canonical EWKB ([`ewkb`]): little-endian, two coordinates, the SRID in
//! the outermost header when it is not 0. A [`Geometry`] is that, parsed; it is built by the
//! readers ([`wkt`], [`ewkb`], [`geojson`]), which check that coordinates are finite, rings are
//! closed and lines have two points. An empty point is a point at (NaN, NaN), as in EWKB; no
//! other NaN occurs.
//!
//! Measuring is in [`planar`] for `GEOMETRY` and in [`geography`] for `GEOGRAPHY`. Z and M
//! coordinates and curves are refused (0A000).

use std::fmt;

use crate::failure::{Failure, Result};
use crate::sqlstate::SqlState;

mod bands;
pub mod ewkb;
pub mod geography;
pub mod geojson;
mod number;
pub mod planar;
pub mod wkt;

pub use ewkb::{bbox, kind_of, point_of};

/// The shapes themselves; `Line`, `Rect` and `Triangle` never occur in a [`Geometry`].
pub type Shape = ::geo::Geometry<f64>;

/// The one reference system of geographies: degrees of longitude and latitude on WGS 84.
pub const SRID_WGS84: i32 = 4326;
/// Largest reference id that PostGIS gives to users.
pub const SRID_MAX: i32 = 999_999;

/// The subtype that a column of places may demand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    Point = 1,
    LineString = 2,
    Polygon = 3,
    MultiPoint = 4,
    MultiLineString = 5,
    MultiPolygon = 6,
    GeometryCollection = 7,
}

impl Kind {
    pub const ALL: [Kind; 7] = [
        Kind::Point,
        Kind::LineString,
        Kind::Polygon,
        Kind::MultiPoint,
        Kind::MultiLineString,
        Kind::MultiPolygon,
        Kind::GeometryCollection,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Point => "Point",
            Kind::LineString => "LineString",
            Kind::Polygon => "Polygon",
            Kind::MultiPoint => "MultiPoint",
            Kind::MultiLineString => "MultiLineString",
            Kind::MultiPolygon => "MultiPolygon",
            Kind::GeometryCollection => "GeometryCollection",
        }
    }

    /// By name, in any case.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|k| k.name().eq_ignore_ascii_case(name))
    }

    /// The number of the kind in WKB.
    pub fn code(self) -> u32 {
        self as u32
    }

    pub fn from_code(code: u32) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.code() == code)
    }

    fn of(shape: &Shape) -> Kind {
        match shape {
            Shape::Point(_) => Kind::Point,
            Shape::LineString(_) => Kind::LineString,
            Shape::Polygon(_) => Kind::Polygon,
            Shape::MultiPoint(_) => Kind::MultiPoint,
            Shape::MultiLineString(_) => Kind::MultiLineString,
            Shape::MultiPolygon(_) => Kind::MultiPolygon,
            Shape::GeometryCollection(_) => Kind::GeometryCollection,
            Shape::Line(_) | Shape::Rect(_) | Shape::Triangle(_) => {
                unreachable!("no reader builds lines, rectangles or triangles")
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A shape and the id of its reference system; 0 where none is known.
#[derive(Clone, Debug)]
pub struct Geometry {
    srid: i32,
    shape: Shape,
}

impl Geometry {
    /// `shape` must be one that the readers of this module could have built.
    fn new(srid: i32, shape: Shape) -> Geometry {
        Geometry { srid, shape }
    }

    /// A point; 22023 unless both coordinates are finite.
    pub fn point(x: f64, y: f64, srid: i32) -> Result<Geometry> {
        if !(x.is_finite() && y.is_finite()) {
            let message = format!("coordinates must be finite, not ({x}, {y})");
            return Err(invalid(message));
        }
        Geometry::new(0, Shape::Point(::geo::Point::new(x, y))).with_srid(srid)
    }

    pub fn srid(&self) -> i32 {
        self.srid
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn kind(&self) -> Kind {
        Kind::of(&self.shape)
    }

    /// True where no part has a coordinate.
    pub fn is_empty(&self) -> bool {
        is_empty(&self.shape)
    }

    /// The same shape declared to be in another reference system. Negative ids are unknown, as
    /// in PostGIS; 22023 above [`SRID_MAX`].
    pub fn with_srid(mut self, srid: i32) -> Result<Geometry> {
        self.srid = checked_srid(i64::from(srid))?;
        Ok(self)
    }

    /// Text input of a column: WKT, EWKT, or EWKB in hexadecimal digits.
    pub fn from_text(text: &str) -> Result<Geometry> {
        let trimmed = text.trim();
        match trimmed.as_bytes().first() {
            Some(b'0' | b'1') => ewkb::from_hex(trimmed),
            _ => wkt::parse(text),
        }
    }

    /// Canonical EWKB, as stored.
    pub fn to_ewkb(&self) -> Vec<u8> {
        ewkb::encode(self)
    }

    /// Reads EWKB or WKB of either byte order; 22P03 where it is not.
    pub fn from_ewkb(bytes: &[u8]) -> Result<Geometry> {
        ewkb::decode(bytes)
    }

    /// X of a point, None for an empty one; 22023 for other kinds.
    pub fn x(&self) -> Result<Option<f64>> {
        self.ordinate("ST_X", |p| p.x())
    }

    /// Y of a point, None for an empty one; 22023 for other kinds.
    pub fn y(&self) -> Result<Option<f64>> {
        self.ordinate("ST_Y", |p| p.y())
    }

    fn ordinate(&self, function: &str, f: fn(&::geo::Point<f64>) -> f64) -> Result<Option<f64>> {
        match &self.shape {
            Shape::Point(p) => Ok((!is_empty(&self.shape)).then(|| f(p))),
            _ => Err(invalid(format!(
                "Argument to {function}() must have type POINT"
            ))),
        }
    }

    /// Refuses a shape that a column of the given subtype does not take.
    pub fn check_kind(&self, column: Option<Kind>) -> Result<()> {
        match column {
            Some(kind) if kind != self.kind() => Err(invalid(format!(
                "Geometry type ({}) does not match column type ({kind})",
                self.kind()
            ))),
            _ => Ok(()),
        }
    }

    /// The cast `::geography`: degrees on WGS 84. An unknown reference system is taken to be
    /// that, others are refused; coordinates outside the globe are brought back onto it.
    pub fn into_geography(self) -> Result<Geometry> {
        match self.srid {
            0 | SRID_WGS84 => Ok(Geometry::new(SRID_WGS84, geography::onto_globe(self.shape))),
            srid => Err(Failure::unsupported(format_args!(
                "geography in the reference system {srid}"
            ))
            .with_hint("Geographies are in SRID 4326.")),
        }
    }
}

/// Reads a column's text input into the EWKB to store.
///
/// Errors: 22P02 for text that is no geometry, 22023 for another subtype than `kind` or a
/// geography in a foreign reference system, 0A000 for Z, M and curves.
pub fn parse_text(text: &str, geography: bool, kind: Option<Kind>) -> Result<Vec<u8>> {
    let mut geometry = Geometry::from_text(text)?;
    if geography {
        geometry = geometry.into_geography()?;
    }
    geometry.check_kind(kind)?;
    Ok(geometry.to_ewkb())
}

/// Appends stored EWKB as upper-case hexadecimal digits, the text output of a column.
pub fn push_hex(ewkb: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.reserve(ewkb.len() * 2);
    for byte in ewkb {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

fn checked_srid(srid: i64) -> Result<i32> {
    match i32::try_from(srid.max(0)) {
        Ok(srid) if srid <= SRID_MAX => Ok(srid),
        _ => Err(invalid(format!(
            "SRID {srid} is above the largest, {SRID_MAX}"
        ))),
    }
}

fn is_empty(shape: &Shape) -> bool {
    match shape {
        Shape::Point(p) => p.x().is_nan(),
        Shape::LineString(line) => line.0.is_empty(),
        Shape::Polygon(polygon) => polygon.exterior().0.is_empty(),
        Shape::MultiPoint(m) => m.0.iter().all(|p| p.x().is_nan()),
        Shape::MultiLineString(m) => m.0.iter().all(|line| line.0.is_empty()),
        Shape::MultiPolygon(m) => m.0.iter().all(|p| p.exterior().0.is_empty()),
        Shape::GeometryCollection(c) => c.0.iter().all(is_empty),
        Shape::Line(_) | Shape::Rect(_) | Shape::Triangle(_) => false,
    }
}

fn empty_point() -> ::geo::Point<f64> {
    ::geo::Point::new(f64::NAN, f64::NAN)
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(SqlState::InvalidParameterValue, message)
}

/// What is wrong with a line or ring, in PostGIS's words. Readers add where it is.
fn check_line(points: usize) -> Result<(), &'static str> {
    if points == 1 {
        Err("geometry requires more points")
    } else {
        Ok(())
    }
}

fn check_ring(ring: &[::geo::Coord<f64>]) -> Result<(), &'static str> {
    match ring {
        [first, .., last] if first != last => Err("geometry contains non-closed rings"),
        ring if ring.len() < 4 => Err("geometry requires more points"),
        _ => Ok(()),
    }
}

fn polygon(mut rings: Vec<::geo::LineString<f64>>) -> ::geo::Polygon<f64> {
    if rings.is_empty() {
        return ::geo::Polygon::new(::geo::LineString::new(Vec::new()), Vec::new());
    }
    let exterior = rings.remove(0);
    ::geo::Polygon::new(exterior, rings)
}

/// The rings of a polygon, the outer one first; none of an empty one.
fn rings(polygon: &::geo::Polygon<f64>) -> impl ExactSizeIterator<Item = &[::geo::Coord<f64>]> {
    let all: Vec<&[_]> = std::iter::once(polygon.exterior())
        .chain(polygon.interiors())
        .map(|ring| ring.0.as_slice())
        .filter(|ring| !ring.is_empty())
        .collect();
    all.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_take_text_and_keep_ewkb() {
        let hex = |text: &str, geography, kind| {
            let mut out = String::new();
            push_hex(&parse_text(text, geography, kind).unwrap(), &mut out);
            out
        };
        // As PostGIS prints 'POINT(1 2)'::geometry and ::geography.
        let plain = "0101000000000000000000F03F0000000000000040";
        let wgs84 = "0101000020E6100000000000000000F03F0000000000000040";
        assert_eq!(hex("POINT(1 2)", false, None), plain);
        assert_eq!(hex("POINT(1 2)", true, Some(Kind::Point)), wgs84);
        assert_eq!(hex("SRID=4326;POINT(1 2)", false, None), wgs84);
        assert_eq!(hex(plain, true, None), wgs84);
        assert_eq!(
            hex(
                " 0000000001 3FF0000000000000 4000000000000000 "
                    .replace(' ', "")
                    .as_str(),
                false,
                None
            ),
            plain
        );
        let empty = "0101000000000000000000F87F000000000000F87F";
        assert_eq!(hex("POINT EMPTY", false, None), empty);
        assert_eq!(hex(empty, false, None), empty);

        let fail = |text, geography, kind| parse_text(text, geography, kind).unwrap_err();
        assert_eq!(
            fail("POLYGON((0 0,1 0,1 1,0 0))", true, Some(Kind::Point)).to_string(),
            "Geometry type (Polygon) does not match column type (Point) (22023)"
        );
        let foreign = fail("SRID=3857;POINT(1 2)", true, None);
        assert_eq!(foreign.code(), SqlState::FeatureNotSupported);
        assert_eq!(
            fail("", false, None).code(),
            SqlState::InvalidTextRepresentation
        );
        assert_eq!(
            fail("SRID=1000000;POINT(1 2)", false, None).code(),
            SqlState::InvalidParameterValue
        );
    }

    #[test]
    fn ordinates_are_of_points_only() {
        let x = |text| Geometry::from_text(text).unwrap().x();
        assert_eq!(x("POINT(13.4 52.5)").unwrap(), Some(13.4));
        assert_eq!(x("POINT EMPTY").unwrap(), None);
        let f = x("LINESTRING(0 0,1 1)").unwrap_err();
        assert_eq!(
            f.to_string(),
            "Argument to ST_X() must have type POINT (22023)"
        );
        assert!(Geometry::point(f64::NAN, 0.0, 0).is_err());
        assert_eq!(Geometry::point(1.0, 2.0, -5).unwrap().srid(), 0);
    }

    #[test]
    fn kinds_have_names_and_codes() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(&kind.name().to_uppercase()), Some(kind));
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(Kind::from_name("POINTZ"), None);
        assert_eq!(Kind::from_code(0), None);
    }
}
