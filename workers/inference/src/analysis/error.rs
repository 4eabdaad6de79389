//! Errors of an analysis.

use std::path::PathBuf;

use super::Source;
use crate::decoder::DecoderError;
use crate::model::ModelError;

/// Error that left a video without (all of) its answers.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    #[error("{}: {source}", path.display())]
    Model { path: PathBuf, source: ModelError },
    #[error("{}: more frames than the {allowed} that one answer may use", path.display())]
    TooManyFrames { path: PathBuf, allowed: usize },
    #[error("{}: no frame lies in the sampled range", path.display())]
    NoFrames { path: PathBuf },
    #[error("{}: cancelled before it was complete", path.display())]
    Cancelled { path: PathBuf },
}

impl AnalysisError {
    /// Returns the stable code of this error, part of the public contract.
    pub fn code(&self) -> &str {
        match self {
            AnalysisError::Decoder(e) => e.code(),
            AnalysisError::Model { source, .. } => source.code(),
            AnalysisError::TooManyFrames { .. } => "limit_frames",
            AnalysisError::NoFrames { .. } => "no_frames",
            AnalysisError::Cancelled { .. } => "stopped",
        }
    }

    pub(super) fn model(of: &Source, source: ModelError) -> Self {
        AnalysisError::Model { path: of.name.clone(), source }
    }
}
