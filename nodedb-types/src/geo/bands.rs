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

const BANDS: usize = 64;
const LATITUDE_MAX: f64 = 80.0;
const MARGIN: f64 = 1e-11;
const DEGREES_MARGIN: f64 = 1e-9;

/// Least and greatest half-widths of a circle.
#[derive(Clone, Debug)]
pub(super) struct Bands {
    /// Degrees.
    longitude: f64,
    south: f64,
    per_degree: f64,
    /// For each band: degrees of longitude up to which a point is surely inside (negative when
    /// none is), and beyond which it is surely outside.
    widths: Vec<(f64, f64)>,
}

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
        let sphere = Sphere::new(latitude);
        let edges = (0..=BANDS).map(|edge| {
            let at = (south + edge as f64 * height).to_radians();
            (sphere.inside(at, inner), sphere.outside(at, outer))
        });
        let edges: Vec<(f64, f64)> = edges.collect();
        let mut widths: Vec<(f64, f64)> = edges
            .windows(2)
            .map(|edges| (edges[0].0.min(edges[1].0), edges[0].1.max(edges[1].1)))
            .collect();
        let widest = (latitude.to_radians().sin() / outer.cos()).asin();
        if widest.is_nan() {
            return None;
        }
        let bands = Bands {
            longitude,
            south,
            per_degree: 1.0 / height,
            widths: Vec::new(),
        };
        // It may stand at an edge: the bands on both sides of it count.
        let at = bands.band(widest.to_degrees());
        for (_, greatest) in &mut widths[at.saturating_sub(1)..(at + 2).min(BANDS)] {
            *greatest = greatest.max(sphere.outside(widest, outer));
        }
        Some(Bands { widths, ..bands })
    }

    fn band(&self, latitude: f64) -> usize {
        (((latitude - self.south) * self.per_degree) as usize).min(BANDS - 1)
    }

    /// Whether a point within reach of the centre is inside, where the bands tell.
    #[inline]
    pub(super) fn decide(&self, lon: f64, lat: f64) -> Option<bool> {
        let (least, greatest) = self.widths[self.band(lat)];
        let apart = (lon - self.longitude).abs();
        let apart = if apart > 180.0 { 360.0 - apart } else { apart };
        if apart <= least {
            Some(true)
        } else if apart > greatest {
            Some(false)
        } else {
            None
        }
    }
}

/// The unit sphere as seen from a latitude.
struct Sphere {
    sin: f64,
    cos: f64,
}

impl Sphere {
    fn new(latitude: f64) -> Sphere {
        let (sin, cos) = latitude.to_radians().sin_cos();
        Sphere { sin, cos }
    }

    /// The cosine of the half-width, in longitude, of a circle on a parallel.
    fn half_width(&self, parallel: f64, angle: f64) -> f64 {
        let (sin, cos) = parallel.sin_cos();
        (angle.cos() - self.sin * sin) / (self.cos * cos)
    }

    /// Degrees, at most the half-width; negative where the parallel is not met.
    fn inside(&self, parallel: f64, angle: f64) -> f64 {
        let cosine = self.half_width(parallel, angle) + MARGIN;
        if cosine >= 1.0 {
            return -1.0;
        }
        cosine.max(-1.0).acos().to_degrees() - DEGREES_MARGIN
    }

    /// Degrees, at least the half-width.
    fn outside(&self, parallel: f64, angle: f64) -> f64 {
        let cosine = self.half_width(parallel, angle) - MARGIN;
        cosine.clamp(-1.0, 1.0).acos().to_degrees() + DEGREES_MARGIN
    }
}
