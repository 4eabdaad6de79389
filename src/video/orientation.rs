//! Rotation and mirroring of a decoded picture before a player shows it: the display matrix of the container.

use image::{RgbImage, imageops};
use serde::{Deserialize, Serialize};

/// Orientation of the shown picture: mirrored left to right first, if `mirrored`, then rotated clockwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Orientation {
    /// 0, 90, 180 or 270.
    pub clockwise_degrees: u16,
    /// Mirrored left to right before the rotation.
    pub mirrored: bool,
}

impl Orientation {
    /// Reads FFmpeg's display matrix: nine numbers in native byte order. The first, second, fourth and fifth
    /// map (x, y) of the picture to the screen: x' = a x + c y, y' = b x + d y with a, b, c, d = m[0], m[1],
    /// m[3], m[4]. Other angles are rounded to the nearest multiple of 90 degrees.
    #[cfg(feature = "video")]
    pub(super) fn from_matrix(bytes: &[u8]) -> Self {
        let at = |i: usize| {
            bytes.get(i * 4..i * 4 + 4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
        };
        let (mut a, mut b, c, d) = (f64::from(at(0)), f64::from(at(1)), f64::from(at(3)), f64::from(at(4)));
        let mirrored = a * d - b * c < 0.0;
        if mirrored {
            (a, b) = (-a, -b);
        }
        if a == 0.0 && b == 0.0 {
            return Orientation::default();
        }
        let quarters = (b.atan2(a).to_degrees() / 90.0).round().rem_euclid(4.0) as u16;
        Orientation { clockwise_degrees: quarters * 90, mirrored }
    }

    /// Whether the rotation exchanges width and height.
    pub fn swaps_sides(self) -> bool {
        self.clockwise_degrees % 180 == 90
    }

    /// Returns the picture as a player shows it.
    pub(super) fn apply(self, mut image: RgbImage) -> RgbImage {
        if self.mirrored {
            imageops::flip_horizontal_in_place(&mut image);
        }
        match self.clockwise_degrees {
            90 => imageops::rotate90(&image),
            180 => {
                imageops::rotate180_in_place(&mut image);
                image
            }
            270 => imageops::rotate270(&image),
            _ => image,
        }
    }
}

#[cfg(feature = "video")]
#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, [a, b, c, d]: [i32; 4], clockwise_degrees: u16, mirrored: bool) {
        let unit = 1 << 16;
        let matrix = [a * unit, b * unit, 0, c * unit, d * unit, 0, 0, 0, 1 << 30];
        let bytes: Vec<u8> = matrix.iter().flat_map(|n: &i32| n.to_ne_bytes()).collect();
        let orientation = Orientation::from_matrix(&bytes);
        assert_eq!(orientation, Orientation { clockwise_degrees, mirrored }, "{name}");
        // The pixel in the middle of the right edge must move to the place that the matrix gives for it.
        let mut image = RgbImage::new(3, 3);
        image.put_pixel(2, 1, image::Rgb([9, 9, 9]));
        let shown = orientation.apply(image);
        let (x, y) = ((1 + a) as u32, (1 + b) as u32);
        assert_eq!(shown.get_pixel(x, y).0, [9, 9, 9], "{name}");
    }

    #[test]
    fn reads_all_eight_orientations() {
        check("upright", [1, 0, 0, 1], 0, false);
        check("quarter", [0, 1, -1, 0], 90, false);
        check("half", [-1, 0, 0, -1], 180, false);
        check("three quarters", [0, -1, 1, 0], 270, false);
        check("mirrored", [-1, 0, 0, 1], 0, true);
        check("upside down", [1, 0, 0, -1], 180, true);
        check("transposed", [0, 1, 1, 0], 270, true);
        check("transversed", [0, -1, -1, 0], 90, true);
    }

    #[test]
    fn invalid_matrix_is_upright() {
        assert_eq!(Orientation::from_matrix(&[]), Orientation::default());
        assert_eq!(Orientation::from_matrix(&[0; 36]), Orientation::default());
    }
}
