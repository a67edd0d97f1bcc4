//! The stored row: one version of a row's columns as bytes.
//!
//! [`encode`] writes it, [`RowView`] reads single columns without copying or touching the others.
//! Columns are found by position; positions beyond the stored count read as NULL, so a column
//! added later needs no rewrite. The checksum is that of the frame or page around the row.
//!
//! All integers are little-endian.
//!
//! | offset | bytes | meaning |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | width of an end offset: 2 or 4 bytes |
//! | 2 | 2 | n, the number of columns |
//! | 4 | ⌈n/8⌉ | NULL bits, column i at bit i mod 8 of byte i / 8; unused bits are 0 |
//! | … | n × width | end of each column's bytes, counted from the start of the data |
//! | … | … | the columns' bytes, one behind another; none for NULL |
//!
//! | type | bytes |
//! |---|---|
//! | bool | 1: 0 or 1 |
//! | int2, int4, int8, float4, float8 | 2, 4 or 8; a NaN is the positive quiet one, rows written before that was so may hold others |
//! | numeric | scale (1), then the unscaled value in as few bytes of two's complement as hold it |
//! | text, jsonb | UTF-8 |
//! | bytea, geometry, geography | as they are (EWKB) |
//! | uuid | 16 |
//! | date | 4: days; timestamps 8: microseconds |
//! | interval | 16: months (4), days (4), microseconds (8) |
//! | vector | 4 per element |

mod value_ref;

use crate::failure::{Failure, Result};
use crate::limits::{COLUMNS_MAX, ROW_BYTES_MAX};
use crate::simd::distance::bytes_of;
use crate::sqlstate::SqlState;
use crate::value::{DataType, Value, one_nan_f32, one_nan_f64};

pub use value_ref::{ValueRef, VectorRef};

const VERSION: u8 = 1;
const HEADER: usize = 4;
const NARROW: usize = 2;
const WIDE: usize = 4;

const _: () = assert!(ROW_BYTES_MAX < u32::MAX as usize && COLUMNS_MAX < u16::MAX as usize);

/// Encodes a row whose values have their columns' types already (see [`Value::coerce`]).
///
/// Errors: 54000 above [`ROW_BYTES_MAX`], 54011 above [`COLUMNS_MAX`], XX000 for a value of
/// another type than its column.
pub fn encode(values: &[Value], types: &[DataType]) -> Result<Vec<u8>> {
    if values.len() != types.len() {
        let message = format!(
            "a row of {} values for {} columns",
            values.len(),
            types.len()
        );
        return Err(Failure::internal(message));
    }
    if values.len() > COLUMNS_MAX {
        return Err(Failure::new(
            SqlState::TooManyColumns,
            format!("a row can have at most {COLUMNS_MAX} columns"),
        ));
    }
    let data: usize = values.iter().map(length_bound).sum();
    let width = width_for(data);
    let ends_at = HEADER + values.len().div_ceil(8);
    let data_at = ends_at + values.len() * width;
    if data > ROW_BYTES_MAX {
        return Err(too_big(data_at + data));
    }
    let mut row = Vec::with_capacity(data_at + data);
    row.extend([VERSION, width as u8]);
    row.extend((values.len() as u16).to_le_bytes());
    row.resize(data_at, 0);
    for (at, (value, data_type)) in values.iter().zip(types).enumerate() {
        if value.is_null() {
            row[HEADER + at / 8] |= 1 << (at % 8);
        } else {
            append(value, data_type, &mut row)?;
        }
        let end = (row.len() - data_at) as u32;
        row[ends_at + at * width..][..width].copy_from_slice(&end.to_le_bytes()[..width]);
    }
    if row.len() > ROW_BYTES_MAX {
        return Err(too_big(row.len()));
    }
    Ok(row)
}

/// A row of some columns of an encoded row, in the order given; a column may come twice. Their
/// bytes are copied as they are, so no types are needed.
///
/// Errors: XX001 when the row is malformed, 54000 above [`ROW_BYTES_MAX`].
pub fn project(row: &[u8], columns: &[usize]) -> Result<Box<[u8]>> {
    let view = RowView::new(row)?;
    let mut data = 0;
    for &column in columns {
        data += view.column_bytes(column)?.map_or(0, <[u8]>::len);
    }
    let width = width_for(data);
    let ends_at = HEADER + columns.len().div_ceil(8);
    let data_at = ends_at + columns.len() * width;
    if data_at + data > ROW_BYTES_MAX {
        return Err(too_big(data_at + data));
    }
    let mut projected = Vec::with_capacity(data_at + data);
    projected.extend([VERSION, width as u8]);
    projected.extend((columns.len() as u16).to_le_bytes());
    projected.resize(data_at, 0);
    for (at, &column) in columns.iter().enumerate() {
        match view.column_bytes(column)? {
            Some(bytes) => projected.extend_from_slice(bytes),
            None => projected[HEADER + at / 8] |= 1 << (at % 8),
        }
        let end = (projected.len() - data_at) as u32;
        projected[ends_at + at * width..][..width].copy_from_slice(&end.to_le_bytes()[..width]);
    }
    Ok(projected.into_boxed_slice())
}

/// The width of an end offset for so many bytes of data.
fn width_for(data: usize) -> usize {
    match data <= usize::from(u16::MAX) {
        true => NARROW,
        false => WIDE,
    }
}

fn too_big(bytes: usize) -> Failure {
    Failure::new(
        SqlState::ProgramLimitExceeded,
        format!("row is too big: size {bytes}, maximum size {ROW_BYTES_MAX}"),
    )
}

/// At least the bytes that the value takes.
fn length_bound(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Int2(_) => 2,
        Value::Int4(_) | Value::Float4(_) | Value::Date(_) => 4,
        Value::Int8(_) | Value::Float8(_) | Value::Timestamp(_) | Value::TimestampTz(_) => 8,
        Value::Uuid(_) | Value::Interval(_) => 16,
        Value::Numeric(_) => 17,
        Value::Text(text) | Value::Jsonb(text) => text.len(),
        Value::Bytea(bytes) | Value::Geometry(bytes) | Value::Geography(bytes) => bytes.len(),
        Value::Vector(elements) => elements.len() * 4,
    }
}

fn append(value: &Value, data_type: &DataType, row: &mut Vec<u8>) -> Result<()> {
    match (value, data_type) {
        (Value::Bool(v), DataType::Bool) => row.push(u8::from(*v)),
        (Value::Int2(v), DataType::Int2) => row.extend(v.to_le_bytes()),
        (Value::Int4(v), DataType::Int4) | (Value::Date(v), DataType::Date) => {
            row.extend(v.to_le_bytes());
        }
        (Value::Int8(v), DataType::Int8)
        | (Value::Timestamp(v), DataType::Timestamp)
        | (Value::TimestampTz(v), DataType::TimestampTz) => row.extend(v.to_le_bytes()),
        (Value::Float4(v), DataType::Float4) => row.extend(one_nan_f32(*v).to_le_bytes()),
        (Value::Float8(v), DataType::Float8) => row.extend(one_nan_f64(*v).to_le_bytes()),
        (Value::Numeric(v), DataType::Numeric(_)) => {
            row.push(v.scale);
            let bytes = v.unscaled.to_le_bytes();
            row.extend(&bytes[..significant(v.unscaled)]);
        }
        (Value::Text(v), DataType::Text(_)) | (Value::Jsonb(v), DataType::Jsonb) => {
            row.extend(v.as_bytes());
        }
        (Value::Bytea(v), DataType::Bytea)
        | (Value::Geometry(v), DataType::Geometry(_))
        | (Value::Geography(v), DataType::Geography(_)) => row.extend(v),
        (Value::Uuid(v), DataType::Uuid) => row.extend(v),
        (Value::Interval(v), DataType::Interval) => {
            row.extend(v.months.to_le_bytes());
            row.extend(v.days.to_le_bytes());
            row.extend(v.micros.to_le_bytes());
        }
        (Value::Vector(v), DataType::Vector(_)) => row.extend(bytes_of(v)),
        (other, _) => {
            let found = other.data_type_hint().map_or("unknown", |t| t.plain_name());
            let message = format!(
                "a value of type {found} in a column of type {}",
                data_type.name()
            );
            return Err(Failure::internal(message));
        }
    }
    Ok(())
}

/// Bytes of two's complement that hold a value: none for 0.
fn significant(value: i128) -> usize {
    let magnitude_bits = 128 - (value ^ (value >> 127)).leading_zeros() as usize;
    if value == 0 {
        0
    } else {
        magnitude_bits / 8 + 1
    }
}

/// An encoded row, read in place.
#[derive(Clone, Copy, Debug)]
pub struct RowView<'a> {
    nulls: &'a [u8],
    /// End offsets, `width` bytes each.
    ends: &'a [u8],
    width: usize,
    data: &'a [u8],
}

fn malformed(what: &str) -> Failure {
    Failure::new(SqlState::DataCorrupted, format!("malformed row: {what}"))
}

impl<'a> RowView<'a> {
    /// Checks the header and that the data are as long as it says; XX001 otherwise. Single
    /// columns are checked when they are read.
    pub fn new(row: &'a [u8]) -> Result<RowView<'a>> {
        let Some(([version, width, low, high], rest)) = row.split_first_chunk::<HEADER>() else {
            return Err(malformed("no header"));
        };
        if *version != VERSION {
            return Err(malformed("unknown version"));
        }
        let width = usize::from(*width);
        if width != NARROW && width != WIDE {
            return Err(malformed("unknown offset width"));
        }
        let columns = usize::from(u16::from_le_bytes([*low, *high]));
        let nulls_len = columns.div_ceil(8);
        let ends_len = columns * width;
        if rest.len() < nulls_len + ends_len {
            return Err(malformed("cut short"));
        }
        let (nulls, rest) = rest.split_at(nulls_len);
        let (ends, data) = rest.split_at(ends_len);
        let view = RowView {
            nulls,
            ends,
            width,
            data,
        };
        let end = columns.checked_sub(1).map_or(0, |last| view.end(last));
        if end != data.len() {
            return Err(malformed("another length than its columns"));
        }
        Ok(view)
    }

    /// Columns stored; later ones are NULL.
    pub fn columns(&self) -> usize {
        self.ends.len() / self.width
    }

    pub fn is_null(&self, column: usize) -> bool {
        column >= self.columns() || self.nulls[column / 8] >> (column % 8) & 1 == 1
    }

    fn end(&self, column: usize) -> usize {
        let bytes = &self.ends[column * self.width..][..self.width];
        let mut wide = [0; WIDE];
        wide[..self.width].copy_from_slice(bytes);
        u32::from_le_bytes(wide) as usize
    }

    /// The bytes of one column as the table above has them; None for NULL. XX001 when its
    /// offsets are out of bounds.
    pub fn column_bytes(&self, column: usize) -> Result<Option<&'a [u8]>> {
        if self.is_null(column) {
            return Ok(None);
        }
        let start = column.checked_sub(1).map_or(0, |before| self.end(before));
        let bytes = self.data.get(start..self.end(column));
        bytes
            .map(Some)
            .ok_or_else(|| malformed("column out of bounds"))
    }

    /// One column, which the schema says is of `data_type`. XX001 when its bytes are no such
    /// value.
    pub fn column(&self, column: usize, data_type: &DataType) -> Result<ValueRef<'a>> {
        match self.column_bytes(column)? {
            Some(bytes) => ValueRef::read(bytes, data_type),
            None => Ok(ValueRef::Null),
        }
    }

    /// All columns of a schema as values of their own.
    pub fn to_values(&self, types: &[DataType]) -> Result<Vec<Value>> {
        let column = |(at, data_type)| Ok(self.column(at, data_type)?.to_owned());
        types.iter().enumerate().map(column).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::datetime::Interval;
    use crate::numeric::Numeric;
    use crate::value::ALL_TYPES;
    use proptest::prelude::*;

    pub(crate) fn any_value(data_type: DataType) -> BoxedStrategy<Value> {
        let full = match data_type {
            DataType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
            DataType::Int2 => any::<i16>().prop_map(Value::Int2).boxed(),
            DataType::Int4 => any::<i32>().prop_map(Value::Int4).boxed(),
            DataType::Int8 => any::<i64>().prop_map(Value::Int8).boxed(),
            DataType::Float4 => any::<f32>().prop_map(Value::Float4).boxed(),
            DataType::Float8 => any::<f64>().prop_map(Value::Float8).boxed(),
            DataType::Numeric(_) => (any::<i128>(), 0u32..=38, 0u8..=38)
                .prop_map(|(v, digits, scale)| {
                    Value::Numeric(Numeric::new(v % 10i128.pow(digits), scale).unwrap())
                })
                .boxed(),
            DataType::Text(_) => ".{0,9}".prop_map(Value::Text).boxed(),
            DataType::Jsonb => "[0-9]{1,9}".prop_map(Value::Jsonb).boxed(),
            DataType::Bytea => any::<Vec<u8>>().prop_map(Value::Bytea).boxed(),
            DataType::Uuid => any::<[u8; 16]>().prop_map(Value::Uuid).boxed(),
            DataType::Date => any::<i32>().prop_map(Value::Date).boxed(),
            DataType::Timestamp => any::<i64>().prop_map(Value::Timestamp).boxed(),
            DataType::TimestampTz => any::<i64>().prop_map(Value::TimestampTz).boxed(),
            DataType::Interval => any::<(i32, i32, i64)>()
                .prop_map(|(months, days, micros)| {
                    Value::Interval(Interval {
                        months,
                        days,
                        micros,
                    })
                })
                .boxed(),
            DataType::Vector(_) => proptest::collection::vec(any::<f32>(), 1..20)
                .prop_map(Value::Vector)
                .boxed(),
            DataType::Geometry(_) => any::<Vec<u8>>().prop_map(Value::Geometry).boxed(),
            DataType::Geography(_) => any::<Vec<u8>>().prop_map(Value::Geography).boxed(),
        };
        prop_oneof![1 => Just(Value::Null), 4 => full].boxed()
    }

    fn any_row() -> impl Strategy<Value = Vec<(DataType, Value)>> {
        let cell = proptest::sample::select(ALL_TYPES.to_vec())
            .prop_flat_map(|data_type| any_value(data_type).prop_map(move |v| (data_type, v)));
        proptest::collection::vec(cell, 0..20)
    }

    /// Bits rather than values, since NaN differs from itself and 1.0 equals 1.00.
    fn same(a: &Value, b: &Value) -> bool {
        format!("{a:?}") == format!("{b:?}")
    }

    proptest! {
        #[test]
        fn rows_come_back(cells in any_row()) {
            let (types, values): (Vec<_>, Vec<_>) = cells.into_iter().unzip();
            let row = encode(&values, &types).unwrap();
            let view = RowView::new(&row).unwrap();
            prop_assert_eq!(view.columns(), values.len());
            // Backwards and with one column more than there are, which is NULL.
            let order: Vec<usize> = (0..=types.len()).rev().collect();
            let projected = project(&row, &order).unwrap();
            let backwards = RowView::new(&projected).unwrap();
            prop_assert_eq!(backwards.columns(), order.len());
            prop_assert!(backwards.is_null(0));
            for (at, data_type) in types.iter().enumerate().rev() {
                let moved = backwards.column(types.len() - at, data_type).unwrap().to_owned();
                prop_assert!(same(&moved, &values[at]));
                prop_assert!(same(&view.column(at, data_type).unwrap().to_owned(), &values[at]));
            }
            prop_assert_eq!(view.column(values.len(), &DataType::Text(None)).unwrap(), ValueRef::Null);
        }

        #[test]
        fn damaged_rows_never_panic(
            cells in any_row(),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let (types, values): (Vec<_>, Vec<_>) = cells.into_iter().unzip();
            let mut row = encode(&values, &types).unwrap();
            for (at, byte) in damage {
                let at = at.index(row.len());
                row[at] = byte;
            }
            for row in [&row[..], &row[..cut.index(row.len())]] {
                let Ok(view) = RowView::new(row) else { continue };
                for at in 0..view.columns().min(100) {
                    for data_type in ALL_TYPES {
                        if let Err(failure) = view.column(at, &data_type) {
                            prop_assert_eq!(failure.code(), SqlState::DataCorrupted);
                        }
                    }
                }
            }
        }

        #[test]
        fn random_bytes_never_panic(row in proptest::collection::vec(0u8..8, 0..60)) {
            if let Ok(view) = RowView::new(&row) {
                for at in 0..view.columns() {
                    for data_type in ALL_TYPES {
                        let _ = view.column(at, &data_type);
                    }
                }
            }
        }
    }

    #[test]
    fn big_rows_have_wide_offsets_and_a_limit() {
        let types = [DataType::Text(None), DataType::Int4];
        let row = |bytes: usize| [Value::Text("x".repeat(bytes)), Value::Int4(7)];
        for bytes in [65_530, 65_531, 65_532, 65_536, 400_000] {
            let encoded = encode(&row(bytes), &types).unwrap();
            let view = RowView::new(&encoded).unwrap();
            assert_eq!(view.column(1, &types[1]).unwrap(), ValueRef::Int4(7));
            assert!(
                matches!(view.column(0, &types[0]).unwrap(), ValueRef::Text(t) if t.len() == bytes)
            );
        }
        let overhead = HEADER + 1 + 2 * WIDE + 4;
        assert_eq!(
            encode(&row(ROW_BYTES_MAX - overhead), &types)
                .unwrap()
                .len(),
            ROW_BYTES_MAX
        );
        let failure = encode(&row(ROW_BYTES_MAX - overhead + 1), &types).unwrap_err();
        assert_eq!(failure.code().code(), "54000");
    }

    #[test]
    fn values_must_have_their_columns_type() {
        let failure = encode(&[Value::Int4(1)], &[DataType::Int8]).unwrap_err();
        assert_eq!(failure.code().code(), "XX000");
        assert_eq!(
            encode(&[], &[DataType::Int8]).unwrap_err().code().code(),
            "XX000"
        );
        let many = vec![Value::Null; COLUMNS_MAX + 1];
        let types = vec![DataType::Bool; COLUMNS_MAX + 1];
        assert_eq!(encode(&many, &types).unwrap_err().code().code(), "54011");
    }

    #[test]
    fn small_numerics_take_few_bytes() {
        for (value, bytes) in [
            (0, 0),
            (1, 1),
            (-1, 1),
            (127, 1),
            (128, 2),
            (-128, 1),
            (-129, 2),
            (i128::MAX, 16),
            (i128::MIN, 16),
        ] {
            assert_eq!(significant(value), bytes, "{value}");
        }
    }
}
