//! From frames to answers: encodes every window of a video once and answers all tasks about it.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use flamingo::pipeline::Medium;
use flamingo::task::TimedCaption;
use flamingo::video::{Frame, SAMPLING_CONTRACT, VideoInfo, Warning};
use tracing::{Span, field::Empty, info_span};

use crate::context::{Cancel, RequestContext};
use crate::decoder::{DecodeRequest, DecodedFrames, DecoderConfig, DecoderError, decode};
use crate::encoded_video::{EncodedVideo, EncodedWindow};
use crate::methods::FittedMethod;
use crate::model::Model;
use crate::report::{AnswerReport, ErrorReport, Outcome, Report, ReportBody, SCHEMA, Timing};
use crate::support::EncodedSupport;

mod answer;
mod request;
mod error;
mod windows;
mod joint;
mod long;

pub use error::AnalysisError;
use joint::WholeMedium;
pub use request::{AnalysisSpec, GroundingSpec, Source};

/// A model, and the program that decodes for it.
pub struct VideoAnalyzer<'m> {
    pub model: &'m dyn Model,
    pub decoder: DecoderConfig,
    /// Whether to copy the visual tokens to the host, for a cache: one device read per window.
    pub keep_visual_tokens: bool,
    /// Few-shot examples for each query.
    pub support: Option<&'m EncodedSupport>,
    /// For each task the method that may answer it about one medium in place of the language model. Empty: none.
    pub classifiers: &'m [Option<Arc<FittedMethod>>],
}

/// The result of an analysis.
#[derive(Debug)]
pub struct Analysis {
    pub report: Report,
    /// The typed error behind the failure in the report.
    pub error: Option<AnalysisError>,
    /// Visual tokens of the whole video, if they were to be kept.
    pub encoded: Option<EncodedVideo>,
}

/// Callback for every decoded frame. `Break` ends the analysis with [`AnalysisError::Cancelled`].
pub type OnFrame<'a> = &'a mut dyn FnMut(&Frame) -> ControlFlow<()>;

/// Results so far; kept when the analysis fails.
#[derive(Default)]
struct State {
    answers: Vec<AnswerReport>,
    videos: Vec<VideoInfo>,
    warnings: Vec<String>,
    timing: Timing,
    /// Captions of the windows of a long video.
    captions: Vec<TimedCaption>,
    /// Windows so far, of an analysis of one video.
    windows: Vec<EncodedWindow>,
    encoded: Option<EncodedVideo>,
    cache_hit: bool,
}

impl State {
    /// Adds a warning about examples that were left out, once per number of them.
    fn warn_of_dropped(&mut self, source: &Source, dropped: usize, chosen: usize) {
        let text = format!(
            "{}: the model has room for {} of {chosen} few-shot examples: the first {dropped} of the prompt are left out",
            source.name.display(),
            chosen - dropped
        );
        if dropped > 0 && !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }
}

impl VideoAnalyzer<'_> {
    /// Decodes, encodes and answers one video, window by window.
    pub fn analyze(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
        on_frame: OnFrame,
    ) -> Analysis {
        let mut state = State::default();
        let result =
            timed_in(&mut state, |state| self.decode_and_answer(source, spec, context, state, on_frame));
        self.finish(&context.cancel, vec![source.name.clone()], state, result)
    }

    /// Answers one video from its cached visual tokens, without decoding.
    pub fn analyze_cached(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
        video: &EncodedVideo,
    ) -> Analysis {
        let mut state = State { cache_hit: true, ..State::default() };
        let result =
            timed_in(&mut state, |state| self.restore_and_answer(source, spec, context, video, state));
        self.finish(&context.cancel, vec![source.name.clone()], state, result)
    }

    /// Answers several media together, in the order in which the prompts of the tasks place them.
    pub fn analyze_jointly(
        &self,
        sources: &[Source],
        spec: &AnalysisSpec,
        context: &RequestContext,
        on_frame: OnFrame,
    ) -> Analysis {
        let mut state = State::default();
        let result =
            timed_in(&mut state, |state| self.decode_all_and_answer(sources, spec, context, state, on_frame));
        self.finish(&context.cancel, sources.iter().map(|s| s.name.clone()).collect(), state, result)
    }

    /// Decodes and encodes a whole video as one medium. Returns its visual tokens too, if they are to be kept.
    ///
    /// # Errors
    /// The video cannot be decoded, has no or too many frames, or the model fails.
    pub fn encode_video(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
    ) -> Result<(Medium, Option<EncodedVideo>), AnalysisError> {
        let on_frame: OnFrame = &mut |_| ControlFlow::Continue(());
        let whole = self.decode_and_encode(source, spec, context, &mut State::default(), on_frame);
        let WholeMedium { medium, info, warnings } = whole?;
        if !self.keep_visual_tokens {
            return Ok((medium, None));
        }
        let (start, end) = spec.sampled_range(info.duration);
        let window = EncodedWindow::of(&medium, (start, end.max(start)));
        let window = window.map_err(|e| AnalysisError::model(source, e.into()))?;
        Ok((medium, Some(EncodedVideo { info, warnings, windows: vec![window] })))
    }

    fn finish(
        &self,
        cancel: &Cancel,
        input: Vec<PathBuf>,
        state: State,
        result: Result<(), AnalysisError>,
    ) -> Analysis {
        let State { answers, videos, warnings, captions, timing, encoded, cache_hit, .. } = state;
        // Cancellation kills the decoder child: that is no crash of the video.
        let error = result.err().map(|e| match e {
            AnalysisError::Decoder(_) | AnalysisError::Model { .. } if cancel.is_cancelled() => {
                AnalysisError::Cancelled { path: input.first().cloned().unwrap_or_default() }
            }
            other => other,
        });
        let outcome = match &error {
            None => Outcome::Succeeded { answers },
            Some(e) => {
                let error = ErrorReport { code: e.code().into(), message: e.to_string() };
                Outcome::Failed { error, answers }
            }
        };
        let model = self.model.info().clone();
        Analysis {
            report: Report {
                schema: SCHEMA,
                input,
                body: ReportBody {
                    outcome,
                    model,
                    videos,
                    warnings,
                    captions,
                    cache_hit,
                    sampling_contract: SAMPLING_CONTRACT,
                    timing,
                },
            },
            error,
            encoded,
        }
    }

    fn decode(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
    ) -> Result<DecodedFrames, DecoderError> {
        let DecoderConfig { program, limits, process } = &self.decoder;
        let request = DecodeRequest {
            name: source.name.clone(),
            sampling: spec.sampling.clone(),
            limits: limits.clone(),
            process: process.clone(),
        };
        decode(program, &source.file, request, &context.cancel)
    }

    /// Starts to decode a video. Returns the span of decoding and the frames, and adds the video to the report.
    fn start_decoding(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
        state: &mut State,
    ) -> Result<(Span, DecodedFrames), AnalysisError> {
        let span = decode_span();
        let frames = timed(&mut state.timing.decode_s, || self.decode(source, spec, context));
        let frames = frames.map_err(|e| decode_error(&span, e))?;
        state.videos.push(frames.info().clone());
        Ok((span, frames))
    }

    fn encode(
        &self,
        source: &Source,
        context: &RequestContext,
        frames: Vec<Frame>,
        state: &mut State,
    ) -> Result<Medium, AnalysisError> {
        timed(&mut state.timing.encode_s, || self.model.encode(frames, context))
            .map_err(|e| AnalysisError::model(source, e))
    }
}

/// Returns the span of decoding; it ends when dropped.
fn decode_span() -> Span {
    info_span!("decode", "error.type" = Empty, otel.status_code = Empty)
}

/// Records a decoder error in its span.
fn decode_error(span: &Span, error: DecoderError) -> DecoderError {
    span.record("error.type", error.code());
    span.record("otel.status_code", "ERROR");
    error
}

fn show(source: &Source, frame: &Frame, on_frame: OnFrame) -> Result<(), AnalysisError> {
    if on_frame(frame).is_break() {
        return Err(AnalysisError::Cancelled { path: source.name.clone() });
    }
    Ok(())
}

fn record_warnings(frames: &DecodedFrames, source: &Source, state: &mut State) {
    if let Some(summary) = frames.summary() {
        state.warnings.extend(summary.warnings.iter().map(|w| warning_text(source, w)));
    }
}

fn warning_text(of: &Source, warning: &Warning) -> String {
    format!("{}: {warning}", of.name.display())
}

fn check_frame_count(source: &Source, frames: &[Frame], spec: &AnalysisSpec) -> Result<(), AnalysisError> {
    if frames.iter().map(|frame| frame.moments.len()).sum::<usize>() <= spec.max_frames {
        return Ok(());
    }
    Err(AnalysisError::TooManyFrames { path: source.name.clone(), allowed: spec.max_frames })
}

fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *seconds += start.elapsed().as_secs_f64();
    result
}

fn timed_in<T>(state: &mut State, work: impl FnOnce(&mut State) -> T) -> T {
    let start = Instant::now();
    let result = work(state);
    state.timing.total_s = start.elapsed().as_secs_f64();
    result
}
