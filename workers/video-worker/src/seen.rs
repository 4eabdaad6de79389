//! What a model has seen of a video.

use candle_core::{DType, Tensor};
use flamingo::Error;
use flamingo::family::LoadOptions;
use flamingo::pipeline::Medium;
use flamingo::video::{VideoInfo, Warning};

/// A video as the model has seen it: all that further questions need.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenVideo {
    pub info: VideoInfo,
    pub warnings: Vec<Warning>,
    pub windows: Vec<SeenWindow>,
}

/// Frames that were looked at together; seconds of the video.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenWindow {
    pub start: f64,
    pub end: f64,
    pub frame_times: Vec<f64>,
    pub tokens: VisualTokens,
}

/// Visual tokens (q, d), off the device.
#[derive(Debug, Clone, PartialEq)]
pub struct VisualTokens {
    pub shape: (usize, usize),
    pub values: Vec<f32>,
}

impl SeenVideo {
    /// Memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let window =
            |w: &SeenWindow| 4 * w.tokens.values.len() + 8 * w.frame_times.len() + size_of::<SeenWindow>();
        size_of::<Self>() + self.windows.iter().map(window).sum::<usize>()
    }
}

impl VisualTokens {
    pub(crate) fn of(medium: &Medium) -> Result<Self, Error> {
        let tokens = &medium.visual_tokens;
        Ok(Self { shape: tokens.dims2()?, values: tokens.to_dtype(DType::F32)?.flatten_all()?.to_vec1()? })
    }

    /// On a device, as this model counts.
    pub(crate) fn tensor(&self, options: &LoadOptions) -> Result<Tensor, Error> {
        let tokens = Tensor::from_slice(&self.values, self.shape, &options.device)?;
        Ok(tokens.to_dtype(options.dtype)?)
    }
}
