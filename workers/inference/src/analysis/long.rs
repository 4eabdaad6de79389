//! Long videos: each window is captioned, and each question is answered over frames of the whole video and from the captions.

use flamingo::Task;
use flamingo::pipeline::{Medium, Shots};
use flamingo::task::{TimedCaption, Transcript};
use flamingo::video::Frame;

use super::{AnalysisError, AnalysisSpec, Source, State, VideoAnalyzer, timed};
use crate::context::RequestContext;

/// Evenly spread frames of a video whose length is not known: half as many as are allowed, or more.
pub(super) struct SpreadFrames {
    frames: Vec<Frame>,
    /// The moments whose number is a multiple of this are kept.
    every: u64,
    most: usize,
}

impl SpreadFrames {
    /// Keeps at most `most` moments, at least 1.
    pub(super) fn new(most: usize) -> Self {
        Self { frames: Vec::new(), every: 1, most: most.max(1) }
    }

    /// Adds the next frame.
    pub(super) fn push(&mut self, frame: &Frame) {
        let moments = frame.moments.every(self.every);
        if moments.is_empty() {
            return;
        }
        self.frames.push(Frame { moments, pts: frame.pts, image: frame.image.clone() });
        while self.frames.iter().map(|frame| frame.moments.len()).sum::<usize>() > self.most {
            self.every *= 2;
            self.frames.retain_mut(|frame| {
                frame.moments = frame.moments.every(2);
                !frame.moments.is_empty()
            });
        }
    }

    pub(super) fn into_frames(self) -> Vec<Frame> {
        self.frames
    }
}

impl VideoAnalyzer<'_> {
    /// Captions a window of a long video.
    pub(super) fn caption(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
        medium: &Medium,
        (start, end): (f64, f64),
        state: &mut State,
    ) -> Result<(), AnalysisError> {
        let answer = timed(&mut state.timing.answer_s, || {
            self.model
                .ask(&[Task::Caption {}], Shots::default(), &[medium], &spec.generation, context)
                .remove(0)
        });
        let answer = answer.map_err(|e| AnalysisError::model(source, e))?;
        context.progress.answer(answer.completion_tokens);
        state.captions.push(TimedCaption { start, end, text: answer.text });
        Ok(())
    }

    /// Answers all tasks over a medium of the whole video, and from the captions of its windows.
    pub(super) fn answer_long(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
        whole: &Medium,
        range: (f64, f64),
        state: &mut State,
    ) -> Result<(), AnalysisError> {
        let first = state.answers.len();
        self.answer(source, spec, context, &[whole], range, state)?;
        let windows = Transcript(state.captions.clone());
        for (i, task) in spec.tasks.iter().enumerate() {
            let answer = timed(&mut state.timing.answer_s, || {
                self.model.ask_transcript(task, &windows, &spec.generation, context)
            });
            let answer = answer.map_err(|e| AnalysisError::model(source, e))?;
            context.progress.answer(answer.answer.completion_tokens);
            state.warn_of_windows(source, answer.left_out);
            state.answers[first + i].from_captions = Some(answer.into());
        }
        Ok(())
    }
}

impl State {
    /// Adds a warning about windows that were left out of a transcript, once per number of them.
    fn warn_of_windows(&mut self, source: &Source, left_out: usize) {
        let text = format!(
            "{}: the model has no room for the captions of all {} windows: {left_out} evenly spread ones are left out of the transcript",
            source.name.display(),
            self.captions.len()
        );
        if left_out > 0 && !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use flamingo::video::{FrameSampling, VideoTimes};
    use image::RgbImage;

    use super::*;

    /// Returns the times of the kept moments of a video of `seconds` frames that stay for a second, sampled `fps` times each.
    fn kept(seconds: usize, fps: f64, most: usize) -> Vec<f64> {
        let frames: Vec<f64> = (0..seconds).map(|n| n as f64).collect();
        let times = VideoTimes { frames: &frames, end: seconds as f64, interval: 1.0, tick: 0.0 };
        let mut spread = SpreadFrames::new(most);
        for selected in FrameSampling::fps(fps).select(&times).unwrap().frames {
            let (pts, moments) = (frames[selected.index], selected.moments);
            spread.push(&Frame { pts, moments, image: RgbImage::new(1, 1) });
        }
        spread.into_frames().iter().flat_map(|frame| vec![frame.pts; frame.moments.len()]).collect()
    }

    #[test]
    fn kept_frames_are_evenly_spread() {
        assert_eq!(kept(3, 1.0, 3), [0.0, 1.0, 2.0]);
        assert_eq!(kept(4, 1.0, 3), [0.0, 2.0]);
        assert_eq!(kept(100, 1.0, 8), [0.0, 16.0, 32.0, 48.0, 64.0, 80.0, 96.0]);
        assert_eq!(kept(2, 4.0, 8), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(kept(2, 8.0, 8), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(kept(40, 1.0, 1), [0.0]);
    }
}
