//! Analysis of several media in one prompt.

use flamingo::pipeline::Medium;
use flamingo::video::{VideoInfo, Warning};

use super::{
    AnalysisError, AnalysisSpec, OnFrame, Source, State, VideoAnalyzer, check_frame_count, decode_error,
    record_warnings, show, timed,
};
use crate::context::RequestContext;

/// A source that was encoded as one medium.
pub(super) struct WholeMedium {
    pub(super) medium: Medium,
    pub(super) info: VideoInfo,
    pub(super) warnings: Vec<Warning>,
}

impl VideoAnalyzer<'_> {
    pub(super) fn decode_all_and_answer(
        &self,
        sources: &[Source],
        spec: &AnalysisSpec,
        context: &RequestContext,
        state: &mut State,
        on_frame: OnFrame,
    ) -> Result<(), AnalysisError> {
        context.progress.expect(spec.tasks.len() as u64);
        let mut media = Vec::with_capacity(sources.len());
        let mut longest = 0f64;
        for source in sources {
            let whole = self.decode_and_encode(source, spec, context, state, on_frame)?;
            longest = longest.max(whole.info.duration);
            media.push(whole.medium);
        }
        let Some(first) = sources.first() else { return Ok(()) };
        let range = spec.sampled_range(longest);
        self.answer(first, spec, context, &media.iter().collect::<Vec<_>>(), range, state)
    }

    /// Decodes and encodes one source as one medium.
    pub(super) fn decode_and_encode(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
        state: &mut State,
        on_frame: OnFrame,
    ) -> Result<WholeMedium, AnalysisError> {
        let (decoding, mut frames) = self.start_decoding(source, spec, context, state)?;
        let mut prepared = Vec::new();
        while let Some(frame) = timed(&mut state.timing.decode_s, || frames.next()) {
            let frame = frame.map_err(|e| decode_error(&decoding, e))?;
            context.progress.frames(frame.moments.len());
            show(source, &frame, on_frame)?;
            prepared.push(timed(&mut state.timing.decode_s, || self.model.prepare(&frame)));
            check_frame_count(source, &prepared, spec)?;
        }
        drop(decoding);
        record_warnings(&frames, source, state);
        if prepared.is_empty() {
            return Err(AnalysisError::NoFrames { path: source.name.clone() });
        }
        let warnings = frames.summary().map(|summary| summary.warnings.clone()).unwrap_or_default();
        let medium = self.encode(source, context, prepared, state)?;
        Ok(WholeMedium { medium, info: frames.info().clone(), warnings })
    }
}
