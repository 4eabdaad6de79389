//! Which frames of a video are looked at: pure arithmetic over the times of its frames.
//!
//! The contract, for every codec and container:
//! - time zero is the first presented frame, whatever pts it carries; times are seconds from there;
//! - a sampling is a list of **targets** (moments); the frame of a target is the **first frame with pts >= target**,
//!   never the nearest and never the one before, so a frame shows what the viewer sees at or right after the moment;
//! - the range is half-open: neither a target nor its frame may be at or beyond `end`;
//! - a target after the last frame yields nothing, so the last partial second gives no frame of its own;
//!   the target at zero always has the first frame, so a clip of any length, however short, gives at least one;
//! - a frame is used **once**, however many targets fall on it (a sampling faster than the video, a gap in a video of
//!   variable frame rate): a repeated frame would cost as much as a new one and tell a model nothing. Every frame
//!   carries its pts, so no time is lost by this;
//! - frames come in the order of their pts.

use serde::{Deserialize, Serialize};

use crate::error::SamplingError;

/// Two times closer than this (seconds) are the same time: below any container's time base, above rounding in `f64`.
const SAME: f64 = 1e-9;
/// More targets than this in one sampling is a mistake, not a wish.
const MOST_TARGETS: u64 = 10_000_000;

/// Which moments of a video are looked at. Times are seconds since the first presented frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FrameSampling {
    /// Target k is at `start + k / fps`, k = 0, 1, 2, ...
    Fps {
        /// Targets per second; positive and finite.
        fps: f64,
        #[serde(default)]
        start: f64,
        /// Exclusive; `None` is the end of the video.
        #[serde(default)]
        end: Option<f64>,
        /// At most this many frames: those after it are left out, and the summary counts them.
        #[serde(default)]
        max_frames: Option<usize>,
    },
    /// `n` targets with equal distances from `start` to the last frame before `end`, both included: target i is at
    /// `start + i * (last - start) / (n - 1)`; with `n` = 1 the target is the middle of the two.
    Uniform {
        n: usize,
        #[serde(default)]
        start: f64,
        /// Exclusive; `None` is the end of the video.
        #[serde(default)]
        end: Option<f64>,
    },
}

impl Default for FrameSampling {
    /// One frame per second, the whole video.
    fn default() -> Self {
        FrameSampling::fps(1.0)
    }
}

/// The frames that a sampling chose.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Picks {
    /// Ascending indices into the times that were given, each once.
    pub frames: Vec<usize>,
    /// How many frames `max_frames` left out.
    pub left_out: usize,
}

impl FrameSampling {
    /// `fps` frames per second over the whole video.
    pub fn fps(fps: f64) -> Self {
        FrameSampling::Fps { fps, start: 0.0, end: None, max_frames: None }
    }

    /// `n` frames spread over the whole video, the first and the last included.
    pub fn uniform(n: usize) -> Self {
        FrameSampling::Uniform { n, start: 0.0, end: None }
    }

    /// The same sampling within `start..end` (seconds).
    pub fn within(mut self, from: f64, to: Option<f64>) -> Self {
        match &mut self {
            FrameSampling::Fps { start, end, .. } | FrameSampling::Uniform { start, end, .. } => {
                (*start, *end) = (from, to);
            }
        }
        self
    }

    /// Seconds at which it begins and ends, the end exclusive; `None` is the end of the video.
    pub fn range(&self) -> (f64, Option<f64>) {
        match *self {
            FrameSampling::Fps { start, end, .. } | FrameSampling::Uniform { start, end, .. } => (start, end),
        }
    }

    /// Refuses what means nothing: a rate that is not positive, an empty or non-finite range, no frames.
    pub fn check(&self) -> Result<(), SamplingError> {
        let (start, end) = match *self {
            FrameSampling::Fps { fps, .. } if !(fps.is_finite() && fps > 0.0) => {
                return Err(SamplingError::Fps(fps));
            }
            FrameSampling::Fps { max_frames: Some(0), .. } | FrameSampling::Uniform { n: 0, .. } => {
                return Err(SamplingError::NoFrames);
            }
            FrameSampling::Uniform { n, .. } if n as u64 > MOST_TARGETS => {
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

    /// The frames of this sampling, given the ascending times of all frames in seconds since the first one.
    pub fn pick(&self, times: &[f64]) -> Result<Picks, SamplingError> {
        self.check()?;
        match *self {
            FrameSampling::Fps { fps, start, end, max_frames } => {
                let times = before(times, end);
                let span = times.last().map_or(0.0, |last| last - start);
                if span * fps > MOST_TARGETS as f64 {
                    return Err(SamplingError::TooMany { fps, span, allowed: MOST_TARGETS });
                }
                let mut picks = first_at_or_after(times, (0u64..).map(|k| start + k as f64 / fps));
                let kept = max_frames.unwrap_or(usize::MAX).min(picks.len());
                let left_out = picks.len() - kept;
                picks.truncate(kept);
                Ok(Picks { frames: picks, left_out })
            }
            FrameSampling::Uniform { n, start, end } => {
                let times = before(times, end);
                let Some(&last) = times.last() else { return Ok(Picks::default()) };
                let target = |i: usize| match n {
                    1 => start + (last - start) / 2.0,
                    // The last target is the last frame, not a rounding of it.
                    _ if i + 1 == n => last,
                    _ => start + (last - start) * i as f64 / (n - 1) as f64,
                };
                if last + SAME < start {
                    return Ok(Picks::default());
                }
                Ok(Picks { frames: first_at_or_after(times, (0..n).map(target)), left_out: 0 })
            }
        }
    }
}

fn before(times: &[f64], end: Option<f64>) -> &[f64] {
    match end {
        Some(end) => &times[..times.partition_point(|t| *t < end - SAME)],
        None => times,
    }
}

/// For ascending targets the index of the first time at or after each, each index once; stops at the first target
/// beyond the last time.
fn first_at_or_after(times: &[f64], targets: impl Iterator<Item = f64>) -> Vec<usize> {
    let mut picks = Vec::new();
    let mut next = 0;
    for target in targets {
        next += times[next..].partition_point(|t| *t < target - SAME);
        if next == times.len() {
            break;
        }
        if picks.last() != Some(&next) {
            picks.push(next);
        }
    }
    picks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, sampling: FrameSampling, times: &[f64], expected: &[usize]) {
        assert_eq!(sampling.pick(times).unwrap().frames, expected, "{name}");
    }

    fn constant(rate: f64, n: usize) -> Vec<f64> {
        (0..n).map(|i| i as f64 / rate).collect()
    }

    #[test]
    fn fps() {
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
    fn ranges() {
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
    fn uniform() {
        let times = constant(10.0, 41);
        check("both ends", FrameSampling::uniform(5), &times, &[0, 10, 20, 30, 40]);
        check("one is the middle", FrameSampling::uniform(1), &times, &[20]);
        check("two are the ends", FrameSampling::uniform(2), &times, &[0, 40]);
        check("between frames: the next one", FrameSampling::uniform(4), &times, &[0, 14, 27, 40]);
        check("more than there are: all, once", FrameSampling::uniform(9), &constant(7.0, 3), &[0, 1, 2]);
    }

    #[test]
    fn max_frames_counts_what_it_leaves_out() {
        let sampling = FrameSampling::Fps { fps: 2.0, start: 0.0, end: None, max_frames: Some(3) };
        let picks = sampling.pick(&constant(10.0, 31)).unwrap();
        assert_eq!((picks.frames, picks.left_out), (vec![0, 5, 10], 4));
    }

    #[test]
    fn nonsense_is_refused() {
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
        assert!(matches!(FrameSampling::fps(1e9).pick(&[0.0, 1e5]), Err(SamplingError::TooMany { .. })));
    }

    #[test]
    fn wire() {
        let read = |text| serde_json::from_str::<FrameSampling>(text);
        assert_eq!(read(r#"{"fps": {"fps": 2.0}}"#).unwrap(), FrameSampling::fps(2.0));
        assert_eq!(
            read(r#"{"uniform": {"n": 8, "start": 1.5}}"#).unwrap(),
            FrameSampling::uniform(8).within(1.5, None)
        );
        assert!(read(r#"{"fps": {"fps": 2.0, "stop": 3}}"#).is_err());
    }
}
