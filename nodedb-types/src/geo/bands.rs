//! A circle on the unit sphere cut into bands of latitude, so that nearly every point is decided
//! by comparing longitudes.
//!
//! For a circle of angle θ around (φ₀, λ₀) the points of a parallel φ inside are those within
//! h(φ) = acos((cos θ − sin φ₀ sin φ) / (cos φ₀ cos φ)) of λ₀. The argument's derivative has the
//! sign of cos θ sin φ − sin φ₀, so where the circle holds no pole and cos θ > 0, h rises up to
//! the parallel sin φ = sin φ₀ / cos θ and falls from there. Hence inside a band h is at least
//! the smaller of its values at the two edges, and at most the larger of them or, where that
//! parallel lies in the band, its value there. A point is surely inside when it is within the
//! least half-width of its band for the smaller of two angles, and surely outside beyond the
//! greatest for the larger one.
//!
//! Latitudes stay within 80 degrees, where rounding moves the argument by less than 1e-13;
//! [`MARGIN`] is taken off or added before the arc cosine, which may be steep, and
//! [`DEGREES_MARGIN`] after it. The latter also covers a point that rounding puts into the band
//! next to its own, where h differs by less than 1e-12.

use crate::simd::bands::{BANDS, Points, Table};

const LATITUDE_MAX: f64 = 80.0;
const MARGIN: f64 = 1e-11;
const DEGREES_MARGIN: f64 = 1e-9;

/// Least and greatest half-widths of a circle.
#[derive(Clone, Debug)]
pub(super) struct Bands(Box<Table>);

impl Bands {
    /// Around a centre in degrees, `reach` degrees to the north and south, for an angle within
    /// which all is inside and one beyond which all is outside (radians). None near the poles.
    pub(super) fn new(centre: (f64, f64), reach: f64, inner: f64, outer: f64) -> Option<Bands> {
        let (longitude, latitude) = centre;
        let (south, north) = (latitude - reach, latitude + reach);
        // Then `reach`, hence the outer angle, is below 80 degrees too.
        if !(south > -LATITUDE_MAX && north < LATITUDE_MAX) {
            return None;
        }
        let height = (north - south) / BANDS as f64;
        let sphere = Sphere::new(latitude, inner, outer);
        let edges: [(f64, f64); BANDS + 1] = std::array::from_fn(|edge| {
            sphere.half_widths((south + edge as f64 * height).to_radians())
        });
        let widest = (sphere.sin / sphere.cos_outer).asin();
        if widest.is_nan() {
            return None;
        }
        let mut table = Box::new(Table {
            longitude,
            latitude,
            reach,
            south,
            per_degree: 1.0 / height,
            widths: std::array::from_fn(|band| {
                let (one, other) = (edges[band], edges[band + 1]);
                [one.0.min(other.0), one.1.max(other.1)]
            }),
        });
        // It may stand at an edge: the bands on both sides of it count.
        let at = table.band(widest.to_degrees());
        let (_, most) = sphere.half_widths(widest);
        for [_, greatest] in &mut table.widths[at.saturating_sub(1)..(at + 2).min(BANDS)] {
            *greatest = greatest.max(most);
        }
        Some(Bands(table))
    }

    /// Whether a point within reach of the centre is inside, where the bands tell.
    #[inline]
    pub(super) fn decide(&self, lon: f64, lat: f64) -> Option<bool> {
        match self.0.tell(lon, lat) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }

    /// Whether a point is surely inside, and whether it is surely outside.
    #[inline]
    pub(super) fn decide_any(&self, lon: f64, lat: f64) -> (bool, bool) {
        self.0.decide(lon, lat)
    }

    /// The same for a row of points, as bits.
    pub(super) fn decide_row(&self, points: &Points) -> (u64, u64) {
        self.0.decide_row(points)
    }
}

/// Two circles on the unit sphere around a point of a latitude.
struct Sphere {
    sin: f64,
    cos: f64,
    /// Of the two circles' angles.
    cos_inner: f64,
    cos_outer: f64,
}

impl Sphere {
    fn new(latitude: f64, inner: f64, outer: f64) -> Sphere {
        let (sin, cos) = latitude.to_radians().sin_cos();
        Sphere {
            sin,
            cos,
            cos_inner: inner.cos(),
            cos_outer: outer.cos(),
        }
    }

    /// Degrees of longitude on a parallel: at most the half-width of the inner circle, negative
    /// where it does not meet the parallel, and at least that of the outer one.
    fn half_widths(&self, parallel: f64) -> (f64, f64) {
        let (sin, cos) = parallel.sin_cos();
        let cosine = |of_angle: f64| (of_angle - self.sin * sin) / (self.cos * cos);
        let least = match cosine(self.cos_inner) + MARGIN {
            surely_not if surely_not >= 1.0 => -1.0,
            cosine => cosine.max(-1.0).acos().to_degrees() - DEGREES_MARGIN,
        };
        let cosine = cosine(self.cos_outer) - MARGIN;
        let greatest = cosine.clamp(-1.0, 1.0).acos().to_degrees() + DEGREES_MARGIN;
        (least, greatest)
    }
}
