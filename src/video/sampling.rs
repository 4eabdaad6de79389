//! The frames that a sampling selects: pure arithmetic over the times of all frames of a video.
//!
//! The contract, for every codec and container:
//! - time zero is the first presented frame, at any pts; times are seconds from there;
//! - a sampling is a list of **targets** (moments); the frame of a target is the **first frame with pts >=
//!   target**, never the nearest and never the previous one, so a frame shows the picture at or right after
//!   the moment;
//! - the range is half-open: a target and its frame are both before `end`;
//! - a target after the last frame selects no frame, so the last partial second has no frame of its own;
//!   the target at zero always selects the first frame, so a clip of any length has at least one;
//! - a frame is selected **once**, even if several targets fall on it (a sampling faster than the video, a
//!   gap in a video of variable frame rate): a repeated frame costs as much as a new one and adds no
//!   information. Every frame carries its pts, so the times are not lost;
//! - frames are in the order of their pts.

use serde::{Deserialize, Serialize};

use crate::error::SamplingError;

/// Two times closer than this (seconds) are equal. It is below the time base of any container and above `f64`
/// rounding.
const TOLERANCE_S: f64 = 1e-9;
/// A sampling with more targets than this is rejected as a mistake.
const MAX_TARGETS: u64 = 10_000_000;

/// Sampled moments of a video. Times are seconds since the first presented frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FrameSampling {
    /// Target k is at `start + k / fps`, k = 0, 1, 2, ...
    Fps {
        /// Targets per second; positive and finite.
        fps: f64,
        /// First target, in seconds.
        #[serde(default)]
        start: f64,
        /// End in seconds, exclusive; `None` is the end of the video.
        #[serde(default)]
        end: Option<f64>,
        /// Largest number of frames. Later frames are left out, and the summary counts them.
        #[serde(default)]
        max_frames: Option<usize>,
    },
    /// `n` targets at equal distances from `start` to the last frame before `end`, both included: target i is
    /// at `start + i * (last - start) / (n - 1)`. With `n` = 1 the target is the middle of the two.
    Uniform {
        /// Number of targets, at least 1.
        n: usize,
        /// First target, in seconds.
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

/// Frames selected by a sampling.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FrameSelection {
    /// Ascending indices into the given times, each once.
    pub frames: Vec<usize>,
    /// Number of frames that `max_frames` left out.
    pub left_out: usize,
}

impl FrameSampling {
    /// Samples `fps` frames per second over the whole video.
    pub fn fps(fps: f64) -> Self {
        FrameSampling::Fps { fps, start: 0.0, end: None, max_frames: None }
    }

    /// Samples `n` frames at equal distances over the whole video, the first and the last included.
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
            FrameSampling::Uniform { n, .. } if n as u64 > MAX_TARGETS => {
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

    /// Selects frames, given the ascending times of all frames in seconds since the first one.
    ///
    /// # Errors
    /// As [`FrameSampling::check`], or the sampling has too many targets for this video.
    pub fn select(&self, times: &[f64]) -> Result<FrameSelection, SamplingError> {
        self.check()?;
        match *self {
            FrameSampling::Fps { fps, start, end, max_frames } => {
                let times = before(times, end);
                let span = times.last().map_or(0.0, |last| last - start);
                if span * fps > MAX_TARGETS as f64 {
                    return Err(SamplingError::TooMany { fps, span, allowed: MAX_TARGETS });
                }
                let mut frames = first_at_or_after(times, (0u64..).map(|k| start + k as f64 / fps));
                let kept = max_frames.unwrap_or(usize::MAX).min(frames.len());
                let left_out = frames.len() - kept;
                frames.truncate(kept);
                Ok(FrameSelection { frames, left_out })
            }
            FrameSampling::Uniform { n, start, end } => {
                let times = before(times, end);
                let Some(&last) = times.last() else { return Ok(FrameSelection::default()) };
                let target = |i: usize| match n {
                    1 => start + (last - start) / 2.0,
                    // Exactly the last frame, without rounding.
                    _ if i + 1 == n => last,
                    _ => start + (last - start) * i as f64 / (n - 1) as f64,
                };
                if last + TOLERANCE_S < start {
                    return Ok(FrameSelection::default());
                }
                Ok(FrameSelection { frames: first_at_or_after(times, (0..n).map(target)), left_out: 0 })
            }
        }
    }
}

/// The times before `end`.
fn before(times: &[f64], end: Option<f64>) -> &[f64] {
    match end {
        Some(end) => &times[..times.partition_point(|t| *t < end - TOLERANCE_S)],
        None => times,
    }
}

/// Returns, for ascending targets, the index of the first time at or after each target, each index once. It
/// stops at the first target beyond the last time.
fn first_at_or_after(times: &[f64], targets: impl Iterator<Item = f64>) -> Vec<usize> {
    let mut indices = Vec::new();
    let mut next = 0;
    for target in targets {
        next += times[next..].partition_point(|t| *t < target - TOLERANCE_S);
        if next == times.len() {
            break;
        }
        if indices.last() != Some(&next) {
            indices.push(next);
        }
    }
    indices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, sampling: FrameSampling, times: &[f64], expected: &[usize]) {
        assert_eq!(sampling.select(times).unwrap().frames, expected, "{name}");
    }

    fn constant(rate: f64, n: usize) -> Vec<f64> {
        (0..n).map(|i| i as f64 / rate).collect()
    }

    #[test]
    fn selects_by_rate() {
        let fps = FrameSampling::fps;
        check("one per second", fps(1.0), &constant(25.0, 77), &[0, 25, 50, 75]);
        check("the last partial second has none", fps(1.0), &constant(25.0, 75), &[0, 25, 50]);
        let ntsc: Vec<f64> = (0..100).map(|i| i as f64 * 1001.0 / 30000.0).collect();
        check("29.97: the first frame at or after", fps(1.0), &ntsc, &[0, 30, 60, 90]);
        check("half a frame per second", fps(0.5), &constant(10.0, 45), &[0, 20, 40]);
        check("thirds do not slip by rounding", fps(3.0), &constant(3.0, 5), &[0, 1, 2, 3, 4]);
        check("as fast as the video", fps(29.0), &constant(29.0, 7), &[0, 1, 2, 3, 4, 5, 6]);
        check("faster than the video: each frame once", fps(10.0), &constant(4.0, 3), &[0, 1, 2]);
        check("variable: a gap is not filled", fps(1.0), &[0.0, 0.4, 5.2, 5.3, 6.0, 9.5], &[0, 2, 4, 5]);
        check("under a second", fps(1.0), &constant(30.0, 11), &[0]);
        check("a single frame", fps(1.0), &[0.0], &[0]);
        check("no frames", fps(1.0), &[], &[]);
    }

    #[test]
    fn selects_within_ranges() {
        let times = constant(10.0, 60);
        check("from the middle", FrameSampling::fps(1.0).within(1.55, None), &times, &[16, 26, 36, 46, 56]);
        check("end is exclusive", FrameSampling::fps(1.0).within(0.0, Some(3.0)), &times, &[0, 10, 20]);
        check(
            "the frame, too, is before the end",
            FrameSampling::fps(1.0).within(0.55, Some(1.6)),
            &times,
            &[6],
        );
        check("start beyond the video", FrameSampling::fps(1.0).within(7.0, None), &times, &[]);
        check("uniform beyond the video", FrameSampling::uniform(3).within(7.0, None), &times, &[]);
        check("uniform in a range", FrameSampling::uniform(3).within(1.0, Some(2.05)), &times, &[10, 15, 20]);
    }

    #[test]
    fn selects_uniformly() {
        let times = constant(10.0, 41);
        check("both ends", FrameSampling::uniform(5), &times, &[0, 10, 20, 30, 40]);
        check("one is the middle", FrameSampling::uniform(1), &times, &[20]);
        check("two are the ends", FrameSampling::uniform(2), &times, &[0, 40]);
        check("between frames: the next one", FrameSampling::uniform(4), &times, &[0, 14, 27, 40]);
        check("more than there are: all, once", FrameSampling::uniform(9), &constant(7.0, 3), &[0, 1, 2]);
    }

    #[test]
    fn max_frames_counts_left_out_frames() {
        let sampling = FrameSampling::Fps { fps: 2.0, start: 0.0, end: None, max_frames: Some(3) };
        let selection = sampling.select(&constant(10.0, 31)).unwrap();
        assert_eq!((selection.frames, selection.left_out), (vec![0, 5, 10], 4));
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
        assert!(matches!(FrameSampling::fps(1e9).select(&[0.0, 1e5]), Err(SamplingError::TooMany { .. })));
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
