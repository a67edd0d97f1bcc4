//! Codes of a byte for each element, in two halves, and the bounds of a distance that they give.
//!
//! A vector `v` is written as `s·c + r`: a scale, whole numbers of -127 to 127, and what they
//! leave out, of which only the length `R ≥ |r|` is kept. A query `q` is `t·d + e` with whole
//! numbers of 15 bits and `E ≥ |e|`. By Cauchy and Schwarz
//!
//! ```text
//! q·v = s·t·(d·c) + e·(s·c) + q·r  ≤  s·t·(d·c) + E·(|v| + R) + |q|·R
//! ```
//!
//! and `d·c` is a sum of whole numbers, cheap and exact. From the largest inner product follows
//! the least distance: cosine, Euclidean and negative inner product. Sums of absolute differences
//! get no bound this way.
//!
//! # Two halves
//!
//! A scan is as fast as it gets at the codes, so it reads half of each first. `c + 128` is
//! `16·h + l` with 4 bits each; all `h` of a vector stand together, its *coarse* half, and all `l`,
//! its *fine* half. With `m = 16·h - 120.5`, the middle of what `h` leaves open, `v` is `s·m + r'`
//! and the length of `r'` is kept as well: the same bound from half of the bytes, off by about a
//! tenth of |q|·|v|, which leaves few rows in a hundred. For those the fine half is read too.
//!
//! `d` is written `128·a + b` with 8 bits each, and the coarse half is multiplied with `a` alone:
//! `q` is `t·128·a + e'`. With sums `K` of 4-bit numbers times 8-bit ones
//!
//! ```text
//! a·m = 16·K(h,a) - 120.5·Σa
//! d·c = 16·(128·K(h,a) + K(h,b)) + 128·K(l,a) + K(l,b) - 128·Σd
//! ```
//!
//! Scales and lengths of what is left out are kept as shares of `V`, the computed length of the
//! vector, so that a cosine needs neither a root nor a division for a row.
//!
//! In a byte of a half, the lower bits are of an element in the first half of the vector and the
//! upper ones of that as far into the second.
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
use crate::simd::code::{Dot, dot};

const CODE_MAX: f32 = 127.0;
/// The largest part of a query: `a` has 8 bits then.
const QUERY_MAX: f64 = 127.0 * 128.0;
/// Added to an f32, and to an f64, these round to a whole number, which then stands in the low
/// bits: 1.5·2²³ and 1.5·2⁵².
const WHOLE_F32: f32 = 12_582_912.0;
const WHOLE_F64: f64 = 6_755_399_441_055_744.0;
/// Squared norms between which nothing overflows and what vanishes does not matter: 2⁻⁸⁰, 2⁸⁰.
const SQUARED_MIN: f32 = 1.0 / SQUARED_MAX;
const SQUARED_MAX: f32 = (1u128 << 80) as f32;

// No sum of products of 4 bits with 8 leaves 31 bits.
const _: () = assert!(VECTOR_DIMENSIONS_MAX <= 16_000);

/// What belongs to the whole numbers of a code.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scale {
    /// The vector is about this times its length times its code.
    scale: f32,
    /// The length of what the code leaves out by that of the vector, rounded up; infinite where
    /// nothing is known.
    residual: f32,
    /// The same for the coarse half alone.
    coarse_residual: f32,
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

/// Bytes of each half of a code.
#[inline]
pub fn half_bytes(dimensions: usize) -> usize {
    dimensions.div_ceil(2)
}

/// Where codes are appended, [`half_bytes`] to each.
#[derive(Clone, Default)]
pub struct Halves {
    pub coarse: Vec<u8>,
    pub fine: Vec<u8>,
}

/// Appends the code of a stored vector. `squared_norm` is that of the vector as
/// [`super::squared_norm`] gives it.
pub fn encode(stored: &[u8], squared_norm: f32, code: &mut Halves) -> Scale {
    let (elements, _) = stored.as_chunks::<4>();
    let half = half_bytes(elements.len());
    let from = code.coarse.len();
    code.coarse.resize(from + half, 0);
    code.fine.resize(from + half, 0);
    let (coarse, fine) = (&mut code.coarse[from..], &mut code.fine[from..]);
    if !is_plain(squared_norm) {
        return Scale {
            scale: 0.0,
            residual: f32::INFINITY,
            coarse_residual: f32::INFINITY,
            squared_norm,
        };
    }
    let value = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
    let largest = elements.iter().map(value);
    let largest = largest.fold(0f32, |most, x| most.max(x.abs()));
    let (norm, inverse) = (f64::from(squared_norm).sqrt(), CODE_MAX / largest);
    let share = (f64::from(largest) / f64::from(CODE_MAX) / norm) as f32;
    // What a bound multiplies with, so that nothing is left out but what is counted here.
    let scale = f64::from(share) * norm;
    let (mut left, mut coarse_left) = (0f64, 0f64);
    for (shift, part) in elements.chunks(half).enumerate() {
        for ((bytes, coarse), fine) in part.iter().zip(&mut *coarse).zip(&mut *fine) {
            let x = value(bytes);
            let c = (x * inverse + WHOLE_F32).to_bits() as i8;
            let whole = (i32::from(c) + 128) as u8;
            *coarse |= (whole >> 4) << (4 * shift);
            *fine |= (whole & 15) << (4 * shift);
            let x = f64::from(x);
            let r = x - scale * f64::from(c);
            left += r * r;
            let r = x - scale * (f64::from(whole & 0xf0) - MIDDLE);
            coarse_left += r * r;
        }
    }
    let share_of = |squared: f64| ((squared.sqrt() / norm) as f32).next_up();
    Scale {
        scale: share,
        residual: share_of(left),
        coarse_residual: share_of(coarse_left),
        squared_norm,
    }
}

/// `m` is this below `16·h`.
const MIDDLE: f64 = 120.5;

/// A query that bounds its distances from below by the codes of vectors.
#[derive(Clone, Debug)]
pub struct CodeProbe {
    metric: Metric,
    dot: Dot,
    /// `a` and `b`, each as the bytes of a half have their elements: first those of the lower
    /// bits, then those of the upper.
    a: [Vec<i8>; 2],
    b: [Vec<i8>; 2],
    /// `Σa` and `Σd`.
    sum_a: i64,
    sum: i64,
    /// `t`.
    scale: f64,
    /// `E`, and that of `a` alone.
    residual: f64,
    coarse_residual: f64,
    squared_norm: f64,
    norm: f64,
    inverse_norm: f64,
    /// `g`.
    slack: f64,
}

impl CodeProbe {
    /// None where nothing can be said of any vector.
    pub fn new(probe: &Probe) -> Option<CodeProbe> {
        if probe.metric == Metric::L1 || !is_plain(probe.squared_norm) {
            return None;
        }
        let query = &probe.query[..];
        let (dimensions, half) = (query.len(), half_bytes(query.len()));
        let largest = query.iter().fold(0f32, |most, x| most.max(x.abs()));
        let scale = f64::from(largest) / QUERY_MAX;
        let squared_norm = f64::from(probe.squared_norm);
        let mut made = CodeProbe {
            metric: probe.metric,
            dot: dot(),
            a: [vec![0; half], vec![0; half]],
            b: [vec![0; half], vec![0; half]],
            sum_a: 0,
            sum: 0,
            scale,
            residual: 0.0,
            coarse_residual: 0.0,
            squared_norm,
            norm: squared_norm.sqrt(),
            inverse_norm: 1.0 / squared_norm.sqrt(),
            slack: (dimensions + 16) as f64 * 2f64.powi(-23),
        };
        let inverse = 1.0 / scale;
        for (part, (all_a, all_b)) in made.a.iter_mut().zip(&mut made.b).enumerate() {
            let from = part * half;
            for ((x, a), b) in query[from..].iter().zip(all_a).zip(all_b) {
                let x = f64::from(*x);
                let d = (x * inverse + WHOLE_F64).to_bits() as i32;
                // Rounded, so that b lies between -64 and 63.
                let upper = (d + 64) >> 7;
                (*a, *b) = (upper as i8, (d - 128 * upper) as i8);
                made.sum += i64::from(d);
                made.sum_a += i64::from(upper);
                let left = x - scale * f64::from(d);
                made.residual += left * left;
                let left = x - scale * f64::from(128 * upper);
                made.coarse_residual += left * left;
            }
        }
        made.residual = made.residual.sqrt();
        made.coarse_residual = made.coarse_residual.sqrt();
        Some(made)
    }

    /// What [`CodeProbe::coarse_bounds`] needs of a coarse half.
    #[inline]
    pub fn coarse_product(&self, coarse: &[u8]) -> i32 {
        (self.dot)(coarse, &self.a[0], &self.a[1])
    }

    /// Appends a bound for each of some codes: as [`CodeProbe::lower_bound`], but of the coarse
    /// half alone and so farther off.
    pub fn coarse_bounds(&self, products: &[i32], of: &[Scale], bounds: &mut Vec<f64>) {
        debug_assert_eq!(products.len(), of.len());
        let middle = MIDDLE * self.sum_a as f64;
        let both = products.iter().zip(of);
        bounds.extend(both.map(|(product, of)| {
            let product = 16.0 * f64::from(*product) - middle;
            let residuals = (self.coarse_residual, of.coarse_residual);
            self.bound(128.0 * product, residuals, of)
        }));
    }

    /// At most the distance that [`Probe::distance`] computes to a vector with this code, unless
    /// that is NaN. Never NaN itself.
    #[inline]
    pub fn lower_bound(&self, coarse: &[u8], fine: &[u8], of: &Scale) -> f64 {
        let dot =
            |half: &[u8], query: &[Vec<i8>; 2]| i64::from((self.dot)(half, &query[0], &query[1]));
        let upper = 128 * dot(coarse, &self.a) + dot(coarse, &self.b);
        let lower = 128 * dot(fine, &self.a) + dot(fine, &self.b);
        let product = 16 * upper + lower - 128 * self.sum;
        self.bound(product as f64, (self.residual, of.residual), of)
    }

    /// The bound from the whole numbers' inner product; `residuals` are those of the query and of
    /// the vector.
    #[inline]
    fn bound(&self, product: f64, residuals: (f64, f32), of: &Scale) -> f64 {
        let residual = f64::from(residuals.1);
        let up = 1.0 + self.slack;
        // Of the vector brought to length one.
        let product = self.scale * f64::from(of.scale) * product
            + self.norm * up * residual
            + residuals.0 * (up + residual)
            + self.slack * self.norm * up * up;
        let squared_norm = f64::from(of.squared_norm);
        let bound = match self.metric {
            Metric::Cosine => 1.0 - (product * self.inverse_norm).clamp(-1.0, 1.0),
            Metric::NegativeInner => -product * squared_norm.sqrt(),
            Metric::L2 => {
                let squares = self.squared_norm + squared_norm;
                let least =
                    squares - 2.0 * product * squared_norm.sqrt() - 2.0 * self.slack * squares;
                least.max(0.0).sqrt()
            }
            Metric::L1 => f64::NEG_INFINITY,
        };
        match residual.is_infinite() {
            true => f64::NEG_INFINITY,
            false => bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::simd::distance::bytes_of;
    use crate::vector::squared_norm;

    fn coarse_bound(codes: &CodeProbe, coarse: &[u8], scale: Scale) -> f64 {
        let mut bounds = Vec::new();
        codes.coarse_bounds(&[codes.coarse_product(coarse)], &[scale], &mut bounds);
        bounds[0]
    }

    /// The bound and the distance as computed; none where there is no bound.
    fn bound_and_distance(metric: Metric, query: &[f32], v: &[f32]) -> Option<(f64, f64)> {
        let probe = Probe::new(metric, query);
        // Behind another one.
        let mut code = Halves::default();
        encode(bytes_of(query), squared_norm(query), &mut code);
        let from = code.coarse.len();
        let scale = encode(bytes_of(v), squared_norm(v), &mut code);
        let (coarse, fine) = (&code.coarse[from..], &code.fine[from..]);
        assert_eq!(
            (coarse.len(), fine.len()),
            (half_bytes(v.len()), half_bytes(v.len()))
        );
        assert_eq!(scale.squared_norm().to_bits(), squared_norm(v).to_bits());
        let codes = CodeProbe::new(&probe)?;
        let bounds = [
            coarse_bound(&codes, coarse, scale),
            codes.lower_bound(coarse, fine, &scale),
        ];
        assert!(!bounds[0].is_nan() && !bounds[1].is_nan());
        let distance = probe.distance(bytes_of(v));
        assert!(
            bounds[0] <= distance || distance.is_nan(),
            "{metric:?} {bounds:?} {distance} {query:?} {v:?}"
        );
        Some((bounds[1], distance))
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
    fn the_coarse_bound_is_close() {
        let wave = |phase: f32| (0..385).map(move |i| (i as f32 * 0.7 + phase).sin());
        let query: Vec<f32> = wave(0.0).collect();
        let probe = Probe::new(Metric::Cosine, &query);
        let codes = CodeProbe::new(&probe).unwrap();
        for step in 0..30 {
            let v: Vec<f32> = wave(step as f32 / 10.0).collect();
            let mut code = Halves::default();
            let scale = encode(bytes_of(&v), squared_norm(&v), &mut code);
            let bound = coarse_bound(&codes, &code.coarse, scale);
            let distance = probe.distance(bytes_of(&v));
            assert!(
                (0.0..0.1).contains(&(distance - bound)),
                "{bound} {distance}"
            );
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
