//! Frames in, answers out: looks at every window of a video once and asks it every question.

use std::path::{Path, PathBuf};
use std::time::Instant;

use flamingo::generate::Generation;
use flamingo::pipeline::{Medium, Pipeline};
use flamingo::video::{Frame, FrameSampling, VideoInfo, VideoLimits};
use flamingo::{Error, Task};

use crate::decoder::{DecodeRequest, DecodedFrames, DecoderError, ProcessLimits, decode};
use crate::report::{AnswerReport, ErrorReport, Outcome, Report, SCHEMA, Timing};

/// What is to be found out, of any number of videos.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub tasks: Vec<Task>,
    pub sampling: FrameSampling,
    /// Cut the video into consecutive windows of so many seconds, each with its own answers.
    pub window: Option<f64>,
    /// Frames that one medium may have: what the resampler and its memory are asked to bear.
    pub max_frames: usize,
    pub generation: Generation,
    pub limits: VideoLimits,
    pub process: ProcessLimits,
}

/// Why a video has no answer.
#[derive(Debug, thiserror::Error)]
pub enum UnderstandError {
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    #[error("{}: {source}", path.display())]
    Model { path: PathBuf, source: Error },
    #[error("{}: more frames than the {allowed} that one answer may look at", path.display())]
    TooManyFrames { path: PathBuf, allowed: usize },
    #[error("{}: no frame lies in the sampled range", path.display())]
    NoFrames { path: PathBuf },
}

impl UnderstandError {
    /// The stable code of this error, part of the public contract.
    pub fn code(&self) -> &str {
        match self {
            UnderstandError::Decoder(e) => e.code(),
            UnderstandError::Model { source, .. } => source.code(),
            UnderstandError::TooManyFrames { .. } => "limit_frames",
            UnderstandError::NoFrames { .. } => "no_frames",
        }
    }
}

/// A model, and the program that decodes for it.
pub struct Understander<'p> {
    pub pipeline: &'p Pipeline,
    /// The binary that answers to [`crate::decoder::SUBCOMMAND`].
    pub decoder: PathBuf,
}

/// What is gathered on the way; kept when the way ends early.
#[derive(Default)]
struct Progress {
    answers: Vec<AnswerReport>,
    videos: Vec<VideoInfo>,
    warnings: Vec<String>,
    timing: Timing,
}

impl Understander<'_> {
    /// Answers about one video, window by window. Every decoded frame is shown to `on_frame`.
    pub fn report(&self, input: &Path, request: &Request, on_frame: &mut dyn FnMut(&Frame)) -> Report {
        let mut progress = Progress::default();
        let result = timed_in(&mut progress, |p| self.windows(input, request, p, on_frame));
        self.finish(vec![input.to_path_buf()], progress, result)
    }

    /// Answers about several media together, in the order in which the tasks' prompts place them.
    pub fn report_together(
        &self,
        inputs: &[PathBuf],
        request: &Request,
        on_frame: &mut dyn FnMut(&Frame),
    ) -> Report {
        let mut progress = Progress::default();
        let result = timed_in(&mut progress, |p| self.together(inputs, request, p, on_frame));
        self.finish(inputs.to_vec(), progress, result)
    }

    fn finish(&self, input: Vec<PathBuf>, progress: Progress, result: Result<(), UnderstandError>) -> Report {
        let Progress { answers, videos, warnings, timing } = progress;
        let outcome = match result {
            Ok(()) => Outcome::Succeeded { answers },
            Err(e) => {
                let error = ErrorReport { code: e.code().into(), message: e.to_string() };
                Outcome::Failed { error, answers }
            }
        };
        let model = self.pipeline.loaded().about.clone();
        Report { schema: SCHEMA, input, outcome, model, videos, warnings, timing }
    }

    fn windows(
        &self,
        input: &Path,
        request: &Request,
        progress: &mut Progress,
        on_frame: &mut dyn FnMut(&Frame),
    ) -> Result<(), UnderstandError> {
        let mut frames = timed(&mut progress.timing.decode_s, || self.decode(input, request))?;
        progress.videos.push(frames.info().clone());
        let (start, end) = sampled_range(request, frames.info().duration);
        let length = request.window.unwrap_or(f64::MAX);
        let mut open = Window { start, end: start + length, frames: vec![] };
        let mut looked = false;
        while let Some(frame) = timed(&mut progress.timing.decode_s, || frames.next()) {
            let frame = frame?;
            on_frame(&frame);
            if frame.pts >= open.end {
                let passed = ((frame.pts - start) / length).floor();
                // The end of one is the beginning of the next, whatever rounding says.
                let begin = (start + passed * length).max(open.end);
                let next = Window { start: begin, end: begin + length, frames: vec![] };
                let full = std::mem::replace(&mut open, next);
                looked |= self.answer_window(input, request, full.before(end), progress)?;
            }
            open.frames.push(timed(&mut progress.timing.decode_s, || self.pipeline.prepare(&frame)));
            check_frames(input, &open.frames, request)?;
        }
        looked |= self.answer_window(input, request, open.before(end), progress)?;
        record(&frames, input, progress);
        if looked { Ok(()) } else { Err(UnderstandError::NoFrames { path: input.to_path_buf() }) }
    }

    /// Says whether there was anything to look at.
    fn answer_window(
        &self,
        input: &Path,
        request: &Request,
        window: Window,
        progress: &mut Progress,
    ) -> Result<bool, UnderstandError> {
        if window.frames.is_empty() {
            return Ok(false);
        }
        let medium = self.look(input, &window.frames, progress)?;
        self.ask_all(input, request, &[&medium], (window.start, window.end), progress)?;
        Ok(true)
    }

    fn together(
        &self,
        inputs: &[PathBuf],
        request: &Request,
        progress: &mut Progress,
        on_frame: &mut dyn FnMut(&Frame),
    ) -> Result<(), UnderstandError> {
        let mut media = Vec::with_capacity(inputs.len());
        let mut longest = 0f64;
        for input in inputs {
            let mut frames = timed(&mut progress.timing.decode_s, || self.decode(input, request))?;
            progress.videos.push(frames.info().clone());
            longest = longest.max(frames.info().duration);
            let mut prepared = Vec::new();
            while let Some(frame) = timed(&mut progress.timing.decode_s, || frames.next()) {
                let frame = frame?;
                on_frame(&frame);
                prepared.push(timed(&mut progress.timing.decode_s, || self.pipeline.prepare(&frame)));
                check_frames(input, &prepared, request)?;
            }
            record(&frames, input, progress);
            if prepared.is_empty() {
                return Err(UnderstandError::NoFrames { path: input.to_path_buf() });
            }
            media.push(self.look(input, &prepared, progress)?);
        }
        let first = inputs.first().cloned().unwrap_or_default();
        let range = sampled_range(request, longest);
        self.ask_all(&first, request, &media.iter().collect::<Vec<_>>(), range, progress)
    }

    fn decode(&self, input: &Path, request: &Request) -> Result<DecodedFrames, DecoderError> {
        let request = DecodeRequest {
            name: input.to_path_buf(),
            sampling: request.sampling.clone(),
            limits: request.limits.clone(),
            process: request.process.clone(),
        };
        decode(&self.decoder, request)
    }

    fn look(
        &self,
        input: &Path,
        frames: &[Frame],
        progress: &mut Progress,
    ) -> Result<Medium, UnderstandError> {
        timed(&mut progress.timing.encode_s, || self.pipeline.look(frames)).map_err(|e| model_error(input, e))
    }

    fn ask_all(
        &self,
        input: &Path,
        request: &Request,
        media: &[&Medium],
        (start, end): (f64, f64),
        progress: &mut Progress,
    ) -> Result<(), UnderstandError> {
        for task in &request.tasks {
            let answer =
                timed(&mut progress.timing.answer_s, || self.pipeline.ask(task, media, &request.generation))
                    .map_err(|e| model_error(input, e))?;
            progress.answers.push(AnswerReport {
                question: match task {
                    Task::Question { question } => Some(question.clone()),
                    Task::Caption | Task::Complete { .. } => None,
                },
                text: answer.text,
                start,
                end,
                frame_times: media.iter().map(|m| m.frame_times.clone()).collect(),
                finish: answer.finish,
                log_likelihood: answer.log_likelihood,
                prompt_tokens: answer.prompt_tokens,
                completion_tokens: answer.completion_tokens,
            });
        }
        Ok(())
    }
}

/// Consecutive frames that are answered together; seconds of the video.
struct Window {
    start: f64,
    end: f64,
    frames: Vec<Frame>,
}

impl Window {
    /// The same, ending where the sampled range does, but never before its last frame.
    fn before(self, end: f64) -> Self {
        let last = self.frames.last().map_or(self.start, |frame| frame.pts);
        Self { end: self.end.min(end).max(last), ..self }
    }
}

/// Seconds of a video that are looked at.
fn sampled_range(request: &Request, duration: f64) -> (f64, f64) {
    let (start, end) = request.sampling.range();
    (start, end.unwrap_or(duration).min(duration))
}

fn record(frames: &DecodedFrames, input: &Path, progress: &mut Progress) {
    if let Some(summary) = frames.summary() {
        progress.warnings.extend(summary.warnings.iter().map(|w| format!("{}: {w}", input.display())));
    }
}

fn check_frames(input: &Path, frames: &[Frame], request: &Request) -> Result<(), UnderstandError> {
    if frames.len() <= request.max_frames {
        return Ok(());
    }
    Err(UnderstandError::TooManyFrames { path: input.to_path_buf(), allowed: request.max_frames })
}

fn model_error(path: &Path, source: Error) -> UnderstandError {
    UnderstandError::Model { path: path.to_path_buf(), source }
}

fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *seconds += start.elapsed().as_secs_f64();
    result
}

fn timed_in<T>(progress: &mut Progress, work: impl FnOnce(&mut Progress) -> T) -> T {
    let start = Instant::now();
    let result = work(progress);
    progress.timing.total_s = start.elapsed().as_secs_f64();
    result
}

/// Seconds for people.
pub fn human_time(seconds: f64) -> String {
    let total = seconds.max(0.0) as u64;
    format!("{}:{:02}", total / 60, total % 60)
}
