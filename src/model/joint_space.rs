//! Joint space of images, videos and texts after contrastive training: search and the choice of examples find nearest
//! neighbours in it (Flamingo's first version, appendix B.1.3; CLIP, arXiv 2103.00020).

use candle_core::{D, Shape, Tensor};
use candle_nn::Init;

use super::config::JointSpaceConfig;
use crate::error::Result;
use crate::kernels::linear::Linear;
use crate::weights::Weights;

/// Largest scale of cosines: the temperature stays above 1/100, as in CLIP, because lower ones make the loss unstable. A
/// scale above it has no gradient.
const LARGEST_SCALE: f64 = 100.0;
/// Initial logarithm of the scale: ln(1 / 0.07), as in CLIP.
const FIRST_LOG_SCALE: f64 = 2.659_26;

/// Both joint spaces of a model: single frames (mean of their features) and whole videos (mean of their visual tokens).
#[derive(Debug, Clone)]
pub struct JointSpaces {
    /// Space of single frames.
    pub frames: JointSpace,
    /// Space of whole videos.
    pub videos: JointSpace,
}

impl JointSpaces {
    /// Takes the tensors of both spaces. `features_width` is the width of the vision encoder, `tokens_width` that of the
    /// resampler.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(
        config: &JointSpaceConfig,
        features_width: usize,
        tokens_width: usize,
        weights: &Weights,
    ) -> Result<Self> {
        Ok(Self {
            frames: JointSpace::new(config, features_width, weights.pp("frames"))?,
            videos: JointSpace::new(config, tokens_width, weights.pp("videos"))?,
        })
    }
}

/// A linear map from each side into one space, and the temperature of their similarities.
#[derive(Debug, Clone)]
pub struct JointSpace {
    media: Linear,
    text: Linear,
    log_scale: Tensor,
}

impl JointSpace {
    fn new(config: &JointSpaceConfig, media_width: usize, weights: Weights) -> Result<Self> {
        Ok(Self {
            media: Linear::new(media_width, config.width, weights.pp("media"))?,
            text: Linear::new(config.text_width, config.width, weights.pp("text"))?,
            log_scale: weights.get(Shape::from(1), "log_scale", Init::Const(FIRST_LOG_SCALE))?,
        })
    }

    /// Maps mean features of frames or mean visual tokens of videos (n, d) to unit vectors (n, width).
    ///
    /// # Errors
    /// The input has another width.
    pub fn of_media(&self, pooled: &Tensor) -> Result<Tensor> {
        unit(&self.media.forward(pooled)?)
    }

    /// Maps mean states of the text tower (n, d) to unit vectors (n, width).
    ///
    /// # Errors
    /// The input has another width.
    pub fn of_text(&self, pooled: &Tensor) -> Result<Tensor> {
        unit(&self.text.forward(pooled)?)
    }

    /// Returns the factor that multiplies cosines before a softmax: (1).
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn scale(&self) -> Result<Tensor> {
        Ok(self.log_scale.exp()?.minimum(LARGEST_SCALE)?)
    }
}

fn unit(x: &Tensor) -> Result<Tensor> {
    let norm = (x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?;
    Ok(x.broadcast_div(&norm)?)
}
