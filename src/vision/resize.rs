//! Antialiased resizing of 8-bit images, bit-equal to Pillow's `Image.resize` with `BICUBIC` and `BILINEAR`.
//!
//! Published checkpoints were trained on Pillow's pixels: two passes, horizontal first, each rounded to 8
//! bits, with fixed-point coefficients of 22 bits. Pillow 13 runs the vertical pass first if the height
//! shrinks much more than the width, and gets other pixels. Every checkpoint of the family is older, so this
//! module follows Pillow up to 12.

use std::borrow::Cow;
use std::ops::Range;

use image::RgbImage;
use rayon::prelude::*;

const PRECISION_BITS: u32 = 32 - 8 - 2;
const CHANNELS: usize = 3;

/// Resizes `image` to `width` x `height` pixels (both at least 1).
pub fn bicubic(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    bicubic_part(image, (width, height), 0..width, 0..height)
}

/// Resizes `image` to `size` (width, height) and crops it to the columns `x` and rows `y`. Only the pixels of
/// the crop are computed, so a strip of 20,000 x 1 pixels costs no more than its centre.
pub fn bicubic_part(image: &RgbImage, size: (u32, u32), x: Range<u32>, y: Range<u32>) -> RgbImage {
    resize_part(image, size, x, y, &BICUBIC)
}

/// Resizes `image` to `width` x `height` pixels (both at least 1) with Pillow's bilinear filter, antialiased as the bicubic
/// one.
pub fn bilinear(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize_part(image, (width, height), 0..width, 0..height, &BILINEAR)
}

fn resize_part(
    image: &RgbImage,
    size: (u32, u32),
    x: Range<u32>,
    y: Range<u32>,
    filter: &Filter,
) -> RgbImage {
    let (from_width, from_height) = image.dimensions();
    let (width, height) = (x.len() as u32, y.len() as u32);
    let mut pixels = Cow::Borrowed(image.as_raw());
    if from_width != size.0 || width != size.0 {
        pixels = Cow::Owned(resize_rows(&pixels, from_width as usize, &taps(from_width, size.0, x, filter)));
    }
    if from_height != size.1 || height != size.1 {
        pixels = Cow::Owned(resize_columns(&pixels, width as usize, &taps(from_height, size.1, y, filter)));
    }
    RgbImage::from_raw(width, height, pixels.into_owned()).expect("the passes fill width x height pixels")
}

/// The weights of one output pixel: input pixels `first..first + weights.len()`.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// A filter: its half width in input pixels, and its kernel.
struct Filter {
    support: f64,
    kernel: fn(f64) -> f64,
}

const BICUBIC: Filter = Filter { support: 2.0, kernel: keys };
const BILINEAR: Filter = Filter { support: 1.0, kernel: |x| (1.0 - x.abs()).max(0.0) };

/// The bicubic (Keys) kernel with a = -0.5.
fn keys(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Computes the weights of the output pixels `part` of an axis that is resized from `from` to `to` pixels.
fn taps(from: u32, to: u32, part: Range<u32>, filter: &Filter) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    // Shrinking widens the kernel (this is the antialiasing); enlarging does not narrow it.
    let stretch = scale.max(1.0);
    let support = filter.support * stretch;
    let tap = |out: u32| {
        let centre = (f64::from(out) + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from as usize);
        // Pillow multiplies by the reciprocal; a division changes the last bits.
        let shrink = 1.0 / stretch;
        let exact: Vec<f64> =
            (first..end).map(|i| (filter.kernel)((i as f64 - centre + 0.5) * shrink)).collect();
        let sum: f64 = exact.iter().sum();
        Taps { first, weights: exact.iter().map(|w| fixed_point(w / sum)).collect() }
    };
    part.map(tap).collect()
}

fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << PRECISION_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

fn resize_rows(pixels: &[u8], from: usize, taps: &[Taps]) -> Vec<u8> {
    let to = taps.len();
    let rows = pixels.len() / (from * CHANNELS);
    let mut out = vec![0; rows * to * CHANNELS];
    let lines = out.par_chunks_exact_mut(to * CHANNELS).zip(pixels.par_chunks_exact(from * CHANNELS));
    lines.for_each(|(out, line)| {
        for (out, tap) in out.chunks_exact_mut(CHANNELS).zip(taps) {
            let mut sums = [HALF; CHANNELS];
            let inputs = line[tap.first * CHANNELS..].chunks_exact(CHANNELS);
            for (pixel, weight) in inputs.zip(&tap.weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            out.copy_from_slice(&sums.map(clip));
        }
    });
    out
}

fn resize_columns(pixels: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let line = width * CHANNELS;
    let mut out = vec![0; taps.len() * line];
    out.par_chunks_exact_mut(line).zip(taps).for_each_init(Vec::new, |sums: &mut Vec<i32>, (out, tap)| {
        sums.clear();
        sums.resize(line, HALF);
        for (row, weight) in pixels[tap.first * line..].chunks_exact(line).zip(&tap.weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (out, sum) in out.iter_mut().zip(sums.iter()) {
            *out = clip(*sum);
        }
    });
    out
}
