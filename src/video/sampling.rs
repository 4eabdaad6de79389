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
mod tests {
    use super::*;

    /// Selects from frames at `times`, the last of which stays for `stays` seconds, and returns each frame's index once
    /// per moment.
    fn select(sampling: &FrameSampling, times: &[f64], stays: f64, tick: f64) -> Vec<usize> {
        let mut gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps.sort_by(f64::total_cmp);
        let interval = gaps.get(gaps.len() / 2).copied().unwrap_or(stays);
        let end = times.last().map_or(0.0, |last| last + stays);
        let selection = sampling.select(&VideoTimes { frames: times, end, interval, tick }).unwrap();
        let indices: Vec<usize> = selection.frames.iter().map(|frame| frame.index).collect();
        assert!(indices.windows(2).all(|pair| pair[0] < pair[1]), "{sampling:?}: each frame once");
        selection.frames.iter().flat_map(|f| vec![f.index; f.moments.len()]).collect()
    }

    fn check(name: &str, sampling: FrameSampling, times: &[f64], stays: f64, expected: &[usize]) {
        assert_eq!(select(&sampling, times, stays, 0.0), expected, "{name}");
    }

    fn constant(rate: f64, n: usize) -> Vec<f64> {
        (0..n).map(|i| i as f64 / rate).collect()
    }

    #[test]
    fn selects_by_rate() {
        let fps = FrameSampling::fps;
        check("one per second", fps(1.0), &constant(25.0, 77), 0.04, &[0, 25, 50, 75]);
        check("the end is no moment", fps(1.0), &constant(25.0, 75), 0.04, &[0, 25, 50]);
        let ntsc: Vec<f64> = (0..100).map(|i| i as f64 * 1001.0 / 30000.0).collect();
        check("29.97: the frame on the screen", fps(1.0), &ntsc, 1001.0 / 30000.0, &[0, 29, 59, 89]);
        check("29.97: one more", fps(1.0), &ntsc[..60], 1001.0 / 30000.0, &[0, 29, 59]);
        check("half a frame per second", fps(0.5), &constant(10.0, 45), 0.1, &[0, 20, 40]);
        check("thirds do not slip by rounding", fps(3.0), &constant(3.0, 5), 1.0 / 3.0, &[0, 1, 2, 3, 4]);
        check("as fast as the video", fps(29.0), &constant(29.0, 7), 1.0 / 29.0, &[0, 1, 2, 3, 4, 5, 6]);
        check("faster: frames stay", fps(10.0), &constant(4.0, 3), 0.25, &[0, 0, 0, 1, 1, 2, 2, 2]);
        check("variable", fps(1.0), &[0.0, 0.4, 3.2, 3.3, 4.0, 6.5], 0.1, &[0, 1, 1, 1, 4, 4, 4]);
        check("under a second", fps(1.0), &constant(30.0, 11), 1.0 / 30.0, &[0]);
        check("a single frame", fps(1.0), &[0.0], 0.0, &[0]);
        check("a single frame that stays", fps(1.0), &[0.0], 3.5, &[0, 0, 0, 0]);
        check("no frames", fps(1.0), &[], 0.0, &[]);
    }

    #[test]
    fn frames_of_rounded_times_are_selected_once() {
        let check = |rate: f64, tick: f64| {
            let times: Vec<f64> = constant(rate, 90).iter().map(|t| (t / tick).round() * tick).collect();
            let expected: Vec<usize> = (0..90).collect();
            assert_eq!(select(&FrameSampling::fps(rate), &times, 0.4 / rate, tick), expected, "{rate}");
        };
        for rate in [12.0, 24.0, 30.0, 60.0] {
            check(rate, 1e-3);
            check(rate, 1.0 / 90_000.0);
        }
    }

    #[test]
    fn selects_within_ranges() {
        let times = constant(10.0, 60);
        let within = |from: f64, to: Option<f64>| FrameSampling::fps(1.0).within(from, to);
        check("from the middle", within(1.55, None), &times, 0.1, &[15, 25, 35, 45, 55]);
        check("end is exclusive", within(0.0, Some(3.0)), &times, 0.1, &[0, 10, 20]);
        check("the moment is before the end", within(0.55, Some(1.56)), &times, 0.1, &[5, 15]);
        check("start within the last frame", within(5.95, None), &times, 0.1, &[59]);
        check("start beyond the video", within(6.0, None), &times, 0.1, &[]);
        check("in the middle of a picture", within(5.0, Some(8.0)), &[0.0, 2.0, 60.0], 0.1, &[1, 1, 1]);
        check("uniform beyond the video", FrameSampling::uniform(3).within(7.0, None), &times, 0.1, &[]);
        let uniform = FrameSampling::uniform(3).within(1.0, Some(2.05));
        check("uniform in a range", uniform, &times, 0.1, &[10, 15, 20]);
    }

    #[test]
    fn selects_uniformly() {
        let times = constant(10.0, 41);
        check("both ends", FrameSampling::uniform(5), &times, 0.1, &[0, 10, 20, 30, 40]);
        check("one is the middle", FrameSampling::uniform(1), &times, 0.1, &[20]);
        check("two are the ends", FrameSampling::uniform(2), &times, 0.1, &[0, 40]);
        check("between frames: the one shown", FrameSampling::uniform(4), &times, 0.1, &[0, 13, 26, 40]);
        let repeated = [0, 0, 0, 0, 1, 1, 1, 1, 2];
        check(
            "more than there are: frames stay",
            FrameSampling::uniform(9),
            &constant(7.0, 3),
            0.1,
            &repeated,
        );
        check("a last frame that stays", FrameSampling::uniform(4), &[0.0, 1.0, 2.0], 8.0, &[0, 2, 2, 2]);
        check("an image", FrameSampling::uniform(4), &[0.0], 0.0, &[0]);
    }

    #[test]
    fn max_frames_counts_left_out_moments() {
        let sampling = FrameSampling::Fps { fps: 2.0, start: 0.0, end: None, max_frames: Some(3) };
        let times = VideoTimes { frames: &[0.0, 0.8], end: 15.5, interval: 0.8, tick: 0.0 };
        let selection = sampling.select(&times).unwrap();
        let lengths: Vec<_> = selection.frames.iter().map(|f| (f.index, f.moments.len())).collect();
        assert_eq!((lengths, selection.left_out), (vec![(0, 2), (1, 1)], 28));
    }

    #[test]
    fn moments_split_at_times() {
        let mut moments = Moments { start: 0.5, rate: 3.0, indices: 1..10 };
        let taken = moments.take_before(0.5 + 4.0 / 3.0);
        assert_eq!((taken.indices, moments.indices.clone()), (1..4, 4..10));
        assert!(moments.take_before(0.0).is_empty() && moments.first() == Some(0.5 + 4.0 / 3.0));
        assert_eq!(moments.take_before(1e9).len(), 6);
        assert!(moments.is_empty() && moments.first().is_none());
    }

    #[test]
    fn rejects_implausible_moments() {
        let valid = |start: f64, rate: f64, indices: Range<u64>| Moments { start, rate, indices }.is_valid();
        assert!(valid(0.0, 1.0, 0..1));
        let reversed = Range { start: 2, end: 1 };
        let (nan, infinite) = (f64::NAN, f64::INFINITY);
        for (start, rate) in [(-1.0, 1.0), (nan, 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, nan), (0.0, infinite)] {
            assert!(!valid(start, rate, 0..1), "{start} {rate}");
        }
        assert!(!valid(0.0, 1.0, 3..3) && !valid(0.0, 1.0, reversed) && !valid(0.0, 1.0, 0..u64::MAX));
    }

    #[test]
    fn rejects_invalid_samplings() {
        for fps in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(FrameSampling::fps(fps).check(), Err(SamplingError::Fps(_))), "{fps}");
        }
        for start in [-0.5, f64::NAN, f64::INFINITY] {
            let sampling = FrameSampling::uniform(3).within(start, None);
            assert!(matches!(sampling.check(), Err(SamplingError::Start(_))), "{start}");
        }
        for end in [2.0, 1.0, f64::NAN, f64::INFINITY] {
            let sampling = FrameSampling::fps(3.0).within(2.0, Some(end));
            assert!(matches!(sampling.check(), Err(SamplingError::Range { .. })), "{end}");
        }
        assert_eq!(FrameSampling::uniform(0).check(), Err(SamplingError::NoFrames));
        assert_eq!(FrameSampling::uniform(usize::MAX).check(), Err(SamplingError::Count(usize::MAX)));
        let times = VideoTimes { frames: &[0.0], end: 1e5, interval: 1.0, tick: 0.0 };
        assert!(matches!(FrameSampling::fps(1e9).select(&times), Err(SamplingError::TooMany { .. })));
    }

    #[test]
    fn reads_json() {
        let read = |text| serde_json::from_str::<FrameSampling>(text);
        assert_eq!(read(r#"{"fps": {"fps": 2.0}}"#).unwrap(), FrameSampling::fps(2.0));
        assert_eq!(
            read(r#"{"uniform": {"n": 8, "start": 1.5}}"#).unwrap(),
            FrameSampling::uniform(8).within(1.5, None)
        );
        assert!(read(r#"{"fps": {"fps": 2.0, "stop": 3}}"#).is_err());
    }
}
