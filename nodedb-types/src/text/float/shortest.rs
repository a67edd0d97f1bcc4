//! The shortest digits of a float as PostgreSQL chooses them.
//!
//! Rust's `{:e}` gives the shortest digits that read back the same, but differs from PostgreSQL's
//! Ryū in two corners. Where the value lies exactly between two texts of that length PostgreSQL
//! takes the even digit. And it does not take a text that lies exactly between two neighbouring
//! floats, though reading would round it to the right one; it goes on to more digits. Neither is
//! so for nearly every float, as its exponents alone tell ([`Binary::is_plain`]).

/// `d.ddde-x` of a finite double.
pub(super) fn float8(value: f64) -> String {
    let (shortest, binary) = (format!("{value:e}"), of_double(value));
    match binary.is_plain(&shortest) {
        true => shortest,
        false => choose_double(value, &shortest, binary),
    }
}

fn of_double(value: f64) -> Binary {
    let bits = value.to_bits();
    let (mantissa, exponent) = (bits & ((1 << 52) - 1), (bits >> 52 & 0x7ff) as i32);
    Binary::new(mantissa, exponent, 52, 1075)
}

fn choose_double(value: f64, shortest: &str, binary: Binary) -> String {
    let reads_back = |text: &str| text.parse() == Ok(value);
    choose(
        shortest,
        binary,
        |places| format!("{value:.places$e}"),
        reads_back,
    )
}

/// `d.ddde-x` of a finite single.
pub(super) fn float4(value: f32) -> String {
    let bits = value.to_bits();
    let (mantissa, exponent) = (bits & ((1 << 23) - 1), (bits >> 23 & 0xff) as i32);
    let binary = Binary::new(u64::from(mantissa), exponent, 23, 150);
    let reads_back = |text: &str| text.parse() == Ok(value);
    choose(
        &format!("{value:e}"),
        binary,
        |places| format!("{value:.places$e}"),
        reads_back,
    )
}

/// `rounded(places)` is the value with that many places after the point, half to even.
fn choose(
    shortest: &str,
    binary: Binary,
    rounded: impl Fn(usize) -> String,
    reads_back: impl Fn(&str) -> bool,
) -> String {
    let (places, _) = places_and_exponent(shortest);
    let taken = |text: &String| reads_back(text) && !binary.is_between_neighbours(text);
    // Just above a power of two the nearest text of this length may read back as another float.
    [rounded(places), shortest.to_string()]
        .into_iter()
        .find(taken)
        // 17 digits tell any two doubles apart, so the search ends by itself.
        .or_else(|| (places + 1..17).map(&rounded).find(taken))
        .unwrap_or_else(|| shortest.to_string())
}

/// Digits after the point, and the exponent of ten.
fn places_and_exponent(text: &str) -> (usize, i32) {
    let (mantissa, ten) = text.split_once('e').expect("the e format has an exponent");
    let fraction = mantissa
        .split_once('.')
        .map_or("", |(_, fraction)| fraction);
    (
        fraction.len(),
        ten.parse().expect("the exponent is an integer"),
    )
}

/// A float's magnitude, `mantissa × 2^exponent`.
#[derive(Clone, Copy)]
struct Binary {
    mantissa: u64,
    exponent: i32,
    /// The next smaller float is only half as far away as the next larger.
    power_of_two: bool,
}

impl Binary {
    fn new(fraction: u64, biased: i32, fraction_bits: u32, bias: i32) -> Binary {
        if biased == 0 {
            return Binary {
                mantissa: fraction,
                exponent: 1 - bias,
                power_of_two: false,
            };
        }
        let mantissa = fraction | 1 << fraction_bits;
        Binary {
            mantissa,
            exponent: biased - bias,
            power_of_two: fraction == 0 && biased > 1,
        }
    }

    /// True only where PostgreSQL chooses the shortest text of this double too, as it is neither
    /// between two such texts nor is the text between two doubles.
    ///
    /// Say the text is `D·10^-f`. A value `m·2^e` is between texts of this length only if `2·10^f`
    /// times it is odd, thus for f ≥ 0 only if it is a multiple of `2^-(f+1)`. The text is between
    /// doubles only if it is `odd·2^x` with an odd number `2m ± 1` or `4m - 1`; then for f > 0
    /// `odd·5^f` divides D. That has 17 digits at the most, which leaves no room for `5^f` with
    /// f > 1 where `odd` is `2^53 - 1` or more.
    fn is_plain(&self, shortest: &str) -> bool {
        let (places, ten) = places_and_exponent(shortest);
        let f = places as i32 - ten;
        let lowest_bit = self.exponent + self.mantissa.trailing_zeros() as i32;
        self.mantissa >> 52 == 1 && f > 1 && lowest_bit < -(f + 1)
    }

    /// True where the decimal is exactly halfway between this float and one of its neighbours.
    fn is_between_neighbours(&self, text: &str) -> bool {
        let m = u128::from(self.mantissa);
        let above = (2 * m + 1, self.exponent - 1);
        let below = if self.power_of_two {
            (4 * m - 1, self.exponent - 2)
        } else {
            ((2 * m).saturating_sub(1), self.exponent - 1)
        };
        [above, below]
            .into_iter()
            .any(|middle| equals(text, middle))
    }
}

/// Whether the magnitude of the decimal `d.ddde-x` is `odd × 2^exponent`.
fn equals(text: &str, (odd, exponent): (u128, i32)) -> bool {
    let (mantissa, ten) = text.split_once('e').expect("the e format has an exponent");
    let ten: i32 = ten.parse().expect("the exponent is an integer");
    let figures: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let ten = ten + 1 - figures.len() as i32;
    let Ok(mut digits) = figures.parse::<u128>() else {
        return false;
    };
    if digits == 0 {
        return false;
    }
    // digits × 2^ten × 5^ten = odd × 2^exponent. Both sides without the twos must agree; a
    // power of five beyond u128 cannot, since digits and odd have at most 57 bits.
    let mut other = odd;
    let Some(fives) = 5u128.checked_pow(ten.unsigned_abs()) else {
        return false;
    };
    let side = if ten >= 0 { &mut digits } else { &mut other };
    let Some(product) = side.checked_mul(fives) else {
        return false;
    };
    *side = product;
    let twos = digits.trailing_zeros() as i32;
    digits >> twos == other && ten + twos == exponent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_always_reads_back() {
        // A fixed walk over all exponents, powers of two among them.
        for exponent in 0..0x7ff_u64 {
            for fraction in [0, 1, 2, (1 << 52) - 1, 0x5_5555_5555_5555 ^ exponent << 20] {
                let value = f64::from_bits(exponent << 52 | fraction);
                assert_eq!(float8(value).parse(), Ok(value));
                let chosen = choose_double(value, &format!("{value:e}"), of_double(value));
                assert_eq!(float8(value), chosen);
            }
        }
        // Short decimals, and sums of few powers of two, some of which are between texts.
        for i in 1..20_000_u32 {
            let x = f64::from(i);
            for value in [
                x / 1000.0,
                x / 4096.0,
                x * 1e-7,
                x / 3.0,
                1.0 + x / 1e15,
                8.0 + x / 1048576.0,
            ] {
                let chosen = choose_double(value, &format!("{value:e}"), of_double(value));
                assert_eq!(float8(value), chosen);
            }
        }
        assert!(!of_double(0.25).is_plain("2.5e-1"));
        assert!(of_double(0.423_456_789_012_345_6).is_plain("4.234567890123456e-1"));
        for exponent in 0..0xff_u32 {
            for fraction in [0, 1, 2, (1 << 23) - 1, 0x2a_aaaa ^ exponent << 9] {
                let value = f32::from_bits(exponent << 23 | fraction);
                assert_eq!(float4(value).parse(), Ok(value));
            }
        }
    }

    #[test]
    fn halves_between_neighbours_are_found() {
        let big = Binary::new(0, 1023 + 53, 52, 1075);
        assert!(big.is_between_neighbours("9.007199254740993e15"));
        assert!(!big.is_between_neighbours("9.007199254740992e15"));
        assert!(!big.is_between_neighbours("9.007199254740994e15"));
        // Below a power of two the neighbours are closer.
        assert!(big.is_between_neighbours("9.0071992547409915e15"));
        // A single's middle with a power of five on the other side: 2^-12 and half its step.
        let small = Binary::new(0, 127 - 12, 23, 150);
        assert!(small.is_between_neighbours("2.44140639551915228366851806640625e-4"));
        assert!(!small.is_between_neighbours("2.4414062e-4"));
    }
}
