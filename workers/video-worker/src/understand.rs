//! Frames in, answers out: looks at every window of a video once and asks it every question.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use flamingo::Task;
use flamingo::generate::Generation;
use flamingo::pipeline::Medium;
use flamingo::video::{Frame, FrameSampling, VideoInfo, VideoLimits, Warning};
use tracing::{Span, field::Empty, info_span};

use crate::decoder::{DecodeRequest, DecodedFrames, DecoderError, ProcessLimits, StopFlag, decode};
use crate::model::{Model, ModelError, Turn};
use crate::progress::Tally;
use crate::report::{AnswerReport, ErrorReport, Outcome, Report, SCHEMA, Timing};
use crate::seen::{SeenVideo, SeenWindow, VisualTokens};

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
    /// On whose behalf: fair is what is fair between jobs.
    pub job: String,
    /// Somebody waits for it.
    pub urgent: bool,
    /// Looked at between any two steps.
    pub stop: StopFlag,
    /// Told of each of them.
    pub tally: Tally,
}

impl Request {
    fn turn(&self) -> Turn {
        Turn { job: self.job.clone(), urgent: self.urgent, stop: self.stop.clone() }
    }
}

/// A video or image: where its bytes are, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub file: PathBuf,
    /// In reports and errors.
    pub name: PathBuf,
}

impl Source {
    /// A file that is called as it is named.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        let file = path.into();
        Self { name: file.clone(), file }
    }
}

/// Why a video has no answer.
#[derive(Debug, thiserror::Error)]
pub enum UnderstandError {
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    #[error("{}: {source}", path.display())]
    Model { path: PathBuf, source: ModelError },
    #[error("{}: more frames than the {allowed} that one answer may look at", path.display())]
    TooManyFrames { path: PathBuf, allowed: usize },
    #[error("{}: no frame lies in the sampled range", path.display())]
    NoFrames { path: PathBuf },
    /// Whoever asked wants no answer any more.
    #[error("{}: stopped before it was done", path.display())]
    Stopped { path: PathBuf },
}

impl UnderstandError {
    /// The stable code of this error, part of the public contract.
    pub fn code(&self) -> &str {
        match self {
            UnderstandError::Decoder(e) => e.code(),
            UnderstandError::Model { source, .. } => source.code(),
            UnderstandError::TooManyFrames { .. } => "limit_frames",
            UnderstandError::NoFrames { .. } => "no_frames",
            UnderstandError::Stopped { .. } => "stopped",
        }
    }
}

/// A model, and the program that decodes for it.
pub struct Understander<'m> {
    pub model: &'m dyn Model,
    /// The binary that answers to [`crate::decoder::SUBCOMMAND`].
    pub decoder: PathBuf,
}

/// What was found out.
#[derive(Debug)]
pub struct Understood {
    pub report: Report,
    /// What the report's failure was made of.
    pub error: Option<UnderstandError>,
    /// For later questions about the same video, if all of it was looked at just now.
    pub seen: Option<SeenVideo>,
}

/// Sees every decoded frame as it comes, and may say that it is enough: then the video is [`UnderstandError::Stopped`].
pub type OnFrame<'a> = &'a mut dyn FnMut(&Frame) -> ControlFlow<()>;

/// What is gathered on the way; kept when the way ends early.
#[derive(Default)]
struct Progress {
    answers: Vec<AnswerReport>,
    videos: Vec<VideoInfo>,
    warnings: Vec<String>,
    timing: Timing,
    /// Of one video: the windows so far.
    windows: Vec<SeenWindow>,
    seen: Option<SeenVideo>,
    recalled: bool,
}

impl Understander<'_> {
    /// Answers about one video, window by window.
    pub fn understand(&self, source: &Source, request: &Request, on_frame: OnFrame) -> Understood {
        let mut progress = Progress::default();
        let result = timed_in(&mut progress, |p| self.windows(source, request, p, on_frame));
        self.finish(&request.stop, vec![source.name.clone()], progress, result)
    }

    /// The same, of a video that was looked at before: nothing is decoded.
    pub fn understand_again(&self, source: &Source, request: &Request, seen: &SeenVideo) -> Understood {
        let mut progress = Progress { recalled: true, ..Progress::default() };
        let result = timed_in(&mut progress, |p| self.again(source, request, seen, p));
        self.finish(&request.stop, vec![source.name.clone()], progress, result)
    }

    /// Answers about several media together, in the order in which the tasks' prompts place them.
    pub fn understand_together(
        &self,
        sources: &[Source],
        request: &Request,
        on_frame: OnFrame,
    ) -> Understood {
        let mut progress = Progress::default();
        let result = timed_in(&mut progress, |p| self.together(sources, request, p, on_frame));
        self.finish(&request.stop, sources.iter().map(|s| s.name.clone()).collect(), progress, result)
    }

    fn finish(
        &self,
        stop: &StopFlag,
        input: Vec<PathBuf>,
        progress: Progress,
        result: Result<(), UnderstandError>,
    ) -> Understood {
        let Progress { answers, videos, warnings, timing, seen, recalled, .. } = progress;
        // A child that was killed because nobody wants its frames is no crash of the video.
        let error = result.err().map(|e| match e {
            UnderstandError::Decoder(_) | UnderstandError::Model { .. } if stop.is_set() => {
                UnderstandError::Stopped { path: input.first().cloned().unwrap_or_default() }
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
        let model = self.model.about().clone();
        Understood {
            report: Report { schema: SCHEMA, input, outcome, model, videos, warnings, recalled, timing },
            error,
            seen,
        }
    }

    fn again(
        &self,
        source: &Source,
        request: &Request,
        seen: &SeenVideo,
        progress: &mut Progress,
    ) -> Result<(), UnderstandError> {
        progress.videos.push(seen.info.clone());
        progress.warnings.extend(seen.warnings.iter().map(|w| warning(source, w)));
        request.tally.expect((seen.windows.len() * request.tasks.len()) as u64);
        for window in &seen.windows {
            let medium = timed(&mut progress.timing.encode_s, || self.model.recall(window));
            let medium = medium.map_err(|e| model_error(source, e))?;
            self.ask_all(source, request, &[&medium], (window.start, window.end), progress)?;
        }
        Ok(())
    }

    fn windows(
        &self,
        source: &Source,
        request: &Request,
        progress: &mut Progress,
        on_frame: OnFrame,
    ) -> Result<(), UnderstandError> {
        let mut decoding = decoding();
        let frames = timed(&mut progress.timing.decode_s, || self.decode(source, request));
        let mut frames = frames.map_err(|e| broken(&decoding, e))?;
        progress.videos.push(frames.info().clone());
        let (start, end) = sampled_range(request, frames.info().duration);
        let length = request.window.unwrap_or(f64::MAX);
        let windows = ((end - start) / length).ceil().max(1.0);
        request.tally.expect(windows as u64 * request.tasks.len() as u64);
        let mut open = Window { start, end: start + length, frames: vec![] };
        let mut looked = false;
        while let Some(frame) = timed(&mut progress.timing.decode_s, || frames.next()) {
            let frame = frame.map_err(|e| broken(&decoding, e))?;
            request.tally.frame();
            show(source, &frame, on_frame)?;
            if frame.pts >= open.end {
                let passed = ((frame.pts - start) / length).floor();
                // The end of one is the beginning of the next, whatever rounding says.
                let begin = (start + passed * length).max(open.end);
                let next = Window { start: begin, end: begin + length, frames: vec![] };
                let full = std::mem::replace(&mut open, next);
                // What was decoded up to here is one span, its window's frames and the first of the next.
                drop(std::mem::replace(&mut decoding, Span::none()));
                looked |= self.answer_window(source, request, full.before(end), progress)?;
                decoding = self::decoding();
            }
            open.frames.push(timed(&mut progress.timing.decode_s, || self.model.prepare(&frame)));
            check_frames(source, &open.frames, request)?;
        }
        drop(decoding);
        looked |= self.answer_window(source, request, open.before(end), progress)?;
        record(&frames, source, progress);
        if !looked {
            return Err(UnderstandError::NoFrames { path: source.name.clone() });
        }
        let warnings = frames.summary().map(|summary| summary.warnings.clone()).unwrap_or_default();
        let windows = std::mem::take(&mut progress.windows);
        progress.seen = Some(SeenVideo { info: frames.info().clone(), warnings, windows });
        Ok(())
    }

    /// Says whether there was anything to look at.
    fn answer_window(
        &self,
        source: &Source,
        request: &Request,
        window: Window,
        progress: &mut Progress,
    ) -> Result<bool, UnderstandError> {
        if window.frames.is_empty() {
            return Ok(false);
        }
        let range = (window.start, window.end);
        let medium = self.look(source, request, window.frames, progress)?;
        progress.windows.push(SeenWindow {
            start: window.start,
            end: window.end,
            frame_times: medium.frame_times.clone(),
            tokens: VisualTokens::of(&medium).map_err(|e| model_error(source, e.into()))?,
        });
        self.ask_all(source, request, &[&medium], range, progress)?;
        Ok(true)
    }

    fn together(
        &self,
        sources: &[Source],
        request: &Request,
        progress: &mut Progress,
        on_frame: OnFrame,
    ) -> Result<(), UnderstandError> {
        request.tally.expect(request.tasks.len() as u64);
        let mut media = Vec::with_capacity(sources.len());
        let mut longest = 0f64;
        for source in sources {
            let decoding = decoding();
            let frames = timed(&mut progress.timing.decode_s, || self.decode(source, request));
            let mut frames = frames.map_err(|e| broken(&decoding, e))?;
            progress.videos.push(frames.info().clone());
            longest = longest.max(frames.info().duration);
            let mut prepared = Vec::new();
            while let Some(frame) = timed(&mut progress.timing.decode_s, || frames.next()) {
                let frame = frame.map_err(|e| broken(&decoding, e))?;
                request.tally.frame();
                show(source, &frame, on_frame)?;
                prepared.push(timed(&mut progress.timing.decode_s, || self.model.prepare(&frame)));
                check_frames(source, &prepared, request)?;
            }
            drop(decoding);
            record(&frames, source, progress);
            if prepared.is_empty() {
                return Err(UnderstandError::NoFrames { path: source.name.clone() });
            }
            media.push(self.look(source, request, prepared, progress)?);
        }
        let Some(first) = sources.first() else { return Ok(()) };
        let range = sampled_range(request, longest);
        self.ask_all(first, request, &media.iter().collect::<Vec<_>>(), range, progress)
    }

    fn decode(&self, source: &Source, request: &Request) -> Result<DecodedFrames, DecoderError> {
        let asked = DecodeRequest {
            name: source.name.clone(),
            sampling: request.sampling.clone(),
            limits: request.limits.clone(),
            process: request.process.clone(),
            stop: request.stop.clone(),
        };
        decode(&self.decoder, &source.file, asked)
    }

    fn look(
        &self,
        source: &Source,
        request: &Request,
        frames: Vec<Frame>,
        progress: &mut Progress,
    ) -> Result<Medium, UnderstandError> {
        timed(&mut progress.timing.encode_s, || self.model.look(frames, &request.turn()))
            .map_err(|e| model_error(source, e))
    }

    fn ask_all(
        &self,
        source: &Source,
        request: &Request,
        media: &[&Medium],
        (start, end): (f64, f64),
        progress: &mut Progress,
    ) -> Result<(), UnderstandError> {
        go_on(source, request)?;
        let answers = timed(&mut progress.timing.answer_s, || {
            self.model.ask(&request.tasks, media, &request.generation, &request.turn())
        });
        for (task, answer) in request.tasks.iter().zip(answers) {
            let answer = answer.map_err(|e| model_error(source, e))?;
            request.tally.answer(answer.completion_tokens);
            progress.answers.push(AnswerReport {
                question: match task {
                    Task::Question { question } => Some(question.clone()),
                    Task::Caption {} | Task::Complete { .. } => None,
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

/// The span of decoding, for as long as it is kept.
fn decoding() -> Span {
    info_span!("decode", "error.type" = Empty, otel.status_code = Empty)
}

/// Decoding has failed.
fn broken(decoding: &Span, error: DecoderError) -> DecoderError {
    decoding.record("error.type", error.code());
    decoding.record("otel.status_code", "ERROR");
    error
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

/// Whoever asked may want no answer any more.
fn go_on(source: &Source, request: &Request) -> Result<(), UnderstandError> {
    if request.stop.is_set() {
        return Err(UnderstandError::Stopped { path: source.name.clone() });
    }
    Ok(())
}

fn show(source: &Source, frame: &Frame, on_frame: OnFrame) -> Result<(), UnderstandError> {
    if on_frame(frame).is_break() {
        return Err(UnderstandError::Stopped { path: source.name.clone() });
    }
    Ok(())
}

fn record(frames: &DecodedFrames, source: &Source, progress: &mut Progress) {
    if let Some(summary) = frames.summary() {
        progress.warnings.extend(summary.warnings.iter().map(|w| warning(source, w)));
    }
}

fn warning(of: &Source, warning: &Warning) -> String {
    format!("{}: {warning}", of.name.display())
}

fn check_frames(source: &Source, frames: &[Frame], request: &Request) -> Result<(), UnderstandError> {
    if frames.len() <= request.max_frames {
        return Ok(());
    }
    Err(UnderstandError::TooManyFrames { path: source.name.clone(), allowed: request.max_frames })
}

fn model_error(of: &Source, source: ModelError) -> UnderstandError {
    UnderstandError::Model { path: of.name.clone(), source }
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
