//! How much one video may cost.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::VideoError;

/// What a video may cost at most; each limit has an error of its own. Checked before decoding where the scan knows
/// (headers are not believed), and again while decoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VideoLimits {
    /// Bytes of the file.
    pub max_bytes: u64,
    /// Seconds from the first to the last frame.
    pub max_duration_s: f64,
    /// Width times height of a frame. The default is 8K UHD (7680 x 4320).
    pub max_pixels: u64,
    /// Width and height of a frame, each: a strip of a few rows would cost its resizer more than its pixels say.
    pub max_side: u32,
    /// Packets of the video stream: a small file can hold hundreds of thousands.
    pub max_packets: u64,
    /// Frames decoded for one pass over the frames of a sampling.
    pub max_decoded_frames: u64,
    /// Streams in the file, of any kind.
    pub max_streams: u32,
    /// Threads of the decoder. Each holds frames of its own; videos side by side use a machine better.
    pub decoder_threads: usize,
}

impl Default for VideoLimits {
    /// A four-hour film at 60 frames per second, in 8 GiB.
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
