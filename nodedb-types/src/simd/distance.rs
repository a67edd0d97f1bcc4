//! The inner loops of vector distances, over little-endian f32 bytes at any alignment.
//!
//! Each kernel has one body per instruction set: AVX-512, AVX2 with FMA, and plain Rust that the
//! compiler vectorises for the target's baseline. The processor is asked once per process and
//! the answer kept as a table of functions, so every caller of a process gets the same order of
//! summation and thus the same bits.
//!
//! The bodies keep four independent accumulators, enough to hide the latency of a fused
//! multiply-add; what is left after the last whole vector is added one element at a time.
//! Unsafe is confined to the loads of a vector register and to calling what was detected.

use std::sync::OnceLock;

// Stored vectors are little-endian (W3) and the kernels load them as they are.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "NodeDB needs a little-endian target"
);

type Kernel = fn(&[u8], &[u8]) -> f32;

struct Table {
    dot: Kernel,
    l2_squared: Kernel,
    l1: Kernel,
}

/// The elements of a vector in memory as the bytes they would be stored as.
pub fn bytes_of(v: &[f32]) -> &[u8] {
    // SAFETY: any f32 is four initialised bytes without padding, u8 has no alignment, and the
    // length in bytes is that of the same live slice.
    unsafe { std::slice::from_raw_parts(v.as_ptr().cast::<u8>(), size_of_val(v)) }
}

/// Sum of products.
pub fn dot(a: &[f32], b: &[u8]) -> f32 {
    debug_assert_eq!(size_of_val(a), b.len());
    (table().dot)(bytes_of(a), b)
}

/// Sum of squared differences.
pub fn l2_squared(a: &[f32], b: &[u8]) -> f32 {
    debug_assert_eq!(size_of_val(a), b.len());
    (table().l2_squared)(bytes_of(a), b)
}

/// Sum of absolute differences.
pub fn l1(a: &[f32], b: &[u8]) -> f32 {
    debug_assert_eq!(size_of_val(a), b.len());
    (table().l1)(bytes_of(a), b)
}

/// Sum of squares: [`dot`] of a stored vector with itself.
pub fn squared_norm(v: &[u8]) -> f32 {
    (table().dot)(v, v)
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
                return x86::AVX512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return x86::AVX2;
            }
        }
        PORTABLE
    })
}

const PORTABLE: Table = Table {
    dot: |a, b| portable(a, b, |sum, x, y| sum + x * y),
    l2_squared: |a, b| portable(a, b, |sum, x, y| sum + (x - y) * (x - y)),
    l1: |a, b| portable(a, b, |sum, x, y| sum + (x - y).abs()),
};

/// Sixteen running sums, which the compiler keeps in vector registers.
#[inline(always)]
fn portable(a: &[u8], b: &[u8], step: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut sums = [0f32; 16];
    let (mut a, mut b) = (a.chunks_exact(64), b.chunks_exact(64));
    for (a, b) in (&mut a).zip(&mut b) {
        for ((sum, x), y) in sums
            .iter_mut()
            .zip(a.chunks_exact(4))
            .zip(b.chunks_exact(4))
        {
            *sum = step(*sum, element(x), element(y));
        }
    }
    rest(a.remainder(), b.remainder(), sums.iter().sum(), step)
}

/// Adds what is left after the last whole vector register, element by element.
#[inline(always)]
fn rest(a: &[u8], b: &[u8], sum: f32, step: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let pairs = a.chunks_exact(4).zip(b.chunks_exact(4));
    pairs.fold(sum, |sum, (x, y)| step(sum, element(x), element(y)))
}

#[inline(always)]
fn element(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Table, rest};

    /// One table of kernels: lanes per register, its features, load, zero, the three steps over
    /// registers, and the horizontal sum.
    macro_rules! kernels {
        ($name:ident, $module:ident, $lanes:literal, $features:literal, $vector:ty,
         $load:ident, $zero:ident, $add:ident, $fma:ident, $sub:ident, $abs:expr, $sum:expr) => {
            mod $module {
                use super::*;

                #[target_feature(enable = $features)]
                #[inline]
                fn run(
                    a: &[u8],
                    b: &[u8],
                    step: impl Fn($vector, $vector, $vector) -> $vector,
                    tail: impl Fn(f32, f32, f32) -> f32,
                ) -> f32 {
                    const BYTES: usize = $lanes * 4;
                    let load = |bytes: &[u8]| -> $vector {
                        debug_assert_eq!(bytes.len(), BYTES);
                        // SAFETY: every caller passes a slice of exactly BYTES bytes, and the
                        // load has no alignment to keep.
                        unsafe { $load(bytes.as_ptr().cast()) }
                    };
                    let mut sums = [$zero(); 4];
                    let mut wide = (a.chunks_exact(4 * BYTES), b.chunks_exact(4 * BYTES));
                    for (a, b) in (&mut wide.0).zip(&mut wide.1) {
                        for (i, sum) in sums.iter_mut().enumerate() {
                            let at = i * BYTES..(i + 1) * BYTES;
                            *sum = step(*sum, load(&a[at.clone()]), load(&b[at]));
                        }
                    }
                    let (a, b) = (wide.0.remainder(), wide.1.remainder());
                    let mut narrow = (a.chunks_exact(BYTES), b.chunks_exact(BYTES));
                    for (a, b) in (&mut narrow.0).zip(&mut narrow.1) {
                        sums[0] = step(sums[0], load(a), load(b));
                    }
                    let sum = $sum($add($add(sums[0], sums[1]), $add(sums[2], sums[3])));
                    rest(narrow.0.remainder(), narrow.1.remainder(), sum, tail)
                }

                #[target_feature(enable = $features)]
                pub(super) fn dot(a: &[u8], b: &[u8]) -> f32 {
                    run(
                        a,
                        b,
                        |sum, x, y| $fma(x, y, sum),
                        |sum, x, y| x.mul_add(y, sum),
                    )
                }

                #[target_feature(enable = $features)]
                pub(super) fn l2_squared(a: &[u8], b: &[u8]) -> f32 {
                    let step = |sum, x, y| {
                        let d = $sub(x, y);
                        $fma(d, d, sum)
                    };
                    run(a, b, step, |sum, x, y| (x - y).mul_add(x - y, sum))
                }

                #[target_feature(enable = $features)]
                pub(super) fn l1(a: &[u8], b: &[u8]) -> f32 {
                    let step = |sum, x, y| $add(sum, $abs($sub(x, y)));
                    run(a, b, step, |sum, x, y| sum + (x - y).abs())
                }
            }

            /// To be taken only where its features were detected.
            pub(super) const $name: Table = Table {
                // SAFETY: `table` takes this one only after it has detected the features.
                dot: |a, b| unsafe { $module::dot(a, b) },
                // SAFETY: as above.
                l2_squared: |a, b| unsafe { $module::l2_squared(a, b) },
                // SAFETY: as above.
                l1: |a, b| unsafe { $module::l1(a, b) },
            };
        };
    }

    kernels!(
        AVX512,
        avx512,
        16,
        "avx512f,fma",
        __m512,
        _mm512_loadu_ps,
        _mm512_setzero_ps,
        _mm512_add_ps,
        _mm512_fmadd_ps,
        _mm512_sub_ps,
        |x| _mm512_abs_ps(x),
        |x| _mm512_reduce_add_ps(x)
    );
    kernels!(
        AVX2,
        avx2,
        8,
        "avx2,fma",
        __m256,
        _mm256_loadu_ps,
        _mm256_setzero_ps,
        _mm256_add_ps,
        _mm256_fmadd_ps,
        _mm256_sub_ps,
        |x| _mm256_andnot_ps(_mm256_set1_ps(-0.0), x),
        |x: __m256| {
            let half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
        }
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers are exact in every order of summation, so all bodies must agree.
    #[test]
    fn every_instruction_set_agrees_on_exact_sums() {
        let mut tables = vec![PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
                tables.push(x86::AVX512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                tables.push(x86::AVX2);
            }
        }
        for n in 0..200 {
            let a: Vec<f32> = (0..n).map(|i| (i * 7 % 23) as f32 - 11.0).collect();
            let b: Vec<f32> = (0..n).map(|i| (i * 5 % 19) as f32 - 9.0).collect();
            let sum = |f: fn(f32, f32) -> f32| a.iter().zip(&b).map(|(&x, &y)| f(x, y)).sum();
            let want: [f32; 3] = [
                sum(|x, y| x * y),
                sum(|x, y| (x - y) * (x - y)),
                sum(|x, y| (x - y).abs()),
            ];
            for t in &tables {
                let (a, b) = (bytes_of(&a), bytes_of(&b));
                assert_eq!(
                    [(t.dot)(a, b), (t.l2_squared)(a, b), (t.l1)(a, b)],
                    want,
                    "{n}"
                );
            }
        }
    }
}
