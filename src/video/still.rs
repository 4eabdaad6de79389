//! Images as videos of one frame.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use super::VideoLimits;
use crate::error::VideoError;

/// Reads an image with its EXIF orientation applied: the first frame of an animation, without transparency.
pub(super) fn read(
    file: &File,
    format: ImageFormat,
    path: &Path,
    limits: &VideoLimits,
) -> Result<RgbImage, VideoError> {
    let malformed = |e: image::ImageError| VideoError::Malformed {
        path: path.into(),
        container: format!("{format:?}").to_uppercase(),
        reason: e.to_string(),
    };
    let io = |source| VideoError::Io { path: path.into(), source };
    let mut file = file;
    file.rewind().map_err(io)?;
    let mut reader = ImageReader::with_format(BufReader::new(file), format);
    reader.limits(allocation(limits));
    let mut decoder = reader.into_decoder().map_err(malformed)?;
    let (width, height) = decoder.dimensions();
    limits.check_pixels(path, width, height)?;
    let orientation = decoder.orientation().map_err(malformed)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(malformed)?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// Allocation limit of the image decoder. The dimensions have a separate check and error; this bounds the
/// buffers of the decoder: 16-bit RGBA is 8 bytes per pixel, twice for the decoder's own buffers.
fn allocation(limits: &VideoLimits) -> Limits {
    let mut allowed = Limits::default();
    allowed.max_alloc = Some(limits.max_pixels.saturating_mul(16));
    allowed
}
