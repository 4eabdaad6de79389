//! Connector: visual features of a medium -> its visual tokens.

use candle_core::Tensor;

use super::config::ConnectorConfig;
use super::resampler::PerceiverResampler;
use crate::error::Result;
use crate::kernels::linear::Linear;
use crate::weights::Weights;

/// Map from the features of a medium to its visual tokens.
#[derive(Debug, Clone)]
pub enum Connector {
    /// A Perceiver resampler.
    Resampler(PerceiverResampler),
    /// A linear projection of every feature.
    Projector(Linear),
    /// None: the features of all frames are the visual tokens.
    Identity,
}

impl Connector {
    /// Takes the tensors `resampler.*` or `projector.*`. `features_width` is the width of the vision encoder's features.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &ConnectorConfig, features_width: usize, weights: &Weights) -> Result<Self> {
        Ok(match config {
            ConnectorConfig::Resampler(config) => {
                let weights = weights.dense().pp("resampler");
                Self::Resampler(PerceiverResampler::new(config, features_width, weights)?)
            }
            ConnectorConfig::Projector(config) => {
                let weights = weights.dense().pp("projector");
                Self::Projector(Linear::load(features_width, config.width, config.bias, weights)?)
            }
            ConnectorConfig::Identity => Self::Identity,
        })
    }

    /// Tells whether the frames of a medium become one sequence of visual tokens. Without a temporal embedding, each frame has
    /// visual tokens of its own.
    pub fn has_temporal_embedding(&self) -> bool {
        matches!(self, Self::Resampler(resampler) if resampler.has_temporal_embedding())
    }

    /// Maps the features of all media, concatenated along the frames (sum of `lengths`, s, d), to the visual tokens of each
    /// medium (q, d).
    ///
    /// # Errors
    /// As [`PerceiverResampler::forward`].
    pub fn forward(&self, features: &Tensor, lengths: &[usize]) -> Result<Vec<Tensor>> {
        match self {
            Self::Resampler(resampler) if resampler.has_temporal_embedding() => {
                resample(resampler, features, lengths)
            }
            Self::Resampler(resampler) => {
                let frames = features.dim(0)?;
                let tokens = resampler.forward(&features.unsqueeze(1)?, &vec![1; frames])?; // (frames, q, d)
                flatten(&tokens, lengths)
            }
            Self::Projector(projector) => flatten(&projector.forward(features)?, lengths),
            Self::Identity => flatten(features, lengths),
        }
    }
}

/// Resamples all media in one pass, padded to the longest.
fn resample(resampler: &PerceiverResampler, features: &Tensor, lengths: &[usize]) -> Result<Vec<Tensor>> {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let pad = |(medium, n): (Tensor, &usize)| Ok(medium.pad_with_zeros(0, 0, longest - n)?);
    let padded = split(features, lengths)?.into_iter().zip(lengths).map(pad).collect::<Result<Vec<_>>>()?;
    let tokens = resampler.forward(&Tensor::stack(&padded, 0)?, lengths)?; // (m, q, d)
    (0..lengths.len()).map(|i| Ok(tokens.get(i)?)).collect()
}

/// Takes the features, or the visual tokens, of each medium's frames as its visual tokens (t * s, d).
fn flatten(features: &Tensor, lengths: &[usize]) -> Result<Vec<Tensor>> {
    split(features, lengths)?.iter().map(|medium| Ok(medium.flatten(0, 1)?)).collect()
}

/// Splits the frames of all media (sum of `lengths`, s, d) into those of each (t, s, d).
fn split(frames: &Tensor, lengths: &[usize]) -> Result<Vec<Tensor>> {
    let mut start = 0;
    let medium = |&n: &usize| {
        start += n;
        Ok(frames.narrow(0, start - n, n)?)
    };
    lengths.iter().map(medium).collect()
}
