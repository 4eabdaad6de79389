//! AVIF images. FFmpeg decodes them as videos of one frame, without some of their properties.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use image::ImageFormat;

use super::{FrameSampling, Orientation, Video, VideoLimits, Warning};
use crate::error::VideoError;

/// Reads an image. `head` are its first bytes.
pub(super) fn read(
    file: Arc<File>,
    path: PathBuf,
    (length, head): (u64, &[u8]),
    limits: &VideoLimits,
) -> Result<Video, VideoError> {
    let properties = Properties::new(head);
    if properties.tiled {
        let found = "an AVIF image of several tiles (convert it to JPEG or PNG)".into();
        return Err(VideoError::ContainerNotAllowed { path, found });
    }
    let video = super::stream(file, path.clone(), "mov", (length, None), limits)?;
    let frame = video.frames(&FrameSampling::uniform(1))?.next().ok_or(VideoError::NoFrames { path })??;
    let warnings = if properties.alpha { vec![Warning::AlphaIgnored] } else { Vec::new() };
    Ok(Video::still(ImageFormat::Avif, properties.orientation.apply(frame.image), warnings))
}

/// Properties of an image that FFmpeg does not apply. Their boxes lie in the first bytes of the file.
#[derive(Debug, PartialEq)]
struct Properties {
    orientation: Orientation,
    /// The image has a second picture with its alpha.
    alpha: bool,
    /// The image is a mosaic of several pictures.
    tiled: bool,
}

impl Properties {
    /// Reads the first bytes of a file. `irot` rotates by quarters against the clock, then `imir` mirrors: 0
    /// exchanges top and bottom, 1 left and right.
    fn new(head: &[u8]) -> Self {
        let after = |name: &[u8]| {
            let at = head.windows(name.len()).position(|bytes| bytes == name)?;
            head.get(at + name.len()).copied()
        };
        let rotated = 360 - u16::from(after(b"irot").unwrap_or(0) & 3) * 90;
        let (degrees, mirrored) = match after(b"imir").map(|axis| axis & 1) {
            None => (rotated, false),
            Some(0) => (540 - rotated, true),
            Some(_) => (360 - rotated, true),
        };
        Properties {
            orientation: Orientation { clockwise_degrees: degrees % 360, mirrored },
            alpha: after(b"auxiliary:alpha").is_some(),
            tiled: after(b"\0\0grid").is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The boxes that libavif writes for the eight EXIF orientations, which mean: mirrored, then rotated
    /// clockwise.
    #[test]
    fn reads_all_eight_orientations() {
        let check = |irot: Option<u8>, imir: Option<u8>, clockwise_degrees: u16, mirrored: bool| {
            let mut head = b"ftypavif".to_vec();
            irot.iter().for_each(|angle| head.extend([b"\0\0\0\x09irot", &[*angle][..]].concat()));
            imir.iter().for_each(|axis| head.extend([b"\0\0\0\x09imir", &[*axis][..]].concat()));
            let expected = Orientation { clockwise_degrees, mirrored };
            assert_eq!(Properties::new(&head).orientation, expected, "{irot:?} {imir:?}");
        };
        check(None, None, 0, false);
        check(None, Some(1), 0, true);
        check(Some(2), None, 180, false);
        check(None, Some(0), 180, true);
        check(Some(1), Some(0), 270, true);
        check(Some(3), None, 90, false);
        check(Some(3), Some(0), 90, true);
        check(Some(1), None, 270, false);
    }

    #[test]
    fn reads_alpha_and_tiles() {
        let alpha = Properties::new(b"auxC\0\0\0\0urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0");
        assert_eq!((alpha.alpha, alpha.tiled), (true, false));
        assert!(Properties::new(b"infe\x02\0\0\0\0\x01\0\0grid\0").tiled);
    }
}
