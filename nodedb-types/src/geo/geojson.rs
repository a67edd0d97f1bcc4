//! GeoJSON geometries (RFC 7946), as `ST_GeomFromGeoJSON` and `ST_AsGeoJSON` have them.
//!
//! Only geometries, not features. Without a `crs` the reference system is WGS 84; the older
//! `crs` member is understood where it names an EPSG code.

use ::geo::{
    Coord, GeometryCollection, LineString, MultiLineString, MultiPoint, MultiPolygon, Point,
    Polygon,
};
use serde_json::Value as Json;

use super::{
    Geometry, Kind, SRID_WGS84, Shape, check_line, check_ring, checked_srid, empty_point, invalid,
    number,
};
use crate::failure::{Failure, Result};
use crate::limits::GEOMETRY_DEPTH_MAX;
use crate::sqlstate::SqlState;

/// Decimals of `ST_AsGeoJSON` unless told otherwise: a tenth of a millimetre on the ground.
pub const DECIMALS: usize = 9;

/// Reads a geometry; 22023 where the text is no GeoJSON geometry, 0A000 for a third coordinate.
pub fn parse(text: &str) -> Result<Geometry> {
    let json: Json = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let srid = reference_system(&json)?;
    Ok(Geometry::new(srid, shape(&json, GEOMETRY_DEPTH_MAX)?))
}

fn bad(detail: impl Into<String>) -> Failure {
    invalid("invalid GeoJson representation").with_detail(detail)
}

fn reference_system(json: &Json) -> Result<i32> {
    let Some(crs) = json.get("crs").filter(|crs| !crs.is_null()) else {
        return Ok(SRID_WGS84);
    };
    let name = crs
        .pointer("/properties/name")
        .and_then(Json::as_str)
        .unwrap_or_default();
    if name == "urn:ogc:def:crs:OGC:1.3:CRS84" {
        return Ok(SRID_WGS84);
    }
    let code = name
        .strip_prefix("EPSG:")
        .or_else(|| name.strip_prefix("urn:ogc:def:crs:EPSG::"));
    match code.and_then(|code| code.parse().ok()) {
        Some(srid) => checked_srid(srid),
        None => Err(bad(format!("The crs \"{name}\" is not an EPSG code."))),
    }
}

fn shape(json: &Json, depth: usize) -> Result<Shape> {
    if depth == 0 {
        return Err(Failure::new(
            SqlState::StatementTooComplex,
            format!("geometries may be nested at most {GEOMETRY_DEPTH_MAX} deep"),
        ));
    }
    let name = json.get("type").and_then(Json::as_str);
    let Some(kind) = Kind::ALL.into_iter().find(|k| Some(k.name()) == name) else {
        return Err(bad("The member \"type\" does not name a geometry."));
    };
    if kind == Kind::GeometryCollection {
        let parts = list(json.get("geometries"), "geometries", |part| {
            shape(part, depth - 1)
        })?;
        return Ok(Shape::GeometryCollection(GeometryCollection::from(parts)));
    }
    let coordinates = json.get("coordinates");
    Ok(match kind {
        Kind::Point => Shape::Point(point(coordinates)?),
        Kind::LineString => Shape::LineString(line(coordinates)?),
        Kind::Polygon => Shape::Polygon(polygon(coordinates)?),
        Kind::MultiPoint => Shape::MultiPoint(MultiPoint::new(parts(coordinates, point)?)),
        Kind::MultiLineString => {
            Shape::MultiLineString(MultiLineString::new(parts(coordinates, line)?))
        }
        Kind::MultiPolygon => Shape::MultiPolygon(MultiPolygon::new(parts(coordinates, polygon)?)),
        Kind::GeometryCollection => unreachable!("returned above"),
    })
}

fn list<T>(json: Option<&Json>, what: &str, item: impl Fn(&Json) -> Result<T>) -> Result<Vec<T>> {
    match json {
        Some(Json::Array(items)) => items.iter().map(item).collect(),
        _ => Err(bad(format!("The member \"{what}\" is not an array."))),
    }
}

fn parts<T>(json: Option<&Json>, item: fn(Option<&Json>) -> Result<T>) -> Result<Vec<T>> {
    list(json, "coordinates", |part| item(Some(part)))
}

fn point(json: Option<&Json>) -> Result<Point> {
    match json {
        Some(Json::Array(none)) if none.is_empty() => Ok(empty_point()),
        Some(json) => Ok(Point(coord(json)?)),
        None => Err(bad("The member \"coordinates\" is missing.")),
    }
}

fn coord(json: &Json) -> Result<Coord> {
    let Json::Array(items) = json else {
        return Err(bad("A position is not an array."));
    };
    match items.as_slice() {
        [x, y] => match (x.as_f64(), y.as_f64()) {
            (Some(x), Some(y)) if x.is_finite() && y.is_finite() => Ok(Coord { x, y }),
            _ => Err(bad("A coordinate is not a number.")),
        },
        [_, _, _, ..] => Err(Failure::unsupported("a Z or M coordinate")),
        _ => Err(bad("A position has fewer than two coordinates.")),
    }
}

fn line(json: Option<&Json>) -> Result<LineString> {
    let coords = list(json, "coordinates", coord)?;
    check_line(coords.len()).map_err(invalid)?;
    Ok(LineString::new(coords))
}

fn polygon(json: Option<&Json>) -> Result<Polygon> {
    let rings = list(json, "coordinates", |ring| {
        let ring = list(Some(ring), "coordinates", coord)?;
        check_ring(&ring).map_err(invalid)?;
        Ok(LineString::new(ring))
    })?;
    Ok(super::polygon(rings))
}

/// Writes a geometry without blanks, with at most `decimals` digits after the point; names the
/// reference system where it is known and not WGS 84.
pub fn format(geometry: &Geometry, decimals: usize) -> String {
    let crs = match geometry.srid {
        0 | SRID_WGS84 => String::new(),
        srid => {
            format!("\"crs\":{{\"type\":\"name\",\"properties\":{{\"name\":\"EPSG:{srid}\"}}}},")
        }
    };
    let mut writer = Writer {
        out: String::new(),
        decimals,
    };
    writer.shape(&geometry.shape, &crs);
    writer.out
}

struct Writer {
    out: String,
    decimals: usize,
}

impl Writer {
    fn shape(&mut self, shape: &Shape, crs: &str) {
        let kind = Kind::of(shape);
        let member = match kind {
            Kind::GeometryCollection => "geometries",
            _ => "coordinates",
        };
        self.out
            .push_str(&format!("{{\"type\":\"{kind}\",{crs}\"{member}\":"));
        match shape {
            Shape::Point(p) => self.point(p),
            Shape::LineString(line) => self.coords(&line.0),
            Shape::Polygon(p) => self.polygon(p),
            Shape::MultiPoint(m) => self.list(m.0.iter(), Self::point),
            Shape::MultiLineString(m) => self.list(m.0.iter(), |w, line| w.coords(&line.0)),
            Shape::MultiPolygon(m) => self.list(m.0.iter(), Self::polygon),
            Shape::GeometryCollection(c) => self.list(c.0.iter(), |w, part| w.shape(part, "")),
            Shape::Line(_) | Shape::Rect(_) | Shape::Triangle(_) => {
                unreachable!("no reader builds lines, rectangles or triangles")
            }
        }
        self.out.push('}');
    }

    fn list<T>(&mut self, items: impl Iterator<Item = T>, put: impl Fn(&mut Self, T)) {
        self.out.push('[');
        for (i, item) in items.enumerate() {
            if i > 0 {
                self.out.push(',');
            }
            put(self, item);
        }
        self.out.push(']');
    }

    fn polygon(&mut self, polygon: &Polygon) {
        self.list(super::rings(polygon), Self::coords);
    }

    fn coords(&mut self, coords: &[Coord]) {
        self.list(coords.iter(), |w, c| w.coord(*c));
    }

    fn point(&mut self, point: &Point) {
        if point.x().is_nan() {
            self.out.push_str("[]");
        } else {
            self.coord(point.0);
        }
    }

    fn coord(&mut self, c: Coord) {
        self.out.push('[');
        number::push(c.x, self.decimals, &mut self.out);
        self.out.push(',');
        number::push(c.y, self.decimals, &mut self.out);
        self.out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::super::wkt;
    use super::*;

    #[test]
    fn geojson_round_trips() {
        for (json, ewkt) in [
            (
                r#"{"type":"Point","coordinates":[13.4,52.5]}"#,
                "SRID=4326;POINT(13.4 52.5)",
            ),
            (
                r#"{"type":"Point","coordinates":[]}"#,
                "SRID=4326;POINT EMPTY",
            ),
            (
                r#"{"type":"LineString","coordinates":[[0,0],[1,1]]}"#,
                "SRID=4326;LINESTRING(0 0,1 1)",
            ),
            (
                r#"{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,0]]]}"#,
                "SRID=4326;POLYGON((0 0,1 0,1 1,0 0))",
            ),
            (
                r#"{"type":"MultiPolygon","coordinates":[[[[0,0],[1,0],[1,1],[0,0]]]]}"#,
                "SRID=4326;MULTIPOLYGON(((0 0,1 0,1 1,0 0)))",
            ),
            (
                r#"{"type":"MultiPoint","coordinates":[[1,2],[3,4]]}"#,
                "SRID=4326;MULTIPOINT((1 2),(3 4))",
            ),
            (
                r#"{"type":"GeometryCollection","geometries":[{"type":"Point","coordinates":[1,2]}]}"#,
                "SRID=4326;GEOMETRYCOLLECTION(POINT(1 2))",
            ),
            (
                r#"{"type":"Point","crs":{"type":"name","properties":{"name":"EPSG:3857"}},"coordinates":[1,2]}"#,
                "SRID=3857;POINT(1 2)",
            ),
        ] {
            let geometry = parse(json).unwrap();
            assert_eq!(wkt::format_ewkt(&geometry), ewkt);
            assert_eq!(format(&geometry, DECIMALS), json);
        }
        let exact = parse(r#"{"type":"Point","coordinates":[13.404954123456789,0.1]}"#).unwrap();
        assert_eq!(exact.x().unwrap(), Some(13.404_954_123_456_79));
        assert_eq!(
            format(&exact, DECIMALS),
            r#"{"type":"Point","coordinates":[13.404954123,0.1]}"#
        );
    }

    #[test]
    fn other_json_is_refused() {
        for json in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"type":"Feature","geometry":null}"#,
            r#"{"type":"Point"}"#,
            r#"{"type":"Point","coordinates":[1]}"#,
            r#"{"type":"Point","coordinates":["1","2"]}"#,
            r#"{"type":"LineString","coordinates":[[0,0]]}"#,
            r#"{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,1]]]}"#,
            r#"{"type":"Point","coordinates":[1,2],"crs":{"properties":{"name":"x"}}}"#,
        ] {
            assert_eq!(
                parse(json).unwrap_err().code(),
                SqlState::InvalidParameterValue,
                "{json}"
            );
        }
        let high = parse(r#"{"type":"Point","coordinates":[1,2,3]}"#).unwrap_err();
        assert_eq!(high.code(), SqlState::FeatureNotSupported);
        let nested = r#"{"type":"GeometryCollection","geometries":["#.repeat(100_000);
        assert!(parse(&nested).is_err());
    }
}
