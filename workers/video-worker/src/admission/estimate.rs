//! Memory estimate of a video, before any of it is decoded.
//!
//! Counted are: the prepared frames of one window, up to `max_frames` and one more; one decoded frame of the largest allowed
//! size; and the answers twice, as structs and as JSON. Not counted are: the decoder, a process with its own limit; visual
//! tokens, which the cache counts; the model and its activations.
use flamingo::video::{FrameSampling, VideoLimits};

use crate::api::MAX_REPORT_BYTES;
use inference::analysis::AnalysisSpec;

/// Bytes of an RGB pixel.
const PIXEL: u64 = 3;

/// Approximate bytes of an answer without its text and frame times, and of a token of its text.
const ANSWER: u64 = 512;
const TOKEN: u64 = 8;

/// Estimates the bytes of a video during its analysis. `frame`: bytes of one prepared frame.
pub fn estimate(spec: &AnalysisSpec, limits: &VideoLimits, frame: u64) -> u64 {
    let frames = frames_at_once(spec, limits);
    let decoded = limits.max_pixels.saturating_mul(PIXEL);
    let answer = ANSWER + TOKEN * spec.generation.max_new_tokens as u64 + 8 * frames;
    let answers = windows(spec, limits).saturating_mul(spec.tasks.len() as u64).saturating_mul(answer);
    // A longer report is rejected.
    let answers = answers.min(MAX_REPORT_BYTES).saturating_mul(2);
    frames.saturating_mul(frame).saturating_add(decoded).saturating_add(answers)
}

/// Returns the frames of one window, and of the direct answer about a long video. One frame too many is decoded before a video is rejected.
pub fn frames_at_once(spec: &AnalysisSpec, limits: &VideoLimits) -> u64 {
    let span = seconds(spec, limits).min(spec.window_length().unwrap_or(f64::MAX));
    let asked = match spec.sampling {
        // One frame at the start of the window, then `fps` per second.
        FrameSampling::Fps { fps, max_frames, .. } => {
            ((span * fps).floor() as u64).saturating_add(1).min(max_frames.map_or(u64::MAX, |n| n as u64))
        }
        FrameSampling::Uniform { n, .. } => n as u64,
    };
    let most = spec.max_frames as u64 + 1;
    // The direct answer about a long video keeps frames of the whole video.
    asked.min(most) + if spec.long { most } else { 0 }
}

fn windows(spec: &AnalysisSpec, limits: &VideoLimits) -> u64 {
    spec.window_length().map_or(1, |length| (seconds(spec, limits) / length).ceil().max(1.0) as u64)
}

/// Returns the sampled seconds of the longest allowed video: the real duration is known only after decoding.
fn seconds(spec: &AnalysisSpec, limits: &VideoLimits) -> f64 {
    let (start, end) = spec.sampling.range();
    let longest = limits.max_duration_s;
    (end.unwrap_or(longest).min(longest) - start).max(0.0)
}

#[cfg(test)]
mod tests {
    use flamingo::Task;

    use super::*;

    fn spec(sampling: FrameSampling, window: Option<f64>, max_frames: usize) -> AnalysisSpec {
        AnalysisSpec { sampling, window, max_frames, ..AnalysisSpec::default() }
    }

    #[test]
    fn counts_frames_of_one_window() {
        let fps = |fps: f64, start: f64, end: Option<f64>| FrameSampling::fps(fps).within(start, end);
        let capped = FrameSampling::Fps { fps: 30.0, start: 0.0, end: None, max_frames: Some(7) };
        for (sampling, window, max_frames, expected) in [
            (fps(1.0, 0.0, None), None, 64, 65),
            (fps(1.0, 0.0, Some(10.0)), None, 64, 11),
            (fps(2.0, 4.0, Some(10.5)), None, 64, 14),
            (fps(2.0, 0.0, None), Some(8.0), 64, 17),
            (fps(2.0, 0.0, Some(3.0)), Some(8.0), 64, 7),
            (fps(1000.0, 0.0, None), Some(8.0), 64, 65),
            (fps(1e300, 0.0, None), None, 4096, 4097),
            (capped, None, 64, 7),
            (FrameSampling::uniform(12), None, 64, 12),
            (FrameSampling::uniform(100), Some(1.0), 64, 65),
        ] {
            let spec = spec(sampling, window, max_frames);
            assert_eq!(frames_at_once(&spec, &VideoLimits::default()), expected, "{spec:?}");
        }
    }

    #[test]
    fn a_long_video_keeps_frames_of_the_whole() {
        let long = AnalysisSpec { long: true, max_frames: 20, ..AnalysisSpec::default() };
        assert_eq!(
            frames_at_once(&long, &VideoLimits::default()),
            9 + 21,
            "windows of 8 s, and the whole video"
        );
        let direct = AnalysisSpec { window: Some(8.0), long: false, ..long.clone() };
        assert_eq!(frames_at_once(&direct, &VideoLimits::default()), 9);
        assert_eq!(windows(&long, &VideoLimits::default()), windows(&direct, &VideoLimits::default()));
    }

    #[test]
    fn estimate_is_sum_of_parts() {
        let mut asked = spec(FrameSampling::uniform(12), None, 64);
        let mut limits = VideoLimits::default();
        asked.generation.max_new_tokens = 20;
        limits.max_pixels = 1000;
        let answer = 2 * (512 + 20 * 8 + 12 * 8);
        assert_eq!(estimate(&asked, &limits, 150), 12 * 150 + 3000 + answer);
        asked.tasks.push(Task::Caption {});
        assert_eq!(estimate(&asked, &limits, 150), 12 * 150 + 3000 + 2 * answer);
        // Four hours in windows of 0.01 s exceed the largest report.
        asked.window = Some(0.01);
        assert_eq!(estimate(&asked, &limits, 150), 12 * 150 + 3000 + 2 * MAX_REPORT_BYTES);
        limits.max_pixels = u64::MAX;
        assert_eq!(estimate(&asked, &limits, u64::MAX), u64::MAX);
    }
}
