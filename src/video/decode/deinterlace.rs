//! Interlaced pictures -> progressive ones. Two fields of different times lie woven in one picture: the lines of
//! the first field stay, and a pixel of the second field is interpolated where it does not fit between the lines
//! above and below. Only the picture itself is needed, so it is the same after any seek.
//!
//! Each plane is processed on its own. The chroma lines of a field in 4:2:0 lie where the lines of a progressive
//! picture lie, so the result is an ordinary 4:2:0 picture.

use ffmpeg::format::Pixel;
use ffmpeg::frame;
use ffmpeg_next as ffmpeg;

use crate::video::deep;

/// Steps of 255 by which a pixel may lie outside of its neighbours: noise, not motion.
const TOLERANCE: i32 = 6;
/// Columns by which an edge may lean from one line of a field to the next.
const LEAN: isize = 2;

/// Returns a copy with one field, if the decoder marks the picture as interlaced and its samples lie in planes.
pub(super) fn deinterlaced(picture: &frame::Video) -> Option<frame::Video> {
    let bits = bits(picture.format()).filter(|_| picture.is_interlaced())?;
    let mut progressive = picture.clone();
    let kept = usize::from(!picture.is_top_first());
    for index in 0..progressive.planes() {
        let samples = Samples {
            width: progressive.plane_width(index) as usize,
            height: progressive.plane_height(index) as usize,
            stride: progressive.stride(index),
            bits,
        };
        samples.fill(progressive.data_mut(index), kept);
    }
    Some(progressive)
}

/// Bits of a sample of the planar formats that the decoders of interlaced video return.
fn bits(format: Pixel) -> Option<u32> {
    Some(match format {
        Pixel::YUV420P | Pixel::YUV422P | Pixel::YUV444P | Pixel::YUV411P | Pixel::GRAY8 => 8,
        Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P => 8,
        Pixel::YUV420P10LE | Pixel::YUV422P10LE | Pixel::YUV444P10LE => 10,
        Pixel::YUV420P12LE | Pixel::YUV422P12LE | Pixel::YUV444P12LE => 12,
        _ => return None,
    })
}

/// Layout of a plane.
struct Samples {
    width: usize,
    height: usize,
    /// Bytes from one row to the next.
    stride: usize,
    /// Up to 8: one byte per sample. More: two bytes, little endian.
    bits: u32,
}

impl Samples {
    /// Interpolates the lines that do not belong to the field `kept` (0: the even lines).
    fn fill(&self, data: &mut [u8], kept: usize) {
        for y in (1 - kept..self.height).step_by(2) {
            let above = if y == 0 { 1 } else { y - 1 };
            let below = if y + 1 == self.height { above } else { y + 1 };
            if above >= self.height {
                return;
            }
            let (above, below) = (self.row(data, above), self.row(data, below));
            let row = self.interpolated(&above, &self.row(data, y), &below);
            self.write(&mut data[y * self.stride..], &row);
        }
    }

    fn row(&self, data: &[u8], y: usize) -> Vec<i32> {
        let bytes = &data[y * self.stride..][..self.width * deep::sample_bytes(self.bits)];
        deep::samples(bytes, self.bits).collect()
    }

    fn write(&self, data: &mut [u8], row: &[i32]) {
        let size = deep::sample_bytes(self.bits);
        for (bytes, value) in data.chunks_exact_mut(size).zip(row) {
            bytes.copy_from_slice(&value.to_le_bytes()[..size]);
        }
    }

    fn interpolated(&self, above: &[i32], row: &[i32], below: &[i32]) -> Vec<i32> {
        let tolerance = TOLERANCE << (self.bits - 8);
        let pixel = |x: usize| {
            let (low, high) = (above[x].min(below[x]), above[x].max(below[x]));
            let fits = (low - tolerance..=high + tolerance).contains(&row[x]);
            if fits { row[x] } else { along_edge(above, below, x) }
        };
        (0..row.len()).map(pixel).collect()
    }
}

/// Averages two pixels above and below in the direction in which three neighbours differ least.
fn along_edge(above: &[i32], below: &[i32], x: usize) -> i32 {
    let at = |row: &[i32], x: isize| row[x.clamp(0, row.len() as isize - 1) as usize];
    let x = x as isize;
    let difference = |lean: isize| -> i32 {
        (x - 1..=x + 1).map(|x| (at(above, x + lean) - at(below, x - lean)).abs()).sum()
    };
    let (mut best, mut least) = (0, difference(0));
    for side in [-1, 1] {
        // A steeper direction counts only if the one before it is better than all so far.
        for lean in (1..=LEAN).map(|lean| lean * side) {
            let found = difference(lean);
            if found >= least {
                break;
            }
            (best, least) = (lean, found);
        }
    }
    (at(above, x + best) + at(below, x - best) + 1) >> 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plane of bytes or of 10-bit samples, from values of 8 bits.
    fn check(values: [[u8; 6]; 5], kept: usize, expected: [[u8; 6]; 5]) {
        for bits in [8, 10] {
            let samples = Samples { width: 6, height: 5, stride: 16, bits };
            let wide = |values: [[u8; 6]; 5]| {
                let mut data = vec![0; 16 * 5];
                for (row, out) in values.iter().zip(data.chunks_exact_mut(16)) {
                    samples.write(out, &row.map(|value| i32::from(value) << (bits - 8)));
                }
                data
            };
            let mut data = wide(values);
            samples.fill(&mut data, kept);
            assert_eq!(data, wide(expected), "{bits} bits");
        }
    }

    #[test]
    fn teeth_vanish() {
        let (dark, light) = ([10, 10, 10, 10, 10, 10], [200; 6]);
        check([dark, light, dark, light, dark], 0, [dark; 5]);
        check([dark, light, dark, light, dark], 1, [light; 5]);
    }

    #[test]
    fn what_fits_stays() {
        let still = [[10; 6], [14; 6], [20; 6], [90; 6], [95; 6]];
        check(still, 0, still);
        check(still, 1, still);
    }

    #[test]
    fn edges_are_followed() {
        let edge = |column: usize| std::array::from_fn(|x| if x < column { 20 } else { 220 });
        let teeth = [255; 6];
        // The edge moves by two columns from line to line of the field.
        check([edge(1), teeth, edge(3), teeth, edge(5)], 0, [edge(1), edge(2), edge(3), edge(4), edge(5)]);
    }
}
