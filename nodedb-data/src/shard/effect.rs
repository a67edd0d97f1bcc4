//! Row effects: what a commit does to the rows of one shard, as its log records it.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | number of effects |
//!
//! and for each of them:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | 1 insert, 2 update, 3 delete; 0x10 is added when a before image follows |
//! | 4 | surrogate |
//! | 8 | birth: commit timestamp of the row's insert; 0 for the commit itself |
//! | 2 | bytes of the key |
//! | 4 | bytes of the after image (0 for a delete) |
//! | 4 | bytes of the before image, only when it is there |
//! | | key, after image, before image |
//!
//! After images are whole rows as `nodedb_types::row` encodes them; replaying needs nothing else.
//! Before images stand there only for collections whose changes are emitted as events.

use std::sync::Arc;

use nodedb_bridge::event::EventOp;
use nodedb_types::limits::{KEY_BYTES_MAX, ROW_BYTES_MAX};
use nodedb_types::{CommitTs, Result, Surrogate};

use super::fields::{Fields, malformed};

const HAS_BEFORE: u8 = 0x10;
/// Bytes of an effect beside key and images, at the most.
pub const EFFECT_OVERHEAD: usize = 23;

/// One row's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowEffect {
    pub op: EventOp,
    pub surrogate: Surrogate,
    /// None: this commit gives birth to the row.
    pub birth: Option<CommitTs>,
    pub key: Arc<[u8]>,
    /// The new row; empty when it is deleted.
    pub after: Arc<[u8]>,
    /// The old row, where it is logged.
    pub before: Option<Arc<[u8]>>,
}

impl RowEffect {
    /// Bytes of the effect in a record.
    pub fn encoded_bytes(&self) -> usize {
        EFFECT_OVERHEAD
            + self.key.len()
            + self.after.len()
            + self.before.as_ref().map_or(0, |b| b.len())
    }
}

/// Begins a payload of so many effects.
pub fn encode_count(effects: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(effects as u32).to_le_bytes());
}

/// Appends an effect to a payload.
pub fn encode(effect: &RowEffect, out: &mut Vec<u8>) {
    let op = match effect.op {
        EventOp::Insert => 1,
        EventOp::Update => 2,
        EventOp::Delete => 3,
    };
    let flag = if effect.before.is_some() {
        HAS_BEFORE
    } else {
        0
    };
    out.push(op | flag);
    out.extend_from_slice(&effect.surrogate.get().to_le_bytes());
    out.extend_from_slice(&effect.birth.unwrap_or_default().0.to_le_bytes());
    out.extend_from_slice(&(effect.key.len() as u16).to_le_bytes());
    out.extend_from_slice(&(effect.after.len() as u32).to_le_bytes());
    if let Some(before) = &effect.before {
        out.extend_from_slice(&(before.len() as u32).to_le_bytes());
    }
    out.extend_from_slice(&effect.key);
    out.extend_from_slice(&effect.after);
    if let Some(before) = &effect.before {
        out.extend_from_slice(before);
    }
}

/// Reads effects back.
pub fn decode(fields: &mut Fields<'_>) -> Result<Vec<RowEffect>> {
    let count = fields.u32()?;
    let mut effects = Vec::new();
    for _ in 0..count {
        let kind = fields.u8()?;
        let op = match kind & !HAS_BEFORE {
            1 => EventOp::Insert,
            2 => EventOp::Update,
            3 => EventOp::Delete,
            _ => return Err(malformed("an unknown row operation")),
        };
        let surrogate = fields.surrogate()?;
        let birth = fields.u64()?;
        let key_len = usize::from(fields.u16()?);
        let after_len = fields.u32()? as usize;
        let before_len = match kind & HAS_BEFORE {
            0 => None,
            _ => Some(fields.u32()? as usize),
        };
        if key_len > KEY_BYTES_MAX || after_len.max(before_len.unwrap_or(0)) > ROW_BYTES_MAX {
            return Err(malformed("a row beyond the limits"));
        }
        effects.push(RowEffect {
            op,
            surrogate,
            birth: (birth != 0).then_some(CommitTs(birth)),
            key: fields.bytes(key_len)?.into(),
            after: fields.bytes(after_len)?.into(),
            before: before_len
                .map(|n| fields.bytes(n))
                .transpose()?
                .map(Into::into),
        });
    }
    Ok(effects)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn effect() -> impl Strategy<Value = RowEffect> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        (
            0..3u8,
            1u32..,
            any::<u64>(),
            bytes(),
            bytes(),
            prop::option::of(bytes()),
        )
            .prop_map(|(op, surrogate, birth, key, after, before)| RowEffect {
                op: [EventOp::Insert, EventOp::Update, EventOp::Delete][usize::from(op)],
                surrogate: Surrogate::new(surrogate).unwrap(),
                birth: (birth != 0).then_some(CommitTs(birth)),
                key: key.into(),
                after: after.into(),
                before: before.map(Into::into),
            })
    }

    proptest! {
        #[test]
        fn decoding_inverts_encoding(effects in prop::collection::vec(effect(), 0..8)) {
            let mut payload = Vec::new();
            encode_count(effects.len(), &mut payload);
            effects.iter().for_each(|effect| encode(effect, &mut payload));
            let bound: usize = effects.iter().map(RowEffect::encoded_bytes).sum();
            prop_assert!(payload.len() <= bound + 4);
            let mut fields = Fields::new(&payload);
            prop_assert_eq!(decode(&mut fields).unwrap(), effects);
            fields.end().unwrap();
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&mut Fields::new(&bytes));
        }
    }
}
