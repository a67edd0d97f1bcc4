//! The inner product of 4-bit numbers with an 8-bit query, and asking for bytes ahead of need.
//!
//! Whole numbers are exact in every order of summation, so all instruction sets give the same
//! result as long as no sum leaves 32 bits, which is the caller's to see to. As in [`super::distance`]
//! the processor is asked once; unsafe is confined to loads and to calling what was detected.

use std::sync::OnceLock;

/// Two 4-bit numbers without sign in each byte, and what the lower and the upper ones are
/// multiplied with. All three are equally long.
pub type Dot = fn(&[u8], &[i8], &[i8]) -> i32;

/// The sum of products by the best that this processor can do.
pub fn dot() -> Dot {
    static DOT: OnceLock<Dot> = OnceLock::new();
    *DOT.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                return x86::AVX512;
            }
            if is_x86_feature_detected!("avx2") {
                return x86::AVX2;
            }
        }
        portable
    })
}

fn portable(halves: &[u8], low: &[i8], high: &[i8]) -> i32 {
    let product = |half: u8, q: i8| i32::from(half) * i32::from(q);
    let queries = low.iter().zip(high);
    let both = halves.iter().zip(queries);
    both.map(|(x, (l, h))| product(x & 15, *l) + product(x >> 4, *h))
        .sum()
}

/// Tells the processor that these are read soon.
#[inline]
pub fn prefetch<T>(items: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in items.chunks(64usize.div_ceil(size_of::<T>().max(1))) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; the address is that of a live slice.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = items;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Dot, portable};

    /// One body: bytes per step, its features, operations and horizontal sum, and what does the
    /// rest. Four products of a 4-bit number with an 8-bit one are far from 16 bits.
    macro_rules! dot {
        ($name:ident, $run:ident, $lanes:literal, $features:literal, $load:ident, $and:ident,
         $shift:ident, $pairs:ident, $add16:ident, $fours:ident, $add:ident, $all8:ident,
         $all16:ident, $zero:ident, $sum:expr, $rest:expr) => {
            #[target_feature(enable = $features)]
            fn $run(halves: &[u8], low: &[i8], high: &[i8]) -> i32 {
                let mut bytes = halves.chunks_exact($lanes);
                let (mut lows, mut highs) = (low.chunks_exact($lanes), high.chunks_exact($lanes));
                let (mask, ones) = ($all8(15), $all16(1));
                let mut sum = $zero();
                for (x, (l, h)) in (&mut bytes).zip((&mut lows).zip(&mut highs)) {
                    // SAFETY: the slice holds exactly as many bytes as are loaded; unaligned.
                    let x = unsafe { $load(x.as_ptr().cast()) };
                    // SAFETY: as above.
                    let l = unsafe { $load(l.as_ptr().cast()) };
                    // SAFETY: as above.
                    let h = unsafe { $load(h.as_ptr().cast()) };
                    let lower = $pairs($and(x, mask), l);
                    let upper = $pairs($and($shift::<4>(x), mask), h);
                    sum = $add(sum, $fours($add16(lower, upper), ones));
                }
                let rest = (bytes.remainder(), lows.remainder(), highs.remainder());
                match rest.0.is_empty() {
                    true => $sum(sum),
                    false => $sum(sum) + $rest(rest.0, rest.1, rest.2),
                }
            }

            /// To be taken only where its features were detected.
            // SAFETY: `dot` takes it only after it has detected the features.
            pub(super) const $name: Dot = |halves, low, high| unsafe { $run(halves, low, high) };
        };
    }

    dot!(
        AVX512,
        avx512,
        64,
        "avx512f,avx512bw,avx2",
        _mm512_loadu_si512,
        _mm512_and_si512,
        _mm512_srli_epi16,
        _mm512_maddubs_epi16,
        _mm512_add_epi16,
        _mm512_madd_epi16,
        _mm512_add_epi32,
        _mm512_set1_epi8,
        _mm512_set1_epi16,
        _mm512_setzero_si512,
        |x| _mm512_reduce_add_epi32(x),
        avx2
    );
    dot!(
        AVX2,
        avx2,
        32,
        "avx2",
        _mm256_loadu_si256,
        _mm256_and_si256,
        _mm256_srli_epi16,
        _mm256_maddubs_epi16,
        _mm256_add_epi16,
        _mm256_madd_epi16,
        _mm256_add_epi32,
        _mm256_set1_epi8,
        _mm256_set1_epi16,
        _mm256_setzero_si256,
        |x: __m256i| {
            let half = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
            _mm_cvtsi128_si32(_mm_add_epi32(
                pair,
                _mm_shuffle_epi32::<0b10_11_00_01>(pair),
            ))
        },
        portable
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_sums() {
        let mut bodies: Vec<Dot> = vec![portable, dot()];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                bodies.push(x86::AVX512);
            }
            if is_x86_feature_detected!("avx2") {
                bodies.push(x86::AVX2);
            }
        }
        for n in 0..300usize {
            // The extremes, and all else between.
            let byte = |i: usize| match n % 3 {
                0 => 0xff,
                1 => 0,
                _ => (i * 37 + n) as u8,
            };
            let halves: Vec<u8> = (0..n).map(byte).collect();
            let part = |i: usize| match n % 4 {
                0 => -127,
                1 => 127,
                _ => ((i * 79 + n) % 255) as i8,
            };
            let low: Vec<i8> = (0..n).map(part).collect();
            let high: Vec<i8> = (0..n).map(|i| part(i + 1)).collect();
            let of = |i: usize| {
                let (l, h) = (i64::from(halves[i] & 15), i64::from(halves[i] >> 4));
                l * i64::from(low[i]) + h * i64::from(high[i])
            };
            let want: i64 = (0..n).map(of).sum();
            for body in &bodies {
                prefetch(&halves);
                assert_eq!(i64::from(body(&halves, &low, &high)), want, "{n}");
            }
        }
    }
}
