//! Planar YCbCr of 8 to 16 bits -> R'G'B' signals of 16 bits, with chroma interpolated to every pixel.

use super::yuv::ColourMatrix;

/// A decoded picture in planar YCbCr. Samples of more than 8 bits have two bytes, little endian.
pub(super) struct DeepPicture<'a> {
    pub width: usize,
    pub height: usize,
    /// Y, Cb, Cr: bytes, and bytes from one row to the next.
    pub planes: [(&'a [u8], usize); 3],
    pub bits: u32,
    /// Whether chroma has half the width and half the height (rounded up).
    pub halved: (bool, bool),
    pub matrix: ColourMatrix,
    pub full_range: bool,
}

/// Reads samples. Up to 8 bits they have one byte each.
pub(super) fn samples(bytes: &[u8], bits: u32) -> impl Iterator<Item = i32> {
    let size = sample_bytes(bits);
    bytes.chunks_exact(size).map(|b| b.iter().rev().fold(0, |value, byte| value << 8 | i32::from(*byte)))
}

/// Bytes of a sample.
pub(super) fn sample_bytes(bits: u32) -> usize {
    if bits > 8 { 2 } else { 1 }
}

impl DeepPicture<'_> {
    /// Calls `pixel` for every pixel, row by row. Chroma samples lie as `yuv::to_rgb` says.
    pub(super) fn for_each(&self, mut pixel: impl FnMut([u16; 3])) {
        let full = ((1u32 << self.bits) - 1) as f32;
        let step = (1u32 << (self.bits - 8)) as f32;
        let (black, luma, chroma) =
            if self.full_range { (0.0, full, full) } else { (16.0 * step, 219.0 * step, 224.0 * step) };
        let (kr, kb) = (self.matrix.kr as f32, self.matrix.kb as f32);
        let kg = 1.0 - kr - kb;
        let signal = |value: f32| (value * 65535.0 + 0.5).clamp(0.0, 65535.0) as u16;
        for y in 0..self.height {
            let rows = (self.row(0, y, self.width), self.chroma_row(1, y), self.chroma_row(2, y));
            for ((y, cb), cr) in rows.0.zip(rows.1).zip(rows.2) {
                let (y, cb, cr) = ((y as f32 - black) / luma, cb / chroma, cr / chroma);
                let (r, b) = (y + 2.0 * (1.0 - kr) * cr, y + 2.0 * (1.0 - kb) * cb);
                pixel([r, (y - kr * r - kb * b) / kg, b].map(signal));
            }
        }
    }

    fn row(&self, plane: usize, y: usize, width: usize) -> impl Iterator<Item = i32> {
        let (data, stride) = self.planes[plane];
        samples(&data[y * stride..][..width * sample_bytes(self.bits)], self.bits)
    }

    /// Interpolates a row of a chroma plane to full width, with zero as the neutral value.
    fn chroma_row(&self, plane: usize, y: usize) -> Vec<f32> {
        let side = |size: usize, halved: bool| if halved { size.div_ceil(2) } else { size };
        let (width, height) = (side(self.width, self.halved.0), side(self.height, self.halved.1));
        let (near, far) = match self.halved.1 {
            false => (y, y),
            true if y.is_multiple_of(2) => (y / 2, (y / 2).saturating_sub(1)),
            true => (y / 2, (y / 2 + 1).min(height - 1)),
        };
        let neutral = 1 << (self.bits - 1);
        let rows = self.row(plane, near, width).zip(self.row(plane, far, width));
        let narrow: Vec<f32> =
            rows.map(|(near, far)| (near * 3 + far) as f32 / 4.0 - neutral as f32).collect();
        if !self.halved.0 {
            return narrow;
        }
        let between = |x: usize| (narrow[x / 2] + narrow[(x.div_ceil(2)).min(width - 1)]) / 2.0;
        (0..self.width).map(between).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::yuv::{BT601, BT2020, Picture, Plane, to_rgb};
    use super::*;

    /// 8-bit pictures give what the fast conversion gives; deeper ones with the same values too.
    fn check(bits: u32, halved: (bool, bool), matrix: ColourMatrix, full_range: bool) {
        let (width, height, stride) = (23, 14, 64);
        let data: Vec<Vec<u8>> = (0..3)
            .map(|i| (0..stride * height).map(|k| (60 + (k * (7 + i)) % 130) as u8).collect())
            .collect();
        let planes = [0, 1, 2].map(|i| Plane { data: &data[i][..], stride });
        let expected = to_rgb(&Picture { width, height, planes, halved, matrix, full_range });
        // Full range has no exact counterpart with more bits.
        let widen = |byte: &u8| (u16::from(*byte) << (bits - 8)).to_le_bytes();
        let wide: Vec<Vec<u8>> = data
            .iter()
            .map(|plane| if bits == 8 { plane.clone() } else { plane.iter().flat_map(widen).collect() })
            .collect();
        let planes = [0, 1, 2].map(|i| (&wide[i][..], stride * sample_bytes(bits)));
        let mut found = Vec::new();
        DeepPicture { width, height, planes, bits, halved, matrix, full_range }.for_each(|p| found.extend(p));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let off = (f64::from(*found) / 257.0 - f64::from(*expected)).abs();
            assert!(off < 1.0, "{bits} bits: {found} for {expected}");
        }
    }

    #[test]
    fn signals_are_those_of_8_bits() {
        check(8, (true, true), BT2020, false);
        check(8, (false, false), BT601, true);
        check(10, (true, true), BT2020, false);
        check(12, (true, false), BT2020, false);
        check(10, (false, false), BT601, false);
    }
}
