//! Points against a circle that is cut into bands of latitude (`crate::geo::bands`), 64 at a time.
//!
//! Every instruction set does the same operations on the same numbers in the same order, nothing
//! is fused, and comparisons with NaN are false in each, so the answers are those of
//! [`Table::decide`] bit for bit. As in [`super::distance`] the processor is asked once; unsafe is
//! confined to loads and to calling what was detected.

use std::sync::OnceLock;

pub const BANDS: usize = 64;
/// Points of a row.
pub const ROW: usize = 64;

/// Longitude and latitude, degrees.
pub type Points = [[f64; 2]; ROW];

/// What a circle's bands say.
#[derive(Clone, Debug)]
pub struct Table {
    /// The centre, degrees.
    pub longitude: f64,
    pub latitude: f64,
    /// Differences of latitude beyond this are surely outside, degrees.
    pub reach: f64,
    /// Where the first band begins, and bands for a degree.
    pub south: f64,
    pub per_degree: f64,
    /// For each band: degrees of longitude up to which a point is surely inside (negative when
    /// none is), and beyond which it is surely outside.
    pub widths: [[f64; 2]; BANDS],
}

type Decide = fn(&Table, &Points) -> (u64, u64);

impl Table {
    #[inline]
    pub fn band(&self, latitude: f64) -> usize {
        (((latitude - self.south) * self.per_degree) as usize).min(BANDS - 1)
    }

    /// Whether a point within reach of the centre is surely inside, and whether it is surely
    /// outside. No branch depends on where it lies.
    #[inline]
    pub fn tell(&self, lon: f64, lat: f64) -> (bool, bool) {
        let [least, greatest] = self.widths[self.band(lat)];
        let apart = (lon - self.longitude).abs();
        let apart = if apart > 180.0 { 360.0 - apart } else { apart };
        (apart <= least, apart > greatest)
    }

    /// The same for any point.
    #[inline]
    pub fn decide(&self, lon: f64, lat: f64) -> (bool, bool) {
        let beyond = (lat - self.latitude).abs() > self.reach;
        let (inside, outside) = self.tell(lon, lat);
        (inside & !beyond, outside | beyond)
    }

    /// [`Table::decide`] for a row of points: a bit for each that is surely inside, and for each
    /// that is surely outside, the lowest for the first.
    pub fn decide_row(&self, points: &Points) -> (u64, u64) {
        static DECIDE: OnceLock<Decide> = OnceLock::new();
        DECIDE.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2") {
                    return x86::AVX512;
                }
                if is_x86_feature_detected!("avx2") {
                    return x86::AVX2;
                }
            }
            portable
        })(self, points)
    }
}

fn portable(table: &Table, points: &Points) -> (u64, u64) {
    let (mut inside, mut outside) = (0, 0);
    for (at, [lon, lat]) in points.iter().enumerate() {
        let (is_inside, is_outside) = table.decide(*lon, *lat);
        inside |= u64::from(is_inside) << at;
        outside |= u64::from(is_outside) << at;
    }
    (inside, outside)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BANDS, Decide, Points, Table};

    /// To be taken only where its features were detected.
    // SAFETY: `decide_row` takes it only after it has detected the features.
    pub(super) const AVX512: Decide = |table, points| unsafe { avx512(table, points) };
    /// To be taken only where its feature was detected.
    // SAFETY: `decide_row` takes it only after it has detected the feature.
    pub(super) const AVX2: Decide = |table, points| unsafe { avx2(table, points) };

    #[target_feature(enable = "avx512f,avx2")]
    fn avx512(table: &Table, points: &Points) -> (u64, u64) {
        let all = |x: f64| _mm512_set1_pd(x);
        let lons = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
        let lats = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
        let widths = table.widths.as_flattened();
        // Where the first of each pair stands, and the second.
        let (firsts, seconds) = (widths.as_ptr(), widths[1..].as_ptr());
        let (mut inside, mut outside) = (0, 0);
        for (at, eight) in points.as_chunks::<8>().0.iter().enumerate() {
            let (first, last) = eight.as_flattened().split_at(8);
            // SAFETY: the slice holds eight numbers; unaligned.
            let first = unsafe { _mm512_loadu_pd(first.as_ptr()) };
            // SAFETY: as above.
            let last = unsafe { _mm512_loadu_pd(last.as_ptr()) };
            let lon = _mm512_permutex2var_pd(first, lons, last);
            let lat = _mm512_permutex2var_pd(first, lats, last);
            let off = _mm512_abs_pd(_mm512_sub_pd(lat, all(table.latitude)));
            let beyond = _mm512_cmp_pd_mask::<_CMP_GT_OQ>(off, all(table.reach));
            let steps = _mm512_sub_pd(lat, all(table.south));
            let band = _mm512_mul_pd(steps, all(table.per_degree));
            // Of NaN and a number this is the number, the second one.
            let band = _mm512_max_pd(band, _mm512_setzero_pd());
            let band = _mm512_min_pd(band, all((BANDS - 1) as f64));
            let pair = _mm256_slli_epi32::<1>(_mm512_cvttpd_epi32(band));
            // SAFETY: twice a band's number, which is in bounds, is where its pair begins.
            let least = unsafe { _mm512_i32gather_pd::<8>(pair, firsts) };
            // SAFETY: the second of the pair, one further, is there too.
            let greatest = unsafe { _mm512_i32gather_pd::<8>(pair, seconds) };
            let apart = _mm512_abs_pd(_mm512_sub_pd(lon, all(table.longitude)));
            let is_far = _mm512_cmp_pd_mask::<_CMP_GT_OQ>(apart, all(180.0));
            let apart = _mm512_mask_sub_pd(apart, is_far, all(360.0), apart);
            let within = _mm512_cmp_pd_mask::<_CMP_LE_OQ>(apart, least) & !beyond;
            let without = _mm512_cmp_pd_mask::<_CMP_GT_OQ>(apart, greatest) | beyond;
            inside |= u64::from(within) << (8 * at);
            outside |= u64::from(without) << (8 * at);
        }
        (inside, outside)
    }

    #[target_feature(enable = "avx2")]
    fn avx2(table: &Table, points: &Points) -> (u64, u64) {
        let all = |x: f64| _mm256_set1_pd(x);
        let sign = all(-0.0);
        let widths = table.widths.as_flattened();
        // Where the first of each pair stands, and the second.
        let (firsts, seconds) = (widths.as_ptr(), widths[1..].as_ptr());
        let (mut inside, mut outside) = (0, 0);
        for (at, four) in points.as_chunks::<4>().0.iter().enumerate() {
            let (first, last) = four.as_flattened().split_at(4);
            // SAFETY: the slice holds four numbers; unaligned.
            let first = unsafe { _mm256_loadu_pd(first.as_ptr()) };
            // SAFETY: as above.
            let last = unsafe { _mm256_loadu_pd(last.as_ptr()) };
            // Unpacking leaves the points in the order 0, 2, 1, 3.
            let in_order = |x| _mm256_permute4x64_pd::<0b11_01_10_00>(x);
            let lon = in_order(_mm256_unpacklo_pd(first, last));
            let lat = in_order(_mm256_unpackhi_pd(first, last));
            let off = _mm256_andnot_pd(sign, _mm256_sub_pd(lat, all(table.latitude)));
            let beyond = _mm256_cmp_pd::<_CMP_GT_OQ>(off, all(table.reach));
            let steps = _mm256_sub_pd(lat, all(table.south));
            let band = _mm256_mul_pd(steps, all(table.per_degree));
            // Of NaN and a number this is the number, the second one.
            let band = _mm256_max_pd(band, _mm256_setzero_pd());
            let band = _mm256_min_pd(band, all((BANDS - 1) as f64));
            let pair = _mm_slli_epi32::<1>(_mm256_cvttpd_epi32(band));
            // SAFETY: twice a band's number, which is in bounds, is where its pair begins.
            let least = unsafe { _mm256_i32gather_pd::<8>(firsts, pair) };
            // SAFETY: the second of the pair, one further, is there too.
            let greatest = unsafe { _mm256_i32gather_pd::<8>(seconds, pair) };
            let apart = _mm256_andnot_pd(sign, _mm256_sub_pd(lon, all(table.longitude)));
            let is_far = _mm256_cmp_pd::<_CMP_GT_OQ>(apart, all(180.0));
            let turned = _mm256_sub_pd(all(360.0), apart);
            let apart = _mm256_blendv_pd(apart, turned, is_far);
            let within = _mm256_andnot_pd(beyond, _mm256_cmp_pd::<_CMP_LE_OQ>(apart, least));
            let without = _mm256_or_pd(beyond, _mm256_cmp_pd::<_CMP_GT_OQ>(apart, greatest));
            inside |= (_mm256_movemask_pd(within) as u64) << (4 * at);
            outside |= (_mm256_movemask_pd(without) as u64) << (4 * at);
        }
        (inside, outside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_decides_alike() {
        let mut bodies: Vec<Decide> = vec![portable, Table::decide_row];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2") {
                bodies.push(x86::AVX512);
            }
            if is_x86_feature_detected!("avx2") {
                bodies.push(x86::AVX2);
            }
        }
        // What can stand in a map's free slots and beyond the globe, and all between.
        let odd = [0.0, -0.0, f64::NAN, f64::INFINITY, -f64::INFINITY, 1e300];
        let spread = |i: usize, span: f64| ((i * 7919) % 1000) as f64 / 1000.0 * span - span / 2.0;
        for (longitude, latitude, reach) in [
            (13.4, 52.5, 13.5),
            (179.5, -40.0, 30.0),
            (-180.0, 0.0, 1e-7),
        ] {
            let height = 2.0 * reach / BANDS as f64;
            let table = Table {
                longitude,
                latitude,
                reach,
                south: latitude - reach,
                per_degree: 1.0 / height,
                widths: std::array::from_fn(|band| {
                    let width = reach * (band as f64 / BANDS as f64 - 0.1);
                    [width, width + reach / 50.0]
                }),
            };
            for round in 0..200 {
                let points: Points = std::array::from_fn(|i| match (round, i) {
                    (0, _) => [odd[i % 6], odd[i / 6 % 6]],
                    // On the edges of bands, and on the very widths.
                    (1, _) => {
                        let edge = table.south + i as f64 * height;
                        [longitude + table.widths[i][0], edge]
                    }
                    _ if round % 2 == 0 => {
                        [spread(i + round * 64, 360.0), spread(i * 31 + round, 180.0)]
                    }
                    _ => [
                        longitude + spread(i + round * 64, 3.0 * reach),
                        latitude + spread(i * 31 + round, 2.5 * reach),
                    ],
                });
                let mut want = (0, 0);
                for (at, [lon, lat]) in points.iter().enumerate() {
                    let (inside, outside) = table.decide(*lon, *lat);
                    want.0 |= u64::from(inside) << at;
                    want.1 |= u64::from(outside) << at;
                }
                for body in &bodies {
                    assert_eq!(body(&table, &points), want, "{round} around {longitude}");
                }
            }
        }
    }
}
