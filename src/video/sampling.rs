//! The moments of a sampling, and the frame that a player shows at each: pure arithmetic over the times of all
//! frames of a video.
//!
//! The contract, for every codec and container:
//! - time zero is the first presented frame, at any pts; times are seconds from there;
//! - a sampling is a list of evenly spaced **moments**. They lie before the end of the range and before the end
//!   of the video, which is the pts of the last frame plus its duration. The moment at zero always exists, so a
//!   clip of any length has at least one;
//! - the frame of a moment is the one that a player **shows** then: the last frame with pts <= moment. A frame
//!   that begins within half a tick of the time base after the moment counts, because containers round times to
//!   ticks;
//! - a frame that is shown at several moments is selected **once**, with all of them. It is decoded and encoded
//!   once, and its features stand at each moment;
//! - frames are in the order of their pts.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::SamplingError;

/// Version of the contract above. Reports name it. Version 1 gave the first frame at or after a moment, each
/// frame once.
pub const SAMPLING_CONTRACT: u32 = 2;

/// Two times closer than this (seconds) are equal. It is below the time base of any container and above `f64`
/// rounding.
const TOLERANCE_S: f64 = 1e-9;
/// A sampling with more moments than this is rejected as a mistake.
const MAX_MOMENTS: u64 = 10_000_000;

/// Sampled moments of a video. Times are seconds since the first presented frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FrameSampling {
    /// Moment k is `start + k / fps`, k = 0, 1, 2, ...
    Fps {
        /// Moments per second; positive and finite.
        fps: f64,
        /// First moment, in seconds.
        #[serde(default)]
        start: f64,
        /// End in seconds, exclusive; `None` is the end of the video.
        #[serde(default)]
        end: Option<f64>,
        /// Largest number of moments. Later moments are left out, and the summary counts them.
        #[serde(default)]
        max_frames: Option<usize>,
    },
    /// `n` moments at equal distances from `start` to the last frame before `end`, both included: moment i is
    /// `start + i * (last - start) / (n - 1)`. With `n` = 1 it is the middle of the two. If the last frame stays,
    /// `last` is one median interval before the end of the range. If `start` is `last`, there is one moment.
    Uniform {
        /// Number of moments, at least 1.
        n: usize,
        /// First moment, in seconds.
        #[serde(default)]
        start: f64,
        /// End in seconds, exclusive; `None` is the end of the video.
        #[serde(default)]
        end: Option<f64>,
    },
}

impl Default for FrameSampling {
    /// One frame per second over the whole video.
    fn default() -> Self {
        FrameSampling::fps(1.0)
    }
}

/// Times of the frames of a video.
#[derive(Debug, Clone, Copy)]
pub struct VideoTimes<'a> {
    /// Ascending times of all frames, in seconds since the first one.
    pub frames: &'a [f64],
    /// End of the last frame, in seconds.
    pub end: f64,
    /// Median distance of two consecutive frames, in seconds; the duration of the frame if there is one only.
    pub interval: f64,
    /// Length of a tick of the time base, in seconds.
    pub tick: f64,
}

/// Consecutive moments of a sampling: moment k is `start + k / rate` seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    start: f64,
    rate: f64,
    indices: Range<u64>,
}

impl Moments {
    /// Returns one moment.
    pub fn at(seconds: f64) -> Self {
        Moments { start: seconds, rate: 1.0, indices: 0..1 }
    }

    /// Returns the number of moments.
    pub fn len(&self) -> usize {
        self.indices.end.saturating_sub(self.indices.start) as usize
    }

    /// Returns whether there is no moment.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Returns the first moment, in seconds.
    pub fn first(&self) -> Option<f64> {
        (!self.is_empty()).then(|| self.time(self.indices.start))
    }

    /// Removes and returns the moments before `end` (seconds).
    pub fn take_before(&mut self, end: f64) -> Self {
        self.take_while(|time| time < end - TOLERANCE_S)
    }

    /// Removes and returns the first moments, up to one that does not meet `condition`, as all after it.
    fn take_while(&mut self, condition: impl Fn(f64) -> bool) -> Self {
        let Range { mut start, mut end } = self.indices;
        while start < end {
            let middle = start + (end - start) / 2;
            if condition(self.time(middle)) {
                start = middle + 1;
            } else {
                end = middle;
            }
        }
        let taken = Moments { indices: self.indices.start..start, ..*self };
        self.indices.start = start;
        taken
    }

    /// Returns those of the moments whose number in the whole sampling is a multiple of `n`, numbered again: `every(2)` twice is
    /// `every(4)`.
    pub fn every(&self, n: u64) -> Self {
        let Range { start, end } = self.indices;
        Moments { start: self.start, rate: self.rate / n as f64, indices: start.div_ceil(n)..end.div_ceil(n) }
    }

    /// Returns whether all values are plausible: untrusted moments can be anything.
    pub fn is_valid(&self) -> bool {
        let finite = self.start.is_finite() && self.start >= 0.0 && self.rate.is_finite() && self.rate > 0.0;
        finite && self.indices.start < self.indices.end && self.indices.end <= MAX_MOMENTS
    }

    fn time(&self, k: u64) -> f64 {
        self.start + k as f64 / self.rate
    }
}

/// Frames selected by a sampling.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FrameSelection {
    /// Frames in ascending order, each once.
    pub frames: Vec<SelectedFrame>,
    /// Number of moments that `max_frames` left out.
    pub left_out: usize,
}

/// A frame with the moments at which it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectedFrame {
    /// Index into the times of all frames.
    pub index: usize,
    /// At least one moment.
    pub moments: Moments,
}

impl FrameSampling {
    /// Samples the frame on the screen `fps` times per second over the whole video.
    pub fn fps(fps: f64) -> Self {
        FrameSampling::Fps { fps, start: 0.0, end: None, max_frames: None }
    }

    /// Samples `n` moments at equal distances over the whole video, the first and the last frame included.
    pub fn uniform(n: usize) -> Self {
        FrameSampling::Uniform { n, start: 0.0, end: None }
    }

    /// Restricts the sampling to `from..to` (seconds).
    pub fn within(mut self, from: f64, to: Option<f64>) -> Self {
        match &mut self {
            FrameSampling::Fps { start, end, .. } | FrameSampling::Uniform { start, end, .. } => {
                (*start, *end) = (from, to);
            }
        }
        self
    }

    /// Start and end in seconds, the end exclusive; `None` is the end of the video.
    pub fn range(&self) -> (f64, Option<f64>) {
        match *self {
            FrameSampling::Fps { start, end, .. } | FrameSampling::Uniform { start, end, .. } => (start, end),
        }
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// The rate is not positive, the range is empty or not finite, or the number of frames is 0 or too large.
    pub fn check(&self) -> Result<(), SamplingError> {
        let (start, end) = match *self {
            FrameSampling::Fps { fps, .. } if !(fps.is_finite() && fps > 0.0) => {
                return Err(SamplingError::Fps(fps));
            }
            FrameSampling::Fps { max_frames: Some(0), .. } | FrameSampling::Uniform { n: 0, .. } => {
                return Err(SamplingError::NoFrames);
            }
            FrameSampling::Uniform { n, .. } if n as u64 > MAX_MOMENTS => {
                return Err(SamplingError::Count(n));
            }
            FrameSampling::Fps { start, end, .. } | FrameSampling::Uniform { start, end, .. } => (start, end),
        };
        if !(start.is_finite() && start >= 0.0) {
            return Err(SamplingError::Start(start));
        }
        match end {
            Some(end) if !(end.is_finite() && end > start) => Err(SamplingError::Range { start, end }),
            _ => Ok(()),
        }
    }

    /// Selects the frames that are shown at the moments of this sampling.
    ///
    /// # Errors
    /// As [`FrameSampling::check`], or the sampling has too many moments for this video.
    pub fn select(&self, times: &VideoTimes) -> Result<FrameSelection, SamplingError> {
        let (moments, left_out) = self.moments(times)?;
        Ok(FrameSelection { frames: shown_at(moments, times), left_out })
    }

    /// Returns the moments within the video, and the number of moments that `max_frames` left out.
    fn moments(&self, times: &VideoTimes) -> Result<(Moments, usize), SamplingError> {
        self.check()?;
        let (start, end) = self.range();
        let end = end.map_or(times.end, |end| end.min(times.end));
        let none = Moments { start, rate: 1.0, indices: 0..0 };
        let begins = start <= TOLERANCE_S || start < end - TOLERANCE_S;
        if times.frames.is_empty() || !begins {
            return Ok((none, 0));
        }
        match *self {
            FrameSampling::Fps { fps, max_frames, .. } => {
                let span = (end - start).max(0.0);
                if span * fps > MAX_MOMENTS as f64 {
                    return Err(SamplingError::TooMany { fps, span, allowed: MAX_MOMENTS });
                }
                // One more than can lie before `end`; `take_before` counts exactly.
                let mut all = Moments { start, rate: fps, indices: 0..(span * fps) as u64 + 2 };
                let count = all.take_before(end).len().max(1);
                let kept = max_frames.unwrap_or(usize::MAX).min(count);
                Ok((Moments { start, rate: fps, indices: 0..kept as u64 }, count - kept))
            }
            FrameSampling::Uniform { n, .. } => {
                let frames = before(times.frames, end);
                let last = frames.last().map_or(start, |last| last.max(end - times.interval)).max(start);
                let moments = match n {
                    _ if last - start <= TOLERANCE_S => Moments::at(start),
                    1 => Moments::at(start + (last - start) / 2.0),
                    _ => Moments { start, rate: (n - 1) as f64 / (last - start), indices: 0..n as u64 },
                };
                Ok((moments, 0))
            }
        }
    }
}

/// The times before `end`.
fn before(times: &[f64], end: f64) -> &[f64] {
    &times[..times.partition_point(|t| *t < end - TOLERANCE_S)]
}

/// Selects the frame that is shown at each moment, each frame once.
fn shown_at(mut moments: Moments, times: &VideoTimes) -> Vec<SelectedFrame> {
    let early = times.tick / 2.0 + TOLERANCE_S;
    let mut selected = Vec::new();
    let mut index = 0;
    while let Some(moment) = moments.first() {
        index += times.frames[index..].partition_point(|t| *t <= moment + early).saturating_sub(1);
        let next = times.frames.get(index + 1).copied().unwrap_or(f64::INFINITY);
        selected.push(SelectedFrame { index, moments: moments.take_while(|moment| next > moment + early) });
    }
    selected
}

#[cfg(test)]
mod tests;
