//! Vectors of 32-bit floats, as pgvector has them: text form, arithmetic and distances.
//!
//! A vector is a plain `[f32]` without NaN or infinity; in rows and indexes its elements are
//! little-endian bytes, four each, at any alignment. [`distance`] is for two vectors in memory,
//! [`Probe`] for one query against many stored ones. Both run the same kernels in the same order
//! of summation ([`crate::simd::distance`]), so a scan and an index give the same bits for the same pair.
//!
//! Sums are accumulated in f32 and finished in f64, as pgvector does.

use std::cmp::Ordering;

use crate::failure::{Failure, Result};
use crate::limits::VECTOR_DIMENSIONS_MAX;
use crate::simd::distance as kernel;
use crate::sqlstate::SqlState;

pub mod code;
mod text;

pub use text::{format, parse};

/// How far two vectors are apart; smaller is nearer for each of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Metric {
    /// Euclidean distance.
    L2,
    /// One minus the cosine of the angle; NaN where a vector has no direction.
    Cosine,
    /// The negative inner product, so that ascending order is best first.
    NegativeInner,
    /// Sum of absolute differences.
    L1,
}

impl Metric {
    pub const ALL: [Metric; 4] = [
        Metric::L2,
        Metric::Cosine,
        Metric::NegativeInner,
        Metric::L1,
    ];

    /// The SQL operator.
    pub fn operator(self) -> &'static str {
        match self {
            Metric::L2 => "<->",
            Metric::Cosine => "<=>",
            Metric::NegativeInner => "<#>",
            Metric::L1 => "<+>",
        }
    }

    pub fn from_operator(operator: &str) -> Option<Metric> {
        Metric::ALL.into_iter().find(|m| m.operator() == operator)
    }

    /// The operator class that an index over this metric names.
    pub fn operator_class(self) -> &'static str {
        match self {
            Metric::L2 => "vector_l2_ops",
            Metric::Cosine => "vector_cosine_ops",
            Metric::NegativeInner => "vector_ip_ops",
            Metric::L1 => "vector_l1_ops",
        }
    }

    pub fn from_operator_class(name: &str) -> Option<Metric> {
        Metric::ALL.into_iter().find(|m| m.operator_class() == name)
    }
}

/// Refuses NaN and infinity, which no vector holds.
pub fn check_elements(v: &[f32]) -> Result<()> {
    for x in v {
        if x.is_nan() {
            return Err(data("NaN not allowed in vector"));
        }
        if x.is_infinite() {
            return Err(data("infinite value not allowed in vector"));
        }
    }
    Ok(())
}

/// Refuses numbers of dimensions that no vector has.
pub fn check_length(dimensions: usize) -> Result<()> {
    if dimensions == 0 {
        return Err(data("vector must have at least 1 dimension"));
    }
    if dimensions > VECTOR_DIMENSIONS_MAX {
        return Err(too_many());
    }
    Ok(())
}

/// Refuses a vector that does not fit a column `VECTOR(expected)`.
pub fn check_dimensions(expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(data(format!("expected {expected} dimensions, not {got}")))
}

/// Refuses operands of different dimensions.
pub fn check_same_dimensions(a: &[f32], b: &[f32]) -> Result<()> {
    if a.len() == b.len() {
        return Ok(());
    }
    Err(data(format!(
        "different vector dimensions {} and {}",
        a.len(),
        b.len()
    )))
}

fn data(message: impl Into<String>) -> Failure {
    Failure::new(SqlState::DataException, message)
}

fn too_many() -> Failure {
    Failure::new(
        SqlState::ProgramLimitExceeded,
        format!("vector cannot have more than {VECTOR_DIMENSIONS_MAX} dimensions"),
    )
}

/// Distance of two vectors of equal dimensions (the caller has checked; a debug assertion).
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let b = kernel::bytes_of(b);
    match metric {
        Metric::L2 => f64::from(kernel::l2_squared(a, b)).sqrt(),
        Metric::Cosine => {
            let norms = (squared_norm(a), kernel::squared_norm(b));
            cosine(kernel::dot(a, b), norms.0, norms.1)
        }
        Metric::NegativeInner => -f64::from(kernel::dot(a, b)),
        Metric::L1 => f64::from(kernel::l1(a, b)),
    }
}

/// [`distance`] that refuses unequal dimensions, for SQL.
pub fn distance_checked(metric: Metric, a: &[f32], b: &[f32]) -> Result<f64> {
    check_same_dimensions(a, b)?;
    Ok(distance(metric, a, b))
}

/// The inner product, in f32 sums as [`distance`].
pub fn inner_product(a: &[f32], b: &[f32]) -> f64 {
    f64::from(kernel::dot(a, kernel::bytes_of(b)))
}

/// The sum of squares as the cosine uses it. What an index may store beside a vector.
pub fn squared_norm(v: &[f32]) -> f32 {
    kernel::squared_norm(kernel::bytes_of(v))
}

/// Euclidean norm, summed in f64 as pgvector does, so that it does not overflow.
pub fn norm(v: &[f32]) -> f64 {
    v.iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt()
}

/// Cosine distance from the inner product and the two sums of squares.
fn cosine(dot: f32, a: f32, b: f32) -> f64 {
    let similarity = f64::from(dot) / (f64::from(a) * f64::from(b)).sqrt();
    // Rounding can leave the range by an ulp. NaN stays NaN: there is no direction.
    1.0 - similarity.clamp(-1.0, 1.0)
}

/// One query vector, prepared to be compared with many stored ones.
#[derive(Clone, Debug)]
pub struct Probe {
    metric: Metric,
    query: Vec<f32>,
    squared_norm: f32,
}

impl Probe {
    pub fn new(metric: Metric, query: &[f32]) -> Probe {
        Probe {
            metric,
            query: query.to_vec(),
            squared_norm: squared_norm(query),
        }
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    pub fn query(&self) -> &[f32] {
        &self.query
    }

    /// Distance to a stored vector: little-endian f32 elements, four bytes each, any alignment.
    /// Equal to [`distance`] of the same pair, bit for bit.
    pub fn distance(&self, stored: &[u8]) -> f64 {
        match self.metric {
            Metric::Cosine => self.cosine_with_norm(stored, kernel::squared_norm(stored)),
            Metric::L2 => f64::from(kernel::l2_squared(&self.query, stored)).sqrt(),
            Metric::NegativeInner => -f64::from(kernel::dot(&self.query, stored)),
            Metric::L1 => f64::from(kernel::l1(&self.query, stored)),
        }
    }

    /// The same where the index kept [`squared_norm`] of the stored vector, which saves the
    /// cosine half of its work; other metrics ignore it.
    pub fn distance_with_norm(&self, stored: &[u8], stored_squared_norm: f32) -> f64 {
        match self.metric {
            Metric::Cosine => self.cosine_with_norm(stored, stored_squared_norm),
            Metric::L2 | Metric::NegativeInner | Metric::L1 => self.distance(stored),
        }
    }

    fn cosine_with_norm(&self, stored: &[u8], stored_squared_norm: f32) -> f64 {
        cosine(
            kernel::dot(&self.query, stored),
            self.squared_norm,
            stored_squared_norm,
        )
    }
}

/// Element-wise sum; 22003 on overflow.
pub fn add(a: &[f32], b: &[f32]) -> Result<Vec<f32>> {
    element_wise(a, b, |x, y| x + y)
}

/// Element-wise difference; 22003 on overflow.
pub fn subtract(a: &[f32], b: &[f32]) -> Result<Vec<f32>> {
    element_wise(a, b, |x, y| x - y)
}

/// Element-wise product; 22003 on overflow, and on underflow to zero.
pub fn multiply(a: &[f32], b: &[f32]) -> Result<Vec<f32>> {
    let product = element_wise(a, b, |x, y| x * y)?;
    let vanished = |((x, y), z): ((&f32, &f32), &f32)| *z == 0.0 && *x != 0.0 && *y != 0.0;
    if a.iter().zip(b).zip(&product).any(vanished) {
        return Err(out_of_range("underflow"));
    }
    Ok(product)
}

fn element_wise(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> Result<Vec<f32>> {
    check_same_dimensions(a, b)?;
    let result: Vec<f32> = a.iter().zip(b).map(|(&x, &y)| f(x, y)).collect();
    if result.iter().any(|x| x.is_infinite()) {
        return Err(out_of_range("overflow"));
    }
    Ok(result)
}

fn out_of_range(how: &str) -> Failure {
    Failure::new(
        SqlState::NumericOutOfRange,
        format!("value out of range: {how}"),
    )
}

/// One vector after the other; 54000 above the most dimensions.
pub fn concat(a: &[f32], b: &[f32]) -> Result<Vec<f32>> {
    check_length(a.len() + b.len())?;
    Ok([a, b].concat())
}

/// The vector of length one in the same direction; of zeros, itself.
pub fn l2_normalize(v: &[f32]) -> Vec<f32> {
    let norm = norm(v);
    if norm == 0.0 {
        return vec![0.0; v.len()];
    }
    v.iter().map(|&x| (f64::from(x) / norm) as f32).collect()
}

/// `count` elements from the 1-based `start`; what lies outside the vector is left out.
pub fn subvector(v: &[f32], start: i32, count: i32) -> Result<Vec<f32>> {
    let length = v.len() as i64;
    let first = (i64::from(start) - 1).clamp(0, length);
    let end = (i64::from(start) - 1 + i64::from(count.max(0))).clamp(first, length);
    check_length((end - first) as usize)?;
    Ok(v[first as usize..end as usize].to_vec())
}

/// Order of vectors in SQL: by elements, a prefix before what it begins.
pub fn compare(a: &[f32], b: &[f32]) -> Ordering {
    for (x, y) in a.iter().zip(b) {
        // Not total_cmp: zero equals negative zero.
        match x.partial_cmp(y) {
            Some(Ordering::Equal) | None => {}
            Some(order) => return order,
        }
    }
    a.len().cmp(&b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
        let plain = distance(metric, a, b);
        let mut stored = vec![0u8]; // one byte off: any alignment must do
        stored.extend(b.iter().flat_map(|x| x.to_le_bytes()));
        let probe = Probe::new(metric, a);
        assert_eq!(plain.to_bits(), probe.distance(&stored[1..]).to_bits());
        let norm = squared_norm(b);
        assert_eq!(
            plain.to_bits(),
            probe.distance_with_norm(&stored[1..], norm).to_bits()
        );
        plain
    }

    #[test]
    fn distances_are_pgvectors() {
        use Metric::*;
        assert_eq!(d(L2, &[0., 0.], &[3., 4.]), 5.0);
        assert_eq!(d(L2, &[3e38], &[-3e38]), f64::INFINITY);
        let (a, b) = ([1.0; 9], [1., 1., 1., 1., 1., 1., 1., 4., 5.]);
        assert_eq!(d(L2, &a, &b), 5.0);
        assert_eq!(d(NegativeInner, &[1., 2.], &[3., 4.]), -11.0);
        assert_eq!(inner_product(&[3e38], &[3e38]), f64::INFINITY);
        assert_eq!(d(Cosine, &[1., 2.], &[2., 4.]), 0.0);
        assert!(d(Cosine, &[1., 2.], &[0., 0.]).is_nan());
        assert!(d(Cosine, &[3e38], &[3e38]).is_nan());
        assert_eq!(d(Cosine, &[1., 0.], &[0., 2.]), 1.0);
        assert_eq!(d(Cosine, &[1., 1.], &[-1.1, -1.1]), 2.0);
        let up: Vec<f32> = (1..=9).map(|x| x as f32).collect();
        let down: Vec<f32> = up.iter().map(|x| -x).collect();
        assert_eq!(d(Cosine, &up, &up), 0.0);
        assert_eq!(d(Cosine, &up, &down), 2.0);
        assert_eq!(d(L1, &up, &[0., 3., 2., 5., 4., 7., 6., 9., 8.]), 9.0);
        assert_eq!(d(L1, &[3e38], &[-3e38]), f64::INFINITY);
    }

    #[test]
    fn long_vectors_agree_with_a_sum_in_f64() {
        for n in [1usize, 7, 15, 16, 17, 63, 64, 65, 100, 384, 1536, 16_000] {
            let a: Vec<f32> = (0..n)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0)
                .collect();
            let b: Vec<f32> = (0..n)
                .map(|i| ((i * 53 % 97) as f32 - 48.0) / 13.0)
                .collect();
            let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                a.iter()
                    .zip(&b)
                    .map(|(&x, &y)| f(f64::from(x), f64::from(y)))
                    .sum()
            };
            let dot = sum(&|x, y| x * y);
            let (na, nb) = (norm(&a), norm(&b));
            let near = |got: f64, want: f64| {
                assert!(
                    (got - want).abs() <= 2e-6 * (1.0 + na * nb),
                    "{n}: {got} {want}"
                );
            };
            near(d(Metric::L2, &a, &b), sum(&|x, y| (x - y) * (x - y)).sqrt());
            near(d(Metric::NegativeInner, &a, &b), -dot);
            near(d(Metric::L1, &a, &b), sum(&|x, y| (x - y).abs()));
            let cosine = d(Metric::Cosine, &a, &b);
            assert!((cosine - (1.0 - dot / (na * nb))).abs() < 5e-7, "{n}");
        }
    }

    #[test]
    fn arithmetic_refuses_to_leave_the_range() {
        assert_eq!(add(&[1., 2.], &[4., 5.]).unwrap(), [5., 7.]);
        assert_eq!(subtract(&[1., 2.], &[4., 5.]).unwrap(), [-3., -3.]);
        assert_eq!(multiply(&[1., 0.], &[4., 5.]).unwrap(), [4., 0.]);
        let message = |r: Result<Vec<f32>>| r.unwrap_err().to_string();
        assert_eq!(
            message(add(&[3e38], &[3e38])),
            "value out of range: overflow (22003)"
        );
        assert_eq!(
            message(multiply(&[1e-37], &[1e-37])),
            "value out of range: underflow (22003)"
        );
        let different = "different vector dimensions 2 and 1 (22000)";
        assert_eq!(message(add(&[1., 2.], &[3.])), different);
        assert_eq!(
            distance_checked(Metric::L1, &[1., 2.], &[3.])
                .unwrap_err()
                .to_string(),
            different
        );
        let full = vec![0.0; VECTOR_DIMENSIONS_MAX];
        assert_eq!(
            message(concat(&full, &[1.])),
            "vector cannot have more than 16000 dimensions (54000)"
        );
        assert_eq!(
            check_dimensions(2, 3).unwrap_err().to_string(),
            "expected 2 dimensions, not 3 (22000)"
        );
    }

    #[test]
    fn parts_norms_and_order() {
        let v = [1., 2., 3., 4., 5.];
        assert_eq!(subvector(&v, 1, 3).unwrap(), [1., 2., 3.]);
        assert_eq!(subvector(&v, -1, 3).unwrap(), [1.]);
        assert_eq!(subvector(&v, 3, 9).unwrap(), [3., 4., 5.]);
        assert_eq!(subvector(&v, 3, i32::MAX).unwrap(), [3., 4., 5.]);
        assert_eq!(subvector(&v, -2_147_483_644, i32::MAX).unwrap(), [1., 2.]);
        for (start, count) in [
            (1, 0),
            (3, -1),
            (-1, 2),
            (i32::MAX, 10),
            (i32::MIN, i32::MIN),
        ] {
            assert!(subvector(&v, start, count).is_err());
        }
        assert_eq!(norm(&[3e37, 4e37]) as f32, 5e37);
        assert_eq!(l2_normalize(&[3., 4.]), [0.6, 0.8]);
        assert_eq!(l2_normalize(&[3e38]), [1.0]);
        assert_eq!(l2_normalize(&[0., 0.]), [0., 0.]);
        assert_eq!(compare(&[1., 2.], &[1., 2., 3.]), Ordering::Less);
        assert_eq!(compare(&[2., 3.], &[1., 2., 3.]), Ordering::Greater);
        assert_eq!(compare(&[0.], &[-0.]), Ordering::Equal);
        assert_eq!(Metric::from_operator("<+>"), Some(Metric::L1));
        assert_eq!(
            Metric::from_operator_class("vector_ip_ops"),
            Some(Metric::NegativeInner)
        );
    }
}
