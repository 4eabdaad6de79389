//! Visual tokens of a video, off the device.

use candle_core::{DType, Tensor};
use flamingo::Error;
use flamingo::family::LoadOptions;
use flamingo::pipeline::Medium;
use flamingo::video::{VideoInfo, Warning};

/// A video as visual tokens, with the metadata that its report needs.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedVideo {
    pub info: VideoInfo,
    pub warnings: Vec<Warning>,
    pub windows: Vec<EncodedWindow>,
}

/// A window that was encoded as one medium; `start` and `end` are seconds of the video.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedWindow {
    pub start: f64,
    pub end: f64,
    pub frame_times: Vec<f64>,
    pub tokens: VisualTokens,
}

/// Visual tokens (q, d) in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct VisualTokens {
    pub shape: (usize, usize),
    pub values: Vec<f32>,
}

impl EncodedVideo {
    /// Returns the approximate size in bytes.
    pub fn bytes(&self) -> usize {
        let window = |w: &EncodedWindow| {
            4 * w.tokens.values.len() + 8 * w.frame_times.len() + size_of::<EncodedWindow>()
        };
        size_of::<Self>() + self.windows.iter().map(window).sum::<usize>()
    }
}

impl VisualTokens {
    /// Copies the visual tokens of a medium to the host.
    pub(crate) fn of(medium: &Medium) -> Result<Self, Error> {
        let tokens = &medium.visual_tokens;
        Ok(Self { shape: tokens.dims2()?, values: tokens.to_dtype(DType::F32)?.flatten_all()?.to_vec1()? })
    }

    /// Copies the tokens to the device of the model, in its dtype.
    pub(crate) fn tensor(&self, options: &LoadOptions) -> Result<Tensor, Error> {
        let tokens = Tensor::from_slice(&self.values, self.shape, &options.device)?;
        Ok(tokens.to_dtype(options.dtype)?)
    }
}
