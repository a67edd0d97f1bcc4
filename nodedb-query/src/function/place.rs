//! Places, as PostGIS's functions of the same names.

use nodedb_types::geo::{Geometry, geography, geojson, planar, wkt};
use nodedb_types::{DataType, Failure, Result, SqlState, Value};

use super::{BOOL, FLOAT8, Function, GEOGRAPHY, GEOMETRY, INT4, TEXT, TEXT_TYPE, arguments, row};

fn shape(bytes: &[u8]) -> Result<Geometry> {
    Geometry::from_ewkb(bytes)
}

fn point(x: f64, y: f64, srid: i32) -> Result<Value> {
    Ok(Value::Geometry(Geometry::point(x, y, srid)?.to_ewkb()))
}

fn geometry(shape: &Geometry) -> Value {
    Value::Geometry(shape.to_ewkb())
}

fn float(value: Option<f64>) -> Value {
    value.map_or(Value::Null, Value::Float8)
}

fn on_sphere(use_spheroid: bool) -> Result<()> {
    if use_spheroid {
        return Ok(());
    }
    Err(Failure::unsupported("measuring on a sphere")
        .with_hint("leave out use_spheroid, or give true"))
}

fn decimals(n: i32) -> Result<usize> {
    usize::try_from(n)
        .map(|n| n.min(15))
        .map_err(|_| Failure::new(SqlState::InvalidParameterValue, "negative number of digits"))
}

/// A test of two planar shapes.
macro_rules! planar {
    ($name:literal, $f:path, $summary:literal) => {
        row($name, &[GEOMETRY, GEOMETRY], DataType::Bool, |v| arguments!(v, Value::Geometry(a), Value::Geometry(b) => Ok(Value::Bool($f(&shape(a)?, &shape(b)?)?))), $summary)
    };
}

const G: DataType = DataType::Geometry(None);
const B: DataType = DataType::Bool;
const F8: DataType = DataType::Float8;

pub(super) static FUNCTIONS: &[Function] = &[
    row(
        "st_point",
        &[FLOAT8, FLOAT8],
        G,
        |v| arguments!(v, Value::Float8(x), Value::Float8(y) => point(*x, *y, 0)),
        "a point from x (longitude) and y (latitude)",
    ),
    row(
        "st_point",
        &[FLOAT8, FLOAT8, INT4],
        G,
        |v| arguments!(v, Value::Float8(x), Value::Float8(y), Value::Int4(srid) => point(*x, *y, *srid)),
        "a point with an SRID",
    ),
    row(
        "st_makepoint",
        &[FLOAT8, FLOAT8],
        G,
        |v| arguments!(v, Value::Float8(x), Value::Float8(y) => point(*x, *y, 0)),
        "a point from x and y",
    ),
    row(
        "st_geomfromtext",
        &[TEXT],
        G,
        |v| arguments!(v, Value::Text(s) => Ok(geometry(&Geometry::from_text(s)?))),
        "a shape from its well-known text",
    ),
    row(
        "st_geomfromtext",
        &[TEXT, INT4],
        G,
        |v| arguments!(v, Value::Text(s), Value::Int4(srid) => Ok(geometry(&Geometry::from_text(s)?.with_srid(*srid)?))),
        "a shape with an SRID from its well-known text",
    ),
    row(
        "st_geogfromtext",
        &[TEXT],
        DataType::Geography(None),
        |v| arguments!(v, Value::Text(s) => Ok(Value::Geography(Geometry::from_text(s)?.into_geography()?.to_ewkb()))),
        "a geography from well-known text",
    ),
    row(
        "st_geographyfromtext",
        &[TEXT],
        DataType::Geography(None),
        |v| arguments!(v, Value::Text(s) => Ok(Value::Geography(Geometry::from_text(s)?.into_geography()?.to_ewkb()))),
        "a geography from well-known text",
    ),
    row(
        "st_geomfromgeojson",
        &[TEXT],
        G,
        |v| arguments!(v, Value::Text(s) => Ok(geometry(&geojson::parse(s)?))),
        "a shape from GeoJSON",
    ),
    row(
        "st_astext",
        &[GEOMETRY],
        TEXT_TYPE,
        |v| arguments!(v, Value::Geometry(a) => Ok(Value::Text(wkt::format(&shape(a)?)))),
        "well-known text",
    ),
    row(
        "st_astext",
        &[GEOGRAPHY],
        TEXT_TYPE,
        |v| arguments!(v, Value::Geography(a) => Ok(Value::Text(wkt::format(&shape(a)?)))),
        "well-known text",
    ),
    row(
        "st_asewkt",
        &[GEOMETRY],
        TEXT_TYPE,
        |v| arguments!(v, Value::Geometry(a) => Ok(Value::Text(wkt::format_ewkt(&shape(a)?)))),
        "well-known text with the SRID",
    ),
    row(
        "st_asgeojson",
        &[GEOMETRY],
        TEXT_TYPE,
        |v| arguments!(v, Value::Geometry(a) => Ok(Value::Text(geojson::format(&shape(a)?, 9)))),
        "GeoJSON",
    ),
    row(
        "st_asgeojson",
        &[GEOGRAPHY],
        TEXT_TYPE,
        |v| arguments!(v, Value::Geography(a) => Ok(Value::Text(geojson::format(&shape(a)?, 9)))),
        "GeoJSON",
    ),
    row(
        "st_asgeojson",
        &[GEOMETRY, INT4],
        TEXT_TYPE,
        |v| arguments!(v, Value::Geometry(a), Value::Int4(n) => Ok(Value::Text(geojson::format(&shape(a)?, decimals(*n)?)))),
        "GeoJSON with so many digits",
    ),
    row(
        "st_asgeojson",
        &[GEOGRAPHY, INT4],
        TEXT_TYPE,
        |v| arguments!(v, Value::Geography(a), Value::Int4(n) => Ok(Value::Text(geojson::format(&shape(a)?, decimals(*n)?)))),
        "GeoJSON with so many digits",
    ),
    row(
        "st_x",
        &[GEOMETRY],
        F8,
        |v| arguments!(v, Value::Geometry(a) => shape(a)?.x().map(float)),
        "x of a point",
    ),
    row(
        "st_y",
        &[GEOMETRY],
        F8,
        |v| arguments!(v, Value::Geometry(a) => shape(a)?.y().map(float)),
        "y of a point",
    ),
    row(
        "st_srid",
        &[GEOMETRY],
        DataType::Int4,
        |v| arguments!(v, Value::Geometry(a) => Ok(Value::Int4(shape(a)?.srid()))),
        "the SRID",
    ),
    row(
        "st_setsrid",
        &[GEOMETRY, INT4],
        G,
        |v| arguments!(v, Value::Geometry(a), Value::Int4(srid) => Ok(geometry(&shape(a)?.with_srid(*srid)?))),
        "with another SRID, coordinates unchanged",
    ),
    row(
        "st_distance",
        &[GEOMETRY, GEOMETRY],
        F8,
        |v| arguments!(v, Value::Geometry(a), Value::Geometry(b) => planar::distance(&shape(a)?, &shape(b)?).map(float)),
        "distance in the plane",
    ),
    row(
        "st_distance",
        &[GEOGRAPHY, GEOGRAPHY],
        F8,
        |v| arguments!(v, Value::Geography(a), Value::Geography(b) => geography::distance(&shape(a)?, &shape(b)?).map(float)),
        "distance on the ellipsoid, metres",
    ),
    row(
        "st_distance",
        &[GEOGRAPHY, GEOGRAPHY, BOOL],
        F8,
        |v| arguments!(v, Value::Geography(a), Value::Geography(b), Value::Bool(s) => { on_sphere(*s)?; geography::distance(&shape(a)?, &shape(b)?).map(float) }),
        "distance on the ellipsoid, metres",
    ),
    row(
        "st_dwithin",
        &[GEOMETRY, GEOMETRY, FLOAT8],
        B,
        |v| arguments!(v, Value::Geometry(a), Value::Geometry(b), Value::Float8(d) => planar::dwithin(&shape(a)?, &shape(b)?, *d).map(Value::Bool)),
        "within a distance in the plane",
    ),
    row(
        "st_dwithin",
        &[GEOGRAPHY, GEOGRAPHY, FLOAT8],
        B,
        |v| arguments!(v, Value::Geography(a), Value::Geography(b), Value::Float8(d) => geography::dwithin(&shape(a)?, &shape(b)?, *d).map(Value::Bool)),
        "within so many metres on the ellipsoid",
    ),
    row(
        "st_dwithin",
        &[GEOGRAPHY, GEOGRAPHY, FLOAT8, BOOL],
        B,
        |v| arguments!(v, Value::Geography(a), Value::Geography(b), Value::Float8(d), Value::Bool(s) => { on_sphere(*s)?; geography::dwithin(&shape(a)?, &shape(b)?, *d).map(Value::Bool) }),
        "within so many metres on the ellipsoid",
    ),
    planar!(
        "st_within",
        planar::within,
        "the first lies within the second"
    ),
    planar!(
        "st_contains",
        planar::contains,
        "the first contains the second"
    ),
    planar!("st_intersects", planar::intersects, "they share a point"),
    row(
        "st_intersects",
        &[GEOGRAPHY, GEOGRAPHY],
        B,
        |v| arguments!(v, Value::Geography(a), Value::Geography(b) => geography::intersects(&shape(a)?, &shape(b)?).map(Value::Bool)),
        "they share a point",
    ),
];
