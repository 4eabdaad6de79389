//! Limits on the resources that one video can use.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::VideoError;

/// Upper limits for one video. Each has its own error. They are checked against the packet scan before
/// decoding (headers are untrusted), and again while decoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VideoLimits {
    /// Size of the file in bytes.
    pub max_bytes: u64,
    /// Seconds from the first to the last frame.
    pub max_duration_s: f64,
    /// Width times height of a frame, in pixels. The default is 8K UHD (7680 x 4320).
    pub max_pixels: u64,
    /// Longer side of a frame, in pixels. Resizing a strip of a few rows costs more than its number of pixels
    /// suggests.
    pub max_side: u32,
    /// Packets in the video stream. A small file can hold hundreds of thousands.
    pub max_packets: u64,
    /// Frames decoded for one pass over the frames of a sampling.
    pub max_decoded_frames: u64,
    /// Streams in the file, of any kind.
    pub max_streams: u32,
    /// Decoder threads. Each holds its own frames; decoding several videos concurrently uses a machine
    /// better.
    pub decoder_threads: usize,
}

impl Default for VideoLimits {
    /// Limits for a four-hour film at 60 frames per second, in 8 GiB.
    fn default() -> Self {
        VideoLimits {
            max_bytes: 8 << 30,
            max_duration_s: 4.0 * 3600.0,
            max_pixels: 33_177_600,
            max_side: 16_384,
            max_packets: 1_000_000,
            max_decoded_frames: 1_000_000,
            max_streams: 64,
            decoder_threads: 1,
        }
    }
}

impl VideoLimits {
    /// Checks the size of a frame against `max_side` and `max_pixels`.
    pub(super) fn check_pixels(&self, path: &Path, width: u32, height: u32) -> Result<(), VideoError> {
        if width.max(height) > self.max_side {
            return Err(VideoError::TooLongSide { path: path.into(), width, height, allowed: self.max_side });
        }
        if u64::from(width) * u64::from(height) <= self.max_pixels {
            return Ok(());
        }
        Err(VideoError::TooManyPixels { path: path.into(), width, height, allowed: self.max_pixels })
    }
}
