//! Perceiver resampler: any number of frames in, a fixed number of visual tokens out (paper section 3.1.1).

use candle_core::Tensor;
use candle_nn::Init;

use super::config::ResamplerConfig;
use super::feed_forward::FeedForward;
use super::kv_projection::KvProjection;
use crate::error::{Error, Result};
use crate::kernels::attention::attention;
use crate::kernels::linear::Linear;
use crate::kernels::mask::additive_mask;
use crate::kernels::norm::{LayerNorm, Norm};
use crate::weights::Weights;

const NORM_EPS: f32 = 1e-5;

/// Perceiver resampler: learned latents attend, layer after layer, to the features of all frames and to themselves.
#[derive(Debug, Clone)]
pub struct PerceiverResampler {
    projection: Option<Linear>,
    temporal_embedding: Option<Tensor>,
    latents: Tensor,
    layers: Vec<(PerceiverAttention, FeedForward)>,
    norm: LayerNorm,
}

impl PerceiverResampler {
    /// Takes the tensors of the resampler. `features_width` is the width of the vision encoder's features.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &ResamplerConfig, features_width: usize, weights: Weights) -> Result<Self> {
        let d = config.width;
        let projection = match features_width {
            same if same == d => None,
            other => Some(Linear::new(other, d, weights.pp("projection"))?),
        };
        let normal = Init::Randn { mean: 0.0, stdev: 1.0 };
        let temporal_embedding = match config.frames {
            0 => None,
            frames => Some(weights.get((frames, d), "temporal_embedding", normal)?),
        };
        let latents = weights.get((config.latents, d), "latents", normal)?;
        let layer = |i: usize| {
            let w = weights.pp("layers").pp(i);
            let feed_forward = FeedForward::new(d, &config.feed_forward(), w.pp("feed_forward"))?;
            Ok((PerceiverAttention::new(config, w.pp("attention"))?, feed_forward))
        };
        let layers = (0..config.depth).map(layer).collect::<Result<_>>()?;
        let norm = LayerNorm::new(d, NORM_EPS, weights.pp("norm"))?;
        Ok(Self { projection, temporal_embedding, latents, layers, norm })
    }

    /// Resamples the features of `m` media (m, t, s, d). Returns the visual tokens (m, q, d).
    ///
    /// `lengths[i]` is the number of real frames of medium i; frames beyond are padding, and no latent attends to them.
    ///
    /// # Errors
    /// A length of 0 or beyond t, or more than one frame for a model without temporal embedding.
    pub fn forward(&self, features: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (m, t, s, _) = features.dims4()?;
        if lengths.len() != m || lengths.iter().any(|&n| n == 0 || n > t) {
            return Err(Error::Prompt(format!(
                "lengths {lengths:?} do not fit {m} media of up to {t} frames"
            )));
        }
        let x = match &self.projection {
            Some(projection) => projection.forward(features)?,
            None => features.clone(),
        };
        let x = self.add_temporal_embedding(&x, lengths)?;
        let d = x.dim(3)?;
        let x = x.reshape((m, t * s, d))?; // (m, t * s, d)
        let q = self.latents.dim(0)?;
        let mask = padding_mask(lengths, t, s, q, &x)?;
        let mut latents = self.latents.unsqueeze(0)?.broadcast_as((m, q, d))?.contiguous()?;
        for (attention, feed_forward) in &self.layers {
            latents = (&latents + attention.forward(&x, &latents, mask.as_ref())?)?;
            latents = (&latents + feed_forward.forward(&latents)?)?;
        }
        self.norm.forward(&latents)
    }

    /// Adds the temporal embedding to every frame, interpolated for media longer than the model was trained on.
    fn add_temporal_embedding(&self, x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let t = x.dim(1)?;
        let Some(embedding) = &self.temporal_embedding else {
            if t == 1 {
                return Ok(x.clone());
            }
            return Err(Error::Prompt(format!(
                "{t} frames in one medium, but the model has no temporal embedding"
            )));
        };
        let trained = embedding.dim(0)?;
        if lengths.iter().all(|&n| n <= trained) {
            // One embedding serves all media: padded frames beyond the trained ones get zeros.
            let embedding =
                embedding.narrow(0, 0, t.min(trained))?.pad_with_zeros(0, 0, t.saturating_sub(trained))?;
            return Ok(x.broadcast_add(&embedding.unsqueeze(1)?)?);
        }
        let each = lengths
            .iter()
            .map(|&n| Ok(interpolate(embedding, n)?.pad_with_zeros(0, 0, t - n)?))
            .collect::<Result<Vec<_>>>()?;
        Ok(x.broadcast_add(&Tensor::stack(&each, 0)?.unsqueeze(2)?)?) // (m, t, 1, d)
    }
}

/// Returns the temporal embedding (trained, d) for `n` frames (n, d): its first rows if there are enough, else a linear
/// interpolation with the first and the last trained row at the ends.
///
/// The paper interpolates 8 to 30 frames (section 4.1.4) without saying where the ends fall; pinning them keeps every
/// position inside the trained range.
fn interpolate(embedding: &Tensor, n: usize) -> Result<Tensor> {
    let trained = embedding.dim(0)?;
    if n <= trained {
        return Ok(embedding.narrow(0, 0, n)?);
    }
    let mut weights = vec![0f32; n * trained];
    for i in 0..n {
        let position = i as f64 * (trained - 1) as f64 / (n - 1) as f64;
        let below = (position.floor() as usize).min(trained - 1);
        let fraction = (position - below as f64) as f32;
        weights[i * trained + below] += 1.0 - fraction;
        if fraction > 0.0 {
            weights[i * trained + below + 1] += fraction;
        }
    }
    let weights = Tensor::from_vec(weights, (n, trained), embedding.device())?.to_dtype(embedding.dtype())?;
    Ok(weights.matmul(embedding)?)
}

/// Returns a mask with 0 at real keys and minus infinity at those of padded frames (m, 1, 1, t * s + q), or `None` if all
/// are real.
fn padding_mask(lengths: &[usize], t: usize, s: usize, q: usize, like: &Tensor) -> Result<Option<Tensor>> {
    if lengths.iter().all(|&n| n == t) {
        return Ok(None);
    }
    let attends = |i: usize, j: usize| j < lengths[i] * s || j >= t * s;
    let mask = additive_mask((lengths.len(), t * s + q), attends, like.device(), like.dtype())?;
    Ok(Some(mask.unsqueeze(1)?.unsqueeze(1)?))
}

#[derive(Debug, Clone)]
struct PerceiverAttention {
    heads: usize,
    norm_media: LayerNorm,
    norm_latents: LayerNorm,
    to_q: Linear,
    kv_projection: KvProjection,
    to_out: Linear,
    /// Normalisation of queries and keys, over the width of one head.
    qk_norm: Option<(Norm, Norm)>,
}

impl PerceiverAttention {
    fn new(config: &ResamplerConfig, weights: Weights) -> Result<Self> {
        let (d, inner) = (config.width, config.heads * config.head_width);
        let norm = |kind, name: &str| Norm::new(kind, config.head_width, NORM_EPS, weights.pp(name));
        let qk_norm = match config.qk_norm {
            Some(kind) => Some((norm(kind, "q_norm")?, norm(kind, "k_norm")?)),
            None => None,
        };
        Ok(Self {
            heads: config.heads,
            norm_media: LayerNorm::new(d, NORM_EPS, weights.pp("norm_media"))?,
            norm_latents: LayerNorm::new(d, NORM_EPS, weights.pp("norm_latents"))?,
            to_q: Linear::new(d, inner, weights.pp("to_q"))?,
            kv_projection: KvProjection::new(config.kv_projection, d, inner, false, &weights)?,
            to_out: Linear::new(inner, d, weights.pp("to_out"))?,
            qk_norm,
        })
    }

    /// x (m, l, d), latents (m, q, d), mask (m, 1, 1, l + q) -> (m, q, d).
    fn forward(&self, x: &Tensor, latents: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let latents = self.norm_latents.forward(latents)?;
        let keys_from = Tensor::cat(&[&self.norm_media.forward(x)?, &latents], 1)?; // (m, l + q, d)
        let (keys, values) = self.kv_projection.forward(&keys_from)?;
        let mut q = self.fold_heads(&self.to_q.forward(&latents)?)?; // (m * h, q, d)
        let mut keys = self.fold_heads(&keys)?;
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            (q, keys) = (q_norm.forward(&q)?, k_norm.forward(&keys)?);
        }
        let pieces = [(keys, self.fold_heads(&values)?)];
        let (m, l, h) = (x.dim(0)?, keys_from.dim(1)?, self.heads);
        let mask = mask.map(|mask| mask.broadcast_as((m, h, 1, l))?.reshape((m * h, 1, l))).transpose()?;
        let scale = (q.dim(2)? as f64).powf(-0.5);
        let out = attention(&q, &pieces, scale, mask.as_ref())?;
        self.to_out.forward(&self.unfold_heads(&out, m)?)
    }

    /// (m, n, h * d) -> (m * h, n, d).
    fn fold_heads(&self, x: &Tensor) -> Result<Tensor> {
        let (m, n, width) = x.dims3()?;
        let d = width / self.heads;
        Ok(x.reshape((m, n, self.heads, d))?.transpose(1, 2)?.reshape((m * self.heads, n, d))?)
    }

    /// (m * h, n, d) -> (m, n, h * d).
    fn unfold_heads(&self, x: &Tensor, m: usize) -> Result<Tensor> {
        let (_, n, d) = x.dims3()?;
        Ok(x.reshape((m, self.heads, n, d))?.transpose(1, 2)?.reshape((m, n, self.heads * d))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn rows(t: &Tensor) -> Vec<Vec<f32>> {
        t.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn interpolation_keeps_trained_rows_and_both_ends() {
        let e = Tensor::new(&[[0f32, 10.0], [1.0, 20.0], [4.0, 0.0]], &Device::Cpu).unwrap();
        for (n, expected) in [
            (1, vec![vec![0.0, 10.0]]),
            (3, vec![vec![0.0, 10.0], vec![1.0, 20.0], vec![4.0, 0.0]]),
            (5, vec![vec![0.0, 10.0], vec![0.5, 15.0], vec![1.0, 20.0], vec![2.5, 10.0], vec![4.0, 0.0]]),
        ] {
            assert_eq!(rows(&interpolate(&e, n).unwrap()), expected, "{n} frames");
        }
    }
}
