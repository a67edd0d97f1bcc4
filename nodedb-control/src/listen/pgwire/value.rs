//! Values on the wire: parameters in, rows out, as text or as PostgreSQL's binary formats.
//!
//! | type | binary form (big-endian) |
//! |---|---|
//! | bool | 1 byte |
//! | int2/4/8, float4/8 | the number |
//! | numeric | u16 digits, i16 weight, u16 sign, u16 display scale, base-10000 digits |
//! | text, varchar | UTF-8 |
//! | bytea, uuid | the bytes |
//! | date, timestamp, timestamptz | i32 days, i64 microseconds since 2000-01-01 |
//! | interval | i64 microseconds, i32 days, i32 months |
//! | jsonb | byte 1, then text |
//! | vector | u16 dimensions, u16 zero, float4 each |
//! | geometry, geography | EWKB |

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType as Arrow, Int16Type, Int32Type, Int64Type};
use bytes::{BufMut, BytesMut};
use nodedb_query::catalog::{CatalogType, ResultColumn};
use nodedb_types::datetime::Interval;
use nodedb_types::numeric::Numeric;
use nodedb_types::row::{RowView, ValueRef};
use nodedb_types::{DataType, Failure, Result, SqlState, Value, arrow_map, text, vector};

use super::frame::Format;
use super::reply::{format_of, message};

/// 2000-01-01 in days and microseconds since 1970-01-01.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_US: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// The value of a parameter that the client sees as `shown`. `None` is NULL.
pub fn decode_shown(
    bytes: Option<&[u8]>,
    format: Format,
    data_type: &DataType,
    shown: Option<CatalogType>,
) -> Result<Value> {
    match (shown, format, bytes) {
        (Some(CatalogType::Oid), Format::Binary, Some(bytes)) => {
            let n = u32::from_be_bytes(fixed(bytes, data_type)?);
            Value::Int8(i64::from(n)).coerce(data_type)
        }
        _ => decode(bytes, format, data_type),
    }
}

/// A parameter's value. `None` is NULL.
pub fn decode(bytes: Option<&[u8]>, format: Format, data_type: &DataType) -> Result<Value> {
    let Some(bytes) = bytes else {
        return Ok(Value::Null);
    };
    match format {
        Format::Text => text::parse(utf8(bytes)?, data_type),
        Format::Binary => decode_binary(bytes, data_type),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|e| {
        Failure::new(
            SqlState::CharacterNotInRepertoire,
            format!(
                "invalid byte sequence for encoding \"UTF8\": 0x{:02x}",
                bytes[e.valid_up_to()]
            ),
        )
    })
}

fn bad_binary(data_type: &DataType) -> Failure {
    Failure::new(
        SqlState::InvalidBinaryRepresentation,
        format!("incorrect binary data format for type {}", data_type.name()),
    )
}

/// Exactly `N` bytes.
fn fixed<const N: usize>(bytes: &[u8], data_type: &DataType) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| bad_binary(data_type))
}

fn decode_binary(bytes: &[u8], data_type: &DataType) -> Result<Value> {
    let value = match data_type {
        DataType::Bool => match fixed::<1>(bytes, data_type)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return Err(bad_binary(data_type)),
        },
        DataType::Int2 => Value::Int2(i16::from_be_bytes(fixed(bytes, data_type)?)),
        DataType::Int4 => Value::Int4(i32::from_be_bytes(fixed(bytes, data_type)?)),
        DataType::Int8 => Value::Int8(i64::from_be_bytes(fixed(bytes, data_type)?)),
        DataType::Float4 => Value::Float4(f32::from_be_bytes(fixed(bytes, data_type)?)),
        DataType::Float8 => Value::Float8(f64::from_be_bytes(fixed(bytes, data_type)?)),
        DataType::Numeric(_) => Value::Numeric(decode_numeric(bytes, data_type)?),
        DataType::Text(_) | DataType::Uuid | DataType::Bytea => decode_bytes(bytes, data_type)?,
        DataType::Date => i32::from_be_bytes(fixed(bytes, data_type)?)
            .checked_add(EPOCH_DAYS)
            .map(Value::Date)
            .ok_or_else(|| out_of_range("date"))?,
        DataType::Timestamp => Value::Timestamp(timestamp(bytes, data_type)?),
        DataType::TimestampTz => Value::TimestampTz(timestamp(bytes, data_type)?),
        DataType::Interval => {
            let all: [u8; 16] = fixed(bytes, data_type)?;
            let (micros, rest) = all.split_at(8);
            let (days, months) = rest.split_at(4);
            Value::Interval(Interval {
                micros: i64::from_be_bytes(fixed(micros, data_type)?),
                days: i32::from_be_bytes(fixed(days, data_type)?),
                months: i32::from_be_bytes(fixed(months, data_type)?),
            })
        }
        DataType::Jsonb => match bytes.split_first() {
            Some((1, json)) => return text::parse(utf8(json)?, data_type),
            _ => return Err(bad_binary(data_type)),
        },
        DataType::Vector(_) => Value::Vector(decode_vector(bytes, data_type)?),
        DataType::Geometry(_) | DataType::Geography(_) => {
            let hex: String = bytes.iter().map(|b| format!("{b:02X}")).collect();
            return text::parse(&hex, data_type);
        }
    };
    value.coerce(data_type)
}

fn decode_bytes(bytes: &[u8], data_type: &DataType) -> Result<Value> {
    Ok(match data_type {
        DataType::Uuid => Value::Uuid(fixed(bytes, data_type)?),
        DataType::Bytea => Value::Bytea(bytes.to_vec()),
        _ => {
            let string = utf8(bytes)?;
            text::check_text(string)?;
            Value::Text(string.to_owned())
        }
    })
}

fn out_of_range(what: &str) -> Failure {
    Failure::new(SqlState::DatetimeOverflow, format!("{what} out of range"))
}

fn timestamp(bytes: &[u8], data_type: &DataType) -> Result<i64> {
    let micros = i64::from_be_bytes(fixed(bytes, data_type)?)
        .checked_add(EPOCH_US)
        .ok_or_else(|| out_of_range("timestamp"))?;
    nodedb_types::datetime::check_timestamp(micros)
}

fn decode_vector(bytes: &[u8], data_type: &DataType) -> Result<Vec<f32>> {
    let Some((head, elements)) = bytes.split_at_checked(4) else {
        return Err(bad_binary(data_type));
    };
    let dimensions = u16::from_be_bytes([head[0], head[1]]) as usize;
    vector::check_length(dimensions)?;
    if [head[2], head[3]] != [0, 0] || elements.len() != dimensions * 4 {
        return Err(bad_binary(data_type));
    }
    let elements: Vec<f32> = elements
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_be_bytes(*b))
        .collect();
    vector::check_elements(&elements)?;
    Ok(elements)
}

const NUMERIC_NEGATIVE: u16 = 0x4000;

fn decode_numeric(bytes: &[u8], data_type: &DataType) -> Result<Numeric> {
    let (words, []) = bytes.as_chunks::<2>() else {
        return Err(bad_binary(data_type));
    };
    let words: Vec<u16> = words.iter().map(|w| u16::from_be_bytes(*w)).collect();
    let [digits, weight, sign, scale, groups @ ..] = &words[..] else {
        return Err(bad_binary(data_type));
    };
    if groups.len() != *digits as usize || groups.iter().any(|g| *g > 9999) {
        return Err(bad_binary(data_type));
    }
    if !matches!(*sign, 0 | NUMERIC_NEGATIVE) {
        return Err(Failure::unsupported("NaN or infinity of type numeric"));
    }
    let overflow = || {
        Failure::new(
            SqlState::NumericOutOfRange,
            "value overflows numeric format",
        )
    };
    // The value is digits × 10000^(weight - digits + 1); it is brought to the display scale.
    let mut value: i128 = 0;
    for group in groups {
        value = value
            .checked_mul(10_000)
            .and_then(|v| v.checked_add(i128::from(*group)))
            .ok_or_else(overflow)?;
    }
    let shift = 4 * (i32::from(*weight as i16) - groups.len() as i32 + 1) + i32::from(*scale);
    let power = |n: i32| 10i128.checked_pow(n.unsigned_abs());
    let value = match shift {
        _ if value == 0 => 0,
        0.. => power(shift)
            .and_then(|p| value.checked_mul(p))
            .ok_or_else(overflow)?,
        // Digits beyond the display scale are dropped, as PostgreSQL truncates them.
        _ => power(shift).map_or(0, |p| value / p),
    };
    let scale = u8::try_from(*scale).map_err(|_| overflow())?;
    Numeric::new(if *sign == 0 { value } else { -value }, scale)
}

/// Writes rows `from..` of a batch as DataRow messages until `out` holds `bytes_max` or `rows_max`
/// rows were written; gives the number written. `scratch` is reused between calls.
pub fn data_rows(
    out: &mut BytesMut,
    batch: &RecordBatch,
    columns: &[ResultColumn],
    formats: &[Format],
    rows: std::ops::Range<usize>,
    bytes_max: usize,
    scratch: &mut String,
) -> Result<usize> {
    let from = rows.start;
    for row in rows.clone() {
        if out.len() >= bytes_max {
            return Ok(row - from);
        }
        let start = out.len();
        let mut failed = None;
        message(out, b'D', |out| {
            out.put_u16(columns.len() as u16);
            for (i, column) in columns.iter().enumerate() {
                let array = batch.column(i).as_ref();
                let format = format_of(formats, i);
                let done = match (column.shown_as, format) {
                    (Some(CatalogType::Oid), Format::Binary) => oid(out, array, row),
                    _ => cell(out, array, row, &column.data_type, format, scratch),
                };
                if let Err(e) = done {
                    failed = Some(e);
                    break;
                }
            }
        });
        if let Some(failure) = failed {
            out.truncate(start);
            return Err(failure);
        }
    }
    Ok(rows.len())
}

/// An `oid` in its binary form, with its length in front.
fn oid(out: &mut BytesMut, array: &dyn Array, row: usize) -> Result<()> {
    match arrow_map::value_at(array, row, &DataType::Int8)? {
        Value::Int8(n) => {
            let n = u32::try_from(n)
                .map_err(|_| Failure::new(SqlState::NumericOutOfRange, "OID out of range"))?;
            out.put_u32(4);
            out.put_u32(n);
        }
        _ => out.put_i32(-1),
    }
    Ok(())
}

/// Writes an encoded row as a DataRow message: what [`data_rows`] writes for a batch of it.
pub fn data_row(
    out: &mut BytesMut,
    row: &[u8],
    columns: &[ResultColumn],
    formats: &[Format],
    scratch: &mut String,
) -> Result<()> {
    let view = RowView::new(row)?;
    let start = out.len();
    let mut written = Ok(());
    message(out, b'D', |out| {
        out.put_u16(columns.len() as u16);
        for (i, column) in columns.iter().enumerate() {
            written = view
                .column(i, &column.data_type)
                .map(|value| row_cell(out, value, format_of(formats, i), scratch));
            if written.is_err() {
                break;
            }
        }
    });
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// A value of an encoded row with its length in front.
fn row_cell(out: &mut BytesMut, value: ValueRef<'_>, format: Format, scratch: &mut String) {
    match value {
        ValueRef::Null => out.put_i32(-1),
        ValueRef::Text(text) => {
            out.put_u32(text.len() as u32);
            out.put_slice(text.as_bytes());
        }
        value => {
            let at = out.len();
            out.put_u32(0);
            match format {
                Format::Text => {
                    scratch.clear();
                    text::format(&value.to_owned(), scratch);
                    out.put_slice(scratch.as_bytes());
                }
                Format::Binary => encode_value(out, &value.to_owned()),
            }
            let length = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// A value with its length in front.
fn cell(
    out: &mut BytesMut,
    array: &dyn Array,
    row: usize,
    data_type: &DataType,
    format: Format,
    scratch: &mut String,
) -> Result<()> {
    if array.is_null(row) || matches!(array.data_type(), Arrow::Null) {
        out.put_i32(-1);
        return Ok(());
    }
    if matches!(data_type, DataType::Text(_)) {
        let bytes = arrow_map::text(array, row)?.as_bytes();
        out.put_u32(bytes.len() as u32);
        out.put_slice(bytes);
        return Ok(());
    }
    let at = out.len();
    out.put_u32(0);
    match format {
        Format::Text => {
            scratch.clear();
            cell_text(array, row, data_type, scratch)?;
            out.put_slice(scratch.as_bytes());
        }
        Format::Binary => encode_binary(out, array, row, data_type)?,
    }
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Appends the text form of a cell that is not NULL.
pub fn cell_text(
    array: &dyn Array,
    row: usize,
    data_type: &DataType,
    out: &mut String,
) -> Result<()> {
    text::format(&arrow_map::value_at(array, row, data_type)?, out);
    Ok(())
}

fn encode_binary(
    out: &mut BytesMut,
    array: &dyn Array,
    row: usize,
    data_type: &DataType,
) -> Result<()> {
    // The commonest types skip the detour over a value.
    match array.data_type() {
        Arrow::Int16 if *data_type == DataType::Int2 => {
            out.put_i16(array.as_primitive::<Int16Type>().value(row));
        }
        Arrow::Int32 if *data_type == DataType::Int4 => {
            out.put_i32(array.as_primitive::<Int32Type>().value(row));
        }
        Arrow::Int64 if *data_type == DataType::Int8 => {
            out.put_i64(array.as_primitive::<Int64Type>().value(row));
        }
        _ => encode_value(out, &arrow_map::value_at(array, row, data_type)?),
    }
    Ok(())
}

fn encode_value(out: &mut BytesMut, value: &Value) {
    match value {
        // The caller has dealt with NULL; it has no bytes.
        Value::Null => {}
        Value::Bool(v) => out.put_u8(u8::from(*v)),
        Value::Int2(v) => out.put_i16(*v),
        Value::Int4(v) => out.put_i32(*v),
        Value::Int8(v) => out.put_i64(*v),
        Value::Float4(v) => out.put_f32(*v),
        Value::Float8(v) => out.put_f64(*v),
        Value::Numeric(v) => encode_numeric(out, *v),
        Value::Text(v) => out.put_slice(v.as_bytes()),
        Value::Bytea(v) | Value::Geometry(v) | Value::Geography(v) => out.put_slice(v),
        Value::Uuid(v) => out.put_slice(v),
        Value::Date(v) => out.put_i32(v.wrapping_sub(EPOCH_DAYS)),
        Value::Timestamp(v) | Value::TimestampTz(v) => out.put_i64(v.wrapping_sub(EPOCH_US)),
        Value::Interval(v) => {
            out.put_i64(v.micros);
            out.put_i32(v.days);
            out.put_i32(v.months);
        }
        Value::Jsonb(v) => {
            out.put_u8(1);
            out.put_slice(v.as_bytes());
        }
        Value::Vector(v) => {
            out.put_u16(v.len() as u16);
            out.put_u16(0);
            for element in v {
                out.put_f32(*element);
            }
        }
    }
}

fn encode_numeric(out: &mut BytesMut, value: Numeric) {
    let scale = u32::from(value.scale);
    // Digits are grouped by four from the decimal point, so the last group is filled up.
    let pad = (4 - scale % 4) % 4;
    let fraction_groups = (scale + pad) / 4;
    let mut rest = value.unscaled.unsigned_abs();
    let mut groups = Vec::new();
    if pad > 0 {
        // The first group taken holds 4 - pad digits of the number.
        let part = 10u128.pow(4 - pad);
        groups.push((rest % part) as u16 * 10u16.pow(pad));
        rest /= part;
    }
    while rest > 0 {
        groups.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    let mut weight = groups.len() as i32 - 1 - fraction_groups as i32;
    groups.reverse();
    let leading = groups.iter().take_while(|g| **g == 0).count();
    weight -= leading as i32;
    let mut groups = &groups[leading..];
    while let [head @ .., 0] = groups {
        groups = head;
    }
    out.put_u16(groups.len() as u16);
    out.put_i16(if groups.is_empty() { 0 } else { weight as i16 });
    out.put_u16(if value.unscaled < 0 {
        NUMERIC_NEGATIVE
    } else {
        0
    });
    out.put_u16(scale as u16);
    for group in groups {
        out.put_u16(*group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(value: &Value) -> BytesMut {
        let mut out = BytesMut::new();
        encode_value(&mut out, value);
        out
    }

    #[test]
    fn numerics_are_grouped_as_postgresql_groups_them() {
        let bytes = |text: &str| {
            let value = Numeric::parse(text).expect("a number");
            let words = binary(&Value::Numeric(value));
            words
                .chunks(2)
                .map(|w| u16::from_be_bytes([w[0], w[1]]))
                .collect::<Vec<_>>()
        };
        assert_eq!(bytes("0"), [0, 0, 0, 0]);
        assert_eq!(bytes("1"), [1, 0, 0, 0, 1]);
        assert_eq!(bytes("12345.678"), [3, 1, 0, 3, 1, 2345, 6780]);
        assert_eq!(bytes("-0.00012"), [2, u16::MAX, 0x4000, 5, 1, 2000]);
        assert_eq!(bytes("100000000"), [1, 2, 0, 0, 1]);
        for text in [
            "0.00",
            "1.10",
            "-99999999999999999999999999999999999999",
            "0.1234567",
            "7000",
        ] {
            let value = Value::Numeric(Numeric::parse(text).expect("a number"));
            let back = decode_binary(&binary(&value), &DataType::Numeric(None)).expect("decodes");
            let mut shown = String::new();
            nodedb_types::text::format(&back, &mut shown);
            assert_eq!(shown, text);
        }
    }

    #[test]
    fn every_type_comes_back_from_its_binary_form() {
        let values = [
            (DataType::Bool, Value::Bool(true)),
            (DataType::Int2, Value::Int2(-2)),
            (DataType::Int4, Value::Int4(i32::MIN)),
            (DataType::Int8, Value::Int8(i64::MAX)),
            (DataType::Float4, Value::Float4(1.5)),
            (DataType::Float8, Value::Float8(-0.25)),
            (DataType::Text(None), Value::Text("é".into())),
            (DataType::Bytea, Value::Bytea(vec![0, 255])),
            (DataType::Uuid, Value::Uuid([7; 16])),
            (DataType::Date, Value::Date(0)),
            (DataType::Timestamp, Value::Timestamp(-1)),
            (DataType::TimestampTz, Value::TimestampTz(1)),
            (
                DataType::Interval,
                Value::Interval(Interval {
                    months: 1,
                    days: -2,
                    micros: 3,
                }),
            ),
            (DataType::Jsonb, Value::Jsonb("{\"a\": 1}".into())),
            (DataType::Vector(Some(2)), Value::Vector(vec![1.0, -2.0])),
        ];
        for (data_type, value) in values {
            let bytes = binary(&value);
            assert_eq!(decode_binary(&bytes, &data_type).expect("decodes"), value);
            // A byte more or less is no value, except where any bytes are.
            if !matches!(
                data_type,
                DataType::Text(_) | DataType::Bytea | DataType::Jsonb
            ) {
                let short = &bytes[..bytes.len() - 1];
                let failure = decode_binary(short, &data_type).expect_err("too short");
                assert_eq!(failure.code(), SqlState::InvalidBinaryRepresentation);
            }
        }
        let day = decode_binary(&0i32.to_be_bytes(), &DataType::Date).expect("a date");
        assert_eq!(day, Value::Date(EPOCH_DAYS));
    }

    #[test]
    fn bad_parameters_are_refused() {
        let code =
            |bytes: &[u8], t: DataType| decode_binary(bytes, &t).expect_err("refused").code();
        assert_eq!(
            code(b"\xff", DataType::Text(None)),
            SqlState::CharacterNotInRepertoire
        );
        assert_eq!(
            code(b"\0", DataType::Text(None)),
            SqlState::CharacterNotInRepertoire
        );
        assert_eq!(
            code(&[2], DataType::Bool),
            SqlState::InvalidBinaryRepresentation
        );
        assert_eq!(
            code(&[0, 1, 0, 0], DataType::Vector(None)),
            SqlState::InvalidBinaryRepresentation
        );
        assert_eq!(
            code(&[2, b'1'], DataType::Jsonb),
            SqlState::InvalidBinaryRepresentation
        );
        let nan = [0, 0, 0, 0, 0xC0, 0, 0, 0];
        assert_eq!(
            code(&nan, DataType::Numeric(None)),
            SqlState::FeatureNotSupported
        );
        assert_eq!(
            decode(Some(b"x"), Format::Text, &DataType::Int4)
                .expect_err("refused")
                .code(),
            SqlState::InvalidTextRepresentation
        );
        assert_eq!(
            decode(None, Format::Binary, &DataType::Int4).expect("NULL"),
            Value::Null
        );
    }

    #[test]
    fn an_encoded_row_is_written_as_its_batch_is() {
        let values = [
            (DataType::Bool, Value::Bool(false)),
            (DataType::Int2, Value::Int2(i16::MIN)),
            (DataType::Int4, Value::Int4(-1)),
            (DataType::Int8, Value::Int8(i64::MIN)),
            (DataType::Float4, Value::Float4(-0.0)),
            (DataType::Float8, Value::Float8(f64::NAN)),
            (DataType::Text(Some(9)), Value::Text("two\nlines".into())),
            (DataType::Text(None), Value::Null),
            (DataType::Bytea, Value::Bytea(vec![0, 92, 255])),
            (DataType::Uuid, Value::Uuid([9; 16])),
            (DataType::Date, Value::Date(-1)),
            (DataType::Timestamp, Value::Timestamp(1)),
            (DataType::TimestampTz, Value::TimestampTz(-1)),
            (DataType::Jsonb, Value::Jsonb("[1.50, null]".into())),
            (DataType::Vector(Some(2)), Value::Vector(vec![0.1, -0.0])),
            (DataType::Vector(None), Value::Vector(vec![1e-9])),
            (DataType::Int8, Value::Null),
        ];
        let columns: Vec<ResultColumn> = values
            .iter()
            .map(|(data_type, _)| ResultColumn {
                name: data_type.name(),
                data_type: *data_type,
                shown_as: None,
            })
            .collect();
        let types: Vec<DataType> = values.iter().map(|(data_type, _)| *data_type).collect();
        let named: Vec<_> = columns
            .iter()
            .map(|c| (c.name.clone(), c.data_type))
            .collect();
        let mut builder = arrow_map::BatchBuilder::new(&named);
        for (at, (_, value)) in values.iter().enumerate() {
            builder.push_value(at, value).expect("it is of its type");
        }
        builder.end_row();
        let batch = builder.finish().expect("a batch");
        let values: Vec<Value> = values.into_iter().map(|(_, value)| value).collect();
        let row = nodedb_types::row::encode(&values, &types).expect("a row");
        let mut scratch = String::new();
        for format in [Format::Text, Format::Binary] {
            let (mut from_row, mut from_batch) = (BytesMut::new(), BytesMut::new());
            data_row(&mut from_row, &row, &columns, &[format], &mut scratch).expect("written");
            let rows = data_rows(
                &mut from_batch,
                &batch,
                &columns,
                &[format],
                0..1,
                usize::MAX,
                &mut scratch,
            );
            assert_eq!(rows.expect("written"), 1);
            assert_eq!(from_row, from_batch);
        }
        // What is no row leaves nothing behind.
        let mut out = BytesMut::new();
        data_row(&mut out, b"no row", &columns, &[], &mut scratch).expect_err("malformed");
        let short = nodedb_types::row::encode(&[Value::Text("x".into())], &[DataType::Text(None)]);
        data_row(
            &mut out,
            &short.expect("a row"),
            &columns,
            &[],
            &mut scratch,
        )
        .expect_err("of another type");
        assert!(out.is_empty());
    }
}
