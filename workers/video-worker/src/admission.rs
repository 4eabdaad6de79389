//! How much memory a video may take in this process, told before anything of it is decoded.
//!
//! Counted are its frames as the model wants them, of one window, up to `max_frames` and one more; one frame as it was
//! decoded, of the largest size that is allowed; and its answers, twice: as they are and as JSON. Not counted are the
//! decoder, a process with a limit of its own; what was seen of the video, which the cache counts; the model and what it computes.

use flamingo::video::FrameSampling;

use crate::batch::LONGEST_REPORT;
use crate::understand::Request;

/// Bytes of a pixel: RGB.
const PIXEL: u64 = 3;

/// Bytes of an answer beside its text and the times of its frames, and of a token of the text, about.
const ANSWER: u64 = 512;
const TOKEN: u64 = 8;

/// Bytes that the video may take while it is looked at. `frame`: of one frame as the model wants it.
pub fn estimate(request: &Request, frame: u64) -> u64 {
    let frames = frames_at_once(request);
    let decoded = request.limits.max_pixels.saturating_mul(PIXEL);
    let answer = ANSWER + TOKEN * request.generation.max_new_tokens as u64 + 8 * frames;
    let answers = windows(request).saturating_mul(request.tasks.len() as u64).saturating_mul(answer);
    // A report that is longer is none.
    let answers = answers.min(LONGEST_REPORT).saturating_mul(2);
    frames.saturating_mul(frame).saturating_add(decoded).saturating_add(answers)
}

/// Frames that are held together: those of a window. One too many is looked at before a video is refused.
pub fn frames_at_once(request: &Request) -> u64 {
    let span = seconds(request).min(request.window.unwrap_or(f64::MAX));
    let asked = match request.sampling {
        // The first is at the beginning, and a window begins with any.
        FrameSampling::Fps { fps, max_frames, .. } => {
            ((span * fps).floor() as u64).saturating_add(1).min(max_frames.map_or(u64::MAX, |n| n as u64))
        }
        FrameSampling::Uniform { n, .. } => n as u64,
    };
    asked.min(request.max_frames as u64 + 1)
}

fn windows(request: &Request) -> u64 {
    request.window.map_or(1, |length| (seconds(request) / length).ceil().max(1.0) as u64)
}

/// Seconds that are looked at: how long the video is shows only when it is decoded.
fn seconds(request: &Request) -> f64 {
    let (start, end) = request.sampling.range();
    let longest = request.limits.max_duration_s;
    (end.unwrap_or(longest).min(longest) - start).max(0.0)
}

#[cfg(test)]
mod tests {
    use flamingo::Task;
    use flamingo::generate::Generation;
    use flamingo::video::VideoLimits;

    use super::*;
    use crate::decoder::{ProcessLimits, StopFlag};
    use crate::progress::Tally;

    fn request(sampling: FrameSampling, window: Option<f64>, max_frames: usize) -> Request {
        Request {
            tasks: vec![Task::Caption {}],
            sampling,
            window,
            max_frames,
            generation: Generation::default(),
            limits: VideoLimits::default(),
            process: ProcessLimits::default(),
            stop: StopFlag::default(),
            tally: Tally::default(),
            job: String::new(),
            urgent: false,
        }
    }

    #[test]
    fn frames_are_those_of_a_window() {
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
            let request = request(sampling, window, max_frames);
            assert_eq!(frames_at_once(&request), expected, "{request:?}");
        }
    }

    #[test]
    fn the_estimate_is_the_sum_of_its_parts() {
        let mut asked = request(FrameSampling::uniform(12), None, 64);
        asked.generation.max_new_tokens = 20;
        asked.limits.max_pixels = 1000;
        let answer = 2 * (512 + 20 * 8 + 12 * 8);
        assert_eq!(estimate(&asked, 150), 12 * 150 + 3000 + answer);
        asked.tasks.push(Task::Caption {});
        assert_eq!(estimate(&asked, 150), 12 * 150 + 3000 + 2 * answer);
        // Four hours in windows of a hundredth of a second: no report holds that.
        asked.window = Some(0.01);
        assert_eq!(estimate(&asked, 150), 12 * 150 + 3000 + 2 * LONGEST_REPORT);
        asked.limits.max_pixels = u64::MAX;
        assert_eq!(estimate(&asked, u64::MAX), u64::MAX);
    }
}
