//! Bounding boxes in f32, rounded outwards, and their order along a Hilbert curve.

/// A box that surely holds a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    min: [f32; 2],
    max: [f32; 2],
}

fn down(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) > x {
        near.next_down()
    } else {
        near
    }
}

fn up(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) < x {
        near.next_up()
    } else {
        near
    }
}

impl Bounds {
    /// Around `[min x, min y, max x, max y]`.
    pub(super) fn around([x0, y0, x1, y1]: [f64; 4]) -> Bounds {
        Bounds {
            min: [down(x0), down(y0)],
            max: [up(x1), up(y1)],
        }
    }

    /// As images have them: the least coordinates, then the largest.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let numbers = self.min.into_iter().chain(self.max);
        for (to, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
            *to = number.to_le_bytes();
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; 16]) -> Bounds {
        let number = |at: usize| f32::from_le_bytes(bytes.as_chunks().0[at]);
        Bounds {
            min: [number(0), number(1)],
            max: [number(2), number(3)],
        }
    }

    fn wide(&self) -> [f64; 4] {
        let ([x0, y0], [x1, y1]) = (self.min, self.max);
        [x0.into(), y0.into(), x1.into(), y1.into()]
    }

    /// They have a point in common.
    pub(super) fn meets(&self, [x0, y0, x1, y1]: &[f64; 4]) -> bool {
        let [a0, b0, a1, b1] = self.wide();
        a0 <= *x1 && a1 >= *x0 && b0 <= *y1 && b1 >= *y0
    }

    /// The other lies within.
    pub(super) fn covers(&self, [x0, y0, x1, y1]: &[f64; 4]) -> bool {
        let [a0, b0, a1, b1] = self.wide();
        a0 <= *x0 && a1 >= *x1 && b0 <= *y0 && b1 >= *y1
    }

    pub(super) fn extend(&mut self, other: &Bounds) {
        for axis in 0..2 {
            self.min[axis] = self.min[axis].min(other.min[axis]);
            self.max[axis] = self.max[axis].max(other.max[axis]);
        }
    }

    /// The part of its area that the other covers, of 1.
    pub(super) fn share(&self, [x0, y0, x1, y1]: &[f64; 4]) -> f64 {
        let [a0, b0, a1, b1] = self.wide();
        let along = |a0: f64, a1: f64, x0: f64, x1: f64| {
            let common = a1.min(x1) - a0.max(x0);
            if common < 0.0 {
                0.0
            } else if a1 - a0 > 0.0 {
                (common / (a1 - a0)).min(1.0)
            } else {
                1.0
            }
        };
        along(a0, a1, *x0, *x1) * along(b0, b1, *y0, *y1)
    }
}

/// How coordinates are laid out for the curve.
#[derive(Clone, Copy, Debug)]
pub(super) enum World {
    /// Degrees.
    Globe,
    /// Any finite numbers.
    Plane,
}

impl World {
    /// The position of the middle along the curve.
    pub(super) fn key(self, bounds: &Bounds) -> u64 {
        let middle = |axis: usize| bounds.min[axis] / 2.0 + bounds.max[axis] / 2.0;
        match self {
            World::Globe => hilbert(
                cell((middle(0) + 180.0) / 360.0),
                cell((middle(1) + 90.0) / 180.0),
            ),
            World::Plane => hilbert(ordered(middle(0)), ordered(middle(1))),
        }
    }
}

/// A number of 0 to 1 as one of the integers.
fn cell(part: f32) -> u32 {
    (f64::from(part) * f64::from(u32::MAX)) as u32
}

/// Integers in the order of the numbers: even steps between two powers of two, which is as fine
/// as an f32 can be.
fn ordered(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

/// The position of a cell along the Hilbert curve through all of them (Hilbert 1891; the loop
/// walks down the quadrants and turns the rest of the coordinates as the curve turns in each).
/// It has no branches, as they would be taken at random.
fn hilbert(mut x: u32, mut y: u32) -> u64 {
    let mut position = 0;
    for bit in (0..32).rev() {
        let (right, upper) = (x >> bit & 1, y >> bit & 1);
        position = position << 2 | u64::from((3 * right) ^ upper);
        // All ones in the lower half, there in the right quarter.
        let lower = upper.wrapping_sub(1);
        let flip = lower & right.wrapping_neg();
        let swap = (x ^ y) & lower;
        (x, y) = (x ^ swap ^ flip, y ^ swap ^ flip);
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_what_they_are_around() {
        for x in [
            0.0,
            0.1,
            -0.1,
            13.4,
            1e300,
            -1e300,
            f64::MIN_POSITIVE,
            179.999_999_999,
        ] {
            let bounds = Bounds::around([x, x, x, x]);
            assert!(bounds.covers(&[x, x, x, x]), "{x}");
            assert!(bounds.meets(&[x, x, x, x]));
            if x.abs() > 1e38 {
                continue; // Beyond f32 bounds reach to infinity.
            }
            let far = x.abs() * 2.0 + 1.0;
            assert!(!bounds.meets(&[far, x, far, x]));
            assert!(!bounds.covers(&[x, x, far, x]));
        }
        let mut bounds = Bounds::around([0.0, 0.0, 2.0, 2.0]);
        assert_eq!(bounds.share(&[1.0, 1.0, 9.0, 9.0]), 0.25);
        assert_eq!(bounds.share(&[2.0, 0.0, 9.0, 9.0]), 0.0);
        assert_eq!(bounds.share(&[3.0, 0.0, 9.0, 9.0]), 0.0);
        assert_eq!(Bounds::around([1.0; 4]).share(&[0.0, 0.0, 2.0, 2.0]), 1.0);
        bounds.extend(&Bounds::around([-1.0, 1.0, 1.0, 3.0]));
        assert_eq!(bounds.wide(), [-1.0, 0.0, 2.0, 3.0]);
    }

    /// Cells that follow one another along the curve are neighbours.
    #[test]
    fn the_curve_has_no_jumps() {
        let shift = 28;
        let mut cells: Vec<(u64, i64, i64)> = Vec::new();
        for x in 0..16i64 {
            for y in 0..16i64 {
                // The middle of each of 256 squares.
                let at = |c: i64| (c as u32) << shift;
                cells.push((hilbert(at(x), at(y)) >> (2 * shift), x, y));
            }
        }
        cells.sort_unstable();
        for (position, pair) in cells.windows(2).enumerate() {
            assert_eq!(pair[0].0, position as u64);
            assert_eq!(
                (pair[0].1 - pair[1].1).abs() + (pair[0].2 - pair[1].2).abs(),
                1
            );
        }
    }

    #[test]
    fn keys_keep_the_order_of_numbers() {
        let numbers = [
            f32::MIN,
            -2.0,
            -1.5,
            -1e-30,
            0.0,
            1e-30,
            1.5,
            f32::MAX,
            f32::INFINITY,
        ];
        assert!(numbers.map(ordered).is_sorted());
    }
}
