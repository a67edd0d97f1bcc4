//! Fields of a payload: numbers little-endian, texts and lists with their length before them.
//!
//! A reader never allocates by a declared length: it takes what is there, or fails with 08P01.

use super::violation;
use crate::breath;
use crate::datetime::Interval;
use crate::failure::Object;
use crate::numeric::Numeric;
use crate::{Failure, Result, SqlState, Value};

/// Appends fields.
#[derive(Default)]
pub struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    pub fn bool(&mut self, v: bool) {
        self.0.push(u8::from(v));
    }

    pub fn u16(&mut self, v: u16) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub fn bytes(&mut self, v: &[u8]) {
        self.u32(v.len() as u32);
        self.0.extend_from_slice(v);
    }

    pub fn text(&mut self, v: &str) {
        self.bytes(v.as_bytes());
    }

    pub fn option<T>(&mut self, v: Option<T>, write: impl FnOnce(&mut Writer, T)) {
        self.bool(v.is_some());
        if let Some(v) = v {
            write(self, v);
        }
    }

    pub fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Writer, &T)) {
        self.u32(items.len() as u32);
        for (at, item) in items.iter().enumerate() {
            if at.is_multiple_of(breath::ITEMS) {
                breath::breathe();
            }
            write(self, item);
        }
    }

    /// A tag and the value's bytes; see the table in `docs/format/native.md`.
    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.u8(0),
            Value::Bool(v) => self.tagged(1, &[u8::from(*v)]),
            Value::Int2(v) => self.tagged(2, &v.to_le_bytes()),
            Value::Int4(v) => self.tagged(3, &v.to_le_bytes()),
            Value::Int8(v) => self.tagged(4, &v.to_le_bytes()),
            Value::Float4(v) => self.tagged(5, &v.to_le_bytes()),
            Value::Float8(v) => self.tagged(6, &v.to_le_bytes()),
            Value::Numeric(v) => {
                self.tagged(7, &v.unscaled().to_le_bytes());
                self.u8(v.scale());
            }
            Value::Text(v) => self.tagged_bytes(8, v.as_bytes()),
            Value::Bytea(v) => self.tagged_bytes(9, v),
            Value::Uuid(v) => self.tagged(10, v),
            Value::Date(v) => self.tagged(11, &v.to_le_bytes()),
            Value::Timestamp(v) => self.tagged(12, &v.to_le_bytes()),
            Value::TimestampTz(v) => self.tagged(13, &v.to_le_bytes()),
            Value::Interval(v) => {
                self.tagged(14, &v.months.to_le_bytes());
                self.0.extend_from_slice(&v.days.to_le_bytes());
                self.0.extend_from_slice(&v.micros.to_le_bytes());
            }
            Value::Jsonb(v) => self.tagged_bytes(15, v.as_bytes()),
            Value::Vector(v) => {
                self.u8(16);
                self.u32(v.len() as u32 * 4);
                let from = self.0.len();
                self.0.resize(from + v.len() * 4, 0);
                let (cells, _) = self.0[from..].as_chunks_mut::<4>();
                cells
                    .iter_mut()
                    .zip(v)
                    .for_each(|(c, x)| *c = x.to_le_bytes());
            }
            Value::Geometry(v) => self.tagged_bytes(17, v),
            Value::Geography(v) => self.tagged_bytes(18, v),
        }
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.u8(tag);
        self.0.extend_from_slice(bytes);
    }

    fn tagged_bytes(&mut self, tag: u8, bytes: &[u8]) {
        self.u8(tag);
        self.bytes(bytes);
    }

    pub fn failure(&mut self, failure: &Failure) {
        self.text(failure.code().code());
        self.text(failure.message());
        self.option(failure.detail(), Writer::text);
        self.option(failure.hint(), Writer::text);
        self.option(failure.position(), Writer::u32);
        self.bool(failure.retry());
        let object = failure.object();
        for part in [&object.table, &object.column, &object.constraint] {
            self.option(part.as_deref(), Writer::text);
        }
    }
}

/// Takes fields from a payload.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(payload: &'a [u8]) -> Reader<'a> {
        Reader(payload)
    }

    /// Fails unless every byte was taken.
    pub fn finish(self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(violation("bytes are left over in a message"))
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.0.len() {
            return Err(violation("a message ends too early"));
        }
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?
            .try_into()
            .map_err(|_| violation("a message ends too early"))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(violation("neither true nor false")),
        }
    }

    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub fn text(&mut self) -> Result<String> {
        let bytes = self.bytes()?;
        let text = std::str::from_utf8(bytes).map_err(|_| {
            Failure::new(
                SqlState::CharacterNotInRepertoire,
                "a text is not valid UTF-8",
            )
        })?;
        Ok(text.to_owned())
    }

    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.bool()? {
            read(self).map(Some)
        } else {
            Ok(None)
        }
    }

    pub fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let length = self.u32()?;
        // Every item takes a byte at least, so a lying length ends the loop soon.
        let mut items = Vec::new();
        for at in 0..length {
            if (at as usize).is_multiple_of(breath::ITEMS) {
                breath::breathe();
            }
            if self.0.is_empty() {
                return Err(violation("a message ends too early"));
            }
            items.push(read(self)?);
        }
        Ok(items)
    }

    pub fn value(&mut self) -> Result<Value> {
        Ok(match self.u8()? {
            0 => Value::Null,
            1 => Value::Bool(self.bool()?),
            2 => Value::Int2(i16::from_le_bytes(self.array()?)),
            3 => Value::Int4(i32::from_le_bytes(self.array()?)),
            4 => Value::Int8(i64::from_le_bytes(self.array()?)),
            5 => Value::Float4(f32::from_le_bytes(self.array()?)),
            6 => Value::Float8(f64::from_le_bytes(self.array()?)),
            7 => {
                let unscaled = i128::from_le_bytes(self.array()?);
                Value::Numeric(Numeric::new(unscaled, self.u8()?)?)
            }
            8 => Value::Text(self.text()?),
            9 => Value::Bytea(self.bytes()?.to_vec()),
            10 => Value::Uuid(self.array()?),
            11 => Value::Date(i32::from_le_bytes(self.array()?)),
            12 => Value::Timestamp(i64::from_le_bytes(self.array()?)),
            13 => Value::TimestampTz(i64::from_le_bytes(self.array()?)),
            14 => Value::Interval(Interval {
                months: i32::from_le_bytes(self.array()?),
                days: i32::from_le_bytes(self.array()?),
                micros: i64::from_le_bytes(self.array()?),
            }),
            15 => Value::Jsonb(crate::json::canonical(&self.text()?)?),
            16 => {
                let bytes = self.bytes()?;
                let (chunks, rest) = bytes.as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(violation("a vector's bytes are not a multiple of four"));
                }
                let vector: Vec<f32> = chunks.iter().map(|c| f32::from_le_bytes(*c)).collect();
                crate::vector::check_length(vector.len())?;
                crate::vector::check_elements(&vector)?;
                Value::Vector(vector)
            }
            17 => Value::Geometry(self.ewkb()?),
            18 => Value::Geography(self.ewkb()?),
            _ => return Err(violation("a value of unknown type")),
        })
    }

    fn ewkb(&mut self) -> Result<Vec<u8>> {
        Ok(crate::geo::Geometry::from_ewkb(self.bytes()?)?.to_ewkb())
    }

    pub fn failure(&mut self) -> Result<Failure> {
        let code = SqlState::from_code(&self.text()?).unwrap_or(SqlState::Internal);
        let mut failure = Failure::new(code, self.text()?);
        if let Some(detail) = self.option(Reader::text)? {
            failure = failure.with_detail(detail);
        }
        if let Some(hint) = self.option(Reader::text)? {
            failure = failure.with_hint(hint);
        }
        if let Some(position) = self.option(Reader::u32)? {
            failure = failure.at(position);
        }
        if self.bool()? {
            failure = failure.retryable();
        }
        let (table, column) = (self.option(Reader::text)?, self.option(Reader::text)?);
        let constraint = self.option(Reader::text)?;
        Ok(failure.with_object(Object {
            table,
            column,
            constraint,
        }))
    }
}
