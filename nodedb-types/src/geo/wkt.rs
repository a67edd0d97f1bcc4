//! Well-known text, and EWKT with its leading `SRID=n;`.
//!
//! The parser is a plain recursive descent over the bytes; only collections nest, to a fixed
//! depth. Output is PostGIS's: upper-case kinds, no blanks but between coordinates, numbers of at
//! most fifteen decimals.

use ::geo::{
    Coord, GeometryCollection, LineString, MultiLineString, MultiPoint, MultiPolygon, Point,
    Polygon,
};

use super::{Geometry, Kind, Shape, check_line, check_ring, checked_srid, empty_point, number};
use crate::failure::{Failure, Result};
use crate::limits::GEOMETRY_DEPTH_MAX;
use crate::sqlstate::SqlState;

/// Decimals that PostGIS writes unless told otherwise.
const DECIMALS: usize = 15;
/// How much of the text before an error its hint repeats, bytes.
const HINT_BYTES: usize = 40;

/// Reads WKT or EWKT. 22P02 where it is not, 0A000 for Z, M and curves.
pub fn parse(text: &str) -> Result<Geometry> {
    let mut parser = Parser { text, at: 0 };
    let srid = parser.srid()?;
    let shape = parser.geometry(GEOMETRY_DEPTH_MAX)?;
    if parser.peek().is_some() {
        parser.at += 1;
        return Err(parser.bad("parse error - invalid geometry"));
    }
    Ok(Geometry::new(srid, shape))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    /// A failure that points at what was read so far, as PostGIS's hints do.
    fn bad(&self, message: &str) -> Failure {
        let end = (self.at.min(self.text.len())..=self.text.len())
            .find(|&i| self.text.is_char_boundary(i))
            .unwrap_or(self.text.len());
        let start = (end.saturating_sub(HINT_BYTES)..=end)
            .find(|&i| self.text.is_char_boundary(i))
            .unwrap_or(end);
        let dots = if start > 0 { "..." } else { "" };
        let read = &self.text[start..end];
        Failure::new(SqlState::InvalidTextRepresentation, message).with_hint(format!(
            "\"{dots}{read}\" <-- parse error at position {end} within geometry"
        ))
    }

    /// The next byte that is no blank, which is not consumed.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte) {
            return Ok(());
        }
        self.at = (self.at + 1).min(self.text.len());
        Err(self.bad("parse error - invalid geometry"))
    }

    /// The run of bytes that satisfy `f`, after blanks.
    fn run(&mut self, f: impl Fn(u8) -> bool) -> &'a str {
        self.peek();
        let start = self.at;
        while self.text.as_bytes().get(self.at).is_some_and(|b| f(*b)) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn word(&mut self) -> &'a str {
        self.run(|b| b.is_ascii_alphabetic())
    }

    /// Consumes the word if it is next.
    fn eat_word(&mut self, word: &str) -> bool {
        let before = self.at;
        let found = self.word().eq_ignore_ascii_case(word);
        if !found {
            self.at = before;
        }
        found
    }

    fn srid(&mut self) -> Result<i32> {
        if !self.eat_word("SRID") {
            return Ok(0);
        }
        self.expect(b'=')?;
        let digits = self.run(|b| b.is_ascii_digit() || b == b'-');
        let srid: i64 = digits
            .parse()
            .map_err(|_| self.bad("parse error - invalid geometry"))?;
        self.expect(b';')?;
        checked_srid(srid)
    }

    fn geometry(&mut self, depth: usize) -> Result<Shape> {
        if depth == 0 {
            return Err(Failure::new(
                SqlState::StatementTooComplex,
                format!("geometries may be nested at most {GEOMETRY_DEPTH_MAX} deep"),
            ));
        }
        let kind = self.kind()?;
        if self.eat_word("EMPTY") {
            return Ok(empty(kind));
        }
        self.expect(b'(')?;
        let shape = match kind {
            Kind::Point => {
                let c = self.coord()?;
                self.expect(b')')?;
                Shape::Point(Point(c))
            }
            Kind::LineString => Shape::LineString(self.line()?),
            Kind::Polygon => Shape::Polygon(self.polygon()?),
            Kind::MultiPoint => Shape::MultiPoint(MultiPoint::new(self.list(Self::part_point)?)),
            Kind::MultiLineString => {
                let empty = || LineString::new(Vec::new());
                let part = |p: &mut Self| p.part(empty, Self::line);
                Shape::MultiLineString(MultiLineString::new(self.list(part)?))
            }
            Kind::MultiPolygon => {
                let empty = || super::polygon(Vec::new());
                let part = |p: &mut Self| p.part(empty, Self::polygon);
                Shape::MultiPolygon(MultiPolygon::new(self.list(part)?))
            }
            Kind::GeometryCollection => {
                let part = |p: &mut Self| p.geometry(depth - 1);
                Shape::GeometryCollection(GeometryCollection::from(self.list(part)?))
            }
        };
        Ok(shape)
    }

    /// The word that names a kind; a `Z`, `M` or `ZM` behind or attached to it is refused.
    fn kind(&mut self) -> Result<Kind> {
        const FOREIGN: [&str; 8] = [
            "CIRCULARSTRING",
            "COMPOUNDCURVE",
            "CURVEPOLYGON",
            "MULTICURVE",
            "MULTISURFACE",
            "POLYHEDRALSURFACE",
            "TIN",
            "TRIANGLE",
        ];
        let word = self.word().to_ascii_uppercase();
        if FOREIGN.iter().any(|name| word.starts_with(name)) {
            return Err(Failure::unsupported(format_args!(
                "a geometry of type {word}"
            )));
        }
        if let Some(kind) = Kind::from_name(&word) {
            let flat = !["Z", "M", "ZM"]
                .into_iter()
                .any(|extra| self.eat_word(extra));
            return if flat { Ok(kind) } else { Err(has_extra()) };
        }
        if Kind::from_name(word.trim_end_matches('M').trim_end_matches('Z')).is_some() {
            return Err(has_extra());
        }
        Err(self.bad("parse error - invalid geometry"))
    }

    /// Items separated by commas up to the closing parenthesis.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.eat(b',') {
            items.push(item(self)?);
        }
        self.expect(b')')?;
        Ok(items)
    }

    /// A part of a multi-geometry: `EMPTY` or a parenthesis.
    fn part<T>(&mut self, empty: fn() -> T, read: fn(&mut Self) -> Result<T>) -> Result<T> {
        if self.eat_word("EMPTY") {
            return Ok(empty());
        }
        self.expect(b'(')?;
        read(self)
    }

    /// A point of a `MULTIPOINT`: `EMPTY`, `1 2` or `(1 2)`.
    fn part_point(&mut self) -> Result<Point> {
        if self.eat_word("EMPTY") {
            return Ok(empty_point());
        }
        let inner = self.eat(b'(');
        let point = Point(self.coord()?);
        if inner {
            self.expect(b')')?;
        }
        Ok(point)
    }

    fn line(&mut self) -> Result<LineString> {
        let coords = self.list(Self::coord)?;
        check_line(coords.len()).map_err(|message| self.bad(message))?;
        Ok(LineString::new(coords))
    }

    fn polygon(&mut self) -> Result<Polygon> {
        let rings = self.list(|p| {
            p.expect(b'(')?;
            let ring = p.list(Self::coord)?;
            check_ring(&ring).map_err(|message| p.bad(message))?;
            Ok(LineString::new(ring))
        })?;
        Ok(super::polygon(rings))
    }

    fn coord(&mut self) -> Result<Coord> {
        let (x, y) = (self.number()?, self.number()?);
        if self
            .peek()
            .is_some_and(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.'))
        {
            return Err(has_extra());
        }
        Ok(Coord { x, y })
    }

    fn number(&mut self) -> Result<f64> {
        let digits =
            self.run(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
        match digits.parse::<f64>() {
            Ok(x) if x.is_finite() => Ok(x),
            Ok(_) | Err(_) => {
                self.at = (self.at + usize::from(digits.is_empty())).min(self.text.len());
                Err(self.bad("parse error - invalid geometry"))
            }
        }
    }
}

fn has_extra() -> Failure {
    Failure::unsupported("a Z or M coordinate")
}

fn empty(kind: Kind) -> Shape {
    match kind {
        Kind::Point => Shape::Point(empty_point()),
        Kind::LineString => Shape::LineString(LineString::new(Vec::new())),
        Kind::Polygon => Shape::Polygon(super::polygon(Vec::new())),
        Kind::MultiPoint => Shape::MultiPoint(MultiPoint::new(Vec::new())),
        Kind::MultiLineString => Shape::MultiLineString(MultiLineString::new(Vec::new())),
        Kind::MultiPolygon => Shape::MultiPolygon(MultiPolygon::new(Vec::new())),
        Kind::GeometryCollection => Shape::GeometryCollection(GeometryCollection(Vec::new())),
    }
}

/// `ST_AsText`: WKT, at most fifteen decimals.
pub fn format(geometry: &Geometry) -> String {
    let mut out = String::new();
    put(&geometry.shape, &mut out);
    out
}

/// `ST_AsEWKT`: WKT behind `SRID=n;` where a reference system is known.
pub fn format_ewkt(geometry: &Geometry) -> String {
    match geometry.srid {
        0 => format(geometry),
        srid => format!("SRID={srid};{}", format(geometry)),
    }
}

fn put(shape: &Shape, out: &mut String) {
    out.push_str(&Kind::of(shape).name().to_ascii_uppercase());
    let body = out.len();
    match shape {
        Shape::Point(p) => put_point(p, out),
        Shape::LineString(line) => put_coords(&line.0, out),
        Shape::Polygon(p) => put_polygon(p, out),
        Shape::MultiPoint(m) => put_list(m.0.iter(), out, put_point),
        Shape::MultiLineString(m) => {
            put_list(m.0.iter(), out, |line, out| put_coords(&line.0, out))
        }
        Shape::MultiPolygon(m) => put_list(m.0.iter(), out, put_polygon),
        Shape::GeometryCollection(c) => put_list(c.0.iter(), out, put),
        Shape::Line(_) | Shape::Rect(_) | Shape::Triangle(_) => {
            unreachable!("no reader builds lines, rectangles or triangles")
        }
    }
    if out[body..] == *EMPTY {
        out.insert(body, ' ');
    }
}

const EMPTY: &str = "EMPTY";

fn put_list<T>(
    items: impl ExactSizeIterator<Item = T>,
    out: &mut String,
    put: impl Fn(T, &mut String),
) {
    if items.len() == 0 {
        return out.push_str(EMPTY);
    }
    for (i, item) in items.enumerate() {
        out.push(if i == 0 { '(' } else { ',' });
        put(item, out);
    }
    out.push(')');
}

fn put_polygon(polygon: &Polygon, out: &mut String) {
    put_list(super::rings(polygon), out, put_coords);
}

fn put_coords(coords: &[Coord], out: &mut String) {
    put_list(coords.iter(), out, put_coord);
}

fn put_point(point: &Point, out: &mut String) {
    let coords = if point.x().is_nan() {
        &[][..]
    } else {
        std::slice::from_ref(&point.0)
    };
    put_coords(coords, out);
}

fn put_coord(c: &Coord, out: &mut String) {
    number::push(c.x, DECIMALS, out);
    out.push(' ');
    number::push(c.y, DECIMALS, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_leniently_and_written_canonically() {
        for (text, want) in [
            ("point(13.4 52.5)", "POINT(13.4 52.5)"),
            ("  POINT ( -1.50  +2e1 ) ", "POINT(-1.5 20)"),
            ("SRID=4326;POINT(1 2)", "SRID=4326;POINT(1 2)"),
            ("srid = 0; POINT EMPTY", "POINT EMPTY"),
            ("MULTIPOINT(1 2, 3 4)", "MULTIPOINT((1 2),(3 4))"),
            ("MultiPoint((1 2), empty)", "MULTIPOINT((1 2),EMPTY)"),
            (
                "POINT(0.3333333333333333 1e-9)",
                "POINT(0.333333333333333 1e-9)",
            ),
            (
                "MULTIPOLYGON(EMPTY,((0 0,1 0,1 1,0 0)))",
                "MULTIPOLYGON(EMPTY,((0 0,1 0,1 1,0 0)))",
            ),
            (
                "GEOMETRYCOLLECTION(POINT EMPTY)",
                "GEOMETRYCOLLECTION(POINT EMPTY)",
            ),
            ("MULTILINESTRING EMPTY", "MULTILINESTRING EMPTY"),
        ] {
            assert_eq!(format_ewkt(&parse(text).unwrap()), want);
        }
    }

    #[test]
    fn what_is_not_wkt_is_refused_with_its_place() {
        for text in [
            "",
            "POINT",
            "POINT(",
            "POINT()",
            "POINT(1)",
            "POINT(1 2",
            "POINT(1 2))",
            "POINT(1,2)",
            "POINT(a b)",
            "POINT(1 2) x",
            "POINT(1e999 0)",
            "POINT(nan 0)",
            "POINTS(1 2)",
            "é",
            "POINT(1 é)",
            "LINESTRING(0 0)",
            "LINESTRING(0 0,)",
            "POLYGON((0 0,1 1,0 0))",
            "POLYGON((0 0,1 0,1 1,2 2))",
            "POLYGON(0 0,1 0,1 1,0 0)",
            "SRID=;POINT(1 2)",
            "SRID=4326 POINT(1 2)",
            "MULTIPOINT(,)",
            "GEOMETRYCOLLECTION(1 2)",
        ] {
            let f = parse(text).unwrap_err();
            assert_eq!(f.code(), SqlState::InvalidTextRepresentation, "{text}");
            assert!(
                f.hint().unwrap().contains("<-- parse error at position"),
                "{text}"
            );
        }
        let f = parse("POINT(1 x)").unwrap_err();
        assert_eq!(f.message(), "parse error - invalid geometry");
        assert_eq!(
            f.hint(),
            Some("\"POINT(1 x\" <-- parse error at position 9 within geometry")
        );
        let f = parse("POLYGON((0 0,1 0,1 1,2 2))").unwrap_err();
        assert_eq!(f.message(), "geometry contains non-closed rings");
    }

    #[test]
    fn what_is_not_supported_says_so() {
        for text in [
            "POINT Z (1 2 3)",
            "POINTZ(1 2 3)",
            "POINT(1 2 3)",
            "POINT ZM EMPTY",
            "POINTM(1 2 3)",
            "LINESTRING(0 0 1,1 1 1)",
            "CIRCULARSTRING(0 0,1 1,2 0)",
            "TIN EMPTY",
        ] {
            assert_eq!(
                parse(text).unwrap_err().code(),
                SqlState::FeatureNotSupported,
                "{text}"
            );
        }
        let deep = "GEOMETRYCOLLECTION(".repeat(100_000);
        assert_eq!(
            parse(&deep).unwrap_err().code(),
            SqlState::StatementTooComplex
        );
    }
}
