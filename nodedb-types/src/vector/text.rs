//! The text form of a vector: `[1,2.5,-3e+10]`.

use super::{data, too_many};
use crate::failure::{Failure, Result};
use crate::limits::VECTOR_DIMENSIONS_MAX;
use crate::sqlstate::SqlState;
use crate::text::format_float4;

/// Reads `[1, 2, 3]`; blanks are allowed around brackets and elements.
///
/// 22P02 where it is not of that form, 22003 for an element beyond float4, 22000 for NaN,
/// infinity and for no element at all, 54000 for too many.
pub fn parse(text: &str) -> Result<Vec<f32>> {
    let bad = || {
        let message = format!("invalid input syntax for type vector: \"{text}\"");
        Failure::new(SqlState::InvalidTextRepresentation, message)
    };
    let Some(mut rest) = skip_blanks(text).strip_prefix('[') else {
        return Err(bad().with_detail("Vector contents must start with \"[\"."));
    };
    rest = skip_blanks(rest);
    if rest.starts_with(']') {
        return Err(data("vector must have at least 1 dimension"));
    }
    let commas = rest.bytes().filter(|byte| *byte == b',').count();
    let mut elements = Vec::with_capacity((commas + 1).min(VECTOR_DIMENSIONS_MAX));
    loop {
        if elements.len() == VECTOR_DIMENSIONS_MAX {
            return Err(too_many());
        }
        rest = skip_blanks(rest);
        let (x, end) = match plain_decimal(rest.as_bytes()) {
            Some(read) => read,
            None => {
                let end = rest.bytes().position(is_end).ok_or_else(bad)?;
                (element(&rest[..end], bad)?, end)
            }
        };
        elements.push(x);
        rest = skip_blanks(&rest[end..]);
        if let Some(after) = rest.strip_prefix(',') {
            rest = after;
        } else if let Some(after) = rest.strip_prefix(']') {
            rest = after;
            break;
        } else {
            return Err(bad());
        }
    }
    if !skip_blanks(rest).is_empty() {
        return Err(bad().with_detail("Junk after closing right brace."));
    }
    Ok(elements)
}

/// What ends an element is ASCII, and so never a part of another character.
fn is_end(b: u8) -> bool {
    matches!(b, b',' | b']') || is_blank(char::from(b))
}

fn skip_blanks(text: &str) -> &str {
    match text.as_bytes().first() {
        Some(first) if *first > b' ' => text,
        _ => text.trim_start_matches(is_blank),
    }
}

/// Powers of ten that f64 holds exactly.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// An element of the form `-12.345` and its length, where that is easily told; the same number as
/// `str::parse` gives. Nearly all elements of an embedding are such, and there are many of them.
///
/// The digits make a whole number, which is rounded to f64 and divided by a power of ten that is
/// exact: two roundings, so the quotient is less than two units in its last place off. It has 29
/// bits more than f32. Unless those lie that near to the middle between two f32, the nearest f32
/// is that of the true value.
fn plain_decimal(bytes: &[u8]) -> Option<(f32, usize)> {
    let is_negative = bytes.first() == Some(&b'-');
    let start = usize::from(is_negative);
    let (whole, at) = digits(bytes, start, 0)?;
    let (digits_read, mantissa, fraction, at) = match bytes.get(at) {
        Some(b'.') => {
            let (mantissa, end) = digits(bytes, at + 1, whole)?;
            (end - start - 1, mantissa, end - at - 1, end)
        }
        _ => (at - start, whole, 0, at),
    };
    if digits_read == 0 || !is_end(*bytes.get(at)?) {
        return None;
    }
    let quotient = mantissa as f64 / TENS.get(fraction)?;
    let middle = (quotient.to_bits() & ((1 << 29) - 1)).abs_diff(1 << 28);
    let is_normal = (1e-37..1e38).contains(&quotient) && middle > 4;
    let x = quotient as f32;
    (is_normal || mantissa == 0).then_some((if is_negative { -x } else { x }, at))
}

/// The number that `before` becomes with the digits from `at` on, and where they end. None where
/// it might not fit.
fn digits(bytes: &[u8], mut at: usize, before: u64) -> Option<(u64, usize)> {
    let mut number = before;
    while let Some(eight) = bytes
        .get(at..at + 8)
        .and_then(|eight| eight.try_into().ok())
        && let Some(value) = eight_digits(u64::from_le_bytes(eight))
    {
        if number >= 100_000_000_000 {
            return None;
        }
        number = number * 100_000_000 + value;
        at += 8;
    }
    while let Some(digit) = bytes.get(at).filter(|b| b.is_ascii_digit()) {
        if number >= 1_000_000_000_000_000_000 {
            return None;
        }
        number = number * 10 + u64::from(digit - b'0');
        at += 1;
    }
    Some((number, at))
}

/// Eight ASCII digits, the first in the lowest byte, as a number: pairs are put together in all
/// bytes at once, then pairs of those, and again.
fn eight_digits(chars: u64) -> Option<u64> {
    const HIGH: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    // Adding six makes a carry of what is above nine.
    let above = chars.wrapping_add(0x0606_0606_0606_0606) & HIGH;
    if chars & HIGH != 0x3030_3030_3030_3030 || above != 0x3030_3030_3030_3030 {
        return None;
    }
    let ones = chars & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (ones * 10 + (ones >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    Some((fours * 10_000 + (fours >> 32)) & 0xffff_ffff)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn element(token: &str, bad: impl Fn() -> Failure) -> Result<f32> {
    let x: f32 = token.parse().map_err(|_| bad())?;
    if x.is_nan() {
        return Err(data("NaN not allowed in vector"));
    }
    if x.is_infinite() {
        // Digits that overflowed, or the word itself.
        return Err(if token.bytes().any(|b| b.is_ascii_digit()) {
            let message = format!("\"{token}\" is out of range for type vector");
            Failure::new(SqlState::NumericOutOfRange, message)
        } else {
            data("infinite value not allowed in vector")
        });
    }
    Ok(x)
}

/// Appends the vector's text. Elements are the shortest digits that read back the same, with an
/// exponent where PostgreSQL's float4 has one.
pub fn format(v: &[f32], out: &mut String) {
    out.push('[');
    for (i, &x) in v.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        format_float4(x, out);
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(text: &str) -> String {
        let mut out = String::new();
        format(&parse(text).unwrap(), &mut out);
        out
    }

    #[test]
    fn text_round_trips_as_in_pgvector() {
        for (text, want) in [
            ("[1.,2.,3.]", "[1,2,3]"),
            (" [ 1,  2 ,    3  ] ", "[1,2,3]"),
            ("[1.23456,-.5]", "[1.23456,-0.5]"),
            ("[1.5e38,-1.5e+38,1.5e-38]", "[1.5e+38,-1.5e+38,1.5e-38]"),
            ("[1e-46,-1e-46]", "[0,-0]"),
            (
                "[123456,1234567,999999.94,1e6]",
                "[123456,1.234567e+06,999999.94,1e+06]",
            ),
            ("[0.0001,0.00001,16777216]", "[0.0001,1e-05,1.6777216e+07]"),
            ("[3.4028235e38,1e-45]", "[3.4028235e+38,1e-45]"),
        ] {
            assert_eq!(round(text), want);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// The quick way gives what the library gives, or nothing.
        #[test]
        fn plain_decimals_are_read_as_the_library_reads_them(
            text in prop_oneof![
                "-?[0-9]{0,12}(\\.[0-9]{0,22})?",
                any::<f32>().prop_map(|x| f64::from(x).to_string()),
                (-1f64..1.0).prop_map(|x| x.to_string()),
                // The middle between two f32, and what lies about it.
                (any::<f32>(), -3i64..4).prop_map(|(x, by)| {
                    let middle = f64::from(x).to_bits() + (1 << 28);
                    f64::from_bits(middle.wrapping_add_signed(by)).to_string()
                }),
            ],
            end in prop_oneof![Just(","), Just("]"), Just(" "), Just("e1,"), Just("x"), Just("")],
        ) {
            let whole = format!("{text}{end}");
            if let Some((x, len)) = plain_decimal(whole.as_bytes()) {
                prop_assert_eq!(&whole[..len], &text);
                prop_assert_eq!(x.to_bits(), text.parse::<f32>().unwrap().to_bits(), "{}", text);
                prop_assert!([",", "]", " "].contains(&end));
            }
        }
    }

    #[test]
    fn elements_of_embeddings_are_plain() {
        for text in [
            "0.034567892551422119",
            "-0.5",
            "1",
            "12345678.25",
            "-0",
            "0.00012",
        ] {
            let (x, len) = plain_decimal(format!("{text},").as_bytes()).unwrap();
            assert_eq!((x, len), (text.parse().unwrap(), text.len()));
        }
        // The middle between 1 and the next f32: to the even one.
        assert_eq!(plain_decimal(b"1.000000059604644775390625]"), None);
        assert_eq!(plain_decimal(b"1.00000005960464478]"), None);
        assert_eq!(parse("[1.000000059604644775390625]").unwrap(), [1.0]);
        assert_eq!(parse("[1.000000059604644776]").unwrap(), [1.0f32.next_up()]);
        for chars in ["1234567/", "1234567:", "0000000 ", "12a45678"] {
            assert_eq!(
                eight_digits(u64::from_le_bytes(chars.as_bytes().try_into().unwrap())),
                None
            );
        }
        assert_eq!(
            eight_digits(u64::from_le_bytes(*b"98765432")),
            Some(98_765_432)
        );
    }

    #[test]
    fn bad_text_is_refused_as_in_pgvector() {
        let fail = |text: &str| parse(text).unwrap_err();
        for text in [
            "[hello,1]",
            "[1,2,3",
            "[",
            "[ ",
            "[,",
            "[,]",
            "[1,]",
            "[1a]",
            "[1,,3]",
        ] {
            let f = fail(text);
            assert_eq!(f.code(), SqlState::InvalidTextRepresentation, "{text}");
            assert_eq!(
                f.message(),
                format!("invalid input syntax for type vector: \"{text}\"")
            );
        }
        assert_eq!(
            fail("[1,2,3]9").detail(),
            Some("Junk after closing right brace.")
        );
        assert_eq!(
            fail("1,2,3").detail(),
            Some("Vector contents must start with \"[\".")
        );
        assert_eq!(
            fail("").detail(),
            Some("Vector contents must start with \"[\".")
        );
        for (text, want) in [
            ("[]", "vector must have at least 1 dimension (22000)"),
            ("[ ]", "vector must have at least 1 dimension (22000)"),
            ("[NaN,1]", "NaN not allowed in vector (22000)"),
            (
                "[-Infinity,1]",
                "infinite value not allowed in vector (22000)",
            ),
            (
                "[4e38,1]",
                "\"4e38\" is out of range for type vector (22003)",
            ),
            (
                "[1,-4e38 ]",
                "\"-4e38\" is out of range for type vector (22003)",
            ),
        ] {
            assert_eq!(fail(text).to_string(), want);
        }
        let many = |n: usize| format!("[{}1]", "1,".repeat(n - 1));
        assert_eq!(
            parse(&many(VECTOR_DIMENSIONS_MAX)).unwrap().len(),
            VECTOR_DIMENSIONS_MAX
        );
        let over = fail(&many(VECTOR_DIMENSIONS_MAX + 1));
        assert_eq!(over.code(), SqlState::ProgramLimitExceeded);
    }
}
