//! Transparent pictures on white, as a browser shows them on an empty page.

use image::{ColorType, DynamicImage, RgbImage};

/// Returns the picture on white. Its alpha is straight: the colours are not multiplied by it.
pub(super) fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let (width, height) = (image.width(), image.height());
    let rgb: Vec<u8> = if matches!(image.color(), ColorType::La8 | ColorType::Rgba8) {
        let whiten = |p: &[u8]| [0, 1, 2].map(|i| over_white(p[i].into(), p[3].into(), u8::MAX.into()) as u8);
        image.into_rgba8().as_raw().chunks_exact(4).flat_map(whiten).collect()
    } else {
        let whiten = |p: &[u16]| [0, 1, 2].map(|i| over_white(p[i].into(), p[3].into(), u16::MAX.into()));
        let byte = |wide: u64| ((wide + 128) / 257) as u8;
        image.into_rgba16().as_raw().chunks_exact(4).flat_map(|p| whiten(p).map(byte)).collect()
    };
    RgbImage::from_raw(width, height, rgb).unwrap_or_default()
}

/// Mixes a value with white (`most`) by its alpha, rounded to the nearest.
fn over_white(value: u64, alpha: u64, most: u64) -> u64 {
    (value * alpha + most * (most - alpha) + most / 2) / most
}
