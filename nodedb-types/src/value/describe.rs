//! What types are called: PostgreSQL's names, OIDs, lengths and modifiers, and a short stable
//! spelling of our own for the catalog and for Arrow metadata.

use crate::geo::{Kind, SRID_WGS84};
use crate::limits::VECTOR_DIMENSIONS_MAX;
use crate::numeric::DIGITS_MAX;
use crate::value::DataType;

/// OIDs of the types. Built-in ones are PostgreSQL's; those of extensions, which PostgreSQL gives
/// out at run time, are fixed here above its last built-in one.
pub mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const INTERVAL: u32 = 1186;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const JSONB: u32 = 3802;
    pub const VECTOR: u32 = 16385;
    pub const GEOMETRY: u32 = 16386;
    pub const GEOGRAPHY: u32 = 16387;
}

/// PostgreSQL adds the size of a length word to the modifiers of varchar and numeric.
const MODIFIER_OFFSET: i32 = 4;

impl DataType {
    /// The name as PostgreSQL, pgvector and PostGIS print it, such as `character varying(10)`.
    pub fn name(&self) -> String {
        match self {
            DataType::Numeric(Some((precision, scale))) => format!("numeric({precision},{scale})"),
            DataType::Text(Some(limit)) => format!("character varying({limit})"),
            DataType::Vector(Some(dimensions)) => format!("vector({dimensions})"),
            DataType::Geometry(Some(kind)) => format!("geometry({})", kind.name()),
            DataType::Geography(Some(kind)) => format!("geography({},{SRID_WGS84})", kind.name()),
            plain => plain.plain_name().to_string(),
        }
    }

    /// The name without length, precision or subtype; what error messages about input name.
    pub fn plain_name(&self) -> &'static str {
        match self {
            DataType::Bool => "boolean",
            DataType::Int2 => "smallint",
            DataType::Int4 => "integer",
            DataType::Int8 => "bigint",
            DataType::Float4 => "real",
            DataType::Float8 => "double precision",
            DataType::Numeric(_) => "numeric",
            DataType::Text(None) => "text",
            DataType::Text(Some(_)) => "character varying",
            DataType::Bytea => "bytea",
            DataType::Uuid => "uuid",
            DataType::Date => "date",
            DataType::Timestamp => "timestamp without time zone",
            DataType::TimestampTz => "timestamp with time zone",
            DataType::Interval => "interval",
            DataType::Jsonb => "jsonb",
            DataType::Vector(_) => "vector",
            DataType::Geometry(_) => "geometry",
            DataType::Geography(_) => "geography",
        }
    }

    /// The name in `pg_type`, such as `int4`.
    pub fn catalog_name(&self) -> &'static str {
        match self {
            DataType::Bool => "bool",
            DataType::Int2 => "int2",
            DataType::Int4 => "int4",
            DataType::Int8 => "int8",
            DataType::Float4 => "float4",
            DataType::Float8 => "float8",
            DataType::Text(Some(_)) => "varchar",
            DataType::Timestamp => "timestamp",
            DataType::TimestampTz => "timestamptz",
            other => other.plain_name(),
        }
    }

    /// OID of the type; see [`oid`].
    pub fn oid(&self) -> u32 {
        match self {
            DataType::Bool => oid::BOOL,
            DataType::Int2 => oid::INT2,
            DataType::Int4 => oid::INT4,
            DataType::Int8 => oid::INT8,
            DataType::Float4 => oid::FLOAT4,
            DataType::Float8 => oid::FLOAT8,
            DataType::Numeric(_) => oid::NUMERIC,
            DataType::Text(None) => oid::TEXT,
            DataType::Text(Some(_)) => oid::VARCHAR,
            DataType::Bytea => oid::BYTEA,
            DataType::Uuid => oid::UUID,
            DataType::Date => oid::DATE,
            DataType::Timestamp => oid::TIMESTAMP,
            DataType::TimestampTz => oid::TIMESTAMPTZ,
            DataType::Interval => oid::INTERVAL,
            DataType::Jsonb => oid::JSONB,
            DataType::Vector(_) => oid::VECTOR,
            DataType::Geometry(_) => oid::GEOMETRY,
            DataType::Geography(_) => oid::GEOGRAPHY,
        }
    }

    /// The type of an OID, without modifiers; varchar without a limit is text.
    pub fn from_oid(oid: u32) -> Option<DataType> {
        Some(match oid {
            oid::BOOL => DataType::Bool,
            oid::INT2 => DataType::Int2,
            oid::INT4 => DataType::Int4,
            oid::INT8 => DataType::Int8,
            oid::FLOAT4 => DataType::Float4,
            oid::FLOAT8 => DataType::Float8,
            oid::NUMERIC => DataType::Numeric(None),
            oid::TEXT | oid::VARCHAR => DataType::Text(None),
            oid::BYTEA => DataType::Bytea,
            oid::UUID => DataType::Uuid,
            oid::DATE => DataType::Date,
            oid::TIMESTAMP => DataType::Timestamp,
            oid::TIMESTAMPTZ => DataType::TimestampTz,
            oid::INTERVAL => DataType::Interval,
            oid::JSONB => DataType::Jsonb,
            oid::VECTOR => DataType::Vector(None),
            oid::GEOMETRY => DataType::Geometry(None),
            oid::GEOGRAPHY => DataType::Geography(None),
            _ => return None,
        })
    }

    /// `pg_type.typlen`: bytes in PostgreSQL's memory, -1 for values of varying length.
    pub fn typlen(&self) -> i16 {
        match self {
            DataType::Bool => 1,
            DataType::Int2 => 2,
            DataType::Int4 | DataType::Float4 | DataType::Date => 4,
            DataType::Int8 | DataType::Float8 | DataType::Timestamp | DataType::TimestampTz => 8,
            DataType::Uuid | DataType::Interval => 16,
            DataType::Numeric(_)
            | DataType::Text(_)
            | DataType::Bytea
            | DataType::Jsonb
            | DataType::Vector(_)
            | DataType::Geometry(_)
            | DataType::Geography(_) => -1,
        }
    }

    /// `atttypmod`: length, precision and scale, dimensions or subtype as PostgreSQL, pgvector
    /// and PostGIS pack them; -1 for none.
    pub fn type_modifier(&self) -> i32 {
        let place = |srid: i32, kind: Kind| srid << 8 | (kind.code() as i32) << 2;
        match self {
            DataType::Numeric(Some((precision, scale))) => {
                (i32::from(*precision) << 16 | i32::from(*scale)) + MODIFIER_OFFSET
            }
            DataType::Text(Some(limit)) => i32::try_from(*limit)
                .unwrap_or(i32::MAX)
                .saturating_add(MODIFIER_OFFSET),
            DataType::Vector(Some(dimensions)) => i32::from(*dimensions),
            DataType::Geometry(Some(kind)) => place(0, *kind),
            DataType::Geography(Some(kind)) => place(SRID_WGS84, *kind),
            _ => -1,
        }
    }

    /// A short stable name that holds the whole type, such as `varchar(10)` or
    /// `geography(point)`. [`DataType::from_spelling`] reads it back.
    pub fn spelling(&self) -> String {
        match self {
            DataType::Numeric(Some((precision, scale))) => format!("numeric({precision},{scale})"),
            DataType::Text(Some(limit)) => format!("varchar({limit})"),
            DataType::Vector(Some(dimensions)) => format!("vector({dimensions})"),
            DataType::Geometry(Some(kind)) | DataType::Geography(Some(kind)) => {
                format!(
                    "{}({})",
                    self.plain_name(),
                    kind.name().to_ascii_lowercase()
                )
            }
            plain => plain.catalog_name().to_string(),
        }
    }

    /// The type that [`DataType::spelling`] wrote; None for any other text.
    pub fn from_spelling(text: &str) -> Option<DataType> {
        let (name, argument) = match text.split_once('(') {
            Some((name, rest)) => (name, Some(rest.strip_suffix(')')?)),
            None => (text, None),
        };
        Some(match (name, argument) {
            ("bool", None) => DataType::Bool,
            ("int2", None) => DataType::Int2,
            ("int4", None) => DataType::Int4,
            ("int8", None) => DataType::Int8,
            ("float4", None) => DataType::Float4,
            ("float8", None) => DataType::Float8,
            ("numeric", None) => DataType::Numeric(None),
            ("numeric", Some(argument)) => {
                let (precision, scale) = argument.split_once(',')?;
                let (precision, scale) = (precision.parse().ok()?, scale.parse().ok()?);
                let valid = (1..=DIGITS_MAX).contains(&precision) && scale <= precision;
                DataType::Numeric(Some(valid.then_some((precision, scale))?))
            }
            ("text", None) => DataType::Text(None),
            ("varchar", Some(limit)) => DataType::Text(Some(limit.parse().ok()?)),
            ("bytea", None) => DataType::Bytea,
            ("uuid", None) => DataType::Uuid,
            ("date", None) => DataType::Date,
            ("timestamp", None) => DataType::Timestamp,
            ("timestamptz", None) => DataType::TimestampTz,
            ("interval", None) => DataType::Interval,
            ("jsonb", None) => DataType::Jsonb,
            ("vector", None) => DataType::Vector(None),
            ("vector", Some(dimensions)) => {
                let dimensions: u16 = dimensions.parse().ok()?;
                let valid = (1..=VECTOR_DIMENSIONS_MAX).contains(&usize::from(dimensions));
                DataType::Vector(Some(valid.then_some(dimensions)?))
            }
            ("geometry", None) => DataType::Geometry(None),
            ("geometry", Some(kind)) => DataType::Geometry(Some(Kind::from_name(kind)?)),
            ("geography", None) => DataType::Geography(None),
            ("geography", Some(kind)) => DataType::Geography(Some(Kind::from_name(kind)?)),
            _ => return None,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Every type, with and without its modifier.
    pub(crate) const ALL: [DataType; 24] = [
        DataType::Bool,
        DataType::Int2,
        DataType::Int4,
        DataType::Int8,
        DataType::Float4,
        DataType::Float8,
        DataType::Numeric(None),
        DataType::Numeric(Some((10, 2))),
        DataType::Text(None),
        DataType::Text(Some(10)),
        DataType::Bytea,
        DataType::Uuid,
        DataType::Date,
        DataType::Timestamp,
        DataType::TimestampTz,
        DataType::Interval,
        DataType::Jsonb,
        DataType::Vector(None),
        DataType::Vector(Some(3)),
        DataType::Geometry(None),
        DataType::Geometry(Some(Kind::MultiPolygon)),
        DataType::Geography(None),
        DataType::Geography(Some(Kind::Point)),
        DataType::Geography(Some(Kind::GeometryCollection)),
    ];

    #[test]
    fn spelling_and_oid_lead_back() {
        for data_type in ALL {
            assert_eq!(
                DataType::from_spelling(&data_type.spelling()),
                Some(data_type)
            );
            let plain = DataType::from_oid(data_type.oid()).unwrap();
            assert_eq!(
                std::mem::discriminant(&plain),
                std::mem::discriminant(&data_type)
            );
        }
        for bad in [
            "",
            "int",
            "varchar",
            "varchar(",
            "vector(0)",
            "numeric(39,0)",
            "numeric(3)",
            "geometry(cube)",
        ] {
            assert_eq!(DataType::from_spelling(bad), None, "{bad}");
        }
        assert_eq!(DataType::from_oid(0), None);
    }

    #[test]
    fn names_and_modifiers_are_those_of_postgresql() {
        for (data_type, name, modifier) in [
            (DataType::Text(Some(10)), "character varying(10)", 14),
            (DataType::Numeric(Some((10, 2))), "numeric(10,2)", 655_366),
            (DataType::Vector(Some(384)), "vector(384)", 384),
            (
                DataType::Geography(Some(Kind::Point)),
                "geography(Point,4326)",
                1_107_460,
            ),
            (
                DataType::Geometry(Some(Kind::Polygon)),
                "geometry(Polygon)",
                12,
            ),
            (DataType::TimestampTz, "timestamp with time zone", -1),
        ] {
            assert_eq!(data_type.name(), name);
            assert_eq!(data_type.type_modifier(), modifier);
        }
    }
}
