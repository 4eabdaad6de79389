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
    /// The windows; of a long video, the whole video last.
    pub windows: Vec<EncodedWindow>,
}

/// A window that was encoded as one medium; `start` and `end` are seconds of the video.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedWindow {
    pub start: f64,
    pub end: f64,
    pub frame_times: Vec<f64>,
    pub tokens: VisualTokens,
    /// Mean of the vision features over patches and frames (d), which finds similar media.
    pub features: Vec<f32>,
    /// Number of first visual tokens that are visible ([`Medium::visible`]).
    pub visible: Option<usize>,
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
            4 * (w.tokens.values.len() + w.features.len())
                + 8 * w.frame_times.len()
                + size_of::<EncodedWindow>()
        };
        size_of::<Self>() + self.windows.iter().map(window).sum::<usize>()
    }
}

impl EncodedWindow {
    /// Copies a medium to the host; `start` and `end` are seconds of the video.
    pub(crate) fn of(medium: &Medium, (start, end): (f64, f64)) -> Result<Self, Error> {
        Ok(Self {
            start,
            end,
            frame_times: medium.frame_times.clone(),
            tokens: VisualTokens::of(medium)?,
            features: features(medium)?,
            visible: medium.visible,
        })
    }

    /// Copies a medium back to the device of the model.
    pub(crate) fn medium(&self, options: &LoadOptions) -> Result<Medium, Error> {
        let mut medium = Medium::new(self.tokens.tensor(options)?, self.frame_times.clone());
        medium.visible = self.visible;
        medium.features = Some(Tensor::from_slice(&self.features, self.features.len(), &options.device)?);
        Ok(medium)
    }
}

/// Copies the vision features (d) of a medium to the host.
pub(crate) fn features(medium: &Medium) -> Result<Vec<f32>, Error> {
    let features = medium.features.as_ref();
    let features = features.ok_or_else(|| Error::Prompt("a medium has no vision features".into()))?;
    Ok(features.to_dtype(DType::F32)?.to_vec1()?)
}

impl VisualTokens {
    /// Copies the visual tokens of a medium to the host.
    fn of(medium: &Medium) -> Result<Self, Error> {
        let tokens = &medium.visual_tokens;
        Ok(Self { shape: tokens.dims2()?, values: tokens.to_dtype(DType::F32)?.flatten_all()?.to_vec1()? })
    }

    /// Copies the tokens to the device of the model, in its dtype.
    fn tensor(&self, options: &LoadOptions) -> Result<Tensor, Error> {
        let tokens = Tensor::from_slice(&self.values, self.shape, &options.device)?;
        Ok(tokens.to_dtype(options.dtype)?)
    }
}
