//! Times of decoded frames.

use ffmpeg::frame;
use ffmpeg_next as ffmpeg;

/// Assigns each decoded frame its time in ticks.
#[derive(Debug, Default)]
pub(super) struct FrameClock {
    /// Some pts are missing. The clock then uses FFmpeg's best guess, or one tick after the last frame if
    /// there is none. Every pass over the file gives a frame the same, unique time.
    pub derived: bool,
    pub last: Option<i64>,
}

impl FrameClock {
    pub(super) fn tick(&mut self, picture: &frame::Video) -> i64 {
        let next = self.last.map_or(0, |last| last.saturating_add(1));
        let tick = match (self.derived, picture.pts()) {
            (false, Some(pts)) => pts,
            _ => picture.timestamp().map_or(next, |t| if self.last.is_none() { t } else { t.max(next) }),
        };
        self.last = Some(tick);
        tick
    }
}
