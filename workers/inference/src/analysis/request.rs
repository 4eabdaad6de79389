//! The request: what to find out about a video.

use std::path::PathBuf;

use flamingo::Task;
use flamingo::generate::Generation;
use flamingo::video::FrameSampling;
use serde::{Deserialize, Serialize};

/// Seconds of a captioned window of a long video, if none are given: flamingo-mini was trained with up to eight frames.
const LONG_WINDOW: f64 = 8.0;

/// Tasks about a video, and how to sample and answer it. Part of the public contract: job and item messages contain its
/// fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnalysisSpec<T = Task> {
    /// Tasks for each video.
    pub tasks: Vec<T>,
    #[serde(default)]
    pub sampling: FrameSampling,
    /// Seconds of each of the consecutive windows with answers of their own; without it the whole video is one window. Of a long
    /// video, those of each captioned window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<f64>,
    /// Largest number of frames of one answer. Of a long video, each window may have as many, and its direct answer has evenly spread
    /// ones.
    #[serde(default = "default_max_frames")]
    pub max_frames: usize,
    #[serde(default)]
    pub generation: Generation,
    /// Whether each question is answered from the captions of all windows too, next to one answer over frames of the whole video.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub long: bool,
    /// Whether to compute the grounding of every answer about one medium, and how to treat a low one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounding: Option<GroundingSpec>,
}

/// Treatment of the grounding of an answer: its log-likelihood over the medium, minus that over frames of the mean colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroundingSpec {
    /// Least grounding in nats. An answer with less is withheld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<f64>,
}

fn default_max_frames() -> usize {
    64
}

impl Default for AnalysisSpec {
    /// Returns a caption of the whole video.
    fn default() -> Self {
        Self {
            tasks: vec![Task::Caption {}],
            sampling: FrameSampling::default(),
            window: None,
            max_frames: default_max_frames(),
            generation: Generation::default(),
            long: false,
            grounding: None,
        }
    }
}

impl<T> AnalysisSpec<T> {
    /// Returns the seconds of a window, if the video is cut into windows.
    pub fn window_length(&self) -> Option<f64> {
        self.window.or(self.long.then_some(LONG_WINDOW))
    }
}

impl AnalysisSpec {
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
