//! Analysis of one video, window by window: each window is encoded once and answers all tasks.

use flamingo::pipeline::Medium;
use flamingo::video::Frame;
use tracing::Span;

use super::long::SpreadFrames;
use super::{
    AnalysisError, AnalysisSpec, OnFrame, Source, State, VideoAnalyzer, check_frame_count, decode_error,
    decode_span, record_warnings, show, timed, warning_text,
};
use crate::context::RequestContext;
use crate::encoded_video::{EncodedVideo, EncodedWindow};

/// Frames of consecutive moments that are answered together; `start` and `end` are seconds of the video.
struct Window {
    start: f64,
    end: f64,
    frames: Vec<Frame>,
}

impl Window {
    /// Returns the window cut at the end of the sampled range.
    fn cut_at(self, end: f64) -> Self {
        Self { end: self.end.min(end).max(self.start), ..self }
    }
}

impl VideoAnalyzer<'_> {
    pub(super) fn decode_and_answer(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
        state: &mut State,
        on_frame: OnFrame,
    ) -> Result<(), AnalysisError> {
        let (mut decoding, mut frames) = self.start_decoding(source, spec, context, state)?;
        let (start, end) = spec.sampled_range(frames.info().duration);
        let length = spec.window_length().unwrap_or(f64::MAX);
        let windows = ((end - start) / length).ceil().max(1.0);
        context.progress.expect(expected_answers(windows as u64, spec));
        let mut whole = spec.long.then(|| SpreadFrames::new(spec.max_frames));
        let mut open = Window { start, end: start + length, frames: vec![] };
        let mut encoded = false;
        while let Some(frame) = timed(&mut state.timing.decode_s, || frames.next()) {
            let frame = frame.map_err(|e| decode_error(&decoding, e))?;
            context.progress.frames(frame.moments.len());
            show(source, &frame, on_frame)?;
            let mut prepared = timed(&mut state.timing.decode_s, || self.model.prepare(&frame));
            if let Some(whole) = &mut whole {
                whole.push(&prepared);
            }
            // A frame that stays over several windows stands in each.
            loop {
                let moments = prepared.moments.take_before(open.end);
                if !moments.is_empty() {
                    open.frames.push(Frame { moments, ..prepared.clone() });
                    check_frame_count(source, &open.frames, spec)?;
                }
                let Some(moment) = prepared.moments.first() else { break };
                let passed = ((moment - start) / length).floor();
                // A window begins where the one before it ends, whatever the rounding.
                let begin = (start + passed * length).max(open.end);
                let next = Window { start: begin, end: begin + length, frames: vec![] };
                let full = std::mem::replace(&mut open, next);
                // One decode span covers the frames of a window and the first frame of the next.
                drop(std::mem::replace(&mut decoding, Span::none()));
                encoded |= self.answer_window(source, spec, context, full.cut_at(end), state)?;
                decoding = decode_span();
            }
        }
        drop(decoding);
        encoded |= self.answer_window(source, spec, context, open.cut_at(end), state)?;
        record_warnings(&frames, source, state);
        if !encoded {
            return Err(AnalysisError::NoFrames { path: source.name.clone() });
        }
        if let Some(whole) = whole {
            let medium = self.encode(source, context, whole.into_frames(), state)?;
            self.keep(source, &medium, (start, end), state)?;
            self.answer_long(source, spec, context, &medium, (start, end), state)?;
        }
        if self.keep_visual_tokens {
            let warnings = frames.summary().map(|summary| summary.warnings.clone()).unwrap_or_default();
            let windows = std::mem::take(&mut state.windows);
            state.encoded = Some(EncodedVideo { info: frames.info().clone(), warnings, windows });
        }
        Ok(())
    }

    /// Encodes a window and answers all tasks; returns `false` if the window has no frame.
    fn answer_window(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
        window: Window,
        state: &mut State,
    ) -> Result<bool, AnalysisError> {
        if window.frames.is_empty() {
            return Ok(false);
        }
        let range = (window.start, window.end);
        let medium = self.encode(source, context, window.frames, state)?;
        self.keep(source, &medium, range, state)?;
        self.answer_or_caption(source, spec, context, &medium, range, state)?;
        Ok(true)
    }

    /// Keeps the visual tokens of a medium, if they are to be kept.
    fn keep(
        &self,
        source: &Source,
        medium: &Medium,
        range: (f64, f64),
        state: &mut State,
    ) -> Result<(), AnalysisError> {
        if self.keep_visual_tokens {
            let window = EncodedWindow::of(medium, range);
            state.windows.push(window.map_err(|e| AnalysisError::model(source, e.into()))?);
        }
        Ok(())
    }

    fn answer_or_caption(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
        medium: &Medium,
        range: (f64, f64),
        state: &mut State,
    ) -> Result<(), AnalysisError> {
        match spec.long {
            true => self.caption(source, spec, context, medium, range, state),
            false => self.answer(source, spec, context, &[medium], range, state),
        }
    }

    pub(super) fn restore_and_answer(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
        video: &EncodedVideo,
        state: &mut State,
    ) -> Result<(), AnalysisError> {
        state.videos.push(video.info.clone());
        state.warnings.extend(video.warnings.iter().map(|w| warning_text(source, w)));
        // The last one of a long video is the whole video.
        let (windows, whole) = match video.windows.split_last() {
            Some((whole, windows)) if spec.long => (windows, Some(whole)),
            _ => (&video.windows[..], None),
        };
        context.progress.expect(expected_answers(windows.len() as u64, spec));
        let restore = |window: &EncodedWindow, state: &mut State| {
            let medium = timed(&mut state.timing.encode_s, || self.model.restore(window));
            medium.map_err(|e| AnalysisError::model(source, e))
        };
        for window in windows {
            let medium = restore(window, state)?;
            self.answer_or_caption(source, spec, context, &medium, (window.start, window.end), state)?;
        }
        match whole {
            Some(whole) => {
                let medium = restore(whole, state)?;
                self.answer_long(source, spec, context, &medium, (whole.start, whole.end), state)
            }
            None => Ok(()),
        }
    }
}

/// Returns the number of texts that a video needs: answers, and the captions of a long video.
fn expected_answers(windows: u64, spec: &AnalysisSpec) -> u64 {
    let tasks = spec.tasks.len() as u64;
    if spec.long { windows + 2 * tasks } else { windows * tasks }
}
