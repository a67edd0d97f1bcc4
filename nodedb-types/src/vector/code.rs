//! Codes of a byte for each element, and the bound of a distance that they give.
//!
//! A vector `v` is written as `s·c + r`: a scale, whole numbers of -127 to 127, and what they
//! leave out, of which only the length `R ≥ |r|` is kept. A query `q` is `t·d + e` with whole
//! numbers of 16 bits and `E ≥ |e|`. By Cauchy and Schwarz
//!
//! ```text
//! q·v = s·t·(d·c) + e·(s·c) + q·r  ≤  s·t·(d·c) + E·(|v| + R) + |q|·R
//! ```
//!
//! and `d·c` is a sum of whole numbers, cheap and exact. From the largest inner product follows
//! the least distance: cosine, Euclidean and negative inner product. Sums of absolute differences
//! get no bound this way.
//!
//! # Rounding
//!
//! The bound is one of the distance *as it is computed*, in f32 in some order of summation, so
//! that a vector whose bound is above a distance is surely farther. A sum of n products computed
//! in f32 is off by at most γ·Σ|aᵢbᵢ| ≤ γ·|a|·|b| with γ = nu/(1-nu), u = 2⁻²⁴, in any order
//! (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1); n is at most 16,000,
//! so nu < 10⁻³ and γ < 1.001·nu. The slack is g = (n + 16)·2u, about twice that:
//!
//! * The squared norms are such sums, so |v| ≤ V·(1 + g) for V the root of the computed one.
//! * To the inner product g·|q|·|v| is added. One nu covers its own computation; the rest, at
//!   least 16u·|q|·|v|, covers the f64 arithmetic of the bound (a few 2⁻⁵³ of terms that are
//!   below 4·|q|·|v|), that of `E`, and the division and roots of the cosine.
//! * A sum of squared differences is off by γ of itself with n + 2 for n, thus by at most
//!   2γ·(|q|² + |v|²), and the two squared norms by γ each: 2g·(|q|² + |v|²) are taken off.
//! * Overflow and underflow do not occur where both squared norms lie between 2⁻⁸⁰ and 2⁸⁰: no
//!   partial sum exceeds 2⁸², and products that vanish add up to less than 2⁻¹³⁴. Other vectors
//!   (zeros among them) get the bound -∞.

use super::{Metric, Probe};
use crate::limits::VECTOR_DIMENSIONS_MAX;
use crate::simd::code as kernel;

const CODE_MAX: f32 = 127.0;
const QUERY_MAX: i32 = i16::MAX as i32;
/// Squared norms between which nothing overflows and what vanishes does not matter: 2⁻⁸⁰, 2⁸⁰.
const SQUARED_MIN: f32 = 1.0 / SQUARED_MAX;
const SQUARED_MAX: f32 = (1u128 << 80) as f32;

const _: () = assert!(VECTOR_DIMENSIONS_MAX <= 16_000);

/// What belongs to the whole numbers of a code.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The vector is about this times its code.
    scale: f32,
    /// The length of what the code leaves out, rounded up; infinite where nothing is known.
    residual: f32,
    squared_norm: f32,
}

impl Scale {
    /// The sum of squares that was given to [`encode`].
    pub fn squared_norm(&self) -> f32 {
        self.squared_norm
    }
}

fn is_plain(squared_norm: f32) -> bool {
    (SQUARED_MIN..=SQUARED_MAX).contains(&squared_norm)
}

/// Appends the code of a stored vector, a number for each element. `squared_norm` is that of the
/// vector as [`super::squared_norm`] gives it.
pub fn encode(stored: &[u8], squared_norm: f32, code: &mut Vec<i8>) -> Scale {
    let (elements, _) = stored.as_chunks::<4>();
    let elements = elements.iter().map(|bytes| f32::from_le_bytes(*bytes));
    if !is_plain(squared_norm) {
        code.extend(elements.map(|_| 0));
        return Scale {
            scale: 0.0,
            residual: f32::INFINITY,
            squared_norm,
        };
    }
    let largest = elements.clone().fold(0f32, |most, x| most.max(x.abs()));
    let (scale, inverse) = (largest / CODE_MAX, CODE_MAX / largest);
    // Adding 1.5·2²³ rounds to a whole number, which then stands in the low bits.
    let whole = |x: f32| (x * inverse + 12_582_912.0).to_bits() as i8;
    let from = code.len();
    code.extend(elements.clone().map(whole));
    let squared: f64 = elements
        .zip(&code[from..])
        .map(|(x, c)| f64::from(x) - f64::from(scale) * f64::from(*c))
        .map(|left| left * left)
        .sum();
    Scale {
        scale,
        residual: (squared.sqrt() as f32).next_up(),
        squared_norm,
    }
}

/// A query that bounds its distances from below by the codes of vectors.
#[derive(Clone, Debug)]
pub struct CodeProbe {
    metric: Metric,
    /// `d`, and `t`.
    query: Vec<i16>,
    scale: f64,
    /// `E`.
    residual: f64,
    squared_norm: f64,
    norm: f64,
    /// `g`.
    slack: f64,
}

impl CodeProbe {
    /// None where nothing can be said of any vector.
    pub fn new(probe: &Probe) -> Option<CodeProbe> {
        if probe.metric == Metric::L1 || !is_plain(probe.squared_norm) {
            return None;
        }
        let elements = || probe.query.iter().map(|x| f64::from(*x));
        let dimensions = probe.query.len();
        // So that no sum of products with codes leaves 31 bits.
        let most = (i32::MAX / (CODE_MAX as i32 * dimensions as i32)).min(QUERY_MAX);
        let largest = elements().fold(0f64, |most, x| most.max(x.abs()));
        let scale = largest / f64::from(most);
        let whole = |x: f64| ((x / scale).round() as i32).clamp(-most, most) as i16;
        let query: Vec<i16> = elements().map(whole).collect();
        let left = elements()
            .zip(&query)
            .map(|(x, d)| x - scale * f64::from(*d));
        let squared_norm = f64::from(probe.squared_norm);
        Some(CodeProbe {
            metric: probe.metric,
            residual: left.map(|x| x * x).sum::<f64>().sqrt(),
            query,
            scale,
            squared_norm,
            norm: squared_norm.sqrt(),
            slack: (dimensions + 16) as f64 * 2f64.powi(-23),
        })
    }

    /// At most the distance that [`Probe::distance`] computes to a vector with this code, unless
    /// that is NaN. Never NaN itself.
    #[inline]
    pub fn lower_bound(&self, code: &[i8], of: Scale) -> f64 {
        if of.residual.is_infinite() {
            return f64::NEG_INFINITY;
        }
        let squared_norm = f64::from(of.squared_norm);
        let (norm, residual) = (squared_norm.sqrt(), f64::from(of.residual));
        let norms = self.norm * norm;
        let up = 1.0 + self.slack;
        let about = self.scale * f64::from(of.scale) * f64::from(kernel::dot(code, &self.query));
        let product = about
            + self.norm * up * residual
            + self.residual * (norm * up + residual)
            + self.slack * norms * up * up;
        match self.metric {
            Metric::Cosine => 1.0 - (product / norms).clamp(-1.0, 1.0),
            Metric::NegativeInner => -product,
            Metric::L2 => {
                let squares = self.squared_norm + squared_norm;
                let least = squares - 2.0 * product - 2.0 * self.slack * squares;
                least.max(0.0).sqrt()
            }
            Metric::L1 => f64::NEG_INFINITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::simd::distance::bytes_of;
    use crate::vector::squared_norm;

    /// The bound and the distance as computed; none where there is no bound.
    fn bound_and_distance(metric: Metric, query: &[f32], v: &[f32]) -> Option<(f64, f64)> {
        let probe = Probe::new(metric, query);
        let mut code = Vec::new();
        let scale = encode(bytes_of(v), squared_norm(v), &mut code);
        assert_eq!(scale.squared_norm().to_bits(), squared_norm(v).to_bits());
        let bound = CodeProbe::new(&probe)?.lower_bound(&code, scale);
        assert!(!bound.is_nan());
        Some((bound, probe.distance(bytes_of(v))))
    }

    fn check(query: &[f32], v: &[f32]) {
        for metric in Metric::ALL {
            if let Some((bound, distance)) = bound_and_distance(metric, query, v) {
                assert!(
                    bound <= distance || distance.is_nan(),
                    "{metric:?} {bound} {distance} {query:?} {v:?}"
                );
            }
        }
    }

    fn element() -> impl Strategy<Value = f32> {
        let plain = -1f32..1.0;
        prop_oneof![
            8 => plain.clone(),
            1 => Just(0.0),
            1 => Just(-0.0),
            // One element that makes all others small, and steps of a code in between.
            1 => (-40i32..40, plain.clone()).prop_map(|(e, x)| x * 2f32.powi(e)),
            1 => (-254i32..254).prop_map(|half| half as f32 / 254.0),
            1 => any::<f32>().prop_filter("finite", |x| x.is_finite()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn the_bound_is_never_above_the_distance(
            pairs in prop::collection::vec((element(), element(), -1f32..1.0), 1..70),
            exponents in (-60i32..60, -60i32..60),
            nearness in prop_oneof![Just(0f32), Just(1e-7), Just(1e-3), Just(0.1)],
        ) {
            let query: Vec<f32> = pairs.iter().map(|p| p.0).collect();
            let v: Vec<f32> = pairs.iter().map(|p| p.1).collect();
            check(&query, &v);
            // The same direction, the opposite one, and what lies near to it, at any length.
            let by = |x: f32, e: i32| (x * 2f32.powi(e)).clamp(f32::MIN, f32::MAX);
            let (a, b) = exponents;
            let scaled: Vec<f32> = query.iter().map(|x| by(*x, a)).collect();
            let near: Vec<f32> = pairs.iter().map(|p| by(p.0 + p.2 * nearness, b)).collect();
            check(&scaled, &near);
            let opposite: Vec<f32> = near.iter().map(|x| -x).collect();
            check(&scaled, &opposite);
            check(&near, &near);
        }

        #[test]
        fn wide_vectors_too(
            seed in any::<u32>(),
            dimensions in prop_oneof![Just(384usize), Just(516), Just(517), Just(16_000)],
            offset in prop_oneof![Just(0f32), Just(1.0), Just(100.0)],
        ) {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                offset + (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            let query: Vec<f32> = (0..dimensions).map(|_| next()).collect();
            let v: Vec<f32> = (0..dimensions).map(|_| next()).collect();
            check(&query, &v);
            check(&query, &query);
            check(&vec![1.0; dimensions], &vec![1.0; dimensions]);
            check(&vec![1.0; dimensions], &vec![-1.0; dimensions]);
        }
    }

    #[test]
    fn the_bound_is_close() {
        let wave = |phase: f32| (0..384).map(move |i| (i as f32 * 0.7 + phase).sin());
        let query: Vec<f32> = wave(0.0).collect();
        for step in 0..30 {
            let v: Vec<f32> = wave(step as f32 / 10.0).collect();
            let found = bound_and_distance(Metric::Cosine, &query, &v);
            let (bound, distance) = found.unwrap();
            assert!(
                (0.0..0.006).contains(&(distance - bound)),
                "{bound} {distance}"
            );
            let found = bound_and_distance(Metric::NegativeInner, &query, &v);
            let (bound, distance) = found.unwrap();
            assert!(
                (0.0..1.2).contains(&(distance - bound)),
                "{bound} {distance}"
            );
        }
    }

    #[test]
    fn nothing_is_said_of_what_may_overflow_or_vanish() {
        let bound = |query: &[f32], v: &[f32]| {
            bound_and_distance(Metric::Cosine, query, v).map(|(bound, _)| bound)
        };
        for v in [[0.0f32; 2], [1e-30, 0.0], [3e38, 3e38], [1e15, -1e15]] {
            assert_eq!(bound(&[1.0, 2.0], &v), Some(f64::NEG_INFINITY));
            assert_eq!(bound(&v, &[1.0, 2.0]), None);
        }
        assert!(CodeProbe::new(&Probe::new(Metric::L1, &[1.0])).is_none());
    }
}
