//! One document as bytes: which tokens it has and where.
//!
//! Tokens are named by the ids of the dictionary they stand in. All integers are little-endian.
//!
//! | offset | bytes | meaning |
//! |---|---|---|
//! | 0 | 4 | n, the number of distinct tokens; bit 31: ends are 4 bytes wide and not 2 |
//! | 4 | 4 | the document's length, tokens |
//! | 8 | n × 4 | token ids, ascending |
//! | … | n × 2 or 4 | end of each token's positions, counted from the start of the positions |
//! | … | … | positions: per token ascending differences, 7 bits a byte, low bits first |
//!
//! The last byte of each difference has bit 7 clear, so a token's frequency is the number of such
//! bytes.

const HEADER: usize = 8;
const WIDE: u32 = 1 << 31;

/// An encoded document, read in place.
#[derive(Clone, Copy)]
pub(super) struct Document<'a> {
    length: u32,
    ids: &'a [[u8; 4]],
    ends: Ends<'a>,
    positions: &'a [u8],
}

#[derive(Clone, Copy)]
enum Ends<'a> {
    Narrow(&'a [[u8; 2]]),
    Wide(&'a [[u8; 4]]),
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes[at..at + 4].try_into().expect("four bytes");
    u32::from_le_bytes(bytes)
}

impl<'a> Document<'a> {
    /// Reads what [`Encoder`] wrote; panics for other bytes.
    pub(super) fn new(bytes: &'a [u8]) -> Document<'a> {
        let (count, length) = (word(bytes, 0), word(bytes, 4));
        let n = (count & !WIDE) as usize;
        let (ids, rest) = bytes[HEADER..].split_at(n * 4);
        let (ends, positions) = match count & WIDE == 0 {
            true => {
                let (ends, rest) = rest.split_at(n * 2);
                (Ends::Narrow(ends.as_chunks().0), rest)
            }
            false => {
                let (ends, rest) = rest.split_at(n * 4);
                (Ends::Wide(ends.as_chunks().0), rest)
            }
        };
        Document {
            length,
            ids: ids.as_chunks().0,
            ends,
            positions,
        }
    }

    /// Reads bytes that may be anything: none if [`Encoder`] would not have written them for a
    /// dictionary of so many tokens.
    pub(super) fn check(bytes: &'a [u8], tokens: u32) -> Option<Document<'a>> {
        let (count, _) = bytes.split_at_checked(HEADER)?;
        let count = word(count, 0);
        let (n, width) = (
            (count & !WIDE) as usize,
            if count & WIDE == 0 { 2 } else { 4 },
        );
        if (bytes.len() - HEADER) / (4 + width) < n {
            return None;
        }
        let document = Document::new(bytes);
        let (mut id, mut end, mut length) = (None, 0, 0u64);
        for at in 0..n {
            let next = document.id(at);
            let next_end = document.end(at);
            if id >= Some(next) || next >= tokens {
                return None;
            }
            length += count_positions(document.positions.get(end..next_end)?)?;
            (id, end) = (Some(next), next_end);
        }
        let is_whole = end == document.positions.len() && length == u64::from(document.length);
        is_whole.then_some(document)
    }

    /// Tokens, repeats counted.
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    /// Distinct tokens.
    pub(super) fn tokens(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn id(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.ids[at])
    }

    /// Where the first token with an id of at least `id` stands.
    pub(super) fn lower_bound(&self, id: u32) -> usize {
        self.ids
            .partition_point(|bytes| u32::from_le_bytes(*bytes) < id)
    }

    pub(super) fn find(&self, id: u32) -> Option<usize> {
        let at = self.lower_bound(id);
        (at < self.tokens() && self.id(at) == id).then_some(at)
    }

    fn end(&self, at: usize) -> usize {
        match self.ends {
            Ends::Narrow(ends) => usize::from(u16::from_le_bytes(ends[at])),
            Ends::Wide(ends) => u32::from_le_bytes(ends[at]) as usize,
        }
    }

    /// The encoded positions of a token.
    pub(super) fn position_bytes(&self, at: usize) -> &'a [u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.end(before));
        &self.positions[start..self.end(at)]
    }

    /// How often a token stands in the document.
    pub(super) fn frequency(&self, at: usize) -> u32 {
        frequency(self.position_bytes(at))
    }

    /// Adds the positions of a token, ascending, to `to`.
    pub(super) fn positions(&self, at: usize, to: &mut Vec<u32>) {
        let (mut position, mut difference, mut shift) = (0, 0, 0);
        for byte in self.position_bytes(at) {
            difference |= u32::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                position += difference;
                to.push(position);
                (difference, shift) = (0, 0);
            }
        }
    }
}

/// How many positions these bytes are, at least one; none unless they ascend within 32 bits.
fn count_positions(bytes: &[u8]) -> Option<u64> {
    let (mut count, mut position, mut difference, mut shift) = (0, 0u64, 0u64, 0);
    for byte in bytes {
        difference |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if shift > 35 {
            return None;
        }
        if byte & 0x80 == 0 {
            if count > 0 && difference == 0 {
                return None;
            }
            position += difference;
            u32::try_from(position).ok()?;
            (count, difference, shift) = (count + 1, 0, 0);
        }
    }
    (count > 0 && shift == 0).then_some(count)
}

fn frequency(positions: &[u8]) -> u32 {
    positions.iter().filter(|byte| **byte & 0x80 == 0).count() as u32
}

/// Writes a document, token by token in ascending ids.
#[derive(Default)]
pub(super) struct Encoder {
    length: u32,
    ids: Vec<u32>,
    ends: Vec<u32>,
    positions: Vec<u8>,
    last: u32,
}

impl Encoder {
    /// Adds a position of a token; true when it is the token's first. Tokens come in ascending
    /// ids, the positions of each ascending.
    pub(super) fn push(&mut self, id: u32, position: u32) -> bool {
        let first = self.ids.last() != Some(&id);
        if first {
            debug_assert!(self.ids.last().is_none_or(|last| *last < id));
            self.ids.push(id);
            self.ends.push(0);
            self.last = 0;
        }
        let mut difference = position - self.last;
        while difference > 0x7f {
            self.positions.push(difference as u8 | 0x80);
            difference >>= 7;
        }
        self.positions.push(difference as u8);
        self.last = position;
        self.length += 1;
        if let Some(end) = self.ends.last_mut() {
            *end = self.positions.len() as u32;
        }
        first
    }

    /// Adds a whole token as another document has it.
    pub(super) fn push_encoded(&mut self, id: u32, positions: &[u8]) {
        debug_assert!(self.ids.last().is_none_or(|last| *last < id));
        self.ids.push(id);
        self.positions.extend_from_slice(positions);
        self.ends.push(self.positions.len() as u32);
        self.length += frequency(positions);
    }

    /// Appends the document to `to` and begins another.
    pub(super) fn finish(&mut self, to: &mut Vec<u8>) {
        let wide = self.positions.len() > usize::from(u16::MAX);
        let count = self.ids.len() as u32 | if wide { WIDE } else { 0 };
        let end = if wide { 4 } else { 2 };
        to.reserve(HEADER + self.ids.len() * (4 + end) + self.positions.len());
        to.extend(count.to_le_bytes());
        to.extend(self.length.to_le_bytes());
        to.extend(self.ids.iter().flat_map(|id| id.to_le_bytes()));
        for end in &self.ends {
            match wide {
                true => to.extend(end.to_le_bytes()),
                false => to.extend((*end as u16).to_le_bytes()),
            }
        }
        to.extend_from_slice(&self.positions);
        self.length = 0;
        self.ids.clear();
        self.ends.clear();
        self.positions.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(tokens: &BTreeMap<u32, Vec<u32>>) {
        let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
        for (id, positions) in tokens {
            for (at, position) in positions.iter().enumerate() {
                assert_eq!(encoder.push(*id, *position), at == 0);
            }
        }
        encoder.finish(&mut bytes);
        let document = Document::new(&bytes);
        assert_eq!(document.tokens(), tokens.len());
        let length: usize = tokens.values().map(Vec::len).sum();
        assert_eq!(document.length() as usize, length);
        for (at, (id, positions)) in tokens.iter().enumerate() {
            let mut found = Vec::new();
            document.positions(at, &mut found);
            assert_eq!((document.id(at), &found), (*id, positions));
            assert_eq!(document.frequency(at) as usize, positions.len());
            assert_eq!(document.find(*id), Some(at));
            encoder.push_encoded(*id, document.position_bytes(at));
        }
        let mut copy = Vec::new();
        encoder.finish(&mut copy);
        assert_eq!(copy, bytes);
    }

    proptest! {
        #[test]
        fn documents_come_back(
            tokens in prop::collection::btree_map(
                any::<u32>(),
                prop::collection::btree_set(0u32..1 << 24, 1..20),
                0..20,
            ),
            other in any::<u32>(),
        ) {
            let tokens = tokens.into_iter().map(|(id, p)| (id, p.into_iter().collect())).collect();
            check(&tokens);
            let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
            for id in tokens.keys() {
                encoder.push(*id, 7);
            }
            encoder.finish(&mut bytes);
            prop_assert_eq!(Document::new(&bytes).find(other).is_some(), tokens.contains_key(&other));
        }
    }

    #[test]
    fn a_document_with_wide_ends() {
        let many = (0..50_000).map(|n| n * 3).collect();
        check(&BTreeMap::from([(1, many), (9, (0..40_000).collect())]));
        check(&BTreeMap::new());
    }
}
