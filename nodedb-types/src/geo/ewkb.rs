//! EWKB, the stored form: WKB with the reference system in the header.
//!
//! ```text
//! u8   byte order, 1 = little-endian (stored geometries always are)
//! u32  kind, with flag 0x2000_0000 when an SRID follows
//! u32  SRID, only with the flag, only in the outermost header of stored geometries
//! Point            f64 x, f64 y; both NaN when empty
//! LineString       u32 n, n × (x, y)
//! Polygon          u32 rings, each u32 n, n × (x, y)
//! Multi…, Collection   u32 n, n × a whole geometry
//! ```
//! Reading also takes big-endian bytes and headers in the parts. Counts are never trusted: space
//! is reserved for no more items than the bytes that are left could hold.

use ::geo::{Coord, LineString, MultiLineString, MultiPoint, MultiPolygon, Point, Polygon};

use super::{Geometry, Kind, Shape, check_line, check_ring, checked_srid, empty_point, rings};
use crate::failure::{Failure, Result};
use crate::limits::GEOMETRY_DEPTH_MAX;
use crate::sqlstate::SqlState;

const FLAG_Z: u32 = 0x8000_0000;
const FLAG_M: u32 = 0x4000_0000;
const FLAG_SRID: u32 = 0x2000_0000;
/// Bytes of the smallest whole geometry: order, kind, count.
const PART_BYTES_MIN: usize = 9;

/// The canonical bytes of a geometry.
pub fn encode(geometry: &Geometry) -> Vec<u8> {
    let mut out = Vec::with_capacity(25);
    put(geometry.srid, &geometry.shape, &mut out);
    out
}

fn put(srid: i32, shape: &Shape, out: &mut Vec<u8>) {
    header(Kind::of(shape), srid, out);
    match shape {
        Shape::Point(p) => put_coord(p.0, out),
        Shape::LineString(line) => put_coords(&line.0, out),
        Shape::Polygon(p) => put_rings(p, out),
        Shape::MultiPoint(m) => {
            put_parts(m.0.iter(), Kind::Point, |p, out| put_coord(p.0, out), out)
        }
        Shape::MultiLineString(m) => {
            put_parts(
                m.0.iter(),
                Kind::LineString,
                |line, out| put_coords(&line.0, out),
                out,
            );
        }
        Shape::MultiPolygon(m) => put_parts(m.0.iter(), Kind::Polygon, put_rings, out),
        Shape::GeometryCollection(c) => {
            put_u32(c.0.len(), out);
            c.0.iter().for_each(|part| put(0, part, out));
        }
        Shape::Line(_) | Shape::Rect(_) | Shape::Triangle(_) => {
            unreachable!("no reader builds lines, rectangles or triangles")
        }
    }
}

fn header(kind: Kind, srid: i32, out: &mut Vec<u8>) {
    out.push(1);
    let flag = if srid == 0 { 0 } else { FLAG_SRID };
    out.extend((kind.code() | flag).to_le_bytes());
    if srid != 0 {
        out.extend(srid.to_le_bytes());
    }
}

fn put_parts<'a, T: 'a>(
    parts: impl ExactSizeIterator<Item = &'a T>,
    kind: Kind,
    put: impl Fn(&T, &mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    put_u32(parts.len(), out);
    for part in parts {
        header(kind, 0, out);
        put(part, out);
    }
}

fn put_rings(polygon: &Polygon, out: &mut Vec<u8>) {
    let rings = rings(polygon);
    put_u32(rings.len(), out);
    rings.for_each(|ring| put_coords(ring, out));
}

fn put_coords(coords: &[Coord], out: &mut Vec<u8>) {
    put_u32(coords.len(), out);
    coords.iter().for_each(|c| put_coord(*c, out));
}

fn put_coord(c: Coord, out: &mut Vec<u8>) {
    out.extend(c.x.to_le_bytes());
    out.extend(c.y.to_le_bytes());
}

fn put_u32(n: usize, out: &mut Vec<u8>) {
    let n = u32::try_from(n).expect("a statement's bytes bound the number of points");
    out.extend(n.to_le_bytes());
}

/// Reads a whole geometry; 22P03 for bytes that are none, 0A000 for Z, M and curves, 54001 where
/// collections are nested too deeply.
pub fn decode(bytes: &[u8]) -> Result<Geometry> {
    let mut reader = Reader { bytes, big: false };
    let (srid, shape) = reader.geometry(None, GEOMETRY_DEPTH_MAX)?;
    if !reader.bytes.is_empty() {
        return Err(bad("bytes follow the geometry"));
    }
    Ok(Geometry::new(srid, shape))
}

/// Reads hexadecimal digits; 22P02 where they are none.
pub fn from_hex(digits: &str) -> Result<Geometry> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let bytes: Option<Vec<u8>> = match digits.len() % 2 {
        0 => digits
            .as_bytes()
            .chunks_exact(2)
            .map(|p| Some(digit(p[0])? << 4 | digit(p[1])?))
            .collect(),
        _ => None,
    };
    match bytes {
        Some(bytes) => decode(&bytes).map_err(|f| {
            // Read as a column's text, so the text is what is invalid.
            if f.code() != SqlState::InvalidBinaryRepresentation {
                return f;
            }
            Failure::new(SqlState::InvalidTextRepresentation, f.message())
        }),
        None => Err(Failure::new(
            SqlState::InvalidTextRepresentation,
            "parse error - invalid geometry",
        )
        .with_hint("Give WKT, EWKT, or EWKB in hexadecimal digits.")),
    }
}

fn bad(what: impl std::fmt::Display) -> Failure {
    Failure::new(
        SqlState::InvalidBinaryRepresentation,
        format!("invalid EWKB: {what}"),
    )
}

struct Reader<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl Reader<'_> {
    /// One geometry with its header; `only` is what the container around it allows.
    fn geometry(&mut self, only: Option<Kind>, depth: usize) -> Result<(i32, Shape)> {
        if depth == 0 {
            return Err(Failure::new(
                SqlState::StatementTooComplex,
                format!("geometries may be nested at most {GEOMETRY_DEPTH_MAX} deep"),
            ));
        }
        self.big = match self.take::<1>()?[0] {
            0 => true,
            1 => false,
            order => return Err(bad(format_args!("byte order {order}"))),
        };
        let big = self.big;
        let code = self.u32()?;
        let srid = if code & FLAG_SRID == 0 {
            0
        } else {
            self.u32()? as i32
        };
        let kind = kind(code)?;
        if only.is_some_and(|only| only != kind) {
            return Err(bad(format_args!("a {kind} among parts of another kind")));
        }
        let mut parts = |only| -> Result<Vec<Shape>> {
            let mut parts = self.list(PART_BYTES_MIN)?;
            for _ in 0..parts.0 {
                parts.1.push(self.geometry(only, depth - 1)?.1);
                self.big = big;
            }
            Ok(parts.1)
        };
        let shape = match kind {
            Kind::Point => Shape::Point(self.point()?),
            Kind::LineString => Shape::LineString(LineString::new(self.line()?)),
            Kind::Polygon => Shape::Polygon(self.polygon()?),
            Kind::MultiPoint => Shape::MultiPoint(MultiPoint::new(
                parts(Some(Kind::Point))?
                    .into_iter()
                    .filter_map(|p| Point::try_from(p).ok())
                    .collect(),
            )),
            Kind::MultiLineString => Shape::MultiLineString(MultiLineString::new(
                parts(Some(Kind::LineString))?
                    .into_iter()
                    .filter_map(|p| LineString::try_from(p).ok())
                    .collect(),
            )),
            Kind::MultiPolygon => Shape::MultiPolygon(MultiPolygon::new(
                parts(Some(Kind::Polygon))?
                    .into_iter()
                    .filter_map(|p| Polygon::try_from(p).ok())
                    .collect(),
            )),
            Kind::GeometryCollection => Shape::GeometryCollection(parts(None)?.into()),
        };
        Ok((checked_srid(i64::from(srid))?, shape))
    }

    fn point(&mut self) -> Result<Point> {
        let (x, y) = (self.f64()?, self.f64()?);
        if x.is_nan() && y.is_nan() {
            return Ok(empty_point());
        }
        finite(x, y).map(Point)
    }

    fn coords(&mut self) -> Result<Vec<Coord>> {
        let (count, mut coords) = self.list(16)?;
        for _ in 0..count {
            let (x, y) = (self.f64()?, self.f64()?);
            coords.push(finite(x, y)?);
        }
        Ok(coords)
    }

    fn line(&mut self) -> Result<Vec<Coord>> {
        let coords = self.coords()?;
        check_line(coords.len()).map_err(bad)?;
        Ok(coords)
    }

    fn polygon(&mut self) -> Result<Polygon> {
        let (count, mut rings) = self.list(4)?;
        for _ in 0..count {
            let ring = self.coords()?;
            check_ring(&ring).map_err(bad)?;
            rings.push(LineString::new(ring));
        }
        Ok(super::polygon(rings))
    }

    /// A count and room for as many items, at most what is left of the bytes.
    fn list<T>(&mut self, item_bytes: usize) -> Result<(usize, Vec<T>)> {
        let count = self.u32()? as usize;
        if count > self.bytes.len() / item_bytes {
            return Err(bad("it ends too early"));
        }
        // A part may be much larger in memory than in the bytes, so grow as they are read.
        Ok((count, Vec::with_capacity(count.min(1024))))
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take()?;
        Ok(if self.big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    fn f64(&mut self) -> Result<f64> {
        let bytes = self.take()?;
        Ok(if self.big {
            f64::from_be_bytes(bytes)
        } else {
            f64::from_le_bytes(bytes)
        })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self
            .bytes
            .split_first_chunk()
            .ok_or_else(|| bad("it ends too early"))?;
        self.bytes = rest;
        Ok(*taken)
    }
}

fn finite(x: f64, y: f64) -> Result<Coord> {
    if x.is_finite() && y.is_finite() {
        return Ok(Coord { x, y });
    }
    Err(bad("a coordinate is not finite"))
}

/// The kind of a WKB header, which says extra dimensions by flags or by thousands.
fn kind(code: u32) -> Result<Kind> {
    let plain = code & !(FLAG_Z | FLAG_M | FLAG_SRID);
    let has_extra = code & (FLAG_Z | FLAG_M) != 0 || matches!(plain, 1001..=3017);
    match Kind::from_code(plain) {
        Some(kind) if !has_extra => Ok(kind),
        _ if has_extra => Err(Failure::unsupported("a Z or M coordinate")),
        _ if matches!(plain, 8..=17) => Err(Failure::unsupported("a curve, surface or triangle")),
        _ => Err(bad(format_args!("kind {code}"))),
    }
}

/// The coordinates of a stored point; None for an empty point and every other kind.
pub fn point_of(ewkb: &[u8]) -> Option<(f64, f64)> {
    let (code, body) = stored_header(ewkb)?;
    if code != Kind::Point.code() {
        return None;
    }
    let (x, rest) = stored_f64(body)?;
    let (y, _) = stored_f64(rest)?;
    (!x.is_nan()).then_some((x, y))
}

/// The kind and SRID of stored bytes; None for bytes that are no geometry.
pub fn kind_of(ewkb: &[u8]) -> Option<(Kind, i32)> {
    let (code, _) = stored_u32(ewkb.strip_prefix(&[1])?)?;
    let kind = Kind::from_code(code & !FLAG_SRID)?;
    if code & FLAG_SRID == 0 {
        return Some((kind, 0));
    }
    let (srid, _) = stored_u32(ewkb.get(5..)?)?;
    Some((kind, i32::try_from(srid).ok()?))
}

/// The bounding box `[min x, min y, max x, max y]` of stored bytes; None where it is empty.
pub fn bbox(ewkb: &[u8]) -> Option<[f64; 4]> {
    let mut bounds = [
        f64::INFINITY,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NEG_INFINITY,
    ];
    extend_bbox(ewkb, GEOMETRY_DEPTH_MAX, &mut bounds)?;
    (bounds[0] <= bounds[2]).then_some(bounds)
}

/// Extends the bounds by the geometry at the start of the bytes; gives the bytes behind it.
fn extend_bbox<'a>(bytes: &'a [u8], depth: usize, bounds: &mut [f64; 4]) -> Option<&'a [u8]> {
    let (code, mut rest) = stored_header(bytes)?;
    match Kind::from_code(code)? {
        Kind::Point => extend_coord(rest, bounds),
        Kind::LineString => extend_coords(rest, bounds),
        Kind::Polygon => {
            let count;
            (count, rest) = stored_u32(rest)?;
            for _ in 0..count {
                rest = extend_coords(rest, bounds)?;
            }
            Some(rest)
        }
        Kind::MultiPoint
        | Kind::MultiLineString
        | Kind::MultiPolygon
        | Kind::GeometryCollection => {
            let deeper = depth.checked_sub(1)?;
            let count;
            (count, rest) = stored_u32(rest)?;
            for _ in 0..count {
                rest = extend_bbox(rest, deeper, bounds)?;
            }
            Some(rest)
        }
    }
}

fn extend_coords<'a>(bytes: &'a [u8], bounds: &mut [f64; 4]) -> Option<&'a [u8]> {
    let (count, mut rest) = stored_u32(bytes)?;
    for _ in 0..count {
        rest = extend_coord(rest, bounds)?;
    }
    Some(rest)
}

fn extend_coord<'a>(bytes: &'a [u8], b: &mut [f64; 4]) -> Option<&'a [u8]> {
    let (x, rest) = stored_f64(bytes)?;
    let (y, rest) = stored_f64(rest)?;
    // min and max pass over the NaN of an empty point.
    *b = [b[0].min(x), b[1].min(y), b[2].max(x), b[3].max(y)];
    Some(rest)
}

fn stored_header(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (code, rest) = stored_u32(bytes.strip_prefix(&[1])?)?;
    if code & FLAG_SRID == 0 {
        return Some((code, rest));
    }
    Some((code & !FLAG_SRID, rest.get(4..)?))
}

fn stored_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (taken, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*taken), rest))
}

fn stored_f64(bytes: &[u8]) -> Option<(f64, &[u8])> {
    let (taken, rest) = bytes.split_first_chunk()?;
    Some((f64::from_le_bytes(*taken), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: &[&str] = &[
        "POINT(13.4 52.5)",
        "LINESTRING(0 0,1 2,-3 4)",
        "POLYGON((0 0,4 0,4 4,0 4,0 0),(1 1,2 1,2 2,1 1))",
        "MULTIPOINT((1 2),EMPTY,(3 4))",
        "MULTILINESTRING((0 0,1 1),(5 5,6 7))",
        "MULTIPOLYGON(((0 0,1 0,1 1,0 0)),((5 5,6 5,6 6,5 5)))",
        "GEOMETRYCOLLECTION(POINT(1 2),GEOMETRYCOLLECTION(LINESTRING(0 0,9 -9)),POINT EMPTY)",
        "POLYGON EMPTY",
        "LINESTRING EMPTY",
        "GEOMETRYCOLLECTION EMPTY",
    ];

    fn bytes(text: &str) -> Vec<u8> {
        Geometry::from_text(text).unwrap().to_ewkb()
    }

    #[test]
    fn every_kind_round_trips() {
        for text in SHAPES {
            for srid in ["", "SRID=3857;"] {
                let text = format!("{srid}{text}");
                let stored = bytes(&text);
                let again = decode(&stored).unwrap();
                assert_eq!(again.to_ewkb(), stored, "{text}");
                assert_eq!(super::super::wkt::format_ewkt(&again), text);
            }
        }
    }

    #[test]
    fn quick_readers_agree_with_the_shape() {
        assert_eq!(
            point_of(&bytes("SRID=4326;POINT(13.4 52.5)")),
            Some((13.4, 52.5))
        );
        assert_eq!(point_of(&bytes("POINT EMPTY")), None);
        assert_eq!(point_of(&bytes("LINESTRING(0 0,1 1)")), None);
        for (text, want) in [
            (SHAPES[0], Some([13.4, 52.5, 13.4, 52.5])),
            (SHAPES[1], Some([-3., 0., 1., 4.])),
            (SHAPES[2], Some([0., 0., 4., 4.])),
            (SHAPES[3], Some([1., 2., 3., 4.])),
            (SHAPES[6], Some([0., -9., 9., 2.])),
            (SHAPES[7], None),
            ("POINT EMPTY", None),
        ] {
            assert_eq!(bbox(&bytes(text)), want, "{text}");
            assert_eq!(bbox(&bytes(&format!("SRID=4326;{text}"))), want, "{text}");
        }
    }

    #[test]
    fn damaged_bytes_are_refused() {
        for text in SHAPES {
            let whole = bytes(text);
            for end in 0..whole.len() {
                assert!(decode(&whole[..end]).is_err());
                assert_eq!(point_of(&whole[..end]), None);
                let _ = bbox(&whole[..end]);
            }
            let mut longer = whole.clone();
            longer.push(0);
            assert!(decode(&longer).is_err());
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut flipped = whole.clone();
                    flipped[at] ^= 1 << bit;
                    if let Ok(g) = decode(&flipped) {
                        let _ = g.to_ewkb();
                    }
                    let _ = (bbox(&flipped), point_of(&flipped));
                }
            }
        }
        // A count of four thousand million points in thirteen bytes.
        let huge = [1, 2, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0];
        assert_eq!(
            decode(&huge).unwrap_err().code(),
            SqlState::InvalidBinaryRepresentation
        );
    }

    #[test]
    fn depth_and_extra_dimensions_are_refused() {
        let nested = |n: usize| {
            let mut b = [1u8, 7, 0, 0, 0, 1, 0, 0, 0].repeat(n);
            b.extend([1, 7, 0, 0, 0, 0, 0, 0, 0]);
            b
        };
        assert!(decode(&nested(GEOMETRY_DEPTH_MAX - 1)).is_ok());
        let f = decode(&nested(100_000)).unwrap_err();
        assert_eq!(f.code(), SqlState::StatementTooComplex);
        assert_eq!(bbox(&nested(100_000)), None);
        for code in [0x8000_0001u32, 1001, 0x4000_0001, 8] {
            let mut b = vec![1];
            b.extend(code.to_le_bytes());
            b.extend([0; 24]);
            assert_eq!(
                decode(&b).unwrap_err().code(),
                SqlState::FeatureNotSupported
            );
        }
        assert_eq!(
            from_hex("01010").unwrap_err().code(),
            SqlState::InvalidTextRepresentation
        );
        assert_eq!(
            from_hex("0101é0").unwrap_err().code(),
            SqlState::InvalidTextRepresentation
        );
        assert_eq!(
            from_hex("0109").unwrap_err().code(),
            SqlState::InvalidTextRepresentation
        );
    }

    #[test]
    fn headers_tell_kind_and_system() {
        for text in SHAPES {
            let geometry = Geometry::from_text(text).unwrap();
            let (kind, plain) = (geometry.kind(), geometry.to_ewkb());
            assert_eq!(kind_of(&plain), Some((kind, 0)));
            let on_globe = geometry.with_srid(4326).unwrap().to_ewkb();
            assert_eq!(kind_of(&on_globe), Some((kind, 4326)));
            assert_eq!(kind_of(&on_globe[..8]), None);
        }
        assert_eq!(kind_of(&[]), None);
    }
}
