//! Pictures with pixels that are not square -> square pixels, by another width.

use image::RgbImage;

/// Weights are multiples of 1 / 2^14.
const BITS: u32 = 14;

/// Source columns of one column of the result.
struct Column {
    first: usize,
    /// Weights of `first` and the columns after it.
    weights: Vec<i32>,
}

/// Returns the picture with another width, by cubic interpolation (Catmull-Rom), averaged over wider pixels where
/// it becomes narrower.
pub(super) fn to_width(image: RgbImage, width: u32) -> RgbImage {
    let (from, height) = image.dimensions();
    if from == width || from == 0 || width == 0 {
        return image;
    }
    let columns = columns(from as usize, width as usize);
    let row_bytes = width as usize * 3;
    let mut stretched = vec![0u8; row_bytes * height as usize];
    for (row, out) in
        image.as_raw().chunks_exact(from as usize * 3).zip(stretched.chunks_exact_mut(row_bytes))
    {
        for (column, out) in columns.iter().zip(out.chunks_exact_mut(3)) {
            let mut sums = [1i32 << (BITS - 1); 3];
            for (pixel, weight) in row[column.first * 3..].chunks_exact(3).zip(&column.weights) {
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += i32::from(*value) * weight);
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = (sum >> BITS).clamp(0, 255) as u8);
        }
    }
    RgbImage::from_raw(width, height, stretched).unwrap_or_default()
}

fn columns(from: usize, to: usize) -> Vec<Column> {
    let step = from as f64 / to as f64;
    let spread = step.max(1.0);
    let column = |x: usize| {
        let centre = (x as f64 + 0.5) * step - 0.5;
        let first = (centre - 2.0 * spread).ceil().max(0.0) as usize;
        let last = ((centre + 2.0 * spread).floor() as usize).min(from - 1);
        let weights: Vec<f64> = (first..=last).map(|i| catmull_rom((i as f64 - centre) / spread)).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1 << BITS)).round() as i32;
        let mut weights: Vec<i32> = weights.iter().map(fixed).collect();
        // A flat picture stays as it is: the weights sum to exactly one.
        let rest = (1 << BITS) - weights.iter().sum::<i32>();
        let largest = (0..weights.len()).max_by_key(|i| weights[*i]).unwrap_or(0);
        weights[largest] += rest;
        Column { first, weights }
    };
    (0..to).map(column).collect()
}

fn catmull_rom(x: f64) -> f64 {
    match x.abs() {
        x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn flat_pictures_stay_flat() {
        for (from, to) in [(720, 1024), (720, 640), (3, 11), (100, 25), (1, 4)] {
            let flat = RgbImage::from_pixel(from, 5, Rgb([3, 128, 255]));
            assert_eq!(to_width(flat, to), RgbImage::from_pixel(to, 5, Rgb([3, 128, 255])), "{from} {to}");
        }
    }

    #[test]
    fn a_ramp_keeps_its_values() {
        for (from, to) in [(128u32, 300u32), (250, 90)] {
            let value = |x: f64, width: u32| 20.0 + 200.0 * (x + 0.5) / f64::from(width);
            let ramp = RgbImage::from_fn(from, 2, |x, _| Rgb([value(f64::from(x), from).round() as u8; 3]));
            let stretched = to_width(ramp, to);
            // At the ends there are no pixels to interpolate from.
            for x in to / 20..to - to / 20 {
                let (found, expected) = (f64::from(stretched.get_pixel(x, 1).0[0]), value(f64::from(x), to));
                assert!((found - expected).abs() <= 1.1, "{from} {to} {x}: {found}, expected {expected}");
            }
        }
    }
}
