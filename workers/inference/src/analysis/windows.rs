//! Analysis of one video, window by window: each window is encoded once and answers all tasks.

use flamingo::video::Frame;
use tracing::Span;

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
        let length = spec.window.unwrap_or(f64::MAX);
        let windows = ((end - start) / length).ceil().max(1.0);
        context.progress.expect(windows as u64 * spec.tasks.len() as u64);
        let mut open = Window { start, end: start + length, frames: vec![] };
        let mut encoded = false;
        while let Some(frame) = timed(&mut state.timing.decode_s, || frames.next()) {
            let frame = frame.map_err(|e| decode_error(&decoding, e))?;
            context.progress.frames(frame.moments.len());
            show(source, &frame, on_frame)?;
            let mut prepared = timed(&mut state.timing.decode_s, || self.model.prepare(&frame));
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
        if self.keep_visual_tokens {
            let window = EncodedWindow::of(&medium, range);
            state.windows.push(window.map_err(|e| AnalysisError::model(source, e.into()))?);
        }
        self.answer(source, spec, context, &[&medium], range, state)?;
        Ok(true)
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
        context.progress.expect((video.windows.len() * spec.tasks.len()) as u64);
        for window in &video.windows {
            let medium = timed(&mut state.timing.encode_s, || self.model.restore(window));
            let medium = medium.map_err(|e| AnalysisError::model(source, e))?;
            self.answer(source, spec, context, &[&medium], (window.start, window.end), state)?;
        }
        Ok(())
    }
}
