//! Key bytes: canonical and in the order of the values.
//!
//! Two values of a type have the same bytes exactly when SQL calls them equal (1.0 = 1.00,
//! -0 = 0), and comparing bytes compares values, NULLs last. No key is a prefix of another of the
//! same type, so keys may be put one behind another. Values must have the column's own type
//! first, see [`Value::coerce`]: an `int4` and an `int8` of the same number differ in bytes.
//!
//! | bytes | meaning |
//! |---|---|
//! | `01` … | a value, in its type's form below |
//! | `02` | NULL |
//!
//! | type | form |
//! |---|---|
//! | bool | one byte, 0 or 1 |
//! | int2, int4, int8, date, timestamp(tz) | big-endian with the sign bit flipped |
//! | interval | its span in microseconds (30-day months) as 16 bytes like an integer |
//! | float4, float8 | big-endian bits; the sign bit flipped for positive, all bits for negative; -0 as 0, one NaN, above infinity |
//! | numeric | `40` negative, `80` zero, `C0` positive; then exponent + 64 and pairs of digits + 1, ended by `00`; complemented for negative |
//! | text, bytea | the bytes, `00` as `00 FF`, ended by `00 01`; text thus sorts by code point |
//! | uuid | its 16 bytes |
//!
//! jsonb, vectors and places have no key form: 0A000.

mod decimal;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::datetime::{Interval, check_timestamp};
use crate::failure::{Failure, Result};
use crate::id::ShardId;
use crate::limits::KEY_BYTES_MAX;
use crate::sqlstate::SqlState;
use crate::value::{DataType, Value, one_nan_f32, one_nan_f64};

const TAG_VALUE: u8 = 0x01;
const TAG_NULL: u8 = 0x02;

/// True for types that have a key form.
pub fn is_key_type(data_type: &DataType) -> bool {
    !matches!(
        data_type,
        DataType::Jsonb | DataType::Vector(_) | DataType::Geometry(_) | DataType::Geography(_)
    )
}

/// Appends the key bytes of a value. 0A000 for a type without a key form, when nothing is
/// appended. The length is not limited here, see [`check_length`].
pub fn encode(value: &Value, out: &mut Vec<u8>) -> Result<()> {
    if let Value::Jsonb(_) | Value::Vector(_) | Value::Geometry(_) | Value::Geography(_) = value {
        let name = value.data_type_hint().map_or("unknown", |t| t.plain_name());
        return Err(Failure::unsupported(format_args!("a key of type {name}")));
    }
    out.push(if value.is_null() { TAG_NULL } else { TAG_VALUE });
    match value {
        Value::Null => {}
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::Int2(v) => out.extend((*v ^ i16::MIN).to_be_bytes()),
        Value::Int4(v) | Value::Date(v) => out.extend((*v ^ i32::MIN).to_be_bytes()),
        Value::Int8(v) | Value::Timestamp(v) | Value::TimestampTz(v) => {
            out.extend((*v ^ i64::MIN).to_be_bytes());
        }
        Value::Float4(v) => {
            let v = one_nan_f32(*v) + 0.0;
            let bits = v.to_bits();
            let flip = if bits >> 31 == 1 { u32::MAX } else { 1 << 31 };
            out.extend((bits ^ flip).to_be_bytes());
        }
        Value::Float8(v) => {
            let v = one_nan_f64(*v) + 0.0;
            let bits = v.to_bits();
            let flip = if bits >> 63 == 1 { u64::MAX } else { 1 << 63 };
            out.extend((bits ^ flip).to_be_bytes());
        }
        Value::Numeric(v) => decimal::encode(*v, out),
        Value::Text(v) => escape(v.as_bytes(), out),
        Value::Bytea(v) => escape(v, out),
        Value::Uuid(v) => out.extend(v),
        Value::Interval(v) => out.extend((v.span() ^ i128::MIN).to_be_bytes()),
        Value::Jsonb(_) | Value::Vector(_) | Value::Geometry(_) | Value::Geography(_) => {
            unreachable!("refused above")
        }
    }
    Ok(())
}

/// The key bytes of one value.
pub fn of(value: &Value) -> Result<Vec<u8>> {
    // Exact for the commonest keys, which then need no second allocation to lose their slack.
    let bytes = match value {
        Value::Int2(_) => 3,
        Value::Int4(_) | Value::Date(_) => 5,
        Value::Int8(_) | Value::Timestamp(_) | Value::TimestampTz(_) => 9,
        Value::Uuid(_) => 17,
        Value::Text(text) => text.len() + 3,
        _ => 16,
    };
    let mut out = Vec::with_capacity(bytes);
    encode(value, &mut out)?;
    Ok(out)
}

/// 54000 for a key too long to be indexed.
pub fn check_length(key: &[u8]) -> Result<()> {
    if key.len() <= KEY_BYTES_MAX {
        return Ok(());
    }
    Err(Failure::new(
        SqlState::ProgramLimitExceeded,
        format!(
            "index row size {} exceeds maximum {KEY_BYTES_MAX}",
            key.len()
        ),
    )
    .with_hint("Values larger than this cannot be keys or be indexed by btree."))
}

/// Reads one key from the start of `bytes`: the value (equal to the one encoded; numerics and
/// intervals in their normal form) and the number of bytes it took. XX001 for bytes that
/// [`encode`] did not write.
pub fn decode(bytes: &[u8], data_type: &DataType) -> Result<(Value, usize)> {
    let mut rest = Rest { bytes };
    let value = match rest.array::<1>()? {
        [TAG_NULL] => Value::Null,
        [TAG_VALUE] => rest.value(data_type)?,
        _ => return Err(malformed()),
    };
    Ok((value, bytes.len() - rest.bytes.len()))
}

fn malformed() -> Failure {
    Failure::new(SqlState::DataCorrupted, "malformed key bytes")
}

struct Rest<'a> {
    bytes: &'a [u8],
}

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.bytes.split_first_chunk().ok_or_else(malformed)?;
        self.bytes = rest;
        Ok(*array)
    }

    fn value(&mut self, data_type: &DataType) -> Result<Value> {
        Ok(match data_type {
            DataType::Bool => match self.array()? {
                [bit @ 0..=1] => Value::Bool(bit == 1),
                _ => return Err(malformed()),
            },
            DataType::Int2 => Value::Int2(i16::from_be_bytes(self.array()?) ^ i16::MIN),
            DataType::Int4 => Value::Int4(i32::from_be_bytes(self.array()?) ^ i32::MIN),
            DataType::Int8 => Value::Int8(self.int8()?),
            DataType::Float4 => {
                let bits = u32::from_be_bytes(self.array()?);
                let flip = if bits >> 31 == 1 { 1 << 31 } else { u32::MAX };
                Value::Float4(f32::from_bits(bits ^ flip))
            }
            DataType::Float8 => {
                let bits = u64::from_be_bytes(self.array()?);
                let flip = if bits >> 63 == 1 { 1 << 63 } else { u64::MAX };
                Value::Float8(f64::from_bits(bits ^ flip))
            }
            DataType::Numeric(_) => {
                let (value, used) = decimal::decode(self.bytes).ok_or_else(malformed)?;
                self.bytes = &self.bytes[used..];
                Value::Numeric(value)
            }
            DataType::Text(_) => {
                let text = String::from_utf8(self.unescape()?).map_err(|_| malformed())?;
                Value::Text(text)
            }
            DataType::Bytea => Value::Bytea(self.unescape()?),
            DataType::Uuid => Value::Uuid(self.array()?),
            DataType::Date => Value::Date(i32::from_be_bytes(self.array()?) ^ i32::MIN),
            DataType::Timestamp => Value::Timestamp(self.timestamp()?),
            DataType::TimestampTz => Value::TimestampTz(self.timestamp()?),
            DataType::Interval => {
                let span = i128::from_be_bytes(self.array()?) ^ i128::MIN;
                Value::Interval(Interval::of_span(span).ok_or_else(malformed)?)
            }
            DataType::Jsonb
            | DataType::Vector(_)
            | DataType::Geometry(_)
            | DataType::Geography(_) => {
                let name = data_type.plain_name();
                return Err(Failure::unsupported(format_args!("a key of type {name}")));
            }
        })
    }

    fn int8(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?) ^ i64::MIN)
    }

    fn timestamp(&mut self) -> Result<i64> {
        check_timestamp(self.int8()?).map_err(|_| malformed())
    }

    fn unescape(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        loop {
            let zero = self
                .bytes
                .iter()
                .position(|b| *b == 0)
                .ok_or_else(malformed)?;
            out.extend(&self.bytes[..zero]);
            let mark = *self.bytes.get(zero + 1).ok_or_else(malformed)?;
            self.bytes = &self.bytes[zero + 2..];
            match mark {
                0x01 => return Ok(out),
                0xff => out.push(0),
                _ => return Err(malformed()),
            }
        }
    }
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 2);
    for piece in bytes.split_inclusive(|b| *b == 0) {
        out.extend(piece);
        if piece.ends_with(&[0]) {
            out.push(0xff);
        }
    }
    out.extend([0x00, 0x01]);
}

/// The shard that owns a key: the top bits of its hash. `seed` belongs to the data directory;
/// `shards` is a power of two.
pub fn shard_of(key: &[u8], seed: u64, shards: u16) -> ShardId {
    debug_assert!(shards.is_power_of_two());
    let hash = xxh3_64_with_seed(key, seed);
    // In two steps, since a shift by 64 bits (one shard) is not defined.
    ShardId((hash >> 32 >> (32 - shards.trailing_zeros())) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::Numeric;
    use proptest::prelude::*;
    use std::cmp::Ordering;

    fn key(value: &Value) -> Vec<u8> {
        of(value).unwrap()
    }

    fn numeric(text: &str) -> Value {
        Value::Numeric(Numeric::parse(text).unwrap())
    }

    #[test]
    fn equal_values_have_equal_bytes() {
        assert_eq!(key(&numeric("1.0")), key(&numeric("1.00")));
        assert_eq!(key(&numeric("-0.00")), key(&numeric("0")));
        assert_eq!(key(&Value::Float8(-0.0)), key(&Value::Float8(0.0)));
        assert_eq!(
            key(&Value::Float8(-f64::NAN)),
            key(&Value::Float8(f64::NAN))
        );
        let (month, days) = (
            Interval {
                months: 1,
                days: 0,
                micros: 0,
            },
            Interval {
                months: 0,
                days: 30,
                micros: 0,
            },
        );
        assert_eq!(key(&Value::Interval(month)), key(&Value::Interval(days)));
    }

    #[test]
    fn nulls_and_nans_are_last() {
        assert!(key(&Value::Int8(i64::MAX)) < key(&Value::Null));
        assert!(key(&Value::Text("\u{10ffff}".into())) < key(&Value::Null));
        assert!(key(&Value::Float8(f64::INFINITY)) < key(&Value::Float8(f64::NAN)));
        assert!(key(&Value::Float4(f32::NAN)) < key(&Value::Null));
    }

    #[test]
    fn types_without_key_form_are_refused() {
        let mut out = Vec::new();
        let failure = encode(&Value::Jsonb("1".into()), &mut out).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "a key of type jsonb is not supported (0A000)"
        );
        assert!(out.is_empty());
        assert_eq!(
            check_length(&[0; KEY_BYTES_MAX + 1])
                .unwrap_err()
                .code()
                .code(),
            "54000"
        );
    }

    #[test]
    fn shards_share_keys_evenly() {
        assert_eq!(shard_of(b"x", 7, 1), ShardId(0));
        let mut counts = [0u32; 16];
        for id in 0..16_000 {
            counts[usize::from(shard_of(&key(&Value::Int8(id)), 7, 16).0)] += 1;
        }
        assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
        // Twice the shards split each shard in two.
        for id in 0..100 {
            let bytes = key(&Value::Int8(id));
            assert_eq!(shard_of(&bytes, 7, 8).0, shard_of(&bytes, 7, 16).0 / 2);
        }
    }

    fn any_numeric() -> impl Strategy<Value = Numeric> {
        let bound = 10i128.pow(38) - 1;
        (
            prop_oneof![-bound..=bound, -1000i128..1000, Just(0)],
            0u8..=38,
        )
            .prop_map(|(unscaled, scale)| Numeric::new(unscaled, scale).unwrap())
    }

    /// Pairs of one type.
    fn pair() -> impl Strategy<Value = (DataType, Value, Value)> {
        fn two<T: std::fmt::Debug + Clone + 'static>(
            data_type: DataType,
            strategy: impl Strategy<Value = T> + Clone + 'static,
            make: fn(T) -> Value,
        ) -> BoxedStrategy<(DataType, Value, Value)> {
            (strategy.clone(), strategy)
                .prop_map(move |(a, b)| (data_type, make(a), make(b)))
                .boxed()
        }
        let bytes = proptest::collection::vec(
            prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()],
            0..6,
        );
        let text = "[\\x00-\\x02a-bü😀]{0,5}".boxed();
        prop_oneof![
            two(DataType::Int2, any::<i16>(), Value::Int2),
            two(DataType::Int8, any::<i64>(), Value::Int8),
            two(DataType::Date, any::<i32>(), Value::Date),
            two(DataType::Float8, any::<f64>(), Value::Float8),
            two(DataType::Float4, any::<f32>(), Value::Float4),
            (any_numeric(), any_numeric()).prop_map(|(a, b)| {
                (
                    DataType::Numeric(None),
                    Value::Numeric(a),
                    Value::Numeric(b),
                )
            }),
            two(DataType::Bytea, bytes, Value::Bytea),
            (text.clone(), text)
                .prop_map(|(a, b)| { (DataType::Text(None), Value::Text(a), Value::Text(b)) }),
            (any::<(i32, i32, i64)>(), any::<(i32, i32, i64)>()).prop_map(|(a, b)| {
                let make = |(months, days, micros)| {
                    Value::Interval(Interval {
                        months,
                        days,
                        micros,
                    })
                };
                (DataType::Interval, make(a), make(b))
            }),
        ]
    }

    fn compare(a: &Value, b: &Value) -> Ordering {
        match (a, b) {
            (Value::Int2(a), Value::Int2(b)) => a.cmp(b),
            (Value::Int8(a), Value::Int8(b)) => a.cmp(b),
            (Value::Date(a), Value::Date(b)) => a.cmp(b),
            (Value::Float4(a), Value::Float4(b)) => a
                .partial_cmp(b)
                .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
            (Value::Float8(a), Value::Float8(b)) => a
                .partial_cmp(b)
                .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
            (Value::Numeric(a), Value::Numeric(b)) => a.cmp(b),
            (Value::Bytea(a), Value::Bytea(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => a.chars().cmp(b.chars()),
            (Value::Interval(a), Value::Interval(b)) => a.cmp(b),
            _ => unreachable!("pairs have one type"),
        }
    }

    proptest! {
        #[test]
        fn bytes_sort_as_values((data_type, a, b) in pair()) {
            prop_assert_eq!(key(&a).cmp(&key(&b)), compare(&a, &b));
            // Whatever follows, the first key decides.
            let (mut first, mut second) = (key(&a), key(&b));
            encode(&b, &mut first).unwrap();
            encode(&a, &mut second).unwrap();
            let expected = compare(&a, &b).then(compare(&b, &a));
            prop_assert_eq!(first.cmp(&second), expected);
            let (back, used) = decode(&first, &data_type).unwrap();
            prop_assert_eq!(compare(&back, &a), Ordering::Equal);
            prop_assert_eq!(used, key(&a).len());
            prop_assert_eq!(key(&back), key(&a));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            for data_type in crate::value::ALL_TYPES {
                if let Ok((value, used)) = decode(&bytes, &data_type) {
                    prop_assert!(used <= bytes.len());
                    prop_assert!(encode(&value, &mut Vec::new()).is_ok());
                }
            }
        }
    }
}
