//! Reading and writing the little-endian fields of record payloads.
//!
//! A record's frame was checked by its checksum before, so a field that does not fit means that the
//! writer and the reader disagree: corruption (XX001), never a panic, never an allocation by a
//! length that was only claimed.

use nodedb_types::{Failure, Result, SqlState, Surrogate};

/// The fields of a payload that are still to be read.
pub struct Fields<'a>(&'a [u8]);

/// What a payload that cannot be read is reported as.
pub fn malformed(what: &str) -> Failure {
    Failure::new(
        SqlState::DataCorrupted,
        format!("a record of the log is malformed: {what}"),
    )
}

impl<'a> Fields<'a> {
    pub fn new(payload: &'a [u8]) -> Fields<'a> {
        Fields(payload)
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self
            .0
            .split_at_checked(len)
            .ok_or_else(|| malformed("it is too short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self
            .bytes(N)?
            .try_into()
            .expect("as many bytes as asked for"))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn surrogate(&mut self) -> Result<Surrogate> {
        Surrogate::new(self.u32()?).ok_or_else(|| malformed("it names row 0"))
    }

    /// A string with its length in two bytes.
    pub fn text(&mut self) -> Result<String> {
        let len = usize::from(self.u16()?);
        let bytes = self.bytes(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("a name is not UTF-8"))?;
        Ok(text.to_owned())
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<()> {
        match self.0 {
            [] => Ok(()),
            _ => Err(malformed("it is too long")),
        }
    }
}

/// Writes a string with its length in two bytes.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("names and options are short");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
