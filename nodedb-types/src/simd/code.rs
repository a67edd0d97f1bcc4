//! The inner product of an 8-bit code with a 16-bit query, and asking for bytes ahead of need.
//!
//! Whole numbers are exact in every order of summation, so all instruction sets give the same
//! result as long as no sum leaves 32 bits, which is the caller's to see to. As in [`super::distance`]
//! the processor is asked once; unsafe is confined to loads and to calling what was detected.

use std::sync::OnceLock;

type Dot = fn(&[i8], &[i16]) -> i32;

/// Sum of products. The sum of the absolute products must fit 31 bits.
#[inline]
pub fn dot(code: &[i8], query: &[i16]) -> i32 {
    debug_assert_eq!(code.len(), query.len());
    static DOT: OnceLock<Dot> = OnceLock::new();
    DOT.get_or_init(|| {
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
    })(code, query)
}

fn portable(code: &[i8], query: &[i16]) -> i32 {
    let products = code.iter().zip(query);
    products.map(|(c, q)| i32::from(*c) * i32::from(*q)).sum()
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

    /// One body: codes per step, its features, loads of codes and query, widening, multiplying
    /// pairs, adding, zero and the horizontal sum.
    macro_rules! dot {
        ($name:ident, $run:ident, $lanes:literal, $features:literal, $load_code:ident,
         $load_query:ident, $widen:ident, $pairs:ident, $add:ident, $zero:ident, $sum:expr) => {
            #[target_feature(enable = $features)]
            fn $run(code: &[i8], query: &[i16]) -> i32 {
                let (mut codes, mut parts) =
                    (code.chunks_exact($lanes), query.chunks_exact($lanes));
                let mut sums = [$zero(); 2];
                for (at, (c, q)) in (&mut codes).zip(&mut parts).enumerate() {
                    // SAFETY: the slice holds exactly as many codes as are loaded; unaligned.
                    let c = unsafe { $load_code(c.as_ptr().cast()) };
                    // SAFETY: as above, for the query.
                    let q = unsafe { $load_query(q.as_ptr().cast()) };
                    let sum = &mut sums[at % 2];
                    *sum = $add(*sum, $pairs($widen(c), q));
                }
                $sum($add(sums[0], sums[1])) + portable(codes.remainder(), parts.remainder())
            }

            /// To be taken only where its features were detected.
            // SAFETY: `dot` takes it only after it has detected the features.
            pub(super) const $name: Dot = |code, query| unsafe { $run(code, query) };
        };
    }

    dot!(
        AVX512,
        avx512,
        32,
        "avx512f,avx512bw",
        _mm256_loadu_si256,
        _mm512_loadu_si512,
        _mm512_cvtepi8_epi16,
        _mm512_madd_epi16,
        _mm512_add_epi32,
        _mm512_setzero_si512,
        |x| _mm512_reduce_add_epi32(x)
    );
    dot!(
        AVX2,
        avx2,
        16,
        "avx2",
        _mm_loadu_si128,
        _mm256_loadu_si256,
        _mm256_cvtepi8_epi16,
        _mm256_madd_epi16,
        _mm256_add_epi32,
        _mm256_setzero_si256,
        |x: __m256i| {
            let half = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
            _mm_cvtsi128_si32(_mm_add_epi32(
                pair,
                _mm_shuffle_epi32::<0b10_11_00_01>(pair),
            ))
        }
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_sums() {
        let mut bodies: Vec<Dot> = vec![portable, dot];
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
            // The extremes, where a pair of products needs 24 bits, and all else between.
            let code = |i: usize| match n % 3 {
                0 => -127,
                1 => 127,
                _ => ((i * 37 + n) % 255) as i8,
            };
            let code: Vec<i8> = (0..n).map(code).collect();
            let part = |i: usize| match n % 2 {
                0 => -32_767,
                _ => (i * 7919 + n) as i16,
            };
            let query: Vec<i16> = (0..n).map(part).collect();
            let products = code.iter().zip(&query);
            let want: i64 = products.map(|(c, q)| i64::from(*c) * i64::from(*q)).sum();
            for body in &bodies {
                prefetch(&code);
                assert_eq!(i64::from(body(&code, &query)), want, "{n}");
            }
        }
    }
}
