//! Numerics as sortable bytes: sign, exponent, then the digits in pairs.
//!
//! A positive value is `0.d1d2… × 10^exponent` with `d1` not zero and no zero at the end, so
//! equal values have one form. A larger exponent is a larger value; under one exponent the pairs
//! compare like the digits. A negative value has everything after its first byte complemented.

use crate::numeric::{DIGITS_MAX, Numeric};

const NEGATIVE: u8 = 0x40;
const ZERO: u8 = 0x80;
const POSITIVE: u8 = 0xc0;
/// Exponents run from -37 to 38.
const EXPONENT_BIAS: i32 = 64;
const END: u8 = 0;

pub(super) fn encode(value: Numeric, out: &mut Vec<u8>) {
    if value.unscaled == 0 {
        return out.push(ZERO);
    }
    let negative = value.unscaled < 0;
    out.push(if negative { NEGATIVE } else { POSITIVE });
    let start = out.len();
    let mut digits = [0u8; DIGITS_MAX as usize + 1];
    let mut rest = value.unscaled.unsigned_abs();
    let mut first = digits.len();
    while rest > 0 {
        first -= 1;
        digits[first] = (rest % 10) as u8;
        rest /= 10;
    }
    let digits = &digits[first..];
    let exponent = digits.len() as i32 - i32::from(value.scale);
    out.push((exponent + EXPONENT_BIAS) as u8);
    let last = digits
        .iter()
        .rposition(|d| *d != 0)
        .expect("the value is not zero");
    for pair in digits[..=last].chunks(2) {
        out.push(pair[0] * 10 + pair.get(1).copied().unwrap_or(0) + 1);
    }
    out.push(END);
    if negative {
        out[start..].iter_mut().for_each(|b| *b = !*b);
    }
}

/// The value and the number of bytes it took; None for bytes that [`encode`] does not write.
pub(super) fn decode(bytes: &[u8]) -> Option<(Numeric, usize)> {
    let flip = match *bytes.first()? {
        ZERO => return Some((Numeric::ZERO, 1)),
        POSITIVE => 0x00,
        NEGATIVE => 0xff,
        _ => return None,
    };
    let exponent = i32::from(bytes.get(1)? ^ flip) - EXPONENT_BIAS;
    let mut unscaled = 0i128;
    let mut count = 0i32;
    let mut at = 2;
    loop {
        let byte = bytes.get(at)? ^ flip;
        at += 1;
        if byte == END {
            break;
        }
        let pair = byte - 1;
        if pair > 99 || count > i32::from(DIGITS_MAX) {
            return None;
        }
        // A pair `d0` at the end stands for one digit, so that 38 digits never become 39.
        let ends = *bytes.get(at)? ^ flip == END;
        let (factor, addend, digits) = if ends && pair % 10 == 0 {
            (10, pair / 10, 1)
        } else {
            (100, pair, 2)
        };
        unscaled = unscaled
            .checked_mul(factor)?
            .checked_add(i128::from(addend))?;
        count += digits;
    }
    let scale = count - exponent;
    if unscaled == 0 {
        return None;
    }
    if scale < 0 {
        unscaled = unscaled.checked_mul(10i128.checked_pow(scale.unsigned_abs())?)?;
    }
    let signed = if flip == 0 { unscaled } else { -unscaled };
    let value = Numeric::new(signed, u8::try_from(scale.max(0)).ok()?).ok()?;
    // Only the canonical form is a key.
    let mut again = Vec::with_capacity(at);
    encode(value, &mut again);
    (again == bytes[..at]).then_some((value, at))
}
