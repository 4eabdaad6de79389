//! Images as videos of one frame.

pub(super) mod jpeg;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use self::jpeg::Jpeg;
use super::{Orientation, VideoInfo, VideoLimits, alpha};
use crate::error::VideoError;

/// Reads an image with its EXIF orientation applied: the first frame of an animation, on white where it is transparent.
pub(super) fn read(
    file: &File,
    format: ImageFormat,
    path: &Path,
    limits: &VideoLimits,
) -> Result<RgbImage, VideoError> {
    let source = Source { format, path, limits };
    let mut file = file;
    file.rewind().map_err(|e| source.io(e))?;
    if format == ImageFormat::Jpeg { source.read_jpeg(file) } else { source.decode(BufReader::new(file)) }
        .map(alpha::on_white)
}

/// Bytes in which the second picture of a motion JPEG must begin.
const MOTION_JPEG_BYTES: u64 = 32 << 20;

/// Whether a file that begins as a JPEG is a motion JPEG without a container. An unreadable file is none: it
/// fails when it is read as an image.
pub(super) fn is_motion_jpeg(mut file: &File) -> bool {
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.take(MOTION_JPEG_BYTES).read_to_end(&mut bytes));
    read.is_ok() && jpeg::is_motion_jpeg(&bytes)
}

/// An image file: its format, its name for errors, and its limits.
struct Source<'a> {
    format: ImageFormat,
    path: &'a Path,
    limits: &'a VideoLimits,
}

impl Source<'_> {
    fn decode(&self, bytes: impl BufRead + Seek) -> Result<DynamicImage, VideoError> {
        let malformed = |e: ImageError| malformed(self.format, self.path, e.to_string());
        let mut reader = ImageReader::with_format(bytes, self.format);
        reader.limits(allocation(self.limits));
        let mut decoder = reader.into_decoder().map_err(malformed)?;
        let (width, height) = decoder.dimensions();
        self.limits.check_pixels(self.path, width, height)?;
        let orientation = decoder.orientation().map_err(malformed)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(malformed)?;
        image.apply_orientation(orientation);
        Ok(image)
    }

    /// Decodes a JPEG. The decoders of all other formats report missing data themselves.
    fn read_jpeg(&self, mut file: &File) -> Result<DynamicImage, VideoError> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| self.io(e))?;
        let jpeg = Jpeg::new(bytes);
        let image = self.decode(Cursor::new(jpeg.whole()))?;
        // An error of the second pass is also an effect of the noise.
        let noisy = self.decode(Cursor::new(jpeg.with_noise())).ok();
        if jpeg.has_all_scans() && noisy.as_ref() == Some(&image) {
            return Ok(image);
        }
        let reason = "its data end before the picture is complete".into();
        Err(malformed(self.format, self.path, reason))
    }

    fn io(&self, source: io::Error) -> VideoError {
        VideoError::Io { path: self.path.into(), source }
    }
}

pub(super) fn malformed(format: ImageFormat, path: &Path, reason: String) -> VideoError {
    VideoError::Malformed { path: path.into(), container: format!("{format:?}").to_uppercase(), reason }
}

/// Facts about an image of one frame.
pub(super) fn info(format: ImageFormat, width: u32, height: u32) -> VideoInfo {
    let name = format!("{format:?}").to_lowercase();
    VideoInfo {
        container: name.clone(),
        codec: name,
        width,
        height,
        orientation: Orientation::default(),
        duration: 0.0,
        frames: 1,
        average_fps: 0.0,
        start_pts: 0.0,
        transfer: None,
    }
}

/// Allocation limit of the image decoder. The dimensions have a separate check and error; this bounds the
/// buffers of the decoder: 16-bit RGBA is 8 bytes per pixel, twice for the decoder's own buffers.
pub(super) fn allocation(limits: &VideoLimits) -> Limits {
    let mut allowed = Limits::default();
    allowed.max_alloc = Some(limits.max_pixels.saturating_mul(16));
    allowed
}
