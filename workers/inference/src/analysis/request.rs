//! The request: what to find out about a video, and the frames and windows that follow from it.

use std::path::PathBuf;

use flamingo::Task;
use flamingo::generate::Generation;
use flamingo::video::{FrameSampling, VideoLimits};

use crate::decoder::{ProcessLimits, StopFlag};
use crate::model::RequestContext;
use crate::progress::ProgressCounter;

/// Tasks, sampling and limits of an analysis, for any number of videos.
#[derive(Debug, Clone, PartialEq)]
pub struct AnalysisRequest {
    pub tasks: Vec<Task>,
    pub sampling: FrameSampling,
    /// Seconds of each of the consecutive windows that the video is cut into, each with its own answers.
    pub window: Option<f64>,
    /// Largest number of frames of one medium.
    pub max_frames: usize,
    pub generation: Generation,
    pub limits: VideoLimits,
    pub process: ProcessLimits,
    /// Job id; the engine's queue is fair between jobs.
    pub job: String,
    /// Whether the job is urgent.
    pub urgent: bool,
    /// Cancellation flag, checked between any two steps.
    pub stop: StopFlag,
    /// Counts frames and answers.
    pub progress: ProgressCounter,
}

impl AnalysisRequest {
    pub(super) fn context(&self) -> RequestContext {
        RequestContext { job: self.job.clone(), urgent: self.urgent, stop: self.stop.clone() }
    }

    /// Returns start and end of the sampled range of a video of `duration` seconds.
    pub(super) fn sampled_range(&self, duration: f64) -> (f64, f64) {
        let (start, end) = self.sampling.range();
        (start, end.unwrap_or(duration).min(duration))
    }
}

/// A video or image: the path of its bytes, and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub file: PathBuf,
    /// The name in reports and errors.
    pub name: PathBuf,
}

impl Source {
    /// Returns the source of a file that is named by its path.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        let file = path.into();
        Self { name: file.clone(), file }
    }
}
